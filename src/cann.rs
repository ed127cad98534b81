//! An opened CANN, or the simulator in its place: the call table, why it is this one, and the devices behind it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use ascend_sys::load::LoadReport;
use ascend_sys::probe::{Probe, probe, recent_error};
use ascend_sys::{
    FunctionId, Implementation, LoadedLibrary, MissingFunction, Release, Table, aclError, aclnnStatus,
    aclrtLastErrLevel,
};

use crate::backend::{self, Choice, Environment, Opened};
use crate::device::{Device, DeviceInner};
use crate::error::{Error, Family, Result, VendorError, name_of};
use crate::sync::{Kept, lock};

/// CANN as opened by this process. Cloning gives another handle on the same thing.
///
/// Opening initialises ACL; nothing finalises it but [`shutdown`](Self::shutdown), since `aclFinalize` would end it for
/// every user in the process. Bound to the process that opened it: in a fork every call says so.
#[derive(Clone)]
pub struct Cann(pub(crate) Arc<CannInner>);

pub(crate) struct CannInner {
    pub(crate) table: Arc<Table>,
    probe: Probe,
    reason: String,
    search: Option<LoadReport>,
    pid: u32,
    /// Devices that are open, or were. Locked while one is opened or reset.
    pub(crate) devices: Mutex<HashMap<i32, Weak<DeviceInner>>>,
    /// Failures of devices closed by their last handle.
    pub(crate) kept: Kept,
}

impl Cann {
    /// Opens the backend that `choice` names, or else `ASCEND_MOE_BACKEND`, or else [`Choice::Auto`].
    ///
    /// # Errors
    /// [`Error::CannUnusable`] where CANN is found and fails, or is asked for and absent; [`Error::DeviceWithoutCann`]
    /// where the host has an Ascend device and no CANN; [`Error::NoSimulator`] in a build without it;
    /// [`Error::UnknownBackend`] where the variable names none.
    pub fn open(choice: impl Into<Option<Choice>>) -> Result<Self> {
        Self::open_in(choice, &Environment::from_process())
    }

    /// The same, in an environment given as a value.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_in(choice: impl Into<Option<Choice>>, environment: &Environment) -> Result<Self> {
        backend::open(choice.into(), environment).map(Self::new)
    }

    /// Uses a table that was filled elsewhere, for example by a simulator with a configuration of its own.
    ///
    /// # Errors
    /// [`Error::CannUnusable`] where what fills the table does not work.
    pub fn from_table(table: Arc<Table>) -> Result<Self> {
        let asked = "a table given by the caller";
        let probe = probe(&table).map_err(|source| Error::CannUnusable { asked, source })?;
        Ok(Self::new(Opened { table, probe, reason: asked.to_owned(), search: None }))
    }

    fn new(opened: Opened) -> Self {
        let Opened { table, probe, reason, search } = opened;
        tracing::debug!(soc = probe.soc, devices = probe.device_count, simulated = table.origin().implementation.is_simulated(), %reason, "CANN opened");
        Self(Arc::new(CannInner {
            table,
            probe,
            reason,
            search,
            pid: std::process::id(),
            devices: Mutex::new(HashMap::new()),
            kept: Kept::default(),
        }))
    }

    /// The call table.
    pub fn table(&self) -> &Arc<Table> {
        &self.0.table
    }

    /// Who implements the calls.
    pub fn implementation(&self) -> Implementation {
        self.0.table.origin().implementation
    }

    /// Whether nothing here runs on a device.
    pub fn is_simulated(&self) -> bool {
        self.implementation().is_simulated()
    }

    /// Why this backend was chosen, for people.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// What the search for CANN looked at; `None` where there was none.
    pub fn search(&self) -> Option<&LoadReport> {
        self.0.search.as_ref()
    }

    /// Libraries in the order in which they were opened; none for the simulator in process.
    pub fn libraries(&self) -> &[LoadedLibrary] {
        &self.0.table.origin().libraries
    }

    /// What the backend says of itself.
    pub fn probe(&self) -> &Probe {
        &self.0.probe
    }

    /// Name of the chip, for example `Ascend910_9391`.
    pub fn soc(&self) -> &str {
        &self.0.probe.soc
    }

    /// CANN release; operators are held against its rules. The oldest supported one where none is told.
    pub fn release(&self) -> Release {
        self.0.probe.release.unwrap_or(Release::MINIMUM)
    }

    /// Devices that this process sees.
    ///
    /// # Errors
    /// [`Error::Vendor`], [`Error::Forked`].
    pub fn device_count(&self) -> Result<u32> {
        self.check_process()?;
        let mut count = 0;
        // SAFETY: the count is writable.
        let result = unsafe { self.0.table.aclrtGetDeviceCount(&mut count) };
        self.check(FunctionId::aclrtGetDeviceCount, result)?;
        Ok(count)
    }

    /// Opens a device, or gives another handle on it where it is open already. The first opening in a process can take
    /// seconds.
    ///
    /// # Errors
    /// [`Error::Vendor`] (107001 for an id that is not there), [`Error::Forked`], and what closing the device before
    /// this left behind.
    pub fn device(&self, id: i32) -> Result<Device> {
        self.check_process()?;
        self.0.kept.take()?;
        let mut devices = lock(&self.0.devices);
        if let Some(device) = devices.get(&id).and_then(Weak::upgrade).filter(|device| !device.is_reset()) {
            return Ok(Device(device));
        }
        let device = Arc::new(DeviceInner::open(self.clone(), id)?);
        devices.insert(id, Arc::downgrade(&device));
        Ok(Device(device))
    }

    /// Gives this process' hold on ACL back: the counted `aclFinalizeReference` where CANN has it; else `aclFinalize`,
    /// and only where it was this opening that initialised ACL. Never needed: the process' end does the same.
    ///
    /// # Errors
    /// [`Error::InUse`] while other handles or devices are alive, [`Error::Vendor`], [`Error::Forked`].
    pub fn shutdown(self) -> Result<()> {
        self.check_process()?;
        let inner =
            Arc::try_unwrap(self.0).map_err(|shared| Error::InUse { handles: Arc::strong_count(&shared) - 1 })?;
        let table = &inner.table;
        // SAFETY: a null count is allowed, and nothing of this opening is in use.
        let (call, result) = match unsafe { table.aclFinalizeReference(core::ptr::null_mut()) } {
            Err(_) if inner.probe.initialised_first => {
                // SAFETY: this opening was the one that initialised ACL, and nothing of it is in use.
                (FunctionId::aclFinalize, unsafe { table.aclFinalize() })
            }
            Err(_) => return Ok(()),
            counted => (FunctionId::aclFinalizeReference, counted),
        };
        check(table, call, result)
    }

    /// An error in any process but the one that opened CANN.
    pub(crate) fn check_process(&self) -> Result<()> {
        let pid = std::process::id();
        if pid == self.0.pid { Ok(()) } else { Err(Error::Forked { init_pid: self.0.pid, pid }) }
    }

    /// Turns the status of a runtime call into a result.
    pub(crate) fn check(&self, call: FunctionId, result: Result<aclError, MissingFunction>) -> Result<()> {
        check(&self.0.table, call, result)
    }
}

impl std::fmt::Debug for Cann {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cann").field("soc", &self.soc()).field("reason", &self.reason()).finish_non_exhaustive()
    }
}

fn check(table: &Table, call: FunctionId, result: Result<aclError, MissingFunction>) -> Result<()> {
    let code = result?;
    if code.is_ok() { Ok(()) } else { Err(vendor_error(table, call, code.0).into()) }
}

/// A failed vendor call with its message. Clears what the thread's runtime remembers of it, so that no later failure is
/// explained by this one.
pub(crate) fn vendor_error(table: &Table, call: FunctionId, code: i32) -> VendorError {
    let message = recent_error(table);
    // SAFETY: asks and clears this thread's last runtime error.
    let last = unsafe { table.aclrtGetLastError(aclrtLastErrLevel::THREAD) };
    let runtime = last.ok().filter(|last| code == aclnnStatus::ERR_RUNTIME_ERROR.0 && !last.is_ok());
    VendorError { call: call.name(), code, name: name_of(code), family: Family::of(code), runtime, message }
}
