//! The older routers: softmax and top-k without groups, bias or scale, and rows that are finished.
//!
//! Source: ops-transformer 9.1.0, moe/moe_gating_top_k_softmax and moe/moe_gating_top_k_softmax_v2. As for
//! [`gating`], compare weights with a tolerance and indices exactly.

use rayon::prelude::*;

use crate::element::Float;
use crate::error::{self, KernelError};
use crate::gating::{self, Division, Gating, Score, gating_top_k};
use crate::select::{self, Ranks};
use crate::vectors::Vectors;

/// What the softmax is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SoftmaxOver {
    /// All experts, before the choice: weights of a token sum to less than 1 (renorm 0, and the first version).
    All,
    /// The chosen experts, which are those of the greatest logits: weights sum to 1 (renorm 1).
    Chosen,
}

/// Chooses experts by softmax, in parallel over tokens, in f32. NaN comes first, ties go to the lower expert.
///
/// - `logits` host `T [tokens, experts]`.
/// - `finished` host u8 `[tokens]`: where it is not 0, the indices of the token become the number of experts, which is
///   none; its weights stay.
/// - `weights` host `T [tokens, top_k]`, rounded once to nearest even.
/// - `indices` host i32 `[tokens, top_k]`, best first.
/// - `softmax` host f32 `[tokens, experts]`; **not written** with [`SoftmaxOver::Chosen`].
///
/// # Errors
/// [`KernelError::NotMultiple`], [`KernelError::Range`] or [`KernelError::Length`] when sizes do not fit.
#[allow(clippy::too_many_arguments, reason = "the operands of the operator, each of its own type")]
pub fn softmax_top_k<T: Float>(
    over: SoftmaxOver,
    top_k: usize,
    logits: &[T],
    experts: usize,
    finished: Option<&[u8]>,
    weights: &mut [T],
    indices: &mut [i32],
    softmax: Option<&mut [f32]>,
) -> Result<(), KernelError> {
    let score = Score::Softmax(Division::ByQuotient);
    let all = Gating { top_k, score, groups: None, renormalise: None, eps: 0.0, scale: 1.0 };
    let tokens = gating::check(&all, logits.len(), experts, None)?;
    if let Some(finished) = finished {
        error::length("finished", tokens, finished.len())?;
    }
    match over {
        SoftmaxOver::All => gating_top_k(&all, logits, experts, None, weights, indices, softmax)?,
        SoftmaxOver::Chosen => top_k_softmax(top_k, logits, experts, weights, indices)?,
    }
    let rows = indices.chunks_mut(top_k).zip(finished.unwrap_or_default());
    rows.filter(|(_, finished)| **finished != 0).for_each(|(row, _)| row.fill(experts as i32));
    Ok(())
}

fn top_k_softmax<T: Float>(
    top_k: usize,
    logits: &[T],
    experts: usize,
    weights: &mut [T],
    indices: &mut [i32],
) -> Result<(), KernelError> {
    let chosen = error::product("tokens x top_k", &[logits.len() / experts, top_k])?;
    error::length("weights", chosen, weights.len())?;
    error::length("indices", chosen, indices.len())?;
    let vectors = Vectors::widest();
    logits.par_chunks(experts).zip(weights.par_chunks_mut(top_k)).zip(indices.par_chunks_mut(top_k)).for_each_init(
        || (Ranks::default(), vec![0f32; experts], vec![0; top_k], vec![0f32; top_k]),
        |(ranks, values, chosen, row), ((logits, weights), indices)| {
            T::widen(logits, values);
            select::best(vectors, ranks, values, chosen);
            for ((value, index), &expert) in row.iter_mut().zip(indices).zip(&*chosen) {
                (*value, *index) = (values[expert as usize], expert as i32);
            }
            gating::score(vectors, Score::Softmax(Division::ByQuotient), row);
            T::narrow(row, weights);
        },
    );
    Ok(())
}

/// Numbers the choices by column, as aclnnMoeInitRouting wants them: choice j of token t is `j * tokens + t`.
///
/// - `out` host i32 `[tokens, top_k]`.
///
/// # Errors
/// [`KernelError::NotMultiple`] when `out` is not made of rows, [`KernelError::TooLarge`] for numbers beyond 32 bits.
pub fn column_index(top_k: usize, out: &mut [i32]) -> Result<(), KernelError> {
    let tokens = error::divide("row index over top_k", out.len(), top_k)?;
    if out.len() > i32::MAX as usize {
        return Err(KernelError::TooLarge { what: "row index" });
    }
    for (t, row) in out.chunks_mut(top_k.max(1)).enumerate() {
        row.iter_mut().enumerate().for_each(|(j, out)| *out = (j * tokens + t) as i32);
    }
    Ok(())
}
