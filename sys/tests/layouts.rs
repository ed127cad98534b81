//! Sizes and layouts of what crosses the interface, against the numbers of CANN's headers (LP64; runtime, opbase and
//! hcomm, 8.1.RC1 to 9.2).

use std::mem::{align_of, offset_of, size_of};

use ascend_sys::header::STRUCTS;
use ascend_sys::*;

#[test]
fn scalars_and_handles() {
    for constants in CONSTANT_TYPES {
        let signed = constants.members.iter().any(|member| member.value < 0);
        match constants.kind {
            // C gives an enum without negative members the unsigned type.
            ConstantKind::Enum => assert_eq!(constants.repr == "i32", signed, "{}", constants.c_type),
            ConstantKind::Integer => assert_eq!(constants.repr, "i32", "{}", constants.c_type),
        }
        for member in constants.members {
            assert!(i32::try_from(member.value).is_ok(), "{}", member.name);
        }
    }
    assert_eq!((size_of::<aclError>(), size_of::<aclnnStatus>(), size_of::<HcclResult>()), (4, 4, 4));
    assert_eq!((size_of::<aclDataType>(), size_of::<aclFormat>(), size_of::<HcclDataType>()), (4, 4, 4));
    let pointer = size_of::<*mut ()>();
    assert_eq!(pointer, 8);
    assert_eq!([size_of::<aclrtStream>(), size_of::<aclrtContext>(), size_of::<aclrtEvent>()], [pointer; 3]);
    assert_eq!([size_of::<aclrtCallback>(), size_of::<aclrtHostFunc>(), size_of::<HcclComm>()], [pointer; 3]);
    // Opaque objects have no size of their own: nobody here makes one.
    assert_eq!(size_of::<aclTensor>() + size_of::<aclOpExecutor>() + size_of::<aclrtExceptionInfo>(), 0);
}

#[test]
fn version_struct() {
    assert_eq!((size_of::<aclCANNPackageVersion>(), align_of::<aclCANNPackageVersion>()), (512, 1));
    assert_eq!(offset_of!(aclCANNPackageVersion, majorVersion), 128);
    assert_eq!(offset_of!(aclCANNPackageVersion, minorVersion), 192);
    assert_eq!(offset_of!(aclCANNPackageVersion, releaseVersion), 256);
    assert_eq!(offset_of!(aclCANNPackageVersion, patchVersion), 320);
    assert_eq!(offset_of!(aclCANNPackageVersion, reserved), 384);
}

#[test]
fn hccl_structs() {
    assert_eq!((size_of::<HcclRootInfo>(), align_of::<HcclRootInfo>()), (4108, 1));
    assert_eq!((size_of::<HcclCommConfig>(), align_of::<HcclCommConfig>()), (300, 4));
    assert_eq!(offset_of!(HcclCommConfig, hcclBufferSize), 24);
    assert_eq!(offset_of!(HcclCommConfig, hcclDeterministic), 28);
    assert_eq!(offset_of!(HcclCommConfig, hcclCommName), 32);
    assert_eq!(offset_of!(HcclCommConfig, hcclUdi), 160);
    assert_eq!(offset_of!(HcclCommConfig, hcclOpExpansionMode), 288);
    assert_eq!(offset_of!(HcclCommConfig, hcclRdmaTrafficClass), 292);
    assert_eq!(offset_of!(HcclCommConfig, hcclRdmaServiceLevel), 296);
}

/// The C spelling of the structs gives the layout of the Rust ones.
#[test]
fn header_structs() {
    for item in STRUCTS {
        let mut end = 0;
        for field in item.fields {
            let bytes = match field.c_type {
                "char" => 1,
                "uint32_t" => 4,
                other => panic!("size of {other}"),
            };
            assert_eq!(field.offset, end, "{}.{}", item.name, field.name);
            end += bytes * field.len.unwrap_or(1);
        }
        assert_eq!(item.size, end, "{}", item.name);
    }
}

/// A member's name belongs to one type: C has one space for all of them.
#[test]
fn constant_names_are_unique() {
    let mut names: Vec<&str> = CONSTANT_TYPES.iter().flat_map(|c| c.members).chain(FLAGS).map(|c| c.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}
