//! `config.json` and `generation_config.json`, in the spellings of transformers 4 and 5.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{ModelConfig, RopeScaling, RopeSettings, invalid};
use crate::LmError;
use crate::family::{Architecture, Family};
use crate::files::{MAX_TEXT_BYTES, read_bounded};

/// The configuration's file name.
pub(crate) const CONFIG_FILE: &str = "config.json";
const GENERATION_FILE: &str = "generation_config.json";

/// The settings that matter here; others are ignored as transformers ignores them.
#[derive(Deserialize)]
struct ConfigFile {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    #[serde(default = "default_eps")]
    rms_norm_eps: f64,
    max_position_embeddings: usize,
    rope_theta: Option<f64>,
    rope_scaling: Option<Map<String, Value>>,
    rope_parameters: Option<Map<String, Value>>,
    partial_rotary_factor: Option<f64>,
    hidden_act: Option<String>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    tie_word_embeddings: Option<bool>,
    use_sliding_window: Option<bool>,
    sliding_window: Option<usize>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    quantization_config: Option<Value>,
    bos_token_id: Option<TokenIds>,
    eos_token_id: Option<TokenIds>,
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

    /// The `config.json` that transformers (4.40 and newer) builds the same model from.
    ///
    /// `dtype` is the name of the exported weights' type, for example `"float32"`.
    pub fn to_hf_json(&self, dtype: &str) -> Value {
        let mut scaling = rope_json(&self.rope, self.max_positions);
        let rope_scaling = match scaling.get("rope_type").and_then(Value::as_str) {
            Some("default") => Value::Null,
            _ => Value::Object(scaling.clone()),
        };
        scaling.insert("rope_theta".to_owned(), json!(self.rope.theta));
        let eos = match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [id] => json!(id),
            ids => json!(ids),
        };
        json!({
            "architectures": [self.architecture.causal_lm_class()],
            "model_type": self.architecture.model_type(),
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "max_position_embeddings": self.max_positions,
            "rope_theta": self.rope.theta,
            "rope_scaling": rope_scaling,
            "rope_parameters": scaling,
            "attention_bias": false,
            "mlp_bias": false,
            "attention_dropout": 0.0,
            "use_sliding_window": false,
            "tie_word_embeddings": self.tie_word_embeddings,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos,
            "dtype": dtype,
            "torch_dtype": dtype,
            "use_cache": true,
        })
    }
}

impl ConfigFile {
    fn into_config(self, architecture: Architecture, path: &Path) -> Result<ModelConfig, LmError> {
        self.refuse_unsupported(architecture, path)?;
        if self.num_attention_heads == 0 {
            return invalid(path, "num_attention_heads", "must be at least 1");
        }
        let family = architecture.family();
        let head_dim = match self.head_dim.or(family.head_dim) {
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
        let rope = self.rope(path)?;
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
            max_positions: self.max_position_embeddings,
            qkv_bias: family.has_qkv_bias(),
            tie_word_embeddings: self.tie_word_embeddings.unwrap_or(false),
            bos_token_id: self
                .bos_token_id
                .and_then(|ids| ids.list().first().copied()),
            eos_token_ids: self.eos_token_id.map(TokenIds::list).unwrap_or_default(),
        })
    }

    fn refuse_unsupported(&self, architecture: Architecture, path: &Path) -> Result<(), LmError> {
        if let Some(act) = self
            .hidden_act
            .as_deref()
            .filter(|act| !matches!(*act, "silu" | "swish"))
        {
            return invalid(
                path,
                "hidden_act",
                format!("{act:?} is not supported, only \"silu\""),
            );
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
            return invalid(
                path,
                "mlp_bias",
                "biases on the feed-forward layer are not supported",
            );
        }
        if let Some(factor) = self.partial_rotary_factor.filter(|factor| *factor != 1.0) {
            return invalid(
                path,
                "partial_rotary_factor",
                format!("{factor} is not supported, only 1"),
            );
        }
        if let Some(settings) = &self.quantization_config {
            let method = settings
                .get("quant_method")
                .and_then(Value::as_str)
                .unwrap_or("unknown");
            let reason = format!(
                "weights quantised with {method} are not read; use f32, f16, bf16 or a .gguf file"
            );
            return invalid(path, "quantization_config", reason);
        }
        let windowed_layers = self
            .max_window_layers
            .is_none_or(|first| first < self.num_hidden_layers);
        let by_flag = self.use_sliding_window == Some(true)
            && self.sliding_window.is_some()
            && windowed_layers;
        let by_type = self
            .layer_types
            .iter()
            .flatten()
            .any(|kind| kind != "full_attention");
        if by_flag || by_type {
            return invalid(
                path,
                "sliding_window",
                "sliding-window attention is not supported",
            );
        }
        Ok(())
    }

    fn rope(&self, path: &Path) -> Result<RopeSettings, LmError> {
        let parameters = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let nested = self
            .rope_parameters
            .as_ref()
            .and_then(|map| map.get("rope_theta"))
            .and_then(Value::as_f64);
        let theta = nested.or(self.rope_theta).unwrap_or(10_000.0);
        let scaling = match parameters {
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

/// Frequency divisors that do not depend on length and leave attention unscaled: what [`rope_json`] writes.
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

fn rope_json(rope: &RopeSettings, max_positions: usize) -> Map<String, Value> {
    let value = match &rope.scaling {
        RopeScaling::None => json!({ "rope_type": "default" }),
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
        RopeScaling::Divisors { divisors } => json!({
            "rope_type": "longrope",
            "short_factor": divisors,
            "long_factor": divisors,
            "factor": 1.0,
            "attention_factor": 1.0,
            "original_max_position_embeddings": max_positions,
        }),
    };
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn default_eps() -> f64 {
    1e-6
}
