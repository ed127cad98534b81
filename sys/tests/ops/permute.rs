//! Calls of the operators that sort tokens by expert and count them.

use ascend_sys::OperatorId;

use crate::base;
use crate::build::{BF16, Built, Case, F32, I32, I64, spread, tensor};
use crate::limits::Limit;

const FLOATS: &[i32] = &[0, 1, 27];
const PLAIN: &[i32] = &[0, 1, 2, 16, 27, 30, 35, 47];

pub(crate) fn limits_permute() -> Vec<Limit> {
    vec![
        ("tokens", FLOATS, PLAIN, 2..=8, false),
        ("indices", &[3, 9], PLAIN, 1..=2, false),
        ("permuteTokensOut", FLOATS, PLAIN, 2..=8, true),
        ("sortedIndicesOut", &[3], PLAIN, 1..=1, true),
    ]
}

pub(crate) fn limits_expert_tokens() -> Vec<Limit> {
    vec![("sortedExperts", &[3], PLAIN, 1..=1, false), ("out", &[3], PLAIN, 1..=1, false)]
}

pub(crate) fn legal_permute() -> Vec<Built> {
    let base = Built::new(OperatorId::MoeTokenPermute)
        .set("tokens", tensor(BF16, &[6, 32]))
        .set("indices", tensor(I32, &[6, 2]))
        .set("permuteTokensOut", tensor(BF16, &[12, 32]))
        .set("sortedIndicesOut", tensor(I32, &[12]));
    let keep = |n, rows| base.clone().set("numOutTokens", n).set("permuteTokensOut", tensor(BF16, &[rows, 32]));
    vec![
        base.clone(),
        base.clone().set("tokens", spread(tensor(BF16, &[6, 32]))).set("indices", tensor(I64, &[6, 2])),
        base.clone()
            .set("indices", tensor(I32, &[6]))
            .set("permuteTokensOut", tensor(BF16, &[6, 4, 8]))
            .set("sortedIndicesOut", tensor(I32, &[6])),
        keep(5, 5),
        keep(13, 12),
        keep(-2, 10),
        keep(-13, 0),
    ]
}

pub(crate) fn violations_permute() -> Vec<Case> {
    let call = || base(OperatorId::MoeTokenPermute);
    let case = |call, rule| Case::new(call, rule, 561002);
    let many = 16_777_215;
    vec![
        Case::new(call().set("permuteTokensOut", tensor(F32, &[12, 32])), "out-dtype", 161002),
        case(call().set("paddedMode", true), "padded-mode"),
        case(call().set("tokens", tensor(BF16, &[5, 32])), "tokens"),
        case(
            call()
                .set("tokens", tensor(BF16, &[many, 1]))
                .set("indices", tensor(I32, &[many]))
                .set("permuteTokensOut", tensor(BF16, &[many, 1]))
                .set("sortedIndicesOut", tensor(I32, &[many])),
            "slots",
        ),
        case(call().set("permuteTokensOut", tensor(BF16, &[11, 32])), "permuted-shape"),
        case(call().set("permuteTokensOut", tensor(BF16, &[12, 31])), "permuted-shape"),
        case(call().set("numOutTokens", -1), "permuted-shape"),
        case(call().set("sortedIndicesOut", tensor(I32, &[11])), "sorted-shape"),
    ]
}

pub(crate) fn legal_expert_tokens() -> Vec<Built> {
    let with = |slots, experts: i32| {
        Built::new(OperatorId::MoeComputeExpertTokens)
            .set("sortedExperts", tensor(I32, &[slots]))
            .set("numExperts", experts)
            .set("out", tensor(I32, &[experts.into()]))
    };
    vec![with(6, 6), with(0, 1), with((1 << 24) - 1, 2048)]
}

pub(crate) fn violations_expert_tokens() -> Vec<Case> {
    let call = || base(OperatorId::MoeComputeExpertTokens);
    let case = |call, rule| Case::new(call, rule, 561002);
    vec![
        case(call().set("sortedExperts", tensor(I32, &[1 << 24])), "entries"),
        case(call().set("numExperts", 0).set("out", tensor(I32, &[0])), "num-experts"),
        case(call().set("numExperts", 2049).set("out", tensor(I32, &[2049])), "num-experts"),
        case(call().set("out", tensor(I32, &[5])), "out-shape"),
    ]
}
