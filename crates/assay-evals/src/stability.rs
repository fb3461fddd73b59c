//! Formulas that monitor a training run: groups without signal, length hacking, collapse.

use crate::statistics::{pearson, population_std};

/// Share of its start accuracy below which a run has collapsed.
pub const COLLAPSE_SHARE: f64 = 0.2;

/// Share of groups whose trace scores are all equal, so that the group-relative advantage is 0.
///
/// Scores are equal if their population standard deviation is at most `1e-6 (1 + |mean|)`; a group
/// of fewer than two traces counts as equal. `None` without groups.
pub fn zero_std_share<G: AsRef<[f64]>>(groups: &[G]) -> Option<f64> {
    let agrees = |scores: &[f64]| {
        let size = 1.0 + scores.iter().sum::<f64>().abs() / scores.len().max(1) as f64;
        population_std(scores).is_none_or(|spread| spread <= 1e-6 * size)
    };
    let agreeing = groups.iter().filter(|group| agrees(group.as_ref())).count();
    (!groups.is_empty()).then(|| agreeing as f64 / groups.len() as f64)
}

/// Pearson's r of trace score and length; a strong one says that the reward measures length. `None`
/// as [`pearson`].
pub fn reward_length_correlation(scores: &[f64], lengths: &[f64]) -> Option<f64> {
    pearson(scores, lengths)
}

/// Whether accuracy fell below [`COLLAPSE_SHARE`] of the accuracy at the start; a run that starts
/// at 0 cannot collapse.
pub fn is_collapsed(start_accuracy: f64, accuracy: f64) -> bool {
    accuracy < COLLAPSE_SHARE * start_accuracy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_std_groups_are_counted() {
        let groups = [
            vec![1.0, 1.0],
            vec![0.0, 1.0],
            vec![5.0],
            vec![1e6, 1e6 + 0.1],
        ];
        assert_eq!(zero_std_share(&groups), Some(0.75));
        assert_eq!(zero_std_share::<Vec<f64>>(&[]), None);
    }

    #[test]
    fn collapse_is_below_a_fifth_of_the_start() {
        assert!(is_collapsed(0.5, 0.099));
        assert!(!is_collapsed(0.5, 0.1));
        assert!(!is_collapsed(0.0, 0.0));
    }

    #[test]
    fn a_reward_that_falls_with_length_correlates_negatively() {
        assert!((reward_length_correlation(&[1.0, 2.0], &[4.0, 3.0]).unwrap() + 1.0).abs() < 1e-12);
    }
}
