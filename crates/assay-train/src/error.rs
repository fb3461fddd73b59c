//! Everything that can go wrong while training, with the thing it went wrong on.

use std::path::{Path, PathBuf};

use assay_critic::{CriticError, FileError};
use thiserror::Error;

use crate::failed_update::FailedUpdate;

/// An error of this crate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// All weights are to be trained in a type too short for small steps.
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
    /// A setting has a value without meaning.
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
    /// A file could not be read or written, or its content is not what it should be.
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
    /// A loss whose gradients depend on scalars that it was said not to see.
    #[error(
        "the loss's gradient of completion {completion} changed with the scalars of other completions than it may depend on"
    )]
    LossReach {
        /// Its place in the update.
        completion: usize,
    },
    /// An update met a number that is not finite.
    #[error("{failure}")]
    FailedUpdate {
        /// The batch and what is known of the failure.
        failure: Box<FailedUpdate>,
        /// What was not finite.
        source: Box<TrainError>,
    },
    /// A server that samples for the trainer failed.
    #[error(
        "rollouts from {url}: {reason}; the last checkpoint is whole: bring the server back and go on with --resume"
    )]
    RolloutServer {
        /// The address that was asked.
        url: String,
        /// What it met.
        reason: String,
    },
    /// A run directory holds another run already.
    #[error("{} holds a run already; continue it with --resume or choose another --out", .path.display())]
    RunExists {
        /// The directory.
        path: PathBuf,
    },
    /// A run was begun with other settings.
    #[error("{} is of a run with other settings; take them back or choose another --out:{difference}", .path.display())]
    OtherSettings {
        /// The run's settings file.
        path: PathBuf,
        /// Every key that differs and matters, one a line: before and now.
        difference: String,
    },
    /// A run needs more memory than is free.
    #[error("memory: {plan}, but {available} are free; the way out: {way_out}")]
    OutOfMemory {
        /// What the run would hold.
        plan: String,
        /// What is free.
        available: String,
        /// Which setting to change.
        way_out: &'static str,
    },
    /// Memory ran out although a run did half as much at a time already.
    #[error(
        "memory ran out with {halved}, which is half of what was tried first; the last checkpoint is intact; the way out: \
         more memory or a smaller `run.activation_mib` and --resume, or a smaller model"
    )]
    OutOfMemoryAgain {
        /// How much was done at a time: `400 tokens at a time`.
        halved: String,
        /// What was refused.
        source: Box<TrainError>,
    },
    /// A run was begun by another trainer.
    #[error("{} is a run of `{before}`, not of `{now}`; continue it with `train {before}` or choose another --out", .path.display())]
    OtherTrainer {
        /// The checkpoint.
        path: PathBuf,
        /// The trainer that wrote it.
        before: String,
        /// The trainer that is to go on.
        now: String,
    },
    /// The demonstrations are not those of the iterations already done.
    #[error(
        "{} learned from other demonstrations: data.train, the tokenizer or the chat template has changed since; \
         bring the files back or choose another --out", .path.display()
    )]
    OtherData {
        /// The checkpoint.
        path: PathBuf,
    },
    /// The frozen weights are not those of the iterations already done.
    #[error(
        "{} was trained on other weights than those that {model} holds now; bring the model back or choose another --out",
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
        "no checkpoint is whole: {}: {reason}{}; bring a copy back, or remove the run directory and start again",
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
    /// A reward that does not say which model it reads.
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
        "{} was trained on other weights than those that {model} holds now; bring them back, or name the model with \
         --model to use it all the same", .path.display()
    )]
    OtherWeights {
        /// The reward.
        path: PathBuf,
        /// The model's name.
        model: String,
    },
    /// The ranks of a run cannot talk to each other.
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
        /// Which one.
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
    /// Errors of the layers below both crates keep their own variant.
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

    /// A file whose content is not what it should be.
    pub(crate) fn malformed(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        FileError::malformed(path, reason).into()
    }

    /// Whether memory was refused, on the CPU or on a device.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::Critic(error) => error.is_out_of_memory(),
            Self::Model(error) => error.is_out_of_memory(),
            Self::Operation(error) => error.is_out_of_memory(),
            Self::Tensor(error) => assay_ops::is_out_of_memory(error),
            _ => false,
        }
    }

    /// A setting without meaning.
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
