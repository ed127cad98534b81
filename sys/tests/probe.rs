//! The probe on tables of small Rust functions that answer as CANN does, and the signs of a device on a host.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper that fails is a failed test")]

use std::ffi::{CStr, c_char};
use std::fs;
use std::path::PathBuf;

use ascend_sys::load::LoadError;
use ascend_sys::probe::{HostDevices, filter_error_text, probe, recent_error};
use ascend_sys::*;

const MESSAGE: &str = "EE9999: [PID: 7] 2026-01-01-00:00:00.000.001 Inner Error!\n        TraceBack (most recent call last):\n        the cause\n";

unsafe extern "C" fn init_ok(_: *const c_char) -> aclError {
    aclError::SUCCESS
}
unsafe extern "C" fn init_again(_: *const c_char) -> aclError {
    aclError::REPEAT_INITIALIZE
}
unsafe extern "C" fn init_stub(_: *const c_char) -> aclError {
    aclError::COMPILING_STUB_MODE
}
unsafe extern "C" fn init_fails(_: *const c_char) -> aclError {
    aclError::INTERNAL_ERROR
}
unsafe extern "C" fn message() -> *const c_char {
    static TEXT: &CStr = c"EE9999: [PID: 7] 2026-01-01-00:00:00.000.001 Inner Error!\n        TraceBack (most recent call last):\n        the cause\n";
    TEXT.as_ptr()
}
unsafe extern "C" fn no_message() -> *const c_char {
    std::ptr::null()
}
unsafe extern "C" fn two_devices(count: *mut u32) -> aclError {
    // SAFETY: the probe gives a writable count.
    unsafe { *count = 2 };
    aclError::SUCCESS
}
unsafe extern "C" fn zero_devices(count: *mut u32) -> aclError {
    // SAFETY: as above.
    unsafe { *count = 0 };
    aclError::SUCCESS
}
unsafe extern "C" fn no_device(_: *mut u32) -> aclError {
    aclError::RT_NO_DEVICE
}
unsafe extern "C" fn invalid_device(_: *mut u32) -> aclError {
    aclError::RT_INVALID_DEVICEID
}
unsafe extern "C" fn count_stub(_: *mut u32) -> aclError {
    aclError::COMPILING_STUB_MODE
}
unsafe extern "C" fn soc() -> *const c_char {
    c"Ascend910_9391".as_ptr()
}
unsafe extern "C" fn no_soc() -> *const c_char {
    std::ptr::null()
}
unsafe extern "C" fn acl_version(major: *mut i32, minor: *mut i32, patch: *mut i32) -> aclError {
    // SAFETY: the probe gives writable numbers.
    unsafe { (*major, *minor, *patch) = (1, 17, 0) };
    aclError::SUCCESS
}
unsafe fn write_text(to: *mut c_char, text: &str) {
    for (at, byte) in text.bytes().chain([0]).enumerate() {
        // SAFETY: the callers' buffers are larger than the texts here.
        unsafe { *to.add(at) = byte as c_char };
    }
}
unsafe extern "C" fn version_str(package: *mut c_char, version: *mut c_char) -> aclError {
    // SAFETY: the probe gives a NUL-terminated name.
    assert_eq!(unsafe { CStr::from_ptr(package) }, c"runtime");
    // SAFETY: the buffer has 128 bytes.
    unsafe { write_text(version, "9.1.0") };
    aclError::SUCCESS
}
unsafe extern "C" fn cann_version(name: aclCANNPackageName, version: *mut aclCANNPackageVersion) -> aclError {
    assert_eq!(name, aclCANNPackageName::CANN);
    // SAFETY: the probe gives a writable struct.
    unsafe { write_text((*version).version.as_mut_ptr(), "9.1.0") };
    aclError::SUCCESS
}
unsafe extern "C" fn old_version(_: aclCANNPackageName, version: *mut aclCANNPackageVersion) -> aclError {
    // SAFETY: as above.
    unsafe { write_text((*version).version.as_mut_ptr(), "8.1.RC1") };
    aclError::SUCCESS
}

fn working() -> Functions {
    Functions {
        aclInit: Some(init_ok),
        aclGetRecentErrMsg: Some(message),
        aclrtGetDeviceCount: Some(two_devices),
        aclrtGetSocName: Some(soc),
        aclrtGetVersion: Some(acl_version),
        aclsysGetVersionStr: Some(version_str),
        aclsysGetCANNVersion: Some(cann_version),
        ..Functions::default()
    }
}

fn table(functions: Functions) -> Table {
    let libraries = vec![LoadedLibrary { path: "/root/lib64/libacl_rt.so".into(), functions: Vec::new() }];
    let origin = Origin { implementation: Implementation::Cann, identity: None, release: None, libraries };
    // SAFETY: the functions above have the signatures of the list and live for ever.
    unsafe { Table::new(functions, origin) }
}

#[test]
fn working_library() {
    let table = table(working());
    let found = probe(&table).unwrap();
    assert_eq!((found.soc.as_str(), found.device_count), ("Ascend910_9391", 2));
    assert_eq!(found.release, Some(Release::new(9, 1, 0)));
    assert_eq!(found.cann_version.as_deref(), Some("9.1.0"));
    assert_eq!(found.runtime_version.as_deref(), Some("9.1.0"));
    assert_eq!(found.acl_version, Some((1, 17, 0)));
    assert!(found.initialised_first);
    for untouched in [FunctionId::aclFinalize, FunctionId::aclFinalizeReference, FunctionId::aclrtSetDevice] {
        assert_eq!(table.calls(untouched), 0);
    }
}

#[test]
fn initialised_by_another() {
    let found = probe(&table(Functions { aclInit: Some(init_again), ..working() })).unwrap();
    assert!(!found.initialised_first);
}

#[test]
fn without_version_functions() {
    let functions =
        Functions { aclrtGetVersion: None, aclsysGetVersionStr: None, aclsysGetCANNVersion: None, ..working() };
    let found = probe(&table(functions)).unwrap();
    assert_eq!((found.release, found.cann_version, found.acl_version), (None, None, None));
}

#[test]
fn stub_libraries() {
    let path = PathBuf::from("/root/lib64/libacl_rt.so");
    let by_init = Functions { aclInit: Some(init_stub), ..working() };
    let by_count = Functions { aclrtGetDeviceCount: Some(count_stub), ..working() };
    for functions in [by_init, by_count] {
        assert_eq!(probe(&table(functions)), Err(LoadError::StubLibrary { path: path.clone() }));
    }
}

#[test]
fn init_failure() {
    let error = probe(&table(Functions { aclInit: Some(init_fails), ..working() })).unwrap_err();
    let message = Some(MESSAGE.trim_end().to_owned());
    assert_eq!(error, LoadError::InitFailed { code: aclError::INTERNAL_ERROR, message });
    let text = error.to_string();
    assert!(text.contains("ACL_ERROR_INTERNAL_ERROR (500000)") && text.contains("the cause"), "{text}");
}

#[test]
fn no_devices() {
    let cases: [(unsafe extern "C" fn(*mut u32) -> aclError, aclError, &str); 3] = [
        (zero_devices, aclError::SUCCESS, "counts 0"),
        (no_device, aclError::RT_NO_DEVICE, "207004"),
        (invalid_device, aclError::RT_INVALID_DEVICEID, "107001"),
    ];
    for (count, expected, words) in cases {
        let functions =
            Functions { aclrtGetDeviceCount: Some(count), aclGetRecentErrMsg: Some(no_message), ..working() };
        let error = probe(&table(functions)).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error, LoadError::NoDevice { code: expected, message: None });
    }
}

#[test]
fn no_soc_name() {
    let functions = Functions { aclrtGetSocName: Some(no_soc), aclGetRecentErrMsg: Some(no_message), ..working() };
    assert_eq!(probe(&table(functions)), Err(LoadError::NoSocName { message: None }));
}

#[test]
fn release_told_by_the_library() {
    let error = probe(&table(Functions { aclsysGetCANNVersion: Some(old_version), ..working() })).unwrap_err();
    let LoadError::ReleaseTooOld { found, minimum, .. } = error else { panic!("{error}") };
    assert_eq!((found, minimum), (Release::new(8, 1, 0), Release::MINIMUM));
}

#[test]
fn table_without_a_needed_function() {
    let error = probe(&table(Functions { aclrtGetSocName: None, ..working() })).unwrap_err();
    let searched = vec![PathBuf::from("/root/lib64/libacl_rt.so")];
    assert_eq!(error, LoadError::MissingSymbol { names: vec!["aclrtGetSocName"], searched });
}

#[test]
fn message_of_the_last_failure() {
    assert_eq!(recent_error(&table(working())).as_deref(), Some(MESSAGE.trim_end()));
    assert_eq!(recent_error(&table(Functions { aclGetRecentErrMsg: Some(no_message), ..working() })), None);
    assert_eq!(recent_error(&table(Functions::default())), None);
}

/// Shapes of the text as users post them.
#[test]
fn noise_in_messages() {
    let noise = "EE1001: [PID: 9] 2026-01-01-00:00:00.000.002 The argument is invalid.Reason: rtGetDevMsg execute failed, reason=[context pointer null]\n        Solution: 1.Check the input parameter range of the function.\n        TraceBack (most recent call last):\n        ctx is NULL![FUNC:GetDevErrMsg][FILE:api_impl.cc][LINE:1]\n";
    let real = "EZ9999: Inner Error!\n        TraceBack (most recent call last):\n        tiling failed\n";
    // A block of its own, on top of the real one or below it.
    assert_eq!(filter_error_text(&format!("{noise}{real}")), real.trim_end());
    assert_eq!(filter_error_text(&format!("{real}{noise}")), real.trim_end());
    // Alone, it is all there is.
    assert_eq!(filter_error_text(noise), noise.trim_end());
    // Lines at the end of the real block.
    let tail = "        ctx is NULL![FUNC:GetDevErrMsg][FILE:api_impl.cc][LINE:1]\n        The argument is invalid.Reason: rtGetDevMsg execute failed, reason=[context pointer null]\n";
    assert_eq!(filter_error_text(&format!("{real}{tail}")), real.trim_end());
    // The title of 9.x.
    let newer = "[PID: 9] 2026-01-01-00:00:00.000.002 Invalid_Argument(EE1001): rtGetDevMsg execution failed, the context is a null pointer\n        ctx is NULL\n";
    assert_eq!(filter_error_text(&format!("{newer}{real}")), real.trim_end());
    assert_eq!(filter_error_text(""), "");
}

#[test]
fn signs_of_a_device() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("dev")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    for not_a_sign in ["dev/davinci", "dev/davincix", "dev/null", "etc/hosts"] {
        fs::write(root.join(not_a_sign), "").unwrap();
    }
    assert!(!HostDevices::detect_in(root).any());
    assert!(!HostDevices::detect_in(&root.join("nowhere")).any());

    let signs =
        ["dev/davinci0", "dev/davinci_manager", "usr/local/Ascend/driver/version.info", "etc/ascend_install.info"];
    for sign in signs {
        let path = root.join(sign);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        assert!(HostDevices::detect_in(root).evidence.contains(&path));
    }
    assert_eq!(HostDevices::detect_in(root).evidence.len(), signs.len());
}
