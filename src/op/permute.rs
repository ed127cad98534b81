//! Sorting rows by expert without more ado, all of them or a range, and counting them.

use std::ops::Range;

use ascend_sys::OperatorId;
use ascend_sys::ops::Arg;

use super::launch::{input, launch, optional, or_temporary, output};
use super::routing::int;
use crate::dtype::DType;
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

/// Outputs of [`moe_token_permute_with_ep`] and
/// [`moe_token_permute_with_routing_map`](super::moe_token_permute_with_routing_map).
pub struct PermuteOutputs<'o, 'a> {
    /// Dtype of tokens, `[rows, H]`.
    pub tokens: &'o mut TensorViewMut<'a>,
    /// i32: the sorted row of each slot.
    pub sorted_indices: &'o mut TensorViewMut<'a>,
    /// Dtype of the weights, `[rows]`: each row's weight; only together with weights.
    pub probs: Option<&'o mut TensorViewMut<'a>>,
}

/// A range of the rows that [`moe_token_permute`] gives, and of the weights beside them (`aclnnMoeTokenPermuteWithEp`).
/// [`moe_token_unpermute_with_ep`](super::moe_token_unpermute_with_ep) goes the other way.
///
/// * `tokens`: f32, f16 or bf16, `[T, H]`.
/// * `indices`: i32 or i64, `[T, K]`, or `[T]` for one choice, values below 2^24 - 1.
/// * `probs`: dtype of tokens, shape of indices.
/// * `range`: the first of the sorted rows that are wanted, and the end of them: at least one row. CANN takes 0..0 for
///   all rows without weights.
/// * `outputs`: contiguous; the rows are those of the range, `sorted_indices` is `[T * K]` and counts from the first of
///   all sorted rows. CANN wants weights to write to always: temporary ones are used where none are given.
///
/// Without slots nothing is called.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn moe_token_permute_with_ep(
    sequence: &Sequence<'_>,
    tokens: &TensorView<'_>,
    indices: &TensorView<'_>,
    probs: Option<&TensorView<'_>>,
    range: Range<usize>,
    outputs: PermuteOutputs<'_, '_>,
) -> Result<()> {
    let PermuteOutputs { tokens: permuted, sorted_indices, probs: permuted_probs } = outputs;
    if indices.is_empty() && permuted.is_empty() && sorted_indices.is_empty() {
        return Ok(());
    }
    let mut temporary = None;
    let (dtype, rows) = (permuted.dtype(), [permuted.dim(0)]);
    let permuted_probs = or_temporary(sequence, permuted_probs.as_deref(), &mut temporary, dtype, rows)?;
    let range = [int(range.start), int(range.end)];
    let args = [
        input(tokens),
        input(indices),
        optional(probs),
        Arg::Ints(Some(&range)),
        Arg::Int(0),
        Arg::Bool(false),
        output(permuted),
        output(sorted_indices),
        output(permuted_probs),
    ];
    let reads = [tokens.0, indices.0].into_iter().chain(probs.map(|probs| probs.0));
    let writes = [permuted.0, sorted_indices.0, permuted_probs.0].into_iter();
    launch(sequence, &[OperatorId::MoeTokenPermuteWithEp], &args, reads, writes)?;
    Ok(())
}

/// Outputs of [`moe_re_routing`], for A rows of width H and E local experts.
pub struct ReRoutingOutputs<'o, 'a> {
    /// Dtype of tokens, `[A, H]`: by expert, within an expert by rank.
    pub tokens: &'o mut TensorViewMut<'a>,
    /// f32, `[A]`: the scales of these rows. CANN wants it always: a temporary one is used where it is not given.
    pub scales: Option<&'o mut TensorViewMut<'a>>,
    /// i32, `[A]`: the row of the input that each row is.
    pub index: &'o mut TensorViewMut<'a>,
    /// Dtype of counts, `[E]`: rows of each expert.
    pub counts: &'o mut TensorViewMut<'a>,
}

/// Brings rows that came from several ranks into the order of the experts (`aclnnMoeReRouting`). They lie by rank, and
/// by expert within a rank; afterwards by expert, and by rank within an expert.
///
/// * `tokens`: i8, f16 or bf16, `[A, H]`, H <= 16384.
/// * `counts`: i32 or i64, `[R, E]`: rows of each expert from each rank, A in all.
/// * `scales`: f32, `[A]`: moved with the rows.
///
/// Without rows nothing is called but to write 0.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn moe_re_routing(
    sequence: &Sequence<'_>,
    tokens: &TensorView<'_>,
    counts: &TensorView<'_>,
    scales: Option<&TensorView<'_>>,
    outputs: ReRoutingOutputs<'_, '_>,
) -> Result<()> {
    let ReRoutingOutputs { tokens: permuted, scales: permuted_scales, index, counts: totals } = outputs;
    if tokens.is_empty() && permuted.is_empty() && index.is_empty() {
        return totals.zero(sequence);
    }
    let (mut temporary, rows) = (None, [tokens.dim(0)]);
    let permuted_scales = or_temporary(sequence, permuted_scales.as_deref(), &mut temporary, DType::F32, rows)?;
    let args = [
        input(tokens),
        input(counts),
        optional(scales),
        Arg::Int(1),
        Arg::Int(0),
        output(permuted),
        output(permuted_scales),
        output(index),
        output(totals),
    ];
    let reads = [tokens.0, counts.0].into_iter().chain(scales.map(|scales| scales.0));
    let writes = [permuted.0, permuted_scales.0, index.0, totals.0].into_iter();
    launch(sequence, &[OperatorId::MoeReRouting], &args, reads, writes)?;
    Ok(())
}
