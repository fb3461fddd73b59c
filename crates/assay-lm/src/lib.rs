//! Decoder-only language models: configuration, weights, tokenizer, chat template, transformer, adapters, sampling.

mod config;
mod error;
mod source;
mod template;
mod tokenizer;
mod weights;

pub use config::{
    Architecture, ModelConfig, RopeScaling, RopeSettings, SUPPORTED_ARCHITECTURES,
};
pub use error::LmError;
pub use source::ModelSource;
pub use template::{ChatTemplate, GenerationPrompt, TemplateDate};
pub use tokenizer::{ControlTokens, Tokenizer};
pub use weights::{GgufFile, Weights};
