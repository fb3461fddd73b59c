//! Matrices in GGUF block formats on the device: expanded into scratch memory before each product.

use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Result as CandleResult, Tensor};

use super::launch::{Fresh, Launch};
use super::upload;
use crate::Matrix;

/// The blocks of a matrix on the device, row after row.
#[derive(Clone, Debug)]
pub(crate) struct DeviceBlocks {
    pub(crate) format: GgmlDType,
    pub(crate) out: usize,
    pub(crate) input: usize,
    /// u8.
    pub(crate) bytes: Tensor,
}

/// The values of a matrix as a tensor of `dtype`: a dense matrix itself, blocks expanded.
pub(crate) fn dense(matrix: &Matrix, dtype: DType) -> CandleResult<Tensor> {
    match matrix {
        Matrix::Dense(tensor) => tensor.contiguous(),
        Matrix::Panels(_) => candle_core::bail!(
            "a matrix laid out for the processor was used on a device; place the model there first"
        ),
        Matrix::Quantised(blocks) => match blocks.on_device() {
            Some(blocks) => expanded(blocks, None, dtype),
            None => candle_core::bail!(
                "a quantised matrix in the computer's memory was used on a device; place the model there first"
            ),
        },
    }
}

/// [`crate::embedding()`] of a table of blocks.
pub(crate) fn embedding(
    blocks: &DeviceBlocks,
    ids: &Arc<[u32]>,
    dtype: DType,
) -> CandleResult<Tensor> {
    expanded(blocks, Some(ids), dtype)
}

/// All rows, or those named by `ids`.
pub(crate) fn expanded(
    blocks: &DeviceBlocks,
    ids: Option<&Arc<[u32]>>,
    dtype: DType,
) -> CandleResult<Tensor> {
    let device = blocks.bytes.device();
    let kernel = format!("expand_{}", name(blocks.format)?);
    let count = ids.map_or(blocks.out, |ids| ids.len());
    let rows = Fresh::new(device, dtype, (count, blocks.input))?;
    let ids = ids.map(|ids| upload(ids, device)).transpose()?;
    Launch::rows(&kernel, dtype, count)?
        .tensor(&blocks.bytes, DType::U8)?
        .maybe(ids.as_ref(), DType::U32)?
        .fills(&rows)?
        .number(blocks.input)?
        .run(device)?;
    Ok(rows.tensor())
}

/// The kernels' name of a block format.
pub(crate) fn name(format: GgmlDType) -> CandleResult<&'static str> {
    Ok(match format {
        GgmlDType::F32 => "plain_f32",
        GgmlDType::F16 => "plain_f16",
        GgmlDType::BF16 => "plain_bf16",
        GgmlDType::Q4_0 => "q4_0",
        GgmlDType::Q4_1 => "q4_1",
        GgmlDType::Q5_0 => "q5_0",
        GgmlDType::Q5_1 => "q5_1",
        GgmlDType::Q8_0 => "q8_0",
        GgmlDType::Q2K => "q2_k",
        GgmlDType::Q3K => "q3_k",
        GgmlDType::Q4K => "q4_k",
        GgmlDType::Q5K => "q5_k",
        GgmlDType::Q6K => "q6_k",
        GgmlDType::Q8_1 | GgmlDType::Q8K => candle_core::bail!(
            "{format:?} blocks have no kernel; keep the model expanded: storage = \"expanded\""
        ),
    })
}
