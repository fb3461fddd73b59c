//! Correlation: Pearson, Spearman, partial.

/// Pearson's r, `cov(x, y) / (std x * std y)`.
///
/// `None` on fewer than two pairs, different lengths, or no variance on a side.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    (x.len() == y.len()).then_some(())?;
    pearson_of(x.iter().zip(y).map(|(&x, &y)| (x, y, 1.0)))
}

/// Pearson's r of pairs with non-negative weights; the weights of [`super::bootstrap()`] make it a resample's r.
///
/// `None` as [`pearson`].
pub fn pearson_weighted(x: &[f64], y: &[f64], weights: &[f64]) -> Option<f64> {
    (x.len() == y.len() && x.len() == weights.len()).then_some(())?;
    pearson_of(x.iter().zip(y).zip(weights).map(|((&x, &y), &w)| (x, y, w)))
}

/// Spearman's rho: Pearson's r of average ranks. `None` as [`pearson`].
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    pearson(&average_ranks(x), &average_ranks(y))
}

/// Ranks from 1, equal values sharing the mean of their ranks.
pub fn average_ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    for tied in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let below = order.partition_point(|&i| values[i] < values[tied[0]]);
        let rank = below as f64 + (tied.len() as f64 + 1.0) / 2.0;
        tied.iter().for_each(|&i| ranks[i] = rank);
    }
    ranks
}

/// Correlation of `x` and `y` given `controls`: Pearson's r of the residuals of least squares on `[1, controls]`.
///
/// Rank the inputs first ([`average_ranks`]) for the partial Spearman. Controls that are constant or linear in the
/// others are dropped. `None` if lengths differ, nothing is left of `x` or `y` (residual variance below 1e-12 of the
/// whole), or there are fewer than two observations.
pub fn partial_correlation(x: &[f64], y: &[f64], controls: &[&[f64]]) -> Option<f64> {
    pearson(&residuals(x, controls)?, &residuals(y, controls)?)
}

/// What least squares on `[1, controls]` leaves of `values`. `None` as [`partial_correlation`].
pub fn residuals(values: &[f64], controls: &[&[f64]]) -> Option<Vec<f64>> {
    let n = values.len();
    controls
        .iter()
        .all(|control| control.len() == n)
        .then_some(())?;
    residual(values, &orthonormal_basis(controls, n))
}

fn pearson_of(pairs: impl Iterator<Item = (f64, f64, f64)> + Clone) -> Option<f64> {
    let (mut total, mut sum_x, mut sum_y) = (0.0, 0.0, 0.0);
    for (x, y, w) in pairs.clone() {
        total += w;
        sum_x += w * x;
        sum_y += w * y;
    }
    let (mean_x, mean_y) = (sum_x / total, sum_y / total);
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y, w) in pairs {
        let (dx, dy) = (x - mean_x, y - mean_y);
        xx += w * dx * dx;
        yy += w * dy * dy;
        xy += w * dx * dy;
    }
    // A constant column leaves rounding errors behind, which must not correlate with anything.
    let varies = |squares: f64, mean: f64| squares > 1e-24 * total * mean * mean && squares > 0.0;
    let scale = (xx * yy).sqrt();
    (varies(xx, mean_x) && varies(yy, mean_y) && scale > 0.0).then(|| (xy / scale).clamp(-1.0, 1.0))
}

/// Gram-Schmidt of the constant and the controls, twice over for accuracy.
fn orthonormal_basis(controls: &[&[f64]], n: usize) -> Vec<Vec<f64>> {
    let mut basis: Vec<Vec<f64>> = Vec::new();
    let ones = vec![1.0; n];
    for column in std::iter::once(ones.as_slice()).chain(controls.iter().copied()) {
        if let Some(mut rest) = residual(column, &basis) {
            let norm = dot(&rest, &rest).sqrt();
            rest.iter_mut().for_each(|value| *value /= norm);
            basis.push(rest);
        }
    }
    basis
}

/// What of `column` the basis does not explain; `None` if that is nothing.
fn residual(column: &[f64], basis: &[Vec<f64>]) -> Option<Vec<f64>> {
    let mut rest = column.to_vec();
    for direction in basis.iter().chain(basis) {
        let along = dot(&rest, direction);
        rest.iter_mut()
            .zip(direction)
            .for_each(|(value, d)| *value -= along * d);
    }
    let (before, after) = (dot(column, column), dot(&rest, &rest));
    (after > 1e-12 * before && after > 0.0).then_some(rest)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_share_ties() {
        assert_eq!(average_ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert_eq!(average_ranks(&[]), [0.0; 0]);
    }

    #[test]
    fn monotone_is_one_for_spearman_only() {
        let x = [1.0, 2.0, 3.0, 4.0];
        let y = [1.0, 8.0, 27.0, 64.0];
        assert!((spearman(&x, &y).unwrap() - 1.0).abs() < 1e-15);
        assert!(pearson(&x, &y).unwrap() < 0.96);
    }

    #[test]
    fn undefined_correlations_are_none() {
        assert_eq!(pearson(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(pearson(&[1.0], &[1.0]), None);
        assert_eq!(pearson(&[1.0, 2.0], &[1.0]), None);
        assert_eq!(pearson(&[], &[]), None);
        assert_eq!(
            pearson(&[0.1; 7], &[1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0]),
            None
        );
    }

    #[test]
    fn weights_are_repetitions() {
        let (x, y) = ([1.0, 2.0, 4.0], [2.0, 1.0, 5.0]);
        let repeated = pearson(
            &[1.0, 2.0, 2.0, 4.0, 4.0, 4.0],
            &[2.0, 1.0, 1.0, 5.0, 5.0, 5.0],
        )
        .unwrap();
        assert!((pearson_weighted(&x, &y, &[1.0, 2.0, 3.0]).unwrap() - repeated).abs() < 1e-14);
    }

    #[test]
    fn partial_correlation_removes_the_common_cause() {
        let cause: Vec<f64> = (0..50).map(f64::from).collect();
        let wobble: Vec<f64> = (0..50).map(|i| f64::from(i * 7 % 5)).collect();
        let x: Vec<f64> = cause
            .iter()
            .zip(&wobble)
            .map(|(c, w)| 3.0 * c + w)
            .collect();
        let y: Vec<f64> = cause
            .iter()
            .zip(&wobble)
            .map(|(c, w)| 2.0 * c - w)
            .collect();
        assert!(pearson(&x, &y).unwrap() > 0.99);
        assert!((partial_correlation(&x, &y, &[&cause]).unwrap() + 1.0).abs() < 1e-9);
        assert_eq!(partial_correlation(&x, &cause, &[&cause]), None);
        let constant = vec![1.0; 50];
        let without = partial_correlation(&x, &y, &[&constant]).unwrap();
        assert!((without - pearson(&x, &y).unwrap()).abs() < 1e-12);
    }
}
