//! Hugging Face names over a GGUF file's tensors, and the row order of its queries and keys.

use std::sync::Arc;

use assay_ops::{Matrix, QuantisedMatrix};
use candle_core::Tensor;

use super::gguf::{BlockType, GgufFile, TensorEntry};
use super::{check_shape, dense};
use crate::LmError;
use crate::family::Family;

/// Every tensor's Hugging Face name, sorted; tensors without one keep their own name.
pub(super) fn hugging_face_names(file: &GgufFile) -> Vec<String> {
    let family = family(file);
    let published = |name: &str| family.and_then(|family| family.hugging_face_name(name));
    let mut names: Vec<String> = file
        .tensors()
        .map(|(name, _)| published(name).unwrap_or_else(|| name.to_owned()))
        .collect();
    names.sort();
    names
}

/// Whether the file has an output matrix in addition to the embedding.
pub(super) fn is_untied(file: &GgufFile) -> bool {
    file.tensor("output.weight").is_some()
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
    let in_order = |values: Vec<f32>| match &order {
        Some(rows) => rows
            .iter()
            .flat_map(|&r| &values[r * input..(r + 1) * input])
            .copied()
            .collect(),
        None => values,
    };
    match entry.block_type {
        BlockType::Float(float) => Ok(Matrix::Dense(dense(in_order(float.widen(bytes)), &shape)?)),
        BlockType::Expanded(format) => Ok(Matrix::Dense(dense(
            in_order(format.expand(bytes)),
            &shape,
        )?)),
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
/// The file interleaves the two halves that a rotation pairs: row `2 i + j` of a head is the
/// published row `j * head_dim / 2 + i`.
pub(super) fn interleaved_rows(heads: usize, head_dim: usize) -> Vec<usize> {
    let half = head_dim / 2;
    let row = |head: usize, r: usize| head * head_dim + 2 * (r % half) + r / half;
    (0..heads)
        .flat_map(|head| (0..head_dim).map(move |r| row(head, r)))
        .collect()
}

fn row_order(file: &GgufFile, name: &str, rows: usize) -> Result<Option<Vec<usize>>, LmError> {
    let Some(family) = family(file).filter(|family| family.interleaved_in_gguf) else {
        return Ok(None);
    };
    let all_heads = format!("{}.attention.head_count", family.gguf);
    let heads = if name.ends_with("self_attn.q_proj.weight") {
        file.require_unsigned(&all_heads)?
    } else if name.ends_with("self_attn.k_proj.weight") {
        match file.unsigned(&format!("{all_heads}_kv"))? {
            Some(heads) => heads,
            None => file.require_unsigned(&all_heads)?,
        }
    } else {
        return Ok(None);
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
    let entry = family(file)
        .and_then(|family| family.gguf_name(name))
        .and_then(|name| file.tensor(&name));
    entry.ok_or_else(|| LmError::MissingTensor {
        file: file.path().to_owned(),
        tensor: name.to_owned(),
    })
}

/// The row of the family table that the file names, if any.
fn family(file: &GgufFile) -> Option<&'static Family> {
    Family::of_gguf(file.architecture().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two heads of width 6: a file's head holds rows 0 3 1 4 2 5 of the published one.
    #[test]
    fn interleaved_rows_by_hand() {
        assert_eq!(
            interleaved_rows(2, 6),
            [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
        );
    }
}
