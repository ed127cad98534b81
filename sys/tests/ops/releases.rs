//! What differs between CANN 8.5.0 and 9.0.0, and what does not.

use ascend_sys::{OPERATORS, OperatorId, Release};

use crate::build::{Built, I64, V8_5, V9_0, V9_1, tensor};
use crate::{base, legal};

const RELEASES: [Release; 3] = [V8_5, V9_0, V9_1];

/// The rule that refuses a call on 8.5.0, 9.0.0 and 9.1.0.
fn verdicts(call: &Built) -> [Option<&'static str>; 3] {
    RELEASES.map(|release| call.clone().on(release).validate().err().map(|violation| violation.rule))
}

#[test]
fn the_first_legal_call_is_legal_everywhere() {
    for operator in OPERATORS {
        if let Some(call) = legal(operator.id).first() {
            assert_eq!(verdicts(call), [None; 3], "{}", operator.name);
        }
    }
}

#[test]
fn only_two_operators_differ() {
    for operator in OPERATORS {
        let differs = legal(operator.id).iter().any(|call| verdicts(call) != [None; 3]);
        let due = matches!(operator.id, OperatorId::MoeGatingTopK | OperatorId::MoeInitRoutingV3);
        assert_eq!(differs, due, "{}", operator.name);
    }
}

#[test]
fn what_came_with_9_0() {
    let gating = || base(OperatorId::MoeGatingTopK);
    let init = || base(OperatorId::MoeInitRoutingV3);
    let drop_pad = || legal(OperatorId::MoeInitRoutingV3).into_iter().find(|call| call.with(|call| call.int(7)) == 1);
    let since_9 = |call: Built, rule| assert_eq!(verdicts(&call), [Some(rule), None, None], "{call:?}");
    since_9(gating().set("renorm", 1), "renorm");
    since_9(drop_pad().unwrap(), "drop-pad-mode");
    since_9(init().set("activeNum", -1), "active-num");
    since_9(init().set("activeNum", 0), "active-num");
    since_9(init().set("activeNum", 13), "active-num");
    since_9(init().null("activeExpertRangeOptional"), "range-length");
    since_9(init().set("activeExpertRangeOptional", Vec::<i64>::new()), "range-length");
    since_9(init().set("expertTokensNumType", 0), "count-type");
    since_9(init().set("expertTokensNumFlag", false), "count-flag");
    let key_value = init().set("expertTokensNumType", 2).set("expertTokensCountOrCumsumOut", tensor(I64, &[8, 2]));
    assert_eq!(verdicts(&key_value), [None; 3]);
    let quantised =
        |mode| legal(OperatorId::MoeInitRoutingV3).into_iter().find(move |call| call.with(|call| call.int(10)) == mode);
    since_9(quantised(0).unwrap(), "quant-mode");
    assert_eq!(verdicts(&quantised(1).unwrap()), [None; 3]);
}

#[test]
fn what_no_release_takes() {
    let same = |call: Built, rule| assert_eq!(verdicts(&call), [Some(rule); 3], "{call:?}");
    same(base(OperatorId::MoeGatingTopK).set("renorm", 2), "renorm");
    same(base(OperatorId::MoeGatingTopK).set("normType", 2), "norm-type");
    same(base(OperatorId::MoeInitRoutingV3).set("activeNum", -2), "active-num");
    same(base(OperatorId::MoeInitRoutingV3).set("dropPadMode", 2), "drop-pad-mode");
}
