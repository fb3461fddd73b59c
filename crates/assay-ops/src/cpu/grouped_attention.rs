//! The CPU side of [`crate::grouped_attention()`]: the operation and its forward pass.

mod backward;
mod chain;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, Layout, Result as CandleResult, Shape, Tensor};
use rayon::prelude::*;

use self::backward::{Inputs, gradients};
use self::chain::Gathered;
use crate::cpu::routines::disjoint::Disjoint;
use crate::cpu::routines::softmax::{
    KeyBlock, KeyValues, QUERIES, Softmax, key_blocks, stack_heads,
};
use crate::values::{Values, slice, zeros};
use crate::{AttentionLayout, Branch, HeadShape, OpsError};

const NAME: &str = "grouped_attention";

/// q, k and v: f32, contiguous; their shapes fit the layout and the heads.
pub(crate) fn grouped_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &Arc<AttentionLayout>,
    shape: HeadShape,
) -> Result<Tensor, OpsError> {
    let operation = GroupedAttention {
        layout: layout.clone(),
        shape,
        log_normalisers: OnceLock::new(),
    };
    Ok(q.apply_op3(k, v, operation)?)
}

struct GroupedAttention {
    layout: Arc<AttentionLayout>,
    shape: HeadShape,
    /// `[kv_heads, heads / kv_heads, T]` flattened: log of the sum of exponentials of each row's
    /// scores.
    log_normalisers: OnceLock<Vec<f32>>,
}

impl CustomOp3 for GroupedAttention {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let (q, k, v) = (
            slice(q, q_layout)?,
            slice(k, k_layout)?,
            slice(v, v_layout)?,
        );
        let (out, normalisers) = forward([q, k, v], &self.layout, self.shape)?;
        let _ = self.log_normalisers.set(normalisers);
        Ok((CpuStorage::F32(out), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let Some(log_normalisers) = self.log_normalisers.get() else {
            candle_core::bail!("{NAME}: backward before forward")
        };
        let (qs, ks, vs) = (Values::of(q)?, Values::of(k)?, Values::of(v)?);
        let (outs, grads) = (Values::of(out)?, Values::of(&grad)?);
        let inputs = Inputs {
            q: &qs,
            k: &ks,
            v: &vs,
            out: &outs,
            grad: &grads,
            log_normalisers,
            shape: self.shape,
        };
        let [dq, dk, dv] = gradients(&inputs, &self.layout)?;
        let of =
            |values: Vec<f32>, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
        Ok((Some(of(dq, q)?), Some(of(dk, k)?), Some(of(dv, v)?)))
    }
}

/// Query rows of one task, the prompt before them and the completion or prompt that contains them.
struct QueryBlock {
    rows: Range<usize>,
    prompt: Option<Range<usize>>,
    span: Branch,
}

fn query_blocks(layout: &AttentionLayout) -> Vec<QueryBlock> {
    let mut blocks = Vec::new();
    for group in layout.groups() {
        let prompt = (None, Branch::from(group.prompt.clone()));
        let after = |span: &Branch| (Some(group.prompt.clone()), span.clone());
        let spans = std::iter::once(prompt).chain(group.completions.iter().map(after));
        for (prompt, span) in spans {
            let own = span.own.clone();
            blocks.extend(own.clone().step_by(QUERIES).map(|start| QueryBlock {
                rows: start..own.end.min(start + QUERIES),
                prompt: prompt.clone(),
                span: span.clone(),
            }));
        }
    }
    blocks
}

/// Scratch of a thread.
#[derive(Default)]
struct Worker {
    softmax: Softmax,
    gathered: Gathered,
    queries: Vec<f32>,
}

/// The result and the log-normalisers.
#[allow(unsafe_code)]
fn forward(
    [q, k, v]: [&[f32]; 3],
    layout: &AttentionLayout,
    shape: HeadShape,
) -> Result<(Vec<f32>, Vec<f32>), OpsError> {
    let (rows, dim, sharing) = (layout.rows(), shape.head_dim, shape.sharing());
    let mut out = zeros(q.len())?;
    let mut normalisers = zeros(rows * shape.heads)?;
    let blocks = query_blocks(layout);
    let (out_parts, normaliser_parts) = (Disjoint::new(&mut out), Disjoint::new(&mut normalisers));
    let tasks = (0..blocks.len() * shape.kv_heads)
        .into_par_iter()
        .with_max_len(1);
    tasks.for_each_init(Worker::default, |worker, task| {
        let (block, kv_head) = (&blocks[task / shape.kv_heads], task % shape.kv_heads);
        let heads = kv_head * sharing..(kv_head + 1) * sharing;
        let width = shape.query_width();
        stack_heads(q, width, &block.rows, &heads, dim, &mut worker.queries);
        let source = KeyValues {
            keys: &k[kv_head * dim..],
            values: &v[kv_head * dim..],
            stride: shape.kv_width(),
        };
        attend(worker, source, block, shape);
        let softmax = &mut worker.softmax;
        let count = block.rows.len();
        for (i, normaliser) in softmax.finish(shape).enumerate() {
            let at = (heads.start + i / count) * rows + block.rows.start + i % count;
            // SAFETY: no other task writes these rows of these heads.
            unsafe { normaliser_parts.slice(at, 1)[0] = normaliser }
        }
        for (i, weighted) in softmax.weighted.chunks_exact(dim).enumerate() {
            let at = (block.rows.start + i % count) * shape.query_width()
                + (heads.start + i / count) * dim;
            // SAFETY: no other task writes these rows of these heads.
            unsafe { out_parts.slice(at, dim).copy_from_slice(weighted) }
        }
    });
    Ok((out, normalisers))
}

/// Adds every block of keys that the query block attends to.
fn attend(worker: &mut Worker, source: KeyValues<'_>, block: &QueryBlock, shape: HeadShape) {
    let Worker {
        softmax,
        gathered,
        queries,
    } = worker;
    let count = block.rows.len();
    softmax.start(count * shape.sharing(), shape);
    for keys in block.prompt.clone().into_iter().flat_map(key_blocks) {
        softmax.take(queries, source.block(&keys), shape, |_| keys.len());
    }
    let first = block.span.shared_len() + block.rows.start - block.span.own.start;
    for keys in key_blocks(0..first + count) {
        let visible = |row: usize| (first + row % count + 1).saturating_sub(keys.start);
        let block = KeyBlock {
            source: gathered.block(source, shape.head_dim, &block.span, &keys),
            count: keys.len(),
        };
        softmax.take(queries, block, shape, visible);
    }
}
