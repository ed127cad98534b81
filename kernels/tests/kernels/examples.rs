//! Worked examples with exact numbers, computed apart from this crate.

use crate::common::*;
use half::bf16;
use moe_kernels::KernelError;
use moe_kernels::activation::{Clipped, clipped_swiglu, swiglu};
use moe_kernels::combine::{ExpertBias, Finalize, Held, Rounding, SlotOrder, Unpermute, finalize, unpermute};
use moe_kernels::gating::{Division, Dropped, Gating, GroupScore, Groups, Score, gating_chosen, gating_top_k, look_up};
use moe_kernels::gemm::{Bias, Weight};
use moe_kernels::group_list::{GroupListKind, decode};
use moe_kernels::grouped_gemm::{Expert, grouped_gemm};
use moe_kernels::init_routing::Routing;
use moe_kernels::nz::{NzLayout, NzMat, pack, unpack};
use moe_kernels::view::{Mat, MatMut, NdView};

const SIGMOID: Gating = Gating {
    top_k: 2,
    score: Score::Sigmoid,
    groups: None,
    renormalise: Some(Division::ByQuotient),
    eps: 1e-20,
    scale: 1.0,
};

fn route(gating: &Gating, x: &[f32], experts: usize, bias: Option<&[f32]>) -> (Vec<f32>, Vec<i32>, Vec<f32>) {
    let chosen = x.len() / experts * gating.top_k;
    let (mut weights, mut indices, mut scores) = (vec![POISON; chosen], vec![-7; chosen], vec![POISON; x.len()]);
    gating_top_k(gating, x, experts, bias, &mut weights, &mut indices, Some(&mut scores)).unwrap();
    let (mut weights_only, mut indices_only) = (vec![POISON; chosen], vec![-7; chosen]);
    gating_top_k(gating, x, experts, bias, &mut weights_only, &mut indices_only, None).unwrap();
    assert_eq!((&weights_only, &indices_only), (&weights, &indices));
    (weights, indices, scores)
}

#[test]
fn gating_sigmoid_bias_changes_the_order_not_the_weight() {
    let x = [0.0, 0.0, 0.0, 0.0, 1.0, -1.0, 1.0, 2.0];
    let gating = Gating { scale: 2.5, ..SIGMOID };
    let (weights, indices, scores) = route(&gating, &x, 4, Some(&[0.0, 0.0, 0.5, 0.0]));
    assert_eq!(indices, [2, 0, 2, 3]);
    near(&weights, &[1.25, 1.25, 1.1338773, 1.3661227]);
    near(&scores, &[0.5, 0.5, 0.5, 0.5, 0.7310586, 0.2689414, 0.7310586, 0.880_797]);
    let (weights, indices, _) = route(&gating, &x, 4, None);
    assert_eq!(indices, [0, 1, 3, 0]);
    near(&weights, &[1.25, 1.25, 1.3661227, 1.1338773]);
}

#[test]
fn gating_groups() {
    let x = [2.0, -2.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0];
    let dropped = Dropped::Removed;
    let with = |score| Gating { top_k: 3, groups: Some(Groups { count: 4, keep: 2, score, dropped }), ..SIGMOID };
    let (weights, indices, _) = route(&with(GroupScore::TopSum(2)), &x, 8, None);
    assert_eq!(indices, [2, 3, 6]);
    near(&weights, &[1.0 / 3.0; 3]);
    let (weights, indices, _) = route(&with(GroupScore::Max), &x, 8, None);
    assert_eq!(indices, [0, 2, 3]);
    near(&weights, &[0.3759408, 0.3120296, 0.3120296]);
}

#[test]
fn gating_softmax() {
    for division in [Division::ByQuotient, Division::ByReciprocal] {
        let gating = Gating { score: Score::Softmax(division), renormalise: None, ..SIGMOID };
        let x = [0.0, std::f32::consts::LN_2, 1.098_612_3, 0.0];
        let (weights, indices, _) = route(&gating, &x, 4, None);
        assert_eq!(indices, [2, 1]);
        near(&weights, &[3.0 / 7.0, 2.0 / 7.0]);
        let (weights, indices, _) = route(&Gating { renormalise: Some(Division::ByQuotient), ..gating }, &x, 4, None);
        assert_eq!(indices, [2, 1]);
        near(&weights, &[0.6, 0.4]);
    }
}

#[test]
fn gating_puts_nan_first_and_takes_removed_experts_never() {
    // The score of expert 2 is NaN through the bias alone: it is chosen first, and its own weight is a number.
    let (weights, indices, _) = route(&SIGMOID, &[0.0, 3.0, 0.0, 1.0], 4, Some(&[0.0, 0.0, f32::NAN, 0.0]));
    assert_eq!(indices, [2, 1]);
    assert!(weights.iter().all(|w| w.is_finite()));
    // Experts 0 and 1 have a bias of minus infinity but their group is kept, so both are taken before the other group's.
    let groups = Groups { count: 2, keep: 1, score: GroupScore::Max, dropped: Dropped::Removed };
    let bias = [0.0, f32::NEG_INFINITY, -1.0, -1.0];
    let (_, indices, _) = route(&Gating { groups: Some(groups), ..SIGMOID }, &[0.0; 4], 4, Some(&bias));
    assert_eq!(indices, [0, 1]);
    // Zeroed instead, they are better than minus infinity.
    let groups = Some(Groups { dropped: Dropped::Zeroed, ..groups });
    let (_, indices, _) = route(&Gating { groups, ..SIGMOID }, &[0.0; 4], 4, Some(&bias));
    assert_eq!(indices, [0, 2]);
}

#[test]
fn gating_by_a_table_of_tokens() {
    let mut chosen = [-7; 4];
    look_up(&[2, 0], &[0, 1, 9, 9, 2, 3], 2, &mut chosen).unwrap();
    assert_eq!(chosen, [2, 3, 0, 1]);
    look_up(&[0, 0], &[i64::MAX, i64::MIN], 2, &mut chosen).unwrap();
    assert_eq!(chosen, [i32::MAX, i32::MIN, i32::MAX, i32::MIN]);

    // Token 0 would choose 3 and 2, or 2 and 0: the table says 0 and 3, and again 0. Its order stays.
    let x = [0.0, -1.0, 1.0, 2.0, 0.0, 3f32.ln(), 0.0, 0.0];
    let (mut weights, mut indices, mut scores) = ([POISON; 4], [-7; 4], [POISON; 8]);
    let gating = Gating { scale: 2.0, ..SIGMOID };
    gating_chosen(&gating, &x, 4, &[0, 3, 1, 1], &mut weights, &mut indices, Some(&mut scores)).unwrap();
    assert_eq!(indices, [0, 3, 1, 1]);
    near(&weights, &[0.7242194, 1.2757806, 1.0, 1.0]);
    near(&scores[4..], &[0.5, 0.75, 0.5, 0.5]);
}

#[test]
fn gating_by_the_root_of_softplus() {
    let gating = Gating { score: Score::SqrtSoftplus, ..SIGMOID };
    // ln(2), ln(3), ln(1.5) under the root; e^89 overflows.
    let plain = Gating { renormalise: None, ..gating };
    let (weights, indices, scores) = route(&plain, &[0.0, 2f32.ln(), 0.5f32.ln(), 89.0], 4, None);
    near(&scores[..3], &[0.8325546, 1.0481471, 0.6367614]);
    assert_eq!((scores[3], &indices[..]), (f32::INFINITY, &[3, 1][..]));
    assert_eq!(weights[0], f32::INFINITY);
    let (weights, indices, _) = route(&gating, &[0.0, 2f32.ln(), 0.5f32.ln(), -200.0], 4, None);
    assert_eq!(indices, [1, 0]);
    near(&weights, &[0.557_317, 0.442_683]);
}

#[test]
fn gating_weights_are_rounded_once() {
    let x = bf(&[0.0, 1.0, 2.0, 3.0]);
    let (mut weights, mut indices) = (vec![bf16::ZERO; 3], vec![0; 3]);
    gating_top_k(&Gating { top_k: 3, ..SIGMOID }, &x, 4, None, &mut weights, &mut indices, None).unwrap();
    let s: Vec<f32> = [3.0f32, 2.0, 1.0].iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect();
    let sum = s[0] + s[1] + s[2];
    assert_eq!(indices, [3, 2, 1]);
    same(&weights, &bf(&[s[0] / sum, s[1] / sum, s[2] / sum]));
}

const TOKENS: [[f32; 2]; 3] = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]];

/// Everything that dropless expansion writes: gather index, scatter index, count, cumsum, pairs, rows; -9 where nothing.
#[allow(clippy::type_complexity)] // taken apart at once
fn dropless(
    ids: &[i32],
    experts: std::ops::Range<usize>,
    total: usize,
) -> (Vec<i32>, Vec<i32>, Vec<i64>, Vec<i64>, Vec<i64>, Vec<f32>) {
    let routing = Routing::new(ids, experts.clone()).unwrap();
    let (mut gather, mut scatter) = (vec![-9; ids.len()], vec![-9; ids.len()]);
    routing.gather_index(&mut gather).unwrap();
    routing.scatter_index(&mut scatter).unwrap();
    let (mut count, mut cumsum, mut pairs) = (vec![-9; experts.len()], vec![-9; experts.len()], vec![-9; 2 * total]);
    routing.write_counts(GroupListKind::Count, &mut count).unwrap();
    routing.write_counts(GroupListKind::Cumsum, &mut cumsum).unwrap();
    routing.write_counts(GroupListKind::KeyValue, &mut pairs).unwrap();
    let x = TOKENS[..ids.len() / 2].as_flattened();
    let mut rows = vec![-9f32; ids.len() * 2];
    let written = routing.expand(bytemuck::cast_slice(x), 8, 2, None, bytemuck::cast_slice_mut(&mut rows)).unwrap();
    assert_eq!(written, routing.sorted().len());
    (gather, scatter, count, cumsum, pairs, rows)
}

#[test]
fn init_routing_dropless() {
    let ids = [2, 0, 1, 2, 3, 2];
    let (gather, scatter, count, cumsum, pairs, rows) = dropless(&ids, 0..4, 4);
    assert_eq!(gather, [2, 0, 1, 3, 5, 4]);
    assert_eq!(scatter, [1, 2, 0, 3, 5, 4]);
    assert_eq!((count, cumsum), (vec![1, 1, 3, 1], vec![1, 2, 5, 6]));
    assert_eq!(pairs, [0, 1, 1, 1, 2, 3, 3, 1]);
    assert_eq!(rows, [1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 5.0, 6.0]);

    let (gather, scatter, count, cumsum, pairs, rows) = dropless(&ids, 1..4, 4);
    assert_eq!(gather, [1, -1, 0, 2, 4, 3]);
    assert_eq!(scatter, [2, 0, 3, 5, 4, -9]);
    assert_eq!((count, cumsum), (vec![1, 3, 1], vec![1, 4, 5]));
    assert_eq!(pairs, [1, 1, 2, 3, 3, 1, 0, 0]);
    assert_eq!(rows, [3.0, 4.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 5.0, 6.0, -9.0, -9.0]);

    let (gather, _, count, cumsum, pairs, rows) = dropless(&ids, 0..2, 4);
    assert_eq!(gather, [-1, 0, 1, -1, -1, -1]);
    assert_eq!((count, cumsum), (vec![1, 1], vec![1, 2]));
    assert_eq!(pairs, [0, 1, 1, 1, 0, 0, -9, -9]);
    assert_eq!(rows[..4], [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(rows[4..], [-9.0; 8]);

    let (_, _, count, cumsum, pairs, _) = dropless(&[3, 3], 1..4, 4);
    assert_eq!((count, cumsum), (vec![0, 0, 2], vec![0, 0, 2]));
    assert_eq!(pairs[..4], [3, 2, 0, 0]);
}

#[test]
fn init_routing_passes_a_scale_through_and_stops_at_the_active_rows() {
    let routing = Routing::new(&[2, 0, 1, 2, 3, 2], 1..4).unwrap();
    let scale = [10f32, 20.0, 30.0];
    let mut out = [-9f32; 6];
    routing.expand(bytemuck::cast_slice(&scale), 4, 2, None, bytemuck::cast_slice_mut(&mut out)).unwrap();
    assert_eq!(out, [20.0, 10.0, 20.0, 30.0, 30.0, -9.0]);
    let mut out = [-9f32; 3];
    let rows = routing.expand(bytemuck::cast_slice(&scale), 4, 2, Some(3), bytemuck::cast_slice_mut(&mut out));
    assert_eq!((rows, out), (Ok(3), [20.0, 10.0, 20.0]));
}

#[test]
fn init_routing_drop_pad() {
    let ids = [0, 1, 0, 2, 0, 1];
    let routing = Routing::new(&ids, 0..3).unwrap();
    let mut index = [-9; 6];
    routing.drop_pad_index(2, &mut index).unwrap();
    assert_eq!(index, [0, 2, 1, 4, -1, 3]);
    let mut rows = [-9f32; 12];
    let x = bytemuck::cast_slice(TOKENS.as_flattened());
    routing.expand_drop_pad(x, 8, 2, 2, bytemuck::cast_slice_mut(&mut rows)).unwrap();
    assert_eq!(rows, [1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 5.0, 6.0, 3.0, 4.0, 0.0, 0.0]);
    assert_eq!(routing.counts(), [3, 2, 1]);
}

#[test]
fn init_routing_of_experts_that_all_exist() {
    let complete = Routing::complete(&[0, 1, 0, 2, 0, 1], 3).unwrap();
    assert_eq!(complete, Routing::new(&[0, 1, 0, 2, 0, 1], 0..3).unwrap());
    let mut counts = [-9i32; 3];
    complete.write_counts(GroupListKind::Count, &mut counts).unwrap();
    assert_eq!(counts, [3, 2, 1]);
    complete.write_counts(GroupListKind::Cumsum, &mut counts).unwrap();
    assert_eq!(counts, [3, 5, 6]);
    for expert in [-1, 3] {
        let due = Err(KernelError::ExpertId { slot: 1, expert, experts: 3 });
        assert_eq!(Routing::complete(&[2, expert], 3), due);
    }
}

#[test]
fn token_permute_is_the_expansion_of_all_experts() {
    // numOutTokens -2 keeps the first 4 of 6 rows.
    let routing = Routing::new(&[2, 0, 1, 2, 3, 2], 0..4).unwrap();
    let mut rows = [-9f32; 8];
    let x = bytemuck::cast_slice(TOKENS.as_flattened());
    assert_eq!(routing.expand(x, 8, 2, Some(4), bytemuck::cast_slice_mut(&mut rows)), Ok(4));
    assert_eq!(rows, [1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn unpermute_skips_zero_probs_and_rows_past_the_end() {
    let mut permuted = [1.0, 10.0, 2.0, 20.0, 3.0, 30.0, 4.0, 40.0];
    let probs = [0.5, 0.25, 0.0, 1.0];
    let combine = |permuted: &[f32], indices: &[i32], probs: &[f32]| {
        let mut out = [POISON; 4];
        let operands =
            Unpermute { permuted, hidden: 2, sorted_indices: indices, probs: Some(probs), top_k: 2, held: Held::First };
        unpermute(&operands, &mut out).map(|()| out)
    };
    assert_eq!(combine(&permuted, &[0, 3, 2, 1], &probs), Ok([1.5, 15.0, 2.0, 20.0]));
    permuted[4..6].fill(f32::NAN);
    assert_eq!(combine(&permuted, &[0, 3, 2, 1], &probs), Ok([1.5, 15.0, 2.0, 20.0]));
    assert_eq!(combine(&permuted, &[0, 3, 9, 1], &probs), Ok([1.5, 15.0, 2.0, 20.0]));
    assert_eq!(combine(&permuted, &[0, 3, 9, 1], &[0.5, 0.25, 1.0, 1.0]), Ok([1.5, 15.0, 2.0, 20.0]));
    // A negative index is read before its buffer by CANN unless its prob is 0.
    assert_eq!(combine(&permuted, &[0, 3, -1, 1], &probs), Ok([1.5, 15.0, 2.0, 20.0]));
    assert!(combine(&permuted, &[0, -1, 2, 1], &probs).is_err());

    let mut out = [bf16::ZERO; 2];
    let (permuted, probs) = (bf(&[1.0, 3.0, 2.0, 5.0]), bf(&[0.3, 0.7]));
    let operands = Unpermute {
        permuted: &permuted,
        hidden: 2,
        sorted_indices: &[0, 1],
        probs: Some(&probs),
        top_k: 2,
        held: Held::First,
    };
    unpermute(&operands, &mut out).unwrap();
    assert_eq!(up(&out), [1.703125, 4.40625]);
}

#[test]
fn finalize_modes() {
    let expanded = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    let bias = ExpertBias { bias: &[10.0, 0.0, 0.0, 10.0, 1.0, 1.0], expert_ids: &[0, 1, 2, 0] };
    let mode2 = Finalize {
        expanded: &expanded,
        hidden: 2,
        row_index: &[2, 0, 1, 3],
        top_k: 2,
        order: SlotOrder::RowMajor,
        drop_pad: false,
        x1: Some(&[100.0, 200.0, 300.0, 400.0]),
        x2: None,
        bias: Some(bias),
        scales: Some(&[0.5, 0.25, 1.0, 2.0]),
        rounding: Rounding::Once,
    };
    let run = |operands: &Finalize<'_, f32, f32>| {
        let mut out = [POISON; 4];
        finalize(operands, &mut out).map(|()| out)
    };
    assert_eq!(run(&mode2), Ok([107.75, 206.0, 338.0, 421.0]));
    assert_eq!(run(&Finalize { order: SlotOrder::ColumnMajor, ..mode2 }), Ok([108.25, 206.5, 336.0, 419.0]));
    let mode3 = Finalize { drop_pad: true, bias: None, row_index: &[2, -1, -1, 3], ..mode2 };
    assert_eq!(run(&mode3), Ok([102.5, 203.0, 314.0, 416.0]));
    assert!(run(&Finalize { drop_pad: false, ..mode3 }).is_err());
    // Nothing to add at all.
    let nothing = Finalize { x1: None, row_index: &[-1; 4], ..mode3 };
    assert_eq!(run(&nothing), Ok([0.0; 4]));
}

#[test]
fn finalize_rounds_where_it_says() {
    // 2049 is not an fp16 number: 2048 + 1 is 2048 after each step, and the two ones are lost; in f32 they are not.
    let expanded = h(&[2048.0, 1.0, 1.0]);
    let run = |rounding| {
        let operands = Finalize {
            expanded: &expanded,
            hidden: 1,
            row_index: &[0, 1, 2],
            top_k: 3,
            order: SlotOrder::RowMajor,
            drop_pad: false,
            x1: None,
            x2: None,
            bias: None,
            scales: None::<&[f32]>,
            rounding,
        };
        let mut out = h(&[0.0]);
        finalize(&operands, &mut out).unwrap();
        up(&out)[0]
    };
    assert_eq!(run(Rounding::Once), 2050.0);
    assert_eq!(run(Rounding::EachStep), 2048.0);
}

#[test]
fn grouped_gemm_bf16() {
    let x = bf(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let weights = [bf(&[1.0, 0.0, 0.0, 1.0]), bf(&[9.0; 4]), bf(&[2.0, 1.0, 1.0, -1.0])];
    let biases = [[0.5f32, -0.5], [0.0, 0.0], [1.0, 1.0]];
    let transposed: Vec<Vec<bf16>> = weights.iter().map(|w| vec![w[0], w[2], w[1], w[3]]).collect();
    let packed: Vec<Vec<bf16>> = weights
        .iter()
        .map(|w| {
            let mut dst = vec![bf16::NAN; 16 * 16];
            pack(&NdView::contiguous(w, &[2, 2]).unwrap(), &mut dst).unwrap();
            dst
        })
        .collect();
    let views: [Vec<Weight<'_, bf16>>; 3] = [
        weights.iter().map(|w| Weight::Strided(Mat::row_major(w, 2, 2).unwrap())).collect(),
        transposed.iter().map(|w| Weight::Strided(Mat::new(w, 2, 2, 1, 2).unwrap())).collect(),
        packed.iter().map(|w| Weight::Nz(NzMat::new(w, 2, 2).unwrap())).collect(),
    ];
    for weights in views {
        let experts: Vec<Expert<'_, bf16>> =
            weights.into_iter().zip(&biases).map(|(weight, b)| Expert { weight, bias: Some(Bias::F32(b)) }).collect();
        let run = |kind, list: &[i64]| {
            let groups = decode(kind, list, 3, 3).unwrap();
            let mut out = bf(&[POISON; 6]);
            let x = Mat::row_major(&x, 3, 2).unwrap();
            grouped_gemm(x, &experts, &groups, MatMut::row_major(&mut out, 3, 2).unwrap()).unwrap();
            up(&out)
        };
        let expected = [1.5, 1.5, 11.0, 0.0, 17.0, 0.0];
        assert_eq!(run(GroupListKind::Count, &[1, 0, 2]), expected);
        assert_eq!(run(GroupListKind::Cumsum, &[1, 1, 3]), expected);
        assert_eq!(run(GroupListKind::KeyValue, &[0, 1, 2, 2, 1, 0]), expected);
        assert_eq!(run(GroupListKind::Count, &[1, 0, 1]), [1.5, 1.5, 11.0, 0.0, POISON, POISON]);
    }
}

#[test]
fn swiglu_halves() {
    let x = [0.0, 1.0, -1.0, 12.0, 3.0, 2.0, 4.0, -20.0];
    let mut out = [POISON; 4];
    swiglu(&x, &[8], 0, &mut out).unwrap();
    near(&out, &[0.0, 1.4621172, -1.0757656, -239.9985]);
    // The same along the first of two axes: the columns are interleaved.
    let columns: Vec<f32> = (0..4).flat_map(|i| [x[i], 0.5]).chain((4..8).flat_map(|i| [x[i], 2.0])).collect();
    let mut wide = [POISON; 8];
    swiglu(&columns, &[8, 2], 0, &mut wide).unwrap();
    same(&wide.iter().step_by(2).copied().collect::<Vec<f32>>(), &out);
}

#[test]
fn clipped_swiglu_by_halves_and_interleaved() {
    let halves = Clipped { alpha: 1.0, limit: 10.0, bias: 0.0, interleaved: false };
    let mut out = [POISON; 4];
    clipped_swiglu(&[0.0, 1.0, -1.0, 12.0, 3.0, 2.0, 4.0, -20.0], 4, 1, halves, &mut out).unwrap();
    near(&out, &[0.0, 1.4621172, -1.0757656, -99.99546]);
    let interleaved = Clipped { alpha: 1.702, limit: 7.0, bias: 1.0, interleaved: true };
    clipped_swiglu(&[0.0, 3.0, 1.0, 2.0, -1.0, 4.0, 12.0, -20.0], 4, 1, interleaved, &mut out).unwrap();
    near(&out, &[0.0, 2.5373874, -0.7710212, -41.999718]);
}

#[test]
fn fractal_nz_offsets() {
    let layout = NzLayout::new(3, 20, 2).unwrap();
    assert_eq!((layout.storage_shape(), layout.storage_len()), ([2, 1, 16, 16], 512));
    let matrix: Vec<f32> = (0..60).map(|i| i as f32).collect();
    let matrix = bf(&matrix);
    let mut storage = bf(&[POISON; 512]);
    pack(&NdView::contiguous(&matrix, &[3, 20]).unwrap(), &mut storage).unwrap();
    for (offset, value) in [
        (0, 0.0),
        (1, 1.0),
        (15, 15.0),
        (16, 20.0),
        (17, 21.0),
        (32, 40.0),
        (48, 0.0),
        (256, 16.0),
        (259, 19.0),
        (260, 0.0),
        (272, 36.0),
        (288, 56.0),
    ] {
        assert_eq!(storage[offset].to_f32(), value, "offset {offset}");
    }
    assert_eq!(layout.offset(1, 16), Some(272));
    assert_eq!(layout.offset(3, 0), None);
    let mut back = bf(&[POISON; 60]);
    unpack(&storage, &[3, 20], &mut back).unwrap();
    same(&back, &matrix);
}

#[test]
fn fractal_nz_of_int4_pairs_is_that_of_their_bytes() {
    // Eight int4 in four bytes, even index in the low nibble; 64 int4 make 32 bytes, one block of columns.
    let bytes: Vec<u8> = vec![0x78, 0x0f, 0xc3, 0x21];
    let mut storage = vec![0xaau8; 16 * 32];
    pack(&NdView::contiguous(&bytes, &[1, 4]).unwrap(), &mut storage).unwrap();
    assert_eq!(storage[..4], bytes);
    assert!(storage[4..].iter().all(|b| *b == 0));
    assert_eq!(NzLayout::new(448 * 16, 128 * 32, 1).unwrap().storage_shape(), [128, 448, 16, 32]);
    assert_eq!(NzLayout::new(1, 9, 4).unwrap().storage_shape(), [2, 1, 16, 8]);
}
