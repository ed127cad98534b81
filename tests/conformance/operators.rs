//! A few operators one by one, on inputs small enough to follow by hand. The safe layer's own tests have more; these
//! show that every filling computes what they show of the simulator in process.

use ascend_moe::op::{
    self, DropPadMode, ExpandedRows, FinalizeRouting, GatingTopK, GroupListKind, GroupScore, GroupedMatmul, Groups,
    InitRouting, InitRoutingOutputs, Normalisation,
};
use ascend_moe::{DType, Element, Release, Tensor};
use half::bf16;

use crate::fillings::Rig;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("operators::cast_rounds_to_even", cast_rounds_to_even),
        case("operators::gating", gating),
        case("operators::expand", expand),
        case("operators::grouped_product", grouped_product),
        case("operators::swiglu", swiglu),
        case("operators::combine", combine),
        case("operators::expand_then_combine_is_the_identity", expand_then_combine_is_the_identity),
    ]
}

fn tensor<T: Element>(rig: &Rig, values: &[T], shape: &[usize]) -> Tensor {
    Tensor::from_slice(&rig.device, values, shape).unwrap()
}

fn zeros(rig: &Rig, dtype: DType, shape: &[usize]) -> Tensor {
    Tensor::zeros(&rig.device, dtype, shape).unwrap()
}

fn bf(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|&value| bf16::from_f32(value)).collect()
}

/// Values that went through a power or a division of the operator's choice.
fn assert_close(found: &[f32], due: &[f32]) {
    assert_eq!(found.len(), due.len());
    for (found, due) in found.iter().zip(due) {
        assert!((found - due).abs() <= 1e-6 * due.abs(), "{found}, due {due}");
    }
}

fn cast_rounds_to_even(rig: &Rig) {
    let unit = 2f32.powi(-8);
    let x = tensor(rig, &[1.0 + unit, 1.0 + 1.5 * unit, 1.0 + 3.0 * unit, -1.0 - unit], &[4]);
    let mut out = zeros(rig, DType::Bf16, &[4]);
    op::cast(&rig.stream.sequence().unwrap(), &x.view(), &mut out.view_mut()).unwrap();
    assert_eq!(out.to_vec::<bf16>(&rig.stream).unwrap(), bf(&[1.0, 1.0078125, 1.015625, -1.0]));
}

fn gating(rig: &Rig) {
    let run = |logits: &[f32], bias: Option<&[f32]>, params: &GatingTopK| {
        let (tokens, experts) = (logits.len() / 4, 4);
        let logits = tensor(rig, logits, &[tokens, experts]);
        let bias = bias.map(|bias| tensor(rig, bias, &[experts]));
        let mut weights = zeros(rig, DType::F32, &[tokens, 2]);
        let mut ids = zeros(rig, DType::I32, &[tokens, 2]);
        let bias = bias.as_ref().map(Tensor::view);
        let (mut weights_out, mut ids_out) = (weights.view_mut(), ids.view_mut());
        let sequence = rig.stream.sequence().unwrap();
        let (logits, bias) = (logits.view(), bias.as_ref());
        op::moe_gating_top_k(&sequence, &logits, bias, params, &mut weights_out, &mut ids_out, None).unwrap();
        drop(sequence);
        (ids.to_vec::<i32>(&rig.stream).unwrap(), weights.to_vec::<f32>(&rig.stream).unwrap())
    };
    let sigmoid = GatingTopK {
        k: 2,
        groups: 1,
        kept_groups: 1,
        group_score: GroupScore::Max,
        renormalise: false,
        normalisation: Normalisation::Sigmoid,
        scale: 2.5,
        eps: 1e-20,
    };
    // Ties go to the lower expert; the bias chooses and does not weigh.
    let (ids, weights) = run(&[0., 0., 0., 0., 1., -1., 1., 2.], Some(&[0.0, 0.0, 0.5, 0.0]), &sigmoid);
    assert_eq!(ids, [2, 0, 2, 3]);
    assert_close(&weights, &[1.25, 1.25, 1.133_877_3, 1.366_122_7]);

    let softmax = GatingTopK { normalisation: Normalisation::Softmax, scale: 1.0, ..sigmoid };
    let logits = [0.0, 2f32.ln(), 3f32.ln(), 0.0];
    let (ids, weights) = run(&logits, None, &softmax);
    assert_eq!(ids, [2, 1]);
    assert_close(&weights, &[3.0 / 7.0, 2.0 / 7.0]);
    if rig.cann.release() >= Release::new(9, 0, 0) {
        let (_, weights) = run(&logits, None, &GatingTopK { renormalise: true, ..softmax });
        assert_close(&weights, &[0.6, 0.4]);
    }
}

/// Rows by expert, their places, and the counts.
fn expanded(rig: &Rig, x: &Tensor, ids: &Tensor, experts: usize) -> (Tensor, Tensor, Tensor) {
    let [tokens, hidden, k] = [x.shape()[0], x.shape()[1], ids.shape()[1]].map(|dim| dim as usize);
    let mut rows = zeros(rig, x.dtype(), &[tokens * k, hidden]);
    let mut row_idx = zeros(rig, DType::I32, &[tokens * k]);
    let mut counts = zeros(rig, DType::I64, &[experts]);
    let outputs = InitRoutingOutputs {
        expanded_x: &mut rows.view_mut(),
        row_idx: &mut row_idx.view_mut(),
        counts: &mut counts.view_mut(),
        scale: None,
    };
    let sequence = rig.stream.sequence().unwrap();
    op::moe_init_routing_v3(
        &sequence,
        &x.view(),
        &ids.view(),
        ExpandedRows::Copied(None),
        &InitRouting::dropless(experts),
        outputs,
    )
    .unwrap();
    drop(sequence);
    (rows, row_idx, counts)
}

fn expand(rig: &Rig) {
    let x = tensor(rig, &[1f32, 2., 3., 4., 5., 6.], &[3, 2]);
    let ids = tensor(rig, &[2i32, 0, 1, 2, 3, 2], &[3, 2]);
    let (rows, row_idx, counts) = expanded(rig, &x, &ids, 4);
    assert_eq!(rows.to_vec::<f32>(&rig.stream).unwrap(), [1., 2., 3., 4., 1., 2., 3., 4., 5., 6., 5., 6.]);
    assert_eq!(row_idx.to_vec::<i32>(&rig.stream).unwrap(), [2, 0, 1, 3, 5, 4]);
    assert_eq!(counts.to_vec::<i64>(&rig.stream).unwrap(), [1, 1, 3, 1]);
}

/// Identity, a weight that no row meets, and `[[2, 1], [1, -1]]`, each with a bias.
fn grouped_product(rig: &Rig) {
    let x = tensor(rig, &bf(&[1., 2., 3., 4., 5., 6.]), &[3, 2]);
    let weight = tensor(rig, &bf(&[1., 0., 0., 1., 9., 9., 9., 9., 2., 1., 1., -1.]), &[3, 2, 2]);
    let bias = tensor(rig, &[0.5f32, -0.5, 0., 0., 1., 1.], &[3, 2]);
    let counts = tensor(rig, &[1i64, 0, 2], &[3]);
    let mut out = zeros(rig, DType::Bf16, &[3, 2]);
    let list = counts.view();
    let inputs = GroupedMatmul {
        x: &[x.view()],
        weight: &[weight.view()],
        bias: &[bias.view()],
        groups: Groups::Rows { list: &list, kind: GroupListKind::Count },
    };
    op::grouped_matmul(&rig.stream.sequence().unwrap(), &inputs, &mut [out.view_mut()]).unwrap();
    assert_eq!(out.to_vec::<bf16>(&rig.stream).unwrap(), bf(&[1.5, 1.5, 11., 0., 17., 0.]));
}

fn swiglu(rig: &Rig) {
    let x = tensor(rig, &[0f32, 1., -1., 12., 3., 2., 4., -20.], &[1, 8]);
    let mut out = zeros(rig, DType::F32, &[1, 4]);
    op::swiglu(&rig.stream.sequence().unwrap(), &x.view(), -1, &mut out.view_mut()).unwrap();
    assert_close(&out.to_vec::<f32>(&rig.stream).unwrap(), &[0.0, 1.462_117_2, -1.075_765_6, -239.998_53]);
}

fn combine(rig: &Rig) {
    let rows = tensor(rig, &[1f32, 2., 3., 4., 5., 6., 7., 8.], &[4, 2]);
    let weights = tensor(rig, &[0.5f32, 0.25, 1., 2.], &[2, 2]);
    let shared = tensor(rig, &[100f32, 200., 300., 400.], &[2, 2]);
    let row_idx = tensor(rig, &[2i32, 0, 1, 3], &[4]);
    let mut out = zeros(rig, DType::F32, &[2, 2]);
    let inputs = FinalizeRouting {
        expanded_x: rows.view(),
        row_idx: row_idx.view(),
        x1: Some(shared.view()),
        x2: None,
        bias: None,
        scales: Some(weights.view()),
        expert_idx: None,
        mode: DropPadMode::DroplessByRow,
    };
    op::moe_finalize_routing_v2(&rig.stream.sequence().unwrap(), &inputs, &mut out.view_mut()).unwrap();
    assert_eq!(out.to_vec::<f32>(&rig.stream).unwrap(), [102.75, 203.5, 317., 420.]);

    // A slot of weight 0 is not read.
    let rows = tensor(rig, &[1f32, 10., 2., 20., f32::NAN, f32::NAN, 4., 40.], &[4, 2]);
    let weights = tensor(rig, &[0.5f32, 0.25, 0., 1.], &[2, 2]);
    let row_idx = tensor(rig, &[0i32, 3, 2, 1], &[4]);
    let mut out = zeros(rig, DType::F32, &[2, 2]);
    let (rows, row_idx, weights) = (rows.view(), row_idx.view(), weights.view());
    let sequence = rig.stream.sequence().unwrap();
    op::moe_token_unpermute(&sequence, &rows, &row_idx, Some(&weights), &mut out.view_mut()).unwrap();
    drop(sequence);
    assert_eq!(out.to_vec::<f32>(&rig.stream).unwrap(), [1.5, 15., 2., 20.]);
}

/// Weights that add up to 1 exactly give every token back, whichever of the two operators combines.
fn expand_then_combine_is_the_identity(rig: &Rig) {
    const TOKENS: usize = 67;
    const HIDDEN: usize = 48;
    const EXPERTS: usize = 7;
    let values: Vec<f32> = (0..TOKENS * HIDDEN).map(|i| (i * 37 % 1009) as f32 - 500.0).collect();
    let ids: Vec<i32> =
        (0..TOKENS).flat_map(|t| [(t * t) % EXPERTS, (t * t + 1 + t % 5) % EXPERTS]).map(|id| id as i32).collect();
    let x = tensor(rig, &values, &[TOKENS, HIDDEN]);
    let ids = tensor(rig, &ids, &[TOKENS, 2]);
    let weights = tensor(rig, &[0.25f32, 0.75].repeat(TOKENS), &[TOKENS, 2]);
    let (rows, row_idx, counts) = expanded(rig, &x, &ids, EXPERTS);
    assert_eq!(counts.to_vec::<i64>(&rig.stream).unwrap().iter().sum::<i64>(), 2 * TOKENS as i64);
    let mut out = zeros(rig, DType::F32, &[TOKENS, HIDDEN]);
    let inputs = FinalizeRouting {
        expanded_x: rows.view(),
        row_idx: row_idx.view(),
        x1: None,
        x2: None,
        bias: None,
        scales: Some(weights.view()),
        expert_idx: None,
        mode: DropPadMode::DroplessByRow,
    };
    op::moe_finalize_routing_v2(&rig.stream.sequence().unwrap(), &inputs, &mut out.view_mut()).unwrap();
    assert_eq!(out.to_vec::<f32>(&rig.stream).unwrap(), values);
    let mut out = zeros(rig, DType::F32, &[TOKENS, HIDDEN]);
    let (rows, row_idx, weights) = (rows.view(), row_idx.view(), weights.view());
    let sequence = rig.stream.sequence().unwrap();
    op::moe_token_unpermute(&sequence, &rows, &row_idx, Some(&weights), &mut out.view_mut()).unwrap();
    drop(sequence);
    assert_eq!(out.to_vec::<f32>(&rig.stream).unwrap(), values);
}
