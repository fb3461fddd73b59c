//! How the constants of predictors are fitted on cases with known errors.

use std::ops::Range;

use super::case::{LocalisationCase, error_tokens};
use super::outcome::{HIT_AT_1, Outcome};
use super::predictors::{Combination, Predictor, PredictorConstants, numbers_only, widen};
use crate::statistics::quantile;

/// Number of thresholds that are tried.
const THRESHOLDS: usize = 64;
/// Weights of the log-probability that are tried: 0, 1/10, ..., 1.
const WEIGHTS: usize = 11;

/// A case and its error tokens.
type Labelled<'c, 'a> = (&'c LocalisationCase<'a>, Range<usize>);

impl PredictorConstants {
    /// The constants with the highest Hit@1 on `cases`; `None` for constants whose data no case
    /// has.
    pub fn fit(cases: &[&LocalisationCase<'_>]) -> Self {
        let labelled: Vec<Labelled<'_, '_>> = cases
            .iter()
            .filter_map(|&case| Some((case, error_tokens(case)?)))
            .collect();
        Self {
            threshold: threshold(&labelled, |case| Some(widen(case.token_rewards))),
            number_threshold: threshold(&labelled, |case| {
                Some(numbers_only(case, widen(case.token_rewards)))
            }),
            logprob_threshold: threshold(&labelled, |case| {
                let logprobs = case.logprobs?.iter();
                let logprobs = logprobs.map(|&l| Some(f64::from(l))).collect();
                Some(numbers_only(case, logprobs))
            }),
            combination: combination(&labelled),
        }
    }
}

/// The best of [`THRESHOLDS`] quantiles of the values; ties go to the lowest.
fn threshold(
    cases: &[Labelled<'_, '_>],
    values: impl Fn(&LocalisationCase<'_>) -> Option<Vec<Option<f64>>>,
) -> Option<f32> {
    let read = |(case, error): &Labelled<'_, '_>| Some((values(case)?, error.start));
    let read: Vec<(Vec<Option<f64>>, usize)> = cases.iter().filter_map(read).collect();
    let mut all: Vec<f64> = read
        .iter()
        .flat_map(|(v, _)| v.iter().flatten())
        .copied()
        .collect();
    all.sort_by(f64::total_cmp);
    let hits = |threshold: f32| -> f64 {
        let below = |value: &Option<f64>| value.is_some_and(|v| v < f64::from(threshold));
        let hit = |(values, error): &&(Vec<Option<f64>>, usize)| {
            let first = values.iter().position(below);
            first.is_some_and(|token| token.abs_diff(*error) <= 1)
        };
        read.iter().filter(hit).count() as f64
    };
    let grid = (0..THRESHOLDS).map(|i| (i as f64 + 0.5) / THRESHOLDS as f64);
    let candidates = grid.filter_map(|q| quantile(&all, q));
    first_best(candidates.map(|candidate| candidate as f32), hits)
}

/// The best weight, over all tokens or over numbers only; ties go to all tokens, then to the
/// smallest weight.
fn combination(cases: &[Labelled<'_, '_>]) -> Option<Combination> {
    let rewards = cases
        .iter()
        .flat_map(|(case, _)| case.token_rewards.iter().flatten());
    let logprobs = cases
        .iter()
        .flat_map(|(case, _)| case.logprobs.into_iter().flatten());
    let (reward_scale, logprob_scale) = (deviation(rewards)?, deviation(logprobs)?);
    let candidates = [false, true].into_iter().flat_map(|numbers_only| {
        (0..WEIGHTS).map(move |step| Combination {
            logprob_weight: step as f64 / (WEIGHTS - 1) as f64,
            reward_scale,
            logprob_scale,
            numbers_only,
        })
    });
    first_best(candidates, |candidate| {
        let constants = PredictorConstants {
            combination: Some(candidate),
            ..PredictorConstants::default()
        };
        let hit = |(case, error): &Labelled<'_, '_>| {
            let suspicion = Predictor::Combined.suspicion(case, &constants)?;
            Some(Outcome::new(&suspicion, error).hits[HIT_AT_1])
        };
        cases.iter().filter_map(hit).sum()
    })
}

/// The first candidate of the highest score.
fn first_best<T: Copy>(candidates: impl Iterator<Item = T>, score: impl Fn(T) -> f64) -> Option<T> {
    let mut best: Option<(f64, T)> = None;
    for candidate in candidates {
        let found = score(candidate);
        if best.is_none_or(|(most, _)| found > most) {
            best = Some((found, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// The population standard deviation; `None` if it is 0 or not defined.
fn deviation<'v>(values: impl Iterator<Item = &'v f32> + Clone) -> Option<f64> {
    let count = values.clone().count() as f64;
    let mean = values.clone().map(|&v| f64::from(v)).sum::<f64>() / count;
    let squares: f64 = values.map(|&v| (f64::from(v) - mean).powi(2)).sum();
    let deviation = (squares / count).sqrt();
    (deviation.is_finite() && deviation > 0.0).then_some(deviation)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFSETS: [(usize, usize); 4] = [(0, 1), (1, 2), (2, 3), (3, 4)];

    fn case<'a>(rewards: &'a [Option<f32>], logprobs: &'a [f32]) -> LocalisationCase<'a> {
        LocalisationCase {
            text: "a1b2",
            token_offsets: &OFFSETS,
            token_rewards: rewards,
            logprobs: Some(logprobs),
            error_start: 1,
            error_end: 2,
            ..LocalisationCase::default()
        }
    }

    #[test]
    fn the_combination_finds_what_neither_finds() {
        // Each is lowest at another wrong token; at the error, token 1, both are low.
        let rewards = [Some(0.0), Some(-3.0), Some(0.0), Some(-4.0)];
        let logprobs = [0.0, -3.0, -4.0, 0.0];
        let (rewards, logprobs) = (rewards.map(|r: Option<f32>| r), logprobs);
        let case = case(&rewards, &logprobs);
        let fitted = PredictorConstants::fit(&[&case]);
        let chosen = fitted.combination.unwrap();
        // Equal scales, (1-w) 3 + w 3 > (1-w) 4 and > w 4: w above 1/4 and below 3/4; Hit@1 counts
        // the neighbour, token 2, so every w above 1/4 is as good and the smallest is taken.
        assert_eq!(chosen.reward_scale, chosen.logprob_scale);
        assert_eq!((chosen.logprob_weight, chosen.numbers_only), (0.3, false));
        let suspicion = Predictor::Combined.suspicion(&case, &fitted).unwrap();
        assert_eq!(Outcome::new(&suspicion, &(1..2)).hits[0], 1.0);
    }

    #[test]
    fn numbers_only_is_chosen_when_better() {
        let rewards = [Some(-9.0), Some(-3.0), Some(0.0), Some(0.0)];
        let logprobs = [-9.0, -3.0, 0.0, 0.0];
        let mut case = case(&rewards, &logprobs);
        (case.error_start, case.error_end) = (3, 4);
        let rest = [Some(-9.0), Some(0.0), Some(0.0), Some(-3.0)];
        case.token_rewards = &rest;
        let chosen = PredictorConstants::fit(&[&case]).combination.unwrap();
        assert_eq!((chosen.logprob_weight, chosen.numbers_only), (0.0, true));
    }

    #[test]
    fn without_spread_or_logprobs_there_is_no_combination() {
        let flat = [Some(1.0); 4];
        assert_eq!(
            PredictorConstants::fit(&[&case(&flat, &[0.0, -1.0, 0.0, 0.0])]).combination,
            None
        );
        let rewards = [Some(0.0), Some(-3.0), Some(0.0), Some(0.0)];
        let mut without = case(&rewards, &[]);
        without.logprobs = None;
        assert_eq!(PredictorConstants::fit(&[&without]).combination, None);
        assert_eq!(PredictorConstants::fit(&[]), PredictorConstants::default());
    }

    #[test]
    fn the_first_number_below_threshold_is_found() {
        // The error is the digit at token 1; a letter is low before it, and the next digit is lower
        // still.
        let rewards = [-9.0, -3.0, 0.0, -4.0, 0.0, 1.0].map(Some);
        let logprobs = [-8.0, -2.0, 0.0, -7.0, 0.0, -0.1];
        let offsets: Vec<(usize, usize)> = (0..6).map(|at| (at, at + 1)).collect();
        let all = LocalisationCase {
            text: "a1b2c3",
            token_offsets: &offsets,
            ..case(&rewards, &logprobs)
        };
        let fitted = PredictorConstants::fit(&[&all]);
        for (predictor, hit) in [
            (Predictor::BelowThresholdNumber, 1.0),
            (Predictor::FirstSurprisingNumber, 1.0),
            (Predictor::SurprisingNumber, 0.0),
            (Predictor::LowestRewardNumber, 0.0),
        ] {
            let suspicion = predictor.suspicion(&all, &fitted).unwrap();
            assert_eq!(
                Outcome::new(&suspicion, &(1..2)).hits[0],
                hit,
                "{predictor:?}"
            );
            assert_eq!([suspicion[0], suspicion[2], suspicion[4]], [None; 3]);
        }
    }
}
