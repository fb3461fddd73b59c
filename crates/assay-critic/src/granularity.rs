//! Which completion tokens carry a label and which logit scores each token.
//!
//! Indices count completion tokens. Index 0 is the first sampled (or demonstration) token, the last
//! index is the end-of-turn token. The prompt and the text of the chat template have no index.

use serde::{Deserialize, Serialize};

use crate::CriticError;
use crate::transform::RewardTransform;

/// How densely tokens carry labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Granularity {
    /// Every completion token.
    #[default]
    Dense,
    /// Every n-th completion token, counted from the first, and the last.
    Interval {
        /// n, at least 1.
        #[serde(default = "default_every")]
        every: usize,
    },
    /// The last token of each reasoning step, and the last token.
    Step,
    /// The last completion token only.
    Sparse,
}

fn default_every() -> usize {
    15
}

impl Granularity {
    /// The labelled positions of a completion, ascending and without duplicates. They always
    /// include the last token. An empty completion has none.
    ///
    /// `step_ends` are the indices of tokens that end a reasoning step. Only `step` uses them, and
    /// indices beyond the completion are ignored. With `interval`, positions are n-1, 2n-1, ...:
    /// the n-th token, the 2n-th token, ...
    pub fn labelled_positions(self, completion_len: usize, step_ends: &[usize]) -> Vec<usize> {
        let Some(last) = completion_len.checked_sub(1) else {
            return Vec::new();
        };
        let mut positions: Vec<usize> = match self {
            Self::Dense => (0..last).collect(),
            Self::Interval { every } => {
                let every = every.max(1);
                (every - 1..last).step_by(every).collect()
            }
            Self::Step => step_ends
                .iter()
                .copied()
                .filter(|&end| end < last)
                .collect(),
            Self::Sparse => Vec::new(),
        };
        positions.push(last);
        positions.sort_unstable();
        positions.dedup();
        positions
    }

    /// Token rewards of a completion: the logits at labelled positions, backfilled and transformed.
    ///
    /// # Shapes
    /// `logits` and the result have one f32 per completion token. `step_ends`: see
    /// [`Granularity::labelled_positions`].
    pub fn rewards(
        self,
        logits: &[f32],
        step_ends: &[usize],
        transform: &RewardTransform,
    ) -> Vec<f32> {
        let positions = self.labelled_positions(logits.len(), step_ends);
        transform.rewards(&backfill(logits, &positions))
    }

    /// Checks the values; `key` is the dotted path of this table.
    ///
    /// # Errors
    /// [`CriticError::InvalidSetting`] names the key.
    pub fn validate(self, key: &str) -> Result<(), CriticError> {
        match self {
            Self::Interval { every: 0 } => Err(CriticError::setting(
                format!("{key}.every"),
                "must be at least 1, not 0",
            )),
            _ => Ok(()),
        }
    }
}

/// Gives every token the logit of the next labelled position, or its own if it is labelled. Tokens
/// after the last labelled position get the logit of that position.
///
/// # Shapes
/// `logits` has one value per completion token; `positions` are ascending indices into it. The
/// result has the length of `logits`. Without positions it equals `logits`.
pub fn backfill(logits: &[f32], positions: &[usize]) -> Vec<f32> {
    let mut scores = logits.to_vec();
    let mut start = 0;
    for &position in positions {
        scores[start..=position].fill(logits[position]);
        start = position + 1;
    }
    if let Some(&last) = positions.last() {
        scores[start..].fill(logits[last]);
    }
    scores
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn positions_by_kind() {
        assert_eq!(Granularity::Dense.labelled_positions(4, &[]), [0, 1, 2, 3]);
        assert_eq!(
            Granularity::Interval { every: 3 }.labelled_positions(8, &[]),
            [2, 5, 7]
        );
        assert_eq!(
            Granularity::Interval { every: 3 }.labelled_positions(6, &[]),
            [2, 5]
        );
        assert_eq!(
            Granularity::Interval { every: 15 }.labelled_positions(4, &[]),
            [3]
        );
        assert_eq!(
            Granularity::Step.labelled_positions(9, &[4, 2, 4, 8, 20]),
            [2, 4, 8]
        );
        assert_eq!(Granularity::Sparse.labelled_positions(5, &[1]), [4]);
        assert!(Granularity::Dense.labelled_positions(0, &[]).is_empty());
    }

    /// The mask depends on the completion alone: no header, newline or prompt can shift it. Its
    /// last entry is the end-of-turn token.
    #[test]
    fn fault_07_mask_counts_completion_tokens_only() {
        for completion in 1..70 {
            for granularity in [
                Granularity::Dense,
                Granularity::Interval { every: 15 },
                Granularity::Sparse,
            ] {
                let positions = granularity.labelled_positions(completion, &[]);
                assert_eq!(
                    *positions.last().unwrap(),
                    completion - 1,
                    "end of turn is labelled"
                );
                assert!(positions[0] < completion);
            }
        }
        let interval = Granularity::Interval { every: 15 }.labelled_positions(40, &[]);
        assert_eq!(
            interval,
            [14, 29, 39],
            "the phase starts at the first completion token"
        );
        assert_eq!(
            Granularity::Dense.labelled_positions(40, &[])[0],
            0,
            "the first completion token is labelled"
        );
    }

    #[test]
    fn backfill_takes_the_next_boundary() {
        let logits = [1.0, 2.0, 3.0, 4.0, 5.0];
        assert_eq!(backfill(&logits, &[1, 3]), [2.0, 2.0, 4.0, 4.0, 4.0]);
        assert_eq!(backfill(&logits, &[4]), [5.0; 5]);
        assert_eq!(backfill(&logits, &[0, 1, 2, 3, 4]), logits);
        assert_eq!(backfill(&logits, &[]), logits);
    }

    proptest! {
        #[test]
        fn training_and_scoring_share_their_positions(len in 1_usize..200, every in 1_usize..40) {
            let positions = Granularity::Interval { every }.labelled_positions(len, &[]);
            let logits: Vec<f32> = (0..len).map(|t| t as f32).collect();
            for (token, &score) in backfill(&logits, &positions).iter().enumerate() {
                let expected = (token / every * every + every - 1).min(len - 1);
                prop_assert_eq!(score as usize, expected);
            }
        }
    }
}
