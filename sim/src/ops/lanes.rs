//! Softmax, selection and sorting, sums, maxima and norms: contiguous copies along one axis, as CANN's wrappers make them.

use std::borrow::Cow;

use ascend_sys::ops::TensorDesc;
use bytemuck::{Pod, Zeroable as _};
use moe_kernels::elementwise::{Number, map};
use moe_kernels::lanes::{Lanes, Reduction};
use moe_kernels::view::{NdView, NdViewMut};

use super::OpError;
use super::elementwise::{Operand, result, with_number};
use super::view::{Device, sizes, with_float};
use crate::executor::Args;

type Ran = Result<(), OpError>;

/// The elements of an input in row-major order: where they lie, or copied where they are strided or an output shares their
/// memory.
pub(super) fn dense<'a, T: Pod + Send + Sync>(
    device: &Device<'a>,
    name: &'static str,
    tensor: &TensorDesc,
    shared: bool,
) -> Result<Cow<'a, [T]>, OpError> {
    let (shape, _) = sizes(tensor);
    let count = shape.iter().product();
    if tensor.is_contiguous() && !shared {
        return Ok(Cow::Borrowed(device.read::<T>(name, tensor)?.get(..count).unwrap_or_default()));
    }
    let mut copy = vec![T::zeroed(); count];
    map(&device.nd::<T>(name, tensor)?, &mut NdViewMut::contiguous(&mut copy, &shape)?, |x| x)?;
    Ok(Cow::Owned(copy))
}

/// Computes an output in row-major order, through a buffer where it is strided.
pub(super) fn write_dense<T: Pod + Send + Sync>(
    device: &Device<'_>,
    name: &'static str,
    tensor: &TensorDesc,
    compute: impl FnOnce(&mut [T]) -> Ran,
) -> Ran {
    let (shape, _) = sizes(tensor);
    let count = shape.iter().product();
    if tensor.is_contiguous() {
        return compute(device.write::<T>(name, tensor)?.get_mut(..count).unwrap_or_default());
    }
    let mut buffer = vec![T::zeroed(); count];
    compute(&mut buffer)?;
    Ok(map(&NdView::contiguous(&buffer, &shape)?, &mut device.nd_mut::<T>(name, tensor)?, |x| x)?)
}

/// A dimension counted from the front, within the rank of a tensor; the row has checked it.
pub(super) fn axis(dim: i64, tensor: &TensorDesc) -> usize {
    usize::try_from(if dim < 0 { dim + tensor.rank().max(1) as i64 } else { dim }).unwrap_or(usize::MAX)
}

fn lanes(args: &Args, tensor: &TensorDesc) -> Result<Lanes, OpError> {
    Ok(Lanes::new(&sizes(tensor).0, axis(args.int("dim"), tensor))?)
}

pub(super) fn softmax(args: &Args, device: &Device<'_>) -> Ran {
    let x = args.tensor("self").ok_or(OpError::Null("self"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    let lanes = lanes(args, x)?;
    with_float!(x.dtype, T => {
        let source = dense::<T>(device, "self", x, super::view::overlap(x, out))?;
        let mut values = vec![T::default(); source.len()];
        moe_kernels::lanes::softmax(&source, lanes, &mut values)?;
        let (shape, _) = sizes(x);
        result::<T>(device, out, |view| Ok(map(&NdView::contiguous(&values, &shape)?, view, |x| x)?))
    })
}

/// The first of each lane in order, with their indices.
fn ordered(args: &Args, device: &Device<'_>, k: Option<i64>, descending: bool) -> Ran {
    let x = args.tensor("self").ok_or(OpError::Null("self"))?;
    let lanes = lanes(args, x)?;
    let k = k.map_or(lanes.size, |k| usize::try_from(k).unwrap_or(0));
    let count = lanes.outer * k * lanes.inner;
    with_number!(x.dtype, T => {
        let source = dense::<T>(device, "self", x, false)?;
        let (mut values, mut indices) = (vec![T::zeroed(); count], vec![0i64; count]);
        moe_kernels::lanes::first_in_order(&source, lanes, k, descending, &mut values, &mut indices)?;
        if let Some(out) = args.tensor("valuesOut") {
            write_dense::<T>(device, "valuesOut", out, |out| { out.copy_from_slice(&values); Ok(()) })?;
        }
        let (name, out) = match args.tensor("indicesOut") {
            Some(out) => ("indicesOut", out),
            None => ("out", args.tensor("out").ok_or(OpError::Null("out"))?),
        };
        write_dense::<i64>(device, name, out, |out| { out.copy_from_slice(&indices); Ok(()) })
    })
}

pub(super) fn top_k(args: &Args, device: &Device<'_>) -> Ran {
    ordered(args, device, Some(args.int("k")), args.bool("largest"))
}

pub(super) fn sort(args: &Args, device: &Device<'_>) -> Ran {
    ordered(args, device, None, args.bool("descending"))
}

pub(super) fn cumsum(args: &Args, device: &Device<'_>) -> Ran {
    let x = args.tensor("self").ok_or(OpError::Null("self"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    let lanes = lanes(args, x)?;
    with_number!(out.dtype, T => {
        let operand = cast::<T>(device, x, out)?;
        write_dense::<T>(device, "out", out, |out| Ok(moe_kernels::lanes::cumsum(&operand, lanes, out)?))
    })
}

/// `self` in the dtype of the computation, row-major.
fn cast<T: Number>(device: &Device<'_>, x: &TensorDesc, out: &TensorDesc) -> Result<Vec<T>, OpError> {
    let operand = Operand::<T>::load(device, "self", x, out)?;
    let (shape, _) = sizes(x);
    let mut values = vec![T::zeroed(); shape.iter().product()];
    map(&operand.view()?, &mut NdViewMut::contiguous(&mut values, &shape)?, |x| x)?;
    Ok(values)
}

/// Reduces the dimensions named by `dims` (all where there are none), in the dtype of out.
fn reduced(args: &Args, device: &Device<'_>, dims: &'static str, reduction: Reduction) -> Ran {
    let x = args.tensor("self").ok_or(OpError::Null("self"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    let (shape, _) = sizes(x);
    let named: Vec<usize> = args.ints(dims).unwrap_or_default().iter().map(|&dim| axis(dim, x)).collect();
    let gone = |index: &usize| named.is_empty() || named.contains(index);
    // The dimensions that stay, then those that go.
    let (stay, go): (Vec<usize>, Vec<usize>) = (0..shape.len()).partition(|index| !gone(index));
    let size = |axes: &[usize]| axes.iter().map(|&index| shape[index]).product();
    let lanes = Lanes { outer: size(&stay), size: size(&go), inner: 1 };
    with_number!(out.dtype, T => {
        let values = cast::<T>(device, x, out)?;
        let packed = NdView::contiguous(&values, &shape)?;
        let order: Vec<usize> = stay.iter().chain(&go).copied().collect();
        let pick = |of: &[usize]| order.iter().map(|&index| of[index]).collect::<Vec<_>>();
        let moved = NdView::new(&values, &pick(&shape), &pick(packed.strides()))?;
        let mut sorted = vec![T::zeroed(); values.len()];
        map(&moved, &mut NdViewMut::contiguous(&mut sorted, &pick(&shape))?, |x| x)?;
        write_dense::<T>(device, "out", out, |out| Ok(moe_kernels::lanes::reduce(reduction, &sorted, lanes, out)?))
    })
}

pub(super) fn reduce_sum(args: &Args, device: &Device<'_>) -> Ran {
    reduced(args, device, "dims", Reduction::Sum)
}

pub(super) fn amax(args: &Args, device: &Device<'_>) -> Ran {
    reduced(args, device, "dim", Reduction::Max)
}

pub(super) fn rms_norm(args: &Args, device: &Device<'_>) -> Ran {
    let x = args.tensor("x").ok_or(OpError::Null("x"))?;
    with_float!(x.dtype, T => {
        let values = dense::<T>(device, "x", x, true)?;
        norm::<T>(args, device, &values)
    })
}

pub(super) fn add_rms_norm(args: &Args, device: &Device<'_>) -> Ran {
    let x1 = args.tensor("x1").ok_or(OpError::Null("x1"))?;
    let x2 = args.tensor("x2").ok_or(OpError::Null("x2"))?;
    let sum = args.tensor("xOut").ok_or(OpError::Null("xOut"))?;
    with_float!(x1.dtype, T => {
        let (a, b) = (dense::<T>(device, "x1", x1, true)?, dense::<T>(device, "x2", x2, true)?);
        let added: Vec<T> = a.iter().zip(b.iter()).map(|(a, b)| a.add_scaled(*b, 1.0)).collect();
        write_dense::<T>(device, "xOut", sum, |out| { out.copy_from_slice(&added); Ok(()) })?;
        norm::<T>(args, device, &added)
    })
}

/// Normalises rows as long as gamma.
fn norm<T: moe_kernels::element::Float>(args: &Args, device: &Device<'_>, x: &[T]) -> Ran {
    let gamma = args.tensor("gamma").ok_or(OpError::Null("gamma"))?;
    let y = args.tensor("yOut").ok_or(OpError::Null("yOut"))?;
    let rstd = args.tensor("rstdOut").ok_or(OpError::Null("rstdOut"))?;
    let eps = args.float("epsilon");
    with_float!(gamma.dtype, G => {
        let gamma = dense::<G>(device, "gamma", gamma, true)?;
        let mut factors = vec![0f32; x.len() / gamma.len().max(1)];
        write_dense::<T>(device, "yOut", y, |y| Ok(moe_kernels::lanes::rms_norm(x, &gamma, eps, y, &mut factors)?))?;
        write_dense::<f32>(device, "rstdOut", rstd, |out| { out.copy_from_slice(&factors); Ok(()) })
    })
}
