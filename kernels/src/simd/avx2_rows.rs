//! Panels of rows with AVX2: bytes of several rows, next to each other for each column.

use std::arch::x86_64::*;

use super::avx2::NOT_NEGATIVE;
use super::tile::{LOW_HALVES, interleave};
use super::{Line, PANEL, RowsInPlace, Weave, Words, fetch};

/// What [`Weave`] says, two panels at a time where their elements are short.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn vector_interleave(weave: &Weave) {
    // Panels that are taken in pairs; of int4, steps likewise.
    let (pairs, steps) = match weave.words {
        Words::F32 | Words::Bf16 => (0, 0),
        Words::Int8 => (weave.panels / 2, weave.steps),
        Words::Int4 => (weave.panels / 2, weave.steps & !1),
    };
    // SAFETY: the caller's promise, of parts of what it promised.
    unsafe {
        for pair in 0..pairs {
            let first = part(weave, 2 * pair, 0);
            match weave.words {
                Words::Int4 => int4_pairs(&Weave { steps, ..first }),
                _ => int8_pairs(&first),
            }
        }
        interleave(&Weave { panels: 2 * pairs, steps: weave.steps - steps, ..part(weave, 0, steps) });
        interleave(&Weave { panels: weave.panels - 2 * pairs, ..part(weave, 2 * pairs, 0) });
    }
}

/// From a panel and a step on.
fn part(weave: &Weave, panel: usize, step: usize) -> Weave {
    let bytes = panel * PANEL * weave.words.bits() / 8 + step * weave.words.step() * weave.stride;
    let from = weave.from.wrapping_add(bytes);
    Weave { from, to: weave.to.wrapping_add(panel * weave.to_stride + step), ..*weave }
}

/// Writes four words of columns `4 * quarter` and on: in the first half of `words` those of line `first`, in the second those of
/// line `second`.
#[target_feature(enable = "avx2")]
unsafe fn write_halves(words: __m256i, quarter: usize, first: *mut Line, second: *mut Line) {
    // SAFETY: the caller lets both lines be written.
    unsafe {
        _mm_store_si128(first.cast::<__m128i>().add(quarter), _mm256_castsi256_si128(words));
        _mm_store_si128(second.cast::<__m128i>().add(quarter), _mm256_extracti128_si256::<1>(words));
    }
}

/// A byte of each of four rows next to each other: of bytes `4 * quarter` and on of the first halves, and of the second halves.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn side_by_side([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    let (ab_low, ab_high) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
    let (cd_low, cd_high) = (_mm256_unpacklo_epi8(c, d), _mm256_unpackhi_epi8(c, d));
    [
        _mm256_unpacklo_epi16(ab_low, cd_low),
        _mm256_unpackhi_epi16(ab_low, cd_low),
        _mm256_unpacklo_epi16(ab_high, cd_high),
        _mm256_unpackhi_epi16(ab_high, cd_high),
    ]
}

/// Two panels of int8: rows of 32 bytes, four to a line.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn int8_pairs(weave: &Weave) {
    let &Weave { from, stride, steps, flip, to, to_stride, .. } = weave;
    let mask = _mm256_set1_epi32(flip.cast_signed());
    // SAFETY: the caller lets 32 bytes of every row be read and every line of two panels be written.
    unsafe {
        for step in 0..steps {
            let row = |i: usize| _mm256_loadu_si256(from.add((4 * step + i) * stride).cast());
            for (quarter, words) in side_by_side([row(0), row(1), row(2), row(3)]).into_iter().enumerate() {
                write_halves(_mm256_xor_si256(words, mask), quarter, to.add(step), to.add(to_stride + step));
            }
        }
    }
}

/// Two panels of int4: rows of 16 bytes, eight to a line, two lines at a time.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn int4_pairs(weave: &Weave) {
    let &Weave { from, stride, steps, flip, to, to_stride, .. } = weave;
    let mask = _mm256_set1_epi32(flip.cast_signed());
    let halves = _mm256_set1_epi32(LOW_HALVES.cast_signed());
    // SAFETY: the caller lets 16 bytes of every row be read and every line of two panels be written; `steps` is even.
    unsafe {
        for step in (0..steps).step_by(2) {
            let to = to.add(step);
            // A row of the first line and the same of the second.
            let row = |i: usize| {
                let at = |step: usize| from.add((8 * step + i) * stride).cast();
                _mm256_loadu2_m128i(at(step + 1), at(step))
            };
            let four = |first: usize| side_by_side([row(first), row(first + 2), row(first + 4), row(first + 6)]);
            for (i, (even, odd)) in four(0).into_iter().zip(four(1)).enumerate() {
                // In each byte the numbers of two columns.
                let low = _mm256_slli_epi32::<4>(_mm256_and_si256(odd, halves));
                let low = _mm256_xor_si256(_mm256_or_si256(_mm256_and_si256(even, halves), low), mask);
                let high = _mm256_and_si256(_mm256_srli_epi32::<4>(even), halves);
                let high = _mm256_xor_si256(_mm256_or_si256(high, _mm256_andnot_si256(halves, odd)), mask);
                let (panel, quarter) = (i / 2 * to_stride, i % 2 * 2);
                let (first, second) = (to.add(panel), to.add(panel + 1));
                write_halves(_mm256_unpacklo_epi32(low, high), quarter, first, second);
                write_halves(_mm256_unpackhi_epi32(low, high), quarter + 1, first, second);
            }
        }
    }
}

/// A function of this name and these features, with a form for each of these numbers of rows of x and parts.
macro_rules! entry {
    ($(#[$doc:meta])* $name:ident, $features:literal, $rows:ident, [$(($r:literal, $p:literal)),*]) => {
        $(#[$doc])*
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(job: &$crate::simd::RowsInPlace) {
            match (job.rows, job.parts) {
                // SAFETY: the caller's promise; the instructions are enabled here.
                $(($r, $p) => unsafe { $rows::<$r, $p>(job) },)*
                size => debug_assert!(false, "no form for {size:?} rows and parts"),
            }
        }
    };
}
pub(super) use entry;

entry!(
    /// int4 with rows of x as [`super::Rows::EvenOdd`]; sums are too great by 8 for each of x.
    int4_in_place, "avx2,fma,f16c", int4_rows, [(1, 2), (1, 1), (2, 1)]
);
entry!(
    /// int8 with rows of x as [`super::Rows::Int16`].
    int8_in_place, "avx2,fma,f16c", int8_rows, [(1, 2), (1, 1), (2, 1)]
);

/// Fetches the lines of the cache that all parts of some rows ahead of these are in.
#[inline(always)]
pub(super) fn fetch_rows(job: &RowsInPlace, from: *const u8, rows: usize) {
    let &RowsInPlace { stride, parts, part_stride, .. } = job;
    let (ahead, rows_of_line) =
        if stride <= RowsInPlace::BYTES { (BLOCK_ROWS_AHEAD / parts, 2) } else { (ROWS_AHEAD, 1) };
    let parts_of_line = if part_stride <= RowsInPlace::BYTES { 2 } else { 1 };
    for row in (0..rows).step_by(rows_of_line) {
        for part in (0..parts).step_by(parts_of_line) {
            fetch(from.wrapping_add((ahead + row) * stride + part * part_stride));
        }
    }
}

/// Bytes of two rows next to each other, of 8 columns at a time: widened, they are what `vpmaddwd` multiplies.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn int8_rows<const R: usize, const P: usize>(job: &RowsInPlace) {
    let &RowsInPlace { from, stride, steps, part_stride, x, x_stride, acc, acc_stride, .. } = job;
    let mut sums = [[[_mm256_setzero_si256(); 4]; P]; R];
    // SAFETY: the caller lets 32 bytes of every row of each part and all words of x be read, and two accumulators of each row of x
    // and each part be written.
    unsafe {
        for step in 0..steps {
            let rows = from.add(4 * step * stride);
            fetch_rows(job, rows, 4);
            // Two rows whose numbers of x are next to each other.
            for (pair, [first, second]) in [[0, 2], [1, 3]].into_iter().enumerate() {
                for part in 0..P {
                    let row = |row: usize| _mm256_loadu_si256(rows.add(row * stride + part * part_stride).cast());
                    let (a, b) = (row(first), row(second));
                    let both = [_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)];
                    for (half, both) in both.into_iter().enumerate() {
                        let panels = [_mm256_castsi256_si128(both), _mm256_extracti128_si256::<1>(both)];
                        for (panel, both) in panels.into_iter().enumerate() {
                            let both = _mm256_cvtepi8_epi16(both);
                            for (row, sums) in sums.iter_mut().enumerate() {
                                let x = x.add(row * x_stride + 2 * step + pair).cast::<i32>();
                                let product = _mm256_madd_epi16(both, _mm256_set1_epi32(x.read()));
                                let sum = &mut sums[part][2 * panel + half];
                                *sum = _mm256_add_epi32(*sum, product);
                            }
                        }
                    }
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            let sums = sums.as_flattened();
            for (eight, sum) in sums.iter().enumerate() {
                acc.add(row * acc_stride + eight / 2).cast::<__m256i>().add(eight % 2).write(*sum);
            }
        }
    }
}

/// Words along K whose products are summed in int16: each is 4 sums of two products, of 15 and 128 at most.
const SHORT_STEPS: usize = 2;
/// Rows of a block ahead of what is read that are fetched.
const BLOCK_ROWS_AHEAD: usize = 256;
/// The same of rows that do not follow each other.
const ROWS_AHEAD: usize = 64;

/// Bytes of two rows next to each other, of which the halves belong to an even and an odd column: each pair of rows gives int16 of
/// all 64 columns.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn int4_rows<const R: usize, const P: usize>(job: &RowsInPlace) {
    let &RowsInPlace { from, stride, steps, part_stride, x, x_stride, acc, acc_stride, .. } = job;
    let (zero, ones) = (_mm256_setzero_si256(), _mm256_set1_epi16(1));
    let mut wide = [[[zero; 8]; R]; P];
    // SAFETY: the caller lets 32 bytes of every row of each part and all words of x be read, and four accumulators of each row of x
    // and each part be written.
    unsafe {
        for start in (0..steps).step_by(2 * SHORT_STEPS) {
            let mut short = [[[[zero; 4]; R]; P]; 2];
            for (half, sums) in short.iter_mut().enumerate() {
                let start = start + half * SHORT_STEPS;
                for step in start..steps.min(start + SHORT_STEPS) {
                    let rows = from.add(8 * step * stride);
                    fetch_rows(job, rows, 8);
                    let x = x.add(2 * step);
                    for (part, sums) in sums.iter_mut().enumerate() {
                        *sums = int4_step(*sums, rows.add(part * part_stride), stride, x, x_stride);
                    }
                }
            }
            let [first, second] = &short;
            for (wide, (first, second)) in wide.iter_mut().zip(first.iter().zip(second)) {
                for (wide, (first, second)) in wide.iter_mut().zip(first.iter().zip(second)) {
                    for (i, (first, second)) in first.iter().zip(second).enumerate() {
                        let both = [_mm256_unpacklo_epi16(*first, *second), _mm256_unpackhi_epi16(*first, *second)];
                        for (wide, both) in wide[2 * i..].iter_mut().zip(both) {
                            *wide = _mm256_add_epi32(*wide, _mm256_madd_epi16(both, ones));
                        }
                    }
                }
            }
        }
        for (part, wide) in wide.iter().enumerate() {
            for (row, wide) in wide.iter().enumerate() {
                let pairs = [[0, 2], [1, 3], [4, 6], [5, 7]].map(|pair| pair.map(|i| wide[i]));
                write_in_order(pairs, acc.add(row * acc_stride + 4 * part));
            }
        }
    }
}

/// Writes four accumulators: each pair is of even columns and odd ones, 4 each of the first two panels and of the other two.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) unsafe fn write_in_order(pairs: [[__m256i; 2]; 4], acc: *mut Line) {
    for (eight, [even, odd]) in pairs.into_iter().enumerate() {
        let (low, high) = (_mm256_unpacklo_epi32(even, odd), _mm256_unpackhi_epi32(even, odd));
        // SAFETY: the caller lets four accumulators be written.
        unsafe {
            let to = acc.cast::<__m256i>().add(eight);
            to.write(_mm256_permute2x128_si256::<0x20>(low, high));
            to.add(4).write(_mm256_permute2x128_si256::<0x31>(low, high));
        }
    }
}

/// Sums of 64 columns with 32 bytes of eight rows of the weight.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn int4_step<const R: usize>(
    mut sums: [[__m256i; 4]; R],
    rows: *const u8,
    stride: usize,
    x: *const u32,
    x_stride: usize,
) -> [[__m256i; 4]; R] {
    let (flip, halves) = (_mm256_set1_epi32(NOT_NEGATIVE.cast_signed()), _mm256_set1_epi32(LOW_HALVES.cast_signed()));
    // SAFETY: the caller lets them be read, and two words of each row of x.
    unsafe {
        // Two rows whose numbers of x are next to each other.
        for (pair, [first, second]) in [[0, 2], [4, 6], [1, 3], [5, 7]].into_iter().enumerate() {
            let row = |row: usize| _mm256_xor_si256(flip, _mm256_loadu_si256(rows.add(row * stride).cast()));
            let (a, b) = (row(first), row(second));
            let both = [_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)];
            for (half, both) in both.into_iter().enumerate() {
                let even = _mm256_and_si256(both, halves);
                let odd = _mm256_and_si256(_mm256_srli_epi16::<4>(both), halves);
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = _mm256_set1_epi16(x.add(row * x_stride).cast::<i16>().add(pair).read());
                    sums[2 * half] = _mm256_add_epi16(sums[2 * half], _mm256_maddubs_epi16(even, x));
                    sums[2 * half + 1] = _mm256_add_epi16(sums[2 * half + 1], _mm256_maddubs_epi16(odd, x));
                }
            }
        }
    }
    sums
}
