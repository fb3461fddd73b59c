//! Reads and writes `adapter_config.json`.
//!
//! PEFT's file has some forty fields. Fields that change the computation of an adapter are read, or
//! are an error if unsupported. Fields that only describe how it was trained or stored
//! ([`HARMLESS`]) are ignored. An unknown field is an error unless it is empty or off, so that a
//! newer kind of adapter is not misread as plain LoRA.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::CONFIG_FILE;
use super::rules::{Modules, Rules};
use crate::LmError;
use crate::adapter::{Adapter, AdapterCard, LoraSettings, Projection};
use crate::files::read_bounded;
use crate::hub::RepoName;

const MAX_BYTES: u64 = 1 << 20;

/// Fields without an effect on the outputs of a trained adapter.
const HARMLESS: [&str; 14] = [
    "auto_mapping",
    "corda_config",
    "eva_config",
    "fan_in_fan_out",
    "inference_mode",
    "kasa_config",
    // The biases are tensors of the file.
    "lora_bias",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "runtime_config",
    "loftq_config",
];

/// Initialisations of A and B that do not change the base model. Others subtract their initial
/// product from it.
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
    target_modules: Option<Modules>,
    exclude_modules: Option<Modules>,
    layers_to_transform: Option<Layers>,
    layers_pattern: Option<Modules>,
    rank_pattern: Option<Map<String, Value>>,
    alpha_pattern: Option<Map<String, Value>>,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    pub(super) use_dora: bool,
    #[serde(default)]
    pub(super) ensure_weight_tying: bool,
    bias: Option<String>,
    init_lora_weights: Option<Value>,
    modules_to_save: Option<Vec<String>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// One layer or several.
#[derive(Clone, Deserialize)]
#[serde(untagged, expecting = "the number of a layer or a list of them")]
enum Layers {
    One(usize),
    Several(Vec<usize>),
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

    /// The base model's name in assay: `name`, or `name@revision`.
    pub(super) fn base_model(&self) -> String {
        let name = self.base_model_name_or_path.clone().unwrap_or_default();
        match &self.revision {
            Some(revision) if !name.is_empty() => format!("{name}@{revision}"),
            _ => name,
        }
    }

    /// Which modules have a pair, and each pair's rank and scale.
    ///
    /// # Errors
    /// A pattern that is not a regular expression.
    pub(super) fn rules(&self, dir: &Path) -> Result<Rules, LmError> {
        let layers = self.layers_to_transform.clone().map(|layers| match layers {
            Layers::One(layer) => vec![layer],
            Layers::Several(layers) => layers,
        });
        let rules = Rules {
            rank: self.r,
            alpha: self.lora_alpha,
            is_rank_stabilised: self.use_rslora,
            targets: self.target_modules.clone(),
            excluded: self.exclude_modules.clone(),
            layers: layers.filter(|layers| !layers.is_empty()),
            ranks: numbers(&self.rank_pattern, |value| value.as_u64().unwrap_or(0)),
            alphas: numbers(&self.alpha_pattern, |value| {
                value.as_f64().unwrap_or(f64::NAN)
            }),
        };
        match rules.fault() {
            Some(reason) => refuse(dir, &reason),
            None => Ok(rules),
        }
    }

    /// Rank and alpha of the pairs that no pattern changes, on these projections.
    ///
    /// rsLoRA is LoRA with the scale alpha / sqrt(r): the same as plain LoRA with alpha * sqrt(r).
    pub(super) fn settings(&self, targets: Vec<Projection>) -> LoraSettings {
        LoraSettings {
            rank: self.r,
            alpha: match self.use_rslora {
                true => self.lora_alpha * (self.r as f64).sqrt(),
                false => self.lora_alpha,
            },
            targets,
        }
    }

    /// Whether a module was trained whole. Like PEFT, it compares the end of the module's path.
    pub(super) fn saves(&self, module: &str) -> bool {
        let mut saved = self.modules_to_save.iter().flatten();
        saved.any(|name| module.ends_with(name))
    }

    /// The modules that were trained whole, except for a classifier's head.
    pub(super) fn saved(&self) -> impl Iterator<Item = &String> {
        let saved = self.modules_to_save.iter().flatten();
        saved.filter(|name| !["score", "classifier"].contains(&name.as_str()))
    }

    /// The reason why this adapter is not plain LoRA on projections; `None` if it is.
    fn fault(&self) -> Option<String> {
        if let Some(kind) = self.peft_type.as_deref().filter(|kind| *kind != "LORA") {
            return Some(format!("peft_type {kind} is not read, only LORA"));
        }
        if self.r == 0 || !self.lora_alpha.is_finite() {
            return Some("r must be at least 1 and lora_alpha finite".to_owned());
        }
        if matches!(&self.target_modules, Some(Modules::List(names)) if names.is_empty()) {
            return Some("target_modules: at least one projection must be named".to_owned());
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
        if let Some(pattern) = &self.layers_pattern
            && !pattern.is_empty()
            && !pattern.names("layers")
        {
            return Some(format!(
                "layers_pattern {pattern} is not read, only \"layers\""
            ));
        }
        let unread = self
            .rest
            .iter()
            .find(|(key, value)| !HARMLESS.contains(&key.as_str()) && is_on(value));
        unread.map(|(key, value)| {
            let shown: String = value.to_string().chars().take(80).collect();
            format!(
                "{key} = {shown} is not read; merge the adapter in PEFT and load the merged model"
            )
        })
    }
}

/// The entries of a pattern field in order. The first that matches a module applies.
fn numbers<T>(
    field: &Option<Map<String, Value>>,
    number: impl Fn(&Value) -> T,
) -> Vec<(String, T)> {
    let entries = field.iter().flatten();
    entries
        .map(|(pattern, value)| (pattern.clone(), number(value)))
        .collect()
}

/// Whether a field is neither empty nor off.
fn is_on(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    }
}

fn refuse<T>(dir: &Path, reason: &str) -> Result<T, LmError> {
    Err(LmError::InvalidAdapter {
        reason: format!("{}: {reason}", dir.join(CONFIG_FILE).display()),
    })
}

/// The JSON of an adapter, with the fields that PEFT since 0.11 reads.
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
    let (targets, ranks, alphas) = patterns(adapter);
    let modules_to_save = Some(&card.modules_to_save).filter(|modules| !modules.is_empty());
    json!({
        "alpha_pattern": alphas,
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
        "rank_pattern": ranks,
        "revision": revision,
        "target_modules": targets,
        "task_type": card.task_type,
        "use_dora": false,
        "use_rslora": false,
    })
}

/// `target_modules`, `rank_pattern` and `alpha_pattern`: names of projections if every layer has
/// the same pairs, else one path per pair.
fn patterns(adapter: &Adapter) -> (Value, Map<String, Value>, Map<String, Value>) {
    let settings = &adapter.settings;
    let (mut ranks, mut alphas) = (Map::new(), Map::new());
    let mut paths = Vec::new();
    for pair in adapter.pairs() {
        let module = pair.module();
        let alpha = pair.scale * pair.rank as f64;
        if pair.rank != settings.rank {
            ranks.insert(module.clone(), json!(pair.rank));
        }
        if (alpha - settings.alpha).abs() > 1e-9 * settings.alpha.abs() {
            alphas.insert(module.clone(), whole_number(alpha));
        }
        paths.push(module);
    }
    let is_everywhere = paths.len() == adapter.layers() * settings.targets.len();
    let targets = match is_everywhere {
        true => json!(settings.targets),
        false => json!(paths),
    };
    (targets, ranks, alphas)
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

    fn rules(change: Value) -> Rules {
        let file = file(change);
        assert_eq!(file.fault(), None);
        file.rules(Path::new("a")).unwrap()
    }

    /// The other fields as PEFT 0.21 writes them.
    #[test]
    fn fields_of_training_and_storage_are_ignored() {
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
        let rules = rules(change);
        assert_eq!(rules.expects("model.layers.1.self_attn.q_proj"), Some(true));
        assert_eq!(rules.expects("model.layers.1.mlp.down_proj"), Some(true));
        assert_eq!(rules.expects("model.layers.1.mlp.up_proj"), Some(false));
        assert_eq!((rules.rank, rules.alpha), (4, 8.0));
    }

    /// alpha 8, r 4: rsLoRA's scale is 8 / 2 = 4, plain LoRA's 2.
    #[test]
    fn rank_stabilised_adapters_keep_their_scale() {
        let scale = |change| file(change).settings(vec![Projection::Query]).scale();
        assert_eq!(scale(json!({"use_rslora": true})), 4.0);
        assert_eq!(scale(json!({})), 2.0);
    }

    #[test]
    fn adapters_beyond_lora_are_refused_by_name() {
        let refused = [
            (json!({"peft_type": "LOHA"}), "peft_type LOHA"),
            (json!({"bias": "lora_only"}), "bias \"lora_only\""),
            (
                json!({"layers_pattern": "blocks"}),
                "layers_pattern \"blocks\"",
            ),
            (
                json!({"trainable_token_indices": [1]}),
                "trainable_token_indices",
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
    }

    #[test]
    fn a_hub_revision_has_its_own_field() {
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
            pattern: crate::LayerPattern::default(),
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
            weights: crate::directory::WeightType::F32,
        };
        let json = json_of(&adapter, &card);
        assert_eq!(json["base_model_name_or_path"], "org/name");
        assert_eq!(json["revision"], "v1");
        assert_eq!((&json["r"], &json["lora_alpha"]), (&json!(2), &json!(4)));
    }
}
