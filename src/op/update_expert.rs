//! The instances that serve the chosen experts.

use ascend_sys::OperatorId;
use ascend_sys::ops::Arg;

use super::launch::{input, launch, optional, or_temporary, output};
use super::routing::int;
use crate::dtype::DType;
use crate::error::Result;
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// What chooses among the instances of an expert (`balanceMode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// The rank: neighbouring ranks share an instance.
    ByRank {
        /// This rank.
        rank: usize,
        /// All ranks, 2 to 768.
        ranks: usize,
    },
    /// The token's number, modulo the instances.
    ByToken,
}

/// What [`moe_update_expert`] leaves out, for T tokens of K choices.
#[derive(Clone, Copy)]
pub struct Pruning<'a> {
    /// f32, f16 or bf16, `[T, K]`: the weights of the choices.
    pub scales: TensorView<'a>,
    /// f32, `[K]` or `[1, K]`: the share of the sum of a token's weights that a weight must have to stay.
    pub threshold: TensorView<'a>,
    /// Bool, `[T]`: of a token that is not active nothing stays; `None` where all are.
    pub active: Option<TensorView<'a>>,
}

/// The instance that serves each chosen expert, and which choices stay (`aclnnMoeUpdateExpert`; not on Atlas A2).
///
/// * `expert_ids`: i32 or i64, `[T, K]`, values in 0..E, T <= 512 and K <= 16.
/// * `table`: i32, `[E, F]`, E <= 1024: the number of instances of each expert, 1 to F - 1, then these.
/// * `instances`: out, dtype of expert_ids, `[T, K]`, contiguous.
/// * `keep`: out, bool, `[T, K]`: written where something is left out. CANN wants it always: a temporary one is used
///   where it is not given.
///
/// Without tokens nothing is called.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn moe_update_expert(
    sequence: &Sequence<'_>,
    expert_ids: &TensorView<'_>,
    table: &TensorView<'_>,
    balance: Balance,
    pruning: Option<&Pruning<'_>>,
    instances: &mut TensorViewMut<'_>,
    keep: Option<&mut TensorViewMut<'_>>,
) -> Result<()> {
    if expert_ids.is_empty() && instances.is_empty() {
        return Ok(());
    }
    let mut temporary = None;
    let shape = [expert_ids.dim(0), expert_ids.dim(1)];
    let keep = or_temporary(sequence, keep.as_deref(), &mut temporary, DType::Bool, shape)?;
    let (rank, ranks, mode) = match balance {
        Balance::ByRank { rank, ranks } => (int(rank), int(ranks), 0),
        Balance::ByToken => (0, 0, 1),
    };
    let (scales, threshold) = (pruning.map(|pruning| &pruning.scales), pruning.map(|pruning| &pruning.threshold));
    let active = pruning.and_then(|pruning| pruning.active.as_ref());
    let args = [
        input(expert_ids),
        input(table),
        optional(scales),
        optional(threshold),
        optional(active),
        Arg::Int(rank),
        Arg::Int(ranks),
        Arg::Int(mode),
        output(instances),
        output(keep),
    ];
    let options = [scales, threshold, active].into_iter().flatten().map(|tensor| tensor.0);
    let reads = [expert_ids.0, table.0].into_iter().chain(options);
    launch(sequence, &[OperatorId::MoeUpdateExpert], &args, reads, [instances.0, keep.0].into_iter())?;
    Ok(())
}
