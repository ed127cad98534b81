//! Rows of the operators that count by expert.

use super::check::{I32, dim, require, shape_is};
use crate::info::OperatorId;
use crate::ops::rule::{Codes, OpRow, Param, Rule};

/// The most experts.
const MAX_EXPERTS: i64 = 2048;
/// Entries are numbered in fp32.
const MAX_ENTRIES: i64 = 1 << 24;

/// `aclnnMoeComputeExpertTokens`: for every expert the number of entries up to and including it.
///
/// * `sortedExperts`: device, int32, `[slots]`, ascending, fewer than 2^24.
/// * `numExperts`: 1 to 2048.
/// * `out`: device, int32, `[numExperts]`: where each expert's rows end.
pub(super) static MOE_COMPUTE_EXPERT_TOKENS: OpRow = OpRow {
    operator: OperatorId::MoeComputeExpertTokens,
    codes: Codes::GENERATED,
    params: &[
        Param::input("sortedExperts", I32).rank(1, 1),
        Param::value("numExperts"),
        Param::output("out", I32).rank(1, 1),
    ],
    rules: &[
        Rule::new("entries", "fewer than 2^24 entries", |call| {
            let entries = dim(call, 0, 0);
            require(entries < MAX_ENTRIES, || entries.to_string())
        }),
        Rule::new("num-experts", "1 to 2048 experts", |call| {
            let experts = call.int(1);
            let nearest = experts.clamp(1, MAX_EXPERTS);
            require(experts == nearest, || format!("numExperts {experts}; the nearest legal value is {nearest}"))
        }),
        Rule::new("out-shape", "out is [numExperts]", |call| shape_is(call, "out", 2, &[call.int(1)])),
    ],
    source: "ops-transformer 9.1.0, moe/moe_compute_expert_tokens (docs, golden script)",
    doubtful: "What the device does with experts that are not ascending, or not below numExperts, was not seen: the \
               simulator reports the former and counts the latter for no expert. Layouts were not seen either.",
};
