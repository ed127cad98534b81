//! Logical experts to the instances that serve them, and leaving out the experts that weigh little.
//!
//! Source: ops-transformer 9.1.0, mc2/moe_update_expert.

use crate::element::Float;
use crate::error::{self, KernelError};

/// What chooses among the instances of an expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// The rank: neighbouring ranks share an instance.
    ByRank {
        /// This rank.
        rank: usize,
        /// All ranks.
        ranks: usize,
    },
    /// The token's number, modulo the instances.
    ByToken,
}

/// Writes for every chosen expert the instance that serves it.
///
/// - `ids` host i64 `[tokens, top_k]`; `instances` host i32 `[tokens, top_k]`.
/// - `table` host i32 `[experts, width]`: each row a count, then so many instances, then anything.
///
/// # Errors
/// [`KernelError::Length`], [`KernelError::NotMultiple`], [`KernelError::Range`] when sizes do not fit or the rank is
/// none of the ranks; [`KernelError::ExpertId`] for an id without a row; [`KernelError::Instances`] for a row that is
/// used and whose count does not fit.
pub fn balance(
    ids: &[i64],
    top_k: usize,
    table: &[i32],
    width: usize,
    by: Balance,
    instances: &mut [i32],
) -> Result<(), KernelError> {
    error::range("top_k", top_k, 1, usize::MAX)?;
    error::divide("ids over top_k", ids.len(), top_k)?;
    error::length("instances", ids.len(), instances.len())?;
    let experts = error::divide("table over its width", table.len(), width)?;
    if let Balance::ByRank { rank, ranks } = by {
        error::range("ranks", ranks, 1, usize::MAX)?;
        error::range("rank", rank, 0, ranks - 1)?;
    }
    let instance = |(slot, &id): (usize, &i64)| {
        let expert = usize::try_from(id).ok().filter(|&expert| expert < experts);
        let named = i32::try_from(id).unwrap_or(if id < 0 { i32::MIN } else { i32::MAX });
        let expert = expert.ok_or(KernelError::ExpertId { slot, expert: named, experts })?;
        let row = &table[expert * width..][..width];
        let count = usize::try_from(row[0]).ok().filter(|count| (1..width).contains(count));
        let count = count.ok_or(KernelError::Instances { expert, count: row[0], most: width - 1 })?;
        Ok(row[1 + match by {
            _ if count == 1 => 0,
            Balance::ByRank { rank, ranks } => rank / ranks.div_ceil(count),
            Balance::ByToken => slot / top_k % count,
        }])
    };
    let found: Vec<i32> = ids.iter().enumerate().map(instance).collect::<Result<_, KernelError>>()?;
    instances.copy_from_slice(&found);
    Ok(())
}

/// Which choices stay: those whose scale is at least their threshold's share of the sum of the token's scales, in f32,
/// if the token is active.
///
/// - `scales` host `S [tokens, top_k]`, `thresholds` host f32 `[top_k]`, `active` host u8 `[tokens]`, 0 or 1; `None`
///   for all.
/// - `keep` host u8 `[tokens, top_k]`.
///
/// # Errors
/// [`KernelError::Length`], [`KernelError::NotMultiple`].
pub fn prune<S: Float>(
    scales: &[S],
    thresholds: &[f32],
    active: Option<&[u8]>,
    keep: &mut [u8],
) -> Result<(), KernelError> {
    let tokens = error::divide("scales over thresholds", scales.len(), thresholds.len())?;
    error::length("active", tokens, active.map_or(tokens, <[u8]>::len))?;
    error::length("keep", scales.len(), keep.len())?;
    let top_k = thresholds.len().max(1);
    for (token, (scales, keep)) in scales.chunks(top_k).zip(keep.chunks_mut(top_k)).enumerate() {
        let is_active = active.is_none_or(|active| active[token] != 0);
        let sum: f32 = scales.iter().map(|scale| scale.to_f32()).sum();
        for ((keep, scale), threshold) in keep.iter_mut().zip(scales).zip(thresholds) {
            *keep = u8::from(is_active && scale.to_f32() >= threshold * sum);
        }
    }
    Ok(())
}
