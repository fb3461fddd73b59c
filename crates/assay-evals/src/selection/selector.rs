//! Selectors: which of the N sampled traces of a problem is the answer.
//!
//! A selector is a probability distribution over the traces, so its accuracy on a problem is an
//! exact expectation: equal scores share their probability, and `random` is the mean instead of a
//! draw. [`choose`] draws one trace from the distribution.

use assay_tasks::random::Stream;
use serde::{Deserialize, Serialize};

use crate::error::{EvalError, find_named};
use crate::statistics::{mean, population_std};

/// The data of one trace that selectors use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Candidate {
    /// Whether the trace's answer is correct. Only [`Selector::Oracle`] uses it.
    pub correct: bool,
    /// Class of the answer among the problem's traces: equal numbers for equal answers; `None`
    /// without an answer.
    pub answer: Option<u32>,
    /// The trace score.
    pub score: Option<f64>,
    /// The trace's log-probability.
    pub logprob: Option<f64>,
    /// The trace's length in tokens.
    pub length: f64,
}

/// A rule that picks one of N traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// All traces with equal probability.
    Random,
    /// The most frequent answer; ties share the probability. Traces without an answer do not vote;
    /// if no trace has an answer, all have equal probability.
    Majority,
    /// The highest trace score.
    BestOfN,
    /// The answer with the largest sum of `softmax(score / T)` over the N traces.
    WeightedVote,
    /// The most frequent answer; among ties the one with the highest mean score.
    MajorityRewardTiebreak,
    /// The highest log-probability.
    Logprob,
    /// The shortest trace.
    Length,
    /// The highest `(1-w) z(score) + w z(logprob)`, z-scores over the N traces with the population
    /// standard deviation (0 where all are equal).
    Combined,
    /// A correct trace if there is one: the upper bound of every selector.
    Oracle,
}

/// The constants of selectors, fitted on validation problems.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SelectorConstants {
    /// T of [`Selector::WeightedVote`], in units of the trace score.
    pub vote_temperature: f64,
    /// w of [`Selector::Combined`], in [0, 1].
    pub combination_weight: f64,
}

impl Default for SelectorConstants {
    fn default() -> Self {
        Self {
            vote_temperature: 1.0,
            combination_weight: 0.5,
        }
    }
}

impl Selector {
    /// Every selector, in the order of [`Selector::NAMES`].
    pub const ALL: [Self; 9] = [
        Self::Random,
        Self::Majority,
        Self::BestOfN,
        Self::WeightedVote,
        Self::MajorityRewardTiebreak,
        Self::Logprob,
        Self::Length,
        Self::Combined,
        Self::Oracle,
    ];

    /// Names, as in `summary.json` and on the command line.
    pub const NAMES: [&'static str; 9] = [
        "random",
        "majority",
        "best_of_n",
        "weighted_vote",
        "majority_reward_tiebreak",
        "logprob",
        "length",
        "combined",
        "oracle",
    ];

    /// The selector's name.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The selector called `name`.
    ///
    /// # Errors
    /// [`EvalError::UnknownName`] with the nearest known name.
    pub fn parse(name: &str) -> Result<Self, EvalError> {
        find_named("selector", name, &Self::ALL, &Self::NAMES)
    }

    /// The probability of each trace; they sum to 1.
    ///
    /// Traces that lack the selector's data get 0. `None` if all of them lack it or there are no
    /// traces.
    pub fn distribution(
        self,
        candidates: &[Candidate],
        constants: &SelectorConstants,
    ) -> Option<Vec<f64>> {
        let everyone = || uniform_over(candidates, |_| true);
        let scored = || candidates.iter().any(|candidate| candidate.score.is_some());
        match self {
            Self::Random => everyone(),
            Self::Majority => vote(candidates, |_| 1.0, |_| 0.0).or_else(everyone),
            Self::WeightedVote => {
                scored().then_some(())?;
                let weights = vote_weights(candidates, constants.vote_temperature);
                vote(candidates, |i| weights[i], |_| 0.0).or_else(everyone)
            }
            Self::MajorityRewardTiebreak => {
                scored().then_some(())?;
                vote(candidates, |_| 1.0, |class| mean_score(candidates, class)).or_else(everyone)
            }
            Self::BestOfN => highest(candidates, |i| candidates[i].score),
            Self::Logprob => highest(candidates, |i| candidates[i].logprob),
            Self::Length => highest(candidates, |i| Some(-candidates[i].length)),
            Self::Combined => {
                let combined = combine(candidates, constants.combination_weight);
                highest(candidates, |i| combined[i])
            }
            Self::Oracle => {
                uniform_over(candidates, |candidate| candidate.correct).or_else(everyone)
            }
        }
    }

    /// Probability that the selected trace is correct: `sum_i p_i correct_i`. `None` as
    /// [`Selector::distribution`].
    pub fn expected_accuracy(
        self,
        candidates: &[Candidate],
        constants: &SelectorConstants,
    ) -> Option<f64> {
        let distribution = self.distribution(candidates, constants)?;
        let picked = distribution
            .iter()
            .zip(candidates)
            .filter(|(_, candidate)| candidate.correct);
        Some(picked.map(|(p, _)| p).sum::<f64>().min(1.0))
    }
}

/// Draws one trace from a selector's distribution; without ties the draw is certain.
///
/// `None` on an empty distribution.
pub fn choose(distribution: &[f64], stream: &mut Stream) -> Option<usize> {
    let point = stream.uniform_f64() * distribution.iter().sum::<f64>();
    let mut below = 0.0;
    let drawn = distribution.iter().position(|p| {
        below += p;
        *p > 0.0 && point < below
    });
    drawn.or_else(|| distribution.iter().rposition(|p| *p > 0.0))
}

/// Fits each constant on validation problems by the accuracy of the selector that uses it.
///
/// T is searched over the pooled standard deviation of scores times 2^-5, 2^-4 .. 2^10; ties go to
/// the largest (closest to majority voting). w is searched over 0, 0.05 .. 1; ties go to the
/// smallest (closest to the reward alone). Without scores or problems the constants are the
/// defaults.
pub fn fit_constants(problems: &[Vec<Candidate>]) -> SelectorConstants {
    let mut constants = SelectorConstants::default();
    let scores: Vec<f64> = problems
        .iter()
        .flatten()
        .filter_map(|candidate| candidate.score)
        .collect();
    let Some(spread) = population_std(&scores).filter(|spread| *spread > 0.0) else {
        return constants;
    };
    let temperatures = (-5..=10)
        .rev()
        .map(|power| spread * f64::from(power).exp2());
    let with_temperature = |vote_temperature| SelectorConstants {
        vote_temperature,
        ..constants
    };
    if let Some(best) = best_setting(
        problems,
        Selector::WeightedVote,
        temperatures.map(with_temperature),
    ) {
        constants = best;
    }
    let with_weight = |step: i32| SelectorConstants {
        combination_weight: f64::from(step) / 20.0,
        ..constants
    };
    best_setting(problems, Selector::Combined, (0..=20).map(with_weight)).unwrap_or(constants)
}

fn best_setting(
    problems: &[Vec<Candidate>],
    selector: Selector,
    settings: impl Iterator<Item = SelectorConstants>,
) -> Option<SelectorConstants> {
    let mut best: Option<(f64, SelectorConstants)> = None;
    for constants in settings {
        let accuracies: Vec<f64> = problems
            .iter()
            .filter_map(|candidates| selector.expected_accuracy(candidates, &constants))
            .collect();
        let Some(accuracy) = mean(&accuracies) else {
            continue;
        };
        if best.is_none_or(|(highest, _)| accuracy > highest + 1e-12) {
            best = Some((accuracy, constants));
        }
    }
    best.map(|(_, constants)| constants)
}

fn uniform_over(candidates: &[Candidate], member: impl Fn(&Candidate) -> bool) -> Option<Vec<f64>> {
    let count = candidates
        .iter()
        .filter(|candidate| member(candidate))
        .count();
    let share = 1.0 / count as f64;
    (count > 0).then(|| {
        candidates
            .iter()
            .map(|candidate| if member(candidate) { share } else { 0.0 })
            .collect()
    })
}

fn highest(candidates: &[Candidate], key: impl Fn(usize) -> Option<f64>) -> Option<Vec<f64>> {
    let keys: Vec<Option<f64>> = (0..candidates.len()).map(key).collect();
    let top = keys.iter().flatten().copied().reduce(f64::max)?;
    let tied = keys.iter().filter(|key| **key == Some(top)).count() as f64;
    Some(
        keys.iter()
            .map(|key| if *key == Some(top) { 1.0 / tied } else { 0.0 })
            .collect(),
    )
}

/// Selects the answer class with the largest total weight, then the largest tie-break; remaining
/// ties share the probability, as do the traces of a class. `None` if no trace has an answer.
fn vote(
    candidates: &[Candidate],
    weight: impl Fn(usize) -> f64,
    tiebreak: impl Fn(u32) -> f64,
) -> Option<Vec<f64>> {
    let mut classes: Vec<(u32, f64, usize)> = Vec::new();
    for (i, candidate) in candidates.iter().enumerate() {
        let Some(answer) = candidate.answer else {
            continue;
        };
        match classes.iter_mut().find(|(class, ..)| *class == answer) {
            Some((_, total, count)) => {
                *total += weight(i);
                *count += 1;
            }
            None => classes.push((answer, weight(i), 1)),
        }
    }
    let top = classes
        .iter()
        .map(|(_, total, _)| *total)
        .reduce(f64::max)?;
    classes.retain(|(_, total, _)| *total >= top - 1e-12 * top.abs());
    let best_tiebreak = classes
        .iter()
        .map(|(class, ..)| tiebreak(*class))
        .reduce(f64::max)?;
    classes.retain(|(class, ..)| tiebreak(*class) == best_tiebreak);
    let elected = classes.len() as f64;
    let share = |answer: Option<u32>| {
        let class = classes.iter().find(|(class, ..)| Some(*class) == answer);
        class.map_or(0.0, |(_, _, count)| 1.0 / (elected * *count as f64))
    };
    Some(
        candidates
            .iter()
            .map(|candidate| share(candidate.answer))
            .collect(),
    )
}

/// `softmax(score / T)`, 0 for traces without a score.
fn vote_weights(candidates: &[Candidate], temperature: f64) -> Vec<f64> {
    let top = candidates
        .iter()
        .filter_map(|candidate| candidate.score)
        .fold(f64::NEG_INFINITY, f64::max);
    let raw: Vec<f64> = candidates
        .iter()
        .map(|candidate| {
            candidate
                .score
                .map_or(0.0, |score| ((score - top) / temperature).exp())
        })
        .collect();
    let total: f64 = raw.iter().sum();
    raw.into_iter().map(|weight| weight / total).collect()
}

fn mean_score(candidates: &[Candidate], class: u32) -> f64 {
    let of_class = candidates
        .iter()
        .filter(|candidate| candidate.answer == Some(class));
    let scores: Vec<f64> = of_class.filter_map(|candidate| candidate.score).collect();
    mean(&scores).unwrap_or(f64::NEG_INFINITY)
}

/// `(1-w) z(score) + w z(logprob)`; `None` if a term with a positive weight is missing.
fn combine(candidates: &[Candidate], weight: f64) -> Vec<Option<f64>> {
    let scores = z_scores(candidates.iter().map(|candidate| candidate.score));
    let logprobs = z_scores(candidates.iter().map(|candidate| candidate.logprob));
    let term = |value: Option<f64>, weight: f64| {
        if weight == 0.0 {
            Some(0.0)
        } else {
            value.map(|z| weight * z)
        }
    };
    scores
        .into_iter()
        .zip(logprobs)
        .map(|(score, logprob)| Some(term(score, 1.0 - weight)? + term(logprob, weight)?))
        .collect()
}

fn z_scores(values: impl Iterator<Item = Option<f64>>) -> Vec<Option<f64>> {
    let values: Vec<Option<f64>> = values.collect();
    let known: Vec<f64> = values.iter().flatten().copied().collect();
    let (centre, spread) = (
        mean(&known).unwrap_or(0.0),
        population_std(&known).unwrap_or(0.0),
    );
    let z = |value: f64| {
        if spread > 0.0 {
            (value - centre) / spread
        } else {
            0.0
        }
    };
    values.into_iter().map(|value| value.map(z)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(answer: Option<u32>, correct: bool, score: f64) -> Candidate {
        Candidate {
            correct,
            answer,
            score: Some(score),
            logprob: Some(-score),
            length: 10.0 + score,
        }
    }

    #[test]
    fn names_stand_in_the_order_of_selectors() {
        for selector in Selector::ALL {
            assert_eq!(Selector::parse(selector.name()).ok(), Some(selector));
        }
    }

    fn accuracy(selector: Selector, candidates: &[Candidate]) -> f64 {
        selector
            .expected_accuracy(candidates, &SelectorConstants::default())
            .unwrap()
    }

    /// Three wrong 5s, two right 7s with higher scores, and one trace without an answer.
    fn group() -> Vec<Candidate> {
        vec![
            candidate(Some(5), false, 0.0),
            candidate(Some(7), true, 2.0),
            candidate(Some(5), false, 0.5),
            candidate(None, false, 3.0),
            candidate(Some(7), true, 1.0),
            candidate(Some(5), false, -1.0),
        ]
    }

    #[test]
    fn fault_17_random_is_the_exact_expectation() {
        let mut group = group();
        assert!((accuracy(Selector::Random, &group) - 2.0 / 6.0).abs() < 1e-15);
        group.reverse();
        assert!((accuracy(Selector::Random, &group) - 2.0 / 6.0).abs() < 1e-15);
        assert_eq!(
            Selector::Random.distribution(&group, &SelectorConstants::default()),
            Some(vec![1.0 / 6.0; 6])
        );
    }

    #[test]
    fn selectors_by_hand() {
        let group = group();
        assert_eq!(accuracy(Selector::Majority, &group), 0.0);
        assert_eq!(accuracy(Selector::BestOfN, &group), 0.0);
        assert_eq!(accuracy(Selector::BestOfN, &group[..3]), 1.0);
        // e^2 + e^1 = 10.1 against 1 + e^.5 + e^-1 = 3.0
        assert_eq!(accuracy(Selector::WeightedVote, &group), 1.0);
        assert_eq!(accuracy(Selector::Logprob, &group), 0.0);
        assert_eq!(accuracy(Selector::Length, &group), 0.0);
        assert_eq!(accuracy(Selector::Oracle, &group), 1.0);
        let lazy = SelectorConstants {
            vote_temperature: 1e6,
            ..SelectorConstants::default()
        };
        assert_eq!(
            Selector::WeightedVote.expected_accuracy(&group, &lazy),
            Some(0.0)
        );
    }

    #[test]
    fn ties_share_and_the_reward_breaks_them() {
        let group = [
            candidate(Some(1), true, 0.0),
            candidate(Some(2), false, 1.0),
            candidate(Some(2), false, 0.0),
        ];
        let tied = [group[0], group[1], candidate(Some(1), true, 0.5), group[2]];
        assert_eq!(accuracy(Selector::Majority, &tied), 0.5);
        assert_eq!(accuracy(Selector::MajorityRewardTiebreak, &tied), 0.0);
        let mut higher = tied;
        higher[2].score = Some(1.1);
        assert_eq!(accuracy(Selector::MajorityRewardTiebreak, &higher), 1.0);
        let equal = [candidate(None, true, 1.0), candidate(None, false, 1.0)];
        assert_eq!(accuracy(Selector::BestOfN, &equal), 0.5);
        assert_eq!(accuracy(Selector::Majority, &equal), 0.5);
    }

    #[test]
    fn traces_without_scores_are_not_selected() {
        let mut group = group();
        for candidate in &mut group {
            candidate.score = None;
        }
        for selector in [
            Selector::BestOfN,
            Selector::WeightedVote,
            Selector::MajorityRewardTiebreak,
        ] {
            assert_eq!(
                selector.expected_accuracy(&group, &SelectorConstants::default()),
                None
            );
        }
        group[4].score = Some(-3.0);
        assert_eq!(accuracy(Selector::BestOfN, &group), 1.0);
        assert_eq!(
            Selector::Random.expected_accuracy(&[], &SelectorConstants::default()),
            None
        );
    }

    #[test]
    fn combination_weight_moves_from_reward_to_logprob() {
        let group = [
            candidate(None, true, 2.0),
            candidate(None, false, 0.0),
            candidate(None, false, 1.0),
        ];
        let with = |combination_weight| SelectorConstants {
            combination_weight,
            ..SelectorConstants::default()
        };
        assert_eq!(
            Selector::Combined.expected_accuracy(&group, &with(0.0)),
            Some(1.0)
        );
        assert_eq!(
            Selector::Combined.expected_accuracy(&group, &with(1.0)),
            Some(0.0)
        );
        let mut no_logprobs = group;
        no_logprobs
            .iter_mut()
            .for_each(|candidate| candidate.logprob = None);
        assert_eq!(
            Selector::Combined.expected_accuracy(&no_logprobs, &with(0.0)),
            Some(1.0)
        );
        assert_eq!(
            Selector::Combined.expected_accuracy(&no_logprobs, &with(0.5)),
            None
        );
    }

    #[test]
    fn fitting_finds_the_useful_constants() {
        let constants = fit_constants(&[group()]);
        assert_eq!(
            Selector::WeightedVote.expected_accuracy(&group(), &constants),
            Some(1.0)
        );
        assert_eq!(
            fit_constants(&[group()[..3].to_vec()]).combination_weight,
            0.0
        );
        let right_is_likely = vec![candidate(None, true, -1.0), candidate(None, false, 1.0)];
        assert!(fit_constants(&[right_is_likely]).combination_weight > 0.5);
        assert_eq!(fit_constants(&[]), SelectorConstants::default());
    }

    #[test]
    fn choose_follows_the_distribution() {
        let mut counts = [0usize; 3];
        for seed in 0..2000 {
            counts[choose(&[0.25, 0.0, 0.75], &mut Stream::new(seed, &[])).unwrap()] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!(
            (counts[0] as f64 / 2000.0 - 0.25).abs() < 0.04,
            "{counts:?}"
        );
        assert_eq!(choose(&[], &mut Stream::new(0, &[])), None);
    }

    #[test]
    fn unknown_selectors_name_the_nearest() {
        let message = Selector::parse("best_of").unwrap_err().to_string();
        assert_eq!(
            message,
            "unknown selector `best_of`; did you mean `best_of_n`?"
        );
        assert!(
            Selector::parse("zzzzzzzzzzzzzz")
                .unwrap_err()
                .to_string()
                .ends_with('`')
        );
    }

    proptest! {
        #[test]
        fn distributions_sum_to_one_in_any_order(
            raw in prop::collection::vec((0u32..4, any::<bool>(), -3i8..4), 1..17), turn in 0usize..16,
        ) {
            let group: Vec<Candidate> = raw.iter()
                .map(|&(a, c, s)| candidate((a > 0).then_some(a), c, f64::from(s))).collect();
            let mut turned = group.clone();
            turned.rotate_left(turn % group.len());
            for selector in Selector::ALL {
                let constants = SelectorConstants::default();
                let distribution = selector.distribution(&group, &constants).unwrap();
                prop_assert!((distribution.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                let (a, b) = (selector.expected_accuracy(&group, &constants), selector.expected_accuracy(&turned, &constants));
                prop_assert!((a.unwrap() - b.unwrap()).abs() < 1e-9, "{selector:?}");
                prop_assert!(accuracy(Selector::Oracle, &group) >= a.unwrap() - 1e-12);
            }
        }
    }
}
