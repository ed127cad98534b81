//! Events: marks in a stream, to wait for and to tell the time between.

use ascend_sys::{ACL_EVENT_SYNC, ACL_EVENT_TIME_LINE, aclrtEvent};

use crate::device::{Device, call};
use crate::error::{Error, Result};
use crate::stream::same_device;

/// An event of a device; recorded by [`Stream::record`](crate::Stream::record). It can be recorded again.
pub struct Event {
    pub(crate) device: Device,
    pub(crate) raw: aclrtEvent,
    timed: bool,
}

impl Event {
    /// An event to wait for.
    ///
    /// # Errors
    /// [`Error::Vendor`] and the states of the device.
    pub fn new(device: &Device) -> Result<Self> {
        Self::with_flags(device, ACL_EVENT_SYNC, false)
    }

    /// An event that also keeps the time of its recording; slower (CANN runtime 9.1.0, event management).
    ///
    /// # Errors
    /// [`Error::Vendor`] and the states of the device.
    pub fn timed(device: &Device) -> Result<Self> {
        Self::with_flags(device, ACL_EVENT_SYNC | ACL_EVENT_TIME_LINE, true)
    }

    fn with_flags(device: &Device, flags: u32, timed: bool) -> Result<Self> {
        let raw = device.0.enter()?.create_event(flags)?;
        Ok(Self { device: device.clone(), raw, timed })
    }

    /// Its device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The C handle, for calls that this layer does not make.
    pub fn raw(&self) -> aclrtEvent {
        self.raw
    }

    /// Whether what it covers is done; true where it was never recorded.
    ///
    /// # Errors
    /// [`Error::Vendor`] and the states of the device.
    pub fn is_complete(&self) -> Result<bool> {
        self.device.0.enter()?.has_passed(self.raw)
    }

    /// Waits until what it covers is done.
    ///
    /// # Errors
    /// [`Error::Vendor`] and the states of the device.
    pub fn synchronize(&self) -> Result<()> {
        let bound = self.device.0.enter()?;
        // SAFETY: the event is alive.
        unsafe { call!(bound.aclrtSynchronizeEvent(self.raw)) }
    }

    /// Milliseconds from the recording of `start` to that of this event; both must be timed and complete. On the
    /// simulator these are the simulator's times, which its report labels.
    ///
    /// # Errors
    /// [`Error::Shape`] for an event that is not timed, [`Error::WrongDevice`], [`Error::Vendor`] with 507000 for an event
    /// never recorded and 107006 for one that is not complete.
    pub fn elapsed_ms(&self, start: &Self) -> Result<f32> {
        if !(self.timed && start.timed) {
            return Err(Error::shape("elapsed time", "an event without a time", "two events made by `Event::timed`"));
        }
        same_device(&self.device, &start.device)?;
        let bound = self.device.0.enter()?;
        let mut ms = 0.0;
        // SAFETY: both events are alive, the number is writable.
        unsafe { call!(bound.aclrtEventElapsedTime(&mut ms, start.raw, self.raw)) }?;
        Ok(ms)
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Event").field("device", &self.device.id()).field("timed", &self.timed).finish_non_exhaustive()
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let Some(bound) = self.device.0.enter_to_drop() else { return };
        if let Err(error) = bound.destroy_event(self.raw) {
            self.device.0.keep(error);
        }
    }
}
