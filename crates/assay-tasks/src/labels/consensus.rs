//! What most annotators of a trace say.

use std::cmp::Ordering;

use super::{FirstError, Label, Labels};

/// A trace with what most of its annotators say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgreedTrace<'l> {
    /// The question.
    pub question: &'l str,
    /// The text that was shown.
    pub text: &'l str,
    /// The first wrong token; `None` where most say that there is none.
    pub first_error: Option<FirstError>,
    /// How many annotators labelled it.
    pub annotators: usize,
}

/// Every labelled trace once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Consensus<'l> {
    /// Traces with a majority, in the order of [`Labels::labels`].
    pub traces: Vec<AgreedTrace<'l>>,
    /// Traces of which as many annotators say that there is an error as say that there is none.
    pub undecided: usize,
}

impl Labels {
    /// One label for each trace: what more than half of its annotators say.
    ///
    /// The first error of several annotators is the median of those who mark one; of an even
    /// number, the earlier of the two in the middle.
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
    /// What most of the labels of one trace say, by the rule of [`Labels::consensus`]; `None` where
    /// there is no majority, and without labels.
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
