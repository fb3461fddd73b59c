//! Replaces parts of a text and finds the first difference.

use std::ops::Range;

use super::{Perturbation, Perturbed};

/// A rewritten text, and the end of its first change in the new text.
pub(super) struct Edited {
    pub(super) text: String,
    pub(super) first_end: usize,
}

impl Edited {
    /// Replaces the ranges, which are in order and do not overlap.
    pub(super) fn replacing(text: &str, replacements: &[(Range<usize>, String)]) -> Self {
        let mut new = String::with_capacity(text.len() + 16);
        let mut copied = 0;
        let mut first_end = None;
        for (range, with) in replacements {
            new.push_str(&text[copied..range.start]);
            new.push_str(with);
            copied = range.end;
            first_end.get_or_insert(new.len());
        }
        new.push_str(&text[copied..]);
        Self {
            first_end: first_end.unwrap_or(new.len()),
            text: new,
        }
    }

    /// Finds the first difference from `original`; `None` if one text is a prefix of the other.
    pub(super) fn located(self, original: &str, kind: Perturbation) -> Option<Perturbed> {
        let mut pairs = original.char_indices().zip(self.text.chars());
        let (start, differing) =
            pairs.find_map(|((at, old), new)| (old != new).then_some((at, new)))?;
        let span = start..self.first_end.max(start + differing.len_utf8());
        Some(Perturbed {
            text: self.text,
            span,
            kind,
        })
    }
}

/// The final answer and where the reasoning before it ends.
pub(super) struct Layout {
    /// Byte range of the answer, without white space.
    pub(super) answer: Option<Range<usize>>,
    /// Byte length of the reasoning.
    pub(super) reasoning_end: usize,
}

/// Finds the answer in any layout: the last `<answer>`, else the last `####`.
pub(super) fn layout(text: &str) -> Layout {
    use crate::answers::{AnswerForm, extract_strict};
    for (form, mark) in [(AnswerForm::Tags, "<answer>"), (AnswerForm::Hashes, "####")] {
        if let Some(found) = extract_strict(text, form) {
            let reasoning_end = text[..found.span.start]
                .rfind(mark)
                .unwrap_or(found.span.start);
            return Layout {
                answer: Some(found.span),
                reasoning_end,
            };
        }
    }
    Layout {
        answer: None,
        reasoning_end: text.len(),
    }
}
