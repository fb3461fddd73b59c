//! Attention of one new token a sequence over a shared prompt and the sequence's own cache.

use std::ops::Range;

use candle_core::{DType, Device, DeviceLocation, Tensor};
use rayon::prelude::*;

use crate::cpu::routines::softmax::{KeyValues, Softmax, key_blocks};
use crate::heads::check_inputs;
use crate::cuda::memo::Memo;
use crate::values::{Values, expect, zeros};
use crate::{HeadShape, OpsError, cuda, has_kernels};

const NAME: &str = "cached_attention";

/// Keys and values of the completions being sampled, one layer: `[slots, capacity, kv_width]` each, preallocated where the
/// model is; f32, on a GPU also bf16.
#[derive(Debug)]
pub struct KvCache {
    slots: usize,
    capacity: usize,
    width: usize,
    store: Store,
}

#[derive(Debug)]
enum Store {
    Host { keys: Vec<f32>, values: Vec<f32> },
    Device { keys: Tensor, values: Tensor },
}

/// One decoding step's rows: what each attends to. Brought to the device once a step, not once a layer.
#[derive(Clone, Debug, Default)]
pub struct CacheRows {
    rows: Vec<CacheRow>,
    table: Memo<DeviceLocation, Tensor>,
}

impl CacheRows {
    /// The rows in the order of the queries.
    pub fn new(rows: Vec<CacheRow>) -> Self {
        Self {
            rows,
            table: Memo::default(),
        }
    }

    /// What the kernels read of them, `[S, 4]` flat: the input of a recorded step.
    pub fn table(&self) -> Vec<u32> {
        cuda::cached_attention::table(&self.rows).as_flattened().to_vec()
    }

    fn on_device(&self, device: &Device) -> Result<Tensor, OpsError> {
        self.table.get(device.location(), || {
            Ok(cuda::cached_attention::sequences(&self.rows, device)?)
        })
    }
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
    /// The device has no memory for it.
    pub fn new(
        slots: usize,
        capacity: usize,
        kv_width: usize,
        (device, dtype): (&Device, DType),
    ) -> Result<Self, OpsError> {
        let size = slots * capacity * kv_width;
        let store = if !has_kernels(device) {
            Store::Host {
                keys: zeros(size)?,
                values: zeros(size)?,
            }
        } else {
            let zeros = || Tensor::zeros((slots, capacity, kv_width), dtype, device);
            Store::Device {
                keys: zeros()?,
                values: zeros()?,
            }
        };
        Ok(Self {
            slots,
            capacity,
            width: kv_width,
            store,
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

    /// Refuses rows that name prompt rows, slots or tokens that are not there.
    ///
    /// # Errors
    /// [`OpsError::Index`] names the first.
    pub fn check(&self, rows: &CacheRows, prompt_rows: usize) -> Result<(), OpsError> {
        rows.rows.iter().enumerate().try_for_each(|(index, row)| {
            check_index(NAME, "prompt row", (index, row.prompt.end), prompt_rows + 1)?;
            check_index(NAME, "slot", (index, row.slot), self.slots)?;
            check_index(NAME, "token", (index, row.len), self.capacity + 1)
        })
    }

    /// Writes row i of `k` and `v` (`[S, kv_width]`) into the slot of row i, as the last of its tokens.
    ///
    /// # Errors
    /// Shapes that do not fit, a slot or a token outside the cache. Nothing has been written then.
    pub fn append(&mut self, k: &Tensor, v: &Tensor, rows: &CacheRows) -> Result<(), OpsError> {
        const APPEND: &str = "append to the cache";
        expect(APPEND, "k", k, &[rows.rows.len(), self.width])?;
        expect(APPEND, "v", v, &[rows.rows.len(), self.width])?;
        for (index, row) in rows.rows.iter().enumerate() {
            check_index(APPEND, "slot", (index, row.slot), self.slots)?;
            check_index(
                APPEND,
                "token",
                (index, row.len.wrapping_sub(1)),
                self.capacity,
            )?;
        }
        let (k, v) = (k.contiguous()?, v.contiguous()?);
        let (keys, values) = match &mut self.store {
            Store::Host { keys, values } => (keys, values),
            Store::Device { keys, values } => {
                let table = rows.on_device(k.device())?;
                return Ok(cuda::cached_attention::append([&k, &v], [keys, values], &table)?);
            }
        };
        let (k, v) = (Values::of(&k)?, Values::of(&v)?);
        for (index, row) in rows.rows.iter().enumerate() {
            let to = (row.slot * self.capacity + row.len - 1) * self.width;
            let from = index * self.width..(index + 1) * self.width;
            keys[to..to + self.width].copy_from_slice(&k[from.clone()]);
            values[to..to + self.width].copy_from_slice(&v[from]);
        }
        Ok(())
    }
}

/// softmax(q k^T / sqrt(head_dim)) v of one query row a sequence over its prompt and its cached tokens. No gradients.
///
/// # Shapes
/// q and the result `[S, heads * head_dim]`, prompt keys and values `[P, kv_heads * head_dim]`; f32, on a GPU also bf16.
///
/// # Errors
/// Shapes that do not fit, a row that names rows, slots or tokens that are not there, tracked inputs.
pub fn cached_attention(
    q: &Tensor,
    prompt: (&Tensor, &Tensor),
    cache: &KvCache,
    rows: &CacheRows,
    shape: HeadShape,
) -> Result<Tensor, OpsError> {
    check_rows(q, prompt, cache, rows, shape)?;
    let (q, k, v) = (
        q.contiguous()?,
        prompt.0.contiguous()?,
        prompt.1.contiguous()?,
    );
    match &cache.store {
        Store::Host { keys, values } => {
            let read = (keys.as_slice(), values.as_slice());
            attend([&q, &k, &v], (cache, read), &rows.rows, shape)
        }
        Store::Device { keys, values } => {
            let table = rows.on_device(q.device())?;
            let prompt = [&k, &v];
            Ok(cuda::cached_attention::cached_attention(
                &q,
                prompt,
                [keys, values],
                &table,
                shape,
            )?)
        }
    }
}

/// Refuses what does not fit, before anything is computed.
fn check_rows(
    q: &Tensor,
    (prompt_k, prompt_v): (&Tensor, &Tensor),
    cache: &KvCache,
    rows: &CacheRows,
    shape: HeadShape,
) -> Result<(), OpsError> {
    let prompt_rows = prompt_k.dims().first().copied().unwrap_or(0);
    check_inputs(
        NAME,
        [q, prompt_k, prompt_v],
        [rows.rows.len(), prompt_rows],
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
    cache.check(rows, prompt_rows)?;
    let nothing = |row: &CacheRow| row.prompt.is_empty() && row.len == 0;
    match rows.rows.iter().position(nothing) {
        Some(row) => Err(OpsError::NoKeys { row }),
        None => Ok(()),
    }
}

/// The CPU's pass: a task a row and key-value head.
fn attend(
    [q, k, v]: [&Tensor; 3],
    (cache, (keys, values)): (&KvCache, (&[f32], &[f32])),
    rows: &[CacheRow],
    shape: HeadShape,
) -> Result<Tensor, OpsError> {
    let (q, k, v) = (Values::of(q)?, Values::of(k)?, Values::of(v)?);
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
            keys: &keys[own..],
            values: &values[own..],
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
