//! The percentile bootstrap over problems.
//!
//! Resample `b` draws its problems from the stream with key `b`, so two statistics over the same
//! number of problems use the same resamples. Every comparison is paired, and no result depends on
//! the order of computation.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use assay_tasks::random::StreamKey;
use serde::{Deserialize, Serialize};

use super::descriptive::quantile;
use super::estimate::Estimate;

/// Number, seed and level of a bootstrap.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BootstrapSettings {
    /// Number of resamples.
    pub resamples: usize,
    /// Seed of the resampling streams.
    pub seed: u64,
    /// Coverage of the interval, in (0, 1).
    pub level: f64,
}

impl Default for BootstrapSettings {
    fn default() -> Self {
        Self {
            resamples: 1000,
            seed: 42,
            level: 0.95,
        }
    }
}

/// Percentile bootstrap of any statistic of weighted units; see [`Resampler::estimate`].
pub fn bootstrap(
    units: usize,
    settings: &BootstrapSettings,
    statistic: impl FnMut(&[f64]) -> Option<f64>,
) -> Option<Estimate> {
    Resampler::new(*settings).estimate(units, statistic)
}

/// Percentile bootstrap of `1/n sum values`, one value per problem, with the resamples of
/// [`bootstrap`].
///
/// `None` on no values.
pub fn bootstrap_mean(values: &[f64], settings: &BootstrapSettings) -> Option<Estimate> {
    Resampler::new(*settings).mean(values)
}

/// The bootstrap for many statistics. Draws are made once per number of units and shared by all
/// threads and clones.
#[derive(Clone, Debug, Default)]
pub struct Resampler {
    settings: BootstrapSettings,
    /// By number of units: how often each unit was drawn, one resample after another.
    drawn: Arc<Mutex<BTreeMap<usize, Arc<Vec<u8>>>>>,
}

impl Resampler {
    /// A resampler without draws.
    pub fn new(settings: BootstrapSettings) -> Self {
        Self {
            settings,
            drawn: Arc::default(),
        }
    }

    /// Percentile bootstrap of any statistic of weighted units.
    ///
    /// `statistic` receives one weight per unit: 1 each for the value itself, then, for each
    /// resample, how often each unit was drawn (these sum to `units`). The interval is widened to
    /// include the value, which resampling can bias the statistic away from, for example upwards
    /// for a calibration error. Resamples on which the statistic is not defined (`None`) are left
    /// out. `None` if there are no units or the statistic is not defined on the whole sample; with
    /// one unit the interval is the value.
    pub fn estimate(
        &self,
        units: usize,
        mut statistic: impl FnMut(&[f64]) -> Option<f64>,
    ) -> Option<Estimate> {
        if units == 0 {
            return None;
        }
        let mut weights = vec![1.0; units];
        let value = statistic(&weights)?;
        let mut values = Vec::with_capacity(self.settings.resamples);
        let kept = self.kept(units);
        let mut counts = vec![0; units];
        for resample in 0..self.settings.resamples {
            let counts = match &kept {
                Some(all) => &all[resample * units..][..units],
                None => {
                    self.draw(resample, &mut counts);
                    &counts
                }
            };
            weights
                .iter_mut()
                .zip(counts)
                .for_each(|(weight, &count)| *weight = f64::from(count));
            values.extend(statistic(&weights));
        }
        Some(interval(value, values, units, &self.settings))
    }

    /// Percentile bootstrap of `1/n sum values`. `None` on no values.
    pub fn mean(&self, values: &[f64]) -> Option<Estimate> {
        let units = values.len();
        self.estimate(units, |weights| {
            Some(weights.iter().zip(values).map(|(w, v)| w * v).sum::<f64>() / units as f64)
        })
    }

    /// As [`Resampler::mean`], but several values may belong to one unit: `units` has the index of
    /// each value's unit, from 0 without gaps. `None` on no values.
    pub fn clustered_mean(&self, values: &[f64], units: &[usize]) -> Option<Estimate> {
        let count = units.iter().max()? + 1;
        let mut sums = vec![0.0; count];
        let mut sizes = vec![0.0; count];
        for (value, &unit) in values.iter().zip(units) {
            sums[unit] += value;
            sizes[unit] += 1.0;
        }
        let weigh =
            |weights: &[f64], of: &[f64]| weights.iter().zip(of).map(|(w, v)| w * v).sum::<f64>();
        self.estimate(count, |weights| {
            let size = weigh(weights, &sizes);
            (size > 0.0).then(|| weigh(weights, &sums) / size)
        })
    }

    /// All resamples of that many units, unless they would fill more than 64 MiB.
    fn kept(&self, units: usize) -> Option<Arc<Vec<u8>>> {
        let size = units
            .checked_mul(self.settings.resamples)
            .filter(|size| *size <= 64 << 20)?;
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let all = drawn.entry(units).or_insert_with(|| {
            let mut all = vec![0; size];
            all.chunks_mut(units)
                .enumerate()
                .for_each(|(resample, counts)| self.draw(resample, counts));
            Arc::new(all)
        });
        Some(Arc::clone(all))
    }

    /// The counts of one resample. No unit is drawn more than 255 times: the probability is below
    /// 1e-500.
    fn draw(&self, resample: usize, counts: &mut [u8]) {
        counts.fill(0);
        let mut stream = StreamKey::Bootstrap.stream(self.settings.seed, &[resample as u64]);
        for _ in 0..counts.len() {
            let count = &mut counts[stream.below(counts.len())];
            *count = count.saturating_add(1);
        }
    }
}

/// Paired bootstrap of `1/n sum (a_p - b_p)`: `a[p]` and `b[p]` are two systems on one problem.
///
/// `None` on no problems or on different numbers of problems.
pub fn paired_difference(a: &[f64], b: &[f64], settings: &BootstrapSettings) -> Option<Estimate> {
    if a.len() != b.len() {
        return None;
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    bootstrap_mean(&differences, settings)
}

/// Bootstrap of the mean of `rows[s][p]`, the value of seed s on problem p. Each resample draws
/// seeds and problems independently, so the interval covers both other training runs and other
/// problems.
///
/// With one problem this is the bootstrap over seeds, with one seed the bootstrap over problems.
/// `None` without values or with rows of different lengths. `n` is the number of seeds times
/// problems.
pub fn crossed_mean(rows: &[Vec<f64>], settings: &BootstrapSettings) -> Option<Estimate> {
    let (seeds, problems) = (rows.len(), rows.first()?.len());
    if problems == 0 || rows.iter().any(|row| row.len() != problems) {
        return None;
    }
    let n = seeds * problems;
    let value = rows.iter().flatten().sum::<f64>() / n as f64;
    let draw = |resample: usize| {
        let stream = |draw| StreamKey::Bootstrap.stream(settings.seed, &[resample as u64, draw]);
        let mut of_seeds = stream(0);
        let mut of_problems = stream(1);
        let mut drawn = vec![0.0; problems];
        (0..problems).for_each(|_| drawn[of_problems.below(problems)] += 1.0);
        let total: f64 = (0..seeds)
            .map(|_| &rows[of_seeds.below(seeds)])
            .map(|row| row.iter().zip(&drawn).map(|(v, w)| v * w).sum::<f64>())
            .sum();
        total / n as f64
    };
    let draws = (0..settings.resamples).map(draw).collect();
    Some(interval(value, draws, n, settings))
}

fn interval(value: f64, mut draws: Vec<f64>, n: usize, settings: &BootstrapSettings) -> Estimate {
    draws.sort_by(f64::total_cmp);
    let tail = (1.0 - settings.level) / 2.0;
    let low = quantile(&draws, tail).unwrap_or(value);
    let high = quantile(&draws, 1.0 - tail).unwrap_or(value);
    Estimate {
        value,
        low: low.min(value),
        high: high.max(value),
        n,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_of_a_mean_matches_the_normal_approximation() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
        let estimate = bootstrap_mean(&values, &BootstrapSettings::default()).unwrap();
        assert_eq!((estimate.value, estimate.n), (0.5, 400));
        // standard error 0.025: the interval is 0.451 .. 0.549 up to resampling noise
        assert!(
            (estimate.low - 0.451).abs() < 0.006 && (estimate.high - 0.549).abs() < 0.006,
            "{estimate:?}"
        );
    }

    #[test]
    fn weighted_statistic_and_mean_see_the_same_resamples() {
        let values: Vec<f64> = (0..37).map(|i| f64::from(i * i % 11)).collect();
        let settings = BootstrapSettings {
            resamples: 50,
            ..BootstrapSettings::default()
        };
        let by_weights = bootstrap(values.len(), &settings, |weights| {
            Some(
                weights.iter().zip(&values).map(|(w, v)| w * v).sum::<f64>()
                    / weights.iter().sum::<f64>(),
            )
        });
        let (a, b) = (
            by_weights.unwrap(),
            bootstrap_mean(&values, &settings).unwrap(),
        );
        for (a, b) in [(a.value, b.value), (a.low, b.low), (a.high, b.high)] {
            assert!((a - b).abs() < 1e-12);
        }
    }

    #[test]
    fn pairing_removes_the_variance_between_problems() {
        let b: Vec<f64> = (0..100).map(|i| f64::from(i % 10)).collect();
        let a: Vec<f64> = b.iter().map(|x| x + 0.25).collect();
        let settings = BootstrapSettings::default();
        let difference = paired_difference(&a, &b, &settings).unwrap();
        assert!(difference.low > 0.249 && difference.high < 0.251);
        assert!(
            bootstrap_mean(&a, &settings).unwrap().low
                < bootstrap_mean(&b, &settings).unwrap().value
        );
        assert_eq!(paired_difference(&a, &b[1..], &settings), None);
    }

    #[test]
    fn crossed_resamples_cover_both_seeds_and_problems() {
        let settings = BootstrapSettings::default();
        let width = |rows: &[Vec<f64>]| {
            let e = crossed_mean(rows, &settings).unwrap();
            e.high - e.low
        };
        // First only seeds differ, then only problems.
        let seeds: Vec<Vec<f64>> = (0..5).map(|s| vec![f64::from(s); 40]).collect();
        let problems: Vec<Vec<f64>> = vec![(0..40).map(|p| f64::from(p % 5)).collect(); 5];
        // Standard errors: sqrt(2) / sqrt(5) = .632 and sqrt(2) / sqrt(40) = .224; 3.92 of them,
        // percentiles of few.
        assert!(
            (width(&seeds) / (3.92 * 0.632) - 1.0).abs() < 0.12,
            "{}",
            width(&seeds)
        );
        assert!(
            (width(&problems) / (3.92 * 0.2236) - 1.0).abs() < 0.08,
            "{}",
            width(&problems)
        );
        let estimate = crossed_mean(&seeds, &settings).unwrap();
        assert_eq!((estimate.value, estimate.n), (2.0, 200));
        let one = crossed_mean(&[vec![0.5]], &settings).unwrap();
        assert_eq!((one.value, one.low, one.high), (0.5, 0.5, 0.5));
        assert_eq!(crossed_mean(&[], &settings), None);
        assert_eq!(crossed_mean(&[vec![1.0], vec![]], &settings), None);
    }

    #[test]
    fn one_problem_and_none() {
        let settings = BootstrapSettings::default();
        assert_eq!(
            bootstrap_mean(&[0.3], &settings).unwrap(),
            Estimate {
                value: 0.3,
                low: 0.3,
                high: 0.3,
                n: 1
            }
        );
        assert_eq!(bootstrap_mean(&[], &settings), None);
        assert_eq!(bootstrap(0, &settings, |_| Some(1.0)), None);
        assert_eq!(bootstrap(3, &settings, |_| None), None);
    }

    #[test]
    fn undefined_resamples_are_left_out() {
        let settings = BootstrapSettings {
            resamples: 200,
            ..BootstrapSettings::default()
        };
        let estimate = bootstrap(2, &settings, |weights| {
            (weights[0] > 0.0).then_some(weights[0])
        })
        .unwrap();
        assert_eq!(
            (estimate.value, estimate.low, estimate.high),
            (1.0, 1.0, 2.0)
        );
    }
}
