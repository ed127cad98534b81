//! Why there is no table, or no device behind it. Each variant names what was found, where, and what helps.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::constants::aclError;
use crate::info::Release;

/// Why CANN cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// No CANN library in any place searched. The only variant that means "CANN is not installed".
    #[error(
        "no CANN library found (libacl_rt.so or libascendcl.so); searched: {}; set ASCEND_HOME_PATH to the CANN root, \
         or source its set_env.sh",
        list(searched)
    )]
    NoLibrary {
        /// Directories and bare names tried, in order.
        searched: Vec<PathBuf>,
    },
    /// A CANN is there, but none of its operator libraries.
    #[error(
        "CANN has no operator library (libopapi_*.so or libopapi.so); searched: {}; install the CANN ops package",
        list(searched)
    )]
    NoOperators {
        /// Files looked for.
        searched: Vec<PathBuf>,
    },
    /// The file is no shared library.
    #[error("{} is {found}, not a shared library", path.display())]
    WrongFile {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: String,
    },
    /// The library has another word size than this program.
    #[error("{} is an ELF file of class {} (expected: 64 bits)", path.display(), class(*found))]
    WrongElfClass {
        /// The file.
        path: PathBuf,
        /// Its `EI_CLASS` byte.
        found: u8,
    },
    /// The library is for another machine than this program.
    #[error("{} is for {found}, this program is for {expected}; install the CANN package of this machine", path.display())]
    WrongMachine {
        /// The file.
        path: PathBuf,
        /// Machine of the file.
        found: String,
        /// Machine of this program.
        expected: &'static str,
    },
    /// The dynamic linker refused the library.
    #[error("cannot open {}: {dlerror}; {hint}", path.display())]
    Open {
        /// The file or bare name.
        path: PathBuf,
        /// The linker's words.
        dlerror: String,
        /// What usually helps.
        hint: &'static str,
    },
    /// Functions without which nothing works, or which the caller asked of a custom package, are in no library.
    #[error("no library has {}; searched: {}", names.join(", "), list(searched))]
    MissingSymbol {
        /// C names.
        names: Vec<&'static str>,
        /// Libraries that were asked.
        searched: Vec<PathBuf>,
    },
    /// The library is one of the empty ones that CANN ships for linking on hosts without a driver.
    #[error(
        "{} is a stub library, made for linking and not for execution; install the Ascend driver, or take devlib and \
         stub directories off LD_LIBRARY_PATH",
        path.display()
    )]
    StubLibrary {
        /// The library.
        path: PathBuf,
    },
    /// The release lacks operators that this crate needs.
    #[error("CANN {found} ({}) is too old: {minimum} or later is needed", path.display())]
    ReleaseTooOld {
        /// The release found.
        found: Release,
        /// The oldest usable one.
        minimum: Release,
        /// The version file or library that tells it.
        path: PathBuf,
    },
    /// `aclInit` failed.
    #[error("aclInit failed with {code:?} ({}){}", code.0, told(message))]
    InitFailed {
        /// Its status.
        code: aclError,
        /// The vendor's message.
        message: Option<String>,
    },
    /// There is no device, or none that this process may use.
    #[error(
        "no Ascend device ({}){}; check npu-smi info, the driver, /dev/davinci* in the container and \
         ASCEND_RT_VISIBLE_DEVICES",
        count(*code),
        told(message)
    )]
    NoDevice {
        /// Status of `aclrtGetDeviceCount`; success where it counted none.
        code: aclError,
        /// The vendor's message.
        message: Option<String>,
    },
    /// The runtime does not know what chip it drives.
    #[error("aclrtGetSocName gives no name{}; the CANN release may not know this chip", told(message))]
    NoSocName {
        /// The vendor's message.
        message: Option<String>,
    },
}

fn list(paths: &[PathBuf]) -> String {
    if paths.is_empty() {
        return "nothing".to_owned();
    }
    let mut text = String::new();
    for path in paths {
        if !text.is_empty() {
            text.push_str(", ");
        }
        // Writing to a string does not fail.
        let _ = write!(text, "{}", path.display());
    }
    text
}

fn class(byte: u8) -> String {
    match byte {
        1 => "32 bits".to_owned(),
        2 => "64 bits".to_owned(),
        other => format!("{other}"),
    }
}

fn count(code: aclError) -> String {
    if code.is_ok() { "aclrtGetDeviceCount counts 0".to_owned() } else { format!("{code:?}, {}", code.0) }
}

fn told(message: &Option<String>) -> String {
    message.as_ref().map(|text| format!(": {}", text.trim_end())).unwrap_or_default()
}
