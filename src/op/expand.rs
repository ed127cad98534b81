//! Expanding tokens to experts with the older operators.

use ascend_sys::OperatorId;
use ascend_sys::ops::Arg;

use super::launch::{input, launch, output};
use crate::error::{Error, Result};
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// Copies each token's row once per chosen expert, sorted by expert (`aclnnMoeInitRouting`). Slots go by number, by
/// column: choice j of token t is `j * T + t`. The sort is stable.
///
/// * `x`: f32, f16 or bf16, `[T, H]`.
/// * `row_idx`: i32, `[T, K]`: `j * T + t`, as [`moe_gating_top_k_softmax`](super::moe_gating_top_k_softmax) gives it.
///   CANN does not check the numbers.
/// * `expert_idx`: i32, `[T, K]`, values from 0 to below 2^24.
/// * `expanded_x`: out, dtype of x, `[R, H]`, contiguous: the first R sorted rows, R being K times at most T.
/// * `expanded_row_idx`: out, i32, `[T * K]`, contiguous: at each slot's number its sorted row.
/// * `expanded_expert_idx`: out, i32, `[T * K]`, contiguous: the experts, sorted.
///
/// Without tokens nothing is called.
///
/// # Errors
/// [`Error::Rule`] and those common to all operators, see [`cast`](super::cast).
pub fn moe_init_routing(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    row_idx: &TensorView<'_>,
    expert_idx: &TensorView<'_>,
    expanded_x: &mut TensorViewMut<'_>,
    expanded_row_idx: &mut TensorViewMut<'_>,
    expanded_expert_idx: &mut TensorViewMut<'_>,
) -> Result<()> {
    if expert_idx.is_empty() && expanded_row_idx.is_empty() && expanded_expert_idx.is_empty() {
        return Ok(());
    }
    let active_tokens = expanded_x.dim(0).checked_div(expert_idx.dim(1)).unwrap_or(0);
    let args = [
        input(x),
        input(row_idx),
        input(expert_idx),
        Arg::Int(active_tokens),
        output(expanded_x),
        output(expanded_row_idx),
        output(expanded_expert_idx),
    ];
    let reads = [x.0, row_idx.0, expert_idx.0].into_iter();
    let writes = [expanded_x.0, expanded_row_idx.0, expanded_expert_idx.0].into_iter();
    launch(sequence, &[OperatorId::MoeInitRouting], &args, reads, writes)?;
    Ok(())
}

/// Parameters of [`moe_init_routing_v2`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitRoutingV2 {
    /// Experts altogether.
    pub experts: usize,
    /// Rows per expert where each gets as many, slots beyond dropped; `None` to keep every slot.
    pub capacity: Option<usize>,
}

/// What [`moe_init_routing_v2`] counts. i32, `[experts]`; grouped products want i64.
pub enum RoutedCounts<'o, 'a> {
    /// Nothing.
    Nothing,
    /// Ends of the experts' rows; not with a capacity.
    Cumsum(&'o mut TensorViewMut<'a>),
    /// Slots of each expert, with a capacity those before it.
    Count(&'o mut TensorViewMut<'a>),
}

/// Copies each token's row once per chosen expert, sorted by expert, and counts (`aclnnMoeInitRoutingV2`). A slot is a
/// token and one of its choices, `t * K + j`; the sort is stable.
///
/// * `x`: f32, f16 or bf16, `[T, H]`.
/// * `expert_idx`: i32, `[T, K]`, values from 0 to below 2^24; below the number of experts where there is a capacity or
///   anything is counted. CANN does not check them.
/// * `expanded_x`: out, dtype of x, `[R, H]`: the first R sorted rows, at most all; with a capacity
///   `[experts, capacity, H]`, rows that stay empty being 0.
/// * `row_idx`: out, i32, `[T * K]`: each slot's row, -1 for dropped ones.
///
/// Without tokens nothing is called but to write 0 into the counts.
///
/// # Errors
/// [`Error::Shape`] for ends of rows with a capacity, which CANN does not write; [`Error::Rule`] and those common to
/// all operators, see [`cast`](super::cast).
pub fn moe_init_routing_v2(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    expert_idx: &TensorView<'_>,
    params: InitRoutingV2,
    expanded_x: &mut TensorViewMut<'_>,
    row_idx: &mut TensorViewMut<'_>,
    counts: RoutedCounts<'_, '_>,
) -> Result<()> {
    let InitRoutingV2 { experts, capacity } = params;
    let (counts, flag) = match counts {
        RoutedCounts::Nothing => (None, 0),
        RoutedCounts::Cumsum(_) if capacity.is_some() => {
            return Err(Error::shape("counts", "ends of rows", "slots of each expert where there is a capacity"));
        }
        RoutedCounts::Cumsum(counts) => (Some(counts), 1),
        RoutedCounts::Count(counts) => (Some(counts), 2),
    };
    if expert_idx.is_empty() && expanded_x.is_empty() && row_idx.is_empty() {
        return counts.map_or(Ok(()), |counts| counts.zero(sequence));
    }
    let counts = counts.as_deref();
    let counted = |wanted: bool| counts.filter(|_| wanted).map_or(Arg::Tensor(None), output);
    let int = |value: usize| Arg::Int(i64::try_from(value).unwrap_or(i64::MAX));
    let args = [
        input(x),
        input(expert_idx),
        Arg::Int(expanded_x.dim(0)),
        int(capacity.unwrap_or(0)),
        int(experts),
        Arg::Int(i64::from(capacity.is_some())),
        Arg::Int(if capacity.is_some() { 0 } else { flag }),
        Arg::Bool(capacity.is_some() && counts.is_some()),
        output(expanded_x),
        output(row_idx),
        counted(capacity.is_none()),
        counted(capacity.is_some()),
    ];
    let writes = [expanded_x.0, row_idx.0].into_iter().chain(counts.map(|counts| counts.0));
    launch(sequence, &[OperatorId::MoeInitRoutingV2], &args, [x.0, expert_idx.0].into_iter(), writes)?;
    Ok(())
}
