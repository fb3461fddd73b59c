//! Rows of an embedding table.

use std::sync::Arc;

use candle_core::Tensor;

use crate::{Matrix, OpsError, cpu, cuda};

const NAME: &str = "embedding";

/// Returns the rows of a table that `ids` name.
///
/// # Shapes
/// weight `[V, d]`, ids `[T]`, result `[T, d]` f32; on a GPU in the type of the model.
///
/// The gradient reaches a tracked dense table: the sum over equal ids in row order.
///
/// # Errors
/// [`OpsError::Index`] for an id outside the table.
pub fn embedding(weight: &Matrix, ids: &Arc<[u32]>) -> Result<Tensor, OpsError> {
    let (limit, _) = weight.dims()?;
    if let Some(row) = ids.iter().position(|&id| id as usize >= limit) {
        return Err(OpsError::Index {
            operation: NAME,
            index_of: "token id",
            row,
            index: ids[row] as usize,
            limit,
        });
    }
    match weight {
        Matrix::Dense(table) if cuda::takes(table) => {
            Ok(cuda::embedding::embedding(&table.contiguous()?, ids)?)
        }
        Matrix::Quantised(blocks) if blocks.on_device().is_some() => Ok(blocks.device_rows(ids)?),
        _ => cpu::embedding::embedding(weight, ids),
    }
}
