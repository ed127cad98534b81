//! A trial of micro-kernels before they are used. Not every set of instructions was at hand when they were written; one is taken
//! only where small products come out right to the last bit on the CPU that has it, and a row's bits are the same whatever rows it is
//! multiplied with.

use std::ops::Range;

use half::bf16;

use crate::driver::Scratch;
use crate::element::Float;
use crate::formats::nibbles::int4_byte;
use crate::gemm::Weight;
use crate::int_gemm::{Int4Weight, IntWeight};
use crate::isa::Isa;
use crate::pack::float_words;
use crate::simd::{self, Kernel, Rows, Words};
use crate::view::Mat;

/// K: beyond whole words, an odd number of them, and of whole ones, which are read where they lie.
const DEPTHS: [usize; 2] = [66, 72];
/// Beyond whole vectors and panels, of which up to eight are taken at a time, and of parts of a row one more than that.
const N: usize = 245;
/// Each number of rows of a tile, and more than one tile.
const ROWS: [usize; 7] = [1, 2, 3, 4, 5, 6, 13];

/// Whether the kernels of a set give right products, of weights that lie along N and along K.
pub(crate) fn is_right(isa: Isa) -> bool {
    DEPTHS.into_iter().all(|k| {
        floats::<f32>(isa, k)
            && floats::<bf16>(isa, k)
            && rows_agree::<f32>(isa, k)
            && rows_agree::<bf16>(isa, k)
            && [Words::Int8, Words::Int4]
                .into_iter()
                .flat_map(|words| [simd::kernel(isa, words), simd::mixed_kernel(isa, words)])
                .all(|kernel| whole(kernel, k))
    })
}

/// Whole numbers from -range to range, without a pattern that a kernel could have.
fn numbers(count: usize, range: i32, mut seed: u32) -> Vec<i32> {
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 16).cast_signed() % (2 * range + 1) - range
    };
    (0..count).map(|_| next()).collect()
}

/// `x @ w`, a row of N after the other.
fn product(x: &[i32], w: &[i32], depth: usize) -> Vec<i32> {
    let mut sums = vec![0; x.len() / depth * N];
    for (sums, x) in sums.chunks_exact_mut(N).zip(x.chunks_exact(depth)) {
        for (x, w) in x.iter().zip(w.chunks_exact(N)) {
            sums.iter_mut().zip(w).for_each(|(sum, w)| *sum += x * w);
        }
    }
    sums
}

fn transposed<T: Copy>(w: &[T]) -> Vec<T> {
    (0..N).flat_map(|n| w.iter().skip(n).step_by(N).copied()).collect()
}

/// Values so small that every sum is exact, in whatever order.
fn floats<T: Float>(isa: Isa, depth: usize) -> bool {
    let kernel = simd::kernel(isa, float_words(T::TYPE));
    let made = |numbers: &[i32]| numbers.iter().map(|n| T::from_f32(*n as f32 / 4.0)).collect::<Vec<T>>();
    ROWS.into_iter().all(|m| {
        let (x, w) = (numbers(m * depth, 16, 1), numbers(depth * N, 16, 2));
        let (values, along_n) = (made(&x), made(&w));
        let (along_k, due) = (transposed(&along_n), product(&x, &w, depth));
        weights(&along_n, &along_k, depth).is_some_and(|weights| {
            weights.into_iter().all(|weight| {
                let Ok(rows) = Mat::row_major(&values, m, depth) else { return false };
                let mut scratch = Scratch::default();
                scratch.multiply(kernel, &rows, &weight, 0..m, 0..N, 0..depth);
                let right = |(row, due): (usize, &[i32])| {
                    let (found, _) = scratch.floats(row, N);
                    found.iter().zip(due).all(|(found, due)| *found == *due as f32 / 16.0)
                };
                due.chunks_exact(N).enumerate().all(right)
            })
        })
    })
}

/// Whether rows have the same bits alone and with others, of values whose sums are rounded.
fn rows_agree<T: Float>(isa: Isa, depth: usize) -> bool {
    let kernel = simd::kernel(isa, float_words(T::TYPE));
    let made = |numbers: Vec<i32>| numbers.into_iter().map(|n| T::from_f32(n as f32 / 999.0)).collect::<Vec<T>>();
    let most = ROWS.into_iter().max().unwrap_or(1);
    let (values, along_n) = (made(numbers(most * depth, 9999, 5)), made(numbers(depth * N, 9999, 6)));
    let along_k = transposed(&along_n);
    weights(&along_n, &along_k, depth).is_some_and(|weights| {
        let Ok(x) = Mat::row_major(&values, most, depth) else { return false };
        let product = |weight: &Weight<'_, T>, rows: Range<usize>| {
            let mut scratch = Scratch::default();
            scratch.multiply(kernel, &x, weight, rows.clone(), 0..N, 0..depth);
            (0..rows.len()).flat_map(|row| scratch.floats(row, N).0.to_vec()).map(f32::to_bits).collect::<Vec<_>>()
        };
        let alone: Vec<u32> = (0..most).flat_map(|row| product(&weights[0], row..row + 1)).collect();
        ROWS.into_iter().all(|m| weights.iter().all(|weight| product(weight, 0..m) == alone[..m * N]))
    })
}

/// Whole numbers over their whole range, as they are or, of x, as f32, which holds every sum of them.
fn whole(kernel: &Kernel, depth: usize) -> bool {
    let made =
        |numbers: &[i32], most: i32| -> Vec<i8> { numbers.iter().map(|n| (*n).clamp(-most - 1, most) as i8).collect() };
    let back = |values: &[i8]| values.iter().map(|v| i32::from(*v)).collect::<Vec<i32>>();
    let is_int4 = kernel.words == Words::Int4;
    ROWS.into_iter().all(|m| {
        let (values, along_n) =
            (made(&numbers(m * depth, 140, 3), 127), made(&numbers(depth * N, 140, 4), if is_int4 { 7 } else { 127 }));
        let (x, w, along_k) = (back(&values), back(&along_n), transposed(&along_n));
        let (int4_along_n, int4_along_k) = (int4(&along_n, N), int4(&along_k, depth));
        let weights = match is_int4 {
            true => [(&int4_along_n, [N + 1, 1]), (&int4_along_k, [1, depth])]
                .map(|(bytes, strides)| Int4Weight::strided(bytes, [depth, N], strides).ok().map(IntWeight::Int4)),
            false => weights(&along_n, &along_k, depth)
                .map_or([None; 2], |weights| weights.map(|w| Some(IntWeight::Int8(w)))),
        };
        let due = product(&x, &w, depth);
        weights.into_iter().all(|weight| {
            let (Some(weight), Ok(rows)) = (weight, Mat::row_major(&values, m, depth)) else { return false };
            let (mut scratch, mut due) = (Scratch::default(), due.chunks_exact(N).enumerate());
            if kernel.x == Rows::F32 {
                let wide: Vec<f32> = x.iter().map(|x| *x as f32).collect();
                let Ok(rows) = Mat::row_major(&wide, m, depth) else { return false };
                scratch.multiply(kernel, &rows, &weight, 0..m, 0..N, 0..depth);
                return due.all(|(row, due)| {
                    let (found, _) = scratch.floats(row, N);
                    found.iter().zip(due).all(|(found, due)| *found == *due as f32)
                });
            }
            scratch.multiply(kernel, &rows, &weight, 0..m, 0..N, 0..depth);
            due.all(|(row, due)| scratch.ints(row, N).0 == due)
        })
    })
}

/// Rows of `len` numbers, two to a byte, each from a byte of its own on.
fn int4(values: &[i8], len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in values.chunks(len) {
        bytes.extend(row.chunks(2).map(|pair| int4_byte(pair[0], pair.get(1).copied().unwrap_or_default())));
    }
    bytes
}

/// The same weight as it lies along N and along K.
fn weights<'a, T: bytemuck::Pod>(along_n: &'a [T], along_k: &'a [T], depth: usize) -> Option<[Weight<'a, T>; 2]> {
    let (plain, turned) = (Mat::row_major(along_n, depth, N).ok()?, Mat::row_major(along_k, N, depth).ok()?);
    Some([Weight::Strided(plain), Weight::Strided(turned.transposed())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_of_this_cpu_passes() {
        for isa in Isa::available() {
            assert!(is_right(isa), "{}", isa.name());
        }
    }

    #[test]
    fn a_wrong_kernel_fails() {
        let right = simd::kernel(Isa::Portable, Words::Int8);
        assert!(whole(right, 70));
        // As if bytes were unsigned, and nobody took that back.
        assert!(!whole(&Kernel { flip: 0x80, ..*right }, 70));
        let right = simd::kernel(Isa::Portable, Words::Int4);
        assert!(whole(right, 70));
        assert!(!whole(&Kernel { flip: 8, ..*right }, 70));
        let right = simd::mixed_kernel(Isa::Portable, Words::Int4);
        assert!(whole(right, 70));
        assert!(!whole(&Kernel { flip: 8, ..*right }, 70));
    }
}
