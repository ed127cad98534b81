//! Elementwise operators over strided views with broadcasting: add, multiply, scale, cast, and the maps they are made of.
//!
//! Operands have one type; CANN promotes mixed types before it computes, which is a [`cast`] here. What the operators round is
//! said at each implementation of [`Number`]. Source: ops-math (math/add, math/mul, math/cast, op_api), read for A3; the device
//! kernels behind it are not public, so how fp16 rounds inside them is not verified.

use half::{bf16, f16};
use rayon::prelude::*;

use crate::element::Float;
use crate::error::KernelError;
use crate::view::{MAX_RANK, NdView, NdViewMut, broadcast_shape};

/// A value on its way from one type to another.
#[derive(Debug, Clone, Copy)]
pub enum Wide {
    /// From a floating point type, exactly.
    Float(f32),
    /// From an integer type, exactly.
    Int(i64),
}

/// An element type of the elementwise operators: `f32`, [`bf16`], [`struct@f16`], `i32` or `i64`.
pub trait Number: bytemuck::Pod + Send + Sync + PartialEq + std::fmt::Debug {
    /// The type of a scalar operand: f32 beside floating point types, the type itself beside integers.
    type Scalar: Copy + Send + Sync;

    /// `self + alpha * other`.
    fn add_scaled(self, other: Self, alpha: Self::Scalar) -> Self;

    /// `self * other`.
    fn multiply(self, other: Self) -> Self;

    /// `self * scalar`.
    fn scale(self, scalar: Self::Scalar) -> Self;

    /// The value, exactly.
    fn widen(self) -> Wide;

    /// The value in this type.
    ///
    /// Integer to integer and floating point to integer saturate; the latter truncates toward zero, NaN becomes 0. Integer to
    /// floating point rounds to f32, then to the type. CANN documents NaN to 0 (ops-math, aclnnCast) and its vector unit
    /// saturates by default; that i64 to i32 saturates rather than wraps, and the double rounding of i64 to fp16 or bf16, are not
    /// verified.
    fn from_wide(value: Wide) -> Self;
}

/// f32: the product, then the sum, each rounded to f32.
impl Number for f32 {
    type Scalar = f32;

    #[inline]
    fn add_scaled(self, other: Self, alpha: f32) -> Self {
        self + alpha * other
    }

    #[inline]
    fn multiply(self, other: Self) -> Self {
        self * other
    }

    #[inline]
    fn scale(self, scalar: f32) -> Self {
        self * scalar
    }

    #[inline]
    fn widen(self) -> Wide {
        Wide::Float(self)
    }

    #[inline]
    fn from_wide(value: Wide) -> Self {
        match value {
            Wide::Float(value) => value,
            Wide::Int(value) => value as f32,
        }
    }
}

/// bf16: a sum or product is computed in f32 and rounded once. `alpha` is not 1: it is rounded to bf16 and `alpha * other` is too
/// before the sum, as aclnnAdd composes it on A3. A scalar factor stays f32, as in aclnnMuls.
impl Number for bf16 {
    type Scalar = f32;

    #[inline]
    fn add_scaled(self, other: Self, alpha: f32) -> Self {
        let alpha = <Self as Float>::from_f32(alpha);
        let scaled = other.multiply(alpha);
        <Self as Float>::from_f32(Float::to_f32(self) + Float::to_f32(scaled))
    }

    #[inline]
    fn multiply(self, other: Self) -> Self {
        <Self as Float>::from_f32(Float::to_f32(self) * Float::to_f32(other))
    }

    #[inline]
    fn scale(self, scalar: f32) -> Self {
        <Self as Float>::from_f32(Float::to_f32(self) * scalar)
    }

    #[inline]
    fn widen(self) -> Wide {
        Wide::Float(Float::to_f32(self))
    }

    #[inline]
    fn from_wide(value: Wide) -> Self {
        <Self as Float>::from_f32(f32::from_wide(value))
    }
}

/// fp16: a sum or product is computed in f32 and rounded once. With `alpha` the product and sum are f32 and the sum is rounded
/// once (aclnnAdd calls Axpy with an fp32 alpha; its inner rounding is not verified). A scalar factor is first rounded to fp16, as
/// in aclnnMuls.
impl Number for f16 {
    type Scalar = f32;

    #[inline]
    fn add_scaled(self, other: Self, alpha: f32) -> Self {
        <Self as Float>::from_f32(Float::to_f32(self) + alpha * Float::to_f32(other))
    }

    #[inline]
    fn multiply(self, other: Self) -> Self {
        <Self as Float>::from_f32(Float::to_f32(self) * Float::to_f32(other))
    }

    #[inline]
    fn scale(self, scalar: f32) -> Self {
        self.multiply(<Self as Float>::from_f32(scalar))
    }

    #[inline]
    fn widen(self) -> Wide {
        Wide::Float(Float::to_f32(self))
    }

    #[inline]
    fn from_wide(value: Wide) -> Self {
        <Self as Float>::from_f32(f32::from_wide(value))
    }
}

/// Integers wrap around on overflow (not verified for CANN).
macro_rules! integer {
    ($type:ty) => {
        impl Number for $type {
            type Scalar = $type;

            #[inline]
            fn add_scaled(self, other: Self, alpha: $type) -> Self {
                self.wrapping_add(alpha.wrapping_mul(other))
            }

            #[inline]
            fn multiply(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }

            #[inline]
            fn scale(self, scalar: $type) -> Self {
                self.wrapping_mul(scalar)
            }

            #[inline]
            fn widen(self) -> Wide {
                Wide::Int(i64::from(self))
            }

            #[inline]
            fn from_wide(value: Wide) -> Self {
                match value {
                    Wide::Float(value) => value as $type,
                    Wide::Int(value) => value.clamp(i64::from(<$type>::MIN), i64::from(<$type>::MAX)) as $type,
                }
            }
        }
    };
}

integer!(i32);
integer!(i64);

/// `out = a + alpha * b`, with broadcasting, in parallel. Rounding: see the implementations of [`Number`]; alpha 1 changes nothing.
///
/// - `a`, `b` host `T`, `out` host `T [broadcast shape of a and b]`.
///
/// # Errors
/// [`KernelError::Broadcast`], or [`KernelError::OutputShape`] when `out` does not have the broadcast shape.
pub fn add<T: Number>(
    a: &NdView<'_, T>,
    b: &NdView<'_, T>,
    alpha: T::Scalar,
    out: &mut NdViewMut<'_, T>,
) -> Result<(), KernelError> {
    map2(a, b, out, |a, b| a.add_scaled(b, alpha))
}

/// `out = a * b`, with broadcasting, in parallel. Rounding: see the implementations of [`Number`].
///
/// - `a`, `b` host `T`, `out` host `T [broadcast shape of a and b]`.
///
/// # Errors
/// As [`add`].
pub fn mul<T: Number>(a: &NdView<'_, T>, b: &NdView<'_, T>, out: &mut NdViewMut<'_, T>) -> Result<(), KernelError> {
    map2(a, b, out, T::multiply)
}

/// `out = a * scalar`, in parallel. Rounding: see the implementations of [`Number`].
///
/// - `a` host `T`, `out` host `T` of the same shape.
///
/// # Errors
/// [`KernelError::OutputShape`] when the shapes differ.
pub fn muls<T: Number>(a: &NdView<'_, T>, scalar: T::Scalar, out: &mut NdViewMut<'_, T>) -> Result<(), KernelError> {
    map(a, out, |a| a.scale(scalar))
}

/// `out = a` in another type, in parallel; also copies between strided views of one type. Rounding: see [`Number::from_wide`].
///
/// - `a` host `A`, `out` host `B` of the same shape.
///
/// # Errors
/// As [`muls`].
pub fn cast<A: Number, B: Number>(a: &NdView<'_, A>, out: &mut NdViewMut<'_, B>) -> Result<(), KernelError> {
    map(a, out, |a| B::from_wide(a.widen()))
}

/// `out = f(a)` for every element, in parallel.
///
/// - `a` host `A`, `out` host `O` of the same shape.
///
/// # Errors
/// As [`muls`].
pub fn map<A, O, F>(a: &NdView<'_, A>, out: &mut NdViewMut<'_, O>, f: F) -> Result<(), KernelError>
where
    A: Copy + Sync,
    O: Copy + Send,
    F: Fn(A) -> O + Sync,
{
    map2(a, &NdView::contiguous(&[()], &[])?, out, |a, ()| f(a))
}

/// `out = f(a, b)` for every element, with broadcasting, in parallel.
///
/// - `a` host `A`, `b` host `B`, `out` host `O [broadcast shape of a and b]`.
///
/// # Errors
/// As [`add`].
pub fn map2<A, B, O, F>(
    a: &NdView<'_, A>,
    b: &NdView<'_, B>,
    out: &mut NdViewMut<'_, O>,
    f: F,
) -> Result<(), KernelError>
where
    A: Copy + Sync,
    B: Copy + Sync,
    O: Copy + Send,
    F: Fn(A, B) -> O + Sync,
{
    const TASK: usize = 8 * 1024;
    let shape = broadcast_shape(a.shape(), b.shape())?;
    if shape != out.shape() {
        return Err(KernelError::OutputShape { expected: shape, actual: out.shape().to_vec() });
    }
    let (a, b) = (a.broadcast_to(&shape)?, b.broadcast_to(&shape)?);
    if shape.contains(&0) {
        return Ok(());
    }
    let axes = Axes::merged(&shape, [a.strides(), b.strides(), out.strides()]);
    let (inner, outer) = axes.split();
    let pieces = inner.size.div_ceil(TASK);
    let runs: usize = outer.iter().map(|axis| axis.size).product();
    let target = Target(out.data_mut().as_mut_ptr());
    (0..runs * pieces).into_par_iter().with_min_len(TASK.div_ceil(inner.size)).for_each(|task| {
        let mut run = task / pieces;
        let first = task % pieces * TASK;
        let mut at = inner.strides.map(|stride| first * stride);
        for axis in outer.iter().rev() {
            let index = run % axis.size;
            run /= axis.size;
            for (at, stride) in at.iter_mut().zip(axis.strides) {
                *at += index * stride;
            }
        }
        let count = TASK.min(inner.size - first);
        let [step_a, step_b, step_out] = inner.strides;
        let (a, b) = (&a.data()[at[0]..], &b.data()[at[1]..]);
        if let (1, 1) = (step_out, step_a) {
            // SAFETY: `out` was checked to reach these elements only within its slice; no other index, and so no other task,
            // reaches them, and the slice is borrowed exclusively until all tasks are done.
            let out = unsafe { std::slice::from_raw_parts_mut(target.at(at[2]), count) };
            match step_b {
                0 => out.iter_mut().zip(a).for_each(|(out, a)| *out = f(*a, b[0])),
                1 => out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = f(*a, *b)),
                _ => out.iter_mut().zip(a).zip(b.iter().step_by(step_b)).for_each(|((out, a), b)| *out = f(*a, *b)),
            }
        } else {
            for i in 0..count {
                let value = f(a[i * step_a], b[i * step_b]);
                // SAFETY: as above.
                unsafe { target.at(at[2] + i * step_out).write(value) }
            }
        }
    });
    Ok(())
}

/// The output's first element, shared by tasks that write disjoint elements.
struct Target<T>(*mut T);

// SAFETY: tasks only write through it, each its own elements (see `map2`), so sharing it moves values of `T` between threads.
unsafe impl<T: Send> Sync for Target<T> {}

impl<T> Target<T> {
    /// The address of an element.
    ///
    /// # Safety
    /// `offset` must lie within the output's slice.
    unsafe fn at(&self, offset: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

/// One axis of a loop over two inputs and an output.
#[derive(Debug, Clone, Copy)]
struct Axis {
    size: usize,
    strides: [usize; 3],
}

/// The axes of a loop, outermost first, as few as possible.
struct Axes {
    axes: [Axis; MAX_RANK],
    len: usize,
}

impl Axes {
    /// Drops axes of size 1 and joins neighbours that all three arrays run through without a jump.
    fn merged(shape: &[usize], strides: [&[usize]; 3]) -> Self {
        let mut all = Self { axes: [Axis { size: 1, strides: [0; 3] }; MAX_RANK], len: 0 };
        for (i, &size) in shape.iter().enumerate().filter(|(_, size)| **size != 1) {
            let axis = Axis { size, strides: strides.map(|strides| strides[i]) };
            match all.axes[..all.len].last_mut() {
                Some(last) if (0..3).all(|t| last.strides[t] == size * axis.strides[t]) => {
                    *last = Axis { size: last.size * size, ..axis };
                }
                _ => {
                    all.axes[all.len] = axis;
                    all.len += 1;
                }
            }
        }
        all
    }

    /// The innermost axis (of size 1 when there is none) and the others.
    fn split(&self) -> (Axis, &[Axis]) {
        match self.axes[..self.len].split_last() {
            Some((inner, outer)) => (*inner, outer),
            None => (self.axes[0], &[]),
        }
    }
}
