//! Host callbacks in streams.

use std::ffi::c_void;
use std::sync::Arc;

use ascend_sys::{aclError, aclrtCallback, aclrtCallbackBlockType, aclrtHostFunc, aclrtStream};

use super::deadline;
use crate::callback::{Call, Report};
use crate::errmsg::Refusal;
use crate::instance::Instance;
use crate::stream::Task;
use crate::task::Work;

/// Queues a host function; it runs on a thread of the runtime, and later work of the stream waits for it.
pub(crate) unsafe fn aclrtLaunchHostFunc(
    sim: &Arc<Instance>,
    stream: aclrtStream,
    fn_: aclrtHostFunc,
    args: *mut c_void,
) -> aclError {
    const CALL: &str = "aclrtLaunchHostFunc";
    sim.answer((|| {
        let call = Call { function: function(CALL, fn_)?, data: args };
        let stream = sim.own_stream(CALL, stream)?;
        stream.enqueue(sim, Task { function: CALL, detail: String::new(), work: Work::Host(call) })
    })())
}

/// Queues a callback; it runs on the thread that subscribed to the stream, in `aclrtProcessReport`. 107015 where none
/// did, 100000 for an unknown block type.
pub(crate) unsafe fn aclrtLaunchCallback(
    sim: &Arc<Instance>,
    fn_: aclrtCallback,
    userData: *mut c_void,
    blockType: aclrtCallbackBlockType,
    stream: aclrtStream,
) -> aclError {
    const CALL: &str = "aclrtLaunchCallback";
    sim.answer((|| {
        let blocks = match blockType {
            aclrtCallbackBlockType::BLOCK => true,
            aclrtCallbackBlockType::NO_BLOCK => false,
            other => return Err(Refusal::value("blockType", other.0, "0 (no block) or 1 (block)")),
        };
        let call = Call { function: function(CALL, fn_)?, data: userData };
        let stream = sim.own_stream(CALL, stream)?;
        let queue = sim.subscriptions().of_stream(stream.handle).ok_or_else(|| {
            let text = format!("EE9999: {CALL}: no thread has subscribed to the stream");
            Refusal::new(aclError::RT_STREAM_NO_CB_REG, text)
        })?;
        let detail = if blocks { "blocking" } else { "not blocking" }.to_owned();
        stream.enqueue(sim, Task { function: CALL, detail, work: Work::Report(Report { queue, call, blocks }) })
    })())
}

fn function(
    call: &str,
    function: Option<unsafe extern "C" fn(*mut c_void)>,
) -> Result<unsafe extern "C" fn(*mut c_void), Refusal> {
    let parameter = format!("{call}: fn");
    function.ok_or_else(|| Refusal::runtime(aclError::RT_PARAM_INVALID, &parameter, "null", "a function"))
}

/// Binds the callbacks of a stream to a thread, named by its `pthread_t`. 107011 where the stream has one, 107012 where
/// the thread serves another device.
pub(crate) unsafe fn aclrtSubscribeReport(sim: &Arc<Instance>, threadId: u64, stream: aclrtStream) -> aclError {
    const CALL: &str = "aclrtSubscribeReport";
    sim.answer((|| {
        let stream = sim.own_stream(CALL, stream)?;
        let result = sim.subscriptions().subscribe(threadId, stream.handle, stream.context.device);
        result.map_err(|code| refused(CALL, code, threadId))
    })())
}

/// Undoes a subscription. 107011 where the stream has none, 107012 where it is another thread's.
pub(crate) unsafe fn aclrtUnSubscribeReport(sim: &Arc<Instance>, threadId: u64, stream: aclrtStream) -> aclError {
    const CALL: &str = "aclrtUnSubscribeReport";
    sim.answer((|| {
        let stream = sim.own_stream(CALL, stream)?;
        sim.subscriptions().unsubscribe(threadId, stream.handle).map_err(|code| refused(CALL, code, threadId))
    })())
}

/// Runs the callbacks that have arrived for this thread, waiting for the first one. 100000 for a time-out that is 0 or
/// below -1, 107012 where the thread has no subscription, 507012 where the time runs out.
pub(crate) unsafe fn aclrtProcessReport(sim: &Arc<Instance>, timeout: i32) -> aclError {
    const CALL: &str = "aclrtProcessReport";
    sim.answer((|| {
        let deadline =
            deadline(CALL, timeout).map_err(|refusal| Refusal { code: aclError::INVALID_PARAM, ..refusal })?;
        // SAFETY: no precondition.
        let thread = unsafe { libc::pthread_self() } as u64;
        sim.subscriptions().process(thread, deadline).map_err(|code| refused(CALL, code, thread))
    })())
}

fn refused(call: &str, code: aclError, thread: u64) -> Refusal {
    let why = match code {
        aclError::RT_STREAM_SUBSCRIBE => "the stream is not, or is already, subscribed to",
        aclError::RT_REPORT_TIMEOUT => "the time is up",
        _ => "the thread has no subscription that fits",
    };
    Refusal::new(code, format!("EE9999: {call}: thread {thread:#x}: {why}"))
}
