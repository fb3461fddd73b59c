//! The shared colour scale of token rewards, and the token at which a heatmap marks the predicted error.

use assay_tasks::trace::ScoredTrace;

use crate::localisation::{Fitted, LocalisationCase, Predictor};
use crate::statistics::quantile;

/// Number of colour classes: 0 lowest, 5 the centre, 10 highest.
pub const HEAT_CLASSES: usize = 11;

/// A diverging scale: the median reward is uncoloured, the 95th percentile of the distance from it saturates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeatScale {
    centre: f64,
    reach: f64,
}

impl HeatScale {
    /// The scale centred at a reward, saturated `reach` from it; a reach that is not above 0 becomes 1.
    pub fn new(centre: f64, reach: f64) -> Self {
        let usable = reach > 0.0 && reach.is_finite();
        Self {
            centre,
            reach: if usable { reach } else { 1.0 },
        }
    }

    /// The scale of all rewards of some traces; centred at 0 with reach 1 where nothing was scored.
    pub fn of<'t>(traces: impl IntoIterator<Item = &'t ScoredTrace>) -> Self {
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

    /// The uncoloured reward.
    pub fn centre(&self) -> f64 {
        self.centre
    }

    /// The reward at and below which the colour is the lowest.
    pub fn low(&self) -> f64 {
        self.centre - self.reach
    }

    /// The reward at and above which the colour is the highest.
    pub fn high(&self) -> f64 {
        self.centre + self.reach
    }

    /// Colour class 0 (lowest) to 10 (highest), 5 at the centre.
    pub fn class(&self, reward: f64) -> usize {
        let place = ((reward - self.centre) / self.reach).clamp(-1.0, 1.0);
        (5.0 + 5.0 * place).round() as usize
    }
}

/// The token of the largest drop, the first of equal ones; `None` if no reward falls.
pub fn predicted_token(trace: &ScoredTrace) -> Option<usize> {
    let case = LocalisationCase {
        text: &trace.text,
        token_offsets: &trace.token_offsets,
        token_rewards: &trace.token_rewards,
        ..LocalisationCase::default()
    };
    let drops = Predictor::LargestDrop.suspicion(&case, &Fitted::default())?;
    let falls = drops
        .iter()
        .enumerate()
        .filter_map(|(token, drop)| Some((token, drop.filter(|drop| *drop > 0.0)?)));
    falls
        .reduce(|best, next| if next.1 > best.1 { next } else { best })
        .map(|(token, _)| token)
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

    #[test]
    fn the_first_of_equal_drops_is_predicted() {
        let trace = ScoredTrace {
            token_offsets: (0..5).map(|i| (i, i + 1)).collect(),
            token_rewards: [2.0, 1.0, 3.0, 2.0, 2.5].map(Some).to_vec(),
            text: "abcde".into(),
            ..ScoredTrace::default()
        };
        assert_eq!(predicted_token(&trace), Some(1));
        let rising = ScoredTrace {
            token_rewards: [1.0, 2.0, 3.0, 4.0, 5.0].map(Some).to_vec(),
            ..trace
        };
        assert_eq!(predicted_token(&rising), None);
    }
}
