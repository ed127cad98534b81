//! Combining: the experts' rows back at their tokens.

use std::ops::Range;

use ascend_sys::OperatorId;
use ascend_sys::ops::Arg;

use super::launch::{input, launch, optional, output};
use super::routing::int;
use crate::error::Result;
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// What the row index of [`moe_finalize_routing_v2`] looks like (`dropPadMode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum DropPadMode {
    /// Every slot kept, choice j of token t at `j * T + t`.
    DroplessByColumn = 0,
    /// A capacity per expert, -1 for dropped slots, at `j * T + t`.
    PaddedByColumn = 1,
    /// Every slot kept, at `t * K + j`: what [`moe_init_routing_v3`](super::moe_init_routing_v3) gives.
    DroplessByRow = 2,
    /// A capacity per expert, -1 for dropped slots, at `t * K + j`.
    PaddedByRow = 3,
}

/// Inputs of [`moe_finalize_routing_v2`], for T tokens of width H and K choices.
#[derive(Clone, Copy)]
pub struct FinalizeRouting<'a> {
    /// f32, f16 or bf16, `[rows, H]`, with a capacity `[E, C, H]`.
    pub expanded_x: TensorView<'a>,
    /// i32, `[T * K]`, each below the rows of `expanded_x`, or -1 with a capacity.
    pub row_idx: TensorView<'a>,
    /// Summand of every token, dtype of expanded_x, `[T, H]`.
    pub x1: Option<TensorView<'a>>,
    /// A second one; only together with `x1`.
    pub x2: Option<TensorView<'a>>,
    /// Dtype of expanded_x, `[E, H]`; only together with `expert_idx`.
    pub bias: Option<TensorView<'a>>,
    /// Dtype of expanded_x, or f32 where that is bf16, `[T, K]`; `None` for one choice of weight 1.
    pub scales: Option<TensorView<'a>>,
    /// i32, `[T, K]`.
    pub expert_idx: Option<TensorView<'a>>,
    /// What the row index looks like.
    pub mode: DropPadMode,
}

/// `out[t] = x1[t] + x2[t] + sum over j of scales[t, j] * (expanded_x[row of (t, j)] + bias[expert of (t, j)])`
/// (`aclnnMoeFinalizeRoutingV2`), summed in f32, j ascending, and rounded once.
///
/// * `out`: dtype of expanded_x, `[T, H]`.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn moe_finalize_routing_v2(
    sequence: &Sequence<'_>,
    inputs: &FinalizeRouting<'_>,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let FinalizeRouting { expanded_x, row_idx, x1, x2, bias, scales, expert_idx, mode } = inputs;
    let args = [
        input(expanded_x),
        input(row_idx),
        optional(x1.as_ref()),
        optional(x2.as_ref()),
        optional(bias.as_ref()),
        optional(scales.as_ref()),
        optional(expert_idx.as_ref()),
        Arg::Int(*mode as i64),
        output(out),
    ];
    let options = [x1, x2, bias, scales, expert_idx].into_iter().flatten().map(|tensor| tensor.0);
    let reads = [expanded_x.0, row_idx.0].into_iter().chain(options);
    launch(sequence, &[OperatorId::MoeFinalizeRoutingV2], &args, reads, [out.0].into_iter())?;
    Ok(())
}

/// `out[t] = sum over j of probs[t, j] * permuted[indices[t * K + j]]` (`aclnnMoeTokenUnpermute`), summed in f32, j
/// ascending, and rounded once. A slot with probability 0 or an index beyond the rows is skipped, so rows that were never
/// written do no harm there; a negative index reads in front of the rows and must not be given.
///
/// * `permuted`: f32, f16 or bf16, `[rows, H]`.
/// * `indices`: i32, `[T * K]`.
/// * `probs`: f32, f16 or bf16, `[T, K]`; `None` for K = 1 and weight 1.
/// * `out`: dtype of permuted, `[T, H]`, contiguous.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn moe_token_unpermute(
    sequence: &Sequence<'_>,
    permuted: &TensorView<'_>,
    indices: &TensorView<'_>,
    probs: Option<&TensorView<'_>>,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let args = [input(permuted), input(indices), optional(probs), Arg::Bool(false), Arg::Ints(None), output(out)];
    let reads = [permuted.0, indices.0].into_iter().chain(probs.map(|probs| probs.0));
    launch(sequence, &[OperatorId::MoeTokenUnpermute], &args, reads, [out.0].into_iter())?;
    Ok(())
}

/// [`moe_token_unpermute`] where only a range of the sorted rows is at hand; slots whose row is not in it are left out
/// (`aclnnMoeTokenUnpermuteWithEp`).
///
/// * `permuted`: f32, f16 or bf16, `[rows, H]`: the rows of the range.
/// * `indices`: i32, `[T * K]`: the sorted row of each slot, counted from the first of all.
/// * `probs`: f32, f16 or bf16, `[T, K]`; `None` for weight 1.
/// * `top_k`: K, at most 512.
/// * `range`: the first of the sorted rows that `permuted` has, and the end of them.
/// * `out`: dtype of permuted, `[T, H]`.
///
/// For an empty range nothing is called but to write 0, and `out` must be contiguous.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn moe_token_unpermute_with_ep(
    sequence: &Sequence<'_>,
    permuted: &TensorView<'_>,
    indices: &TensorView<'_>,
    probs: Option<&TensorView<'_>>,
    top_k: usize,
    range: Range<usize>,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    if range.is_empty() || out.is_empty() {
        return out.zero(sequence);
    }
    let range = [int(range.start), int(range.end)];
    let args = [
        input(permuted),
        input(indices),
        optional(probs),
        Arg::Int(int(top_k)),
        Arg::Ints(Some(&range)),
        Arg::Bool(false),
        Arg::Ints(None),
        output(out),
    ];
    let reads = [permuted.0, indices.0].into_iter().chain(probs.map(|probs| probs.0));
    launch(sequence, &[OperatorId::MoeTokenUnpermuteWithEp], &args, reads, [out.0].into_iter())?;
    Ok(())
}
