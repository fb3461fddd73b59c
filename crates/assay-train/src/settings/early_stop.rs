//! Early stopping: when a run ends before its last iteration.

use assay_evals::AlarmKind;
use serde::{Deserialize, Serialize};

/// When a run ends before its last iteration. By default it never does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EarlyStopSettings {
    /// Ends the run when one of these alarms is raised.
    pub alarms: Vec<AlarmKind>,
    /// Ends the run when validation accuracy has not exceeded its best for this many evaluations in
    /// the phase that trains the policy; 0 for never.
    pub evaluations: usize,
}
