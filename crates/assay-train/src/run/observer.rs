//! The events of a run. Training itself never prints.

use assay_evals::Alarm;

use crate::metrics::IterationMetrics;

/// Receives the events of a run.
pub trait Observer {
    /// An iteration ended; `total` counts all phases.
    fn iteration(&mut self, metrics: &IterationMetrics, total: usize);

    /// Tokens were sampled in a rollout.
    fn tokens(&mut self, count: usize);

    /// A message for the user: a skip, a resume.
    fn note(&mut self, text: &str);

    /// An alarm was raised. Called after the iteration that raised it, on the first rank only.
    fn alarm(&mut self, alarm: &Alarm) {
        self.note(&format!("alarm: {}", alarm.text()));
    }

    /// Whether the run should stop. Called before each iteration; the work done so far is saved.
    fn wants_stop(&self) -> bool {
        false
    }
}

/// An observer that ignores every event.
pub struct Silent;

impl Observer for Silent {
    fn iteration(&mut self, _metrics: &IterationMetrics, _total: usize) {}
    fn tokens(&mut self, _count: usize) {}
    fn note(&mut self, _text: &str) {}
}
