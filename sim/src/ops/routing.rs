//! The operators that route tokens to experts and bring them back.

use ascend_sys::ops::TensorDesc;
use ascend_sys::{Release, aclDataType};
use moe_kernels::combine::{ExpertBias, Finalize, Rounding, SlotOrder, Unpermute, finalize, unpermute};
use moe_kernels::element::Float;
use moe_kernels::gating::{Division, Gating, GroupScore, Groups, Score, gating_top_k as choose};
use moe_kernels::group_list::GroupListKind;
use moe_kernels::init_routing::Routing;

use super::OpError;
use super::view::{Device, check_outputs, with_float};
use crate::executor::Args;

fn size(value: i64) -> usize {
    usize::try_from(value).unwrap_or(0)
}

/// Scores, choice and weights of the router.
pub(super) fn gating_top_k(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let x = args.tensor("x").ok_or(OpError::Null("x"))?;
    check_outputs(args, &["yOut", "expertIdxOut", "outOut"])?;
    with_float!(x.dtype, T => gate::<T>(args, device, x))
}

fn gate<T: Float>(args: &Args, device: &Device<'_>, x: &TensorDesc) -> Result<(), OpError> {
    let y = args.tensor("yOut").ok_or(OpError::Null("yOut"))?;
    let indices = args.tensor("expertIdxOut").ok_or(OpError::Null("expertIdxOut"))?;
    let out = args.tensor("outOut").filter(|_| args.bool("outFlag"));
    let experts = size(x.dim(1));
    let (count, keep) = (size(args.int("groupCount")), size(args.int("kGroup")));
    let grouped = count > 1 && count < experts && keep < count;
    let sigmoid = args.int("normType") == 1;
    // The kernel without groups divides by the sum from 9.0.0 on; the general one multiplies by its reciprocal.
    let division =
        if grouped || device.release() < Release::new(9, 0, 0) { Division::ByReciprocal } else { Division::ByQuotient };
    let score = if args.int("groupSelectMode") == 1 { GroupScore::TopTwoSum } else { GroupScore::Max };
    let gating = Gating {
        top_k: size(args.int("k")),
        score: if sigmoid { Score::Sigmoid } else { Score::Softmax(division) },
        groups: grouped.then_some(Groups { count, keep, score }),
        renormalise: sigmoid || args.int("renorm") == 1,
        eps: args.float("eps") as f32,
        scale: args.float("routedScalingFactor") as f32,
    };
    let bias = args.tensor("biasOptional").map(|bias| device.read::<T>("bias", bias)).transpose()?;
    let scores = out.map(|out| device.write::<f32>("out", out)).transpose()?;
    choose(
        &gating,
        device.read::<T>("x", x)?,
        experts,
        bias,
        device.write::<T>("y", y)?,
        device.write::<i32>("expertIdx", indices)?,
        scores,
    )?;
    Ok(())
}

/// Sorts the slots by expert and copies each token's row to its places.
pub(super) fn init_routing(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let x = args.tensor("x").ok_or(OpError::Null("x"))?;
    let ids = args.tensor("expertIdx").ok_or(OpError::Null("expertIdx"))?;
    let expanded = args.tensor("expandedXOut").ok_or(OpError::Null("expandedX"))?;
    let row_idx = args.tensor("expandedRowIdxOut").ok_or(OpError::Null("expandedRowIdx"))?;
    let counts = args.tensor("expertTokensCountOrCumsumOut").ok_or(OpError::Null("expertTokensCountOrCumsum"))?;
    let scale_out = args.tensor("expandedScaleOut").ok_or(OpError::Null("expandedScale"))?;
    check_outputs(args, &["expandedXOut", "expandedRowIdxOut", "expertTokensCountOrCumsumOut", "expandedScaleOut"])?;
    let all = size(args.int("expertNum"));
    let experts = match args.ints("activeExpertRangeOptional") {
        Some(&[start, end]) => size(start)..size(end),
        _ => 0..all,
    };
    let top_k = size(ids.dim(1)).max(1);
    let routing = Routing::new(device.read::<i32>("expertIdx", ids)?, experts)?;
    let element = x.dtype.bytes().ok_or(OpError::DType(x.dtype))?;
    let row_bytes = size(x.dim(1)) * element;
    let source = bytes(device, "x", x)?;
    let target = bytes_mut(device, "expandedX", expanded)?;
    let index = device.write::<i32>("expandedRowIdx", row_idx)?;
    let drop_pad = args.int("dropPadMode") == 1;
    let capacity = size(args.int("expertCapacity"));
    if drop_pad {
        routing.drop_pad_index(capacity, index)?;
        routing.expand_drop_pad(source, row_bytes, top_k, capacity, target)?;
    } else {
        if args.int("rowIdxType") == 1 {
            routing.scatter_index(index)?;
        } else {
            routing.gather_index(index)?;
        }
        let active = args.int("activeNum");
        let active = (active > 0).then(|| size(active));
        routing.expand(source, row_bytes, top_k, active, target)?;
        if let Some(scale) = args.tensor("scaleOptional") {
            routing.expand(
                bytes(device, "scale", scale)?,
                4,
                top_k,
                active,
                bytes_mut(device, "expandedScale", scale_out)?,
            )?;
        }
    }
    if args.bool("expertTokensNumFlag") {
        let kind = match args.int("expertTokensNumType") {
            0 => GroupListKind::Cumsum,
            1 => GroupListKind::Count,
            _ => GroupListKind::KeyValue,
        };
        routing.write_counts(kind, device.write::<i64>("expertTokensCountOrCumsum", counts)?)?;
    }
    Ok(())
}

/// A contiguous input as bytes.
fn bytes<'a>(device: &Device<'a>, name: &'static str, tensor: &TensorDesc) -> Result<&'a [u8], OpError> {
    Ok(match tensor.dtype.bytes() {
        Some(1) => device.read::<u8>(name, tensor)?,
        Some(2) => bytemuck::cast_slice(device.read::<u16>(name, tensor)?),
        Some(4) => bytemuck::cast_slice(device.read::<u32>(name, tensor)?),
        _ => return Err(OpError::DType(tensor.dtype)),
    })
}

/// A contiguous output as bytes.
fn bytes_mut<'a>(device: &Device<'a>, name: &'static str, tensor: &TensorDesc) -> Result<&'a mut [u8], OpError> {
    Ok(match tensor.dtype.bytes() {
        Some(1) => device.write::<u8>(name, tensor)?,
        Some(2) => bytemuck::cast_slice_mut(device.write::<u16>(name, tensor)?),
        Some(4) => bytemuck::cast_slice_mut(device.write::<u32>(name, tensor)?),
        _ => return Err(OpError::DType(tensor.dtype)),
    })
}

/// The weighted sum of each token's rows, with what is added beside them.
pub(super) fn finalize_routing(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let expanded = args.tensor("expandedX").ok_or(OpError::Null("expandedX"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    check_outputs(args, &["out"])?;
    if out.is_empty() {
        return Ok(());
    }
    let scales = args.tensor("scalesOptional").map_or(expanded.dtype, |scales| scales.dtype);
    with_float!(expanded.dtype, T => with_float!(scales, S => combine::<T, S>(args, device, expanded, out)))
}

fn combine<T: Float, S: Float>(
    args: &Args,
    device: &Device<'_>,
    expanded: &TensorDesc,
    out: &TensorDesc,
) -> Result<(), OpError> {
    let row_idx = args.tensor("expandedRowIdx").ok_or(OpError::Null("expandedRowIdx"))?;
    let optional = |name: &'static str| args.tensor(name).map(|tensor| device.read::<T>(name, tensor)).transpose();
    let hidden = size(out.dim(-1));
    let tokens = size(out.dim(0));
    let row_index = device.read::<i32>("expandedRowIdx", row_idx)?;
    let mode = args.int("dropPadMode");
    let expert_ids = args.tensor("expertIdxOptional").map(|ids| device.read::<i32>("expertIdx", ids)).transpose()?;
    let bias = optional("biasOptional")?.zip(expert_ids).map(|(bias, expert_ids)| ExpertBias { bias, expert_ids });
    let scales = args.tensor("scalesOptional").map(|scales| device.read::<S>("scales", scales)).transpose()?;
    let operands = Finalize {
        expanded: device.read::<T>("expandedX", expanded)?,
        hidden,
        row_index,
        top_k: row_index.len().checked_div(tokens).unwrap_or(0),
        order: if mode >= 2 { SlotOrder::RowMajor } else { SlotOrder::ColumnMajor },
        drop_pad: mode % 2 == 1,
        x1: optional("x1Optional")?,
        x2: optional("x2Optional")?,
        bias,
        scales,
        rounding: if expanded.dtype == aclDataType::FLOAT16 { Rounding::EachStep } else { Rounding::Once },
    };
    Ok(finalize(&operands, device.write::<T>("out", out)?)?)
}

/// The weighted sum of each token's rows.
pub(super) fn token_unpermute(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let permuted = args.tensor("permutedTokens").ok_or(OpError::Null("permutedTokens"))?;
    let indices = args.tensor("sortedIndices").ok_or(OpError::Null("sortedIndices"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    let probs = args.tensor("probsOptional");
    check_outputs(args, &["out"])?;
    if out.is_empty() {
        return Ok(());
    }
    with_float!(permuted.dtype, T => with_float!(probs.map_or(permuted.dtype, |probs| probs.dtype), P => {
        let operands = Unpermute {
            permuted: device.read::<T>("permutedTokens", permuted)?,
            hidden: size(out.dim(-1)),
            sorted_indices: device.read::<i32>("sortedIndices", indices)?,
            probs: probs.map(|probs| device.read::<P>("probs", probs)).transpose()?,
            top_k: probs.map_or(1, |probs| size(probs.dim(1))),
        };
        Ok(unpermute(&operands, device.write::<T>("out", out)?)?)
    }))
}
