//! Writes a `config.json` from which transformers builds the same model.

use serde_json::{Map, Value, json};

use super::pattern::LOCAL_THETA;
use super::{ModelConfig, RopeScaling, RopeSettings};
use crate::family::{Architecture, WindowRule};

impl ModelConfig {
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
        let mut file = json!({
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
            "tie_word_embeddings": self.tie_word_embeddings,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos,
            "dtype": dtype,
            "torch_dtype": dtype,
            "use_cache": true,
        });
        if let Value::Object(fields) = &mut file {
            self.write_pattern(fields);
        }
        file
    }

    /// The settings that only some families have.
    fn write_pattern(&self, fields: &mut Map<String, Value>) {
        let pattern = &self.pattern;
        let mut set = |key: &str, value: Value| fields.insert(key.to_owned(), value);
        match self.architecture.family().window {
            WindowRule::Never => {}
            WindowRule::ByFlag => {
                set("use_sliding_window", json!(pattern.window.is_some()));
                set("sliding_window", json!(pattern.window));
                set(
                    "max_window_layers",
                    json!(pattern.window.map_or(self.layers, |_| 0)),
                );
            }
            WindowRule::Always => {
                set("sliding_window", json!(pattern.window));
            }
            WindowRule::Local => self.write_local(fields),
        }
        if self.architecture == Architecture::SmolLm3 {
            let rotates = |layer| u8::from(!pattern.unrotated.contains(&layer));
            let rotates: Vec<u8> = (0..self.layers).map(rotates).collect();
            fields.insert("no_rope_layers".to_owned(), json!(rotates));
        }
    }

    fn write_local(&self, fields: &mut Map<String, Value>) {
        let pattern = &self.pattern;
        let kind = |layer| match pattern.local.contains(&layer) {
            true => "sliding_attention",
            false => "full_attention",
        };
        let kinds: Vec<&str> = (0..self.layers).map(kind).collect();
        let theta = pattern.local_theta.unwrap_or(LOCAL_THETA);
        let factor = pattern.query_factor.unwrap_or(1.0);
        let mut set = |key: &str, value: Value| fields.insert(key.to_owned(), value);
        set("layer_types", json!(kinds));
        set(
            "sliding_window",
            json!(pattern.window.unwrap_or(self.max_positions)),
        );
        set("rope_local_base_freq", json!(theta));
        set(
            "query_pre_attn_scalar",
            json!(self.head_dim as f64 / (factor * factor)),
        );
        set("hidden_activation", json!("gelu_pytorch_tanh"));
        set("attn_logit_softcapping", Value::Null);
        set("final_logit_softcapping", Value::Null);
        let global = rope_json(&self.rope, self.max_positions);
        let mut global = Value::Object(global);
        global["rope_theta"] = json!(self.rope.theta);
        let local = json!({ "rope_type": "default", "rope_theta": theta });
        let both = json!({ "full_attention": global, "sliding_attention": local });
        set("rope_parameters", both);
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
