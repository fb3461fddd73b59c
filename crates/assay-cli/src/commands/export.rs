//! `assay export`: a run's adapters, model and metrics in the formats of other programs.
//!
//! `peft` writes adapters that peft loads: `OUT/policy` and, after `airl`, `OUT/reward`. `merged`
//! writes the policy as a Hugging Face model directory, `merged-reward` the reward. `tensorboard`
//! writes an event file of `metrics.jsonl` into `OUT`. Every model has a model card. `--push`
//! uploads `OUT`.

mod adapters;
mod card;
mod check;
mod classifier;
mod merged;
mod push;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use assay_train::metrics::{self, IterationMetrics};
use assay_train::settings::Settings;
use assay_train::{checkpoint, tensorboard};
use serde_json::{Value, json};

use crate::args::{ExportArgs, ExportFormat};
use crate::open;

pub(crate) use push::repository;

/// Runs the command.
pub(crate) fn run(args: &ExportArgs) -> Result<()> {
    let mut done = match (&args.run, args.format) {
        (Some(run), Some(format)) => Some(export(args, run, format)?),
        _ => None,
    };
    let mut out = std::io::stdout();
    if done.is_some() && !args.json {
        writeln!(out, "{}", args.out.display())?;
    }
    if let Some(name) = &args.push {
        let pushed = match args.dry_run {
            true => push::list(&args.out, name)?,
            false => push::push(&args.out, name)?,
        };
        if !args.json {
            writeln!(out, "{}", pushed.text)?;
        }
        done = Some(match done {
            Some(mut written) => {
                written["pushed"] = pushed.json;
                written
            }
            None => pushed.json,
        });
    }
    if let Some(done) = done.filter(|_| args.json) {
        writeln!(out, "{done}")?;
    }
    Ok(())
}

/// Writes the output directory; returns what was written, for `--json`.
fn export(args: &ExportArgs, run: &Path, format: ExportFormat) -> Result<Value> {
    match format {
        ExportFormat::Tensorboard => events(args, run),
        ExportFormat::Peft => whole(args, run, |run, dir| {
            adapters::write(run, dir, args.dtype.into())
        }),
        ExportFormat::Merged => whole(args, run, |run, dir| {
            merged::write(run, dir, args.dtype.into())
        }),
        ExportFormat::MergedReward => whole(args, run, |run, dir| {
            classifier::write(run, dir, args.dtype.into())
        }),
    }
}

/// A run and its checkpoint to export.
struct Run {
    dir: PathBuf,
    settings: Settings,
    iteration: usize,
    checkpoint: PathBuf,
    metrics: Vec<IterationMetrics>,
    /// The base model to read; `None` for the one in the settings.
    model: Option<PathBuf>,
    /// The base model's name to write; `None` for the one in the adapters.
    base_name: Option<String>,
}

impl Run {
    fn open(args: &ExportArgs, dir: &Path) -> Result<Self> {
        let path = dir.join("settings.toml");
        let text = fs::read_to_string(&path).with_context(|| open::no_run(dir))?;
        let settings = Settings::from_toml(&text, &path.display().to_string())?;
        let mut checkpoints = checkpoint::list(dir)?;
        if let Some(wanted) = args.checkpoint {
            let there: Vec<usize> = checkpoints.iter().map(|(n, _)| *n).collect();
            checkpoints.retain(|(n, _)| *n == wanted);
            ensure!(
                !checkpoints.is_empty(),
                "{} has no checkpoint {wanted}, only {there:?}",
                dir.display()
            );
        }
        let Some((iteration, checkpoint)) = checkpoints.pop() else {
            bail!("{} holds no checkpoint", dir.display());
        };
        let metrics = dir.join("metrics.jsonl");
        let metrics = match metrics.exists() {
            true => metrics::read(&metrics)?,
            false => Vec::new(),
        };
        Ok(Self {
            dir: dir.to_owned(),
            settings,
            iteration,
            checkpoint,
            metrics,
            model: args.model.clone(),
            base_name: args.base_name.clone(),
        })
    }

    /// The base model to read for a player whose adapter names `named`.
    fn base(&self, named: String) -> PathBuf {
        self.model.clone().unwrap_or_else(|| PathBuf::from(named))
    }

    /// Metrics of the last iteration before the checkpoint.
    fn last_metrics(&self) -> Option<&IterationMetrics> {
        self.metrics
            .iter()
            .rfind(|row| row.iteration < self.iteration)
    }
}

/// Writes a directory under a temporary name and renames it once it is complete.
fn whole(
    args: &ExportArgs,
    run: &Path,
    fill: impl FnOnce(&Run, &Path) -> Result<Value>,
) -> Result<Value> {
    let out = &args.out;
    let empty = match fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => !out.exists(),
    };
    ensure!(
        empty,
        "{} exists already; choose another --out",
        out.display()
    );
    let run = Run::open(args, run)?;
    let partial = out.with_file_name(format!(
        ".{}.partial",
        out.file_name().unwrap_or_default().to_string_lossy()
    ));
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("removing {}", partial.display()))?;
    }
    fs::create_dir_all(&partial).with_context(|| format!("creating {}", partial.display()))?;
    let written = match fill(&run, &partial) {
        Ok(written) => written,
        Err(error) => {
            let _ = fs::remove_dir_all(&partial);
            return Err(error);
        }
    };
    if out.exists() {
        fs::remove_dir(out).with_context(|| format!("replacing {}", out.display()))?;
    }
    fs::rename(&partial, out).with_context(|| format!("creating {}", out.display()))?;
    Ok(written)
}

/// Writes the run's metrics as a TensorBoard event file.
fn events(args: &ExportArgs, run: &Path) -> Result<Value> {
    ensure!(
        args.checkpoint.is_none(),
        "--checkpoint selects weights; the event file covers the whole run"
    );
    open::refuse_several_runs(run)?;
    let path = run.join("metrics.jsonl");
    let rows = metrics::read(&path)?;
    ensure!(!rows.is_empty(), "{} holds no iteration", path.display());
    let end = fs::metadata(&path).and_then(|meta| meta.modified());
    let end = end
        .unwrap_or(SystemTime::now())
        .duration_since(UNIX_EPOCH)?;
    fs::create_dir_all(&args.out).with_context(|| format!("creating {}", args.out.display()))?;
    let name = "events.out.tfevents.0000000000.assay";
    let bytes = tensorboard::event_file(&rows, end.as_secs_f64());
    checkpoint::write_file(&args.out.join(name), &bytes)?;
    Ok(json!({ "format": "tensorboard", "iterations": rows.len(), "file": name }))
}
