//! The grouped products of quantised operands: worked examples in every version, every combination of dtypes, layouts and
//! carriers against plain loops, what is refused and found.

use ascend_moe::op::{self, GroupListKind, GroupedActivation, GroupedMatmul, Groups, Quant};
use ascend_moe::{DType, Element, Error, Tensor, TensorView};
use ascend_sys::OperatorId;
use cann_sim::FindingKind;
use half::{bf16, f16};
use moe_kernels::element::Float;

use crate::operators::{bf, read, tensor, zeros};
use crate::quantised::{
    COUNTS, LAYOUTS, Layout, POISON, ROWS, bf16s, dot, f16s, factors, halves, msd, nibbles, numbers, rows_of, rule,
    viewed, views, weight, wide, without,
};
use crate::rig::Rig;

#[test]
fn the_worked_example_of_int8_in_every_version() {
    use OperatorId as Id;
    let versions = [(Id::GroupedMatmulWeightNz, true), (Id::GroupedMatmulV5, false), (Id::GroupedMatmulV4, false)];
    for (missing, &(version, packed)) in versions.iter().enumerate() {
        let absent: Vec<_> = versions[..missing].iter().map(|(id, _)| *id).collect();
        let rig = without(&absent);
        let sequence = rig.stream.sequence().unwrap();
        // Padded to whole blocks.
        let (k, n) = (16, 32);
        let place = |values: &[i8], rows: usize, cols: usize| {
            let mut all = vec![0i8; rows * cols];
            values.chunks(2).enumerate().for_each(|(row, pair)| all[row * cols..][..2].copy_from_slice(pair));
            all
        };
        let x = tensor(&rig, &place(&[1, -2, 100, 100, -128, 127], 3, k), &[3, k]);
        let w = [place(&[3, -4, 5, 6], k, n), place(&[127, -127, 127, -128], k, n)].concat();
        let layout = Layout { packed, ..LAYOUTS[0] };
        let weight = weight(&rig, &w, [2, k, n], false, layout);
        let mut scale = vec![bf16::ZERO; 2 * n];
        let mut bias = vec![0i32; 2 * n];
        for (at, s, b) in [(0, 0.5, 10), (1, 0.25, -10), (n, 0.01, 0), (n + 1, 0.02, 1)] {
            (scale[at], bias[at]) = (bf16::from_f32(s), b);
        }
        let (scale, bias) = (tensor(&rig, &scale, &[2, n]), tensor(&rig, &bias, &[2, n]));
        let per_token = tensor(&rig, &[0.1f32, 2.0, 0.5], &[3]);
        let counts = tensor(&rig, &[1i64, 2], &[2]);
        let list = counts.view();
        let groups = Groups::Rows { list: &list, kind: GroupListKind::Count };
        let (x, weight, bias) = ([x.view()], [weight.view()], [bias.view()]);
        let inputs = GroupedMatmul { x: &x, weight: &weight, bias: &bias, groups };
        let (scale, per_token) = ([scale.view()], per_token.view());
        let quant = Quant::Int8 { scale: &scale, per_token: Some(&per_token), activation: GroupedActivation::None };
        let mut y = zeros(&rig, DType::Bf16, &[3, n]);
        assert_eq!(op::grouped_matmul_quant(&sequence, &inputs, quant, &mut [y.view_mut()]).unwrap(), version);
        let found: Vec<f32> =
            read::<bf16>(&rig, &y).chunks(n).flat_map(|row| [row[0].to_f32(), row[1].to_f32()]).collect();
        assert_eq!(found, [0.150_390_63, -0.648_437_5, 508., -1020., -0.636_718_75, 0.010_009_766]);
        let mut sums = zeros(&rig, DType::I32, &[3, n]);
        op::grouped_matmul_quant(&sequence, &inputs, Quant::Sums, &mut [sums.view_mut()]).unwrap();
        let found: Vec<i32> = read::<i32>(&rig, &sums).chunks(n).flat_map(|row| [row[0], row[1]]).collect();
        assert_eq!(found, [3, -26, 25400, -25499, -127, 1]);
    }
}

#[test]
fn int8_in_every_layout() {
    let rig = Rig::new();
    rig.device.set_check_group_lists(true);
    let sequence = rig.stream.sequence().unwrap();
    let [e, k, n] = [3, 64, 96];
    for (packed, transposed) in [(false, false), (false, true), (true, false), (true, true)] {
        let layout = Layout { packed, transposed, carried: false };
        let (x, w) = (numbers(ROWS * k, -128, 127, 3), numbers(e * k * n, -128, 127, 5));
        let (per_token, column) = (factors(ROWS, 1), bf16s(&factors(e * n, 2)));
        let float_bias = bf16s(&factors(e * n, 3));
        let whole_bias: Vec<i32> = (0..e * n).map(|i| (i * 311) as i32 - 9000).collect();
        let ends = tensor(&rig, &[3i64, 3, 7], &[3]);
        let list = ends.view();
        let groups = Groups::Rows { list: &list, kind: GroupListKind::Cumsum };
        let acc = |row: usize, expert: usize, at: usize| dot(&x[row * k..][..k], &w[expert * k * n..], n, at);
        let biased = |row, expert, at| acc(row, expert, at) + whole_bias[expert * n + at];
        let scaled = |acc: i32, expert: usize, at: usize| acc as f32 * column[expert * n + at];

        let (x_in, w_in) = (tensor(&rig, &x, &[ROWS, k]), weight(&rig, &w, [e, k, n], false, layout));
        let (x_in, w_in) = ([x_in.view()], [viewed(&w_in, layout)]);
        let tokens = tensor(&rig, &per_token, &[ROWS]);
        let tokens = tokens.view();
        let scales =
            [tensor(&rig, &bf(&column), &[e, n]), tensor(&rig, &column, &[e, n]), wide(&rig, &column, &[e, n])];
        let [bf16_scale, f32_scale, wide_scale] = scales.each_ref().map(|scale| [scale.view()]);
        let biases = [tensor(&rig, &whole_bias, &[e, n]), tensor(&rig, &bf(&float_bias), &[e, n])];
        let [whole, float] = biases.each_ref().map(|bias| [bias.view()]);
        let run = |bias: &[TensorView<'_>], quant, out: &mut Tensor| {
            let inputs = GroupedMatmul { x: &x_in, weight: &w_in, bias, groups };
            op::grouped_matmul_quant(&sequence, &inputs, quant, &mut [out.view_mut()])
        };
        let none = GroupedActivation::None;

        let mut y = tensor(&rig, &bf(&vec![POISON; ROWS * n]), &[ROWS, n]);
        let ran = run(&whole, Quant::Int8 { scale: &bf16_scale, per_token: Some(&tokens), activation: none }, &mut y);
        assert_eq!(ran.unwrap() == OperatorId::GroupedMatmulWeightNz, packed);
        let due = rows_of(n, |row, e, at| scaled(biased(row, e, at), e, at) * per_token[row]);
        assert_eq!(read::<bf16>(&rig, &y), bf(&due), "{layout:?}");

        run(&float, Quant::Int8 { scale: &bf16_scale, per_token: None, activation: none }, &mut y).unwrap();
        let due = rows_of(n, |row, e, at| scaled(acc(row, e, at), e, at) + float_bias[e * n + at]);
        assert_eq!(read::<bf16>(&rig, &y), bf(&due), "{layout:?}");

        let mut y = tensor(&rig, &vec![f16::from_f32(POISON); ROWS * n], &[ROWS, n]);
        let activation = GroupedActivation::Relu;
        run(&[], Quant::Int8 { scale: &f32_scale, per_token: Some(&tokens), activation }, &mut y).unwrap();
        let due = rows_of(n, |row, e, at| (scaled(acc(row, e, at), e, at) * per_token[row]).max(0.0));
        let found: Vec<f32> = read::<f16>(&rig, &y).iter().map(|value| value.to_f32()).collect();
        assert_eq!(found, f16s(&due), "{layout:?}");

        let mut y = tensor(&rig, &vec![-7i8; ROWS * n], &[ROWS, n]);
        let answer = run(&whole, Quant::Int8 { scale: &wide_scale, per_token: None, activation: none }, &mut y);
        if packed {
            assert_eq!(rule(answer).1, "out-dtype");
        } else {
            answer.unwrap();
            let due = rows_of(n, |row, e, at| scaled(biased(row, e, at), e, at).round_ties_even());
            let due: Vec<i8> = due.iter().map(|&value| value as i8).collect();
            assert_eq!(read::<i8>(&rig, &y), due, "{layout:?}");
        }
    }
}

#[test]
fn int8_in_lists() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let (k, n) = (20, 6);
    let each: Vec<Tensor> = (0..2).map(|e| tensor(&rig, &numbers(k * n, -128, 127, e), &[k, n])).collect();
    let scales: Vec<Tensor> = (0..2).map(|e| tensor(&rig, &factors(n, e), &[n])).collect();
    let x: Vec<Tensor> = (0..2).map(|e| tensor(&rig, &numbers((e + 2) * k, -128, 127, e + 7), &[e + 2, k])).collect();
    let (weight, scale, x) = (views(&each), views(&scales), views(&x));
    let due: Vec<Vec<f32>> = (0..2)
        .map(|e| {
            let (x, w, s) = (numbers((e + 2) * k, -128, 127, e + 7), numbers(k * n, -128, 127, e), factors(n, e));
            f16s(
                &(0..(e + 2) * n)
                    .map(|i| dot(&x[i / n * k..][..k], &w, n, i % n) as f32 * s[i % n])
                    .collect::<Vec<_>>(),
            )
        })
        .collect();
    let quant = Quant::Int8 { scale: &scale, per_token: None, activation: GroupedActivation::None };
    let found = |out: &Tensor| -> Vec<f32> { read::<f16>(&rig, out).iter().map(|value| value.to_f32()).collect() };
    let mut outs = [zeros(&rig, DType::F16, &[2, n]), zeros(&rig, DType::F16, &[3, n])];
    let inputs = GroupedMatmul { x: &x, weight: &weight, bias: &[], groups: Groups::Tensors };
    let [a, b] = &mut outs;
    op::grouped_matmul_quant(&sequence, &inputs, quant, &mut [a.view_mut(), b.view_mut()]).unwrap();
    assert_eq!(outs.each_ref().map(found).to_vec(), due);
    let mut out = zeros(&rig, DType::F16, &[5, n]);
    let inputs = GroupedMatmul { groups: Groups::RowsOfEach, ..inputs };
    op::grouped_matmul_quant(&sequence, &inputs, quant, &mut [out.view_mut()]).unwrap();
    assert_eq!(found(&out), due.concat());
}

#[test]
fn int8_by_int4_in_every_layout() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let (e, n) = (3, 64);
    for layout in LAYOUTS {
        for (k, parts, with_offset) in [(64, 1, false), (512, 2, false), (80, 1, true)] {
            let (x, w) = (numbers(ROWS * k, -128, 127, 3), numbers(e * k * n, -8, 7, 5));
            let (per_token, scale, offset) = (factors(ROWS, 1), factors(e * parts * n, 2), factors(e * n, 4));
            let bias = factors(e * n, 3);
            let due = rows_of(n, |row, e, at| {
                let x = &x[row * k..][..k];
                let mut sum = msd(x, &w[e * k * n..], n, at, &scale[e * parts * n..][..parts * n]);
                if with_offset {
                    sum += x.iter().map(|&x| i32::from(x)).sum::<i32>() as f32 * offset[e * n + at];
                }
                (sum + bias[e * n + at]) * per_token[row]
            });
            let counts = tensor(&rig, &COUNTS.map(|count| count as i64), &[3]);
            let list = counts.view();
            let groups = Groups::Rows { list: &list, kind: GroupListKind::Count };
            let (x, weight) = (tensor(&rig, &x, &[ROWS, k]), weight(&rig, &w, [e, k, n], true, layout));
            let bias = tensor(&rig, &bias, &[e, n]);
            let (x, weight, bias) = ([x.view()], [weight.view()], [bias.view()]);
            let inputs = GroupedMatmul { x: &x, weight: &weight, bias: &bias, groups };
            let scale = wide(&rig, &scale, &[e, parts, n]);
            let tokens = tensor(&rig, &per_token, if with_offset { &[ROWS, 1] } else { &[ROWS] });
            let offset = tensor(&rig, &offset, &[e, 1, n]);
            let (scale, tokens, offset) = (scale.view(), tokens.view(), offset.view());
            let offset = with_offset.then_some(&offset);
            let quant = Quant::Int8By4 { scale: &scale, per_token: &tokens, offset };
            let mut y = tensor(&rig, &vec![f16::from_f32(POISON); ROWS * n], &[ROWS, n]);
            op::grouped_matmul_quant(&sequence, &inputs, quant, &mut [y.view_mut()]).unwrap();
            let found: Vec<f32> = read::<f16>(&rig, &y).iter().map(|value| value.to_f32()).collect();
            assert_eq!(found, f16s(&due), "{layout:?}, {parts} parts, K = {k}");
        }
    }
}

#[test]
fn int4_in_every_layout() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let [e, k, n] = [3, 64, 64];
    let also = Layout { packed: true, transposed: true, carried: false };
    for layout in LAYOUTS.into_iter().chain([also]) {
        for parts in [1, 4] {
            let (x, w) = (numbers(ROWS * k, -8, 7, 3), numbers(e * k * n, -8, 7, 5));
            let (per_token, scale) = (factors(ROWS, 1), factors(e * parts * n, 2));
            let due = rows_of(n, |row, e, at| {
                halves(&x[row * k..][..k], &w[e * k * n..], n, at, &scale[e * parts * n..][..parts * n])
                    * per_token[row]
            });
            let pairs = tensor(&rig, &[0i64, 3, 2, 4, 1, 0], &[3, 2]);
            let list = pairs.view();
            let groups = Groups::Rows { list: &list, kind: GroupListKind::KeyValue };
            let (dtype, cols) = if layout.carried { (DType::I32, k / 8) } else { (DType::I4, k) };
            let x = Tensor::from_bytes(&rig.device, dtype, &nibbles(&x), &[ROWS, cols]).unwrap();
            let weight = weight(&rig, &w, [e, k, n], true, layout);
            let (x, weight) = ([x.view()], [viewed(&weight, layout)]);
            let inputs = GroupedMatmul { x: &x, weight: &weight, bias: &[], groups };
            let (shape, whole) = ([e, parts, n], [e, n]);
            let scale = wide(&rig, &scale, if parts > 1 { &shape } else { &whole });
            let tokens = tensor(&rig, &per_token, &[ROWS]);
            let (scale, tokens) = (scale.view(), tokens.view());
            let mut y = tensor(&rig, &bf(&vec![POISON; ROWS * n]), &[ROWS, n]);
            let quant = Quant::Int4 { scale: &scale, per_token: Some(&tokens) };
            op::grouped_matmul_quant(&sequence, &inputs, quant, &mut [y.view_mut()]).unwrap();
            assert_eq!(read::<bf16>(&rig, &y), bf(&due), "{layout:?}, {parts} parts");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_before_the_call_or_found_on_the_device() {
    use OperatorId as Id;
    let mut rig = Rig::new();
    rig.expect_findings();
    let sequence = rig.stream.sequence().unwrap();
    let (x, weight) = (zeros(&rig, DType::I8, &[4, 16]), zeros(&rig, DType::I8, &[2, 16, 8]));
    let scale = zeros(&rig, DType::Bf16, &[2, 8]);
    let mut y = zeros(&rig, DType::Bf16, &[4, 8]);
    let mut run = |list: &Tensor, scale: &Tensor, kind| {
        let (x, weight, scale) = ([x.view()], [weight.view()], [scale.view()]);
        let groups = Groups::Rows { list: &list.view(), kind };
        let inputs = GroupedMatmul { x: &x, weight: &weight, bias: &[], groups };
        let quant = Quant::Int8 { scale: &scale, per_token: None, activation: GroupedActivation::None };
        op::grouped_matmul_quant(&sequence, &inputs, quant, &mut [y.view_mut()])
    };
    let counts = tensor(&rig, &[1i64, 3], &[2]);
    assert_eq!(run(&counts, &scale, GroupListKind::Count).unwrap(), Id::GroupedMatmulV5);
    let wrong = zeros(&rig, DType::F32, &[2, 8]);
    assert_eq!(rule(run(&counts, &wrong, GroupListKind::Count)), (Id::GroupedMatmulV5, "scale-dtype"));
    let flat = zeros(&rig, DType::Bf16, &[8]);
    assert_eq!(rule(run(&counts, &flat, GroupListKind::Count)), (Id::GroupedMatmulV5, "scale-shape"));
    let long = tensor(&rig, &[1i64, 4], &[2]);
    rig.device.set_check_group_lists(true);
    let answer = run(&long, &scale, GroupListKind::Count);
    assert!(matches!(&answer, Err(Error::GroupList(error)) if error.to_string().contains('4')), "{answer:?}");
    rig.device.set_check_group_lists(false);
    assert_eq!(rig.findings(), []);
    run(&long, &scale, GroupListKind::Count).unwrap();
    assert_eq!(rig.stream.synchronize().unwrap_err().code(), Some(507_015));
    assert_eq!(rig.findings().iter().map(|finding| finding.kind).collect::<Vec<_>>(), [FindingKind::GroupList]);
}

#[test]
fn only_signatures_that_carry_integers_are_tried() {
    use OperatorId as Id;
    let rig = without(&[Id::GroupedMatmulV5, Id::GroupedMatmulV4]);
    let sequence = rig.stream.sequence().unwrap();
    let (x, weight) = (zeros(&rig, DType::I8, &[4, 16]), zeros(&rig, DType::I8, &[2, 16, 8]));
    let mut y = zeros(&rig, DType::I32, &[4, 8]);
    let ends = zeros(&rig, DType::I64, &[2]);
    let groups = Groups::Rows { list: &ends.view(), kind: GroupListKind::Cumsum };
    let (x, weight) = ([x.view()], [weight.view()]);
    let inputs = GroupedMatmul { x: &x, weight: &weight, bias: &[], groups };
    match op::grouped_matmul_quant(&sequence, &inputs, Quant::Sums, &mut [y.view_mut()]) {
        Err(Error::MissingOperator { tried, .. }) => assert_eq!(tried, [Id::GroupedMatmulV5, Id::GroupedMatmulV4]),
        other => panic!("{other:?}"),
    }
}

/// Small numbers whose sums of products are exact.
fn small(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7 + i / 5 + seed * 11) % 9) as f32 - 4.0).collect()
}

/// Weights of integers times activations of `T`, in one tensor and in lists.
fn integer_weights<T: Element + Float>(rig: &Rig) {
    let sequence = rig.stream.sequence().unwrap();
    let [e, k, n] = [3, 16, 8];
    let of = |values: &[f32], shape: &[usize]| {
        tensor(rig, &values.iter().map(|&value| T::from_f32(value)).collect::<Vec<_>>(), shape)
    };
    let cases = [(false, 1, true), (true, 1, true), (true, 1, false), (true, 4, true), (true, 4, false)];
    for ((int4, parts, with_offset), transposed) in cases.into_iter().flat_map(|case| [(case, false), (case, true)]) {
        let w = numbers(e * k * n, if int4 { -8 } else { -16 }, if int4 { 7 } else { 15 }, 5);
        let (x, bias) = (small(ROWS * k, 1), small(e * n, 2));
        let scale: Vec<f32> = (0..e * parts * n).map(|i| [0.5, 1.0, -2.0][i % 3]).collect();
        let offset = small(e * parts * n, 3);
        let due = rows_of(n, |row, e, at| {
            let sum: f32 = (0..k)
                .map(|i| {
                    let factor = (e * parts + i / (k / parts)) * n + at;
                    let offset = if with_offset { offset[factor] } else { 0.0 };
                    x[row * k + i] * (f32::from(w[(e * k + i) * n + at]) + offset) * scale[factor]
                })
                .sum();
            sum + bias[e * n + at]
        });
        let due: Vec<f32> = due.into_iter().map(|value| T::from_f32(value).to_f32()).collect();
        let counts = tensor(rig, &COUNTS.map(|count| count as i64), &[3]);
        let list = counts.view();
        let groups = Groups::Rows { list: &list, kind: GroupListKind::Count };
        let layouts = if int4 { &[false, true][..] } else { &[false] };
        let x = of(&x, &[ROWS, k]);
        let x = [x.view()];
        let bias_of = |values: &[f32], shape: &[usize]| match T::DTYPE {
            DType::F16 => of(values, shape),
            _ => tensor(rig, values, shape),
        };
        let check = |weight: &[TensorView<'_>],
                     scale: &[TensorView<'_>],
                     offset: &[TensorView<'_>],
                     bias: &[TensorView<'_>]| {
            let mut y = of(&[POISON; ROWS * 8], &[ROWS, n]);
            let inputs = GroupedMatmul { x: &x, weight, bias, groups };
            let offset = if with_offset { offset } else { &[] };
            let quant = Quant::Weights { scale, offset };
            let ran = op::grouped_matmul_quant(&sequence, &inputs, quant, &mut [y.view_mut()]).unwrap();
            assert_eq!(ran, OperatorId::GroupedMatmulV5);
            let found: Vec<f32> = read::<T>(rig, &y).iter().map(|value| value.to_f32()).collect();
            assert_eq!(found, due, "int4 {int4}, {parts} parts, offset {with_offset}, transposed {transposed}");
        };
        for &carried in layouts {
            let layout = Layout { packed: false, transposed, carried };
            let weight = weight(rig, &w, [e, k, n], int4, layout);
            let (shape, whole) = ([e, parts, n], [e, n]);
            let shape: &[usize] = if parts > 1 { &shape } else { &whole };
            let (scale, offset) = (of(&scale, shape), of(&offset, shape));
            let bias = bias_of(&bias, &[e, n]);
            check(&[viewed(&weight, layout)], &[scale.view()], &[offset.view()], &[bias.view()]);
        }
        if with_offset && !transposed {
            let (shape, whole) = ([parts, n], [n]);
            let shape: &[usize] = if parts > 1 { &shape } else { &whole };
            let own = |values: &[f32], e: usize| of(&values[e * parts * n..][..parts * n], shape);
            let each: Vec<Tensor> = (0..e)
                .map(|e| {
                    let values = &w[e * k * n..][..k * n];
                    let bytes = if int4 { nibbles(values) } else { bytemuck::cast_slice(values).to_vec() };
                    let dtype = if int4 { DType::I4 } else { DType::I8 };
                    Tensor::from_bytes(&rig.device, dtype, &bytes, &[k, n]).unwrap()
                })
                .collect();
            let scales: Vec<_> = (0..e).map(|e| own(&scale, e)).collect();
            let offsets: Vec<_> = (0..e).map(|e| own(&offset, e)).collect();
            let biases: Vec<_> = (0..e).map(|e| bias_of(&bias[e * n..][..n], &[n])).collect();
            check(&views(&each), &views(&scales), &views(&offsets), &views(&biases));
        }
    }
}

#[test]
fn integer_weights_of_both_float_types() {
    let rig = Rig::new();
    integer_weights::<bf16>(&rig);
    integer_weights::<f16>(&rig);
}

#[test]
fn strided_operands_and_outputs_and_empty_ones() {
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    // Some columns of x and of the scales, and an output beside columns that are not written.
    let (k, n) = (4, 6);
    let wide_x = numbers(3 * 2 * 8, -128, 127, 1);
    let x = tensor(&rig, &wide_x, &[3, 16]);
    let w = numbers(k * n, -128, 127, 2);
    let weight = tensor(&rig, &w, &[1, k, n]);
    let scales = factors(2 * n, 3);
    let scale = tensor(&rig, &scales, &[1, 2 * n]);
    let factor = [0.5f32, 2., 1.];
    let tokens = tensor(&rig, &factor, &[3]);
    let tokens = tokens.view();
    let mut y = tensor(&rig, &[f16::from_f32(POISON); 3 * 9], &[3, 9]);
    let counts = tensor(&rig, &[3i64], &[1]);
    let list = counts.view();
    let groups = Groups::Rows { list: &list, kind: GroupListKind::Count };
    let x_in = [x.view().narrow(1, 2..6).unwrap()];
    let (weight_in, scale_in) = ([weight.view()], [scale.view().narrow(1, 3..9).unwrap()]);
    let inputs = GroupedMatmul { x: &x_in, weight: &weight_in, bias: &[], groups };
    let quant = Quant::Int8 { scale: &scale_in, per_token: Some(&tokens), activation: GroupedActivation::None };
    op::grouped_matmul_quant(&sequence, &inputs, quant, &mut [y.view_mut().narrow(1, 0..n).unwrap()]).unwrap();
    let due = (0..27).map(|i| match (i / 9, i % 9) {
        (row, at) if at < n => dot(&wide_x[row * 16 + 2..][..k], &w, n, at) as f32 * scales[3 + at] * factor[row],
        _ => POISON,
    });
    let found: Vec<f32> = read::<f16>(&rig, &y).iter().map(|value| value.to_f32()).collect();
    assert_eq!(found, f16s(&due.collect::<Vec<_>>()));

    // Nothing is called where nothing comes out.
    let calls = || rig.cann.table().operator_calls().collect::<Vec<_>>();
    let before = calls();
    let x = zeros(&rig, DType::I8, &[0, k]);
    let mut y = zeros(&rig, DType::I32, &[0, n]);
    let (x, weight) = ([x.view()], [weight.view()]);
    let inputs = GroupedMatmul { x: &x, weight: &weight, ..inputs };
    op::grouped_matmul_quant(&sequence, &inputs, Quant::Sums, &mut [y.view_mut()]).unwrap();
    assert_eq!(calls(), before);
}
