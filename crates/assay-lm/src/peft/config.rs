//! `adapter_config.json`: what is read of it, what is refused by name, what is written.
//!
//! PEFT's file has some forty fields. Those that change what an adapter computes are read or refused; those that only say
//! how it was trained or stored ([`HARMLESS`]) are passed over; a field that is in neither list is refused unless it
//! is empty or off, so that a kind of adapter that came later than this list is not misread as plain LoRA.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::CONFIG_FILE;
use crate::LmError;
use crate::adapter::{Adapter, AdapterCard, LoraSettings, Projection};
use crate::files::read_bounded;
use crate::hub::RepoName;

const MAX_BYTES: u64 = 1 << 20;

/// Fields without an effect on the outputs of a trained adapter.
const HARMLESS: [&str; 14] = [
    "auto_mapping",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "fan_in_fan_out",
    "inference_mode",
    "kasa_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "runtime_config",
    "loftq_config",
];

/// Starting points of A and B that leave the base model as it is; others subtract their start from it.
const PLAIN_STARTS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// The fields that are read.
#[derive(Deserialize)]
pub(super) struct ConfigFile {
    base_model_name_or_path: Option<String>,
    revision: Option<String>,
    pub(super) task_type: Option<String>,
    peft_type: Option<String>,
    r: usize,
    lora_alpha: f64,
    /// A list of modules, or a pattern.
    target_modules: Option<Value>,
    #[serde(default)]
    use_rslora: bool,
    bias: Option<String>,
    init_lora_weights: Option<Value>,
    modules_to_save: Option<Vec<String>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl ConfigFile {
    pub(super) fn read(dir: &Path) -> Result<Self, LmError> {
        let bytes = read_bounded(&dir.join(CONFIG_FILE), MAX_BYTES)?;
        let file: Self = match serde_json::from_slice(&bytes) {
            Ok(file) => file,
            Err(source) => return refuse(dir, &source.to_string()),
        };
        match file.fault() {
            Some(reason) => refuse(dir, &reason),
            None => Ok(file),
        }
    }

    /// The base model as it is named elsewhere: `name`, or `name@revision`.
    pub(super) fn base_model(&self) -> String {
        let name = self.base_model_name_or_path.clone().unwrap_or_default();
        match &self.revision {
            Some(revision) if !name.is_empty() => format!("{name}@{revision}"),
            _ => name,
        }
    }

    /// Rank, alpha and projections; `names` are the tensors of the adapter, which say what a pattern matched.
    ///
    /// rsLoRA is LoRA with the scale alpha / sqrt(r): the same as plain LoRA with alpha * sqrt(r).
    pub(super) fn settings(
        &self,
        dir: &Path,
        names: impl Iterator<Item = impl AsRef<str>>,
    ) -> Result<LoraSettings, LmError> {
        let mut targets = match &self.target_modules {
            Some(Value::Array(modules)) => listed(modules, dir)?,
            Some(Value::String(_)) | None => adapted(names),
            Some(_) => return refuse(dir, "target_modules is neither a list nor a pattern"),
        };
        targets.sort();
        targets.dedup();
        let rank = self.r as f64;
        Ok(LoraSettings {
            rank: self.r,
            alpha: match self.use_rslora {
                true => self.lora_alpha * rank.sqrt(),
                false => self.lora_alpha,
            },
            targets,
        })
    }

    /// Why this adapter is not plain LoRA on projections, if it is not.
    fn fault(&self) -> Option<String> {
        if let Some(kind) = self.peft_type.as_deref().filter(|kind| *kind != "LORA") {
            return Some(format!("peft_type {kind} is not read, only LORA"));
        }
        if self.r == 0 || !self.lora_alpha.is_finite() {
            return Some("r must be at least 1 and lora_alpha finite".to_owned());
        }
        if let Some(bias) = self.bias.as_deref().filter(|bias| *bias != "none") {
            return Some(format!(
                "bias {bias:?}: trained biases are not read; merge the adapter in PEFT and load the merged model"
            ));
        }
        if let Some(Value::String(start)) = &self.init_lora_weights
            && !PLAIN_STARTS.contains(&start.to_lowercase().as_str())
        {
            return Some(format!(
                "init_lora_weights {start:?} changes the base model: convert the adapter in PEFT with \
                 path_initial_model_for_weight_conversion"
            ));
        }
        let saved = self.modules_to_save.iter().flatten();
        if let Some(module) = saved
            .into_iter()
            .find(|module| !["score", "classifier"].contains(&module.as_str()))
        {
            return Some(format!(
                "modules_to_save {module:?}: only a score head is read; merge the adapter in PEFT and load the merged model"
            ));
        }
        let unread = self
            .rest
            .iter()
            .find(|(key, value)| !HARMLESS.contains(&key.as_str()) && is_on(value));
        unread.map(|(key, value)| {
            let shown: String = value.to_string().chars().take(80).collect();
            format!(
                "{key} = {shown} is not read: only plain LoRA and rsLoRA of one rank and alpha are"
            )
        })
    }
}

/// Whether a field asks for something.
fn is_on(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    }
}

/// The projections that a list of module names or paths means.
fn listed(modules: &[Value], dir: &Path) -> Result<Vec<Projection>, LmError> {
    let mut targets = Vec::new();
    for module in modules {
        let Some(module) = module.as_str() else {
            return refuse(dir, &format!("target module {module} is no text"));
        };
        let last = module.rsplit('.').next().unwrap_or(module);
        match last {
            "score" | "classifier" => {}
            _ => match projection(last) {
                Some(projection) => targets.push(projection),
                None => {
                    let reason =
                        format!("target module {module:?} is none of the seven projections");
                    return refuse(dir, &reason);
                }
            },
        }
    }
    Ok(targets)
}

fn refuse<T>(dir: &Path, reason: &str) -> Result<T, LmError> {
    Err(LmError::InvalidAdapter {
        reason: format!("{}: {reason}", dir.join(CONFIG_FILE).display()),
    })
}

/// The projections that have tensors.
fn adapted(names: impl Iterator<Item = impl AsRef<str>>) -> Vec<Projection> {
    names
        .filter_map(|name| {
            let (module, _) = name.as_ref().split_once(".lora_A.")?;
            projection(module.rsplit('.').next()?)
        })
        .collect()
}

fn projection(name: &str) -> Option<Projection> {
    let ends = |p: &Projection| p.module().rsplit('.').next() == Some(name);
    Projection::ALL.into_iter().find(ends)
}

/// The file of an adapter: the fields that every PEFT since 0.11 reads.
pub(super) fn json_of(adapter: &Adapter, card: &AdapterCard) -> Value {
    let name = RepoName::parse(&card.base_model).filter(|_| !Path::new(&card.base_model).exists());
    let revision = name.as_ref().and_then(|name| name.revision());
    let base = match revision {
        Some(revision) => card
            .base_model
            .trim_end_matches(revision)
            .trim_end_matches('@'),
        None => card.base_model.as_str(),
    };
    let modules_to_save = Some(&card.modules_to_save).filter(|modules| !modules.is_empty());
    json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layer_replication": null,
        "layers_pattern": null,
        "layers_to_transform": null,
        "loftq_config": {},
        "lora_alpha": whole_number(adapter.settings.alpha),
        "lora_dropout": 0.0,
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": modules_to_save,
        "peft_type": "LORA",
        "r": adapter.settings.rank,
        "rank_pattern": {},
        "revision": revision,
        "target_modules": adapter.settings.targets,
        "task_type": card.task_type,
        "use_dora": false,
        "use_rslora": false,
    })
}

/// PEFT writes whole alphas as integers.
fn whole_number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        json!(value as i64)
    } else {
        json!(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelConfig;

    fn file(change: Value) -> ConfigFile {
        let mut fields =
            json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]});
        for (key, value) in change.as_object().unwrap() {
            fields[key] = value.clone();
        }
        serde_json::from_value(fields).unwrap()
    }

    fn settings(change: Value, names: &[&str]) -> LoraSettings {
        let file = file(change);
        assert_eq!(file.fault(), None);
        file.settings(Path::new("a"), names.iter()).unwrap()
    }

    /// What PEFT 0.21 writes beside the fields that matter, as it writes it.
    #[test]
    fn fields_of_training_and_storage_are_passed_over() {
        let change = json!({
            "alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null, "auto_mapping": null,
            "bias": "none", "corda_config": null, "ensure_weight_tying": false, "eva_config": null,
            "exclude_modules": null, "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true,
            "kasa_config": null, "layer_replication": null, "layers_pattern": null, "layers_to_transform": null,
            "loftq_config": {}, "lora_bias": false, "lora_dropout": 0.1, "lora_ga_config": null,
            "megatron_config": null, "megatron_core": "megatron.core", "modules_to_save": ["classifier", "score"],
            "monteclora_config": null, "peft_version": "0.21.2", "qalora_group_size": 16, "rank_pattern": {},
            "revision": null, "target_parameters": null, "trainable_token_indices": null, "use_bdlora": null,
            "use_dora": false, "use_qalora": false, "use_rslora": false, "velora_config": null,
            "target_modules": ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "down_proj", "score"]
        });
        let settings = settings(change, &[]);
        assert_eq!(settings.targets, [Projection::Query, Projection::Down]);
        assert_eq!((settings.rank, settings.alpha), (4, 8.0));
    }

    /// alpha 8, r 4: rsLoRA's scale is 8 / 2 = 4, plain LoRA's 2.
    #[test]
    fn rank_stabilised_adapters_keep_their_scale() {
        assert_eq!(settings(json!({"use_rslora": true}), &[]).scale(), 4.0);
        assert_eq!(settings(json!({}), &[]).scale(), 2.0);
    }

    #[test]
    fn a_pattern_means_what_has_tensors() {
        let names = [
            "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight",
            "base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight",
            "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight",
        ];
        let targets = settings(json!({"target_modules": ".*(v|up)_proj"}), &names).targets;
        assert_eq!(targets, [Projection::Value, Projection::Up]);
    }

    #[test]
    fn what_is_no_plain_lora_is_refused_by_name() {
        let refused = [
            (json!({"use_dora": true}), "use_dora = true"),
            (json!({"peft_type": "LOHA"}), "peft_type LOHA"),
            (json!({"bias": "lora_only"}), "bias \"lora_only\""),
            (json!({"rank_pattern": {"q_proj": 8}}), "rank_pattern"),
            (json!({"alpha_pattern": {"q_proj": 8}}), "alpha_pattern"),
            (json!({"layers_to_transform": [0]}), "layers_to_transform"),
            (json!({"lora_bias": true}), "lora_bias"),
            (
                json!({"trainable_token_indices": [1]}),
                "trainable_token_indices",
            ),
            (
                json!({"modules_to_save": ["embed_tokens"]}),
                "modules_to_save \"embed_tokens\"",
            ),
            (
                json!({"init_lora_weights": "pissa"}),
                "init_lora_weights \"pissa\"",
            ),
            (json!({"some_later_idea": {"x": 1}}), "some_later_idea"),
            (json!({"r": 0}), "r must be at least 1"),
        ];
        for (change, expected) in refused {
            let fault = file(change).fault().unwrap_or_default();
            assert!(fault.contains(expected), "{fault:?} lacks {expected:?}");
        }
        let unknown = file(json!({"target_modules": ["lm_head"]}));
        let error = unknown
            .settings(Path::new("a"), [""; 0].iter())
            .unwrap_err();
        assert!(error.to_string().contains("\"lm_head\""), "{error}");
    }

    #[test]
    fn a_hub_revision_is_a_field_of_its_own() {
        let read = file(json!({"base_model_name_or_path": "org/name", "revision": "v1"}));
        assert_eq!(read.base_model(), "org/name@v1");
        let config = ModelConfig {
            architecture: crate::Architecture::Llama,
            vocab_size: 8,
            hidden_size: 4,
            intermediate_size: 4,
            layers: 1,
            heads: 1,
            kv_heads: 1,
            head_dim: 4,
            rms_norm_eps: 1e-5,
            rope: crate::RopeSettings {
                theta: 10_000.0,
                scaling: crate::RopeScaling::None,
            },
            max_positions: 8,
            qkv_bias: false,
            tie_word_embeddings: true,
            bos_token_id: None,
            eos_token_ids: vec![2],
        };
        let adapter = Adapter::new(&config, &LoraSettings::with_rank(2), 1).unwrap();
        let card = AdapterCard {
            base_model: "org/name@v1".to_owned(),
            task_type: "CAUSAL_LM",
            modules_to_save: Vec::new(),
            trained_on: None,
        };
        let json = json_of(&adapter, &card);
        assert_eq!(json["base_model_name_or_path"], "org/name");
        assert_eq!(json["revision"], "v1");
        assert_eq!((&json["r"], &json["lora_alpha"]), (&json!(2), &json!(4)));
    }
}
