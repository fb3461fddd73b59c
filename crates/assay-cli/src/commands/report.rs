//! `assay report`: one HTML file of runs or of traces.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use assay_evals::{EvalSettings, Evaluation, MetricRow, Summary, parse_metrics};
use assay_report::{
    Exhibits, HeatmapTrace, ReportInput, ReportSettings, RunView, TraceSample, file_name, render,
};
use assay_tasks::trace::ScoredTrace;
use assay_train::checkpoint::write_file;
use serde_json::json;

use crate::args::ReportArgs;
use crate::commands::eval::read;
use crate::open;
use crate::progress::message;

/// The data of one run.
#[derive(Default)]
struct Loaded {
    name: String,
    summary: Summary,
    metrics: Vec<MetricRow>,
    evaluation: Option<Evaluation>,
    traces: Vec<ScoredTrace>,
    /// Number of traces with rewards from which these were chosen.
    chosen_from: usize,
}

/// Runs the command.
pub(crate) fn run(args: &ReportArgs) -> Result<()> {
    let inputs: Vec<&Path> = args.traces.iter().map(PathBuf::as_path).collect();
    open::ensure_output(&args.out, &inputs)?;
    let settings = ReportSettings::default();
    let mut loaded = Vec::new();
    let together = args.run.len() == 1 && args.traces.len() == 1;
    for run in &args.run {
        let own = run.join("traces.jsonl");
        let traces = match together {
            true => Some(args.traces[0].clone()),
            false => own.exists().then_some(own),
        };
        loaded.push(load(Some(run), traces.as_deref(), &settings)?);
    }
    for traces in args.traces.iter().filter(|_| !together) {
        loaded.push(load(None, Some(traces), &settings)?);
    }
    let heatmaps: Vec<Vec<HeatmapTrace<'_>>> = loaded.iter().map(Loaded::heatmaps).collect();
    let runs: Vec<RunView<'_>> = loaded
        .iter()
        .zip(&heatmaps)
        .map(|(run, traces)| RunView {
            name: &run.name,
            summary: Some(&run.summary),
            metrics: &run.metrics,
            evaluation: run.evaluation.as_ref(),
            traces,
            chosen_from: run.chosen_from,
        })
        .collect();
    let names: Vec<&str> = runs.iter().map(|run| run.name).collect();
    let input = ReportInput {
        title: &format!("assay report: {}", names.join(", ")),
        runs: &runs,
    };
    write_file(&args.out, render(&input, &settings)?.as_bytes())?;
    if let Some(dir) = &args.figures {
        write_exhibits(dir, &Exhibits::new(&runs)?)?;
    }
    let mut out = std::io::stdout();
    match args.json {
        true => writeln!(
            out,
            "{}",
            json!({ "out": args.out, "figures": args.figures })
        )?,
        false => writeln!(out, "{}", args.out.display())?,
    }
    Ok(())
}

impl Loaded {
    fn heatmaps(&self) -> Vec<HeatmapTrace<'_>> {
        let shown = |trace| HeatmapTrace {
            trace,
            injected: None,
        };
        self.traces.iter().map(shown).collect()
    }

    fn is_empty(&self) -> bool {
        self.metrics.is_empty()
            && self.traces.is_empty()
            && self.evaluation.is_none()
            && self.summary.is_empty()
    }
}

fn load(run: Option<&Path>, traces: Option<&Path>, settings: &ReportSettings) -> Result<Loaded> {
    let named = run.or(traces).unwrap_or(Path::new(""));
    let mut loaded = Loaded {
        name: named.display().to_string(),
        ..Loaded::default()
    };
    if let Some(run) = run {
        loaded.metrics = training_curves(run)?;
    }
    if let Some(path) = traces {
        let mut sample = TraceSample::new(settings.heatmaps);
        let evaluator = read(path, EvalSettings::default(), Some(&mut sample))?;
        loaded.chosen_from = sample.seen();
        loaded.traces = sample.finish();
        let evaluation = evaluator.finish();
        loaded.summary = evaluation.summary.clone();
        if evaluation.traces == 0 {
            message(&format!(
                "no trace of {} says whether it is correct: the report has heatmaps only",
                path.display()
            ))?;
        } else {
            loaded.evaluation = Some(evaluation);
        }
    }
    // The run's own measurements, on the score it chose, take precedence over those computed here.
    if let Some(path) = run
        .map(|run| run.join("summary.json"))
        .filter(|p| p.exists())
    {
        loaded.summary.extend(Summary::read(&path)?);
    }
    ensure!(!loaded.is_empty(), "{}: nothing to report", named.display());
    Ok(loaded)
}

/// The rows of a run's `metrics.jsonl`; in a quickstart's directory, those of its `airl` run.
fn training_curves(run: &Path) -> Result<Vec<MetricRow>> {
    let read = |path: &Path| -> Result<Vec<MetricRow>> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        parse_metrics(&text).with_context(|| format!("reading {}", path.display()))
    };
    let own = run.join("metrics.jsonl");
    let of_game = run.join("airl").join("metrics.jsonl");
    if !own.exists() && of_game.exists() {
        return read(&of_game);
    }
    if !own.exists() && run.join("summary.json").exists() {
        return Ok(Vec::new());
    }
    open::refuse_several_runs(run)?;
    read(&own)
}

/// Writes every figure as NAME.svg and every table as NAME.csv and NAME.tex.
fn write_exhibits(dir: &Path, exhibits: &Exhibits) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let path = |name: &str, ending: &str| -> PathBuf { dir.join(format!("{name}.{ending}")) };
    for figure in exhibits.figures() {
        write_file(&path(&figure.name, "svg"), figure.standalone().as_bytes())?;
    }
    for table in exhibits.tables() {
        let name = file_name(&table.name);
        write_file(&path(&name, "csv"), table.csv().as_bytes())?;
        write_file(&path(&name, "tex"), table.latex().as_bytes())?;
    }
    Ok(())
}
