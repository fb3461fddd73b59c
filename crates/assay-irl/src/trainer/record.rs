//! What a run writes beside its checkpoints: metrics, and the batch of an update that failed.

use std::path::Path;

use super::directory::RunDirectory;
use super::failure::FailedPart;
use super::run::Run;
use crate::IrlError;
use crate::metrics::MetricsFile;
use crate::parallel::{self, Collective};
use crate::settings::Settings;

/// The files of a run, which one rank writes.
pub(super) struct Record {
    directory: RunDirectory,
    pub(super) file: MetricsFile,
}

impl Record {
    pub(super) fn open(
        directory: RunDirectory,
        settings: &Settings,
        first: usize,
    ) -> Result<Self, IrlError> {
        directory.record(settings)?;
        let file = MetricsFile::open(&directory.path().join("metrics.jsonl"), first)?;
        Ok(Self { directory, file })
    }
}

/// Writes a checkpoint where this is the rank that writes.
pub(super) fn keep(run: &Run<'_>, record: Option<&Record>, done: usize) -> Result<(), IrlError> {
    let Some(record) = record else {
        return Ok(());
    };
    record.file.sync()?;
    run.keep(&record.directory, done)
}

/// Writes the batch of a failed update; where that fails too, the failure itself is still what is reported. Rollouts
/// alone can fail on a single rank.
pub(super) fn recorded(
    mut error: IrlError,
    dir: &Path,
    (ranks, iteration): (&dyn Collective, usize),
) -> IrlError {
    if let IrlError::FailedUpdate { failure, .. } = &mut error
        && (parallel::is_first(ranks) || failure.part == FailedPart::Rollout)
    {
        let _ = failure.write(dir, iteration);
    }
    error
}
