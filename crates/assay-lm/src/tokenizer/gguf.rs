//! The tokenizer of a GGUF file, rebuilt as published by its family.
//!
//! The metadata has vocabulary, merges and token types, but only a name for the normaliser and the
//! splitting rules. This module restores the published ones: Qwen composes characters (NFC), SmolLM
//! splits every digit. Without them, ids would differ from the original tokenizer on some texts.

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::{Roles, failed};
use crate::LmError;
use crate::weights::GgufFile;

mod sentencepiece;

const QWEN_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Token types of the metadata.
const CONTROL: f64 = 3.0;
const USER_DEFINED: f64 = 4.0;

/// A family's rule for splitting text before merging.
#[derive(Clone, Copy, PartialEq)]
enum Family {
    Gpt2,
    Digits,
    Qwen,
    Llama3,
    /// No splitting: spaces are part of the vocabulary.
    SentencePiece,
}

/// Builds the tokenizer and finds the tokens that have a role.
pub(super) fn build(file: &GgufFile) -> Result<(tokenizers::Tokenizer, Roles), LmError> {
    let family = family(file)?;
    let path = file.path();
    let Some(tokens) = file.texts("tokenizer.ggml.tokens")? else {
        return file.bad("tokenizer.ggml.tokens", "the key is missing");
    };
    let vocabulary: Vocab = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.clone(), id as u32))
        .collect();
    if vocabulary.len() != tokens.len() {
        return file.bad("tokenizer.ggml.tokens", "a token appears twice");
    }
    let mut inner = match family {
        Family::SentencePiece => sentencepiece::build(file, tokens, vocabulary)?,
        _ => byte_level(file, family, vocabulary)?,
    };
    add_tokens(file, &mut inner, tokens)?;
    let roles = roles(file, family, tokens.len())?;
    if let Some(name) = roles
        .bos
        .filter(|_| roles.adds_bos)
        .map(|id| &tokens[id as usize])
    {
        let template = TemplateProcessing::builder()
            .try_single(format!("{name} $A"))
            .and_then(|builder| builder.try_pair(format!("{name} $A {name}:1 $B:1")))
            .map_err(|reason| reason.into())
            .map_err(failed(path, "building the beginning of text"))?
            .special_tokens(vec![(name.clone(), roles.bos.unwrap_or_default())])
            .build()
            .map_err(|source| source.to_string().into())
            .map_err(failed(path, "building the beginning of text"))?;
        inner.with_post_processor(Some(template));
    }
    Ok((inner, roles))
}

/// Byte-level BPE with the splitting rule of a family.
fn byte_level(
    file: &GgufFile,
    family: Family,
    vocabulary: Vocab,
) -> Result<tokenizers::Tokenizer, LmError> {
    let path = file.path();
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary, merges(file)?)
        .ignore_merges(family == Family::Llama3)
        .build()
        .map_err(failed(
            path,
            "building the tokenizer from tokenizer.ggml.merges",
        ))?;
    let mut inner = tokenizers::Tokenizer::new(bpe);
    if family == Family::Qwen {
        inner.with_normalizer(Some(NFC));
    }
    inner.with_pre_tokenizer(Some(
        pre_tokenizer(family).map_err(failed(path, "building the splitting rule"))?,
    ));
    inner.with_decoder(Some(ByteLevel::new(false, false, false)));
    Ok(inner)
}

fn family(file: &GgufFile) -> Result<Family, LmError> {
    let unsupported = |reason: String| {
        Err(LmError::UnsupportedTokenizer {
            path: file.path().to_owned(),
            reason,
        })
    };
    match file.text("tokenizer.ggml.model")? {
        Some("gpt2") => {}
        Some("llama") => return Ok(Family::SentencePiece),
        other => {
            let name = other.unwrap_or("(none)");
            return unsupported(format!(
                "tokenizer.ggml.model {name:?} is not supported, only \"gpt2\" (byte-level BPE) and \"llama\" \
                 (SentencePiece-style BPE)"
            ));
        }
    }
    match file.text("tokenizer.ggml.pre")?.unwrap_or("default") {
        "default" => by_vocabulary(file),
        "gpt-2" => Ok(Family::Gpt2),
        "smollm" | "starcoder" | "refact" => Ok(Family::Digits),
        "qwen2" | "deepseek-r1-qwen" => Ok(Family::Qwen),
        "llama-bpe" | "llama3" | "llama-v3" => Ok(Family::Llama3),
        other => unsupported(format!(
            "tokenizer.ggml.pre {other:?} is not supported; supported are default, gpt-2, smollm, qwen2, llama-bpe"
        )),
    }
}

/// The family of a file that names none. Old files lack `tokenizer.ggml.pre`, and a Llama 3 or Qwen
/// vocabulary with GPT-2's splitting rule gives other tokens than the model was trained on.
fn by_vocabulary(file: &GgufFile) -> Result<Family, LmError> {
    let tokens = file.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
    let has = |name: &str| tokens.iter().any(|token| token == name);
    if has("<|begin_of_text|>") && (has("<|eot_id|>") || has("<|end_of_text|>")) {
        return Ok(Family::Llama3);
    }
    match file.text("general.architecture")? {
        Some("qwen2" | "qwen3") => Ok(Family::Qwen),
        _ => Ok(Family::Gpt2),
    }
}

fn merges(file: &GgufFile) -> Result<Vec<(String, String)>, LmError> {
    let Some(list) = file.texts("tokenizer.ggml.merges")? else {
        return file.bad("tokenizer.ggml.merges", "the key is missing");
    };
    let mut merges = Vec::with_capacity(list.len());
    for (rank, line) in list.iter().enumerate() {
        match line.split_once(' ') {
            Some((left, right)) if !left.is_empty() && !right.is_empty() => {
                merges.push((left.to_owned(), right.to_owned()));
            }
            _ => {
                return file.bad(
                    "tokenizer.ggml.merges",
                    format!("merge {rank} {line:?} is not a pair"),
                );
            }
        }
    }
    Ok(merges)
}

fn pre_tokenizer(family: Family) -> tokenizers::Result<PreTokenizerWrapper> {
    let split = |pattern: &str| {
        let pattern = SplitPattern::Regex(pattern.to_owned());
        Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
    };
    let by_bytes = |use_regex| PreTokenizerWrapper::from(ByteLevel::new(false, false, use_regex));
    let first: PreTokenizerWrapper = match family {
        Family::Gpt2 | Family::SentencePiece => return Ok(by_bytes(true)),
        Family::Digits => {
            return Ok(Sequence::new(vec![Digits::new(true).into(), by_bytes(true)]).into());
        }
        Family::Qwen => split(QWEN_SPLIT)?.into(),
        Family::Llama3 => split(LLAMA3_SPLIT)?.into(),
    };
    Ok(Sequence::new(vec![first, by_bytes(false)]).into())
}

fn add_tokens(
    file: &GgufFile,
    inner: &mut tokenizers::Tokenizer,
    tokens: &[String],
) -> Result<(), LmError> {
    let types = types(file, tokens)?;
    let added: Vec<AddedToken> = tokens
        .iter()
        .zip(types)
        .filter(|(_, kind)| **kind == CONTROL || **kind == USER_DEFINED)
        .map(|(token, kind)| AddedToken::from(token.clone(), *kind == CONTROL).normalized(false))
        .collect();
    inner.add_tokens(&added);
    Ok(())
}

/// The type of every token.
fn types<'f>(file: &'f GgufFile, tokens: &[String]) -> Result<&'f [f64], LmError> {
    let key = "tokenizer.ggml.token_type";
    match file.numbers(key)? {
        Some(types) if types.len() == tokens.len() => Ok(types),
        Some(types) => file.bad(
            key,
            format!("{} types for {} tokens", types.len(), tokens.len()),
        ),
        None => file.bad(key, "the key is missing"),
    }
}

fn roles(file: &GgufFile, family: Family, vocab_size: usize) -> Result<Roles, LmError> {
    let token = |key: &str| match file.unsigned(key)? {
        Some(id) if id >= vocab_size => file.bad(
            key,
            format!("{id} is outside the vocabulary of {vocab_size}"),
        ),
        id => Ok(id.map(|id| id as u32)),
    };
    let bos = token("tokenizer.ggml.bos_token_id")?;
    // Converters omit the flag if it has the family's default.
    let adds_bos = file
        .flag("tokenizer.ggml.add_bos_token")?
        .unwrap_or(matches!(family, Family::Llama3 | Family::SentencePiece));
    Ok(Roles {
        bos,
        eos: token("tokenizer.ggml.eos_token_id")?,
        pad: token("tokenizer.ggml.padding_token_id")?,
        adds_bos: adds_bos && bos.is_some(),
    })
}
