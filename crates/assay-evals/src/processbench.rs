//! First-wrong-step detection in the ProcessBench format.
//!
//! A trace is a list of steps with a label: the index of the first wrong step, or none for a
//! correct trace. The prediction is the first step whose score is below a threshold; without such a
//! step the prediction is that the trace is correct. Source: Zheng et al. 2024, arXiv 2412.06559.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::{EvalError, find_named};
use crate::statistics::{BootstrapSettings, bootstrap, bootstrap_mean};
use crate::summary::Summary;

/// One trace with a score for each step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepCase {
    /// Identifier of the trace.
    pub id: String,
    /// Score of each step, higher is better; `None` for a step without rewards.
    pub step_scores: Vec<Option<f64>>,
    /// Index of the first wrong step; `None` for a correct trace.
    pub label: Option<usize>,
}

/// How a step's score is computed from token rewards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepScore {
    /// Mean reward of the step's tokens.
    Mean,
    /// Lowest reward of the step's tokens.
    Min,
    /// Reward after the step's last token.
    Last,
    /// Minus the largest drop `r_{t-1} - r_t` in the step, including the drop to its first token.
    Drop,
}

/// Detection quality at one threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepQuality {
    /// Share of wrong traces whose first wrong step is predicted; `None` without wrong traces.
    pub accuracy_wrong: Option<f64>,
    /// Share of correct traces that are predicted to be correct; `None` without correct traces.
    pub accuracy_correct: Option<f64>,
}

impl StepScore {
    /// Every step score.
    pub const ALL: [Self; 4] = [Self::Mean, Self::Min, Self::Last, Self::Drop];

    /// Names, in the order of [`StepScore::ALL`].
    pub const NAMES: [&'static str; 4] = ["mean", "min", "last", "drop"];

    /// The score's name.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The step score called `name`.
    ///
    /// # Errors
    /// [`EvalError::UnknownName`] with the nearest known name.
    pub fn parse(name: &str) -> Result<Self, EvalError> {
        find_named("step score", name, &Self::ALL, &Self::NAMES)
    }

    /// Score of each step from token rewards; `None` for a step without rewards.
    ///
    /// `steps` are ascending byte ranges in the text. A token belongs to the step with its last
    /// byte.
    pub fn of_steps(
        self,
        token_offsets: &[(usize, usize)],
        token_rewards: &[Option<f32>],
        steps: &[Range<usize>],
    ) -> Vec<Option<f64>> {
        let scored = scored_tokens(token_offsets, token_rewards);
        let of_step = |step: &Range<usize>| {
            let first = scored.partition_point(|token| token.last_byte < step.start);
            let end = scored
                .partition_point(|token| token.last_byte < step.end)
                .max(first);
            self.of_tokens(&scored[first..end])
        };
        steps.iter().map(of_step).collect()
    }

    fn of_tokens(self, tokens: &[ScoredToken]) -> Option<f64> {
        let last = tokens.last()?.reward;
        let rewards = tokens.iter().map(|token| token.reward);
        match self {
            Self::Mean => Some(rewards.sum::<f64>() / tokens.len() as f64),
            Self::Min => rewards.reduce(f64::min),
            Self::Last => Some(last),
            Self::Drop => tokens
                .iter()
                .filter_map(|token| token.drop)
                .reduce(f64::max)
                .map(|drop| -drop),
        }
    }
}

impl StepQuality {
    /// `2 a b / (a + b)` of the two accuracies; 0 if both are 0, `None` if one of the classes is
    /// missing.
    pub fn f1(&self) -> Option<f64> {
        let (wrong, correct) = (self.accuracy_wrong?, self.accuracy_correct?);
        Some(if wrong + correct > 0.0 {
            2.0 * wrong * correct / (wrong + correct)
        } else {
            0.0
        })
    }
}

/// The first step with a score below the threshold; `None` predicts a correct trace.
pub fn predict(step_scores: &[Option<f64>], threshold: f64) -> Option<usize> {
    step_scores
        .iter()
        .position(|score| score.is_some_and(|score| score < threshold))
}

/// Quality over all cases at one threshold.
pub fn quality(cases: &[StepCase], threshold: f64) -> StepQuality {
    quality_of(verdicts(cases, threshold).into_iter())
}

/// The threshold with the highest F1 on validation cases, halfway between the neighbouring scores.
///
/// The search is exact, because a prediction only changes when the threshold passes a score. A
/// correct trace is predicted correctly up to its lowest score, a wrong one from just above the
/// score of its first wrong step up to the lowest score before that step. `O(n log n)` in the
/// number of steps; ties go to the lowest threshold. `None` without both classes or without scores.
pub fn choose_threshold(cases: &[StepCase]) -> Option<f64> {
    let wrong = cases.iter().filter(|case| case.label.is_some()).count() as f64;
    let correct = cases.len() as f64 - wrong;
    let mut scores: Vec<f64> = cases
        .iter()
        .flat_map(|case| case.step_scores.iter().flatten().copied())
        .collect();
    scores.sort_by(f64::total_cmp);
    scores.dedup();
    let (&lowest, &highest) = (scores.first()?, scores.last()?);
    let f1 = |found: f64, passed: f64| {
        let quality = StepQuality {
            accuracy_wrong: (wrong > 0.0).then(|| found / wrong),
            accuracy_correct: (correct > 0.0).then(|| passed / correct),
        };
        quality.f1()
    };
    let (mut found, mut passed) = (0.0, correct);
    let (mut best, mut threshold) = (f1(found, passed)?, lowest);
    for tied in changes(cases).chunk_by(|a, b| a.score == b.score) {
        for change in tied {
            found += change.found;
            passed += change.passed;
        }
        let (value, score) = (f1(found, passed)?, tied[0].score);
        if value > best && score.is_finite() {
            let above = scores.partition_point(|known| *known <= score);
            best = value;
            threshold = match scores.get(above) {
                Some(next) => score + (next - score) / 2.0,
                None => highest + 1.0,
            };
        }
    }
    Some(threshold)
}

/// How the numbers of right predictions change when the threshold rises above a score.
struct Change {
    score: f64,
    /// Change in the number of wrong traces whose first wrong step is predicted.
    found: f64,
    /// Change in the number of correct traces that are predicted to be correct.
    passed: f64,
}

/// All changes in ascending order of their scores.
fn changes(cases: &[StepCase]) -> Vec<Change> {
    let lowest = |scores: &[Option<f64>]| {
        let scores = scores.iter().flatten().copied();
        scores.fold(f64::INFINITY, f64::min)
    };
    let change = |score, found, passed| Change {
        score,
        found,
        passed,
    };
    let mut changes = Vec::new();
    for StepCase {
        step_scores, label, ..
    } in cases
    {
        let Some(label) = *label else {
            changes.push(change(lowest(step_scores), 0.0, -1.0));
            continue;
        };
        let before = lowest(&step_scores[..label.min(step_scores.len())]);
        let own = step_scores.get(label).copied().flatten();
        if let Some(own) = own.filter(|own| *own < before) {
            changes.push(change(own, 1.0, 0.0));
            changes.push(change(before, -1.0, 0.0));
        }
    }
    changes.sort_by(|a, b| a.score.total_cmp(&b.score));
    changes
}

/// The `PREFIX.*` entries of traces with several step scores: each list has the same traces with
/// one score.
///
/// `PREFIX.{f1, accuracy_wrong, accuracy_correct}` are cross-fitted: each of two halves (even and
/// odd positions after sorting by identifier) is evaluated with the step score and the threshold of
/// the highest F1 on the other half. They are absent if a half has one class only.
/// `PREFIX.accuracy_lowest` needs no threshold: the share of wrong traces in which the step with
/// the lowest score, the first of ties, is the first wrong one, under the first list. Intervals are
/// bootstrapped over traces.
pub fn cross_fitted_summary(
    prefix: &str,
    by_score: &[Vec<StepCase>],
    settings: &BootstrapSettings,
) -> Summary {
    let mut summary = Summary::default();
    let Some(first) = by_score.first() else {
        return summary;
    };
    let named = first.iter().filter_map(lowest_is_first_wrong);
    let named: Vec<f64> = named.map(|right| f64::from(u8::from(right))).collect();
    summary.insert_some(
        &format!("{prefix}.accuracy_lowest"),
        bootstrap_mean(&named, settings),
    );
    let half = |parity: usize| -> Vec<Vec<StepCase>> {
        let of = |cases: &Vec<StepCase>| {
            let mut order: Vec<&StepCase> = cases.iter().collect();
            order.sort_by(|a, b| a.id.cmp(&b.id));
            let own = order.into_iter().skip(parity).step_by(2);
            own.cloned().collect()
        };
        by_score.iter().map(of).collect()
    };
    let (even, odd) = (half(0), half(1));
    let (Some(for_odd), Some(for_even)) = (choose(&even), choose(&odd)) else {
        return summary;
    };
    let mut all = verdicts(&even[for_even.0], for_even.1);
    all.extend(verdicts(&odd[for_odd.0], for_odd.1));
    summarise(&mut summary, prefix, &all, settings);
    summary
}

/// `PREFIX.accuracy_lowest` of a step chosen at random: the mean over wrong traces of 1 / steps.
pub fn chance_summary(prefix: &str, cases: &[StepCase], settings: &BootstrapSettings) -> Summary {
    let wrong = cases.iter().filter(|case| case.label.is_some());
    let chances: Vec<f64> = wrong
        .map(|case| 1.0 / case.step_scores.len().max(1) as f64)
        .collect();
    let mut summary = Summary::default();
    summary.insert_some(
        &format!("{prefix}.accuracy_lowest"),
        bootstrap_mean(&chances, settings),
    );
    summary
}

/// The list and the threshold with the highest F1, the first of ties.
fn choose(by_score: &[Vec<StepCase>]) -> Option<(usize, f64)> {
    let mut best: Option<(f64, (usize, f64))> = None;
    for (index, cases) in by_score.iter().enumerate() {
        let Some(threshold) = choose_threshold(cases) else {
            continue;
        };
        let f1 = quality(cases, threshold).f1().unwrap_or(0.0);
        if best.is_none_or(|(highest, _)| f1 > highest) {
            best = Some((f1, (index, threshold)));
        }
    }
    best.map(|(_, choice)| choice)
}

/// Whether the step with the lowest score is the first wrong one; `None` for a correct trace, false
/// without scores.
fn lowest_is_first_wrong(case: &StepCase) -> Option<bool> {
    let label = case.label?;
    let scores = case.step_scores.iter().enumerate();
    let scored = scores.filter_map(|(step, score)| Some((step, (*score)?)));
    let lowest = scored.min_by(|a, b| a.1.total_cmp(&b.1));
    Some(lowest.is_some_and(|(step, _)| step == label))
}

/// A case and its prediction.
#[derive(Clone, Copy)]
struct Verdict {
    /// Whether the trace is wrong.
    is_wrong: bool,
    /// Whether the prediction is right.
    is_right: bool,
    /// How often the case counts.
    weight: f64,
}

fn verdicts(cases: &[StepCase], threshold: f64) -> Vec<Verdict> {
    cases
        .iter()
        .map(|case| Verdict {
            is_wrong: case.label.is_some(),
            is_right: predict(&case.step_scores, threshold) == case.label,
            weight: 1.0,
        })
        .collect()
}

fn summarise(
    summary: &mut Summary,
    prefix: &str,
    verdicts: &[Verdict],
    settings: &BootstrapSettings,
) {
    let f1 = bootstrap(verdicts.len(), settings, |weights| {
        let weighted = verdicts.iter().zip(weights);
        quality_of(weighted.map(|(verdict, &weight)| Verdict { weight, ..*verdict })).f1()
    });
    summary.insert_some(&format!("{prefix}.f1"), f1);
    for (name, class) in [("accuracy_wrong", true), ("accuracy_correct", false)] {
        let of_class = verdicts.iter().filter(|verdict| verdict.is_wrong == class);
        let values: Vec<f64> = of_class
            .map(|verdict| f64::from(u8::from(verdict.is_right)))
            .collect();
        summary.insert_some(
            &format!("{prefix}.{name}"),
            bootstrap_mean(&values, settings),
        );
    }
}

fn quality_of(verdicts: impl Iterator<Item = Verdict>) -> StepQuality {
    let (mut right, mut total) = ([0.0; 2], [0.0; 2]);
    for verdict in verdicts {
        let class = usize::from(verdict.is_wrong);
        right[class] += if verdict.is_right {
            verdict.weight
        } else {
            0.0
        };
        total[class] += verdict.weight;
    }
    let share = |class: usize| (total[class] > 0.0).then(|| right[class] / total[class]);
    StepQuality {
        accuracy_wrong: share(1),
        accuracy_correct: share(0),
    }
}

/// A scored token that is not empty.
struct ScoredToken {
    last_byte: usize,
    reward: f64,
    /// Drop from the scored token before.
    drop: Option<f64>,
}

/// The scored tokens that are not empty.
fn scored_tokens(
    token_offsets: &[(usize, usize)],
    token_rewards: &[Option<f32>],
) -> Vec<ScoredToken> {
    let mut before: Option<f64> = None;
    let scored = token_offsets
        .iter()
        .zip(token_rewards)
        .filter(|((start, end), _)| end > start);
    let measured = scored.filter_map(|(&(_, end), reward)| {
        let reward = f64::from((*reward)?);
        let drop = before.replace(reward).map(|before| before - reward);
        Some(ScoredToken {
            last_byte: end - 1,
            reward,
            drop,
        })
    });
    measured.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn case(scores: &[f64], label: Option<usize>) -> StepCase {
        StepCase {
            id: format!("{scores:?}"),
            step_scores: scores.iter().copied().map(Some).collect(),
            label,
        }
    }

    #[test]
    fn f1_is_the_harmonic_mean() {
        let cases = [
            case(&[1.0, -1.0, -2.0], Some(1)),
            case(&[1.0, 0.5, -2.0], Some(1)),
            case(&[2.0, 3.0], None),
            case(&[2.0, -3.0], None),
            case(&[1.0], None),
        ];
        let quality = quality(&cases, 0.0);
        assert_eq!(quality.accuracy_wrong, Some(0.5));
        assert_eq!(quality.accuracy_correct, Some(2.0 / 3.0));
        assert!((quality.f1().unwrap() - 4.0 / 7.0).abs() < 1e-15);
        let one_class = super::quality(&cases[2..], 0.0);
        assert_eq!((one_class.accuracy_wrong, one_class.f1()), (None, None));
    }

    #[test]
    fn step_scores_by_hand() {
        let offsets = [(0, 2), (2, 4), (4, 5), (5, 8), (8, 8)];
        let rewards = [Some(1.0), Some(3.0), None, Some(-1.0), Some(9.0)];
        let steps = [0..4, 4..5, 5..8];
        let of = |score: StepScore| score.of_steps(&offsets, &rewards, &steps);
        assert_eq!(of(StepScore::Mean), [Some(2.0), None, Some(-1.0)]);
        assert_eq!(of(StepScore::Min), [Some(1.0), None, Some(-1.0)]);
        assert_eq!(of(StepScore::Last), [Some(3.0), None, Some(-1.0)]);
        assert_eq!(of(StepScore::Drop), [Some(2.0), None, Some(-4.0)]);
    }

    #[test]
    fn score_and_threshold_come_from_other_half() {
        let settings = BootstrapSettings::default();
        let useful = vec![
            case(&[1.0, -1.0], Some(1)),
            case(&[1.5, -1.0], Some(1)),
            case(&[2.0, 3.0], None),
            case(&[2.5, 3.0], None),
        ];
        let mut constant = useful.clone();
        constant
            .iter_mut()
            .for_each(|case| case.step_scores = vec![Some(0.0), Some(0.0)]);
        let both = [constant.clone(), useful.clone()];
        let found = cross_fitted_summary("processbench", &both, &settings);
        for name in ["f1", "accuracy_wrong", "accuracy_correct"] {
            let estimate = found.get(&format!("processbench.{name}")).unwrap();
            assert_eq!(estimate.value, 1.0, "{name}");
        }
        assert_eq!(found.get("processbench.f1").unwrap().n, 4);
        let only_constant = cross_fitted_summary("processbench", &[constant], &settings);
        assert!(only_constant.get("processbench.f1").unwrap().value < 1.0);
    }

    #[test]
    fn wrong_traces_need_no_threshold() {
        let settings = BootstrapSettings::default();
        let wrong = vec![
            case(&[1.0, -1.0, 4.0], Some(1)),
            case(&[0.0, 0.0], Some(1)),
            case(&[0.5, 0.0, 1.0, 2.0], Some(1)),
        ];
        let found = cross_fitted_summary("p", std::slice::from_ref(&wrong), &settings);
        // The second trace ties: its first step is taken, which is not the wrong one.
        assert_eq!(found.get("p.accuracy_lowest").unwrap().value, 2.0 / 3.0);
        assert!(found.get("p.f1").is_none());
        let chance = chance_summary("c", &wrong, &settings);
        let expected = (1.0 / 3.0 + 1.0 / 2.0 + 1.0 / 4.0) / 3.0;
        let value = chance.get("c.accuracy_lowest").unwrap().value;
        assert!((value - expected).abs() < 1e-15);
        assert!(cross_fitted_summary("p", &[], &settings).is_empty());
    }

    proptest! {
        #[test]
        fn the_chosen_threshold_is_the_best(
            raw in prop::collection::vec((prop::collection::vec(-3i8..4, 1..5), prop::option::of(0usize..4)), 2..12),
        ) {
            let cases: Vec<StepCase> = raw.iter().map(|(scores, label)| {
                let scores: Vec<f64> = scores.iter().map(|s| f64::from(*s)).collect();
                case(&scores, label.map(|label| label.min(scores.len() - 1)))
            }).collect();
            let best = (-8..=9).filter_map(|t| quality(&cases, f64::from(t) / 2.0 + 0.25).f1()).reduce(f64::max);
            match choose_threshold(&cases) {
                Some(threshold) => prop_assert_eq!(quality(&cases, threshold).f1(), best),
                None => prop_assert_eq!(best, None),
            }
        }
    }
}
