//! Every operator on small numbers, worked out by hand from its definition.

use ascend_moe::op::{
    self, CubeMath, DropPadMode, ExpandedRows, FinalizeRouting, GatingTopK, GroupListKind, GroupScore, GroupedMatmul,
    Groups, InitRouting, InitRoutingOutputs, Normalisation, RowIndex, TokenCounts,
};
use ascend_moe::{DType, Element, Sequence, Tensor, TensorView};
use ascend_sys::OperatorId;
use half::bf16;

use crate::rig::Rig;

pub(crate) fn tensor<T: Element>(rig: &Rig, values: &[T], shape: &[usize]) -> Tensor {
    Tensor::from_slice(&rig.device, values, shape).unwrap()
}

pub(crate) fn zeros(rig: &Rig, dtype: DType, shape: &[usize]) -> Tensor {
    Tensor::zeros(&rig.device, dtype, shape).unwrap()
}

pub(crate) fn read<T: Element>(rig: &Rig, tensor: &Tensor) -> Vec<T> {
    tensor.to_vec(&rig.stream).unwrap()
}

pub(crate) fn bf(values: &[f32]) -> Vec<bf16> {
    values.iter().copied().map(bf16::from_f32).collect()
}

/// Equal up to a relative difference of 1e-6.
pub(crate) fn near(found: &[f32], due: &[f32]) {
    assert_eq!(found.len(), due.len());
    for (found, due) in found.iter().zip(due) {
        assert!((found - due).abs() <= due.abs() * 1e-6, "{found} where {due} is due");
    }
}

#[test]
fn elementwise() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let a = tensor(&rig, &[1.0f32, 2.0, 3.0, 4.0], &[2, 2]);
    let row = tensor(&rig, &[10.0f32, 20.0], &[2]);
    let mut out = zeros(&rig, DType::F32, &[2, 2]);
    op::add(&sequence, &a.view(), &row.view(), 0.5, &mut out.view_mut()).unwrap();
    assert_eq!(read::<f32>(&rig, &out), [6.0, 12.0, 8.0, 14.0]);
    op::mul(&sequence, &a.view().transpose().unwrap(), &row.view(), &mut out.view_mut()).unwrap();
    assert_eq!(read::<f32>(&rig, &out), [10.0, 60.0, 20.0, 80.0]);
    op::muls(&sequence, &a.view(), 2.5, &mut out.view_mut()).unwrap();
    assert_eq!(read::<f32>(&rig, &out), [2.5, 5.0, 7.5, 10.0]);
    let (x, y) = (tensor(&rig, &[1i64, 2], &[2]), tensor(&rig, &[5i64, 7], &[2]));
    let mut sum = zeros(&rig, DType::I64, &[2]);
    op::add(&sequence, &x.view(), &y.view(), -3.0, &mut sum.view_mut()).unwrap();
    assert_eq!(read::<i64>(&rig, &sum), [-14, -19]);

    // Ties go to even: 1 + 2^-8, and 1 + 3 * 2^-8.
    let x = tensor(&rig, &[1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -2.0f32], &[3]);
    let mut narrow = zeros(&rig, DType::Bf16, &[3]);
    op::cast(&sequence, &x.view(), &mut narrow.view_mut()).unwrap();
    assert_eq!(read::<bf16>(&rig, &narrow), bf(&[1.0, 1.015625, -2.0]));
}

#[test]
fn products() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let a = tensor(&rig, &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[3, 2]);
    let b = tensor(&rig, &[2.0f32, 1.0, 1.0, -1.0], &[2, 2]);
    let mut out = zeros(&rig, DType::F32, &[3, 2]);
    op::mm(&sequence, &a.view(), &b.view(), CubeMath::KeepDType, &mut out.view_mut()).unwrap();
    assert_eq!(read::<f32>(&rig, &out), [4.0, -1.0, 10.0, -1.0, 16.0, -1.0]);
    // A transposed view, and rows of a tensor.
    op::mm(&sequence, &a.view(), &b.view().transpose().unwrap(), CubeMath::KeepDType, &mut out.view_mut()).unwrap();
    assert_eq!(read::<f32>(&rig, &out), [4.0, -1.0, 10.0, -1.0, 16.0, -1.0]);
    let rows = a.view().rows(1..3).unwrap();
    let mut target = zeros(&rig, DType::F32, &[3, 2]);
    let mut part = target.view_mut().rows(0..2).unwrap();
    op::mm(&sequence, &rows, &b.view(), CubeMath::KeepDType, &mut part).unwrap();
    assert_eq!(read::<f32>(&rig, &target), [10.0, -1.0, 16.0, -1.0, 0.0, 0.0]);
    // Half precision in, single out.
    let (x, w) = (tensor(&rig, &bf(&[1.0, 2.0]), &[1, 2]), tensor(&rig, &bf(&[3.0, 4.0]), &[2, 1]));
    let mut wide = zeros(&rig, DType::F32, &[1, 1]);
    op::mm(&sequence, &x.view(), &w.view(), CubeMath::KeepDType, &mut wide.view_mut()).unwrap();
    assert_eq!(read::<f32>(&rig, &wide), [11.0]);
    // Leading dimensions broadcast.
    let batch = tensor(&rig, &[1.0f32, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0], &[2, 2, 2]);
    let mut out = zeros(&rig, DType::F32, &[2, 2, 2]);
    op::matmul(&sequence, &batch.view(), &b.view(), CubeMath::KeepDType, &mut out.view_mut()).unwrap();
    assert_eq!(read::<f32>(&rig, &out), [2.0, 1.0, 1.0, -1.0, 1.0, -1.0, 2.0, 1.0]);
}

#[test]
fn swiglu_halves_the_last_dimension() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let x = tensor(&rig, &[0.0f32, 1.0, -1.0, 12.0, 3.0, 2.0, 4.0, -20.0], &[1, 8]);
    let mut out = zeros(&rig, DType::F32, &[1, 4]);
    op::swiglu(&sequence, &x.view(), -1, &mut out.view_mut()).unwrap();
    near(&read(&rig, &out), &[0.0, 1.462_117_2, -1.075_765_7, -239.998_53]);
}

struct Routed {
    experts: Vec<i32>,
    weights: Vec<f32>,
    scores: Option<Vec<f32>>,
}

fn gate(rig: &Rig, logits: &[f32], tokens: usize, bias: Option<&[f32]>, params: &GatingTopK, scores: bool) -> Routed {
    let sequence = rig.stream.sequence().unwrap();
    let experts = logits.len() / tokens;
    let logits = tensor(rig, logits, &[tokens, experts]);
    let bias = bias.map(|bias| tensor(rig, bias, &[experts]));
    let mut weights = zeros(rig, DType::F32, &[tokens, params.k]);
    let mut chosen = zeros(rig, DType::I32, &[tokens, params.k]);
    let mut all = zeros(rig, DType::F32, &[tokens, experts]);
    op::moe_gating_top_k(
        &sequence,
        &logits.view(),
        bias.as_ref().map(Tensor::view).as_ref(),
        params,
        &mut weights.view_mut(),
        &mut chosen.view_mut(),
        scores.then_some(&mut all.view_mut()),
    )
    .unwrap();
    drop(sequence);
    Routed { experts: read(rig, &chosen), weights: read(rig, &weights), scores: scores.then(|| read(rig, &all)) }
}

const SIGMOID: GatingTopK = GatingTopK {
    k: 2,
    groups: 1,
    kept_groups: 1,
    group_score: GroupScore::Max,
    renormalise: false,
    normalisation: Normalisation::Sigmoid,
    scale: 2.5,
    eps: 1e-20,
};

#[test]
fn gating_by_sigmoid_with_a_bias() {
    let rig = Rig::new();
    let logits = [0.0, 0.0, 0.0, 0.0, 1.0, -1.0, 1.0, 2.0];
    let biased = gate(&rig, &logits, 2, Some(&[0.0, 0.0, 0.5, 0.0]), &SIGMOID, true);
    assert_eq!(biased.experts, [2, 0, 2, 3]);
    near(&biased.weights, &[1.25, 1.25, 1.133_877_3, 1.366_122_7]);
    near(&biased.scores.unwrap(), &[0.5, 0.5, 0.5, 0.5, 0.731_058_6, 0.268_941_43, 0.731_058_6, 0.880_797_1]);
    let plain = gate(&rig, &logits, 2, None, &SIGMOID, false);
    assert_eq!(plain.experts, [0, 1, 3, 0]);
    near(&plain.weights, &[1.25, 1.25, 1.366_122_7, 1.133_877_3]);
}

#[test]
fn gating_by_groups() {
    let rig = Rig::new();
    let logits = [2.0, -2.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0];
    let params = GatingTopK { k: 3, groups: 4, kept_groups: 2, scale: 1.0, ..SIGMOID };
    let two = gate(&rig, &logits, 1, None, &GatingTopK { group_score: GroupScore::TopTwo, ..params }, false);
    assert_eq!(two.experts, [2, 3, 6]);
    near(&two.weights, &[1.0 / 3.0; 3]);
    let max = gate(&rig, &logits, 1, None, &params, false);
    assert_eq!(max.experts, [0, 2, 3]);
    near(&max.weights, &[0.375_940_8, 0.312_029_6, 0.312_029_6]);
}

#[test]
fn gating_by_softmax() {
    let rig = Rig::new();
    let logits = [0.0, 2f32.ln(), 3f32.ln(), 0.0];
    let params = GatingTopK { normalisation: Normalisation::Softmax, scale: 1.0, ..SIGMOID };
    let plain = gate(&rig, &logits, 1, None, &params, false);
    assert_eq!(plain.experts, [2, 1]);
    near(&plain.weights, &[3.0 / 7.0, 2.0 / 7.0]);
    let renormalised = gate(&rig, &logits, 1, None, &GatingTopK { renormalise: true, ..params }, false);
    near(&renormalised.weights, &[0.6, 0.4]);
}

/// What expansion writes, -7 where nothing.
pub(crate) struct Expanded {
    pub(crate) x: Vec<f32>,
    pub(crate) rows: Vec<i32>,
    pub(crate) counts: Vec<i64>,
    pub(crate) scale: Vec<f32>,
}

/// Sends the first tokens of `[[1,2],[3,4],[5,6]]` to two experts each.
pub(crate) fn expand(rig: &Rig, params: &InitRouting, ids: &[i32], scale: Option<&[f32]>) -> Expanded {
    let sequence = rig.stream.sequence().unwrap();
    let tokens = ids.len() / 2;
    let x = tensor(rig, &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0][..ids.len()], &[tokens, 2]);
    let ids = tensor(rig, ids, &[tokens, 2]);
    let scale = scale.map(|scale| tensor(rig, scale, &[tokens]));
    let shape: &[usize] = match params.capacity {
        Some(capacity) => &[params.experts, capacity, 2],
        None => &[2 * tokens, 2],
    };
    let counted = params.range.1 - params.range.0;
    let counts: &[usize] = if params.counts == TokenCounts::KeyValue { &[params.experts, 2] } else { &[counted] };
    // What is not written keeps its poison.
    let mut expanded = tensor(rig, &vec![-7.0f32; shape.iter().product()], shape);
    let mut rows = tensor(rig, &vec![-7i32; 2 * tokens], &[2 * tokens]);
    let mut counts = tensor(rig, &vec![-7i64; counts.iter().product()], counts);
    let mut carried = tensor(rig, &vec![-7.0f32; 2 * tokens], &[2 * tokens]);
    let (mut expanded_x, mut row_idx) = (expanded.view_mut(), rows.view_mut());
    let (mut counted, mut expanded_scale) = (counts.view_mut(), carried.view_mut());
    let outputs = InitRoutingOutputs {
        expanded_x: &mut expanded_x,
        row_idx: &mut row_idx,
        counts: &mut counted,
        scale: scale.is_some().then_some(&mut expanded_scale),
    };
    let scale = scale.as_ref().map(Tensor::view);
    op::moe_init_routing_v3(&sequence, &x.view(), &ids.view(), ExpandedRows::Copied(scale.as_ref()), params, outputs)
        .unwrap();
    drop(sequence);
    Expanded { x: read(rig, &expanded), rows: read(rig, &rows), counts: read(rig, &counts), scale: read(rig, &carried) }
}

/// Experts of three tokens, of 4.
pub(crate) const IDS: [i32; 6] = [2, 0, 1, 2, 3, 2];

#[test]
fn expansion_without_drops() {
    let rig = Rig::new();
    let all = expand(&rig, &InitRouting::dropless(4), &IDS, None);
    assert_eq!(all.x, [1., 2., 3., 4., 1., 2., 3., 4., 5., 6., 5., 6.]);
    assert_eq!(all.rows, [2, 0, 1, 3, 5, 4]);
    assert_eq!(all.counts, [1, 1, 3, 1]);
    let cumsum = expand(&rig, &InitRouting { counts: TokenCounts::Cumsum, ..InitRouting::dropless(4) }, &IDS, None);
    assert_eq!(cumsum.counts, [1, 2, 5, 6]);
    let pairs = expand(&rig, &InitRouting { counts: TokenCounts::KeyValue, ..InitRouting::dropless(4) }, &IDS, None);
    assert_eq!(pairs.counts, [0, 1, 1, 1, 2, 3, 3, 1]);
}

#[test]
fn expansion_for_a_range_of_experts() {
    let rig = Rig::new();
    let some = InitRouting { range: (1, 4), ..InitRouting::dropless(4) };
    let gather = expand(&rig, &some, &IDS, Some(&[10.0, 20.0, 30.0]));
    assert_eq!(gather.x[..10], [3., 4., 1., 2., 3., 4., 5., 6., 5., 6.]);
    assert_eq!(gather.rows, [1, -1, 0, 2, 4, 3]);
    assert_eq!(gather.counts, [1, 3, 1]);
    assert_eq!(gather.scale[..5], [20.0, 10.0, 20.0, 30.0, 30.0]);
    assert_eq!((gather.x[10], gather.scale[5]), (-7.0, -7.0), "rows behind the last one are not written");
    let scatter = expand(&rig, &InitRouting { row_index: RowIndex::Scatter, ..some }, &IDS, None);
    assert_eq!(scatter.rows[..5], [2, 0, 3, 5, 4]);
    let few = expand(&rig, &InitRouting { range: (0, 2), ..some }, &IDS, None);
    assert_eq!((few.rows.as_slice(), few.counts.as_slice()), ([-1, 0, 1, -1, -1, -1].as_slice(), [1, 1].as_slice()));
}

#[test]
fn expansion_with_a_capacity() {
    let rig = Rig::new();
    let params = InitRouting { capacity: Some(2), ..InitRouting::dropless(3) };
    let padded = expand(&rig, &params, &[0, 1, 0, 2, 0, 1], None);
    assert_eq!(padded.x, [1., 2., 3., 4., 1., 2., 5., 6., 3., 4., 0., 0.]);
    assert_eq!(padded.rows, [0, 2, 1, 4, -1, 3]);
    assert_eq!(padded.counts, [3, 2, 1], "counted before the capacity");
}

/// x `[[1,2],[3,4],[5,6]]`; weights: identity, all 9, `[[2,1],[1,-1]]`; a bias each.
pub(crate) struct Experts {
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
}

pub(crate) fn experts(rig: &Rig) -> Experts {
    let weight = [1., 0., 0., 1., 9., 9., 9., 9., 2., 1., 1., -1.];
    Experts {
        x: tensor(rig, &bf(&[1., 2., 3., 4., 5., 6.]), &[3, 2]),
        weight: tensor(rig, &bf(&weight), &[3, 2, 2]),
        bias: tensor(rig, &[0.5f32, -0.5, 0., 0., 1., 1.], &[3, 2]),
    }
}

pub(crate) fn multiply(
    sequence: &Sequence<'_>,
    operands: &Experts,
    list: &Tensor,
    kind: GroupListKind,
    out: &mut Tensor,
) -> ascend_moe::Result<OperatorId> {
    let inputs = GroupedMatmul {
        x: &[operands.x.view()],
        weight: &[operands.weight.view()],
        bias: &[operands.bias.view()],
        groups: Groups::Rows { list: &list.view(), kind },
    };
    op::grouped_matmul(sequence, &inputs, &mut [out.view_mut()])
}

pub(crate) const EXPECTED: [f32; 6] = [1.5, 1.5, 11.0, 0.0, 17.0, 0.0];

#[test]
fn grouped_product_by_every_kind_of_list() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let operands = experts(&rig);
    let lists = [
        (GroupListKind::Count, tensor(&rig, &[1i64, 0, 2], &[3])),
        (GroupListKind::Cumsum, tensor(&rig, &[1i64, 1, 3], &[3])),
        (GroupListKind::KeyValue, tensor(&rig, &[0i64, 1, 2, 2, 1, 0], &[3, 2])),
    ];
    for (kind, list) in &lists {
        let mut out = zeros(&rig, DType::Bf16, &[3, 2]);
        assert_eq!(multiply(&sequence, &operands, list, *kind, &mut out).unwrap(), OperatorId::GroupedMatmulV5);
        assert_eq!(read::<bf16>(&rig, &out), bf(&EXPECTED), "{kind:?}");
    }
    // Rows of no group are not written.
    let mut out = tensor(&rig, &bf(&[-7.0; 6]), &[3, 2]);
    let list = tensor(&rig, &[1i64, 0, 1], &[3]);
    multiply(&sequence, &operands, &list, GroupListKind::Count, &mut out).unwrap();
    assert_eq!(read::<bf16>(&rig, &out), bf(&[1.5, 1.5, 11.0, 0.0, -7.0, -7.0]));
}

#[test]
fn grouped_product_with_transposed_weights_and_lists() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let operands = experts(&rig);
    let counts = tensor(&rig, &[1i64, 0, 2], &[3]);
    let list = counts.view();
    let groups = Groups::Rows { list: &list, kind: GroupListKind::Count };
    let run = |weight: &[TensorView<'_>], bias: &[TensorView<'_>]| {
        let mut out = zeros(&rig, DType::Bf16, &[3, 2]);
        let inputs = GroupedMatmul { x: &[operands.x.view()], weight, bias, groups };
        op::grouped_matmul(&sequence, &inputs, &mut [out.view_mut()]).unwrap();
        assert_eq!(read::<bf16>(&rig, &out), bf(&EXPECTED));
    };
    // [E, N, K] in memory; one of the weights is not symmetric.
    let swapped = tensor(&rig, &bf(&[1., 0., 0., 1., 9., 9., 9., 9., 2., 1., 1., -1.]), &[3, 2, 2]);
    run(&[swapped.view().transpose().unwrap()], &[operands.bias.view()]);
    // One weight and one bias per expert.
    let each: Vec<Tensor> = [[1., 0., 0., 1.], [9.; 4], [2., 1., 1., -1.]]
        .iter()
        .map(|weight| tensor(&rig, &bf(weight), &[2, 2]))
        .collect();
    let biases: Vec<Tensor> =
        [[0.5f32, -0.5], [0., 0.], [1., 1.]].iter().map(|bias| tensor(&rig, bias, &[2])).collect();
    let (each, biases): (Vec<_>, Vec<_>) =
        (each.iter().map(Tensor::view).collect(), biases.iter().map(Tensor::view).collect());
    run(&each, &biases);

    // Without groups the lists are multiplied pair by pair.
    let second = tensor(&rig, &bf(&[10., 20.]), &[1, 2]);
    let (mut first_out, mut second_out) = (zeros(&rig, DType::Bf16, &[3, 2]), zeros(&rig, DType::Bf16, &[1, 2]));
    let inputs = GroupedMatmul {
        x: &[operands.x.view(), second.view()],
        weight: &[each[2], each[0]],
        bias: &[],
        groups: Groups::Tensors,
    };
    op::grouped_matmul(&sequence, &inputs, &mut [first_out.view_mut(), second_out.view_mut()]).unwrap();
    assert_eq!(read::<bf16>(&rig, &first_out), bf(&[4., -1., 10., -1., 16., -1.]));
    assert_eq!(read::<bf16>(&rig, &second_out), bf(&[10., 20.]));
}

/// Weights `[2, 32, 16]` of small whole numbers, and x `[3, 32]`, two rows for the first and one for the second expert.
struct Packed {
    values: Vec<f32>,
    x: Tensor,
    counts: Tensor,
}

const PACKED: [usize; 3] = [2, 32, 16];

impl Packed {
    fn new(rig: &Rig) -> Self {
        let values: Vec<f32> = (0..PACKED.iter().product()).map(|i: usize| (i % 13) as f32 - 6.0).collect();
        let x: Vec<f32> = (0..3 * PACKED[1]).map(|i| (i % 5) as f32 - 2.0).collect();
        Self { values, x: tensor(rig, &bf(&x), &[3, PACKED[1]]), counts: tensor(rig, &[2i64, 1], &[2]) }
    }

    fn multiply(&self, rig: &Rig, sequence: &Sequence<'_>, weight: TensorView<'_>) -> Vec<bf16> {
        let mut out = zeros(rig, DType::Bf16, &[3, PACKED[2]]);
        let groups = Groups::Rows { list: &self.counts.view(), kind: GroupListKind::Count };
        let inputs = GroupedMatmul { x: &[self.x.view()], weight: &[weight], bias: &[], groups };
        op::grouped_matmul(sequence, &inputs, &mut [out.view_mut()]).unwrap();
        read::<bf16>(rig, &out)
    }
}

#[test]
fn grouped_product_with_packed_weights() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let packed = Packed::new(&rig);
    let plain = tensor(&rig, &bf(&packed.values), &PACKED);
    let mut blocks = Tensor::zeros_nz(&rig.device, DType::Bf16, &PACKED).unwrap();
    op::npu_format_cast(&sequence, &plain.view(), &mut blocks.view_mut()).unwrap();
    assert_eq!(packed.multiply(&rig, &sequence, blocks.view()), packed.multiply(&rig, &sequence, plain.view()));
    // There and back.
    let mut back = zeros(&rig, DType::Bf16, &PACKED);
    op::npu_format_cast(&sequence, &blocks.view(), &mut back.view_mut()).unwrap();
    assert_eq!(read::<bf16>(&rig, &back), bf(&packed.values));
}

#[test]
fn grouped_product_with_packed_and_transposed_weights() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let packed = Packed::new(&rig);
    let due = packed.multiply(&rig, &sequence, tensor(&rig, &bf(&packed.values), &PACKED).view());
    let [experts, k, n] = PACKED;
    let swapped: Vec<f32> =
        (0..experts * n * k).map(|i| packed.values[i / (n * k) * k * n + i % k * n + i / k % n]).collect();
    let swapped = tensor(&rig, &bf(&swapped), &[experts, n, k]);
    assert_eq!(packed.multiply(&rig, &sequence, swapped.view().transpose().unwrap()), due);
    let mut blocks = Tensor::zeros_nz(&rig.device, DType::Bf16, &[experts, n, k]).unwrap();
    op::npu_format_cast(&sequence, &swapped.view(), &mut blocks.view_mut()).unwrap();
    assert_eq!(packed.multiply(&rig, &sequence, blocks.view().transpose().unwrap()), due);
}

#[test]
fn combine_by_finalize_routing() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let expanded = tensor(&rig, &[1.0f32, 2., 3., 4., 5., 6., 7., 8.], &[4, 2]);
    let scales = tensor(&rig, &[0.5f32, 0.25, 1.0, 2.0], &[2, 2]);
    let x1 = tensor(&rig, &[100.0f32, 200., 300., 400.], &[2, 2]);
    let bias = tensor(&rig, &[10.0f32, 0., 0., 10., 1., 1.], &[3, 2]);
    let expert_idx = tensor(&rig, &[0i32, 1, 2, 0], &[2, 2]);
    let row_idx = tensor(&rig, &[2i32, 0, 1, 3], &[4]);
    let inputs = FinalizeRouting {
        expanded_x: expanded.view(),
        row_idx: row_idx.view(),
        x1: Some(x1.view()),
        x2: None,
        bias: Some(bias.view()),
        scales: Some(scales.view()),
        expert_idx: Some(expert_idx.view()),
        mode: DropPadMode::DroplessByRow,
    };
    let run = |inputs: &FinalizeRouting<'_>| {
        let mut out = zeros(&rig, DType::F32, &[2, 2]);
        op::moe_finalize_routing_v2(&sequence, inputs, &mut out.view_mut()).unwrap();
        read::<f32>(&rig, &out)
    };
    assert_eq!(run(&inputs), [107.75, 206., 338., 421.]);
    assert_eq!(run(&FinalizeRouting { mode: DropPadMode::DroplessByColumn, ..inputs }), [108.25, 206.5, 336., 419.]);
    let dropped = tensor(&rig, &[2i32, -1, -1, 3], &[4]);
    let padded = FinalizeRouting {
        expanded_x: expanded.view().reshape(&[2, 2, 2]).unwrap(),
        row_idx: dropped.view(),
        bias: None,
        expert_idx: None,
        mode: DropPadMode::PaddedByRow,
        ..inputs
    };
    assert_eq!(run(&padded), [102.5, 203., 314., 416.]);
}

#[test]
fn combine_by_unpermute() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    // The row of probability 0 is not read, and no index beyond the rows either.
    let permuted = tensor(&rig, &[1.0f32, 10., 2., 20., f32::NAN, f32::NAN, 4., 40.], &[4, 2]);
    let probs = tensor(&rig, &[0.5f32, 0.25, 0.0, 1.0], &[2, 2]);
    for indices in [[0i32, 3, 2, 1], [0, 3, 9, 1]] {
        let indices = tensor(&rig, &indices, &[4]);
        let mut out = zeros(&rig, DType::F32, &[2, 2]);
        op::moe_token_unpermute(&sequence, &permuted.view(), &indices.view(), Some(&probs.view()), &mut out.view_mut())
            .unwrap();
        assert_eq!(read::<f32>(&rig, &out), [1.5, 15., 2., 20.]);
    }
    let permuted = tensor(&rig, &bf(&[1., 3., 2., 5.]), &[2, 2]);
    let (indices, probs) = (tensor(&rig, &[0i32, 1], &[2]), tensor(&rig, &bf(&[0.3, 0.7]), &[1, 2]));
    let mut out = zeros(&rig, DType::Bf16, &[1, 2]);
    op::moe_token_unpermute(&sequence, &permuted.view(), &indices.view(), Some(&probs.view()), &mut out.view_mut())
        .unwrap();
    assert_eq!(read::<bf16>(&rig, &out), bf(&[1.703_125, 4.406_25]));
    // Without probabilities the rows are only put back.
    let mut out = zeros(&rig, DType::Bf16, &[2, 2]);
    op::moe_token_unpermute(&sequence, &permuted.view(), &indices.view(), None, &mut out.view_mut()).unwrap();
    assert_eq!(read::<bf16>(&rig, &out), bf(&[1., 3., 2., 5.]));
}

#[test]
fn without_tokens_nothing_is_called_but_counts_are_zero() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let none = |dtype, shape: &[usize]| zeros(&rig, dtype, shape);
    let (x, ids) = (none(DType::F32, &[0, 2]), none(DType::I32, &[0, 2]));
    let mut counts = tensor(&rig, &[5i64; 4], &[4]);
    let (mut expanded, mut rows) = (none(DType::F32, &[0, 2]), none(DType::I32, &[0]));
    let (mut expanded_x, mut row_idx, mut counted) = (expanded.view_mut(), rows.view_mut(), counts.view_mut());
    let outputs =
        InitRoutingOutputs { expanded_x: &mut expanded_x, row_idx: &mut row_idx, counts: &mut counted, scale: None };
    op::moe_init_routing_v3(
        &sequence,
        &x.view(),
        &ids.view(),
        ExpandedRows::Copied(None),
        &InitRouting::dropless(4),
        outputs,
    )
    .unwrap();
    assert_eq!(read::<i64>(&rig, &counts), [0; 4]);
    let w = none(DType::F32, &[2, 3]);
    op::mm(&sequence, &x.view(), &w.view(), CubeMath::KeepDType, &mut none(DType::F32, &[0, 3]).view_mut()).unwrap();
    op::swiglu(&sequence, &x.view(), -1, &mut none(DType::F32, &[0, 1]).view_mut()).unwrap();
    op::cast(&sequence, &x.view(), &mut none(DType::Bf16, &[0, 2]).view_mut()).unwrap();
    op::add(&sequence, &x.view(), &x.view(), 1.0, &mut none(DType::F32, &[0, 2]).view_mut()).unwrap();
    let (mut weights, mut chosen) = (none(DType::F32, &[0, 2]), none(DType::I32, &[0, 2]));
    let logits = none(DType::F32, &[0, 4]);
    op::moe_gating_top_k(
        &sequence,
        &logits.view(),
        None,
        &SIGMOID,
        &mut weights.view_mut(),
        &mut chosen.view_mut(),
        None,
    )
    .unwrap();
    let weight = none(DType::F32, &[4, 2, 3]);
    let inputs = GroupedMatmul {
        x: &[x.view()],
        weight: &[weight.view()],
        bias: &[],
        groups: Groups::Rows { list: &counts.view(), kind: GroupListKind::Count },
    };
    op::grouped_matmul(&sequence, &inputs, &mut [none(DType::F32, &[0, 3]).view_mut()]).unwrap();
    let row_idx = none(DType::I32, &[0]);
    let combine = FinalizeRouting {
        expanded_x: x.view(),
        row_idx: row_idx.view(),
        x1: None,
        x2: None,
        bias: None,
        scales: Some(weights.view()),
        expert_idx: None,
        mode: DropPadMode::DroplessByRow,
    };
    op::moe_finalize_routing_v2(&sequence, &combine, &mut none(DType::F32, &[0, 2]).view_mut()).unwrap();
    assert_eq!(rig.cann.table().operator_calls().count(), 0);
}
