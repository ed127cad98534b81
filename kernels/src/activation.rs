//! Activations between the two GEMMs of an expert.
//!
//! The exponential function is our own, at most 1 unit in the last place off, that of [`mod@crate::reference`] the standard
//! library's: the two differ by a few units in the last place of f32 before the rounding to the type. An element depends on its
//! operands alone.

use rayon::prelude::*;

use crate::element::{Float, FloatType};
use crate::error::{self, KernelError};
use crate::gated::{Gate, gated};
use crate::isa::Isa;

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
    let kind = if T::TYPE == FloatType::F32 { Gate::Multiply } else { Gate::Divide };
    let isa = Isa::current();
    out.par_chunks_mut(half).zip(x.par_chunks(2 * half)).with_min_len(TASK.div_ceil(half)).for_each(|(out, x)| {
        let (gate, up) = x.split_at(half);
        out.par_chunks_mut(TASK).zip(gate.par_chunks(TASK)).zip(up.par_chunks(TASK)).for_each(|((out, gate), up)| {
            let pieces = gate.chunks(PIECE).zip(up.chunks(PIECE));
            out.chunks_mut(PIECE).zip(pieces).for_each(|(out, (gate, up))| {
                let mut wide = [[0.0; PIECE]; 2];
                T::widen(gate, &mut wide[0]);
                T::widen(up, &mut wide[1]);
                activate(isa, kind, &wide, out);
            });
        });
    });
    Ok(())
}

/// Elements that are held in f32 at a time.
const PIECE: usize = 256;

/// `out` of as many gates and up projections.
fn activate<T: Float>(isa: Isa, kind: Gate, [gate, up]: &[[f32; PIECE]; 2], out: &mut [T]) {
    let mut wide = [0.0; PIECE];
    gated(isa, kind, &gate[..out.len()], up, &mut wide);
    T::narrow(&wide, out);
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

impl Clipped {
    pub(crate) fn gate(self) -> Gate {
        let Self { alpha, limit, bias, .. } = self;
        Gate::Clipped { alpha, limit, bias }
    }
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
    let (isa, kind) = (Isa::current(), clipped.gate());
    out.par_chunks_mut(half).zip(x.par_chunks(2 * half)).take(rows).for_each(|(out, x)| {
        for (piece, out) in out.chunks_mut(PIECE).enumerate() {
            let mut wide = [[0.0; PIECE]; 2];
            let start = piece * PIECE;
            if clipped.interleaved {
                let mut pairs = [0.0; 2 * PIECE];
                T::widen(&x[2 * start..][..2 * out.len()], &mut pairs);
                for (i, [gate, up]) in pairs.as_chunks().0.iter().enumerate() {
                    (wide[0][i], wide[1][i]) = (*gate, *up);
                }
            } else {
                T::widen(&x[start..][..out.len()], &mut wide[0]);
                T::widen(&x[half + start..][..out.len()], &mut wide[1]);
            }
            activate(isa, kind, &wide, out);
        }
    });
    Ok(())
}
