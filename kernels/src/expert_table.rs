//! Counting by expert.
//!
//! Source: ops-transformer 9.1.0, moe/moe_compute_expert_tokens.

use crate::error::{self, KernelError};

/// For every expert the number of entries up to and including it: where its rows end.
///
/// - `sorted_experts` host i32 `[slots]`, ascending.
/// - `ends` host i32 `[experts]`.
///
/// # Errors
/// [`KernelError::TooLarge`] for more slots than 32 bits count, [`KernelError::ExpertId`] for an expert below the one
/// before it or below 0. Experts that `ends` has no entry for are counted nowhere.
pub fn expert_ends(sorted_experts: &[i32], ends: &mut [i32]) -> Result<(), KernelError> {
    error::range("slots", sorted_experts.len(), 0, i32::MAX as usize)?;
    let mut least = 0;
    for (slot, &expert) in sorted_experts.iter().enumerate() {
        if expert < least {
            return Err(KernelError::ExpertId { slot, expert, experts: ends.len() });
        }
        least = expert;
    }
    for (expert, end) in ends.iter_mut().enumerate() {
        *end = sorted_experts.partition_point(|&entry| usize::try_from(entry).is_ok_and(|e| e <= expert)) as i32;
    }
    Ok(())
}
