//! Opening a library and asking it for symbols. Nothing here is ever closed: CANN's libraries own threads,
//! thread-local caches and exit handlers, so an unloaded one would leave them dangling.

use core::ffi::{CStr, c_char, c_void};
use core::ptr::NonNull;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};

use super::LoadError;

/// A library that stays open until the process ends.
#[derive(Clone, Copy)]
pub(super) struct Opened(&'static Library);

/// Opens a path, or a bare name as the dynamic linker finds it.
pub(super) fn open(path: &Path) -> Result<Opened, LoadError> {
    // SAFETY: the initialisers of the library run here. The file carries a name of CANN and lies where the user says
    // that CANN is; that CANN may be initialised is what the user asks for by loading it.
    match unsafe { Library::open(Some(path), RTLD_LAZY | RTLD_LOCAL) } {
        Ok(library) => Ok(Opened(Box::leak(Box::new(library)))),
        Err(error) => {
            let dlerror = match &error {
                libloading::Error::DlOpen { source } => source.to_string(),
                other => other.to_string(),
            };
            let hint = if dlerror.contains("undefined symbol") || dlerror.contains("version `") {
                "libraries of two CANN releases may be mixed on LD_LIBRARY_PATH"
            } else {
                "source set_env.sh of the CANN root, and see that the driver's lib64 is on LD_LIBRARY_PATH"
            };
            Err(LoadError::Open { path: path.to_owned(), dlerror, hint })
        }
    }
}

/// Whether the dynamic linker knows no library of this bare name (as against: it found one that it cannot open).
pub(super) fn is_unknown(name: &str, error: &LoadError) -> bool {
    matches!(error, LoadError::Open { dlerror, .. } if dlerror.starts_with(name) && dlerror.contains("No such file"))
}

impl Opened {
    /// The address of a symbol, in this library or one that it depends on.
    pub(super) fn symbol(self, name: &str) -> Option<NonNull<c_void>> {
        // SAFETY: the symbol is only turned into an address here; whoever calls it vouches for its type.
        let symbol = unsafe { self.0.get::<*mut c_void>(name) }.ok()?;
        NonNull::new(symbol.as_raw_ptr())
    }

    /// What the library calls itself, where it exports `const char* cannSimIdentity(void)`: CANN's do not.
    pub(super) fn simulator_identity(self) -> Option<String> {
        let address = self.symbol("cannSimIdentity")?;
        // SAFETY: only the simulator's library has this symbol, with this signature.
        let identity =
            unsafe { core::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> *const c_char>(address.as_ptr()) };
        // SAFETY: the function may be called from any thread at any time.
        let text = unsafe { identity() };
        // SAFETY: it gives a static string.
        (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    }
}

/// The file that holds the code at `address`.
pub(super) fn file_of(address: NonNull<c_void>) -> Option<PathBuf> {
    let mut info = libc::Dl_info {
        dli_fname: core::ptr::null(),
        dli_fbase: core::ptr::null_mut(),
        dli_sname: core::ptr::null(),
        dli_saddr: core::ptr::null_mut(),
    };
    // SAFETY: `info` is writable; any address may be asked about.
    let found = unsafe { libc::dladdr(address.as_ptr(), &mut info) } != 0 && !info.dli_fname.is_null();
    if !found {
        return None;
    }
    // SAFETY: the linker owns the name and keeps it while the library is open, which is for ever.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}
