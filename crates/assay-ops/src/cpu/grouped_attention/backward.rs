//! The backward pass of attention over packed batches.
//!
//! With P = exp(scale q k^T - log-normaliser), D = rowsum(out * grad) and S = P * (grad v^T - D) *
//! scale: dv = P^T grad, dq = S k, dk = S^T q. A task is one key-value head of a prompt or of a few
//! completions of one group. The gradients that completions add to the keys and values of their
//! prompt and of rows they share are stored per task and added in order.

use std::ops::Range;

use rayon::prelude::*;

use super::chain::Gathered;
use crate::cpu::routines::disjoint::Disjoint;
use crate::cpu::routines::dispatched;
use crate::cpu::routines::exponential::exp;
use crate::cpu::routines::product::{Output, Panels, View, Write};
use crate::cpu::routines::reduce;
use crate::cpu::routines::softmax::{KEYS, KeyBlock, KeyValues, QUERIES, key_blocks, stack_heads};
use crate::values::zeros;
use crate::{AttentionLayout, Branch, HeadShape, OpsError};

/// Number of parts into which a group's completions are split. It is fixed, because each part sums
/// its own share of the prompt's gradients.
const PARTS: usize = 8;

/// Inputs and results of the forward pass, and the gradient at its output.
pub(super) struct Inputs<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) out: &'a [f32],
    pub(super) grad: &'a [f32],
    /// `[heads, T]`.
    pub(super) log_normalisers: &'a [f32],
    pub(super) shape: HeadShape,
}

/// Queries of some spans against the prompt before them and against themselves.
struct Task {
    kv_head: usize,
    prompt: Option<Range<usize>>,
    spans: Vec<Branch>,
}

/// Gradients that a task adds to keys and values of other tasks, `[rows, head_dim]` each.
struct Share {
    rows: Vec<Range<usize>>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Gradients at q, k and v.
#[allow(unsafe_code)]
pub(super) fn gradients(
    inputs: &Inputs<'_>,
    layout: &AttentionLayout,
) -> Result<[Vec<f32>; 3], OpsError> {
    let shape = inputs.shape;
    let mut dq = zeros(inputs.q.len())?;
    let mut dk = zeros(inputs.k.len())?;
    let mut dv = zeros(inputs.v.len())?;
    let tasks = tasks(layout, shape);
    let outputs = [
        Disjoint::new(&mut dq),
        Disjoint::new(&mut dk),
        Disjoint::new(&mut dv),
    ];
    let shares: Vec<Vec<Share>> = tasks
        .par_iter()
        .with_max_len(1)
        .map(|task| Worker::default().run(inputs, task, &outputs))
        .collect();
    for (task, shares) in tasks.iter().zip(&shares) {
        let at = task.kv_head * shape.head_dim;
        for share in shares {
            share.add(&share.keys, &mut dk, at, shape);
            share.add(&share.values, &mut dv, at, shape);
        }
    }
    Ok([dq, dk, dv])
}

impl Share {
    /// Adds values, `[rows, head_dim]`, to the columns from `column` on of these rows.
    fn add(&self, values: &[f32], sums: &mut [f32], column: usize, shape: HeadShape) {
        let rows = self.rows.iter().cloned().flatten();
        for (row, values) in rows.zip(values.chunks_exact(shape.head_dim)) {
            let at = row * shape.kv_width() + column;
            let sums = &mut sums[at..at + shape.head_dim];
            sums.iter_mut().zip(values).for_each(|(sum, v)| *sum += v);
        }
    }
}

fn tasks(layout: &AttentionLayout, shape: HeadShape) -> Vec<Task> {
    let mut tasks = Vec::new();
    for group in layout.groups() {
        for kv_head in 0..shape.kv_heads {
            tasks.push(Task {
                kv_head,
                prompt: None,
                spans: vec![group.prompt.clone().into()],
            });
            for part in group
                .completions
                .chunks(group.completions.len().div_ceil(PARTS).max(1))
            {
                tasks.push(Task {
                    kv_head,
                    prompt: Some(group.prompt.clone()),
                    spans: part.to_vec(),
                });
            }
        }
    }
    tasks
}

/// Scratch of one task.
#[derive(Default)]
struct Worker {
    queries: Vec<f32>,
    grads: Vec<f32>,
    outs: Vec<f32>,
    /// Rowsum of out * grad, per query row.
    deltas: Vec<f32>,
    log_normalisers: Vec<f32>,
    /// `[query rows, KEYS]`.
    probabilities: Vec<f32>,
    /// Gradient at the probabilities, then at the scores, `[query rows, KEYS]`.
    scores: Vec<f32>,
    /// `[query rows, head_dim]`.
    dq: Vec<f32>,
    /// Gradients at the keys and values of a completion's shared and own rows, `[rows, head_dim]`.
    dk: Vec<f32>,
    dv: Vec<f32>,
    gathered: Gathered,
}

impl Worker {
    fn run(&mut self, inputs: &Inputs<'_>, task: &Task, outputs: &[Disjoint<'_>; 3]) -> Vec<Share> {
        let dim = inputs.shape.head_dim;
        let prompt_values = task.prompt.as_ref().map_or(0, |prompt| prompt.len() * dim);
        let mut prompt = Share {
            rows: task.prompt.iter().cloned().collect(),
            keys: vec![0.0; prompt_values],
            values: vec![0.0; prompt_values],
        };
        let mut shares = Vec::new();
        for span in &task.spans {
            let before = span.shared_len();
            for sums in [&mut self.dk, &mut self.dv] {
                sums.clear();
                sums.resize((before + span.own.len()) * dim, 0.0);
            }
            for start in span.own.clone().step_by(QUERIES) {
                let rows = start..span.own.end.min(start + QUERIES);
                self.query_block(inputs, task, span, &rows, &mut prompt);
                self.write_queries(inputs.shape, task, &rows, &outputs[0]);
            }
            self.write_keys(inputs.shape, task, span, outputs);
            if before > 0 {
                shares.push(Share {
                    rows: span.shared.clone(),
                    keys: self.dk[..before * dim].to_vec(),
                    values: self.dv[..before * dim].to_vec(),
                });
            }
        }
        shares.push(prompt);
        shares
    }

    #[allow(unsafe_code)]
    fn write_queries(
        &self,
        shape: HeadShape,
        task: &Task,
        rows: &Range<usize>,
        output: &Disjoint<'_>,
    ) {
        let first = task.kv_head * shape.sharing();
        for (i, dq) in self.dq.chunks_exact(shape.head_dim).enumerate() {
            let (row, head) = (rows.start + i % rows.len(), first + i / rows.len());
            let at = row * shape.query_width() + head * shape.head_dim;
            // SAFETY: no other task writes these rows of these heads.
            unsafe { output.slice(at, shape.head_dim).copy_from_slice(dq) }
        }
    }

    #[allow(unsafe_code)]
    fn write_keys(
        &self,
        shape: HeadShape,
        task: &Task,
        span: &Branch,
        outputs: &[Disjoint<'_>; 3],
    ) {
        let (dim, before) = (shape.head_dim, span.shared_len());
        for (output, sums) in [(&outputs[1], &self.dk), (&outputs[2], &self.dv)] {
            let own = sums[before * dim..].chunks_exact(dim);
            for (row, own) in span.own.clone().zip(own) {
                let at = row * shape.kv_width() + task.kv_head * dim;
                // SAFETY: no other task writes these rows of this key-value head.
                unsafe { output.slice(at, dim).copy_from_slice(own) }
            }
        }
    }

    /// Adds the gradients of all blocks of keys that the query rows attend to.
    fn query_block(
        &mut self,
        inputs: &Inputs<'_>,
        task: &Task,
        span: &Branch,
        rows: &Range<usize>,
        prompt: &mut Share,
    ) {
        let (shape, dim, count) = (inputs.shape, inputs.shape.head_dim, rows.len());
        let heads = task.kv_head * shape.sharing()..(task.kv_head + 1) * shape.sharing();
        let width = shape.query_width();
        stack_heads(inputs.q, width, rows, &heads, dim, &mut self.queries);
        stack_heads(inputs.grad, width, rows, &heads, dim, &mut self.grads);
        stack_heads(inputs.out, width, rows, &heads, dim, &mut self.outs);
        let total = inputs.log_normalisers.len() / shape.heads;
        self.log_normalisers.clear();
        for head in heads {
            let at = head * total;
            self.log_normalisers
                .extend_from_slice(&inputs.log_normalisers[at + rows.start..at + rows.end]);
        }
        self.deltas.resize(self.log_normalisers.len(), 0.0);
        row_dots(&self.outs, &self.grads, &mut self.deltas);
        self.dq.clear();
        self.dq.resize(self.queries.len(), 0.0);
        self.probabilities.resize(self.deltas.len() * KEYS, 0.0);
        self.scores.resize(self.deltas.len() * KEYS, 0.0);
        let at = task.kv_head * dim;
        let source = KeyValues {
            keys: &inputs.k[at..],
            values: &inputs.v[at..],
            stride: shape.kv_width(),
        };
        let first_key = task.prompt.as_ref().map_or(0, |prompt| prompt.start);
        for keys in task.prompt.clone().into_iter().flat_map(key_blocks) {
            self.probabilities(source.block(&keys), shape, |_| keys.len());
            let at = (keys.start - first_key) * dim..(keys.end - first_key) * dim;
            let (keys, values) = (&mut prompt.keys[at.clone()], &mut prompt.values[at]);
            add_key_gradients(&self.scores, &self.queries, dim, keys);
            add_key_gradients(&self.probabilities, &self.grads, dim, values);
        }
        let first = span.shared_len() + rows.start - span.own.start;
        let mut gathered = std::mem::take(&mut self.gathered);
        for keys in key_blocks(0..first + count) {
            let visible = |row: usize| (first + row % count + 1).saturating_sub(keys.start);
            let block = KeyBlock {
                source: gathered.block(source, dim, span, &keys),
                count: keys.len(),
            };
            self.probabilities(block, shape, visible);
            let at = keys.start * dim..keys.end * dim;
            let (keys, values) = (&mut self.dk[at.clone()], &mut self.dv[at]);
            add_key_gradients(&self.scores, &self.queries, dim, keys);
            add_key_gradients(&self.probabilities, &self.grads, dim, values);
        }
        self.gathered = gathered;
    }

    /// Probabilities and the gradient at the scores for one block of keys; adds to dq.
    fn probabilities(
        &mut self,
        block: KeyBlock<'_>,
        shape: HeadShape,
        visible: impl Fn(usize) -> usize,
    ) {
        let (dim, rows) = (shape.head_dim, self.deltas.len());
        let KeyBlock { source, count } = block;
        let (k, v) = (
            View::rows(source.keys, source.stride),
            View::rows(source.values, source.stride),
        );
        Panels::with_scratch(|panels| {
            panels.pack(k.transposed(), [dim, count]);
            panels.multiply(
                View::rows(&self.queries, dim),
                rows,
                Output::rows(&mut self.probabilities, KEYS),
                Write::Set,
            );
            panels.pack(v.transposed(), [dim, count]);
            panels.multiply(
                View::rows(&self.grads, dim),
                rows,
                Output::rows(&mut self.scores, KEYS),
                Write::Set,
            );
            let pairs = self
                .probabilities
                .chunks_exact_mut(KEYS)
                .zip(self.scores.chunks_exact_mut(KEYS));
            for (row, (probabilities, scores)) in pairs.enumerate() {
                let constants = [
                    shape.score_scale(),
                    self.log_normalisers[row],
                    self.deltas[row],
                ];
                score_gradients(probabilities, scores, visible(row).min(count), constants);
            }
            panels.pack(k, [count, dim]);
            panels.multiply(
                View::rows(&self.scores, KEYS),
                rows,
                Output::rows(&mut self.dq, dim),
                Write::Add,
            );
        });
    }
}

/// gradient += weights^T rows for one block of keys: dk += S^T q, dv += P^T grad. `weights` is
/// `[query rows, KEYS]`.
fn add_key_gradients(weights: &[f32], rows: &[f32], dim: usize, gradient: &mut [f32]) {
    let (count, keys) = (rows.len() / dim, gradient.len() / dim);
    Panels::with_scratch(|panels| {
        panels.pack(View::rows(rows, dim), [count, dim]);
        panels.multiply(
            View::rows(weights, KEYS).transposed(),
            keys,
            Output::rows(gradient, dim),
            Write::Add,
        );
    });
}

dispatched! {
    /// In: scores q k^T and gradients grad v^T. Out: probabilities, and gradients at q k^T. Hidden
    /// keys become zero.
    fn score_gradients(probabilities: &mut [f32], scores: &mut [f32], visible: usize, constants: [f32; 3]) {
        let [scale, log_normaliser, delta] = constants;
        for (p, s) in probabilities[..visible].iter_mut().zip(&mut scores[..visible]) {
            *p = exp(p.mul_add(scale, -log_normaliser));
            *s = *p * (*s - delta) * scale;
        }
        probabilities[visible..].fill(0.0);
        scores[visible..].fill(0.0);
    }
}

dispatched! {
    /// Inner products of the rows of a and b.
    fn row_dots(a: &[f32], b: &[f32], to: &mut [f32]) {
        let width = a.len() / to.len().max(1);
        for ((a, b), to) in a.chunks_exact(width).zip(b.chunks_exact(width)).zip(to) {
            *to = reduce::dot(a, b);
        }
    }
}
