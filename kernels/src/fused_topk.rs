//! The router that may name replicas of the experts it chooses.
//!
//! Source: ops-transformer 9.1.0, moe/moe_fused_topk (document, op_kernel).

use crate::element::Float;
use crate::error::{self, KernelError};
use crate::gating::{Division, Dropped, Gating, GroupScore, Groups, Score, gating_top_k};

/// What the router does with its logits, by the names of aclnnMoeFusedTopk.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FusedTopK {
    /// Groups of experts (groupNum); divides the number of experts.
    pub groups: usize,
    /// Groups that are kept (groupTopk). The scores of the others become 0: see [`Dropped::Zeroed`].
    pub kept: usize,
    /// Experts of a group whose scores are summed to compare groups (topN).
    pub summed: usize,
    /// Experts per token (topK).
    pub top_k: usize,
    /// Factor on the weights, which are divided by their sum then (isNorm and scale); `None` for the scores as they
    /// are.
    pub scale: Option<f32>,
}

impl FusedTopK {
    /// The same as parameters of the common router. Nothing is added to the sum of the scores.
    fn gating(&self) -> Gating {
        let &Self { groups: count, kept: keep, summed, top_k, scale } = self;
        Gating {
            top_k,
            score: Score::Sigmoid,
            groups: Some(Groups { count, keep, score: GroupScore::TopSum(summed), dropped: Dropped::Zeroed }),
            renormalise: scale.map(|_| Division::ByReciprocal),
            eps: 0.0,
            scale: scale.unwrap_or(1.0),
        }
    }
}

/// Which physical experts stand for an expert (enableExpertMapping).
#[derive(Debug, Clone, Copy)]
pub struct Replicas<'a> {
    /// Host i32 `[experts]`: how many stand for each; 0 counts as 1 (mappingNum).
    pub counts: &'a [i32],
    /// Host i32 `[experts, most]`: their ids (mappingTable).
    pub table: &'a [i32],
}

impl Replicas<'_> {
    /// Columns of the table.
    fn check(&self, experts: usize) -> Result<usize, KernelError> {
        error::length("counts of replicas", experts, self.counts.len())?;
        let most = error::divide("table of replicas over experts", self.table.len(), experts)?;
        error::range("columns of the table of replicas", most, 1, i32::MAX as usize)?;
        for &count in self.counts {
            error::range("count of replicas", usize::try_from(count).unwrap_or(usize::MAX), 0, most)?;
        }
        Ok(most)
    }
}

/// Chooses experts by sigmoid and bias, in parallel over tokens, in f32; see [`gating_top_k`] for order and ties. With
/// replicas, token t gets number `t % count` of each expert's.
///
/// - `logits` host `T [tokens, experts]`, `bias` host `T [experts]`.
/// - `weights` host f32 `[tokens, top_k]`, without the bias.
/// - `indices` host i32 `[tokens, top_k]`, best first.
///
/// # Errors
/// Those of [`gating_top_k`]; [`KernelError::Range`] for a count of replicas that is negative or more than the table
/// has columns, which CANN does not check.
pub fn fused_top_k<T: Float>(
    params: &FusedTopK,
    logits: &[T],
    experts: usize,
    bias: &[T],
    replicas: Option<&Replicas<'_>>,
    weights: &mut [f32],
    indices: &mut [i32],
) -> Result<(), KernelError> {
    let most = replicas.map(|replicas| replicas.check(experts)).transpose()?;
    gating_top_k(&params.gating(), logits, experts, Some(bias), weights, indices, None)?;
    if let (Some(Replicas { counts, table }), Some(most)) = (replicas, most) {
        for (token, row) in indices.chunks_mut(params.top_k).enumerate() {
            for index in row {
                let expert = *index as usize;
                *index = table[expert * most + token % counts[expert].max(1) as usize];
            }
        }
    }
    Ok(())
}
