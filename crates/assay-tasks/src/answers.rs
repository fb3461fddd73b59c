//! What answer a text states, and whether two answers mean the same. Everything that reads or compares answers asks here.
//!
//! [`extract_lenient`] finds the answer of a text, [`extract_strict`] only one in the form that was asked for,
//! [`same_answer`] compares two answers, [`check`] does both. An answer is compared by its canonical form, [`Answer`]: an
//! exact number with its unit, a choice, yes or no, a sequence, a set, or normalised text. There is no algebra: `x+1` and
//! `1+x` are different texts. All work is bounded: it is linear in the text, and numbers have 128 bits.

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
    /// The rest of the line after the last `####` that is no heading.
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
    /// Whether the answer stands in a form that prompts ask for: tags, a box, hashes.
    pub fn is_marked(self) -> bool {
        matches!(
            self,
            Self::Tags | Self::Boxed | Self::BoxedLine | Self::Hashes
        )
    }

    /// Whether nothing but the answer stands where it is stated, so that it can be moved into another form.
    pub fn is_separate(self) -> bool {
        matches!(
            self,
            Self::Tags | Self::BoxedLine | Self::Hashes | Self::Line
        )
    }
}

/// An answer as it stands in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundAnswer<'a> {
    /// The answer without surrounding white space; never empty.
    pub text: &'a str,
    /// Its byte range in the text.
    pub span: Range<usize>,
    /// Byte range of the whole statement, tags, box, hashes or `The answer is` included.
    pub mark: Range<usize>,
    /// Where it was found.
    pub source: AnswerSource,
}

/// The answer of a text and how it compares with the gold answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckedAnswer {
    /// The answer as the text states it.
    pub predicted: Option<String>,
    /// Whether it equals the gold answer; `None` without a gold answer. A text without an answer is wrong.
    pub correct: Option<bool>,
}

/// The answer in the form that was asked for, and nothing else.
pub fn extract_strict(text: &str, form: AnswerForm) -> Option<FoundAnswer<'_>> {
    match form {
        AnswerForm::Tags => locate::in_tags(text),
        AnswerForm::Hashes => locate::after_hashes(text),
    }
}

/// The answer in any form, read from what follows the hidden reasoning, else from the whole text.
///
/// In this order: the last tags, the last box, the last hashes that are no heading, the last sentence or line that states
/// an answer, a last line that is a choice or yes or no, the last number.
pub fn extract_lenient(text: &str) -> Option<FoundAnswer<'_>> {
    locate::anywhere(text)
}

/// Reads the answer of a text and compares it with the gold answer.
pub fn check(text: &str, gold: Option<&str>) -> CheckedAnswer {
    let predicted = extract_lenient(text).map(|found| found.text.to_owned());
    let correct = gold.map(|gold| is_correct(predicted.as_deref(), gold));
    CheckedAnswer { predicted, correct }
}

/// Whether a predicted answer equals the gold answer. No predicted answer is a wrong one.
pub fn is_correct(predicted: Option<&str>, gold: &str) -> bool {
    predicted.is_some_and(|predicted| same_answer(predicted, gold))
}

/// Whether two answers mean the same: [`Answer::agrees`] of both.
///
/// Where the gold answer is a [`CountdownTask`], the prediction is its solution instead.
pub fn same_answer(predicted: &str, gold: &str) -> bool {
    if let Some(task) = CountdownTask::parse(gold) {
        return task.accepts(predicted);
    }
    Answer::read(predicted).agrees(&Answer::read(gold))
}

/// The number an answer states, or `None` where it is not one number. That of `50 %` is 50.
pub fn parse_number(answer: &str) -> Option<Rational> {
    match Answer::read(answer) {
        Answer::Number(quantity) => Some(quantity.value),
        _ => None,
    }
}

/// Classes of equal answers, for votes: answers that agree with the first of a class join it.
#[derive(Clone, Debug, Default)]
pub struct AnswerClasses {
    first: Vec<(String, Answer)>,
}

impl AnswerClasses {
    /// The number of the class that an answer belongs to; a new one where no class has an equal answer.
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
