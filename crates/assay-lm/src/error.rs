//! The error type of this crate. Errors name the operation, the file and the invalid part of it.

use std::error::Error as StdError;
use std::path::PathBuf;

use thiserror::Error;

/// Why a model could not be read, built, run or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LmError {
    /// A device that cannot be used.
    #[error("device {name}: {reason}")]
    Device {
        /// The device's name in the settings.
        name: crate::placement::DeviceName,
        /// What is wrong, and how to fix it.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{action} {} failed", path.display())]
    Io {
        /// The operation that failed, for example `"reading"`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file is the pointer that Git leaves in place of a large file.
    #[error(
        "{} is a Git LFS pointer, not the file itself: run `git lfs pull` in its directory, or download the file from the hub",
        path.display()
    )]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// A file has invalid JSON.
    #[error("{} is not a valid {what}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The expected contents of the file.
        what: &'static str,
        /// The parser's reason, with line and column.
        source: serde_json::Error,
    },
    /// A path names neither a model directory nor a `.gguf` file.
    #[error("{} is not a model: {reason}", path.display())]
    NotAModel {
        /// The path as given.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// This crate does not support the model's architecture.
    #[error("{}: architecture {name:?} is not supported; supported are {supported}", path.display())]
    UnsupportedArchitecture {
        /// The file that names it.
        path: PathBuf,
        /// The name found there.
        name: String,
        /// The supported names.
        supported: String,
    },
    /// A configuration is contradictory, out of bounds, or needs an unsupported operation.
    #[error("{}: {field}: {reason}", path.display())]
    InvalidConfig {
        /// The file.
        path: PathBuf,
        /// The setting.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A weight file's header is malformed.
    #[error("{}: {what}: {reason}", path.display())]
    InvalidWeightFile {
        /// The file.
        path: PathBuf,
        /// The part of the header, or the tensor.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A safetensors header is malformed, or the file is truncated.
    #[error("{} is not a valid safetensors file: {source}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        source: safetensors::SafeTensorError,
    },
    /// A tensor that the model needs is not in its weights.
    #[error("{} has no tensor {tensor}", file.display())]
    MissingTensor {
        /// The file or directory.
        file: PathBuf,
        /// The tensor by Hugging Face name.
        tensor: String,
    },
    /// A tensor's shape does not match the configuration.
    #[error("{}: tensor {tensor} has shape {found:?}, but the configuration needs {expected:?}", file.display())]
    TensorShape {
        /// The file.
        file: PathBuf,
        /// The tensor by Hugging Face name.
        tensor: String,
        /// The shape that the configuration implies.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tokenizer could not be read or built, or failed on a text.
    #[error("{}: {what}: {source}", path.display())]
    Tokenizer {
        /// The file that the tokenizer comes from.
        path: PathBuf,
        /// The operation that failed.
        what: &'static str,
        /// The reason.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A tokenizer is of an unsupported kind.
    #[error("{}: {reason}", path.display())]
    UnsupportedTokenizer {
        /// The file.
        path: PathBuf,
        /// What is not supported, and what is.
        reason: String,
    },
    /// A chat prompt was requested from a model without a chat template.
    #[error(
        "{} has no chat template (tokenizer_config.json, chat_template.jinja or tokenizer.chat_template): \
         it is probably a base model; choose the plain template (`prompt.template = \"plain\"`, or --template plain)", path.display()
    )]
    NoTemplate {
        /// The model.
        path: PathBuf,
    },
    /// A chat template does not parse, raised an exception, or ran out of its budget.
    #[error("{}: {action} the chat template failed: {}", path.display(), template_reason(source))]
    Template {
        /// The file that holds the template.
        path: PathBuf,
        /// `"parsing"` or `"rendering"`.
        action: &'static str,
        /// The engine's reason.
        source: minijinja::Error,
    },
    /// A chat template writes control tokens that the tokenizer does not have, so it belongs to
    /// another model.
    #[error("{}: the chat template writes {token}, which is not a token of this model's tokenizer", path.display())]
    ForeignTemplate {
        /// The file that holds the template.
        path: PathBuf,
        /// The unknown control token.
        token: String,
    },
    /// No token is known to end an assistant's turn.
    #[error("{}: neither the chat template nor the tokenizer names a token that ends a turn", path.display())]
    NoEndOfTurn {
        /// The file that holds the template.
        path: PathBuf,
    },
    /// A group's prompt has no token.
    #[error(
        "the prompt of group {group} is empty; a completion needs at least one token before it"
    )]
    EmptyPrompt {
        /// The group's index in its batch.
        group: usize,
    },
    /// A model or data set could not be loaded from the Hugging Face hub or its cache.
    #[error("{name}: {reason}")]
    Hub {
        /// The name as given, or the requested file.
        name: String,
        /// What went wrong and what to do.
        reason: String,
    },
    /// An adapter is malformed or does not fit its base model.
    #[error("invalid adapter: {reason}")]
    InvalidAdapter {
        /// What is wrong with it.
        reason: String,
    },
    /// Sampling settings are out of range.
    #[error("invalid sampling settings: {reason}")]
    InvalidSampling {
        /// The setting and its bounds.
        reason: String,
    },
    /// Logits have no finite maximum.
    #[error("the model's logits are not finite")]
    NonFiniteLogits,
    /// A tensor that must receive a gradient received none.
    #[error("no gradient reached {what}")]
    NoGradient {
        /// The tensor.
        what: String,
    },
    /// A fused operation failed.
    #[error(transparent)]
    Operation(#[from] assay_ops::OpsError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl LmError {
    /// Whether the error is a failed allocation, on the CPU or on a device.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::Operation(error) => error.is_out_of_memory(),
            Self::Tensor(error) => assay_ops::is_out_of_memory(error),
            _ => false,
        }
    }
}

/// The template engine's kind and detail in one line, without a source listing.
fn template_reason(error: &minijinja::Error) -> String {
    let line = error
        .line()
        .map(|line| format!(" (line {line})"))
        .unwrap_or_default();
    match error.detail() {
        Some(detail) => format!("{}: {detail}{line}", error.kind()),
        None => format!("{}{line}", error.kind()),
    }
}
