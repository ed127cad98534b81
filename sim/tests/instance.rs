//! Simulators side by side, their tables, and what they record.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::io::BufRead;

use ascend_sys::{ACL_EVENT_SYNC, ALL_IDS, FunctionId, Implementation, Release, Table, aclrtStream};
use cann_sim::{Config, Finding, FindingKind, MAX_INSTANCES, Mode, Sim, SimError, TraceRecord};
use common::{D2D, Gate, Rig, c, code, ok, start};

const NULL: aclrtStream = aclrtStream::NULL;

#[test]
fn simulators_do_not_see_each_other() {
    let (one, other) = (Rig::strict().on_device(), Rig::strict());
    code!(other, aclrtSynchronizeDevice(), 107_002);
    assert!(other.error_text().is_some() && one.error_text().is_none());
    let other = other.on_device();
    let (stream, block) = (one.stream(), one.malloc(64));
    ok!(other, aclrtResetDevice(0));
    one.upload(block, &[1; 64]);
    let other = other.on_device();
    code!(other, aclrtSynchronizeStream(stream), 107_017);
    code!(other, aclrtFree(block), 107_000);
    assert_eq!(other.findings(), [FindingKind::UnknownHandle, FindingKind::UnknownPointer]);
    assert!(other.sim.report()[0].object.contains("another simulator"));
    assert_eq!(one.download(block, 64), [1; 64]);
    one.assert_clean();
}

#[test]
fn a_simulator_in_an_old_slot_knows_nothing_of_the_one_before() {
    for _ in 0..2 * MAX_INSTANCES {
        let rig = Rig::strict();
        code!(rig, aclrtSynchronizeDevice(), 107_002);
        assert_eq!(rig.error_text().unwrap().lines().count(), 1);
        ok!(rig, aclrtSetDevice(0));
        let gate = Gate::new();
        rig.block(NULL, gate);
        gate.open();
    }
}

#[test]
fn a_table_keeps_its_simulator() {
    let table = start(Config::default()).table();
    let mut count = 0;
    // SAFETY: an out parameter.
    let code = unsafe { table.aclrtGetDeviceCount(&mut count) }.unwrap();
    assert_eq!((code.0, count), (0, 2));
}

#[test]
fn slots_run_out_and_come_back() {
    let mut held: Vec<Sim> = Vec::new();
    let error = loop {
        match Sim::start(Config::default()) {
            Ok(sim) => held.push(sim),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SimError::NoSlot), "{error}");
    assert!(held.len() <= MAX_INSTANCES && error.to_string().contains("16"));
    drop(held);
    start(Config::default());
}

#[test]
fn settings_that_are_not_legal() {
    let base = Config::default;
    let cases = [
        (Config { soc: "Ascend310P3".into(), ..base() }, "soc", "Ascend910_9391"),
        (Config { devices: 0, ..base() }, "devices", "1 to 16"),
        (Config { hbm: Some(5), ..base() }, "hbm", "1048576"),
        (Config { release: Release::new(7, 0, 0), ..base() }, "release", "8.5.0, 9.0.0, 9.1.0"),
        (Config { trace_file: Some("/no/such/directory/trace".into()), ..base() }, "trace", "No such file"),
    ];
    for (config, field, legal) in cases {
        let message = Sim::start(config).unwrap_err().to_string();
        assert!(message.contains(field) && message.contains(legal), "{message}");
    }
}

#[test]
fn what_a_release_does_not_have_is_absent() {
    for release in [Release::new(8, 5, 0), Release::new(9, 1, 0)] {
        let rig = Rig::new(Config { release, ..Config::default() });
        for &id in ALL_IDS.iter() {
            let expected = id.info().since() <= release && !id.name().starts_with("Hccl");
            assert_eq!(rig.table.functions().has(id), expected, "{} in {release}", id.name());
        }
    }
}

#[test]
fn absent_functions_are_absent() {
    let absent = vec![FunctionId::aclrtMallocHost, FunctionId::aclnnMm];
    let rig = Rig::new(Config { absent: absent.clone(), ..Config::default() });
    let full = Rig::strict();
    for id in absent {
        assert!(!rig.table.functions().has(id) && full.table.functions().has(id));
    }
    // SAFETY: the function is not there to be called.
    assert!(unsafe { rig.table.aclrtMallocHost(std::ptr::null_mut(), 8) }.is_err());
}

#[test]
fn a_simulator_says_what_it_is() {
    let rig = Rig::new(Config { soc: "Ascend910B4".into(), release: Release::new(8, 5, 0), ..Config::default() });
    let identity = rig.sim.identity();
    assert!(
        identity.starts_with("cann-sim ") && identity.ends_with(" playing CANN 8.5.0 on Ascend910B4"),
        "{identity}"
    );
    let origin = rig.table.origin();
    assert_eq!(origin.implementation, Implementation::SimulatorInProcess);
    assert_eq!(origin.identity.as_deref(), Some(identity.as_str()));
    assert_eq!(origin.release, Some(Release::new(8, 5, 0)));
    assert!(format!("{:?}", rig.sim).contains("Ascend910B4"));
}

#[test]
fn initialisation_is_visible() {
    let rig = Rig::strict();
    assert!(!rig.sim.is_initialised());
    ok!(rig, aclInit(std::ptr::null()));
    assert!(rig.sim.is_initialised());
    ok!(rig, aclFinalize());
    assert!(!rig.sim.is_initialised());
}

#[test]
fn handles_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Sim>();
    shared::<Table>();
    shared::<Finding>();
    shared::<TraceRecord>();
}

fn work(rig: &Rig) {
    let (stream, a, b) = (rig.stream(), rig.malloc(64), rig.malloc(64));
    let event = rig.event_ex(ACL_EVENT_SYNC);
    rig.upload(a, &[1; 64]);
    ok!(rig, aclrtMemcpyAsync(b, 64, a, 64, D2D, stream));
    ok!(rig, aclrtMemsetAsync(b, 64, 0, 64, stream));
    ok!(rig, aclrtRecordEvent(event, stream));
    ok!(rig, aclrtSynchronizeStream(stream));
}

#[test]
fn the_trace_records_what_ran() {
    let rig = Rig::new(Config { faults: "aclrtMemsetAsync@1=device:507015".parse().unwrap(), ..Config::default() });
    let rig = rig.on_device();
    let (stream, a, b) = (rig.stream(), rig.malloc(64), rig.malloc(64));
    rig.upload(a, &[1; 64]);
    ok!(rig, aclrtMemcpyAsync(b, 64, a, 64, D2D, stream));
    ok!(rig, aclrtMemsetAsync(b, 64, 0, 64, stream));
    code!(rig, aclrtSynchronizeStream(stream), 507_015);
    let trace = rig.sim.trace();
    let told: Vec<_> = trace.iter().map(|r| (r.sequence, r.function, r.detail.as_str(), r.stream, r.fault)).collect();
    let expected = [
        (0, "aclrtMemcpy", "64 bytes host to device", None, 0),
        (1, "aclrtMemcpyAsync", "64 bytes device to device", Some(1), 0),
        (2, "aclrtMemsetAsync", "64 bytes", Some(1), 507_015),
    ];
    assert_eq!(told, expected);
    for record in &trace {
        assert!(record.device == 0 && record.queued_ns <= record.started_ns && record.started_ns <= record.finished_ns);
    }
}

#[test]
fn the_trace_keeps_the_newest() {
    let rig = Rig::new(Config { trace_capacity: 2, ..Config::default() }).on_device();
    work(&rig);
    let kept: Vec<_> = rig.sim.trace().iter().map(|record| (record.sequence, record.function)).collect();
    assert_eq!(kept, [(2, "aclrtMemsetAsync"), (3, "aclrtRecordEvent")]);
    let rig = Rig::new(Config { trace_capacity: 0, ..Config::default() }).on_device();
    work(&rig);
    assert_eq!(rig.sim.trace(), []);
}

#[test]
fn the_trace_file_has_a_line_for_each_record() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = Config { trace_file: Some(file.path().to_owned()), trace_capacity: 3, ..Config::default() };
    let rig = Rig::new(config).on_device();
    work(&rig);
    let lines = std::io::BufReader::new(std::fs::File::open(file.path()).unwrap()).lines();
    let lines: Vec<serde_json::Value> = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    let kept: Vec<_> = rig.sim.trace().iter().map(|record| serde_json::to_value(record).unwrap()).collect();
    assert_eq!(lines[1..], kept[..]);
    assert_eq!(lines[0]["function"], "aclrtMemcpy");
}

#[test]
fn a_pool_of_ones_own() {
    let rig = Rig::new(Config { threads: 1, mode: Mode::Strict, ..Config::default() }).on_device();
    work(&rig);
    rig.assert_clean();
    assert_eq!(rig.sim.trace().len(), 4);
}

#[test]
fn findings_name_call_and_object() {
    let rig = Rig::strict().on_device();
    let block = rig.malloc(8);
    ok!(rig, aclrtFree(block));
    code!(rig, aclrtFree(block), 107_000);
    let finding = rig.sim.report().remove(0);
    assert_eq!((finding.kind, finding.call), (FindingKind::DoubleFree, "aclrtFree"));
    assert!(finding.object.contains(&format!("{block:p}")));
    assert!(finding.to_string().starts_with("DoubleFree at aclrtFree: "));
    assert!(rig.error_text().unwrap().contains("was freed before"));
}

#[test]
fn a_forked_child_is_refused() {
    let rig = Rig::strict().on_device();
    // SAFETY: the child calls the table and ends without running anything else.
    match unsafe { libc::fork() } {
        -1 => panic!("{}", std::io::Error::last_os_error()),
        0 => {
            let mut count = 0;
            // SAFETY: an out parameter.
            let refused = unsafe { rig.table.aclrtGetDeviceCount(&mut count) }.is_ok_and(|code| code.0 == 500_000);
            // SAFETY: as above.
            let again = unsafe { rig.table.aclrtSynchronizeDevice() }.is_ok_and(|code| code.0 == 500_000);
            let found = rig.findings() == [FindingKind::Fork; 2];
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(if refused && again && found { 0 } else { 1 }) }
        }
        child => {
            let mut status = -1;
            // SAFETY: waits for the child made above.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0, "the child got an error and found the fork");
            let mut count = 0;
            ok!(rig, aclrtGetDeviceCount(&mut count));
            rig.assert_clean();
        }
    }
}
