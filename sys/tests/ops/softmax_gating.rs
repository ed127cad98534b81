//! Calls of the routers that choose by softmax alone.

use ascend_sys::OperatorId;

use crate::base;
use crate::build::{BF16, BOOL, Built, Case, F16, F32, I32, spread, tensor};
use crate::limits::Limit;

const FLOATS: &[i32] = &[0, 1, 27];
const PLAIN: &[i32] = &[0, 1, 2, 16, 27, 30, 35, 47];

fn common() -> Vec<Limit> {
    vec![
        ("x", FLOATS, PLAIN, 2..=3, false),
        ("finishedOptional", &[12], PLAIN, 1..=2, false),
        ("yOut", FLOATS, PLAIN, 2..=3, true),
        ("expertIdxOut", &[3], PLAIN, 2..=3, true),
    ]
}

pub(crate) fn limits_first() -> Vec<Limit> {
    common().into_iter().chain([("rowIdxOut", &[3][..], PLAIN, 2..=3, true)]).collect()
}

pub(crate) fn limits_second() -> Vec<Limit> {
    common().into_iter().chain([("softmaxResultOutOptional", &[0][..], PLAIN, 0..=8, true)]).collect()
}

/// A call with these tokens, experts and choices.
fn call(operator: OperatorId, tokens: &[i64], experts: i64, k: i32) -> Built {
    let with = |last: i64| [tokens, &[last]].concat();
    let call = Built::new(operator)
        .set("x", tensor(BF16, &with(experts)))
        .set("finishedOptional", tensor(BOOL, tokens))
        .set("k", k)
        .set("yOut", tensor(BF16, &with(k.into())))
        .set("expertIdxOut", tensor(I32, &with(k.into())));
    match operator {
        OperatorId::MoeGatingTopKSoftmax => call.set("rowIdxOut", tensor(I32, &with(k.into()))),
        _ => call.set("outputSoftmaxResultFlag", true).set("softmaxResultOutOptional", tensor(F32, &with(experts))),
    }
}

fn legal(operator: OperatorId) -> Vec<Built> {
    let base = call(operator, &[6], 16, 4);
    vec![
        base.clone(),
        base.clone().set("x", spread(tensor(BF16, &[6, 16]))).null("finishedOptional"),
        base.set("x", tensor(F16, &[6, 16])).set("yOut", tensor(F16, &[6, 4])),
        call(operator, &[2, 3], 16, 4),
        call(operator, &[1], 1, 1),
        call(operator, &[1], 2000, 1024),
    ]
}

fn violations(operator: OperatorId) -> Vec<Case> {
    let case = |call, rule| Case::new(call, rule, 561002);
    let base = || base(operator);
    vec![
        case(call(operator, &[6], 0, 4), "experts").also(&["k"]),
        case(base().set("finishedOptional", tensor(BOOL, &[5])), "finished-shape"),
        case(base().set("finishedOptional", tensor(BOOL, &[6, 1])), "finished-shape"),
        case(call(operator, &[6], 16, 17), "k"),
        case(call(operator, &[6], 16, 0), "k"),
        case(call(operator, &[6], 2000, 1025), "k"),
        case(base().set("yOut", tensor(F32, &[6, 4])), "y-dtype"),
        case(base().set("yOut", tensor(BF16, &[6, 3])), "output-shapes"),
        case(base().set("expertIdxOut", tensor(I32, &[5, 4])), "output-shapes"),
    ]
}

pub(crate) fn legal_first() -> Vec<Built> {
    legal(OperatorId::MoeGatingTopKSoftmax)
}

pub(crate) fn violations_first() -> Vec<Case> {
    let operator = OperatorId::MoeGatingTopKSoftmax;
    let mut cases = violations(operator);
    cases.push(Case::new(base(operator).set("rowIdxOut", tensor(I32, &[4, 6])), "output-shapes", 561002));
    cases
}

pub(crate) fn legal_second() -> Vec<Built> {
    let operator = OperatorId::MoeGatingTopKSoftmaxV2;
    let mut calls = legal(operator);
    let base = calls[0].clone();
    calls.push(base.clone().set("renorm", 1).set("softmaxResultOutOptional", tensor(F32, &[1])));
    calls.push(base.set("outputSoftmaxResultFlag", false).null("softmaxResultOutOptional"));
    calls
}

pub(crate) fn violations_second() -> Vec<Case> {
    let operator = OperatorId::MoeGatingTopKSoftmaxV2;
    let mut cases = violations(operator);
    let case = |call, rule| Case::new(call, rule, 561002);
    cases.push(case(base(operator).set("renorm", 2), "renorm"));
    cases.push(case(base(operator).set("renorm", -1), "renorm"));
    cases.push(case(base(operator).null("softmaxResultOutOptional"), "softmax-missing"));
    cases.push(case(base(operator).set("softmaxResultOutOptional", tensor(F32, &[6, 15])), "softmax-shape"));
    cases
}
