//! The packed right factor of a product, and products with it.
#![allow(unsafe_code)]

use std::cell::RefCell;

use super::lanes::{Addresses, Destination, Lanes, Portable, ROWS, of_height, tile};
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512};
use super::{DEPTH, Output, Right, View, Write};
use crate::OpsError;
use crate::cpu::routines::disjoint::Tile;
use crate::cpu::routines::{Level, level};
use crate::values::defaults;

/// Columns of a panel at every level: two AVX-512 vectors, four AVX2 ones.
pub(super) const PANEL: usize = 32;

/// One word of a packed matrix: one value, or two neighbours of a column.
pub(crate) trait Word: Copy + Default + Send + Sync {
    /// Values of a column that a word holds.
    const VALUES: usize;
    /// Rows of words in one depth block.
    const BLOCK: usize = DEPTH / Self::VALUES;

    /// Packs `dims` = [rows, width] values of b into one panel of words, padded with zeros.
    fn pack_panel(b: View<'_>, dims: [usize; 2], to: &mut [Self]);
}

impl Word for f32 {
    const VALUES: usize = 1;

    fn pack_panel(b: View<'_>, dims: [usize; 2], to: &mut [Self]) {
        pack_panel(b, dims, to);
    }
}

/// A matrix `[depth, columns]` packed for products with it: for each block of [`DEPTH`] rows, for
/// each panel of columns, the rows of the panel one after another, zero-padded.
#[derive(Clone)]
pub(crate) struct Panels<W = f32> {
    pub(super) values: Vec<W>,
    /// Rows of words.
    pub(super) depth: usize,
    pub(super) columns: usize,
}

impl<W> Default for Panels<W> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            depth: 0,
            columns: 0,
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<Panels>> = const { RefCell::new(Vec::new()) };
    /// Rows of a transposed left factor, packed.
    static LEFT: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Panels {
    /// Runs `work` with panels whose memory the thread keeps for the next time.
    pub(crate) fn with_scratch<R>(work: impl FnOnce(&mut Panels) -> R) -> R {
        let mut panels = SCRATCH
            .with_borrow_mut(|kept| kept.pop())
            .unwrap_or_default();
        let result = work(&mut panels);
        SCRATCH.with_borrow_mut(|kept| kept.push(panels));
        result
    }

    /// Packs b `[depth, columns]`.
    pub(crate) fn pack<'b>(&mut self, b: impl Into<Right<'b>>, dims: [usize; 2]) -> Part<'_> {
        self.pack_from(b.into(), [0, 0], dims)
    }

    /// Packs the `dims` values of b that start at `start`, a depth block and a panel's column.
    pub(super) fn pack_from(
        &mut self,
        b: Right<'_>,
        start: [usize; 2],
        dims: [usize; 2],
    ) -> Part<'_> {
        let ([depth, columns], [first, first_column]) = (dims, start);
        b.check(first + depth, first_column + columns);
        (self.depth, self.columns) = (depth, columns);
        let padded = columns.next_multiple_of(PANEL);
        if self.values.len() < depth * padded {
            self.values.resize(depth * padded, 0.0);
        }
        for from in (0..depth).step_by(DEPTH) {
            let rows = DEPTH.min(depth - from);
            for (panel, column) in (0..columns).step_by(PANEL).enumerate() {
                let to = from * padded + panel * PANEL * rows;
                let to = &mut self.values[to..to + rows * PANEL];
                let dims = [rows, PANEL.min(columns - column)];
                let (row, column) = (first + from, first_column + column);
                match b {
                    Right::Values(b) => pack_panel(b.from(row, column), dims, to),
                    Right::Panels(b) => to.copy_from_slice(&b.panel(row, column)[..to.len()]),
                    Right::Turned(b) => pack_turned_panels(b, [row, column], dims, to),
                    pairs @ (Right::Pairs(_) | Right::TurnedPairs(_)) => {
                        pack_values(pairs, [row, column], dims, to);
                    }
                }
            }
        }
        self.all()
    }

    /// c `[rows, columns]` = a `[rows, depth]` times the packed matrix, or added to it.
    pub(crate) fn multiply(&self, a: View<'_>, rows: usize, c: Output<'_>, write: Write) {
        self.all().multiply(a, rows, c, write);
    }
}

impl<W: Word> Panels<W> {
    /// Packs b `[depth, columns]` in parallel.
    ///
    /// # Errors
    /// [`OpsError::OutOfMemory`].
    pub(crate) fn of(b: View<'_>, dims: [usize; 2]) -> Result<Self, OpsError> {
        use rayon::prelude::*;
        let [depth, columns] = dims;
        b.check(depth, columns);
        let padded = columns.next_multiple_of(PANEL);
        let words = depth.div_ceil(W::VALUES);
        let mut values: Vec<W> = defaults(words * padded)?;
        let blocks = values
            .par_chunks_mut((W::BLOCK * padded).max(1))
            .enumerate();
        blocks.for_each(|(block, values)| {
            let rows = DEPTH.min(depth - block * DEPTH);
            let panels = values.par_chunks_mut(rows.div_ceil(W::VALUES) * PANEL);
            panels.enumerate().for_each(|(panel, to)| {
                let dims = [rows, PANEL.min(columns - panel * PANEL)];
                W::pack_panel(b.from(block * DEPTH, panel * PANEL), dims, to);
            });
        });
        Ok(Self {
            values,
            depth: words,
            columns,
        })
    }

    /// All columns.
    pub(crate) fn all(&self) -> Part<'_, W> {
        Part {
            values: &self.values,
            depth: self.depth,
            padded: self.columns.next_multiple_of(PANEL),
            first_depth: 0,
            first_column: 0,
            columns: self.columns,
        }
    }

    /// Size of the values in bytes.
    pub(crate) fn size_in_bytes(&self) -> usize {
        size_of_val(self.values.as_slice())
    }
}

/// Some columns of a packed matrix, from a whole number of depth blocks on.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a, W = f32> {
    values: &'a [W],
    /// Rows of words of the whole matrix.
    depth: usize,
    /// Columns of the whole matrix with their padding.
    padded: usize,
    first_depth: usize,
    first_column: usize,
    pub(super) columns: usize,
}

impl<'a, W: Word> Part<'a, W> {
    /// `columns` columns from `first` on; `first` is a whole number of panels.
    pub(crate) fn columns(self, first: usize, columns: usize) -> Self {
        assert!(first.is_multiple_of(PANEL) && first + columns <= self.columns);
        Self {
            first_column: self.first_column + first,
            columns,
            ..self
        }
    }

    /// The depth block that starts at row of words `from`.
    pub(super) fn depth_block(self, from: usize) -> Self {
        let first_depth = self.first_depth + from;
        assert!(first_depth.is_multiple_of(W::BLOCK) && first_depth < self.depth);
        Self {
            depth: self.depth.min(first_depth + W::BLOCK),
            first_depth,
            ..self
        }
    }

    /// Rows of words of this part.
    pub(crate) fn depth(&self) -> usize {
        self.depth - self.first_depth
    }

    /// Number of columns.
    pub(crate) fn width(&self) -> usize {
        self.columns
    }

    /// The word at (row of words, column).
    pub(crate) fn at(&self, row: usize, column: usize) -> W {
        assert!(column < self.columns);
        self.panel(row / W::BLOCK * W::BLOCK, column / PANEL * PANEL)
            [row % W::BLOCK * PANEL + column % PANEL]
    }

    /// The panel at (row of words, column), first of a depth block and of a panel:
    /// `[rows of the block, PANEL]`.
    pub(super) fn panel(&self, row: usize, column: usize) -> &'a [W] {
        let (row, column) = (self.first_depth + row, self.first_column + column);
        // A part of one depth block ends with the block, so both give the same number of rows.
        let rows = W::BLOCK.min(self.depth - row);
        let start = row * self.padded + column * rows;
        &self.values[start..start + rows * PANEL]
    }
}

impl Part<'_> {
    /// c `[rows, columns]` = a `[rows, depth]` times this part, or added to it.
    pub(crate) fn multiply(&self, a: View<'_>, rows: usize, c: Output<'_>, write: Write) {
        self.multiply_into(a, rows, Tile::from(c), write);
    }

    /// As [`Part::multiply`], into a part of a shared buffer.
    pub(super) fn multiply_into(&self, a: View<'_>, rows: usize, c: Tile<'_>, write: Write) {
        a.check(rows, self.depth());
        if rows == 0 || self.columns == 0 {
            return;
        }
        assert!(
            (rows - 1) * c.stride + self.columns <= c.len,
            "the result of a product is shorter than its dimensions"
        );
        LEFT.with_borrow_mut(|left| match level() {
            // SAFETY: the machine has the instruction set; a and c were checked above, panels check
            // themselves.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { multiply_avx512(*self, a, rows, c, write, left) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { multiply_avx2(*self, a, rows, c, write, left) },
            // SAFETY: a and c were checked above, panels check themselves.
            Level::Portable => unsafe { multiply_rows::<Portable>(*self, a, rows, c, write, left) },
        });
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn multiply_avx512(
    b: Part<'_>,
    a: View<'_>,
    rows: usize,
    c: Tile<'_>,
    write: Write,
    left: &mut Vec<f32>,
) {
    // SAFETY: by the caller.
    unsafe { multiply_rows::<Avx512>(b, a, rows, c, write, left) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_avx2(
    b: Part<'_>,
    a: View<'_>,
    rows: usize,
    c: Tile<'_>,
    write: Write,
    left: &mut Vec<f32>,
) {
    // SAFETY: by the caller.
    unsafe { multiply_rows::<Avx2>(b, a, rows, c, write, left) }
}

/// All register tiles of a product.
///
/// # Safety
/// The machine has the instruction set; `a` holds `rows` rows of the packed depth, `c` as many rows
/// of the packed columns, and nobody else writes those.
#[inline(always)]
unsafe fn multiply_rows<L: Lanes>(
    b: Part<'_>,
    a: View<'_>,
    rows: usize,
    c: Tile<'_>,
    write: Write,
    left: &mut Vec<f32>,
) {
    let packs_left = a.column_stride != 1;
    if packs_left && left.len() < ROWS * DEPTH {
        left.resize(ROWS * DEPTH, 0.0);
    }
    for from in (0..b.depth()).step_by(DEPTH) {
        let depth = DEPTH.min(b.depth() - from);
        for row in (0..rows).step_by(L::TILE_ROWS) {
            let count = L::TILE_ROWS.min(rows - row);
            let strip = a.from(row, from);
            let (a, a_row, a_step) = match packs_left {
                true => (pack_left(strip, [count, depth], left), 1, count),
                false => (strip.values.as_ptr(), strip.row_stride, 1),
            };
            for column in (0..b.columns).step_by(2 * L::WIDTH) {
                let columns = (2 * L::WIDTH).min(b.columns - column);
                let panel = b.panel(from, column / PANEL * PANEL);
                // SAFETY: panels are padded to PANEL columns and hold this depth; the row is inside
                // c.
                unsafe {
                    let addresses = Addresses {
                        depth,
                        a,
                        a_row,
                        a_step,
                        b: panel.as_ptr().add(column % PANEL),
                        b_step: PANEL,
                        to: Destination {
                            c: c.start.add(row * c.stride + column),
                            c_row: c.stride,
                            columns,
                            add: from > 0 || write == Write::Add,
                        },
                    };
                    tile_of_height::<L>(count, &addresses);
                }
            }
        }
    }
}

/// Dispatches on the tile's height, and on its width in vectors.
#[inline(always)]
unsafe fn tile_of_height<L: Lanes>(rows: usize, t: &Addresses) {
    of_height!(rows, t.to.columns, L, tile::<L>, t, 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

/// Packs rows of a transposed left factor, depth-major.
#[inline(always)]
pub(super) fn pack_left(a: View<'_>, dims: [usize; 2], left: &mut [f32]) -> *const f32 {
    let [rows, depth] = dims;
    for (k, to) in left.chunks_exact_mut(rows).take(depth).enumerate() {
        for (i, to) in to.iter_mut().enumerate() {
            *to = a.values[k * a.column_stride + i * a.row_stride];
        }
    }
    left.as_ptr()
}

/// Packs one panel of b, `[rows, width]` values.
pub(super) fn pack_panel(b: View<'_>, dims: [usize; 2], to: &mut [f32]) {
    let [rows, width] = dims;
    if b.column_stride == 1 {
        for (k, to) in to.chunks_exact_mut(PANEL).take(rows).enumerate() {
            let from = &b.values[k * b.row_stride..k * b.row_stride + width];
            to[..width].copy_from_slice(from);
            to[width..].fill(0.0);
        }
        return;
    }
    match level() {
        // SAFETY: `b` was checked to hold the panel, `to` holds rows * PANEL values, and the
        // machine has AVX2.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx2 => unsafe { pack_turned_avx2(b, dims, to) },
        // SAFETY: as above.
        Level::Portable => unsafe { pack_turned::<Portable>(b, dims, to) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn pack_turned_avx2(b: View<'_>, dims: [usize; 2], to: &mut [f32]) {
    // SAFETY: by the caller.
    unsafe { pack_turned::<Avx2>(b, dims, to) }
}

/// Packs a panel whose columns are contiguous, in full blocks of eight by eight values where
/// possible.
#[inline(always)]
unsafe fn pack_turned<L: Lanes>(b: View<'_>, dims: [usize; 2], to: &mut [f32]) {
    let [rows, width] = dims;
    let (whole_rows, whole_width) = if b.row_stride == 1 {
        (rows / 8 * 8, width / 8 * 8)
    } else {
        (0, 0)
    };
    for column in (0..whole_width).step_by(8) {
        for row in (0..whole_rows).step_by(8) {
            // SAFETY: rows row..row + 8 of columns column..column + 8 are inside b and inside the
            // panel.
            unsafe {
                let from = b.values.as_ptr().add(column * b.column_stride + row);
                L::turn8(
                    from,
                    b.column_stride,
                    to.as_mut_ptr().add(row * PANEL + column),
                    PANEL,
                );
            }
        }
    }
    for (row, to) in to.chunks_exact_mut(PANEL).take(rows).enumerate() {
        let done = if row < whole_rows { whole_width } else { 0 };
        for (column, to) in to.iter_mut().enumerate().skip(done) {
            *to = match column < width {
                true => b.values[row * b.row_stride + column * b.column_stride],
                false => 0.0,
            };
        }
    }
}

/// Packs a panel value by value, from a factor in any layout.
fn pack_values(b: Right<'_>, start: [usize; 2], dims: [usize; 2], to: &mut [f32]) {
    for (row, to) in to.chunks_exact_mut(PANEL).take(dims[0]).enumerate() {
        to.fill(0.0);
        for (column, to) in to.iter_mut().enumerate().take(dims[1]) {
            *to = b.value(start[0] + row, start[1] + column);
        }
    }
}

/// Packs a panel of the transpose of packed columns: its value (i, j) is their value
/// (`start[1]` + j, `start[0]` + i).
fn pack_turned_panels(b: Part<'_>, start: [usize; 2], dims: [usize; 2], to: &mut [f32]) {
    match level() {
        // SAFETY: `to` holds dims[0] * PANEL values, and the machine has AVX2.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx2 => unsafe { turn_panels_avx2(b, start, dims, to) },
        // SAFETY: as above.
        Level::Portable => unsafe { turn_panels::<Portable>(b, start, dims, to) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn turn_panels_avx2(b: Part<'_>, start: [usize; 2], dims: [usize; 2], to: &mut [f32]) {
    // SAFETY: by the caller.
    unsafe { turn_panels::<Avx2>(b, start, dims, to) }
}

/// Transposes one source panel after another, in full blocks of eight by eight values where
/// possible.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn turn_panels<L: Lanes>(b: Part<'_>, start: [usize; 2], dims: [usize; 2], to: &mut [f32]) {
    let ([first, column], [rows, width]) = (start, dims);
    assert!(
        to.len() >= rows * PANEL && first.is_multiple_of(PANEL) && column.is_multiple_of(PANEL)
    );
    for (source_column, to) in (first..first + rows)
        .step_by(PANEL)
        .zip(to.chunks_mut(PANEL * PANEL))
    {
        // A panel is no wider than a depth block is high, so its columns lie in one block of the
        // source.
        let source = b.panel(column / DEPTH * DEPTH, source_column);
        let source = &source[column % DEPTH * PANEL..][..width * PANEL];
        let rows = to.len() / PANEL;
        let (whole_rows, whole_width) = (rows / 8 * 8, width / 8 * 8);
        for j in (0..whole_width).step_by(8) {
            for i in (0..whole_rows).step_by(8) {
                // SAFETY: rows j..j + 8 of the source and i..i + 8 of the panel exist, PANEL values
                // each.
                unsafe {
                    let (from, to) = (source.as_ptr(), to.as_mut_ptr());
                    L::turn8(from.add(j * PANEL + i), PANEL, to.add(i * PANEL + j), PANEL);
                }
            }
        }
        for (i, to) in to.chunks_exact_mut(PANEL).take(rows).enumerate() {
            let done = if i < whole_rows { whole_width } else { 0 };
            for (j, to) in to.iter_mut().enumerate().skip(done) {
                *to = if j < width {
                    source[j * PANEL + i]
                } else {
                    0.0
                };
            }
        }
    }
}
