//! Operators that quantise rows.

use ascend_moe::DType;
use ascend_moe::op::{
    self, AscendQuant, ExpandedRows, InitRouting, InitRoutingOutputs, InitRoutingV2, QuantisedOutputs, QuantisedRows,
    RoundMode, RoutedCounts, ScaledDim, SmoothScales,
};

use crate::bench::{Host, Layout, cases, coordinates};
use crate::number::{Due, Float, Int};
use crate::random::Values;

/// Through int32 to int8; what is no number becomes 0.
fn int8(value: f32) -> Due {
    Due::Exactly(Int((value.round_ties_even() as i64).clamp(-128, 127)))
}

/// The greatest magnitude; no number where one is in the row.
fn greatest(row: &[f32]) -> f32 {
    row.iter().fold(0.0, |most: f32, v| if most.is_nan() || v.is_nan() { f32::NAN } else { most.max(v.abs()) })
}

#[test]
fn dynamic_quantisation() {
    cases("dynamic_quant", 250, |bench| {
        let dtype = bench.random.pick(&[DType::F16, DType::Bf16]);
        let (rows, width) = (bench.random.below(6), bench.random.pick(&[1, 2, 5, 33, 128, 136, 137]));
        let values = bench.random.pick(&[Values::Wild, Values::Smooth, Values::Grid]);
        let (x, x_laid) = bench.input(dtype, &[rows, width], values);
        let sets = 1 + bench.random.below(3);
        let smooth = bench.random.below(3);
        let shape = if smooth == 2 { vec![sets, width] } else { vec![width] };
        let (factors, factors_laid) = bench.input(dtype, &shape, Values::Smooth);
        // Ends that do not fall, the last one that of the rows.
        let mut ends: Vec<usize> = (0..sets).map(|_| bench.random.below(rows + 1)).collect();
        ends.sort_unstable();
        ends[sets - 1] = rows;
        let list = bench.given(DType::I32, &[sets], ends.iter().map(|&end| Int(end as i64)).collect());
        let mut y = bench.output(DType::I8, &[rows, width]);
        let mut scale = bench.output(DType::F32, &[rows]);
        let mut offset = bench.output(DType::F32, &[rows]);
        let asymmetric = bench.random.once(3);
        bench.run(|sequence| {
            let (all, list) = (factors_laid.view(), list.view());
            let smooth = match smooth {
                0 => None,
                1 => Some(SmoothScales::OfAll(&all)),
                _ => Some(SmoothScales::OfGroups { scales: &all, ends: &list }),
            };
            let mut offset = offset.view_mut();
            let offset = asymmetric.then_some(&mut offset);
            op::dynamic_quant(sequence, &x_laid.view(), smooth, &mut y.view_mut(), &mut scale.view_mut(), offset)
                .map(|_| ())
        });
        let row_of = |row: usize| -> Vec<f32> {
            let set = if smooth == 2 { ends.iter().position(|&end| row < end).unwrap() } else { 0 };
            let factor = |i: usize| if smooth == 0 { 1.0 } else { factors.values[set * width + i].single() };
            (0..width).map(|i| x.at(&[row, i]).single() * factor(i)).collect()
        };
        let several = smooth < 2 && width >= 128 && width % 8 == 0;
        let due_of = |row: usize| -> (Vec<Due>, Due, Due) {
            let v = row_of(row);
            if asymmetric {
                let order = |a: &f32, b: &f32| a.total_cmp(b);
                let (most, least) =
                    (v.iter().copied().max_by(order).unwrap(), v.iter().copied().min_by(order).unwrap());
                let step = (most - least) / 255.0;
                let step = if step > 1e-12 { step } else { 1e-12 };
                let shift = 127.0 - most / step;
                let y = v.iter().map(|v| int8(v * (1.0 / step) + shift)).collect();
                return (y, Due::Exactly(Float(step)), Due::Exactly(Float(shift)));
            }
            let factor = 127.0 / greatest(&v);
            let scale = if several { greatest(&v) * (1.0 / 127.0) } else { 1.0 / factor };
            (v.iter().map(|v| int8(v * factor)).collect(), Due::Exactly(Float(scale)), Due::Exactly(Float(0.0)))
        };
        let due: Vec<_> = (0..rows).map(due_of).collect();
        let inputs: [&Host; 2] = [&x, &factors];
        bench.check(&inputs, &y, &due.iter().flat_map(|(y, ..)| y.clone()).collect::<Vec<_>>());
        bench.check(&inputs, &scale, &due.iter().map(|(_, scale, _)| *scale).collect::<Vec<_>>());
        bench.check_part(&inputs, &offset, due.iter().map(|(.., offset)| asymmetric.then_some(*offset)));
    });
}

#[test]
fn expansion_to_int8() {
    cases("moe_init_routing_v3, quantised", 200, |bench| {
        let dtype = bench.random.pick(&[DType::F32, DType::F16, DType::Bf16]);
        let (tokens, k, hidden) = (1 + bench.random.below(6), 1 + bench.random.below(3), 1 + bench.random.below(40));
        let experts = 1 + bench.random.below(5);
        let start = bench.random.below(experts);
        let capacity = bench.random.once(3).then(|| 1 + bench.random.below(tokens));
        let range = if capacity.is_some() { (0, experts) } else { (start, experts) };
        let params = InitRouting { range, capacity, ..InitRouting::dropless(experts) };
        let values = bench.random.pick(&[Values::Wild, Values::Smooth]);
        let (x, x_laid) = bench.input(dtype, &[tokens, hidden], values);
        let (ids, ids_laid) = bench.input(DType::I32, &[tokens, k], Values::Index(0, experts as i64));
        let sets = bench.random.pick(&[1, range.1 - range.0]);
        let (smooth, smooth_laid) = bench.input(DType::F32, &[sets, hidden], Values::Smooth);
        let [(by, by_laid), (add, add_laid)] = [(); 2].map(|()| bench.input(DType::F32, &[1], Values::Smooth));
        let mode = bench.random.below(3);
        let slots = tokens * k;
        let shape = capacity.map_or(vec![slots, hidden], |capacity| vec![experts, capacity, hidden]);
        let rows = shape.iter().product::<usize>() / hidden;
        let mut expanded = bench.output_in(Layout::Upright, DType::I8, &shape);
        let (mut row_idx, mut counts) =
            (bench.output(DType::I32, &[slots]), bench.output(DType::I64, &[range.1 - range.0]));
        let mut scales = bench.output(DType::F32, &[rows]);
        bench.run(|sequence| {
            let (smooth, by, add) = (smooth_laid.view(), by_laid.view(), add_laid.view());
            let mode = match mode {
                0 => ExpandedRows::Static { scale: &by, offset: &add },
                1 => ExpandedRows::Dynamic { smooth: None },
                _ => ExpandedRows::Dynamic { smooth: Some(&smooth) },
            };
            let mut scales = scales.view_mut();
            let outputs = InitRoutingOutputs {
                expanded_x: &mut expanded.view_mut(),
                row_idx: &mut row_idx.view_mut(),
                counts: &mut counts.view_mut(),
                scale: Some(&mut scales),
            };
            op::moe_init_routing_v3(sequence, &x_laid.view(), &ids_laid.view(), mode, &params, outputs)
        });
        let of = |expert: usize| (0..slots).filter(|&slot| ids.values[slot].int() == expert as i64).collect::<Vec<_>>();
        let source = |row: usize| match capacity {
            Some(capacity) => of(row / capacity).get(row % capacity).map(|&slot| (slot, row / capacity)),
            None => (range.0..range.1).flat_map(|e| of(e).into_iter().map(move |slot| (slot, e))).nth(row),
        };
        let due_of = |row: usize| -> (Vec<Option<Due>>, Option<Due>) {
            let Some((slot, expert)) = source(row) else {
                let zero = capacity.is_some();
                let scale = (zero && mode > 0).then_some(Due::Exactly(Float(0.0)));
                return (vec![zero.then_some(Due::Exactly(Int(0))); hidden], scale);
            };
            let v: Vec<f32> = (0..hidden).map(|i| x.at(&[slot / k, i]).single()).collect();
            if mode == 0 {
                let (by, add) = (by.values[0].single(), add.values[0].single());
                return (v.iter().map(|v| Some(int8(v * by + add))).collect(), None);
            }
            let set = if sets == 1 { 0 } else { expert - range.0 };
            let factor = |i| if mode == 1 { 1.0 } else { smooth.at(&[set, i]).single() };
            let v: Vec<f32> = v.iter().enumerate().map(|(i, v)| v * factor(i)).collect();
            let scale = greatest(&v) / 127.0;
            (v.iter().map(|v| Some(int8(v / scale))).collect(), Some(Due::Exactly(Float(scale))))
        };
        let due: Vec<_> = (0..rows).map(due_of).collect();
        bench.check_part(&[&x, &ids, &smooth], &expanded, due.iter().flat_map(|(y, _)| y.clone()));
        bench.check_part(&[&x, &ids, &smooth], &scales, due.iter().map(|(_, scale)| *scale));
    });
}

/// To int8 by way of fp16: cut off to it, then to nearest with ties away from zero.
fn cut_to_int8(value: f32) -> Due {
    let half = half::f16::from_f32(value);
    let half = if half.to_f32().abs() > value.abs() { half::f16::from_bits(half.to_bits() - 1) } else { half };
    int8(half.to_f32().round())
}

#[test]
fn expansion_to_int8_of_the_older_operator() {
    cases("moe_init_routing_quant_v2", 200, |bench| {
        let dtype = bench.random.pick(&[DType::F32, DType::F16, DType::Bf16]);
        let (tokens, k, hidden) = (1 + bench.random.below(6), 1 + bench.random.below(3), 1 + bench.random.below(40));
        let experts = 1 + bench.random.below(5);
        let capacity = bench.random.once(3).then(|| 1 + bench.random.below(tokens));
        let values = bench.random.pick(&[Values::Wild, Values::Smooth]);
        let (x, x_laid) = bench.input(dtype, &[tokens, hidden], values);
        let (ids, ids_laid) = bench.input(DType::I32, &[tokens, k], Values::Index(0, experts as i64));
        let sets = bench.random.pick(&[1, experts]);
        let (smooth, smooth_laid) = bench.input(DType::F32, &[sets, hidden], Values::Smooth);
        let [(by, by_laid), (add, add_laid)] = [(); 2].map(|()| bench.input(DType::F32, &[1], Values::Smooth));
        let (mode, cumsum) = (bench.random.below(3), capacity.is_none() && bench.random.once(2));
        // Without a capacity the first rows may be all that are wanted.
        let slots = tokens * k;
        let wanted = 1 + bench.random.below(slots);
        let shape = capacity.map_or(vec![wanted, hidden], |capacity| vec![experts, capacity, hidden]);
        let rows = shape.iter().product::<usize>() / hidden;
        let mut expanded = bench.output(DType::I8, &shape);
        let mut row_idx = bench.output(DType::I32, &[slots]);
        let (mut counts, mut scales) = (bench.output(DType::I32, &[experts]), bench.output(DType::F32, &[rows]));
        bench.run(|sequence| {
            let (smooth, by, add) = (smooth_laid.view(), by_laid.view(), add_laid.view());
            let mut scales = scales.view_mut();
            let mode = match mode {
                0 => QuantisedRows::Static { scale: &by, offset: &add },
                1 => QuantisedRows::Dynamic { smooth: None, scale: &mut scales },
                _ => QuantisedRows::Dynamic { smooth: Some(&smooth), scale: &mut scales },
            };
            let mut counts = counts.view_mut();
            let outputs = QuantisedOutputs {
                expanded_x: &mut expanded.view_mut(),
                row_idx: &mut row_idx.view_mut(),
                counts: if cumsum { RoutedCounts::Cumsum(&mut counts) } else { RoutedCounts::Count(&mut counts) },
            };
            let params = InitRoutingV2 { experts, capacity };
            op::moe_init_routing_quant_v2(sequence, &x_laid.view(), &ids_laid.view(), mode, params, outputs)
        });
        let of = |expert: usize| (0..slots).filter(|&slot| ids.values[slot].int() == expert as i64).collect::<Vec<_>>();
        let placed: Vec<Option<(usize, usize)>> = match capacity {
            Some(capacity) => {
                let row = |row| of(row / capacity).get(row % capacity).map(|&slot| (slot, row / capacity));
                (0..rows).map(row).collect()
            }
            None => (0..experts).flat_map(|e| of(e).into_iter().map(move |slot| Some((slot, e)))).collect(),
        };
        let due_of = |row: usize| -> (Vec<Due>, Option<Due>) {
            let zero = Due::Exactly(Float(0.0));
            let Some((slot, expert)) = placed[row] else {
                return (vec![Due::Exactly(Int(0)); hidden], (mode > 0).then_some(zero));
            };
            let v: Vec<f32> = (0..hidden).map(|i| x.at(&[slot / k, i]).single()).collect();
            if mode == 0 {
                let (by, add) = (by.values[0].single(), add.values[0].single());
                return (v.iter().map(|v| int8(v * by + add)).collect(), None);
            }
            let set = if sets == 1 { 0 } else { expert };
            let factor = |i| if mode == 1 { 1.0 } else { smooth.at(&[set, i]).single() };
            let v: Vec<f32> = v.iter().enumerate().map(|(i, v)| v * factor(i)).collect();
            let scale = greatest(&v) / 127.0;
            (v.iter().map(|v| cut_to_int8(v / scale)).collect(), Some(Due::Exactly(Float(scale))))
        };
        let due: Vec<_> = (0..rows).map(due_of).collect();
        bench.check(&[&x, &ids, &smooth], &expanded, &due.iter().flat_map(|(y, _)| y.clone()).collect::<Vec<_>>());
        bench.check_part(&[&x, &ids, &smooth], &scales, due.iter().map(|(_, scale)| *scale));
        let row_of = |slot| placed.iter().position(|placed| placed.is_some_and(|(own, _)| own == slot));
        let index = |slot| Due::Exactly(Int(row_of(slot).map_or(-1, |row| row as i64)));
        bench.check(&[&ids], &row_idx, &(0..slots).map(index).collect::<Vec<_>>());
        let count = |expert| match cumsum {
            true => (0..=expert).map(|expert| of(expert).len()).sum(),
            false => of(expert).len(),
        };
        let due: Vec<_> = (0..experts).map(|expert| Due::Exactly(Int(count(expert) as i64))).collect();
        bench.check(&[&ids], &counts, &due);
    });
}

#[test]
fn quantisation_by_given_scales() {
    cases("ascend_quant", 250, |bench| {
        let dtype = bench.random.pick(&[DType::F32, DType::F16, DType::Bf16]);
        let scale_dtype =
            if dtype == DType::F32 { bench.random.pick(&[dtype, DType::F16, DType::Bf16]) } else { dtype };
        let shape: Vec<usize> = (0..1 + bench.random.below(3)).map(|_| 1 + bench.random.below(7)).collect();
        let values = bench.random.pick(&[Values::Wild, Values::Smooth, Values::Grid]);
        let (x, x_laid) = bench.input(dtype, &shape, values);
        let before = shape.len() > 1 && bench.random.once(2);
        let (dim, axis) =
            if before { (ScaledDim::BeforeLast, shape.len() - 2) } else { (ScaledDim::Last, shape.len() - 1) };
        let count = bench.random.pick(&[1, shape[axis]]);
        let (scale, scale_laid) = bench.input(scale_dtype, &[count], Values::Smooth);
        let (offset, offset_laid) = bench.input(scale_dtype, &[count], Values::Grid);
        let (with_offset, squared) = (bench.random.once(2), bench.random.once(3));
        let rounding = bench.random.pick(&[RoundMode::Nearest, RoundMode::Floor, RoundMode::Ceil, RoundMode::Truncate]);
        let mut y = bench.output(DType::I8, &shape);
        bench.run(|sequence| {
            let (x, scale, offset) = (x_laid.view(), scale_laid.view(), offset_laid.view());
            let offset = with_offset.then_some(&offset);
            let params = AscendQuant { x: &x, scale: &scale, offset, squared, rounding, dim };
            op::ascend_quant(sequence, &params, &mut y.view_mut()).map(|_| ())
        });
        let due = |at: &Vec<usize>| {
            let own = if count == 1 { 0 } else { at[axis] };
            let by = scale.values[own].single();
            let v = x.at(at).single() * by;
            let v = if squared { v * by } else { v };
            let v = if with_offset { v + offset.values[own].single() } else { v };
            int8(match rounding {
                RoundMode::Nearest => v.round_ties_even(),
                RoundMode::Floor => v.floor(),
                RoundMode::Ceil => v.ceil(),
                RoundMode::Truncate => v.trunc(),
            })
        };
        let due: Vec<_> = coordinates(&shape).iter().map(due).collect();
        bench.check(&[&x, &scale, &offset], &y, &due);
    });
}
