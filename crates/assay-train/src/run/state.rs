//! The state of a run in a checkpoint, other than weights.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::directory::Best;
use super::kind::TrainerKind;
use crate::TrainError;
use crate::reward::schedule::{ReplayBuffer, StyleAdvantage};
use crate::trace::PastSample;

/// Names inside a checkpoint.
pub(super) const STATE: &str = "state.json";
pub(super) const POLICY: &str = "policy";
pub(super) const REWARD: &str = "reward";
pub(super) const POLICY_OPTIMISER: &str = "policy_optimiser.safetensors";
pub(super) const REWARD_OPTIMISER: &str = "reward_optimiser.safetensors";

/// The state other than weights and moments. Random streams and data order are functions of
/// `iterations`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunState {
    /// Iterations done, over all phases.
    pub(super) iterations: usize,
    /// The trainer of these iterations.
    pub(super) trainer: TrainerKind,
    /// Digest of the demonstrations' tokens.
    pub(super) data: String,
    /// The frozen weights; absent in checkpoints of earlier versions.
    #[serde(default)]
    pub(super) base: BaseWeights,
    /// The best checkpoint so far, including this one.
    pub(super) best: Option<Best>,
    /// The discriminator's running style advantage.
    pub(super) style: StyleAdvantage,
    /// Past policy samples.
    pub(super) replay: Option<ReplayBuffer<PastSample>>,
}

/// Fingerprints of the files that the players' frozen weights were read from; none for weights made
/// in memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BaseWeights {
    /// Of the policy and its reference.
    pub(super) policy: Option<String>,
    /// Of the reward.
    pub(super) reward: Option<String>,
}

impl RunState {
    pub(super) fn read(dir: &Path) -> Result<Self, TrainError> {
        let path = dir.join(STATE);
        let text =
            fs::read_to_string(&path).map_err(|source| TrainError::io("reading", &path, source))?;
        serde_json::from_str(&text)
            .map_err(|source| TrainError::malformed(path, source.to_string()))
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), TrainError> {
        let path = dir.join(STATE);
        let text = serde_json::to_string(self)
            .map_err(|source| TrainError::malformed(path.clone(), source.to_string()))?;
        fs::write(&path, text).map_err(|source| TrainError::io("writing", &path, source))
    }
}
