//! A whole model from one path: transformer, tokenizer, chat template and end-of-turn token.

use std::path::Path;
use std::sync::Arc;

use assay_tasks::message::Message;
use assay_tasks::prompts::Template;

use crate::directory::WeightType;
use crate::template::Conversation;
use crate::transformer::Transformer;
use crate::{ChatTemplate, ControlTokens, LmError, ModelSource, Placement, Tokenizer};

/// A loaded language model.
pub struct LanguageModel {
    /// The frozen base.
    pub transformer: Arc<Transformer>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template.
    pub template: ChatTemplate,
    /// The path it was opened with, which adapters store.
    pub name: String,
}

/// How quantised matrices are stored in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// As blocks, as in the file. This needs the least memory but expands them in every pass.
    AsStored,
    /// Expanded once to the type of the placement: fastest.
    #[default]
    Expanded,
}

impl LanguageModel {
    /// Opens a Hugging Face directory or a `.gguf` file and loads its weights onto a device.
    ///
    /// A base model without a chat template opens too; rendering a prompt for it fails until the
    /// plain template is chosen.
    ///
    /// # Errors
    /// Names the file and the part of it that is missing, malformed or not supported.
    pub fn open(path: &Path, storage: Storage, placement: &Placement) -> Result<Self, LmError> {
        let source = ModelSource::open(path)?;
        let mut transformer = Transformer::load(&source.config()?, &source.weights()?, placement)?;
        if storage == Storage::Expanded {
            transformer = transformer.in_panels(placement.dtype)?;
        }
        let tokenizer = source.tokenizer()?;
        let template = match source.template(&tokenizer) {
            Err(LmError::NoTemplate { path }) => ChatTemplate::absent(&path, &tokenizer)?,
            template => template?,
        };
        let name = path.display().to_string();
        Ok(Self {
            transformer: Arc::new(transformer),
            tokenizer,
            template,
            name,
        })
    }

    /// The token that ends a completion.
    pub fn end_of_turn(&self) -> u32 {
        self.template.end_of_turn()
    }

    /// The token ids of the rendered chat prompt of messages.
    ///
    /// # Errors
    /// The template fails.
    pub fn prompt_ids(&self, messages: &[Message]) -> Result<Vec<u32>, LmError> {
        self.template.prompt_ids(&self.tokenizer, messages)
    }

    /// The token ids of the rendered prompt of a conversation with variables.
    ///
    /// # Errors
    /// The template fails.
    pub fn conversation_ids(&self, conversation: Conversation<'_>) -> Result<Vec<u32>, LmError> {
        self.template
            .conversation_ids(&self.tokenizer, conversation)
    }

    /// As [`LanguageModel::prompt_ids`], with the model's own template or the plain one of base
    /// models.
    ///
    /// # Errors
    /// The template fails; the model has none; the tokenizer names no token that ends a text.
    pub fn prompt_ids_by(
        &self,
        template: Template,
        messages: &[Message],
    ) -> Result<Vec<u32>, LmError> {
        match template {
            Template::Own => self.prompt_ids(messages),
            Template::Plain => {
                ChatTemplate::plain(&self.tokenizer)?.prompt_ids(&self.tokenizer, messages)
            }
        }
    }

    /// A completion's text and the byte range of each token; the end-of-turn token is empty at the
    /// end.
    pub fn decode(&self, ids: &[u32]) -> (String, Vec<(usize, usize)>) {
        self.tokenizer.decode_with_offsets(ids, ControlTokens::Skip)
    }

    /// Writes the model as a Hugging Face directory, see [`crate::directory::save`].
    ///
    /// # Errors
    /// Names the file that could not be written.
    pub fn save(&self, dir: &Path) -> Result<(), LmError> {
        crate::directory::save(self, dir, WeightType::F32)
    }
}
