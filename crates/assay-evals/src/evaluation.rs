//! Computes the `policy.*`, `select.*` and `critic.*` entries of `summary.json` from traces.
//!
//! Scores are computed from each trace record itself, so a score cannot belong to another trace.
//! Constants that need fitting (vote temperature, combination weight, calibration) come from
//! validation traces, or from cross-fitting over problems: the constants for a problem are fitted
//! on other problems.

mod columns;
mod critic;
mod distributions;
mod evaluator;
mod fitting;
mod measurements;
mod policy;
mod probe;
mod result;
mod selectors;
mod settings;
mod style;
mod traces;

pub use distributions::{CorrelationMap, HistogramClass, ScoreHistogram};
pub use evaluator::{Evaluator, evaluate};
pub use measurements::TraceMeasurements;
#[cfg(test)]
pub(crate) use probe::{TokenBag, probe};
pub use result::{Evaluation, SelectionCurve, SelectionPoint};
pub use settings::{EvalSettings, GroupBy};

#[cfg(test)]
mod tests;
