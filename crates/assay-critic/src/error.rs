//! Errors of the critic. Each names the file, setting or trace that it concerns.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// An error of a file, in this crate and in those above it.
#[derive(Debug, Error)]
pub enum FileError {
    /// A file could not be read or written.
    #[error("{doing} {}", .path.display())]
    Io {
        /// The operation that failed.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file was read but its content is not valid.
    #[error("{}: {reason}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl FileError {
    /// A failed file operation.
    pub fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    /// A file whose content is not valid.
    pub fn malformed(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Malformed {
            path: path.into(),
            reason: reason.into(),
        }
    }
}

/// An error of this crate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CriticError {
    /// A setting has an invalid value.
    #[error("setting `{key}`: {reason}")]
    InvalidSetting {
        /// Dotted path of the key.
        key: String,
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// A file could not be read or written, or its content is not valid.
    #[error(transparent)]
    File(#[from] FileError),
    /// A reward is not finite.
    #[error("trace {trace}: the reward of token {token} is not finite")]
    NonFiniteReward {
        /// Id of the trace.
        trace: String,
        /// Index of the completion token.
        token: usize,
    },
    /// No demonstration is left to learn from.
    #[error(
        "none of {problems} problems has a usable demonstration ({too_long} are longer than {limit} tokens, \
         {prompts_too_long} have a prompt longer than {prompt_limit})"
    )]
    NoDemonstrations {
        /// Problems examined.
        problems: usize,
        /// Demonstrations longer than the limit.
        too_long: usize,
        /// The completion limit in tokens.
        limit: usize,
        /// Demonstrations whose prompt is longer than its limit.
        prompts_too_long: usize,
        /// The prompt limit in tokens.
        prompt_limit: usize,
    },
    /// A prompt leaves too little room for the completions after it.
    #[error(
        "the prompt of \"{question}\" has {tokens} tokens, and {limit} fit beside a completion: a prompt is never cut; \
         allow longer prompts or shorter completions, or leave the problem out"
    )]
    PromptTooLong {
        /// The first characters of the question.
        question: String,
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens that are allowed.
        limit: usize,
    },
    /// The policy's tokenizer splits a trace into other tokens than the reward's.
    #[error(
        "trace {trace}: the policy splits its text into other tokens than the reward's model, so there is no \
         log-probability for each reward; score the traces with the policy alone, without --reward"
    )]
    OtherTokens {
        /// Id of the trace.
        trace: String,
    },
    /// Problems, prompts or traces could not be read.
    #[error(transparent)]
    Tasks(#[from] assay_tasks::TasksError),
    /// A model could not be read or run.
    #[error(transparent)]
    Model(#[from] assay_lm::LmError),
    /// A fused operation failed.
    #[error(transparent)]
    Operation(#[from] assay_ops::OpsError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl CriticError {
    /// A failed file operation.
    pub fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        FileError::io(doing, path, source).into()
    }

    /// A file whose content is not valid.
    pub fn malformed(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        FileError::malformed(path, reason).into()
    }

    /// A setting with an invalid value.
    pub fn setting(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::InvalidSetting {
            key: key.into(),
            reason: reason.into(),
        }
    }

    /// Whether the error is a failed allocation, on the CPU or on a device.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::Model(error) => error.is_out_of_memory(),
            Self::Operation(error) => error.is_out_of_memory(),
            Self::Tensor(error) => assay_ops::is_out_of_memory(error),
            _ => false,
        }
    }
}
