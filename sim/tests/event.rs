//! Events.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::ptr::null_mut;

use ascend_sys::{
    ACL_EVENT_CAPTURE_STREAM_PROGRESS as PROGRESS, ACL_EVENT_SYNC as SYNC, ACL_EVENT_TIME_LINE as TIME_LINE,
    aclrtEvent, aclrtEventRecordedStatus, aclrtStream, aclrtStreamStatus,
};
use cann_sim::FindingKind;
use common::{Gate, Rig, c, code, ok};

fn is_complete(rig: &Rig, event: aclrtEvent) -> bool {
    let mut status = aclrtEventRecordedStatus(77);
    ok!(rig, aclrtQueryEventStatus(event, &mut status));
    assert!([aclrtEventRecordedStatus::COMPLETE, aclrtEventRecordedStatus::NOT_READY].contains(&status));
    status == aclrtEventRecordedStatus::COMPLETE
}

fn is_idle(rig: &Rig, stream: aclrtStream) -> bool {
    let mut status = aclrtStreamStatus(77);
    ok!(rig, aclrtStreamQuery(stream, &mut status));
    status == aclrtStreamStatus::COMPLETE
}

#[test]
fn flags_of_events() {
    let rig = Rig::strict().on_device();
    let mut event = aclrtEvent::NULL;
    for flag in [SYNC, PROGRESS, TIME_LINE, SYNC | PROGRESS | TIME_LINE] {
        ok!(rig, aclrtCreateEventExWithFlag(&mut event, flag));
        ok!(rig, aclrtDestroyEvent(event));
        ok!(rig, aclrtCreateEventWithFlag(&mut event, flag));
        ok!(rig, aclrtDestroyEvent(event));
    }
    for (flag, expected) in
        [(0, 107_000), (0x4, 107_000), (0x80, 107_000), (0x10, 207_000), (0x20, 207_000), (0x41, 207_000)]
    {
        code!(rig, aclrtCreateEventExWithFlag(&mut event, flag), expected);
        code!(rig, aclrtCreateEventWithFlag(&mut event, flag), expected);
    }
    code!(rig, aclrtCreateEventExWithFlag(null_mut(), SYNC), 100_000);
    code!(rig, aclrtCreateEventWithFlag(null_mut(), SYNC), 100_000);
    rig.assert_clean();
}

#[test]
fn an_event_is_complete_when_everything_before_the_record_is_done() {
    let rig = Rig::strict().on_device();
    for event in [rig.event_ex(SYNC), rig.event(SYNC), rig.event_ex(TIME_LINE), rig.event(TIME_LINE)] {
        let (stream, gate) = (rig.stream(), Gate::new());
        rig.block(stream, gate);
        ok!(rig, aclrtRecordEvent(event, stream));
        gate.reached();
        assert!(!is_complete(&rig, event));
        gate.open();
        ok!(rig, aclrtSynchronizeEvent(event));
        assert!(is_complete(&rig, event));
    }
}

#[test]
fn a_record_is_not_held_up_by_what_comes_behind() {
    let rig = Rig::strict().on_device();
    let (stream, gate, event) = (rig.stream(), Gate::new(), rig.event_ex(SYNC));
    ok!(rig, aclrtRecordEvent(event, stream));
    rig.block(stream, gate);
    ok!(rig, aclrtSynchronizeEvent(event));
    assert!(!is_idle(&rig, stream));
    gate.open();
}

#[test]
fn an_event_never_recorded() {
    let rig = Rig::strict().on_device();
    let (ex, old) = (rig.event_ex(SYNC), rig.event(SYNC));
    assert!(is_complete(&rig, ex));
    assert!(!is_complete(&rig, old));
    ok!(rig, aclrtSynchronizeEvent(ex));
    ok!(rig, aclrtSynchronizeEvent(old));
    // Waiting for an Ex event that was never recorded is nothing at all.
    let stream = rig.stream();
    ok!(rig, aclrtStreamWaitEvent(stream, ex));
    ok!(rig, aclrtSynchronizeStream(stream));
    // A hardware event may be waited for before it is recorded.
    ok!(rig, aclrtStreamWaitEvent(stream, old));
    code!(rig, aclrtSynchronizeStreamWithTimeout(stream, 1), 507_046);
    ok!(rig, aclrtRecordEvent(old, rig.stream()));
    ok!(rig, aclrtSynchronizeStream(stream));
    rig.assert_clean();
}

#[test]
fn a_stream_waits_for_another() {
    let rig = Rig::strict().on_device();
    for event in [rig.event_ex(SYNC), rig.event(SYNC)] {
        let (first, second, gate) = (rig.stream(), rig.stream(), Gate::new());
        rig.block(first, gate);
        ok!(rig, aclrtRecordEvent(event, first));
        ok!(rig, aclrtStreamWaitEvent(second, event));
        let later = rig.event_ex(SYNC);
        ok!(rig, aclrtRecordEvent(later, second));
        gate.reached();
        assert!(!is_complete(&rig, later), "the second stream waits");
        gate.open();
        ok!(rig, aclrtSynchronizeStream(second));
        assert!(is_complete(&rig, later) && is_complete(&rig, event));
    }
}

#[test]
fn a_wait_stands_for_the_record_at_the_call() {
    let rig = Rig::strict().on_device();
    let event = rig.event_ex(SYNC);
    let (first, second, waiter) = (rig.stream(), rig.stream(), rig.stream());
    let (one, two) = (Gate::new(), Gate::new());
    rig.block(first, one);
    rig.block(second, two);
    ok!(rig, aclrtRecordEvent(event, first));
    ok!(rig, aclrtStreamWaitEvent(waiter, event));
    ok!(rig, aclrtRecordEvent(event, second));
    one.open();
    ok!(rig, aclrtSynchronizeStream(waiter));
    assert!(!is_complete(&rig, event), "the event itself has moved to the second record");
    two.open();
    ok!(rig, aclrtSynchronizeEvent(event));
    assert!(is_complete(&rig, event));
}

#[test]
fn a_wait_on_the_stream_of_the_record_is_nothing() {
    let rig = Rig::strict().on_device();
    let (stream, event) = (rig.stream(), rig.event_ex(SYNC));
    ok!(rig, aclrtRecordEvent(event, stream));
    ok!(rig, aclrtStreamWaitEvent(stream, event));
    ok!(rig, aclrtSynchronizeStream(stream));
    let waits = rig.sim.trace().iter().filter(|record| record.function == "aclrtStreamWaitEvent").count();
    assert_eq!(waits, 0);
}

#[test]
fn a_hardware_event_stays_set() {
    let rig = Rig::strict().on_device();
    let (event, stream, waiter, gate) = (rig.event(SYNC), rig.stream(), rig.stream(), Gate::new());
    ok!(rig, aclrtRecordEvent(event, stream));
    ok!(rig, aclrtSynchronizeStream(stream));
    rig.block(stream, gate);
    ok!(rig, aclrtRecordEvent(event, stream));
    ok!(rig, aclrtStreamWaitEvent(waiter, event));
    ok!(rig, aclrtSynchronizeStream(waiter));
    assert!(!is_idle(&rig, stream), "the first record has set it, the second one has not run");
    gate.open();
}

#[test]
fn only_events_with_sync_can_be_waited_for_by_streams() {
    let rig = Rig::strict().on_device();
    for event in [rig.event_ex(TIME_LINE), rig.event(TIME_LINE), rig.event_ex(PROGRESS)] {
        ok!(rig, aclrtRecordEvent(event, aclrtStream::NULL));
        code!(rig, aclrtStreamWaitEvent(aclrtStream::NULL, event), 207_000);
        ok!(rig, aclrtSynchronizeEvent(event));
    }
}

#[test]
fn an_event_may_be_destroyed_before_it_happens() {
    let rig = Rig::strict().on_device();
    for event in [rig.event_ex(SYNC), rig.event(SYNC)] {
        let (first, second, gate) = (rig.stream(), rig.stream(), Gate::new());
        rig.block(first, gate);
        ok!(rig, aclrtRecordEvent(event, first));
        ok!(rig, aclrtStreamWaitEvent(second, event));
        ok!(rig, aclrtDestroyEvent(event));
        assert!(!is_idle(&rig, second));
        gate.open();
        ok!(rig, aclrtSynchronizeStream(second));
    }
    rig.assert_clean();
}

#[test]
fn a_destroyed_event_is_refused_everywhere() {
    let rig = Rig::lenient().on_device();
    let event = rig.event_ex(SYNC);
    ok!(rig, aclrtDestroyEvent(event));
    let (mut status, mut ms) = (aclrtEventRecordedStatus::COMPLETE, 0.0);
    code!(rig, aclrtDestroyEvent(event), 107_017);
    code!(rig, aclrtRecordEvent(event, aclrtStream::NULL), 107_017);
    code!(rig, aclrtStreamWaitEvent(aclrtStream::NULL, event), 107_017);
    code!(rig, aclrtQueryEventStatus(event, &mut status), 107_017);
    code!(rig, aclrtSynchronizeEvent(event), 107_017);
    code!(rig, aclrtSynchronizeEventWithTimeout(event, 1), 107_017);
    code!(rig, aclrtEventElapsedTime(&mut ms, rig.event_ex(TIME_LINE), event), 107_017);
    assert_eq!(rig.findings(), [FindingKind::UnknownHandle; 7]);
}

#[test]
fn null_events_are_refused() {
    let rig = Rig::strict().on_device();
    let event = rig.event_ex(SYNC);
    let mut status = aclrtEventRecordedStatus::COMPLETE;
    code!(rig, aclrtDestroyEvent(aclrtEvent::NULL), 100_000);
    code!(rig, aclrtRecordEvent(aclrtEvent::NULL, aclrtStream::NULL), 100_000);
    code!(rig, aclrtStreamWaitEvent(aclrtStream::NULL, aclrtEvent::NULL), 100_000);
    code!(rig, aclrtSynchronizeEvent(aclrtEvent::NULL), 100_000);
    code!(rig, aclrtQueryEventStatus(aclrtEvent::NULL, &mut status), 100_000);
    code!(rig, aclrtQueryEventStatus(event, null_mut()), 100_000);
    code!(rig, aclrtEventElapsedTime(null_mut(), event, event), 100_000);
    rig.assert_clean();
}

#[test]
fn time_outs() {
    let rig = Rig::strict().on_device();
    let (stream, event, gate) = (rig.stream(), rig.event_ex(SYNC), Gate::new());
    rig.block(stream, gate);
    ok!(rig, aclrtRecordEvent(event, stream));
    for timeout in [0, -2] {
        code!(rig, aclrtSynchronizeEventWithTimeout(event, timeout), 107_000);
    }
    code!(rig, aclrtSynchronizeEventWithTimeout(event, 1), 507_047);
    gate.open();
    ok!(rig, aclrtSynchronizeEventWithTimeout(event, -1));
    ok!(rig, aclrtSynchronizeEventWithTimeout(event, 1));
}

#[test]
fn elapsed_time_is_that_of_the_host() {
    let rig = Rig::strict().on_device();
    let stream = rig.stream();
    let (start, end, never) = (rig.event_ex(TIME_LINE), rig.event_ex(TIME_LINE | SYNC), rig.event_ex(TIME_LINE));
    let began = std::time::Instant::now();
    ok!(rig, aclrtRecordEvent(start, stream));
    let gate = Gate::new();
    rig.block(stream, gate);
    ok!(rig, aclrtRecordEvent(end, stream));
    gate.reached();
    let mut ms = f32::NAN;
    code!(rig, aclrtEventElapsedTime(&mut ms, start, never), 507_000);
    code!(rig, aclrtEventElapsedTime(&mut ms, never, end), 507_000);
    code!(rig, aclrtEventElapsedTime(&mut ms, start, end), 107_006);
    assert!(ms.is_nan(), "nothing is written with an error");
    gate.open();
    ok!(rig, aclrtSynchronizeStream(stream));
    ok!(rig, aclrtEventElapsedTime(&mut ms, start, end));
    let bound = began.elapsed().as_secs_f32() * 1e3;
    assert!(ms > 0.0 && ms <= bound * 1.001, "{ms} of at most {bound}");
    let mut back = 0.0;
    ok!(rig, aclrtEventElapsedTime(&mut back, end, start));
    assert_eq!(back, -ms);

    let untimed = rig.event_ex(SYNC);
    ok!(rig, aclrtRecordEvent(untimed, stream));
    ok!(rig, aclrtSynchronizeStream(stream));
    code!(rig, aclrtEventElapsedTime(&mut ms, start, untimed), 107_006);
}

#[test]
fn a_device_has_65536_hardware_events() {
    let rig = Rig::strict().on_device();
    let events: Vec<_> = (0..65_536).map(|_| rig.event(SYNC)).collect();
    let mut event = aclrtEvent::NULL;
    code!(rig, aclrtCreateEventWithFlag(&mut event, SYNC), 207_007);
    ok!(rig, aclrtCreateEventWithFlag(&mut event, TIME_LINE));
    ok!(rig, aclrtCreateEventExWithFlag(&mut event, SYNC));
    ok!(rig, aclrtSetDevice(1));
    ok!(rig, aclrtCreateEventWithFlag(&mut event, SYNC));
    ok!(rig, aclrtSetDevice(0));
    ok!(rig, aclrtDestroyEvent(events[7]));
    ok!(rig, aclrtCreateEventWithFlag(&mut event, SYNC));
    code!(rig, aclrtCreateEventWithFlag(&mut event, SYNC), 207_007);
    // A reset gives them all back; in strict mode it tells that they were left over.
    code!(rig, aclrtResetDeviceForce(0), 507_007);
    ok!(rig, aclrtSetDevice(0));
    ok!(rig, aclrtCreateEventWithFlag(&mut event, SYNC));
}

#[test]
fn events_need_no_context_to_be_looked_at() {
    let rig = Rig::strict().on_device();
    let event = rig.event_ex(SYNC);
    ok!(rig, aclrtRecordEvent(event, aclrtStream::NULL));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            ok!(rig, aclrtSynchronizeEvent(event));
            assert!(is_complete(&rig, event));
            code!(rig, aclrtRecordEvent(event, aclrtStream::NULL), 107_002);
            ok!(rig, aclrtDestroyEvent(event));
        });
    });
}
