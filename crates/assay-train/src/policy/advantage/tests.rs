use super::*;
use proptest::prelude::*;

#[derive(Deserialize)]
struct OwnedTrace {
    role: TraceRole,
    rewards: Vec<f32>,
    outcome: Option<f32>,
}

impl OwnedTrace {
    fn view(&self) -> RewardedTrace<'_> {
        RewardedTrace {
            role: self.role,
            rewards: &self.rewards,
            outcome: self.outcome,
        }
    }
}

#[derive(Deserialize)]
struct GoldenCase {
    settings: AdvantageSettings,
    groups: Vec<Vec<OwnedTrace>>,
    advantages: Vec<Vec<Vec<f64>>>,
}

fn sample(rewards: &[f32]) -> RewardedTrace<'_> {
    RewardedTrace {
        role: TraceRole::Policy,
        rewards,
        outcome: None,
    }
}

fn with(estimator: AdvantageKind) -> AdvantageSettings {
    AdvantageSettings {
        estimator,
        ..Default::default()
    }
}

fn assert_close(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let tolerance = 1e-6 * expected.abs().max(1.0);
        assert!(
            (f64::from(*found) - expected).abs() < tolerance,
            "{found} is not {expected}"
        );
    }
}

#[test]
fn every_kind_matches_torch() {
    let cases: Vec<GoldenCase> =
        serde_json::from_str(include_str!("../../../tests/golden/advantage.json")).unwrap();
    assert_eq!(cases.len(), 41);
    for case in cases {
        let groups: Vec<Vec<_>> = case
            .groups
            .iter()
            .map(|group| group.iter().map(OwnedTrace::view).collect())
            .collect();
        let output = advantages(&groups, &case.settings).unwrap();
        let expected = case.advantages.iter().flatten();
        for (found, expected) in output.traces.iter().zip(expected) {
            assert_close(&found.values, expected);
        }
    }
}

#[test]
fn sparse_by_hand() {
    let group = vec![
        sample(&[9.0, 1.0]),
        sample(&[3.0]),
        sample(&[7.0, 7.0, 5.0]),
    ];
    let output = advantages(&[group], &with(AdvantageKind::Sparse)).unwrap();
    let sigma = 2.0 + 1e-4;
    assert_close(&output.traces[0].values, &[-2.0 / sigma, -2.0 / sigma]);
    assert_close(&output.traces[1].values, &[0.0]);
    assert_close(&output.traces[2].values, &[2.0 / sigma; 3]);
    assert!((output.statistics.mean_std - 2.0).abs() < 1e-12);
    assert!((output.statistics.mean_score - 3.0).abs() < 1e-12);
}

/// A trace whose advantage is zero keeps its row and all its tokens.
#[test]
fn fault_09_zero_advantages_keep_their_tokens() {
    let groups = vec![
        vec![sample(&[1.0, 1.0, 1.0]), sample(&[1.0])],
        vec![sample(&[0.0, 2.0]), sample(&[0.0, 2.0, 0.0])],
    ];
    for estimator in [
        AdvantageKind::Sparse,
        AdvantageKind::Average,
        AdvantageKind::Dense { gamma: 0.0 },
    ] {
        let output = advantages(&groups, &with(estimator)).unwrap();
        let lengths: Vec<usize> = output
            .traces
            .iter()
            .map(|trace| trace.values.len())
            .collect();
        assert_eq!(lengths, [3, 1, 2, 3]);
        assert_eq!(output.traces[0].values, [0.0; 3]);
        assert!(output.traces.iter().all(|trace| trace.multiplicity == 1.0));
        assert_eq!(output.statistics.zero_std_groups, 1);
    }
}

/// The published cumsum(x / gamma^t) gamma^t overflows f32 near 814 tokens at gamma = 0.9.
#[test]
fn fault_10_long_discounts_stay_finite() {
    let rewards: Vec<f32> = (0..4000)
        .map(|t| ((t * 37) % 101) as f32 / 50.0 - 1.0)
        .collect();
    let other = vec![0.5f32; 10];
    let settings = AdvantageSettings {
        scale: StdScale::None,
        centre: false,
        ..with(AdvantageKind::Dense { gamma: 0.9 })
    };
    let output = advantages(&[vec![sample(&rewards), sample(&other)]], &settings).unwrap();
    for t in [0, 1, 813, 814, 815, 2000, 3998, 3999] {
        let direct: f64 = rewards[t..]
            .iter()
            .take(600)
            .enumerate()
            .map(|(k, &r)| 0.9f64.powi(k as i32) * f64::from(r))
            .sum();
        let found = f64::from(output.traces[0].values[t]);
        assert!(
            (found - direct).abs() < 1e-5,
            "token {t}: {found} is not {direct}"
        );
    }
}

/// All estimators use the requested kind of standard deviation.
#[test]
fn fault_11_biased_and_unbiased_std() {
    let group = || vec![sample(&[0.0]), sample(&[2.0])];
    for (scale, std) in [
        (StdScale::Population, 1.0),
        (StdScale::Unbiased, 2f64.sqrt()),
    ] {
        for estimator in [
            AdvantageKind::Sparse,
            AdvantageKind::Average,
            AdvantageKind::Dense { gamma: 0.9 },
        ] {
            let output = advantages(
                &[group()],
                &AdvantageSettings {
                    scale,
                    ..with(estimator)
                },
            )
            .unwrap();
            assert_close(&output.traces[1].values, &[1.0 / (std + 1e-4)]);
            assert!((output.statistics.mean_std - std).abs() < 1e-12);
        }
        let settings = AdvantageSettings {
            scale,
            outcome_weight: 1.0,
            ..Default::default()
        };
        let judged = |outcome| RewardedTrace {
            outcome: Some(outcome),
            ..sample(&[0.0])
        };
        let output = advantages(&[vec![judged(0.0), judged(1.0)]], &settings).unwrap();
        assert_close(&output.traces[1].values, &[0.5 / (std / 2.0 + 1e-4)]);
    }
}

#[test]
fn potential_telescopes_to_outcome_less_promise() {
    let group = || vec![sample(&[0.5, 1.5, 3.0]), sample(&[1.0])];
    let output = advantages(&[group()], &with(AdvantageKind::Potential { gamma: 1.0 })).unwrap();
    let sigma = 2f64.sqrt() + 1e-4;
    assert_close(
        &output.traces[0].values,
        &[1.0 / sigma, 2.5 / sigma, 1.5 / sigma],
    );
    let sparse = advantages(&[group()], &with(AdvantageKind::Sparse)).unwrap();
    assert_eq!(output.traces[0].values[0], sparse.traces[0].values[0]);
}

#[test]
fn soft_min_credit_does_not_grow_with_length() {
    let long = vec![1.0f32; 50];
    let output = advantages(
        &[vec![sample(&long), sample(&[1.0])]],
        &AdvantageSettings {
            scale: StdScale::None,
            centre: false,
            ..with(AdvantageKind::SoftMin { temperature: 0.1 })
        },
    )
    .unwrap();
    assert!((output.traces[0].values[0] - output.traces[1].values[0]).abs() < 1e-6);
}

#[test]
fn an_expert_row_counts_as_asked() {
    let expert = RewardedTrace {
        role: TraceRole::Expert,
        ..sample(&[4.0])
    };
    let group = || vec![expert, sample(&[0.0]), sample(&[2.0])];
    let mean = |expert_in_group| {
        let settings = AdvantageSettings {
            expert_in_group,
            scale: StdScale::None,
            ..with(AdvantageKind::Sparse)
        };
        let output = advantages(&[group()], &settings).unwrap();
        (
            2.0 - output.traces[2].values[0],
            output.traces[0].multiplicity,
        )
    };
    assert_eq!(mean(ExpertInGroup::Off), (1.0, 0.0));
    assert_eq!(mean(ExpertInGroup::Single), (2.0, 1.0));
    assert_eq!(mean(ExpertInGroup::Balanced), (2.5, 2.0));
}

#[test]
fn bad_input_is_named() {
    let groups = vec![vec![sample(&[0.0])], vec![sample(&[0.0, f32::INFINITY])]];
    let error = advantages(&groups, &AdvantageSettings::default()).unwrap_err();
    assert_eq!(error.to_string(), "trace 1, token 1: the reward is inf");
    let lonely = AdvantageSettings::default()
        .validate("policy.advantage", 1)
        .unwrap_err();
    assert!(
        lonely.to_string().contains("policy.advantage.scale"),
        "{lonely}"
    );
}

proptest! {
    /// Centred advantages are invariant to a shift of all rewards.
    #[test]
    fn shift_invariance(shift in -20f32..20.0, seed in 0u32..500) {
        let r = |k: u32| ((seed * 13 + k * 7) as f32).sin();
        let make = |shift: f32| -> Vec<Vec<f32>> {
            (0..4).map(|i| (0..3 + i).map(|t| r(10 * i + t) + shift).collect()).collect()
        };
        let kinds = [
            AdvantageKind::Sparse,
            AdvantageKind::Average,
            AdvantageKind::Dense { gamma: 0.9 },
            AdvantageKind::Prime { gamma: 0.9 },
            AdvantageKind::SoftMin { temperature: 0.5 },
            AdvantageKind::Potential { gamma: 1.0 },
        ];
        for kind in kinds {
            let run = |rows: &[Vec<f32>]| {
                let group: Vec<_> = rows.iter().map(|row| sample(row)).collect();
                let traces = advantages(&[group], &with(kind)).unwrap().traces;
                traces.into_iter().flat_map(|trace| trace.values).collect::<Vec<f32>>()
            };
            let (plain, shifted) = (run(&make(0.0)), run(&make(shift)));
            for (a, b) in plain.iter().zip(&shifted) {
                prop_assert!((a - b).abs() < 2e-3 * a.abs().max(1.0), "{kind:?}: {a} {b}");
            }
        }
    }

    /// One scalar per trace sums to zero over the group.
    #[test]
    fn trace_advantages_cancel(rewards in prop::collection::vec(-5f32..5.0, 2..9)) {
        let group: Vec<_> = rewards.chunks(1).map(sample).collect();
        let output = advantages(&[group], &with(AdvantageKind::Sparse)).unwrap();
        let total: f32 = output.traces.iter().flat_map(|trace| &trace.values).sum();
        prop_assert!(total.abs() < 1e-3);
    }

    #[test]
    fn return_to_go_is_the_discounted_sum(values in prop::collection::vec(-3f64..3.0, 1..40), gamma in 0f64..1.0) {
        let mut recursion = values.clone();
        return_to_go(&mut recursion, gamma);
        for (t, found) in recursion.iter().enumerate() {
            let direct: f64 = values[t..].iter().enumerate().map(|(k, v)| gamma.powi(k as i32) * v).sum();
            prop_assert!((found - direct).abs() < 1e-9);
        }
    }
}
