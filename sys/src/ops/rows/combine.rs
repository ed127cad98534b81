//! Rows of the operators that bring expert rows back to their tokens.

use super::check::{Checked, FLOATS, I32, dim, require, same_dtype, shape_is};
use super::permute::{range_holds_rows, range_length, range_of_rows};
use crate::constants::{aclDataType, aclnnStatus};
use crate::info::OperatorId;
use crate::ops::rule::{Call, Codes, Layout, OpRow, Param, Phase, Rule};

/// Positions of the parameters of `aclnnMoeFinalizeRoutingV2`.
mod finalize {
    pub(super) const EXPANDED_X: usize = 0;
    pub(super) const ROW_IDX: usize = 1;
    pub(super) const X1: usize = 2;
    pub(super) const X2: usize = 3;
    pub(super) const BIAS: usize = 4;
    pub(super) const SCALES: usize = 5;
    pub(super) const EXPERT_IDX: usize = 6;
    pub(super) const DROP_PAD_MODE: usize = 7;
    pub(super) const OUT: usize = 8;
}

/// The op_api checks nothing on A3; tiling and the search for a kernel do, and their code is lost on the way.
const FINALIZE_CODES: Codes = Codes {
    null: aclnnStatus::ERR_INNER_NULLPTR,
    dtype: aclnnStatus::ERR_INNER_NULLPTR,
    other: aclnnStatus::ERR_INNER_NULLPTR,
    phase: Phase::One,
};

/// `aclnnMoeFinalizeRoutingV2`: `out[t] = x1[t] + x2[t] + sum_j scales[t, j] * (expandedX[row(t, j)] + bias[expert(t,
/// j)])`.
///
/// With T tokens of width H and K choices each, K = 1 where scales is null:
/// * `expandedX`: device, fp32, fp16 or bf16, `[rows, H]`, or `[E, C, H]` in dropPadMode 1 and 3.
/// * `expandedRowIdx`: device, int32, `[T * K]`, at `j * T + t` in dropPadMode 0 and 1, at `t * K + j` in 2 and 3.
/// * `x1Optional`, `x2Optional`: device, dtype of expandedX, `[T, H]`; may be null, x1 only together with x2.
/// * `biasOptional`: device, dtype of expandedX, `[E, H]`, E >= K; may be null.
/// * `scalesOptional`: device, dtype of expandedX, or fp32 for bf16, `[T, K]`; may be null.
/// * `expertIdxOptional`: device, int32, `[T, K]`; may be null without bias.
/// * `out`: device, dtype of expandedX, `[T, H]`.
///
/// Any strides: the operator copies. T and H may be 0.
pub(super) static MOE_FINALIZE_ROUTING_V2: OpRow = OpRow {
    operator: OperatorId::MoeFinalizeRoutingV2,
    codes: FINALIZE_CODES,
    params: &[
        Param::input("expandedX", FLOATS).rank(2, 3),
        Param::input("expandedRowIdx", I32).rank(1, 1),
        Param::input("x1Optional", FLOATS).rank(2, 2).optional(),
        Param::input("x2Optional", FLOATS).rank(2, 2).optional(),
        Param::input("biasOptional", FLOATS).rank(2, 2).optional(),
        Param::input("scalesOptional", FLOATS).rank(2, 2).optional(),
        Param::input("expertIdxOptional", I32).rank(2, 2).optional(),
        Param::value("dropPadMode"),
        Param::output("out", FLOATS).rank(2, 2),
    ],
    rules: &[
        Rule::new(
            "drop-pad-mode",
            "0 or 2 (every slot kept, by column or row), 1 or 3 (drop-pad, by column or row)",
            |call| {
                let mode = call.int(finalize::DROP_PAD_MODE);
                require((0..=3).contains(&mode), || {
                    format!("dropPadMode {mode}; the nearest legal value is {}", mode.clamp(0, 3))
                })
            },
        ),
        Rule::dtype("summand-dtypes", "x1, x2, bias and out have the dtype of expandedX", |call| {
            use finalize::{BIAS, EXPANDED_X, OUT, X1, X2};
            [("x1", X1), ("x2", X2), ("bias", BIAS), ("out", OUT)]
                .into_iter()
                .try_for_each(|summand| same_dtype(call, summand, ("expandedX", EXPANDED_X)))
        }),
        Rule::dtype("scales-dtype", "scales has the dtype of expandedX, or fp32 where that is bf16", |call| {
            use finalize::{EXPANDED_X, SCALES};
            let (Some(x), Some(scales)) = (call.tensor(EXPANDED_X), call.tensor(SCALES)) else { return Ok(()) };
            let legal = scales.dtype == x.dtype || (scales.dtype, x.dtype) == (aclDataType::FLOAT, aclDataType::BF16);
            require(legal, || format!("scales is {:?} and expandedX is {:?}", scales.dtype, x.dtype))
        }),
        Rule::new("expanded-rank", "expandedX is [rows, H] in dropPadMode 0 and 2, [E, C, H] in 1 and 3", |call| {
            let Some(x) = call.tensor(finalize::EXPANDED_X) else { return Ok(()) };
            let rank = if padded(call) { 3 } else { 2 };
            let mode = call.int(finalize::DROP_PAD_MODE);
            require(x.rank() == rank, || format!("expandedX of shape {} with dropPadMode {mode}", x.shape))
        }),
        Rule::new("scales-shape", "scales is [T, K], K >= 1, for the T * K entries of expandedRowIdx", |call| {
            let Some(scales) = call.tensor(finalize::SCALES) else { return Ok(()) };
            let slots = dim(call, finalize::ROW_IDX, 0);
            let legal = scales.dim(1) >= 1 && scales.dim(0).checked_mul(scales.dim(1)) == Some(slots);
            require(legal, || format!("scales of shape {} for {slots} entries of expandedRowIdx", scales.shape))
        }),
        Rule::new("x1-shape", "x1 is [T, H]", |call| token_shape(call, "x1", finalize::X1)),
        Rule::new("x2-without-x1", "x2 is given together with x1", |call| {
            let alone = call.tensor(finalize::X2).is_some() && call.tensor(finalize::X1).is_none();
            require(!alone, || "x2 without x1".to_owned())
        }),
        Rule::new("x2-shape", "x2 is [T, H]", |call| token_shape(call, "x2", finalize::X2)),
        Rule::new("bias-without-experts", "bias is given together with expertIdx", |call| {
            let alone = call.tensor(finalize::BIAS).is_some() && call.tensor(finalize::EXPERT_IDX).is_none();
            require(!alone, || "bias without expertIdx".to_owned())
        }),
        Rule::new("bias-shape", "bias is [E, H], in dropPadMode 1 and 3 with the E of expandedX", |call| {
            let Some(bias) = call.tensor(finalize::BIAS) else { return Ok(()) };
            let experts = dim(call, finalize::EXPANDED_X, 0);
            let legal = bias.dim(1) == hidden(call) && (!padded(call) || bias.dim(0) == experts);
            require(legal, || format!("bias of shape {} for width {}", bias.shape, hidden(call)))
        }),
        Rule::new("expert-idx-shape", "expertIdx is [T, K]", |call| {
            let (tokens, k) = (tokens(call), top_k(call));
            shape_is(call, "expertIdx", finalize::EXPERT_IDX, &[tokens, k])
        }),
        Rule::new("experts", "bias has at least K rows", |call| match call.tensor(finalize::BIAS) {
            Some(bias) => require(bias.dim(0) >= top_k(call), || {
                format!("bias of shape {} with {} choices per token", bias.shape, top_k(call))
            }),
            None => Ok(()),
        }),
        Rule::new("out-shape", "out is [T, H]", |call| token_shape(call, "out", finalize::OUT)),
    ],
    source: "ops-transformer 9.1.0, moe/moe_finalize_routing_v2 (docs, op_api, op_host tiling for A2 and A3)",
    doubtful: "On A3 a null out is dereferenced: the simulator answers as for the other tensors. Tiling does not \
               compare the first dimension of scales with expandedRowIdx, and the rows of expandedX with nothing: \
               expandedRowIdx must stay below them. The document gives 161001 and 161002 for null pointers and dtypes.",
};

/// Whether expandedX has a padded block of rows per expert.
fn padded(call: &Call<'_>) -> bool {
    matches!(call.int(finalize::DROP_PAD_MODE), 1 | 3)
}

fn hidden(call: &Call<'_>) -> i64 {
    dim(call, finalize::EXPANDED_X, -1)
}

fn top_k(call: &Call<'_>) -> i64 {
    call.tensor(finalize::SCALES).map_or(1, |scales| scales.dim(1))
}

fn tokens(call: &Call<'_>) -> i64 {
    dim(call, finalize::ROW_IDX, 0).checked_div(top_k(call)).unwrap_or(0)
}

fn token_shape(call: &Call<'_>, name: &str, index: usize) -> Checked {
    shape_is(call, name, index, &[tokens(call), hidden(call)])
}

/// Positions of the parameters of `aclnnMoeTokenUnpermute`.
mod unpermute {
    pub(super) const PERMUTED: usize = 0;
    pub(super) const INDICES: usize = 1;
    pub(super) const PROBS: usize = 2;
    pub(super) const PADDED_MODE: usize = 3;
    pub(super) const OUT: usize = 5;
}

/// The most choices per token of `aclnnMoeTokenUnpermute`.
const MAX_TOP_K: i64 = 512;

/// `aclnnMoeTokenUnpermute`: `out[t] = sum_j probs[t, j] * permutedTokens[sortedIndices[t * K + j]]`.
///
/// With T tokens of width H and K <= 512 choices each, K = 1 where probs is null:
/// * `permutedTokens`: device, fp32, fp16 or bf16, `[rows, H]`, any strides.
/// * `sortedIndices`: device, int32, `[T * K]`, any strides.
/// * `probsOptional`: device, fp32, fp16 or bf16 whatever the tokens are, `[T, K]`, any strides; may be null.
/// * `restoreShapeOptional`: host, int64; not read without paddedMode.
/// * `out`: device, dtype of permutedTokens, `[T, H]`, contiguous.
pub(super) static MOE_TOKEN_UNPERMUTE: OpRow = OpRow {
    operator: OperatorId::MoeTokenUnpermute,
    codes: Codes::GENERATED,
    params: &[
        Param::input("permutedTokens", FLOATS).rank(2, 2),
        Param::input("sortedIndices", I32).rank(1, 1),
        Param::input("probsOptional", FLOATS).rank(2, 2).optional(),
        Param::value("paddedMode"),
        Param::value("restoreShapeOptional"),
        Param::output("out", FLOATS).rank(2, 2).layout(Layout::Contiguous),
    ],
    rules: &[
        Rule::dtype("out-dtype", "out has the dtype of permutedTokens", |call| {
            same_dtype(call, ("out", unpermute::OUT), ("permutedTokens", unpermute::PERMUTED))
        }),
        Rule::new("padded-mode", "paddedMode is false", |call| {
            require(!call.bool(unpermute::PADDED_MODE), || "paddedMode true".to_owned())
        }),
        Rule::new("indices-length", "sortedIndices has one entry per entry of probs", |call| {
            let Some(probs) = call.tensor(unpermute::PROBS) else { return Ok(()) };
            let slots = dim(call, unpermute::INDICES, 0);
            let legal = probs.dim(0).checked_mul(probs.dim(1)) == Some(slots);
            require(legal, || format!("{slots} indices for probs of shape {}", probs.shape))
        }),
        Rule::new("top-k", "at most 512 choices per token", |call| {
            let k = dim(call, unpermute::PROBS, 1);
            require(k <= MAX_TOP_K, || format!("{k} choices; the nearest legal value is {MAX_TOP_K}"))
        }),
        Rule::new("out-shape", "out is [T, H]", |call| {
            let slots = dim(call, unpermute::INDICES, 0);
            let tokens = call.tensor(unpermute::PROBS).map_or(slots, |probs| probs.dim(0));
            shape_is(call, "out", unpermute::OUT, &[tokens, dim(call, unpermute::PERMUTED, 1)])
        }),
    ],
    source: "ops-transformer 9.1.0, moe/moe_token_unpermute (docs, op_api, op_host tiling)",
    doubtful: "The document wants restoreShape null; torch passes [1] and nothing reads it. Whether paddedMode and the \
               shape of out are checked on A3 was not seen in tiling.",
};

/// Positions of the parameters of `aclnnMoeTokenUnpermuteWithEp` after the first three, which are those of its
/// relative.
mod with_ep {
    pub(super) const TOP_K: usize = 3;
    pub(super) const RANGE: usize = 4;
    pub(super) const PADDED_MODE: usize = 5;
    pub(super) const OUT: usize = 7;
}

/// `aclnnMoeTokenUnpermuteWithEp`: `aclnnMoeTokenUnpermute` where only a range of the sorted rows is at hand; slots
/// whose row is not in it are left out.
///
/// With T tokens of width H and K <= 512 choices each:
/// * `permutedTokens`: device, fp32, fp16 or bf16, `[rows, H]`, any strides: the rows from start to before end.
/// * `sortedIndices`: device, int32, `[T * K]`, any strides: sorted rows, counted from the first of all.
/// * `probsOptional`: device, fp32, fp16 or bf16 whatever the tokens are, `[T, K]`, any strides; null for weight 1.
/// * `numTopk`: K.
/// * `rangeOptional`: host, int64, `[start, end)`; null, none and `[0, 0]` for `aclnnMoeTokenUnpermute`.
/// * `restoreShapeOptional`: host, int64; not read without paddedMode.
/// * `out`: device, dtype of permutedTokens, `[T, H]`, any strides.
pub(super) static MOE_TOKEN_UNPERMUTE_WITH_EP: OpRow = OpRow {
    operator: OperatorId::MoeTokenUnpermuteWithEp,
    codes: Codes::GENERATED,
    params: &[
        Param::input("permutedTokens", FLOATS).rank(2, 2),
        Param::input("sortedIndices", I32).rank(1, 1),
        Param::input("probsOptional", FLOATS).rank(2, 2).optional(),
        Param::value("numTopk"),
        Param::value("rangeOptional"),
        Param::value("paddedMode"),
        Param::value("restoreShapeOptional"),
        Param::output("out", FLOATS).rank(2, 2),
    ],
    rules: &[
        Rule::dtype("out-dtype", "out has the dtype of permutedTokens", |call| {
            same_dtype(call, ("out", with_ep::OUT), ("permutedTokens", unpermute::PERMUTED))
        }),
        Rule::new("padded-mode", "paddedMode is false", |call| {
            require(!call.bool(with_ep::PADDED_MODE), || "paddedMode true".to_owned())
        }),
        Rule::new("top-k", "1 to 512 choices per token, as many as probs has", |call| {
            let k = call.int(with_ep::TOP_K);
            let nearest = call.tensor(unpermute::PROBS).map_or(k, |probs| probs.dim(1)).clamp(1, MAX_TOP_K);
            require(k == nearest, || format!("numTopk {k}; the nearest legal value is {nearest}"))
        }),
        Rule::new("indices-length", "sortedIndices has T * K entries", |call| {
            let (slots, k) = (dim(call, unpermute::INDICES, 0), call.int(with_ep::TOP_K));
            let legal = match call.tensor(unpermute::PROBS) {
                Some(probs) => probs.dim(0).checked_mul(probs.dim(1)) == Some(slots),
                None => slots.checked_rem(k).is_none_or(|rest| rest == 0),
            };
            require(legal, || format!("{slots} indices for {k} choices per token"))
        }),
        Rule::new("range-length", "range is null or has two entries", |call| range_length(call, with_ep::RANGE)),
        Rule::not_carried("range", "0 <= start < end <= entries of sortedIndices", |call| {
            range_holds_rows(call, with_ep::RANGE, dim(call, unpermute::INDICES, 0))
        }),
        Rule::not_carried("choices-without-probs", "without a range and probs, one choice per token", |call| {
            let (k, range) = (call.int(with_ep::TOP_K), range_of_rows(call, with_ep::RANGE));
            let unclear = k != 1 && range.is_none() && call.tensor(unpermute::PROBS).is_none();
            require(!unclear, || format!("numTopk {k} with neither"))
        }),
        Rule::new("out-shape", "out is [T, H]", |call| {
            let tokens = dim(call, unpermute::INDICES, 0).checked_div(call.int(with_ep::TOP_K)).unwrap_or(0);
            shape_is(call, "out", with_ep::OUT, &[tokens, dim(call, unpermute::PERMUTED, 1)])
        }),
    ],
    source: "ops-transformer, commits around 9.1.0, moe/moe_token_unpermute_with_ep (docs, op_host tiling)",
    doubtful: "The kernel was not read: that a slot with probability 0 is skipped and that sums are fp32 in the order \
               of the choices is taken from its relative. The document gives permutedTokens K times the rows of the \
               range and its example has the rows of the range; tiling compares nothing, and a row of the range that \
               is not there is a finding of the simulator. Without a range the document ignores numTopk and tiling \
               does not: a call that would show the difference is not carried.",
};
