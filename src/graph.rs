//! Graphs: calls on streams captured once and launched many times, without the cost of calling them.
//!
//! A graph keeps the addresses that the calls were made with. So it holds every piece of memory that they touched, the
//! streams' scratch among it, and each launch is put in order with the other users of that memory like a call would be.
//! Within a capture of several streams the same order is captured as events. See `docs/graph-capture.md`.

use std::sync::{Arc, Mutex};

use ascend_sys::{ACL_EVENT_SYNC, aclmdlRI, aclmdlRICaptureMode, aclrtEvent, aclrtStream, aclrtTaskGrp};

use crate::device::{Bound, call};
use crate::error::{Error, Result};
use crate::memory::{Line, Memory, Usage};
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

impl CaptureMode {
    fn raw(self) -> aclmdlRICaptureMode {
        match self {
            Self::Global => aclmdlRICaptureMode::GLOBAL,
            Self::ThreadLocal => aclmdlRICaptureMode::THREAD_LOCAL,
            Self::Relaxed => aclmdlRICaptureMode::RELAXED,
        }
    }
}

/// What a capture, or an update of a graph, touches.
#[derive(Default)]
pub(crate) struct Recording {
    uses: Mutex<Vec<(Use, Usage)>>,
    /// Events between its streams.
    events: Mutex<Vec<aclrtEvent>>,
    /// Whether its tasks can be replaced later, which those of operators alone can.
    updatable: bool,
}

/// A piece of memory that captured calls touch.
struct Use {
    memory: Memory,
    writes: bool,
    /// The stream whose scratch it is, and which goes on using it without asking.
    scratch: Option<Stream>,
}

impl Recording {
    /// A captured call on `line` reads this memory.
    pub(crate) fn reads(&self, bound: &Bound<'_>, memory: &Memory, line: &Arc<Line>) -> Result<()> {
        self.add(memory, |_, usage| usage.read(bound, line))
    }

    /// A captured call on `line` writes this memory.
    pub(crate) fn writes(&self, bound: &Bound<'_>, memory: &Memory, line: &Arc<Line>) -> Result<()> {
        self.add(memory, |used, usage| {
            used.writes = true;
            usage.write(bound, line)
        })
    }

    /// A captured call has scratch of its stream in this memory.
    pub(crate) fn uses_scratch(&self, memory: &Memory, stream: &Stream) {
        let _: Result<()> = self.add(memory, |used, _| {
            used.writes = true;
            used.scratch.get_or_insert_with(|| stream.clone());
            Ok(())
        });
    }

    fn add(&self, memory: &Memory, note: impl FnOnce(&mut Use, &mut Usage) -> Result<()>) -> Result<()> {
        let mut uses = lock(&self.uses);
        let known = uses.iter().position(|(known, _)| known.memory.is(memory));
        let index = known.unwrap_or_else(|| {
            uses.push((Use { memory: memory.clone(), writes: false, scratch: None }, Usage::default()));
            uses.len() - 1
        });
        let (used, usage) = &mut uses[index];
        note(used, usage)
    }

    /// An event recorded on a captured stream: it belongs to the capture until its graph is gone.
    pub(crate) fn event(&self, bound: &Bound<'_>, stream: aclrtStream) -> Result<aclrtEvent> {
        let event = bound.create_event(ACL_EVENT_SYNC)?;
        lock(&self.events).push(event);
        // SAFETY: the event is alive, and the caller keeps the stream alive.
        unsafe { call!(bound.aclrtRecordEvent(event, stream)) }?;
        Ok(event)
    }

    fn take_uses(&self) -> Vec<Use> {
        std::mem::take(&mut *lock(&self.uses)).into_iter().map(|(used, _)| used).collect()
    }
}

/// Calls captured from a stream, to be launched any number of times ([`Stream::capture`]).
///
/// It always works on the tensors of the captured calls: give it other inputs by copying them into those
/// ([`Tensor`](crate::Tensor)s or buffers) in the order of the stream before a launch, and read the results from the
/// captured outputs after it; or put it on other tensors by an [`update`](Self::update). The tensors may be dropped; their
/// memory lives as long as the graph.
pub struct Graph {
    /// The stream that it was captured on.
    stream: Stream,
    /// The others that were captured with it.
    _sides: Vec<Stream>,
    raw: aclmdlRI,
    uses: Vec<Use>,
    events: Vec<aclrtEvent>,
    /// All its tasks, where they can be replaced.
    group: Option<aclrtTaskGrp>,
    /// The stream of the last update.
    updated: Option<Stream>,
    /// An update failed, and some of the tasks are its.
    torn: bool,
    /// Streams that it was launched or updated on.
    launched: Mutex<Vec<Arc<Line>>>,
}

/// A capture under way; dropped before its end, by an error or a panic of the calls, it is thrown away.
struct Capture<'s> {
    stream: &'s Stream,
    sides: &'s [&'s Stream],
    recording: Arc<Recording>,
    open: bool,
}

impl Capture<'_> {
    /// Joins the side streams back, ends the capture, and gives the graph where it is one, and its task group.
    fn end(&mut self, bound: &Bound<'_>) -> Result<(aclmdlRI, Option<aclrtTaskGrp>)> {
        self.open = false;
        let line = &self.stream.0.line;
        let joined = self.sides.iter().try_for_each(|side| bound.order(&side.0.line, line));
        let mut group = aclrtTaskGrp::NULL;
        let grouped = if self.recording.updatable && joined.is_ok() {
            // SAFETY: the stream is alive and in capture, the handle is writable.
            unsafe { call!(bound.aclmdlRICaptureTaskGrpEnd(self.stream.raw(), &mut group)) }.map(|()| Some(group))
        } else {
            Ok(None)
        };
        let mut raw = aclmdlRI::NULL;
        // SAFETY: the stream is alive and in capture, the handle is writable.
        let ended = unsafe { call!(bound.aclmdlRICaptureEnd(self.stream.raw(), &mut raw)) };
        self.forget();
        if ended.is_ok() {
            bound.holds_graph(raw);
        }
        match joined.and(grouped).and_then(|group| ended.map(|()| group)) {
            Ok(group) => Ok((raw, group)),
            Err(error) => {
                self.throw_away(bound, raw);
                Err(error)
            }
        }
    }

    /// Destroys what the capture made. What goes wrong is kept for the next call.
    fn throw_away(&self, bound: &Bound<'_>, raw: aclmdlRI) {
        let graph = (!raw.is_null()).then(|| bound.destroy_graph(raw));
        let events = std::mem::take(&mut *lock(&self.recording.events)).into_iter();
        for result in graph.into_iter().chain(events.map(|event| bound.destroy_event(event))) {
            if let Err(error) = result {
                bound.device().keep(error);
            }
        }
    }

    /// The streams queue again.
    fn forget(&self) {
        for stream in [self.stream].into_iter().chain(self.sides.iter().copied()) {
            lock(&stream.0.line.recording).take();
        }
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let Some(bound) = self.stream.device().0.enter_to_drop() else { return self.forget() };
        // A capture that is invalid ends with an error, of which the caller has the cause.
        if let Ok((raw, _)) = self.end(&bound) {
            self.throw_away(&bound, raw);
        }
    }
}

/// An update under way.
struct Update<'s> {
    stream: &'s Stream,
    open: bool,
}

impl Update<'_> {
    fn end(&mut self, bound: &Bound<'_>) -> Result<()> {
        self.open = false;
        lock(&self.stream.0.line.recording).take();
        // SAFETY: the stream is alive and updates a task group.
        unsafe { call!(bound.aclmdlRICaptureTaskUpdateEnd(self.stream.raw())) }
    }
}

impl Drop for Update<'_> {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        match self.stream.device().0.enter_to_drop() {
            // An update that is not whole ends with an error, of which the caller has the cause.
            Some(bound) => drop(self.end(&bound)),
            None => drop(lock(&self.stream.0.line.recording).take()),
        }
    }
}

impl Stream {
    /// Captures what `calls` queues on this stream: nothing of it runs before the graph is launched.
    ///
    /// Waits for the stream first. In `calls`, operators, copies between device memory and zeroing are captured, on this
    /// stream alone and from whichever thread; work on other streams runs as ever. What waits for the stream, reads
    /// results or records events is refused with [`Error::Capturing`] and leaves the capture as it was. Where `calls` fails
    /// the capture is thrown away and the stream is as before.
    ///
    /// # Errors
    /// Those of `calls`; [`Error::Capturing`] for a stream captured already; [`Error::SequenceOpen`] where this thread holds
    /// a sequence of the stream; [`Error::MissingFunction`] where the loaded CANN cannot capture; [`Error::Vendor`] (207008
    /// where the device has no stream left for it) and the states of the device.
    pub fn capture(&self, mode: CaptureMode, calls: impl FnOnce() -> Result<()>) -> Result<Graph> {
        self.capture_as(mode, &[], false, calls)
    }

    /// The same for this stream and others of the device together: they are captured from the beginning to the end, and
    /// what one of them does with memory of another is captured in order.
    ///
    /// # Errors
    /// Those of [`capture`](Self::capture), for each of the streams; [`Error::SequenceOpen`] where one is named twice;
    /// [`Error::WrongDevice`].
    pub fn capture_with(
        &self,
        sides: &[&Self],
        mode: CaptureMode,
        calls: impl FnOnce() -> Result<()>,
    ) -> Result<Graph> {
        self.capture_as(mode, sides, false, calls)
    }

    /// The same as [`capture`](Self::capture) for a graph that can be [updated](Graph::update): of operators alone.
    ///
    /// CANN calls this a trial feature, and asks for driver 25.0.RC1 or later (runtime 9.0.0,
    /// `aclmdlRICaptureTaskUpdateBegin`).
    ///
    /// # Errors
    /// Those of [`capture`](Self::capture), and [`Error::NotUpdatable`] for a copy or zeroing.
    pub fn capture_updatable(&self, mode: CaptureMode, calls: impl FnOnce() -> Result<()>) -> Result<Graph> {
        self.capture_as(mode, &[], true, calls)
    }

    fn capture_as(
        &self,
        mode: CaptureMode,
        sides: &[&Self],
        updatable: bool,
        calls: impl FnOnce() -> Result<()>,
    ) -> Result<Graph> {
        let recording = Arc::new(Recording { updatable, ..Recording::default() });
        let mut capture = {
            let mut all: Vec<&Self> = [self].into_iter().chain(sides.iter().copied()).collect();
            // In one order whoever captures them, so that nobody waits for one who waits.
            all.sort_by_key(|stream| Arc::as_ptr(&stream.0));
            for stream in &all {
                stream.not_captured("a capture")?;
                same_device(self.device(), stream.device())?;
            }
            // Scratch of a sequence begun before would not be known to the graph.
            let _none = all.iter().map(|stream| stream.sequence()).collect::<Result<Vec<_>>>()?;
            let bound = self.0.device.0.enter()?;
            all.iter().try_for_each(|stream| stream.synchronize_in(&bound))?;
            // SAFETY: the stream is alive and of the bound context.
            unsafe { call!(bound.aclmdlRICaptureBegin(self.raw(), mode.raw())) }?;
            for stream in all {
                *lock(&stream.0.line.recording) = Some(Arc::clone(&recording));
            }
            let capture = Capture { stream: self, sides, recording: Arc::clone(&recording), open: true };
            sides.iter().try_for_each(|side| bound.order(&self.0.line, &side.0.line))?;
            if updatable {
                // SAFETY: the stream is alive and in capture.
                unsafe { call!(bound.aclmdlRICaptureTaskGrpBegin(self.raw())) }?;
            }
            capture
        };
        calls()?;
        let bound = self.0.device.0.enter()?;
        let (raw, group) = capture.end(&bound)?;
        let graph = Graph {
            stream: self.clone(),
            _sides: sides.iter().copied().cloned().collect(),
            raw,
            uses: recording.take_uses(),
            events: std::mem::take(&mut *lock(&recording.events)),
            group,
            updated: None,
            torn: false,
            launched: Mutex::default(),
        };
        graph.give_scratch_back(&bound)?;
        Ok(graph)
    }

    /// Whether both streams queue into the same: the device, or one capture.
    pub(crate) fn goes_with(&self, other: &Self) -> bool {
        match (self.0.line.recording(), other.0.line.recording()) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(&one, &other),
            _ => false,
        }
    }

    /// Refuses what is no operator where tasks have to be updatable.
    pub(crate) fn may_be_no_operator(&self, call: &'static str) -> Result<()> {
        match self.0.line.recording() {
            Some(recording) if recording.updatable => Err(Error::NotUpdatable { call }),
            _ => Ok(()),
        }
    }
}

impl Graph {
    /// Queues the captured calls on a stream, after earlier users of their memory on other streams. On another stream than
    /// those captured, later work of these waits for the launch, since both use their scratch.
    ///
    /// # Errors
    /// [`Error::Capturing`] while one of these streams is captured, [`Error::TornGraph`] after an update that failed,
    /// [`Error::WrongDevice`], [`Error::Vendor`] and the states of the device.
    pub fn launch(&self, stream: &Stream) -> Result<()> {
        const CALL: &str = "a launch of a graph";
        stream.not_captured(CALL)?;
        let homes = || self.uses.iter().filter_map(|used| used.scratch.as_ref());
        homes().try_for_each(|home| home.not_captured(CALL))?;
        same_device(stream.device(), self.stream.device())?;
        if self.torn {
            return Err(Error::TornGraph);
        }
        let bound = stream.device().0.enter()?;
        let line = &stream.0.line;
        for before in homes().chain(&self.updated) {
            if !Arc::ptr_eq(&before.0.line, line) {
                bound.order(&before.0.line, line)?;
            }
        }
        for Use { memory, writes, .. } in &self.uses {
            if *writes { memory.write_on(&bound, line) } else { memory.read_on(&bound, line) }?;
        }
        self.runs_on(line);
        // SAFETY: graph and stream are alive and of the bound context, and so is all memory that the graph uses.
        unsafe { call!(bound.aclmdlRIExecuteAsync(self.raw, stream.raw())) }?;
        self.give_scratch_back(&bound)
    }

    /// Puts other calls in the place of the captured ones: the same operators in the same order, on tensors of the same
    /// types and shapes. No new graph is made. The graph then keeps the memory of these.
    ///
    /// Waits for `stream` first; queues the replacement on it, behind launches so far, and later launches come after it.
    /// `calls` queues on `stream`; nothing of it runs before a launch. After an error the graph has tasks of both and is not
    /// launched before another update succeeds.
    ///
    /// # Errors
    /// [`Error::NotUpdatable`] for a graph of another capture than [`capture_updatable`](Stream::capture_updatable), and for
    /// copies and zeroing in `calls`; those of `calls`; [`Error::Vendor`] with 207019 for another operator than the captured
    /// one and 107033 for fewer calls; [`Error::Capturing`] while `stream` is captured, [`Error::SequenceOpen`],
    /// [`Error::WrongDevice`] and the states of the device.
    pub fn update(&mut self, stream: &Stream, calls: impl FnOnce() -> Result<()>) -> Result<()> {
        let group = self.group.ok_or(Error::NotUpdatable { call: "this graph" })?;
        stream.not_captured("an update of a graph")?;
        same_device(stream.device(), self.stream.device())?;
        let recording = Arc::new(Recording { updatable: true, ..Recording::default() });
        let line = &stream.0.line;
        let mut update = {
            let _none = stream.sequence()?;
            let bound = stream.device().0.enter()?;
            stream.synchronize_in(&bound)?;
            for before in lock(&self.launched).iter().filter(|before| !Arc::ptr_eq(before, line)) {
                bound.order(before, line)?;
            }
            self.runs_on(line);
            // SAFETY: the stream is alive and not in capture, the group lives as long as its graph.
            unsafe { call!(bound.aclmdlRICaptureTaskUpdateBegin(stream.raw(), group)) }?;
            *lock(&line.recording) = Some(Arc::clone(&recording));
            self.torn = true;
            Update { stream, open: true }
        };
        calls()?;
        let bound = stream.device().0.enter()?;
        update.end(&bound)?;
        self.torn = false;
        self.uses = recording.take_uses();
        self.updated = Some(stream.clone());
        self.give_scratch_back(&bound)
    }

    /// Notes a stream that has to be waited for before the graph is destroyed.
    fn runs_on(&self, line: &Arc<Line>) {
        let mut launched = lock(&self.launched);
        if !launched.iter().any(|known| Arc::ptr_eq(known, line)) {
            launched.push(Arc::clone(line));
        }
    }

    /// From here on the streams whose scratch it uses do so again.
    fn give_scratch_back(&self, bound: &Bound<'_>) -> Result<()> {
        for Use { memory, scratch, .. } in &self.uses {
            if let Some(home) = scratch {
                memory.write_on(bound, &home.0.line)?;
            }
        }
        Ok(())
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
        let events = self.events.iter().map(|&event| bound.destroy_event(event));
        for result in [bound.destroy_graph(self.raw)].into_iter().chain(events) {
            if let Err(error) = result {
                device.keep(error);
            }
        }
    }
}
