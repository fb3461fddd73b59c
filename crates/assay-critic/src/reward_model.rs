//! The discriminator: an adapted backbone and a head that returns one logit per completion token.
//!
//! Let h_t be the hidden state after token t (after the final norm), pi_D the adapted backbone with
//! its own output matrix, and pi_ref the backbone without the adapter:
//! - `linear`:   z_t = w . h_t + b
//! - `implicit`: z_t = beta (log pi_D(y_t | y_<t) - rho log pi_ref(y_t | y_<t)) + b
//! - `hybrid`:   the sum of the two, one b
//!
//! The reward is r = log D - log(1 - D) = z with D = sigmoid(z).

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use assay_lm::adapter::{Adapter, AdapterCard};
use assay_lm::directory::WeightType;
use assay_lm::packed::PackedBatch;
use assay_lm::peft;
use assay_lm::transformer::Transformer;
use assay_ops::reward_head;
use assay_tasks::prompts::PromptSettings;
use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::CriticError;
use crate::granularity::Granularity;
use crate::head::{HeadSettings, LogRatio};
use crate::player::Player;
use crate::policy_model::completion_logprobs;
use crate::transform::RewardTransform;

/// File next to a reward adapter that says how its token rewards are computed.
pub const HEAD_FILE: &str = "reward_head.toml";
/// File of the weight and bias of an implicit or hybrid head. Its adapter is that of a causal
/// language model, which has no classifier weights.
pub const HEAD_WEIGHTS_FILE: &str = "reward_head.safetensors";
/// Maximum size of [`HEAD_FILE`] in bytes.
const MAX_HEAD_FILE: u64 = 1 << 20;
const SCORE_WEIGHT: &str = "base_model.model.score.weight";
const SCORE_BIAS: &str = "base_model.model.score.bias";

/// The settings for scoring a trace. They are saved with the reward.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScoringSettings {
    /// The format of prompts and completions.
    pub prompt: PromptSettings,
    /// Which tokens carry a label.
    pub granularity: Granularity,
    /// The map from logit to reward.
    pub transform: RewardTransform,
}

/// A token reward model.
pub struct RewardModel {
    /// The settings for scoring traces.
    pub scoring: ScoringSettings,
    backbone: Arc<Transformer>,
    /// Whether it was read from a file that names other base weights.
    on_other_weights: bool,
    adapter: Adapter,
    head: HeadSettings,
    /// `[hidden]`; used by linear and hybrid heads.
    weight: Option<Var>,
    /// `[1]`.
    bias: Var,
}

/// The head as written next to the adapter.
#[derive(Serialize, Deserialize)]
struct HeadFile {
    formula: String,
    head: HeadSettings,
    #[serde(default)]
    scoring: ScoringSettings,
}

impl HeadFile {
    fn read(path: &Path) -> Result<Self, CriticError> {
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MAX_HEAD_FILE + 1).read_to_string(&mut text))
            .map_err(|source| CriticError::io("reading", path, source))?;
        let malformed = |reason: String| CriticError::malformed(path, reason);
        if text.len() as u64 > MAX_HEAD_FILE {
            return Err(malformed(format!("longer than {MAX_HEAD_FILE} bytes")));
        }
        let file: Self = toml::from_str(&text).map_err(|source| malformed(source.to_string()))?;
        file.validate()
            .map_err(|source| malformed(source.to_string()))?;
        Ok(file)
    }

    /// Checks constants read from a file as strictly as those of the settings.
    fn validate(&self) -> Result<(), CriticError> {
        self.head.validate("head")?;
        self.scoring.granularity.validate("scoring.granularity")?;
        self.scoring.transform.validate("scoring.transform")
    }
}

impl RewardModel {
    /// A new reward model on its backbone's device. The adapter is initialised as in PEFT; the
    /// head's weight and bias are zero.
    ///
    /// # Errors
    /// A tensor cannot be created.
    pub fn new(
        backbone: Arc<Transformer>,
        adapter: Adapter,
        head: HeadSettings,
    ) -> Result<Self, CriticError> {
        let hidden = backbone.config().hidden_size;
        let device = backbone.placement().device;
        let adapter = adapter.to_device(&device)?;
        let weight = match head {
            HeadSettings::Implicit { .. } => None,
            HeadSettings::Linear | HeadSettings::Hybrid { .. } => {
                Some(Var::zeros(hidden, DType::F32, &device)?)
            }
        };
        let bias = Var::zeros(1, DType::F32, &device)?;
        Ok(Self {
            scoring: ScoringSettings::default(),
            on_other_weights: false,
            backbone,
            adapter,
            head,
            weight,
            bias,
        })
    }

    /// Reads a reward directory: a PEFT adapter, its head and the head's kind.
    ///
    /// A directory without [`HEAD_FILE`] is a plain PEFT token classifier and gets a linear head.
    ///
    /// # Errors
    /// Names the file and the thing that is missing or does not match the backbone.
    pub fn load(dir: &Path, backbone: Arc<Transformer>) -> Result<Self, CriticError> {
        // assay trains LoRA pairs alone. An adapter of another program may also change the
        // backbone.
        let (mut loaded, changed) = match dir.join(HEAD_FILE).exists() {
            true => (peft::load(dir, backbone.config())?, Arc::clone(&backbone)),
            false => peft::load_with_base(dir, &backbone)?,
        };
        let on_other_weights = loaded.is_on_other_weights(&backbone);
        let backbone = changed;
        let weights = dir.join(HEAD_WEIGHTS_FILE);
        if weights.exists() {
            loaded.extra.extend(read_head(&weights)?);
        }
        let path = dir.join(HEAD_FILE);
        let (head, scoring) = if path.exists() {
            let file = HeadFile::read(&path)?;
            (file.head, file.scoring)
        } else {
            (HeadSettings::Linear, ScoringSettings::default())
        };
        let mut model = Self {
            scoring,
            on_other_weights,
            ..Self::new(backbone, loaded.adapter, head)?
        };
        let hidden = model.backbone.config().hidden_size;
        let device = model.bias.device().clone();
        let tensor = |name: &str, count: usize| -> Result<Option<Tensor>, CriticError> {
            let Some(tensor) = loaded.extra.get(name) else {
                return Ok(None);
            };
            let found = tensor.elem_count();
            if found != count {
                let reason = match found / count.max(1) {
                    labels @ 2.. if found % count == 0 => format!(
                        "{name} is of a classifier of {labels} labels, as TRL's process rewards are; a reward has \
                         one: train with num_labels=1, or keep the difference of two rows as one label"
                    ),
                    _ => format!("{name} has {found} values, the backbone needs {count}"),
                };
                return Err(CriticError::malformed(dir.join(peft::WEIGHTS_FILE), reason));
            }
            Ok(Some(tensor.flatten_all()?.to_device(&device)?))
        };
        if let Some(weight) = &mut model.weight {
            let read = tensor(SCORE_WEIGHT, hidden)?.ok_or_else(|| {
                CriticError::malformed(
                    dir.join(peft::WEIGHTS_FILE),
                    format!("{SCORE_WEIGHT} is missing"),
                )
            })?;
            weight.set(&read)?;
        }
        if let Some(read) = tensor(SCORE_BIAS, 1)? {
            model.bias.set(&read)?;
        }
        Ok(model)
    }

    /// Writes the PEFT adapter, the head's weights and [`HEAD_FILE`] into an existing directory.
    ///
    /// # Errors
    /// Names the file that could not be written.
    pub fn save(&self, dir: &Path, base_model: &str) -> Result<(), CriticError> {
        let mut extra = vec![(SCORE_BIAS.to_owned(), self.bias.as_tensor().clone())];
        if let Some(weight) = &self.weight {
            extra.push((
                SCORE_WEIGHT.to_owned(),
                weight.as_tensor().reshape((1, ()))?,
            ));
        }
        let linear = matches!(self.head, HeadSettings::Linear);
        let card = AdapterCard {
            base_model: base_model.to_owned(),
            task_type: if linear { "TOKEN_CLS" } else { "CAUSAL_LM" },
            modules_to_save: if linear {
                vec!["score".to_owned()]
            } else {
                Vec::new()
            },
            trained_on: self.backbone.fingerprint().map(str::to_owned),
            weights: WeightType::F32,
        };
        if linear {
            self.adapter.save(dir, &card, &extra)?;
        } else {
            self.adapter.save(dir, &card, &[])?;
            let named = extra.into_iter().collect();
            assay_lm::save_tensors(&named, &dir.join(HEAD_WEIGHTS_FILE))?;
        }
        self.save_head(dir)
    }

    /// The head's formula at one token.
    pub fn formula(&self) -> &'static str {
        match self.head {
            HeadSettings::Linear => "z_t = score(h_t)",
            HeadSettings::Implicit { .. } => {
                "z_t = beta (log pi_D(y_t) - rho log pi_ref(y_t)) + score.bias, rho = reference_weight"
            }
            HeadSettings::Hybrid { .. } => {
                "z_t = score(h_t) + beta (log pi_D(y_t) - rho log pi_ref(y_t)), rho = reference_weight"
            }
        }
    }

    /// [`peft::LoadedAdapter::is_on_other_weights`] of its adapter and its backbone.
    pub fn is_on_other_weights(&self) -> bool {
        self.on_other_weights
    }

    fn save_head(&self, dir: &Path) -> Result<(), CriticError> {
        let file = HeadFile {
            head: self.head,
            scoring: self.scoring.clone(),
            formula: self.formula().to_owned(),
        };
        let path = dir.join(HEAD_FILE);
        let unwritable =
            |source: toml::ser::Error| CriticError::malformed(path.clone(), source.to_string());
        let text = toml::to_string_pretty(&file).map_err(unwritable)?;
        std::fs::write(&path, text).map_err(|source| CriticError::io("writing", &path, source))
    }

    /// Whether a parameter belongs to the head, not to the adapter.
    pub fn is_head(name: &str) -> bool {
        name == SCORE_WEIGHT || name == SCORE_BIAS
    }

    /// The head's kind.
    pub fn head(&self) -> HeadSettings {
        self.head
    }

    /// Weight `[hidden]` and bias `[1]` of a linear head; `None` for other heads.
    pub fn linear_head(&self) -> Option<(&Tensor, &Tensor)> {
        let weight = self.weight.as_ref()?;
        let linear = matches!(self.head, HeadSettings::Linear);
        linear.then(|| (weight.as_tensor(), self.bias.as_tensor()))
    }

    /// The frozen model that the adapter belongs to.
    pub fn backbone(&self) -> &Transformer {
        &self.backbone
    }

    /// The adapter.
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// Sets the head's bias.
    ///
    /// # Errors
    /// The variable cannot be written.
    pub fn set_bias(&self, bias: f32) -> Result<(), CriticError> {
        Ok(self
            .bias
            .set(&Tensor::from_vec(vec![bias], 1, self.bias.device())?)?)
    }
}

/// z_t = weight . h_t + bias of every completion token of a batch, completion after completion,
/// with a model without an adapter.
///
/// # Shapes
/// `weight` holds `hidden` values, `bias` one.
///
/// # Errors
/// The batch does not fit the model.
pub fn linear_logits(
    model: &Transformer,
    weight: &Tensor,
    bias: &Tensor,
    batch: &PackedBatch,
) -> Result<Vec<f32>, CriticError> {
    let hidden = model.hidden(batch, None)?;
    let rows = hidden.index_select(&Tensor::new(batch.completion_rows(), hidden.device())?, 0)?;
    Ok(reward_head(&rows, &weight.flatten_all()?, bias)?.to_vec1()?)
}

fn read_head(path: &Path) -> Result<HashMap<String, Tensor>, CriticError> {
    candle_core::safetensors::load(path, &Device::Cpu)
        .map_err(|source| CriticError::malformed(path, source.to_string()))
}

impl Player for RewardModel {
    fn scalar(&self) -> &'static str {
        "the logit"
    }

    fn body(&self) -> (&Transformer, Option<&Adapter>) {
        (&self.backbone, Some(&self.adapter))
    }

    /// The logit without its reference term.
    fn head(&self, hidden: &Tensor, batch: &PackedBatch) -> Result<Tensor, CriticError> {
        let bias = self.bias.as_tensor();
        let linear = match &self.weight {
            Some(weight) => {
                let rows = batch.completion_rows();
                let count = rows.len();
                let rows =
                    hidden.index_select(&Tensor::from_vec(rows, count, hidden.device())?, 0)?;
                Some(reward_head(&rows, weight.as_tensor(), bias)?)
            }
            None => None,
        };
        let Some(LogRatio { beta, .. }) = self.head.log_ratio() else {
            return linear
                .ok_or_else(|| CriticError::malformed(HEAD_FILE, "a linear head has no weight"));
        };
        let ratio = (completion_logprobs(&self.backbone, hidden, batch)?.logprobs * beta)?;
        Ok(match linear {
            Some(linear) => (linear + ratio)?,
            None => ratio.broadcast_add(bias)?,
        })
    }

    fn head_tensors(&self) -> Vec<&Tensor> {
        let own = self.weight.iter().chain([&self.bias]);
        own.map(Var::as_tensor).collect()
    }

    /// The reference term: -beta rho log pi_ref.
    fn offset(&self, batch: &PackedBatch) -> Result<Option<Tensor>, CriticError> {
        match self.head.log_ratio() {
            Some(LogRatio {
                beta,
                reference_weight: rho,
            }) if rho != 0.0 => {
                let hidden = self.backbone.hidden(batch, None)?;
                let reference = completion_logprobs(&self.backbone.detached(), &hidden, batch)?;
                Ok(Some((reference.logprobs.detach() * (-beta * rho))?))
            }
            _ => Ok(None),
        }
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        let mut parameters = self.adapter.parameters().to_vec();
        if let Some(weight) = &self.weight {
            parameters.push((SCORE_WEIGHT.to_owned(), weight.clone()));
        }
        parameters.push((SCORE_BIAS.to_owned(), self.bias.clone()));
        parameters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Head files with one change each, and the expected error.
    #[test]
    fn heads_of_strangers() {
        let good =
            "formula = \"z\"\n[head]\nkind = \"implicit\"\nbeta = 1.0\nreference_weight = 1.0\n";
        let long = good.to_owned() + &"#".repeat(MAX_HEAD_FILE as usize);
        let cases = [
            (String::new(), "missing field"),
            (long, "longer than 1048576 bytes"),
            ("\0".to_owned(), "reward_head.toml"),
            (good.replace("implicit", "rootkit"), "rootkit"),
            (
                good.replace("beta = 1.0", "beta = nan"),
                "`head.beta`: must be above 0, not NaN",
            ),
            (good.replace("beta = 1.0", "beta = inf"), "`head.beta`"),
            (good.replace("beta = 1.0", "beta = -1.0"), "`head.beta`"),
            (
                good.replace("weight = 1.0", "weight = 7.0"),
                "`head.reference_weight`",
            ),
            (good.to_owned() + "more = 1\n", "unknown field `more`"),
            (
                good.to_owned() + "[scoring]\nmore = 1\n",
                "unknown field `more`",
            ),
            (
                good.to_owned() + "[scoring.granularity]\nkind = \"interval\"\nevery = 0\n",
                "scoring.granularity",
            ),
            (
                good.to_owned() + "[scoring.transform]\ntemperature = nan\n",
                "scoring.transform",
            ),
        ];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(HEAD_FILE);
        for (text, expected) in cases {
            std::fs::write(&path, &text).unwrap();
            let told = HeadFile::read(&path)
                .err()
                .map_or(String::new(), |error| error.to_string());
            assert!(
                told.contains(expected),
                "{text:.200}: {told:?} lacks {expected:?}"
            );
        }
        std::fs::write(&path, good).unwrap();
        assert!(HeadFile::read(&path).is_ok());
    }
}
