//! Events.

use std::sync::Arc;
use std::time::Instant;

use ascend_sys::{ACL_EVENT_SYNC, aclError, aclrtEvent, aclrtEventRecordedStatus, aclrtStream};

use super::{deadline, not_null, put};
use crate::errmsg::Refusal;
use crate::event::{Event, FLAGS, is_hardware};
use crate::instance::Instance;
use crate::stream::Task;
use crate::task::Work;

/// Makes a re-recordable event; any number of them.
pub(crate) unsafe fn aclrtCreateEventExWithFlag(sim: &Arc<Instance>, event: *mut aclrtEvent, flag: u32) -> aclError {
    sim.answer(create(sim, "aclrtCreateEventExWithFlag", event, flag, true))
}

/// Makes an event of the older kind; with `ACL_EVENT_SYNC` it takes one of the device's 65536 hardware events (207007).
pub(crate) unsafe fn aclrtCreateEventWithFlag(sim: &Arc<Instance>, event: *mut aclrtEvent, flag: u32) -> aclError {
    sim.answer(create(sim, "aclrtCreateEventWithFlag", event, flag, false))
}

/// Flags of CANN that the simulator does not have: device-only, external, shared between processes.
const UNSUPPORTED_FLAGS: u32 = 0x10 | 0x20 | 0x40;

fn create(sim: &Instance, call: &'static str, event: *mut aclrtEvent, flag: u32, ex: bool) -> Result<(), Refusal> {
    not_null("event", event)?;
    if flag == 0 || flag & !(FLAGS | UNSUPPORTED_FLAGS) != 0 {
        let legal = "a combination of 0x1 (SYNC), 0x2 (CAPTURE_STREAM_PROGRESS) and 0x8 (TIME_LINE)";
        return Err(Refusal::runtime(
            aclError::RT_PARAM_INVALID,
            &format!("{call}: flag"),
            format!("{flag:#x}"),
            legal,
        ));
    }
    if flag & UNSUPPORTED_FLAGS != 0 {
        return Err(Refusal::unsupported(format!("{call}: an event with flag {flag:#x}")));
    }
    let context = sim.context(call)?;
    let device = sim.device(context.device)?;
    if is_hardware(ex, flag) && !device.take_hardware_event() {
        let text = format!("EE1023: Resource_Exhausted: {call}: device {} has no hardware event left", context.device);
        return Err(Refusal::new(aclError::RT_NO_EVENT_RESOURCE, text));
    }
    let made = sim.objects().insert_with("aclrtEvent", |handle| Arc::new(Event::new(handle, ex, flag, context)));
    // SAFETY: not null, and writable by the C contract.
    unsafe { put("event", event, aclrtEvent(made.handle as *mut _)) }
}

/// Does not wait: what is queued on the event goes on. Needs no context.
pub(crate) unsafe fn aclrtDestroyEvent(sim: &Arc<Instance>, event: aclrtEvent) -> aclError {
    sim.answer((|| {
        let found = sim.event("aclrtDestroyEvent", event)?;
        if sim.objects().remove::<Event>(found.handle).is_some() {
            sim.forget_event(&found);
        }
        Ok(())
    })())
}

/// Queues a record; it stands for everything queued before it. Recording again moves the event.
pub(crate) unsafe fn aclrtRecordEvent(sim: &Arc<Instance>, event: aclrtEvent, stream: aclrtStream) -> aclError {
    const CALL: &str = "aclrtRecordEvent";
    sim.answer((|| {
        let event = sim.event(CALL, event)?;
        let stream = sim.own_stream(CALL, stream)?;
        if let Some(fault) = stream.context.poison() {
            return Err(sim.fault_told(CALL, &fault));
        }
        if sim.capture_record(CALL, &event, &stream)? {
            return Ok(());
        }
        let mark = event.record(stream.handle);
        let work = Work::Record(Arc::clone(&event), Arc::clone(&mark));
        // A record that cannot be queued will not be waited for.
        stream.enqueue(sim, task(CALL, sim, event.handle, work)).inspect_err(|_| mark.set(None))
    })())
}

/// Holds the stream up until the event has happened (see [`crate::event`] for which record counts). 207000 for an event
/// without `ACL_EVENT_SYNC`.
pub(crate) unsafe fn aclrtStreamWaitEvent(sim: &Arc<Instance>, stream: aclrtStream, event: aclrtEvent) -> aclError {
    const CALL: &str = "aclrtStreamWaitEvent";
    sim.answer((|| {
        let event = sim.event(CALL, event)?;
        if event.flags & ACL_EVENT_SYNC == 0 {
            return Err(Refusal::unsupported(format!("{CALL}: an event without ACL_EVENT_SYNC")));
        }
        let stream = sim.own_stream(CALL, stream)?;
        if sim.capture_wait(CALL, &event, &stream)? {
            return Ok(());
        }
        match event.wait_on(stream.handle) {
            Some(mark) => stream.enqueue(sim, task(CALL, sim, event.handle, Work::Wait(mark))),
            None => Ok(()),
        }
    })())
}

fn task(function: &'static str, sim: &Instance, event: usize, work: Work) -> Task {
    let detail = if sim.trace().wants_detail() { format!("event {event:#x}") } else { String::new() };
    Task { function, detail, work }
}

/// Whether the latest record has happened. Never recorded: complete for an Ex event, not ready for another.
pub(crate) unsafe fn aclrtQueryEventStatus(
    sim: &Arc<Instance>,
    event: aclrtEvent,
    status: *mut aclrtEventRecordedStatus,
) -> aclError {
    const CALL: &str = "aclrtQueryEventStatus";
    sim.answer((|| {
        let event = sim.event(CALL, event)?;
        not_null("status", status)?;
        not_captured(CALL, &event)?;
        if let Some(fault) = event.context.surface() {
            return Err(sim.fault_told(CALL, &fault));
        }
        let complete = event.is_complete();
        let found = if complete { aclrtEventRecordedStatus::COMPLETE } else { aclrtEventRecordedStatus::NOT_READY };
        // SAFETY: not null, and writable by the C contract.
        unsafe { put("status", status, found) }
    })())
}

/// Waits for the latest record; there is nothing to wait for where there is none. Needs no context.
pub(crate) unsafe fn aclrtSynchronizeEvent(sim: &Arc<Instance>, event: aclrtEvent) -> aclError {
    sim.answer(synchronize(sim, "aclrtSynchronizeEvent", event, None))
}

/// 107000 for a time-out that is 0 or below -1; 507047 where the time runs out.
pub(crate) unsafe fn aclrtSynchronizeEventWithTimeout(
    sim: &Arc<Instance>,
    event: aclrtEvent,
    timeout: i32,
) -> aclError {
    const CALL: &str = "aclrtSynchronizeEventWithTimeout";
    sim.answer(deadline(CALL, timeout).and_then(|deadline| synchronize(sim, CALL, event, deadline)))
}

/// Refuses to ask or wait for an event that a capture has recorded: 107028.
fn not_captured(call: &str, event: &Event) -> Result<(), Refusal> {
    match event.captured() {
        Some(_) => {
            let text = format!("EE1016: {call}: the event was recorded in a capture");
            Err(Refusal::new(aclError::RT_EVENT_CAPTURED, text))
        }
        None => Ok(()),
    }
}

fn synchronize(
    sim: &Instance,
    call: &'static str,
    event: aclrtEvent,
    deadline: Option<Instant>,
) -> Result<(), Refusal> {
    sim.may_wait(call)?;
    let event = sim.event(call, event)?;
    not_captured(call, &event)?;
    if event.latest().is_some_and(|mark| !mark.wait(deadline, || false)) {
        let text = format!("EE1002: {call}: the time is up, the work goes on");
        return Err(Refusal::new(aclError::RT_EVENT_SYNC_TIMEOUT, text));
    }
    event.context.surface().map_or(Ok(()), |fault| Err(sim.fault_told(call, &fault)))
}

/// Host milliseconds between two records; negative where they come in the other order. 507000: one was never recorded;
/// 107006: one has no time, because it has not happened yet or lacks `ACL_EVENT_TIME_LINE`.
pub(crate) unsafe fn aclrtEventElapsedTime(
    sim: &Arc<Instance>,
    ms: *mut f32,
    startEvent: aclrtEvent,
    endEvent: aclrtEvent,
) -> aclError {
    const CALL: &str = "aclrtEventElapsedTime";
    sim.answer((|| {
        not_null("ms", ms)?;
        let [start, end] = [startEvent, endEvent].map(|event| sim.event(CALL, event).map(|event| event.latest()));
        let (Some(start), Some(end)) = (start?, end?) else {
            let text = format!("EE9999: {CALL}: an event was never recorded");
            return Err(Refusal::new(aclError::RT_INTERNAL_ERROR, text));
        };
        let (Some(start), Some(end)) = (start.time(), end.time()) else {
            let text =
                format!("EE1001: {CALL}: an event has no time: not yet executed, or without ACL_EVENT_TIME_LINE");
            return Err(Refusal::new(aclError::RT_EVENT_TIMESTAMP_INVALID, text));
        };
        let elapsed = (end as f64 - start as f64) / 1e6;
        // SAFETY: not null, and writable by the C contract.
        unsafe { put("ms", ms, elapsed as f32) }
    })())
}
