//! Parts of the sorted rows, rows from several ranks, and instances of experts, on worked numbers.

use ascend_moe::op::{self, Balance, PermuteOutputs, Pruning, ReRoutingOutputs};
use ascend_moe::{DType, Element, Error, Tensor};
use ascend_sys::OperatorId;
use cann_sim::FindingKind;
use half::{bf16, f16};

use crate::operators::{read, tensor, zeros};
use crate::rig::Rig;

const X: [f32; 6] = [1., 2., 3., 4., 5., 6.];
const PROBS: [f32; 6] = [0.5, 0.25, 1.0, 2.0, 4.0, 8.0];

fn rule(answer: ascend_moe::Result<()>) -> (OperatorId, &'static str) {
    let Err(Error::Rule(violation)) = answer else { panic!("{answer:?}") };
    (violation.operator, violation.rule)
}

/// Values of a float type.
fn to<T: Element>(values: &[f32], from: impl Fn(f32) -> T) -> Vec<T> {
    values.iter().copied().map(from).collect()
}

/// Sorted rows 1 to 4 of six, and back: tokens of all four slots come back weighted, the others do not.
fn range_and_back<T: Element + PartialEq + std::fmt::Debug>(dtype: DType, from: impl Fn(f32) -> T + Copy) {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let (x, probs) = (tensor(&rig, &to(&X, from), &[3, 2]), tensor(&rig, &to(&PROBS, from), &[3, 2]));
    let wide = tensor(&rig, &[2i64, 0, 1, 2, 3, 2], &[3, 2]);
    let swapped = tensor(&rig, &[2i32, 1, 3, 0, 2, 2], &[2, 3]);
    for indices in [wide.view(), swapped.view().transpose().unwrap()] {
        let (mut rows, mut sorted) = (zeros(&rig, dtype, &[4, 2]), zeros(&rig, DType::I32, &[6]));
        let mut weights = zeros(&rig, dtype, &[4]);
        let outputs = PermuteOutputs {
            tokens: &mut rows.view_mut(),
            sorted_indices: &mut sorted.view_mut(),
            probs: Some(&mut weights.view_mut()),
        };
        op::moe_token_permute_with_ep(&sequence, &x.view(), &indices, Some(&probs.view()), 1..5, outputs).unwrap();
        assert_eq!(read::<i32>(&rig, &sorted), [2, 0, 1, 3, 5, 4]);
        assert_eq!(read::<T>(&rig, &rows), to(&[3., 4., 1., 2., 3., 4., 5., 6.], from));
        assert_eq!(read::<T>(&rig, &weights), to(&[1.0, 0.5, 2.0, 8.0], from));

        // Slots 1 and 4 are in rows 0 and 5, which are not held.
        let mut back = zeros(&rig, dtype, &[2, 3]);
        let mut out = back.view_mut().transpose().unwrap();
        let (rv, sv) = (rows.view(), sorted.view());
        op::moe_token_unpermute_with_ep(&sequence, &rv, &sv, Some(&probs.view()), 2, 1..5, &mut out).unwrap();
        assert_eq!(read::<T>(&rig, &back), to(&[0.5, 9., 40., 1., 12., 48.], from), "stored column by column");
        let mut back = zeros(&rig, dtype, &[3, 2]);
        op::moe_token_unpermute_with_ep(&sequence, &rv, &sv, None, 2, 1..5, &mut back.view_mut()).unwrap();
        assert_eq!(read::<T>(&rig, &back), to(&[1., 2., 6., 8., 5., 6.], from));
    }
}

#[test]
fn a_range_of_the_sorted_rows_and_back() {
    range_and_back(DType::F32, |v| v);
    range_and_back(DType::Bf16, bf16::from_f32);
    range_and_back(DType::F16, f16::from_f32);
}

#[test]
fn ranges_that_meet_give_the_whole() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let (x, ids) = (tensor(&rig, &X, &[3, 2]), tensor(&rig, &[2i32, 0, 1, 2, 3, 2], &[3, 2]));
    let (mut whole, mut sorted) = (zeros(&rig, DType::F32, &[6, 2]), zeros(&rig, DType::I32, &[6]));
    let (mut wv, mut sv) = (whole.view_mut(), sorted.view_mut());
    op::moe_token_permute(&sequence, &x.view(), &ids.view(), &mut wv, &mut sv).unwrap();
    let mut joined = Vec::new();
    for range in [0..2, 2..3, 3..6] {
        let mut rows = zeros(&rig, DType::F32, &[range.len(), 2]);
        let (tokens, sorted_indices) = (&mut rows.view_mut(), &mut sorted.view_mut());
        let outputs = PermuteOutputs { tokens, sorted_indices, probs: None };
        op::moe_token_permute_with_ep(&sequence, &x.view(), &ids.view(), None, range, outputs).unwrap();
        joined.extend(read::<f32>(&rig, &rows));
    }
    assert_eq!(joined, read::<f32>(&rig, &whole));
}

#[test]
fn what_is_refused_of_ranges_and_what_is_not_called() {
    let mut rig = Rig::new();
    rig.expect_findings();
    let sequence = rig.stream.sequence().unwrap();
    let permute = |x: &Tensor, ids: &Tensor, slots: usize, range: std::ops::Range<usize>, rows: usize| {
        let (mut rows, mut sorted) = (zeros(&rig, DType::F32, &[rows, 2]), zeros(&rig, DType::I32, &[slots]));
        let (tokens, sorted_indices) = (&mut rows.view_mut(), &mut sorted.view_mut());
        let outputs = PermuteOutputs { tokens, sorted_indices, probs: None };
        op::moe_token_permute_with_ep(&sequence, &x.view(), &ids.view(), None, range, outputs)
    };
    let (none, no_ids) = (zeros(&rig, DType::F32, &[0, 2]), zeros(&rig, DType::I32, &[0, 2]));
    permute(&none, &no_ids, 0, 0..0, 0).unwrap();
    let indices = zeros(&rig, DType::I32, &[6]);
    let mut out = tensor(&rig, &X, &[3, 2]);
    let (nv, iv) = (none.view(), indices.view());
    op::moe_token_unpermute_with_ep(&sequence, &nv, &iv, None, 2, 4..4, &mut out.view_mut()).unwrap();
    assert_eq!(read::<f32>(&rig, &out), [0.0; 6]);
    assert_eq!(rig.cann.table().operator_calls().count(), 0);

    let (x, ids) = (tensor(&rig, &X, &[3, 2]), tensor(&rig, &[2i32, 0, 1, 2, 3, 2], &[3, 2]));
    assert_eq!(rule(permute(&x, &ids, 6, 3..3, 0)), (OperatorId::MoeTokenPermuteWithEp, "range"));
    assert_eq!(rule(permute(&x, &ids, 6, 3..7, 4)), (OperatorId::MoeTokenPermuteWithEp, "range"));
    assert_eq!(rule(permute(&x, &ids, 6, 3..6, 4)), (OperatorId::MoeTokenPermuteWithEp, "permuted-shape"));
    let answer = op::moe_token_unpermute_with_ep(&sequence, &x.view(), &iv, None, 4, 0..3, &mut out.view_mut());
    assert_eq!(rule(answer), (OperatorId::MoeTokenUnpermuteWithEp, "indices-length"));

    // A row of the range that is not among those at hand.
    let far = tensor(&rig, &[0i32, 1, 2, 3, 4, 5], &[6]);
    let (xv, fv) = (x.view(), far.view());
    op::moe_token_unpermute_with_ep(&sequence, &xv, &fv, None, 2, 1..5, &mut out.view_mut()).unwrap();
    assert!(rig.stream.synchronize().is_err());
    assert!(rig.findings().iter().any(|finding| finding.kind == FindingKind::OutOfBounds));
}

/// Worked example: three ranks, two experts; rows are numbered as they arrive.
fn regrouped<T: Element + PartialEq + std::fmt::Debug>(dtype: DType, from: impl Fn(f32) -> T + Copy) {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let rows: Vec<f32> = (0..6).flat_map(|row| [row as f32, 10.0 + row as f32]).collect();
    let due: Vec<f32> = [0., 4., 5., 1., 2., 3.].iter().flat_map(|row| [*row, 10.0 + row]).collect();
    let x = tensor(&rig, &to(&rows, from), &[6, 2]);
    let scales = tensor(&rig, &[0.0f32, 0.1, 0.2, 0.3, 0.4, 0.5], &[6]);
    let (narrow, swapped) =
        (tensor(&rig, &[1i32, 2, 0, 1, 2, 0], &[3, 2]), tensor(&rig, &[1i64, 0, 2, 2, 1, 0], &[2, 3]));
    for (counts, count_dtype) in [(narrow.view(), DType::I32), (swapped.view().transpose().unwrap(), DType::I64)] {
        for given in [Some(scales.view()), None] {
            let (mut out, mut index) = (zeros(&rig, dtype, &[6, 2]), zeros(&rig, DType::I32, &[6]));
            let (mut carried, mut totals) = (zeros(&rig, DType::F32, &[6]), zeros(&rig, count_dtype, &[2]));
            let mut scales_out = carried.view_mut();
            let outputs = ReRoutingOutputs {
                tokens: &mut out.view_mut(),
                scales: given.is_some().then_some(&mut scales_out),
                index: &mut index.view_mut(),
                counts: &mut totals.view_mut(),
            };
            op::moe_re_routing(&sequence, &x.view(), &counts, given.as_ref(), outputs).unwrap();
            assert_eq!(read::<T>(&rig, &out), to(&due, from));
            assert_eq!(read::<i32>(&rig, &index), [0, 4, 5, 1, 2, 3]);
            let moved = if given.is_some() { [0.0, 0.4, 0.5, 0.1, 0.2, 0.3] } else { [0.0f32; 6] };
            assert_eq!(read::<f32>(&rig, &carried), moved);
            match count_dtype {
                DType::I32 => assert_eq!(read::<i32>(&rig, &totals), [3, 3]),
                _ => assert_eq!(read::<i64>(&rig, &totals), [3, 3]),
            }
        }
    }
}

#[test]
fn rows_of_ranks_in_the_order_of_the_experts() {
    regrouped(DType::Bf16, bf16::from_f32);
    regrouped(DType::F16, f16::from_f32);
    regrouped(DType::I8, |v| v as i8);
}

#[test]
fn counts_that_do_not_add_up_are_found() {
    for counts in [[1i64, 2, 0, 1, 2, 1], [1, 2, 0, 1, 1, 0], [1, -2, 4, 1, 2, 0]] {
        let mut rig = Rig::new();
        rig.expect_findings();
        let sequence = rig.stream.sequence().unwrap();
        let (x, counts) = (zeros(&rig, DType::Bf16, &[6, 2]), tensor(&rig, &counts, &[3, 2]));
        let (mut out, mut index) = (zeros(&rig, DType::Bf16, &[6, 2]), zeros(&rig, DType::I32, &[6]));
        let mut totals = zeros(&rig, DType::I64, &[2]);
        let outputs = ReRoutingOutputs {
            tokens: &mut out.view_mut(),
            scales: None,
            index: &mut index.view_mut(),
            counts: &mut totals.view_mut(),
        };
        op::moe_re_routing(&sequence, &x.view(), &counts.view(), None, outputs).unwrap();
        assert!(rig.stream.synchronize().is_err());
        assert!(rig.findings().iter().any(|finding| finding.kind == FindingKind::GroupList));
    }
}

#[test]
fn without_rows_counts_are_zero_and_a_wide_row_is_refused() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let run = |rows: usize, hidden: usize, totals: &mut Tensor| {
        let (x, counts) = (zeros(&rig, DType::Bf16, &[rows, hidden]), zeros(&rig, DType::I64, &[3, 2]));
        let (mut out, mut index) = (zeros(&rig, DType::Bf16, &[rows, hidden]), zeros(&rig, DType::I32, &[rows]));
        let outputs = ReRoutingOutputs {
            tokens: &mut out.view_mut(),
            scales: None,
            index: &mut index.view_mut(),
            counts: &mut totals.view_mut(),
        };
        op::moe_re_routing(&sequence, &x.view(), &counts.view(), None, outputs)
    };
    let mut totals = tensor(&rig, &[7i64, 7], &[2]);
    run(0, 2, &mut totals).unwrap();
    assert_eq!(read::<i64>(&rig, &totals), [0, 0]);
    assert_eq!(rule(run(1, 16385, &mut totals)), (OperatorId::MoeReRouting, "hidden"));
    assert_eq!(rig.cann.table().operator_calls().count(), 0);
}

/// Worked example: three experts with one, two and three instances on eight ranks.
const TABLE: [i32; 12] = [1, 5, 0, 0, 2, 0, 6, 0, 3, 1, 4, 7];

#[test]
fn experts_become_instances() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let table = tensor(&rig, &TABLE, &[3, 4]);
    let (wide, swapped) =
        (tensor(&rig, &[0i64, 1, 1, 2, 2, 2], &[3, 2]), tensor(&rig, &[0i32, 1, 2, 1, 2, 2], &[2, 3]));
    let cases = [
        (Balance::ByRank { rank: 5, ranks: 8 }, [5, 6, 6, 4, 4, 4]),
        (Balance::ByRank { rank: 0, ranks: 8 }, [5, 0, 0, 1, 1, 1]),
        (Balance::ByToken, [5, 0, 6, 4, 7, 7]),
    ];
    for (balance, due) in cases {
        let mut out = zeros(&rig, DType::I64, &[3, 2]);
        let (ids, tv) = (wide.view(), table.view());
        op::moe_update_expert(&sequence, &ids, &tv, balance, None, &mut out.view_mut(), None).unwrap();
        assert_eq!(read::<i64>(&rig, &out), due.map(i64::from));
        let mut out = zeros(&rig, DType::I32, &[3, 2]);
        let ids = swapped.view().transpose().unwrap();
        op::moe_update_expert(&sequence, &ids, &tv, balance, None, &mut out.view_mut(), None).unwrap();
        assert_eq!(read::<i32>(&rig, &out), due);
    }
}

/// Worked example: of two tokens the second loses its light choice.
fn pruned<T: Element>(from: impl Fn(f32) -> T + Copy) {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let (table, ids) = (tensor(&rig, &TABLE, &[3, 4]), tensor(&rig, &[0i32, 1, 1, 2], &[2, 2]));
    let scales = tensor(&rig, &to(&[0.6, 0.4, 0.9, 0.1], from), &[2, 2]);
    let thresholds = tensor(&rig, &[0.5f32, 0.2], &[2]);
    let mut active = zeros(&rig, DType::Bool, &[2]);
    active.view_mut().copy_from_host(&rig.stream, &[1u8, 0]).unwrap();
    for (threshold, active, due) in [
        (thresholds.view(), None, [1u8, 1, 1, 0]),
        (thresholds.view().reshape(&[1, 2]).unwrap(), Some(active.view()), [1, 1, 0, 0]),
    ] {
        let (mut out, mut keep) = (zeros(&rig, DType::I32, &[2, 2]), zeros(&rig, DType::Bool, &[2, 2]));
        let pruning = Pruning { scales: scales.view(), threshold, active };
        let (iv, tv, mut ov, mut kv) = (ids.view(), table.view(), out.view_mut(), keep.view_mut());
        op::moe_update_expert(&sequence, &iv, &tv, Balance::ByToken, Some(&pruning), &mut ov, Some(&mut kv)).unwrap();
        assert_eq!(read::<i32>(&rig, &out), [5, 0, 6, 4]);
        assert_eq!(read::<u8>(&rig, &keep), due);
    }
}

#[test]
fn choices_that_weigh_little_are_left_out() {
    pruned(|v| v);
    pruned(bf16::from_f32);
    pruned(f16::from_f32);
}

#[test]
fn what_is_refused_and_found_of_instances() {
    let run = |rig: &Rig, ids: &Tensor, table: &[i32], balance| {
        let table = tensor(rig, table, &[table.len() / 4, 4]);
        let mut out = Tensor::zeros(&rig.device, DType::I64, &[ids.shape()[0] as usize, 2]).unwrap();
        let sequence = rig.stream.sequence().unwrap();
        op::moe_update_expert(&sequence, &ids.view(), &table.view(), balance, None, &mut out.view_mut(), None)
    };
    let rig = Rig::new();
    run(&rig, &zeros(&rig, DType::I64, &[0, 2]), &TABLE, Balance::ByToken).unwrap();
    let ids = tensor(&rig, &[0i64, 1, 1, 2], &[2, 2]);
    for (rank, ranks, broken) in [(0, 1, "world-size"), (8, 8, "local-rank"), (0, 2, "table-width")] {
        let answer = run(&rig, &ids, &TABLE, Balance::ByRank { rank, ranks });
        assert_eq!(rule(answer), (OperatorId::MoeUpdateExpert, broken));
    }
    assert_eq!(rig.cann.table().operator_calls().count(), 0);
    // An expert that the table does not have, and a count that it has no places for.
    for (id, count) in [(3i64, 1), (-1, 1), (2, 4), (2, 0)] {
        let mut rig = Rig::new();
        rig.expect_findings();
        let mut table = TABLE;
        table[8] = count;
        run(&rig, &tensor(&rig, &[0i64, id], &[1, 2]), &table, Balance::ByToken).unwrap();
        assert!(rig.stream.synchronize().is_err(), "{id} {count}");
        assert!(rig.findings().iter().any(|finding| finding.kind == FindingKind::OutOfBounds));
    }
}
