//! Bytes of tokens, and character-safe ranges over them.

use std::path::Path;

use tokenizers::DecoderWrapper;

use super::sentencepiece;
use crate::LmError;

/// The encoding of bytes in a vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alphabet {
    /// A printable character for each byte, as in GPT-2.
    ByteLevel,
    /// Text, spaces as `▁`, single bytes as `<0xNN>`.
    SentencePiece,
    /// Text as it is.
    Exact,
}

impl Alphabet {
    /// The alphabet that a tokenizer's decoder undoes.
    pub(super) fn of(inner: &tokenizers::Tokenizer, path: &Path) -> Result<Self, LmError> {
        let decoder = serde_json::to_value(inner.get_decoder()).unwrap_or_default();
        match inner.get_decoder() {
            Some(DecoderWrapper::ByteLevel(_)) => Ok(Self::ByteLevel),
            Some(DecoderWrapper::Fuse(_)) => Ok(Self::Exact),
            _ if sentencepiece::is_decoder(&decoder) => Ok(Self::SentencePiece),
            _ => {
                let reason = "this kind of tokenizer is not supported, only byte-level BPE, SentencePiece-style BPE \
                              and closed vocabularies";
                Err(LmError::UnsupportedTokenizer {
                    path: path.to_owned(),
                    reason: reason.to_owned(),
                })
            }
        }
    }
}

/// The exact bytes of every token of a vocabulary, in one buffer.
#[derive(Clone, Debug)]
pub(super) struct TokenBytes {
    buffer: Vec<u8>,
    ends: Vec<usize>,
}

impl TokenBytes {
    /// Spells every token of a vocabulary.
    pub(super) fn of(
        inner: &tokenizers::Tokenizer,
        alphabet: Alphabet,
        path: &Path,
    ) -> Result<Self, LmError> {
        let added = inner.get_added_tokens_decoder();
        let mut spelled: Vec<(u32, Vec<u8>)> = Vec::new();
        for (token, id) in inner.get_vocab(true) {
            let bytes = match alphabet {
                Alphabet::SentencePiece if !added.get(&id).is_some_and(|token| token.special) => {
                    sentencepiece::bytes(&token)
                }
                _ if added.contains_key(&id) => token.into_bytes(),
                Alphabet::ByteLevel => byte_level_bytes(&token),
                Alphabet::Exact | Alphabet::SentencePiece => token.into_bytes(),
            };
            spelled.push((id, bytes));
        }
        spelled.sort_unstable_by_key(|(id, _)| *id);
        if spelled
            .last()
            .is_some_and(|(id, _)| *id as usize >= 2 * spelled.len() + MAX_GAP)
        {
            let reason = "token ids are far beyond the number of tokens".to_owned();
            return Err(LmError::UnsupportedTokenizer {
                path: path.to_owned(),
                reason,
            });
        }
        if let Some(pair) = spelled.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(LmError::UnsupportedTokenizer {
                path: path.to_owned(),
                reason: format!("two tokens have the id {}", pair[0].0),
            });
        }
        let (mut buffer, mut ends) = (Vec::new(), Vec::new());
        for (id, token) in spelled {
            ends.resize(id as usize, buffer.len());
            buffer.extend_from_slice(&token);
            ends.push(buffer.len());
        }
        Ok(Self { buffer, ends })
    }

    /// A token's bytes; nothing for ids outside the vocabulary.
    pub(super) fn of_token(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let start = match id {
            0 => 0,
            _ => self.ends.get(id - 1).copied().unwrap_or(self.buffer.len()),
        };
        let end = self.ends.get(id).copied().unwrap_or(start);
        &self.buffer[start..end]
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }
}

const MAX_GAP: usize = 1 << 16;

/// Joins tokens into a text and gives each its byte range in it.
///
/// Each maximal run of an incomplete UTF-8 character becomes one U+FFFD. A boundary inside a
/// character moves to the character's start, so a character belongs to the last token that has a
/// part of it.
pub(super) fn spell<'t>(tokens: impl Iterator<Item = &'t [u8]>) -> (String, Vec<(usize, usize)>) {
    let (mut raw, mut ends) = (Vec::new(), Vec::new());
    for token in tokens {
        raw.extend_from_slice(token);
        ends.push(raw.len());
    }
    let mut text = String::with_capacity(raw.len());
    // Positions in `raw` at which a character of `text` ends, as (raw, text).
    let mut marks = vec![(0, 0)];
    let mut at = 0;
    for chunk in raw.utf8_chunks() {
        for c in chunk.valid().chars() {
            text.push(c);
            at += c.len_utf8();
            marks.push((at, text.len()));
        }
        if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            at += chunk.invalid().len();
            marks.push((at, text.len()));
        }
    }
    let mut spans = Vec::with_capacity(ends.len());
    let (mut start, mut mark) = (0, 0);
    for end in ends {
        while mark + 1 < marks.len() && marks[mark + 1].0 <= end {
            mark += 1;
        }
        spans.push((start, marks[mark].1));
        start = marks[mark].1;
    }
    (text, spans)
}

/// Ranges without gaps or overlaps from a tokenizer's own ranges, which repeat a character that
/// tokens share.
pub(super) fn char_spans(offsets: &[(usize, usize)], length: usize) -> Vec<(usize, usize)> {
    let mut spans = Vec::with_capacity(offsets.len());
    let mut start = 0;
    for (index, _) in offsets.iter().enumerate() {
        let next = offsets.get(index + 1).map_or(length, |next| next.0);
        let end = next.max(start);
        spans.push((start, end));
        start = end;
    }
    spans
}

/// Decodes GPT-2's printable alphabet; a token with other characters is taken as UTF-8.
fn byte_level_bytes(token: &str) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The byte of a character of GPT-2's alphabet.
///
/// Printable Latin-1 characters are their own bytes; the other 68 bytes, in order, are U+0100 and
/// following.
fn byte_of(c: char) -> Option<u8> {
    let printable = |code: u32| matches!(code, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let code = u32::from(c);
    if printable(code) {
        return u8::try_from(code).ok();
    }
    let index = code.checked_sub(0x100)?;
    (0..=u8::MAX)
        .filter(|&byte| !printable(u32::from(byte)))
        .nth(index as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet_has_each_byte_once() {
        let mut bytes: Vec<u8> = (0..0x200)
            .filter_map(char::from_u32)
            .filter_map(byte_of)
            .collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(byte_level_bytes("Ġcafé"), b" caf\xe9");
        assert_eq!(byte_level_bytes("a b"), b"a b");
    }

    /// The four bytes of one character in three tokens, then a broken byte, then text.
    #[test]
    fn shared_characters_belong_to_their_last_token() {
        let crab = "🦀".as_bytes();
        let tokens = [
            b"a".as_slice(),
            &crab[..1],
            &crab[1..3],
            &crab[3..],
            b"\xff",
            b"b\xe2\x82",
            b"!",
        ];
        let (text, spans) = spell(tokens.into_iter());
        assert_eq!(text, "a🦀\u{fffd}b\u{fffd}!");
        assert_eq!(
            spans,
            [(0, 1), (1, 1), (1, 1), (1, 5), (5, 8), (8, 12), (12, 13)]
        );
        assert_eq!(text.len(), 13);
    }

    #[test]
    fn repeated_ranges_become_a_partition() {
        assert_eq!(
            char_spans(&[(0, 4), (0, 4), (4, 5), (5, 8)], 8),
            [(0, 0), (0, 4), (4, 5), (5, 8)]
        );
        assert_eq!(char_spans(&[(1, 3), (4, 5)], 6), [(0, 4), (4, 6)]);
    }
}
