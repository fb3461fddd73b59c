//! Checks the parts of a `tokenizer.json` before it is parsed.
//!
//! Byte-level BPE, SentencePiece-style BPE and closed vocabularies need few parts of the format.
//! Other parts change text, or end the process if constants in the file are malformed.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::failed;
use crate::LmError;

const NORMALIZERS: [&str; 7] = [
    "NFC", "NFD", "NFKC", "NFKD", "Sequence", "Prepend", "Replace",
];
const PRE_TOKENIZERS: [&str; 8] = [
    "ByteLevel",
    "Split",
    "Digits",
    "Punctuation",
    "Whitespace",
    "WhitespaceSplit",
    "Metaspace",
    "Sequence",
];
const POST_PROCESSORS: [&str; 3] = ["ByteLevel", "TemplateProcessing", "Sequence"];
const MODELS: [&str; 2] = ["BPE", "WordLevel"];
/// Longest splitting pattern in bytes; published ones have 200.
const MAX_PATTERN: usize = 1 << 16;

/// The parts of the file; the vocabulary is skipped.
#[derive(Deserialize)]
struct Outline {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    /// Parsed only for its syntax, which the tokenizer's parser does not check here.
    #[serde(rename = "decoder")]
    _decoder: Option<Value>,
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f64>,
}

/// Fails for unsupported parts, a template that names unknown tokens, and random merges.
///
/// # Errors
/// [`LmError::Tokenizer`] for a file that is not a tokenizer; [`LmError::UnsupportedTokenizer`]
/// names the part.
pub(super) fn check(bytes: &[u8], path: &Path) -> Result<(), LmError> {
    let outline: Outline = serde_json::from_slice(bytes)
        .map_err(|source| failed(path, "reading the tokenizer")(source.into()))?;
    let parts = [
        ("normalizer", &outline.normalizer, &NORMALIZERS[..]),
        ("pre_tokenizer", &outline.pre_tokenizer, &PRE_TOKENIZERS),
        ("post_processor", &outline.post_processor, &POST_PROCESSORS),
    ];
    for (part, value, known) in parts {
        if let Some(value) = value {
            check_part(value, part, known).map_err(|reason| unsupported(path, reason))?;
        }
    }
    let kind = outline.model.kind.as_deref();
    if let Some(kind) = kind.filter(|kind| !MODELS.contains(kind)) {
        let reason = format!(
            "model {kind:?} is not supported, only {}",
            MODELS.join(", ")
        );
        return Err(unsupported(path, reason));
    }
    if outline.model.dropout.is_some_and(|share| share != 0.0) {
        let reason = "model.dropout: random merges are not supported; set it to null".to_owned();
        return Err(unsupported(path, reason));
    }
    Ok(())
}

fn unsupported(path: &Path, reason: String) -> LmError {
    LmError::UnsupportedTokenizer {
        path: path.to_owned(),
        reason,
    }
}

/// Checks a part and, in a sequence, those inside it; the parser has bounded their nesting.
fn check_part(value: &Value, part: &str, known: &[&str]) -> Result<(), String> {
    let kind = value.get("type").and_then(Value::as_str).unwrap_or("");
    if !known.contains(&kind) {
        return Err(format!(
            "{part} {kind:?} is not supported, only {}",
            known.join(", ")
        ));
    }
    match kind {
        "Sequence" => {
            let inner = ["normalizers", "pretokenizers", "processors"]
                .iter()
                .find_map(|key| value.get(key)?.as_array());
            inner
                .into_iter()
                .flatten()
                .try_for_each(|inner| check_part(inner, part, known))
        }
        "Prepend" | "Replace" | "Metaspace" => check_space(value, part, kind),
        "Split" => check_pattern(value, part),
        "TemplateProcessing" => check_template(value, part),
        _ => Ok(()),
    }
}

/// Accepts only SentencePiece's behaviour: spaces become `▁`, and one more may precede a text.
fn check_space(value: &Value, part: &str, kind: &str) -> Result<(), String> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let is_known = match kind {
        "Prepend" => text("prepend") == Some("▁"),
        "Metaspace" => text("replacement") == Some("▁"),
        _ => {
            let pattern = value
                .get("pattern")
                .and_then(|pattern| pattern.get("String"));
            pattern.and_then(Value::as_str) == Some(" ") && text("content") == Some("▁")
        }
    };
    match is_known {
        true => Ok(()),
        false => Err(format!(
            "{part} {kind:?} is supported only for spaces written as \"▁\""
        )),
    }
}

fn check_pattern(value: &Value, part: &str) -> Result<(), String> {
    let pattern = value
        .get("pattern")
        .and_then(|pattern| pattern.get("Regex")?.as_str())
        .unwrap_or("");
    if pattern.len() > MAX_PATTERN {
        return Err(format!(
            "{part}: a pattern of {} bytes; at most {MAX_PATTERN} are read",
            pattern.len()
        ));
    }
    Ok(())
}

/// Every special token of a template must be listed in `special_tokens` with its ids.
fn check_template(value: &Value, part: &str) -> Result<(), String> {
    let listed = value.get("special_tokens").and_then(Value::as_object);
    let pieces = ["single", "pair"]
        .iter()
        .filter_map(|key| value.get(key)?.as_array())
        .flatten();
    for piece in pieces {
        let name = piece
            .get("SpecialToken")
            .and_then(|token| token.get("id")?.as_str());
        if let Some(name) = name.filter(|name| !listed.is_some_and(|l| l.contains_key(*name))) {
            return Err(format!(
                "{part}: the template names {name:?}, which special_tokens lacks"
            ));
        }
    }
    let has_ids = |token: &Value| {
        let ids = token.get("ids").and_then(Value::as_array);
        ids.is_some_and(|ids| !ids.is_empty())
    };
    match listed
        .into_iter()
        .flatten()
        .find(|(_, token)| !has_ids(token))
    {
        Some((name, _)) => Err(format!("{part}: special_tokens gives {name:?} no id")),
        None => Ok(()),
    }
}
