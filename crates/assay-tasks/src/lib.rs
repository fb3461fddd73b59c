//! Tasks and their data: problems, prompts, answers, reasoning steps, perturbed demonstrations and
//! the trace record.
//!
//! This crate has no model, uses no device and prints nothing. Its only effects are reading and
//! writing files in [`datasets`], [`labels`], [`trace_io`] and [`trace_stream`]. All randomness
//! comes from [`random::Stream`].
//!
//! ```
//! use assay_tasks::datasets::{DatasetFormat, DatasetSettings, load_problems};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("math.jsonl");
//! std::fs::write(&path, r#"{"problem": "1+1?", "solution": "It is $\\boxed{2}$."}"#)?;
//! let settings = DatasetSettings {
//!     path,
//!     format: DatasetFormat::Columns,
//!     question: "problem".into(),
//!     demonstration: "solution".into(),
//!     ..DatasetSettings::default()
//! };
//! let (problems, report) = load_problems(&settings)?;
//! assert_eq!(problems[0].answer.as_deref(), Some("2"));
//! assert!(report.skipped.is_empty());
//! # Ok(())
//! # }
//! ```

pub mod answers;
pub mod arithmetic;
mod countdown;
pub mod datasets;
pub mod deduction;
mod error;
mod json;
pub mod labels;
mod lines;
pub mod message;
mod numbers;
pub mod perturbations;
pub mod problem;
pub mod prompts;
pub mod random;
pub mod segments;
mod step_traces;
mod text_file;
pub mod trace;
pub mod trace_io;
pub mod trace_stream;
pub mod wrong_traces;

pub use error::{RecordFault, TasksError};
