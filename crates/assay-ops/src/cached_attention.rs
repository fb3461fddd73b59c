//! Attention of one new token per sequence over a shared prompt and the sequence's own cache.

use std::ops::Range;

use candle_core::{DType, Device, DeviceLocation, Tensor};

use crate::cuda::memo::Memo;
use crate::heads::check_inputs;
use crate::values::{Values, expect, zeros};
use crate::{HeadShape, OpsError, cpu, cuda, has_kernels};

const NAME: &str = "cached_attention";

/// Keys and values of the completions being sampled, for one layer: `[slots, capacity, kv_width]`
/// each, allocated on the model's device; f32, on a GPU also bf16.
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

/// The rows of one decoding pass and the keys that each attends to. They are copied to the device
/// once per pass, not once per layer.
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

    /// The table that the kernels read, `[S, 4]` flat: the input of a recorded pass.
    pub fn table(&self) -> Vec<u32> {
        cuda::cached_attention::table(&self.rows)
            .as_flattened()
            .to_vec()
    }

    fn on_device(&self, device: &Device) -> Result<Tensor, OpsError> {
        self.table.get(device.location(), || {
            Ok(cuda::cached_attention::sequences(&self.rows, device)?)
        })
    }
}

/// The keys that one row of queries attends to.
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
    /// [`OpsError::OutOfMemory`] or an error of the device.
    pub fn new(
        slots: usize,
        capacity: usize,
        kv_width: usize,
        device: &Device,
        dtype: DType,
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

    /// Number of sequences that the cache holds.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Number of tokens that a sequence may have.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Checks that the prompt rows, slots and tokens of `rows` exist.
    ///
    /// # Errors
    /// [`OpsError::Index`] names the first that does not exist.
    pub fn check(&self, rows: &CacheRows, prompt_rows: usize) -> Result<(), OpsError> {
        rows.rows.iter().enumerate().try_for_each(|(index, row)| {
            check_index(NAME, "prompt row", index, row.prompt.end, prompt_rows + 1)?;
            check_index(NAME, "slot", index, row.slot, self.slots)?;
            check_index(NAME, "token", index, row.len, self.capacity + 1)
        })
    }

    /// Writes row i of `k` and `v` (`[S, kv_width]`) into the slot of row i, as its last token.
    ///
    /// # Errors
    /// Shapes that do not fit, a slot or a token outside the cache. The cache does not change then.
    pub fn append(&mut self, k: &Tensor, v: &Tensor, rows: &CacheRows) -> Result<(), OpsError> {
        const APPEND: &str = "append to the cache";
        expect(APPEND, "k", k, &[rows.rows.len(), self.width])?;
        expect(APPEND, "v", v, &[rows.rows.len(), self.width])?;
        for (index, row) in rows.rows.iter().enumerate() {
            check_index(APPEND, "slot", index, row.slot, self.slots)?;
            let token = row.len.wrapping_sub(1);
            check_index(APPEND, "token", index, token, self.capacity)?;
        }
        let (k, v) = (k.contiguous()?, v.contiguous()?);
        let (keys, values) = match &mut self.store {
            Store::Host { keys, values } => (keys, values),
            Store::Device { keys, values } => {
                let table = rows.on_device(k.device())?;
                return Ok(cuda::cached_attention::append(
                    [&k, &v],
                    [keys, values],
                    &table,
                )?);
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

/// Keys and values of the prompts, `[P, kv_width]` each.
#[derive(Clone, Copy, Debug)]
pub struct PromptKeyValues<'a> {
    /// Keys, already rotated.
    pub keys: &'a Tensor,
    /// Values.
    pub values: &'a Tensor,
}

/// Returns softmax(q k^T / sqrt(head_dim)) v of one query row per sequence over its prompt and its
/// cached tokens.
///
/// # Shapes
/// q and the result `[S, heads * head_dim]`, keys and values of the prompt
/// `[P, kv_heads * head_dim]`; f32, on a GPU also bf16. No gradients.
///
/// # Errors
/// Shapes that do not fit, a row that names rows, slots or tokens that do not exist, tracked
/// inputs.
pub fn cached_attention(
    q: &Tensor,
    prompt: PromptKeyValues<'_>,
    cache: &KvCache,
    rows: &CacheRows,
    shape: HeadShape,
) -> Result<Tensor, OpsError> {
    check_rows(q, prompt, cache, rows, shape)?;
    let q = q.contiguous()?;
    let (keys, values) = (&prompt.keys.contiguous()?, &prompt.values.contiguous()?);
    let prompt = PromptKeyValues { keys, values };
    match &cache.store {
        Store::Host { keys, values } => {
            let cache = cpu::cached_attention::Cache {
                keys,
                values,
                capacity: cache.capacity,
                width: cache.width,
            };
            cpu::cached_attention::cached_attention(&q, prompt, cache, &rows.rows, shape)
        }
        Store::Device { keys, values } => {
            let table = rows.on_device(q.device())?;
            let cache = [keys, values];
            Ok(cuda::cached_attention::cached_attention(
                &q, prompt, cache, &table, shape,
            )?)
        }
    }
}

/// Checks all arguments.
fn check_rows(
    q: &Tensor,
    prompt: PromptKeyValues<'_>,
    cache: &KvCache,
    rows: &CacheRows,
    shape: HeadShape,
) -> Result<(), OpsError> {
    let PromptKeyValues { keys, values } = prompt;
    let prompt_rows = keys.dims().first().copied().unwrap_or(0);
    check_inputs(
        NAME,
        [q, keys, values],
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
    for (argument, tensor) in [("q", q), ("prompt keys", keys), ("prompt values", values)] {
        if tensor.track_op() {
            return Err(OpsError::Untracked {
                operation: NAME,
                argument,
            });
        }
    }
    cache.check(rows, prompt_rows)?;
    let has_no_keys = |row: &CacheRow| row.prompt.is_empty() && row.len == 0;
    match rows.rows.iter().position(has_no_keys) {
        Some(row) => Err(OpsError::NoKeys { row }),
        None => Ok(()),
    }
}

fn check_index(
    operation: &'static str,
    index_of: &'static str,
    row: usize,
    index: usize,
    limit: usize,
) -> Result<(), OpsError> {
    if index >= limit {
        return Err(OpsError::Index {
            operation,
            index_of,
            row,
            index,
            limit,
        });
    }
    Ok(())
}
