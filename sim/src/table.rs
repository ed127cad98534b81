//! The C functions of every slot, and the table they fill; expansions of the one function list.
//!
//! `crate::api` has one function for every C function of the runtime and of aclnn base, under its C name and with the
//! simulator as its first argument. Operators are uniform: `crate::api::op` has one function for each phase. So a new
//! function of the list needs its function in `crate::api` and nothing here, a new operator not even that.

use core::ffi::{c_char, c_int, c_void};

// The types of every prototype of the list.
use ascend_sys::*;

use crate::api;
use crate::slot::{MAX_INSTANCES, call};

/// The functions of a slot; HCCL is not among them.
pub(crate) fn functions(slot: usize) -> Functions {
    FUNCTIONS_OF_SLOT.get(slot).map(|functions| functions()).unwrap_or_default()
}

/// Expands its block for the library families that are simulated, and to nothing for HCCL.
macro_rules! simulated {
    (Hccl { $($then:tt)* }) => {};
    (HcclComm { $($then:tt)* }) => {};
    ($lib:ident { $($then:tt)* }) => { $($then)* };
}
pub(crate) use simulated;

macro_rules! define_entries {
    (
        functions { $($lib:ident $need:ident $since:literal $name:ident($($p:ident: $t:ty),*) -> $r:ty;)* }
        operators { $($olib:ident $osince:literal $op:ident: $ws:ident, $run:ident($($op_p:ident: $op_t:ty),*);)* }
    ) => {
        /// The C functions with the slot as an argument.
        #[allow(non_snake_case, clippy::too_many_arguments, reason = "the C interface as it is")]
        pub(crate) mod entry {
            use super::*;
            $(simulated! { $lib {
                pub(crate) unsafe fn $name(slot: usize, $($p: $t),*) -> $r {
                    // SAFETY: the caller keeps the rules of the C function.
                    call(slot, FunctionId::$name, |sim| unsafe { api::$name(sim, $($p),*) })
                }
            } })*
            $(simulated! { $olib {
                pub(crate) unsafe fn $ws(
                    slot: usize,
                    $($op_p: $op_t,)*
                    workspaceSize: *mut u64,
                    executor: *mut *mut aclOpExecutor,
                ) -> aclnnStatus {
                    let args = [$(api::op::IntoArg::into_arg($op_p)),*];
                    call(slot, FunctionId::$ws, |sim| {
                        // SAFETY: the caller keeps the rules of the C function.
                        unsafe { api::op::phase1(sim, OperatorId::$op, &args, workspaceSize, executor) }
                    })
                }

                pub(crate) unsafe fn $run(
                    slot: usize,
                    workspace: *mut c_void,
                    workspaceSize: u64,
                    executor: *mut aclOpExecutor,
                    stream: aclrtStream,
                ) -> aclnnStatus {
                    call(slot, FunctionId::$run, |sim| {
                        api::op::phase2(sim, OperatorId::$op, workspace, workspaceSize, executor, stream)
                    })
                }
            } })*
        }

        /// The C functions of slot `I`.
        #[allow(non_snake_case, clippy::too_many_arguments, reason = "the C interface as it is")]
        mod c {
            use super::*;
            $(simulated! { $lib {
                pub(super) unsafe extern "C" fn $name<const I: usize>($($p: $t),*) -> $r {
                    // SAFETY: the caller keeps the rules of the C function.
                    unsafe { entry::$name(I, $($p),*) }
                }
            } })*
            $(simulated! { $olib {
                pub(super) unsafe extern "C" fn $ws<const I: usize>(
                    $($op_p: $op_t,)*
                    workspaceSize: *mut u64,
                    executor: *mut *mut aclOpExecutor,
                ) -> aclnnStatus {
                    // SAFETY: the caller keeps the rules of the C function.
                    unsafe { entry::$ws(I, $($op_p,)* workspaceSize, executor) }
                }

                pub(super) unsafe extern "C" fn $run<const I: usize>(
                    workspace: *mut c_void,
                    workspaceSize: u64,
                    executor: *mut aclOpExecutor,
                    stream: aclrtStream,
                ) -> aclnnStatus {
                    // SAFETY: the caller keeps the rules of the C function.
                    unsafe { entry::$run(I, workspace, workspaceSize, executor, stream) }
                }
            } })*
        }

        fn fill<const I: usize>() -> Functions {
            let mut functions = Functions::default();
            $(simulated! { $lib { functions.$name = Some(c::$name::<I>); } })*
            $(simulated! { $olib {
                functions.$ws = Some(c::$ws::<I>);
                functions.$run = Some(c::$run::<I>);
            } })*
            functions
        }
    };
}

vendor_functions!(define_entries!);

static FUNCTIONS_OF_SLOT: [fn() -> Functions; MAX_INSTANCES] = [
    fill::<0>, fill::<1>, fill::<2>, fill::<3>, fill::<4>, fill::<5>, fill::<6>, fill::<7>, fill::<8>, fill::<9>,
    fill::<10>, fill::<11>, fill::<12>, fill::<13>, fill::<14>, fill::<15>,
];
