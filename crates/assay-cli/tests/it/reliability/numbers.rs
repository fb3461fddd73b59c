//! Numbers that are not finite stop a run with an error that names them, and `replay` examines
//! them. Unusual but valid settings work.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use assay_train::metrics::read;
use serde_json::Value;

use super::{Lab, row};

/// What `assay replay` prints about a run.
fn replayed(lab: &Lab, run: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_assay"))
        .current_dir(lab.path("."))
        .args(["replay", "--run", run, "--json"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Learning rates that make weights explode, each in another part of an iteration. A weight of 1e30
/// is finite; the outputs computed from it are not.
#[test]
fn a_non_finite_number_names_its_trace() {
    let lab = Lab::new();
    let cases = [
        (
            "optimiser.sft.learning_rate=1e30",
            "policy.updates_per_iteration=2",
            1,
            "supervised update",
            "log-probability",
        ),
        (
            "optimiser.reward.learning_rate=1e30",
            "policy.updates_per_iteration=2",
            2,
            "reward update 1",
            "logit",
        ),
        (
            "optimiser.policy.learning_rate=1e30",
            "policy.updates_per_iteration=2",
            3,
            "policy update 1",
            "log-probability",
        ),
        (
            "optimiser.policy.learning_rate=1e30",
            "policy.updates_per_iteration=1",
            4,
            "rollout",
            "",
        ),
    ];
    for (index, (rate, updates, iteration, part, number)) in cases.into_iter().enumerate() {
        let out = format!("run-{index}");
        let mut heard = Vec::new();
        for more in [
            &["--set", rate, "--set", updates][..],
            &["--set", rate, "--set", updates, "--resume"],
        ] {
            let output = lab.run(&out, more);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{said}");
            let line = said.lines().find(|line| line.starts_with("error:"));
            heard.push(line.unwrap_or_else(|| panic!("{said}")).to_owned());
        }
        assert_eq!(heard[0], heard[1], "a resumed run fails at the same place");
        for part in [
            &format!("iteration {iteration}, {part}: "),
            number,
            "the last checkpoint is intact",
            "assay replay",
        ] {
            assert!(heard[0].contains(part), "{} lacks {part:?}", heard[0]);
        }
        assert!(
            lab.path(&format!("{out}/failed/iter-{iteration}.json"))
                .exists()
        );
        let found = replayed(&lab, &out);
        let (failure, replay) = (&found["failure"], &found["replay"]);
        assert_eq!(failure["iteration"], iteration);
        assert_eq!(replay["checkpoint"], iteration);
        assert!(
            replay["damaged_parameters"].as_array().unwrap().is_empty(),
            "{replay}"
        );
        let traces = replay["traces"].as_array().unwrap();
        assert_eq!(traces.len(), failure["traces"].as_array().unwrap().len());
        assert!(
            traces
                .iter()
                .all(|t| t["problem"].as_str().is_some_and(|id| !id.is_empty()))
        );
        if index == 0 || index == 3 {
            // The previous checkpoint holds the weights that failed.
            assert!(traces.iter().all(|t| t["token"] == 0), "{replay}");
        } else {
            // The weights before the first update of the iteration are valid, so the gradients of
            // every trace are finite.
            assert!(traces.iter().all(|t| t["mean"].is_number()), "{replay}");
            assert!(
                traces.iter().all(|t| t["gradient_norm"].is_number()),
                "{replay}"
            );
            let failed = |t: &Value| t["failed_token"] == 0;
            assert!(traces.iter().any(failed), "{replay}");
        }
    }
    let table = Command::new(env!("CARGO_BIN_EXE_assay"))
        .current_dir(lab.path("."))
        .args(["replay", "--run", "run-1"])
        .output()
        .unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        table.contains("checkpoints/iter-2") && table.contains("perturbed"),
        "{table}"
    );
    row(
        "weights that explode in SFT, reward, policy and rollout: named, batch kept, replayed",
        8,
    );
}

#[test]
fn a_last_update_that_diverges_is_no_success() {
    let lab = Lab::new();
    let rate = "optimiser.policy.learning_rate=1e30";
    // One AIRL iteration after the warm-up: no later update could detect the fault.
    for (out, every, place) in [
        ("unseen", "run.eval_every=0", "the policy after iteration"),
        (
            "measured",
            "run.eval_every=1",
            "the policy's logits after iteration",
        ),
    ] {
        let alone = ["run.iterations=2", "policy.updates_per_iteration=1"];
        let more = [rate, every, alone[0], alone[1]].map(|setting| ["--set", setting]);
        let more = more.concat();
        let output = lab.run(out, &more);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains(place) && said.contains("the last update diverged"),
            "{said}"
        );
    }
    row(
        "a last update that diverges: named, the checkpoint before is intact",
        2,
    );
}

#[test]
fn a_run_without_failures_has_nothing_to_replay() {
    let lab = Lab::new();
    fs::create_dir(lab.path("run")).unwrap();
    fs::write(lab.path("run/settings.toml"), "").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_assay"))
        .current_dir(lab.path("."))
        .args(["replay", "--run", "run"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no failed update"), "{said}");
}

/// The metrics of the last iteration.
fn last(lab: &Lab, out: &str) -> BTreeMap<String, f64> {
    read(&lab.path(out).join("metrics.jsonl"))
        .unwrap()
        .pop()
        .unwrap()
        .values
}

#[test]
fn learning_rate_zero_changes_no_weight() {
    let lab = Lab::new();
    let zero = ["sft", "policy", "reward"].map(|p| format!("optimiser.{p}.learning_rate=0"));
    let mut more = vec!["--set", "run.keep_last=0"];
    for setting in &zero {
        more.extend(["--set", setting]);
    }
    lab.finish("run", &more);
    // Values, not bits: a step of zero turns -0 into 0.
    let weights = |n: usize, player: &str| -> Vec<f32> {
        let path = format!("run/checkpoints/iter-{n}/{player}/adapter_model.safetensors");
        let bytes = fs::read(lab.path(&path)).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let values = bytes[8 + header..].chunks_exact(4);
        values
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    };
    for player in ["policy", "reward"] {
        assert!(weights(1, player) == weights(7, player), "{player}");
    }
    assert_eq!(last(&lab, "run")["policy/ratio_max"], 1.0);
    assert!(last(&lab, "run")["reward/gradient_norm"] > 0.0);
    row("learning rate 0", 1);
}

#[test]
fn equal_rewards_give_no_advantage_and_no_harm() {
    let lab = Lab::new();
    let frozen = [
        "--set",
        "reward.head=linear",
        "--set",
        "reward.schedule.frozen=true",
        "--set",
        "reward.schedule.warmup_iterations=0",
        "--set",
        "policy.objective.kl_weight=0.0",
    ];
    lab.finish("run", &frozen);
    let metrics = last(&lab, "run");
    assert_eq!(metrics["advantage/zero_std_share"], 1.0);
    assert_eq!(
        (metrics["policy/loss"], metrics["policy/gradient_norm"]),
        (0.0, 0.0)
    );
    row("all rewards equal", 1);
}

#[test]
fn smallest_groups_work_or_are_refused() {
    let lab = Lab::new();
    let said = lab.refused("run", &["--set", "sampling.samples=1"]);
    assert!(said.contains("policy.advantage.scale"), "{said}");
    let said = lab.refused("run", &["--set", "sampling.max_completion_tokens=1"]);
    assert!(said.contains("longer than 1 tokens"), "{said}");
    assert!(
        !lab.path("run/settings.toml").exists(),
        "a run that never began can be begun anew"
    );
    lab.finish(
        "run",
        &[
            "--set",
            "sampling.samples=1",
            "--set",
            "policy.advantage.expert_in_group=single",
        ],
    );
    lab.finish("cold", &["--set", "sampling.temperature=1e-3"]);
    let no_negatives = [
        "--set",
        "reward.schedule.policy_negatives=off",
        "--set",
        "reward.perturbations.per_demonstration=0",
    ];
    lab.finish("experts-only", &no_negatives);
    row(
        "G = 1, one-token completions, near-greedy sampling, no negatives: work or refused up front",
        5,
    );
}
