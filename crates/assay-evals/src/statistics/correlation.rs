//! Correlation: Pearson, Spearman, partial.

/// Pearson's r, `cov(x, y) / (std x * std y)`.
///
/// `None` on fewer than two pairs, different lengths, or no variance on a side.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    (x.len() == y.len()).then_some(())?;
    pearson_of(x.iter().copied().zip(y.iter().copied()))
}

/// Sums of pairs by bootstrap unit: Pearson's r of a resample takes one pass over the units.
#[derive(Clone, Debug)]
pub struct PairMoments {
    /// Means of x and y over the whole sample; the sums are centred by them.
    mean_x: f64,
    mean_y: f64,
    /// For each unit: the number of pairs, and sums of x, y, x^2, y^2, xy after centring.
    sums: Vec<[f64; 6]>,
}

impl PairMoments {
    /// Sums the pairs `(x[i], y[i])` of each unit `units[i]`, which is below `count`. The shortest
    /// slice bounds the sample.
    pub fn new(x: &[f64], y: &[f64], units: &[usize], count: usize) -> Self {
        let n = x.len().min(y.len()).min(units.len());
        let mean = |values: &[f64]| values[..n].iter().sum::<f64>() / n.max(1) as f64;
        let (mean_x, mean_y) = (mean(x), mean(y));
        let mut sums = vec![[0.0; 6]; count];
        for i in 0..n {
            let (dx, dy) = (x[i] - mean_x, y[i] - mean_y);
            let terms = [1.0, dx, dy, dx * dx, dy * dy, dx * dy];
            let own = &mut sums[units[i]];
            own.iter_mut()
                .zip(terms)
                .for_each(|(sum, term)| *sum += term);
        }
        Self {
            mean_x,
            mean_y,
            sums,
        }
    }

    /// Pearson's r if each pair counts `weights[unit]` times; `None` as [`pearson`].
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
        let sums = CentredSums {
            n,
            mean_x: self.mean_x,
            mean_y: self.mean_y,
            xx: xx - x * x / n,
            yy: yy - y * y / n,
            xy: xy - x * y / n,
        };
        sums.correlation()
    }
}

/// Spearman's rho: Pearson's r of average ranks. `None` as [`pearson`].
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    pearson(&average_ranks(x), &average_ranks(y))
}

/// Ranks from 1; equal values get the mean of their ranks.
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

/// The residuals of least squares of `values` on `[1, controls]`. Pearson's r of two such lists is
/// the partial correlation.
///
/// Rank the inputs first ([`average_ranks`]) for the partial Spearman correlation. Controls that
/// are constant or a linear function of the others are dropped. `None` if the lengths differ or if
/// the residual variance is below 1e-12 of the variance, as it is with fewer than two values.
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
    let sums = CentredSums {
        n,
        mean_x,
        mean_y,
        xx,
        yy,
        xy,
    };
    sums.correlation()
}

/// Means, and sums of squares and products around them.
struct CentredSums {
    n: f64,
    mean_x: f64,
    mean_y: f64,
    xx: f64,
    yy: f64,
    xy: f64,
}

impl CentredSums {
    /// `xy / sqrt(xx yy)`; `None` if x or y is constant up to rounding errors.
    fn correlation(&self) -> Option<f64> {
        let varies =
            |squares: f64, mean: f64| squares > 1e-24 * self.n * mean * mean && squares > 0.0;
        let scale = (self.xx * self.yy).sqrt();
        let defined = varies(self.xx, self.mean_x) && varies(self.yy, self.mean_y) && scale > 0.0;
        defined.then(|| (self.xy / scale).clamp(-1.0, 1.0))
    }
}

/// Gram-Schmidt on the constant and the controls, with a second pass for accuracy.
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

/// The part of `column` outside the span of `basis`; `None` if it is zero up to rounding.
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
        let moments = PairMoments::new(&x, &y, &units, 3);
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
        let constant = PairMoments::new(&[0.1; 5], &y, &units, 3);
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
