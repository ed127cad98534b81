//! Products of floats with quantised weights.

use std::borrow::Cow;

use ascend_sys::aclDataType;
use half::{bf16, f16};
use moe_kernels::element::Float;
use moe_kernels::gemm::Bias;
use moe_kernels::view::MatMut;
use moe_kernels::weight_quant::{Antiquant, multiply, multiply_to_int8};

use super::OpError;
use super::quantised::{decoded, int_weights};
use super::view::{Device, check_outputs};
use crate::executor::Args;

/// `y = x @ ((weight + antiquantOffset) * antiquantScale) + bias`, quantised where there is a quantScale.
pub(super) fn weight_quant_matmul(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let x = args.tensor("x").ok_or(OpError::Null("x"))?;
    check_outputs(args, &["y"])?;
    match x.dtype {
        aclDataType::BF16 => run::<bf16>(args, device),
        _ => run::<f16>(args, device),
    }
}

fn run<T: Float>(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let x = args.tensor("x").ok_or(OpError::Null("x"))?;
    let weight = args.tensor("weight").ok_or(OpError::Null("weight"))?;
    let scale = args.tensor("antiquantScale").ok_or(OpError::Null("antiquantScale"))?;
    let y = args.tensor("y").ok_or(OpError::Null("y"))?;
    let weights = int_weights(device, "weight", weight, false)?;
    let [weight] = &weights[..] else { return Err(OpError::Null("weight")) };
    let offset = args.tensor("antiquantOffsetOptional");
    let antiquant = Antiquant {
        scale: device.mat::<T>("antiquantScale", scale)?,
        offset: offset.map(|offset| device.mat::<T>("antiquantOffset", offset)).transpose()?,
        group: usize::try_from(args.int("antiquantGroupSize")).unwrap_or(0),
    };
    let x = device.mat::<T>("x", x)?;
    let bias = args.tensor("biasOptional");
    let (wide, same);
    let bias = match bias {
        Some(bias) if bias.dtype == aclDataType::FLOAT => {
            wide = device.packed::<f32>("bias", bias)?;
            Some(Bias::F32(&wide))
        }
        Some(bias) => {
            same = device.packed::<T>("bias", bias)?;
            Some(Bias::Same(&same))
        }
        None => None,
    };
    let Some(quant_scale) = args.tensor("quantScaleOptional") else {
        let out = MatMut::row_major(device.write::<T>("y", y)?, x.rows(), weight.n())?;
        return Ok(multiply(x, weight, &antiquant, bias, out)?);
    };
    let (scale, encoded) = decoded(device, "quantScale", quant_scale)?;
    let offset = match args.tensor("quantOffsetOptional") {
        Some(offset) => device.packed::<f32>("quantOffset", offset)?,
        None => Cow::Owned(encoded),
    };
    multiply_to_int8(x, weight, &antiquant, bias, [&scale, &offset], device.write("y", y)?)?;
    Ok(())
}
