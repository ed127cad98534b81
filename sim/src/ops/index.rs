//! Gather, scatter, selection of slices, joining and reordering.

use ascend_sys::aclDataType;
use ascend_sys::ops::TensorDesc;
use moe_kernels::KernelError;
use moe_kernels::elementwise::map;
use moe_kernels::index::{self, Scatter};
use moe_kernels::lanes::Lanes;
use moe_kernels::view::{NdView, NdViewMut};

use super::OpError;
use super::elementwise::with_number;
use super::lanes::{axis, dense, write_dense};
use super::view::{Device, overlap, sizes};
use crate::executor::Args;

type Ran = Result<(), OpError>;

/// Indices, in 64 bits.
fn indices(device: &Device<'_>, name: &'static str, tensor: &TensorDesc) -> Result<Vec<i64>, OpError> {
    Ok(match tensor.dtype {
        aclDataType::INT32 => dense::<i32>(device, name, tensor, true)?.iter().map(|&index| i64::from(index)).collect(),
        _ => dense::<i64>(device, name, tensor, true)?.into_owned(),
    })
}

pub(super) fn gather(args: &Args, device: &Device<'_>) -> Ran {
    let x = args.tensor("self").ok_or(OpError::Null("self"))?;
    let index = args.tensor("index").ok_or(OpError::Null("index"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    let places = indices(device, "index", index)?;
    let (x_shape, shape) = (sizes(x).0, sizes(index).0);
    with_number!(x.dtype, T => {
        let source = dense::<T>(device, "self", x, overlap(x, out))?;
        let axis = axis(args.int("dim"), x);
        write_dense::<T>(device, "out", out, |out| Ok(index::gather(&source, &x_shape, axis, &places, &shape, out)?))
    })
}

pub(super) fn scatter(args: &Args, device: &Device<'_>) -> Ran {
    let x = args.tensor("self").ok_or(OpError::Null("self"))?;
    let index = args.tensor("index").ok_or(OpError::Null("index"))?;
    let src = args.tensor("src").ok_or(OpError::Null("src"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    let mode = match args.int("reduce") {
        1 => Scatter::Add,
        2 => Scatter::Multiply,
        _ => Scatter::Replace,
    };
    let places = indices(device, "index", index)?;
    let (x_shape, shape, src_shape) = (sizes(x).0, sizes(index).0, sizes(src).0);
    with_number!(x.dtype, T => {
        let source = dense::<T>(device, "src", src, true)?;
        let mut target = dense::<T>(device, "self", x, true)?.into_owned();
        let axis = axis(args.int("dim"), x);
        index::scatter(mode, (&mut target, &x_shape), axis, (&places, &shape), (&source, &src_shape))?;
        write_dense::<T>(device, "out", out, |out| { out.copy_from_slice(&target); Ok(()) })
    })
}

/// Whole slices of a tensor along an axis. Negative indices count from the end where `wraps`.
fn slices(
    args: &Args,
    device: &Device<'_>,
    (x_name, axis): (&'static str, usize),
    index_name: &'static str,
    wraps: bool,
) -> Ran {
    let x = args.tensor(x_name).ok_or(OpError::Null(x_name))?;
    let index = args.tensor(index_name).ok_or(OpError::Null(index_name))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    let places = indices(device, index_name, index)?;
    let lanes = Lanes::new(&sizes(x).0, axis)?;
    if let Some((position, &index)) = places.iter().enumerate().find(|(_, index)| **index < 0 && !wraps) {
        return Err(KernelError::Index { position, index, size: lanes.size }.into());
    }
    with_number!(x.dtype, T => {
        let source = dense::<T>(device, x_name, x, overlap(x, out))?;
        write_dense::<T>(device, "out", out, |out| Ok(index::select(&source, lanes, &places, out)?))
    })
}

pub(super) fn index_select(args: &Args, device: &Device<'_>) -> Ran {
    let x = args.tensor("self").ok_or(OpError::Null("self"))?;
    slices(args, device, ("self", axis(args.int("dim"), x)), "index", true)
}

pub(super) fn embedding(args: &Args, device: &Device<'_>) -> Ran {
    slices(args, device, ("weight", 0), "indices", false)
}

pub(super) fn cat(args: &Args, device: &Device<'_>) -> Ran {
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    let axis = axis(args.int("dim"), out);
    let lanes = Lanes::new(&sizes(out).0, axis)?;
    with_number!(out.dtype, T => write_dense::<T>(device, "out", out, |joined| {
        let mut before = 0;
        for tensor in args.tensors("tensors").iter().flatten() {
            let part = dense::<T>(device, "tensors", tensor, true)?;
            let run = sizes(tensor).0.get(axis).copied().unwrap_or(1) * lanes.inner;
            let rows = joined.chunks_mut((lanes.size * lanes.inner).max(1)).zip(part.chunks(run.max(1)));
            rows.for_each(|(to, from)| to[before..before + from.len()].copy_from_slice(from));
            before += run;
        }
        Ok(())
    }))
}

pub(super) fn permute(args: &Args, device: &Device<'_>) -> Ran {
    let x = args.tensor("self").ok_or(OpError::Null("self"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    let (shape, _) = sizes(x);
    let order: Vec<usize> = args.ints("dims").unwrap_or_default().iter().map(|&dim| axis(dim, x)).collect();
    with_number!(x.dtype, T => {
        let source = dense::<T>(device, "self", x, true)?;
        let packed = NdView::contiguous(&source, &shape)?;
        let pick = |of: &[usize]| order.iter().filter_map(|&index| of.get(index).copied()).collect::<Vec<_>>();
        let moved = NdView::new(&source, &pick(&shape), &pick(packed.strides()))?;
        write_dense::<T>(device, "out", out, |out| {
            Ok(map(&moved, &mut NdViewMut::contiguous(out, &pick(&shape))?, |x| x)?)
        })
    })
}
