//! The discriminator's loss and its gradient with respect to every token logit.
//!
//! One call takes the *whole update*: every mean is over all its labelled positions (or pairs), so
//! the gradient depends neither on the number of prompts nor on the split into micro-batches. All
//! arithmetic is in f64 on logits, in softplus form; logits of ±1e4 are exact. The loss is the sum
//! of these terms, each times its weight (0 turns a term off):
//!
//! | term | formula | where |
//! |---|---|---|
//! | `bce` | 1/2 mean_pos l(z, y+) + 1/2 mean_neg l(z, y-), l(z, y) = softplus(z) - y z | [`BceSettings`] |
//! | `relativistic` | mean over pairs of one prompt of softplus(-scale (S_expert - S_negative)) | [`RelativisticSettings`] |
//! | `contrast` | the same on z at the first corrupted token of demonstration and perturbation | [`ContrastSettings`] |
//! | `wgan` | mean_neg z - mean_pos z | [`WganSettings`] |
//! | `judge` | the judge's token signs and trace order (`judged.rs`) | [`JudgeSettings`] |
//!
//! [`assay_critic::granularity`] selects the labelled tokens; [`super::schedule`] says when the
//! discriminator is trained.

mod judged;
mod labelled_trace;
mod labels;
mod pairwise;
mod pointwise;
mod settings;
mod statistics;

use serde::{Deserialize, Serialize};

use crate::TrainError;
pub use labelled_trace::LabelledTrace;
pub use settings::{
    BceSettings, ContrastSettings, DiscriminatorLossSettings, JudgeSettings, PairScore,
    PolicyLabels, PrefixLabels, RelativisticSettings, SuffixLabels, WganSettings,
};
pub use statistics::LossStatistics;

/// The loss of an update, its gradients and statistics.
#[derive(Clone, Debug, Default)]
pub struct LossOutput {
    /// The weighted sum of the terms.
    pub loss: f64,
    /// The terms, each before its weight.
    pub terms: LossTerms,
    /// dL/dz, one list per trace, one entry per token; 0 where a token has no part in the loss.
    pub grads: Vec<Vec<f32>>,
    /// Accuracies of the discriminator.
    pub statistics: LossStatistics,
}

/// The terms of a loss before their weights; 0 for a term that is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossTerms {
    /// Class-balanced cross-entropy.
    pub bce: f64,
    /// Pairs of traces.
    pub relativistic: f64,
    /// Pairs of tokens.
    pub contrast: f64,
    /// Wasserstein difference.
    pub wgan: f64,
    /// Agreement with the judge; `None` if the term is off.
    #[serde(default)]
    pub judge: Option<f64>,
}

impl LossTerms {
    /// Names and values.
    pub fn named(&self) -> Vec<(&'static str, f64)> {
        let always = [
            ("bce", self.bce),
            ("relativistic", self.relativistic),
            ("contrast", self.contrast),
            ("wgan", self.wgan),
        ];
        let judge = self.judge.map(|value| ("judge", value));
        always.into_iter().chain(judge).collect()
    }
}

/// The discriminator's loss over all traces of an update.
///
/// # Errors
/// [`TrainError::NonFinite`] names the trace and token of a logit that is not finite;
/// [`TrainError::LengthMismatch`] names a trace with a labelled position beyond its end.
pub fn discriminator_loss(
    traces: &[LabelledTrace<'_>],
    settings: &DiscriminatorLossSettings,
) -> Result<LossOutput, TrainError> {
    for (index, trace) in traces.iter().enumerate() {
        check(index, trace)?;
    }
    let mut grads: Vec<Vec<f64>> = traces
        .iter()
        .map(|trace| vec![0.0; trace.logits.len()])
        .collect();
    let labels = labels::labels(traces, settings);
    let mut terms = LossTerms::default();
    if settings.bce.weight != 0.0 {
        terms.bce = pointwise::bce(traces, &labels, &settings.bce, &mut grads);
    }
    if settings.wgan.weight != 0.0 {
        terms.wgan = pointwise::wgan(traces, &labels, settings.wgan.weight, &mut grads);
    }
    if settings.relativistic.weight != 0.0 {
        terms.relativistic = pairwise::relativistic(traces, settings, &mut grads);
    }
    if settings.contrast.weight != 0.0 {
        terms.contrast = pairwise::contrast(traces, settings.contrast.weight, &mut grads);
    }
    if settings.judge.weight != 0.0 {
        terms.judge = Some(judged::judge(traces, settings, &mut grads));
    }
    let loss = settings.bce.weight * terms.bce
        + settings.judge.weight * terms.judge.unwrap_or(0.0)
        + settings.wgan.weight * terms.wgan
        + settings.relativistic.weight * terms.relativistic
        + settings.contrast.weight * terms.contrast;
    let grads = grads
        .into_iter()
        .map(|row| row.into_iter().map(|g| g as f32).collect())
        .collect();
    Ok(LossOutput {
        loss,
        terms,
        grads,
        statistics: statistics::statistics(traces, settings),
    })
}

fn check(index: usize, trace: &LabelledTrace<'_>) -> Result<(), TrainError> {
    if let Some(token) = trace.logits.iter().position(|z| !z.is_finite()) {
        let value = f64::from(trace.logits[token]);
        return Err(TrainError::NonFinite {
            what: "the logit",
            trace: index,
            token,
            value,
        });
    }
    match trace.positions.iter().max() {
        Some(&last) if last >= trace.logits.len() => Err(TrainError::LengthMismatch {
            what: "the list of logits",
            trace: index,
            found: trace.logits.len(),
            expected: last + 1,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
