//! Routing by a map of flags: worked numbers, and equality with plain loops.
use half::bf16;
use moe_kernels::KernelError;
use moe_kernels::combine::{TokenRows, add_to_tokens};
use moe_kernels::permute::Permutation;
use moe_kernels::routing_map::{RoutingMap, places, weights_of_slots};
use proptest::prelude::*;

/// Tokens 0 and 1 go to experts 0 and 2, token 2 to experts 1 and 2.
const MAP: [u8; 9] = [1, 0, 1, 1, 0, 1, 0, 1, 1];

#[test]
fn worked_numbers() {
    let map = RoutingMap::new(&MAP, 3, 3).unwrap();
    assert_eq!(map.marked(), [0, 3, 7, 2, 5, 8]);
    let permutation = map.permutation(2).unwrap();
    assert_eq!(permutation.sorted(), [0, 2, 4, 1, 3, 5]);
    let mut rows = [0; 6];
    permutation.rows(&mut rows).unwrap();
    assert_eq!(rows, [0, 3, 1, 4, 2, 5]);

    let first = map.first_tokens(2).unwrap();
    assert_eq!(first, [0, 1, 2, 0, 0, 1], "expert 1 has one token, and is filled with the first that is not its own");
    assert_eq!(places(&first, 3, 3).unwrap(), [0, 3, 7, 1, 2, 5]);
    assert_eq!(weights_of_slots(&[0.5f32, 2.0], &[1, -1, 0]).unwrap(), [2.0, 0.0, 0.5]);

    // 1.0078125 squared is a little more than 1.015625; with 0.00390625 that is a tie in bf16, or just above it.
    let rows = [1.0078125, 0.00390625].map(bf16::from_f32);
    let probs = [1.0078125, 1.0].map(bf16::from_f32);
    for (round_products, due) in [(true, 1.015625), (false, 1.0234375)] {
        let operands = TokenRows { rows: &rows, hidden: 1, tokens: &[1, 1], probs: Some(&probs), round_products };
        let mut out = [bf16::NAN; 2];
        add_to_tokens(&operands, &Permutation::new(&[1, 1]).unwrap(), &mut out).unwrap();
        assert_eq!(out.map(|sum| sum.to_f32()), [0.0, due]);
    }
}

#[test]
fn refusals() {
    assert!(matches!(RoutingMap::new(&MAP, 3, 2), Err(KernelError::Length { .. })));
    assert!(matches!(RoutingMap::new(&[0, 2], 1, 2), Err(KernelError::Range { value: 2, max: 1, .. })));
    let map = RoutingMap::new(&MAP, 3, 3).unwrap();
    assert_eq!(map.permutation(1), Err(KernelError::Chosen { token: 0, chosen: 2, top_k: 1 }));
    assert!(matches!(map.first_tokens(4), Err(KernelError::Range { value: 4, max: 3, .. })));
    let none = RoutingMap::new(&[], 3, 0).unwrap();
    assert_eq!(none.permutation(1), Err(KernelError::Chosen { token: 0, chosen: 0, top_k: 1 }));
    assert_eq!(none.permutation(0).unwrap().sorted(), [0u32; 0]);
    assert!(matches!(places(&[0, 3], 3, 2), Err(KernelError::RowIndex { slot: 1, row: 3, rows: 3, .. })));
    assert!(matches!(places(&[0, 1, 2], 3, 2), Err(KernelError::NotMultiple { .. })));
    assert!(matches!(weights_of_slots(&[1f32], &[-1, 1]), Err(KernelError::RowIndex { slot: 1, row: 1, rows: 1, .. })));

    let add = |tokens: &[i32], order: &[i64], out: &mut [f32]| {
        let operands =
            TokenRows { rows: &[1f32, 2.0], hidden: 1, tokens, probs: None::<&[f32]>, round_products: false };
        add_to_tokens(&operands, &Permutation::new(order).unwrap(), out)
    };
    for token in [-1, 2] {
        let answer = add(&[0, token], &[0, 1], &mut [0.0; 2]);
        assert!(matches!(answer, Err(KernelError::RowIndex { slot: 1, .. })), "{answer:?}");
    }
    assert!(matches!(add(&[0, 1], &[0], &mut [0.0; 2]), Err(KernelError::Length { .. })));
    assert!(matches!(add(&[0], &[0], &mut [0.0; 2]), Err(KernelError::Length { .. })));
}

/// A map with `top_k` experts for each token.
fn map() -> impl Strategy<Value = (usize, usize, usize, Vec<u8>)> {
    (0usize..9, 1usize..6).prop_flat_map(|(tokens, experts)| {
        let rows = (0..=experts).prop_flat_map(move |top_k| {
            let row = prop::sample::subsequence((0..experts).collect::<Vec<_>>(), top_k);
            (Just(top_k), prop::collection::vec(row, tokens))
        });
        rows.prop_map(move |(top_k, rows)| {
            let mut flags = vec![0; tokens * experts];
            rows.iter().enumerate().for_each(|(t, row)| row.iter().for_each(|e| flags[t * experts + e] = 1));
            (tokens, experts, top_k, flags)
        })
    })
}

proptest! {
    #[test]
    fn agrees_with_plain_loops((tokens, experts, top_k, flags) in map(), most in 0usize..9) {
        let map = RoutingMap::new(&flags, tokens, experts).unwrap();
        // The same order as by the ids of the experts.
        let ids: Vec<i64> = (0..tokens).flat_map(|t| (0..experts).filter({
            let flags = &flags;
            move |e| flags[t * experts + e] == 1
        })).map(|e| e as i64).collect();
        prop_assert_eq!(map.permutation(top_k).unwrap(), Permutation::new(&ids).unwrap());
        let mut marked = Vec::new();
        for e in 0..experts {
            for t in 0..tokens {
                if flags[t * experts + e] == 1 {
                    marked.push((t * experts + e) as u32);
                }
            }
        }
        prop_assert_eq!(map.marked(), marked);

        let capacity = most.min(tokens);
        let first = map.first_tokens(capacity).unwrap();
        let taken = places(&first, tokens, experts).unwrap();
        for e in 0..experts {
            let mut sorted: Vec<usize> = (0..tokens).collect();
            sorted.sort_by_key(|t| 1 - flags[t * experts + e]);
            for c in 0..capacity {
                prop_assert_eq!(first[e * capacity + c] as usize, sorted[c]);
                prop_assert_eq!(taken[e * capacity + c] as usize, sorted[c] * experts + e);
            }
        }
    }

    #[test]
    fn rows_add_up_at_their_tokens(
        (tokens, hidden) in (1usize..6, 1usize..5),
        ids in prop::collection::vec(0i32..6, 0..20),
        values in prop::collection::vec(-4f32..4.0, 100),
        (weighted, round_products) in any::<(bool, bool)>(),
    ) {
        let of_rows: Vec<i32> = ids.iter().map(|id| id % tokens as i32).collect();
        let rows: Vec<bf16> = values[..ids.len() * hidden].iter().map(|v| bf16::from_f32(*v)).collect();
        let probs: Vec<f32> = values[50..50 + ids.len()].to_vec();
        let probs_given = weighted.then_some(&probs[..]);
        let operands = TokenRows { rows: &rows, hidden, tokens: &of_rows, probs: probs_given, round_products };
        let order = Permutation::new(&of_rows.iter().map(|t| i64::from(*t)).collect::<Vec<_>>()).unwrap();
        let mut out = vec![bf16::NAN; tokens * hidden];
        add_to_tokens(&operands, &order, &mut out).unwrap();
        let mut sums = vec![None; tokens * hidden];
        for (row, token) in of_rows.iter().enumerate() {
            for h in 0..hidden {
                let mut term = rows[row * hidden + h].to_f32();
                if weighted {
                    term *= probs[row];
                    if round_products {
                        term = bf16::from_f32(term).to_f32();
                    }
                }
                let sum = &mut sums[*token as usize * hidden + h];
                *sum = Some(sum.map_or(term, |sum: f32| sum + term));
            }
        }
        let due: Vec<bf16> = sums.iter().map(|sum| bf16::from_f32(sum.unwrap_or(0.0))).collect();
        prop_assert_eq!(out, due);
    }
}
