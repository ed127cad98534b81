//! The call table: one C function pointer per function of the list, where it came from, and how often it was called.
//!
//! A table is a value. The real libraries, the simulator in process and the simulator's shared library fill the same
//! type; nothing above it can tell them apart but by [`Table::origin`].

use core::ffi::{CStr, c_char, c_int, c_void};
use core::sync::atomic::{AtomicU64, Ordering};
use std::path::PathBuf;

use crate::constants::*;
use crate::handle::*;
use crate::info::{FUNCTIONS, FunctionId, Library, OperatorId, Release};
use crate::vendor_functions;

/// A function the table does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is not in the loaded CANN libraries (first release with it: {since})", name = .0.name(), since = .0.info().since)]
pub struct MissingFunction(pub FunctionId);

macro_rules! define_functions {
    (
        functions { $($lib:ident $need:ident $since:literal $name:ident($($p:ident: $t:ty),*) -> $r:ty;)* }
        operators { $($olib:ident $osince:literal $op:ident: $ws:ident, $run:ident($($op_p:ident: $op_t:ty),*);)* }
    ) => {
        define_functions! { @expand
            $($name($($p: $t),*) -> $r;)*
            $(
                $ws($($op_p: $op_t,)* workspaceSize: *mut u64, executor: *mut *mut aclOpExecutor) -> aclnnStatus;
                $run(workspace: *mut c_void, workspaceSize: u64, executor: *mut aclOpExecutor, stream: aclrtStream) -> aclnnStatus;
            )*
        }
    };
    (@expand $($name:ident($($p:ident: $t:ty),* $(,)?) -> $r:ty;)*) => {
        /// The function pointers, by C name. `None` where the libraries have no such symbol.
        #[allow(non_snake_case, missing_docs, reason = "one field per C function, under its C name")]
        #[derive(Clone, Copy, Default)]
        pub struct Functions {
            $(pub $name: Option<unsafe extern "C" fn($($p: $t),*) -> $r>,)*
        }

        impl Functions {
            /// Fills the table by asking `symbol` for the address of every function of the list.
            ///
            /// # Safety
            /// Every address that `symbol` gives must be that of a C function with the signature the list states for
            /// its name, and must stay valid for as long as the result or a copy of it is used.
            pub unsafe fn resolve(mut symbol: impl FnMut(FunctionId, &'static CStr) -> Option<core::ptr::NonNull<c_void>>) -> Self {
                Self {
                    $($name: {
                        const NAME: &CStr = match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                            Ok(name) => name,
                            Err(_) => c"",
                        };
                        symbol(FunctionId::$name, NAME).map(|address| {
                            // SAFETY: a non-null object pointer has the size of a function pointer on every target of
                            // CANN, and the caller vouches for the signature.
                            unsafe {
                                core::mem::transmute::<*mut c_void, unsafe extern "C" fn($($t),*) -> $r>(address.as_ptr())
                            }
                        })
                    },)*
                }
            }

            /// Whether the table has this function.
            pub fn has(&self, id: FunctionId) -> bool {
                match id { $(FunctionId::$name => self.$name.is_some(),)* }
            }

            /// Takes a function out, as if the libraries lacked it.
            pub fn remove(&mut self, id: FunctionId) {
                match id { $(FunctionId::$name => self.$name = None,)* }
            }
        }

        #[allow(non_snake_case, clippy::too_many_arguments, clippy::missing_safety_doc, reason = "the C interface as it is")]
        impl Table {
            $(
                #[doc = concat!("Calls `", stringify!($name), "` and counts the call.\n\n# Safety\nThe rules of the C function.")]
                #[inline]
                pub unsafe fn $name(&self, $($p: $t),*) -> Result<$r, MissingFunction> {
                    let function = self.functions.$name.ok_or(MissingFunction(FunctionId::$name))?;
                    self.count(FunctionId::$name);
                    // SAFETY: the pointer has this signature (see `Functions::resolve`); the caller keeps the rules of
                    // the C function.
                    Ok(unsafe { function($($p),*) })
                }
            )*
        }
    };
}

vendor_functions!(define_functions!);

/// Who is behind a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Implementation {
    /// Huawei's libraries.
    Cann,
    /// The simulator, in process.
    SimulatorInProcess,
    /// The simulator's shared library, opened as if it were CANN.
    SimulatorLibrary,
}

impl Implementation {
    /// Whether nothing here runs on a device.
    pub fn is_simulated(self) -> bool {
        self != Self::Cann
    }
}

/// A library that was opened, and what was taken from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedLibrary {
    /// The path or bare name it was opened by.
    pub path: PathBuf,
    /// Functions of the list found through it.
    pub functions: Vec<FunctionId>,
}

/// Where the functions of a table came from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Who implements them.
    pub implementation: Implementation,
    /// What the implementation calls itself, where it has an identity symbol (the simulator's).
    pub identity: Option<String>,
    /// CANN release, where it could be told.
    pub release: Option<Release>,
    /// Libraries, in the order they were opened; empty for the simulator in process.
    pub libraries: Vec<LoadedLibrary>,
}

/// The call table.
pub struct Table {
    functions: Functions,
    origin: Origin,
    calls: Box<[AtomicU64]>,
}

impl core::fmt::Debug for Table {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let present = FUNCTIONS.len() - self.missing().count();
        f.debug_struct("Table").field("origin", &self.origin).field("functions", &present).finish_non_exhaustive()
    }
}

impl Table {
    /// Wraps function pointers.
    ///
    /// # Safety
    /// Every pointer of `functions` must be callable with its C signature for as long as the table lives.
    pub unsafe fn new(functions: Functions, origin: Origin) -> Self {
        Self { functions, origin, calls: FUNCTIONS.iter().map(|_| AtomicU64::new(0)).collect() }
    }

    /// The function pointers.
    pub fn functions(&self) -> &Functions {
        &self.functions
    }

    /// Where they came from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The same table without some functions, with fresh counts: what a release without them looks like.
    pub fn without(&self, ids: &[FunctionId]) -> Self {
        let mut functions = self.functions;
        for &id in ids {
            functions.remove(id);
        }
        // SAFETY: the pointers are those of `self`, whose maker vouched for them; libraries are never unloaded.
        unsafe { Self::new(functions, self.origin.clone()) }
    }

    /// Functions of the list that the table lacks.
    pub fn missing(&self) -> impl Iterator<Item = FunctionId> + '_ {
        FUNCTIONS
            .iter()
            .enumerate()
            .filter_map(|(index, _)| ALL_IDS.get(index).copied())
            .filter(|&id| !self.functions.has(id))
    }

    /// Whether both phases of an operator are there.
    pub fn has_operator(&self, id: OperatorId) -> bool {
        let info = id.info();
        self.functions.has(info.phase1) && self.functions.has(info.phase2)
    }

    /// How often a function was called through this table.
    pub fn calls(&self, id: FunctionId) -> u64 {
        self.calls[id as usize].load(Ordering::Relaxed)
    }

    /// Operators launched through this table (calls of phase 2) with their counts, in the order of the list.
    pub fn operator_calls(&self) -> impl Iterator<Item = (OperatorId, u64)> + '_ {
        crate::info::OPERATORS.iter().map(|op| (op.id, self.calls(op.phase2))).filter(|&(_, count)| count > 0)
    }

    #[inline]
    fn count(&self, id: FunctionId) {
        self.calls[id as usize].fetch_add(1, Ordering::Relaxed);
    }
}

macro_rules! define_ids {
    (
        functions { $($lib:ident $need:ident $since:literal $name:ident($($p:ident: $t:ty),*) -> $r:ty;)* }
        operators { $($olib:ident $osince:literal $op:ident: $ws:ident, $run:ident($($op_p:ident: $op_t:ty),*);)* }
    ) => {
        /// Every function of the list, in order.
        pub const ALL_IDS: &[FunctionId] = &[$(FunctionId::$name,)* $(FunctionId::$ws, FunctionId::$run,)*];
    };
}

vendor_functions!(define_ids!);

// The table is shared by threads; each C function says which thread may call it.
const _: () = {
    const fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<Table>();
    assert_send_sync::<Library>();
};
