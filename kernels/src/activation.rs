//! Activations between the two GEMMs of an expert.

use rayon::prelude::*;

use crate::element::Float;
use crate::error::{self, KernelError};

/// SwiGLU over the halves of one axis, in parallel: the first half is the gate, the second the up projection.
///
/// The arithmetic is f32 with one rounding at the end, in the order of the kernel: for 16-bit types `gate / (1 + exp(-gate)) * up`,
/// for f32 `1 / (1 + exp(-gate)) * gate * up` (1 ulp apart). A gate of minus infinity gives NaN.
///
/// - `x` host `T [shape]`, contiguous; `shape[axis]` is even.
/// - `out` host `T`, contiguous, of that shape with half the size on `axis`.
///
/// Source: ops-nn 9.1.0, aclnnSwiGlu.
///
/// # Errors
/// [`KernelError::Range`] when there is no such axis, [`KernelError::NotMultiple`] when its size is odd, [`KernelError::Length`]
/// when a slice does not fit the shape.
pub fn swiglu<T: Float>(x: &[T], shape: &[usize], axis: usize, out: &mut [T]) -> Result<(), KernelError> {
    if shape.is_empty() {
        return Err(KernelError::Range { what: "axis", value: axis, min: 1, max: 0 });
    }
    error::range("axis", axis, 0, shape.len() - 1)?;
    let size = error::product("shape", shape)?;
    error::length("x", size, x.len())?;
    error::divide("size of the halved axis", shape[axis], 2)?;
    error::length("out", size / 2, out.len())?;
    if size == 0 {
        return Ok(());
    }
    const TASK: usize = 4096;
    let half = shape[axis..].iter().product::<usize>() / 2;
    out.par_chunks_mut(half).zip(x.par_chunks(2 * half)).with_min_len(TASK.div_ceil(half)).for_each(|(out, x)| {
        let (gate, up) = x.split_at(half);
        out.par_chunks_mut(TASK).zip(gate.par_chunks(TASK)).zip(up.par_chunks(TASK)).for_each(|((out, gate), up)| {
            for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                *out = T::from_f32(swiglu_one::<T>(gate.to_f32(), up.to_f32()));
            }
        });
    });
    Ok(())
}

/// Parameters of [`clipped_swiglu`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clipped {
    /// Factor within the logistic function.
    pub alpha: f32,
    /// Upper limit of the gate, limit of the up projection on both sides.
    pub limit: f32,
    /// Added to the up projection.
    pub bias: f32,
    /// Whether gate and up are the even and odd places of the halved axis, not its halves.
    pub interleaved: bool,
}

/// SwiGLU with limits, in parallel: `min(g, limit) * sigmoid(alpha * min(g, limit)) * (clamp(u, -limit, limit) + bias)`, in f32 and
/// rounded once. NaN stays.
///
/// - `x` host `T [rows, 2n]`, `out` host `T [rows, n]`, both contiguous: the halved axis and those behind it are one of `2n`.
/// - `rows`: how many are computed; those behind are not written.
///
/// Source: ops-nn, aclnnClippedSwiglu.
///
/// # Errors
/// [`KernelError::Length`].
pub fn clipped_swiglu<T: Float>(
    x: &[T],
    half: usize,
    rows: usize,
    clipped: Clipped,
    out: &mut [T],
) -> Result<(), KernelError> {
    error::length("out", x.len() / 2, out.len())?;
    if half == 0 {
        return Ok(());
    }
    out.par_chunks_mut(half).zip(x.par_chunks(2 * half)).take(rows).for_each(|(out, x)| {
        for (i, out) in out.iter_mut().enumerate() {
            let (gate, up) = if clipped.interleaved { (x[2 * i], x[2 * i + 1]) } else { (x[i], x[half + i]) };
            *out = T::from_f32(clipped.one(gate.to_f32(), up.to_f32()));
        }
    });
    Ok(())
}

impl Clipped {
    #[inline]
    pub(crate) fn one(self, gate: f32, up: f32) -> f32 {
        let gate = if gate > self.limit { self.limit } else { gate };
        let up = if up > self.limit {
            self.limit
        } else if up < -self.limit {
            -self.limit
        } else {
            up
        };
        gate / (1.0 + (-self.alpha * gate).exp()) * (up + self.bias)
    }
}

/// One element of SwiGLU, as the kernel for `T` orders it.
#[inline]
pub(crate) fn swiglu_one<T: Float>(gate: f32, up: f32) -> f32 {
    let denominator = 1.0 + (-gate).exp();
    if T::BYTES == 4 { 1.0 / denominator * gate * up } else { gate / denominator * up }
}
