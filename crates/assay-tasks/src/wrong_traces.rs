//! Wrong traces that a user knows: negatives for training a reward.
//!
//! A record names its problem by `id` or by `question` and holds the trace as `text`. The records
//! stand in JSON lines, in a JSON array or in parquet. Other columns are passed over.

use std::path::Path;

use serde_json::Value;

use crate::datasets::records::Records;
use crate::json::{Columns, type_name};
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
}

/// Reads a file of wrong traces.
///
/// # Errors
/// [`TasksError::Record`] names file, record and column of the first record that cannot be used;
/// what stops the file from being read.
pub fn read_wrong_traces(path: &Path) -> Result<Vec<WrongTrace>, TasksError> {
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
    Ok(traces)
}

fn wrong_trace(columns: &Columns) -> Result<WrongTrace, RecordFault> {
    let trace = WrongTrace {
        id: text(columns, "id")?,
        question: text(columns, "question")?,
        text: text(columns, "text")?.unwrap_or_default(),
    };
    let missing = if trace.text.trim().is_empty() {
        "text"
    } else if trace.id.is_none() && trace.question.is_none() {
        "id"
    } else {
        return Ok(trace);
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

/// A column that is a text or a number; `None` where it is missing or null.
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

    fn read(lines: &str) -> Result<Vec<WrongTrace>, TasksError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wrong.jsonl");
        std::fs::write(&path, lines).unwrap();
        read_wrong_traces(&path)
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
                    question: None,
                    text: "one".to_owned()
                },
                WrongTrace {
                    id: None,
                    question: Some("why?".to_owned()),
                    text: "two".to_owned()
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
            ("{\"id\": ", "wrong.jsonl:2: not the expected JSON"),
            ("[1]", "wrong.jsonl:2: not the expected JSON"),
        ] {
            let message = read(&format!("{good}{bad}\n")).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
