//! The token of a scored trace that a predictor suspects most.

use assay_tasks::trace::ScoredTrace;

use super::case::LocalisationCase;
use super::predictors::{Predictor, PredictorConstants};

/// A token that looks like the first error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Suspect {
    /// Its index among the completion's tokens.
    pub token: usize,
    /// The predictor's value, in units of reward.
    pub suspicion: f64,
}

impl Suspect {
    /// The token with the highest suspicion, the first at a tie. With the largest drop, only a
    /// token at which the reward falls.
    ///
    /// `None` if the trace lacks the predictor's data, or if no reward falls.
    pub fn of(trace: &ScoredTrace, predictor: Predictor) -> Option<Self> {
        let case = LocalisationCase {
            text: &trace.text,
            token_offsets: &trace.token_offsets,
            token_rewards: &trace.token_rewards,
            ..LocalisationCase::default()
        };
        let falls = |suspicion: f64| predictor != Predictor::LargestDrop || suspicion > 0.0;
        let suspicions = predictor.suspicion(&case, &PredictorConstants::default())?;
        let known = suspicions.iter().enumerate().filter_map(|(token, value)| {
            let suspicion = value.filter(|value| falls(*value))?;
            Some(Self { token, suspicion })
        });
        known.reduce(|best, next| match next.suspicion > best.suspicion {
            true => next,
            false => best,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(rewards: [f32; 5]) -> ScoredTrace {
        ScoredTrace {
            token_offsets: (0..5).map(|i| (i, i + 1)).collect(),
            token_rewards: rewards.map(Some).to_vec(),
            text: "abcde".into(),
            ..ScoredTrace::default()
        }
    }

    #[test]
    fn the_first_of_equal_drops_is_suspected() {
        let trace = trace([2.0, 1.0, 3.0, 2.0, 2.5]);
        let suspect = Suspect::of(&trace, Predictor::LargestDrop).unwrap();
        assert_eq!((suspect.token, suspect.suspicion), (1, 1.0));
        let lowest = Suspect::of(&trace, Predictor::LowestReward).unwrap();
        assert_eq!((lowest.token, lowest.suspicion), (1, -1.0));
    }

    #[test]
    fn rewards_that_rise_suspect_no_token() {
        let rising = trace([1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(Suspect::of(&rising, Predictor::LargestDrop), None);
    }
}
