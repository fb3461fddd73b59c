//! Settings of the optimisers, learning-rate schedules and gradient clipping.

use assay_ops::AdamWSettings;
use serde::{Deserialize, Serialize};

use crate::TrainError;

/// One player's optimiser: AdamW with decoupled weight decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimiserSettings {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, times the learning rate a step.
    pub weight_decay: f64,
    /// Largest global gradient norm; `inf` for none.
    pub clip_norm: f64,
    /// Shape of the learning rate after the warm-up.
    pub decay: LrDecay,
    /// Share of all updates that warm up, in [0, 1].
    pub warmup_share: f64,
}

/// The optimisers of a run: values that all players share, and a table per player.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimiserTable {
    /// Decay of the second moment.
    pub beta2: f64,
    /// Decoupled weight decay, times the learning rate an update.
    pub weight_decay: f64,
    /// Largest global gradient norm; `inf` for none.
    pub clip_norm: f64,
    /// Shape of the learning rate after the warm-up.
    pub decay: LrDecay,
    /// Share of all updates that warm up, in [0, 1].
    pub warmup_share: f64,
    /// The policy while it is fine-tuned on demonstrations.
    pub sft: PlayerOptimiser,
    /// The discriminator.
    pub reward: PlayerOptimiser,
    /// The policy in the game.
    pub policy: PlayerOptimiser,
}

/// One player's learning rate, and its values that replace the shared ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlayerOptimiser {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Its own [`OptimiserTable::beta2`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta2: Option<f64>,
    /// Its own [`OptimiserTable::weight_decay`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Its own [`OptimiserTable::decay`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay: Option<LrDecay>,
    /// Its own [`OptimiserTable::warmup_share`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_share: Option<f64>,
}

impl PlayerOptimiser {
    /// A player with a learning rate and all shared values.
    pub fn with_rate(learning_rate: f64) -> Self {
        Self {
            learning_rate,
            ..Self::default()
        }
    }
}

impl Default for OptimiserTable {
    fn default() -> Self {
        let shared = OptimiserSettings::default();
        Self {
            beta2: shared.beta2,
            weight_decay: shared.weight_decay,
            clip_norm: shared.clip_norm,
            decay: shared.decay,
            warmup_share: shared.warmup_share,
            sft: PlayerOptimiser::with_rate(1e-4),
            reward: PlayerOptimiser::with_rate(2e-4),
            policy: PlayerOptimiser::with_rate(1e-5),
        }
    }
}

impl OptimiserTable {
    /// The policy's optimiser while it is fine-tuned.
    pub fn sft(&self) -> OptimiserSettings {
        self.of(&self.sft)
    }

    /// The discriminator's optimiser.
    pub fn reward(&self) -> OptimiserSettings {
        self.of(&self.reward)
    }

    /// The policy's optimiser in the game.
    pub fn policy(&self) -> OptimiserSettings {
        self.of(&self.policy)
    }

    fn of(&self, player: &PlayerOptimiser) -> OptimiserSettings {
        OptimiserSettings {
            learning_rate: player.learning_rate,
            beta2: player.beta2.unwrap_or(self.beta2),
            weight_decay: player.weight_decay.unwrap_or(self.weight_decay),
            clip_norm: self.clip_norm,
            decay: player.decay.unwrap_or(self.decay),
            warmup_share: player.warmup_share.unwrap_or(self.warmup_share),
            ..OptimiserSettings::default()
        }
    }

    /// Checks the values; `key` is the dotted path of this table.
    ///
    /// # Errors
    /// [`TrainError::InvalidSetting`] names the key.
    pub fn validate(&self, key: &str) -> Result<(), TrainError> {
        let shared = OptimiserSettings {
            learning_rate: 0.0,
            ..self.of(&PlayerOptimiser::default())
        };
        shared.validate(key)?;
        for (name, player) in [
            ("sft", &self.sft),
            ("reward", &self.reward),
            ("policy", &self.policy),
        ] {
            self.of(player).validate(&format!("{key}.{name}"))?;
        }
        Ok(())
    }
}

impl Default for OptimiserSettings {
    fn default() -> Self {
        Self {
            learning_rate: 1e-5,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
            weight_decay: 0.1,
            clip_norm: 1.0,
            decay: LrDecay::Cosine,
            warmup_share: 0.1,
        }
    }
}

/// Shape of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrDecay {
    /// Stays at the peak.
    Constant,
    /// 1/2 (1 + cos(pi p)).
    #[default]
    Cosine,
    /// 1 - p.
    Linear,
}

impl OptimiserSettings {
    /// The kernel's settings at a learning rate.
    pub fn adamw(&self, learning_rate: f64) -> AdamWSettings {
        AdamWSettings {
            lr: learning_rate,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.epsilon,
            weight_decay: self.weight_decay,
        }
    }

    /// The learning rate of every update of a run with `total_updates`.
    pub fn schedule(&self, total_updates: usize) -> LrSchedule {
        let warmup = (self.warmup_share * total_updates as f64).ceil() as usize;
        LrSchedule {
            peak: self.learning_rate,
            decay: self.decay,
            warmup,
            total: total_updates,
        }
    }

    /// Checks the values; `key` is the dotted path of this table.
    ///
    /// # Errors
    /// [`TrainError::InvalidSetting`] names the key.
    pub fn validate(&self, key: &str) -> Result<(), TrainError> {
        let unit = |x: f64| (0.0..1.0).contains(&x);
        let checks = [
            (
                "learning_rate",
                self.learning_rate,
                self.learning_rate.is_finite() && self.learning_rate >= 0.0,
            ),
            ("beta1", self.beta1, unit(self.beta1)),
            ("beta2", self.beta2, unit(self.beta2)),
            (
                "epsilon",
                self.epsilon,
                self.epsilon.is_finite() && self.epsilon > 0.0,
            ),
            (
                "weight_decay",
                self.weight_decay,
                self.weight_decay.is_finite() && self.weight_decay >= 0.0,
            ),
            ("clip_norm", self.clip_norm, self.clip_norm > 0.0),
            (
                "warmup_share",
                self.warmup_share,
                (0.0..=1.0).contains(&self.warmup_share),
            ),
        ];
        match checks.iter().find(|(_, _, allowed)| !allowed) {
            Some((name, value, _)) => {
                let reason = format!("{value} is out of range");
                Err(TrainError::setting(format!("{key}.{name}"), reason))
            }
            None => Ok(()),
        }
    }
}

/// The learning rate as a function of the update, counted from 0.
///
/// With W warm-up updates of N: peak (k + 1) / (W + 1) for k < W, then peak * decay(p), p = (k - W)
/// / (N - W). The first update after the warm-up has the peak, and no update of the run has rate 0.
/// Beyond the end: p = 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LrSchedule {
    peak: f64,
    decay: LrDecay,
    warmup: usize,
    total: usize,
}

impl LrSchedule {
    /// The learning rate of update `k`.
    pub fn learning_rate(&self, k: usize) -> f64 {
        if k < self.warmup {
            return self.peak * (k + 1) as f64 / (self.warmup + 1) as f64;
        }
        let span = self.total.saturating_sub(self.warmup).max(1);
        let progress = ((k - self.warmup) as f64 / span as f64).min(1.0);
        self.peak
            * match self.decay {
                LrDecay::Constant => 1.0,
                LrDecay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
                LrDecay::Linear => 1.0 - progress,
            }
    }
}

/// sqrt(sum of squares) over all gradients, summed in f64.
pub fn global_norm<'g>(gradients: impl IntoIterator<Item = &'g [f32]>) -> f64 {
    let square = |gradient: &[f32]| gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>();
    gradients.into_iter().map(square).sum::<f64>().sqrt()
}

/// Factor that brings a gradient of norm `norm` to at most `clip_norm`: min(1, clip_norm / (norm +
/// 1e-6)), as `torch.nn.utils.clip_grad_norm_` computes it.
pub fn clip_coefficient(norm: f64, clip_norm: f64) -> f64 {
    (clip_norm / (norm + 1e-6)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_peaks_and_decays() {
        let settings = OptimiserSettings {
            learning_rate: 2.0,
            warmup_share: 0.3,
            ..Default::default()
        };
        let rates = |decay| {
            let schedule = OptimiserSettings {
                decay,
                ..settings.clone()
            }
            .schedule(11);
            (0..12)
                .map(|k| schedule.learning_rate(k))
                .collect::<Vec<_>>()
        };
        let linear = rates(LrDecay::Linear);
        assert_eq!(
            &linear[..6],
            [0.4, 0.8, 1.2, 1.6, 2.0, 2.0 * (1.0 - 1.0 / 7.0)]
        );
        assert!((linear[10] - 2.0 / 7.0).abs() < 1e-12 && linear[11] == 0.0);
        let cosine = rates(LrDecay::Cosine);
        assert!((cosine[7] - (1.0 + (3.0 * std::f64::consts::PI / 7.0).cos())).abs() < 1e-12);
        assert!(cosine[..11].iter().all(|&rate| rate > 0.0));
        assert_eq!(rates(LrDecay::Constant)[10], 2.0);
    }

    #[test]
    fn a_single_update_learns() {
        assert!(OptimiserSettings::default().schedule(1).learning_rate(0) > 0.0);
    }

    #[test]
    fn clips_as_torch_does() {
        let norm = global_norm([&[3.0_f32, 0.0][..], &[4.0][..]]);
        assert_eq!(norm, 5.0);
        assert_eq!(clip_coefficient(norm, 1.0), 1.0 / 5.000_001);
        assert_eq!(clip_coefficient(0.5, 1.0), 1.0);
        assert_eq!(clip_coefficient(norm, f64::INFINITY), 1.0);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let negative = OptimiserSettings {
            learning_rate: -1e-5,
            ..Default::default()
        };
        let message = negative
            .validate("policy.optimiser")
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("policy.optimiser.learning_rate"),
            "{message}"
        );
    }

    #[derive(serde::Deserialize)]
    struct GoldenStep {
        learning_rate: f64,
        norm: f64,
        parameters: Vec<f64>,
    }

    #[derive(serde::Deserialize)]
    struct GoldenRun {
        settings: OptimiserSettings,
        target: Vec<f64>,
        start: Vec<f64>,
        steps: Vec<GoldenStep>,
    }

    /// Ten AdamW steps on a quadratic agree with torch: rates, norms, clipping and parameters.
    #[test]
    fn ten_steps_match_torch() {
        let runs: Vec<GoldenRun> =
            serde_json::from_str(include_str!("../tests/golden/optimiser.json")).unwrap();
        assert_eq!(runs.len(), 3);
        for GoldenRun {
            settings,
            target,
            start,
            steps,
        } in runs
        {
            let schedule = settings.schedule(steps.len());
            let (mut p, mut m, mut v) = (start, vec![0.0; target.len()], vec![0.0; target.len()]);
            for (k, step) in steps.iter().enumerate() {
                let gradient: Vec<f64> = p.iter().zip(&target).map(|(p, t)| p - t).collect();
                let narrow: Vec<f32> = gradient.iter().map(|&g| g as f32).collect();
                let norm = global_norm([narrow.as_slice()]);
                assert!(
                    (norm - step.norm).abs() < 1e-6
                        && (schedule.learning_rate(k) - step.learning_rate).abs() < 1e-12
                );
                let (rate, clip) = (
                    step.learning_rate,
                    clip_coefficient(norm, settings.clip_norm),
                );
                let (b1, b2, t) = (settings.beta1, settings.beta2, k as i32 + 1);
                for i in 0..p.len() {
                    let g = clip * gradient[i];
                    m[i] = b1 * m[i] + (1.0 - b1) * g;
                    v[i] = b2 * v[i] + (1.0 - b2) * g * g;
                    p[i] *= 1.0 - rate * settings.weight_decay;
                    let root = (v[i] / (1.0 - b2.powi(t))).sqrt() + settings.epsilon;
                    p[i] -= rate * m[i] / (1.0 - b1.powi(t)) / root;
                    assert!((p[i] - step.parameters[i]).abs() < 1e-6);
                }
            }
        }
    }
}
