//! Matrix products on slices whose bits depend on the two factors only.
//!
//! All values of a product are computed in the same way: the depth is split into blocks of
//! [`DEPTH`], each block is one chain of fused multiply-adds from zero, and the blocks are added in
//! order. So a row of the result does not depend on the other rows, the number of threads or the
//! instruction set. General libraries do not guarantee this: the `gemm` crate uses other blocks for
//! one row than for many rows, and the last bits differ.
//!
//! Layout: the right factor is packed into panels (a few columns, depth-major, zero-padded). The
//! left factor is read in place, row by row, or packed when it is transposed.

mod lanes;
mod pairs;
mod panels;
mod rounded;

pub(crate) use pairs::Pair;
pub(crate) use panels::{Panels, Part};
pub use rounded::multiplies_bf16_natively;
pub(crate) use rounded::multiply_rounded;

use crate::cpu::routines::disjoint::{Disjoint, Tile};

/// Depth of one block of the sum.
pub(crate) const DEPTH: usize = 256;
/// Columns of one parallel task.
const COLUMNS: usize = 128;
/// Number of tasks of a product: more than threads, so that slow threads get fewer.
const TASKS: usize = 12;
/// Rows below which a task is not split further.
const MIN_ROWS: usize = 112;
/// Multiplications below which a product runs on the calling thread.
const SERIAL: usize = 1 << 18;

/// A matrix view: value (i, j) is `values[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    values: &'a [f32],
    row_stride: usize,
    column_stride: usize,
}

impl<'a> View<'a> {
    /// Rows one after another, `stride` values apart.
    pub(crate) fn rows(values: &'a [f32], stride: usize) -> Self {
        Self {
            values,
            row_stride: stride,
            column_stride: 1,
        }
    }

    /// The transpose.
    pub(crate) fn transposed(self) -> Self {
        Self {
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// The value at (row, column).
    fn at(&self, row: usize, column: usize) -> f32 {
        self.values[row * self.row_stride + column * self.column_stride]
    }

    /// The view that starts at (row, column).
    fn from(self, row: usize, column: usize) -> Self {
        let start = (row * self.row_stride + column * self.column_stride).min(self.values.len());
        Self {
            values: &self.values[start..],
            ..self
        }
    }

    /// Panics unless the first `rows` and `columns` are inside the values. All addresses of a
    /// product rely on this check.
    fn check(&self, rows: usize, columns: usize) {
        if rows > 0 && columns > 0 {
            let last = (rows - 1) * self.row_stride + (columns - 1) * self.column_stride;
            assert!(
                last < self.values.len(),
                "a factor of a product is shorter than its dimensions"
            );
        }
    }
}

/// The right factor of a product.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    /// Plain values, packed by each task that needs them.
    Values(View<'a>),
    /// Packed f32 values.
    Panels(Part<'a>),
    /// The transpose of packed f32 values.
    Turned(Part<'a>),
    /// Packed bf16 values.
    Pairs(Part<'a, Pair>),
    /// The transpose of packed bf16 values.
    TurnedPairs(Part<'a, Pair>),
}

impl<'a> From<View<'a>> for Right<'a> {
    fn from(values: View<'a>) -> Self {
        Self::Values(values)
    }
}

impl<'a> Right<'a> {
    /// The transpose.
    pub(crate) fn transposed(self) -> Self {
        match self {
            Self::Values(view) => Self::Values(view.transposed()),
            Self::Panels(part) => Self::Turned(part),
            Self::Turned(part) => Self::Panels(part),
            Self::Pairs(part) => Self::TurnedPairs(part),
            Self::TurnedPairs(part) => Self::Pairs(part),
        }
    }

    /// The value at (row, column).
    pub(crate) fn value(&self, row: usize, column: usize) -> f32 {
        match self {
            Self::Values(view) => view.at(row, column),
            Self::Panels(part) => part.at(row, column),
            Self::Turned(part) => part.at(column, row),
            Self::Pairs(part) => part.value(row, column),
            Self::TurnedPairs(part) => part.value(column, row),
        }
    }

    /// Copies the first values of a column.
    pub(crate) fn column(&self, column: usize, into: &mut [f32]) {
        for (row, value) in into.iter_mut().enumerate() {
            *value = self.value(row, column);
        }
    }

    /// Panics unless the first `rows` and `columns` are inside the factor.
    fn check(&self, rows: usize, columns: usize) {
        let inside = |[max_rows, max_columns]: [usize; 2]| {
            assert!(
                rows <= max_rows && columns <= max_columns,
                "a packed factor is smaller than its dimensions"
            );
        };
        match self {
            Self::Values(view) => view.check(rows, columns),
            Self::Panels(part) => inside([part.depth(), part.width()]),
            Self::Turned(part) => inside([part.width(), part.depth()]),
            Self::Pairs(part) => inside([2 * part.depth(), part.width()]),
            Self::TurnedPairs(part) => inside([part.width(), 2 * part.depth()]),
        }
    }
}

/// Whether a product replaces the values of its result or is added to them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// c = a b
    Set,
    /// c += a b
    Add,
}

/// One product of a sum of products: a `[m, depth]` times b `[depth, n]`.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a> {
    /// Left factor.
    pub(crate) a: View<'a>,
    /// Right factor.
    pub(crate) b: Right<'a>,
    /// Columns of a and rows of b.
    pub(crate) depth: usize,
}

/// Rows of a result, `stride` values apart.
pub(crate) struct Output<'a> {
    values: &'a mut [f32],
    stride: usize,
}

impl<'a> Output<'a> {
    /// Rows one after another, `stride` values apart; the first value is (0, 0).
    pub(crate) fn rows(values: &'a mut [f32], stride: usize) -> Self {
        Self { values, stride }
    }

    fn check(&self, rows: usize, columns: usize) {
        assert!(
            columns <= self.stride || rows <= 1,
            "rows of a result overlap"
        );
        let needed = if rows == 0 || columns == 0 {
            0
        } else {
            (rows - 1) * self.stride + columns
        };
        assert!(
            needed <= self.values.len(),
            "the result of a product is shorter than its dimensions"
        );
    }
}

/// c `[m, n]` = a `[m, depth]` times b `[depth, n]`, or added to it, in parallel.
pub(crate) fn multiply<'b>(
    dims: [usize; 3],
    a: View<'_>,
    b: impl Into<Right<'b>>,
    c: &mut [f32],
    write: Write,
) {
    let [m, depth, n] = dims;
    let b = b.into();
    multiply_terms([m, n], &[Term { a, b, depth }], Output::rows(c, n), write);
}

/// c `[m, n]` = the sum of the terms in order, or added to it, in parallel.
pub(crate) fn multiply_terms(dims: [usize; 2], terms: &[Term<'_>], c: Output<'_>, write: Write) {
    each_block(dims, terms, c, write, |block, out| {
        Panels::with_scratch(|panels| multiply_block(block, terms, out, panels));
    });
}

/// One task: a block of the result.
#[derive(Clone, Copy)]
struct Block {
    /// First row and column.
    start: [usize; 2],
    /// Rows and columns.
    dims: [usize; 2],
}

/// Splits a product into blocks of the result and runs `task` on them, in parallel if the product
/// is large.
fn each_block(
    dims: [usize; 2],
    terms: &[Term<'_>],
    c: Output<'_>,
    write: Write,
    task: impl Fn(Block, &SharedOutput<'_>) + Sync,
) {
    let [m, n] = dims;
    check_terms(dims, terms, &c);
    let depth: usize = terms.iter().map(|term| term.depth).sum();
    let stride = c.stride;
    if depth == 0 && write == Write::Set {
        c.values
            .chunks_mut(stride.max(1))
            .take(m)
            .for_each(|row| row[..n].fill(0.0));
    }
    if m == 0 || n == 0 || depth == 0 {
        return;
    }
    let serial = m * n * depth < SERIAL;
    let max_row_tasks = m.div_ceil(MIN_ROWS);
    let columns = match serial || max_row_tasks * n.div_ceil(COLUMNS) >= TASKS {
        true => COLUMNS,
        // Few rows: narrower tasks, so that every thread gets some.
        false => n
            .div_ceil(TASKS.div_ceil(max_row_tasks))
            .next_multiple_of(panels::PANEL)
            .min(COLUMNS),
    };
    let column_tasks = n.div_ceil(columns);
    let row_tasks = match serial {
        true => 1,
        false => TASKS.div_ceil(column_tasks).min(max_row_tasks),
    };
    let rows = m.div_ceil(row_tasks).next_multiple_of(lanes::ROWS);
    let out = SharedOutput {
        values: Disjoint::new(c.values),
        stride,
        write,
    };
    let run = |index: usize| {
        let (row, column) = (index / column_tasks * rows, index % column_tasks * columns);
        let dims = [rows.min(m.saturating_sub(row)), columns.min(n - column)];
        if dims[0] > 0 {
            let start = [row, column];
            task(Block { start, dims }, &out);
        }
    };
    if serial {
        (0..column_tasks).for_each(run);
        return;
    }
    use rayon::prelude::*;
    (0..row_tasks * column_tasks)
        .into_par_iter()
        .with_max_len(1)
        .for_each(run);
}

/// Panics unless the terms and the result have these dimensions.
fn check_terms([m, n]: [usize; 2], terms: &[Term<'_>], c: &Output<'_>) {
    c.check(m, n);
    for term in terms {
        term.a.check(m, term.depth);
        term.b.check(term.depth, n);
    }
}

/// The result that all tasks write, each its own part.
struct SharedOutput<'a> {
    values: Disjoint<'a>,
    stride: usize,
    write: Write,
}

/// Computes a block of the result: all terms, one depth block after another.
fn multiply_block(block: Block, terms: &[Term<'_>], out: &SharedOutput<'_>, panels: &mut Panels) {
    let Block {
        start: [row, column],
        dims: [rows, columns],
    } = block;
    let mut write = out.write;
    for term in terms {
        for from in (0..term.depth).step_by(DEPTH) {
            let depth = DEPTH.min(term.depth - from);
            let b = match term.b {
                Right::Panels(part) => part.depth_block(from).columns(column, columns),
                unpacked => panels.pack_from(unpacked, [from, column], [depth, columns]),
            };
            b.multiply_into(term.a.from(row, from), rows, out.tile(row, column), write);
            write = Write::Add;
        }
    }
}

impl<'a> SharedOutput<'a> {
    /// The rows from (row, column) on.
    fn tile(&self, row: usize, column: usize) -> Tile<'a> {
        self.values.tile(row * self.stride + column, self.stride)
    }
}

impl<'a> From<Output<'a>> for Tile<'a> {
    fn from(output: Output<'a>) -> Self {
        Tile::of(output.values, output.stride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows, depth and columns of products: one tile, partial tiles and several blocks.
    pub(super) const SHAPES: [[usize; 3]; 10] = [
        [1, 1, 1],
        [1, 576, 49],
        [2, 7, 33],
        [13, 300, 31],
        [14, 256, 32],
        [15, 257, 65],
        [29, 5, 200],
        [40, 66, 100],
        [130, 513, 17],
        [300, 40, 140],
    ];

    pub(super) fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count)
            .map(|i| ((i * 2_654_435_761 + seed * 97) % 1009) as f32 / 504.5 - 1.0)
            .collect()
    }

    /// The definition: chains of fused multiply-adds over blocks, added in order.
    fn defined(
        dims: [usize; 3],
        a: impl Fn(usize, usize) -> f32,
        b: impl Fn(usize, usize) -> f32,
    ) -> Vec<f32> {
        let [m, depth, n] = dims;
        let value = |i: usize, j: usize| {
            let block = |from: usize| {
                (from..depth.min(from + DEPTH)).fold(0f32, |sum, k| a(i, k).mul_add(b(k, j), sum))
            };
            (0..depth)
                .step_by(DEPTH)
                .skip(1)
                .fold(block(0), |sum, from| sum + block(from))
        };
        (0..m * n).map(|i| value(i / n, i % n)).collect()
    }

    #[test]
    fn products_have_the_bits_of_the_definition() {
        for [m, depth, n] in SHAPES {
            // Miri takes minutes for the largest shapes; the smallest with several threads is kept.
            if cfg!(miri) && m * depth * n > SERIAL + 2000 {
                continue;
            }
            let (a, b) = (numbers(m * depth, 1), numbers(depth * n, 2));
            let at = |i: usize, k: usize| a[i * depth + k];
            let bt = |k: usize, j: usize| b[k * n + j];
            let expected = defined([m, depth, n], at, bt);
            let a_turned: Vec<f32> = (0..m * depth).map(|i| at(i % m, i / m)).collect();
            let b_turned: Vec<f32> = (0..depth * n).map(|i| bt(i % depth, i / depth)).collect();
            let lefts = [View::rows(&a, depth), View::rows(&a_turned, m).transposed()];
            let rights = [View::rows(&b, n), View::rows(&b_turned, depth).transposed()];
            for (i, left) in lefts.into_iter().enumerate() {
                for (j, right) in rights.into_iter().enumerate() {
                    let mut c = vec![f32::NAN; m * n];
                    multiply([m, depth, n], left, right, &mut c, Write::Set);
                    assert!(c == expected, "[{m}, {depth}, {n}], orientation {i} {j}");
                    multiply([m, depth, n], left, right, &mut c, Write::Add);
                    if depth <= DEPTH {
                        assert!(c.iter().zip(&expected).all(|(c, e)| *c == e + e));
                    }
                }
            }
        }
    }

    #[test]
    fn strided_results_leave_the_rest_alone() {
        let (a, b) = (numbers(3 * 4, 1), numbers(4 * 5, 2));
        let mut c = [7f32; 3 * 9];
        let term = Term {
            a: View::rows(&a, 4),
            b: View::rows(&b, 5).into(),
            depth: 4,
        };
        multiply_terms([3, 5], &[term], Output::rows(&mut c[2..], 9), Write::Set);
        let expected = defined([3, 4, 5], |i, k| a[i * 4 + k], |k, j| b[k * 5 + j]);
        for (i, value) in c.iter().enumerate() {
            match i % 9 {
                j @ 2..7 => assert_eq!(*value, expected[i / 9 * 5 + j - 2]),
                _ => assert_eq!(*value, 7.0),
            }
        }
    }

    #[test]
    fn an_empty_sum_is_zero() {
        let mut c = vec![1f32; 6];
        multiply(
            [2, 0, 3],
            View::rows(&[], 0),
            View::rows(&[], 3),
            &mut c,
            Write::Set,
        );
        assert_eq!(c, vec![0.0; 6]);
    }
}
