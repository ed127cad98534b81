//! The router's choice: scores from logits, group limits, top-k or a table of tokens, weights.
//!
//! Source: ops-transformer 9.1.0, moe/moe_gating_top_k and moe/moe_fused_topk (kernels of arch22, which A3 runs); for
//! tables and the root of softplus its master of August 2026. Their reductions sum in an order of their own and their
//! exp and division are within an ulp or so; compare weights with a tolerance (vllm-ascend uses rtol 1e-5), indices
//! exactly.

use rayon::prelude::*;

use crate::element::{Float, widened};
use crate::error::{self, KernelError};
use crate::exp::exp;
use crate::select::{NOTHING, Ranks, rank, sum_of_best, value};
use crate::vectors::{Vectors, vectorised};

/// Scores that are worth a task of their own.
const SCORES_PER_TASK: usize = 4096;

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
    route(gating, logits, experts, Choice::Best(bias.as_deref()), weights, indices, scores)
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
    route(gating, logits, experts, Choice::Given(chosen), weights, indices, scores)
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

/// Where the experts of a token come from.
#[derive(Clone, Copy)]
enum Choice<'a> {
    /// The best by score plus this bias, f32 `[experts]`.
    Best(Option<&'a [f32]>),
    /// Given, i32 `[tokens, top_k]`.
    Given(&'a [i32]),
}

/// Scores each token, chooses its experts and writes their weights.
fn route<T: Float, W: Float>(
    gating: &Gating,
    logits: &[T],
    experts: usize,
    choice: Choice<'_>,
    weights: &mut [W],
    indices: &mut [i32],
    scores: Option<&mut [f32]>,
) -> Result<(), KernelError> {
    let top_k = gating.top_k;
    let chosen = error::product("tokens x top_k", &[logits.len() / experts, top_k])?;
    error::length("weights", chosen, weights.len())?;
    error::length("indices", chosen, indices.len())?;
    if let Some(scores) = &scores {
        error::length("scores", logits.len(), scores.len())?;
    }
    let vectors = Vectors::widest();
    let one = |scratch: &mut Scratch, token: usize, scores: &mut [f32], weights: &mut [W], indices: &mut [i32]| {
        T::widen(&logits[token * experts..][..experts], scores);
        let choice = match choice {
            Choice::Given(chosen) => Choice::Given(&chosen[token * top_k..][..top_k]),
            best => best,
        };
        route_token(vectors, gating, choice, scores, scratch);
        W::narrow(&scratch.weights, weights);
        indices.iter_mut().zip(&scratch.chosen).for_each(|(index, &expert)| *index = expert as i32);
    };
    let rows = weights.par_chunks_mut(top_k).zip(indices.par_chunks_mut(top_k)).enumerate();
    let rows = rows.with_min_len(SCORES_PER_TASK.div_ceil(experts));
    match scores {
        Some(scores) => rows.zip(scores.par_chunks_mut(experts)).for_each_init(
            || Scratch::new(top_k),
            |scratch, ((token, (weights, indices)), scores)| one(scratch, token, scores, weights, indices),
        ),
        None => rows.for_each_init(
            || (Scratch::new(top_k), vec![0f32; experts]),
            |(scratch, scores), (token, (weights, indices))| one(scratch, token, scores, weights, indices),
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
struct Scratch {
    ranks: Ranks,
    group_ranks: Ranks,
    /// Groups that are kept.
    groups: Vec<u32>,
    /// The experts of the token, `[top_k]`.
    chosen: Vec<u32>,
    /// Their weights, `[top_k]`.
    weights: Vec<f32>,
}

impl Scratch {
    fn new(top_k: usize) -> Self {
        Self {
            ranks: Ranks::default(),
            group_ranks: Ranks::default(),
            groups: Vec::new(),
            chosen: vec![0; top_k],
            weights: vec![0.0; top_k],
        }
    }
}

vectorised! {
    /// Logits to scores, in place.
    pub(crate) fn score(score: Score, row: &mut [f32]) = score_row;
}

vectorised! {
    /// Makes scores of the logits of a token, in place, and fills `chosen` and `weights` of the scratch.
    fn route_token(gating: &Gating, choice: Choice<'_>, scores: &mut [f32], scratch: &mut Scratch) = route_row;
}

#[inline(always)]
fn route_row(gating: &Gating, choice: Choice<'_>, scores: &mut [f32], scratch: &mut Scratch) {
    score_row(gating.score, scores);
    match choice {
        Choice::Best(bias) => choose(gating, scores, bias, scratch),
        Choice::Given(given) => {
            scratch.chosen.iter_mut().zip(given).for_each(|(chosen, &expert)| *chosen = expert as u32);
        }
    }
    weigh(gating, scores, scratch);
}

#[inline(always)]
fn score_row(score: Score, row: &mut [f32]) {
    match score {
        Score::Sigmoid => row.iter_mut().for_each(|x| *x = 1.0 / (1.0 + exp(-*x))),
        Score::SqrtSoftplus => row.iter_mut().for_each(|x| *x = (exp(*x) + 1.0).ln().sqrt()),
        Score::Softmax(division) => {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|x| *x = exp(*x - max));
            let sum = row.iter().fold(0.0, |sum, x| sum + x);
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

/// Puts the chosen experts into the scratch, the best first. A score is never -0, with or without a bias.
#[inline(always)]
fn choose(gating: &Gating, scores: &[f32], bias: Option<&[f32]>, scratch: &mut Scratch) {
    let Scratch { ranks: all, group_ranks, groups: kept, chosen, .. } = scratch;
    let ranks = all.reset(scores.len());
    match bias {
        None => ranks.iter_mut().zip(scores).for_each(|(out, score)| *out = rank(*score)),
        Some(bias) => ranks.iter_mut().zip(scores.iter().zip(bias)).for_each(|(out, (s, b))| *out = rank(s + b)),
    }
    let limit = gating.groups.filter(|g| g.keep < g.count && (g.dropped == Dropped::Zeroed || g.count < scores.len()));
    if let Some(groups) = limit {
        let members = scores.len() / groups.count;
        let summed = match groups.score {
            GroupScore::Max => 1,
            GroupScore::TopSum(best) => best,
        };
        for (out, group) in group_ranks.reset(groups.count).iter_mut().zip(ranks.chunks_exact(members)) {
            *out = rank(sum_of_best(group, summed));
        }
        kept.resize(groups.keep, 0);
        group_ranks.best(kept);
        for (group, ranks) in ranks.chunks_exact_mut(members).enumerate() {
            if kept.contains(&(group as u32)) {
                continue;
            }
            match groups.dropped {
                Dropped::Removed => ranks.fill(NOTHING),
                // 0 is added because -0 is as great as 0.
                Dropped::Zeroed => ranks.iter_mut().for_each(|out| *out = rank(value(*out) * 0.0 + 0.0)),
            }
        }
    }
    all.best(chosen);
}

/// The weights of the chosen experts.
#[inline(always)]
fn weigh(gating: &Gating, scores: &[f32], scratch: &mut Scratch) {
    let Scratch { chosen, weights, .. } = scratch;
    let sum = chosen.iter().fold(0f32, |sum, &expert| sum + scores[expert as usize]) + gating.eps;
    let reciprocal = 1.0 / sum;
    for (weight, &expert) in weights.iter_mut().zip(&*chosen) {
        let score = scores[expert as usize];
        let share = match gating.renormalise {
            None => score,
            Some(Division::ByQuotient) => score / sum,
            Some(Division::ByReciprocal) => score * reciprocal,
        };
        *weight = share * gating.scale;
    }
}
