//! The head of a reward model: the formula of a logit from a hidden state.

use serde::{Deserialize, Serialize};

use crate::CriticError;

/// The formula of a logit from a hidden state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum HeadSettings {
    /// z_t = w . h_t + b.
    #[default]
    Linear,
    /// z_t = beta (log pi_D(y_t) - rho log pi_ref(y_t)) + b.
    Implicit {
        /// Logits per nat.
        #[serde(default = "default_beta")]
        beta: f64,
        /// rho: how much of the reference is subtracted; 1 is the log-ratio, 0 leaves the reference
        /// out.
        #[serde(default = "default_reference_weight")]
        reference_weight: f64,
    },
    /// The sum of both, with one bias.
    Hybrid {
        /// Logits per nat.
        #[serde(default = "default_beta")]
        beta: f64,
        /// rho: how much of the reference is subtracted; 1 is the log-ratio, 0 leaves the reference
        /// out.
        #[serde(default = "default_reference_weight")]
        reference_weight: f64,
    },
}

fn default_reference_weight() -> f64 {
    1.0
}

fn default_beta() -> f64 {
    1.0
}

/// beta and rho of a log-ratio: `beta * (log pi_D - rho * log pi_ref)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LogRatio {
    /// Logits per nat.
    pub(crate) beta: f64,
    /// How much of the reference is subtracted.
    pub(crate) reference_weight: f64,
}

impl HeadSettings {
    /// The log-ratio term, if the head has one.
    pub(crate) fn log_ratio(self) -> Option<LogRatio> {
        match self {
            Self::Linear => None,
            Self::Implicit {
                beta,
                reference_weight,
            }
            | Self::Hybrid {
                beta,
                reference_weight,
            } => Some(LogRatio {
                beta,
                reference_weight,
            }),
        }
    }

    /// Checks the constants; `key` is the dotted path of this table.
    ///
    /// # Errors
    /// [`CriticError::InvalidSetting`] names the key.
    pub fn validate(self, key: &str) -> Result<(), CriticError> {
        let Some(LogRatio {
            beta,
            reference_weight,
        }) = self.log_ratio()
        else {
            return Ok(());
        };
        if !(beta.is_finite() && beta > 0.0) {
            let reason = format!("must be above 0, not {beta}");
            return Err(CriticError::setting(format!("{key}.beta"), reason));
        }
        if !(0.0..=1.0).contains(&reference_weight) {
            let reason = format!("must lie in [0, 1], not {reference_weight}");
            return Err(CriticError::setting(
                format!("{key}.reference_weight"),
                reason,
            ));
        }
        Ok(())
    }
}
