//! A demonstration with an injected error, and the tokens of the error.

use std::ops::Range;

/// A scored demonstration with one injected error.
///
/// # Shapes
/// Every slice has one entry per completion token of the perturbed text. Only `reference_rewards`
/// has one per token of the original text, whose tokens before the error are the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalisationCase<'a> {
    /// The demonstration's problem.
    pub id: &'a str,
    /// Name of the perturbation.
    pub kind: &'a str,
    /// The perturbed text.
    pub text: &'a str,
    /// Byte range of each token in `text`.
    pub token_offsets: &'a [(usize, usize)],
    /// Reward after each token; `None` for a token without a reward.
    pub token_rewards: &'a [Option<f32>],
    /// Rewards of the original demonstration.
    pub reference_rewards: Option<&'a [Option<f32>]>,
    /// Log-probability of each token under the policy, in nats.
    pub logprobs: Option<&'a [f32]>,
    /// Entropy of the policy before each token, in nats.
    pub entropies: Option<&'a [f32]>,
    /// First byte of the corrupted span in `text`.
    pub error_start: usize,
    /// End of the corrupted span in `text`; equal to the start after a deletion.
    pub error_end: usize,
}

/// The tokens that overlap the corrupted span, or after a deletion the first token that ends after
/// its start.
///
/// The first of them is the error token. `None` if no token ends after the start.
pub fn error_tokens(case: &LocalisationCase<'_>) -> Option<Range<usize>> {
    let first = case
        .token_offsets
        .iter()
        .position(|&(start, end)| end > case.error_start && end > start)?;
    let rest = &case.token_offsets[first + 1..];
    let more = rest
        .iter()
        .take_while(|&&(start, end)| start < case.error_end && end > start)
        .count();
    Some(first..first + 1 + more)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFSETS: [(usize, usize); 7] = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 6)];

    fn case(error_start: usize, error_end: usize) -> LocalisationCase<'static> {
        LocalisationCase {
            text: "a 12 b",
            token_offsets: &OFFSETS,
            error_start,
            error_end,
            ..LocalisationCase::default()
        }
    }

    #[test]
    fn error_tokens_overlap_the_span() {
        assert_eq!(error_tokens(&case(2, 4)), Some(2..4));
        // A deletion, and a deletion after the last token.
        assert_eq!(error_tokens(&case(4, 4)), Some(4..5));
        assert_eq!(error_tokens(&case(6, 6)), None);
    }
}
