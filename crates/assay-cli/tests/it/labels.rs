//! Labels that people made: localisation of their marks, and files that hold no labels.

use std::fs;

use assay_evals::localisation::{Predictor, Suspect};
use assay_tasks::trace::ScoredTrace;
use assay_tasks::trace_io::read_traces;
use serde_json::{Value, json};

use super::commands::{World, value};

/// Traces with the index of their suspected token, without traces where that is the end of the
/// turn.
fn suspected(world: &World) -> Vec<(ScoredTrace, usize)> {
    let mut records = world.foreign();
    records.retain(|record| record["generator"] == "a");
    world.write("flat.jsonl", &records);
    world.json("score --reward reward --traces flat.jsonl --out flat.out --json");
    let traces = read_traces(&world.path("flat.out")).unwrap().into_iter();
    let found = traces.filter_map(|trace| {
        let token = Suspect::of(&trace, Predictor::LargestDrop)?.token;
        let (start, end) = trace.token_offsets[token];
        (start < end).then_some((trace, token))
    });
    found.collect()
}

fn label(trace: &ScoredTrace, token: Option<usize>, annotator: &str) -> Value {
    let range = |token: usize| {
        let (start, end) = trace.token_offsets[token];
        json!({ "start": start, "end": end, "token": token })
    };
    json!({ "question": trace.question, "text": trace.text, "annotator": annotator,
            "first_error": token.map(range) })
}

#[test]
fn localise_compares_the_reward_with_people() {
    let world = World::new();
    let suspected = suspected(&world);
    assert!(suspected.len() >= 5, "{}", suspected.len());
    let mut labels = vec![json!("garbage")];
    for (index, (trace, token)) in suspected.iter().enumerate() {
        // The second trace is marked at another token than the reward's.
        let other = if *token > 8 { 0 } else { token + 8 };
        let marked = if index == 1 { other } else { *token };
        labels.push(label(trace, Some(marked), "Ada"));
    }
    let (first, token) = &suspected[0];
    let (last, _) = &suspected[suspected.len() - 1];
    labels.push(label(first, Some(token + 1), "Bob"));
    labels.push(label(last, None, "Bob"));
    world.write("labels.jsonl", &labels);
    let command = "localise --reward reward --labels labels.jsonl --json";
    let output = world.assay(command);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("not the expected JSON (labels.jsonl:1:"),
        "{said}"
    );
    assert!(said.contains("1 undecided"), "{said}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    // For the first trace the earlier mark counts. The annotators of the last one disagree.
    let cases = suspected.len() - 1;
    let hit = (cases - 1) as f64 / cases as f64;
    assert_eq!(value(&summary, "localisation.hit_0"), hit);
    let within_3 = value(&summary, "localisation.hit_3");
    assert_eq!(within_3, hit, "8 tokens away is not a hit");
    assert!(summary["localisation"]["baselines"]["chance"].is_object());
    assert!(summary["localisation"]["baselines"]["lowest_logprob"].is_object());
    assert_eq!(value(&summary, "labels.wrong"), cases as f64);
    assert_eq!(value(&summary, "agreement.traces"), 2.0);
    assert_eq!(value(&summary, "agreement.has_error.same"), 0.5);
    assert_eq!(value(&summary, "agreement.first_error.within_0"), 0.0);
    assert_eq!(value(&summary, "agreement.first_error.within_1"), 1.0);
}

#[test]
fn files_without_labels_are_named() {
    let world = World::new();
    fs::write(world.path("empty.jsonl"), "\n").unwrap();
    for (arguments, named) in [
        (
            "localise --reward reward --labels absent.jsonl",
            "absent.jsonl",
        ),
        (
            "localise --reward reward --labels empty.jsonl",
            "empty.jsonl holds no label",
        ),
        (
            "localise --reward reward --labels problems.jsonl",
            "problems.jsonl holds no label",
        ),
        (
            "serve --reward reward --labels problems.jsonl",
            "problems.jsonl: no file that labels",
        ),
        ("serve --reward reward --labels model", "model"),
    ] {
        let said = world.refused(arguments);
        assert!(said.contains(named), "{arguments}: {said}");
    }
    let problems = fs::read_to_string(world.path("problems.jsonl")).unwrap();
    assert_eq!(problems.lines().count(), 6, "it is as it was");
}
