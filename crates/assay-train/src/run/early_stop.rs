//! Alarms and early stopping of a run.
//!
//! Both are functions of the lines of `metrics.jsonl`. A resumed run first reads the earlier lines,
//! so it raises the same alarms and ends after the same iteration as an uninterrupted run.

use std::path::Path;

use assay_evals::{Alarm, AlarmKind, AlarmWatch};
use serde::Serialize;

use super::kind::TrainerKind;
use crate::metrics::IterationMetrics;
use crate::settings::EarlyStopSettings;
use crate::{TrainError, checkpoint};

const FILE: &str = "early_stop.json";
const ACCURACY: &str = "validation/accuracy";

/// Why a run ended before its last iteration.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum EarlyStop {
    /// An alarm that the settings name was raised.
    Alarm {
        /// The alarm.
        alarm: AlarmKind,
        /// The value that was compared.
        value: f64,
        /// The threshold that it was compared with.
        threshold: f64,
    },
    /// Validation accuracy did not exceed its best.
    NoImprovement {
        /// Evaluations since the best one.
        evaluations: usize,
        /// The best accuracy.
        best: f64,
    },
}

impl std::fmt::Display for EarlyStop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Alarm {
                alarm,
                value,
                threshold,
            } => write!(
                f,
                "alarm: {}, {value:.3} against {threshold:.3}",
                alarm.headline()
            ),
            Self::NoImprovement { evaluations, best } => write!(
                f,
                "validation accuracy has not risen above {best:.3} for {evaluations} evaluations"
            ),
        }
    }
}

/// Watches the lines of a run.
pub(super) struct Watch {
    settings: EarlyStopSettings,
    /// The phase whose evaluations count: supervised fine-tuning for `sft`, else the game.
    phase: &'static str,
    alarms: AlarmWatch,
    best: Option<f64>,
    /// Evaluations since the best one.
    since: usize,
    /// Whether and why the run ends after the last line.
    reason: Option<EarlyStop>,
}

impl Watch {
    /// A watch after the lines of the iterations already done.
    pub(super) fn new(
        settings: &EarlyStopSettings,
        kind: TrainerKind,
        done: &[IterationMetrics],
    ) -> Self {
        let mut watch = Self {
            settings: settings.clone(),
            phase: match kind {
                TrainerKind::Sft => "sft",
                TrainerKind::Grpo | TrainerKind::Airl => "policy",
            },
            alarms: AlarmWatch::default(),
            best: None,
            since: 0,
            reason: None,
        };
        for line in done {
            watch.push(line);
        }
        watch
    }

    /// Adds the next line; returns the alarms that it raises.
    pub(super) fn push(&mut self, line: &IterationMetrics) -> Vec<Alarm> {
        let raised = self.alarms.push(&line.row());
        let alarm = raised
            .iter()
            .find(|alarm| self.settings.alarms.contains(&alarm.kind))
            .map(|alarm| EarlyStop::Alarm {
                alarm: alarm.kind,
                value: alarm.value,
                threshold: alarm.threshold,
            });
        let stalled = self.no_improvement(line);
        self.reason = alarm.or(stalled);
        raised
    }

    fn no_improvement(&mut self, line: &IterationMetrics) -> Option<EarlyStop> {
        let accuracy = *line.values.get(ACCURACY)?;
        if line.phase != self.phase {
            return None;
        }
        match self.best {
            Some(best) if accuracy <= best => self.since += 1,
            _ => (self.best, self.since) = (Some(accuracy), 0),
        }
        let limit = self.settings.evaluations;
        (limit > 0 && self.since >= limit).then_some(EarlyStop::NoImprovement {
            evaluations: self.since,
            best: self.best?,
        })
    }

    /// Whether and why the run ends after the last line.
    pub(super) fn reason(&self) -> Option<&EarlyStop> {
        self.reason.as_ref()
    }
}

/// The progress of a run.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    /// Iterations done.
    pub(super) iterations: usize,
    /// Iterations of the whole run.
    pub(super) total: usize,
}

/// Removes `early_stop.json`, since the run continues or ends in another way.
pub(super) fn clear(dir: &Path) -> Result<(), TrainError> {
    let path = dir.join(FILE);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(TrainError::io("removing", &path, error))
        }
        _ => Ok(()),
    }
}

/// Writes `early_stop.json`, the reason why the run ended early.
pub(super) fn write(dir: &Path, reason: &EarlyStop, extent: Extent) -> Result<(), TrainError> {
    #[derive(Serialize)]
    struct Content<'r> {
        iterations: usize,
        total: usize,
        #[serde(flatten)]
        reason: &'r EarlyStop,
    }
    let path = dir.join(FILE);
    let content = Content {
        iterations: extent.iterations,
        total: extent.total,
        reason,
    };
    let text = serde_json::to_string(&content)
        .map_err(|error| TrainError::malformed(path.clone(), error.to_string()))?;
    checkpoint::write_file(&path, format!("{text}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(iteration: usize, phase: &str, accuracy: Option<f64>) -> IterationMetrics {
        let mut line = IterationMetrics {
            iteration,
            phase: phase.to_owned(),
            ..IterationMetrics::default()
        };
        if let Some(accuracy) = accuracy {
            line.set(ACCURACY, accuracy).unwrap();
        }
        line
    }

    fn stops_at(lines: &[IterationMetrics], settings: &EarlyStopSettings) -> Option<usize> {
        let mut watch = Watch::new(settings, TrainerKind::Airl, &[]);
        lines.iter().position(|line| {
            watch.push(line);
            watch.reason().is_some()
        })
    }

    /// Warm starts do not count. An equal accuracy is no improvement; a higher one resets the
    /// count.
    #[test]
    fn evaluations_without_improvement_end_a_run() {
        let settings = EarlyStopSettings {
            evaluations: 2,
            ..EarlyStopSettings::default()
        };
        let mut lines = vec![
            line(0, "sft", Some(0.9)),
            line(1, "reward_warmup", Some(0.9)),
            line(2, "reward_warmup", Some(0.9)),
        ];
        let accuracies = [Some(0.5), Some(0.5), None, Some(0.6), Some(0.4), Some(0.6)];
        for (place, accuracy) in accuracies.into_iter().enumerate() {
            lines.push(line(3 + place, "policy", accuracy));
        }
        assert_eq!(stops_at(&lines, &settings), Some(8));
        assert_eq!(stops_at(&lines[..8], &settings), None);
        assert_eq!(stops_at(&lines, &EarlyStopSettings::default()), None);
    }

    /// The gap exceeds its threshold from line 15 on, where the mean of ten values first reaches
    /// 0.01.
    fn gap_rises() -> Vec<IterationMetrics> {
        let gap = |iteration| {
            let mut line = line(iteration, "policy", None);
            let value = if iteration >= 15 { 1.0 } else { 0.0 };
            line.set("policy/sampling_gap_mean", value).unwrap();
            line
        };
        (0..30).map(gap).collect()
    }

    #[test]
    fn only_a_named_alarm_ends_a_run() {
        let named = |kind| EarlyStopSettings {
            alarms: vec![kind],
            evaluations: 0,
        };
        let lines = gap_rises();
        assert_eq!(stops_at(&lines, &named(AlarmKind::SamplingGap)), Some(15));
        assert_eq!(stops_at(&lines, &named(AlarmKind::Collapsed)), None);
    }

    /// The end does not depend on where a run was interrupted and resumed.
    #[test]
    fn a_resumed_watch_ends_where_another_would() {
        let settings = EarlyStopSettings {
            alarms: vec![AlarmKind::SamplingGap],
            evaluations: 0,
        };
        let lines = gap_rises();
        for first in 0..=15 {
            let mut watch = Watch::new(&settings, TrainerKind::Airl, &lines[..first]);
            assert!(watch.reason().is_none(), "before {first}");
            let end = lines[first..].iter().position(|line| {
                watch.push(line);
                watch.reason().is_some()
            });
            assert_eq!(end.map(|end| first + end), Some(15), "from {first}");
        }
        let ended = Watch::new(&settings, TrainerKind::Airl, &lines[..16]);
        assert!(ended.reason().is_some(), "a run that ended stays ended");
    }

    #[test]
    fn the_record_goes_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let extent = Extent {
            iterations: 7,
            total: 30,
        };
        let reason = EarlyStop::NoImprovement {
            evaluations: 2,
            best: 0.5,
        };
        clear(dir.path()).unwrap();
        write(dir.path(), &reason, extent).unwrap();
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        let expected =
            r#"{"iterations":7,"total":30,"reason":"no_improvement","evaluations":2,"best":0.5}"#;
        assert_eq!(text.trim_end(), expected);
        clear(dir.path()).unwrap();
        assert!(!dir.path().join(FILE).exists());
    }
}
