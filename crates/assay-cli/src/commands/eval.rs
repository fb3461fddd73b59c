//! `assay eval`: everything that scored traces tell.

use std::io::Write;
use std::path::Path;

use anyhow::{Result, ensure};
use assay_evals::evaluation::{EvalSettings, Evaluation, Evaluator};
use assay_evals::scores::TraceScore;
use assay_tasks::trace_io::TraceReader;

use crate::args::EvalArgs;
use crate::progress::message;

/// Runs the command.
pub(crate) fn run(args: &EvalArgs) -> Result<()> {
    let evaluation = evaluate(&args.traces, TraceScore::parse(&args.score)?)?;
    ensure_judged(&evaluation, &args.traces)?;
    if let Some(path) = &args.out {
        evaluation.summary.write(path)?;
    }
    let mut out = std::io::stdout();
    if args.json {
        writeln!(
            out,
            "{}",
            serde_json::to_string_pretty(&evaluation.summary.to_value()?)?
        )?;
    } else {
        write!(out, "{}", evaluation.summary.table())?;
    }
    Ok(())
}

/// Evaluates a file of traces, one at a time.
pub(crate) fn evaluate(path: &Path, score: TraceScore) -> Result<Evaluation> {
    let mut evaluator = Evaluator::new(EvalSettings {
        score,
        ..EvalSettings::default()
    });
    for trace in TraceReader::open(path)? {
        evaluator.push(&trace?)?;
    }
    let evaluation = evaluator.finish();
    if evaluation.unjudged > 0 {
        message(&format!(
            "{} traces of unknown correctness are left out",
            evaluation.unjudged
        ))?;
    }
    Ok(evaluation)
}

/// Refuses a file in which nothing is known to be correct or wrong.
pub(crate) fn ensure_judged(evaluation: &Evaluation, path: &Path) -> Result<()> {
    ensure!(
        evaluation.traces > 0,
        "{} holds no trace of known correctness",
        path.display()
    );
    Ok(())
}
