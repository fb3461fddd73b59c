//! Finding the final answer of a text and comparing it with the gold answer.

use std::ops::Range;

use serde::{Deserialize, Serialize};

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
    /// The last line that starts with `####`.
    Hashes,
    /// The last number of the text.
    LastNumber,
}

/// An answer as it stands in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundAnswer<'a> {
    /// The answer without surrounding white space.
    pub text: &'a str,
    /// Its byte range in the text.
    pub span: Range<usize>,
    /// Where it was found.
    pub source: AnswerSource,
}

/// The answer in the form that was asked for, and nothing else.
pub fn extract_strict(_text: &str, _form: AnswerForm) -> Option<FoundAnswer<'_>> {
    None
}

/// The answer in any form: tags, else `\boxed{}`, else `####`, else the last number.
pub fn extract_lenient(_text: &str) -> Option<FoundAnswer<'_>> {
    None
}

/// Whether two answers mean the same.
pub fn same_answer(_predicted: &str, _gold: &str) -> bool {
    false
}
