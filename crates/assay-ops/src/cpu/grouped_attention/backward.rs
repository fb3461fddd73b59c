//! The backward pass of attention over packed batches.
//!
//! With P = exp(scale q k^T - log-normaliser), D = rowsum(out * grad) and S = P * (grad v^T - D) * scale:
//! dv = P^T grad, dq = S k, dk = S^T q. A task is one key-value head of a prompt or of a few completions of one group. The
//! gradients that completions add to the keys and values of their prompt are stored per task and added in order.

use std::ops::Range;

use rayon::prelude::*;

use crate::cpu::routines::disjoint::Disjoint;
use crate::cpu::routines::dispatched;
use crate::cpu::routines::exponential::exp;
use crate::cpu::routines::product::{Output, Panels, View, Write};
use crate::cpu::routines::reduce;
use crate::cpu::routines::softmax::{KEYS, QUERIES, key_blocks, stack_heads};
use crate::values::zeros;
use crate::{AttentionLayout, HeadShape, OpsError};

/// Parts into which a group's completions are cut; fixed, because each part sums its own share of the prompt's gradients.
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
    spans: Vec<Range<usize>>,
}

/// Gradients of one task's keys and values in the prompt: `[prompt, head_dim]` each, empty when it has no prompt.
struct PromptShare {
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
    let shares: Vec<PromptShare> = tasks
        .par_iter()
        .with_max_len(1)
        .map(|task| Worker::default().run(inputs, task, &outputs))
        .collect();
    for (task, share) in tasks.iter().zip(&shares) {
        let Some(prompt) = &task.prompt else { continue };
        let shares = [(&mut dk, &share.keys), (&mut dv, &share.values)];
        for (sums, share) in shares {
            for (row, share) in prompt.clone().zip(share.chunks_exact(shape.head_dim)) {
                let at = row * shape.kv_width() + task.kv_head * shape.head_dim;
                sums[at..at + shape.head_dim]
                    .iter_mut()
                    .zip(share)
                    .for_each(|(sum, value)| *sum += value);
            }
        }
    }
    Ok([dq, dk, dv])
}

fn tasks(layout: &AttentionLayout, shape: HeadShape) -> Vec<Task> {
    let mut tasks = Vec::new();
    for group in layout.groups() {
        for kv_head in 0..shape.kv_heads {
            tasks.push(Task {
                kv_head,
                prompt: None,
                spans: vec![group.prompt.clone()],
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
    /// Rowsum of out * grad, a query row.
    deltas: Vec<f32>,
    log_normalisers: Vec<f32>,
    /// `[query rows, KEYS]`.
    probabilities: Vec<f32>,
    /// Gradient at the probabilities, then at the scores, `[query rows, KEYS]`.
    scores: Vec<f32>,
    /// `[query rows, head_dim]`.
    dq: Vec<f32>,
    /// Gradients at the span's own keys and values, `[span, head_dim]`.
    dk: Vec<f32>,
    dv: Vec<f32>,
}

impl Worker {
    #[allow(unsafe_code)]
    fn run(
        &mut self,
        inputs: &Inputs<'_>,
        task: &Task,
        outputs: &[Disjoint<'_>; 3],
    ) -> PromptShare {
        let (shape, dim) = (inputs.shape, inputs.shape.head_dim);
        let prompt_values = task.prompt.as_ref().map_or(0, |prompt| prompt.len() * dim);
        let mut share = PromptShare {
            keys: vec![0.0; prompt_values],
            values: vec![0.0; prompt_values],
        };
        let heads = task.kv_head * shape.sharing()..(task.kv_head + 1) * shape.sharing();
        for span in &task.spans {
            for own in [&mut self.dk, &mut self.dv] {
                own.clear();
                own.resize(span.len() * dim, 0.0);
            }
            for start in span.clone().step_by(QUERIES) {
                let rows = start..span.end.min(start + QUERIES);
                self.query_block(inputs, task, span, &rows, &mut share);
                for (i, dq) in self.dq.chunks_exact(dim).enumerate() {
                    let (row, head) = (rows.start + i % rows.len(), heads.start + i / rows.len());
                    // SAFETY: no other task writes these rows of these heads.
                    unsafe {
                        outputs[0]
                            .slice(row * shape.query_width() + head * dim, dim)
                            .copy_from_slice(dq)
                    }
                }
            }
            for (output, own) in [(&outputs[1], &self.dk), (&outputs[2], &self.dv)] {
                for (row, own) in span.clone().zip(own.chunks_exact(dim)) {
                    // SAFETY: no other task writes these rows of this key-value head.
                    unsafe {
                        output
                            .slice(row * shape.kv_width() + task.kv_head * dim, dim)
                            .copy_from_slice(own)
                    }
                }
            }
        }
        share
    }

    /// Adds the gradients of all blocks of keys that the query rows attend to.
    fn query_block(
        &mut self,
        inputs: &Inputs<'_>,
        task: &Task,
        span: &Range<usize>,
        rows: &Range<usize>,
        share: &mut PromptShare,
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
        for keys in task.prompt.clone().into_iter().flat_map(key_blocks) {
            self.probabilities(inputs, task.kv_head, &keys, |_| keys.len());
            let at = (keys.start - task.prompt.as_ref().map_or(0, |prompt| prompt.start)) * dim;
            let at = at..at + keys.len() * dim;
            add_key_gradients(
                &self.scores,
                &self.queries,
                dim,
                &mut share.keys[at.clone()],
            );
            add_key_gradients(&self.probabilities, &self.grads, dim, &mut share.values[at]);
        }
        for keys in key_blocks(span.start..rows.end) {
            let visible = |row: usize| (rows.start + row % count + 1).saturating_sub(keys.start);
            self.probabilities(inputs, task.kv_head, &keys, visible);
            let at = (keys.start - span.start) * dim;
            let at = at..at + keys.len() * dim;
            add_key_gradients(&self.scores, &self.queries, dim, &mut self.dk[at.clone()]);
            add_key_gradients(&self.probabilities, &self.grads, dim, &mut self.dv[at]);
        }
    }

    /// Probabilities and the gradient at the scores for one block of keys; adds to dq.
    fn probabilities(
        &mut self,
        inputs: &Inputs<'_>,
        kv_head: usize,
        keys: &Range<usize>,
        visible: impl Fn(usize) -> usize,
    ) {
        let (shape, dim, rows) = (inputs.shape, inputs.shape.head_dim, self.deltas.len());
        let at = keys.start * shape.kv_width() + kv_head * dim;
        let (k, v) = (
            View::rows(&inputs.k[at..], shape.kv_width()),
            View::rows(&inputs.v[at..], shape.kv_width()),
        );
        Panels::with_scratch(|panels| {
            panels.pack(k.transposed(), [dim, keys.len()]);
            panels.multiply(
                View::rows(&self.queries, dim),
                rows,
                Output::rows(&mut self.probabilities, KEYS),
                Write::Set,
            );
            panels.pack(v.transposed(), [dim, keys.len()]);
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
                score_gradients(
                    probabilities,
                    scores,
                    visible(row).min(keys.len()),
                    constants,
                );
            }
            panels.pack(k, [keys.len(), dim]);
            panels.multiply(
                View::rows(&self.scores, KEYS),
                rows,
                Output::rows(&mut self.dq, dim),
                Write::Add,
            );
        });
    }
}

/// gradient += weights^T rows for one block of keys: dk += S^T q, dv += P^T grad. `weights` is `[query rows, KEYS]`.
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
    /// In: scores q k^T and gradients grad v^T. Out: probabilities, and gradients at q k^T. Hidden keys become zero.
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
