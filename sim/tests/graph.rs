//! Graphs captured from streams.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use ascend_sys::{
    ACL_EVENT_SYNC, aclDataType, aclFormat, aclmdlRI, aclmdlRICaptureMode, aclmdlRICaptureStatus,
    aclrtEventRecordedStatus, aclrtStream, aclrtStreamStatus, aclrtTaskGrp,
};
use cann_sim::{Config, FindingKind, Mode};
use common::{D2D, H2D, Rig, c, code, ok};

const GLOBAL: aclmdlRICaptureMode = aclmdlRICaptureMode::GLOBAL;
const LOCAL: aclmdlRICaptureMode = aclmdlRICaptureMode::THREAD_LOCAL;
const RELAXED: aclmdlRICaptureMode = aclmdlRICaptureMode::RELAXED;

fn set(rig: &Rig, stream: aclrtStream, to: *mut c_void, value: i32) {
    ok!(rig, aclrtMemsetAsync(to, 4, value, 4, stream));
}

fn copy(rig: &Rig, stream: aclrtStream, to: *mut c_void, from: *mut c_void) {
    ok!(rig, aclrtMemcpyAsync(to, 4, from, 4, D2D, stream));
}

fn begin(rig: &Rig, stream: aclrtStream) {
    ok!(rig, aclmdlRICaptureBegin(stream, GLOBAL));
}

fn end(rig: &Rig, stream: aclrtStream) -> aclmdlRI {
    let mut graph = aclmdlRI::NULL;
    ok!(rig, aclmdlRICaptureEnd(stream, &mut graph));
    graph
}

fn fails(rig: &Rig, stream: aclrtStream, code: i32) {
    let mut graph = aclmdlRI(std::ptr::dangling_mut());
    code!(rig, aclmdlRICaptureEnd(stream, &mut graph), code);
    assert!(graph.is_null());
}

fn status(rig: &Rig, stream: aclrtStream) -> aclmdlRICaptureStatus {
    let (mut status, mut graph) = (aclmdlRICaptureStatus(9), aclmdlRI::NULL);
    ok!(rig, aclmdlRICaptureGetInfo(stream, &mut status, &mut graph));
    status
}

fn run(rig: &Rig, graph: aclmdlRI, stream: aclrtStream) {
    ok!(rig, aclmdlRIExecuteAsync(graph, stream));
    ok!(rig, aclrtSynchronizeStream(stream));
}

#[test]
fn captured_tasks_run_when_the_graph_does() {
    let rig = Rig::strict().on_device();
    let (stream, other, a, b) = (rig.stream(), rig.stream(), rig.malloc(4), rig.malloc(4));
    rig.upload(a, &[1; 4]);
    rig.upload(b, &[2; 4]);
    assert_eq!(status(&rig, stream), aclmdlRICaptureStatus::NONE);
    begin(&rig, stream);
    assert_eq!(status(&rig, stream), aclmdlRICaptureStatus::ACTIVE);
    copy(&rig, stream, b, a);
    set(&rig, stream, a, 9);
    let graph = end(&rig, stream);
    assert_eq!(status(&rig, stream), aclmdlRICaptureStatus::NONE);
    ok!(rig, aclrtSynchronizeStream(stream));
    assert_eq!((rig.download(a, 4), rig.download(b, 4)), (vec![1; 4], vec![2; 4]), "nothing ran");
    for (value, stream) in [(1, stream), (5, other), (6, stream)] {
        rig.upload(a, &[value; 4]);
        run(&rig, graph, stream);
        assert_eq!((rig.download(a, 4), rig.download(b, 4)), (vec![9; 4], vec![value; 4]));
    }
    rig.upload(a, &[7; 4]);
    ok!(rig, aclmdlRIExecute(graph, -1));
    assert_eq!(rig.download(b, 4), [7; 4]);
    ok!(rig, aclmdlRIDebugPrint(graph));
    ok!(rig, aclmdlRIDestroy(graph));
    rig.assert_clean();
    code!(rig, aclmdlRIExecuteAsync(graph, stream), 107_017);
}

#[test]
fn streams_join_by_events_and_have_to_be_joined_back() {
    let rig = Rig::new(Config { mode: Mode::Strict, seed: Some(3), ..Config::default() }).on_device();
    let (main, side, a, b) = (rig.stream(), rig.stream(), rig.malloc(4), rig.malloc(4));
    let (fork, join) = (rig.event_ex(ACL_EVENT_SYNC), rig.event_ex(ACL_EVENT_SYNC));
    let free = |rig: &Rig| {
        let mut free = 0;
        ok!(rig, aclrtGetStreamAvailableNum(&mut free));
        free
    };
    let before = free(&rig);
    let capture = |back: bool| {
        begin(&rig, main);
        set(&rig, main, a, 3);
        ok!(rig, aclrtRecordEvent(fork, main));
        ok!(rig, aclrtStreamWaitEvent(side, fork));
        assert_eq!(status(&rig, side), aclmdlRICaptureStatus::ACTIVE);
        copy(&rig, side, b, a);
        fails(&rig, side, 107_036);
        if back {
            ok!(rig, aclrtRecordEvent(join, side));
            ok!(rig, aclrtStreamWaitEvent(main, join));
        }
        set(&rig, main, a, 4);
    };
    capture(true);
    let mut asked = aclrtEventRecordedStatus(7);
    code!(rig, aclrtQueryEventStatus(join, &mut asked), 107_028);
    code!(rig, aclrtSynchronizeEvent(join), 107_028);
    let graph = end(&rig, main);
    assert_eq!(free(&rig), before - 2, "a graph takes a device stream for each stream captured");
    ok!(rig, aclrtSynchronizeEvent(join));
    run(&rig, graph, side);
    assert_eq!((rig.download(a, 4), rig.download(b, 4)), (vec![4; 4], vec![3; 4]));
    ok!(rig, aclmdlRIDestroy(graph));
    capture(false);
    fails(&rig, main, 107_025);
    assert_eq!(status(&rig, side), aclmdlRICaptureStatus::NONE);
    assert_eq!(free(&rig), before);
    set(&rig, side, b, 8);
    ok!(rig, aclrtSynchronizeStream(side));
    assert_eq!(rig.download(b, 4), [8; 4], "the streams are usable again");
    rig.assert_clean();
}

#[test]
fn calls_that_wait_are_refused_and_the_capture_goes_on() {
    let rig = Rig::strict().on_device();
    let (stream, a) = (rig.stream(), rig.malloc(4));
    begin(&rig, stream);
    let mut asked = aclrtStreamStatus(7);
    code!(rig, aclrtSynchronizeStream(stream), 107_027);
    code!(rig, aclrtStreamQuery(stream, &mut asked), 107_027);
    code!(rig, aclrtSynchronizeDevice(), 107_027);
    code!(rig, aclrtDestroyStream(stream), 107_027);
    code!(rig, aclmdlRICaptureBegin(stream, GLOBAL), 107_027);
    code!(rig, aclrtMemset(a, 4, 1, 4), 107_030);
    let bytes = [1u8; 4];
    code!(rig, aclrtMemcpy(a, 4, bytes.as_ptr().cast(), 4, H2D), 107_030);
    code!(rig, aclrtMemcpyAsync(a, 4, bytes.as_ptr().cast(), 4, H2D, stream), 107_041);
    set(&rig, stream, a, 5);
    let graph = end(&rig, stream);
    run(&rig, graph, stream);
    assert_eq!(rig.download(a, 4), [5; 4]);
    ok!(rig, aclmdlRIDestroy(graph));
    fails(&rig, stream, 107_029);
    code!(rig, aclmdlRICaptureBegin(aclrtStream::NULL, GLOBAL), 107_031);
    code!(rig, aclmdlRICaptureBegin(stream, aclmdlRICaptureMode(3)), 107_000);
    rig.assert_clean();
}

#[test]
fn modes_say_whose_copies_are_refused() {
    let rig = Rig::strict().on_device();
    let (stream, a) = (rig.stream(), rig.malloc(4) as usize);
    // Mode, and what this thread and another are answered.
    for (mode, here, there) in [(GLOBAL, 107_030, 107_030), (LOCAL, 107_030, 0), (RELAXED, 0, 0)] {
        ok!(rig, aclmdlRICaptureBegin(stream, mode));
        code!(rig, aclrtMemset(a as *mut _, 4, 1, 4), here);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                ok!(rig, aclrtSetDevice(0));
                code!(rig, aclrtMemset(a as *mut _, 4, 1, 4), there);
                ok!(rig, aclrtResetDevice(0));
            });
        });
        let mut exchanged = RELAXED;
        ok!(rig, aclmdlRICaptureThreadExchangeMode(&mut exchanged));
        assert_eq!(exchanged, GLOBAL);
        code!(rig, aclrtMemset(a as *mut _, 4, 1, 4), 0);
        ok!(rig, aclmdlRICaptureThreadExchangeMode(&mut exchanged));
        // Another thread may end a relaxed capture alone.
        let ended = std::thread::scope(|scope| {
            let end = scope.spawn(|| {
                ok!(rig, aclrtSetDevice(0));
                let mut graph = aclmdlRI::NULL;
                let code = c!(rig, aclmdlRICaptureEnd(stream, &mut graph));
                if code.is_ok() {
                    ok!(rig, aclmdlRIDestroy(graph));
                }
                ok!(rig, aclrtResetDevice(0));
                code.0
            });
            end.join().unwrap()
        });
        assert_eq!(ended, if mode == RELAXED { 0 } else { 107_038 });
        assert_eq!(status(&rig, stream), aclmdlRICaptureStatus::NONE);
    }
    rig.assert_clean();
}

#[test]
fn events_from_outside_invalidate_a_capture() {
    let rig = Rig::strict().on_device();
    let (stream, other, a) = (rig.stream(), rig.stream(), rig.malloc(4));
    let event = rig.event_ex(ACL_EVENT_SYNC);
    ok!(rig, aclrtRecordEvent(event, other));
    begin(&rig, stream);
    code!(rig, aclrtStreamWaitEvent(stream, event), 107_024);
    assert_eq!(status(&rig, stream), aclmdlRICaptureStatus::INVALIDATED);
    code!(rig, aclrtMemsetAsync(a, 4, 1, 4, stream), 507_903);
    fails(&rig, stream, 507_903);
    // Two captures may not depend on each other.
    begin(&rig, stream);
    begin(&rig, other);
    ok!(rig, aclrtRecordEvent(event, other));
    code!(rig, aclrtStreamWaitEvent(stream, event), 107_032);
    fails(&rig, stream, 507_903);
    fails(&rig, other, 507_903);
    rig.assert_clean();
}

/// Queues `out = a + b` of one float each.
fn add(rig: &Rig, stream: aclrtStream, [a, b, out]: [*mut c_void; 3]) -> i32 {
    let one = [1i64];
    let shape = one.as_ptr();
    let (dtype, format) = (aclDataType::FLOAT, aclFormat::ND);
    let tensors = [a, b, out].map(|data| c!(rig, aclCreateTensor(shape, 1, dtype, shape, 0, format, shape, 1, data)));
    let mut alpha = 1f32;
    let alpha = c!(rig, aclCreateScalar((&raw mut alpha).cast(), aclDataType::FLOAT));
    let (mut size, mut executor) = (0, null_mut());
    let [a, b, out] = tensors;
    assert!(c!(rig, aclnnAddGetWorkspaceSize(a, b, alpha, out, &mut size, &mut executor)).is_ok());
    let code = c!(rig, aclnnAdd(null_mut(), 0, executor, stream));
    tensors.into_iter().for_each(|tensor| assert!(c!(rig, aclDestroyTensor(tensor)).is_ok()));
    c!(rig, aclDestroyScalar(alpha));
    code.0
}

#[test]
fn a_task_group_is_updated_in_the_order_of_the_updating_stream() {
    let rig = Rig::strict();
    ok!(rig, aclInit(null()));
    let rig = rig.on_device();
    let (stream, updater) = (rig.stream(), rig.stream());
    let [one, a, b] = [1f32, 0.0, 0.0].map(|value| {
        let memory = rig.malloc(4);
        rig.upload(memory, &value.to_ne_bytes());
        memory
    });
    let value = |memory| f32::from_ne_bytes(rig.download(memory, 4).try_into().unwrap());
    begin(&rig, stream);
    let mut group = aclrtTaskGrp::NULL;
    code!(rig, aclmdlRICaptureTaskGrpEnd(stream, &mut group), 107_033);
    ok!(rig, aclmdlRICaptureTaskGrpBegin(stream));
    code!(rig, aclmdlRICaptureTaskGrpBegin(stream), 107_033);
    // Operators alone, and the capture goes on.
    code!(rig, aclrtMemsetAsync(a, 4, 1, 4, stream), 507_009);
    code!(rig, aclrtMemcpyAsync(a, 4, b, 4, D2D, stream), 507_009);
    assert_eq!(add(&rig, stream, [one, one, a]), 0);
    ok!(rig, aclmdlRICaptureTaskGrpEnd(stream, &mut group));
    let graph = end(&rig, stream);
    run(&rig, graph, stream);
    assert_eq!(value(a), 2.0);
    ok!(rig, aclmdlRICaptureTaskUpdateBegin(updater, group));
    code!(rig, aclmdlRICaptureTaskUpdateBegin(stream, group), 107_033);
    code!(rig, aclrtMemsetAsync(b, 4, 1, 4, updater), 207_019);
    assert_eq!(add(&rig, updater, [a, one, b]), 0);
    assert_ne!(add(&rig, updater, [a, one, b]), 0, "one more than there are");
    ok!(rig, aclmdlRICaptureTaskUpdateEnd(updater));
    code!(rig, aclmdlRICaptureTaskUpdateEnd(updater), 107_033);
    ok!(rig, aclrtSynchronizeStream(updater));
    assert_eq!(value(b), 0.0, "an update runs nothing");
    rig.upload(a, &5f32.to_ne_bytes());
    run(&rig, graph, stream);
    assert_eq!((value(a), value(b)), (5.0, 6.0));
    ok!(rig, aclmdlRICaptureTaskUpdateBegin(updater, group));
    code!(rig, aclmdlRICaptureTaskUpdateEnd(updater), 107_033);
    ok!(rig, aclmdlRIDestroy(graph));
    rig.assert_clean();
    code!(rig, aclmdlRICaptureTaskUpdateBegin(updater, group), 107_017);
}

#[test]
fn memory_freed_before_a_replay_is_a_finding() {
    let rig = Rig::strict().on_device();
    let (stream, a) = (rig.stream(), rig.malloc(4));
    begin(&rig, stream);
    set(&rig, stream, a, 1);
    let graph = end(&rig, stream);
    ok!(rig, aclrtFree(a));
    ok!(rig, aclmdlRIExecuteAsync(graph, stream));
    code!(rig, aclrtSynchronizeStream(stream), 507_015);
    assert_eq!(rig.findings(), [FindingKind::UseAfterFree]);
}
