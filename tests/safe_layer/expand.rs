//! The older operators that sort tokens by expert, on worked numbers.

use ascend_moe::op::{self, FinalizeRoutingV1, InitRoutingV2, RoutedCounts};
use ascend_moe::spec::FloatType;
use ascend_moe::{DType, Error, Tensor, TensorView};
use ascend_sys::OperatorId;
use cann_sim::FindingKind;

use crate::operators::{IDS, read, tensor, zeros};
use crate::rig::Rig;

const X: [f32; 6] = [1., 2., 3., 4., 5., 6.];
/// Choice j of token t is `j * 3 + t`.
const NUMBERS: [i32; 6] = [0, 3, 1, 4, 2, 5];
const FLOATS: [FloatType; 3] = [FloatType::F32, FloatType::F16, FloatType::Bf16];

/// Rows, where slots went by number, and the experts sorted.
fn by_number(
    rig: &Rig,
    x: &TensorView<'_>,
    [numbers, ids]: [&TensorView<'_>; 2],
    rows: usize,
) -> ascend_moe::Result<(Vec<f32>, Vec<i32>, Vec<i32>)> {
    let mut expanded = zeros(rig, x.dtype(), &[rows, 2]);
    let [mut index, mut experts] = [(); 2].map(|()| zeros(rig, DType::I32, &[6]));
    let sequence = rig.stream.sequence().unwrap();
    let (mut xv, mut iv, mut ev) = (expanded.view_mut(), index.view_mut(), experts.view_mut());
    op::moe_init_routing(&sequence, x, numbers, ids, &mut xv, &mut iv, &mut ev)?;
    drop(sequence);
    Ok((expanded.to_f32(&rig.stream)?, index.to_vec(&rig.stream)?, experts.to_vec(&rig.stream)?))
}

#[test]
fn slots_by_column() {
    let rig = Rig::new();
    let (numbers, ids) = (tensor(&rig, &NUMBERS, &[3, 2]), tensor(&rig, &IDS, &[3, 2]));
    let index = [2, 1, 5, 0, 3, 4];
    for dtype in FLOATS {
        let x = Tensor::from_f32(&rig.device, dtype, &X, &[3, 2]).unwrap();
        let (rows, found, experts) = by_number(&rig, &x.view(), [&numbers.view(), &ids.view()], 6).unwrap();
        assert_eq!(rows, [1., 2., 3., 4., 1., 2., 3., 4., 5., 6., 5., 6.], "{dtype:?}");
        assert_eq!((found.as_slice(), experts.as_slice()), (index.as_slice(), [0, 1, 2, 2, 2, 3].as_slice()));
    }
    // Strided inputs, and room for the rows of two tokens.
    let columns = tensor(&rig, &[1f32, 3., 5., 2., 4., 6.], &[2, 3]);
    let swapped = |values: [i32; 6]| tensor(&rig, &[0, 2, 4, 1, 3, 5].map(|i: usize| values[i]), &[2, 3]);
    let [numbers, ids] = [NUMBERS, IDS].map(swapped);
    let [x, numbers, ids] = [&columns, &numbers, &ids].map(|tensor| tensor.view().transpose().unwrap());
    let (rows, found, _) = by_number(&rig, &x, [&numbers, &ids], 4).unwrap();
    assert_eq!(rows, [1., 2., 3., 4., 1., 2., 3., 4.]);
    assert_eq!(found, index);
}

/// Where slots went, the rows, and the counts, which are -7 where nothing is counted.
struct ByRow {
    x: Vec<f32>,
    rows: Vec<i32>,
    counts: Vec<i32>,
}

#[derive(Clone, Copy)]
enum Kind {
    Nothing,
    Cumsum,
    Count,
}

fn by_row(
    rig: &Rig,
    x: &TensorView<'_>,
    ids: &TensorView<'_>,
    params: InitRoutingV2,
    shape: &[usize],
    kind: Kind,
) -> ascend_moe::Result<ByRow> {
    let mut expanded = zeros(rig, x.dtype(), shape);
    let (mut index, mut counts) =
        (zeros(rig, DType::I32, &[6]), tensor(rig, &vec![-7; params.experts], &[params.experts]));
    let sequence = rig.stream.sequence().unwrap();
    let (mut xv, mut iv, mut cv) = (expanded.view_mut(), index.view_mut(), counts.view_mut());
    let counted = match kind {
        Kind::Nothing => RoutedCounts::Nothing,
        Kind::Cumsum => RoutedCounts::Cumsum(&mut cv),
        Kind::Count => RoutedCounts::Count(&mut cv),
    };
    op::moe_init_routing_v2(&sequence, x, ids, params, &mut xv, &mut iv, counted)?;
    drop(sequence);
    let (rows, counts) = (index.to_vec(&rig.stream)?, counts.to_vec(&rig.stream)?);
    Ok(ByRow { x: expanded.to_f32(&rig.stream)?, rows, counts })
}

/// Worked example 6, its second version without drops: the routing of worked example 4.
#[test]
fn slots_by_row() {
    let rig = Rig::new();
    let ids = tensor(&rig, &IDS, &[3, 2]);
    let params = InitRoutingV2 { experts: 4, capacity: None };
    for dtype in FLOATS {
        let x = Tensor::from_f32(&rig.device, dtype, &X, &[3, 2]).unwrap();
        let run = |kind| by_row(&rig, &x.view(), &ids.view(), params, &[6, 2], kind).unwrap();
        let count = run(Kind::Count);
        assert_eq!(count.x, [1., 2., 3., 4., 1., 2., 3., 4., 5., 6., 5., 6.], "{dtype:?}");
        assert_eq!((count.rows.as_slice(), count.counts.as_slice()), (&[2, 0, 1, 3, 5, 4][..], &[1, 1, 3, 1][..]));
        assert_eq!(run(Kind::Cumsum).counts, [1, 2, 5, 6]);
        assert_eq!(run(Kind::Nothing).counts, [-7; 4]);
    }
    // Strided inputs, the first rows only, and no word of how many experts there are.
    let (columns, swapped) =
        (tensor(&rig, &[1f32, 3., 5., 2., 4., 6.], &[2, 3]), tensor(&rig, &[2, 1, 3, 0, 2, 2i32], &[2, 3]));
    let [x, ids] = [&columns, &swapped].map(|tensor| tensor.view().transpose().unwrap());
    let unknown = InitRoutingV2 { experts: 0, capacity: None };
    let few = by_row(&rig, &x, &ids, unknown, &[5, 2], Kind::Nothing).unwrap();
    assert_eq!(few.x, [1., 2., 3., 4., 1., 2., 3., 4., 5., 6.]);
    assert_eq!(few.rows, [2, 0, 1, 3, 5, 4]);
}

/// Worked example 6, its second version with a capacity.
#[test]
fn slots_by_row_with_a_capacity() {
    let rig = Rig::new();
    let (x, ids) = (tensor(&rig, &X, &[3, 2]), tensor(&rig, &[0i32, 1, 0, 2, 0, 1], &[3, 2]));
    let params = InitRoutingV2 { experts: 3, capacity: Some(2) };
    let run = |kind| by_row(&rig, &x.view(), &ids.view(), params, &[3, 2, 2], kind);
    let counted = run(Kind::Count).unwrap();
    assert_eq!(counted.x, [1., 2., 3., 4., 1., 2., 5., 6., 3., 4., 0., 0.]);
    assert_eq!(counted.rows, [0, 2, 1, 4, -1, 3]);
    assert_eq!(counted.counts, [3, 2, 1], "counted before the capacity");
    assert_eq!(run(Kind::Nothing).unwrap().counts, [-7; 3]);
    assert!(matches!(run(Kind::Cumsum), Err(Error::Shape { .. })));
}

/// What the softmax router numbers, expansion by column takes, and the first finalize-routing brings back.
#[test]
fn routed_there_and_back_by_column() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let (tokens, k, experts) = (5, 3, 7);
    let logits: Vec<f32> = (0..tokens * experts).map(|i| (i * 29 % 31) as f32 / 8.0).collect();
    let logits = tensor(&rig, &logits, &[tokens, experts]);
    let values: Vec<f32> = (0..tokens * 4).map(|i| i as f32 - 9.0).collect();
    let (x, nothing) = (tensor(&rig, &values, &[tokens, 4]), zeros(&rig, DType::F32, &[tokens, 4]));
    let mut weights = zeros(&rig, DType::F32, &[tokens, k]);
    let [mut ids, mut numbers] = [(); 2].map(|()| zeros(&rig, DType::I32, &[tokens, k]));
    let (mut wv, mut iv, mut nv) = (weights.view_mut(), ids.view_mut(), numbers.view_mut());
    op::moe_gating_top_k_softmax(&sequence, &logits.view(), None, &mut wv, &mut iv, &mut nv).unwrap();
    let mut expanded = zeros(&rig, DType::F32, &[tokens * k, 4]);
    let [mut index, mut sorted] = [(); 2].map(|()| zeros(&rig, DType::I32, &[tokens * k]));
    let (mut ev, mut rv, mut sv) = (expanded.view_mut(), index.view_mut(), sorted.view_mut());
    op::moe_init_routing(&sequence, &x.view(), &numbers.view(), &ids.view(), &mut ev, &mut rv, &mut sv).unwrap();
    let (bias, scales) =
        (zeros(&rig, DType::F32, &[experts, 4]), tensor(&rig, &[0.25f32, 0.5, 0.25].repeat(tokens), &[tokens, k]));
    let inputs = FinalizeRoutingV1 {
        expanded_x: expanded.view(),
        row_idx: index.view(),
        x1: nothing.view(),
        x2: None,
        bias: bias.view(),
        scales: scales.view(),
        expert_idx: ids.view(),
    };
    let mut out = zeros(&rig, DType::F32, &[tokens, 4]);
    op::moe_finalize_routing(&sequence, &inputs, &mut out.view_mut()).unwrap();
    assert_eq!(read::<f32>(&rig, &out), values);
    let mut due = read::<i32>(&rig, &ids);
    due.sort_unstable();
    assert_eq!(read::<i32>(&rig, &sorted), due);
}

#[test]
fn refused_before_the_call() {
    let rig = Rig::new();
    let (x, ids) = (tensor(&rig, &X, &[3, 2]), tensor(&rig, &IDS, &[3, 2]));
    let flat = tensor(&rig, &NUMBERS, &[2, 3]);
    let answer = by_number(&rig, &x.view(), [&flat.view(), &ids.view()], 6);
    let Err(Error::Rule(violation)) = answer else { panic!("{answer:?}") };
    assert_eq!((violation.operator, violation.rule), (OperatorId::MoeInitRouting, "row-idx-shape"));
    let answer = by_number(&rig, &x.view(), [&ids.view(), &ids.view()], 5);
    let Err(Error::Rule(violation)) = answer else { panic!("{answer:?}") };
    assert_eq!(violation.rule, "expanded-x-shape");
    let refused = |params, shape: &[usize], kind, rule| match by_row(&rig, &x.view(), &ids.view(), params, shape, kind)
    {
        Err(Error::Rule(violation)) => {
            assert_eq!((violation.operator, violation.rule), (OperatorId::MoeInitRoutingV2, rule));
        }
        _ => panic!("{rule} passes"),
    };
    refused(InitRoutingV2 { experts: 0, capacity: None }, &[6, 2], Kind::Count, "expert-num");
    refused(InitRoutingV2 { experts: 4, capacity: None }, &[7, 2], Kind::Count, "expanded-x-shape");
    refused(InitRoutingV2 { experts: 4, capacity: Some(4) }, &[4, 4, 2], Kind::Count, "capacity");
    assert_eq!(rig.cann.table().operator_calls().count(), 0);
}

#[test]
fn found_on_the_device() {
    let found = |run: &dyn Fn(&Rig)| {
        let mut rig = Rig::new();
        rig.expect_findings();
        run(&rig);
        let findings = rig.findings();
        assert!(findings.iter().any(|finding| finding.kind == FindingKind::OutOfBounds), "{findings:?}");
    };
    let by_number = |numbers: [i32; 6], ids: [i32; 6]| {
        found(&|rig| {
            let (x, numbers) = (tensor(rig, &X, &[3, 2]), tensor(rig, &numbers, &[3, 2]));
            let ids = tensor(rig, &ids, &[3, 2]);
            assert!(by_number(rig, &x.view(), [&numbers.view(), &ids.view()], 6).is_err());
        });
    };
    by_number([0, 3, 1, 6, 2, 5], IDS);
    by_number([0, 3, 1, -1, 2, 5], IDS);
    by_number(NUMBERS, [2, 0, 1, -1, 3, 2]);
    let by_row = |ids: [i32; 6], capacity, shape: &[usize], kind| {
        found(&|rig| {
            let (x, ids) = (tensor(rig, &X, &[3, 2]), tensor(rig, &ids, &[3, 2]));
            let params = InitRoutingV2 { experts: 3, capacity };
            assert!(by_row(rig, &x.view(), &ids.view(), params, shape, kind).is_err());
        });
    };
    by_row(IDS, None, &[6, 2], Kind::Count);
    by_row(IDS, Some(2), &[3, 2, 2], Kind::Nothing);
    by_row([0, 1, 2, -1, 0, 1], None, &[6, 2], Kind::Nothing);
}

#[test]
fn without_tokens_nothing_is_called_but_counts_are_zero() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let none = |dtype, shape: &[usize]| zeros(&rig, dtype, shape);
    let (x, ids) = (none(DType::F32, &[0, 2]), none(DType::I32, &[0, 2]));
    let (mut expanded, mut index, mut sorted) =
        (none(DType::F32, &[0, 2]), none(DType::I32, &[0]), none(DType::I32, &[0]));
    let (mut ev, mut iv, mut sv) = (expanded.view_mut(), index.view_mut(), sorted.view_mut());
    op::moe_init_routing(&sequence, &x.view(), &ids.view(), &ids.view(), &mut ev, &mut iv, &mut sv).unwrap();
    let mut counts = tensor(&rig, &[5i32; 4], &[4]);
    let (params, mut cv) = (InitRoutingV2 { experts: 4, capacity: None }, counts.view_mut());
    let counted = RoutedCounts::Cumsum(&mut cv);
    op::moe_init_routing_v2(&sequence, &x.view(), &ids.view(), params, &mut ev, &mut iv, counted).unwrap();
    assert_eq!(read::<i32>(&rig, &counts), [0; 4]);
    assert_eq!(rig.cann.table().operator_calls().count(), 0);
}
