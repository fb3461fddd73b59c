//! What attention does to one block of queries and one block of keys.
//!
//! Keys are cut into blocks of [`KEYS`] from the start of the span that holds them, and a row's softmax runs over the blocks in
//! order, so a row's bits depend on its own keys only: not on the batch, and alike in packed and in cached attention.

use std::ops::Range;

use crate::HeadShape;
use crate::cpu::routines::dispatched;
use crate::cpu::routines::exponential::exp;
use crate::cpu::routines::product::{Panels, View, Write};
use crate::cpu::routines::reduce;

/// Keys of one block.
pub(crate) const KEYS: usize = 64;
/// Query rows of one block, of each head that shares the keys; divides [`KEYS`].
pub(crate) const QUERIES: usize = 32;

/// Keys and values of one key-value head: rows `stride` values apart.
#[derive(Clone, Copy)]
pub(crate) struct KeyValues<'a> {
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
    pub(crate) stride: usize,
}

impl<'a> KeyValues<'a> {
    /// From row `row` on.
    pub(crate) fn from(self, row: usize) -> Self {
        let start = row * self.stride;
        Self {
            keys: &self.keys[start..],
            values: &self.values[start..],
            ..self
        }
    }
}

/// Running softmax of some query rows: scratch and state.
#[derive(Default)]
pub(crate) struct Softmax {
    /// Scores, then probabilities, `[rows, KEYS]`.
    scores: Vec<f32>,
    /// Largest score so far of each row.
    most: Vec<f32>,
    /// Sum of exponentials so far of each row.
    sum: Vec<f32>,
    /// Weighted values so far, `[rows, head_dim]`.
    pub(crate) weighted: Vec<f32>,
}

impl Softmax {
    /// Forgets everything; `rows` query rows follow.
    pub(crate) fn start(&mut self, rows: usize, shape: HeadShape) {
        self.scores.resize(rows * KEYS, 0.0);
        self.most.clear();
        self.most.resize(rows, f32::NEG_INFINITY);
        self.sum.clear();
        self.sum.resize(rows, 0.0);
        self.weighted.clear();
        self.weighted.resize(rows * shape.head_dim, 0.0);
    }

    /// Takes in up to [`KEYS`] keys. Query row i sees the first `visible(i)` of them.
    pub(crate) fn take(
        &mut self,
        queries: &[f32],
        (source, count): (KeyValues<'_>, usize),
        shape: HeadShape,
        visible: impl Fn(usize) -> usize,
    ) {
        let (rows, dim) = (self.most.len(), shape.head_dim);
        Panels::with_scratch(|panels| {
            panels.pack(
                View::rows(source.keys, source.stride).transposed(),
                [dim, count],
            );
            panels.multiply(
                View::rows(queries, dim),
                rows,
                (&mut self.scores, KEYS),
                Write::Set,
            );
            let states = self
                .most
                .iter_mut()
                .zip(&mut self.sum)
                .zip(self.weighted.chunks_exact_mut(dim));
            for (row, (scores, state)) in self.scores.chunks_exact_mut(KEYS).zip(states).enumerate()
            {
                let ((most, sum), weighted) = state;
                take_row(
                    scores,
                    visible(row).min(count),
                    shape.score_scale(),
                    (most, sum, weighted),
                );
            }
            panels.pack(View::rows(source.values, source.stride), [count, dim]);
            panels.multiply(
                View::rows(&self.scores, KEYS),
                rows,
                (&mut self.weighted, dim),
                Write::Add,
            );
        });
    }

    /// Divides by the sums; returns each row's log of the sum of exponentials of its scores.
    pub(crate) fn finish(&mut self, shape: HeadShape) -> impl Iterator<Item = f32> + '_ {
        for (sum, weighted) in self
            .sum
            .iter()
            .zip(self.weighted.chunks_exact_mut(shape.head_dim))
        {
            let inverse = 1.0 / sum;
            weighted.iter_mut().for_each(|value| *value *= inverse);
        }
        self.most
            .iter()
            .zip(&self.sum)
            .map(|(most, sum)| most + sum.ln())
    }
}

dispatched! {
    /// Scores to exp(scale * score - most), hidden ones to zero; rescales what the row has so far.
    fn take_row(scores: &mut [f32], visible: usize, scale: f32, state: (&mut f32, &mut f32, &mut [f32])) {
        let (most, sum, weighted) = state;
        scores[visible..].fill(f32::NEG_INFINITY);
        scores.iter_mut().for_each(|score| *score *= scale);
        let new = reduce::max(scores).max(*most);
        let keep = if new == *most { 1.0 } else { exp(*most - new) };
        scores.iter_mut().for_each(|score| *score = exp(*score - new));
        if keep != 1.0 {
            weighted.iter_mut().for_each(|value| *value *= keep);
        }
        *sum = sum.mul_add(keep, reduce::sum(scores));
        *most = new;
    }
}

/// The blocks of `span`, from its start.
pub(crate) fn key_blocks(span: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    span.clone()
        .step_by(KEYS)
        .map(move |start| start..span.end.min(start + KEYS))
}

/// Copies rows of some consecutive heads, `[rows, width]`, into one stack `[heads, rows, head_dim]`.
pub(crate) fn stack_heads(
    from: (&[f32], usize),
    rows: Range<usize>,
    heads: Range<usize>,
    dim: usize,
    to: &mut Vec<f32>,
) {
    let (from, width) = from;
    to.clear();
    for head in heads {
        for row in rows.clone() {
            let start = row * width + head * dim;
            to.extend_from_slice(&from[start..start + dim]);
        }
    }
}
