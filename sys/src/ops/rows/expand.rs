//! Rows of the older operators that sort tokens by expert.

use super::check::{Checked, F32, FLOATS, I32, dim, joined, one_of, require, same_dtype, shape_is};
use crate::constants::{aclDataType, aclnnStatus};
use crate::info::OperatorId;
use crate::ops::rule::{Call, Codes, Layout, OpRow, Param, Phase, Rule};

/// Positions of the parameters of `aclnnMoeInitRouting`.
mod first {
    pub(super) const X: usize = 0;
    pub(super) const ROW_IDX: usize = 1;
    pub(super) const EXPERT_IDX: usize = 2;
    pub(super) const ACTIVE_NUM: usize = 3;
    pub(super) const EXPANDED_X: usize = 4;
    pub(super) const EXPANDED_ROW_IDX: usize = 5;
    pub(super) const EXPANDED_EXPERT_IDX: usize = 6;
}

/// `aclnnMoeInitRouting`: sorts the slots (token, choice) by expert and copies each slot's row of x to its place. Slots
/// go by the numbers of rowIdx, by column: choice j of token t is `j * T + t`.
///
/// With T tokens of width H and K choices each:
/// * `x`: device, fp32, fp16 or bf16, `[T, H]`, any strides.
/// * `rowIdx`: device, int32, `[T, K]`, any strides: `j * T + t`, as `aclnnMoeGatingTopKSoftmax` gives it.
/// * `expertIdx`: device, int32, `[T, K]`, any strides.
/// * `activeNum`: at least 0: of so many tokens' worth of rows expandedX has room for.
/// * `expandedXOut`: device, dtype of x, `[min(T, activeNum) * K, H]`, contiguous: the first sorted rows.
/// * `expandedRowIdxOut`: device, int32, `[T * K]`, contiguous: at each slot's number its sorted row.
/// * `expandedExpertIdxOut`: device, int32, `[T * K]`, contiguous: the experts, sorted.
pub(super) static MOE_INIT_ROUTING: OpRow = OpRow {
    operator: OperatorId::MoeInitRouting,
    codes: Codes::GENERATED,
    params: &[
        Param::input("x", FLOATS).rank(2, 2),
        Param::input("rowIdx", I32).rank(2, 2),
        Param::input("expertIdx", I32).rank(2, 2),
        Param::value("activeNum"),
        Param::output("expandedXOut", FLOATS).rank(2, 2).layout(Layout::Contiguous),
        Param::output("expandedRowIdxOut", I32).rank(1, 1).layout(Layout::Contiguous),
        Param::output("expandedExpertIdxOut", I32).rank(1, 1).layout(Layout::Contiguous),
    ],
    rules: &[
        Rule::dtype("expanded-x-dtype", "expandedX has the dtype of x", |call| {
            same_dtype(call, ("expandedX", first::EXPANDED_X), ("x", first::X))
        }),
        Rule::new("rows", "x and expertIdx have the same number of rows", same_rows::<{ first::EXPERT_IDX }>),
        Rule::new("row-idx-shape", "rowIdx has the shape of expertIdx", |call| match call.tensor(first::EXPERT_IDX) {
            Some(ids) => shape_is(call, "rowIdx", first::ROW_IDX, &ids.shape),
            None => Ok(()),
        }),
        Rule::new("active-num", "activeNum is at least 0", at_least_0::<{ first::ACTIVE_NUM }>),
        Rule::new("expanded-x-shape", "expandedX is [min(T, activeNum) * K, H]", |call| {
            let rows = dim(call, first::X, 0).min(call.int(first::ACTIVE_NUM));
            let rows = rows.saturating_mul(dim(call, first::EXPERT_IDX, 1));
            shape_is(call, "expandedX", first::EXPANDED_X, &[rows, dim(call, first::X, 1)])
        }),
        Rule::new("index-shapes", "expandedRowIdx and expandedExpertIdx are [T * K]", |call| {
            let slots = slots::<{ first::EXPERT_IDX }>(call);
            shape_is(call, "expandedRowIdx", first::EXPANDED_ROW_IDX, &[slots])?;
            shape_is(call, "expandedExpertIdx", first::EXPANDED_EXPERT_IDX, &[slots])
        }),
    ],
    source: "ops-transformer 9.1.0, moe/moe_init_routing (docs, op_kernel)",
    doubtful: "Tiling was not read: the rules are those of the document. That outputs must be contiguous is from the \
               document too. What a negative expert does, and whether there may be no token, was not seen; experts go \
               through fp32 and stay below 2^24. Nothing checks the numbers in rowIdx.",
};

/// Positions of the parameters of `aclnnMoeInitRoutingV2`.
mod second {
    pub(super) const X: usize = 0;
    pub(super) const EXPERT_IDX: usize = 1;
    pub(super) const ACTIVE_NUM: usize = 2;
    pub(super) const EXPERT_CAPACITY: usize = 3;
    pub(super) const EXPERT_NUM: usize = 4;
    pub(super) const DROP_PAD_MODE: usize = 5;
    pub(super) const COUNT_FLAG: usize = 6;
    pub(super) const BEFORE_CAPACITY_FLAG: usize = 7;
    pub(super) const EXPANDED_X: usize = 8;
    pub(super) const EXPANDED_ROW_IDX: usize = 9;
    pub(super) const COUNTS: usize = 10;
    pub(super) const BEFORE_CAPACITY: usize = 11;
}

/// The op_api checks null pointers only; tiling does the rest, and its code is lost on the way.
const SECOND_CODES: Codes = Codes {
    null: aclnnStatus::ERR_PARAM_NULLPTR,
    dtype: aclnnStatus::ERR_INNER_NULLPTR,
    other: aclnnStatus::ERR_INNER_NULLPTR,
    phase: Phase::One,
};

/// `aclnnMoeInitRoutingV2`: sorts the slots (token, choice) by expert, copies each slot's row of x to its place,
/// counts. Slots go by row: choice j of token t is `t * K + j`.
///
/// With T tokens of width H, K choices each, and M = min(activeNum, T * K) rows, T * K where activeNum is 0:
/// * `x`: device, fp32, fp16 or bf16, `[T, H]`.
/// * `expertIdx`: device, int32, `[T, K]`, from 0 on; below expertNum where anything is counted or padded.
/// * `activeNumOptional`: at least 0; without effect with dropPadMode 1.
/// * `expertCapacityOptional`: at least 0, with dropPadMode 1 from 1 to T.
/// * `expertNumOptional`: at least 0, with dropPadMode 1 or counts at least 1.
/// * `dropPadModeOptional`: 0 (every slot kept) or 1 (expertCapacity slots per expert).
/// * `expertTokensCountOrCumsumFlagOptional`: 0 (nothing), 1 (ends of the experts' rows), 2 (rows of each); without
///   effect with dropPadMode 1.
/// * `expertTokensBeforeCapacityFlagOptional`: without effect with dropPadMode 0.
/// * `expandedXOut`: device, dtype of x, `[M, H]`, or `[expertNum, expertCapacity, H]` with dropPadMode 1.
/// * `expandedRowIdxOut`: device, int32, `[T * K]`: each slot's row, -1 for dropped ones.
/// * `expertTokensCountOrCumsumOutOptional`, `expertTokensBeforeCapacityOutOptional`: device, int32, `[expertNum]`; may
///   be null where they are not written.
///
/// Any strides: the operator copies. T and H may be 0.
pub(super) static MOE_INIT_ROUTING_V2: OpRow = OpRow {
    operator: OperatorId::MoeInitRoutingV2,
    codes: SECOND_CODES,
    params: &[
        Param::input("x", FLOATS).rank(2, 2),
        Param::input("expertIdx", I32).rank(2, 2),
        Param::value("activeNumOptional"),
        Param::value("expertCapacityOptional"),
        Param::value("expertNumOptional"),
        Param::value("dropPadModeOptional"),
        Param::value("expertTokensCountOrCumsumFlagOptional"),
        Param::value("expertTokensBeforeCapacityFlagOptional"),
        Param::output("expandedXOut", FLOATS).rank(2, 3),
        Param::output("expandedRowIdxOut", I32).rank(1, 1),
        Param::output("expertTokensCountOrCumsumOutOptional", I32).rank(1, 1).optional(),
        Param::output("expertTokensBeforeCapacityOutOptional", I32).rank(1, 1).optional(),
    ],
    rules: &joined::<_, 1, 10, 11>(
        [Rule::dtype("expanded-x-dtype", "expandedX has the dtype of x", |call| {
            same_dtype(call, ("expandedX", second::EXPANDED_X), ("x", second::X))
        })],
        second_rules::<0, 0>(),
    ),
    source: "ops-transformer 9.1.0, moe/moe_init_routing_v2 (docs, op_api, op_host tiling)",
    doubtful: "The document gives 161002 for dtypes and 561002 for the rest. Whether tiling or a missing kernel \
               refuses a dtype of expandedX other than that of x, and what a null pointer does where counts are asked \
               for, was not seen. Nothing checks experts on the device. Whether expertNum has a greatest value was not \
               seen.",
};

/// Rows of expandedX without drop-pad.
fn active_rows<const ATTRS: usize>(call: &Call<'_>) -> i64 {
    match (call.int(second::ACTIVE_NUM + ATTRS), slots::<{ second::EXPERT_IDX }>(call)) {
        (0, slots) => slots,
        (active, slots) => active.min(slots),
    }
}

/// What the second version and the one that quantises have in common; the latter's values lie `ATTRS` and its outputs
/// `OUTS` further back.
const fn second_rules<const ATTRS: usize, const OUTS: usize>() -> [Rule; 10] {
    [
        Rule::new("rows", "x and expertIdx have the same number of rows", same_rows::<{ second::EXPERT_IDX }>),
        Rule::new("drop-pad-mode", "0 (every slot kept) or 1 (expertCapacity slots per expert)", |call| {
            one_of(call, "dropPadMode", second::DROP_PAD_MODE + ATTRS, &[0, 1])
        }),
        Rule::new("count-flag", "0 (no counts), 1 (cumsum) or 2 (count)", |call| {
            one_of(call, "expertTokensCountOrCumsumFlag", second::COUNT_FLAG + ATTRS, &[0, 1, 2])
        }),
        Rule::new("active-num", "activeNum is at least 0", |call| {
            let active = call.int(second::ACTIVE_NUM + ATTRS);
            require(active >= 0, || format!("{active}; the nearest legal value is 0"))
        }),
        Rule::new("capacity", "expertCapacity is at least 0, with drop-pad 1 <= expertCapacity <= T", |call| {
            let (capacity, tokens) = (call.int(second::EXPERT_CAPACITY + ATTRS), dim(call, second::X, 0));
            let legal = if drop_pad::<ATTRS>(call) { (1..=tokens).contains(&capacity) } else { capacity >= 0 };
            require(legal, || format!("expertCapacity {capacity} for {tokens} tokens"))
        }),
        Rule::new("expert-num", "expertNum is at least 0, with drop-pad or counts at least 1", |call| {
            let (experts, least) =
                (call.int(second::EXPERT_NUM + ATTRS), i64::from(drop_pad::<ATTRS>(call) || counts::<ATTRS>(call)));
            require(experts >= least, || format!("expertNum {experts}; the nearest legal value is {least}"))
        }),
        Rule::new("expanded-x-shape", "expandedX is [rows, H], with drop-pad [expertNum, expertCapacity, H]", |call| {
            let hidden = dim(call, second::X, 1);
            if drop_pad::<ATTRS>(call) {
                let shape = [call.int(second::EXPERT_NUM + ATTRS), call.int(second::EXPERT_CAPACITY + ATTRS), hidden];
                return shape_is(call, "expandedX", second::EXPANDED_X + OUTS, &shape);
            }
            shape_is(call, "expandedX", second::EXPANDED_X + OUTS, &[active_rows::<ATTRS>(call), hidden])
        }),
        Rule::new("row-idx-shape", "expandedRowIdx is [T * K]", |call| {
            let slots = slots::<{ second::EXPERT_IDX }>(call);
            shape_is(call, "expandedRowIdx", second::EXPANDED_ROW_IDX + OUTS, &[slots])
        }),
        Rule::new("counts", "expertTokensCountOrCumsum is [expertNum] where it is written", |call| {
            counted::<ATTRS>(call, counts::<ATTRS>(call), "expertTokensCountOrCumsum", second::COUNTS + OUTS)
        }),
        Rule::new("counts-before-capacity", "expertTokensBeforeCapacity is [expertNum] where it is written", |call| {
            let written = drop_pad::<ATTRS>(call) && call.bool(second::BEFORE_CAPACITY_FLAG + ATTRS);
            counted::<ATTRS>(call, written, "expertTokensBeforeCapacity", second::BEFORE_CAPACITY + OUTS)
        }),
    ]
}

/// Positions of the parameters of `aclnnMoeInitRoutingQuantV2` that the second version does not have, and how much
/// further back the others lie.
mod quantised {
    pub(super) const SCALE: usize = 2;
    pub(super) const OFFSET: usize = 3;
    pub(super) const QUANT_MODE: usize = 10;
    pub(super) const EXPANDED_X: usize = 11;
    pub(super) const DYNAMIC_SCALE: usize = 15;
    pub(super) const ATTRS: usize = 2;
    pub(super) const OUTS: usize = 3;
}

const INT8_OR_4: &[aclDataType] = &[aclDataType::INT8, aclDataType::INT4];

/// `aclnnMoeInitRoutingQuantV2`: `aclnnMoeInitRoutingV2` with the rows quantised.
///
/// Parameters as there, and:
/// * `scaleOptional`: device, fp32. quantMode 0: `[1]`, what x is multiplied by. 1: `[expertNum, H]` or `[1, H]`, what the
///   rows of each expert are multiplied by before their scale is found; may be null.
/// * `offsetOptional`: device, fp32, `[1]`: with quantMode 0, added to the products.
/// * `quantMode`: 0 (static) or 1 (dynamic).
/// * `expandedXOut`: device, int8, with quantMode 1 and dropPadMode 0 also int4.
/// * `dynamicQuantScaleOutOptional`: device, fp32, one value per row of expandedX: with quantMode 1, what the row is to be
///   multiplied by.
pub(super) static MOE_INIT_ROUTING_QUANT_V2: OpRow = OpRow {
    operator: OperatorId::MoeInitRoutingQuantV2,
    codes: Codes::GENERATED,
    params: &[
        Param::input("x", FLOATS).rank(2, 2),
        Param::input("expertIdx", I32).rank(2, 2),
        Param::input("scaleOptional", F32).rank(1, 2).optional(),
        Param::input("offsetOptional", F32).rank(1, 1).optional(),
        Param::value("activeNum"),
        Param::value("expertCapacity"),
        Param::value("expertNum"),
        Param::value("dropPadMode"),
        Param::value("expertTokensCountOrCumsumFlag"),
        Param::value("expertTokensBeforeCapacityFlag"),
        Param::value("quantMode"),
        Param::output("expandedXOut", INT8_OR_4).rank(2, 3),
        Param::output("expandedRowIdxOut", I32).rank(1, 1),
        Param::output("expertTokensCountOrCumsumOutOptional", I32).rank(1, 1).optional(),
        Param::output("expertTokensBeforeCapacityOutOptional", I32).rank(1, 1).optional(),
        Param::output("dynamicQuantScaleOutOptional", F32).rank(1, 1).optional(),
    ],
    rules: &joined::<_, 6, 10, 16>(
        [
            Rule::new("quant-mode", "quantMode is 0 (static) or 1 (dynamic)", |call| {
                one_of(call, "quantMode", quantised::QUANT_MODE, &[0, 1])
            }),
            Rule::new(
                "int4",
                "expandedX of int4 with quantMode 1, dropPadMode 0, an even H and scale [1, H] or null; contiguous from an \
                 even element on",
                |call| {
                    let Some(expanded) = call.tensor(quantised::EXPANDED_X) else { return Ok(()) };
                    let one_set = call.tensor(quantised::SCALE).is_none_or(|scale| scale.dim(0) == 1);
                    let legal = expanded.dtype != aclDataType::INT4
                        || (call.int(quantised::QUANT_MODE) == 1
                            && !drop_pad::<{ quantised::ATTRS }>(call)
                            && expanded.dim(-1) % 2 == 0
                            && one_set
                            && expanded.is_contiguous()
                            && expanded.offset % 2 == 0);
                    require(legal, || format!("expandedX {expanded}"))
                },
            ),
            Rule::new("static-operands", "with quantMode 0 scale and offset are given", |call| {
                let given = |index| call.tensor(index).is_some();
                let legal =
                    call.int(quantised::QUANT_MODE) != 0 || (given(quantised::SCALE) && given(quantised::OFFSET));
                require(legal, || "quantMode 0 without scale or offset".to_owned())
            }),
            Rule::new("scale-shape", "scale is [1], with quantMode 1 [expertNum, H] or [1, H]", |call| {
                let Some(scale) = call.tensor(quantised::SCALE) else { return Ok(()) };
                let (experts, hidden) = (call.int(second::EXPERT_NUM + quantised::ATTRS), dim(call, second::X, 1));
                match call.int(quantised::QUANT_MODE) {
                    1 if *scale.shape == [1, hidden] => Ok(()),
                    1 => shape_is(call, "scale", quantised::SCALE, &[experts, hidden]),
                    _ => shape_is(call, "scale", quantised::SCALE, &[1]),
                }
            }),
            Rule::new("offset-shape", "with quantMode 0 offset is [1]", |call| match call.int(quantised::QUANT_MODE) {
                0 => shape_is(call, "offset", quantised::OFFSET, &[1]),
                _ => Ok(()),
            }),
            Rule::new(
                "dynamic-scale",
                "with quantMode 1 dynamicQuantScale has one value per row of expandedX",
                |call| {
                    if call.int(quantised::QUANT_MODE) != 1 {
                        return Ok(());
                    }
                    let (experts, capacity) = (
                        call.int(second::EXPERT_NUM + quantised::ATTRS),
                        call.int(second::EXPERT_CAPACITY + quantised::ATTRS),
                    );
                    let rows = match drop_pad::<{ quantised::ATTRS }>(call) {
                        true => experts.saturating_mul(capacity),
                        false => active_rows::<{ quantised::ATTRS }>(call),
                    };
                    require(call.tensor(quantised::DYNAMIC_SCALE).is_some(), || {
                        "dynamicQuantScale is null".to_owned()
                    })?;
                    shape_is(call, "dynamicQuantScale", quantised::DYNAMIC_SCALE, &[rows])
                },
            ),
        ],
        second_rules::<{ quantised::ATTRS }, { quantised::OUTS }>(),
    ),
    source: "ops-transformer 9.1.0, moe/moe_init_routing_quant_v2 (docs, op_host tiling, op_kernel)",
    doubtful: "As for aclnnMoeInitRoutingV2. Whether int4 takes a set of factors for each expert: tiling does not forbid it. \
               What rows of zeros become, 0 / 0 in the source, and the scales of rows that stay empty with drop-pad, were \
               not verified: zeros here. The static formula is that of aclnnMoeInitRoutingV3.",
};

fn drop_pad<const ATTRS: usize>(call: &Call<'_>) -> bool {
    call.int(second::DROP_PAD_MODE + ATTRS) == 1
}

/// Whether counts are written that have nothing to do with a capacity.
fn counts<const ATTRS: usize>(call: &Call<'_>) -> bool {
    !drop_pad::<ATTRS>(call) && call.int(second::COUNT_FLAG + ATTRS) > 0
}

/// Where counts are written, they must be there and have one entry per expert.
fn counted<const ATTRS: usize>(call: &Call<'_>, written: bool, name: &str, index: usize) -> Checked {
    if !written {
        return Ok(());
    }
    require(call.tensor(index).is_some(), || format!("{name} is null"))?;
    shape_is(call, name, index, &[call.int(second::EXPERT_NUM + ATTRS)])
}

/// Tokens times K.
fn slots<const EXPERT_IDX: usize>(call: &Call<'_>) -> i64 {
    dim(call, EXPERT_IDX, 0).saturating_mul(dim(call, EXPERT_IDX, 1))
}

fn same_rows<const EXPERT_IDX: usize>(call: &Call<'_>) -> Checked {
    let (x, ids) = (dim(call, 0, 0), dim(call, EXPERT_IDX, 0));
    require(x == ids, || format!("{x} rows of x and {ids} of expertIdx"))
}

fn at_least_0<const VALUE: usize>(call: &Call<'_>) -> Checked {
    let value = call.int(VALUE);
    require(value >= 0, || format!("{value}; the nearest legal value is 0"))
}
