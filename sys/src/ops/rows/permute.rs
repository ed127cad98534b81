//! Rows of the operators that sort tokens by expert without more ado.

use super::check::{FLOATS, I32, dim, require, same_dtype, shape_is};
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
        Rule::new("tokens", "indices has as many rows as tokens", |call| {
            let (tokens, rows) = (dim(call, TOKENS, 0), dim(call, INDICES, 0));
            require(tokens == rows, || format!("{rows} rows of indices for {tokens} tokens"))
        }),
        Rule::new("slots", "fewer than 16777215 entries of indices", |call| {
            require(slots(call) < MAX_SLOTS, || slots(call).to_string())
        }),
        Rule::new(
            "permuted-shape",
            "permuteTokens has the kept rows, each with as many values as one of tokens",
            |call| {
                let (Some(tokens), Some(out)) = (call.tensor(TOKENS), call.tensor(PERMUTED)) else { return Ok(()) };
                let width = |shape: &[i64]| shape.iter().skip(1).fold(1i64, |all, &size| all.saturating_mul(size));
                let legal = out.dim(0) == kept(call) && width(&out.shape) == width(&tokens.shape);
                require(legal, || format!("permuteTokens of shape {} where {} rows are kept", out.shape, kept(call)))
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

fn slots(call: &Call<'_>) -> i64 {
    call.tensor(INDICES).map_or(0, |indices| indices.shape.iter().fold(1i64, |all, &size| all.saturating_mul(size)))
}

/// Rows that are kept.
fn kept(call: &Call<'_>) -> i64 {
    let (slots, wanted) = (slots(call), call.int(NUM_OUT));
    match wanted {
        0 => slots,
        1.. => wanted.min(slots),
        _ => slots.saturating_add(wanted).max(0),
    }
}
