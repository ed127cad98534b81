//! Calls of the operators that quantise rows, each with a scale of its own.

use ascend_sys::OperatorId as Id;
use ascend_sys::aclDataType;
use ascend_sys::ops::TensorDesc;

use crate::base;
use crate::build::{BF16, Built, Case, F16, F32, I8, I32, I64, spread, tensor};
use crate::limits::Limit;

const HALVES: &[i32] = &[1, 27];
const QUANTISED: &[i32] = &[2, 3, 29];
const PLAIN: &[i32] = &[0, 1, 2, 16, 27, 30, 35, 47];
const I4: aclDataType = aclDataType::INT4;

pub(crate) fn limits(operator: Id) -> Vec<Limit> {
    let first = operator == Id::DynamicQuant;
    let limits: [Limit; 6] = [
        ("x", HALVES, PLAIN, 2..=8, false),
        ("smoothScalesOptional", HALVES, PLAIN, 1..=if first { 1 } else { 2 }, false),
        ("groupIndexOptional", &[3, 9], PLAIN, 1..=1, false),
        ("yOut", QUANTISED, PLAIN, 2..=8, false),
        ("scaleOut", &[0], PLAIN, 1..=7, false),
        ("offsetOut", &[0], PLAIN, 1..=7, false),
    ];
    limits.into_iter().filter(|limit| !first || !["groupIndexOptional", "offsetOut"].contains(&limit.0)).collect()
}

/// Rows of 32 in two dimensions.
fn rows(operator: Id) -> Built {
    Built::new(operator)
        .set("x", tensor(BF16, &[3, 4, 32]))
        .set("smoothScalesOptional", tensor(BF16, &[32]))
        .set("yOut", tensor(I8, &[3, 4, 32]))
        .set("scaleOut", tensor(F32, &[3, 4]))
}

/// The same in two groups, with an offset.
fn grouped(operator: Id) -> Built {
    rows(operator)
        .set("smoothScalesOptional", tensor(BF16, &[2, 32]))
        .set("groupIndexOptional", tensor(I32, &[2]))
        .set("dstType", 2)
        .set("offsetOut", tensor(F32, &[3, 4]))
}

pub(crate) fn legal(operator: Id) -> Vec<Built> {
    let of_each = |call: Built| {
        let strided =
            call.clone().set("x", spread(tensor(BF16, &[3, 4, 32]))).set("yOut", spread(tensor(I8, &[3, 4, 32])));
        let plain = call.clone().null("smoothScalesOptional");
        let none = plain
            .clone()
            .set("x", tensor(F16, &[0, 32]))
            .set("yOut", tensor(I8, &[0, 32]))
            .set("scaleOut", tensor(F32, &[0]));
        let int4 = call.clone().set("yOut", tensor(I4, &[3, 4, 32]));
        let packed = call.clone().set("yOut", tensor(I32, &[3, 4, 4]));
        let half = rows(operator).set("x", tensor(F16, &[3, 4, 32])).set("smoothScalesOptional", tensor(F16, &[32]));
        vec![call, strided, plain, none, int4, packed, half]
    };
    match operator {
        Id::DynamicQuant => of_each(rows(operator)),
        Id::DynamicQuantV2 => {
            let most = grouped(operator)
                .set("smoothScalesOptional", tensor(BF16, &[1024, 32]))
                .set("groupIndexOptional", tensor(I32, &[1024]));
            let loose = grouped(operator).null("smoothScalesOptional").set("groupIndexOptional", tensor(I64, &[7]));
            let other_type = rows(operator).set("dstType", 99);
            let mut calls = vec![grouped(operator), grouped(operator).null("offsetOut"), most, loose, other_type];
            calls.extend(of_each(rows(operator)));
            calls
        }
        // Atlas A3 has none.
        _ => vec![],
    }
}

pub(crate) fn violations(operator: Id) -> Vec<Case> {
    if operator == Id::DynamicQuantV4 {
        return vec![Case::new(grouped(operator), "chip", 561000), Case::new(rows(operator), "chip", 561000)];
    }
    let case = |call, rule| Case::new(call, rule, 161002);
    let call = || rows(operator);
    let from = |offset| TensorDesc { offset, ..tensor(I4, &[3, 4, 32]) };
    let narrow = |width: i64| {
        call()
            .null("smoothScalesOptional")
            .set("x", tensor(BF16, &[3, 4, width]))
            .set("yOut", tensor(I4, &[3, 4, width]))
    };
    let mut cases = vec![
        case(call().set("smoothScalesOptional", tensor(F16, &[32])), "smooth-dtype"),
        case(call().set("smoothScalesOptional", tensor(BF16, &[31])), "smooth-shape"),
        case(call().set("yOut", tensor(I8, &[4, 3, 32])), "y-shape"),
        case(call().set("yOut", tensor(I8, &[12, 32])), "y-shape"),
        case(call().set("yOut", tensor(I32, &[3, 4, 32])), "y-shape"),
        case(call().set("yOut", tensor(I32, &[3, 4, 5])), "y-shape"),
        case(narrow(31), "int4"),
        case(call().set("yOut", from(1)), "int4"),
        case(call().set("yOut", spread(tensor(I4, &[3, 4, 32]))), "int4"),
        case(call().set("scaleOut", tensor(F32, &[12])), "scale-shape"),
        case(call().set("scaleOut", tensor(F32, &[3, 4, 1])), "scale-shape"),
    ];
    if operator == Id::DynamicQuantV2 {
        let call = || base(operator);
        let late = |call, rule| Case::new(call, rule, 561103);
        let many = call()
            .set("smoothScalesOptional", tensor(BF16, &[1025, 32]))
            .set("groupIndexOptional", tensor(I32, &[1025]));
        cases.extend([
            case(rows(operator).set("smoothScalesOptional", tensor(BF16, &[1, 32])), "smooth-shape"),
            case(call().set("offsetOut", tensor(F32, &[4, 3])), "offset-shape"),
            late(call().set("groupIndexOptional", tensor(I64, &[2])), "group-dtype"),
            late(call().set("groupIndexOptional", tensor(I32, &[3])), "groups"),
            late(call().set("smoothScalesOptional", tensor(BF16, &[32])), "groups"),
            late(call().set("smoothScalesOptional", tensor(BF16, &[2, 31])), "groups"),
            late(many, "groups"),
        ]);
    }
    cases
}
