//! The two phases every operator has, and the one call that has none.

use std::sync::Arc;

use ascend_sys::ops::Phase;
use ascend_sys::{
    OperatorId, aclDataType, aclError, aclFormat, aclIntArray, aclOpExecutor, aclScalar, aclTensor, aclTensorList,
    aclnnStatus, aclrtStream,
};
use core::ffi::{CStr, c_char, c_int, c_void};

use super::base::{give_dims, object};
use crate::executor::{
    BoundArg, Executor, ExecutorState, IntArrayObject, ScalarObject, TensorListObject, TensorObject,
};
use crate::instance::Instance;
use crate::ops;
use crate::report::{Finding, FindingKind};
use crate::task::Task;

/// An argument of phase 1 as it comes from C, before handles are looked up.
#[derive(Clone, Copy)]
pub(crate) enum RawArg {
    Tensor(*const c_void),
    Tensors(*const c_void),
    Scalar(*const c_void),
    Ints(*const c_void),
    Int(i64),
    Float(f64),
    Bool(bool),
    DType(aclDataType),
    Text(*const c_char),
}

/// Conversion of a C argument type.
pub(crate) trait IntoArg {
    fn into_arg(self) -> RawArg;
}

macro_rules! into_arg {
    ($($t:ty => |$v:ident| $arg:expr;)*) => {$(
        impl IntoArg for $t {
            fn into_arg(self) -> RawArg {
                let $v = self;
                $arg
            }
        }
    )*};
}

into_arg! {
    *const aclTensor => |v| RawArg::Tensor(v.cast());
    *mut aclTensor => |v| RawArg::Tensor(v.cast_const().cast());
    *const aclTensorList => |v| RawArg::Tensors(v.cast());
    *mut aclTensorList => |v| RawArg::Tensors(v.cast_const().cast());
    *const aclScalar => |v| RawArg::Scalar(v.cast());
    *const aclIntArray => |v| RawArg::Ints(v.cast());
    *mut aclIntArray => |v| RawArg::Ints(v.cast_const().cast());
    i64 => |v| RawArg::Int(v);
    i32 => |v| RawArg::Int(i64::from(v));
    i8 => |v| RawArg::Int(i64::from(v));
    u32 => |v| RawArg::Int(i64::from(v));
    f64 => |v| RawArg::Float(v);
    f32 => |v| RawArg::Float(f64::from(v));
    bool => |v| RawArg::Bool(v);
    aclDataType => |v| RawArg::DType(v);
    *const c_char => |v| RawArg::Text(v);
    *mut c_char => |v| RawArg::Text(v.cast_const());
}

/// Looks handles up; `None` where one is not what its parameter says (a finding is made).
fn bind(sim: &Instance, call: &'static str, arg: RawArg) -> Option<BoundArg> {
    Some(match arg {
        RawArg::Tensor(handle) if handle.is_null() => BoundArg::Tensor(None),
        RawArg::Tensor(handle) => BoundArg::Tensor(Some(object::<TensorObject>(sim, call, handle)?)),
        RawArg::Tensors(handle) if handle.is_null() => BoundArg::Tensors(None),
        RawArg::Tensors(handle) => {
            BoundArg::Tensors(Some(object::<TensorListObject>(sim, call, handle)?.tensors.clone()))
        }
        RawArg::Scalar(handle) if handle.is_null() => BoundArg::Scalar(None),
        RawArg::Scalar(handle) => BoundArg::Scalar(Some(object::<ScalarObject>(sim, call, handle)?.0)),
        RawArg::Ints(handle) if handle.is_null() => BoundArg::Ints(None),
        RawArg::Ints(handle) => BoundArg::Ints(Some(object::<IntArrayObject>(sim, call, handle)?.0.clone())),
        RawArg::Int(value) => BoundArg::Int(value),
        RawArg::Float(value) => BoundArg::Float(value),
        RawArg::Bool(value) => BoundArg::Bool(value),
        RawArg::DType(value) => BoundArg::DType(value),
        RawArg::Text(text) if text.is_null() => BoundArg::Text(None),
        // SAFETY: by the C contract of phase 1 a text is null or ends with NUL; it is copied here.
        RawArg::Text(text) => BoundArg::Text(Some(Arc::from(unsafe { CStr::from_ptr(text) }))),
    })
}

/// Whether the operator's API is generated from its definition: such APIs leave the executor alone where phase 2 is
/// called with a null or too small workspace, hand-written ones consume it.
pub(crate) fn is_generated(operator: OperatorId) -> bool {
    operator.row().codes.other == aclnnStatus::ERR_INNER_TILING_ERROR
}

/// Phase 1: validates, sizes the workspace, makes the executor.
///
/// # Safety
/// `workspace_size` and `executor` must be writable unless null.
pub(crate) unsafe fn phase1(
    sim: &Arc<Instance>,
    operator: OperatorId,
    args: &[RawArg],
    workspace_size: *mut u64,
    executor: *mut *mut aclOpExecutor,
) -> aclnnStatus {
    let call = operator.info().phase1.name();
    if workspace_size.is_null() || executor.is_null() {
        sim.say(format!("EZ1001: {call}: workspaceSize and executor must not be null"));
        return aclnnStatus::ERR_PARAM_NULLPTR;
    }
    if !sim.initialised() || sim.current_context().is_err() {
        // Phase 1 reads the SoC and the kernel package of the current device. Which code CANN answers is not known.
        sim.say(format!("EE1001: {call}: CANN is not initialised, or no device is set on this thread"));
        return aclnnStatus::ERR_RUNTIME_ERROR;
    }
    let Some(bound) = args.iter().map(|&arg| bind(sim, call, arg)).collect::<Option<Vec<_>>>() else {
        return aclnnStatus::ERR_INNER_NULLPTR;
    };
    let mut prepared = Executor::new(operator, bound);
    let snapshot = prepared.snapshot();
    if let Err(violation) = snapshot.validate(sim.release()) {
        sim.say(format!("EZ1001: {violation}"));
        if violation.phase == Phase::One {
            return violation.code;
        }
        prepared.deferred = Some(violation);
    } else {
        prepared.workspace = ops::workspace(operator, &snapshot);
    }
    let size = prepared.workspace;
    let handle = sim.objects().insert("aclOpExecutor", Arc::new(prepared));
    // SAFETY: not null, and writable by the C contract.
    unsafe {
        workspace_size.write(size);
        executor.write(handle as *mut aclOpExecutor);
    }
    aclnnStatus::SUCCESS
}

/// Phase 2: checks the workspace, queues the work, consumes the executor unless it is repeatable.
pub(crate) fn phase2(
    sim: &Arc<Instance>,
    operator: OperatorId,
    workspace: *mut c_void,
    workspace_size: u64,
    executor: *mut aclOpExecutor,
    stream: aclrtStream,
) -> aclnnStatus {
    let call = operator.info().phase2.name();
    if executor.is_null() {
        sim.say(format!("EZ1001: {call}: executor must not be null"));
        return aclnnStatus::ERR_PARAM_NULLPTR;
    }
    let Some(prepared) = sim.objects().get::<Executor>(executor as usize) else {
        let what = format!("executor {executor:p} was used before, destroyed, or never made");
        sim.report(Finding::new(FindingKind::ExecutorReused, call, what));
        return aclnnStatus::ERR_INNER_NULLPTR;
    };
    if prepared.operator != operator {
        let what = format!("executor {executor:p} was made by {}", prepared.operator.info().phase1.name());
        sim.report(Finding::new(FindingKind::UnknownHandle, call, what));
        return aclnnStatus::ERR_INNER_NULLPTR;
    }
    let generated = is_generated(operator);
    let missing = prepared.workspace > 0 && workspace.is_null();
    let small = workspace_size < prepared.workspace;
    if generated && (missing || small) {
        sim.say(format!(
            "EZ1001: {call}: workspace of {workspace_size} bytes at {workspace:p}, needed {}",
            prepared.workspace
        ));
        return if missing { aclnnStatus::ERR_PARAM_NULLPTR } else { aclnnStatus::ERR_PARAM_INVALID };
    }
    if prepared.state() == ExecutorState::Ready || missing {
        sim.objects().remove::<Executor>(executor as usize);
    }
    if missing {
        sim.say(format!("EZ1001: {call}: null workspace, needed {} bytes", prepared.workspace));
        return aclnnStatus::ERR_PARAM_NULLPTR;
    }
    if let Some(violation) = &prepared.deferred {
        sim.say(format!("EZ9999: {violation}"));
        return violation.code;
    }
    if prepared.lost_a_tensor() {
        let what = "a tensor was destroyed between the two phases".to_owned();
        sim.report(Finding::new(FindingKind::DestroyedArgument, call, what));
        if sim.strict() {
            return aclnnStatus::ERR_INNER_NULLPTR;
        }
    }
    if small {
        let what = format!("workspace of {workspace_size} bytes, phase 1 asked for {}", prepared.workspace);
        sim.report(Finding::new(FindingKind::WorkspaceTooSmall, call, what));
        if sim.strict() {
            return aclnnStatus::ERR_PARAM_INVALID;
        }
    }
    let stream = match sim.stream(stream) {
        Ok(stream) => stream,
        Err(code) => return runtime_error(sim, call, code),
    };
    let needed = usize::try_from(prepared.workspace).unwrap_or(usize::MAX);
    if needed > 0
        && !small
        && let Err(error) = sim.memory().device_slice(workspace as u64, needed)
    {
        sim.report(Finding::new(FindingKind::Workspace, call, format!("workspace: {error}")));
        if sim.strict() {
            return aclnnStatus::ERR_PARAM_INVALID;
        }
    }
    let args = prepared.snapshot();
    let detail = if sim.trace().wants_detail() { args.describe() } else { String::new() };
    let workspace = (needed > 0 && !small).then_some((workspace as u64, needed));
    let device = stream.context.device;
    if ops::runs_at_once(operator) {
        return match ops::run(sim, operator, &args, workspace, device) {
            Ok(()) => aclnnStatus::SUCCESS,
            Err(fault) => runtime_error(sim, call, fault.code),
        };
    }
    let task = Task::new(call, detail, move |sim: &Instance| ops::run(sim, operator, &args, workspace, device));
    match stream.submit(sim, task) {
        Ok(()) => aclnnStatus::SUCCESS,
        Err(code) => runtime_error(sim, call, code),
    }
}

fn runtime_error(sim: &Instance, call: &'static str, code: aclError) -> aclnnStatus {
    sim.set_error(code, format!("EE1001: {call}: the runtime answered {code:?}"));
    aclnnStatus::ERR_RUNTIME_ERROR
}

/// Elements that a weight of a shape takes in the layout the cube unit likes best: both last dimensions in blocks, `columns` wide.
///
/// # Safety
/// `size` must be writable unless null.
unsafe fn matmul_weight_size(
    sim: &Arc<Instance>,
    call: &'static str,
    shape: *const aclIntArray,
    columns: u64,
    size: *mut u64,
) -> aclnnStatus {
    if shape.is_null() || size.is_null() {
        sim.say(format!("EZ1001: {call}: a null pointer"));
        return aclnnStatus::ERR_PARAM_NULLPTR;
    }
    let Some(shape) = object::<IntArrayObject>(sim, call, shape.cast()) else { return aclnnStatus::ERR_INNER_NULLPTR };
    let dims: Option<Vec<u64>> = shape.0.iter().map(|&dim| u64::try_from(dim).ok()).collect();
    let elements = dims.as_deref().and_then(|dims| match dims {
        [batch @ .., rows, cols] if batch.len() <= 4 => {
            let blocks = rows.checked_next_multiple_of(16)?.checked_mul(cols.checked_next_multiple_of(columns)?)?;
            batch.iter().try_fold(blocks, |all, &dim| all.checked_mul(dim))
        }
        _ => None,
    });
    let Some(elements) = elements else {
        sim.say(format!("EZ1001: {call}: shape {:?}; legal are 2 to 6 dimensions, none negative", shape.0));
        return aclnnStatus::ERR_PARAM_INVALID;
    };
    // SAFETY: not null, and writable by the C contract.
    unsafe { size.write(elements) };
    aclnnStatus::SUCCESS
}

/// # Safety
/// `weightTensorSize` must be writable unless null.
pub(crate) unsafe fn aclnnCalculateMatmulWeightSize(
    sim: &Arc<Instance>,
    tensorShape: *const aclIntArray,
    weightTensorSize: *mut u64,
) -> aclnnStatus {
    // SAFETY: the caller's.
    unsafe { matmul_weight_size(sim, "aclnnCalculateMatmulWeightSize", tensorShape, 16, weightTensorSize) }
}

/// # Safety
/// `weightTensorSize` must be writable unless null.
pub(crate) unsafe fn aclnnCalculateMatmulWeightSizeV2(
    sim: &Arc<Instance>,
    tensorShape: *const aclIntArray,
    dataType: aclDataType,
    weightTensorSize: *mut u64,
) -> aclnnStatus {
    const CALL: &str = "aclnnCalculateMatmulWeightSizeV2";
    let columns = match dataType {
        aclDataType::FLOAT16 | aclDataType::BF16 => 16,
        aclDataType::INT8 => 32,
        other => {
            sim.say(format!("EZ1001: {CALL}: dtype {other:?}; legal are FLOAT16, BF16 and INT8"));
            return aclnnStatus::ERR_PARAM_INVALID;
        }
    };
    // SAFETY: the caller's.
    unsafe { matmul_weight_size(sim, CALL, tensorShape, columns, weightTensorSize) }
}

/// Storage shape and format of a tensor after `aclnnNpuFormatCast`.
///
/// # Safety
/// The out pointers must be writable unless null; the caller frees `*dst_shape` as memory of `new int64_t[]`.
pub(crate) unsafe fn aclnnNpuFormatCastCalculateSizeAndFormat(
    sim: &Arc<Instance>,
    srcTensor: *const aclTensor,
    dstFormat: c_int,
    additionalDtype: c_int,
    dstShape: *mut *mut i64,
    dstShapeSize: *mut u64,
    actualFormat: *mut c_int,
) -> aclnnStatus {
    const CALL: &str = "aclnnNpuFormatCastCalculateSizeAndFormat";
    if srcTensor.is_null() || dstShape.is_null() || dstShapeSize.is_null() || actualFormat.is_null() {
        sim.say(format!("EZ1001: {CALL}: a null pointer"));
        return aclnnStatus::ERR_INNER_NULLPTR;
    }
    let Some(source) = object::<TensorObject>(sim, CALL, srcTensor.cast()) else {
        return aclnnStatus::ERR_INNER_NULLPTR;
    };
    let (format, dtype) = (aclFormat(dstFormat), aclDataType(additionalDtype));
    match ascend_sys::ops::format_cast_storage(&source.desc(), format, dtype) {
        Ok(storage) => {
            // SAFETY: both are not null, and writable by the C contract.
            let status = unsafe { give_dims(&storage, dstShape, dstShapeSize) };
            if status.is_ok() {
                // SAFETY: as above.
                unsafe { actualFormat.write(dstFormat) };
            }
            status
        }
        Err(violation) => {
            sim.say(format!("EZ1001: {violation}"));
            violation.code
        }
    }
}
