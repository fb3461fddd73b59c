//! Errors in the order and number of steps.
//!
//! If steps have numbers, only a step whose result a later step or the answer uses is dropped or
//! moved, because exchanging independent steps leaves the reasoning correct. Without numbers, any
//! step may be.

use std::ops::Range;

use super::edit::{Edited, layout};
use super::numbers::{pick, same_value};
use crate::numbers::{Numeral, quantities};
use crate::random::Stream;
use crate::segments::{StepUnit, steps};

/// Leaves out one of two or more steps.
pub(super) fn drop_step(text: &str, stream: &mut Stream) -> Option<Edited> {
    let reasoning = Steps::of(text);
    if reasoning.ranges.len() < 2 {
        return None;
    }
    let rest = text.len();
    let candidates: Vec<usize> = (0..reasoning.ranges.len())
        .filter(|&at| reasoning.feeds(text, at, reasoning.ranges[at].end..rest))
        .collect();
    let dropped = reasoning.ranges[*pick(&candidates, stream)?].clone();
    let after = &text[dropped.end..];
    let next = dropped.end + (after.len() - after.trim_start().len());
    let mut edited = Edited::replacing(text, &[(dropped.start..next, String::new())]);
    let now = &edited.text[dropped.start..];
    edited.first_end = dropped.start + now.find('\n').unwrap_or(now.len());
    Some(edited)
}

/// Exchanges two steps.
pub(super) fn swap_steps(text: &str, stream: &mut Stream) -> Option<Edited> {
    let reasoning = Steps::of(text);
    let ranges = &reasoning.ranges;
    let mut pairs = Vec::new();
    for left in 0..ranges.len() {
        for right in left + 1..ranges.len().min(left + FARTHEST_SWAP) {
            let differ = text[ranges[left].clone()] != text[ranges[right].clone()];
            if differ && reasoning.feeds(text, left, ranges[right].clone()) {
                pairs.push((left, right));
            }
        }
    }
    let &(left, right) = pick(&pairs, stream)?;
    let (left, right) = (ranges[left].clone(), ranges[right].clone());
    let replacements = [
        (left.clone(), text[right.clone()].to_owned()),
        (right, text[left].to_owned()),
    ];
    Some(Edited::replacing(text, &replacements))
}

/// Maximum distance of two exchanged steps, in steps: it keeps the search linear in the text.
const FARTHEST_SWAP: usize = 16;

/// The steps of the reasoning, with all quantities of the text.
struct Steps {
    ranges: Vec<Range<usize>>,
    quantities: Vec<Numeral>,
    numeric: bool,
}

impl Steps {
    fn of(text: &str) -> Self {
        let reasoning = &text[..layout(text).reasoning_end];
        let mut ranges = steps(reasoning, StepUnit::Line);
        if ranges.len() < 2 {
            ranges = steps(reasoning, StepUnit::Sentence);
        }
        let quantities = quantities(text);
        let numeric = quantities
            .iter()
            .any(|numeral| numeral.span.end <= reasoning.len());
        Self {
            ranges,
            quantities,
            numeric,
        }
    }

    /// Whether the result of step `at` is used in `range`; always so in reasoning without numbers.
    fn feeds(&self, text: &str, at: usize, range: Range<usize>) -> bool {
        if !self.numeric {
            return !range.is_empty();
        }
        let within = |range: &Range<usize>| {
            let first = self
                .quantities
                .partition_point(|numeral| numeral.span.start < range.start);
            let last = self
                .quantities
                .partition_point(|numeral| numeral.span.start < range.end);
            &self.quantities[first..last]
        };
        let Some(result) = within(&self.ranges[at]).last() else {
            return false;
        };
        within(&range)
            .iter()
            .any(|numeral| same_value(text, numeral, result))
    }
}
