//! Types of response bodies, and their parts made from scored traces. The doc comments are the
//! descriptions of the fields at `/openapi.json`.

use std::collections::BTreeMap;

use assay_evals::localisation::{Predictor, Suspect};
use assay_evals::scores::TraceScore;
use assay_tasks::labels::trace_key;
use assay_tasks::trace::ScoredTrace;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

/// Scores of texts, in order.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Scores {
    pub(crate) object: &'static str,
    pub(crate) model: String,
    pub(crate) data: Vec<Score>,
    pub(crate) usage: Usage,
}

/// The scores of one text.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Score {
    pub(crate) object: &'static str,
    pub(crate) index: usize,
    /// The trace score of the text.
    pub(crate) score: Option<f64>,
    /// Every trace score by name.
    pub(crate) scores: BTreeMap<String, f64>,
    /// Calibrated P(correct); null for a reward without a calibration.
    pub(crate) probability: Option<f64>,
    pub(crate) predicted_answer: Option<String>,
}

/// Token rewards of texts, in order.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Rewards {
    pub(crate) object: &'static str,
    pub(crate) model: String,
    pub(crate) data: Vec<TokenRewards>,
    pub(crate) usage: Usage,
}

/// Token rewards and scores of one text.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct TokenRewards {
    pub(crate) object: &'static str,
    pub(crate) index: usize,
    /// The scored text, in the reward's prompt style.
    pub(crate) text: String,
    /// The text of each token; the last one, which ends the turn, is empty.
    pub(crate) tokens: Vec<String>,
    /// Byte range of each token in `text`.
    pub(crate) offsets: Vec<(usize, usize)>,
    /// The reward after each token, in logits of the discriminator.
    pub(crate) rewards: Vec<Option<f64>>,
    pub(crate) score: Option<f64>,
    /// Every trace score by name.
    pub(crate) scores: BTreeMap<String, f64>,
    /// Calibrated P(correct); null for a reward without a calibration.
    pub(crate) probability: Option<f64>,
    pub(crate) predicted_answer: Option<String>,
    pub(crate) predicted_error: Option<PredictedError>,
    /// Key of question and text in `/v1/labels`.
    pub(crate) trace: String,
}

/// The predicted token of the first error.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub(crate) struct PredictedError {
    /// Index of the token.
    pub(crate) token: usize,
    /// Where the token starts in the text, in bytes.
    pub(crate) start: usize,
    /// Where it ends: the byte after its last one.
    pub(crate) end: usize,
    pub(crate) text: String,
    /// The predictor's value, in units of reward.
    pub(crate) suspicion: f64,
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub(crate) struct Usage {
    /// Number of tokens read; each prompt counts once.
    pub(crate) prompt_tokens: usize,
    /// Number of tokens sampled, over all samples.
    pub(crate) completion_tokens: usize,
    pub(crate) total_tokens: usize,
}

impl Usage {
    pub(crate) fn new(prompt_tokens: usize, completion_tokens: usize) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
        }
    }
}

/// A ranking: an object, or a list as in text-embeddings-inference if `texts` were ranked.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum RerankAnswer {
    Ranking(Ranking),
    Texts(Vec<RankedText>),
}

/// Ranked documents, best first.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Ranking {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) model: String,
    pub(crate) results: Vec<RankedDocument>,
    pub(crate) usage: RerankUsage,
    pub(crate) meta: RerankMeta,
}

/// One document of a ranking.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RankedDocument {
    /// Its place in the request.
    pub(crate) index: usize,
    /// sigmoid(score), in (0, 1); 0 for an empty document.
    pub(crate) relevance_score: f64,
    /// The trace score itself; null for an empty document.
    pub(crate) score: Option<f64>,
    /// The document as an object, if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) document: Option<Map<String, Value>>,
}

/// One text of a ranking, in text-embeddings-inference's format.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RankedText {
    /// Its place in the request.
    pub(crate) index: usize,
    /// sigmoid(score), or the score itself if `raw_scores` is true; null for an empty text with
    /// `raw_scores`.
    pub(crate) score: Option<f64>,
    /// The text, if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
}

/// Tokens of a ranking.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RerankUsage {
    pub(crate) prompt_tokens: usize,
    pub(crate) total_tokens: usize,
}

/// Additional fields for Cohere's clients.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RerankMeta {
    pub(crate) billed_units: BilledUnits,
    /// Warnings about fields that were read differently than the request may intend.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct BilledUnits {
    pub(crate) search_units: usize,
}

/// One answer to a chat, chosen among samples.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ChatCompletion {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) object: &'static str,
    pub(crate) choices: [ChatChoice; 1],
    pub(crate) usage: Usage,
    pub(crate) assay: Choice,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ChatChoice {
    pub(crate) message: AnswerTurn,
    pub(crate) index: usize,
    pub(crate) finish_reason: &'static str,
    pub(crate) logprobs: (),
}

/// The turn of the assistant.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AnswerTurn {
    pub(crate) role: &'static str,
    pub(crate) content: String,
    pub(crate) refusal: (),
}

/// One continuation of a text, chosen among samples.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Completion {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) object: &'static str,
    pub(crate) choices: [TextChoice; 1],
    pub(crate) usage: Usage,
    pub(crate) assay: Choice,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TextChoice {
    pub(crate) text: String,
    pub(crate) index: usize,
    pub(crate) finish_reason: &'static str,
    pub(crate) logprobs: (),
}

/// A part of a streamed answer to a chat.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ChatChunk {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) object: &'static str,
    pub(crate) choices: Vec<ChatChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) assay: Option<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Usage>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ChatChunkChoice {
    pub(crate) index: usize,
    pub(crate) delta: Delta,
    pub(crate) finish_reason: Option<&'static str>,
    pub(crate) logprobs: (),
}

/// What is appended to the turn.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(crate) struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<String>,
}

/// A part of a streamed continuation.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CompletionChunk {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) object: &'static str,
    pub(crate) choices: Vec<TextChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) assay: Option<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Usage>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TextChunkChoice {
    pub(crate) index: usize,
    pub(crate) text: String,
    pub(crate) finish_reason: Option<&'static str>,
    pub(crate) logprobs: (),
}

/// How an answer was chosen. Candidates are in the order of sampling.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct Choice {
    pub(crate) n: usize,
    pub(crate) selector: &'static str,
    pub(crate) reward: String,
    pub(crate) score: &'static str,
    /// The index of the chosen candidate.
    pub(crate) chosen: usize,
    /// Indices of the candidates, best score first.
    pub(crate) ranking: Vec<usize>,
    pub(crate) candidates: Vec<CandidateView>,
}

/// One sample. `text` and `rewards` are present if `return_candidates` is true.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Candidate")]
pub(crate) struct CandidateView {
    pub(crate) index: usize,
    pub(crate) score: Option<f64>,
    pub(crate) probability: Option<f64>,
    pub(crate) predicted_answer: Option<String>,
    pub(crate) finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rewards: Option<TokenRewards>,
}

/// The models that are served.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Models")]
pub(crate) struct ModelList {
    pub(crate) object: &'static str,
    pub(crate) data: Vec<ModelEntry>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Model")]
pub(crate) struct ModelEntry {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) owned_by: &'static str,
    pub(crate) kind: ModelKind,
    /// Maximum number of tokens of prompt and completion together, as in vLLM; absent for an
    /// upstream server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_model_len: Option<usize>,
}

#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ModelKind {
    Reward,
    Policy,
    Upstream,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Health {
    pub(crate) status: HealthStatus,
}

#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HealthStatus {
    Ok,
    Stopping,
}

/// How traces are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) score: TraceScore,
    pub(crate) predictor: Predictor,
}

impl View {
    /// The trace score of a text.
    pub(crate) fn score(&self, trace: &ScoredTrace) -> Option<f64> {
        trace.scores.get(self.score.name()).copied().map(f64::from)
    }

    /// Token rewards and scores of a scored text.
    pub(crate) fn token_rewards(
        &self,
        index: usize,
        trace: &ScoredTrace,
        probability: Option<f64>,
    ) -> TokenRewards {
        let token = |&(start, end): &(usize, usize)| trace.text.get(start..end).unwrap_or_default();
        let tokens = trace.token_offsets.iter().map(token);
        let rewards = trace.token_rewards.iter();
        TokenRewards {
            object: "token_rewards",
            index,
            tokens: tokens.map(str::to_owned).collect(),
            offsets: trace.token_offsets.clone(),
            rewards: rewards.map(|reward| reward.map(f64::from)).collect(),
            score: self.score(trace),
            scores: scores(trace),
            probability,
            predicted_answer: trace.predicted_answer.clone(),
            predicted_error: predicted_error(trace, self.predictor),
            trace: trace_key(&trace.question, &trace.text),
            text: trace.text.clone(),
        }
    }
}

/// Every trace score of a trace by name.
pub(crate) fn scores(trace: &ScoredTrace) -> BTreeMap<String, f64> {
    let scores = trace.scores.iter();
    scores
        .map(|(name, &score)| (name.clone(), f64::from(score)))
        .collect()
}

/// The token that the predictor suspects, with its text.
fn predicted_error(trace: &ScoredTrace, predictor: Predictor) -> Option<PredictedError> {
    let Suspect { token, suspicion } = Suspect::of(trace, predictor)?;
    let &(start, end) = trace.token_offsets.get(token)?;
    Some(PredictedError {
        token,
        start,
        end,
        text: trace.text.get(start..end).unwrap_or_default().to_owned(),
        suspicion,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_drop_is_the_predicted_error() {
        let trace = ScoredTrace {
            text: "a bé c".into(),
            token_offsets: vec![(0, 1), (1, 5), (5, 7), (7, 7)],
            token_rewards: vec![Some(1.0), Some(2.0), Some(-1.5), Some(-2.0)],
            ..ScoredTrace::default()
        };
        let error = predicted_error(&trace, Predictor::LargestDrop).unwrap();
        assert_eq!(
            (error.token, error.start, error.text.as_str()),
            (2, 5, " c")
        );
        assert_eq!(error.suspicion, 3.5);
        let lowest = predicted_error(&trace, Predictor::LowestReward).unwrap();
        assert_eq!((lowest.token, lowest.text.as_str()), (3, ""));
        let view = View {
            score: TraceScore::Mean,
            predictor: Predictor::LargestDrop,
        };
        let shown = view.token_rewards(0, &trace, None);
        assert_eq!(shown.tokens, ["a", " bé", " c", ""]);
        assert_eq!(shown.rewards, [1.0, 2.0, -1.5, -2.0].map(Some));
        assert_eq!(shown.predicted_error.map(|error| error.token), Some(2));
    }

    #[test]
    fn a_reward_that_only_rises_predicts_no_error() {
        let trace = ScoredTrace {
            text: "ab".into(),
            token_offsets: vec![(0, 1), (1, 2)],
            token_rewards: vec![Some(1.0), Some(2.0)],
            ..ScoredTrace::default()
        };
        assert_eq!(predicted_error(&trace, Predictor::LargestDrop), None);
    }
}
