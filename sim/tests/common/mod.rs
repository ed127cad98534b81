//! What the tests share: a simulator with its table, calls in short, and a gate that host functions wait at.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test helpers")]
#![allow(dead_code, unused_macros, unused_imports, reason = "no test file uses all of it")]

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use ascend_sys::{Table, aclError, aclrtEvent, aclrtMemMallocPolicy, aclrtMemcpyKind, aclrtStream};
use cann_sim::{Config, FindingKind, Mode, Sim, SimError};

/// A C call through the table; `c!(rig, aclrtFree(pointer))`.
macro_rules! c {
    ($rig:expr, $name:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: the test passes what the C contract asks for, or what the simulator must refuse.
        unsafe { $rig.table.$name($($argument),*) }.expect("the function is in the table")
    };
}

/// A C call that must give a code.
macro_rules! code {
    ($rig:expr, $name:ident($($argument:expr),* $(,)?), $code:expr) => {
        assert_eq!(c!($rig, $name($($argument),*)), ascend_sys::aclError($code), concat!(stringify!($name), " at line {}"), line!())
    };
}

/// A C call that must succeed.
macro_rules! ok {
    ($rig:expr, $name:ident($($argument:expr),* $(,)?)) => { code!($rig, $name($($argument),*), 0) };
}

pub(crate) use {c, code, ok};

pub(crate) const HUGE_FIRST: aclrtMemMallocPolicy = aclrtMemMallocPolicy::HUGE_FIRST;
pub(crate) const H2H: aclrtMemcpyKind = aclrtMemcpyKind::HOST_TO_HOST;
pub(crate) const H2D: aclrtMemcpyKind = aclrtMemcpyKind::HOST_TO_DEVICE;
pub(crate) const D2H: aclrtMemcpyKind = aclrtMemcpyKind::DEVICE_TO_HOST;
pub(crate) const D2D: aclrtMemcpyKind = aclrtMemcpyKind::DEVICE_TO_DEVICE;
pub(crate) const DEFAULT: aclrtMemcpyKind = aclrtMemcpyKind::DEFAULT;

/// A simulator and its table.
pub(crate) struct Rig {
    pub(crate) table: Arc<Table>,
    pub(crate) sim: Sim,
}

/// Starts a simulator; waits where other tests of the process occupy all slots.
pub(crate) fn start(config: Config) -> Sim {
    loop {
        match Sim::start(config.clone()) {
            Err(SimError::NoSlot) => std::thread::sleep(Duration::from_millis(1)),
            result => return result.expect("the simulator starts"),
        }
    }
}

impl Rig {
    pub(crate) fn new(config: Config) -> Self {
        let sim = start(config);
        Self { table: sim.table(), sim }
    }

    pub(crate) fn strict() -> Self {
        Self::new(Config { mode: Mode::Strict, ..Config::default() })
    }

    pub(crate) fn lenient() -> Self {
        Self::new(Config { mode: Mode::Lenient, ..Config::default() })
    }

    /// Strict, with a fault script.
    pub(crate) fn faulty(mode: Mode, script: &str) -> Self {
        let rig = Self::new(Config { mode, faults: script.parse().unwrap(), ..Config::default() });
        rig.on_device()
    }

    /// With device 0 set on this thread.
    pub(crate) fn on_device(self) -> Self {
        ok!(self, aclrtSetDevice(0));
        self
    }

    pub(crate) fn stream(&self) -> aclrtStream {
        let mut stream = aclrtStream::NULL;
        ok!(self, aclrtCreateStream(&mut stream));
        stream
    }

    pub(crate) fn event_ex(&self, flag: u32) -> aclrtEvent {
        let mut event = aclrtEvent::NULL;
        ok!(self, aclrtCreateEventExWithFlag(&mut event, flag));
        event
    }

    pub(crate) fn event(&self, flag: u32) -> aclrtEvent {
        let mut event = aclrtEvent::NULL;
        ok!(self, aclrtCreateEventWithFlag(&mut event, flag));
        event
    }

    pub(crate) fn malloc(&self, size: usize) -> *mut c_void {
        let mut pointer = null_mut();
        ok!(self, aclrtMalloc(&mut pointer, size, HUGE_FIRST));
        pointer
    }

    pub(crate) fn malloc_host(&self, size: usize) -> *mut c_void {
        let mut pointer = null_mut();
        ok!(self, aclrtMallocHost(&mut pointer, size));
        pointer
    }

    /// Copies bytes to the device, in the call.
    pub(crate) fn upload(&self, to: *mut c_void, bytes: &[u8]) {
        ok!(self, aclrtMemcpy(to, bytes.len(), bytes.as_ptr().cast(), bytes.len(), H2D));
    }

    /// Copies bytes from the device, in the call.
    pub(crate) fn download(&self, from: *const c_void, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        ok!(self, aclrtMemcpy(bytes.as_mut_ptr().cast(), len, from, len, D2H));
        bytes
    }

    /// Queues a host function that waits at the gate.
    pub(crate) fn block(&self, stream: aclrtStream, gate: &Gate) {
        ok!(self, aclrtLaunchHostFunc(stream, Some(wait_at_gate), gate.data()));
    }

    pub(crate) fn findings(&self) -> Vec<FindingKind> {
        self.sim.report().iter().map(|finding| finding.kind).collect()
    }

    /// Error text of this thread.
    pub(crate) fn error_text(&self) -> Option<String> {
        let text = c!(self, aclGetRecentErrMsg());
        // SAFETY: null or NUL-terminated, and valid until the next call.
        (!text.is_null()).then(|| unsafe { std::ffi::CStr::from_ptr(text) }.to_str().unwrap().to_owned())
    }

    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.sim.report(), []);
    }
}

/// Something a stream waits at until the test opens it. It is leaked, so that a stream of a failing test has it still.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Gate {
    pub(crate) fn new() -> &'static Self {
        Box::leak(Box::default())
    }

    pub(crate) fn data(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    pub(crate) fn open(&self) {
        self.state.lock().unwrap().0 = true;
        self.changed.notify_all();
    }

    /// Waits until a stream has come to the gate.
    pub(crate) fn reached(&self) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |(_, reached)| !*reached).unwrap());
    }

    pub(crate) fn is_reached(&self) -> bool {
        self.state.lock().unwrap().1
    }
}

/// Host function that waits at a gate.
pub(crate) unsafe extern "C" fn wait_at_gate(data: *mut c_void) {
    // SAFETY: `data` is a gate, which lives for ever.
    let gate = unsafe { &*data.cast::<Gate>() };
    let mut state = gate.state.lock().unwrap();
    state.1 = true;
    gate.changed.notify_all();
    drop(gate.changed.wait_while(state, |(open, _)| !*open).unwrap());
}
