//! The inputs and results of a run.

use std::sync::Arc;

use assay_critic::{PolicyModel, RewardModel};
use assay_lm::LanguageModel;
use assay_lm::transformer::Transformer;
use assay_tasks::problem::Problem;

use super::early_stop::EarlyStop;
use super::kind::TrainerKind;
use crate::metrics::IterationMetrics;
use crate::ranks::Collective;
use crate::settings::Settings;

/// The inputs of a run.
pub struct TrainInputs<'i> {
    /// The trainer.
    pub kind: TrainerKind,
    /// All settings.
    pub settings: &'i Settings,
    /// The policy's base model.
    pub model: &'i LanguageModel,
    /// The discriminator's base: the same transformer, or another.
    pub reward_backbone: Arc<Transformer>,
    /// Problems with demonstrations.
    pub train: &'i [Problem],
    /// Problems for measurements during the run; may be empty.
    pub validation: &'i [Problem],
    /// The processes that train together; [`SingleProcess`](crate::ranks::SingleProcess) for one.
    pub ranks: &'i dyn Collective,
}

/// The results of a run.
pub struct Trained {
    /// The policy.
    pub policy: PolicyModel,
    /// The reward, after `airl`.
    pub reward: Option<RewardModel>,
    /// Metrics of the last iteration.
    pub metrics: IterationMetrics,
    /// Iterations done, over all phases.
    pub iterations: usize,
    /// Iterations of the whole run. More than `iterations` if the observer stopped it or it ended
    /// early.
    pub total: usize,
    /// Whether the settings ended the run before its last iteration.
    pub ended_early: bool,
    /// The reason; only on the first rank.
    pub early_stop: Option<EarlyStop>,
}
