//! Attention of one new token a sequence over a shared prompt and the sequence's own cache.

use std::ops::Range;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::blocks::{KeyValues, Softmax, key_blocks};
use super::{HeadShape, check_inputs};
use crate::OpsError;
use crate::values::{Values, expect};

const NAME: &str = "cached_attention";

/// Keys and values of the completions being sampled, one layer: `[slots, capacity, kv_width]` f32 each, preallocated.
#[derive(Debug)]
pub struct KvCache {
    slots: usize,
    capacity: usize,
    width: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// What one row of queries attends to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheRow {
    /// Rows of the prompt in the prompt's keys and values.
    pub prompt: Range<usize>,
    /// The sequence's slot in the cache.
    pub slot: usize,
    /// The sequence's own tokens in the cache, this one included.
    pub len: usize,
}

impl KvCache {
    /// An empty cache.
    ///
    /// # Errors
    /// A device other than the CPU.
    pub fn new(
        slots: usize,
        capacity: usize,
        kv_width: usize,
        device: &Device,
    ) -> Result<Self, OpsError> {
        if !device.is_cpu() {
            return Err(
                candle_core::Error::Msg("key-value caches are on the CPU only".to_owned()).into(),
            );
        }
        let size = slots * capacity * kv_width;
        Ok(Self {
            slots,
            capacity,
            width: kv_width,
            keys: vec![0.0; size],
            values: vec![0.0; size],
        })
    }

    /// Sequences the cache holds at one time.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Tokens a sequence may have.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Writes row i of `k` and `v` (`[S, kv_width]` f32) into slot `slots[i]` at token `lens[i]`, the number of the
    /// sequence's tokens already there.
    ///
    /// # Errors
    /// Shapes that do not fit, a slot or a token outside the cache. Nothing has been written then.
    pub fn append(
        &mut self,
        k: &Tensor,
        v: &Tensor,
        slots: &[u32],
        lens: &[u32],
    ) -> Result<(), OpsError> {
        const APPEND: &str = "append to the cache";
        expect(APPEND, "k", k, &[slots.len(), self.width])?;
        expect(APPEND, "v", v, &[slots.len(), self.width])?;
        if lens.len() != slots.len() {
            let (expected, found) = (slots.len(), lens.len());
            return Err(OpsError::Length {
                operation: APPEND,
                argument: "lens",
                expected,
                found,
            });
        }
        for (row, (&slot, &len)) in slots.iter().zip(lens).enumerate() {
            check_index(APPEND, "slot", (row, slot as usize), self.slots)?;
            check_index(APPEND, "token", (row, len as usize), self.capacity)?;
        }
        let (k, v) = (k.contiguous()?, v.contiguous()?);
        let (k, v) = (Values::of(&k)?, Values::of(&v)?);
        for (row, (&slot, &len)) in slots.iter().zip(lens).enumerate() {
            let to = (slot as usize * self.capacity + len as usize) * self.width;
            let from = row * self.width..(row + 1) * self.width;
            self.keys[to..to + self.width].copy_from_slice(&k[from.clone()]);
            self.values[to..to + self.width].copy_from_slice(&v[from]);
        }
        Ok(())
    }
}

/// softmax(q k^T / sqrt(head_dim)) v of one query row a sequence over its prompt and its cached tokens. No gradients.
///
/// # Shapes
/// q and the result `[S, heads * head_dim]`, prompt keys and values `[P, kv_heads * head_dim]`; f32.
///
/// # Errors
/// Shapes that do not fit, a row that names rows, slots or tokens that are not there, tracked inputs.
pub fn cached_attention(
    q: &Tensor,
    prompt: (&Tensor, &Tensor),
    cache: &KvCache,
    rows: &[CacheRow],
    shape: HeadShape,
) -> Result<Tensor, OpsError> {
    let (prompt_k, prompt_v) = prompt;
    let prompt_rows = prompt_k.dims().first().copied().unwrap_or(0);
    check_inputs(
        NAME,
        [q, prompt_k, prompt_v],
        [rows.len(), prompt_rows],
        shape,
    )?;
    if cache.width != shape.kv_width() {
        let (expected, found) = (shape.kv_width(), cache.width);
        return Err(OpsError::Length {
            operation: NAME,
            argument: "a row of the cache",
            expected,
            found,
        });
    }
    for (argument, tensor) in [("q", q), ("prompt_k", prompt_k), ("prompt_v", prompt_v)] {
        if tensor.track_op() {
            return Err(OpsError::Untracked {
                operation: NAME,
                argument,
            });
        }
    }
    for (index, row) in rows.iter().enumerate() {
        check_index(NAME, "prompt row", (index, row.prompt.end), prompt_rows + 1)?;
        check_index(NAME, "slot", (index, row.slot), cache.slots)?;
        check_index(NAME, "token", (index, row.len), cache.capacity + 1)?;
        if row.prompt.is_empty() && row.len == 0 {
            return Err(OpsError::NoKeys { row: index });
        }
    }
    let (q, k, v) = (
        q.contiguous()?,
        prompt_k.contiguous()?,
        prompt_v.contiguous()?,
    );
    let (q, k, v) = (Values::of(&q)?, Values::of(&k)?, Values::of(&v)?);
    let (q, k, v): (&[f32], &[f32], &[f32]) = (&q, &k, &v);
    let head_values = shape.sharing() * shape.head_dim;
    let mut out = vec![0f32; q.len()];
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
                softmax.take(
                    queries,
                    (source.from(keys.start), keys.len()),
                    shape,
                    |_| keys.len(),
                );
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

fn check_index(
    operation: &'static str,
    what: &'static str,
    (row, index): (usize, usize),
    limit: usize,
) -> Result<(), OpsError> {
    if index >= limit {
        return Err(OpsError::Index {
            operation,
            what,
            row,
            index,
            limit,
        });
    }
    Ok(())
}
