//! Converts text to token ids and back. It guarantees three properties: text from outside never
//! becomes a control token ([`Tokenizer::encode`]), a token's bytes are exact even if they are only
//! a part of a character ([`Tokenizer::token_bytes`]), and byte offsets of tokens are always on
//! character boundaries. It never adds a beginning-of-text token by itself. Supported are
//! byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM), SentencePiece-style BPE (Llama 2, Mistral, Gemma)
//! and the closed vocabularies of [`Tokenizer::from_vocabulary`]; other kinds are an error.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokenizers::PostProcessorWrapper;

use crate::LmError;
use crate::config::read_json;
use crate::files::read_bounded;
use crate::weights::GgufFile;

mod bytes;
mod control;
mod gguf;
mod outline;
mod sentencepiece;

use bytes::{Alphabet, TokenBytes, char_spans, spell};
use control::{ControlToken, control_tokens, split};
use sentencepiece::Prefix;

pub(crate) use control::Piece;

const TOKENIZER_FILE: &str = "tokenizer.json";
const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
/// Largest `tokenizer.json` that is read; published ones have up to 35 MB.
const MAX_TOKENIZER_BYTES: u64 = 1 << 27;

/// Byte ranges `[start, end)` in a text, one per token.
pub type ByteSpans = Vec<(usize, usize)>;

/// Whether control tokens appear in decoded text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ControlTokens {
    /// Their names are part of the text.
    Keep,
    /// They are left out.
    Skip,
}

/// A tokenizer and the meaning of its control tokens.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    path: PathBuf,
    /// Reads control tokens as plain text; does not truncate, pad or add tokens.
    inner: tokenizers::Tokenizer,
    post_processor: Option<PostProcessorWrapper>,
    prefix: Prefix,
    /// Reads a text that does not begin a prompt, if that differs.
    inside: Option<Box<tokenizers::Tokenizer>>,
    bytes: TokenBytes,
    control: Vec<ControlToken>,
    control_ids: HashSet<u32>,
    roles: Roles,
}

/// The tokens that have a role.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Roles {
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    pub(crate) pad: Option<u32>,
    pub(crate) adds_bos: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a directory or the tokenizer in a `.gguf` file's metadata.
    ///
    /// # Errors
    /// Names the file: missing, malformed, of a kind that is not supported.
    pub fn read(path: &Path) -> Result<Self, LmError> {
        crate::source::ModelSource::open(path)?.tokenizer()
    }

    /// A closed vocabulary: text splits into the longest entries that match; token `i` is
    /// `vocabulary[i]`.
    ///
    /// Entries of the form `<|name|>` and `<unk>` are control tokens; `<unk>` (appended when
    /// absent) replaces text that matches no entry. `<|begin|>`, `<|end|>` and `<|pad|>` take the
    /// roles of their names.
    ///
    /// # Errors
    /// Fails when an entry is empty or appears twice.
    pub fn from_vocabulary(vocabulary: &[&str]) -> Result<Self, LmError> {
        let mut entries = vocabulary.to_vec();
        if !entries.contains(&UNKNOWN) {
            entries.push(UNKNOWN);
        }
        let path = PathBuf::from("built-in vocabulary");
        let distinct: HashSet<&&str> = entries.iter().collect();
        if distinct.len() != entries.len() || entries.contains(&"") {
            let reason = "every entry of a vocabulary must be distinct and not empty".to_owned();
            return Err(LmError::UnsupportedTokenizer { path, reason });
        }
        let text = closed_vocabulary(&entries).to_string();
        let inner = tokenizers::Tokenizer::from_bytes(text)
            .map_err(failed(&path, "building the tokenizer"))?;
        let id = |name: &str| {
            entries
                .iter()
                .position(|entry| *entry == name)
                .map(|id| id as u32)
        };
        let roles = Roles {
            bos: id("<|begin|>"),
            eos: id("<|end|>"),
            pad: id("<|pad|>"),
            adds_bos: false,
        };
        Self::new(path, inner, roles)
    }

    pub(crate) fn from_directory(dir: &Path) -> Result<Self, LmError> {
        let path = dir.join(TOKENIZER_FILE);
        let bytes = read_bounded(&path, MAX_TOKENIZER_BYTES)?;
        outline::check(&bytes, &path)?;
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(failed(&path, "reading the tokenizer"))?;
        neither_pads_nor_cuts(&mut inner, &path)?;
        let settings = dir.join(TOKENIZER_CONFIG_FILE);
        let settings: Value = match settings.is_file() {
            true => read_json(&settings, "tokenizer configuration")?,
            false => Value::Null,
        };
        let token = |key: &str| {
            let value = settings.get(key)?;
            let name = value.as_str().or_else(|| value.get("content")?.as_str())?;
            inner.token_to_id(name)
        };
        let mut roles = Roles {
            bos: token("bos_token"),
            eos: token("eos_token"),
            pad: token("pad_token"),
            adds_bos: false,
        };
        let probe = inner.encode("a", true).map_err(failed(&path, "encoding"))?;
        roles.adds_bos = roles.bos.is_some() && probe.get_ids().first().copied() == roles.bos;
        Self::new(path, inner, roles)
    }

    pub(crate) fn from_gguf(file: &GgufFile) -> Result<Self, LmError> {
        let (inner, roles) = gguf::build(file)?;
        Self::new(file.path().to_owned(), inner, roles)
    }

    fn new(path: PathBuf, mut inner: tokenizers::Tokenizer, roles: Roles) -> Result<Self, LmError> {
        let post_processor = inner.get_post_processor().cloned();
        inner.with_post_processor(None::<PostProcessorWrapper>);
        neither_pads_nor_cuts(&mut inner, &path)?;
        inner.set_encode_special_tokens(true);
        let alphabet = Alphabet::of(&inner, &path)?;
        let bytes = TokenBytes::of(&inner, alphabet, &path)?;
        let prefix = match alphabet {
            Alphabet::SentencePiece => sentencepiece::prefix(&inner),
            Alphabet::ByteLevel | Alphabet::Exact => Prefix::Never,
        };
        let inside = (prefix == Prefix::First).then(|| {
            let mut inside = inner.clone();
            inside.with_pre_tokenizer(sentencepiece::without_prefix(&inner));
            Box::new(inside)
        });
        let control = control_tokens(&inner);
        let control_ids = control.iter().map(|token| token.id).collect();
        Ok(Self {
            path,
            inner,
            post_processor,
            prefix,
            inside,
            bytes,
            control,
            control_ids,
            roles,
        })
    }

    /// Token ids of a text; names of control tokens in it are plain text, and nothing is added.
    ///
    /// # Errors
    /// Fails when the underlying tokenizer does.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, LmError> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(failed(&self.path, "encoding"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Token ids of a rendered template: names of control tokens become control tokens, and nothing
    /// is added.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_special(&self, text: &str) -> Result<Vec<u32>, LmError> {
        let mut ids = Vec::new();
        for (index, piece) in split(text, &self.control).into_iter().enumerate() {
            match piece {
                Piece::Control(id) => ids.push(id),
                Piece::Text(text) => ids.extend(self.encode_piece(text, index)?),
            }
        }
        Ok(ids)
    }

    /// Token ids of the text that is the piece `index` of a rendered template.
    pub(crate) fn encode_piece(&self, text: &str, index: usize) -> Result<Vec<u32>, LmError> {
        let Some(inside) = self.inside.as_ref().filter(|_| index > 0) else {
            return self.encode(text);
        };
        let encoding = inside
            .encode_fast(text, false)
            .map_err(failed(&self.path, "encoding"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Token ids and byte ranges `[start, end)` in `text`, as [`Tokenizer::encode`].
    ///
    /// Ranges are on character boundaries and follow each other without gaps or overlaps. A
    /// character that several tokens share belongs to the last of them.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_offsets(&self, text: &str) -> Result<(Vec<u32>, ByteSpans), LmError> {
        let encoding = self
            .inner
            .encode(text, false)
            .map_err(failed(&self.path, "encoding"))?;
        let ids = encoding.get_ids().to_vec();
        let (decoded, spans) = self.decode_with_offsets(&ids, ControlTokens::Keep);
        if decoded == text {
            return Ok((ids, spans));
        }
        Ok((ids, char_spans(encoding.get_offsets(), text.len())))
    }

    /// The text of token ids; bytes that are no valid UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], control: ControlTokens) -> String {
        self.decode_with_offsets(ids, control).0
    }

    /// The text of token ids and the byte range of each token in it.
    ///
    /// Ranges are as those of [`Tokenizer::encode_with_offsets`]; a token that contributes no
    /// character yet, a skipped control token and an id outside the vocabulary have an empty range.
    /// The space that a SentencePiece-style tokenizer puts before a text is left out.
    pub fn decode_with_offsets(&self, ids: &[u32], control: ControlTokens) -> (String, ByteSpans) {
        let hidden = |id: u32| control == ControlTokens::Skip && self.control_ids.contains(&id);
        let mut is_first = self.prefix != Prefix::Never;
        spell(ids.iter().map(|&id| {
            let bytes = match hidden(id) {
                true => return &[][..],
                false => self.bytes.of_token(id),
            };
            match std::mem::take(&mut is_first) {
                true => bytes.strip_prefix(b" ").unwrap_or(bytes),
                false => bytes,
            }
        }))
    }

    /// The exact bytes of one token, which may be part of a character; none for an id outside the
    /// vocabulary.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        ((id as usize) < self.vocab_size()).then(|| self.bytes.of_token(id))
    }

    /// The tokens whose bytes contain a line break, ascending.
    pub fn line_breaks(&self) -> Vec<u32> {
        let breaks = |id: &u32| {
            let bytes = self.token_bytes(*id);
            bytes.is_some_and(|bytes| bytes.contains(&b'\n'))
        };
        (0..self.vocab_size() as u32).filter(breaks).collect()
    }

    /// The id of a token by its name in the vocabulary.
    pub fn token_id(&self, name: &str) -> Option<u32> {
        self.inner.token_to_id(name)
    }

    /// Whether an id is a control token.
    pub fn is_control(&self, id: u32) -> bool {
        self.control_ids.contains(&id)
    }

    /// One more than the highest id; the model's matrices may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.bytes.len()
    }

    /// The token that begins a text, if one is named.
    pub fn bos(&self) -> Option<u32> {
        self.roles.bos
    }

    /// Whether the model expects [`Tokenizer::bos`] before a text that no template rendered.
    pub fn adds_bos(&self) -> bool {
        self.roles.adds_bos
    }

    /// The token that ends a generation, if one is named.
    pub fn eos(&self) -> Option<u32> {
        self.roles.eos
    }

    /// The padding token, if one is named.
    pub fn pad(&self) -> Option<u32> {
        self.roles.pad
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` into an existing directory, as
    /// transformers loads them.
    ///
    /// # Errors
    /// Names the file that could not be written.
    pub fn save(&self, dir: &Path) -> Result<(), LmError> {
        let mut copy = self.inner.clone();
        copy.with_post_processor(self.post_processor.clone());
        let path = dir.join(TOKENIZER_FILE);
        let text = copy
            .to_string(true)
            .map_err(failed(&path, "writing the tokenizer"))?;
        write(&path, &(text + "\n"))?;
        let mut settings = serde_json::Map::new();
        settings.insert(
            "tokenizer_class".to_owned(),
            json!("PreTrainedTokenizerFast"),
        );
        settings.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
        let roles = [
            ("bos_token", self.roles.bos),
            ("eos_token", self.roles.eos),
            ("pad_token", self.roles.pad),
        ];
        for (key, id) in roles {
            if let Some(name) = id.and_then(|id| self.inner.id_to_token(id)) {
                settings.insert(key.to_owned(), json!(name));
            }
        }
        let text = serde_json::to_string_pretty(&settings).unwrap_or_default() + "\n";
        write(&dir.join(TOKENIZER_CONFIG_FILE), &text)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn pieces<'t>(&self, text: &'t str) -> Vec<Piece<'t>> {
        split(text, &self.control)
    }

    /// The text with `mark` inserted after the first character of each name of a control token.
    pub(crate) fn guard(&self, text: &str, mark: char) -> String {
        let mut guarded = text.to_owned();
        for token in self
            .control
            .iter()
            .filter(|token| text.contains(token.name()))
        {
            guarded = guarded.replace(token.name(), &token.broken_name(mark));
        }
        guarded
    }
}

const UNKNOWN: &str = "<unk>";

/// Removes the file's own padding and truncation, which would change every text.
fn neither_pads_nor_cuts(inner: &mut tokenizers::Tokenizer, path: &Path) -> Result<(), LmError> {
    inner.with_padding(None);
    inner
        .with_truncation(None)
        .map_err(failed(path, "removing the truncation"))?;
    Ok(())
}

fn failed<'p>(
    path: &'p Path,
    what: &'static str,
) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> LmError + use<'p> {
    move |source| LmError::Tokenizer {
        path: path.to_owned(),
        what,
        source,
    }
}

fn write(path: &Path, text: &str) -> Result<(), LmError> {
    fs::write(path, text).map_err(|source| LmError::Io {
        action: "writing",
        path: path.to_owned(),
        source,
    })
}

/// `tokenizer.json` of a closed vocabulary.
fn closed_vocabulary(entries: &[&str]) -> Value {
    let is_control =
        |entry: &str| entry == UNKNOWN || (entry.starts_with("<|") && entry.ends_with("|>"));
    let vocabulary: serde_json::Map<String, Value> = entries
        .iter()
        .enumerate()
        .map(|(id, entry)| ((*entry).to_owned(), json!(id)))
        .collect();
    let added: Vec<Value> = entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| is_control(entry))
        .map(|(id, entry)| {
            json!({"id": id, "content": entry, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let mut words: Vec<&str> = entries
        .iter()
        .copied()
        .filter(|entry| !is_control(entry))
        .collect();
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    // The last alternative splits text that matches no entry into characters. Otherwise the model,
    // which looks pieces up by name, could turn a piece into a control token.
    let words = words.into_iter().map(escape).chain(["[\\s\\S]".to_owned()]);
    let pattern = words.collect::<Vec<_>>().join("|");
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer":
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
        "post_processor": null,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": UNKNOWN},
    })
}

/// A pattern that matches exactly this text.
fn escape(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation() {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}
