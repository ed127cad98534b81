//! Sorting and counting by expert: worked numbers, and equality with plain loops.
use moe_kernels::KernelError;
use moe_kernels::expert_table::expert_ends;
use moe_kernels::permute::{MAX_ID, Permutation, copy_rows};
use proptest::prelude::*;

#[test]
fn worked_numbers() {
    let permutation = Permutation::new(&[2, 0, 1, 2, 3, 2]).unwrap();
    assert_eq!(permutation.sorted(), [1, 2, 0, 3, 5, 4]);
    let mut rows = [0; 6];
    permutation.rows(&mut rows).unwrap();
    assert_eq!(rows, [2, 0, 1, 3, 5, 4]);
    let mut kept = [0u8; 4];
    permutation.copy(&[10, 20, 30], 1, 2, 0, &mut kept).unwrap();
    assert_eq!(kept, [10, 20, 10, 20]);
    permutation.copy(&[10, 20, 30], 1, 2, 1, &mut kept).unwrap();
    assert_eq!(kept, [20, 10, 20, 30], "sorted rows 1 to 4");

    let mut ends = [0; 6];
    expert_ends(&[0, 0, 2, 2, 2, 4], &mut ends).unwrap();
    assert_eq!(ends, [2, 2, 5, 5, 6, 6]);
}

#[test]
fn slots_by_numbers_of_their_own() {
    // Experts [[2, 0], [1, 2], [3, 2]] by row; choice j of token t has number j * 3 + t.
    let (ids, numbers) = ([2i32, 0, 1, 2, 3, 2], [0, 3, 1, 4, 2, 5]);
    let permutation = Permutation::new(&ids).unwrap();
    let (mut rows, mut experts, mut kept) = ([-9; 6], [-9; 6], [0u8; 5]);
    permutation.numbered_rows(&numbers, &mut rows).unwrap();
    assert_eq!(rows, [2, 1, 5, 0, 3, 4]);
    permutation.reorder(&ids, &mut experts).unwrap();
    assert_eq!(experts, [0, 1, 2, 2, 2, 3]);
    permutation.copy_numbered(&[10, 20, 30], 1, 3, &numbers, &mut kept).unwrap();
    assert_eq!(kept, [10, 20, 10, 20, 30]);
    for number in [-1, 6] {
        let numbers = [0, 3, 1, number, 2, 5];
        let due = Err(KernelError::RowIndex { slot: 3, row: number, rows: 6, minus_one: false });
        assert_eq!(permutation.numbered_rows(&numbers, &mut rows), due);
        assert_eq!(permutation.copy_numbered(&[10, 20, 30], 1, 3, &numbers, &mut kept), due);
    }
    assert!(matches!(
        permutation.copy_numbered(&[0; 4], 1, 4, &numbers, &mut kept),
        Err(KernelError::NotMultiple { .. })
    ));
    assert!(matches!(permutation.reorder(&ids, &mut [0; 5]), Err(KernelError::Length { .. })));
}

#[test]
fn refusals() {
    for expert in [-1, MAX_ID] {
        assert!(matches!(Permutation::new(&[0, expert]), Err(KernelError::Range { .. })), "{expert}");
    }
    let permutation = Permutation::new(&[0, 1]).unwrap();
    assert!(matches!(permutation.rows(&mut [0]), Err(KernelError::Length { .. })));
    assert!(matches!(permutation.copy(&[1, 2], 1, 1, 0, &mut [0; 3]), Err(KernelError::Range { .. })));
    assert!(matches!(permutation.copy(&[1], 1, 1, 0, &mut [0; 2]), Err(KernelError::Length { .. })));
    assert!(matches!(permutation.copy(&[1, 2], 1, 1, 1, &mut [0; 2]), Err(KernelError::Range { .. })));
    assert!(matches!(permutation.copy(&[1, 2], 1, 1, 3, &mut [0; 1]), Err(KernelError::Range { .. })));
    assert!(matches!(copy_rows(&[1, 2], 1, &[2], 1, &mut [0]), Err(KernelError::Range { value: 2, max: 1, .. })));
    assert!(matches!(copy_rows(&[1, 2], 1, &[0], 0, &mut [0]), Err(KernelError::Range { .. })));
    assert!(matches!(copy_rows(&[1, 2], 1, &[0], 1, &mut [0; 2]), Err(KernelError::Length { .. })));
    assert!(matches!(expert_ends(&[1, 0], &mut [0; 2]), Err(KernelError::ExpertId { slot: 1, .. })));
    assert!(matches!(expert_ends(&[-1], &mut [0; 2]), Err(KernelError::ExpertId { slot: 0, .. })));
}

proptest! {
    #[test]
    fn large_ids_are_sorted_too(
        ids in prop::collection::vec(prop_oneof![0..9i64, 4090..4100i64, 8190..8200i64, 0..MAX_ID, Just(MAX_ID - 1)], 0..60),
    ) {
        let mut order: Vec<u32> = (0..ids.len() as u32).collect();
        order.sort_by_key(|slot| ids[*slot as usize]);
        let permutation = Permutation::new(&ids).unwrap();
        prop_assert_eq!(permutation.sorted(), order.as_slice());
    }

    #[test]
    fn agrees_with_plain_loops(mut experts in prop::collection::vec(0i32..9, 0..60), entries in 1usize..12) {
        let wide: Vec<i64> = experts.iter().copied().map(i64::from).collect();
        let mut order: Vec<u32> = (0..experts.len() as u32).collect();
        order.sort_by_key(|slot| experts[*slot as usize]);
        let permutation = Permutation::new(&wide).unwrap();
        prop_assert_eq!(permutation.sorted(), order.as_slice());
        let tokens: Vec<u8> = (0..experts.len() as u8).collect();
        let mut permuted = vec![0; tokens.len()];
        permutation.copy(&tokens, 1, 1, 0, &mut permuted).unwrap();
        let mut rows = vec![0; tokens.len()];
        permutation.rows(&mut rows).unwrap();
        let back: Vec<u8> = rows.iter().map(|row| permuted[*row as usize]).collect();
        prop_assert_eq!(&back, &tokens);

        // Numbers by column give the rows of the slots, each at its number, and the rows of the same tokens.
        if experts.len().is_multiple_of(3) {
            let (count, top_k) = (experts.len() / 3, 3);
            let number = |slot| (slot % top_k * count + slot / top_k) as i32;
            let numbers: Vec<i32> = (0..experts.len()).map(number).collect();
            let mut numbered = vec![-9; rows.len()];
            permutation.numbered_rows(&numbers, &mut numbered).unwrap();
            prop_assert!(numbers.iter().zip(&rows).all(|(number, row)| numbered[*number as usize] == *row));
            let (mut by_number, mut by_slot) = (permuted.clone(), permuted.clone());
            permutation.copy_numbered(&tokens[..count], 1, count, &numbers, &mut by_number).unwrap();
            permutation.copy(&tokens[..count], 1, top_k, 0, &mut by_slot).unwrap();
            prop_assert_eq!(by_number, by_slot);
        }

        experts.sort_unstable();
        let mut ends = vec![0; entries];
        expert_ends(&experts, &mut ends).unwrap();
        for (expert, end) in ends.iter().enumerate() {
            prop_assert_eq!(*end as usize, experts.iter().filter(|e| **e as usize <= expert).count());
        }
    }
}
