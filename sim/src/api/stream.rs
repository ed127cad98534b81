//! Streams.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ascend_sys::{ACL_STREAM_FAST_LAUNCH, ACL_STREAM_FAST_SYNC, aclError, aclrtStream, aclrtStreamStatus};

use super::{deadline, not_null, put};
use crate::errmsg::Refusal;
use crate::instance::Instance;

/// Flags of CANN that change what a stream is, which the simulator does not have: persistent, huge, CPU-scheduled,
/// device-only. Flags beyond them mean nothing to CANN either.
const UNSUPPORTED_FLAGS: u32 = 0x4 | 0x8 | 0x10 | 0x20;

pub(crate) unsafe fn aclrtCreateStream(sim: &Arc<Instance>, stream: *mut aclrtStream) -> aclError {
    sim.answer(create(sim, "aclrtCreateStream", stream, 0))
}

/// The priority is a hint without effect; fast launch and fast synchronisation change nothing here. 207008 when the
/// device has no stream left.
pub(crate) unsafe fn aclrtCreateStreamWithConfig(
    sim: &Arc<Instance>,
    stream: *mut aclrtStream,
    _priority: u32,
    flag: u32,
) -> aclError {
    sim.answer(create(sim, "aclrtCreateStreamWithConfig", stream, flag))
}

fn create(sim: &Instance, call: &'static str, stream: *mut aclrtStream, flag: u32) -> Result<(), Refusal> {
    not_null("stream", stream)?;
    if flag & UNSUPPORTED_FLAGS != 0 {
        let legal = ACL_STREAM_FAST_LAUNCH | ACL_STREAM_FAST_SYNC;
        return Err(Refusal::unsupported(format!("{call}: a stream with flag {flag:#x} (supported: {legal:#x})")));
    }
    let created = sim.create_stream(&sim.context(call)?)?;
    // SAFETY: not null, and writable by the C contract.
    unsafe { put("stream", stream, aclrtStream(created.handle as *mut _)) }
}

/// Waits for the work of the stream, then destroys it. 100000 for null, 107003 for a stream of another context.
pub(crate) unsafe fn aclrtDestroyStream(sim: &Arc<Instance>, stream: aclrtStream) -> aclError {
    const CALL: &str = "aclrtDestroyStream";
    sim.answer((|| {
        not_null("stream", stream.0)?;
        sim.may_wait(CALL)?;
        let stream = sim.own_stream(CALL, stream)?;
        if stream.context.default_stream().is_some_and(|default| Arc::ptr_eq(&default, &stream)) {
            let text = "EE1017: aclrtDestroyStream: the default stream ends with its context";
            return Err(Refusal::new(aclError::RT_PARAM_INVALID, text));
        }
        sim.not_captured(CALL, &stream)?;
        // Without a deadline there is nothing to run out.
        let _ = stream.drain(None);
        sim.close_stream(&stream);
        Ok(())
    })())
}

/// Needs some current context, not that of the stream.
pub(crate) unsafe fn aclrtSynchronizeStream(sim: &Arc<Instance>, stream: aclrtStream) -> aclError {
    sim.answer(synchronize(sim, "aclrtSynchronizeStream", stream, None))
}

/// 107000 for a time-out that is 0 or below -1; 507046 where the time runs out.
pub(crate) unsafe fn aclrtSynchronizeStreamWithTimeout(
    sim: &Arc<Instance>,
    stream: aclrtStream,
    timeout: i32,
) -> aclError {
    const CALL: &str = "aclrtSynchronizeStreamWithTimeout";
    sim.answer(deadline(CALL, timeout).and_then(|deadline| synchronize(sim, CALL, stream, deadline)))
}

fn synchronize(
    sim: &Instance,
    call: &'static str,
    stream: aclrtStream,
    deadline: Option<Instant>,
) -> Result<(), Refusal> {
    sim.may_wait(call)?;
    sim.context(call)?;
    let stream = sim.any_stream(call, stream)?;
    sim.not_captured(call, &stream)?;
    sim.synced(call, aclError::RT_STREAM_SYNC_TIMEOUT, stream.synchronize(deadline))
}

/// Whether everything queued has been done. A fault the context stays with is given here too.
pub(crate) unsafe fn aclrtStreamQuery(
    sim: &Arc<Instance>,
    stream: aclrtStream,
    status: *mut aclrtStreamStatus,
) -> aclError {
    const CALL: &str = "aclrtStreamQuery";
    sim.answer((|| {
        not_null("status", status)?;
        sim.context(CALL)?;
        let stream = sim.any_stream(CALL, stream)?;
        sim.not_captured(CALL, &stream)?;
        if let Some(fault) = stream.context.surface() {
            return Err(sim.fault_told(CALL, &fault));
        }
        let found = if stream.is_idle() { aclrtStreamStatus::COMPLETE } else { aclrtStreamStatus::NOT_READY };
        // SAFETY: not null, and writable by the C contract.
        unsafe { put("status", status, found) }
    })())
}

/// Number of the stream on its device; null stands for the default stream.
pub(crate) unsafe fn aclrtStreamGetId(sim: &Arc<Instance>, stream: aclrtStream, streamId: *mut i32) -> aclError {
    sim.answer((|| {
        not_null("streamId", streamId)?;
        let id = sim.any_stream("aclrtStreamGetId", stream)?.id;
        // SAFETY: not null, and writable by the C contract.
        unsafe { put("streamId", streamId, id) }
    })())
}

/// What happens behind a task that fails: 0 goes on, 1 stops, for every stream of the context. Only the lowest bit
/// counts. 207000 for going back, 107003 for a stream of another context.
pub(crate) unsafe fn aclrtSetStreamFailureMode(sim: &Arc<Instance>, stream: aclrtStream, mode: u64) -> aclError {
    const CALL: &str = "aclrtSetStreamFailureMode";
    sim.answer((|| {
        sim.context(CALL)?;
        let found = sim.any_stream(CALL, stream)?;
        let (old, new) = (found.stop.load(Ordering::Acquire), mode & 1 == 1);
        if old == new {
            return Ok(());
        }
        if old {
            let text = format!("EE1016: {CALL}: a stream cannot go back from STOP to CONTINUE");
            return Err(Refusal::new(aclError::RT_FEATURE_NOT_SUPPORT, text));
        }
        sim.own_stream(CALL, stream)?;
        found.stop.store(true, Ordering::Release);
        found.context.set_stop();
        Ok(())
    })())
}
