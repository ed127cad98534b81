//! Sorting rows by expert: tokens by the ids of their experts or by a routing map, and rows that came from several
//! ranks.

use ascend_sys::aclDataType;
use ascend_sys::ops::TensorDesc;
use bytemuck::Pod;
use moe_kernels::permute::{Permutation, copy_rows};
use moe_kernels::routing_map::{RoutingMap, places};

use super::OpError;
use super::view::{Device, check_outputs};
use crate::executor::Args;

pub(super) fn size(value: i64) -> usize {
    usize::try_from(value).unwrap_or(0)
}

/// What moves rows: source, bytes of a row, target.
type Move<'a> = &'a dyn Fn(&[u8], usize, &mut [u8]) -> Result<(), OpError>;

/// Moves the rows of an input to an output of the same width. Rows are moved, not computed: only the size of their
/// elements matters.
fn move_rows(
    device: &Device<'_>,
    from: (&'static str, &TensorDesc),
    to: (&'static str, &TensorDesc),
    act: Move<'_>,
) -> Result<(), OpError> {
    match from.1.dtype.bytes() {
        Some(1) => move_elements::<u8>(device, from, to, act),
        Some(2) => move_elements::<u16>(device, from, to, act),
        Some(4) => move_elements::<u32>(device, from, to, act),
        _ => Err(OpError::DType(from.1.dtype)),
    }
}

fn move_elements<T: Pod + Send + Sync>(
    device: &Device<'_>,
    (from_name, from): (&'static str, &TensorDesc),
    (to_name, to): (&'static str, &TensorDesc),
    act: Move<'_>,
) -> Result<(), OpError> {
    let mut target = device.output::<T>(to_name, to)?;
    if !target.slice().is_empty() {
        // The output's rows are as wide as the input's; an input of weights has one for each element.
        let width = to.shape.iter().skip(1).map(|&dim| size(dim)).product::<usize>();
        let source = device.packed::<T>(from_name, from)?;
        act(bytemuck::cast_slice(&source), width * size_of::<T>(), bytemuck::cast_slice_mut(target.slice()))?;
    }
    target.finish(device, to_name, to)
}

/// The sorted order of the slots, written as the row of each.
fn sort(args: &Args, device: &Device<'_>, permutation: &Permutation) -> Result<(), OpError> {
    let sorted = args.tensor("sortedIndicesOut").ok_or(OpError::Null("sortedIndicesOut"))?;
    let mut rows = device.output::<i32>("sortedIndices", sorted)?;
    permutation.rows(rows.slice())?;
    rows.finish(device, "sortedIndices", sorted)
}

/// The range of sorted rows that an operator is asked for; `None` for all of them.
pub(super) fn range_of_rows(args: &Args) -> Option<(usize, usize)> {
    match args.ints("rangeOptional") {
        Some(&[start, end]) if (start, end) != (0, 0) => Some((size(start), size(end))),
        _ => None,
    }
}

/// Each token's row once per chosen expert, sorted by expert; of these a range, and the weights beside them.
pub(super) fn token_permute(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let tokens = args.tensor("tokens").ok_or(OpError::Null("tokens"))?;
    let indices = args.tensor("indices").ok_or(OpError::Null("indices"))?;
    let permuted = args.tensor("permuteTokensOut").ok_or(OpError::Null("permuteTokensOut"))?;
    check_outputs(args, &["permuteTokensOut", "sortedIndicesOut", "permuteProbsOut"])?;
    let permutation = Permutation::new(&device.wide("indices", indices)?)?;
    sort(args, device, &permutation)?;
    let top_k = if indices.rank() == 2 { size(indices.dim(1)).max(1) } else { 1 };
    let range = range_of_rows(args);
    let first = range.map_or(0, |(start, _)| start);
    move_rows(device, ("tokens", tokens), ("permuteTokens", permuted), &|source, bytes, target| {
        Ok(permutation.copy(source, bytes, top_k, first, target)?)
    })?;
    match (args.tensor("probsOptional"), args.tensor("permuteProbsOut"), range) {
        (Some(probs), Some(out), Some(_)) => {
            move_rows(device, ("probs", probs), ("permuteProbs", out), &|source, bytes, target| {
                Ok(permutation.copy(source, bytes, 1, first, target)?)
            })
        }
        _ => Ok(()),
    }
}

/// The rows of each expert's tokens by a routing map: all of them, or a fixed number for each expert.
pub(super) fn permute_with_routing_map(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let tokens = args.tensor("tokens").ok_or(OpError::Null("tokens"))?;
    let map = args.tensor("routingMap").ok_or(OpError::Null("routingMap"))?;
    let permuted = args.tensor("permuteTokensOut").ok_or(OpError::Null("permuteTokensOut"))?;
    let sorted = args.tensor("sortedIndicesOut").ok_or(OpError::Null("sortedIndicesOut"))?;
    check_outputs(args, &["permuteTokensOut", "permuteProbsOutOptional", "sortedIndicesOut"])?;
    let (token_count, experts) = (size(map.dim(0)), size(map.dim(1)));
    let flags = device.packed::<u8>("routingMap", map)?;
    let map = RoutingMap::new(&flags, token_count, experts)?;
    let rows = size(sorted.dim(0));
    let marked = if args.bool("dropAndPad") {
        let chosen = map.first_tokens(rows.checked_div(experts).unwrap_or(0))?;
        device.write_values("sortedIndices", sorted, chosen.iter().map(|token| *token as i32))?;
        places(&chosen, token_count, experts)?
    } else {
        sort(args, device, &map.permutation(rows.checked_div(token_count).unwrap_or(0))?)?;
        map.marked()
    };
    move_rows(device, ("tokens", tokens), ("permuteTokens", permuted), &|source, bytes, target| {
        Ok(copy_rows(source, bytes, &marked, experts, target)?)
    })?;
    match (args.tensor("probsOptional"), args.tensor("permuteProbsOutOptional")) {
        (Some(probs), Some(out)) => {
            move_rows(device, ("probs", probs), ("permuteProbs", out), &|source, bytes, target| {
                Ok(copy_rows(source, bytes, &marked, 1, target)?)
            })
        }
        _ => Ok(()),
    }
}

/// Rows that lie by rank, in the order of the experts, with their scales.
pub(super) fn re_routing(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let tokens = args.tensor("tokens").ok_or(OpError::Null("tokens"))?;
    let counts = args.tensor("expertTokenNumPerRank").ok_or(OpError::Null("expertTokenNumPerRank"))?;
    let permuted = args.tensor("permuteTokensOut").ok_or(OpError::Null("permuteTokensOut"))?;
    let index = args.tensor("permuteTokenIdxOut").ok_or(OpError::Null("permuteTokenIdxOut"))?;
    let totals = args.tensor("expertTokenNumOut").ok_or(OpError::Null("expertTokenNumOut"))?;
    let outputs = ["permuteTokensOut", "permutePerTokenScalesOut", "permuteTokenIdxOut", "expertTokenNumOut"];
    check_outputs(args, &outputs)?;
    let experts = size(counts.dim(1));
    let blocks = device.wide("expertTokenNumPerRank", counts)?;
    let permutation = Permutation::regroup(&blocks, experts, size(tokens.dim(0))).map_err(OpError::GroupList)?;
    let act: Move<'_> = &|source, bytes, target| Ok(permutation.copy(source, bytes, 1, 0, target)?);
    move_rows(device, ("tokens", tokens), ("permuteTokens", permuted), act)?;
    if let (Some(scales), Some(out)) = (args.tensor("perTokenScalesOptional"), args.tensor("permutePerTokenScalesOut"))
    {
        move_rows(device, ("perTokenScales", scales), ("permutePerTokenScales", out), act)?;
    }
    device.write_values("permuteTokenIdx", index, permutation.sorted().iter().map(|row| *row as i32))?;
    let total = |expert| blocks.iter().skip(expert).step_by(experts).sum::<i64>();
    match totals.dtype {
        aclDataType::INT64 => device.write_values("expertTokenNum", totals, (0..experts).map(total)),
        _ => device.write_values("expertTokenNum", totals, (0..experts).map(|expert| total(expert) as i32)),
    }
}
