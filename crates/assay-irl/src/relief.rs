//! What a run does where memory is refused: the same work once more with half as much at a time, and so from then on.
//!
//! Passes and samples give the same numbers however they are cut, gradients up to the rounding of their sum. Work that is
//! repeated must have changed nothing before it failed: passes up to the optimiser's step, sampling.

use std::cell::Cell;

use crate::IrlError;
use crate::metrics::IterationMetrics;

/// What a run has halved.
#[derive(Debug, Default)]
pub struct Relief {
    tokens: Cell<Option<usize>>,
    sequences: Cell<Option<usize>>,
}

/// What is done so many of at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Packed tokens of a pass.
    Tokens,
    /// Sequences that are sampled.
    Sequences,
}

impl Work {
    const ALL: [Self; 2] = [Self::Tokens, Self::Sequences];

    /// The metric that says what is in use since memory ran out.
    fn metric(self) -> &'static str {
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

impl Relief {
    /// How many at a time since memory ran out; `None` before.
    pub fn limit(&self, work: Work) -> Option<usize> {
        self.cell(work).get()
    }

    fn cell(&self, work: Work) -> &Cell<Option<usize>> {
        match work {
            Work::Tokens => &self.tokens,
            Work::Sequences => &self.sequences,
        }
    }

    /// Calls `run(at_a_time)` with at most `most`; where that runs out of memory for the first time, once more with half.
    ///
    /// # Errors
    /// [`IrlError::OutOfMemoryAgain`] where half is too much too; whatever else `run` returns.
    pub fn attempt<T>(
        &self,
        work: Work,
        most: usize,
        mut run: impl FnMut(usize) -> Result<T, IrlError>,
    ) -> Result<T, IrlError> {
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

    /// Goes on as the run did whose last metrics these are.
    pub fn resume(&self, metrics: &IterationMetrics) {
        for work in Work::ALL {
            if let Some(&limit) = metrics.values.get(work.metric()) {
                self.cell(work).set(Some(limit as usize));
            }
        }
    }

    /// Writes down what is halved; gives what to say of that which `before` the iteration was not.
    ///
    /// # Errors
    /// None: counts are finite.
    pub fn describe(
        &self,
        before: [bool; 2],
        metrics: &mut IterationMetrics,
    ) -> Result<Vec<String>, IrlError> {
        let mut said = Vec::new();
        for (work, before) in Work::ALL.into_iter().zip(before) {
            let Some(limit) = self.limit(work) else {
                continue;
            };
            metrics.set(work.metric(), limit as f64)?;
            if !before {
                said.push(format!(
                    "warning: memory ran out in iteration {}; the run goes on with {limit} {} at a time, half of what was tried, \
                     and the same result",
                    metrics.iteration,
                    work.name()
                ));
            }
        }
        Ok(said)
    }

    /// Of which work memory ran out before, in the order of [`Relief::describe`].
    pub fn used(&self) -> [bool; 2] {
        Work::ALL.map(|work| self.limit(work).is_some())
    }
}

fn again(work: Work, at_a_time: usize, error: IrlError) -> IrlError {
    match error.is_out_of_memory() {
        true => IrlError::OutOfMemoryAgain {
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

    /// Work that fits up to `room` at a time; what was tried.
    fn work(room: usize, tried: &mut Vec<usize>) -> impl FnMut(usize) -> Result<usize, IrlError> {
        move |at_a_time| {
            tried.push(at_a_time);
            match at_a_time > room {
                true => Err(OpsError::OutOfMemory { bytes: at_a_time }.into()),
                false => Ok(at_a_time),
            }
        }
    }

    #[test]
    fn memory_that_is_refused_halves_the_work_once_and_for_all() {
        let (relief, mut tried) = (Relief::default(), Vec::new());
        let attempt =
            |room, tried: &mut Vec<usize>| relief.attempt(Work::Tokens, 100, work(room, tried));
        assert_eq!(attempt(100, &mut tried).unwrap(), 100);
        assert_eq!(relief.used(), [false, false]);
        assert_eq!(attempt(60, &mut tried).unwrap(), 50);
        assert_eq!(relief.used(), [true, false]);
        assert_eq!(attempt(100, &mut tried).unwrap(), 50);
        let error = attempt(49, &mut tried).unwrap_err();
        assert_eq!(tried, [100, 100, 50, 50, 50]);
        let told = error.to_string();
        assert!(
            told.contains("with 50 tokens at a time") && told.contains("--resume"),
            "{told}"
        );
        assert!(!error.is_out_of_memory(), "a second failure is final");
    }

    #[test]
    fn half_that_is_too_much_too_is_an_error_and_others_pass_through() {
        let mut tried = Vec::new();
        let relief = Relief::default();
        let error = relief.attempt(Work::Sequences, 9, work(3, &mut tried));
        assert!(matches!(error, Err(IrlError::OutOfMemoryAgain { .. })));
        assert_eq!(tried, [9, 4]);
        let relief = Relief::default();
        let error = relief.attempt(Work::Tokens, 8, |_| Err::<(), _>(IrlError::EmptyUpdate));
        assert!(matches!(error, Err(IrlError::EmptyUpdate)));
        assert_eq!(relief.used(), [false, false]);
    }

    #[test]
    fn what_is_halved_is_written_down_said_once_and_taken_up_again() {
        let relief = Relief::default();
        let mut metrics = IterationMetrics {
            iteration: 3,
            ..Default::default()
        };
        assert!(
            relief
                .describe(relief.used(), &mut metrics)
                .unwrap()
                .is_empty()
        );
        assert!(metrics.values.is_empty());
        let before = relief.used();
        relief
            .attempt(Work::Tokens, 100, work(60, &mut Vec::new()))
            .unwrap();
        let said = relief.describe(before, &mut metrics).unwrap();
        assert!(
            said.len() == 1 && said[0].contains("iteration 3; the run goes on with 50 tokens"),
            "{said:?}"
        );
        assert!(
            relief
                .describe(relief.used(), &mut metrics)
                .unwrap()
                .is_empty()
        );
        assert_eq!(metrics.values["memory/token_budget"], 50.0);
        let resumed = Relief::default();
        resumed.resume(&metrics);
        assert_eq!(resumed.limit(Work::Tokens), Some(50));
        assert_eq!(resumed.limit(Work::Sequences), None);
    }
}
