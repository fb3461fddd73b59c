//! `assay eval`: pass@k, selection and reward quality of scored traces.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use assay_evals::calibration::{CALIBRATION_FILE, Calibration};
use assay_evals::scores::TraceScore;
use assay_evals::{EvalSettings, Evaluation, Evaluator, TraceMeasurements};
use assay_report::TraceSample;
use assay_tasks::trace_stream::map_traces;

use crate::args::EvalArgs;
use crate::open;
use crate::output::print_summary;
use crate::progress::message;

/// Runs the command.
pub(crate) fn run(args: &EvalArgs) -> Result<()> {
    if let Some(path) = &args.out {
        open::ensure_output(path, &[&args.traces])?;
    }
    let settings = settings(&args.score, args.calibration.as_deref())?;
    let evaluation = read(&args.traces, settings, None)?.finish();
    ensure_judged(&evaluation, &args.traces)?;
    if let Some(path) = &args.out {
        evaluation.summary.write(path)?;
    }
    print_summary(&evaluation.summary, args.json)
}

/// The settings of an evaluation with a named trace score, or with the calibration of a reward.
pub(crate) fn settings(score: &str, calibration: Option<&Path>) -> Result<EvalSettings> {
    let score = TraceScore::parse(score)?;
    let Some(dir) = calibration else {
        return Ok(EvalSettings {
            score,
            ..EvalSettings::default()
        });
    };
    Ok(stored_calibration(dir)?.settings())
}

/// Reads the calibration of a reward directory; fails if there is none.
pub(crate) fn stored_calibration(dir: &Path) -> Result<Calibration> {
    Calibration::read(dir)?.with_context(|| {
        format!(
            "{} holds no {CALIBRATION_FILE}: make one with `assay calibrate --traces VALIDATION --reward {}`",
            dir.display(),
            dir.display()
        )
    })
}

/// Reads a file of traces on all cores. Traces to show go to the sample.
pub(crate) fn read(
    path: &Path,
    settings: EvalSettings,
    mut sample: Option<&mut TraceSample>,
) -> Result<Evaluator> {
    let drawn = sample.is_some();
    let shared = settings.clone();
    let mut evaluator = Evaluator::new(settings);
    map_traces(
        path,
        |trace| {
            TraceMeasurements::new(&trace, &shared)
                .map(|measured| (measured, drawn.then_some(trace)))
        },
        |read| {
            let (measured, trace) = read?;
            if let (Some(sample), Some(trace)) = (&mut sample, trace) {
                sample.offer(trace, measured.score(shared.score));
            }
            evaluator.add(measured);
            anyhow::Ok(())
        },
    )?;
    if evaluator.unlabelled() > 0 {
        message(&format!(
            "{} traces of unknown correctness are left out",
            evaluator.unlabelled()
        ))?;
    }
    Ok(evaluator)
}

/// Fails if no trace of a file is known to be correct or wrong.
pub(crate) fn ensure_judged(evaluation: &Evaluation, path: &Path) -> Result<()> {
    ensure!(
        evaluation.traces > 0,
        "{} holds no trace of known correctness",
        path.display()
    );
    Ok(())
}
