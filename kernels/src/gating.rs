//! The router's choice: scores from logits, group limits, top-k, weights.
//!
//! Source: ops-transformer 9.1.0, moe/moe_gating_top_k (kernels of arch22, which A3 runs). Its reductions sum in an order of their
//! own and its exp and division are within an ulp or so; compare weights with a tolerance (vllm-ascend uses rtol 1e-5), indices
//! exactly.

use rayon::prelude::*;

use crate::element::{Float, widened};
use crate::error::{self, KernelError};

/// How logits become scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Score {
    /// `exp(x - max) / sum` over all experts (normType 0).
    Softmax(Division),
    /// `1 / (1 + exp(-x))` (normType 1).
    Sigmoid,
}

/// How a softmax divides by its sum; they differ in the last bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Division {
    /// `e / sum`: without groups from CANN 9.0.0 on.
    ByQuotient,
    /// `e * (1 / sum)`: with groups, and without in CANN 8.5.0.
    ByReciprocal,
}

/// How a group of experts is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupScore {
    /// Its best expert (groupSelectMode 0).
    Max,
    /// The sum of its best two (groupSelectMode 1); groups have two experts or more.
    TopTwoSum,
}

/// Only the experts of the best groups compete. Groups are runs of consecutive experts of equal length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    /// Number of groups; divides the number of experts (groupCount).
    pub count: usize,
    /// Groups that are kept, at least 1 and at most all (kGroup). Experts of the others are removed, not set to 0.
    pub keep: usize,
    /// How groups are compared; equal ones go to the lower group.
    pub score: GroupScore,
}

/// What a router does with its logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gating {
    /// Experts per token (k), at least 1 and at most the number of experts in the kept groups.
    pub top_k: usize,
    /// How logits become scores.
    pub score: Score,
    /// Group limit. One group, groups of one expert, or all groups kept mean no limit, as in CANN.
    pub groups: Option<Groups>,
    /// Whether the chosen scores are divided by their sum plus `eps`. CANN always does so for sigmoid, for softmax with renorm 1.
    pub renormalise: bool,
    /// Added to the sum of the chosen scores.
    pub eps: f32,
    /// Factor on the weights (routedScalingFactor).
    pub scale: f32,
}

/// Chooses experts and their weights, in parallel over tokens, in f32.
///
/// The choice is by score plus bias, the weight is from the score alone. NaN comes first, then descending order; ties go to the
/// lower expert. The order of the output is that of the choice.
///
/// - `logits` host `T [tokens, experts]`.
/// - `bias` host `T [experts]`.
/// - `weights` host `T [tokens, top_k]`, rounded once to nearest even.
/// - `indices` host i32 `[tokens, top_k]`.
/// - `scores` host f32 `[tokens, experts]`: the scores before the bias.
///
/// # Errors
/// [`KernelError::NotMultiple`], [`KernelError::Range`] or [`KernelError::Length`] when sizes do not fit.
pub fn gating_top_k<T: Float>(
    gating: &Gating,
    logits: &[T],
    experts: usize,
    bias: Option<&[T]>,
    weights: &mut [T],
    indices: &mut [i32],
    scores: Option<&mut [f32]>,
) -> Result<(), KernelError> {
    let tokens = check(gating, logits.len(), experts, bias.map(<[T]>::len))?;
    let chosen = error::product("tokens x top_k", &[tokens, gating.top_k])?;
    error::length("weights", chosen, weights.len())?;
    error::length("indices", chosen, indices.len())?;
    if let Some(scores) = &scores {
        error::length("scores", logits.len(), scores.len())?;
    }
    let bias = bias.map(widened);
    let rows =
        logits.par_chunks(experts).zip(weights.par_chunks_mut(gating.top_k)).zip(indices.par_chunks_mut(gating.top_k));
    let route = |scratch: &mut Scratch, logits: &[T], scores: &mut [f32], weights: &mut [T], indices: &mut [i32]| {
        T::widen(logits, scores);
        score(gating.score, scores);
        choose(gating, scores, bias.as_deref(), scratch);
        weigh(gating, scores, &scratch.keys[..gating.top_k], weights, indices);
    };
    match scores {
        Some(scores) => rows
            .zip(scores.par_chunks_mut(experts))
            .for_each_init(Scratch::default, |scratch, (((logits, weights), indices), scores)| {
                route(scratch, logits, scores, weights, indices)
            }),
        None => rows.for_each_init(
            || (Scratch::default(), vec![0f32; experts]),
            |(scratch, scores), ((logits, weights), indices)| route(scratch, logits, scores, weights, indices),
        ),
    }
    Ok(())
}

/// Checks the parameters and returns the number of tokens.
pub(crate) fn check(gating: &Gating, logits: usize, experts: usize, bias: Option<usize>) -> Result<usize, KernelError> {
    error::range("experts", experts, 1, i32::MAX as usize)?;
    let mut candidates = experts;
    if let Some(groups) = gating.groups {
        error::range("groups", groups.count, 1, experts)?;
        let per_group = error::divide("experts over groups", experts, groups.count)?;
        error::range("groups kept", groups.keep, 1, groups.count)?;
        if groups.score == GroupScore::TopTwoSum {
            error::range("experts per group for the sum of the best two", per_group, 2, experts)?;
        }
        candidates = groups.keep * per_group;
    }
    error::range("top_k", gating.top_k, 1, candidates)?;
    if let Some(bias) = bias {
        error::length("bias", experts, bias)?;
    }
    error::divide("logits over experts", logits, experts)
}

/// Buffers of one token, kept from one to the next.
#[derive(Default)]
struct Scratch {
    /// Experts that compete, as sort keys; the first top_k are the choice.
    keys: Vec<u64>,
    groups: Vec<u64>,
}

/// Orders NaN first, then descending values, then ascending indices. A score is never -0, with or without a bias.
pub(crate) fn key(value: f32, index: usize) -> u64 {
    let bits = value.to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    let rank = if value.is_nan() { 0 } else { !ascending };
    u64::from(rank) << 32 | index as u64
}

/// The index in a [`key`].
pub(crate) fn index(key: u64) -> usize {
    (key & u64::from(u32::MAX)) as usize
}

/// Moves the `n` first keys to the front, in order.
pub(crate) fn sort_first(keys: &mut [u64], n: usize) {
    if n < keys.len() {
        keys.select_nth_unstable(n);
    }
    keys[..n].sort_unstable();
}

/// Logits to scores, in place.
pub(crate) fn score(score: Score, row: &mut [f32]) {
    match score {
        Score::Sigmoid => row.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
        Score::Softmax(division) => {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for x in row.iter_mut() {
                *x = (*x - max).exp();
                sum += *x;
            }
            match division {
                Division::ByQuotient => row.iter_mut().for_each(|x| *x /= sum),
                Division::ByReciprocal => {
                    let reciprocal = 1.0 / sum;
                    row.iter_mut().for_each(|x| *x *= reciprocal);
                }
            }
        }
    }
}

/// Puts the chosen experts first in `scratch.keys`.
fn choose(gating: &Gating, scores: &[f32], bias: Option<&[f32]>, scratch: &mut Scratch) {
    let Scratch { keys, groups: group_keys } = scratch;
    let biased = |e: usize| bias.map_or(scores[e], |bias| scores[e] + bias[e]);
    keys.clear();
    let limit = gating.groups.filter(|g| g.count > 1 && g.count < scores.len() && g.keep < g.count);
    match limit {
        None => keys.extend((0..scores.len()).map(|e| key(biased(e), e))),
        Some(groups) => {
            let per_group = scores.len() / groups.count;
            group_keys.clear();
            group_keys.extend((0..groups.count).map(|group| {
                let mut best = [u64::MAX; 2];
                for key in (group * per_group..(group + 1) * per_group).map(|e| key(biased(e), e)) {
                    if key < best[0] {
                        best = [key, best[0]];
                    } else if key < best[1] {
                        best[1] = key;
                    }
                }
                let score = match groups.score {
                    GroupScore::Max => biased(index(best[0])),
                    GroupScore::TopTwoSum => biased(index(best[0])) + biased(index(best[1])),
                };
                key(score, group)
            }));
            sort_first(group_keys, groups.keep);
            for &group in &group_keys[..groups.keep] {
                let first = index(group) * per_group;
                keys.extend((first..first + per_group).map(|e| key(biased(e), e)));
            }
        }
    }
    sort_first(keys, gating.top_k);
}

/// Writes indices and weights of the chosen experts.
fn weigh<T: Float>(gating: &Gating, scores: &[f32], chosen: &[u64], weights: &mut [T], indices: &mut [i32]) {
    let sum = chosen.iter().fold(0f32, |sum, key| sum + scores[index(*key)]) + gating.eps;
    for ((weight, index_out), key) in weights.iter_mut().zip(indices).zip(chosen) {
        let score = scores[index(*key)];
        let share = if gating.renormalise { score / sum } else { score };
        *weight = T::from_f32(share * gating.scale);
        *index_out = index(*key) as i32;
    }
}
