//! A model as people name it: transformer, tokenizer, chat template and end-of-turn token from one path.

use std::path::Path;
use std::sync::Arc;

use assay_tasks::message::Message;

use crate::template::{ChatTemplate, GenerationPrompt};
use crate::tokenizer::Tokenizer;
use crate::transformer::Transformer;
use crate::weights::Weights;
use crate::{LmError, ModelConfig};

/// A loaded language model.
pub struct LanguageModel {
    /// The frozen base.
    pub transformer: Arc<Transformer>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template.
    pub template: ChatTemplate,
    /// The token that ends a completion.
    pub end_of_turn: u32,
    /// The path or name it was opened by, as adapters record it.
    pub name: String,
}
