//! Operators that work element by element, and the gated activation.

use ascend_sys::OperatorId;
use ascend_sys::aclDataType;
use ascend_sys::ops::{Arg, ScalarValue};

use super::launch::{input, launch, optional, output};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// `out = x` in the dtype of `out`, rounded to nearest even where it is narrower (`aclnnCast`).
///
/// * `x`: f32, f16, bf16, i32 or i64, `[..]`, any strides.
/// * `out`: any of these, shape of x.
///
/// # Errors
/// [`Error::Rule`] and those common to all operators: memory of another device or stream, a missing operator, memory for
/// the workspace, vendor failures and the states of the device.
pub fn cast(sequence: &Sequence<'_>, x: &TensorView<'_>, out: &mut TensorViewMut<'_>) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let args = [input(x), Arg::DType(out.desc().dtype), output(out)];
    launch(sequence, &[OperatorId::Cast], &args, [x.0].into_iter(), [out.0].into_iter())?;
    Ok(())
}

/// `out = x + alpha * other` (`aclnnAdd`).
///
/// * `x`, `other`: f32, f16, bf16, i32 or i64, shapes that broadcast, any strides.
/// * `alpha`: host; a whole number where both tensors are of integers.
/// * `out`: a dtype that the common dtype of x and other converts to, the shape they broadcast to.
///
/// # Errors
/// [`Error::DType`] for a fractional `alpha` of integers, [`Error::Rule`] and those common to all operators, see [`cast`].
pub fn add(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    other: &TensorView<'_>,
    alpha: f64,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let args = [input(x), input(other), Arg::Scalar(Some(alpha_of(alpha, x, other)?)), output(out)];
    launch(sequence, &[OperatorId::Add], &args, [x.0, other.0].into_iter(), [out.0].into_iter())?;
    Ok(())
}

/// `out = x * other` (`aclnnMul`).
///
/// * `x`, `other`: f32, f16, bf16, i32 or i64, shapes that broadcast, any strides.
/// * `out`: a dtype that the common dtype of x and other converts to, the shape they broadcast to.
///
/// # Errors
/// [`Error::Rule`] and those common to all operators, see [`cast`].
pub fn mul(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    other: &TensorView<'_>,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let args = [input(x), input(other), output(out)];
    launch(sequence, &[OperatorId::Mul], &args, [x.0, other.0].into_iter(), [out.0].into_iter())?;
    Ok(())
}

/// `out = x * factor` (`aclnnMuls`). The factor is an f32; tensors of half precision are multiplied in f32.
///
/// * `x`: f32, f16, bf16, i32 or i64, `[..]`, any strides.
/// * `out`: any of these, shape of x.
///
/// # Errors
/// [`Error::Rule`] and those common to all operators, see [`cast`].
pub fn muls(sequence: &Sequence<'_>, x: &TensorView<'_>, factor: f64, out: &mut TensorViewMut<'_>) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let args = [input(x), Arg::Scalar(Some(float(factor))), output(out)];
    launch(sequence, &[OperatorId::Muls], &args, [x.0].into_iter(), [out.0].into_iter())?;
    Ok(())
}

/// With A the first and B the second half of x along `dim`: `out = A / (1 + exp(-A)) * B`, in f32 and rounded once
/// (`aclnnSwiGlu`).
///
/// * `x`: f32, f16 or bf16, `[.., 2 * n, ..]`, contiguous.
/// * `dim`: counted from the end where negative.
/// * `out`: dtype of x, `[.., n, ..]`, contiguous.
///
/// # Errors
/// [`Error::Rule`] and those common to all operators, see [`cast`].
pub fn swiglu(sequence: &Sequence<'_>, x: &TensorView<'_>, dim: i64, out: &mut TensorViewMut<'_>) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let args = [input(x), Arg::Int(dim), output(out)];
    launch(sequence, &[OperatorId::SwiGlu], &args, [x.0].into_iter(), [out.0].into_iter())?;
    Ok(())
}

/// Parameters of [`clipped_swiglu`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClippedSwiglu {
    /// Factor within the logistic function.
    pub alpha: f64,
    /// Upper limit of the gate, limit of the other half on both sides; above 0.
    pub limit: f64,
    /// Added to the other half.
    pub bias: f64,
    /// Whether gate and the other are the even and odd places along `dim`, not its halves.
    pub interleaved: bool,
}

/// With A the gate and B the other half of x along `dim`, `A = min(A, limit)` and `B = clamp(B, -limit, limit)`:
/// `out = A * sigmoid(alpha * A) * (B + bias)` (`aclnnClippedSwiglu`), in f32 and rounded once.
///
/// * `x`: f32, f16 or bf16, `[.., 2 * n, ..]`, contiguous.
/// * `group_index`: i64, `[G]`, G at most 1024: rows behind their sum are not written.
/// * `dim`: counted from the end where negative.
/// * `out`: dtype of x, `[.., n, ..]`, contiguous.
///
/// # Errors
/// [`Error::Rule`] and those common to all operators, see [`cast`].
pub fn clipped_swiglu(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    group_index: Option<&TensorView<'_>>,
    dim: i64,
    params: &ClippedSwiglu,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let args = [
        input(x),
        optional(group_index),
        Arg::Int(dim),
        Arg::Float(params.alpha),
        Arg::Float(params.limit),
        Arg::Float(params.bias),
        Arg::Bool(params.interleaved),
        output(out),
    ];
    let reads = [x.0].into_iter().chain(group_index.map(|groups| groups.0));
    launch(sequence, &[OperatorId::ClippedSwiglu], &args, reads, [out.0].into_iter())?;
    Ok(())
}

/// The factor of a sum or difference: fp32 where a tensor is of floats, else whole.
pub(super) fn alpha_of(alpha: f64, x: &TensorView<'_>, other: &TensorView<'_>) -> Result<ScalarValue> {
    if x.dtype().is_float() || other.dtype().is_float() {
        Ok(float(alpha))
    } else if alpha.fract() == 0.0 {
        Ok(ScalarValue { dtype: aclDataType::INT64, value: alpha })
    } else {
        Err(Error::dtype("alpha", format_args!("{alpha}"), "a whole number for tensors of integers"))
    }
}

fn float(value: f64) -> ScalarValue {
    ScalarValue { dtype: DType::F32.acl(), value }
}
