//! `config.json` and `generation_config.json`, in the spellings of transformers 4 and 5.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{ModelConfig, RopeScaling, RopeSettings, invalid};
use crate::LmError;
use crate::family::{Activation, Architecture, Family};
use crate::files::{MAX_TEXT_BYTES, read_bounded};
use crate::weights::Packing;

/// The configuration's file name.
pub(crate) const CONFIG_FILE: &str = "config.json";
const GENERATION_FILE: &str = "generation_config.json";

/// The settings that are used; others are ignored, as in transformers.
#[derive(Deserialize)]
pub(super) struct ConfigFile {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    pub(super) num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    #[serde(default = "default_eps")]
    rms_norm_eps: f64,
    pub(super) max_position_embeddings: usize,
    rope_theta: Option<f64>,
    rope_scaling: Option<Map<String, Value>>,
    pub(super) rope_parameters: Option<Map<String, Value>>,
    pub(super) rope_local_base_freq: Option<f64>,
    partial_rotary_factor: Option<f64>,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    tie_word_embeddings: Option<bool>,
    pub(super) use_sliding_window: Option<bool>,
    #[serde(default)]
    pub(super) sliding_window: Window,
    #[serde(alias = "_sliding_window_pattern")]
    pub(super) sliding_window_pattern: Option<usize>,
    pub(super) max_window_layers: Option<usize>,
    pub(super) layer_types: Option<Vec<String>>,
    pub(super) no_rope_layers: Option<Vec<u8>>,
    pub(super) no_rope_layer_interval: Option<usize>,
    pub(super) query_pre_attn_scalar: Option<f64>,
    attn_logit_softcapping: Option<f64>,
    final_logit_softcapping: Option<f64>,
    use_bidirectional_attention: Option<bool>,
    quantization_config: Option<Value>,
    bos_token_id: Option<TokenIds>,
    eos_token_id: Option<TokenIds>,
}

/// `sliding_window`: `null` switches a window off that a family has by default.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(from = "Option<usize>")]
pub(super) enum Window {
    #[default]
    Unnamed,
    Off,
    Width(usize),
}

impl From<Option<usize>> for Window {
    fn from(width: Option<usize>) -> Self {
        width.map_or(Self::Off, Self::Width)
    }
}

impl Window {
    pub(super) fn width(self) -> Option<usize> {
        match self {
            Self::Width(width) => Some(width),
            Self::Unnamed | Self::Off => None,
        }
    }
}

#[derive(Deserialize)]
struct GenerationFile {
    eos_token_id: Option<TokenIds>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenIds {
    One(u32),
    Many(Vec<u32>),
}

impl TokenIds {
    fn list(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

impl ModelConfig {
    /// Reads `config.json` (and `generation_config.json` where present) of a directory.
    pub(crate) fn from_directory(dir: &Path) -> Result<Self, LmError> {
        let path = dir.join(CONFIG_FILE);
        let generation = dir.join(GENERATION_FILE);
        let raw: Value = read_json(&path, "model configuration")?;
        let architecture = architecture_of(&raw, &path)?;
        let file: ConfigFile = serde_json::from_value(raw).map_err(|source| LmError::Json {
            path: path.clone(),
            what: "model configuration",
            source,
        })?;
        let mut config = file.into_config(architecture, &path)?;
        if generation.is_file() {
            let file: GenerationFile = read_json(&generation, "generation configuration")?;
            if let Some(ids) = file.eos_token_id {
                config.eos_token_ids = ids.list();
            }
        }
        config.validate(&path)?;
        Ok(config)
    }
}

impl ConfigFile {
    fn into_config(
        mut self,
        architecture: Architecture,
        path: &Path,
    ) -> Result<ModelConfig, LmError> {
        if let (Window::Unnamed, Some(width)) = (
            self.sliding_window,
            architecture.family().defaults.sliding_window,
        ) {
            self.sliding_window = Window::Width(width);
        }
        self.refuse_unsupported(architecture, path)?;
        if self.num_attention_heads == 0 {
            return invalid(path, "num_attention_heads", "must be at least 1");
        }
        let family = architecture.family();
        let head_dim = match self.head_dim.or(family.defaults.head_dim) {
            Some(width) => width,
            None if self.hidden_size.is_multiple_of(self.num_attention_heads) => {
                self.hidden_size / self.num_attention_heads
            }
            None => {
                let reason = format!(
                    "{} heads do not divide hidden_size = {}",
                    self.num_attention_heads, self.hidden_size
                );
                return invalid(path, "num_attention_heads", reason);
            }
        };
        let rope = self.rope(family.defaults.rope_theta, path)?;
        let (pattern, max_positions) = self.pattern(architecture, head_dim, path)?;
        Ok(ModelConfig {
            architecture,
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim,
            rms_norm_eps: self.rms_norm_eps,
            rope,
            max_positions,
            pattern,
            qkv_bias: family.has_qkv_bias(),
            tie_word_embeddings: self.tie_word_embeddings.unwrap_or(family.defaults.is_tied),
            bos_token_id: self
                .bos_token_id
                .and_then(|ids| ids.list().first().copied()),
            eos_token_ids: self.eos_token_id.map(TokenIds::list).unwrap_or_default(),
        })
    }

    fn refuse_unsupported(&self, architecture: Architecture, path: &Path) -> Result<(), LmError> {
        let activation = self.hidden_activation.as_ref().or(self.hidden_act.as_ref());
        let known: &[&str] = match architecture.family().activation {
            Activation::Silu => &["silu", "swish"],
            Activation::GeluTanh => &["gelu_pytorch_tanh"],
        };
        if let Some(act) = activation.filter(|act| !known.contains(&act.as_str())) {
            let reason = format!("{act:?} is not supported, only {:?}", known[0]);
            return invalid(path, "hidden_act", reason);
        }
        if self
            .attn_logit_softcapping
            .or(self.final_logit_softcapping)
            .is_some()
        {
            let reason = "soft caps on logits are not supported";
            return invalid(
                path,
                "attn_logit_softcapping, final_logit_softcapping",
                reason,
            );
        }
        if self.use_bidirectional_attention == Some(true) {
            let reason = "attention to later tokens is not supported";
            return invalid(path, "use_bidirectional_attention", reason);
        }
        let family = architecture.family();
        if !family.has_qkv_bias() && self.attention_bias == Some(true) {
            let reason = format!(
                "biases on the attention of {} are not supported",
                family.causal_lm_class
            );
            return invalid(path, "attention_bias", reason);
        }
        if self.mlp_bias == Some(true) {
            let reason = "biases on the feed-forward layer are not supported";
            return invalid(path, "mlp_bias", reason);
        }
        if let Some(settings) = &self.quantization_config
            && let Err(reason) = Packing::parse(settings)
        {
            return invalid(path, "quantization_config", reason);
        }
        Ok(())
    }

    /// The rotary embedding; in families with local layers that of the global ones.
    fn rope(&self, default_theta: f64, path: &Path) -> Result<RopeSettings, LmError> {
        let nested = self.rope_parameters.as_ref().map(|map| {
            let global = map.get("full_attention").and_then(Value::as_object);
            global.unwrap_or(map)
        });
        let rotated = nested.and_then(|map| map.get("partial_rotary_factor")?.as_f64());
        let rotated = self.partial_rotary_factor.or(rotated).unwrap_or(1.0);
        if rotated != 1.0 {
            let reason = format!("{rotated} is not supported, only 1");
            return invalid(path, "partial_rotary_factor", reason);
        }
        let theta = nested.and_then(|map| map.get("rope_theta")?.as_f64());
        let theta = theta.or(self.rope_theta).unwrap_or(default_theta);
        let scaling = match nested.or(self.rope_scaling.as_ref()) {
            Some(map) => rope_scaling(map, path)?,
            None => RopeScaling::None,
        };
        Ok(RopeSettings { theta, scaling })
    }
}

/// Reads a JSON file of bounded size.
pub(crate) fn read_json<T: DeserializeOwned>(
    path: &Path,
    what: &'static str,
) -> Result<T, LmError> {
    let bytes = read_bounded(path, MAX_TEXT_BYTES)?;
    serde_json::from_slice(&bytes).map_err(|source| LmError::Json {
        path: path.to_owned(),
        what,
        source,
    })
}

fn architecture_of(raw: &Value, path: &Path) -> Result<Architecture, LmError> {
    let class = raw
        .get("architectures")
        .and_then(|list| list.get(0))
        .and_then(Value::as_str);
    let kind = raw.get("model_type").and_then(Value::as_str);
    let name = kind.or(class).unwrap_or("");
    match Family::of_hugging_face(name) {
        Some(family) => Ok(family.architecture),
        None => Err(LmError::UnsupportedArchitecture {
            path: path.to_owned(),
            name: class.unwrap_or(name).to_owned(),
            supported: Family::supported(),
        }),
    }
}

fn rope_scaling(map: &Map<String, Value>, path: &Path) -> Result<RopeScaling, LmError> {
    let kind = map
        .get("rope_type")
        .or_else(|| map.get("type"))
        .and_then(Value::as_str)
        .unwrap_or("default");
    let number = |key: &str| match map.get(key).and_then(Value::as_f64) {
        Some(value) => Ok(value),
        None => invalid(
            path,
            "rope_scaling",
            format!("{key} is missing or no number for type {kind:?}"),
        ),
    };
    match kind {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear {
            factor: number("factor")?,
        }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: number("factor")?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_max_position_embeddings: number("original_max_position_embeddings")? as usize,
        }),
        "longrope" => divisors(map, path),
        other => {
            let reason =
                format!("type {other:?} is not supported; supported are default, linear, llama3");
            invalid(path, "rope_scaling", reason)
        }
    }
}

/// Frequency divisors that do not depend on length and do not scale attention, as in exported
/// models.
fn divisors(map: &Map<String, Value>, path: &Path) -> Result<RopeScaling, LmError> {
    let list = |key: &str| -> Option<Vec<f32>> {
        map.get(key)?
            .as_array()?
            .iter()
            .map(|v| v.as_f64().map(|v| v as f32))
            .collect()
    };
    let unscaled = map.get("attention_factor").and_then(Value::as_f64) == Some(1.0);
    match (list("short_factor"), list("long_factor")) {
        (Some(short), Some(long)) if short == long && unscaled => {
            Ok(RopeScaling::Divisors { divisors: long })
        }
        _ => invalid(
            path,
            "rope_scaling",
            "longrope is supported only with equal factors and attention_factor 1",
        ),
    }
}

fn default_eps() -> f64 {
    1e-6
}
