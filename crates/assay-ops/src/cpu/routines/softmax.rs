//! The running softmax of attention over one block of queries and one block of keys.
//!
//! Keys are split into blocks of [`KEYS`] from the start of their prompt or completion, and a row's
//! softmax processes the blocks in order. So the bits of a row depend on its own keys only, not on
//! the batch, and packed and cached attention return the same bits.

use std::ops::Range;

use crate::HeadShape;
use crate::cpu::routines::dispatched;
use crate::cpu::routines::exponential::exp;
use crate::cpu::routines::product::{Output, Panels, View, Write};
use crate::cpu::routines::reduce;

/// Keys of one block.
pub(crate) const KEYS: usize = 64;
/// Query rows of one block, of each head that shares the keys; divides [`KEYS`].
pub(crate) const QUERIES: usize = 32;

/// Keys and values of one key-value head, in rows `stride` values apart.
#[derive(Clone, Copy)]
pub(crate) struct KeyValues<'a> {
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
    pub(crate) stride: usize,
}

/// The keys and values of one block.
#[derive(Clone, Copy)]
pub(crate) struct KeyBlock<'a> {
    /// The rows from the first of the block on.
    pub(crate) source: KeyValues<'a>,
    /// Number of keys.
    pub(crate) count: usize,
}

impl<'a> KeyValues<'a> {
    /// The rows without those before `row`.
    pub(crate) fn rows_from(self, row: usize) -> Self {
        let start = row * self.stride;
        Self {
            keys: &self.keys[start..],
            values: &self.values[start..],
            ..self
        }
    }

    /// The block of these rows.
    pub(crate) fn block(self, rows: &Range<usize>) -> KeyBlock<'a> {
        KeyBlock {
            source: self.rows_from(rows.start),
            count: rows.len(),
        }
    }
}

/// Running softmax of some query rows: scratch and state.
#[derive(Default)]
pub(crate) struct Softmax {
    /// Scores, then probabilities, `[rows, KEYS]`.
    scores: Vec<f32>,
    /// Largest score so far of each row.
    largest: Vec<f32>,
    /// Sum of exponentials so far of each row.
    sum: Vec<f32>,
    /// Weighted values so far, `[rows, head_dim]`.
    pub(crate) weighted: Vec<f32>,
}

impl Softmax {
    /// Clears the state for `rows` query rows.
    pub(crate) fn start(&mut self, rows: usize, shape: HeadShape) {
        self.scores.resize(rows * KEYS, 0.0);
        self.largest.clear();
        self.largest.resize(rows, f32::NEG_INFINITY);
        self.sum.clear();
        self.sum.resize(rows, 0.0);
        self.weighted.clear();
        self.weighted.resize(rows * shape.head_dim, 0.0);
    }

    /// Adds a block of up to [`KEYS`] keys. Query row i attends to the first `visible(i)` of them.
    pub(crate) fn take(
        &mut self,
        queries: &[f32],
        block: KeyBlock<'_>,
        shape: HeadShape,
        visible: impl Fn(usize) -> usize,
    ) {
        let KeyBlock { source, count } = block;
        let (rows, dim) = (self.largest.len(), shape.head_dim);
        Panels::with_scratch(|panels| {
            panels.pack(
                View::rows(source.keys, source.stride).transposed(),
                [dim, count],
            );
            panels.multiply(
                View::rows(queries, dim),
                rows,
                Output::rows(&mut self.scores, KEYS),
                Write::Set,
            );
            let states = self
                .largest
                .iter_mut()
                .zip(&mut self.sum)
                .zip(self.weighted.chunks_exact_mut(dim));
            for (row, (scores, state)) in self.scores.chunks_exact_mut(KEYS).zip(states).enumerate()
            {
                let ((largest, sum), weighted) = state;
                let state = RowState {
                    largest,
                    sum,
                    weighted,
                };
                take_row(scores, visible(row).min(count), shape.score_scale(), state);
            }
            let mut copy = Vec::new();
            let (mut values, mut failed) = (View::rows(source.values, source.stride), count);
            if (0..rows).any(|row| visible(row) < count) && !finite_values(block, dim) {
                (copy, failed) = finite_copy(block, dim);
                values = View::rows(&copy, dim);
            }
            panels.pack(values, [count, dim]);
            panels.multiply(
                View::rows(&self.scores, KEYS),
                rows,
                Output::rows(&mut self.weighted, dim),
                Write::Add,
            );
            if !copy.is_empty() {
                let sums = self.weighted.chunks_exact_mut(dim).enumerate();
                let seeing = sums.filter(|(row, _)| visible(*row) > failed);
                seeing.for_each(|(_, sums)| sums.fill(f32::NAN));
            }
        });
    }

    /// Divides by the sums and returns the log of the sum of exponentials of each row's scores.
    pub(crate) fn finish(&mut self, shape: HeadShape) -> impl Iterator<Item = f32> + '_ {
        for (sum, weighted) in self
            .sum
            .iter()
            .zip(self.weighted.chunks_exact_mut(shape.head_dim))
        {
            let inverse = 1.0 / sum;
            weighted.iter_mut().for_each(|value| *value *= inverse);
        }
        self.largest
            .iter()
            .zip(&self.sum)
            .map(|(largest, sum)| largest + sum.ln())
    }
}

/// Whether every value of a block is finite.
fn finite_values(block: KeyBlock<'_>, dim: usize) -> bool {
    let rows = block.source.values.chunks(block.source.stride);
    let sums = rows.take(block.count).map(|row| reduce::sum(&row[..dim]));
    sums.sum::<f32>().is_finite()
}

/// The values of a block, `[count, dim]`, with 0 for keys with a value that is not finite, and the
/// index of the first such key. A product with hidden keys adds 0 times their values, and this must
/// not be NaN: rows of a failing trace can be in one block with rows that other traces share.
fn finite_copy(block: KeyBlock<'_>, dim: usize) -> (Vec<f32>, usize) {
    let (mut copy, mut first) = (vec![0.0; block.count * dim], block.count);
    let rows = block.source.values.chunks(block.source.stride);
    for (key, (row, to)) in rows.zip(copy.chunks_exact_mut(dim)).enumerate() {
        match row[..dim].iter().all(|value| value.is_finite()) {
            true => to.copy_from_slice(&row[..dim]),
            false => first = first.min(key),
        }
    }
    (copy, first)
}

/// The running softmax of one row.
struct RowState<'a> {
    largest: &'a mut f32,
    sum: &'a mut f32,
    weighted: &'a mut [f32],
}

dispatched! {
    /// Replaces scores by exp(scale * score - largest) and hidden ones by zero; rescales the sums
    /// of the row.
    fn take_row(scores: &mut [f32], visible: usize, scale: f32, state: RowState<'_>) {
        let RowState { largest, sum, weighted } = state;
        scores[visible..].fill(f32::NEG_INFINITY);
        scores.iter_mut().for_each(|score| *score *= scale);
        let new = reduce::max(scores).max(*largest);
        let keep = if new == *largest { 1.0 } else { exp(*largest - new) };
        scores.iter_mut().for_each(|score| *score = exp(*score - new));
        if keep != 1.0 {
            weighted.iter_mut().for_each(|value| *value *= keep);
        }
        *sum = sum.mul_add(keep, reduce::sum(scores));
        *largest = new;
    }
}

/// The blocks of `span`, from its start.
pub(crate) fn key_blocks(span: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    span.clone()
        .step_by(KEYS)
        .map(move |start| start..span.end.min(start + KEYS))
}

/// Copies rows of some consecutive heads, `[rows, width]`, into one stack
/// `[heads, rows, head_dim]`.
pub(crate) fn stack_heads(
    from: &[f32],
    width: usize,
    rows: &Range<usize>,
    heads: &Range<usize>,
    dim: usize,
    to: &mut Vec<f32>,
) {
    to.clear();
    for head in heads.clone() {
        for row in rows.clone() {
            let start = row * width + head * dim;
            to.extend_from_slice(&from[start..start + dim]);
        }
    }
}
