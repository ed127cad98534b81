//! Products with integer weights: expansion against plain loops, products against those of expanded weights, the two steps of
//! int8 against their formula and the exact product.

use crate::common::{POISON, on_pools, same, to};
use half::{bf16, f16};
use moe_kernels::KernelError;
use moe_kernels::antiquant_gemm::{AntiquantExpert, antiquant_gemm, takes_two_steps};
use moe_kernels::element::Float;
use moe_kernels::gemm::{Bias, Weight};
use moe_kernels::group_list::Group;
use moe_kernels::grouped_gemm::{Expert, grouped_gemm};
use moe_kernels::int_gemm::{Int4Weight, IntWeight};
use moe_kernels::isa::Isa;
use moe_kernels::quant_gemm::Rounding;
use moe_kernels::view::{Mat, MatMut};
use proptest::prelude::*;

/// Two to a byte, the even one low.
fn nibbles(values: &[i8]) -> Vec<u8> {
    let nibble = |value: i8| (value as u8) & 15;
    values.chunks(2).map(|pair| nibble(pair[0]) | pair.get(1).map_or(0, |&high| nibble(high) << 4)).collect()
}

fn ints(len: usize, low: i64, high: i64, seed: u64) -> Vec<i8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as i64
    };
    (0..len).map(|_| (low + next() % (high - low + 1)) as i8).collect()
}

fn floats<T: Float>(len: usize, seed: u64) -> Vec<T> {
    to(&ints(len, -100, 100, seed).iter().map(|&value| f32::from(value) * 0.0137).collect::<Vec<_>>())
}

#[derive(Debug, Clone)]
struct Case {
    counts: Vec<usize>,
    k: usize,
    n: usize,
    parts: usize,
    int4: bool,
    offset: bool,
    biased: bool,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let counts = prop::collection::vec(0..6usize, 1..4);
    // Of whole words and of several parts of a row too, which are read where they lie.
    let depth = prop_oneof![1..20usize, (1..4usize).prop_map(|words| 8 * words)];
    let n = prop_oneof![1..40usize, 64..150usize];
    (counts, depth, n, 1..4usize, any::<[bool; 3]>(), any::<u64>()).prop_map(
        |(counts, depth, n, parts, [int4, offset, biased], seed)| Case {
            counts,
            k: depth * parts,
            n,
            parts,
            int4,
            offset,
            biased,
            seed,
        },
    )
}

fn check<T: Float>(case: &Case) {
    let Case { ref counts, k, n, parts, int4, seed, .. } = *case;
    let m = counts.iter().sum::<usize>() + 2;
    let ends = if int4 { [-8, 7] } else { [-128, 127] };
    let x = floats::<T>(m * k, seed);
    let weights: Vec<_> = (0..counts.len()).map(|e| ints(k * n, ends[0], ends[1], seed ^ e as u64)).collect();
    let bytes: Vec<_> = weights.iter().map(|w| nibbles(w)).collect();
    let (scale, offset, bias) =
        (floats::<T>(parts * n, !seed), floats::<T>(parts * n, seed / 3), floats::<T>(n, seed / 5));
    let bias = case.biased.then_some(Bias::Same(&bias[..]));
    let experts: Vec<_> = (0..counts.len())
        .map(|e| AntiquantExpert {
            weight: match int4 {
                false => IntWeight::Int8(Weight::Strided(Mat::row_major(&weights[e], k, n).unwrap())),
                true => IntWeight::Int4(Int4Weight::strided(&bytes[e], [k, n], [n, 1]).unwrap()),
            },
            scale: &scale,
            offset: case.offset.then_some(&offset[..]),
            bias,
        })
        .collect();
    let expanded: Vec<Vec<T>> = weights
        .iter()
        .map(|w| {
            let at = |i: usize| (i / n / (k / parts)) * n + i % n;
            let offset = |i: usize| if case.offset { offset[at(i)].to_f32() } else { 0.0 };
            (0..k * n).map(|i| T::from_f32((f32::from(w[i]) + offset(i)) * scale[at(i)].to_f32())).collect()
        })
        .collect();
    let plain: Vec<_> =
        expanded.iter().map(|w| Expert { weight: Weight::Strided(Mat::row_major(w, k, n).unwrap()), bias }).collect();
    let mut start = 0;
    let mut group = |(expert, &count): (usize, &usize)| {
        start += count;
        Group { expert, rows: start - count..start }
    };
    let groups: Vec<_> = counts.iter().enumerate().map(&mut group).collect();
    let x = Mat::row_major(&x, m, k).unwrap();
    let mut due = vec![T::from_f32(POISON); m * n];
    grouped_gemm(x, &plain, &groups, MatMut::row_major(&mut due, m, n).unwrap()).unwrap();
    let run = |rounding| {
        let mut out = vec![T::from_f32(POISON); m * n];
        antiquant_gemm(x, &experts, &groups, rounding, MatMut::row_major(&mut out, m, n).unwrap()).unwrap();
        out
    };
    on_pools(|| same(&run(Rounding::Faithful), &due));
    // Without the rounding of weights: exact sums, within the roundings of f32 and one of the output.
    for isa in Isa::available() {
        let found = isa.with(|| run(Rounding::Fast)).unwrap();
        isa.with(|| on_pools(|| same(&run(Rounding::Fast), &found))).unwrap();
        for (row, col) in (0..m).flat_map(|row| (0..n).map(move |col| (row, col))) {
            let value = found[row * n + col].to_f32();
            let Some(Group { expert, .. }) = groups.iter().find(|group| group.rows.contains(&row)) else {
                assert_eq!(value, T::from_f32(POISON).to_f32());
                continue;
            };
            let at = |l: usize| l / (k / parts) * n + col;
            let offset = |l: usize| if case.offset { f64::from(offset[at(l)].to_f32()) } else { 0.0 };
            let bias = bias.map_or(0.0, |bias| match bias {
                Bias::Same(bias) => f64::from(bias[col].to_f32()),
                Bias::F32(bias) => f64::from(bias[col]),
            });
            let of = |l: usize, weight: f64| {
                f64::from(x.get(row, l).unwrap().to_f32()) * weight * f64::from(scale[at(l)].to_f32())
            };
            let number = |l: usize| f64::from(weights[*expert][l * n + col]);
            let exact: f64 = (0..k).map(|l| of(l, number(l) + offset(l))).sum::<f64>() + bias;
            let size: f64 = (0..k).map(|l| of(l, number(l).abs() + offset(l).abs()).abs()).sum::<f64>() + bias.abs();
            // Half a step of the output, of which f16 has small ones near 0.
            let half = if T::NAME == "bf16" { 1.0 / 256.0 } else { 1.0 / 2048.0 };
            let bound = exact.abs() * half + 1.0 / (1 << 25) as f64 + (k + 8) as f64 * f64::from(f32::EPSILON) * size;
            assert!((f64::from(value) - exact).abs() <= bound, "{} {row} {col}: {value} of {exact}", isa.name());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn products_are_those_of_expanded_weights(case in case()) {
        check::<bf16>(&case);
        check::<f16>(&case);
    }
}

#[test]
fn two_steps() {
    assert!(takes_two_steps(64, 1, 128, 1024) && takes_two_steps(128, 2, 12288, 1152));
    for (rows, experts, k, n) in
        [(65, 1, 128, 1024), (1, 1, 64, 1024), (1, 1, 128, 1000), (1, 1, 128, 896), (1, 1, 12416, 1024)]
    {
        assert!(!takes_two_steps(rows, experts, k, n), "{rows} {experts} {k} {n}");
    }
    let (m, k, n) = (3, 128, 1024);
    let mut x = floats::<bf16>(m * k, 3);
    x[2 * k..].fill(bf16::ZERO);
    let w = ints(k * n, -128, 127, 4);
    let (scale, offset) = (floats::<bf16>(n, 5), floats::<bf16>(n, 6));
    let bias: Vec<f32> = (0..n).map(|i| i as f32 * 0.01).collect();
    let expert = AntiquantExpert {
        weight: IntWeight::Int8(Weight::Strided(Mat::row_major(&w, k, n).unwrap())),
        scale: &scale,
        offset: Some(&offset),
        bias: Some(Bias::F32(&bias)),
    };
    let x_mat = Mat::row_major(&x, m, k).unwrap();
    let groups = [Group { expert: 0, rows: 0..m }];
    let mut out = vec![bf16::ZERO; m * n];
    antiquant_gemm(x_mat, &[expert], &groups, Rounding::Faithful, MatMut::row_major(&mut out, m, n).unwrap()).unwrap();
    for row in 0..m {
        let values: Vec<f32> = x[row * k..][..k].iter().map(|value| value.to_f32()).collect();
        let most = values.iter().fold(0f32, |most, value| most.max(value.abs()));
        let t: Vec<f32> = values.iter().map(|value| if most == 0.0 { 0.0 } else { value * (127.0 / most) }).collect();
        let mut largest = 0f64;
        let mut worst = 0f64;
        for column in 0..n {
            let product =
                |of: &dyn Fn(f32) -> f32| (0..k).map(|i| of(t[i]) as i32 * i32::from(w[i * n + column])).sum::<i32>();
            let (c1, c2) = (product(&f32::round), product(&|t| (254.0 * (t - t.round())).round()));
            let sum = values.iter().sum::<f32>();
            let wide = (c1 as f32 + c2 as f32 * (1.0 / 254.0)) * (most / 127.0) + offset[column].to_f32() * sum;
            let due = bf16::from_f32(wide * scale[column].to_f32() + bias[column]);
            assert_eq!(out[row * n + column], due, "{row} {column}");
            let exact: f64 = (0..k)
                .map(|i| f64::from(values[i]) * (f64::from(w[i * n + column]) + f64::from(offset[column].to_f32())))
                .sum::<f64>()
                * f64::from(scale[column].to_f32())
                + f64::from(bias[column]);
            largest = largest.max(exact.abs());
            worst = worst.max((exact - f64::from(due.to_f32())).abs());
        }
        assert!(worst <= 1e-2 * largest, "{worst} of {largest}");
    }
    // Without the two steps the weights are rounded instead.
    let mut fast = vec![bf16::ZERO; m * n];
    antiquant_gemm(x_mat, &[expert], &groups, Rounding::Fast, MatMut::row_major(&mut fast, m, n).unwrap()).unwrap();
    assert_ne!(fast, out);
}

#[test]
fn what_does_not_fit_is_refused() {
    let (w, x) = ([1i8; 12], [bf16::ONE; 8]);
    let ones = [bf16::ONE; 9];
    let run = |scale: &[bf16], offset: Option<&[bf16]>, k: usize| {
        let weight = IntWeight::Int8(Weight::Strided(Mat::row_major(&w, k, 3).unwrap()));
        let expert = AntiquantExpert { weight, scale, offset, bias: None };
        let mut out = [bf16::ZERO; 6];
        let (x, out) = (Mat::row_major(&x, 2, 4).unwrap(), MatMut::row_major(&mut out, 2, 3).unwrap());
        antiquant_gemm(x, &[expert], &[Group { expert: 0, rows: 0..2 }], Rounding::Faithful, out)
    };
    assert!(run(&ones[..3], None, 4).is_ok());
    assert!(matches!(run(&ones[..4], None, 4), Err(KernelError::NotMultiple { .. })));
    assert!(matches!(run(&ones[..9], None, 4), Err(KernelError::NotMultiple { .. })));
    assert!(matches!(run(&ones[..3], Some(&ones[..6]), 4), Err(KernelError::Length { .. })));
    assert!(matches!(run(&ones[..3], None, 3), Err(KernelError::Dim { .. })));
}
