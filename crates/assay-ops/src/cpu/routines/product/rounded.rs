//! Products of factors rounded to bf16, summed in f32.
//!
//! Both factors are rounded to the nearest bf16, ties to even. Products of two bf16 values are
//! exact in f32, and the sums are those of the f32 product in the same order. So the result has the
//! bits of the f32 product of the rounded factors.
//!
//! There are two ways to compute it. [`Method::Widen`] widens the packed right factor in registers
//! and uses f32 fused multiply-adds: it halves the memory traffic of the f32 product at the same
//! rate. [`Method::Dot`] uses AVX512-BF16, which multiplies two pairs at a time. It differs in one
//! point: it treats subnormal numbers as zero.
//!
//! No published crate is suitable: `gemm` has no bf16, and `gemmkit` rounds results to bf16 and
//! uses other code for few rows.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::sync::OnceLock;

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512, dot_tile};
use super::lanes::{Destination, Lanes, PairAddresses, Portable, ROWS, widening_tile};
use super::pairs::{Pair, pair_row, round_row};
use super::panels::{PANEL, Word};
use super::{
    Block, DEPTH, Output, Panels, Part, Right, SharedOutput, Term, View, Write, each_block,
};
use crate::OpsError;
use crate::cpu::routines::disjoint::Tile;
use crate::cpu::routines::{Level, level};
use crate::values::defaults;

/// Rows of a left factor that one task rounds.
const ROUNDED_ROWS: usize = 32;

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
/// AMD's cores run `vdpbf16ps` at the rate of f32 multiply-adds, so pairs are twice as fast.
/// Intel's run it at half that rate (measured on an Emerald Rapids core: 88 against 179 GFLOP/s),
/// so widening is as fast and exact for subnormal numbers.
pub(crate) fn method() -> Method {
    static METHOD: OnceLock<Method> = OnceLock::new();
    *METHOD.get_or_init(|| match has_dot() && vendor_is_amd() {
        true => Method::Dot,
        false => Method::Widen,
    })
}

/// Returns whether this CPU has instructions that multiply bf16 faster than f32.
///
/// If it returns false, bf16 matrices still halve memory and memory traffic, but large products
/// take as long as in f32.
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
    /// Rounds `dims` = [rows, depth] values of a transposed factor: the words of all rows for one
    /// depth, then for the next.
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

thread_local! {
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
            let round = |(row, to): (usize, &mut [W])| {
                W::round_row(&values.values[row * values.row_stride..][..depth], to);
            };
            // For few rows, another thread is not worth the overhead.
            match buffer.len() <= ROUNDED_ROWS * stride {
                true => buffer.chunks_mut(stride).enumerate().for_each(round),
                false => buffer
                    .par_chunks_mut(stride)
                    .enumerate()
                    .with_min_len(ROUNDED_ROWS)
                    .for_each(round),
            }
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

    /// Calls `tile` for each register tile of at most `height` rows and two vectors of `lanes`
    /// columns.
    ///
    /// # Safety
    /// The addresses that `tile` receives are valid if the caller of [`LeftWord::multiply`] meets
    /// its safety conditions.
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

/// c `[m, n]` = the sum of the terms in order with their factors rounded to bf16, or added to it,
/// in parallel.
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
    /// c `[rows, columns]` = a `[rows, depth]` rounded to bf16 times this part, or added to it, on
    /// this thread.
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
    use crate::cpu::routines::product::multiply_terms;
    use crate::cpu::routines::product::pairs::rounded_bits;
    use crate::cpu::routines::product::tests::{SHAPES, numbers};

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
        for [m, depth, n] in SHAPES {
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
}
