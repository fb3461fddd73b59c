use super::*;
use proptest::prelude::*;

#[derive(Clone, Deserialize)]
struct OwnedTrace {
    role: TraceRole,
    logprobs: Vec<f32>,
    old: Vec<f32>,
    reference: Option<Vec<f32>>,
    sampling: Option<Vec<f32>>,
    advantages: Vec<f32>,
    multiplicity: f32,
    ending: Ending,
}

impl OwnedTrace {
    fn first_pass(logprobs: &[f32], advantages: &[f32]) -> Self {
        Self {
            role: TraceRole::Policy,
            logprobs: logprobs.to_vec(),
            old: logprobs.to_vec(),
            reference: None,
            sampling: None,
            advantages: advantages.to_vec(),
            multiplicity: 1.0,
            ending: Ending::Stopped,
        }
    }

    fn view(&self) -> PolicyTrace<'_> {
        PolicyTrace {
            role: self.role,
            logprobs: &self.logprobs,
            old: &self.old,
            reference: self.reference.as_deref(),
            sampling: self.sampling.as_deref(),
            advantages: &self.advantages,
            multiplicity: self.multiplicity,
            ending: self.ending,
        }
    }
}

#[derive(Deserialize)]
struct GoldenCase {
    settings: ObjectiveSettings,
    traces: Vec<OwnedTrace>,
    loss: f64,
    grads: Vec<Vec<f64>>,
}

fn golden() -> Vec<GoldenCase> {
    serde_json::from_str(include_str!("../../../tests/golden/objective.json")).unwrap()
}

fn run(traces: &[OwnedTrace], settings: &ObjectiveSettings) -> ObjectiveOutput {
    let views: Vec<_> = traces.iter().map(OwnedTrace::view).collect();
    objective(&views, settings).unwrap()
}

fn close(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() <= 1e-6 * expected.abs().max(1.0),
        "{found} is not {expected}"
    );
}

#[test]
fn losses_and_gradients_match_autograd() {
    let cases = golden();
    assert_eq!(cases.len(), 9);
    for case in cases {
        let output = run(&case.traces, &case.settings);
        close(output.loss, case.loss);
        for (found, expected) in output
            .grads
            .iter()
            .flatten()
            .zip(case.grads.iter().flatten())
        {
            close(f64::from(*found), *expected);
        }
    }
}

#[test]
fn the_first_pass_is_plain_policy_gradient() {
    let traces = [
        OwnedTrace::first_pass(&[-1.0, -2.0], &[1.0, -3.0]),
        OwnedTrace::first_pass(&[-0.5], &[2.0]),
    ];
    let output = run(&traces, &ObjectiveSettings::default());
    assert_eq!(output.loss, -((1.0 - 3.0) / 2.0 + 2.0) / 2.0);
    assert_eq!(output.grads, [vec![-0.25, 0.75], vec![-1.0]]);
    assert_eq!(
        (output.statistics.ratio_mean, output.statistics.approx_kl),
        (1.0, 0.0)
    );
    let bnpo = ObjectiveSettings {
        reduction: Reduction::Bnpo,
        ..Default::default()
    };
    close(run(&traces, &bnpo).loss, 0.0);
    let dr_grpo = ObjectiveSettings {
        reduction: Reduction::DrGrpo { max_length: 10 },
        ..Default::default()
    };
    assert_eq!(
        run(&traces, &dr_grpo).grads,
        [vec![-0.05, 0.15], vec![-0.1]]
    );
}

#[test]
fn clipping_by_hand() {
    // Ratios 2 and 1/2 with both signs of the advantage.
    let ln2 = std::f32::consts::LN_2;
    let trace = OwnedTrace {
        old: vec![-1.0 - ln2, -1.0 + ln2, -1.0 - ln2, -1.0 + ln2],
        ..OwnedTrace::first_pass(&[-1.0; 4], &[1.0, -1.0, -1.0, 1.0])
    };
    let output = run(std::slice::from_ref(&trace), &ObjectiveSettings::default());
    close(output.loss, -(1.2 - 0.8 - 2.0 + 0.5) / 4.0);
    let expected = [0.0, 0.0, 0.5, -0.125];
    for (found, expected) in output.grads[0].iter().zip(expected) {
        close(f64::from(*found), expected);
    }
    assert_eq!(
        (
            output.statistics.clip_fraction_low,
            output.statistics.clip_fraction_high
        ),
        (0.25, 0.25)
    );
    close(output.statistics.ratio_max, 2.0);
    let two_sided = run(
        &[trace],
        &ObjectiveSettings {
            delta: Some(1.5),
            ..Default::default()
        },
    );
    close(two_sided.loss, -(1.2 - 0.8 - 1.5 + 0.5) / 4.0);
    assert_eq!(two_sided.grads[0][2], 0.0);
}

/// Every completion token is in the denominators, whatever its advantage.
#[test]
fn fault_09_zero_advantages_stay_in_the_mean() {
    let traces = [
        OwnedTrace::first_pass(&[-1.0; 4], &[0.0, 0.0, 0.0, 4.0]),
        OwnedTrace::first_pass(&[-1.0; 2], &[0.0, 0.0]),
    ];
    let output = run(&traces, &ObjectiveSettings::default());
    assert_eq!((output.loss, output.statistics.tokens), (-0.5, 6));
    assert_eq!(output.grads, [vec![0.0, 0.0, 0.0, -0.5], vec![0.0, 0.0]]);
    let bnpo = ObjectiveSettings {
        reduction: Reduction::Bnpo,
        ..Default::default()
    };
    close(run(&traces, &bnpo).loss, -4.0 / 6.0);
}

/// Parts computed with the whole update's size add up to the whole, however it is split.
#[test]
fn fault_04_micro_batches_add_up() {
    for case in golden() {
        let views: Vec<_> = case.traces.iter().map(OwnedTrace::view).collect();
        let size = UpdateSize::of(&views, &case.settings);
        for cut in 0..=views.len() {
            let (first, second) = views.split_at(cut);
            let first = objective_of_part(first, size, &case.settings).unwrap();
            let second = objective_of_part(second, size, &case.settings).unwrap();
            close(first.loss + second.loss, case.loss);
            let grads: Vec<_> = first.grads.into_iter().chain(second.grads).collect();
            for (found, expected) in grads.iter().flatten().zip(case.grads.iter().flatten()) {
                close(f64::from(*found), *expected);
            }
        }
    }
}

#[test]
fn truncated_traces_can_be_left_out() {
    let cut = OwnedTrace {
        ending: Ending::Truncated,
        ..OwnedTrace::first_pass(&[-1.0; 3], &[5.0; 3])
    };
    let traces = [cut, OwnedTrace::first_pass(&[-1.0], &[1.0])];
    let settings = ObjectiveSettings {
        mask_truncated: true,
        ..Default::default()
    };
    let output = run(&traces, &settings);
    assert_eq!(
        (
            output.loss,
            output.statistics.masked_traces,
            output.statistics.tokens
        ),
        (-1.0, 1, 1)
    );
    assert_eq!(output.grads[0], [0.0; 3]);
    let nothing = run(&traces[..1], &settings);
    assert_eq!((nothing.loss, nothing.statistics.ratio_mean), (0.0, 0.0));
}

#[test]
fn the_sampler_gap_is_measured_and_corrected() {
    let trace = OwnedTrace {
        sampling: Some(vec![-1.5, -0.5]),
        ..OwnedTrace::first_pass(&[-1.0, -1.0], &[1.0, 1.0])
    };
    let capped = ObjectiveSettings {
        importance_cap: 1.25,
        ..Default::default()
    };
    let output = run(std::slice::from_ref(&trace), &capped);
    close(output.loss, -(1.25 + (-0.5f64).exp()) / 2.0);
    assert_eq!(
        (
            output.statistics.sampling_gap_mean,
            output.statistics.sampling_gap_max
        ),
        (0.5, 0.5)
    );
    // The first token's weight is e^0.5, capped at 1.25; the second's is e^-0.5.
    close(
        output.statistics.importance_mean,
        (1.25 + (-0.5f64).exp()) / 2.0,
    );
    assert_eq!(output.statistics.importance_capped, 0.5);
    let measured = run(
        &[trace],
        &ObjectiveSettings {
            importance_cap: 0.0,
            ..Default::default()
        },
    );
    assert_eq!(
        (measured.loss, measured.statistics.sampling_gap_max),
        (-1.0, 0.5)
    );
    let statistics = measured.statistics;
    assert_eq!(
        (statistics.importance_mean, statistics.importance_capped),
        (1.0, 0.0)
    );
}

#[test]
fn bad_input_is_named() {
    let short = OwnedTrace {
        old: vec![-1.0],
        ..OwnedTrace::first_pass(&[-1.0, -1.0], &[1.0, 1.0])
    };
    let error = objective(&[short.view()], &ObjectiveSettings::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "trace 0: the list of old log-probabilities has 1 entries, 2 were expected"
    );
    let infinite = OwnedTrace {
        old: vec![-1.0, f32::NEG_INFINITY],
        ..OwnedTrace::first_pass(&[-1.0, -1.0], &[1.0, -1.0])
    };
    let error = objective(&[infinite.view()], &ObjectiveSettings::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("trace 0, token 1: the policy loss is"),
        "{error}"
    );
}

proptest! {
    /// The gradient is the slope of the loss.
    #[test]
    fn gradient_is_the_slope(seed in 0u32..500, which in 0usize..9) {
        let case = &golden()[which];
        let mut traces = case.traces.clone();
        let row = seed as usize % traces.len();
        let token = seed as usize / 7 % traces[row].logprobs.len();
        let output = run(&traces, &case.settings);
        let h = 1e-3f32;
        let middle = traces[row].logprobs[token];
        // At a kink the two sides differ; the golden numbers cover those.
        let ratio = f64::from(middle - traces[row].old[token]).exp();
        let ObjectiveSettings { clip_low, clip_high, delta, .. } = case.settings;
        for kink in [1.0 - clip_low, 1.0 + clip_high, delta.unwrap_or(f64::INFINITY)] {
            prop_assume!((ratio - kink).abs() > 5e-3);
        }
        let mut at = |x: f32| {
            traces[row].logprobs[token] = x;
            (run(&traces, &case.settings).loss, f64::from(x))
        };
        let ((high, x_high), (low, x_low)) = (at(middle + h), at(middle - h));
        let slope = (high - low) / (x_high - x_low);
        let found = f64::from(output.grads[row][token]);
        prop_assert!((slope - found).abs() < 2e-3 * found.abs().max(0.1), "{slope} {found}");
    }
}
