//! The style probe: how well token counts predict correctness and the reward.
//!
//! If a linear function of token counts predicts a reward well, the reward grades vocabulary,
//! length or format. The probe is a ridge regression on `ln(1 + count)` of the tokens that occur in
//! most traces, evaluated on problems it was not fitted to.

use std::collections::{BTreeMap, BinaryHeap};

use assay_tasks::random::text_key;
use assay_tasks::trace::ScoredTrace;

use crate::classification::auroc;
use crate::statistics::mean;

/// Maximum number of traces of the probe: those with the smallest hash of problem and text, a
/// sample that does not depend on the order.
const PROBE_TRACES: usize = 4096;
/// Number of tokens that the probe counts.
const PROBE_TOKENS: usize = 256;
/// Folds of the problems; each is evaluated with a fit to the others.
pub(super) const PROBE_FOLDS: usize = 5;
/// Penalty on squared weights, for centred features.
const PROBE_RIDGE: f64 = 10.0;
/// Minimum number of traces.
const MIN_TRACES: usize = 40;

/// Token counts of one trace.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TokenBag {
    /// Hash of problem and text.
    key: u64,
    counts: Vec<TokenCount>,
}

/// How often a token occurs in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct TokenCount {
    token: u32,
    count: u32,
}

/// The results of the probe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct StyleProbe {
    /// AUROC of the predicted correctness: how much style alone says about it.
    pub(crate) correct_auroc: Option<f64>,
    /// `1 - sum (s - s')^2 / sum (s - mean)^2`, where s' is the trace score predicted from token
    /// counts. Near 1 the reward measures style.
    pub(crate) reward_r2: Option<f64>,
    /// AUROC of `s - s'`: what the reward says about correctness beyond style.
    pub(crate) residual_auroc: Option<f64>,
    /// Number of traces.
    pub(crate) traces: usize,
}

/// The token bags with the smallest keys, each with the index of its row; the largest key on top.
#[derive(Clone, Debug, Default)]
pub(super) struct Bags {
    kept: BinaryHeap<(TokenBag, usize)>,
}

impl TokenBag {
    /// Hash of problem and text.
    pub(super) fn key(&self) -> u64 {
        self.key
    }

    /// Counts a trace's tokens.
    pub(crate) fn new(trace: &ScoredTrace) -> Self {
        let mut ids = trace.token_ids.clone();
        ids.sort_unstable();
        let counts = ids.chunk_by(|a, b| a == b).map(|same| TokenCount {
            token: same[0],
            count: same.len() as u32,
        });
        Self {
            key: text_key(&trace.id) ^ text_key(&trace.text).rotate_left(1),
            counts: counts.collect(),
        }
    }
}

impl Bags {
    /// The kept bags, each with the index of its row, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&TokenBag, usize)> {
        self.kept.iter().map(|(bag, row)| (bag, *row))
    }

    /// Keeps the bag of a row if its key is among the smallest so far.
    pub(super) fn offer(&mut self, bag: TokenBag, row: usize) {
        if bag.counts.is_empty() {
            return;
        }
        if self.kept.len() < PROBE_TRACES {
            self.kept.push((bag, row));
        } else if self
            .kept
            .peek()
            .is_some_and(|(largest, _)| bag.key < largest.key)
        {
            self.kept.pop();
            self.kept.push((bag, row));
        }
    }
}

/// Runs the probe on parallel slices: trace i lies in fold `folds[i]`.
///
/// All results are `None` with fewer than [`MIN_TRACES`] traces, or if no trace lies outside a
/// fold.
pub(crate) fn probe(
    bags: &[&TokenBag],
    scores: &[f64],
    correct: &[bool],
    folds: &[usize],
) -> StyleProbe {
    let right: Vec<f64> = correct.iter().map(|&c| f64::from(u8::from(c))).collect();
    let mut found = StyleProbe {
        correct_auroc: None,
        reward_r2: None,
        residual_auroc: None,
        traces: bags.len(),
    };
    if bags.len() < MIN_TRACES {
        return found;
    }
    let features = Features::new(bags);
    let Some(predicted) = cross_predict(&features, &[&right, scores], folds) else {
        return found;
    };
    found.correct_auroc = auroc(&predicted[0], correct);
    let left: Vec<f64> = scores
        .iter()
        .zip(&predicted[1])
        .map(|(s, p)| s - p)
        .collect();
    found.residual_auroc = auroc(&left, correct);
    let centre = mean(scores).unwrap_or(0.0);
    let total: f64 = scores.iter().map(|s| (s - centre).powi(2)).sum();
    let rest: f64 = left.iter().map(|r| r * r).sum();
    found.reward_r2 = (total > 0.0).then(|| 1.0 - rest / total);
    found
}

/// The features of all traces as sparse rows.
struct Features {
    rows: Vec<Vec<Feature>>,
    /// Number of features.
    width: usize,
}

/// One non-zero feature of a trace.
#[derive(Clone, Copy)]
struct Feature {
    index: usize,
    value: f64,
}

impl Features {
    /// `ln(1 + count)` of the [`PROBE_TOKENS`] tokens that most traces contain (the lower id first
    /// among equals), then `ln(1 + number of tokens)`.
    fn new(bags: &[&TokenBag]) -> Self {
        let mut traces_with: BTreeMap<u32, usize> = BTreeMap::new();
        for counted in bags.iter().flat_map(|bag| &bag.counts) {
            *traces_with.entry(counted.token).or_default() += 1;
        }
        let mut order: Vec<(u32, usize)> = traces_with.into_iter().collect();
        order.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        order.truncate(PROBE_TOKENS);
        let index: BTreeMap<u32, usize> = order
            .iter()
            .enumerate()
            .map(|(i, (token, _))| (*token, i))
            .collect();
        let width = order.len() + 1;
        let feature = |index, count: u32| Feature {
            index,
            value: f64::from(count).ln_1p(),
        };
        let row = |bag: &&TokenBag| {
            let counted = bag.counts.iter();
            let mut row: Vec<Feature> = counted
                .filter_map(|c| Some(feature(*index.get(&c.token)?, c.count)))
                .collect();
            let length = bag.counts.iter().map(|c| c.count).sum();
            row.push(feature(width - 1, length));
            row
        };
        Self {
            rows: bags.iter().map(row).collect(),
            width,
        }
    }
}

/// Ridge predictions of each target for every row, from the fit to the rows of the other folds.
fn cross_predict(
    features: &Features,
    targets: &[&[f64]],
    folds: &[usize],
) -> Option<Vec<Vec<f64>>> {
    let rows = &features.rows;
    let mut predicted = vec![vec![0.0; rows.len()]; targets.len()];
    for fold in 0..=folds.iter().copied().max()? {
        let inside: Vec<usize> = (0..rows.len()).filter(|&i| folds[i] != fold).collect();
        if inside.len() == rows.len() {
            continue;
        }
        let moments = Moments::new(features, &inside)?;
        let factor = cholesky(moments.covariance(PROBE_RIDGE), features.width)?;
        for (target, out) in targets.iter().zip(&mut predicted) {
            let centre = inside.iter().map(|&i| target[i]).sum::<f64>() / moments.count;
            let mut weights = moments.cross(rows, &inside, |i| target[i] - centre);
            solve(&factor, &mut weights);
            let offset: f64 = weights.iter().zip(&moments.mean).map(|(w, m)| w * m).sum();
            for i in (0..rows.len()).filter(|&i| folds[i] == fold) {
                let own: f64 = rows[i].iter().map(|f| weights[f.index] * f.value).sum();
                out[i] = centre - offset + own;
            }
        }
    }
    Some(predicted)
}

/// First and second moments of sparse rows.
struct Moments {
    width: usize,
    count: f64,
    mean: Vec<f64>,
    /// Sum of products, row-major, lower triangle.
    products: Vec<f64>,
}

impl Moments {
    fn new(features: &Features, inside: &[usize]) -> Option<Self> {
        (!inside.is_empty()).then_some(())?;
        let (count, width) = (inside.len() as f64, features.width);
        let (mut mean, mut products) = (vec![0.0; width], vec![0.0; width * width]);
        for &i in inside {
            let row = &features.rows[i];
            for a in row {
                mean[a.index] += a.value / count;
                for b in row.iter().filter(|b| b.index <= a.index) {
                    products[a.index * width + b.index] += a.value * b.value;
                }
            }
        }
        Some(Self {
            width,
            count,
            mean,
            products,
        })
    }

    /// Lower triangle of the centred sum of products plus the ridge.
    fn covariance(&self, ridge: f64) -> Vec<f64> {
        let mut centred = self.products.clone();
        for a in 0..self.width {
            for b in 0..=a {
                centred[a * self.width + b] -= self.count * self.mean[a] * self.mean[b];
            }
            centred[a * self.width + a] += ridge;
        }
        centred
    }

    /// Sums of feature times target; the target is centred, so features need not be.
    fn cross(
        &self,
        rows: &[Vec<Feature>],
        inside: &[usize],
        target: impl Fn(usize) -> f64,
    ) -> Vec<f64> {
        let mut sums = vec![0.0; self.width];
        for &i in inside {
            let y = target(i);
            rows[i].iter().for_each(|f| sums[f.index] += f.value * y);
        }
        sums
    }
}

/// `L` of `A = L L'`, from and in the lower triangle; `None` if A is not positive definite.
fn cholesky(mut a: Vec<f64>, n: usize) -> Option<Vec<f64>> {
    for j in 0..n {
        let (above, own) = a.split_at_mut(j * n);
        for k in 0..j {
            let row = &above[k * n..k * n + k];
            let dot: f64 = row.iter().zip(&own[..k]).map(|(x, y)| x * y).sum();
            own[k] = (own[k] - dot) / above[k * n + k];
        }
        let square: f64 = own[..j].iter().map(|x| x * x).sum();
        own[j] = Some(own[j] - square).filter(|rest| *rest > 0.0)?.sqrt();
    }
    Some(a)
}

/// Solves `L L' x = b` in place.
fn solve(factor: &[f64], b: &mut [f64]) {
    let n = b.len();
    for i in 0..n {
        let dot: f64 = (0..i).map(|k| factor[i * n + k] * b[k]).sum();
        b[i] = (b[i] - dot) / factor[i * n + i];
    }
    for i in (0..n).rev() {
        let dot: f64 = (i + 1..n).map(|k| factor[k * n + i] * b[k]).sum();
        b[i] = (b[i] - dot) / factor[i * n + i];
    }
}

#[cfg(test)]
mod tests {
    use assay_tasks::random::Stream;

    use super::*;

    fn bag(counts: &[(u32, u32)]) -> TokenBag {
        TokenBag {
            key: 0,
            counts: counts
                .iter()
                .map(|&(token, count)| TokenCount { token, count })
                .collect(),
        }
    }

    #[test]
    fn cholesky_solves_by_hand() {
        // [[4, 2], [2, 5]] x = (10, 13) has the solution (1.5, 2).
        let factor = cholesky(vec![4.0, 0.0, 2.0, 5.0], 2).unwrap();
        let mut b = [10.0, 13.0];
        solve(&factor, &mut b);
        assert!((b[0] - 1.5).abs() < 1e-14 && (b[1] - 2.0).abs() < 1e-14);
        assert_eq!(cholesky(vec![1.0, 0.0, 2.0, 1.0], 2), None);
    }

    #[test]
    fn a_reward_of_vocabulary_is_seen_through() {
        let mut stream = Stream::new(3, &[]);
        let mut bags = Vec::new();
        let (mut style, mut honest, mut correct, mut folds) = (vec![], vec![], vec![], vec![]);
        for i in 0..400usize {
            let polite = stream.below(4) as u32;
            let right = stream.below(2) == 1;
            bags.push(bag(&[(1, 1 + polite), (2, 1 + stream.below(3) as u32)]));
            style.push(f64::from(polite).ln_1p());
            honest.push(f64::from(u8::from(right)) + 0.1 * f64::from(stream.normal_f32()));
            correct.push(right);
            folds.push(i % PROBE_FOLDS);
        }
        let bags: Vec<&TokenBag> = bags.iter().collect();
        let shortcut = probe(&bags, &style, &correct, &folds);
        assert!(shortcut.reward_r2.unwrap() > 0.9, "{shortcut:?}");
        let real = probe(&bags, &honest, &correct, &folds);
        assert!(real.reward_r2.unwrap() < 0.05, "{real:?}");
        assert!(real.residual_auroc.unwrap() > 0.99, "{real:?}");
        assert!((real.correct_auroc.unwrap() - 0.5).abs() < 0.1, "{real:?}");
    }

    #[test]
    fn too_little_is_undefined() {
        let one = bag(&[(1, 1)]);
        let found = probe(&[&one; 3], &[0.0; 3], &[true, false, true], &[0, 1, 0]);
        assert_eq!((found.correct_auroc, found.reward_r2), (None, None));
        let same = probe(&[&one; 50], &[1.0; 50], &[true; 50], &[0; 50]);
        assert_eq!((same.correct_auroc, same.reward_r2), (None, None));
    }

    #[test]
    fn the_sample_does_not_depend_on_the_order() {
        let keys = |reverse: bool| {
            let mut bags = Bags::default();
            let mut order: Vec<u64> = (0..6000u64).map(|i| text_key(&i.to_string())).collect();
            if reverse {
                order.reverse();
            }
            for key in order {
                let counts = vec![TokenCount { token: 1, count: 1 }];
                bags.offer(TokenBag { key, counts }, 0);
            }
            let mut kept: Vec<u64> = bags.kept.iter().map(|(bag, _)| bag.key).collect();
            kept.sort_unstable();
            kept
        };
        let forward = keys(false);
        assert_eq!(forward.len(), PROBE_TRACES);
        assert_eq!(forward, keys(true));
    }
}
