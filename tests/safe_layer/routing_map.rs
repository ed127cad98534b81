//! Routing by a map of flags, on small numbers worked out by hand.

use ascend_moe::op::{self, PermuteOutputs, RoutingMapRows, UnpermuteOutputs, UnpermuteWithRoutingMap};
use ascend_moe::{DType, Element, Error, Sequence, Tensor};
use ascend_sys::OperatorId;
use cann_sim::FindingKind;
use half::{bf16, f16};

use crate::operators::{read, tensor, zeros};
use crate::rig::Rig;

const X: [f32; 6] = [1., 2., 3., 4., 5., 6.];
/// Tokens 0 and 1 go to experts 0 and 2, token 2 to experts 1 and 2.
const MAP: [i8; 9] = [1, 0, 1, 1, 0, 1, 0, 1, 1];
/// Weights that are exact in every dtype; those that are not chosen are large.
const PROBS: [f32; 9] = [0.5, 64., 0.25, 1., 64., 2., 64., 4., 0.75];

fn to<T: Element>(values: &[f32], from: impl Fn(f32) -> T) -> Vec<T> {
    values.iter().copied().map(from).collect()
}

fn rule(answer: ascend_moe::Result<()>) -> (OperatorId, &'static str) {
    let Err(Error::Rule(violation)) = answer else { panic!("{answer:?}") };
    (violation.operator, violation.rule)
}

/// A map of either dtype, the second one strided.
fn maps(rig: &Rig) -> (Tensor, Tensor) {
    let mut flags = zeros(rig, DType::Bool, &[3, 3]);
    let swapped: Vec<u8> = (0..9).map(|i| MAP[i % 3 * 3 + i / 3] as u8).collect();
    flags.view_mut().copy_from_host(&rig.stream, &swapped).unwrap();
    (tensor(rig, &MAP, &[3, 3]), flags)
}

/// Every token's rows, and the weighted sum of them.
fn chosen_and_back<T, P>(dtype: DType, weights: DType, from: impl Fn(f32) -> T + Copy, weight: impl Fn(f32) -> P + Copy)
where
    T: Element + PartialEq + std::fmt::Debug,
    P: Element + PartialEq + std::fmt::Debug,
{
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let (x, probs) = (tensor(&rig, &to(&X, from), &[3, 2]), tensor(&rig, &to(&PROBS, weight), &[3, 3]));
    let (plain, swapped) = maps(&rig);
    for map in [plain.view(), swapped.view().transpose().unwrap()] {
        let (mut rows, mut sorted) = (zeros(&rig, dtype, &[2, 6]), zeros(&rig, DType::I32, &[6]));
        let mut carried = zeros(&rig, weights, &[6]);
        // The rows are written strided.
        let outputs = PermuteOutputs {
            tokens: &mut rows.view_mut().transpose().unwrap(),
            sorted_indices: &mut sorted.view_mut(),
            probs: Some(&mut carried.view_mut()),
        };
        let (xv, pv, kind) = (x.view(), probs.view(), RoutingMapRows::Chosen);
        op::moe_token_permute_with_routing_map(&sequence, &xv, &map, Some(&pv), kind, outputs).unwrap();
        // By expert: tokens 0 and 1; token 2; all three.
        assert_eq!(read::<T>(&rig, &rows), to(&[1., 3., 5., 1., 3., 5., 2., 4., 6., 2., 4., 6.], from));
        assert_eq!(read::<i32>(&rig, &sorted), [0, 3, 1, 4, 2, 5]);
        assert_eq!(read::<P>(&rig, &carried), to(&[0.5, 1., 4., 0.25, 2., 0.75], weight));

        for probs in [Some(pv), None] {
            let (mut out, mut again) = (zeros(&rig, dtype, &[3, 2]), zeros(&rig, weights, &[6]));
            let inputs = UnpermuteWithRoutingMap {
                permuted: rows.view().transpose().unwrap(),
                sorted_indices: sorted.view(),
                map: probs.is_some().then_some(map),
                probs,
                rows: RoutingMapRows::Chosen,
            };
            let mut probs_out = again.view_mut();
            let outputs = UnpermuteOutputs {
                tokens: &mut out.view_mut(),
                row_order: None,
                token_ids: None,
                probs: probs.is_some().then_some(&mut probs_out),
            };
            op::moe_token_unpermute_with_routing_map(&sequence, &inputs, outputs).unwrap();
            let factors = if probs.is_some() { [0.75, 3.0, 4.75] } else { [2.0; 3] };
            let due: Vec<f32> = X.iter().enumerate().map(|(i, x)| x * factors[i / 2]).collect();
            assert_eq!(read::<T>(&rig, &out), to(&due, from));
            if probs.is_some() {
                assert_eq!(read::<P>(&rig, &again), read::<P>(&rig, &carried));
            }
        }
    }
}

#[test]
fn the_experts_of_every_token_and_back() {
    chosen_and_back(DType::F32, DType::F32, |v| v, |v| v);
    chosen_and_back(DType::Bf16, DType::Bf16, bf16::from_f32, bf16::from_f32);
    chosen_and_back(DType::Bf16, DType::F32, bf16::from_f32, |v| v);
    chosen_and_back(DType::F16, DType::F16, f16::from_f32, f16::from_f32);
}

#[test]
fn slots_without_a_row_add_nothing() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    // Token 1 has one expert of two slots; the last row belongs to no slot.
    let (rows, sorted) = (tensor(&rig, &[1f32, 2., 4., f32::NAN], &[4, 1]), tensor(&rig, &[0i32, 2, 1, -1], &[4]));
    let (map, probs) = (tensor(&rig, &[1i8, 1, 1, 0], &[2, 2]), tensor(&rig, &[1f32, 0.5, 3., 9.], &[2, 2]));
    let mut out = zeros(&rig, DType::F32, &[2, 1]);
    let inputs = UnpermuteWithRoutingMap {
        permuted: rows.view(),
        sorted_indices: sorted.view(),
        map: Some(map.view()),
        probs: Some(probs.view()),
        rows: RoutingMapRows::Chosen,
    };
    let outputs = UnpermuteOutputs { tokens: &mut out.view_mut(), row_order: None, token_ids: None, probs: None };
    op::moe_token_unpermute_with_routing_map(&sequence, &inputs, outputs).unwrap();
    assert_eq!(read::<f32>(&rig, &out), [3.0, 6.0]);
}

/// Two rows for each expert, and the weighted sum of them.
fn padded_and_back<T, P>(dtype: DType, weights: DType, from: impl Fn(f32) -> T + Copy, weight: impl Fn(f32) -> P + Copy)
where
    T: Element + PartialEq + std::fmt::Debug,
    P: Element + PartialEq + std::fmt::Debug,
{
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let (x, probs) = (tensor(&rig, &to(&X, from), &[3, 2]), tensor(&rig, &to(&PROBS, weight), &[3, 3]));
    let (plain, swapped) = maps(&rig);
    for map in [plain.view(), swapped.view().transpose().unwrap()] {
        let (mut rows, mut tokens) = (zeros(&rig, dtype, &[6, 2]), zeros(&rig, DType::I32, &[6]));
        let mut carried = zeros(&rig, weights, &[6]);
        let outputs = PermuteOutputs {
            tokens: &mut rows.view_mut(),
            sorted_indices: &mut tokens.view_mut(),
            probs: Some(&mut carried.view_mut()),
        };
        let (xv, pv, kind) = (x.view(), probs.view(), RoutingMapRows::Capacity);
        op::moe_token_permute_with_routing_map(&sequence, &xv, &map, Some(&pv), kind, outputs).unwrap();
        // Expert 1 has one token and takes token 0 beside it; expert 2 has three and takes two.
        assert_eq!(read::<i32>(&rig, &tokens), [0, 1, 2, 0, 0, 1]);
        assert_eq!(read::<T>(&rig, &rows), to(&[1., 2., 3., 4., 5., 6., 1., 2., 1., 2., 3., 4.], from));
        assert_eq!(read::<P>(&rig, &carried), to(&[0.5, 1., 4., 64., 0.25, 2.], weight));

        for probs in [Some(pv), None] {
            let (mut out, mut again) = (zeros(&rig, dtype, &[3, 2]), zeros(&rig, weights, &[6]));
            let (mut order, mut ids) = (zeros(&rig, DType::I32, &[6]), zeros(&rig, DType::I32, &[6]));
            let (permuted, sorted_indices, rows) = (rows.view(), tokens.view(), RoutingMapRows::Capacity);
            let inputs = UnpermuteWithRoutingMap { permuted, sorted_indices, map: None, probs, rows };
            let mut probs_out = again.view_mut();
            let outputs = UnpermuteOutputs {
                tokens: &mut out.view_mut(),
                row_order: Some(&mut order.view_mut()),
                token_ids: Some(&mut ids.view_mut()),
                probs: probs.is_some().then_some(&mut probs_out),
            };
            op::moe_token_unpermute_with_routing_map(&sequence, &inputs, outputs).unwrap();
            let factors = if probs.is_some() { [64.75, 3.0, 4.0] } else { [3.0, 2.0, 1.0] };
            let due: Vec<f32> = X.iter().enumerate().map(|(i, x)| x * factors[i / 2]).collect();
            assert_eq!(read::<T>(&rig, &out), to(&due, from));
            assert_eq!(read::<i32>(&rig, &order), [0, 3, 4, 1, 5, 2]);
            assert_eq!(read::<i32>(&rig, &ids), [0, 0, 0, 1, 1, 2]);
            if probs.is_some() {
                assert_eq!(read::<P>(&rig, &again), read::<P>(&rig, &carried));
            }
        }
    }
}

#[test]
fn as_many_rows_for_every_expert_and_back() {
    padded_and_back(DType::F32, DType::F32, |v| v, |v| v);
    padded_and_back(DType::Bf16, DType::Bf16, bf16::from_f32, bf16::from_f32);
    padded_and_back(DType::Bf16, DType::F32, bf16::from_f32, |v| v);
    padded_and_back(DType::F16, DType::F16, f16::from_f32, f16::from_f32);
}

#[test]
fn products_are_rounded_where_rows_and_weights_are_of_one_dtype() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    // 1.0078125 squared is a little more than 1.015625; with 0.00390625 that is a tie in bf16, or just above it.
    let rows = tensor(&rig, &to(&[1.0078125, 0.00390625], bf16::from_f32), &[2, 1]);
    let tokens = tensor(&rig, &[0i32, 0], &[2]);
    let narrow = tensor(&rig, &to(&[1.0078125, 1.0], bf16::from_f32), &[1, 2]);
    let wide = tensor(&rig, &[1.0078125f32, 1.0], &[1, 2]);
    for (probs, due) in [(narrow.view(), 1.015625), (wide.view(), 1.0234375)] {
        let mut out = zeros(&rig, DType::Bf16, &[1, 1]);
        let (permuted, sorted_indices, rows) = (rows.view(), tokens.view(), RoutingMapRows::Capacity);
        let inputs = UnpermuteWithRoutingMap { permuted, sorted_indices, map: None, probs: Some(probs), rows };
        let outputs = UnpermuteOutputs { tokens: &mut out.view_mut(), row_order: None, token_ids: None, probs: None };
        op::moe_token_unpermute_with_routing_map(&sequence, &inputs, outputs).unwrap();
        assert_eq!(read::<bf16>(&rig, &out), [bf16::from_f32(due)]);
    }
}

fn permute(
    rig: &Rig,
    sequence: &Sequence<'_>,
    map: &Tensor,
    rows: usize,
    kind: RoutingMapRows,
) -> ascend_moe::Result<()> {
    let x = zeros(rig, DType::F32, &[map.shape()[0] as usize, 2]);
    let (mut out, mut sorted) = (zeros(rig, DType::F32, &[rows, 2]), zeros(rig, DType::I32, &[rows]));
    let (tokens, sorted_indices) = (&mut out.view_mut(), &mut sorted.view_mut());
    let outputs = PermuteOutputs { tokens, sorted_indices, probs: None };
    op::moe_token_permute_with_routing_map(sequence, &x.view(), &map.view(), None, kind, outputs)
}

#[test]
fn what_is_refused_and_what_is_not_called() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let map = tensor(&rig, &MAP, &[3, 3]);
    permute(&rig, &sequence, &zeros(&rig, DType::I8, &[0, 3]), 0, RoutingMapRows::Chosen).unwrap();
    permute(&rig, &sequence, &map, 0, RoutingMapRows::Capacity).unwrap();
    let (rows, sorted) = (zeros(&rig, DType::F32, &[0, 2]), zeros(&rig, DType::I32, &[0]));
    let mut out = tensor(&rig, &X, &[3, 2]);
    let (permuted, sorted_indices, kind) = (rows.view(), sorted.view(), RoutingMapRows::Chosen);
    let inputs = UnpermuteWithRoutingMap { permuted, sorted_indices, map: None, probs: None, rows: kind };
    let outputs = UnpermuteOutputs { tokens: &mut out.view_mut(), row_order: None, token_ids: None, probs: None };
    op::moe_token_unpermute_with_routing_map(&sequence, &inputs, outputs).unwrap();
    assert_eq!(read::<f32>(&rig, &out), [0.0; 6]);

    let operator = OperatorId::MoeTokenPermuteWithRoutingMap;
    assert_eq!(rule(permute(&rig, &sequence, &map, 7, RoutingMapRows::Chosen)), (operator, "permuted-shape"));
    assert_eq!(rule(permute(&rig, &sequence, &map, 12, RoutingMapRows::Capacity)), (operator, "num-out-tokens"));
    let (rows, sorted) = (zeros(&rig, DType::F32, &[4, 2]), zeros(&rig, DType::I32, &[4]));
    let inputs = UnpermuteWithRoutingMap { permuted: rows.view(), sorted_indices: sorted.view(), ..inputs };
    let outputs = UnpermuteOutputs { tokens: &mut out.view_mut(), row_order: None, token_ids: None, probs: None };
    let answer = op::moe_token_unpermute_with_routing_map(&sequence, &inputs, outputs);
    assert_eq!(rule(answer), (OperatorId::MoeTokenUnpermuteWithRoutingMap, "top-k"));
    assert_eq!(rig.cann.table().operator_calls().count(), 0);
}

#[test]
fn values_on_the_device_that_do_not_fit_are_found() {
    let found = |run: &dyn Fn(&Rig, &Sequence<'_>)| {
        let mut rig = Rig::new();
        rig.expect_findings();
        let sequence = rig.stream.sequence().unwrap();
        run(&rig, &sequence);
        drop(sequence);
        assert!(rig.stream.synchronize().is_err());
        assert!(rig.findings().iter().any(|finding| finding.kind == FindingKind::OutOfBounds));
    };
    // Tokens with two experts where one is asked for, with one and two, with a flag of 2.
    found(&|rig, sequence| permute(rig, sequence, &tensor(rig, &MAP, &[3, 3]), 3, RoutingMapRows::Chosen).unwrap());
    found(&|rig, sequence| {
        permute(rig, sequence, &tensor(rig, &[1i8, 0, 1, 1], &[2, 2]), 2, RoutingMapRows::Chosen).unwrap()
    });
    found(&|rig, sequence| {
        permute(rig, sequence, &tensor(rig, &[2i8, 0, 1, 0], &[2, 2]), 2, RoutingMapRows::Capacity).unwrap()
    });
    // A row and a token that are not there.
    for (rows, index) in [(RoutingMapRows::Chosen, 2), (RoutingMapRows::Capacity, 1), (RoutingMapRows::Capacity, -1)] {
        found(&|rig, sequence| {
            let (permuted, sorted) = (zeros(rig, DType::F32, &[2, 1]), tensor(rig, &[0i32, index], &[2]));
            let mut out = zeros(rig, DType::F32, &[1, 1]);
            let (permuted, sorted_indices) = (permuted.view(), sorted.view());
            let inputs = UnpermuteWithRoutingMap { permuted, sorted_indices, map: None, probs: None, rows };
            let outputs =
                UnpermuteOutputs { tokens: &mut out.view_mut(), row_order: None, token_ids: None, probs: None };
            op::moe_token_unpermute_with_routing_map(sequence, &inputs, outputs).unwrap();
        });
    }
}
