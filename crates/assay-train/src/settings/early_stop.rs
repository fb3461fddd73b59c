//! Early stopping: when a run ends before its last iteration.

use assay_evals::AlarmKind;
use serde::{Deserialize, Serialize};

use super::Settings;
use crate::TrainError;

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

impl Settings {
    /// Fails if early stopping waits for evaluations that the settings turn off.
    pub(super) fn validate_early_stop(&self) -> Result<(), TrainError> {
        if self.run.early_stop.evaluations > 0 && self.run.eval_every == 0 {
            let reason = "needs evaluations: set `run.eval_every` above 0";
            return Err(TrainError::setting("run.early_stop.evaluations", reason));
        }
        Ok(())
    }
}
