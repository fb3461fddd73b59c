//! Rules that stop sampling early when the vote is clear.
//!
//! A rule reads the traces of a problem in the order in which they were sampled; the traces after
//! its stop need not be sampled. The answer is the majority vote over the traces before the stop.

use serde::{Deserialize, Serialize};

use super::selector::{Candidate, Selector, SelectorConstants};
use crate::statistics::special::beta_below_half;

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopRule {
    /// The leading answer is ahead by more votes than traces are left, so it also wins the vote
    /// over all N.
    Decided,
    /// The leading answer beats the second with at least this probability. With `a` and `b` votes
    /// and a uniform prior it is `P(Beta(a + 1, b + 1) > 1/2)`. Source: Aggarwal et al. 2023, arXiv
    /// 2305.11860.
    Confident(f64),
}

/// Where a rule stopped on one problem.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stopped {
    /// Number of traces before the stop.
    pub samples: usize,
    /// Tokens of the traces after the stop, as a share of the tokens of all N.
    pub tokens_saved: f64,
    /// Probability that the majority vote over the traces before the stop is correct.
    pub accuracy: f64,
}

impl StopRule {
    /// The rules that are reported, with their names.
    pub const NAMED: [(&'static str, Self); 2] = [
        ("decided", Self::Decided),
        ("confident", Self::Confident(0.95)),
    ];

    /// Where the rule stops on these traces; `None` without traces.
    pub fn stop(self, candidates: &[Candidate]) -> Option<Stopped> {
        let mut votes: Vec<(u32, usize)> = Vec::new();
        let mut seen = 0;
        for candidate in candidates {
            seen += 1;
            if let Some(answer) = candidate.answer {
                match votes.iter_mut().find(|(class, _)| *class == answer) {
                    Some((_, count)) => *count += 1,
                    None => votes.push((answer, 1)),
                }
            }
            if self.is_over(&votes, candidates.len() - seen) {
                break;
            }
        }
        let looked_at = &candidates[..seen];
        let length = |part: &[Candidate]| part.iter().map(|c| c.length).sum::<f64>();
        let all = length(candidates);
        let accuracy =
            Selector::Majority.expected_accuracy(looked_at, &SelectorConstants::default())?;
        Some(Stopped {
            samples: seen,
            tokens_saved: if all > 0.0 {
                1.0 - length(looked_at) / all
            } else {
                0.0
            },
            accuracy,
        })
    }

    fn is_over(self, votes: &[(u32, usize)], left: usize) -> bool {
        let mut counts: Vec<usize> = votes.iter().map(|(_, count)| *count).collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let (first, second) = (
            counts.first().copied().unwrap_or(0),
            counts.get(1).copied().unwrap_or(0),
        );
        match self {
            Self::Decided => first > second + left,
            Self::Confident(level) => {
                first > 0 && 1.0 - beta_below_half(first as f64 + 1.0, second as f64 + 1.0) >= level
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn votes(answers: &[u32]) -> Vec<Candidate> {
        let candidate = |&answer: &u32| Candidate {
            correct: answer == 1,
            answer: (answer > 0).then_some(answer),
            length: 10.0,
            ..Candidate::default()
        };
        answers.iter().map(candidate).collect()
    }

    #[test]
    fn a_lead_beyond_what_is_left_decides() {
        // After 1 1 1 the lead is 3, three are left: not yet. After the fourth 1 the lead is 4, two
        // are left.
        let stopped = StopRule::Decided.stop(&votes(&[1, 1, 1, 1, 2, 2])).unwrap();
        assert_eq!((stopped.samples, stopped.accuracy), (4, 1.0));
        assert!((stopped.tokens_saved - 2.0 / 6.0).abs() < 1e-15);
        let tie = StopRule::Decided.stop(&votes(&[1, 2, 0])).unwrap();
        assert_eq!((tie.samples, tie.tokens_saved, tie.accuracy), (3, 0.0, 0.5));
        assert_eq!(StopRule::Decided.stop(&[]), None);
    }

    #[test]
    fn confidence_by_hand() {
        // Beta(5, 1): P(> 1/2) = 1 - 2^-5 = .969 after four votes; Beta(4, 1) has .9375.
        let stopped = StopRule::Confident(0.95).stop(&votes(&[1; 16])).unwrap();
        assert_eq!((stopped.samples, stopped.tokens_saved), (4, 0.75));
    }

    #[test]
    fn traces_without_answers_do_not_vote_but_cost() {
        let stopped = StopRule::Confident(0.95)
            .stop(&votes(&[0, 0, 1, 1, 1, 1, 2, 2]))
            .unwrap();
        assert_eq!(stopped.samples, 6);
        let none = StopRule::Decided.stop(&votes(&[0, 0])).unwrap();
        assert_eq!((none.samples, none.accuracy), (2, 0.0));
    }

    proptest! {
        #[test]
        fn a_decided_vote_elects_what_all_traces_elect(answers in prop::collection::vec(0u32..4, 1..20)) {
            let candidates = votes(&answers);
            let stopped = StopRule::Decided.stop(&candidates).unwrap();
            let all = Selector::Majority.expected_accuracy(&candidates, &SelectorConstants::default()).unwrap();
            prop_assert!((stopped.accuracy - all).abs() < 1e-12);
        }
    }
}
