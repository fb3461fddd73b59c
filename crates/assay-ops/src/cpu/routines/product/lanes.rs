//! Vectors of floats and the register tile of a product, for each instruction set.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Rows of the tallest register tile.
pub(crate) const ROWS: usize = 14;

/// Number of rows of the right factor that are prefetched. With few rows on the left, frozen
/// weights are read directly from memory.
const AHEAD: usize = 16;

/// A vector register of floats.
pub(crate) trait Lanes: Copy {
    /// Number of floats in a vector.
    const WIDTH: usize;
    /// Rows of a register tile two vectors wide.
    const TILE_ROWS: usize;

    /// All zero.
    ///
    /// # Safety
    /// The machine has the instruction set. This holds for all functions here.
    unsafe fn zero() -> Self;
    /// `WIDTH` floats at `from`.
    ///
    /// # Safety
    /// `from` is readable for `WIDTH` floats.
    unsafe fn load(from: *const f32) -> Self;
    /// The float at `from` in every lane.
    ///
    /// # Safety
    /// `from` is readable.
    unsafe fn splat(from: *const f32) -> Self;
    /// a * b + self, rounded once.
    ///
    /// # Safety
    /// As [`Lanes::zero`].
    unsafe fn fused(self, a: Self, b: Self) -> Self;
    /// self + the floats at `to`.
    ///
    /// # Safety
    /// `to` is readable for `WIDTH` floats.
    unsafe fn plus(self, to: *const f32) -> Self;
    /// The first values of `WIDTH` bf16 pairs at `from`, which are their high halves.
    ///
    /// # Safety
    /// `from` is readable for `WIDTH` words.
    unsafe fn widen_first(from: *const u32) -> Self;
    /// The second values of `WIDTH` bf16 pairs at `from`, which are their low halves.
    ///
    /// # Safety
    /// `from` is readable for `WIDTH` words.
    unsafe fn widen_second(from: *const u32) -> Self;
    /// Writes `WIDTH` floats.
    ///
    /// # Safety
    /// `to` is writable for `WIDTH` floats.
    unsafe fn store(self, to: *mut f32);
    /// Prefetches the cache line at `from`, which may be any address.
    #[inline(always)]
    fn prefetch(_from: *const f32) {}
    /// Writes eight rows of eight floats, `stride` apart at `from`, as columns `to_stride` apart at
    /// `to`.
    ///
    /// # Safety
    /// All 64 addresses on both sides are valid.
    unsafe fn turn8(from: *const f32, stride: usize, to: *mut f32, to_stride: usize);
}

/// Eight floats without intrinsics.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 8]);

impl Lanes for Portable {
    const WIDTH: usize = 8;
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0.0; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: readable by the caller's promise.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self {
        // SAFETY: readable by the caller's promise.
        Self([unsafe { *from }; 8])
    }

    #[inline(always)]
    unsafe fn fused(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|i| a.0[i].mul_add(b.0[i], self.0[i])))
    }

    #[inline(always)]
    unsafe fn plus(self, to: *const f32) -> Self {
        // SAFETY: readable by the caller's promise.
        let before = unsafe { Self::load(to) };
        Self(std::array::from_fn(|i| before.0[i] + self.0[i]))
    }

    #[inline(always)]
    unsafe fn widen_first(from: *const u32) -> Self {
        // SAFETY: readable by the caller's promise.
        let words = unsafe { from.cast::<[u32; 8]>().read_unaligned() };
        Self(words.map(|word| f32::from_bits(word & 0xffff_0000)))
    }

    #[inline(always)]
    unsafe fn widen_second(from: *const u32) -> Self {
        // SAFETY: readable by the caller's promise.
        let words = unsafe { from.cast::<[u32; 8]>().read_unaligned() };
        Self(words.map(|word| f32::from_bits(word << 16)))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: writable by the caller's promise.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn turn8(from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
        for i in 0..8 {
            for j in 0..8 {
                // SAFETY: valid by the caller's promise.
                unsafe { *to.add(j * to_stride + i) = *from.add(i * stride + j) }
            }
        }
    }
}

/// AVX2 with FMA.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256);

#[cfg(target_arch = "x86_64")]
impl Lanes for Avx2 {
    const WIDTH: usize = 8;
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    fn prefetch(from: *const f32) {
        // SAFETY: a prefetch reads nothing and faults on no address; every x86-64 machine has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller has the instruction set; so below.
        Self(unsafe { _mm256_setzero_ps() })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: readable by the caller's promise.
        Self(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self {
        // SAFETY: readable by the caller's promise.
        Self(unsafe { _mm256_set1_ps(*from) })
    }

    #[inline(always)]
    unsafe fn fused(self, a: Self, b: Self) -> Self {
        // SAFETY: see `zero`.
        Self(unsafe { _mm256_fmadd_ps(a.0, b.0, self.0) })
    }

    #[inline(always)]
    unsafe fn plus(self, to: *const f32) -> Self {
        // SAFETY: readable by the caller's promise.
        Self(unsafe { _mm256_add_ps(_mm256_loadu_ps(to), self.0) })
    }

    #[inline(always)]
    unsafe fn widen_first(from: *const u32) -> Self {
        // SAFETY: readable by the caller's promise.
        Self(unsafe {
            let words = _mm256_loadu_si256(from.cast());
            let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            _mm256_castsi256_ps(_mm256_and_si256(words, high))
        })
    }

    #[inline(always)]
    unsafe fn widen_second(from: *const u32) -> Self {
        // SAFETY: readable by the caller's promise.
        Self(unsafe {
            let words = _mm256_loadu_si256(from.cast());
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
        })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: writable by the caller's promise.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn turn8(from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: valid by the caller's promise.
        unsafe { turn8_avx(from, stride, to, to_stride) }
    }
}

/// AVX-512.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

#[cfg(target_arch = "x86_64")]
impl Lanes for Avx512 {
    const WIDTH: usize = 16;
    const TILE_ROWS: usize = ROWS;

    #[inline(always)]
    fn prefetch(from: *const f32) {
        // SAFETY: a prefetch reads nothing and faults on no address; every x86-64 machine has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller has the instruction set; so below.
        Self(unsafe { _mm512_setzero_ps() })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: readable by the caller's promise.
        Self(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self {
        // SAFETY: readable by the caller's promise.
        Self(unsafe { _mm512_set1_ps(*from) })
    }

    #[inline(always)]
    unsafe fn fused(self, a: Self, b: Self) -> Self {
        // SAFETY: see `zero`.
        Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
    }

    #[inline(always)]
    unsafe fn plus(self, to: *const f32) -> Self {
        // SAFETY: readable by the caller's promise.
        Self(unsafe { _mm512_add_ps(_mm512_loadu_ps(to), self.0) })
    }

    #[inline(always)]
    unsafe fn widen_first(from: *const u32) -> Self {
        // SAFETY: readable by the caller's promise.
        Self(unsafe {
            let words = _mm512_loadu_si512(from.cast());
            let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            _mm512_castsi512_ps(_mm512_and_si512(words, high))
        })
    }

    #[inline(always)]
    unsafe fn widen_second(from: *const u32) -> Self {
        // SAFETY: readable by the caller's promise.
        Self(unsafe {
            let words = _mm512_loadu_si512(from.cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
        })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: writable by the caller's promise.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn turn8(from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: valid by the caller's promise.
        unsafe { turn8_avx(from, stride, to, to_stride) }
    }
}

/// The transpose of eight by eight floats in registers.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn turn8_avx(from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
    // SAFETY: the caller has AVX and promises all 64 addresses on both sides.
    unsafe {
        let r: [__m256; 8] = std::array::from_fn(|i| _mm256_loadu_ps(from.add(i * stride)));
        let low = |i: usize| _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        let high = |i: usize| _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        let quads = |half: usize| {
            let (a, b, c, d) = (
                low(2 * half),
                low(2 * half + 1),
                high(2 * half),
                high(2 * half + 1),
            );
            [
                _mm256_shuffle_ps::<0x44>(a, b),
                _mm256_shuffle_ps::<0xEE>(a, b),
                _mm256_shuffle_ps::<0x44>(c, d),
                _mm256_shuffle_ps::<0xEE>(c, d),
            ]
        };
        let (top, bottom) = (quads(0), quads(1));
        for i in 0..4 {
            _mm256_storeu_ps(
                to.add(i * to_stride),
                _mm256_permute2f128_ps::<0x20>(top[i], bottom[i]),
            );
            _mm256_storeu_ps(
                to.add((i + 4) * to_stride),
                _mm256_permute2f128_ps::<0x31>(top[i], bottom[i]),
            );
        }
    }
}

/// Addresses of one register tile: c `[M, V * WIDTH]` (+)= a `[M, depth]` b `[depth, V * WIDTH]`.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) depth: usize,
    pub(crate) a: *const f32,
    pub(crate) a_row: usize,
    pub(crate) a_step: usize,
    pub(crate) b: *const f32,
    pub(crate) b_step: usize,
    pub(crate) to: Destination,
}

/// As [`Addresses`], with b in bf16 pairs and a in words of type `W`.
#[derive(Clone, Copy)]
pub(crate) struct PairAddresses<W> {
    pub(crate) pairs: usize,
    pub(crate) a: *const W,
    pub(crate) a_row: usize,
    /// Distance of the words of neighbours in depth.
    pub(crate) a_step: usize,
    pub(crate) b: *const u32,
    pub(crate) b_step: usize,
    pub(crate) to: Destination,
}

/// Where a register tile is written.
#[derive(Clone, Copy)]
pub(crate) struct Destination {
    pub(crate) c: *mut f32,
    pub(crate) c_row: usize,
    /// Columns to write; the rest of the tile is padding.
    pub(crate) columns: usize,
    pub(crate) add: bool,
}

/// One register tile.
///
/// # Safety
/// The machine has the instruction set; a and b are readable and the first `columns` of each row of
/// c writable.
#[inline(always)]
pub(crate) unsafe fn tile<L: Lanes, const M: usize, const V: usize>(t: &Addresses) {
    // SAFETY: every address is among those the caller promises.
    unsafe {
        let mut sums = [[L::zero(); V]; M];
        let (mut a, mut b) = (t.a, t.b);
        for _ in 0..t.depth {
            let mut right = [L::zero(); V];
            for (v, right) in right.iter_mut().enumerate() {
                L::prefetch(b.wrapping_add(AHEAD * t.b_step + v * L::WIDTH));
                *right = L::load(b.add(v * L::WIDTH));
            }
            for (m, sums) in sums.iter_mut().enumerate() {
                let left = L::splat(a.wrapping_add(m * t.a_row));
                for v in 0..V {
                    sums[v] = sums[v].fused(left, right[v]);
                }
            }
            a = a.wrapping_add(t.a_step);
            b = b.wrapping_add(t.b_step);
        }
        store(sums, &t.to);
    }
}

/// Calls a function of the tile's height and of its width in vectors.
macro_rules! of_height {
    ($rows:expr, $columns:expr, $lanes:ty, $tile:ident :: <$generic:ty>, $t:expr, $($height:literal)*) => {
        match $rows {
            $($height if $height <= <$lanes>::TILE_ROWS => match $columns <= <$lanes>::WIDTH {
                // SAFETY: by the caller.
                true => unsafe { $tile::<$generic, $height, 1>($t) },
                // SAFETY: by the caller.
                false => unsafe { $tile::<$generic, $height, 2>($t) },
            },)*
            _ => {}
        }
    };
}
pub(crate) use of_height;

/// One register tile of bf16 pairs with f32 multiply-adds, of `rows` rows.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
pub(crate) unsafe fn widening_tile<L: Lanes>(rows: usize, t: &PairAddresses<f32>) {
    of_height!(rows, t.to.columns, L, widen::<L>, t, 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn widen<L: Lanes, const M: usize, const V: usize>(t: &PairAddresses<f32>) {
    // SAFETY: the caller has the instruction set.
    let mut sums = [[unsafe { L::zero() }; V]; M];
    let (mut a, mut b) = (t.a, t.b);
    // A macro, because sums that pass through a function do not stay in registers.
    macro_rules! add_products {
        ($widen:ident) => {
            let mut right = [L::zero(); V];
            for (v, right) in right.iter_mut().enumerate() {
                *right = L::$widen(b.add(v * L::WIDTH));
            }
            for (m, sums) in sums.iter_mut().enumerate() {
                let left = L::splat(a.wrapping_add(m * t.a_row));
                for v in 0..V {
                    sums[v] = sums[v].fused(left, right[v]);
                }
            }
            a = a.wrapping_add(t.a_step);
        };
    }
    for _ in 0..t.pairs {
        // SAFETY: every address is among those the caller promises.
        unsafe {
            for v in 0..V {
                L::prefetch(b.wrapping_add(AHEAD * t.b_step + v * L::WIDTH).cast());
            }
            add_products!(widen_first);
            add_products!(widen_second);
        }
        b = b.wrapping_add(t.b_step);
    }
    // SAFETY: by the caller.
    unsafe { store(sums, &t.to) }
}

/// One register tile of bf16 pairs with AVX512-BF16, of `rows` rows.
///
/// # Safety
/// As [`tile`]; a word of a is a pair.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) unsafe fn dot_tile<W>(rows: usize, t: &PairAddresses<W>) {
    of_height!(rows, t.to.columns, Avx512, dot::<W>, t, 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

/// # Safety
/// As [`tile`]; a word of a is a pair.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn dot<W, const M: usize, const V: usize>(t: &PairAddresses<W>) {
    // SAFETY: every address is among those the caller promises; vectors of pairs and of integers
    // have the same bits.
    unsafe {
        let mut sums = [[Avx512::zero(); V]; M];
        let (mut a, mut b) = (t.a.cast::<i32>(), t.b);
        for _ in 0..t.pairs {
            let mut right = [_mm512_setzero_si512(); V];
            for (v, right) in right.iter_mut().enumerate() {
                let from = b.add(v * Avx512::WIDTH);
                Avx512::prefetch(b.wrapping_add(AHEAD * t.b_step + v * Avx512::WIDTH).cast());
                *right = _mm512_loadu_si512(from.cast());
            }
            for (m, sums) in sums.iter_mut().enumerate() {
                let left = _mm512_set1_epi32(*a.wrapping_add(m * t.a_row));
                for v in 0..V {
                    let (left, right) = (pairs(left), pairs(right[v]));
                    sums[v] = Avx512(_mm512_dpbf16_ps(sums[v].0, left, right));
                }
            }
            a = a.wrapping_add(t.a_step);
            b = b.wrapping_add(t.b_step);
        }
        store(sums, &t.to);
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn pairs(words: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without invalid patterns.
    unsafe { std::mem::transmute(words) }
}

/// Writes a tile, or adds it to the values there. Takes a copy, so that the sums stay in registers
/// until here.
#[inline(always)]
unsafe fn store<L: Lanes, const M: usize, const V: usize>(sums: [[L; V]; M], t: &Destination) {
    // SAFETY: the caller promises the first `columns` of each row.
    unsafe {
        if t.columns == V * L::WIDTH {
            for (m, sums) in sums.iter().enumerate() {
                for (v, &sum) in sums.iter().enumerate() {
                    let to = t.c.add(m * t.c_row + v * L::WIDTH);
                    let sum = if t.add { sum.plus(to) } else { sum };
                    sum.store(to);
                }
            }
        } else {
            store_part(&sums, t);
        }
    }
}

/// Writes the first columns of a tile through a copy on the stack.
#[inline(always)]
unsafe fn store_part<L: Lanes, const M: usize, const V: usize>(
    sums: &[[L; V]; M],
    t: &Destination,
) {
    let mut row = [0f32; 64];
    for (m, sums) in sums.iter().enumerate() {
        for (v, sum) in sums.iter().enumerate() {
            // SAFETY: V * WIDTH is at most 32.
            unsafe { sum.store(row.as_mut_ptr().add(v * L::WIDTH)) }
        }
        for (column, &value) in row.iter().enumerate().take(t.columns) {
            // SAFETY: the caller promises the first `columns` of each row.
            let to = unsafe { &mut *t.c.add(m * t.c_row + column) };
            *to = if t.add { *to + value } else { value };
        }
    }
}
