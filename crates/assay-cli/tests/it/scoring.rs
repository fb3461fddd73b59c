//! `assay score`: long prompts, policies without a reward, policies with another template.

use std::fs;

use assay_tasks::trace::ScoredTrace;
use assay_tasks::trace_io::{read_traces, write_traces};
use serde_json::{Value, json};

use crate::commands::World;

impl World {
    /// The traces that a command writes to `out.jsonl`.
    fn scored(&self, arguments: &str) -> Vec<ScoredTrace> {
        self.json(&format!("{arguments} --out out.jsonl --json"));
        read_traces(&self.path("out.jsonl")).unwrap()
    }
}

/// Largest difference between the log-probabilities of two lists of traces.
fn difference(a: &[ScoredTrace], b: &[ScoredTrace]) -> f32 {
    assert_eq!(a.len(), b.len());
    let of = |trace: &ScoredTrace| trace.policy_logprobs.clone().unwrap();
    let pairs = a.iter().zip(b).flat_map(|(a, b)| {
        let (a, b) = (of(a), of(b));
        assert_eq!(a.len(), b.len());
        a.into_iter().zip(b)
    });
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_policy_alone_writes_log_probabilities() {
    let world = World::new();
    let sampled = world.sampled();
    let both = world.scored("score --reward reward --policy model --traces sampled.jsonl");
    for options in ["--model model", "--policy model"] {
        let alone = world.scored(&format!("score {options} --traces sampled.jsonl"));
        assert_eq!(difference(&alone, &both), 0.0);
        assert!(difference(&alone, &sampled) < 1e-4);
        for (trace, with_reward) in alone.iter().zip(&both) {
            assert_eq!(trace.entropies, with_reward.entropies);
            assert!(trace.token_rewards.iter().all(Option::is_none));
            assert_eq!(trace.correct, with_reward.correct);
        }
    }
    // Texts of other programs are rendered in the requested style; with a reward, in its style.
    world.write("foreign.jsonl", &world.foreign()[..6]);
    let both = world.scored("score --reward reward --policy model --traces foreign.jsonl");
    let alone = world.scored("score --model model --style plain --traces foreign.jsonl");
    assert_eq!(difference(&alone, &both), 0.0);
}

#[test]
fn what_scores_must_be_named_once() {
    let world = World::new();
    world.write("in.jsonl", &world.foreign()[..2]);
    for (options, words) in [
        ("", "name a --reward, or a --policy"),
        ("--model model --policy model", "not both"),
        (
            "--reward reward --adapter reward",
            "name the policy with --policy",
        ),
    ] {
        let said = world.refused(&format!(
            "score {options} --traces in.jsonl --out out.jsonl"
        ));
        assert!(said.contains(words), "{options}: {said}");
    }
}

#[test]
fn a_prompt_that_fits_is_read_whole() {
    let world = World::new();
    let foreign = world.foreign()[0].clone();
    let asked = |repeats: usize| -> Value {
        let mut record = foreign.clone();
        record["id"] = json!(repeats);
        record["question"] = json!("1+2=3\n".repeat(repeats));
        record
    };
    // 160 positions: a prompt of more than half of them, and one that leaves no room.
    let per_repeat = {
        world.write("in.jsonl", &[asked(1), asked(2)]);
        let traces = world.scored("score --reward reward --traces in.jsonl");
        traces[1].prompt_token_ids.len() - traces[0].prompt_token_ids.len()
    };
    let fits = 100 / per_repeat;
    world.write("in.jsonl", &[asked(fits), asked(160 / per_repeat)]);
    let counts = world.json("score --reward reward --traces in.jsonl --out out.jsonl --json");
    assert_eq!(
        (&counts["scored"], &counts["too_long"]),
        (&json!(1), &json!(1))
    );
    let traces = read_traces(&world.path("out.jsonl")).unwrap();
    assert_eq!(traces[0].prompt_token_ids.len(), fits * per_repeat);
    assert!(traces[0].token_rewards.iter().all(Option::is_some));
    assert!(traces[1].token_rewards.iter().all(Option::is_none));
    // Sampling needs positions after the prompt. It fails before it samples anything.
    let said = world.refused(
        "sample --model model --problems in.jsonl --format columns --style plain --samples 1 \
         --max-tokens 24 --out sampled.jsonl",
    );
    assert!(said.contains("136 fit beside a completion"), "{said}");
}

#[test]
fn a_policy_reads_its_own_template() {
    let world = World::new();
    fs::create_dir(world.path("other")).unwrap();
    for file in fs::read_dir(world.path("model")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), world.path("other").join(file.file_name())).unwrap();
    }
    let template = "{% for message in messages %}3+{{ message['content'] }}{% if message['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}";
    fs::write(world.path("other/chat_template.jinja"), template).unwrap();
    world.write("in.jsonl", &world.foreign()[..6]);
    let same = world.scored("score --reward reward --policy model --traces in.jsonl");
    let own = world.scored("score --reward reward --policy other --traces in.jsonl");
    assert!(
        difference(&own, &same) > 1e-3,
        "the template made no difference"
    );
    // The rewards, and the prompts stored with them, are the reward's.
    for (own, same) in own.iter().zip(&same) {
        assert_eq!(own.token_rewards, same.token_rewards);
        assert_eq!(own.prompt_token_ids, same.prompt_token_ids);
    }
    let alone = world.scored("score --policy other --style plain --traces in.jsonl");
    assert_eq!(difference(&own, &alone), 0.0);
    // Sampled ids are kept even if the text would be encoded differently.
    let sampled = world.sampled();
    write_traces(&world.path("in.jsonl"), &sampled).unwrap();
    let own = world.scored("score --reward reward --policy other --traces in.jsonl");
    assert!(
        own.iter()
            .zip(&sampled)
            .all(|(a, b)| a.token_ids == b.token_ids)
    );
}
