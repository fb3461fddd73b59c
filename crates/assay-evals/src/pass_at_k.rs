//! pass@k, success@k among N by a score, oracle@N.
//!
//! Each is the exact expectation over the samples that could be drawn.

/// The unbiased estimate of the probability that at least one of k samples is correct, from n
/// samples of which m are correct.
///
/// `1 - C(n-m, k) / C(n, k) = 1 - prod_{i=0}^{k-1} (n-m-i)/(n-i)`, computed as the product of
/// ratios. `None` if k is 0 or above n, or m above n. Source: Chen et al. 2021, arXiv 2107.03374.
pub fn pass_at_k(samples: usize, correct: usize, k: usize) -> Option<f64> {
    if k == 0 || k > samples || correct > samples {
        return None;
    }
    Some(1.0 - none_correct(samples, correct, k))
}

/// Whether any of the `k` traces with the highest score is correct, in expectation over the order
/// of equal scores.
///
/// The result is 1 if a trace with a score above the k-th is correct. Otherwise `t` traces share
/// the k-th score, `c` of them are correct and `j` of them are among the k; the result is
/// `1 - C(t-c, j) / C(t, j)`. Traces without a score rank below all others. `None` if k is 0 or
/// above the number of traces.
pub fn success_at_k(scores: &[Option<f64>], correct: &[bool], k: usize) -> Option<f64> {
    let mut ranked: Vec<(f64, bool)> = scores
        .iter()
        .zip(correct)
        .map(|(score, &correct)| (score.unwrap_or(f64::NEG_INFINITY), correct))
        .collect();
    if k == 0 || k > ranked.len() {
        return None;
    }
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    let boundary = ranked[k - 1].0;
    let above = ranked.iter().filter(|(score, _)| *score > boundary).count();
    if ranked[..above].iter().any(|(_, correct)| *correct) {
        return Some(1.0);
    }
    let tied = ranked.iter().filter(|(score, _)| *score == boundary);
    let (tied, tied_correct) = tied.fold((0, 0), |(n, m), (_, correct)| {
        (n + 1, m + usize::from(*correct))
    });
    Some(1.0 - none_correct(tied, tied_correct, k - above))
}

fn none_correct(samples: usize, correct: usize, k: usize) -> f64 {
    if samples - correct < k {
        return 0.0;
    }
    (0..k)
        .map(|i| (samples - correct - i) as f64 / (samples - i) as f64)
        .product()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pass_at_k_by_hand() {
        // C(3,2)/C(5,2) = 3/10
        assert!((pass_at_k(5, 2, 2).unwrap() - 0.7).abs() < 1e-15);
        assert_eq!(pass_at_k(5, 0, 3), Some(0.0));
        assert_eq!(pass_at_k(5, 5, 1), Some(1.0));
        assert_eq!(pass_at_k(1, 1, 1), Some(1.0));
        assert_eq!(pass_at_k(4, 1, 5), None);
        assert_eq!(pass_at_k(4, 1, 0), None);
        assert!(pass_at_k(100_000, 3, 50_000).unwrap() > 0.87);
    }

    #[test]
    fn success_at_k_averages_over_ties() {
        let scores = [Some(2.0), Some(1.0), Some(1.0), Some(1.0), None];
        let correct = [false, true, false, false, true];
        assert_eq!(success_at_k(&scores, &correct, 1), Some(0.0));
        assert!((success_at_k(&scores, &correct, 2).unwrap() - 1.0 / 3.0).abs() < 1e-15);
        assert!((success_at_k(&scores, &correct, 3).unwrap() - 2.0 / 3.0).abs() < 1e-15);
        assert_eq!(success_at_k(&scores, &correct, 5), Some(1.0));
        assert_eq!(success_at_k(&scores, &correct, 6), None);
    }

    #[test]
    fn all_scores_equal_is_pass_at_k() {
        let correct = [true, false, true, false, false, false];
        for k in 1..=6 {
            let success = success_at_k(&[Some(0.5); 6], &correct, k).unwrap();
            assert!((success - pass_at_k(6, 2, k).unwrap()).abs() < 1e-15);
        }
    }
}
