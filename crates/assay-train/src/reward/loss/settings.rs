//! Settings of the discriminator's loss: the weight of each term, and which tokens have which label.

use serde::{Deserialize, Serialize};

use crate::TrainError;

/// Settings of the discriminator's loss.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiscriminatorLossSettings {
    /// Class-balanced binary cross-entropy on token logits.
    pub bce: BceSettings,
    /// Comparison of whole traces within a prompt.
    pub relativistic: RelativisticSettings,
    /// Comparison of demonstration and perturbation at the corrupted token.
    pub contrast: ContrastSettings,
    /// Wasserstein critic.
    pub wgan: WganSettings,
    /// Agreement with a judge that reads the demonstration.
    pub judge: JudgeSettings,
    /// Labels of the tokens before the corruption of a perturbed demonstration.
    pub prefix_labels: PrefixLabels,
    /// Labels of the tokens after the corrupted span of a perturbed demonstration.
    pub suffix_labels: SuffixLabels,
    /// Which tokens of a policy sample are negative.
    pub policy_labels: PolicyLabels,
}

/// Class-balanced binary cross-entropy: L = 1/2 mean_pos + 1/2 mean_neg.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BceSettings {
    /// Factor of the term; 0 is off.
    pub weight: f64,
    /// Label smoothing eps in [0, 1/2): targets are 1 - eps and eps. The first version of the paper
    /// halves its eps.
    pub smoothing: f64,
}

impl Default for BceSettings {
    fn default() -> Self {
        Self {
            weight: 1.0,
            smoothing: 0.0,
        }
    }
}

/// Relativistic term: softplus(-scale (S_expert - S_negative)), mean over pairs of one prompt.
///
/// A pair counts with the product of its traces' weights. A policy sample equal to the
/// demonstration forms no pair when `policy_labels` is `from_divergence`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelativisticSettings {
    /// Factor of the term; 0 is off.
    pub weight: f64,
    /// The trace score S over labelled positions; the gradient flows through it.
    pub score: PairScore,
    /// Factor of S_expert - S_negative; larger values give more weight to small differences.
    pub scale: f64,
}

impl Default for RelativisticSettings {
    fn default() -> Self {
        Self {
            weight: 1.0,
            score: PairScore::Mean,
            scale: 1.0,
        }
    }
}

/// A differentiable trace score over labelled positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum PairScore {
    /// mean z.
    #[default]
    Mean,
    /// -T log mean exp(-z / T): near the minimum for small T, near the mean for large T.
    SoftMin {
        /// T in logits, above 0.
        #[serde(default = "default_temperature")]
        temperature: f64,
    },
    /// z at the last labelled position.
    Last,
}

fn default_temperature() -> f64 {
    1.0
}

/// Localised pair term: `softplus(-(z_expert[p] - z_perturbed[q]))`, mean over pairs of one prompt,
/// with p and q the first labelled positions at or after the first corrupted token.
///
/// Demonstration and perturbation share every token before it, so only the error differs. A pair
/// without such positions is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContrastSettings {
    /// Factor of the term; 0 is off.
    pub weight: f64,
}

/// Wasserstein critic with hard labels: mean_neg z - mean_pos z, global means.
///
/// The Lipschitz bound is the original one: after each optimiser step every trained parameter is
/// clipped to [-c, c] with c = [`WganSettings::CLIP`]. The optimiser's decoupled weight decay still
/// applies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WganSettings {
    /// Factor of the term; 0 is off.
    pub weight: f64,
}

impl WganSettings {
    /// Largest absolute value of a trained parameter while the term is on.
    pub const CLIP: f32 = 0.1;
}

/// Agreement with a judge that reads the demonstration, on policy samples.
///
/// It is off by default, because judging takes three forward passes over the samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JudgeSettings {
    /// Factor of the term; 0 is off.
    pub weight: f64,
}

/// Labels of the tokens before the corruption of a perturbed demonstration. The expert wrote these
/// tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrefixLabels {
    /// Positive, as in the demonstration.
    #[default]
    Positive,
    /// Without a label.
    LeftOut,
    /// Negative like the rest (the paper), so the error is not localised.
    Whole,
}

/// Labels of the tokens after the corrupted span of a perturbed demonstration. The expert wrote
/// these tokens, but they follow an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuffixLabels {
    /// Negative: text that follows from an error is wrong.
    #[default]
    Negative,
    /// Without a label.
    LeftOut,
    /// Positive: only the corrupted span is negative, so the reward rises again after the error.
    Positive,
}

/// Which tokens of a policy sample are negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyLabels {
    /// Those from the first difference to the demonstration on; none if there is no difference.
    #[default]
    FromDivergence,
    /// All (the paper).
    Whole,
}

impl DiscriminatorLossSettings {
    /// Checks the values; `key` is the dotted path of this table.
    ///
    /// # Errors
    /// [`TrainError::InvalidSetting`] names the key.
    pub fn validate(&self, key: &str) -> Result<(), TrainError> {
        let weights = [
            ("bce.weight", self.bce.weight),
            ("relativistic.weight", self.relativistic.weight),
            ("contrast.weight", self.contrast.weight),
            ("wgan.weight", self.wgan.weight),
            ("judge.weight", self.judge.weight),
        ];
        for (name, weight) in weights {
            if !(weight.is_finite() && weight >= 0.0) {
                let reason = format!("must be finite and at least 0, not {weight}");
                return Err(TrainError::setting(format!("{key}.{name}"), reason));
            }
        }
        if weights.iter().all(|&(_, weight)| weight == 0.0) {
            let reason =
                "bce, relativistic, contrast, wgan and judge are all off: nothing is learned";
            return Err(TrainError::setting(key, reason));
        }
        if !(0.0..0.5).contains(&self.bce.smoothing) {
            let reason = format!("must lie in [0, 0.5), not {}", self.bce.smoothing);
            return Err(TrainError::setting(format!("{key}.bce.smoothing"), reason));
        }
        if !(self.relativistic.scale.is_finite() && self.relativistic.scale > 0.0) {
            let reason = format!("must be above 0, not {}", self.relativistic.scale);
            return Err(TrainError::setting(
                format!("{key}.relativistic.scale"),
                reason,
            ));
        }
        match self.relativistic.score {
            PairScore::SoftMin { temperature }
                if !(temperature.is_finite() && temperature > 0.0) =>
            {
                let reason = format!("must be above 0, not {temperature}");
                Err(TrainError::setting(
                    format!("{key}.relativistic.score.temperature"),
                    reason,
                ))
            }
            _ => Ok(()),
        }
    }
}
