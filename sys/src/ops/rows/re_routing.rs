//! Row of the operator that brings rows from several ranks into the order of the experts.

use super::check::{F32, I32, dim, one_of, require, same_dtype, shape_is};
use crate::constants::aclDataType;
use crate::info::OperatorId;
use crate::ops::rule::{Codes, OpRow, Param, Rule};

const TOKENS_DTYPES: &[aclDataType] = &[aclDataType::INT8, aclDataType::FLOAT16, aclDataType::BF16];
const COUNTS_DTYPES: &[aclDataType] = &[aclDataType::INT32, aclDataType::INT64];
/// The widest rows.
const MAX_HIDDEN: i64 = 16_384;

const TOKENS: usize = 0;
const COUNTS: usize = 1;
const SCALES: usize = 2;
const COUNT_TYPE: usize = 3;
const INDEX_TYPE: usize = 4;
const PERMUTED: usize = 5;
const PERMUTED_SCALES: usize = 6;
const INDEX: usize = 7;
const EXPERT_COUNTS: usize = 8;

/// `aclnnMoeReRouting`: rows that lie by rank, and by expert within a rank, are brought into the order of the experts,
/// and of the ranks within an expert.
///
/// With A rows of width H from R ranks for E local experts:
/// * `tokens`: device, int8, fp16 or bf16, `[A, H]`, H <= 16384, any strides.
/// * `expertTokenNumPerRank`: device, int32 or int64, `[R, E]`, any strides: rows of each block, A in all.
/// * `perTokenScalesOptional`: device, fp32, `[A]`, any strides: moved with the rows; may be null.
/// * `expertTokenNumType`: 1, counts. `idxType`: 0, where a row comes from.
/// * `permuteTokensOut`: device, dtype of tokens, `[A, H]`, any strides.
/// * `permutePerTokenScalesOut`: device, fp32, `[A]`, any strides; required, and written where scales are given.
/// * `permuteTokenIdxOut`: device, int32, `[A]`, any strides: the row of tokens that each row is.
/// * `expertTokenNumOut`: device, dtype of expertTokenNumPerRank, `[E]`, any strides: rows of each expert.
pub(super) static MOE_RE_ROUTING: OpRow = OpRow {
    operator: OperatorId::MoeReRouting,
    codes: Codes::GENERATED,
    params: &[
        Param::input("tokens", TOKENS_DTYPES).rank(2, 2),
        Param::input("expertTokenNumPerRank", COUNTS_DTYPES).rank(2, 2),
        Param::input("perTokenScalesOptional", F32).rank(1, 1).optional(),
        Param::value("expertTokenNumType"),
        Param::value("idxType"),
        Param::output("permuteTokensOut", TOKENS_DTYPES).rank(2, 2),
        Param::output("permutePerTokenScalesOut", F32).rank(1, 1),
        Param::output("permuteTokenIdxOut", I32).rank(1, 1),
        Param::output("expertTokenNumOut", COUNTS_DTYPES).rank(1, 1),
    ],
    rules: &[
        Rule::dtype(
            "out-dtypes",
            "permuteTokens has the dtype of tokens, expertTokenNum that of expertTokenNumPerRank",
            |call| {
                same_dtype(call, ("permuteTokens", PERMUTED), ("tokens", TOKENS))?;
                same_dtype(call, ("expertTokenNum", EXPERT_COUNTS), ("expertTokenNumPerRank", COUNTS))
            },
        ),
        Rule::new("count-type", "expertTokenNumType is 1 (counts)", |call| {
            one_of(call, "expertTokenNumType", COUNT_TYPE, &[1])
        }),
        Rule::new("index-type", "idxType is 0 (where a row comes from)", |call| {
            one_of(call, "idxType", INDEX_TYPE, &[0])
        }),
        Rule::new("hidden", "1 <= H <= 16384", |call| {
            let hidden = dim(call, TOKENS, 1);
            let nearest = hidden.clamp(1, MAX_HIDDEN);
            require(hidden == nearest, || format!("H {hidden}; the nearest legal value is {nearest}"))
        }),
        Rule::new("blocks", "expertTokenNumPerRank has at least one rank and one expert", |call| {
            let (ranks, experts) = (dim(call, COUNTS, 0), dim(call, COUNTS, 1));
            require(ranks > 0 && experts > 0, || format!("{ranks} ranks and {experts} experts"))
        }),
        Rule::new("scales-shape", "perTokenScales is [A]", |call| {
            shape_is(call, "perTokenScales", SCALES, &[dim(call, TOKENS, 0)])
        }),
        Rule::new("permuted-shape", "permuteTokens is [A, H]", |call| match call.tensor(TOKENS) {
            Some(tokens) => shape_is(call, "permuteTokens", PERMUTED, &tokens.shape),
            None => Ok(()),
        }),
        Rule::new("permuted-scales-shape", "permutePerTokenScales is [A] where scales are given", |call| {
            match call.tensor(SCALES) {
                Some(scales) => shape_is(call, "permutePerTokenScales", PERMUTED_SCALES, &scales.shape),
                None => Ok(()),
            }
        }),
        Rule::new("index-shape", "permuteTokenIdx is [A]", |call| {
            shape_is(call, "permuteTokenIdx", INDEX, &[dim(call, TOKENS, 0)])
        }),
        Rule::new("counts-shape", "expertTokenNum is [E]", |call| {
            shape_is(call, "expertTokenNum", EXPERT_COUNTS, &[dim(call, COUNTS, 1)])
        }),
    ],
    source: "ops-transformer 9.1.0, moe/moe_re_routing (operator definition, op_host tiling)",
    doubtful: "There is no document. Tiling that Atlas A3 shares with others also takes scales of two dimensions: not \
               taken here. What the device does with counts that do not add up to A was not seen: a finding of the \
               simulator. Layouts were not seen.",
};
