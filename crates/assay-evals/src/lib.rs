//! What assay measures: selection among sampled traces, pass@k, reward against correctness, localisation of errors,
//! stability of a run, and the report.
//!
//! Everything here is a pure function of [`assay_tasks::trace::ScoredTrace`] records, or of plain numbers: no model, no
//! tensor. Every statistic's documentation holds its formula and its edge cases. A statistic that is not defined on its
//! input (one class only, no problem, no variance) is `None`, never a NaN and never a zero that looks like a result.
//!
//! Start at [`evaluation::evaluate`] for a file of traces, at [`localisation::localise`] for injected errors, at
//! [`processbench`] for first-wrong-step labels, and at [`report::render`] for the page.

pub mod alarms;
pub mod calibration;
pub mod classification;
pub mod error;
pub mod evaluation;
pub mod figures;
pub mod heat;
pub mod localisation;
pub mod metrics;
pub mod pass_at_k;
pub mod plot;
pub mod processbench;
pub mod report;
pub mod scores;
pub mod selection;
pub mod stability;
pub mod statistics;
pub mod summary;
pub mod tables;
pub mod terminal;

#[cfg(test)]
mod golden_tests;

pub use calibration::Calibration;
pub use error::EvalError;
pub use evaluation::{EvalSettings, Evaluation, Evaluator, evaluate};
pub use scores::TraceScore;
pub use selection::Selector;
pub use statistics::Estimate;
pub use summary::Summary;
