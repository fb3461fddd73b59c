//! Labels that people gave to traces. A label says which token of a trace is the first wrong one,
//! or that none is wrong.
//!
//! A file of labels has one label per line and is only appended to ([`LabelFile`]). The last label
//! of each annotator for each trace counts ([`read_labels`]). [`Labels::consensus`] is the majority
//! of a trace's annotators.

mod consensus;
mod file;
mod reading;

use serde::{Deserialize, Serialize};

use crate::RecordFault;
use crate::random::text_key;

pub use consensus::{AgreedTrace, Consensus};
pub use file::{LabelFile, LabelMark, OpenedLabels, RepairedTail};
pub use reading::{Labels, holds_labels, read_labels};

/// Maximum length of a label's line, in bytes.
pub const MAX_LABEL_BYTES: usize = 1 << 20;
/// Maximum size of a file of labels, in bytes.
pub const MAX_LABELS_BYTES: u64 = 64 << 20;
/// Maximum length of an annotator's name, in characters.
pub const MAX_ANNOTATOR_CHARS: usize = 64;

/// The first wrong token of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstError {
    /// Where the token starts in the text, in bytes.
    pub start: usize,
    /// Where it ends: the byte after its last one. The end-of-turn token is empty, at the end of
    /// the text.
    pub end: usize,
    /// Its index among the tokens that the annotator saw; other models have other tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<usize>,
}

impl FirstError {
    /// Whether the marked bytes, and all before them, are the same in a `rendered` form of `text`.
    pub fn stands_in(&self, text: &str, rendered: &str) -> bool {
        let marked = text.as_bytes().get(..self.end);
        marked.is_some_and(|marked| rendered.as_bytes().starts_with(marked))
    }

    /// Fails for a range that is not inside of `text`.
    fn check(&self, text: &str) -> Result<(), RecordFault> {
        let problem = if self.end < self.start {
            "ends before it starts"
        } else if self.end > text.len() {
            "ends past the text"
        } else if !text.is_char_boundary(self.start) || !text.is_char_boundary(self.end) {
            "cuts a character: offsets are bytes of the text in UTF-8"
        } else if self.start == self.end && self.end < text.len() {
            "is empty"
        } else {
            return Ok(());
        };
        Err(fault("first_error", problem))
    }
}

/// One annotator's label of one trace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Label {
    /// [`trace_key`] of question and text.
    pub trace: String,
    /// The question.
    pub question: String,
    /// The text that was shown: a trace in the prompt style of the reward that was served.
    pub text: String,
    /// The first wrong token; `None` if the whole text is right.
    pub first_error: Option<FirstError>,
    /// Whether this record only withdraws the annotator's earlier label.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
    /// Name of the annotator; may be empty.
    pub annotator: String,
    /// Time in seconds since 1970; 0 if unknown.
    pub time: u64,
}

impl Label {
    /// Checks the label.
    ///
    /// # Errors
    /// [`RecordFault::Column`] names the invalid field: an empty question or text, a range outside
    /// of the text, a name that is too long.
    pub fn checked(self) -> Result<Self, RecordFault> {
        for (name, text) in [("question", &self.question), ("text", &self.text)] {
            if text.trim().is_empty() {
                return Err(fault(name, "is missing or empty"));
            }
        }
        let name = self.annotator.trim();
        if name.chars().count() > MAX_ANNOTATOR_CHARS {
            return Err(fault("annotator", "is longer than 64 characters"));
        }
        if name.chars().any(char::is_control) {
            return Err(fault("annotator", "holds a control character"));
        }
        if let Some(error) = &self.first_error {
            error.check(&self.text)?;
        }
        Ok(Self {
            trace: trace_key(&self.question, &self.text),
            annotator: name.to_owned(),
            ..self
        })
    }
}

/// The key of a trace: 16 hexadecimal digits, a hash of its question (without white space around
/// it) and its text.
pub fn trace_key(question: &str, text: &str) -> String {
    format!("{:016x}", text_key(&format!("{}\0{text}", question.trim())))
}

fn fault(column: &str, problem: &str) -> RecordFault {
    RecordFault::Column {
        column: column.to_owned(),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests;
