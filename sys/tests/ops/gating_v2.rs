//! Calls of the second version of the router: those of the first one, and those with a table of tokens.

use ascend_sys::OperatorId;

use crate::base;
use crate::build::{BF16, Built, Case, F32, I32, I64, V8_5, spread, tensor};
use crate::limits::Limit;
use crate::routing::{legal_gating, violations_gating};

const FLOATS: &[i32] = &[0, 1, 27];
const PLAIN: &[i32] = &[0, 1, 2, 16, 27, 30, 35, 47];

pub(crate) fn limits_v2() -> Vec<Limit> {
    vec![
        ("x", FLOATS, PLAIN, 2..=2, false),
        ("biasOptional", FLOATS, PLAIN, 1..=1, false),
        ("inputIdsOptional", &[3, 9], PLAIN, 1..=1, false),
        ("tid2eidOptional", &[3, 9], PLAIN, 2..=2, false),
        ("yOut", FLOATS, PLAIN, 2..=2, false),
        ("expertIdxOut", &[3], PLAIN, 2..=2, false),
        ("outOut", &[0], PLAIN, 2..=2, false),
    ]
}

/// A call of the first version as one of this.
fn lifted(v1: &Built) -> Built {
    let mut call = Built::new(OperatorId::MoeGatingTopKV2);
    for (name, _) in v1.operator.info().params {
        let index = call.index(name);
        call.values[index] = v1.values[v1.index(name)].clone();
    }
    call
}

/// 4 tokens of 256 experts, k of them from a table.
fn table(k: i32) -> Built {
    let shape = [4, i64::from(k)];
    Built::new(OperatorId::MoeGatingTopKV2)
        .set("x", tensor(BF16, &[4, 256]))
        .set("biasOptional", tensor(BF16, &[256]))
        .set("inputIdsOptional", tensor(I64, &[4]))
        .set("tid2eidOptional", tensor(I32, &[1000, k.into()]))
        .set("k", k)
        .set("kGroup", 1)
        .set("groupCount", 1)
        .set("normType", 2)
        .set("routedScalingFactor", 1.5)
        .set("yOut", tensor(BF16, &shape))
        .set("expertIdxOut", tensor(I32, &shape))
        .set("outOut", tensor(F32, &[4, 256]))
}

pub(crate) fn legal_v2() -> Vec<Built> {
    let mut calls = vec![
        table(6),
        table(64).null("biasOptional").set("inputIdsOptional", tensor(I32, &[4])),
        table(6).set("tid2eidOptional", spread(tensor(I64, &[1000, 6]))).set("normType", 1),
        table(6).set("kGroup", 8).set("groupCount", 8).set("normType", 0).set("renorm", 1),
        table(6).set("kGroup", 99).set("groupCount", 256).set("normType", 0),
        // One of the two alone has no say.
        table(65).null("inputIdsOptional"),
        table(6).null("tid2eidOptional").set("inputIdsOptional", tensor(I64, &[5])),
    ];
    calls.extend(legal_gating().iter().map(lifted));
    calls
}

pub(crate) fn violations_v2() -> Vec<Case> {
    let case = |call, rule| Case::new(call, rule, 561103);
    // What the first version refuses, but for what is of its releases and of its kinds of scores.
    let same = violations_gating().into_iter().filter(|case| case.call.release != V8_5 && case.rule != "norm-type");
    let mut cases: Vec<_> = same
        .map(|case| {
            let code = if case.rule.ends_with("-dtype") { 161002 } else { 561103 };
            Case::new(lifted(&case.call), case.rule, code).also(case.also)
        })
        .collect();
    cases.extend([
        case(table(65), "table-k"),
        case(table(6).set("tid2eidOptional", tensor(I32, &[1000, 5])), "table-shape"),
        case(table(6).set("inputIdsOptional", tensor(I64, &[5])), "input-ids-shape"),
        case(table(6).set("normType", 3), "norm-type"),
        case(table(6).set("normType", -1), "norm-type"),
        case(table(6).set("kGroup", 8).set("groupCount", 8), "softplus-groups"),
        case(table(6).set("kGroup", 4).set("groupCount", 8).set("normType", 1), "table-groups"),
    ]);
    cases
}

#[test]
fn rules_are_the_same_whatever_the_release() {
    let call = base(OperatorId::MoeGatingTopKV2).set("normType", 0).set("renorm", 1);
    assert_eq!(call.on(V8_5).validate(), Ok(()));
}
