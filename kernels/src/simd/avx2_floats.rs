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

    /// Which of the columns each lane is.
    const COLUMNS: [[i32; 8]; N];

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
    const COLUMNS: [[i32; 8]; 2] = [[0, 2, 4, 6, 8, 10, 12, 14], [1, 3, 5, 7, 9, 11, 13, 15]];

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
    const COLUMNS: [[i32; 8]; 4] = [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [8, 9, 10, 11, 12, 13, 14, 15],
        [16, 17, 18, 19, 20, 21, 22, 23],
        [24, 25, 26, 27, 28, 29, 30, 31],
    ];

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
    const COLUMNS: [[i32; 8]; 4] = [
        [0, 4, 8, 12, 1, 5, 9, 13],
        [2, 6, 10, 14, 3, 7, 11, 15],
        [16, 20, 24, 28, 17, 21, 25, 29],
        [18, 22, 26, 30, 19, 23, 27, 31],
    ];

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

/// `(w + offset) * scale` rounded to bf16, none of which is NaN.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn rounded(w: __m256, offset: __m256, scale: __m256) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = _mm256_castps_si256(_mm256_mul_ps(_mm256_add_ps(w, offset), scale));
        let is_odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let bits = _mm256_add_epi32(bits, _mm256_add_epi32(is_odd, _mm256_set1_epi32(0x7fff)));
        _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(UPPER_HALVES)))
    }
}

/// A function of this name that multiplies numbers of this kind, for rows of x and pieces of a row of the weight at a time: as they
/// are, with single parts first, or scaled.
macro_rules! entry {
    ($name:ident, $numbers:ty, $vectors:literal, [$($rows:literal: $pieces:literal),*], [$($parts:literal: $single:literal),*], $scaled:expr) => {
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(super) unsafe fn $name(job: &RowsInPlace) {
            let scaled: Option<unsafe fn(&RowsInPlace)> = $scaled;
            // SAFETY: the caller's promise.
            unsafe {
                match (job.rows, scaled) {
                    (_, Some(scaled)) if !job.scale.is_null() => scaled(job),
                    $(($parts, _) if job.parts == 1 => rows::<$numbers, $vectors, $parts, $single, false>(job),)*
                    $(($rows, _) => rows::<$numbers, $vectors, $rows, $pieces, false>(job),)*
                    (rows, _) => debug_assert!(false, "no form for {rows} rows"),
                }
            }
        }
    };
}

entry!(bf16_in_place, Bf16, 2, [1: 4, 2: 2, 3: 1, 4: 1, 5: 1, 6: 1], [1: 1, 2: 1], None);
entry!(wide_int8_in_place, Int8, 4, [1: 2, 2: 1], [1: 1], Some(scaled::<Int8>));
entry!(wide_int4_in_place, Int4, 4, [1: 2, 2: 1], [], Some(scaled::<Int4>));

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scaled<D: Numbers<4>>(job: &RowsInPlace) {
    // SAFETY: the caller's promise.
    unsafe {
        match job.rows {
            1 => rows::<D, 4, 1, 1, true>(job),
            2 => rows::<D, 4, 2, 1, true>(job),
            rows => debug_assert!(false, "no form for {rows} rows"),
        }
    }
}

/// Rows of the weight for which others are fetched at a time.
const ROWS: usize = 16;

/// `P` pieces of [`Numbers::BYTES`] of each row of the weight before the next pieces, whose lines of the cache are the same or come
/// later.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows<D: Numbers<N>, const N: usize, const R: usize, const P: usize, const SCALED: bool>(job: &RowsInPlace) {
    let &RowsInPlace { from, stride, steps, parts, part_stride, x, x_stride, acc, acc_stride, .. } = job;
    let per_part = RowsInPlace::BYTES / D::BYTES;
    for first in (0..parts * per_part).step_by(P) {
        let places: [usize; P] = std::array::from_fn(|piece| {
            (first + piece) / per_part * part_stride + (first + piece) % per_part * D::BYTES
        });
        // Of columns that follow each other, those of a piece.
        let of_piece = |from: *const f32, piece: usize, i: usize| {
            // SAFETY: the caller lets a number for each of the columns be read. The CPU has AVX2.
            unsafe {
                let columns = _mm256_loadu_si256(D::COLUMNS[i].as_ptr().cast());
                _mm256_i32gather_ps::<4>(from.add((first + piece) * 8 * N), columns)
            }
        };
        let zero = _mm256_setzero_ps();
        let (mut sums, mut values) = ([[[zero; N]; P]; R], [[[zero; 2]; N]; P]);
        for (piece, i) in (0..P).flat_map(|piece| (0..N).map(move |i| (piece, i))).filter(|_| SCALED) {
            values[piece][i] = [job.offset, job.scale].map(|from| of_piece(from, piece, i));
            if !job.fresh {
                for (r, sums) in sums.iter_mut().enumerate() {
                    sums[piece][i] = of_piece(acc.wrapping_add(r * acc_stride).cast(), piece, i);
                }
            }
        }
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
                        let mut floats = D::floats(row.add(places[piece]));
                        if SCALED {
                            for (w, [offset, scale]) in floats.iter_mut().zip(values[piece]) {
                                *w = rounded(*w, offset, scale);
                            }
                        }
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
