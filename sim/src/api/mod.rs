//! The C functions of the runtime, by chapter. Each takes the simulator and the parameters of its prototype; pointers
//! are null or what the C contract says, which is the safety condition of every one of them.

mod base;
mod callback;
mod device;
mod event;
mod graph;
mod init;
mod memory;
pub(crate) mod op;
mod stream;
mod version;

pub(crate) use base::*;
pub(crate) use callback::*;
pub(crate) use device::*;
pub(crate) use event::*;
pub(crate) use graph::*;
pub(crate) use init::*;
pub(crate) use memory::*;
pub(crate) use op::{
    aclnnCalculateMatmulWeightSize, aclnnCalculateMatmulWeightSizeV2, aclnnNpuFormatCastCalculateSizeAndFormat,
};
pub(crate) use stream::*;
pub(crate) use version::*;

use std::time::{Duration, Instant};

use ascend_sys::aclError;

use crate::errmsg::Refusal;

/// Writes an out parameter; 100000 for a null pointer.
///
/// # Safety
/// `out` must be null or writable.
unsafe fn put<T>(name: &str, out: *mut T, value: T) -> Result<(), Refusal> {
    if out.is_null() {
        return Err(Refusal::null(name));
    }
    // SAFETY: not null, and writable by the C contract.
    unsafe { out.write(value) };
    Ok(())
}

/// Refuses a null pointer with 100000.
fn not_null<T>(name: &str, pointer: *const T) -> Result<(), Refusal> {
    if pointer.is_null() { Err(Refusal::null(name)) } else { Ok(()) }
}

/// A deadline from a time-out in milliseconds: -1 waits for ever, 0 and less is refused with 107000.
fn deadline(call: &str, timeout: i32) -> Result<Option<Instant>, Refusal> {
    match timeout {
        -1 => Ok(None),
        1.. => Ok(Instant::now().checked_add(Duration::from_millis(u64::from(timeout.unsigned_abs())))),
        _ => {
            let legal = "-1 (for ever) or a number of milliseconds above 0";
            Err(Refusal::runtime(aclError::RT_PARAM_INVALID, &format!("{call}: timeout"), timeout, legal))
        }
    }
}
