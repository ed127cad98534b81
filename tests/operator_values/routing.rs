//! Rows to experts and back.

use ascend_moe::DType;
use ascend_moe::op::{
    self, DropPadMode, ExpandedRows, FinalizeRouting, InitRouting, InitRoutingOutputs, RowIndex, TokenCounts,
};

use crate::bench::{Bench, Layout, cases, coordinates};
use crate::number::{Due, FLOATS, Float, Int, Number};
use crate::random::Values;

fn whole(value: usize) -> Due {
    Due::Exactly(Int(value as i64))
}

/// What routing does with every slot, by the numbers alone.
struct Sorted {
    /// Slots of the experts in the range, by expert, as they come.
    slots: Vec<usize>,
    /// Slots of each expert in the range.
    counts: Vec<usize>,
}

fn sort(ids: &[Number], (start, end): (usize, usize)) -> Sorted {
    let of = |expert: usize| (0..ids.len()).filter(move |&slot| ids[slot].int() == expert as i64);
    Sorted {
        slots: (start..end).flat_map(of).collect(),
        counts: (start..end).map(|expert| of(expert).count()).collect(),
    }
}

/// The counts that are written, in each of their forms.
fn counted(sorted: &Sorted, params: &InitRouting) -> Vec<Option<Due>> {
    let mut end = 0;
    match params.counts {
        TokenCounts::Count => sorted.counts.iter().map(|&count| Some(whole(count))).collect(),
        TokenCounts::Cumsum => {
            let ends = sorted.counts.iter().map(|count| {
                end += count;
                Some(whole(end))
            });
            ends.collect()
        }
        TokenCounts::KeyValue => {
            let mut pairs: Vec<Option<Due>> = sorted
                .counts
                .iter()
                .enumerate()
                .filter(|(_, count)| **count > 0)
                .flat_map(|(expert, &count)| [params.range.0 + expert, count].map(|value| Some(whole(value))))
                .collect();
            // Zeros end the list; what is behind them is not written.
            pairs.resize(2 * (sorted.counts.len() + 1).min(params.experts), Some(whole(0)));
            pairs.resize(2 * params.experts, None);
            pairs
        }
    }
}

#[test]
fn expansion() {
    cases("moe_init_routing_v3", 300, |bench| {
        let dtype = bench.random.pick(&[DType::F32, DType::F16, DType::Bf16, DType::I8]);
        let (tokens, k, hidden) = (1 + bench.random.below(9), 1 + bench.random.below(4), 1 + bench.random.below(9));
        let experts = 1 + bench.random.below(8);
        let start = bench.random.below(experts);
        let mut params = InitRouting {
            experts,
            range: if bench.random.once(2) {
                (0, experts)
            } else {
                (start, start + 1 + bench.random.below(experts - start))
            },
            capacity: bench.random.once(3).then(|| 1 + bench.random.below(tokens)),
            counts: bench.random.pick(&[TokenCounts::Count, TokenCounts::Cumsum, TokenCounts::KeyValue]),
            row_index: bench.random.pick(&[RowIndex::Gather, RowIndex::Scatter]),
        };
        if params.capacity.is_some() {
            params = InitRouting { capacity: params.capacity, ..InitRouting::dropless(experts) };
        }
        let (x, x_laid) = bench.input(dtype, &[tokens, hidden], Values::Wild);
        // Few experts are often chosen, others never; an id may name none.
        let least = if bench.random.once(4) { -1 } else { 0 };
        let (ids, ids_laid) = bench.input(DType::I32, &[tokens, k], Values::Index(least, experts as i64));
        let (scale, scale_laid) = bench.input(DType::F32, &[tokens], Values::Smooth);
        let scaled = bench.random.once(2);
        let slots = tokens * k;
        let rows = params.capacity.map_or(slots, |capacity| experts * capacity);
        let shape = match params.capacity {
            Some(capacity) => vec![experts, capacity, hidden],
            None => vec![slots, hidden],
        };
        let active = params.range.1 - params.range.0;
        let counts_shape = if params.counts == TokenCounts::KeyValue { vec![experts, 2] } else { vec![active] };
        let mut expanded = bench.output(dtype, &shape);
        let mut row_idx = bench.output(DType::I32, &[slots]);
        let mut counts = bench.output(DType::I64, &counts_shape);
        let mut carried = bench.output(DType::F32, &[rows]);
        bench.run(|sequence| {
            let mut carried = carried.view_mut();
            let outputs = InitRoutingOutputs {
                expanded_x: &mut expanded.view_mut(),
                row_idx: &mut row_idx.view_mut(),
                counts: &mut counts.view_mut(),
                scale: scaled.then_some(&mut carried),
            };
            let scale = scaled.then(|| scale_laid.view());
            let rows = ExpandedRows::Copied(scale.as_ref());
            op::moe_init_routing_v3(sequence, &x_laid.view(), &ids_laid.view(), rows, &params, outputs)
        });
        let sorted = sort(&ids.values, params.range);
        // The slot of every row, where it has one.
        let mut slot_of: Vec<Option<usize>> = vec![None; rows];
        match params.capacity {
            None => sorted.slots.iter().enumerate().for_each(|(row, &slot)| slot_of[row] = Some(slot)),
            Some(capacity) => {
                let mut slots = sorted.slots.iter();
                for (expert, &count) in sorted.counts.iter().enumerate() {
                    for (place, &slot) in slots.by_ref().take(count).enumerate().filter(|(place, _)| *place < capacity)
                    {
                        slot_of[expert * capacity + place] = Some(slot);
                    }
                }
            }
        }
        let row_due = |row: usize| -> Vec<Option<Due>> {
            match slot_of[row] {
                Some(slot) => (0..hidden).map(|i| Some(Due::Exactly(x.at(&[slot / k, i])))).collect(),
                None if params.capacity.is_some() => vec![Some(Due::Exactly(Int(0).to(dtype))); hidden],
                None => vec![None; hidden],
            }
        };
        bench.check_part(&[&x, &ids], &expanded, (0..rows).flat_map(row_due));
        let index_due = |place: usize| match params.row_index {
            RowIndex::Gather => {
                let row = slot_of.iter().position(|&slot| slot == Some(place));
                Some(Due::Exactly(Int(row.map_or(-1, |row| row as i64))))
            }
            RowIndex::Scatter => sorted.slots.get(place).map(|&slot| whole(slot)),
        };
        bench.check_part(&[&ids], &row_idx, (0..slots).map(index_due));
        bench.check_part(&[&ids], &counts, counted(&sorted, &params));
        if params.capacity.is_none() {
            let carried_due =
                |row: usize| slot_of[row].filter(|_| scaled).map(|slot| Due::Exactly(scale.values[slot / k]));
            bench.check_part(&[&ids, &scale], &carried, (0..rows).map(carried_due));
        }
    });
}

/// Adds terms one after the other, rounding each step where fp16 does; 0 of none.
struct Adder {
    sum: Option<f32>,
    each_step: bool,
}

impl Adder {
    fn round(&self, value: f32) -> f32 {
        if self.each_step { Float(value).to(DType::F16).single() } else { value }
    }

    fn add(&mut self, term: f32) {
        self.sum = Some(self.sum.map_or(term, |sum| self.round(sum + term)));
    }

    fn due(&self, dtype: DType) -> Due {
        Due::Exactly(Float(self.sum.unwrap_or(0.0)).to(dtype))
    }
}

fn maybe<T>(bench: &mut Bench, make: impl FnOnce(&mut Bench) -> T) -> Option<T> {
    bench.random.once(2).then(|| make(bench))
}

#[test]
fn combination() {
    const MODES: [DropPadMode; 4] = [
        DropPadMode::DroplessByColumn,
        DropPadMode::PaddedByColumn,
        DropPadMode::DroplessByRow,
        DropPadMode::PaddedByRow,
    ];
    cases("moe_finalize_routing", 400, |bench| {
        let third = bench.random.once(2);
        let dtype = bench.random.pick(FLOATS);
        let mode = bench.random.pick(&MODES);
        let padded = matches!(mode, DropPadMode::PaddedByColumn | DropPadMode::PaddedByRow);
        let by_column = matches!(mode, DropPadMode::DroplessByColumn | DropPadMode::PaddedByColumn);
        let (tokens, hidden) = (bench.random.below(6), 1 + bench.random.below(9));
        let scales_dtype = if dtype == DType::Bf16 { bench.random.pick(&[DType::Bf16, DType::F32]) } else { dtype };
        let unscaled = bench.random.once(4);
        let k = if unscaled { 1 } else { 1 + bench.random.below(4) };
        let (experts, capacity) = (k + bench.random.below(4), 1 + bench.random.below(4));
        let rows = if padded { experts * capacity } else { (tokens * k).max(1) };
        let shape = if padded { vec![experts, capacity, hidden] } else { vec![rows, hidden] };
        let values = bench.random.pick(&[Values::Smooth, Values::SmoothOrNot]);
        let (expanded, expanded_laid) = bench.input(dtype, &shape, values);
        let least = if padded { -1 } else { 0 };
        let (row_idx, row_laid) = bench.input(DType::I32, &[tokens * k], Values::Index(least, rows as i64));
        let scales = (!unscaled).then(|| bench.input(scales_dtype, &[tokens, k], Values::Smooth));
        let summand = |bench: &mut Bench| bench.input(dtype, &[tokens, hidden], Values::Smooth);
        let x1 = maybe(bench, summand);
        let x2 = if x1.is_some() { maybe(bench, summand) } else { None };
        let bias = maybe(bench, |bench| {
            let ids = bench.input(DType::I32, &[tokens, k], Values::Index(0, experts as i64));
            (bench.input(dtype, &[experts, hidden], Values::Smooth), ids)
        });
        let mut out = bench.output(dtype, &[tokens, hidden]);
        bench.run(|sequence| {
            let inputs = FinalizeRouting {
                expanded_x: expanded_laid.view(),
                row_idx: row_laid.view(),
                x1: x1.as_ref().map(|(_, laid)| laid.view()),
                x2: x2.as_ref().map(|(_, laid)| laid.view()),
                bias: bias.as_ref().map(|((_, laid), _)| laid.view()),
                scales: scales.as_ref().map(|(_, laid)| laid.view()),
                expert_idx: bias.as_ref().map(|(_, (_, laid))| laid.view()),
                mode,
            };
            let combine = if third { op::moe_finalize_routing_v3 } else { op::moe_finalize_routing_v2 };
            combine(sequence, &inputs, &mut out.view_mut())
        });
        let due = |at: &Vec<usize>| {
            let (token, column) = (at[0], at[1]);
            let mut adder = Adder { sum: None, each_step: dtype == DType::F16 };
            [&x1, &x2].into_iter().flatten().for_each(|(x, _)| adder.add(x.at(at).single()));
            for j in 0..k {
                let row = row_idx.values[if by_column { j * tokens + token } else { token * k + j }].int();
                let Ok(row) = usize::try_from(row) else { continue };
                let mut term = expanded.values[row * hidden + column].single();
                if let Some(((bias, _), (ids, _))) = &bias {
                    let expert = ids.at(&[token, j]).int() as usize;
                    term = adder.round(term + bias.at(&[expert, column]).single());
                }
                if let Some((scales, _)) = &scales {
                    term = adder.round(term * scales.at(&[token, j]).single());
                }
                adder.add(term);
            }
            adder.due(dtype)
        };
        let due: Vec<Due> = coordinates(&[tokens, hidden]).iter().map(due).collect();
        bench.check(&[&expanded, &row_idx], &out, &due);
    });
}

#[test]
fn unpermutation() {
    cases("moe_token_unpermute", 200, |bench| {
        let (dtype, probs_dtype) = (bench.random.pick(FLOATS), bench.random.pick(FLOATS));
        let (tokens, hidden) = (bench.random.below(6), 1 + bench.random.below(9));
        let probs = maybe(bench, |bench| {
            let k = 1 + bench.random.below(4);
            // A probability of 0 leaves its row out.
            let values = bench.random.pick(&[Values::Smooth, Values::Index(0, 2)]);
            bench.input(probs_dtype, &[tokens, k], values)
        });
        let k = probs.as_ref().map_or(1, |(probs, _)| probs.shape[1]);
        let rows = 1 + bench.random.below(tokens * k + 1);
        let (permuted, permuted_laid) = bench.input(dtype, &[rows, hidden], Values::SmoothOrNot);
        // Some indices are beyond the rows.
        let (index, index_laid) = bench.input(DType::I32, &[tokens * k], Values::Index(0, rows as i64 + 2));
        let mut out = bench.output_in(Layout::Packed, dtype, &[tokens, hidden]);
        bench.run(|sequence| {
            let probs = probs.as_ref().map(|(_, laid)| laid.view());
            let (permuted, index) = (permuted_laid.view(), index_laid.view());
            op::moe_token_unpermute(sequence, &permuted, &index, probs.as_ref(), &mut out.view_mut())
        });
        let due = |at: &Vec<usize>| {
            let mut adder = Adder { sum: None, each_step: false };
            for j in 0..k {
                let row = index.values[at[0] * k + j].int() as usize;
                let prob = probs.as_ref().map_or(1.0, |(probs, _)| probs.at(&[at[0], j]).single());
                if row < rows && prob != 0.0 {
                    adder.add(permuted.at(&[row, at[1]]).single() * prob);
                }
            }
            adder.due(dtype)
        };
        let due: Vec<Due> = coordinates(&[tokens, hidden]).iter().map(due).collect();
        bench.check(&[&permuted, &index], &out, &due);
    });
}

#[test]
fn permutation() {
    cases("moe_token_permute", 150, |bench| {
        let dtype = bench.random.pick(FLOATS);
        let tokens = 1 + bench.random.below(9);
        let behind = bench.random.shape(1..=3).into_iter().map(|size| size.max(1)).collect::<Vec<_>>();
        let width: usize = behind.iter().product();
        let (x, x_laid) = bench.input(dtype, &[&[tokens], &behind[..]].concat(), Values::Wild);
        let k = 1 + bench.random.below(4);
        let shape = if k == 1 && bench.random.once(2) { vec![tokens] } else { vec![tokens, k] };
        let ids_dtype = bench.random.pick(&[DType::I32, DType::I64]);
        let (ids, ids_laid) = bench.input(ids_dtype, &shape, Values::Index(0, 6));
        // Rows at the end may be left out.
        let (slots, rows) = (tokens * k, 1 + bench.random.below(tokens * k));
        let mut permuted = bench.output_in(Layout::Packed, dtype, &[&[rows], &behind[..]].concat());
        let mut index = bench.output_in(Layout::Packed, DType::I32, &[slots]);
        bench.run(|sequence| {
            let (mut permuted, mut index) = (permuted.view_mut(), index.view_mut());
            op::moe_token_permute(sequence, &x_laid.view(), &ids_laid.view(), &mut permuted, &mut index)
        });
        let sorted = sort(&ids.values, (0, 6)).slots;
        let row = |row: usize| (0..width).map(move |i| (row, i));
        let due = (0..rows).flat_map(row).map(|(row, i)| Due::Exactly(x.values[sorted[row] / k * width + i]));
        bench.check(&[&x, &ids], &permuted, &due.collect::<Vec<_>>());
        let place = |slot| whole(sorted.iter().position(|&sorted| sorted == slot).unwrap());
        bench.check(&[&ids], &index, &(0..slots).map(place).collect::<Vec<_>>());
    });
    cases("moe_compute_expert_tokens", 100, |bench| {
        let (slots, experts) = (bench.random.below(40), 1 + bench.random.below(9));
        let mut ids: Vec<i64> = (0..slots).map(|_| bench.random.below(experts) as i64).collect();
        ids.sort_unstable();
        let laid = bench.given(DType::I32, &[slots], ids.iter().map(|&id| Int(id)).collect());
        let mut ends = bench.output(DType::I32, &[experts]);
        bench.run(|sequence| op::moe_compute_expert_tokens(sequence, &laid.view(), &mut ends.view_mut()));
        let due: Vec<Due> =
            (0..experts).map(|expert| whole(ids.iter().filter(|&&id| id <= expert as i64).count())).collect();
        bench.check(&[], &ends, &due);
    });
}
