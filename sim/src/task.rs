//! Work for a stream: what it does, and how it ends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use ascend_sys::aclError;

use crate::callback::{Call, Report};
use crate::event::Event;
use crate::instance::Instance;
use crate::lock;

/// What work that fails on the device leaves: one of the 507xxx codes, told at the next synchronisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceFault {
    pub(crate) code: aclError,
    pub(crate) message: String,
}

/// What the device does; a graph does it again and again.
pub(crate) type Run = Arc<dyn Fn(&Instance) -> Result<(), DeviceFault> + Send + Sync>;

/// One piece of work.
pub(crate) enum Work {
    /// What the device does: kernels and copies.
    Run(Run),
    /// A host function, on the stream's own thread.
    Host(Call),
    /// Completes a record of an event.
    Record(Arc<Event>, Arc<Mark>),
    /// Waits for a mark.
    Wait(Arc<Mark>),
    /// Hands a callback to the thread that subscribed to the stream; waits for it where it blocks.
    Report(Report),
}

/// One piece of work with what the trace says of it.
pub(crate) struct Task {
    pub(crate) function: &'static str,
    pub(crate) detail: String,
    pub(crate) work: Work,
}

impl Task {
    /// Work that the device does, `run` on the simulator's threads. `function` is the C function that launches it,
    /// `detail` its operands in words (empty where [`crate::trace::Trace::wants_detail`] says that nobody reads them).
    pub(crate) fn new(
        function: &'static str,
        detail: String,
        run: impl Fn(&Instance) -> Result<(), DeviceFault> + Send + Sync + 'static,
    ) -> Self {
        Self { function, detail, work: Work::Run(Arc::new(run)) }
    }
}

/// A mark is `UNTIMED` as long as it carries no time.
const UNTIMED: u64 = u64::MAX;

/// Something that happens once, and that threads wait for.
pub(crate) struct Mark {
    done: Mutex<bool>,
    changed: Condvar,
    time: AtomicU64,
}

impl Default for Mark {
    fn default() -> Self {
        Self { done: Mutex::new(false), changed: Condvar::new(), time: AtomicU64::new(UNTIMED) }
    }
}

impl Mark {
    /// It has happened; `time` in host nanoseconds where it carries one.
    pub(crate) fn set(&self, time: Option<u64>) {
        self.time.store(time.unwrap_or(UNTIMED), Ordering::Relaxed);
        *lock(&self.done) = true;
        self.changed.notify_all();
    }

    /// Lets waiters look at their other conditions.
    pub(crate) fn wake(&self) {
        let _held = lock(&self.done);
        self.changed.notify_all();
    }

    pub(crate) fn is_set(&self) -> bool {
        *lock(&self.done)
    }

    pub(crate) fn time(&self) -> Option<u64> {
        Some(self.time.load(Ordering::Relaxed)).filter(|&time| time != UNTIMED && self.is_set())
    }

    /// Waits until it has happened, `give_up` says so, or the deadline has passed. Whether it has happened.
    pub(crate) fn wait(&self, deadline: Option<Instant>, give_up: impl Fn() -> bool) -> bool {
        let mut done = lock(&self.done);
        while !*done && !give_up() {
            done = match deadline {
                None => self.changed.wait(done).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) else {
                        break;
                    };
                    self.changed.wait_timeout(done, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        *done
    }
}
