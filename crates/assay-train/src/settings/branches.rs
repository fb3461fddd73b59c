//! Branches of demonstrations: negatives that share the expert's prefix.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::TrainError;

/// Traces that follow a demonstration up to some token and leave it there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BranchSettings {
    /// Branches a demonstration in each iteration; 0 trains without.
    pub per_demonstration: usize,
    /// Where they come from.
    pub source: BranchSource,
}

/// Where branches come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum BranchSource {
    /// The current policy: its first token is drawn from pi(. | prompt, y_<t) without y_t.
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

/// How the token is chosen at which a branch leaves the demonstration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BranchPlace {
    /// Every completion token is equally likely.
    #[default]
    Uniform,
    /// A token is chosen in proportion to 1 - pi(y_t | before).
    Surprise,
}

/// How far a branch of the policy goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BranchEnd {
    /// The one token that differs.
    Token,
    /// The end of the reasoning step.
    #[default]
    Step,
    /// The end of the trace.
    Trace,
}

impl BranchSettings {
    /// Refuses values without meaning; `key` is the dotted path of this table.
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
