//! Files for other programs: exported adapters and models, event files, shell completions, manual
//! pages.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use assay_critic::policy_model::logprobs_and_entropies;
use assay_critic::reward_model::RewardModel;
use assay_lm::packed::{Group, PackedBatch};
use assay_lm::{LanguageModel, Placement, Storage, peft};
use assay_train::execution::{Execution, infer_all};
use serde_json::Value;
use tempfile::TempDir;

use crate::commands::{problem_lines, tiny};

const SETTINGS: &str = r#"
[model]
path = "model"
[data.train]
path = "problems.jsonl"
[prompt]
style = "plain"
[lora.policy]
rank = 2
alpha = 256.0
[lora.reward]
rank = 2
alpha = 256.0
[sft]
epochs = 1
demonstrations_per_update = 3
[sampling]
samples = 2
max_prompt_tokens = 60
max_completion_tokens = 40
[run]
iterations = 3
prompts_per_iteration = 1
eval_every = 0
"#;

/// A directory with a model, problems and settings.
fn world() -> TempDir {
    let dir = TempDir::new().unwrap();
    let base = dir.path().join("model");
    fs::create_dir(&base).unwrap();
    tiny(&[]).save(&base).unwrap();
    fs::write(dir.path().join("problems.jsonl"), problem_lines(6).1).unwrap();
    fs::write(dir.path().join("settings.toml"), SETTINGS).unwrap();
    dir
}

fn assay(dir: &Path, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_assay"))
        .current_dir(dir)
        .args(arguments.split_whitespace())
        .output()
        .unwrap()
}

fn done(dir: &Path, arguments: &str) -> String {
    let output = assay(dir, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn read_json(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn fixed() -> Group {
    Group {
        prompt: vec![3, 1, 4],
        completions: vec![vec![1, 5, 9, 2, 6]],
    }
}

/// The logits of a token classifier on the fixed completion, computed from its files.
fn classifier_logits(dir: &Path) -> Vec<f32> {
    let model = LanguageModel::open(dir, Storage::AsStored, &Placement::cpu()).unwrap();
    let tensors =
        candle_core::safetensors::load(dir.join("model.safetensors"), &candle_core::Device::Cpu);
    let tensors = tensors.unwrap();
    assert!(!tensors.contains_key("lm_head.weight"));
    let batch = PackedBatch::new(&[fixed()]).unwrap();
    let hidden = model.transformer.hidden(&batch, None).unwrap();
    let score: Vec<f32> = tensors["score.weight"].to_vec2().unwrap().remove(0);
    let bias: Vec<f32> = tensors["score.bias"].to_vec1().unwrap();
    let rows: Vec<Vec<f32>> = hidden.to_vec2().unwrap();
    let dot = |row: &Vec<f32>| row.iter().zip(&score).map(|(h, w)| h * w).sum::<f32>();
    rows[3..].iter().map(|row| dot(row) + bias[0]).collect()
}

/// Log-probabilities of a fixed completion.
fn logprobs(model: &LanguageModel, adapter: Option<&Path>) -> Vec<f32> {
    let config = model.transformer.config();
    let adapter = adapter.map(|dir| peft::load(dir, config).unwrap().adapter);
    let batch = PackedBatch::new(&[fixed()]).unwrap();
    let scalars = logprobs_and_entropies(&model.transformer, adapter.as_ref(), &batch);
    scalars.unwrap().0.concat()
}

fn far(left: &[f32], right: &[f32]) -> f32 {
    let pairs = left.iter().zip(right);
    pairs.map(|(l, r)| (l - r).abs()).fold(0.0, f32::max)
}

#[test]
fn a_run_is_exported_in_every_format() {
    let world = world();
    let dir = world.path();
    done(dir, "train airl --config settings.toml --out run");
    let newest = fs::read_dir(dir.join("run/checkpoints")).unwrap().next();
    let newest = newest.unwrap().unwrap().path();

    done(
        dir,
        "export --run run --format peft --out peft --base-name org/tiny@v1",
    );
    let policy = read_json(dir.join("peft/policy/adapter_config.json"));
    assert_eq!(policy["base_model_name_or_path"], "org/tiny");
    assert_eq!(
        (&policy["revision"], &policy["task_type"]),
        (&"v1".into(), &"CAUSAL_LM".into())
    );
    let reward = read_json(dir.join("peft/reward/adapter_config.json"));
    assert_eq!(reward["task_type"], "TOKEN_CLS");
    assert_eq!(reward["modules_to_save"][0], "score");
    let model =
        LanguageModel::open(&dir.join("model"), Storage::AsStored, &Placement::cpu()).unwrap();
    let trained = logprobs(&model, Some(&newest.join("policy")));
    assert_eq!(trained, logprobs(&model, Some(&dir.join("peft/policy"))));
    let exported = RewardModel::load(&dir.join("peft/reward"), model.transformer.clone()).unwrap();
    let kept = RewardModel::load(&newest.join("reward"), model.transformer.clone()).unwrap();
    assert_eq!(exported.scoring, kept.scoring);
    for part in ["policy", "reward"] {
        let card = fs::read_to_string(dir.join(format!("peft/{part}/README.md"))).unwrap();
        assert!(
            card.starts_with("---\nbase_model: \"org/tiny@v1\"\n"),
            "{card}"
        );
        assert!(card.contains("Metrics of iteration"), "{card}");
    }

    let said = done(dir, "export --run run --format merged --out merged --json");
    let said: Value = serde_json::from_str(&said).unwrap();
    assert!(
        said["probe"]["adapter_moves_nats"].as_f64().unwrap() > 1e-4,
        "{said}"
    );
    let merged =
        LanguageModel::open(&dir.join("merged"), Storage::AsStored, &Placement::cpu()).unwrap();
    assert!(far(&trained, &logprobs(&merged, None)) < 1e-5);
    assert!(far(&trained, &logprobs(&model, None)) > 1e-4);
    let generation = read_json(dir.join("merged/generation_config.json"));
    assert_eq!(generation["eos_token_id"][0], model.end_of_turn());

    let said = done(
        dir,
        "export --run run --format merged-reward --out classifier --json",
    );
    let said: Value = serde_json::from_str(&said).unwrap();
    assert!(
        said["probe"]["adapter_moves_logits"].as_f64().unwrap() > 1e-5,
        "{said}"
    );
    let classified = classifier_logits(&dir.join("classifier"));
    let expected = infer_all(&kept, &[fixed()], Execution::single_process(100)).unwrap();
    assert!(far(&classified, &expected.concat()) < 1e-6);
    let config = read_json(dir.join("classifier/config.json"));
    assert_eq!(config["architectures"][0], "LlamaForTokenClassification");
    assert_eq!(config["id2label"].as_object().unwrap().len(), 1);

    done(dir, "export --run run --format tensorboard --out events");
    let events = fs::read(dir.join("events/events.out.tfevents.0000000000.assay")).unwrap();
    assert_eq!(&events[23..36], b"brain.Event:2");

    let again = assay(dir, "export --run run --format merged --out merged");
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        said.contains("merged exists already; choose another --out"),
        "{said}"
    );
    let missing = assay(
        dir,
        "export --run run --format peft --out other --checkpoint 99",
    );
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(said.contains("has no checkpoint 99, only ["), "{said}");
    assert!(!dir.join("other").exists() && !dir.join(".other.partial").exists());
}

/// Runs a command without a token and with a hub that does not respond.
fn offline(dir: &Path, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_assay"))
        .current_dir(dir)
        .args(arguments.split_whitespace())
        .env("HF_ENDPOINT", "http://127.0.0.1:9")
        .env("HF_HOME", dir)
        .env_remove("HF_TOKEN")
        .env_remove("HF_TOKEN_PATH")
        .output()
        .unwrap()
}

#[test]
fn a_dry_push_needs_no_network() {
    let world = TempDir::new().unwrap();
    let dir = world.path();
    fs::create_dir_all(dir.join("out/policy")).unwrap();
    fs::write(dir.join("out/README.md"), "card").unwrap();
    fs::write(dir.join("out/policy/weights"), vec![7; 1000]).unwrap();
    let output = offline(dir, "export --out out --push org/name --dry-run");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let expected = [
        "4  README.md",
        "1000  policy/weights",
        "1004  bytes in 2 files would be pushed to org/name",
    ];
    assert_eq!(lines, expected);
    let output = offline(dir, "export --out out --push org/name@v1 --dry-run --json");
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&value["repository"], &value["bytes"]),
        (&"org/name@v1".into(), &1004.into())
    );
    assert_eq!(value["files"][1]["file"], "policy/weights");
    for (arguments, word) in [
        ("export --out out --push org/name", "set HF_TOKEN"),
        (
            "export --out nothing --push org/name",
            "nothing can be pushed",
        ),
        ("export --out out --push name", "org/name@branch"),
        (
            "export --out out --push datasets/org/name",
            "org/name@branch",
        ),
        ("export --out out", "--run"),
        ("export --out out --push org/name --format peft", "--run"),
        (
            "export --out out --run out --format peft --dry-run",
            "--push",
        ),
    ] {
        let output = offline(dir, arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments}");
        assert!(said.contains(word), "{arguments}: {said}");
    }
}

/// Copies a directory into a hub cache in the layout of Python's client.
fn cached(cache: &Path, name: &str, dir: &Path) {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let root = cache.join(format!("models--org--{name}"));
    let snapshot = root.join("snapshots").join(commit);
    fs::create_dir_all(root.join("refs")).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(root.join("refs/main"), commit).unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), snapshot.join(entry.file_name())).unwrap();
    }
}

/// The critic by its hub name, on the base model that it names itself and on one named with
/// `--model`.
#[test]
fn a_reward_is_served_by_its_hub_name() {
    let world = world();
    let dir = world.path();
    done(
        dir,
        "train airl --config settings.toml --out run --set sft.epochs=1",
    );
    done(
        dir,
        "export --run run --format peft --out peft --base-name org/tiny",
    );
    let cache = dir.join("cache");
    cached(&cache, "tiny", &dir.join("model"));
    cached(&cache, "critic", &dir.join("peft/reward"));
    for model in ["", "--model org/tiny"] {
        let arguments = format!("serve --reward ours=org/critic --addr 127.0.0.1:0 {model}");
        let mut child = Command::new(env!("CARGO_BIN_EXE_assay"))
            .current_dir(dir)
            .args(arguments.split_whitespace())
            .env("HF_HUB_CACHE", &cache)
            .env("HF_HUB_OFFLINE", "1")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said: Vec<String> = lines
            .by_ref()
            .map_while(Result::ok)
            .take_while(|line| !line.contains("serving ours on http://"))
            .collect();
        // A server that is up keeps running, so its stderr has not ended when the line arrives.
        let running = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(running && said.is_empty(), "{arguments}: {said:?}");
    }
}

/// Sets every B of the policy to zero: the export must detect that there is nothing to export.
#[test]
fn an_adapter_that_changes_nothing_is_not_exported() {
    let world = world();
    let dir = world.path();
    done(dir, "train sft --config settings.toml --out run");
    let policy = dir.join("run/checkpoints/iter-2/policy/adapter_model.safetensors");
    let tensors = candle_core::safetensors::load(&policy, &candle_core::Device::Cpu).unwrap();
    let zeroed = tensors
        .into_iter()
        .map(|(name, tensor)| match name.contains("lora_B") {
            true => (name, tensor.zeros_like().unwrap()),
            false => (name, tensor),
        });
    candle_core::safetensors::save(&zeroed.collect(), &policy).unwrap();
    for format in ["peft", "merged"] {
        let output = assay(
            dir,
            &format!("export --run run --format {format} --out out"),
        );
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("changes nothing: every B is zero"), "{said}");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn an_untrained_policy_is_not_exported() {
    let world = world();
    let dir = world.path();
    done(
        dir,
        "train airl --config settings.toml --out run --set policy.start.kind=base --set run.iterations=3 \
         --set reward.schedule.warmup_iterations=3",
    );
    let output = assay(dir, "export --run run --format peft --out out");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("the reward alone is exported"), "{said}");
    assert!(dir.join("out/reward/adapter_model.safetensors").exists());
    assert!(!dir.join("out/policy").exists());
}

#[test]
fn completions_and_manual_pages_name_every_command() {
    let dir = TempDir::new().unwrap();
    let script = done(dir.path(), "completions bash");
    assert!(script.contains("assay__") && script.contains("tensorboard"));
    assert!(done(dir.path(), "man").contains(".TH assay 1"));
    done(dir.path(), "man --out pages");
    for page in ["assay.1", "assay-train.1", "assay-export.1"] {
        let text = fs::read_to_string(dir.path().join("pages").join(page)).unwrap();
        assert!(text.contains(".SH NAME"), "{page}");
    }
}
