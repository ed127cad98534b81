//! Quantisation of rows: worked numbers, refusals, and equality with plain loops made of the operators' formulas.

use crate::common::*;
use half::f16;
use moe_kernels::KernelError;
use moe_kernels::element::Float;
use moe_kernels::group_list::Group;
use moe_kernels::init_routing::{Placement, Routing};
use moe_kernels::quantise::{
    Along, Conversion, Given, Integer, RowQuantiser, Scaling, Smooth, dynamic_quantise, dynamic_quantise_asymmetric,
    static_quantise,
};
use proptest::prelude::*;

const NONE: Option<Smooth<'static, f32>> = None;

/// The whole numbers in bytes of rows.
fn numbers(integer: Integer, bytes: &[u8]) -> Vec<i32> {
    match integer {
        Integer::Int8 => bytes.iter().map(|byte| i32::from(*byte as i8)).collect(),
        Integer::Int4 => {
            bytes.iter().flat_map(|byte| [(byte << 4) as i8 >> 4, *byte as i8 >> 4]).map(i32::from).collect()
        }
    }
}

fn bytes(integer: Integer, count: usize) -> Vec<u8> {
    vec![0x55; if integer == Integer::Int4 { count / 2 } else { count }]
}

/// A value as each conversion defines it, step by step.
fn converted(conversion: Conversion, integer: Integer, value: f32) -> i32 {
    let toward_zero = |value: f32| {
        let near = f16::from_f32(value);
        if near.to_f32().abs() > value.abs() { f16::from_bits(near.to_bits() - 1) } else { near }.to_f32()
    };
    let whole = match conversion {
        Conversion::Nearest => value.round_ties_even(),
        Conversion::NearestHalf => f16::from_f32(value).to_f32().round_ties_even(),
        Conversion::NearestCutHalf => toward_zero(value).round(),
        Conversion::Floor => value.floor(),
        Conversion::Ceil => value.ceil(),
        Conversion::Truncate => value.trunc(),
    };
    // NaN becomes 0.
    (whole as i32).clamp(integer.least() as i32, integer.most() as i32)
}

/// A row and its scale, as each operator's formula has it.
fn quantised(quantiser: RowQuantiser, row: &[f32]) -> (Vec<i32>, f32) {
    let RowQuantiser { integer, scaling, conversion } = quantiser;
    let n = integer.most();
    let magnitude =
        |most: f32, value: &f32| if value.is_nan() || most.is_nan() { f32::NAN } else { most.max(value.abs()) };
    let m = row.iter().fold(0.0, magnitude);
    let (apply, scale): (Box<dyn Fn(f32) -> f32>, f32) = match scaling {
        Scaling::Divide => (Box::new(move |v| v / (m / n)), m / n),
        Scaling::DivideByProduct => (Box::new(move |v| v / (m * (1.0 / n))), m * (1.0 / n)),
        Scaling::MultiplyByReciprocal => (Box::new(move |v| v * (1.0 / (m / n))), m / n),
        Scaling::MultiplyOfProduct => (Box::new(move |v| v * (n / m)), m * (1.0 / n)),
        Scaling::MultiplyOfReciprocal => (Box::new(move |v| v * (n / m)), 1.0 / (n / m)),
        Scaling::MultiplyByScale => (Box::new(move |v| v * (n / m)), n / m),
    };
    (row.iter().map(|value| converted(conversion, integer, apply(*value))).collect(), scale)
}

fn one(quantiser: RowQuantiser, row: &[f32]) -> (Vec<i32>, f32) {
    let mut out = bytes(quantiser.integer, row.len());
    let scale = quantiser.row(row, &mut out).unwrap();
    (numbers(quantiser.integer, &out), scale)
}

const CONVERSIONS: [Conversion; 6] = [
    Conversion::Nearest,
    Conversion::NearestHalf,
    Conversion::NearestCutHalf,
    Conversion::Floor,
    Conversion::Ceil,
    Conversion::Truncate,
];

const SCALINGS: [Scaling; 6] = [
    Scaling::Divide,
    Scaling::DivideByProduct,
    Scaling::MultiplyByReciprocal,
    Scaling::MultiplyOfProduct,
    Scaling::MultiplyOfReciprocal,
    Scaling::MultiplyByScale,
];

fn quantiser(scaling: Scaling) -> RowQuantiser {
    RowQuantiser { integer: Integer::Int8, scaling, conversion: Conversion::Nearest }
}

/// A row by one scale and one offset.
fn by_one(x: &[f32], scale: f32, offset: f32, y: &mut [u8]) {
    let given = Given::one(&scale, &offset);
    static_quantise(Integer::Int8, Conversion::Nearest, x, x.len(), given, y).unwrap();
}

/// Operator example 1. A scale of 1 that no value of the row moves, so that each value is converted as it is.
#[test]
fn conversions() {
    let converts = |conversion, values: &[f32], due: &[i32]| {
        let row: Vec<f32> = values.iter().copied().chain([127.0]).collect();
        let within: Vec<usize> = (0..values.len()).filter(|&i| values[i].abs() <= 127.0).collect();
        let kept: Vec<f32> = within.iter().map(|&i| row[i]).chain([127.0]).collect();
        let quantiser = RowQuantiser { integer: Integer::Int8, scaling: Scaling::Divide, conversion };
        let (found, scale) = one(quantiser, &kept);
        assert_eq!(scale, 1.0);
        assert_eq!(found[..within.len()], within.iter().map(|&i| due[i]).collect::<Vec<_>>(), "{conversion:?}");
    };
    let a = [0.5, 1.5, 2.5, -0.5, -1.5, 2.5 + 1.0 / 2048.0, 126.5];
    converts(Conversion::Nearest, &a, &[0, 2, 2, 0, -2, 3, 126]);
    converts(Conversion::NearestHalf, &a, &[0, 2, 2, 0, -2, 2, 126]);
    converts(Conversion::NearestCutHalf, &[2.5, -2.5, 2.499_511_7, 0.5, 1.4999], &[3, -3, 2, 1, 1]);
    converts(Conversion::Floor, &[2.5, -2.5, 2.0, -0.1], &[2, -3, 2, -1]);
    converts(Conversion::Ceil, &[2.5, -2.5, 2.0, 0.1], &[3, -2, 2, 1]);
    converts(Conversion::Truncate, &[2.9, -2.9, 2.0, -0.1], &[2, -2, 2, 0]);
    // Beyond the ends.
    let mut y = [0u8; 7];
    by_one(&[126.5f32, 127.4, 200.0, -128.5, -129.0, -300.0, f32::NAN], 1.0, 0.0, &mut y);
    assert_eq!(numbers(Integer::Int8, &y), [126, 127, 127, -128, -128, -128, 0]);
}

/// Operator examples 5, 15 and the quantisation of 13.
#[test]
fn rows_with_their_scales() {
    let divide = quantiser(Scaling::Divide);
    assert_eq!(one(divide, &[127.0, 0.5, 1.5, 2.5, -0.5, -2.5]), (vec![127, 0, 2, 2, 0, -2], 1.0));
    let (q, scale) = one(divide, &[1.0, -2.0, 0.3, 0.7, 2.0, -0.01]);
    assert_eq!(q, [64, -127, 19, 44, 127, -1]);
    near(&[scale], &[0.015_748_031]);
    let x = [1.0f32, 2.0, 3.0, 4.0];
    let (mut y, mut scale) = ([0; 4], [0.0]);
    let smooth = Some(Smooth { factors: &[1.0f32, 2.0, 0.5, 1.0][..], groups: None });
    dynamic_quantise(divide, &x, 4, smooth, &mut y, &mut scale).unwrap();
    assert_eq!(y, [32, 127, 48, 127]);
    near(&scale, &[0.031_496_063]);

    for scaling in [Scaling::MultiplyOfProduct, Scaling::MultiplyOfReciprocal] {
        let multiply = quantiser(scaling);
        assert_eq!(one(multiply, &[127.0, 0.5, 1.5, 2.5, -0.5]), (vec![127, 0, 2, 2, 0], 1.0));
        assert_eq!(one(multiply, &[254.0, 1.0, 3.0, 5.0, -1.0]), (vec![127, 0, 2, 2, 0], 2.0));
        let (q, scale) = one(multiply, &[0.5, -1.0, 0.25, 0.125, 1.0]);
        assert_eq!(q, [64, -127, 32, 16, 127]);
        near(&[scale], &[0.007_874_016]);
    }

    let fused = RowQuantiser { conversion: Conversion::NearestHalf, ..quantiser(Scaling::MultiplyByReciprocal) };
    let (q, scale) = one(fused, &[0.592_916_8, 0.935_462_9]);
    assert_eq!(q, [80, 127]);
    near(&[scale], &[0.007_365_85]);
}

#[test]
fn static_scale_and_offset() {
    let mut y = [0; 7];
    by_one(&[1.0f32, 2.5, -3.0, 100.0, -200.0, 0.25, 0.75], 2.0, 0.5, &mut y);
    assert_eq!(numbers(Integer::Int8, &y), [2, 6, -6, 127, -128, 1, 2]);
}

#[test]
fn with_an_offset() {
    let (mut y, mut scale, mut offset) = ([0; 4], [0.0], [0.0]);
    let x = [0.0f32, 255.0, 100.5, 1.0];
    dynamic_quantise_asymmetric(Integer::Int8, &x, 4, None, &mut y, &mut scale, &mut offset).unwrap();
    assert_eq!(numbers(Integer::Int8, &y), [-128, 127, -28, -127]);
    assert_eq!((scale, offset), ([1.0], [-128.0]));
    // int4 from -8 to 7, and a row of one value.
    let (mut y, mut scale, mut offset) = ([0; 2], [0.0; 2], [0.0; 2]);
    let x = [0.0f32, 15.0, 3.0, 3.0];
    dynamic_quantise_asymmetric(Integer::Int4, &x, 2, None, &mut y, &mut scale, &mut offset).unwrap();
    assert_eq!(numbers(Integer::Int4, &y)[..2], [-8, 7]);
    assert_eq!((scale[0], offset[0], scale[1]), (1.0, -8.0, 1e-12));
}

#[test]
fn int4_lies_two_to_a_byte() {
    let int4 = RowQuantiser { integer: Integer::Int4, ..quantiser(Scaling::MultiplyOfProduct) };
    let mut out = [0; 4];
    let scale = int4.row(&[-7.0, 7.0, -1.0, 0.0, 3.0, -4.0, 1.0, 2.0], &mut out).unwrap();
    assert_eq!((out, scale), ([0x79, 0x0f, 0xc3, 0x21], 1.0));
}

#[test]
fn zeros_and_no_numbers() {
    for scaling in SCALINGS {
        let (q, scale) = one(quantiser(scaling), &[0.0, -0.0, 0.0]);
        assert_eq!(q, [0; 3]);
        assert!(if scaling == Scaling::MultiplyByScale { scale == f32::INFINITY } else { scale == 0.0 }, "{scaling:?}");
        let (q, scale) = one(quantiser(scaling), &[1.0, f32::NAN, -2.0]);
        assert_eq!(q, [0; 3]);
        assert!(scale.is_nan(), "{scaling:?}");
        let (q, _) = one(quantiser(scaling), &[1.0, f32::INFINITY, f32::NEG_INFINITY]);
        assert_eq!(q, [0; 3], "{scaling:?}");
    }
}

#[test]
fn refusals() {
    let plain = quantiser(Scaling::Divide);
    let int4 = RowQuantiser { integer: Integer::Int4, ..plain };
    let (mut y, mut scale) = ([0; 6], [0.0; 2]);
    assert!(matches!(plain.row(&[1.0; 3], &mut y), Err(KernelError::Length { .. })));
    assert!(matches!(int4.row(&[1.0; 3], &mut y), Err(KernelError::NotMultiple { .. })));
    assert!(matches!(
        dynamic_quantise(plain, &[1.0f32; 5], 3, NONE, &mut y, &mut scale),
        Err(KernelError::Length { what: "x", .. })
    ));
    assert!(matches!(
        dynamic_quantise(plain, &[1.0f32; 6], 3, NONE, &mut y[1..], &mut scale),
        Err(KernelError::Length { what: "y", .. })
    ));
    let factors = [1.0f32; 6];
    let group = |expert, rows| [Group { expert, rows }];
    let mut run = |factors: &[f32], groups: Option<&[Group]>| {
        dynamic_quantise(plain, &[1.0f32; 6], 3, Some(Smooth { factors, groups }), &mut y, &mut scale)
    };
    assert!(matches!(run(&factors, None), Err(KernelError::Length { what: "smooth factors", .. })));
    assert!(matches!(
        run(&factors, Some(&group(0, 0..1))),
        Err(KernelError::Length { what: "rows of all groups", .. })
    ));
    assert!(matches!(run(&factors, Some(&group(2, 0..2))), Err(KernelError::Range { .. })));
    run(&factors, Some(&group(1, 0..2))).unwrap();
    let mut none = [];
    assert!(dynamic_quantise_asymmetric(Integer::Int8, &[1.0f32; 6], 3, None, &mut y, &mut scale, &mut none).is_err());
    let given = |scale, offset, along| {
        let (given, mut y) = (Given { scale, offset, squared: false, along }, [0; 6]);
        static_quantise(Integer::Int8, Conversion::Nearest, &[1.0f32; 6], 3, given, &mut y)
    };
    let two = &[1.0; 2][..];
    assert!(matches!(given(two, None, Along::Columns), Err(KernelError::Length { what: "given scale", .. })));
    assert!(matches!(given(&[1.0; 3], None, Along::Rows), Err(KernelError::NotMultiple { .. })));
    assert!(matches!(given(&[], None, Along::Rows), Err(KernelError::NotMultiple { .. })));
    assert!(matches!(given(two, Some(&[1.0]), Along::Rows), Err(KernelError::Length { what: "given offset", .. })));
    // Rows of no element: nothing is written.
    let mut kept = [7.0; 2];
    dynamic_quantise(plain, &[0.0f32; 0], 0, NONE, &mut [], &mut kept).unwrap();
    assert_eq!(kept, [7.0; 2]);
}

fn any_quantiser() -> impl Strategy<Value = RowQuantiser> {
    let integer = prop::sample::select(vec![Integer::Int8, Integer::Int4]);
    let scaling = prop::sample::select(SCALINGS.to_vec());
    (integer, scaling, prop::sample::select(CONVERSIONS.to_vec()))
        .prop_map(|(integer, scaling, conversion)| RowQuantiser { integer, scaling, conversion })
}

/// Values of many sizes, ties among them, small magnitudes and large ones.
fn row_of(width: usize) -> impl Strategy<Value = Vec<f32>> {
    let size = prop::sample::select(vec![1.0f32, 1e-30, 1e-3, 1e30, 127.0]);
    (prop::collection::vec(wild(), width), size).prop_map(|(values, size)| values.iter().map(|v| v * size).collect())
}

fn rows_both<T: Float>(quantiser: RowQuantiser, values: &[f32], width: usize, factors: &[f32], ends: &[usize]) {
    let x: Vec<T> = to(values);
    let rows = x.len() / width;
    let smooth: Vec<T> = to(factors);
    let groups: Vec<Group> = ends
        .iter()
        .enumerate()
        .map(|(expert, &end)| Group { expert, rows: expert.checked_sub(1).map_or(0, |last| ends[last])..end })
        .filter(|group| !group.rows.is_empty())
        .collect();
    let smoothed = |row: usize| -> Vec<f32> {
        let set = groups.iter().find(|group| group.rows.contains(&row)).map(|group| group.expert);
        let factor = |i: usize| set.map_or(1.0, |set| smooth[set * width + i].to_f32());
        (0..width).map(|i| x[row * width + i].to_f32() * factor(i)).collect()
    };
    on_pools(|| {
        let mut y = bytes(quantiser.integer, x.len());
        let mut scale = vec![POISON; rows];
        let given = (!groups.is_empty()).then(|| Smooth { factors: &smooth[..], groups: Some(&groups[..]) });
        dynamic_quantise(quantiser, &x, width, given, &mut y, &mut scale).unwrap();
        let found = numbers(quantiser.integer, &y);
        for row in 0..rows {
            let (due, due_scale) = quantised(quantiser, &smoothed(row));
            assert_eq!(found[row * width..][..width], due, "row {row} of {quantiser:?}");
            same(&scale[row..=row], &[due_scale]);
        }
    });
}

proptest! {
    #[test]
    fn one_row_is_its_formula(
        (quantiser, row) in (any_quantiser(), (1..300usize).prop_flat_map(|half| row_of(2 * half))),
    ) {
        let (found, scale) = one(quantiser, &row);
        let (due, due_scale) = quantised(quantiser, &row);
        prop_assert_eq!(found, due);
        same(&[scale], &[due_scale]);
    }

    #[test]
    fn rows_are_their_formulas(
        (width, values) in (1..20usize, 0..7usize)
            .prop_flat_map(|(half, rows)| (Just(2 * half), row_of(2 * half * rows))),
        quantiser in any_quantiser(),
        factors in prop::collection::vec(-3f32..3.0, 4 * 40),
        mut ends in prop::collection::vec(0..7usize, 4),
        grouped in any::<bool>(),
    ) {
        let rows = values.len() / width;
        ends.iter_mut().for_each(|end| *end = (*end).min(rows));
        ends.sort_unstable();
        ends[3] = rows;
        let ends = if grouped { &ends[..] } else { &[] };
        for_each_float!(rows_both(quantiser, &values, width, &factors[..4 * width], ends));
    }

    #[test]
    fn rows_with_offsets_are_their_formulas(
        (width, values) in (1..20usize, 1..5usize)
            .prop_flat_map(|(half, rows)| (Just(2 * half), prop::collection::vec(-1e4f32..1e4, 2 * half * rows))),
        integer in prop::sample::select(vec![Integer::Int8, Integer::Int4]),
    ) {
        let rows = values.len() / width;
        let (mut y, mut scale, mut offset) = (bytes(integer, values.len()), vec![POISON; rows], vec![POISON; rows]);
        dynamic_quantise_asymmetric(integer, &values, width, None, &mut y, &mut scale, &mut offset).unwrap();
        let found = numbers(integer, &y);
        for (row, values) in values.chunks(width).enumerate() {
            let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let least = values.iter().copied().fold(f32::INFINITY, f32::min);
            let step = ((most - least) / (integer.most() - integer.least())).max(1e-12);
            let shift = integer.most() - most / step;
            prop_assert_eq!((scale[row], offset[row]), (step, shift));
            let due = |v: &f32| converted(Conversion::Nearest, integer, *v * (1.0 / step) + shift);
            prop_assert_eq!(&found[row * width..][..width], &values.iter().map(due).collect::<Vec<_>>()[..]);
        }
    }

    #[test]
    fn given_scales_are_their_formulas(
        (width, values) in (1..12usize, 0..5usize)
            .prop_flat_map(|(half, rows)| (Just(2 * half), row_of(2 * half * 2 * rows))),
        (scale, offset) in (prop::collection::vec(-9f32..9.0, 24), prop::collection::vec(-9f32..9.0, 24)),
        conversion in prop::sample::select(CONVERSIONS.to_vec()),
        (squared, with_offset, sets, int4) in (any::<bool>(), any::<bool>(), 0..3usize, any::<bool>()),
    ) {
        let integer = if int4 { Integer::Int4 } else { Integer::Int8 };
        let (count, along) = [(1, Along::Rows), (2, Along::Rows), (width, Along::Columns)][sets];
        let (scale, offset) = (&scale[..count], with_offset.then_some(&offset[..count]));
        let mut y = bytes(integer, values.len());
        let given = Given { scale, offset, squared, along };
        static_quantise(integer, conversion, &values, width, given, &mut y).unwrap();
        let due = values.iter().enumerate().map(|(at, v)| {
            let own = [0, at / width % 2, at % width][sets];
            let v = if squared { *v * scale[own] * scale[own] } else { *v * scale[own] };
            converted(conversion, integer, offset.map_or(v, |offset| v + offset[own]))
        });
        prop_assert_eq!(numbers(integer, &y), due.collect::<Vec<_>>());
    }

    #[test]
    fn expanded_rows_are_their_tokens(
        (tokens, top_k, width, experts) in (1..9usize, 1..4usize, 1..9usize, 1..7usize),
        seed in any::<u64>(),
        capacity in prop::option::of(1..5usize),
        active in prop::option::of(0..20usize),
        sets in 0..3usize,
    ) {
        let x = noise(tokens * width, seed);
        let ids: Vec<i32> = noise(tokens * top_k, seed ^ 1).iter().map(|v| ((v + 0.5) * experts as f32) as i32).collect();
        let smooth = noise(experts * width, seed ^ 2);
        let smooth = [None, Some(&smooth[..width]), Some(&smooth[..])][sets];
        let routing = Routing::new(&ids, 0..experts).unwrap();
        let slots = tokens * top_k;
        let (placement, rows) = match capacity {
            Some(capacity) => (Placement::DropPad { capacity }, experts * capacity),
            None => (Placement::Dropless { active_rows: active }, slots),
        };
        let quantiser = quantiser(Scaling::Divide);
        let (mut dst, mut scales) = (vec![0x55; rows * width], vec![POISON; rows]);
        routing.expand_dynamic(quantiser, placement, (&x, width), top_k, smooth, &mut dst, &mut scales).unwrap();
        let mut by_static = vec![0x55; rows * width];
        routing.expand_static(placement, &x, top_k, (100.0, 3.5), &mut by_static).unwrap();
        // Slot and expert of every row.
        let ids = &ids;
        let of = |expert: usize| (0..slots).filter(move |&slot| ids[slot] as usize == expert);
        let sources: Vec<Option<(usize, usize)>> = match capacity {
            Some(capacity) => (0..experts)
                .flat_map(|e| (0..capacity).map(move |r| (e, r)))
                .map(|(e, r)| of(e).nth(r).map(|slot| (slot, e)))
                .collect(),
            None => {
                let sorted = (0..experts).flat_map(|e| of(e).map(move |slot| (slot, e)));
                sorted.take(active.unwrap_or(slots)).map(Some).collect()
            }
        };
        for row in 0..rows {
            let (q, given) = (numbers(Integer::Int8, &dst[row * width..][..width]), numbers(Integer::Int8, &by_static[row * width..][..width]));
            match sources.get(row) {
                Some(&Some((slot, expert))) => {
                    let x = &x[slot / top_k * width..][..width];
                    let set = smooth.map(|smooth| if smooth.len() == width { smooth } else { &smooth[expert * width..][..width] });
                    let values: Vec<f32> = (0..width).map(|i| x[i] * set.map_or(1.0, |set| set[i])).collect();
                    let (due, scale) = quantised(quantiser, &values);
                    prop_assert_eq!((q, scales[row]), (due, scale));
                    let due = |v: &f32| converted(Conversion::Nearest, Integer::Int8, *v * 100.0 + 3.5);
                    prop_assert_eq!(given, x.iter().map(due).collect::<Vec<_>>());
                }
                Some(None) => prop_assert_eq!((q, given, scales[row]), (vec![0; width], vec![0; width], 0.0)),
                None => prop_assert_eq!((q, given, scales[row]), (vec![0x55; width], vec![0x55; width], POISON)),
            }
        }
    }
}
