//! Device memory below buffers and tensors: who used it last, and when it may be freed.
//!
//! Streams are first-in first-out. So it is enough to remember the stream of the last write and those of the reads since:
//! an event recorded on such a stream *now* covers the use. Work on one stream alone costs a comparison; work that moves
//! to another stream waits there for an event. Memory dropped while its streams are busy is freed once events recorded at
//! that moment have passed.

use core::ffi::c_void;
use std::sync::{Arc, Mutex};

use ascend_sys::{aclrtEvent, aclrtMemMallocPolicy, aclrtStream, aclrtStreamStatus};

use crate::device::{Bound, Device, call};
use crate::error::{Error, Result};
use crate::graph::Recording;
use crate::holdings::{Events, Freed};
use crate::sync::lock;

/// A stream as memory remembers it: also after the stream itself is gone.
pub(crate) struct Line {
    pub(crate) raw: aclrtStream,
    /// Set once the stream is destroyed, which waits for its work.
    pub(crate) closed: Mutex<bool>,
    /// What its work goes into while it is captured instead of queued.
    pub(crate) recording: Mutex<Option<Arc<Recording>>>,
}

impl Line {
    pub(crate) fn recording(&self) -> Option<Arc<Recording>> {
        lock(&self.recording).clone()
    }
}

/// Readers remembered one by one; a further one waits for one of them and stands for both.
const READERS: usize = 3;

/// Streams that can still be using a piece of memory: the readers and the last writer.
pub(crate) const USERS: usize = READERS + 1;
type Lines = [Option<Arc<Line>>; USERS];

/// Who used a piece of memory: the stream of the last write, those of the reads since.
#[derive(Default)]
pub(crate) struct Usage {
    writer: Option<Arc<Line>>,
    readers: [Option<Arc<Line>>; READERS],
}

impl Usage {
    /// A read on `line`, which is made to come after the last write.
    pub(crate) fn read(&mut self, bound: &Bound<'_>, line: &Arc<Line>) -> Result<()> {
        let is_line = |other: &Option<Arc<Line>>| other.as_ref().is_some_and(|other| Arc::ptr_eq(other, line));
        if is_line(&self.writer) || self.readers.iter().any(is_line) {
            return Ok(());
        }
        if let Some(writer) = &self.writer {
            bound.order(writer, line)?;
        }
        let free = self.readers.iter().position(Option::is_none);
        let slot = &mut self.readers[free.unwrap_or(0)];
        if let Some(reader) = slot {
            bound.order(reader, line)?;
        }
        *slot = Some(line.clone());
        Ok(())
    }

    /// A write on `line`, which is made to come after every use so far.
    pub(crate) fn write(&mut self, bound: &Bound<'_>, line: &Arc<Line>) -> Result<()> {
        for other in self.readers.iter_mut().chain([&mut self.writer]) {
            if let Some(used) = other
                && !Arc::ptr_eq(used, line)
            {
                bound.order(used, line)?;
                *other = None;
            }
        }
        if self.writer.is_none() {
            self.writer = Some(line.clone());
        }
        self.readers = Default::default();
        Ok(())
    }
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

/// An allocation of device memory. Cloning gives another handle on it; the last one frees it.
#[derive(Clone)]
pub(crate) struct Memory(Arc<Allocation>);

struct Allocation {
    device: Device,
    /// Device address; 0 for no bytes.
    address: u64,
    bytes: usize,
    usage: Mutex<Usage>,
}

impl Memory {
    /// Allocates; the contents are whatever was there.
    pub(crate) fn alloc(device: &Device, bytes: usize, padding: Padding) -> Result<Self> {
        let bound = device.0.enter()?;
        let address = if bytes == 0 { 0 } else { bound.alloc(bytes, padding)? };
        Ok(Self(Arc::new(Allocation { device: device.clone(), address, bytes, usage: Mutex::default() })))
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn device(&self) -> &Device {
        &self.0.device
    }

    pub(crate) fn address(&self) -> u64 {
        self.0.address
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// Makes what is queued on `line` from now on see every write so far, and remembers that it reads.
    pub(crate) fn read_on(&self, bound: &Bound<'_>, line: &Arc<Line>) -> Result<()> {
        match line.recording() {
            Some(recording) => recording.reads(bound, self, line),
            None => lock(&self.0.usage).read(bound, line),
        }
    }

    /// Makes what is queued on `line` from now on come after every use so far, and remembers that it writes.
    pub(crate) fn write_on(&self, bound: &Bound<'_>, line: &Arc<Line>) -> Result<()> {
        match line.recording() {
            Some(recording) => recording.writes(bound, self, line),
            None => lock(&self.0.usage).write(bound, line),
        }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if self.address == 0 {
            return;
        }
        let usage = std::mem::take(self.usage.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner));
        if let Some(bound) = self.device.0.enter_to_drop() {
            let [a, b, c] = usage.readers;
            bound.free_after(Freed::Device { address: self.address }, &[usage.writer, a, b, c]);
        }
    }
}

impl Bound<'_> {
    /// Makes what is queued on `after` from now on wait for what is queued on `before`; within one capture both are what is
    /// captured. A stream that is captured otherwise has nothing queued: it was waited for before the capture, and what it
    /// records orders itself when it is launched.
    pub(crate) fn order(&self, before: &Line, after: &Line) -> Result<()> {
        let closed = lock(&before.closed);
        if *closed {
            return Ok(());
        }
        let (event, recording) = match (before.recording(), after.recording()) {
            (None, None) => (self.record(before.raw)?, None),
            (Some(one), Some(other)) if Arc::ptr_eq(&one, &other) => (one.event(self, before.raw)?, Some(one)),
            _ => return Ok(()),
        };
        // SAFETY: the event was recorded, and the caller holds the stream `after`.
        let waited = unsafe { call!(self.aclrtStreamWaitEvent(after.raw, event)) };
        if recording.is_none() {
            self.give_event(event);
        }
        waited
    }

    /// Allocates device memory and gives its address. What waits to be freed is freed first where it can
    /// be, and waited for where memory runs out.
    fn alloc(&self, bytes: usize, padding: Padding) -> Result<u64> {
        let too_large =
            || Error::shape("device allocation", format_args!("{bytes} bytes"), "what an address can reach");
        let held = padding.held(bytes).ok_or_else(too_large)? as u64;
        self.reap()?;
        let address = match self.malloc(bytes, padding) {
            Err(error) if is_out_of_memory(&error) => {
                if self.is_nothing_waiting() {
                    return Err(self.out_of_memory(bytes, error));
                }
                // SAFETY: the context is bound.
                unsafe { call!(self.aclrtSynchronizeDevice()) }?;
                self.reap()?;
                self.malloc(bytes, padding).map_err(|error| self.out_of_memory(bytes, error))?
            }
            result => result?,
        };
        self.holds_memory(address, held);
        Ok(address)
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
        let mut events: Events = [None; USERS];
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

    /// An event after everything queued on the line, or `None` where all of it is done.
    fn mark(&self, line: &Line) -> Result<Option<aclrtEvent>> {
        let closed = lock(&line.closed);
        if *closed || line.recording().is_some() {
            return Ok(None);
        }
        let mut status = aclrtStreamStatus::NOT_READY;
        // SAFETY: the stream is not destroyed while its line is locked; the status is writable.
        unsafe { call!(self.aclrtStreamQuery(line.raw, &mut status)) }?;
        if status == aclrtStreamStatus::COMPLETE { Ok(None) } else { self.record(line.raw).map(Some) }
    }
}

fn is_out_of_memory(error: &Error) -> bool {
    error.code().is_some_and(|code| ascend_sys::aclError(code).is_out_of_memory())
}
