//! The errors of training. Each names the file, setting, trace or parameter that it concerns.

use std::path::{Path, PathBuf};

use assay_critic::{CriticError, FileError};
use thiserror::Error;

use crate::failed_update::FailedUpdate;
use crate::remote::RemoteError;

/// An error of this crate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// All weights are to be trained in a number type that rounds small steps away.
    #[error(
        "policy.trained = \"whole\" trains the weights themselves, and {dtype:?} loses small steps: set compute.dtype = \"f32\", or train an adapter"
    )]
    WholeInLowPrecision {
        /// The weights' type.
        dtype: candle_core::DType,
    },
    /// Two lists that describe the same tokens differ in length.
    #[error("trace {trace}: {what} has {found} entries, {expected} were expected")]
    LengthMismatch {
        /// The list that has the wrong length.
        what: &'static str,
        /// Index of the trace in the update.
        trace: usize,
        /// Its length.
        found: usize,
        /// The length it should have.
        expected: usize,
    },
    /// A number that must be finite is not.
    #[error("trace {trace}, token {token}: {what} is {value}")]
    NonFinite {
        /// The number's name.
        what: &'static str,
        /// Index of the trace in the update.
        trace: usize,
        /// Index of the completion token.
        token: usize,
        /// The number.
        value: f64,
    },
    /// A gradient, weight or metric that must be finite is not.
    #[error("{what} is not finite")]
    NotFinite {
        /// The number's name and place.
        what: String,
    },
    /// A setting has an invalid value.
    #[error("setting `{key}`: {reason}")]
    InvalidSetting {
        /// Dotted path of the key.
        key: String,
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// A setting that does not exist.
    #[error("unknown setting `{key}` in {origin}{}", nearest_hint(.nearest.as_deref()))]
    UnknownSetting {
        /// Dotted path of the key.
        key: String,
        /// The file or the option that named it.
        origin: String,
        /// The nearest key that exists.
        nearest: Option<String>,
    },
    /// A setting whose value has the wrong type or is not one of the choices.
    #[error("setting `{key}` in {origin}: {reason}")]
    SettingType {
        /// Dotted path of the key.
        key: String,
        /// The file or the option that set it.
        origin: String,
        /// What was expected.
        reason: String,
    },
    /// A settings file or a `--set` option that cannot be read as one.
    #[error("{origin}: {reason}")]
    SettingsSyntax {
        /// The file or the option.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// A file could not be read or written, or its content is invalid.
    #[error(transparent)]
    File(#[from] FileError),
    /// A trainable parameter received no gradient.
    #[error("no gradient reached the trainable parameter {parameter}")]
    MissingGradient {
        /// Its name.
        parameter: String,
    },
    /// An update without a completion token.
    #[error("the update has no completion token: every completion of its groups is empty")]
    EmptyUpdate,
    /// A loss whose gradients depend on scalars outside of its declared reach.
    #[error(
        "the loss's gradient of completion {completion} depends on scalars of completions outside its declared reach"
    )]
    LossReach {
        /// Index of the completion in the update.
        completion: usize,
    },
    /// An update computed a number that is not finite.
    #[error("{failure}")]
    FailedUpdate {
        /// The batch, and the values computed before the failure.
        failure: Box<FailedUpdate>,
        /// What was not finite.
        source: Box<TrainError>,
    },
    /// A server that samples for the trainer failed.
    #[error(
        "rollouts from {0}; the last checkpoint is intact: restart the server and continue with --resume"
    )]
    RolloutServer(#[from] RemoteError),
    /// A run directory already holds another run.
    #[error("{} holds a run already; continue it with --resume or choose another --out", .path.display())]
    RunExists {
        /// The directory.
        path: PathBuf,
    },
    /// A run was begun with other settings.
    #[error("{} is of a run with other settings; restore them or choose another --out:{difference}", .path.display())]
    OtherSettings {
        /// The run's settings file.
        path: PathBuf,
        /// The keys whose difference matters, one per line: old and new value.
        difference: String,
    },
    /// A run needs more memory than is free.
    #[error("memory: {plan}, but {available} are free; to fix this: {way_out}")]
    OutOfMemory {
        /// The memory that the run would need.
        plan: String,
        /// The free memory.
        available: String,
        /// Which setting to change.
        way_out: &'static str,
    },
    /// Memory ran out again after the run had halved its batches.
    #[error(
        "memory ran out with {halved}, which is half of what was tried first; the last checkpoint is intact; to fix this: \
         more memory or a smaller `run.activation_mib` and --resume, or a smaller model"
    )]
    OutOfMemoryAgain {
        /// How much was done at a time: `400 tokens at a time`.
        halved: String,
        /// The failed allocation.
        source: Box<TrainError>,
    },
    /// A run was begun by another trainer.
    #[error("{} is a run of `{before}`, not of `{now}`; continue it with `train {before}` or choose another --out", .path.display())]
    OtherTrainer {
        /// The checkpoint.
        path: PathBuf,
        /// The trainer that wrote it.
        before: String,
        /// The trainer that was to continue.
        now: String,
    },
    /// The demonstrations are not those of the iterations already done.
    #[error(
        "{} learned from other demonstrations: data.train, the tokenizer or the chat template has changed since; \
         restore the files or choose another --out", .path.display()
    )]
    OtherData {
        /// The checkpoint.
        path: PathBuf,
    },
    /// The frozen weights are not those of the iterations already done.
    #[error(
        "{} was trained on other weights than those that {model} holds now; restore the model or choose another --out",
        .path.display()
    )]
    OtherBase {
        /// The checkpoint.
        path: PathBuf,
        /// The model as the settings name it.
        model: String,
    },
    /// Another process works in a run directory.
    #[error("{} is in use by process {holder}; wait for it or choose another --out", .path.display())]
    RunLocked {
        /// The directory.
        path: PathBuf,
        /// Process id and host of the holder.
        holder: String,
    },
    /// Every checkpoint of a run is damaged.
    #[error(
        "no checkpoint is whole: {}: {reason}{}; restore a copy, or remove the run directory and start again",
        .path.display(), more_hint(*.count)
    )]
    NoWholeCheckpoint {
        /// The newest checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// Number of checkpoints, all damaged.
        count: usize,
    },
    /// A policy was named where a reward is expected.
    #[error("{} is a policy, not a reward: {} is", .path.display(), .reward.display())]
    RewardIsPolicy {
        /// What was named.
        path: PathBuf,
        /// The reward beside it.
        reward: PathBuf,
    },
    /// A reward that does not name its base model.
    #[error("{} names no base model; name it with --model", .path.display())]
    NoBaseModel {
        /// The reward.
        path: PathBuf,
    },
    /// The base model of a reward could not be opened.
    #[error("the base model of {} is {}; name another with --model", .path.display(), .model.display())]
    BaseModel {
        /// The reward.
        path: PathBuf,
        /// The model.
        model: PathBuf,
        /// Why it could not be opened.
        source: Box<assay_lm::LmError>,
    },
    /// The base model of a reward has other weights than it was trained on.
    #[error(
        "{} was trained on other weights than those that {model} holds now; restore them, or name the model with \
         --model to use it anyway", .path.display()
    )]
    OtherWeights {
        /// The reward.
        path: PathBuf,
        /// The model's name.
        model: String,
    },
    /// The ranks of a run cannot communicate.
    #[error("ranks: {doing}: {reason}")]
    Collective {
        /// The operation that failed.
        doing: &'static str,
        /// Why it failed.
        reason: String,
    },
    /// Another rank of the run failed.
    #[error("rank {rank}: {reason}")]
    OtherRank {
        /// The failed rank.
        rank: usize,
        /// Its error.
        reason: String,
    },
    /// The ranks of a run do not do the same work.
    #[error(
        "rank {rank} has other {what} than rank 0; start all ranks with the same command, files and build, on \
         processors of one kind"
    )]
    RanksDiffer {
        /// The first rank that differs.
        rank: usize,
        /// What differs, in the plural.
        what: &'static str,
    },
    /// The critic failed: encoding, a reward model or a policy model.
    #[error(transparent)]
    Critic(Box<CriticError>),
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

impl From<CriticError> for TrainError {
    /// Errors of lower crates keep their own variant.
    fn from(error: CriticError) -> Self {
        match error {
            CriticError::File(error) => Self::File(error),
            CriticError::Tasks(error) => Self::Tasks(error),
            CriticError::Model(error) => Self::Model(error),
            CriticError::Operation(error) => Self::Operation(error),
            CriticError::Tensor(error) => Self::Tensor(error),
            other => Self::Critic(Box::new(other)),
        }
    }
}

impl TrainError {
    /// A failed file operation.
    pub fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        FileError::io(doing, path, source).into()
    }

    /// A file whose content is invalid.
    pub(crate) fn malformed(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        FileError::malformed(path, reason).into()
    }

    /// Whether the error is a failed allocation, on the CPU or on a device.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::Critic(error) => error.is_out_of_memory(),
            Self::Model(error) => error.is_out_of_memory(),
            Self::Operation(error) => error.is_out_of_memory(),
            Self::Tensor(error) => assay_ops::is_out_of_memory(error),
            _ => false,
        }
    }

    /// A setting with an invalid value.
    pub(crate) fn setting(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::InvalidSetting {
            key: key.into(),
            reason: reason.into(),
        }
    }
}

fn nearest_hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |key| format!("; did you mean `{key}`?"))
}

fn more_hint(count: usize) -> String {
    match count {
        0 | 1 => String::new(),
        more => format!(" (and {} older ones are damaged)", more - 1),
    }
}
