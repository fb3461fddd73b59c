//! Running batches: scoring in parts of the token budget, sampling prompts together, failures one by one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use assay_critic::CriticError;
use assay_lm::sampling::{Completion, SampleRequest, SamplingLimits, sample_while};
use assay_tasks::trace::ScoredTrace;

use super::queue::{Batch, Queue};
use super::{Batching, SampleJob, ScoreJob};
use crate::events::Events;
use crate::metrics::Metrics;
use crate::models::{Generator, Models};
use crate::refusal::Refusal;

pub(crate) struct Worker {
    pub(crate) queue: Arc<Queue>,
    pub(crate) models: Arc<Models>,
    pub(crate) batching: Batching,
    pub(crate) decode_tokens: usize,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) events: Events,
}

impl Worker {
    /// Works until the queue is closed and empty.
    pub(crate) fn run(&self) {
        while let Some(batch) = self.queue.take() {
            match batch {
                Batch::Score(jobs) => self.score(jobs),
                Batch::Sample(jobs) => self.sample(jobs),
            }
        }
    }

    /// Scores the traces of all jobs together; when that fails, each job alone.
    fn score(&self, mut jobs: Vec<ScoreJob>) {
        let rows = jobs.iter().map(|job| job.rows).sum();
        self.metrics.batch("score", jobs.len(), rows);
        let (reward, started) = (jobs[0].reward, Instant::now());
        let counts: Vec<usize> = jobs.iter().map(|job| job.traces.len()).collect();
        let mut traces: Vec<ScoredTrace> = jobs
            .iter_mut()
            .flat_map(|job| std::mem::take(&mut job.traces))
            .collect();
        let wanted = || jobs.iter().any(|job| !job.reply.is_closed());
        let together = self.score_traces(reward, &mut traces, wanted);
        self.metrics.scored(rows, started.elapsed());
        let alone = jobs.len() > 1;
        let mut rest = traces.into_iter();
        for (job, count) in jobs.into_iter().zip(counts) {
            let mut own: Vec<ScoredTrace> = rest.by_ref().take(count).collect();
            let result = match &together {
                Ok(()) => Ok(()),
                Err(_) if alone => self.score_traces(reward, &mut own, || !job.reply.is_closed()),
                Err(refusal) => Err(refusal.clone()),
            };
            drop(job.reply.send(result.map(|()| own)));
        }
    }

    /// Scores in parts of the token budget, so that work nobody waits for ends early.
    fn score_traces(
        &self,
        reward: usize,
        traces: &mut [ScoredTrace],
        wanted: impl Fn() -> bool,
    ) -> Result<(), Refusal> {
        let critic = self.models.critic(reward, self.batching.token_budget);
        for part in parts(traces, self.batching.token_budget) {
            if !wanted() {
                return Ok(());
            }
            self.guarded(|| critic.score(part, None).map(drop))?;
        }
        Ok(())
    }

    /// Samples the prompts of all jobs together; when that fails, each job alone.
    fn sample(&self, jobs: Vec<SampleJob>) {
        let rows = jobs.iter().map(SampleJob::rows).sum();
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
                prompt: job.prompt.clone(),
                streams: job.streams.clone(),
                max_new_tokens: None,
            })
            .collect();
        let max_new_tokens = jobs[0].max_tokens;
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
            let settings = (&jobs[0].draw, &limits);
            Ok(sample_while(
                &policy.transformer,
                policy.adapter(),
                &requests,
                settings,
                wanted,
            )?)
        })?;
        Ok(completions.unwrap_or_else(|| vec![Vec::new(); jobs.len()]))
    }

    /// Runs a model; an error or a panic becomes a refusal, with its reason in the log.
    fn guarded<T>(&self, run: impl FnOnce() -> Result<T, CriticError>) -> Result<T, Refusal> {
        let failed = |message| Err(Refusal::internal("model_failed", message));
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                self.metrics.model_failed();
                self.events.failure("a model failed on a request", &error);
                match error {
                    CriticError::NonFiniteReward { .. } => {
                        failed("a token's reward is not a number")
                    }
                    _ => {
                        failed("the model failed on this request; the server's log has the reason")
                    }
                }
            }
            Err(_) => {
                self.metrics.model_failed();
                self.events.say("a model panicked on a request");
                failed("the model failed on this request; the server's log has the reason")
            }
        }
    }
}

/// Consecutive traces of at most `budget` tokens, prompts counted once a part; a longer trace stands alone.
fn parts(mut traces: &mut [ScoredTrace], budget: usize) -> Vec<&mut [ScoredTrace]> {
    let mut parts = Vec::new();
    while !traces.is_empty() {
        let mut prompts: Vec<&[u32]> = Vec::new();
        let mut rows = 0;
        let mut count = 0;
        for trace in traces.iter() {
            let prompt = trace.prompt_token_ids.as_slice();
            let known = prompts.contains(&prompt);
            rows += trace.token_ids.len() + if known { 0 } else { prompt.len() };
            if count > 0 && rows > budget {
                break;
            }
            if !known {
                prompts.push(prompt);
            }
            count += 1;
        }
        let (part, rest) = traces.split_at_mut(count);
        parts.push(part);
        traces = rest;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_count_a_prompt_once_and_lose_nothing() {
        let trace = |prompt: usize, tokens: usize| ScoredTrace {
            prompt_token_ids: vec![prompt as u32; prompt],
            token_ids: vec![0; tokens],
            ..ScoredTrace::default()
        };
        let mut traces = [
            trace(3, 2),
            trace(3, 5),
            trace(3, 1),
            trace(2, 50),
            trace(1, 1),
        ];
        let sizes = |traces: &mut [ScoredTrace], budget| -> Vec<usize> {
            parts(traces, budget)
                .iter()
                .map(|part| part.len())
                .collect()
        };
        // 3+2+5 = 10 rows; one more token opens a part of 3+1.
        assert_eq!(sizes(&mut traces, 10), [2, 1, 1, 1]);
        assert_eq!(sizes(&mut traces, 11), [3, 1, 1]);
        assert_eq!(sizes(&mut traces, 1), [1; 5]);
        assert_eq!(sizes(&mut traces, 1000), [5]);
        assert!(sizes(&mut [], 5).is_empty());
    }
}
