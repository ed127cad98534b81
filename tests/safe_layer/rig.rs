//! A simulator with a device and a stream, and a check at the end that nothing broke CANN's rules.

use core::ffi::c_void;
use std::sync::{Arc, Condvar, Mutex};

use ascend_moe::{Cann, Device, DeviceBuffer, Stream};
use cann_sim::{Config, Finding, Mode, Sim};

/// Device memory of the simulators of these tests.
pub(crate) const HBM: u64 = 1 << 30;

/// Dropped in the order of the fields: the check comes last.
pub(crate) struct Rig {
    pub(crate) stream: Stream,
    pub(crate) device: Device,
    pub(crate) cann: Cann,
    check: Check,
}

struct Check {
    sim: Sim,
    clean: bool,
}

impl Drop for Check {
    fn drop(&mut self) {
        if self.clean && !std::thread::panicking() {
            assert_eq!(self.sim.report(), [], "findings of the simulator");
        }
    }
}

impl Rig {
    /// A strict simulator of CANN 9.1.0.
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { mode: Mode::Strict, hbm: Some(HBM), ..Config::default() };
        change(&mut config);
        let sim = Sim::start(config).unwrap();
        let cann = Cann::from_table(sim.table()).unwrap();
        let device = cann.device(0).unwrap();
        let stream = Stream::new(&device).unwrap();
        Self { stream, device, cann, check: Check { sim, clean: true } }
    }

    /// With failures to inject. See [`cann_sim::FaultScript`].
    pub(crate) fn with_faults(script: &str) -> Self {
        let faults = script.parse().unwrap();
        Self::with(|config| config.faults = faults)
    }

    pub(crate) fn sim(&self) -> &Sim {
        &self.check.sim
    }

    /// For tests that break rules: no check at the end.
    pub(crate) fn expect_findings(&mut self) {
        self.check.clean = false;
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        self.check.sim.report()
    }

    pub(crate) fn buffer<T: bytemuck::Pod>(&self, values: &[T]) -> DeviceBuffer<T> {
        DeviceBuffer::from_slice(&self.device, values).unwrap()
    }
}

/// Holds a stream back until it is opened.
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Queues a host function that waits for [`open`](Self::open).
    pub(crate) fn close(stream: &Stream) -> Self {
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let args = Arc::into_raw(Arc::clone(&gate)) as *mut c_void;
        let table = stream.device().cann().table();
        // The stream's context is current: the stream was just asked something on this thread.
        stream.is_idle().unwrap();
        // SAFETY: the function takes back the reference that it is given, once.
        let code = unsafe { table.aclrtLaunchHostFunc(stream.raw(), Some(wait_at_gate), args) }.unwrap();
        assert!(code.is_ok(), "{code:?}");
        Self(gate)
    }

    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

unsafe extern "C" fn wait_at_gate(args: *mut c_void) {
    // SAFETY: the argument is a reference given up for this call.
    let gate = unsafe { Arc::from_raw(args.cast::<(Mutex<bool>, Condvar)>()) };
    let mut open = gate.0.lock().unwrap();
    while !*open {
        open = gate.1.wait(open).unwrap();
    }
}
