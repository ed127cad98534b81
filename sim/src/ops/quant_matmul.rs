//! The quantised dense products, in both signatures.

use std::borrow::Cow;

use ascend_sys::ops::TensorDesc;
use ascend_sys::{OperatorId, aclDataType, aclFormat};
use bytemuck::Pod;
use half::{bf16, f16};
use moe_kernels::element::Float;
use moe_kernels::int_gemm::IntProblem;
use moe_kernels::int4;
use moe_kernels::quant_matmul::{Bias, Dequant, accumulated, dequantised, requantised};
use moe_kernels::view::{Mat, MatMut};

use super::OpError;
use super::quantised::{Nibbles, decoded, int_weights};
use super::view::{Device, check_outputs, last_two, matrix, sizes};
use crate::executor::Args;

/// `out = (x1 @ x2 + bias) * scale * per_token + offset`, as far as the dtypes ask for it.
pub(super) fn quant_matmul(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    check_outputs(args, &["out"])?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    match out.dtype {
        aclDataType::BF16 => scaled::<bf16>(args, device),
        aclDataType::FLOAT16 => scaled::<f16>(args, device),
        aclDataType::INT8 => run::<i8>(args, device, |problems| {
            let (scale, encoded) = scales(args, device)?;
            let offset = match args.tensor("x2Offset").or_else(|| args.tensor("offset")) {
                Some(offset) => device.packed::<f32>("offset", offset)?.into_owned(),
                None => encoded,
            };
            Ok(requantised(problems, &scale, &offset, sum_bias(args, device)?.as_deref())?)
        }),
        _ => run::<i32>(args, device, |problems| Ok(accumulated(problems, sum_bias(args, device)?.as_deref())?)),
    }
}

fn scaled<O: Float>(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    run::<O>(args, device, |problems| {
        let (scale, _) = scales(args, device)?;
        let per_token = args.tensor("x1Scale").or_else(|| args.tensor("pertokenScaleOptional"));
        let per_token = per_token.map(|scale| device.packed::<f32>("x1Scale", scale)).transpose()?;
        let sum = sum_bias(args, device)?;
        let floats = args.tensor("bias").filter(|_| sum.is_none());
        let floats = floats.map(|bias| floats_of(device, "bias", bias)).transpose()?;
        let bias = sum.as_deref().map(Bias::Sum).or(floats.as_deref().map(Bias::Scaled));
        Ok(dequantised(problems, &Dequant { scale: &scale, per_token: per_token.as_deref(), bias })?)
    })
}

/// Makes the products of the batch and has them computed.
fn run<O: Pod + Send + Sync>(
    args: &Args,
    device: &Device<'_>,
    compute: impl FnOnce(Vec<IntProblem<'_, '_, O>>) -> Result<(), OpError>,
) -> Result<(), OpError> {
    let x1 = args.tensor("x1").ok_or(OpError::Null("x1"))?;
    let x2 = args.tensor("x2").ok_or(OpError::Null("x2"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    let left = Left::load(device, x1)?;
    let mut left = left.stack()?;
    if args.bool("transposeX1") {
        left.iter_mut().for_each(|mat| *mat = mat.transposed());
    }
    let forced = args.operator() == OperatorId::QuantMatmulWeightNz;
    let format = if forced { aclFormat::FRACTAL_NZ } else { x2.format };
    let right = int_weights(device, "x2", &TensorDesc { format, ..*x2 }, args.bool("transposeX2"))?;
    let (left_batch, right_batch) = (batch_of(x1), batch_of(x2));
    let batch = moe_kernels::view::broadcast_shape(&left_batch, &right_batch)?;

    let mut target = device.output::<O>("out", out)?;
    let mut rest = target.slice();
    let mut problems = Vec::new();
    for index in 0..batch.iter().product() {
        let x = left.get(member(index, &batch, &left_batch)).ok_or(OpError::Null("x1"))?;
        let weight = right.get(member(index, &batch, &right_batch)).ok_or(OpError::Null("x2"))?;
        let (part, after) = rest.split_at_mut((x.rows() * weight.n()).min(rest.len()));
        rest = after;
        let out = MatMut::row_major(part, x.rows(), weight.n())?;
        problems.push(IntProblem { x: *x, rows: 0..x.rows(), weight: *weight, out });
    }
    compute(problems)?;
    target.finish(device, "out", out)
}

/// Numbers of the left operand as int8.
struct Left<'a> {
    values: Cow<'a, [i8]>,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl<'a> Left<'a> {
    fn load(device: &Device<'a>, tensor: &TensorDesc) -> Result<Self, OpError> {
        if tensor.dtype == aclDataType::INT8 {
            let (shape, strides) = sizes(tensor);
            return Ok(Self { values: Cow::Borrowed(device.read("x1", tensor)?), shape, strides });
        }
        let Nibbles { bytes, shape, strides } = Nibbles::load(device, "x1", tensor)?;
        let reach = shape.iter().zip(&strides).map(|(size, stride)| size.saturating_sub(1) * stride).sum::<usize>();
        let bytes = &bytes[..(reach / 2 + 1).min(bytes.len())];
        let mut values = vec![0; 2 * bytes.len()];
        int4::unpack(bytes, &mut values)?;
        Ok(Self { values: Cow::Owned(values), shape, strides })
    }

    /// The matrices of the last two dimensions.
    fn stack(&self) -> Result<Vec<Mat<'_, i8>>, OpError> {
        let [rows, cols] = last_two(&self.shape);
        let count = self.shape[..self.shape.len().saturating_sub(2)].iter().product::<usize>();
        let part = |index: usize| {
            let values = self.values.get(index * rows * cols..).unwrap_or_default();
            matrix(values, &self.shape, &self.strides)
        };
        (0..count).map(part).collect()
    }
}

/// The dimensions before the last two.
fn batch_of(tensor: &TensorDesc) -> Vec<usize> {
    let (mut shape, _) = sizes(tensor);
    shape.truncate(shape.len().saturating_sub(2));
    shape
}

/// Which matrix of a stack goes into product `index` of the batch that it broadcasts to.
fn member(mut index: usize, batch: &[usize], own: &[usize]) -> usize {
    let (mut at, mut step) = (0, 1);
    for (axis, &size) in batch.iter().enumerate().rev() {
        let coordinate = index % size;
        index /= size;
        if let Some(&own) = (axis + own.len()).checked_sub(batch.len()).and_then(|axis| own.get(axis)) {
            at += if own == 1 { 0 } else { coordinate * step };
            step *= own;
        }
    }
    at
}

/// The scales of the columns, and the offsets encoded with them.
fn scales(args: &Args, device: &Device<'_>) -> Result<(Vec<f32>, Vec<f32>), OpError> {
    let scale = args.tensor("x2Scale").or_else(|| args.tensor("scale")).ok_or(OpError::Null("scale"))?;
    match scale.dtype {
        aclDataType::UINT64 | aclDataType::INT64 => decoded(device, "scale", scale),
        _ => Ok((floats_of(device, "scale", scale)?, Vec::new())),
    }
}

/// The bias, where it is added to the sums.
fn sum_bias<'a>(args: &Args, device: &Device<'a>) -> Result<Option<Cow<'a, [i32]>>, OpError> {
    let bias = args.tensor("bias").filter(|bias| bias.dtype == aclDataType::INT32);
    bias.map(|bias| device.packed::<i32>("bias", bias)).transpose()
}

/// The elements of a tensor of floats as f32, in row-major order.
fn floats_of(device: &Device<'_>, name: &'static str, tensor: &TensorDesc) -> Result<Vec<f32>, OpError> {
    super::view::with_float!(tensor.dtype, T => {
        Ok(device.packed::<T>(name, tensor)?.iter().map(|value| Float::to_f32(*value)).collect())
    })
}
