//! Describes schemas and values in words.

use serde_json::Value;

use super::{Shape, branches, types};

/// Maximum number of quoted characters of a value.
const MAX_QUOTED: usize = 40;

/// The grammatical number of a phrase.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Number {
    One,
    Many,
}

impl Shape {
    /// What a schema expects: `a string or a list of strings`.
    pub(super) fn words(&self, schema: &Value) -> String {
        self.phrase(schema, Number::One)
    }

    fn phrase(&self, schema: &Value, number: Number) -> String {
        let schema = self.resolve(schema);
        if let Some(branches) = branches(schema) {
            let branches = branches.iter().filter(|branch| branch["type"] != "null");
            let mut phrases: Vec<String> = branches.map(|b| self.phrase(b, number)).collect();
            phrases.dedup();
            return phrases.join(" or ");
        }
        if let Some(allowed) = schema.get("enum").and_then(Value::as_array) {
            let quoted = allowed.iter().filter(|value| !value.is_null()).map(quoted);
            return format!("one of {}", quoted.collect::<Vec<String>>().join(", "));
        }
        if let Some(only) = schema.get("const") {
            return quoted(only);
        }
        let kinds = types(schema).filter(|kind| *kind != "null");
        let phrases: Vec<String> = kinds.map(|kind| self.kind(kind, schema, number)).collect();
        match phrases.is_empty() {
            true => "a value".to_owned(),
            false => phrases.join(" or "),
        }
    }

    fn kind(&self, kind: &str, schema: &Value, number: Number) -> String {
        let counted = |one: &str, many: &str| match number {
            Number::One => one.to_owned(),
            Number::Many => many.to_owned(),
        };
        match kind {
            "string" => counted("a string", "strings"),
            "boolean" => "true or false".to_owned(),
            "integer" => counted("a whole number", "whole numbers") + &range(schema),
            "number" => counted("a number", "numbers") + &range(schema),
            "array" => {
                let list = counted("a list", "lists");
                match schema.get("items") {
                    Some(items) => format!("{list} of {}", self.phrase(items, Number::Many)),
                    None => list,
                }
            }
            _ => {
                let object = counted("an object", "objects");
                let required = schema.get("required").and_then(Value::as_array);
                let names = required.into_iter().flatten().filter_map(Value::as_str);
                let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
                match names.is_empty() {
                    true => object,
                    false => format!("{object} with {}", names.join(" and ")),
                }
            }
        }
    }
}

fn range(schema: &Value) -> String {
    let bound = |name: &str| schema.get(name).filter(|bound| bound.is_number());
    match (
        bound("minimum"),
        bound("exclusiveMinimum"),
        bound("maximum"),
    ) {
        (Some(least), _, Some(most)) => format!(" from {least} to {most}"),
        (None, Some(below), Some(most)) => format!(" above {below} and at most {most}"),
        (Some(least), _, None) => format!(" of at least {least}"),
        _ => String::new(),
    }
}

fn quoted(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{text}`"),
        other => other.to_string(),
    }
}

/// What a value is: short strings and numbers themselves, else its type.
pub(super) fn found(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::String(text) if text.chars().count() <= MAX_QUOTED => format!("{text:?}"),
        Value::String(_) => "a string".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
