//! The built-in task of `assay quickstart`: several operations of clock arithmetic. The expert
//! writes one or several operations per line.
//!
//! A question lists operations to apply from left to right; every value is kept modulo a small
//! number, so a value is one digit. `start 3 times 4 add 6 take 2:` is demonstrated by
//! ```text
//! so 3*4=5
//! 5+6-2=2
//! #### 2
//! ```
//! Each line does one operation, or with [`ArithmeticSettings::merge_probability`] several at once;
//! some lines open with a connective. No factor is zero, so with a prime modulus an error always
//! changes the answer.
//!
//! Training and test problems are disjoint by construction: the hash of a question decides its
//! split. Every question and every [`crate::prompts::PromptStyle::Plain`] completion is a
//! concatenation of [`vocabulary`] entries.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::TasksError;
use crate::problem::Problem;
use crate::random::{Stream, StreamKey, text_key};

/// The size and difficulty of the generated task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ArithmeticSettings {
    /// Problems to generate.
    pub problems: usize,
    /// Values are kept modulo this; 2 to 10.
    pub modulus: u32,
    /// Minimum number of operations of a problem.
    pub fewest_operations: usize,
    /// Maximum number of operations of a problem.
    pub most_operations: usize,
    /// Largest operand; the smallest is 2. At most 9.
    pub largest_operand: u32,
    /// Probability that a line of the demonstration does several operations.
    pub merge_probability: f64,
    /// Minimum number of operations of such a line, if enough are left.
    pub fewest_merged: usize,
    /// Maximum number of operations of such a line.
    pub most_merged: usize,
    /// Probability that a line opens with a connective.
    pub word_probability: f64,
}

impl Default for ArithmeticSettings {
    fn default() -> Self {
        Self {
            problems: 12_000,
            modulus: 7,
            fewest_operations: 4,
            most_operations: 6,
            largest_operand: 6,
            merge_probability: 0.25,
            fewest_merged: 3,
            most_merged: 4,
            word_probability: 0.5,
        }
    }
}

/// A part of the task's problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Problems for training.
    Train,
    /// Problems for choosing temperatures, scores and checkpoints.
    Validation,
    /// Problems for reported results.
    Test,
}

impl Split {
    /// The split a text belongs to: one eighth each for validation and test, by hash.
    pub fn of(text: &str) -> Self {
        match text_key(text) % 8 {
            0 => Split::Test,
            1 => Split::Validation,
            _ => Split::Train,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Validation => "validation",
            Split::Test => "test",
        }
    }
}

/// Generates different problems of one split; the first `n` are the same for every number of
/// problems.
///
/// # Errors
/// [`TasksError::Arithmetic`] for settings out of range, or that allow fewer different problems
/// than were requested.
pub fn generate(
    settings: &ArithmeticSettings,
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
        let mut stream = StreamKey::Arithmetic.stream(seed, &[draw as u64]);
        let chain = Chain::draw(settings, &mut stream);
        let question = chain.question();
        if Split::of(&question) != split || !seen.insert(question.clone()) {
            continue;
        }
        problems.push(Problem {
            id: format!("arithmetic-{}-{}", split.name(), problems.len()),
            question,
            demonstration: Some(chain.demonstration(settings, &mut stream)),
            answer: Some(chain.value_after(chain.operations.len()).to_string()),
        });
    }
    if problems.len() < settings.problems {
        let problem = format!(
            "only {} of {} different problems found",
            problems.len(),
            settings.problems
        );
        return Err(TasksError::Arithmetic { problem });
    }
    Ok(problems)
}

/// The texts whose concatenations are the task's questions and completions. A concatenation is read
/// by taking the longest match first. Special tokens (padding, end of turn) are the tokenizer's
/// own.
pub fn vocabulary() -> &'static [&'static str] {
    &VOCABULARY
}

/// The characters a perturbed completion of this task may have: its digits, operators, words and
/// layout.
///
/// For [`crate::perturbations::Registry::within`]: a digit that the task never uses would reveal a
/// corruption.
pub fn alphabet(settings: &ArithmeticSettings) -> String {
    let highest = settings
        .modulus
        .saturating_sub(1)
        .max(settings.largest_operand)
        .min(9);
    let digits = (0..=highest).filter_map(|digit| char::from_digit(digit, 10));
    let words = VOCABULARY
        .iter()
        .filter(|entry| !entry.starts_with(|c: char| c.is_ascii_digit()));
    digits
        .chain(words.flat_map(|entry| entry.chars()))
        .collect()
}

/// Maximum number of draws for one new problem of a split. If they fail, the settings are an error.
const DRAWS_A_PROBLEM: usize = 200;

/// Connectives with their cumulative probabilities in hundredths: a long tail.
const WORDS: [(&str, usize); 8] = [
    ("so ", 30),
    ("then ", 55),
    ("now ", 70),
    ("next ", 80),
    ("thus ", 88),
    ("ok ", 94),
    ("well ", 98),
    ("hence ", 100),
];

const VOCABULARY: [&str; 29] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "+", "-", "*", "=", "\n", "#### ", ":",
    "start ", " add ", " take ", " times ", "so ", "then ", "now ", "next ", "thus ", "ok ",
    "well ", "hence ",
];

#[derive(Clone, Copy)]
enum Operation {
    Add,
    Take,
    Times,
}

impl Operation {
    fn word(self) -> &'static str {
        match self {
            Operation::Add => " add ",
            Operation::Take => " take ",
            Operation::Times => " times ",
        }
    }

    fn sign(self) -> char {
        match self {
            Operation::Add => '+',
            Operation::Take => '-',
            Operation::Times => '*',
        }
    }

    fn apply(self, value: u32, operand: u32, modulus: u32) -> u32 {
        match self {
            Operation::Add => (value + operand) % modulus,
            Operation::Take => (value + modulus - operand % modulus) % modulus,
            Operation::Times => value * operand % modulus,
        }
    }
}

/// A start value and the operations applied to it from left to right.
struct Chain {
    start: u32,
    operations: Vec<(Operation, u32)>,
    modulus: u32,
}

impl Chain {
    fn draw(settings: &ArithmeticSettings, stream: &mut Stream) -> Self {
        let count = between(settings.fewest_operations, settings.most_operations, stream);
        let start = 1 + stream.below(settings.modulus as usize - 1) as u32;
        let mut value = start;
        let mut operations = Vec::with_capacity(count);
        for _ in 0..count {
            let choices = [Operation::Add, Operation::Take, Operation::Times];
            let operation = choices[stream.below(if value == 0 { 2 } else { 3 })];
            let operand = 2 + stream.below(settings.largest_operand as usize - 1) as u32;
            operations.push((operation, operand));
            value = operation.apply(value, operand, settings.modulus);
        }
        Self {
            start,
            operations,
            modulus: settings.modulus,
        }
    }

    fn value_after(&self, count: usize) -> u32 {
        let first = self.operations.iter().take(count);
        first.fold(self.start, |value, &(operation, operand)| {
            operation.apply(value, operand, self.modulus)
        })
    }

    fn question(&self) -> String {
        let mut text = format!("start {}", self.start);
        for (operation, operand) in &self.operations {
            text.push_str(operation.word());
            text.push_str(&operand.to_string());
        }
        text.push(':');
        text
    }

    fn demonstration(&self, settings: &ArithmeticSettings, stream: &mut Stream) -> String {
        let mut lines = Vec::new();
        let mut done = 0;
        while done < self.operations.len() {
            let merged = stream.uniform_f64() < settings.merge_probability;
            let count = if merged {
                between(settings.fewest_merged, settings.most_merged, stream)
            } else {
                1
            };
            let end = (done + count).min(self.operations.len());
            let mut line = String::new();
            if stream.uniform_f64() < settings.word_probability {
                let drawn = stream.below(100);
                line.push_str(
                    WORDS
                        .iter()
                        .find(|(_, below)| drawn < *below)
                        .map_or("", |(word, _)| word),
                );
            }
            line.push_str(&self.value_after(done).to_string());
            for (operation, operand) in &self.operations[done..end] {
                line.push(operation.sign());
                line.push_str(&operand.to_string());
            }
            lines.push(format!("{line}={}", self.value_after(end)));
            done = end;
        }
        lines.join("\n")
    }
}

fn between(min: usize, max: usize, stream: &mut Stream) -> usize {
    min + stream.below(max - min + 1)
}

fn check(settings: &ArithmeticSettings) -> Result<(), TasksError> {
    let probability = |value: f64| (0.0..=1.0).contains(&value);
    let problem = if !(2..=10).contains(&settings.modulus) {
        "modulus must be 2 to 10"
    } else if !(2..=9).contains(&settings.largest_operand) {
        "largest_operand must be 2 to 9"
    } else if settings.fewest_operations == 0
        || settings.fewest_operations > settings.most_operations
    {
        "fewest_operations must be 1 to most_operations"
    } else if settings.fewest_merged == 0 || settings.fewest_merged > settings.most_merged {
        "fewest_merged must be 1 to most_merged"
    } else if !probability(settings.merge_probability) || !probability(settings.word_probability) {
        "probabilities must be 0 to 1"
    } else {
        return Ok(());
    };
    Err(TasksError::Arithmetic {
        problem: problem.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::{AnswerForm, extract_strict};
    use crate::perturbations::{DemonstrationGroup, Registry};
    use crate::problem::assert_disjoint;
    use crate::prompts::{PromptSettings, PromptStyle};

    fn settings(problems: usize) -> ArithmeticSettings {
        ArithmeticSettings {
            problems,
            ..ArithmeticSettings::default()
        }
    }

    fn plain() -> PromptSettings {
        PromptSettings {
            style: PromptStyle::Plain,
            ..PromptSettings::default()
        }
    }

    /// Left-to-right value of `a+b*c` modulo 7.
    fn evaluate(expression: &str) -> i64 {
        let characters: Vec<char> = expression.chars().collect();
        let digit = |at: usize| i64::from(characters[at].to_digit(10).unwrap());
        (1..characters.len())
            .step_by(2)
            .fold(digit(0), |value, at| {
                let value = match characters[at] {
                    '+' => value + digit(at + 1),
                    '-' => value - digit(at + 1),
                    '*' => value * digit(at + 1),
                    other => panic!("{other}"),
                };
                value.rem_euclid(7)
            })
    }

    #[test]
    fn every_demonstration_line_is_right_and_continues() {
        for problem in generate(&settings(300), Split::Train, 1).unwrap() {
            let words = [
                ("start ", ""),
                (" add ", "+"),
                (" take ", "-"),
                (" times ", "*"),
                (":", ""),
            ];
            let expression = words
                .iter()
                .fold(problem.question.clone(), |text, (word, sign)| {
                    text.replace(word, sign)
                });
            let mut value = expression[..1].to_owned();
            let mut operations = value.clone();
            for line in problem.demonstration.unwrap().lines() {
                let (left, right) = line.split_once('=').unwrap();
                let left = left.rsplit(' ').next().unwrap();
                assert!(left.starts_with(&value));
                assert_eq!(evaluate(left).to_string(), right);
                operations.push_str(&left[1..]);
                value = right.to_owned();
            }
            assert_eq!(operations, expression);
            assert_eq!(
                (problem.answer.as_deref(), evaluate(&expression).to_string()),
                (Some(value.as_str()), value.clone())
            );
        }
    }

    #[test]
    fn splits_never_meet_whatever_the_seed() {
        let train = generate(&settings(2000), Split::Train, 1).unwrap();
        let validation = generate(&settings(500), Split::Validation, 2).unwrap();
        let test = generate(&settings(500), Split::Test, 3).unwrap();
        assert_disjoint(&train, &validation, &test).unwrap();
        assert_disjoint(&train[..1000], &train[1000..], &[]).unwrap();
        assert_eq!(
            generate(&settings(10), Split::Train, 1).unwrap(),
            train[..10]
        );
        assert_ne!(
            generate(&settings(10), Split::Train, 2).unwrap(),
            train[..10]
        );
    }

    #[test]
    fn every_text_is_spelled_with_the_vocabulary() {
        let problems = generate(&settings(300), Split::Test, 4).unwrap();
        let alphabet = alphabet(&settings(1));
        assert!(alphabet.contains('6') && !alphabet.contains('7') && !alphabet.contains('/'));
        let registry = Registry::training().within(&alphabet);
        for (index, problem) in problems.iter().enumerate() {
            let text = plain().demonstration(problem).unwrap();
            let mut stream = Stream::new(5, &[index as u64]);
            let group = DemonstrationGroup::corrupt(problem, &text, &registry, 3, &mut stream);
            assert_eq!(group.perturbed().len(), 3);
            let texts = group
                .perturbed()
                .iter()
                .map(|perturbed| perturbed.text.as_str());
            for text in texts.chain([group.demonstration(), group.problem().question.as_str()]) {
                let mut rest = text;
                while !rest.is_empty() {
                    let entry = vocabulary().iter().find(|entry| rest.starts_with(**entry));
                    rest = &rest[entry
                        .unwrap_or_else(|| panic!("{text:?} at {rest:?}"))
                        .len()..];
                }
                assert!(text.chars().all(|character| alphabet.contains(character)));
            }
            let found = extract_strict(group.demonstration(), AnswerForm::Hashes).unwrap();
            assert_eq!(Some(found.text), group.problem().answer.as_deref());
        }
    }

    #[test]
    fn styles_are_mixed_as_set() {
        let problems = generate(&settings(1000), Split::Train, 6).unwrap();
        let lines: Vec<&str> = problems
            .iter()
            .flat_map(|p| p.demonstration.as_deref().unwrap().lines())
            .collect();
        let share = |count: usize| count as f64 / lines.len() as f64;
        let worded = share(lines.iter().filter(|line| line.contains(' ')).count());
        assert!((worded - 0.5).abs() < 0.03, "{worded}");
        assert!(share(lines.iter().filter(|line| line.starts_with("so ")).count()) > 0.12);
        let careful = ArithmeticSettings {
            merge_probability: 0.0,
            ..settings(50)
        };
        for problem in generate(&careful, Split::Train, 6).unwrap() {
            assert!(
                problem.demonstration.unwrap().lines().all(|line| line
                    .split(' ')
                    .next_back()
                    .unwrap()
                    .len()
                    == 5)
            );
        }
    }

    #[test]
    fn impossible_settings_are_errors() {
        let narrow = ArithmeticSettings {
            fewest_operations: 1,
            most_operations: 1,
            largest_operand: 2,
            ..settings(100)
        };
        let error = generate(&narrow, Split::Test, 0).unwrap_err().to_string();
        assert!(error.starts_with("arithmetic task: only "), "{error}");
        for bad in [
            ArithmeticSettings {
                modulus: 1,
                ..settings(1)
            },
            ArithmeticSettings {
                modulus: 11,
                ..settings(1)
            },
            ArithmeticSettings {
                largest_operand: 1,
                ..settings(1)
            },
            ArithmeticSettings {
                fewest_operations: 7,
                ..settings(1)
            },
            ArithmeticSettings {
                fewest_merged: 0,
                ..settings(1)
            },
            ArithmeticSettings {
                merge_probability: f64::NAN,
                ..settings(1)
            },
        ] {
            assert!(generate(&bad, Split::Train, 0).is_err());
        }
    }
}
