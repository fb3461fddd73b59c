//! What needs traces only: evaluation, selection and heatmaps.

use std::path::{Path, PathBuf};

use assay_evals::calibration::Calibration;
use assay_evals::scores::TraceScore;
use assay_evals::selection::{Selector, choose_among};
use assay_evals::{EvalSettings, Evaluator, GroupBy};
use assay_report::terminal::{ColourMode, TerminalEnvironment, heatmap, legend};
use assay_report::{HeatScale, notebook};
use assay_tasks::trace::ScoredTrace;
use assay_tasks::trace_io::{parse_traces, read_traces};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::{AssayError, raised};

/// How errors call traces that are not in a file.
const IN_MEMORY: &str = "traces";

/// Traces: a file, or records that are the text of JSON objects.
#[derive(FromPyObject)]
pub(crate) enum Given {
    /// `traces.jsonl`.
    File(PathBuf),
    /// Records in memory.
    Records(Vec<String>),
}

impl Given {
    fn read(&self) -> PyResult<Vec<ScoredTrace>> {
        let read = match self {
            Self::File(path) => read_traces(path),
            Self::Records(records) => parse_traces(Path::new(IN_MEMORY), records),
        };
        read.map_err(raised)
    }

    fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Records(_) => IN_MEMORY.to_owned(),
        }
    }
}

/// The settings of an evaluation by a named trace score, or by a reward's calibration.
fn settings(score: &str, calibration: Option<&Path>) -> PyResult<EvalSettings> {
    let score = TraceScore::parse(score).map_err(raised)?;
    let Some(dir) = calibration else {
        return Ok(EvalSettings {
            score,
            ..EvalSettings::default()
        });
    };
    let missing = || AssayError::new_err(format!("{} holds no calibration.json", dir.display()));
    let stored = Calibration::read(dir).map_err(raised)?;
    Ok(stored.ok_or_else(missing)?.settings())
}

/// The entries of `assay eval` by name, and the number of traces of unknown correctness.
#[pyfunction]
pub(crate) fn evaluate<'py>(
    py: Python<'py>,
    given: Given,
    score: &str,
    calibration: Option<PathBuf>,
) -> PyResult<(Bound<'py, PyDict>, usize)> {
    let settings = settings(score, calibration.as_deref())?;
    let (evaluation, unlabelled) = py.detach(|| {
        let mut evaluator = Evaluator::new(settings);
        for trace in given.read()? {
            evaluator.push(&trace).map_err(raised)?;
        }
        let unlabelled = evaluator.unlabelled();
        PyResult::Ok((evaluator.finish(), unlabelled))
    })?;
    if evaluation.traces == 0 {
        let name = given.name();
        return Err(AssayError::new_err(format!(
            "{name} holds no trace of known correctness"
        )));
    }
    let entries = PyDict::new(py);
    for (name, estimate) in evaluation.summary.iter() {
        let numbers = (estimate.value, estimate.low, estimate.high, estimate.n);
        entries.set_item(name, numbers)?;
    }
    Ok((entries, unlabelled))
}

/// The choice of a selector among the traces of each problem.
#[pyfunction]
pub(crate) fn select<'py>(
    py: Python<'py>,
    given: Given,
    selector: &str,
    score: &str,
    among: &str,
    calibration: Option<PathBuf>,
) -> PyResult<Vec<Bound<'py, PyDict>>> {
    let selector = Selector::parse(selector).map_err(raised)?;
    let group_by = match among {
        "generator" => GroupBy::Generator,
        "problem" => GroupBy::Problem,
        other => {
            return Err(AssayError::new_err(format!(
                "unknown group `{other}`: expected `generator` or `problem`"
            )));
        }
    };
    let settings = EvalSettings {
        group_by,
        ..settings(score, calibration.as_deref())?
    };
    let chosen = py.detach(|| PyResult::Ok(choose_among(&given.read()?, selector, &settings)))?;
    let choices = chosen.into_iter().map(|choice| {
        let found = PyDict::new(py);
        found.set_item("id", choice.id)?;
        found.set_item("index", choice.chosen)?;
        found.set_item("candidates", choice.traces)?;
        found.set_item("probabilities", choice.probabilities)?;
        Ok(found)
    });
    choices.collect()
}

/// A legend and traces as text; the environment's variables say which colours a terminal has.
#[pyfunction]
pub(crate) fn heatmap_text(given: Given, color: &str, is_terminal: bool) -> PyResult<String> {
    let value = |name| std::env::var(name).ok();
    let (no_color, colorterm, term) = (value("NO_COLOR"), value("COLORTERM"), value("TERM"));
    let environment = TerminalEnvironment {
        is_terminal,
        no_color: no_color.as_deref(),
        colorterm: colorterm.as_deref(),
        term: term.as_deref(),
    };
    let mode = match color {
        "auto" => ColourMode::detect(&environment),
        "always" => ColourMode::with_colours(&environment),
        "never" => ColourMode::Plain,
        other => {
            return Err(AssayError::new_err(format!(
                "unknown colour mode `{other}`: expected `auto`, `always` or `never`"
            )));
        }
    };
    let traces = given.read()?;
    let scale = HeatScale::from_traces(&traces);
    let shown = traces.iter().map(|trace| heatmap(trace, &scale, mode));
    let parts: Vec<String> = std::iter::once(legend(&scale, mode)).chain(shown).collect();
    Ok(parts.join("\n"))
}

/// Traces as HTML for a notebook.
#[pyfunction]
pub(crate) fn heatmap_html(given: Given) -> PyResult<String> {
    notebook::heatmaps(&given.read()?).map_err(raised)
}
