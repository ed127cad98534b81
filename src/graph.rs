//! Graphs: calls on a stream captured once and launched many times, without the cost of calling them.
//!
//! A graph keeps the addresses that the calls were made with. So it holds every piece of memory that they touched, the
//! stream's scratch among it, and each launch is put in order with the other users of that memory like a call would be.
//! See `docs/graph-capture.md`.

use std::sync::{Arc, Mutex};

use ascend_sys::{aclmdlRI, aclmdlRICaptureMode};

use crate::device::{Bound, call};
use crate::error::Result;
use crate::memory::{Line, Memory};
use crate::stream::{Stream, same_device};
use crate::sync::lock;

/// Which threads CANN lets make unsafe calls (synchronous copies, such as making a tensor from host values) on the device
/// while a stream is captured (runtime 9.1.0, `aclmdlRICaptureBegin`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CaptureMode {
    /// None.
    #[default]
    Global,
    /// Those other than the one that captures.
    ThreadLocal,
    /// All.
    Relaxed,
}

/// What a capture touches.
#[derive(Default)]
pub(crate) struct Recording {
    uses: Mutex<Vec<Use>>,
}

/// A piece of memory that captured calls touch.
struct Use {
    memory: Memory,
    writes: bool,
    /// Scratch of the captured stream, which goes on using it without asking.
    scratch: bool,
}

impl Recording {
    /// A captured call reads or writes this memory.
    pub(crate) fn uses(&self, memory: &Memory, writes: bool) {
        self.add(memory, writes, false);
    }

    /// A captured call has scratch in this memory.
    pub(crate) fn uses_scratch(&self, memory: &Memory) {
        self.add(memory, true, true);
    }

    fn add(&self, memory: &Memory, writes: bool, scratch: bool) {
        let mut uses = lock(&self.uses);
        match uses.iter_mut().find(|known| known.memory.is(memory)) {
            Some(known) => {
                known.writes |= writes;
                known.scratch |= scratch;
            }
            None => uses.push(Use { memory: memory.clone(), writes, scratch }),
        }
    }
}

/// Calls captured from a stream, to be launched any number of times ([`Stream::capture`]).
///
/// It always works on the tensors of the captured calls: give it other inputs by copying them into those
/// ([`Tensor`](crate::Tensor)s or buffers) in the order of the stream before a launch, and read the results from the
/// captured outputs after it. The tensors may be dropped; their memory lives as long as the graph.
pub struct Graph {
    /// The stream that it was captured on, whose scratch it uses.
    stream: Stream,
    raw: aclmdlRI,
    uses: Vec<Use>,
    /// Streams that it was launched on.
    launched: Mutex<Vec<Arc<Line>>>,
}

/// A capture under way; dropped before its end, by an error or a panic of the calls, it is thrown away.
struct Capture<'s> {
    stream: &'s Stream,
    open: bool,
}

impl Capture<'_> {
    /// Ends the capture, and gives the graph where it is one.
    fn end(&mut self, bound: &Bound<'_>) -> Result<aclmdlRI> {
        self.open = false;
        let mut raw = aclmdlRI::NULL;
        // SAFETY: the stream is alive and in capture, the handle is writable.
        let ended = unsafe { call!(bound.aclmdlRICaptureEnd(self.stream.raw(), &mut raw)) };
        lock(&self.stream.0.line.recording).take();
        ended.map(|()| raw)
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let Some(bound) = self.stream.device().0.enter_to_drop() else {
            lock(&self.stream.0.line.recording).take();
            return;
        };
        // A capture that is invalid ends with an error, of which the caller has the cause.
        if let Ok(raw) = self.end(&bound) {
            bound.holds_graph(raw);
            if let Err(error) = bound.destroy_graph(raw) {
                self.stream.device().0.keep(error);
            }
        }
    }
}

impl Stream {
    /// Captures what `calls` queues on this stream: nothing of it runs before the graph is launched.
    ///
    /// Waits for the stream first. In `calls`, operators, copies between device memory and zeroing are captured, on this
    /// stream alone and from whichever thread; work on other streams runs as ever. What waits for the stream, reads
    /// results or records events is refused with [`Error::Capturing`](crate::Error::Capturing) and leaves the capture as
    /// it was. Where `calls` fails the capture is thrown away and the stream is as before.
    ///
    /// # Errors
    /// Those of `calls`; [`Error::Capturing`](crate::Error::Capturing) for a stream captured already;
    /// [`Error::SequenceOpen`](crate::Error::SequenceOpen) where this thread holds a sequence of the stream;
    /// [`Error::MissingFunction`](crate::Error::MissingFunction) where the loaded CANN cannot capture;
    /// [`Error::Vendor`](crate::Error::Vendor) (207008 where the device has no stream left for it) and the states of the
    /// device.
    pub fn capture(&self, mode: CaptureMode, calls: impl FnOnce() -> Result<()>) -> Result<Graph> {
        self.not_captured("a capture")?;
        let line = &self.0.line;
        let recording = Arc::new(Recording::default());
        let mut capture = {
            // Scratch of a sequence begun before would not be known to the graph.
            let _none = self.sequence()?;
            let bound = self.0.device.0.enter()?;
            self.synchronize_in(&bound)?;
            let mode = match mode {
                CaptureMode::Global => aclmdlRICaptureMode::GLOBAL,
                CaptureMode::ThreadLocal => aclmdlRICaptureMode::THREAD_LOCAL,
                CaptureMode::Relaxed => aclmdlRICaptureMode::RELAXED,
            };
            // SAFETY: the stream is alive and of the bound context.
            unsafe { call!(bound.aclmdlRICaptureBegin(self.raw(), mode)) }?;
            *lock(&line.recording) = Some(Arc::clone(&recording));
            Capture { stream: self, open: true }
        };
        calls()?;
        let bound = self.0.device.0.enter()?;
        let raw = capture.end(&bound)?;
        bound.holds_graph(raw);
        let uses = std::mem::take(&mut *lock(&recording.uses));
        let graph = Graph { stream: self.clone(), raw, uses, launched: Mutex::default() };
        graph.give_scratch_back(&bound)?;
        Ok(graph)
    }
}

impl Graph {
    /// Queues the captured calls on a stream, after earlier users of their memory on other streams. On another stream than
    /// the one captured, that one's later work waits for the launch, since both use its scratch.
    ///
    /// # Errors
    /// [`Error::Capturing`](crate::Error::Capturing) while either stream is captured,
    /// [`Error::WrongDevice`](crate::Error::WrongDevice), [`Error::Vendor`](crate::Error::Vendor) and the states of the
    /// device.
    pub fn launch(&self, stream: &Stream) -> Result<()> {
        stream.not_captured("a launch of a graph")?;
        self.stream.not_captured("a launch of a graph")?;
        same_device(stream.device(), self.stream.device())?;
        let bound = stream.device().0.enter()?;
        let (home, line) = (&self.stream.0.line, &stream.0.line);
        let away = !Arc::ptr_eq(home, line);
        if away && self.uses.iter().any(|used| used.scratch) {
            bound.order(home, line)?;
        }
        for Use { memory, writes, .. } in &self.uses {
            if *writes { memory.write_on(&bound, line) } else { memory.read_on(&bound, line) }?;
        }
        let mut launched = lock(&self.launched);
        if !launched.iter().any(|known| Arc::ptr_eq(known, line)) {
            launched.push(Arc::clone(line));
        }
        drop(launched);
        // SAFETY: graph and stream are alive and of the bound context, and so is all memory that the graph uses.
        unsafe { call!(bound.aclmdlRIExecuteAsync(self.raw, stream.raw())) }?;
        self.give_scratch_back(&bound)
    }

    /// From here on the captured stream uses its scratch again.
    fn give_scratch_back(&self, bound: &Bound<'_>) -> Result<()> {
        let mut scratch = self.uses.iter().filter(|used| used.scratch);
        scratch.try_for_each(|used| used.memory.write_on(bound, &self.stream.0.line))
    }

    /// The stream that it was captured on.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The C handle, for calls that this layer does not make. Valid while the graph is.
    pub fn raw(&self) -> aclmdlRI {
        self.raw
    }
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph").field("stream", &self.stream).field("raw", &self.raw).finish_non_exhaustive()
    }
}

impl Drop for Graph {
    /// Waits for its launches: what CANN makes of a graph destroyed before they are done is not documented.
    fn drop(&mut self) {
        let device = &self.stream.device().0;
        let Some(bound) = device.enter_to_drop() else { return };
        for line in lock(&self.launched).iter() {
            let closed = lock(&line.closed);
            if *closed || line.recording().is_some() {
                continue;
            }
            // SAFETY: the stream is not destroyed while its line is locked.
            if let Err(error) = unsafe { call!(bound.aclrtSynchronizeStream(line.raw)) } {
                device.keep(error);
            }
        }
        if let Err(error) = bound.destroy_graph(self.raw) {
            device.keep(error);
        }
    }
}
