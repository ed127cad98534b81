//! Maps of one operand, pairs, comparisons and selections, over strided views with broadcasting.
//!
//! Floating point is computed in f32 and rounded once to the type; integers are computed as i64 and saturate. Source: the
//! documents of ops-math and ops-nn for each operator; how the device kernels round inside is not public.

use crate::element::Float;
use crate::elementwise::{Number, Wide, map, map2};
use crate::error::KernelError;
use crate::view::{NdView, NdViewMut};

/// A function of one operand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Map {
    /// Absolute value.
    Abs,
    /// The value with its sign turned.
    Neg,
    /// `e^x`.
    Exp,
    /// Square root; NaN below 0.
    Sqrt,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `x / (1 + e^-x)`.
    Silu,
    /// `max(x, 0)`; NaN stays.
    Relu,
    /// `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.
    Gelu,
    /// `ln(1 + e^(beta x)) / beta`, x itself where `beta x > threshold`, as PyTorch computes it.
    Softplus {
        /// Factor within the exponential.
        beta: f32,
        /// Where the identity begins.
        threshold: f32,
    },
    /// `min(max(x, low), high)`; NaN stays.
    Clamp {
        /// The lower bound, if any.
        low: Option<f64>,
        /// The upper bound, if any.
        high: Option<f64>,
    },
}

impl Map {
    /// Of a floating-point value.
    #[inline]
    pub fn float(self, x: f32) -> f32 {
        match self {
            Self::Abs => x.abs(),
            Self::Neg => -x,
            Self::Exp => x.exp(),
            Self::Sqrt => x.sqrt(),
            Self::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Self::Silu => x / (1.0 + (-x).exp()),
            Self::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Self::Gelu => {
                let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }
            Self::Softplus { beta, threshold } => {
                let scaled = x * beta;
                if scaled > threshold { x } else { scaled.exp().ln_1p() / beta }
            }
            Self::Clamp { low, high } => {
                let (low, high) = (low.map(|low| low as f32), high.map(|high| high as f32));
                let x = low.map_or(x, |low| if x < low { low } else { x });
                high.map_or(x, |high| if x > high { high } else { x })
            }
        }
    }

    /// Of an integer.
    #[inline]
    pub fn int(self, x: i64) -> i64 {
        match self {
            Self::Abs => x.saturating_abs(),
            Self::Neg => x.saturating_neg(),
            Self::Relu => x.max(0),
            Self::Clamp { low, high } => {
                let x = low.map_or(x, |low| x.max(low.ceil() as i64));
                high.map_or(x, |high| x.min(high.floor() as i64))
            }
            other => other.float(x as f32) as i64,
        }
    }
}

/// `out = f(a)`, in parallel.
///
/// - `a` host `T`, `out` host `T` of the same shape.
///
/// # Errors
/// [`KernelError::OutputShape`] when the shapes differ.
pub fn unary<T: Number>(function: Map, a: &NdView<'_, T>, out: &mut NdViewMut<'_, T>) -> Result<(), KernelError> {
    map(a, out, |a| {
        T::from_wide(match a.widen() {
            Wide::Float(x) => Wide::Float(function.float(x)),
            Wide::Int(x) => Wide::Int(function.int(x)),
        })
    })
}

/// A function of two operands of one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pair {
    /// The quotient; of integers that of their values in f32.
    Divide,
    /// The greater; NaN where either is.
    Maximum,
    /// The lesser; NaN where either is.
    Minimum,
}

impl Pair {
    fn float(self, a: f32, b: f32) -> f32 {
        match self {
            Self::Divide => a / b,
            _ if a.is_nan() || b.is_nan() => f32::NAN,
            Self::Maximum => a.max(b),
            Self::Minimum => a.min(b),
        }
    }
}

/// `out = f(a, b)`, with broadcasting, in parallel.
///
/// - `a`, `b` host `T`, `out` host `T [broadcast shape of a and b]`.
///
/// # Errors
/// [`KernelError::Broadcast`], or [`KernelError::OutputShape`] when `out` does not have the broadcast shape.
pub fn binary<T: Number>(
    function: Pair,
    a: &NdView<'_, T>,
    b: &NdView<'_, T>,
    out: &mut NdViewMut<'_, T>,
) -> Result<(), KernelError> {
    map2(a, b, out, |a, b| {
        T::from_wide(match (a.widen(), b.widen()) {
            (Wide::Int(a), Wide::Int(b)) => match function {
                Pair::Divide => Wide::Float(a as f32 / b as f32),
                Pair::Maximum => Wide::Int(a.max(b)),
                Pair::Minimum => Wide::Int(a.min(b)),
            },
            (a, b) => Wide::Float(function.float(f32::from_wide(a), f32::from_wide(b))),
        })
    })
}

/// A comparison with a scalar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Less.
    Less,
    /// Greater or equal.
    GreaterEqual,
}

impl Comparison {
    fn holds<T: PartialOrd>(self, a: T, b: T) -> bool {
        match self {
            Self::Equal => a == b,
            Self::Less => a < b,
            Self::GreaterEqual => a >= b,
        }
    }
}

/// `out = a compared with scalar`, in parallel: integers with a whole number exactly, a whole number rounded to a
/// floating-point `T`, all else in f32. NaN compares false. Source: ops-math, math/greater_equal (op_api).
///
/// - `a` host `T`, `out` host one byte each, 0 or 1, of the same shape.
///
/// # Errors
/// [`KernelError::OutputShape`] when the shapes differ.
pub fn compare<T: Number>(
    comparison: Comparison,
    a: &NdView<'_, T>,
    scalar: Wide,
    out: &mut NdViewMut<'_, u8>,
) -> Result<(), KernelError> {
    let rounded = T::from_wide(scalar).widen();
    map(a, out, |a| {
        u8::from(match (a.widen(), scalar) {
            (Wide::Int(a), Wide::Int(scalar)) => comparison.holds(a, scalar),
            (a, Wide::Float(scalar)) => comparison.holds(f32::from_wide(a), scalar),
            (a, Wide::Int(_)) => comparison.holds(f32::from_wide(a), f32::from_wide(rounded)),
        })
    })
}

/// `out = a` where condition, else `b`, with broadcasting, in parallel.
///
/// - `condition` host one byte each, true where not 0. `a`, `b`, `out` host `T`.
///
/// # Errors
/// As [`binary`].
pub fn select<T: bytemuck::Pod + Send + Sync>(
    condition: &NdView<'_, u8>,
    a: &NdView<'_, T>,
    b: &NdView<'_, T>,
    out: &mut NdViewMut<'_, T>,
) -> Result<(), KernelError> {
    let shape = crate::view::broadcast_shape(condition.shape(), a.shape())?;
    let mut chosen = vec![(0u8, T::zeroed()); shape.iter().product()];
    map2(condition, a, &mut NdViewMut::contiguous(&mut chosen, &shape)?, |condition, a| (condition, a))?;
    let chosen = NdView::contiguous(&chosen, &shape)?;
    map2(&chosen, b, out, |(condition, a), b| if condition == 0 { b } else { a })
}

/// `out = value` where mask, else `a`, in parallel.
///
/// - `a`, `out` host `T` of one shape; `mask` host one byte each, broadcast to it.
///
/// # Errors
/// As [`binary`].
pub fn masked_fill<T: bytemuck::Pod + Send + Sync>(
    a: &NdView<'_, T>,
    mask: &NdView<'_, u8>,
    value: T,
    out: &mut NdViewMut<'_, T>,
) -> Result<(), KernelError> {
    map2(a, mask, out, |a, mask| if mask == 0 { a } else { value })
}

/// The numbers `start + i * step`; integers exactly, floats as the f32 product and sum, rounded once.
pub fn arange<T: Number>(start: f64, step: f64, out: &mut [T]) {
    for (index, out) in out.iter_mut().enumerate() {
        let whole = start.fract() == 0.0 && step.fract() == 0.0;
        *out = T::from_wide(if whole {
            Wide::Int((start as i64).wrapping_add((index as i64).wrapping_mul(step as i64)))
        } else {
            Wide::Float(start as f32 + index as f32 * step as f32)
        });
    }
}

/// One byte that is true where it is not 0, as a number: 0 or 1.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct Bool(u8);

impl PartialEq for Bool {
    fn eq(&self, other: &Self) -> bool {
        (self.0 == 0) == (other.0 == 0)
    }
}

/// A sum is "or", a product "and"; a number is true where it is not 0.
impl Number for Bool {
    type Scalar = i64;

    fn add_scaled(self, other: Self, alpha: i64) -> Self {
        Self(u8::from(self.0 != 0 || (other.0 != 0 && alpha != 0)))
    }

    fn multiply(self, other: Self) -> Self {
        Self(u8::from(self.0 != 0 && other.0 != 0))
    }

    fn scale(self, scalar: i64) -> Self {
        Self(u8::from(self.0 != 0 && scalar != 0))
    }

    fn widen(self) -> Wide {
        Wide::Int(i64::from(self.0 != 0))
    }

    fn from_wide(value: Wide) -> Self {
        Self(u8::from(match value {
            Wide::Float(value) => value != 0.0,
            Wide::Int(value) => value != 0,
        }))
    }
}

/// `beta * a + alpha * product`, in f32 and rounded once.
///
/// - `a` host `T`, broadcast to the shape of `product`; `product` host f32; `out` host `T`.
///
/// # Errors
/// As [`binary`].
pub fn add_product<T: Float>(
    a: &NdView<'_, T>,
    beta: f32,
    product: &NdView<'_, f32>,
    alpha: f32,
    out: &mut NdViewMut<'_, T>,
) -> Result<(), KernelError> {
    map2(product, a, out, |product, a| T::from_f32(beta * a.to_f32() + alpha * product))
}
