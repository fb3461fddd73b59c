//! The CPU side of [`crate::cached_attention()`].

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::cpu::routines::softmax::{KeyValues, Softmax, key_blocks};
use crate::values::{Values, zeros};
use crate::{CacheRow, HeadShape, OpsError, PromptKeyValues};

/// Keys and values of completions in main memory, `[slots, capacity, width]` each.
#[derive(Clone, Copy)]
pub(crate) struct Cache<'a> {
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
    pub(crate) capacity: usize,
    pub(crate) width: usize,
}

/// q and the prompt are f32 and contiguous; the rows are in the prompt and the cache. A task is one
/// row and key-value head.
pub(crate) fn cached_attention(
    q: &Tensor,
    prompt: PromptKeyValues<'_>,
    cache: Cache<'_>,
    rows: &[CacheRow],
    shape: HeadShape,
) -> Result<Tensor, OpsError> {
    let q = Values::of(q)?;
    let (k, v) = (Values::of(prompt.keys)?, Values::of(prompt.values)?);
    let (q, k, v): (&[f32], &[f32], &[f32]) = (&q, &k, &v);
    let head_values = shape.sharing() * shape.head_dim;
    let mut out = zeros(q.len())?;
    let tasks = out
        .par_chunks_exact_mut(head_values)
        .zip(q.par_chunks_exact(head_values))
        .enumerate();
    tasks.for_each_init(Softmax::default, |softmax, (task, (out, queries))| {
        let (row, head) = (
            &rows[task / shape.kv_heads],
            task % shape.kv_heads * shape.head_dim,
        );
        let own = row.slot * cache.capacity * cache.width + head;
        let prompt = KeyValues {
            keys: k.get(head..).unwrap_or_default(),
            values: v.get(head..).unwrap_or_default(),
            stride: cache.width,
        };
        let own = KeyValues {
            keys: &cache.keys[own..],
            values: &cache.values[own..],
            stride: cache.width,
        };
        softmax.start(shape.sharing(), shape);
        for (source, span) in [(prompt, row.prompt.clone()), (own, 0..row.len)] {
            for keys in key_blocks(span) {
                let block = source.block(&keys);
                softmax.take(queries, block, shape, |_| keys.len());
            }
        }
        let _ = softmax.finish(shape);
        out.copy_from_slice(&softmax.weighted);
    });
    Ok(Tensor::from_vec(
        out,
        (rows.len(), shape.query_width()),
        &Device::Cpu,
    )?)
}
