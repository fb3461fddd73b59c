//! Estimates with intervals, means, spreads and tests.
//!
//! Intervals are 95 % unless a level is given. Resampling is over problems, never over traces: traces of one problem
//! are not independent.

mod bootstrap;
mod correlation;
pub(crate) mod special;

use serde::{Deserialize, Serialize};

pub use bootstrap::{
    BootstrapSettings, Resampler, bootstrap, bootstrap_mean, crossed_mean, paired_difference,
};
pub use correlation::{
    PairMoments, average_ranks, partial_correlation, pearson, residuals, spearman,
};

/// A number with its 95 % interval and the number of independent units (problems, cases) behind it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// The point estimate.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Independent units the value was computed from.
    pub n: usize,
}

impl Estimate {
    /// A measured fact without sampling error, such as a count or a duration: the interval is the value, `n` is 1.
    pub fn exact(value: f64) -> Self {
        Self {
            value,
            low: value,
            high: value,
            n: 1,
        }
    }

    /// Whether all three numbers are finite, as every file requires.
    pub fn is_finite(&self) -> bool {
        self.value.is_finite() && self.low.is_finite() && self.high.is_finite()
    }
}

/// Welch's two-sample t-test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct WelchTest {
    /// `(mean_a - mean_b) / sqrt(s_a^2/n_a + s_b^2/n_b)`, unbiased variances.
    pub t: f64,
    /// Welch-Satterthwaite degrees of freedom.
    pub degrees_of_freedom: f64,
    /// Two-sided p-value.
    pub p: f64,
}

/// `1/n sum x`; `None` on no values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Population standard deviation, `sqrt(1/n sum (x - mean)^2)`; `None` on no values, 0 on one.
pub fn population_std(values: &[f64]) -> Option<f64> {
    Some((squared_deviations(values)? / values.len() as f64).sqrt())
}

/// Unbiased-variance standard deviation, `sqrt(1/(n-1) sum (x - mean)^2)`; `None` on fewer than two values.
pub fn unbiased_std(values: &[f64]) -> Option<f64> {
    Some((unbiased_variance(values)?).sqrt())
}

/// The q-quantile of ascending values with linear interpolation between order statistics (numpy's default):
/// position `q (n-1)`. `q` is clamped to [0, 1]; `None` on no values.
pub fn quantile(ascending: &[f64], q: f64) -> Option<f64> {
    let position = q.clamp(0.0, 1.0) * ascending.len().checked_sub(1)? as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(ascending.len() - 1);
    Some(ascending[below] + (position - below as f64) * (ascending[above] - ascending[below]))
}

/// Wilson's 95 % score interval of a proportion `p = successes / n`.
///
/// `(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`, z = 1.959964. `None` if `n` is 0 or below `successes`.
pub fn wilson(successes: usize, n: usize) -> Option<Estimate> {
    if n == 0 || successes > n {
        return None;
    }
    const Z: f64 = 1.959_963_984_540_054;
    let (count, p) = (n as f64, successes as f64 / n as f64);
    let centre = p + Z * Z / (2.0 * count);
    let half = Z * (p * (1.0 - p) / count + Z * Z / (4.0 * count * count)).sqrt();
    let scale = 1.0 + Z * Z / count;
    Some(Estimate {
        value: p,
        low: ((centre - half) / scale).max(0.0),
        high: ((centre + half) / scale).min(1.0),
        n,
    })
}

/// Welch's t-test of the difference of two means; two-sided.
///
/// `None` with fewer than two values on a side, or no variance on both.
pub fn welch_t(a: &[f64], b: &[f64]) -> Option<WelchTest> {
    let (mean_a, mean_b) = (mean(a)?, mean(b)?);
    let share_a = unbiased_variance(a)? / a.len() as f64;
    let share_b = unbiased_variance(b)? / b.len() as f64;
    let total = share_a + share_b;
    if total <= 0.0 {
        return None;
    }
    let t = (mean_a - mean_b) / total.sqrt();
    let degrees_of_freedom = total * total
        / (share_a * share_a / (a.len() as f64 - 1.0) + share_b * share_b / (b.len() as f64 - 1.0));
    Some(WelchTest {
        t,
        degrees_of_freedom,
        p: special::student_t_two_sided(t, degrees_of_freedom),
    })
}

fn unbiased_variance(values: &[f64]) -> Option<f64> {
    (values.len() >= 2).then_some(())?;
    Some(squared_deviations(values)? / (values.len() as f64 - 1.0))
}

fn squared_deviations(values: &[f64]) -> Option<f64> {
    let centre = mean(values)?;
    Some(values.iter().map(|x| (x - centre).powi(2)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_11_both_standard_deviations_are_named_and_differ() {
        let values = [1.0, 2.0, 3.0, 6.0];
        assert!((population_std(&values).unwrap() - 3.5f64.sqrt()).abs() < 1e-15);
        assert!((unbiased_std(&values).unwrap() - (14.0f64 / 3.0).sqrt()).abs() < 1e-15);
        assert_eq!(population_std(&[4.0]), Some(0.0));
        assert_eq!(unbiased_std(&[4.0]), None);
        assert_eq!(population_std(&[]), None);
    }

    #[test]
    fn quantiles_interpolate() {
        let values = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(quantile(&values, 0.5), Some(3.0));
        assert_eq!(quantile(&values, 0.0), Some(1.0));
        assert_eq!(quantile(&values, 1.0), Some(8.0));
        assert_eq!(quantile(&[7.0], 0.3), Some(7.0));
        assert_eq!(quantile(&[], 0.3), None);
    }

    #[test]
    fn wilson_stays_inside_the_unit_interval() {
        let none = wilson(0, 10).unwrap();
        assert_eq!((none.value, none.low), (0.0, 0.0));
        assert!((none.high - 0.277_532_8).abs() < 1e-6);
        let all = wilson(10, 10).unwrap();
        assert!((all.low - (1.0 - 0.277_532_8)).abs() < 1e-6 && all.high > 1.0 - 1e-12);
        assert_eq!(wilson(0, 0), None);
        assert_eq!(wilson(3, 2), None);
    }

    #[test]
    fn welch_needs_two_values_and_some_variance() {
        assert_eq!(welch_t(&[1.0], &[1.0, 2.0]), None);
        assert_eq!(welch_t(&[1.0, 1.0], &[2.0, 2.0]), None);
        let same = welch_t(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]).unwrap();
        assert_eq!(same.t, 0.0);
        assert!((same.p - 1.0).abs() < 1e-12);
        assert!((same.degrees_of_freedom - 4.0).abs() < 1e-12);
    }

    #[test]
    fn estimates_serialise_as_value_low_high_n() {
        let json = serde_json::to_string(&Estimate {
            value: 0.5,
            low: 0.25,
            high: 0.75,
            n: 7,
        })
        .unwrap();
        assert_eq!(json, r#"{"value":0.5,"low":0.25,"high":0.75,"n":7}"#);
    }
}
