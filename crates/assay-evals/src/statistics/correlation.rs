//! Correlation: Pearson, Spearman, partial.

/// Pearson's r, `cov(x, y) / (std x * std y)`.
///
/// `None` on fewer than two pairs, different lengths, or no variance on a side.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    (x.len() == y.len()).then_some(())?;
    pearson_of(x.iter().copied().zip(y.iter().copied()))
}

/// Sums of pairs by bootstrap unit, so that Pearson's r of a resample costs one step a unit.
#[derive(Clone, Debug)]
pub struct PairMoments {
    /// Means of the whole sample, which the sums are centred by.
    means: (f64, f64),
    /// By unit: pairs, and sums of x, y, x^2, y^2, xy after centring.
    sums: Vec<[f64; 6]>,
}

impl PairMoments {
    /// Sums up; `units[i]` is the unit of pair i, below `count`. The shortest slice bounds the sample.
    pub fn new((x, y): (&[f64], &[f64]), units: &[usize], count: usize) -> Self {
        let n = x.len().min(y.len()).min(units.len());
        let mean = |values: &[f64]| values[..n].iter().sum::<f64>() / n.max(1) as f64;
        let means = (mean(x), mean(y));
        let mut sums = vec![[0.0; 6]; count];
        for i in 0..n {
            let (dx, dy) = (x[i] - means.0, y[i] - means.1);
            let terms = [1.0, dx, dy, dx * dx, dy * dy, dx * dy];
            let own = &mut sums[units[i]];
            own.iter_mut()
                .zip(terms)
                .for_each(|(sum, term)| *sum += term);
        }
        Self { means, sums }
    }

    /// Pearson's r of pairs that count `weights[unit]` times; `None` as [`pearson`].
    pub fn pearson(&self, weights: &[f64]) -> Option<f64> {
        let mut total = [0.0; 6];
        for (sums, weight) in self.sums.iter().zip(weights) {
            total
                .iter_mut()
                .zip(sums)
                .for_each(|(t, s)| *t += weight * s);
        }
        let [n, x, y, xx, yy, xy] = total;
        if n <= 0.0 {
            return None;
        }
        let sums = (n, xx - x * x / n, yy - y * y / n, xy - x * y / n);
        correlation(sums, self.means)
    }
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

/// What least squares on `[1, controls]` leaves of `values`. Pearson's r of two such lists is the partial correlation.
///
/// Rank the inputs first ([`average_ranks`]) for the partial Spearman. Controls that are constant or linear in the
/// others are dropped. `None` if lengths differ, nothing is left (residual variance below 1e-12 of the whole), or there are fewer
/// than two observations.
pub fn residuals(values: &[f64], controls: &[&[f64]]) -> Option<Vec<f64>> {
    let n = values.len();
    controls
        .iter()
        .all(|control| control.len() == n)
        .then_some(())?;
    residual(values, &orthonormal_basis(controls, n))
}

fn pearson_of(pairs: impl Iterator<Item = (f64, f64)> + Clone) -> Option<f64> {
    let (mut n, mut sum_x, mut sum_y) = (0.0, 0.0, 0.0);
    for (x, y) in pairs.clone() {
        n += 1.0;
        sum_x += x;
        sum_y += y;
    }
    let (mean_x, mean_y) = (sum_x / n, sum_y / n);
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in pairs {
        let (dx, dy) = (x - mean_x, y - mean_y);
        xx += dx * dx;
        yy += dy * dy;
        xy += dx * dy;
    }
    correlation((n, xx, yy, xy), (mean_x, mean_y))
}

/// `xy / sqrt(xx yy)` of centred sums; `None` where a side does not vary: a constant column leaves rounding errors
/// behind, which must not correlate with anything.
fn correlation((n, xx, yy, xy): (f64, f64, f64, f64), means: (f64, f64)) -> Option<f64> {
    let varies = |squares: f64, mean: f64| squares > 1e-24 * n * mean * mean && squares > 0.0;
    let scale = (xx * yy).sqrt();
    let defined = varies(xx, means.0) && varies(yy, means.1) && scale > 0.0;
    defined.then(|| (xy / scale).clamp(-1.0, 1.0))
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
    fn weights_of_units_are_repetitions() {
        let x = [1.0, 2.0, 4.0, -1.0, 3.5];
        let y = [2.0, 1.0, 5.0, 0.0, 1.0];
        let units = [0, 0, 1, 2, 1];
        let moments = PairMoments::new((&x, &y), &units, 3);
        for weights in [[1, 1, 1], [2, 1, 0], [0, 3, 1]] {
            let (mut repeated_x, mut repeated_y) = (Vec::new(), Vec::new());
            for (i, &unit) in units.iter().enumerate() {
                repeated_x.extend(std::iter::repeat_n(x[i], weights[unit]));
                repeated_y.extend(std::iter::repeat_n(y[i], weights[unit]));
            }
            let expected = pearson(&repeated_x, &repeated_y).unwrap();
            let own = moments.pearson(&weights.map(|w| w as f64)).unwrap();
            assert!((own - expected).abs() < 1e-12, "{own} {expected}");
        }
        assert_eq!(moments.pearson(&[0.0, 0.0, 1.0]), None);
        assert_eq!(moments.pearson(&[0.0; 3]), None);
        let constant = PairMoments::new((&[0.1; 5], &y), &units, 3);
        assert_eq!(constant.pearson(&[1.0; 3]), None);
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
        let given = |y: &[f64], control: &[f64]| {
            pearson(&residuals(&x, &[control])?, &residuals(y, &[control])?)
        };
        assert!(pearson(&x, &y).unwrap() > 0.99);
        assert!((given(&y, &cause).unwrap() + 1.0).abs() < 1e-9);
        assert_eq!(given(&cause, &cause), None);
        let constant = vec![1.0; 50];
        let without = given(&y, &constant).unwrap();
        assert!((without - pearson(&x, &y).unwrap()).abs() < 1e-12);
    }
}
