//! Every setting of a run: name, meaning and default.
//!
//! The defaults are the recommended recipe: a supervised warm start, comparisons within a prompt,
//! localised perturbed negatives, policy negatives by schedule and one advantage per trace. Later
//! files override earlier ones (`load`); [`Settings::validate`] rejects invalid values. Paths are
//! relative to the working directory.

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
    /// Device and number type of both players.
    pub compute: PlacementSettings,
    /// Low-rank adapters of both players.
    pub lora: LoraPlayers,
    /// Problems for training and evaluation.
    pub data: DataSettings,
    /// The format of prompts and completions.
    pub prompt: PromptSettings,
    /// How completions are sampled.
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

    /// Whether a model that reads the demonstration judges the samples.
    pub fn uses_judge(&self) -> bool {
        self.source != RewardSource::Learned || self.loss.judge.weight > 0.0
    }
}

impl Settings {
    /// Path of the discriminator's base model: `reward_model.path`, or the policy's if that is
    /// empty.
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
    /// How quantised matrices of .gguf files are stored, also for the discriminator: less memory or
    /// more speed, with the same numbers.
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
    /// The policy's adapter; not used if the policy is trained whole.
    pub policy: PlayerLora,
    /// The discriminator's adapter.
    pub reward: PlayerLora,
    /// Projections with a LoRA pair in both adapters, by PEFT's names.
    pub targets: Vec<Projection>,
}

/// One player's adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlayerLora {
    /// Rank r of A and B.
    pub rank: usize,
    /// Numerator of the scale alpha / rank; twice the rank if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
}

impl PlayerLora {
    /// An adapter with scale 2.
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

/// How completions are sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingSettings {
    /// Completions per prompt in training: the group size G.
    pub samples: usize,
    /// Divides the logits.
    pub temperature: f64,
    /// Maximum number of prompt tokens; a demonstration with a longer prompt is left out and
    /// counted.
    pub max_prompt_tokens: usize,
    /// Maximum number of completion tokens, including the end-of-turn token.
    pub max_completion_tokens: usize,
    /// Maximum number of completions decoded at the same time.
    pub max_sequences: usize,
    /// The sampling engine in training.
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
    /// Source of the policy's token rewards.
    pub source: RewardSource,
    /// Head of the reward model.
    pub head: HeadSettings,
    /// Initial weights.
    pub start: RewardStart,
    /// Which tokens carry a label.
    pub granularity: Granularity,
    /// The map from logit to reward.
    pub transform: RewardTransform,
    /// The loss.
    pub loss: DiscriminatorLossSettings,
    /// Demonstrations with an injected error.
    pub perturbations: PerturbationSettings,
    /// Continuations that differ from a demonstration from some token on.
    pub branches: BranchSettings,
    /// The training schedule.
    pub schedule: DiscriminatorSchedule,
    /// Factor of the learning rate for the head's weight and bias; above 0.
    pub head_learning_rate_factor: f64,
    /// Whether samples that a verifier found right become positives. This uses the verifier, which
    /// the run records.
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

/// Source of the policy's token rewards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardSource {
    /// The discriminator.
    #[default]
    Learned,
    /// The base model that reads the demonstration, see [`assay_critic::judge`]. No discriminator
    /// is trained.
    Privileged,
    /// On-policy self-distillation: log pi(y_t | x, demonstration) - log pi(y_t | x), the policy
    /// with and without the demonstration in its prompt. With `policy.advantage` uncentred,
    /// unscaled and `dense` at gamma 0, the update follows the gradient of the KL divergence
    /// between the two. No discriminator is trained.
    SelfDistilled,
    /// The sum of discriminator and judge, each divided by its standard deviation over the samples
    /// of the iteration.
    Mixed,
}

/// Initial weights of the discriminator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RewardStart {
    /// A new adapter and a zero head.
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
    /// Perturbed copies per demonstration in each update; 0 trains without.
    pub per_demonstration: usize,
    /// Kinds used in training.
    pub kinds: Vec<Perturbation>,
    /// Kinds that are not trained on, for measuring localisation.
    pub held_out: Vec<Perturbation>,
    /// Characters that perturbed text may use, for models with a small vocabulary; all if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alphabet: Option<String>,
}

impl PerturbationSettings {
    /// The kinds of training, within the alphabet.
    pub fn registry(&self) -> Registry {
        self.within_alphabet(Registry::of(&self.kinds))
    }

    /// A registry that writes only characters of the alphabet.
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
    /// Initial weights.
    pub start: PolicyStart,
    /// Which parameters are trained.
    pub trained: TrainedParameters,
    /// The advantages from token rewards.
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

/// Initial weights of the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum PolicyStart {
    /// The base model.
    Base,
    /// The base model after supervised fine-tuning by the `sft` table, which is part of the run.
    #[default]
    Sft,
    /// A saved policy directory, of this or another run.
    Adapter {
        /// The directory.
        path: PathBuf,
    },
}

/// Which parameters of the policy are trained.
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
    /// Prompts per iteration.
    pub prompts_per_iteration: usize,
    /// Maximum number of packed tokens a micro-batch; results depend on it by rounding only.
    pub token_budget: usize,
    /// MiB of activations that a pass keeps for its backward pass. On the CPU an update is split so
    /// that they fit; layers that do not fit are recomputed. 0 recomputes all layers without this
    /// split. Results depend on it by rounding only.
    pub activation_mib: u64,
    /// Saves every n-th iteration and the last; 0 saves the last only.
    pub checkpoint_every: usize,
    /// Number of newest checkpoints kept, in addition to the one with the highest validation
    /// accuracy; 0 keeps all.
    pub keep_last: usize,
    /// Evaluates on validation problems every n-th iteration and after the last; 0 never.
    pub eval_every: usize,
    /// Problems per evaluation.
    pub eval_problems: usize,
    /// Samples per problem in an evaluation.
    pub eval_samples: usize,
    /// When the run ends before its last iteration.
    pub early_stop: EarlyStopSettings,
}

/// Limits of one pass over an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassBudget {
    /// Maximum number of packed tokens of a micro-batch.
    pub tokens: usize,
    /// Bytes of activations that are kept for the backward pass instead of being recomputed.
    pub kept_bytes: u64,
}

impl RunSettings {
    /// Limits of one pass over an update.
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
