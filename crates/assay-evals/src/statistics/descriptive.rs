//! Means, spreads and quantiles.

/// `1/n sum x`; `None` on no values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Population standard deviation, `sqrt(1/n sum (x - mean)^2)`; `None` on no values, 0 on one.
pub fn population_std(values: &[f64]) -> Option<f64> {
    Some((squared_deviations(values)? / values.len() as f64).sqrt())
}

/// The q-quantile of ascending values with linear interpolation between order statistics (numpy's
/// default): position `q (n-1)`. `q` is clamped to [0, 1]; `None` on no values.
pub fn quantile(ascending: &[f64], q: f64) -> Option<f64> {
    let position = q.clamp(0.0, 1.0) * ascending.len().checked_sub(1)? as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(ascending.len() - 1);
    Some(ascending[below] + (position - below as f64) * (ascending[above] - ascending[below]))
}

/// `1/(n-1) sum (x - mean)^2`; `None` with fewer than two values.
pub(super) fn unbiased_variance(values: &[f64]) -> Option<f64> {
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
    fn population_spread_of_one_value_is_zero() {
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
}
