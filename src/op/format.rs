//! Changes of storage format.

use ascend_sys::OperatorId;

use super::launch::{input, launch, output};
use crate::error::Result;
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// Moves the elements of a tensor between row-major and FRACTAL_NZ, as the formats of the two tensors say
/// (`aclnnNpuFormatCast`). Elements are moved, never converted. What was cast to FRACTAL_NZ must be used whole.
///
/// * `source`: f32, f16, bf16, i8, u8 or i32, `[.., R, C]` of 2 to 6 dimensions, contiguous.
/// * `target`: dtype and shape of source; [`Tensor::zeros_nz`](crate::Tensor::zeros_nz) makes one in FRACTAL_NZ.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn npu_format_cast(sequence: &Sequence<'_>, source: &TensorView<'_>, target: &mut TensorViewMut<'_>) -> Result<()> {
    if target.is_empty() {
        return Ok(());
    }
    let args = [input(source), output(target)];
    launch(sequence, &[OperatorId::NpuFormatCast], &args, [source.0].into_iter(), [target.0].into_iter())?;
    Ok(())
}
