//! What CANN keeps per thread: the bound context, the last error and the error text.

use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::sync::Arc;

use ascend_sys::{aclError, aclmdlRICaptureMode};

use crate::device::Context;
use crate::errmsg::Messages;
use crate::slot::MAX_INSTANCES;

/// What the thread is bound to.
#[derive(Clone)]
pub(crate) enum Binding {
    /// The default context of a device, whichever it is at the moment: `aclrtSetDevice`.
    Device(u32),
    /// One context: `aclrtCreateContext`, `aclrtSetCurrentContext`.
    Context(Arc<Context>),
}

/// State of one thread in one simulator.
pub(crate) struct ThreadState {
    /// Tells a simulator from an earlier one of the same slot.
    generation: u64,
    pub(crate) binding: Option<Binding>,
    pub(crate) last_error: aclError,
    /// `aclmdlRICaptureThreadExchangeMode`.
    pub(crate) capture_mode: aclmdlRICaptureMode,
    pub(crate) messages: Messages,
    /// What the last `aclGetRecentErrMsg` pointed to.
    pub(crate) handed_out: Option<CString>,
}

impl ThreadState {
    fn new(generation: u64) -> Self {
        Self {
            generation,
            binding: None,
            last_error: aclError::SUCCESS,
            capture_mode: aclmdlRICaptureMode::GLOBAL,
            messages: Messages::default(),
            handed_out: None,
        }
    }
}

thread_local! {
    static STATES: RefCell<[Option<Box<ThreadState>>; MAX_INSTANCES]> = const { RefCell::new([const { None }; MAX_INSTANCES]) };
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` on this thread's state of a simulator. `f` must not come back here. A thread that is ending has lost its
/// state; an empty one stands in for it.
pub(crate) fn with<R>(slot: usize, generation: u64, f: impl FnOnce(&mut ThreadState) -> R) -> R {
    let taken = STATES.try_with(|states| states.try_borrow_mut().ok()?.get_mut(slot)?.take());
    let mut state = match taken {
        Ok(Some(state)) if state.generation == generation => state,
        _ => Box::new(ThreadState::new(generation)),
    };
    let result = f(&mut state);
    // Not being able to put it back means that the thread is ending.
    let _ = STATES.try_with(|states| {
        if let Ok(mut states) = states.try_borrow_mut()
            && let Some(place) = states.get_mut(slot)
        {
            *place = Some(state);
        }
    });
    result
}

/// Whether a callback of a program runs on this thread.
pub(crate) fn in_callback() -> bool {
    IN_CALLBACK.get()
}

/// Runs a callback of a program.
pub(crate) fn callback<R>(f: impl FnOnce() -> R) -> R {
    let outer = IN_CALLBACK.replace(true);
    let result = f();
    IN_CALLBACK.set(outer);
    result
}
