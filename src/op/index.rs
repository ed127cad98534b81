//! Elements and slices by index; tensors joined and reordered. An index below 0 counts from the end; the device does not check
//! indices, the simulator reports one that is out of range.

use ascend_sys::OperatorId;
use ascend_sys::ops::Arg;

use super::launch::{MAX_LIST, input, launch, output};
use crate::error::{Error, Result};
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// `out[.., i, ..] = x[.., index[.., i, ..], ..]` along a dimension (`aclnnGather`).
///
/// * `x`: f32, f16, bf16, i32, i64 or bool, any strides. * `index`: i32 or i64, no larger than x in other dimensions.
/// * `out`: dtype of x, shape of index.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn gather(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    dim: i64,
    index: &TensorView<'_>,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    indexed(sequence, &[OperatorId::Gather], x, dim, index, out)
}

/// Whole slices along a dimension: `out[.., i, ..] = x[.., index[i], ..]` (`aclnnIndexSelect`).
///
/// * `x`: f32, f16, bf16, i32, i64 or bool, any strides. * `index`: i32 or i64, `[n]`.
/// * `out`: dtype of x, shape of x with n in dimension `dim`.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn index_select(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    dim: i64,
    index: &TensorView<'_>,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    indexed(sequence, &[OperatorId::IndexSelect], x, dim, index, out)
}

/// Whole slices along a dimension by an index of any shape, which takes the dimension's place (`aclnnGatherV2`).
///
/// * `x`: f32, f16, bf16, i32, i64 or bool, any strides. * `index`: i32 or i64, `[..]`.
/// * `out`: dtype of x, shape of x with that of index in place of dimension `dim`.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn gather_v2(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    dim: i64,
    index: &TensorView<'_>,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    indexed(sequence, &[OperatorId::GatherV2], x, dim, index, out)
}

fn indexed(
    sequence: &Sequence<'_>,
    operator: &'static [OperatorId],
    x: &TensorView<'_>,
    dim: i64,
    index: &TensorView<'_>,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let args = [input(x), Arg::Int(dim), input(index), output(out)];
    launch(sequence, operator, &args, [x.0, index.0].into_iter(), [out.0].into_iter())?;
    Ok(())
}

/// Rows of a matrix by an index of any shape (`aclnnEmbedding`).
///
/// * `weight`: f32, f16, bf16, i32, i64 or bool, `[V, N]`. * `indices`: i32 or i64, `[..]`, each in `0..V`: one beyond
///   gives anything, a negative one is an error of the device (ops-nn, index/embedding, docs). The simulator reports both.
/// * `out`: dtype of weight, `[.., N]`.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn embedding(
    sequence: &Sequence<'_>,
    weight: &TensorView<'_>,
    indices: &TensorView<'_>,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let args = [input(weight), input(indices), output(out)];
    launch(sequence, &[OperatorId::Embedding], &args, [weight.0, indices.0].into_iter(), [out.0].into_iter())?;
    Ok(())
}

/// What [`scatter`] does with a value that meets another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum ScatterReduce {
    /// It takes its place. Which of several stays on a device is not known; the last does on the simulator.
    Replace = 0,
    /// It is added.
    Add = 1,
    /// It is multiplied.
    Multiply = 2,
}

/// `out = x`, then `out[.., index[.., i, ..], ..] = src[.., i, ..]` along a dimension (`aclnnScatter`).
///
/// * `x`, `src`: f32, f16, bf16, i32, i64 or bool, any strides. * `index`: i32 or i64, no larger than src, and than x in other
///   dimensions. * `out`: dtype and shape of x.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn scatter(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    dim: i64,
    index: &TensorView<'_>,
    src: &TensorView<'_>,
    reduce: ScatterReduce,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let args = [input(x), Arg::Int(dim), input(index), input(src), Arg::Int(reduce as i64), output(out)];
    let reads = [x.0, index.0, src.0].into_iter();
    launch(sequence, &[OperatorId::Scatter], &args, reads, [out.0].into_iter())?;
    Ok(())
}

/// Tensors one behind the other along a dimension (`aclnnCat`).
///
/// * `tensors`: at most 128, f32, f16, bf16, i32, i64 or bool, of one dtype, one shape but in dimension `dim`.
/// * `out`: their dtype and shape with the sum of their sizes in dimension `dim`.
///
/// # Errors
/// [`Error::Shape`] for more than 128 tensors, [`Error::Rule`] and those common to all operators, see
/// [`cast`](super::cast).
pub fn cat(sequence: &Sequence<'_>, tensors: &[TensorView<'_>], dim: i64, out: &mut TensorViewMut<'_>) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let mut list = [None; MAX_LIST];
    let Some(list) = list.get_mut(..tensors.len()) else {
        return Err(Error::shape("tensors", tensors.len(), format_args!("at most {MAX_LIST}")));
    };
    list.iter_mut().zip(tensors).for_each(|(slot, tensor)| *slot = Some(tensor.0.desc));
    let args = [Arg::Tensors(Some(list)), Arg::Int(dim), output(out)];
    launch(sequence, &[OperatorId::Cat], &args, tensors.iter().map(|tensor| tensor.0), [out.0].into_iter())?;
    Ok(())
}

/// Dimensions in another order (`aclnnPermute`): dimension i of out is dimension `dims[i]` of x.
///
/// * `x`: f32, f16, bf16, i32, i64 or bool, any strides. * `out`: dtype of x.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn permute(sequence: &Sequence<'_>, x: &TensorView<'_>, dims: &[i64], out: &mut TensorViewMut<'_>) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let args = [input(x), Arg::Ints(Some(dims)), output(out)];
    launch(sequence, &[OperatorId::Permute], &args, [x.0].into_iter(), [out.0].into_iter())?;
    Ok(())
}
