//! Typed device memory.

use core::ffi::c_void;
use std::marker::PhantomData;

use ascend_sys::aclrtMemcpyKind;
use bytemuck::Pod;

use crate::device::{Bound, Device, call};
use crate::error::{Error, Result};
use crate::memory::{Memory, Padding};
use crate::pinned::{Pending, PinnedBuffer, byte_count};
use crate::stream::{Stream, same_device};
use crate::sync::lock;

/// `len` elements of device memory.
///
/// May be dropped while queued work uses it: it is freed once that work is done. Work on one stream that uses it after
/// work on another waits there for it, so the contents are always those of program order. Reads by the host go through
/// [`copy_to_host`](Self::copy_to_host) and its kin, which wait for the last write.
///
/// Elements are plain data: what has pointers or forbidden bit patterns does not compile.
///
/// ```compile_fail,E0277
/// fn boxed(device: &ascend_moe::Device) -> ascend_moe::Result<ascend_moe::DeviceBuffer<Box<u8>>> {
///     ascend_moe::DeviceBuffer::from_slice(device, &[Box::new(1)])
/// }
/// ```
pub struct DeviceBuffer<T: Pod> {
    memory: Memory,
    len: usize,
    _elements: PhantomData<T>,
}

impl<T: Pod> DeviceBuffer<T> {
    /// Allocates `len` elements of zero bytes, done when the call returns.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Shape`] for a length beyond the address space, [`Error::Vendor`] and the states
    /// of the device.
    pub fn alloc_zeroed(device: &Device, len: usize) -> Result<Self> {
        let buffer = Self::alloc(device, len)?;
        buffer.memory.zero_now()?;
        Ok(buffer)
    }

    /// Allocates and copies a slice, done when the call returns.
    ///
    /// # Errors
    /// Those of [`alloc_zeroed`](Self::alloc_zeroed).
    pub fn from_slice(device: &Device, values: &[T]) -> Result<Self> {
        let buffer = Self::alloc(device, values.len())?;
        buffer.memory.fill_now(bytemuck::cast_slice(values))?;
        Ok(buffer)
    }

    /// Allocates `len` elements with the contents that were there.
    ///
    /// # Safety
    /// The caller has every element written before it is read by anything whose result matters.
    ///
    /// # Errors
    /// Those of [`alloc_zeroed`](Self::alloc_zeroed).
    pub unsafe fn alloc_uninit(device: &Device, len: usize) -> Result<Self> {
        Self::alloc(device, len)
    }

    fn alloc(device: &Device, len: usize) -> Result<Self> {
        let memory = Memory::alloc(device, byte_count::<T>(len)?, Padding::Kernel)?;
        Ok(Self { memory, len, _elements: PhantomData })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its device.
    pub fn device(&self) -> &Device {
        self.memory.device()
    }

    /// Device address of the first element, for calls that this layer does not make; 0 where there are none. What such
    /// calls do with it is not tracked.
    pub fn address(&self) -> u64 {
        self.memory.address()
    }

    /// Writes zero bytes, in the order of the stream.
    ///
    /// # Errors
    /// [`Error::WrongDevice`], [`Error::Vendor`] and the states of the device.
    pub fn zero(&mut self, stream: &Stream) -> Result<()> {
        self.memory.zero_on(stream, 0, self.memory.bytes())
    }

    /// Copies from another buffer of the device, in the order of the stream.
    ///
    /// # Errors
    /// [`Error::Shape`] where the lengths differ, [`Error::WrongDevice`], [`Error::Vendor`] and the states of the device.
    pub fn copy_from(&mut self, stream: &Stream, source: &Self) -> Result<()> {
        same_length(source.len, self.len)?;
        same_device(stream.device(), source.device())?;
        stream.may_be_no_operator("a copy between buffers")?;
        let bound = stream.enter_with(self.device())?;
        source.memory.read_on(&bound, &stream.0.line)?;
        self.memory.write_on(&bound, &stream.0.line)?;
        let kind = aclrtMemcpyKind::DEVICE_TO_DEVICE;
        self.memory.copy_on(&bound, stream, self.memory.pointer(), source.memory.pointer(), kind)
    }

    /// Copies from the host; done when the call returns. Waits for earlier users of the buffer and for the stream.
    ///
    /// # Errors
    /// [`Error::Shape`] where the lengths differ, [`Error::WrongDevice`], [`Error::Vendor`] and the states of the device.
    pub fn copy_from_host(&mut self, stream: &Stream, source: &[T]) -> Result<()> {
        same_length(source.len(), self.len)?;
        self.memory.write_bytes(stream, 0, bytemuck::cast_slice(source))
    }

    /// Copies to the host. Waits for the last write of the buffer and for the stream.
    ///
    /// # Errors
    /// [`Error::Shape`] where the lengths differ, [`Error::WrongDevice`], [`Error::Vendor`] (faults of queued work surface
    /// here) and the states of the device.
    pub fn copy_to_host(&self, stream: &Stream, target: &mut [T]) -> Result<()> {
        same_length(self.len, target.len())?;
        self.memory.read_bytes(stream, 0, bytemuck::cast_slice_mut(target))
    }

    /// The contents, as [`copy_to_host`](Self::copy_to_host) reads them.
    ///
    /// # Errors
    /// Those of [`copy_to_host`](Self::copy_to_host).
    pub fn to_vec(&self, stream: &Stream) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); self.len];
        self.copy_to_host(stream, &mut values)?;
        Ok(values)
    }

    /// Queues a copy from pinned memory and returns at once.
    ///
    /// # Errors
    /// Those of [`copy_from_host`](Self::copy_from_host); the pinned buffer is then freed.
    pub fn upload(&mut self, stream: &Stream, source: PinnedBuffer<T>) -> Result<Pending<T>> {
        same_length(source.len(), self.len)?;
        let bound = stream.enter_with(self.device())?;
        self.memory.write_on(&bound, &stream.0.line)?;
        let (to, from) = (self.memory.pointer(), source.address());
        self.copy_pinned(&bound, stream, source, to, from, aclrtMemcpyKind::HOST_TO_DEVICE)
    }

    /// Queues a copy to pinned memory and returns at once.
    ///
    /// # Errors
    /// Those of [`copy_to_host`](Self::copy_to_host); the pinned buffer is then freed.
    pub fn download(&self, stream: &Stream, target: PinnedBuffer<T>) -> Result<Pending<T>> {
        same_length(self.len, target.len())?;
        let bound = stream.enter_with(self.device())?;
        self.memory.read_on(&bound, &stream.0.line)?;
        let (to, from) = (target.address(), self.memory.pointer());
        self.copy_pinned(&bound, stream, target, to, from, aclrtMemcpyKind::DEVICE_TO_HOST)
    }

    fn copy_pinned(
        &self,
        bound: &Bound<'_>,
        stream: &Stream,
        pinned: PinnedBuffer<T>,
        to: *mut c_void,
        from: *mut c_void,
        kind: aclrtMemcpyKind,
    ) -> Result<Pending<T>> {
        stream.not_captured("a copy of pinned memory")?;
        self.memory.copy_on(bound, stream, to, from, kind)?;
        match bound.record(stream.raw()) {
            Ok(event) => Ok(Pending::new(pinned, stream.device(), event)),
            Err(error) => {
                // The copy is queued, and without an event only the stream says when it is done.
                if stream.synchronize_in(bound).is_err() {
                    lock(&stream.device().0.holdings).free_at_reset(pinned.into_freed());
                }
                Err(error)
            }
        }
    }
}

impl<T: Pod> std::fmt::Debug for DeviceBuffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceBuffer")
            .field("len", &self.len)
            .field("device", &self.device().id())
            .finish_non_exhaustive()
    }
}

fn same_length(source: usize, target: usize) -> Result<()> {
    if source == target {
        return Ok(());
    }
    Err(Error::shape("copy", format_args!("{source} elements into {target}"), "equal lengths"))
}

/// Copies between this memory and others. Ranges were checked by the caller to lie within it.
impl Memory {
    pub(crate) fn pointer(&self) -> *mut c_void {
        self.address() as *mut c_void
    }

    fn at(&self, offset: usize) -> *mut c_void {
        (self.address() + offset as u64) as *mut c_void
    }

    /// Zeroes memory that no stream has used yet.
    pub(crate) fn zero_now(&self) -> Result<()> {
        if self.bytes() == 0 {
            return Ok(());
        }
        let bound = self.device().0.enter()?;
        // SAFETY: the memory has that many bytes, and no stream uses it.
        unsafe { call!(bound.aclrtMemset(self.pointer(), self.bytes(), 0, self.bytes())) }
    }

    /// Fills memory that no stream has used yet.
    pub(crate) fn fill_now(&self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let bound = self.device().0.enter()?;
        let (from, kind) = (bytes.as_ptr().cast(), aclrtMemcpyKind::HOST_TO_DEVICE);
        // SAFETY: both sides have that many bytes, no stream uses the memory, and the call returns after the copy.
        unsafe { call!(bound.aclrtMemcpy(self.pointer(), self.bytes(), from, bytes.len(), kind)) }
    }

    pub(crate) fn zero_on(&self, stream: &Stream, offset: usize, bytes: usize) -> Result<()> {
        stream.may_be_no_operator("zeroing")?;
        let bound = stream.enter_with(self.device())?;
        if bytes == 0 {
            return Ok(());
        }
        self.write_on(&bound, &stream.0.line)?;
        // SAFETY: the range lies within the memory, which is not freed before the stream has done this.
        unsafe { call!(bound.aclrtMemsetAsync(self.at(offset), self.bytes() - offset, 0, bytes, stream.raw())) }
    }

    /// Queues a copy of all bytes; one side is this memory.
    fn copy_on(
        &self,
        bound: &Bound<'_>,
        stream: &Stream,
        to: *mut c_void,
        from: *mut c_void,
        kind: aclrtMemcpyKind,
    ) -> Result<()> {
        if self.bytes() == 0 {
            return Ok(());
        }
        // SAFETY: both sides have that many bytes; device memory is freed in stream order, and pinned memory is owned by
        // the copy until it is done.
        unsafe { call!(bound.aclrtMemcpyAsync(to, self.bytes(), from, self.bytes(), kind, stream.raw())) }
    }

    /// Copies bytes from the host once the stream and earlier users are done; done when the call returns.
    pub(crate) fn write_bytes(&self, stream: &Stream, offset: usize, source: &[u8]) -> Result<()> {
        let bound = stream.enter_with(self.device())?;
        self.write_on(&bound, &stream.0.line)?;
        stream.synchronize_in(&bound)?;
        let (from, kind) = (source.as_ptr().cast(), aclrtMemcpyKind::HOST_TO_DEVICE);
        // SAFETY: the range lies within the memory, nothing uses it any more, and the call returns after the copy.
        unsafe { call!(bound.aclrtMemcpy(self.at(offset), self.bytes() - offset, from, source.len(), kind)) }
    }

    /// Copies bytes to the host once the stream and the last writer are done.
    pub(crate) fn read_bytes(&self, stream: &Stream, offset: usize, target: &mut [u8]) -> Result<()> {
        let bound = stream.enter_with(self.device())?;
        self.read_on(&bound, &stream.0.line)?;
        stream.synchronize_in(&bound)?;
        let (to, kind) = (target.as_mut_ptr().cast(), aclrtMemcpyKind::DEVICE_TO_HOST);
        // SAFETY: the range lies within the memory, which nothing writes any more, and the call returns after the copy.
        unsafe { call!(bound.aclrtMemcpy(to, target.len(), self.at(offset), target.len(), kind)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_must_agree() {
        assert!(same_length(3, 3).is_ok());
        assert!(matches!(same_length(3, 4), Err(Error::Shape { .. })));
    }
}
