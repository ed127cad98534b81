//! Initialisation, finalisation and errors.

use std::ffi::{CStr, CString, c_char};
use std::sync::Arc;

use ascend_sys::{aclError, aclrtExceptionInfo, aclrtExceptionInfoCallback, aclrtLastErrLevel};

use crate::errmsg::Refusal;
use crate::instance::{ExceptionInfo, Initialisation, Instance};
use crate::lock;
use crate::report::{Finding, FindingKind};

/// Counts. While it is initialised a repeat counts too, does not look at the file and gives 100002. After a real
/// finalisation the file must hold what that of the first call held (100000). 100003: no such file; 100006: no JSON.
pub(crate) unsafe fn aclInit(sim: &Arc<Instance>, configPath: *const c_char) -> aclError {
    let mut state = lock(sim.initialisation());
    if state.references > 0 {
        state.references += 1;
        let text = format!("EH0001: aclInit: already initialised, now {} times", state.references);
        return sim.answer(Err(Refusal::new(aclError::REPEAT_INITIALIZE, text)));
    }
    // SAFETY: null or NUL-terminated by the C contract.
    let path = (!configPath.is_null()).then(|| unsafe { CStr::from_ptr(configPath) }.to_string_lossy());
    sim.answer(initialise(&mut state, path.as_deref().unwrap_or_default()))
}

fn initialise(state: &mut Initialisation, path: &str) -> Result<(), Refusal> {
    let config = if path.is_empty() {
        String::new()
    } else {
        std::fs::read_to_string(path).map_err(|error| {
            Refusal::new(aclError::INVALID_FILE, format!("EH0004: Invalid_File: aclInit: {path}: {error}"))
        })?
    };
    if state.first_config.as_ref().is_some_and(|first| *first != config) {
        let text = format!("EH0004: Invalid_File: aclInit: {path:?} differs from what the first aclInit was given");
        return Err(Refusal::new(aclError::INVALID_PARAM, text));
    }
    if !path.is_empty() {
        check_config(path, &config)?;
    }
    state.first_config = Some(config);
    state.references = 1;
    state.finalized = false;
    Ok(())
}

/// Reads the settings that change what programs see. What the simulator cannot honour is refused, not overlooked;
/// settings of tools (dump, profiling) change nothing here.
fn check_config(path: &str, config: &str) -> Result<(), Refusal> {
    let json: serde_json::Value = serde_json::from_str(config).map_err(|error| {
        Refusal::new(aclError::PARSE_FILE, format!("EH0004: Invalid_File: aclInit: {path}: {error}"))
    })?;
    match json.get("err_msg_mode").map(|mode| mode.as_str().unwrap_or_default()) {
        None | Some("0") => {}
        Some("1") => return Err(unsupported("err_msg_mode \"1\" (error text of the whole process)")),
        Some(mode) => return Err(Refusal::value("err_msg_mode", format!("{mode:?}"), "\"0\" or \"1\"")),
    }
    if json.get("defaultDevice").is_some() {
        return Err(unsupported("defaultDevice"));
    }
    Ok(())
}

fn unsupported(what: &str) -> Refusal {
    let text = format!("EH0006: Not_Supported: aclInit: the simulator does not support {what}");
    Refusal::new(aclError::FEATURE_UNSUPPORTED, text)
}

/// Finalises whatever the count; 100037 when it was finalised before.
pub(crate) unsafe fn aclFinalize(sim: &Arc<Instance>) -> aclError {
    let mut state = lock(sim.initialisation());
    if state.finalized {
        return sim.answer(Err(finalised("aclFinalize")));
    }
    state.references = 0;
    state.finalized = true;
    aclError::SUCCESS
}

/// Undoes one `aclInit`; the last one finalises. 100037 when nothing is left to undo. The count may be null.
pub(crate) unsafe fn aclFinalizeReference(sim: &Arc<Instance>, refCount: *mut u64) -> aclError {
    let mut state = lock(sim.initialisation());
    let before = state.references;
    state.references = before.saturating_sub(1);
    state.finalized |= before == 1;
    if !refCount.is_null() {
        // SAFETY: not null, and writable by the C contract.
        unsafe { refCount.write(state.references) };
    }
    sim.answer(if before == 0 { Err(finalised("aclFinalizeReference")) } else { Ok(()) })
}

fn finalised(call: &str) -> Refusal {
    Refusal::new(aclError::REPEAT_FINALIZE, format!("EH0001: {call}: not initialised, or finalised before"))
}

/// Error text of this thread, newest on top; reading clears. Null where there is none; valid until the next call on this
/// thread.
pub(crate) unsafe fn aclGetRecentErrMsg(sim: &Arc<Instance>) -> *const c_char {
    sim.thread(|state| {
        state.handed_out = state.messages.take().and_then(|text| CString::new(text.replace('\0', "?")).ok());
        state.handed_out.as_ref().map_or(core::ptr::null(), |text| text.as_ptr())
    })
}

/// The runtime's last error on this thread, which stays.
pub(crate) unsafe fn aclrtPeekAtLastError(sim: &Arc<Instance>, level: aclrtLastErrLevel) -> aclError {
    last_error(sim, level, |last| *last)
}

/// The runtime's last error on this thread, and clears it.
pub(crate) unsafe fn aclrtGetLastError(sim: &Arc<Instance>, level: aclrtLastErrLevel) -> aclError {
    last_error(sim, level, |last| std::mem::replace(last, aclError::SUCCESS))
}

fn last_error(sim: &Instance, level: aclrtLastErrLevel, read: impl FnOnce(&mut aclError) -> aclError) -> aclError {
    if level != aclrtLastErrLevel::THREAD {
        return sim.answer(Err(Refusal::value("level", level.0, "ACL_RT_THREAD_LEVEL (0)")));
    }
    sim.thread(|state| read(&mut state.last_error))
}

/// Sets the callback for tasks that fail; null clears it. It runs on the thread of the stream, before any
/// synchronisation tells of the failure.
pub(crate) unsafe fn aclrtSetExceptionInfoCallback(
    sim: &Arc<Instance>,
    callback: aclrtExceptionInfoCallback,
) -> aclError {
    sim.set_exception_callback(callback);
    aclError::SUCCESS
}

macro_rules! exception_getters {
    ($($name:ident: $field:ident;)*) => {$(
        /// A field of the info an exception callback was given; `0xFFFFFFFF` outside of the callback.
        pub(crate) unsafe fn $name(sim: &Arc<Instance>, info: *const aclrtExceptionInfo) -> u32 {
            match sim.objects().get::<ExceptionInfo>(info as usize) {
                Some(info) => info.$field,
                None => {
                    let what = sim.objects().describe(info as usize);
                    sim.report(Finding::new(FindingKind::UnknownHandle, stringify!($name), what));
                    u32::MAX
                }
            }
        }
    )*};
}

exception_getters! {
    aclrtGetTaskIdFromExceptionInfo: task;
    aclrtGetStreamIdFromExceptionInfo: stream;
    aclrtGetThreadIdFromExceptionInfo: thread;
    aclrtGetDeviceIdFromExceptionInfo: device;
    aclrtGetErrorCodeFromExceptionInfo: code;
}
