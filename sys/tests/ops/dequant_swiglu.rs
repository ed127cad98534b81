//! Calls of the operators between the two products of a quantised expert.

use ascend_sys::OperatorId as Id;

use crate::build::{BF16, Built, Case, F16, F32, I8, I32, I64, tensor};
use crate::limits::Limit;

const PLAIN: &[i32] = &[0, 1, 2, 16, 27, 30, 35, 47];

pub(crate) fn limits() -> Vec<Limit> {
    vec![
        ("x", &[1, 3, 27], PLAIN, 2..=8, true),
        ("weightScaleOptional", &[0], PLAIN, 1..=2, true),
        ("activationScaleOptional", &[0], PLAIN, 1..=8, true),
        ("biasOptional", &[0, 1, 3, 27], PLAIN, 1..=2, true),
        ("quantScaleOptional", &[0], PLAIN, 1..=2, true),
        ("quantOffsetOptional", &[0], PLAIN, 1..=2, true),
        ("groupIndexOptional", &[9], PLAIN, 1..=2, true),
        ("yOut", &[2], PLAIN, 2..=8, true),
        ("scaleOut", &[0], PLAIN, 1..=7, true),
    ]
}

/// Five rows of accumulators in two groups.
fn dynamic(operator: Id) -> Built {
    let call = Built::new(operator)
        .set("x", tensor(I32, &[5, 64]))
        .set("weightScaleOptional", tensor(F32, &[2, 64]))
        .set("activationScaleOptional", tensor(F32, &[5]))
        .set("biasOptional", tensor(I32, &[2, 64]))
        .set("quantScaleOptional", tensor(F32, &[2, 32]))
        .set("groupIndexOptional", tensor(I64, &[2]))
        .set("activateLeft", true)
        .set("quantModeOptional", c"dynamic")
        .set("yOut", tensor(I8, &[5, 32]))
        .set("scaleOut", tensor(F32, &[5]));
    if operator == Id::DequantSwigluQuant {
        return call;
    }
    call.set("dstType", 2).set("activateDim", -1).set("clampLimit", 7.0).set("gluAlpha", 1.702).set("gluBias", 1.0)
}

/// The same with scales that are given.
fn by_static(operator: Id) -> Built {
    dynamic(operator)
        .set("quantModeOptional", c"static")
        .set("quantScaleOptional", tensor(F32, &[2]))
        .set("quantOffsetOptional", tensor(F32, &[2]))
}

/// Floats.
fn floats(operator: Id) -> Built {
    dynamic(operator)
        .set("x", tensor(BF16, &[5, 64]))
        .null("weightScaleOptional")
        .null("activationScaleOptional")
        .null("biasOptional")
}

/// All rows alike.
fn ungrouped(operator: Id) -> Built {
    dynamic(operator)
        .null("groupIndexOptional")
        .set("weightScaleOptional", tensor(F32, &[64]))
        .set("biasOptional", tensor(F32, &[1, 64]))
        .set("quantScaleOptional", tensor(F32, &[32]))
}

fn width(call: Built, width: i64) -> Built {
    call.set("x", tensor(BF16, &[5, width]))
        .set("quantScaleOptional", tensor(F32, &[2, width / 2]))
        .set("yOut", tensor(I8, &[5, width / 2]))
}

/// Pairs of group and count.
fn pairs(operator: Id) -> Built {
    dynamic(operator).null("biasOptional").set("groupIndexOptional", tensor(I64, &[2, 2]))
}

pub(crate) fn legal(operator: Id) -> Vec<Built> {
    let call = || dynamic(operator);
    let one_group = call()
        .set("groupIndexOptional", tensor(I64, &[1]))
        .set("weightScaleOptional", tensor(F32, &[64]))
        .set("biasOptional", tensor(BF16, &[64]))
        .set("quantScaleOptional", tensor(F32, &[1, 32]));
    let wide = ungrouped(operator)
        .null("weightScaleOptional")
        .null("activationScaleOptional")
        .null("biasOptional")
        .null("quantScaleOptional")
        .set("x", tensor(F16, &[2, 3, 9000]))
        .set("yOut", tensor(I8, &[2, 3, 4500]))
        .set("scaleOut", tensor(F32, &[2, 3]));
    let by_column = by_static(operator)
        .set("quantScaleOptional", tensor(F32, &[2, 32]))
        .set("quantOffsetOptional", tensor(F32, &[2, 32]));
    let mut calls = vec![
        call(),
        call().null("activationScaleOptional").null("biasOptional").null("quantScaleOptional"),
        call().set("activateLeft", false),
        call().set("activationScaleOptional", tensor(F32, &[5, 1])),
        one_group,
        pairs(operator),
        floats(operator),
        width(floats(operator), 7232),
        by_static(operator),
        by_static(operator).null("quantModeOptional").set("scaleOut", tensor(F32, &[1])),
        by_column,
        ungrouped(operator),
        ungrouped(operator).set("quantScaleOptional", tensor(F32, &[1])),
        wide,
    ];
    if operator == Id::DequantSwigluQuantV2 {
        calls.push(call().set("swigluMode", 1).set("roundModeOptional", c"rint"));
    }
    calls
}

pub(crate) fn violations(operator: Id) -> Vec<Case> {
    let call = || dynamic(operator);
    let case = |call, rule| Case::new(call, rule, 561002);
    let carried = |call, rule| Case::new(call, rule, 561003);
    let empty = floats(operator).set("x", tensor(BF16, &[0, 64])).set("yOut", tensor(I8, &[0, 32]));
    let odd = ungrouped(operator).set("x", tensor(I32, &[5, 63])).set("yOut", tensor(I8, &[5, 31]));
    let odd = odd.set("weightScaleOptional", tensor(F32, &[63])).set("biasOptional", tensor(F32, &[63]));
    let group_of_none =
        floats(operator).set("groupIndexOptional", tensor(I64, &[0])).set("quantScaleOptional", tensor(F32, &[32]));
    let mut cases = vec![
        case(empty.set("scaleOut", tensor(F32, &[0])), "empty"),
        case(odd.set("quantScaleOptional", tensor(F32, &[31])), "even"),
        case(call().set("quantModeOptional", c"Dynamic"), "quant-mode").also(&["quant-offset"]),
        case(floats(operator).set("x", tensor(F16, &[5, 64])), "group-x"),
        case(
            floats(operator)
                .set("x", tensor(BF16, &[5, 1, 64]))
                .set("yOut", tensor(I8, &[5, 1, 32]))
                .set("scaleOut", tensor(F32, &[5, 1])),
            "group-x",
        ),
        case(width(floats(operator), 96), "group-width"),
        case(width(floats(operator), 7296), "group-width"),
        case(pairs(operator).set("biasOptional", tensor(I32, &[2, 64])), "group-index"),
        case(pairs(operator).set("groupIndexOptional", tensor(I64, &[2, 3])), "group-index"),
        case(floats(operator).set("groupIndexOptional", tensor(I64, &[2, 2])), "group-index"),
        case(group_of_none, "group-index"),
        case(call().null("weightScaleOptional"), "dequant-operands"),
        case(floats(operator).set("biasOptional", tensor(F32, &[2, 64])), "dequant-operands"),
        case(floats(operator).set("activationScaleOptional", tensor(F32, &[5])), "dequant-operands"),
        case(call().set("weightScaleOptional", tensor(F32, &[64])), "weight-scale-shape"),
        case(call().set("weightScaleOptional", tensor(F32, &[2, 32])), "weight-scale-shape"),
        case(call().set("biasOptional", tensor(I32, &[3, 64])), "bias-shape"),
        case(call().set("activationScaleOptional", tensor(F32, &[4])), "activation-scale-shape"),
        carried(
            ungrouped(operator).set("quantModeOptional", c"static").set("quantOffsetOptional", tensor(F32, &[32])),
            "static-groups",
        ),
        case(call().set("quantOffsetOptional", tensor(F32, &[2, 32])), "quant-offset"),
        case(by_static(operator).null("quantOffsetOptional"), "quant-offset"),
        case(by_static(operator).null("quantScaleOptional"), "quant-offset"),
        case(by_static(operator).set("quantOffsetOptional", tensor(F32, &[2, 1])), "quant-offset"),
        case(call().set("quantScaleOptional", tensor(F32, &[2])), "quant-scale-shape"),
        case(call().set("quantScaleOptional", tensor(F32, &[2, 31])), "quant-scale-shape"),
        case(
            by_static(operator)
                .set("quantScaleOptional", tensor(F32, &[3]))
                .set("quantOffsetOptional", tensor(F32, &[3])),
            "quant-scale-shape",
        ),
        case(call().set("yOut", tensor(I8, &[5, 64])), "y-shape"),
        case(call().set("scaleOut", tensor(F32, &[4])), "scale-shape"),
    ];
    if operator == Id::DequantSwigluQuantV2 {
        cases.extend([
            case(call().set("dstType", 3), "dst-type"),
            case(call().set("roundModeOptional", c"round"), "round-mode"),
            case(call().set("activateDim", 1), "activate-dim"),
            case(call().set("swigluMode", 2), "swiglu-mode"),
            case(call().set("swigluMode", -1), "swiglu-mode"),
            case(call().set("clampLimit", 0.0), "clamp-limit"),
            case(call().set("clampLimit", f64::INFINITY), "clamp-limit"),
            case(call().set("clampLimit", f64::NAN), "clamp-limit"),
            case(call().set("swigluMode", 1).set("activateLeft", false), "interleaved-left"),
            carried(ungrouped(operator).set("swigluMode", 1), "interleaved-groups"),
            case(pairs(operator).set("swigluMode", 1), "group-index"),
        ]);
    }
    cases
}
