//! A bounded queue of work for the model thread, which takes whole batches from it.
//!
//! A batch is the oldest unit and the next units that can share a batch with it, in order, until
//! the budget is full. Units whose client has left are dropped. No unit is split.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Batching, Job, SampleJob, ScoreJob};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::refusal::Refusal;

/// Work that runs in one batch; never empty.
pub(crate) enum Batch {
    /// Traces of one reward.
    Score(Vec<ScoreJob>),
    /// Prompts with the same sampling settings.
    Sample(Vec<SampleJob>),
}

struct State {
    jobs: VecDeque<Job>,
    rows: usize,
    open: bool,
}

pub(crate) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    batching: Batching,
    queue_tokens: usize,
    decode_tokens: usize,
    metrics: Arc<Metrics>,
}

impl Job {
    fn rows(&self) -> usize {
        match self {
            Self::Score(job) => job.work.rows,
            Self::Sample(job) => job.work.rows(),
        }
    }

    fn is_abandoned(&self) -> bool {
        match self {
            Self::Score(job) => job.reply.is_closed(),
            Self::Sample(job) => job.reply.is_closed(),
        }
    }

    /// Whether both can run in one batch.
    fn joins(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Score(a), Self::Score(b)) => a.work.reward == b.work.reward,
            (Self::Sample(SampleJob { work: a, .. }), Self::Sample(SampleJob { work: b, .. })) => {
                a.draw == b.draw && a.max_tokens == b.max_tokens
            }
            _ => false,
        }
    }
}

impl Queue {
    pub(crate) fn new(batching: Batching, limits: &Limits, metrics: Arc<Metrics>) -> Self {
        let state = State {
            jobs: VecDeque::new(),
            rows: 0,
            open: true,
        };
        Self {
            state: Mutex::new(state),
            arrived: Condvar::new(),
            batching,
            queue_tokens: limits.queue_tokens,
            decode_tokens: limits.decode_tokens,
            metrics,
        }
    }

    /// Appends a unit. An empty queue accepts any unit. A unit beyond the limit is refused, with
    /// the time to wait.
    pub(crate) fn push(&self, job: Job) -> Result<(), Refusal> {
        let mut state = self.lock();
        if !state.open {
            return Err(Refusal::stopping());
        }
        let rows = job.rows();
        if !state.jobs.is_empty() && state.rows + rows > self.queue_tokens {
            state.drop_abandoned();
            if !state.jobs.is_empty() && state.rows + rows > self.queue_tokens {
                return Err(Refusal::overloaded(self.metrics.seconds_for(state.rows)));
            }
        }
        state.rows += rows;
        state.jobs.push_back(job);
        self.metrics.queued(state.jobs.len(), state.rows);
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    /// Waits for the next batch and returns it; `None` if the queue is closed and empty.
    pub(crate) fn take(&self) -> Option<Batch> {
        let mut state = self.lock();
        loop {
            state.drop_abandoned();
            if let Some(first) = state.jobs.pop_front() {
                let batch = self.gather(first, &mut state);
                self.metrics.queued(state.jobs.len(), state.rows);
                return Some(batch);
            }
            if !state.open {
                return None;
            }
            state = self
                .arrived
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn gather(&self, first: Job, state: &mut State) -> Batch {
        let budget = match &first {
            Job::Score(_) => self.batching.token_budget,
            Job::Sample(_) => self.decode_tokens,
        };
        let mut rows = first.rows();
        let mut batch = vec![first];
        let mut place = 0;
        while batch.len() < self.batching.requests {
            let Some(job) = state.jobs.get(place) else {
                break;
            };
            if !batch[0].joins(job) {
                place += 1;
                continue;
            }
            if rows + job.rows() > budget {
                break;
            }
            rows += job.rows();
            batch.extend(state.jobs.remove(place));
        }
        state.rows -= rows;
        Batch::of(batch)
    }

    pub(crate) fn close(&self) {
        self.lock().open = false;
        self.arrived.notify_all();
    }

    /// Closes the queue and drops its work; clients receive an error that the server is stopping.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        state.open = false;
        state.rows = 0;
        state.jobs.clear();
        drop(state);
        self.arrived.notify_all();
    }

    pub(crate) fn is_open(&self) -> bool {
        self.lock().open
    }

    /// The state is consistent even after a thread panicked while it held the lock: every change is
    /// atomic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn drop_abandoned(&mut self) {
        self.jobs.retain(|job| !job.is_abandoned());
        self.rows = self.jobs.iter().map(Job::rows).sum();
    }
}

impl Batch {
    /// Jobs of one kind as a batch of it.
    fn of(jobs: Vec<Job>) -> Self {
        let (mut scores, mut samples) = (Vec::new(), Vec::new());
        for job in jobs {
            match job {
                Job::Score(job) => scores.push(job),
                Job::Sample(job) => samples.push(job),
            }
        }
        match scores.is_empty() {
            true => Self::Sample(samples),
            false => Self::Score(scores),
        }
    }
}

#[cfg(test)]
mod tests {
    use assay_lm::draw::DrawSettings;
    use tokio::sync::oneshot;

    use super::super::{SampleWork, ScoreWork};
    use super::*;

    fn queue(token_budget: usize, requests: usize, queue_tokens: usize) -> Queue {
        let limits = Limits {
            queue_tokens,
            ..Limits::default()
        };
        let batching = Batching {
            token_budget,
            requests,
        };
        Queue::new(batching, &limits, Arc::new(Metrics::new().unwrap()))
    }

    fn score_work(reward: usize, rows: usize) -> ScoreWork {
        ScoreWork {
            reward,
            rows,
            traces: Arc::default(),
        }
    }

    /// Pushes jobs (reward, rows) and keeps their receivers.
    fn push(queue: &Queue, jobs: &[(usize, usize)]) -> Vec<impl Sized + use<>> {
        let mut receivers = Vec::new();
        for &(reward, rows) in jobs {
            let (reply, receiver) = oneshot::channel();
            let work = score_work(reward, rows);
            queue.push(Job::Score(ScoreJob { work, reply })).unwrap();
            receivers.push(receiver);
        }
        receivers
    }

    fn rows(batch: Batch) -> Vec<(usize, usize)> {
        match batch {
            Batch::Score(jobs) => {
                let works = jobs.iter().map(|job| &job.work);
                works.map(|work| (work.reward, work.rows)).collect()
            }
            Batch::Sample(jobs) => jobs.iter().map(|job| (99, job.work.rows())).collect(),
        }
    }

    #[test]
    fn batches_fill_their_budget_in_order() {
        let queue = queue(10, 64, 1000);
        let _waiting = push(&queue, &[(0, 4), (1, 3), (0, 5), (0, 2), (0, 1), (1, 9)]);
        let batches: Vec<_> = (0..4).map(|_| rows(queue.take().unwrap())).collect();
        // 4 + 5 fit, 2 more do not. The 1 after it waits although it would fit.
        assert_eq!(batches[0], [(0, 4), (0, 5)]);
        assert_eq!(batches[1], [(1, 3)]);
        assert_eq!(batches[2], [(0, 2), (0, 1)]);
        assert_eq!(batches[3], [(1, 9)]);
        queue.close();
        assert!(queue.take().is_none());
    }

    #[test]
    fn the_requests_of_a_batch_are_bounded() {
        let queue = queue(1000, 1, 1000);
        let _waiting = push(&queue, &[(0, 4), (0, 4)]);
        assert_eq!(rows(queue.take().unwrap()), [(0, 4)]);
        assert_eq!(rows(queue.take().unwrap()), [(0, 4)]);
    }

    #[test]
    fn abandoned_work_makes_room() {
        let queue = queue(10, 64, 10);
        let _first = push(&queue, &[(0, 50)]);
        let (reply, _receiver) = oneshot::channel();
        let job = |reply| {
            Job::Score(ScoreJob {
                work: score_work(0, 1),
                reply,
            })
        };
        let refusal = queue.push(job(reply)).unwrap_err();
        assert_eq!(refusal.status.as_u16(), 429);
        drop(_first);
        let (reply, _receiver) = oneshot::channel();
        queue.push(job(reply)).unwrap();
        assert_eq!(rows(queue.take().unwrap()), [(0, 1)]);
        queue.close();
        let (reply, _receiver) = oneshot::channel();
        assert_eq!(queue.push(job(reply)).unwrap_err().status.as_u16(), 503);
    }

    #[test]
    fn prompts_with_equal_settings_share_a_batch() {
        let queue = queue(10, 64, 1000);
        let mut receivers = Vec::new();
        for temperature in [1.0, 1.0, 0.5] {
            let (reply, receiver) = oneshot::channel();
            let draw = DrawSettings {
                temperature,
                ..DrawSettings::default()
            };
            receivers.push(receiver);
            let work = SampleWork {
                prompt: vec![1],
                streams: Vec::new(),
                draw,
                max_tokens: 3,
            };
            queue.push(Job::Sample(SampleJob { work, reply })).unwrap();
        }
        assert_eq!(rows(queue.take().unwrap()).len(), 2);
        assert_eq!(rows(queue.take().unwrap()).len(), 1);
    }
}
