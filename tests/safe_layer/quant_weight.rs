//! What prepares quantised weights and scales.

use ascend_moe::op::{self, QuantMatmul};
use ascend_moe::{DType, Error, Sequence, Tensor, TensorView, TensorViewMut};
use ascend_sys::OperatorId;
use half::bf16;
use moe_kernels::quant_param;

use crate::operators::{bf, read, tensor, zeros};
use crate::quant_matmul::{Noise, nibbles, plainly};
use crate::rig::Rig;

#[test]
fn scales_and_offsets_are_encoded() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    // 1 + 2^-10 is kept, 1 + 2^-11 is cut.
    let scales = [1.0f32, 1.0 + 1.0 / 1024.0, 1.0 + 1.0 / 2048.0, -0.1, f32::MAX, 1e-40];
    let scale = tensor(&rig, &scales, &[6]);
    let mut out = zeros(&rig, DType::U64, &[6]);
    op::trans_quant_param(&sequence, &scale.view(), None, &mut out.view_mut()).unwrap();
    let due = scales.map(|scale| u64::from(scale.to_bits() & 0xffff_e000) | 1 << 46);
    assert_eq!(read::<u64>(&rig, &out), due);
    assert_eq!(
        due[..3].iter().map(|param| quant_param::scale(*param)).collect::<Vec<_>>(),
        [1.0, 1.0 + 1.0 / 1024.0, 1.0]
    );

    let offset = tensor(&rig, &[0.5f32, 1.5, -2.5, 300.0, -300.0, -1.0], &[6]);
    op::trans_quant_param(&sequence, &scale.view(), Some(&offset.view()), &mut out.view_mut()).unwrap();
    let found = read::<u64>(&rig, &out);
    assert_eq!(
        found.iter().map(|param| quant_param::offset(*param)).collect::<Vec<_>>(),
        [0.0, 2.0, -2.0, 255.0, -256.0, -1.0]
    );
    assert!(found.iter().zip(due).all(|(found, due)| *found as u32 == due as u32 && found >> 46 == 1));

    // One scale for offsets of their own, into the other dtype; a scale for each group, and with gaps.
    let one = tensor(&rig, &[2.0f32], &[1]);
    let mut signed = zeros(&rig, DType::I64, &[6]);
    op::trans_quant_param(&sequence, &one.view(), Some(&offset.view()), &mut signed.view_mut()).unwrap();
    let params: Vec<u64> = read::<i64>(&rig, &signed).into_iter().map(|param| param as u64).collect();
    assert!(params.iter().zip(&found).all(|(one, each)| quant_param::scale(*one) == 2.0 && one >> 32 == each >> 32));
    let mut wide = zeros(&rig, DType::U64, &[3, 4]);
    let mut middle = wide.view_mut().narrow(1, 1..3).unwrap();
    op::trans_quant_param(&sequence, &scale.view().reshape(&[3, 2]).unwrap(), None, &mut middle).unwrap();
    assert_eq!(read::<u64>(&rig, &wide), [0, due[0], due[1], 0, 0, due[2], due[3], 0, 0, due[4], due[5], 0]);
    let mut groups = zeros(&rig, DType::U64, &[2, 3]);
    op::trans_quant_param(&sequence, &scale.view().reshape(&[2, 3]).unwrap(), None, &mut groups.view_mut()).unwrap();
    assert_eq!(read::<u64>(&rig, &groups), due);
    op::trans_quant_param(&sequence, &scale.view(), None, &mut zeros(&rig, DType::U64, &[0]).view_mut()).unwrap();
    let answer = op::trans_quant_param(&sequence, &scale.view(), None, &mut groups.view_mut());
    assert!(matches!(&answer, Err(Error::Rule(violation)) if violation.rule == "out-shape"), "{answer:?}");
}

/// What the output stage takes gives the same as the offset beside it.
#[test]
fn an_encoded_offset_reaches_the_output() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let (x1, x2) = (tensor(&rig, &[1i8, 2, 3, 4], &[2, 2]), tensor(&rig, &[10i8, -10, 20, 30], &[2, 2]));
    let (scale, offset) = (tensor(&rig, &[0.5f32, 2.0], &[2]), tensor(&rig, &[-7.0f32, 100.0], &[2]));
    let mut params = zeros(&rig, DType::U64, &[2]);
    op::trans_quant_param(&sequence, &scale.view(), Some(&offset.view()), &mut params.view_mut()).unwrap();
    let (x1, x2, params, offset) = (x1.view(), x2.view(), params.view(), offset.view());
    for offset in [None, Some(&offset)] {
        let mut out = zeros(&rig, DType::I8, &[2, 2]);
        let inputs = QuantMatmul { offset, ..plainly(&x1, &x2, &params) };
        op::quant_matmul(&sequence, &inputs, &mut out.view_mut()).unwrap();
        assert_eq!(read::<i8>(&rig, &out), [18, 127, 48, 127]);
    }
}

#[test]
fn a_scale_that_is_no_number_is_found() {
    let mut rig = Rig::new();
    rig.expect_findings();
    let sequence = rig.stream.sequence().unwrap();
    let scale = tensor(&rig, &[1.0f32, f32::NAN], &[2]);
    let mut out = zeros(&rig, DType::U64, &[2]);
    op::trans_quant_param(&sequence, &scale.view(), None, &mut out.view_mut()).unwrap();
    assert!(rig.stream.synchronize().is_err());
    let findings = rig.findings();
    assert!(findings.iter().any(|finding| finding.to_string().contains("no finite number")), "{findings:?}");
}

type Convert = fn(&Sequence<'_>, &TensorView<'_>, &mut TensorViewMut<'_>) -> ascend_moe::Result<()>;

/// Every form of the packed weight multiplies as the numbers do.
#[test]
fn weights_are_packed() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let convert: Convert = op::convert_weight_to_int4_pack;
    let values = [-8i32, 7, -1, 0, 3, -4, 1, 2];
    let weight = tensor(&rig, &values, &[1, 8]);
    let mut packed = zeros(&rig, DType::I4, &[1, 8]);
    convert(&sequence, &weight.view(), &mut packed.view_mut()).unwrap();
    // Worked example 19; the call has done its work.
    assert_eq!(packed.to_vec::<u8>(&rig.stream).unwrap(), [0x78, 0x0f, 0xc3, 0x21]);
    let mut carried = zeros(&rig, DType::I32, &[1, 1]);
    convert(&sequence, &weight.view(), &mut carried.view_mut()).unwrap();
    assert_eq!(read::<i32>(&rig, &carried), [566_431_608]);

    // In blocks: transposed `[N, K]` for scales for each column, and `[K, N]` in groups.
    let (k, n) = (128usize, 64usize);
    let mut noise = Noise(5);
    let numbers: Vec<i8> = noise.bytes(k * n).into_iter().map(|value| value >> 4).collect();
    let wide = |values: &[i8]| values.iter().map(|value| i32::from(*value)).collect::<Vec<i32>>();
    let x = tensor(&rig, &bf(&noise.floats(3 * k)), &[3, k]);
    let scale = tensor(&rig, &bf(&noise.floats(2 * n)), &[2, n]);
    let (x, scale) = (x.view(), scale.view());
    let plain = Tensor::from_bytes(&rig.device, DType::I4, &nibbles(&numbers), &[k, n]).unwrap();
    let plain = plain.view();
    let inputs = op::WeightQuantMatmul {
        x: &x,
        weight: &plain,
        scale: &scale,
        offset: None,
        group_size: 64,
        bias: None,
        quant: None,
        precision: op::InnerPrecision::Precise,
    };
    let multiply = |inputs: &op::WeightQuantMatmul<'_>| {
        let mut y = zeros(&rig, DType::Bf16, &[3, n]);
        op::weight_quant_matmul(&sequence, inputs, &mut y.view_mut()).unwrap();
        read::<bf16>(&rig, &y)
    };
    let due = multiply(&inputs);
    let whole = tensor(&rig, &wide(&numbers), &[k, n]);
    for (dtype, cols) in [(DType::I4, n), (DType::I32, n / 8)] {
        let mut packed = Tensor::zeros_nz(&rig.device, dtype, &[k, cols]).unwrap();
        convert(&sequence, &whole.view(), &mut packed.view_mut()).unwrap();
        let packed = packed.view();
        assert_eq!(multiply(&op::WeightQuantMatmul { weight: &packed, ..inputs }), due, "{dtype}");
    }
    let columns = scale.rows(0..1).unwrap();
    let inputs = op::WeightQuantMatmul { scale: &columns, group_size: 0, ..inputs };
    let due = multiply(&inputs);
    let turned = tensor(&rig, &wide(&crate::quant_matmul::turned(&numbers, k, n)), &[n, k]);
    for (dtype, cols) in [(DType::I4, k), (DType::I32, k / 8)] {
        let mut packed = Tensor::zeros_nz(&rig.device, dtype, &[n, cols]).unwrap();
        convert(&sequence, &turned.view(), &mut packed.view_mut()).unwrap();
        let packed = packed.view().transpose().unwrap();
        assert_eq!(multiply(&op::WeightQuantMatmul { weight: &packed, ..inputs }), due, "{dtype} transposed");
    }

    // Several matrices, one after the other.
    let both = tensor(&rig, &wide(&numbers.repeat(2)), &[2, k, n]);
    let mut packed = Tensor::zeros_nz(&rig.device, DType::I4, &[2, k, n]).unwrap();
    convert(&sequence, &both.view(), &mut packed.view_mut()).unwrap();
    let mut one = Tensor::zeros_nz(&rig.device, DType::I4, &[1, k, n]).unwrap();
    convert(&sequence, &both.view().narrow(0, 1..2).unwrap(), &mut one.view_mut()).unwrap();
}

#[test]
fn what_is_not_packed() {
    let mut rig = Rig::new();
    rig.expect_findings();
    let sequence = rig.stream.sequence().unwrap();
    let refused = |weight: &Tensor, packed: &mut Tensor, rule: &str| match op::convert_weight_to_int4_pack(
        &sequence,
        &weight.view(),
        &mut packed.view_mut(),
    ) {
        Err(Error::Rule(violation)) => assert_eq!(violation.rule, rule, "{violation}"),
        other => panic!("{other:?}"),
    };
    let odd = zeros(&rig, DType::I32, &[3, 7]);
    refused(&odd, &mut zeros(&rig, DType::I4, &[3, 7]), "last-dim");
    let several = zeros(&rig, DType::I32, &[2, 17, 64]);
    refused(&several, &mut Tensor::zeros_nz(&rig.device, DType::I4, &[2, 17, 64]).unwrap(), "nz-groups");
    op::convert_weight_to_int4_pack(&sequence, &odd.view(), &mut zeros(&rig, DType::I4, &[0, 8]).view_mut()).unwrap();
    assert_eq!(
        rig.cann.table().operator_calls().filter(|call| call.0 == OperatorId::ConvertWeightToINT4Pack).count(),
        0
    );

    // A number that 4 bits do not hold is found when the call returns.
    let large = tensor(&rig, &[8i32, 0], &[1, 2]);
    let answer =
        op::convert_weight_to_int4_pack(&sequence, &large.view(), &mut zeros(&rig, DType::I4, &[1, 2]).view_mut());
    assert!(matches!(&answer, Err(Error::Vendor(error)) if error.code == 361_001), "{answer:?}");
    let findings = rig.findings();
    assert!(findings.iter().any(|finding| finding.to_string().contains("int4 holds -8..=7")), "{findings:?}");
}
