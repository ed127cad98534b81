//! Streams.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Mutex;

use ascend_sys::{
    ACL_EVENT_SYNC, ACL_STREAM_FAST_LAUNCH, ACL_STREAM_FAST_SYNC, aclrtContext, aclrtStream, aclrtStreamStatus,
};
use cann_sim::{Config, FindingKind, Mode};
use common::{D2D, Gate, Rig, c, code, ok};

const NULL: aclrtStream = aclrtStream::NULL;
/// Never given out as a handle.
const NONSENSE: aclrtStream = aclrtStream(0x1234 as *mut _);

fn status(rig: &Rig, stream: aclrtStream) -> aclrtStreamStatus {
    let mut status = aclrtStreamStatus(77);
    ok!(rig, aclrtStreamQuery(stream, &mut status));
    status
}

fn id(rig: &Rig, stream: aclrtStream) -> i32 {
    let mut id = -1;
    ok!(rig, aclrtStreamGetId(stream, &mut id));
    id
}

/// Host function that appends its number to a list.
struct Step {
    list: &'static Mutex<Vec<u32>>,
    number: u32,
}

unsafe extern "C" fn step(data: *mut c_void) {
    // SAFETY: `data` is a leaked `Step`.
    let step = unsafe { &*data.cast::<Step>() };
    step.list.lock().unwrap().push(step.number);
}

fn launch_step(rig: &Rig, stream: aclrtStream, list: &'static Mutex<Vec<u32>>, number: u32) {
    let data = Box::leak(Box::new(Step { list, number }));
    ok!(rig, aclrtLaunchHostFunc(stream, Some(step), std::ptr::from_mut(data).cast()));
}

fn list() -> &'static Mutex<Vec<u32>> {
    Box::leak(Box::default())
}

#[test]
fn flags_of_streams() {
    let rig = Rig::strict().on_device();
    let mut stream = NULL;
    for flag in [0, ACL_STREAM_FAST_LAUNCH, ACL_STREAM_FAST_SYNC, ACL_STREAM_FAST_LAUNCH | ACL_STREAM_FAST_SYNC, 0x40] {
        ok!(rig, aclrtCreateStreamWithConfig(&mut stream, 9, flag));
        ok!(rig, aclrtDestroyStream(stream));
    }
    for flag in [0x4, 0x8, 0x10, 0x20] {
        code!(rig, aclrtCreateStreamWithConfig(&mut stream, 0, flag), 207_000);
    }
    code!(rig, aclrtCreateStream(null_mut()), 100_000);
    code!(rig, aclrtCreateStreamWithConfig(null_mut(), 0, 0), 100_000);
    rig.assert_clean();
}

#[test]
fn launches_return_before_the_work_runs_and_work_runs_in_order() {
    let rig = Rig::strict().on_device();
    let (stream, gate, list) = (rig.stream(), Gate::new(), list());
    assert_eq!(status(&rig, stream), aclrtStreamStatus::COMPLETE);
    rig.block(stream, gate);
    for number in 0..100 {
        launch_step(&rig, stream, list, number);
    }
    assert_eq!(status(&rig, stream), aclrtStreamStatus::NOT_READY);
    gate.reached();
    assert!(list.lock().unwrap().is_empty(), "everything waits at the gate, and the launches have returned");
    gate.open();
    ok!(rig, aclrtSynchronizeStream(stream));
    assert_eq!(*list.lock().unwrap(), (0..100).collect::<Vec<_>>());
    assert_eq!(status(&rig, stream), aclrtStreamStatus::COMPLETE);
    ok!(rig, aclrtDestroyStream(stream));
    rig.assert_clean();
}

#[test]
fn streams_are_independent() {
    let rig = Rig::strict().on_device();
    let (held, free, gate, list) = (rig.stream(), rig.stream(), Gate::new(), list());
    rig.block(held, gate);
    gate.reached();
    launch_step(&rig, free, list, 1);
    launch_step(&rig, NULL, list, 2);
    ok!(rig, aclrtSynchronizeStream(free));
    ok!(rig, aclrtSynchronizeStream(NULL));
    assert_eq!(list.lock().unwrap().len(), 2, "the default stream does not wait for others either");
    assert_eq!(status(&rig, held), aclrtStreamStatus::NOT_READY);
    gate.open();
    ok!(rig, aclrtSynchronizeDevice());
    assert_eq!(status(&rig, held), aclrtStreamStatus::COMPLETE);
}

#[test]
fn synchronising_the_device_waits_for_every_stream_of_the_context() {
    let rig = Rig::strict().on_device();
    let list = list();
    for number in 0..20 {
        launch_step(&rig, rig.stream(), list, number);
    }
    ok!(rig, aclrtSynchronizeDevice());
    assert_eq!(list.lock().unwrap().len(), 20);
    // The streams of another context are not waited for.
    let mut default = aclrtContext::NULL;
    ok!(rig, aclrtGetCurrentContext(&mut default));
    let mut own = aclrtContext::NULL;
    ok!(rig, aclrtCreateContext(&mut own, 0));
    let gate = Gate::new();
    rig.block(NULL, gate);
    ok!(rig, aclrtSetCurrentContext(default));
    ok!(rig, aclrtSynchronizeDevice());
    gate.open();
    ok!(rig, aclrtDestroyContext(own));
}

#[test]
fn destroying_a_stream_waits_for_its_work() {
    let rig = Rig::strict().on_device();
    let (stream, list) = (rig.stream(), list());
    for number in 0..50 {
        launch_step(&rig, stream, list, number);
    }
    ok!(rig, aclrtDestroyStream(stream));
    assert_eq!(list.lock().unwrap().len(), 50);
}

#[test]
fn what_cannot_be_destroyed() {
    let rig = Rig::strict().on_device();
    code!(rig, aclrtDestroyStream(NULL), 100_000);
    let stream = rig.stream();
    ok!(rig, aclrtDestroyStream(stream));
    rig.assert_clean();
    code!(rig, aclrtDestroyStream(stream), 107_017);
    code!(rig, aclrtDestroyStream(NONSENSE), 107_017);
    let event = rig.event_ex(ACL_EVENT_SYNC);
    code!(rig, aclrtDestroyStream(aclrtStream(event.0)), 107_017);
    assert_eq!(rig.findings(), [FindingKind::UnknownHandle; 3]);
    let report = rig.sim.report();
    for (finding, words) in report.iter().zip(["was destroyed", "never given out", "aclrtEvent"]) {
        assert!(finding.call == "aclrtDestroyStream" && finding.object.contains(words), "{finding}");
    }
}

#[test]
fn a_destroyed_stream_is_refused_everywhere() {
    let rig = Rig::lenient().on_device();
    let stream = rig.stream();
    let event = rig.event_ex(ACL_EVENT_SYNC);
    let (a, b) = (rig.malloc(64), rig.malloc(64));
    ok!(rig, aclrtDestroyStream(stream));
    let (mut number, mut status) = (0, aclrtStreamStatus::COMPLETE);
    code!(rig, aclrtSynchronizeStream(stream), 107_017);
    code!(rig, aclrtSynchronizeStreamWithTimeout(stream, 10), 107_017);
    code!(rig, aclrtStreamQuery(stream, &mut status), 107_017);
    code!(rig, aclrtStreamGetId(stream, &mut number), 107_017);
    code!(rig, aclrtSetStreamFailureMode(stream, 1), 107_017);
    code!(rig, aclrtRecordEvent(event, stream), 107_017);
    code!(rig, aclrtStreamWaitEvent(stream, event), 107_017);
    code!(rig, aclrtMemcpyAsync(a, 64, b, 64, D2D, stream), 107_017);
    code!(rig, aclrtMemsetAsync(a, 64, 0, 64, stream), 107_017);
    code!(rig, aclrtLaunchHostFunc(stream, Some(step), null_mut()), 107_017);
    code!(rig, aclrtSubscribeReport(1, stream), 107_017);
    assert_eq!(rig.findings(), [FindingKind::UnknownHandle; 11]);
}

#[test]
fn time_outs() {
    let rig = Rig::strict().on_device();
    let (stream, gate, list) = (rig.stream(), Gate::new(), list());
    rig.block(stream, gate);
    launch_step(&rig, stream, list, 7);
    for timeout in [0, -2, i32::MIN] {
        code!(rig, aclrtSynchronizeStreamWithTimeout(stream, timeout), 107_000);
        code!(rig, aclrtSynchronizeDeviceWithTimeout(timeout), 107_000);
    }
    code!(rig, aclrtSynchronizeStreamWithTimeout(stream, 1), 507_046);
    code!(rig, aclrtSynchronizeDeviceWithTimeout(1), 507_046);
    gate.open();
    ok!(rig, aclrtSynchronizeStreamWithTimeout(stream, -1));
    assert_eq!(*list.lock().unwrap(), [7], "the work went on");
    ok!(rig, aclrtSynchronizeStreamWithTimeout(stream, 1));
    ok!(rig, aclrtSynchronizeDeviceWithTimeout(-1));
    ok!(rig, aclrtSynchronizeDeviceWithTimeout(1));
    rig.assert_clean();
}

#[test]
fn ids_count_per_device_and_come_back() {
    let rig = Rig::strict().on_device();
    assert_eq!(id(&rig, NULL), 0, "the default stream is a stream");
    let (first, second) = (rig.stream(), rig.stream());
    assert_eq!((id(&rig, first), id(&rig, second)), (1, 2));
    ok!(rig, aclrtDestroyStream(first));
    assert_eq!(id(&rig, rig.stream()), 1);
    ok!(rig, aclrtSetDevice(1));
    assert_eq!(id(&rig, NULL), 0);
    code!(rig, aclrtStreamGetId(NULL, null_mut()), 100_000);
    code!(rig, aclrtStreamQuery(NULL, null_mut()), 100_000);
}

#[test]
fn a_device_has_1984_streams() {
    let rig = Rig::strict().on_device();
    let streams: Vec<_> = (1..1984).map(|_| rig.stream()).collect();
    let mut stream = NULL;
    code!(rig, aclrtCreateStream(&mut stream), 207_008);
    let mut context = aclrtContext::NULL;
    code!(rig, aclrtCreateContext(&mut context, 0), 207_008);
    ok!(rig, aclrtSetDevice(1));
    ok!(rig, aclrtCreateStream(&mut stream));
    ok!(rig, aclrtSetDevice(0));
    ok!(rig, aclrtDestroyStream(streams[77]));
    ok!(rig, aclrtCreateStream(&mut stream));
    code!(rig, aclrtCreateStream(&mut stream), 207_008);
}

#[test]
fn streams_of_another_context() {
    let rig = Rig::lenient().on_device();
    let mut default = aclrtContext::NULL;
    ok!(rig, aclrtGetCurrentContext(&mut default));
    let stream = rig.stream();
    let event = rig.event_ex(ACL_EVENT_SYNC);
    let (a, b) = (rig.malloc(64), rig.malloc(64));
    let mut own = aclrtContext::NULL;
    ok!(rig, aclrtCreateContext(&mut own, 0));

    code!(rig, aclrtDestroyStream(stream), 107_003);
    code!(rig, aclrtRecordEvent(event, stream), 107_003);
    code!(rig, aclrtStreamWaitEvent(stream, event), 107_003);
    code!(rig, aclrtMemcpyAsync(a, 64, b, 64, D2D, stream), 107_003);
    code!(rig, aclrtMemsetAsync(a, 64, 0, 64, stream), 107_003);
    code!(rig, aclrtLaunchHostFunc(stream, Some(step), null_mut()), 107_003);
    code!(rig, aclrtSubscribeReport(1, stream), 107_003);
    code!(rig, aclrtSetStreamFailureMode(stream, 1), 107_003);
    assert_eq!(rig.findings(), [FindingKind::ForeignContext; 8]);
    assert!(rig.error_text().unwrap().contains("another context"));

    ok!(rig, aclrtSynchronizeStream(stream));
    ok!(rig, aclrtSynchronizeStreamWithTimeout(stream, 100));
    assert_eq!(status(&rig, stream), aclrtStreamStatus::COMPLETE);
    assert_eq!(id(&rig, stream), 1);
    ok!(rig, aclrtSetCurrentContext(default));
    ok!(rig, aclrtDestroyStream(stream));
    assert_eq!(rig.findings().len(), 8);
}

#[test]
fn synchronising_needs_some_context() {
    let rig = Rig::strict().on_device();
    let stream = rig.stream();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut status = aclrtStreamStatus::COMPLETE;
            code!(rig, aclrtSynchronizeStream(stream), 107_002);
            code!(rig, aclrtStreamQuery(stream, &mut status), 107_002);
            code!(rig, aclrtDestroyStream(stream), 107_002);
            ok!(rig, aclrtSetDevice(1));
            ok!(rig, aclrtSynchronizeStream(stream));
        });
    });
}

#[test]
fn the_failure_mode_goes_one_way() {
    let rig = Rig::strict().on_device();
    let stream = rig.stream();
    ok!(rig, aclrtSetStreamFailureMode(stream, 0));
    ok!(rig, aclrtSetStreamFailureMode(stream, 2));
    ok!(rig, aclrtSetStreamFailureMode(stream, 1));
    ok!(rig, aclrtSetStreamFailureMode(stream, 3));
    code!(rig, aclrtSetStreamFailureMode(stream, 0), 207_000);
    ok!(rig, aclrtSetStreamFailureMode(NULL, 1));
    code!(rig, aclrtSetStreamFailureMode(NONSENSE, 1), 107_017);
}

#[test]
fn the_default_stream_cannot_be_destroyed_through_its_handle() {
    let rig = Rig::strict().on_device();
    // Nobody tells the handle; but handles are numbers, and it is one of those given out before the next stream's.
    let next = rig.stream();
    let mut before = (1..1_000_000).map(|steps| aclrtStream((next.0 as usize - 16 * steps) as *mut _));
    assert!(before.any(|stream| c!(rig, aclrtDestroyStream(stream)).0 == 107_000));
    ok!(rig, aclrtSynchronizeStream(NULL));
}

#[test]
fn a_seed_shakes_the_order_between_streams_but_not_within_one() {
    let rig = Rig::new(Config { seed: Some(3), mode: Mode::Strict, ..Config::default() }).on_device();
    let (one, other, first, second) = (rig.stream(), rig.stream(), list(), list());
    for number in 0..20 {
        launch_step(&rig, one, first, number);
        launch_step(&rig, other, second, number);
    }
    ok!(rig, aclrtSynchronizeDevice());
    assert!(first.lock().unwrap().iter().copied().eq(0..20) && second.lock().unwrap().iter().copied().eq(0..20));
}

#[test]
fn many_threads_launch_on_one_stream() {
    let rig = Rig::strict().on_device();
    let (stream, all) = (rig.stream(), list());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let rig = &rig;
            scope.spawn(move || {
                ok!(rig, aclrtSetDevice(0));
                for number in 0..50 {
                    launch_step(rig, stream, all, thread * 100 + number);
                }
            });
        }
    });
    ok!(rig, aclrtSynchronizeStream(stream));
    let found = all.lock().unwrap();
    assert_eq!(found.len(), 200);
    for thread in 0..4 {
        let own = found.iter().filter(|&&number| number / 100 == thread).map(|number| number % 100);
        assert!(own.eq(0..50), "the order of each thread is kept");
    }
}
