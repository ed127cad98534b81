//! Maps, pairs, comparisons, selections, fills and copies.

use ascend_sys::aclDataType;
use bytemuck::Zeroable as _;
use moe_kernels::elementwise::{self, Number, Wide};
use moe_kernels::pointwise::{self, Comparison, Map, Pair};
use moe_kernels::view::{NdView, NdViewMut};

use super::OpError;
use super::elementwise::{Binary, FromF64, Operand, beside, binary, is_float, result, with_number};
use super::view::{Device, sizes};
use crate::executor::Args;

type Ran = Result<(), OpError>;

/// `out = f(self)` in the dtype of self.
fn unary(args: &Args, device: &Device<'_>, function: Map) -> Ran {
    let x = args.tensor("self").ok_or(OpError::Null("self"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    with_number!(x.dtype, T => {
        let operand = Operand::<T>::load(device, "self", x, out)?;
        result::<T>(device, out, |view| Ok(pointwise::unary(function, &operand.view()?, view)?))
    })
}

fn scalar(args: &Args, name: &'static str) -> Result<f64, OpError> {
    args.scalar(name).map(|scalar| scalar.value).ok_or(OpError::Null(name))
}

macro_rules! maps {
    ($($name:ident: $function:expr;)*) => {$(
        pub(super) fn $name(args: &Args, device: &Device<'_>) -> Ran {
            unary(args, device, $function)
        }
    )*};
}

maps! {
    abs: Map::Abs;
    neg: Map::Neg;
    exp: Map::Exp;
    sqrt: Map::Sqrt;
    sigmoid: Map::Sigmoid;
    silu: Map::Silu;
    relu: Map::Relu;
    gelu: Map::Gelu;
}

pub(super) fn softplus(args: &Args, device: &Device<'_>) -> Ran {
    let (beta, threshold) = (scalar(args, "beta")? as f32, scalar(args, "threshold")? as f32);
    unary(args, device, Map::Softplus { beta, threshold })
}

pub(super) fn clamp(args: &Args, device: &Device<'_>) -> Ran {
    let bound = |name| args.scalar(name).map(|scalar| scalar.value);
    unary(args, device, Map::Clamp { low: bound("clipValueMin"), high: bound("clipValueMax") })
}

pub(super) fn clamp_min(args: &Args, device: &Device<'_>) -> Ran {
    unary(args, device, Map::Clamp { low: Some(scalar(args, "clipValueMin")?), high: None })
}

/// `out = self + alpha * other`: the scalar in the dtype of the computation, as CANN makes a tensor of it.
pub(super) fn adds(args: &Args, device: &Device<'_>) -> Ran {
    let other = args.scalar("other").ok_or(OpError::Null("other"))?;
    let alpha = scalar(args, "alpha")?;
    let x = args.tensor("self").ok_or(OpError::Null("self"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    with_number!(beside(x.dtype, other), T => {
        let operand = Operand::<T>::load(device, "self", x, out)?;
        let other = T::from_wide(wide(other.value));
        result::<T>(device, out, |view| {
            let other = [other];
            Ok(elementwise::add(&operand.view()?, &NdView::contiguous(&other, &[])?, T::scalar(alpha), view)?)
        })
    })
}

/// A host scalar: a whole number exactly.
fn wide(value: f64) -> Wide {
    if value.fract() == 0.0 && value.abs() < 9e18 { Wide::Int(value as i64) } else { Wide::Float(value as f32) }
}

pub(super) fn sub(args: &Args, device: &Device<'_>) -> Ran {
    binary(args, device, Binary::Subtract(scalar(args, "alpha")?))
}

macro_rules! pairs {
    ($($name:ident: $pair:expr;)*) => {$(
        pub(super) fn $name(args: &Args, device: &Device<'_>) -> Ran {
            binary(args, device, Binary::Pair($pair))
        }
    )*};
}

pairs! {
    div: Pair::Divide;
    maximum: Pair::Maximum;
    minimum: Pair::Minimum;
}

fn compare(args: &Args, device: &Device<'_>, comparison: Comparison) -> Ran {
    let x = args.tensor("self").ok_or(OpError::Null("self"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    let other = args.scalar("other").ok_or(OpError::Null("other"))?;
    let other = if is_float(other) { Wide::Float(other.value as f32) } else { wide(other.value) };
    with_number!(x.dtype, T => {
        let operand = Operand::<T>::load(device, "self", x, out)?;
        Ok(pointwise::compare(comparison, &operand.view()?, other, &mut device.nd_mut::<u8>("out", out)?)?)
    })
}

macro_rules! comparisons {
    ($($name:ident: $comparison:expr;)*) => {$(
        pub(super) fn $name(args: &Args, device: &Device<'_>) -> Ran {
            compare(args, device, $comparison)
        }
    )*};
}

comparisons! {
    eq_scalar: Comparison::Equal;
    lt_scalar: Comparison::Less;
    ge_scalar: Comparison::GreaterEqual;
}

/// A mask, copied: the output may share its memory.
fn mask(device: &Device<'_>, args: &Args, name: &'static str) -> Result<(Vec<u8>, Vec<usize>), OpError> {
    let tensor = args.tensor(name).ok_or(OpError::Null(name))?;
    let (shape, _) = sizes(tensor);
    let mut copy = vec![0u8; shape.iter().product()];
    elementwise::map(&device.nd::<u8>(name, tensor)?, &mut NdViewMut::contiguous(&mut copy, &shape)?, |x| x)?;
    Ok((copy, shape))
}

pub(super) fn select(args: &Args, device: &Device<'_>) -> Ran {
    let (x, other) = (args.tensor("self").ok_or(OpError::Null("self"))?, args.tensor("other"));
    let other = other.ok_or(OpError::Null("other"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    let (condition, shape) = mask(device, args, "condition")?;
    with_number!(out.dtype, T => {
        let a = Operand::<T>::load(device, "self", x, out)?;
        let b = Operand::<T>::load(device, "other", other, out)?;
        let condition = NdView::contiguous(&condition, &shape)?;
        Ok(pointwise::select(&condition, &a.view()?, &b.view()?, &mut device.nd_mut::<T>("out", out)?)?)
    })
}

pub(super) fn masked_fill(args: &Args, device: &Device<'_>) -> Ran {
    let x = args.tensor("selfRef").ok_or(OpError::Null("selfRef"))?;
    let value = scalar(args, "value")?;
    let (mask, shape) = mask(device, args, "mask")?;
    with_number!(x.dtype, T => {
        let before = Operand::<T>::load(device, "selfRef", x, x)?;
        let mask = NdView::contiguous(&mask, &shape)?;
        let value = T::from_wide(wide(value));
        Ok(pointwise::masked_fill(&before.view()?, &mask, value, &mut device.nd_mut::<T>("selfRef", x)?)?)
    })
}

pub(super) fn zero(args: &Args, device: &Device<'_>) -> Ran {
    let x = args.tensor("selfRef").ok_or(OpError::Null("selfRef"))?;
    with_number!(x.dtype, T => {
        let zero = [T::zeroed()];
        let mut out = device.nd_mut::<T>("selfRef", x)?;
        let (shape, _) = sizes(x);
        Ok(elementwise::map(&NdView::contiguous(&zero, &[])?.broadcast_to(&shape)?, &mut out, |x| x)?)
    })
}

pub(super) fn copy(args: &Args, device: &Device<'_>) -> Ran {
    let out = args.tensor("selfRef").ok_or(OpError::Null("selfRef"))?;
    let source = args.tensor("src").ok_or(OpError::Null("src"))?;
    let (shape, _) = sizes(out);
    with_number!(source.dtype, A => with_number!(out.dtype, B => {
        let operand = Operand::<A>::load(device, "src", source, out)?;
        let source = operand.view()?.broadcast_to(&shape)?;
        Ok(elementwise::cast(&source, &mut device.nd_mut::<B>("selfRef", out)?)?)
    }))
}

pub(super) fn arange(args: &Args, device: &Device<'_>) -> Ran {
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    let (start, step) = (scalar(args, "start")?, scalar(args, "step")?);
    let (shape, _) = sizes(out);
    if out.dtype == aclDataType::BOOL {
        return Err(OpError::DType(out.dtype));
    }
    with_number!(out.dtype, T => {
        let mut values = vec![T::zeroed(); shape.iter().product()];
        pointwise::arange(start, step, &mut values);
        let values = NdView::contiguous(&values, &shape)?;
        Ok(elementwise::cast(&values, &mut device.nd_mut::<T>("out", out)?)?)
    })
}
