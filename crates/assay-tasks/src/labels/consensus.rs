//! The majority judgement of a trace's annotators.

use std::cmp::Ordering;

use super::{FirstError, Label, Labels};

/// A trace with the majority judgement of its annotators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgreedTrace<'l> {
    /// The question.
    pub question: &'l str,
    /// The text that was shown.
    pub text: &'l str,
    /// The first wrong token; `None` if most annotators found no error.
    pub first_error: Option<FirstError>,
    /// Number of its annotators.
    pub annotators: usize,
}

/// Every labelled trace once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Consensus<'l> {
    /// Traces with a majority, in the order of [`Labels::labels`].
    pub traces: Vec<AgreedTrace<'l>>,
    /// Number of traces with a tie between error and no error.
    pub undecided: usize,
}

impl Labels {
    /// One judgement per trace: that of more than half of its annotators.
    ///
    /// The first error is the median over the annotators who mark one; with an even number, the
    /// earlier of the two in the middle.
    pub fn consensus(&self) -> Consensus<'_> {
        let mut consensus = Consensus::default();
        for labels in self.traces() {
            match AgreedTrace::of(labels) {
                Some(trace) => consensus.traces.push(trace),
                None => consensus.undecided += 1,
            }
        }
        consensus
    }

    /// The labels of each trace, at least one.
    pub fn traces(&self) -> impl Iterator<Item = &[Label]> {
        let is_same =
            |a: &Label, b: &Label| a.text == b.text && a.question.trim() == b.question.trim();
        self.labels.chunk_by(is_same)
    }
}

impl<'l> AgreedTrace<'l> {
    /// The majority judgement of one trace's labels, by the rule of [`Labels::consensus`]; `None`
    /// without a majority or without labels.
    pub fn of(labels: &'l [Label]) -> Option<Self> {
        let mut errors: Vec<FirstError> = labels.iter().filter_map(|l| l.first_error).collect();
        errors.sort_by_key(|error| (error.start, error.end));
        let right = labels.len() - errors.len();
        let first_error = match errors.len().cmp(&right) {
            Ordering::Equal => return None,
            Ordering::Less => None,
            Ordering::Greater => errors.get((errors.len() - 1) / 2).copied(),
        };
        Some(Self {
            question: &labels[0].question,
            text: &labels[0].text,
            first_error,
            annotators: labels.len(),
        })
    }
}
