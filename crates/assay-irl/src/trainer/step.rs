//! One update of a player: loss over its scalars, gradients, AdamW. A number that is not finite names its trace.

use std::ops::Range;

use super::failure::{Batch, Seen, check_finite};
use crate::IrlError;
use crate::adam::{AdamW, StepReport};
use crate::optimiser::{LrSchedule, OptimiserSettings};
use crate::player::{Passes, Player, Reach, TokenScalars, update};

/// A player, the batch it learns from, and how.
pub(super) struct Step<'s> {
    pub(super) player: &'s dyn Player,
    pub(super) batch: Batch<'s>,
    pub(super) passes: Passes<'s>,
    /// What a gradient of the loss depends on.
    pub(super) reach: Reach,
    pub(super) optimiser: &'s OptimiserSettings,
    pub(super) schedule: &'s LrSchedule,
}

/// What a loss gives: its value, what it reports, the gradient of each scalar.
pub(super) type Loss<R> = (f64, R, TokenScalars);

/// What an update did.
pub(super) struct Stepped<R> {
    pub(super) loss: f64,
    /// The player's scalars before the step.
    pub(super) scalars: TokenScalars,
    pub(super) report: R,
    pub(super) learning_rate: f64,
    pub(super) gradient_norm: f64,
}

impl Step<'_> {
    /// `loss` gets the scalars and the range of them that it is asked about, as [`update`] says.
    ///
    /// # Errors
    /// [`IrlError::FailedUpdate`] with the batch when a scalar, the loss, a gradient or a weight is not finite or a
    /// parameter receives no gradient; whatever else `loss` or a tensor operation returns.
    pub(super) fn take<R>(
        &self,
        adamw: &mut AdamW,
        loss: impl FnMut(&[Vec<f32>], &Range<usize>) -> Result<Loss<R>, IrlError>,
    ) -> Result<Stepped<R>, IrlError> {
        let mut seen = Seen::default();
        self.try_take(adamw, loss, &mut seen)
            .map_err(|error| self.batch.explain(error, &seen))
    }

    fn try_take<R>(
        &self,
        adamw: &mut AdamW,
        mut loss: impl FnMut(&[Vec<f32>], &Range<usize>) -> Result<Loss<R>, IrlError>,
        seen: &mut Seen,
    ) -> Result<Stepped<R>, IrlError> {
        let checked = |scalars: &[Vec<f32>], part: Range<usize>| {
            seen.scalars.resize(scalars.len(), Vec::new());
            seen.scalars[part.clone()].clone_from_slice(&scalars[part.clone()]);
            check_finite(self.player.scalar(), scalars)?;
            let (value, report, gradients) = loss(scalars, &part)?;
            seen.gradients.resize(gradients.len(), Vec::new());
            seen.gradients[part.clone()].clone_from_slice(&gradients[part]);
            if !value.is_finite() {
                let what = format!("the loss, {value},");
                return Err(IrlError::NotFinite { what });
            }
            check_finite("the gradient of the loss", &gradients)?;
            Ok(((value, report), gradients))
        };
        let groups = self.batch.groups;
        let how = (self.passes, self.reach);
        let ((loss, report), gradients) = update(self.player, groups, how, checked)?;
        let learning_rate = self.schedule.learning_rate(adamw.iterations() as usize);
        let StepReport { gradient_norm, .. } = adamw.step(
            &self.player.parameters(),
            &gradients,
            &self.optimiser.adamw(learning_rate),
            self.optimiser.clip_norm,
        )?;
        Ok(Stepped {
            loss,
            scalars: std::mem::take(&mut seen.scalars),
            report,
            learning_rate,
            gradient_norm,
        })
    }
}
