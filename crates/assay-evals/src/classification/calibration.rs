//! Maps from scores to probabilities, and the error of probabilities.

use serde::{Deserialize, Serialize};

use crate::scores::{sigmoid, softplus};

/// Number of equal-width bins of the expected calibration error.
pub(crate) const ECE_BINS: usize = 15;

/// The probability that a trace is correct, `sigmoid(scale * score + bias)`; the temperature is
/// `1 / scale`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlattScaling {
    /// Inverse temperature.
    pub scale: f64,
    /// Added to the scaled score.
    pub bias: f64,
}

/// A non-decreasing map from score to probability.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Isotonic {
    /// Scores, strictly ascending: the first and the last of each run of equal probabilities.
    pub scores: Vec<f64>,
    /// Probability at each of them.
    pub probabilities: Vec<f64>,
}

/// One bin of the reliability diagram. The bin holds probabilities in `[low, high)`, the last also
/// 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// Lower edge.
    pub low: f64,
    /// Upper edge.
    pub high: f64,
    /// Mean predicted probability of its traces.
    pub confidence: f64,
    /// Share of correct traces.
    pub accuracy: f64,
    /// Number of traces.
    pub count: usize,
}

impl PlattScaling {
    /// The score itself as a logit.
    pub const IDENTITY: Self = Self {
        scale: 1.0,
        bias: 0.0,
    };

    /// `sigmoid(scale * score + bias)`.
    pub fn probability(&self, score: f64) -> f64 {
        sigmoid(self.scale * score + self.bias)
    }
}

impl Isotonic {
    /// Whether there are as many probabilities as scores, with scores strictly ascending and
    /// probabilities ascending within [0, 1].
    pub fn is_valid(&self) -> bool {
        let in_range = |p: &f64| (0.0..=1.0).contains(p);
        self.scores.len() == self.probabilities.len()
            && self.scores.iter().all(|score| score.is_finite())
            && self.scores.windows(2).all(|pair| pair[0] < pair[1])
            && self.probabilities.iter().all(in_range)
            && self.probabilities.windows(2).all(|pair| pair[0] <= pair[1])
    }

    /// Probability by linear interpolation between fitted scores, constant outside their range; 0.5
    /// if nothing was fitted.
    pub fn probability(&self, score: f64) -> f64 {
        let above = self.scores.partition_point(|&known| known < score);
        match (above.checked_sub(1), self.scores.get(above)) {
            (None, None) => 0.5,
            (None, Some(_)) => self.probabilities[0],
            (Some(below), None) => self.probabilities[below],
            (Some(below), Some(&right)) => {
                let share = (score - self.scores[below]) / (right - self.scores[below]);
                self.probabilities[below]
                    + share * (self.probabilities[above] - self.probabilities[below])
            }
        }
    }
}

/// Scale and bias that minimise the mean negative log-likelihood plus `5e-7 a^2`, where `a` is the
/// scale for standardised scores.
///
/// Newton's method on two parameters, which halves the length of an update that raises the loss.
/// The ridge only matters if the scores separate the classes perfectly: the likelihood then has no
/// maximum. `None` if there is one class only.
pub(crate) fn fit_platt(scores: &[f64], correct: &[bool]) -> Option<PlattScaling> {
    let positives = correct.iter().filter(|c| **c).count();
    if positives == 0 || positives == correct.len() {
        return None;
    }
    let centre = crate::statistics::mean(scores)?;
    let spread = crate::statistics::population_std(scores)
        .filter(|spread| *spread > 0.0)
        .unwrap_or(1.0);
    let standard: Vec<f64> = scores
        .iter()
        .map(|score| (score - centre) / spread)
        .collect();
    let mut point = PlattScaling {
        scale: 0.0,
        bias: 0.0,
    };
    let mut loss = penalised_nll(&standard, correct, point);
    for _ in 0..100 {
        let direction = newton_direction(&standard, correct, point);
        let moved_by = |length: f64| PlattScaling {
            scale: point.scale - length * direction.scale,
            bias: point.bias - length * direction.bias,
        };
        let mut length = 1.0;
        let mut next = moved_by(length);
        let mut next_loss = penalised_nll(&standard, correct, next);
        while next_loss > loss && length > 1e-10 {
            length *= 0.5;
            next = moved_by(length);
            next_loss = penalised_nll(&standard, correct, next);
        }
        if next_loss > loss {
            break;
        }
        let moved = (next.scale - point.scale).abs() + (next.bias - point.bias).abs();
        (point, loss) = (next, next_loss);
        if moved < 1e-13 {
            break;
        }
    }
    Some(PlattScaling {
        scale: point.scale / spread,
        bias: point.bias - point.scale * centre / spread,
    })
}

/// Isotonic regression of correctness on score by pool-adjacent-violators; equal scores are pooled
/// first.
pub(crate) fn fit_isotonic(scores: &[f64], correct: &[bool]) -> Isotonic {
    let mut pairs: Vec<(f64, f64)> = scores
        .iter()
        .zip(correct)
        .map(|(&score, &c)| (score, f64::from(u8::from(c))))
        .collect();
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut blocks: Vec<Block> = Vec::new();
    let mut distinct = Vec::new();
    for tied in pairs.chunk_by(|a, b| a.0 == b.0) {
        distinct.push(tied[0].0);
        let mut block = Block {
            correct: tied.iter().map(|pair| pair.1).sum::<f64>(),
            traces: tied.len() as f64,
            scores: 1,
        };
        while let Some(last) = blocks.pop() {
            if last.correct * block.traces < block.correct * last.traces {
                blocks.push(last);
                break;
            }
            block = Block {
                correct: last.correct + block.correct,
                traces: last.traces + block.traces,
                scores: last.scores + block.scores,
            };
        }
        blocks.push(block);
    }
    ends_of(&blocks, &distinct)
}

/// Neighbouring scores with one probability.
struct Block {
    /// Number of correct traces.
    correct: f64,
    /// Number of traces.
    traces: f64,
    /// Number of distinct scores.
    scores: usize,
}

/// The map through the first and the last score of each block; between them it is constant.
fn ends_of(blocks: &[Block], distinct: &[f64]) -> Isotonic {
    let mut map = Isotonic {
        scores: Vec::new(),
        probabilities: Vec::new(),
    };
    let mut first = 0;
    for block in blocks {
        let last = first + block.scores - 1;
        for place in [first, last] {
            if map.scores.last() != Some(&distinct[place]) {
                map.scores.push(distinct[place]);
                map.probabilities.push(block.correct / block.traces);
            }
        }
        first = last + 1;
    }
    map
}

/// Mean squared error of probabilities, `1/n sum (p - correct)^2`; `None` on no traces.
pub(crate) fn brier(probabilities: &[f64], correct: &[bool]) -> Option<f64> {
    let pairs = probabilities.iter().zip(correct);
    let errors: Vec<f64> = pairs
        .map(|(p, &c)| (p - f64::from(u8::from(c))).powi(2))
        .collect();
    crate::statistics::mean(&errors)
}

/// Expected calibration error over [`ECE_BINS`] equal-width bins:
/// `sum_b n_b/n |accuracy_b - confidence_b|`.
///
/// `None` on no traces.
pub(crate) fn ece(probabilities: &[f64], correct: &[bool]) -> Option<f64> {
    ece_weighted(probabilities, correct, |_| 1.0)
}

/// [`ece`] if trace i counts `weight(i)` times; `None` if all weights are 0.
pub(crate) fn ece_weighted(
    probabilities: &[f64],
    correct: &[bool],
    weight: impl Fn(usize) -> f64,
) -> Option<f64> {
    // |accuracy - confidence| n_b is the absolute sum of (correct - p) over the bin.
    let (mut gaps, mut weights) = ([0.0f64; ECE_BINS], 0.0);
    for (i, (&p, &c)) in probabilities.iter().zip(correct).enumerate() {
        let w = weight(i);
        gaps[bin_of(p)] += w * (f64::from(u8::from(c)) - p);
        weights += w;
    }
    (weights > 0.0).then(|| gaps.iter().map(|gap| gap.abs()).sum::<f64>() / weights)
}

/// The non-empty bins of the reliability diagram, in ascending order; the bins of [`ece`].
pub(crate) fn reliability(probabilities: &[f64], correct: &[bool]) -> Vec<ReliabilityBin> {
    let mut sums = [(0.0f64, 0.0f64, 0usize); ECE_BINS];
    for (&p, &c) in probabilities.iter().zip(correct) {
        let (confidence, accuracy, count) = &mut sums[bin_of(p)];
        *confidence += p;
        *accuracy += f64::from(u8::from(c));
        *count += 1;
    }
    let width = 1.0 / ECE_BINS as f64;
    let bin = |(b, (confidence, accuracy, count)): (usize, (f64, f64, usize))| ReliabilityBin {
        low: b as f64 * width,
        high: (b + 1) as f64 * width,
        confidence: confidence / count as f64,
        accuracy: accuracy / count as f64,
        count,
    };
    sums.into_iter()
        .enumerate()
        .filter(|(_, (.., count))| *count > 0)
        .map(bin)
        .collect()
}

fn bin_of(probability: f64) -> usize {
    ((probability * ECE_BINS as f64) as usize).min(ECE_BINS - 1)
}

/// Twice the weight of the squared scale in the loss of [`fit_platt`].
const RIDGE: f64 = 1e-6;

fn penalised_nll(scores: &[f64], correct: &[bool], point: PlattScaling) -> f64 {
    let PlattScaling { scale, bias } = point;
    let of_trace = |(&score, &c): (&f64, &bool)| {
        let logit = scale * score + bias;
        softplus(if c { -logit } else { logit })
    };
    let nll = scores.iter().zip(correct).map(of_trace).sum::<f64>() / scores.len() as f64;
    nll + 0.5 * RIDGE * scale * scale
}

/// Hessian^-1 gradient of the penalised loss in scale and bias.
fn newton_direction(scores: &[f64], correct: &[bool], point: PlattScaling) -> PlattScaling {
    let PlattScaling { scale, bias } = point;
    let n = scores.len() as f64;
    let (mut grad_a, mut grad_b) = (RIDGE * scale, 0.0);
    let (mut aa, mut ab, mut bb) = (RIDGE, 0.0, 1e-12);
    for (&score, &c) in scores.iter().zip(correct) {
        let p = sigmoid(scale * score + bias);
        let (error, curvature) = ((p - f64::from(u8::from(c))) / n, p * (1.0 - p) / n);
        grad_a += error * score;
        grad_b += error;
        aa += curvature * score * score;
        ab += curvature * score;
        bb += curvature;
    }
    let determinant = aa * bb - ab * ab;
    PlattScaling {
        scale: (bb * grad_a - ab * grad_b) / determinant,
        bias: (aa * grad_b - ab * grad_a) / determinant,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ece_and_brier_by_hand() {
        let (p, correct) = ([0.02, 0.03, 0.9, 1.0], [false, true, true, true]);
        assert!((ece(&p, &correct).unwrap() - (0.95 + 0.1) / 4.0).abs() < 1e-12);
        let expected = (0.02f64.powi(2) + 0.97f64.powi(2) + 0.01) / 4.0;
        assert!((brier(&p, &correct).unwrap() - expected).abs() < 1e-12);
        let bins = reliability(&p, &correct);
        assert_eq!(
            bins.iter().map(|bin| bin.count).collect::<Vec<_>>(),
            [2, 1, 1]
        );
        assert_eq!((bins[0].accuracy, bins[2].high), (0.5, 1.0));
        assert_eq!((ece(&[], &[]), brier(&[], &[])), (None, None));
    }

    #[test]
    fn calibration_recovers_the_generating_logits() {
        // Each score repeated so that the share of correct traces equals sigmoid(2 s - 1) to three
        // digits.
        let (mut scores, mut correct) = (Vec::new(), Vec::new());
        for step in -4i32..=4 {
            let score = f64::from(step) / 2.0;
            let right = (1000.0 * sigmoid(2.0 * score - 1.0)).round() as usize;
            scores.extend(std::iter::repeat_n(score, 1000));
            correct.extend((0..1000).map(|i| i < right));
        }
        let fitted = fit_platt(&scores, &correct).unwrap();
        assert!(
            (fitted.scale - 2.0).abs() < 0.01 && (fitted.bias + 1.0).abs() < 0.01,
            "{fitted:?}"
        );
        let probabilities: Vec<f64> = scores.iter().map(|&s| fitted.probability(s)).collect();
        assert!(ece(&probabilities, &correct).unwrap() < 0.002);
    }

    #[test]
    fn separable_and_one_class_data_are_defined() {
        let fitted = fit_platt(&[-1.0, -0.5, 0.5, 1.0], &[false, false, true, true]).unwrap();
        assert!(fitted.scale > 3.0 && fitted.scale.is_finite());
        assert_eq!(fit_platt(&[1.0, 2.0], &[true, true]), None);
        let constant = fit_platt(&[3.0, 3.0, 3.0, 3.0], &[true, false, false, false]).unwrap();
        assert!((constant.probability(3.0) - 0.25).abs() < 1e-9);
    }

    #[test]
    fn isotonic_pools_violators_and_interpolates() {
        let fitted = fit_isotonic(
            &[1.0, 2.0, 3.0, 4.0, 4.0],
            &[false, true, false, true, true],
        );
        assert_eq!(fitted.scores, [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(fitted.probabilities, [0.0, 0.5, 0.5, 1.0]);
        assert_eq!(fitted.probability(3.5), 0.75);
        assert_eq!(
            (fitted.probability(-9.0), fitted.probability(9.0)),
            (0.0, 1.0)
        );
        assert_eq!(fit_isotonic(&[], &[]).probability(0.0), 0.5);
        assert!(fitted.is_valid());
        let falling = Isotonic {
            scores: vec![1.0, 2.0],
            probabilities: vec![0.9, 0.1],
        };
        assert!(!falling.is_valid());
    }

    #[test]
    fn isotonic_keeps_the_ends_of_constant_runs_only() {
        let scores: Vec<f64> = (0..100).map(f64::from).collect();
        let correct: Vec<bool> = (0..100).map(|i| i >= 40).collect();
        let fitted = fit_isotonic(&scores, &correct);
        assert_eq!(fitted.scores, [0.0, 39.0, 40.0, 99.0]);
        assert_eq!(fitted.probabilities, [0.0, 0.0, 1.0, 1.0]);
        assert_eq!(fitted.probability(39.5), 0.5);
    }
}
