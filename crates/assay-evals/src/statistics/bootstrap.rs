//! The percentile bootstrap over problems.
//!
//! Resample `b` draws its problems from the stream keyed by `b` alone, so two statistics over the same number of
//! problems see the same resamples: every comparison is paired, and nothing depends on the order of computation.

use assay_tasks::random::Stream;
use serde::{Deserialize, Serialize};

use super::{Estimate, quantile};

/// How many resamples, from which seed, at which level.
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
        Self { resamples: 1000, seed: 42, level: 0.95 }
    }
}

/// Percentile bootstrap of any statistic of weighted units.
///
/// `statistic` receives one weight a unit: all ones for the value itself, then, for each resample, how often each unit
/// was drawn (they sum to `units`). The interval is widened to hold the value where resampling biases the statistic
/// past it, as it does upwards for a calibration error. Resamples on which it is undefined (`None`) are left out of the interval. `None`
/// if there are no units or the statistic is undefined on the whole; with one unit the interval is the value.
pub fn bootstrap(
    units: usize,
    settings: &BootstrapSettings,
    mut statistic: impl FnMut(&[f64]) -> Option<f64>,
) -> Option<Estimate> {
    if units == 0 {
        return None;
    }
    let mut weights = vec![1.0; units];
    let value = statistic(&weights)?;
    let mut draws = Vec::with_capacity(settings.resamples);
    for resample in 0..settings.resamples {
        weights.fill(0.0);
        let mut stream = Stream::new(settings.seed, &[resample as u64]);
        for _ in 0..units {
            weights[stream.below(units)] += 1.0;
        }
        draws.extend(statistic(&weights));
    }
    Some(interval(value, draws, units, settings))
}

/// Percentile bootstrap of `1/n sum values`, one value a problem; the same resamples as [`bootstrap`].
///
/// `None` on no values.
pub fn bootstrap_mean(values: &[f64], settings: &BootstrapSettings) -> Option<Estimate> {
    let (units, value) = (values.len(), super::mean(values)?);
    let draws = (0..settings.resamples).map(|resample| {
        let mut stream = Stream::new(settings.seed, &[resample as u64]);
        (0..units).map(|_| values[stream.below(units)]).sum::<f64>() / units as f64
    });
    Some(interval(value, draws.collect(), units, settings))
}

/// Paired bootstrap of `1/n sum (a_p - b_p)`: two systems on the same problems, `a[p]` and `b[p]` of one problem.
///
/// `None` on no problems or on different numbers of problems.
pub fn paired_difference(a: &[f64], b: &[f64], settings: &BootstrapSettings) -> Option<Estimate> {
    if a.len() != b.len() {
        return None;
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    bootstrap_mean(&differences, settings)
}

fn interval(value: f64, mut draws: Vec<f64>, n: usize, settings: &BootstrapSettings) -> Estimate {
    draws.sort_by(f64::total_cmp);
    let tail = (1.0 - settings.level) / 2.0;
    let low = quantile(&draws, tail).unwrap_or(value);
    let high = quantile(&draws, 1.0 - tail).unwrap_or(value);
    Estimate { value, low: low.min(value), high: high.max(value), n }
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
        assert!((estimate.low - 0.451).abs() < 0.006 && (estimate.high - 0.549).abs() < 0.006, "{estimate:?}");
    }

    #[test]
    fn weighted_statistic_and_mean_see_the_same_resamples() {
        let values: Vec<f64> = (0..37).map(|i| f64::from(i * i % 11)).collect();
        let settings = BootstrapSettings { resamples: 50, ..BootstrapSettings::default() };
        let by_weights = bootstrap(values.len(), &settings, |weights| {
            Some(weights.iter().zip(&values).map(|(w, v)| w * v).sum::<f64>() / weights.iter().sum::<f64>())
        });
        let (a, b) = (by_weights.unwrap(), bootstrap_mean(&values, &settings).unwrap());
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
        assert!(bootstrap_mean(&a, &settings).unwrap().low < bootstrap_mean(&b, &settings).unwrap().value);
        assert_eq!(paired_difference(&a, &b[1..], &settings), None);
    }

    #[test]
    fn one_problem_and_none() {
        let settings = BootstrapSettings::default();
        assert_eq!(bootstrap_mean(&[0.3], &settings).unwrap(), Estimate { value: 0.3, low: 0.3, high: 0.3, n: 1 });
        assert_eq!(bootstrap_mean(&[], &settings), None);
        assert_eq!(bootstrap(0, &settings, |_| Some(1.0)), None);
        assert_eq!(bootstrap(3, &settings, |_| None), None);
    }

    #[test]
    fn undefined_resamples_are_left_out() {
        let settings = BootstrapSettings { resamples: 200, ..BootstrapSettings::default() };
        let estimate = bootstrap(2, &settings, |weights| (weights[0] > 0.0).then_some(weights[0])).unwrap();
        assert_eq!((estimate.value, estimate.low, estimate.high), (1.0, 1.0, 2.0));
    }
}
