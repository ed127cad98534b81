//! Device memory below buffers and tensors: who used it last, and when it may be freed.
//!
//! Streams are first-in first-out. So it is enough to remember the stream of the last write and those of the reads since:
//! an event recorded on such a stream *now* covers the use. Work on one stream alone costs a comparison; work that moves
//! to another stream waits there for an event. Memory dropped while its streams are busy is freed once events recorded at
//! that moment have passed.

use core::ffi::c_void;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use ascend_sys::{
    ACL_EVENT_SYNC, aclrtEvent, aclrtEventRecordedStatus, aclrtMemMallocPolicy, aclrtStream, aclrtStreamStatus,
};

use crate::device::{Bound, Device, call};
use crate::error::{Error, Result};
use crate::sync::lock;

/// A stream as memory remembers it: also after the stream itself is gone.
pub(crate) struct Line {
    pub(crate) raw: aclrtStream,
    /// Set once the stream is destroyed, which waits for its work.
    pub(crate) closed: Mutex<bool>,
}

/// Readers remembered one by one; a further one waits for one of them and stands for both.
const READERS: usize = 3;

/// Streams that can still be using a piece of memory.
type Lines = [Option<Arc<Line>>; READERS + 1];

#[derive(Default)]
struct Usage {
    writer: Option<Arc<Line>>,
    readers: [Option<Arc<Line>>; READERS],
}

/// What an allocation is padded with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Padding {
    /// 32 bytes that kernels may read past the end (`aclrtMalloc`).
    Kernel,
    /// None: the caller keeps the slack itself (`aclrtMallocAlign32`).
    None,
}

impl Padding {
    /// Bytes that an allocation really takes (CANN runtime 9.1.0, memory.cpp).
    pub(crate) fn held(self, bytes: usize) -> Option<usize> {
        let extra = if self == Self::Kernel { 63 } else { 31 };
        Some(bytes.checked_add(extra)? / 32 * 32)
    }
}

/// An allocation of device memory.
pub(crate) struct Memory {
    device: Device,
    /// Device address; 0 for no bytes.
    address: u64,
    bytes: usize,
    held: u64,
    usage: Mutex<Usage>,
}

impl Memory {
    /// Allocates; the contents are whatever was there.
    pub(crate) fn alloc(device: &Device, bytes: usize, padding: Padding) -> Result<Self> {
        let bound = device.0.enter()?;
        let (address, held) = if bytes == 0 { (0, 0) } else { bound.alloc(bytes, padding)? };
        Ok(Self { device: device.clone(), address, bytes, held, usage: Mutex::default() })
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes what is queued on `line` from now on see every write so far, and remembers that it reads.
    pub(crate) fn read_on(&self, bound: &Bound<'_>, line: &Arc<Line>) -> Result<()> {
        let mut usage = lock(&self.usage);
        let is_line = |other: &Option<Arc<Line>>| other.as_ref().is_some_and(|other| Arc::ptr_eq(other, line));
        if is_line(&usage.writer) || usage.readers.iter().any(is_line) {
            return Ok(());
        }
        if let Some(writer) = &usage.writer {
            bound.order(writer, line)?;
        }
        let free = usage.readers.iter().position(Option::is_none);
        let slot = &mut usage.readers[free.unwrap_or(0)];
        if let Some(reader) = slot {
            bound.order(reader, line)?;
        }
        *slot = Some(line.clone());
        Ok(())
    }

    /// Makes what is queued on `line` from now on come after every use so far, and remembers that it writes.
    pub(crate) fn write_on(&self, bound: &Bound<'_>, line: &Arc<Line>) -> Result<()> {
        let mut usage = lock(&self.usage);
        let usage = &mut *usage;
        for other in usage.readers.iter_mut().chain([&mut usage.writer]) {
            if let Some(used) = other
                && !Arc::ptr_eq(used, line)
            {
                bound.order(used, line)?;
                *other = None;
            }
        }
        if usage.writer.is_none() {
            usage.writer = Some(line.clone());
        }
        usage.readers = Default::default();
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.address == 0 {
            return;
        }
        let usage = std::mem::take(self.usage.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner));
        if let Some(bound) = self.device.0.enter_to_drop() {
            let [a, b, c] = usage.readers;
            bound.free_after(Freed::Device { address: self.address, held: self.held }, &[usage.writer, a, b, c]);
        }
    }
}

/// Something to be freed.
#[derive(Clone, Copy)]
pub(crate) enum Freed {
    /// Device memory, with the bytes it takes.
    Device { address: u64, held: u64 },
    /// Pinned host memory.
    Host { address: usize },
}

/// Memory dropped while it may have been in use: freed once all its events have passed.
pub(crate) struct PendingFree {
    pub(crate) freed: Freed,
    pub(crate) events: Events,
}

/// One event for each stream of [`Lines`].
pub(crate) type Events = [Option<aclrtEvent>; READERS + 1];

/// What waits to be freed on a device.
#[derive(Default)]
pub(crate) struct PendingFrees(pub(crate) Vec<PendingFree>);

/// Events ready to be recorded. They are of the kind that can be recorded again at once: a wait queued before keeps to
/// what was recorded then (CANN runtime 9.1.0, `aclrtRecordEvent` on events of `aclrtCreateEventExWithFlag`).
#[derive(Default)]
pub(crate) struct EventPool(Vec<aclrtEvent>);

impl Bound<'_> {
    /// Makes what is queued on `after` from now on wait for what is queued on `before`.
    fn order(&self, before: &Line, after: &Line) -> Result<()> {
        let closed = lock(&before.closed);
        if *closed {
            return Ok(());
        }
        let event = self.record(before.raw)?;
        // SAFETY: the event was recorded, and the caller holds the stream `after`.
        let waited = unsafe { call!(self.aclrtStreamWaitEvent(after.raw, event)) };
        self.give_event(event);
        waited
    }

    /// Records an event of the pool on a stream, which must not be destroyed meanwhile.
    pub(crate) fn record(&self, stream: aclrtStream) -> Result<aclrtEvent> {
        let event = self.take_event()?;
        // SAFETY: the event is alive, and the caller keeps the stream alive.
        if let Err(error) = unsafe { call!(self.aclrtRecordEvent(event, stream)) } {
            self.give_event(event);
            return Err(error);
        }
        Ok(event)
    }

    fn take_event(&self) -> Result<aclrtEvent> {
        if let Some(event) = lock(&self.device().events).0.pop() {
            return Ok(event);
        }
        let mut event = aclrtEvent::NULL;
        // SAFETY: the handle is writable.
        unsafe { call!(self.aclrtCreateEventExWithFlag(&mut event, ACL_EVENT_SYNC)) }?;
        Ok(event)
    }

    pub(crate) fn give_event(&self, event: aclrtEvent) {
        lock(&self.device().events).0.push(event);
    }

    /// Whether what was queued before the event was recorded is done.
    pub(crate) fn has_passed(&self, event: aclrtEvent) -> Result<bool> {
        let mut status = aclrtEventRecordedStatus::NOT_READY;
        // SAFETY: the event is alive, the status writable.
        unsafe { call!(self.aclrtQueryEventStatus(event, &mut status)) }?;
        Ok(status == aclrtEventRecordedStatus::COMPLETE)
    }

    /// Allocates device memory: its address and the bytes it takes. What waits to be freed is freed first where it can
    /// be, and waited for where memory runs out.
    fn alloc(&self, bytes: usize, padding: Padding) -> Result<(u64, u64)> {
        let too_large =
            || Error::shape("device allocation", format_args!("{bytes} bytes"), "what an address can reach");
        let held = padding.held(bytes).ok_or_else(too_large)? as u64;
        self.reap()?;
        let address = match self.malloc(bytes, padding) {
            Err(error) if is_out_of_memory(&error) => {
                if lock(&self.device().frees).0.is_empty() {
                    return Err(self.out_of_memory(bytes, error));
                }
                // SAFETY: the context is bound.
                unsafe { call!(self.aclrtSynchronizeDevice()) }?;
                self.reap()?;
                self.malloc(bytes, padding).map_err(|error| self.out_of_memory(bytes, error))?
            }
            result => result?,
        };
        let in_use = self.device().in_use.fetch_add(held, Ordering::Relaxed) + held;
        self.device().peak.fetch_max(in_use, Ordering::Relaxed);
        Ok((address, held))
    }

    fn malloc(&self, bytes: usize, padding: Padding) -> Result<u64> {
        let mut address: *mut c_void = core::ptr::null_mut();
        let policy = aclrtMemMallocPolicy::HUGE_FIRST;
        // SAFETY: the address is writable, and the size is not 0.
        unsafe {
            match padding {
                Padding::Kernel => call!(self.aclrtMalloc(&mut address, bytes, policy)),
                Padding::None => call!(self.aclrtMallocAlign32(&mut address, bytes, policy)),
            }
        }?;
        Ok(address as u64)
    }

    /// The same failure with the state of the memory, where it is one of running out.
    fn out_of_memory(&self, requested: usize, error: Error) -> Error {
        match self.memory_info() {
            Ok(info) if is_out_of_memory(&error) => Error::OutOfMemory {
                device: self.device().id(),
                requested: requested as u64,
                free: info.free,
                total: info.total,
            },
            _ => error,
        }
    }

    /// Frees once nothing queued on `lines` so far can use it any more. What goes wrong is kept for the next call, and
    /// the memory then stays allocated until the device is given back.
    fn free_after(&self, freed: Freed, lines: &Lines) {
        let mut events: Events = [None; READERS + 1];
        for (line, slot) in lines.iter().flatten().zip(&mut events) {
            match self.mark(line) {
                Ok(event) => *slot = event,
                Err(error) => {
                    events.into_iter().flatten().for_each(|event| self.give_event(event));
                    return self.device().keep(error);
                }
            }
        }
        self.free_when_passed(freed, events);
    }

    /// Frees once the events have passed; they go back to the pool then.
    pub(crate) fn free_when_passed(&self, freed: Freed, events: Events) {
        if events.iter().all(Option::is_none) {
            self.free(freed);
        } else {
            lock(&self.device().frees).0.push(PendingFree { freed, events });
        }
    }

    /// An event after everything queued on the line, or `None` where all of it is done.
    fn mark(&self, line: &Line) -> Result<Option<aclrtEvent>> {
        let closed = lock(&line.closed);
        if *closed {
            return Ok(None);
        }
        let mut status = aclrtStreamStatus::NOT_READY;
        // SAFETY: the stream is not destroyed while its line is locked; the status is writable.
        unsafe { call!(self.aclrtStreamQuery(line.raw, &mut status)) }?;
        if status == aclrtStreamStatus::COMPLETE { Ok(None) } else { self.record(line.raw).map(Some) }
    }

    /// Frees what waited and whose events have passed.
    ///
    /// # Errors
    /// Those of asking an event; what still waits goes on waiting.
    pub(crate) fn reap(&self) -> Result<()> {
        let mut frees = lock(&self.device().frees);
        let mut outcome = Ok(());
        frees.0.retain_mut(|pending| {
            for slot in &mut pending.events {
                let Some(event) = *slot else { continue };
                match self.has_passed(event) {
                    Ok(true) => {
                        *slot = None;
                        self.give_event(event);
                    }
                    Ok(false) => return true,
                    Err(error) => {
                        outcome = Err(error);
                        return true;
                    }
                }
            }
            self.free(pending.freed);
            false
        });
        outcome
    }

    /// Frees everything that waits, for whoever knows that no stream works any more, and destroys the pooled events.
    pub(crate) fn free_all_now(&self) {
        let frees = std::mem::take(&mut lock(&self.device().frees).0);
        for pending in frees {
            self.free(pending.freed);
            pending.events.into_iter().flatten().for_each(|event| self.give_event(event));
        }
        let events = std::mem::take(&mut lock(&self.device().events).0);
        for event in events {
            // SAFETY: pooled events are alive, and nobody else has them.
            if let Err(error) = unsafe { call!(self.aclrtDestroyEvent(event)) } {
                self.device().keep(error);
            }
        }
    }

    /// Frees the host memory that waits, which no reset of the device does.
    pub(crate) fn free_host_now(&self) {
        let frees = std::mem::take(&mut lock(&self.device().frees).0);
        for pending in frees {
            if matches!(pending.freed, Freed::Host { .. }) {
                self.free(pending.freed);
            }
        }
    }

    pub(crate) fn free(&self, freed: Freed) {
        let result = match freed {
            Freed::Device { address, held } => {
                self.device().in_use.fetch_sub(held, Ordering::Relaxed);
                // SAFETY: the address is one of `aclrtMalloc`, freed once, and no stream uses it any more.
                unsafe { call!(self.aclrtFree(address as *mut c_void)) }
            }
            Freed::Host { address } => {
                // SAFETY: the address is one of `aclrtMallocHost`, freed once, and no stream uses it any more.
                unsafe { call!(self.aclrtFreeHost(address as *mut c_void)) }
            }
        };
        if let Err(error) = result {
            self.device().keep(error);
        }
    }
}

fn is_out_of_memory(error: &Error) -> bool {
    error.code().is_some_and(|code| ascend_sys::aclError(code).is_out_of_memory())
}
