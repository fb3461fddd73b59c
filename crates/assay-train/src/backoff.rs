//! Recovery from a failed allocation: the run repeats the work with half as much at a time, and
//! keeps that limit.
//!
//! Passes and samples give the same numbers however they are split; gradients differ by the
//! rounding of a sum. Only work without side effects may be repeated: sampling, and passes before
//! the optimiser's update.

use std::cell::Cell;

use crate::TrainError;
use crate::metrics::IterationMetrics;

/// The limits that a run has halved so far.
#[derive(Debug, Default)]
pub struct MemoryBackoff {
    tokens: Cell<Option<usize>>,
    sequences: Cell<Option<usize>>,
}

/// Work that is done in batches of bounded size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoundedWork {
    /// Packed tokens of a pass.
    Tokens,
    /// Sequences that are sampled.
    Sequences,
}

impl BoundedWork {
    const ALL: [Self; 2] = [Self::Tokens, Self::Sequences];

    /// The metric that records the limit after memory ran out.
    pub(crate) fn metric(self) -> &'static str {
        match self {
            Self::Tokens => "memory/token_budget",
            Self::Sequences => "memory/max_sequences",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Sequences => "sequences",
        }
    }
}

/// A limit that applies since memory ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalvedLimit {
    /// What is limited.
    pub work: BoundedWork,
    /// Items at a time.
    pub limit: usize,
}

impl HalvedLimit {
    /// The warning for the iteration in which memory ran out.
    pub(crate) fn warning(self, iteration: usize) -> String {
        format!(
            "warning: memory ran out in iteration {iteration}; the run continues with {} {} at a time, half of what was \
             tried, and the same result",
            self.limit,
            self.work.name()
        )
    }
}

impl MemoryBackoff {
    /// Items at a time since memory ran out; `None` before.
    pub fn limit(&self, work: BoundedWork) -> Option<usize> {
        self.cell(work).get()
    }

    /// All limits that apply.
    pub fn limits(&self) -> Vec<HalvedLimit> {
        let halved = |work| self.limit(work).map(|limit| HalvedLimit { work, limit });
        BoundedWork::ALL.into_iter().filter_map(halved).collect()
    }

    fn cell(&self, work: BoundedWork) -> &Cell<Option<usize>> {
        match work {
            BoundedWork::Tokens => &self.tokens,
            BoundedWork::Sequences => &self.sequences,
        }
    }

    /// Calls `run` with at most `most` items at a time. The first time it runs out of memory, calls
    /// it once more with half of them.
    ///
    /// # Errors
    /// [`TrainError::OutOfMemoryAgain`] if half does not fit either, and all other errors of `run`.
    pub fn attempt<T>(
        &self,
        work: BoundedWork,
        most: usize,
        mut run: impl FnMut(usize) -> Result<T, TrainError>,
    ) -> Result<T, TrainError> {
        let limit = self.cell(work);
        if let Some(halved) = limit.get() {
            let now = halved.min(most);
            return run(now).map_err(|error| again(work, now, error));
        }
        match run(most) {
            Err(error) if error.is_out_of_memory() && most > 1 => {
                let half = most / 2;
                limit.set(Some(half));
                run(half).map_err(|error| again(work, half, error))
            }
            done => done,
        }
    }

    /// Restores the limits of a run from its last metrics.
    pub fn restore(&self, metrics: &IterationMetrics) {
        for work in BoundedWork::ALL {
            if let Some(&limit) = metrics.values.get(work.metric()) {
                self.cell(work).set(Some(limit as usize));
            }
        }
    }
}

fn again(work: BoundedWork, at_a_time: usize, error: TrainError) -> TrainError {
    match error.is_out_of_memory() {
        true => TrainError::OutOfMemoryAgain {
            halved: format!("{at_a_time} {} at a time", work.name()),
            source: Box::new(error),
        },
        false => error,
    }
}

#[cfg(test)]
mod tests {
    use assay_ops::OpsError;

    use super::*;

    /// Work that fits up to `room` items at a time; records what was tried.
    fn work(room: usize, tried: &mut Vec<usize>) -> impl FnMut(usize) -> Result<usize, TrainError> {
        move |at_a_time| {
            tried.push(at_a_time);
            match at_a_time > room {
                true => Err(OpsError::OutOfMemory { bytes: at_a_time }.into()),
                false => Ok(at_a_time),
            }
        }
    }

    #[test]
    fn refused_memory_halves_the_work_once() {
        let (backoff, mut tried) = (MemoryBackoff::default(), Vec::new());
        let attempt = |room, tried: &mut Vec<usize>| {
            backoff.attempt(BoundedWork::Tokens, 100, work(room, tried))
        };
        assert_eq!(attempt(100, &mut tried).unwrap(), 100);
        assert!(backoff.limits().is_empty());
        assert_eq!(attempt(60, &mut tried).unwrap(), 50);
        let halved = HalvedLimit {
            work: BoundedWork::Tokens,
            limit: 50,
        };
        assert_eq!(backoff.limits(), [halved]);
        assert_eq!(attempt(100, &mut tried).unwrap(), 50);
        let error = attempt(49, &mut tried).unwrap_err();
        assert_eq!(tried, [100, 100, 50, 50, 50]);
        let message = error.to_string();
        assert!(
            message.contains("with 50 tokens at a time") && message.contains("--resume"),
            "{message}"
        );
        assert!(!error.is_out_of_memory(), "a second failure is final");
    }

    #[test]
    fn half_that_does_not_fit_is_an_error() {
        let mut tried = Vec::new();
        let backoff = MemoryBackoff::default();
        let error = backoff.attempt(BoundedWork::Sequences, 9, work(3, &mut tried));
        assert!(matches!(error, Err(TrainError::OutOfMemoryAgain { .. })));
        assert_eq!(tried, [9, 4]);
        let backoff = MemoryBackoff::default();
        let error = backoff.attempt(BoundedWork::Tokens, 8, |_| {
            Err::<(), _>(TrainError::EmptyUpdate)
        });
        assert!(matches!(error, Err(TrainError::EmptyUpdate)));
        assert!(backoff.limits().is_empty());
    }

    #[test]
    fn limits_are_restored_from_metrics() {
        let mut metrics = IterationMetrics::default();
        metrics.set(BoundedWork::Tokens.metric(), 50.0).unwrap();
        let resumed = MemoryBackoff::default();
        resumed.restore(&metrics);
        assert_eq!(resumed.limit(BoundedWork::Tokens), Some(50));
        assert_eq!(resumed.limit(BoundedWork::Sequences), None);
        let warning = resumed.limits()[0].warning(3);
        assert!(
            warning.contains("iteration 3; the run continues with 50 tokens"),
            "{warning}"
        );
    }
}
