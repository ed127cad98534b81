//! The fused grouped products of quantised experts, with SwiGLU and quantisation behind them or added up by token: every
//! version, layout and carrier against plain loops, and what is found on the device.

use ascend_moe::op::{self, GroupListKind, GroupedFinalizeRouting, GroupedSwigluQuant, SharedInput};
use ascend_moe::{DType, Tensor};
use ascend_sys::OperatorId;
use cann_sim::FindingKind;

use crate::operators::{bf, read, tensor, zeros};
use crate::quantised::{
    COUNTS, LAYOUTS, Layout, POISON, ROWS, bf16s, dot, factors, half, halves, msd, nibbles, numbers, rows_of, rule,
    viewed, weight, wide, without,
};
use crate::rig::Rig;

/// `q` and `scale` of rows of dequantised sums.
fn quantised(sums: &[f32], n: usize, smooth: impl Fn(usize, usize) -> f32) -> (Vec<i8>, Vec<f32>) {
    let (mut q, mut scales) = (Vec::new(), Vec::new());
    for (row, sums) in sums.chunks(n).enumerate() {
        if row >= COUNTS.iter().sum() {
            q.extend(vec![9; n / 2]);
            scales.push(POISON);
            continue;
        }
        let (gate, up) = sums.split_at(n / 2);
        let s = gate.iter().zip(up).enumerate();
        let s: Vec<f32> = s.map(|(at, (gate, up))| gate / (1.0 + (-gate).exp()) * up * smooth(row, at)).collect();
        let scale = s.iter().fold(0f32, |most, s| most.max(s.abs())) / 127.0;
        q.extend(s.iter().map(|s| half(s * (1.0 / scale)).round_ties_even() as i8));
        scales.push(scale);
    }
    (q, scales)
}

/// Codes and scales are those due, but for what an exponential a few units in the last place from that of the standard library
/// turns over: the last places of scales, and a code in a hundred by one.
fn assert_rows(rig: &Rig, [q, scales]: [&Tensor; 2], due: &(Vec<i8>, Vec<f32>), what: &str) {
    let (q, scales) = (read::<i8>(rig, q), read::<f32>(rig, scales));
    let near = |(found, due): (&f32, &f32)| (found - due).abs() <= 4.0 * f32::EPSILON * due.abs();
    assert!(scales.iter().zip(&due.1).all(near), "{what}: scales {scales:?}, due {:?}", due.1);
    let apart: Vec<u8> = q.iter().zip(&due.0).map(|(found, due)| found.abs_diff(*due)).filter(|by| *by > 0).collect();
    assert!(apart.iter().all(|by| *by == 1) && 100 * apart.len() <= q.len(), "{what}: codes {q:?}, due {:?}", due.0);
}

fn targets(rig: &Rig, n: usize) -> (Tensor, Tensor) {
    (tensor(rig, &vec![9i8; ROWS * n / 2], &[ROWS, n / 2]), tensor(rig, &[POISON; ROWS], &[ROWS]))
}

#[test]
fn swiglu_of_int8_and_int4_in_every_version() {
    use OperatorId as Id;
    let versions = [
        Id::GroupedMatmulSwigluQuantWeightNzV2,
        Id::GroupedMatmulSwigluQuantV2,
        Id::GroupedMatmulSwigluQuantWeightNZ,
        Id::GroupedMatmulSwigluQuant,
    ];
    let [e, k, n] = [3, 64, 128];
    for (missing, &version) in versions.iter().enumerate() {
        let rig = without(&versions[..missing]);
        rig.device.set_check_group_lists(true);
        let sequence = rig.stream.sequence().unwrap();
        let ends = tensor(&rig, &[3i64, 3, 7], &[3]);
        let x = numbers(ROWS * k, -128, 127, 3);
        let (per_token, column, bias) = (factors(ROWS, 1), factors(e * n, 2), factors(e * n, 3));
        let x_in = tensor(&rig, &x, &[ROWS, k]);
        let x_scale = tensor(&rig, &per_token, &[ROWS]);
        for int4 in [false, true] {
            let w = numbers(e * k * n, if int4 { -8 } else { -128 }, if int4 { 7 } else { 127 }, 5);
            let sums = rows_of(n, |row, e, at| {
                let (x, w) = (&x[row * k..][..k], &w[e * k * n..]);
                match int4 {
                    false => dot(x, w, n, at) as f32 * per_token[row] * column[e * n + at],
                    true => (msd(x, w, n, at, &column[e * n..][..n]) + bias[e * n + at]) * per_token[row],
                }
            });
            let due = quantised(&sums, n, |_, _| 1.0);
            for carried in [false, true] {
                let weight = weight(&rig, &w, [e, k, n], int4, Layout { packed: true, transposed: false, carried });
                let scale = if int4 { wide(&rig, &column, &[e, n]) } else { tensor(&rig, &column, &[e, n]) };
                let assist = tensor(&rig, &bias, &[e, n]);
                let (weight, scale, assist) = ([weight.view()], [scale.view()], [assist.view()]);
                let inputs = GroupedSwigluQuant {
                    x: &x_in.view(),
                    x_scale: &x_scale.view(),
                    weight: &weight,
                    weight_scale: &scale,
                    assist: if int4 { &assist } else { &[] },
                    smooth: None,
                    group_list: &ends.view(),
                    kind: GroupListKind::Cumsum,
                };
                let (mut q, mut s) = targets(&rig, n);
                let ran = op::grouped_matmul_swiglu_quant(&sequence, &inputs, &mut q.view_mut(), &mut s.view_mut());
                assert_eq!(ran.unwrap(), version);
                assert_rows(&rig, [&q, &s], &due, &format!("{version:?}, int4 {int4}"));
            }
        }
    }
}

#[test]
fn swiglu_of_lists_parts_and_int4_operands() {
    use OperatorId as Id;
    let rig = Rig::new();
    let sequence = rig.stream.sequence().unwrap();
    let [e, k, n, parts] = [3, 64, 64, 4];
    let counts = tensor(&rig, &COUNTS.map(|count| count as i64), &[3]);
    let w = numbers(e * k * n, -8, 7, 5);
    let (per_token, column, bias) = (factors(ROWS, 1), factors(e * parts * n, 2), factors(e * n, 3));
    let x_scale = tensor(&rig, &per_token, &[ROWS]);
    let scale_of = |e: usize| &column[e * parts * n..][..parts * n];

    // Each weight by itself, a scale for each of four parts of K.
    let x = numbers(ROWS * k, -128, 127, 3);
    let sums = rows_of(n, |row, e, at| {
        (msd(&x[row * k..][..k], &w[e * k * n..], n, at, scale_of(e)) + bias[e * n + at]) * per_token[row]
    });
    let each: Vec<[Tensor; 3]> = (0..e)
        .map(|e| {
            let stored = nibbles(&w[e * k * n..][..k * n]);
            let weight = Tensor::from_bytes(&rig.device, DType::I4, &stored, &[k, n]).unwrap();
            [weight, wide(&rig, scale_of(e), &[parts, n]), tensor(&rig, &bias[e * n..][..n], &[n])]
        })
        .collect();
    let [weight, scale, assist] = [0, 1, 2].map(|i| each.iter().map(|all| all[i].view()).collect::<Vec<_>>());
    let x_in = tensor(&rig, &x, &[ROWS, k]);
    let inputs = GroupedSwigluQuant {
        x: &x_in.view(),
        x_scale: &x_scale.view(),
        weight: &weight,
        weight_scale: &scale,
        assist: &assist,
        smooth: None,
        group_list: &counts.view(),
        kind: GroupListKind::Count,
    };
    let (mut q, mut s) = targets(&rig, n);
    let ran = op::grouped_matmul_swiglu_quant(&sequence, &inputs, &mut q.view_mut(), &mut s.view_mut()).unwrap();
    assert_eq!(ran, Id::GroupedMatmulSwigluQuantV2);
    assert_eq!((read::<i8>(&rig, &q), read::<f32>(&rig, &s)), quantised(&sums, n, |_, _| 1.0));

    // int4 by int4, with factors of each column of each expert, and of each expert.
    let x = numbers(ROWS * k, -8, 7, 3);
    let sums =
        rows_of(n, |row, e, at| halves(&x[row * k..][..k], &w[e * k * n..], n, at, scale_of(e)) * per_token[row]);
    let smooth = factors(e * n / 2, 6);
    let expert_of = |row: usize| if row < 3 { 0 } else { 2 };
    let x_in = Tensor::from_bytes(&rig.device, DType::I4, &nibbles(&x), &[ROWS, k]).unwrap();
    let layout = Layout { packed: true, transposed: true, carried: false };
    let (stacked, scale) =
        (crate::quantised::weight(&rig, &w, [e, k, n], true, layout), wide(&rig, &column, &[e, parts, n]));
    let (weight, scale) = ([viewed(&stacked, layout)], [scale.view()]);
    for by_column in [true, false] {
        let (shape, one) = ([e, n / 2], [e]);
        let factors =
            tensor(&rig, &smooth[..if by_column { e * n / 2 } else { e }], if by_column { &shape } else { &one });
        let factors = factors.view();
        let inputs = GroupedSwigluQuant {
            x: &x_in.view(),
            x_scale: &x_scale.view(),
            weight: &weight,
            weight_scale: &scale,
            assist: &[],
            smooth: Some(&factors),
            group_list: &counts.view(),
            kind: GroupListKind::Count,
        };
        let (mut q, mut s) = targets(&rig, n);
        let ran = op::grouped_matmul_swiglu_quant(&sequence, &inputs, &mut q.view_mut(), &mut s.view_mut()).unwrap();
        assert_eq!(ran, Id::GroupedMatmulSwigluQuantWeightNzV2);
        let due =
            quantised(&sums, n, |row, at| smooth[if by_column { expert_of(row) * n / 2 + at } else { expert_of(row) }]);
        assert_rows(&rig, [&q, &s], &due, "int4 by int4");
    }
}

/// Weighted rows of two experts added up for four tokens, in every version.
#[test]
fn rows_added_up_by_token_in_every_version() {
    use OperatorId as Id;
    let plain =
        [Id::GroupedMatmulFinalizeRoutingV3, Id::GroupedMatmulFinalizeRoutingV2, Id::GroupedMatmulFinalizeRouting];
    let packed = [Id::GroupedMatmulFinalizeRoutingWeightNzV2, Id::GroupedMatmulFinalizeRoutingWeightNz];
    let (e, k, n, batch) = (3, 192, 256, 4);
    let index = [3i64, 0, 1, 1, 3, 0, 3, 2, 2];
    let (x, per_token, logit) = (numbers(ROWS * k, -128, 127, 3), factors(ROWS, 1), factors(ROWS, 8));
    let (column, bias, offset) = (factors(e * n, 2), factors(e * n, 3), factors(e * n, 4));
    let shared = bf16s(&factors(2 * n, 5));
    let check = |rig: &Rig, version: OperatorId, int4: bool, layout: Layout, with_offset: bool, with_tokens: bool| {
        let sequence = rig.stream.sequence().unwrap();
        let w = numbers(e * k * n, if int4 { -8 } else { -128 }, if int4 { 7 } else { 127 }, 5);
        let values = rows_of(n, |row, e, at| {
            let (x, w) = (&x[row * k..][..k], &w[e * k * n..]);
            let factor = logit[row] * if with_tokens { per_token[row] } else { 1.0 };
            if !int4 {
                return dot(x, w, n, at) as f32 * column[e * n + at] * factor;
            }
            let mut sum = msd(x, w, n, at, &column[e * n..][..n]);
            if with_offset {
                sum += x.iter().map(|&x| i32::from(x)).sum::<i32>() as f32 * offset[e * n + at];
            }
            (sum + bias[e * n + at]) * factor
        });
        let mut due = vec![0f32; batch * n];
        due[n..3 * n].iter_mut().zip(&shared).for_each(|(due, shared)| *due = 0.5 * shared);
        for (row, values) in values.chunks(n).enumerate().take(COUNTS.iter().sum()) {
            let start = index[row] as usize * n;
            due[start..start + n].iter_mut().zip(values).for_each(|(due, value)| *due += value);
        }
        let weight = weight(rig, &w, [e, k, n], int4, layout);
        let bytes: Vec<i64> = column.iter().map(|value| i64::from(value.to_bits())).collect();
        let scale = if int4 { tensor(rig, &bytes, &[e, 1, n]) } else { tensor(rig, &column, &[e, n]) };
        let (bias, offset) = (tensor(rig, &bias, &[e, n]), tensor(rig, &offset, &[e, 1, n]));
        let (tokens, logits) = (tensor(rig, &per_token, &[ROWS]), tensor(rig, &logit, &[ROWS]));
        let (ends, rows) = (tensor(rig, &[3i64, 3, 7], &[3]), tensor(rig, &index, &[ROWS]));
        let shared = tensor(rig, &bf(&shared), &[2, n]);
        let x = tensor(rig, &x, &[ROWS, k]);
        let (bias, offset, tokens, shared) = (bias.view(), offset.view(), tokens.view(), shared.view());
        let inputs = GroupedFinalizeRouting {
            x: &x.view(),
            weight: &weight.view(),
            scale: &scale.view(),
            bias: int4.then_some(&bias),
            offset: with_offset.then_some(&offset),
            per_token: with_tokens.then_some(&tokens),
            group_list: &ends.view(),
            kind: GroupListKind::Cumsum,
            logit: &logits.view(),
            row_index: &rows.view(),
            shared: Some(SharedInput { rows: &shared, weight: 0.5, offset: 1 }),
        };
        let mut out = tensor(rig, &vec![POISON; batch * n], &[batch, n]);
        let ran = op::grouped_matmul_finalize_routing(&sequence, &inputs, &mut out.view_mut());
        assert_eq!(ran.unwrap(), version);
        assert_eq!(read::<f32>(rig, &out), due, "{version:?}, int4 {int4}, {layout:?}");
    };
    for (missing, &version) in plain.iter().enumerate() {
        let rig = without(&plain[..missing]);
        check(&rig, version, true, LAYOUTS[2], false, true);
        if version != Id::GroupedMatmulFinalizeRouting {
            check(&rig, version, true, LAYOUTS[2], true, true);
        }
    }
    for (missing, &version) in packed.iter().enumerate() {
        let rig = without(&packed[..missing]);
        rig.device.set_check_group_lists(true);
        check(&rig, version, true, LAYOUTS[1], false, true);
        check(&rig, version, false, LAYOUTS[1], false, true);
        check(&rig, version, false, LAYOUTS[1], false, false);
        if version == Id::GroupedMatmulFinalizeRoutingWeightNzV2 {
            check(&rig, version, true, LAYOUTS[3], true, true);
        }
    }
}

#[test]
fn a_row_for_no_token_is_found_on_the_device() {
    let mut rig = Rig::new();
    rig.expect_findings();
    let sequence = rig.stream.sequence().unwrap();
    let layout = LAYOUTS[1];
    let weight = weight(&rig, &vec![1; 16 * 256], [1, 16, 256], false, layout);
    let x = zeros(&rig, DType::I8, &[2, 16]);
    let (scale, logit) = (zeros(&rig, DType::F32, &[1, 256]), zeros(&rig, DType::F32, &[2]));
    let (counts, rows) = (tensor(&rig, &[2i64], &[1]), tensor(&rig, &[0i64, 2], &[2]));
    let inputs = GroupedFinalizeRouting {
        x: &x.view(),
        weight: &weight.view(),
        scale: &scale.view(),
        bias: None,
        offset: None,
        per_token: None,
        group_list: &counts.view(),
        kind: GroupListKind::Count,
        logit: &logit.view(),
        row_index: &rows.view(),
        shared: None,
    };
    let mut out = zeros(&rig, DType::F32, &[2, 256]);
    let bias = zeros(&rig, DType::Bf16, &[1, 256]);
    let bias = bias.view();
    let biased = GroupedFinalizeRouting { bias: Some(&bias), ..inputs };
    let answer = op::grouped_matmul_finalize_routing(&sequence, &biased, &mut out.view_mut());
    assert_eq!(rule(answer), (OperatorId::GroupedMatmulFinalizeRoutingWeightNzV2, "bias"));
    op::grouped_matmul_finalize_routing(&sequence, &inputs, &mut out.view_mut()).unwrap();
    assert_eq!(rig.stream.synchronize().unwrap_err().code(), Some(507_015));
    assert_eq!(rig.findings().iter().map(|finding| finding.kind).collect::<Vec<_>>(), [FindingKind::OutOfBounds]);
}
