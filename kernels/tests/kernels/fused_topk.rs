//! The router with replicas: worked numbers, and equality with a plain loop.
use moe_kernels::KernelError;
use moe_kernels::fused_topk::{FusedTopK, Replicas, fused_top_k};
use proptest::prelude::*;

const PLAIN: FusedTopK = FusedTopK { groups: 1, kept: 1, summed: 1, top_k: 2, scale: None };

fn route(
    params: &FusedTopK,
    x: &[f32],
    bias: &[f32],
    replicas: Option<&Replicas<'_>>,
) -> Result<(Vec<f32>, Vec<i32>), KernelError> {
    let chosen = x.len() / bias.len() * params.top_k;
    let (mut weights, mut indices) = (vec![-7.0; chosen], vec![-7; chosen]);
    fused_top_k(params, x, bias.len(), bias, replicas, &mut weights, &mut indices)?;
    Ok((weights, indices))
}

fn near(found: &[f32], due: &[f32]) {
    assert_eq!(found.len(), due.len());
    for (found, due) in found.iter().zip(due) {
        assert!((found - due).abs() <= due.abs() * 1e-6, "{found} where {due} is due");
    }
}

#[test]
fn the_bias_chooses_and_does_not_weigh() {
    let (x, bias) = ([0.0, 0.0, 0.0, 0.0, 1.0, -1.0, 1.0, 2.0], [0.0, 0.0, 0.5, 0.0]);
    let (weights, indices) = route(&FusedTopK { scale: Some(2.5), ..PLAIN }, &x, &bias, None).unwrap();
    assert_eq!(indices, [2, 0, 2, 3]);
    near(&weights, &[1.25, 1.25, 1.133_877_3, 1.366_122_7]);
    let (weights, _) = route(&PLAIN, &x, &bias, None).unwrap();
    near(&weights, &[0.5, 0.5, 0.731_058_6, 0.880_797_1]);
}

#[test]
fn groups_by_the_sum_of_their_best() {
    let x = [2.0, -2.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0];
    let with = |summed, kept| FusedTopK { groups: 4, kept, summed, top_k: 3, scale: None };
    assert_eq!(route(&with(2, 2), &x, &[0.0; 8], None).unwrap().1, [2, 3, 6]);
    assert_eq!(route(&with(1, 2), &x, &[0.0; 8], None).unwrap().1, [0, 2, 3]);
    // One group of two experts is kept for three choices: the third has score 0, the lowest of all that do.
    assert_eq!(route(&with(2, 1), &x, &[0.0; 8], None).unwrap().1, [2, 3, 0]);
    // Below 0 the kept ones come after the zeros.
    let (weights, indices) = route(&with(2, 1), &x, &[-2.0; 8], None).unwrap();
    assert_eq!(indices, [0, 1, 4]);
    near(&weights, &[0.880_797_1, 0.119_202_92, 0.5]);
    // Groups of one expert are groups.
    let single = FusedTopK { groups: 8, kept: 1, summed: 1, top_k: 2, scale: None };
    assert_eq!(route(&single, &x, &[0.0; 8], None).unwrap().1, [0, 1]);
}

#[test]
fn replicas_take_turns() {
    let (x, bias) = ([3.0, 2.0, 1.0].repeat(4), [0.0; 3]);
    let replicas = Replicas { counts: &[2, 0, 3], table: &[10, 11, -1, 20, -1, -1, 30, 31, 32] };
    let (_, indices) = route(&FusedTopK { top_k: 3, ..PLAIN }, &x, &bias, Some(&replicas)).unwrap();
    assert_eq!(indices, [10, 20, 30, 11, 20, 31, 10, 20, 32, 11, 20, 30]);
}

#[test]
fn refusals() {
    let (x, bias) = ([0.0; 6], [0.0; 3]);
    let with = |counts: &[i32], table: &[i32]| route(&PLAIN, &x, &bias, Some(&Replicas { counts, table })).map(drop);
    assert_eq!(with(&[2, 0, 1], &[0; 6]), Ok(()));
    for count in [-1, 3] {
        assert!(matches!(with(&[2, count, 1], &[0; 6]), Err(KernelError::Range { .. })), "{count}");
    }
    assert!(matches!(with(&[0; 2], &[0; 6]), Err(KernelError::Length { .. })));
    assert!(matches!(with(&[0; 3], &[0; 5]), Err(KernelError::NotMultiple { .. })));
    assert!(matches!(with(&[0; 3], &[]), Err(KernelError::Range { .. })));
    assert!(matches!(route(&FusedTopK { top_k: 4, ..PLAIN }, &x, &bias, None), Err(KernelError::Range { .. })));
    assert!(matches!(route(&FusedTopK { summed: 4, ..PLAIN }, &x, &bias, None), Err(KernelError::Range { .. })));
}

proptest! {
    #[test]
    fn agrees_with_a_plain_loop(
        rows in prop::collection::vec(prop::collection::vec(-3i8..4, 12), 0..9),
        bias in prop::collection::vec(-4i8..5, 12),
        (groups, kept, summed, top_k) in prop::sample::select(vec![1usize, 2, 3, 4, 6, 12])
            .prop_flat_map(|groups| (Just(groups), 1..=groups, 1..=12 / groups, 1usize..=12)),
        counts in prop::collection::vec(0i32..4, 12),
    ) {
        let x: Vec<f32> = rows.concat().into_iter().map(|v| f32::from(v) / 2.0).collect();
        let bias: Vec<f32> = bias.into_iter().map(|v| f32::from(v) / 4.0).collect();
        let table: Vec<i32> = (0..36).map(|place| 100 + place).collect();
        let params = FusedTopK { groups, kept, summed, top_k, scale: Some(1.5) };
        let replicas = Replicas { counts: &counts, table: &table };
        let (weights, indices) = route(&params, &x, &bias, Some(&replicas)).unwrap();
        for (t, row) in x.chunks(12).enumerate() {
            let scores: Vec<f32> = row.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect();
            let mut keys: Vec<f32> = scores.iter().zip(&bias).map(|(score, bias)| score + bias).collect();
            let size = 12 / groups;
            let sums: Vec<f32> = keys.chunks(size).map(|group| {
                let mut group = group.to_vec();
                group.sort_by(|a, b| b.total_cmp(a));
                group[..summed].iter().fold(0.0, |sum, key| sum + key)
            }).collect();
            let mut order: Vec<usize> = (0..groups).collect();
            order.sort_by(|a, b| sums[*b].total_cmp(&sums[*a]));
            order[kept..].iter().for_each(|group| keys[group * size..(group + 1) * size].fill(0.0));
            let mut order: Vec<usize> = (0..12).collect();
            order.sort_by(|a, b| keys[*b].partial_cmp(&keys[*a]).unwrap());
            let sum: f32 = order[..top_k].iter().map(|e| scores[*e]).sum();
            for j in 0..top_k {
                let expert = order[j];
                let replica = expert * 3 + t % counts[expert].max(1) as usize;
                prop_assert_eq!(indices[t * top_k + j], table[replica]);
                prop_assert!((weights[t * top_k + j] - scores[expert] / sum * 1.5).abs() < 1e-5);
            }
        }
    }
}
