//! Branches of demonstrations: negatives that share the expert's prefix.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::TrainError;

/// Traces that share a demonstration's tokens up to some token and then differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BranchSettings {
    /// Branches per demonstration in each iteration; 0 trains without.
    pub per_demonstration: usize,
    /// Source of the branches.
    pub source: BranchSource,
}

/// Source of the branches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum BranchSource {
    /// The current policy. The first token of a branch is drawn from pi(. | prompt, y_<t) without
    /// y_t.
    Policy {
        /// How the token t is chosen.
        #[serde(default)]
        place: BranchPlace,
        /// How far the policy continues.
        #[serde(default)]
        end: BranchEnd,
    },
    /// The user's own wrong traces, aligned with their demonstration by the longest common prefix.
    File {
        /// Records with `id` or `question`, and `text`.
        path: PathBuf,
    },
}

impl Default for BranchSource {
    fn default() -> Self {
        Self::Policy {
            place: BranchPlace::default(),
            end: BranchEnd::default(),
        }
    }
}

/// How the token is chosen from which on a branch differs from the demonstration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BranchPlace {
    /// Every completion token is equally likely.
    #[default]
    Uniform,
    /// The probability of a token is proportional to 1 - pi(y_t | y_<t).
    Surprise,
}

/// Where a branch of the policy ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BranchEnd {
    /// After the one token that differs.
    Token,
    /// At the end of the reasoning step.
    #[default]
    Step,
    /// At the end of the trace.
    Trace,
}

impl BranchSettings {
    /// Checks the values; `key` is the dotted path of this table.
    ///
    /// # Errors
    /// [`TrainError::InvalidSetting`] names the key.
    pub fn validate(&self, key: &str) -> Result<(), TrainError> {
        match &self.source {
            BranchSource::File { path } if path.as_os_str().is_empty() => Err(TrainError::setting(
                format!("{key}.source.path"),
                "must name a file of wrong traces",
            )),
            _ => Ok(()),
        }
    }
}
