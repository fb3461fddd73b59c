//! Means over a mask, with one definition for an empty mask.

/// A weighted mean and the factor of its gradient.
///
/// mean = sum(w_i v_i) / sum(w_i); d mean / d v_i = w_i * `scale` with `scale` = 1 / sum(w_i). An
/// empty mask, or one whose weights are all zero, contributes nothing: mean 0 and scale 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct MaskedMean {
    /// The mean, 0 for an empty mask.
    pub mean: f64,
    /// 1 / sum of weights, 0 for an empty mask.
    pub scale: f64,
}

/// The mean of `(value, weight)` pairs; see [`MaskedMean`].
pub(crate) fn masked_mean(values_and_weights: impl IntoIterator<Item = (f64, f64)>) -> MaskedMean {
    let (mut sum, mut total) = (0.0, 0.0);
    for (value, weight) in values_and_weights {
        if weight != 0.0 {
            sum += value * weight;
            total += weight;
        }
    }
    if total > 0.0 {
        MaskedMean {
            mean: sum / total,
            scale: 1.0 / total,
        }
    } else {
        MaskedMean::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_or_weightless_mask_contributes_nothing() {
        assert_eq!(
            masked_mean([]),
            MaskedMean {
                mean: 0.0,
                scale: 0.0
            }
        );
        assert_eq!(
            masked_mean([(f64::NAN, 0.0)]),
            MaskedMean {
                mean: 0.0,
                scale: 0.0
            }
        );
    }

    #[test]
    fn weights_count() {
        let MaskedMean { mean, scale } = masked_mean([(1.0, 1.0), (4.0, 2.0), (9.0, 0.0)]);
        assert_eq!((mean, scale), (3.0, 1.0 / 3.0));
    }
}
