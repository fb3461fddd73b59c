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
mod labels;
mod pairwise;
mod pointwise;
mod statistics;

use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::trace::{TokenSpans, TraceRole};
pub use statistics::LossStatistics;

/// One trace of an update, as an input of the loss.
///
/// # Shapes
/// `logits`: one f32 per completion token; `positions`: labelled tokens, ascending, within
/// `logits`.
#[derive(Clone, Copy, Debug)]
pub struct LabelledTrace<'a> {
    /// The prompt it belongs to; pairs are formed within one group.
    pub group: usize,
    /// Who wrote it.
    pub role: TraceRole,
    /// Token logits z_t.
    pub logits: &'a [f32],
    /// Tokens that carry a label.
    pub positions: &'a [usize],
    /// Which tokens are corrupted, or differ from the demonstration.
    pub spans: TokenSpans,
    /// Weight of the trace within its class and in pairs. A trace with weight 0 is left out of the
    /// loss but not of the statistics.
    pub weight: f32,
    /// The judge's token rewards, one per token; empty for a trace that was not judged.
    pub judged: &'a [f32],
}

/// Settings of the discriminator's loss.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiscriminatorLossSettings {
    /// Class-balanced binary cross-entropy on token logits.
    pub bce: BceSettings,
    /// Comparison of whole traces within a prompt.
    pub relativistic: RelativisticSettings,
    /// Comparison of demonstration and perturbation at the corrupted token.
    pub contrast: ContrastSettings,
    /// Wasserstein critic.
    pub wgan: WganSettings,
    /// Agreement with a judge that reads the demonstration.
    pub judge: JudgeSettings,
    /// Labels of the tokens before the corruption of a perturbed demonstration.
    pub prefix_labels: PrefixLabels,
    /// Labels of the tokens after the corrupted span of a perturbed demonstration.
    pub suffix_labels: SuffixLabels,
    /// Which tokens of a policy sample are negative.
    pub policy_labels: PolicyLabels,
}

/// Class-balanced binary cross-entropy: L = 1/2 mean_pos + 1/2 mean_neg.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BceSettings {
    /// Factor of the term; 0 is off.
    pub weight: f64,
    /// Label smoothing eps in [0, 1/2): targets are 1 - eps and eps. The first version of the paper
    /// halves its eps.
    pub smoothing: f64,
}

impl Default for BceSettings {
    fn default() -> Self {
        Self {
            weight: 1.0,
            smoothing: 0.0,
        }
    }
}

/// Relativistic term: softplus(-scale (S_expert - S_negative)), mean over pairs of one prompt.
///
/// A pair counts with the product of its traces' weights. A policy sample equal to the
/// demonstration forms no pair when `policy_labels` is `from_divergence`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelativisticSettings {
    /// Factor of the term; 0 is off.
    pub weight: f64,
    /// The trace score S over labelled positions; the gradient flows through it.
    pub score: PairScore,
    /// Factor of S_expert - S_negative; larger values give more weight to small differences.
    pub scale: f64,
}

impl Default for RelativisticSettings {
    fn default() -> Self {
        Self {
            weight: 1.0,
            score: PairScore::Mean,
            scale: 1.0,
        }
    }
}

/// A differentiable trace score over labelled positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum PairScore {
    /// mean z.
    #[default]
    Mean,
    /// -T log mean exp(-z / T): near the minimum for small T, near the mean for large T.
    SoftMin {
        /// T in logits, above 0.
        #[serde(default = "default_temperature")]
        temperature: f64,
    },
    /// z at the last labelled position.
    Last,
}

fn default_temperature() -> f64 {
    1.0
}

/// Localised pair term: `softplus(-(z_expert[p] - z_perturbed[q]))`, mean over pairs of one prompt,
/// with p and q the first labelled positions at or after the first corrupted token.
///
/// Demonstration and perturbation share every token before it, so only the error differs. A pair
/// without such positions is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContrastSettings {
    /// Factor of the term; 0 is off.
    pub weight: f64,
}

/// Wasserstein critic with hard labels: mean_neg z - mean_pos z, global means.
///
/// The Lipschitz bound is the original one: after each optimiser step every trained parameter is
/// clipped to [-c, c] with c = [`WganSettings::CLIP`]. The optimiser's decoupled weight decay still
/// applies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WganSettings {
    /// Factor of the term; 0 is off.
    pub weight: f64,
}

impl WganSettings {
    /// Largest absolute value of a trained parameter while the term is on.
    pub const CLIP: f32 = 0.1;
}

/// Agreement with a judge that reads the demonstration, on policy samples.
///
/// It is off by default, because judging takes three forward passes over the samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JudgeSettings {
    /// Factor of the term; 0 is off.
    pub weight: f64,
}

/// Labels of the tokens before the corruption of a perturbed demonstration. The expert wrote these
/// tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrefixLabels {
    /// Positive, as in the demonstration.
    #[default]
    Positive,
    /// Without a label.
    LeftOut,
    /// Negative like the rest (the paper), so the error is not localised.
    Whole,
}

/// Labels of the tokens after the corrupted span of a perturbed demonstration. The expert wrote
/// these tokens, but they follow an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuffixLabels {
    /// Negative: text that follows from an error is wrong.
    #[default]
    Negative,
    /// Without a label.
    LeftOut,
    /// Positive: only the corrupted span is negative, so the reward rises again after the error.
    Positive,
}

/// Which tokens of a policy sample are negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyLabels {
    /// Those from the first difference to the demonstration on; none if there is no difference.
    #[default]
    FromDivergence,
    /// All (the paper).
    Whole,
}

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

impl DiscriminatorLossSettings {
    /// Checks the values; `key` is the dotted path of this table.
    ///
    /// # Errors
    /// [`TrainError::InvalidSetting`] names the key.
    pub fn validate(&self, key: &str) -> Result<(), TrainError> {
        let weights = [
            ("bce.weight", self.bce.weight),
            ("relativistic.weight", self.relativistic.weight),
            ("contrast.weight", self.contrast.weight),
            ("wgan.weight", self.wgan.weight),
            ("judge.weight", self.judge.weight),
        ];
        for (name, weight) in weights {
            if !(weight.is_finite() && weight >= 0.0) {
                let reason = format!("must be finite and at least 0, not {weight}");
                return Err(TrainError::setting(format!("{key}.{name}"), reason));
            }
        }
        if weights.iter().all(|&(_, weight)| weight == 0.0) {
            let reason =
                "bce, relativistic, contrast, wgan and judge are all off: nothing is learned";
            return Err(TrainError::setting(key, reason));
        }
        if !(0.0..0.5).contains(&self.bce.smoothing) {
            let reason = format!("must lie in [0, 0.5), not {}", self.bce.smoothing);
            return Err(TrainError::setting(format!("{key}.bce.smoothing"), reason));
        }
        if !(self.relativistic.scale.is_finite() && self.relativistic.scale > 0.0) {
            let reason = format!("must be above 0, not {}", self.relativistic.scale);
            return Err(TrainError::setting(
                format!("{key}.relativistic.scale"),
                reason,
            ));
        }
        match self.relativistic.score {
            PairScore::SoftMin { temperature }
                if !(temperature.is_finite() && temperature > 0.0) =>
            {
                let reason = format!("must be above 0, not {temperature}");
                Err(TrainError::setting(
                    format!("{key}.relativistic.score.temperature"),
                    reason,
                ))
            }
            _ => Ok(()),
        }
    }
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

/// log(1 + exp(x)) without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// 1 / (1 + exp(-x)) without overflow.
fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

#[cfg(test)]
mod tests;
