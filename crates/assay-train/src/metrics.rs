//! `metrics.jsonl`: one object an iteration, appended as the run goes.
//!
//! docs/metrics.md has names and formulas. A value that is not finite is an error before it reaches
//! the file.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use assay_evals::MetricRow;
use serde::{Deserialize, Serialize};

use crate::TrainError;

/// The metrics of one iteration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IterationMetrics {
    /// Iterations done before this one, over all phases.
    pub iteration: usize,
    /// `sft`, `reward_warmup` or `policy`.
    pub phase: String,
    /// Values by name.
    #[serde(flatten)]
    pub values: BTreeMap<String, f64>,
}

impl IterationMetrics {
    /// Sets a value.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] names the metric if the value is not finite.
    pub fn set(&mut self, name: &str, value: f64) -> Result<(), TrainError> {
        if !value.is_finite() {
            return Err(TrainError::NotFinite {
                what: format!("the metric {name} of iteration {}", self.iteration),
            });
        }
        self.values.insert(name.to_owned(), value);
        Ok(())
    }

    /// The line in the form that alarms, curves and reports use.
    pub fn row(&self) -> MetricRow {
        MetricRow {
            iteration: self.iteration as f64,
            values: self.values.clone(),
        }
    }
}

/// Appends iterations to a run's `metrics.jsonl`.
pub struct MetricsFile {
    path: PathBuf,
    file: File,
    last: Option<IterationMetrics>,
}

impl MetricsFile {
    /// Opens the file and keeps only iterations before `first_iteration`. The lines that a killed
    /// run wrote after its last checkpoint will be written again.
    ///
    /// # Errors
    /// Names the path that cannot be read or written.
    pub fn open(path: &Path, first_iteration: usize) -> Result<Self, TrainError> {
        let kept = if path.exists() {
            lines_before(path, first_iteration)?
        } else {
            String::new()
        };
        let last = kept.lines().last();
        let last = last.and_then(|line| serde_json::from_str(line).ok());
        crate::checkpoint::write_file(path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(path);
        let file = file.map_err(|source| TrainError::io("opening", path, source))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            last,
        })
    }

    /// The last iteration in the file when it was opened.
    pub fn last(&self) -> Option<&IterationMetrics> {
        self.last.as_ref()
    }

    /// Appends one line.
    ///
    /// # Errors
    /// Names the path that cannot be written.
    pub fn append(&mut self, metrics: &IterationMetrics) -> Result<(), TrainError> {
        let line = serde_json::to_string(metrics).unwrap_or_default() + "\n";
        self.file
            .write_all(line.as_bytes())
            .map_err(|source| TrainError::io("writing", &self.path, source))
    }

    /// Syncs the file to disk, so that after a power failure every checkpoint still has its lines.
    ///
    /// # Errors
    /// Names the path that cannot be written.
    pub fn sync(&self) -> Result<(), TrainError> {
        self.file
            .sync_data()
            .map_err(|source| TrainError::io("syncing", &self.path, source))
    }
}

/// Reads a `metrics.jsonl`. Invalid lines, such as an incomplete last one, are left out.
///
/// # Errors
/// Names the path that cannot be read.
pub fn read(path: &Path) -> Result<Vec<IterationMetrics>, TrainError> {
    let text = lossy_text(path)?;
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

fn lines_before(path: &Path, first_iteration: usize) -> Result<String, TrainError> {
    let before = |line: &&str| {
        serde_json::from_str::<IterationMetrics>(line).is_ok_and(|m| m.iteration < first_iteration)
    };
    let text = lossy_text(path)?;
    let kept = text.lines().filter(before);
    Ok(kept.map(|line| format!("{line}\n")).collect())
}

/// The file as text. Bytes that are not UTF-8 make only their line invalid.
fn lossy_text(path: &Path) -> Result<String, TrainError> {
    let bytes = fs::read(path).map_err(|source| TrainError::io("reading", path, source))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reopening_drops_what_was_written_after_the_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut file = MetricsFile::open(&path, 0).unwrap();
        for iteration in 0..5 {
            let mut metrics = IterationMetrics {
                iteration,
                phase: "sft".to_owned(),
                ..Default::default()
            };
            metrics.set("loss", 0.1 + iteration as f64).unwrap();
            file.append(&metrics).unwrap();
        }
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"{\"iteration\": 5, \"pha\xff")
            .unwrap();
        MetricsFile::open(&path, 3).unwrap();
        let iterations: Vec<usize> = read(&path).unwrap().iter().map(|m| m.iteration).collect();
        assert_eq!(iterations, [0, 1, 2]);
        assert_eq!(read(&path).unwrap()[2].values["loss"], 2.1);
    }

    #[test]
    fn a_non_finite_value_is_named() {
        let mut metrics = IterationMetrics::default();
        let error = metrics.set("policy/loss", f64::NAN).unwrap_err();
        assert!(error.to_string().contains("policy/loss"), "{error}");
    }
}
