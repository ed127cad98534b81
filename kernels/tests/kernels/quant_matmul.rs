//! Quantised products against plain loops built from the rules: integers equal, floats bit for bit.

use crate::common::*;
use half::{bf16, f16};
use moe_kernels::KernelError;
use moe_kernels::element::Float;
use moe_kernels::gemm::Weight;
use moe_kernels::int_gemm::{IntProblem, IntWeight};
use moe_kernels::quant_matmul::{Bias, Dequant, accumulated, dequantised, requantised};
use moe_kernels::view::{Mat, MatMut};
use moe_kernels::{int4, quant_param};
use proptest::prelude::*;

/// A batch of products `[M, K] @ [K, N]` with outputs in one array.
struct Batch<'a> {
    x: &'a [i8],
    w: &'a [i8],
    size: [usize; 4],
}

impl Batch<'_> {
    fn problems<'o, O>(&self, out: &'o mut [O]) -> Vec<IntProblem<'_, 'o, O>>
    where
        O: Copy,
    {
        let [batch, m, k, n] = self.size;
        let mut rest = out;
        let mut problems = Vec::new();
        for index in 0..batch {
            let (part, after) = rest.split_at_mut(m * n);
            rest = after;
            let x = Mat::row_major(&self.x[index * m * k..], m, k).unwrap();
            let weight = IntWeight::Int8(Weight::Strided(Mat::row_major(&self.w[index * k * n..], k, n).unwrap()));
            problems.push(IntProblem { x, rows: 0..m, weight, out: MatMut::row_major(part, m, n).unwrap() });
        }
        problems
    }

    /// The sum at a place of the outputs, with its row and column.
    fn sum(&self, at: usize) -> (i32, usize, usize) {
        let [_, m, k, n] = self.size;
        let (index, row, col) = (at / (m * n), at / n % m, at % n);
        let product =
            |l: usize| i32::from(self.x[(index * m + row) * k + l]) * i32::from(self.w[(index * k + l) * n + col]);
        ((0..k).map(product).sum(), row, col)
    }
}

/// Worked example 18.
#[test]
fn a_scale_for_each_row_comes_after_that_of_the_column_and_a_bias_of_floats_last() {
    let batch = Batch { x: &[1, -2, 100, 100], w: &[3, -4, 5, 6], size: [1, 2, 2, 2] };
    let mut sums = [0; 4];
    accumulated(batch.problems(&mut sums), None).unwrap();
    assert_eq!(sums, [-7, -16, 800, 200]);
    let mut out = bf(&[POISON; 4]);
    let (scale, per_token, bias) = ([0.5, 0.25], [0.1, 2.0], [1.0, -1.0]);
    let dequant = Dequant { scale: &scale, per_token: Some(&per_token), bias: Some(Bias::Scaled(&bias)) };
    dequantised(batch.problems(&mut out), &dequant).unwrap();
    same(&out, &bf(&[0.6484375, -1.3984375, 800.0, 99.0]));
}

/// Worked example 11 as one product of each expert: the bias is part of the sums.
#[test]
fn a_bias_of_integers_is_added_to_the_sums() {
    let batch = Batch { x: &[100, 100, -128, 127], w: &[127, -127, 127, -128], size: [1, 2, 2, 2] };
    let mut sums = [0; 4];
    accumulated(batch.problems(&mut sums), Some(&[0, 1])).unwrap();
    assert_eq!(sums, [25400, -25499, -127, 1]);
    let scale: Vec<f32> = bf(&[0.01, 0.02]).into_iter().map(Float::to_f32).collect();
    let mut out = bf(&[POISON; 4]);
    let dequant = Dequant { scale: &scale, per_token: Some(&[2.0, 0.5]), bias: Some(Bias::Sum(&[0, 1])) };
    dequantised(batch.problems(&mut out), &dequant).unwrap();
    same(&out, &bf(&[508.0, -1020.0, -0.63671875, 0.010_009_766]));
}

/// Worked example 1, the default cast: nearest, ties to even, saturated.
#[test]
fn int8_outputs_are_rounded_to_even_and_saturated() {
    let values = [0.5, 1.5, 2.5, -0.5, -1.5, 2.500_488_3, 126.5, 127.4, 200.0, -128.5, -129.0, -300.0, f32::NAN];
    let batch = Batch { x: &[1], w: &[1; 13], size: [1, 1, 1, 13] };
    let mut out = [99; 13];
    requantised(batch.problems(&mut out), &values, &[0.0], None).unwrap();
    assert_eq!(out, [0, 2, 2, 0, -2, 3, 126, 127, 127, -128, -128, -128, 0]);
    // With an offset: 2.5 + 1 goes to 4.
    requantised(batch.problems(&mut out), &[2.5], &[1.0], Some(&[0; 13])).unwrap();
    assert_eq!(out, [4; 13]);
}

#[test]
fn zero_rows_and_the_ends_of_the_range() {
    let batch = Batch { x: &[0, 0, 127, 127, -128, -128], w: &[127, -128, 127, -128], size: [1, 3, 2, 2] };
    for scale in [f32::MIN_POSITIVE, 1e-45, f32::MAX, 65504.0] {
        let mut out = [f16::ONE; 6];
        let dequant = Dequant { scale: &[scale], per_token: None, bias: None };
        dequantised(batch.problems(&mut out), &dequant).unwrap();
        let due = [0, 0, 32258, -32512, -32512, 32768].map(|sum| <f16 as Float>::from_f32(sum as f32 * scale));
        same(&out, &due);
    }
    let mut out = [i32::MIN; 6];
    accumulated(batch.problems(&mut out), Some(&[i32::MAX, i32::MIN])).unwrap();
    assert_eq!(out[..2], [i32::MAX, i32::MIN]);
    assert_eq!(out[2], i32::MAX.wrapping_add(32258));
}

proptest! {
    #[test]
    fn every_form_equals_a_loop(
        [batch, m, k, n] in [1usize..4, 1usize..40, 0usize..70, 1usize..150],
        seed: u64,
        [one_scale, own_bias, per_row] in any::<[bool; 3]>(),
        bias_kind in 0..3,
    ) {
        let mut random = Noise(seed);
        let x: Vec<i8> = (0..batch * m * k).map(|_| random.byte()).collect();
        let w: Vec<i8> = (0..batch * k * n).map(|_| random.byte()).collect();
        let operands = Batch { x: &x, w: &w, size: [batch, m, k, n] };
        let scale: Vec<f32> = (0..if one_scale { 1 } else { n }).map(|_| random.float() * 0.01).collect();
        let rows: Vec<f32> = (0..m).map(|_| random.float()).collect();
        let biases = if own_bias { batch * n } else { n };
        let sums: Vec<i32> = (0..biases).map(|_| i32::from(random.byte()) * 1000).collect();
        let floats: Vec<f32> = (0..biases).map(|_| random.float()).collect();
        let bias = match bias_kind { 0 => None, 1 => Some(Bias::Sum(&sums)), _ => Some(Bias::Scaled(&floats)) };
        let per_token = per_row.then_some(&rows[..]);

        let bias_at = |at: usize, col: usize| if own_bias { at / (m * n) * n + col } else { col };
        let of = |values: &[f32], col: usize| if values.len() == 1 { values[0] } else { values[col] };
        let due: Vec<f32> = (0..batch * m * n).map(|at| {
            let (sum, row, col) = operands.sum(at);
            let sum = if bias_kind == 1 { sum + sums[bias_at(at, col)] } else { sum };
            let value = sum as f32 * of(&scale, col);
            let value = if per_row { value * rows[row] } else { value };
            if bias_kind == 2 { value + floats[bias_at(at, col)] } else { value }
        }).collect();
        let mut out = vec![bf16::ONE; due.len()];
        dequantised(operands.problems(&mut out), &Dequant { scale: &scale, per_token, bias }).unwrap();
        same(&out, &to::<bf16>(&due));

        let offset: Vec<f32> = (0..n).map(|_| f32::from(random.byte())).collect();
        let mut out = vec![0i8; due.len()];
        let added = (bias_kind == 1).then_some(&sums[..]);
        requantised(operands.problems(&mut out), &scale, &offset, added).unwrap();
        for (at, out) in out.iter().enumerate() {
            let (sum, _, col) = operands.sum(at);
            let sum = added.map_or(sum, |sums| sum + sums[bias_at(at, col)]);
            let value = (sum as f32 * of(&scale, col) + offset[col]).round_ties_even().clamp(-128.0, 127.0);
            prop_assert_eq!(f32::from(*out), value);
        }
        let mut out = vec![0i32; due.len()];
        accumulated(operands.problems(&mut out), added).unwrap();
        for (at, out) in out.iter().enumerate() {
            let (sum, _, col) = operands.sum(at);
            prop_assert_eq!(*out, added.map_or(sum, |sums| sum + sums[bias_at(at, col)]));
        }
    }

    #[test]
    fn int4_packs_and_unpacks(values in prop::collection::vec(-8i8..8, 0..300)) {
        let even = &values[..values.len() / 2 * 2];
        let mut bytes = vec![0; even.len() / 2];
        int4::pack(even, &mut bytes).unwrap();
        let wide: Vec<i32> = even.iter().map(|&value| value.into()).collect();
        let mut again = vec![0; bytes.len()];
        int4::pack(&wide, &mut again).unwrap();
        prop_assert_eq!(&again, &bytes);
        let mut found = vec![0; even.len()];
        int4::unpack(&bytes, &mut found).unwrap();
        prop_assert_eq!(found, even);
    }

    #[test]
    fn encoded_scales_keep_19_bits_and_the_offset(bits: u32, offset in -400f32..400.0) {
        let scale = f32::from_bits(bits);
        let plain = quant_param::encode(scale, None);
        prop_assert_eq!(plain, u64::from(bits & 0xffff_e000) | 1 << 46);
        prop_assert_eq!(quant_param::offset(plain), 0.0);
        let both = quant_param::encode(scale, Some(offset));
        prop_assert_eq!(both as u32, bits & 0xffff_e000);
        prop_assert_eq!(quant_param::scale(both).to_bits(), bits & 0xffff_e000);
        prop_assert_eq!(quant_param::offset(both), offset.round_ties_even().clamp(-256.0, 255.0));
        prop_assert_eq!(both >> 47, 0);
        // A scale whose bits were widened, as frameworks do it.
        prop_assert_eq!(quant_param::scale(u64::from(bits)).to_bits(), bits);
        prop_assert_eq!(quant_param::offset(u64::from(bits)), 0.0);
    }
}

/// Worked example 19.
#[test]
fn nibbles() {
    let values = [-8i8, 7, -1, 0, 3, -4, 1, 2];
    let mut bytes = [0; 4];
    int4::pack(&values, &mut bytes).unwrap();
    assert_eq!(bytes, [0x78, 0x0f, 0xc3, 0x21]);
    assert_eq!(i32::from_le_bytes(bytes), 566_431_608);
    let mut found = [0; 8];
    int4::unpack(&bytes, &mut found).unwrap();
    assert_eq!(found, values);
}

#[test]
fn the_result_is_the_same_for_any_number_of_threads() {
    let mut random = Noise(7);
    let (m, k, n) = (70, 33, 300);
    let x: Vec<i8> = (0..m * k).map(|_| random.byte()).collect();
    let w: Vec<i8> = (0..k * n).map(|_| random.byte()).collect();
    let scale: Vec<f32> = (0..n).map(|_| random.float()).collect();
    let mut results: Vec<Vec<f32>> = Vec::new();
    on_pools(|| {
        let mut out = vec![0f32; m * n];
        let operands = Batch { x: &x, w: &w, size: [1, m, k, n] };
        dequantised(operands.problems(&mut out), &Dequant { scale: &scale, per_token: None, bias: None }).unwrap();
        results.push(out);
    });
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn refusals() {
    let operands = Batch { x: &[1; 12], w: &[1; 8], size: [1, 3, 4, 2] };
    let mut out = [7f32; 6];
    let mut run = |scale: &[f32], per_token: Option<&[f32]>, bias: Option<Bias<'_>>| {
        let answer = dequantised(operands.problems(&mut out), &Dequant { scale, per_token, bias });
        assert_eq!(out, [7.0; 6], "written though refused");
        answer.unwrap_err()
    };
    let length = |what, expected, actual| KernelError::Length { what, expected, actual };
    assert_eq!(run(&[1.0; 3], None, None), length("scale", 2, 3));
    assert_eq!(run(&[1.0; 2], Some(&[1.0; 2]), None), length("per-token scale", 3, 2));
    assert_eq!(run(&[1.0], None, Some(Bias::Sum(&[1; 3]))), length("bias", 2, 3));
    assert_eq!(run(&[1.0], None, Some(Bias::Scaled(&[]))), length("bias", 2, 0));
    let mut bytes = [0; 6];
    assert_eq!(requantised(operands.problems(&mut bytes), &[1.0], &[1.0; 3], None), Err(length("offset", 2, 3)));
    let mut sums = [0; 6];
    assert_eq!(accumulated(operands.problems(&mut sums), Some(&[1])), Err(length("bias", 2, 1)));

    let odd = KernelError::NotMultiple { what: "count of int4", value: 3, of: 2 };
    assert_eq!(int4::pack(&[1i8, 2, 3], &mut [0; 2]), Err(odd));
    assert_eq!(int4::pack(&[1i8, 2], &mut [0; 2]), Err(length("int4 bytes", 1, 2)));
    assert_eq!(int4::pack(&[0, 7, -8, 8], &mut [0; 2]), Err(KernelError::Int4 { position: 3, value: 8 }));
    assert_eq!(int4::pack(&[0, -9], &mut [0; 1]), Err(KernelError::Int4 { position: 1, value: -9 }));
    assert_eq!(int4::unpack(&[0; 2], &mut [0; 3]), Err(length("int4 values", 4, 3)));
    assert_eq!(quant_param::encode_all(&[1.0; 3], None, &mut [0; 2]), Err(length("scale", 2, 3)));
    assert_eq!(quant_param::encode_all(&[1.0], Some(&[1.0; 3]), &mut [0; 2]), Err(length("offset", 2, 3)));
}

#[test]
fn one_scale_or_offset_serves_all() {
    let mut out = [0; 3];
    quant_param::encode_all(&[1.5], Some(&[1.0, -2.0, 300.0]), &mut out).unwrap();
    assert_eq!(out.map(quant_param::scale), [1.5; 3]);
    assert_eq!(out.map(quant_param::offset), [1.0, -2.0, 255.0]);
    quant_param::encode_all(&[1.0, 2.0, 0.25], Some(&[-300.0]), &mut out).unwrap();
    assert_eq!(out.map(quant_param::scale), [1.0, 2.0, 0.25]);
    assert_eq!(out.map(quant_param::offset), [-256.0; 3]);
}
