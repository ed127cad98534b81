//! Calls of the first finalize-routing operator: those of the second one by column.

use ascend_sys::OperatorId;

use crate::base;
use crate::build::{BF16, Built, Case, F16, F32, I32, spread, tensor};
use crate::limits::Limit;

const FLOATS: &[i32] = &[0, 1, 27];
const PLAIN: &[i32] = &[0, 1, 2, 16, 27, 30, 35, 47];

pub(crate) fn limits_v1() -> Vec<Limit> {
    vec![
        ("expandedX", FLOATS, PLAIN, 2..=2, false),
        ("x1", FLOATS, PLAIN, 2..=2, false),
        ("x2Optional", FLOATS, PLAIN, 2..=2, false),
        ("bias", FLOATS, PLAIN, 2..=2, false),
        ("scales", FLOATS, PLAIN, 2..=2, false),
        ("expandedRowIdx", &[3], PLAIN, 1..=1, false),
        ("expandedExpertIdx", &[3], PLAIN, 2..=2, false),
        ("out", FLOATS, PLAIN, 2..=2, false),
    ]
}

pub(crate) fn legal_v1() -> Vec<Built> {
    let base = Built::new(OperatorId::MoeFinalizeRouting)
        .set("expandedX", tensor(BF16, &[12, 32]))
        .set("x1", tensor(BF16, &[6, 32]))
        .set("x2Optional", tensor(BF16, &[6, 32]))
        .set("bias", tensor(BF16, &[8, 32]))
        .set("scales", tensor(BF16, &[6, 2]))
        .set("expandedRowIdx", tensor(I32, &[12]))
        .set("expandedExpertIdx", tensor(I32, &[6, 2]))
        .set("out", tensor(BF16, &[6, 32]));
    vec![
        base.clone(),
        base.clone().null("x2Optional").set("scales", spread(tensor(BF16, &[6, 2]))),
        base.clone().set("expandedX", tensor(BF16, &[7, 32])),
        base.set("bias", tensor(BF16, &[2, 32])),
    ]
}

pub(crate) fn violations_v1() -> Vec<Case> {
    let call = || base(OperatorId::MoeFinalizeRouting);
    let case = |call, rule| Case::new(call, rule, 561002);
    let summand = |name: &str, shape: &[i64]| Case::new(call().set(name, tensor(F16, shape)), "summand-dtypes", 161002);
    vec![
        summand("x1", &[6, 32]),
        summand("x2Optional", &[6, 32]),
        summand("bias", &[8, 32]),
        summand("out", &[6, 32]),
        Case::new(call().set("scales", tensor(F32, &[6, 2])), "scales-dtype", 161002),
        case(call().set("scales", tensor(BF16, &[5, 2])), "scales-shape"),
        case(call().set("x1", tensor(BF16, &[5, 32])), "x1-shape"),
        case(call().set("x2Optional", tensor(BF16, &[6, 31])), "x2-shape"),
        case(call().set("bias", tensor(BF16, &[8, 31])), "bias-shape"),
        case(call().set("expandedExpertIdx", tensor(I32, &[6, 3])), "expert-idx-shape"),
        case(call().set("bias", tensor(BF16, &[1, 32])), "experts"),
        case(call().set("out", tensor(BF16, &[12, 32])), "out-shape"),
    ]
}
