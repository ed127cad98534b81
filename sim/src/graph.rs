//! Graphs: the tasks of streams recorded between `aclmdlRICaptureBegin` and `aclmdlRICaptureEnd`, run any number of times.
//!
//! While a stream is captured its tasks are recorded instead of queued, with the addresses they were launched with.
//! Streams join by waiting for an event that a captured stream recorded, and have to be joined back. The order of
//! recording is one that all joins allow, so an execution does the tasks one after another in it. Source: runtime 9.1.0,
//! `capture_session` and `context_aclgraph.cc`.
//!
//! A task group takes operators alone (507009).
//!
//! Readings of ours: which codes a task outside its group's operator and a group updated in part are answered with
//! (207019, 107033); a host callback of `aclrtLaunchCallback` is not captured (207000).

use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

use ascend_sys::{aclError, aclmdlRICaptureMode, aclmdlRICaptureStatus};

use crate::callback::Call;
use crate::device::Context;
use crate::errmsg::Refusal;
use crate::event::Event;
use crate::instance::Instance;
use crate::lock;
use crate::stream::Stream;
use crate::task::{Run, Task, Work};

/// What a recorded task does.
#[derive(Clone)]
enum Action {
    Run(Run),
    Host(Call),
}

impl Action {
    fn of(work: Work) -> Option<Self> {
        match work {
            Work::Run(run) => Some(Self::Run(run)),
            Work::Host(call) => Some(Self::Host(call)),
            Work::Record(..) | Work::Wait(_) | Work::Report(_) => None,
        }
    }
}

/// A recorded task.
pub(crate) struct Node {
    function: &'static str,
    detail: String,
    /// An update puts another in its place.
    action: Mutex<Action>,
}

/// The tasks between two marks, to be updated together.
pub(crate) struct TaskGroup {
    nodes: Vec<Arc<Node>>,
    updating: Mutex<bool>,
}

/// Where a stream's tasks go.
#[derive(Default)]
pub(crate) enum Route {
    /// To the device.
    #[default]
    Queue,
    /// Into a graph.
    Capture(Arc<Graph>),
    /// Into the tasks of a group, from this one on.
    Update(Arc<TaskGroup>, usize),
}

/// A record of an event on a captured stream.
#[derive(Clone)]
pub(crate) struct CapturedRecord {
    pub(crate) graph: Arc<Graph>,
    number: usize,
}

struct Recorded {
    stream: usize,
    /// A stream of the capture waits for it.
    waited: bool,
    /// The stream that the capture began on does.
    by_origin: bool,
}

/// A stream in a capture.
struct Branch {
    stream: Arc<Stream>,
    /// The record that is its last task.
    last: Option<usize>,
    /// Tasks since a task group was begun.
    group: Option<Vec<Arc<Node>>>,
}

#[derive(Default)]
struct State {
    status: Status,
    nodes: Vec<Arc<Node>>,
    /// The first is the one that the capture began on; empty once it has ended.
    branches: Vec<Branch>,
    records: Vec<Recorded>,
    /// Handles of its task groups.
    groups: Vec<usize>,
    /// Device streams that it takes, one for each stream captured.
    ids: Vec<i32>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Status {
    #[default]
    Active,
    Invalidated,
    Ended,
}

/// A graph (`aclmdlRI`), from the beginning of its capture.
pub(crate) struct Graph {
    pub(crate) handle: usize,
    pub(crate) context: Arc<Context>,
    mode: aclmdlRICaptureMode,
    thread: ThreadId,
    state: Mutex<State>,
}

fn refuse(code: aclError, text: impl std::fmt::Display) -> Refusal {
    Refusal::new(code, format!("EE1016: {text}"))
}

impl Graph {
    fn is(self: &Arc<Self>, stream: &Stream) -> bool {
        stream.captured_by().is_some_and(|graph| Arc::ptr_eq(&graph, self))
    }

    pub(crate) fn status(&self) -> aclmdlRICaptureStatus {
        match lock(&self.state).status {
            Status::Active => aclmdlRICaptureStatus::ACTIVE,
            Status::Invalidated => aclmdlRICaptureStatus::INVALIDATED,
            Status::Ended => aclmdlRICaptureStatus::NONE,
        }
    }

    fn is_capturing(&self) -> bool {
        lock(&self.state).status != Status::Ended
    }

    /// An error that the capture does not survive.
    fn terminate(&self, refusal: Refusal) -> Refusal {
        let mut state = lock(&self.state);
        if state.status == Status::Active {
            state.status = Status::Invalidated;
        }
        refusal
    }

    fn with_branch<R>(&self, stream: &Stream, act: impl FnOnce(&mut State, usize) -> R) -> Result<R, Refusal> {
        let mut state = lock(&self.state);
        if state.status == Status::Invalidated {
            let text = "an earlier error has invalidated the capture of this stream";
            return Err(refuse(aclError::RT_STREAM_CAPTURE_INVALIDATED, text));
        }
        let branch = state.branches.iter().position(|branch| branch.stream.handle == stream.handle);
        let branch = branch.ok_or_else(|| refuse(aclError::RT_STREAM_NOT_CAPTURED, "the capture has ended"))?;
        Ok(act(&mut state, branch))
    }

    /// Records a task of a stream instead of queueing it.
    pub(crate) fn record(&self, stream: &Stream, task: Task) -> Result<(), Refusal> {
        let Task { function, detail, work } = task;
        let action = Action::of(work)
            .ok_or_else(|| self.terminate(Refusal::unsupported(format!("{function}: on a stream in capture"))))?;
        self.with_branch(stream, |state, branch| {
            let branch = &mut state.branches[branch];
            if branch.group.is_some() && !function.starts_with("aclnn") {
                let text = format_args!("{function}: in a task group, where operators alone are supported");
                return Err(refuse(aclError::RT_TASK_TYPE_NOT_SUPPORT, text));
            }
            let node = Arc::new(Node { function, detail, action: Mutex::new(action) });
            state.nodes.push(Arc::clone(&node));
            branch.last = None;
            if let Some(group) = &mut branch.group {
                group.push(node);
            }
            Ok(())
        })?
    }

    /// Ends the capture for good: its streams queue their tasks again.
    fn release(&self) {
        let branches = {
            let mut state = lock(&self.state);
            state.status = Status::Ended;
            std::mem::take(&mut state.branches)
        };
        branches.into_iter().for_each(|branch| branch.stream.set_route(Route::Queue));
        lock(&self.context.captures).retain(|other| other.handle != self.handle);
    }

    /// Whether everything captured was joined back.
    fn check_joined(&self) -> Result<(), Refusal> {
        let state = lock(&self.state);
        if state.branches.iter().any(|branch| branch.group.is_some()) {
            return Err(refuse(aclError::STREAM_TASK_GROUP_STATUS, "a task group was not ended"));
        }
        let mut others = state.branches.iter().skip(1).peekable();
        let any = others.peek().is_some();
        let mut joins = others.map(|branch| branch.last.and_then(|last| state.records.get(last)));
        let waited = joins.all(|record| record.is_some_and(|record| record.waited));
        let origin = state.branches.first().map_or(0, |branch| branch.stream.handle);
        let by_origin = state.records.iter().any(|record| record.by_origin && record.stream != origin);
        if waited && (!any || by_origin) {
            return Ok(());
        }
        let text = "a stream that joined the capture was not joined back to where it began";
        Err(refuse(aclError::RT_STREAM_UNJOINED, text))
    }
}

impl CapturedRecord {
    pub(crate) fn is_live(&self) -> bool {
        self.graph.is_capturing()
    }
}

impl Instance {
    /// `aclmdlRICaptureBegin`.
    pub(crate) fn begin_capture(&self, stream: &Arc<Stream>, mode: aclmdlRICaptureMode) -> Result<(), Refusal> {
        if stream.is_default() {
            return Err(refuse(aclError::RT_STREAM_CAPTURE_IMPLICIT, "the default stream cannot be captured"));
        }
        if stream.captured_by().is_some() {
            return Err(refuse(aclError::RT_STREAM_CAPTURED, "the stream is in capture already"));
        }
        let graph = self.objects().insert_with("aclmdlRI", |handle| {
            let context = Arc::clone(&stream.context);
            Arc::new(Graph { handle, context, mode, thread: std::thread::current().id(), state: Mutex::default() })
        });
        self.join_capture(&graph, stream).inspect_err(|_| {
            self.objects().remove::<Graph>(graph.handle);
        })?;
        lock(&stream.context.captures).push(graph);
        Ok(())
    }

    fn join_capture(&self, graph: &Arc<Graph>, stream: &Arc<Stream>) -> Result<(), Refusal> {
        let device = self.device(stream.context.device)?;
        let id = device.take_stream_id().ok_or_else(|| {
            let text = "EL0009: Resource_Exhausted: no device stream is left for the capture";
            Refusal::new(aclError::RT_NO_STREAM_RESOURCE, text)
        })?;
        {
            let mut state = lock(&graph.state);
            state.ids.push(id);
            state.branches.push(Branch { stream: Arc::clone(stream), last: None, group: None });
        }
        stream.set_route(Route::Capture(Arc::clone(graph)));
        Ok(())
    }

    /// `aclmdlRICaptureEnd`. Past the first two checks the capture is over, whatever the answer.
    pub(crate) fn end_capture(&self, stream: &Stream) -> Result<Arc<Graph>, Refusal> {
        let graph = captured(stream)?;
        if lock(&graph.state).branches.first().is_none_or(|origin| origin.stream.handle != stream.handle) {
            let text = "the capture did not begin on this stream";
            return Err(refuse(aclError::RT_STREAM_CAPTURE_UNMATCHED, text));
        }
        let relaxed = graph.mode == aclmdlRICaptureMode::RELAXED;
        let verdict = if !relaxed && graph.thread != std::thread::current().id() {
            let text = "only a relaxed capture may be ended on another thread than it began on";
            Err(refuse(aclError::RT_STREAM_CAPTURE_WRONG_THREAD, text))
        } else if graph.status() == aclmdlRICaptureStatus::INVALIDATED {
            Err(refuse(aclError::RT_STREAM_CAPTURE_INVALIDATED, "an earlier error has invalidated the capture"))
        } else {
            graph.check_joined()
        };
        graph.release();
        verdict.map(|()| Arc::clone(&graph)).inspect_err(|_| self.destroy_graph(&graph))
    }

    /// `aclmdlRIDestroy`, and what becomes of a capture that failed.
    pub(crate) fn destroy_graph(&self, graph: &Graph) {
        graph.release();
        if self.objects().remove::<Graph>(graph.handle).is_none() {
            return;
        }
        let (ids, groups) = {
            let mut state = lock(&graph.state);
            (std::mem::take(&mut state.ids), std::mem::take(&mut state.groups))
        };
        if let Ok(device) = self.device(graph.context.device) {
            ids.into_iter().for_each(|id| device.give_stream_id(id));
        }
        for group in groups {
            self.objects().remove::<TaskGroup>(group);
        }
    }

    /// Queues the tasks of a graph.
    pub(crate) fn execute_graph(&self, call: &str, graph: &Graph, stream: &Arc<Stream>) -> Result<(), Refusal> {
        if stream.captured_by().is_some() {
            return Err(refuse(aclError::RT_STREAM_CAPTURED, format_args!("{call}: the stream is in capture")));
        }
        if graph.is_capturing() {
            return Err(refuse(aclError::RT_MODEL_CAPTURED, format_args!("{call}: the capture has not ended")));
        }
        let nodes = lock(&graph.state).nodes.clone();
        for node in nodes {
            let (function, detail) = (node.function, node.detail.clone());
            let host = matches!(&*lock(&node.action), Action::Host(_));
            let work = if host {
                let Action::Host(call) = lock(&node.action).clone() else { continue };
                Work::Host(call)
            } else {
                Work::Run(Arc::new(move |sim: &Instance| {
                    // What the task is now: an update may have come first.
                    let action = lock(&node.action).clone();
                    match action {
                        Action::Run(run) => run(sim),
                        Action::Host(_) => Ok(()),
                    }
                }))
            };
            stream.enqueue(self, Task { function, detail, work })?;
        }
        Ok(())
    }

    /// Records an event on a stream in capture. `false` where neither is captured.
    pub(crate) fn capture_record(&self, call: &str, event: &Event, stream: &Stream) -> Result<bool, Refusal> {
        let Some(graph) = stream.captured_by() else {
            if event.captured().is_some() {
                let text = format_args!("{call}: the event belongs to a capture, the stream does not");
                return Err(refuse(aclError::RT_EVENT_CAPTURED, text));
            }
            return Ok(false);
        };
        if !event.ex {
            let text = format!("{call}: in capture an event that aclrtCreateEventExWithFlag did not make");
            return Err(Refusal::unsupported(text));
        }
        let number = graph.with_branch(stream, |state, branch| {
            let number = state.records.len();
            state.records.push(Recorded { stream: stream.handle, waited: false, by_origin: false });
            state.branches[branch].last = Some(number);
            number
        })?;
        event.capture(CapturedRecord { graph, number });
        Ok(true)
    }

    /// Makes a stream wait within a capture. `false` where neither is captured.
    pub(crate) fn capture_wait(&self, call: &str, event: &Event, stream: &Arc<Stream>) -> Result<bool, Refusal> {
        let (record, graph) = (event.captured(), stream.captured_by());
        let record = match (record, graph) {
            (None, None) => return Ok(false),
            (None, Some(graph)) => {
                let text = format_args!("{call}: the stream is in capture, and the event was recorded outside it");
                return Err(graph.terminate(refuse(aclError::RT_CAPTURE_DEPENDENCY, text)));
            }
            (Some(record), Some(graph)) if !Arc::ptr_eq(&record.graph, &graph) => {
                let text = format_args!("{call}: event and stream belong to two captures");
                let refusal = refuse(aclError::STREAM_CAPTURE_CONFLICT, text);
                return Err(graph.terminate(record.graph.terminate(refusal)));
            }
            (Some(record), _) => record,
        };
        if stream.is_default() {
            let text = format_args!("{call}: the default stream cannot be captured");
            return Err(record.graph.terminate(refuse(aclError::RT_STREAM_CAPTURE_IMPLICIT, text)));
        }
        if !record.graph.is(stream) {
            self.join_capture(&record.graph, stream)?;
        }
        record.graph.with_branch(stream, |state, branch| {
            state.branches[branch].last = None;
            if let Some(recorded) = state.records.get_mut(record.number) {
                recorded.waited = true;
                recorded.by_origin |= branch == 0;
            }
        })?;
        Ok(true)
    }

    /// Refuses what waits for a stream in capture, or asks how far it is.
    pub(crate) fn not_captured(&self, call: &str, stream: &Stream) -> Result<(), Refusal> {
        match stream.captured_by() {
            Some(_) => Err(refuse(aclError::RT_STREAM_CAPTURED, format_args!("{call}: the stream is in capture"))),
            None => Ok(()),
        }
    }

    /// Refuses a copy that is done in the call where a capture forbids it to this thread.
    pub(crate) fn may_copy(&self, call: &str, context: &Context, code: aclError) -> Result<(), Refusal> {
        use aclmdlRICaptureMode as Mode;
        let captures = lock(&context.captures);
        if captures.is_empty() {
            return Ok(());
        }
        let strictest = |own: bool| {
            let thread = std::thread::current().id();
            captures.iter().filter(|graph| !own || graph.thread == thread).map(|graph| graph.mode).min_by_key(|m| m.0)
        };
        let (all, own) = (strictest(false), strictest(true));
        let forbidden = match self.thread(|state| state.capture_mode) {
            Mode::GLOBAL => all == Some(Mode::GLOBAL) || own == Some(Mode::THREAD_LOCAL),
            Mode::THREAD_LOCAL => matches!(own, Some(Mode::GLOBAL | Mode::THREAD_LOCAL)),
            _ => false,
        };
        if !forbidden {
            return Ok(());
        }
        Err(refuse(code, format_args!("{call}: not allowed while a stream is captured in a mode that is not relaxed")))
    }

    /// `aclmdlRICaptureTaskGrpBegin`.
    pub(crate) fn begin_group(&self, stream: &Stream) -> Result<(), Refusal> {
        captured(stream)?.with_branch(stream, |state, branch| match &mut state.branches[branch].group {
            Some(_) => Err(refuse(aclError::STREAM_TASK_GROUP_STATUS, "a task group is open already")),
            none => {
                *none = Some(Vec::new());
                Ok(())
            }
        })?
    }

    /// `aclmdlRICaptureTaskGrpEnd`: the handle of the group, which lives as long as the graph.
    pub(crate) fn end_group(&self, stream: &Stream) -> Result<usize, Refusal> {
        captured(stream)?.with_branch(stream, |state, branch| {
            let nodes = state.branches[branch].group.take();
            let nodes = nodes.ok_or_else(|| refuse(aclError::STREAM_TASK_GROUP_STATUS, "no task group is open"))?;
            let group = Arc::new(TaskGroup { nodes, updating: Mutex::new(false) });
            let handle = self.objects().insert("aclrtTaskGrp", group);
            state.groups.push(handle);
            Ok(handle)
        })?
    }

    /// `aclmdlRICaptureTaskUpdateBegin`.
    pub(crate) fn begin_update(&self, stream: &Stream, group: Arc<TaskGroup>) -> Result<(), Refusal> {
        self.not_captured("aclmdlRICaptureTaskUpdateBegin", stream)?;
        if stream.is_updating() || std::mem::replace(&mut *lock(&group.updating), true) {
            let text = "the stream updates a group already, or another stream updates this one";
            return Err(refuse(aclError::STREAM_TASK_GROUP_STATUS, text));
        }
        stream.set_route(Route::Update(group, 0));
        Ok(())
    }

    /// `aclmdlRICaptureTaskUpdateEnd`.
    pub(crate) fn end_update(&self, stream: &Stream) -> Result<(), Refusal> {
        let Some((group, updated)) = stream.end_update() else {
            return Err(refuse(aclError::STREAM_TASK_GROUP_STATUS, "the stream updates no task group"));
        };
        *lock(&group.updating) = false;
        if updated < group.nodes.len() {
            let text = format_args!("{updated} of the {} tasks of the group were updated", group.nodes.len());
            return Err(refuse(aclError::STREAM_TASK_GROUP_STATUS, text));
        }
        Ok(())
    }
}

impl TaskGroup {
    /// The task that puts `task` in the place of one of the group, when its turn in the updating stream comes.
    pub(crate) fn replace(&self, index: usize, task: Task) -> Result<Task, Refusal> {
        let Task { function, detail, work } = task;
        let node = self.nodes.get(index).filter(|node| node.function == function);
        let (Some(node), Some(Action::Run(run))) = (node.map(Arc::clone), Action::of(work)) else {
            let text = format_args!("{function}: the task group has no such task at position {index}");
            return Err(refuse(aclError::RT_FEATURE_NOT_SUPPORT_UPDATE_OP, text));
        };
        let update = move |_: &Instance| {
            *lock(&node.action) = Action::Run(Arc::clone(&run));
            Ok(())
        };
        Ok(Task { function: "aclmdlRICaptureTaskUpdate", detail, work: Work::Run(Arc::new(update)) })
    }
}

fn captured(stream: &Stream) -> Result<Arc<Graph>, Refusal> {
    stream.captured_by().ok_or_else(|| refuse(aclError::RT_STREAM_NOT_CAPTURED, "the stream is not in capture"))
}
