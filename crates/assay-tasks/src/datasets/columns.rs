//! Values of a record by column name; a dotted name selects a nested column.

use std::borrow::Cow;

use serde_json::Value;

use super::rows::problem_of_marker;
use crate::RecordFault;
use crate::json::{Columns, type_name};

/// Number of column names that a message lists.
const MAX_LISTED: usize = 24;

/// The columns of one record.
pub(super) struct Record<'r> {
    pub(super) columns: &'r Columns,
}

impl Record<'_> {
    /// The value of a column: the one with exactly this name, else the one that a dotted name
    /// selects.
    ///
    /// A part of a dotted name is a key of an object or an index of a list. Text that is a JSON
    /// object or list is parsed for this.
    pub(super) fn get(&self, column: &str) -> Option<Cow<'_, Value>> {
        let values = &self.columns.values;
        if let Some(value) = values.get(column) {
            return Some(Cow::Borrowed(value));
        }
        // The longest name that exists and is followed by a dot.
        let dots = column.rmatch_indices('.');
        dots.map(|(dot, _)| (&column[..dot], &column[dot + 1..]))
            .find_map(|(name, rest)| inside(values.get(name)?, rest))
    }

    /// The record's name of the first of these columns that exists, ignoring case.
    pub(super) fn find(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| {
            if self.get(name).is_some() {
                return Some((*name).to_owned());
            }
            let mut keys = self.columns.values.keys();
            keys.find(|key| key.eq_ignore_ascii_case(name)).cloned()
        })
    }

    /// A text column: numbers are taken as written, absent and null are `None`.
    pub(super) fn text(&self, column: &str) -> Result<Option<String>, RecordFault> {
        let Some(value) = self.get(column) else {
            return Ok(None);
        };
        match value.as_ref() {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.clone())),
            Value::Number(number) => Ok(Some(number.to_string())),
            other => Err(wrong_type(column, other, "neither a text nor a number")),
        }
    }

    /// A text column that must exist; null is an empty text.
    pub(super) fn required_text(&self, column: &str) -> Result<String, RecordFault> {
        match self.text(column)? {
            Some(text) => Ok(text),
            None if self.get(column).is_some() => Ok(String::new()),
            None => Err(self.missing(column)),
        }
    }

    /// A column of text or of a list of texts, which are joined as lines.
    pub(super) fn lines(&self, column: &str) -> Result<Option<String>, RecordFault> {
        self.joined(column, "\n")
    }

    /// A gold answer: a text, a number, true or false, or a list of them, which are joined with
    /// commas.
    pub(super) fn answer(&self, column: &str) -> Result<Option<String>, RecordFault> {
        if let Some(Value::Bool(value)) = self.get(column).as_deref() {
            return Ok(Some(value.to_string()));
        }
        self.joined(column, ", ")
    }

    fn joined(&self, column: &str, separator: &str) -> Result<Option<String>, RecordFault> {
        let value = self.get(column);
        let Some(Value::Array(elements)) = value.as_deref() else {
            return self.text(column);
        };
        let texts: Option<Vec<String>> = elements.iter().map(scalar).collect();
        let texts = texts.ok_or_else(|| RecordFault::Column {
            column: column.to_owned(),
            problem: "is neither a text nor a number nor a list of them".to_owned(),
        })?;
        Ok((!texts.is_empty()).then(|| texts.join(separator)))
    }

    /// The fault of a missing column, which lists the existing ones.
    pub(super) fn missing(&self, column: &str) -> RecordFault {
        RecordFault::MissingColumn {
            column: column.to_owned(),
            columns: self.names(),
        }
    }

    /// The names of the columns, and of those inside an object with a dot.
    fn names(&self) -> String {
        let mut names = Vec::new();
        for (name, value) in &self.columns.values {
            match value {
                Value::Object(inner) if problem_of_marker(value).is_none() && !inner.is_empty() => {
                    names.extend(inner.keys().map(|key| format!("`{name}.{key}`")));
                }
                _ => names.push(format!("`{name}`")),
            }
        }
        let more = if names.len() > MAX_LISTED {
            ", ..."
        } else {
            ""
        };
        names.truncate(MAX_LISTED);
        match names.is_empty() {
            true => "none".to_owned(),
            false => format!("{}{more}", names.join(", ")),
        }
    }
}

/// The fault of a column whose value has the wrong type.
fn wrong_type(column: &str, value: &Value, expected_not: &str) -> RecordFault {
    let problem = match (problem_of_marker(value), value) {
        (Some(problem), _) => problem.to_owned(),
        (None, Value::Object(inner)) if !inner.is_empty() => {
            let names: Vec<String> = inner
                .keys()
                .take(MAX_LISTED)
                .map(|key| format!("`{column}.{key}`"))
                .collect();
            format!(
                "is {expected_not} but an object: name a column inside it, {}",
                names.join(", ")
            )
        }
        (None, other) => format!("is {expected_not} but a {}", type_name(other)),
    };
    RecordFault::Column {
        column: column.to_owned(),
        problem,
    }
}

/// The value at a dotted path inside a value.
fn inside<'v>(value: &'v Value, path: &str) -> Option<Cow<'v, Value>> {
    match value {
        Value::Object(object) => {
            if let Some(found) = object.get(path) {
                return Some(Cow::Borrowed(found));
            }
            let (key, rest) = path.split_once('.')?;
            inside(object.get(key)?, rest)
        }
        Value::Array(elements) => {
            let (index, rest) = path.split_once('.').unwrap_or((path, ""));
            let element = elements.get(index.parse::<usize>().ok()?)?;
            match rest.is_empty() {
                true => Some(Cow::Borrowed(element)),
                false => inside(element, rest),
            }
        }
        Value::String(text) if text.trim_start().starts_with(['{', '[']) => {
            let parsed: Value = serde_json::from_str(text).ok()?;
            Some(Cow::Owned(inside(&parsed, path)?.into_owned()))
        }
        _ => None,
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::parse;

    #[test]
    fn dotted_names_lead_into_nested_columns() {
        let text = r#"{"a": {"b": {"c": 1}, "x.y": 2}, "a.b": {"d": 3}, "list": [{"k": 4}, 5], "text": "{\"k\": [6]}"}"#;
        let columns = parse(text).unwrap();
        let record = Record { columns: &columns };
        for (name, expected) in [
            ("a.b.c", Some("1")),
            ("a.x.y", Some("2")),
            ("a.b.d", Some("3")),
            ("list.0.k", Some("4")),
            ("list.1", Some("5")),
            ("text.k.0", Some("6")),
            ("list.2", None),
            ("a.b.e", None),
            ("", None),
            (".", None),
        ] {
            assert_eq!(record.text(name).unwrap().as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn answers_may_be_booleans_and_lists() {
        let columns =
            parse(r#"{"a": true, "b": ["1", 2.5, false], "c": [], "d": [[1]], "e": {"v": 1}}"#);
        let columns = columns.unwrap();
        let record = Record { columns: &columns };
        assert_eq!(record.answer("a").unwrap().as_deref(), Some("true"));
        assert_eq!(
            record.answer("b").unwrap().as_deref(),
            Some("1, 2.5, false")
        );
        assert_eq!(record.answer("c").unwrap(), None);
        assert!(record.answer("d").is_err());
        let message = record.answer("e").unwrap_err().to_string();
        assert!(
            message.ends_with("but an object: name a column inside it, `e.v`"),
            "{message}"
        );
        let message = record.missing("q").to_string();
        assert!(
            message.ends_with("the columns are `a`, `b`, `c`, `d`, `e.v`"),
            "{message}"
        );
    }
}
