//! The clipped policy objective and its gradient with respect to token log-probabilities.
//!
//! With w_t = exp(logp_t - logp_old_t) and advantage A_t, per token:
//!
//! L_t = -c_t min(min(w_t, delta) A_t, clamp(w_t, 1 - clip_low, 1 + clip_high) A_t) + beta k3_t,
//! c_t = min(exp(logp_old_t - logp_sampling_t), cap) if the sampler's log-probabilities are given,
//! else 1, k3_t = exp(ref_t - logp_t) - (ref_t - logp_t) - 1.
//!
//! Reductions divide by the size of the whole update ([`UpdateSize`]), so the parts of
//! micro-batches add up to the whole. Every completion token counts, whatever its advantage.
//! Gradients flow through logp only.

use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::trace::TraceRole;

/// One trace of an update, as an input of the objective.
///
/// # Shapes
/// All lists have one f32 per completion token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PolicyTrace<'a> {
    /// A sample, or the demonstration. The demonstration's ratio is 1 in the first pass, because
    /// `old` holds the policy's own log-probabilities.
    pub role: TraceRole,
    /// log pi(y_t | y_<t) of the policy being trained.
    pub logprobs: &'a [f32],
    /// The same before the update, recomputed by the trainer, not taken from the sampler.
    pub old: &'a [f32],
    /// log-probabilities of the reference policy, if beta > 0.
    pub reference: Option<&'a [f32]>,
    /// log-probabilities under the distribution that the trace was sampled from; `None` for a trace
    /// that was not sampled.
    pub sampling: Option<&'a [f32]>,
    /// A_t.
    pub advantages: &'a [f32],
    /// How often the trace counts; 0 leaves it out.
    pub multiplicity: f32,
    /// How the completion ended.
    pub ending: Ending,
}

/// How a completion ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ending {
    /// With an end-of-turn token.
    #[default]
    Stopped,
    /// At the completion limit.
    Truncated,
}

/// The reduction of token losses to one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Reduction {
    /// Mean over a trace's tokens, then over traces.
    #[default]
    Grpo,
    /// Mean over all tokens of the update.
    #[serde(alias = "dapo")]
    Bnpo,
    /// Sum over tokens / (traces * `max_length`).
    DrGrpo {
        /// The completion limit in tokens.
        max_length: usize,
    },
}

/// Settings of the objective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectiveSettings {
    /// Lower clip distance.
    pub clip_low: f64,
    /// Upper clip distance; 0.28 is clip-higher.
    pub clip_high: f64,
    /// Upper bound of the ratio where clipping has no effect (negative advantages); `inf` for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// Weight beta of the KL term against the reference policy; 0 is off.
    pub kl_weight: f64,
    /// The reduction of token losses to one number.
    pub reduction: Reduction,
    /// Whether truncated completions are left out.
    pub mask_truncated: bool,
    /// Cap of the importance weight between sampler and policy; 0 only measures their gap.
    pub importance_cap: f64,
}

impl Default for ObjectiveSettings {
    fn default() -> Self {
        Self {
            clip_low: 0.2,
            clip_high: 0.2,
            delta: None,
            kl_weight: 0.0,
            reduction: Reduction::Grpo,
            mask_truncated: false,
            importance_cap: 2.0,
        }
    }
}

/// Size of a whole update: the denominators of the reductions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct UpdateSize {
    /// Traces that count, with their multiplicities.
    pub traces: f64,
    /// Their tokens.
    pub tokens: f64,
}

impl UpdateSize {
    /// The size of an update.
    pub(crate) fn of(traces: &[PolicyTrace<'_>], settings: &ObjectiveSettings) -> Self {
        let mut size = Self::default();
        for trace in traces {
            let weight = multiplicity(trace, settings);
            size.traces += weight;
            size.tokens += weight * trace.logprobs.len() as f64;
        }
        size
    }
}

/// The objective of an update, or of a part of one.
#[derive(Clone, Debug, Default)]
pub(crate) struct ObjectiveOutput {
    /// The loss. The losses of parts add up.
    pub loss: f64,
    /// dL/d logp, one list per trace, one entry per token.
    pub grads: Vec<Vec<f32>>,
    /// Statistics of the update.
    pub statistics: ObjectiveStatistics,
}

/// Token averages over the traces that count; 0 without such tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ObjectiveStatistics {
    /// Tokens that count.
    pub tokens: usize,
    /// Share of tokens clipped from below: w < 1 - clip_low with A < 0.
    pub clip_fraction_low: f64,
    /// Share of tokens clipped from above: w > 1 + clip_high with A > 0.
    pub clip_fraction_high: f64,
    /// Mean of w - 1 - log w: divergence from the policy before the update.
    pub approx_kl: f64,
    /// Mean k3 against the reference policy, over tokens that have one.
    pub reference_kl: f64,
    /// Mean importance ratio w.
    pub ratio_mean: f64,
    /// Largest importance ratio.
    pub ratio_max: f64,
    /// Mean |logp_old - logp_sampling| over tokens that have both.
    pub sampling_gap_mean: f64,
    /// The largest such value.
    pub sampling_gap_max: f64,
    /// Mean importance weight min(cap, pi_old / pi_sampling) of the tokens that have both; 1
    /// without such tokens.
    pub importance_mean: f64,
    /// Share of those tokens whose weight is capped.
    pub importance_capped: f64,
    /// Share of off-policy tokens: those of demonstrations.
    pub expert_share: f64,
    /// Traces left out because they are truncated.
    pub masked_traces: usize,
}

/// The objective of a whole update.
///
/// # Errors
/// As [`objective_of_part`].
pub(crate) fn objective(
    traces: &[PolicyTrace<'_>],
    settings: &ObjectiveSettings,
) -> Result<ObjectiveOutput, TrainError> {
    objective_of_part(traces, UpdateSize::of(traces, settings), settings)
}

/// The contribution of some traces to the objective of an update of the given size.
///
/// # Errors
/// [`TrainError::LengthMismatch`] names a list that is not as long as `logprobs`;
/// [`TrainError::NonFinite`] a trace and token whose loss is not finite.
pub(crate) fn objective_of_part(
    traces: &[PolicyTrace<'_>],
    size: UpdateSize,
    settings: &ObjectiveSettings,
) -> Result<ObjectiveOutput, TrainError> {
    let mut output = ObjectiveOutput::default();
    let mut sums = Sums::default();
    for (index, trace) in traces.iter().enumerate() {
        check_lengths(index, trace)?;
        let weight = multiplicity(trace, settings);
        let mut grads = vec![0.0; trace.logprobs.len()];
        if weight > 0.0 {
            let scale = weight * token_scale(trace.logprobs.len(), size, settings.reduction);
            for (token, grad) in grads.iter_mut().enumerate() {
                let term = TokenTerm::new(trace, token, settings);
                if !(term.loss.is_finite() && term.slope.is_finite()) {
                    let what = "the policy loss";
                    return Err(TrainError::NonFinite {
                        what,
                        trace: index,
                        token,
                        value: term.loss,
                    });
                }
                output.loss += scale * term.loss;
                *grad = (scale * term.slope) as f32;
                sums.add(trace, &term, token, settings);
            }
        } else if trace.multiplicity > 0.0 {
            sums.masked_traces += 1;
        }
        output.grads.push(grads);
    }
    output.statistics = sums.statistics();
    Ok(output)
}

impl ObjectiveSettings {
    /// delta, or infinity if it is not set.
    fn largest_ratio(&self) -> f64 {
        self.delta.unwrap_or(f64::INFINITY)
    }

    /// Checks the values; `key` is the dotted path of this table.
    ///
    /// # Errors
    /// [`TrainError::InvalidSetting`] names the key.
    pub fn validate(&self, key: &str) -> Result<(), TrainError> {
        let checks = [
            (
                "clip_low",
                self.clip_low,
                (0.0..=1.0).contains(&self.clip_low),
            ),
            (
                "clip_high",
                self.clip_high,
                self.clip_high.is_finite() && self.clip_high >= 0.0,
            ),
            (
                "delta",
                self.largest_ratio(),
                self.largest_ratio() > 1.0 + self.clip_high,
            ),
            (
                "kl_weight",
                self.kl_weight,
                self.kl_weight.is_finite() && self.kl_weight >= 0.0,
            ),
            (
                "importance_cap",
                self.importance_cap,
                self.importance_cap >= 0.0,
            ),
        ];
        if let Some((name, value, _)) = checks.iter().find(|(_, _, allowed)| !allowed) {
            let allowed = match *name {
                "clip_low" => "must lie in [0, 1]",
                "delta" => "must be above 1 + clip_high",
                "importance_cap" => "must be at least 0",
                _ => "must be finite and at least 0",
            };
            return Err(TrainError::setting(
                format!("{key}.{name}"),
                format!("{allowed}, not {value}"),
            ));
        }
        match self.reduction {
            Reduction::DrGrpo { max_length: 0 } => Err(TrainError::setting(
                format!("{key}.reduction.max_length"),
                "must be at least 1, not 0",
            )),
            _ => Ok(()),
        }
    }
}

/// Loss and gradient of one token before the reduction.
struct TokenTerm {
    loss: f64,
    /// d loss / d logp.
    slope: f64,
    ratio: f64,
    log_ratio: f64,
    reference_kl: Option<f64>,
    sampling_gap: Option<f64>,
    /// pi_old / pi_sampling before the cap; `None` without correction.
    importance: Option<f64>,
}

impl TokenTerm {
    fn new(trace: &PolicyTrace<'_>, token: usize, settings: &ObjectiveSettings) -> Self {
        let at = |list: &[f32]| f64::from(list[token]);
        let (logprob, old, advantage) = (at(trace.logprobs), at(trace.old), at(trace.advantages));
        let log_ratio = logprob - old;
        let ratio = log_ratio.exp();
        let (surrogate, slope) = surrogate(ratio, advantage, settings);
        let sampling = trace.sampling.map(at);
        let importance = sampling
            .filter(|_| settings.importance_cap > 0.0)
            .map(|sampling| (old - sampling).exp());
        let weight = importance.map_or(1.0, |weight| weight.min(settings.importance_cap));
        let (mut loss, mut slope) = (-weight * surrogate, -weight * slope);
        let reference_kl = trace.reference.map(|reference| {
            let difference = at(reference) - logprob;
            if settings.kl_weight != 0.0 {
                loss += settings.kl_weight * (difference.exp() - difference - 1.0);
                slope += settings.kl_weight * (1.0 - difference.exp());
            }
            difference.exp() - difference - 1.0
        });
        let sampling_gap = sampling.map(|sampling| (old - sampling).abs());
        Self {
            loss,
            slope,
            ratio,
            log_ratio,
            reference_kl,
            sampling_gap,
            importance,
        }
    }
}

/// min(min(w, delta) A, clamp(w) A) and its derivative with respect to log w. At a tie the
/// derivative is the mean of both, as in autograd's minimum.
fn surrogate(ratio: f64, advantage: f64, settings: &ObjectiveSettings) -> (f64, f64) {
    let (low, high) = (1.0 - settings.clip_low, 1.0 + settings.clip_high);
    let largest = settings.largest_ratio();
    let free = ratio.min(largest) * advantage;
    let free_slope = if ratio <= largest {
        ratio * advantage
    } else {
        0.0
    };
    let clipped = ratio.clamp(low, high) * advantage;
    let clipped_slope = if (low..=high).contains(&ratio) {
        ratio * advantage
    } else {
        0.0
    };
    if free < clipped {
        (free, free_slope)
    } else if clipped < free {
        (clipped, clipped_slope)
    } else {
        (free, 0.5 * (free_slope + clipped_slope))
    }
}

fn multiplicity(trace: &PolicyTrace<'_>, settings: &ObjectiveSettings) -> f64 {
    let masked = settings.mask_truncated && trace.ending == Ending::Truncated;
    if masked || trace.logprobs.is_empty() {
        0.0
    } else {
        f64::from(trace.multiplicity)
    }
}

/// Factor of one token's loss; 0 for an update without traces.
fn token_scale(length: usize, size: UpdateSize, reduction: Reduction) -> f64 {
    let denominator = match reduction {
        Reduction::Grpo => size.traces * length as f64,
        Reduction::Bnpo => size.tokens,
        Reduction::DrGrpo { max_length } => size.traces * max_length as f64,
    };
    if denominator > 0.0 {
        1.0 / denominator
    } else {
        0.0
    }
}

fn check_lengths(index: usize, trace: &PolicyTrace<'_>) -> Result<(), TrainError> {
    let expected = trace.logprobs.len();
    let lists = [
        ("the list of old log-probabilities", Some(trace.old)),
        ("the list of advantages", Some(trace.advantages)),
        ("the list of reference log-probabilities", trace.reference),
        ("the list of sampling log-probabilities", trace.sampling),
    ];
    for (what, list) in lists {
        if let Some(list) = list.filter(|list| list.len() != expected) {
            return Err(TrainError::LengthMismatch {
                what,
                trace: index,
                found: list.len(),
                expected,
            });
        }
    }
    Ok(())
}

/// Sums behind [`ObjectiveStatistics`].
#[derive(Default)]
struct Sums {
    tokens: usize,
    low: f64,
    high: f64,
    approx_kl: f64,
    ratio: f64,
    ratio_max: f64,
    reference: (f64, f64),
    gap: (f64, f64),
    gap_max: f64,
    /// Sum of the weights, number of capped weights, number of weights.
    importance: (f64, f64, f64),
    expert: f64,
    masked_traces: usize,
}

impl Sums {
    fn add(
        &mut self,
        trace: &PolicyTrace<'_>,
        term: &TokenTerm,
        token: usize,
        settings: &ObjectiveSettings,
    ) {
        let advantage = trace.advantages[token];
        let indicator = |condition: bool| f64::from(u8::from(condition));
        self.tokens += 1;
        self.low += indicator(term.ratio < 1.0 - settings.clip_low && advantage < 0.0);
        self.high += indicator(term.ratio > 1.0 + settings.clip_high && advantage > 0.0);
        self.approx_kl += term.ratio - 1.0 - term.log_ratio;
        self.ratio += term.ratio;
        self.ratio_max = self.ratio_max.max(term.ratio);
        if let Some(kl) = term.reference_kl {
            self.reference = (self.reference.0 + kl, self.reference.1 + 1.0);
        }
        if let Some(gap) = term.sampling_gap {
            self.gap = (self.gap.0 + gap, self.gap.1 + 1.0);
            self.gap_max = self.gap_max.max(gap);
        }
        if let Some(importance) = term.importance {
            let cap = settings.importance_cap;
            self.importance.0 += importance.min(cap);
            self.importance.1 += indicator(importance > cap);
            self.importance.2 += 1.0;
        }
        self.expert += indicator(trace.role == TraceRole::Expert);
    }

    fn statistics(&self) -> ObjectiveStatistics {
        let tokens = self.tokens.max(1) as f64;
        let (importance, capped, weighted) = self.importance;
        ObjectiveStatistics {
            tokens: self.tokens,
            clip_fraction_low: self.low / tokens,
            clip_fraction_high: self.high / tokens,
            approx_kl: self.approx_kl / tokens,
            reference_kl: self.reference.0 / self.reference.1.max(1.0),
            ratio_mean: self.ratio / tokens,
            ratio_max: self.ratio_max,
            sampling_gap_mean: self.gap.0 / self.gap.1.max(1.0),
            sampling_gap_max: self.gap_max,
            importance_mean: if weighted > 0.0 {
                importance / weighted
            } else {
                1.0
            },
            importance_capped: capped / weighted.max(1.0),
            expert_share: self.expert / tokens,
            masked_traces: self.masked_traces,
        }
    }
}

#[cfg(test)]
mod tests;
