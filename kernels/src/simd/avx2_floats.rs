//! Few rows of f32 times rows of a weight where they lie, with AVX2: one fused multiply-add for each k, ascending, as of panels.

use std::arch::x86_64::*;

use super::RowsInPlace;
use super::avx2::add_product;
use super::avx2_rows::fetch_rows;
use super::tile::LOW_HALVES;

/// How numbers of a row become f32, `N` vectors of them at a time.
trait Numbers<const N: usize> {
    /// Bytes of so many numbers; divides [`RowsInPlace::BYTES`].
    const BYTES: usize;
    /// Numbers of a word.
    const STEP: usize;

    /// # Safety
    /// The bytes can be read. The CPU has AVX2.
    unsafe fn floats(from: *const u8) -> [__m256; N];

    /// What [`floats`](Self::floats) gave, in the order of columns.
    ///
    /// # Safety
    /// The CPU has AVX2.
    unsafe fn in_order(floats: [__m256; N]) -> [__m256; N];
}

/// Bit pattern of the upper halves of words.
const UPPER_HALVES: i32 = -0x1_0000;

struct Bf16;

impl Numbers<2> for Bf16 {
    const BYTES: usize = 32;
    const STEP: usize = 2;

    #[inline(always)]
    unsafe fn floats(from: *const u8) -> [__m256; 2] {
        // SAFETY: the caller's promise.
        unsafe { widened(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn in_order([even, odd]: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let (low, high) = (_mm256_unpacklo_ps(even, odd), _mm256_unpackhi_ps(even, odd));
            [_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high)]
        }
    }
}

struct Int8;

impl Numbers<4> for Int8 {
    const BYTES: usize = 32;
    const STEP: usize = 4;

    #[inline(always)]
    unsafe fn floats(from: *const u8) -> [__m256; 4] {
        // SAFETY: the caller's promise.
        let eight = |i: usize| unsafe {
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast::<__m128i>().byte_add(8 * i))))
        };
        [eight(0), eight(1), eight(2), eight(3)]
    }

    #[inline(always)]
    unsafe fn in_order(floats: [__m256; 4]) -> [__m256; 4] {
        floats
    }
}

struct Int4;

/// The bytes of bf16 that the codes of int4 stand for, upper or lower.
const fn bytes_of_int4(upper: bool) -> [u8; 32] {
    let mut bytes = [0; 32];
    let mut at = 0;
    while at < 32 {
        let code = at as i32 % 16;
        let bits = (if code < 8 { code } else { code - 16 } as f32).to_bits();
        bytes[at] = (bits >> if upper { 24 } else { 16 }) as u8;
        at += 1;
    }
    bytes
}

impl Numbers<4> for Int4 {
    const BYTES: usize = 16;
    const STEP: usize = 8;

    #[inline(always)]
    unsafe fn floats(from: *const u8) -> [__m256; 4] {
        static UPPER: [u8; 32] = bytes_of_int4(true);
        static LOWER: [u8; 32] = bytes_of_int4(false);
        // SAFETY: the caller's promise; both tables are 32 bytes.
        unsafe {
            // Even columns below, odd ones above.
            let both = _mm256_broadcastsi128_si256(_mm_loadu_si128(from.cast()));
            let both = _mm256_srlv_epi32(both, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
            let codes = _mm256_and_si256(both, _mm256_set1_epi32(LOW_HALVES.cast_signed()));
            let upper = _mm256_shuffle_epi8(_mm256_loadu_si256(UPPER.as_ptr().cast()), codes);
            let lower = _mm256_shuffle_epi8(_mm256_loadu_si256(LOWER.as_ptr().cast()), codes);
            let [a, b] = widened(_mm256_unpacklo_epi8(lower, upper));
            let [c, d] = widened(_mm256_unpackhi_epi8(lower, upper));
            [a, b, c, d]
        }
    }

    /// Of 16 columns each: 0 4 8 12 1 5 9 13, then 2 6 10 14 3 7 11 15.
    #[inline(always)]
    unsafe fn in_order([a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
        // SAFETY: the caller's promise.
        unsafe {
            let halves = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let low = |a, b| _mm256_permutevar8x32_ps(_mm256_unpacklo_ps(a, b), halves);
            let high = |a, b| _mm256_permutevar8x32_ps(_mm256_unpackhi_ps(a, b), halves);
            [low(a, b), high(a, b), low(c, d), high(c, d)]
        }
    }
}

/// bf16 in words: the lower ones, and the upper ones.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn widened(words: __m256i) -> [__m256; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let upper = _mm256_and_si256(words, _mm256_set1_epi32(UPPER_HALVES));
        [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)), _mm256_castsi256_ps(upper)]
    }
}

/// A function of this name that multiplies numbers of this kind, for rows of x and pieces of a row of the weight at a time.
macro_rules! entry {
    ($name:ident, $numbers:ty, $vectors:literal, [$($rows:literal: $pieces:literal),*], [$($parts:literal: $single:literal),*]) => {
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(super) unsafe fn $name(job: &RowsInPlace) {
            // SAFETY: the caller's promise.
            unsafe {
                match job.rows {
                    $($parts if job.parts == 1 => rows::<$numbers, $vectors, $parts, $single>(job),)*
                    $($rows => rows::<$numbers, $vectors, $rows, $pieces>(job),)*
                    rows => debug_assert!(false, "no form for {rows} rows"),
                }
            }
        }
    };
}

entry!(bf16_in_place, Bf16, 2, [1: 4, 2: 2, 3: 1, 4: 1, 5: 1, 6: 1], [1: 1, 2: 1]);
entry!(wide_int8_in_place, Int8, 4, [1: 2, 2: 1], [1: 1]);
entry!(wide_int4_in_place, Int4, 4, [1: 2, 2: 1], []);

/// Rows of the weight for which others are fetched at a time.
const ROWS: usize = 16;

/// `P` pieces of [`Numbers::BYTES`] of each row of the weight before the next pieces, whose lines of the cache are the same or come
/// later.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows<D: Numbers<N>, const N: usize, const R: usize, const P: usize>(job: &RowsInPlace) {
    let &RowsInPlace { from, stride, steps, parts, part_stride, x, x_stride, acc, acc_stride, .. } = job;
    let per_part = RowsInPlace::BYTES / D::BYTES;
    for first in (0..parts * per_part).step_by(P) {
        let places: [usize; P] = std::array::from_fn(|piece| {
            (first + piece) / per_part * part_stride + (first + piece) % per_part * D::BYTES
        });
        let mut sums = [[[_mm256_setzero_ps(); N]; P]; R];
        let (mut row, mut x, mut left) = (from, x, steps * D::STEP);
        // SAFETY: the caller lets 32 bytes of every row of each part and all words of x be read, and the accumulators of each row of
        // x and each part be written.
        unsafe {
            while left > 0 {
                let count = left.min(ROWS);
                if first == 0 {
                    fetch_rows(job, row, count);
                }
                for _ in 0..count {
                    for piece in 0..P {
                        let floats = D::floats(row.add(places[piece]));
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let x = _mm256_broadcast_ss(&*x.add(r * x_stride).cast());
                            for (sum, floats) in sums[piece].iter_mut().zip(floats) {
                                *sum = add_product(*sum, floats, x);
                            }
                        }
                    }
                    (row, x) = (row.wrapping_add(stride), x.add(1));
                }
                left -= count;
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (piece, sums) in sums.into_iter().enumerate() {
                    for (i, sum) in D::in_order(sums).into_iter().enumerate() {
                        let eight = (first + piece) * N + i;
                        acc.add(r * acc_stride + eight / 2).cast::<__m256>().add(eight % 2).write(sum);
                    }
                }
            }
        }
    }
}
