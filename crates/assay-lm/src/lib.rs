//! Decoder-only language models: configuration, weights, tokenizer, chat template, transformer,
//! adapters and sampling.
//!
//! A model is a Hugging Face directory or a `.gguf` file. [`LanguageModel::open`] reads all of it;
//! [`ModelSource`] reads it part by part. One table of tensors defines the supported families,
//! which [`Architecture`] lists; the loader, the writer, the map of GGUF names and the random model
//! use it. An unsupported feature is an error that names the file and the setting, never a wrong
//! number.
//!
//! Every forward pass runs on a [`PackedBatch`]: groups of completions that share a prompt, without
//! padding. [`peft`] reads and writes LoRA adapters in PEFT's format, [`directory`] writes models,
//! [`hub`] fetches them. Losses, rewards and training are in other crates.
//!
//! # Example
//!
//! A random model of the Llama family completes a prompt:
//!
//! ```
//! use assay_lm::{
//!     Architecture, LayerPattern, ModelConfig, RopeScaling, RopeSettings, SampleRequest,
//!     SamplingLimits, DrawSettings, Tokenizer, Transformer, sample,
//! };
//! use assay_tasks::random::Stream;
//!
//! let tokenizer = Tokenizer::from_vocabulary(&["1", "2", "+", "=", "<|end|>"])?;
//! let config = ModelConfig {
//!     architecture: Architecture::Llama,
//!     vocab_size: tokenizer.vocab_size(),
//!     hidden_size: 16,
//!     intermediate_size: 32,
//!     layers: 2,
//!     heads: 2,
//!     kv_heads: 1,
//!     head_dim: 8,
//!     rms_norm_eps: 1e-5,
//!     rope: RopeSettings { theta: 10_000.0, scaling: RopeScaling::None },
//!     max_positions: 32,
//!     pattern: LayerPattern::default(),
//!     qkv_bias: false,
//!     tie_word_embeddings: true,
//!     bos_token_id: None,
//!     eos_token_ids: vec![4],
//! };
//! let (model, _) = Transformer::random(&config, 7)?;
//!
//! let request = SampleRequest {
//!     prompt: tokenizer.encode("1+1=")?,
//!     streams: vec![Stream::new(7, &[0]), Stream::new(7, &[1])],
//!     max_new_tokens: None,
//!     not_first: None,
//! };
//! let limits = SamplingLimits { max_new_tokens: 8, stop_tokens: vec![4], max_sequences: 2 };
//! let settings = DrawSettings::default();
//! let drawn = sample(&model, None, &[request], &settings, &limits, |_| ())?;
//! assert_eq!(drawn[0].len(), 2);
//! assert!(drawn[0].iter().all(|completion| completion.token_ids.len() <= 8));
//! # Ok::<(), assay_lm::LmError>(())
//! ```

pub mod adapter;
mod config;
pub mod directory;
pub mod draw;
mod error;
mod family;
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

pub use adapter::{Adapter, AdapterCard, LayerAdapter, LoraPair, LoraSettings, Projection};
pub use config::{LayerPattern, MatrixShape, ModelConfig, RopeScaling, RopeSettings};
pub use draw::{DrawSettings, Drawn, draw, draw_rows, draw_tensor};
pub use error::LmError;
pub use family::Architecture;
pub use gradients::{Gradients, Tape};
pub use model::{LanguageModel, Storage};
pub use packed::{
    CompletionSpan, Group, MicroBatch, PackedBatch, RowLimits, micro_batches, whole_group_batches,
};
pub use placement::{DeviceName, Placement, PlacementSettings, Precision};
pub use sampling::{Completion, SampleRequest, SamplingLimits, sample, sample_while};
pub use save::save_tensors;
pub use source::ModelSource;
pub use template::{ChatTemplate, Conversation, GenerationPrompt, TemplateDate};
pub use tokenizer::{ByteSpans, ControlTokens, Tokenizer};
pub use transformer::{PromptCache, Transformer};
pub use weights::{GgufFile, Weights};
