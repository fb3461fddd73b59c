//! The commands that use a reward, run as processes on a tiny random model in a temporary
//! directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use assay_lm::LanguageModel;
use assay_tasks::arithmetic::{ArithmeticSettings, Split, generate};
use assay_tasks::problem::Problem;
use assay_tasks::trace::{FinishReason, ScoredTrace};
use assay_tasks::trace_io::{read_traces, write_traces};
use assay_testkit::{tiny_model, wave_reward};
use serde_json::{Value, json};
use tempfile::TempDir;

const POSITIONS: usize = 160;

/// A directory with `model`, `reward` and `problems.jsonl`.
pub(super) struct World {
    dir: TempDir,
    pub(super) problems: Vec<Problem>,
}

pub(crate) fn tiny(extra: &[&str]) -> LanguageModel {
    tiny_model(extra, POSITIONS)
}

/// Saves a reward that gives every token a value.
fn save_reward(model: &LanguageModel, base: &Path, dir: &Path) {
    let reward = wave_reward(model, 1.0);
    fs::create_dir(dir).unwrap();
    reward.save(dir, &base.display().to_string()).unwrap();
}

/// Generated problems, and the same problems as lines in GSM8K's format.
pub(crate) fn problem_lines(problems: usize) -> (Vec<Problem>, String) {
    let settings = ArithmeticSettings {
        problems,
        ..ArithmeticSettings::default()
    };
    let problems = generate(&settings, Split::Train, 5).unwrap();
    let line = |problem: &Problem| {
        let (reasoning, answer) = (problem.demonstration.as_ref(), problem.answer.as_ref());
        let answer = format!("{}\n#### {}", reasoning.unwrap(), answer.unwrap());
        json!({ "question": problem.question, "answer": answer }).to_string() + "\n"
    };
    let lines = problems.iter().map(line).collect();
    (problems, lines)
}

impl World {
    pub(super) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let model = tiny(&[]);
        let base = dir.path().join("model");
        fs::create_dir(&base).unwrap();
        model.save(&base).unwrap();
        save_reward(&model, &base, &dir.path().join("reward"));
        let (problems, lines) = problem_lines(6);
        fs::write(dir.path().join("problems.jsonl"), lines).unwrap();
        Self { dir, problems }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn assay(&self, arguments: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_assay"))
            .current_dir(self.dir.path())
            .args(arguments.split_whitespace())
            .output()
            .unwrap()
    }

    /// The JSON that a command prints.
    pub(super) fn json(&self, arguments: &str) -> Value {
        let output = self.assay(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The error message of a command that fails with exit status 1.
    pub(super) fn refused(&self, arguments: &str) -> String {
        let output = self.assay(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments}: {said}");
        assert!(output.stdout.is_empty());
        said
    }

    pub(super) fn sampled(&self) -> Vec<ScoredTrace> {
        self.json(
            "sample --model model --problems problems.jsonl --samples 4 --max-tokens 24 --style plain \
             --out sampled.jsonl --json",
        );
        read_traces(&self.path("sampled.jsonl")).unwrap()
    }

    /// Foreign texts of every problem: the demonstration, and one with another answer, by four
    /// generators each.
    pub(super) fn foreign(&self) -> Vec<Value> {
        let mut records = Vec::new();
        for (index, problem) in self.problems.iter().enumerate() {
            let reasoning = problem.demonstration.as_deref().unwrap();
            let answer: usize = problem.answer.as_deref().unwrap().parse().unwrap();
            for generator in ["a", "b/7B", "c", "d"] {
                for shift in [0, 1] {
                    records.push(json!({
                        "id": index,
                        "question": problem.question,
                        "answer": answer.to_string(),
                        "generator": generator,
                        "text": format!("{reasoning}\n#### {}", (answer + shift) % 7),
                    }));
                }
            }
        }
        records
    }

    pub(super) fn write(&self, name: &str, records: &[Value]) {
        let lines: String = records.iter().map(|r| r.to_string() + "\n").collect();
        fs::write(self.path(name), lines).unwrap();
    }
}

/// One value of an estimate.
pub(super) fn value(summary: &Value, name: &str) -> f64 {
    let leaf = name.split('.').fold(summary, |node, part| &node[part]);
    leaf["value"]
        .as_f64()
        .unwrap_or_else(|| panic!("{name} is {leaf}"))
}

fn bits(rewards: &[Option<f32>]) -> Vec<u32> {
    rewards.iter().map(|r| r.unwrap().to_bits()).collect()
}

#[test]
fn sample_score_select_eval_report() {
    let world = World::new();
    let sampled = world.sampled();
    assert_eq!(sampled.len(), 24);
    assert_eq!(sampled[4].question, world.problems[1].question);
    let counts = world.json(
        "score --reward reward --traces sampled.jsonl --policy model --out scored.jsonl --json",
    );
    assert_eq!(
        counts,
        json!({ "scored": 24, "unscored": 0, "too_long": 0, "encoded_again": 0 })
    );
    let scored = read_traces(&world.path("scored.jsonl")).unwrap();
    for (before, after) in sampled.iter().zip(&scored) {
        assert_eq!((&before.id, &before.text), (&after.id, &after.text));
        assert_eq!(before.token_ids, after.token_ids);
        let rewards: Vec<f32> = after.token_rewards.iter().map(|r| r.unwrap()).collect();
        let mean = rewards.iter().sum::<f32>() / rewards.len() as f32;
        assert!((after.scores["mean"] - mean).abs() < 1e-5);
        assert_eq!(after.scores["last"], *rewards.last().unwrap());
        let recomputed = after.policy_logprobs.as_ref().unwrap();
        for (a, b) in before.policy_logprobs.iter().flatten().zip(recomputed) {
            assert!((a - b).abs() < 1e-4, "{a} while sampling, {b} recomputed");
        }
        assert_eq!(
            after.entropies.as_ref().unwrap().len(),
            after.token_ids.len()
        );
    }
    let right = scored.iter().filter(|t| t.correct == Some(true)).count();
    let summary = world.json("eval --traces scored.jsonl --json --out summary.json");
    let all = value(&summary, "select.random.at_2");
    assert!((0.0..=1.0).contains(&all));
    let oracle = world.json("select --traces scored.jsonl --selector oracle --json");
    assert_eq!(
        oracle["select"].as_object().unwrap().keys().len(),
        1,
        "{oracle}"
    );
    let solved = |id: &str| scored.iter().any(|t| t.id == id && t.correct == Some(true));
    let ids: BTreeMap<&str, ()> = scored.iter().map(|t| (t.id.as_str(), ())).collect();
    let share = ids.keys().filter(|id| solved(id)).count() as f64 / ids.len() as f64;
    assert!((value(&oracle, "select.oracle.at_4") - share).abs() < 1e-12);
    assert!(right <= 24 && summary["policy"]["model"].is_object());
    assert!(
        world
            .assay("report --traces scored.jsonl --run . --out report.html")
            .status
            .success()
    );
    let page = fs::read_to_string(world.path("report.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("select.oracle.at_4"));
}

#[test]
fn select_writes_complete_chosen_traces() {
    let world = World::new();
    let trace = |id: &str, judge: f32, finish: FinishReason| ScoredTrace {
        id: id.to_owned(),
        question: format!("{id}?"),
        generator: "g".to_owned(),
        text: format!("{id} {judge}"),
        scores: [("judge".to_owned(), judge)].into(),
        finish_reason: Some(finish),
        ..ScoredTrace::default()
    };
    let traces = [
        trace("p", 0.25, FinishReason::Stop),
        trace("q", 0.75, FinishReason::Length),
        trace("p", 1.0, FinishReason::Length),
        trace("p", 0.5, FinishReason::Stop),
    ];
    write_traces(&world.path("judged.jsonl"), &traces).unwrap();
    let choose = "select --traces judged.jsonl --selector best_of_n";
    let counts = world.json(&format!("{choose} --score judge --out chosen.jsonl --json"));
    let expected = json!({ "chosen": 1, "problems_without": 1, "known": 0, "right": 0 });
    assert_eq!(counts, expected);
    assert_eq!(
        read_traces(&world.path("chosen.jsonl")).unwrap(),
        [traces[3].clone()]
    );
    let said = world.refused(&format!("{choose} --out other.jsonl"));
    assert!(said.contains("lacks the values") && !world.path("other.jsonl").exists());
    let said = world.refused(&format!("{choose} --score judge --out judged.jsonl"));
    assert!(said.contains("would overwrite the input"), "{said}");
}

#[test]
fn sampling_does_not_depend_on_the_batch() {
    let world = World::new();
    let base =
        "sample --model model --problems problems.jsonl --samples 3 --max-tokens 16 --style plain";
    world.json(&format!("{base} --batch 1 --out one.jsonl --json"));
    world.json(&format!("{base} --batch 7 --out seven.jsonl --json"));
    let read = |name| fs::read(world.path(name)).unwrap();
    assert!(read("one.jsonl") == read("seven.jsonl"));
    world.json(&format!("{base} --seed 43 --out other.jsonl --json"));
    assert!(read("one.jsonl") != read("other.jsonl"));
}

/// Both strategies return complete candidates with the rewards that `score` gives them, and count
/// the tokens that they sample.
#[test]
fn search_gives_scored_candidates_and_counts_every_token() {
    let world = World::new();
    for (strategy, samples) in [("beam", 4), ("dvts", 4), ("beam", 2)] {
        let counts = world.json(&format!(
            "search --strategy {strategy} --reward reward --problems problems.jsonl --samples {samples} --width 2 \
             --max-tokens 24 --out found.jsonl --json"
        ));
        let found = read_traces(&world.path("found.jsonl")).unwrap();
        assert_eq!(counts["candidates"], found.len());
        let ids: BTreeMap<&str, ()> = found.iter().map(|t| (t.id.as_str(), ())).collect();
        assert_eq!(ids.len(), 6, "every problem has a candidate");
        let generated = counts["generated_tokens"].as_u64().unwrap() as usize;
        // A prefix is sampled once and shared by its children. The longest candidate of a problem
        // shares none of its tokens.
        let longest = |id: &str| {
            let own = found.iter().filter(|trace| trace.id == id);
            own.map(|trace| trace.token_ids.len()).max().unwrap()
        };
        assert!(found.iter().all(|trace| trace.token_ids.len() <= 24));
        assert!(generated >= ids.keys().map(|id| longest(id)).sum::<usize>());
        assert!(counts["scored_tokens"].as_u64().unwrap() as usize >= generated);
        for trace in &found {
            let ended = trace.token_ids.last() == Some(&0);
            assert!(ended || trace.token_ids.len() == 24, "{trace:?}");
        }
        world.json("score --reward reward --traces found.jsonl --out again.jsonl --json");
        for (a, b) in found
            .iter()
            .zip(&read_traces(&world.path("again.jsonl")).unwrap())
        {
            assert_eq!(bits(&a.token_rewards), bits(&b.token_rewards));
            assert_eq!(
                (&a.correct, &a.scores["mean"]),
                (&b.correct, &b.scores["mean"])
            );
        }
    }
    let said = world.refused(
        "search --reward reward --problems problems.jsonl --samples 5 --width 2 --out found.jsonl",
    );
    assert!(
        said.contains("--samples 5") && said.contains("--width 2"),
        "{said}"
    );
}

#[test]
fn search_does_not_depend_on_the_batch() {
    let world = World::new();
    let base =
        "search --reward reward --problems problems.jsonl --samples 6 --width 3 --max-tokens 20";
    world.json(&format!(
        "{base} --batch 1 --token-budget 64 --out one.jsonl --json"
    ));
    world.json(&format!("{base} --batch 9 --out nine.jsonl --json"));
    let read = |name| fs::read(world.path(name)).unwrap();
    assert!(read("one.jsonl") == read("nine.jsonl"));
    // Results do not depend on the other problems either: a long prefix of another problem must not
    // shorten the steps of this one.
    world.json(&format!("{base} --limit 1 --out alone.jsonl --json"));
    let alone = read("alone.jsonl");
    assert!(!alone.is_empty() && read("one.jsonl").starts_with(&alone));
}

/// Permuting the traces permutes the scored traces. A trace scored alone, with others and with any
/// token budget has the same bits.
#[test]
fn fault_16_scores_stay_with_their_traces() {
    let world = World::new();
    let records = world.foreign();
    world.write("in.jsonl", &records);
    world.json(
        "score --reward reward --policy model --traces in.jsonl --out in-scored.jsonl --json",
    );
    let straight = read_traces(&world.path("in-scored.jsonl")).unwrap();
    let count = records.len();
    // 7 is coprime to the 48 records, so records of one question are no longer adjacent.
    let order: Vec<usize> = (0..count).map(|i| (i * 7 + 3) % count).collect();
    let permuted: Vec<Value> = order.iter().map(|&i| records[i].clone()).collect();
    world.write("permuted.jsonl", &permuted);
    for budget in [1, 100, 100_000] {
        world.json(&format!(
            "score --reward reward --policy model --traces permuted.jsonl --token-budget {budget} \
             --out out.jsonl --json"
        ));
        let out = read_traces(&world.path("out.jsonl")).unwrap();
        for (trace, &origin) in out.iter().zip(&order) {
            assert_eq!(trace, &straight[origin], "budget {budget}");
        }
    }
    world.write("alone.jsonl", &records[17..18]);
    world.json("score --reward reward --policy model --traces alone.jsonl --out out.jsonl --json");
    let alone = read_traces(&world.path("out.jsonl")).unwrap();
    assert_eq!(
        bits(&alone[0].token_rewards),
        bits(&straight[17].token_rewards)
    );
    let others = straight
        .iter()
        .filter(|t| bits(&t.token_rewards) == bits(&alone[0].token_rewards));
    // The four generators wrote the same texts.
    assert_eq!(others.count(), 4);
}

#[test]
fn both_foreign_shapes_give_the_same_traces() {
    let world = World::new();
    let records = world.foreign();
    world.write("flat.jsonl", &records);
    let nested: Vec<Value> = records
        .chunks(8)
        .map(|own| {
            let trace = |r: &Value| json!({ "text": r["text"], "generator": r["generator"] });
            json!({
                "id": own[0]["id"], "question": own[0]["question"], "answer": own[0]["answer"],
                "traces": own.iter().map(trace).collect::<Vec<_>>(),
            })
        })
        .collect();
    world.write("nested.jsonl", &nested);
    for name in ["flat", "nested"] {
        let counts = world.json(&format!(
            "score --reward reward --traces {name}.jsonl --out {name}.out --json"
        ));
        assert_eq!(counts["scored"], 48);
    }
    let flat = fs::read(world.path("flat.out")).unwrap();
    assert!(flat == fs::read(world.path("nested.out")).unwrap());
    let traces = read_traces(&world.path("flat.out")).unwrap();
    let right: Vec<bool> = traces.iter().map(|t| t.correct.unwrap()).collect();
    assert!(right.chunks(2).all(|pair| pair == [true, false]));
    let summary = world.json("eval --traces flat.out --json");
    let pooled = value(&summary, "critic.auroc");
    for generator in ["a", "b_7B", "c", "d"] {
        // All four wrote the same texts, so each has the pooled value.
        let own = value(&summary, &format!("critic.by_generator.{generator}.auroc"));
        assert!((own - pooled).abs() < 1e-12, "{generator}: {own} {pooled}");
    }
}

#[test]
fn traces_that_cannot_be_scored_keep_their_place() {
    let world = World::new();
    let mut records = world.foreign()[..2].to_vec();
    let mut long = records[0].clone();
    long["text"] = json!("1 + 2 = 3; ".repeat(POSITIONS));
    let mut empty = records[0].clone();
    empty["text"] = json!(" ");
    records.splice(1..1, [long, empty]);
    world.write("in.jsonl", &records);
    let counts = world.json("score --reward reward --traces in.jsonl --out out.jsonl --json");
    assert_eq!(
        counts,
        json!({ "scored": 2, "unscored": 2, "too_long": 1, "encoded_again": 0 })
    );
    let traces = read_traces(&world.path("out.jsonl")).unwrap();
    let scored: Vec<bool> = traces.iter().map(|t| !t.scores.is_empty()).collect();
    assert_eq!(scored, [true, false, false, true]);
    assert_eq!(traces[1].text, "1 + 2 = 3; ".repeat(POSITIONS));
    assert!(traces[1].token_rewards.iter().all(Option::is_none));
}

#[test]
fn another_tokenizers_ids_are_not_scored() {
    let world = World::new();
    let mut traces = world.sampled();
    traces[2].token_ids.reverse();
    let last = traces[5].token_ids.len() - 1;
    traces[5].token_ids[last] = 1 << 20;
    write_traces(&world.path("in.jsonl"), &traces).unwrap();
    let counts = world.json("score --reward reward --traces in.jsonl --out out.jsonl --json");
    assert_eq!(counts["encoded_again"], 2);
    let scored = read_traces(&world.path("out.jsonl")).unwrap();
    assert!(scored[2].sampling_logprobs.is_none() && scored[3].sampling_logprobs.is_some());
    // A policy with another tokenizer has no log-probability per token reward.
    let other = tiny(&["9 9", "+ 1"]);
    fs::create_dir(world.path("other")).unwrap();
    other.save(&world.path("other")).unwrap();
    let foreign = json!({ "id": 1, "question": "1 + 1 = ", "text": "1 + 1 = 2" });
    world.write("one.jsonl", &[foreign]);
    let said = world
        .refused("score --reward reward --traces one.jsonl --policy other --out out.jsonl --json");
    assert!(said.contains("other tokens"), "{said}");
}

#[test]
fn localise_injected_errors_and_wrong_steps() {
    let world = World::new();
    let summary = world.json("localise --reward reward --demonstrations problems.jsonl --json");
    let hits: Vec<f64> = [0, 1, 3, 7]
        .map(|w| value(&summary, &format!("localisation.hit_{w}")))
        .into();
    assert!(hits.is_sorted() && hits[3] <= 1.0, "{hits:?}");
    assert_eq!(summary["localisation"]["hit_0"]["n"], 6);
    assert!(value(&summary, "localisation.mrr") > 0.0);
    assert!(summary["localisation"]["baselines"]["chance"].is_object());
    let one =
        world.json("localise --reward reward --demonstrations problems.jsonl --limit 1 --json");
    assert_eq!(one["localisation"]["hit_0"]["n"], 1);

    let steps: Vec<Value> = world
        .problems
        .iter()
        .enumerate()
        .map(|(index, problem)| {
            let text = problem.demonstration.as_deref().unwrap();
            let label = if index % 3 == 0 { -1 } else { 0 };
            json!({ "id": format!("p-{index}"), "generator": "g", "problem": problem.question,
                    "steps": text.lines().collect::<Vec<_>>(), "label": label })
        })
        .collect();
    world.write("steps.txt", &steps);
    fs::write(world.path("steps.json"), Value::from(steps).to_string()).unwrap();
    let by_line = world.json("localise --reward reward --demonstrations steps.txt --json");
    let as_array = world.json("localise --reward reward --demonstrations steps.json --json");
    assert_eq!(by_line, as_array);
    for name in ["f1", "accuracy_wrong", "accuracy_correct"] {
        assert!((0.0..=1.0).contains(&value(&as_array, &format!("processbench.{name}"))));
    }
    let counts = world.json("score --reward reward --traces steps.json --out out.jsonl --json");
    assert_eq!(counts["scored"], 6);
    let scored = read_traces(&world.path("out.jsonl")).unwrap();
    assert_eq!(scored[0].correct, Some(true));
    assert_eq!(scored[1].correct, Some(false));
}

#[test]
fn mistakes_are_named_with_their_file_and_line() {
    let world = World::new();
    world.write("bad.jsonl", &world.foreign()[..2]);
    let mut text = fs::read_to_string(world.path("bad.jsonl")).unwrap();
    text.push_str("{\"id\": 3, \"question\": \n");
    fs::write(world.path("bad.jsonl"), text).unwrap();
    let said = world.refused("score --reward reward --traces bad.jsonl --out out.jsonl");
    assert!(said.contains("bad.jsonl:3"), "{said}");
    assert!(!world.path("out.jsonl").exists());
    for (arguments, named) in [
        (
            "score --reward reward --traces absent.jsonl --out o",
            "absent.jsonl",
        ),
        (
            "score --reward nowhere --traces problems.jsonl --out o",
            "problems.jsonl:1",
        ),
        ("eval --traces absent.jsonl", "absent.jsonl"),
        ("eval --traces bad.jsonl", "bad.jsonl:1"),
        ("select --traces absent.jsonl", "absent.jsonl"),
        (
            "select --traces absent.jsonl --selector majorty",
            "majority",
        ),
        ("eval --traces absent.jsonl --score soft_mim", "soft_min"),
        ("report --traces absent.jsonl --out r.html", "absent.jsonl"),
        ("report --run absent --out r.html", "absent/metrics.jsonl"),
        (
            "sample --model absent --problems problems.jsonl --out o",
            "absent",
        ),
        (
            "sample --model model --problems absent.jsonl --out o",
            "absent.jsonl",
        ),
        (
            "sample --model model --problems problems.jsonl --out o --samples 0",
            "--samples",
        ),
        (
            "sample --model model --problems problems.jsonl --out o",
            "160 positions",
        ),
        (
            "sample --model model --problems problems.jsonl --out o --max-tokens 9 --top-p 2",
            "top_p",
        ),
        (
            "sample --model model --problems problems.jsonl --out no/o",
            "no/o",
        ),
        (
            "localise --reward nowhere --demonstrations problems.jsonl",
            "nowhere",
        ),
        ("localise --reward reward --demonstrations absent", "absent"),
        (
            "localise --reward reward --demonstrations problems.jsonl --kind flip_opertor",
            "flip_operator",
        ),
    ] {
        let said = world.refused(arguments);
        assert!(said.contains(named), "{arguments}: {said}");
        assert!(!world.path("o").exists());
    }
}

/// A reward names its base model. If that is missing, the message names both, and `--model` works.
#[test]
fn a_missing_base_model_can_be_replaced() {
    let world = World::new();
    world.write("in.jsonl", &world.foreign()[..1]);
    fs::rename(world.path("model"), world.path("moved")).unwrap();
    let command = "score --reward reward --traces in.jsonl --out out.jsonl --json";
    let said = world.refused(command);
    assert!(
        said.contains("reward") && said.contains("/model") && said.contains("--model"),
        "{said}"
    );
    assert_eq!(world.json(&format!("{command} --model moved"))["scored"], 1);
}
