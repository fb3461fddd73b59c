//! The class and weight of each labelled position.

use super::labelled_trace::LabelledTrace;
use super::settings::{DiscriminatorLossSettings, PolicyLabels, PrefixLabels, SuffixLabels};
use crate::trace::TraceRole;

/// The class of a labelled position. Smoothing moves the target of a class, never the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Positive,
    Negative,
}

/// A labelled position of an update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Label {
    /// Index of the trace.
    pub(super) trace: usize,
    /// Index of the completion token.
    pub(super) token: usize,
    /// Its class.
    pub(super) class: Class,
    /// The trace's weight.
    pub(super) weight: f64,
}

/// All labels of an update, trace by trace.
pub(super) fn labels(
    traces: &[LabelledTrace<'_>],
    settings: &DiscriminatorLossSettings,
) -> Vec<Label> {
    let mut labels = Vec::new();
    for (index, trace) in traces.iter().enumerate() {
        let weight = f64::from(trace.weight);
        if weight == 0.0 {
            continue;
        }
        for &token in trace.positions {
            if let Some(class) = class_of(trace, token, settings) {
                labels.push(Label {
                    trace: index,
                    token,
                    class,
                    weight,
                });
            }
        }
    }
    labels
}

/// The class of one token; `None` if it has no label.
pub(super) fn class_of(
    trace: &LabelledTrace<'_>,
    token: usize,
    settings: &DiscriminatorLossSettings,
) -> Option<Class> {
    match trace.role {
        TraceRole::Expert => Some(Class::Positive),
        TraceRole::Perturbed
            if trace
                .spans
                .corrupted_until
                .is_some_and(|until| token >= until) =>
        {
            match settings.suffix_labels {
                SuffixLabels::Negative => Some(Class::Negative),
                SuffixLabels::LeftOut => None,
                SuffixLabels::Positive => Some(Class::Positive),
            }
        }
        TraceRole::Perturbed if token >= trace.spans.corrupted_from.unwrap_or(0) => {
            Some(Class::Negative)
        }
        TraceRole::Perturbed => match settings.prefix_labels {
            PrefixLabels::Positive => Some(Class::Positive),
            PrefixLabels::LeftOut => None,
            PrefixLabels::Whole => Some(Class::Negative),
        },
        TraceRole::Policy => match settings.policy_labels {
            PolicyLabels::Whole => Some(Class::Negative),
            PolicyLabels::FromDivergence => trace
                .spans
                .diverges_at
                .is_some_and(|from| token >= from)
                .then_some(Class::Negative),
        },
    }
}

/// Whether a trace may be the negative of a pair.
pub(super) fn is_negative(trace: &LabelledTrace<'_>, settings: &DiscriminatorLossSettings) -> bool {
    match trace.role {
        TraceRole::Expert => false,
        TraceRole::Perturbed => true,
        TraceRole::Policy => {
            settings.policy_labels == PolicyLabels::Whole || trace.spans.diverges_at.is_some()
        }
    }
}
