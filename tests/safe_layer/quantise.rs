//! The operators that quantise, on worked numbers.

use ascend_moe::op::{self, ExpandedRows, InitRouting, InitRoutingOutputs, SmoothScales};
use ascend_moe::spec::FloatType;
use ascend_moe::{DType, Error, Tensor, TensorView};
use ascend_sys::{OperatorId, Release};
use cann_sim::FindingKind;

use crate::operators::{near, read, tensor, zeros};
use crate::rig::Rig;

const HALVES: [FloatType; 2] = [FloatType::F16, FloatType::Bf16];

fn halves(rig: &Rig, dtype: FloatType, values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_f32(&rig.device, dtype, values, shape).unwrap()
}

/// Rows of int8 and their scales.
fn quantise(
    rig: &Rig,
    x: &TensorView<'_>,
    smooth: Option<SmoothScales<'_, '_>>,
    shape: &[usize],
) -> ascend_moe::Result<(OperatorId, Vec<i8>, Vec<f32>)> {
    let (mut y, mut scale) = (zeros(rig, DType::I8, shape), zeros(rig, DType::F32, &shape[..shape.len() - 1]));
    let sequence = rig.stream.sequence().unwrap();
    let ran = op::dynamic_quant(&sequence, x, smooth, &mut y.view_mut(), &mut scale.view_mut(), None)?;
    drop(sequence);
    Ok((ran, y.to_vec(&rig.stream)?, scale.to_vec(&rig.stream)?))
}

/// Worked example 15, symmetric.
const ROWS: [f32; 15] = [127.0, 0.5, 1.5, 2.5, -0.5, 254.0, 1.0, 3.0, 5.0, -1.0, 0.5, -1.0, 0.25, 0.125, 1.0];
const DUE: [i8; 15] = [127, 0, 2, 2, 0, 127, 0, 2, 2, 0, 64, -127, 32, 16, 127];

#[test]
fn rows_to_their_greatest_magnitude() {
    // The second version, and the first one where that is missing.
    let without = || Rig::with(|config| config.absent = vec![OperatorId::DynamicQuantV2.info().phase2]);
    for (rig, due) in [(Rig::new(), OperatorId::DynamicQuantV2), (without(), OperatorId::DynamicQuant)] {
        for dtype in HALVES {
            let x = halves(&rig, dtype, &ROWS, &[3, 5]);
            let (ran, y, scale) = quantise(&rig, &x.view(), None, &[3, 5]).unwrap();
            assert_eq!((ran, &y[..]), (due, &DUE[..]), "{dtype:?}");
            near(&scale, &[1.0, 2.0, 0.007_874_016]);
            // With factors: twice every second column.
            let smooth = halves(&rig, dtype, &[1.0, 2.0, 1.0, 2.0, 1.0], &[5]);
            let view = smooth.view();
            let (_, y, _) = quantise(&rig, &x.view(), Some(SmoothScales::OfAll(&view)), &[3, 5]).unwrap();
            assert_eq!(y[..5], [127, 1, 2, 5, 0]);
        }
    }
}

#[test]
fn groups_have_their_own_factors() {
    let rig = Rig::new();
    let x = halves(&rig, FloatType::Bf16, &[1.0, 2.0, 4.0, 8.0, 4.0, 8.0], &[3, 2]);
    let scales = halves(&rig, FloatType::Bf16, &[1.0, 1.0, 9.0, 9.0, 2.0, 0.5], &[3, 2]);
    let (scales, ends) = (scales.view(), tensor(&rig, &[1i32, 1, 3], &[3]));
    let ends = ends.view();
    let smooth = Some(SmoothScales::OfGroups { scales: &scales, ends: &ends });
    let (ran, y, scale) = quantise(&rig, &x.view(), smooth, &[3, 2]).unwrap();
    assert_eq!((ran, y), (OperatorId::DynamicQuantV2, vec![64, 127, 127, 64, 127, 64]));
    near(&scale, &[2.0 / 127.0, 8.0 / 127.0, 8.0 / 127.0]);
}

/// Worked example 15, from the least to the greatest.
#[test]
fn rows_with_an_offset() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    for dtype in HALVES {
        let x = halves(&rig, dtype, &[0.0, 255.0, 100.5, 1.0], &[1, 4]);
        let (mut y, mut scale) = (zeros(&rig, DType::I8, &[1, 4]), zeros(&rig, DType::F32, &[1]));
        let mut offset = zeros(&rig, DType::F32, &[1]);
        let (mut yv, mut sv, mut ov) = (y.view_mut(), scale.view_mut(), offset.view_mut());
        op::dynamic_quant(&sequence, &x.view(), None, &mut yv, &mut sv, Some(&mut ov)).unwrap();
        assert_eq!(read::<i8>(&rig, &y), [-128, 127, -28, -127]);
        assert_eq!((read::<f32>(&rig, &scale)[0], read::<f32>(&rig, &offset)[0]), (1.0, -128.0));
    }
}

#[test]
fn int4_as_such_and_eight_to_an_int32() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let x = halves(&rig, FloatType::F16, &[-7.0, 7.0, -1.0, 0.0, 3.0, -4.0, 1.0, 2.0], &[1, 8]);
    let mut scale = zeros(&rig, DType::F32, &[1]);
    let (mut packed, mut int4) = (zeros(&rig, DType::I32, &[1, 1]), zeros(&rig, DType::I4, &[1, 8]));
    for y in [&mut packed, &mut int4] {
        op::dynamic_quant(&sequence, &x.view(), None, &mut y.view_mut(), &mut scale.view_mut(), None).unwrap();
        assert_eq!(read::<f32>(&rig, &scale), [1.0]);
    }
    assert_eq!(read::<i32>(&rig, &packed), [0x21c3_0f79]);
    // The bytes of the int4 tensor, as the int32 tensor has them.
    assert_eq!(read::<u8>(&rig, &int4), 0x21c3_0f79i32.to_le_bytes());
}

/// Sends the rows of x, whose width is that of `y`, to the experts of `ids`.
fn expand(
    rig: &Rig,
    x: &TensorView<'_>,
    ids: &[i32],
    rows: ExpandedRows<'_, '_>,
    params: &InitRouting,
) -> ascend_moe::Result<(Vec<i8>, Vec<f32>)> {
    let (tokens, width) = (x.dim(0) as usize, x.dim(1) as usize);
    let slots = ids.len();
    let ids = tensor(rig, ids, &[tokens, slots / tokens]);
    let shape = match params.capacity {
        Some(capacity) => vec![params.experts, capacity, width],
        None => vec![slots, width],
    };
    let count = shape.iter().product::<usize>() / width;
    let mut y = tensor(rig, &vec![-7i8; count * width], &shape);
    let mut scales = tensor(rig, &vec![-7f32; count], &[count]);
    let (mut row_idx, mut counts) =
        (zeros(rig, DType::I32, &[slots]), zeros(rig, DType::I64, &[params.range.1 - params.range.0]));
    let (mut yv, mut rv, mut cv, mut sv) = (y.view_mut(), row_idx.view_mut(), counts.view_mut(), scales.view_mut());
    let outputs = InitRoutingOutputs { expanded_x: &mut yv, row_idx: &mut rv, counts: &mut cv, scale: Some(&mut sv) };
    let sequence = rig.stream.sequence().unwrap();
    op::moe_init_routing_v3(&sequence, x, &ids.view(), rows, params, outputs)?;
    drop(sequence);
    Ok((y.to_vec(&rig.stream)?, scales.to_vec(&rig.stream)?))
}

/// Worked example 5: each row by its own scale, in the order of the experts.
#[test]
fn expanded_rows_each_by_its_scale() {
    let rig = Rig::new();
    let x = [127.0f32, 0.5, 1.5, 2.5, -0.5, -2.5, 1.0, -2.0, 0.3, 0.7, 2.0, -0.01];
    let (first, second) = ([127i8, 0, 2, 2, 0, -2], [64i8, -127, 19, 44, 127, -1]);
    let x = tensor(&rig, &x, &[2, 6]);
    let plain = ExpandedRows::Dynamic { smooth: None };
    let (y, scale) = expand(&rig, &x.view(), &[1, 0, 0, 1], plain, &InitRouting::dropless(2)).unwrap();
    assert_eq!(y, [first, second, first, second].concat());
    near(&scale, &[1.0, 0.015_748_031, 1.0, 0.015_748_031]);
    // Only the second expert: rows behind its own are not written.
    let some = InitRouting { range: (1, 2), ..InitRouting::dropless(2) };
    let (y, scale) = expand(&rig, &x.view(), &[1, 0, 0, 1], plain, &some).unwrap();
    assert_eq!(y, [first, second, [-7; 6], [-7; 6]].concat());
    assert_eq!(scale[2..], [-7.0, -7.0]);
    // A capacity: the second expert has a row too few.
    let padded = InitRouting { capacity: Some(2), ..InitRouting::dropless(2) };
    let (y, scale) = expand(&rig, &x.view(), &[0, 0, 0, 1], plain, &padded).unwrap();
    assert_eq!(y, [first, first, second, [0; 6]].concat());
    near(&scale, &[1.0, 1.0, 0.015_748_031, 0.0]);
    // Factors, the same for both experts and one row of them for each.
    let x = tensor(&rig, &[1.0f32, 2.0, 3.0, 4.0], &[1, 4]);
    for (factors, sets) in [(vec![1.0f32, 2.0, 0.5, 1.0], 1), (vec![1.0, 2.0, 0.5, 1.0, 2.0, 1.0, 1.0, 1.0], 2)] {
        let factors = tensor(&rig, &factors, &[sets, 4]);
        let smooth = factors.view();
        let rows = ExpandedRows::Dynamic { smooth: Some(&smooth) };
        let (y, scale) = expand(&rig, &x.view(), &[0, 1], rows, &InitRouting::dropless(2)).unwrap();
        assert_eq!(y[..4], [32, 127, 48, 127]);
        assert_eq!(y[4..], if sets == 1 { [32, 127, 48, 127] } else { [64, 64, 95, 127] });
        near(&scale[..1], &[0.031_496_063]);
    }
}

/// Worked example 5: all rows by one scale and offset.
#[test]
fn expanded_rows_by_one_scale() {
    let rig = Rig::new();
    let x = tensor(&rig, &[1.0f32, 2.5, -3.0, 100.0, -200.0, 0.25, 0.75], &[1, 7]);
    let [scale, offset] = [2.0f32, 0.5].map(|value| tensor(&rig, &[value], &[1]));
    let (scale, offset) = (scale.view(), offset.view());
    let rows = ExpandedRows::Static { scale: &scale, offset: &offset };
    let (y, scales) = expand(&rig, &x.view(), &[0, 1], rows, &InitRouting::dropless(2)).unwrap();
    assert_eq!(y, [2, 6, -6, 127, -128, 1, 2].repeat(2));
    assert_eq!(scales, [-7.0; 2]);
    // CANN 8.5.0 has it not yet.
    let rig = Rig::with(|config| config.release = Release::new(8, 5, 0));
    let x = tensor(&rig, &[1.0f32; 2], &[1, 2]);
    let one = tensor(&rig, &[1.0f32], &[1]);
    let one = one.view();
    let rows = ExpandedRows::Static { scale: &one, offset: &one };
    let answer = expand(&rig, &x.view(), &[0], rows, &InitRouting::dropless(1));
    let Err(Error::Rule(violation)) = answer else { panic!("{answer:?}") };
    assert_eq!(violation.rule, "quant-mode");
}

/// Rows too long for the device's buffer are converted by way of fp16 cut off: 0.49997 stays below the half either way,
/// a half goes away from zero.
#[test]
fn long_rows_go_by_way_of_fp16() {
    let rig = Rig::new();
    let row = |width: usize| {
        let mut row = vec![0.5f32; width];
        row[0] = 127.0;
        row
    };
    for (width, due) in [(9352, 0), (9360, 1)] {
        let x = tensor(&rig, &row(width), &[1, width]);
        let rows = ExpandedRows::Dynamic { smooth: None };
        let (y, scale) = expand(&rig, &x.view(), &[0], rows, &InitRouting::dropless(1)).unwrap();
        assert_eq!((y[0], y[1], scale[0]), (127, due, 1.0), "{width}");
    }
}

#[test]
fn refused_before_the_call() {
    let rig = Rig::new();
    let x = halves(&rig, FloatType::Bf16, &ROWS, &[3, 5]);
    let refused = |answer: ascend_moe::Result<(OperatorId, Vec<i8>, Vec<f32>)>, rule| match answer {
        Err(Error::Rule(violation)) => {
            assert_eq!((violation.operator, violation.rule), (OperatorId::DynamicQuantV2, rule))
        }
        other => panic!("{other:?}"),
    };
    refused(quantise(&rig, &x.view(), None, &[5, 3]), "y-shape");
    let f16 = halves(&rig, FloatType::F16, &[1.0; 5], &[5]);
    let f16 = f16.view();
    refused(quantise(&rig, &x.view(), Some(SmoothScales::OfAll(&f16)), &[3, 5]), "smooth-dtype");
    let without = Rig::with(|config| config.absent = vec![OperatorId::DynamicQuantV2.info().phase2]);
    let x = halves(&without, FloatType::Bf16, &ROWS, &[3, 5]);
    let (scales, ends) = (halves(&without, FloatType::Bf16, &[1.0; 5], &[1, 5]), tensor(&without, &[3i32], &[1]));
    let (scales, ends) = (scales.view(), ends.view());
    let smooth = Some(SmoothScales::OfGroups { scales: &scales, ends: &ends });
    let answer = quantise(&without, &x.view(), smooth, &[3, 5]);
    assert!(matches!(answer, Err(Error::MissingOperator { tried: [OperatorId::DynamicQuantV2], .. })), "{answer:?}");
}

#[test]
fn groups_that_do_not_fit_are_found_on_the_device() {
    for ends in [[1i32, 2], [2, 1], [1, 4], [-1, 3]] {
        let mut rig = Rig::new();
        rig.expect_findings();
        let x = halves(&rig, FloatType::Bf16, &ROWS, &[3, 5]);
        let (scales, ends) = (halves(&rig, FloatType::Bf16, &[1.0; 10], &[2, 5]), tensor(&rig, &ends, &[2]));
        let (scales, ends) = (scales.view(), ends.view());
        let smooth = Some(SmoothScales::OfGroups { scales: &scales, ends: &ends });
        assert!(quantise(&rig, &x.view(), smooth, &[3, 5]).is_err());
        let findings = rig.findings();
        assert!(findings.iter().any(|finding| finding.kind == FindingKind::GroupList), "{findings:?}");
    }
}

#[test]
fn without_rows_nothing_is_called() {
    let rig = Rig::new();
    let x = halves(&rig, FloatType::Bf16, &[], &[0, 5]);
    assert_eq!(quantise(&rig, &x.view(), None, &[0, 5]).unwrap(), (OperatorId::DynamicQuantV2, vec![], vec![]));
    assert_eq!(rig.cann.table().operator_calls().count(), 0);
}
