//! The first finalize-routing operator.

use ascend_sys::OperatorId;
use ascend_sys::ops::Arg;

use super::launch::{input, launch, optional, output};
use crate::error::Result;
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// Inputs of [`moe_finalize_routing`], for T tokens of width H and K choices.
#[derive(Clone, Copy)]
pub struct FinalizeRoutingV1<'a> {
    /// f32, f16 or bf16, `[T * K, H]`.
    pub expanded_x: TensorView<'a>,
    /// i32, `[T * K]`, choice j of token t at `j * T + t`, each below the rows of `expanded_x`: what
    /// [`moe_init_routing`](super::moe_init_routing) gives.
    pub row_idx: TensorView<'a>,
    /// Summand of every token, dtype of expanded_x, `[T, H]`.
    pub x1: TensorView<'a>,
    /// A second one.
    pub x2: Option<TensorView<'a>>,
    /// Dtype of expanded_x, `[E, H]`, at least K experts.
    pub bias: TensorView<'a>,
    /// Dtype of expanded_x, `[T, K]`.
    pub scales: TensorView<'a>,
    /// i32, `[T, K]`.
    pub expert_idx: TensorView<'a>,
}

/// `out[t] = x1[t] + x2[t] + sum over j of scales[t, j] * (expanded_x[row of (t, j)] + bias[expert of (t, j)])`
/// (`aclnnMoeFinalizeRouting`), summed in f32, j ascending, and rounded once; f16 is rounded after each step.
///
/// * `out`: dtype of expanded_x, `[T, H]`.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn moe_finalize_routing(
    sequence: &Sequence<'_>,
    inputs: &FinalizeRoutingV1<'_>,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let FinalizeRoutingV1 { expanded_x, row_idx, x1, x2, bias, scales, expert_idx } = inputs;
    let args: [Arg<'_>; 8] = [
        input(expanded_x),
        input(x1),
        optional(x2.as_ref()),
        input(bias),
        input(scales),
        input(row_idx),
        input(expert_idx),
        output(out),
    ];
    let required = [expanded_x, x1, bias, scales, row_idx, expert_idx];
    let reads = required.into_iter().chain(x2).map(|tensor| tensor.0);
    launch(sequence, &[OperatorId::MoeFinalizeRouting], &args, reads, [out.0].into_iter())?;
    Ok(())
}
