//! Rows of the operators that sort tokens by expert without more ado, all of them or a range.

use super::check::{Checked, FLOATS, I32, dim, require, same_dtype, shape_is};
use crate::constants::aclDataType;
use crate::info::OperatorId;
use crate::ops::desc::MAX_RANK;
use crate::ops::rule::{Call, Codes, Layout, OpRow, Param, Rule};

const INDICES_DTYPES: &[aclDataType] = &[aclDataType::INT32, aclDataType::INT64];
/// Expert ids are sorted as fp32, and slots are numbered so: both stay below this.
const MAX_SLOTS: i64 = 16_777_215;

const TOKENS: usize = 0;
const INDICES: usize = 1;
const NUM_OUT: usize = 2;
const PADDED_MODE: usize = 3;
const PERMUTED: usize = 4;
const SORTED: usize = 5;

/// `aclnnMoeTokenPermute`: each token's row once per chosen expert, sorted by expert; the sort is stable.
///
/// With T tokens of K choices; a slot is `t * K + j`:
/// * `tokens`: device, fp32, fp16 or bf16, `[T, ..]`, any strides.
/// * `indices`: device, int32 or int64, `[T, K]`, or `[T]` for K = 1, any strides: values in 0..2^24 - 1.
/// * `numOutTokens`: rows kept of the T * K sorted ones: all for 0, the first n for n > 0, all but the last n for -n.
/// * `permuteTokensOut`: device, dtype of tokens, `[rows, ..]` with as many values per row as tokens, contiguous.
/// * `sortedIndicesOut`: device, int32, `[T * K]`, contiguous: the row of each slot, also of those that are not kept.
pub(super) static MOE_TOKEN_PERMUTE: OpRow = OpRow {
    operator: OperatorId::MoeTokenPermute,
    codes: Codes::GENERATED,
    params: &[
        Param::input("tokens", FLOATS).rank(2, MAX_RANK),
        Param::input("indices", INDICES_DTYPES).rank(1, 2),
        Param::value("numOutTokens"),
        Param::value("paddedMode"),
        Param::output("permuteTokensOut", FLOATS).rank(2, MAX_RANK).layout(Layout::Contiguous),
        Param::output("sortedIndicesOut", I32).rank(1, 1).layout(Layout::Contiguous),
    ],
    rules: &[
        Rule::dtype("out-dtype", "permuteTokens has the dtype of tokens", |call| {
            same_dtype(call, ("permuteTokens", PERMUTED), ("tokens", TOKENS))
        }),
        Rule::new("padded-mode", "paddedMode is false", |call| {
            require(!call.bool(PADDED_MODE), || "paddedMode true".to_owned())
        }),
        SAME_TOKENS,
        SLOTS,
        Rule::new(
            "permuted-shape",
            "permuteTokens has the kept rows, each with as many values as one of tokens",
            |call| {
                let (Some(tokens), Some(out)) = (call.tensor(TOKENS), call.tensor(PERMUTED)) else { return Ok(()) };
                let width = |shape: &[i64]| shape.iter().skip(1).fold(1i64, |all, &size| all.saturating_mul(size));
                let kept = kept(call, NUM_OUT);
                let legal = out.dim(0) == kept && width(&out.shape) == width(&tokens.shape);
                require(legal, || format!("permuteTokens of shape {} where {kept} rows are kept", out.shape))
            },
        ),
        Rule::new("sorted-shape", "sortedIndices has one entry per entry of indices", |call| {
            shape_is(call, "sortedIndices", SORTED, &[slots(call)])
        }),
    ],
    source: "ops-transformer 9.1.0, moe/moe_token_permute (docs, op_api)",
    doubtful: "Tiling for A3 was not read: limits are those of the document. A negative numOutTokens is said to cut \
               like a slice; what it gives beyond the number of rows was not seen, here nothing is kept. Whether shapes \
               and layouts of the outputs are checked was not seen.",
};

const SAME_TOKENS: Rule = Rule::new("tokens", "indices has as many rows as tokens", |call| {
    let (tokens, rows) = (dim(call, TOKENS, 0), dim(call, INDICES, 0));
    require(tokens == rows, || format!("{rows} rows of indices for {tokens} tokens"))
});
const SLOTS: Rule = Rule::new("slots", "fewer than 16777215 entries of indices", |call| {
    require(slots(call) < MAX_SLOTS, || slots(call).to_string())
});

fn slots(call: &Call<'_>) -> i64 {
    call.tensor(INDICES).map_or(0, |indices| indices.shape.iter().fold(1i64, |all, &size| all.saturating_mul(size)))
}

/// Rows that are kept, by the attribute at `wanted`.
fn kept(call: &Call<'_>, wanted: usize) -> i64 {
    let (slots, wanted) = (slots(call), call.int(wanted));
    match wanted {
        0 => slots,
        1.. => wanted.min(slots),
        _ => slots.saturating_add(wanted).max(0),
    }
}

/// Positions of the parameters of `aclnnMoeTokenPermuteWithEp` after the first two, which are those of its relative.
mod with_ep {
    pub(super) const PROBS: usize = 2;
    pub(super) const RANGE: usize = 3;
    pub(super) const NUM_OUT: usize = 4;
    pub(super) const PADDED_MODE: usize = 5;
    pub(super) const PERMUTED: usize = 6;
    pub(super) const SORTED: usize = 7;
    pub(super) const PERMUTED_PROBS: usize = 8;
}

/// The range of sorted rows in the array at `index`: start and end. CANN's default is `[0, 0]`, which cannot be told
/// from none.
pub(super) fn range_of_rows(call: &Call<'_>, index: usize) -> Option<(i64, i64)> {
    match call.ints(index) {
        Some(&[start, end]) if (start, end) != (0, 0) => Some((start, end)),
        _ => None,
    }
}

/// The range at `index` is none or two numbers.
pub(super) fn range_length(call: &Call<'_>, index: usize) -> Checked {
    let length = call.ints(index).map_or(0, <[i64]>::len);
    require(matches!(length, 0 | 2), || format!("a range of {length} entries"))
}

/// The range at `index`, where there is one, holds rows of those that there are.
pub(super) fn range_holds_rows(call: &Call<'_>, index: usize, rows: i64) -> Checked {
    let Some((start, end)) = range_of_rows(call, index) else { return Ok(()) };
    require(0 <= start && start < end && end <= rows, || format!("range [{start}, {end}) of {rows} rows"))
}

/// `aclnnMoeTokenPermuteWithEp`: a range of the rows that `aclnnMoeTokenPermute` gives, and of the weights beside them.
///
/// With T tokens of K choices and width H; a slot is `t * K + j`:
/// * `tokens`: device, fp32, fp16 or bf16, `[T, H]`, any strides.
/// * `indices`: device, int32 or int64, `[T, K]`, or `[T]` for K = 1, any strides: values in 0..2^24 - 1.
/// * `probsOptional`: device, dtype of tokens, shape of indices, any strides; may be null.
/// * `rangeOptional`: host, int64, the first of the sorted rows that are wanted and the end of them; null, none and
///   `[0, 0]` for all, and then probs are not read.
/// * `numOutTokens`: as in `aclnnMoeTokenPermute` without a range; with one it cuts nothing here.
/// * `permuteTokensOut`: device, dtype of tokens, `[rows, H]`, contiguous.
/// * `sortedIndicesOut`: device, int32, `[T * K]`, contiguous: the sorted row of each slot, counted from the first of
///   all.
/// * `permuteProbsOut`: device, dtype of tokens, `[rows]`, contiguous; required, and written where probs are read.
pub(super) static MOE_TOKEN_PERMUTE_WITH_EP: OpRow = OpRow {
    operator: OperatorId::MoeTokenPermuteWithEp,
    codes: Codes::GENERATED,
    params: &[
        Param::input("tokens", FLOATS).rank(2, 2),
        Param::input("indices", INDICES_DTYPES).rank(1, 2),
        Param::input("probsOptional", FLOATS).rank(1, 2).optional(),
        Param::value("rangeOptional"),
        Param::value("numOutTokens"),
        Param::value("paddedMode"),
        Param::output("permuteTokensOut", FLOATS).rank(2, 2).layout(Layout::Contiguous),
        Param::output("sortedIndicesOut", I32).rank(1, 1).layout(Layout::Contiguous),
        Param::output("permuteProbsOut", FLOATS).rank(1, 1).layout(Layout::Contiguous),
    ],
    rules: &[
        Rule::dtype("one-dtype", "probs, permuteTokens and permuteProbs have the dtype of tokens", |call| {
            use with_ep::{PERMUTED, PERMUTED_PROBS, PROBS};
            [("probs", PROBS), ("permuteTokens", PERMUTED), ("permuteProbs", PERMUTED_PROBS)]
                .into_iter()
                .try_for_each(|tensor| same_dtype(call, tensor, ("tokens", TOKENS)))
        }),
        Rule::new("padded-mode", "paddedMode is false", |call| {
            require(!call.bool(with_ep::PADDED_MODE), || "paddedMode true".to_owned())
        }),
        SAME_TOKENS,
        SLOTS,
        Rule::new("probs-shape", "probs has the shape of indices", |call| match call.tensor(INDICES) {
            Some(indices) => shape_is(call, "probs", with_ep::PROBS, &indices.shape),
            None => Ok(()),
        }),
        Rule::new("range-length", "range is null or has two entries", |call| range_length(call, with_ep::RANGE)),
        Rule::not_carried("range", "0 <= start < end <= entries of indices", |call| {
            range_holds_rows(call, with_ep::RANGE, slots(call))
        }),
        Rule::not_carried("range-is-cut", "with a range, numOutTokens is 0 or not below its end", |call| {
            let (wanted, range) = (call.int(with_ep::NUM_OUT), range_of_rows(call, with_ep::RANGE));
            let cuts = range.is_some_and(|(_, end)| wanted != 0 && wanted < end);
            require(!cuts, || format!("numOutTokens {wanted}"))
        }),
        Rule::new("permuted-shape", "permuteTokens is [rows, H]", |call| {
            shape_is(call, "permuteTokens", with_ep::PERMUTED, &[rows_with_ep(call), dim(call, TOKENS, 1)])
        }),
        Rule::new("sorted-shape", "sortedIndices has one entry per entry of indices", |call| {
            shape_is(call, "sortedIndices", with_ep::SORTED, &[slots(call)])
        }),
        Rule::new("permuted-probs-shape", "permuteProbs has one entry per row where probs are read", |call| {
            let read = call.tensor(with_ep::PROBS).is_some() && range_of_rows(call, with_ep::RANGE).is_some();
            if !read {
                return Ok(());
            }
            shape_is(call, "permuteProbs", with_ep::PERMUTED_PROBS, &[rows_with_ep(call)])
        }),
    ],
    source: "ops-transformer, commits around 9.1.0, moe/moe_token_permute_with_ep (docs, definition, copying kernel)",
    doubtful: "Tiling was not read. The document subtracts the end of the range from a row's number; the kernel \
               subtracts the start. How numOutTokens and a range work together, and what an empty range gives, was not \
               seen: calls that would show it are not carried. Whether shapes of outputs are checked was not seen.",
};

/// Rows of permuteTokens.
fn rows_with_ep(call: &Call<'_>) -> i64 {
    match range_of_rows(call, with_ep::RANGE) {
        Some((start, end)) => end.saturating_sub(start),
        None => kept(call, with_ep::NUM_OUT),
    }
}
