//! The simulator's shared library: the functions of the list under their C names, HCCL excepted, each answered by
//! [`cann_sim::abi`]; and the simulator's own two functions, which CANN does not have.
//!
//! This is the only library of the repository that may export a name of CANN.
#![allow(non_snake_case, clippy::too_many_arguments, reason = "the C interface as it is")]

use core::ffi::{c_char, c_int, c_void};
use core::ptr;

use ascend_sys::*;
use cann_sim::Finding;

/// Expands to nothing for HCCL, which is not simulated: a program that asks for it finds no symbol.
macro_rules! exported {
    (Hccl $($function:tt)*) => {};
    (HcclComm $($function:tt)*) => {};
    ($lib:ident $name:ident($($p:ident: $t:ty),* $(,)?) -> $r:ty) => {
        #[doc = concat!("CANN's `", stringify!($name), "`.\n\n# Safety\nThe rules of the C function.")]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($p: $t),*) -> $r {
            // SAFETY: the caller keeps the rules of the C function.
            unsafe { cann_sim::abi::$name($($p),*) }
        }
    };
}

macro_rules! define_symbols {
    (
        functions { $($lib:ident $need:ident $since:literal $name:ident($($p:ident: $t:ty),*) -> $r:ty;)* }
        operators { $($olib:ident $osince:literal $op:ident: $ws:ident, $run:ident($($op_p:ident: $op_t:ty),*);)* }
    ) => {
        $(exported! { $lib $name($($p: $t),*) -> $r })*
        $(
            exported! { $olib $ws($($op_p: $op_t,)* workspaceSize: *mut u64, executor: *mut *mut aclOpExecutor) -> aclnnStatus }
            exported! { $olib $run(workspace: *mut c_void, workspaceSize: u64, executor: *mut aclOpExecutor, stream: aclrtStream) -> aclnnStatus }
        )*
    };
}

vendor_functions!(define_symbols!);

/// What the library is: a static string such as `cann-sim 0.1.0 playing CANN 9.1.0 on Ascend910_9391`. Its presence is
/// how a loader tells the simulator from CANN.
#[unsafe(no_mangle)]
pub extern "C" fn cannSimIdentity() -> *const c_char {
    cann_sim::abi::identity().as_ptr()
}

/// The findings so far, oldest first, as a NUL-terminated JSON array of `{"kind", "call", "object"}` in `buffer` (host,
/// `size` bytes); cut to nothing where it does not fit. Gives the bytes it needs with the NUL, so that a call with a null
/// buffer and 0 asks for the size.
///
/// # Safety
/// `buffer` is null or writable for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cannSimReport(buffer: *mut c_char, size: usize) -> usize {
    let findings = cann_sim::abi::sim().map(|sim| sim.report()).unwrap_or_default();
    let text = json(&findings);
    let needed = text.len() + 1;
    if buffer.is_null() || size == 0 {
        return needed;
    }
    let fits = if needed <= size { text.as_bytes() } else { &[] };
    // SAFETY: the caller's buffer has `size` bytes, of which at most `fits.len() + 1 <= size` are written.
    unsafe {
        ptr::copy_nonoverlapping(fits.as_ptr(), buffer.cast(), fits.len());
        buffer.add(fits.len()).write(0);
    }
    needed
}

fn json(findings: &[Finding]) -> String {
    let entries = findings.iter().map(|finding| {
        serde_json::json!({ "kind": format!("{:?}", finding.kind), "call": finding.call, "object": finding.object })
    });
    serde_json::Value::Array(entries.collect()).to_string()
}
