//! Products of factors rounded to bf16, summed in f32.
//!
//! Both factors are rounded to the nearest bf16, ties to even. Products of two bf16 values are exact in f32, and the sums are
//! those of the f32 product in the same order. So the result has the bits of the f32 product of the rounded factors.
//!
//! There are two ways to compute it. [`Method::Widen`] widens the packed right factor in registers and uses f32 fused
//! multiply-adds: it halves the memory traffic of the f32 product at the same rate. [`Method::Dot`] uses AVX512-BF16, which
//! multiplies two pairs at a time. It differs in one point: it treats subnormal numbers as zero.
//!
//! The crates `gemm` and `gemmkit` are not used: their results depend on the number of rows and threads.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::sync::OnceLock;

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512, dot_tile};
use super::lanes::{Destination, Lanes, PairAddresses, Portable, ROWS, widening_tile};
use super::panels::{PANEL, Word, pack_panel};
use super::{
    Block, DEPTH, Output, Panels, Part, Right, SharedOutput, Term, View, Write, each_block,
};
use crate::OpsError;
use crate::cpu::routines::disjoint::Tile;
use crate::cpu::routines::{Level, dispatched, level};
use crate::values::defaults;

/// Pairs of a depth block.
const BLOCK: usize = DEPTH / 2;
/// Rows of a left factor that one task rounds.
const ROUNDED_ROWS: usize = 32;

/// Two neighbours of a column as bf16: the first in the high half, the second in the low half.
///
/// AVX512-BF16 adds the high half of a pair first, so sums run in the order of the column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Pair(u32);

impl Pair {
    #[inline(always)]
    fn new(first: f32, second: f32) -> Self {
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
fn rounded_bits(value: f32) -> u32 {
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
    fn pair_row(from: &[f32], to: &mut [Pair]) {
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
    fn round_row(from: &[f32], to: &mut [f32]) {
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
    static WIDE: RefCell<Buffers<f32>> = const { RefCell::new(Buffers::new()) };
    static PAIRED: RefCell<Buffers<Pair>> = const { RefCell::new(Buffers::new()) };
}

/// Buffers of left factors that a thread keeps.
struct Buffers<W> {
    /// Rounded rows.
    rows: Vec<W>,
    /// A strip of a transposed factor.
    strip: Vec<W>,
}

impl<W> Buffers<W> {
    const fn new() -> Self {
        Self {
            rows: Vec::new(),
            strip: Vec::new(),
        }
    }
}

impl Panels<Pair> {
    /// Runs `work` with panels whose memory the thread keeps for the next time.
    fn with_pair_scratch<R>(work: impl FnOnce(&mut Self) -> R) -> R {
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
    fn pack_pairs_from(
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

    /// Makes room for the `dims` values of b from `start` on; returns the number of columns with their padding.
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

/// Packs a panel of the transpose of packed pairs: value (i, j) of it is value (`start[1]` + j, `start[0]` + i) of them.
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

/// Turns one source panel after another: 32 columns of the source become 16 rows of pairs.
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
        // A panel is no wider than a depth block is high, so its columns lie in one block of the source.
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

/// How products of bf16 factors are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// f32 multiply-adds of widened values.
    Widen,
    /// Dot products of pairs with AVX512-BF16.
    Dot,
}

/// The faster method of this machine.
///
/// AMD's cores run `vdpbf16ps` at the rate of f32 multiply-adds, so pairs are twice as fast. Intel's run it at half that rate
/// (measured on an Emerald Rapids core: 88 against 179 GFLOP/s), so widening is as fast and exact for subnormal numbers.
pub(crate) fn method() -> Method {
    static METHOD: OnceLock<Method> = OnceLock::new();
    *METHOD.get_or_init(|| match has_dot() && vendor_is_amd() {
        true => Method::Dot,
        false => Method::Widen,
    })
}

/// Returns whether this CPU has instructions that multiply bf16 faster than f32.
///
/// Where it returns false, bf16 matrices halve memory and memory traffic, and large products take as long as in f32.
pub fn multiplies_bf16_natively() -> bool {
    method() == Method::Dot
}

/// Whether the machine has AVX512-BF16.
pub(super) fn has_dot() -> bool {
    #[cfg(target_arch = "x86_64")]
    return level() == Level::Avx512 && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

fn vendor_is_amd() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let found = std::arch::x86_64::__cpuid(0);
        let vendor = [found.ebx, found.edx, found.ecx].map(u32::to_le_bytes);
        vendor.as_flattened() == b"AuthenticAMD"
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// A word of a rounded left factor: an f32 for [`Method::Widen`], a pair for [`Method::Dot`].
trait LeftWord: Word {
    /// Rounds contiguous values of a row; the rest of `to` becomes zero.
    fn round_row(from: &[f32], to: &mut [Self]);
    /// Rounds `dims` = [rows, depth] values of a transposed factor: the words of all rows for each step in depth.
    fn pack_strip(a: View<'_>, dims: [usize; 2], to: &mut [Self]);
    /// Runs `work` with buffers that the thread keeps.
    fn with_buffers<R>(work: impl FnOnce(&mut Buffers<Self>) -> R) -> R;
    /// Computes all register tiles of a product.
    ///
    /// # Safety
    /// `c` has room for the rows and columns of the product, and no other task writes them.
    unsafe fn multiply(product: &Strips<'_, Self>, c: Tile<'_>, strip: &mut Vec<Self>);
}

impl LeftWord for f32 {
    fn round_row(from: &[f32], to: &mut [Self]) {
        round_row(from, to);
    }

    fn pack_strip(a: View<'_>, dims: [usize; 2], to: &mut [Self]) {
        let [rows, depth] = dims;
        for (k, to) in to
            .chunks_exact_mut(rows)
            .take(depth.next_multiple_of(2))
            .enumerate()
        {
            match k < depth {
                true => round_row(&a.values[k * a.column_stride..][..rows], to),
                false => to.fill(0.0),
            }
        }
    }

    fn with_buffers<R>(work: impl FnOnce(&mut Buffers<Self>) -> R) -> R {
        WIDE.with_borrow_mut(work)
    }

    unsafe fn multiply(product: &Strips<'_, Self>, c: Tile<'_>, strip: &mut Vec<Self>) {
        match level() {
            // SAFETY: the machine has the instruction set; the rest by the caller.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { widen_avx512(product, c, strip) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { widen_avx2(product, c, strip) },
            // SAFETY: by the caller.
            Level::Portable => unsafe {
                product.tiles(Portable::TILE_ROWS, Portable::WIDTH, c, strip, |rows, t| {
                    widening_tile::<Portable>(rows, t)
                })
            },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn widen_avx512(product: &Strips<'_, f32>, c: Tile<'_>, strip: &mut Vec<f32>) {
    // SAFETY: by the caller.
    unsafe {
        product.tiles(Avx512::TILE_ROWS, Avx512::WIDTH, c, strip, |rows, t| {
            widening_tile::<Avx512>(rows, t)
        });
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn widen_avx2(product: &Strips<'_, f32>, c: Tile<'_>, strip: &mut Vec<f32>) {
    // SAFETY: by the caller.
    unsafe {
        product.tiles(Avx2::TILE_ROWS, Avx2::WIDTH, c, strip, |rows, t| {
            widening_tile::<Avx2>(rows, t)
        });
    }
}

impl LeftWord for Pair {
    fn round_row(from: &[f32], to: &mut [Self]) {
        pair_row(from, to);
    }

    fn pack_strip(a: View<'_>, dims: [usize; 2], to: &mut [Self]) {
        let [rows, depth] = dims;
        for (pair, to) in to
            .chunks_exact_mut(rows)
            .take(depth.div_ceil(2))
            .enumerate()
        {
            let row = |k: usize| &a.values[k * a.column_stride..][..rows];
            let first = row(2 * pair);
            match 2 * pair + 1 < depth {
                true => {
                    for ((to, &first), &second) in to.iter_mut().zip(first).zip(row(2 * pair + 1)) {
                        *to = Pair::new(first, second);
                    }
                }
                false => {
                    for (to, &first) in to.iter_mut().zip(first) {
                        *to = Pair::new(first, 0.0);
                    }
                }
            }
        }
    }

    fn with_buffers<R>(work: impl FnOnce(&mut Buffers<Self>) -> R) -> R {
        PAIRED.with_borrow_mut(work)
    }

    unsafe fn multiply(product: &Strips<'_, Self>, c: Tile<'_>, strip: &mut Vec<Self>) {
        assert!(has_dot(), "the machine has no AVX512-BF16");
        // SAFETY: the machine has the instruction set; the rest by the caller.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            dot_avx512(product, c, strip);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (product, c, strip);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn dot_avx512(product: &Strips<'_, Pair>, c: Tile<'_>, strip: &mut Vec<Pair>) {
    // SAFETY: by the caller.
    unsafe {
        product.tiles(Avx512::TILE_ROWS, Avx512::WIDTH, c, strip, |rows, t| {
            dot_tile(rows, t)
        });
    }
}

/// A rounded left factor.
#[derive(Clone, Copy)]
struct Left<'a, W> {
    /// Rounded rows, `stride` words each; empty where the values are transposed.
    rows: &'a [W],
    stride: usize,
    values: View<'a>,
}

impl<'a, W: LeftWord> Left<'a, W> {
    /// Words of a row: whole pairs.
    fn stride(depth: usize) -> usize {
        depth.next_multiple_of(2) / W::VALUES
    }

    /// Rounds a `[rows, depth]` into `buffer`, which has room for it.
    fn round(values: View<'a>, depth: usize, buffer: &'a mut [W]) -> Self {
        let stride = Self::stride(depth);
        if values.column_stride == 1 && stride > 0 {
            let rows = buffer.par_chunks_mut(stride).enumerate();
            rows.with_min_len(ROUNDED_ROWS).for_each(|(row, to)| {
                W::round_row(&values.values[row * values.row_stride..][..depth], to);
            });
        }
        Self {
            rows: buffer,
            stride,
            values,
        }
    }
}

/// Rows of a left factor times a packed right factor, over one range of depth.
struct Strips<'a, W> {
    left: Left<'a, W>,
    /// First row of the left factor, and how many.
    row: usize,
    rows: usize,
    /// First value of the depth, and how many.
    from: usize,
    depth: usize,
    b: Part<'a, Pair>,
    write: Write,
}

impl<W: LeftWord> Strips<'_, W> {
    /// Computes the product into `c`.
    fn multiply_into(&self, c: Tile<'_>, strip: &mut Vec<W>) {
        if self.rows == 0 || self.b.columns == 0 {
            return;
        }
        assert!(
            (self.rows - 1) * c.stride + self.b.columns <= c.len,
            "the result of a product is shorter than its dimensions"
        );
        assert!(self.depth.div_ceil(2) == self.b.depth() && self.from.is_multiple_of(DEPTH));
        // SAFETY: the addresses of c were checked; tasks have their own tiles.
        unsafe { W::multiply(self, c, strip) }
    }

    /// Calls `tile` for each register tile of at most `height` rows and two vectors of `lanes` columns.
    ///
    /// # Safety
    /// The addresses that `tile` receives are valid where the caller of [`LeftWord::multiply`] keeps its promise.
    #[inline(always)]
    unsafe fn tiles(
        &self,
        height: usize,
        lanes: usize,
        c: Tile<'_>,
        strip: &mut Vec<W>,
        tile: impl Fn(usize, &PairAddresses<W>),
    ) {
        for from in (0..self.depth).step_by(DEPTH) {
            let depth = DEPTH.min(self.depth - from);
            for row in (0..self.rows).step_by(height) {
                let count = height.min(self.rows - row);
                let (a, a_row, a_step) =
                    self.strip([self.row + row, self.from + from], [count, depth], strip);
                for column in (0..self.b.columns).step_by(2 * lanes) {
                    let panel = self.b.panel(from / 2, column / PANEL * PANEL);
                    // SAFETY: panels are padded to PANEL columns; the row is inside c.
                    let addresses = unsafe {
                        PairAddresses {
                            pairs: depth.div_ceil(2),
                            a,
                            a_row,
                            a_step,
                            b: panel.as_ptr().add(column % PANEL).cast(),
                            b_step: PANEL,
                            to: Destination {
                                c: c.start.add(row * c.stride + column),
                                c_row: c.stride,
                                columns: (2 * lanes).min(self.b.columns - column),
                                add: from > 0 || self.write == Write::Add,
                            },
                        }
                    };
                    tile(count, &addresses);
                }
            }
        }
    }

    /// First word, distance of rows and distance of steps in depth of some rows of the left factor.
    #[inline(always)]
    fn strip(
        &self,
        [row, from]: [usize; 2],
        [count, depth]: [usize; 2],
        strip: &mut Vec<W>,
    ) -> (*const W, usize, usize) {
        if self.left.values.column_stride == 1 {
            let stride = self.left.stride;
            let start = row * stride + from / W::VALUES;
            let last = start + (count - 1) * stride + depth.next_multiple_of(2) / W::VALUES;
            assert!(last <= self.left.rows.len());
            return (self.left.rows[start..].as_ptr(), stride, 1);
        }
        if strip.len() < ROWS * DEPTH {
            strip.resize(ROWS * DEPTH, W::default());
        }
        let values = self.left.values.from(row, from);
        W::pack_strip(values, [count, depth], strip);
        (strip.as_ptr(), 1, count)
    }
}

/// c `[m, n]` = the sum of the terms in order with their factors rounded to bf16, or added to it, in parallel.
///
/// # Errors
/// [`OpsError::OutOfMemory`].
pub(crate) fn multiply_rounded(
    dims: [usize; 2],
    terms: &[Term<'_>],
    c: Output<'_>,
    write: Write,
) -> Result<(), OpsError> {
    match method() {
        Method::Widen => multiply_by::<f32>(dims, terms, c, write),
        Method::Dot => multiply_by::<Pair>(dims, terms, c, write),
    }
}

fn multiply_by<W: LeftWord>(
    dims: [usize; 2],
    terms: &[Term<'_>],
    c: Output<'_>,
    write: Write,
) -> Result<(), OpsError> {
    let mut buffers = Vec::with_capacity(terms.len());
    for term in terms {
        term.a.check(dims[0], term.depth);
        let is_rows = term.a.column_stride == 1;
        let words = dims[0] * Left::<W>::stride(term.depth);
        buffers.push(defaults::<W>(if is_rows { words } else { 0 })?);
    }
    let lefts: Vec<Left<'_, W>> = terms
        .iter()
        .zip(&mut buffers)
        .map(|(term, buffer)| Left::round(term.a, term.depth, buffer))
        .collect();
    each_block(dims, terms, c, write, |block, out| {
        Panels::with_pair_scratch(|panels| {
            W::with_buffers(|buffers| {
                multiply_block(block, terms, &lefts, out, panels, &mut buffers.strip);
            });
        });
    });
    Ok(())
}

/// Computes a block of the result: all terms, one depth block after another.
fn multiply_block<W: LeftWord>(
    block: Block,
    terms: &[Term<'_>],
    lefts: &[Left<'_, W>],
    out: &SharedOutput<'_>,
    panels: &mut Panels<Pair>,
    strip: &mut Vec<W>,
) {
    let Block {
        start: [row, column],
        dims: [rows, columns],
    } = block;
    let mut write = out.write;
    for (term, &left) in terms.iter().zip(lefts) {
        for from in (0..term.depth).step_by(DEPTH) {
            let depth = DEPTH.min(term.depth - from);
            let b = match term.b {
                Right::Pairs(part) => part.depth_block(from / 2).columns(column, columns),
                unpacked => panels.pack_pairs_from(unpacked, [from, column], [depth, columns]),
            };
            let strips = Strips {
                left,
                row,
                rows,
                from,
                depth,
                b,
                write,
            };
            strips.multiply_into(out.tile(row, column), strip);
            write = Write::Add;
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

    /// c `[rows, columns]` = a `[rows, depth]` rounded to bf16 times this part, or added to it, on this thread.
    pub(crate) fn multiply(&self, a: View<'_>, dims: [usize; 2], c: Output<'_>, write: Write) {
        a.check(dims[0], dims[1]);
        match method() {
            Method::Widen => self.multiply_by::<f32>(a, dims, c, write),
            Method::Dot => self.multiply_by::<Pair>(a, dims, c, write),
        }
    }

    fn multiply_by<W: LeftWord>(
        &self,
        a: View<'_>,
        [rows, depth]: [usize; 2],
        c: Output<'_>,
        write: Write,
    ) {
        W::with_buffers(
            |Buffers {
                 rows: buffer,
                 strip,
             }| {
                let stride = Left::<W>::stride(depth);
                buffer.resize(buffer.len().max(rows * stride), W::default());
                if a.column_stride == 1 {
                    for (row, to) in buffer.chunks_exact_mut(stride).take(rows).enumerate() {
                        W::round_row(&a.values[row * a.row_stride..][..depth], to);
                    }
                }
                let left = Left {
                    rows: buffer,
                    stride,
                    values: a,
                };
                let strips = Strips {
                    left,
                    row: 0,
                    rows,
                    from: 0,
                    depth,
                    b: *self,
                    write,
                };
                strips.multiply_into(Tile::from(c), strip);
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::routines::product::{multiply_terms, tests::numbers};

    fn rounded(values: &[f32]) -> Vec<f32> {
        let round = |value: &f32| f32::from_bits(rounded_bits(*value));
        values.iter().map(round).collect()
    }

    /// Both methods where the machine has them.
    fn product(method: Method, dims: [usize; 2], term: Term<'_>, c: &mut [f32], write: Write) {
        let output = Output::rows(c, dims[1]);
        match method {
            Method::Widen => multiply_by::<f32>(dims, &[term], output, write).unwrap(),
            Method::Dot => multiply_by::<Pair>(dims, &[term], output, write).unwrap(),
        }
    }

    fn methods() -> Vec<Method> {
        match has_dot() {
            true => vec![Method::Widen, Method::Dot],
            false => vec![Method::Widen],
        }
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        let bf16 = |bits: u32| f32::from_bits(bits << 16);
        let between = |bits: u32, rest: u32| f32::from_bits((bits << 16) | rest);
        for (value, expected) in [
            (1.0, 1.0),
            (between(0x3f80, 0x8000), bf16(0x3f80)),
            (between(0x3f81, 0x8000), bf16(0x3f82)),
            (between(0x3f80, 0x8001), bf16(0x3f81)),
            (between(0xbf81, 0x7fff), bf16(0xbf81)),
            (f32::MAX, f32::INFINITY),
            (f32::NEG_INFINITY, f32::NEG_INFINITY),
            (-0.0, -0.0),
        ] {
            let found = f32::from_bits(rounded_bits(value));
            assert_eq!(found.to_bits(), f32::to_bits(expected), "{value}");
            let half = half::bf16::from_f32(value).to_f32();
            assert_eq!(found.to_bits(), half.to_bits(), "{value}");
        }
        assert!(f32::from_bits(rounded_bits(f32::from_bits(0x7f80_0001))).is_nan());
    }

    #[test]
    fn products_are_f32_products_of_rounded_factors() {
        for [m, depth, n] in [
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
        ] {
            if cfg!(miri) && m * depth * n > 20_000 {
                continue;
            }
            let (a, b) = (numbers(m * depth, 1), numbers(depth * n, 2));
            let (exact_a, exact_b) = (rounded(&a), rounded(&b));
            let mut expected = vec![f32::NAN; m * n];
            let term = Term {
                a: View::rows(&exact_a, depth),
                b: View::rows(&exact_b, n).into(),
                depth,
            };
            multiply_terms([m, n], &[term], Output::rows(&mut expected, n), Write::Set);
            let a_turned: Vec<f32> = (0..m * depth).map(|i| a[i % m * depth + i / m]).collect();
            let b_turned: Vec<f32> = (0..depth * n)
                .map(|i| b[i % depth * n + i / depth])
                .collect();
            let view = View::rows(&b, n);
            let packed: Panels<Pair> = Panels::of(view, [depth, n]).unwrap();
            let turned: Panels<Pair> = Panels::of(view.transposed(), [n, depth]).unwrap();
            let plain: Panels = Panels::of(view, [depth, n]).unwrap();
            let plain_turned: Panels = Panels::of(view.transposed(), [n, depth]).unwrap();
            let rights = [
                view.into(),
                View::rows(&b_turned, depth).transposed().into(),
                Right::Pairs(packed.all()),
                Right::TurnedPairs(turned.all()),
                Right::Panels(plain.all()),
                Right::Turned(plain_turned.all()),
            ];
            let lefts = [View::rows(&a, depth), View::rows(&a_turned, m).transposed()];
            for method in methods() {
                for (i, a) in lefts.into_iter().enumerate() {
                    for (j, b) in rights.into_iter().enumerate() {
                        let mut c = vec![f32::NAN; m * n];
                        let term = Term { a, b, depth };
                        product(method, [m, n], term, &mut c, Write::Set);
                        let place = format!("{method:?} [{m}, {depth}, {n}] {i} {j}");
                        assert!(c == expected, "{place}");
                        product(method, [m, n], term, &mut c, Write::Add);
                        if depth <= DEPTH {
                            let doubled = c.iter().zip(&expected).all(|(c, e)| *c == e + e);
                            assert!(doubled, "{place}");
                        }
                    }
                }
            }
            let mut c = vec![f32::NAN; m * n];
            let output = Output::rows(&mut c, n);
            packed
                .all()
                .multiply(lefts[0], [m, depth], output, Write::Set);
            assert!(c == expected, "on one thread [{m}, {depth}, {n}]");
        }
    }

    #[test]
    fn packed_values_are_the_rounded_ones() {
        let b = numbers(517 * 70, 3);
        let packed: Panels<Pair> = Panels::of(View::rows(&b, 70), [517, 70]).unwrap();
        for (index, expected) in rounded(&b).iter().enumerate() {
            let found = packed.all().value(index / 70, index % 70);
            assert_eq!(found, *expected, "{index}");
        }
        assert_eq!(packed.size_in_bytes(), 259 * 96 * 4);
    }

    /// One core's rate of the product, against the rate of its instruction: run with `--ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn rates_of_one_core() {
        use std::io::Write as _;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .unwrap();
        let mut report = String::new();
        for [m, depth, n] in [
            [300, 576, 1536],
            [2400, 576, 1536],
            [2400, 1536, 576],
            [300, 896, 4864],
            [1200, 4864, 896],
            [8, 576, 49_152],
        ] {
            let (a, b) = (numbers(m * depth, 1), numbers(depth * n, 2));
            let (exact, turned) = (View::rows(&b, n), View::rows(&b, n).transposed());
            let packed: Panels<Pair> = Panels::of(exact, [depth, n]).unwrap();
            let turned: Panels<Pair> = Panels::of(turned, [n, depth]).unwrap();
            let plain: Panels = Panels::of(exact, [depth, n]).unwrap();
            let mut c = vec![0f32; m * n];
            let mut rate = |run: &mut (dyn FnMut(&mut [f32]) + Send)| {
                let mut best = f64::INFINITY;
                pool.install(|| {
                    for _ in 0..12 {
                        let start = std::time::Instant::now();
                        run(&mut c);
                        best = best.min(start.elapsed().as_secs_f64());
                    }
                });
                (2 * m * depth * n) as f64 / best / 1e9
            };
            let a = View::rows(&a, depth);
            let term = |b| Term { a, b, depth };
            let f32s = rate(&mut |c| {
                let output = Output::rows(c, n);
                multiply_terms(
                    [m, n],
                    &[term(Right::Panels(plain.all()))],
                    output,
                    Write::Set,
                );
            });
            report += &format!("[{m}, {depth}, {n}] GFLOP/s: f32 {f32s:.0}");
            for method in methods() {
                for b in [Right::Pairs(packed.all()), Right::TurnedPairs(turned.all())] {
                    let found = rate(&mut |c| product(method, [m, n], term(b), c, Write::Set));
                    report += &format!(", {method:?} {found:.0}");
                }
            }
            report += "\n";
        }
        writeln!(std::io::stderr(), "{report}").unwrap();
    }
}
