//! Measurements of traces and runs: selection among sampled traces, pass@k, reward against
//! correctness, localisation of errors, calibration, correlation and training alarms.
//!
//! Everything is a pure function of [`ScoredTrace`] records or of plain numbers; the crate loads no
//! model, and its only files are `summary.json` and `calibration.json`. The documentation of a
//! statistic states its formula and edge cases. A statistic that is not defined on its input (one
//! class only, no problem, no variance) is `None`, never NaN and never a zero that looks like a
//! result.
//!
//! [`evaluate`] measures a file of traces, [`localisation::localise`] injected or marked errors,
//! [`processbench`] labels of first wrong steps, and [`agreement()`] the people who marked them.
//! The crate `assay-report` draws the results.
//!
//! ```
//! use assay_evals::{EvalSettings, evaluate};
//! use assay_tasks::trace::ScoredTrace;
//!
//! let trace = |id: &str, reward, correct| ScoredTrace {
//!     id: id.into(),
//!     generator: "policy".into(),
//!     text: "a".into(),
//!     token_ids: vec![7],
//!     token_offsets: vec![(0, 1)],
//!     token_rewards: vec![Some(reward)],
//!     correct: Some(correct),
//!     ..ScoredTrace::default()
//! };
//! let traces = [
//!     trace("p1", 2.0, true),
//!     trace("p1", -1.0, false),
//!     trace("p2", 0.5, true),
//!     trace("p2", 1.0, false),
//! ];
//! let evaluation = evaluate(traces, &EvalSettings::default())?;
//! let value = |name: &str| evaluation.summary.get(name).map(|estimate| estimate.value);
//! assert_eq!(value("policy.policy.pass_at_k.1"), Some(0.5));
//! // Three of the four pairs of a correct and a wrong trace are ranked correctly.
//! assert_eq!(value("critic.auroc"), Some(0.75));
//! # Ok::<(), assay_evals::EvalError>(())
//! ```
//!
//! [`ScoredTrace`]: assay_tasks::trace::ScoredTrace

mod agreement;
mod alarms;
pub mod calibration;
mod classification;
mod error;
mod evaluation;
pub mod localisation;
mod metrics;
mod pass_at_k;
pub mod processbench;
pub mod scores;
pub mod selection;
pub mod stability;
pub mod statistics;
mod summary;

#[cfg(test)]
mod golden_tests;

pub use agreement::{AGREEMENT_WINDOWS, Judgement, agreement};
pub use alarms::{Alarm, AlarmKind, AlarmWatch, find_alarms};
pub use classification::{Isotonic, PlattScaling, ReliabilityBin};
pub use error::EvalError;
pub use evaluation::{
    CorrelationMap, EvalSettings, Evaluation, Evaluator, GroupBy, HistogramClass, ScoreHistogram,
    SelectionCurve, SelectionPoint, TraceMeasurements, evaluate,
};
pub use metrics::{MetricRow, parse_metrics};
pub use pass_at_k::{pass_at_k, success_at_k};
pub use summary::{Summary, segment};
