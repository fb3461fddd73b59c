//! Reasoning steps as byte ranges: lines or sentences.
//!
//! A step's range has no surrounding white space, so its last byte belongs to the token that ends
//! the step. Lines with only a layout tag (`<think>`, `</answer>`, ...) are not steps.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// The unit of a reasoning step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepUnit {
    /// A line that is not blank.
    #[default]
    Line,
    /// A sentence; a line's end also ends one.
    Sentence,
}

/// The reasoning steps of a text, in order, as byte ranges that do not overlap.
pub fn steps(text: &str, unit: StepUnit) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let range = trimmed(text, start..start + line.len());
        start += line.len();
        if TAGS.contains(&&text[range.clone()]) || range.is_empty() {
            continue;
        }
        match unit {
            StepUnit::Line => found.push(range),
            StepUnit::Sentence => split_sentences(text, range, &mut found),
        }
    }
    found
}

/// The range without white space at either end.
pub(crate) fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let inner = &text[range.clone()];
    let start = range.start + (inner.len() - inner.trim_start().len());
    start..start + inner.trim().len()
}

const TAGS: [&str; 4] = ["<think>", "</think>", "<answer>", "</answer>"];

/// Abbreviations that never end a sentence.
const TITLES: [&str; 24] = [
    "mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "vs", "e.g", "i.e", "no", "fig", "eq",
    "approx", "cf", "mt", "gen", "col", "capt", "lt", "sgt", "rev", "hon",
];

/// Abbreviations that end a sentence only before a capital letter.
const UNITS: [&str; 22] = [
    "a.m", "p.m", "etc", "u.s", "u.k", "ft", "lb", "lbs", "oz", "in", "min", "sec", "hr", "hrs",
    "sq", "ave", "inc", "ltd", "co", "al", "yd", "mi",
];

fn split_sentences(text: &str, line: Range<usize>, found: &mut Vec<Range<usize>>) {
    let mut start = line.start;
    let mut characters = text[line.clone()].char_indices().peekable();
    while let Some((offset, character)) = characters.next() {
        if !matches!(character, '.' | '!' | '?' | '。' | '！' | '？') {
            continue;
        }
        while let Some((_, '.' | '!' | '?' | ')' | ']' | '"' | '\'' | '”' | '’')) =
            characters.peek()
        {
            characters.next();
        }
        let end = characters
            .peek()
            .map_or(line.end, |(next, _)| line.start + next);
        let mark = line.start + offset;
        if ends_sentence(&text[start..mark], character, &text[end..line.end]) {
            push_step(text, start..end, found);
            start = end;
        }
    }
    push_step(text, start..line.end, found);
}

fn push_step(text: &str, range: Range<usize>, found: &mut Vec<Range<usize>>) {
    let range = trimmed(text, range);
    if !range.is_empty() {
        found.push(range);
    }
}

/// Whether the mark between `before` and `after` closes a sentence.
fn ends_sentence(before: &str, mark: char, after: &str) -> bool {
    if matches!(mark, '。' | '！' | '？') || after.is_empty() {
        return true;
    }
    if !after.starts_with(char::is_whitespace) {
        return false;
    }
    if mark != '.' {
        return true;
    }
    let word = before.rsplit(char::is_whitespace).next().unwrap_or(before);
    let word = word.trim_start_matches(|c: char| !c.is_alphanumeric());
    let first_of_step = before.trim_start().len() == word.len();
    if first_of_step && word.len() <= 3 && word.bytes().all(|byte| byte.is_ascii_digit()) {
        return false; // a numbered list's bullet
    }
    let lower = word.to_lowercase();
    if TITLES.contains(&lower.as_str())
        && (lower != "no" || after.trim_start().starts_with(|c: char| c.is_ascii_digit()))
    {
        return false;
    }
    let mut letters = word.chars();
    let initial = letters.next().is_some_and(char::is_uppercase) && letters.next().is_none();
    if initial || UNITS.contains(&lower.as_str()) {
        return !initial && after.trim_start().starts_with(char::is_uppercase);
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(text: &str, unit: StepUnit) -> Vec<&str> {
        steps(text, unit)
            .into_iter()
            .map(|range| &text[range])
            .collect()
    }

    #[test]
    fn lines_leave_out_blanks_and_layout_tags() {
        let text = "<think>\n  She has 3. \n\nThen 4.\r\n</think>\n<answer>\n7\n</answer>";
        assert_eq!(steps(text, StepUnit::Line), [10..20, 23..30, 50..51]);
        assert_eq!(texts(text, StepUnit::Line), ["She has 3.", "Then 4.", "7"]);
    }

    #[test]
    fn sentences_end_at_no_decimal_or_title() {
        let text = "Mr. Lee pays $1.25 for 3.5 lb. of rice. He left at 5 p.m. with 2! \"Is it?\" Yes.\n2. J. R. has no. 7 on.";
        assert_eq!(
            texts(text, StepUnit::Sentence),
            [
                "Mr. Lee pays $1.25 for 3.5 lb. of rice.",
                "He left at 5 p.m. with 2!",
                "\"Is it?\"",
                "Yes.",
                "2. J. R. has no. 7 on."
            ]
        );
    }

    #[test]
    fn sentences_end_after_numbers_and_after_no() {
        assert_eq!(
            texts("The sum is 12. So 12 is left.", StepUnit::Sentence),
            ["The sum is 12.", "So 12 is left."]
        );
        assert_eq!(
            texts("The answer is no. Done.", StepUnit::Sentence),
            ["The answer is no.", "Done."]
        );
        assert_eq!(
            texts("It opens at 9 a.m. She waits.", StepUnit::Sentence),
            ["It opens at 9 a.m.", "She waits."]
        );
    }

    proptest! {
        #[test]
        fn steps_are_ordered_trimmed_and_inside(text in "(?s).{0,80}|[a-zA-Z0-9.!? \n]{0,80}") {
            for unit in [StepUnit::Line, StepUnit::Sentence] {
                let mut last = 0;
                for step in steps(&text, unit) {
                    prop_assert!(last <= step.start && step.start < step.end);
                    prop_assert_eq!(text[step.clone()].trim(), &text[step.clone()]);
                    last = step.end;
                }
            }
        }
    }
}
