//! Row of the operator that sorts tokens by expert.

use super::check::{Checked, F32, I32, I64, dim, one_of, require, same_dtype, shape_is};
use crate::constants::{aclDataType, aclnnStatus};
use crate::info::{OperatorId, Release};
use crate::ops::rule::{Call, Codes, OpRow, Param, Phase, Rule};

const TOKENS: &[aclDataType] = &[aclDataType::FLOAT, aclDataType::FLOAT16, aclDataType::BF16, aclDataType::INT8];

/// The highest end of the range of experts, and of that with key-value counts.
const MAX_EXPERT_END: i64 = 10240;
const MAX_EXPERT_END_KEY_VALUE: i64 = MAX_EXPERT_END / 2;

/// Values of `quantMode`.
const STATIC: i64 = 0;
const DYNAMIC: i64 = 1;

/// Values of `expertTokensNumType`.
const COUNT: i64 = 1;
const KEY_VALUE: i64 = 2;

const X: usize = 0;
const EXPERT_IDX: usize = 1;
const SCALE: usize = 2;
const OFFSET: usize = 3;
const ACTIVE_NUM: usize = 4;
const EXPERT_CAPACITY: usize = 5;
const EXPERT_NUM: usize = 6;
const DROP_PAD_MODE: usize = 7;
const COUNT_TYPE: usize = 8;
const COUNT_FLAG: usize = 9;
const QUANT_MODE: usize = 10;
const EXPERT_RANGE: usize = 11;
const ROW_IDX_TYPE: usize = 12;
const EXPANDED_X: usize = 13;
const EXPANDED_ROW_IDX: usize = 14;
const COUNTS: usize = 15;
const EXPANDED_SCALE: usize = 16;

/// The checks are made where the second call launches the kernel: the first one answers 0 for an invalid call.
const CODES: Codes = Codes {
    null: aclnnStatus::ERR_PARAM_NULLPTR,
    dtype: aclnnStatus::ERR_INNER_NULLPTR,
    other: aclnnStatus::ERR_INNER_NULLPTR,
    phase: Phase::Two,
};

/// `aclnnMoeInitRoutingV3`: sorts the slots (token, choice) by expert, copies or quantises each slot's row of x to its
/// place, counts.
///
/// With T tokens of width H, K choices each, and M = min(activeNum, T * K) rows, T * K where activeNum is -1 or 0:
/// * `x`: device, fp32, fp16, bf16 or int8, `[T, H]`.
/// * `expertIdx`: device, int32, `[T, K]`.
/// * `scaleOptional`: device, fp32. quantMode -1: `[T]`, a value per token that is carried to its rows; may be null. 0:
///   `[1]`, what x is multiplied by. 1: `[end - start, H]` or `[1, H]`, what the rows of each expert are multiplied by
///   before their scale is found; may be null.
/// * `offsetOptional`: device, fp32, quantMode 0: `[1]`, added to the products; may be null in the other modes.
/// * `activeExpertRangeOptional`: host, int64, `[start, end)` of the experts that count; null or empty for all from
///   9.0.0 on.
/// * `expandedXOut`: device, dtype of x, quantised int8, `[M, H]`, or `[expertNum, expertCapacity, H]` with dropPadMode 1.
/// * `expandedRowIdxOut`: device, int32, `[T * K]`.
/// * `expertTokensCountOrCumsumOut`: device, int64, `[end - start]`, or `[expertNum, 2]` with expertTokensNumType 2;
///   any shape where expertTokensNumFlag is false, but never null.
/// * `expandedScaleOut`: device, fp32, one value per row of expandedX: the value carried, or what the quantised row is to
///   be multiplied by; any shape where there is neither, but never null.
///
/// Any strides: the operator copies. From 9.0.0 on T may be 0.
pub(super) static MOE_INIT_ROUTING_V3: OpRow = OpRow {
    operator: OperatorId::MoeInitRoutingV3,
    codes: CODES,
    params: &[
        Param::input("x", TOKENS).rank(2, 2),
        Param::input("expertIdx", I32).rank(2, 2),
        Param::input("scaleOptional", F32).optional(),
        Param::input("offsetOptional", F32).optional(),
        Param::value("activeNum"),
        Param::value("expertCapacity"),
        Param::value("expertNum"),
        Param::value("dropPadMode"),
        Param::value("expertTokensNumType"),
        Param::value("expertTokensNumFlag"),
        Param::value("quantMode"),
        Param::value("activeExpertRangeOptional"),
        Param::value("rowIdxType"),
        Param::output("expandedXOut", TOKENS).rank(2, 3),
        Param::output("expandedRowIdxOut", I32).rank(1, 1),
        Param::output("expertTokensCountOrCumsumOut", I64),
        Param::output("expandedScaleOut", F32),
    ],
    rules: &[
        Rule::new(
            "drop-pad-mode",
            "0 (keep every slot), or 1 (expertCapacity slots per expert) from CANN 9.0.0 on",
            |call| {
                let mode = call.int(DROP_PAD_MODE);
                require(mode == 0 || (mode == 1 && !is_8_5(call)), || {
                    format!("dropPadMode {mode} on CANN {}", call.release)
                })
            },
        ),
        Rule::new(
            "active-num",
            "without drop-pad tokens * K, from CANN 9.0.0 on also any other number of rows, or -1 or 0 for all of them",
            |call| {
                let (active, all) = (call.int(ACTIVE_NUM), slots(call));
                let legal = if is_8_5(call) { active == all } else { drop_pad(call) || active >= -1 };
                require(legal, || {
                    format!("activeNum {active} on CANN {}; the nearest legal value is {all}", call.release)
                })
            },
        ),
        Rule::new("expert-num", "expertNum is at least 1", |call| {
            let experts = call.int(EXPERT_NUM);
            require(experts >= 1, || format!("expertNum {experts}"))
        }),
        Rule::new("range-length", "a range of two numbers, from CANN 9.0.0 on also none", |call| {
            let length = call.ints(EXPERT_RANGE).map_or(0, <[i64]>::len);
            require(length == 2 || (length == 0 && !is_8_5(call)), || {
                format!("a range of {length} numbers on CANN {}", call.release)
            })
        }),
        Rule::new("expert-range", "0 <= start < end <= expertNum", |call| {
            let ((start, end), experts) = (expert_range(call), call.int(EXPERT_NUM));
            require(0 <= start && start < end && end <= experts, || format!("experts {start} to {end} of {experts}"))
        }),
        Rule::new("expert-limit", "the range ends at 10240, with key-value counts at 5120, or before", |call| {
            let (_, end) = expert_range(call);
            let most = if call.int(COUNT_TYPE) == KEY_VALUE { MAX_EXPERT_END_KEY_VALUE } else { MAX_EXPERT_END };
            require(end <= most, || format!("experts up to {end}; the nearest legal value is {most}"))
        }),
        Rule::new("capacity", "with drop-pad 1 <= expertCapacity <= tokens", |call| {
            let (capacity, tokens) = (call.int(EXPERT_CAPACITY), dim(call, X, 0));
            require(!drop_pad(call) || (1..=tokens).contains(&capacity), || {
                format!("expertCapacity {capacity} for {tokens} tokens")
            })
        }),
        Rule::new("row-idx-type", "0 (gather) or 1 (scatter)", |call| {
            one_of(call, "rowIdxType", ROW_IDX_TYPE, &[0, 1])
        }),
        Rule::new("drop-pad-row-idx", "with drop-pad rowIdxType is 0", |call| {
            require(!drop_pad(call) || call.int(ROW_IDX_TYPE) != 1, || "rowIdxType 1 with dropPadMode 1".to_owned())
        }),
        Rule::new("drop-pad-range", "with drop-pad the range is that of all experts", |call| {
            let (start, end) = expert_range(call);
            require(!drop_pad(call) || (start == 0 && end >= call.int(EXPERT_NUM)), || {
                format!("experts {start} to {end} of {} with dropPadMode 1", call.int(EXPERT_NUM))
            })
        }),
        Rule::new("count-type", "1 (count), 2 (key-value), from CANN 9.0.0 on also 0 (cumsum)", |call| {
            let kind = call.int(COUNT_TYPE);
            require((i64::from(is_8_5(call))..=2).contains(&kind), || {
                format!("expertTokensNumType {kind} on CANN {}", call.release)
            })
        }),
        Rule::new("drop-pad-count", "with drop-pad and expertTokensNumFlag the type is 1 (count)", |call| {
            let kind = call.int(COUNT_TYPE);
            require(!drop_pad(call) || !call.bool(COUNT_FLAG) || kind == COUNT, || {
                format!("expertTokensNumType {kind} with dropPadMode 1")
            })
        }),
        Rule::new("count-flag", "expertTokensNumFlag is true before CANN 9.0.0", |call| {
            require(call.bool(COUNT_FLAG) || !is_8_5(call), || {
                format!("expertTokensNumFlag false on CANN {}", call.release)
            })
        }),
        Rule::new("quant-mode", "-1 (none) or 1 (dynamic) on Atlas A3, from CANN 9.0.0 on also 0 (static)", |call| {
            let mode = call.int(QUANT_MODE);
            require(matches!(mode, -1 | 1) || (mode == 0 && !is_8_5(call)), || {
                format!("quantMode {mode} on CANN {}", call.release)
            })
        }),
        Rule::new("int8-x", "int8 x is not quantised again", |call| {
            let int8 = call.tensor(X).is_some_and(|x| x.dtype == aclDataType::INT8);
            let mode = call.int(QUANT_MODE);
            require(!int8 || !matches!(mode, 0 | 1), || format!("int8 x with quantMode {mode}"))
        }),
        Rule::new("rows", "x and expertIdx have the same number of rows", |call| {
            let (x, ids) = (dim(call, X, 0), dim(call, EXPERT_IDX, 0));
            require(x == ids, || format!("{x} rows of x and {ids} of expertIdx"))
        }),
        Rule::new("static-operands", "with quantMode 0 scale and offset are given", |call| {
            let given = call.tensor(SCALE).is_some() && call.tensor(OFFSET).is_some();
            require(call.int(QUANT_MODE) != STATIC || given, || "quantMode 0 without scale or offset".to_owned())
        }),
        Rule::new(
            "scale-shape",
            "scale is [tokens], with quantMode 0 [1], with quantMode 1 [end - start, H] or [1, H]",
            scale_shape,
        ),
        Rule::new("offset-shape", "with quantMode 0 offset is [1]", |call| match call.int(QUANT_MODE) {
            STATIC => shape_is(call, "offset", OFFSET, &[1]),
            _ => Ok(()),
        }),
        Rule::dtype("expanded-x-dtype", "expandedX has the dtype of x, int8 where it is quantised", |call| match call
            .tensor(EXPANDED_X)
        {
            Some(expanded) if is_quantised(call) => require(expanded.dtype == aclDataType::INT8, || {
                format!("expandedX of {:?} with quantMode {}", expanded.dtype, call.int(QUANT_MODE))
            }),
            _ => same_dtype(call, ("expandedX", EXPANDED_X), ("x", X)),
        }),
        Rule::new("expanded-x-shape", "expandedX is [rows, H], with drop-pad [expertNum, expertCapacity, H]", |call| {
            let hidden = dim(call, X, 1);
            if drop_pad(call) {
                let shape = [call.int(EXPERT_NUM), call.int(EXPERT_CAPACITY), hidden];
                shape_is(call, "expandedX", EXPANDED_X, &shape)
            } else {
                shape_is(call, "expandedX", EXPANDED_X, &[rows(call), hidden])
            }
        }),
        Rule::new("row-idx-shape", "expandedRowIdx is [tokens * K]", |call| {
            shape_is(call, "expandedRowIdx", EXPANDED_ROW_IDX, &[slots(call)])
        }),
        Rule::new(
            "counts-shape",
            "with expertTokensNumFlag expertTokensCountOrCumsum is [end - start], for key-value [expertNum, 2]",
            counts_shape,
        ),
        Rule::new(
            "expanded-scale-shape",
            "with scale and quantMode -1, and with quantMode 1, expandedScale has one value per row of expandedX",
            |call| {
                let wanted = match call.int(QUANT_MODE) {
                    STATIC => false,
                    DYNAMIC => true,
                    _ => call.tensor(SCALE).is_some(),
                };
                let all = call.int(EXPERT_NUM).saturating_mul(call.int(EXPERT_CAPACITY));
                let rows = if drop_pad(call) { all } else { rows(call) };
                if wanted { shape_is(call, "expandedScale", EXPANDED_SCALE, &[rows]) } else { Ok(()) }
            },
        ),
    ],
    source: "ops-transformer 8.5.0, 9.0.0 and 9.1.0, moe/moe_init_routing_v3 (docs, op_api, op_host tiling)",
    doubtful: "The code of the second call is read from the source, not seen on a device. 8.5.0 also lets activeNum -1 \
               pass and then mishandles it; it does not check the shapes of scale and expandedScale, and what it does \
               with no token was not seen. A dtype of expandedX other than that of x, or int8 where it is quantised, \
               is refused for want of a kernel. With quantMode 1 and no scale CANN does not look at the shape of \
               expandedScale, which it writes all the same. What rows of zeros become, 0 / 0 in the source, was not \
               verified: zeros here, with scale 0; nor what the scales of rows are that stay empty with drop-pad: 0 \
               here. Rows of more than about 9300 elements are quantised in parts, by way of fp16 cut off; few slots \
               take a kernel that does not: here the width alone decides. \
               That 8.5.0 asks for expertTokensNumFlag true and for a range of two numbers is read in sources of its \
               time that agree with it in everything else.",
};

fn is_8_5(call: &Call<'_>) -> bool {
    call.release < Release::new(9, 0, 0)
}

fn is_quantised(call: &Call<'_>) -> bool {
    matches!(call.int(QUANT_MODE), STATIC | DYNAMIC)
}

fn scale_shape(call: &Call<'_>) -> Checked {
    let ((start, end), hidden) = (expert_range(call), dim(call, X, 1));
    match (call.int(QUANT_MODE), call.tensor(SCALE)) {
        (STATIC, _) => shape_is(call, "scale", SCALE, &[1]),
        (DYNAMIC, Some(scale)) if *scale.shape == [1, hidden] => Ok(()),
        (DYNAMIC, _) => shape_is(call, "scale", SCALE, &[end.saturating_sub(start), hidden]),
        _ => shape_is(call, "scale", SCALE, &[dim(call, EXPERT_IDX, 0)]),
    }
}

fn drop_pad(call: &Call<'_>) -> bool {
    call.int(DROP_PAD_MODE) == 1
}

/// Tokens times K.
fn slots(call: &Call<'_>) -> i64 {
    dim(call, EXPERT_IDX, 0).saturating_mul(dim(call, EXPERT_IDX, 1))
}

/// Rows of expandedX without drop-pad.
fn rows(call: &Call<'_>) -> i64 {
    match call.int(ACTIVE_NUM) {
        active if active > 0 => active.min(slots(call)),
        _ => slots(call),
    }
}

/// The experts that count: all of them where no range of two numbers is given.
fn expert_range(call: &Call<'_>) -> (i64, i64) {
    match call.ints(EXPERT_RANGE) {
        Some(&[start, end]) => (start, end),
        _ => (0, call.int(EXPERT_NUM)),
    }
}

fn counts_shape(call: &Call<'_>) -> Checked {
    let (start, end) = expert_range(call);
    match call.int(COUNT_TYPE) {
        _ if !call.bool(COUNT_FLAG) => Ok(()),
        KEY_VALUE => shape_is(call, "expertTokensCountOrCumsum", COUNTS, &[call.int(EXPERT_NUM), 2]),
        _ => shape_is(call, "expertTokensCountOrCumsum", COUNTS, &[end.saturating_sub(start)]),
    }
}
