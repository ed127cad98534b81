//! Sorting tokens by expert without more ado, and counting them.

use ascend_sys::OperatorId;
use ascend_sys::ops::Arg;

use super::launch::{input, launch, output};
use crate::error::Result;
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// Copies each token's row once per chosen expert, sorted by expert (`aclnnMoeTokenPermute`); the sort is stable. A slot is
/// a token and one of its choices, `t * K + j`. [`moe_token_unpermute`](super::moe_token_unpermute) goes the other way.
///
/// * `tokens`: f32, f16 or bf16, `[T, ..]`.
/// * `indices`: i32 or i64, `[T, K]`, or `[T]` for one choice, values below 2^24 - 1.
/// * `permuted`: out, dtype of tokens, `[rows, ..]`, contiguous: the first rows of the sorted ones, as many as it has.
/// * `sorted_indices`: out, i32, `[T * K]`, contiguous: the row of each slot, also where `permuted` does not have it.
///
/// Without slots nothing is called. With slots `permuted` has at least one row, as CANN takes 0 for all of them.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn moe_token_permute(
    sequence: &Sequence<'_>,
    tokens: &TensorView<'_>,
    indices: &TensorView<'_>,
    permuted: &mut TensorViewMut<'_>,
    sorted_indices: &mut TensorViewMut<'_>,
) -> Result<()> {
    if indices.is_empty() && permuted.is_empty() && sorted_indices.is_empty() {
        return Ok(());
    }
    let args = [
        input(tokens),
        input(indices),
        Arg::Int(permuted.dim(0)),
        Arg::Bool(false),
        output(permuted),
        output(sorted_indices),
    ];
    let (reads, writes) = ([tokens.0, indices.0].into_iter(), [permuted.0, sorted_indices.0].into_iter());
    launch(sequence, &[OperatorId::MoeTokenPermute], &args, reads, writes)?;
    Ok(())
}

/// For every expert the number of rows up to and including it (`aclnnMoeComputeExpertTokens`).
///
/// * `sorted_experts`: i32, `[slots]`, ascending, fewer than 2^24.
/// * `ends`: out, i32, `[E]`, 1 to 2048 experts.
///
/// Without slots nothing is called but to write 0.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn moe_compute_expert_tokens(
    sequence: &Sequence<'_>,
    sorted_experts: &TensorView<'_>,
    ends: &mut TensorViewMut<'_>,
) -> Result<()> {
    if sorted_experts.is_empty() {
        return ends.zero(sequence);
    }
    let args = [input(sorted_experts), Arg::Int(ends.dim(0)), output(ends)];
    let (reads, writes) = ([sorted_experts.0].into_iter(), [ends.0].into_iter());
    launch(sequence, &[OperatorId::MoeComputeExpertTokens], &args, reads, writes)?;
    Ok(())
}
