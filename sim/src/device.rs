//! Devices and contexts: what `aclrtSetDevice` counts, what a context owns, and what is left over when it ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use ascend_sys::aclError;

use crate::errmsg::Refusal;
use crate::event::{Event, MAX_HARDWARE_EVENTS};
use crate::graph::Graph;
use crate::instance::Instance;
use crate::lock;
use crate::report::{Finding, FindingKind};
use crate::stream::{DeviceFault, MAX_STREAMS, Stream};

/// A context.
pub(crate) struct Context {
    pub(crate) handle: usize,
    pub(crate) device: u32,
    /// The default context of its device.
    pub(crate) is_default: bool,
    alive: AtomicBool,
    /// A stream asked for `STOP`, which holds for all of them.
    stop: AtomicBool,
    /// A fault has been told of, and every later call gives it again.
    poisoned: AtomicBool,
    failure: Mutex<Option<DeviceFault>>,
    /// Its streams, the default stream first; empty when it has ended.
    streams: Mutex<Vec<Arc<Stream>>>,
    /// Captures under way.
    pub(crate) captures: Mutex<Vec<Arc<Graph>>>,
}

impl Context {
    fn new(handle: usize, device: u32, is_default: bool) -> Self {
        Self {
            handle,
            device,
            is_default,
            alive: AtomicBool::new(true),
            stop: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
            failure: Mutex::default(),
            streams: Mutex::default(),
            captures: Mutex::default(),
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    pub(crate) fn default_stream(&self) -> Option<Arc<Stream>> {
        lock(&self.streams).first().map(Arc::clone)
    }

    /// Its streams, the default stream included.
    pub(crate) fn streams(&self) -> Vec<Arc<Stream>> {
        lock(&self.streams).clone()
    }

    /// Whether a failure stops the stream it happens on.
    pub(crate) fn stops(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(crate) fn set_stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// A fault that stays; the first one counts.
    pub(crate) fn fail(&self, fault: &DeviceFault) {
        lock(&self.failure).get_or_insert_with(|| fault.clone());
    }

    /// The fault that stays, if any; from now on every call gives it.
    pub(crate) fn poison_now(&self) -> Option<DeviceFault> {
        let failure = lock(&self.failure).clone();
        if failure.is_some() {
            self.poisoned.store(true, Ordering::Release);
        }
        failure
    }

    /// What a synchronisation has to tell of a fault on another stream: under `STOP` at once, otherwise once a
    /// synchronisation of that stream has told of it.
    pub(crate) fn surface(&self) -> Option<DeviceFault> {
        if self.stops() { self.poison_now() } else { self.poison() }
    }

    /// The fault that every call gives, once a synchronisation has told of it.
    pub(crate) fn poison(&self) -> Option<DeviceFault> {
        if self.poisoned.load(Ordering::Acquire) { lock(&self.failure).clone() } else { None }
    }
}

#[derive(Default)]
struct Contexts {
    /// `aclrtSetDevice` calls not yet undone.
    references: u64,
    default: Option<Arc<Context>>,
    /// Contexts of `aclrtCreateContext` that live.
    explicit: u32,
}

/// A device.
#[derive(Default)]
pub(crate) struct Device {
    contexts: Mutex<Contexts>,
    /// Which stream numbers are taken.
    stream_ids: Mutex<Vec<bool>>,
    hardware_events: Mutex<u32>,
}

impl Device {
    /// Streams that are taken, by streams and by captured graphs.
    pub(crate) fn streams_taken(&self) -> usize {
        lock(&self.stream_ids).iter().filter(|&&taken| taken).count()
    }

    pub(crate) fn take_stream_id(&self) -> Option<i32> {
        let mut ids = lock(&self.stream_ids);
        let id = ids.iter().position(|&taken| !taken).unwrap_or(ids.len());
        if id >= MAX_STREAMS {
            return None;
        }
        if id == ids.len() {
            ids.push(false);
        }
        ids[id] = true;
        i32::try_from(id).ok()
    }

    pub(crate) fn give_stream_id(&self, id: i32) {
        if let Some(taken) = lock(&self.stream_ids).get_mut(id as usize) {
            *taken = false;
        }
    }

    /// Takes one of the device's hardware events.
    pub(crate) fn take_hardware_event(&self) -> bool {
        let mut taken = lock(&self.hardware_events);
        let free = *taken < MAX_HARDWARE_EVENTS;
        *taken += u32::from(free);
        free
    }

    pub(crate) fn give_hardware_event(&self) {
        let mut taken = lock(&self.hardware_events);
        *taken = taken.saturating_sub(1);
    }

    /// The default context, while the device is set by anybody.
    pub(crate) fn default_context(&self) -> Option<Arc<Context>> {
        lock(&self.contexts).default.clone()
    }
}

/// How a context is taken down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum TearDown {
    /// What is queued is done first.
    Drain,
    /// What is queued is discarded.
    Force,
}

impl Instance {
    /// Counts a use of a device and makes its default context where it has none.
    pub(crate) fn retain_device(&self, id: u32) -> Result<(), Refusal> {
        let device = self.device(id)?;
        let mut contexts = lock(&device.contexts);
        if contexts.references == 0 {
            contexts.default = Some(self.open_context(id, true)?);
        }
        contexts.references += 1;
        Ok(())
    }

    /// Undoes one use of a device, or all of them; the last one takes the default context down. What was left over is a
    /// finding, and in strict mode an error.
    pub(crate) fn release_device(&self, call: &'static str, id: u32, how: TearDown) -> Result<(), Refusal> {
        let device = self.device(id)?;
        let ended = {
            let mut contexts = lock(&device.contexts);
            if contexts.references == 0 {
                let text = format!("EE1001: {call}: device {id} is not set, or was reset as often as it was set");
                return Err(Refusal::new(aclError::RT_CONTEXT_RELEASE_ERROR, text));
            }
            contexts.references = if how == TearDown::Force { 0 } else { contexts.references - 1 };
            if contexts.references > 0 {
                return Ok(());
            }
            contexts.default.take()
        };
        let leaks = ended.map(|context| self.close_context(call, &context, how)).unwrap_or_default();
        self.close_device(call, id, leaks)
    }

    /// Makes a context of its own on a device.
    pub(crate) fn create_context(&self, id: u32) -> Result<Arc<Context>, Refusal> {
        let device = self.device(id)?;
        let context = self.open_context(id, false)?;
        lock(&device.contexts).explicit += 1;
        Ok(context)
    }

    /// Takes a context of `aclrtCreateContext` down.
    pub(crate) fn destroy_context(&self, call: &'static str, context: &Arc<Context>) -> Result<(), Refusal> {
        let leaks = self.close_context(call, context, TearDown::Drain);
        let device = self.device(context.device)?;
        lock(&device.contexts).explicit -= 1;
        self.close_device(call, context.device, leaks)
    }

    fn open_context(&self, device: u32, is_default: bool) -> Result<Arc<Context>, Refusal> {
        let make = |handle| Arc::new(Context::new(handle, device, is_default));
        let context = self.objects().insert_with("aclrtContext", make);
        self.create_stream(&context).inspect_err(|_| {
            self.objects().remove::<Context>(context.handle);
        })?;
        Ok(context)
    }

    /// Makes a stream in a context.
    pub(crate) fn create_stream(&self, context: &Arc<Context>) -> Result<Arc<Stream>, Refusal> {
        let device = self.device(context.device)?;
        let id = device.take_stream_id().ok_or_else(|| {
            let text = format!("EL0009: Resource_Exhausted: device {} has {MAX_STREAMS} streams", context.device);
            Refusal::new(aclError::RT_NO_STREAM_RESOURCE, text)
        })?;
        let make = |handle| Arc::new(Stream::new(handle, id, Arc::clone(context)));
        let stream = self.objects().insert_with("aclrtStream", make);
        lock(&context.streams).push(Arc::clone(&stream));
        Ok(stream)
    }

    /// Takes a stream down that has nothing to do any more.
    pub(crate) fn close_stream(&self, stream: &Arc<Stream>) {
        stream.close();
        self.objects().remove::<Stream>(stream.handle);
        self.subscriptions().remove(stream.handle);
        lock(&stream.context.streams).retain(|other| !Arc::ptr_eq(other, stream));
        if let Ok(device) = self.device(stream.context.device) {
            device.give_stream_id(stream.id);
        }
    }

    /// Takes a context down with all its streams and events; those that nobody had destroyed.
    fn close_context(&self, call: &'static str, context: &Arc<Context>, how: TearDown) -> Vec<Finding> {
        let streams = context.streams();
        if how == TearDown::Force {
            streams.iter().for_each(|stream| stream.cancel());
        }
        for stream in &streams {
            // Without a deadline there is nothing to run out.
            let _ = stream.drain(None);
        }
        context.alive.store(false, Ordering::Release);
        let events = self.objects().select::<Event>(|event| Arc::ptr_eq(&event.context, context));
        let left = streams.iter().skip(1).map(|stream| format!("aclrtStream {:#x} (id {})", stream.handle, stream.id));
        let left = left.chain(events.iter().map(|(handle, _)| format!("aclrtEvent {handle:#x}")));
        let graphs = self.objects().select::<Graph>(|graph| Arc::ptr_eq(&graph.context, context));
        let left = left.chain(graphs.iter().map(|(handle, _)| format!("aclmdlRI {handle:#x}")));
        let leaks =
            left.map(|what| Finding::new(FindingKind::Leak, call, format!("{what} on device {}", context.device)));
        let leaks = leaks.collect();
        for (_, graph) in &graphs {
            self.destroy_graph(graph);
        }
        for stream in &streams {
            self.close_stream(stream);
        }
        for (handle, event) in events {
            self.objects().remove::<Event>(handle);
            self.forget_event(&event);
        }
        self.objects().remove::<Context>(context.handle);
        leaks
    }

    /// Gives the hardware event back.
    pub(crate) fn forget_event(&self, event: &Event) {
        if event.is_hardware()
            && let Ok(device) = self.device(event.context.device)
        {
            device.give_hardware_event();
        }
    }

    /// Frees the memory of a device that has no context any more, and tells of what was left over.
    fn close_device(&self, call: &'static str, id: u32, mut leaks: Vec<Finding>) -> Result<(), Refusal> {
        let idle = {
            let contexts = lock(&self.device(id)?.contexts);
            contexts.default.is_none() && contexts.explicit == 0
        };
        if idle {
            let blocks = self.memory().free_device(id);
            leaks.extend(blocks.iter().map(|(address, len)| {
                let what = format!("{len} bytes of device memory at {address:#x} on device {id}");
                Finding::new(FindingKind::Leak, call, what)
            }));
        }
        let Some(first) = leaks.first().map(Finding::to_string) else { return Ok(()) };
        let count = leaks.len();
        leaks.into_iter().for_each(|leak| self.report(leak));
        if self.strict() {
            let text = format!("EE9999: {call}: {count} objects were left over, the first: {first}");
            return Err(Refusal::new(aclError::RT_CONTEXT_RELEASE_ERROR, text));
        }
        Ok(())
    }

    /// Lets every worker end: the simulator is gone.
    pub(crate) fn shut_down(&self) {
        for (_, stream) in self.objects().select::<Stream>(|_| true) {
            stream.cancel();
            self.close_stream(&stream);
        }
    }
}
