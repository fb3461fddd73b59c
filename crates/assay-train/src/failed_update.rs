//! The record of an update that failed because a number was not finite.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::trace::TraceRole;

/// Which part of an iteration failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailedPart {
    /// Supervised fine-tuning of the policy.
    Sft,
    /// Sampling from the policy.
    Rollout,
    /// An update of the discriminator.
    Reward,
    /// The token rewards of the policy's samples.
    TokenRewards,
    /// An update of the policy.
    Policy,
}

/// A token at which a number is not finite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Culprit {
    /// Index of the completion in the batch.
    pub trace: usize,
    /// Index of the completion's token.
    pub token: usize,
}

/// A completion of a failed batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailedTrace {
    /// Id of its problem.
    pub problem: String,
    /// Who wrote it.
    pub role: TraceRole,
    /// Index of its group; traces of a group share the prompt.
    pub group: usize,
    /// Token ids.
    pub token_ids: Vec<u32>,
    /// The player's scalar of each token: `null` if it is not finite. Empty if not computed.
    pub scalars: Vec<Option<f32>>,
    /// The loss's gradient of each scalar, in the same form as `scalars`.
    pub loss_gradients: Vec<Option<f32>>,
}

/// The record of a failed update, for `assay replay`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailedUpdate {
    /// Iterations done before, over all phases.
    pub iteration: usize,
    /// What failed.
    pub part: FailedPart,
    /// Index of the update in the iteration, among those of that kind.
    pub update: usize,
    /// What was not finite.
    pub error: String,
    /// The token, if the error names one.
    pub culprit: Option<Culprit>,
    /// Prompt of each group.
    pub prompts: Vec<Vec<u32>>,
    /// Every completion, group after group.
    pub traces: Vec<FailedTrace>,
    /// The file of this record.
    #[serde(skip)]
    pub file: Option<PathBuf>,
}

impl fmt::Display for FailedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sft => "supervised update",
            Self::Rollout => "rollout",
            Self::Reward => "reward update",
            Self::TokenRewards => "token rewards",
            Self::Policy => "policy update",
        })
    }
}

impl fmt::Display for FailedUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iteration {}, {}", self.iteration, self.part)?;
        if matches!(self.part, FailedPart::Reward | FailedPart::Policy) {
            write!(f, " {}", self.update)?;
        }
        write!(f, ": {}", self.error)?;
        let culprit = self.culprit.as_ref();
        if let Some(trace) = culprit.and_then(|culprit| self.traces.get(culprit.trace)) {
            let (role, problem) = (trace.role, &trace.problem);
            write!(f, " ({role:?} completion of problem {problem})")?;
        }
        f.write_str("; the last checkpoint is intact")?;
        match &self.file {
            Some(file) => write!(
                f,
                "; {} holds the batch: `assay replay --run DIR` examines it trace by trace",
                file.display()
            ),
            None => Ok(()),
        }
    }
}
