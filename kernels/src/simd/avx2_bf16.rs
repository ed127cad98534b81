//! Few rows times bf16 where it lies, with AVX2: one fused multiply-add for each k, ascending, as of panels.

use std::arch::x86_64::*;

use super::RowsInPlace;
use super::avx2::add_product;
use super::avx2_rows::fetch_rows;

/// With rows of x as [`super::Rows::F32`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn bf16_in_place(job: &RowsInPlace) {
    // SAFETY: the caller's promise.
    unsafe {
        match (job.rows, job.parts) {
            (1, 4) => rows::<1, 4>(job),
            (1, 1) => rows::<1, 1>(job),
            (2, 2) => rows::<2, 2>(job),
            (2, 1) => rows::<2, 1>(job),
            (3, 1) => rows::<3, 1>(job),
            (4, 1) => rows::<4, 1>(job),
            (5, 1) => rows::<5, 1>(job),
            (6, 1) => rows::<6, 1>(job),
            size => debug_assert!(false, "no form for {size:?} rows and parts"),
        }
    }
}

/// 16 columns of a row of each part: the even ones and the odd ones.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows<const R: usize, const P: usize>(job: &RowsInPlace) {
    let &RowsInPlace { from, stride, steps, part_stride, x, x_stride, acc, acc_stride, .. } = job;
    let upper = _mm256_set1_epi32(-0x1_0000);
    let mut sums = [[[_mm256_setzero_ps(); 2]; P]; R];
    // SAFETY: the caller lets 32 bytes of every row of each part and all words of x be read, and an accumulator of each row of x and
    // each part be written.
    unsafe {
        for step in 0..steps {
            fetch_rows::<2, P>(job, from.add(2 * step * stride));
            for k in 2 * step..2 * step + 2 {
                let row = from.add(k * stride);
                for part in 0..P {
                    let words = _mm256_loadu_si256(row.add(part * part_stride).cast());
                    let even = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words));
                    let odd = _mm256_castsi256_ps(_mm256_and_si256(words, upper));
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let x = _mm256_broadcast_ss(&*x.add(r * x_stride + k).cast());
                        sums[part][0] = add_product(sums[part][0], even, x);
                        sums[part][1] = add_product(sums[part][1], odd, x);
                    }
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (part, [even, odd]) in sums.iter().enumerate() {
                let (low, high) = (_mm256_unpacklo_ps(*even, *odd), _mm256_unpackhi_ps(*even, *odd));
                let to = acc.add(row * acc_stride + part).cast::<__m256>();
                to.write(_mm256_permute2f128_ps::<0x20>(low, high));
                to.add(1).write(_mm256_permute2f128_ps::<0x31>(low, high));
            }
        }
    }
}
