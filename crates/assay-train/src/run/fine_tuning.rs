//! An iteration of supervised fine-tuning.

use super::Run;
use super::failure::UpdateBatch;
use super::player_update::{LossValue, OptimiserReport, PlayerUpdate};
use super::players::Players;
use crate::TrainError;
use crate::failed_update::FailedPart;
use crate::sft::token_mean_nll;
use crate::update::Reach;

impl Run<'_> {
    /// Supervised fine-tuning: one update of the policy on demonstrations.
    pub(super) fn fine_tune(&mut self, iteration: usize) -> Result<OptimiserReport, TrainError> {
        let sft = &self.settings.sft;
        let groups = self.picked(iteration, sft.demonstrations_per_update);
        let execution = self.execution();
        let optimiser = self.settings.optimiser.sft();
        let Players {
            policy,
            policy_optimiser,
            ..
        } = &mut self.players;
        let update = PlayerUpdate {
            player: policy,
            batch: UpdateBatch {
                part: FailedPart::Sft,
                update: 0,
                groups: &groups,
            },
            execution,
            reach: Reach::Completion,
            optimiser: &optimiser,
            schedule: &optimiser.schedule(self.sft_iterations),
        };
        let updated = update.apply(policy_optimiser, |logprobs, _| {
            let output = token_mean_nll(logprobs);
            Ok(LossValue {
                loss: output.loss,
                report: (),
                gradients: output.grads,
            })
        })?;
        Ok(updated.optimiser)
    }
}
