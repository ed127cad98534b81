//! Few rows times columns of whole numbers where they lie, with AVX2 or with VNNI: sums along K, put together at the end.

use std::arch::x86_64::*;

use super::tile::LOW_HALVES;
use super::{ColumnsInPlace, Distance, PANEL, fetch};

/// Columns at a time, for which numbers of x are read once.
const COLUMNS: usize = 4;
/// Words of a column at a time.
const WORDS: usize = 8;

/// How words of a column are multiplied with those of a row of x, [`WORDS`] of them at a time.
trait Numbers {
    /// Words of x for each word.
    const X_WORDS: usize;
    /// Words, and those of x that belong to them.
    type Words: Copy;
    type X: Copy;

    /// # Safety
    /// The words can be read. The CPU has the instructions, as below.
    unsafe fn words(from: *const u8, flip: __m256i) -> Self::Words;

    /// # Safety
    /// [`X_WORDS`](Self::X_WORDS) for each word can be read.
    unsafe fn x(from: *const u32) -> Self::X;

    /// # Safety
    /// As above.
    unsafe fn dot(sum: __m256i, words: Self::Words, x: Self::X) -> __m256i;
}

/// Words 0 1 4 5 2 3 6 7, flipped.
///
/// # Safety
/// The words can be read. The CPU has AVX2.
#[inline(always)]
unsafe fn crossed(from: *const u8, flip: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_xor_si256(_mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_loadu_si256(from.cast())), flip) }
}

/// Of two words of x for each word the first ones and the second ones, in the order of [`crossed`].
///
/// # Safety
/// They can be read. The CPU has AVX2.
#[inline(always)]
unsafe fn in_twos(from: *const u32) -> [__m256i; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let (low, high) = (_mm256_loadu_ps(from.cast()), _mm256_loadu_ps(from.add(WORDS).cast()));
        let (first, second) =
            (_mm256_shuffle_ps::<0b10_00_10_00>(low, high), _mm256_shuffle_ps::<0b11_01_11_01>(low, high));
        [_mm256_castps_si256(first), _mm256_castps_si256(second)]
    }
}

/// The lower halves of bytes, and the upper ones.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn halves(words: __m256i) -> [__m256i; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let halves = _mm256_set1_epi32(LOW_HALVES.cast_signed());
        [_mm256_and_si256(words, halves), _mm256_and_si256(_mm256_srli_epi16::<4>(words), halves)]
    }
}

/// With rows of x as [`super::Rows::Int16`].
struct Int8;

impl Numbers for Int8 {
    const X_WORDS: usize = 2;
    type Words = [__m256i; 2];
    type X = [__m256i; 2];

    #[inline(always)]
    unsafe fn words(from: *const u8, flip: __m256i) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let words = crossed(from, flip);
            [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(words)), _mm256_srai_epi16::<8>(words)]
        }
    }

    #[inline(always)]
    unsafe fn x(from: *const u32) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe { in_twos(from) }
    }

    #[inline(always)]
    unsafe fn dot(sum: __m256i, [even, odd]: [__m256i; 2], [x_even, x_odd]: [__m256i; 2]) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe {
            let sum = _mm256_add_epi32(sum, _mm256_madd_epi16(even, x_even));
            _mm256_add_epi32(sum, _mm256_madd_epi16(odd, x_odd))
        }
    }
}

/// w + 128, with rows of x as they are.
struct Int8Dot;

impl Numbers for Int8Dot {
    const X_WORDS: usize = 1;
    type Words = __m256i;
    type X = __m256i;

    #[inline(always)]
    unsafe fn words(from: *const u8, flip: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_xor_si256(_mm256_loadu_si256(from.cast()), flip) }
    }

    #[inline(always)]
    unsafe fn x(from: *const u32) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn dot(sum: __m256i, words: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_dpbusd_epi32(sum, words, x) }
    }
}

/// Of 0 to 15, with rows of x as [`super::Rows::EvenOdd`]; with VNNI or without.
struct Int4<const VNNI: bool>;

impl<const VNNI: bool> Numbers for Int4<VNNI> {
    const X_WORDS: usize = 2;
    type Words = [__m256i; 2];
    type X = [__m256i; 2];

    #[inline(always)]
    unsafe fn words(from: *const u8, flip: __m256i) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe { halves(crossed(from, flip)) }
    }

    #[inline(always)]
    unsafe fn x(from: *const u32) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe { in_twos(from) }
    }

    #[inline(always)]
    unsafe fn dot(sum: __m256i, [even, odd]: [__m256i; 2], [x_even, x_odd]: [__m256i; 2]) -> __m256i {
        // SAFETY: the caller's promise. Four products of 15 and 128 fit int16.
        unsafe {
            if VNNI {
                return _mm256_dpbusd_epi32(_mm256_dpbusd_epi32(sum, even, x_even), odd, x_odd);
            }
            let short = _mm256_add_epi16(_mm256_maddubs_epi16(even, x_even), _mm256_maddubs_epi16(odd, x_odd));
            _mm256_add_epi32(sum, _mm256_madd_epi16(short, _mm256_set1_epi16(1)))
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn int8_columns(job: &ColumnsInPlace) {
    // SAFETY: the caller's promise.
    unsafe { columns::<Int8>(job) }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn int4_columns(job: &ColumnsInPlace) {
    // SAFETY: the caller's promise.
    unsafe { columns::<Int4<false>>(job) }
}

#[target_feature(enable = "avx512f,avx512vl,avx512vnni")]
pub(super) unsafe fn int8_dot_columns(job: &ColumnsInPlace) {
    // SAFETY: the caller's promise.
    unsafe { columns::<Int8Dot>(job) }
}

#[target_feature(enable = "avx512f,avx512vl,avx512vnni")]
pub(super) unsafe fn int4_dot_columns(job: &ColumnsInPlace) {
    // SAFETY: the caller's promise.
    unsafe { columns::<Int4<true>>(job) }
}

/// All rows of x with some columns before the next ones; inlined where the instructions are enabled.
///
/// # Safety
/// As [`super::Kernel::columns_in_place`].
#[inline(always)]
unsafe fn columns<N: Numbers>(job: &ColumnsInPlace) {
    for column in (0..PANEL).step_by(COLUMNS) {
        // SAFETY: the caller's promise.
        unsafe {
            match job.rows {
                1 => some::<N, 1>(job, column),
                2 => some::<N, 2>(job, column),
                rows => debug_assert!(false, "no form for {rows} rows"),
            }
        }
    }
}

/// `R` rows of x with columns `column` and on.
///
/// # Safety
/// As [`columns`], for the rows and columns that there are.
#[inline(always)]
unsafe fn some<N: Numbers, const R: usize>(job: &ColumnsInPlace, column: usize) {
    let &ColumnsInPlace { from, stride, words, piece, next, ahead, flip, x, x_stride, acc, acc_stride, .. } = job;
    let from = from.wrapping_add(column * stride);
    let pieces = words.div_ceil(piece);
    let ahead = Distance::new(ahead, pieces, next, COLUMNS * stride);
    // SAFETY: the caller lets all words of the columns and those of each row of x that belong to them be read, and the accumulators
    // of these columns be written. The CPU has the instructions.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); COLUMNS]; R];
        let flip = _mm256_set1_epi32(flip.cast_signed());
        for at in 0..pieces {
            let start = from.wrapping_add(at.wrapping_mul(next));
            let (first, count) = (at * piece, piece.min(words - at * piece));
            for column in 0..COLUMNS {
                fetch(start.wrapping_add(column * stride).wrapping_add(ahead.from(at)));
            }
            let whole = count - count % WORDS;
            let mut word = 0;
            while word < whole {
                sums = added::<N, R>(
                    sums,
                    flip,
                    start.add(4 * word),
                    stride,
                    x.add(N::X_WORDS * (first + word)),
                    x_stride,
                );
                word += WORDS;
            }
            if whole < count {
                // Zeros of x for the words that are not there.
                let (mut last, mut last_x) = ([[0u32; WORDS]; COLUMNS], [[0u32; 2 * WORDS]; R]);
                for (column, last) in last.iter_mut().enumerate() {
                    let words = start.add(column * stride + 4 * whole);
                    words.copy_to_nonoverlapping(last.as_mut_ptr().cast(), 4 * (count - whole));
                }
                for (r, last) in last_x.iter_mut().enumerate() {
                    let numbers = x.add(r * x_stride + N::X_WORDS * (first + whole));
                    numbers.copy_to_nonoverlapping(last.as_mut_ptr(), N::X_WORDS * (count - whole));
                }
                sums = added::<N, R>(sums, flip, last.as_ptr().cast(), 4 * WORDS, last_x.as_ptr().cast(), 2 * WORDS);
            }
        }
        for (r, [a, b, c, d]) in sums.into_iter().enumerate() {
            let both = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
            let sum = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256::<1>(both));
            acc.add(r * acc_stride).cast::<i32>().add(column).cast::<__m128i>().write(sum);
        }
    }
}

/// Sums with [`WORDS`] words of each column, `stride` bytes from one column to the next, and those of each row of x.
///
/// # Safety
/// All of these can be read. The CPU has the instructions.
#[inline(always)]
unsafe fn added<N: Numbers, const R: usize>(
    mut sums: [[__m256i; COLUMNS]; R],
    flip: __m256i,
    from: *const u8,
    stride: usize,
    x: *const u32,
    x_stride: usize,
) -> [[__m256i; COLUMNS]; R] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut numbers = [N::x(x); R];
        let mut r = 1;
        while r < R {
            numbers[r] = N::x(x.add(r * x_stride));
            r += 1;
        }
        let mut column = 0;
        while column < COLUMNS {
            let words = N::words(from.add(column * stride), flip);
            let mut r = 0;
            while r < R {
                sums[r][column] = N::dot(sums[r][column], words, numbers[r]);
                r += 1;
            }
            column += 1;
        }
        sums
    }
}
