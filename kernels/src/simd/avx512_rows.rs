//! Few rows times rows of a weight where they lie, with the dot products of AVX-512: words are put together in registers, and summed
//! in the order of panels.

use std::arch::x86_64::*;

use super::avx2::NOT_NEGATIVE;
use super::avx2_rows::{entry, fetch_rows, side_by_side, write_in_order};
use super::avx512::UNSIGNED;
use super::tile::LOW_HALVES;
use super::{PANEL, RowsInPlace};

entry!(
    /// bf16 with rows of x as they are.
    bf16_in_place, "avx512f,avx512bw,avx512bf16", bf16_rows,
    [(1, 4), (2, 4), (3, 4), (4, 4), (1, 1), (2, 1), (3, 1), (4, 1)]
);
entry!(
    /// int8 with rows of x as they are; sums are too great by 128 for each of x.
    int8_in_place, "avx512f,avx512vl,avx512vnni", int8_rows, [(1, 2), (2, 2), (3, 2), (1, 1), (2, 1), (3, 1)]
);
entry!(
    /// int4 with rows of x as [`super::Rows::EvenOdd`]; sums are too great by 8 for each of x.
    int4_in_place, "avx512f,avx512vl,avx512vnni", int4_rows, [(1, 2), (1, 1), (2, 1), (3, 1)]
);

/// For 1, 2, ... rows of x, parts at a time: at most 24 of the 32 registers are accumulators.
pub(super) const BF16_WIDE: &[usize] = &[4, 4, 4, 4];
pub(super) const INT8_WIDE: &[usize] = &[2, 2, 2];
pub(super) const INT4_WIDE: &[usize] = &[2, 1, 1];

/// Elements of a row and of the next one in turn.
static IN_TURN: [u16; 2 * PANEL] = {
    let mut index = [0; 2 * PANEL];
    let mut i = 0;
    while i < 2 * PANEL {
        index[i] = (i % 2 * PANEL + i / 2) as u16;
        i += 1;
    }
    index
};

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn bf16_rows<const R: usize, const P: usize>(job: &RowsInPlace) {
    let &RowsInPlace { from, stride, steps, part_stride, x, x_stride, acc, acc_stride, .. } = job;
    let mut sums = [[_mm512_setzero_ps(); P]; R];
    // SAFETY: the caller lets 32 bytes of every row of each part and all words of x be read, and an accumulator of each row of x and
    // each part be written.
    unsafe {
        let in_turn = _mm512_loadu_si512(IN_TURN.as_ptr().cast());
        for step in 0..steps {
            let rows = from.add(2 * step * stride);
            fetch_rows(job, rows, 2);
            for part in 0..P {
                let row = |row: usize| _mm256_loadu_si256(rows.add(row * stride + part * part_stride).cast());
                let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(row(0)), row(1));
                let words: __m512bh = std::mem::transmute(_mm512_permutexvar_epi16(in_turn, both));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = _mm512_set1_epi32(x.add(row * x_stride + step).cast::<i32>().read());
                    sums[part] = _mm512_dpbf16_ps(sums[part], words, std::mem::transmute::<__m512i, __m512bh>(x));
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (part, sum) in sums.iter().enumerate() {
                acc.add(row * acc_stride + part).cast::<__m512>().write(*sum);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512vnni")]
unsafe fn int8_rows<const R: usize, const P: usize>(job: &RowsInPlace) {
    let &RowsInPlace { from, stride, steps, part_stride, x, x_stride, acc, acc_stride, .. } = job;
    let flip = _mm256_set1_epi32(UNSIGNED.cast_signed());
    let mut sums = [[[_mm256_setzero_si256(); 4]; P]; R];
    // SAFETY: the caller lets 32 bytes of every row of each part and all words of x be read, and two accumulators of each row of x
    // and each part be written.
    unsafe {
        for step in 0..steps {
            let rows = from.add(4 * step * stride);
            fetch_rows(job, rows, 4);
            for part in 0..P {
                let row = |row: usize| {
                    let row = _mm256_loadu_si256(rows.add(row * stride + part * part_stride).cast());
                    _mm256_xor_si256(row, flip)
                };
                for (quarter, words) in side_by_side([row(0), row(1), row(2), row(3)]).into_iter().enumerate() {
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let x = _mm256_set1_epi32(x.add(row * x_stride + step).cast::<i32>().read());
                        let sum = &mut sums[part][quarter];
                        *sum = _mm256_dpbusd_epi32(*sum, words, x);
                    }
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (part, [a, b, c, d]) in sums.iter().enumerate() {
                // Of each panel 4 columns in each half.
                let to = acc.add(row * acc_stride + 2 * part).cast::<__m256i>();
                for (eight, (low, high)) in [(*a, *b), (*c, *d)].into_iter().enumerate() {
                    to.add(eight).write(_mm256_permute2x128_si256::<0x20>(low, high));
                    to.add(2 + eight).write(_mm256_permute2x128_si256::<0x31>(low, high));
                }
            }
        }
    }
}

/// Words of four rows, of which the halves of bytes belong to an even and an odd column.
#[target_feature(enable = "avx512f,avx512vl,avx512vnni")]
unsafe fn int4_rows<const R: usize, const P: usize>(job: &RowsInPlace) {
    let &RowsInPlace { from, stride, steps, part_stride, x, x_stride, acc, acc_stride, .. } = job;
    let (flip, halves) = (_mm256_set1_epi32(NOT_NEGATIVE.cast_signed()), _mm256_set1_epi32(LOW_HALVES.cast_signed()));
    let mut sums = [[[[_mm256_setzero_si256(); 2]; 4]; P]; R];
    // SAFETY: the caller lets 32 bytes of every row of each part and all words of x be read, and four accumulators of each row of x
    // and each part be written.
    unsafe {
        for step in 0..steps {
            let rows = from.add(8 * step * stride);
            fetch_rows(job, rows, 8);
            // The rows whose numbers of x are a word.
            for part in 0..P {
                for first in 0..2 {
                    let row = |row: usize| {
                        let row = rows.add((first + row) * stride + part * part_stride);
                        _mm256_xor_si256(_mm256_loadu_si256(row.cast()), flip)
                    };
                    for (quarter, bytes) in side_by_side([row(0), row(2), row(4), row(6)]).into_iter().enumerate() {
                        let even = _mm256_and_si256(bytes, halves);
                        let odd = _mm256_and_si256(_mm256_srli_epi32::<4>(bytes), halves);
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let x = x.add(row * x_stride + 2 * step + first).cast::<i32>();
                            let x = _mm256_set1_epi32(x.read());
                            let [even_sum, odd_sum] = &mut sums[part][quarter];
                            *even_sum = _mm256_dpbusd_epi32(*even_sum, even, x);
                            *odd_sum = _mm256_dpbusd_epi32(*odd_sum, odd, x);
                        }
                    }
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (part, sums) in sums.iter().enumerate() {
                write_in_order(*sums, acc.add(row * acc_stride + 4 * part));
            }
        }
    }
}
