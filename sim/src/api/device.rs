//! Devices and contexts.

use std::sync::Arc;
use std::time::Instant;

use ascend_sys::{aclError, aclrtContext};

use super::{deadline, not_null, put};
use crate::device::{Context, TearDown};
use crate::errmsg::Refusal;
use crate::instance::Instance;
use crate::report::{Finding, FindingKind};
use crate::stream::SyncError;
use crate::thread::Binding;

pub(crate) unsafe fn aclrtGetDeviceCount(sim: &Arc<Instance>, count: *mut u32) -> aclError {
    // SAFETY: null or writable by the C contract.
    sim.answer(unsafe { put("count", count, sim.config().devices) })
}

/// Counts a use of the device, and binds this thread to its default context.
pub(crate) unsafe fn aclrtSetDevice(sim: &Arc<Instance>, deviceId: i32) -> aclError {
    sim.answer((|| {
        let id = sim.device_id(deviceId)?;
        sim.retain_device(id)?;
        sim.thread(|state| state.binding = Some(Binding::Device(id)));
        Ok(())
    })())
}

/// Undoes one use of the device. The last one waits for its work and takes the default context down; 507007 when there
/// is none to undo.
pub(crate) unsafe fn aclrtResetDevice(sim: &Arc<Instance>, deviceId: i32) -> aclError {
    reset(sim, "aclrtResetDevice", deviceId, TearDown::Drain)
}

/// Undoes all uses of the device; what is queued is discarded.
pub(crate) unsafe fn aclrtResetDeviceForce(sim: &Arc<Instance>, deviceId: i32) -> aclError {
    reset(sim, "aclrtResetDeviceForce", deviceId, TearDown::Force)
}

fn reset(sim: &Arc<Instance>, call: &'static str, device: i32, how: TearDown) -> aclError {
    sim.answer((|| {
        sim.may_wait(call)?;
        let id = sim.device_id(device)?;
        let result = sim.release_device(call, id, how);
        // The thread that took the context down is bound to nothing any more.
        sim.thread(|state| {
            let gone = sim.device(id).is_ok_and(|device| device.default_context().is_none());
            if gone && matches!(state.binding, Some(Binding::Device(bound)) if bound == id) {
                state.binding = None;
            }
        });
        result
    })())
}

/// The device this thread is bound to; 107002 where it has none.
pub(crate) unsafe fn aclrtGetDevice(sim: &Arc<Instance>, deviceId: *mut i32) -> aclError {
    sim.answer((|| {
        not_null("deviceId", deviceId)?;
        let context = sim.context("aclrtGetDevice")?;
        // SAFETY: not null, and writable by the C contract.
        unsafe { put("deviceId", deviceId, context.device.cast_signed()) }
    })())
}

pub(crate) unsafe fn aclrtSynchronizeDevice(sim: &Arc<Instance>) -> aclError {
    sim.answer(synchronize(sim, "aclrtSynchronizeDevice", None))
}

/// 107000 for a time-out that is 0 or below -1; 507046 where the time runs out.
pub(crate) unsafe fn aclrtSynchronizeDeviceWithTimeout(sim: &Arc<Instance>, timeout: i32) -> aclError {
    const CALL: &str = "aclrtSynchronizeDeviceWithTimeout";
    sim.answer(deadline(CALL, timeout).and_then(|deadline| synchronize(sim, CALL, deadline)))
}

/// Waits for every stream of the current context: to CANN that is the device.
fn synchronize(sim: &Instance, call: &'static str, deadline: Option<Instant>) -> Result<(), Refusal> {
    sim.may_wait(call)?;
    let mut first = Ok(());
    let streams = sim.context(call)?.streams();
    streams.iter().try_for_each(|stream| sim.not_captured(call, stream))?;
    for stream in streams {
        match stream.synchronize(deadline) {
            Err(SyncError::TimedOut) => {
                first = Err(SyncError::TimedOut);
                break;
            }
            result => first = first.and(result),
        }
    }
    sim.synced(call, aclError::RT_STREAM_SYNC_TIMEOUT, first)
}

/// Makes a context of its own on the device and binds this thread to it.
pub(crate) unsafe fn aclrtCreateContext(sim: &Arc<Instance>, context: *mut aclrtContext, deviceId: i32) -> aclError {
    sim.answer((|| {
        not_null("context", context)?;
        let created = sim.create_context(sim.device_id(deviceId)?)?;
        // SAFETY: not null, and writable by the C contract.
        unsafe { put("context", context, aclrtContext(created.handle as *mut _)) }?;
        sim.thread(|state| state.binding = Some(Binding::Context(created)));
        Ok(())
    })())
}

/// Takes a context of `aclrtCreateContext` down. 107002 for a default context, or one that is no context (any more).
pub(crate) unsafe fn aclrtDestroyContext(sim: &Arc<Instance>, context: aclrtContext) -> aclError {
    const CALL: &str = "aclrtDestroyContext";
    sim.answer((|| {
        not_null("context", context.0)?;
        sim.may_wait(CALL)?;
        let found = find(sim, CALL, context, aclError::RT_CONTEXT_NULL)?;
        if found.is_default {
            let text = "EE1017: aclrtDestroyContext: the default context is destroyed by aclrtResetDevice alone";
            return Err(Refusal::new(aclError::RT_CONTEXT_NULL, text));
        }
        let result = sim.destroy_context(CALL, &found);
        sim.thread(|state| {
            if matches!(&state.binding, Some(Binding::Context(bound)) if Arc::ptr_eq(bound, &found)) {
                state.binding = None;
            }
        });
        result
    })())
}

/// Binds this thread to a context and its device; 107000 for a handle that is no context (any more).
pub(crate) unsafe fn aclrtSetCurrentContext(sim: &Arc<Instance>, context: aclrtContext) -> aclError {
    sim.answer((|| {
        not_null("context", context.0)?;
        let found = find(sim, "aclrtSetCurrentContext", context, aclError::RT_PARAM_INVALID)?;
        sim.thread(|state| state.binding = Some(Binding::Context(found)));
        Ok(())
    })())
}

/// The context this thread is bound to; 107002 where it has none.
pub(crate) unsafe fn aclrtGetCurrentContext(sim: &Arc<Instance>, context: *mut aclrtContext) -> aclError {
    sim.answer((|| {
        not_null("context", context)?;
        let handle = sim.context("aclrtGetCurrentContext")?.handle;
        // SAFETY: not null, and writable by the C contract.
        unsafe { put("context", context, aclrtContext(handle as *mut _)) }
    })())
}

fn find(sim: &Instance, call: &'static str, context: aclrtContext, code: aclError) -> Result<Arc<Context>, Refusal> {
    sim.objects().get(context.0 as usize).ok_or_else(|| {
        let what = sim.objects().describe(context.0 as usize);
        let text = format!("EE1017: {call}: {what}");
        sim.report(Finding::new(FindingKind::UnknownHandle, call, what));
        Refusal::new(code, text)
    })
}

/// Every pair of simulated devices can reach each other. 100000 for a device and itself.
pub(crate) unsafe fn aclrtDeviceCanAccessPeer(
    sim: &Arc<Instance>,
    canAccessPeer: *mut i32,
    deviceId: i32,
    peerDeviceId: i32,
) -> aclError {
    sim.answer((|| {
        peers(sim, deviceId, peerDeviceId)?;
        if canAccessPeer.is_null() {
            let legal = "a pointer";
            return Err(Refusal::runtime(aclError::RT_PARAM_INVALID, "canAccessPeer", "null", legal));
        }
        // SAFETY: not null, and writable by the C contract.
        unsafe { put("canAccessPeer", canAccessPeer, 1) }
    })())
}

/// Checks its arguments: simulated devices need no permission to reach each other. 200006 for flags other than 0.
pub(crate) unsafe fn aclrtDeviceEnablePeerAccess(sim: &Arc<Instance>, peerDeviceId: i32, flags: u32) -> aclError {
    sim.answer((|| {
        if flags != 0 {
            let text = format!("EH0001: Invalid_Argument: flags is {flags}, reserved and to be 0");
            return Err(Refusal::new(aclError::FEATURE_UNSUPPORTED, text));
        }
        let current = sim.context("aclrtDeviceEnablePeerAccess")?.device;
        peers(sim, current.cast_signed(), peerDeviceId)
    })())
}

fn peers(sim: &Instance, device: i32, peer: i32) -> Result<(), Refusal> {
    if device == peer {
        return Err(Refusal::value("peerDeviceId", peer, "a device other than deviceId"));
    }
    sim.device_id(peer)?;
    sim.device_id(device).map(|_| ())
}
