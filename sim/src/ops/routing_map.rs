//! Bringing rows back to their tokens where a map of flags says which token goes to which expert.

use ascend_sys::ops::TensorDesc;
use moe_kernels::combine::{Held, TokenRows, Unpermute, add_to_tokens, unpermute};
use moe_kernels::element::Float;
use moe_kernels::permute::{Permutation, copy_rows};
use moe_kernels::routing_map::{RoutingMap, places, weights_of_slots};

use super::OpError;
use super::permute::size;
use super::view::{Device, check_outputs, with_float};
use crate::executor::Args;

/// The weighted sum of each token's rows.
pub(super) fn unpermute_with_routing_map(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let permuted = args.tensor("permutedTokens").ok_or(OpError::Null("permutedTokens"))?;
    let sorted = args.tensor("sortedIndices").ok_or(OpError::Null("sortedIndices"))?;
    let out = args.tensor("unpermutedTokens").ok_or(OpError::Null("unpermutedTokens"))?;
    let out_index = args.tensor("outIndex").ok_or(OpError::Null("outIndex"))?;
    let token_id = args.tensor("permuteTokenId").ok_or(OpError::Null("permuteTokenId"))?;
    let permuted_probs = args.tensor("permuteProbs");
    check_outputs(args, &["unpermutedTokens", "outIndex", "permuteTokenId", "permuteProbs"])?;
    let padded = args.bool("paddedMode");
    if sorted.is_empty() || (!padded && permuted.is_empty()) {
        for (name, tensor) in [("outIndex", out_index), ("permuteTokenId", token_id)] {
            clear::<i32>(device, name, tensor)?;
        }
        if let Some(probs) = permuted_probs {
            with_float!(probs.dtype, P => clear::<P>(device, "permuteProbs", probs))?;
        }
        return with_float!(out.dtype, T => clear::<T>(device, "unpermutedTokens", out));
    }
    let weights = args.tensor("probsOptional").map_or(permuted.dtype, |probs| probs.dtype);
    with_float!(permuted.dtype, T => with_float!(weights, P => {
        if padded {
            add_padded::<T, P>(args, device, permuted, out, (out_index, token_id))
        } else {
            add_chosen::<T, P>(args, device, permuted, out)
        }
    }))
}

/// Sets an output to 0.
fn clear<T: bytemuck::Pod + Send + Sync>(
    device: &Device<'_>,
    name: &'static str,
    tensor: &TensorDesc,
) -> Result<(), OpError> {
    device.write_values(name, tensor, std::iter::repeat(T::zeroed()))
}

/// The entries of `probs` at `places`, also written where they are wanted.
fn weights<P: Float>(args: &Args, device: &Device<'_>, probs: &TensorDesc, places: &[u32]) -> Result<Vec<P>, OpError> {
    let source = device.packed::<P>("probs", probs)?;
    let mut weights = vec![P::zeroed(); places.len()];
    copy_rows(bytemuck::cast_slice(&source), size_of::<P>(), places, 1, bytemuck::cast_slice_mut(&mut weights))?;
    if let Some(out) = args.tensor("permuteProbs") {
        device.write_values("permuteProbs", out, weights.iter().copied())?;
    }
    Ok(weights)
}

/// Every slot's row, weighted by the entry of probs that belongs to the row.
fn add_chosen<T: Float, P: Float>(
    args: &Args,
    device: &Device<'_>,
    permuted: &TensorDesc,
    out: &TensorDesc,
) -> Result<(), OpError> {
    let sorted = args.tensor("sortedIndices").ok_or(OpError::Null("sortedIndices"))?;
    let sorted = device.packed::<i32>("sortedIndices", sorted)?;
    let weights = match (args.tensor("probsOptional"), args.tensor("routingMapOptional")) {
        (Some(probs), Some(map)) => {
            let flags = device.packed::<u8>("routingMap", map)?;
            let marked = RoutingMap::new(&flags, size(map.dim(0)), size(map.dim(1)))?.marked();
            let rows = marked.get(..sorted.len()).unwrap_or(&marked);
            Some(weights_of_slots(&weights::<P>(args, device, probs, rows)?, &sorted)?)
        }
        _ => None,
    };
    let operands = Unpermute {
        permuted: &device.packed::<T>("permutedTokens", permuted)?,
        hidden: size(out.dim(1)),
        sorted_indices: &sorted,
        probs: weights.as_deref(),
        top_k: sorted.len().checked_div(size(out.dim(0))).unwrap_or(0),
        held: Held::All,
    };
    let mut target = device.output::<T>("unpermutedTokens", out)?;
    unpermute(&operands, target.slice())?;
    target.finish(device, "unpermutedTokens", out)
}

/// As many rows for each expert, each added to its token.
fn add_padded<T: Float, P: Float>(
    args: &Args,
    device: &Device<'_>,
    permuted: &TensorDesc,
    out: &TensorDesc,
    (out_index, token_id): (&TensorDesc, &TensorDesc),
) -> Result<(), OpError> {
    let sorted = args.tensor("sortedIndices").ok_or(OpError::Null("sortedIndices"))?;
    let tokens = device.packed::<i32>("sortedIndices", sorted)?;
    let order = Permutation::new(&tokens.iter().copied().map(i64::from).collect::<Vec<_>>())?;
    let weights = match args.tensor("probsOptional") {
        Some(probs) => {
            let of_rows: Vec<u32> = tokens.iter().map(|token| token.unsigned_abs()).collect();
            let places = places(&of_rows, size(probs.dim(0)), size(probs.dim(1)))?;
            Some(weights::<P>(args, device, probs, &places)?)
        }
        None => None,
    };
    let operands = TokenRows {
        rows: &device.packed::<T>("permutedTokens", permuted)?,
        hidden: size(out.dim(1)),
        tokens: &tokens,
        probs: weights.as_deref(),
        round_products: P::NAME == T::NAME,
    };
    if !out.is_empty() {
        let mut target = device.output::<T>("unpermutedTokens", out)?;
        add_to_tokens(&operands, &order, target.slice())?;
        target.finish(device, "unpermutedTokens", out)?;
    }
    device.write_values("outIndex", out_index, order.sorted().iter().map(|row| *row as i32))?;
    device.write_values("permuteTokenId", token_id, order.sorted().iter().map(|row| tokens[*row as usize]))
}
