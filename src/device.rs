//! A device with its default context. Every vendor call about a device goes through [`Bound`], which is only there while
//! the process, the device and the context of the thread are right.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use ascend_sys::{FunctionId, MissingFunction, Table, aclError, aclnnStatus, aclrtContext, aclrtMemAttr};

use crate::cann::{Cann, vendor_error};
use crate::error::{Error, Result, VendorError};
use crate::holdings::{Freed, Holdings};
use crate::layer::PlanCache;
use crate::sync::{Kept, lock};

/// Checks a vendor call: `call!(bound.aclrtFree(address))`. The call itself is unsafe, so the macro stands in an
/// `unsafe` block.
macro_rules! call {
    ($bound:ident . $name:ident ( $($arg:expr),* $(,)? )) => {
        $bound.check(ascend_sys::FunctionId::$name, $bound.table().$name($($arg),*))
    };
}
pub(crate) use call;

/// A device, with the default context that this process shares. Cloning gives another handle on the same device.
///
/// Usable from any thread: contexts are bound to threads in CANN, so every call binds first. The last handle (streams,
/// buffers and events hold one) gives the device back with `aclrtResetDevice`.
///
/// A fault of the device (507xxx) ends the context: every later call says [`Error::Poisoned`] until
/// [`reset`](Self::reset).
#[derive(Clone)]
pub struct Device(pub(crate) Arc<DeviceInner>);

pub(crate) struct DeviceInner {
    pub(crate) cann: Cann,
    id: i32,
    context: aclrtContext,
    state: AtomicU8,
    /// Threads between entering and leaving; a reset waits for them.
    users: AtomicUsize,
    fault: OnceLock<(i32, &'static str)>,
    kept: Kept,
    pub(crate) holdings: Mutex<Holdings>,
    pub(crate) router_plans: Mutex<PlanCache>,
    pub(crate) in_use: AtomicU64,
    pub(crate) peak: AtomicU64,
    check_group_lists: AtomicBool,
}

const ALIVE: u8 = 0;
const POISONED: u8 = 1;
const RESET: u8 = 2;

/// Device memory as the runtime tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Bytes free.
    pub free: u64,
    /// Bytes that processes can have, without what the system reserves.
    pub total: u64,
}

impl Device {
    /// Its number, counted from 0 among the devices that this process sees.
    pub fn id(&self) -> i32 {
        self.0.id
    }

    /// The CANN it belongs to.
    pub fn cann(&self) -> &Cann {
        &self.0.cann
    }

    /// Free and total device memory (`aclrtGetMemInfo`, HBM).
    ///
    /// # Errors
    /// [`Error::Vendor`] and the states of the device.
    pub fn memory_info(&self) -> Result<MemoryInfo> {
        self.0.enter()?.memory_info()
    }

    /// Bytes of device memory that buffers, tensors and scratch of this device hold, each with the padding that the
    /// allocator adds: `(size + 63) / 32 * 32` for `aclrtMalloc`, `(size + 31) / 32 * 32` for `aclrtMallocAlign32`.
    pub fn bytes_in_use(&self) -> u64 {
        self.0.in_use.load(Ordering::Relaxed)
    }

    /// The most that [`bytes_in_use`](Self::bytes_in_use) was since the device was opened or
    /// [`reset_peak_bytes`](Self::reset_peak_bytes) was called.
    pub fn peak_bytes(&self) -> u64 {
        self.0.peak.load(Ordering::Relaxed)
    }

    /// Begins to watch the peak anew, from what is in use now.
    pub fn reset_peak_bytes(&self) {
        self.0.peak.store(self.bytes_in_use(), Ordering::Relaxed);
    }

    /// Waits until everything queued on this device is done.
    ///
    /// # Errors
    /// Faults of queued work surface here: [`Error::Vendor`], and [`Error::Poisoned`] from then on.
    pub fn synchronize(&self) -> Result<()> {
        let bound = self.0.enter()?;
        // SAFETY: the context is bound.
        unsafe { call!(bound.aclrtSynchronizeDevice()) }?;
        bound.reap()
    }

    /// The fault that ended the context: its code and the call that reported it.
    pub fn fault(&self) -> Option<(i32, &'static str)> {
        self.0.fault.get().copied()
    }

    /// Tears the device down for this whole process, queued work and memory included, and so clears a fault.
    ///
    /// This handle and everything made from it say [`Error::DeviceReset`] afterwards, and dropping them does nothing;
    /// [`Cann::device`] opens the device anew. Waits for calls in other threads to return.
    ///
    /// Uses `aclrtResetDeviceForce`, which ignores how often others in this process opened the device (CANN runtime
    /// 9.1.0, device management).
    ///
    /// # Errors
    /// [`Error::Vendor`] where the vendor's reset fails, [`Error::DeviceReset`] for a second reset, [`Error::Forked`].
    pub fn reset(&self) -> Result<()> {
        self.0.reset()
    }

    /// Whether operators that take a group list read it back and check it before they run, at the price of a
    /// synchronisation per call. Off at first; for debugging calls whose group lists do not come from routing operators.
    pub fn set_check_group_lists(&self, check: bool) {
        self.0.check_group_lists.store(check, Ordering::Relaxed);
    }

    pub(crate) fn checks_group_lists(&self) -> bool {
        self.0.check_group_lists.load(Ordering::Relaxed)
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("id", &self.0.id).field("fault", &self.fault()).finish_non_exhaustive()
    }
}

impl DeviceInner {
    /// Claims the device for the process and remembers its default context.
    pub(crate) fn open(cann: Cann, id: i32) -> Result<Self> {
        let table = cann.table();
        // SAFETY: any id may be asked for.
        let result = unsafe { table.aclrtSetDevice(id) };
        cann.check(FunctionId::aclrtSetDevice, result)?;
        let mut context = aclrtContext::NULL;
        // SAFETY: the handle is writable.
        let result = unsafe { table.aclrtGetCurrentContext(&mut context) };
        if let Err(error) = cann.check(FunctionId::aclrtGetCurrentContext, result) {
            // SAFETY: pairs the call above; nothing was made on the device.
            let _ = unsafe { table.aclrtResetDevice(id) };
            return Err(error);
        }
        Ok(Self {
            cann,
            id,
            context,
            state: AtomicU8::new(ALIVE),
            users: AtomicUsize::new(0),
            fault: OnceLock::new(),
            kept: Kept::default(),
            holdings: Mutex::default(),
            router_plans: Mutex::default(),
            in_use: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            check_group_lists: AtomicBool::new(false),
        })
    }

    pub(crate) fn id(&self) -> i32 {
        self.id
    }

    pub(crate) fn is_reset(&self) -> bool {
        self.state.load(Ordering::Acquire) == RESET
    }

    /// Enters for a call that can report errors: the process, the device, what earlier drops left, the context.
    pub(crate) fn enter(&self) -> Result<Bound<'_>> {
        let bound = self.admit()?;
        self.kept.take()?;
        bound.bind()?;
        Ok(bound)
    }

    /// Enters for `Drop`; `None` where there is nothing left that a vendor call could give back.
    pub(crate) fn enter_to_drop(&self) -> Option<Bound<'_>> {
        let bound = self.admit().ok()?;
        match bound.bind() {
            Ok(()) => Some(bound),
            Err(error) => {
                self.keep(error);
                None
            }
        }
    }

    /// Keeps an error of `Drop` for the next call on this device.
    pub(crate) fn keep(&self, error: Error) {
        self.kept.keep(error);
    }

    fn admit(&self) -> Result<Bound<'_>> {
        self.cann.check_process()?;
        self.users.fetch_add(1, Ordering::SeqCst);
        // From here on the guard counts this thread out again.
        let bound = Bound { device: self };
        match self.state.load(Ordering::SeqCst) {
            ALIVE => Ok(bound),
            POISONED => Err(self.poisoned()),
            _ => Err(Error::DeviceReset { device: self.id }),
        }
    }

    fn poisoned(&self) -> Error {
        let (code, call) = self.fault.get().copied().unwrap_or((aclError::INTERNAL_ERROR.0, "an unknown call"));
        Error::Poisoned { device: self.id, code, call }
    }

    fn poison(&self, code: i32, call: &'static str) {
        self.fault.get_or_init(|| (code, call));
        // A reset under way stays one.
        let _ = self.state.compare_exchange(ALIVE, POISONED, Ordering::SeqCst, Ordering::SeqCst);
    }

    fn reset(&self) -> Result<()> {
        self.cann.check_process()?;
        // Nobody opens the device anew before the vendor's reset is through: that would end theirs as well.
        let _opening = lock(&self.cann.0.devices);
        if self.state.swap(RESET, Ordering::SeqCst) == RESET {
            return Err(Error::DeviceReset { device: self.id });
        }
        while self.users.load(Ordering::SeqCst) != 0 {
            std::thread::sleep(Duration::from_micros(100));
        }
        let bound = Bound::of_owner(self);
        let (host, _) = bound.bind().map_or_else(|_| Default::default(), |()| bound.tear_down());
        let table = self.cann.table();
        // SAFETY: no call of this layer is under way on the device, and none will start.
        let forced = unsafe { table.aclrtResetDeviceForce(self.id) };
        let (call, result) = match forced {
            Err(_) => {
                // SAFETY: as above; pairs the one `aclrtSetDevice` of this object.
                (FunctionId::aclrtResetDevice, unsafe { table.aclrtResetDevice(self.id) })
            }
            forced => (FunctionId::aclrtResetDeviceForce, forced),
        };
        bound.free_host(host);
        self.cann.check(call, result)
    }
}

impl Drop for DeviceInner {
    fn drop(&mut self) {
        if self.cann.check_process().is_err() || self.is_reset() {
            return;
        }
        let poisoned = *self.state.get_mut() == POISONED;
        let bound = Bound::of_owner(self);
        // Streams, buffers and events hold the device: what is left is what could not be given back before.
        let (host, error) = match bound.bind() {
            Ok(()) => bound.tear_down(),
            Err(error) => (Vec::new(), Some(error)),
        };
        // SAFETY: pairs the one `aclrtSetDevice` of this object, of which nothing is left.
        let result = unsafe { self.cann.table().aclrtResetDevice(self.id) };
        bound.free_host(host);
        let reset = self.cann.check(FunctionId::aclrtResetDevice, result);
        // Of a device that is lost no better is to be expected.
        if !poisoned {
            let errors = [self.kept.take().err(), error, reset.err()];
            errors.into_iter().flatten().for_each(|error| self.cann.0.kept.keep(error));
        }
    }
}

/// Proof that this thread may call CANN about a device: the process is the one that opened it, the device is neither
/// lost nor reset and will not be reset meanwhile, its context is current.
pub(crate) struct Bound<'d> {
    device: &'d DeviceInner,
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        self.device.users.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<'d> Bound<'d> {
    /// For whoever has the device to itself.
    fn of_owner(device: &'d DeviceInner) -> Self {
        device.users.fetch_add(1, Ordering::SeqCst);
        Self { device }
    }

    /// Frees pinned memory that nothing uses any more.
    fn free_host(&self, host: Vec<Freed>) {
        for result in host.into_iter().map(|freed| self.free_raw(freed)) {
            if let Err(error) = result {
                self.device.cann.0.kept.keep(error);
            }
        }
    }

    fn bind(&self) -> Result<()> {
        // SAFETY: the context lives until the device is given back or reset, which waits for this guard.
        unsafe { call!(self.aclrtSetCurrentContext(self.device.context)) }
    }

    pub(crate) fn device(&self) -> &'d DeviceInner {
        self.device
    }

    pub(crate) fn table(&self) -> &'d Table {
        self.device.cann.table()
    }

    /// The status of a runtime call as a result; a device fault poisons the device.
    pub(crate) fn check(&self, call: FunctionId, result: Result<aclError, MissingFunction>) -> Result<()> {
        let code = result?;
        if code.is_ok() { Ok(()) } else { Err(self.failure(call, code.0).into()) }
    }

    /// The status of an aclnn call as a result.
    pub(crate) fn check_status(&self, call: FunctionId, result: Result<aclnnStatus, MissingFunction>) -> Result<()> {
        let code = result?;
        if code.is_ok() {
            return Ok(());
        }
        Err(self.failure(call, code.0).into())
    }

    fn failure(&self, call: FunctionId, code: i32) -> VendorError {
        let error = vendor_error(self.table(), call, code);
        let fault = [Some(aclError(code)), error.runtime].into_iter().flatten().find(|code| code.is_device_fault());
        if let Some(code) = fault {
            self.device.poison(code.0, call.name());
        }
        error
    }

    pub(crate) fn memory_info(&self) -> Result<MemoryInfo> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both numbers are writable.
        unsafe { call!(self.aclrtGetMemInfo(aclrtMemAttr::HBM, &mut free, &mut total)) }?;
        Ok(MemoryInfo { free: free as u64, total: total as u64 })
    }
}
