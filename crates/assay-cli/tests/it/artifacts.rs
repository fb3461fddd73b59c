//! The trained critic in `artifacts/`: its files, and a stored score that it must reproduce.
//!
//! The score needs the base model: `ASSAY_MODELS` names the directory of its file. Without it the
//! test prints that it is skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use assay_critic::reward_model::HEAD_FILE;
use assay_evals::calibration::CALIBRATION_FILE;
use assay_lm::peft;
use serde_json::Value;
use tempfile::TempDir;

/// The file of the base model.
const BASE: &str = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf";
/// Maximum size in bytes of an adapter in the repository.
const LARGEST: u64 = 12 << 20;

fn artifact() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../artifacts/gsm8k-qwen2.5-coder-0.5b")
}

#[test]
fn both_adapters_are_complete_and_small() {
    for player in ["policy", "reward"] {
        let dir = artifact().join(player);
        for file in [peft::CONFIG_FILE, peft::WEIGHTS_FILE, "README.md"] {
            let size = fs::metadata(dir.join(file)).unwrap().len();
            assert!((1..LARGEST).contains(&size), "{player}/{file}: {size}");
        }
        let base = peft::base_model(&dir).unwrap();
        assert!(base.ends_with(BASE), "{player} names {base}");
    }
    for file in [HEAD_FILE, CALIBRATION_FILE] {
        assert!(artifact().join("reward").join(file).is_file(), "{file}");
    }
}

/// Token rewards of every trace of a file.
fn rewards(path: &Path) -> Vec<Vec<f64>> {
    let text = fs::read_to_string(path).unwrap();
    let traces = text.lines().map(|line| {
        let trace: Value = serde_json::from_str(line).unwrap();
        let rewards = trace["token_rewards"].as_array().unwrap();
        rewards.iter().map(|r| r.as_f64().unwrap()).collect()
    });
    traces.collect()
}

#[test]
fn the_stored_scores_are_reproduced() {
    let models = std::env::var_os("ASSAY_MODELS").map(PathBuf::from);
    let Some(model) = models.map(|dir| dir.join(BASE)).filter(|m| m.is_file()) else {
        eprintln!("skipped: {BASE} is not under ASSAY_MODELS");
        return;
    };
    let (dir, stored) = (TempDir::new().unwrap(), artifact().join("scored.jsonl"));
    let out = dir.path().join("scored.jsonl");
    let run = Command::new(env!("CARGO_BIN_EXE_assay"))
        .args(["score", "--device", "cpu", "--dtype", "f32"])
        .arg("--reward")
        .arg(artifact().join("reward"))
        .arg("--model")
        .arg(model)
        .arg("--traces")
        .arg(&stored)
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let (expected, found) = (rewards(&stored), rewards(&out));
    assert_eq!(expected.len(), found.len());
    for (expected, found) in expected.iter().flatten().zip(found.iter().flatten()) {
        assert!((expected - found).abs() < 1e-3, "{expected} {found}");
    }
}
