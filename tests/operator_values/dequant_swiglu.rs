//! What goes on between the two products of a quantised expert.

use ascend_moe::DType;
use ascend_moe::op::{
    self, ActivationGroups, ActivationScales, DequantSwigluQuant, GatedRows, GatedUnit, Requantise, SwigluQuant,
};

use crate::bench::{Host, Layout, cases};
use crate::number::{Due, Int};
use crate::random::Values;

/// The number of a group for a column: one for all of its columns, or one for each.
fn of(values: &Host, group: usize, column: usize) -> f32 {
    let each = if values.shape.len() == 2 { group * values.shape[1] + column } else { group };
    values.values[each].single()
}

#[test]
fn between_the_products() {
    cases("dequant_swiglu_quant", 250, |bench| {
        let (rows, half) = (1 + bench.random.below(6), bench.random.pick(&[32, 64, 288]));
        let groups = 1 + bench.random.below(3);
        let most = (rows / groups) as i64;
        let (counts, list) = bench.input_in(Layout::Packed, DType::I64, &[groups], Values::Index(-1, most + 1));
        let counts: Vec<usize> = counts.values.iter().map(|count| count.int().max(0) as usize).collect();
        let accumulators = bench.random.once(2);
        let dtype = if accumulators { DType::I32 } else { DType::Bf16 };
        let values = if accumulators { Values::Index(-30, 31) } else { Values::Smooth };
        let (x, x_laid) = bench.input_in(Layout::Packed, dtype, &[rows, 2 * half], values);
        let packed = |bench: &mut crate::bench::Bench, shape: &[usize], dtype| {
            bench.input_in(Layout::Packed, dtype, shape, Values::Smooth)
        };
        let (columns, columns_laid) = packed(bench, &[groups, 2 * half], DType::F32);
        let (per_row, per_row_laid) = packed(bench, &[rows], DType::F32);
        let bias_dtype = bench.random.pick(&[DType::F32, DType::F16, DType::Bf16, DType::I32]);
        let (bias, bias_laid) = packed(bench, &[groups, 2 * half], bias_dtype);
        let (with_rows, with_bias) = (bench.random.once(2), bench.random.once(2));
        let unit = bench.random.pick(&[
            GatedUnit::Halves { gate_first: true },
            GatedUnit::Halves { gate_first: false },
            GatedUnit::Interleaved { alpha: 1.702, limit: 2.0, bias: 1.0 },
        ]);
        let mode = bench.random.below(3);
        let shape = if mode < 2 || bench.random.once(2) { vec![groups, half] } else { vec![groups] };
        let (factors, factors_laid) = packed(bench, &shape, DType::F32);
        let (offsets, offsets_laid) = packed(bench, &shape, DType::F32);
        let mut y = bench.output_in(Layout::Packed, DType::I8, &[rows, half]);
        let mut scale = bench.output_in(Layout::Packed, DType::F32, &[rows]);
        bench.run(|sequence| {
            let (x, list, weight_scale) = (x_laid.view(), list.view(), columns_laid.view());
            let (per_row, bias, factors, offsets) =
                (per_row_laid.view(), bias_laid.view(), factors_laid.view(), offsets_laid.view());
            let rows = if accumulators {
                GatedRows::Accumulators {
                    x: &x,
                    weight_scale: &weight_scale,
                    activation_scale: with_rows.then_some(&per_row),
                    bias: with_bias.then_some(&bias),
                }
            } else {
                GatedRows::Floats(&x)
            };
            let requantise = match mode {
                0 => Requantise::Dynamic { smooth: None },
                1 => Requantise::Dynamic { smooth: Some(&factors) },
                _ => Requantise::Static { scale: &factors, offset: &offsets },
            };
            let params = DequantSwigluQuant { rows, groups: Some(&list), unit, requantise };
            op::dequant_swiglu_quant(sequence, &params, &mut y.view_mut(), &mut scale.view_mut()).map(|_| ())
        });
        let mut group_of = vec![];
        counts.iter().enumerate().for_each(|(group, &count)| group_of.resize(group_of.len() + count, group));
        let cell = |row: usize, group: usize, c: usize| {
            let (at, own) = (x.at(&[row, c]), group * 2 * half + c);
            if !accumulators {
                return at.single();
            }
            let whole = with_bias && bias_dtype == DType::I32;
            let sum = if whole { at.int() + bias.values[own].int() } else { at.int() };
            let mut v = sum as f32 * columns.values[own].single();
            if with_rows {
                v *= per_row.values[row].single();
            }
            if with_bias && !whole { v + bias.values[own].single() } else { v }
        };
        let act = |row: usize, group: usize, c: usize| {
            let cell = |c| cell(row, group, c);
            match unit {
                GatedUnit::Halves { gate_first } => {
                    let (gate, up) = if gate_first { (cell(c), cell(half + c)) } else { (cell(half + c), cell(c)) };
                    gate / (1.0 + (-gate).exp()) * up
                }
                GatedUnit::Interleaved { alpha, limit, bias } => {
                    let (gate, up) =
                        (cell(2 * c).min(limit as f32), cell(2 * c + 1).clamp(-limit as f32, limit as f32));
                    gate / (1.0 + (-(alpha as f32) * gate).exp()) * (up + bias as f32)
                }
            }
        };
        let due_of = |row: usize| -> (Vec<Option<Due>>, Option<Due>) {
            let Some(&group) = group_of.get(row) else { return (vec![None; half], None) };
            let int8 = |v: f32| Some(code(v));
            let v = (0..half).map(|c| act(row, group, c));
            if mode == 2 {
                let each = shape.len() == 2;
                let by = |(c, v): (usize, f32)| {
                    let (scale, offset) = (of(&factors, group, c), of(&offsets, group, c));
                    int8(if each { v / scale } else { v * (1.0 / scale) } + offset)
                };
                return (v.enumerate().map(by).collect(), None);
            }
            let v: Vec<f32> =
                v.enumerate().map(|(c, v)| if mode == 1 { v * of(&factors, group, c) } else { v }).collect();
            let scale = v.iter().fold(0f32, |most, v| most.max(v.abs())) * (1.0 / 127.0);
            (v.iter().map(|v| int8(v / scale)).collect(), Some(near(scale)))
        };
        let due: Vec<_> = (0..rows).map(due_of).collect();
        bench.check_part(&[&factors], &y, due.iter().flat_map(|(y, _)| y.clone()));
        bench.check_part(&[&factors], &scale, due.iter().map(|(_, scale)| *scale));
    });
}

/// A number behind an exponential, which is a few units in the last place from that of the standard library.
fn near(value: f32) -> Due {
    Due::near(f64::from(value), 4.0 * f64::from(f32::EPSILON) * f64::from(value.abs()))
}

/// The code of such a number: of two where it is next to the middle.
fn code(value: f32) -> Due {
    let error = 4.0 * f32::EPSILON * (1.0 + value.abs());
    let [low, high] = [value - error, value + error].map(|v| f64::from(v.round_ties_even().clamp(-128.0, 127.0)));
    Due::Between(low, high)
}

#[test]
fn activation_with_quantisation() {
    cases("swiglu_quant", 250, |bench| {
        let dtype = bench.random.pick(&[DType::F32, DType::F16, DType::Bf16]);
        let (rows, half) = (1 + bench.random.below(6), 1 + bench.random.below(40));
        let (x, x_laid) = bench.input(dtype, &[rows, 2 * half], Values::Smooth);
        let gate_first = bench.random.once(2);
        let sets = 1 + bench.random.below(3);
        // Ends that do not fall, or counts: in both cases rows may be left.
        let mut ends: Vec<usize> = (0..sets).map(|_| bench.random.below(rows + 1)).collect();
        ends.sort_unstable();
        let by_count = bench.random.once(2);
        let entry = |set: usize| ends[set] - if by_count && set > 0 { ends[set - 1] } else { 0 };
        let list = bench.given(DType::I32, &[sets], (0..sets).map(|set| Int(entry(set) as i64)).collect());
        let mode = bench.random.below(3);
        let shape = if mode < 2 || bench.random.once(2) { vec![sets, half] } else { vec![sets] };
        let (factors, factors_laid) = bench.input(DType::F32, &shape, Values::Smooth);
        let (offsets, offsets_laid) = bench.input(DType::F32, &shape, Values::Smooth);
        let (mut y, mut scale) = (bench.output(DType::I8, &[rows, half]), bench.output(DType::F32, &[rows]));
        bench.run(|sequence| {
            let (x, list, factors, offsets) = (x_laid.view(), list.view(), factors_laid.view(), offsets_laid.view());
            let scales = match mode {
                0 => ActivationScales::Dynamic { smooth: None },
                1 => ActivationScales::Dynamic { smooth: Some(&factors) },
                _ => ActivationScales::Static { scale: &factors, offset: &offsets },
            };
            let groups = Some(if by_count { ActivationGroups::Counts(&list) } else { ActivationGroups::Ends(&list) });
            let params = SwigluQuant { x: &x, gate_first, scales, groups };
            op::swiglu_quant(sequence, &params, &mut y.view_mut(), &mut scale.view_mut()).map(|_| ())
        });
        let due_of = |row: usize| -> (Vec<Due>, Option<Due>) {
            let group = ends.iter().position(|&end| row < end);
            let act = |c: usize| {
                let (left, right) = (x.at(&[row, c]).single(), x.at(&[row, half + c]).single());
                let (gate, up) = if gate_first { (left, right) } else { (right, left) };
                gate / (1.0 + (-gate).exp()) * up
            };
            if mode == 2 {
                let by = |c: usize| match group {
                    Some(group) => act(c) * of(&factors, group, c) + of(&offsets, group, c),
                    None => act(c),
                };
                return ((0..half).map(|c| code(by(c))).collect(), None);
            }
            let factor = |c: usize| group.filter(|_| mode == 1).map_or(1.0, |group| of(&factors, group, c));
            let v: Vec<f32> = (0..half).map(|c| act(c) * factor(c)).collect();
            let by = 127.0 / v.iter().fold(0f32, |most, v| most.max(v.abs()));
            (v.iter().map(|v| code(v * by)).collect(), Some(near(by)))
        };
        let due: Vec<_> = (0..rows).map(due_of).collect();
        bench.check(&[&x, &factors], &y, &due.iter().flat_map(|(y, _)| y.clone()).collect::<Vec<_>>());
        bench.check_part(&[&x, &factors], &scale, due.iter().map(|(_, scale)| *scale));
    });
}
