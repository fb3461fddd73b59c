//! The output of an unattended run: alarms that call commands, an early stop, curves on a terminal.

use std::fs;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::reliability::Lab;

/// Fourteen iterations in which every sample is wrong. The tenth raises the alarm for groups
/// without spread.
const WRONG: [&str; 12] = [
    "--set",
    "policy.start=base",
    "--set",
    "sampling.samples=2",
    "--set",
    "run.iterations=14",
    "--set",
    "run.prompts_per_iteration=1",
    "--set",
    "run.eval_every=0",
    "--set",
    "run.early_stop.alarms=[\"zero_std_groups\"]",
];

fn grpo(lab: &Lab, out: &str, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_assay"))
        .current_dir(lab.path("."))
        .args(["train", "grpo", "-c", "run.toml", "--out", out])
        .args(WRONG)
        .args(more)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_alarm_calls_and_ends_the_run() {
    let lab = Lab::new();
    let output = grpo(&lab, "run", &["--on-alarm", "cat >> alarms.jsonl"]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("alarm: groups without spread"), "{said}");
    assert!(
        said.contains("ended early after iteration 10 of 14"),
        "{said}"
    );
    assert_eq!(output.stdout, b"", "curves are for terminals");
    let text = fs::read_to_string(lab.path("alarms.jsonl")).unwrap();
    let alarms: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let alarm = alarms
        .iter()
        .find(|alarm| alarm["alarm"] == "zero_std_groups")
        .unwrap();
    assert_eq!(
        (&alarm["run"], &alarm["iteration"]),
        (&json!("run"), &json!(9))
    );
    let ended = fs::read_to_string(lab.path("run/early_stop.json")).unwrap();
    let ended: Value = serde_json::from_str(&ended).unwrap();
    let expected = json!({
        "iterations": 10, "total": 14, "reason": "alarm", "alarm": "zero_std_groups",
        "value": ended["value"], "threshold": 0.5,
    });
    assert_eq!(ended, expected);
    assert!(ended["value"].as_f64().unwrap() > 0.5, "{ended}");
    assert!(lab.path("run/checkpoints/iter-10/manifest.json").exists());
}

#[test]
fn a_failing_call_is_a_warning() {
    let lab = Lab::new();
    let output = grpo(
        &lab,
        "run",
        &["--on-alarm", "echo sorry >&2; exit 7", "--json"],
    );
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("warning: --on-alarm failed") && said.contains("sorry"),
        "{said}"
    );
    let metrics: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(metrics["iteration"], 9);
    let output = grpo(&lab, "other", &["--on-alarm", "http://"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!lab.path("other").exists());
}

/// Runs a command in a terminal, with `script`.
#[cfg(target_os = "linux")]
#[test]
fn a_terminal_shows_curves() {
    let lab = Lab::new();
    let assay = env!("CARGO_BIN_EXE_assay");
    let shown = |more: &str| {
        let line = format!(
            "'{assay}' train sft -c run.toml --out run{} {more}",
            more.replace(['-', ' '], "")
        );
        let script = Command::new("script")
            .current_dir(lab.path("."))
            .args(["-qec", &line, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::null())
            .output();
        script.ok().map(|output| {
            assert!(output.status.success(), "{output:?}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    };
    let Some(text) = shown("") else {
        return; // a system without `script`
    };
    assert!(text.contains("supervised loss (nats a token)"), "{text}");
    assert!(text.contains("iteration 1"), "{text}");
    assert!(
        !shown("--json").unwrap().contains("supervised loss"),
        "{text}"
    );
}
