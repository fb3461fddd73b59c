//! Terms over pairs of one prompt: comparisons of whole traces, and of the corrupted token with its
//! original.

use assay_evals::scores::{sigmoid, softplus};

use super::labelled_trace::LabelledTrace;
use super::labels::is_negative;
use super::settings::{DiscriminatorLossSettings, PairScore};
use crate::masked_mean::masked_mean;
use crate::trace::TraceRole;

/// A pair of traces, with the margin of its term softplus(-margin) and its weight.
struct Pair {
    expert: usize,
    negative: usize,
    margin: f64,
    weight: f64,
}

/// Mean softplus(-(S_expert - S_negative)) over pairs of one prompt; adds weight * gradient to
/// `grads`.
pub(super) fn relativistic(
    traces: &[LabelledTrace<'_>],
    settings: &DiscriminatorLossSettings,
    grads: &mut [Vec<f64>],
) -> f64 {
    let score = settings.relativistic.score;
    let scores: Vec<f64> = traces
        .iter()
        .map(|trace| trace_score(trace, score))
        .collect();
    let mut pairs = Vec::new();
    for (expert, negative) in same_prompt(traces) {
        if is_negative(&traces[negative], settings)
            && !traces[expert].positions.is_empty()
            && !traces[negative].positions.is_empty()
        {
            let weight = f64::from(traces[expert].weight) * f64::from(traces[negative].weight);
            let margin = settings.relativistic.scale * (scores[expert] - scores[negative]);
            pairs.push(Pair {
                expert,
                negative,
                margin,
                weight,
            });
        }
    }
    let mean = masked_mean(
        pairs
            .iter()
            .map(|pair| (softplus(-pair.margin), pair.weight)),
    );
    let mut slopes = vec![0.0; traces.len()];
    for pair in &pairs {
        let factor = settings.relativistic.weight * settings.relativistic.scale * mean.scale;
        let slope = factor * pair.weight * -sigmoid(-pair.margin);
        slopes[pair.expert] += slope;
        slopes[pair.negative] -= slope;
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

/// Mean softplus(-(z_expert - z_perturbed)) at the first labelled positions from the corruption on;
/// adds weight * gradient to `grads`.
pub(super) fn contrast(traces: &[LabelledTrace<'_>], weight: f64, grads: &mut [Vec<f64>]) -> f64 {
    let mut pairs = Vec::new();
    let mut tokens = Vec::new();
    for (expert, negative) in same_prompt(traces) {
        if let Some((p, q)) = contrast_positions(&traces[expert], &traces[negative]) {
            let margin =
                f64::from(traces[expert].logits[p]) - f64::from(traces[negative].logits[q]);
            let weight = f64::from(traces[expert].weight) * f64::from(traces[negative].weight);
            pairs.push(Pair {
                expert,
                negative,
                margin,
                weight,
            });
            tokens.push((p, q));
        }
    }
    let mean = masked_mean(
        pairs
            .iter()
            .map(|pair| (softplus(-pair.margin), pair.weight)),
    );
    for (pair, (p, q)) in pairs.iter().zip(tokens) {
        let slope = weight * mean.scale * pair.weight * -sigmoid(-pair.margin);
        grads[pair.expert][p] += slope;
        grads[pair.negative][q] -= slope;
    }
    mean.mean
}

/// The tokens that the contrast term compares; `None` if the pair has none.
pub(super) fn contrast_positions(
    expert: &LabelledTrace<'_>,
    perturbed: &LabelledTrace<'_>,
) -> Option<(usize, usize)> {
    if perturbed.role != TraceRole::Perturbed {
        return None;
    }
    let from = perturbed.spans.corrupted_from?;
    // A verified policy sample shares the demonstration's prefix only up to their first difference.
    if expert.spans.diverges_at.is_some_and(|at| at <= from) {
        return None;
    }
    // The same holds for a wrong trace that differs from the demonstration before its marked error.
    if perturbed.spans.diverges_at.is_some_and(|at| at < from) {
        return None;
    }
    let first = |trace: &LabelledTrace<'_>| trace.positions.iter().copied().find(|&p| p >= from);
    Some((first(expert)?, first(perturbed)?))
}

/// Every (expert, other) pair of one prompt, in the order of the traces.
pub(super) fn same_prompt(traces: &[LabelledTrace<'_>]) -> Vec<(usize, usize)> {
    let mut order: Vec<usize> = (0..traces.len()).collect();
    order.sort_by_key(|&index| traces[index].group);
    let mut pairs = Vec::new();
    for group in order.chunk_by(|&a, &b| traces[a].group == traces[b].group) {
        let expert = |&&index: &&usize| traces[index].role == TraceRole::Expert;
        for &positive in group.iter().filter(expert) {
            let others = group.iter().filter(|other| !expert(other));
            pairs.extend(others.map(|&other| (positive, other)));
        }
    }
    pairs
}

/// The trace score over labelled positions, 0 without any.
pub(super) fn trace_score(trace: &LabelledTrace<'_>, score: PairScore) -> f64 {
    let z = |&token: &usize| f64::from(trace.logits[token]);
    let count = trace.positions.len() as f64;
    match score {
        _ if trace.positions.is_empty() => 0.0,
        PairScore::Mean => trace.positions.iter().map(z).sum::<f64>() / count,
        PairScore::Last => trace.positions.last().map_or(0.0, z),
        PairScore::SoftMin { temperature } => {
            let least = trace.positions.iter().map(z).fold(f64::INFINITY, f64::min);
            let sum: f64 = trace
                .positions
                .iter()
                .map(|t| ((least - z(t)) / temperature).exp())
                .sum();
            least - temperature * (sum / count).ln()
        }
    }
}

/// dS/dz of every labelled position; the shares sum to 1.
pub(super) fn score_shares(trace: &LabelledTrace<'_>, score: PairScore) -> Vec<(usize, f64)> {
    let count = trace.positions.len() as f64;
    match score {
        PairScore::Mean => trace
            .positions
            .iter()
            .map(|&token| (token, 1.0 / count))
            .collect(),
        PairScore::Last => trace
            .positions
            .last()
            .map(|&token| (token, 1.0))
            .into_iter()
            .collect(),
        PairScore::SoftMin { temperature } => {
            let z = |token: usize| f64::from(trace.logits[token]);
            let least = trace
                .positions
                .iter()
                .map(|&t| z(t))
                .fold(f64::INFINITY, f64::min);
            let exponentials = trace
                .positions
                .iter()
                .map(|&t| (t, ((least - z(t)) / temperature).exp()));
            let exponentials: Vec<_> = exponentials.collect();
            let sum: f64 = exponentials.iter().map(|(_, e)| e).sum();
            exponentials
                .into_iter()
                .map(|(token, e)| (token, e / sum))
                .collect()
        }
    }
}
