//! Asking a loaded CANN whether it works and what it drives, without claiming a device; and, without any CANN, whether
//! this host looks like one with an Ascend device.

use core::ffi::{CStr, c_char};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::constants::{aclCANNPackageName, aclError};
use crate::handle::aclCANNPackageVersion;
use crate::info::Release;
use crate::load::LoadError;
use crate::table::{MissingFunction, Table};

/// What a working CANN says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// SoC name, for example `Ascend910_9391`.
    pub soc: String,
    /// Devices visible to this process; at least 1.
    pub device_count: u32,
    /// Release: of the root's version file, or else of the library itself.
    pub release: Option<Release>,
    /// What `aclsysGetCANNVersion` says of the CANN package.
    pub cann_version: Option<String>,
    /// What `aclsysGetVersionStr` says of the runtime package.
    pub runtime_version: Option<String>,
    /// Version of the ACL interface (`aclrtGetVersion`): major, minor, patch.
    pub acl_version: Option<(i32, i32, i32)>,
    /// Whether this probe was the first in the process to initialise ACL. It is never finalised here: that would
    /// end it for every user in the process.
    pub initialised_first: bool,
}

/// Initialises ACL and asks for devices, SoC and versions. Sets no device.
///
/// # Errors
/// [`LoadError::StubLibrary`], [`LoadError::InitFailed`], [`LoadError::NoDevice`], [`LoadError::NoSocName`],
/// [`LoadError::ReleaseTooOld`] where only the library tells its release, and [`LoadError::MissingSymbol`] for a table
/// without one of the functions needed here.
///
/// Source: CANN runtime 9.1.0, documents and sources of the calls made.
pub fn probe(table: &Table) -> Result<Probe, LoadError> {
    let path = || table.origin().libraries.first().map(|library| library.path.clone()).unwrap_or_default();
    let missing = |function: MissingFunction| LoadError::MissingSymbol {
        names: vec![function.0.name()],
        searched: table.origin().libraries.iter().map(|library| library.path.clone()).collect(),
    };
    let stub = || LoadError::StubLibrary { path: path() };

    // SAFETY: a null path asks for the defaults.
    let code = unsafe { table.aclInit(core::ptr::null()) }.map_err(missing)?;
    let initialised_first = match code {
        aclError::SUCCESS => true,
        aclError::REPEAT_INITIALIZE => false,
        aclError::COMPILING_STUB_MODE => return Err(stub()),
        code => {
            // The simulator's library says in its identity why it did not start.
            let message = recent_error(table).or_else(|| table.origin().identity.clone());
            return Err(LoadError::InitFailed { code, message });
        }
    };

    let mut device_count = 0;
    // SAFETY: the count is writable.
    let code = unsafe { table.aclrtGetDeviceCount(&mut device_count) }.map_err(missing)?;
    if code == aclError::COMPILING_STUB_MODE {
        return Err(stub());
    }
    if !code.is_ok() || device_count == 0 {
        return Err(LoadError::NoDevice { code, message: recent_error(table) });
    }

    // SAFETY: no arguments.
    let soc = unsafe { table.aclrtGetSocName() }.map_err(missing)?;
    // SAFETY: the runtime gives a static string or null.
    let soc = unsafe { text(soc) }.filter(|name| !name.is_empty());
    let soc = soc.ok_or_else(|| LoadError::NoSocName { message: recent_error(table) })?;

    let cann_version = cann_version(table);
    let runtime_version = package_version(table, c"runtime");
    let told = cann_version.as_deref().or(runtime_version.as_deref()).and_then(Release::parse);
    let of_file = table.origin().release;
    if let (Some(file), Some(runtime)) = (of_file, runtime_version.as_deref().and_then(Release::parse))
        && (file.major, file.minor) != (runtime.major, runtime.minor)
    {
        tracing::warn!(%file, %runtime, "version file and runtime disagree: libraries of two CANN releases may be mixed");
    }
    let release = of_file.or(told);
    if let Some(found) = release
        && found < Release::MINIMUM
    {
        return Err(LoadError::ReleaseTooOld { found, minimum: Release::MINIMUM, path: path() });
    }

    Ok(Probe {
        soc,
        device_count,
        release,
        cann_version,
        runtime_version,
        acl_version: acl_version(table),
        initialised_first,
    })
}

fn cann_version(table: &Table) -> Option<String> {
    let mut version = aclCANNPackageVersion::default();
    // SAFETY: the struct is writable and has the layout of the C one.
    let code = unsafe { table.aclsysGetCANNVersion(aclCANNPackageName::CANN, &mut version) }.ok()?;
    code.is_ok().then(|| bounded(&version.version)).filter(|text| !text.is_empty())
}

/// The version of a package; the runtime writes at most 128 bytes.
fn package_version(table: &Table, package: &CStr) -> Option<String> {
    // C declares the name writable.
    let mut name: Vec<c_char> = package.to_bytes_with_nul().iter().map(|&byte| byte as c_char).collect();
    let mut version: [c_char; 128] = [0; 128];
    // SAFETY: both are writable and NUL-terminated, and the second has the size that the document asks for.
    let code = unsafe { table.aclsysGetVersionStr(name.as_mut_ptr(), version.as_mut_ptr()) }.ok()?;
    code.is_ok().then(|| bounded(&version)).filter(|text| !text.is_empty())
}

fn acl_version(table: &Table) -> Option<(i32, i32, i32)> {
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    // SAFETY: the three numbers are writable.
    let code = unsafe { table.aclrtGetVersion(&mut major, &mut minor, &mut patch) }.ok()?;
    code.is_ok().then_some((major, minor, patch))
}

/// The text of a buffer up to its first NUL.
fn bounded(buffer: &[c_char]) -> String {
    let bytes: Vec<u8> = buffer.iter().take_while(|&&c| c != 0).map(|&c| c as u8).collect();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// The text at a pointer; `None` for null.
///
/// # Safety
/// `pointer` is null or a NUL-terminated string.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    // SAFETY: the caller's.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}

/// The vendor's message on the last failure of this thread, without the noise that asking for it adds; `None` if there
/// is none. Reading clears it.
pub fn recent_error(table: &Table) -> Option<String> {
    // SAFETY: no arguments.
    let message = unsafe { table.aclGetRecentErrMsg() }.ok()?;
    // SAFETY: null or a string that stays until the next such call of this thread; it is copied at once.
    let message = unsafe { text(message) }?;
    Some(filter_error_text(&message)).filter(|text| !text.is_empty())
}

/// Takes the noise out of an `aclGetRecentErrMsg` text.
///
/// That call itself asks the device for a message and, on a thread without a context, reports its own failure: as a
/// block on top of the real one, or as lines at the end of the real block's trace. Blocks and lines that name
/// `rtGetDevMsg` or `GetDevErrMsg` are dropped, unless nothing else is there.
pub fn filter_error_text(text: &str) -> String {
    let mut blocks: Vec<Vec<&str>> = Vec::new();
    for line in text.lines() {
        match blocks.last_mut() {
            Some(block) if !opens_block(line) => block.push(line),
            _ => blocks.push(vec![line]),
        }
    }
    let kept: Vec<&str> = blocks
        .into_iter()
        .filter(|block| block.first().is_some_and(|header| !is_noise(header)))
        .flatten()
        .filter(|line| !is_noise(line))
        .collect();
    if kept.iter().all(|line| line.trim().is_empty()) {
        text.trim_end().to_owned()
    } else {
        kept.join("\n").trim_end().to_owned()
    }
}

fn is_noise(line: &str) -> bool {
    line.contains("rtGetDevMsg") || line.contains("GetDevErrMsg")
}

/// Whether a line opens a block: it is not indented and carries a code such as `EE1001` or `E30006` among its first
/// words (`EE1001: [PID: 7] ...` up to 8.5, `[PID: 7] ... Invalid_Argument(EE1001): ...` in 9.x).
fn opens_block(line: &str) -> bool {
    !line.starts_with(char::is_whitespace)
        && line.split(|c: char| !c.is_ascii_alphanumeric()).take(20).any(|word| {
            word.len() == 6 && word.starts_with('E') && word.bytes().skip(2).all(|byte| byte.is_ascii_digit())
        })
}

/// Signs of an Ascend driver or device on this host. They decide, where no CANN is found, between a host without a
/// device and an Ascend host whose CANN is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostDevices {
    /// Files found: device nodes, then files of the driver.
    pub evidence: Vec<PathBuf>,
}

impl HostDevices {
    /// Looks at this host.
    pub fn detect() -> Self {
        Self::detect_in(Path::new("/"))
    }

    /// Looks below `root` as if it were `/`.
    pub fn detect_in(root: &Path) -> Self {
        let mut nodes: Vec<PathBuf> = fs::read_dir(root.join("dev"))
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.file_name().is_some_and(is_device_node))
            .collect();
        nodes.sort();
        let files = ["usr/local/Ascend/driver/version.info", "etc/ascend_install.info"].map(|file| root.join(file));
        nodes.extend(files.into_iter().filter(|path| path.exists()));
        Self { evidence: nodes }
    }

    /// Whether there is any sign.
    pub fn any(&self) -> bool {
        !self.evidence.is_empty()
    }
}

/// `davinci_manager`, or `davinci` and a number.
fn is_device_node(name: &OsStr) -> bool {
    name.to_str()
        .and_then(|name| name.strip_prefix("davinci"))
        .is_some_and(|rest| rest == "_manager" || (!rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit())))
}
