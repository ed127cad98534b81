//! Streams: queues of work, each with a thread of its own that does it in order.
//!
//! **Device faults.** A launch never tells of one: the task that failed leaves its code, and the next synchronisation of
//! its stream gives it. What follows depends on the failure mode, which spreads from a stream to its context.
//! `CONTINUE` (CANN's default): the tasks behind the failed one run, the code is given once and forgotten. `STOP`: the
//! tasks behind it are discarded, and from the synchronisation that told of it on, every synchronisation and launch of
//! the context gives the code until `aclrtResetDevice(Force)`. Source: runtime 9.1.0, `stream.cc` (`GetError`,
//! `GetSynchronizeError`) and `context.cc` (`CheckStatus`, `CheckTaskSend`).
//!
//! Two readings of ours. Strict mode keeps the code in `CONTINUE` mode too: what lies behind a failed task is not what
//! the program wanted, and a program that overlooks one return value must not get away with it. And under `STOP`, CANN
//! refuses launches as soon as its own thread has seen the failure, which is a race; here it is from the
//! synchronisation on, so that runs repeat.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use ascend_sys::aclError;

use crate::device::Context;
use crate::errmsg::Refusal;
use crate::graph::{Graph, Route, TaskGroup};
use crate::instance::Instance;
use crate::lock;
pub(crate) use crate::task::{DeviceFault, Task};
use crate::task::{Mark, Work};
use crate::trace::Traced;

/// Streams of one device on A2 and A3, default streams included.
pub(crate) const MAX_STREAMS: usize = 1984;

/// A stream.
pub(crate) struct Stream {
    pub(crate) handle: usize,
    /// Number on its device.
    pub(crate) id: i32,
    pub(crate) context: Arc<Context>,
    /// This stream asked for `STOP`.
    pub(crate) stop: AtomicBool,
    /// Where its tasks go.
    route: Mutex<Route>,
    queue: Mutex<Queue>,
    /// The worker waits here for work.
    work: Condvar,
    /// Synchronisers wait here for completion.
    progress: Condvar,
    /// Work waits no more: the stream is being taken down by force.
    cancelled: AtomicBool,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Queued>,
    submitted: u64,
    completed: u64,
    /// Threads that wait for progress.
    waiting: usize,
    has_worker: bool,
    worker_sleeps: bool,
    /// No more work is taken, and the worker ends when it has done what is there.
    closed: bool,
    /// Work that is there is discarded.
    discarding: bool,
    fault: Option<DeviceFault>,
    /// What the task at work waits for.
    waits_on: Option<Arc<Mark>>,
}

struct Queued {
    task: Task,
    number: u64,
    /// Thread that launched it.
    thread: u32,
    queued_ns: u64,
    /// Code of the fault script.
    scripted: Option<aclError>,
}

/// How a wait for a stream ended without success.
pub(crate) enum SyncError {
    TimedOut,
    Fault(DeviceFault),
}

impl Stream {
    pub(crate) fn new(handle: usize, id: i32, context: Arc<Context>) -> Self {
        Self {
            handle,
            id,
            context,
            stop: AtomicBool::new(false),
            route: Mutex::default(),
            queue: Mutex::default(),
            work: Condvar::new(),
            progress: Condvar::new(),
            cancelled: AtomicBool::new(false),
        }
    }

    /// Queues work. The error text is left for `aclGetRecentErrMsg`.
    ///
    /// # Errors
    /// The code of a fault the context is poisoned with; 107017 for a stream destroyed meanwhile; 207005 where the host
    /// has no thread for the stream.
    pub(crate) fn submit(self: &Arc<Self>, sim: &Instance, task: Task) -> Result<(), aclError> {
        self.enqueue(sim, task).map_err(|refusal| {
            sim.say(refusal.block);
            refusal.code
        })
    }

    pub(crate) fn enqueue(self: &Arc<Self>, sim: &Instance, task: Task) -> Result<(), Refusal> {
        if let Some(fault) = self.context.poison() {
            let text = format!("EE9999: {}: the context is lost to an earlier fault: {}", task.function, fault.message);
            return Err(Refusal::new(fault.code, text));
        }
        let Some(task) = self.redirect(task)? else { return Ok(()) };
        let scripted = sim.faults().on_launch(task.function);
        let queued_ns = if sim.trace().wants_detail() { sim.trace().now() } else { 0 };
        let thread = thread_id();
        let mut queue = lock(&self.queue);
        if queue.closed {
            let text = format!("EE1017: Invalid_Handle: {}: the stream has been destroyed", task.function);
            return Err(Refusal::new(aclError::RT_INVALID_HANDLE, text));
        }
        if !queue.has_worker {
            self.start_worker(sim)?;
            queue.has_worker = true;
        }
        let number = queue.submitted;
        queue.submitted += 1;
        queue.tasks.push_back(Queued { task, number, thread, queued_ns, scripted });
        let wake = queue.worker_sleeps;
        drop(queue);
        if wake {
            self.work.notify_one();
        }
        Ok(())
    }

    /// What of a task is to be queued: nothing in a capture, the change of another task in an update.
    fn redirect(&self, task: Task) -> Result<Option<Task>, Refusal> {
        let mut route = lock(&self.route);
        match &mut *route {
            Route::Queue => Ok(Some(task)),
            Route::Capture(graph) => {
                let graph = Arc::clone(graph);
                drop(route);
                graph.record(self, task).map(|()| None)
            }
            Route::Update(group, next) => {
                let task = group.replace(*next, task)?;
                *next += 1;
                Ok(Some(task))
            }
        }
    }

    pub(crate) fn set_route(&self, route: Route) {
        *lock(&self.route) = route;
    }

    /// The graph it is captured into.
    pub(crate) fn captured_by(&self) -> Option<Arc<Graph>> {
        match &*lock(&self.route) {
            Route::Capture(graph) => Some(Arc::clone(graph)),
            _ => None,
        }
    }

    pub(crate) fn is_updating(&self) -> bool {
        matches!(&*lock(&self.route), Route::Update(..))
    }

    /// The group that it updated, and how many tasks of it.
    pub(crate) fn end_update(&self) -> Option<(Arc<TaskGroup>, usize)> {
        let mut route = lock(&self.route);
        match std::mem::take(&mut *route) {
            Route::Update(group, updated) => Some((group, updated)),
            other => {
                *route = other;
                None
            }
        }
    }

    pub(crate) fn is_default(&self) -> bool {
        self.context.default_stream().is_some_and(|default| default.handle == self.handle)
    }

    fn start_worker(self: &Arc<Self>, sim: &Instance) -> Result<(), Refusal> {
        let (stream, sim) = (Arc::clone(self), sim.weak());
        let name = format!("sim-stream-{}", self.id);
        std::thread::Builder::new().name(name).spawn(move || stream.work_off(&sim)).map_err(|error| {
            let text = format!("EE1023: Resource_Exhausted: no host thread for stream {}: {error}", self.id);
            Refusal::new(aclError::RT_RESOURCE_ALLOC_FAIL, text)
        })?;
        Ok(())
    }

    /// The worker: does what is queued until the stream is closed or its simulator gone.
    fn work_off(self: &Arc<Self>, sim: &Weak<Instance>) {
        while let Some((queued, discard)) = self.next() {
            let Some(sim) = sim.upgrade() else { break };
            self.carry_out(&sim, queued, discard);
            drop(sim);
            let mut queue = lock(&self.queue);
            queue.completed += 1;
            if queue.waiting > 0 {
                self.progress.notify_all();
            }
        }
    }

    /// Waits for work; whether it is to be discarded. `None` ends the worker.
    fn next(&self) -> Option<(Queued, bool)> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(queued) = queue.tasks.pop_front() {
                return Some((queued, queue.discarding));
            }
            if queue.closed {
                return None;
            }
            queue.worker_sleeps = true;
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.worker_sleeps = false;
        }
    }

    fn carry_out(self: &Arc<Self>, sim: &Instance, queued: Queued, discard: bool) {
        let Queued { task: Task { function, detail, work }, number, thread, queued_ns, scripted } = queued;
        if discard {
            if let Work::Record(event, mark) = work {
                event.complete(&mark, None);
            }
            return;
        }
        if let Some(seed) = sim.config().seed {
            std::thread::sleep(delay(seed, self.id, number));
        }
        let trace = sim.trace();
        let started_ns = if trace.wants_detail() { trace.now() } else { 0 };
        let outcome = match scripted {
            Some(code) => Err(DeviceFault { code, message: format!("{function}: a failure of the fault script") }),
            None => self.execute(sim, function, work),
        };
        let fault = outcome.as_ref().err().map_or(0, |fault| fault.code.0);
        trace.add(Traced {
            function,
            detail,
            device: self.context.device,
            stream: Some(self.id),
            queued_ns,
            started_ns,
            fault,
        });
        if let Err(fault) = outcome {
            self.fail(sim, function, fault, number, thread);
        }
    }

    fn execute(&self, sim: &Instance, function: &'static str, work: Work) -> Result<(), DeviceFault> {
        match work {
            Work::Run(run) => catch_unwind(AssertUnwindSafe(|| sim.compute(|| run(sim)))).unwrap_or_else(|_| {
                let message = format!("{function}: the simulator panicked");
                Err(DeviceFault { code: aclError::RT_AICORE_EXCEPTION, message })
            }),
            Work::Host(call) => {
                call.run();
                Ok(())
            }
            Work::Record(event, mark) => {
                event.complete(&mark, Some(sim.trace().now()));
                Ok(())
            }
            Work::Wait(mark) => {
                self.wait_on(&mark);
                Ok(())
            }
            Work::Report(report) => {
                let mark = report.queue.push(self.handle, report.call);
                if report.blocks {
                    self.wait_on(&mark);
                }
                Ok(())
            }
        }
    }

    /// Holds the stream up until a mark is set or the stream is taken down.
    fn wait_on(&self, mark: &Arc<Mark>) {
        lock(&self.queue).waits_on = Some(Arc::clone(mark));
        mark.wait(None, || self.cancelled.load(Ordering::Acquire));
        lock(&self.queue).waits_on = None;
    }

    fn fail(&self, sim: &Instance, function: &'static str, fault: DeviceFault, number: u64, thread: u32) {
        tracing::warn!(
            function,
            device = self.context.device,
            stream = self.id,
            code = fault.code.0,
            "device fault: {}",
            fault.message
        );
        let stops = self.context.stops();
        {
            let mut queue = lock(&self.queue);
            queue.discarding |= stops;
            queue.fault.get_or_insert_with(|| fault.clone());
        }
        if stops || sim.strict() {
            self.context.fail(&fault);
        }
        sim.tell_exception(self.context.device, self.id, number, thread, fault.code);
    }

    /// Waits for everything queued before this call; work queued meanwhile is not waited for.
    pub(crate) fn synchronize(&self, deadline: Option<Instant>) -> Result<(), SyncError> {
        self.drain(deadline).map_err(|()| SyncError::TimedOut)?;
        self.surface().map_or(Ok(()), |fault| Err(SyncError::Fault(fault)))
    }

    /// Waits without looking at faults; an error is the deadline's.
    pub(crate) fn drain(&self, deadline: Option<Instant>) -> Result<(), ()> {
        let mut queue = lock(&self.queue);
        let target = queue.submitted;
        while queue.completed < target {
            queue.waiting += 1;
            let timed_out;
            (queue, timed_out) = match deadline {
                None => (self.progress.wait(queue).unwrap_or_else(PoisonError::into_inner), false),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let (queue, _) = self.progress.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner);
                    (queue, left.is_zero())
                }
            };
            queue.waiting -= 1;
            if timed_out && queue.completed < target {
                return Err(());
            }
        }
        Ok(())
    }

    /// Whether nothing is queued or at work.
    pub(crate) fn is_idle(&self) -> bool {
        let queue = lock(&self.queue);
        queue.completed == queue.submitted
    }

    /// The fault that a synchronisation has to tell of, if any (see the head of this file).
    pub(crate) fn surface(&self) -> Option<DeviceFault> {
        let own = lock(&self.queue).fault.take();
        let kept = if own.is_some() { self.context.poison_now() } else { self.context.surface() };
        own.or(kept)
    }

    /// Takes no more work; the worker ends when it has done what is there.
    pub(crate) fn close(&self) {
        lock(&self.queue).closed = true;
        self.work.notify_all();
    }

    /// Discards what is queued and lets go of what the task at work waits for.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        let waits_on = {
            let mut queue = lock(&self.queue);
            queue.discarding = true;
            queue.waits_on.clone()
        };
        if let Some(mark) = waits_on {
            mark.wake();
        }
    }
}

/// What `pthread_self` says, cut to the 32 bits that exception infos have for it.
fn thread_id() -> u32 {
    // SAFETY: no precondition.
    unsafe { libc::pthread_self() as u32 }
}

/// A pseudo-random fraction of a quarter of a millisecond (splitmix64).
fn delay(seed: u64, stream: i32, number: u64) -> Duration {
    let mut z = seed ^ (u64::from(stream.unsigned_abs()) << 32) ^ number;
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    Duration::from_nanos((z ^ (z >> 31)) >> 46)
}
