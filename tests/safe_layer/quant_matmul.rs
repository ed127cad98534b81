//! The quantised dense product: every form against a plain loop, the operators that compute it, and what is refused.

use ascend_moe::op::{self, QuantMatmul};
use ascend_moe::{DType, Error, Tensor, TensorView};
use ascend_sys::{FunctionId, OperatorId, aclFormat};
use half::{bf16, f16};
use moe_kernels::element::Float;
use moe_kernels::view::NdView;
use moe_kernels::{int4, nz};

use crate::operators::{bf, read, tensor, zeros};
use crate::rig::Rig;

/// A small generator (the constants of Knuth's MMIX).
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn byte(&mut self) -> i8 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 56) as i8
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<i8> {
        (0..count).map(|_| self.byte()).collect()
    }

    pub(crate) fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| f32::from(self.byte()) / 64.0).collect()
    }
}

/// The other way round in the last two dimensions.
pub(crate) fn turned<T: Copy>(values: &[T], rows: usize, cols: usize) -> Vec<T> {
    let one = |matrix: &[T]| {
        (0..cols).flat_map(|c| (0..rows).map(move |r| (r, c))).map(|(r, c)| matrix[r * cols + c]).collect::<Vec<_>>()
    };
    values.chunks(rows * cols).flat_map(one).collect()
}

/// Numbers of 4 bits, two to a byte.
pub(crate) fn nibbles(values: &[i8]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() / 2];
    int4::pack(values, &mut bytes).unwrap();
    bytes
}

/// int8 in blocks.
pub(crate) fn blocks(rig: &Rig, values: &[i8], shape: &[usize]) -> Tensor {
    let [batch @ .., rows, cols] = shape else { panic!("{shape:?}") };
    let len = batch.iter().product::<usize>() * nz::NzLayout::new(*rows, *cols, 1).unwrap().storage_len();
    let mut storage = vec![0i8; len];
    nz::pack(&NdView::contiguous(values, shape).unwrap(), &mut storage).unwrap();
    Tensor::from_nz_bytes(&rig.device, DType::I8, bytemuck::cast_slice(&storage), shape).unwrap()
}

/// `x1 @ x2` of a batch.
fn sums(x1: &[i8], x2: &[i8], [batch, m, k, n]: [usize; 4]) -> Vec<i32> {
    let at = |b: usize, i: usize, j: usize| {
        (0..k).map(|l| i32::from(x1[(b * m + i) * k + l]) * i32::from(x2[(b * k + l) * n + j])).sum()
    };
    (0..batch * m * n).map(|index| at(index / (m * n), index / n % m, index % n)).collect()
}

/// Worked example 18, by each operator that computes it.
#[test]
fn worked_example() {
    let versions = [OperatorId::QuantMatmulWeightNz, OperatorId::QuantMatmulV5, OperatorId::QuantMatmulV4];
    for (lacking, due) in versions.into_iter().enumerate() {
        let absent = versions[..lacking].iter().map(|id| id.info().phase2).collect();
        let rig = Rig::with(|config| config.absent = absent);
        let sequence = rig.stream.sequence().unwrap();
        let x1 = tensor(&rig, &[1i8, -2, 100, 100], &[2, 2]);
        let (plain, packed) = (tensor(&rig, &[3i8, -4, 5, 6], &[2, 2]), blocks(&rig, &[3, -4, 5, 6], &[2, 2]));
        let (scale, rows) = (tensor(&rig, &[0.5f32, 0.25], &[2]), tensor(&rig, &[0.1f32, 2.0], &[2]));
        let bias = tensor(&rig, &[1.0f32, -1.0], &[2]);
        for x2 in [&packed, &plain] {
            let mut out = zeros(&rig, DType::Bf16, &[2, 2]);
            let (x1, x2, scale, rows, bias) = (x1.view(), x2.view(), scale.view(), rows.view(), bias.view());
            let inputs = QuantMatmul { per_token_scale: Some(&rows), bias: Some(&bias), ..plainly(&x1, &x2, &scale) };
            let ran = op::quant_matmul(&sequence, &inputs, &mut out.view_mut()).unwrap();
            let unpacked = if lacking < 2 { OperatorId::QuantMatmulV5 } else { OperatorId::QuantMatmulV4 };
            let packed = x2.desc().format == aclFormat::FRACTAL_NZ;
            assert_eq!(ran, if packed { due } else { unpacked });
            assert_eq!(read::<bf16>(&rig, &out), bf(&[0.6484375, -1.3984375, 800.0, 99.0]));
        }
    }
}

/// Without options.
pub(crate) fn plainly<'a>(
    x1: &'a TensorView<'a>,
    x2: &'a TensorView<'a>,
    scale: &'a TensorView<'a>,
) -> QuantMatmul<'a> {
    let (transpose_x1, transpose_x2) = (false, false);
    QuantMatmul { x1, x2, transpose_x1, transpose_x2, scale, per_token_scale: None, offset: None, bias: None }
}

/// Sizes on and off the alignment of blocks.
const SIZES: [[usize; 4]; 5] = [[1, 1, 1, 1], [1, 3, 20, 17], [1, 16, 32, 64], [2, 5, 33, 40], [3, 2, 70, 130]];

/// int8 in every layout, with scales and a bias of floats.
#[test]
fn layouts_of_int8() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let mut noise = Noise(1);
    for size @ [batch, m, k, n] in SIZES {
        let (x1, x2) = (noise.bytes(batch * m * k), noise.bytes(batch * k * n));
        let (scale, rows, bias) = (noise.floats(n), noise.floats(m), noise.floats(n));
        let scaled = |(at, sum): (usize, i32)| (sum as f32 * scale[at % n]) * rows[at / n % m] + bias[at % n];
        let due: Vec<f32> = sums(&x1, &x2, size).into_iter().enumerate().map(scaled).collect();
        let lead = |shape: [usize; 2]| if batch == 1 { shape.to_vec() } else { vec![batch, shape[0], shape[1]] };
        let upright = [tensor(&rig, &x1, &lead([m, k])), tensor(&rig, &turned(&x1, m, k), &lead([k, m]))];
        let (t2, turned2) = (tensor(&rig, &x2, &lead([k, n])), turned(&x2, k, n));
        let right = [
            t2,
            tensor(&rig, &turned2, &lead([n, k])),
            blocks(&rig, &x2, &lead([k, n])),
            blocks(&rig, &turned2, &lead([n, k])),
        ];
        let (scale, rows, bias) = (tensor(&rig, &scale, &[n]), tensor(&rig, &rows, &[m]), tensor(&rig, &bias, &[n]));
        let (scale, rows, bias) = (scale.view(), rows.view(), bias.view());
        for (left_turned, left) in upright.iter().enumerate() {
            for (right_turned, right) in right.iter().enumerate() {
                for by_flag in [false, true] {
                    // The other order of the last two dimensions, by a flag or as a view.
                    let (left_turned, right_turned) = (left_turned == 1, right_turned % 2 == 1);
                    let (left, right) = (left.view(), right.view());
                    let left = if left_turned && !by_flag { left.transpose().unwrap() } else { left };
                    let right = if right_turned && !by_flag { right.transpose().unwrap() } else { right };
                    let inputs = QuantMatmul {
                        transpose_x1: left_turned && by_flag,
                        transpose_x2: right_turned && by_flag,
                        per_token_scale: Some(&rows),
                        bias: Some(&bias),
                        ..plainly(&left, &right, &scale)
                    };
                    let mut out = zeros(&rig, DType::Bf16, &lead([m, n]));
                    op::quant_matmul(&sequence, &inputs, &mut out.view_mut()).unwrap();
                    let due: Vec<bf16> = due.iter().map(|value| Float::from_f32(*value)).collect();
                    assert_eq!(read::<bf16>(&rig, &out), due, "{size:?} {left_turned} {right_turned} {by_flag}");
                }
            }
        }
    }
}

/// int4, by themselves and carried by int32.
#[test]
fn int4_operands() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let mut noise = Noise(2);
    for [m, k, n] in [[1, 8, 8], [5, 24, 16], [3, 72, 136]] {
        let small = |values: Vec<i8>| values.into_iter().map(|value| value >> 4).collect::<Vec<i8>>();
        let (x1, x2) = (small(noise.bytes(m * k)), small(noise.bytes(k * n)));
        let (scale, rows) = (noise.floats(1), noise.floats(m));
        let due: Vec<f16> = sums(&x1, &x2, [1, m, k, n])
            .into_iter()
            .enumerate()
            .map(|(at, sum)| Float::from_f32((sum as f32 * scale[0]) * rows[at / n]))
            .collect();
        let by_itself = |values: &[i8], shape: &[usize; 2]| {
            Tensor::from_bytes(&rig.device, DType::I4, &nibbles(values), shape).unwrap()
        };
        let carried = |values: &[i8], [r, c]: &[usize; 2]| {
            let words: Vec<i32> =
                nibbles(values).as_chunks::<4>().0.iter().map(|word| i32::from_le_bytes(*word)).collect();
            tensor(&rig, &words, &[*r, *c / 8])
        };
        let (scale, rows) = (tensor(&rig, &scale, &[1]), tensor(&rig, &rows, &[m]));
        let (scale, rows) = (scale.view(), rows.view());
        for (left, right, transpose_x2) in [
            (by_itself(&x1, &[m, k]), by_itself(&x2, &[k, n]), false),
            (by_itself(&x1, &[m, k]), by_itself(&turned(&x2, k, n), &[n, k]), true),
            (carried(&x1, &[m, k]), carried(&x2, &[k, n]), false),
            (carried(&x1, &[m, k]), carried(&turned(&x2, k, n), &[n, k]), true),
            (by_itself(&x1, &[m, k]), carried(&x2, &[k, n]), false),
        ] {
            let (left, right) = (left.view(), right.view());
            let inputs = QuantMatmul { transpose_x2, per_token_scale: Some(&rows), ..plainly(&left, &right, &scale) };
            let mut out = zeros(&rig, DType::F16, &[m, n]);
            op::quant_matmul(&sequence, &inputs, &mut out.view_mut()).unwrap();
            assert_eq!(read::<f16>(&rig, &out), due, "{:?} {:?}", left.dtype(), right.dtype());
        }
        let (left, right) = (by_itself(&x1, &[m, k]), by_itself(&turned(&x2, k, n), &[n, k]));
        let (left, right) = (left.view(), right.view().transpose().unwrap());
        let mut out = zeros(&rig, DType::F16, &[m, n]);
        let inputs = QuantMatmul { per_token_scale: Some(&rows), ..plainly(&left, &right, &scale) };
        op::quant_matmul(&sequence, &inputs, &mut out.view_mut()).unwrap();
        assert_eq!(read::<f16>(&rig, &out), due, "a transposed view");
    }
}

/// What each dtype of the output takes, with values that saturate.
#[test]
fn outputs() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let (m, k, n) = (4, 40, 3);
    let mut noise = Noise(3);
    let (mut x1, x2) = (noise.bytes(m * k), noise.bytes(k * n));
    x1[..k].fill(0);
    let exact = sums(&x1, &x2, [1, m, k, n]);
    let (t1, t2) = (tensor(&rig, &x1, &[m, k]), tensor(&rig, &x2, &[k, n]));
    let (t1, t2) = (t1.view(), t2.view());
    let added = [1000i32, -1000, 0];
    let bias = tensor(&rig, &added, &[n]);
    let bias = bias.view();
    let biased: Vec<i32> = exact.iter().enumerate().map(|(at, sum)| sum + added[at % n]).collect();

    // The sums themselves; the scale does not count.
    let scale = tensor(&rig, &bf(&[f32::NAN; 3]), &[n]);
    let scale = scale.view();
    let mut out = zeros(&rig, DType::I32, &[m, 1, n]);
    let inputs = QuantMatmul { bias: Some(&bias), ..plainly(&t1, &t2, &scale) };
    op::quant_matmul(&sequence, &inputs, &mut out.view_mut()).unwrap();
    assert_eq!(read::<i32>(&rig, &out), biased);

    // Scales as whole numbers: the low half is an f32, above it an offset.
    let scales = [0.125f32, 0.001, 3.5];
    let params: Vec<u64> = scales.iter().map(|scale| u64::from(scale.to_bits())).collect();
    let encoded: Vec<u64> = params.iter().map(|param| param | 1 << 46 | (0x1ff & -5i64 as u64) << 37).collect();
    let signed: Vec<i64> = params.iter().map(|param| *param as i64).collect();
    let (params, encoded) = (tensor(&rig, &params, &[n]), tensor(&rig, &encoded, &[n]));
    let signed = tensor(&rig, &signed, &[n]);
    let offset = tensor(&rig, &[7.5f32], &[1]);
    let offset = offset.view();
    let nearest = |added: f32| -> Vec<i8> {
        let each =
            |(at, sum): (usize, &i32)| (*sum as f32 * scales[at % n] + added).round_ties_even().clamp(-128.0, 127.0);
        biased.iter().enumerate().map(each).map(|value| value as i8).collect()
    };
    for (scale, given, due) in
        [(&params, None, 0.0), (&encoded, None, -5.0), (&encoded, Some(&offset), 7.5), (&signed, None, 0.0)]
    {
        let scale = scale.view();
        let mut out = zeros(&rig, DType::I8, &[m, n]);
        let inputs = QuantMatmul { bias: Some(&bias), offset: given, ..plainly(&t1, &t2, &scale) };
        op::quant_matmul(&sequence, &inputs, &mut out.view_mut()).unwrap();
        assert_eq!(read::<i8>(&rig, &out), nearest(due));
    }
    let scale = params.view();
    let mut out = zeros(&rig, DType::F16, &[n, m]);
    let inputs = QuantMatmul { bias: Some(&bias), ..plainly(&t1, &t2, &scale) };
    op::quant_matmul(&sequence, &inputs, &mut out.view_mut().transpose().unwrap()).unwrap();
    let due: Vec<f16> =
        biased.iter().enumerate().map(|(at, sum)| Float::from_f32(*sum as f32 * scales[at % n])).collect();
    assert_eq!(read::<f16>(&rig, &out), turned(&due, m, n), "a transposed output");

    // Biases of every float, after one scale for all columns.
    let (scale, rows) = (tensor(&rig, &[0.5f32], &[1]), tensor(&rig, &[1.0f32, -2.0, 0.0, 1e-3], &[m]));
    let rows_of = [1.0f32, -2.0, 0.0, 1e-3];
    let (scale, rows) = (scale.view(), rows.view());
    let values = [1.5f32, -0.25, 100.0];
    let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
    let biases = [tensor(&rig, &values, &[n]), tensor(&rig, &bf(&values), &[n]), tensor(&rig, &halves, &[n])];
    for (bias, dtype) in biases.iter().zip([DType::Bf16, DType::Bf16, DType::F16]) {
        let bias = bias.view();
        let mut out = zeros(&rig, dtype, &[m, n]);
        let inputs = QuantMatmul { bias: Some(&bias), per_token_scale: Some(&rows), ..plainly(&t1, &t2, &scale) };
        op::quant_matmul(&sequence, &inputs, &mut out.view_mut()).unwrap();
        let due = exact.iter().enumerate().map(|(at, sum)| (*sum as f32 * 0.5) * rows_of[at / n] + values[at % n]);
        if dtype == DType::F16 {
            assert_eq!(read::<f16>(&rig, &out), due.map(Float::from_f32).collect::<Vec<f16>>());
        } else {
            assert_eq!(read::<bf16>(&rig, &out), due.map(Float::from_f32).collect::<Vec<bf16>>());
        }
    }
}

/// Leading dimensions that broadcast, and a bias for each product.
#[test]
fn stacks() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let mut noise = Noise(4);
    let (x1, x2, added) =
        (noise.bytes(3 * 2 * 5), noise.bytes(5 * 4), [1i32, 2, 3, 4, 10, 20, 30, 40, 100, 200, 300, 400]);
    let repeated = x2.repeat(3);
    let due: Vec<i32> = sums(&x1, &repeated, [3, 2, 5, 4])
        .into_iter()
        .enumerate()
        .map(|(at, sum)| sum + added[at / 8 * 4 + at % 4])
        .collect();
    let (scale, bias) = (tensor(&rig, &[1.0f32], &[1]), tensor(&rig, &added, &[3, 1, 4]));
    let (scale, bias) = (scale.view(), bias.view());
    for (left, right) in [
        (tensor(&rig, &x1, &[3, 2, 5]), tensor(&rig, &x2, &[5, 4])),
        (tensor(&rig, &x1, &[3, 2, 5]), tensor(&rig, &x2, &[1, 5, 4])),
        (tensor(&rig, &x1, &[3, 2, 5]), blocks(&rig, &repeated, &[3, 5, 4])),
    ] {
        let (left, right) = (left.view(), right.view());
        let mut out = zeros(&rig, DType::I32, &[3, 2, 4]);
        let inputs = QuantMatmul { bias: Some(&bias), ..plainly(&left, &right, &scale) };
        op::quant_matmul(&sequence, &inputs, &mut out.view_mut()).unwrap();
        assert_eq!(read::<i32>(&rig, &out), due);
    }
    let (left, right) = (tensor(&rig, &x1, &[3, 1, 2, 5]), tensor(&rig, &x2.repeat(2), &[2, 5, 4]));
    let (left, right) = (left.view(), right.view());
    let mut out = zeros(&rig, DType::I32, &[3, 2, 2, 4]);
    op::quant_matmul(&sequence, &plainly(&left, &right, &scale), &mut out.view_mut()).unwrap();
    let six: Vec<i8> = x1.chunks(10).flat_map(|matrix| matrix.repeat(2)).collect();
    assert_eq!(read::<i32>(&rig, &out), sums(&six, &x2.repeat(6), [6, 2, 5, 4]));
}

#[test]
fn refusals_and_nothing_to_do() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let (x1, x2) = (tensor(&rig, &[1i8; 12], &[3, 4]), tensor(&rig, &[1i8; 8], &[4, 2]));
    let (x1, x2) = (x1.view(), x2.view());
    let scale = tensor(&rig, &[1.0f32], &[1]);
    let scale = scale.view();
    let refused = |inputs: &QuantMatmul<'_>, dtype, rule: &str| {
        let mut out = zeros(&rig, dtype, &[3, 2]);
        match op::quant_matmul(&sequence, inputs, &mut out.view_mut()) {
            Err(Error::Rule(violation)) => assert_eq!(violation.rule, rule, "{violation}"),
            other => panic!("{other:?}"),
        }
    };
    let inputs = plainly(&x1, &x2, &scale);
    refused(&inputs, DType::F16, "out-dtype");
    refused(&inputs, DType::F32, "dtype");
    refused(&QuantMatmul { bias: Some(&scale), ..inputs }, DType::Bf16, "bias-shape");
    refused(&QuantMatmul { transpose_x2: true, ..inputs }, DType::Bf16, "inner-dim");
    refused(&QuantMatmul { per_token_scale: Some(&scale), ..inputs }, DType::Bf16, "per-token-shape");
    let odd = Tensor::from_bytes(&rig.device, DType::I4, &[0; 5], &[3, 3]).unwrap();
    let odd = odd.view();
    let rows = tensor(&rig, &[1.0f32; 3], &[3]);
    let rows = rows.view();
    let odd = QuantMatmul { per_token_scale: Some(&rows), ..plainly(&odd, &odd, &scale) };
    let mut out = zeros(&rig, DType::Bf16, &[3, 3]);
    let answer = op::quant_matmul(&sequence, &odd, &mut out.view_mut());
    assert!(matches!(&answer, Err(Error::Rule(violation)) if violation.rule == "int4-even"), "{answer:?}");

    let none = zeros(&rig, DType::I8, &[0, 4]);
    let none = none.view();
    let mut out = zeros(&rig, DType::Bf16, &[0, 2]);
    let ran = op::quant_matmul(&sequence, &plainly(&none, &x2, &scale), &mut out.view_mut()).unwrap();
    assert_eq!(ran, OperatorId::QuantMatmulV5);
    assert_eq!(rig.cann.table().calls(FunctionId::aclnnQuantMatmulV5GetWorkspaceSize), 0);
}
