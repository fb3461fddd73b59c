//! Errors in the final answer.

use std::ops::Range;

use super::edit::{Edited, layout};
use super::numbers::{pick, reasoning_quantities, same_value};
use crate::numbers::{Numeral, numerals};
use crate::random::Stream;

/// Replaces the answer by the nearest number of the same format, the other of yes and no, or
/// another choice.
pub(super) fn corrupt_answer(text: &str, stream: &mut Stream) -> Option<Edited> {
    let answer = layout(text).answer?;
    if let Some(numeral) = answer_numeral(text, &answer) {
        let scaled = numeral.scaled(text)?;
        let down = scaled > 0 && stream.below(2) == 0;
        let other = numeral.format_like(text, if down { scaled - 1 } else { scaled + 1 })?;
        return Some(Edited::replacing(text, &[(numeral.span, other)]));
    }
    let written = &text[answer.clone()];
    let word = written.trim_end_matches(|c: char| !c.is_alphanumeric());
    let other = match word.to_lowercase().as_str() {
        "yes" => in_case_of(word, "no"),
        "no" => in_case_of(word, "yes"),
        _ => other_choice(word, stream)?,
    };
    Some(Edited::replacing(
        text,
        &[(answer.start..answer.start + word.len(), other)],
    ))
}

/// Replaces the answer by another number of the reasoning with as many decimals.
pub(super) fn answer_from_reasoning(text: &str, stream: &mut Stream) -> Option<Edited> {
    let answer = layout(text).answer?;
    let numeral = answer_numeral(text, &answer)?;
    let others: Vec<Numeral> = reasoning_quantities(text)
        .into_iter()
        .filter(|other| other.decimals == numeral.decimals && !same_value(text, other, &numeral))
        .collect();
    let other = pick(&others, stream)?;
    let written = numeral.format_like(text, other.scaled(text)?)?;
    Some(Edited::replacing(text, &[(numeral.span, written)]))
}

/// The only numeral of the answer.
fn answer_numeral(text: &str, answer: &Range<usize>) -> Option<Numeral> {
    let mut inside = numerals(&text[answer.clone()]);
    let mut only = inside.pop().filter(|_| inside.is_empty())?;
    only.span = only.span.start + answer.start..only.span.end + answer.start;
    Some(only)
}

/// `word` in the case of `model`: `YES`, `Yes` or `yes`.
fn in_case_of(model: &str, word: &str) -> String {
    if model.chars().all(char::is_uppercase) {
        word.to_uppercase()
    } else if model.starts_with(char::is_uppercase) {
        word[..1].to_uppercase() + &word[1..]
    } else {
        word.to_owned()
    }
}

/// Another letter A to D in the place of a single letter A to J, brackets kept.
fn other_choice(word: &str, stream: &mut Stream) -> Option<String> {
    let (open, inner) = word
        .strip_prefix('(')
        .map_or(("", word), |inner| ("(", inner));
    let mut letters = inner.chars();
    let letter = letters
        .next()
        .filter(|letter| ('A'..='J').contains(letter))?;
    if letters.next().is_some() {
        return None;
    }
    let others: Vec<char> = ('A'..='D').filter(|&other| other != letter).collect();
    pick(&others, stream).map(|other| format!("{open}{other}"))
}
