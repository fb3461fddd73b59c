//! Token advantages from token rewards, within the group of one prompt.
//!
//! Notation: a group has traces i with token rewards r_it, t = 1..T_i. Mean mu and standard
//! deviation sigma are over traces, each counted with its multiplicity (an expert row counts once
//! or as often as there are samples). sigma' = sigma + epsilon, or 1 if scaling is off; mu = 0 if
//! centring is off. Return-to-go is the backward recursion A_t = a_t + gamma A_{t+1}. (Dividing by
//! gamma^t instead would overflow f32 near 814 tokens at gamma = 0.9.)
//!
//! | kind | trace score R_i | a_it | A_it |
//! |---|---|---|---|
//! | `sparse` | r_iT | (R_i - mu) / sigma' | a_it |
//! | `average` | mean_t r_it | (R_i - mu) / sigma' | a_it |
//! | `dense` | r_iT | (r_it - mu) / sigma' | return-to-go |
//! | `prime` | mean_t r_it | (r_it - mean_{j != i} R_j) / sigma' | return-to-go |
//! | `soft_min` | sum_t w_it r_it, w_i = softmax(-r_i / T) | w_it (r_it - mu) / sigma' | return-to-go with gamma = 1 |
//! | `potential` | r_iT | gamma phi_t - phi_{t-1}, phi_t = (r_it - mu) / sigma', phi_0 = 0 | return-to-go |
//!
//! `soft_min` at the first token is exactly the standardised soft minimum, whatever the length;
//! after the weakest token it is close to 0. `potential` telescopes to A_it = gamma^{T-t+1} phi_T -
//! phi_{t-1}: with gamma = 1, the `sparse` advantage minus the potential before token t.

use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::trace::TraceRole;

/// Added to a standard deviation before dividing by it.
const EPSILON: f64 = 1e-4;

/// The advantage estimator; see the table of this module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum AdvantageKind {
    /// The last token's reward, one scalar per trace.
    Sparse,
    /// Every token's reward minus the mean of the group's last rewards, as a discounted future sum.
    Dense {
        /// Discount in [0, 1]; 0 is a_it itself.
        #[serde(default = "default_gamma")]
        gamma: f64,
    },
    /// Every token's reward minus the mean of the other traces' means.
    Prime {
        /// Discount in [0, 1].
        #[serde(default = "default_gamma")]
        gamma: f64,
    },
    /// The mean token reward, one scalar per trace.
    #[default]
    Average,
    /// Most weight on the tokens with the lowest rewards.
    SoftMin {
        /// T of the credit weights, in rewards, above 0.
        #[serde(default = "default_temperature")]
        temperature: f64,
    },
    /// Potential-based shaping with the token reward as potential.
    Potential {
        /// Discount in [0, 1].
        #[serde(default = "default_gamma")]
        gamma: f64,
    },
}

fn default_gamma() -> f64 {
    0.9
}

fn default_temperature() -> f64 {
    1.0
}

/// The divisor of a difference from the mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StdScale {
    /// 1.
    None,
    /// sqrt(sum (R - mean)^2 / n) + epsilon.
    Population,
    /// sqrt(sum (R - mean)^2 / (n - 1)) + epsilon, as `torch.std` by default.
    #[default]
    Unbiased,
}

/// Whether the demonstration is a member of its prompt's group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpertInGroup {
    /// No.
    #[default]
    Off,
    /// Once.
    Single,
    /// As often as there are samples.
    Balanced,
}

impl ExpertInGroup {
    /// How often the demonstration counts in a group with `samples` samples.
    pub fn multiplicity(self, samples: usize) -> usize {
        match self {
            Self::Off => 0,
            Self::Single => 1,
            Self::Balanced => samples,
        }
    }
}

/// Settings of the advantages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdvantageSettings {
    /// The kind and its numbers.
    pub estimator: AdvantageKind,
    /// Whether the group's mean is subtracted.
    pub centre: bool,
    /// The divisor of the difference.
    pub scale: StdScale,
    /// Share lambda of the verifier's outcome: A = (1 - lambda) A_reward + lambda A_outcome, where
    /// A_outcome is `sparse` on outcomes 0 and 1. The value 1 is GRPO with a verifier. With any
    /// value above 0, training uses more than demonstrations.
    pub outcome_weight: f64,
    /// Whether the demonstration is a member of the group.
    pub expert_in_group: ExpertInGroup,
}

impl Default for AdvantageSettings {
    fn default() -> Self {
        Self {
            estimator: AdvantageKind::Average,
            centre: true,
            scale: StdScale::Unbiased,
            outcome_weight: 0.0,
            expert_in_group: ExpertInGroup::Off,
        }
    }
}

/// One trace of a group with its token rewards.
#[derive(Clone, Copy, Debug)]
pub struct RewardedTrace<'a> {
    /// Expert rows count as `expert_in_group` says; all others once.
    pub role: TraceRole,
    /// r_t, one f32 per completion token.
    pub rewards: &'a [f32],
    /// The verifier's result: 1 for a right answer, 0 for a wrong one, `None` without a verifier.
    pub outcome: Option<f32>,
}

/// The advantages of one or several groups.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdvantageOutput {
    /// One entry per trace, group after group.
    pub traces: Vec<TraceAdvantage>,
    /// Statistics of the groups.
    pub statistics: AdvantageStatistics,
}

/// The advantages of one trace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TraceAdvantage {
    /// A_it, one f32 per token. Tokens with advantage 0 still count in the objective.
    pub values: Vec<f32>,
    /// How often the trace counts in the objective: 1 for samples, 0, 1 or G for an expert row.
    pub multiplicity: f32,
}

/// Statistics of the groups of an iteration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AdvantageStatistics {
    /// Groups.
    pub groups: usize,
    /// Groups whose trace scores are all equal.
    pub zero_std_groups: usize,
    /// Mean over groups of the standard deviation of trace scores, as `scale` defines it
    /// (population when off).
    pub mean_std: f64,
    /// Mean trace score of samples.
    pub mean_score: f64,
    /// Mean |A| over tokens.
    pub mean_magnitude: f64,
}

/// Advantages of every group of an iteration.
///
/// # Errors
/// [`TrainError::NonFinite`] names the trace (counted over all groups) and token of a reward that
/// is not finite; [`TrainError::LengthMismatch`] a trace without tokens.
pub fn advantages(
    groups: &[Vec<RewardedTrace<'_>>],
    settings: &AdvantageSettings,
) -> Result<AdvantageOutput, TrainError> {
    let mut output = AdvantageOutput::default();
    let (mut score_sum, mut samples) = (0.0, 0.0);
    for group in groups {
        check(group, output.traces.len())?;
        let size = group
            .iter()
            .filter(|trace| trace.role != TraceRole::Expert)
            .count();
        let multiplicities: Vec<f64> = group
            .iter()
            .map(|trace| multiplicity(trace, size, settings) as f64)
            .collect();
        let (rows, moments, scores) = group_advantages(group, &multiplicities, settings);
        output.statistics.groups += 1;
        output.statistics.zero_std_groups += usize::from(moments.constant);
        output.statistics.mean_std += moments.std;
        for (trace, score) in group.iter().zip(scores) {
            if trace.role != TraceRole::Expert {
                score_sum += score;
                samples += 1.0;
            }
        }
        let weighted = rows.into_iter().zip(multiplicities);
        output
            .traces
            .extend(weighted.map(|(values, m)| TraceAdvantage {
                values,
                multiplicity: m as f32,
            }));
    }
    let values = || output.traces.iter().flat_map(|trace| &trace.values);
    let tokens = values().count().max(1);
    let magnitude: f64 = values().map(|&a| f64::from(a.abs())).sum();
    output.statistics.mean_std /= groups.len().max(1) as f64;
    output.statistics.mean_score = score_sum / f64::max(samples, 1.0);
    output.statistics.mean_magnitude = magnitude / tokens as f64;
    Ok(output)
}

/// A_t = a_t + gamma A_{t+1}, in place, from the end.
pub fn return_to_go(values: &mut [f64], gamma: f64) {
    let mut following = 0.0;
    for value in values.iter_mut().rev() {
        *value += gamma * following;
        following = *value;
    }
}

impl AdvantageSettings {
    /// Checks the values; `key` is the dotted path of this table, `samples` the group's size.
    ///
    /// # Errors
    /// [`TrainError::InvalidSetting`] names the key.
    pub fn validate(&self, key: &str, samples: usize) -> Result<(), TrainError> {
        match self.estimator {
            AdvantageKind::Dense { gamma }
            | AdvantageKind::Prime { gamma }
            | AdvantageKind::Potential { gamma }
                if !(0.0..=1.0).contains(&gamma) =>
            {
                let reason = format!("must lie in [0, 1], not {gamma}");
                return Err(TrainError::setting(
                    format!("{key}.estimator.gamma"),
                    reason,
                ));
            }
            AdvantageKind::SoftMin { temperature }
                if !(temperature.is_finite() && temperature > 0.0) =>
            {
                let reason = format!("must be above 0, not {temperature}");
                return Err(TrainError::setting(
                    format!("{key}.estimator.temperature"),
                    reason,
                ));
            }
            _ => {}
        }
        if !(0.0..=1.0).contains(&self.outcome_weight) {
            let reason = format!("must lie in [0, 1], not {}", self.outcome_weight);
            return Err(TrainError::setting(format!("{key}.outcome_weight"), reason));
        }
        let members = samples + self.expert_in_group.multiplicity(samples);
        if self.scale != StdScale::None && members < 2 {
            let reason =
                format!("a group of {members} has no standard deviation: set it to \"none\"");
            return Err(TrainError::setting(format!("{key}.scale"), reason));
        }
        if (self.centre || matches!(self.estimator, AdvantageKind::Prime { .. })) && members < 2 {
            let reason = "a group of one is its own mean and every advantage is 0: set it to false";
            return Err(TrainError::setting(format!("{key}.centre"), reason));
        }
        Ok(())
    }
}

/// Mean, divisor and standard deviation of a group's trace scores.
#[derive(Clone, Copy, Debug)]
struct Moments {
    /// mu, 0 when centring is off.
    centre: f64,
    /// sigma', 1 when scaling is off.
    divisor: f64,
    /// The standard deviation itself.
    std: f64,
    /// Whether all scores that count are equal.
    constant: bool,
}

fn multiplicity(trace: &RewardedTrace<'_>, samples: usize, settings: &AdvantageSettings) -> usize {
    match trace.role {
        TraceRole::Expert => settings.expert_in_group.multiplicity(samples),
        TraceRole::Policy | TraceRole::Perturbed => 1,
    }
}

/// Advantages of a group, the moments of its trace scores, and the scores.
fn group_advantages(
    group: &[RewardedTrace<'_>],
    multiplicities: &[f64],
    settings: &AdvantageSettings,
) -> (Vec<Vec<f32>>, Moments, Vec<f64>) {
    let lambda = settings.outcome_weight;
    let (outcomes, verified, outcome_moments) = outcome_advantages(group, multiplicities, settings);
    let scores: Vec<f64> = group
        .iter()
        .map(|trace| trace_score(trace.rewards, settings.estimator))
        .collect();
    let reward_moments = moments(&scores, multiplicities, settings);
    let rows = group.iter().enumerate().map(|(index, trace)| {
        let mut row = vec![0.0; trace.rewards.len()];
        if multiplicities[index] == 0.0 {
            return vec![0.0; row.len()];
        }
        if lambda < 1.0 {
            let centre = match settings.estimator {
                AdvantageKind::Prime { .. } if settings.centre => {
                    leave_one_out(&scores, multiplicities, index)
                }
                _ => reward_moments.centre,
            };
            let own = Moments {
                centre,
                ..reward_moments
            };
            row = token_advantages(trace.rewards, scores[index], own, settings.estimator);
        }
        let mix = |a: &f64| ((1.0 - lambda) * a + lambda * verified[index]) as f32;
        row.iter().map(mix).collect()
    });
    let rows = rows.collect();
    if lambda < 1.0 {
        (rows, reward_moments, scores)
    } else {
        (rows, outcome_moments, outcomes)
    }
}

/// Outcomes, their `sparse` advantages and their moments, over the traces that have one; 0 for the
/// others.
fn outcome_advantages(
    group: &[RewardedTrace<'_>],
    multiplicities: &[f64],
    settings: &AdvantageSettings,
) -> (Vec<f64>, Vec<f64>, Moments) {
    let outcome = |trace: &RewardedTrace<'_>| f64::from(trace.outcome.unwrap_or(0.0));
    let outcomes: Vec<f64> = group.iter().map(outcome).collect();
    let judged = group.iter().zip(multiplicities);
    let judged = judged.map(|(t, &m)| if t.outcome.is_some() { m } else { 0.0 });
    let moments = moments(&outcomes, &judged.collect::<Vec<_>>(), settings);
    let advantage = |trace: &RewardedTrace<'_>| match trace.outcome {
        Some(_) => (outcome(trace) - moments.centre) / moments.divisor,
        None => 0.0,
    };
    let advantages = group.iter().map(advantage).collect();
    (outcomes, advantages, moments)
}

/// A_it of one trace; the moments' centre is the baseline.
fn token_advantages(
    rewards: &[f32],
    score: f64,
    moments: Moments,
    kind: AdvantageKind,
) -> Vec<f64> {
    let standardised = |reward: f64| (reward - moments.centre) / moments.divisor;
    let each = || {
        rewards
            .iter()
            .map(|&reward| standardised(f64::from(reward)))
    };
    match kind {
        AdvantageKind::Sparse | AdvantageKind::Average => vec![standardised(score); rewards.len()],
        AdvantageKind::Dense { gamma } | AdvantageKind::Prime { gamma } => {
            let mut row: Vec<f64> = each().collect();
            return_to_go(&mut row, gamma);
            row
        }
        AdvantageKind::SoftMin { temperature } => {
            let weights = credit_weights(rewards, temperature);
            let mut row: Vec<f64> = each().zip(weights).map(|(a, weight)| weight * a).collect();
            return_to_go(&mut row, 1.0);
            row
        }
        AdvantageKind::Potential { gamma } => {
            let before = std::iter::once(0.0).chain(each());
            let mut row: Vec<f64> = each()
                .zip(before)
                .map(|(now, before)| gamma * now - before)
                .collect();
            return_to_go(&mut row, gamma);
            row
        }
    }
}

/// R_i of a kind; traces are not empty.
fn trace_score(rewards: &[f32], kind: AdvantageKind) -> f64 {
    let each = rewards.iter().map(|&reward| f64::from(reward));
    match kind {
        AdvantageKind::Sparse | AdvantageKind::Dense { .. } | AdvantageKind::Potential { .. } => {
            rewards.last().map_or(0.0, |&reward| f64::from(reward))
        }
        AdvantageKind::Average | AdvantageKind::Prime { .. } => {
            each.sum::<f64>() / rewards.len().max(1) as f64
        }
        AdvantageKind::SoftMin { temperature } => each
            .zip(credit_weights(rewards, temperature))
            .map(|(reward, weight)| reward * weight)
            .sum(),
    }
}

/// softmax(-r / T).
fn credit_weights(rewards: &[f32], temperature: f64) -> Vec<f64> {
    let least = rewards.iter().copied().fold(f32::INFINITY, f32::min);
    let weights = rewards
        .iter()
        .map(|&r| ((f64::from(least) - f64::from(r)) / temperature).exp());
    let weights: Vec<f64> = weights.collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// Mean score of the other members. A member counted m times is among the others m - 1 times.
/// Without other members, its own score.
fn leave_one_out(scores: &[f64], multiplicities: &[f64], index: usize) -> f64 {
    let total: f64 = multiplicities.iter().sum();
    let sum: f64 = scores
        .iter()
        .zip(multiplicities)
        .map(|(score, m)| score * m)
        .sum();
    if total > 1.0 {
        (sum - scores[index]) / (total - 1.0)
    } else {
        scores[index]
    }
}

fn moments(scores: &[f64], multiplicities: &[f64], settings: &AdvantageSettings) -> Moments {
    let members = || scores.iter().zip(multiplicities).filter(|&(_, &m)| m > 0.0);
    let count: f64 = members().map(|(_, m)| m).sum();
    let mean = members().map(|(score, m)| score * m).sum::<f64>() / count.max(1.0);
    let squares: f64 = members().map(|(score, m)| m * (score - mean).powi(2)).sum();
    let degrees = match settings.scale {
        StdScale::Unbiased => count - 1.0,
        StdScale::Population | StdScale::None => count,
    };
    let std = if degrees > 0.0 {
        (squares / degrees).sqrt()
    } else {
        0.0
    };
    let first = members().next().map(|(&score, _)| score);
    Moments {
        centre: if settings.centre { mean } else { 0.0 },
        divisor: if settings.scale == StdScale::None {
            1.0
        } else {
            std + EPSILON
        },
        std,
        constant: members().all(|(&score, _)| Some(score) == first),
    }
}

fn check(group: &[RewardedTrace<'_>], first: usize) -> Result<(), TrainError> {
    for (index, trace) in group.iter().enumerate() {
        let index = first + index;
        if trace.rewards.is_empty() {
            return Err(TrainError::LengthMismatch {
                what: "the list of rewards",
                trace: index,
                found: 0,
                expected: 1,
            });
        }
        if let Some(token) = trace.rewards.iter().position(|reward| !reward.is_finite()) {
            let value = f64::from(trace.rewards[token]);
            return Err(TrainError::NonFinite {
                what: "the reward",
                trace: index,
                token,
                value,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
