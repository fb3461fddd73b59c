//! The evaluator: takes traces one at a time and computes all results at the end.

use std::panic::resume_unwind;
use std::thread;

use assay_tasks::trace::ScoredTrace;

use super::measurements::TraceMeasurements;
use super::result::Evaluation;
use super::settings::EvalSettings;
use super::traces::LabelledTraces;
use super::{critic, fitting, policy, selectors, style};
use crate::calibration::{Calibration, FittedConstants};
use crate::error::EvalError;

/// Takes traces one at a time and keeps only scalars of each.
#[derive(Clone, Debug)]
pub struct Evaluator {
    traces: LabelledTraces,
}

/// Evaluates all traces; see [`Evaluator`].
///
/// # Errors
/// As [`Evaluator::push`].
pub fn evaluate(
    traces: impl IntoIterator<Item = ScoredTrace>,
    settings: &EvalSettings,
) -> Result<Evaluation, EvalError> {
    let mut evaluator = Evaluator::new(settings.clone());
    for trace in traces {
        evaluator.push(&trace)?;
    }
    Ok(evaluator.finish())
}

impl Evaluator {
    /// An evaluator without traces.
    pub fn new(settings: EvalSettings) -> Self {
        Self {
            traces: LabelledTraces::new(settings),
        }
    }

    /// Adds one trace. A trace of unknown correctness is only counted; one of an excluded generator
    /// is ignored.
    ///
    /// # Errors
    /// As [`TraceMeasurements::new`].
    pub fn push(&mut self, trace: &ScoredTrace) -> Result<(), EvalError> {
        self.add(TraceMeasurements::new(trace, &self.traces.settings)?);
        Ok(())
    }

    /// Adds the measurements of one trace, which may come from another thread.
    pub fn add(&mut self, measured: TraceMeasurements) {
        self.traces.add(measured);
    }

    /// Number of traces of unknown correctness so far.
    pub fn unlabelled(&self) -> usize {
        self.traces.unlabelled()
    }

    /// Fits on all traces so far: chooses the trace score, then fits the constants for it.
    ///
    /// `None` if no score of rewards is defined on both correct and wrong traces.
    pub fn fit(&self) -> Option<FittedConstants> {
        let score = fitting::best_score(&self.traces)?;
        fitting::fit(&self.traces, score, |_| true)
    }

    /// Fits the calibration that is stored with the reward on all traces so far; `data` names them.
    ///
    /// `None` as [`Evaluator::fit`]. The method is the one with the lower Brier score when each
    /// trace is evaluated with a fit to the problems of the other folds.
    pub fn calibrate(&self, data: &str) -> Option<Calibration> {
        Some(fitting::calibrate(&self.traces, self.fit()?, data))
    }

    /// Computes all results, on three threads.
    pub fn finish(self) -> Evaluation {
        let traces = &self.traces;
        let mut result = Evaluation {
            traces: traces.rows.len(),
            problems: traces.problem_count(),
            unlabelled: traces.unlabelled(),
            score: Some(traces.score()),
            ..Evaluation::default()
        };
        let folds = fitting::fit_folds(traces);
        let folds = folds.as_slice();
        thread::scope(|scope| {
            let critic = scope.spawn(|| {
                let mut part = Evaluation::default();
                critic::add(traces, folds, &mut part);
                part
            });
            let by_score = scope.spawn(|| {
                let mut part = Evaluation::default();
                critic::add_by_score(traces, &mut part);
                part
            });
            policy::add(traces, &mut result);
            selectors::add(traces, folds, &mut result);
            style::add(traces, &mut result);
            let parts = [critic.join(), by_score.join()];
            let [critic, by_score] =
                parts.map(|part| part.unwrap_or_else(|panic| resume_unwind(panic)));
            result.summary.extend(critic.summary);
            result.summary.extend(by_score.summary);
            result.reliability = critic.reliability;
            result.reliability_isotonic = critic.reliability_isotonic;
            result.reliability_raw = critic.reliability_raw;
            result.histogram = by_score.histogram;
            result.histogram_by_format = by_score.histogram_by_format;
            result.correlations = by_score.correlations;
        });
        result
    }
}
