//! Types of request bodies. Their doc comments are the descriptions of the fields at
//! `/openapi.json`.
//!
//! [`others`] lists fields of other servers: those that have no effect here, and those that are
//! accepted only with a neutral value.

mod labels;
mod names;
mod others;

use std::sync::OnceLock;

use assay_evals::localisation::Predictor;
use assay_evals::scores::TraceScore;
use assay_evals::selection::Selector;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::shape::{RequestBody, Shape, Unsupported};

pub(crate) use labels::{LabelRequest, MarkedToken, Verdict};
pub(crate) use names::{Name, Seed};
pub(crate) use others::{ANSWER_FIELDS, ASSAY_FIELDS};

/// One text, or several.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(crate) enum Texts {
    One(String),
    Many(Vec<String>),
}

/// Texts to score: a question with its answers, pairs, or traces.
///
/// Give `question` and `text`, or `traces`. `question` is one question for all texts, or a list
/// with one question per text. `text_1` and `text_2`, `data_1` and `data_2`, `queries` and
/// `documents` or `items` are other names for the two.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = serde_json::json!({ "question": "What is 3 plus 4?", "text": "3 + 4 = 7\n#### 7" }))]
#[schemars(example = serde_json::json!({ "text_1": "What is 3 plus 4?", "text_2": ["3 + 4 = 7", "3 + 4 = 8"] }))]
#[schemars(example = serde_json::json!({ "traces": [{ "question": "1 + 1?", "text": "2" }], "score": "last" }))]
pub(crate) struct TextsRequest {
    /// The reward. Default: the first one.
    pub(crate) model: Option<String>,
    /// Trace score of a text. Default: the server's.
    pub(crate) score: Option<Name<TraceScore>>,
    /// How the place of an error is predicted. Default: `largest_drop`.
    pub(crate) predictor: Option<Name<Predictor>>,
    /// The question, or one for each text.
    pub(crate) question: Option<Texts>,
    /// Another name for `question`.
    pub(crate) text_1: Option<Texts>,
    /// Another name for `question`.
    pub(crate) data_1: Option<Texts>,
    /// Another name for `question`.
    pub(crate) queries: Option<Texts>,
    /// The answer text, or several.
    pub(crate) text: Option<Texts>,
    /// Another name for `text`.
    pub(crate) text_2: Option<Texts>,
    /// Another name for `text`.
    pub(crate) data_2: Option<Texts>,
    /// Another name for `text`.
    pub(crate) documents: Option<Texts>,
    /// Another name for `text`.
    pub(crate) items: Option<Texts>,
    /// Texts of several questions, instead of `question` and `text`.
    pub(crate) traces: Option<Vec<Trace>>,
}

/// A text with its question.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Trace {
    /// The question.
    pub(crate) question: String,
    /// The answer text.
    pub(crate) text: String,
}

/// Answers to rank, in the formats of Cohere, Jina, vLLM and text-embeddings-inference.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = serde_json::json!({ "query": "What is 3 plus 4?", "documents": ["3 + 4 = 7", "3 + 4 = 8", ""], "top_n": 2 }))]
#[schemars(example = serde_json::json!({
    "query": "What is 3 plus 4?",
    "documents": [{ "title": "Sum", "body": "3 + 4 = 7" }],
    "rank_fields": ["title", "body"],
    "return_documents": true,
}))]
#[schemars(example = serde_json::json!({ "query": "What is 3 plus 4?", "texts": ["3 + 4 = 7"], "raw_scores": false }))]
pub(crate) struct RerankRequest {
    /// The reward. Default: the first one.
    pub(crate) model: Option<String>,
    /// Trace score of a text. Default: the server's.
    pub(crate) score: Option<Name<TraceScore>>,
    /// The question.
    pub(crate) query: String,
    /// The answers to rank: strings, or objects with a `text` or with the fields that `rank_fields`
    /// names.
    pub(crate) documents: Option<Vec<Document>>,
    /// The answers in text-embeddings-inference's format, instead of `documents`. The response then
    /// has its format too.
    pub(crate) texts: Option<Vec<String>>,
    /// Fields of document objects that are joined and ranked instead of `text`.
    pub(crate) rank_fields: Option<Vec<String>>,
    /// How many results are returned. Default: all.
    #[schemars(range(min = 1))]
    pub(crate) top_n: Option<usize>,
    /// Another name for `top_n`.
    #[schemars(range(min = 1))]
    pub(crate) top_k: Option<usize>,
    /// Whether results contain their document. Default: false.
    pub(crate) return_documents: Option<bool>,
    /// Another name for `return_documents`.
    pub(crate) return_text: Option<bool>,
    /// With `texts`: whether scores are returned as they are, not as sigmoid(score). Default:
    /// false.
    pub(crate) raw_scores: Option<bool>,
}

/// A document: a string, or an object.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(crate) enum Document {
    Text(String),
    Object(Map<String, Value>),
}

/// A chat to answer.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = serde_json::json!({ "messages": [{ "role": "user", "content": "What is 3 plus 4?" }], "max_tokens": 8, "seed": 1, "assay": { "n": 2 } }))]
#[schemars(example = serde_json::json!({
    "messages": [
        { "role": "user", "content": "What is 3 plus 4?" },
        { "role": "assistant", "content": null, "tool_calls": [
            { "id": "1", "type": "function", "function": { "name": "add", "arguments": "{\"a\": 3, \"b\": 4}" } },
        ] },
        { "role": "tool", "tool_call_id": "1", "content": "7" },
    ],
    "max_tokens": 8,
    "chat_template_kwargs": { "enable_thinking": false },
}))]
pub(crate) struct ChatRequest {
    /// The turns. The critic reads the user's last turn as the question. Without a system turn the
    /// policy is prompted in the reward's prompt style.
    pub(crate) messages: Vec<Turn>,
    /// Tools, passed only to the chat template, with `tool_choice: "none"`. No tool is called.
    pub(crate) tools: Option<Vec<Value>>,
    /// `none`, or `auto` without tools.
    pub(crate) tool_choice: Option<Value>,
    /// Variables of the policy's chat template.
    pub(crate) chat_template_kwargs: Option<Map<String, Value>>,
    /// A variable of the policy's chat template.
    pub(crate) enable_thinking: Option<bool>,
    /// A variable of the policy's chat template.
    pub(crate) reasoning_effort: Option<String>,
    #[serde(flatten)]
    pub(crate) sampling: Sampling,
}

/// A turn of a chat.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(crate) struct Turn {
    /// `system`, `developer`, `user`, `assistant`, `tool` or `function`.
    pub(crate) role: String,
    /// The content; absent in a turn that only calls tools.
    pub(crate) content: Option<Content>,
    /// Other fields that a chat template reads, such as `tool_calls`.
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

/// A string, or a list of text parts.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(crate) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a turn.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(crate) struct Part {
    /// `text`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// The text.
    pub(crate) text: Option<String>,
}

/// A text to continue.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = serde_json::json!({ "prompt": "1+1=", "max_tokens": 8, "best_of": 2 }))]
pub(crate) struct CompletionRequest {
    /// One string, alone or in a list. It is also the critic's question.
    #[schemars(schema_with = "string_or_list")]
    pub(crate) prompt: Value,
    /// Another name for `assay.n`.
    pub(crate) best_of: Option<usize>,
    #[serde(flatten)]
    pub(crate) sampling: Sampling,
}

/// How answers are sampled and one of them is chosen.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub(crate) struct Sampling {
    /// `policy`, or with an upstream server the name of its model.
    pub(crate) model: Option<String>,
    /// Default: 1.
    #[schemars(range(min = 0, max = 10))]
    pub(crate) temperature: Option<f64>,
    /// In (0, 1]. Default: 1.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub(crate) top_p: Option<f64>,
    /// -1 or 0 keeps all tokens.
    #[schemars(range(min = -1))]
    pub(crate) top_k: Option<i64>,
    /// The same seed gives the same samples. With -1 or null a new seed is drawn.
    pub(crate) seed: Option<Seed>,
    /// Maximum tokens of a sample. With -1 or null: 512, or the positions that the model has left.
    #[schemars(range(min = -1))]
    pub(crate) max_tokens: Option<i64>,
    /// Another name for `max_tokens`.
    #[schemars(range(min = -1))]
    pub(crate) max_completion_tokens: Option<i64>,
    /// Texts before which an answer ends; at most 16.
    pub(crate) stop: Option<Texts>,
    /// Whether the chosen answer is sent as server-sent events.
    pub(crate) stream: Option<bool>,
    /// Additional content of a stream.
    pub(crate) stream_options: Option<StreamOptions>,
    /// How the answer is chosen.
    pub(crate) assay: Option<Choosing>,
}

/// Additional content of a stream.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamOptions {
    /// Whether the last event has the number of tokens.
    pub(crate) include_usage: Option<bool>,
    /// Accepted; changes nothing here.
    #[serde(rename = "include_obfuscation")]
    pub(crate) _include_obfuscation: Option<bool>,
    /// Accepted; changes nothing here.
    #[serde(rename = "continuous_usage_stats")]
    pub(crate) _continuous_usage_stats: Option<bool>,
}

/// How the answer is chosen among samples.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Choosing {
    /// Samples to choose from. Default: 4.
    #[schemars(range(min = 1))]
    pub(crate) n: Option<usize>,
    /// Default: `best_of_n`.
    pub(crate) selector: Option<Name<Selector>>,
    /// The reward that chooses. Default: the first one.
    pub(crate) reward: Option<String>,
    /// The trace score that ranks the samples. Default: the server's.
    pub(crate) score: Option<Name<TraceScore>>,
    /// Whether every sample is returned with its token rewards. Default: false.
    pub(crate) return_candidates: Option<bool>,
    /// How the place of an error is predicted. Default: `largest_drop`.
    pub(crate) predictor: Option<Name<Predictor>>,
}

fn string_or_list(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "array"] })
}

macro_rules! request_body {
    ($type:ty, ignored: [$($ignored:expr),+], unsupported: [$($unsupported:expr),+]) => {
        impl RequestBody for $type {
            fn ignored() -> Vec<&'static str> {
                [$($ignored),+].concat()
            }

            fn unsupported() -> Vec<Unsupported> {
                [$($unsupported),+].concat()
            }

            fn shape() -> &'static Shape {
                static SHAPE: OnceLock<Shape> = OnceLock::new();
                SHAPE.get_or_init(Shape::of::<Self>)
            }
        }
    };
}

request_body!(TextsRequest, ignored: [others::OF_SCORING], unsupported: [others::SCORE_ONLY]);
request_body!(
    RerankRequest,
    ignored: [others::OF_SCORING, others::OF_CUTTING],
    unsupported: [others::RERANK_ONLY]
);
request_body!(
    ChatRequest,
    ignored: [others::OF_SAMPLING],
    unsupported: [others::ANSWER_FIELDS, others::OTHER_SAMPLING, others::CHAT_ONLY]
);
request_body!(
    CompletionRequest,
    ignored: [others::OF_SAMPLING],
    unsupported: [others::ANSWER_FIELDS, others::OTHER_SAMPLING, others::COMPLETION_ONLY]
);

#[cfg(test)]
mod tests {
    use jsonschema::Validator;
    use serde_json::json;

    use super::*;

    /// Number of bodies that are tried for each type.
    const BODIES: usize = 4000;
    const WORDS: [&str; 6] = ["", "mean", "user", "text", "largest_drop", "a word"];
    const NAMES: [&str; 10] = [
        "role",
        "content",
        "type",
        "text",
        "question",
        "n",
        "score",
        "reward",
        "include_usage",
        "x",
    ];

    /// Numbers of a linear congruential generator.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (self.0 >> 33) as usize % bound
        }

        fn value(&mut self, depth: usize) -> Value {
            let whole = self.below(12) as i64 - 3;
            match self.below(if depth == 0 { 6 } else { 10 }) {
                0 => Value::Null,
                1 => json!(whole % 2 == 0),
                2 => json!(whole),
                3 => json!(whole as f64),
                4 => json!(whole as f64 + 0.5),
                5 => json!(WORDS[self.below(WORDS.len())]),
                6 | 7 => (0..self.below(3)).map(|_| self.value(depth - 1)).collect(),
                _ => {
                    let fields = (0..self.below(4)).map(|_| {
                        let name = NAMES[self.below(NAMES.len())];
                        (name.to_owned(), self.value(depth - 1))
                    });
                    Value::Object(fields.collect())
                }
            }
        }

        /// A body of the required fields and some others of a type.
        fn body<T: RequestBody>(&mut self) -> Map<String, Value> {
            let schema = &T::shape().definitions[&T::shape().name];
            let properties = schema["properties"].as_object().unwrap();
            let names: Vec<&String> = properties.keys().collect();
            let required = ["query", "messages", "prompt", "documents"];
            let mut fields: Map<String, Value> = names
                .iter()
                .filter(|name| required.contains(&name.as_str()))
                .map(|name| ((*name).clone(), self.value(3)))
                .collect();
            for _ in 0..self.below(5) {
                let name = names[self.below(names.len())];
                fields.insert(name.clone(), self.value(3));
            }
            fields.retain(|_, value| !value.is_null());
            fields
        }
    }

    fn validator<T: RequestBody>() -> Validator {
        let shape = T::shape();
        let mut schema = shape.definitions[&shape.name].clone();
        schema["components"] = json!({ "schemas": shape.definitions });
        jsonschema::validator_for(&schema).unwrap()
    }

    /// The value without null fields of nested objects. A request may have them, but the schema of
    /// a closed object does not allow them.
    fn without_nulls(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|_, value| !value.is_null());
                fields.values_mut().for_each(without_nulls);
            }
            Value::Array(values) => values.iter_mut().for_each(without_nulls),
            _ => {}
        }
    }

    /// Asserts that a body is read if its type's schema accepts it, and otherwise fails with a
    /// field's name.
    fn agrees<T: RequestBody>() {
        let validator = validator::<T>();
        let mut random = Random(7);
        let mut accepted = 0;
        for _ in 0..BODIES {
            let body = random.body::<T>();
            let mut clean = Value::Object(body.clone());
            without_nulls(&mut clean);
            let valid = validator.is_valid(&clean);
            match T::shape().read::<T>(body) {
                Ok(_) => {
                    assert!(valid, "accepted, and not described: {clean}");
                    accepted += 1;
                }
                Err(refusal) => {
                    let text = serde_json::to_value(refusal.body()).unwrap();
                    assert!(!valid, "described, and refused with {text}: {clean}");
                    assert!(text["error"]["param"].is_string(), "{text}");
                }
            }
        }
        assert!(accepted > 5, "{accepted} bodies were accepted");
    }

    #[test]
    fn texts_are_accepted_as_described() {
        agrees::<TextsRequest>();
    }

    #[test]
    fn rerank_requests_are_accepted_as_described() {
        agrees::<RerankRequest>();
    }

    #[test]
    fn chats_are_accepted_as_described() {
        agrees::<ChatRequest>();
    }

    #[test]
    fn completions_are_accepted_as_described() {
        agrees::<CompletionRequest>();
    }
}
