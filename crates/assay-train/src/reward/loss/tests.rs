use assay_evals::scores::sigmoid;

use super::*;
use crate::trace::{TokenSpans, TraceRole};
use proptest::prelude::*;

const LN2: f64 = std::f64::consts::LN_2;

/// A trace of the golden file.
#[derive(Clone, Debug, Deserialize)]
struct OwnedTrace {
    group: usize,
    role: TraceRole,
    logits: Vec<f32>,
    positions: Vec<usize>,
    corrupted_from: Option<usize>,
    corrupted_until: Option<usize>,
    diverges_at: Option<usize>,
    weight: f32,
    #[serde(default)]
    judged: Vec<f32>,
}

impl OwnedTrace {
    fn dense(group: usize, role: TraceRole, logits: &[f32]) -> Self {
        let positions = (0..logits.len()).collect();
        Self {
            group,
            role,
            logits: logits.to_vec(),
            positions,
            corrupted_from: None,
            corrupted_until: None,
            diverges_at: (role == TraceRole::Policy).then_some(0),
            weight: 1.0,
            judged: Vec::new(),
        }
    }

    fn as_labelled(&self) -> LabelledTrace<'_> {
        LabelledTrace {
            group: self.group,
            role: self.role,
            logits: &self.logits,
            positions: &self.positions,
            spans: TokenSpans {
                corrupted_from: self.corrupted_from,
                corrupted_until: self.corrupted_until,
                diverges_at: self.diverges_at,
            },
            weight: self.weight,
            judged: &self.judged,
        }
    }
}

#[derive(Deserialize)]
struct GoldenCase {
    name: String,
    settings: DiscriminatorLossSettings,
    traces: Vec<OwnedTrace>,
    loss: f64,
    terms: std::collections::BTreeMap<String, f64>,
    grads: Vec<Vec<f64>>,
}

fn run(traces: &[OwnedTrace], settings: &DiscriminatorLossSettings) -> LossOutput {
    let labelled: Vec<_> = traces.iter().map(OwnedTrace::as_labelled).collect();
    discriminator_loss(&labelled, settings).unwrap()
}

/// All terms off; whole traces labelled.
fn nothing() -> DiscriminatorLossSettings {
    DiscriminatorLossSettings {
        bce: BceSettings {
            weight: 0.0,
            ..Default::default()
        },
        relativistic: RelativisticSettings {
            weight: 0.0,
            ..Default::default()
        },
        prefix_labels: PrefixLabels::Whole,
        policy_labels: PolicyLabels::Whole,
        ..Default::default()
    }
}

fn bce_only() -> DiscriminatorLossSettings {
    DiscriminatorLossSettings {
        bce: BceSettings::default(),
        ..nothing()
    }
}

fn close(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() <= 1e-6 * expected.abs().max(1.0),
        "{found} is not {expected}"
    );
}

#[test]
fn losses_and_gradients_match_autograd() {
    let cases: Vec<GoldenCase> =
        serde_json::from_str(include_str!("../../../tests/golden/loss.json")).unwrap();
    assert_eq!(cases.len(), 9);
    for case in cases {
        let output = run(&case.traces, &case.settings);
        close(output.loss, case.loss);
        for (name, value) in output.terms.named() {
            let expected = case.terms.get(name).copied().unwrap_or(0.0);
            assert!(
                (value - expected).abs() < 1e-6,
                "{}: {name} is {value}, not {expected}",
                case.name
            );
        }
        for (found, expected) in output
            .grads
            .iter()
            .flatten()
            .zip(case.grads.iter().flatten())
        {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-6,
                "{}: {found} is not {expected}",
                case.name
            );
        }
    }
}

#[test]
fn bce_by_hand() {
    use TraceRole::{Expert, Policy};
    let traces = [
        OwnedTrace::dense(0, Expert, &[0.0, 0.0]),
        OwnedTrace::dense(0, Policy, &[0.0]),
    ];
    let output = run(&traces, &bce_only());
    close(output.loss, LN2);
    assert_eq!(output.grads, [vec![-0.125, -0.125], vec![0.25]]);
    assert_eq!(output.statistics.pairs_policy, Some(0.5));
    assert_eq!(
        (output.statistics.positives, output.statistics.negatives),
        (2, 1)
    );
}

/// The class means are over the whole update, so unequal numbers of negatives per prompt need no
/// class weights.
#[test]
fn fault_03_class_balance_with_several_prompts() {
    use TraceRole::{Expert, Policy};
    let traces = [
        OwnedTrace::dense(0, Expert, &[2.0]),
        OwnedTrace::dense(0, Policy, &[1.0, -1.0, 0.5]),
        OwnedTrace::dense(1, Expert, &[-1.0, 3.0]),
        OwnedTrace::dense(1, Policy, &[0.0]),
        OwnedTrace::dense(1, Policy, &[4.0]),
    ];
    let output = run(&traces, &bce_only());
    let l = |z: f64| (1.0 + z.exp()).ln();
    let positive = (l(-2.0) + l(1.0) + l(-3.0)) / 3.0;
    let negative = (l(1.0) + l(-1.0) + l(0.5) + l(0.0) + l(4.0)) / 5.0;
    close(output.loss, 0.5 * positive + 0.5 * negative);
    let pushes = |role: TraceRole| -> f64 {
        let of_role = traces
            .iter()
            .zip(&output.grads)
            .filter(|(trace, _)| trace.role == role);
        of_role
            .flat_map(|(trace, grads)| trace.logits.iter().zip(grads))
            .map(|(&z, &g)| {
                let target = if role == Expert { 1.0 } else { 0.0 };
                f64::from(g) / (sigmoid(f64::from(z)) - target)
            })
            .sum()
    };
    close(pushes(Expert), 0.5);
    close(pushes(Policy), 0.5);
}

/// An update repeated twice has the same loss and half the gradient per token: the loss does not
/// depend on the numbers of traces, prompts or micro-batches.
#[test]
fn fault_04_scale_independent_of_the_cut() {
    let cases: Vec<GoldenCase> =
        serde_json::from_str(include_str!("../../../tests/golden/loss.json")).unwrap();
    for case in cases {
        let once = run(&case.traces, &case.settings);
        let again = case.traces.iter().cloned().map(|trace| OwnedTrace {
            group: trace.group + 10,
            ..trace
        });
        let doubled: Vec<_> = case.traces.iter().cloned().chain(again).collect();
        let twice = run(&doubled, &case.settings);
        close(twice.loss, once.loss);
        for (whole, half) in once
            .grads
            .iter()
            .flatten()
            .zip(twice.grads.iter().flatten())
        {
            assert!((whole / 2.0 - half).abs() < 1e-7, "{}", case.name);
        }
    }
}

/// Smoothing changes targets. The class of a position follows from roles, never from a label's
/// value.
#[test]
fn fault_05_smoothed_labels_are_not_masks() {
    use TraceRole::{Expert, Policy};
    let traces = [
        OwnedTrace::dense(0, Expert, &[1.0, 1.0, 1.0]),
        OwnedTrace::dense(0, Policy, &[-2.0]),
    ];
    for eps in [0.1, 0.05] {
        let bce = BceSettings {
            smoothing: eps,
            ..Default::default()
        };
        let output = run(&traces, &DiscriminatorLossSettings { bce, ..nothing() });
        let positive = (1.0 + 1f64.exp()).ln() - (1.0 - eps);
        let negative = (1.0 + (-2f64).exp()).ln() + eps * 2.0;
        close(output.loss, 0.5 * positive + 0.5 * negative);
        close(
            f64::from(output.grads[0][0]),
            (sigmoid(1.0) - (1.0 - eps)) / 6.0,
        );
        close(f64::from(output.grads[1][0]), (sigmoid(-2.0) - eps) / 2.0);
        assert_eq!(
            (output.statistics.positives, output.statistics.negatives),
            (3, 1)
        );
    }
}

#[test]
fn huge_logits_are_exact() {
    use TraceRole::{Expert, Perturbed, Policy};
    let traces = [
        OwnedTrace::dense(0, Expert, &[-1e4, 1e4]),
        OwnedTrace::dense(0, Policy, &[1e4, -1e4]),
        OwnedTrace {
            corrupted_from: Some(1),
            ..OwnedTrace::dense(0, Perturbed, &[-1e4, 1e4])
        },
    ];
    let settings = DiscriminatorLossSettings {
        bce: BceSettings::default(),
        relativistic: RelativisticSettings {
            weight: 1.0,
            score: PairScore::SoftMin { temperature: 0.01 },
            scale: 1.0,
        },
        contrast: ContrastSettings { weight: 1.0 },
        ..nothing()
    };
    let output = run(&traces, &settings);
    close(output.terms.bce, 5e3);
    close(output.terms.contrast, LN2);
    close(output.terms.relativistic, LN2);
    assert!(output.grads.iter().flatten().all(|g| g.is_finite()));
}

#[test]
fn a_class_without_traces_contributes_nothing() {
    let alone = [OwnedTrace::dense(0, TraceRole::Expert, &[0.0])];
    let output = run(&alone, &bce_only());
    close(output.loss, LN2 / 2.0);
    assert_eq!(output.statistics.accuracy_policy, None);
    assert_eq!(run(&[], &DiscriminatorLossSettings::default()).loss, 0.0);
    let weightless = [OwnedTrace {
        weight: 0.0,
        ..alone[0].clone()
    }];
    let output = run(&weightless, &bce_only());
    assert_eq!((output.loss, output.grads[0][0]), (0.0, 0.0));
    assert_eq!(
        output.statistics.accuracy_expert,
        Some(0.0),
        "statistics see every trace"
    );
}

#[test]
fn prefixes_are_the_experts_own() {
    let perturbed = [OwnedTrace {
        corrupted_from: Some(2),
        ..OwnedTrace::dense(0, TraceRole::Perturbed, &[0.0; 4])
    }];
    let signs = |prefix_labels| {
        let output = run(
            &perturbed,
            &DiscriminatorLossSettings {
                prefix_labels,
                ..bce_only()
            },
        );
        output.grads[0]
            .iter()
            .map(|g| if *g == 0.0 { 0.0 } else { g.signum() })
            .collect::<Vec<_>>()
    };
    assert_eq!(signs(PrefixLabels::Positive), [-1.0, -1.0, 1.0, 1.0]);
    assert_eq!(signs(PrefixLabels::LeftOut), [0.0, 0.0, 1.0, 1.0]);
    assert_eq!(signs(PrefixLabels::Whole), [1.0, 1.0, 1.0, 1.0]);
}

#[test]
fn samples_are_negative_from_their_first_divergence() {
    let sample = OwnedTrace {
        diverges_at: Some(1),
        ..OwnedTrace::dense(0, TraceRole::Policy, &[0.0; 3])
    };
    let settings = DiscriminatorLossSettings {
        policy_labels: PolicyLabels::FromDivergence,
        ..bce_only()
    };
    assert_eq!(
        run(std::slice::from_ref(&sample), &settings).grads[0],
        [0.0, 0.125, 0.125]
    );
    let equal = OwnedTrace {
        diverges_at: None,
        ..sample
    };
    assert_eq!(run(&[equal], &settings).grads[0], [0.0; 3]);
}

#[test]
fn contrast_needs_a_shared_prefix() {
    let settings = DiscriminatorLossSettings {
        contrast: ContrastSettings { weight: 2.0 },
        ..nothing()
    };
    let expert = OwnedTrace::dense(0, TraceRole::Expert, &[5.0, 1.0, 0.0]);
    let marked = |diverges_at: usize| OwnedTrace {
        corrupted_from: Some(1),
        diverges_at: Some(diverges_at),
        ..OwnedTrace::dense(0, TraceRole::Perturbed, &[5.0, 1.0])
    };
    let pairs = |diverges_at: usize| {
        let output = run(&[expert.clone(), marked(diverges_at)], &settings);
        output.statistics.pairs_at_error
    };
    assert_eq!(pairs(1), Some(0.5), "they share the prefix of the mark");
    assert_eq!(pairs(0), None, "they left each other before it");
}

#[test]
fn contrast_compares_the_first_corrupted_token() {
    use TraceRole::{Expert, Perturbed};
    let settings = DiscriminatorLossSettings {
        contrast: ContrastSettings { weight: 2.0 },
        ..nothing()
    };
    let expert = OwnedTrace::dense(0, Expert, &[5.0, 1.0, 0.0]);
    let perturbed = OwnedTrace {
        corrupted_from: Some(1),
        ..OwnedTrace::dense(0, Perturbed, &[5.0, 1.0])
    };
    let output = run(&[expert.clone(), perturbed.clone()], &settings);
    close(output.loss, 2.0 * LN2);
    assert_eq!(output.grads, [vec![0.0, -1.0, 0.0], vec![0.0, 1.0]]);
    assert_eq!(output.statistics.pairs_at_error, Some(0.5));
    let beyond = OwnedTrace {
        corrupted_from: Some(3),
        ..OwnedTrace::dense(0, Perturbed, &[0.0; 5])
    };
    let elsewhere = OwnedTrace {
        group: 1,
        ..perturbed
    };
    assert_eq!(
        run(&[expert, beyond, elsewhere], &settings).loss,
        0.0,
        "no such token, no such prompt"
    );
}

#[test]
fn bad_input_is_named() {
    let bad = OwnedTrace::dense(0, TraceRole::Expert, &[0.0, f32::NAN]);
    let error = discriminator_loss(&[bad.as_labelled()], &bce_only()).unwrap_err();
    assert_eq!(error.to_string(), "trace 0, token 1: the logit is NaN");
    let beyond = OwnedTrace {
        positions: vec![7],
        ..OwnedTrace::dense(0, TraceRole::Expert, &[0.0])
    };
    assert!(discriminator_loss(&[beyond.as_labelled()], &bce_only()).is_err());
    assert!(
        nothing()
            .validate("reward.loss")
            .unwrap_err()
            .to_string()
            .contains("nothing is learned")
    );
}

proptest! {
    /// Comparisons within a prompt are invariant to a value added to all its traces.
    #[test]
    fn pairs_ignore_a_shift_of_the_prompt(shift in -5f32..5.0, seed in 0u32..1000) {
        use TraceRole::{Expert, Perturbed, Policy};
        let z = |k: u32| ((seed + k) as f32 * 0.7).sin() * 2.0;
        let make = |shift: f32| {
            let logits = |k: u32| [z(k) + shift, z(k + 1) + shift, z(k + 2) + shift];
            [
                OwnedTrace::dense(0, Expert, &logits(0)),
                OwnedTrace::dense(0, Policy, &logits(10)),
                OwnedTrace { corrupted_from: Some(1), ..OwnedTrace::dense(0, Perturbed, &logits(20)) },
            ]
        };
        for score in [PairScore::Mean, PairScore::Last, PairScore::SoftMin { temperature: 0.3 }] {
            let settings = DiscriminatorLossSettings {
                relativistic: RelativisticSettings { weight: 1.0, score, scale: 3.0 },
                contrast: ContrastSettings { weight: 1.0 },
                ..nothing()
            };
            let (plain, shifted) = (run(&make(0.0), &settings), run(&make(shift), &settings));
            prop_assert!((plain.loss - shifted.loss).abs() < 1e-5);
            let total: f32 = plain.grads.iter().flatten().sum();
            prop_assert!(total.abs() < 1e-6, "forces of a pair cancel");
        }
    }

    /// The order of traces and the names of groups do not matter.
    #[test]
    fn order_of_traces_does_not_matter(rotation in 0usize..8) {
        let cases: Vec<GoldenCase> =
            serde_json::from_str(include_str!("../../../tests/golden/loss.json")).unwrap();
        let case = &cases[8];
        let mut traces = case.traces.clone();
        traces.rotate_left(rotation);
        traces.iter_mut().for_each(|trace| trace.group = 100 - trace.group);
        let output = run(&traces, &case.settings);
        prop_assert!((output.loss - case.loss).abs() < 1e-6);
        let mut grads = output.grads;
        grads.rotate_right(rotation);
        for (found, expected) in grads.iter().flatten().zip(case.grads.iter().flatten()) {
            prop_assert!((f64::from(*found) - expected).abs() < 1e-6);
        }
    }
}

#[test]
fn only_the_corrupted_span_is_negative() {
    let trace = OwnedTrace {
        corrupted_from: Some(1),
        corrupted_until: Some(3),
        ..OwnedTrace::dense(0, TraceRole::Perturbed, &[0.0; 5])
    };
    let slopes = |suffix_labels| {
        let settings = DiscriminatorLossSettings {
            relativistic: RelativisticSettings {
                weight: 0.0,
                ..RelativisticSettings::default()
            },
            suffix_labels,
            ..DiscriminatorLossSettings::default()
        };
        discriminator_loss(&[trace.as_labelled()], &settings)
            .unwrap()
            .grads[0]
            .clone()
    };
    assert_eq!(
        slopes(SuffixLabels::Positive),
        [-1.0 / 12.0, 0.125, 0.125, -1.0 / 12.0, -1.0 / 12.0]
    );
    assert_eq!(
        slopes(SuffixLabels::LeftOut),
        [-0.25, 0.125, 0.125, 0.0, 0.0]
    );
    assert_eq!(
        slopes(SuffixLabels::Negative),
        [-0.25, 0.0625, 0.0625, 0.0625, 0.0625]
    );
}

fn judge_only() -> DiscriminatorLossSettings {
    DiscriminatorLossSettings {
        judge: JudgeSettings { weight: 2.0 },
        ..nothing()
    }
}

#[test]
fn the_judge_gives_signs_and_order() {
    let judged = |logits: &[f32], judged: &[f32]| OwnedTrace {
        judged: judged.to_vec(),
        weight: 0.0,
        ..OwnedTrace::dense(0, TraceRole::Policy, logits)
    };
    let traces = [
        judged(&[0.0, 1.0], &[0.0, 0.5]),
        judged(&[2.0, 0.0], &[-0.5, 0.0]),
        OwnedTrace::dense(0, TraceRole::Policy, &[3.0]),
    ];
    let output = run(&traces, &judge_only());
    // Tokens: 0.5 softplus(-1) + 0.5 softplus(2) over 1; the pair: S 0.5 against 1, J 0.5 against
    // -0.5.
    let softplus = |x: f64| x.exp().ln_1p();
    let tokens = (softplus(-1.0) + softplus(2.0)) / 2.0;
    let term = output.terms.judge.unwrap();
    close(term, tokens + softplus(0.5));
    close(output.loss, 2.0 * term);
    assert_eq!(output.grads[2], [0.0], "a trace that was not judged");
    let alone = run(&traces[..1], &judge_only());
    assert!(alone.grads[0][0] == 0.0 && alone.grads[0][1] < 0.0);
}

#[test]
fn judged_gradients_match_finite_differences() {
    let judged = |group, logits: &[f32], judged: &[f32]| OwnedTrace {
        judged: judged.to_vec(),
        ..OwnedTrace::dense(group, TraceRole::Policy, logits)
    };
    let traces = [
        judged(0, &[0.3, -1.0], &[0.1, 0.5]),
        judged(0, &[0.7, 0.2, 0.4], &[-0.5, 0.2, 0.0]),
        judged(1, &[0.1], &[0.9]),
        judged(1, &[-0.4], &[-0.2]),
    ];
    let settings = judge_only();
    let output = run(&traces, &settings);
    for (trace, row) in output.grads.iter().enumerate() {
        for (token, &gradient) in row.iter().enumerate() {
            let moved = |by: f32| {
                let mut moved = traces.clone();
                moved[trace].logits[token] += by;
                run(&moved, &settings).loss
            };
            let slope = (moved(0.01) - moved(-0.01)) / 0.02;
            assert!(
                (slope - f64::from(gradient)).abs() < 1e-4,
                "{trace} {token}"
            );
        }
    }
}
