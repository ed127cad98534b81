//! Injected failures, and what follows when a task fails on the device.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::ptr::{null, null_mut};
use std::sync::Mutex;

use ascend_sys::{
    ACL_EVENT_SYNC, ACL_EVENT_TIME_LINE, aclError, aclrtContext, aclrtEventRecordedStatus, aclrtExceptionInfo,
    aclrtLastErrLevel, aclrtStream, aclrtStreamStatus,
};
use cann_sim::Mode;
use common::{D2D, Gate, HUGE_FIRST, Rig, c, code, ok};

const NULL: aclrtStream = aclrtStream::NULL;

/// Fails the first memset of a stream on the device.
const MEMSET: &str = "aclrtMemsetAsync@1=device:507015";

fn memset(rig: &Rig, block: *mut std::ffi::c_void, value: i32, stream: aclrtStream) -> aclError {
    c!(rig, aclrtMemsetAsync(block, 8, value, 8, stream))
}

#[test]
fn a_script_fails_the_nth_call() {
    let rig = Rig::faulty(Mode::Strict, "aclrtMalloc@2=207001;aclrtFree@*=107000");
    let block = rig.malloc(8);
    let mut pointer = null_mut();
    code!(rig, aclrtMalloc(&mut pointer, 8, HUGE_FIRST), 207_001);
    assert!(pointer.is_null());
    assert!(rig.error_text().unwrap().contains("fault script"));
    code!(rig, aclrtGetLastError(aclrtLastErrLevel::THREAD), 207_001);
    rig.malloc(8);
    code!(rig, aclrtFree(block), 107_000);
    code!(rig, aclrtFree(block), 107_000);
    assert_eq!(rig.download(block, 1), [0xFF], "the free was not made");
    rig.assert_clean();
}

#[test]
fn a_script_reaches_what_answers_without_a_code() {
    let rig = Rig::faulty(Mode::Strict, "aclrtGetSocName@1=500000;aclDataTypeSize@1=100000");
    assert!(c!(rig, aclrtGetSocName()).is_null());
    assert!(!c!(rig, aclrtGetSocName()).is_null());
    assert_eq!(c!(rig, aclDataTypeSize(ascend_sys::aclDataType::FLOAT)), 0);
    assert_eq!(c!(rig, aclDataTypeSize(ascend_sys::aclDataType::FLOAT)), 4);
}

#[test]
fn a_device_fault_is_told_at_the_synchronisation_and_no_earlier() {
    for mode in [Mode::Strict, Mode::Lenient] {
        let rig = Rig::faulty(mode, MEMSET);
        let (stream, gate, block) = (rig.stream(), Gate::new(), rig.malloc(8));
        rig.upload(block, &[1; 8]);
        rig.block(stream, gate);
        assert_eq!(memset(&rig, block, 2, stream), aclError::SUCCESS, "the launch succeeds");
        gate.open();
        let event = rig.event_ex(ACL_EVENT_SYNC);
        ok!(rig, aclrtRecordEvent(event, stream));
        ok!(rig, aclrtSynchronizeEvent(event));
        assert_eq!(memset(&rig, block, 3, stream), aclError::SUCCESS, "nobody has told the program yet");
        assert_eq!(rig.error_text(), None);
        code!(rig, aclrtSynchronizeStream(stream), 507_015);
        let text = rig.error_text().unwrap();
        assert!(text.starts_with("EZ9999: ") && text.contains("aclrtMemsetAsync"), "{text}");
        code!(rig, aclrtGetLastError(aclrtLastErrLevel::THREAD), 507_015);
        assert_eq!(rig.download(block, 8), [3; 8], "the failed task did nothing, the one behind it ran");
    }
}

#[test]
fn lenient_mode_forgets_a_fault_as_cann_does() {
    let rig = Rig::faulty(Mode::Lenient, MEMSET);
    let (stream, other, block) = (rig.stream(), rig.stream(), rig.malloc(8));
    assert_eq!(memset(&rig, block, 2, stream), aclError::SUCCESS);
    ok!(rig, aclrtSynchronizeStream(other));
    code!(rig, aclrtSynchronizeStream(stream), 507_015);
    ok!(rig, aclrtSynchronizeStream(stream));
    ok!(rig, aclrtSynchronizeDevice());
    assert_eq!(memset(&rig, block, 3, stream), aclError::SUCCESS);
    ok!(rig, aclrtSynchronizeStream(stream));
    assert_eq!(rig.download(block, 8), [3; 8]);
}

#[test]
fn strict_mode_keeps_a_fault_until_the_device_is_reset() {
    for force in [false, true] {
        let rig = Rig::faulty(Mode::Strict, MEMSET);
        let (stream, other, block) = (rig.stream(), rig.stream(), rig.malloc(8));
        let (event, second) = (rig.event_ex(ACL_EVENT_SYNC), rig.malloc(8));
        assert_eq!(memset(&rig, block, 2, stream), aclError::SUCCESS);
        code!(rig, aclrtSynchronizeDevice(), 507_015);

        let (mut idle, mut status) = (aclrtStreamStatus::COMPLETE, aclrtEventRecordedStatus::COMPLETE);
        for stream in [stream, other, NULL] {
            code!(rig, aclrtSynchronizeStream(stream), 507_015);
            code!(rig, aclrtSynchronizeStreamWithTimeout(stream, 100), 507_015);
            code!(rig, aclrtStreamQuery(stream, &mut idle), 507_015);
            code!(rig, aclrtMemsetAsync(block, 8, 0, 8, stream), 507_015);
            code!(rig, aclrtMemcpyAsync(second, 8, block, 8, D2D, stream), 507_015);
            code!(rig, aclrtRecordEvent(event, stream), 507_015);
            code!(rig, aclrtLaunchHostFunc(stream, Some(common::wait_at_gate), null_mut()), 507_015);
        }
        code!(rig, aclrtSynchronizeDevice(), 507_015);
        code!(rig, aclrtSynchronizeEvent(event), 507_015);
        code!(rig, aclrtQueryEventStatus(event, &mut status), 507_015);
        assert!(rig.error_text().unwrap().contains("fault script"), "the first cause is told");

        // Cleaning up works.
        ok!(rig, aclrtDestroyEvent(event));
        ok!(rig, aclrtDestroyStream(stream));
        ok!(rig, aclrtDestroyStream(other));
        ok!(rig, aclrtFree(block));
        ok!(rig, aclrtFree(second));
        if force {
            ok!(rig, aclrtResetDeviceForce(0));
        } else {
            ok!(rig, aclrtResetDevice(0));
        }
        ok!(rig, aclrtSetDevice(0));
        ok!(rig, aclrtMemsetAsync(rig.malloc(8), 8, 0, 8, NULL));
        ok!(rig, aclrtSynchronizeStream(NULL));
    }
}

#[test]
fn a_fault_stays_within_its_context() {
    let rig = Rig::faulty(Mode::Strict, MEMSET);
    assert_eq!(memset(&rig, rig.malloc(8), 2, NULL), aclError::SUCCESS);
    code!(rig, aclrtSynchronizeStream(NULL), 507_015);
    let mut own = aclrtContext::NULL;
    ok!(rig, aclrtCreateContext(&mut own, 0));
    ok!(rig, aclrtMemsetAsync(rig.malloc(8), 8, 0, 8, NULL));
    ok!(rig, aclrtSynchronizeDevice());
}

#[test]
fn stop_discards_what_lies_behind_a_failed_task() {
    for mode in [Mode::Strict, Mode::Lenient] {
        let rig = Rig::faulty(mode, MEMSET);
        let (stream, other, gate) = (rig.stream(), rig.stream(), Gate::new());
        let (block, elsewhere) = (rig.malloc(8), rig.malloc(8));
        rig.upload(block, &[1; 8]);
        ok!(rig, aclrtSetStreamFailureMode(stream, 1));
        rig.block(stream, gate);
        assert_eq!(memset(&rig, block, 2, stream), aclError::SUCCESS);
        assert_eq!(memset(&rig, block, 3, stream), aclError::SUCCESS);
        let event = rig.event_ex(ACL_EVENT_SYNC | ACL_EVENT_TIME_LINE);
        ok!(rig, aclrtRecordEvent(event, stream));
        ok!(rig, aclrtStreamWaitEvent(other, event));
        assert_eq!(memset(&rig, elsewhere, 4, other), aclError::SUCCESS);
        gate.open();
        code!(rig, aclrtSynchronizeStream(stream), 507_015);
        // Sticky, for every stream of the context.
        code!(rig, aclrtSynchronizeStream(stream), 507_015);
        code!(rig, aclrtSynchronizeStream(other), 507_015);
        code!(rig, aclrtSynchronizeEvent(event), 507_015);
        code!(rig, aclrtMemsetAsync(block, 8, 0, 8, other), 507_015);
        assert_eq!(rig.download(block, 8), [1; 8], "the task behind the failed one was discarded");
        assert_eq!(rig.download(elsewhere, 8), [4; 8], "the other stream went on");
        let mut ms = 0.0;
        code!(rig, aclrtEventElapsedTime(&mut ms, event, event), 107_006);
        c!(rig, aclrtResetDeviceForce(0));
        ok!(rig, aclrtSetDevice(0));
        ok!(rig, aclrtSynchronizeDevice());
    }
}

#[test]
fn under_stop_another_streams_synchronisation_tells_of_the_fault() {
    let rig = Rig::faulty(Mode::Lenient, MEMSET);
    let (stream, other) = (rig.stream(), rig.stream());
    ok!(rig, aclrtSetStreamFailureMode(other, 1));
    let event = rig.event_ex(ACL_EVENT_SYNC);
    assert_eq!(memset(&rig, rig.malloc(8), 2, stream), aclError::SUCCESS);
    ok!(rig, aclrtRecordEvent(event, stream));
    code!(rig, aclrtSynchronizeEvent(event), 507_015);
    code!(rig, aclrtSynchronizeStream(other), 507_015);
}

#[test]
fn any_device_code_can_be_had() {
    for wanted in [507_011, 507_014, 507_018, 507_899] {
        let rig = Rig::faulty(Mode::Lenient, &format!("aclrtMemcpyAsync@2=device:{wanted}"));
        let (a, b) = (rig.malloc(8), rig.malloc(8));
        for _ in 0..3 {
            ok!(rig, aclrtMemcpyAsync(a, 8, b, 8, D2D, NULL));
        }
        code!(rig, aclrtSynchronizeStream(NULL), wanted);
        ok!(rig, aclrtSynchronizeStream(NULL));
    }
}

#[test]
fn a_failed_launch_leaves_nothing_to_wait_for() {
    let rig = Rig::faulty(Mode::Strict, "aclrtRecordEvent@1=507899");
    let event = rig.event_ex(ACL_EVENT_SYNC);
    code!(rig, aclrtRecordEvent(event, NULL), 507_899);
    ok!(rig, aclrtSynchronizeEvent(event));
}

/// What an exception callback is told: task, stream, thread, device, code. One list per test.
type Told = Mutex<Vec<[u32; 5]>>;

fn details(rig: &Rig, info: *const aclrtExceptionInfo) -> [u32; 5] {
    [
        c!(rig, aclrtGetTaskIdFromExceptionInfo(info)),
        c!(rig, aclrtGetStreamIdFromExceptionInfo(info)),
        c!(rig, aclrtGetThreadIdFromExceptionInfo(info)),
        c!(rig, aclrtGetDeviceIdFromExceptionInfo(info)),
        c!(rig, aclrtGetErrorCodeFromExceptionInfo(info)),
    ]
}

static LISTENER: Mutex<Option<Rig>> = Mutex::new(None);
static TOLD: Told = Mutex::new(Vec::new());
static LAST: Mutex<usize> = Mutex::new(0);

unsafe extern "C" fn listen(info: *mut aclrtExceptionInfo) {
    let listener = LISTENER.lock().unwrap();
    TOLD.lock().unwrap().push(details(listener.as_ref().unwrap(), info));
    *LAST.lock().unwrap() = info as usize;
}

#[test]
fn the_exception_callback_is_told_what_failed() {
    let rig = Rig::faulty(Mode::Lenient, "aclrtMemsetAsync@2=device:507015;aclrtMemsetAsync@4=device:507015");
    *LISTENER.lock().unwrap() = Some(Rig { table: rig.table.clone(), sim: rig.sim.clone() });
    ok!(rig, aclrtSetExceptionInfoCallback(Some(listen)));
    let (stream, block) = (rig.stream(), rig.malloc(8));
    for value in 0..3 {
        assert_eq!(memset(&rig, block, value, stream), aclError::SUCCESS);
    }
    code!(rig, aclrtSynchronizeStream(stream), 507_015);
    // SAFETY: no precondition.
    let thread = unsafe { libc::pthread_self() } as u32;
    assert_eq!(*TOLD.lock().unwrap(), [[1, 1, thread, 0, 507_015]]);

    // Afterwards the information is gone, and without a callback nobody is told.
    let old = *LAST.lock().unwrap() as *const aclrtExceptionInfo;
    assert_eq!(details(&rig, old), [u32::MAX; 5]);
    assert_eq!(details(&rig, null()), [u32::MAX; 5]);
    ok!(rig, aclrtSetExceptionInfoCallback(None));
    assert_eq!(memset(&rig, block, 9, stream), aclError::SUCCESS);
    code!(rig, aclrtSynchronizeStream(stream), 507_015);
    assert_eq!(TOLD.lock().unwrap().len(), 1);
    *LISTENER.lock().unwrap() = None;
}
