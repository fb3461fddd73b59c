//! Errors in words, for reasoning without numbers.

use std::ops::Range;

use super::edit::{Edited, layout};
use super::numbers::pick;
use crate::random::Stream;
use crate::segments::{StepUnit, steps};

/// Verbs that a following `not` negates.
const VERBS: [&str; 14] = [
    "is", "are", "was", "were", "does", "do", "did", "has", "have", "had", "can", "could", "will",
    "would",
];

/// Negates a statement of the reasoning, or affirms a negated one.
pub(super) fn flip_polarity(text: &str, stream: &mut Stream) -> Option<Edited> {
    let words = words(text, 0..layout(text).reasoning_end);
    let mut flips = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let next = words
            .get(at + 1)
            .filter(|next| &text[(*next).clone()] == "not");
        match (&text[word.clone()], next) {
            ("must", None) => flips.push((word.clone(), "cannot")),
            ("cannot", None) => flips.push((word.clone(), "must")),
            (verb, Some(not)) if VERBS.contains(&verb) => flips.push((word.end..not.end, "")),
            (verb, None) if VERBS.contains(&verb) => flips.push((word.end..word.end, " not")),
            _ => {}
        }
    }
    let (range, with) = pick(&flips, stream)?.clone();
    let mut edited = Edited::replacing(text, &[(range.clone(), with.to_owned())]);
    // After a deletion, the next word is the changed text.
    if with.is_empty() {
        let after = &edited.text[range.start..];
        let word = after.len() - after.trim_start().len();
        let length = after[word..].find(char::is_whitespace);
        edited.first_end = range.start + length.map_or(after.len(), |length| word + length);
    }
    Some(edited)
}

/// Replaces the last word of a step by the last word of an earlier step, an earlier conclusion.
pub(super) fn swap_conclusion(text: &str, stream: &mut Stream) -> Option<Edited> {
    let reasoning = &text[..layout(text).reasoning_end];
    let mut conclusions: Vec<Range<usize>> = Vec::new();
    let mut swaps = Vec::new();
    for step in steps(reasoning, StepUnit::Line) {
        let own = words(text, step);
        let Some(last) = own.last().cloned() else {
            continue;
        };
        let stands = |word: &str| own.iter().any(|other| &text[other.clone()] == word);
        let earlier = conclusions.iter().map(|range| &text[range.clone()]);
        swaps.extend(
            earlier
                .filter(|word| !stands(word))
                .map(|word| (last.clone(), word)),
        );
        conclusions.push(last);
    }
    let (range, with) = pick(&swaps, stream)?.clone();
    Some(Edited::replacing(text, &[(range, with.to_owned())]))
}

/// The words of a part of a text: runs of letters, as byte ranges of the text.
fn words(text: &str, part: Range<usize>) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for (offset, character) in text[part.clone()].char_indices() {
        let at = part.start + offset;
        if !character.is_alphabetic() {
            continue;
        }
        let end = at + character.len_utf8();
        match found.last_mut().filter(|last| last.end == at) {
            Some(last) => last.end = end,
            None => found.push(at..end),
        }
    }
    found
}
