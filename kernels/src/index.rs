//! Elements and slices of contiguous arrays by index. An index below 0 counts from the end.

use rayon::prelude::*;

use crate::elementwise::Number;
use crate::error::{self, KernelError};
use crate::lanes::Lanes;

/// What happens to a value that is scattered onto another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scatter {
    /// It takes its place; the last of several stays.
    Replace,
    /// It is added.
    Add,
    /// It is multiplied.
    Multiply,
}

/// The place that index number `position` names.
fn place(position: usize, index: i64, size: usize) -> Result<usize, KernelError> {
    let wrapped = if index < 0 { index.checked_add_unsigned(size as u64) } else { Some(index) };
    wrapped.and_then(|index| usize::try_from(index).ok()).filter(|&index| index < size).ok_or(KernelError::Index {
        position,
        index,
        size,
    })
}

/// Coordinates of element `at` of an array, written into `coordinates`.
fn unravel(mut at: usize, shape: &[usize], coordinates: &mut [usize]) {
    for (axis, coordinate) in coordinates.iter_mut().enumerate().rev() {
        *coordinate = at % shape[axis];
        at /= shape[axis];
    }
}

/// Where element `at` of an array of shape `from` lies in one of shape `to`, with `index` in place of its coordinate on `axis`.
fn moved(at: usize, from: &[usize], to: &[usize], axis: usize, index: usize) -> usize {
    let mut coordinates = [0; crate::view::MAX_RANK];
    let coordinates = &mut coordinates[..from.len()];
    unravel(at, from, coordinates);
    if let Some(coordinate) = coordinates.get_mut(axis) {
        *coordinate = index;
    }
    coordinates.iter().zip(to).fold(0, |at, (coordinate, size)| at * size + coordinate)
}

/// `out[.., i, ..] = x[.., index[.., i, ..], ..]` along an axis.
///
/// - `x` host `T [x_shape]`; `index` host i64 `[shape]`, no larger than x on other axes; `out` host `T [shape]`.
///
/// # Errors
/// [`KernelError::Index`] for an index outside the axis, [`KernelError::Length`], [`KernelError::Range`].
pub fn gather<T: Copy + Send + Sync>(
    x: &[T],
    x_shape: &[usize],
    axis: usize,
    index: &[i64],
    shape: &[usize],
    out: &mut [T],
) -> Result<(), KernelError> {
    check(x, x_shape, axis, index, shape)?;
    error::length("out", index.len(), out.len())?;
    let size = x_shape.get(axis).copied().unwrap_or(1);
    out.par_iter_mut().zip(index).enumerate().with_min_len(4096).try_for_each(|(at, (out, &index))| {
        *out = x[moved(at, shape, x_shape, axis, place(at, index, size)?)];
        Ok(())
    })
}

/// `out[.., index[.., i, ..], ..] = src[.., i, ..]` along an axis, one after the other.
///
/// - `out` host `T [out_shape]`; `index` host i64 `[shape]`; `src` host `T [src_shape]`, no smaller than index.
///
/// # Errors
/// As [`gather`].
pub fn scatter<T: Number>(
    scatter: Scatter,
    (out, out_shape): (&mut [T], &[usize]),
    axis: usize,
    (index, shape): (&[i64], &[usize]),
    (src, src_shape): (&[T], &[usize]),
) -> Result<(), KernelError>
where
    T::Scalar: From<i8>,
{
    check(out, out_shape, axis, index, shape)?;
    error::length("src", error::product("src", src_shape)?, src.len())?;
    let size = out_shape.get(axis).copied().unwrap_or(1);
    for (at, &index) in index.iter().enumerate() {
        let target = moved(at, shape, out_shape, axis, place(at, index, size)?);
        let source = moved(at, shape, src_shape, usize::MAX, 0);
        let (Some(target), Some(&value)) = (out.get_mut(target), src.get(source)) else { continue };
        *target = match scatter {
            Scatter::Replace => value,
            Scatter::Add => target.add_scaled(value, T::Scalar::from(1)),
            Scatter::Multiply => target.multiply(value),
        };
    }
    Ok(())
}

fn check<T>(x: &[T], x_shape: &[usize], axis: usize, index: &[i64], shape: &[usize]) -> Result<(), KernelError> {
    error::length("x", error::product("x", x_shape)?, x.len())?;
    error::length("index", error::product("index", shape)?, index.len())?;
    error::range("rank", shape.len(), 0, crate::view::MAX_RANK)?;
    error::dim("axes of index", x_shape.len(), shape.len())?;
    for (i, (&size, &limit)) in shape.iter().zip(x_shape).enumerate() {
        if i != axis && !index.is_empty() {
            error::range("size of index", size, 0, limit)?;
        }
    }
    Ok(())
}

/// Whole slices along an axis: `out[o, i, ..] = x[o, index[i], ..]`.
///
/// - `x` host `T [outer, size, inner]`; `index` host i64 `[n]`; `out` host `T [outer, n, inner]`.
///
/// # Errors
/// As [`gather`].
pub fn select<T: Copy + Send + Sync>(x: &[T], lanes: Lanes, index: &[i64], out: &mut [T]) -> Result<(), KernelError> {
    let Lanes { outer, size, inner } = lanes;
    error::length("x", error::product("x", &[outer, size, inner])?, x.len())?;
    error::length("out", error::product("out", &[outer, index.len(), inner])?, out.len())?;
    if out.is_empty() {
        return Ok(());
    }
    out.par_chunks_mut(inner).enumerate().try_for_each(|(slice, out)| {
        let (o, i) = (slice / index.len(), slice % index.len());
        let from = (o * size + place(i, index[i], size)?) * inner;
        out.copy_from_slice(&x[from..from + inner]);
        Ok(())
    })
}
