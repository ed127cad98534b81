//! The drift check on headers that say what the list says, and on headers that do not.

use std::fs;
use std::path::Path;

use ascend_sys::header;

use super::{Report, with_own_headers, with_vendor_headers};

/// Our headers in a directory of their own, one of them changed, read as if they were CANN's.
fn read_changed(path: &str, from: &str, to: &str) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let include = dir.path().join("include");
    header::write_to(&include).unwrap();
    change(&include.join(path), from, to);
    with_vendor_headers(&include, &dir.path().join("scratch")).unwrap()
}

fn change(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{from}");
    fs::write(file, text.replace(from, to)).unwrap();
}

fn different(report: &Report) -> Vec<&str> {
    report.differences.iter().map(|difference| difference.name.as_str()).collect()
}

#[test]
fn own_headers_say_what_the_list_says() {
    let dir = tempfile::tempdir().unwrap();
    let report = with_own_headers(dir.path()).unwrap();
    assert!(report.differences.is_empty() && report.missing.is_empty() && report.cosmetic.is_empty(), "{report}");
    let listed = super::Interface::of_list();
    assert_eq!(report.agreeing, listed.functions.len() + listed.types.len() + listed.constants.len());
}

#[test]
fn same_headers_as_vendor_headers() {
    let report = read_changed("acl/acl.h", "#include \"acl/acl_rt.h\"", "#include \"acl/acl_rt.h\" ");
    assert!(report.differences.is_empty() && report.missing.is_empty(), "{report}");
}

#[test]
fn changed_value() {
    let report = read_changed("acl/acl_base.h", "ACL_BF16 = 27", "ACL_BF16 = 28");
    assert_eq!(different(&report), ["ACL_BF16"]);
    assert!(report.to_string().contains("different: ACL_BF16\n  list:    27\n  headers: 28"), "{report}");
}

#[test]
fn changed_code() {
    let report = read_changed("acl/acl_base.h", "ACL_ERROR_RT_NO_DEVICE = 207004", "ACL_ERROR_RT_NO_DEVICE = 207044");
    assert_eq!(different(&report), ["ACL_ERROR_RT_NO_DEVICE"]);
}

#[test]
fn changed_flag() {
    let report = read_changed("acl/acl_base.h", "ACL_EVENT_TIME_LINE 0x8u", "ACL_EVENT_TIME_LINE 0x4u");
    assert_eq!(different(&report), ["ACL_EVENT_TIME_LINE"]);
}

#[test]
fn added_parameter() {
    let report = read_changed("aclnnop/aclnn_swi_glu.h", "int64_t dim,", "int64_t dim, double limit,");
    assert_eq!(different(&report), ["aclnnSwiGluGetWorkspaceSize"]);
}

#[test]
fn wider_parameter() {
    let report = read_changed("aclnnop/aclnn_mm.h", "int8_t cubeMathType", "int64_t cubeMathType");
    assert_eq!(different(&report), ["aclnnMmGetWorkspaceSize"]);
}

#[test]
fn changed_return_type() {
    let report = read_changed("acl/acl_rt.h", "size_t aclDataTypeSize(", "uint32_t aclDataTypeSize(");
    assert_eq!(different(&report), ["aclDataTypeSize"]);
}

#[test]
fn changed_struct() {
    let report = read_changed("acl/acl_base.h", "char patchVersion[64]", "char patchVersion[32]");
    assert_eq!(different(&report), ["aclCANNPackageVersion"]);
}

#[test]
fn grown_communicator_configuration() {
    let report = read_changed(
        "hccl/hccl.h",
        "uint32_t hcclRdmaServiceLevel;",
        "uint32_t hcclRdmaServiceLevel;\n    uint32_t hcclWorldRankID;",
    );
    assert!(report.differences.is_empty(), "{report}");
}

#[test]
fn signed_enum() {
    let report = read_changed(
        "acl/acl_base.h",
        "ACL_MEMCPY_HOST_TO_HOST = 0",
        "ACL_MEMCPY_NONE = -1,\n    ACL_MEMCPY_HOST_TO_HOST = 0",
    );
    assert_eq!(different(&report), ["aclrtMemcpyKind"]);
}

/// `const` and parameter names are told, and are no difference.
#[test]
fn cosmetic_change() {
    let report =
        read_changed("acl/acl_rt.h", "aclError aclrtFree(void* devPtr)", "aclError aclrtFree(const void* address)");
    assert!(report.differences.is_empty());
    assert_eq!(report.cosmetic.len(), 1);
    assert!(report.to_string().contains("same but for const or names: aclrtFree"), "{report}");
}

/// C's own integers of the same width are the same.
#[test]
fn plain_int() {
    let report = read_changed(
        "acl/acl_rt.h",
        "aclError aclrtSetDevice(int32_t deviceId)",
        "aclError aclrtSetDevice(int deviceId)",
    );
    assert!(report.differences.is_empty(), "{report}");
}

#[test]
fn missing_function() {
    let report = read_changed("acl/acl_rt.h", "aclError aclFinalizeReference(uint64_t* refCount);", "");
    assert!(report.differences.is_empty());
    assert_eq!(report.missing, ["aclFinalizeReference"]);
}

#[test]
fn no_headers() {
    let dir = tempfile::tempdir().unwrap();
    let error = with_vendor_headers(dir.path(), &dir.path().join("scratch")).unwrap_err();
    assert!(error.to_string().contains("declares anything of the list"), "{error}");
}

#[test]
fn broken_header() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("acl")).unwrap();
    fs::write(dir.path().join("acl/acl_rt.h"), "#include \"gone.h\"\nint aclInit(const char*);\n").unwrap();
    let error = with_vendor_headers(dir.path(), &dir.path().join("scratch")).unwrap_err();
    assert!(format!("{error:#}").contains("gone.h"), "{error:#}");
}
