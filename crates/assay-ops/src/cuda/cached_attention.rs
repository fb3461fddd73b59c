//! The GPU side of [`crate::cached_attention()`], and the key-value cache on the device.

use candle_core::{DType, Device, Result as CandleResult, Tensor};

use super::grouped_attention::kernel;
use super::launch::{Fresh, Launch};
use super::recording;
use crate::{CacheRow, HeadShape, PromptKeyValues};

const CACHE_THREADS: usize = 128;

/// The rows of [`sequences`].
pub(crate) fn table(rows: &[CacheRow]) -> Vec<[u32; 4]> {
    rows.iter()
        .map(|row| [row.prompt.start, row.prompt.end, row.slot, row.len].map(|n| n as u32))
        .collect()
}

/// The table of sequences that the kernels read, u32 `[S, 4]`: first and end row of the prompt,
/// slot, tokens in the cache.
pub(crate) fn sequences(rows: &[CacheRow], device: &Device) -> CandleResult<Tensor> {
    let table = table(rows);
    let table = Tensor::from_slice(table.as_flattened(), (rows.len(), 4), device)?;
    Ok(recording::input(table, None))
}

/// Writes the newest keys and values `[S, width]` of each sequence into its slot.
pub(crate) fn append(
    [k, v]: [&Tensor; 2],
    [keys, values]: [&Tensor; 2],
    sequences: &Tensor,
) -> CandleResult<()> {
    let (_, capacity, width) = keys.dims3()?;
    let dtype = keys.dtype();
    Launch::new("cache_append", dtype, [k.dims()[0], 1, 1], CACHE_THREADS)?
        .tensor(k, dtype)?
        .tensor(v, dtype)?
        .tensor(keys, dtype)?
        .tensor(values, dtype)?
        .tensor(sequences, DType::U32)?
        .number(capacity)?
        .number(width)?
        .run(keys.device())
}

/// [`crate::cached_attention()`] for f32 or bf16.
pub(crate) fn cached_attention(
    q: &Tensor,
    prompt: PromptKeyValues<'_>,
    cache: [&Tensor; 2],
    sequences: &Tensor,
    shape: HeadShape,
) -> CandleResult<Tensor> {
    let (dtype, device) = (q.dtype(), q.device());
    let out = Fresh::like(q)?;
    let name = kernel("cached_attention", shape.head_dim)?;
    let mut launch = Launch::new(&name, dtype, [q.dims()[0], shape.heads, 1], CACHE_THREADS)?;
    launch.tensor(q, dtype)?;
    for tensor in [prompt.keys, prompt.values].into_iter().chain(cache) {
        launch.tensor(tensor, dtype)?;
    }
    launch
        .fills(&out)?
        .tensor(sequences, DType::U32)?
        .number(cache[0].dims3()?.1)?
        .number(shape.heads)?
        .number(shape.kv_heads)?
        .number(shape.head_dim)?
        .float(shape.score_scale())
        .run(device)?;
    Ok(out.tensor())
}
