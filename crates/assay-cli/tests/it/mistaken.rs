//! Arguments of the wrong kind, such as a run for a reward: they work or fail with a clear message.

use std::fs;
use std::process::Command;

use assay_tasks::trace_io::{read_traces, write_traces};
use serde_json::{Value, json};

use crate::commands::World;

#[test]
fn checkpoints_and_runs_stand_for_their_reward() {
    let world = World::new();
    world.write("in.jsonl", &world.foreign()[..4]);
    let score = |reward: &str, out: &str| -> Vec<u8> {
        world.json(&format!(
            "score --reward {reward} --traces in.jsonl --out {out} --json"
        ));
        fs::read(world.path(out)).unwrap()
    };
    let own = score("reward", "own.jsonl");
    for (checkpoint, whole) in [
        ("run/checkpoints/iter-2", false),
        ("run/checkpoints/iter-10", true),
    ] {
        let reward = world.path(checkpoint).join("reward");
        fs::create_dir_all(&reward).unwrap();
        for file in fs::read_dir(world.path("reward")).unwrap() {
            let file = file.unwrap();
            if whole {
                fs::copy(file.path(), reward.join(file.file_name())).unwrap();
            }
        }
    }
    assert!(own == score("run/checkpoints/iter-10", "checkpoint.jsonl"));
    assert!(own == score("run", "run.jsonl"));
}

#[test]
fn a_directory_of_runs_names_the_runs() {
    let world = World::new();
    world.write("in.jsonl", &world.foreign()[..2]);
    for run in ["quick/airl", "quick/sft", "swept/dense/seed-1"] {
        fs::create_dir_all(world.path(run)).unwrap();
        fs::write(world.path(run).join("settings.toml"), "seed = 1\n").unwrap();
    }
    for command in [
        "score --reward {} --traces in.jsonl --out out.jsonl",
        "report --run {} --out report.html",
        "export --run {} --format peft --out exported",
        "export --run {} --format tensorboard --out exported",
        "replay --run {}",
    ] {
        let said = world.refused(&command.replace("{}", "quick"));
        assert!(
            said.contains("name one of them: quick/airl, quick/sft"),
            "{said}"
        );
        let said = world.refused(&command.replace("{}", "swept"));
        assert!(
            said.contains("name one of them: swept/dense/seed-1"),
            "{said}"
        );
    }
}

#[test]
fn policies_and_rewards_are_told_apart() {
    let world = World::new();
    let policy = world.path("checkpoint/policy");
    fs::create_dir_all(&policy).unwrap();
    fs::rename(world.path("reward"), world.path("checkpoint/reward")).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(
            world.path("checkpoint/reward").join(file),
            policy.join(file),
        )
        .unwrap();
    }
    world.write("in.jsonl", &world.foreign()[..2]);
    let said = world.refused("score --reward checkpoint/policy --traces in.jsonl --out o.jsonl");
    assert!(
        said.contains("is a policy, not a reward: checkpoint/reward is"),
        "{said}"
    );
    let said = world.refused(
        "sample --model model --adapter checkpoint/reward --problems problems.jsonl --out o.jsonl",
    );
    assert!(
        said.contains("checkpoint/reward is a reward, not a policy"),
        "{said}"
    );
    let said = world.refused("score --reward model --traces in.jsonl --out out.jsonl");
    assert!(said.contains("model is a whole model"), "{said}");
    let said = world.refused("calibrate --traces in.jsonl --reward model");
    assert!(said.contains("model is not a reward directory"), "{said}");
}

#[test]
fn unscored_traces_are_not_called_broken() {
    let world = World::new();
    world.write("foreign.jsonl", &world.foreign()[..8]);
    for command in ["eval", "show", "select"] {
        let said = world.refused(&format!("{command} --traces foreign.jsonl"));
        assert!(
            said.contains("foreign.jsonl:1") && said.contains("`assay score` makes one read them"),
            "{command}: {said}"
        );
    }
    let mut sampled = world.sampled();
    for (index, trace) in sampled.iter_mut().enumerate() {
        trace.correct = Some(index % 2 == 0);
    }
    write_traces(&world.path("sampled.jsonl"), &sampled).unwrap();
    let said = world.refused("select --traces sampled.jsonl --selector best_of_n");
    assert!(
        said.contains("sampled.jsonl lacks the values that `best_of_n` needs"),
        "{said}"
    );
}

#[test]
fn a_trace_without_question_is_left_out() {
    let world = World::new();
    let mut records = world.foreign()[..3].to_vec();
    records[1]["question"] = Value::from("");
    world.write("in.jsonl", &records);
    let counts = world.json("score --reward reward --traces in.jsonl --out out.jsonl --json");
    assert_eq!(
        counts,
        json!({ "scored": 2, "unscored": 1, "too_long": 0, "encoded_again": 0 })
    );
    let traces = read_traces(&world.path("out.jsonl")).unwrap();
    let scored: Vec<bool> = traces.iter().map(|t| !t.scores.is_empty()).collect();
    assert_eq!(scored, [true, false, true]);
}

#[test]
fn unreasonable_options_are_refused_at_once() {
    let world = World::new();
    let said = world.assay(
        "sample --model model --problems problems.jsonl --out o.jsonl --samples 99999999999",
    );
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("must lie between 1 and 65536"), "{said}");
    for (place, reason) in [
        ("nowhere", "give HOST:PORT"),
        ("localhost:port", "give HOST:PORT"),
    ] {
        let said = world.assay(&format!("serve --reward reward --addr {place}"));
        let said = String::from_utf8(said.stderr).unwrap();
        assert!(said.contains(reason), "{place}: {said}");
    }
}

#[test]
fn an_adapter_is_sampled_with_its_runs_prompts() {
    let world = World::new();
    let policy = world.path("run/checkpoints/iter-1/policy");
    fs::create_dir_all(&policy).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(world.path("reward").join(file), policy.join(file)).unwrap();
    }
    fs::write(
        world.path("run/settings.toml"),
        "[prompt]\nstyle = \"plain\"\n",
    )
    .unwrap();
    let sample = |options: &str, out: &str| -> (Value, Vec<u8>) {
        let counts = world.json(&format!(
            "sample --model model --adapter run/checkpoints/iter-1/policy --problems problems.jsonl --samples 2 \
             --max-tokens 8 --out {out} --json {options}"
        ));
        (counts, fs::read(world.path(out)).unwrap())
    };
    let (counts, own) = sample("", "own.jsonl");
    assert!(own == sample("--style plain", "plain.jsonl").1);
    assert!(own != sample("--style gsm8k", "gsm8k.jsonl").1);
    let traces = read_traces(&world.path("own.jsonl")).unwrap();
    let unanswered = traces.iter().filter(|t| t.predicted_answer.is_none());
    assert_eq!(counts["unanswered"], unanswered.count());
    let said = world
        .assay("sample --model model --problems problems.jsonl --out o.jsonl --style think_answer");
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(!said.contains("invalid value"), "{said}");
}

#[test]
fn a_relative_base_is_found_from_anywhere() {
    let world = World::new();
    let config = world.path("reward/adapter_config.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    json["base_model_name_or_path"] = json!("model");
    fs::write(&config, json.to_string()).unwrap();
    world.write("in.jsonl", &world.foreign()[..2]);
    fs::create_dir(world.path("elsewhere")).unwrap();
    let scored = Command::new(env!("CARGO_BIN_EXE_assay"))
        .current_dir(world.path("elsewhere"))
        .args("score --reward ../reward --traces ../in.jsonl --out o.jsonl".split_whitespace())
        .output()
        .unwrap();
    assert!(
        scored.status.success(),
        "{}",
        String::from_utf8_lossy(&scored.stderr)
    );
}

#[test]
fn directories_of_something_else_are_left_alone() {
    let world = World::new();
    let said = world.refused("quickstart --out problems.jsonl");
    assert!(
        said.contains("cannot make the directory problems.jsonl"),
        "{said}"
    );
    fs::create_dir(world.path("run")).unwrap();
    fs::write(world.path("run/settings.toml"), "").unwrap();
    let said = world.refused("quickstart --out run");
    assert!(said.contains("run holds a training run"), "{said}");
    let said = world.refused("export --run run --format tensorboard --checkpoint 3 --out events");
    assert!(said.contains("--checkpoint selects weights"), "{said}");
}

#[test]
fn a_choice_among_generators_is_asked_for() {
    let world = World::new();
    let records: Vec<Value> = world.foreign().into_iter().step_by(2).collect();
    world.write("in.jsonl", &records);
    world.json("score --reward reward --traces in.jsonl --out out.jsonl --json");
    let said = world.refused("select --traces out.jsonl");
    assert!(said.contains("--among problem"), "{said}");
    let chosen = world.json("select --traces out.jsonl --among problem --json");
    let random = &chosen["select"]["random"]["at_4"];
    assert_eq!(
        (random["value"].as_f64(), random["n"].as_u64()),
        (Some(1.0), Some(6))
    );
}
