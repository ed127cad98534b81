//! The older operator that sorts tokens by expert and quantises them, on worked numbers.

use ascend_moe::op::{self, InitRoutingV2, QuantisedOutputs, QuantisedRows, RoutedCounts};
use ascend_moe::{DType, Error, Tensor, TensorView};
use ascend_sys::OperatorId;
use cann_sim::FindingKind;

use crate::operators::{near, read, tensor, zeros};
use crate::rig::Rig;

/// Worked example 5.
const X: [f32; 12] = [127.0, 0.5, 1.5, 2.5, -0.5, -2.5, 1.0, -2.0, 0.3, 0.7, 2.0, -0.01];
/// By way of fp16 ties go away from zero.
const FIRST: [i8; 6] = [127, 1, 2, 3, -1, -3];
const SECOND: [i8; 6] = [64, -127, 19, 44, 127, -1];

/// What came out; what is not written is -7.
#[derive(Debug, PartialEq)]
struct Expanded {
    y: Vec<i8>,
    scales: Vec<f32>,
    row_idx: Vec<i32>,
    counts: Vec<i32>,
}

/// How rows are quantised, without where their scales go.
#[derive(Clone, Copy)]
enum By<'r, 'a> {
    One(&'r TensorView<'a>, &'r TensorView<'a>),
    Own(Option<&'r TensorView<'a>>),
}

fn expand(
    rig: &Rig,
    x: &TensorView<'_>,
    ids: &Tensor,
    by: By<'_, '_>,
    params: InitRoutingV2,
    cumsum: bool,
) -> ascend_moe::Result<Expanded> {
    let (slots, width) = ((ids.view().dim(0) * ids.view().dim(1)) as usize, x.dim(1) as usize);
    let (shape, rows) = match params.capacity {
        Some(capacity) => (vec![params.experts, capacity, width], params.experts * capacity),
        None => (vec![slots, width], slots),
    };
    let mut y = tensor(rig, &vec![-7i8; rows * width], &shape);
    let (mut scales, mut row_idx) = (tensor(rig, &vec![-7f32; rows], &[rows]), zeros(rig, DType::I32, &[slots]));
    let mut counts = zeros(rig, DType::I32, &[params.experts]);
    let (mut yv, mut sv, mut rv, mut cv) = (y.view_mut(), scales.view_mut(), row_idx.view_mut(), counts.view_mut());
    let rows = match by {
        By::One(scale, offset) => QuantisedRows::Static { scale, offset },
        By::Own(smooth) => QuantisedRows::Dynamic { smooth, scale: &mut sv },
    };
    let counted = if cumsum { RoutedCounts::Cumsum(&mut cv) } else { RoutedCounts::Count(&mut cv) };
    let outputs = QuantisedOutputs { expanded_x: &mut yv, row_idx: &mut rv, counts: counted };
    let sequence = rig.stream.sequence().unwrap();
    op::moe_init_routing_quant_v2(&sequence, x, &ids.view(), rows, params, outputs)?;
    drop(sequence);
    Ok(Expanded {
        y: y.to_vec(&rig.stream)?,
        scales: scales.to_vec(&rig.stream)?,
        row_idx: row_idx.to_vec(&rig.stream)?,
        counts: counts.to_vec(&rig.stream)?,
    })
}

#[test]
fn rows_each_by_its_scale() {
    let rig = Rig::new();
    let (x, ids) = (tensor(&rig, &X, &[2, 6]), tensor(&rig, &[1i32, 0, 0, 1], &[2, 2]));
    let params = InitRoutingV2 { experts: 2, capacity: None };
    let out = expand(&rig, &x.view(), &ids, By::Own(None), params, false).unwrap();
    assert_eq!(out.y, [FIRST, SECOND, FIRST, SECOND].concat());
    near(&out.scales, &[1.0, 0.015_748_031, 1.0, 0.015_748_031]);
    assert_eq!((out.row_idx, out.counts), (vec![2, 0, 1, 3], vec![2, 2]));
    assert_eq!(expand(&rig, &x.view(), &ids, By::Own(None), params, true).unwrap().counts, [2, 4]);
    // A capacity: one row too many for the first expert, one too few for the second.
    let ids = tensor(&rig, &[0i32, 0, 0, 1], &[2, 2]);
    let padded = InitRoutingV2 { experts: 2, capacity: Some(2) };
    let out = expand(&rig, &x.view(), &ids, By::Own(None), padded, false).unwrap();
    assert_eq!(out.y, [FIRST, FIRST, SECOND, [0; 6]].concat());
    near(&out.scales, &[1.0, 1.0, 0.015_748_031, 0.0]);
    assert_eq!((out.row_idx, out.counts), (vec![0, 1, -1, 2], vec![3, 1]));
    // Factors of each expert, or of all.
    let x = tensor(&rig, &[1.0f32, 2.0, 3.0, 4.0], &[1, 4]);
    let (x, ids) = (x.view(), tensor(&rig, &[0i32, 1], &[1, 2]));
    let each = tensor(&rig, &[1.0f32, 2.0, 0.5, 1.0, 2.0, 1.0, 1.0, 1.0], &[2, 4]);
    let each = each.view();
    let all = each.rows(0..1).unwrap();
    let y = |smooth| expand(&rig, &x, &ids, By::Own(Some(smooth)), params, false).unwrap().y;
    assert_eq!(y(&each), [32, 127, 48, 127, 64, 64, 95, 127]);
    assert_eq!(y(&all), [32, 127, 48, 127].repeat(2));
}

#[test]
fn rows_by_one_scale() {
    let rig = Rig::new();
    let x = tensor(&rig, &[1.0f32, 2.5, -3.0, 100.0, -200.0, 0.25, 0.75], &[1, 7]);
    let ids = tensor(&rig, &[0i32, 1], &[1, 2]);
    let [scale, offset] = [2.0f32, 0.5].map(|value| tensor(&rig, &[value], &[1]));
    let (scale, offset) = (scale.view(), offset.view());
    let params = InitRoutingV2 { experts: 2, capacity: None };
    let out = expand(&rig, &x.view(), &ids, By::One(&scale, &offset), params, false).unwrap();
    assert_eq!(out.y, [2, 6, -6, 127, -128, 1, 2].repeat(2));
    assert_eq!(out.scales, [-7.0; 2]);
}

#[test]
fn int4_and_no_counts() {
    let rig = Rig::new();
    let (x, ids) = (tensor(&rig, &[7.0f32, -3.5, 1.5, 0.5], &[1, 4]), tensor(&rig, &[5i32], &[1, 1]));
    let (mut y, mut scale) = (zeros(&rig, DType::I4, &[1, 4]), zeros(&rig, DType::F32, &[1]));
    let mut row_idx = zeros(&rig, DType::I32, &[1]);
    let (mut yv, mut sv, mut rv) = (y.view_mut(), scale.view_mut(), row_idx.view_mut());
    let outputs = QuantisedOutputs { expanded_x: &mut yv, row_idx: &mut rv, counts: RoutedCounts::Nothing };
    let sequence = rig.stream.sequence().unwrap();
    let rows = QuantisedRows::Dynamic { smooth: None, scale: &mut sv };
    let params = InitRoutingV2 { experts: 0, capacity: None };
    op::moe_init_routing_quant_v2(&sequence, &x.view(), &ids.view(), rows, params, outputs).unwrap();
    // 7, -4, 2, 0.
    assert_eq!((read::<u8>(&rig, &y), read::<f32>(&rig, &scale)), (vec![0xc7, 0x02], vec![1.0]));
}

#[test]
fn refused_before_the_call() {
    let rig = Rig::new();
    let (x, ids) = (tensor(&rig, &X, &[2, 6]), tensor(&rig, &[1i32, 0, 0, 1], &[2, 2]));
    let (x, params) = (x.view(), InitRoutingV2 { experts: 2, capacity: None });
    let wrong = tensor(&rig, &[1.0f32; 18], &[3, 6]);
    let wrong = wrong.view();
    let answer = expand(&rig, &x, &ids, By::Own(Some(&wrong)), params, false);
    let Err(Error::Rule(violation)) = answer else { panic!("{answer:?}") };
    assert_eq!((violation.operator, violation.rule), (OperatorId::MoeInitRoutingQuantV2, "scale-shape"));
    let padded = InitRoutingV2 { capacity: Some(2), ..params };
    let answer = expand(&rig, &x, &ids, By::Own(None), padded, true);
    assert!(matches!(answer, Err(Error::Shape { .. })), "{answer:?}");
    assert_eq!(rig.cann.table().operator_calls().count(), 0);
}

#[test]
fn experts_that_do_not_exist_are_found_on_the_device() {
    let mut rig = Rig::new();
    rig.expect_findings();
    let (x, ids) = (tensor(&rig, &X, &[2, 6]), tensor(&rig, &[1i32, 0, 2, 1], &[2, 2]));
    let params = InitRoutingV2 { experts: 2, capacity: None };
    assert!(expand(&rig, &x.view(), &ids, By::Own(None), params, false).is_err());
    let findings = rig.findings();
    assert!(findings.iter().any(|finding| finding.kind == FindingKind::OutOfBounds), "{findings:?}");
}

#[test]
fn without_tokens_counts_are_zero() {
    let rig = Rig::new();
    let (x, ids) = (zeros(&rig, DType::F32, &[0, 6]), zeros(&rig, DType::I32, &[0, 2]));
    let params = InitRoutingV2 { experts: 2, capacity: None };
    let out = expand(&rig, &x.view(), &ids, By::Own(None), params, false).unwrap();
    assert_eq!(out, Expanded { y: vec![], scales: vec![], row_idx: vec![], counts: vec![0; 2] });
    assert_eq!(rig.cann.table().operator_calls().count(), 0);
}
