//! Adapters of every kind that PEFT writes, against the log-probabilities that PEFT computes with
//! them. The references come from tools/golden/adapters.py.
#![allow(clippy::unwrap_used)] // tests stop where something is not as expected

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use assay_lm::adapter::AdapterCard;
use assay_lm::directory::WeightType;
use assay_lm::packed::{Group, PackedBatch};
use assay_lm::peft::{self, LoadedAdapter};
use assay_lm::transformer::Transformer;
use assay_lm::{ModelConfig, Placement, Weights};
use assay_ops::linear;
use candle_core::DType;
use serde_json::{Value, json};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/adapters")
        .join(name)
}

fn expected() -> Value {
    serde_json::from_slice(&fs::read(golden("expected.json")).unwrap()).unwrap()
}

fn base(name: &str) -> Arc<Transformer> {
    let dir = golden(name);
    let config = ModelConfig::read(&dir).unwrap();
    let weights = Weights::open(&dir).unwrap();
    Arc::new(Transformer::load(&config, &weights, &Placement::cpu()).unwrap())
}

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().unwrap().iter();
    ids.map(|id| id.as_u64().unwrap() as u32).collect()
}

fn logprobs(model: &Transformer, loaded: &LoadedAdapter) -> Vec<f32> {
    let expected = expected();
    let group = Group {
        prompt: ids(&expected["prompt"]),
        completions: vec![ids(&expected["completion"])],
    };
    let batch = PackedBatch::new(&[group]).unwrap();
    let hidden = model.hidden(&batch, Some(&loaded.adapter)).unwrap();
    let logits = linear(&hidden, model.output_matrix(), None, None).unwrap();
    let logits = logits.to_vec2::<f32>().unwrap();
    let (rows, targets) = batch.predictions();
    let one = |(&row, &target): (&u32, &u32)| {
        let logits = &logits[row as usize];
        let sum: f64 = logits.iter().map(|&z| f64::from(z).exp()).sum();
        (f64::from(logits[target as usize]) - sum.ln()) as f32
    };
    rows.iter().zip(targets.iter()).map(one).collect()
}

fn distance(found: &[f32], expected: &Value) -> f64 {
    let expected = expected["logprobs"].as_array().unwrap();
    assert_eq!(found.len(), expected.len());
    let gaps = found.iter().zip(expected);
    gaps.map(|(f, e)| (f64::from(*f) - e.as_f64().unwrap()).abs())
        .fold(0.0, f64::max)
}

/// Adapters that change the base model itself.
const CHANGING: [&str; 11] = [
    "dora",
    "dora_head",
    "lora_bias",
    "head",
    "head_tied",
    "embedding",
    "embedding_tied",
    "saved_embedding",
    "saved_both",
    "saved_norms",
    "saved_projection",
];

#[test]
fn every_kind_of_adapter_has_pefts_numbers() {
    let expected = expected();
    let mut wrong = Vec::new();
    for (name, case) in expected["cases"].as_object().unwrap() {
        let base = base(case["base"].as_str().unwrap());
        match peft::load_with_base(&golden(name), &base) {
            Ok((loaded, model)) => {
                let gap = distance(&logprobs(&model, &loaded), case);
                if gap > 2e-5 {
                    wrong.push(format!("{name}: {gap} from PEFT's log-probabilities"));
                }
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // A reader that ignores the adapter fails every case.
    let (loaded, _) = peft::load_with_base(&golden("plain"), &base("tied")).unwrap();
    for (name, case) in expected["cases"].as_object().unwrap() {
        let same = ["plain", "named_keys", "bare_keys"].contains(&name.as_str());
        let base = base(case["base"].as_str().unwrap());
        assert!(
            same || distance(&logprobs(&base, &loaded), case) > 1e-2,
            "{name}"
        );
    }
}

#[test]
fn what_changes_the_base_is_not_trained() {
    for (name, case) in expected()["cases"].as_object().unwrap() {
        let base = base(case["base"].as_str().unwrap());
        let loaded = peft::load(&golden(name), base.config());
        if CHANGING.contains(&name.as_str()) {
            let message = loaded.unwrap_err().to_string();
            assert!(message.contains("merge it in PEFT"), "{name}: {message}");
        } else {
            assert!(!loaded.unwrap().adapter.parameters().is_empty(), "{name}");
        }
    }
}

/// A directory with the adapter, written in this type.
fn saved(loaded: &LoadedAdapter, weights: WeightType) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let card = AdapterCard {
        base_model: "base".to_owned(),
        task_type: "CAUSAL_LM",
        modules_to_save: Vec::new(),
        trained_on: None,
        weights,
    };
    loaded.adapter.save(dir.path(), &card, &[]).unwrap();
    dir
}

#[test]
fn patterns_survive_saving() {
    for name in ["ranks", "rank_rslora", "layers", "exclude"] {
        let base = base("tied");
        let loaded = peft::load(&golden(name), base.config()).unwrap();
        let dir = saved(&loaded, WeightType::F32);
        let again = peft::load(dir.path(), base.config()).unwrap();
        let (before, after) = (logprobs(&base, &loaded), logprobs(&base, &again));
        assert_eq!(before, after, "{name}");
    }
}

#[test]
fn bf16_halves_an_adapter_and_rounds_it() {
    let base = base("tied");
    let loaded = peft::load(&golden("ranks"), base.config()).unwrap();
    let read = |weights| {
        let dir = saved(&loaded, weights);
        let size = fs::metadata(dir.path().join(peft::WEIGHTS_FILE)).unwrap();
        (peft::load(dir.path(), base.config()).unwrap(), size.len())
    };
    let ((whole, whole_size), (half, half_size)) = (read(WeightType::F32), read(WeightType::Bf16));
    assert!(half_size < whole_size * 3 / 4);
    for ((name, whole), (_, half)) in whole
        .adapter
        .parameters()
        .iter()
        .zip(half.adapter.parameters())
    {
        let rounded = whole
            .to_dtype(DType::BF16)
            .unwrap()
            .to_dtype(DType::F32)
            .unwrap();
        let difference = (rounded - half.as_tensor()).unwrap().abs().unwrap();
        let largest = difference.max_all().unwrap().to_scalar::<f32>().unwrap();
        assert_eq!(largest, 0.0, "{name}");
    }
}

/// A copy of a case with one change of its configuration.
fn changed(name: &str, change: Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in [peft::CONFIG_FILE, peft::WEIGHTS_FILE] {
        fs::copy(golden(name).join(file), dir.path().join(file)).unwrap();
    }
    let path = dir.path().join(peft::CONFIG_FILE);
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (key, value) in change.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(&path, config.to_string()).unwrap();
    dir
}

#[test]
fn contradictions_between_rules_and_tensors_are_named() {
    let cases = [
        (
            json!({"layers_to_transform": [1]}),
            "layers.0.self_attn.q_proj",
        ),
        (
            json!({"exclude_modules": ["v_proj"]}),
            "self_attn.v_proj.lora_A",
        ),
        (
            json!({"target_modules": ["q_proj", "v_proj", "up_proj"]}),
            "mlp.up_proj.lora_A",
        ),
        (json!({"rank_pattern": {"q_proj": 5}}), "[5, 16]"),
        (json!({"rank_pattern": {"q_(": 5}}), "q_("),
        (
            json!({"alpha_pattern": {"q_proj": "x"}, "rank_pattern": {"v_proj": 0}}),
            "rank_pattern",
        ),
        (json!({"use_dora": true}), "lora_magnitude_vector"),
        (json!({"layers_pattern": ["h"]}), "layers_pattern"),
        (json!({"target_modules": 3}), "adapter_config.json"),
    ];
    let base = base("tied");
    for (change, expected) in cases {
        let dir = changed("plain", change.clone());
        let error = peft::load_with_base(dir.path(), &base).err();
        let error = error.map_or_else(String::new, |error| error.to_string());
        assert!(error.contains(expected), "{change}: {error:?}");
    }
}

#[test]
fn files_that_are_no_adapter_weights_are_named() {
    let base = base("tied");
    let load = |dir: &Path| peft::load(dir, base.config()).unwrap_err().to_string();
    let dir = changed("plain", json!({}));
    let weights = dir.path().join(peft::WEIGHTS_FILE);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n";
    fs::write(&weights, pointer).unwrap();
    assert!(load(dir.path()).contains("git lfs pull"));
    fs::remove_file(&weights).unwrap();
    assert!(load(dir.path()).contains("adapter_model.safetensors"));
    fs::write(dir.path().join("adapter_model.bin"), "pickle").unwrap();
    assert!(load(dir.path()).contains("safe_serialization=True"));
}
