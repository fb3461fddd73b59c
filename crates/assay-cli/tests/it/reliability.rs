//! Runs of the binary that are killed, stopped, run out of disk space or read damaged files: no
//! result is lost.
//!
//! Every case resumes the run and compares it, bit for bit, with an undisturbed run.

mod faults;
mod kills;
mod numbers;
mod ranks;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use assay_tasks::arithmetic::{ArithmeticSettings, Split, alphabet, generate};
use assay_train::checkpoint;
use assay_train::metrics::read;
use serde_json::json;
use tempfile::TempDir;

use crate::commands::tiny;

/// Iterations of a run: two supervised ones, then AIRL.
const GAME: usize = 5;
const TOTAL: usize = GAME + 2;

/// A directory with a model, data and settings, in which the tests run.
pub(crate) struct Lab {
    dir: TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("model")).unwrap();
        tiny(&[]).save(&dir.path().join("model")).unwrap();
        for (name, split, problems) in [
            ("train", Split::Train, 8),
            ("held_out", Split::Validation, 2),
        ] {
            let settings = ArithmeticSettings {
                problems,
                ..ArithmeticSettings::default()
            };
            let lines = generate(&settings, split, 5).unwrap().into_iter().map(|p| {
                let answer = format!("{}\n#### {}", p.demonstration.unwrap(), p.answer.unwrap());
                json!({ "question": p.question, "answer": answer }).to_string() + "\n"
            });
            fs::write(
                dir.path().join(format!("{name}.jsonl")),
                lines.collect::<String>(),
            )
            .unwrap();
        }
        let letters = alphabet(&ArithmeticSettings::default());
        fs::write(dir.path().join("run.toml"), settings(&letters)).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `assay train airl` into `out`, with more arguments.
    pub(crate) fn command(&self, out: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_assay"));
        command
            .current_dir(self.dir.path())
            .args(["train", "airl", "-c", "run.toml", "--out", out])
            .args(more)
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, out: &str, more: &[&str]) -> Output {
        self.command(out, more).output().unwrap()
    }

    /// Runs to the end and returns stderr.
    pub(crate) fn finish(&self, out: &str, more: &[&str]) -> String {
        let output = self.run(out, more);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{more:?}: {said}");
        said
    }

    /// The error message of a run that fails with exit status 1.
    pub(crate) fn refused(&self, out: &str, more: &[&str]) -> String {
        let output = self.run(out, more);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{more:?}: {said}");
        said
    }

    /// Starts a run in the background and waits until it has begun.
    pub(crate) fn start(&self, out: &str, more: &[&str]) -> Child {
        let child = self
            .command(out, more)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until(|| self.path(out).join("metrics.jsonl").exists());
        child
    }

    pub(crate) fn outcome(&self, out: &str) -> Outcome {
        Outcome::of(&self.path(out))
    }
}

fn settings(letters: &str) -> String {
    format!(
        r#"
seed = 3
[model]
path = "model"
[data.train]
path = "train.jsonl"
[data.validation]
path = "held_out.jsonl"
[prompt]
style = "plain"
[lora.policy]
rank = 4
alpha = 8.0
[lora.reward]
rank = 4
alpha = 8.0
[sampling]
samples = 3
max_completion_tokens = 48
max_prompt_tokens = 40
[sft]
epochs = 1
demonstrations_per_update = 4
[optimiser.sft]
learning_rate = 1e-2
[reward]
head = "hybrid"
[reward.perturbations]
alphabet = {letters:?}
[reward.schedule]
warmup_iterations = 1
updates_per_iteration = 2
[reward.schedule.policy_negatives]
kind = "constant"
weight = 0.5
[reward.schedule.replay]
share = 0.5
[policy]
updates_per_iteration = 2
[policy.objective]
kl_weight = 0.01
[optimiser.policy]
learning_rate = 1e-3
[run]
iterations = {GAME}
prompts_per_iteration = 2
checkpoint_every = 1
keep_last = 2
eval_every = 3
eval_problems = 2
eval_samples = 2
"#
    )
}

/// The results of a run, without wall-clock times.
#[derive(Debug, PartialEq)]
pub(crate) struct Outcome {
    /// Phase and value bits of each iteration.
    metrics: Vec<(String, BTreeMap<String, u64>)>,
    /// Every checkpoint's manifest: the digest of each file.
    checkpoints: Vec<(usize, String)>,
    best: String,
}

impl Outcome {
    pub(crate) fn of(run: &Path) -> Self {
        let metrics = read(&run.join("metrics.jsonl")).unwrap();
        let metrics = metrics.into_iter().enumerate().map(|(index, mut line)| {
            assert_eq!(line.iteration, index, "a line is missing or there twice");
            assert!(line.values.remove("seconds").is_some());
            let bits = line.values.into_iter().map(|(k, v)| (k, v.to_bits()));
            (line.phase, bits.collect())
        });
        let manifest = |path: PathBuf| fs::read_to_string(path.join(checkpoint::MANIFEST)).unwrap();
        Self {
            metrics: metrics.collect(),
            checkpoints: checkpoint::list(run)
                .unwrap()
                .into_iter()
                .map(|(number, path)| (number, manifest(path)))
                .collect(),
            best: fs::read_to_string(run.join("best.json")).unwrap(),
        }
    }
}

/// Waits until a condition holds.
pub(crate) fn wait_until(happened: impl Fn() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "it never happened"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([format!("-{name}"), child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// Prints a row of the table in docs/reliability.md: the case and the number of repetitions, all of
/// which passed.
#[allow(clippy::print_stdout)] // tools/reliability reads it
pub(crate) fn row(what: &str, times: usize) {
    println!("\nROW | {what} | {times} | {times} |");
}
