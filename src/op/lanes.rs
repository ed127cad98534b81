//! Operators along dimensions: softmax, selection and sorting, sums, maxima, norms.
//!
//! A dimension is counted from the end where negative.

use ascend_sys::OperatorId;
use ascend_sys::ops::Arg;

use super::launch::{input, launch, output};
use crate::error::Result;
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// Softmax along a dimension, in f32 and rounded once (`aclnnSoftmax`).
///
/// * `x`: f32, f16 or bf16, any strides. * `out`: a float, shape of x.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn softmax(sequence: &Sequence<'_>, x: &TensorView<'_>, dim: i64, out: &mut TensorViewMut<'_>) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let args = [input(x), Arg::Int(dim), output(out)];
    launch(sequence, &[OperatorId::Softmax], &args, [x.0].into_iter(), [out.0].into_iter())?;
    Ok(())
}

/// The `k` greatest (or least) along a dimension, in order, with their indices (`aclnnTopk`). NaN counts as the greatest;
/// equal values keep their order.
///
/// * `x`: f32, f16, bf16, i32 or i64, any strides.
/// * `values`: out, dtype of x; `indices`: out, i64; both the shape of x with k in dimension `dim`.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn top_k(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    k: usize,
    dim: i64,
    largest: bool,
    values: &mut TensorViewMut<'_>,
    indices: &mut TensorViewMut<'_>,
) -> Result<()> {
    if values.is_empty() && indices.is_empty() {
        return Ok(());
    }
    let k = i64::try_from(k).unwrap_or(i64::MAX);
    let flags = [Arg::Bool(largest), Arg::Bool(true)];
    let [largest, sorted] = flags;
    let args = [input(x), Arg::Int(k), Arg::Int(dim), largest, sorted, output(values), output(indices)];
    launch(sequence, &[OperatorId::Topk], &args, [x.0].into_iter(), [values.0, indices.0].into_iter())?;
    Ok(())
}

/// Values in order along a dimension, with their indices (`aclnnSort`). NaN counts as the greatest; equal values keep
/// their order.
///
/// * `x`: f32, f16, bf16, i32 or i64, any strides. * `values`: out, dtype of x; `indices`: out, i64; shape of x.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn sort(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    dim: i64,
    descending: bool,
    values: &mut TensorViewMut<'_>,
    indices: &mut TensorViewMut<'_>,
) -> Result<()> {
    if values.is_empty() && indices.is_empty() {
        return Ok(());
    }
    let args = [input(x), Arg::Bool(true), Arg::Int(dim), Arg::Bool(descending), output(values), output(indices)];
    launch(sequence, &[OperatorId::Sort], &args, [x.0].into_iter(), [values.0, indices.0].into_iter())?;
    Ok(())
}

/// Indices of the values in order along a dimension (`aclnnArgsort`), as those of [`sort`].
///
/// * `x`: f32, f16, bf16, i32 or i64, any strides. * `out`: i64, shape of x.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn argsort(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    dim: i64,
    descending: bool,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let args = [input(x), Arg::Int(dim), Arg::Bool(descending), output(out)];
    launch(sequence, &[OperatorId::Argsort], &args, [x.0].into_iter(), [out.0].into_iter())?;
    Ok(())
}

/// Sums of all values up to each along a dimension, in the dtype of out (`aclnnCumsum`).
///
/// * `x`: f32, f16, bf16, i32 or i64, any strides. * `out`: any of these, shape of x.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn cumsum(sequence: &Sequence<'_>, x: &TensorView<'_>, dim: i64, out: &mut TensorViewMut<'_>) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let args = [input(x), Arg::Int(dim), Arg::DType(out.dtype().acl()), output(out)];
    launch(sequence, &[OperatorId::Cumsum], &args, [x.0].into_iter(), [out.0].into_iter())?;
    Ok(())
}

/// Sums over dimensions, all where none is named (`aclnnReduceSum`); floats in f32, rounded once.
///
/// * `x`: f32, f16, bf16, i32 or i64, any strides; converted to the dtype of out first.
/// * `out`: any of these, the shape of x without `dims`, or with 1 in their place where `keep_dims`.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn reduce_sum(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    dims: &[i64],
    keep_dims: bool,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let args = [input(x), Arg::Ints(Some(dims)), Arg::Bool(keep_dims), Arg::DType(out.dtype().acl()), output(out)];
    launch(sequence, &[OperatorId::ReduceSum], &args, [x.0].into_iter(), [out.0].into_iter())?;
    Ok(())
}

/// Maxima over dimensions, all where none is named (`aclnnAmax`); NaN where there is one.
///
/// * `x`: f32, f16, bf16, i32 or i64, any strides.
/// * `out`: dtype of x, the shape of x without `dims`, or with 1 in their place where `keep_dims`.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn amax(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    dims: &[i64],
    keep_dims: bool,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let args = [input(x), Arg::Ints(Some(dims)), Arg::Bool(keep_dims), output(out)];
    launch(sequence, &[OperatorId::Amax], &args, [x.0].into_iter(), [out.0].into_iter())?;
    Ok(())
}

/// `y = x / sqrt(mean(x^2) + eps) * gamma` over the last dimensions (`aclnnRmsNorm`).
///
/// * `x`: f32, f16 or bf16, `[.., N]`; `gamma`: a float, `[N]`.
/// * `y`: out, dtype and shape of x; `rstd`: out, f32, shape of x with 1 in the dimensions of gamma.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn rms_norm(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    gamma: &TensorView<'_>,
    eps: f64,
    y: &mut TensorViewMut<'_>,
    rstd: &mut TensorViewMut<'_>,
) -> Result<()> {
    if y.is_empty() {
        return Ok(());
    }
    let args = [input(x), input(gamma), Arg::Float(eps), output(y), output(rstd)];
    launch(sequence, &[OperatorId::RmsNorm], &args, [x.0, gamma.0].into_iter(), [y.0, rstd.0].into_iter())?;
    Ok(())
}

/// Outputs of [`add_rms_norm`].
pub struct AddRmsNormOutputs<'o, 'a> {
    /// The normalised sum, dtype and shape of x1.
    pub y: &'o mut TensorViewMut<'a>,
    /// The factor, f32, shape of x1 with 1 in the dimensions of gamma.
    pub rstd: &'o mut TensorViewMut<'a>,
    /// The sum, dtype and shape of x1.
    pub sum: &'o mut TensorViewMut<'a>,
}

/// [`rms_norm`] of `x1 + x2`, which is given back too (`aclnnAddRmsNorm`).
///
/// * `x1`, `x2`: f32, f16 or bf16, `[.., N]`; `gamma`: their dtype, `[N]`.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn add_rms_norm(
    sequence: &Sequence<'_>,
    x1: &TensorView<'_>,
    x2: &TensorView<'_>,
    gamma: &TensorView<'_>,
    eps: f64,
    outputs: AddRmsNormOutputs<'_, '_>,
) -> Result<()> {
    let AddRmsNormOutputs { y, rstd, sum } = outputs;
    if y.is_empty() {
        return Ok(());
    }
    let args = [input(x1), input(x2), input(gamma), Arg::Float(eps), output(y), output(rstd), output(sum)];
    let (reads, writes) = ([x1.0, x2.0, gamma.0].into_iter(), [y.0, rstd.0, sum.0].into_iter());
    launch(sequence, &[OperatorId::AddRmsNorm], &args, reads, writes)?;
    Ok(())
}
