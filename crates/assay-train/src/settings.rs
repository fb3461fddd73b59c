//! Every setting of a run: what it is called, what it means, and its default.
//!
//! The defaults are the recommended recipe: a supervised warm start, comparisons within a prompt, localised perturbed
//! negatives, policy negatives by schedule and one advantage a trace. Files overlay each other ([`load`]); values
//! without meaning are refused by [`Settings::validate`]. Paths are relative to the working directory.

mod branches;
mod data;
mod early_stop;
mod engine;
mod load;
mod retired;
mod validate;

use std::path::PathBuf;

use assay_critic::HeadSettings;
use assay_critic::granularity::Granularity;
use assay_critic::transform::RewardTransform;
use assay_lm::adapter::{LoraSettings, Projection};
use assay_lm::{PlacementSettings, Storage};
use assay_tasks::perturbations::{Perturbation, Registry};
use assay_tasks::prompts::PromptSettings;
use serde::{Deserialize, Serialize};

pub use branches::{BranchEnd, BranchPlace, BranchSettings, BranchSource};
pub use data::{DataFile, DataSettings};
pub use early_stop::EarlyStopSettings;
pub use engine::{EngineSettings, Handover, PromptForm};

use crate::optimiser::OptimiserTable;
use crate::policy::advantage::AdvantageSettings;
pub use crate::policy::objective::ObjectiveSettings;
use crate::reward::loss::DiscriminatorLossSettings;
use crate::reward::schedule::DiscriminatorSchedule;

/// All settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Seed of every random decision; at most 2^63 - 1.
    pub seed: u64,
    /// The policy's base model.
    pub model: ModelSettings,
    /// The discriminator's base model.
    pub reward_model: RewardModelSettings,
    /// Where both players compute.
    pub compute: PlacementSettings,
    /// Low-rank adapters of both players.
    pub lora: LoraPlayers,
    /// Problems to learn from and to measure on.
    pub data: DataSettings,
    /// How a question is asked and a completion is laid out.
    pub prompt: PromptSettings,
    /// How completions are drawn.
    pub sampling: SamplingSettings,
    /// The optimisers of all players.
    pub optimiser: OptimiserTable,
    /// Supervised fine-tuning on the demonstrations.
    pub sft: SftSettings,
    /// The discriminator.
    pub reward: RewardSettings,
    /// The policy.
    pub policy: PolicySettings,
    /// Length of the run, batch sizes, checkpoints, evaluation.
    pub run: RunSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 42,
            model: ModelSettings::default(),
            reward_model: RewardModelSettings::default(),
            compute: PlacementSettings::default(),
            lora: LoraPlayers::default(),
            data: DataSettings::default(),
            prompt: PromptSettings::default(),
            sampling: SamplingSettings::default(),
            optimiser: OptimiserTable::default(),
            sft: SftSettings::default(),
            reward: RewardSettings::default(),
            policy: PolicySettings::default(),
            run: RunSettings::default(),
        }
    }
}

impl RewardSettings {
    /// Whether a discriminator is trained.
    pub fn trains_discriminator(&self) -> bool {
        matches!(self.source, RewardSource::Learned | RewardSource::Mixed)
    }

    /// Whether samples are judged by a model that has read the demonstration.
    pub fn uses_judge(&self) -> bool {
        self.source != RewardSource::Learned || self.loss.judge.weight > 0.0
    }
}

impl Settings {
    /// Where the discriminator's base model is: `reward_model.path`, or the policy's when that is empty.
    pub fn reward_model_path(&self) -> &PathBuf {
        if self.reward_model.path.as_os_str().is_empty() {
            &self.model.path
        } else {
            &self.reward_model.path
        }
    }
}

/// A base model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSettings {
    /// A Hugging Face directory, a .gguf file, or a hub name.
    pub path: PathBuf,
    /// How quantised matrices of .gguf files are kept, the discriminator's too: less memory or more speed, the same numbers.
    pub storage: Storage,
}

/// The discriminator's base model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RewardModelSettings {
    /// As [`ModelSettings::path`]; an empty path shares the policy's base in memory.
    pub path: PathBuf,
}

/// The adapters of both players.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraPlayers {
    /// The policy's adapter; unread when the policy is trained whole.
    pub policy: PlayerLora,
    /// The discriminator's adapter.
    pub reward: PlayerLora,
    /// Projections that get a pair in both, by PEFT's names.
    pub targets: Vec<Projection>,
}

/// One player's adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlayerLora {
    /// Rank r of A and B.
    pub rank: usize,
    /// Numerator of the scale alpha / rank; twice the rank where it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
}

impl PlayerLora {
    /// Scale 2.
    pub fn with_rank(rank: usize) -> Self {
        Self { rank, alpha: None }
    }
}

impl LoraPlayers {
    /// The policy's adapter.
    pub fn policy(&self) -> LoraSettings {
        self.of(&self.policy)
    }

    /// The discriminator's adapter.
    pub fn reward(&self) -> LoraSettings {
        self.of(&self.reward)
    }

    fn of(&self, player: &PlayerLora) -> LoraSettings {
        LoraSettings {
            rank: player.rank,
            alpha: player.alpha.unwrap_or(2.0 * player.rank as f64),
            targets: self.targets.clone(),
        }
    }
}

impl Default for LoraPlayers {
    fn default() -> Self {
        Self {
            policy: PlayerLora::with_rank(128),
            reward: PlayerLora::with_rank(32),
            targets: Projection::ALL.to_vec(),
        }
    }
}

/// How completions are drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingSettings {
    /// Completions a prompt in training: the group size G.
    pub samples: usize,
    /// Divides the logits.
    pub temperature: f64,
    /// Most prompt tokens; a demonstration with a longer prompt is left out and counted.
    pub max_prompt_tokens: usize,
    /// Most completion tokens, end-of-turn token included.
    pub max_completion_tokens: usize,
    /// Most completions decoded at a time.
    pub max_sequences: usize,
    /// Who samples in training.
    pub engine: EngineSettings,
}

impl Default for SamplingSettings {
    fn default() -> Self {
        Self {
            samples: 16,
            temperature: 1.0,
            max_prompt_tokens: 300,
            max_completion_tokens: 824,
            max_sequences: 128,
            engine: EngineSettings::Local,
        }
    }
}

/// Supervised fine-tuning on the demonstrations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SftSettings {
    /// Passes over the demonstrations.
    pub epochs: usize,
    /// Demonstrations per update.
    pub demonstrations_per_update: usize,
}

impl Default for SftSettings {
    fn default() -> Self {
        Self {
            epochs: 2,
            demonstrations_per_update: 16,
        }
    }
}

/// The discriminator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RewardSettings {
    /// Where the policy's token rewards come from.
    pub source: RewardSource,
    /// Its head.
    pub head: HeadSettings,
    /// Where it starts from.
    pub start: RewardStart,
    /// Which tokens carry a label.
    pub granularity: Granularity,
    /// From logit to reward.
    pub transform: RewardTransform,
    /// What it minimises.
    pub loss: DiscriminatorLossSettings,
    /// Demonstrations with an injected error.
    pub perturbations: PerturbationSettings,
    /// Continuations that leave a demonstration at some token.
    pub branches: BranchSettings,
    /// When it is trained.
    pub schedule: DiscriminatorSchedule,
    /// The head's weight and bias learn at this factor times the learning rate; above 0.
    pub head_learning_rate_factor: f64,
    /// Whether samples that a verifier found right become positives: a use of the verifier, marked as such in the run.
    pub label_switch: bool,
}

impl Default for RewardSettings {
    fn default() -> Self {
        Self {
            source: RewardSource::Learned,
            head: HeadSettings::Linear,
            start: RewardStart::Fresh,
            granularity: Granularity::Dense,
            transform: RewardTransform::default(),
            loss: DiscriminatorLossSettings::default(),
            perturbations: PerturbationSettings::default(),
            branches: BranchSettings::default(),
            schedule: DiscriminatorSchedule::default(),
            head_learning_rate_factor: 1.0,
            label_switch: false,
        }
    }
}

/// Where the policy's token rewards come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardSource {
    /// The discriminator.
    #[default]
    Learned,
    /// The base model that has read the demonstration, see [`assay_critic::judge`]; no discriminator is trained.
    Privileged,
    /// On-policy self-distillation: log pi(y_t | x, demonstration) - log pi(y_t | x), the policy that has read the
    /// demonstration against the one that has not. With `policy.advantage` uncentred, unscaled and `dense` at gamma 0,
    /// the update follows the gradient of the KL divergence between the two. No discriminator is trained.
    SelfDistilled,
    /// The sum of discriminator and judge, each divided by its standard deviation over the samples of the iteration.
    Mixed,
}

/// Where the discriminator starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RewardStart {
    /// A fresh adapter and a zero head.
    #[default]
    Fresh,
    /// A saved reward directory, of this or another run.
    Adapter {
        /// The directory.
        path: PathBuf,
    },
}

/// Demonstrations with an injected error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PerturbationSettings {
    /// Perturbed copies a demonstration in each update; 0 trains without.
    pub per_demonstration: usize,
    /// Kinds used in training.
    pub kinds: Vec<Perturbation>,
    /// Kinds kept for measuring localisation on errors never trained on.
    pub held_out: Vec<Perturbation>,
    /// Characters that perturbed text may use, for models of a small vocabulary; all where it is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alphabet: Option<String>,
}

impl PerturbationSettings {
    /// The kinds of training, within the alphabet.
    pub fn registry(&self) -> Registry {
        self.within_alphabet(Registry::of(&self.kinds))
    }

    /// A registry that writes no other characters than the alphabet's.
    pub fn within_alphabet(&self, registry: Registry) -> Registry {
        match &self.alphabet {
            Some(alphabet) => registry.within(alphabet),
            None => registry,
        }
    }
}

impl Default for PerturbationSettings {
    fn default() -> Self {
        use Perturbation::{
            AnswerFromReasoning, CarryError, CorruptAnswer, CorruptNumbers, DropStep, FlipOperator,
            OffByOne, SwapNumbers, SwapSteps, WrongUnitScale,
        };
        Self {
            per_demonstration: 2,
            kinds: vec![
                FlipOperator,
                CorruptAnswer,
                AnswerFromReasoning,
                CorruptNumbers,
                SwapNumbers,
                DropStep,
                SwapSteps,
            ],
            held_out: vec![CarryError, WrongUnitScale, OffByOne],
            alphabet: None,
        }
    }
}

/// The policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicySettings {
    /// Where it starts from.
    pub start: PolicyStart,
    /// What of it is trained.
    pub trained: TrainedParameters,
    /// From token rewards to advantages.
    pub advantage: AdvantageSettings,
    /// The clipped objective.
    pub objective: ObjectiveSettings,
    /// Optimiser steps on the same samples in an iteration; the importance ratio is 1 in the first.
    pub updates_per_iteration: usize,
}

impl Default for PolicySettings {
    fn default() -> Self {
        Self {
            start: PolicyStart::Sft,
            trained: TrainedParameters::Adapter,
            advantage: AdvantageSettings::default(),
            objective: ObjectiveSettings::default(),
            updates_per_iteration: 1,
        }
    }
}

/// Where the policy starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum PolicyStart {
    /// The base model.
    Base,
    /// The base model after the fine-tuning that the `sft` table describes, as part of the run.
    #[default]
    Sft,
    /// A saved policy directory, of this or another run.
    Adapter {
        /// The directory.
        path: PathBuf,
    },
}

/// What of the policy is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainedParameters {
    /// A low-rank adapter on a frozen base.
    #[default]
    Adapter,
    /// Every weight.
    Whole,
}

/// Length of the run, batch sizes, checkpoints, evaluation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSettings {
    /// Iterations of the game.
    pub iterations: usize,
    /// Prompts an iteration.
    pub prompts_per_iteration: usize,
    /// Most packed tokens a micro-batch; results depend on it by rounding only.
    pub token_budget: usize,
    /// MiB of activations that a pass keeps for its backward pass. On the processor an update is cut so that they fit; layers
    /// that do not are computed again. 0 computes all again, uncut. Results depend on it by rounding only.
    pub activation_mib: u64,
    /// Saves every n-th iteration and the last; 0 saves the last only.
    pub checkpoint_every: usize,
    /// Newest checkpoints kept, beside the one with the highest validation accuracy; 0 keeps all.
    pub keep_last: usize,
    /// Measures on validation problems every n-th iteration and after the last; 0 never.
    pub eval_every: usize,
    /// Problems a measurement.
    pub eval_problems: usize,
    /// Samples a problem in a measurement.
    pub eval_samples: usize,
    /// When the run ends before its last iteration.
    pub early_stop: EarlyStopSettings,
}

/// What one pass over an update may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassBudget {
    /// Most packed tokens of a micro-batch.
    pub tokens: usize,
    /// Bytes of activations that are kept for the backward pass instead of being computed again.
    pub kept_bytes: u64,
}

impl RunSettings {
    /// What one pass over an update may hold.
    pub fn pass_budget(&self) -> PassBudget {
        PassBudget {
            tokens: self.token_budget,
            kept_bytes: self.activation_mib.saturating_mul(1 << 20),
        }
    }
}

impl Default for RunSettings {
    fn default() -> Self {
        Self {
            iterations: 500,
            prompts_per_iteration: 2,
            token_budget: 16_384,
            activation_mib: 2048,
            checkpoint_every: 50,
            keep_last: 3,
            eval_every: 50,
            eval_problems: 100,
            eval_samples: 4,
            early_stop: EarlyStopSettings::default(),
        }
    }
}

#[cfg(test)]
mod tests;
