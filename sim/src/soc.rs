//! The systems on chip the simulator can play, with the numbers a program may ask for.
//!
//! Numbers are per logical device; one 910C package is two dies, hence two devices. Source: `platform_config/*.ini` of
//! CANN 8.1.RC1.

use std::ffi::CStr;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// One system on chip, as `aclrtGetSocName` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Soc {
    /// Name, NUL-terminated for C.
    pub name: &'static CStr,
    /// Cube cores (AIC).
    pub cube_cores: u32,
    /// Vector cores (AIV).
    pub vector_cores: u32,
    /// AI CPUs.
    pub ai_cpus: u32,
    /// Device memory in bytes, as the ini file says it; programs see less (see [`crate::Config::hbm`]).
    pub hbm: u64,
    /// L2 cache in bytes.
    pub l2: u64,
}

const fn soc(name: &'static CStr, cube_cores: u32, hbm_gib: u64, l2_mib: u64) -> Soc {
    Soc { name, cube_cores, vector_cores: 2 * cube_cores, ai_cpus: 4, hbm: hbm_gib * GIB, l2: l2_mib * MIB }
}

/// Every system on chip the simulator can play.
pub const SOCS: &[Soc] = &[
    soc(c"Ascend910_9391", 24, 64, 192),
    soc(c"Ascend910_9392", 24, 64, 192),
    soc(c"Ascend910_9381", 24, 64, 192),
    soc(c"Ascend910_9382", 24, 64, 192),
    soc(c"Ascend910_9372", 20, 64, 192),
    soc(c"Ascend910_9362", 20, 32, 168),
    soc(c"Ascend910B1", 24, 64, 192),
    soc(c"Ascend910B2", 24, 64, 192),
    soc(c"Ascend910B3", 20, 64, 192),
    soc(c"Ascend910B4", 20, 32, 96),
];

impl Soc {
    /// The system on chip called `name`.
    pub fn find(name: &str) -> Option<&'static Self> {
        SOCS.iter().find(|soc| soc.name() == name)
    }

    /// Name as a string.
    pub fn name(&self) -> &'static str {
        self.name.to_str().unwrap_or_default()
    }

    /// The legal names, for messages.
    pub(crate) fn names() -> String {
        SOCS.iter().map(Self::name).collect::<Vec<_>>().join(", ")
    }
}
