//! What goes on between the two products of a quantised expert, on worked numbers.

use ascend_moe::op::{self, DequantSwigluQuant, GatedRows, GatedUnit, Requantise};
use ascend_moe::{DType, Error, Tensor};
use ascend_sys::OperatorId;
use cann_sim::FindingKind;

use crate::operators::{bf, near, tensor, zeros};
use crate::rig::Rig;

const LEFT: GatedUnit = GatedUnit::Halves { gate_first: true };
const HALF: usize = 32;

/// Rows of two gates and two ups each, made as wide as CANN asks by zeros.
fn wide<T: Copy + Default>(rows: &[[T; 4]]) -> Vec<T> {
    let each = |row: &[T; 4]| {
        let mut wide = vec![T::default(); 2 * HALF];
        [wide[0], wide[1], wide[HALF], wide[HALF + 1]] = *row;
        wide
    };
    rows.iter().flat_map(each).collect()
}

/// The first two of each 32 columns.
fn narrow(values: &[i8]) -> Vec<i8> {
    values.chunks(HALF).flat_map(|row| row[..2].to_vec()).collect()
}

/// Operands of worked example 16.
struct Example {
    x: Tensor,
    weight_scale: Tensor,
    activation_scale: Tensor,
    smooth: Tensor,
    counts: Tensor,
}

impl Example {
    fn new(rig: &Rig) -> Self {
        let x = wide(&[[10, -20, 4, 8], [1, 2, 3, 4], [7; 4]]);
        let weight_scale = wide(&[[0.1f32, 0.1, 0.5, 0.5], [1.0; 4]]);
        let smooth: Vec<f32> =
            [[1.0, 2.0], [1.0, 1.0]].iter().flat_map(|row| [&row[..], &[1.0; 30]].concat()).collect();
        Self {
            x: tensor(rig, &x, &[3, 2 * HALF]),
            weight_scale: tensor(rig, &weight_scale, &[2, 2 * HALF]),
            activation_scale: tensor(rig, &[1.0f32, 0.5, 2.0], &[3]),
            smooth: tensor(rig, &smooth, &[2, HALF]),
            counts: tensor(rig, &[1i64, 1], &[2]),
        }
    }
}

/// int8 rows and scales; what is not written is -7.
fn run(
    rig: &Rig,
    params: &DequantSwigluQuant<'_, '_>,
    rows: usize,
) -> ascend_moe::Result<(OperatorId, Vec<i8>, Vec<f32>)> {
    let (mut y, mut scale) =
        (tensor(rig, &vec![-7i8; rows * HALF], &[rows, HALF]), tensor(rig, &vec![-7f32; rows], &[rows]));
    let sequence = rig.stream.sequence().unwrap();
    let ran = op::dequant_swiglu_quant(&sequence, params, &mut y.view_mut(), &mut scale.view_mut())?;
    drop(sequence);
    Ok((ran, y.to_vec(&rig.stream)?, scale.to_vec(&rig.stream)?))
}

#[test]
fn accumulators_to_int8() {
    // The second version, and the first one where that is missing.
    let without = || Rig::with(|config| config.absent = vec![OperatorId::DequantSwigluQuantV2.info().phase2]);
    for (rig, due) in [(Rig::new(), OperatorId::DequantSwigluQuantV2), (without(), OperatorId::DequantSwigluQuant)] {
        let example = Example::new(&rig);
        let (x, weight_scale, activation_scale) =
            (example.x.view(), example.weight_scale.view(), example.activation_scale.view());
        let (smooth, counts) = (example.smooth.view(), example.counts.view());
        let pairs = tensor(&rig, &[0i64, 1, 1, 1], &[2, 2]);
        let negative = tensor(&rig, &[1i64, -5, 1], &[3]);
        let three = wide(&[[0.1f32, 0.1, 0.5, 0.5], [9.0; 4], [1.0; 4]]);
        let three = tensor(&rig, &three, &[3, 2 * HALF]);
        let base = DequantSwigluQuant {
            rows: GatedRows::Accumulators {
                x: &x,
                weight_scale: &weight_scale,
                activation_scale: Some(&activation_scale),
                bias: None,
            },
            groups: Some(&counts),
            unit: LEFT,
            requantise: Requantise::Dynamic { smooth: Some(&smooth) },
        };
        let check = |params: &DequantSwigluQuant<'_, '_>| {
            let (ran, y, scale) = run(&rig, params, 3).unwrap();
            assert_eq!((ran, narrow(&y)), (due, vec![97, -127, 41, 127, -7, -7]));
            near(&scale[..2], &[0.015_017_69, 0.011_512_73]);
            assert_eq!((scale[2], y[2 * HALF..].iter().all(|&value| value == -7)), (-7.0, true));
        };
        check(&base);
        let pairs = pairs.view();
        check(&DequantSwigluQuant { groups: Some(&pairs), ..base });
        // A negative count is none.
        let (negative, three) = (negative.view(), three.view());
        let rows = GatedRows::Accumulators {
            x: &x,
            weight_scale: &three,
            activation_scale: Some(&activation_scale),
            bias: None,
        };
        let (_, y, _) = run(
            &rig,
            &DequantSwigluQuant {
                rows,
                groups: Some(&negative),
                requantise: Requantise::Dynamic { smooth: None },
                ..base
            },
            3,
        )
        .unwrap();
        assert_eq!(narrow(&y)[2..], [41, 127, -7, -7]);
    }
}

/// silu(1) * 4 = 2.924 and silu(2) * -3 = -5.285.
#[test]
fn floats_by_one_scale() {
    let rig = Rig::new();
    let x = tensor(&rig, &bf(&wide(&[[1.0, 2.0, 4.0, -3.0]; 2])), &[2, 2 * HALF]);
    let counts = tensor(&rig, &[1i64, 1], &[2]);
    // Divided by 0.5 and 0.1; the second group's scale of 0 leaves the value alone.
    let (scale, offset) = (tensor(&rig, &[0.5f32, 0.0], &[2]), tensor(&rig, &[1.0f32, -1.0], &[2]));
    let (x, counts, scale, offset) = (x.view(), counts.view(), scale.view(), offset.view());
    let params = DequantSwigluQuant {
        rows: GatedRows::Floats(&x),
        groups: Some(&counts),
        unit: LEFT,
        requantise: Requantise::Static { scale: &scale, offset: &offset },
    };
    let (_, y, scales) = run(&rig, &params, 2).unwrap();
    assert_eq!(narrow(&y), [7, -10, 2, -6]);
    assert_eq!((y[2], y[HALF + 2], scales), (1, -1, vec![-7.0; 2]));
}

/// Worked example 14, interleaved: 0, 2.537, -0.771 and -41.9997.
#[test]
fn interleaved_with_limits() {
    let rig = Rig::new();
    let mut x = vec![0.0f32; 2 * HALF];
    x[..8].copy_from_slice(&[0.0, 3.0, 1.0, 2.0, -1.0, 4.0, 12.0, -20.0]);
    let (x, counts) = (tensor(&rig, &bf(&x), &[1, 2 * HALF]), tensor(&rig, &[1i64], &[1]));
    let (x, counts) = (x.view(), counts.view());
    let params = DequantSwigluQuant {
        rows: GatedRows::Floats(&x),
        groups: Some(&counts),
        unit: GatedUnit::Interleaved { alpha: 1.702, limit: 7.0, bias: 1.0 },
        requantise: Requantise::Dynamic { smooth: None },
    };
    let (_, y, scale) = run(&rig, &params, 1).unwrap();
    assert_eq!(y[..5], [0, 8, -2, -127, 0]);
    near(&scale, &[41.999_718 / 127.0]);
    // The first version has no such unit.
    let rig = Rig::with(|config| config.absent = vec![OperatorId::DequantSwigluQuantV2.info().phase2]);
    let answer = run(&rig, &params, 1);
    assert!(
        matches!(answer, Err(Error::MissingOperator { tried: [OperatorId::DequantSwigluQuantV2], .. })),
        "{answer:?}"
    );
}

#[test]
fn refused_before_the_call() {
    let rig = Rig::new();
    let example = Example::new(&rig);
    let (x, counts) = (example.x.view(), example.counts.view());
    let params = DequantSwigluQuant {
        rows: GatedRows::Floats(&x),
        groups: Some(&counts),
        unit: LEFT,
        requantise: Requantise::Dynamic { smooth: None },
    };
    let refused = |params: DequantSwigluQuant<'_, '_>, rule| match run(&rig, &params, 3) {
        Err(Error::Rule(violation)) => assert_eq!(violation.rule, rule),
        other => panic!("{other:?}"),
    };
    refused(params, "dequant-operands");
    let weight_scale = example.weight_scale.view();
    let rows = GatedRows::Accumulators {
        x: &x,
        weight_scale: &weight_scale,
        activation_scale: None,
        bias: Some(&weight_scale),
    };
    refused(DequantSwigluQuant { rows, groups: None, ..params }, "weight-scale-shape");
    let unit = GatedUnit::Interleaved { alpha: 1.0, limit: f64::INFINITY, bias: 0.0 };
    refused(DequantSwigluQuant { rows, unit, ..params }, "clamp-limit");
    let smooth = Requantise::Dynamic { smooth: Some(&weight_scale) };
    refused(DequantSwigluQuant { rows, requantise: smooth, ..params }, "quant-scale-shape");
    assert_eq!(rig.cann.table().operator_calls().count(), 0);
}

#[test]
fn groups_that_do_not_fit_are_found_on_the_device() {
    let mut rig = Rig::new();
    rig.expect_findings();
    let (x, counts) = (tensor(&rig, &bf(&[1.0; 4 * HALF]), &[2, 2 * HALF]), tensor(&rig, &[2i64, 1], &[2]));
    let (x, counts) = (x.view(), counts.view());
    let params = DequantSwigluQuant {
        rows: GatedRows::Floats(&x),
        groups: Some(&counts),
        unit: LEFT,
        requantise: Requantise::Dynamic { smooth: None },
    };
    assert!(run(&rig, &params, 2).is_err());
    let findings = rig.findings();
    assert!(findings.iter().any(|finding| finding.kind == FindingKind::GroupList), "{findings:?}");
}

#[test]
fn without_rows_nothing_is_called() {
    let rig = Rig::new();
    let (x, counts) = (zeros(&rig, DType::Bf16, &[0, 2 * HALF]), tensor(&rig, &[0i64], &[1]));
    let (x, counts) = (x.view(), counts.view());
    let params = DequantSwigluQuant {
        rows: GatedRows::Floats(&x),
        groups: Some(&counts),
        unit: LEFT,
        requantise: Requantise::Dynamic { smooth: None },
    };
    assert_eq!(run(&rig, &params, 0).unwrap(), (OperatorId::DequantSwigluQuantV2, vec![], vec![]));
    assert_eq!(rig.cann.table().operator_calls().count(), 0);
}
