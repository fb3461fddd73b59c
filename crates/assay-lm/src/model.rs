//! A model as people name it: transformer, tokenizer, chat template and end-of-turn token from one path.

use std::path::Path;
use std::sync::Arc;

use assay_tasks::message::Message;

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
    /// The path it was opened by, as adapters record it.
    pub name: String,
}

/// How quantised matrices are kept in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// As in the file: least memory, expanded in every pass.
    AsStored,
    /// Expanded once, to f32 on a CPU: fastest.
    #[default]
    Expanded,
}

impl LanguageModel {
    /// Opens a Hugging Face directory or a `.gguf` file and brings its weights to their place.
    ///
    /// # Errors
    /// Names the file and the thing that is missing, malformed or not supported.
    pub fn open(path: &Path, storage: Storage, placement: &Placement) -> Result<Self, LmError> {
        let source = ModelSource::open(path)?;
        let mut transformer = Transformer::load(&source.config()?, &source.weights()?, placement)?;
        if storage == Storage::Expanded {
            transformer = transformer.in_panels()?;
        }
        let tokenizer = source.tokenizer()?;
        let template = source.template(&tokenizer)?;
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

    /// The rendered chat prompt of some messages, ready for a completion.
    ///
    /// # Errors
    /// The template fails.
    pub fn prompt_ids(&self, messages: &[Message]) -> Result<Vec<u32>, LmError> {
        self.template.prompt_ids(&self.tokenizer, messages)
    }

    /// The rendered prompt of a conversation with variables, ready for a completion.
    ///
    /// # Errors
    /// The template fails.
    pub fn conversation_ids(&self, conversation: Conversation<'_>) -> Result<Vec<u32>, LmError> {
        self.template
            .conversation_ids(&self.tokenizer, conversation)
    }

    /// A completion's text and the byte range of each token; the end-of-turn token is empty at the end.
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
