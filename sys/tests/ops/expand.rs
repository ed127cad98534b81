//! Calls of the older operators that sort tokens by expert.

use ascend_sys::OperatorId;
use ascend_sys::aclDataType;

use crate::base;
use crate::build::{BF16, Built, Case, F16, F32, I8, I32, spread, tensor};
use crate::limits::Limit;

const I4: aclDataType = aclDataType::INT4;
const FLOATS: &[i32] = &[0, 1, 27];
const PLAIN: &[i32] = &[0, 1, 2, 16, 27, 30, 35, 47];

pub(crate) fn limits_first() -> Vec<Limit> {
    vec![
        ("x", FLOATS, PLAIN, 2..=2, false),
        ("rowIdx", &[3], PLAIN, 2..=2, false),
        ("expertIdx", &[3], PLAIN, 2..=2, false),
        ("expandedXOut", FLOATS, PLAIN, 2..=2, true),
        ("expandedRowIdxOut", &[3], PLAIN, 1..=1, true),
        ("expandedExpertIdxOut", &[3], PLAIN, 1..=1, true),
    ]
}

/// 6 tokens with 2 choices each.
pub(crate) fn legal_first() -> Vec<Built> {
    let base = Built::new(OperatorId::MoeInitRouting)
        .set("x", tensor(BF16, &[6, 32]))
        .set("rowIdx", tensor(I32, &[6, 2]))
        .set("expertIdx", tensor(I32, &[6, 2]))
        .set("activeNum", 6)
        .set("expandedXOut", tensor(BF16, &[12, 32]))
        .set("expandedRowIdxOut", tensor(I32, &[12]))
        .set("expandedExpertIdxOut", tensor(I32, &[12]));
    vec![
        base.clone(),
        base.clone().set("x", spread(tensor(BF16, &[6, 32]))).set("activeNum", 7),
        base.clone().set("activeNum", 4).set("expandedXOut", tensor(BF16, &[8, 32])),
        base.set("activeNum", 0).set("expandedXOut", tensor(BF16, &[0, 32])),
    ]
}

pub(crate) fn violations_first() -> Vec<Case> {
    let call = || base(OperatorId::MoeInitRouting);
    let case = |call, rule| Case::new(call, rule, 561002);
    vec![
        Case::new(call().set("expandedXOut", tensor(F16, &[12, 32])), "expanded-x-dtype", 161002),
        case(call().set("x", tensor(BF16, &[7, 32])), "rows"),
        case(call().set("rowIdx", tensor(I32, &[2, 6])), "row-idx-shape"),
        case(call().set("activeNum", -1), "active-num").also(&["expanded-x-shape"]),
        case(call().set("activeNum", 5), "expanded-x-shape"),
        case(call().set("expandedXOut", tensor(BF16, &[12, 31])), "expanded-x-shape"),
        case(call().set("expandedRowIdxOut", tensor(I32, &[11])), "index-shapes"),
        case(call().set("expandedExpertIdxOut", tensor(I32, &[13])), "index-shapes"),
    ]
}

pub(crate) fn limits_second() -> Vec<Limit> {
    vec![
        ("x", FLOATS, PLAIN, 2..=2, false),
        ("expertIdx", &[3], PLAIN, 2..=2, false),
        ("expandedXOut", FLOATS, PLAIN, 2..=3, false),
        ("expandedRowIdxOut", &[3], PLAIN, 1..=1, false),
        ("expertTokensCountOrCumsumOutOptional", &[3], PLAIN, 1..=1, false),
        ("expertTokensBeforeCapacityOutOptional", &[3], PLAIN, 1..=1, false),
    ]
}

/// The same of 8 experts, every slot kept.
fn dropless() -> Built {
    Built::new(OperatorId::MoeInitRoutingV2)
        .set("x", tensor(BF16, &[6, 32]))
        .set("expertIdx", tensor(I32, &[6, 2]))
        .set("expertNumOptional", 8)
        .set("expertTokensCountOrCumsumFlagOptional", 2)
        .set("expandedXOut", tensor(BF16, &[12, 32]))
        .set("expandedRowIdxOut", tensor(I32, &[12]))
        .set("expertTokensCountOrCumsumOutOptional", tensor(I32, &[8]))
        .set("expertTokensBeforeCapacityOutOptional", tensor(I32, &[8]))
}

/// With `capacity` slots per expert.
fn drop_pad(capacity: i32) -> Built {
    dropless()
        .set("dropPadModeOptional", 1)
        .set("expertCapacityOptional", capacity)
        .set("expertTokensBeforeCapacityFlagOptional", true)
        .set("expandedXOut", tensor(BF16, &[8, capacity.into(), 32]))
}

pub(crate) fn legal_second() -> Vec<Built> {
    let uncounted = dropless()
        .set("expertTokensCountOrCumsumFlagOptional", 0)
        .null("expertTokensCountOrCumsumOutOptional")
        .null("expertTokensBeforeCapacityOutOptional");
    let no_token = dropless()
        .set("x", tensor(BF16, &[0, 32]))
        .set("expertIdx", tensor(I32, &[0, 2]))
        .set("expandedXOut", tensor(BF16, &[0, 32]))
        .set("expandedRowIdxOut", tensor(I32, &[0]));
    vec![
        dropless(),
        dropless().set("expertTokensCountOrCumsumFlagOptional", 1).set("x", spread(tensor(BF16, &[6, 32]))),
        uncounted.clone().set("expertNumOptional", 0),
        uncounted.set("expertTokensBeforeCapacityFlagOptional", true).set("expertCapacityOptional", 99),
        dropless().set("activeNumOptional", 5).set("expandedXOut", tensor(BF16, &[5, 32])),
        dropless().set("activeNumOptional", 13),
        no_token,
        drop_pad(1),
        drop_pad(6).set("activeNumOptional", 3).null("expertTokensCountOrCumsumOutOptional"),
        drop_pad(3).set("expertTokensBeforeCapacityFlagOptional", false).null("expertTokensBeforeCapacityOutOptional"),
    ]
}

pub(crate) fn violations_second() -> Vec<Case> {
    let case = |call, rule| Case::new(call, rule, 561103);
    vec![
        case(dropless().set("expandedXOut", tensor(F32, &[12, 32])), "expanded-x-dtype"),
        case(dropless().set("x", tensor(BF16, &[7, 32])), "rows"),
        case(dropless().set("dropPadModeOptional", 2), "drop-pad-mode"),
        case(dropless().set("dropPadModeOptional", -1), "drop-pad-mode"),
        case(dropless().set("expertTokensCountOrCumsumFlagOptional", 3), "count-flag"),
        case(drop_pad(3).set("expertTokensCountOrCumsumFlagOptional", -1), "count-flag"),
        case(dropless().set("activeNumOptional", -1), "active-num").also(&["expanded-x-shape"]),
        case(drop_pad(3).set("activeNumOptional", -1), "active-num"),
        case(dropless().set("expertCapacityOptional", -1), "capacity"),
        case(drop_pad(0), "capacity"),
        case(drop_pad(7), "capacity"),
        case(dropless().set("expertTokensCountOrCumsumFlagOptional", 0).set("expertNumOptional", -1), "expert-num"),
        case(
            dropless().set("expertNumOptional", 0).set("expertTokensCountOrCumsumOutOptional", tensor(I32, &[0])),
            "expert-num",
        ),
        case(
            drop_pad(3)
                .set("expertNumOptional", 0)
                .set("expertTokensBeforeCapacityFlagOptional", false)
                .set("expandedXOut", tensor(BF16, &[0, 3, 32])),
            "expert-num",
        ),
        case(dropless().set("expandedXOut", tensor(BF16, &[11, 32])), "expanded-x-shape"),
        case(dropless().set("expandedXOut", tensor(BF16, &[12, 31])), "expanded-x-shape"),
        case(dropless().set("activeNumOptional", 5), "expanded-x-shape"),
        case(drop_pad(3).set("expandedXOut", tensor(BF16, &[24, 32])), "expanded-x-shape"),
        case(dropless().set("expandedRowIdxOut", tensor(I32, &[11])), "row-idx-shape"),
        case(dropless().set("expertTokensCountOrCumsumOutOptional", tensor(I32, &[7])), "counts"),
        case(dropless().null("expertTokensCountOrCumsumOutOptional"), "counts"),
        case(drop_pad(3).set("expertTokensBeforeCapacityOutOptional", tensor(I32, &[9])), "counts-before-capacity"),
        case(drop_pad(3).null("expertTokensBeforeCapacityOutOptional"), "counts-before-capacity"),
    ]
}

pub(crate) fn limits_quantised() -> Vec<Limit> {
    vec![
        ("x", FLOATS, PLAIN, 2..=2, false),
        ("expertIdx", &[3], PLAIN, 2..=2, false),
        ("scaleOptional", &[0], PLAIN, 1..=2, false),
        ("offsetOptional", &[0], PLAIN, 1..=1, false),
        ("expandedXOut", &[2, 29], PLAIN, 2..=3, false),
        ("expandedRowIdxOut", &[3], PLAIN, 1..=1, false),
        ("expertTokensCountOrCumsumOutOptional", &[3], PLAIN, 1..=1, false),
        ("expertTokensBeforeCapacityOutOptional", &[3], PLAIN, 1..=1, false),
        ("dynamicQuantScaleOutOptional", &[0], PLAIN, 1..=1, false),
    ]
}

/// 6 tokens with 2 choices each of 8 experts, every slot kept, each row by a scale of its own.
fn dynamic() -> Built {
    Built::new(OperatorId::MoeInitRoutingQuantV2)
        .set("x", tensor(BF16, &[6, 32]))
        .set("expertIdx", tensor(I32, &[6, 2]))
        .set("scaleOptional", tensor(F32, &[8, 32]))
        .set("offsetOptional", tensor(F32, &[1]))
        .set("expertNum", 8)
        .set("expertTokensCountOrCumsumFlag", 2)
        .set("quantMode", 1)
        .set("expandedXOut", tensor(I8, &[12, 32]))
        .set("expandedRowIdxOut", tensor(I32, &[12]))
        .set("expertTokensCountOrCumsumOutOptional", tensor(I32, &[8]))
        .set("expertTokensBeforeCapacityOutOptional", tensor(I32, &[8]))
        .set("dynamicQuantScaleOutOptional", tensor(F32, &[12]))
}

fn by_static() -> Built {
    dynamic().set("quantMode", 0).set("scaleOptional", tensor(F32, &[1])).null("dynamicQuantScaleOutOptional")
}

fn padded() -> Built {
    dynamic()
        .set("dropPadMode", 1)
        .set("expertCapacity", 3)
        .set("expertTokensBeforeCapacityFlag", true)
        .set("expandedXOut", tensor(I8, &[8, 3, 32]))
        .set("dynamicQuantScaleOutOptional", tensor(F32, &[24]))
}

fn as_int4() -> Built {
    dynamic().set("scaleOptional", tensor(F32, &[1, 32])).set("expandedXOut", tensor(I4, &[12, 32]))
}

pub(crate) fn legal_quantised() -> Vec<Built> {
    vec![
        dynamic(),
        dynamic().set("x", spread(tensor(F32, &[6, 32]))).set("scaleOptional", tensor(F32, &[1, 32])),
        dynamic().null("scaleOptional").null("offsetOptional").set("expertTokensCountOrCumsumFlag", 0),
        dynamic()
            .set("activeNum", 5)
            .set("expandedXOut", tensor(I8, &[5, 32]))
            .set("dynamicQuantScaleOutOptional", tensor(F32, &[5])),
        as_int4(),
        as_int4().null("scaleOptional"),
        by_static(),
        padded(),
        padded().set("quantMode", 0).set("scaleOptional", tensor(F32, &[1])),
    ]
}

pub(crate) fn violations_quantised() -> Vec<Case> {
    let case = |call, rule| Case::new(call, rule, 561002);
    let odd = as_int4().null("scaleOptional").set("x", tensor(BF16, &[6, 31]));
    vec![
        case(dynamic().set("quantMode", 2).set("scaleOptional", tensor(F32, &[1])), "quant-mode"),
        case(by_static().set("expandedXOut", tensor(I4, &[12, 32])), "int4"),
        case(odd.set("expandedXOut", tensor(I4, &[12, 31])), "int4"),
        case(as_int4().set("scaleOptional", tensor(F32, &[8, 32])), "int4"),
        case(as_int4().set("expandedXOut", spread(tensor(I4, &[12, 32]))), "int4"),
        case(padded().null("scaleOptional").set("expandedXOut", tensor(I4, &[8, 3, 32])), "int4"),
        case(by_static().null("scaleOptional"), "static-operands"),
        case(by_static().null("offsetOptional"), "static-operands"),
        case(by_static().set("scaleOptional", tensor(F32, &[8, 32])), "scale-shape"),
        case(dynamic().set("scaleOptional", tensor(F32, &[1])), "scale-shape"),
        case(dynamic().set("scaleOptional", tensor(F32, &[7, 32])), "scale-shape"),
        case(by_static().set("offsetOptional", tensor(F32, &[2])), "offset-shape"),
        case(dynamic().null("dynamicQuantScaleOutOptional"), "dynamic-scale"),
        case(dynamic().set("dynamicQuantScaleOutOptional", tensor(F32, &[11])), "dynamic-scale"),
        case(padded().set("dynamicQuantScaleOutOptional", tensor(F32, &[12])), "dynamic-scale"),
        case(dynamic().set("x", tensor(BF16, &[7, 32])), "rows"),
        case(by_static().set("dropPadMode", 2), "drop-pad-mode"),
        case(dynamic().set("expertTokensCountOrCumsumFlag", 3), "count-flag"),
        case(by_static().set("activeNum", -1), "active-num").also(&["expanded-x-shape"]),
        case(dynamic().set("expertCapacity", -1), "capacity"),
        case(padded().set("expertCapacity", 7).set("dynamicQuantScaleOutOptional", tensor(F32, &[56])), "capacity")
            .also(&["expanded-x-shape"]),
        case(
            by_static().set("expertNum", 0).set("expertTokensCountOrCumsumOutOptional", tensor(I32, &[0])),
            "expert-num",
        ),
        case(dynamic().set("expandedXOut", tensor(I8, &[11, 32])), "expanded-x-shape"),
        case(dynamic().set("expandedRowIdxOut", tensor(I32, &[11])), "row-idx-shape"),
        case(dynamic().null("expertTokensCountOrCumsumOutOptional"), "counts"),
        case(padded().null("expertTokensBeforeCapacityOutOptional"), "counts-before-capacity"),
    ]
}
