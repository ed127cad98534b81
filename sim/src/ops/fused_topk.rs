//! The router that may name replicas of the experts it chooses.

use ascend_sys::ops::TensorDesc;
use moe_kernels::element::Float;
use moe_kernels::fused_topk::{FusedTopK, Replicas, fused_top_k};

use super::OpError;
use super::view::{Device, check_outputs, with_float};
use crate::executor::Args;

/// Scores, choice, weights and replicas.
pub(super) fn fused_topk(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let x = args.tensor("x").ok_or(OpError::Null("x"))?;
    check_outputs(args, &["y", "indices"])?;
    if x.is_empty() {
        return Ok(());
    }
    with_float!(x.dtype, T => choose::<T>(args, device, x))
}

fn choose<T: Float>(args: &Args, device: &Device<'_>, x: &TensorDesc) -> Result<(), OpError> {
    let size = |name: &str| usize::try_from(args.int(name)).unwrap_or(0);
    let bias = args.tensor("addNum").ok_or(OpError::Null("addNum"))?;
    let y = args.tensor("y").ok_or(OpError::Null("y"))?;
    let indices = args.tensor("indices").ok_or(OpError::Null("indices"))?;
    let mapping = |name: &'static str| {
        let given = args.tensor(name).filter(|_| args.bool("enableExpertMapping"));
        given.map(|tensor| device.packed::<i32>(name, tensor)).transpose()
    };
    let (counts, table) = (mapping("mappingNum")?, mapping("mappingTable")?);
    let replicas = counts.as_deref().zip(table.as_deref()).map(|(counts, table)| Replicas { counts, table });
    let params = FusedTopK {
        groups: size("groupNum"),
        kept: size("groupTopk"),
        summed: size("topN"),
        top_k: size("topK"),
        scale: args.bool("isNorm").then(|| args.float("scale") as f32),
    };
    let mut weights = device.output::<f32>("y", y)?;
    let mut chosen = device.output::<i32>("indices", indices)?;
    fused_top_k(
        &params,
        &device.packed::<T>("x", x)?,
        usize::try_from(x.dim(1)).unwrap_or(0),
        &device.packed::<T>("addNum", bias)?,
        replicas.as_ref(),
        weights.slice(),
        chosen.slice(),
    )?;
    weights.finish(device, "y", y)?;
    chosen.finish(device, "indices", indices)
}
