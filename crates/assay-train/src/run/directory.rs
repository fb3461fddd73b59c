//! A run directory: its lock, its settings and its best checkpoint.
//!
//! A run may be resumed with other settings if the iterations already done would have been the
//! same. [`Change::is_harmless`] decides this; for other changes the error lists all differences.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::lock::RunLock;
use super::observer::Observer;
use crate::metrics::IterationMetrics;
use crate::optimiser::{LrDecay, OptimiserSettings};
use crate::settings::Settings;
use crate::{TrainError, checkpoint};

const SETTINGS: &str = "settings.toml";
const BEST: &str = "best.json";
/// The metric that determines the best checkpoint.
const ACCURACY: &str = "validation/accuracy";
/// The length of the run.
const ITERATIONS: &str = "run.iterations";
/// Keys, or tables, that do not affect training. The data are compared by content instead.
const HARMLESS: [&str; 13] = [
    "data",
    "run.early_stop",
    "run.checkpoint_every",
    "run.keep_last",
    "run.eval_every",
    "run.eval_problems",
    "run.eval_samples",
    "sampling.max_sequences",
    "sampling.engine.url",
    "sampling.engine.key_file",
    "sampling.engine.concurrency",
    "sampling.engine.timeout_seconds",
    "sampling.engine.attempts",
];

/// Whether a run begins or continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunMode {
    /// In a directory without a run.
    Fresh,
    /// From the newest intact checkpoint, or from the start if there is none.
    Resume,
}

/// A run directory that this process has locked.
pub(super) struct RunDirectory {
    path: PathBuf,
    _lock: RunLock,
}

/// The checkpoint with the highest validation accuracy; the first one at a tie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Best {
    /// Iterations done when it was written.
    pub(super) iterations: usize,
    /// Its validation accuracy.
    pub(super) accuracy: f64,
}

/// One setting that differs from those of the run's start.
#[derive(Debug, PartialEq)]
struct Change {
    key: String,
    before: Option<Value>,
    now: Option<Value>,
}

impl RunDirectory {
    /// Locks the directory, creates it if needed, and compares its settings with those given.
    ///
    /// # Errors
    /// [`TrainError::RunLocked`]; [`TrainError::RunExists`] for a fresh run in a used directory;
    /// [`TrainError::OtherSettings`] with all keys that differ and matter.
    pub(super) fn open(
        path: &Path,
        settings: &Settings,
        mode: RunMode,
        observer: &mut dyn Observer,
    ) -> Result<Self, TrainError> {
        fs::create_dir_all(path).map_err(|source| TrainError::io("creating", path, source))?;
        let lock = RunLock::acquire(path)?;
        if !lock.is_held() {
            observer.note("this file system has no locks: start no second process on this run");
        }
        let file = path.join(SETTINGS);
        if file.exists() {
            if mode == RunMode::Fresh {
                return Err(TrainError::RunExists {
                    path: path.to_owned(),
                });
            }
            let text = fs::read_to_string(&file)
                .map_err(|source| TrainError::io("reading", &file, source))?;
            let before = Settings::from_toml(&text, &file.display().to_string())?;
            for change in accepted(&before, settings, &file)? {
                observer.note(&format!("changed since the run began: {change}"));
            }
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `settings.toml`, which marks the directory as a run.
    pub(super) fn record(&self, settings: &Settings) -> Result<(), TrainError> {
        let text = settings.resolved_toml()?;
        checkpoint::write_file(&self.path.join(SETTINGS), text.as_bytes())
    }

    /// Writes `best.json` if the checkpoint that it names exists.
    pub(super) fn record_best(&self, best: &Best) -> Result<(), TrainError> {
        let name = format!("checkpoints/iter-{}", best.iterations);
        if !self.path.join(&name).is_dir() {
            return Ok(());
        }
        let value = serde_json::json!({
            "checkpoint": name,
            "iterations": best.iterations,
            ACCURACY: best.accuracy,
        });
        checkpoint::write_file(&self.path.join(BEST), format!("{value}\n").as_bytes())
    }
}

impl Best {
    /// The better of the best checkpoint so far and a checkpoint with these metrics.
    pub(super) fn after(best: Option<Self>, metrics: &IterationMetrics) -> Option<Self> {
        match (best, metrics.values.get(ACCURACY)) {
            (Some(best), Some(&accuracy)) if accuracy <= best.accuracy => Some(best),
            (_, Some(&accuracy)) => Some(Self {
                iterations: metrics.iteration + 1,
                accuracy,
            }),
            (best, None) => best,
        }
    }
}

/// The harmless changes.
///
/// # Errors
/// [`TrainError::OtherSettings`] with all other changes.
fn accepted(before: &Settings, now: &Settings, path: &Path) -> Result<Vec<Change>, TrainError> {
    let (harmless, refused): (Vec<Change>, Vec<Change>) = changes(before, now)?
        .into_iter()
        .partition(|change| change.is_harmless(now));
    if refused.is_empty() {
        return Ok(harmless);
    }
    let lines: Vec<String> = refused.iter().map(|c| format!("\n  {c}")).collect();
    Err(TrainError::OtherSettings {
        path: path.to_owned(),
        difference: lines.concat(),
    })
}

fn changes(before: &Settings, now: &Settings) -> Result<Vec<Change>, TrainError> {
    let (mut old, mut new) = (flat(before)?, flat(now)?);
    let keys: BTreeSet<String> = old.keys().chain(new.keys()).cloned().collect();
    let mut found: Vec<Change> = Vec::new();
    for key in keys {
        let (before, now) = (old.remove(&key), new.remove(&key));
        if before != now {
            found.push(Change { key, before, now });
        }
    }
    Ok(found)
}

/// Every value by its dotted key.
fn flat(settings: &Settings) -> Result<BTreeMap<String, Value>, TrainError> {
    let text = settings.resolved_toml()?;
    let table: Table = toml::from_str(&text).map_err(|error| TrainError::SettingsSyntax {
        origin: "the settings of a run".to_owned(),
        reason: error.to_string(),
    })?;
    let mut values = BTreeMap::new();
    flatten("", table, &mut values);
    Ok(values)
}

fn flatten(prefix: &str, table: Table, values: &mut BTreeMap<String, Value>) {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        match value {
            Value::Table(inner) => flatten(&format!("{key}."), inner, values),
            value => drop(values.insert(key, value)),
        }
    }
}

impl Change {
    /// Whether the iterations already done would have the same bits.
    ///
    /// Every learning rate depends on the length of the run unless both players' rates are constant
    /// from the first update.
    fn is_harmless(&self, settings: &Settings) -> bool {
        let constant = |optimiser: &OptimiserSettings| {
            optimiser.decay == LrDecay::Constant && optimiser.warmup_share == 0.0
        };
        if self.key == ITERATIONS {
            let optimisers = &settings.optimiser;
            return constant(&optimisers.policy()) && constant(&optimisers.reward());
        }
        HARMLESS.iter().any(|name| {
            let rest = self.key.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |value: &Option<Value>| {
            value
                .as_ref()
                .map_or_else(|| "unset".to_owned(), Value::to_string)
        };
        write!(
            f,
            "{}: {} -> {}",
            self.key,
            shown(&self.before),
            shown(&self.now)
        )?;
        if self.key == ITERATIONS {
            let why = "the learning rates of iterations done depend on it, unless decay is constant without warm-up";
            write!(f, " ({why})")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use assay_critic::HeadSettings;

    fn refusal(change: impl FnOnce(&mut Settings)) -> Option<String> {
        let before = Settings::default();
        let mut now = before.clone();
        change(&mut now);
        assert_ne!(before, now, "the change changes nothing");
        let accepted = accepted(&before, &now, Path::new("settings.toml"));
        accepted.err().map(|error| error.to_string())
    }

    #[test]
    fn what_changes_no_bit_is_accepted() {
        let harmless: [fn(&mut Settings); 6] = [
            |s| s.run.checkpoint_every = 1,
            |s| s.run.keep_last = 0,
            |s| s.run.eval_every = 7,
            |s| s.run.eval_samples = 9,
            |s| s.data.validation.path = "elsewhere".into(),
            |s| s.sampling.max_sequences = 3,
        ];
        for change in harmless {
            assert_eq!(refusal(change), None);
        }
    }

    #[test]
    fn differences_are_shown_old_to_new() {
        let refused = refusal(|s| {
            s.seed = 7;
            s.run.keep_last = 0;
            s.optimiser.policy.learning_rate = 0.5;
            s.reward.head = HeadSettings::Implicit {
                beta: 2.0,
                reference_weight: 1.0,
            };
        });
        let refused = refused.unwrap();
        for line in [
            "\n  optimiser.policy.learning_rate: 0.00001 -> 0.5",
            "\n  seed: 42 -> 7",
            "\n  reward.head.beta: unset -> 2.0",
            "\n  reward.head.kind: \"linear\" -> \"implicit\"",
        ] {
            assert!(refused.contains(line), "{refused}");
        }
        assert!(!refused.contains("keep_last"), "{refused}");
    }

    #[test]
    fn a_longer_run_needs_length_free_rates() {
        let refused = refusal(|s| s.run.iterations += 1).unwrap();
        assert!(refused.contains("run.iterations: 500 -> 501 (the learning rates"));
        let mut before = Settings::default();
        before.optimiser.decay = LrDecay::Constant;
        before.optimiser.warmup_share = 0.0;
        let mut now = before.clone();
        now.run.iterations += 1;
        assert_eq!(accepted(&before, &now, Path::new("s")).unwrap().len(), 1);
    }

    #[test]
    fn the_first_of_several_best_stays() {
        let measured = |iteration, accuracy: Option<f64>| {
            let mut metrics = IterationMetrics {
                iteration,
                ..IterationMetrics::default()
            };
            if let Some(accuracy) = accuracy {
                metrics.set(ACCURACY, accuracy).unwrap();
            }
            metrics
        };
        let mut best = None;
        let mut named = Vec::new();
        for (iteration, accuracy) in [None, Some(0.2), None, Some(0.5), Some(0.5), Some(0.4)]
            .into_iter()
            .enumerate()
        {
            best = Best::after(best, &measured(iteration, accuracy));
            named.push(best.map(|b| b.iterations));
        }
        assert_eq!(named, [None, Some(2), Some(2), Some(4), Some(4), Some(4)]);
    }
}
