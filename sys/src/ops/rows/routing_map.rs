//! Rows of the operators that take which token goes to which expert as a map of flags.

use super::check::{Checked, FLOATS, I32, dim, require, same_dtype, shape_is};
use crate::constants::{aclDataType, aclnnStatus};
use crate::info::OperatorId;
use crate::ops::rule::{Call, Codes, OpRow, Param, Rule};

const FLAGS: &[aclDataType] = &[aclDataType::INT8, aclDataType::BOOL];
/// Tokens, experts and slots stay below this.
const MAX_ID: i64 = 16_777_215;
/// The most choices per token.
const MAX_TOP_K: i64 = 512;

/// What the wrapper does not check itself fails in tiling or when outputs are copied, and the code is lost on the way.
const LATER: aclnnStatus = aclnnStatus::ERR_INNER_NULLPTR;

/// Weights have the dtype of the tokens, or fp32 where those are bf16.
fn weight_dtype(call: &Call<'_>, weights: usize, tokens: usize) -> Checked {
    let (Some(probs), Some(tokens)) = (call.tensor(weights), call.tensor(tokens)) else { return Ok(()) };
    let legal = probs.dtype == tokens.dtype || (probs.dtype, tokens.dtype) == (aclDataType::FLOAT, aclDataType::BF16);
    require(legal, || format!("probs is {:?} and the tokens are {:?}", probs.dtype, tokens.dtype))
}

/// Positions of the parameters of `aclnnMoeTokenPermuteWithRoutingMap`.
mod permute {
    pub(super) const TOKENS: usize = 0;
    pub(super) const MAP: usize = 1;
    pub(super) const PROBS: usize = 2;
    pub(super) const NUM_OUT: usize = 3;
    pub(super) const DROP_AND_PAD: usize = 4;
    pub(super) const PERMUTED: usize = 5;
    pub(super) const PERMUTED_PROBS: usize = 6;
    pub(super) const SORTED: usize = 7;
}

/// `aclnnMoeTokenPermuteWithRoutingMap`: the rows of each expert's tokens, by expert, those of one expert by token.
///
/// With T tokens of width H and E experts. Without dropAndPad each token has K = numOutTokens / T experts and there are
/// T * K rows; slot `t * K + j` is token t and the j-th of its experts, which ascend. With dropAndPad each expert has
/// C = numOutTokens / E rows: its tokens, then others, both ascending.
/// * `tokens`: device, fp32, fp16 or bf16, `[T, H]`, any strides.
/// * `routingMap`: device, int8 or bool, `[T, E]`, any strides: 0 or 1.
/// * `probsOptional`: device, dtype of tokens, or fp32 for bf16, `[T, E]`, any strides; may be null.
/// * `permuteTokensOut`: device, dtype of tokens, `[rows, H]`, any strides.
/// * `permuteProbsOutOptional`: device, dtype of probs, `[rows]`, any strides: each row's entry of probs; null without
///   probs.
/// * `sortedIndicesOut`: device, int32, `[rows]`, any strides: the row of each slot; with dropAndPad the token of each
///   row.
pub(super) static MOE_TOKEN_PERMUTE_WITH_ROUTING_MAP: OpRow = OpRow {
    operator: OperatorId::MoeTokenPermuteWithRoutingMap,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("tokens", FLOATS).rank(2, 2),
        Param::input("routingMap", FLAGS).rank(2, 2),
        Param::input("probsOptional", FLOATS).rank(2, 2).optional(),
        Param::value("numOutTokens"),
        Param::value("dropAndPad"),
        Param::output("permuteTokensOut", FLOATS).rank(2, 2),
        Param::output("permuteProbsOutOptional", FLOATS).rank(1, 1).optional(),
        Param::output("sortedIndicesOut", I32).rank(1, 1),
    ],
    rules: &[
        Rule::dtype("probs-dtype", "probs has the dtype of tokens, or fp32 where that is bf16", |call| {
            weight_dtype(call, permute::PROBS, permute::TOKENS)
        }),
        Rule::dtype("out-dtypes", "permuteTokens has the dtype of tokens, permuteProbs that of probs", |call| {
            use permute::{PERMUTED, PERMUTED_PROBS, PROBS, TOKENS};
            same_dtype(call, ("permuteTokens", PERMUTED), ("tokens", TOKENS))?;
            same_dtype(call, ("permuteProbs", PERMUTED_PROBS), ("probs", PROBS))
        }),
        Rule::new("tokens", "routingMap has as many rows as tokens", |call| {
            let (tokens, rows) = (dim(call, permute::TOKENS, 0), dim(call, permute::MAP, 0));
            require(tokens == rows, || format!("{rows} rows of routingMap for {tokens} tokens"))
        }),
        Rule::new("probs-shape", "probs has the shape of routingMap", |call| match call.tensor(permute::MAP) {
            Some(map) => shape_is(call, "probs", permute::PROBS, &map.shape),
            None => Ok(()),
        }),
        Rule::new("permuted-probs", "permuteProbs is given if and only if probs is", |call| {
            let given = |index| call.tensor(index).is_some();
            let legal = given(permute::PROBS) == given(permute::PERMUTED_PROBS);
            require(legal, || "one of the two".to_owned())
        }),
        Rule::new("num-out-tokens", "0 <= numOutTokens <= T * E", |call| {
            let most = dim(call, permute::MAP, 0).saturating_mul(dim(call, permute::MAP, 1));
            let wanted = call.int(permute::NUM_OUT);
            let nearest = wanted.clamp(0, most.max(0));
            require(wanted == nearest, || format!("numOutTokens {wanted}; the nearest legal value is {nearest}"))
        }),
        Rule::new("top-k", "at most 512 choices per token", |call| {
            let k = choices(call);
            require(k <= MAX_TOP_K, || format!("{k} choices; the nearest legal value is {MAX_TOP_K}"))
        })
        .with_code(LATER),
        Rule::new("slots", "fewer than 16777215 tokens, experts and rows of tokens", |call| {
            let (tokens, experts) = (dim(call, permute::MAP, 0), dim(call, permute::MAP, 1));
            let slots = tokens.saturating_mul(choices(call));
            require(tokens.max(experts).max(slots) < MAX_ID, || {
                format!("{tokens} tokens, {experts} experts, {slots} rows")
            })
        })
        .with_code(LATER),
        Rule::new("permuted-shape", "permuteTokens is [rows, H]", |call| {
            shape_is(call, "permuteTokens", permute::PERMUTED, &[rows(call), dim(call, permute::TOKENS, 1)])
        }),
        Rule::new("permuted-probs-shape", "permuteProbs has one entry per row", |call| {
            shape_is(call, "permuteProbs", permute::PERMUTED_PROBS, &[rows(call)])
        }),
        Rule::new("sorted-shape", "sortedIndices has one entry per row", |call| {
            shape_is(call, "sortedIndices", permute::SORTED, &[rows(call)])
        }),
    ],
    source: "ops-transformer, commits around 9.1.0, moe/moe_token_permute_with_routing_map (docs, tiling, kernel)",
    doubtful: "The wrapper was not read: codes are those of the document, and where a shape is only compared in tiling \
               the code may be 561103. The document sorts each expert's flags upwards with dropAndPad; the kernel \
               sorts them downwards. Whether equal flags keep their order there was not seen beyond the sorting \
               instruction's rule. A map in which tokens differ in the number of their experts is refused by the \
               document of 9.1.0; newer sources take it and give -1. Entries other than 0 and 1 are a finding of the \
               simulator.",
};

/// Choices per token without dropAndPad; 0 with it.
fn choices(call: &Call<'_>) -> i64 {
    let tokens = dim(call, permute::TOKENS, 0);
    if call.bool(permute::DROP_AND_PAD) { 0 } else { call.int(permute::NUM_OUT).checked_div(tokens).unwrap_or(0) }
}

/// Rows of permuteTokens.
fn rows(call: &Call<'_>) -> i64 {
    if call.bool(permute::DROP_AND_PAD) {
        let experts = dim(call, permute::MAP, 1);
        call.int(permute::NUM_OUT).checked_div(experts).unwrap_or(0).saturating_mul(experts)
    } else {
        choices(call).saturating_mul(dim(call, permute::TOKENS, 0))
    }
}

/// Positions of the parameters of `aclnnMoeTokenUnpermuteWithRoutingMap`.
mod unpermute {
    pub(super) const PERMUTED: usize = 0;
    pub(super) const SORTED: usize = 1;
    pub(super) const MAP: usize = 2;
    pub(super) const PROBS: usize = 3;
    pub(super) const PADDED_MODE: usize = 4;
    pub(super) const RESTORE_SHAPE: usize = 5;
    pub(super) const OUT: usize = 6;
    pub(super) const OUT_INDEX: usize = 7;
    pub(super) const TOKEN_ID: usize = 8;
    pub(super) const PERMUTED_PROBS: usize = 9;
}

/// `aclnnMoeTokenUnpermuteWithRoutingMap`: the weighted sum of each token's rows.
///
/// With T tokens of width H and E experts. Without paddedMode there are T * K rows, K <= 512, and slot `t * K + j` is a
/// choice of token t; with it there are E * C rows, C for each expert.
/// * `permutedTokens`: device, fp32, fp16 or bf16, `[rows, H]`, any strides.
/// * `sortedIndices`: device, int32, `[rows]`, any strides: the row of each slot, negative for none; with paddedMode
///   the token of each row.
/// * `routingMapOptional`: device, int8 or bool, `[T, E]`, any strides; required with probs without paddedMode, else
///   not read.
/// * `probsOptional`: device, dtype of permutedTokens, or fp32 for bf16, `[T, E]`, any strides; null for weight 1.
/// * `restoreShapeOptional`: host, int64, `[T, H]`; required without probs.
/// * `unpermutedTokens`: device, dtype of permutedTokens, `[T, H]`, any strides.
/// * `outIndex`: device, int32, `[rows]`, any strides: with paddedMode the rows sorted by token; else not written.
/// * `permuteTokenId`: device, int32, `[rows]`, any strides: with paddedMode the tokens of these; else not written.
/// * `permuteProbs`: device, dtype of probs, `[rows]`, any strides: each row's weight. May be null without probs or
///   without paddedMode.
///
/// Where sortedIndices is empty, or permutedTokens without paddedMode, all outputs are set to 0.
pub(super) static MOE_TOKEN_UNPERMUTE_WITH_ROUTING_MAP: OpRow = OpRow {
    operator: OperatorId::MoeTokenUnpermuteWithRoutingMap,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("permutedTokens", FLOATS).rank(2, 2),
        Param::input("sortedIndices", I32).rank(1, 1),
        Param::input("routingMapOptional", FLAGS).rank(2, 2).optional(),
        Param::input("probsOptional", FLOATS).rank(2, 2).optional(),
        Param::value("paddedMode"),
        Param::value("restoreShapeOptional"),
        Param::output("unpermutedTokens", FLOATS).rank(2, 2),
        Param::output("outIndex", I32).rank(1, 1),
        Param::output("permuteTokenId", I32).rank(1, 1),
        Param::output("permuteProbs", FLOATS).rank(1, 1).optional(),
    ],
    rules: &[
        Rule::new("token-count", "probs or restoreShape is given", |call| {
            let given = call.tensor(unpermute::PROBS).is_some() || call.ints(unpermute::RESTORE_SHAPE).is_some();
            require(given, || "neither".to_owned())
        })
        .with_code(aclnnStatus::ERR_PARAM_NULLPTR),
        Rule::dtype("probs-dtype", "probs has the dtype of permutedTokens, or fp32 where that is bf16", |call| {
            weight_dtype(call, unpermute::PROBS, unpermute::PERMUTED)
        }),
        Rule::dtype(
            "out-dtypes",
            "unpermutedTokens has the dtype of permutedTokens, permuteProbs that of probs",
            |call| {
                use unpermute::{OUT, PERMUTED, PERMUTED_PROBS, PROBS};
                same_dtype(call, ("unpermutedTokens", OUT), ("permutedTokens", PERMUTED))?;
                same_dtype(call, ("permuteProbs", PERMUTED_PROBS), ("probs", PROBS))
            },
        ),
        Rule::new("probs-shape", "probs has the shape of routingMap", |call| match call.tensor(unpermute::MAP) {
            Some(map) => shape_is(call, "probs", unpermute::PROBS, &map.shape),
            None => Ok(()),
        })
        .with_code(LATER),
        Rule::new("map-with-probs", "without paddedMode, probs comes together with routingMap", |call| {
            let alone = call.tensor(unpermute::PROBS).is_some() && call.tensor(unpermute::MAP).is_none();
            require(!alone || call.bool(unpermute::PADDED_MODE), || "probs without routingMap".to_owned())
        })
        .with_code(LATER),
        Rule::new("restore-shape", "restoreShape is [T, H]", |call| match call.ints(unpermute::RESTORE_SHAPE) {
            Some(shape) => {
                require(*shape == [token_count(call), dim(call, unpermute::PERMUTED, 1)], || format!("{shape:?}"))
            }
            None => Ok(()),
        })
        .with_code(LATER),
        Rule::new("rows", "permutedTokens has one row per entry of sortedIndices", |call| {
            let (rows, entries) = (dim(call, unpermute::PERMUTED, 0), dim(call, unpermute::SORTED, 0));
            require(rows == entries, || format!("{rows} rows and {entries} entries"))
        })
        .with_code(LATER),
        Rule::new("top-k", "without paddedMode, sortedIndices has T * K entries with K <= 512", |call| {
            let (entries, tokens) = (dim(call, unpermute::SORTED, 0), token_count(call));
            let whole = entries.checked_rem(tokens).unwrap_or(entries) == 0;
            let legal = whole && entries.checked_div(tokens).unwrap_or(0) <= MAX_TOP_K;
            require(legal || call.bool(unpermute::PADDED_MODE), || format!("{entries} entries for {tokens} tokens"))
        })
        .with_code(LATER),
        Rule::new("capacity", "with paddedMode, sortedIndices has as many entries for each expert of probs", |call| {
            let (entries, experts) = (dim(call, unpermute::SORTED, 0), dim(call, unpermute::PROBS, 1));
            let apart = call.tensor(unpermute::PROBS).is_none() || !call.bool(unpermute::PADDED_MODE);
            require(apart || entries.checked_rem(experts).unwrap_or(entries) == 0, || {
                format!("{entries} entries for {experts} experts")
            })
        })
        .with_code(LATER),
        Rule::new("out-shape", "unpermutedTokens is [T, H]", |call| {
            let shape = [token_count(call), dim(call, unpermute::PERMUTED, 1)];
            shape_is(call, "unpermutedTokens", unpermute::OUT, &shape)
        })
        .with_code(LATER),
        Rule::new("permuted-probs", "with paddedMode and probs, permuteProbs is given", |call| {
            let missing = call.tensor(unpermute::PERMUTED_PROBS).is_none() && call.tensor(unpermute::PROBS).is_some();
            require(!missing || !call.bool(unpermute::PADDED_MODE), || "no permuteProbs".to_owned())
        })
        .with_code(LATER),
        Rule::new("row-shapes", "outIndex, permuteTokenId and permuteProbs have one entry per row", |call| {
            use unpermute::{OUT_INDEX, PERMUTED_PROBS, SORTED, TOKEN_ID};
            let rows = [dim(call, SORTED, 0)];
            shape_is(call, "outIndex", OUT_INDEX, &rows)?;
            shape_is(call, "permuteTokenId", TOKEN_ID, &rows)?;
            shape_is(call, "permuteProbs", PERMUTED_PROBS, &rows)
        })
        .with_code(LATER),
    ],
    source: "ops-transformer, commits around 9.1.0, moe/moe_token_unpermute_with_routing_map (docs, op_api)",
    doubtful: "Tiling and kernel were not read: that sums without paddedMode are fp32 in the order of the slots and \
               skip a weight of 0, and that InplaceIndexAddWithSorted adds in fp32, is assumed. Products with \
               paddedMode are rounded to the dtype of both; bf16 rows with fp32 weights are computed in fp32. The \
               wrapper copies outIndex and permuteTokenId only with paddedMode, though the document describes them \
               without it, and does not test them for null. It only warns of a routingMap whose shape differs from \
               that of probs; the document gives 561103. It takes uint8 maps, which the document does not list.",
};

/// Tokens of the result.
fn token_count(call: &Call<'_>) -> i64 {
    let restored = || call.ints(unpermute::RESTORE_SHAPE).and_then(|shape| shape.first().copied()).unwrap_or(0);
    call.tensor(unpermute::PROBS).map_or_else(restored, |probs| probs.dim(0))
}
