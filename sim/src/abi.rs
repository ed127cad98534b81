//! What the shared library exports: the C functions of one simulator, configured from `CANN_SIM_*` at the first call.
//!
//! The library gives each function of the list its C symbol and calls the function of the same name here. A symbol of a
//! shared library cannot be absent at the wish of a configuration, so what [`Config`] leaves out answers as Huawei's
//! stub libraries do: code 100039, or null.

use core::ffi::{CStr, c_char, c_int, c_void};
use std::ffi::CString;
use std::sync::OnceLock;

// The types of every prototype of the list.
use ascend_sys::*;

use crate::config::Config;
use crate::slot::{Answer, Sim, SimError};
use crate::table::{entry, simulated};

/// The library's simulator, started at the first call.
///
/// # Errors
/// What kept it from starting; every C function then answers with an internal error.
pub fn sim() -> Result<&'static Sim, &'static SimError> {
    static SIM: OnceLock<Result<Sim, SimError>> = OnceLock::new();
    SIM.get_or_init(|| {
        let started = Config::from_env().map_err(SimError::from).and_then(Sim::start);
        if let Err(error) = &started {
            tracing::error!(%error, "the simulator does not start");
        }
        started
    })
    .as_ref()
}

/// What the library calls itself, for its identity symbol; says the reason where the simulator did not start.
pub fn identity() -> &'static CStr {
    static IDENTITY: OnceLock<CString> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        let text = match sim() {
            Ok(sim) => sim.identity(),
            Err(error) => format!("cann-sim {} not started: {error}", env!("CARGO_PKG_VERSION")),
        };
        CString::new(text.replace('\0', "?")).unwrap_or_default()
    })
}

fn absent(sim: &Sim, id: FunctionId) -> bool {
    let config = sim.config();
    config.absent.contains(&id) || id.info().since() > config.release
}

/// Calls a function of the library's simulator.
fn answer<R: Answer>(id: FunctionId, f: impl FnOnce(usize) -> R) -> R {
    match sim() {
        Ok(sim) if absent(sim, id) => R::from_code(aclError::COMPILING_STUB_MODE.0),
        Ok(sim) => f(sim.slot()),
        Err(_) => R::internal(),
    }
}

macro_rules! define_exports {
    (
        functions { $($lib:ident $need:ident $since:literal $name:ident($($p:ident: $t:ty),*) -> $r:ty;)* }
        operators { $($olib:ident $osince:literal $op:ident: $ws:ident, $run:ident($($op_p:ident: $op_t:ty),*);)* }
    ) => {
        $(simulated! { $lib {
            #[doc = concat!("`", stringify!($name), "` of the library's simulator.\n\n# Safety\nThe rules of the C function.")]
            #[allow(non_snake_case, clippy::too_many_arguments, reason = "the C interface as it is")]
            pub unsafe fn $name($($p: $t),*) -> $r {
                // SAFETY: the caller keeps the rules of the C function.
                answer(FunctionId::$name, |slot| unsafe { entry::$name(slot, $($p),*) })
            }
        } })*
        $(simulated! { $olib {
            #[doc = concat!("`", stringify!($ws), "` of the library's simulator.\n\n# Safety\nThe rules of the C function.")]
            #[allow(non_snake_case, clippy::too_many_arguments, reason = "the C interface as it is")]
            pub unsafe fn $ws(
                $($op_p: $op_t,)*
                workspaceSize: *mut u64,
                executor: *mut *mut aclOpExecutor,
            ) -> aclnnStatus {
                // SAFETY: the caller keeps the rules of the C function.
                answer(FunctionId::$ws, |slot| unsafe { entry::$ws(slot, $($op_p,)* workspaceSize, executor) })
            }

            #[doc = concat!("`", stringify!($run), "` of the library's simulator.\n\n# Safety\nThe rules of the C function.")]
            #[allow(non_snake_case, reason = "the C interface as it is")]
            pub unsafe fn $run(
                workspace: *mut c_void,
                workspaceSize: u64,
                executor: *mut aclOpExecutor,
                stream: aclrtStream,
            ) -> aclnnStatus {
                // SAFETY: the caller keeps the rules of the C function.
                answer(FunctionId::$run, |slot| unsafe { entry::$run(slot, workspace, workspaceSize, executor, stream) })
            }
        } })*
    };
}

vendor_functions!(define_exports!);
