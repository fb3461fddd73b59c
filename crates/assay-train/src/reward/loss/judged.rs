//! Agreement with a judge that reads the demonstration, on the traces that it judged.
//!
//! Let d_t be the judge's token rewards, J = sum |d| d / sum |d| its trace score, and S the
//! critic's trace score:
//!
//! L = sum |d_t| softplus(-sign(d_t) z_t) / sum |d_t|
//!   + sum |J_i - J_j| softplus(-scale (S_i - S_j)) / sum |J_i - J_j| over pairs of one prompt with
//!     J_i > J_j.
//!
//! The first sum is over all labelled tokens of all judged traces, the second over all pairs of
//! judged traces. A token with d_t = 0 does not contribute.

use assay_critic::judge::judged_score;
use assay_evals::scores::{sigmoid, softplus};

use super::labelled_trace::LabelledTrace;
use super::pairwise::{score_shares, trace_score};
use super::settings::DiscriminatorLossSettings;
use crate::masked_mean::masked_mean;

/// The term without its weight; adds weight * gradient to `grads`.
pub(super) fn judge(
    traces: &[LabelledTrace<'_>],
    settings: &DiscriminatorLossSettings,
    grads: &mut [Vec<f64>],
) -> f64 {
    tokens(traces, settings.judge.weight, grads) + pairs(traces, settings, grads)
}

fn is_judged(trace: &LabelledTrace<'_>) -> bool {
    !trace.positions.is_empty() && trace.judged.len() == trace.logits.len()
}

/// A judged token: its position, the sign of the judge's reward, and its weight.
struct JudgedToken {
    trace: usize,
    token: usize,
    sign: f64,
    weight: f64,
}

fn tokens(traces: &[LabelledTrace<'_>], weight: f64, grads: &mut [Vec<f64>]) -> f64 {
    let judged = traces.iter().enumerate().filter(|(_, t)| is_judged(t));
    let judged: Vec<JudgedToken> = judged
        .flat_map(|(index, trace)| {
            trace.positions.iter().map(move |&token| {
                let d = f64::from(trace.judged[token]);
                JudgedToken {
                    trace: index,
                    token,
                    sign: d.signum(),
                    weight: d.abs(),
                }
            })
        })
        .collect();
    let margin = |t: &JudgedToken| t.sign * f64::from(traces[t.trace].logits[t.token]);
    let mean = masked_mean(judged.iter().map(|t| (softplus(-margin(t)), t.weight)));
    for t in &judged {
        grads[t.trace][t.token] -= weight * mean.scale * t.weight * t.sign * sigmoid(-margin(t));
    }
    mean.mean
}

/// Two judged traces of one prompt, the better one first.
struct JudgedPair {
    better: usize,
    worse: usize,
    margin: f64,
    weight: f64,
}

fn pairs(
    traces: &[LabelledTrace<'_>],
    settings: &DiscriminatorLossSettings,
    grads: &mut [Vec<f64>],
) -> f64 {
    let (score, scale) = (settings.relativistic.score, settings.relativistic.scale);
    let scores: Vec<f64> = traces.iter().map(|t| trace_score(t, score)).collect();
    let pairs = judged_pairs(traces, |better, worse| {
        scale * (scores[better] - scores[worse])
    });
    let mean = masked_mean(pairs.iter().map(|p| (softplus(-p.margin), p.weight)));
    let mut slopes = vec![0.0; traces.len()];
    for pair in &pairs {
        let factor = settings.judge.weight * scale * mean.scale * pair.weight;
        let slope = factor * -sigmoid(-pair.margin);
        slopes[pair.better] += slope;
        slopes[pair.worse] -= slope;
    }
    for (index, trace) in traces.iter().enumerate() {
        if slopes[index] != 0.0 {
            for (token, share) in score_shares(trace, score) {
                grads[index][token] += slopes[index] * share;
            }
        }
    }
    mean.mean
}

/// All pairs of judged traces of one prompt with different judge scores.
fn judged_pairs(
    traces: &[LabelledTrace<'_>],
    margin: impl Fn(usize, usize) -> f64,
) -> Vec<JudgedPair> {
    let judged: Vec<usize> = (0..traces.len())
        .filter(|&index| is_judged(&traces[index]))
        .collect();
    let rating = |index: usize| f64::from(judged_score(traces[index].judged));
    let mut pairs = Vec::new();
    for (place, &first) in judged.iter().enumerate() {
        for &second in &judged[place + 1..] {
            let difference = rating(first) - rating(second);
            if traces[first].group != traces[second].group || difference == 0.0 {
                continue;
            }
            let (better, worse) = match difference > 0.0 {
                true => (first, second),
                false => (second, first),
            };
            pairs.push(JudgedPair {
                better,
                worse,
                margin: margin(better, worse),
                weight: difference.abs(),
            });
        }
    }
    pairs
}
