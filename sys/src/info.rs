//! What the list says about each function, as data: for the loader, the headers and the drift checks.

use core::fmt;

use crate::vendor_functions;

/// Library family that a function lives in. Which files carry it depends on the release; the loader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Library {
    /// The ACL runtime: `libacl_rt.so` (8.5 and later) or `libascendcl.so`.
    Acl,
    /// aclnn base: `libnnopbase.so`.
    Base,
    /// Operators of ops-math.
    OpsMath,
    /// Operators of ops-nn.
    OpsNn,
    /// Operators of ops-transformer.
    OpsTransformer,
    /// HCCL collectives.
    Hccl,
    /// HCCL communicator management (`libhcomm.so` since 8.5).
    HcclComm,
}

impl Library {
    /// Whether this family holds aclnn operators.
    pub fn is_operators(self) -> bool {
        matches!(self, Self::OpsMath | Self::OpsNn | Self::OpsTransformer)
    }

    /// Whether this family belongs to HCCL.
    pub fn is_hccl(self) -> bool {
        matches!(self, Self::Hccl | Self::HcclComm)
    }
}

/// How much the backend needs a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// Without it the libraries are not usable.
    Must,
    /// Present in every supported release; its absence is reported and worked around.
    Should,
    /// Only newer releases have it.
    Optional,
    /// Part of an operator: absent operators are a run-time state of the call that wants them.
    Operator,
}

/// A CANN release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Release {
    /// Major number.
    pub major: u16,
    /// Minor number.
    pub minor: u16,
    /// Patch number.
    pub patch: u16,
}

impl Release {
    /// The oldest release this crate binds; older ones lack the operators.
    pub const MINIMUM: Self = Self::new(8, 5, 0);

    /// `major.minor.patch`.
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }

    /// Reads the numbers at the start of a version string: `9.1.0`, `8.1.RC1`, `8.5.0.alpha003`, `9.2.0-beta.2`.
    /// What follows the numbers is dropped; `None` where there is no major and minor number.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split(['.', '-', '_', ' ']);
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        let patch = parts.next().and_then(|p| p.parse().ok()).unwrap_or(0);
        Some(Self { major, minor, patch })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// One function of the list.
#[derive(Clone, Copy, Debug)]
pub struct FunctionInfo {
    /// C name.
    pub name: &'static str,
    /// Library family.
    pub library: Library,
    /// How much it is needed.
    pub need: Need,
    /// First release known to have this signature, as the list spells it.
    pub since: &'static str,
    /// Parameters: name and type, in this crate's spelling (`self_` stands for C's `self`).
    pub params: &'static [(&'static str, &'static str)],
    /// Return type in this crate's spelling.
    pub returns: &'static str,
    /// The operator this function is a phase of.
    pub operator: Option<OperatorId>,
}

impl FunctionInfo {
    /// First release with this function.
    pub fn since(&self) -> Release {
        Release::parse(self.since).unwrap_or(Release::MINIMUM)
    }
}

/// One operator of the list.
#[derive(Clone, Copy, Debug)]
pub struct OperatorInfo {
    /// Which operator.
    pub id: OperatorId,
    /// Name without the `aclnn` prefix.
    pub name: &'static str,
    /// Phase 1.
    pub phase1: FunctionId,
    /// Phase 2.
    pub phase2: FunctionId,
    /// Parameters of phase 1 without the workspace size and the executor: name and type.
    pub params: &'static [(&'static str, &'static str)],
}

macro_rules! define_info {
    (
        functions { $($lib:ident $need:ident $since:literal $name:ident($($p:ident: $t:ty),*) -> $r:ty;)* }
        operators { $($olib:ident $osince:literal $op:ident: $ws:ident, $run:ident($($op_p:ident: $op_t:ty),*);)* }
    ) => {
        /// Every function of the list, in order; indexes [`FUNCTIONS`].
        #[allow(non_camel_case_types, missing_docs, reason = "one variant per C function, under its C name")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(usize)]
        pub enum FunctionId { $($name,)* $($ws, $run,)* }

        /// Every operator of the list, in order; indexes [`OPERATORS`].
        #[allow(missing_docs, reason = "one variant per operator, under its CANN name")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(usize)]
        pub enum OperatorId { $($op,)* }

        /// The list.
        pub static FUNCTIONS: &[FunctionInfo] = &[
            $(FunctionInfo {
                name: stringify!($name),
                library: Library::$lib,
                need: Need::$need,
                since: $since,
                params: &[$((stringify!($p), stringify!($t))),*],
                returns: stringify!($r),
                operator: None,
            },)*
            $(FunctionInfo {
                name: stringify!($ws),
                library: Library::$olib,
                need: Need::Operator,
                since: $osince,
                params: &[
                    $((stringify!($op_p), stringify!($op_t)),)*
                    ("workspaceSize", "*mut u64"),
                    ("executor", "*mut *mut aclOpExecutor"),
                ],
                returns: "aclnnStatus",
                operator: Some(OperatorId::$op),
            },
            FunctionInfo {
                name: stringify!($run),
                library: Library::$olib,
                need: Need::Operator,
                since: $osince,
                params: &[
                    ("workspace", "*mut c_void"),
                    ("workspaceSize", "u64"),
                    ("executor", "*mut aclOpExecutor"),
                    ("stream", "aclrtStream"),
                ],
                returns: "aclnnStatus",
                operator: Some(OperatorId::$op),
            },)*
        ];

        /// The operators.
        pub static OPERATORS: &[OperatorInfo] = &[
            $(OperatorInfo {
                id: OperatorId::$op,
                name: stringify!($op),
                phase1: FunctionId::$ws,
                phase2: FunctionId::$run,
                params: &[$((stringify!($op_p), stringify!($op_t))),*],
            },)*
        ];
    };
}

vendor_functions!(define_info!);

impl FunctionId {
    /// What the list says of it.
    pub fn info(self) -> &'static FunctionInfo {
        &FUNCTIONS[self as usize]
    }

    /// C name.
    pub fn name(self) -> &'static str {
        self.info().name
    }
}

impl OperatorId {
    /// What the list says of it.
    pub fn info(self) -> &'static OperatorInfo {
        &OPERATORS[self as usize]
    }

    /// Name without the `aclnn` prefix.
    pub fn name(self) -> &'static str {
        self.info().name
    }
}

/// The C spelling of a type of the list: `*const aclTensor` is `const aclTensor*`, `i64` is `int64_t`.
/// (`stringify!` may set a space behind a `*`.)
pub fn c_type(rust: &str) -> String {
    let rust = &*rust.trim().replace("* ", "*");
    if let Some(inner) = rust.strip_prefix("*mut ") {
        return format!("{}*", c_type(inner));
    }
    if let Some(inner) = rust.strip_prefix("*const ") {
        let inner = c_type(inner);
        return if inner.ends_with('*') { format!("{inner} const*") } else { format!("const {inner}*") };
    }
    match rust {
        "()" | "c_void" => "void",
        "c_char" => "char",
        "c_int" => "int",
        "i8" => "int8_t",
        "i32" => "int32_t",
        "i64" => "int64_t",
        "u8" => "uint8_t",
        "u32" => "uint32_t",
        "u64" => "uint64_t",
        "usize" => "size_t",
        "f32" => "float",
        "f64" => "double",
        other => other,
    }
    .to_owned()
}

/// The C name of a parameter of the list: keywords of Rust carry a trailing underscore there.
pub fn c_param(rust: &str) -> &str {
    rust.strip_suffix('_').unwrap_or(rust)
}
