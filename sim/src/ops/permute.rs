//! Sorting tokens by expert without more ado.

use ascend_sys::ops::TensorDesc;
use bytemuck::Pod;
use moe_kernels::permute::Permutation;

use super::OpError;
use super::view::{Device, check_outputs};
use crate::executor::Args;

fn size(value: i64) -> usize {
    usize::try_from(value).unwrap_or(0)
}

/// Each token's row once per chosen expert, sorted by expert.
pub(super) fn token_permute(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let tokens = args.tensor("tokens").ok_or(OpError::Null("tokens"))?;
    check_outputs(args, &["permuteTokensOut", "sortedIndicesOut"])?;
    // Rows are moved, not computed: only the size of their elements matters.
    match tokens.dtype.bytes() {
        Some(2) => permute::<u16>(args, device, tokens),
        Some(4) => permute::<u32>(args, device, tokens),
        _ => Err(OpError::DType(tokens.dtype)),
    }
}

fn permute<T: Pod + Send + Sync>(args: &Args, device: &Device<'_>, tokens: &TensorDesc) -> Result<(), OpError> {
    let indices = args.tensor("indices").ok_or(OpError::Null("indices"))?;
    let permuted = args.tensor("permuteTokensOut").ok_or(OpError::Null("permuteTokensOut"))?;
    let sorted = args.tensor("sortedIndicesOut").ok_or(OpError::Null("sortedIndicesOut"))?;
    let permutation = Permutation::new(&device.wide("indices", indices)?)?;
    let mut rows = device.output::<i32>("sortedIndices", sorted)?;
    permutation.rows(rows.slice())?;
    rows.finish(device, "sortedIndices", sorted)?;
    let top_k = if indices.rank() == 2 { size(indices.dim(1)).max(1) } else { 1 };
    let row_bytes = tokens.shape.iter().skip(1).map(|&dim| size(dim)).product::<usize>() * size_of::<T>();
    let mut target = device.output::<T>("permuteTokens", permuted)?;
    if !target.slice().is_empty() {
        let source = device.packed::<T>("tokens", tokens)?;
        let bytes = bytemuck::cast_slice_mut(target.slice());
        permutation.copy(bytemuck::cast_slice(&source), row_bytes, top_k, bytes)?;
    }
    target.finish(device, "permuteTokens", permuted)
}
