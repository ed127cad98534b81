//! Calls of the maps, pairs, comparisons, selections, fills and copies.

use ascend_sys::OperatorId as Id;

use crate::base;
use crate::build::{BF16, BOOL, Built, COMPLEX, Case, F16, F32, I8, I32, I64, scalar, spread, tensor};

const NOT_CARRIED: i32 = 561003;

fn map(operator: Id) -> Built {
    Built::new(operator).set("self_", tensor(BF16, &[2, 3])).set("out", tensor(BF16, &[2, 3]))
}

pub(crate) fn legal(operator: Id) -> Vec<Built> {
    let value = |value| scalar(F32, value);
    let same = |built: Built| {
        let strided = built.clone().set("self_", spread(tensor(BF16, &[2, 3])));
        let empty = built.clone().set("self_", tensor(F16, &[0, 3])).set("out", tensor(F16, &[0, 3]));
        vec![built, strided, empty]
    };
    let pair = |built: Built| {
        let row = built.clone().set("other", tensor(BF16, &[3]));
        let integers = built.clone().set("self_", tensor(I32, &[2, 3])).set("other", tensor(I64, &[1, 3]));
        vec![built.clone().set("other", tensor(BF16, &[2, 3])), row, integers.set("out", tensor(I64, &[2, 3]))]
    };
    match operator {
        Id::Softplus => same(map(operator).set("beta", value(1.0)).set("threshold", value(20.0))),
        Id::Adds => same(map(operator).set("other", value(1.0)).set("alpha", value(1.0))),
        Id::Clamp => {
            let both = map(operator).set("clipValueMin", value(0.0)).set("clipValueMax", value(1.0));
            let mut calls = same(both.clone());
            calls.extend([both.clone().null("clipValueMin"), both.null("clipValueMax")]);
            calls
        }
        Id::ClampMin => same(map(operator).set("clipValueMin", value(0.0))),
        Id::EqScalar | Id::LtScalar | Id::GeScalar => {
            let call = map(operator).set("other", value(1.0)).set("out", tensor(BOOL, &[2, 3]));
            let integers = call.clone().set("self_", tensor(I32, &[2, 3])).set("other", scalar(I64, 4.0));
            vec![call, integers]
        }
        Id::Sub => pair(map(operator).set("alpha", value(1.0))),
        Id::Div | Id::Maximum | Id::Minimum => pair(map(operator)),
        Id::SWhere => {
            let call = map(operator).set("condition", tensor(BOOL, &[2, 1])).set("other", tensor(BF16, &[3]));
            vec![call]
        }
        Id::InplaceMaskedFillScalar => {
            let call = Built::new(operator).set("selfRef", tensor(F32, &[2, 3])).set("mask", tensor(BOOL, &[2, 1]));
            vec![call.set("value", value(0.0))]
        }
        Id::InplaceZero => vec![Built::new(operator).set("selfRef", tensor(I64, &[2, 3]))],
        Id::InplaceCopy => {
            let call = Built::new(operator).set("selfRef", tensor(F32, &[2, 3])).set("src", tensor(BOOL, &[3]));
            vec![call]
        }
        Id::Arange => {
            let call = Built::new(operator).set("start", value(0.0)).set("end", value(5.0)).set("step", value(2.0));
            vec![
                call.clone().set("out", tensor(I32, &[3])),
                call.clone().set("step", value(-1.0)).set("end", value(-2.0)).set("out", tensor(F32, &[2])),
            ]
        }
        _ => same(map(operator)),
    }
}

pub(crate) fn violations(operator: Id) -> Vec<Case> {
    let call = || base(operator);
    let complex = || call().set("self_", tensor(COMPLEX, &[2, 3]));
    let shape = || Case::new(call().set("out", tensor(BF16, &[3, 2])), "out-shape", 161002);
    let double = |name: &str| call().set(name, tensor(ascend_sys::aclDataType::DOUBLE, &[2, 3]));
    match operator {
        Id::Abs | Id::Neg | Id::Relu => vec![
            shape(),
            Case::new(call().set("out", tensor(F32, &[2, 3])), "out-dtype", 161002),
            Case::new(complex().set("out", tensor(COMPLEX, &[2, 3])), "carried-dtypes", NOT_CARRIED),
        ],
        Id::Exp | Id::Sqrt | Id::Sigmoid | Id::Silu | Id::Gelu => {
            vec![shape(), Case::new(call().set("self_", tensor(I32, &[2, 3])), "carried-dtypes", NOT_CARRIED)]
        }
        Id::Softplus => vec![
            Case::new(call().set("beta", scalar(COMPLEX, 1.0)), "scalar-dtypes", 161002),
            shape(),
            Case::new(double("out"), "carried-dtypes", NOT_CARRIED),
        ],
        Id::Adds => vec![
            shape(),
            Case::new(call().set("other", scalar(COMPLEX, 1.0)), "carried-scalars", NOT_CARRIED),
            Case::new(double("self_"), "carried-dtypes", NOT_CARRIED),
        ],
        Id::Sub | Id::Div | Id::Maximum | Id::Minimum => {
            let mut cases = vec![
                Case::new(call().set("out", tensor(BOOL, &[2, 3])), "out-dtype", 161002).also(&["carried-dtypes"]),
                Case::new(call().set("other", tensor(BF16, &[4])), "broadcast", 161002),
                Case::new(call().set("out", tensor(BF16, &[3])), "out-shape", 161002),
                Case::new(double("other"), "carried-dtypes", NOT_CARRIED),
            ];
            if operator == Id::Sub {
                cases.push(Case::new(call().set("alpha", scalar(COMPLEX, 2.0)), "alpha-dtype", 161002));
            }
            cases
        }
        Id::Clamp => vec![
            Case::new(call().null("clipValueMin").null("clipValueMax"), "a-bound", 161001),
            shape(),
            Case::new(double("self_"), "carried-dtypes", NOT_CARRIED),
        ],
        Id::ClampMin => vec![shape(), Case::new(double("self_"), "carried-dtypes", NOT_CARRIED)],
        Id::EqScalar | Id::LtScalar | Id::GeScalar => vec![
            Case::new(call().set("other", scalar(COMPLEX, 1.0)), "scalar-dtype", 161002),
            Case::new(call().set("out", tensor(BOOL, &[3, 2])), "out-shape", 161002),
            Case::new(call().set("out", tensor(F32, &[2, 3])), "carried-dtypes", NOT_CARRIED),
        ],
        Id::SWhere => vec![
            Case::new(call().set("condition", tensor(BOOL, &[5, 1])), "broadcast", 161002),
            Case::new(call().set("out", tensor(BF16, &[3])), "out-shape", 161002),
            Case::new(call().set("other", tensor(F32, &[3])), "carried-dtypes", NOT_CARRIED),
        ],
        Id::InplaceMaskedFillScalar => vec![
            Case::new(call().set("mask", tensor(BOOL, &[4, 2, 3])), "mask-shape", 161002),
            Case::new(call().set("value", scalar(COMPLEX, 1.0)), "carried-scalar", NOT_CARRIED),
            Case::new(call().set("selfRef", tensor(I8, &[2, 3])), "carried-dtypes", NOT_CARRIED),
        ],
        Id::InplaceZero => {
            vec![Case::new(call().set("selfRef", tensor(I8, &[2, 3])), "carried-dtypes", NOT_CARRIED)]
        }
        Id::InplaceCopy => vec![
            Case::new(call().set("src", tensor(F32, &[4])), "src-shape", 161002),
            Case::new(call().set("src", tensor(I8, &[3])), "carried-dtypes", NOT_CARRIED),
        ],
        _ => vec![
            Case::new(call().set("end", scalar(COMPLEX, 5.0)), "scalar-dtypes", 161002),
            Case::new(call().set("step", scalar(F32, 0.0)), "step", 161002),
            Case::new(call().set("out", tensor(I32, &[4])), "length", 161002),
            Case::new(call().set("out", tensor(ascend_sys::aclDataType::DOUBLE, &[3])), "carried-dtypes", NOT_CARRIED),
        ],
    }
}
