//! Streams: queues of work on a device, first in, first out.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use ascend_sys::{ACL_STREAM_FAST_LAUNCH, ACL_STREAM_FAST_SYNC, aclrtStream, aclrtStreamStatus};

use crate::device::{Bound, Device, call};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::memory::Line;
use crate::scratch::Scratch;
use crate::sync::lock;

/// A stream of a device. Cloning gives another handle on the same stream; the last one waits for the work and destroys
/// it. Usable from any thread.
#[derive(Clone)]
pub struct Stream(pub(crate) Arc<StreamInner>);

pub(crate) struct StreamInner {
    pub(crate) device: Device,
    pub(crate) line: Arc<Line>,
    pub(crate) scratch: Mutex<Scratch>,
    /// Mark of the thread that holds the scratch, 0 for none.
    pub(crate) scratch_holder: AtomicU64,
}

impl Stream {
    /// Makes a stream that launches and synchronises fast (`ACL_STREAM_FAST_LAUNCH | ACL_STREAM_FAST_SYNC`).
    ///
    /// # Errors
    /// [`Error::Vendor`] (207008 where all 1984 streams of a device are taken) and the states of the device.
    pub fn new(device: &Device) -> Result<Self> {
        let bound = device.0.enter()?;
        let mut raw = aclrtStream::NULL;
        // SAFETY: the handle is writable; priority is reserved and 0.
        unsafe {
            call!(bound.aclrtCreateStreamWithConfig(&mut raw, 0, ACL_STREAM_FAST_LAUNCH | ACL_STREAM_FAST_SYNC))
        }?;
        bound.holds_stream(raw);
        Ok(Self(Arc::new(StreamInner {
            device: device.clone(),
            line: Arc::new(Line { raw, closed: Mutex::new(false), recording: Mutex::default() }),
            scratch: Mutex::default(),
            scratch_holder: AtomicU64::new(0),
        })))
    }

    /// Its device.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// The C handle, for calls that this layer does not make. Valid while a handle on the stream is.
    pub fn raw(&self) -> aclrtStream {
        self.0.line.raw
    }

    /// Waits until everything queued so far is done.
    ///
    /// # Errors
    /// Faults of queued work surface here: [`Error::Vendor`], and [`Error::Poisoned`] from then on.
    pub fn synchronize(&self) -> Result<()> {
        let bound = self.0.device.0.enter()?;
        self.synchronize_in(&bound)
    }

    /// Refuses what a capture of this stream does not allow.
    pub(crate) fn not_captured(&self, call: &'static str) -> Result<()> {
        if self.0.line.recording().is_some() { Err(Error::Capturing { call }) } else { Ok(()) }
    }

    pub(crate) fn synchronize_in(&self, bound: &Bound<'_>) -> Result<()> {
        self.not_captured("waiting for the stream")?;
        // SAFETY: the stream is alive and of the bound context.
        unsafe { call!(bound.aclrtSynchronizeStream(self.raw())) }?;
        bound.reap()
    }

    /// Whether everything queued so far is done.
    ///
    /// # Errors
    /// [`Error::Vendor`] and the states of the device.
    pub fn is_idle(&self) -> Result<bool> {
        self.not_captured("asking the stream")?;
        let bound = self.0.device.0.enter()?;
        let mut status = aclrtStreamStatus::NOT_READY;
        // SAFETY: the stream is alive, the status writable.
        unsafe { call!(bound.aclrtStreamQuery(self.raw(), &mut status)) }?;
        Ok(status == aclrtStreamStatus::COMPLETE)
    }

    /// Records an event after what is queued so far. A later record replaces an earlier one.
    ///
    /// # Errors
    /// [`Error::WrongDevice`], [`Error::Vendor`] and the states of the device.
    pub fn record(&self, event: &Event) -> Result<()> {
        self.not_captured("recording an event")?;
        let bound = self.enter_with(&event.device)?;
        // SAFETY: event and stream are alive and of one device.
        unsafe { call!(bound.aclrtRecordEvent(event.raw, self.raw())) }
    }

    /// Makes what is queued from now on wait for what the event covers at this moment; an event never recorded covers
    /// nothing.
    ///
    /// # Errors
    /// [`Error::WrongDevice`], [`Error::Vendor`] and the states of the device.
    pub fn wait(&self, event: &Event) -> Result<()> {
        self.not_captured("waiting for an event")?;
        let bound = self.enter_with(&event.device)?;
        // SAFETY: event and stream are alive and of one device.
        unsafe { call!(bound.aclrtStreamWaitEvent(self.raw(), event.raw)) }
    }

    /// Enters for a call about this stream and something of `other`.
    pub(crate) fn enter_with(&self, other: &Device) -> Result<Bound<'_>> {
        same_device(&self.0.device, other)?;
        self.0.device.0.enter()
    }
}

/// An error unless both are one device. Of a device that was reset, that is said instead.
pub(crate) fn same_device(stream: &Device, object: &Device) -> Result<()> {
    if stream.is(object) {
        return Ok(());
    }
    if let Some(gone) = [object, stream].into_iter().find(|device| device.0.is_reset()) {
        return Err(Error::DeviceReset { device: gone.id() });
    }
    Err(Error::WrongDevice { expected: stream.id(), found: object.id() })
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("device", &self.0.device.id()).field("raw", &self.raw()).finish_non_exhaustive()
    }
}

impl Drop for StreamInner {
    fn drop(&mut self) {
        // Whoever wants to record on the line waits until it is known whether the stream is done.
        let mut closed = lock(&self.line.closed);
        let Some(bound) = self.device.0.enter_to_drop() else { return };
        match bound.destroy_stream(self.line.raw) {
            Ok(()) => *closed = true,
            Err(error) => self.device.0.keep(error),
        }
        // The scratch memory is dropped next, and finds the line closed.
    }
}
