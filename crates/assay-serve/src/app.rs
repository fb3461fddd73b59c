//! What every handler shares, and the one way from texts to scored traces.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use assay_tasks::trace::ScoredTrace;
use tokio::sync::Semaphore;

use crate::engine::Client;
use crate::events::Events;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::models::Models;
use crate::refusal::Refusal;
use crate::token::Token;

/// Texts encoded at a time: encoding is work for a core, the model needs the rest.
pub(crate) const ENCODERS: usize = 2;

/// Bytes of texts and their questions that a request may come to, in units of its body's bound.
const COPIES: usize = 4;

pub(crate) struct App {
    pub(crate) models: Arc<Models>,
    pub(crate) engine: Client,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) token: Option<Token>,
    pub(crate) events: Events,
    pub(crate) token_budget: usize,
    pub(crate) seed: u64,
    pub(crate) started: u64,
    pub(crate) encoders: Arc<Semaphore>,
    pub(crate) requests: Arc<Semaphore>,
    /// Requests numbered so far: each has an identifier and random streams of its own.
    pub(crate) numbered: AtomicU64,
}

/// A question and a text that answers it.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) question: String,
    pub(crate) text: String,
    /// How errors name the text.
    pub(crate) param: String,
}

impl App {
    /// Scores texts by one reward. Texts that cannot be scored refuse the request by name.
    pub(crate) async fn score(
        self: &Arc<Self>,
        reward: usize,
        pairs: Vec<Pair>,
    ) -> Result<Vec<ScoredTrace>, Refusal> {
        self.ensure_bytes(&pairs)?;
        let params: Vec<String> = pairs.iter().map(|pair| pair.param.clone()).collect();
        let traces = pairs.into_iter().map(trace).collect();
        let traces = self.encode(reward, traces).await?;
        let positions = self.models.positions(reward);
        for (trace, param) in traces.iter().zip(params) {
            ensure_scorable(trace, param, positions)?;
        }
        self.score_encoded(reward, traces).await
    }

    /// Scores traces as they are; those that cannot be scored stay without rewards.
    pub(crate) async fn score_traces(
        self: &Arc<Self>,
        reward: usize,
        traces: Vec<ScoredTrace>,
    ) -> Result<Vec<ScoredTrace>, Refusal> {
        let traces = self.encode(reward, traces).await?;
        self.score_encoded(reward, traces).await
    }

    async fn score_encoded(
        &self,
        reward: usize,
        traces: Vec<ScoredTrace>,
    ) -> Result<Vec<ScoredTrace>, Refusal> {
        let rows = rows(&traces);
        self.ensure_tokens(rows)?;
        self.engine.score(reward, traces, rows).await
    }

    /// Refuses a request that is too large for the model to finish in time.
    pub(crate) fn ensure_tokens(&self, rows: usize) -> Result<(), Refusal> {
        let most = self.limits.request_tokens;
        if rows <= most {
            return Ok(());
        }
        let message = format!(
            "the request has {rows} tokens, samples counted at their longest; at most {most} are taken: send it in parts"
        );
        Err(Refusal::request("too_many_tokens", message))
    }

    /// Refuses a long question with many texts: each text carries its question.
    fn ensure_bytes(&self, pairs: &[Pair]) -> Result<(), Refusal> {
        let bytes: usize = pairs.iter().map(|p| p.question.len() + p.text.len()).sum();
        let most = COPIES * self.limits.body_bytes;
        if bytes <= most {
            return Ok(());
        }
        let message = format!(
            "the texts with their questions have {bytes} bytes; at most {most} are taken: send them in parts"
        );
        Err(Refusal::request("too_many_bytes", message))
    }

    async fn encode(
        self: &Arc<Self>,
        reward: usize,
        mut traces: Vec<ScoredTrace>,
    ) -> Result<Vec<ScoredTrace>, Refusal> {
        let app = Arc::clone(self);
        self.blocking(move || {
            let critic = app.models.critic(reward, app.token_budget);
            for trace in &mut traces {
                critic.complete(trace).map_err(|error| {
                    app.events.failure("a text could not be encoded", &error);
                    Refusal::internal("encoding_failed", "the text could not be encoded")
                })?;
            }
            Ok(traces)
        })
        .await
    }

    /// Runs work for a core beside the event loop, few at a time.
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
                self.events.say("a request's text made a worker panic");
                let message = "the text could not be read; the server's log has the reason";
                Err(Refusal::internal("encoding_failed", message))
            }
        }
    }

    /// The number of this request since the server started.
    pub(crate) fn next_number(&self) -> u64 {
        self.numbered.fetch_add(1, Ordering::Relaxed)
    }

    /// Refuses a text beyond the bound of one text.
    pub(crate) fn ensure_text(&self, param: &str, text: &str) -> Result<(), Refusal> {
        let most = self.limits.text_bytes;
        if text.len() <= most {
            return Ok(());
        }
        let message = format!("has {} bytes; at most {most} are taken", text.len());
        Err(Refusal::field(param, message))
    }

    /// Refuses a list beyond the bound of one request, and an empty one.
    pub(crate) fn ensure_count(&self, param: &str, count: usize) -> Result<(), Refusal> {
        let most = self.limits.documents;
        if count == 0 {
            return Err(Refusal::field(param, "is empty"));
        }
        if count > most {
            let message = format!("has {count} entries; at most {most} are taken");
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

fn trace(pair: Pair) -> ScoredTrace {
    ScoredTrace {
        question: pair.question,
        text: pair.text,
        ..ScoredTrace::default()
    }
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

/// Tokens of the texts, and of each distinct prompt once.
pub(crate) fn rows(traces: &[ScoredTrace]) -> usize {
    let prompts: HashSet<&[u32]> = traces
        .iter()
        .map(|trace| trace.prompt_token_ids.as_slice())
        .collect();
    let own: usize = traces.iter().map(|trace| trace.token_ids.len()).sum();
    own + prompts.iter().map(|prompt| prompt.len()).sum::<usize>()
}
