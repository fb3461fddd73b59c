//! One optimiser update of a player: loss over its scalars, gradients, AdamW. The error of a number
//! that is not finite names its trace.

use std::ops::Range;

use assay_critic::player::{Player, TokenScalars};

use super::failure::{Computed, UpdateBatch, check_finite};
use crate::TrainError;
use crate::adam::AdamW;
use crate::execution::Execution;
use crate::optimiser::{LrSchedule, OptimiserSettings};
use crate::trace::packed;
use crate::update::{LossGradients, Reach, UpdatePasses, update};

/// A player, its batch, and the settings of its optimiser.
pub(super) struct PlayerUpdate<'s> {
    pub(super) player: &'s dyn Player,
    pub(super) batch: UpdateBatch<'s>,
    pub(super) execution: Execution<'s>,
    /// Which scalars a gradient of the loss depends on.
    pub(super) reach: Reach,
    pub(super) optimiser: &'s OptimiserSettings,
    pub(super) schedule: &'s LrSchedule,
}

/// The result of a loss.
pub(super) struct LossValue<R> {
    pub(super) loss: f64,
    pub(super) report: R,
    /// dL/ds of every scalar.
    pub(super) gradients: TokenScalars,
}

/// The result of an update.
pub(super) struct Updated<R> {
    pub(super) optimiser: OptimiserReport,
    /// The player's scalars before the update.
    pub(super) scalars: TokenScalars,
    pub(super) report: R,
}

/// Statistics of the optimiser step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OptimiserReport {
    /// The loss before the update.
    pub loss: f64,
    /// The learning rate of the update.
    pub learning_rate: f64,
    /// Norm of all gradients together, before clipping.
    pub gradient_norm: f64,
}

impl PlayerUpdate<'_> {
    /// Updates the player once. `loss` receives the scalars and the range of completions whose
    /// gradients are used, see [`update`].
    ///
    /// # Errors
    /// [`TrainError::FailedUpdate`] with the batch if a scalar, the loss, a gradient or a weight is
    /// not finite or a parameter receives no gradient. Other errors of `loss` or a tensor
    /// operation.
    pub(super) fn apply<R>(
        &self,
        adamw: &mut AdamW,
        loss: impl FnMut(&[Vec<f32>], &Range<usize>) -> Result<LossValue<R>, TrainError>,
    ) -> Result<Updated<R>, TrainError> {
        let mut computed = Computed::default();
        self.try_apply(adamw, loss, &mut computed)
            .map_err(|error| self.batch.explain(error, &computed))
    }

    fn try_apply<R>(
        &self,
        adamw: &mut AdamW,
        mut loss: impl FnMut(&[Vec<f32>], &Range<usize>) -> Result<LossValue<R>, TrainError>,
        computed: &mut Computed,
    ) -> Result<Updated<R>, TrainError> {
        let checked = |scalars: &[Vec<f32>], part: Range<usize>| {
            computed.scalars.resize(scalars.len(), Vec::new());
            computed.scalars[part.clone()].clone_from_slice(&scalars[part.clone()]);
            check_finite(self.player.scalar(), scalars)?;
            let value = loss(scalars, &part)?;
            computed.gradients.resize(value.gradients.len(), Vec::new());
            computed.gradients[part.clone()].clone_from_slice(&value.gradients[part]);
            if !value.loss.is_finite() {
                let what = format!("the loss, {},", value.loss);
                return Err(TrainError::NotFinite { what });
            }
            check_finite("the gradient of the loss", &value.gradients)?;
            Ok(LossGradients {
                report: (value.loss, value.report),
                gradients: value.gradients,
            })
        };
        let groups = packed(self.batch.groups);
        let passes = UpdatePasses {
            execution: self.execution,
            reach: self.reach,
        };
        let ((loss, report), gradients) = update(self.player, &groups, passes, checked)?;
        let learning_rate = self.schedule.learning_rate(adamw.iterations() as usize);
        let applied = adamw.step(
            &self.player.parameters(),
            &gradients,
            &self.optimiser.adamw(learning_rate),
            self.optimiser.clip_norm,
        )?;
        Ok(Updated {
            optimiser: OptimiserReport {
                loss,
                learning_rate,
                gradient_norm: applied.gradient_norm,
            },
            scalars: std::mem::take(&mut computed.scalars),
            report,
        })
    }
}
