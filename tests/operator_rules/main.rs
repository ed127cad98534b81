//! The calls that hold the operators' rows to CANN's limits (`sys/tests/ops`), made: by the raw table of the simulator,
//! which must answer with CANN's code in CANN's phase and name the rule, and by the safe layer, which must name the
//! same rule before any vendor call.
//!
//! There are two cases for every operator of the list. The calls are not copied: the module of that test is taken in
//! here, and its tests, which `harness = false` leaves out, run where it is.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a case that meets the unexpected ends, and says so"
)]

#[path = "../../sys/tests/ops/main.rs"]
#[allow(dead_code, unused_imports, reason = "the tests of the rows are left out here")]
mod ops;
mod raw;

// The names by which the files of that test call each other.
use ops::*;

use std::collections::BTreeSet;
use std::process::ExitCode;

use ascend_moe::{Cann, Device, Error, Stream, op};
use ascend_sys::ops::{Null, TensorDesc, Violation};
use ascend_sys::{OPERATORS, OperatorId, Release, aclDataType, aclFormat};
use build::{Built, spread, tensor};
use cann_sim::{Config, Mode, RELEASES, Sim};
use libtest_mimic::{Arguments, Trial};

/// A strict simulator of a release, with what calls need. Dropped in the order of the fields.
struct Rig {
    stream: Stream,
    device: Device,
    sim: Sim,
}

impl Rig {
    fn new(release: Release) -> Self {
        let sim = Sim::start(Config { mode: Mode::Strict, release, ..Config::default() }).unwrap();
        let device = Cann::from_table(sim.table()).unwrap().device(0).unwrap();
        Self { stream: Stream::new(&device).unwrap(), device, sim }
    }

    fn calls(&self, operator: OperatorId) -> [u64; 2] {
        let (table, info) = (self.device.cann().table(), operator.info());
        [info.phase1, info.phase2].map(|function| table.calls(function))
    }
}

/// A call and what its row says to it.
struct Judged {
    call: Built,
    due: Result<(), Violation>,
}

fn judge(call: Built) -> Judged {
    let due = call.validate();
    Judged { call, due }
}

/// Calls that break one limit of one parameter each.
fn beyond_limits(operator: OperatorId) -> Vec<Built> {
    let call = base(operator);
    let mut broken = Vec::new();
    for limit in limits::limits(operator) {
        let given = limits::tensor_of(&call, &limit);
        let (name, dtypes, formats, ranks, contiguous) = limit;
        let put = |tensor| limits::put(&call, name, tensor);
        let outside = |legal: &[i32]| (!legal.is_empty()).then(|| (0..60).find(|code| !legal.contains(code))).flatten();
        broken.extend(outside(dtypes).map(|code| put(TensorDesc { dtype: aclDataType(code), ..given })));
        broken.extend(outside(formats).map(|code| put(TensorDesc { format: aclFormat(code), ..given })));
        let shaped = |rank| TensorDesc { format: given.format, ..tensor(given.dtype, &[2; 8][..rank]) };
        broken.extend((0..=8).filter(|rank| !ranks.contains(rank)).map(|rank| put(shaped(rank))));
        broken.extend(contiguous.then(|| put(spread(given))));
    }
    for param in operator.row().params {
        match param.null {
            Null::Required => broken.push(call.clone().null(param.name)),
            Null::Reserved => broken.push(limits::put(&call, param.name, tensor(build::F32, &[4]))),
            Null::Optional => {}
        }
    }
    broken
}

/// Every call of an operator that there is, with what must be answered.
fn all(operator: OperatorId) -> Vec<Judged> {
    let mut calls: Vec<Judged> = legal(operator).into_iter().map(judge).collect();
    assert!(calls.iter().all(|judged| judged.due.is_ok()), "legal calls");
    let beyond = beyond_limits(operator).into_iter().map(judge);
    calls.extend(beyond.inspect(|judged| assert!(judged.due.is_err(), "passes: {:?}", judged.call)));
    calls.extend(violations(operator).into_iter().map(|case| {
        let judged = judge(case.call);
        let violation = judged.due.as_ref().unwrap_err();
        assert_eq!(
            (violation.rule, violation.code, violation.phase),
            (case.rule, case.code, case.phase),
            "{violation}"
        );
        judged
    }));
    calls
}

/// Makes every call on a simulator of its release. `make` says whether there is such a call in C; each rule of the row
/// must be broken by one that there is.
fn on_each_release(operator: OperatorId, make: impl Fn(&Rig, &Judged) -> bool) {
    let calls = all(operator);
    assert!(calls.iter().all(|judged| RELEASES.contains(&judged.call.release)), "a release that is not simulated");
    let mut broken = BTreeSet::new();
    for &release in RELEASES {
        let calls: Vec<&Judged> = calls.iter().filter(|judged| judged.call.release == release).collect();
        if calls.is_empty() {
            continue;
        }
        let rig = Rig::new(release);
        for judged in calls {
            if make(&rig, judged) {
                broken.extend(judged.due.as_ref().err().map(|violation| violation.rule));
            }
        }
        rig.stream.synchronize().unwrap();
        assert_eq!(rig.sim.report(), [], "findings of the simulator");
    }
    let missed: Vec<_> = operator.row().rules.iter().map(|rule| rule.id).filter(|id| !broken.contains(id)).collect();
    assert!(missed.is_empty(), "aclnn{}: no call breaks {missed:?}", operator.name());
}

/// The simulator answers through C as the row says.
fn simulator(operator: OperatorId) {
    on_each_release(operator, |rig, judged| {
        let Some(answer) = raw::make(&rig.device, &rig.stream, &judged.call) else { return false };
        let due = match &judged.due {
            Ok(()) => None,
            Err(violation) => Some((violation.phase, violation.code)),
        };
        assert_eq!(answer.refused, due, "{:?}: {}", judged.call, answer.message);
        if let Err(violation) = &judged.due {
            assert!(answer.message.contains(&violation.to_string()), "{violation}: {}", answer.message);
            assert!(answer.message.contains(&format!("`{}`", violation.rule)), "{}", answer.message);
        }
        true
    });
}

/// The safe layer refuses what the row refuses, and calls nothing.
fn safe_layer(operator: OperatorId) {
    on_each_release(operator, |rig, judged| {
        match judged.call.with(|call| op::check(&rig.device, operator, call.args)) {
            Ok(()) => assert_eq!(judged.due, Ok(()), "{:?}", judged.call),
            Err(Error::Rule(violation)) => assert_eq!(Err(*violation), judged.due, "{:?}", judged.call),
            Err(other) => panic!("{other}: {:?}", judged.call),
        }
        assert_eq!(rig.calls(operator), [0, 0], "a vendor call was made");
        true
    });
}

/// An operator that the loaded libraries lack is told before its rules.
fn absent() {
    let functions = OPERATORS.iter().map(|operator| operator.phase2).collect();
    let config = Config { mode: Mode::Strict, absent: functions, ..Config::default() };
    let device = Cann::from_table(Sim::start(config).unwrap().table()).unwrap().device(0).unwrap();
    for operator in OPERATORS {
        match base(operator.id).with(|call| op::check(&device, operator.id, call.args)) {
            Err(Error::MissingOperator { tried, .. }) => assert_eq!(tried, [operator.id]),
            other => panic!("aclnn{}: {other:?}", operator.name),
        }
    }
}

/// Whether some simulated release has the operator.
fn is_simulated(operator: OperatorId) -> bool {
    RELEASES.iter().any(|release| operator.info().phase1.info().since() <= *release)
}

/// An operator of a later release is absent from every simulated one, and the safe layer says so before its rules.
fn later(operator: OperatorId) {
    for &release in RELEASES {
        let rig = Rig::new(release);
        assert!(!rig.device.cann().table().has_operator(operator), "{release}");
        for judged in all(operator) {
            let answer = judged.call.with(|call| op::check(&rig.device, operator, call.args));
            assert!(matches!(answer, Err(Error::MissingOperator { .. })), "{release}: {answer:?}");
        }
    }
}

/// A side that answers calls, and the test of an operator on it.
type Side = (&'static str, fn(OperatorId));

fn main() -> ExitCode {
    let sides: [Side; 2] = [("simulator", simulator), ("safe_layer", safe_layer)];
    let of_operators = sides.into_iter().flat_map(|(side, test)| {
        let simulated = OPERATORS.iter().filter(|operator| is_simulated(operator.id));
        simulated.map(move |operator| trial(format!("{side}::aclnn{}", operator.name), move || test(operator.id)))
    });
    let mut trials: Vec<Trial> = of_operators.collect();
    let later_ones = OPERATORS.iter().filter(|operator| !is_simulated(operator.id));
    trials.extend(
        later_ones.map(|operator| trial(format!("safe_layer::later::aclnn{}", operator.name), || later(operator.id))),
    );
    trials.push(trial("safe_layer::absent".to_owned(), absent));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial(name: String, test: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        test();
        Ok(())
    })
}
