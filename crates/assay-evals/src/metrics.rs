//! `metrics.jsonl` as rows of numbers.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::EvalError;

/// The numbers of one line of `metrics.jsonl`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricRow {
    /// The `iteration`, or the line's index if it has none.
    pub iteration: f64,
    /// Numbers by dotted name; an estimate is represented by its `value`.
    pub values: BTreeMap<String, f64>,
}

/// Parses `metrics.jsonl`, one JSON object per line; blank lines and values that are not numbers
/// are skipped.
///
/// # Errors
/// [`EvalError::Json`] with the line number. A malformed last line without a newline is skipped,
/// because an interrupted run leaves one.
pub fn parse_metrics(text: &str) -> Result<Vec<MetricRow>, EvalError> {
    let mut rows = Vec::new();
    for (index, line) in text
        .split_inclusive('\n')
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let value: Value = match serde_json::from_str(line) {
            Ok(value) => value,
            Err(_) if !line.ends_with('\n') => break,
            Err(source) => {
                return Err(EvalError::Json {
                    file: "metrics.jsonl".to_owned(),
                    line: index + 1,
                    source,
                });
            }
        };
        let mut values = BTreeMap::new();
        flatten(&value, "", &mut values);
        let iteration = values.remove("iteration").unwrap_or(rows.len() as f64);
        rows.push(MetricRow { iteration, values });
    }
    Ok(rows)
}

fn flatten(value: &Value, name: &str, values: &mut BTreeMap<String, f64>) {
    match value {
        Value::Number(number) => {
            values.extend(number.as_f64().map(|number| (name.to_owned(), number)));
        }
        Value::Object(fields) => match (fields.get("value"), fields.get("low")) {
            (Some(point), Some(_)) => flatten(point, name, values),
            _ => {
                for (key, child) in fields {
                    let full = if name.is_empty() {
                        key.clone()
                    } else {
                        format!("{name}.{key}")
                    };
                    flatten(child, &full, values);
                }
            }
        },
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_flattened_and_cut_lines_skipped() {
        let text = "{\"iteration\": 3, \"a\": {\"b\": 1.5, \"s\": \"x\"}, \"e\": {\"value\": 2, \"low\": 1, \"high\": 3, \"n\": 4}}\n\n{\"a\": {\"b\": 2}}\n{\"a\": {\"b";
        let rows = parse_metrics(text).unwrap();
        assert_eq!(
            (rows.len(), rows[0].iteration, rows[1].iteration),
            (2, 3.0, 1.0)
        );
        assert_eq!(
            rows[0].values,
            BTreeMap::from([("a.b".to_owned(), 1.5), ("e".to_owned(), 2.0)])
        );
        let message = parse_metrics("{}\n{\n").unwrap_err().to_string();
        assert!(message.contains("metrics.jsonl, line 2"), "{message}");
    }
}
