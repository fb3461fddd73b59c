//! Welch's t-test.

use serde::Serialize;

use super::descriptive::{mean, unbiased_variance};
use super::special::student_t_two_sided;

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
        p: student_t_two_sided(t, degrees_of_freedom),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn welch_needs_two_values_and_some_variance() {
        assert_eq!(welch_t(&[1.0], &[1.0, 2.0]), None);
        assert_eq!(welch_t(&[1.0, 1.0], &[2.0, 2.0]), None);
        let same = welch_t(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]).unwrap();
        assert_eq!(same.t, 0.0);
        assert!((same.p - 1.0).abs() < 1e-12);
        assert!((same.degrees_of_freedom - 4.0).abs() < 1e-12);
    }
}
