//! The built-in task of `assay quickstart --task deduction`: chains of rules about invented things,
//! in words. The expert applies one or several rules per line.
//!
//! A question states two facts and shuffled rules and asks whether a thing is of some kind. There
//! are no digits. `tam is a vex. ulo is a quol. every lorn is not a dax. every quol is a dax.
//! every vex is a lorn. is tam a dax?` is demonstrated by
//! ```text
//! so tam is a vex
//! vex is a lorn
//! lorn is not a dax
//! #### no
//! ```
//! Each line applies one fact or rule, or with [`DeductionSettings::skip_probability`] several at
//! once: `tam must be a lorn`, `vex cannot be a dax`. Some lines open with a connective. The other
//! rules form a second chain, about the other thing, that ends in the opposite.
//!
//! Training and test ontologies are disjoint by construction: the hash of a problem's set of rules
//! decides its split. Every question and every [`crate::prompts::PromptStyle::Plain`] completion is
//! a concatenation of [`vocabulary`] entries.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::TasksError;
use crate::arithmetic::Split;
use crate::problem::Problem;
use crate::random::{Stream, StreamKey};

/// The size and difficulty of the generated task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeductionSettings {
    /// Problems to generate.
    pub problems: usize,
    /// Minimum number of rules from the thing's kind to the answer.
    pub fewest_rules: usize,
    /// Maximum number of rules from the thing's kind to the answer.
    pub most_rules: usize,
    /// Number of rules of the chain that leads elsewhere.
    pub distractors: usize,
    /// Probability that a line of the demonstration applies several rules.
    pub skip_probability: f64,
    /// Minimum number of rules of such a line, if enough are left.
    pub fewest_skipped: usize,
    /// Maximum number of rules of such a line.
    pub most_skipped: usize,
    /// Probability that a line opens with a connective.
    pub word_probability: f64,
}

impl Default for DeductionSettings {
    fn default() -> Self {
        Self {
            problems: 12_000,
            fewest_rules: 3,
            most_rules: 4,
            distractors: 2,
            skip_probability: 0.25,
            fewest_skipped: 3,
            most_skipped: 4,
            word_probability: 0.5,
        }
    }
}

/// Generates different problems of one split; the first `n` are the same for every number of
/// problems.
///
/// # Errors
/// [`TasksError::Deduction`] for settings out of range, or that allow fewer different problems than
/// were requested.
pub fn generate(
    settings: &DeductionSettings,
    split: Split,
    seed: u64,
) -> Result<Vec<Problem>, TasksError> {
    check(settings)?;
    let mut seen = BTreeSet::new();
    let mut problems = Vec::with_capacity(settings.problems.min(1 << 20));
    let draws = settings
        .problems
        .saturating_mul(DRAWS_A_PROBLEM)
        .saturating_add(1000);
    for draw in 0..draws {
        if problems.len() == settings.problems {
            break;
        }
        let mut stream = StreamKey::Deduction.stream(seed, &[draw as u64]);
        let world = World::draw(settings, &mut stream);
        let question = world.question(&mut stream);
        if Split::of(&world.ontology()) != split || !seen.insert(question.clone()) {
            continue;
        }
        problems.push(Problem {
            id: format!("deduction-{}-{}", split.name(), problems.len()),
            question,
            demonstration: Some(world.demonstration(settings, &mut stream)),
            answer: Some(if world.asked.denies { "no" } else { "yes" }.to_owned()),
        });
    }
    if problems.len() < settings.problems {
        let problem = format!(
            "only {} of {} different problems found",
            problems.len(),
            settings.problems
        );
        return Err(TasksError::Deduction { problem });
    }
    Ok(problems)
}

/// The texts whose concatenations are the task's questions and completions. A concatenation is read
/// by taking the longest match first. Special tokens (padding, end of turn) are the tokenizer's
/// own.
pub fn vocabulary() -> Vec<&'static str> {
    let connectives = CONNECTIVES.iter().map(|(word, _)| *word);
    let names = THINGS.into_iter().chain(KINDS);
    LAYOUT.into_iter().chain(connectives).chain(names).collect()
}

/// Maximum number of draws for one new problem of a split. If they fail, the settings are an error.
const DRAWS_A_PROBLEM: usize = 200;

/// Connectives with their cumulative probabilities in hundredths: a long tail.
const CONNECTIVES: [(&str, usize); 8] = [
    ("so ", 30),
    ("then ", 55),
    ("now ", 70),
    ("next ", 80),
    ("thus ", 88),
    ("ok ", 94),
    ("well ", 98),
    ("hence ", 100),
];

const LAYOUT: [&str; 13] = [
    " is a ",
    " is not a ",
    " must be a ",
    " cannot be a ",
    ". every ",
    ". is ",
    ". ",
    " a ",
    "?",
    "\n",
    "#### ",
    "yes",
    "no",
];

/// Names of things.
const THINGS: [&str; 8] = ["tam", "ulo", "pim", "ria", "ked", "fay", "jun", "wes"];

/// Names of kinds.
const KINDS: [&str; 8] = ["vex", "lorn", "brim", "grap", "zork", "dax", "flim", "quol"];

/// A thing, its successive kinds, and whether the last one is negated.
struct Chain {
    names: Vec<&'static str>,
    denies: bool,
}

impl Chain {
    /// The statement that leads from one name to a later one.
    fn statement(&self, from: usize, to: usize) -> String {
        let denied = self.denies && to + 1 == self.names.len();
        let verb = match (to - from, denied) {
            (1, false) => "is a",
            (1, true) => "is not a",
            (_, false) => "must be a",
            (_, true) => "cannot be a",
        };
        format!("{} {verb} {}", self.names[from], self.names[to])
    }

    /// Statements about kinds, in order.
    fn rules(&self) -> impl Iterator<Item = String> + '_ {
        let steps = 1..self.names.len() - 1;
        steps.map(|from| format!("every {}", self.statement(from, from + 1)))
    }
}

/// Two chains that end in the same kind; one of them negates it.
struct World {
    asked: Chain,
    other: Chain,
}

impl World {
    fn draw(settings: &DeductionSettings, stream: &mut Stream) -> Self {
        let (mut things, mut kinds) = (THINGS.to_vec(), KINDS.to_vec());
        stream.shuffle(&mut things);
        stream.shuffle(&mut kinds);
        let rules = between(settings.fewest_rules, settings.most_rules, stream);
        let (last, rest) = (kinds[0], &kinds[1..]);
        let (own, others) = rest.split_at(rules);
        let chain = |thing, kinds: &[&'static str], denies| Chain {
            names: [&[thing], kinds, &[last]].concat(),
            denies,
        };
        let denies = stream.below(2) == 1;
        Self {
            asked: chain(things[0], own, denies),
            other: chain(things[1], &others[..settings.distractors], !denies),
        }
    }

    /// The rules in alphabetical order: equal for equal ontologies, whatever the order and the
    /// things.
    fn ontology(&self) -> String {
        let rules: BTreeSet<String> = self.asked.rules().chain(self.other.rules()).collect();
        rules.into_iter().collect::<Vec<_>>().join(". ")
    }

    fn question(&self, stream: &mut Stream) -> String {
        let mut facts = vec![self.asked.statement(0, 1), self.other.statement(0, 1)];
        let mut rules: Vec<String> = self.asked.rules().chain(self.other.rules()).collect();
        stream.shuffle(&mut facts);
        stream.shuffle(&mut rules);
        facts.append(&mut rules);
        let (thing, kind) = (
            self.asked.names[0],
            self.asked.names[self.asked.names.len() - 1],
        );
        format!("{}. is {thing} a {kind}?", facts.join(". "))
    }

    fn demonstration(&self, settings: &DeductionSettings, stream: &mut Stream) -> String {
        let last = self.asked.names.len() - 1;
        let mut lines = Vec::new();
        let mut done = 0;
        while done < last {
            let skips = stream.uniform_f64() < settings.skip_probability;
            let count = match skips {
                true => between(settings.fewest_skipped, settings.most_skipped, stream),
                false => 1,
            };
            let end = (done + count).min(last);
            let worded = stream.uniform_f64() < settings.word_probability;
            let opening = if worded { connective(stream) } else { "" };
            lines.push(format!("{opening}{}", self.asked.statement(done, end)));
            done = end;
        }
        lines.join("\n")
    }
}

fn connective(stream: &mut Stream) -> &'static str {
    let drawn = stream.below(100);
    let mut likely = CONNECTIVES.iter().filter(|(_, below)| drawn < *below);
    likely.next().map_or("", |(word, _)| word)
}

fn between(min: usize, max: usize, stream: &mut Stream) -> usize {
    min + stream.below(max - min + 1)
}

fn check(settings: &DeductionSettings) -> Result<(), TasksError> {
    let probability = |value: f64| (0.0..=1.0).contains(&value);
    let kinds = settings.most_rules.saturating_add(settings.distractors);
    let problem = if settings.fewest_rules == 0 || settings.fewest_rules > settings.most_rules {
        "fewest_rules must be 1 to most_rules".to_owned()
    } else if settings.distractors == 0 || kinds >= KINDS.len() {
        let most = KINDS.len() - 1;
        format!("distractors must be at least 1, and with most_rules at most {most}")
    } else if settings.fewest_skipped < 2 || settings.fewest_skipped > settings.most_skipped {
        "fewest_skipped must be 2 to most_skipped".to_owned()
    } else if !probability(settings.skip_probability) || !probability(settings.word_probability) {
        "probabilities must be 0 to 1".to_owned()
    } else {
        return Ok(());
    };
    Err(TasksError::Deduction { problem })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::{AnswerForm, extract_strict};
    use crate::problem::assert_disjoint;
    use crate::prompts::{PromptSettings, PromptStyle};

    fn settings(problems: usize) -> DeductionSettings {
        DeductionSettings {
            problems,
            ..DeductionSettings::default()
        }
    }

    /// Rules and facts of a question, as `name -> (whether it is negated, kind)`.
    fn stated(question: &str) -> BTreeSet<(String, bool, String)> {
        let sentences = question.rsplit_once(". is ").unwrap().0.split(". ");
        let stated = sentences.map(|sentence| {
            let sentence = sentence.trim_start_matches("every ");
            let denied = sentence.contains(" is not a ");
            let plain = sentence.replace(" not ", " ");
            let (name, kind) = plain.split_once(" is a ").unwrap();
            (name.to_owned(), denied, kind.to_owned())
        });
        stated.collect()
    }

    /// Follows the stated rules for `steps` steps, or to the end.
    fn follow(question: &str, from: &str, to: &str) -> Option<(usize, bool)> {
        let rules = stated(question);
        let (mut name, mut steps) = (from.to_owned(), 0);
        loop {
            let (_, denied, kind) = rules.iter().find(|(premise, ..)| *premise == name)?;
            steps += 1;
            if kind == to {
                return Some((steps, *denied));
            }
            name.clone_from(kind);
        }
    }

    #[test]
    fn every_line_follows_from_the_question() {
        for problem in generate(&settings(300), Split::Train, 1).unwrap() {
            let (_, asked) = problem.question.rsplit_once(". is ").unwrap();
            let (thing, kind) = asked.trim_end_matches('?').split_once(" a ").unwrap();
            let mut subject = thing.to_owned();
            for line in problem.demonstration.as_deref().unwrap().lines() {
                let (left, object) = line.rsplit_once(" a ").unwrap();
                let opened = left.split(' ').skip_while(|word| *word != subject);
                let verb: Vec<&str> = opened.skip(1).collect();
                let (steps, denied) = follow(&problem.question, &subject, object).unwrap();
                let expected = match (steps, denied) {
                    (1, false) => "is",
                    (1, true) => "is not",
                    (_, false) => "must be",
                    (_, true) => "cannot be",
                };
                assert_eq!(verb.join(" "), expected, "{line}");
                subject = object.to_owned();
            }
            assert_eq!(subject, kind);
            let (_, denied) = follow(&problem.question, thing, kind).unwrap();
            let answer = if denied { "no" } else { "yes" };
            assert_eq!(problem.answer.as_deref(), Some(answer));
        }
    }

    #[test]
    fn the_other_chain_says_the_opposite() {
        for problem in generate(&settings(100), Split::Train, 2).unwrap() {
            let rules = stated(&problem.question);
            let (_, kind) = problem.question.rsplit_once(" a ").unwrap();
            let last = rules
                .iter()
                .filter(|(_, _, object)| object == kind.trim_end_matches('?'));
            let denied: Vec<bool> = last.map(|(_, denied, _)| *denied).collect();
            assert_eq!(denied.len(), 2);
            assert_ne!(denied[0], denied[1]);
        }
    }

    #[test]
    fn no_two_splits_share_an_ontology() {
        let rules = |problem: &Problem| {
            let rules = problem
                .question
                .split(". ")
                .filter(|rule| rule.starts_with("every "));
            rules.map(str::to_owned).collect::<BTreeSet<String>>()
        };
        let of = |count, split, seed| generate(&settings(count), split, seed).unwrap();
        let train = of(2000, Split::Train, 1);
        let (validation, test) = (of(300, Split::Validation, 2), of(300, Split::Test, 3));
        assert_disjoint(&train, &validation, &test).unwrap();
        let known: BTreeSet<_> = train.iter().map(rules).collect();
        assert!(
            validation
                .iter()
                .chain(&test)
                .all(|problem| !known.contains(&rules(problem)))
        );
        assert_eq!(of(10, Split::Train, 1), train[..10]);
        // The split depends on the rules alone, so the same rules about other things stay in it.
        let mut world = World::draw(&settings(1), &mut Stream::new(4, &[]));
        let before = world.ontology();
        world.asked.names[0] = "someone";
        assert_eq!(world.ontology(), before);
    }

    #[test]
    fn texts_are_spelled_without_a_digit() {
        let plain = PromptSettings {
            style: PromptStyle::Plain,
            ..PromptSettings::default()
        };
        let entries = vocabulary();
        assert!(
            entries
                .iter()
                .all(|entry| !entry.contains(|c: char| c.is_ascii_digit()))
        );
        assert_eq!(entries.iter().collect::<BTreeSet<_>>().len(), entries.len());
        for problem in generate(&settings(300), Split::Test, 4).unwrap() {
            let text = plain.demonstration(&problem).unwrap();
            for text in [text.as_str(), problem.question.as_str()] {
                let mut rest = text;
                while !rest.is_empty() {
                    let matching = entries.iter().filter(|entry| rest.starts_with(**entry));
                    let longest = matching.max_by_key(|entry| entry.len());
                    rest = &rest[longest
                        .unwrap_or_else(|| panic!("{text:?} at {rest:?}"))
                        .len()..];
                }
            }
            let found = extract_strict(&text, AnswerForm::Hashes).unwrap();
            assert_eq!(Some(found.text), problem.answer.as_deref());
        }
    }

    #[test]
    fn impossible_settings_are_errors() {
        let narrow = DeductionSettings {
            fewest_rules: 9,
            most_rules: 12,
            distractors: 8,
            ..settings(1)
        };
        let error = generate(&narrow, Split::Train, 0).unwrap_err().to_string();
        assert!(error.starts_with("deduction task: distractors"), "{error}");
        for bad in [
            DeductionSettings {
                fewest_rules: 0,
                ..settings(1)
            },
            DeductionSettings {
                fewest_skipped: 1,
                ..settings(1)
            },
            DeductionSettings {
                skip_probability: f64::NAN,
                ..settings(1)
            },
        ] {
            assert!(generate(&bad, Split::Train, 0).is_err());
        }
    }
}
