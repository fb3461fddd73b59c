//! `assay report`: one HTML file of a run or of traces.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use assay_evals::evaluation::Evaluation;
use assay_evals::report::{
    HeatmapTrace, MetricRow, ReportInput, ReportSettings, parse_metrics, render,
};
use assay_evals::scores::TraceScore;
use assay_evals::summary::Summary;
use assay_irl::checkpoint::write_file;
use assay_tasks::trace::ScoredTrace;
use assay_tasks::trace_io::TraceReader;

use crate::args::ReportArgs;
use crate::commands::eval::evaluate;
use crate::progress::message;

/// Traces drawn as heatmaps at most.
const HEATMAPS: usize = 40;

/// Runs the command.
pub(crate) fn run(args: &ReportArgs) -> Result<()> {
    let metrics = args
        .run
        .as_deref()
        .map_or(Ok(Vec::new()), training_curves)?;
    let stored = args
        .run
        .as_deref()
        .map_or(Ok(None), |run| stored_summary(&run.join("summary.json")))?;
    let of_run = args.run.as_ref().map(|run| run.join("traces.jsonl"));
    let path = args
        .traces
        .clone()
        .or_else(|| of_run.filter(|path| path.exists()));
    let (traces, evaluation) = match &path {
        Some(path) => (first_traces(path)?, judged(path)?),
        None => (Vec::new(), None),
    };
    let has_content =
        !(metrics.is_empty() && traces.is_empty() && evaluation.is_none() && stored.is_none());
    ensure!(has_content, "{}: nothing to report", named(args).display());
    let heatmaps: Vec<HeatmapTrace<'_>> = traces
        .iter()
        .map(|trace| HeatmapTrace {
            trace,
            injected: None,
        })
        .collect();
    let mut summary = stored.unwrap_or_default();
    if let Some(evaluation) = &evaluation {
        summary.extend(evaluation.summary.clone());
    }
    let title = format!("assay report: {}", named(args).display());
    let input = ReportInput {
        title: &title,
        summary: Some(&summary),
        metrics: &metrics,
        evaluation: evaluation.as_ref(),
        traces: &heatmaps,
    };
    write_file(
        &args.out,
        render(&input, &ReportSettings::default()).as_bytes(),
    )?;
    writeln!(std::io::stdout(), "{}", args.out.display())?;
    Ok(())
}

/// What the report is about, for its title and for messages.
fn named(args: &ReportArgs) -> PathBuf {
    let named = args.run.as_deref().or(args.traces.as_deref());
    named.unwrap_or(Path::new("")).to_owned()
}

/// The rows of a run's `metrics.jsonl`; of the game's where the directory is a quickstart's.
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
    read(&own)
}

fn stored_summary(path: &Path) -> Result<Option<Summary>> {
    Ok(match path.exists() {
        true => Some(Summary::read(path)?),
        false => None,
    })
}

fn first_traces(path: &Path) -> Result<Vec<ScoredTrace>> {
    let first = TraceReader::open(path)?.take(HEATMAPS);
    Ok(first.collect::<Result<_, _>>()?)
}

/// The evaluation of a file of traces; none, and a message, where it holds too little to judge.
fn judged(path: &Path) -> Result<Option<Evaluation>> {
    let evaluation = evaluate(path, TraceScore::Mean)?;
    if evaluation.traces == 0 {
        message("no trace says whether it is correct: the report has heatmaps only")?;
        return Ok(None);
    }
    Ok(Some(evaluation))
}
