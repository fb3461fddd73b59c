//! Matrices of bf16 values, packed in pairs of neighbours for products.
#![allow(unsafe_code)]

use std::cell::RefCell;

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512};
use super::lanes::{Lanes, Portable};
use super::panels::{PANEL, Word, pack_panel};
use super::{DEPTH, Panels, Part, Right, View};
use crate::cpu::routines::{Level, dispatched, level};

/// Pairs of a depth block.
const BLOCK: usize = DEPTH / 2;

/// Two neighbours of a column as bf16: the first in the high half, the second in the low half.
///
/// AVX512-BF16 adds the high half of a pair first, so sums run in the order of the column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Pair(u32);

impl Pair {
    #[inline(always)]
    pub(super) fn new(first: f32, second: f32) -> Self {
        Self(rounded_bits(first) | (rounded_bits(second) >> 16))
    }

    #[inline(always)]
    fn first(self) -> f32 {
        f32::from_bits(self.0 & 0xffff_0000)
    }

    #[inline(always)]
    fn second(self) -> f32 {
        f32::from_bits(self.0 << 16)
    }
}

/// Bits of the nearest bf16 as f32, ties to even; NaN stays NaN.
#[inline(always)]
pub(super) fn rounded_bits(value: f32) -> u32 {
    let bits = value.to_bits();
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    let is_nan = (bits & 0x7fff_ffff) > 0x7f80_0000;
    (if is_nan { bits | 0x0040_0000 } else { nearest }) & 0xffff_0000
}

impl Word for Pair {
    const VALUES: usize = 2;

    fn pack_panel(b: View<'_>, dims: [usize; 2], to: &mut [Self]) {
        let [rows, width] = dims;
        match b.column_stride {
            1 => pack_rows(b.values, b.row_stride, dims, to),
            _ => {
                let mut columns = [Pair::default(); PANEL * BLOCK];
                let pairs = rows.div_ceil(2);
                for (column, to) in columns.chunks_exact_mut(pairs).take(width).enumerate() {
                    let from = b.from(0, column);
                    match b.row_stride {
                        1 => pair_row(&from.values[..rows], to),
                        _ => pair_values(|row| from.at(row, 0), rows, to),
                    }
                }
                let columns = View::rows(as_f32(&columns), pairs).transposed();
                pack_panel(columns, [pairs, width], as_f32_mut(to));
            }
        }
    }
}

impl Part<'_, Pair> {
    /// The value at (row, column).
    pub(crate) fn value(&self, row: usize, column: usize) -> f32 {
        let pair = self.at(row / 2, column);
        match row.is_multiple_of(2) {
            true => pair.first(),
            false => pair.second(),
        }
    }
}

/// The words as f32 of the same bits, to move them with the vector instructions of floats.
fn as_f32(pairs: &[Pair]) -> &[f32] {
    // SAFETY: a pair is a u32; f32 has its size and alignment, and every bit pattern is an f32.
    unsafe { std::slice::from_raw_parts(pairs.as_ptr().cast(), pairs.len()) }
}

fn as_f32_mut(pairs: &mut [Pair]) -> &mut [f32] {
    // SAFETY: as in `as_f32`; every bit pattern is also a pair.
    unsafe { std::slice::from_raw_parts_mut(pairs.as_mut_ptr().cast(), pairs.len()) }
}

/// Pairs up `rows` values; the last pair of an odd number ends with zero.
fn pair_values(value: impl Fn(usize) -> f32, rows: usize, to: &mut [Pair]) {
    for (pair, to) in to.iter_mut().enumerate().take(rows.div_ceil(2)) {
        let second = if 2 * pair + 1 < rows {
            value(2 * pair + 1)
        } else {
            0.0
        };
        *to = Pair::new(value(2 * pair), second);
    }
}

dispatched! {
    /// Rounds neighbours to pairs; the last pair of an odd number ends with zero.
    pub(super) fn pair_row(from: &[f32], to: &mut [Pair]) {
        let (pairs, rest) = from.as_chunks::<2>();
        for (&[first, second], to) in pairs.iter().zip(to.iter_mut()) {
            *to = Pair::new(first, second);
        }
        if let (&[last], Some(to)) = (rest, to.get_mut(pairs.len())) {
            *to = Pair::new(last, 0.0);
        }
    }
}

dispatched! {
    /// Rounds values to bf16, kept as f32; sets the rest of `to` to zero.
    pub(super) fn round_row(from: &[f32], to: &mut [f32]) {
        let (to, rest) = to.split_at_mut(from.len());
        for (&from, to) in from.iter().zip(to) {
            *to = f32::from_bits(rounded_bits(from));
        }
        rest.fill(0.0);
    }
}

dispatched! {
    /// Pairs up rows of contiguous values, `stride` apart, into one panel.
    fn pack_rows(values: &[f32], stride: usize, dims: [usize; 2], to: &mut [Pair]) {
        let [rows, width] = dims;
        let zeros = [0f32; PANEL];
        for (pair, to) in to.chunks_exact_mut(PANEL).take(rows.div_ceil(2)).enumerate() {
            let first = &values[2 * pair * stride..][..width];
            let second = match 2 * pair + 1 < rows {
                true => &values[(2 * pair + 1) * stride..][..width],
                false => &zeros[..width],
            };
            let (to, rest) = to.split_at_mut(width);
            for ((&first, &second), to) in first.iter().zip(second).zip(to) {
                *to = Pair::new(first, second);
            }
            rest.fill(Pair::default());
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<Panels<Pair>>> = const { RefCell::new(Vec::new()) };
}

impl Panels<Pair> {
    /// Runs `work` with panels whose memory the thread keeps for the next time.
    pub(super) fn with_pair_scratch<R>(work: impl FnOnce(&mut Self) -> R) -> R {
        let mut panels = SCRATCH
            .with_borrow_mut(|kept| kept.pop())
            .unwrap_or_default();
        let result = work(&mut panels);
        SCRATCH.with_borrow_mut(|kept| kept.push(panels));
        result
    }

    /// Packs b `[depth, columns]`, in parallel.
    pub(crate) fn pairs_of(b: Right<'_>, dims: [usize; 2]) -> Self {
        let mut packed = Self::default();
        let [depth, columns] = dims;
        let padded = packed.reserve(b, [0, 0], dims);
        let blocks = packed.values.par_chunks_mut((BLOCK * padded).max(1));
        blocks.enumerate().for_each(|(block, values)| {
            let rows = DEPTH.min(depth - block * DEPTH);
            let panels = values.par_chunks_mut(rows.div_ceil(2) * PANEL);
            panels.enumerate().for_each(|(panel, to)| {
                let dims = [rows, PANEL.min(columns - panel * PANEL)];
                pack_pairs(b, [block * DEPTH, panel * PANEL], dims, to);
            });
        });
        packed
    }

    /// Packs the `dims` values of b that start at `start`, a depth block and a panel's column.
    pub(super) fn pack_pairs_from(
        &mut self,
        b: Right<'_>,
        start: [usize; 2],
        dims: [usize; 2],
    ) -> Part<'_, Pair> {
        let ([depth, columns], [first, first_column]) = (dims, start);
        let padded = self.reserve(b, start, dims);
        for from in (0..depth).step_by(DEPTH) {
            let rows = DEPTH.min(depth - from);
            let pairs = rows.div_ceil(2);
            for (panel, column) in (0..columns).step_by(PANEL).enumerate() {
                let at = from / 2 * padded + panel * PANEL * pairs;
                let to = &mut self.values[at..at + pairs * PANEL];
                let dims = [rows, PANEL.min(columns - column)];
                pack_pairs(b, [first + from, first_column + column], dims, to);
            }
        }
        self.all()
    }

    /// Makes room for the `dims` values of b from `start` on; returns the number of columns with
    /// their padding.
    fn reserve(&mut self, b: Right<'_>, start: [usize; 2], dims: [usize; 2]) -> usize {
        b.check(start[0] + dims[0], start[1] + dims[1]);
        let (pairs, padded) = (dims[0].div_ceil(2), dims[1].next_multiple_of(PANEL));
        (self.depth, self.columns) = (pairs, dims[1]);
        if self.values.len() < pairs * padded {
            self.values.resize(pairs * padded, Pair::default());
        }
        padded
    }
}

/// Packs one panel of b: `dims` = [rows, width] values from `start` on.
fn pack_pairs(b: Right<'_>, start: [usize; 2], dims: [usize; 2], to: &mut [Pair]) {
    let [row, column] = start;
    match b {
        Right::Values(b) => Pair::pack_panel(b.from(row, column), dims, to),
        Right::Pairs(b) => to.copy_from_slice(&b.panel(row / 2, column)[..to.len()]),
        Right::TurnedPairs(b) => pack_turned_pairs(b, start, dims, to),
        Right::Panels(_) | Right::Turned(_) => {
            to.fill(Pair::default());
            for (pair, to) in to.chunks_exact_mut(PANEL).enumerate() {
                let rows = (dims[0] - 2 * pair).min(2);
                for (j, to) in to.iter_mut().enumerate().take(dims[1]) {
                    let value = |i: usize| b.value(row + 2 * pair + i, column + j);
                    pair_values(value, rows, std::slice::from_mut(to));
                }
            }
        }
    }
}

/// Packs a panel of the transpose of packed pairs: its value (i, j) is their value
/// (`start[1]` + j, `start[0]` + i).
fn pack_turned_pairs(b: Part<'_, Pair>, start: [usize; 2], dims: [usize; 2], to: &mut [Pair]) {
    match level() {
        // SAFETY: the machine has AVX-512.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { turn_pairs_avx512(b, start, dims, to) },
        // SAFETY: the machine has AVX2.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { turn_pairs_avx2(b, start, dims, to) },
        // SAFETY: the portable version needs no instruction set.
        Level::Portable => unsafe { turn_pairs::<Portable>(b, start, dims, to) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn turn_pairs_avx512(
    b: Part<'_, Pair>,
    start: [usize; 2],
    dims: [usize; 2],
    to: &mut [Pair],
) {
    // SAFETY: by the caller.
    unsafe { turn_pairs::<Avx512>(b, start, dims, to) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn turn_pairs_avx2(b: Part<'_, Pair>, start: [usize; 2], dims: [usize; 2], to: &mut [Pair]) {
    // SAFETY: by the caller.
    unsafe { turn_pairs::<Avx2>(b, start, dims, to) }
}

/// Transposes one source panel after another: 32 columns of the source become 16 rows of pairs.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn turn_pairs<L: Lanes>(
    b: Part<'_, Pair>,
    start: [usize; 2],
    dims: [usize; 2],
    to: &mut [Pair],
) {
    const HALF: usize = PANEL / 2;
    let ([first, column], [rows, width]) = (start, dims);
    assert!(first.is_multiple_of(PANEL) && column.is_multiple_of(PANEL) && width <= PANEL);
    for (source_column, to) in (first..first + rows)
        .step_by(PANEL)
        .zip(to.chunks_mut(HALF * PANEL))
    {
        // A panel is no wider than a depth block is high, so its columns lie in one block of the
        // source.
        let pair = column / 2;
        let source = b.panel(pair / BLOCK * BLOCK, source_column);
        let source = &source[pair % BLOCK * PANEL..][..width.div_ceil(2) * PANEL];
        // Row j: the pairs of column j of the result.
        let mut turned = [[Pair::default(); HALF]; PANEL];
        for (source, turned) in source.chunks_exact(PANEL).zip(turned.chunks_exact_mut(2)) {
            let (firsts, seconds) = turned.split_at_mut(1);
            let (firsts, seconds) = (&mut firsts[0], &mut seconds[0]);
            for (i, words) in source.as_chunks::<2>().0.iter().enumerate() {
                let [a, b] = [words[0].0, words[1].0];
                firsts[i] = Pair((a & 0xffff_0000) | (b >> 16));
                seconds[i] = Pair((a << 16) | (b & 0xffff));
            }
        }
        let pairs = to.len() / PANEL;
        let whole = pairs / 8 * 8;
        for p in (0..whole).step_by(8) {
            for j in (0..PANEL).step_by(8) {
                // SAFETY: rows j..j + 8 and pairs p..p + 8 exist on both sides.
                unsafe {
                    let from = turned.as_ptr().cast::<f32>().add(j * HALF + p);
                    let to = to.as_mut_ptr().cast::<f32>().add(p * PANEL + j);
                    L::turn8(from, HALF, to, PANEL);
                }
            }
        }
        for (p, to) in to.chunks_exact_mut(PANEL).enumerate().skip(whole) {
            for (to, turned) in to.iter_mut().zip(&turned) {
                *to = turned[p];
            }
        }
    }
}
