//! The two players of a run with their optimisers: the state that training changes and checkpoints
//! store.

use assay_critic::PolicyModel;
use assay_critic::player::Player;
use candle_core::Var;

use super::discriminator::Discriminator;
use super::inputs::TrainInputs;
use super::kind::TrainerKind;
use super::start::{start_discriminator, start_policy};
use crate::TrainError;
use crate::adam::AdamW;

/// The players of a run.
pub(super) struct Players {
    pub(super) policy: PolicyModel,
    pub(super) policy_optimiser: AdamW,
    /// Only for `airl`, and not if all rewards come from the judge.
    pub(super) discriminator: Option<Discriminator>,
}

impl Players {
    /// The players before their first update.
    ///
    /// # Errors
    /// A saved adapter cannot be read, or a device has no memory.
    pub(super) fn start(inputs: &TrainInputs<'_>) -> Result<Self, TrainError> {
        let policy = start_policy(inputs)?;
        let policy_optimiser = AdamW::new(&policy.parameters())?;
        let discriminator = match inputs.kind {
            TrainerKind::Airl if inputs.settings.reward.trains_discriminator() => {
                Some(start_discriminator(inputs)?)
            }
            TrainerKind::Airl | TrainerKind::Sft | TrainerKind::Grpo => None,
        };
        Ok(Self {
            policy,
            policy_optimiser,
            discriminator,
        })
    }

    /// Resets the moments of the policy's optimiser, between fine-tuning and the game.
    ///
    /// # Errors
    /// A device has no memory for the optimiser's state.
    pub(super) fn reset_policy_optimiser(&mut self) -> Result<(), TrainError> {
        self.policy_optimiser = AdamW::new(&self.policy.parameters())?;
        Ok(())
    }

    /// Every player by name.
    pub(super) fn named(&self) -> Vec<(&'static str, &dyn Player)> {
        let mut players: Vec<(&'static str, &dyn Player)> = vec![("policy", &self.policy)];
        if let Some(discriminator) = &self.discriminator {
            players.push(("reward", &discriminator.model));
        }
        players
    }

    /// Trainable tensors of both players, in a fixed order.
    pub(super) fn parameters(&self) -> Vec<(String, Var)> {
        let players = self.named();
        players
            .iter()
            .flat_map(|(_, player)| player.parameters())
            .collect()
    }
}
