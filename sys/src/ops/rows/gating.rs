//! Rows of the routing operators that choose experts.

use crate::constants::aclDataType;
use crate::info::{OperatorId, Release};
use crate::ops::rule::{Call, Codes, OpRow, Param, Rule};

const FLOATS: &[aclDataType] = &[aclDataType::FLOAT, aclDataType::FLOAT16, aclDataType::BF16];
const F32: &[aclDataType] = &[aclDataType::FLOAT];
const I32: &[aclDataType] = &[aclDataType::INT32];

/// The most experts the kernel handles.
const MAX_EXPERTS: i64 = 2048;

/// Positions of the parameters of `aclnnMoeGatingTopK`.
mod gating_top_k {
    pub(super) const X: usize = 0;
    pub(super) const BIAS: usize = 1;
    pub(super) const K: usize = 2;
    pub(super) const K_GROUP: usize = 3;
    pub(super) const GROUP_COUNT: usize = 4;
    pub(super) const GROUP_SELECT_MODE: usize = 5;
    pub(super) const RENORM: usize = 6;
    pub(super) const NORM_TYPE: usize = 7;
    pub(super) const OUT_FLAG: usize = 8;
    pub(super) const Y: usize = 11;
    pub(super) const EXPERT_IDX: usize = 12;
    pub(super) const OUT: usize = 13;
}

/// `aclnnMoeGatingTopK`: scores, selection and weights of a router in one operator.
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
        Rule::new("bias-dtype", "bias has the dtype of x", |call| {
            use gating_top_k::{BIAS, X};
            match (call.tensor(X), call.tensor(BIAS)) {
                (Some(x), Some(bias)) if bias.dtype != x.dtype => {
                    Err(format!("bias is {:?} and x is {:?}", bias.dtype, x.dtype))
                }
                _ => Ok(()),
            }
        }),
        Rule::new("y-dtype", "y has the dtype of x", |call| {
            use gating_top_k::{X, Y};
            match (call.tensor(X), call.tensor(Y)) {
                (Some(x), Some(y)) if y.dtype != x.dtype => Err(format!("y is {:?} and x is {:?}", y.dtype, x.dtype)),
                _ => Ok(()),
            }
        }),
        Rule::new("experts", "x has 1 to 2048 experts in its last dimension and at least one token", |call| {
            let Some(x) = call.tensor(gating_top_k::X) else { return Ok(()) };
            let legal = (1..=MAX_EXPERTS).contains(&experts(call)) && x.dim(0) >= 1;
            legal.then_some(()).ok_or_else(|| format!("x of shape {}", x.shape))
        }),
        Rule::new("bias-shape", "bias has one value per expert", |call| match call.tensor(gating_top_k::BIAS) {
            Some(bias) if bias.dim(0) != experts(call) => {
                Err(format!("bias of shape {} for {} experts", bias.shape, experts(call)))
            }
            _ => Ok(()),
        }),
        Rule::new("group-count", "groupCount is at least 1 and divides the number of experts", |call| {
            let groups = call.int(gating_top_k::GROUP_COUNT);
            let legal = groups >= 1 && experts(call) % groups == 0;
            legal.then_some(()).ok_or_else(|| format!("groupCount {groups} for {} experts", experts(call)))
        }),
        Rule::new("k-group", "1 <= kGroup <= groupCount", |call| {
            let (kept, groups) = (call.int(gating_top_k::K_GROUP), call.int(gating_top_k::GROUP_COUNT));
            (1..=groups).contains(&kept).then_some(()).ok_or_else(|| {
                format!("kGroup {kept} of groupCount {groups}; the nearest legal value is {}", kept.clamp(1, groups))
            })
        }),
        Rule::new("k", "1 <= k <= kGroup * experts / groupCount", |call| {
            let k = call.int(gating_top_k::K);
            let most = call.int(gating_top_k::K_GROUP) * (experts(call) / call.int(gating_top_k::GROUP_COUNT).max(1));
            (1..=most)
                .contains(&k)
                .then_some(())
                .ok_or_else(|| format!("k {k}; the nearest legal value is {}", k.clamp(1, most.max(1))))
        }),
        Rule::new("group-select-mode", "0 (maximum) or 1 (sum of the two best)", |call| {
            let mode = call.int(gating_top_k::GROUP_SELECT_MODE);
            (0..=1).contains(&mode).then_some(()).ok_or_else(|| format!("groupSelectMode {mode}"))
        }),
        Rule::new("top2-group", "groupSelectMode 1 needs at least two experts in a group", |call| {
            let size = experts(call) / call.int(gating_top_k::GROUP_COUNT).max(1);
            let legal = call.int(gating_top_k::GROUP_SELECT_MODE) != 1 || size >= 2;
            legal.then_some(()).ok_or_else(|| format!("groups of {size}"))
        }),
        Rule::new(
            "group-size",
            "groupCount * (experts in a group rounded up to 32) <= 2048 where groups are dropped",
            |call| {
                let (kept, groups) = (call.int(gating_top_k::K_GROUP), call.int(gating_top_k::GROUP_COUNT));
                let grouped = groups != 1 && groups != experts(call) && kept != groups;
                let padded = (experts(call) / groups.max(1) + 31) / 32 * 32 * groups;
                (!grouped || padded <= MAX_EXPERTS).then_some(()).ok_or_else(|| format!("{padded}"))
            },
        ),
        Rule::new("renorm", "0, or 1 from CANN 9.0.0 on", |call| {
            let most = i64::from(call.release >= Release::new(9, 0, 0));
            let renorm = call.int(gating_top_k::RENORM);
            (0..=most)
                .contains(&renorm)
                .then_some(())
                .ok_or_else(|| format!("renorm {renorm} on CANN {}", call.release))
        }),
        Rule::new("norm-type", "0 (softmax) or 1 (sigmoid) on Atlas A3", |call| {
            let norm = call.int(gating_top_k::NORM_TYPE);
            (0..=1).contains(&norm).then_some(()).ok_or_else(|| format!("normType {norm}"))
        }),
        Rule::new(
            "output-shapes",
            "y and expertIdx are [tokens, k]; out is [tokens, experts] where outFlag is true",
            |call| {
                use gating_top_k::{EXPERT_IDX, K, OUT, OUT_FLAG, X, Y};
                let Some(x) = call.tensor(X) else { return Ok(()) };
                for (name, index) in [("y", Y), ("expertIdx", EXPERT_IDX)] {
                    if let Some(t) = call.tensor(index)
                        && *t.shape != [x.dim(0), call.int(K)]
                    {
                        return Err(format!(
                            "{name} of shape {} for {} tokens and k {}",
                            t.shape,
                            x.dim(0),
                            call.int(K)
                        ));
                    }
                }
                match call.tensor(OUT) {
                    Some(out) if call.bool(OUT_FLAG) && *out.shape != *x.shape => {
                        Err(format!("out of shape {} for x of shape {}", out.shape, x.shape))
                    }
                    _ => Ok(()),
                }
            },
        ),
    ],
    source: "ops-transformer 9.1.0, moe/moe_gating_top_k (docs, op_host tiling, op_kernel)",
    doubtful: "",
};

fn experts(call: &Call<'_>) -> i64 {
    call.tensor(gating_top_k::X).map_or(0, |x| x.dim(1))
}
