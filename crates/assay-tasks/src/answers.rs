//! Finding the final answer of a text and comparing it with the gold answer.
//!
//! Strict extraction accepts only the form that was asked for; lenient extraction falls back to `\boxed{}`, `####` and
//! the last number. Numbers are compared exactly as rationals. Nothing here judges free text beyond normalised equality.

mod number;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::countdown::CountdownTask;
use crate::numbers::{Numeral, numerals};
use crate::segments::trimmed;

pub use self::number::{Rational, parse_number};
use self::number::{parse_quantity, without_markup};

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
    /// The last `\boxed{...}`.
    Boxed,
    /// The rest of the line after the last `####`.
    Hashes,
    /// The last number of the text.
    LastNumber,
}

/// An answer as it stands in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundAnswer<'a> {
    /// The answer without surrounding white space; never empty.
    pub text: &'a str,
    /// Its byte range in the text.
    pub span: Range<usize>,
    /// Where it was found.
    pub source: AnswerSource,
}

/// The answer in the form that was asked for, and nothing else.
pub fn extract_strict(text: &str, form: AnswerForm) -> Option<FoundAnswer<'_>> {
    match form {
        AnswerForm::Tags => in_tags(text),
        AnswerForm::Hashes => after_hashes(text),
    }
}

/// The answer in any form: the last tags, else the last `\boxed{}`, else the last `####`, else the last number.
pub fn extract_lenient(text: &str) -> Option<FoundAnswer<'_>> {
    in_tags(text)
        .or_else(|| in_box(text))
        .or_else(|| after_hashes(text))
        .or_else(|| last_number(text))
}

/// Whether two answers mean the same.
///
/// Where the gold answer is a [`CountdownTask`], the prediction is its solution. Else, in this order: equal numbers as exact rationals (`1,000 = 1000.0 = $1000`, `3/4 = 0.75`, `18 eggs = 18`; a per cent
/// value equals both its bare number and its hundredth); where the gold answer is a single letter A to J, the choice the
/// prediction opens with; where it is yes or no, the prediction's first word, at the end or before a mark (`Yes, it is`, but not
/// `no one`); else the texts without case, emphasis,
/// surrounding punctuation and repeated white space.
pub fn same_answer(predicted: &str, gold: &str) -> bool {
    if let Some(task) = CountdownTask::parse(gold) {
        return task.accepts(predicted);
    }
    if let (Some(left), Some(right)) = (parse_quantity(predicted), parse_quantity(gold)) {
        return left.value == right.value
            || (left.percent != right.percent
                && left.fraction_of_one() == right.fraction_of_one());
    }
    if let Some(gold) = bare_choice(gold) {
        return leading_choice(predicted) == Some(gold);
    }
    let (predicted, gold) = (normalised(predicted), normalised(gold));
    if gold == "yes" || gold == "no" {
        let mut words = predicted.splitn(2, |c: char| !c.is_alphanumeric());
        let first = words.next() == Some(gold.as_str());
        return first
            && (predicted.len() == gold.len()
                || !predicted[gold.len()..].starts_with([' ', '-', '\'']));
    }
    !gold.is_empty() && predicted == gold
}

fn found(text: &str, range: Range<usize>, source: AnswerSource) -> Option<FoundAnswer<'_>> {
    let span = trimmed(text, range);
    (!span.is_empty()).then(|| FoundAnswer {
        text: &text[span.clone()],
        span,
        source,
    })
}

fn in_tags(text: &str) -> Option<FoundAnswer<'_>> {
    let close = text.rfind("</answer>")?;
    let open = text[..close].rfind("<answer>")? + "<answer>".len();
    found(text, open..close, AnswerSource::Tags)
}

fn after_hashes(text: &str) -> Option<FoundAnswer<'_>> {
    let start = text.rfind("####")? + "####".len();
    let end = text[start..]
        .find('\n')
        .map_or(text.len(), |length| start + length);
    found(text, start..end, AnswerSource::Hashes)
}

/// How many `\boxed` are tried from the end, so that hostile nesting cannot make the search quadratic.
const MOST_BOXES: usize = 16;

fn in_box(text: &str) -> Option<FoundAnswer<'_>> {
    let opens = text.rmatch_indices("\\boxed{").take(MOST_BOXES);
    opens
        .filter_map(|(at, open)| {
            let start = at + open.len();
            let length = balanced_length(&text[start..])?;
            found(text, start..start + length, AnswerSource::Boxed)
        })
        .next()
}

/// Bytes up to the brace that closes an already opened one.
fn balanced_length(text: &str) -> Option<usize> {
    let mut depth = 1_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

fn last_number(text: &str) -> Option<FoundAnswer<'_>> {
    let all = numerals(text);
    let attached =
        |n: &Numeral| text[..n.span.start].ends_with(|c: char| c.is_alphabetic() || c == '_');
    let index = all.iter().rposition(|numeral| !attached(numeral))?;
    let mut span = all[index].span.clone();
    if let Some(previous) = index.checked_sub(1).map(|previous| &all[previous])
        && &text[previous.span.end..span.start] == "/"
        && !attached(previous)
    {
        span.start = previous.span.start;
    }
    let before = text[..span.start].trim_end_matches(['$', '€', '£']);
    for minus in ['-', '−'] {
        let Some(rest) = before.strip_suffix(minus) else {
            continue;
        };
        if !rest.ends_with(|c: char| c.is_alphanumeric() || matches!(c, ')' | '%' | '.')) {
            span.start = rest.len();
        }
    }
    if text[span.end..]
        .trim_start_matches([' ', '\\'])
        .starts_with('%')
    {
        span.end += text[span.end..].find('%').map_or(0, |at| at + 1);
    }
    found(text, span, AnswerSource::LastNumber)
}

/// The letter of a text that is one choice and nothing else: `C`, `(C)`, `C.`.
fn bare_choice(text: &str) -> Option<char> {
    let inner = text
        .trim()
        .trim_matches(['(', ')', '.', '[', ']', ':', '*', ' ']);
    let mut letters = inner.chars();
    let letter = letters
        .next()
        .filter(|letter| ('A'..='J').contains(letter))?;
    letters.next().is_none().then_some(letter)
}

/// The choice a text opens with: `C`, `(C) text`, `C) text`, `C: text`, `C. Text`, `Option C`.
///
/// A letter that goes on into a word is none (`C-reactive protein`, `A cell`), nor is a genus (`E. coli`).
fn leading_choice(text: &str) -> Option<char> {
    let plain = without_markup(text);
    let mut rest = plain.trim();
    for lead in [
        "the ", "correct ", "final ", "answer", "option", "choice", " is", ":", " ",
    ] {
        if rest
            .get(..lead.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(lead))
        {
            rest = &rest[lead.len()..];
        }
    }
    if let Some(letter) = bare_choice(rest) {
        return Some(letter);
    }
    let opened = rest.strip_prefix(['(', '[']);
    let mut characters = opened.unwrap_or(rest).chars();
    let letter = characters
        .next()
        .filter(|letter| ('A'..='J').contains(letter))?;
    let mark = characters.next()?;
    let after = characters.as_str();
    let closes = match mark {
        ')' | ']' => true,
        ':' | ',' => after.starts_with(char::is_whitespace),
        '.' => {
            after.starts_with(char::is_whitespace)
                && !after.trim_start().starts_with(char::is_lowercase)
        }
        '\n' => true,
        _ => false,
    };
    (closes && (opened.is_none() || matches!(mark, ')' | ']'))).then_some(letter)
}

fn normalised(answer: &str) -> String {
    let plain = without_markup(answer).to_lowercase();
    let words: Vec<&str> = plain.split_whitespace().collect();
    words
        .join(" ")
        .trim_matches(['.', ',', ';', ':', '!', '"', '\'', '*', ' '])
        .to_owned()
}

#[cfg(test)]
mod tests;
