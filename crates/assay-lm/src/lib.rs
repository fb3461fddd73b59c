//! Decoder-only language models: configuration, weights, tokenizer, chat template, transformer, adapters, sampling.

pub mod adapter;
mod config;
pub mod directory;
pub mod draw;
mod error;
mod files;
pub mod gradients;
pub mod hub;
mod model;
pub mod packed;
pub mod peft;
mod placement;
pub mod sampling;
mod save;
mod source;
mod template;
mod tokenizer;
pub mod transformer;
mod weights;

pub use config::{Architecture, ModelConfig, RopeScaling, RopeSettings, SUPPORTED_ARCHITECTURES};
pub use error::LmError;
pub use model::{LanguageModel, Storage};
pub use packed::PackedBatch;
pub use placement::{DeviceName, Placement, PlacementSettings, Precision};
pub use save::save_tensors;
pub use source::ModelSource;
pub use template::{ChatTemplate, Conversation, GenerationPrompt, TemplateDate};
pub use tokenizer::{ByteSpans, ControlTokens, Tokenizer};
pub use weights::{GgufFile, Weights};
