//! Draws one token from logits: temperature, top-k, top-p.
//!
//! The sampling distribution is softmax(logits / temperature) restricted to the top k tokens, then
//! to the smallest set of likeliest tokens whose mass reaches top_p, renormalised. The policy's
//! log-probability is that of softmax(logits), whatever the sampling settings. Both are returned.

use assay_ops::{DeviceDraw, DeviceDrawSettings, draw_on_device, has_kernels};
use assay_tasks::random::Stream;
use candle_core::{Storage, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::LmError;

/// How tokens are drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DrawSettings {
    /// Divides the logits; 0 takes the most probable token.
    pub temperature: f64,
    /// Mass of the likeliest tokens kept, in (0, 1]; 1 keeps all.
    pub top_p: f64,
    /// Number of likeliest tokens kept; 0 keeps all.
    pub top_k: usize,
}

impl Default for DrawSettings {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
        }
    }
}

impl DrawSettings {
    /// Returns an error for values outside their range.
    ///
    /// # Errors
    /// [`LmError::InvalidSampling`] names the key.
    pub fn validate(&self) -> Result<(), LmError> {
        let reason = if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            format!(
                "temperature must be finite and at least 0, not {}",
                self.temperature
            )
        } else if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            format!("top_p must lie in (0, 1], not {}", self.top_p)
        } else {
            return Ok(());
        };
        Err(LmError::InvalidSampling { reason })
    }
}

/// A drawn token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    /// Its id.
    pub token: u32,
    /// log-probability under the sampling distribution.
    pub sampling_logprob: f32,
    /// log-probability under softmax(logits).
    pub policy_logprob: f32,
}

/// Draws one token for each row of `[S, vocab]` logits, row i with the next number of stream i.
///
/// # Errors
/// [`LmError::NonFiniteLogits`] when a row has no finite maximum.
pub fn draw_rows<'s>(
    logits: &[f32],
    vocab: usize,
    settings: &DrawSettings,
    streams: impl Iterator<Item = &'s mut Stream>,
) -> Result<Vec<Drawn>, LmError> {
    let uniforms: Vec<f64> = streams.map(Stream::uniform_f64).collect();
    logits
        .par_chunks(vocab)
        .zip(uniforms)
        .map(|(row, uniform)| draw(row, settings, uniform))
        .collect()
}

/// [`draw_rows`] for a tensor `[S, vocab]` f32. On a GPU the tokens are drawn there, so that the
/// logits are not copied.
///
/// # Errors
/// As [`draw_rows`].
pub fn draw_tensor<'s>(
    logits: &Tensor,
    settings: &DrawSettings,
    streams: impl Iterator<Item = &'s mut Stream>,
) -> Result<Vec<Drawn>, LmError> {
    if !has_kernels(logits.device()) {
        let (vocab, logits) = (logits.dim(1)?, logits.contiguous()?);
        let (storage, layout) = logits.storage_and_layout();
        if let (Storage::Cpu(storage), Some((from, to))) = (&*storage, layout.contiguous_offsets())
        {
            let values = &storage.as_slice::<f32>()?[from..to];
            return draw_rows(values, vocab, settings, streams);
        }
    }
    let uniforms: Vec<f64> = streams.map(Stream::uniform_f64).collect();
    let rows = uniforms.len();
    read_drawn(&draw_on_device(logits, &uniforms, settings.into())?, rows)
}

/// The first `rows` tokens drawn on a device.
///
/// # Errors
/// As [`draw_rows`].
pub(crate) fn read_drawn(drawn: &DeviceDraw, rows: usize) -> Result<Vec<Drawn>, LmError> {
    let drawn = drawn.read()?;
    let logprobs = drawn.sampling_logprobs.iter().zip(&drawn.policy_logprobs);
    let all = drawn.tokens.iter().zip(logprobs).take(rows);
    all.map(
        |(&token, (&sampling_logprob, &policy_logprob))| match token {
            u32::MAX => Err(LmError::NonFiniteLogits),
            token => Ok(Drawn {
                token,
                sampling_logprob,
                policy_logprob,
            }),
        },
    )
    .collect()
}

impl From<&DrawSettings> for DeviceDrawSettings {
    fn from(settings: &DrawSettings) -> Self {
        Self {
            temperature: settings.temperature,
            top_p: settings.top_p,
            top_k: settings.top_k,
        }
    }
}

/// Draws a token from one row of logits with a uniform number in [0, 1), by inversion over the
/// token ids.
///
/// # Errors
/// [`LmError::NonFiniteLogits`] when the row has no finite maximum.
pub fn draw(logits: &[f32], settings: &DrawSettings, uniform: f64) -> Result<Drawn, LmError> {
    let maximum = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !maximum.is_finite() || logits.iter().any(|l| l.is_nan()) {
        return Err(LmError::NonFiniteLogits);
    }
    if settings.temperature == 0.0 {
        let token = logits.iter().position(|&l| l == maximum).unwrap_or(0);
        let policy_logprob = -log_sum_exp(logits, maximum, 1.0) as f32;
        return Ok(Drawn {
            token: token as u32,
            sampling_logprob: 0.0,
            policy_logprob,
        });
    }
    let inverse_temperature = 1.0 / settings.temperature as f32;
    let mut weights: Vec<f32> = logits
        .iter()
        .map(|&l| ((l - maximum) * inverse_temperature).exp())
        .collect();
    restrict(&mut weights, settings);
    let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
    let token = invert(&weights, uniform * total);
    let policy_normaliser =
        if settings.temperature == 1.0 && settings.top_p == 1.0 && settings.top_k == 0 {
            total.ln()
        } else {
            log_sum_exp(logits, maximum, 1.0)
        };
    Ok(Drawn {
        token: token as u32,
        sampling_logprob: (f64::from((logits[token] - maximum) * inverse_temperature) - total.ln())
            as f32,
        policy_logprob: (f64::from(logits[token] - maximum) - policy_normaliser) as f32,
    })
}

/// log sum exp((l - maximum) * scale).
fn log_sum_exp(logits: &[f32], maximum: f32, scale: f32) -> f64 {
    logits
        .iter()
        .map(|&l| f64::from(((l - maximum) * scale).exp()))
        .sum::<f64>()
        .ln()
}

/// The first token at which the cumulative weight exceeds `mass`; if rounding prevents that, the
/// last token with a positive weight.
fn invert(weights: &[f32], mass: f64) -> usize {
    let mut sum = 0.0;
    let mut last = 0;
    for (token, &weight) in weights.iter().enumerate() {
        if weight > 0.0 {
            sum += f64::from(weight);
            last = token;
            if sum > mass {
                break;
            }
        }
    }
    last
}

/// Sets the weights of tokens outside top-k and top-p to zero. Ties are broken by token id.
fn restrict(weights: &mut [f32], settings: &DrawSettings) {
    let limited_k = settings.top_k > 0 && settings.top_k < weights.len();
    if !limited_k && settings.top_p >= 1.0 {
        return;
    }
    let mut order: Vec<u32> = (0..weights.len() as u32).collect();
    let by_weight = |&a: &u32, &b: &u32| {
        weights[b as usize]
            .total_cmp(&weights[a as usize])
            .then(a.cmp(&b))
    };
    if limited_k {
        order.select_nth_unstable_by(settings.top_k - 1, by_weight);
        order.truncate(settings.top_k);
    }
    order.sort_unstable_by(by_weight);
    if settings.top_p < 1.0 {
        let total: f64 = order
            .iter()
            .map(|&token| f64::from(weights[token as usize]))
            .sum();
        let mut sum = 0.0;
        let kept = order.iter().take_while(|&&token| {
            let needed = sum < settings.top_p * total;
            sum += f64::from(weights[token as usize]);
            needed
        });
        let kept = kept.count().max(1);
        order.truncate(kept);
    }
    let mut restricted = vec![0.0; weights.len()];
    for token in order {
        restricted[token as usize] = weights[token as usize];
    }
    weights.copy_from_slice(&restricted);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [0.0, 1.0, 2.0, 1.0];

    fn frequencies(settings: &DrawSettings) -> Vec<f64> {
        let mut counts = vec![0.0; 4];
        for i in 0..4000 {
            let drawn = draw(&LOGITS, settings, f64::from(i) / 4000.0).unwrap();
            counts[drawn.token as usize] += 1.0 / 4000.0;
        }
        counts
    }

    fn settings(temperature: f64, top_p: f64, top_k: usize) -> DrawSettings {
        DrawSettings {
            temperature,
            top_p,
            top_k,
        }
    }

    #[test]
    fn frequencies_follow_the_restricted_softmax() {
        let e = std::f64::consts::E;
        let z = 1.0 + 2.0 * e + e * e;
        let close = |found: Vec<f64>, expected: [f64; 4]| {
            for (f, x) in found.iter().zip(expected) {
                assert!((f - x).abs() < 1e-3, "{found:?} against {expected:?}");
            }
        };
        close(
            frequencies(&settings(1.0, 1.0, 0)),
            [1.0 / z, e / z, e * e / z, e / z],
        );
        let half = (0.5_f64).exp();
        let z2 = 1.0 + 2.0 * half + e;
        close(
            frequencies(&settings(2.0, 1.0, 0)),
            [1.0 / z2, half / z2, e / z2, half / z2],
        );
        close(
            frequencies(&settings(1.0, 1.0, 2)),
            [0.0, e / (e + e * e), e * e / (e + e * e), 0.0],
        );
        close(frequencies(&settings(1.0, 0.5, 0)), [0.0, 0.0, 1.0, 0.0]);
        close(frequencies(&settings(0.0, 1.0, 0)), [0.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn the_policys_logprob_ignores_temperature_and_truncation() {
        let e = std::f64::consts::E;
        let expected = (e * e / (1.0 + 2.0 * e + e * e)).ln() as f32;
        for s in [
            settings(1.0, 1.0, 0),
            settings(0.5, 1.0, 0),
            settings(1.0, 0.5, 0),
            settings(0.0, 1.0, 0),
        ] {
            let drawn = draw(&LOGITS, &s, 0.5).unwrap();
            assert_eq!(drawn.token, 2);
            assert!((drawn.policy_logprob - expected).abs() < 1e-6);
        }
        let drawn = draw(&LOGITS, &settings(1.0, 0.5, 0), 0.5).unwrap();
        assert_eq!(drawn.sampling_logprob, 0.0);
    }

    #[test]
    fn hostile_numbers_are_refused() {
        assert!(matches!(
            draw(&[f32::NAN, 1.0], &settings(1.0, 1.0, 0), 0.1),
            Err(LmError::NonFiniteLogits)
        ));
        assert!(matches!(
            draw(&[f32::INFINITY, 1.0], &settings(1.0, 1.0, 0), 0.1),
            Err(LmError::NonFiniteLogits)
        ));
        assert!(settings(-1.0, 1.0, 0).validate().is_err());
        assert!(settings(1.0, 0.0, 0).validate().is_err());
        let drawn = draw(&[0.0, -1e30, 5.0], &settings(1.0, 1.0, 0), 0.999_999_999).unwrap();
        assert_eq!(drawn.token, 2);
    }
}
