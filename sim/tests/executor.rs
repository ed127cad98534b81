//! aclnn base and the two phases: ownership, executors, workspaces, findings, and what a device fault does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use ascend_sys::{
    aclDataType, aclFormat, aclIntArray, aclOpExecutor, aclScalar, aclTensor, aclTensorList, aclnnStatus, aclrtStream,
};
use cann_sim::{Config, FindingKind, Mode};
use common::{Gate, Rig, c, code, ok};

const OK: aclnnStatus = aclnnStatus::SUCCESS;
const NULLPTR: aclnnStatus = aclnnStatus::ERR_PARAM_NULLPTR;
const INVALID: aclnnStatus = aclnnStatus::ERR_PARAM_INVALID;
const INNER: aclnnStatus = aclnnStatus::ERR_INNER_NULLPTR;
const NULL: aclrtStream = aclrtStream::NULL;

/// Initialised, with device 0 on this thread.
fn ready(rig: Rig) -> Rig {
    ok!(rig, aclInit(null()));
    rig.on_device()
}

fn floats(rig: &Rig, values: &[f32]) -> *mut c_void {
    let memory = rig.malloc(size_of_val(values));
    rig.upload(memory, bytemuck::cast_slice(values));
    memory
}

fn read<T: bytemuck::Pod>(rig: &Rig, memory: *const c_void, len: usize) -> Vec<T> {
    rig.download(memory, len * size_of::<T>()).chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

fn tensor_of(
    rig: &Rig,
    dtype: aclDataType,
    shape: &[i64],
    strides: Option<&[i64]>,
    storage: &[i64],
    memory: *mut c_void,
) -> *mut aclTensor {
    let strides = strides.map_or(null(), <[i64]>::as_ptr);
    let tensor = c!(
        rig,
        aclCreateTensor(
            shape.as_ptr(),
            shape.len() as u64,
            dtype,
            strides,
            0,
            aclFormat::ND,
            storage.as_ptr(),
            storage.len() as u64,
            memory
        )
    );
    assert!(!tensor.is_null());
    tensor
}

fn tensor(rig: &Rig, shape: &[i64], memory: *mut c_void) -> *mut aclTensor {
    tensor_of(rig, aclDataType::FLOAT, shape, None, shape, memory)
}

fn one(rig: &Rig) -> *mut aclScalar {
    let mut one = 1f32;
    c!(rig, aclCreateScalar((&raw mut one).cast(), aclDataType::FLOAT))
}

/// `out = a + b`, ready for phase 2.
struct Sum {
    tensors: [*mut aclTensor; 3],
    out: *mut c_void,
    executor: *mut aclOpExecutor,
}

fn sum(rig: &Rig) -> Sum {
    let (a, b, out) = (floats(rig, &[1., 2., 3.]), floats(rig, &[10., 20., 30.]), floats(rig, &[0.; 3]));
    let tensors = [a, b, out].map(|memory| tensor(rig, &[3], memory));
    let (mut size, mut executor) = (7, null_mut());
    let alpha = one(rig);
    assert_eq!(
        c!(rig, aclnnAddGetWorkspaceSize(tensors[0], tensors[1], alpha, tensors[2], &mut size, &mut executor)),
        OK
    );
    assert_eq!((size, c!(rig, aclDestroyScalar(alpha))), (0, OK));
    Sum { tensors, out, executor }
}

/// `[1, 1] @ [1, 1]`, which needs a workspace, ready for phase 2.
fn product(rig: &Rig) -> (*mut aclOpExecutor, u64) {
    let memory = [floats(rig, &[2.]), floats(rig, &[3.]), floats(rig, &[0.])];
    let [a, b, out] = memory.map(|memory| tensor(rig, &[1, 1], memory));
    let (mut size, mut executor) = (0, null_mut());
    assert_eq!(c!(rig, aclnnMmGetWorkspaceSize(a, b, out, 0, &mut size, &mut executor)), OK);
    assert!(size > 0, "matrix products ask for a workspace");
    (executor, size)
}

#[test]
fn arguments_may_go_once_phase_two_has_returned() {
    let rig = ready(Rig::strict());
    let (stream, gate) = (rig.stream(), Gate::new());
    rig.block(stream, gate);
    let sum = sum(&rig);
    assert_eq!(c!(rig, aclnnAdd(null_mut(), 0, sum.executor, stream)), OK);
    for tensor in sum.tensors {
        assert_eq!(c!(rig, aclDestroyTensor(tensor)), OK);
    }
    gate.open();
    ok!(rig, aclrtSynchronizeStream(stream));
    assert_eq!(read::<f32>(&rig, sum.out, 3), [11., 22., 33.]);
    rig.assert_clean();
}

#[test]
fn an_executor_is_used_once() {
    let rig = ready(Rig::strict());
    let sum = sum(&rig);
    assert_eq!(c!(rig, aclnnAdd(null_mut(), 0, sum.executor, NULL)), OK);
    assert_eq!(c!(rig, aclnnAdd(null_mut(), 0, sum.executor, NULL)), INNER);
    assert_eq!(c!(rig, aclDestroyAclOpExecutor(sum.executor)), INNER, "phase 2 consumed it");
    assert_eq!(rig.findings(), [FindingKind::ExecutorReused, FindingKind::UnknownHandle]);
}

#[test]
fn an_executor_that_never_runs_is_destroyed() {
    let rig = ready(Rig::strict());
    let sum = sum(&rig);
    assert_eq!(c!(rig, aclDestroyAclOpExecutor(sum.executor)), OK);
    assert_eq!(c!(rig, aclDestroyAclOpExecutor(null_mut())), INNER, "null is refused for executors alone");
    rig.assert_clean();
}

#[test]
fn a_repeatable_executor_reads_the_addresses_of_the_moment() {
    let rig = ready(Rig::strict());
    let sum = sum(&rig);
    assert_eq!(c!(rig, aclSetAclOpExecutorRepeatable(sum.executor)), OK);
    assert_eq!(c!(rig, aclnnAdd(null_mut(), 0, sum.executor, NULL)), OK);
    let other = floats(&rig, &[100., 200., 300.]);
    assert_eq!(c!(rig, aclSetInputTensorAddr(sum.executor, 0, sum.tensors[0], other)), OK);
    let target = floats(&rig, &[0.; 3]);
    assert_eq!(c!(rig, aclSetOutputTensorAddr(sum.executor, 0, sum.tensors[2], target)), OK);
    assert_eq!(c!(rig, aclnnAdd(null_mut(), 0, sum.executor, NULL)), OK);
    ok!(rig, aclrtSynchronizeStream(NULL));
    assert_eq!(read::<f32>(&rig, sum.out, 3), [11., 22., 33.]);
    assert_eq!(read::<f32>(&rig, target, 3), [110., 220., 330.]);
    assert_eq!(c!(rig, aclDestroyAclOpExecutor(sum.executor)), OK);
    rig.assert_clean();
}

#[test]
fn a_missing_workspace_consumes_even_a_repeatable_executor() {
    let rig = ready(Rig::strict());
    let (executor, size) = product(&rig);
    assert_eq!(c!(rig, aclSetAclOpExecutorRepeatable(executor)), OK);
    assert_eq!(c!(rig, aclnnMm(null_mut(), size, executor, NULL)), NULLPTR);
    assert_eq!(c!(rig, aclnnMm(rig.malloc(size as usize), size, executor, NULL)), INNER);
}

#[test]
fn a_generated_operator_leaves_the_executor_alone_where_the_workspace_is_wrong() {
    let rig = ready(Rig::strict());
    let logits = tensor(&rig, &[1, 4], floats(&rig, &[0., 3., 1., 2.]));
    let (weights, indices) = (floats(&rig, &[0.; 2]), rig.malloc(8));
    let y = tensor(&rig, &[1, 2], weights);
    let ids = tensor_of(&rig, aclDataType::INT32, &[1, 2], None, &[1, 2], indices);
    let scores = tensor(&rig, &[1, 4], floats(&rig, &[0.; 4]));
    let (mut size, mut executor) = (0, null_mut());
    let status = c!(
        rig,
        aclnnMoeGatingTopKGetWorkspaceSize(
            logits,
            null(),
            2,
            1,
            1,
            0,
            0,
            1,
            false,
            1.0,
            1e-20,
            y,
            ids,
            scores,
            &mut size,
            &mut executor
        )
    );
    assert_eq!(status, OK);
    assert_eq!(c!(rig, aclnnMoeGatingTopK(null_mut(), size, executor, NULL)), NULLPTR);
    let workspace = rig.malloc(size as usize);
    assert_eq!(c!(rig, aclnnMoeGatingTopK(workspace, size - 1, executor, NULL)), INVALID);
    assert_eq!(c!(rig, aclnnMoeGatingTopK(workspace, size, executor, NULL)), OK, "still there");
    ok!(rig, aclrtSynchronizeStream(NULL));
    assert_eq!(read::<i32>(&rig, indices, 2), [1, 3]);
}

#[test]
fn a_workspace_is_device_memory_of_the_announced_size_that_lives() {
    let rig = ready(Rig::strict());
    let (executor, size) = product(&rig);
    assert_eq!(c!(rig, aclnnMm(rig.malloc(64), 64, executor, NULL)), INVALID);
    let (executor, size_again) = product(&rig);
    assert_eq!(size, size_again);
    let mut host = vec![0u8; size as usize];
    assert_eq!(c!(rig, aclnnMm(host.as_mut_ptr().cast(), size, executor, NULL)), INVALID);
    assert_eq!(rig.findings(), [FindingKind::WorkspaceTooSmall, FindingKind::Workspace]);

    let (stream, gate) = (rig.stream(), Gate::new());
    rig.block(stream, gate);
    let (executor, size) = product(&rig);
    let workspace = rig.malloc(size as usize);
    assert_eq!(c!(rig, aclnnMm(workspace, size, executor, stream)), OK, "the launch succeeds");
    ok!(rig, aclrtFree(workspace));
    gate.open();
    code!(rig, aclrtSynchronizeStream(stream), 507_015);
}

#[test]
fn tensors_must_live_between_the_phases() {
    for (mode, answer) in [(Mode::Strict, INNER), (Mode::Lenient, OK)] {
        let rig = ready(Rig::new(Config { mode, ..Config::default() }));
        let sum = sum(&rig);
        assert_eq!(c!(rig, aclDestroyTensor(sum.tensors[0])), OK);
        assert_eq!(c!(rig, aclnnAdd(null_mut(), 0, sum.executor, NULL)), answer);
        assert_eq!(rig.findings(), [FindingKind::DestroyedArgument]);
    }
}

#[test]
fn a_list_owns_its_tensors() {
    let rig = ready(Rig::strict());
    let tensors = [(); 2].map(|()| tensor(&rig, &[1], floats(&rig, &[0.])));
    let members = tensors.map(<*mut aclTensor>::cast_const);
    let list = c!(rig, aclCreateTensorList(members.as_ptr(), 2));
    let mut size = 0;
    assert_eq!(c!(rig, aclGetTensorListSize(list, &mut size)), OK);
    assert_eq!(size, 2);
    assert_eq!(c!(rig, aclDestroyTensorList(list)), OK);
    rig.assert_clean();
    c!(rig, aclDestroyTensor(tensors[0]));
    assert_eq!(rig.findings(), [FindingKind::UnknownHandle], "destroyed with its list");
}

#[test]
fn null_destroys_are_fine_and_null_arguments_are_not() {
    let rig = ready(Rig::strict());
    assert_eq!(c!(rig, aclDestroyTensor(null::<aclTensor>())), OK);
    assert_eq!(c!(rig, aclDestroyTensorList(null::<aclTensorList>())), OK);
    assert_eq!(c!(rig, aclDestroyScalar(null::<aclScalar>())), OK);
    assert_eq!(c!(rig, aclDestroyIntArray(null::<aclIntArray>())), OK);
    assert!(c!(rig, aclCreateScalar(null_mut(), aclDataType::FLOAT)).is_null());
    let tensor =
        c!(rig, aclCreateTensor(null(), 2, aclDataType::FLOAT, null(), 0, aclFormat::ND, null(), 0, null_mut()));
    assert!(tensor.is_null(), "no dimensions where two are announced");
    rig.assert_clean();
    let (mut size, mut executor) = (0, null_mut());
    let status = c!(rig, aclnnAddGetWorkspaceSize(null(), null(), null(), null_mut(), &mut size, &mut executor));
    assert_eq!(status, NULLPTR);
    assert!(rig.error_text().unwrap().contains("null"));
}

#[test]
fn dimensions_are_given_in_memory_of_the_caller() {
    let rig = ready(Rig::strict());
    let view = tensor_of(&rig, aclDataType::FLOAT, &[3, 2], Some(&[1, 3]), &[2, 3], null_mut());
    let check = |expected: [i64; 2], status, dims: *mut i64, count| {
        assert_eq!((status, count), (OK, 2));
        // SAFETY: the call gave two values, in memory that `free` takes back.
        unsafe {
            assert_eq!(std::slice::from_raw_parts(dims, 2), expected);
            libc::free(dims.cast());
        }
    };
    let (mut dims, mut count) = (null_mut(), 0);
    let status = c!(rig, aclGetViewShape(view, &mut dims, &mut count));
    check([3, 2], status, dims, count);
    let status = c!(rig, aclGetViewStrides(view, &mut dims, &mut count));
    check([1, 3], status, dims, count);
    let status = c!(rig, aclGetStorageShape(view, &mut dims, &mut count));
    check([2, 3], status, dims, count);
}

#[test]
fn memory_of_an_operand_is_checked_when_the_operator_runs() {
    let rig = ready(Rig::strict());
    let mut host = [0f32; 3];
    let (a, out) = (tensor(&rig, &[3], host.as_mut_ptr().cast()), tensor(&rig, &[3], floats(&rig, &[0.; 3])));
    let (alpha, mut size, mut executor) = (one(&rig), 0, null_mut());
    assert_eq!(c!(rig, aclnnAddGetWorkspaceSize(a, a, alpha, out, &mut size, &mut executor)), OK);
    assert_eq!(c!(rig, aclnnAdd(null_mut(), 0, executor, NULL)), OK, "a launch reports no fault");
    code!(rig, aclrtSynchronizeStream(NULL), 507_015);
    assert_eq!(rig.findings(), [FindingKind::HostPointerAsDevice]);
    assert_eq!(c!(rig, aclnnAdd(null_mut(), 0, executor, NULL)), INNER, "and the executor is gone");
}

/// Rows of x by expert with a group list of counts; gives the output, which held 9 before.
fn grouped(rig: &Rig, counts: [i64; 2]) -> (Vec<f32>, aclnnStatus) {
    let list = rig.malloc(16);
    rig.upload(list, bytemuck::cast_slice(&counts));
    let target = floats(rig, &[9.; 3]);
    let lists = [
        tensor(rig, &[3, 1], floats(rig, &[1., 2., 3.])),
        tensor(rig, &[2, 1, 1], floats(rig, &[10., 100.])),
        tensor(rig, &[3, 1], target),
    ]
    .map(|tensor| c!(rig, aclCreateTensorList(&tensor.cast_const(), 1)));
    let groups = tensor_of(rig, aclDataType::INT64, &[2], None, &[2], list);
    let (mut size, mut executor) = (0, null_mut());
    let none = null::<aclTensorList>();
    let status = c!(
        rig,
        aclnnGroupedMatmulV5GetWorkspaceSize(
            lists[0],
            lists[1],
            none,
            none,
            none,
            none,
            none,
            none,
            groups,
            none,
            none,
            none,
            2,
            0,
            1,
            0,
            null_mut(),
            lists[2],
            null_mut(),
            null_mut(),
            &mut size,
            &mut executor
        )
    );
    assert_eq!(status, OK);
    let status = c!(rig, aclnnGroupedMatmulV5(rig.malloc(size as usize), size, executor, NULL));
    assert_eq!(status, OK, "the list is read when the operator runs");
    let ended = c!(rig, aclrtSynchronizeStream(NULL));
    let values = if ended.is_ok() { read(rig, target, 3) } else { Vec::new() };
    (values, aclnnStatus(ended.0))
}

#[test]
fn rows_of_no_group_are_not_written() {
    let rig = ready(Rig::strict());
    assert_eq!(grouped(&rig, [1, 1]), (vec![10., 200., 9.], OK));
    assert_eq!(grouped(&rig, [0, 3]), (vec![100., 200., 300.], OK));
    rig.assert_clean();
}

#[test]
fn a_group_list_that_does_not_fit_is_reported() {
    for counts in [[2, 2], [-1, 2]] {
        let rig = ready(Rig::strict());
        assert_eq!(grouped(&rig, counts).1, aclnnStatus(507_015));
        assert_eq!(rig.findings(), [FindingKind::GroupList]);
        let rig = ready(Rig::lenient());
        assert_eq!(grouped(&rig, counts).1, OK, "hardware does not check");
        assert_eq!(rig.findings(), [FindingKind::GroupList]);
    }
}

#[test]
fn a_failing_operator_loses_the_context_until_the_device_is_reset() {
    let rig = Rig::faulty(Mode::Strict, "aclnnAdd@1=device:507015");
    ok!(rig, aclInit(null()));
    let first = sum(&rig);
    assert_eq!(c!(rig, aclnnAdd(null_mut(), 0, first.executor, NULL)), OK);
    code!(rig, aclrtSynchronizeStream(NULL), 507_015);
    code!(rig, aclrtSynchronizeStream(NULL), 507_015);
    // What this test did not give back is reported, and torn down all the same.
    code!(rig, aclrtResetDeviceForce(0), 507_007);
    assert!(rig.findings().contains(&FindingKind::Leak));
    ok!(rig, aclrtSetDevice(0));
    let again = sum(&rig);
    assert_eq!(c!(rig, aclnnAdd(null_mut(), 0, again.executor, NULL)), OK);
    ok!(rig, aclrtSynchronizeStream(NULL));
    assert_eq!(read::<f32>(&rig, again.out, 3), [11., 22., 33.]);
}

#[test]
fn an_invalid_routing_is_refused_by_the_second_phase() {
    let rig = ready(Rig::strict());
    let x = tensor(&rig, &[1, 2], floats(&rig, &[1., 2.]));
    let ids = tensor_of(&rig, aclDataType::INT32, &[1, 1], None, &[1, 1], rig.malloc(4));
    let expanded = tensor(&rig, &[1, 2], floats(&rig, &[0.; 2]));
    let rows = tensor_of(&rig, aclDataType::INT32, &[1], None, &[1], rig.malloc(4));
    let counts = tensor_of(&rig, aclDataType::INT64, &[4], None, &[4], rig.malloc(32));
    let scale = tensor(&rig, &[1], floats(&rig, &[0.]));
    let (mut size, mut executor) = (0, null_mut());
    let status = c!(
        rig,
        aclnnMoeInitRoutingV3GetWorkspaceSize(
            x,
            ids,
            null(),
            null(),
            1,
            0,
            4,
            0,
            1,
            true,
            -1,
            null(),
            7,
            expanded,
            rows,
            counts,
            scale,
            &mut size,
            &mut executor
        )
    );
    assert_eq!(status, OK, "rowIdxType 7 is not seen by phase 1");
    let workspace = rig.malloc((size as usize).max(1));
    assert_eq!(c!(rig, aclnnMoeInitRoutingV3(workspace, size, executor, NULL)), INNER);
}

#[test]
fn strided_operands_of_routing_operators_are_read_as_they_are() {
    let rig = ready(Rig::strict());
    // Two rows of two values, stored column by column; probabilities and indices likewise.
    let rows = tensor_of(&rig, aclDataType::FLOAT, &[2, 2], Some(&[1, 2]), &[2, 2], floats(&rig, &[1., 2., 10., 20.]));
    let indices = rig.malloc(16);
    rig.upload(indices, bytemuck::cast_slice(&[0i32, -5, 1, -5]));
    let indices = tensor_of(&rig, aclDataType::INT32, &[2], Some(&[2]), &[4], indices);
    let target = floats(&rig, &[0.; 4]);
    let out = tensor(&rig, &[2, 2], target);
    let probs = tensor_of(&rig, aclDataType::FLOAT, &[2, 1], Some(&[2, 1]), &[4], floats(&rig, &[0.5, 7., 2., 7.]));
    let (mut size, mut executor) = (0, null_mut());
    let status = c!(
        rig,
        aclnnMoeTokenUnpermuteGetWorkspaceSize(rows, indices, probs, false, null(), out, &mut size, &mut executor)
    );
    assert_eq!(status, OK);
    assert_eq!(c!(rig, aclnnMoeTokenUnpermute(rig.malloc(size as usize), size, executor, NULL)), OK);
    ok!(rig, aclrtSynchronizeStream(NULL));
    assert_eq!(read::<f32>(&rig, target, 4), [0.5, 5., 4., 40.]);
    rig.assert_clean();
}

#[test]
fn the_trace_names_operator_shapes_and_stream() {
    let rig = ready(Rig::strict());
    let sum = sum(&rig);
    assert_eq!(c!(rig, aclnnAdd(null_mut(), 0, sum.executor, NULL)), OK);
    ok!(rig, aclrtSynchronizeStream(NULL));
    let trace = rig.sim.trace();
    let record = trace.iter().find(|record| record.function == "aclnnAdd").expect("a record of the operator");
    assert!(record.detail.contains("[3]"), "{}", record.detail);
    assert!(
        record.stream.is_some() && record.queued_ns <= record.started_ns && record.started_ns <= record.finished_ns
    );
}
