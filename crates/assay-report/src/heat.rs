//! The colour scale of token rewards, shared by page and terminal, and the token that a heatmap
//! marks.

use assay_evals::localisation::{Predictor, Suspect};
use assay_evals::statistics::quantile;
use assay_tasks::trace::ScoredTrace;

/// Number of colour classes: 0 lowest, 5 the centre, 10 highest.
pub(crate) const HEAT_CLASSES: usize = 11;

/// A diverging colour scale: the median reward has no colour, and rewards as far from it as the
/// 95th percentile of that distance, or farther, have the strongest colour.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeatScale {
    centre: f64,
    reach: f64,
}

impl HeatScale {
    /// The scale with its centre at a reward and its strongest colours `reach` from it. A reach
    /// that is not positive and finite becomes 1.
    pub fn new(centre: f64, reach: f64) -> Self {
        let usable = reach > 0.0 && reach.is_finite();
        Self {
            centre,
            reach: if usable { reach } else { 1.0 },
        }
    }

    /// The scale of all rewards of some traces; centre 0 and reach 1 if no token has a reward.
    pub fn from_traces<'t>(traces: impl IntoIterator<Item = &'t ScoredTrace>) -> Self {
        let mut rewards: Vec<f64> = Vec::new();
        for trace in traces {
            rewards.extend(trace.token_rewards.iter().flatten().map(|&r| f64::from(r)));
        }
        rewards.retain(|reward| reward.is_finite());
        rewards.sort_by(f64::total_cmp);
        let centre = quantile(&rewards, 0.5).unwrap_or(0.0);
        let mut distances: Vec<f64> = rewards.iter().map(|r| (r - centre).abs()).collect();
        distances.sort_by(f64::total_cmp);
        Self::new(centre, quantile(&distances, 0.95).unwrap_or(1.0))
    }

    /// The reward without colour.
    pub fn centre(&self) -> f64 {
        self.centre
    }

    /// The reward at which the lowest colour class begins; lower rewards share it.
    pub fn low(&self) -> f64 {
        self.centre - self.reach
    }

    /// The reward at which the highest colour class begins; higher rewards share it.
    pub fn high(&self) -> f64 {
        self.centre + self.reach
    }

    /// Colour class 0 (lowest) to 10 (highest), 5 at the centre.
    pub fn class(&self, reward: f64) -> usize {
        let place = ((reward - self.centre) / self.reach).clamp(-1.0, 1.0);
        (5.0 + 5.0 * place).round() as usize
    }
}

/// The token with the largest drop in reward, the first of equal ones; `None` if no reward falls.
pub(crate) fn predicted_token(trace: &ScoredTrace) -> Option<usize> {
    Suspect::of(trace, Predictor::LargestDrop).map(|suspect| suspect.token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_span_the_scale() {
        let scale = HeatScale::new(1.0, 2.0);
        assert_eq!(
            [-9.0, -1.0, 0.2, 1.0, 3.0, 9.0].map(|reward| scale.class(reward)),
            [0, 0, 3, 5, 10, 10]
        );
        assert_eq!((scale.low(), scale.high()), (-1.0, 3.0));
        assert_eq!(HeatScale::new(0.0, 0.0).high(), 1.0);
    }
}
