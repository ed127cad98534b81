//! Calls of the operators that activate by a gated unit and quantise.

use ascend_sys::OperatorId as Id;
use ascend_sys::aclDataType;

use crate::build::{BF16, Built, Case, F16, F32, I8, I32, spread, tensor};
use crate::limits::Limit;

const FLOATS: &[i32] = &[0, 1, 27];
const PLAIN: &[i32] = &[0, 1, 2, 16, 27, 30, 35, 47];
const I4: aclDataType = aclDataType::INT4;

pub(crate) fn limits(operator: Id) -> Vec<Limit> {
    vec![
        ("x", FLOATS, PLAIN, 2..=8, false),
        ("smoothScalesOptional", &[0], PLAIN, 1..=2, false),
        ("offsetsOptional", &[0], PLAIN, 1..=2, false),
        ("groupIndexOptional", &[3], PLAIN, 1..=1, false),
        ("yOut", if operator == Id::SwiGluQuant { &[2] } else { &[2, 29] }, PLAIN, 2..=8, false),
        ("scaleOut", &[0], PLAIN, 1..=7, false),
    ]
}

/// Six rows in two groups.
fn dynamic(operator: Id) -> Built {
    let call = Built::new(operator)
        .set("x", tensor(BF16, &[2, 3, 24]))
        .set("smoothScalesOptional", tensor(F32, &[2, 12]))
        .set("offsetsOptional", tensor(F32, &[2, 12]))
        .set("groupIndexOptional", tensor(I32, &[2]))
        .set("quantModeOptional", c"dynamic")
        .set("yOut", tensor(I8, &[2, 3, 12]))
        .set("scaleOut", tensor(F32, &[2, 3]));
    if operator == Id::SwiGluQuant { call } else { call.set("dstType", 2).set("groupListType", 1) }
}

fn width(operator: Id, width: i64) -> Built {
    dynamic(operator)
        .null("smoothScalesOptional")
        .set("x", tensor(F16, &[2, width]))
        .set("yOut", tensor(I8, &[2, width / 2]))
        .set("scaleOut", tensor(F32, &[2]))
}

fn int4(operator: Id) -> Built {
    dynamic(operator).set("yOut", tensor(I4, &[2, 3, 12])).set("dstType", 29)
}

pub(crate) fn legal(operator: Id) -> Vec<Built> {
    let call = || dynamic(operator);
    let one_each = call()
        .set("quantModeOptional", c"static")
        .set("smoothScalesOptional", tensor(F32, &[2]))
        .set("offsetsOptional", tensor(F32, &[2]));
    let ungrouped = call().null("groupIndexOptional").set("smoothScalesOptional", tensor(F32, &[12]));
    let most =
        call().set("groupIndexOptional", tensor(I32, &[1024])).set("smoothScalesOptional", tensor(F32, &[1024, 12]));
    let mut calls = vec![
        call(),
        call().set("x", spread(tensor(F32, &[2, 3, 24]))).set("yOut", spread(tensor(I8, &[2, 3, 12]))),
        call().null("smoothScalesOptional").null("offsetsOptional").null("groupIndexOptional"),
        call().set("quantModeOptional", c"static"),
        one_each,
        ungrouped.clone(),
        ungrouped.set("smoothScalesOptional", tensor(F32, &[1, 12])),
        most,
        width(operator, 8192),
    ];
    if operator == Id::SwiGluQuantV2 {
        calls.extend([int4(operator), call().set("groupListType", 0)]);
    }
    calls
}

pub(crate) fn violations(operator: Id) -> Vec<Case> {
    let call = || dynamic(operator);
    let case = |call, rule| Case::new(call, rule, 561002);
    let none = call().set("x", tensor(BF16, &[2, 0, 24])).set("yOut", tensor(I8, &[2, 0, 12]));
    let by_static = || call().set("quantModeOptional", c"static");
    let many =
        call().set("groupIndexOptional", tensor(I32, &[1025])).set("smoothScalesOptional", tensor(F32, &[1025, 12]));
    let mut cases = vec![
        case(none.set("scaleOut", tensor(F32, &[2, 0])), "empty"),
        case(width(operator, 25), "width"),
        case(width(operator, 8196), "width"),
        case(call().set("quantModeOptional", c"dynamic_msd"), "quant-mode"),
        case(call().null("quantModeOptional"), "quant-mode"),
        case(many, "groups"),
        case(call().set("groupIndexOptional", tensor(I32, &[0])).null("smoothScalesOptional"), "groups"),
        case(call().set("smoothScalesOptional", tensor(F32, &[2])), "smooth-shape"),
        case(call().set("smoothScalesOptional", tensor(F32, &[12])), "smooth-shape"),
        case(call().set("smoothScalesOptional", tensor(F32, &[3, 12])), "smooth-shape"),
        case(by_static().null("offsetsOptional"), "static-operands"),
        case(by_static().null("smoothScalesOptional"), "static-operands"),
        case(by_static().set("offsetsOptional", tensor(F32, &[2])), "static-operands"),
        case(call().set("yOut", tensor(I8, &[2, 3, 24])), "y-shape"),
        case(call().set("scaleOut", tensor(F32, &[6])), "scale-shape"),
    ];
    if operator == Id::SwiGluQuantV2 {
        let narrow = int4(operator)
            .null("smoothScalesOptional")
            .set("x", tensor(BF16, &[2, 3, 22]))
            .set("yOut", tensor(I4, &[2, 3, 11]));
        cases.extend([
            case(call().set("groupListType", 2), "group-list-type"),
            case(call().set("dstType", 29), "dst-type"),
            case(int4(operator).set("dstType", 2), "dst-type"),
            case(narrow, "int4"),
            case(int4(operator).set("yOut", spread(tensor(I4, &[2, 3, 12]))), "int4"),
        ]);
    }
    cases
}
