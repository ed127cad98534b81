//! How operators are called: which variant runs, what is given back where a call fails, how streams and threads meet.

use ascend_moe::op::{self, GroupListKind};
use ascend_moe::{DType, Error, Family, Stream};
use ascend_sys::{FunctionId, OperatorId, Release};
use cann_sim::FindingKind;
use half::{bf16, f16};

use crate::operators::{EXPECTED, bf, experts, multiply, read, tensor, zeros};
use crate::rig::{Gate, Rig};

#[test]
fn the_older_grouped_product_stands_in() {
    let without = |ids: &[OperatorId]| {
        let absent = ids.iter().map(|id| id.info().phase2).collect();
        Rig::with(|config| config.absent = absent)
    };
    let run = |rig: &Rig| {
        let sequence = rig.stream.sequence().unwrap();
        let mut out = zeros(rig, DType::Bf16, &[3, 2]);
        let counts = tensor(rig, &[1i64, 0, 2], &[3]);
        let ran = multiply(&sequence, &experts(rig), &counts, GroupListKind::Count, &mut out);
        drop(sequence);
        ran.map(|ran| (ran, read::<bf16>(rig, &out)))
    };
    let rig = without(&[OperatorId::GroupedMatmulV5]);
    assert_eq!(run(&rig).unwrap(), (OperatorId::GroupedMatmulV4, bf(&EXPECTED)));
    assert_eq!(rig.cann.table().operator_calls().collect::<Vec<_>>(), [(OperatorId::GroupedMatmulV4, 1)]);
    let rig = without(&[OperatorId::GroupedMatmulV5, OperatorId::GroupedMatmulV4]);
    match run(&rig) {
        Err(error @ Error::MissingOperator { release, .. }) => {
            assert_eq!(release, Release::new(9, 1, 0));
            let text = error.to_string();
            assert!(text.contains("aclnnGroupedMatmulV5") && text.contains("aclnnGroupedMatmulV4"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_wrong_group_list_is_found_by_the_switch_or_by_the_simulator() {
    let mut rig = Rig::new();
    let run = |rig: &Rig, values: &[i64], kind| {
        let sequence = rig.stream.sequence().unwrap();
        let list = tensor(rig, values, &[3]);
        let mut out = zeros(rig, DType::Bf16, &[3, 2]);
        multiply(&sequence, &experts(rig), &list, kind, &mut out).map(drop)
    };
    rig.device.set_check_group_lists(true);
    run(&rig, &[1, 0, 2], GroupListKind::Count).unwrap();
    for (values, kind, words) in [
        ([1, -1, 2], GroupListKind::Count, "negative"),
        ([1, 1, 2], GroupListKind::Count, "3"),
        ([2, 1, 3], GroupListKind::Cumsum, "1"),
    ] {
        match run(&rig, &values, kind) {
            Err(error @ Error::GroupList(_)) => assert!(error.to_string().contains(words), "{error}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(rig.findings(), []);
    rig.device.set_check_group_lists(false);
    run(&rig, &[1, 1, 2], GroupListKind::Count).unwrap();
    assert_eq!(rig.stream.synchronize().unwrap_err().code(), Some(507_015), "the device finds it when it is too late");
    assert_eq!(rig.findings()[0].kind, FindingKind::GroupList);
    rig.expect_findings();
}

#[test]
fn the_executor_is_given_back_unless_the_second_phase_had_it() {
    let run = |faults: &str| {
        let rig = Rig::with_faults(faults);
        let a = tensor(&rig, &[1.0f32; 4], &[4]);
        let mut out = zeros(&rig, DType::F32, &[4]);
        let result = op::muls(&rig.stream.sequence().unwrap(), &a.view(), 2.0, &mut out.view_mut());
        let table = rig.cann.table();
        let calls = [FunctionId::aclnnMuls, FunctionId::aclDestroyAclOpExecutor].map(|id| table.calls(id));
        assert_eq!(table.calls(FunctionId::aclCreateTensor), table.calls(FunctionId::aclDestroyTensor));
        assert_eq!(table.calls(FunctionId::aclCreateScalar), table.calls(FunctionId::aclDestroyScalar));
        match result {
            Err(Error::Vendor(error)) => (error.call, error.code, error.family, calls),
            other => panic!("{other:?}"),
        }
    };
    let (call, code, family, calls) = run("aclnnMulsGetWorkspaceSize@1=561002");
    assert_eq!((call, code, family), ("aclnnMulsGetWorkspaceSize", 561_002, Family::Internal));
    assert_eq!(calls, [0, 0], "the first phase made none");
    let (call, code, _, calls) = run("aclnnMuls@1=561000");
    assert_eq!((call, code, calls), ("aclnnMuls", 561_000, [1, 0]));
}

#[test]
fn what_the_runtime_said_behind_an_operator_is_told_once() {
    let rig = Rig::with_faults("aclnnMulsGetWorkspaceSize@1=361001;aclnnMulsGetWorkspaceSize@2=361001");
    let a = tensor(&rig, &[1.0f32; 4], &[4]);
    let mut out = zeros(&rig, DType::F32, &[4]);
    let sequence = rig.stream.sequence().unwrap();
    let mut fail = || match op::muls(&sequence, &a.view(), 2.0, &mut out.view_mut()) {
        Err(Error::Vendor(error)) => {
            assert_eq!((error.code, error.family), (361_001, Family::Business));
            error.runtime.map(|code| code.0)
        }
        other => panic!("{other:?}"),
    };
    // A call of the runtime that fails on this thread, as one inside of the operator would.
    // SAFETY: the stream is alive; a time-out of 0 is refused.
    let code = unsafe { rig.cann.table().aclrtSynchronizeStreamWithTimeout(rig.stream.raw(), 0) }.unwrap();
    assert_eq!(code.0, 107_000);
    assert_eq!(fail(), Some(107_000));
    assert_eq!(fail(), None, "the next failure is not explained by it");
}

#[test]
fn objects_that_cannot_be_made_are_errors_that_leave_nothing() {
    // Creating functions tell failure by null, whatever the code.
    let rig = Rig::with_faults("aclCreateTensor@6=161002;aclCreateTensorList@4=161002");
    let sequence = rig.stream.sequence().unwrap();
    let counts = tensor(&rig, &[1i64, 0, 2], &[3]);
    let operands = experts(&rig);
    let mut out = zeros(&rig, DType::Bf16, &[3, 2]);
    let table = rig.cann.table();
    let balance = || {
        let made = table.calls(FunctionId::aclCreateTensorList);
        (made, table.calls(FunctionId::aclDestroyTensorList), table.calls(FunctionId::aclDestroyAclOpExecutor))
    };
    // x, weight, bias, group list, out: five tensors and four lists, the last of which fails.
    let result = multiply(&sequence, &operands, &counts, GroupListKind::Count, &mut out);
    assert!(matches!(result, Err(Error::NoObject { call: "aclCreateTensorList", .. })), "{result:?}");
    assert_eq!(balance(), (4, 3, 0));
    let result = multiply(&sequence, &operands, &counts, GroupListKind::Count, &mut out);
    assert!(matches!(result, Err(Error::NoObject { call: "aclCreateTensor", .. })), "{result:?}");
    assert_eq!(balance(), (4, 3, 0));
    multiply(&sequence, &operands, &counts, GroupListKind::Count, &mut out).unwrap();
    assert_eq!(read::<bf16>(&rig, &out), bf(&EXPECTED));
}

#[test]
fn an_operator_waits_for_what_another_stream_wrote() {
    let rig = Rig::new();
    let second = Stream::new(&rig.device).unwrap();
    let a = tensor(&rig, &[f16::from_f32(3.0); 64], &[64]);
    let (mut b, mut c) = (zeros(&rig, DType::F16, &[64]), zeros(&rig, DType::F16, &[64]));
    let gate = Gate::close(&rig.stream);
    op::muls(&rig.stream.sequence().unwrap(), &a.view(), 2.0, &mut b.view_mut()).unwrap();
    op::muls(&second.sequence().unwrap(), &b.view(), 2.0, &mut c.view_mut()).unwrap();
    // Inputs may go at once.
    drop(a);
    drop(b);
    assert!(!second.is_idle().unwrap());
    gate.open();
    assert_eq!(c.to_vec::<f16>(&second).unwrap(), [f16::from_f32(12.0); 64]);
}

#[test]
fn several_threads_compute_on_streams_of_their_own_and_on_one() {
    let rig = Rig::new();
    let shared_input = tensor(&rig, &[2.0f32; 128], &[128]);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (rig, input) = (&rig, &shared_input);
            scope.spawn(move || {
                let own = Stream::new(&rig.device).unwrap();
                for round in 0..20 {
                    let stream = if round % 2 == 0 { &own } else { &rig.stream };
                    let factor = f64::from(thread * 100 + round);
                    let mut out = zeros(rig, DType::F32, &[128]);
                    let sequence = stream.sequence().unwrap();
                    let mut middle = sequence.tensor(DType::F32, &[128]).unwrap();
                    op::muls(&sequence, &input.view(), factor, &mut middle).unwrap();
                    op::add(&sequence, &middle.as_view(), &input.view(), 1.0, &mut out.view_mut()).unwrap();
                    drop(sequence);
                    assert_eq!(out.to_vec::<f32>(stream).unwrap(), [factor as f32 * 2.0 + 2.0; 128]);
                }
            });
        }
    });
}
