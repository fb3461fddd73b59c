//! The map from logit to reward.

use serde::{Deserialize, Serialize};

use crate::CriticError;

/// r = clamp(z / temperature, lower, upper).
///
/// With D = sigmoid(z), the reward log D - log(1 - D) equals z, so no other step is needed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RewardTransform {
    /// Divides the logit; above 0.
    pub temperature: f64,
    /// Lower bound of the reward, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lower: Option<f64>,
    /// Upper bound of the reward, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upper: Option<f64>,
}

impl Default for RewardTransform {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            lower: None,
            upper: None,
        }
    }
}

impl RewardTransform {
    /// The reward of a logit.
    pub fn reward(&self, logit: f32) -> f32 {
        (f64::from(logit) / self.temperature)
            .max(self.lower.unwrap_or(f64::NEG_INFINITY))
            .min(self.upper.unwrap_or(f64::INFINITY)) as f32
    }

    /// The rewards of a trace's logits, one per token.
    pub fn rewards(&self, logits: &[f32]) -> Vec<f32> {
        logits.iter().map(|&logit| self.reward(logit)).collect()
    }

    /// Checks the values; `key` is the dotted path of this table.
    ///
    /// # Errors
    /// [`CriticError::InvalidSetting`] names the key.
    pub fn validate(&self, key: &str) -> Result<(), CriticError> {
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            let reason = format!("must be above 0, not {}", self.temperature);
            return Err(CriticError::setting(format!("{key}.temperature"), reason));
        }
        let lower = self.lower.unwrap_or(f64::NEG_INFINITY);
        let upper = self.upper.unwrap_or(f64::INFINITY);
        if lower.is_nan() || upper.is_nan() || lower >= upper {
            let reason = format!("must lie below upper: {lower} is not below {upper}");
            return Err(CriticError::setting(format!("{key}.lower"), reason));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divides_then_clamps() {
        let transform = RewardTransform {
            temperature: 2.0,
            lower: Some(-1.0),
            upper: Some(3.0),
        };
        assert_eq!(
            transform.rewards(&[-4.0, 1.0, 5.0, 8.0]),
            [-1.0, 0.5, 2.5, 3.0]
        );
        assert_eq!(
            RewardTransform::default().rewards(&[-1e4, 0.1]),
            [-1e4, 0.1]
        );
    }

    #[test]
    fn an_empty_interval_is_refused() {
        let crossed = RewardTransform {
            lower: Some(1.0),
            upper: Some(0.0),
            ..RewardTransform::default()
        };
        assert!(
            crossed
                .validate("reward.transform")
                .unwrap_err()
                .to_string()
                .contains("reward.transform.lower")
        );
        let cold = RewardTransform {
            temperature: 0.0,
            ..RewardTransform::default()
        };
        assert!(
            cold.validate("reward.transform")
                .unwrap_err()
                .to_string()
                .contains("temperature")
        );
    }
}
