//! The three ways in which the call table is filled, and a device opened through each.

use std::env;
use std::ffi::{CStr, c_char};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ascend_moe::backend::Environment;
use ascend_moe::{Cann, Choice, Device, Error, Implementation, OperatorId, Release, Stream};
use ascend_sys::load::{LoadError, SearchEnv};
use cann_sim::tree::{self, Layout};
use cann_sim::{Config, Mode, Sim, SimError};
use libloading::os::unix::{Library, RTLD_LAZY};
use tempfile::TempDir;

/// The newest release that the simulator plays.
pub(crate) const RELEASE: Release = Release::new(9, 1, 0);

/// Variable of the environment that says which release the shared library plays, in place of the newest.
pub(crate) const LIBRARY_RELEASE: &str = "ASCEND_MOE_CONFORMANCE_LIBRARY_RELEASE";

/// The release that the shared library plays.
fn library_release() -> Release {
    env::var(LIBRARY_RELEASE).map_or(RELEASE, |release| Release::parse(&release).unwrap())
}

/// Device memory of a simulator in process.
const HBM: u64 = 1 << 30;

/// Who fills the call table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filling {
    /// The simulator, in process; strict, one for each case.
    InProcess,
    /// The simulator's shared library, laid out as CANN and opened by the loader; strict, one for all cases.
    Library,
    /// The real libraries.
    Cann,
}

impl Filling {
    pub(crate) const ALL: [Self; 3] = [Self::InProcess, Self::Library, Self::Cann];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::InProcess => "in_process",
            Self::Library => "library",
            Self::Cann => "cann",
        }
    }

    /// Why its cases cannot run on this host.
    pub(crate) fn absent(self) -> Option<&'static str> {
        static CANN: OnceLock<Option<String>> = OnceLock::new();
        if self == Self::Cann { CANN.get_or_init(why_no_cann).as_deref() } else { None }
    }

    pub(crate) fn open(self) -> Rig {
        match self {
            Self::InProcess => Rig::simulated(|_| {}),
            Self::Library => Rig::in_tree(&shared_tree()),
            Self::Cann => {
                let cann = Cann::open_in(Choice::Cann, &Environment::from_process()).unwrap();
                assert_eq!(cann.implementation(), Implementation::Cann);
                Rig::of(cann, None)
            }
        }
    }
}

/// A host that shows a device has no excuse: there the cases run and say what is wrong with its CANN.
fn why_no_cann() -> Option<String> {
    let environment = Environment::from_process();
    match Cann::open_in(Choice::Cann, &environment) {
        Ok(cann) if cann.is_simulated() => Some("what is found as CANN is the simulator's library".to_owned()),
        Ok(_) => None,
        Err(_) if environment.host.any() => None,
        Err(Error::CannUnusable { source: LoadError::NoLibrary { .. }, .. }) => {
            Some("no CANN and no device".to_owned())
        }
        Err(error) => Some(format!("no device; {error}")),
    }
}

/// Points the simulator's shared library at the settings of this suite, whatever the caller's environment says.
///
/// # Safety
/// No other thread exists yet.
pub(crate) unsafe fn configure_library() {
    for name in ["SOC", "DEVICES", "HBM", "RELEASE", "THREADS", "FAULTS", "TRACE", "SEED"] {
        // SAFETY: the caller's.
        unsafe { env::remove_var(format!("CANN_SIM_{name}")) };
    }
    // SAFETY: the caller's.
    unsafe {
        env::set_var("CANN_SIM_MODE", "strict");
        env::set_var("CANN_SIM_RELEASE", library_release().to_string());
    }
}

static SHARED_TREE: Mutex<Option<TempDir>> = Mutex::new(None);

/// Root of the tree that all cases of [`Filling::Library`] share; made by the first.
pub(crate) fn shared_tree() -> PathBuf {
    let mut shared = SHARED_TREE.lock().unwrap_or_else(PoisonError::into_inner);
    shared.get_or_insert_with(|| new_tree(Layout::Split)).path().to_owned()
}

/// Removes the shared tree at the end of the suite.
pub(crate) fn remove_shared_tree() {
    SHARED_TREE.lock().unwrap_or_else(PoisonError::into_inner).take();
}

/// A tree with a copy of the shared library of its own, and with it a simulator of its own once it is opened.
pub(crate) fn new_tree(layout: Layout) -> TempDir {
    let library = env::var_os("CANN_SIM_LIBRARY").map(PathBuf::from);
    let library = library.or_else(|| tree::library_beside(&env::current_exe().unwrap()));
    let library = library.expect("cargo builds the simulator's shared library; or name it in CANN_SIM_LIBRARY");
    let dir = tempfile::tempdir().unwrap();
    tree::make(dir.path(), &library, layout, library_release()).unwrap();
    dir
}

/// An environment in which CANN is installed at `root` and nowhere else.
pub(crate) fn installed_at(root: &Path) -> Environment {
    let search = SearchEnv { home_path: Some(root.to_owned()), ..SearchEnv::default() };
    Environment { search, ..Environment::default() }
}

/// A device opened through a table of its own, whose counts start at 0, with one stream.
///
/// Dropped in the order of the fields.
pub(crate) struct Rig {
    pub(crate) stream: Stream,
    pub(crate) device: Device,
    pub(crate) cann: Cann,
    sim: Option<Sim>,
}

impl Rig {
    /// A strict simulator in process.
    pub(crate) fn simulated(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { mode: Mode::Strict, hbm: Some(HBM), ..Config::default() };
        change(&mut config);
        let sim = start(&config);
        Self::of(Cann::from_table(sim.table()).unwrap(), Some(sim))
    }

    /// The shared library of a tree, found as CANN is found.
    pub(crate) fn in_tree(root: &Path) -> Self {
        let cann = Cann::open_in(Choice::Cann, &installed_at(root)).unwrap();
        assert_eq!(cann.implementation(), Implementation::SimulatorLibrary);
        Self::of(cann, None)
    }

    fn of(cann: Cann, sim: Option<Sim>) -> Self {
        let device = cann.device(0).unwrap();
        let stream = Stream::new(&device).unwrap();
        Self { stream, device, cann, sim }
    }

    /// The same without some operators, as if the libraries lacked them.
    pub(crate) fn without(&self, operators: &[OperatorId]) -> Self {
        let functions = operators.iter().flat_map(|id| [id.info().phase1, id.info().phase2]);
        let table = self.cann.table().without(&functions.collect::<Vec<_>>());
        Self::of(Cann::from_table(Arc::new(table)).unwrap(), self.sim.clone())
    }

    /// The operators that ran so far through this table, by name, with their counts.
    pub(crate) fn operator_calls(&self) -> Vec<(&'static str, u64)> {
        let mut calls: Vec<_> = self.cann.table().operator_calls().map(|(id, count)| (id.name(), count)).collect();
        calls.sort_unstable();
        calls
    }

    /// Closes the device. What the simulator found by then, memory left behind included, fails the case.
    pub(crate) fn close(self) {
        let Self { stream, device, cann, sim } = self;
        // Not the device: cases that run beside this one on the same simulator capture streams of theirs.
        stream.synchronize().unwrap();
        let library = cann.libraries().first().map(|library| library.path.clone());
        let simulated = cann.is_simulated();
        drop((stream, device, cann));
        match (sim, library) {
            (Some(sim), _) => assert_eq!(sim.report(), [], "findings of the simulator"),
            (None, Some(library)) if simulated => assert_eq!(findings(&library), "[]", "findings of the simulator"),
            _ => {}
        }
    }
}

/// Waits where other cases hold all simulators that a process may have.
fn start(config: &Config) -> Sim {
    loop {
        match Sim::start(config.clone()) {
            Err(SimError::NoSlot) => std::thread::sleep(Duration::from_millis(1)),
            started => return started.unwrap(),
        }
    }
}

/// What the simulator in a shared library found, as JSON; the library tells it by a function that CANN lacks.
pub(crate) fn findings(library: &Path) -> String {
    type Report = unsafe extern "C" fn(*mut c_char, usize) -> usize;
    // SAFETY: the library is open already, and the table's loader keeps it open; this is another handle on it.
    let library = unsafe { Library::open(Some(library), RTLD_LAZY) }.unwrap();
    // SAFETY: the signature is that of `cannSimReport`.
    let report = *unsafe { library.get::<Report>("cannSimReport") }.unwrap();
    // SAFETY: no buffer.
    let mut buffer: Vec<c_char> = vec![0; unsafe { report(std::ptr::null_mut(), 0) }];
    // SAFETY: the buffer has the size given.
    unsafe { report(buffer.as_mut_ptr(), buffer.len()) };
    // SAFETY: the function ends its text with a NUL, and the buffer was zeroed.
    unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_str().unwrap().to_owned()
}
