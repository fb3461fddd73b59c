//! How close a prediction is to the error token.

use std::ops::Range;

/// Tolerances w of Hit@w, in tokens.
pub const HIT_WINDOWS: [usize; 5] = [0, 1, 3, 7, 15];
/// Place of Hit@1 among them.
pub(super) const HIT_AT_1: usize = 1;

/// How close one prediction is to the error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Hit@w for each of [`HIT_WINDOWS`]: `P(|predicted - error| <= w)` over the tokens with the
    /// highest suspicion.
    pub hits: [f64; HIT_WINDOWS.len()],
    /// `E[1 / rank of the error token]` over the orders of tokens with equal suspicion.
    pub reciprocal_rank: f64,
    /// Average precision of the ranking for all tokens of the corrupted span; equal suspicions
    /// count as one threshold.
    pub average_precision: f64,
}

impl Outcome {
    /// Compares the suspicion of each token with the error tokens. Tokens with `None` rank below
    /// all others.
    ///
    /// Without any suspicion there is no hit, and all tokens share their rank.
    pub fn new(suspicion: &[Option<f64>], error: &Range<usize>) -> Self {
        let key = |token: usize| suspicion[token].unwrap_or(f64::NEG_INFINITY);
        let tokens = 0..suspicion.len();
        let top = tokens.clone().map(key).fold(f64::NEG_INFINITY, f64::max);
        let (mut tied, mut near) = (0usize, [0usize; HIT_WINDOWS.len()]);
        for token in tokens
            .clone()
            .filter(|&token| top > f64::NEG_INFINITY && key(token) == top)
        {
            tied += 1;
            for (count, window) in near.iter_mut().zip(HIT_WINDOWS) {
                *count += usize::from(token.abs_diff(error.start) <= window);
            }
        }
        let target = key(error.start);
        let above = tokens.clone().filter(|&token| key(token) > target).count();
        let equal = tokens.filter(|&token| key(token) == target).count();
        let reciprocals = (1..=equal).map(|place| 1.0 / (above + place) as f64);
        Self {
            hits: near.map(|count| {
                if tied == 0 {
                    0.0
                } else {
                    count as f64 / tied as f64
                }
            }),
            reciprocal_rank: reciprocals.sum::<f64>() / equal as f64,
            average_precision: average_precision(suspicion, error),
        }
    }
}

/// `sum_n (recall_n - recall_{n-1}) precision_n` over distinct suspicions in descending order, as
/// in scikit-learn's `average_precision_score`.
pub fn average_precision(suspicion: &[Option<f64>], relevant: &Range<usize>) -> f64 {
    let mut order: Vec<(f64, bool)> = suspicion
        .iter()
        .enumerate()
        .map(|(token, value)| {
            (
                value.unwrap_or(f64::NEG_INFINITY),
                relevant.contains(&token),
            )
        })
        .collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut seen, mut found, mut total) = (0usize, 0usize, 0.0);
    for tied in order.chunk_by(|a, b| a.0 == b.0) {
        let new = tied.iter().filter(|(_, relevant)| *relevant).count();
        seen += tied.len();
        found += new;
        total += new as f64 * found as f64 / seen as f64;
    }
    if found == 0 {
        0.0
    } else {
        total / found as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_suspicion_there_is_no_hit() {
        let outcome = Outcome::new(&[None, None], &(0..1));
        assert_eq!(outcome.hits, [0.0; 5]);
        assert_eq!(outcome.reciprocal_rank, 0.75);
    }
}
