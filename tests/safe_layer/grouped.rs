//! The grouped products: a worked example in every version, every form against plain loops, what is refused and found.

use ascend_moe::op::{self, GroupListKind, GroupedMatmul, Groups};
use ascend_moe::{DType, Element, Error, Sequence, Tensor, TensorView};
use ascend_sys::OperatorId;
use cann_sim::FindingKind;
use half::{bf16, f16};
use moe_kernels::element::Float;
use proptest::prelude::*;

use crate::operators::{EXPECTED, bf, read, tensor, zeros};
use crate::rig::Rig;

fn without(ids: &[OperatorId]) -> Rig {
    let absent = ids.iter().map(|id| id.info().phase2).collect();
    Rig::with(|config| config.absent = absent)
}

fn views(tensors: &[Tensor]) -> Vec<TensorView<'_>> {
    tensors.iter().map(Tensor::view).collect()
}

const X: [f32; 6] = [1., 2., 3., 4., 5., 6.];
const WEIGHTS: [[f32; 4]; 3] = [[1., 0., 0., 1.], [9.; 4], [2., 1., 1., -1.]];
const BIASES: [[f32; 2]; 3] = [[0.5, -0.5], [0., 0.], [1., 1.]];

/// Every version from the fifth down to the first, as the newer ones are missing.
#[test]
fn the_worked_example_in_every_version() {
    use OperatorId as Id;
    let versions =
        [Id::GroupedMatmulV5, Id::GroupedMatmulV4, Id::GroupedMatmulV3, Id::GroupedMatmulV2, Id::GroupedMatmul];
    for (missing, &version) in versions.iter().enumerate() {
        let rig = without(&versions[..missing]);
        let sequence = rig.stream.sequence().unwrap();
        let x = tensor(&rig, &bf(&X), &[3, 2]);
        let stacked = tensor(&rig, &bf(&WEIGHTS.concat()), &[3, 2, 2]);
        // The second lies as [E, N, K]; none of the weights changes by that.
        let swapped = stacked.view().transpose().unwrap();
        let each: Vec<_> = WEIGHTS.iter().map(|weight| tensor(&rig, &bf(weight), &[2, 2])).collect();
        let bias = tensor(&rig, &BIASES.concat(), &[3, 2]);
        let biases: Vec<_> = BIASES.iter().map(|bias| tensor(&rig, bias, &[2])).collect();
        let ends = tensor(&rig, &[1i64, 1, 3], &[3]);
        let list = ends.view();
        let groups = match version {
            Id::GroupedMatmulV2 | Id::GroupedMatmul => Groups::RowsUpTo(&[1, 1, 3]),
            _ => Groups::Rows { list: &list, kind: GroupListKind::Cumsum },
        };
        let run = |weight: &[TensorView<'_>], bias: &[TensorView<'_>]| {
            let mut out = zeros(&rig, DType::Bf16, &[3, 2]);
            let inputs = GroupedMatmul { x: &[x.view()], weight, bias, groups };
            assert_eq!(op::grouped_matmul(&sequence, &inputs, &mut [out.view_mut()]).unwrap(), version);
            assert_eq!(read::<bf16>(&rig, &out), bf(&EXPECTED), "{version:?}");
        };
        run(&views(&each), &views(&biases));
        if version != Id::GroupedMatmul {
            run(&[stacked.view()], &[bias.view()]);
            run(&[swapped], &[bias.view()]);
        }
    }
}

/// The same in blocks of 16 by 16.
#[test]
fn the_worked_example_with_packed_weights() {
    use OperatorId as Id;
    let versions = [Id::GroupedMatmulWeightNz, Id::GroupedMatmulV5, Id::GroupedMatmulV4];
    let wide = |values: &[f32], rows: usize| {
        let mut all = vec![0.0; rows * 16];
        values.chunks_exact(2).zip(all.chunks_exact_mut(16)).for_each(|(from, to)| to[..2].copy_from_slice(from));
        all
    };
    for (missing, &version) in versions.iter().enumerate() {
        let rig = without(&versions[..missing]);
        let sequence = rig.stream.sequence().unwrap();
        let x = tensor(&rig, &bf(&wide(&X, 3)), &[3, 16]);
        let plain = tensor(&rig, &bf(&WEIGHTS.map(|weight| wide(&weight, 16)).concat()), &[3, 16, 16]);
        let mut weight = Tensor::zeros_nz(&rig.device, DType::Bf16, &[3, 16, 16]).unwrap();
        op::npu_format_cast(&sequence, &plain.view(), &mut weight.view_mut()).unwrap();
        let bias = tensor(&rig, &wide(&BIASES.concat(), 3), &[3, 16]);
        let counts = tensor(&rig, &[0i64, 1, 2, 2, 1, 0], &[3, 2]);
        // What is symmetric lies both ways.
        for weight in [weight.view(), weight.view().transpose().unwrap()] {
            let mut out = zeros(&rig, DType::Bf16, &[3, 16]);
            let groups = Groups::Rows { list: &counts.view(), kind: GroupListKind::KeyValue };
            let inputs = GroupedMatmul { x: &[x.view()], weight: &[weight], bias: &[bias.view()], groups };
            assert_eq!(op::grouped_matmul(&sequence, &inputs, &mut [out.view_mut()]).unwrap(), version);
            assert_eq!(read::<bf16>(&rig, &out), bf(&wide(&EXPECTED, 3)), "{version:?}");
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Form {
    /// The kind of list; whether each weight is a tensor of its own.
    Rows(GroupListKind, bool),
    /// Whether each weight, and each output, is a tensor of its own.
    UpTo([bool; 2]),
    OfEach,
    Tensors,
    K(GroupListKind),
    KOfEach,
}

#[derive(Debug, Clone)]
struct Case {
    form: Form,
    counts: Vec<usize>,
    /// Rows, or a part of K, that belong to nobody.
    tail: usize,
    /// K, or M with ranges of K.
    k: usize,
    n: usize,
    /// Whether weights lie as `[N, K]`, in blocks, and have a bias.
    transposed: bool,
    packed: bool,
    biased: bool,
    seed: usize,
}

fn case() -> impl Strategy<Value = Case> {
    use GroupListKind::{Count, Cumsum, KeyValue};
    let form = prop_oneof![
        (prop::sample::select(vec![Cumsum, Count, KeyValue]), any::<bool>())
            .prop_map(|(kind, listed)| Form::Rows(kind, listed)),
        prop::sample::select(vec![[false, false], [true, false], [true, true]]).prop_map(Form::UpTo),
        Just(Form::OfEach),
        Just(Form::Tensors),
        prop::sample::select(vec![Cumsum, Count]).prop_map(Form::K),
        Just(Form::KOfEach),
    ];
    let counts = prop::collection::vec(0..5usize, 2..6);
    (form, counts, 0..3usize, 1..40usize, 1..40usize, any::<[bool; 3]>(), 0..1000usize).prop_map(
        |(form, counts, tail, k, n, [transposed, packed, biased], seed)| {
            let along_k = matches!(form, Form::K(_) | Form::KOfEach);
            // Blocks are whole, and K and N of matrices in lists of their own differ.
            let packed = packed && !along_k && !matches!(form, Form::Tensors);
            let [k, n] = if packed { [k, n].map(|size| size.next_multiple_of(16)) } else { [k, n] };
            // One element never counts as transposed, and lists do not mix.
            let n = if matches!(form, Form::Tensors) { n.max(2) } else { n };
            let tail = if matches!(form, Form::Rows(..) | Form::K(_) | Form::KOfEach) { tail } else { 0 };
            Case {
                form,
                counts,
                tail,
                k,
                n,
                transposed: transposed && !along_k,
                packed,
                biased: biased && !along_k,
                seed,
            }
        },
    )
}

/// Small whole numbers, whose sums of products are exact.
fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7 + i / 5 + seed * 11) % 9) as f32 - 4.0).collect()
}

fn swap(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|i| values[i % rows * cols + i / rows]).collect()
}

/// `x [m, k] @ w [k, n] + bias`.
fn product(x: &[f32], w: &[f32], bias: Option<&Vec<f32>>, [k, n]: [usize; 2]) -> Vec<f32> {
    let rows = x.len().checked_div(k).unwrap_or(0);
    let at = |m: usize, c: usize| {
        (0..k).map(|i| x[m * k + i] * w[i * n + c]).sum::<f32>() + bias.map_or(0.0, |bias| bias[c])
    };
    (0..rows * n).map(|i| at(i / n, i % n)).collect()
}

fn of<T: Element + Float>(rig: &Rig, values: &[f32], shape: &[usize]) -> Tensor {
    let values: Vec<T> = values.iter().map(|&value| T::from_f32(value)).collect();
    tensor(rig, &values, shape)
}

/// The weight matrices as tensors: each one, or all in one; see [`Case`] for the layout.
fn weights<T: Element + Float>(
    rig: &Rig,
    sequence: &Sequence<'_>,
    case: &Case,
    each: bool,
    matrices: &[(Vec<f32>, [usize; 2])],
) -> Vec<Tensor> {
    let stored =
        |(values, [k, n]): &(Vec<f32>, [usize; 2])| if case.transposed { swap(values, *k, *n) } else { values.clone() };
    let order = |[k, n]: [usize; 2]| if case.transposed { [n, k] } else { [k, n] };
    let make = |values: Vec<f32>, shape: &[usize]| {
        let plain = of::<T>(rig, &values, shape);
        if !case.packed || T::DTYPE == DType::F32 {
            return plain;
        }
        let mut blocks = Tensor::zeros_nz(&rig.device, T::DTYPE, shape).unwrap();
        op::npu_format_cast(sequence, &plain.view(), &mut blocks.view_mut()).unwrap();
        blocks
    };
    if each {
        return matrices.iter().map(|matrix| make(stored(matrix), &order(matrix.1))).collect();
    }
    let [rows, cols] = order(matrices[0].1);
    vec![make(matrices.iter().flat_map(stored).collect(), &[matrices.len(), rows, cols])]
}

fn list_of(kind: GroupListKind, counts: &[usize]) -> (Vec<i64>, Vec<usize>) {
    let experts = counts.len();
    let counts: Vec<i64> = counts.iter().map(|&count| count as i64).collect();
    match kind {
        GroupListKind::Count => (counts, vec![experts]),
        GroupListKind::Cumsum => (
            counts.iter().scan(0, |end, count| Some(*end + count).inspect(|next| *end = *next)).collect(),
            vec![experts],
        ),
        GroupListKind::KeyValue => {
            let mut pairs: Vec<[i64; 2]> = (0..).zip(counts).map(|(expert, count)| [expert, count]).collect();
            pairs.sort_by_key(|pair| pair[1] == 0);
            (pairs.concat(), vec![experts, 2])
        }
    }
}

fn check<T: Element + Float>(rig: &Rig, case: &Case) {
    const POISON: f32 = -7.0;
    let Case { form, ref counts, tail, k, n, seed, .. } = *case;
    let sequence = rig.stream.sequence().unwrap();
    let (experts, total) = (counts.len(), counts.iter().sum::<usize>() + tail);
    let along_k = matches!(form, Form::K(_) | Form::KOfEach);
    let apart = usize::from(matches!(form, Form::Tensors));
    let sizes = |expert: usize| [k + expert * apart, n + expert * apart];

    // Each group's x, weight, bias and product, row-major; with ranges of K, K is the group's and k is M.
    let mut due = Vec::new();
    let (mut xs, mut matrices, mut biases) = (Vec::new(), Vec::new(), Vec::new());
    for (expert, &count) in counts.iter().enumerate() {
        let [k, n] = sizes(expert);
        let [m, k] = if along_k { [k, count] } else { [count, k] };
        let (x, w) = (values(m * k, seed + expert), values(k * n, seed + 31 * expert + 5));
        let bias = case.biased.then(|| values(n, seed + 3));
        let found = if k == 0 { vec![0.0; m * n] } else { product(&x, &w, bias.as_ref(), [k, n]) };
        due.push(found);
        xs.push(x);
        matrices.push((w, [k, n]));
        biases.extend(bias);
    }

    // The operands as tensors.
    let one_weight = matches!(form, Form::Rows(_, false) | Form::UpTo([false, _]));
    let x: Vec<Tensor> = match form {
        Form::OfEach | Form::Tensors => {
            (0..experts).map(|expert| of::<T>(rig, &xs[expert], &[counts[expert], sizes(expert)[0]])).collect()
        }
        Form::K(_) | Form::KOfEach => {
            // [K, M] in memory: the parts one after the other, and what nobody uses.
            let mut all: Vec<f32> = xs.iter().zip(counts).flat_map(|(x, &count)| swap(x, k, count)).collect();
            all.extend(vec![POISON; tail * k]);
            vec![of::<T>(rig, &all, &[total, k])]
        }
        _ => {
            let mut all = xs.concat();
            all.extend(vec![POISON; tail * k]);
            vec![of::<T>(rig, &all, &[total, k])]
        }
    };
    let x: Vec<TensorView<'_>> =
        x.iter().map(|x| if along_k { x.view().transpose().unwrap() } else { x.view() }).collect();
    let weight = if matches!(form, Form::K(_)) {
        let mut all: Vec<f32> = matrices.iter().flat_map(|(w, _)| w.clone()).collect();
        all.extend(vec![POISON; tail * n]);
        vec![of::<T>(rig, &all, &[total, n])]
    } else {
        weights::<T>(rig, &sequence, case, !one_weight, &matrices)
    };
    let weight: Vec<TensorView<'_>> =
        weight.iter().map(|w| if case.transposed { w.view().transpose().unwrap() } else { w.view() }).collect();
    let bias_of = |values: &[f32], shape: &[usize]| match T::DTYPE {
        DType::F16 => of::<f16>(rig, values, shape),
        _ => tensor(rig, values, shape),
    };
    let bias: Vec<Tensor> = match (case.biased, one_weight) {
        (false, _) => Vec::new(),
        (true, true) => vec![bias_of(&biases.concat(), &[experts, n])],
        (true, false) => biases.iter().map(|bias| bias_of(bias, &[bias.len()])).collect(),
    };

    // The outputs, and what must be in them.
    let shapes: Vec<Vec<usize>> = match form {
        Form::UpTo([_, true]) | Form::Tensors => (0..experts).map(|e| vec![counts[e], sizes(e)[1]]).collect(),
        Form::K(_) => vec![vec![experts, k, n]],
        Form::KOfEach => vec![vec![k, n]; experts],
        _ => vec![vec![total, n]],
    };
    let due: Vec<Vec<f32>> = if shapes.len() > 1 {
        due
    } else {
        vec![[due.concat(), vec![POISON; if along_k { 0 } else { tail * n }]].concat()]
    };
    let mut out: Vec<Tensor> =
        shapes.iter().map(|shape| of::<T>(rig, &vec![POISON; shape.iter().product()], shape)).collect();
    let kind = match form {
        Form::Rows(kind, _) | Form::K(kind) => kind,
        _ => GroupListKind::Cumsum,
    };
    let (list, shape) = list_of(kind, counts);
    let on_device = tensor(rig, &list, &shape);
    let on_device = on_device.view();
    let groups = match form {
        Form::Rows(kind, _) => Groups::Rows { list: &on_device, kind },
        Form::UpTo(_) => Groups::RowsUpTo(&list),
        Form::OfEach => Groups::RowsOfEach,
        Form::Tensors => Groups::Tensors,
        Form::K(kind) => Groups::K { list: &on_device, kind },
        Form::KOfEach => Groups::KOfEach,
    };
    let bias = views(&bias);
    let inputs = GroupedMatmul { x: &x, weight: &weight, bias: &bias, groups };
    let mut targets: Vec<_> = out.iter_mut().map(Tensor::view_mut).collect();
    let ran = op::grouped_matmul(&sequence, &inputs, &mut targets).unwrap();
    let packed = case.packed && T::DTYPE != DType::F32 && !matches!(form, Form::UpTo(_));
    assert_eq!(ran == OperatorId::GroupedMatmulWeightNz, packed);
    assert_eq!(ran == OperatorId::GroupedMatmulV2, matches!(form, Form::UpTo(_)));
    for (index, (out, due)) in out.iter().zip(due).enumerate() {
        let due: Vec<f32> = due.into_iter().map(|value| T::from_f32(value).to_f32()).collect();
        let found: Vec<f32> = read::<T>(rig, out).iter().map(|value| value.to_f32()).collect();
        assert_eq!(found, due, "output {index}");
    }
}

#[test]
fn every_form_gives_what_plain_loops_give() {
    let rig = Rig::new();
    rig.device.set_check_group_lists(true);
    proptest!(ProptestConfig::with_cases(160), |(case in case())| {
        check::<bf16>(&rig, &case);
        check::<f16>(&rig, &case);
        check::<f32>(&rig, &case);
    });
}

#[test]
fn strided_operands_and_outputs() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    // x [2, 2, 2] is every other column of [2, 2, 4]'s first half; out lies beside a column that is not written.
    let wide = tensor(&rig, &[1f32, 2., 0., 0., 3., 4., 0., 0., 5., 6., 0., 0., 7., 8., 0., 0.], &[2, 2, 4]);
    let weight = tensor(&rig, &[1f32, 10., 100., 1000.], &[2, 2]);
    let mut out = tensor(&rig, &[-7f32; 12], &[2, 2, 3]);
    let x = wide.view().narrow(2, 0..2).unwrap();
    let inputs = GroupedMatmul { x: &[x], weight: &[weight.view()], bias: &[], groups: Groups::Tensors };
    op::grouped_matmul(&sequence, &inputs, &mut [out.view_mut().narrow(2, 0..2).unwrap()]).unwrap();
    let due = [201., 2010., -7., 403., 4030., -7., 605., 6050., -7., 807., 8070., -7.];
    assert_eq!(read::<f32>(&rig, &out), due);

    // x with gaps as one tensor and as a list; a transposed bias.
    let first = wide.view().reshape(&[4, 4]).unwrap().narrow(1, 0..2).unwrap();
    let x = [first.rows(0..1).unwrap(), first.rows(1..4).unwrap()];
    let bias = tensor(&rig, &[1f32, 2., 3., 4.], &[2, 2]);
    let columns = bias.view().transpose().unwrap();
    let stacked = tensor(&rig, &[1f32, 10., 100., 1000., 1., 0., 0., 1.], &[2, 2, 2]);
    let mut out = zeros(&rig, DType::F32, &[4, 2]);
    let ends = tensor(&rig, &[1i64, 4], &[2]);
    let groups = Groups::Rows { list: &ends.view(), kind: GroupListKind::Cumsum };
    let inputs = GroupedMatmul { x: &[first], weight: &[stacked.view()], bias: &[columns], groups };
    op::grouped_matmul(&sequence, &inputs, &mut [out.view_mut()]).unwrap();
    let due = [202., 2013., 5., 8., 7., 10., 9., 12.];
    assert_eq!(read::<f32>(&rig, &out), due);
    let each = [tensor(&rig, &[1f32, 10., 100., 1000.], &[2, 2]), tensor(&rig, &[1f32, 0., 0., 1.], &[2, 2])];
    let inputs = GroupedMatmul { x: &x, weight: &views(&each), bias: &[], groups };
    op::grouped_matmul(&sequence, &inputs, &mut [out.view_mut()]).unwrap();
    assert_eq!(read::<f32>(&rig, &out), [201., 2010., 3., 4., 5., 6., 7., 8.]);
}

/// The rule of the operator that a call breaks.
fn rule(result: ascend_moe::Result<OperatorId>) -> (OperatorId, &'static str) {
    match result {
        Err(Error::Rule(violation)) => (violation.operator, violation.rule),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_form_does_not_take_is_refused_before_the_call() {
    use OperatorId as Id;
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let (x, weight) = (zeros(&rig, DType::Bf16, &[32, 16]), zeros(&rig, DType::Bf16, &[32, 16]));
    let packed = Tensor::zeros_nz(&rig.device, DType::Bf16, &[32, 16]).unwrap();
    let bias = zeros(&rig, DType::F32, &[2, 16]);
    let (ends, pairs) = (zeros(&rig, DType::I64, &[2]), zeros(&rig, DType::I64, &[2, 2]));
    let mut out = zeros(&rig, DType::Bf16, &[2, 16, 16]);
    let transposed = x.view().transpose().unwrap();
    let mut run = |x, weight: &Tensor, bias: &[TensorView<'_>], list: &Tensor, kind| {
        let groups = Groups::K { list: &list.view(), kind };
        let inputs = GroupedMatmul { x: &[x], weight: &[weight.view()], bias, groups };
        op::grouped_matmul(&sequence, &inputs, &mut [out.view_mut()])
    };
    use GroupListKind::{Count, KeyValue};
    run(transposed, &weight, &[], &ends, Count).unwrap();
    let square = zeros(&rig, DType::Bf16, &[16, 32]);
    assert_eq!(rule(run(square.view(), &weight, &[], &ends, Count)), (Id::GroupedMatmulV5, "x-transposed"));
    assert_eq!(rule(run(transposed, &weight, &[bias.view()], &ends, Count)).1, "k-groups-bias");
    assert_eq!(rule(run(transposed, &packed, &[], &ends, Count)).1, "k-groups-nz");
    assert_eq!(rule(run(transposed, &weight, &[], &pairs, KeyValue)).1, "k-groups-pairs");

    // On the host the list is looked at.
    let weights = [zeros(&rig, DType::Bf16, &[16, 8]), zeros(&rig, DType::Bf16, &[16, 8])];
    let mut out = zeros(&rig, DType::Bf16, &[32, 8]);
    let mut run = |ends| {
        let groups = Groups::RowsUpTo(ends);
        let inputs = GroupedMatmul { x: &[x.view()], weight: &views(&weights), bias: &[], groups };
        op::grouped_matmul(&sequence, &inputs, &mut [out.view_mut()])
    };
    assert_eq!(run(&[5, 32]).unwrap(), Id::GroupedMatmulV2);
    assert_eq!(rule(run(&[5, 31])), (Id::GroupedMatmulV2, "group-list-ends"));
    assert_eq!(rule(run(&[33, 32])), (Id::GroupedMatmulV2, "group-list-order"));
    assert_eq!(rule(run(&[32])), (Id::GroupedMatmulV2, "group-list-length"));
}

#[test]
fn a_form_that_only_missing_operators_compute_is_an_error() {
    use OperatorId as Id;
    let rig = without(&[Id::GroupedMatmulV2, Id::GroupedMatmul]);
    let sequence = rig.stream.sequence().unwrap();
    let (x, weight) = (zeros(&rig, DType::F32, &[2, 2]), zeros(&rig, DType::F32, &[1, 2, 2]));
    let mut out = zeros(&rig, DType::F32, &[2, 2]);
    let inputs = GroupedMatmul { x: &[x.view()], weight: &[weight.view()], bias: &[], groups: Groups::RowsUpTo(&[2]) };
    match op::grouped_matmul(&sequence, &inputs, &mut [out.view_mut()]) {
        Err(Error::MissingOperator { tried, .. }) => assert_eq!(tried, [Id::GroupedMatmulV2, Id::GroupedMatmul]),
        other => panic!("{other:?}"),
    }
}

/// Without a list the older versions compute the same, the second one too.
#[test]
fn older_versions_stand_in_where_there_is_no_list() {
    use OperatorId as Id;
    let versions = [Id::GroupedMatmulV5, Id::GroupedMatmulV4, Id::GroupedMatmulV3, Id::GroupedMatmulV2];
    for (missing, &version) in versions.iter().enumerate() {
        let rig = without(&versions[..missing]);
        let sequence = rig.stream.sequence().unwrap();
        let x = [tensor(&rig, &[1f32, 2.], &[1, 2]), tensor(&rig, &[3f32, 4., 5., 6.], &[2, 2])];
        let weight = [tensor(&rig, &[1f32, 0., 0., 10.], &[2, 2]), tensor(&rig, &[2f32, 1., 1., -1.], &[2, 2])];
        let (x, weight) = (views(&x), views(&weight));
        let (mut one, mut two) = (zeros(&rig, DType::F32, &[1, 2]), zeros(&rig, DType::F32, &[2, 2]));
        let inputs = GroupedMatmul { x: &x, weight: &weight, bias: &[], groups: Groups::Tensors };
        assert_eq!(op::grouped_matmul(&sequence, &inputs, &mut [one.view_mut(), two.view_mut()]).unwrap(), version);
        assert_eq!([read::<f32>(&rig, &one), read::<f32>(&rig, &two)].concat(), [1., 20., 10., -1., 16., -1.]);
        let mut all = zeros(&rig, DType::F32, &[3, 2]);
        let inputs = GroupedMatmul { groups: Groups::RowsOfEach, ..inputs };
        assert_eq!(op::grouped_matmul(&sequence, &inputs, &mut [all.view_mut()]).unwrap(), version);
        assert_eq!(read::<f32>(&rig, &all), [1., 20., 10., -1., 16., -1.]);
    }
}

#[test]
fn a_wrong_list_of_ranges_is_found_by_the_switch_or_on_the_device() {
    let mut rig = Rig::new();
    rig.expect_findings();
    rig.device.set_check_group_lists(true);
    let (x, weight) = (zeros(&rig, DType::Bf16, &[4, 3]), zeros(&rig, DType::Bf16, &[4, 2]));
    let list = tensor(&rig, &[3i64, 5], &[2]);
    let multiply = || {
        let sequence = rig.stream.sequence().unwrap();
        let mut out = zeros(&rig, DType::Bf16, &[2, 3, 2]);
        let groups = Groups::K { list: &list.view(), kind: GroupListKind::Cumsum };
        let x = x.view().transpose().unwrap();
        let inputs = GroupedMatmul { x: &[x], weight: &[weight.view()], bias: &[], groups };
        op::grouped_matmul(&sequence, &inputs, &mut [out.view_mut()]).map(drop)
    };
    let add = || {
        let sequence = rig.stream.sequence().unwrap();
        let mut y = zeros(&rig, DType::F32, &[2, 3, 2]);
        op::grouped_matmul_add(&sequence, &x.view(), &weight.view(), &list.view(), &mut y.view_mut())
    };
    for answer in [multiply(), add()] {
        assert!(matches!(&answer, Err(Error::GroupList(error)) if error.to_string().contains('4')), "{answer:?}");
    }
    assert_eq!(rig.findings(), []);
    rig.device.set_check_group_lists(false);
    multiply().unwrap();
    assert_eq!(rig.stream.synchronize().unwrap_err().code(), Some(507_015));
    assert_eq!(rig.findings().iter().map(|finding| finding.kind).collect::<Vec<_>>(), [FindingKind::GroupList]);
}

/// `x^T` is `[[1, 2, 3], [4, 5, 6]]`; ranges of K: the first, none, the other two.
fn added<T: Element + Float>(rig: &Rig) {
    let sequence = rig.stream.sequence().unwrap();
    let x = of::<T>(rig, &[1., 4., 2., 5., 3., 6.], &[3, 2]);
    let across = of::<T>(rig, &[1., 2., 3., 4., 5., 6.], &[2, 3]);
    let weight = of::<T>(rig, &[1., -1., 10., 20., 2., 0.5], &[3, 2]);
    let ends = tensor(rig, &[1i64, 1, 3], &[3]);
    for x in [x.view(), across.view().transpose().unwrap()] {
        let before: Vec<f32> = (0..12).map(|value| value as f32 * 0.25).collect();
        let mut y = tensor(rig, &before, &[3, 2, 2]);
        op::grouped_matmul_add(&sequence, &x, &weight.view(), &ends.view(), &mut y.view_mut()).unwrap();
        let due = [1.0, -0.75, 4.5, -3.25, 1.0, 1.25, 1.5, 1.75, 28.0, 43.75, 64.5, 105.75];
        assert_eq!(read::<f32>(rig, &y), due);
    }
}

#[test]
fn added_in_place() {
    let rig = Rig::new();
    added::<bf16>(&rig);
    added::<f16>(&rig);
    assert_eq!(rig.cann.table().operator_calls().collect::<Vec<_>>(), [(OperatorId::GroupedMatmulAdd, 4)]);

    // Nothing is called where nothing is multiplied.
    let sequence = rig.stream.sequence().unwrap();
    let (x, weight) = (zeros(&rig, DType::Bf16, &[0, 2]), zeros(&rig, DType::Bf16, &[0, 2]));
    let ends = zeros(&rig, DType::I64, &[1]);
    let mut y = tensor(&rig, &[1f32, 2., 3., 4.], &[1, 2, 2]);
    op::grouped_matmul_add(&sequence, &x.view(), &weight.view(), &ends.view(), &mut y.view_mut()).unwrap();
    assert_eq!(read::<f32>(&rig, &y), [1., 2., 3., 4.]);
    assert_eq!(rig.cann.table().operator_calls().collect::<Vec<_>>(), [(OperatorId::GroupedMatmulAdd, 4)]);

    let x = zeros(&rig, DType::F32, &[2, 2]);
    let answer = op::grouped_matmul_add(&sequence, &x.view(), &x.view(), &ends.view(), &mut y.view_mut());
    let Err(Error::Rule(violation)) = answer else { panic!("{answer:?}") };
    assert_eq!((violation.operator, violation.rule), (OperatorId::GroupedMatmulAdd, "dtype"));
    let x = zeros(&rig, DType::Bf16, &[2, 3]);
    let answer = op::grouped_matmul_add(&sequence, &x.view(), &x.view(), &ends.view(), &mut y.view_mut());
    let Err(Error::Rule(violation)) = answer else { panic!("{answer:?}") };
    assert_eq!(violation.rule, "y-size");
}
