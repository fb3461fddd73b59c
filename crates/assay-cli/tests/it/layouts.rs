//! Problems in common layouts, passed to the commands that read them.

use std::fs;

use assay_tasks::trace_io::read_traces;
use serde_json::json;

use crate::commands::World;

#[test]
fn columns_are_named_on_the_command_line() {
    let world = World::new();
    let nested = [
        json!({"ask": {"text": "2+2?"}, "cot": "2+2 = 4", "gold": [4]}),
        json!({"ask": {"text": "2+3?"}, "cot": "2+3 = 5", "gold": [5]}),
    ];
    world.write("nested.jsonl", &nested);
    let counts = world.json(
        "sample --model model --problems nested.jsonl --question ask.text --answer gold --samples 1 --max-tokens 2 \
         --style plain --out o.jsonl --json",
    );
    assert_eq!(
        (&counts["traces"], &counts["known"]),
        (&json!(2), &json!(2))
    );
    let traces = read_traces(&world.path("o.jsonl")).unwrap();
    assert_eq!(
        (traces[0].question.as_str(), traces[1].answer.as_deref()),
        ("2+2?", Some("5"))
    );
    let said = world.refused(
        "sample --model model --problems nested.jsonl --question asked --samples 1 --out o.jsonl",
    );
    let expected = "column `asked` is missing; the columns are `ask.text`, `cot`, `gold`";
    assert!(said.contains(expected), "{said}");
    let said = world.refused(
        "localise --reward reward --demonstrations nested.jsonl --question ask.text --demonstration steps --answer gold",
    );
    assert!(
        said.contains("no demonstration: column `steps` is missing"),
        "{said}"
    );
}

#[test]
fn bad_records_are_named_and_left_out() {
    let world = World::new();
    let lines = "{\"question\": \"2+2?\", \"answer\": \"4\", \"score\": NaN}\nbroken\n{\"question\": null}\n";
    fs::write(world.path("bad.jsonl"), lines).unwrap();
    let output = world.assay(
        "sample --model model --problems bad.jsonl --samples 1 --max-tokens 2 --style plain --out o.jsonl",
    );
    let said = String::from_utf8(output.stderr).unwrap();
    for expected in [
        "bad.jsonl: left out 1: not the expected JSON (bad.jsonl:2: ",
        "bad.jsonl: left out 1: empty question (bad.jsonl:3)",
        "bad.jsonl: note for 1: NaN or an infinity",
    ] {
        assert!(said.contains(expected), "{said}");
    }
    assert_eq!(read_traces(&world.path("o.jsonl")).unwrap().len(), 1);
}

#[test]
fn airl_asks_for_no_answer() {
    let world = World::new();
    let records = ["2+2", "2+3", "4+3"].map(|sum| {
        let question = format!("{sum}?");
        json!({ "question": question, "demonstration": format!("so {sum}") })
    });
    world.write("unanswered.jsonl", &records);
    let settings = "[model]\npath = \"model\"\n[data.train]\npath = \"unanswered.jsonl\"\n\
                    format = \"columns\"\n[prompt]\nstyle = \"plain\"\n[lora.policy]\nrank = 2\n\
                    [lora.reward]\nrank = 2\n[sampling]\nsamples = 2\nmax_completion_tokens = 20\n\
                    [policy.start]\nkind = \"base\"\n[run]\niterations = 1\n\
                    prompts_per_iteration = 1\neval_every = 0\n";
    fs::write(world.path("run.toml"), settings).unwrap();
    world.json("train airl --config run.toml --out airl --json");
    let said = world.refused("train grpo --config run.toml --out grpo");
    assert!(said.contains("no answer"), "{said}");
}
