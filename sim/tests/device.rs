//! Devices and contexts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::ptr::null_mut;

use ascend_sys::{ACL_EVENT_SYNC, aclError, aclrtContext, aclrtEvent, aclrtMemAttr, aclrtStream};
use cann_sim::{Config, FindingKind, Mode};
use common::{Gate, HUGE_FIRST, Rig, c, code, ok};

fn current(rig: &Rig) -> aclrtContext {
    let mut context = aclrtContext::NULL;
    ok!(rig, aclrtGetCurrentContext(&mut context));
    context
}

fn device(rig: &Rig) -> i32 {
    let mut device = -1;
    ok!(rig, aclrtGetDevice(&mut device));
    device
}

#[test]
fn devices_are_counted_and_numbered() {
    let rig = Rig::new(Config { devices: 3, ..Config::default() });
    let mut count = 0;
    ok!(rig, aclrtGetDeviceCount(&mut count));
    assert_eq!(count, 3);
    code!(rig, aclrtGetDeviceCount(null_mut()), 100_000);
    ok!(rig, aclrtSetDevice(2));
    assert_eq!(device(&rig), 2);
    for id in [-1, 3, i32::MAX, i32::MIN] {
        code!(rig, aclrtSetDevice(id), 107_001);
        code!(rig, aclrtResetDevice(id), 107_001);
        code!(rig, aclrtResetDeviceForce(id), 107_001);
        let mut context = aclrtContext::NULL;
        code!(rig, aclrtCreateContext(&mut context, id), 107_001);
    }
}

#[test]
fn without_a_context_there_is_107002() {
    let rig = Rig::strict();
    let (mut pointer, mut stream, mut event) = (null_mut(), aclrtStream::NULL, aclrtEvent::NULL);
    let (mut id, mut context) = (0, aclrtContext::NULL);
    let (mut free, mut total) = (0, 0);
    let byte: *mut _ = (&raw mut free).cast();
    let other: *mut _ = (&raw mut total).cast();
    code!(rig, aclrtGetDevice(&mut id), 107_002);
    code!(rig, aclrtGetCurrentContext(&mut context), 107_002);
    code!(rig, aclrtMalloc(&mut pointer, 8, HUGE_FIRST), 107_002);
    code!(rig, aclrtMallocHost(&mut pointer, 8), 107_002);
    code!(rig, aclrtGetMemInfo(aclrtMemAttr::HBM, &mut free, &mut total), 107_002);
    code!(rig, aclrtMemcpy(byte, 1, other, 1, common::H2H), 107_002);
    code!(rig, aclrtMemset(byte, 1, 0, 1), 107_002);
    code!(rig, aclrtCreateStream(&mut stream), 107_002);
    code!(rig, aclrtSynchronizeStream(aclrtStream::NULL), 107_002);
    code!(rig, aclrtSynchronizeDevice(), 107_002);
    code!(rig, aclrtCreateEventExWithFlag(&mut event, ACL_EVENT_SYNC), 107_002);
    rig.assert_clean();
}

#[test]
fn threads_that_set_a_device_share_its_default_context() {
    let rig = Rig::strict().on_device();
    let here = current(&rig);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut context = aclrtContext::NULL;
            code!(rig, aclrtGetCurrentContext(&mut context), 107_002);
            ok!(rig, aclrtSetDevice(0));
            assert_eq!(current(&rig), here);
            ok!(rig, aclrtSetDevice(1));
            assert_ne!(current(&rig), here);
            ok!(rig, aclrtSetCurrentContext(here));
            assert_eq!(device(&rig), 0, "a context brings its device");
        });
    });
    assert_eq!(device(&rig), 0, "the binding of another thread is its own");
}

#[test]
fn the_last_reset_ends_the_default_context() {
    let rig = Rig::strict().on_device();
    ok!(rig, aclrtSetDevice(0));
    let context = current(&rig);
    ok!(rig, aclrtResetDevice(0));
    assert_eq!(current(&rig), context, "one use is left");
    ok!(rig, aclrtResetDevice(0));
    let mut id = 0;
    code!(rig, aclrtGetDevice(&mut id), 107_002);
    code!(rig, aclrtResetDevice(0), 507_007);
    code!(rig, aclrtResetDeviceForce(0), 507_007);
    rig.assert_clean();
    code!(rig, aclrtSetCurrentContext(context), 107_000);
    assert_eq!(rig.findings(), [FindingKind::UnknownHandle], "the handle of the default context is dead");
    ok!(rig, aclrtSetDevice(0));
    assert_ne!(current(&rig), context);
}

#[test]
fn a_thread_that_set_the_device_follows_it_through_a_reset() {
    let rig = Rig::strict().on_device();
    let (to_thread, here) = std::sync::mpsc::channel();
    let (to_test, there) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let here: std::sync::mpsc::Receiver<()> = here;
            ok!(rig, aclrtSetDevice(0));
            let old = current(&rig);
            to_test.send(()).unwrap();
            here.recv().unwrap();
            let mut context = aclrtContext::NULL;
            code!(rig, aclrtGetCurrentContext(&mut context), 107_002);
            to_test.send(()).unwrap();
            here.recv().unwrap();
            assert_ne!(current(&rig), old);
        });
        there.recv().unwrap();
        ok!(rig, aclrtResetDeviceForce(0));
        to_thread.send(()).unwrap();
        there.recv().unwrap();
        ok!(rig, aclrtSetDevice(0));
        to_thread.send(()).unwrap();
    });
}

#[test]
fn explicit_contexts() {
    let rig = Rig::strict().on_device();
    let default = current(&rig);
    let mut own = aclrtContext::NULL;
    ok!(rig, aclrtCreateContext(&mut own, 1));
    assert_eq!(current(&rig), own, "creating binds");
    assert_eq!(device(&rig), 1);
    ok!(rig, aclrtSetCurrentContext(default));
    assert_eq!(device(&rig), 0);
    code!(rig, aclrtDestroyContext(default), 107_002);
    ok!(rig, aclrtDestroyContext(own));
    assert_eq!(current(&rig), default);
    rig.assert_clean();
    code!(rig, aclrtDestroyContext(own), 107_002);
    code!(rig, aclrtDestroyContext(aclrtContext::NULL), 100_000);
    code!(rig, aclrtSetCurrentContext(aclrtContext::NULL), 100_000);
    code!(rig, aclrtCreateContext(null_mut(), 0), 100_000);
    assert_eq!(rig.findings(), [FindingKind::UnknownHandle]);
}

#[test]
fn destroying_the_current_context_unbinds() {
    let rig = Rig::strict();
    let mut own = aclrtContext::NULL;
    ok!(rig, aclrtCreateContext(&mut own, 0));
    ok!(rig, aclrtDestroyContext(own));
    let mut context = aclrtContext::NULL;
    code!(rig, aclrtGetCurrentContext(&mut context), 107_002);
}

#[test]
fn memory_lives_until_the_device_has_no_context() {
    let rig = Rig::lenient().on_device();
    let mut own = aclrtContext::NULL;
    ok!(rig, aclrtCreateContext(&mut own, 0));
    let block = rig.malloc(64);
    ok!(rig, aclrtResetDevice(0));
    rig.assert_clean();
    rig.upload(block, &[1, 2, 3]);
    assert_eq!(rig.download(block, 3), [1, 2, 3]);
    ok!(rig, aclrtDestroyContext(own));
    assert_eq!(rig.findings(), [FindingKind::Leak]);
}

#[test]
fn what_is_left_over_at_a_reset_is_a_finding() {
    for (mode, expected) in [(Mode::Strict, 507_007), (Mode::Lenient, 0)] {
        let rig = Rig::new(Config { mode, ..Config::default() }).on_device();
        let stream = rig.stream();
        let event = rig.event_ex(ACL_EVENT_SYNC);
        let block = rig.malloc(100);
        let freed = rig.malloc(100);
        ok!(rig, aclrtFree(freed));
        code!(rig, aclrtResetDevice(0), expected);
        let report = rig.sim.report();
        assert_eq!(rig.findings(), [FindingKind::Leak; 3]);
        let all = report.iter().map(|finding| finding.to_string()).collect::<Vec<_>>().join("\n");
        for object in
            [format!("{:p}", stream.0), format!("{:p}", event.0), format!("{block:p}"), "aclrtResetDevice".into()]
        {
            assert!(all.contains(&object), "{object} is named in\n{all}");
        }
        let mut id = 0;
        code!(rig, aclrtStreamGetId(stream, &mut id), 107_017);
        code!(rig, aclrtDestroyEvent(event), 107_017);
        code!(rig, aclrtFree(block), 107_000);
    }
}

#[test]
fn a_reset_waits_for_work_and_a_forced_one_discards_it() {
    for force in [false, true] {
        let rig = Rig::strict().on_device();
        let gate = Gate::new();
        let block = rig.malloc(64);
        rig.upload(block, &[7; 64]);
        let pinned = rig.malloc_host(64);
        rig.block(aclrtStream::NULL, gate);
        ok!(rig, aclrtMemcpyAsync(pinned, 64, block, 64, common::D2H, aclrtStream::NULL));
        // A second stream tells when a forced reset has let go of the queues.
        let (other, never, released) = (rig.stream(), rig.event(ACL_EVENT_SYNC), rig.event_ex(ACL_EVENT_SYNC));
        if force {
            ok!(rig, aclrtStreamWaitEvent(other, never));
        }
        ok!(rig, aclrtRecordEvent(released, other));
        gate.reached();
        std::thread::scope(|scope| {
            let rig = &rig;
            let reset = scope
                .spawn(move || if force { c!(rig, aclrtResetDeviceForce(0)) } else { c!(rig, aclrtResetDevice(0)) });
            ok!(rig, aclrtSynchronizeEvent(released));
            gate.open();
            assert_eq!(reset.join().unwrap(), aclError(507_007), "things are left over");
        });
        // SAFETY: 64 bytes of pinned memory, which strict mode fills with 0xFF.
        let first = unsafe { pinned.cast::<u8>().read() };
        assert_eq!(first, if force { 0xFF } else { 7 }, "the copy was waited for, or discarded");
        assert_eq!(rig.findings(), [FindingKind::Leak; 4], "a stream, two events, a block");
    }
}

#[test]
fn a_forced_reset_lets_go_of_a_wait_that_would_never_end() {
    let rig = Rig::lenient().on_device();
    let never = rig.event(ACL_EVENT_SYNC);
    ok!(rig, aclrtStreamWaitEvent(aclrtStream::NULL, never));
    ok!(rig, aclrtResetDeviceForce(0));
    let mut id = 0;
    code!(rig, aclrtGetDevice(&mut id), 107_002);
}

#[test]
fn peers() {
    let rig = Rig::strict().on_device();
    let mut can = 0;
    ok!(rig, aclrtDeviceCanAccessPeer(&mut can, 0, 1));
    assert_eq!(can, 1);
    code!(rig, aclrtDeviceCanAccessPeer(&mut can, 1, 1), 100_000);
    code!(rig, aclrtDeviceCanAccessPeer(&mut can, 0, 2), 107_001);
    code!(rig, aclrtDeviceCanAccessPeer(null_mut(), 0, 1), 107_000);
    ok!(rig, aclrtDeviceEnablePeerAccess(1, 0));
    code!(rig, aclrtDeviceEnablePeerAccess(1, 1), 200_006);
    code!(rig, aclrtDeviceEnablePeerAccess(0, 0), 100_000);
    code!(rig, aclrtDeviceEnablePeerAccess(5, 0), 107_001);
}
