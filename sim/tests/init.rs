//! Initialisation, errors and versions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::ffi::{CStr, CString, c_char};
use std::io::Write;
use std::ptr::{null, null_mut};

use ascend_sys::{
    Release, aclCANNPackageName, aclCANNPackageVersion, aclDataType, aclDeviceInfo, aclSysParamOpt, aclrtDevAttr,
    aclrtFloatOverflowMode, aclrtLastErrLevel,
};
use cann_sim::{Config, SOCS};
use common::{Rig, c, code, ok};

const THREAD: aclrtLastErrLevel = aclrtLastErrLevel::THREAD;

fn file(text: &str) -> (tempfile::NamedTempFile, CString) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let path = CString::new(file.path().to_str().unwrap()).unwrap();
    (file, path)
}

#[test]
fn a_repeated_init_counts_although_it_gives_100002() {
    let rig = Rig::strict();
    ok!(rig, aclInit(null()));
    code!(rig, aclInit(null()), 100_002);
    code!(rig, aclInit(c"/no/such/file".as_ptr()), 100_002);
    let mut count = 77;
    ok!(rig, aclFinalizeReference(&mut count));
    assert_eq!(count, 2);
    ok!(rig, aclFinalizeReference(null_mut()));
    ok!(rig, aclFinalizeReference(&mut count));
    assert_eq!(count, 0);
    code!(rig, aclFinalizeReference(&mut count), 100_037);
    code!(rig, aclFinalize(), 100_037);
}

#[test]
fn finalize_ends_every_init() {
    let rig = Rig::strict();
    ok!(rig, aclInit(null()));
    code!(rig, aclInit(null()), 100_002);
    ok!(rig, aclFinalize());
    code!(rig, aclFinalize(), 100_037);
    code!(rig, aclFinalizeReference(null_mut()), 100_037);
    ok!(rig, aclInit(null()));
    ok!(rig, aclFinalize());
}

#[test]
fn the_configuration_file_is_read() {
    let rig = Rig::strict();
    code!(rig, aclInit(c"/no/such/file".as_ptr()), 100_003);
    let (_broken, path) = file("{ nonsense");
    code!(rig, aclInit(path.as_ptr()), 100_006);
    let (_mode, path) = file(r#"{"err_msg_mode": "2"}"#);
    code!(rig, aclInit(path.as_ptr()), 100_000);
    let (_process, path) = file(r#"{"err_msg_mode": "1"}"#);
    code!(rig, aclInit(path.as_ptr()), 200_006);
    let (_default, path) = file(r#"{"defaultDevice": {"default_device": "0"}}"#);
    code!(rig, aclInit(path.as_ptr()), 200_006);
    let (_good, path) = file(r#"{"err_msg_mode": "0", "dump": {}}"#);
    ok!(rig, aclInit(path.as_ptr()));
}

#[test]
fn after_finalize_the_configuration_must_be_the_same() {
    let rig = Rig::strict();
    let (_one, one) = file("{}");
    let (_same, same) = file("{}");
    let (_other, other) = file(r#"{"dump": {}}"#);
    ok!(rig, aclInit(one.as_ptr()));
    ok!(rig, aclFinalize());
    code!(rig, aclInit(other.as_ptr()), 100_000);
    code!(rig, aclInit(null()), 100_000);
    ok!(rig, aclInit(same.as_ptr()));
}

#[test]
fn error_text_is_newest_first_and_reading_clears() {
    let rig = Rig::strict();
    assert_eq!(rig.error_text(), None);
    code!(rig, aclrtFree(null_mut()), 100_000);
    code!(rig, aclrtSetDevice(9), 107_001);
    let text = rig.error_text().unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("EE1001: [PID: ") && lines[0].contains("deviceId is 9"), "{text}");
    assert!(lines[1].starts_with("EH0002: [PID: ") && lines[1].contains("devPtr"), "{text}");
    assert_eq!(rig.error_text(), None);
    ok!(rig, aclrtSetDevice(0));
    assert_eq!(rig.error_text(), None, "success leaves no text");
}

#[test]
fn error_text_and_last_error_belong_to_the_thread() {
    let rig = Rig::strict();
    code!(rig, aclrtSetDevice(9), 107_001);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(rig.error_text(), None);
            ok!(rig, aclrtPeekAtLastError(THREAD));
        });
    });
    code!(rig, aclrtPeekAtLastError(THREAD), 107_001);
    assert!(rig.error_text().is_some());
}

#[test]
fn the_last_error_stays_until_it_is_got() {
    let rig = Rig::strict();
    code!(rig, aclrtSetDevice(9), 107_001);
    ok!(rig, aclrtSetDevice(0));
    code!(rig, aclrtPeekAtLastError(THREAD), 107_001);
    code!(rig, aclrtFree(null_mut()), 100_000);
    code!(rig, aclrtGetLastError(THREAD), 107_001);
    ok!(rig, aclrtGetLastError(THREAD));
    code!(rig, aclrtGetLastError(aclrtLastErrLevel(1)), 100_000);
    code!(rig, aclrtPeekAtLastError(aclrtLastErrLevel(7)), 100_000);
}

fn text(bytes: &[c_char]) -> String {
    bytes.iter().take_while(|&&byte| byte != 0).map(|&byte| byte as u8 as char).collect()
}

#[test]
fn versions_are_those_of_the_release() {
    for (release, number, api) in [("8.5.0", 80_500_000, 16), ("9.0.0", 90_000_000, 17), ("9.1.0", 90_100_000, 17)] {
        let rig = Rig::new(Config { release: Release::parse(release).unwrap(), ..Config::default() });
        let (mut major, mut minor, mut patch) = (0, 0, 9);
        ok!(rig, aclrtGetVersion(&mut major, &mut minor, &mut patch));
        assert_eq!((major, minor, patch), (1, api, 0));

        let mut parts = aclCANNPackageVersion::default();
        ok!(rig, aclsysGetCANNVersion(aclCANNPackageName::CANN, &mut parts));
        assert_eq!(text(&parts.version), release);
        let numbers = [parts.majorVersion, parts.minorVersion, parts.releaseVersion, parts.patchVersion];
        assert_eq!(numbers.map(|part| text(&part)).join("."), format!("{release}.0"));

        let mut buffer = [1; 128];
        let package = c"ops_transformer".as_ptr().cast_mut();
        ok!(rig, aclsysGetVersionStr(package, buffer.as_mut_ptr()));
        assert_eq!(text(&buffer), release);
        let mut found = 0;
        ok!(rig, aclsysGetVersionNum(package, &mut found));
        assert_eq!(found, number);
    }
}

#[test]
fn versions_of_what_is_not_there_are_refused() {
    let rig = Rig::strict();
    let mut parts = aclCANNPackageVersion::default();
    code!(rig, aclsysGetCANNVersion(aclCANNPackageName::DRIVER, &mut parts), 100_003);
    code!(rig, aclsysGetCANNVersion(aclCANNPackageName::HCCL, &mut parts), 100_003);
    code!(rig, aclsysGetCANNVersion(aclCANNPackageName(99), &mut parts), 100_000);
    code!(rig, aclsysGetCANNVersion(aclCANNPackageName::CANN, null_mut()), 100_000);
    let mut number = 0;
    code!(rig, aclsysGetVersionNum(c"nonsense".as_ptr().cast_mut(), &mut number), 100_003);
    code!(rig, aclsysGetVersionNum(null_mut(), &mut number), 100_000);
    code!(rig, aclsysGetVersionStr(null_mut(), null_mut()), 100_000);
    code!(rig, aclrtGetVersion(null_mut(), null_mut(), null_mut()), 100_000);
}

#[test]
fn the_soc_is_told_without_initialisation() {
    for soc in SOCS {
        let rig = Rig::new(Config { soc: soc.name().to_owned(), devices: 4, ..Config::default() });
        let told = c!(rig, aclrtGetSocName());
        // SAFETY: a static string.
        let name = unsafe { CStr::from_ptr(told) };
        assert_eq!(name, soc.name);

        let mut value = 0;
        let mut capability = |info| {
            ok!(rig, aclGetDeviceCapability(1, info, &mut value));
            value
        };
        assert_eq!(capability(aclDeviceInfo::AI_CORE_NUM), i64::from(soc.cube_cores));
        assert_eq!(capability(aclDeviceInfo::VECTOR_CORE_NUM), i64::from(soc.vector_cores));
        assert_eq!(capability(aclDeviceInfo::L2_SIZE), i64::try_from(soc.l2).unwrap());

        let mut value = 0;
        let mut info = |device, attr| {
            ok!(rig, aclrtGetDeviceInfo(device, attr, &mut value));
            value
        };
        assert_eq!(info(0, aclrtDevAttr::AICPU_CORE_NUM), 4);
        assert_eq!(info(0, aclrtDevAttr::AICORE_CORE_NUM), i64::from(soc.cube_cores));
        assert_eq!(info(0, aclrtDevAttr::CUBE_CORE_NUM), i64::from(soc.cube_cores));
        assert_eq!(info(0, aclrtDevAttr::VECTOR_CORE_NUM), i64::from(soc.vector_cores));
        assert_eq!(info(0, aclrtDevAttr::L2_CACHE_SIZE), i64::try_from(soc.l2).unwrap());
        let memory = info(0, aclrtDevAttr::TOTAL_GLOBAL_MEM_SIZE);
        assert!(memory > i64::try_from(soc.hbm).unwrap() / 100 * 95 && memory < i64::try_from(soc.hbm).unwrap());
        let dies_per_package = if soc.name().starts_with("Ascend910_93") { 2 } else { 1 };
        assert_eq!(info(3, aclrtDevAttr::PHY_CHIP_ID), 3 / dies_per_package);
    }
}

#[test]
fn unknown_questions_are_refused() {
    let rig = Rig::strict();
    let mut value = 0;
    code!(rig, aclGetDeviceCapability(0, aclDeviceInfo(3), &mut value), 100_000);
    code!(rig, aclGetDeviceCapability(2, aclDeviceInfo::L2_SIZE, &mut value), 100_000);
    code!(rig, aclGetDeviceCapability(0, aclDeviceInfo::L2_SIZE, null_mut()), 100_000);
    code!(rig, aclrtGetDeviceInfo(0, aclrtDevAttr(111), &mut value), 107_000);
    code!(rig, aclrtGetDeviceInfo(2, aclrtDevAttr::L2_CACHE_SIZE, &mut value), 107_000);
    code!(rig, aclrtGetDeviceInfo(0, aclrtDevAttr::L2_CACHE_SIZE, null_mut()), 100_000);
}

#[test]
fn options() {
    let rig = Rig::strict();
    ok!(rig, aclrtSetSysParamOpt(aclSysParamOpt::DETERMINISTIC, 1));
    ok!(rig, aclrtSetSysParamOpt(aclSysParamOpt::STRONG_CONSISTENCY, 1));
    code!(rig, aclrtSetSysParamOpt(aclSysParamOpt(9), 1), 100_000);
    ok!(rig, aclrtSetOpExecuteTimeOut(1091));
    code!(rig, aclrtSetDeviceSatMode(aclrtFloatOverflowMode::INFNAN), 107_002);
    let rig = rig.on_device();
    ok!(rig, aclrtSetDeviceSatMode(aclrtFloatOverflowMode::INFNAN));
    code!(rig, aclrtSetDeviceSatMode(aclrtFloatOverflowMode::SATURATION), 207_000);
    code!(rig, aclrtSetDeviceSatMode(aclrtFloatOverflowMode::UNDEF), 107_000);
}

#[test]
fn sizes_of_types() {
    let rig = Rig::strict();
    let size = |dtype| c!(rig, aclDataTypeSize(dtype));
    assert_eq!([aclDataType::FLOAT, aclDataType::BF16, aclDataType::INT8, aclDataType::INT64].map(size), [4, 2, 1, 8]);
    assert_eq!([aclDataType::UNDEFINED, aclDataType::STRING].map(size), [0, 0]);
    assert_eq!([aclDataType::INT4, aclDataType::UINT1].map(size), [1, 1]);
    assert_eq!([aclDataType::COMPLEX128, aclDataType::COMPLEX32, aclDataType(999)].map(size), [16, 4, 8]);
}
