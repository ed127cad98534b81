//! Maps of one operand, pairs, comparisons, selections, fills and copies.

use ascend_sys::OperatorId;
use ascend_sys::ops::{Arg, ScalarValue};

use super::elementwise::alpha_of;
use super::launch::{input, launch, output};
use crate::dtype::DType;
use crate::error::Result;
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// A host scalar beside tensors of a type: fp32 beside floats, whole beside integers.
fn scalar(value: f64, beside: DType) -> ScalarValue {
    let dtype = if beside.is_float() || value.fract() != 0.0 { DType::F32 } else { DType::I64 };
    ScalarValue { dtype: dtype.acl(), value }
}

macro_rules! maps {
    ($($(#[doc = $doc:literal])* $name:ident $id:ident;)*) => {$(
        $(#[doc = $doc])*
        ///
        /// * `out`: dtype and shape of x (floats: any float), any strides.
        ///
        /// # Errors
        /// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
        pub fn $name(sequence: &Sequence<'_>, x: &TensorView<'_>, out: &mut TensorViewMut<'_>) -> Result<()> {
            if out.is_empty() {
                return Ok(());
            }
            let args = [input(x), output(out)];
            launch(sequence, &[OperatorId::$id], &args, [x.0].into_iter(), [out.0].into_iter())?;
            Ok(())
        }
    )*};
}

maps! {
    /// `out = |x|` (`aclnnAbs`). * `x`: f32, f16, bf16, i32 or i64, any strides.
    abs Abs;
    /// `out = -x` (`aclnnNeg`). * `x`: f32, f16, bf16, i32 or i64, any strides.
    neg Neg;
    /// `out = e^x` (`aclnnExp`). * `x`: f32, f16 or bf16, any strides.
    exp Exp;
    /// `out = sqrt(x)` (`aclnnSqrt`). * `x`: f32, f16 or bf16, any strides.
    sqrt Sqrt;
    /// `out = 1 / (1 + e^-x)` (`aclnnSigmoid`). * `x`: f32, f16 or bf16, any strides.
    sigmoid Sigmoid;
    /// `out = x / (1 + e^-x)` (`aclnnSilu`). * `x`: f32, f16 or bf16, any strides.
    silu Silu;
    /// `out = max(x, 0)` (`aclnnRelu`). * `x`: f32, f16, bf16, i32 or i64, any strides.
    relu Relu;
    /// The Gaussian error linear unit by its tanh approximation (`aclnnGelu`). * `x`: f32, f16 or bf16, any strides.
    gelu Gelu;
}

/// `out = ln(1 + e^(beta x)) / beta`, or x where `beta x > threshold` (`aclnnSoftplus`).
///
/// * `x`: f32, f16 or bf16, any strides. * `out`: a float, shape of x.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn softplus(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    beta: f64,
    threshold: f64,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let (beta, threshold) = (scalar(beta, DType::F32), scalar(threshold, DType::F32));
    let args = [input(x), Arg::Scalar(Some(beta)), Arg::Scalar(Some(threshold)), output(out)];
    launch(sequence, &[OperatorId::Softplus], &args, [x.0].into_iter(), [out.0].into_iter())?;
    Ok(())
}

/// `out = x + value` (`aclnnAdds`). Beside floats the value is rounded to the type of x; integers and a fraction are
/// added in f32.
///
/// * `x`: f32, f16, bf16, i32 or i64, any strides. * `out`: any of these, shape of x.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn adds(sequence: &Sequence<'_>, x: &TensorView<'_>, value: f64, out: &mut TensorViewMut<'_>) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let (value, one) = (scalar(value, x.dtype()), scalar(1.0, x.dtype()));
    let args = [input(x), Arg::Scalar(Some(value)), Arg::Scalar(Some(one)), output(out)];
    launch(sequence, &[OperatorId::Adds], &args, [x.0].into_iter(), [out.0].into_iter())?;
    Ok(())
}

/// `out = x - alpha * other` (`aclnnSub`), with broadcasting. Where `alpha` is not 1, half precision is computed in f32
/// and rounded once.
///
/// * `x`, `other`: f32, f16, bf16, i32 or i64, shapes that broadcast, any strides.
/// * `alpha`: host; a whole number where both tensors are of integers.
/// * `out`: a dtype that their common one converts to, the shape they broadcast to.
///
/// # Errors
/// [`Error::DType`](crate::Error::DType) for a fractional `alpha` of integers, [`Error::Rule`](crate::Error::Rule) and
/// those common to all operators, see [`cast`](super::cast).
pub fn sub(
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
    launch(sequence, &[OperatorId::Sub], &args, [x.0, other.0].into_iter(), [out.0].into_iter())?;
    Ok(())
}

macro_rules! pairs {
    ($($(#[doc = $doc:literal])* $name:ident $id:ident;)*) => {$(
        $(#[doc = $doc])*
        ///
        /// * `x`, `other`: f32, f16, bf16, i32 or i64, shapes that broadcast, any strides.
        /// * `out`: a dtype that their common one converts to, the shape they broadcast to.
        ///
        /// # Errors
        /// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
        pub fn $name(
            sequence: &Sequence<'_>,
            x: &TensorView<'_>,
            other: &TensorView<'_>,
            out: &mut TensorViewMut<'_>,
        ) -> Result<()> {
            if out.is_empty() {
                return Ok(());
            }
            let args = [input(x), input(other), output(out)];
            launch(sequence, &[OperatorId::$id], &args, [x.0, other.0].into_iter(), [out.0].into_iter())?;
            Ok(())
        }
    )*};
}

pairs! {
    /// `out = x / other` (`aclnnDiv`), with broadcasting; integers are divided as f32.
    div Div;
    /// The greater of two (`aclnnMaximum`), with broadcasting; NaN where either is.
    maximum Maximum;
    /// The lesser of two (`aclnnMinimum`), with broadcasting; NaN where either is.
    minimum Minimum;
}

/// `out = min(max(x, low), high)` (`aclnnClamp`); NaN stays.
///
/// * `x`: f32, f16, bf16, i32 or i64, any strides. * `out`: any of these, shape of x.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule), also where there is no bound, and those common to all operators, see
/// [`cast`](super::cast).
pub fn clamp(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    low: Option<f64>,
    high: Option<f64>,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let bound = |bound: Option<f64>| Arg::Scalar(bound.map(|bound| scalar(bound, x.dtype())));
    let args = [input(x), bound(low), bound(high), output(out)];
    launch(sequence, &[OperatorId::Clamp], &args, [x.0].into_iter(), [out.0].into_iter())?;
    Ok(())
}

/// An operator of a tensor, a scalar and an output.
fn with_scalar(
    sequence: &Sequence<'_>,
    operator: &'static [OperatorId],
    x: &TensorView<'_>,
    value: f64,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let args = [input(x), Arg::Scalar(Some(scalar(value, x.dtype()))), output(out)];
    launch(sequence, operator, &args, [x.0].into_iter(), [out.0].into_iter())?;
    Ok(())
}

/// `out = max(x, low)` (`aclnnClampMin`); NaN stays.
///
/// * `x`: f32, f16, bf16, i32 or i64, any strides. * `out`: any of these, shape of x.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn clamp_min(sequence: &Sequence<'_>, x: &TensorView<'_>, low: f64, out: &mut TensorViewMut<'_>) -> Result<()> {
    with_scalar(sequence, &[OperatorId::ClampMin], x, low, out)
}

macro_rules! comparisons {
    ($($(#[doc = $doc:literal])* $name:ident $id:ident;)*) => {$(
        $(#[doc = $doc])*
        ///
        /// * `x`: f32, f16, bf16, i32 or i64, any strides. * `out`: bool, shape of x.
        ///
        /// # Errors
        /// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
        pub fn $name(
            sequence: &Sequence<'_>,
            x: &TensorView<'_>,
            value: f64,
            out: &mut TensorViewMut<'_>,
        ) -> Result<()> {
            with_scalar(sequence, &[OperatorId::$id], x, value, out)
        }
    )*};
}

comparisons! {
    /// `out = (x == value)` (`aclnnEqScalar`).
    eq_scalar EqScalar;
    /// `out = (x < value)` (`aclnnLtScalar`).
    lt_scalar LtScalar;
    /// `out = (x >= value)` (`aclnnGeScalar`).
    ge_scalar GeScalar;
}

/// `out = x` where condition, else `other` (`aclnnSWhere`), with broadcasting.
///
/// * `condition`: bool. * `x`, `other`: f32, f16, bf16, i32 or i64, of one dtype. * `out`: that dtype, broadcast shape.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn select(
    sequence: &Sequence<'_>,
    condition: &TensorView<'_>,
    x: &TensorView<'_>,
    other: &TensorView<'_>,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let args = [input(condition), input(x), input(other), output(out)];
    let reads = [condition.0, x.0, other.0].into_iter();
    launch(sequence, &[OperatorId::SWhere], &args, reads, [out.0].into_iter())?;
    Ok(())
}

/// `x = value` where mask, in place (`aclnnInplaceMaskedFillScalar`).
///
/// * `x`: f32, f16, bf16, i32, i64 or bool, any strides. * `mask`: bool, broadcast to the shape of x.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn masked_fill(
    sequence: &Sequence<'_>,
    x: &mut TensorViewMut<'_>,
    mask: &TensorView<'_>,
    value: f64,
) -> Result<()> {
    if x.is_empty() {
        return Ok(());
    }
    let args = [output(x), input(mask), Arg::Scalar(Some(scalar(value, x.dtype())))];
    let operator = &[OperatorId::InplaceMaskedFillScalar];
    launch(sequence, operator, &args, [x.0, mask.0].into_iter(), [x.0].into_iter())?;
    Ok(())
}

/// Zeros, in place (`aclnnInplaceZero`).
///
/// * `x`: f32, f16, bf16, i32, i64 or bool, any strides.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn zero_fill(sequence: &Sequence<'_>, x: &mut TensorViewMut<'_>) -> Result<()> {
    if x.is_empty() {
        return Ok(());
    }
    launch(sequence, &[OperatorId::InplaceZero], &[output(x)], [].into_iter(), [x.0].into_iter())?;
    Ok(())
}

/// `out = x`, broadcast and converted (`aclnnInplaceCopy`).
///
/// * `x`: f32, f16, bf16, i32, i64 or bool, broadcast to the shape of out, any strides. * `out`: any of these.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn copy(sequence: &Sequence<'_>, x: &TensorView<'_>, out: &mut TensorViewMut<'_>) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let args = [output(out), input(x)];
    launch(sequence, &[OperatorId::InplaceCopy], &args, [x.0].into_iter(), [out.0].into_iter())?;
    Ok(())
}

/// `out[i] = start + i * step` (`aclnnArange`).
///
/// * `out`: f32, f16, bf16, i32 or i64, `[ceil((end - start) / step)]`.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn arange(sequence: &Sequence<'_>, start: f64, end: f64, step: f64, out: &mut TensorViewMut<'_>) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let value = |value: f64| Arg::Scalar(Some(scalar(value, out.dtype())));
    let args = [value(start), value(end), value(step), output(out)];
    launch(sequence, &[OperatorId::Arange], &args, [].into_iter(), [out.0].into_iter())?;
    Ok(())
}
