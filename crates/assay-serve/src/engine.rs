//! The one thread that runs models, and the queue before it.
//!
//! Decided here: what a unit of work is, and that a unit that fails takes none of its neighbours with it. What is
//! packed together is decided in [`queue`], how it is run in [`worker`].

mod queue;
mod worker;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use assay_lm::draw::SamplingSettings;
use assay_lm::sampling::Completion;
use assay_tasks::random::Stream;
use assay_tasks::trace::ScoredTrace;
use tokio::sync::oneshot;

use crate::error::ServeError;
use crate::events::Events;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::models::Models;
use crate::refusal::Refusal;

use self::queue::Queue;

/// How much is packed into one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Rows of a packed batch of the critic.
    pub token_budget: usize,
    /// Most requests that share a pass; 1 runs each alone.
    pub requests: usize,
}

impl Default for Batching {
    fn default() -> Self {
        Self {
            token_budget: 4096,
            requests: 64,
        }
    }
}

/// What a unit of work gives back.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// Encoded traces of one request that want rewards.
pub(crate) struct ScoreJob {
    pub(crate) reward: usize,
    pub(crate) traces: Vec<ScoredTrace>,
    /// Tokens of the texts, and of each of their prompts once.
    pub(crate) rows: usize,
    pub(crate) reply: Reply<Vec<ScoredTrace>>,
}

/// One prompt that wants completions.
pub(crate) struct SampleJob {
    pub(crate) prompt: Vec<u32>,
    pub(crate) streams: Vec<Stream>,
    pub(crate) draw: SamplingSettings,
    pub(crate) max_tokens: usize,
    pub(crate) reply: Reply<Vec<Completion>>,
}

impl SampleJob {
    /// Tokens at the longest: the prompt and every sample at its limit.
    pub(crate) fn rows(&self) -> usize {
        self.prompt.len() + self.streams.len() * self.max_tokens
    }
}

pub(crate) enum Job {
    Score(ScoreJob),
    Sample(SampleJob),
}

/// The thread that empties the queue.
pub(crate) struct Engine {
    client: Client,
    thread: Option<JoinHandle<()>>,
}

/// The way to the model thread.
#[derive(Clone)]
pub(crate) struct Client {
    queue: Arc<Queue>,
    timeout: Duration,
}

impl Engine {
    /// Starts the model thread.
    pub(crate) fn start(
        models: Arc<Models>,
        (batching, limits): (Batching, &Limits),
        metrics: Arc<Metrics>,
        events: Events,
    ) -> Result<Self, ServeError> {
        let queue = Arc::new(Queue::new(batching, limits, Arc::clone(&metrics)));
        let worker = worker::Worker {
            queue: Arc::clone(&queue),
            models,
            batching,
            decode_tokens: limits.decode_tokens,
            metrics,
            events,
        };
        let thread = std::thread::Builder::new()
            .name("model".to_owned())
            .spawn(move || worker.run())
            .map_err(|source| ServeError::System {
                doing: "starting the model thread",
                source,
            })?;
        let timeout = limits.request_timeout;
        Ok(Self {
            client: Client { queue, timeout },
            thread: Some(thread),
        })
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Takes no more work, finishes what waits and ends the thread.
    pub(crate) fn stop(mut self) {
        self.client.queue.close();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }

    /// Takes no more work and drops what waits; what runs ends with its pass.
    pub(crate) fn abandon(&self) {
        self.client.queue.abandon();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl Client {
    /// Rewards of encoded traces, in their order.
    pub(crate) async fn score(
        &self,
        reward: usize,
        traces: Vec<ScoredTrace>,
        rows: usize,
    ) -> Result<Vec<ScoredTrace>, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.queue.push(Job::Score(ScoreJob {
            reward,
            traces,
            rows,
            reply,
        }))?;
        self.wait(answer).await
    }

    /// Completions of a prompt, one a stream.
    pub(crate) async fn sample(
        &self,
        prompt: Vec<u32>,
        streams: Vec<Stream>,
        (draw, max_tokens): (SamplingSettings, usize),
    ) -> Result<Vec<Completion>, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.queue.push(Job::Sample(SampleJob {
            prompt,
            streams,
            draw,
            max_tokens,
            reply,
        }))?;
        self.wait(answer).await
    }

    /// Whether work is still taken.
    pub(crate) fn is_open(&self) -> bool {
        self.queue.is_open()
    }

    /// A request that stops waiting drops its end, and the model thread lets its work go.
    async fn wait<T>(&self, answer: oneshot::Receiver<Result<T, Refusal>>) -> Result<T, Refusal> {
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Refusal::stopping()),
            Err(_) => Err(Refusal::timed_out(self.timeout.as_secs())),
        }
    }
}
