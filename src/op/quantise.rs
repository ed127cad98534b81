//! Operators that quantise.

use ascend_sys::OperatorId;
use ascend_sys::ops::Arg;

use super::launch::{input, launch, optional, optional_output, output, pick};
use crate::error::Result;
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// Factors on the columns of rows before they are quantised.
#[derive(Clone, Copy)]
pub enum SmoothScales<'s, 'a> {
    /// The same for all rows.
    OfAll(&'s TensorView<'a>),
    /// Those of the group that a row is in.
    OfGroups {
        /// `[G, H]`, G at most 1024.
        scales: &'s TensorView<'a>,
        /// i32, `[G]`: ends of the groups of rows, the last one the number of rows.
        ends: &'s TensorView<'a>,
    },
}

/// Quantises each row of x (`aclnnDynamicQuantV2`, where that is missing `aclnnDynamicQuant`, which has neither groups nor
/// offsets): `y = round(v * 127 / m)` and `scale = m / 127`, v being the row of x times `smooth` and m its greatest
/// magnitude; with `offset` instead `scale = (max - min) / 255`, `offset = 127 - max / scale` and
/// `y = round(v / scale + offset)`. int4 has 7 and 15 for 127 and 255. Ties go to even. `aclnnDynamicQuantV4` is not for
/// this hardware.
///
/// * `x`: f16 or bf16, `[.., H]`, two dimensions or more, any strides.
/// * `smooth`: dtype of x, `[H]` or as [`SmoothScales`] says.
/// * `y`: out, i8 or i4, shape of x, or i32 `[.., H / 8]` of eight int4 each; i4 contiguous, H even.
/// * `scale`: out, f32, `[..]`. * `offset`: out, f32, `[..]`.
///
/// Where y or scale is empty nothing is called. Gives the operator that ran or would have.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn dynamic_quant(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    smooth: Option<SmoothScales<'_, '_>>,
    y: &mut TensorViewMut<'_>,
    scale: &mut TensorViewMut<'_>,
    offset: Option<&mut TensorViewMut<'_>>,
) -> Result<OperatorId> {
    let (smooth, groups) = match smooth {
        None => (None, None),
        Some(SmoothScales::OfAll(scales)) => (Some(scales), None),
        Some(SmoothScales::OfGroups { scales, ends }) => (Some(scales), Some(ends)),
    };
    let offset = offset.as_deref();
    let candidates: &[OperatorId] = match (groups, offset) {
        (None, None) => &[OperatorId::DynamicQuantV2, OperatorId::DynamicQuant],
        _ => &[OperatorId::DynamicQuantV2],
    };
    let operator = pick(sequence, candidates)?;
    if y.is_empty() || scale.is_empty() {
        return Ok(operator);
    }
    let dst_type = Arg::Int(y.desc().dtype.0.into());
    let reads = [Some(x), smooth, groups].into_iter().flatten().map(|tensor| tensor.0);
    let writes = [Some(&*y), Some(&*scale), offset].into_iter().flatten().map(|tensor| tensor.0);
    if operator == OperatorId::DynamicQuant {
        let args = [input(x), optional(smooth), output(y), output(scale)];
        return launch(sequence, &[OperatorId::DynamicQuant], &args, reads, writes);
    }
    let args =
        [input(x), optional(smooth), optional(groups), dst_type, output(y), output(scale), optional_output(offset)];
    launch(sequence, &[OperatorId::DynamicQuantV2], &args, reads, writes)
}
