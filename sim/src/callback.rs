//! Callbacks of `aclrtLaunchCallback`: a program's thread subscribes to streams and runs what they report.

use std::collections::{HashMap, VecDeque};
use std::ffi::c_void;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use ascend_sys::aclError;

use crate::task::Mark;
use crate::{lock, thread};

/// A callback on its way to the thread that runs it.
pub(crate) struct Report {
    pub(crate) queue: Arc<ReportQueue>,
    pub(crate) call: Call,
    /// Whether the stream goes on only after the callback has run.
    pub(crate) blocks: bool,
}

/// A C callback with its argument.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub(crate) function: unsafe extern "C" fn(*mut c_void),
    pub(crate) data: *mut c_void,
}

// SAFETY: the program hands function and argument over to be called on another thread; that is the contract of
// aclrtLaunchCallback and aclrtLaunchHostFunc.
unsafe impl Send for Call {}

impl Call {
    pub(crate) fn run(self) {
        // SAFETY: the program vouches for its callback and the argument it gave with it.
        thread::callback(|| unsafe { (self.function)(self.data) });
    }
}

/// What one subscribed thread has to run.
pub(crate) struct ReportQueue {
    thread: u64,
    device: u32,
    pending: Mutex<VecDeque<(usize, Call, Arc<Mark>)>>,
    arrived: Condvar,
}

impl ReportQueue {
    /// Hands a callback over; the mark is set when it has run or never will.
    pub(crate) fn push(&self, stream: usize, call: Call) -> Arc<Mark> {
        let mark = Arc::new(Mark::default());
        lock(&self.pending).push_back((stream, call, Arc::clone(&mark)));
        self.arrived.notify_all();
        mark
    }

    /// Runs what is there, waiting for the first one until the deadline. Whether anything ran.
    fn process(&self, deadline: Option<Instant>) -> bool {
        let mut pending = lock(&self.pending);
        while pending.is_empty() {
            pending = match deadline {
                None => self.arrived.wait(pending).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) else {
                        return false;
                    };
                    self.arrived.wait_timeout(pending, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        let calls = std::mem::take(&mut *pending);
        drop(pending);
        for (_, call, mark) in calls {
            call.run();
            mark.set(None);
        }
        true
    }
}

/// Which thread listens to which stream.
#[derive(Default)]
pub(crate) struct Subscriptions {
    by_stream: Mutex<HashMap<usize, Arc<ReportQueue>>>,
}

impl Subscriptions {
    /// Binds a stream to a thread. 107011 where the stream has a thread, 107012 where the thread serves another device.
    pub(crate) fn subscribe(&self, thread: u64, stream: usize, device: u32) -> Result<(), aclError> {
        let mut by_stream = lock(&self.by_stream);
        if by_stream.contains_key(&stream) {
            return Err(aclError::RT_STREAM_SUBSCRIBE);
        }
        let queue = by_stream.values().find(|queue| queue.thread == thread).map(Arc::clone);
        let queue = match queue {
            Some(queue) if queue.device != device => return Err(aclError::RT_THREAD_SUBSCRIBE),
            Some(queue) => queue,
            None => Arc::new(ReportQueue { thread, device, pending: Mutex::default(), arrived: Condvar::new() }),
        };
        by_stream.insert(stream, queue);
        Ok(())
    }

    /// Undoes a subscription. 107011 where the stream has no thread, 107012 where it has another one.
    pub(crate) fn unsubscribe(&self, thread: u64, stream: usize) -> Result<(), aclError> {
        let mut by_stream = lock(&self.by_stream);
        match by_stream.get(&stream) {
            None => Err(aclError::RT_STREAM_SUBSCRIBE),
            Some(queue) if queue.thread != thread => Err(aclError::RT_THREAD_SUBSCRIBE),
            Some(_) => {
                let queue = by_stream.remove(&stream);
                drop(by_stream);
                Self::forget(queue, stream);
                Ok(())
            }
        }
    }

    /// A stream is gone.
    pub(crate) fn remove(&self, stream: usize) {
        let queue = lock(&self.by_stream).remove(&stream);
        Self::forget(queue, stream);
    }

    /// Drops what a stream has reported and nobody ran; the stream must not wait for it.
    fn forget(queue: Option<Arc<ReportQueue>>, stream: usize) {
        let Some(queue) = queue else { return };
        lock(&queue.pending).retain(|(of, _, mark)| {
            if *of == stream {
                mark.set(None);
            }
            *of != stream
        });
    }

    /// The queue a stream reports to.
    pub(crate) fn of_stream(&self, stream: usize) -> Option<Arc<ReportQueue>> {
        lock(&self.by_stream).get(&stream).map(Arc::clone)
    }

    /// Runs the callbacks of a thread. 107012 where it has no stream, 507012 where none came in time.
    pub(crate) fn process(&self, thread: u64, deadline: Option<Instant>) -> Result<(), aclError> {
        let queue = lock(&self.by_stream).values().find(|queue| queue.thread == thread).map(Arc::clone);
        let queue = queue.ok_or(aclError::RT_THREAD_SUBSCRIBE)?;
        if queue.process(deadline) { Ok(()) } else { Err(aclError::RT_REPORT_TIMEOUT) }
    }
}
