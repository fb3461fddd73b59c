//! The body of `POST /v1/labels`.

use std::sync::OnceLock;

use assay_tasks::labels::FirstError;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::shape::{RequestBody, Shape, Unsupported};

/// A person's label of one text: its first wrong token, or that it has none.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = serde_json::json!({
    "question": "What is 3 plus 4?",
    "text": "3 + 4 = 8",
    "verdict": "wrong",
    "first_error": { "start": 7, "end": 9, "token": 4 },
    "annotator": "Ada",
}))]
#[schemars(example = serde_json::json!({ "question": "What is 3 plus 4?", "text": "3 + 4 = 7", "verdict": "correct", "annotator": "Ada" }))]
#[schemars(example = serde_json::json!({ "question": "What is 3 plus 4?", "text": "3 + 4 = 7", "verdict": "withdrawn", "annotator": "Ada" }))]
pub(crate) struct LabelRequest {
    /// The question.
    pub(crate) question: String,
    /// The text as `/v1/rewards` returns it.
    pub(crate) text: String,
    /// The person's judgement of the text; `withdrawn` removes the same person's earlier label.
    pub(crate) verdict: Verdict,
    /// The first wrong token; only if the verdict is `wrong`.
    pub(crate) first_error: Option<MarkedToken>,
    /// The person's name, at most 64 characters.
    pub(crate) annotator: String,
}

/// A person's judgement of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Wrong,
    Correct,
    Withdrawn,
}

/// A token of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MarkedToken {
    /// Where the token starts in the text, in bytes.
    pub(crate) start: usize,
    /// Where it ends: the byte after its last one.
    pub(crate) end: usize,
    /// Its index among the text's tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<usize>,
}

impl From<MarkedToken> for FirstError {
    fn from(MarkedToken { start, end, token }: MarkedToken) -> Self {
        Self { start, end, token }
    }
}

impl From<FirstError> for MarkedToken {
    fn from(FirstError { start, end, token }: FirstError) -> Self {
        Self { start, end, token }
    }
}

impl RequestBody for LabelRequest {
    fn ignored() -> Vec<&'static str> {
        Vec::new()
    }

    fn unsupported() -> Vec<Unsupported> {
        Vec::new()
    }

    fn shape() -> &'static Shape {
        static SHAPE: OnceLock<Shape> = OnceLock::new();
        SHAPE.get_or_init(Shape::of::<Self>)
    }
}
