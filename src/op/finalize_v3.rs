//! The third finalize-routing operator.

use ascend_sys::OperatorId;
use ascend_sys::ops::Arg;

use super::combine::FinalizeRouting;
use super::launch::{input, launch, optional, output};
use crate::error::Result;
use crate::scratch::Sequence;
use crate::tensor::TensorViewMut;

/// The sum of [`moe_finalize_routing_v2`](super::moe_finalize_routing_v2) by `aclnnMoeFinalizeRoutingV3`, from CANN 9.1.0
/// on. Its experts that compute nothing (zero, copy, constant) are not carried: the kernel for Atlas A3 does not read them.
///
/// * `out`: dtype of expanded_x, `[T, H]`.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn moe_finalize_routing_v3(
    sequence: &Sequence<'_>,
    inputs: &FinalizeRouting<'_>,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let FinalizeRouting { expanded_x, row_idx, x1, x2, bias, scales, expert_idx, mode } = inputs;
    let nothing = Arg::Tensor(None);
    let no_range = Arg::Ints(Some(&[]));
    let args = [
        input(expanded_x),
        input(row_idx),
        optional(x1.as_ref()),
        optional(x2.as_ref()),
        optional(bias.as_ref()),
        optional(scales.as_ref()),
        optional(expert_idx.as_ref()),
        nothing,
        nothing,
        nothing,
        nothing,
        Arg::Int(*mode as i64),
        no_range,
        no_range,
        no_range,
        output(out),
    ];
    let options = [x1, x2, bias, scales, expert_idx].into_iter().flatten().map(|tensor| tensor.0);
    let reads = [expanded_x.0, row_idx.0].into_iter().chain(options);
    launch(sequence, &[OperatorId::MoeFinalizeRoutingV3], &args, reads, [out.0].into_iter())?;
    Ok(())
}
