//! Pinned host memory, and copies under way between it and a device.

use core::ffi::c_void;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use ascend_sys::{FunctionId, aclrtEvent};
use bytemuck::Pod;

use crate::device::{Device, call};
use crate::error::{Error, Result};
use crate::holdings::Freed;
use crate::sync::lock;

/// Alignment that `aclrtMallocHost` promises.
const ALIGNMENT: usize = 64;

/// A slice of pinned host memory: the only memory that a device copies from and to while the host goes on.
///
/// It belongs to the process and not to a device's context: it outlives a reset.
pub struct PinnedBuffer<T: Pod> {
    device: Device,
    data: NonNull<T>,
    len: usize,
}

// SAFETY: the memory is owned like that of a `Vec<T>`; freeing it is allowed from any thread.
unsafe impl<T: Pod + Send> Send for PinnedBuffer<T> {}
// SAFETY: as above; shared access only reads.
unsafe impl<T: Pod + Sync> Sync for PinnedBuffer<T> {}

impl<T: Pod> PinnedBuffer<T> {
    /// Allocates `len` elements of zero bytes.
    ///
    /// # Errors
    /// [`Error::Shape`] for a length beyond the address space or a type aligned to more than 64 bytes, [`Error::Vendor`]
    /// and the states of the device.
    pub fn alloc_zeroed(device: &Device, len: usize) -> Result<Self> {
        let bytes = byte_count::<T>(len)?;
        if align_of::<T>() > ALIGNMENT {
            return Err(Error::shape("pinned buffer", format_args!("alignment {}", align_of::<T>()), "at most 64"));
        }
        let bound = device.0.enter()?;
        let data = if bytes == 0 {
            NonNull::dangling()
        } else {
            let mut address: *mut c_void = core::ptr::null_mut();
            // SAFETY: the address is writable, and the size is not 0.
            unsafe { call!(bound.aclrtMallocHost(&mut address, bytes)) }?;
            let no_object = Error::NoObject { call: FunctionId::aclrtMallocHost.name(), message: None };
            let data = NonNull::new(address.cast::<T>()).ok_or(no_object)?;
            // SAFETY: the allocation has that many bytes, and nobody else knows it.
            unsafe { data.cast::<u8>().write_bytes(0, bytes) };
            data
        };
        Ok(Self { device: device.clone(), data, len })
    }

    /// Allocates and copies a slice.
    ///
    /// # Errors
    /// Those of [`alloc_zeroed`](Self::alloc_zeroed).
    pub fn from_slice(device: &Device, values: &[T]) -> Result<Self> {
        let mut buffer = Self::alloc_zeroed(device, values.len())?;
        buffer.copy_from_slice(values);
        Ok(buffer)
    }

    /// Device that it was allocated for; it may be used with others.
    pub fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn address(&self) -> *mut c_void {
        self.data.as_ptr().cast()
    }

    fn freed(&self) -> Option<Freed> {
        (size_of::<T>() * self.len != 0).then_some(Freed::Host { address: self.data.as_ptr() as usize })
    }

    /// Gives the memory up unfreed.
    pub(crate) fn into_freed(mut self) -> Option<Freed> {
        let freed = self.freed();
        // An empty buffer frees nothing when it is dropped.
        self.len = 0;
        freed
    }
}

impl<T: Pod> Deref for PinnedBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the allocation has `len` elements, written at birth; copies under way own the buffer.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl<T: Pod> DerefMut for PinnedBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and access is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }
}

impl<T: Pod> std::fmt::Debug for PinnedBuffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PinnedBuffer").field("len", &self.len).finish_non_exhaustive()
    }
}

impl<T: Pod> Drop for PinnedBuffer<T> {
    fn drop(&mut self) {
        let Some(Freed::Host { address }) = self.freed() else { return };
        let device = &self.device.0;
        if device.cann.check_process().is_err() {
            return;
        }
        // SAFETY: the address is one of `aclrtMallocHost`, freed once. The call needs no context and works after a fault
        // or a reset (CANN runtime 9.1.0, api_impl).
        let result = unsafe { device.cann.table().aclrtFreeHost(address as *mut c_void) };
        if let Err(error) = device.cann.check(FunctionId::aclrtFreeHost, result) {
            device.keep(error);
        }
    }
}

/// A copy under way that owns its pinned buffer until it is done.
///
/// Dropped without [`wait`](Self::wait), the buffer is freed when the copy is done.
#[must_use = "the buffer comes back from `wait`"]
pub struct Pending<T: Pod> {
    /// There until it is given back.
    buffer: Option<PinnedBuffer<T>>,
    /// Device of the stream that copies.
    device: Device,
    event: aclrtEvent,
}

impl<T: Pod> Pending<T> {
    /// `event` was taken from the pool of `device` and recorded after the copy.
    pub(crate) fn new(buffer: PinnedBuffer<T>, device: &Device, event: aclrtEvent) -> Self {
        Self { buffer: Some(buffer), device: device.clone(), event }
    }

    /// Whether the copy is done.
    ///
    /// # Errors
    /// [`Error::Vendor`] and the states of the device.
    pub fn is_complete(&self) -> Result<bool> {
        self.device.0.enter()?.has_passed(self.event)
    }

    /// Waits for the copy and gives the buffer back.
    ///
    /// # Errors
    /// [`Error::Vendor`] and the states of the device; the buffer is then freed when the device is given back or reset.
    pub fn wait(mut self) -> Result<PinnedBuffer<T>> {
        let bound = self.device.0.enter()?;
        // SAFETY: the event is alive.
        unsafe { call!(bound.aclrtSynchronizeEvent(self.event)) }?;
        let Some(buffer) = self.buffer.take() else { return Err(Error::Planned) };
        bound.give_event(self.event);
        Ok(buffer)
    }
}

impl<T: Pod> std::fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").field("buffer", &self.buffer).finish_non_exhaustive()
    }
}

impl<T: Pod> Drop for Pending<T> {
    fn drop(&mut self) {
        let Some(buffer) = self.buffer.take() else { return };
        let device = &self.device.0;
        match device.enter_to_drop() {
            Some(bound) => match buffer.into_freed() {
                Some(freed) => bound.free_when_passed(freed, [Some(self.event), None, None, None]),
                None => bound.give_event(self.event),
            },
            // A reset waits for the work, so the copy is done.
            None if device.is_reset() => drop(buffer),
            None => lock(&device.holdings).free_at_reset(buffer.into_freed()),
        }
    }
}

/// Bytes of `len` elements.
pub(crate) fn byte_count<T>(len: usize) -> Result<usize> {
    len.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize).ok_or_else(|| {
        Error::shape("length", format_args!("{len} elements of {} bytes", size_of::<T>()), "what an address can reach")
    })
}
