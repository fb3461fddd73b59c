//! The files of a run other than checkpoints: settings, metrics, the reason of an early stop, and
//! the batch of a failed update.

use std::path::Path;

use super::directory::RunDirectory;
use super::early_stop::{self, EarlyStop, Extent, Watch};
use super::inputs::TrainInputs;
use super::observer::Observer;
use crate::TrainError;
use crate::failed_update::FailedPart;
use crate::metrics::{self, IterationMetrics, MetricsFile};
use crate::ranks::{self, Collective};

/// The files of a run. Only the first rank writes them.
pub(super) struct Record {
    pub(super) directory: RunDirectory,
    pub(super) metrics: MetricsFile,
    watch: Watch,
}

impl Record {
    /// Writes the settings and opens the metrics, keeping the iterations before `first`.
    pub(super) fn open(
        directory: RunDirectory,
        inputs: &TrainInputs<'_>,
        first: usize,
    ) -> Result<Self, TrainError> {
        directory.record(inputs.settings)?;
        let path = directory.path().join("metrics.jsonl");
        let metrics = MetricsFile::open(&path, first)?;
        let done = metrics::read(&path)?;
        let watch = Watch::new(&inputs.settings.run.early_stop, inputs.kind, &done);
        if watch.reason().is_none() {
            early_stop::clear(directory.path())?;
        }
        Ok(Self {
            directory,
            metrics,
            watch,
        })
    }

    /// Writes an iteration's metrics and reports them and their alarms to the observer.
    pub(super) fn add(
        &mut self,
        metrics: &IterationMetrics,
        total: usize,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        self.metrics.append(metrics)?;
        observer.iteration(metrics, total);
        for alarm in self.watch.push(metrics) {
            observer.alarm(&alarm);
        }
        Ok(())
    }

    /// Whether the run ends after the iterations so far.
    pub(super) fn ends_early(&self) -> bool {
        self.watch.reason().is_some()
    }

    /// Writes and returns the reason of an early stop; `None` if the run did not stop early.
    pub(super) fn finish(&self, extent: Extent) -> Result<Option<EarlyStop>, TrainError> {
        let is_short = extent.iterations < extent.total;
        let reason = self.watch.reason().filter(|_| is_short);
        match reason {
            Some(reason) => early_stop::write(self.directory.path(), reason, extent)?,
            None => early_stop::clear(self.directory.path())?,
        }
        Ok(reason.cloned())
    }
}

/// Writes the batch of a failed update and returns the error with the file's path. If the file
/// cannot be written, the error is still returned. Only rollouts can fail on a single rank.
pub(super) fn recorded(
    mut error: TrainError,
    dir: &Path,
    ranks: &dyn Collective,
    iteration: usize,
) -> TrainError {
    if let TrainError::FailedUpdate { failure, .. } = &mut error
        && (ranks::is_first(ranks) || failure.part == FailedPart::Rollout)
    {
        let _ = failure.write(dir, iteration);
    }
    error
}
