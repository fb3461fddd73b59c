//! Terms over single token logits: cross-entropy, Wasserstein difference.

use assay_evals::scores::{sigmoid, softplus};

use super::labelled_trace::LabelledTrace;
use super::labels::{Class, Label};
use super::settings::BceSettings;
use crate::masked_mean::masked_mean;

/// 1/2 mean_pos + 1/2 mean_neg of softplus(z) - y z; adds weight * gradient to `grads`.
pub(super) fn bce(
    traces: &[LabelledTrace<'_>],
    labels: &[Label],
    settings: &BceSettings,
    grads: &mut [Vec<f64>],
) -> f64 {
    let eps = settings.smoothing;
    let mut loss = 0.0;
    for (class, target) in [(Class::Positive, 1.0 - eps), (Class::Negative, eps)] {
        let own = of_class(labels, class);
        let mean = masked_mean(own.iter().map(|label| {
            let z = logit(traces, label);
            (softplus(z) - target * z, label.weight)
        }));
        for label in &own {
            let slope = sigmoid(logit(traces, label)) - target;
            grads[label.trace][label.token] +=
                settings.weight * 0.5 * mean.scale * label.weight * slope;
        }
        loss += 0.5 * mean.mean;
    }
    loss
}

/// mean_neg z - mean_pos z; adds weight * gradient to `grads`.
pub(super) fn wgan(
    traces: &[LabelledTrace<'_>],
    labels: &[Label],
    weight: f64,
    grads: &mut [Vec<f64>],
) -> f64 {
    let mut loss = 0.0;
    for (class, sign) in [(Class::Positive, -1.0), (Class::Negative, 1.0)] {
        let own = of_class(labels, class);
        let mean = masked_mean(own.iter().map(|label| (logit(traces, label), label.weight)));
        for label in &own {
            grads[label.trace][label.token] += weight * sign * mean.scale * label.weight;
        }
        loss += sign * mean.mean;
    }
    loss
}

fn logit(traces: &[LabelledTrace<'_>], label: &Label) -> f64 {
    f64::from(traces[label.trace].logits[label.token])
}

/// The labels of a class.
fn of_class(labels: &[Label], class: Class) -> Vec<Label> {
    let own = labels.iter().copied();
    own.filter(|label| label.class == class).collect()
}
