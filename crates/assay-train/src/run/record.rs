//! What a run writes beside its checkpoints: settings, metrics, and the batch of an update that failed.

use std::path::Path;

use super::directory::RunDirectory;
use crate::TrainError;
use crate::failed_update::FailedPart;
use crate::metrics::MetricsFile;
use crate::ranks::{self, Collective};
use crate::settings::Settings;

/// The files of a run, which one rank writes.
pub(super) struct Record {
    pub(super) directory: RunDirectory,
    pub(super) metrics: MetricsFile,
}

impl Record {
    /// Writes the settings and opens the metrics, which keep the iterations before `first`.
    pub(super) fn open(
        directory: RunDirectory,
        settings: &Settings,
        first: usize,
    ) -> Result<Self, TrainError> {
        directory.record(settings)?;
        let metrics = MetricsFile::open(&directory.path().join("metrics.jsonl"), first)?;
        Ok(Self { directory, metrics })
    }
}

/// Writes the batch of a failed update and returns the error with its file. If the file cannot be written, the error is
/// still reported. Only rollouts can fail on a single rank.
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
