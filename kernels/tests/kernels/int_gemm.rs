//! Products of whole numbers against plain loops: layouts, groups along K, refusals.

use moe_kernels::KernelError;
use moe_kernels::gemm::Weight;
use moe_kernels::int_gemm::{Int4Weight, IntProblem, IntWeight, int_gemms, int_gemms_in_k_groups};
use moe_kernels::isa::Isa;
use moe_kernels::nz::{NzLayout, NzMat, pack};
use moe_kernels::view::{Mat, MatMut, NdView};
use proptest::prelude::*;

fn numbers(len: usize, low: i8, high: i8, mut seed: u64) -> Vec<i8> {
    let mut next = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as i64
    };
    (0..len).map(|_| (i64::from(low) + next() % (i64::from(high) - i64::from(low) + 1)) as i8).collect()
}

fn product(x: &[i8], w: &[i8], [m, k, n]: [usize; 3], ks: std::ops::Range<usize>) -> Vec<i32> {
    let at = |i: usize, j: usize| ks.clone().map(|l| i32::from(x[i * k + l]) * i32::from(w[l * n + j])).sum();
    (0..m).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| at(i, j)).collect()
}

/// Two to a byte, the even one low.
fn nibbles(values: &[i8]) -> Vec<u8> {
    let nibble = |value: i8| (value as u8) & 15;
    values.chunks(2).map(|pair| nibble(pair[0]) | pair.get(1).map_or(0, |&high| nibble(high) << 4)).collect()
}

/// On every instruction set of this CPU.
fn accumulators<'a>(
    x: &'a [i8],
    weight: IntWeight<'a>,
    [m, k, n]: [usize; 3],
) -> impl Iterator<Item = (Isa, Vec<i32>)> + 'a {
    Isa::available().map(move |isa| {
        let mut out = vec![i32::MIN; m * n];
        let mat = Mat::row_major(x, m, k).unwrap();
        let problem = IntProblem { x: mat, rows: 0..m, weight, out: MatMut::row_major(&mut out, m, n).unwrap() };
        isa.with(|| int_gemms(vec![problem], |_, acc, out| out.copy_from_slice(acc)).unwrap()).unwrap();
        (isa, out)
    })
}

/// Few rows, for which there are other loops, as often as more of them.
fn few_or_more(most: usize) -> impl Strategy<Value = usize> {
    prop_oneof![0usize..4, 4..most]
}

proptest! {
    #[test]
    fn every_layout_gives_the_exact_product(
        m in few_or_more(70),
        k in 0usize..90,
        n in 0usize..150,
        seed: u64,
    ) {
        let x = numbers(m * k, -128, 127, seed);
        let w = numbers(k * n, -128, 127, !seed);
        let due = product(&x, &w, [m, k, n], 0..k);
        let mut transposed = vec![0; k * n];
        for l in 0..k { for j in 0..n { transposed[j * k + l] = w[l * n + j]; } }
        let packed = |values: &[i8], rows, cols| {
            let mut storage = vec![0i8; NzLayout::new(rows, cols, 1).unwrap().storage_len()];
            pack(&NdView::contiguous(values, &[rows, cols]).unwrap(), &mut storage).unwrap();
            storage
        };
        let (nz, nz_transposed) = (packed(&w, k, n), packed(&transposed, n, k));
        for weight in [
            Weight::Strided(Mat::row_major(&w, k, n).unwrap()),
            Weight::Strided(Mat::row_major(&transposed, n, k).unwrap().transposed()),
            Weight::Nz(NzMat::new(&nz, k, n).unwrap()),
            Weight::NzTransposed(NzMat::new(&nz_transposed, n, k).unwrap()),
        ] {
            for (isa, found) in accumulators(&x, IntWeight::Int8(weight), [m, k, n]) {
                prop_assert_eq!(&found, &due, "{}", isa.name());
            }
        }
    }

    #[test]
    fn every_int4_layout_gives_the_exact_product(
        m in few_or_more(20),
        // Of whole words too, which are read where they lie.
        k in prop_oneof![1usize..70, (1usize..9).prop_map(|words| 8 * words)],
        n in 1usize..210,
        seed: u64,
    ) {
        let x = numbers(m * k, -128, 127, seed);
        let w = numbers(k * n, -8, 7, !seed);
        let due = product(&x, &w, [m, k, n], 0..k);
        let mut transposed = vec![0; k * n];
        for l in 0..k { for j in 0..n { transposed[j * k + l] = w[l * n + j]; } }
        let packed = |values: &[i8], rows, cols: usize| {
            let layout = NzLayout::int4(rows, cols).unwrap();
            let mut storage = vec![0i8; layout.storage_len()];
            for r in 0..rows { for c in 0..cols { storage[layout.offset(r, c).unwrap()] = values[r * cols + c]; } }
            nibbles(&storage)
        };
        let (plain, turned) = (nibbles(&w), nibbles(&transposed));
        let (nz, nz_transposed) = (packed(&w, k, n), packed(&transposed, n, k));
        for weight in [
            Int4Weight::strided(&plain, [k, n], [n, 1]).unwrap(),
            Int4Weight::strided(&turned, [k, n], [1, k]).unwrap(),
            Int4Weight::nz(&nz, k, n).unwrap(),
            Int4Weight::nz_transposed(&nz_transposed, k, n).unwrap(),
        ] {
            for (isa, found) in accumulators(&x, IntWeight::Int4(weight), [m, k, n]) {
                prop_assert_eq!(&found, &due, "{}", isa.name());
            }
        }
    }

    #[test]
    fn groups_along_k_come_in_order(m in 1usize..9, k in 1usize..70, n in 1usize..150, group in 1usize..40, seed: u64) {
        let x = numbers(m * k, -128, 127, seed);
        let w = numbers(k * n, -128, 127, !seed);
        let weight = IntWeight::Int8(Weight::Strided(Mat::row_major(&w, k, n).unwrap()));
        let mat = Mat::row_major(&x, m, k).unwrap();
        let step = |_: &_, index: usize, acc: &[i32], state: &mut [f32]| {
            for (state, acc) in state.iter_mut().zip(acc) { *state = *state * 0.5 + *acc as f32 * (index + 1) as f32; }
        };
        let mut due = vec![0f32; m * n];
        for (index, start) in (0..k).step_by(group).enumerate() {
            let part = product(&x, &w, [m, k, n], start..k.min(start + group));
            for (due, acc) in due.iter_mut().zip(part) { *due = *due * 0.5 + acc as f32 * (index + 1) as f32; }
        }
        for isa in Isa::available() {
            let mut out = vec![0f32; m * n];
            let problem = IntProblem { x: mat, rows: 0..m, weight, out: MatMut::row_major(&mut out, m, n).unwrap() };
            let run = || int_gemms_in_k_groups(vec![problem], group, step, |_, state, out| out.copy_from_slice(state));
            isa.with(run).unwrap().unwrap();
            prop_assert_eq!(&out, &due, "{}", isa.name());
        }
    }
}

/// More than one block of K, of every size of tile, the greatest products there are.
#[test]
fn the_greatest_products_are_exact() {
    let k = 2500;
    for m in 1..14 {
        for (x, w) in [(-128, -128), (-128, 127), (127, -128), (127, 127)] {
            let (x, w) = (vec![x; m * k], vec![w; k * 40]);
            let weight = IntWeight::Int8(Weight::Strided(Mat::row_major(&w, 40, k).unwrap().transposed()));
            for (isa, found) in accumulators(&x, weight, [m, k, 40]) {
                assert_eq!(found, vec![k as i32 * i32::from(x[0]) * i32::from(w[0]); m * 40], "{}", isa.name());
            }
        }
    }
}

#[test]
fn the_greatest_products_of_int4_are_exact() {
    let (k, n) = (2504, 136);
    let layout = NzLayout::int4(k, n).unwrap();
    for m in 1..6 {
        for (x, w) in [(-128, -8), (-128, 7), (127, -8), (127, 7)] {
            let (xs, plain) = (vec![x; m * k], nibbles(&vec![w; k * n]));
            let nz = nibbles(&vec![w; layout.storage_len()]);
            for weight in [
                Int4Weight::strided(&plain, [k, n], [n, 1]).unwrap(),
                Int4Weight::strided(&plain, [k, n], [1, k]).unwrap(),
                Int4Weight::nz(&nz, k, n).unwrap(),
            ] {
                for (isa, found) in accumulators(&xs, IntWeight::Int4(weight), [m, k, n]) {
                    assert_eq!(found, vec![k as i32 * i32::from(x) * i32::from(w); m * n], "{}", isa.name());
                }
            }
        }
    }
}

#[test]
fn rows_of_several_products_say_where_they_belong() {
    let (x, w) = (numbers(6 * 5, -9, 9, 1), numbers(5 * 3, -9, 9, 2));
    let weight = IntWeight::Int8(Weight::Strided(Mat::row_major(&w, 5, 3).unwrap()));
    let mat = Mat::row_major(&x, 6, 5).unwrap();
    let mut out = vec![(9, 9, 0); 5 * 3];
    let (first, second) = MatMut::row_major(&mut out, 5, 3).unwrap().split_rows(2);
    let problems = vec![
        IntProblem { x: mat, rows: 1..3, weight, out: first },
        IntProblem { x: mat, rows: 3..6, weight, out: second },
    ];
    int_gemms(problems, |span, acc, out| {
        for (out, acc) in out.iter_mut().zip(acc) {
            *out = (span.problem, span.row, *acc);
        }
    })
    .unwrap();
    let due = product(&x, &w, [6, 5, 3], 0..5);
    let due: Vec<_> = (3..18).map(|at| (usize::from(at / 3 > 2), at / 3, due[at])).collect();
    assert_eq!(out, due);
}

#[test]
fn shapes_that_disagree_are_refused() {
    let (x, w) = ([1i8; 12], [1i8; 12]);
    let mut out = [0i32; 9];
    let weight = IntWeight::Int8(Weight::Strided(Mat::row_major(&w, 4, 3).unwrap()));
    let mat = |k| Mat::row_major(&x, 12 / k, k).unwrap();
    let mut run = |x: Mat<'_, i8>, rows: std::ops::Range<usize>| {
        let out = MatMut::row_major(&mut out, 3, 3).unwrap();
        int_gemms(vec![IntProblem { x, rows, weight, out }], |_, acc, out| out.copy_from_slice(acc))
    };
    assert!(run(mat(4), 0..3).is_ok());
    assert!(matches!(run(mat(3), 0..3), Err(KernelError::Dim { .. })));
    assert!(matches!(run(mat(4), 1..4), Err(KernelError::Range { .. })));
    assert!(matches!(run(mat(4), 0..2), Err(KernelError::Dim { .. })));
    assert!(matches!(Int4Weight::strided(&[0; 5], [4, 3], [3, 1]), Err(KernelError::Length { .. })));
    assert!(matches!(Int4Weight::nz(&[0; 5], 4, 3), Err(KernelError::Length { .. })));
    assert!(matches!(Int4Weight::nz_transposed(&[0; 5], 4, 3), Err(KernelError::Length { .. })));
}
