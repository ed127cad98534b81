//! Rows added up by the row they name, against worked numbers and a plain loop.

use crate::common::{POISON, on_pools, same};
use moe_kernels::KernelError;
use moe_kernels::group_list::Group;
use moe_kernels::scatter_rows::{SharedRows, scatter_rows};
use proptest::prelude::*;

#[test]
fn the_worked_example() {
    // Rows [1, 2], [3, 4], [5, 6] with logits 0.5, 2, 1 for tokens 1, 0, 1.
    let values = [0.5, 1.0, 6.0, 8.0, 5.0, 6.0];
    let groups = [Group { expert: 0, rows: 0..3 }];
    let shared = SharedRows { values: &[2., 4., 6., 8.], weight: 0.5, first: 1 };
    let mut out = [POISON; 6];
    scatter_rows(&values, 2, &groups, &[1, 0, 1], Some(shared), &mut out).unwrap();
    assert_eq!(out, [6., 8., 6.5, 9., 3., 4.]);
}

proptest! {
    #[test]
    fn as_a_plain_loop(m in 0usize..30, n in 0usize..9, batch in 1usize..9, ends in prop::array::uniform2(0usize..30), seed in 0u64..99) {
        let value = |i: usize| ((i as u64 * 31 + seed * 7) % 23) as f32 - 11.0;
        let values: Vec<f32> = (0..m * n).map(value).collect();
        let index: Vec<i64> = (0..m).map(|i| ((i as u64 * 5 + seed) % batch as u64) as i64).collect();
        let [a, b] = ends.map(|end| end.min(m));
        let rows = a.min(b)..a.max(b);
        let shared: Vec<f32> = (0..n).map(value).collect();
        let mut due = vec![0f32; batch * n];
        for c in 0..n { due[(batch - 1) * n + c] = 0.25 * shared[c]; }
        for i in rows.clone() { for c in 0..n { due[index[i] as usize * n + c] += values[i * n + c]; } }
        let start = SharedRows { values: &shared, weight: 0.25, first: batch - 1 };
        on_pools(|| {
            let mut out = vec![POISON; batch * n];
            let groups = [Group { expert: 3, rows: rows.clone() }];
            scatter_rows(&values, n, &groups, &index, (n > 0).then_some(start), &mut out).unwrap();
            same(&out, &due);
        });
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let groups = [Group { expert: 0, rows: 0..2 }];
    let mut out = [POISON; 4];
    let mut run = |values: &[f32], index: &[i64], shared: Option<SharedRows<'_>>| {
        scatter_rows(values, 2, &groups, index, shared, &mut out)
    };
    assert!(run(&[1.0; 4], &[0, 1], None).is_ok());
    assert!(matches!(run(&[1.0; 3], &[0, 1], None), Err(KernelError::Length { .. })));
    for row in [2, -1, i64::MAX] {
        assert!(matches!(run(&[1.0; 4], &[0, row], None), Err(KernelError::RowIndex { slot: 1, rows: 2, .. })));
    }
    assert!(matches!(run(&[1.0; 2], &[0], None), Err(KernelError::GroupRows { .. })));
    let shared = SharedRows { values: &[1.0; 4], weight: 1.0, first: 1 };
    assert!(matches!(run(&[1.0; 4], &[0, 1], Some(shared)), Err(KernelError::Range { .. })));
}
