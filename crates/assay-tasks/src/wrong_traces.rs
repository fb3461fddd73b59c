//! Wrong traces from the user: negatives for training a reward.
//!
//! A record names its problem by `id` or by `question` and has the trace as `text`. The file is
//! JSON lines, a JSON array or parquet. `wrong_span` may mark the wrong passage in bytes of the text.
//! Other columns are ignored. A file of [labels](crate::labels) can also be read: its wrong traces,
//! each with its first wrong token.

use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use crate::datasets::records::Records;
use crate::json::{Columns, type_name};
use crate::labels::{FirstError, holds_labels, read_labels};
use crate::{RecordFault, TasksError};

/// A wrong trace of a problem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WrongTrace {
    /// The problem's identifier.
    pub id: Option<String>,
    /// The problem's question.
    pub question: Option<String>,
    /// Reasoning and answer, in any layout.
    pub text: String,
    /// The first wrong token, if a person marked it.
    pub first_error: Option<FirstError>,
    /// The wrong passage in bytes of `text`, if it is known where the error ends.
    pub wrong_span: Option<Range<usize>>,
}

/// The wrong traces of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WrongTraces {
    /// The traces.
    pub traces: Vec<WrongTrace>,
    /// The records of a file of labels that were left out, one line per reason.
    pub notes: Vec<String>,
}

/// Reads a file of wrong traces, or of labels.
///
/// From labels, it reads the traces that most of their annotators mark as wrong. A label that
/// cannot be used is left out and named in [`WrongTraces::notes`].
///
/// # Errors
/// [`TasksError::Record`] names file, record and column of the first record of a wrong trace that
/// cannot be used. The file cannot be read.
pub fn read_wrong_traces(path: &Path) -> Result<WrongTraces, TasksError> {
    // A pipe cannot be read twice.
    if path.is_file() && holds_labels(path)? {
        return labelled(path);
    }
    let mut traces = Vec::new();
    for record in Records::open(path)? {
        let (number, record) = record.map_err(|fault| fault.error(path))?;
        let trace = record.parse().and_then(|columns| wrong_trace(&columns));
        traces.push(trace.map_err(|fault| TasksError::Record {
            path: path.to_owned(),
            number,
            fault,
        })?);
    }
    Ok(WrongTraces {
        traces,
        notes: Vec::new(),
    })
}

/// The traces of a file of labels that have an error.
fn labelled(path: &Path) -> Result<WrongTraces, TasksError> {
    let labels = read_labels(path)?;
    let consensus = labels.consensus();
    let mut notes = labels.notes();
    let wrong = consensus.traces.iter().filter(|t| t.first_error.is_some());
    let traces: Vec<WrongTrace> = wrong
        .map(|trace| WrongTrace {
            id: None,
            question: Some(trace.question.to_owned()),
            text: trace.text.to_owned(),
            first_error: trace.first_error,
            wrong_span: None,
        })
        .collect();
    let right = consensus.traces.len() - traces.len();
    notes.push(format!(
        "{} labelled traces with an error; left out {right} without one and {} on which as many annotators see one as do not",
        traces.len(),
        consensus.undecided,
    ));
    Ok(WrongTraces { traces, notes })
}

fn wrong_trace(columns: &Columns) -> Result<WrongTrace, RecordFault> {
    let trace = WrongTrace {
        id: text(columns, "id")?,
        question: text(columns, "question")?,
        text: text(columns, "text")?.unwrap_or_default(),
        first_error: None,
        wrong_span: None,
    };
    let missing = if trace.text.trim().is_empty() {
        "text"
    } else if trace.id.is_none() && trace.question.is_none() {
        "id"
    } else {
        let wrong_span = span(columns, &trace.text)?;
        return Ok(WrongTrace {
            wrong_span,
            ..trace
        });
    };
    let problem = match missing {
        "text" => "is missing or empty: it holds the wrong trace",
        _ => "is missing, and so is `question`: one of them names the problem",
    };
    Err(RecordFault::Column {
        column: missing.to_owned(),
        problem: problem.to_owned(),
    })
}

/// The passage that the column `wrong_span` marks, `{"start","end"}`; `None` if it is missing or null.
fn span(columns: &Columns, text: &str) -> Result<Option<Range<usize>>, RecordFault> {
    let marked = match columns.values.get("wrong_span") {
        None | Some(Value::Null) => return Ok(None),
        Some(marked) => marked,
    };
    let offset = |name| usize::try_from(marked.get(name)?.as_u64()?).ok();
    let range = offset("start").zip(offset("end"));
    // `get` is None for a range that is reversed, past the text or inside of a character.
    let inside = |range: &Range<usize>| text.get(range.clone()).is_some_and(|t| !t.is_empty());
    match range.map(|(start, end)| start..end).filter(inside) {
        Some(range) => Ok(Some(range)),
        None => Err(RecordFault::Column {
            column: "wrong_span".to_owned(),
            problem: "is no range {\"start\",\"end\"} of bytes in the text".to_owned(),
        }),
    }
}

/// A column that is a text or a number; `None` if it is missing or null.
fn text(columns: &Columns, column: &str) -> Result<Option<String>, RecordFault> {
    match columns.values.get(column) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(other) => Err(RecordFault::Column {
            column: column.to_owned(),
            problem: format!("is a {}, expected a text", type_name(other)),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(lines: &str) -> Result<WrongTraces, TasksError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wrong.jsonl");
        std::fs::write(&path, lines).unwrap();
        read_wrong_traces(&path)
    }

    fn read(lines: &str) -> Result<Vec<WrongTrace>, TasksError> {
        Ok(read_all(lines)?.traces)
    }

    #[test]
    fn an_id_or_a_question_names_the_problem() {
        let lines = "{\"id\": 7, \"text\": \"one\", \"by\": \"me\"}\n\n{\"question\": \"why?\", \"text\": \"two\"}\n";
        let traces = read(lines).unwrap();
        assert_eq!(
            traces,
            [
                WrongTrace {
                    id: Some("7".to_owned()),
                    text: "one".to_owned(),
                    ..WrongTrace::default()
                },
                WrongTrace {
                    question: Some("why?".to_owned()),
                    text: "two".to_owned(),
                    ..WrongTrace::default()
                }
            ]
        );
    }

    #[test]
    fn a_bad_record_is_named_with_its_line() {
        let good = "{\"id\": \"a\", \"text\": \"x\"}\n";
        for (bad, expected) in [
            ("{\"id\": \"a\"}", "wrong.jsonl:2: column `text` is missing"),
            ("{\"text\": \"x\"}", "wrong.jsonl:2: column `id` is missing"),
            (
                "{\"id\": [], \"text\": \"x\"}",
                "wrong.jsonl:2: column `id` is a list",
            ),
            (
                r#"{"id": "a", "text": "ü", "wrong_span": {"start": 1, "end": 2}}"#,
                "wrong.jsonl:2: column `wrong_span` is no range",
            ),
            (
                r#"{"id": "a", "text": "ab", "wrong_span": {"start": 1, "end": 3}}"#,
                "wrong.jsonl:2: column `wrong_span` is no range",
            ),
            (
                r#"{"id": "a", "text": "ab", "wrong_span": "b"}"#,
                "wrong.jsonl:2: column `wrong_span` is no range",
            ),
            ("{\"id\": ", "wrong.jsonl:2: not the expected JSON"),
            ("[1]", "wrong.jsonl:2: not the expected JSON"),
        ] {
            let message = read(&format!("{good}{bad}\n")).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_passage_may_be_marked() {
        let lines = r#"{"id": "a", "text": "abc", "wrong_span": {"start": 1, "end": 2}}"#;
        assert_eq!(read(lines).unwrap()[0].wrong_span, Some(1..2));
    }

    #[test]
    fn labels_are_wrong_traces_with_a_place() {
        let lines = r#"garbage
{"question": "why?", "text": "so", "first_error": {"start": 1, "end": 2}}
{"question": "why?", "text": "because", "first_error": null}
{"question": "why?", "text": "so", "first_error": {"start": 1, "end": 9}, "annotator": "b"}
{"question": "how?", "text": "so", "first_error": {"start": 1, "end": 2}}
{"question": "how?", "text": "so", "first_error": null, "annotator": "b"}
"#;
        let read = read_all(lines).unwrap();
        let [trace] = read.traces.as_slice() else {
            panic!("{:?}", read.traces);
        };
        assert_eq!(trace.question.as_deref(), Some("why?"));
        assert_eq!(trace.first_error.map(|e| (e.start, e.end)), Some((1, 2)));
        let notes = read.notes.join("\n");
        for expected in [
            "not the expected JSON (wrong.jsonl:1:",
            "`first_error` ends past the text (wrong.jsonl:4)",
            "1 labelled traces with an error; left out 1 without one and 1 on which",
        ] {
            assert!(notes.contains(expected), "{notes}");
        }
    }
}
