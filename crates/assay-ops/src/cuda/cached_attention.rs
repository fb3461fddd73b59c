//! Decoding: the key-value cache on the device, attention of one query a sequence, drawing tokens.

use candle_core::{DType, Device, Result as CandleResult, Tensor};

use super::grouped_attention::kernel;
use super::launch::{Fresh, Launch};
use super::recording;
use crate::{CacheRow, DrawSettings, HeadShape};

const CACHE_THREADS: usize = 128;
const DRAW_THREADS: usize = 512;

/// The rows of [`sequences`].
pub(crate) fn table(rows: &[CacheRow]) -> Vec<[u32; 4]> {
    rows.iter()
        .map(|row| [row.prompt.start, row.prompt.end, row.slot, row.len].map(|n| n as u32))
        .collect()
}

/// The table of sequences that the kernels read, u32 `[S, 4]`: first and end row of the prompt, slot, tokens in the cache.
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

/// [`crate::cached_attention`] for f32 or bf16.
pub(crate) fn cached_attention(
    q: &Tensor,
    prompt: [&Tensor; 2],
    cache: [&Tensor; 2],
    sequences: &Tensor,
    shape: HeadShape,
) -> CandleResult<Tensor> {
    let (dtype, device) = (q.dtype(), q.device());
    let out = Fresh::like(q)?;
    let name = kernel("cached_attention", shape.head_dim)?;
    let mut launch = Launch::new(&name, dtype, [q.dims()[0], shape.heads, 1], CACHE_THREADS)?;
    launch.tensor(q, dtype)?;
    for tensor in prompt.into_iter().chain(cache) {
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

/// One token a row of f32 logits `[S, V]`: ids u32, log-probabilities under the sampling distribution and under the policy.
pub(crate) fn draw_tokens(
    logits: &Tensor,
    uniforms: &[f64],
    settings: DrawSettings,
) -> CandleResult<[Tensor; 3]> {
    let (rows, words) = logits.dims2()?;
    let device = logits.device();
    let inverse_temperature = match settings.temperature {
        0.0 => 0.0,
        temperature => 1.0 / temperature as f32,
    };
    let uniforms = recording::input(Tensor::from_slice(uniforms, rows, device)?, None);
    let tokens = Fresh::new(device, DType::U32, rows)?;
    let (sampling, policy) = (
        Fresh::new(device, DType::F32, rows)?,
        Fresh::new(device, DType::F32, rows)?,
    );
    Launch::new("draw_tokens", DType::F32, [rows, 1, 1], DRAW_THREADS)?
        .tensor(logits, DType::F32)?
        .tensor(&uniforms, DType::F64)?
        .fills(&tokens)?
        .fills(&sampling)?
        .fills(&policy)?
        .number(words)?
        .float(inverse_temperature)
        .double(settings.top_p)
        .number(settings.top_k)?
        .run(device)?;
    Ok([tokens.tensor(), sampling.tensor(), policy.tensor()])
}
