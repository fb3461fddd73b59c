//! SentencePiece-style tokenizers (Llama 2, Mistral, Gemma): spaces are written `▁`, a text may
//! begin with one more, and bytes without a token are written `<0xNN>`.

use serde_json::Value;
use tokenizers::PreTokenizerWrapper;

/// A space in the vocabulary.
pub(super) const SPACE: char = '▁';

/// Which texts are tokenized with an additional space before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefix {
    /// None.
    Never,
    /// Every text between control tokens.
    Always,
    /// A text at the very beginning.
    First,
}

/// The rule of a tokenizer's normaliser and pre-tokeniser.
pub(super) fn prefix(inner: &tokenizers::Tokenizer) -> Prefix {
    let normalizer = serde_json::to_value(inner.get_normalizer()).unwrap_or_default();
    if find(&normalizer, "Prepend").is_some() {
        return Prefix::Always;
    }
    let splitting = serde_json::to_value(inner.get_pre_tokenizer()).unwrap_or_default();
    let metaspace = find(&splitting, "Metaspace");
    match metaspace.and_then(|part| part.get(SCHEME)?.as_str()) {
        Some("always") => Prefix::Always,
        Some("first") => Prefix::First,
        _ => Prefix::Never,
    }
}

/// The same pre-tokeniser without the space before a text.
pub(super) fn without_prefix(inner: &tokenizers::Tokenizer) -> Option<PreTokenizerWrapper> {
    let mut splitting = serde_json::to_value(inner.get_pre_tokenizer()).ok()?;
    let part = find_mut(&mut splitting, "Metaspace")?;
    part[SCHEME] = Value::from("never");
    serde_json::from_value(splitting).ok()
}

/// Whether a decoder turns `▁` into spaces.
pub(super) fn is_decoder(decoder: &Value) -> bool {
    let replaces = find(decoder, "Replace").is_some_and(|part| {
        let pattern = part
            .get("pattern")
            .and_then(|pattern| pattern.get("String"));
        pattern.and_then(Value::as_str) == Some("▁")
            && part.get("content").and_then(Value::as_str) == Some(" ")
    });
    replaces || find(decoder, "Metaspace").is_some()
}

/// The bytes of a token.
pub(super) fn bytes(token: &str) -> Vec<u8> {
    let byte = token
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    match byte
        .filter(|digits| digits.len() == 2)
        .map(|digits| u8::from_str_radix(digits, 16))
    {
        Some(Ok(byte)) => vec![byte],
        _ => token.replace(SPACE, " ").into_bytes(),
    }
}

const SCHEME: &str = "prepend_scheme";

/// The first part of a kind: the part itself, or an element if it is a sequence.
fn find<'v>(part: &'v Value, kind: &str) -> Option<&'v Value> {
    if part.get("type").and_then(Value::as_str) == Some(kind) {
        return Some(part);
    }
    let inner = SEQUENCES.iter().find_map(|key| part.get(key)?.as_array());
    inner
        .into_iter()
        .flatten()
        .find_map(|part| find(part, kind))
}

fn find_mut<'v>(part: &'v mut Value, kind: &str) -> Option<&'v mut Value> {
    if part.get("type").and_then(Value::as_str) == Some(kind) {
        return Some(part);
    }
    let key = SEQUENCES.iter().find(|key| part.get(**key).is_some())?;
    let inner = part.get_mut(*key)?.as_array_mut()?;
    inner.iter_mut().find_map(|part| find_mut(part, kind))
}

const SEQUENCES: [&str; 3] = ["normalizers", "pretokenizers", "decoders"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_spelled_by_hand() {
        assert_eq!(bytes("▁the▁▁"), b" the  ");
        assert_eq!(bytes("<0xE2>"), [0xe2]);
        assert_eq!(bytes("<0xE2"), b"<0xE2");
        assert_eq!(bytes("<0xG0>"), b"<0xG0>");
    }
}
