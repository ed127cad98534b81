//! The router that may name replicas of the experts it chooses.

use ascend_sys::OperatorId;
use ascend_sys::ops::Arg;

use super::launch::{input, launch, optional, output};
use crate::error::Result;
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// Parameters of [`moe_fused_topk`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FusedTopK {
    /// Experts per token, at least 1.
    pub k: usize,
    /// Groups that the experts form, in order, at most 256; 1 for none.
    pub groups: usize,
    /// Groups whose experts keep their scores; those of the others become 0, so that they are chosen only before scores
    /// below 0 or for want of others.
    pub kept_groups: usize,
    /// Best scores of a group whose sum ranks it.
    pub summed: usize,
    /// Factor on the weights, which are divided by their sum then; `None` for the scores as they are.
    pub scale: Option<f32>,
}

/// Physical experts that stand for the experts of a router, in [`moe_fused_topk`].
#[derive(Clone, Copy)]
pub struct ExpertReplicas<'a> {
    /// i32, `[E]`: how many stand for each, from 0, which counts as 1, to the columns of the table. CANN does not check
    /// it.
    pub counts: TensorView<'a>,
    /// i32, `[E, R]`, R at most 128: their ids.
    pub table: TensorView<'a>,
}

/// Sigmoid, group limit, choice and weights of a router in one operator (`aclnnMoeFusedTopk`). Computed in f32; ties go
/// to the lower expert; NaN ranks first. With replicas, token t gets number `t % count` of those of each expert.
///
/// * `logits`: f32, f16 or bf16, `[T, E]`, at most 1024 experts.
/// * `bias`: dtype of logits, `[E]`, added to the scores for the choice only.
/// * `weights`: out, f32, `[T, k]`.
/// * `experts`: out, i32, `[T, k]`, best first.
///
/// Without tokens nothing is called.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn moe_fused_topk(
    sequence: &Sequence<'_>,
    logits: &TensorView<'_>,
    bias: &TensorView<'_>,
    replicas: Option<&ExpertReplicas<'_>>,
    params: &FusedTopK,
    weights: &mut TensorViewMut<'_>,
    experts: &mut TensorViewMut<'_>,
) -> Result<()> {
    if logits.is_empty() && weights.is_empty() && experts.is_empty() {
        return Ok(());
    }
    let FusedTopK { k, groups, kept_groups, summed, scale } = *params;
    // Numbers are unsigned of 32 bits in C; what they cannot hold, the operator's limits refuse.
    let int = |value: usize| Arg::Int(i64::try_from(value).unwrap_or(i64::MAX));
    let mapping = replicas.map(|ExpertReplicas { counts, table }| [counts, table]);
    let args = [
        input(logits),
        input(bias),
        optional(mapping.map(|[counts, _]| counts)),
        optional(mapping.map(|[_, table]| table)),
        int(groups),
        int(kept_groups),
        int(summed),
        int(k),
        Arg::Int(SIGMOID),
        Arg::Bool(scale.is_some()),
        Arg::Float(scale.unwrap_or(1.0).into()),
        Arg::Bool(mapping.is_some()),
        output(weights),
        output(experts),
    ];
    let reads = [logits, bias].into_iter().chain(mapping.into_iter().flatten()).map(|tensor| tensor.0);
    launch(sequence, &[OperatorId::MoeFusedTopk], &args, reads, [weights.0, experts.0].into_iter())?;
    Ok(())
}

/// The only `activateType`.
const SIGMOID: i64 = 0;
