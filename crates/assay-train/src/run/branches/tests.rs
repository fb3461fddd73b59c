use std::sync::Arc;

use assay_critic::encode::{EncodeReport, TokenLimits};
use assay_critic::policy_model::Trainable;
use assay_lm::LanguageModel;
use assay_tasks::arithmetic::{ArithmeticSettings, Split, generate};
use assay_tasks::labels::FirstError;
use assay_tasks::prompts::PromptStyle;
use assay_testkit::tiny_model;

use super::*;

const LIMITS: TokenLimits = TokenLimits {
    prompt: 40,
    completion: 48,
};

/// A tiny model, its policy, and the prompt style of its task.
struct World {
    model: LanguageModel,
    policy: PolicyModel,
    prompt: PromptSettings,
    limits: SamplingLimits,
}

impl World {
    fn new() -> Self {
        let model = tiny_model(&[], 128);
        Self {
            policy: PolicyModel {
                transformer: Arc::clone(&model.transformer),
                trainable: Trainable::Whole(Vec::new()),
            },
            prompt: PromptSettings {
                style: PromptStyle::Plain,
                ..PromptSettings::default()
            },
            limits: SamplingLimits {
                max_new_tokens: LIMITS.completion,
                stop_tokens: vec![model.end_of_turn()],
                max_sequences: 64,
            },
            model,
        }
    }

    fn encoder(&self) -> Encoder<'_> {
        Encoder::new(&self.model, &self.prompt, LIMITS)
    }

    fn groups(&self, problems: usize) -> Vec<PromptGroup> {
        let settings = ArithmeticSettings {
            problems,
            ..ArithmeticSettings::default()
        };
        let problems = generate(&settings, Split::Train, 5).unwrap();
        let (encoded, report) = self.encoder().demonstrations(&problems).unwrap();
        assert_eq!(report, EncodeReport::default());
        let groups = encoded.into_iter().enumerate();
        groups
            .map(|(index, own)| PromptGroup::of_demonstration(index, own))
            .collect()
    }

    fn branches(&self, settings: &BranchSettings, iteration: usize) -> Vec<Vec<Trace>> {
        let encoder = self.encoder();
        let branches = Branches {
            settings,
            line_breaks: self.model.tokenizer.line_breaks(),
            from_file: Vec::new(),
        };
        let plan = BranchPlan {
            policy: &self.policy,
            encoder: &encoder,
            limits: &self.limits,
            token_budget: 4096,
            iteration,
            seed: 9,
        };
        branches.of(&self.groups(6), &plan).unwrap()
    }
}

fn settings(place: BranchPlace, end: BranchEnd) -> BranchSettings {
    BranchSettings {
        per_demonstration: 4,
        source: BranchSource::Policy { place, end },
    }
}

/// Tokens of a branch from where it differs from the demonstration.
fn tail(branch: &Trace) -> &[u32] {
    &branch.completion.ids[branch.spans.corrupted_from.unwrap()..]
}

#[test]
fn branches_leave_the_demonstration_where_they_say() {
    let world = World::new();
    for place in [BranchPlace::Uniform, BranchPlace::Surprise] {
        for end in [BranchEnd::Token, BranchEnd::Step, BranchEnd::Trace] {
            let made = world.branches(&settings(place, end), 0);
            let (mut count, mut places) = (0, std::collections::BTreeSet::new());
            for (group, branches) in world.groups(6).iter().zip(&made) {
                let expert = &group.demonstration().unwrap().completion.ids;
                for branch in branches {
                    let from = branch.spans.corrupted_from.unwrap();
                    assert_eq!(branch.role, TraceRole::Perturbed);
                    assert_eq!(branch.completion.diverges_from(expert), Some(from));
                    assert!(branch.spans.corrupted_until.unwrap() > from);
                    assert!(places.insert((group.index, from)), "one place, one branch");
                    count += 1;
                }
            }
            assert!(count >= 18, "{count} of 24 for {place:?} {end:?}");
        }
    }
}

#[test]
fn a_branch_ends_where_it_is_told() {
    let world = World::new();
    let breaks = world.model.tokenizer.line_breaks();
    let stop = world.model.end_of_turn();
    let of = |end| {
        world
            .branches(&settings(BranchPlace::Uniform, end), 0)
            .concat()
    };
    assert!(
        of(BranchEnd::Token)
            .iter()
            .all(|branch| tail(branch).len() == 1)
    );
    for branch in of(BranchEnd::Step) {
        let (last, inner) = tail(&branch).split_last().unwrap();
        assert!(!inner.iter().any(|id| breaks.contains(id) || *id == stop));
        let full = branch.len() == LIMITS.completion;
        assert!(full || breaks.contains(last) || *last == stop);
        let broken = breaks.contains(last) && !inner.is_empty();
        let until = branch.len() - usize::from(broken);
        assert_eq!(branch.spans.corrupted_until, Some(until));
    }
    for branch in of(BranchEnd::Trace) {
        let last = branch.completion.ids.last().unwrap();
        assert!(branch.len() == LIMITS.completion || *last == stop);
        let until = branch.spans.corrupted_until.unwrap();
        let from = branch.spans.corrupted_from.unwrap();
        let span = &branch.completion.ids[from..until];
        let one_line = !span.iter().any(|id| breaks.contains(id)) || span.len() == 1;
        assert!(one_line, "the corrupted span is one line");
    }
}

#[test]
fn another_opening_of_a_step_is_no_branch() {
    let world = World::new();
    let group = &world.groups(1)[0];
    let mut demonstration = group.demonstration().unwrap().clone();
    let text = "so 3*4=5\n5+6=4\n#### 4";
    demonstration.completion = Arc::new(world.encoder().completion(text).unwrap().unwrap());
    let fork = |token: usize| Fork {
        group: 0,
        prompt: &group.prompt,
        demonstration: &demonstration,
        token,
        stream: Stream::new(1, &[]),
    };
    for same in ["then 3*4=5\n", "3*4=5\n", "3*4=5"] {
        assert!(fork(0).is_paraphrase(same), "{same}");
    }
    for other in ["then 3*4=6\n", "3*4\n", "so 3*4=5+1\n"] {
        assert!(!fork(0).is_paraphrase(other), "{other}");
    }
    let second = "so 3*4=5\n".len();
    let line = demonstration.completion.token_at(&(second..second + 1));
    assert!(fork(line).is_paraphrase("so 3*4=5\nok 5+6=4\n"));
    assert!(
        !fork(line + 1).is_paraphrase("so 3*4=5\n5-6=4\n"),
        "inside a step"
    );
}

#[test]
fn branches_are_drawn_anew_each_iteration() {
    let world = World::new();
    let own = settings(BranchPlace::Uniform, BranchEnd::Step);
    assert_eq!(world.branches(&own, 3), world.branches(&own, 3));
    assert_ne!(world.branches(&own, 3), world.branches(&own, 4));
}

#[test]
fn places_follow_their_weights() {
    let mut counts = [0; 4];
    for seed in 0..2000 {
        let drawn = different(&[1.0, 0.0, 3.0, 4.0], 1, &mut Stream::new(seed, &[]));
        counts[drawn[0]] += 1;
    }
    assert_eq!(counts[1], 0);
    assert!(
        (200..300).contains(&counts[0]) && (930..1070).contains(&counts[3]),
        "{counts:?}"
    );
    let mut all = different(&[1.0, 0.0, 3.0, 4.0], 9, &mut Stream::new(1, &[]));
    all.sort_unstable();
    assert_eq!(all, [0, 2, 3], "each once, and none without weight");
}

#[test]
fn wrong_traces_are_aligned_by_their_prefix() {
    let world = World::new();
    let groups = world.groups(3);
    let expert = |index: usize| {
        groups[index]
            .demonstration()
            .unwrap()
            .completion
            .text
            .clone()
    };
    let (id, question) = (&groups[0].problem.id, &groups[1].problem.question);
    let (lines, _) = expert(0)
        .rsplit_once("#### ")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let wrong = |id: Option<&str>, question: Option<&str>, text: &str| WrongTrace {
        id: id.map(str::to_owned),
        question: question.map(str::to_owned),
        text: text.to_owned(),
        ..WrongTrace::default()
    };
    let traces = [
        wrong(Some(id), None, &format!("{lines}#### 9")),
        wrong(None, Some(&format!(" {question}\n")), "1+1=2\n#### 2"),
        wrong(Some(&groups[2].problem.id), None, &expert(2)),
        wrong(Some("nobody"), Some("start 1?"), "1+1=2"),
        wrong(Some(id), None, &"1+1=2\n".repeat(20)),
    ];
    let encoder = world.encoder();
    let (aligned, left_out) = align(&traces, &groups, &encoder, &world.prompt).unwrap();
    let expected = LeftOut {
        unknown: 1,
        equal: 1,
        too_long: 1,
        ..LeftOut::default()
    };
    assert_eq!(left_out, expected);
    let counts: Vec<usize> = aligned.iter().map(Vec::len).collect();
    assert_eq!(counts, [1, 1, 0]);
    let (from, ids) = (
        aligned[0][0].spans.corrupted_from,
        &aligned[0][0].completion.ids,
    );
    assert_eq!(from, Some(ids.len() - 2), "the answer alone differs");
}

#[test]
fn labelled_traces_are_negative_from_their_mark() {
    let world = World::new();
    let groups = world.groups(3);
    let expert = |index: usize| &groups[index].demonstration().unwrap().completion;
    let marked = |index: usize, text: &str, start: usize| WrongTrace {
        question: Some(groups[index].problem.question.clone()),
        text: text.to_owned(),
        first_error: Some(FirstError {
            start,
            end: start + 1,
            token: None,
        }),
        ..WrongTrace::default()
    };
    let text = "1+1=2\n2+3=4\n#### 4";
    let at = text.find('4').unwrap();
    let (lines, _) = expert(0).text.rsplit_once("#### ").unwrap();
    let traces = [
        marked(1, text, at),
        marked(1, "1+1=<<1+1=2>>2\n#### 2", 13),
        marked(0, &format!("{lines}#### 99"), 0),
        marked(2, &expert(2).text, 1),
    ];
    let encoder = world.encoder();
    let (aligned, left_out) = align(&traces, &groups, &encoder, &world.prompt).unwrap();
    let expected = LeftOut {
        equal: 1,
        moved: 1,
        shared: 1,
        ..LeftOut::default()
    };
    assert_eq!(left_out, expected);
    let said = left_out.summary(4, 48);
    assert!(
        said.contains("1 whose text changes before the mark"),
        "{said}"
    );
    let [trace]: [Trace; 1] = aligned.concat().try_into().unwrap();
    let (from, diverges_at) = (trace.spans.corrupted_from, trace.spans.diverges_at);
    assert_eq!(trace.completion.offsets[from.unwrap()], (at, at + 1));
    assert_eq!(diverges_at, trace.completion.diverges_from(&expert(1).ids));
    assert!(
        diverges_at < from,
        "it leaves the demonstration before the mark"
    );
    assert_eq!(trace.spans.corrupted_until, None, "the rest is negative");
}

#[test]
fn a_marked_passage_ends_the_error() {
    let world = World::new();
    let groups = world.groups(2);
    let expert = &groups[1].demonstration().unwrap().completion.text;
    let (line, rest) = expert.split_once('\n').unwrap();
    let digit = line.chars().last().unwrap().to_digit(10).unwrap();
    let wrong_line = format!("{}{}", &line[..line.len() - 1], (digit + 1) % 10);
    let wrong = |text: String| WrongTrace {
        question: Some(groups[1].problem.question.clone()),
        text,
        wrong_span: Some(0..line.len()),
        ..WrongTrace::default()
    };
    let (same, _) = expert.rsplit_once("#### ").unwrap();
    let traces = [
        wrong(format!("{wrong_line}\n{rest}")),
        wrong(format!("{same}#### 99")),
    ];
    let (aligned, left_out) = align(&traces, &groups, &world.encoder(), &world.prompt).unwrap();
    assert_eq!(left_out.shared, 1, "the second one is right in its passage");
    let [trace]: [Trace; 1] = aligned.concat().try_into().unwrap();
    let offsets = |token: Option<usize>| trace.completion.offsets[token.unwrap()];
    // The passage begins with the demonstration's own tokens.
    assert_eq!(
        offsets(trace.spans.corrupted_from),
        (line.len() - 1, line.len())
    );
    assert_eq!(offsets(trace.spans.corrupted_until).0, line.len());
}
