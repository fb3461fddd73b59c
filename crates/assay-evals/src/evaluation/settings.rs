//! The settings of an evaluation.

use serde::{Deserialize, Serialize};

use crate::calibration::FittedConstants;
use crate::scores::{ScoreSettings, TraceScore};
use crate::statistics::BootstrapSettings;

/// Which traces form the group that a selector chooses from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupBy {
    /// The traces of one problem by one generator.
    #[default]
    Generator,
    /// The traces of one problem by all generators.
    Problem,
}

/// The settings of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalSettings {
    /// The trace score that `critic.*` and the selectors use.
    pub score: TraceScore,
    /// The log-probability that the `logprob` and `combined` selectors use.
    pub logprob: TraceScore,
    /// Constants of the trace scores.
    pub scores: ScoreSettings,
    /// The numbers N of traces to select from: the first N of each group.
    pub sample_counts: Vec<usize>,
    /// k of pass@k and success@k.
    pub pass_ks: Vec<usize>,
    /// Which traces form a group.
    pub group_by: GroupBy,
    /// Generators whose traces are left out, such as the demonstrations.
    pub excluded_generators: Vec<String>,
    /// How intervals are computed.
    pub bootstrap: BootstrapSettings,
    /// Number of folds of the cross-fit, at least 2; not used if `fitted` is given.
    pub folds: usize,
    /// Constants fitted on validation traces by [`Evaluator::fit`](crate::Evaluator::fit).
    pub fitted: Option<FittedConstants>,
}

impl Default for EvalSettings {
    fn default() -> Self {
        Self {
            score: TraceScore::Mean,
            logprob: TraceScore::LogprobSum,
            scores: ScoreSettings::default(),
            sample_counts: vec![2, 4, 8, 16],
            pass_ks: vec![1, 3, 5, 10],
            group_by: GroupBy::Generator,
            excluded_generators: vec!["demonstration".to_owned()],
            bootstrap: BootstrapSettings::default(),
            folds: 2,
            fitted: None,
        }
    }
}
