//! Events: marks in streams that other streams and the host wait for.
//!
//! An event of `aclrtCreateEventExWithFlag` stands for its latest record: waiting and synchronising look at the record
//! that is the latest at the call, and one that was never recorded counts as complete. An event of
//! `aclrtCreateEventWithFlag` with `ACL_EVENT_SYNC` is a hardware event: it is set by the first record that executes and
//! stays set (`aclrtResetEvent`, not part of the list, would clear it), so a wait may come before the record, and a wait
//! after a second record does not wait for that one. Source: runtime 9.1.0, `event.cc`.

use std::sync::{Arc, Mutex};

use ascend_sys::{ACL_EVENT_CAPTURE_STREAM_PROGRESS, ACL_EVENT_SYNC, ACL_EVENT_TIME_LINE};

use crate::device::Context;
use crate::graph::CapturedRecord;
use crate::lock;
use crate::task::Mark;

/// Hardware events of one device on A2 and A3.
pub(crate) const MAX_HARDWARE_EVENTS: u32 = 65_536;

/// Flags the simulator knows.
pub(crate) const FLAGS: u32 = ACL_EVENT_SYNC | ACL_EVENT_CAPTURE_STREAM_PROGRESS | ACL_EVENT_TIME_LINE;

/// An event.
pub(crate) struct Event {
    pub(crate) handle: usize,
    /// Made by `aclrtCreateEventExWithFlag`.
    pub(crate) ex: bool,
    pub(crate) flags: u32,
    /// The context it was made in.
    pub(crate) context: Arc<Context>,
    /// The latest record: handle of its stream, and its mark.
    latest: Mutex<Option<(usize, Arc<Mark>)>>,
    /// The latest record, where it is one in a capture.
    captured: Mutex<Option<CapturedRecord>>,
    /// Set by the first record that executes.
    hardware: Arc<Mark>,
}

/// Whether an event occupies one of the device's hardware events for as long as it lives.
pub(crate) fn is_hardware(ex: bool, flags: u32) -> bool {
    !ex && flags & ACL_EVENT_SYNC != 0
}

impl Event {
    pub(crate) fn new(handle: usize, ex: bool, flags: u32, context: Arc<Context>) -> Self {
        Self {
            handle,
            ex,
            flags,
            context,
            latest: Mutex::default(),
            captured: Mutex::default(),
            hardware: Arc::default(),
        }
    }

    /// Whether it occupies a hardware event.
    pub(crate) fn is_hardware(&self) -> bool {
        is_hardware(self.ex, self.flags)
    }

    /// Begins a record on a stream; the mark is to be given to [`Self::complete`] when the stream gets there.
    pub(crate) fn record(&self, stream: usize) -> Arc<Mark> {
        let mark = Arc::new(Mark::default());
        *lock(&self.latest) = Some((stream, Arc::clone(&mark)));
        mark
    }

    /// The stream has come to a record. `now` in host nanoseconds; `None` where the record was discarded.
    pub(crate) fn complete(&self, mark: &Mark, now: Option<u64>) {
        mark.set(now.filter(|_| self.flags & ACL_EVENT_TIME_LINE != 0));
        self.hardware.set(None);
    }

    /// What a stream has to wait for; `None` where there is nothing to wait for.
    pub(crate) fn wait_on(&self, stream: usize) -> Option<Arc<Mark>> {
        if !self.ex {
            return Some(Arc::clone(&self.hardware));
        }
        let (recorded_on, mark) = lock(&self.latest).clone()?;
        (recorded_on != stream && !mark.is_set()).then_some(mark)
    }

    /// Its latest record is one in a capture.
    pub(crate) fn capture(&self, record: CapturedRecord) {
        *lock(&self.captured) = Some(record);
    }

    /// The latest record, where it is one in a capture that goes on.
    pub(crate) fn captured(&self) -> Option<CapturedRecord> {
        let mut captured = lock(&self.captured);
        if captured.as_ref().is_some_and(|record| !record.is_live()) {
            *captured = None;
        }
        captured.clone()
    }

    /// Mark of the latest record.
    pub(crate) fn latest(&self) -> Option<Arc<Mark>> {
        lock(&self.latest).as_ref().map(|(_, mark)| Arc::clone(mark))
    }

    /// Whether the latest record has executed.
    pub(crate) fn is_complete(&self) -> bool {
        self.latest().map_or(self.ex, |mark| mark.is_set())
    }
}
