//! Calls of the operators that quantise by scales that are given.

use ascend_sys::OperatorId as Id;
use ascend_sys::aclDataType;

use crate::build::{BF16, Built, Case, F16, F32, I8, I32, spread, tensor};
use crate::limits::Limit;

const FLOATS: &[i32] = &[0, 1, 27];
const PLAIN: &[i32] = &[0, 1, 2, 16, 27, 30, 35, 47];
const I4: aclDataType = aclDataType::INT4;

pub(crate) fn limits() -> Vec<Limit> {
    vec![
        ("x", FLOATS, PLAIN, 1..=8, false),
        ("scale", FLOATS, PLAIN, 1..=8, false),
        ("offset", FLOATS, PLAIN, 1..=8, false),
        ("y", &[2, 3, 29], PLAIN, 1..=8, false),
    ]
}

/// A scale and an offset for each of 32 columns.
fn by_column(operator: Id) -> Built {
    let call = Built::new(operator)
        .set("x", tensor(BF16, &[3, 4, 32]))
        .set("scale", tensor(BF16, &[32]))
        .set("offset", tensor(BF16, &[32]))
        .set("roundMode", c"round")
        .set("dstType", 2)
        .set("y", tensor(I8, &[3, 4, 32]));
    if operator == Id::AscendQuant { call } else { call.set("axis", -1) }
}

/// For each of 4 rows.
fn by_row() -> Built {
    by_column(Id::AscendQuantV3).set("axis", -2).set("scale", tensor(BF16, &[4])).set("offset", tensor(BF16, &[4]))
}

fn shaped(call: Built, shape: &[i64]) -> Built {
    call.set("scale", tensor(BF16, shape)).set("offset", tensor(BF16, shape))
}

pub(crate) fn legal(operator: Id) -> Vec<Built> {
    let call = || by_column(operator);
    let mixed =
        call().set("x", tensor(F32, &[3, 4, 32])).set("scale", tensor(F16, &[32])).set("offset", tensor(F16, &[32]));
    let none = call().set("x", tensor(BF16, &[0, 32])).set("y", tensor(I8, &[0, 32]));
    let line = call().set("x", tensor(BF16, &[32])).set("y", tensor(I8, &[32]));
    let mut calls = vec![
        call(),
        call().null("offset").set("sqrtMode", true),
        shaped(call(), &[1]),
        shaped(call(), &[1, 1, 32]),
        mixed,
        none,
        line,
        call().set("x", spread(tensor(BF16, &[3, 4, 32]))).set("y", spread(tensor(I8, &[3, 4, 32]))),
        call().set("y", tensor(I4, &[3, 4, 32])).set("dstType", 29),
        call().set("y", tensor(I32, &[3, 4, 4])).set("dstType", 3),
    ];
    calls.extend([c"floor", c"ceil", c"trunc"].map(|mode| call().set("roundMode", mode)));
    if operator == Id::AscendQuantV3 {
        calls.extend([by_row(), shaped(by_row(), &[1, 4, 1]), by_row().set("axis", 1), call().set("axis", 2)]);
    }
    calls
}

pub(crate) fn violations(operator: Id) -> Vec<Case> {
    let call = || by_column(operator);
    let case = |call, rule| Case::new(call, rule, 161002);
    let odd = shaped(call(), &[1]).set("x", tensor(BF16, &[3, 31])).set("y", tensor(I4, &[3, 31])).set("dstType", 29);
    let mut cases = vec![
        case(call().set("scale", tensor(F32, &[32])).set("offset", tensor(F32, &[32])), "scale-dtype"),
        case(call().set("offset", tensor(F32, &[32])), "offset-dtype"),
        case(call().set("dstType", 29), "dst-type"),
        case(call().set("y", tensor(I8, &[3, 4, 31])), "y-shape"),
        case(call().set("y", tensor(I32, &[3, 4, 5])).set("dstType", 3), "y-shape"),
        case(odd, "int4"),
        case(call().set("y", spread(tensor(I4, &[3, 4, 32]))).set("dstType", 29), "int4"),
        case(call().set("offset", tensor(BF16, &[1])), "offset-shape"),
        case(shaped(call(), &[31]), "scale-shape"),
        case(call().set("roundMode", c"rint"), "round-mode"),
        case(call().null("roundMode"), "round-mode"),
    ];
    if operator == Id::AscendQuant {
        cases.extend([
            case(call().set("offset", tensor(BF16, &[2, 32])), "offset-shape"),
            case(call().set("scale", tensor(BF16, &[4, 32])), "scale-shape"),
            case(call().set("scale", tensor(BF16, &[1, 1, 1, 32])), "scale-shape"),
        ]);
    } else {
        cases.extend([
            case(shaped(call(), &[1]).set("axis", -3), "axis"),
            case(shaped(call(), &[1]).set("axis", 0), "axis"),
            case(call().set("axis", 3), "axis"),
            case(call().set("offset", tensor(BF16, &[1, 1, 32])), "offset-shape"),
            case(shaped(by_row(), &[1, 4]), "scale-shape"),
            case(shaped(by_row(), &[3, 4, 1]), "scale-shape"),
        ]);
    }
    cases
}
