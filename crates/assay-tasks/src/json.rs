//! Records of data files as JSON values. The digits of numbers are kept.
//!
//! Python writes values that JSON does not have: `NaN`, `Infinity` and unpaired surrogates. Here
//! NaN and infinities become null and are counted; an unpaired surrogate is a separate fault. A
//! number that would change if a 64-bit integer or float wrote it back (30 digits, `1.50`, `1e5`)
//! becomes a string with its digits.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::RecordFault;

/// A record's columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Columns {
    /// The values by column name.
    pub(crate) values: Map<String, Value>,
    /// Numbers that are NaN or infinite and were read as null.
    pub(crate) non_finite: usize,
}

/// Parses one JSON object. A chat that is a record by itself, a list of objects, becomes the column
/// `messages`.
///
/// # Errors
/// [`RecordFault::Json`], [`RecordFault::NotAnObject`], [`RecordFault::UnpairedSurrogate`].
pub(crate) fn parse(text: &str) -> Result<Columns, RecordFault> {
    let (text, non_finite) = with_json_numbers(text);
    match serde_json::from_str(&text) {
        Ok(Value::Object(values)) => Ok(Columns { values, non_finite }),
        Ok(Value::Array(turns)) if turns.first().is_some_and(Value::is_object) => {
            let messages = ("messages".to_owned(), Value::Array(turns));
            Ok(Columns {
                values: Map::from_iter([messages]),
                non_finite,
            })
        }
        Ok(other) => Err(RecordFault::NotAnObject {
            found: type_name(&other),
        }),
        Err(error) => Err(match unpaired_surrogate(&text) {
            Some(escape) => RecordFault::UnpairedSurrogate { escape },
            None => RecordFault::json(&error),
        }),
    }
}

/// The name of a value's type in messages.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// The text with NaN and infinities replaced by null and with numbers that would change quoted, and
/// the number of replacements by null.
fn with_json_numbers(text: &str) -> (Cow<'_, str>, usize) {
    let bytes = text.as_bytes();
    let mut changed = String::new();
    let (mut copied, mut non_finite, mut at) = (0, 0, 0);
    while at < bytes.len() {
        let start = at;
        match bytes[at] {
            b'"' => at = end_of_string(bytes, at),
            b'-' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                let in_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
                at += bytes[at..].iter().take_while(|byte| in_word(byte)).count();
                let word = &text[start..at];
                let replaced = match word {
                    "NaN" | "-NaN" | "Infinity" | "-Infinity" => {
                        non_finite += 1;
                        Some("null".to_owned())
                    }
                    _ => changes_as_number(word).then(|| format!("\"{word}\"")),
                };
                if let Some(replaced) = replaced {
                    changed.push_str(&text[copied..start]);
                    changed.push_str(&replaced);
                    copied = at;
                }
            }
            _ => at += 1,
        }
    }
    if copied == 0 {
        return (Cow::Borrowed(text), 0);
    }
    changed.push_str(&text[copied..]);
    (Cow::Owned(changed), non_finite)
}

/// The index after a string that begins at `start`.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// Whether a JSON number reads back as another text than it was written in.
fn changes_as_number(word: &str) -> bool {
    let digits = word.strip_prefix('-').unwrap_or(word);
    let integer_digits = digits.bytes().take_while(u8::is_ascii_digit).count();
    let (integer, rest) = digits.split_at(integer_digits);
    if integer.is_empty() || (integer.len() > 1 && integer.starts_with('0')) {
        return false;
    }
    if rest.is_empty() {
        return integer.len() > 18 && word.parse::<i64>().is_err() && word.parse::<u64>().is_err();
    }
    serde_json::from_str::<serde_json::Number>(word).is_ok_and(|number| {
        number.as_f64().is_some_and(f64::is_finite) && number.to_string() != word
    })
}

/// The first `\uD800`-`\uDFFF` escape of a text that is not half of a pair.
fn unpaired_surrogate(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let unit = |at: usize| -> Option<u16> {
        let digits = text.get(at + 2..at + 6)?;
        let is_escape = bytes.get(at..at + 2)? == b"\\u";
        is_escape.then(|| u16::from_str_radix(digits, 16).ok())?
    };
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            at += 1;
            continue;
        }
        match unit(at) {
            Some(0xd800..=0xdbff) if matches!(unit(at + 6), Some(0xdc00..=0xdfff)) => at += 12,
            Some(0xd800..=0xdfff) => return text.get(at..at + 6).map(str::to_owned),
            _ => at += 2,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn values(text: &str) -> Value {
        Value::Object(parse(text).unwrap().values)
    }

    fn fault(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn numbers_keep_their_digits() {
        let text = r#"{"a": 123456789012345678901234567890, "b": [1.50, -7, 2.5], "c": 1e5, "d": 9007199254740993,
            "e": 18446744073709551615, "f": -99999999999999999999, "g": 0.1234567890123456789012}"#;
        let expected = json!({"a": "123456789012345678901234567890", "b": ["1.50", -7, 2.5], "c": "1e5",
            "d": 9_007_199_254_740_993_i64, "e": u64::MAX, "f": "-99999999999999999999",
            "g": "0.1234567890123456789012"});
        assert_eq!(values(text), expected);
    }

    #[test]
    fn numbers_inside_strings_stay() {
        let text = r#"{"NaN": "NaN, \"1.50\", \\", "x": "1e5 Infinity"}"#;
        let columns = parse(text).unwrap();
        assert_eq!(columns.values["NaN"], json!("NaN, \"1.50\", \\"));
        assert_eq!(
            (columns.values["x"].as_str(), columns.non_finite),
            (Some("1e5 Infinity"), 0)
        );
    }

    #[test]
    fn nan_and_infinities_are_null_and_counted() {
        let columns =
            parse(r#"{"a": NaN, "b": [-Infinity, Infinity, 1], "c": {"d":NaN}}"#).unwrap();
        assert_eq!(
            (Value::Object(columns.values), columns.non_finite),
            (
                json!({"a": null, "b": [null, null, 1], "c": {"d": null}}),
                4
            )
        );
    }

    #[test]
    fn unpaired_surrogates_are_named() {
        for (text, escape) in [
            (r#"{"a": "x\ud800"}"#, "\\ud800"),
            (r#"{"a": "\uDC00y"}"#, "\\uDC00"),
            (r#"{"a": "\ud83d\u0041"}"#, "\\ud83d"),
            (r#"{"a\ud83d": 1}"#, "\\ud83d"),
        ] {
            assert!(
                fault(text).contains(&format!("unpaired surrogate {escape} ")),
                "{}",
                fault(text)
            );
        }
        assert_eq!(values(r#"{"a": "\ud83d\ude00"}"#), json!({"a": "😀"}));
        assert!(fault(r#"{"a": "\\ud800", "b": tru}"#).starts_with("not the expected JSON: "));
    }

    #[test]
    fn what_is_no_number_stays_an_error() {
        for text in [
            "01", "+1", ".5", "1.", "1e", "- 1", "None", "nan", "1e999", "-",
        ] {
            let message = fault(&format!("{{\"a\": {text}}}"));
            assert!(
                message.starts_with("not the expected JSON: "),
                "{text}: {message}"
            );
        }
        assert_eq!(
            fault("[1]"),
            "not the expected JSON: invalid type: list, expected an object"
        );
    }

    proptest! {
        #[test]
        fn ordinary_json_is_unchanged(value in proptest::collection::btree_map(".{0,6}", any::<i64>(), 0..4)) {
            let text = serde_json::to_string(&value).unwrap();
            prop_assert_eq!(values(&text), serde_json::from_str::<Value>(&text).unwrap());
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "[\\[\\]{}\",:0-9.eENna\\\\ud8-]{0,40}") {
            let _ = parse(&text);
        }
    }
}
