//! Cast, Add, Mul, Muls and SwiGlu.

use ascend_sys::aclDataType;
use ascend_sys::ops::{ScalarValue, TensorDesc};
use moe_kernels::activation::{Clipped, clipped_swiglu as clipped_swiglu_of};
use moe_kernels::elementwise::{self, Number};
use moe_kernels::pointwise::{self, Pair};
use moe_kernels::view::{NdView, NdViewMut};

use super::OpError;
use super::view::{Device, overlap, sizes, with_float};
use crate::executor::Args;

/// Runs a block with `$T` standing for the Rust type of a dtype that arithmetic is defined on.
macro_rules! with_number {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            ascend_sys::aclDataType::INT32 => {
                type $T = i32;
                $body
            }
            ascend_sys::aclDataType::INT64 => {
                type $T = i64;
                $body
            }
            ascend_sys::aclDataType::BOOL => {
                type $T = moe_kernels::pointwise::Bool;
                $body
            }
            other => super::view::with_float!(other, $T => $body),
        }
    };
}

pub(super) use with_number;

/// `out = self` in another dtype.
pub(super) fn cast(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let source = args.tensor("self").ok_or(OpError::Null("self"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    with_number!(source.dtype, A => with_number!(out.dtype, B => {
        let operand = Operand::<A>::load(device, "self", source, out)?;
        Ok(elementwise::cast(&operand.view()?, &mut device.nd_mut::<B>("out", out)?)?)
    }))
}

/// `out = self + alpha * other`.
pub(super) fn add(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let alpha = args.scalar("alpha").ok_or(OpError::Null("alpha"))?.value;
    binary(args, device, Binary::Add(alpha))
}

/// `out = self * other`.
pub(super) fn mul(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    binary(args, device, Binary::Mul)
}

#[derive(Clone, Copy)]
pub(super) enum Binary {
    Add(f64),
    Subtract(f64),
    Mul,
    Pair(Pair),
}

impl Binary {
    fn apply<T: Number + FromF64>(
        self,
        a: &NdView<'_, T>,
        b: &NdView<'_, T>,
        out: &mut NdViewMut<'_, T>,
    ) -> Result<(), OpError> {
        match self {
            Self::Add(alpha) => elementwise::add(a, b, T::scalar(alpha), out)?,
            Self::Subtract(alpha) => elementwise::add(a, b, T::scalar(-alpha), out)?,
            Self::Mul => elementwise::mul(a, b, out)?,
            Self::Pair(pair) => pointwise::binary(pair, a, b, out)?,
        }
        Ok(())
    }
}

/// Both inputs in their common dtype, the result in the output's.
pub(super) fn binary(args: &Args, device: &Device<'_>, operation: Binary) -> Result<(), OpError> {
    let left = args.tensor("self").ok_or(OpError::Null("self"))?;
    let right = args.tensor("other").ok_or(OpError::Null("other"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    let computed = match (operation, promote(left.dtype, right.dtype)) {
        (Binary::Pair(Pair::Divide), aclDataType::INT32 | aclDataType::INT64) => aclDataType::FLOAT,
        (Binary::Subtract(alpha), aclDataType::FLOAT16 | aclDataType::BF16) if alpha as f32 != 1.0 => {
            aclDataType::FLOAT
        }
        (_, dtype) => dtype,
    };
    with_number!(computed, T => {
        let a = Operand::<T>::load(device, "self", left, out)?;
        let b = Operand::<T>::load(device, "other", right, out)?;
        result::<T>(device, out, |view| operation.apply(&a.view()?, &b.view()?, view))
    })
}

/// The dtype that a tensor is computed in beside a host scalar: its own, fp32 for integers beside a floating-point
/// scalar.
pub(super) fn beside(tensor: aclDataType, scalar: ScalarValue) -> aclDataType {
    match tensor {
        aclDataType::INT32 | aclDataType::INT64 if is_float(scalar) => aclDataType::FLOAT,
        dtype => dtype,
    }
}

/// Whether a scalar is of a floating-point dtype.
pub(super) fn is_float(scalar: ScalarValue) -> bool {
    matches!(scalar.dtype, aclDataType::FLOAT | aclDataType::DOUBLE | aclDataType::FLOAT16 | aclDataType::BF16)
}

/// `out = self * other` with a host scalar.
pub(super) fn muls(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let source = args.tensor("self").ok_or(OpError::Null("self"))?;
    let factor = args.scalar("other").ok_or(OpError::Null("other"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    with_number!(beside(source.dtype, factor), T => {
        let operand = Operand::<T>::load(device, "self", source, out)?;
        result::<T>(device, out, |view| Ok(elementwise::muls(&operand.view()?, T::scalar(factor.value), view)?))
    })
}

/// `out = silu(first half) * second half` along one dimension.
pub(super) fn swiglu(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let x = args.tensor("x").ok_or(OpError::Null("x"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    super::view::check_outputs(args, &["out"])?;
    let (shape, _) = sizes(x);
    let dim = args.int("dim");
    let axis = if dim < 0 { dim + shape.len() as i64 } else { dim };
    let axis = usize::try_from(axis).unwrap_or(usize::MAX);
    with_float!(x.dtype, T => {
        Ok(moe_kernels::activation::swiglu(device.read::<T>("x", x)?, &shape, axis, device.write::<T>("out", out)?)?)
    })
}

/// SwiGLU with limits along one dimension, of as many rows as the groups sum to.
pub(super) fn clipped_swiglu(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let x = args.tensor("x").ok_or(OpError::Null("x"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    super::view::check_outputs(args, &["out"])?;
    let (shape, _) = sizes(x);
    let axis = super::lanes::axis(args.int("dim"), x);
    let half = shape.get(axis..).unwrap_or_default().iter().product::<usize>() / 2;
    let rows = match args.tensor("groupIndexOptional") {
        None => usize::MAX,
        Some(groups) => {
            let counts = device.packed::<i64>("groupIndex", groups)?;
            let sum = counts.iter().try_fold(0i64, |sum, &count| if count < 0 { None } else { sum.checked_add(count) });
            let most = shape.iter().product::<usize>().checked_div(2 * half).unwrap_or(0);
            let rows = sum.and_then(|sum| usize::try_from(sum).ok()).filter(|&rows| rows <= most);
            rows.ok_or(OpError::Groups { rows: most })?
        }
    };
    let clipped = Clipped {
        alpha: args.float("alpha") as f32,
        limit: args.float("limit") as f32,
        bias: args.float("bias") as f32,
        interleaved: args.bool("interleaved"),
    };
    with_float!(x.dtype, T => {
        Ok(clipped_swiglu_of(device.read::<T>("x", x)?, half, rows, clipped, device.write::<T>("out", out)?)?)
    })
}

/// Conversion of a host scalar.
pub(super) trait FromF64: Number {
    fn scalar(value: f64) -> Self::Scalar;
}

macro_rules! from_f64 {
    ($($t:ty => $s:ty;)*) => {$(
        impl FromF64 for $t {
            fn scalar(value: f64) -> $s {
                value as $s
            }
        }
    )*};
}

from_f64! { moe_kernels::pointwise::Bool => i64; f32 => f32; half::f16 => f32; half::bf16 => f32; i32 => i32; i64 => i64; }

/// The dtype that two operands are computed in: floating point before integer, the wider before the narrower, fp16
/// with bf16 in fp32.
pub(super) fn promote(a: aclDataType, b: aclDataType) -> aclDataType {
    use aclDataType as T;
    let float = |t| matches!(t, T::FLOAT | T::FLOAT16 | T::BF16);
    match (float(a), float(b)) {
        _ if a == b => a,
        (true, true) => T::FLOAT,
        (true, false) => a,
        (false, true) => b,
        (false, false) => T::INT64,
    }
}

/// An input in the dtype of the computation: where it lies, or a contiguous copy when the dtype differs or the output
/// shares its memory (elementwise operators may work in place).
pub(super) enum Operand<'a, T> {
    InPlace(NdView<'a, T>),
    Copied(Vec<T>, Vec<usize>),
}

impl<'a, T: Number> Operand<'a, T> {
    pub(super) fn load(
        device: &Device<'a>,
        name: &'static str,
        tensor: &TensorDesc,
        out: &TensorDesc,
    ) -> Result<Self, OpError> {
        let (shape, _) = sizes(tensor);
        with_number!(tensor.dtype, A => {
            let view = device.nd::<A>(name, tensor)?;
            if std::any::TypeId::of::<A>() == std::any::TypeId::of::<T>() && !overlap(tensor, out) {
                return Ok(Self::InPlace(device.nd::<T>(name, tensor)?));
            }
            let mut copy = vec![T::zeroed(); shape.iter().product()];
            elementwise::cast(&view, &mut NdViewMut::contiguous(&mut copy, &shape)?)?;
            Ok(Self::Copied(copy, shape))
        })
    }

    pub(super) fn view(&self) -> Result<NdView<'_, T>, OpError> {
        match self {
            Self::InPlace(view) => Ok(*view),
            Self::Copied(values, shape) => Ok(NdView::contiguous(values, shape)?),
        }
    }
}

/// Computes into the output, through a buffer where its dtype is another one.
pub(super) fn result<T: Number>(
    device: &Device<'_>,
    out: &TensorDesc,
    compute: impl FnOnce(&mut NdViewMut<'_, T>) -> Result<(), OpError>,
) -> Result<(), OpError> {
    with_number!(out.dtype, O => {
        if std::any::TypeId::of::<O>() == std::any::TypeId::of::<T>() {
            return compute(&mut device.nd_mut::<T>("out", out)?);
        }
        let (shape, _) = sizes(out);
        let mut buffer = vec![T::zeroed(); shape.iter().product()];
        compute(&mut NdViewMut::contiguous(&mut buffer, &shape)?)?;
        Ok(elementwise::cast(&NdView::contiguous(&buffer, &shape)?, &mut device.nd_mut::<O>("out", out)?)?)
    })
}
