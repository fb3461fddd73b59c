//! Traces split into steps, with the first wrong one: `problem`, `steps` and `label` of
//! ProcessBench, or `prompt`, `completions` and `labels` of TRL's stepwise supervision.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::datasets::records::{Fault, RawRecord, Records};
use crate::datasets::{LoadReport, files};
use crate::trace_io::TextOrNumber;
use crate::{RecordFault, TasksError};

/// A trace split into steps, with the index of the first wrong one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepTrace {
    /// Identifier.
    pub id: String,
    /// What produced the steps; `unknown` if the file does not say.
    pub generator: String,
    /// The question.
    pub question: String,
    /// The steps' texts.
    pub steps: Vec<String>,
    /// Index of the first wrong step; `None` if all are right.
    pub label: Option<usize>,
}

/// Reads step traces from JSON lines, a JSON array or parquet.
///
/// A record that cannot be used, such as one whose label names no step, is left out and counted.
///
/// # Errors
/// [`TasksError::Read`], [`TasksError::Parquet`], [`TasksError::FileKind`] where a file cannot be
/// read to its end; [`TasksError::NoUsableRecord`] where every record is left out.
pub fn read_step_traces(path: &Path) -> Result<(Vec<StepTrace>, LoadReport), TasksError> {
    let mut traces = Vec::new();
    let mut report = LoadReport::default();
    for file in files(path)? {
        for record in Records::open(&file)? {
            let (number, trace) = match record {
                Ok((number, record)) => (number, step_trace(number, record)),
                Err(Fault::Record(number, fault)) => (number, Err(fault)),
                Err(Fault::File(error)) => return Err(error),
            };
            match trace {
                Ok(trace) => traces.push(trace),
                Err(fault) => report.skip_record(&file, number, &fault),
            }
        }
    }
    if traces.is_empty() && !report.skipped.is_empty() {
        return Err(TasksError::NoUsableRecord {
            path: path.to_owned(),
            reasons: report.reasons(),
        });
    }
    report.loaded = traces.len();
    Ok((traces, report))
}

/// Whether the first record of a file is a step trace: it has a list `steps`, and `label` or
/// `problem`.
///
/// # Errors
/// The file cannot be opened, or its first record cannot be read.
pub fn holds_step_traces(path: &Path) -> Result<bool, TasksError> {
    let Some(first) = files(path)?.into_iter().next() else {
        return Ok(false);
    };
    for record in Records::open(&first)? {
        let columns = match record {
            Ok((_, record)) => record.parse(),
            Err(Fault::Record(..)) => continue,
            Err(Fault::File(error)) => return Err(error),
        };
        // The first record that can be parsed decides.
        if let Ok(columns) = columns {
            let has = |name: &str| columns.values.contains_key(name);
            let is_list = |name: &str| columns.values.get(name).is_some_and(Value::is_array);
            let published = is_list("steps") && (has("label") || has("problem"));
            let stepwise = is_list("completions") && is_list("labels");
            return Ok((published || stepwise) && !has("text"));
        }
    }
    Ok(false)
}

#[derive(Deserialize)]
struct StepRecord {
    /// The identifier; by default the number of the record in the file.
    id: Option<TextOrNumber>,
    generator: Option<String>,
    #[serde(alias = "question", alias = "prompt")]
    problem: String,
    #[serde(alias = "completions")]
    steps: Vec<String>,
    /// Index of the first wrong step, or -1.
    label: Option<i64>,
    /// Whether each step is right.
    labels: Option<Vec<StepLabel>>,
}

/// Whether one step is right: true or 1.
#[derive(Deserialize)]
#[serde(untagged)]
enum StepLabel {
    Bool(bool),
    Number(i64),
}

impl StepLabel {
    fn is_right(&self) -> bool {
        match self {
            Self::Bool(right) => *right,
            Self::Number(number) => *number == 1,
        }
    }
}

fn step_trace(number: usize, record: RawRecord) -> Result<StepTrace, RecordFault> {
    let columns = Value::Object(record.parse()?.values);
    let record = StepRecord::deserialize(columns).map_err(|error| RecordFault::json(&error))?;
    let label = first_wrong_step(&record)?;
    Ok(StepTrace {
        id: record.id.map_or_else(|| number.to_string(), |id| id.text()),
        generator: record.generator.unwrap_or_else(|| "unknown".into()),
        question: record.problem,
        steps: record.steps,
        label,
    })
}

fn first_wrong_step(record: &StepRecord) -> Result<Option<usize>, RecordFault> {
    let fault = |column: &str, problem: &str| RecordFault::Column {
        column: column.to_owned(),
        problem: problem.to_owned(),
    };
    match (record.label, &record.labels) {
        (Some(-1), _) => Ok(None),
        (Some(label), _) => {
            let label = usize::try_from(label).ok();
            let label = label.filter(|&label| label < record.steps.len());
            let label = label.ok_or_else(|| fault("label", "names no step"))?;
            Ok(Some(label))
        }
        (None, Some(labels)) if labels.len() == record.steps.len() => {
            Ok(labels.iter().position(|label| !label.is_right()))
        }
        (None, Some(_)) => Err(fault("labels", "does not have one entry for each step")),
        (None, None) => Err(RecordFault::Json {
            reason: "missing field `label`".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(text: &str) -> Result<(Vec<StepTrace>, LoadReport), TasksError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("traces.json");
        fs::write(&path, text).unwrap();
        read_step_traces(&path)
    }

    fn record(label: i64) -> String {
        format!(
            r#"{{"id": "gsm8k-0", "generator": "m", "problem": "Q", "steps": ["a", "b"], "label": {label}}}"#
        )
    }

    #[test]
    fn step_traces_are_read_as_published() {
        for text in [
            format!("\n[\n{},\n{}\n]", record(1), record(-1)),
            format!("{}\n{}", record(1), record(-1)),
        ] {
            let (traces, _) = read(&text).unwrap();
            assert_eq!(
                (traces[0].label, traces[1].label, traces[0].steps.len()),
                (Some(1), None, 2)
            );
            assert_eq!(traces[0].question, "Q");
        }
    }

    #[test]
    fn labels_that_name_no_step_are_counted() {
        for label in [2, -2] {
            let text = format!("[{},\n{}]", record(label), record(0));
            let (traces, report) = read(&text).unwrap();
            assert_eq!((traces.len(), traces[0].label), (1, Some(0)));
            assert_eq!(
                report.lines(),
                ["left out 1: column `label` names no step (traces.json:1)"]
            );
            assert!(read(&record(label)).is_err());
        }
    }

    #[test]
    fn step_labels_name_the_first_wrong_one() {
        let record = |labels: &str| {
            format!(r#"{{"prompt": "Q", "completions": ["a", "b"], "labels": {labels}}}"#)
        };
        for (labels, expected) in [
            ("[true, false]", Some(1)),
            ("[1, 1]", None),
            ("[0, 1]", Some(0)),
            ("[1, -1]", Some(1)),
        ] {
            let (traces, _) = read(&record(labels)).unwrap();
            assert_eq!((traces[0].label, traces[0].steps.len()), (expected, 2));
        }
        let message = read(&record("[true]")).unwrap_err().to_string();
        assert!(
            message.contains("`labels` does not have one entry for each step"),
            "{message}"
        );
    }

    #[test]
    fn step_traces_are_told_from_problems() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.json");
        for (text, expected) in [
            (record(0), true),
            (format!("[{}]", record(0)), true),
            (format!("broken\n{}", record(0)), true),
            (r#"[{"question": "Q", "answer": "a"}]"#.to_owned(), false),
            (r#"{"question": "Q", "steps": ["a"]}"#.to_owned(), false),
            (
                r#"{"prompt": "Q", "completions": ["a"], "labels": [true]}"#.to_owned(),
                true,
            ),
            (r#"{"prompt": "Q", "completion": "a"}"#.to_owned(), false),
            (
                r#"{"problem": "Q", "steps": 3, "label": 1}"#.to_owned(),
                false,
            ),
            (String::new(), false),
        ] {
            fs::write(&path, &text).unwrap();
            assert_eq!(holds_step_traces(&path).unwrap(), expected, "{text}");
        }
    }
}
