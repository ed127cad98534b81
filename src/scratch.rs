//! Scratch memory of a stream: operator workspaces and temporary tensors, carved from one allocation per stream.
//!
//! A [`Sequence`] is a run of calls queued by one thread on one stream. Work on a stream is done in order, so the next
//! sequence may use the same bytes again. The allocation grows to what the largest sequence needed and is replaced in
//! stream order. A plan is a sequence that runs nothing and tells how much scratch the same calls will need.

use core::ffi::c_void;
use std::cell::{Cell, RefCell};
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::TryLockError;
use std::sync::atomic::Ordering;

use ascend_sys::{OperatorId, aclrtMemcpyKind};

use crate::dense::Dense;
use crate::device::{Bound, Device, call};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::memory::{Memory, Padding};
use crate::stream::{Stream, StreamInner, same_device};
use crate::tensor::{Place, TensorViewMut};

/// Start of every slice; more than the 64 bytes that kernels need (CANN runtime 9.1.0, memory management).
const ALIGNMENT: u64 = 512;

/// Bytes that a slice takes: its length rounded to 32, and 32 that kernels may read past it.
fn slot(bytes: u64) -> Result<u64> {
    let rounded = bytes.checked_next_multiple_of(32).and_then(|bytes| bytes.checked_add(32));
    rounded
        .and_then(|bytes| bytes.checked_next_multiple_of(ALIGNMENT))
        .ok_or_else(|| Error::shape("scratch", format_args!("{bytes} bytes"), "what an address can reach"))
}

/// Scratch that a sequence needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of temporary tensors, with alignment and slack.
    pub tensors: u64,
    /// Bytes of the largest operator workspace, with alignment and slack.
    pub workspace: u64,
}

impl Footprint {
    /// Bytes altogether.
    pub fn bytes(&self) -> u64 {
        self.tensors.saturating_add(self.workspace)
    }

    /// Device memory that a stream takes for it: one allocation, as the allocator rounds it.
    pub fn allocation(&self) -> u64 {
        let held =
            usize::try_from(self.bytes()).ok().filter(|&bytes| bytes > 0).and_then(|bytes| Padding::None.held(bytes));
        held.map_or(0, |held| held as u64)
    }

    /// The larger of each part: what two sequences on one stream need.
    pub fn max(self, other: Self) -> Self {
        Self { tensors: self.tensors.max(other.tensors), workspace: self.workspace.max(other.workspace) }
    }
}

/// What a stream keeps between sequences.
#[derive(Default)]
pub(crate) struct Scratch {
    chunk: Option<Memory>,
    /// Chunks outgrown by the current sequence, which may still hold its tensors.
    outgrown: Vec<Memory>,
    /// Bytes of the chunk that tensors of the current sequence take.
    used: u64,
}

impl Scratch {
    fn capacity(&self) -> u64 {
        self.chunk.as_ref().map_or(0, |chunk| chunk.bytes() as u64)
    }

    /// Address of `bytes` free bytes behind the tensors. Where the chunk is too small, another of at least `total` bytes
    /// takes its place.
    fn reserve(&mut self, stream: &Stream, bytes: u64, total: u64) -> Result<u64> {
        let enough = self.used.checked_add(bytes).is_some_and(|end| end <= self.capacity());
        if !enough {
            let size = usize::try_from(total.max(bytes)).unwrap_or(usize::MAX);
            let outgrown = self.chunk.take();
            if self.used == 0 {
                // Nothing of this sequence is in it: let it go first, so that both need not fit.
                drop(outgrown);
            } else {
                self.outgrown.extend(outgrown);
            }
            self.used = 0;
            let chunk = Memory::alloc(stream.device(), size, Padding::None)?;
            let bound = stream.device().0.enter()?;
            chunk.write_on(&bound, &stream.0.line)?;
            self.chunk = Some(chunk);
        }
        if let (Some(recording), Some(chunk)) = (stream.0.line.recording(), &self.chunk) {
            recording.uses_scratch(chunk, stream);
        }
        Ok(self.chunk.as_ref().map_or(0, Memory::address) + self.used)
    }
}

/// A run of calls on a stream, or a plan of one.
///
/// Operators are called on it; temporary tensors and workspaces come from the scratch of the stream. One thread at a time
/// holds the sequence of a stream; another that begins one waits.
pub struct Sequence<'s> {
    mode: Mode<'s>,
    tensors: Cell<u64>,
    workspace: Cell<u64>,
    purpose: Cell<&'static str>,
}

enum Mode<'s> {
    Live { stream: &'s Stream, scratch: RefCell<MutexGuard<'s, Scratch>> },
    Plan { device: &'s Device, calls: RefCell<Vec<PlannedCall>> },
}

/// An operator that a plan would run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedCall {
    /// What it is for.
    pub purpose: &'static str,
    /// The operator.
    pub operator: OperatorId,
    /// Dtypes and shapes of its inputs and outputs, for people.
    pub operands: String,
}

impl Stream {
    /// Begins a sequence: waits while another thread holds one of this stream.
    ///
    /// # Errors
    /// [`Error::SequenceOpen`] where this thread holds one already.
    pub fn sequence(&self) -> Result<Sequence<'_>> {
        let this_thread = thread_mark();
        let scratch = match self.0.scratch.try_lock() {
            Ok(scratch) => scratch,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                if self.0.scratch_holder.load(Ordering::Relaxed) == this_thread {
                    return Err(Error::SequenceOpen);
                }
                self.0.scratch.lock().unwrap_or_else(PoisonError::into_inner)
            }
        };
        self.0.scratch_holder.store(this_thread, Ordering::Relaxed);
        let mode = Mode::Live { stream: self, scratch: RefCell::new(scratch) };
        Ok(Sequence { mode, tensors: Cell::new(0), workspace: Cell::new(0), purpose: Cell::new("") })
    }

    /// Begins a sequence with scratch enough for `footprint`, so that nothing is allocated on the way.
    ///
    /// # Errors
    /// [`Error::SequenceOpen`], [`Error::OutOfMemory`], [`Error::Vendor`] and the states of the device.
    pub fn sequence_with(&self, footprint: Footprint) -> Result<Sequence<'_>> {
        let sequence = self.sequence()?;
        if let Mode::Live { stream, scratch } = &sequence.mode {
            scratch.borrow_mut().reserve(stream, footprint.bytes(), footprint.bytes())?;
        }
        Ok(sequence)
    }
}

impl Device {
    /// Begins a plan: calls on it check their arguments and ask CANN for the workspace they would need, and run nothing.
    /// Tensors of a plan, and those of [`TensorView::planned`](crate::TensorView::planned), have no memory.
    pub fn plan(&self) -> Sequence<'_> {
        let mode = Mode::Plan { device: self, calls: RefCell::default() };
        Sequence { mode, tensors: Cell::new(0), workspace: Cell::new(0), purpose: Cell::new("") }
    }
}

impl<'s> Sequence<'s> {
    /// Its device.
    pub fn device(&self) -> &'s Device {
        match &self.mode {
            Mode::Live { stream, .. } => stream.device(),
            Mode::Plan { device, .. } => device,
        }
    }

    /// Its stream; `None` for a plan.
    pub fn stream(&self) -> Option<&'s Stream> {
        match &self.mode {
            Mode::Live { stream, .. } => Some(stream),
            Mode::Plan { .. } => None,
        }
    }

    /// Says what the calls that follow are for.
    pub fn purpose(&self, purpose: &'static str) {
        self.purpose.set(purpose);
    }

    /// The operators that a plan would run, in order; empty for a sequence of a stream.
    pub fn planned_calls(&self) -> Vec<PlannedCall> {
        match &self.mode {
            Mode::Plan { calls, .. } => calls.borrow().clone(),
            Mode::Live { .. } => Vec::new(),
        }
    }

    /// Notes a call on a plan.
    pub(crate) fn note(&self, operator: OperatorId, operands: impl FnOnce() -> String) {
        if let Mode::Plan { calls, .. } = &self.mode {
            let purpose = self.purpose.get();
            calls.borrow_mut().push(PlannedCall { purpose, operator, operands: operands() });
        }
    }

    /// Scratch that the calls so far needed.
    pub fn footprint(&self) -> Footprint {
        Footprint { tensors: self.tensors.get(), workspace: self.workspace.get() }
    }

    /// A temporary row-major tensor with unspecified contents, there until the sequence ends.
    ///
    /// # Errors
    /// [`Error::Shape`], and where the scratch has to grow for it [`Error::OutOfMemory`], [`Error::Vendor`] and the states
    /// of the device.
    pub fn tensor(&self, dtype: DType, shape: &[usize]) -> Result<TensorViewMut<'_>> {
        let dense = Dense::new(shape)?;
        let bytes = slot(dense.bytes(dtype)? as u64)?;
        let total = self.tensors.get().saturating_add(bytes);
        let (address, place) = match &self.mode {
            Mode::Live { stream, scratch } => {
                let mut scratch = scratch.borrow_mut();
                let address = scratch.reserve(stream, bytes, total.saturating_add(self.workspace.get()))?;
                scratch.used += bytes;
                (address, Place::Scratch(&stream.0))
            }
            Mode::Plan { .. } => (0, Place::Planned),
        };
        self.tensors.set(total);
        Ok(TensorViewMut::scratch(dense.desc(dtype, address), dtype, place))
    }

    /// Workspace of one operator, free to be used again by the next; null for no bytes.
    pub(crate) fn workspace(&self, bytes: u64) -> Result<*mut c_void> {
        if bytes == 0 {
            return Ok(core::ptr::null_mut());
        }
        let bytes = slot(bytes)?;
        self.workspace.set(self.workspace.get().max(bytes));
        match &self.mode {
            Mode::Live { stream, scratch } => {
                let total = self.tensors.get().saturating_add(self.workspace.get());
                Ok(scratch.borrow_mut().reserve(stream, bytes, total)? as *mut c_void)
            }
            Mode::Plan { .. } => Ok(core::ptr::null_mut()),
        }
    }
}

impl std::fmt::Debug for Sequence<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sequence").field("stream", &self.stream()).field("footprint", &self.footprint()).finish()
    }
}

impl Drop for Sequence<'_> {
    fn drop(&mut self) {
        if let Mode::Live { stream, scratch } = &self.mode {
            let mut scratch = scratch.borrow_mut();
            scratch.used = 0;
            scratch.outgrown.clear();
            stream.0.scratch_holder.store(0, Ordering::Relaxed);
        }
    }
}

/// A number that is this thread's alone while it lives, never 0.
fn thread_mark() -> u64 {
    thread_local!(static MARK: u8 = const { 0 });
    MARK.with(|mark| std::ptr::from_ref(mark) as u64)
}

/// Copies between scratch tensors and the host. Only the stream that owns the scratch may use it.
impl StreamInner {
    fn enter_own(&self, stream: &Stream) -> Result<Bound<'_>> {
        same_device(&stream.0.device, &self.device)?;
        if !std::ptr::eq(self, &*stream.0) {
            return Err(Error::WrongStream);
        }
        self.device.0.enter()
    }

    pub(crate) fn read_scratch(&self, stream: &Stream, address: usize, target: &mut [u8]) -> Result<()> {
        let bound = self.enter_own(stream)?;
        stream.synchronize_in(&bound)?;
        let (to, from) = (target.as_mut_ptr().cast(), address as *const c_void);
        // SAFETY: the range lies within the scratch, whose writers are done, and the call returns after the copy.
        unsafe { call!(bound.aclrtMemcpy(to, target.len(), from, target.len(), aclrtMemcpyKind::DEVICE_TO_HOST)) }
    }

    pub(crate) fn write_scratch(&self, stream: &Stream, address: usize, source: &[u8]) -> Result<()> {
        let bound = self.enter_own(stream)?;
        stream.synchronize_in(&bound)?;
        let (to, from) = (address as *mut c_void, source.as_ptr().cast());
        // SAFETY: the range lies within the scratch, whose users are done, and the call returns after the copy.
        unsafe { call!(bound.aclrtMemcpy(to, source.len(), from, source.len(), aclrtMemcpyKind::HOST_TO_DEVICE)) }
    }

    pub(crate) fn zero_scratch(&self, stream: &Stream, address: usize, bytes: usize) -> Result<()> {
        stream.may_be_no_operator("zeroing")?;
        let bound = self.enter_own(stream)?;
        // SAFETY: the range lies within the scratch, which this stream alone uses.
        unsafe { call!(bound.aclrtMemsetAsync(address as *mut c_void, bytes, 0, bytes, stream.raw())) }
    }
}
