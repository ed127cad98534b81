//! Packing to int4, which goes through the host and asks no stream.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use ascend_sys::{aclDataType, aclFormat, aclTensor, aclnnStatus};
use common::{Gate, Rig, c, code, ok};

fn ready() -> Rig {
    let rig = Rig::strict();
    ok!(rig, aclInit(null()));
    rig.on_device()
}

fn tensor(rig: &Rig, dtype: aclDataType, shape: &[i64], memory: *mut c_void) -> *mut aclTensor {
    let (dims, rank) = (shape.as_ptr(), shape.len() as u64);
    c!(rig, aclCreateTensor(dims, rank, dtype, null(), 0, aclFormat::ND, dims, rank, memory))
}

/// The packed numbers are there when the call returns, while the stream that it was given still waits.
#[test]
fn packing_does_not_wait_for_the_stream() {
    let rig = ready();
    let (stream, gate) = (rig.stream(), Gate::new());
    rig.block(stream, gate);
    let (values, bytes) = (rig.malloc(32), rig.malloc(4));
    rig.upload(values, bytemuck::cast_slice(&[-8i32, 7, -1, 0, 3, -4, 1, 2]));
    let (weight, packed) =
        (tensor(&rig, aclDataType::INT32, &[1, 8], values), tensor(&rig, aclDataType::INT4, &[1, 8], bytes));
    let (mut size, mut executor) = (7, null_mut());
    let status = c!(rig, aclnnConvertWeightToINT4PackGetWorkspaceSize(weight, packed, &mut size, &mut executor));
    assert_eq!((status, size), (aclnnStatus::SUCCESS, 0));
    assert_eq!(c!(rig, aclnnConvertWeightToINT4Pack(null_mut(), 0, executor, stream)), aclnnStatus::SUCCESS);
    assert_eq!(rig.download(bytes, 4), [0x78, 0x0f, 0xc3, 0x21]);
    gate.open();
    ok!(rig, aclrtSynchronizeStream(stream));
    rig.assert_clean();
}

/// A number that 4 bits do not hold is told by the call itself.
#[test]
fn a_number_that_does_not_fit_is_an_error_of_the_call() {
    let rig = ready();
    let (values, bytes) = (rig.malloc(8), rig.malloc(1));
    rig.upload(values, bytemuck::cast_slice(&[3i32, -9]));
    let (weight, packed) =
        (tensor(&rig, aclDataType::INT32, &[1, 2], values), tensor(&rig, aclDataType::INT4, &[1, 2], bytes));
    let (mut size, mut executor) = (0, null_mut());
    let status = c!(rig, aclnnConvertWeightToINT4PackGetWorkspaceSize(weight, packed, &mut size, &mut executor));
    assert_eq!(status, aclnnStatus::SUCCESS);
    let status = c!(rig, aclnnConvertWeightToINT4Pack(null_mut(), 0, executor, rig.stream()));
    assert_eq!(status, aclnnStatus(361_001));
    assert_eq!(rig.findings().len(), 1);
}
