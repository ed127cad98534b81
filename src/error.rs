//! What can go wrong in the safe layer, as one typed error: vendor failures with their code and message, rules of
//! operators that a call would break, and misuse that is refused before any vendor call.

use std::fmt;
use std::path::PathBuf;

use ascend_sys::load::LoadError;
use ascend_sys::ops::Violation;
use ascend_sys::{MissingFunction, OperatorId, Release, aclError, aclnnStatus};

use crate::checkpoint::CheckpointError;
use moe_kernels::KernelError;

/// Result of the safe layer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call of the safe layer failed. Texts are complete when the error is made: printing one calls nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A vendor call failed.
    #[error(transparent)]
    Vendor(Box<VendorError>),
    /// Device memory ran out, also after memory waiting to be freed was given back.
    #[error("out of memory on device {device}: {requested} bytes asked for, {free} of {total} free")]
    OutOfMemory {
        /// The device.
        device: i32,
        /// Bytes asked for.
        requested: u64,
        /// Bytes free when the request failed.
        free: u64,
        /// Bytes of device memory that a process can have.
        total: u64,
    },
    /// The call breaks a rule of its operator; no vendor call was made.
    #[error(transparent)]
    Rule(Box<Violation>),
    /// The loaded libraries lack a function.
    #[error(transparent)]
    MissingFunction(#[from] MissingFunction),
    /// The loaded libraries have none of the operators that could do this.
    #[error("CANN {release} as loaded has none of: {}", operators(tried))]
    MissingOperator {
        /// Operators in the order in which they were looked for.
        tried: &'static [OperatorId],
        /// The loaded release.
        release: Release,
    },
    /// An object of one device was used with a stream of another.
    #[error("memory of device {found} used on a stream of device {expected}")]
    WrongDevice {
        /// Device of the stream.
        expected: i32,
        /// Device of the object.
        found: i32,
    },
    /// Scratch memory of one stream was used on another.
    #[error("a scratch tensor belongs to its own stream's sequence and cannot be used on another stream")]
    WrongStream,
    /// The device was reset after this object was made.
    #[error("device {device} was reset; what was made before the reset is gone, open the device again")]
    DeviceReset {
        /// The device.
        device: i32,
    },
    /// An earlier fault of the device ended its context; only [`Device::reset`](crate::Device::reset) helps.
    #[error("device {device} is lost since {call} failed with {name} ({code}); reset it", name = code_name(*code))]
    Poisoned {
        /// The device.
        device: i32,
        /// Code of the fault.
        code: i32,
        /// The call that reported it.
        call: &'static str,
    },
    /// The process was forked after CANN was opened.
    #[error(
        "CANN was opened in process {init_pid} and cannot be used in its fork {pid}; open it after the fork, or spawn"
    )]
    Forked {
        /// Process that opened CANN.
        init_pid: u32,
        /// This process.
        pid: u32,
    },
    /// Something went wrong while a value was dropped, before this call.
    #[error("an earlier drop failed: {source}{}", more(*others))]
    Deferred {
        /// The first failure.
        source: Box<Error>,
        /// How many followed it.
        others: u32,
    },
    /// A shape, a length or a range that does not fit.
    #[error("{what}: {found}; legal is {legal}")]
    Shape {
        /// What was looked at.
        what: &'static str,
        /// What was found.
        found: String,
        /// What is legal.
        legal: String,
    },
    /// An element type that does not fit.
    #[error("{what}: dtype {found}; legal is {legal}")]
    DType {
        /// What was looked at.
        what: &'static str,
        /// What was found.
        found: String,
        /// What is legal.
        legal: String,
    },
    /// Experts in a format in which no operator of the loaded libraries computes this layer.
    #[error("{format} experts: {what} cannot run on CANN {release}; legal is {legal}")]
    Format {
        /// The format.
        format: &'static str,
        /// What does not go with it.
        what: String,
        /// The loaded release.
        release: Release,
        /// What would go.
        legal: &'static str,
    },
    /// A group list that does not fit the rows it divides, found by the debug switch that reads it from the device.
    #[error("group list on the device: {0}")]
    GroupList(KernelError),
    /// A vendor function that makes an object gave a null pointer.
    #[error("{call} gave no object{}", told(message))]
    NoObject {
        /// The function.
        call: &'static str,
        /// The vendor's message.
        message: Option<String>,
    },
    /// This thread already holds a sequence of this stream.
    #[error("this thread already holds a sequence of this stream; end it before another is begun")]
    SequenceOpen,
    /// The stream is being captured or updates a graph, where nothing runs: what waits for it or reads its results has to
    /// come after.
    #[error("{call} is not possible while the stream is captured or updates a graph; end that first")]
    Capturing {
        /// What was tried.
        call: &'static str,
    },
    /// Work of two streams, of which one is captured and the other is not.
    #[error(
        "{call} takes two streams that are captured together; legal is `Stream::capture_with` for both, or neither"
    )]
    CapturedApart {
        /// What was tried.
        call: &'static str,
    },
    /// Something of a graph that an update cannot replace.
    #[error("{call} cannot be updated; legal are operators alone, in a graph of `Stream::capture_updatable`")]
    NotUpdatable {
        /// What was tried.
        call: &'static str,
    },
    /// An update of the graph failed, and some of its tasks are the new ones.
    #[error("an update of this graph failed half-way; update it again, or capture it anew")]
    TornGraph,
    /// A tensor without memory, as plans use, was given to a call that runs.
    #[error("a planned tensor has no memory; plans only tell sizes")]
    Planned,
    /// CANN is still used through other handles.
    #[error("CANN is still in use: {handles} other handles or devices are alive")]
    InUse {
        /// How many.
        handles: usize,
    },
    /// A release of CANN that the simulator does not play.
    #[error("release {value:?} is none that the simulator plays; legal are {legal}")]
    SimulatedRelease {
        /// What was asked for.
        value: String,
        /// What it plays.
        legal: String,
    },
    /// A layer's weights cannot be read.
    #[error(transparent)]
    Checkpoint(Box<CheckpointError>),
    /// Not the name of a backend.
    #[error("{value:?} ({source_name}) names no backend; legal is `auto`, `cann` or `sim`")]
    UnknownBackend {
        /// What was given.
        value: String,
        /// Where it was given.
        source_name: &'static str,
    },
    /// CANN was found and cannot be used, or was asked for and not found.
    #[error("CANN cannot be used ({asked}): {source}")]
    CannUnusable {
        /// Who wanted CANN.
        asked: &'static str,
        /// Why not.
        source: LoadError,
    },
    /// The host has an Ascend driver or device, but no CANN.
    #[error(
        "this host has an Ascend device ({}) but no CANN: {source}; install CANN, or ask for the simulator with \
         ASCEND_MOE_BACKEND=sim",
        paths(evidence)
    )]
    DeviceWithoutCann {
        /// Device nodes and driver files found.
        evidence: Vec<PathBuf>,
        /// Why there is no CANN.
        source: LoadError,
    },
    /// The host has an Ascend driver or device, and what was found as CANN is the simulator's library.
    #[error(
        "this host has an Ascend device ({}), but {} is the simulator's library; take it out of the search path, or \
         choose `cann` or `sim` explicitly",
        paths(evidence), library.display()
    )]
    SimulatorOnAscendHost {
        /// Device nodes and driver files found.
        evidence: Vec<PathBuf>,
        /// The library.
        library: PathBuf,
    },
    /// The simulator is wanted and this build has none.
    #[error("{asked}, and this build has no simulator; build with the feature `sim`, or install CANN")]
    NoSimulator {
        /// Why the simulator is wanted.
        asked: &'static str,
    },
    /// The simulator did not start.
    #[error("the simulator did not start: {0}")]
    SimulatorFailed(Box<dyn std::error::Error + Send + Sync>),
}

/// A vendor call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VendorError {
    /// C name of the function.
    pub call: &'static str,
    /// The code it gave.
    pub code: i32,
    /// C name of the code, where it has one.
    pub name: Option<&'static str>,
    /// What kind of code it is.
    pub family: Family,
    /// Code of the runtime behind an operator call that failed with 361001.
    pub runtime: Option<aclError>,
    /// What `aclGetRecentErrMsg` told, without the noise that asking adds.
    pub message: Option<String>,
}

/// Families of vendor codes, by their first digits (CANN runtime 9.1.0, acl_base_rt.h; opbase 9.1.0, op_errno.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// 1xxxxx: the caller or the environment.
    Caller,
    /// 2xxxxx: a resource ran out, or something is not supported.
    Resource,
    /// 3xxxxx: a call behind the call failed.
    Business,
    /// 5xxxxx: inside CANN.
    Internal,
    /// 507xxx that end the context: the device is lost until it is reset.
    DeviceFault,
    /// None of these.
    Unknown,
}

impl Family {
    /// The family of a code of `aclError` or `aclnnStatus`.
    pub fn of(code: i32) -> Self {
        match code / 100_000 {
            _ if aclError(code).is_device_fault() => Self::DeviceFault,
            1 => Self::Caller,
            2 => Self::Resource,
            3 => Self::Business,
            5 => Self::Internal,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Caller => "caller or environment",
            Self::Resource => "resource or support",
            Self::Business => "call behind the call",
            Self::Internal => "internal",
            Self::DeviceFault => "device fault",
            Self::Unknown => "unknown family",
        })
    }
}

impl VendorError {
    /// What usually helps, where experience says so.
    ///
    /// Source: reports of users, as collected for CANN 8.1 to 9.1, and the FAQ of the CANN runtime.
    pub fn advice(&self) -> Option<&'static str> {
        Some(match self.code {
            100_039 => "take devlib and stub directories off LD_LIBRARY_PATH",
            107_001 | 207_004 => {
                "check npu-smi info, the driver, /dev/davinci* in the container and ASCEND_RT_VISIBLE_DEVICES"
            }
            200_001 | 200_006 | 207_000 => "this driver or this release does not support the call",
            207_005 | 207_008 => "streams ran out: all processes of a device share 1984, graphs included",
            207_007 => "events ran out: all processes of a device share 65536",
            507_033 => "the device is busy, unhealthy, or its driver does not fit this CANN: see npu-smi info",
            507_899 => "the driver failed: see the first EL or EE line of the message and npu-smi info",
            507_014 | 507_015 | 507_018 | 507_034 | 507_035 => {
                "an operator queued earlier failed: an illegal address, a wrong shape or a wrong group list; reset the device"
            }
            507_048 => "a collective timed out: a rank may be missing",
            561_002 | 561_103 => "the operator refuses this shape or dtype on this chip",
            561_003 | 561_112 => "install the CANN ops package of this chip",
            561_107 => "source set_env.sh of the CANN root: ASCEND_OPP_PATH is not set",
            561_108..=561_111 => "the operator package is broken or of another release",
            _ => return None,
        })
    }
}

impl fmt::Display for VendorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} failed with {} ({}, {})",
            self.call,
            self.name.unwrap_or("an unnamed code"),
            self.code,
            self.family
        )?;
        if let Some(runtime) = self.runtime {
            write!(f, ", runtime {runtime:?} ({})", runtime.0)?;
        }
        if let Some(message) = &self.message {
            write!(f, ": {message}")?;
        }
        if let Some(advice) = self.advice() {
            write!(f, " [{advice}]")?;
        }
        Ok(())
    }
}

impl std::error::Error for VendorError {}

impl From<VendorError> for Error {
    fn from(error: VendorError) -> Self {
        Self::Vendor(Box::new(error))
    }
}

impl From<CheckpointError> for Error {
    fn from(error: CheckpointError) -> Self {
        Self::Checkpoint(Box::new(error))
    }
}

impl From<Violation> for Error {
    fn from(violation: Violation) -> Self {
        Self::Rule(Box::new(violation))
    }
}

impl Error {
    pub(crate) fn shape(what: &'static str, found: impl fmt::Display, legal: impl fmt::Display) -> Self {
        Self::Shape { what, found: found.to_string(), legal: legal.to_string() }
    }

    pub(crate) fn dtype(what: &'static str, found: impl fmt::Display, legal: impl fmt::Display) -> Self {
        Self::DType { what, found: found.to_string(), legal: legal.to_string() }
    }

    /// The vendor's code, where a vendor call failed.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Vendor(error) => Some(error.code),
            _ => None,
        }
    }
}

/// The C name of a code of either interface.
pub(crate) fn name_of(code: i32) -> Option<&'static str> {
    aclError(code).name().or_else(|| aclnnStatus(code).name())
}

fn code_name(code: i32) -> &'static str {
    name_of(code).unwrap_or("an unnamed code")
}

fn operators(tried: &[OperatorId]) -> String {
    tried.iter().map(|id| format!("aclnn{}", id.name())).collect::<Vec<_>>().join(", ")
}

fn paths(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn told(message: &Option<String>) -> String {
    message.as_ref().map(|text| format!(": {text}")).unwrap_or_default()
}

fn more(others: u32) -> String {
    if others == 0 { String::new() } else { format!(" (and {others} more)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_follow_the_digits() {
        for (code, family) in [
            (100_000, Family::Caller),
            (161_002, Family::Caller),
            (207_001, Family::Resource),
            (361_001, Family::Business),
            (561_003, Family::Internal),
            (507_015, Family::DeviceFault),
            // The caller's own time-out and the elapsed time of an event never recorded end nothing.
            (507_046, Family::Internal),
            (507_000, Family::Internal),
            (7, Family::Unknown),
        ] {
            assert_eq!(Family::of(code), family, "{code}");
        }
    }

    #[test]
    fn a_vendor_error_reads_whole() {
        let error = Error::from(VendorError {
            call: "aclrtSynchronizeStream",
            code: 507_015,
            name: name_of(507_015),
            family: Family::of(507_015),
            runtime: None,
            message: Some("EZ9999: inner error".to_owned()),
        });
        let text = error.to_string();
        for part in
            ["aclrtSynchronizeStream", "ACL_ERROR_RT_AICORE_EXCEPTION", "507015", "device fault", "EZ9999", "reset"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(error.code(), Some(507_015));
    }
}
