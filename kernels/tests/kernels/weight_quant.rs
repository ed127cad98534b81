//! Products with weights of whole numbers against plain loops: the weights bit for bit, the product as that of the float GEMM.

use crate::common::*;
use half::{bf16, f16};
use moe_kernels::KernelError;
use moe_kernels::element::Float;
use moe_kernels::gemm::{Bias, Weight, gemm};
use moe_kernels::int_gemm::{Int4Weight, IntWeight};
use moe_kernels::view::{Mat, MatMut};
use moe_kernels::weight_quant::{Antiquant, multiply, multiply_to_int8};
use moe_kernels::{int4, quant_param};
use proptest::prelude::*;

/// The numbers `[K, N]` that a weight stands for, in its type: the identity times it. Of zeros the sign is lost.
fn values_of<T: Float>(weight: &IntWeight<'_>, antiquant: &Antiquant<'_, T>) -> Vec<T> {
    let (k, n) = (weight.k(), weight.n());
    let one = |at: usize| T::from_f32(if at.is_multiple_of(k + 1) { 1.0 } else { 0.0 });
    let identity: Vec<T> = (0..k * k).map(one).collect();
    let mut out = vec![T::from_f32(POISON); k * n];
    let target = MatMut::row_major(&mut out, k, n).unwrap();
    multiply(Mat::row_major(&identity, k, k).unwrap(), weight, antiquant, None, target).unwrap();
    out
}

fn check<T: Float>([m, k, n]: [usize; 3], group: usize, seed: u64, [one, with_offset, biased]: [bool; 3]) {
    let mut noise = Noise(seed);
    let groups = if group == 0 { 1 } else { k.div_ceil(group) };
    let cols = if one { 1 } else { n };
    let values: Vec<i8> = (0..k * n).map(|_| noise.byte()).collect();
    let (scale, offset): (Vec<T>, Vec<T>) = (to(&noise.floats(groups * cols)), to(&noise.floats(groups * cols)));
    let antiquant = Antiquant {
        scale: Mat::row_major(&scale, groups, cols).unwrap(),
        offset: with_offset.then(|| Mat::row_major(&offset, groups, cols).unwrap()),
        group,
    };
    let weight = IntWeight::Int8(Weight::Strided(Mat::row_major(&values, k, n).unwrap()));
    let at = |row: usize, col: usize| row.checked_div(group).unwrap_or(0) * cols + if one { 0 } else { col };
    let due: Vec<T> = (0..k * n)
        .map(|place| {
            let at = at(place / n, place % n);
            let added = if with_offset { offset[at].to_f32() } else { 0.0 };
            T::from_f32((f32::from(values[place]) + added) * scale[at].to_f32())
        })
        .collect();
    let positive: Vec<T> = due.iter().map(|value| T::from_f32(value.to_f32() + 0.0)).collect();
    same(&values_of(&weight, &antiquant), &positive);

    let x: Vec<T> = to(&noise.floats(m * k));
    let bias: Vec<f32> = noise.floats(n);
    let bias = biased.then_some(Bias::F32(&bias));
    let x = Mat::row_major(&x, m, k).unwrap();
    let floats = Weight::Strided(Mat::row_major(&due, k, n).unwrap());
    let (mut out, mut wide) = (vec![T::from_f32(POISON); m * n], vec![POISON; m * n]);
    gemm(x, floats, bias, MatMut::row_major(&mut wide, m, n).unwrap()).unwrap();
    multiply(x, &weight, &antiquant, bias, MatMut::row_major(&mut out, m, n).unwrap()).unwrap();
    same(&out, &to::<T>(&wide));

    let (scales, offsets): (Vec<f32>, [f32; 1]) = (noise.floats(n), [3.5]);
    let mut bytes = vec![99i8; m * n];
    multiply_to_int8(x, &weight, &antiquant, bias, [&scales, &offsets], &mut bytes).unwrap();
    for (place, byte) in bytes.iter().enumerate() {
        let value = (wide[place] * scales[place % n] + offsets[0]).round_ties_even().clamp(-128.0, 127.0);
        assert_eq!(f32::from(*byte), value);
    }
}

proptest! {
    #[test]
    fn every_form_equals_a_loop(
        [m, k, n] in [1usize..20, 1usize..100, 1usize..90],
        group in prop::sample::select(vec![0, 32, 64, 7]),
        seed: u64,
        kinds in any::<[bool; 3]>(),
    ) {
        check::<bf16>([m, k, n], group, seed, kinds);
        check::<f16>([m, k, n], group, seed, kinds);
    }
}

/// What the 16 bits do not hold is infinite or 0, and a row of zeros gives the bias.
#[test]
fn the_largest_and_the_smallest_scales() {
    let values = [127i8, -128, 1, 0];
    let weight = IntWeight::Int8(Weight::Strided(Mat::row_major(&values, 1, 4).unwrap()));
    for (scale, due) in [
        (65504.0, [f32::INFINITY, f32::NEG_INFINITY, 65504.0, 0.0]),
        (6e-8, [127.0 * 2f32.powi(-24), -128.0 * 2f32.powi(-24), 2f32.powi(-24), 0.0]),
        (511.0, [64897.0, -65408.0, 511.0, 0.0]),
    ] {
        let scale = to::<f16>(&[scale]);
        let antiquant = Antiquant { scale: Mat::row_major(&scale, 1, 1).unwrap(), offset: None, group: 0 };
        same(&values_of(&weight, &antiquant), &to::<f16>(&due));
    }
    let (scale, zero) = (bf(&[1.0]), bf(&[0.0]));
    let antiquant = Antiquant { scale: Mat::row_major(&scale, 1, 1).unwrap(), offset: None, group: 0 };
    let mut out = bf(&[POISON; 4]);
    let bias = [1.5, -2.0, f32::MAX, 0.0];
    let target = MatMut::row_major(&mut out, 1, 4).unwrap();
    multiply(Mat::row_major(&zero, 1, 1).unwrap(), &weight, &antiquant, Some(Bias::F32(&bias)), target).unwrap();
    same(&out, &bf(&bias));
}

/// int4 in the low and the high half, with an offset and two groups: by hand.
#[test]
fn int4_in_groups() {
    let values = [-8i8, 7, 1, -1, 2, 3, 0, 5];
    let mut bytes = [0; 4];
    int4::pack(&values, &mut bytes).unwrap();
    let weight = IntWeight::Int4(Int4Weight::strided(&bytes, [4, 2], [2, 1]).unwrap());
    let (scale, offset) = (bf(&[0.5, 2.0, 1.0, -1.0]), bf(&[1.0, 0.0, 0.0, 8.0]));
    let antiquant = Antiquant {
        scale: Mat::row_major(&scale, 2, 2).unwrap(),
        offset: Some(Mat::row_major(&offset, 2, 2).unwrap()),
        group: 2,
    };
    same(&values_of(&weight, &antiquant), &bf(&[-3.5, 14.0, 1.0, -2.0, 2.0, -11.0, 0.0, -13.0]));
    let x = bf(&[1.0, 1.0, 1.0, 1.0]);
    let mut out = bf(&[POISON; 2]);
    let target = MatMut::row_major(&mut out, 1, 2).unwrap();
    multiply(Mat::row_major(&x, 1, 4).unwrap(), &weight, &antiquant, Some(Bias::Same(&bf(&[0.5, 0.0]))), target)
        .unwrap();
    same(&out, &bf(&[0.0, -12.0]));
}

#[test]
fn refusals() {
    let values = [1i8; 12];
    let weight = IntWeight::Int8(Weight::Strided(Mat::row_major(&values, 4, 3).unwrap()));
    let scale = bf(&[1.0; 12]);
    let (x, mut out) = (bf(&[1.0; 4]), bf(&[7.0; 3]));
    let mut run = |groups: usize, cols: usize, group: usize, offset: Option<[usize; 2]>| {
        let offset = offset.map(|[rows, cols]| Mat::row_major(&scale, rows, cols).unwrap());
        let antiquant = Antiquant { scale: Mat::row_major(&scale, groups, cols).unwrap(), offset, group };
        let target = MatMut::row_major(&mut out, 1, 3).unwrap();
        let answer = multiply(Mat::row_major(&x, 1, 4).unwrap(), &weight, &antiquant, None, target);
        assert_eq!(out, bf(&[7.0; 3]), "written though refused");
        answer.unwrap_err()
    };
    let dim = |what, expected, actual| KernelError::Dim { what, expected, actual };
    assert_eq!(run(2, 3, 0, None), dim("scale, axis of groups", 1, 2));
    assert_eq!(run(1, 3, 2, None), dim("scale, axis of groups", 2, 1));
    assert_eq!(run(1, 2, 0, None), KernelError::Length { what: "scale", expected: 3, actual: 2 });
    assert_eq!(run(2, 3, 2, Some([1, 3])), dim("offset, axis of groups", 2, 1));
    assert_eq!(run(2, 3, 2, Some([2, 1])), dim("offset, axis N", 3, 1));
    let antiquant = Antiquant { scale: Mat::row_major(&scale, 1, 3).unwrap(), offset: None, group: 0 };
    let length = |what, expected, actual| Err(KernelError::Length { what, expected, actual });
    let x = Mat::row_major(&scale, 3, 4).unwrap();
    let to_int8 = |scale: &[f32], offset: &[f32], out: usize| {
        multiply_to_int8(x, &weight, &antiquant, None, [scale, offset], &mut vec![0; out])
    };
    assert_eq!(to_int8(&[1.0; 2], &[1.0], 9), length("quantisation scale", 3, 2));
    assert_eq!(to_int8(&[1.0], &[], 9), length("quantisation offset", 3, 0));
    assert_eq!(to_int8(&[1.0], &[0.0], 8), length("out", 9, 8));
    assert_eq!(to_int8(&[1.0], &[0.0], 9), Ok(()));

    let not_finite = |what, position| Err(KernelError::NotFinite { what, position });
    assert_eq!(quant_param::encode_all(&[1.0, f32::NAN], None, &mut [0; 2]), not_finite("scale", 1));
    assert_eq!(quant_param::encode_all(&[1.0], Some(&[f32::INFINITY]), &mut [0; 1]), not_finite("offset", 0));
}
