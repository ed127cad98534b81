//! Constants of the C interface as newtypes over their C integer, never as Rust enums: the vendor appends
//! members, and a value this crate does not know must pass through unharmed.
//!
//! Values: CANN runtime and opbase headers, unchanged between 8.1.RC1 and 9.2.0-beta.2.

use core::fmt;

/// One named constant of a C type, for the generated headers and the drift check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Constant {
    /// C type, for example `aclDataType`.
    pub c_type: &'static str,
    /// C name, for example `ACL_BF16`.
    pub name: &'static str,
    /// Value.
    pub value: i64,
}

/// How C declares a type of constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConstantKind {
    /// `typedef enum`.
    Enum,
    /// `typedef` of an integer, with the values as macros or `static const`.
    Integer,
}

/// One type of constants.
#[derive(Clone, Copy, Debug)]
pub struct ConstantType {
    /// C name.
    pub c_type: &'static str,
    /// C integer it is made of.
    pub repr: &'static str,
    /// How C declares it.
    pub kind: ConstantKind,
    /// Its members.
    pub members: &'static [Constant],
}

macro_rules! constants {
    ($($(#[$doc:meta])* $kind:ident $name:ident($repr:ty) { $($member:ident = $value:literal => $c:literal,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(transparent)]
            #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
            pub struct $name(pub $repr);

            impl $name {
                $(
                    #[doc = concat!("`", $c, "`")]
                    pub const $member: Self = Self($value);
                )*

                /// The members this crate knows.
                pub const KNOWN: &'static [Constant] = &[
                    $(Constant { c_type: stringify!($name), name: $c, value: $value as i64 }),*
                ];

                /// The C name of this value, if it is a known one.
                pub fn name(self) -> Option<&'static str> {
                    Self::KNOWN.iter().find(|c| c.value == i64::from(self.0)).map(|c| c.name)
                }
            }

            impl fmt::Debug for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    match self.name() {
                        Some(name) => f.write_str(name),
                        None => write!(f, concat!(stringify!($name), "({})"), self.0),
                    }
                }
            }
        )*

        /// Every type of constants with its members.
        pub const CONSTANT_TYPES: &[ConstantType] = &[
            $(ConstantType {
                c_type: stringify!($name),
                repr: stringify!($repr),
                kind: ConstantKind::$kind,
                members: $name::KNOWN,
            }),*
        ];
    };
}

constants! {
    /// Status of an `acl*` call. Families: 1xxxxx caller or environment, 2xxxxx resources or support,
    /// 3xxxxx business, 5xxxxx device or internal.
    Integer aclError(i32) {
        SUCCESS = 0 => "ACL_SUCCESS",
        INVALID_PARAM = 100000 => "ACL_ERROR_INVALID_PARAM",
        UNINITIALIZE = 100001 => "ACL_ERROR_UNINITIALIZE",
        REPEAT_INITIALIZE = 100002 => "ACL_ERROR_REPEAT_INITIALIZE",
        INVALID_FILE = 100003 => "ACL_ERROR_INVALID_FILE",
        WRITE_FILE = 100004 => "ACL_ERROR_WRITE_FILE",
        INVALID_FILE_SIZE = 100005 => "ACL_ERROR_INVALID_FILE_SIZE",
        PARSE_FILE = 100006 => "ACL_ERROR_PARSE_FILE",
        FILE_MISSING_ATTR = 100007 => "ACL_ERROR_FILE_MISSING_ATTR",
        FILE_ATTR_INVALID = 100008 => "ACL_ERROR_FILE_ATTR_INVALID",
        INVALID_DUMP_CONFIG = 100009 => "ACL_ERROR_INVALID_DUMP_CONFIG",
        INVALID_PROFILING_CONFIG = 100010 => "ACL_ERROR_INVALID_PROFILING_CONFIG",
        INVALID_QUEUE_ID = 100032 => "ACL_ERROR_INVALID_QUEUE_ID",
        REPEAT_SUBSCRIBE = 100033 => "ACL_ERROR_REPEAT_SUBSCRIBE",
        STREAM_NOT_SUBSCRIBE = 100034 => "ACL_ERROR_STREAM_NOT_SUBSCRIBE",
        THREAD_NOT_SUBSCRIBE = 100035 => "ACL_ERROR_THREAD_NOT_SUBSCRIBE",
        WAIT_CALLBACK_TIMEOUT = 100036 => "ACL_ERROR_WAIT_CALLBACK_TIMEOUT",
        REPEAT_FINALIZE = 100037 => "ACL_ERROR_REPEAT_FINALIZE",
        COMPILING_STUB_MODE = 100039 => "ACL_ERROR_COMPILING_STUB_MODE",
        INVALID_OPP_PATH = 148049 => "ACL_ERROR_INVALID_OPP_PATH",
        BAD_ALLOC = 200000 => "ACL_ERROR_BAD_ALLOC",
        API_NOT_SUPPORT = 200001 => "ACL_ERROR_API_NOT_SUPPORT",
        INVALID_DEVICE = 200002 => "ACL_ERROR_INVALID_DEVICE",
        MEMORY_ADDRESS_UNALIGNED = 200003 => "ACL_ERROR_MEMORY_ADDRESS_UNALIGNED",
        RESOURCE_NOT_MATCH = 200004 => "ACL_ERROR_RESOURCE_NOT_MATCH",
        INVALID_RESOURCE_HANDLE = 200005 => "ACL_ERROR_INVALID_RESOURCE_HANDLE",
        FEATURE_UNSUPPORTED = 200006 => "ACL_ERROR_FEATURE_UNSUPPORTED",
        PROF_MODULES_UNSUPPORTED = 200007 => "ACL_ERROR_PROF_MODULES_UNSUPPORTED",
        STORAGE_OVER_LIMIT = 300000 => "ACL_ERROR_STORAGE_OVER_LIMIT",
        INTERNAL_ERROR = 500000 => "ACL_ERROR_INTERNAL_ERROR",
        FAILURE = 500001 => "ACL_ERROR_FAILURE",
        GE_FAILURE = 500002 => "ACL_ERROR_GE_FAILURE",
        RT_FAILURE = 500003 => "ACL_ERROR_RT_FAILURE",
        DRV_FAILURE = 500004 => "ACL_ERROR_DRV_FAILURE",
        PROFILING_FAILURE = 500005 => "ACL_ERROR_PROFILING_FAILURE",
        RT_PARAM_INVALID = 107000 => "ACL_ERROR_RT_PARAM_INVALID",
        RT_INVALID_DEVICEID = 107001 => "ACL_ERROR_RT_INVALID_DEVICEID",
        RT_CONTEXT_NULL = 107002 => "ACL_ERROR_RT_CONTEXT_NULL",
        RT_STREAM_CONTEXT = 107003 => "ACL_ERROR_RT_STREAM_CONTEXT",
        RT_MODEL_CONTEXT = 107004 => "ACL_ERROR_RT_MODEL_CONTEXT",
        RT_STREAM_MODEL = 107005 => "ACL_ERROR_RT_STREAM_MODEL",
        RT_EVENT_TIMESTAMP_INVALID = 107006 => "ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID",
        RT_EVENT_TIMESTAMP_REVERSAL = 107007 => "ACL_ERROR_RT_EVENT_TIMESTAMP_REVERSAL",
        RT_ADDR_UNALIGNED = 107008 => "ACL_ERROR_RT_ADDR_UNALIGNED",
        RT_FILE_OPEN = 107009 => "ACL_ERROR_RT_FILE_OPEN",
        RT_FILE_WRITE = 107010 => "ACL_ERROR_RT_FILE_WRITE",
        RT_STREAM_SUBSCRIBE = 107011 => "ACL_ERROR_RT_STREAM_SUBSCRIBE",
        RT_THREAD_SUBSCRIBE = 107012 => "ACL_ERROR_RT_THREAD_SUBSCRIBE",
        RT_GROUP_NOT_SET = 107013 => "ACL_ERROR_RT_GROUP_NOT_SET",
        RT_GROUP_NOT_CREATE = 107014 => "ACL_ERROR_RT_GROUP_NOT_CREATE",
        RT_STREAM_NO_CB_REG = 107015 => "ACL_ERROR_RT_STREAM_NO_CB_REG",
        RT_INVALID_MEMORY_TYPE = 107016 => "ACL_ERROR_RT_INVALID_MEMORY_TYPE",
        RT_INVALID_HANDLE = 107017 => "ACL_ERROR_RT_INVALID_HANDLE",
        RT_INVALID_MALLOC_TYPE = 107018 => "ACL_ERROR_RT_INVALID_MALLOC_TYPE",
        RT_WAIT_TIMEOUT = 107019 => "ACL_ERROR_RT_WAIT_TIMEOUT",
        RT_TASK_TIMEOUT = 107020 => "ACL_ERROR_RT_TASK_TIMEOUT",
        RT_SYSPARAMOPT_NOT_SET = 107021 => "ACL_ERROR_RT_SYSPARAMOPT_NOT_SET",
        RT_DEVICE_TASK_ABORT = 107022 => "ACL_ERROR_RT_DEVICE_TASK_ABORT",
        RT_STREAM_ABORT = 107023 => "ACL_ERROR_RT_STREAM_ABORT",
        RT_CAPTURE_DEPENDENCY = 107024 => "ACL_ERROR_RT_CAPTURE_DEPENDENCY",
        RT_STREAM_UNJOINED = 107025 => "ACL_ERROR_RT_STREAM_UNJOINED",
        RT_MODEL_CAPTURED = 107026 => "ACL_ERROR_RT_MODEL_CAPTURED",
        RT_STREAM_CAPTURED = 107027 => "ACL_ERROR_RT_STREAM_CAPTURED",
        RT_EVENT_CAPTURED = 107028 => "ACL_ERROR_RT_EVENT_CAPTURED",
        RT_STREAM_NOT_CAPTURED = 107029 => "ACL_ERROR_RT_STREAM_NOT_CAPTURED",
        RT_CAPTURE_MODE_NOT_SUPPORT = 107030 => "ACL_ERROR_RT_CAPTURE_MODE_NOT_SUPPORT",
        RT_STREAM_CAPTURE_IMPLICIT = 107031 => "ACL_ERROR_RT_STREAM_CAPTURE_IMPLICIT",
        STREAM_CAPTURE_CONFLICT = 107032 => "ACL_ERROR_STREAM_CAPTURE_CONFLICT",
        STREAM_TASK_GROUP_STATUS = 107033 => "ACL_ERROR_STREAM_TASK_GROUP_STATUS",
        STREAM_TASK_GROUP_INTR = 107034 => "ACL_ERROR_STREAM_TASK_GROUP_INTR",
        RT_TASK_ABORT_STOP = 107035 => "ACL_ERROR_RT_TASK_ABORT_STOP",
        RT_STREAM_CAPTURE_UNMATCHED = 107036 => "ACL_ERROR_RT_STREAM_CAPTURE_UNMATCHED",
        RT_MODEL_RUNNING = 107037 => "ACL_ERROR_RT_MODEL_RUNNING",
        RT_STREAM_CAPTURE_WRONG_THREAD = 107038 => "ACL_ERROR_RT_STREAM_CAPTURE_WRONG_THREAD",
        RT_INSUFFICIENT_INPUT_ARRAY = 107039 => "ACL_ERROR_RT_INSUFFICIENT_INPUT_ARRAY",
        RT_MODEL_UPDATE_FAILED = 107040 => "ACL_ERROR_RT_MODEL_UPDATE_FAILED",
        RT_CAPTURE_MODE_BLOCK_ASYNC = 107041 => "ACL_ERROR_RT_CAPTURE_MODE_BLOCK_ASYNC",
        RT_SYMBOL_NOT_FOUND = 107042 => "ACL_ERROR_RT_SYMBOL_NOT_FOUND",
        RT_INVALID_SYMBOL = 107043 => "ACL_ERROR_RT_INVALID_SYMBOL",
        RT_INVALID_DEVICE_FUNCTION = 107044 => "ACL_ERROR_RT_INVALID_DEVICE_FUNCTION",
        RT_SUB_ACLGRAPH_IS_CAPTURING = 107045 => "ACL_ERROR_RT_SUB_ACLGRAPH_IS_CAPTURING",
        RT_FEATURE_NOT_SUPPORT = 207000 => "ACL_ERROR_RT_FEATURE_NOT_SUPPORT",
        RT_MEMORY_ALLOCATION = 207001 => "ACL_ERROR_RT_MEMORY_ALLOCATION",
        RT_MEMORY_FREE = 207002 => "ACL_ERROR_RT_MEMORY_FREE",
        RT_AICORE_OVER_FLOW = 207003 => "ACL_ERROR_RT_AICORE_OVER_FLOW",
        RT_NO_DEVICE = 207004 => "ACL_ERROR_RT_NO_DEVICE",
        RT_RESOURCE_ALLOC_FAIL = 207005 => "ACL_ERROR_RT_RESOURCE_ALLOC_FAIL",
        RT_NO_PERMISSION = 207006 => "ACL_ERROR_RT_NO_PERMISSION",
        RT_NO_EVENT_RESOURCE = 207007 => "ACL_ERROR_RT_NO_EVENT_RESOURCE",
        RT_NO_STREAM_RESOURCE = 207008 => "ACL_ERROR_RT_NO_STREAM_RESOURCE",
        RT_NO_NOTIFY_RESOURCE = 207009 => "ACL_ERROR_RT_NO_NOTIFY_RESOURCE",
        RT_NO_MODEL_RESOURCE = 207010 => "ACL_ERROR_RT_NO_MODEL_RESOURCE",
        RT_NO_CDQ_RESOURCE = 207011 => "ACL_ERROR_RT_NO_CDQ_RESOURCE",
        RT_OVER_LIMIT = 207012 => "ACL_ERROR_RT_OVER_LIMIT",
        RT_QUEUE_EMPTY = 207013 => "ACL_ERROR_RT_QUEUE_EMPTY",
        RT_QUEUE_FULL = 207014 => "ACL_ERROR_RT_QUEUE_FULL",
        RT_REPEATED_INIT = 207015 => "ACL_ERROR_RT_REPEATED_INIT",
        RT_AIVEC_OVER_FLOW = 207016 => "ACL_ERROR_RT_AIVEC_OVER_FLOW",
        RT_OVER_FLOW = 207017 => "ACL_ERROR_RT_OVER_FLOW",
        RT_DEVICE_OOM = 207018 => "ACL_ERROR_RT_DEVICE_OOM",
        RT_FEATURE_NOT_SUPPORT_UPDATE_OP = 207019 => "ACL_ERROR_RT_FEATURE_NOT_SUPPORT_UPDATE_OP",
        RT_TIMEOUT = 207020 => "ACL_ERROR_RT_TIMEOUT",
        RT_LINK_TYPE_NOT_SUPPORTED = 207021 => "ACL_ERROR_RT_LINK_TYPE_NOT_SUPPORTED",
        RT_INTERNAL_ERROR = 507000 => "ACL_ERROR_RT_INTERNAL_ERROR",
        RT_TS_ERROR = 507001 => "ACL_ERROR_RT_TS_ERROR",
        RT_STREAM_TASK_FULL = 507002 => "ACL_ERROR_RT_STREAM_TASK_FULL",
        RT_STREAM_TASK_EMPTY = 507003 => "ACL_ERROR_RT_STREAM_TASK_EMPTY",
        RT_STREAM_NOT_COMPLETE = 507004 => "ACL_ERROR_RT_STREAM_NOT_COMPLETE",
        RT_END_OF_SEQUENCE = 507005 => "ACL_ERROR_RT_END_OF_SEQUENCE",
        RT_EVENT_NOT_COMPLETE = 507006 => "ACL_ERROR_RT_EVENT_NOT_COMPLETE",
        RT_CONTEXT_RELEASE_ERROR = 507007 => "ACL_ERROR_RT_CONTEXT_RELEASE_ERROR",
        RT_SOC_VERSION = 507008 => "ACL_ERROR_RT_SOC_VERSION",
        RT_TASK_TYPE_NOT_SUPPORT = 507009 => "ACL_ERROR_RT_TASK_TYPE_NOT_SUPPORT",
        RT_LOST_HEARTBEAT = 507010 => "ACL_ERROR_RT_LOST_HEARTBEAT",
        RT_MODEL_EXECUTE = 507011 => "ACL_ERROR_RT_MODEL_EXECUTE",
        RT_REPORT_TIMEOUT = 507012 => "ACL_ERROR_RT_REPORT_TIMEOUT",
        RT_SYS_DMA = 507013 => "ACL_ERROR_RT_SYS_DMA",
        RT_AICORE_TIMEOUT = 507014 => "ACL_ERROR_RT_AICORE_TIMEOUT",
        RT_AICORE_EXCEPTION = 507015 => "ACL_ERROR_RT_AICORE_EXCEPTION",
        RT_AICORE_TRAP_EXCEPTION = 507016 => "ACL_ERROR_RT_AICORE_TRAP_EXCEPTION",
        RT_AICPU_TIMEOUT = 507017 => "ACL_ERROR_RT_AICPU_TIMEOUT",
        RT_AICPU_EXCEPTION = 507018 => "ACL_ERROR_RT_AICPU_EXCEPTION",
        RT_AICPU_DATADUMP_RSP = 507019 => "ACL_ERROR_RT_AICPU_DATADUMP_RSP",
        RT_AICPU_MODEL_RSP = 507020 => "ACL_ERROR_RT_AICPU_MODEL_RSP",
        RT_PROFILING = 507021 => "ACL_ERROR_RT_PROFILING",
        RT_IPC = 507022 => "ACL_ERROR_RT_IPC",
        RT_MODEL_ABORT_NORMAL = 507023 => "ACL_ERROR_RT_MODEL_ABORT_NORMAL",
        RT_KERNEL_UNREGISTERING = 507024 => "ACL_ERROR_RT_KERNEL_UNREGISTERING",
        RT_KERNEL_LOOKUP = 507027 => "ACL_ERROR_RT_KERNEL_LOOKUP",
        RT_KERNEL_DUPLICATE = 507028 => "ACL_ERROR_RT_KERNEL_DUPLICATE",
        RT_LABEL_CONTEXT = 507031 => "ACL_ERROR_RT_LABEL_CONTEXT",
        RT_PROGRAM_USE_OUT = 507032 => "ACL_ERROR_RT_PROGRAM_USE_OUT",
        RT_DEV_SETUP_ERROR = 507033 => "ACL_ERROR_RT_DEV_SETUP_ERROR",
        RT_VECTOR_CORE_TIMEOUT = 507034 => "ACL_ERROR_RT_VECTOR_CORE_TIMEOUT",
        RT_VECTOR_CORE_EXCEPTION = 507035 => "ACL_ERROR_RT_VECTOR_CORE_EXCEPTION",
        RT_VECTOR_CORE_TRAP = 507036 => "ACL_ERROR_RT_VECTOR_CORE_TRAP",
        RT_CDQ_BATCH_ABNORMAL = 507037 => "ACL_ERROR_RT_CDQ_BATCH_ABNORMAL",
        RT_DIE_MODE_CHANGE = 507038 => "ACL_ERROR_RT_DIE_MODE_CHANGE",
        RT_DIE_SET = 507039 => "ACL_ERROR_RT_DIE_SET",
        RT_INVALID_DIEID = 507040 => "ACL_ERROR_RT_INVALID_DIEID",
        RT_DIE_MODE_NOT_SET = 507041 => "ACL_ERROR_RT_DIE_MODE_NOT_SET",
        RT_STREAM_SYNC_TIMEOUT = 507046 => "ACL_ERROR_RT_STREAM_SYNC_TIMEOUT",
        RT_EVENT_SYNC_TIMEOUT = 507047 => "ACL_ERROR_RT_EVENT_SYNC_TIMEOUT",
        RT_FFTS_PLUS_TIMEOUT = 507048 => "ACL_ERROR_RT_FFTS_PLUS_TIMEOUT",
        RT_FFTS_PLUS_EXCEPTION = 507049 => "ACL_ERROR_RT_FFTS_PLUS_EXCEPTION",
        RT_FFTS_PLUS_TRAP = 507050 => "ACL_ERROR_RT_FFTS_PLUS_TRAP",
        RT_SEND_MSG = 507051 => "ACL_ERROR_RT_SEND_MSG",
        RT_COPY_DATA = 507052 => "ACL_ERROR_RT_COPY_DATA",
        RT_DEVICE_MEM_ERROR = 507053 => "ACL_ERROR_RT_DEVICE_MEM_ERROR",
        RT_HBM_MULTI_BIT_ECC = 507054 => "ACL_ERROR_RT_HBM_MULTI_BIT_ECC",
        RT_SUSPECT_DEVICE_MEM = 507055 => "ACL_ERROR_RT_SUSPECT_DEVICE_MEM",
        RT_LINK_ERROR = 507056 => "ACL_ERROR_RT_LINK_ERROR",
        RT_SUSPECT_REMOTE = 507057 => "ACL_ERROR_RT_SUSPECT_REMOTE",
        RT_DRV_INTERNAL_ERROR = 507899 => "ACL_ERROR_RT_DRV_INTERNAL_ERROR",
        RT_AICPU_INTERNAL = 507900 => "ACL_ERROR_RT_AICPU_INTERNAL",
        RT_SOCKET_CLOSE = 507901 => "ACL_ERROR_RT_SOCKET_CLOSE",
        RT_AICPU_INFO_LOAD_RSP = 507902 => "ACL_ERROR_RT_AICPU_INFO_LOAD_RSP",
        RT_STREAM_CAPTURE_INVALIDATED = 507903 => "ACL_ERROR_RT_STREAM_CAPTURE_INVALIDATED",
        RT_COMM_OP_RETRY_FAIL = 507904 => "ACL_ERROR_RT_COMM_OP_RETRY_FAIL",
        RT_L3_PORT = 507914 => "ACL_ERROR_RT_L3_PORT",
    }
    /// Status of an aclnn call (opbase `op_errno.h`).
    Integer aclnnStatus(i32) {
        SUCCESS = 0 => "ACLNN_SUCCESS",
        ERR_PARAM_NULLPTR = 161001 => "ACLNN_ERR_PARAM_NULLPTR",
        ERR_PARAM_INVALID = 161002 => "ACLNN_ERR_PARAM_INVALID",
        ERR_RUNTIME_ERROR = 361001 => "ACLNN_ERR_RUNTIME_ERROR",
        ERR_INNER = 561000 => "ACLNN_ERR_INNER",
        ERR_INNER_INFERSHAPE_ERROR = 561001 => "ACLNN_ERR_INNER_INFERSHAPE_ERROR",
        ERR_INNER_TILING_ERROR = 561002 => "ACLNN_ERR_INNER_TILING_ERROR",
        ERR_INNER_FIND_KERNEL_ERROR = 561003 => "ACLNN_ERR_INNER_FIND_KERNEL_ERROR",
        ERR_INNER_CREATE_EXECUTOR = 561101 => "ACLNN_ERR_INNER_CREATE_EXECUTOR",
        ERR_INNER_NOT_TRANS_EXECUTOR = 561102 => "ACLNN_ERR_INNER_NOT_TRANS_EXECUTOR",
        ERR_INNER_NULLPTR = 561103 => "ACLNN_ERR_INNER_NULLPTR",
        ERR_INNER_OPP_PATH_NOT_FOUND = 561107 => "ACLNN_ERR_INNER_OPP_PATH_NOT_FOUND",
        ERR_INNER_OPP_KERNEL_PKG_NOT_FOUND = 561112 => "ACLNN_ERR_INNER_OPP_KERNEL_PKG_NOT_FOUND",
    }
    /// Element type of a tensor or scalar.
    Enum aclDataType(i32) {
        UNDEFINED = -1 => "ACL_DT_UNDEFINED",
        FLOAT = 0 => "ACL_FLOAT",
        FLOAT16 = 1 => "ACL_FLOAT16",
        INT8 = 2 => "ACL_INT8",
        INT32 = 3 => "ACL_INT32",
        UINT8 = 4 => "ACL_UINT8",
        INT16 = 6 => "ACL_INT16",
        UINT16 = 7 => "ACL_UINT16",
        UINT32 = 8 => "ACL_UINT32",
        INT64 = 9 => "ACL_INT64",
        UINT64 = 10 => "ACL_UINT64",
        DOUBLE = 11 => "ACL_DOUBLE",
        BOOL = 12 => "ACL_BOOL",
        STRING = 13 => "ACL_STRING",
        COMPLEX64 = 16 => "ACL_COMPLEX64",
        COMPLEX128 = 17 => "ACL_COMPLEX128",
        BF16 = 27 => "ACL_BF16",
        INT4 = 29 => "ACL_INT4",
        UINT1 = 30 => "ACL_UINT1",
        COMPLEX32 = 33 => "ACL_COMPLEX32",
        HIFLOAT8 = 34 => "ACL_HIFLOAT8",
        FLOAT8_E5M2 = 35 => "ACL_FLOAT8_E5M2",
        FLOAT8_E4M3FN = 36 => "ACL_FLOAT8_E4M3FN",
        FLOAT8_E8M0 = 37 => "ACL_FLOAT8_E8M0",
        FLOAT6_E3M2 = 38 => "ACL_FLOAT6_E3M2",
        FLOAT6_E2M3 = 39 => "ACL_FLOAT6_E2M3",
        FLOAT4_E2M1 = 40 => "ACL_FLOAT4_E2M1",
        FLOAT4_E1M2 = 41 => "ACL_FLOAT4_E1M2",
    }
    /// Storage format of a tensor.
    Enum aclFormat(i32) {
        UNDEFINED = -1 => "ACL_FORMAT_UNDEFINED",
        NCHW = 0 => "ACL_FORMAT_NCHW",
        NHWC = 1 => "ACL_FORMAT_NHWC",
        ND = 2 => "ACL_FORMAT_ND",
        NC1HWC0 = 3 => "ACL_FORMAT_NC1HWC0",
        FRACTAL_Z = 4 => "ACL_FORMAT_FRACTAL_Z",
        NC1HWC0_C04 = 12 => "ACL_FORMAT_NC1HWC0_C04",
        HWCN = 16 => "ACL_FORMAT_HWCN",
        NDHWC = 27 => "ACL_FORMAT_NDHWC",
        FRACTAL_NZ = 29 => "ACL_FORMAT_FRACTAL_NZ",
        NCDHW = 30 => "ACL_FORMAT_NCDHW",
        NDC1HWC0 = 32 => "ACL_FORMAT_NDC1HWC0",
        FRACTAL_Z_3D = 33 => "ACL_FRACTAL_Z_3D",
        NC = 35 => "ACL_FORMAT_NC",
        NCL = 47 => "ACL_FORMAT_NCL",
    }
    /// Page policy of a device allocation.
    Enum aclrtMemMallocPolicy(u32) {
        HUGE_FIRST = 0 => "ACL_MEM_MALLOC_HUGE_FIRST",
        HUGE_ONLY = 1 => "ACL_MEM_MALLOC_HUGE_ONLY",
        NORMAL_ONLY = 2 => "ACL_MEM_MALLOC_NORMAL_ONLY",
        HUGE_FIRST_P2P = 3 => "ACL_MEM_MALLOC_HUGE_FIRST_P2P",
        HUGE_ONLY_P2P = 4 => "ACL_MEM_MALLOC_HUGE_ONLY_P2P",
        NORMAL_ONLY_P2P = 5 => "ACL_MEM_MALLOC_NORMAL_ONLY_P2P",
        HUGE1G_ONLY = 6 => "ACL_MEM_MALLOC_HUGE1G_ONLY",
        HUGE1G_ONLY_P2P = 7 => "ACL_MEM_MALLOC_HUGE1G_ONLY_P2P",
        TYPE_LOW_BAND_WIDTH = 0x100 => "ACL_MEM_TYPE_LOW_BAND_WIDTH",
        TYPE_HIGH_BAND_WIDTH = 0x1000 => "ACL_MEM_TYPE_HIGH_BAND_WIDTH",
        ACCESS_USER_SPACE_READONLY = 0x100000 => "ACL_MEM_ACCESS_USER_SPACE_READONLY",
    }
    /// Direction of a copy. Kinds above 5 are refused by `aclrtMemcpy` and `aclrtMemcpyAsync`.
    Enum aclrtMemcpyKind(u32) {
        HOST_TO_HOST = 0 => "ACL_MEMCPY_HOST_TO_HOST",
        HOST_TO_DEVICE = 1 => "ACL_MEMCPY_HOST_TO_DEVICE",
        DEVICE_TO_HOST = 2 => "ACL_MEMCPY_DEVICE_TO_HOST",
        DEVICE_TO_DEVICE = 3 => "ACL_MEMCPY_DEVICE_TO_DEVICE",
        DEFAULT = 4 => "ACL_MEMCPY_DEFAULT",
        HOST_TO_BUF_TO_DEVICE = 5 => "ACL_MEMCPY_HOST_TO_BUF_TO_DEVICE",
        INNER_DEVICE_TO_DEVICE = 6 => "ACL_MEMCPY_INNER_DEVICE_TO_DEVICE",
        INTER_DEVICE_TO_DEVICE = 7 => "ACL_MEMCPY_INTER_DEVICE_TO_DEVICE",
    }
    /// Which memory `aclrtGetMemInfo` is asked about.
    Enum aclrtMemAttr(u32) {
        DDR = 0 => "ACL_DDR_MEM",
        HBM = 1 => "ACL_HBM_MEM",
        DDR_HUGE = 2 => "ACL_DDR_MEM_HUGE",
        DDR_NORMAL = 3 => "ACL_DDR_MEM_NORMAL",
        HBM_HUGE = 4 => "ACL_HBM_MEM_HUGE",
        HBM_NORMAL = 5 => "ACL_HBM_MEM_NORMAL",
    }
    /// Status told by `aclrtQueryEventStatus`; the older query inverts the numbers.
    Enum aclrtEventRecordedStatus(u32) {
        NOT_READY = 0 => "ACL_EVENT_RECORDED_STATUS_NOT_READY",
        COMPLETE = 1 => "ACL_EVENT_RECORDED_STATUS_COMPLETE",
    }
    /// Status told by `aclrtStreamQuery`.
    Enum aclrtStreamStatus(u32) {
        COMPLETE = 0 => "ACL_STREAM_STATUS_COMPLETE",
        NOT_READY = 1 => "ACL_STREAM_STATUS_NOT_READY",
        RESERVED = 0xFFFF => "ACL_STREAM_STATUS_RESERVED",
    }
    /// Which threads may not make unsafe calls (synchronous copies) while a stream is captured.
    Enum aclmdlRICaptureMode(u32) {
        GLOBAL = 0 => "ACL_MODEL_RI_CAPTURE_MODE_GLOBAL",
        THREAD_LOCAL = 1 => "ACL_MODEL_RI_CAPTURE_MODE_THREAD_LOCAL",
        RELAXED = 2 => "ACL_MODEL_RI_CAPTURE_MODE_RELAXED",
    }
    /// State of a stream told by `aclmdlRICaptureGetInfo`.
    Enum aclmdlRICaptureStatus(u32) {
        NONE = 0 => "ACL_MODEL_RI_CAPTURE_STATUS_NONE",
        ACTIVE = 1 => "ACL_MODEL_RI_CAPTURE_STATUS_ACTIVE",
        INVALIDATED = 2 => "ACL_MODEL_RI_CAPTURE_STATUS_INVALIDATED",
    }
    /// Whether later work of the stream waits for a queued callback.
    Enum aclrtCallbackBlockType(u32) {
        NO_BLOCK = 0 => "ACL_CALLBACK_NO_BLOCK",
        BLOCK = 1 => "ACL_CALLBACK_BLOCK",
    }
    /// Overflow behaviour of the floating-point units.
    Enum aclrtFloatOverflowMode(u32) {
        SATURATION = 0 => "ACL_RT_OVERFLOW_MODE_SATURATION",
        INFNAN = 1 => "ACL_RT_OVERFLOW_MODE_INFNAN",
        UNDEF = 2 => "ACL_RT_OVERFLOW_MODE_UNDEF",
    }
    /// Scope of the last-error query.
    Enum aclrtLastErrLevel(u32) {
        THREAD = 0 => "ACL_RT_THREAD_LEVEL",
    }
    /// Process-wide options.
    Enum aclSysParamOpt(u32) {
        DETERMINISTIC = 0 => "ACL_OPT_DETERMINISTIC",
        ENABLE_DEBUG_KERNEL = 1 => "ACL_OPT_ENABLE_DEBUG_KERNEL",
        STRONG_CONSISTENCY = 2 => "ACL_OPT_STRONG_CONSISTENCY",
    }
    /// What `aclGetDeviceCapability` is asked for.
    Enum aclDeviceInfo(i32) {
        UNDEFINED = -1 => "ACL_DEVICE_INFO_UNDEFINED",
        AI_CORE_NUM = 0 => "ACL_DEVICE_INFO_AI_CORE_NUM",
        VECTOR_CORE_NUM = 1 => "ACL_DEVICE_INFO_VECTOR_CORE_NUM",
        L2_SIZE = 2 => "ACL_DEVICE_INFO_L2_SIZE",
    }
    /// What `aclrtGetDeviceInfo` is asked for (8.5).
    Enum aclrtDevAttr(u32) {
        AICPU_CORE_NUM = 1 => "ACL_DEV_ATTR_AICPU_CORE_NUM",
        AICORE_CORE_NUM = 101 => "ACL_DEV_ATTR_AICORE_CORE_NUM",
        CUBE_CORE_NUM = 102 => "ACL_DEV_ATTR_CUBE_CORE_NUM",
        VECTOR_CORE_NUM = 201 => "ACL_DEV_ATTR_VECTOR_CORE_NUM",
        TOTAL_GLOBAL_MEM_SIZE = 301 => "ACL_DEV_ATTR_TOTAL_GLOBAL_MEM_SIZE",
        L2_CACHE_SIZE = 302 => "ACL_DEV_ATTR_L2_CACHE_SIZE",
        PHY_CHIP_ID = 402 => "ACL_DEV_ATTR_PHY_CHIP_ID",
    }
    /// Package whose version `aclsysGetCANNVersion` tells.
    Enum aclCANNPackageName(u32) {
        CANN = 0 => "ACL_PKG_NAME_CANN",
        RUNTIME = 1 => "ACL_PKG_NAME_RUNTIME",
        COMPILER = 2 => "ACL_PKG_NAME_COMPILER",
        HCCL = 3 => "ACL_PKG_NAME_HCCL",
        TOOLKIT = 4 => "ACL_PKG_NAME_TOOLKIT",
        OPP = 5 => "ACL_PKG_NAME_OPP",
        OPP_KERNEL = 6 => "ACL_PKG_NAME_OPP_KERNEL",
        DRIVER = 7 => "ACL_PKG_NAME_DRIVER",
    }
    /// Status of an HCCL call.
    Enum HcclResult(u32) {
        SUCCESS = 0 => "HCCL_SUCCESS",
        E_PARA = 1 => "HCCL_E_PARA",
        E_PTR = 2 => "HCCL_E_PTR",
        E_MEMORY = 3 => "HCCL_E_MEMORY",
        E_INTERNAL = 4 => "HCCL_E_INTERNAL",
        E_NOT_SUPPORT = 5 => "HCCL_E_NOT_SUPPORT",
        E_NOT_FOUND = 6 => "HCCL_E_NOT_FOUND",
        E_UNAVAIL = 7 => "HCCL_E_UNAVAIL",
        E_SYSCALL = 8 => "HCCL_E_SYSCALL",
        E_TIMEOUT = 9 => "HCCL_E_TIMEOUT",
        E_RUNTIME = 15 => "HCCL_E_RUNTIME",
        E_DRV = 16 => "HCCL_E_DRV",
        E_NETWORK = 19 => "HCCL_E_NETWORK",
        E_AGAIN = 20 => "HCCL_E_AGAIN",
        E_REMOTE = 21 => "HCCL_E_REMOTE",
    }
    /// Element type of a collective; numbered unlike `aclDataType`.
    Enum HcclDataType(u32) {
        INT8 = 0 => "HCCL_DATA_TYPE_INT8",
        INT16 = 1 => "HCCL_DATA_TYPE_INT16",
        INT32 = 2 => "HCCL_DATA_TYPE_INT32",
        FP16 = 3 => "HCCL_DATA_TYPE_FP16",
        FP32 = 4 => "HCCL_DATA_TYPE_FP32",
        INT64 = 5 => "HCCL_DATA_TYPE_INT64",
        UINT64 = 6 => "HCCL_DATA_TYPE_UINT64",
        UINT8 = 7 => "HCCL_DATA_TYPE_UINT8",
        UINT16 = 8 => "HCCL_DATA_TYPE_UINT16",
        UINT32 = 9 => "HCCL_DATA_TYPE_UINT32",
        FP64 = 10 => "HCCL_DATA_TYPE_FP64",
        BFP16 = 11 => "HCCL_DATA_TYPE_BFP16",
    }
    /// Reduction of a collective.
    Enum HcclReduceOp(u32) {
        SUM = 0 => "HCCL_REDUCE_SUM",
        PROD = 1 => "HCCL_REDUCE_PROD",
        MAX = 2 => "HCCL_REDUCE_MAX",
        MIN = 3 => "HCCL_REDUCE_MIN",
    }
}

impl aclError {
    /// Whether the call succeeded.
    pub fn is_ok(self) -> bool {
        self == Self::SUCCESS
    }

    /// Whether the code belongs to the 507xxx family: the device or the context behind the call is lost until reset.
    /// 507046 and 507047 (the caller's own time-out ran out) and 507000 (elapsed time of an event never recorded) are not faults.
    pub fn is_device_fault(self) -> bool {
        (507_000..508_000).contains(&self.0)
            && ![Self::RT_STREAM_SYNC_TIMEOUT, Self::RT_EVENT_SYNC_TIMEOUT, Self::RT_INTERNAL_ERROR].contains(&self)
    }

    /// Whether the code says that device memory ran out (207001 by the driver, 207018 by the device).
    pub fn is_out_of_memory(self) -> bool {
        self == Self::RT_MEMORY_ALLOCATION || self == Self::RT_DEVICE_OOM
    }
}

impl aclnnStatus {
    /// Whether the call succeeded.
    pub fn is_ok(self) -> bool {
        self == Self::SUCCESS
    }
}

impl aclDataType {
    /// Bits of one element; `None` for types without a size or unknown ones.
    pub fn bits(self) -> Option<usize> {
        Some(match self {
            Self::FLOAT | Self::INT32 | Self::UINT32 | Self::COMPLEX32 => 32,
            Self::FLOAT16 | Self::BF16 | Self::INT16 | Self::UINT16 => 16,
            Self::INT8 | Self::UINT8 | Self::BOOL => 8,
            Self::HIFLOAT8 | Self::FLOAT8_E5M2 | Self::FLOAT8_E4M3FN | Self::FLOAT8_E8M0 => 8,
            Self::INT64 | Self::UINT64 | Self::DOUBLE | Self::COMPLEX64 => 64,
            Self::COMPLEX128 => 128,
            Self::INT4 | Self::FLOAT4_E2M1 | Self::FLOAT4_E1M2 => 4,
            Self::UINT1 => 1,
            _ => return None,
        })
    }

    /// Bytes of one element; `None` where an element is no whole number of bytes.
    pub fn bytes(self) -> Option<usize> {
        self.bits().filter(|bits| bits % 8 == 0).map(|bits| bits / 8)
    }
}

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        $($(#[$doc])* pub const $name: u32 = $value;)*

        /// The flag macros with their values.
        pub const FLAGS: &[Constant] = &[
            $(Constant { c_type: "uint32_t", name: stringify!($name), value: $value }),*
        ];
    };
}

flags! {
    /// Event usable for waits between streams.
    ACL_EVENT_SYNC = 0x1;
    /// Event that follows the progress of a stream.
    ACL_EVENT_CAPTURE_STREAM_PROGRESS = 0x2;
    /// Event that carries a time stamp.
    ACL_EVENT_TIME_LINE = 0x8;
    /// Stream with pre-allocated launch resources.
    ACL_STREAM_FAST_LAUNCH = 0x1;
    /// Stream whose synchronisation spins instead of sleeping.
    ACL_STREAM_FAST_SYNC = 0x2;
}
