//! Weight-only quantised products: the same bits as the product with the values that the numbers stand for.

use crate::common::*;
use moe_kernels::KernelError;
use moe_kernels::antiquant::Antiquant;
use moe_kernels::element::Float;
use moe_kernels::gemm::{Weight, gemm};
use moe_kernels::int_gemm::{Int4Weight, IntWeight};
use moe_kernels::isa::Isa;
use moe_kernels::nz::{NzLayout, NzMat, pack};
use moe_kernels::reference;
use moe_kernels::view::{Mat, MatMut, NdView};
use proptest::prelude::*;

/// `[K, N]` as it is, turned, and both of them in FRACTAL_NZ.
struct Layouts<T> {
    plain: Vec<T>,
    turned: Vec<T>,
    nz: Vec<T>,
    nz_turned: Vec<T>,
}

/// Storage of int8, with `per_byte` of them taken for one byte in the widths of blocks.
fn layouts(values: &[i8], [k, n]: [usize; 2], per_byte: usize) -> Layouts<i8> {
    let turned: Vec<i8> = (0..n).flat_map(|j| values.iter().skip(j).step_by(n)).copied().collect();
    let nz = |values: &[i8], rows, cols| {
        if per_byte == 1 {
            let mut storage = vec![0; NzLayout::new(rows, cols, 1).unwrap().storage_len()];
            pack(&NdView::contiguous(values, &[rows, cols]).unwrap(), &mut storage).unwrap();
            return storage;
        }
        let layout = NzLayout::int4(rows, cols).unwrap();
        let mut storage = vec![0; layout.storage_len()];
        let places = (0..rows).flat_map(|r| (0..cols).map(move |c| (r, c)));
        places.zip(values).for_each(|((r, c), value)| storage[layout.offset(r, c).unwrap()] = *value);
        storage
    };
    Layouts { nz: nz(values, k, n), nz_turned: nz(&turned, n, k), plain: values.to_vec(), turned }
}

fn nibbles(values: &[i8]) -> Vec<u8> {
    let nibble = |value: i8| value.cast_unsigned() & 15;
    values.chunks(2).map(|pair| nibble(pair[0]) | pair.get(1).map_or(0, |&high| nibble(high) << 4)).collect()
}

#[derive(Debug, Clone)]
struct Case {
    m: usize,
    k: usize,
    n: usize,
    group: usize,
    has_offset: bool,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let size = |most: usize| prop_oneof![1..20usize, 20..most];
    let group = prop_oneof![Just(usize::MAX), 1..100usize];
    (size(30), size(700), size(80), group, any::<bool>(), any::<u64>())
        .prop_map(|(m, k, n, group, has_offset, seed)| Case { m, k, n, group, has_offset, seed })
}

fn run<T: Float>(x: Mat<'_, T>, weight: Weight<'_, T>) -> Vec<f32> {
    let mut out = vec![0f32; x.rows() * weight.n()];
    gemm(x, weight, None, MatMut::row_major(&mut out, x.rows(), weight.n()).unwrap()).unwrap();
    out
}

fn check<T: Float>(case: &Case) {
    let Case { m, k, n, group, has_offset, seed } = *case;
    let groups = k.div_ceil(group);
    let x: Vec<T> = to(&noise(m * k, seed));
    let scale: Vec<T> = to(&noise(groups * n, !seed));
    let offset: Option<Vec<T>> =
        has_offset.then(|| to(&noise(groups * n, seed ^ 5).iter().map(|o| o * 9.0).collect::<Vec<_>>()));
    let x = Mat::row_major(&x, m, k).unwrap();
    for (most, per_byte) in [(127.0, 1), (7.0, 2)] {
        let numbers: Vec<i8> = noise(k * n, seed ^ 3).iter().map(|w| (w * 2.0 * most).round() as i8).collect();
        let value = |i: usize| {
            let at = i / n / group * n + i % n;
            let offset = offset.as_ref().map_or(0.0, |offset| offset[at].to_f32());
            T::from_f32((f32::from(numbers[i]) + offset) * scale[at].to_f32())
        };
        let values: Vec<T> = (0..k * n).map(value).collect();
        let plain = Weight::Strided(Mat::row_major(&values, k, n).unwrap());
        let stored = layouts(&numbers, [k, n], per_byte);
        let bytes = [&stored.plain, &stored.turned, &stored.nz, &stored.nz_turned].map(|values| nibbles(values));
        let weights = if per_byte == 1 {
            [
                Weight::Strided(Mat::row_major(&stored.plain, k, n).unwrap()),
                Weight::Strided(Mat::row_major(&stored.turned, n, k).unwrap().transposed()),
                Weight::Nz(NzMat::new(&stored.nz, k, n).unwrap()),
                Weight::NzTransposed(NzMat::new(&stored.nz_turned, n, k).unwrap()),
            ]
            .map(IntWeight::Int8)
        } else {
            [
                Int4Weight::strided(&bytes[0], [k, n], [n, 1]).unwrap(),
                Int4Weight::strided(&bytes[1], [k, n], [1, k]).unwrap(),
                Int4Weight::nz(&bytes[2], k, n).unwrap(),
                Int4Weight::nz_transposed(&bytes[3], k, n).unwrap(),
            ]
            .map(IntWeight::Int4)
        };
        for weight in weights {
            let weight = Antiquant::new(weight, &scale, offset.as_deref(), group).unwrap();
            for isa in Isa::available() {
                isa.with(|| same(&run(x, Weight::Antiquant(&weight)), &run(x, plain))).unwrap();
            }
            let mut due = vec![0f32; m * n];
            let out = MatMut::row_major(&mut due, m, n).unwrap();
            reference::gemm(x, Weight::Antiquant(&weight), None, out).unwrap();
            same(&Isa::Portable.with(|| run(x, plain)).unwrap(), &due);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_number_is_its_value(case in case()) {
        for_each_float!(check(&case));
    }
}

/// So many columns that a thread has several parts of a row, of few rows of x, whose weights are read where they lie.
#[test]
fn a_number_is_its_value_in_wide_weights() {
    for (m, has_offset) in [(1, false), (1, true), (2, true), (3, false), (6, true)] {
        check::<half::bf16>(&Case { m, k: 48, n: 2112, group: 16, has_offset, seed: 3 });
    }
}

/// Two groups of two, by hand: (1 + 1) * 2, (2 + 1) * 2 and (3 - 1) * 0.5, (4 - 1) * 0.5.
#[test]
fn by_hand() {
    let numbers = [1i8, 2, 3, 4];
    let weight = IntWeight::Int8(Weight::Strided(Mat::row_major(&numbers, 4, 1).unwrap()));
    let weight = Antiquant::new(weight, &[2.0, 0.5], Some(&[1.0, -1.0]), 2).unwrap();
    assert_eq!([0, 1, 2, 3].map(|k| weight.get(k, 0)), [4.0, 6.0, 1.0, 1.5].map(Some));
    assert_eq!([weight.get(4, 0), weight.get(0, 1)], [None; 2]);
    let mut out = [0f32];
    let x = Mat::row_major(&[1.0, 10.0, 100.0, 1000.0], 1, 4).unwrap();
    gemm(x, Weight::Antiquant(&weight), None, MatMut::row_major(&mut out, 1, 1).unwrap()).unwrap();
    assert_eq!(out, [1664.0]);
}

#[test]
fn scales_that_do_not_fit_are_refused() {
    let numbers = [0i8; 12];
    let weight = || IntWeight::Int8(Weight::Strided(Mat::row_major(&numbers, 4, 3).unwrap()));
    let scale = [1f32; 6];
    assert!(Antiquant::new(weight(), &scale, Some(&scale), 2).is_ok());
    assert!(Antiquant::new(weight(), &scale[..3], None, usize::MAX).is_ok());
    assert!(matches!(Antiquant::new(weight(), &scale, None, 0), Err(KernelError::Range { .. })));
    assert!(Antiquant::new(weight(), &scale, None, 3).is_ok());
    let error = Antiquant::new(weight(), &scale, None, 4);
    assert!(matches!(error, Err(KernelError::Length { what: "antiquant scale", expected: 3, actual: 6 })));
    let error = Antiquant::new(weight(), &scale, Some(&scale[..3]), 2);
    assert!(matches!(error, Err(KernelError::Length { what: "antiquant offset", expected: 6, actual: 3 })));
}
