//! Between the products of a quantised expert: worked numbers, refusals, and equality with plain loops.

use crate::common::*;
use half::bf16;
use moe_kernels::KernelError;
use moe_kernels::activation::Clipped;
use moe_kernels::dequant_swiglu::{
    Bias, Dequant, GatedRows, Glu, Requantise, RowGroups, ScaleBy, dequant_swiglu_quant,
};
use moe_kernels::group_list::{Group, GroupListKind, decode};
use moe_kernels::quantise::{Conversion, Integer, RowQuantiser, Scaling};
use proptest::prelude::*;

const LEFT: Glu = Glu::Halves { gate_first: true };

fn quantiser(scaling: Scaling) -> RowQuantiser {
    RowQuantiser { integer: Integer::Int8, scaling, conversion: Conversion::Nearest }
}

/// int8 numbers of rows, and their scales; what is not written is -7.
fn run(
    x: GatedRows<'_, bf16>,
    (rows, half): (usize, usize),
    groups: RowGroups<'_>,
    glu: Glu,
    requantise: Requantise<'_>,
) -> Result<(Vec<i8>, Vec<f32>), KernelError> {
    let (mut y, mut scale) = (vec![-7i8; rows * half], vec![-7f32; rows]);
    dequant_swiglu_quant(x, half, groups, glu, requantise, bytemuck::cast_slice_mut(&mut y), &mut scale)?;
    Ok((y, scale))
}

/// Operator example 16.
#[test]
fn accumulators_with_groups() {
    let x = [10, -20, 4, 8, 1, 2, 3, 4, 7, 7, 7, 7];
    let dequant = Dequant {
        weight_scale: &[0.1, 0.1, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0],
        activation_scale: Some(&[1.0, 0.5, 2.0]),
        bias: None,
    };
    let rows = decode(GroupListKind::Count, &[1, 1], 2, 3).unwrap();
    let groups = RowGroups { count: 2, rows: &rows, rest: false };
    let smooth = Some(&[1.0, 2.0, 1.0, 1.0][..]);
    let requantise = Requantise::Dynamic { quantiser: quantiser(Scaling::DivideByProduct), smooth };
    let (y, scale) = run(GatedRows::Accumulators(&x, dequant), (3, 2), groups, LEFT, requantise).unwrap();
    assert_eq!(y, [97, -127, 41, 127, -7, -7]);
    near(&scale[..2], &[0.015_017_69, 0.011_512_73]);
    assert_eq!(scale[2], -7.0);
}

/// Operator example 16, floats and the reciprocal scale.
#[test]
fn floats_and_the_reciprocal_scale() {
    let x = bf(&[1.0, 2.0, 4.0, -3.0]);
    let all = [Group { expert: 0, rows: 0..1 }];
    let groups = RowGroups { count: 1, rows: &all, rest: false };
    let requantise = Requantise::Dynamic { quantiser: quantiser(Scaling::MultiplyByScale), smooth: None };
    let (y, scale) = run(GatedRows::Floats(&x), (1, 2), groups, LEFT, requantise).unwrap();
    assert_eq!(y, [70, -127]);
    near(&scale, &[24.031_263]);
    // The other half is the gate: silu(4) * 1 and silu(-3) * 2.
    let right = Glu::Halves { gate_first: false };
    let (y, _) = run(GatedRows::Floats(&x), (1, 2), groups, right, requantise).unwrap();
    assert_eq!(y, [127, -9]);
}

#[test]
fn refusals() {
    let x = bf(&[1.0; 8]);
    let all = [Group { expert: 0, rows: 0..2 }];
    let plain = RowGroups { count: 1, rows: &all, rest: false };
    let dynamic = |smooth| Requantise::Dynamic { quantiser: quantiser(Scaling::Divide), smooth };
    let fails = |x, groups, requantise| run(x, (2, 2), groups, LEFT, requantise).unwrap_err();
    assert!(matches!(fails(GatedRows::Floats(&x[1..]), plain, dynamic(None)), KernelError::Length { what: "x", .. }));
    let smooth = Some(&[1.0; 3][..]);
    assert!(matches!(fails(GatedRows::Floats(&x), plain, dynamic(smooth)), KernelError::Length { .. }));
    let far = [Group { expert: 1, rows: 0..2 }];
    let far = RowGroups { count: 1, rows: &far, rest: false };
    assert!(matches!(fails(GatedRows::Floats(&x), far, dynamic(None)), KernelError::Range { what: "group", .. }));
    let long = [Group { expert: 0, rows: 0..3 }];
    let long = RowGroups { count: 1, rows: &long, rest: false };
    assert!(matches!(fails(GatedRows::Floats(&x), long, dynamic(None)), KernelError::Range { .. }));
    let given = Requantise::Static { integer: Integer::Int8, by: ScaleBy::Divide, scale: &[1.0], offset: &[] };
    assert!(matches!(fails(GatedRows::Floats(&x), plain, given), KernelError::Length { what: "given offset", .. }));
    let accumulators = [0; 8];
    let with = |weight_scale, activation_scale, bias| {
        GatedRows::Accumulators(&accumulators, Dequant { weight_scale, activation_scale, bias })
    };
    let four = &[1.0; 4][..];
    let wrong = [
        (with(&[1.0; 3], None, None), "weight scale"),
        (with(four, Some(&[1.0; 3]), None), "activation scale"),
        (with(four, None, Some(Bias::Floats(&[1.0; 5]))), "bias"),
        (with(four, None, Some(Bias::Accumulators(&[1; 3]))), "bias"),
    ];
    for (x, due) in wrong {
        let error = fails(x, plain, dynamic(None));
        assert!(matches!(error, KernelError::Length { what, .. } if what == due), "{error}");
    }
}

/// Numbers of a group: one for all columns, or one for each.
fn of(values: &[f32], group: usize, groups: usize, column: usize, width: usize) -> f32 {
    if values.len() == groups { values[group] } else { values[group * width + column] }
}

#[derive(Debug, Clone)]
struct Setting {
    rows: usize,
    half: usize,
    counts: Vec<i64>,
    rest: bool,
    seed: u64,
    accumulators: bool,
    bias: usize,
    activation: bool,
    glu: Glu,
    mode: usize,
    per_column: bool,
}

fn setting() -> impl Strategy<Value = Setting> {
    let clipped = |interleaved| Glu::Clipped(Clipped { alpha: 1.702, limit: 3.0, bias: 1.0, interleaved });
    let right = Glu::Halves { gate_first: false };
    let glu = prop::sample::select(vec![LEFT, right, clipped(true), clipped(false)]);
    let sizes = (0..6usize, prop::sample::select(vec![1usize, 2, 7, 255, 256, 300]), 1..4usize);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (sizes, flags, 0..3usize, 0..4usize, glu, any::<u64>()).prop_map(
        |((rows, half, groups), (rest, accumulators, activation, per_column), bias, mode, glu, seed)| {
            let mut left = rows as i64;
            let counts = noise(groups, seed ^ 9)
                .iter()
                .map(|share| {
                    let count = ((share + 0.5) * (left + 1) as f32) as i64;
                    left -= count;
                    count
                })
                .collect();
            Setting { rows, half, counts, rest, seed, accumulators, bias, activation, glu, mode, per_column }
        },
    )
}

proptest! {
    #[test]
    fn rows_are_their_formulas(setting in setting()) {
        let Setting { rows, half, ref counts, rest, seed, accumulators, bias, activation, glu, mode, per_column } = setting;
        let (width, count) = (2 * half, counts.len());
        let groups = decode(GroupListKind::Count, counts, count, rows).unwrap();
        let row_groups = RowGroups { count, rows: &groups, rest };
        let random = |n, salt: u64| noise(n, seed ^ salt);
        let floats: Vec<bf16> = to(&random(rows * width, 1).iter().map(|v| v * 16.0).collect::<Vec<_>>());
        let sums: Vec<i32> = random(rows * width, 2).iter().map(|v| (v * 4e5) as i32).collect();
        let weight_scale: Vec<f32> = random(count * width, 3).iter().map(|v| v * 1e-4).collect();
        let per_row = random(rows, 4);
        let add = random(count * width, 5);
        let add_sums: Vec<i32> = add.iter().map(|v| (v * 1e4) as i32).collect();
        let dequant = Dequant {
            weight_scale: &weight_scale,
            activation_scale: activation.then_some(&per_row[..]),
            bias: [None, Some(Bias::Floats(&add)), Some(Bias::Accumulators(&add_sums))][bias],
        };
        let x = if accumulators { GatedRows::Accumulators(&sums, dequant) } else { GatedRows::Floats(&floats) };
        let given = if per_column { count * half } else { count };
        let (factors, offsets) = (random(given, 6), random(given, 7));
        let scaling = Scaling::DivideByProduct;
        let requantise = match mode {
            0 => Requantise::Dynamic { quantiser: quantiser(scaling), smooth: None },
            1 => Requantise::Dynamic { quantiser: quantiser(scaling), smooth: Some(&factors) },
            _ => {
                let by = if mode == 2 { ScaleBy::Divide } else { ScaleBy::Multiply };
                Requantise::Static { integer: Integer::Int8, by, scale: &factors, offset: &offsets }
            }
        };
        let due_of = |row: usize| -> Option<(Vec<i8>, f32, Vec<f32>)> {
            let group = groups.iter().find(|group| group.rows.contains(&row)).map(|group| group.expert);
            if group.is_none() && !rest {
                return None;
            }
            let own = group.unwrap_or(0);
            let cell = |c: usize| {
                let (at, column) = (row * width + c, own * width + c);
                if !accumulators {
                    return floats[at].to_f32();
                }
                let sum = if bias == 2 { sums[at] + add_sums[column] } else { sums[at] };
                let mut v = sum as f32 * weight_scale[column];
                if activation {
                    v *= per_row[row];
                }
                if bias == 1 { v + add[column] } else { v }
            };
            let act = |c: usize| match glu {
                Glu::Halves { gate_first } => {
                    let (gate, up) = if gate_first { (cell(c), cell(half + c)) } else { (cell(half + c), cell(c)) };
                    gate / (1.0 + (-gate).exp()) * up
                }
                Glu::Clipped(Clipped { alpha, limit, bias, interleaved }) => {
                    let (gate, up) = if interleaved { (cell(2 * c), cell(2 * c + 1)) } else { (cell(c), cell(half + c)) };
                    let (gate, up) = (gate.min(limit), up.clamp(-limit, limit));
                    gate / (1.0 + (-alpha * gate).exp()) * (up + bias)
                }
            };
            let column = |c: usize| {
                let v = act(c);
                let Some(group) = group else { return v };
                let number = |values: &[f32]| of(values, group, count, c, half);
                match mode {
                    0 => v,
                    1 | 3 => v * number(&factors) + if mode == 3 { number(&offsets) } else { 0.0 },
                    _ if factors.len() == count => v * (1.0 / number(&factors)) + number(&offsets),
                    _ => v / number(&factors) + number(&offsets),
                }
            };
            let v: Vec<f32> = (0..half).map(column).collect();
            let scale = v.iter().fold(0f32, |most, v| most.max(v.abs())) * (1.0 / 127.0);
            let whole = |v: &f32| {
                let v = if mode < 2 { v / scale } else { *v };
                (v.round_ties_even() as i32).clamp(-128, 127) as i8
            };
            Some((v.iter().map(whole).collect(), if mode < 2 { scale } else { -7.0 }, v))
        };
        on_pools(|| {
            let (y, scale) = run(x, (rows, half), row_groups, glu, requantise).unwrap();
            for row in 0..rows {
                let found = &y[row * half..][..half];
                match due_of(row) {
                    None => assert_eq!((found, scale[row]), (&vec![-7; half][..], -7.0), "row {row} of {setting:?}"),
                    Some((codes, due, values)) if mode < 2 => same_codes((found, scale[row]), (&codes, due), &values),
                    // As if the scale were 1.
                    Some((codes, due, values)) => {
                        assert_eq!(scale[row], due);
                        same_codes((found, 1.0), (&codes, 1.0), &values);
                    }
                }
            }
        });
    }
}
