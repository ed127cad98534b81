//! Softmax routers: worked numbers, and equality with a scalar loop.
use moe_kernels::KernelError;
use moe_kernels::softmax_gating::{SoftmaxOver, column_index, softmax_top_k};
use proptest::prelude::*;

const X: [f32; 8] = [0.0, std::f32::consts::LN_2, 1.098_612_3, 0.0, 5.0, 5.0, 5.0, 5.0];

fn route(over: SoftmaxOver, k: usize, x: &[f32], experts: usize, finished: &[u8]) -> (Vec<f32>, Vec<i32>, Vec<f32>) {
    let chosen = x.len() / experts * k;
    let (mut weights, mut indices, mut softmax) = (vec![-7.0; chosen], vec![-7; chosen], vec![-7.0; x.len()]);
    softmax_top_k(over, k, x, experts, Some(finished), &mut weights, &mut indices, Some(&mut softmax)).unwrap();
    (weights, indices, softmax)
}

fn near(found: &[f32], due: &[f32]) {
    assert_eq!(found.len(), due.len());
    for (found, due) in found.iter().zip(due) {
        assert!((found - due).abs() <= due.abs() * 1e-6, "{found} where {due} is due");
    }
}

#[test]
fn softmax_before_and_after_the_choice() {
    let (weights, indices, softmax) = route(SoftmaxOver::All, 2, &X, 4, &[0, 1]);
    assert_eq!(indices, [2, 1, 4, 4]);
    near(&weights, &[3.0 / 7.0, 2.0 / 7.0, 0.25, 0.25]);
    near(&softmax[..4], &[1.0 / 7.0, 2.0 / 7.0, 3.0 / 7.0, 1.0 / 7.0]);
    let (weights, indices, softmax) = route(SoftmaxOver::Chosen, 2, &X, 4, &[0, 0]);
    assert_eq!(indices, [2, 1, 0, 1]);
    near(&weights, &[0.6, 0.4, 0.5, 0.5]);
    assert_eq!(softmax, [-7.0; 8]);
}

#[test]
fn zeros_of_both_signs_tie_and_nan_comes_first() {
    let (_, indices, _) = route(SoftmaxOver::Chosen, 2, &[-0.0, 0.0, -1.0], 3, &[0]);
    assert_eq!(indices, [0, 1]);
    let (weights, indices, _) = route(SoftmaxOver::Chosen, 2, &[1.0, 3.0, f32::NAN], 3, &[0]);
    assert_eq!(indices, [2, 1]);
    assert!(weights.iter().all(|weight| weight.is_nan()));
}

#[test]
fn columns() {
    let mut index = [0; 4];
    column_index(2, &mut index).unwrap();
    assert_eq!(index, [0, 2, 1, 3]);
}

#[test]
fn refusals() {
    let run = |k, finished: &[u8]| {
        let (mut weights, mut indices) = (vec![0f32; 2 * k], vec![0; 2 * k]);
        softmax_top_k(SoftmaxOver::Chosen, k, &X, 4, Some(finished), &mut weights, &mut indices, None)
    };
    assert!(matches!(run(0, &[0, 0]), Err(KernelError::Range { .. })));
    assert!(matches!(run(5, &[0, 0]), Err(KernelError::Range { .. })));
    assert!(matches!(run(2, &[0]), Err(KernelError::Length { .. })));
}

proptest! {
    #[test]
    fn agrees_with_a_plain_loop(
        rows in prop::collection::vec((prop::collection::vec(-3i8..4, 7), any::<bool>()), 0..9),
        k in 1usize..8,
        after in any::<bool>(),
    ) {
        let x: Vec<f32> = rows.iter().flat_map(|(row, _)| row.iter().map(|v| f32::from(*v) / 2.0)).collect();
        let finished: Vec<u8> = rows.iter().map(|(_, finished)| u8::from(*finished)).collect();
        let over = if after { SoftmaxOver::Chosen } else { SoftmaxOver::All };
        let (weights, indices, _) = route(over, k, &x, 7, &finished);
        for (t, row) in x.chunks(7).enumerate() {
            let mut order: Vec<usize> = (0..7).collect();
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            let pool: Vec<usize> = if after { order[..k].to_vec() } else { (0..7).collect() };
            let sum: f64 = pool.iter().map(|e| f64::from(row[*e]).exp()).sum();
            for j in 0..k {
                let due = if finished[t] == 1 { 7 } else { order[j] as i32 };
                prop_assert_eq!(indices[t * k + j], due);
                let due = f64::from(row[order[j]]).exp() / sum;
                prop_assert!((f64::from(weights[t * k + j]) - due).abs() < 1e-6);
            }
        }
    }
}
