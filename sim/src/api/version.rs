//! Versions, and what the system on chip is.

use std::ffi::{CStr, c_char};
use std::sync::Arc;

use ascend_sys::{
    Release, aclCANNPackageName, aclCANNPackageVersion, aclDataType, aclDeviceInfo, aclError, aclSysParamOpt,
    aclrtDevAttr, aclrtFloatOverflowMode,
};

use super::{not_null, put};
use crate::errmsg::Refusal;
use crate::instance::Instance;

/// Packages whose version files a CANN root of the simulator would have. There is no driver and no HCCL.
const PACKAGES: &[&str] =
    &["runtime", "opbase", "bisheng-compiler", "oam-tools", "ops-legacy", "ops-math", "ops-nn", "ops-transformer"];

/// The name of the SoC; needs neither initialisation nor device.
pub(crate) unsafe fn aclrtGetSocName(sim: &Arc<Instance>) -> *const c_char {
    sim.soc().name.as_ptr()
}

/// The older interface to versions: that of the ACL API, not of CANN.
pub(crate) unsafe fn aclrtGetVersion(
    sim: &Arc<Instance>,
    majorVersion: *mut i32,
    minorVersion: *mut i32,
    patchVersion: *mut i32,
) -> aclError {
    let minor = if sim.release().major >= 9 { 17 } else { 16 };
    sim.answer((|| {
        // SAFETY: null or writable by the C contract.
        unsafe {
            put("majorVersion", majorVersion, 1)?;
            put("minorVersion", minorVersion, minor)?;
            put("patchVersion", patchVersion, 0)
        }
    })())
}

/// Version of a package by number. 100000: no such number; 100003: the package is not there.
pub(crate) unsafe fn aclsysGetCANNVersion(
    sim: &Arc<Instance>,
    name: aclCANNPackageName,
    version: *mut aclCANNPackageVersion,
) -> aclError {
    let package = match name {
        aclCANNPackageName::CANN | aclCANNPackageName::RUNTIME => Some("runtime"),
        aclCANNPackageName::COMPILER => Some("bisheng-compiler"),
        aclCANNPackageName::HCCL => Some("hccl"),
        aclCANNPackageName::TOOLKIT => Some("oam-tools"),
        aclCANNPackageName::OPP | aclCANNPackageName::OPP_KERNEL => Some("ops-legacy"),
        aclCANNPackageName::DRIVER => Some("driver"),
        _ => None,
    };
    sim.answer((|| {
        not_null("version", version)?;
        let package = package.ok_or_else(|| Refusal::value("name", name.0, "0 to 7"))?;
        let release = version_of(sim, package)?;
        let mut parts = aclCANNPackageVersion::default();
        write_text(&mut parts.version, &release.to_string());
        write_text(&mut parts.majorVersion, &release.major.to_string());
        write_text(&mut parts.minorVersion, &release.minor.to_string());
        write_text(&mut parts.releaseVersion, &release.patch.to_string());
        write_text(&mut parts.patchVersion, "0");
        // SAFETY: not null, and writable by the C contract.
        unsafe { put("version", version, parts) }
    })())
}

/// Version of a package by name, into a buffer of 128 bytes. 100003: the package is not there.
pub(crate) unsafe fn aclsysGetVersionStr(
    sim: &Arc<Instance>,
    pkgName: *mut c_char,
    versionStr: *mut c_char,
) -> aclError {
    sim.answer((|| {
        not_null("versionStr", versionStr)?;
        not_null("pkgName", pkgName)?;
        // SAFETY: not null, and NUL-terminated by the C contract.
        let release = version_of(sim, &unsafe { CStr::from_ptr(pkgName) }.to_string_lossy())?;
        let mut buffer = [0; 128];
        write_text(&mut buffer, &release.to_string());
        // SAFETY: the C contract makes the buffer 128 bytes long.
        unsafe { versionStr.cast::<[c_char; 128]>().write_unaligned(buffer) };
        Ok(())
    })())
}

/// Version of a package by name, as `major * 10^7 + minor * 10^5 + patch * 10^3`.
pub(crate) unsafe fn aclsysGetVersionNum(sim: &Arc<Instance>, pkgName: *mut c_char, versionNum: *mut i32) -> aclError {
    sim.answer((|| {
        not_null("versionNum", versionNum)?;
        not_null("pkgName", pkgName)?;
        // SAFETY: not null, and NUL-terminated by the C contract.
        let release = version_of(sim, &unsafe { CStr::from_ptr(pkgName) }.to_string_lossy())?;
        let [major, minor, patch] = [release.major, release.minor, release.patch].map(i32::from);
        // SAFETY: not null, and writable by the C contract.
        unsafe { put("versionNum", versionNum, major * 10_000_000 + minor * 100_000 + patch * 1000) }
    })())
}

/// The release of a package; `-` and `_` are one in names.
fn version_of(sim: &Instance, package: &str) -> Result<Release, Refusal> {
    if PACKAGES.contains(&package.replace('_', "-").as_str()) {
        return Ok(sim.release());
    }
    let text =
        format!("EH0004: Invalid_File: the simulator has no package {package:?}; it has {}", PACKAGES.join(", "));
    Err(Refusal::new(aclError::INVALID_FILE, text))
}

fn write_text(buffer: &mut [c_char], text: &str) {
    let room = buffer.len().saturating_sub(1);
    for (place, &byte) in buffer.iter_mut().take(room).zip(text.as_bytes()) {
        *place = byte as c_char;
    }
}

/// Core counts and cache size; 100000 for an unknown question or device.
pub(crate) unsafe fn aclGetDeviceCapability(
    sim: &Arc<Instance>,
    deviceId: u32,
    deviceInfo: aclDeviceInfo,
    value: *mut i64,
) -> aclError {
    let soc = sim.soc();
    let found = match deviceInfo {
        aclDeviceInfo::AI_CORE_NUM => Some(i64::from(soc.cube_cores)),
        aclDeviceInfo::VECTOR_CORE_NUM => Some(i64::from(soc.vector_cores)),
        aclDeviceInfo::L2_SIZE => Some(soc.l2.cast_signed()),
        _ => None,
    };
    sim.answer((|| {
        not_null("value", value)?;
        if deviceId >= sim.config().devices {
            return Err(Refusal::value("deviceId", deviceId, &format!("0 to {}", sim.config().devices - 1)));
        }
        let found = found.ok_or_else(|| Refusal::value("deviceInfo", deviceInfo.0, "0 to 2"))?;
        // SAFETY: not null, and writable by the C contract.
        unsafe { put("value", value, found) }
    })())
}

/// An attribute of a device; 107000 for an unknown attribute or device.
pub(crate) unsafe fn aclrtGetDeviceInfo(
    sim: &Arc<Instance>,
    deviceId: u32,
    attr: aclrtDevAttr,
    value: *mut i64,
) -> aclError {
    let soc = sim.soc();
    let found = match attr {
        aclrtDevAttr::AICPU_CORE_NUM => Some(i64::from(soc.ai_cpus)),
        aclrtDevAttr::AICORE_CORE_NUM | aclrtDevAttr::CUBE_CORE_NUM => Some(i64::from(soc.cube_cores)),
        aclrtDevAttr::VECTOR_CORE_NUM => Some(i64::from(soc.vector_cores)),
        aclrtDevAttr::TOTAL_GLOBAL_MEM_SIZE => Some(sim.memory().info(deviceId).1.cast_signed()),
        aclrtDevAttr::L2_CACHE_SIZE => Some(soc.l2.cast_signed()),
        // Two dies of a package on A3, one on A2.
        aclrtDevAttr::PHY_CHIP_ID if soc.name().starts_with("Ascend910_93") => Some(i64::from(deviceId / 2)),
        aclrtDevAttr::PHY_CHIP_ID => Some(i64::from(deviceId)),
        _ => None,
    };
    sim.answer((|| {
        not_null("value", value)?;
        let code = aclError::RT_PARAM_INVALID;
        if deviceId >= sim.config().devices {
            let legal = format!("0 to {}", sim.config().devices - 1);
            return Err(Refusal::runtime(code, "deviceId", deviceId, &legal));
        }
        let legal = "an attribute the simulator knows (1, 101, 102, 201, 301, 302, 402)";
        let found = found.ok_or_else(|| Refusal::runtime(code, "attr", attr.0, legal))?;
        // SAFETY: not null, and writable by the C contract.
        unsafe { put("value", value, found) }
    })())
}

/// Bytes of one element. As in CANN, types smaller than a byte count as one and unknown ones as eight.
pub(crate) unsafe fn aclDataTypeSize(_sim: &Arc<Instance>, dataType: aclDataType) -> usize {
    match dataType {
        aclDataType::UNDEFINED | aclDataType::STRING => 0,
        aclDataType::INT4 | aclDataType::UINT1 => 1,
        other => other.bytes().unwrap_or(8),
    }
}

/// Overflow behaviour of streams made from now on. The simulator has that of A2 and A3 by default, INF/NAN; saturation
/// is refused (207000).
pub(crate) unsafe fn aclrtSetDeviceSatMode(sim: &Arc<Instance>, mode: aclrtFloatOverflowMode) -> aclError {
    sim.answer((|| {
        sim.context("aclrtSetDeviceSatMode")?;
        match mode {
            aclrtFloatOverflowMode::INFNAN => Ok(()),
            aclrtFloatOverflowMode::SATURATION => Err(Refusal::unsupported("saturation on overflow")),
            _ => Err(Refusal::runtime(aclError::RT_PARAM_INVALID, "mode", mode.0, "0 (saturation) or 1 (INF/NAN)")),
        }
    })())
}

/// Time-out of operators in seconds. Accepted; simulated operators have none, host time being no device time.
pub(crate) unsafe fn aclrtSetOpExecuteTimeOut(_sim: &Arc<Instance>, _timeout: u32) -> aclError {
    aclError::SUCCESS
}

/// Process-wide options. The simulator is deterministic and consistent whatever they say; 100000 for an unknown one.
pub(crate) unsafe fn aclrtSetSysParamOpt(sim: &Arc<Instance>, opt: aclSysParamOpt, _value: i64) -> aclError {
    let known =
        [aclSysParamOpt::DETERMINISTIC, aclSysParamOpt::ENABLE_DEBUG_KERNEL, aclSysParamOpt::STRONG_CONSISTENCY];
    let known = known.contains(&opt);
    sim.answer(if known { Ok(()) } else { Err(Refusal::value("opt", opt.0, "0 to 2")) })
}
