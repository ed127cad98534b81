//! Laws of routing, combine and activation: kernels equal their scalar references bit for bit on any pool (the activation but for a
//! few units in the last place), permuting and unpermuting is the identity, counts add up.

use crate::common::*;
use half::{bf16, f16};
use moe_kernels::activation::swiglu;
use moe_kernels::combine::{ExpertBias, Finalize, Held, Rounding, SlotOrder, Unpermute, finalize, unpermute};
use moe_kernels::element::{Float, FloatType};
use moe_kernels::gating::{Division, Dropped, Gating, GroupScore, Groups, Score, gating_chosen, gating_top_k};
use moe_kernels::group_list::{GroupListKind, decode};
use moe_kernels::init_routing::Routing;
use moe_kernels::isa::Isa;
use moe_kernels::reference;
use proptest::prelude::*;

fn score() -> impl Strategy<Value = Score> {
    prop::sample::select(vec![
        Score::Sigmoid,
        Score::SqrtSoftplus,
        Score::Softmax(Division::ByQuotient),
        Score::Softmax(Division::ByReciprocal),
    ])
}

/// Parameters that fit, and the number of experts.
fn gating() -> impl Strategy<Value = (Gating, usize)> {
    let groups = (1..7usize, 1..9usize, any::<bool>()).prop_flat_map(|(count, size, limit)| {
        let score = prop_oneof![Just(GroupScore::Max), (1..=size).prop_map(GroupScore::TopSum)];
        let dropped = prop::sample::select(vec![Dropped::Removed, Dropped::Zeroed]);
        (1..=count, score, dropped).prop_map(move |(keep, score, dropped)| {
            (limit.then_some(Groups { count, keep, score, dropped }), count * size, size)
        })
    });
    let renormalise = prop::sample::select(vec![None, Some(Division::ByQuotient), Some(Division::ByReciprocal)]);
    (groups, score(), renormalise, 0.5f32..3.0).prop_flat_map(|((groups, experts, size), score, renormalise, scale)| {
        let removed = groups.filter(|g| g.dropped == Dropped::Removed);
        let most = removed.map_or(experts, |g| g.keep * size);
        (1..=most).prop_map(move |top_k| (Gating { top_k, score, groups, renormalise, eps: 1e-20, scale }, experts))
    })
}

fn gating_both<T: Float>(gating: &Gating, experts: usize, values: &[f32], bias: Option<&[f32]>) {
    let tokens = values.len() / experts;
    let logits: Vec<T> = to(&values[..tokens * experts]);
    let bias: Option<Vec<T>> = bias.map(|bias| to(&bias[..experts]));
    let run = |fast: bool| {
        let mut weights = vec![T::from_f32(POISON); tokens * gating.top_k];
        let mut indices = vec![-9; tokens * gating.top_k];
        let mut scores = vec![POISON; tokens * experts];
        let run = if fast { gating_top_k } else { reference::gating_top_k };
        let out = (&mut weights[..], &mut indices[..], Some(&mut scores[..]));
        run(gating, &logits, experts, bias.as_deref(), out.0, out.1, out.2).unwrap();
        (weights, indices, scores)
    };
    let expected = run(false);
    on_pools(|| {
        let (weights, indices, scores) = run(true);
        same(&weights, &expected.0);
        assert_eq!(indices, expected.1);
        same(&scores, &expected.2);
        // Given the experts, the rest is the same.
        let (mut weights, mut indices) = (vec![T::from_f32(POISON); weights.len()], vec![-9; indices.len()]);
        gating_chosen(gating, &logits, experts, &expected.1, &mut weights, &mut indices, None).unwrap();
        same(&weights, &expected.0);
        assert_eq!(indices, expected.1);
    });
}

/// Token rows that differ, and routed experts, some out of range.
fn routing() -> impl Strategy<Value = (usize, usize, usize, Vec<i32>, std::ops::Range<usize>)> {
    (0..40usize, 1..6usize, 1..12usize).prop_flat_map(|(tokens, top_k, experts)| {
        let ids = prop::collection::vec(-1..=(experts as i32), tokens * top_k);
        let range = (0..=experts, 0..=experts).prop_map(|(a, b)| a.min(b)..a.max(b));
        (Just(tokens), Just(top_k), Just(experts), ids, range)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn gating_is_the_reference(
        (gating, experts) in gating(),
        values in prop::collection::vec(wild(), 0..400),
        bias in prop::option::of(prop::collection::vec(wild(), 64)),
    ) {
        gating_both::<f32>(&gating, experts, &values, bias.as_deref());
        gating_both::<bf16>(&gating, experts, &values, bias.as_deref());
        gating_both::<f16>(&gating, experts, &values, bias.as_deref());
    }

    #[test]
    fn gating_with_many_ties_is_the_reference(
        (gating, experts) in gating(),
        values in prop::collection::vec(prop::sample::select(vec![-1f32, -0.0, 0.0, 1.0]), 0..400),
    ) {
        gating_both::<f32>(&gating, experts, &values, None);
    }

    #[test]
    fn routing_sorts_counts_and_copies((tokens, top_k, experts, ids, range) in routing(), row_bytes in 0..9usize) {
        let src: Vec<u8> = (0..tokens * row_bytes).map(|i| (i / row_bytes.max(1)) as u8).collect();
        let sorted = reference::sorted_slots(&ids, range.clone());
        on_pools(|| {
            let routing = Routing::new(&ids, range.clone()).unwrap();
            assert_eq!(routing.sorted(), sorted);
            assert_eq!(routing.counts().iter().sum::<usize>(), sorted.len());

            let (mut gather, mut scatter) = (vec![-9; ids.len()], vec![-9; ids.len()]);
            routing.gather_index(&mut gather).unwrap();
            routing.scatter_index(&mut scatter).unwrap();
            for (row, &slot) in sorted.iter().enumerate() {
                assert_eq!((gather[slot as usize], scatter[row]), (row as i32, slot as i32));
            }
            assert_eq!(gather.iter().filter(|row| **row == -1).count(), ids.len() - sorted.len());
            assert!(scatter[sorted.len()..].iter().all(|slot| *slot == -9));

            let active = sorted.len() / 2;
            let mut rows = vec![0xee; ids.len() * row_bytes];
            assert_eq!(routing.expand(&src, row_bytes, top_k, Some(active), &mut rows), Ok(active));
            for (i, row) in rows.chunks(row_bytes.max(1)).enumerate() {
                let byte = sorted.get(i).filter(|_| i < active).map_or(0xee, |slot| (*slot as usize / top_k) as u8);
                assert!(row.iter().all(|b| *b == byte));
            }
        });
        // The three ways to write the counts describe the same groups.
        let routing = Routing::new(&ids, range.clone()).unwrap();
        let list = |kind, len| {
            let mut list = vec![0; len];
            routing.write_counts(kind, &mut list).unwrap();
            let offset = if kind == GroupListKind::KeyValue { range.start } else { 0 };
            let listed = if kind == GroupListKind::KeyValue { experts } else { range.len() };
            let mut groups = decode(kind, &list, listed, sorted.len()).unwrap();
            groups.iter_mut().for_each(|group| group.expert -= offset);
            groups
        };
        let groups = list(GroupListKind::Count, range.len());
        prop_assert_eq!(&groups, &list(GroupListKind::Cumsum, range.len()));
        prop_assert_eq!(&groups, &list(GroupListKind::KeyValue, 2 * experts));
        for group in groups {
            for slot in &sorted[group.rows] {
                prop_assert_eq!(ids[*slot as usize], (range.start + group.expert) as i32);
            }
        }
    }

    #[test]
    fn drop_pad_keeps_the_first_slots_of_each_expert((tokens, top_k, experts, ids, _) in routing(), capacity in 0..5usize) {
        let routing = Routing::new(&ids, 0..experts).unwrap();
        let src: Vec<u8> = (1..=tokens).map(|t| t as u8).collect();
        let mut index = vec![-9; ids.len()];
        routing.drop_pad_index(capacity, &mut index).unwrap();
        let mut expected = vec![0u8; experts * capacity];
        let mut used = vec![0; experts];
        for (slot, id) in ids.iter().enumerate() {
            let kept = usize::try_from(*id).ok().filter(|e| *e < experts && used[*e] < capacity);
            let row = kept.map(|e| { used[e] += 1; e * capacity + used[e] - 1 });
            prop_assert_eq!(index[slot], row.map_or(-1, |row| row as i32));
            if let Some(row) = row {
                expected[row] = src[slot / top_k];
            }
        }
        on_pools(|| {
            let mut rows = vec![0xee; experts * capacity];
            routing.expand_drop_pad(&src, 1, top_k, capacity, &mut rows).unwrap();
            assert_eq!(rows, expected);
        });
    }

    #[test]
    fn permute_then_unpermute_is_the_identity(
        (tokens, _, experts, _, _) in routing(),
        top_k in prop::sample::select(vec![1usize, 2, 4]),
        hidden in 1..20usize,
        seed in any::<u64>(),
    ) {
        // The weights are powers of two that sum to 1, so the sum of equal rows is the row.
        let ids: Vec<i32> = noise(tokens * top_k, seed).iter().map(|v| ((v + 0.5) * experts as f32) as i32 % experts as i32).collect();
        let x: Vec<bf16> = bf(&noise(tokens * hidden, seed ^ 1));
        let routing = Routing::new(&ids, 0..experts).unwrap();
        let (mut rows, mut index) = (vec![bf16::NAN; ids.len() * hidden], vec![0; ids.len()]);
        routing.expand(bytemuck::cast_slice(&x), 2 * hidden, top_k, None, bytemuck::cast_slice_mut(&mut rows)).unwrap();
        routing.gather_index(&mut index).unwrap();
        let weights = vec![1.0 / top_k as f32; ids.len()];
        let mut out = vec![bf16::NAN; x.len()];
        let operands = Unpermute { permuted: &rows, hidden, sorted_indices: &index, probs: Some(&weights), top_k, held: Held::First };
        unpermute(&operands, &mut out).unwrap();
        prop_assert_eq!(&out, &x);
        out.fill(bf16::NAN);
        let operands = Finalize {
            expanded: &rows, hidden, row_index: &index, top_k, order: SlotOrder::RowMajor, drop_pad: false,
            x1: None, x2: None, bias: None, scales: Some(&weights), rounding: Rounding::Once,
        };
        finalize(&operands, &mut out).unwrap();
        prop_assert_eq!(&out, &x);
    }

    #[test]
    fn combine_is_the_reference(
        (tokens, top_k, rows) in (0..12usize, 1..5usize, 1..30usize),
        // Long rows are added up in several pieces.
        hidden in prop_oneof![9 => 1..40usize, 1 => 500..1100usize],
        (drop_pad, row_major, each_step) in any::<(bool, bool, bool)>(),
        (x1, x2, biased, scaled) in any::<(bool, bool, bool, bool)>(),
        values in prop::collection::vec(wild(), 64),
        seed in any::<u64>(),
    ) {
        let shape = Combine { tokens, top_k, hidden, rows, drop_pad, row_major, each_step, x1, x2, biased, scaled, seed };
        combine_both::<f32, f32>(&shape, &values);
        combine_both::<bf16, f32>(&shape, &values);
        combine_both::<f16, f16>(&shape, &values);
    }

    #[test]
    fn swiglu_is_next_to_the_reference(
        shape in prop::collection::vec(0..6usize, 1..4),
        axis in 0..3usize,
        values in prop::collection::vec(wild(), 1..50),
    ) {
        let axis = axis % shape.len();
        let mut shape = shape;
        shape[axis] *= 2;
        swiglu_both::<f32>(&shape, axis, &values);
        swiglu_both::<bf16>(&shape, axis, &values);
        swiglu_both::<f16>(&shape, axis, &values);
    }

}

#[derive(Debug, Clone, Copy)]
struct Combine {
    tokens: usize,
    top_k: usize,
    hidden: usize,
    rows: usize,
    drop_pad: bool,
    row_major: bool,
    each_step: bool,
    x1: bool,
    x2: bool,
    biased: bool,
    scaled: bool,
    seed: u64,
}

fn combine_both<T: Float, S: Float>(shape: &Combine, values: &[f32]) {
    let Combine { tokens, top_k, hidden, rows, .. } = *shape;
    let slots = tokens * top_k;
    let fill = |n: usize, salt: usize| -> Vec<T> {
        (0..n).map(|i| T::from_f32(values[(i * 7 + i / 64 + salt) % 64])).collect()
    };
    let pick = |n: usize, most: usize, salt: u64| -> Vec<i32> {
        noise(n, shape.seed ^ salt).iter().map(|v| ((v + 0.5) * most as f32) as i32 % most as i32).collect()
    };
    let expanded = fill(rows * hidden, 0);
    let mut row_index = pick(slots, rows, 3);
    if shape.drop_pad {
        row_index.iter_mut().step_by(3).for_each(|row| *row = -1);
    }
    let (x1, x2, bias) = (fill(tokens * hidden, 1), fill(tokens * hidden, 2), fill(5 * hidden, 3));
    let expert_ids = pick(slots, 5, 4);
    let scales: Vec<S> = to(&(0..slots).map(|i| values[i % 64]).collect::<Vec<_>>());
    let operands = Finalize {
        expanded: &expanded,
        hidden,
        row_index: &row_index,
        top_k,
        order: if shape.row_major { SlotOrder::RowMajor } else { SlotOrder::ColumnMajor },
        drop_pad: shape.drop_pad,
        x1: shape.x1.then_some(&x1),
        x2: shape.x2.then_some(&x2),
        bias: shape.biased.then_some(ExpertBias { bias: &bias, expert_ids: &expert_ids }),
        scales: shape.scaled.then_some(&scales),
        rounding: if shape.each_step { Rounding::EachStep } else { Rounding::Once },
    };
    let poisoned = vec![T::from_f32(POISON); tokens * hidden];
    let mut expected = poisoned.clone();
    reference::finalize(&operands, &mut expected).unwrap();
    on_pools(|| {
        let mut out = poisoned.clone();
        finalize(&operands, &mut out).unwrap();
        same(&out, &expected);
    });

    // Some indices past the end and some probs of zero are skipped.
    let past: Vec<i32> = row_index.iter().map(|row| if *row < 0 { rows as i32 } else { *row }).collect();
    let first = Unpermute {
        permuted: &expanded,
        hidden,
        sorted_indices: &past,
        probs: Some(&scales),
        top_k,
        held: Held::First,
    };
    // Of some sorted rows only a part is held; of others all, and -1 is none; with and without probs.
    let sorted = pick(slots, 3 * rows, 5);
    let range = Held::Range { start: rows / 2, end: rows / 2 + rows };
    for held in [Held::First, range, Held::All] {
        let sorted_indices = match held {
            Held::First => &past,
            Held::Range { .. } => &sorted,
            Held::All => &row_index,
        };
        let probs = if held == Held::First || shape.scaled { first.probs } else { None };
        let operands = Unpermute { held, sorted_indices, probs, ..first };
        reference::unpermute(&operands, &mut expected).unwrap();
        on_pools(|| {
            let mut out = poisoned.clone();
            unpermute(&operands, &mut out).unwrap();
            same(&out, &expected);
        });
    }
}

fn swiglu_both<T: Float>(shape: &[usize], axis: usize, values: &[f32]) {
    let size: usize = shape.iter().product();
    let x: Vec<T> = (0..size).map(|i| T::from_f32(values[i % values.len()])).collect();
    let mut expected = vec![T::from_f32(POISON); size / 2];
    reference::swiglu(&x, shape, axis, &mut expected).unwrap();
    for isa in Isa::available() {
        let mut first: Option<Vec<T>> = None;
        on_pools(|| {
            let mut out = vec![T::from_f32(POISON); size / 2];
            isa.with(|| swiglu(&x, shape, axis, &mut out).unwrap()).unwrap();
            same(&out, first.get_or_insert_with(|| out.clone()));
        });
        for (i, (a, e)) in first.iter().flatten().zip(&expected).enumerate() {
            // Two exponentials of about 1 ulp, two roundings to the type; or to its denormals.
            let (a, e) = (f64::from(a.to_f32()), f64::from(e.to_f32()));
            let (relative, least) = match T::TYPE {
                FloatType::F32 => (2f64.powi(-21), 2f64.powi(-147)),
                FloatType::Bf16 => (2f64.powi(-7), 2f64.powi(-132)),
                FloatType::F16 => (2f64.powi(-10), 2f64.powi(-23)),
            };
            let equal = a == e || a.is_nan() && e.is_nan();
            assert!(equal || (a - e).abs() <= relative * e.abs() + least, "{}, element {i}: {a:e}, {e:e}", isa.name());
        }
    }
}
