//! Host functions and callbacks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ThreadId;

use ascend_sys::{aclError, aclrtCallbackBlockType, aclrtStream, aclrtStreamStatus};
use cann_sim::{FindingKind, Mode};
use common::{D2H, Gate, Rig, c, code, ok};

const BLOCK: aclrtCallbackBlockType = aclrtCallbackBlockType::BLOCK;
const NO_BLOCK: aclrtCallbackBlockType = aclrtCallbackBlockType::NO_BLOCK;

fn me() -> u64 {
    // SAFETY: no precondition.
    unsafe { libc::pthread_self() as u64 }
}

type Ran = Mutex<Vec<ThreadId>>;

fn ran() -> &'static Ran {
    Box::leak(Box::default())
}

fn data<T>(value: &'static T) -> *mut c_void {
    std::ptr::from_ref(value).cast_mut().cast()
}

/// Notes on which thread it runs.
unsafe extern "C" fn note(data: *mut c_void) {
    // SAFETY: `data` is a leaked list.
    unsafe { &*data.cast::<Ran>() }.lock().unwrap().push(std::thread::current().id());
}

#[test]
fn a_host_function_runs_on_a_thread_of_the_runtime_and_later_work_waits() {
    let rig = Rig::strict().on_device();
    let (stream, gate, ran) = (rig.stream(), Gate::new(), ran());
    let (block, pinned) = (rig.malloc(8), rig.malloc_host(8));
    rig.upload(block, &[5; 8]);
    ok!(rig, aclrtLaunchHostFunc(stream, Some(note), data(ran)));
    rig.block(stream, gate);
    ok!(rig, aclrtMemcpyAsync(pinned, 8, block, 8, D2H, stream));
    gate.reached();
    // SAFETY: pinned memory; the copy has not begun, because the host function before it has not ended.
    assert_eq!(unsafe { pinned.cast::<u8>().read_volatile() }, 0xFF);
    gate.open();
    ok!(rig, aclrtSynchronizeStream(stream));
    // SAFETY: pinned memory that nobody writes to any more.
    assert_eq!(unsafe { pinned.cast::<u8>().read_volatile() }, 5);
    let ran = ran.lock().unwrap();
    assert!(ran.len() == 1 && ran[0] != std::thread::current().id());
    code!(rig, aclrtLaunchHostFunc(stream, None, null_mut()), 107_000);
}

#[test]
fn callbacks_run_on_the_thread_that_processes_reports() {
    let rig = Rig::strict().on_device();
    let (stream, ran) = (rig.stream(), ran());
    ok!(rig, aclrtSubscribeReport(me(), stream));
    for _ in 0..3 {
        ok!(rig, aclrtLaunchCallback(Some(note), data(ran), NO_BLOCK, stream));
    }
    ok!(rig, aclrtSynchronizeStream(stream));
    assert!(ran.lock().unwrap().is_empty(), "nobody has processed them yet");
    ok!(rig, aclrtProcessReport(-1));
    assert_eq!(*ran.lock().unwrap(), [std::thread::current().id(); 3]);
    code!(rig, aclrtProcessReport(1), 507_012);
    ok!(rig, aclrtUnSubscribeReport(me(), stream));
    code!(rig, aclrtProcessReport(1), 107_012);
    rig.assert_clean();
}

#[test]
fn a_blocking_callback_holds_the_stream_up() {
    let rig = Rig::strict().on_device();
    let (stream, ran) = (rig.stream(), ran());
    let mut status = aclrtStreamStatus::COMPLETE;
    ok!(rig, aclrtSubscribeReport(me(), stream));
    ok!(rig, aclrtLaunchCallback(Some(note), data(ran), BLOCK, stream));
    code!(rig, aclrtSynchronizeStreamWithTimeout(stream, 1), 507_046);
    ok!(rig, aclrtStreamQuery(stream, &mut status));
    assert_eq!(status, aclrtStreamStatus::NOT_READY);
    ok!(rig, aclrtProcessReport(-1));
    ok!(rig, aclrtSynchronizeStream(stream));
    assert_eq!(ran.lock().unwrap().len(), 1);
}

#[test]
fn another_thread_processes_the_reports_of_several_streams() {
    let rig = Rig::strict().on_device();
    let (one, other, ran) = (rig.stream(), rig.stream(), ran());
    let stop = AtomicBool::new(false);
    let (to_test, ready) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let (rig, stop) = (&rig, &stop);
        let processor = scope.spawn(move || {
            to_test.send(me()).unwrap();
            while !stop.load(Ordering::Acquire) {
                let found = c!(rig, aclrtProcessReport(10));
                assert!([0, 507_012, 107_012].contains(&found.0), "{found:?}");
            }
        });
        let thread = ready.recv().unwrap();
        ok!(rig, aclrtSubscribeReport(thread, one));
        ok!(rig, aclrtSubscribeReport(thread, other));
        for stream in [one, other, one] {
            ok!(rig, aclrtLaunchCallback(Some(note), data(ran), BLOCK, stream));
        }
        ok!(rig, aclrtSynchronizeStream(one));
        ok!(rig, aclrtSynchronizeStream(other));
        assert_eq!(*ran.lock().unwrap(), [processor.thread().id(); 3]);
        ok!(rig, aclrtUnSubscribeReport(thread, one));
        ok!(rig, aclrtUnSubscribeReport(thread, other));
        stop.store(true, Ordering::Release);
    });
}

#[test]
fn what_subscriptions_refuse() {
    let rig = Rig::strict().on_device();
    let (stream, ran) = (rig.stream(), ran());
    code!(rig, aclrtLaunchCallback(Some(note), data(ran), NO_BLOCK, stream), 107_015);
    code!(rig, aclrtLaunchCallback(Some(note), data(ran), aclrtCallbackBlockType(2), stream), 100_000);
    code!(rig, aclrtLaunchCallback(None, data(ran), NO_BLOCK, stream), 107_000);
    code!(rig, aclrtUnSubscribeReport(me(), stream), 107_011);
    ok!(rig, aclrtSubscribeReport(me(), stream));
    code!(rig, aclrtSubscribeReport(me(), stream), 107_011);
    code!(rig, aclrtSubscribeReport(me() + 1, stream), 107_011);
    code!(rig, aclrtUnSubscribeReport(me() + 1, stream), 107_012);
    for timeout in [0, -2] {
        code!(rig, aclrtProcessReport(timeout), 100_000);
    }
    ok!(rig, aclrtSetDevice(1));
    let elsewhere = rig.stream();
    code!(rig, aclrtSubscribeReport(me(), elsewhere), 107_012);
    ok!(rig, aclrtSubscribeReport(me() + 1, elsewhere));
}

#[test]
fn a_destroyed_stream_takes_its_subscription_along() {
    let rig = Rig::strict().on_device();
    let (stream, ran) = (rig.stream(), ran());
    ok!(rig, aclrtSubscribeReport(me(), stream));
    ok!(rig, aclrtLaunchCallback(Some(note), data(ran), NO_BLOCK, stream));
    ok!(rig, aclrtDestroyStream(stream));
    code!(rig, aclrtProcessReport(1), 107_012);
    assert!(ran.lock().unwrap().is_empty());
}

/// What a host function saw when it called the runtime.
struct Inside {
    rig: Rig,
    stream: aclrtStream,
    seen: Mutex<Vec<aclError>>,
}

unsafe extern "C" fn wait_inside(data: *mut c_void) {
    // SAFETY: `data` is a leaked `Inside`.
    let inside = unsafe { &*data.cast::<Inside>() };
    let mut seen = inside.seen.lock().unwrap();
    let rig = &inside.rig;
    seen.push(c!(rig, aclrtSynchronizeStream(inside.stream)));
    seen.push(c!(rig, aclrtSynchronizeDevice()));
    seen.push(c!(rig, aclrtDestroyStream(inside.stream)));
    seen.push(c!(rig, aclrtResetDevice(0)));
}

#[test]
fn a_callback_that_would_wait_for_itself_is_refused() {
    for mode in [Mode::Strict, Mode::Lenient] {
        let rig = Rig::new(cann_sim::Config { mode, ..cann_sim::Config::default() }).on_device();
        let stream = rig.stream();
        let inside: &'static Inside = Box::leak(Box::new(Inside {
            rig: Rig { table: rig.table.clone(), sim: rig.sim.clone() },
            stream,
            seen: Mutex::default(),
        }));
        ok!(rig, aclrtLaunchHostFunc(stream, Some(wait_inside), data(inside)));
        ok!(rig, aclrtSynchronizeStream(stream));
        assert_eq!(*inside.seen.lock().unwrap(), [aclError(500_000); 4]);
        assert_eq!(rig.findings(), [FindingKind::Callback; 4]);
    }
}
