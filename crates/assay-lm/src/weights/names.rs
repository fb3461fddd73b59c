//! Hugging Face names over a GGUF file's tensors, and the row order of its queries and keys.

use std::sync::Arc;

use assay_ops::{Matrix, QuantisedMatrix};
use candle_core::Tensor;

use super::gguf::{BlockType, GgufFile, TensorEntry};
use super::{check_shape, dense};
use crate::LmError;

const OUTER: [(&str, &str); 4] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
    ("rope_freqs.weight", "rope_freqs.weight"),
];

const INNER: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Every tensor's Hugging Face name, sorted; tensors without one keep the name they have.
pub(super) fn hugging_face_names(file: &GgufFile) -> Vec<String> {
    let mut names: Vec<String> = file
        .tensors()
        .map(|(name, _)| to_hugging_face(name))
        .collect();
    names.sort();
    names
}

/// A matrix by Hugging Face name.
pub(super) fn gguf_matrix(
    file: &GgufFile,
    name: &str,
    shape: [usize; 2],
) -> Result<Matrix, LmError> {
    let entry = find(file, name)?;
    check_shape(file.path(), name, &shape, &entry.shape)?;
    let [out, input] = shape;
    let order = row_order(file, name, out)?;
    let bytes = file.bytes(entry);
    match entry.block_type {
        BlockType::Float(float) => {
            let values = float.widen(bytes);
            let values = match order {
                Some(rows) => rows
                    .iter()
                    .flat_map(|&r| &values[r * input..(r + 1) * input])
                    .copied()
                    .collect(),
                None => values,
            };
            Ok(Matrix::Dense(dense(values, &shape)?))
        }
        BlockType::Quantised(dtype) => {
            let matrix = QuantisedMatrix::new(dtype, out, input, bytes)?;
            let matrix = match order {
                Some(rows) => matrix.select_rows(&rows)?,
                None => matrix,
            };
            Ok(Matrix::Quantised(Arc::new(matrix)))
        }
    }
}

/// A vector by Hugging Face name.
pub(super) fn gguf_vector(file: &GgufFile, name: &str, length: usize) -> Result<Tensor, LmError> {
    let entry = find(file, name)?;
    check_shape(file.path(), name, &[length], &entry.shape)?;
    let BlockType::Float(float) = entry.block_type else {
        let reason = "a vector must be f32, f16 or bf16".to_owned();
        return Err(LmError::InvalidWeightFile {
            path: file.path().to_owned(),
            what: name.to_owned(),
            reason,
        });
    };
    dense(float.widen(file.bytes(entry)), &[length])
}

/// For each row in Hugging Face's order, its row in a Llama GGUF file.
///
/// The file interleaves the two halves that a rotation pairs: row `2 i + j` of a head is the published row
/// `j * head_dim / 2 + i`.
pub(super) fn interleaved_rows(heads: usize, head_dim: usize) -> Vec<usize> {
    let half = head_dim / 2;
    let row = |head: usize, r: usize| head * head_dim + 2 * (r % half) + r / half;
    (0..heads)
        .flat_map(|head| (0..head_dim).map(move |r| row(head, r)))
        .collect()
}

fn row_order(file: &GgufFile, name: &str, rows: usize) -> Result<Option<Vec<usize>>, LmError> {
    let key = if name.ends_with("self_attn.q_proj.weight") {
        "llama.attention.head_count"
    } else if name.ends_with("self_attn.k_proj.weight") {
        "llama.attention.head_count_kv"
    } else {
        return Ok(None);
    };
    if file.architecture()? != "llama" {
        return Ok(None);
    }
    let heads = match file.unsigned(key)? {
        Some(heads) => heads,
        None => file.require_unsigned("llama.attention.head_count")?,
    };
    if heads == 0 || !rows.is_multiple_of(2 * heads) {
        let reason = format!("{rows} rows do not split into {heads} even heads");
        return Err(LmError::InvalidWeightFile {
            path: file.path().to_owned(),
            what: name.to_owned(),
            reason,
        });
    }
    Ok(Some(interleaved_rows(heads, rows / heads)))
}

fn find<'f>(file: &'f GgufFile, name: &str) -> Result<&'f TensorEntry, LmError> {
    let entry = to_gguf(name).and_then(|name| file.tensor(&name));
    entry.ok_or_else(|| LmError::MissingTensor {
        file: file.path().to_owned(),
        tensor: name.to_owned(),
    })
}

fn to_gguf(name: &str) -> Option<String> {
    if let Some((gguf, _)) = OUTER.iter().find(|(_, published)| *published == name) {
        return Some((*gguf).to_owned());
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, kind) = rest.rsplit_once('.')?;
    let (gguf, _) = INNER.iter().find(|(_, published)| *published == module)?;
    Some(format!("blk.{layer}.{gguf}.{kind}"))
}

fn to_hugging_face(name: &str) -> String {
    if let Some((_, published)) = OUTER.iter().find(|(gguf, _)| *gguf == name) {
        return (*published).to_owned();
    }
    let inner = || {
        let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
        let (module, kind) = rest.rsplit_once('.')?;
        let (_, published) = INNER.iter().find(|(gguf, _)| *gguf == module)?;
        Some(format!("model.layers.{layer}.{published}.{kind}"))
    };
    inner().unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for (gguf, published) in [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("output.weight", "lm_head.weight"),
            (
                "blk.17.attn_q.bias",
                "model.layers.17.self_attn.q_proj.bias",
            ),
            (
                "blk.0.ffn_down.weight",
                "model.layers.0.mlp.down_proj.weight",
            ),
            (
                "blk.3.ffn_norm.weight",
                "model.layers.3.post_attention_layernorm.weight",
            ),
        ] {
            assert_eq!(to_hugging_face(gguf), published);
            assert_eq!(to_gguf(published).as_deref(), Some(gguf));
        }
        assert_eq!(to_gguf("model.layers.0.self_attn.q_norm.weight"), None);
    }

    /// Two heads of width 6: a file's head holds rows 0 3 1 4 2 5 of the published one.
    #[test]
    fn interleaved_rows_by_hand() {
        assert_eq!(
            interleaved_rows(2, 6),
            [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
        );
    }
}
