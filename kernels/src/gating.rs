//! The router's choice: scores from logits, group limits, top-k or a table of tokens, weights.
//!
//! Source: ops-transformer 9.1.0, moe/moe_gating_top_k and moe/moe_fused_topk (kernels of arch22, which A3 runs); for
//! tables and the root of softplus its master of August 2026. Their reductions sum in an order of their own and their
//! exp and division are within an ulp or so; compare weights with a tolerance (vllm-ascend uses rtol 1e-5), indices
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
    /// `sqrt(ln(exp(x) + 1))` in just these steps (normType 2): infinite where exp overflows, above 88.7.
    SqrtSoftplus,
}

/// How values are divided by their sum; the two differ in the last bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Division {
    /// `e / sum`: a softmax without groups from CANN 9.0.0 on; weights of MoeGatingTopK.
    ByQuotient,
    /// `e * (1 / sum)`: a softmax with groups, and without in CANN 8.5.0; weights of MoeFusedTopk.
    ByReciprocal,
}

/// How a group of experts is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupScore {
    /// Its best expert (groupSelectMode 0).
    Max,
    /// The sum of its best so many, at least 1 and at most the experts of a group (2 for groupSelectMode 1, topN of
    /// MoeFusedTopk).
    TopSum(usize),
}

/// What becomes of the experts of groups that are not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// They are out, whatever happens (MoeGatingTopK). Groups of one expert mean no limit there.
    Removed,
    /// Their score, bias included, is multiplied by 0 (MoeFusedTopk): they are chosen where the kept ones are fewer
    /// than top_k or below 0, and where a score is not finite.
    Zeroed,
}

/// Only the experts of the best groups compete. Groups are runs of consecutive experts of equal length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    /// Number of groups; divides the number of experts (groupCount).
    pub count: usize,
    /// Groups that are kept, at least 1 and at most all (kGroup).
    pub keep: usize,
    /// How groups are compared; equal ones go to the lower group.
    pub score: GroupScore,
    /// What becomes of the others.
    pub dropped: Dropped,
}

/// What a router does with its logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gating {
    /// Experts per token (k), at least 1 and at most the number of experts that can be chosen.
    pub top_k: usize,
    /// How logits become scores.
    pub score: Score,
    /// Group limit. One group, or all groups kept, mean no limit.
    pub groups: Option<Groups>,
    /// How the chosen scores are divided by their sum plus `eps`, if so. MoeGatingTopK always does so but for softmax
    /// with renorm 0.
    pub renormalise: Option<Division>,
    /// Added to the sum of the chosen scores.
    pub eps: f32,
    /// Factor on the weights (routedScalingFactor).
    pub scale: f32,
}

/// Chooses experts and their weights, in parallel over tokens, in f32.
///
/// The choice is by score plus bias, the weight is from the score alone. NaN comes first, then descending order; ties
/// go to the lower expert. The order of the output is that of the choice.
///
/// - `logits` host `T [tokens, experts]`.
/// - `bias` host `T [experts]`.
/// - `weights` host `W [tokens, top_k]`, rounded once to nearest even.
/// - `indices` host i32 `[tokens, top_k]`.
/// - `scores` host f32 `[tokens, experts]`: the scores before the bias.
///
/// # Errors
/// [`KernelError::NotMultiple`], [`KernelError::Range`] or [`KernelError::Length`] when sizes do not fit.
pub fn gating_top_k<T: Float, W: Float>(
    gating: &Gating,
    logits: &[T],
    experts: usize,
    bias: Option<&[T]>,
    weights: &mut [W],
    indices: &mut [i32],
    scores: Option<&mut [f32]>,
) -> Result<(), KernelError> {
    check(gating, logits.len(), experts, bias.map(<[T]>::len))?;
    let bias = bias.map(widened);
    let choice = |_: usize, scores: &[f32], scratch: &mut Scratch| choose(gating, scores, bias.as_deref(), scratch);
    route(gating, logits, experts, choice, weights, indices, scores)
}

/// Gives the weights of experts that were chosen before (hash mode of MoeGatingTopKV2). Arguments as for
/// [`gating_top_k`]; groups have no say.
///
/// - `chosen` host i32 `[tokens, top_k]`, which become the indices.
///
/// # Errors
/// As there, and [`KernelError::ExpertId`] for an expert that does not exist.
pub fn gating_chosen<T: Float, W: Float>(
    gating: &Gating,
    logits: &[T],
    experts: usize,
    chosen: &[i32],
    weights: &mut [W],
    indices: &mut [i32],
    scores: Option<&mut [f32]>,
) -> Result<(), KernelError> {
    let tokens = check(&Gating { groups: None, ..*gating }, logits.len(), experts, None)?;
    error::length("chosen experts", error::product("tokens x top_k", &[tokens, gating.top_k])?, chosen.len())?;
    for (slot, &expert) in chosen.iter().enumerate() {
        if usize::try_from(expert).is_ok_and(|expert| expert < experts) {
            continue;
        }
        return Err(KernelError::ExpertId { slot, expert, experts });
    }
    let choice = |token: usize, _: &[f32], scratch: &mut Scratch| {
        scratch.keys.clear();
        scratch.keys.extend(chosen[token * gating.top_k..][..gating.top_k].iter().map(|&expert| expert as u64));
    };
    route(gating, logits, experts, choice, weights, indices, scores)
}

/// Looks up the experts of tokens: `chosen[t, :] = table[token_ids[t], :]`.
///
/// - `token_ids` host i64 `[tokens]`, `table` host i64 `[token ids, top_k]`, `chosen` host i32 `[tokens, top_k]`. An
///   expert beyond 32 bits becomes the greatest or least number of 32 bits, which is none.
///
/// # Errors
/// [`KernelError::Length`] or [`KernelError::NotMultiple`] when sizes do not fit, [`KernelError::RowIndex`] for a token
/// id that the table does not have; CANN does not check it.
pub fn look_up(token_ids: &[i64], table: &[i64], top_k: usize, chosen: &mut [i32]) -> Result<(), KernelError> {
    let rows = error::divide("table over top_k", table.len(), top_k)?;
    error::length("chosen experts", error::product("tokens x top_k", &[token_ids.len(), top_k])?, chosen.len())?;
    let row = |id: i64| usize::try_from(id).ok().filter(|row| *row < rows);
    if let Some(slot) = token_ids.iter().position(|&id| row(id).is_none()) {
        return Err(KernelError::RowIndex { slot, row: narrow(token_ids[slot]), rows, minus_one: false });
    }
    for (&id, chosen) in token_ids.iter().zip(chosen.chunks_mut(top_k.max(1))) {
        for (chosen, &expert) in chosen.iter_mut().zip(&table[id as usize * top_k..]) {
            *chosen = narrow(expert);
        }
    }
    Ok(())
}

/// The nearest number of 32 bits.
fn narrow(value: i64) -> i32 {
    value.clamp(i32::MIN.into(), i32::MAX.into()) as i32
}

/// Scores each token, has `choice` put the chosen experts first in the keys, and writes their weights.
fn route<T: Float, W: Float>(
    gating: &Gating,
    logits: &[T],
    experts: usize,
    choice: impl Fn(usize, &[f32], &mut Scratch) + Sync,
    weights: &mut [W],
    indices: &mut [i32],
    scores: Option<&mut [f32]>,
) -> Result<(), KernelError> {
    let chosen = error::product("tokens x top_k", &[logits.len() / experts, gating.top_k])?;
    error::length("weights", chosen, weights.len())?;
    error::length("indices", chosen, indices.len())?;
    if let Some(scores) = &scores {
        error::length("scores", logits.len(), scores.len())?;
    }
    let rows =
        logits.par_chunks(experts).zip(weights.par_chunks_mut(gating.top_k)).zip(indices.par_chunks_mut(gating.top_k));
    let rows = rows.enumerate();
    let one =
        |scratch: &mut Scratch, token, logits: &[T], scores: &mut [f32], weights: &mut [W], indices: &mut [i32]| {
            T::widen(logits, scores);
            score(gating.score, scores);
            choice(token, scores, scratch);
            weigh(gating, scores, &scratch.keys[..gating.top_k], weights, indices);
        };
    match scores {
        Some(scores) => rows.zip(scores.par_chunks_mut(experts)).for_each_init(
            Scratch::default,
            |scratch, ((token, ((logits, weights), indices)), scores)| {
                one(scratch, token, logits, scores, weights, indices)
            },
        ),
        None => rows.for_each_init(
            || (Scratch::default(), vec![0f32; experts]),
            |(scratch, scores), (token, ((logits, weights), indices))| {
                one(scratch, token, logits, scores, weights, indices)
            },
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
        if let GroupScore::TopSum(best) = groups.score {
            error::range("experts whose scores a group sums", best, 1, per_group)?;
        }
        if groups.dropped == Dropped::Removed {
            candidates = groups.keep * per_group;
        }
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
    /// Experts of one group.
    members: Vec<u64>,
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
        Score::SqrtSoftplus => row.iter_mut().for_each(|x| *x = (x.exp() + 1.0).ln().sqrt()),
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
    let Scratch { keys, groups: group_keys, members } = scratch;
    let biased = |e: usize| bias.map_or(scores[e], |bias| scores[e] + bias[e]);
    let own_key = |e: usize| key(biased(e), e);
    keys.clear();
    let limit = gating.groups.filter(|g| g.keep < g.count && (g.dropped == Dropped::Zeroed || g.count < scores.len()));
    match limit {
        None => keys.extend((0..scores.len()).map(own_key)),
        Some(groups) => {
            let per_group = scores.len() / groups.count;
            let of_group = |group: usize| group * per_group..(group + 1) * per_group;
            let best = match groups.score {
                GroupScore::Max => 1,
                GroupScore::TopSum(best) => best,
            };
            group_keys.clear();
            group_keys.extend((0..groups.count).map(|group| {
                members.clear();
                members.extend(of_group(group).map(own_key));
                sort_first(members, best);
                key(members[..best].iter().map(|&key| biased(index(key))).fold(0.0, |sum, value| sum + value), group)
            }));
            sort_first(group_keys, groups.keep);
            keys.extend(group_keys[..groups.keep].iter().flat_map(|&group| of_group(index(group)).map(own_key)));
            if groups.dropped == Dropped::Zeroed {
                let dropped = group_keys[groups.keep..].iter().flat_map(|&group| of_group(index(group)));
                // 0 is added because -0 is as great as 0.
                keys.extend(dropped.map(|e| key(biased(e) * 0.0 + 0.0, e)));
            }
        }
    }
    sort_first(keys, gating.top_k);
}

/// Writes indices and weights of the chosen experts.
fn weigh<W: Float>(gating: &Gating, scores: &[f32], chosen: &[u64], weights: &mut [W], indices: &mut [i32]) {
    let sum = chosen.iter().fold(0f32, |sum, key| sum + scores[index(*key)]) + gating.eps;
    let reciprocal = 1.0 / sum;
    for ((weight, index_out), key) in weights.iter_mut().zip(indices).zip(chosen) {
        let score = scores[index(*key)];
        let share = match gating.renormalise {
            None => score,
            Some(Division::ByQuotient) => score / sum,
            Some(Division::ByReciprocal) => score * reciprocal,
        };
        *weight = W::from_f32(share * gating.scale);
        *index_out = index(*key) as i32;
    }
}
