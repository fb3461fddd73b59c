//! Frequencies of the rotary embedding, with the scalings that published checkpoints use.

use std::f32::consts::PI;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::invalid;
use crate::LmError;

/// Base and scaling of a rotary embedding.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RopeSettings {
    /// The base of the geometric series of wavelengths.
    pub theta: f64,
    /// How frequencies are changed for contexts longer than those of pretraining.
    pub scaling: RopeScaling,
}

/// A change of the rotary frequencies.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RopeScaling {
    /// Unchanged.
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a linear blend between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are low
        /// frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are high
        /// frequencies.
        high_freq_factor: f64,
        /// The context length of pretraining.
        original_max_position_embeddings: usize,
    },
    /// One divisor per frequency, as in `rope_freqs.weight` of GGUF files.
    Divisors {
        /// `head_dim / 2` divisors.
        divisors: Vec<f32>,
    },
}

impl RopeSettings {
    /// The angle of one position for every pair of a head's dimensions.
    ///
    /// `f_i = theta^(-2 i / head_dim)`, then the scaling; the arithmetic is single precision in the
    /// order of transformers' `modeling_rope_utils`, so the numbers are the same.
    ///
    /// # Shapes
    /// `head_dim / 2` values, f32, radians a position.
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f32> {
        let base = (0..head_dim / 2).map(|i| {
            let exponent = (2 * i) as f32 / head_dim as f32;
            1.0 / (self.theta.powf(f64::from(exponent)) as f32)
        });
        match &self.scaling {
            RopeScaling::None => base.collect(),
            RopeScaling::Linear { factor } => base.map(|f| f / *factor as f32).collect(),
            RopeScaling::Llama3 { .. } => base.map(|f| self.llama3(f)).collect(),
            RopeScaling::Divisors { divisors } => base.zip(divisors).map(|(f, d)| f / d).collect(),
        }
    }

    /// Checks the constants; `path` is named in the error.
    pub(crate) fn validate(&self, path: &Path, head_dim: usize) -> Result<(), LmError> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if !positive(self.theta) {
            return invalid(
                path,
                "rope_theta",
                format!("must be positive, not {}", self.theta),
            );
        }
        let reason = match &self.scaling {
            RopeScaling::None => return Ok(()),
            RopeScaling::Linear { factor } if positive(*factor) => return Ok(()),
            RopeScaling::Linear { factor } => format!("factor must be positive, not {factor}"),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let ordered = high_freq_factor > low_freq_factor;
                if positive(*factor)
                    && positive(*low_freq_factor)
                    && ordered
                    && *original_max_position_embeddings > 0
                {
                    return Ok(());
                }
                "needs positive factors, high_freq_factor above low_freq_factor and a positive original length".into()
            }
            RopeScaling::Divisors { divisors } if divisors.len() != head_dim / 2 => {
                format!(
                    "{} divisors for {} frequencies",
                    divisors.len(),
                    head_dim / 2
                )
            }
            RopeScaling::Divisors { divisors }
                if divisors.iter().all(|&d| positive(f64::from(d))) =>
            {
                return Ok(());
            }
            RopeScaling::Divisors { .. } => "every divisor must be positive".into(),
        };
        invalid(path, "rope_scaling", reason)
    }

    fn llama3(&self, frequency: f32) -> f32 {
        let RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } = &self.scaling
        else {
            return frequency;
        };
        let original = *original_max_position_embeddings as f64;
        let wavelength = 2.0 * PI / frequency;
        let divided = frequency / *factor as f32;
        if wavelength > (original / low_freq_factor) as f32 {
            return divided;
        }
        if wavelength < (original / high_freq_factor) as f32 {
            return frequency;
        }
        let smooth = (original as f32 / wavelength - *low_freq_factor as f32)
            / (high_freq_factor - low_freq_factor) as f32;
        (1.0 - smooth) * frequency / *factor as f32 + smooth * frequency
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_by_hand() {
        let plain = RopeSettings {
            theta: 10_000.0,
            scaling: RopeScaling::None,
        };
        assert_eq!(plain.inverse_frequencies(8), [1.0, 0.1, 0.01, 0.001]);
        let linear = RopeSettings {
            theta: 10_000.0,
            scaling: RopeScaling::Linear { factor: 4.0 },
        };
        assert_eq!(linear.inverse_frequencies(4), [0.25, 0.0025]);
        let divided = RopeSettings {
            theta: 100.0,
            scaling: RopeScaling::Divisors {
                divisors: vec![1.0, 8.0],
            },
        };
        assert_eq!(divided.inverse_frequencies(4), [1.0, 0.1 / 8.0]);
    }

    /// Wavelengths 2 pi, 62.8, 628, 6283 with bounds 2048 (high) and 8192 (low).
    #[test]
    fn llama3_keeps_high_divides_low_blends_between() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let settings = RopeSettings {
            theta: 1e5,
            scaling,
        };
        let f = settings.inverse_frequencies(10);
        assert_eq!(f[0], 1.0);
        assert!((f[2] - 0.01).abs() < 2e-9, "kept");
        let smooth = (8192.0 * 1e-3 / (2.0 * std::f64::consts::PI) - 1.0) / 3.0;
        let blend = (1.0 - smooth) * 1e-3 / 8.0 + smooth * 1e-3;
        assert!((f64::from(f[3]) - blend).abs() < 1e-9, "{} {blend}", f[3]);
        assert!((f[4] - 1e-4 / 8.0).abs() < 1e-12);
    }
}
