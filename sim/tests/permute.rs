//! Operators that sort rows, called as a C program calls them: what the safe layer has no name for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use ascend_sys::{aclDataType, aclFormat, aclIntArray, aclTensor, aclnnStatus, aclrtStream};
use bytemuck::Pod;
use common::{Rig, c, code, ok};

const OK: aclnnStatus = aclnnStatus::SUCCESS;
const NULL: aclrtStream = aclrtStream::NULL;
const X: [f32; 6] = [1., 2., 3., 4., 5., 6.];
const IDS: [i32; 6] = [2, 0, 1, 2, 3, 2];

fn ready() -> Rig {
    let rig = Rig::strict();
    ok!(rig, aclInit(null()));
    rig.on_device()
}

/// A contiguous tensor on the device, and its memory.
fn tensor<T: Pod>(rig: &Rig, dtype: aclDataType, values: &[T], shape: &[i64]) -> (*mut aclTensor, *mut c_void) {
    let memory = rig.malloc(size_of_val(values));
    rig.upload(memory, bytemuck::cast_slice(values));
    let (dims, rank) = (shape.as_ptr(), shape.len() as u64);
    let tensor = c!(rig, aclCreateTensor(dims, rank, dtype, null(), 0, aclFormat::ND, dims, rank, memory));
    (tensor, memory)
}

fn floats(rig: &Rig, values: &[f32], shape: &[i64]) -> (*mut aclTensor, *mut c_void) {
    tensor(rig, aclDataType::FLOAT, values, shape)
}

fn integers(rig: &Rig, values: &[i32], shape: &[i64]) -> (*mut aclTensor, *mut c_void) {
    tensor(rig, aclDataType::INT32, values, shape)
}

fn read<T: Pod>(rig: &Rig, memory: *const c_void, len: usize) -> Vec<T> {
    rig.download(memory, len * size_of::<T>()).chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

/// Worked example: -2 keeps all rows but the last two.
#[test]
fn a_negative_number_of_rows_cuts_from_the_end() {
    let rig = ready();
    let ((x, _), (ids, _)) = (floats(&rig, &X, &[3, 2]), integers(&rig, &IDS, &[3, 2]));
    let ((out, rows), (sorted, index)) = (floats(&rig, &[-7.; 8], &[4, 2]), integers(&rig, &[-7; 6], &[6]));
    let (mut size, mut executor) = (0, null_mut());
    let status =
        c!(rig, aclnnMoeTokenPermuteGetWorkspaceSize(x, ids, -2, false, out, sorted, &mut size, &mut executor));
    assert_eq!(status, OK);
    assert_eq!(c!(rig, aclnnMoeTokenPermute(rig.malloc(size as usize), size, executor, NULL)), OK);
    ok!(rig, aclrtSynchronizeStream(NULL));
    assert_eq!(read::<f32>(&rig, rows, 8), [1., 2., 3., 4., 1., 2., 3., 4.]);
    assert_eq!(read::<i32>(&rig, index, 6), [2, 0, 1, 3, 5, 4]);
    rig.assert_clean();
}

/// Null and `[0, 0]` stand for no range: all rows as without one, and weights are not read.
#[test]
fn without_a_range_all_rows_are_given_and_no_weights() {
    let rig = ready();
    let zeros = c!(rig, aclCreateIntArray([0i64; 2].as_ptr(), 2));
    for range in [null::<aclIntArray>(), zeros] {
        let ((x, _), (ids, _)) = (floats(&rig, &X, &[3, 2]), integers(&rig, &IDS, &[3, 2]));
        let ((probs, _), (weights, given)) = (floats(&rig, &[0.5; 6], &[3, 2]), floats(&rig, &[-7.; 6], &[6]));
        let ((out, rows), (sorted, index)) = (floats(&rig, &[-7.; 12], &[6, 2]), integers(&rig, &[-7; 6], &[6]));
        let (mut size, mut executor) = (0, null_mut());
        let status = c!(
            rig,
            aclnnMoeTokenPermuteWithEpGetWorkspaceSize(
                x,
                ids,
                probs,
                range,
                0,
                false,
                out,
                sorted,
                weights,
                &mut size,
                &mut executor
            )
        );
        assert_eq!(status, OK);
        assert_eq!(c!(rig, aclnnMoeTokenPermuteWithEp(rig.malloc(size as usize), size, executor, NULL)), OK);
        ok!(rig, aclrtSynchronizeStream(NULL));
        assert_eq!(read::<f32>(&rig, rows, 12), [1., 2., 3., 4., 1., 2., 3., 4., 5., 6., 5., 6.]);
        assert_eq!(read::<i32>(&rig, index, 6), [2, 0, 1, 3, 5, 4]);
        assert_eq!(read::<f32>(&rig, given, 6), [-7.; 6]);

        let (back, sums) = floats(&rig, &[-7.; 6], &[3, 2]);
        let status = c!(
            rig,
            aclnnMoeTokenUnpermuteWithEpGetWorkspaceSize(
                out,
                sorted,
                probs,
                2,
                range,
                false,
                null(),
                back,
                &mut size,
                &mut executor
            )
        );
        assert_eq!(status, OK);
        assert_eq!(c!(rig, aclnnMoeTokenUnpermuteWithEp(rig.malloc(size as usize), size, executor, NULL)), OK);
        ok!(rig, aclrtSynchronizeStream(NULL));
        assert_eq!(read::<f32>(&rig, sums, 6), X);
    }
    rig.assert_clean();
}

/// Outputs of a capacity are left alone without one; without rows all outputs are 0.
#[test]
fn outputs_that_the_mode_does_not_have() {
    let rig = ready();
    for rows in [2usize, 0] {
        let count = rows as i64;
        let (permuted, _) = floats(&rig, &vec![3.; rows.max(1)][..], &[count, 1]);
        let (sorted, _) = integers(&rig, &[0, 1][..rows.max(1)], &[count]);
        let (map, _) = tensor(&rig, aclDataType::INT8, &[1i8, 1], &[2, 1]);
        let (probs, _) = floats(&rig, &[0.5, 2.], &[2, 1]);
        let (out, sums) = floats(&rig, &[-7.; 2], &[2, 1]);
        let (order, places) = integers(&rig, &[-7; 2], &[count]);
        let (ids, tokens) = integers(&rig, &[-7; 2], &[count]);
        let (mut size, mut executor) = (0, null_mut());
        let status = c!(
            rig,
            aclnnMoeTokenUnpermuteWithRoutingMapGetWorkspaceSize(
                permuted,
                sorted,
                map,
                probs,
                false,
                null(),
                out,
                order,
                ids,
                null_mut(),
                &mut size,
                &mut executor
            )
        );
        assert_eq!(status, OK);
        let workspace = rig.malloc((size as usize).max(1));
        assert_eq!(c!(rig, aclnnMoeTokenUnpermuteWithRoutingMap(workspace, size, executor, NULL)), OK);
        ok!(rig, aclrtSynchronizeStream(NULL));
        assert_eq!(read::<f32>(&rig, sums, 2), if rows == 0 { [0.; 2] } else { [1.5, 6.] });
        assert_eq!(read::<i32>(&rig, places, 2), [-7; 2]);
        assert_eq!(read::<i32>(&rig, tokens, 2), [-7; 2]);
    }
    rig.assert_clean();
}
