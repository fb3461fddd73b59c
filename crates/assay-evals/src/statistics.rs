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
pub use correlation::{PairMoments, average_ranks, pearson, residuals, spearman};

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

/// The q-quantile of ascending values with linear interpolation between order statistics (numpy's default):
/// position `q (n-1)`. `q` is clamped to [0, 1]; `None` on no values.
pub fn quantile(ascending: &[f64], q: f64) -> Option<f64> {
    let position = q.clamp(0.0, 1.0) * ascending.len().checked_sub(1)? as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(ascending.len() - 1);
    Some(ascending[below] + (position - below as f64) * (ascending[above] - ascending[below]))
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
    fn the_population_spread_is_defined_for_one_value() {
        assert!((population_std(&[1.0, 2.0, 3.0, 6.0]).unwrap() - 3.5f64.sqrt()).abs() < 1e-15);
        assert_eq!(population_std(&[4.0]), Some(0.0));
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
