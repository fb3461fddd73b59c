//! Damaged checkpoints, changed settings and data, full or read-only disks, numbers of threads.

use std::fs;
use std::path::Path;
use std::process::Command;

use assay_train::metrics::read;

use super::{Lab, row};

/// A run whose last checkpoint is damaged: resuming uses the one before, and the result is the
/// same.
#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let lab = Lab::new();
    lab.finish("whole", &["--set", "run.keep_last=0"]);
    let expected = lab.outcome("whole");
    type Harm = fn(&Path);
    let harms: [(Harm, &str); 5] = [
        (
            |dir| flip(&dir.join("policy/adapter_model.safetensors")),
            "policy/adapter_model.safetensors is not what",
        ),
        (
            |dir| flip(&dir.join("reward_optimiser.safetensors")),
            "reward_optimiser.safetensors is not what",
        ),
        (|dir| cut(&dir.join("state.json")), "state.json has"),
        (
            |dir| fs::remove_file(dir.join("policy_optimiser.safetensors")).unwrap(),
            "policy_optimiser.safetensors is missing",
        ),
        (|dir| fs::remove_dir_all(dir).unwrap(), ""),
    ];
    for (index, (harm, expected_reason)) in harms.into_iter().enumerate() {
        let out = format!("run-{index}");
        copy(&lab.path("whole"), &lab.path(&out));
        harm(&lab.path(&format!("{out}/checkpoints/iter-7")));
        let said = lab.finish(&out, &["--resume", "--set", "run.keep_last=0"]);
        assert!(said.contains(expected_reason), "{said}");
        assert!(said.contains("resuming after iteration 6 of 7"), "{said}");
        assert_eq!(lab.outcome(&out), expected, "{out}");
    }
    for number in 1..=7 {
        cut(&lab.path(&format!("whole/checkpoints/iter-{number}/state.json")));
    }
    let said = lab.refused("whole", &["--resume", "--set", "run.keep_last=0"]);
    assert!(
        said.contains("no checkpoint is whole") && said.contains("6 older ones"),
        "{said}"
    );
    row(
        "newest checkpoint flipped, cut, incomplete or gone: the one before is used; all damaged: refused",
        6,
    );
}

#[test]
fn resuming_with_other_inputs_names_the_difference() {
    let lab = Lab::new();
    lab.finish("run", &["--set", "run.iterations=2"]);
    let said = lab.refused("run", &["--set", "run.iterations=2"]);
    assert!(said.contains("holds a run already"), "{said}");
    let changed = [
        "--resume",
        "--set",
        "run.iterations=2",
        "--set",
        "seed=9",
        "--set",
        "reward.head=\"linear\"",
    ];
    let said = lab.refused("run", &changed);
    for line in [
        "seed: 3 -> 9",
        "reward.head.kind: \"hybrid\" -> \"linear\"",
        "reward.head.beta: 1.0 -> unset",
    ] {
        assert!(said.contains(line), "{said}");
    }
    let harmless = [
        "--resume",
        "--set",
        "run.iterations=2",
        "--set",
        "run.keep_last=1",
    ];
    let said = lab.finish("run", &harmless);
    assert!(said.contains("run.keep_last: 2 -> 1"), "{said}");
    let other = Command::new(env!("CARGO_BIN_EXE_assay"))
        .current_dir(lab.path("."))
        .args(["train", "grpo", "-c", "run.toml", "--out", "run"])
        .args(harmless)
        .output()
        .unwrap();
    let said = String::from_utf8(other.stderr).unwrap();
    assert!(said.contains("is a run of `airl`, not of `grpo`"), "{said}");
    assert_eq!(other.status.code(), Some(1));
    let data = fs::read_to_string(lab.path("train.jsonl")).unwrap();
    let lines: Vec<&str> = data.lines().collect();
    fs::write(lab.path("train.jsonl"), lines[1..].join("\n")).unwrap();
    let said = lab.refused("run", &harmless);
    assert!(said.contains("learned from other demonstrations"), "{said}");
    fs::remove_file(lab.path("train.jsonl")).unwrap();
    let said = lab.refused("run", &harmless);
    assert!(said.contains("train.jsonl"), "{said}");
    fs::write(lab.path("train.jsonl"), &data).unwrap();
    lab.finish("run", &harmless);
    row(
        "resumed with other settings, trainer or data: refused with the differences; harmless keys accepted",
        6,
    );
}

/// One bit of a model file changes between training, resuming and scoring.
#[test]
fn weights_that_changed_under_their_path_are_noticed() {
    let lab = Lab::new();
    let length = ["--resume", "--set", "run.iterations=2"];
    lab.finish("run", &length[1..]);
    let traces = "{\"id\":\"1\",\"question\":\"1+1=\",\"text\":\"2\"}\n";
    fs::write(lab.path("traces.jsonl"), traces).unwrap();
    let score = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_assay"))
            .current_dir(lab.path("."))
            .args(["score", "--reward", "run/checkpoints/iter-4/reward"])
            .args(["--traces", "traces.jsonl", "--out", "scored.jsonl"])
            .args(more)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    };
    let (status, said) = score(&[]);
    assert_eq!(
        (status, said.contains("other weights")),
        (Some(0), false),
        "{said}"
    );
    flip(&lab.path("model/model.safetensors"));
    let (status, said) = score(&[]);
    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.contains("reward was trained on other weights than those that model holds now"),
        "{said}"
    );
    let (status, said) = score(&["--model", "model"]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("warning: "), "{said}");
    let said = lab.refused("run", &length);
    assert!(
        said.contains("iter-4 was trained on other weights than those that model holds"),
        "{said}"
    );
    let sampled = Command::new(env!("CARGO_BIN_EXE_assay"))
        .current_dir(lab.path("."))
        .args(["sample", "--model", "model", "--adapter"])
        .arg("run/checkpoints/iter-4/policy")
        .args(["--problems", "train.jsonl", "--out", "sampled.jsonl"])
        .args(["--limit", "1", "--max-tokens", "2"])
        .output()
        .unwrap();
    let said = String::from_utf8(sampled.stderr).unwrap();
    assert_eq!(sampled.status.code(), Some(0), "{said}");
    assert!(
        said.contains("policy was trained on other weights than those that model holds now"),
        "{said}"
    );
    flip(&lab.path("model/model.safetensors"));
    lab.finish("run", &length);
    row(
        "weights changed under their path: resuming and scoring refuse, sampling warns, `--model` scores with a warning",
        5,
    );
}

/// A run with a limit on file sizes, which is then lifted: the message names the file, and the
/// resumed run has the same result.
#[test]
fn a_full_disk_loses_no_checkpoint() {
    let lab = Lab::new();
    lab.finish("whole", &[]);
    for kibibytes in [0, 1, 4, 8, 16, 20] {
        let out = format!("run-{kibibytes}");
        // Ignored, the signal of an exceeded limit becomes an error of the write.
        let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", kibibytes * 2);
        let mut limited = Command::new("sh");
        let command = lab.command(&out, &["--resume"]);
        limited
            .arg("-c")
            .arg(script)
            .arg("sh")
            .arg(command.get_program());
        limited.args(command.get_args()).current_dir(lab.path("."));
        let output = limited.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{kibibytes} KiB: {said}");
        assert!(
            said.contains(&out) && said.contains("File too large"),
            "{kibibytes} KiB: {said}"
        );
        lab.finish(&out, &["--resume"]);
        assert_eq!(lab.outcome(&out), lab.outcome("whole"), "{kibibytes} KiB");
    }
    row(
        "writes fail at 0 to 20 KiB a file, then the disk has room again",
        6,
    );
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let lab = Lab::new();
    let said = lab.refused("run.toml/inside", &[]);
    assert!(said.contains("run.toml/inside"), "{said}");
    if Path::new("/proc/self").exists() {
        assert!(lab.refused("/proc/run", &[]).contains("/proc/run"));
    }
    let closed = lab.path("closed");
    fs::create_dir(&closed).unwrap();
    let mut permissions = fs::metadata(&closed).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&closed, permissions).unwrap();
    // An administrator writes everywhere.
    if fs::write(closed.join("probe"), "").is_err() {
        assert!(lab.refused("closed/run", &[]).contains("closed/run"));
        assert!(lab.refused("closed", &[]).contains("closed/run.lock"));
    }
    row("run directory that cannot be made or written: named", 2);
}

#[test]
fn threads_change_no_bit() {
    let lab = Lab::new();
    for threads in ["1", "2", "5"] {
        let status = lab
            .command(threads, &[])
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .unwrap()
            .status;
        assert!(status.success());
        assert_eq!(lab.outcome(threads), lab.outcome("1"), "{threads} threads");
    }
    row("1, 2 and 5 threads: the same bits", 3);
}

/// Samples and the first losses have the same bits. Gradients are summed per micro-batch, so
/// weights differ by rounding.
#[test]
fn the_token_budget_changes_nothing_but_rounding() {
    let lab = Lab::new();
    lab.finish("whole", &[]);
    let expected = read(&lab.path("whole/metrics.jsonl")).unwrap();
    let state = |out: &str| fs::read(lab.path(out).join("checkpoints/iter-7/state.json")).unwrap();
    for budget in ["1", "100", "300"] {
        let setting = format!("run.token_budget={budget}");
        lab.finish(budget, &["--set", &setting]);
        assert!(
            state(budget) == state("whole"),
            "the samples of every iteration, by token"
        );
        let found = read(&lab.path(budget).join("metrics.jsonl")).unwrap();
        assert_eq!(found[0].values["sft/loss"], expected[0].values["sft/loss"]);
        for (found, expected) in found.iter().zip(&expected) {
            for name in [
                "sft/loss",
                "reward/loss",
                "policy/reference_kl",
                "validation/accuracy",
            ] {
                let (found, expected) = (found.values.get(name), expected.values.get(name));
                let apart = found.zip(expected).map_or(0.0, |(f, e)| (f - e).abs());
                assert!(
                    apart < 1e-5 && found.is_some() == expected.is_some(),
                    "{budget} {name}: {apart}"
                );
            }
        }
    }
    row(
        "token budgets 1, 100, 300 and unlimited: the same samples, values apart by rounding",
        4,
    );
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
