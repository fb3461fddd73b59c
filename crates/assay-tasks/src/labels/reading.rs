//! Reads files of labels. A record that cannot be used is left out, counted and reported.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use serde_json::{Map, Value};

use super::{FirstError, Label, MAX_LABEL_BYTES, MAX_LABELS_BYTES, fault};
use crate::datasets::LoadReport;
use crate::datasets::records::{Fault, RawRecord, Records};
use crate::json::{Columns, type_name};
use crate::{RecordFault, TasksError};

/// The labels of a file: the last one of each annotator for each trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// The labels, traces in the order in which they were first labelled.
    pub labels: Vec<Label>,
    /// Number of labels that a later one of the same annotator replaced.
    pub replaced: usize,
    /// Number of labels that were withdrawn.
    pub withdrawn: usize,
    /// Which records were left out, and why.
    pub report: LoadReport,
}

/// Whether the first readable record of a file is a label, which has `first_error`.
///
/// # Errors
/// The file cannot be opened or read.
pub fn holds_labels(path: &Path) -> Result<bool, TasksError> {
    for record in Records::open(path)? {
        match record {
            Ok((_, record)) => {
                if let Ok(columns) = record.parse() {
                    return Ok(columns.values.contains_key("first_error"));
                }
            }
            Err(Fault::Record(..)) => {}
            Err(Fault::File(error)) => return Err(error),
        }
    }
    Ok(false)
}

/// Reads a file of labels.
///
/// # Errors
/// The file cannot be opened or read, or it holds more than [`MAX_LABELS_BYTES`].
pub fn read_labels(path: &Path) -> Result<Labels, TasksError> {
    let mut read = Labels::default();
    // Traces in the order of their first label, each with its labels by annotator.
    let mut order: Vec<BTreeMap<String, Label>> = Vec::new();
    let mut places: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut bytes = 0;
    for record in Records::open(path)? {
        let (number, label) = match record {
            Ok((number, record)) => (number, label(record, &mut bytes)),
            Err(Fault::Record(number, fault)) => (number, Err(fault)),
            Err(Fault::File(error)) => return Err(error),
        };
        if bytes > MAX_LABELS_BYTES {
            return Err(TasksError::LabelsFull {
                path: path.to_owned(),
                limit: MAX_LABELS_BYTES,
            });
        }
        let label = match label {
            Ok(label) => label,
            Err(fault) => {
                read.report.skip_record(path, number, &fault);
                continue;
            }
        };
        let key = (label.question.trim().to_owned(), label.text.clone());
        let place = match places.entry(key) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                order.push(BTreeMap::new());
                *new.insert(order.len() - 1)
            }
        };
        let earlier = match label.withdrawn {
            true => order[place].remove(&label.annotator),
            false => order[place].insert(label.annotator.clone(), label.clone()),
        };
        match (earlier, label.withdrawn) {
            (Some(_), false) => read.replaced += 1,
            (Some(_), true) => read.withdrawn += 1,
            (None, _) => {}
        }
    }
    read.labels = order.into_iter().flat_map(BTreeMap::into_values).collect();
    read.report.loaded = read.labels.len();
    Ok(read)
}

impl Labels {
    /// One line per reason for records left out, and one for labels that no longer count.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.report.lines();
        for (count, what) in [
            (
                self.replaced,
                "replaced by a later one of the same annotator",
            ),
            (self.withdrawn, "taken back"),
        ] {
            if count > 0 {
                notes.push(format!("{count} labels {what}"));
            }
        }
        notes
    }
}

/// A record as a label; adds its length to `bytes`.
fn label(record: RawRecord, bytes: &mut u64) -> Result<Label, RecordFault> {
    if let RawRecord::Text(text) = &record {
        if text.len() > MAX_LABEL_BYTES {
            let limit = MAX_LABEL_BYTES;
            return Err(RecordFault::TooLong { limit });
        }
        *bytes += text.len() as u64;
    }
    let Columns { values, non_finite } = record.parse()?;
    if non_finite > 0 {
        let reason = "NaN or an infinity, which JSON does not have".to_owned();
        return Err(RecordFault::Json { reason });
    }
    let withdrawn = match values.get("withdrawn") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(withdrawn)) => *withdrawn,
        Some(other) => return Err(mistyped("withdrawn", other, "true or false")),
    };
    let first_error = match values.get("first_error") {
        None if withdrawn => None,
        None => {
            let problem = "is missing: a range of bytes, or null for a trace without an error";
            return Err(fault("first_error", problem));
        }
        Some(value) => first_error(value)?,
    };
    let label = Label {
        trace: String::new(),
        question: text(&values, "question")?,
        text: text(&values, "text")?,
        first_error,
        withdrawn,
        annotator: text(&values, "annotator")?,
        time: values.get("time").and_then(Value::as_u64).unwrap_or(0),
    };
    label.checked()
}

fn first_error(value: &Value) -> Result<Option<FirstError>, RecordFault> {
    let range = match value {
        Value::Null => return Ok(None),
        Value::Object(range) => range,
        other => return Err(mistyped("first_error", other, "an object or null")),
    };
    let number = |name: &str| range.get(name).and_then(Value::as_u64);
    let whole = |value: u64| usize::try_from(value).ok();
    let (Some(start), Some(end)) = (
        number("start").and_then(whole),
        number("end").and_then(whole),
    ) else {
        let problem = "has no `start` and `end` that are whole numbers of bytes";
        return Err(fault("first_error", problem));
    };
    Ok(Some(FirstError {
        start,
        end,
        token: number("token").and_then(whole),
    }))
}

/// A column of text; empty where it is missing or null.
fn text(values: &Map<String, Value>, column: &str) -> Result<String, RecordFault> {
    match values.get(column) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(mistyped(column, other, "a text")),
    }
}

fn mistyped(column: &str, found: &Value, expected: &str) -> RecordFault {
    let problem = format!("is a {}, expected {expected}", type_name(found));
    fault(column, &problem)
}
