//! The routers that choose by softmax alone.

use ascend_sys::ops::TensorDesc;
use moe_kernels::element::Float;
use moe_kernels::softmax_gating::{SoftmaxOver, column_index, softmax_top_k};

use super::OpError;
use super::view::{Device, Output, check_outputs, with_float};
use crate::executor::Args;

fn size(value: i64) -> usize {
    usize::try_from(value).unwrap_or(0)
}

/// Softmax, choice, and the numbers of the choices by column.
pub(super) fn first(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let rows = args.tensor("rowIdxOut").ok_or(OpError::Null("rowIdxOut"))?;
    check_outputs(args, &["yOut", "expertIdxOut", "rowIdxOut"])?;
    choose(args, device, SoftmaxOver::All, None)?;
    let mut index = device.output::<i32>("rowIdx", rows)?;
    column_index(size(args.int("k")), index.slice())?;
    index.finish(device, "rowIdx", rows)
}

/// Softmax before or after the choice.
pub(super) fn second(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    check_outputs(args, &["yOut", "expertIdxOut", "softmaxResultOutOptional"])?;
    let over = if args.int("renorm") == 1 { SoftmaxOver::Chosen } else { SoftmaxOver::All };
    let wanted = over == SoftmaxOver::All && args.bool("outputSoftmaxResultFlag");
    choose(args, device, over, args.tensor("softmaxResultOutOptional").filter(|_| wanted))
}

fn choose(args: &Args, device: &Device<'_>, over: SoftmaxOver, softmax: Option<&TensorDesc>) -> Result<(), OpError> {
    let x = args.tensor("x").ok_or(OpError::Null("x"))?;
    with_float!(x.dtype, T => choose_as::<T>(args, device, over, x, softmax))
}

fn choose_as<T: Float>(
    args: &Args,
    device: &Device<'_>,
    over: SoftmaxOver,
    x: &TensorDesc,
    softmax: Option<&TensorDesc>,
) -> Result<(), OpError> {
    let y = args.tensor("yOut").ok_or(OpError::Null("yOut"))?;
    let expert_idx = args.tensor("expertIdxOut").ok_or(OpError::Null("expertIdxOut"))?;
    let finished = args.tensor("finishedOptional").map(|t| device.packed::<u8>("finished", t)).transpose()?;
    let mut weights = device.output::<T>("y", y)?;
    let mut indices = device.output::<i32>("expertIdx", expert_idx)?;
    let mut scores = softmax.map(|out| device.output::<f32>("softmaxResult", out)).transpose()?;
    softmax_top_k(
        over,
        size(args.int("k")),
        &device.packed::<T>("x", x)?,
        size(x.dim(-1)),
        finished.as_deref(),
        weights.slice(),
        indices.slice(),
        scores.as_mut().map(Output::slice),
    )?;
    weights.finish(device, "y", y)?;
    indices.finish(device, "expertIdx", expert_idx)?;
    match (scores, softmax) {
        (Some(scores), Some(out)) => scores.finish(device, "softmaxResult", out),
        _ => Ok(()),
    }
}
