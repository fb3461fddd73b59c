//! Finds the answer in a text: in tags, in a box, after hashes, in a sentence, or as its last
//! number.

use std::ops::Range;

use super::canonical::Answer;
use super::latex::balanced_length;
use super::normalise::{control_token_length, without_trailing_control};
use super::sentence::last_number;
use super::statement::{Lead, in_sentence, lead_only, read_lead, without_reason};
use super::{AnswerSource, FoundAnswer};
use crate::segments::trimmed;

/// Number of marks of one kind that are tried from the end; the limit keeps the work linear.
const MAX_TRIES: usize = 16;

/// Maximum length of an answer whose closing tag is missing, in bytes.
const MAX_UNCLOSED: usize = 200;

/// Maximum length of a last line that is taken as the answer, in bytes.
const MAX_LINE: usize = 80;

/// Marks that end the hidden reasoning of a completion.
const END_OF_THINKING: [&str; 6] = [
    "</think>",
    "</thinking>",
    "</thought>",
    "</reasoning>",
    "<|channel|>final<|message|>",
    "[/think]",
];

/// The answer in any form. The text after the hidden reasoning is read first.
///
/// In each part: the last tags, else the last box, else the last hashes, else the last sentence
/// that states an answer, else a last line that is a choice or yes or no, else the last number.
pub(super) fn anywhere(text: &str) -> Option<FoundAnswer<'_>> {
    let lower = text.to_ascii_lowercase();
    let thinking = END_OF_THINKING
        .iter()
        .filter_map(|mark| Some(lower.rfind(mark)? + mark.len()))
        .max()
        .unwrap_or(0);
    in_part(text, thinking..text.len()).or_else(|| in_part(text, 0..thinking))
}

fn in_part(text: &str, part: Range<usize>) -> Option<FoundAnswer<'_>> {
    let inner = &text[part.clone()];
    let found = stated(inner).or_else(|| on_last_line(inner)).or_else(|| {
        let span = last_number(inner)?;
        found(inner, span.clone(), span, AnswerSource::LastNumber)
    })?;
    let moved = |range: Range<usize>| range.start + part.start..range.end + part.start;
    Some(FoundAnswer {
        text: &text[moved(found.span.clone())],
        span: moved(found.span),
        mark: moved(found.mark),
        source: found.source,
    })
}

/// The answer that a text marks as such.
pub(super) fn stated(text: &str) -> Option<FoundAnswer<'_>> {
    in_tags(text)
        .or_else(|| in_unclosed_tag(text))
        .or_else(|| in_box(text))
        .or_else(|| after_hashes(text))
        .or_else(|| {
            let sentence = in_sentence(text)?;
            found(text, sentence.answer, sentence.mark, sentence.source)
        })
}

fn found(
    text: &str,
    answer: Range<usize>,
    mark: Range<usize>,
    source: AnswerSource,
) -> Option<FoundAnswer<'_>> {
    let span = trimmed(text, without_trailing_control(text, answer));
    (!span.is_empty()).then(|| FoundAnswer {
        text: &text[span.clone()],
        span,
        mark,
        source,
    })
}

pub(super) fn in_tags(text: &str) -> Option<FoundAnswer<'_>> {
    let lower = text.to_ascii_lowercase();
    ["answer", "final_answer"].iter().find_map(|name| {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let end = lower.rfind(&close)?;
        let start = lower[..end].rfind(&open)?;
        let mark = start..end + close.len();
        found(text, start + open.len()..end, mark, AnswerSource::Tags)
    })
}

/// An answer whose closing tag a stop string has removed.
fn in_unclosed_tag(text: &str) -> Option<FoundAnswer<'_>> {
    let lower = text.to_ascii_lowercase();
    let open = "<answer>";
    let start = lower.rfind(open)?;
    let inner = start + open.len()..text.len();
    let content = text[inner.clone()].trim();
    let short =
        content.len() <= MAX_UNCLOSED && !content.contains("</") && !content.contains("\n\n");
    short
        .then(|| found(text, inner, start..text.len(), AnswerSource::Tags))
        .flatten()
}

fn in_box(text: &str) -> Option<FoundAnswer<'_>> {
    let mut boxes = ["\\boxed", "\\fbox"].iter().find_map(|name| {
        let found: Vec<Boxed> = text
            .rmatch_indices(name)
            .take(MAX_TRIES)
            .filter_map(|(at, _)| box_at(text, at..at + name.len()))
            .collect();
        (!found.is_empty()).then_some(found)
    })?;
    boxes.dedup_by(|next, previous| {
        next.whole.end >= previous.whole.end && next.whole.start < previous.whole.start
    });
    let last = boxes.first()?;
    let mut joined = last.whole.clone();
    for previous in &boxes[1..] {
        let between = text.get(previous.whole.end..joined.start);
        if !between.is_some_and(joins_boxes) {
            break;
        }
        joined.start = previous.whole.start;
    }
    let answer = if joined == last.whole {
        last.inner.clone()
    } else {
        joined.clone()
    };
    match own_line(text, &joined) {
        Some(line) => found(text, answer, line, AnswerSource::BoxedLine),
        None => found(text, answer, joined, AnswerSource::Boxed),
    }
}

/// A box: the command with its argument, and the argument alone.
struct Boxed {
    whole: Range<usize>,
    inner: Range<usize>,
}

fn box_at(text: &str, command: Range<usize>) -> Option<Boxed> {
    let rest = &text[command.end..];
    let spaces = rest.len() - rest.trim_start_matches([' ', '\t']).len();
    let start = command.end + spaces;
    if let Some(inner) = text[start..].strip_prefix('{') {
        let length = balanced_length(inner)?;
        let inner = start + 1..start + 1 + length;
        return (!text[inner.clone()].trim().is_empty()).then(|| Boxed {
            whole: command.start..inner.end + 1,
            inner,
        });
    }
    if rest.starts_with(char::is_alphabetic) {
        return None;
    }
    let length = text[start..]
        .find(|c: char| c.is_whitespace() || c == '$')
        .unwrap_or(text.len() - start);
    let inner = text[start..start + length].trim_end_matches(['.', ',', ';', ':']);
    let inner = start..start + inner.len();
    (!inner.is_empty()).then_some(Boxed {
        whole: command.start..inner.end,
        inner,
    })
}

/// Whether the text between two boxes joins them into one list.
fn joins_boxes(between: &str) -> bool {
    if between.len() > 40 {
        return false;
    }
    let words = between.replace(['$', ',', ';'], " ");
    let joined = between.contains([',', ';']) || words.contains("and") || words.contains("or");
    joined
        && words
            .split_whitespace()
            .all(|word| matches!(word, "and" | "or" | "\\text{" | "}" | "\\quad"))
}

/// The whole line of a box after `The answer is` or the like, with nothing else on it.
fn own_line(text: &str, whole: &Range<usize>) -> Option<Range<usize>> {
    let start = text[..whole.start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[whole.end..]
        .find('\n')
        .map_or(text.len(), |at| whole.end + at);
    let before = text[start..whole.start].trim_end_matches(['$', '*', ' ', '\\', '(', '[']);
    let after = &text[whole.end..end];
    let after = &after[..after.len() - trailing_control(after)];
    let closes = after
        .chars()
        .all(|c| matches!(c, '$' | '*' | ' ' | '.' | '\\' | ')' | ']' | '\r'));
    (closes && lead_only(before)).then_some(start..end)
}

fn trailing_control(text: &str) -> usize {
    text.len() - without_trailing_control(text, 0..text.len()).end
}

pub(super) fn after_hashes(text: &str) -> Option<FoundAnswer<'_>> {
    let marks = text.rmatch_indices("####").take(MAX_TRIES);
    marks
        .filter_map(|(at, mark)| hashes_at(text, at, at + mark.len()))
        .next()
}

fn hashes_at(text: &str, at: usize, start: usize) -> Option<FoundAnswer<'_>> {
    let mark = text[..at].trim_end_matches('#').len();
    let end = text[start..]
        .find('\n')
        .map_or(text.len(), |length| start + length);
    let line = trimmed(text, up_to_control(text, start..end));
    let unclosed = text[line.clone()].trim_end_matches('#').len();
    let line = trimmed(text, line.start..line.start + unclosed);
    let answer = match read_lead(&text[line.clone()]) {
        Lead::None if line.is_empty() => {
            let next = next_line(text, end)?;
            let value = !Answer::read_bare(&text[next.clone()]).is_text();
            value.then_some(next)?
        }
        Lead::None => without_reason(text, line),
        Lead::Before(length) => line.start + length..line.end,
        Lead::Alone => next_line(text, end)?,
    };
    let answer = trimmed(text, answer);
    let content = &text[answer.clone()];
    let line_end = text[answer.end..]
        .find('\n')
        .map_or(text.len(), |at| answer.end + at);
    if content.is_empty() || is_heading(content, &text[line_end..]) {
        return None;
    }
    found(text, answer, mark..line_end, AnswerSource::Hashes)
}

/// The range up to its first control token that has something before it.
fn up_to_control(text: &str, range: Range<usize>) -> Range<usize> {
    let inner = &text[range.clone()];
    let cut = inner.match_indices('<').take(MAX_TRIES).find(|(at, _)| {
        control_token_length(&inner[*at..]).is_some() && !inner[..*at].trim().is_empty()
    });
    range.start..cut.map_or(range.end, |(at, _)| range.start + at)
}

/// The first line after `end` that contains more than marks of mathematics.
fn next_line(text: &str, end: usize) -> Option<Range<usize>> {
    let mut start = end;
    for line in text[end..].split_inclusive('\n').take(MAX_TRIES) {
        let range = start..start + line.len();
        start = range.end;
        let content = line.trim().trim_matches(['$', '\\', '[', ']', '*']);
        if !content.is_empty() {
            return Some(trimmed(text, range));
        }
    }
    None
}

/// Whether the line after hashes is a heading: a numbered step, or words with more text below them.
fn is_heading(line: &str, below: &str) -> bool {
    const NUMBERED: [&str; 5] = ["step ", "part ", "case ", "phase ", "method "];
    let lower = line
        .trim_start_matches(['*', '_', ' '])
        .to_ascii_lowercase();
    let numbered = NUMBERED
        .iter()
        .filter_map(|name| lower.strip_prefix(name))
        .any(|rest| rest.starts_with(|c: char| c.is_ascii_digit() || "([ivxabc".contains(c)));
    let below = below.trim();
    let ends = below.is_empty() || control_token_length(below).is_some();
    numbered || (Answer::read_bare(line).is_text() && !ends)
}

/// A last line that is only a choice or yes or no. In a text of one line, more text may follow the
/// letter.
fn on_last_line(text: &str) -> Option<FoundAnswer<'_>> {
    let end = without_trailing_control(text, 0..text.len()).end;
    let start = text[..end].rfind('\n').map_or(0, |at| at + 1);
    let line = trimmed(text, start..end);
    if line.is_empty() || line.len() > MAX_LINE {
        return None;
    }
    let only = text[..start].trim().is_empty();
    let words = text[line.clone()].split_whitespace().count();
    match Answer::read_bare(&text[line.clone()]) {
        Answer::Choice(_) | Answer::Truth(_) if only || words == 1 => {
            found(text, line.clone(), line, AnswerSource::LastLine)
        }
        _ => None,
    }
}
