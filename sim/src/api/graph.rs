//! Graphs captured from streams.

use std::sync::Arc;

use ascend_sys::{aclError, aclmdlRI, aclmdlRICaptureMode, aclmdlRICaptureStatus, aclrtStream, aclrtTaskGrp};

use super::{deadline, not_null, put};
use crate::errmsg::Refusal;
use crate::graph::{Graph, TaskGroup};
use crate::instance::Instance;
use crate::stream::MAX_STREAMS;

fn mode_is_legal(mode: aclmdlRICaptureMode) -> Result<(), Refusal> {
    if mode.0 <= aclmdlRICaptureMode::RELAXED.0 {
        return Ok(());
    }
    Err(Refusal::runtime(aclError::RT_PARAM_INVALID, "mode", mode.0, "0 (global), 1 (thread local), 2 (relaxed)"))
}

fn graph(sim: &Instance, call: &'static str, graph: aclmdlRI) -> Result<Arc<Graph>, Refusal> {
    not_null("modelRI", graph.0)?;
    sim.object(call, graph.0)
}

/// Streams of the current device that are free.
pub(crate) unsafe fn aclrtGetStreamAvailableNum(sim: &Arc<Instance>, streamCount: *mut u32) -> aclError {
    sim.answer((|| {
        not_null("streamCount", streamCount)?;
        let device = sim.context("aclrtGetStreamAvailableNum")?.device;
        let free = MAX_STREAMS - sim.device(device)?.streams_taken();
        // SAFETY: not null, and writable by the C contract.
        unsafe { put("streamCount", streamCount, u32::try_from(free).unwrap_or(u32::MAX)) }
    })())
}

/// 107031 for the default stream, 107027 for one in capture, 107003 for one of another context.
pub(crate) unsafe fn aclmdlRICaptureBegin(
    sim: &Arc<Instance>,
    stream: aclrtStream,
    mode: aclmdlRICaptureMode,
) -> aclError {
    sim.answer((|| {
        mode_is_legal(mode)?;
        sim.begin_capture(&sim.own_stream("aclmdlRICaptureBegin", stream)?, mode)
    })())
}

/// 107029 for a stream not in capture, 107036 for one that only joined, 107038 on another thread (unless relaxed),
/// 507903 for a capture that an error has invalidated, 107025 where a stream was not joined back. After 107038 and what
/// follows it the capture is over.
pub(crate) unsafe fn aclmdlRICaptureEnd(sim: &Arc<Instance>, stream: aclrtStream, modelRI: *mut aclmdlRI) -> aclError {
    sim.answer((|| {
        not_null("modelRI", modelRI)?;
        let stream = sim.own_stream("aclmdlRICaptureEnd", stream)?;
        let ended = sim.end_capture(&stream);
        let handle = ended.as_ref().map_or(0, |graph| graph.handle);
        // SAFETY: not null, and writable by the C contract.
        unsafe { put("modelRI", modelRI, aclmdlRI(handle as *mut _)) }?;
        ended.map(|_| ())
    })())
}

/// State of the stream, and the graph it is captured into.
pub(crate) unsafe fn aclmdlRICaptureGetInfo(
    sim: &Arc<Instance>,
    stream: aclrtStream,
    status: *mut aclmdlRICaptureStatus,
    modelRI: *mut aclmdlRI,
) -> aclError {
    sim.answer((|| {
        not_null("status", status)?;
        let captured = sim.any_stream("aclmdlRICaptureGetInfo", stream)?.captured_by();
        let found = captured.as_ref().map_or(aclmdlRICaptureStatus::NONE, |graph| graph.status());
        // SAFETY: not null, and writable by the C contract.
        unsafe { put("status", status, found) }?;
        if !modelRI.is_null() {
            let handle = captured.map_or(0, |graph| graph.handle);
            // SAFETY: not null, and writable by the C contract.
            unsafe { put("modelRI", modelRI, aclmdlRI(handle as *mut _)) }?;
        }
        Ok(())
    })())
}

/// Changes what this thread may do while streams are captured; gives what held before (at first global).
pub(crate) unsafe fn aclmdlRICaptureThreadExchangeMode(
    sim: &Arc<Instance>,
    mode: *mut aclmdlRICaptureMode,
) -> aclError {
    sim.answer((|| {
        not_null("mode", mode)?;
        // SAFETY: not null, and readable by the C contract.
        let wanted = unsafe { mode.read() };
        mode_is_legal(wanted)?;
        let before = sim.thread(|state| std::mem::replace(&mut state.capture_mode, wanted));
        // SAFETY: not null, and writable by the C contract.
        unsafe { put("mode", mode, before) }
    })())
}

pub(crate) unsafe fn aclmdlRIExecuteAsync(sim: &Arc<Instance>, modelRI: aclmdlRI, stream: aclrtStream) -> aclError {
    const CALL: &str = "aclmdlRIExecuteAsync";
    sim.answer((|| {
        let graph = graph(sim, CALL, modelRI)?;
        sim.execute_graph(CALL, &graph, &sim.own_stream(CALL, stream)?)
    })())
}

/// Executes on the default stream and waits. 507046 where the time runs out.
pub(crate) unsafe fn aclmdlRIExecute(sim: &Arc<Instance>, modelRI: aclmdlRI, timeout: i32) -> aclError {
    const CALL: &str = "aclmdlRIExecute";
    sim.answer((|| {
        let graph = graph(sim, CALL, modelRI)?;
        let deadline = deadline(CALL, timeout)?;
        sim.may_wait(CALL)?;
        let stream = sim.own_stream(CALL, aclrtStream::NULL)?;
        sim.execute_graph(CALL, &graph, &stream)?;
        sim.synced(CALL, aclError::RT_STREAM_SYNC_TIMEOUT, stream.synchronize(deadline))
    })())
}

/// What is queued of it goes on.
pub(crate) unsafe fn aclmdlRIDestroy(sim: &Arc<Instance>, modelRI: aclmdlRI) -> aclError {
    sim.answer((|| {
        sim.destroy_graph(&*graph(sim, "aclmdlRIDestroy", modelRI)?);
        Ok(())
    })())
}

pub(crate) unsafe fn aclmdlRICaptureTaskGrpBegin(sim: &Arc<Instance>, stream: aclrtStream) -> aclError {
    sim.answer((|| sim.begin_group(&*sim.own_stream("aclmdlRICaptureTaskGrpBegin", stream)?))())
}

pub(crate) unsafe fn aclmdlRICaptureTaskGrpEnd(
    sim: &Arc<Instance>,
    stream: aclrtStream,
    handle: *mut aclrtTaskGrp,
) -> aclError {
    sim.answer((|| {
        not_null("handle", handle)?;
        let group = sim.end_group(&*sim.own_stream("aclmdlRICaptureTaskGrpEnd", stream)?)?;
        // SAFETY: not null, and writable by the C contract.
        unsafe { put("handle", handle, aclrtTaskGrp(group as *mut _)) }
    })())
}

/// From here on the stream's tasks take the places of those of the group, in its order.
pub(crate) unsafe fn aclmdlRICaptureTaskUpdateBegin(
    sim: &Arc<Instance>,
    stream: aclrtStream,
    handle: aclrtTaskGrp,
) -> aclError {
    const CALL: &str = "aclmdlRICaptureTaskUpdateBegin";
    sim.answer((|| {
        not_null("handle", handle.0)?;
        let stream = sim.own_stream(CALL, stream)?;
        sim.begin_update(&stream, sim.object::<TaskGroup>(CALL, handle.0)?)
    })())
}

pub(crate) unsafe fn aclmdlRICaptureTaskUpdateEnd(sim: &Arc<Instance>, stream: aclrtStream) -> aclError {
    sim.answer((|| sim.end_update(&*sim.own_stream("aclmdlRICaptureTaskUpdateEnd", stream)?))())
}

/// Prints nothing: the trace has what a graph does.
pub(crate) unsafe fn aclmdlRIDebugPrint(sim: &Arc<Instance>, modelRI: aclmdlRI) -> aclError {
    sim.answer(graph(sim, "aclmdlRIDebugPrint", modelRI).map(|_| ()))
}
