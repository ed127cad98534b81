//! Where simulators live, and the boundary that every C call crosses.
//!
//! C functions carry no context argument, so each simulator occupies one of a fixed number of slots, and each slot has
//! C functions of its own.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError, RwLock, Weak};

use ascend_sys::{ALL_IDS, FunctionId, Implementation, Origin, Table, aclError, aclnnStatus};

use crate::config::{Config, ConfigError};
use crate::instance::Instance;
use crate::lock;
use crate::report::{Finding, FindingKind};
use crate::table;
use crate::trace::TraceRecord;

/// Simulators that can live at once in a process.
pub const MAX_INSTANCES: usize = 16;

/// Why a simulator does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimError {
    /// A setting is not legal.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Every slot is occupied.
    #[error("all {MAX_INSTANCES} simulators of this process are in use; drop a Sim and the tables made from it first")]
    NoSlot,
    /// The host refuses the address space.
    #[error("the host refuses address space for {devices} devices of {bytes} bytes: {source}; try a smaller hbm")]
    Memory {
        /// Devices.
        devices: u32,
        /// Bytes of each.
        bytes: u64,
        /// What the host says.
        source: io::Error,
    },
    /// The trace file cannot be made.
    #[error("trace file {}: {source}", path.display())]
    Trace {
        /// The file.
        path: PathBuf,
        /// What the host says.
        source: io::Error,
    },
    /// The thread pool cannot be made.
    #[error("{threads} threads: {source}")]
    Threads {
        /// Threads wanted.
        threads: usize,
        /// What the pool says.
        source: rayon::ThreadPoolBuildError,
    },
}

struct Slot {
    instance: RwLock<Option<Arc<Instance>>>,
    owners: Mutex<Owners>,
    /// Forks of the process at the time the simulator started.
    forks: AtomicU64,
}

#[derive(Default)]
struct Owners {
    sim: Weak<Handle>,
    tables: Vec<Weak<Table>>,
}

impl Owners {
    fn alive(&self) -> bool {
        self.sim.strong_count() > 0 || self.tables.iter().any(|table| table.strong_count() > 0)
    }
}

static SLOTS: [Slot; MAX_INSTANCES] = [const {
    Slot {
        instance: RwLock::new(None),
        owners: Mutex::new(Owners { sim: Weak::new(), tables: Vec::new() }),
        forks: AtomicU64::new(0),
    }
}; MAX_INSTANCES];

/// Forks this process descends from since the first simulator started: a simulator older than the last one lost its
/// threads to it.
static FORKS: AtomicU64 = AtomicU64::new(0);
static GENERATION: AtomicU64 = AtomicU64::new(1);
/// Held while a slot is taken or freed.
static STARTING: Mutex<()> = Mutex::new(());

extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

fn watch_forks() {
    static WATCH: Once = Once::new();
    // SAFETY: the handler does nothing but count in an atomic, which a child of fork may.
    WATCH.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(count_fork));
    });
}

/// A running simulator. Clones are handles of the same one; it ends when the last of them and the last table made from
/// it are gone (copies that [`Table::without`] makes do not count: keep the simulator or the first table for them).
#[derive(Clone)]
pub struct Sim(Arc<Handle>);

struct Handle {
    slot: usize,
    instance: Arc<Instance>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        free_slots();
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim").field("slot", &self.0.slot).field("config", self.config()).finish()
    }
}

/// Ends simulators that nobody holds any more.
fn free_slots() {
    let ended: Vec<Arc<Instance>> = {
        let _starting = lock(&STARTING);
        let unowned = SLOTS.iter().filter(|slot| !lock(&slot.owners).alive());
        unowned.filter_map(|slot| slot.instance.write().unwrap_or_else(PoisonError::into_inner).take()).collect()
    };
    // Outside of the lock: the last reference may run destructors of the program's objects.
    ended.iter().for_each(|instance| instance.shut_down());
}

impl Sim {
    /// Starts a simulator.
    ///
    /// # Errors
    /// A setting that is not legal, no free slot, or resources that the host refuses.
    pub fn start(config: Config) -> Result<Self, SimError> {
        watch_forks();
        free_slots();
        let _starting = lock(&STARTING);
        let free = |slot: &Slot| slot.instance.read().unwrap_or_else(PoisonError::into_inner).is_none();
        let index = SLOTS.iter().position(free).ok_or(SimError::NoSlot)?;
        Self::occupy(index, config)
    }

    fn occupy(index: usize, config: Config) -> Result<Self, SimError> {
        let slot = SLOTS.get(index).ok_or(SimError::NoSlot)?;
        let instance = Instance::new(config, index, GENERATION.fetch_add(1, Ordering::Relaxed))?;
        let handle = Arc::new(Handle { slot: index, instance: Arc::clone(&instance) });
        *lock(&slot.owners) = Owners { sim: Arc::downgrade(&handle), tables: Vec::new() };
        slot.forks.store(FORKS.load(Ordering::Relaxed), Ordering::Relaxed);
        *slot.instance.write().unwrap_or_else(PoisonError::into_inner) = Some(instance);
        Ok(Self(handle))
    }

    /// The call table of this simulator. Functions newer than its release, those of [`Config::absent`] and HCCL are not
    /// in it. The simulator lives at least as long as the table.
    pub fn table(&self) -> Arc<Table> {
        let config = self.config();
        let mut functions = table::functions(self.0.slot);
        let absent: HashSet<FunctionId> = config.absent.iter().copied().collect();
        for &id in ALL_IDS.iter().filter(|id| absent.contains(id) || id.info().since() > config.release) {
            functions.remove(id);
        }
        let origin = Origin {
            implementation: Implementation::SimulatorInProcess,
            identity: Some(self.identity()),
            release: Some(config.release),
            libraries: Vec::new(),
        };
        // SAFETY: the functions are those of this crate, with the signatures of the list, and always callable: a slot
        // without a simulator answers with an error.
        let table = Arc::new(unsafe { Table::new(functions, origin) });
        if let Some(slot) = SLOTS.get(self.0.slot) {
            let mut owners = lock(&slot.owners);
            owners.tables.retain(|table| table.strong_count() > 0);
            owners.tables.push(Arc::downgrade(&table));
        }
        table
    }

    /// What it calls itself: `cann-sim 0.1.0 playing CANN 9.1.0 on Ascend910_9391`.
    pub fn identity(&self) -> String {
        let config = self.config();
        format!("cann-sim {} playing CANN {} on {}", env!("CARGO_PKG_VERSION"), config.release, config.soc)
    }

    pub(crate) fn slot(&self) -> usize {
        self.0.slot
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        self.0.instance.config()
    }

    /// Whether `aclInit` or `aclnnInit` is in force.
    pub fn is_initialised(&self) -> bool {
        self.0.instance.initialised()
    }

    /// What was found so far, oldest first; the first 10,000.
    pub fn report(&self) -> Vec<Finding> {
        self.0.instance.findings().all()
    }

    /// What ran so far, oldest first; the newest [`Config::trace_capacity`].
    pub fn trace(&self) -> Vec<TraceRecord> {
        self.0.instance.trace().records()
    }
}

/// What a C function returns when the simulator answers for it.
pub(crate) trait Answer {
    /// The answer that says `code`.
    fn from_code(code: i32) -> Self;
    /// The answer of a fault of the simulator itself.
    fn internal() -> Self;
}

impl Answer for aclError {
    fn from_code(code: i32) -> Self {
        Self(code)
    }
    fn internal() -> Self {
        Self::INTERNAL_ERROR
    }
}

impl Answer for aclnnStatus {
    fn from_code(code: i32) -> Self {
        Self(code)
    }
    fn internal() -> Self {
        Self::ERR_INNER
    }
}

impl Answer for usize {
    fn from_code(_: i32) -> Self {
        0
    }
    fn internal() -> Self {
        0
    }
}

impl Answer for u32 {
    fn from_code(_: i32) -> Self {
        Self::MAX
    }
    fn internal() -> Self {
        Self::MAX
    }
}

impl<T> Answer for *const T {
    fn from_code(_: i32) -> Self {
        core::ptr::null()
    }
    fn internal() -> Self {
        core::ptr::null()
    }
}

impl<T> Answer for *mut T {
    fn from_code(_: i32) -> Self {
        core::ptr::null_mut()
    }
    fn internal() -> Self {
        core::ptr::null_mut()
    }
}

/// Crosses the boundary: finds the simulator of a slot, lets the fault script have its say, and keeps panics from
/// unwinding into C.
pub(crate) fn call<R: Answer>(slot: usize, id: FunctionId, f: impl FnOnce(&Arc<Instance>) -> R) -> R {
    let Some(slot) = SLOTS.get(slot) else { return R::internal() };
    if slot.forks.load(Ordering::Relaxed) != FORKS.load(Ordering::Relaxed) {
        // A lock may be held for ever by a thread the child does not have.
        if let Ok(Some(sim)) = slot.instance.try_read().as_deref() {
            let what = "the process was forked after the simulator had started; CANN does not support that";
            sim.findings().try_add(Finding::new(FindingKind::Fork, id.name(), what));
        }
        return R::internal();
    }
    let sim = slot.instance.read().unwrap_or_else(PoisonError::into_inner).clone();
    let Some(sim) = sim else { return R::internal() };
    if let Some(code) = sim.faults().on_call(id) {
        sim.set_error(aclError(code), format!("EE9999: {}: a failure of the fault script", id.name()));
        return R::from_code(code);
    }
    catch_unwind(AssertUnwindSafe(|| f(&sim))).unwrap_or_else(|_| {
        sim.report(Finding::new(FindingKind::Internal, id.name(), "the simulator panicked"));
        R::internal()
    })
}
