//! The product of floats with a quantised weight: every form against the product with the weight taken back to floats, the
//! operators that compute it, and what is refused.

use ascend_moe::op::{self, CubeMath, InnerPrecision, OutputQuant, WeightQuantMatmul};
use ascend_moe::{DType, Element, Error, Sequence, Tensor, TensorView};
use ascend_sys::OperatorId;
use half::{bf16, f16};
use moe_kernels::element::Float;

use crate::operators::{read, tensor, zeros};
use crate::quant_matmul::{Noise, blocks, nibbles, turned};
use crate::rig::Rig;

/// Without options.
fn plainly<'a>(x: &'a TensorView<'a>, weight: &'a TensorView<'a>, scale: &'a TensorView<'a>) -> WeightQuantMatmul<'a> {
    let precision = InnerPrecision::Precise;
    WeightQuantMatmul { x, weight, scale, offset: None, group_size: 0, bias: None, quant: None, precision }
}

fn halves<T: Float>(values: &[f32]) -> Vec<T> {
    values.iter().map(|value| T::from_f32(*value)).collect()
}

/// `y = x @ w + bias` in f32, with the weight as it is taken back.
fn due<T: Float + Element>(
    (rig, sequence): (&Rig, &Sequence<'_>),
    x: &TensorView<'_>,
    w: &[f32],
    [k, n]: [usize; 2],
    bias: &[f32],
) -> Vec<f32> {
    let weight = tensor(rig, &halves::<T>(w), &[k, n]);
    let m = x.dim(0) as usize;
    let mut out = zeros(rig, DType::F32, &[m, n]);
    op::mm(sequence, x, &weight.view(), CubeMath::KeepDType, &mut out.view_mut()).unwrap();
    read::<f32>(rig, &out).into_iter().enumerate().map(|(at, value)| value + bias[at % n]).collect()
}

fn forms<T: Float + Element>(rig: &Rig, seed: u64) {
    let sequence = rig.stream.sequence().unwrap();
    let mut noise = Noise(seed);
    for [m, k, n] in [[1, 33, 2], [3, 72, 16], [5, 130, 70], [2, 64, 128]] {
        let floats = halves::<T>(&noise.floats(m * k));
        let bias: Vec<f32> = noise.floats(n);
        // An x of f16 has a bias of f16.
        let bias: Vec<f32> = bias.into_iter().map(|value| f16::from_f32(value).to_f32()).collect();
        let t_bias =
            if T::DTYPE == DType::F16 { tensor(rig, &halves::<f16>(&bias), &[n]) } else { tensor(rig, &bias, &[1, n]) };
        let (upright, lying) = (tensor(rig, &floats, &[m, k]), tensor(rig, &turned(&floats, m, k), &[k, m]));
        let xs = [upright.view(), lying.view().transpose().unwrap()];
        let t_bias = t_bias.view();
        for (x, group) in xs.iter().zip([0usize, 32]) {
            for int4 in [false, true] {
                let groups = if group == 0 { 1 } else { k.div_ceil(group) };
                let values: Vec<i8> =
                    noise.bytes(k * n).into_iter().map(|value| if int4 { value >> 4 } else { value }).collect();
                let (scales, offsets) =
                    (halves::<T>(&noise.floats(groups * n)), halves::<T>(&noise.floats(groups * n)));
                let at = |place: usize| place / n / if group == 0 { k } else { group } * n + place % n;
                let weight: Vec<f32> = (0..k * n)
                    .map(|place| {
                        let (scale, offset) = (Float::to_f32(scales[at(place)]), Float::to_f32(offsets[at(place)]));
                        Float::to_f32(T::from_f32((f32::from(values[place]) + offset) * scale))
                    })
                    .collect();
                let due = halves::<T>(&due::<T>((rig, &sequence), x, &weight, [k, n], &bias));
                let (scale, offset) = (tensor(rig, &scales, &[groups, n]), tensor(rig, &offsets, &[groups, n]));
                let (scale, offset) = (scale.view(), offset.view());
                let mut weights: Vec<(Tensor, bool)> = Vec::new();
                if int4 {
                    let nibbled = |values: &[i8], shape: [usize; 2]| {
                        Tensor::from_bytes(&rig.device, DType::I4, &nibbles(values), &shape).unwrap()
                    };
                    weights.push((nibbled(&values, [k, n]), false));
                    if k % 2 == 0 {
                        weights.push((nibbled(&turned(&values, k, n), [n, k]), true));
                    }
                    let words = |values: &[i8]| {
                        nibbles(values)
                            .as_chunks::<4>()
                            .0
                            .iter()
                            .map(|word| i32::from_le_bytes(*word))
                            .collect::<Vec<i32>>()
                    };
                    if n % 8 == 0 {
                        weights.push((tensor(rig, &words(&values), &[k, n / 8]), false));
                    }
                    if k % 8 == 0 {
                        weights.push((tensor(rig, &words(&turned(&values, k, n)), &[n, k / 8]), true));
                    }
                } else {
                    weights.push((tensor(rig, &values, &[k, n]), false));
                    weights.push((tensor(rig, &turned(&values, k, n), &[n, k]), true));
                    if group == 0 {
                        weights.push((blocks(rig, &values, &[k, n]), false));
                        weights.push((blocks(rig, &turned(&values, k, n), &[n, k]), true));
                    }
                }
                for (weight, lying) in &weights {
                    let weight = if *lying { weight.view().transpose().unwrap() } else { weight.view() };
                    let mut y = zeros(rig, T::DTYPE, &[m, n]);
                    let (offset, bias) = (Some(&offset), Some(&t_bias));
                    let inputs = WeightQuantMatmul { offset, bias, group_size: group, ..plainly(x, &weight, &scale) };
                    op::weight_quant_matmul(&sequence, &inputs, &mut y.view_mut()).unwrap();
                    assert_eq!(read::<T>(rig, &y), due, "{weight:?} {m} {k} {n}, groups of {group}");
                }
            }
        }
    }
}

#[test]
fn every_form() {
    let rig = Rig::new();
    forms::<bf16>(&rig, 1);
    forms::<f16>(&rig, 2);
}

/// A quantised output, without an offset, with one, and with one encoded.
#[test]
fn outputs_of_int8() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let (m, k, n) = (3, 40, 6);
    let mut noise = Noise(3);
    let x = tensor(&rig, &halves::<bf16>(&noise.floats(m * k)), &[m, k]);
    let values = noise.bytes(k * n);
    let (weight, scale) = (tensor(&rig, &values, &[k, n]), tensor(&rig, &halves::<bf16>(&[0.5]), &[1, 1]));
    let (x, weight, scale) = (x.view(), weight.view(), scale.view());
    let floats: Vec<f32> = values.iter().map(|value| f32::from(*value) * 0.5).collect();
    let exact = due::<bf16>((&rig, &sequence), &x, &floats, [k, n], &[0.0; 6]);
    let factor = 1.0 / 64.0;
    let factors = tensor(&rig, &[factor; 6], &[6]);
    let offsets = tensor(&rig, &[5.0f32; 6], &[6]);
    let offsets = offsets.view();
    for (encoded, given) in [(None, None), (Some(&offsets), None), (None, Some(&offsets))] {
        let mut params = zeros(&rig, DType::U64, &[6]);
        op::trans_quant_param(&sequence, &factors.view(), encoded, &mut params.view_mut()).unwrap();
        let params = params.view();
        let quant = Some(OutputQuant { scale: &params, offset: given });
        let mut y = zeros(&rig, DType::I8, &[m, n]);
        let inputs = WeightQuantMatmul { quant, ..plainly(&x, &weight, &scale) };
        op::weight_quant_matmul(&sequence, &inputs, &mut y.view_mut()).unwrap();
        let added = if encoded.or(given).is_some() { 5.0 } else { 0.0 };
        let due = exact.iter().map(|value| (value * factor + added).round_ties_even().clamp(-128.0, 127.0) as i8);
        assert_eq!(read::<i8>(&rig, &y), due.collect::<Vec<i8>>());
    }
}

/// The newest operator that is there; that for Ascend 950 where no other is.
#[test]
fn versions() {
    let versions = [
        OperatorId::WeightQuantBatchMatmulV3,
        OperatorId::WeightQuantBatchMatmulV2,
        OperatorId::WeightQuantBatchMatmulNz,
    ];
    for (lacking, due) in versions.into_iter().enumerate() {
        let absent = versions[..lacking].iter().map(|id| id.info().phase2).collect();
        let rig = Rig::with(|config| config.absent = absent);
        let sequence = rig.stream.sequence().unwrap();
        let x = tensor(&rig, &halves::<bf16>(&[1.0, 2.0]), &[1, 2]);
        let (plain, packed) = (tensor(&rig, &[3i8, 4, 5, 6], &[2, 2]), blocks(&rig, &[3, 4, 5, 6], &[2, 2]));
        let scale = tensor(&rig, &halves::<bf16>(&[1.0, 0.5]), &[2]);
        let (x, plain, packed, scale) = (x.view(), plain.view(), packed.view(), scale.view());
        let run = |weight: &TensorView<'_>| {
            let mut y = zeros(&rig, DType::Bf16, &[1, 2]);
            let inputs = WeightQuantMatmul { precision: InnerPrecision::Fast, ..plainly(&x, weight, &scale) };
            let ran = op::weight_quant_matmul(&sequence, &inputs, &mut y.view_mut())?;
            assert_eq!(read::<bf16>(&rig, &y), halves::<bf16>(&[13.0, 8.0]));
            Ok::<_, Error>(ran)
        };
        assert_eq!(run(&packed).unwrap(), due);
        match run(&plain) {
            Ok(ran) => assert_eq!(ran, due),
            Err(error) => assert!(lacking == 2 && matches!(error, Error::MissingOperator { .. }), "{error}"),
        }
    }
    // aclnnWeightQuantBatchMatmulNz came with 9.0.0.
    let early = Rig::with(|config| config.release = ascend_sys::Release::new(8, 5, 0));
    assert!(!early.cann.table().has_operator(OperatorId::WeightQuantBatchMatmulNz));
    assert!(early.cann.table().has_operator(OperatorId::WeightQuantBatchMatmulV3));
}

#[test]
fn refusals_and_nothing_to_do() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let (x, weight) = (zeros(&rig, DType::Bf16, &[3, 64]), zeros(&rig, DType::I8, &[64, 6]));
    let scale = zeros(&rig, DType::Bf16, &[6]);
    let (x, weight, scale) = (x.view(), weight.view(), scale.view());
    let refused = |inputs: &WeightQuantMatmul<'_>, rule: &str| {
        let mut y = zeros(&rig, DType::Bf16, &[3, 6]);
        match op::weight_quant_matmul(&sequence, inputs, &mut y.view_mut()) {
            Err(Error::Rule(violation)) => assert_eq!(violation.rule, rule, "{violation}"),
            other => panic!("{other:?}"),
        }
    };
    let inputs = plainly(&x, &weight, &scale);
    refused(&WeightQuantMatmul { group_size: 64, ..inputs }, "group-size");
    refused(&WeightQuantMatmul { group_size: 33, ..inputs }, "group-size");
    refused(&WeightQuantMatmul { group_size: 32, ..inputs }, "scale-shape");
    refused(&WeightQuantMatmul { bias: Some(&scale), ..inputs }, "dtype");
    let odd = Tensor::from_bytes(&rig.device, DType::I4, &[0; 160], &[64, 5]).unwrap();
    let odd = odd.view();
    refused(&WeightQuantMatmul { weight: &odd, ..inputs }, "int4-even");
    let none = zeros(&rig, DType::Bf16, &[0, 64]);
    let none = none.view();
    let mut y = zeros(&rig, DType::Bf16, &[0, 6]);
    op::weight_quant_matmul(&sequence, &WeightQuantMatmul { x: &none, ..inputs }, &mut y.view_mut()).unwrap();
    assert!(rig.cann.table().operator_calls().all(|call| call.0 != OperatorId::WeightQuantBatchMatmulV3));
}
