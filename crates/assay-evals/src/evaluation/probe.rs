//! The style probe: how much of correctness, and of the reward, a bag of tokens explains.
//!
//! A reward that a linear function of token counts predicts well grades vocabulary, length or format. The probe is a
//! ridge regression on `ln(1 + count)` of the tokens that occur in most traces, judged on problems it was not fitted to.

use std::collections::{BTreeMap, BinaryHeap};

use assay_tasks::random::text_key;
use assay_tasks::trace::ScoredTrace;

use super::{Evaluation, Evaluator, Row};
use crate::classification::auroc;
use crate::statistics::{Estimate, mean};

/// Traces the probe looks at: those with the smallest keys of problem and text, a sample that no order changes.
pub const PROBE_TRACES: usize = 4096;
/// Tokens the probe counts.
pub const PROBE_TOKENS: usize = 256;
/// Parts of the problems; each is judged by a fit to the others.
pub const PROBE_FOLDS: usize = 5;
/// Penalty on squared weights, on centred features.
pub const PROBE_RIDGE: f64 = 10.0;
/// Fewest traces with a token to look at.
const FEWEST: usize = 40;

/// Token counts of one trace.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenBag {
    key: u64,
    counts: Vec<(u32, u32)>,
}

/// What the probe found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StyleProbe {
    /// AUROC of the bag of tokens against correctness: what style alone tells.
    pub correct_auroc: Option<f64>,
    /// `1 - sum (s - s')^2 / sum (s - mean)^2`, s' the trace score predicted from the bag: near 1 the reward is style.
    pub reward_r2: Option<f64>,
    /// AUROC of `s - s'`: what the reward knows beyond the bag.
    pub residual_auroc: Option<f64>,
    /// Traces looked at.
    pub traces: usize,
}

/// The bags kept, the one with the largest key on top.
#[derive(Clone, Debug, Default)]
pub(super) struct Bags {
    kept: BinaryHeap<(TokenBag, usize)>,
}

impl TokenBag {
    /// Counts a trace's tokens.
    pub fn of(trace: &ScoredTrace) -> Self {
        let mut ids = trace.token_ids.clone();
        ids.sort_unstable();
        let counts = ids
            .chunk_by(|a, b| a == b)
            .map(|same| (same[0], same.len() as u32));
        Self {
            key: text_key(&trace.id) ^ text_key(&trace.text).rotate_left(1),
            counts: counts.collect(),
        }
    }
}

impl Bags {
    /// Keeps the bag of a row if it is among the smallest keys so far.
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

/// Adds `critic.probe.{correct_auroc, reward_r2, residual_auroc}`; the values carry no interval.
pub(super) fn add(evaluator: &Evaluator, result: &mut Evaluation) {
    let score = evaluator.score();
    let mut kept: Vec<(&TokenBag, &Row)> = Vec::new();
    for (bag, row) in &evaluator.bags.kept {
        kept.push((bag, &evaluator.rows[*row]));
    }
    kept.retain(|(_, row)| row.score(score).is_some());
    kept.sort_by_key(|(bag, row)| (bag.key, row.problem, row.generator));
    let bags: Vec<&TokenBag> = kept.iter().map(|(bag, _)| *bag).collect();
    let scores: Vec<f64> = kept
        .iter()
        .filter_map(|(_, row)| row.score(score))
        .collect();
    let correct: Vec<bool> = kept.iter().map(|(_, row)| row.correct).collect();
    let fold = |row: &Row| {
        let key = text_key(&evaluator.problems[row.problem].id);
        (key.rotate_left(32) % PROBE_FOLDS as u64) as usize
    };
    let folds: Vec<usize> = kept.iter().map(|(_, row)| fold(row)).collect();
    let found = probe(&bags, &scores, &correct, &folds);
    let values = [
        ("correct_auroc", found.correct_auroc),
        ("reward_r2", found.reward_r2),
        ("residual_auroc", found.residual_auroc),
    ];
    for (name, value) in values {
        let estimate = value.map(|value| Estimate {
            n: found.traces,
            ..Estimate::exact(value)
        });
        result
            .summary
            .insert_some(&format!("critic.probe.{name}"), estimate);
    }
}

/// Runs the probe on parallel slices: trace i lies in fold `folds[i]`.
///
/// Everything is `None` on fewer than 40 traces, or where a fold leaves nothing to fit.
pub fn probe(bags: &[&TokenBag], scores: &[f64], correct: &[bool], folds: &[usize]) -> StyleProbe {
    let right: Vec<f64> = correct.iter().map(|&c| f64::from(u8::from(c))).collect();
    let mut found = StyleProbe {
        correct_auroc: None,
        reward_r2: None,
        residual_auroc: None,
        traces: bags.len(),
    };
    if bags.len() < FEWEST {
        return found;
    }
    let features = features(bags);
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

/// `ln(1 + count)` of the [`PROBE_TOKENS`] tokens that most traces hold (the lower id first where equal), then
/// `ln(1 + tokens)`: sparse rows of (feature, value) and the number of features.
fn features(bags: &[&TokenBag]) -> (Vec<Vec<(usize, f64)>>, usize) {
    let mut traces_with: BTreeMap<u32, usize> = BTreeMap::new();
    for (token, _) in bags.iter().flat_map(|bag| &bag.counts) {
        *traces_with.entry(*token).or_default() += 1;
    }
    let mut order: Vec<(u32, usize)> = traces_with.into_iter().collect();
    order.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    order.truncate(PROBE_TOKENS);
    let place: BTreeMap<u32, usize> = order
        .iter()
        .enumerate()
        .map(|(i, (t, _))| (*t, i))
        .collect();
    let width = order.len() + 1;
    let row = |bag: &&TokenBag| {
        let log = |count: u32| f64::from(count).ln_1p();
        let counted = bag.counts.iter();
        let mut row: Vec<(usize, f64)> = counted
            .filter_map(|(token, count)| Some((*place.get(token)?, log(*count))))
            .collect();
        row.push((
            width - 1,
            log(bag.counts.iter().map(|(_, count)| count).sum()),
        ));
        row
    };
    (bags.iter().map(row).collect(), width)
}

/// Ridge predictions of each target for every row by the fit to the rows of other folds.
fn cross_predict(
    (rows, width): &(Vec<Vec<(usize, f64)>>, usize),
    targets: &[&[f64]],
    folds: &[usize],
) -> Option<Vec<Vec<f64>>> {
    let mut predicted = vec![vec![0.0; rows.len()]; targets.len()];
    for fold in 0..=folds.iter().copied().max()? {
        let inside: Vec<usize> = (0..rows.len()).filter(|&i| folds[i] != fold).collect();
        if inside.len() == rows.len() {
            continue;
        }
        let moments = Moments::of(rows, *width, &inside)?;
        let factor = cholesky(moments.covariance(PROBE_RIDGE), *width)?;
        for (target, out) in targets.iter().zip(&mut predicted) {
            let centre = inside.iter().map(|&i| target[i]).sum::<f64>() / moments.count;
            let mut weights = moments.cross(rows, &inside, |i| target[i] - centre);
            solve(&factor, &mut weights);
            let offset: f64 = weights.iter().zip(&moments.mean).map(|(w, m)| w * m).sum();
            for i in (0..rows.len()).filter(|&i| folds[i] == fold) {
                let own: f64 = rows[i].iter().map(|(j, x)| weights[*j] * x).sum();
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
    fn of(rows: &[Vec<(usize, f64)>], width: usize, inside: &[usize]) -> Option<Self> {
        (!inside.is_empty()).then_some(())?;
        let count = inside.len() as f64;
        let (mut mean, mut products) = (vec![0.0; width], vec![0.0; width * width]);
        for &i in inside {
            for &(a, x) in &rows[i] {
                mean[a] += x / count;
                for &(b, y) in rows[i].iter().filter(|(b, _)| *b <= a) {
                    products[a * width + b] += x * y;
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
        rows: &[Vec<(usize, f64)>],
        inside: &[usize],
        target: impl Fn(usize) -> f64,
    ) -> Vec<f64> {
        let mut sums = vec![0.0; self.width];
        for &i in inside {
            let y = target(i);
            rows[i].iter().for_each(|(j, x)| sums[*j] += x * y);
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
            counts: counts.to_vec(),
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
                let counts = vec![(1, 1)];
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
