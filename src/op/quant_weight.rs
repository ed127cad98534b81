//! What prepares quantised weights and scales.

use ascend_sys::OperatorId;

use super::launch::{check, input, launch, optional, output};
use crate::error::Result;
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// Scales, with offsets, as the whole numbers that quantised products take (`aclnnTransQuantParamV2`). A scale keeps its sign, its
/// exponent and the first 10 bits of its fraction; an offset is rounded to a whole number in -256 to 255.
///
/// * `scale`: f32, `[N]` or `[G, N]`, contiguous, finite.
/// * `offset`: f32, `[N]` or `[1]`, contiguous, finite, beside a scale of `[N]`, `[1]` or `[1, N]`.
/// * `out`: u64 or i64, shape of scale; `[N]` where a scale of `[1]` has an offset of `[N]`.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn trans_quant_param(
    sequence: &Sequence<'_>,
    scale: &TensorView<'_>,
    offset: Option<&TensorView<'_>>,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let args = [input(scale), optional(offset), output(out)];
    let reads = [scale.0].into_iter().chain(offset.map(|offset| offset.0));
    launch(sequence, &[OperatorId::TransQuantParamV2], &args, reads, [out.0].into_iter())?;
    Ok(())
}

/// Whole numbers of 32 bits, packed two to a byte (`aclnnConvertWeightToINT4Pack`). The work goes through the host and is done when
/// the call returns, as it is meant for loading: first all that is queued on the device is waited for. On a plan the call is
/// only checked.
///
/// * `weight`: i32, `[K, N]` or `[E, K, N]`, values in -8 to 7, contiguous.
/// * `packed`: i4, shape of weight, N even; or i32 that carry eight i4 each, `[.., K, N / 8]`. Row-major or FRACTAL_NZ; several
///   matrices in FRACTAL_NZ have K a multiple of 16 and N of 64.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn convert_weight_to_int4_pack(
    sequence: &Sequence<'_>,
    weight: &TensorView<'_>,
    packed: &mut TensorViewMut<'_>,
) -> Result<()> {
    if packed.is_empty() {
        return Ok(());
    }
    let args = [input(weight), output(packed)];
    if sequence.stream().is_none() {
        // CANN copies in phase 1 already.
        return check(sequence.device(), OperatorId::ConvertWeightToINT4Pack, &args);
    }
    sequence.device().synchronize()?;
    let operator = &[OperatorId::ConvertWeightToINT4Pack];
    launch(sequence, operator, &args, [weight.0].into_iter(), [packed.0].into_iter())?;
    Ok(())
}
