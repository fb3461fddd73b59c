//! The GPU side of [`crate::grouped_attention()`]. The tiles of queries and of keys are computed
//! once per layout.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Result as CandleResult, Tensor};

use super::attach::{Gradients, attach3};
use super::launch::{Fresh, Launch};
use crate::{AttentionLayout, Branch, HeadShape};

const THREADS: usize = 128;
/// Queries of one work item of a tile of keys. The limit spreads long groups over the device.
const QUERIES: usize = 512;

/// The kernels' variant for a head size: values per head, rounded up, and rows of a tile.
fn variant(head_dim: usize) -> CandleResult<(usize, usize)> {
    match head_dim {
        0..=32 => Ok((32, 32)),
        33..=64 => Ok((64, 32)),
        65..=128 => Ok((128, 16)),
        _ => candle_core::bail!("attention kernels take heads of up to 128 values, not {head_dim}"),
    }
}

/// The name of an attention kernel for a head size.
pub(super) fn kernel(name: &str, head_dim: usize) -> CandleResult<String> {
    Ok(format!("{name}_{}", variant(head_dim)?.0))
}

/// The kernels' tables for a layout.
#[derive(Clone)]
pub(crate) struct Tiles {
    /// `[count, 5]`: first row, rows, first range, end of ranges, first own row of the span.
    queries: Tensor,
    /// `[count, 2]`: first and end row of the keys that come before a span: its prompt, shared
    /// rows.
    ranges: Tensor,
    /// `[count, 4]`: first key, keys, first query, end of queries.
    items: Tensor,
    /// `[count, 4]`: first key, keys, first item, end of items.
    keys: Tensor,
}

/// The tiles of a layout, before they are on a device.
#[derive(Debug, Default, PartialEq)]
pub(super) struct TileLists {
    pub(super) queries: Vec<[u32; 5]>,
    pub(super) ranges: Vec<[u32; 2]>,
    pub(super) items: Vec<[u32; 4]>,
    pub(super) keys: Vec<[u32; 4]>,
}

impl TileLists {
    pub(super) fn new(layout: &AttentionLayout, tile_rows: usize) -> Self {
        let mut lists = Self::default();
        for group in layout.groups() {
            let (prompt, last) = (&group.prompt, group.completions.last());
            let end = last.map_or(prompt.end, |last| last.own.end);
            lists.add_queries(&[], prompt, tile_rows);
            lists.add_keys(prompt, end, &[], tile_rows);
            for (index, branch) in group.completions.iter().enumerate() {
                let mut before = vec![prompt.clone()];
                before.extend_from_slice(&branch.shared);
                lists.add_queries(&before, &branch.own, tile_rows);
                let later = &group.completions[index + 1..];
                lists.add_keys(&branch.own, branch.own.end, later, tile_rows);
            }
        }
        lists
    }

    /// Tiles of the queries `own`, which attend to the rows `before` and to their own up to
    /// themselves.
    fn add_queries(&mut self, before: &[Range<usize>], own: &Range<usize>, tile_rows: usize) {
        let first_range = self.ranges.len();
        let ranges = before.iter().map(|rows| [rows.start, rows.end]);
        self.ranges
            .extend(ranges.map(|range| range.map(|n| n as u32)));
        for first in own.clone().step_by(tile_rows) {
            let rows = tile_rows.min(own.end - first);
            let query = [first, rows, first_range, self.ranges.len(), own.start];
            self.queries.push(query.map(|n| n as u32));
        }
    }

    /// Tiles of the keys `own`. The rows from a key to `seen_until` attend to it, and those of
    /// later completions that share it.
    fn add_keys(
        &mut self,
        own: &Range<usize>,
        seen_until: usize,
        later: &[Branch],
        tile_rows: usize,
    ) {
        for first in own.clone().step_by(tile_rows) {
            let rows = tile_rows.min(own.end - first);
            let first_item = self.items.len();
            self.add_items(first, rows, first..seen_until);
            for branch in later {
                let shared = branch.shared.iter().find(|shared| shared.contains(&first));
                if let Some(shared) = shared {
                    self.add_items(first, rows.min(shared.end - first), branch.own.clone());
                }
            }
            let key = [first, rows, first_item, self.items.len()];
            self.keys.push(key.map(|n| n as u32));
        }
    }

    fn add_items(&mut self, first: usize, rows: usize, queries: Range<usize>) {
        for start in queries.clone().step_by(QUERIES) {
            let item = [first, rows, start, queries.end.min(start + QUERIES)];
            self.items.push(item.map(|n| n as u32));
        }
    }
}

impl Tiles {
    fn of(layout: &AttentionLayout, head_dim: usize, device: &Device) -> CandleResult<Self> {
        let (_, tile_rows) = variant(head_dim)?;
        layout.tiles.get((device.location(), tile_rows), || {
            let lists = TileLists::new(layout, tile_rows);
            Ok(Self {
                queries: table(&lists.queries, device)?,
                ranges: ranges(&lists.ranges, device)?,
                items: table(&lists.items, device)?,
                keys: table(&lists.keys, device)?,
            })
        })
    }
}

fn table<const N: usize>(rows: &[[u32; N]], device: &Device) -> CandleResult<Tensor> {
    Tensor::from_slice(rows.as_flattened(), (rows.len(), N), device)
}

/// A table of at least one row, since kernels need one even if no tile refers to it.
fn ranges(rows: &[[u32; 2]], device: &Device) -> CandleResult<Tensor> {
    match rows {
        [] => table(&[[0, 0]], device),
        rows => table(rows, device),
    }
}

/// [`crate::grouped_attention()`] for f32 or bf16.
pub(crate) fn grouped_attention(
    [q, k, v]: [&Tensor; 3],
    layout: &Arc<AttentionLayout>,
    shape: HeadShape,
) -> CandleResult<Tensor> {
    let (dtype, device, rows) = (q.dtype(), q.device(), layout.rows());
    let tiles = Tiles::of(layout, shape.head_dim, device)?;
    let out = Fresh::like(q)?;
    let normalisers = Fresh::new(device, DType::F32, (shape.heads, rows))?.tensor();
    let grid = [tiles.queries.dims()[0], shape.heads, 1];
    let mut launch = Launch::new(&kernel("attention", shape.head_dim)?, dtype, grid, THREADS)?;
    for input in [q, k, v] {
        launch.tensor(input, dtype)?;
    }
    launch
        .fills(&out)?
        .tensor(&normalisers, DType::F32)?
        .tensor(&tiles.queries, DType::U32)?
        .tensor(&tiles.ranges, DType::U32)?;
    heads(&mut launch, rows, shape)?.run(device)?;
    attach3(
        "grouped_attention",
        [q, k, v],
        out,
        move |inputs, out, grad| {
            let backward = Backward {
                inputs,
                grad,
                normalisers: &normalisers,
                deltas: &deltas(out, grad, shape)?,
                shape,
            };
            backward.gradients(&tiles)
        },
    )
}

/// Adds the last arguments of every attention kernel.
fn heads(launch: &mut Launch, rows: usize, shape: HeadShape) -> CandleResult<&mut Launch> {
    Ok(launch
        .number(rows)?
        .number(shape.heads)?
        .number(shape.kv_heads)?
        .number(shape.head_dim)?
        .float(shape.score_scale()))
}

/// Rowsum of out * grad, `[heads, T]`.
fn deltas(out: &Tensor, grad: &Tensor, shape: HeadShape) -> CandleResult<Tensor> {
    let (rows, _) = out.dims2()?;
    let deltas = Fresh::new(out.device(), DType::F32, (shape.heads, rows))?;
    let grid = [(rows * shape.heads).div_ceil(THREADS / 8), 1, 1];
    Launch::new("attention_deltas", out.dtype(), grid, THREADS)?
        .tensor(out, out.dtype())?
        .tensor(grad, out.dtype())?
        .fills(&deltas)?
        .number(rows)?
        .number(shape.heads)?
        .number(shape.head_dim)?
        .run(out.device())?;
    Ok(deltas.tensor())
}

/// Inputs of the backward pass.
struct Backward<'t> {
    inputs: [&'t Tensor; 3],
    grad: &'t Tensor,
    normalisers: &'t Tensor,
    deltas: &'t Tensor,
    shape: HeadShape,
}

impl Backward<'_> {
    fn gradients(&self, tiles: &Tiles) -> Gradients<3> {
        let dq = self.queries(tiles)?;
        let [dk, dv] = self.keys(tiles)?;
        Ok([Some(dq), Some(dk), Some(dv)])
    }

    /// A launch with all inputs as its first arguments.
    fn launch(&self, name: &str, tiles: usize, heads: usize) -> CandleResult<Launch> {
        let dtype = self.grad.dtype();
        let name = kernel(name, self.shape.head_dim)?;
        let mut launch = Launch::new(&name, dtype, [tiles, heads, 1], THREADS)?;
        for tensor in self.inputs.into_iter().chain([self.grad]) {
            launch.tensor(tensor, dtype)?;
        }
        launch
            .tensor(self.normalisers, DType::F32)?
            .tensor(self.deltas, DType::F32)?;
        Ok(launch)
    }

    fn queries(&self, tiles: &Tiles) -> CandleResult<Tensor> {
        let dq = Fresh::like(self.inputs[0])?;
        let count = tiles.queries.dims()[0];
        let mut launch = self.launch("attention_grad_queries", count, self.shape.heads)?;
        launch
            .fills(&dq)?
            .tensor(&tiles.queries, DType::U32)?
            .tensor(&tiles.ranges, DType::U32)?;
        heads(&mut launch, self.grad.dims()[0], self.shape)?.run(self.grad.device())?;
        Ok(dq.tensor())
    }

    fn keys(&self, tiles: &Tiles) -> CandleResult<[Tensor; 2]> {
        let (device, dtype) = (self.grad.device(), self.grad.dtype());
        let (_, tile_rows) = variant(self.shape.head_dim)?;
        let (items, width) = (tiles.items.dims()[0], self.shape.kv_width());
        let parts = || Fresh::new(device, DType::F32, (items * tile_rows, width));
        let parts = [parts()?, parts()?];
        let mut launch = self.launch("attention_grad_keys", items, self.shape.kv_heads)?;
        launch.fills(&parts[0])?.fills(&parts[1])?;
        launch.tensor(&tiles.items, DType::U32)?;
        heads(&mut launch, self.grad.dims()[0], self.shape)?.run(device)?;
        let sum = |parts: &Fresh| {
            let sums = Fresh::like(self.inputs[1])?;
            let grid = [tiles.keys.dims()[0], tile_rows, 1];
            Launch::new("attention_sum_parts", dtype, grid, THREADS)?
                .fills(parts)?
                .tensor(&tiles.keys, DType::U32)?
                .fills(&sums)?
                .number(tile_rows)?
                .number(width)?
                .run(device)?;
            CandleResult::Ok(sums.tensor())
        };
        Ok([sum(&parts[0])?, sum(&parts[1])?])
    }
}
