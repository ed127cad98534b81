//! The routers that choose by softmax alone.

use ascend_sys::OperatorId;
use ascend_sys::ops::Arg;

use super::launch::{input, launch, optional, output};
use crate::error::{Error, Result};
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// Softmax over the experts, then the k best (`aclnnMoeGatingTopKSoftmax`); k is the last dimension of `weights`. Computed
/// in f32; ties go to the lower expert; NaN ranks first. Weights of a token are not brought to a sum of 1.
///
/// * `logits`: f32, f16 or bf16, `[T, E]`, or T in two dimensions.
/// * `finished`: bool, `[T]`: tokens whose experts become E, which is none.
/// * `weights`: out, dtype of logits, `[T, k]`, contiguous, k at most 1024.
/// * `experts`: out, i32, `[T, k]`, contiguous, best first.
/// * `row_idx`: out, i32, `[T, k]`, contiguous: choice j of token t gets `j * T + t`, the row numbers that
///   `aclnnMoeInitRouting` wants.
///
/// Without tokens nothing is called.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn moe_gating_top_k_softmax(
    sequence: &Sequence<'_>,
    logits: &TensorView<'_>,
    finished: Option<&TensorView<'_>>,
    weights: &mut TensorViewMut<'_>,
    experts: &mut TensorViewMut<'_>,
    row_idx: &mut TensorViewMut<'_>,
) -> Result<()> {
    if without_tokens(logits) && weights.is_empty() && experts.is_empty() && row_idx.is_empty() {
        return Ok(());
    }
    let k = Arg::Int(weights.dim(-1));
    let args = [input(logits), optional(finished), k, output(weights), output(experts), output(row_idx)];
    let reads = [logits.0].into_iter().chain(finished.map(|finished| finished.0));
    let writes = [weights.0, experts.0, row_idx.0].into_iter();
    launch(sequence, &[OperatorId::MoeGatingTopKSoftmax], &args, reads, writes)?;
    Ok(())
}

/// What the softmax of [`moe_gating_top_k_softmax_v2`] is taken over (`renorm`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum SoftmaxOver {
    /// All experts, before the choice.
    All = 0,
    /// The chosen experts: weights of a token sum to 1.
    Chosen = 1,
}

/// Softmax and the k best, in one order or the other (`aclnnMoeGatingTopKSoftmaxV2`); k is the last dimension of
/// `weights`. Computed in f32; ties go to the lower expert; NaN ranks first. Atlas A3 may lack the kernel.
///
/// * `logits`, `finished`, `weights`, `experts`: as for [`moe_gating_top_k_softmax`].
/// * `softmax`: out, f32, shape of logits, contiguous: all of the softmax; `None` with [`SoftmaxOver::Chosen`], where
///   CANN writes nothing.
///
/// Without tokens nothing is called.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for a `softmax` that nothing would be written to;
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn moe_gating_top_k_softmax_v2(
    sequence: &Sequence<'_>,
    logits: &TensorView<'_>,
    finished: Option<&TensorView<'_>>,
    over: SoftmaxOver,
    weights: &mut TensorViewMut<'_>,
    experts: &mut TensorViewMut<'_>,
    softmax: Option<&mut TensorViewMut<'_>>,
) -> Result<()> {
    if softmax.is_some() && over == SoftmaxOver::Chosen {
        return Err(Error::shape("softmax", "a tensor", "none where the softmax is over the chosen experts"));
    }
    if without_tokens(logits) && weights.is_empty() && experts.is_empty() {
        return Ok(());
    }
    let softmax = softmax.as_deref();
    let args = [
        input(logits),
        optional(finished),
        Arg::Int(weights.dim(-1)),
        Arg::Int(over as i64),
        Arg::Bool(softmax.is_some()),
        output(weights),
        output(experts),
        softmax.map_or(Arg::Tensor(None), output),
    ];
    let reads = [logits.0].into_iter().chain(finished.map(|finished| finished.0));
    let writes = [weights.0, experts.0].into_iter().chain(softmax.map(|softmax| softmax.0));
    launch(sequence, &[OperatorId::MoeGatingTopKSoftmaxV2], &args, reads, writes)?;
    Ok(())
}

/// Whether there is no token, as opposed to no expert, which is an error.
fn without_tokens(logits: &TensorView<'_>) -> bool {
    logits.is_empty() && logits.dim(-1) > 0
}
