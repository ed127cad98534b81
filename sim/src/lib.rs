//! CANN, simulated on the host: devices, contexts, streams, events, memory and aclnn operators behind CANN's own C
//! functions.
//!
//! [`Sim::start`] makes a simulator of its own and [`Sim::table`] hands out the call table that the real libraries would
//! fill. Several simulators live side by side in one process ([`MAX_INSTANCES`]); handles of one mean nothing to
//! another. [`abi`] is what the shared library exports.
//!
//! Whatever a program does against CANN's rules becomes a [`Finding`]. In [`Mode::Strict`] it is also an error, at the
//! call or at the next synchronisation; in [`Mode::Lenient`] it is logged and the simulator goes on as hardware would,
//! as far as that is known. HCCL is not simulated: its functions are absent from the table.
//!
//! What is not CANN: event times are host times, and nothing here says how long a device would take.

pub mod abi;
#[allow(non_snake_case, reason = "one function per C function, under its C name")]
mod api;
mod arena;
mod callback;
mod config;
mod device;
mod errmsg;
mod event;
mod executor;
mod fault;
mod graph;
mod instance;
mod memory;
mod object;
mod ops;
mod report;
mod slot;
mod soc;
mod stream;
mod table;
mod task;
mod thread;
mod trace;
pub mod tree;

pub use config::{Config, ConfigError, Mode, RELEASES};
pub use fault::{FaultScript, FaultScriptError};
pub use report::{Finding, FindingKind};
pub use slot::{MAX_INSTANCES, Sim, SimError};
pub use soc::{SOCS, Soc};
pub use trace::TraceRecord;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; a panic of another holder leaves data that is still whole (every critical section here is).
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
