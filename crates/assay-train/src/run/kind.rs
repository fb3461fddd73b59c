//! The trainers.

use serde::{Deserialize, Serialize};

/// The trainer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainerKind {
    /// Supervised fine-tuning on demonstrations.
    Sft,
    /// GRPO with the answer verifier.
    Grpo,
    /// Adversarial inverse reinforcement learning from demonstrations; training uses no answers.
    Airl,
}

impl std::fmt::Display for TrainerKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sft => "sft",
            Self::Grpo => "grpo",
            Self::Airl => "airl",
        })
    }
}
