//! The tokenizer of a GGUF file whose vocabulary has scores instead of merges
//! (`tokenizer.ggml.model = "llama"`).
//!
//! SentencePiece joins the two neighbours whose union has the highest score. Merges ordered by the
//! score of their result give the same tokens; transformers converts such vocabularies in this way.

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::{DecoderWrapper, NormalizerWrapper};

use crate::LmError;
use crate::tokenizer::failed;
use crate::weights::GgufFile;

/// Token types of the metadata that no merge produces.
const UNKNOWN: f64 = 2.0;
const CONTROL: f64 = 3.0;
const BYTE: f64 = 6.0;
const SPACE: &str = "▁";

/// Vocabulary, merges and the treatment of spaces.
pub(super) fn build(
    file: &GgufFile,
    tokens: &[String],
    vocabulary: Vocab,
) -> Result<tokenizers::Tokenizer, LmError> {
    let path = file.path();
    let types = super::types(file, tokens)?;
    let scores = match file.numbers("tokenizer.ggml.scores")? {
        Some(scores) if scores.len() == tokens.len() => scores,
        _ => return file.bad("tokenizer.ggml.scores", "one score a token is needed"),
    };
    let unknown = types.iter().position(|kind| *kind == UNKNOWN);
    let merges = merges(tokens, types, scores, &vocabulary);
    let mut builder = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .byte_fallback(true)
        .fuse_unk(true);
    if let Some(id) = unknown {
        builder = builder.unk_token(tokens[id].clone());
    }
    let bpe = builder.build().map_err(failed(
        path,
        "building the tokenizer from tokenizer.ggml.scores",
    ))?;
    let mut inner = tokenizers::Tokenizer::new(bpe);
    let spaces = |from: &str, to: &str| {
        Replace::new(from, to).map_err(failed(path, "building the rule of spaces"))
    };
    // Converters omit the flag if it is on.
    let has_prefix = file
        .flag("tokenizer.ggml.add_space_prefix")?
        .unwrap_or(true);
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    let mut decoders: Vec<DecoderWrapper> = vec![
        spaces(SPACE, " ")?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    if has_prefix {
        normalizers.push(Prepend::new(SPACE.to_owned()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    normalizers.push(spaces(" ", SPACE)?.into());
    inner.with_normalizer(Some(Normalizers::new(normalizers)));
    inner.with_decoder(Some(Decoders::new(decoders)));
    Ok(inner)
}

/// Every pair of tokens whose union is a token, by the union's score, then by the lengths and ids
/// of the two.
fn merges(
    tokens: &[String],
    types: &[f64],
    scores: &[f64],
    vocabulary: &Vocab,
) -> Vec<(String, String)> {
    let is_made = |id: usize| ![UNKNOWN, CONTROL, BYTE].contains(&types[id]);
    let part = |text: &str| {
        let id = *vocabulary.get(text)?;
        is_made(id as usize).then_some(id)
    };
    let mut pairs = Vec::new();
    for (id, token) in tokens.iter().enumerate().filter(|(id, _)| is_made(*id)) {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(l), Some(r)) = (part(left), part(right)) {
                let lengths = (left.chars().count(), right.chars().count());
                pairs.push((scores[id], lengths, (id, l, r), left, right));
            }
        }
    }
    pairs.sort_by(|a, b| {
        let by_score = b.0.total_cmp(&a.0).then(b.1.cmp(&a.1));
        by_score.then(a.2.cmp(&b.2))
    });
    let named = pairs.into_iter();
    named
        .map(|(.., left, right)| (left.to_owned(), right.to_owned()))
        .collect()
}
