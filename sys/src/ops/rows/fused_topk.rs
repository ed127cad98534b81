//! Row of the router that may name replicas of the experts it chooses.

use super::check::{Checked, F32, FLOATS, I32, dim, require, same_dtype, shape_is};
use crate::constants::{aclDataType, aclnnStatus};
use crate::info::OperatorId;
use crate::ops::desc::TensorDesc;
use crate::ops::rule::{Call, Codes, OpRow, Param, Rule};

/// The most experts, groups, and replicas of an expert.
const MAX_EXPERTS: i64 = 1024;
const MAX_GROUPS: i64 = 256;
const MAX_REPLICAS: i64 = 128;

const X: usize = 0;
const ADD_NUM: usize = 1;
const MAPPING_NUM: usize = 2;
const MAPPING_TABLE: usize = 3;
const GROUP_NUM: usize = 4;
const GROUP_TOPK: usize = 5;
const TOP_N: usize = 6;
const TOP_K: usize = 7;
const ACTIVATE_TYPE: usize = 8;
const ENABLE_MAPPING: usize = 11;
const Y: usize = 12;
const INDICES: usize = 13;

const MAPPING: [(&str, usize); 2] = [("mappingNum", MAPPING_NUM), ("mappingTable", MAPPING_TABLE)];

/// `aclnnMoeFusedTopk`: sigmoid, group limit, choice and weights of a router in one operator.
///
/// With T tokens and E experts:
/// * `x`: device, fp32, fp16 or bf16, `[T, E]`: router logits.
/// * `addNum`: device, dtype of x, `[E]`: added to the scores for the choice only.
/// * `mappingNum`: device, int32, `[E]`: how many physical experts stand for each, at most R; may be null.
/// * `mappingTable`: device, int32, `[E, R]`, R <= 128: the physical experts; may be null.
/// * `groupNum`, `groupTopk`, `topN`, `topK`: groups of experts, groups kept by the sum of their topN best scores,
///   experts per token. What is not kept has score 0.
/// * `isNorm`: whether weights are divided by their sum and multiplied by `scale`; without it scale has no effect.
/// * `enableExpertMapping`: whether the chosen expert e of token t becomes `mappingTable[e, t % mappingNum[e]]`,
///   `mappingTable[e, 0]` where mappingNum is 0.
/// * `y`: device, fp32, `[T, topK]`: weights of the chosen experts.
/// * `indices`: device, int32, `[T, topK]`: chosen experts, best first.
///
/// Any strides: the operator copies. Where x is empty shapes and numbers are not looked at, and nothing is done.
pub(super) static MOE_FUSED_TOPK: OpRow = OpRow {
    operator: OperatorId::MoeFusedTopk,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("x", FLOATS).rank(2, 2),
        Param::input("addNum", FLOATS).rank(1, 1),
        Param::input("mappingNum", &[]).optional(),
        Param::input("mappingTable", &[]).optional(),
        Param::value("groupNum"),
        Param::value("groupTopk"),
        Param::value("topN"),
        Param::value("topK"),
        Param::value("activateType"),
        Param::value("isNorm"),
        Param::value("scale"),
        Param::value("enableExpertMapping"),
        Param::output("y", F32).rank(2, 2),
        Param::output("indices", I32).rank(2, 2),
    ],
    rules: &[
        Rule::new("mapping-missing", "with enableExpertMapping mappingNum and mappingTable are given", |call| {
            let null = MAPPING.iter().find(|(_, index)| call.bool(ENABLE_MAPPING) && call.tensor(*index).is_none());
            null.map_or(Ok(()), |(name, _)| Err(format!("{name} is null")))
        })
        .with_code(aclnnStatus::ERR_PARAM_NULLPTR),
        Rule::dtype("add-num-dtype", "addNum has the dtype of x", |call| {
            same_dtype(call, ("addNum", ADD_NUM), ("x", X))
        }),
        Rule::dtype("mapping-dtype", "with enableExpertMapping mappingNum and mappingTable are int32", |call| {
            MAPPING.iter().filter(|_| call.bool(ENABLE_MAPPING)).try_for_each(|&(name, index)| {
                match call.tensor(index) {
                    Some(TensorDesc { dtype, .. }) => {
                        require(*dtype == aclDataType::INT32, || format!("{name} is {dtype:?}"))
                    }
                    None => Ok(()),
                }
            })
        }),
        Rule::new("group-num", "1 <= groupNum <= 256, and it divides the number of experts", |call| {
            let (groups, experts) = (call.int(GROUP_NUM), experts(call));
            let legal = (1..=MAX_GROUPS).contains(&groups) && experts % groups == 0;
            require(legal || is_empty(call), || format!("groupNum {groups} for {experts} experts"))
        }),
        Rule::new("group-topk", "1 <= groupTopk <= groupNum", |call| within::<GROUP_TOPK>(call, call.int(GROUP_NUM))),
        Rule::new("top-n", "1 <= topN <= experts in a group", |call| {
            within::<TOP_N>(call, experts(call) / call.int(GROUP_NUM).max(1))
        }),
        Rule::new("top-k", "1 <= topK <= experts", |call| within::<TOP_K>(call, experts(call))),
        Rule::new("experts", "at most 1024 experts", |call| {
            let experts = experts(call);
            require(experts <= MAX_EXPERTS || is_empty(call), || {
                format!("{experts} experts; the nearest legal value is {MAX_EXPERTS}")
            })
        }),
        Rule::new("add-num-shape", "addNum has one value per expert", |call| {
            shape_unless_empty(call, "addNum", ADD_NUM, &[experts(call)])
        }),
        Rule::new("output-shapes", "y and indices are [T, topK]", |call| {
            let shape = [dim(call, X, 0), call.int(TOP_K)];
            shape_unless_empty(call, "y", Y, &shape)?;
            shape_unless_empty(call, "indices", INDICES, &shape)
        }),
        Rule::new("mapping-shapes", "mappingNum is [E], mappingTable is [E, R] with R from 1 to 128", |call| {
            let (Some(table), true) = (call.tensor(MAPPING_TABLE), call.bool(ENABLE_MAPPING)) else { return Ok(()) };
            shape_unless_empty(call, "mappingNum", MAPPING_NUM, &[experts(call)])?;
            let legal = table.rank() == 2 && (1..=MAX_REPLICAS).contains(&table.dim(1));
            require(legal || is_empty(call), || format!("mappingTable of shape {}", table.shape))?;
            shape_unless_empty(call, "mappingTable", MAPPING_TABLE, &[experts(call), table.dim(1)])
        }),
        Rule::new("activate-type", "0 (sigmoid)", |call| {
            let kind = call.int(ACTIVATE_TYPE);
            require(kind == 0 || is_empty(call), || format!("activateType {kind}"))
        })
        .with_code(aclnnStatus::ERR_INNER_NULLPTR),
    ],
    source: "ops-transformer 9.1.0, moe/moe_fused_topk (docs, op_api, op_kernel, golden script of its system test)",
    doubtful: "Tiling was not read: that it refuses an activateType, and with which code, is a guess, as the op_api \
               does not look at it. A table without columns passes the op_api and could not be read from. Where x is \
               empty the op_api does not look at ranks either. A mappingNum above the columns of the table reads the \
               next expert's. The document calls the experts of the table logical ones.",
};

fn experts(call: &Call<'_>) -> i64 {
    dim(call, X, 1)
}

fn is_empty(call: &Call<'_>) -> bool {
    call.tensor(X).is_some_and(TensorDesc::is_empty)
}

/// The integer at `VALUE` is from 1 to `most`.
fn within<const VALUE: usize>(call: &Call<'_>, most: i64) -> Checked {
    let value = call.int(VALUE);
    require((1..=most).contains(&value) || is_empty(call), || {
        format!("{value}; the nearest legal value is {}", value.clamp(1, most.max(1)))
    })
}

fn shape_unless_empty(call: &Call<'_>, name: &str, index: usize, shape: &[i64]) -> Checked {
    if is_empty(call) { Ok(()) } else { shape_is(call, name, index, shape) }
}
