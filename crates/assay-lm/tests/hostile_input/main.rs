//! Malformed, truncated and contradictory model files: the message names the file and the cause,
//! and nothing panics.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use assay_lm::{LmError, ModelConfig, ModelSource};
use serde_json::{Value, json};
use tempfile::TempDir;

mod gguf_files;
mod safetensors_files;
mod tables;
mod templates;
mod texts;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// The message of an error with its causes.
fn message<T>(result: Result<T, LmError>) -> String {
    let Err(error) = result else {
        return "no error".to_owned();
    };
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

#[track_caller]
fn names<T>(result: Result<T, LmError>, parts: &[&str]) {
    let text = message(result);
    for part in parts {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
}

/// Counts malformed cases for the table in docs/reliability.md.
#[allow(clippy::print_stdout)] // tools/reliability reads it
fn tried(cases: usize) {
    println!("\nMALFORMED {cases}");
}

fn config_json() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 16, "hidden_size": 8,
        "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 64, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": true, "eos_token_id": 2
    })
}

fn directory(config: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

#[test]
fn paths_that_are_no_model() {
    names(
        ModelSource::open(Path::new("no/such/model")),
        &["no/such/model", "no such file or directory"],
    );
    let dir = tempfile::tempdir().unwrap();
    names(
        ModelSource::open(dir.path()),
        &["neither config.json nor a .gguf"],
    );
    let file = dir.path().join("model.bin");
    fs::write(&file, "x").unwrap();
    names(ModelSource::open(&file), &["model.bin", ".gguf"]);
    for name in ["a.gguf", "b.gguf"] {
        fs::copy(golden("blocks.gguf"), dir.path().join(name)).unwrap();
    }
    names(ModelSource::open(dir.path()), &["several .gguf files"]);
    fs::remove_file(dir.path().join("b.gguf")).unwrap();
    assert!(
        ModelSource::open(dir.path())
            .unwrap()
            .path()
            .ends_with("a.gguf")
    );
}

#[test]
fn configurations_that_are_refused() {
    let cases = [
        (
            json!({"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}),
            "MixtralForCausalLM",
        ),
        (json!({"model_type": "gpt2"}), "supported are llama"),
        (json!({"num_attention_heads": 0}), "num_attention_heads"),
        (
            json!({"num_attention_heads": 3}),
            "3 heads do not divide hidden_size = 8",
        ),
        (json!({"num_key_value_heads": 0}), "num_key_value_heads"),
        (json!({"num_key_value_heads": 3}), "3 does not divide"),
        (json!({"head_dim": 5}), "head_dim: must be even"),
        (
            json!({"num_hidden_layers": 4_000_000_000_u64}),
            "num_hidden_layers",
        ),
        (json!({"vocab_size": u64::MAX}), "vocab_size"),
        (json!({"vocab_size": -4}), "model configuration"),
        (json!({"hidden_size": "big"}), "model configuration"),
        (json!({"hidden_act": "gelu"}), "hidden_act"),
        (json!({"attention_bias": true}), "attention_bias"),
        (json!({"mlp_bias": true}), "mlp_bias"),
        (
            json!({"partial_rotary_factor": 0.5}),
            "partial_rotary_factor",
        ),
        (
            json!({"quantization_config": {"quant_method": "fp8"}}),
            "quantised with fp8",
        ),
        (
            json!({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": true}}),
            "quantised with bitsandbytes in 8 bits",
        ),
        (
            json!({"quantization_config": {"quant_method": "awq", "version": "gemv"}}),
            "quantised with awq in the layout gemv",
        ),
        (
            json!({"layer_types": ["sliding_attention"]}),
            "sliding_window: layers have a sliding window, but its width is missing",
        ),
        (
            json!({"layer_types": ["linear_attention"]}),
            "layer_types: \"linear_attention\" is not supported",
        ),
        (
            json!({"model_type": "mistral", "sliding_window": 0}),
            "sliding_window: must be at least 1",
        ),
        (
            json!({"model_type": "gemma3_text", "hidden_act": "gelu_pytorch_tanh", "final_logit_softcapping": 30.0}),
            "soft caps on logits are not supported",
        ),
        (
            json!({"model_type": "smollm3", "no_rope_layers": [1, 0]}),
            "layer 1 of 1",
        ),
        (
            json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.75}}),
            "partial_rotary_factor: 0.75",
        ),
        (
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
            "\"yarn\" is not supported",
        ),
        (
            json!({"rope_scaling": {"type": "linear"}}),
            "factor is missing",
        ),
        (
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}),
            "low_freq_factor",
        ),
        (json!({"rope_theta": -1.0}), "rope_theta"),
        (json!({"rms_norm_eps": 0.0}), "rms_norm_eps"),
        (
            json!({"eos_token_id": [2, 99]}),
            "99 is outside the vocabulary",
        ),
    ];
    tried(cases.len());
    for (change, expected) in cases {
        let mut config = config_json();
        for (key, value) in change.as_object().unwrap() {
            config[key] = value.clone();
        }
        let dir = directory(&config);
        names(ModelConfig::read(dir.path()), &["config.json", expected]);
    }
    let dir = directory(&config_json());
    assert_eq!(ModelConfig::read(dir.path()).unwrap().eos_token_ids, [2]);
    fs::write(
        dir.path().join("generation_config.json"),
        r#"{"eos_token_id": [2, 5]}"#,
    )
    .unwrap();
    assert_eq!(ModelConfig::read(dir.path()).unwrap().eos_token_ids, [2, 5]);
    fs::write(dir.path().join("generation_config.json"), "{").unwrap();
    names(
        ModelConfig::read(dir.path()),
        &["generation_config.json", "generation configuration"],
    );
    fs::write(dir.path().join("config.json"), "{\"vocab_size\": 16").unwrap();
    names(ModelConfig::read(dir.path()), &["config.json", "EOF"]);
}

/// No sequence may be longer than the smallest window, so full attention gives the same result.
#[test]
fn a_sliding_window_bounds_the_positions() {
    let read = |change: Value| {
        let mut config = config_json();
        for (key, value) in change.as_object().unwrap() {
            config[key] = value.clone();
        }
        ModelConfig::read(directory(&config).path()).unwrap()
    };
    let by_flag = json!({"model_type": "qwen2", "use_sliding_window": true, "sliding_window": 32,
        "max_window_layers": 0});
    let cases = [
        (by_flag, 32),
        (json!({"model_type": "mistral", "sliding_window": 48}), 48),
        (json!({"model_type": "mistral", "sliding_window": null}), 64),
        (
            json!({"model_type": "mistral", "max_position_embeddings": 32768}),
            4096,
        ),
        (json!({"model_type": "phi3", "sliding_window": 2047}), 64),
    ];
    for (change, expected) in cases {
        assert_eq!(read(change.clone()).max_positions, expected, "{change}");
    }
    let gemma = json!({"model_type": "gemma3_text", "hidden_act": "gelu_pytorch_tanh", "num_hidden_layers": 13,
        "sliding_window": 16, "head_dim": 8, "rope_theta": null});
    let read = read(gemma);
    assert_eq!(read.max_positions, 16);
    assert_eq!(read.pattern.local, [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 12]);
    assert_eq!(read.pattern.local_theta, Some(10_000.0));
    assert_eq!(read.rope.theta, 1e6);
}

#[test]
fn an_inactive_sliding_window_is_accepted() {
    let mut config = config_json();
    config["model_type"] = json!("qwen2");
    config["use_sliding_window"] = json!(false);
    config["sliding_window"] = json!(32);
    let read = ModelConfig::read(directory(&config).path()).unwrap();
    assert!(read.qkv_bias);
    assert_eq!(read.head_dim, 4);
}
