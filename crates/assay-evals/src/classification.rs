//! Reward against correctness: whether a higher score means a correct trace.
//!
//! This covers ranking (AUROC) and probabilities (Platt scaling, isotonic regression, ECE, Brier
//! score, reliability). All slices are parallel: entry i of each belongs to trace i, and the
//! shortest slice bounds the result.

mod calibration;

pub use calibration::{Isotonic, PlattScaling, ReliabilityBin};
pub(crate) use calibration::{brier, ece, ece_weighted, fit_isotonic, fit_platt, reliability};

use crate::statistics::mean;

/// Area under the ROC curve: `P(score of a correct > score of a wrong) + 1/2 P(equal)`, over all
/// pairs.
///
/// `None` if there is one class only.
pub(crate) fn auroc(scores: &[f64], correct: &[bool]) -> Option<f64> {
    RankedTraces::new(scores, correct, &vec![0; scores.len()]).auroc(&[1.0])
}

/// The AUROC within each group (problem, generator), in ascending order of the groups.
///
/// `groups[i]` is the group of trace i. Groups of one class are left out. The mean over groups is
/// the number to report: a ranking within a problem does not improve if the score separates easy
/// problems from hard ones.
pub(crate) fn auroc_by_group(
    scores: &[f64],
    correct: &[bool],
    groups: &[usize],
) -> Vec<(usize, f64)> {
    let mut order: Vec<usize> = (0..scores.len().min(correct.len()).min(groups.len())).collect();
    order.sort_by_key(|&i| groups[i]);
    let of_group = |members: &[usize]| {
        let own_scores: Vec<f64> = members.iter().map(|&i| scores[i]).collect();
        let own_labels: Vec<bool> = members.iter().map(|&i| correct[i]).collect();
        Some((groups[members[0]], auroc(&own_scores, &own_labels)?))
    };
    order
        .chunk_by(|&a, &b| groups[a] == groups[b])
        .filter_map(of_group)
        .collect()
}

/// The mean of [`auroc_by_group`]; `None` if no group has both classes.
pub(crate) fn auroc_within(scores: &[f64], correct: &[bool], groups: &[usize]) -> Option<f64> {
    let values: Vec<f64> = auroc_by_group(scores, correct, groups)
        .into_iter()
        .map(|(_, value)| value)
        .collect();
    mean(&values)
}

/// Traces sorted by score: the AUROC of each bootstrap resample is one linear pass.
#[derive(Clone, Debug)]
pub(crate) struct RankedTraces {
    /// In ascending order of score: unit times 4, plus 2 if correct, plus 1 if the score equals the
    /// one before.
    ranked: Vec<u32>,
}

impl RankedTraces {
    /// Sorts the traces; `units[i]` is the bootstrap unit (the problem) of trace i.
    pub(crate) fn new(scores: &[f64], correct: &[bool], units: &[usize]) -> Self {
        let mut order: Vec<(f64, bool, u32)> = scores
            .iter()
            .zip(correct)
            .zip(units)
            .map(|((&score, &class), &unit)| (score, class, unit as u32))
            .collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut previous = f64::NAN;
        let mark = |(score, class, unit)| {
            let tied = score == previous;
            previous = score;
            unit << 2 | u32::from(class) << 1 | u32::from(tied)
        };
        Self {
            ranked: order.into_iter().map(mark).collect(),
        }
    }

    /// AUROC if a trace counts `weights[unit]` times; `None` if one class has no weight.
    pub(crate) fn auroc(&self, weights: &[f64]) -> Option<f64> {
        let (mut wrong_below, mut right, mut pairs) = (0.0, 0.0, 0.0);
        let (mut block_right, mut block_wrong) = (0.0, 0.0);
        for &packed in &self.ranked {
            if packed & 1 == 0 {
                pairs += block_right * (wrong_below + 0.5 * block_wrong);
                wrong_below += block_wrong;
                right += block_right;
                (block_right, block_wrong) = (0.0, 0.0);
            }
            // No branch on the class: it would be mispredicted half of the time.
            let weight = weights[(packed >> 2) as usize];
            let of_right = weight * f64::from(packed >> 1 & 1);
            block_right += of_right;
            block_wrong += weight - of_right;
        }
        pairs += block_right * (wrong_below + 0.5 * block_wrong);
        let all_pairs = (right + block_right) * (wrong_below + block_wrong);
        (all_pairs > 0.0).then(|| pairs / all_pairs)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn auroc_by_hand_with_a_tie() {
        // pairs (right, wrong): (2,1) won, (2,2) half, (3,1) won, (3,2) won
        let value = auroc(&[1.0, 2.0, 2.0, 3.0], &[false, true, false, true]).unwrap();
        assert_eq!(value, 3.5 / 4.0);
        assert_eq!(auroc(&[1.0, 1.0], &[true, false]), Some(0.5));
        assert_eq!(auroc(&[1.0, 2.0], &[true, true]), None);
        assert_eq!(auroc(&[], &[]), None);
    }

    #[test]
    fn auroc_within_ignores_differences_between_problems() {
        // The pooled ranking is good; within each problem it is reversed.
        let scores = [10.0, 11.0, 12.0, 0.0, 1.0, 2.0, 13.0];
        let correct = [true, true, false, true, false, false, true];
        let problems = [7, 7, 7, 3, 3, 3, 9];
        assert!(auroc(&scores, &correct).unwrap() > 0.5);
        assert_eq!(
            auroc_by_group(&scores, &correct, &problems),
            [(3, 0.0), (7, 0.0)]
        );
        assert_eq!(auroc_within(&scores, &correct, &problems), Some(0.0));
        assert_eq!(
            auroc_within(&scores[6..], &correct[6..], &problems[6..]),
            None
        );
    }

    #[test]
    fn weights_repeat_units() {
        let (scores, correct, units) = (
            [0.3, 0.1, 0.2, 0.2],
            [true, false, true, false],
            [0, 0, 1, 1],
        );
        let ranked = RankedTraces::new(&scores, &correct, &units);
        let twice = auroc(
            &[0.3, 0.1, 0.3, 0.1, 0.2, 0.2],
            &[true, false, true, false, true, false],
        )
        .unwrap();
        assert!((ranked.auroc(&[2.0, 1.0]).unwrap() - twice).abs() < 1e-15);
        assert_eq!(ranked.auroc(&[0.0, 0.0]), None);
    }

    proptest! {
        #[test]
        fn auroc_counts_pairs(raw in prop::collection::vec((-4i8..5, any::<bool>()), 2..40)) {
            let scores: Vec<f64> = raw.iter().map(|(s, _)| f64::from(*s)).collect();
            let correct: Vec<bool> = raw.iter().map(|(_, c)| *c).collect();
            let (mut won, mut pairs) = (0.0, 0.0);
            for (a, _) in raw.iter().filter(|(_, c)| *c) {
                for (b, _) in raw.iter().filter(|(_, c)| !*c) {
                    pairs += 1.0;
                    won += if a > b { 1.0 } else if a == b { 0.5 } else { 0.0 };
                }
            }
            match auroc(&scores, &correct) {
                Some(value) => prop_assert!((value - won / pairs).abs() < 1e-12),
                None => prop_assert_eq!(pairs, 0.0),
            }
        }
    }
}
