//! The results of an evaluation.

use std::collections::BTreeMap;

use serde::Serialize;

use super::distributions::{CorrelationMap, ScoreHistogram};
use super::traces::{LabelledTraces, ProblemValue};
use crate::classification::ReliabilityBin;
use crate::scores::TraceScore;
use crate::statistics::{BootstrapSettings, Estimate, paired_difference};
use crate::summary::Summary;

/// Accuracy of a selector as the number of traces grows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SelectionCurve {
    /// The selector's name.
    pub selector: String,
    /// The accuracy at each N, in the order of the settings.
    pub points: Vec<SelectionPoint>,
}

/// Accuracy of a selector among N traces.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SelectionPoint {
    /// N.
    pub samples: usize,
    /// The accuracy.
    pub accuracy: Estimate,
}

/// All results over one set of traces.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Evaluation {
    /// The entries of `summary.json`.
    pub summary: Summary,
    /// The trace score in use.
    pub score: Option<TraceScore>,
    /// Accuracy against N.
    pub curves: Vec<SelectionCurve>,
    /// Reliability of the calibrated score.
    pub reliability: Vec<ReliabilityBin>,
    /// Reliability of the score itself, read as a logit.
    pub reliability_raw: Vec<ReliabilityBin>,
    /// Reliability under the isotonic map.
    pub reliability_isotonic: Vec<ReliabilityBin>,
    /// Trace scores of correct and of wrong traces.
    pub histogram: ScoreHistogram,
    /// Trace scores of traces with an answer, without one, and cut at the token limit.
    pub histogram_by_format: ScoreHistogram,
    /// Spearman's rho between correctness, trace scores, log-probability, length and format.
    pub correlations: CorrelationMap,
    /// The value of each problem that an entry is the mean of, by entry and problem identifier.
    pub per_problem: BTreeMap<String, BTreeMap<String, f64>>,
    /// Number of traces with known correctness.
    pub traces: usize,
    /// Number of problems.
    pub problems: usize,
    /// Number of traces of unknown correctness, which are left out.
    pub unlabelled: usize,
}

impl Evaluation {
    /// Adds the mean of one value per problem to the summary, and the values to `per_problem`.
    pub(super) fn add_mean(
        &mut self,
        traces: &LabelledTraces,
        name: &str,
        values: &[ProblemValue],
    ) -> Option<Estimate> {
        let numbers: Vec<f64> = values.iter().map(|own| own.value).collect();
        let estimate = traces.resampler.mean(&numbers)?;
        self.summary.insert(name, estimate);
        let named = values
            .iter()
            .map(|own| (traces.problem_id(own.problem).to_owned(), own.value));
        self.per_problem.insert(name.to_owned(), named.collect());
        Some(estimate)
    }

    /// Paired bootstrap of one entry of this evaluation minus that of another, over the problems
    /// that both have.
    ///
    /// `None` if they share no problem in that entry, or if the entry has no values per problem.
    pub fn difference(
        &self,
        other: &Self,
        entry: &str,
        settings: &BootstrapSettings,
    ) -> Option<Estimate> {
        let (own, others) = (self.per_problem.get(entry)?, other.per_problem.get(entry)?);
        let shared = own
            .iter()
            .filter_map(|(id, value)| Some((*value, *others.get(id)?)));
        let (a, b): (Vec<f64>, Vec<f64>) = shared.unzip();
        paired_difference(&a, &b, settings)
    }
}
