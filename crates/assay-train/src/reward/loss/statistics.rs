//! Accuracies of the discriminator in an update, independent of its loss.

use serde::{Deserialize, Serialize};

use super::labelled_trace::LabelledTrace;
use super::labels::{Class, class_of};
use super::pairwise::{contrast_positions, same_prompt, trace_score};
use super::settings::{DiscriminatorLossSettings, PairScore};
use crate::masked_mean::masked_mean;
use crate::trace::TraceRole;

/// Accuracies and gaps of an update. All traces count equally, whatever their weight. A mean over
/// nothing is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossStatistics {
    /// Share of the experts' labelled positions with z > 0.
    pub accuracy_expert: Option<f64>,
    /// Share of the policy's negative positions with z < 0.
    pub accuracy_policy: Option<f64>,
    /// Share of the perturbed traces' negative positions with z < 0.
    pub accuracy_perturbed: Option<f64>,
    /// Mean of the experts' trace means less the mean of the policy's, in logits.
    pub gap_policy: Option<f64>,
    /// Mean of the experts' trace means less the mean of the perturbed traces', in logits.
    pub gap_perturbed: Option<f64>,
    /// Share of (expert, policy) pairs of one prompt in which the expert's mean logit is higher;
    /// ties count half. This is the within-prompt AUROC of expert against policy; 0.5 means that
    /// they cannot be distinguished. The schedule of policy negatives uses it as the style
    /// advantage.
    pub pairs_policy: Option<f64>,
    /// The same for (expert, perturbed) pairs.
    pub pairs_perturbed: Option<f64>,
    /// Share of (expert, perturbed) pairs in which the expert's logit at the first corrupted token
    /// is higher; ties count half.
    pub pairs_at_error: Option<f64>,
    /// Labelled positions in the positive class.
    pub positives: usize,
    /// Labelled positions in the negative class.
    pub negatives: usize,
}

/// The statistics of an update.
pub(super) fn statistics(
    traces: &[LabelledTrace<'_>],
    settings: &DiscriminatorLossSettings,
) -> LossStatistics {
    let means: Vec<f64> = traces
        .iter()
        .map(|trace| trace_score(trace, PairScore::Mean))
        .collect();
    let pairs = same_prompt(traces);
    let won = |role| {
        let of_role = pairs
            .iter()
            .filter(|&&(_, other)| traces[other].role == role);
        mean(of_role.map(|&(expert, other)| won(means[expert] - means[other])))
    };
    let at_error = pairs.iter().filter_map(|&(expert, other)| {
        let (p, q) = contrast_positions(&traces[expert], &traces[other])?;
        Some(won_at(&traces[expert], p, &traces[other], q))
    });
    let expert = mean_of_role(traces, &means, TraceRole::Expert);
    let gap = |role| Some(expert? - mean_of_role(traces, &means, role)?);
    let count = |class| {
        traces
            .iter()
            .map(|trace| count_of(trace, class, settings))
            .sum()
    };
    LossStatistics {
        accuracy_expert: accuracy(traces, TraceRole::Expert, settings),
        accuracy_policy: accuracy(traces, TraceRole::Policy, settings),
        accuracy_perturbed: accuracy(traces, TraceRole::Perturbed, settings),
        gap_policy: gap(TraceRole::Policy),
        gap_perturbed: gap(TraceRole::Perturbed),
        pairs_policy: won(TraceRole::Policy),
        pairs_perturbed: won(TraceRole::Perturbed),
        pairs_at_error: mean(at_error),
        positives: count(Class::Positive),
        negatives: count(Class::Negative),
    }
}

fn won(margin: f64) -> f64 {
    if margin == 0.0 {
        0.5
    } else {
        f64::from(u8::from(margin > 0.0))
    }
}

fn won_at(expert: &LabelledTrace<'_>, p: usize, other: &LabelledTrace<'_>, q: usize) -> f64 {
    won(f64::from(expert.logits[p]) - f64::from(other.logits[q]))
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mean = masked_mean(values.map(|value| (value, 1.0)));
    (mean.scale > 0.0).then_some(mean.mean)
}

fn mean_of_role(traces: &[LabelledTrace<'_>], means: &[f64], role: TraceRole) -> Option<f64> {
    let own = traces
        .iter()
        .zip(means)
        .filter(|(t, _)| t.role == role && !t.positions.is_empty());
    mean(own.map(|(_, &mean)| mean))
}

/// Share of correct signs among the positions of a role's own class: positive for experts, negative
/// for the others.
fn accuracy(
    traces: &[LabelledTrace<'_>],
    role: TraceRole,
    settings: &DiscriminatorLossSettings,
) -> Option<f64> {
    let class = if role == TraceRole::Expert {
        Class::Positive
    } else {
        Class::Negative
    };
    let own = traces
        .iter()
        .filter(|trace| trace.role == role)
        .flat_map(|trace| {
            let labelled = trace
                .positions
                .iter()
                .filter(move |&&t| class_of(trace, t, settings) == Some(class));
            labelled.map(move |&token| match class {
                Class::Positive => trace.logits[token] > 0.0,
                Class::Negative => trace.logits[token] < 0.0,
            })
        });
    mean(own.map(|right| f64::from(u8::from(right))))
}

fn count_of(
    trace: &LabelledTrace<'_>,
    class: Class,
    settings: &DiscriminatorLossSettings,
) -> usize {
    if trace.weight == 0.0 {
        return 0;
    }
    trace
        .positions
        .iter()
        .filter(|&&token| class_of(trace, token, settings) == Some(class))
        .count()
}
