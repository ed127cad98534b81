//! Calls of the third finalize-routing operator: those of the second one, and ranges of experts.

use ascend_sys::OperatorId;
use ascend_sys::ops::Refusal;

use crate::base;
use crate::build::{BF16, Built, Case, tensor};
use crate::limits::Limit;
use crate::routing::{legal_finalize, violations_finalize};

const FLOATS: &[i32] = &[0, 1, 27];
const PLAIN: &[i32] = &[0, 1, 2, 16, 27, 30, 35, 47];

pub(crate) fn limits_v3() -> Vec<Limit> {
    let floats = |name, ranks| (name, FLOATS, PLAIN, ranks, false);
    let ints = |name, ranks| (name, &[3][..], PLAIN, ranks, false);
    vec![
        floats("expandedX", 2..=3),
        ints("expandedRowIdx", 1..=1),
        floats("x1Optional", 2..=2),
        floats("x2Optional", 2..=2),
        floats("biasOptional", 2..=2),
        floats("scalesOptional", 2..=2),
        ints("expertIdxOptional", 2..=2),
        floats("xOptional", 2..=2),
        floats("a1Optional", 2..=2),
        floats("a2Optional", 2..=2),
        floats("vOptional", 2..=2),
        floats("out", 2..=2),
    ]
}

/// The call of the second operator, without experts that compute nothing.
fn lifted(v2: &Built) -> Built {
    let mut call = Built::new(OperatorId::MoeFinalizeRoutingV3);
    for (name, _) in v2.operator.info().params {
        let index = call.index(name);
        call.values[index] = v2.values[v2.index(name)].clone();
    }
    ["zeroExpertRange", "copyExpertRange", "constantExpertRange"]
        .iter()
        .fold(call, |call, name| call.set(name, Vec::<i64>::new()))
}

pub(crate) fn legal_v3() -> Vec<Built> {
    let mut calls: Vec<_> = legal_finalize().iter().map(lifted).collect();
    calls[0] = ["xOptional", "a1Optional", "a2Optional", "vOptional"]
        .iter()
        .fold(calls[0].clone(), |call, name| call.set(name, tensor(BF16, &[6, 32])));
    calls.push(calls[1].clone().set("zeroExpertRange", vec![0, 0]).set("copyExpertRange", vec![5, 4]));
    calls
}

pub(crate) fn violations_v3() -> Vec<Case> {
    let lift = |case: Case| Case { call: lifted(&case.call), ..case };
    let mut cases: Vec<_> = violations_finalize().into_iter().map(lift).collect();
    for name in ["zeroExpertRange", "copyExpertRange", "constantExpertRange"] {
        let call = base(OperatorId::MoeFinalizeRoutingV3).set(name, vec![4, 6]);
        cases.push(Case::new(call, "special-experts", 561003));
    }
    cases
}

#[test]
fn special_experts_are_not_refused_by_cann() {
    let call = base(OperatorId::MoeFinalizeRoutingV3).set("zeroExpertRange", vec![1, 2]);
    assert_eq!(call.validate().unwrap_err().refusal, Refusal::NotCarried);
}
