//! Rows of the routing operators that choose experts.

use super::check::{F32, FLOATS, I32, dim, one_of, require, same_dtype, shape_is};
use crate::info::{OperatorId, Release};
use crate::ops::rule::{Call, Codes, OpRow, Param, Rule};

/// The most experts the kernel handles.
const MAX_EXPERTS: i64 = 2048;
/// Experts of a group are sorted in units of this many.
const SORT_UNIT: i64 = 32;

const X: usize = 0;
const BIAS: usize = 1;
const K: usize = 2;
const K_GROUP: usize = 3;
const GROUP_COUNT: usize = 4;
const GROUP_SELECT_MODE: usize = 5;
const RENORM: usize = 6;
const NORM_TYPE: usize = 7;
const OUT_FLAG: usize = 8;
const Y: usize = 11;
const EXPERT_IDX: usize = 12;
const OUT: usize = 13;

/// `aclnnMoeGatingTopK`: scores, selection and weights of a router in one operator.
///
/// With T tokens and E experts:
/// * `x`: device, fp32, fp16 or bf16, `[T, E]`: router logits.
/// * `biasOptional`: device, dtype of x, `[E]`: added to the scores for the choice only; may be null.
/// * `yOut`: device, dtype of x, `[T, k]`: weights of the chosen experts.
/// * `expertIdxOut`: device, int32, `[T, k]`: chosen experts, best first.
/// * `outOut`: device, fp32, `[T, E]`: all scores; any matrix where outFlag is false, but never null.
///
/// T and E may not be 0.
pub(super) static MOE_GATING_TOP_K: OpRow = OpRow {
    operator: OperatorId::MoeGatingTopK,
    codes: Codes::GENERATED,
    params: &[
        Param::input("x", FLOATS).rank(2, 2),
        Param::input("biasOptional", FLOATS).rank(1, 1).optional(),
        Param::value("k"),
        Param::value("kGroup"),
        Param::value("groupCount"),
        Param::value("groupSelectMode"),
        Param::value("renorm"),
        Param::value("normType"),
        Param::value("outFlag"),
        Param::value("routedScalingFactor"),
        Param::value("eps"),
        Param::output("yOut", FLOATS).rank(2, 2),
        Param::output("expertIdxOut", I32).rank(2, 2),
        Param::output("outOut", F32).rank(2, 2),
    ],
    rules: &[
        Rule::new("bias-dtype", "bias has the dtype of x", |call| same_dtype(call, ("bias", BIAS), ("x", X))),
        Rule::new("y-dtype", "y has the dtype of x", |call| same_dtype(call, ("y", Y), ("x", X))),
        Rule::new("experts", "x has 1 to 2048 experts in its last dimension and at least one token", |call| {
            let Some(x) = call.tensor(X) else { return Ok(()) };
            let legal = (1..=MAX_EXPERTS).contains(&x.dim(1)) && x.dim(0) >= 1;
            require(legal, || format!("x of shape {}", x.shape))
        }),
        Rule::new("bias-shape", "bias has one value per expert", |call| shape_is(call, "bias", BIAS, &[experts(call)])),
        Rule::new("group-count", "groupCount is at least 1 and divides the number of experts", |call| {
            let (groups, experts) = (call.int(GROUP_COUNT), experts(call));
            let legal = groups >= 1 && experts % groups == 0;
            require(legal, || format!("groupCount {groups} for {experts} experts"))
        }),
        Rule::new("k-group", "1 <= kGroup <= groupCount", |call| {
            let (kept, groups) = (call.int(K_GROUP), call.int(GROUP_COUNT));
            require((1..=groups).contains(&kept), || {
                let nearest = kept.clamp(1, groups.max(1));
                format!("kGroup {kept} of groupCount {groups}; the nearest legal value is {nearest}")
            })
        }),
        Rule::new("k", "1 <= k <= kGroup * experts / groupCount", |call| {
            let k = call.int(K);
            let most = call.int(K_GROUP).saturating_mul(group_size(call));
            require((1..=most).contains(&k), || {
                format!("k {k}; the nearest legal value is {}", k.clamp(1, most.max(1)))
            })
        }),
        Rule::new("group-select-mode", "0 (maximum) or 1 (sum of the two best)", |call| {
            one_of(call, "groupSelectMode", GROUP_SELECT_MODE, &[0, 1])
        }),
        Rule::new("top2-group", "groupSelectMode 1 needs at least two experts in a group", |call| {
            let size = group_size(call);
            require(call.int(GROUP_SELECT_MODE) != 1 || size >= 2, || format!("groups of {size}"))
        }),
        Rule::new(
            "group-size",
            "groupCount * (experts in a group rounded up to 32) <= 2048 where groups are dropped",
            |call| {
                let (kept, groups) = (call.int(K_GROUP), call.int(GROUP_COUNT));
                let grouped = groups != 1 && groups != experts(call) && kept != groups;
                let units = group_size(call) / SORT_UNIT + i64::from(group_size(call) % SORT_UNIT != 0);
                let padded = units.saturating_mul(SORT_UNIT).saturating_mul(groups);
                require(!grouped || padded <= MAX_EXPERTS, || padded.to_string())
            },
        ),
        Rule::new("renorm", "0, or 1 from CANN 9.0.0 on", |call| {
            let (renorm, most) = (call.int(RENORM), i64::from(call.release >= Release::new(9, 0, 0)));
            require((0..=most).contains(&renorm), || format!("renorm {renorm} on CANN {}", call.release))
        }),
        Rule::new("norm-type", "0 (softmax) or 1 (sigmoid) on Atlas A3", |call| {
            one_of(call, "normType", NORM_TYPE, &[0, 1])
        }),
        Rule::new(
            "output-shapes",
            "y and expertIdx are [tokens, k]; out is [tokens, experts] where outFlag is true",
            |call| {
                let (tokens, k) = (dim(call, X, 0), call.int(K));
                shape_is(call, "y", Y, &[tokens, k])?;
                shape_is(call, "expertIdx", EXPERT_IDX, &[tokens, k])?;
                if call.bool(OUT_FLAG) { shape_is(call, "out", OUT, &[tokens, experts(call)]) } else { Ok(()) }
            },
        ),
    ],
    source: "ops-transformer 9.1.0 and 8.5.0, moe/moe_gating_top_k (docs, op_host tiling, op_kernel)",
    doubtful: "",
};

fn experts(call: &Call<'_>) -> i64 {
    dim(call, X, 1)
}

/// Experts in a group.
fn group_size(call: &Call<'_>) -> i64 {
    experts(call) / call.int(GROUP_COUNT).max(1)
}
