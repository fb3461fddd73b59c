//! The model thread and its queue.
//!
//! The thread processes token ids and numbers only, no texts. [`queue`] decides which units of work
//! share a batch. A batch that fails is run again unit by unit, so that a failing unit does not
//! affect the others.

mod queue;

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use assay_critic::CriticError;
use assay_critic::{EncodedTrace, TokenOutputs};
use assay_lm::draw::DrawSettings;
use assay_lm::sampling::{Completion, SampleRequest, SamplingLimits, sample_while};
use assay_tasks::random::Stream;
use tokio::sync::oneshot;

use crate::error::ServeError;
use crate::events::Events;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::models::{Generator, Models};
use crate::refusal::Refusal;

use self::queue::{Batch, Queue};

/// Limits of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Maximum number of rows of a packed batch of the critic.
    pub token_budget: usize,
    /// Maximum number of requests that share a batch; 1 runs each alone.
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

/// The receiver of the result of a unit of work.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// Encoded traces of one request whose tokens are to be scored.
pub(crate) struct ScoreWork {
    pub(crate) reward: usize,
    /// The traces. The model thread reads their token ids only.
    pub(crate) traces: Arc<Vec<EncodedTrace>>,
    /// Number of tokens of the traces; each prompt counts once.
    pub(crate) rows: usize,
}

/// One prompt and the settings of its samples.
pub(crate) struct SampleWork {
    pub(crate) prompt: Vec<u32>,
    /// A random stream for each sample.
    pub(crate) streams: Vec<Stream>,
    pub(crate) draw: DrawSettings,
    pub(crate) max_tokens: usize,
}

impl SampleWork {
    /// Number of tokens of the prompt and of all samples at their limit.
    pub(crate) fn rows(&self) -> usize {
        self.prompt.len() + self.streams.len() * self.max_tokens
    }
}

pub(crate) struct ScoreJob {
    pub(crate) work: ScoreWork,
    /// Outputs in the order of the traces; `None` for one that the model cannot read.
    pub(crate) reply: Reply<Vec<Option<TokenOutputs>>>,
}

pub(crate) struct SampleJob {
    pub(crate) work: SampleWork,
    /// Completions in the order of the streams.
    pub(crate) reply: Reply<Vec<Completion>>,
}

pub(crate) enum Job {
    Score(ScoreJob),
    Sample(SampleJob),
}

/// The model thread.
pub(crate) struct Engine {
    client: Client,
    thread: Option<JoinHandle<()>>,
}

/// The handle through which handlers send work to the model thread.
#[derive(Clone)]
pub(crate) struct Client {
    queue: Arc<Queue>,
    timeout: Duration,
}

impl Engine {
    /// Starts the model thread.
    pub(crate) fn start(
        models: Arc<Models>,
        batching: Batching,
        limits: &Limits,
        metrics: Arc<Metrics>,
        events: Events,
    ) -> Result<Self, ServeError> {
        let queue = Arc::new(Queue::new(batching, limits, Arc::clone(&metrics)));
        let worker = Worker {
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

    /// Accepts no more work, finishes the queued work and ends the thread.
    pub(crate) fn stop(mut self) {
        self.client.queue.close();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }

    /// Accepts no more work and drops the queued work; running work ends with its current pass.
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
    /// The reward's outputs for encoded traces, in order.
    pub(crate) async fn score(
        &self,
        work: ScoreWork,
    ) -> Result<Vec<Option<TokenOutputs>>, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.queue.push(Job::Score(ScoreJob { work, reply }))?;
        self.wait(answer).await
    }

    /// Completions of a prompt, one for each stream.
    pub(crate) async fn sample(&self, work: SampleWork) -> Result<Vec<Completion>, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.queue.push(Job::Sample(SampleJob { work, reply }))?;
        self.wait(answer).await
    }

    /// Whether work is still accepted.
    pub(crate) fn is_open(&self) -> bool {
        self.queue.is_open()
    }

    /// Waits for a result. If the request stops waiting, the model thread drops its work.
    async fn wait<T>(&self, answer: oneshot::Receiver<Result<T, Refusal>>) -> Result<T, Refusal> {
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Refusal::stopping()),
            Err(_) => Err(Refusal::timed_out(self.timeout.as_secs())),
        }
    }
}

/// The state of the model thread.
struct Worker {
    queue: Arc<Queue>,
    models: Arc<Models>,
    batching: Batching,
    decode_tokens: usize,
    metrics: Arc<Metrics>,
    events: Events,
}

impl Worker {
    /// Runs batches until the queue is closed and empty.
    fn run(&self) {
        while let Some(batch) = self.queue.take() {
            match batch {
                Batch::Score(jobs) => self.score(jobs),
                Batch::Sample(jobs) => self.sample(jobs),
            }
        }
    }

    /// Scores the traces of all jobs in one batch; if that fails, each job alone.
    fn score(&self, jobs: Vec<ScoreJob>) {
        let rows = jobs.iter().map(|job| job.work.rows).sum();
        self.metrics.batch("score", jobs.len(), rows);
        let started = Instant::now();
        let mut all = self.outputs(&jobs).map(Vec::into_iter);
        self.metrics.scored(rows, started.elapsed());
        let several = jobs.len() > 1;
        for job in jobs {
            let result = match &mut all {
                Ok(all) => Ok(all.by_ref().take(job.work.traces.len()).collect()),
                Err(_) if several => self.outputs(std::slice::from_ref(&job)),
                Err(refusal) => Err(refusal.clone()),
            };
            let ScoreJob { work, reply } = job;
            // The handler takes its traces back without a copy.
            drop(work);
            drop(reply.send(result));
        }
    }

    /// One reward's outputs for the traces of some jobs. Stops early if no request waits for them.
    fn outputs(&self, jobs: &[ScoreJob]) -> Result<Vec<Option<TokenOutputs>>, Refusal> {
        let Some(first) = jobs.first() else {
            return Ok(Vec::new());
        };
        let critic = self
            .models
            .critic(first.work.reward, self.batching.token_budget);
        let traces = jobs.iter().flat_map(|job| job.work.traces.iter());
        let ids: Vec<_> = traces.map(EncodedTrace::ids).collect();
        let go_on = |_| match jobs.iter().all(|job| job.reply.is_closed()) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        self.guarded(|| critic.outputs(&ids, None, go_on))
    }

    /// Samples the prompts of all jobs in one batch; if that fails, each job alone.
    fn sample(&self, jobs: Vec<SampleJob>) {
        let rows = jobs.iter().map(|job| job.work.rows()).sum();
        self.metrics.batch("sample", jobs.len(), rows);
        match self.sample_jobs(&jobs) {
            Ok(completions) => {
                for (job, completions) in jobs.into_iter().zip(completions) {
                    drop(job.reply.send(Ok(completions)));
                }
            }
            Err(_) if jobs.len() > 1 => {
                for job in jobs {
                    let alone = std::slice::from_ref(&job);
                    let result = self.sample_jobs(alone);
                    let first = |mut all: Vec<Vec<Completion>>| all.pop().unwrap_or_default();
                    drop(job.reply.send(result.map(first)));
                }
            }
            Err(refusal) => {
                for job in jobs {
                    drop(job.reply.send(Err(refusal.clone())));
                }
            }
        }
    }

    fn sample_jobs(&self, jobs: &[SampleJob]) -> Result<Vec<Vec<Completion>>, Refusal> {
        let Some(Generator::Local(served)) = &self.models.generator else {
            return Err(Refusal::internal("no_policy", "no policy is loaded"));
        };
        let requests: Vec<SampleRequest> = jobs
            .iter()
            .map(|job| SampleRequest {
                prompt: job.work.prompt.clone(),
                streams: job.work.streams.clone(),
                max_new_tokens: None,
                not_first: None,
            })
            .collect();
        let max_new_tokens = jobs[0].work.max_tokens;
        let mut stop_tokens = vec![served.model.end_of_turn()];
        stop_tokens.extend(served.model.tokenizer.eos());
        let limits = SamplingLimits {
            max_new_tokens,
            stop_tokens,
            max_sequences: (self.decode_tokens / max_new_tokens).max(1),
        };
        let wanted = |drawn| {
            self.metrics.sampled(drawn);
            jobs.iter().any(|job| !job.reply.is_closed())
        };
        let completions = self.guarded(|| {
            let policy = &served.policy;
            Ok(sample_while(
                &policy.transformer,
                policy.adapter(),
                &requests,
                &jobs[0].work.draw,
                &limits,
                wanted,
            )?)
        })?;
        Ok(completions.unwrap_or_else(|| vec![Vec::new(); jobs.len()]))
    }

    /// Runs a model. An error or a panic becomes a refusal; its reason goes to the log.
    fn guarded<T>(&self, run: impl FnOnce() -> Result<T, CriticError>) -> Result<T, Refusal> {
        let message = "the model failed on this request; the server's log has the reason";
        let failed = || Err(Refusal::internal("model_failed", message));
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                self.metrics.model_failed();
                self.events.failure("a model failed on a request", &error);
                failed()
            }
            Err(_) => {
                self.metrics.model_failed();
                self.events.say("a model panicked on a request");
                failed()
            }
        }
    }
}
