//! `assay report`: one HTML file of a run or of traces.

use anyhow::Result;
use assay_evals::report::{HeatmapTrace, ReportInput, ReportSettings, parse_metrics, render};
use assay_evals::scores::TraceScore;
use assay_irl::checkpoint::write_file;
use assay_tasks::trace_io::TraceReader;

use crate::args::ReportArgs;
use crate::commands::eval::evaluate;
use crate::progress::message;

/// Traces drawn as heatmaps at most.
const HEATMAPS: usize = 40;

/// Runs the command.
pub(crate) fn run(args: &ReportArgs) -> Result<()> {
    let metrics = match &args.run {
        Some(dir) => parse_metrics(&std::fs::read_to_string(dir.join("metrics.jsonl"))?)?,
        None => Vec::new(),
    };
    let (mut traces, mut evaluation) = (Vec::new(), None);
    if let Some(path) = &args.traces {
        for trace in TraceReader::open(path)?.take(HEATMAPS) {
            traces.push(trace?);
        }
        evaluation = match evaluate(path, TraceScore::Mean) {
            Ok(evaluation) => Some(evaluation),
            Err(error) => {
                message(&format!("the report has no evaluation: {error}"))?;
                None
            }
        };
    }
    let heatmaps: Vec<HeatmapTrace<'_>> = traces
        .iter()
        .map(|trace| HeatmapTrace {
            trace,
            injected: None,
        })
        .collect();
    let input = ReportInput {
        title: "assay report",
        summary: evaluation.as_ref().map(|evaluation| &evaluation.summary),
        metrics: &metrics,
        evaluation: evaluation.as_ref(),
        traces: &heatmaps,
    };
    Ok(write_file(
        &args.out,
        render(&input, &ReportSettings::default()).as_bytes(),
    )?)
}
