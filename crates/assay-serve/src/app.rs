//! State that all handlers share, and the scoring of texts.
//!
//! A blocking thread encodes a text and reads its answer. The model thread reads token ids and
//! returns logits. A blocking thread turns these into rewards and scores.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use assay_critic::{EncodedTrace, TokenOutputs};
use assay_lm::packed::PromptGroups;
use assay_tasks::labels::LabelFile;
use assay_tasks::trace::ScoredTrace;
use tokio::sync::Semaphore;

use crate::engine::{Client, ScoreWork};
use crate::events::Events;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::models::Models;
use crate::refusal::Refusal;
use crate::token::Token;

/// Number of blocking threads that encode and finish texts. The model needs the other cores.
pub(crate) const ENCODERS: usize = 2;

/// Maximum total size of a request's texts with their questions, as a multiple of the body's limit.
const MAX_TEXTS_PER_BODY: usize = 4;

pub(crate) struct App {
    pub(crate) models: Arc<Models>,
    pub(crate) engine: Client,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) token: Option<Token>,
    /// The file of labels.
    pub(crate) labels: Option<Arc<LabelFile>>,
    pub(crate) events: Events,
    pub(crate) token_budget: usize,
    pub(crate) seed: u64,
    /// When the server started, in seconds since 1970.
    pub(crate) started: u64,
    pub(crate) encoders: Arc<Semaphore>,
    pub(crate) requests: Arc<Semaphore>,
    /// Number of requests so far. Each request has its own identifier and random streams.
    pub(crate) numbered: AtomicU64,
}

/// Scored traces of a request and the number of tokens read for them; each prompt counts once.
pub(crate) struct Scored {
    pub(crate) traces: Vec<ScoredTrace>,
    pub(crate) tokens: usize,
}

/// A question and a text that answers it.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) question: String,
    pub(crate) text: String,
    /// Name of the text in errors.
    pub(crate) param: String,
}

impl App {
    /// Scores texts by one reward. Fails, naming the text, if one cannot be scored.
    pub(crate) async fn score(
        self: &Arc<Self>,
        reward: usize,
        pairs: Vec<Pair>,
    ) -> Result<Scored, Refusal> {
        self.ensure_bytes(&pairs)?;
        let app = Arc::clone(self);
        let encoding = self.blocking(move || {
            let positions = app.models.positions(reward);
            let mut encoded = Vec::with_capacity(pairs.len());
            for Pair {
                question,
                text,
                param,
            } in pairs
            {
                let trace = ScoredTrace {
                    question,
                    text,
                    ..ScoredTrace::default()
                };
                let trace = app.encode(reward, trace)?;
                ensure_scorable(trace.trace(), param, positions)?;
                encoded.push(trace);
            }
            Ok(encoded)
        });
        self.score_encoded(reward, encoding.await?).await
    }

    /// Scores traces; those that cannot be scored get no rewards.
    pub(crate) async fn score_traces(
        self: &Arc<Self>,
        reward: usize,
        traces: Vec<ScoredTrace>,
    ) -> Result<Scored, Refusal> {
        let app = Arc::clone(self);
        let encoding = self.blocking(move || {
            let encoded = traces.into_iter().map(|trace| app.encode(reward, trace));
            encoded.collect()
        });
        self.score_encoded(reward, encoding.await?).await
    }

    async fn score_encoded(
        self: &Arc<Self>,
        reward: usize,
        traces: Vec<EncodedTrace>,
    ) -> Result<Scored, Refusal> {
        let ids = traces.iter().map(EncodedTrace::ids);
        let rows = PromptGroups::new(ids, self.models.positions(reward)).rows();
        self.ensure_tokens(rows)?;
        let traces = Arc::new(traces);
        let work = ScoreWork {
            reward,
            rows,
            traces: Arc::clone(&traces),
        };
        let outputs = self.engine.score(work).await?;
        let app = Arc::clone(self);
        let finishing = self.blocking(move || {
            let traces = Arc::unwrap_or_clone(traces).into_iter().zip(outputs);
            let finish = |(trace, outputs)| app.finish(reward, trace, outputs);
            traces.map(finish).collect()
        });
        Ok(Scored {
            traces: finishing.await?,
            tokens: rows,
        })
    }

    /// Fails for a request that is too large for the model to finish in time.
    pub(crate) fn ensure_tokens(&self, rows: usize) -> Result<(), Refusal> {
        let max = self.limits.request_tokens;
        if rows <= max {
            return Ok(());
        }
        let message = format!(
            "the request has {rows} tokens, samples counted at their limit; at most {max} are accepted: send it in parts"
        );
        Err(Refusal::request("too_many_tokens", message))
    }

    /// Fails for a long question with many texts, because the question is repeated for each text.
    fn ensure_bytes(&self, pairs: &[Pair]) -> Result<(), Refusal> {
        let bytes: usize = pairs.iter().map(|p| p.question.len() + p.text.len()).sum();
        let max = MAX_TEXTS_PER_BODY * self.limits.body_bytes;
        if bytes <= max {
            return Ok(());
        }
        let message = format!(
            "the texts with their questions have {bytes} bytes; at most {max} are accepted: send them in parts"
        );
        Err(Refusal::request("too_many_bytes", message))
    }

    fn encode(&self, reward: usize, trace: ScoredTrace) -> Result<EncodedTrace, Refusal> {
        let critic = self.models.critic(reward, self.token_budget);
        critic.encode(trace).map_err(|error| {
            self.events.failure("a text could not be encoded", &error);
            Refusal::internal("encoding_failed", "the text could not be encoded")
        })
    }

    fn finish(
        &self,
        reward: usize,
        trace: EncodedTrace,
        outputs: Option<TokenOutputs>,
    ) -> Result<ScoredTrace, Refusal> {
        let critic = self.models.critic(reward, self.token_budget);
        critic.finish(trace, outputs).map_err(|error| {
            self.metrics.model_failed();
            self.events.failure("a model failed on a request", &error);
            Refusal::internal("model_failed", "a token's reward is not a number")
        })
    }

    /// Runs work on a blocking thread, at most [`ENCODERS`] at a time.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let permit = Arc::clone(&self.encoders).acquire_owned().await;
        let worked = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        });
        match worked.await {
            Ok(result) => result,
            Err(_) => {
                self.events.say("a request's text caused a panic");
                let message = "the text could not be read; the server's log has the reason";
                Err(Refusal::internal("encoding_failed", message))
            }
        }
    }

    /// The number of this request since the server started.
    pub(crate) fn next_number(&self) -> u64 {
        self.numbered.fetch_add(1, Ordering::Relaxed)
    }

    /// Fails for a text longer than the limit of one text.
    pub(crate) fn ensure_text(&self, param: &str, text: &str) -> Result<(), Refusal> {
        let max = self.limits.text_bytes;
        if text.len() <= max {
            return Ok(());
        }
        let message = format!("has {} bytes; at most {max} are accepted", text.len());
        Err(Refusal::field(param, message))
    }

    /// Fails for an empty list and for one longer than the limit of a request.
    pub(crate) fn ensure_count(&self, param: &str, count: usize) -> Result<(), Refusal> {
        let max = self.limits.documents;
        if count == 0 {
            return Err(Refusal::field(param, "is empty"));
        }
        if count > max {
            let message = format!("has {count} entries; at most {max} are accepted");
            return Err(Refusal::field(param, message));
        }
        Ok(())
    }
}

/// Seconds since 1970, for identifiers and `created`.
pub(crate) fn unix_seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

fn ensure_scorable(trace: &ScoredTrace, param: String, positions: usize) -> Result<(), Refusal> {
    if trace.token_ids.is_empty() && trace.text.trim().is_empty() {
        return Err(Refusal::field(param, "is empty"));
    }
    if trace.prompt_token_ids.is_empty() {
        return Err(Refusal::field(param, "has an empty question"));
    }
    let tokens = trace.prompt_token_ids.len() + trace.token_ids.len();
    if trace.token_ids.is_empty() || tokens > positions {
        let message = match trace.token_ids.len() {
            0 => format!("has more tokens than the {positions} that the model reads"),
            _ => format!("has {tokens} tokens with its question; the model reads {positions}"),
        };
        return Err(Refusal::too_long(param, message));
    }
    Ok(())
}
