//! One simulator: its parts, and what calls ask of it.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use ascend_sys::{Release, aclError, aclrtEvent, aclrtExceptionInfoCallback, aclrtStream};

use crate::callback::Subscriptions;
use crate::config::{Config, Mode};
use crate::device::{Context, Device};
use crate::errmsg::Refusal;
use crate::event::Event;
use crate::fault::Faults;
use crate::lock;
use crate::memory::Memory;
use crate::object::Objects;
use crate::report::{Finding, FindingKind, Report};
use crate::slot::SimError;
use crate::soc::Soc;
use crate::stream::{DeviceFault, Stream, SyncError};
use crate::thread::{self, Binding, ThreadState};
use crate::trace::Trace;

/// What `aclInit` counts.
#[derive(Default)]
pub(crate) struct Initialisation {
    /// `aclInit` calls not yet undone.
    pub(crate) references: u64,
    /// `aclFinalize` ran since the last `aclInit`.
    pub(crate) finalized: bool,
    /// What the configuration file of the first `aclInit` held.
    pub(crate) first_config: Option<String>,
}

/// One simulator.
pub(crate) struct Instance {
    me: Weak<Instance>,
    slot: usize,
    generation: u64,
    config: Config,
    soc: &'static Soc,
    objects: Objects,
    memory: Memory,
    devices: Vec<Device>,
    report: Report,
    trace: Trace,
    faults: Faults,
    subscriptions: Subscriptions,
    exception_callback: Mutex<aclrtExceptionInfoCallback>,
    initialisation: Mutex<Initialisation>,
    aclnn_initialised: AtomicBool,
    pool: Option<rayon::ThreadPool>,
}

/// What an exception callback is told, behind the handle it gets.
pub(crate) struct ExceptionInfo {
    pub(crate) task: u32,
    pub(crate) stream: u32,
    pub(crate) thread: u32,
    pub(crate) device: u32,
    pub(crate) code: u32,
}

impl Instance {
    pub(crate) fn new(config: Config, slot: usize, generation: u64) -> Result<Arc<Self>, SimError> {
        let soc = config.check(|field| field)?;
        let bytes = config.usable_hbm();
        let memory = Memory::new(config.devices, bytes, config.mode == Mode::Strict)
            .map_err(|source| SimError::Memory { devices: config.devices, bytes, source })?;
        let trace = Trace::new(config.trace_capacity, config.trace_file.as_deref())
            .map_err(|source| SimError::Trace { path: config.trace_file.clone().unwrap_or_default(), source })?;
        let pool = (config.threads > 0)
            .then(|| rayon::ThreadPoolBuilder::new().num_threads(config.threads).build())
            .transpose()
            .map_err(|source| SimError::Threads { threads: config.threads, source })?;
        Ok(Arc::new_cyclic(|me| Self {
            me: me.clone(),
            slot,
            generation,
            soc,
            objects: Objects::default(),
            memory,
            devices: (0..config.devices).map(|_| Device::default()).collect(),
            report: Report::default(),
            trace,
            faults: Faults::new(&config.faults),
            subscriptions: Subscriptions::default(),
            exception_callback: Mutex::new(None),
            initialisation: Mutex::default(),
            aclnn_initialised: AtomicBool::new(false),
            pool,
            config,
        }))
    }

    pub(crate) fn weak(&self) -> Weak<Self> {
        self.me.clone()
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn release(&self) -> Release {
        self.config.release
    }

    pub(crate) fn soc(&self) -> &'static Soc {
        self.soc
    }

    /// Whether a finding is an error.
    pub(crate) fn strict(&self) -> bool {
        self.config.mode == Mode::Strict
    }

    pub(crate) fn objects(&self) -> &Objects {
        &self.objects
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(crate) fn trace(&self) -> &Trace {
        &self.trace
    }

    pub(crate) fn faults(&self) -> &Faults {
        &self.faults
    }

    pub(crate) fn subscriptions(&self) -> &Subscriptions {
        &self.subscriptions
    }

    pub(crate) fn initialisation(&self) -> &Mutex<Initialisation> {
        &self.initialisation
    }

    /// Whether `aclInit` or `aclnnInit` is in force.
    pub(crate) fn initialised(&self) -> bool {
        lock(&self.initialisation).references > 0 || self.aclnn_initialised.load(Ordering::Relaxed)
    }

    pub(crate) fn set_aclnn_initialised(&self, on: bool) {
        self.aclnn_initialised.store(on, Ordering::Relaxed);
    }

    /// Runs what the device does on the simulator's threads.
    pub(crate) fn compute<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    /// This thread's state.
    pub(crate) fn thread<R>(&self, f: impl FnOnce(&mut ThreadState) -> R) -> R {
        thread::with(self.slot, self.generation, f)
    }

    /// Leaves error text for `aclGetRecentErrMsg`. It starts with CANN's code for its kind, `EE1001: ...`.
    pub(crate) fn say(&self, block: impl AsRef<str>) {
        self.thread(|state| state.messages.push(block.as_ref()));
    }

    /// Leaves error text, and the code as this thread's last error where it is one of the runtime's.
    pub(crate) fn set_error(&self, code: aclError, block: impl AsRef<str>) {
        self.thread(|state| {
            state.messages.push(block.as_ref());
            if is_runtime_error(code) {
                state.last_error = code;
            }
        });
    }

    /// Answers a call: leaves code and text of a refusal.
    pub(crate) fn answer(&self, result: Result<(), Refusal>) -> aclError {
        match result {
            Ok(()) => aclError::SUCCESS,
            Err(refusal) => {
                self.set_error(refusal.code, refusal.block);
                refusal.code
            }
        }
    }

    /// Records a finding and leaves it as error text. In strict mode the caller also fails.
    pub(crate) fn report(&self, finding: Finding) {
        if self.strict() {
            tracing::debug!(kind = ?finding.kind, call = finding.call, "{}", finding.object);
        } else {
            tracing::warn!(kind = ?finding.kind, call = finding.call, "{}", finding.object);
        }
        self.say(format!("EE9999: {finding}"));
        self.report.add(finding);
    }

    pub(crate) fn findings(&self) -> &Report {
        &self.report
    }

    pub(crate) fn device(&self, id: u32) -> Result<&Device, Refusal> {
        self.devices.get(id as usize).ok_or_else(|| self.no_device(i64::from(id)))
    }

    /// A device id as C gives it.
    pub(crate) fn device_id(&self, id: i32) -> Result<u32, Refusal> {
        u32::try_from(id).ok().filter(|&id| id < self.config.devices).ok_or_else(|| self.no_device(i64::from(id)))
    }

    fn no_device(&self, id: i64) -> Refusal {
        let legal = format!("0 to {}", self.config.devices - 1);
        Refusal::runtime(aclError::RT_INVALID_DEVICEID, "deviceId", id, &legal)
    }

    /// The context this thread is bound to.
    ///
    /// # Errors
    /// 107002 where there is none.
    pub(crate) fn current_context(&self) -> Result<Arc<Context>, aclError> {
        let context = match self.thread(|state| state.binding.clone()) {
            Some(Binding::Device(id)) => self.devices.get(id as usize).and_then(Device::default_context),
            Some(Binding::Context(context)) => Some(context).filter(|context| context.is_alive()),
            None => None,
        };
        context.ok_or(aclError::RT_CONTEXT_NULL)
    }

    pub(crate) fn context(&self, call: &'static str) -> Result<Arc<Context>, Refusal> {
        self.current_context().map_err(|code| {
            let cure = "call aclrtSetDevice or aclrtSetCurrentContext on this thread first";
            Refusal::new(code, format!("EE1001: {call}: context pointer null; {cure}"))
        })
    }

    /// The stream behind a handle, null standing for the default stream of the current context; it must belong to that
    /// context. The error text is left for `aclGetRecentErrMsg`.
    ///
    /// # Errors
    /// 107002 without a context, 107017 for a handle that is none, 107003 for a stream of another context.
    pub(crate) fn stream(&self, stream: aclrtStream) -> Result<Arc<Stream>, aclError> {
        self.own_stream("launch", stream).map_err(|refusal| {
            self.say(refusal.block);
            refusal.code
        })
    }

    pub(crate) fn own_stream(&self, call: &'static str, stream: aclrtStream) -> Result<Arc<Stream>, Refusal> {
        let context = self.context(call)?;
        let stream = self.any_stream(call, stream)?;
        if !Arc::ptr_eq(&stream.context, &context) {
            let what = format!("stream {:#x} belongs to another context than the current one", stream.handle);
            let text = format!("EE1010: {call}: {what}");
            self.report(Finding::new(FindingKind::ForeignContext, call, what));
            return Err(Refusal::new(aclError::RT_STREAM_CONTEXT, text));
        }
        Ok(stream)
    }

    /// The stream behind a handle, of whichever context.
    pub(crate) fn any_stream(&self, call: &'static str, stream: aclrtStream) -> Result<Arc<Stream>, Refusal> {
        if stream.is_null() {
            let default = self.context(call)?.default_stream();
            return default
                .ok_or_else(|| Refusal::new(aclError::RT_CONTEXT_NULL, format!("EE1001: {call}: no context")));
        }
        self.object(call, stream.0)
    }

    /// The event behind a handle.
    pub(crate) fn event(&self, call: &'static str, event: aclrtEvent) -> Result<Arc<Event>, Refusal> {
        if event.is_null() {
            return Err(Refusal::null("event"));
        }
        self.object(call, event.0)
    }

    /// The object behind a handle; 107017 where there is none of that kind (runtime master; older releases follow the
    /// dangling pointer).
    pub(crate) fn object<T: Send + Sync + 'static>(
        &self,
        call: &'static str,
        handle: *mut c_void,
    ) -> Result<Arc<T>, Refusal> {
        self.objects.get(handle as usize).ok_or_else(|| {
            let what = self.objects.describe(handle as usize);
            let text = format!("EE1017: {call}: {what}");
            self.report(Finding::new(FindingKind::UnknownHandle, call, what));
            Refusal::new(aclError::RT_INVALID_HANDLE, text)
        })
    }

    /// Refuses a call that waits, when a callback makes it: the stream that runs the callback would wait for itself.
    pub(crate) fn may_wait(&self, call: &'static str) -> Result<(), Refusal> {
        if !thread::in_callback() {
            return Ok(());
        }
        let what = "a host callback must not wait for streams".to_owned();
        let text = format!("EE1006: {call}: {what}");
        self.report(Finding::new(FindingKind::Callback, call, what));
        Err(Refusal::new(aclError::INTERNAL_ERROR, text))
    }

    /// Turns the end of a wait into the answer of a call.
    pub(crate) fn synced(
        &self,
        call: &'static str,
        timeout: aclError,
        result: Result<(), SyncError>,
    ) -> Result<(), Refusal> {
        result.map_err(|error| match error {
            SyncError::TimedOut => Refusal::new(timeout, format!("EE1002: {call}: the time is up, the work goes on")),
            SyncError::Fault(fault) => self.fault_told(call, &fault),
        })
    }

    pub(crate) fn fault_told(&self, call: &'static str, fault: &DeviceFault) -> Refusal {
        Refusal::new(fault.code, format!("EZ9999: {call}: the device reports {}: {}", fault.code.0, fault.message))
    }

    pub(crate) fn set_exception_callback(&self, callback: aclrtExceptionInfoCallback) {
        *lock(&self.exception_callback) = callback;
    }

    /// Tells the program's exception callback of a task that failed.
    pub(crate) fn tell_exception(&self, device: u32, stream: i32, task: u64, thread: u32, code: aclError) {
        let Some(callback) = *lock(&self.exception_callback) else { return };
        let info = ExceptionInfo {
            task: task as u32,
            stream: stream.unsigned_abs(),
            thread,
            device,
            code: code.0.unsigned_abs(),
        };
        let handle = self.objects.insert("aclrtExceptionInfo", Arc::new(info));
        // SAFETY: the program set the callback to be called so; the handle stays valid while it runs.
        thread::callback(|| unsafe { callback(handle as *mut ascend_sys::aclrtExceptionInfo) });
        self.objects.remove::<ExceptionInfo>(handle);
    }
}

/// Codes of the runtime, which the thread's last error keeps; those of the acl layer it does not.
fn is_runtime_error(code: aclError) -> bool {
    matches!(code.0 / 1000, 107 | 207 | 507)
}
