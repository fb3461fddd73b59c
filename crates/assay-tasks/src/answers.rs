//! Reads the answer that a text states, and compares answers. All commands use this module for
//! both.
//!
//! [`extract_lenient`] finds the answer of a text, [`extract_strict`] only an answer in the
//! requested form. [`same_answer`] compares two answers; [`check`] reads and compares. Answers are
//! compared by their canonical form, [`Answer`]: an exact number with its unit, a choice, yes or
//! no, a sequence, a set, or normalised text. There is no algebra: `x+1` and `1+x` are different
//! texts. The work is linear in the text, and numbers have at most 128 bits.

mod canonical;
mod choice;
mod latex;
mod locate;
mod normalise;
mod number;
mod rational;
mod sentence;
mod statement;
mod units;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::countdown::CountdownTask;

pub use self::canonical::Answer;
pub(crate) use self::normalise::without_trailing_control;
pub use self::number::Quantity;
pub use self::rational::Rational;

/// How a completion states its final answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerForm {
    /// `<answer>26</answer>`.
    #[default]
    Tags,
    /// `#### 26`.
    Hashes,
}

/// Where an answer was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerSource {
    /// The last `<answer>...</answer>`.
    Tags,
    /// The last `\boxed{...}`, inside running text.
    Boxed,
    /// The last `\boxed{...}`, on a line `The answer is \boxed{26}` with nothing else.
    BoxedLine,
    /// The rest of the line after the last `####` that is not a heading.
    Hashes,
    /// A line that only states the answer: `The answer is 26.`
    Line,
    /// A statement inside running text: `so the answer is 26 because ...`.
    Sentence,
    /// A last line that is one choice, or yes or no.
    LastLine,
    /// The last number of the text.
    LastNumber,
}

impl AnswerSource {
    /// Whether the answer is in a form that prompts request: tags, a box, hashes.
    pub fn is_marked(self) -> bool {
        matches!(
            self,
            Self::Tags | Self::Boxed | Self::BoxedLine | Self::Hashes
        )
    }

    /// Whether the statement contains only the answer, so that it can be rewritten in another form.
    pub fn is_separate(self) -> bool {
        matches!(
            self,
            Self::Tags | Self::BoxedLine | Self::Hashes | Self::Line
        )
    }
}

/// An answer found in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundAnswer<'a> {
    /// The answer without surrounding white space; never empty.
    pub text: &'a str,
    /// Its byte range in the text.
    pub span: Range<usize>,
    /// Byte range of the whole statement, including tags, box, hashes or `The answer is`.
    pub mark: Range<usize>,
    /// Where it was found.
    pub source: AnswerSource,
}

/// The answer of a text and whether it equals the gold answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckedAnswer {
    /// The answer that the text states.
    pub predicted: Option<String>,
    /// Whether it equals the gold answer; `None` without a gold answer. A text without an answer is
    /// wrong.
    pub correct: Option<bool>,
}

/// The answer in the requested form; `None` for an answer in any other form.
pub fn extract_strict(text: &str, form: AnswerForm) -> Option<FoundAnswer<'_>> {
    match form {
        AnswerForm::Tags => locate::in_tags(text),
        AnswerForm::Hashes => locate::after_hashes(text),
    }
}

/// The answer in any form, from the text after the hidden reasoning, else from the whole text.
///
/// In this order: the last tags, the last box, the last hashes that are not a heading, the last
/// sentence or line that states an answer, a last line that is a choice or yes or no, the last
/// number.
pub fn extract_lenient(text: &str) -> Option<FoundAnswer<'_>> {
    locate::anywhere(text)
}

/// Reads the answer of a text and compares it with the gold answer.
pub fn check(text: &str, gold: Option<&str>) -> CheckedAnswer {
    let predicted = extract_lenient(text).map(|found| found.text.to_owned());
    let correct = gold.map(|gold| is_correct(predicted.as_deref(), gold));
    CheckedAnswer { predicted, correct }
}

/// Whether a predicted answer equals the gold answer. A missing answer is wrong.
pub fn is_correct(predicted: Option<&str>, gold: &str) -> bool {
    predicted.is_some_and(|predicted| same_answer(predicted, gold))
}

/// Whether two answers mean the same: [`Answer::agrees`] of both.
///
/// If the gold answer is a Countdown task, the prediction must be a solution of it.
pub fn same_answer(predicted: &str, gold: &str) -> bool {
    if let Some(task) = CountdownTask::parse(gold) {
        return task.accepts(predicted);
    }
    Answer::read(predicted).agrees(&Answer::read(gold))
}

/// The number that an answer states; `None` if it is not one number. `50 %` gives 50.
pub fn parse_number(answer: &str) -> Option<Rational> {
    match Answer::read(answer) {
        Answer::Number(quantity) => Some(quantity.value),
        _ => None,
    }
}

/// Classes of equal answers, for votes. An answer belongs to a class if it agrees with its first
/// answer.
#[derive(Clone, Debug, Default)]
pub struct AnswerClasses {
    first: Vec<(String, Answer)>,
}

impl AnswerClasses {
    /// The number of an answer's class; a new one if no class has an equal answer.
    pub fn class(&mut self, answer: &str) -> u32 {
        let written = |(text, _): &(String, Answer)| text == answer;
        if let Some(class) = self.first.iter().position(written) {
            return class as u32;
        }
        let read = Answer::read(answer);
        let known = self.first.iter().position(|(_, first)| first.agrees(&read));
        let class = known.unwrap_or_else(|| {
            self.first.push((answer.to_owned(), read));
            self.first.len() - 1
        });
        class as u32
    }
}

#[cfg(test)]
mod tests;
