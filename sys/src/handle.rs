//! Handles and plain structs of the C interface: what crosses it by pointer or by value.
//!
//! Opaque objects are distinct zero-sized types, so that a tensor never passes for an executor.
//! Handles that C declares as `void*` are distinct one-pointer structs for the same reason.

use core::ffi::{c_char, c_void};
use core::marker::{PhantomData, PhantomPinned};

macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[repr(C)]
        pub struct $name {
            _data: [u8; 0],
            _marker: PhantomData<(*mut u8, PhantomPinned)>,
        }
    )*

        /// C names of the opaque objects, for the generated headers.
        pub const OPAQUE_TYPES: &[&str] = &[$(stringify!($name)),*];
    };
}

opaque! {
    /// A tensor descriptor: shape, strides, dtype, format and a device address it does not own.
    aclTensor;
    /// A list of tensors, which it owns: destroying the list destroys them.
    aclTensorList;
    /// A host scalar, copied at creation.
    aclScalar;
    /// A list of scalars, which it owns.
    aclScalarList;
    /// A host array of `int64_t`, copied at creation.
    aclIntArray;
    /// A host array of `float`, copied at creation.
    aclFloatArray;
    /// A host array of `bool`, copied at creation.
    aclBoolArray;
    /// One prepared operator call: made by phase 1, consumed by phase 2 unless made repeatable.
    aclOpExecutor;
    /// What an exception callback is told.
    aclrtExceptionInfo;
}

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $(
            $(#[$doc])*
            #[repr(transparent)]
            #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
            pub struct $name(pub *mut c_void);

            impl $name {
                /// The null handle.
                pub const NULL: Self = Self(core::ptr::null_mut());

                /// Whether this is the null handle.
                pub fn is_null(self) -> bool {
                    self.0.is_null()
                }
            }

            // SAFETY: the value is a name for an object of the vendor library and is never dereferenced
            // here; which thread may use it is a rule of each call, upheld by the caller of that call.
            unsafe impl Send for $name {}
            // SAFETY: as above; the value itself is immutable.
            unsafe impl Sync for $name {}
        )*

        /// C names of the `void*` handles, for the generated headers.
        pub const HANDLE_TYPES: &[&str] = &[$(stringify!($name)),*];
    };
}

handles! {
    /// A context; the current one is a property of the thread.
    aclrtContext;
    /// A stream of one context. Null names the default stream of the current context.
    aclrtStream;
    /// An event.
    aclrtEvent;
    /// A captured graph of tasks that can be executed again and again.
    aclmdlRI;
    /// The tasks of a captured graph between two marks, to be updated together; owned by its graph.
    aclrtTaskGrp;
    /// An HCCL communicator.
    HcclComm;
}

/// A host function queued into a stream by `aclrtLaunchCallback`.
pub type aclrtCallback = Option<unsafe extern "C" fn(userData: *mut c_void)>;
/// A host function queued into a stream by `aclrtLaunchHostFunc`.
pub type aclrtHostFunc = Option<unsafe extern "C" fn(args: *mut c_void)>;
/// Called when a task of this process fails on a device.
pub type aclrtExceptionInfoCallback = Option<unsafe extern "C" fn(info: *mut aclrtExceptionInfo)>;

/// Version strings of one CANN package, NUL-terminated.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct aclCANNPackageVersion {
    /// The whole version, for example `9.1.0`.
    pub version: [c_char; 128],
    /// Major part.
    pub majorVersion: [c_char; 64],
    /// Minor part.
    pub minorVersion: [c_char; 64],
    /// Release part.
    pub releaseVersion: [c_char; 64],
    /// Patch part.
    pub patchVersion: [c_char; 64],
    /// Unused.
    pub reserved: [c_char; 128],
}

impl Default for aclCANNPackageVersion {
    fn default() -> Self {
        Self {
            version: [0; 128],
            majorVersion: [0; 64],
            minorVersion: [0; 64],
            releaseVersion: [0; 64],
            patchVersion: [0; 64],
            reserved: [0; 128],
        }
    }
}

/// The bytes the root rank of a communicator hands to the others.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HcclRootInfo {
    /// Opaque.
    pub internal: [c_char; 4108],
}

/// Configuration of a communicator, the 300-byte prefix of version 5 that every release accepts.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HcclCommConfig {
    /// Size, magic word and version (`HcclCommConfigInit` is inline in C and has no symbol).
    pub reserved: [c_char; 24],
    /// Buffer size in MB; `0xFFFF_FFFF` is "not set".
    pub hcclBufferSize: u32,
    /// Deterministic reductions; `0xFFFF_FFFF` is "not set".
    pub hcclDeterministic: u32,
    /// Name of the communicator, NUL-terminated.
    pub hcclCommName: [c_char; 128],
    /// User-defined information, NUL-terminated.
    pub hcclUdi: [c_char; 128],
    /// 0 default, 1 host, 2 AI CPU, 3 AIV.
    pub hcclOpExpansionMode: u32,
    /// RDMA traffic class; `0xFFFF_FFFF` is "not set".
    pub hcclRdmaTrafficClass: u32,
    /// RDMA service level; `0xFFFF_FFFF` is "not set".
    pub hcclRdmaServiceLevel: u32,
}

// Layouts of `cann-runtime` sections 2 and 6.2: runtime and hcomm headers, 8.1.RC1 to 9.2.
const _: () = assert!(size_of::<aclCANNPackageVersion>() == 512);
const _: () = assert!(size_of::<HcclRootInfo>() == 4108 && align_of::<HcclRootInfo>() == 1);
const _: () = assert!(core::mem::offset_of!(HcclCommConfig, hcclBufferSize) == 24);
const _: () = assert!(core::mem::offset_of!(HcclCommConfig, hcclRdmaServiceLevel) == 296);
const _: () = assert!(size_of::<HcclCommConfig>() == 300);
const _: () = assert!(size_of::<aclrtStream>() == size_of::<*mut c_void>());
