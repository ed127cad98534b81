//! Rows that arrive from several ranks, and the choice among the instances of an expert: worked numbers, and equality
//! with plain loops.
use half::bf16;
use moe_kernels::KernelError;
use moe_kernels::expert_balance::{Balance, balance, prune};
use moe_kernels::permute::Permutation;
use proptest::prelude::*;

/// A table of three experts with one, two and three instances.
const TABLE: [i32; 12] = [1, 5, 0, 0, 2, 0, 6, 0, 3, 1, 4, 7];
const IDS: [i64; 6] = [0, 1, 1, 2, 2, 2];

fn balanced(ids: &[i64], table: &[i32], by: Balance) -> Result<Vec<i32>, KernelError> {
    let mut instances = vec![-7; ids.len()];
    let result = balance(ids, 2, table, 4, by, &mut instances);
    assert!(result.is_ok() || instances.iter().all(|i| *i == -7), "a refused call writes nothing");
    result.map(|()| instances)
}

#[test]
fn worked_numbers() {
    // Worked example: three ranks, two experts.
    let regrouped = Permutation::regroup(&[1, 2, 0, 1, 2, 0], 2, 6).unwrap();
    assert_eq!(regrouped.sorted(), [0, 4, 5, 1, 2, 3]);

    // Worked example: eight ranks.
    let by_rank = |rank| balanced(&IDS, &TABLE, Balance::ByRank { rank, ranks: 8 }).unwrap();
    assert_eq!(by_rank(5), [5, 6, 6, 4, 4, 4]);
    assert_eq!(by_rank(0), [5, 0, 0, 1, 1, 1]);
    assert_eq!(balanced(&IDS, &TABLE, Balance::ByToken).unwrap(), [5, 0, 6, 4, 7, 7]);

    // Worked example: the weights' shares of their sum, which is 1.
    let (scales, thresholds) = ([0.6f32, 0.4, 0.9, 0.1], [0.5f32, 0.2]);
    let mut keep = [7u8; 4];
    prune(&scales, &thresholds, None, &mut keep).unwrap();
    assert_eq!(keep, [1, 1, 1, 0]);
    prune(&scales, &thresholds, Some(&[0, 1]), &mut keep).unwrap();
    assert_eq!(keep, [0, 0, 1, 0]);
    // Equal to the threshold stays; not a number goes.
    let halves = [0.5, 0.5, f32::NAN, 1.0].map(bf16::from_f32);
    prune(&halves, &[0.5, 0.5], None, &mut keep).unwrap();
    assert_eq!(keep, [1, 1, 0, 0]);
}

#[test]
fn refusals() {
    let regroup = |counts: &[i64], rows| Permutation::regroup(counts, 2, rows);
    assert!(matches!(regroup(&[1, -1], 1), Err(KernelError::GroupNegative { entry: 1, value: -1 })));
    assert!(matches!(regroup(&[1, 2], 2), Err(KernelError::GroupRows { entry: 1, end: 3, rows: 2 })));
    assert!(matches!(regroup(&[i64::MAX, 2], 2), Err(KernelError::GroupRows { entry: 0, .. })));
    assert!(matches!(regroup(&[1, 2], 4), Err(KernelError::Length { expected: 4, actual: 3, .. })));
    assert!(matches!(regroup(&[1], 1), Err(KernelError::NotMultiple { .. })));

    for expert in [-1, 3, i64::MAX, i64::MIN] {
        let answer = balanced(&[0, expert], &TABLE, Balance::ByToken);
        assert!(matches!(answer, Err(KernelError::ExpertId { slot: 1, experts: 3, .. })), "{answer:?}");
    }
    for count in [0, -1, 4] {
        let table = [count, 1, 2, 3];
        let answer = balanced(&[0, 0], &table, Balance::ByToken);
        assert_eq!(answer, Err(KernelError::Instances { expert: 0, count, most: 3 }));
    }
    let outside = balanced(&IDS, &TABLE, Balance::ByRank { rank: 8, ranks: 8 });
    assert!(matches!(outside, Err(KernelError::Range { value: 8, max: 7, .. })));
    assert!(matches!(balanced(&[0], &TABLE, Balance::ByToken), Err(KernelError::NotMultiple { .. })));
    assert!(matches!(prune(&[1f32; 3], &[0.5; 2], None, &mut [0; 3]), Err(KernelError::NotMultiple { .. })));
    assert!(matches!(prune(&[1f32; 2], &[0.5; 2], Some(&[1, 1]), &mut [0; 2]), Err(KernelError::Length { .. })));
    assert!(matches!(prune(&[1f32; 2], &[0.5; 2], None, &mut [0; 3]), Err(KernelError::Length { .. })));
}

proptest! {
    #[test]
    fn regrouping_keeps_the_order_of_ranks(
        (ranks, experts) in (1usize..5, 1usize..6),
        seed in prop::collection::vec(0i64..4, 30),
    ) {
        let counts = &seed[..ranks * experts];
        let blocks = counts.iter().enumerate();
        let labels: Vec<(usize, usize)> =
            blocks.flat_map(|(i, n)| vec![(i % experts, i / experts); *n as usize]).collect();
        let regrouped = Permutation::regroup(counts, experts, labels.len()).unwrap();
        let mut order: Vec<u32> = (0..labels.len() as u32).collect();
        order.sort_by_key(|row| labels[*row as usize]);
        prop_assert_eq!(regrouped.sorted(), order.as_slice());
    }

    #[test]
    fn every_instance_is_one_of_its_experts(
        counts in prop::collection::vec(1i32..4, 1..6),
        ids in prop::collection::vec(0usize..6, 0..20),
        (rank, ranks) in (1usize..9).prop_flat_map(|ranks| (0..ranks, Just(ranks))),
    ) {
        let row = |(expert, count): (i32, &i32)| [*count, expert * 10, expert * 10 + 1, expert * 10 + 2];
        let table: Vec<i32> = (0..).zip(&counts).flat_map(row).collect();
        let ids: Vec<i64> = ids.iter().map(|id| (id % counts.len()) as i64).flat_map(|id| [id, id]).collect();
        for by in [Balance::ByRank { rank, ranks }, Balance::ByToken] {
            for (slot, (id, instance)) in ids.iter().zip(balanced(&ids, &table, by).unwrap()).enumerate() {
                let count = counts[*id as usize];
                let place = match by {
                    Balance::ByToken => slot as i32 / 2 % count,
                    Balance::ByRank { .. } => {
                        let (rank, ranks) = (rank as i32, ranks as i32);
                        rank / (ranks / count + i32::from(ranks % count > 0))
                    }
                };
                prop_assert!(place < count);
                prop_assert_eq!(instance, *id as i32 * 10 + place);
            }
        }
    }
}
