//! The trace record: the file format between commands that run models and commands that do not.
//!
//! `traces.jsonl` holds one [`ScoredTrace`] per line. Selection, evaluation, localisation and the
//! report are functions of it. [`crate::trace_io`] reads and writes it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The end-of-turn token was produced.
    Stop,
    /// The completion limit was reached first: the trace is truncated.
    Length,
}

/// One completion of one problem, with its rewards, log-probabilities and scores if they are known.
///
/// # Shapes
/// `token_ids`, `token_offsets`, `token_rewards`, `policy_logprobs` and `sampling_logprobs` have
/// one entry per completion token, including the end-of-turn token. `token_offsets` are byte ranges
/// `[start, end)` in `text`; the end-of-turn token has an empty range at the end. The lists are
/// empty in a trace that no model has read yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScoredTrace {
    /// Problem identifier: traces with one `id` answer one question and form a group.
    pub id: String,
    /// The question as the user wrote it.
    pub question: String,
    /// What produced the text: a model, an adapter, `demonstration`.
    pub generator: String,
    /// The seed of the run that sampled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The rendered chat prompt, as token ids.
    #[serde(default)]
    pub prompt_token_ids: Vec<u32>,
    /// The completion.
    pub text: String,
    /// The completion's token ids.
    #[serde(default)]
    pub token_ids: Vec<u32>,
    /// Byte range of each token in `text`.
    #[serde(default)]
    pub token_offsets: Vec<(usize, usize)>,
    /// Reward after each token; `None` for a token without a reward.
    #[serde(default)]
    pub token_rewards: Vec<Option<f32>>,
    /// log pi(token | tokens before it) of the policy at temperature 1. Samples hold the sampler's
    /// values; `score --policy` recomputes them. Training always recomputes its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_logprobs: Option<Vec<f32>>,
    /// log-probability under the distribution that was sampled from (temperature, top-p and top-k
    /// applied).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling_logprobs: Option<Vec<f32>>,
    /// Entropy of the policy before each token, in nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropies: Option<Vec<f32>>,
    /// Trace scores by name: `mean`, `last`, `min`, `soft_min`, ...
    #[serde(default)]
    pub scores: BTreeMap<String, f32>,
    /// The gold answer, if the file carried one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// The answer read from `text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_answer: Option<String>,
    /// Whether the predicted answer equals the gold answer, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correct: Option<bool>,
    /// Why the completion ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
}
