//! The packed right factor of a product, and products with it.
#![allow(unsafe_code)]

use std::cell::RefCell;

use super::lanes::{Addresses, Lanes, Portable, ROWS, tile};
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512};
use super::{DEPTH, View, Write};
use crate::kernels::disjoint::Tile;
use crate::kernels::{Level, level};

/// Columns of a panel at every level: two AVX-512 vectors, four AVX2 ones.
const PANEL: usize = 32;

/// A matrix `[depth, columns]` packed for products with it: for each block of [`DEPTH`] rows, for each panel of columns, the
/// rows of the panel one after another, zero-padded.
#[derive(Default)]
pub(crate) struct Panels {
    values: Vec<f32>,
    depth: usize,
    columns: usize,
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
    pub(crate) fn pack(&mut self, b: View<'_>, dims: [usize; 2]) {
        let [depth, columns] = dims;
        b.check(depth, columns);
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
                let width = PANEL.min(columns - column);
                pack_panel(b.from(from, column), [rows, width], to);
            }
        }
    }

    /// c `[rows, columns]` = a `[rows, depth]` times the packed matrix, or added to it.
    pub(crate) fn multiply(&self, a: View<'_>, rows: usize, c: (&mut [f32], usize), write: Write) {
        self.multiply_into(a, rows, Tile::of(c.0, c.1), write);
    }

    /// As [`Panels::multiply`], into a part of a shared buffer.
    pub(super) fn multiply_into(&self, a: View<'_>, rows: usize, c: Tile<'_>, write: Write) {
        a.check(rows, self.depth);
        if rows == 0 || self.columns == 0 {
            return;
        }
        assert!(
            (rows - 1) * c.stride + self.columns <= c.len,
            "the result of a product is shorter than its dimensions"
        );
        let packed = Packed {
            values: &self.values,
            depth: self.depth,
            columns: self.columns,
        };
        LEFT.with_borrow_mut(|left| match level() {
            // SAFETY: the machine has the instruction set; a, c and the panels were checked above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { multiply_avx512(packed, a, rows, (c, write), left) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { multiply_avx2(packed, a, rows, (c, write), left) },
            // SAFETY: a, c and the panels were checked above.
            Level::Portable => unsafe {
                multiply_rows::<Portable>(packed, a, rows, (c, write), left)
            },
        });
    }
}

#[derive(Clone, Copy)]
struct Packed<'a> {
    values: &'a [f32],
    depth: usize,
    columns: usize,
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn multiply_avx512(
    b: Packed<'_>,
    a: View<'_>,
    rows: usize,
    c: (Tile<'_>, Write),
    left: &mut Vec<f32>,
) {
    // SAFETY: by the caller.
    unsafe { multiply_rows::<Avx512>(b, a, rows, c, left) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_avx2(
    b: Packed<'_>,
    a: View<'_>,
    rows: usize,
    c: (Tile<'_>, Write),
    left: &mut Vec<f32>,
) {
    // SAFETY: by the caller.
    unsafe { multiply_rows::<Avx2>(b, a, rows, c, left) }
}

/// All register tiles of a product.
///
/// # Safety
/// The machine has the instruction set; `a` holds `rows` rows of the packed depth, `c` as many rows of the packed columns, and
/// nobody else writes those.
#[inline(always)]
unsafe fn multiply_rows<L: Lanes>(
    b: Packed<'_>,
    a: View<'_>,
    rows: usize,
    c: (Tile<'_>, Write),
    left: &mut Vec<f32>,
) {
    let (c, write) = c;
    let padded = b.columns.next_multiple_of(PANEL);
    let packs_left = a.column_stride != 1;
    if packs_left && left.len() < ROWS * DEPTH {
        left.resize(ROWS * DEPTH, 0.0);
    }
    for from in (0..b.depth).step_by(DEPTH) {
        let depth = DEPTH.min(b.depth - from);
        for row in (0..rows).step_by(L::TILE_ROWS) {
            let count = L::TILE_ROWS.min(rows - row);
            let strip = a.from(row, from);
            let (a, a_row, a_step) = match packs_left {
                true => (pack_left(strip, [count, depth], left), 1, count),
                false => (strip.values.as_ptr(), strip.row_stride, 1),
            };
            for column in (0..b.columns).step_by(2 * L::WIDTH) {
                let columns = (2 * L::WIDTH).min(b.columns - column);
                let panel = from * padded + column / PANEL * PANEL * depth + column % PANEL;
                // SAFETY: panels are padded to PANEL columns and were packed for this depth; the row is inside c.
                unsafe {
                    let addresses = Addresses {
                        depth,
                        a,
                        a_row,
                        a_step,
                        b: b.values.as_ptr().add(panel),
                        b_step: PANEL,
                        c: c.start.add(row * c.stride + column),
                        c_row: c.stride,
                        columns,
                        add: from > 0 || write == Write::Add,
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
    macro_rules! heights {
        ($($height:literal)*) => {
            match rows {
                $($height if $height <= L::TILE_ROWS => match t.columns <= L::WIDTH {
                    // SAFETY: by the caller.
                    true => unsafe { tile::<L, $height, 1>(t) },
                    // SAFETY: by the caller.
                    false => unsafe { tile::<L, $height, 2>(t) },
                },)*
                _ => {}
            }
        };
    }
    heights!(1 2 3 4 5 6 7 8 9 10 11 12 13 14)
}

/// Packs rows of a transposed left factor, depth-major.
#[inline(always)]
fn pack_left(a: View<'_>, dims: [usize; 2], left: &mut [f32]) -> *const f32 {
    let [rows, depth] = dims;
    for (k, to) in left.chunks_exact_mut(rows).take(depth).enumerate() {
        for (i, to) in to.iter_mut().enumerate() {
            *to = a.values[k * a.column_stride + i * a.row_stride];
        }
    }
    left.as_ptr()
}

/// Packs one panel of b, `[rows, width]` values.
fn pack_panel(b: View<'_>, dims: [usize; 2], to: &mut [f32]) {
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
        // SAFETY: `b` was checked to hold the panel, `to` holds rows * PANEL values, and the machine has AVX2.
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

/// Packs a panel whose columns are contiguous: eight by eight values at a time where they are whole.
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
            // SAFETY: rows row..row + 8 of columns column..column + 8 are inside b and inside the panel.
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
