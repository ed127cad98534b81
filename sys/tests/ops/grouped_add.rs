//! Calls of the grouped matrix product that adds to its output.

use ascend_sys::OperatorId;
use ascend_sys::ops::TensorDesc;

use crate::build::{BF16, Built, Case, F16, F32, I64, spread, tensor, transposed};
use crate::limits::Limit;

/// K = 32 in 4 groups, M = 10, N = 64.
fn base() -> Built {
    Built::new(OperatorId::GroupedMatmulAdd)
        .set("x", tensor(BF16, &[32, 10]))
        .set("weight", tensor(BF16, &[32, 64]))
        .set("groupList", tensor(I64, &[4]))
        .set("yRef", tensor(F32, &[4, 10, 64]))
        .set("transposeX", true)
        .set("groupType", 2)
}

pub(crate) fn legal() -> Vec<Built> {
    vec![
        base(),
        base().set("x", transposed(F16, &[32, 10])).set("weight", spread(tensor(F16, &[32, 64]))),
        base().set("yRef", tensor(F32, &[40, 64])),
        base().set("x", tensor(BF16, &[0, 10])).set("weight", tensor(BF16, &[0, 64])),
        base().set("x", tensor(BF16, &[32, 0])).set("yRef", tensor(F32, &[4, 0, 64])),
        base().set("groupList", tensor(I64, &[0])).set("yRef", tensor(F32, &[0, 10, 64])),
    ]
}

pub(crate) fn violations() -> Vec<Case> {
    let case = |call, rule| Case::new(call, rule, 161002);
    let unknown = |call, rule| Case::new(call, rule, 561103);
    let y = |tensor: TensorDesc| base().set("yRef", tensor);
    vec![
        case(base().set("weight", tensor(BF16, &[31, 64])), "k-match"),
        case(y(tensor(F32, &[5, 10, 64])), "y-size"),
        case(base().set("groupList", tensor(I64, &[3])), "y-size"),
        case(base().set("weight", tensor(F16, &[32, 64])), "dtypes"),
        unknown(base().set("transposeX", false), "form"),
        unknown(base().set("transposeWeight", true), "form"),
        unknown(base().set("groupType", 0), "form"),
    ]
}

pub(crate) fn limits() -> Vec<Limit> {
    const ND: &[i32] = &[2];
    vec![
        ("x", &[1, 27], ND, 2..=2, false),
        ("weight", &[1, 27], ND, 2..=2, false),
        ("groupList", &[9], ND, 1..=1, false),
        ("yRef", &[0], &[2, 47], 2..=3, true),
    ]
}
