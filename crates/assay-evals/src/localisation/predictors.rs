//! The predictors: the suspicion of each token, from rewards or from baselines without a reward.

use serde::{Deserialize, Serialize};

use super::case::LocalisationCase;
use crate::error::{EvalError, find_named};

/// A rule that assigns a suspicion to every token; the predicted error token has the highest.
///
/// r_t is the reward after token t, l_t its log-probability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Predictor {
    /// `r_{t-1} - r_t` over consecutive scored tokens; the first has none.
    LargestDrop,
    /// `r'_t - r_t`, where r' is the reward of the original demonstration at the same token index.
    PairedDrop,
    /// `-r_t`.
    LowestReward,
    /// `-r_t` among tokens with a digit.
    LowestRewardNumber,
    /// The first token with `r_t` below a threshold, then the others by `-r_t`.
    BelowThreshold,
    /// The same among tokens with a digit, with its own threshold.
    BelowThresholdNumber,
    /// The start of the second segment in the best two-mean fit with a fall between the segments:
    /// `k (n-k) / n (mean_before - mean_from)^2`, negative where the mean rises.
    ChangePoint,
    /// The same on `r_t - r'_t`, where r' is the reward of the original demonstration.
    PairedChangePoint,
    /// A weighted sum of reward and log-probability, see [`Combination`].
    Combined,
    /// Equal suspicion for all tokens: the exact expectation of a uniform guess.
    Chance,
    /// `l_{t-1} - l_t`.
    LogprobDrop,
    /// `-l_t`.
    LowestLogprob,
    /// Entropy of the policy before token t.
    Entropy,
    /// `-l_t` among tokens with a digit.
    SurprisingNumber,
    /// The first token with a digit and `l_t` below a threshold, then the other numbers by `-l_t`.
    FirstSurprisingNumber,
}

/// The constants of predictors, fitted on labelled cases.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PredictorConstants {
    /// Of [`Predictor::BelowThreshold`].
    pub threshold: Option<f32>,
    /// Of [`Predictor::BelowThresholdNumber`].
    pub number_threshold: Option<f32>,
    /// Of [`Predictor::FirstSurprisingNumber`].
    pub logprob_threshold: Option<f32>,
    /// Of [`Predictor::Combined`].
    pub combination: Option<Combination>,
}

/// A weighted sum of reward and log-probability: suspicion `-((1-w) r_t / s_r + w l_t / s_l)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Combination {
    /// w, the share of the log-probability.
    pub logprob_weight: f64,
    /// `s_r`, the standard deviation of rewards over tokens.
    pub reward_scale: f64,
    /// `s_l`, the standard deviation of log-probabilities over tokens.
    pub logprob_scale: f64,
    /// Whether only tokens with a digit have a suspicion.
    pub numbers_only: bool,
}

impl Predictor {
    /// Every predictor, in the order of [`Predictor::NAMES`].
    pub const ALL: [Self; 15] = [
        Self::LargestDrop,
        Self::PairedDrop,
        Self::LowestReward,
        Self::LowestRewardNumber,
        Self::BelowThreshold,
        Self::BelowThresholdNumber,
        Self::ChangePoint,
        Self::PairedChangePoint,
        Self::Combined,
        Self::Chance,
        Self::LogprobDrop,
        Self::LowestLogprob,
        Self::Entropy,
        Self::SurprisingNumber,
        Self::FirstSurprisingNumber,
    ];

    /// Names, as in `summary.json` and on the command line.
    pub const NAMES: [&'static str; 15] = [
        "largest_drop",
        "paired_drop",
        "lowest_reward",
        "lowest_reward_number",
        "below_threshold",
        "below_threshold_number",
        "change_point",
        "paired_change_point",
        "combined",
        "chance",
        "logprob_drop",
        "lowest_logprob",
        "entropy",
        "surprising_number",
        "first_surprising_number",
    ];

    /// The predictor's name.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The predictor called `name`.
    ///
    /// # Errors
    /// [`EvalError::UnknownName`] with the nearest known name.
    pub fn parse(name: &str) -> Result<Self, EvalError> {
        find_named("predictor", name, &Self::ALL, &Self::NAMES)
    }

    /// Whether it needs no reward.
    pub fn is_baseline(self) -> bool {
        matches!(
            self,
            Self::Chance
                | Self::LogprobDrop
                | Self::LowestLogprob
                | Self::Entropy
                | Self::SurprisingNumber
                | Self::FirstSurprisingNumber
        )
    }

    /// Suspicion of each token of the perturbed text, `None` for tokens that cannot be the
    /// prediction.
    ///
    /// `None` for the whole case if it lacks the predictor's data or no token can be the
    /// prediction.
    pub fn suspicion(
        self,
        case: &LocalisationCase<'_>,
        constants: &PredictorConstants,
    ) -> Option<Vec<Option<f64>>> {
        let rewards = widen(case.token_rewards);
        let logprobs = || {
            Some(
                case.logprobs?
                    .iter()
                    .map(|&value| Some(f64::from(value)))
                    .collect::<Vec<_>>(),
            )
        };
        let suspicion = match self {
            Self::LargestDrop => drops(&rewards),
            Self::PairedDrop => paired_drops(&rewards, &widen(case.reference_rewards?)),
            Self::LowestReward => negated(&rewards),
            Self::LowestRewardNumber => numbers_only(case, negated(&rewards)),
            Self::BelowThreshold => first_below(&rewards, f64::from(constants.threshold?)),
            Self::BelowThresholdNumber => first_below(
                &numbers_only(case, rewards),
                f64::from(constants.number_threshold?),
            ),
            Self::ChangePoint => change_points(&rewards),
            Self::PairedChangePoint => {
                let falls = paired_drops(&rewards, &widen(case.reference_rewards?));
                change_points(&negated(&falls))
            }
            Self::Combined => {
                let rule = constants.combination?;
                let joined = combined(&rewards, &logprobs()?, &rule);
                match rule.numbers_only {
                    true => numbers_only(case, joined),
                    false => joined,
                }
            }
            Self::Chance => case.token_offsets.iter().map(|_| Some(0.0)).collect(),
            Self::LogprobDrop => drops(&logprobs()?),
            Self::LowestLogprob => negated(&logprobs()?),
            Self::Entropy => case
                .entropies?
                .iter()
                .map(|&value| Some(f64::from(value)))
                .collect(),
            Self::SurprisingNumber => numbers_only(case, negated(&logprobs()?)),
            Self::FirstSurprisingNumber => first_below(
                &numbers_only(case, logprobs()?),
                f64::from(constants.logprob_threshold?),
            ),
        };
        let usable =
            suspicion.len() == case.token_offsets.len() && suspicion.iter().any(Option::is_some);
        usable.then_some(suspicion)
    }
}

pub(super) fn widen(values: &[Option<f32>]) -> Vec<Option<f64>> {
    values.iter().map(|value| value.map(f64::from)).collect()
}

fn negated(values: &[Option<f64>]) -> Vec<Option<f64>> {
    values
        .iter()
        .map(|value| value.map(|value| -value))
        .collect()
}

fn drops(values: &[Option<f64>]) -> Vec<Option<f64>> {
    let mut before = None;
    let drop = |value: &Option<f64>| {
        let current = (*value)?;
        before.replace(current).map(|before: f64| before - current)
    };
    values.iter().map(drop).collect()
}

fn paired_drops(values: &[Option<f64>], reference: &[Option<f64>]) -> Vec<Option<f64>> {
    let original = reference.iter().copied().chain(std::iter::repeat(None));
    values
        .iter()
        .zip(original)
        .map(|(value, original)| Some(original? - (*value)?))
        .collect()
}

fn first_below(values: &[Option<f64>], threshold: f64) -> Vec<Option<f64>> {
    let first = values
        .iter()
        .position(|value| value.is_some_and(|value| value < threshold));
    let mut suspicion = negated(values);
    if let Some(first) = first {
        suspicion[first] = Some(f64::INFINITY);
    }
    suspicion
}

fn combined(
    rewards: &[Option<f64>],
    logprobs: &[Option<f64>],
    rule: &Combination,
) -> Vec<Option<f64>> {
    let by_reward = (1.0 - rule.logprob_weight) / rule.reward_scale;
    let by_logprob = rule.logprob_weight / rule.logprob_scale;
    let pairs = rewards.iter().zip(logprobs);
    pairs
        .map(|(reward, logprob)| Some(-((*reward)? * by_reward + (*logprob)? * by_logprob)))
        .collect()
}

fn change_points(values: &[Option<f64>]) -> Vec<Option<f64>> {
    let total: f64 = values.iter().flatten().sum();
    let n = values.iter().flatten().count() as f64;
    let (mut before, mut k) = (0.0, 0.0);
    let gain = |value: &Option<f64>| {
        let value = (*value)?;
        let split = (k > 0.0).then(|| {
            let fall = before / k - (total - before) / (n - k);
            k * (n - k) / n * fall * fall.abs()
        });
        before += value;
        k += 1.0;
        split
    };
    values.iter().map(gain).collect()
}

/// Keeps the values of tokens that hold an ASCII digit.
pub(super) fn numbers_only(
    case: &LocalisationCase<'_>,
    suspicion: Vec<Option<f64>>,
) -> Vec<Option<f64>> {
    let bytes = case.text.as_bytes();
    let has_digit = |&(start, end): &(usize, usize)| {
        bytes
            .get(start..end)
            .is_some_and(|token| token.iter().any(u8::is_ascii_digit))
    };
    suspicion
        .into_iter()
        .zip(case.token_offsets)
        .map(|(value, offsets)| value.filter(|_| has_digit(offsets)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_skip_unscored_tokens() {
        let values = [None, Some(2.0), None, Some(0.5), Some(1.0)];
        assert_eq!(drops(&values), [None, None, None, Some(1.5), Some(-0.5)]);
    }

    #[test]
    fn paired_drops_stop_with_the_shorter_text() {
        let values = [Some(1.0), Some(-2.0), Some(0.0)];
        assert_eq!(
            paired_drops(&values, &[Some(1.0), Some(1.0)]),
            [Some(0.0), Some(3.0), None]
        );
    }

    #[test]
    fn the_first_token_below_the_threshold_wins() {
        let suspicion = first_below(&[Some(1.0), Some(-1.0), Some(-5.0)], 0.0);
        assert_eq!(suspicion, [Some(-1.0), Some(f64::INFINITY), Some(5.0)]);
        assert_eq!(
            first_below(&[Some(1.0), Some(0.5)], 0.0),
            [Some(-1.0), Some(-0.5)]
        );
    }

    #[test]
    fn change_point_starts_the_lower_segment() {
        let values = [2.0, 1.0, 2.0, -1.0, 0.0, -1.0].map(Some);
        let gains = change_points(&values);
        let best = (1..6)
            .max_by(|&a, &b| gains[a].partial_cmp(&gains[b]).unwrap())
            .unwrap();
        assert_eq!(best, 3);
        // k = 3: 3*3/6 * (5/3 + 2/3)^2
        assert!((gains[3].unwrap() - 1.5 * (7.0f64 / 3.0).powi(2)).abs() < 1e-12);
        assert!(change_points(&[Some(0.0), Some(1.0)])[1].unwrap() < 0.0);
    }

    #[test]
    fn paired_change_point_ignores_shared_drops() {
        // The reward falls at token 1 in both; only from token 3 on does the perturbed one fall
        // below the original.
        let rewards = [4.0, 0.0, 0.0, -1.0, -1.0].map(Some);
        let original = [4.0, 0.0, 0.0, 0.0, 0.0].map(Some);
        let case = LocalisationCase {
            token_offsets: &[(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)],
            token_rewards: &rewards,
            reference_rewards: Some(&original),
            text: "abcde",
            ..LocalisationCase::default()
        };
        let best = |predictor: Predictor| {
            let suspicion = predictor
                .suspicion(&case, &PredictorConstants::default())
                .unwrap();
            let key = |token: &usize| suspicion[*token].unwrap_or(f64::NEG_INFINITY);
            (0..5).max_by(|a, b| key(a).total_cmp(&key(b)))
        };
        assert_eq!(best(Predictor::ChangePoint), Some(1));
        assert_eq!(best(Predictor::PairedChangePoint), Some(3));
    }

    #[test]
    fn numbers_are_tokens_with_a_digit() {
        let case = LocalisationCase {
            text: "a1 b",
            token_offsets: &[(0, 2), (2, 4)],
            ..LocalisationCase::default()
        };
        assert_eq!(
            numbers_only(&case, vec![Some(1.0), Some(2.0)]),
            [Some(1.0), None]
        );
    }

    #[test]
    fn names_round_trip() {
        for predictor in Predictor::ALL {
            assert_eq!(Predictor::parse(predictor.name()).unwrap(), predictor);
            assert_eq!(serde_json::to_value(predictor).unwrap(), predictor.name());
        }
        assert!(
            Predictor::parse("entropi")
                .unwrap_err()
                .to_string()
                .contains("did you mean `entropy`")
        );
    }

    #[test]
    fn missing_inputs_are_none() {
        let case = LocalisationCase {
            token_offsets: &[(0, 1)],
            token_rewards: &[Some(0.0)],
            text: "a",
            ..LocalisationCase::default()
        };
        for predictor in [
            Predictor::PairedDrop,
            Predictor::LogprobDrop,
            Predictor::Entropy,
            Predictor::BelowThreshold,
            Predictor::Combined,
        ] {
            assert_eq!(
                predictor.suspicion(&case, &PredictorConstants::default()),
                None,
                "{predictor:?}"
            );
        }
        assert_eq!(
            Predictor::LargestDrop.suspicion(&case, &PredictorConstants::default()),
            None
        );
    }
}
