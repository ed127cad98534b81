//! SwiGLU with quantisation, on worked numbers.

use ascend_moe::op::{self, ActivationGroups, ActivationScales, SwigluQuant};
use ascend_moe::{DType, Error, Tensor, TensorView};
use ascend_sys::OperatorId;
use cann_sim::FindingKind;

use crate::operators::{bf, near, read, tensor, zeros};
use crate::rig::Rig;

const PLAIN: ActivationScales<'static, 'static> = ActivationScales::Dynamic { smooth: None };

fn params<'r, 'a>(x: &'r TensorView<'a>, scales: ActivationScales<'r, 'a>) -> SwigluQuant<'r, 'a> {
    SwigluQuant { x, gate_first: true, scales, groups: None }
}

/// int8 rows and what they were multiplied by; what is not written is -7.
fn run(
    rig: &Rig,
    params: &SwigluQuant<'_, '_>,
    [rows, half]: [usize; 2],
) -> ascend_moe::Result<(OperatorId, Vec<i8>, Vec<f32>)> {
    let (mut y, mut scale) =
        (tensor(rig, &vec![-7i8; rows * half], &[rows, half]), tensor(rig, &vec![-7f32; rows], &[rows]));
    let sequence = rig.stream.sequence().unwrap();
    let ran = op::swiglu_quant(&sequence, params, &mut y.view_mut(), &mut scale.view_mut())?;
    drop(sequence);
    Ok((ran, y.to_vec(&rig.stream)?, scale.to_vec(&rig.stream)?))
}

/// A rig, and one without the second version.
fn rigs() -> [(Rig, OperatorId); 2] {
    let without = Rig::with(|config| config.absent = vec![OperatorId::SwiGluQuantV2.info().phase2]);
    [(Rig::new(), OperatorId::SwiGluQuantV2), (without, OperatorId::SwiGluQuant)]
}

/// Worked example 16: silu(1) * 4 = 2.924 and silu(2) * -3 = -5.285.
#[test]
fn rows_to_their_greatest_magnitude() {
    for (rig, due) in rigs() {
        let x = tensor(&rig, &[1.0f32, 2.0, 4.0, -3.0], &[1, 4]);
        let (x, turned) = (x.view(), tensor(&rig, &[4.0f32, -3.0, 1.0, 2.0], &[1, 4]));
        let turned = turned.view();
        for params in [params(&x, PLAIN), SwigluQuant { gate_first: false, ..params(&turned, PLAIN) }] {
            let (ran, y, scale) = run(&rig, &params, [1, 2]).unwrap();
            assert_eq!((ran, y), (due, vec![70, -127]));
            near(&scale, &[24.031_263]);
        }
        // Half the second column.
        let smooth = tensor(&rig, &[1.0f32, 0.5], &[2]);
        let smooth = smooth.view();
        let scales = ActivationScales::Dynamic { smooth: Some(&smooth) };
        let (_, y, scale) = run(&rig, &params(&x, scales), [1, 2]).unwrap();
        assert_eq!(y, [127, -115]);
        near(&scale, &[43.430_19]);
    }
}

#[test]
fn groups_have_their_own_factors() {
    for (rig, due) in rigs() {
        let x = tensor(&rig, &bf(&[1.0, 2.0, 4.0, -3.0].repeat(4)), &[4, 4]);
        let factors = tensor(&rig, &[1.0f32, 0.5, 9.0, 9.0, 1.0, 0.0], &[3, 2]);
        // Two rows, none, one; the last one is in no group.
        let (ends, counts) = (tensor(&rig, &[2i32, 2, 3], &[3]), tensor(&rig, &[2i32, 0, 1], &[3]));
        let (x, smooth, ends, counts) = (x.view(), factors.view(), ends.view(), counts.view());
        let scales = ActivationScales::Dynamic { smooth: Some(&smooth) };
        let base = params(&x, scales);
        let (ends, counts) = (ActivationGroups::Ends(&ends), ActivationGroups::Counts(&counts));
        let (ran, y, scale) = run(&rig, &SwigluQuant { groups: Some(ends), ..base }, [4, 2]).unwrap();
        assert_eq!((ran, &y[..]), (due, &[127i8, -115, 127, -115, 127, 0, 70, -127][..]));
        near(&scale, &[43.430_19, 43.430_19, 43.430_19, 24.031_263]);
        let answer = run(&rig, &SwigluQuant { groups: Some(counts), ..base }, [4, 2]);
        match due {
            OperatorId::SwiGluQuantV2 => assert_eq!(answer.unwrap(), (due, y, scale)),
            _ => assert!(matches!(answer, Err(Error::MissingOperator { tried: [OperatorId::SwiGluQuantV2], .. }))),
        }
        // Without factors groups are not read.
        let far = tensor(&rig, &[9i32], &[1]);
        let far = far.view();
        let groups = Some(ActivationGroups::Ends(&far));
        assert_eq!(run(&rig, &SwigluQuant { groups, ..params(&x, PLAIN) }, [4, 2]).unwrap().1, [70, -127].repeat(4));
    }
}

#[test]
fn by_scales_that_are_given() {
    for (rig, due) in rigs() {
        let x = tensor(&rig, &[1.0f32, 2.0, 4.0, -3.0].repeat(2), &[2, 4]);
        let given = |values: [f32; 2]| tensor(&rig, &values, &[2]);
        let (scale, offset, ends) = (given([2.0, 10.0]), given([1.0, 0.0]), tensor(&rig, &[1i32, 2], &[2]));
        let (x, scale, offset, ends) = (x.view(), scale.view(), offset.view(), ends.view());
        let scales = ActivationScales::Static { scale: &scale, offset: &offset };
        // One for each column, and one for each group.
        let [scale_row, offset_row] = [scale, offset].map(|given| given.reshape(&[1, 2]).unwrap());
        let by_column = ActivationScales::Static { scale: &scale_row, offset: &offset_row };
        let (ran, y, scales_out) = run(&rig, &params(&x, by_column), [2, 2]).unwrap();
        assert_eq!((ran, y, scales_out), (due, vec![7, -53, 7, -53], vec![-7.0; 2]));
        let groups = Some(ActivationGroups::Ends(&ends));
        let (_, y, _) = run(&rig, &SwigluQuant { groups, ..params(&x, scales) }, [2, 2]).unwrap();
        assert_eq!(y, [7, -10, 29, -53]);
    }
}

#[test]
fn int4() {
    let rig = Rig::new();
    let x = tensor(&rig, &[1.0f32, 2.0, 4.0, -3.0], &[1, 4]);
    let (mut y, mut scale) = (zeros(&rig, DType::I4, &[1, 2]), zeros(&rig, DType::F32, &[1]));
    let sequence = rig.stream.sequence().unwrap();
    op::swiglu_quant(&sequence, &params(&x.view(), PLAIN), &mut y.view_mut(), &mut scale.view_mut()).unwrap();
    // 4 and -7.
    assert_eq!(read::<u8>(&rig, &y), [0x94]);
    near(&read::<f32>(&rig, &scale), &[7.0 / 5.284_782_4]);
}

#[test]
fn refused_before_the_call() {
    let rig = Rig::new();
    let x = tensor(&rig, &[1.0f32; 8], &[2, 4]);
    let (x, three) = (x.view(), tensor(&rig, &[1.0f32; 3], &[3]));
    let three = three.view();
    let refused = |params: SwigluQuant<'_, '_>, shape, rule| match run(&rig, &params, shape) {
        Err(Error::Rule(violation)) => assert_eq!(violation.rule, rule),
        other => panic!("{other:?}"),
    };
    refused(params(&x, PLAIN), [2, 4], "y-shape");
    refused(params(&x, ActivationScales::Dynamic { smooth: Some(&three) }), [2, 2], "smooth-shape");
    let one = three.rows(0..1).unwrap();
    refused(params(&x, ActivationScales::Static { scale: &one, offset: &three }), [2, 2], "static-operands");
    assert_eq!(rig.cann.table().operator_calls().count(), 0);
}

#[test]
fn groups_that_do_not_fit_are_found_on_the_device() {
    for values in [[1i32, 3], [2, 1], [-1, 2]] {
        let mut rig = Rig::new();
        rig.expect_findings();
        let (x, smooth) = (tensor(&rig, &[1.0f32; 8], &[2, 4]), tensor(&rig, &[1.0f32; 4], &[2, 2]));
        let (x, smooth, ends) = (x.view(), smooth.view(), tensor(&rig, &values, &[2]));
        let ends = ends.view();
        let scales = ActivationScales::Dynamic { smooth: Some(&smooth) };
        let groups = Some(ActivationGroups::Ends(&ends));
        assert!(run(&rig, &SwigluQuant { groups, ..params(&x, scales) }, [2, 2]).is_err());
        let findings = rig.findings();
        assert!(findings.iter().any(|finding| finding.kind == FindingKind::GroupList), "{findings:?}");
    }
}

#[test]
fn without_rows_nothing_is_called() {
    let rig = Rig::new();
    let x: Tensor = zeros(&rig, DType::Bf16, &[0, 4]);
    assert_eq!(run(&rig, &params(&x.view(), PLAIN), [0, 2]).unwrap(), (OperatorId::SwiGluQuantV2, vec![], vec![]));
    assert_eq!(rig.cann.table().operator_calls().count(), 0);
}
