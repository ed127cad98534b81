//! aclnn base: tensors, lists, scalars, arrays and executors as C sees them (opbase 9.1.0, acl_op_api.cpp).

use std::sync::Arc;

use ascend_sys::ops::{MAX_RANK, ScalarValue, TensorDesc};
use ascend_sys::{
    aclBoolArray, aclDataType, aclFloatArray, aclFormat, aclIntArray, aclOpExecutor, aclScalar, aclScalarList,
    aclTensor, aclTensorList, aclnnStatus,
};
use core::ffi::{c_char, c_void};
use half::{bf16, f16};

use crate::executor::{
    BoolArrayObject, Executor, FloatArrayObject, IntArrayObject, ScalarListObject, ScalarObject, TensorListObject,
    TensorObject, read_desc,
};
use crate::instance::Instance;
use crate::report::{Finding, FindingKind};

const OK: aclnnStatus = aclnnStatus::SUCCESS;
const NULLPTR: aclnnStatus = aclnnStatus::ERR_PARAM_NULLPTR;
const INVALID: aclnnStatus = aclnnStatus::ERR_PARAM_INVALID;
const INNER_NULLPTR: aclnnStatus = aclnnStatus::ERR_INNER_NULLPTR;

/// The object behind a handle; a stale or foreign handle is a finding.
pub(crate) fn object<T: Send + Sync + 'static>(
    sim: &Instance,
    call: &'static str,
    handle: *const c_void,
) -> Option<Arc<T>> {
    let found = sim.objects().get::<T>(handle as usize);
    if found.is_none() {
        sim.report(Finding::new(FindingKind::UnknownHandle, call, format!("handle {handle:p}")));
    }
    found
}

/// Takes the object behind a handle out of the registry; null is fine, a stale handle is a finding.
fn destroy<T: Send + Sync + 'static>(sim: &Instance, call: &'static str, handle: *const c_void) -> Option<Arc<T>> {
    if handle.is_null() {
        return None;
    }
    let found = sim.objects().remove::<T>(handle as usize);
    if found.is_none() {
        sim.report(Finding::new(
            FindingKind::UnknownHandle,
            call,
            format!("handle {handle:p} destroyed again or never made"),
        ));
    }
    found
}

fn register<T: Send + Sync + 'static, C>(sim: &Instance, kind: &'static str, object: T) -> *mut C {
    sim.objects().insert(kind, Arc::new(object)) as *mut C
}

#[allow(clippy::too_many_arguments, reason = "the C prototype")]
pub(crate) unsafe fn aclCreateTensor(
    sim: &Arc<Instance>,
    viewDims: *const i64,
    viewDimsNum: u64,
    dataType: aclDataType,
    stride: *const i64,
    offset: i64,
    format: aclFormat,
    storageDims: *const i64,
    storageDimsNum: u64,
    tensorData: *mut c_void,
) -> *mut aclTensor {
    // SAFETY: the C contract gives each array the length that comes with it.
    let desc = unsafe {
        read_desc(
            viewDims,
            viewDimsNum,
            dataType,
            stride,
            offset,
            format,
            storageDims,
            storageDimsNum,
            tensorData as u64,
        )
    };
    match desc {
        Some(desc) => register(sim, "aclTensor", TensorObject::new(desc)),
        None => {
            let found =
                format!("{viewDimsNum} view and {storageDimsNum} storage dimensions (at most {MAX_RANK}, not null)");
            sim.say(format!("EZ1001: aclCreateTensor: {found}"));
            core::ptr::null_mut()
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "the C prototype")]
pub(crate) unsafe fn aclInitTensor(
    sim: &Arc<Instance>,
    tensor: *mut aclTensor,
    viewDims: *const i64,
    viewDimsNum: u64,
    dataType: aclDataType,
    stride: *const i64,
    offset: i64,
    format: aclFormat,
    storageDims: *const i64,
    storageDimsNum: u64,
    tensorDataAddr: *mut c_void,
) -> aclnnStatus {
    if tensor.is_null() {
        return NULLPTR;
    }
    let Some(tensor) = object::<TensorObject>(sim, "aclInitTensor", tensor.cast()) else { return INVALID };
    // SAFETY: the C contract gives each array the length that comes with it.
    let desc = unsafe {
        read_desc(
            viewDims,
            viewDimsNum,
            dataType,
            stride,
            offset,
            format,
            storageDims,
            storageDimsNum,
            tensorDataAddr as u64,
        )
    };
    match desc {
        Some(desc) => {
            tensor.set_desc(desc);
            OK
        }
        None => INVALID,
    }
}

pub(crate) unsafe fn aclDestroyTensor(sim: &Arc<Instance>, tensor: *const aclTensor) -> aclnnStatus {
    if let Some(tensor) = destroy::<TensorObject>(sim, "aclDestroyTensor", tensor.cast()) {
        tensor.destroy();
    }
    OK
}

pub(crate) unsafe fn aclCreateTensorList(
    sim: &Arc<Instance>,
    value: *const *const aclTensor,
    size: u64,
) -> *mut aclTensorList {
    // SAFETY: the C contract gives `value` `size` entries.
    let Some(handles) = (unsafe { read_array(value, size) }) else {
        sim.report(Finding::new(FindingKind::NullPointer, "aclCreateTensorList", format!("null with size {size}")));
        return core::ptr::null_mut();
    };
    let tensors = handles
        .iter()
        .map(|&tensor| {
            (!tensor.is_null()).then(|| object::<TensorObject>(sim, "aclCreateTensorList", tensor.cast())).flatten()
        })
        .collect();
    let handles = handles.iter().map(|&tensor| tensor as usize).collect();
    register(sim, "aclTensorList", TensorListObject { handles, tensors })
}

pub(crate) unsafe fn aclDestroyTensorList(sim: &Arc<Instance>, array: *const aclTensorList) -> aclnnStatus {
    if let Some(list) = destroy::<TensorListObject>(sim, "aclDestroyTensorList", array.cast()) {
        for &handle in &list.handles {
            if let Some(tensor) = destroy::<TensorObject>(sim, "aclDestroyTensorList", handle as *const c_void) {
                tensor.destroy();
            }
        }
    }
    OK
}

pub(crate) unsafe fn aclCreateScalar(sim: &Arc<Instance>, value: *mut c_void, dataType: aclDataType) -> *mut aclScalar {
    if value.is_null() {
        return core::ptr::null_mut();
    }
    /// # Safety
    /// `value` must point to a `T`, not necessarily aligned.
    unsafe fn read<T: Copy>(value: *const c_void) -> T {
        // SAFETY: the caller vouches for the pointer.
        unsafe { value.cast::<T>().read_unaligned() }
    }
    /// The real part; no number where there is another, as no operator here computes with complex numbers.
    fn real([real, imaginary]: [f64; 2]) -> f64 {
        if imaginary == 0.0 { real } else { f64::NAN }
    }
    // SAFETY: the C contract makes `value` point to a value of `dataType`.
    let number = unsafe {
        match dataType {
            aclDataType::FLOAT => f64::from(read::<f32>(value)),
            aclDataType::DOUBLE => read::<f64>(value),
            aclDataType::FLOAT16 => f16::from_bits(read(value)).to_f64(),
            aclDataType::BF16 => bf16::from_bits(read(value)).to_f64(),
            aclDataType::INT8 => f64::from(read::<i8>(value)),
            aclDataType::UINT8 => f64::from(read::<u8>(value)),
            aclDataType::INT16 => f64::from(read::<i16>(value)),
            aclDataType::UINT16 => f64::from(read::<u16>(value)),
            aclDataType::INT32 => f64::from(read::<i32>(value)),
            aclDataType::UINT32 => f64::from(read::<u32>(value)),
            aclDataType::INT64 => read::<i64>(value) as f64,
            aclDataType::UINT64 => read::<u64>(value) as f64,
            aclDataType::BOOL => f64::from(u8::from(read::<u8>(value) != 0)),
            aclDataType::COMPLEX64 => real(read::<[f32; 2]>(value).map(f64::from)),
            aclDataType::COMPLEX128 => real(read::<[f64; 2]>(value)),
            _ => {
                sim.say(format!("EZ1001: aclCreateScalar: the simulator has no scalars of {dataType:?}"));
                return core::ptr::null_mut();
            }
        }
    };
    register(sim, "aclScalar", ScalarObject(ScalarValue { dtype: dataType, value: number }))
}

pub(crate) unsafe fn aclDestroyScalar(sim: &Arc<Instance>, scalar: *const aclScalar) -> aclnnStatus {
    destroy::<ScalarObject>(sim, "aclDestroyScalar", scalar.cast());
    OK
}

pub(crate) unsafe fn aclCreateScalarList(
    sim: &Arc<Instance>,
    value: *const *const aclScalar,
    size: u64,
) -> *mut aclScalarList {
    // SAFETY: the C contract gives `value` `size` entries.
    let Some(handles) = (unsafe { read_array(value, size) }) else {
        sim.report(Finding::new(FindingKind::NullPointer, "aclCreateScalarList", format!("null with size {size}")));
        return core::ptr::null_mut();
    };
    register(sim, "aclScalarList", ScalarListObject { handles: handles.iter().map(|&s| s as usize).collect() })
}

pub(crate) unsafe fn aclDestroyScalarList(sim: &Arc<Instance>, array: *const aclScalarList) -> aclnnStatus {
    if let Some(list) = destroy::<ScalarListObject>(sim, "aclDestroyScalarList", array.cast()) {
        for &handle in &list.handles {
            destroy::<ScalarObject>(sim, "aclDestroyScalarList", handle as *const c_void);
        }
    }
    OK
}

/// Copies `size` values; `None` for a null pointer with a size.
///
/// # Safety
/// `value` must point to `size` values unless it is null.
unsafe fn read_array<T: Copy>(value: *const T, size: u64) -> Option<Vec<T>> {
    let size = usize::try_from(size).ok()?;
    if size == 0 {
        return Some(Vec::new());
    }
    if value.is_null() {
        return None;
    }
    // SAFETY: not null, and the caller vouches for the length.
    Some(unsafe { core::slice::from_raw_parts(value, size) }.to_vec())
}

macro_rules! arrays {
    ($($create:ident, $destroy:ident, $size:ident: $c:ident as $object:ident of $element:ty;)*) => {$(
        pub(crate) unsafe fn $create(sim: &Arc<Instance>, value: *const $element, size: u64) -> *mut $c {
            // SAFETY: the C contract gives `value` `size` entries.
            match unsafe { read_array(value, size) } {
                Some(values) => register(sim, stringify!($c), $object(values.into())),
                None => {
                    sim.report(Finding::new(
                        FindingKind::NullPointer,
                        stringify!($create),
                        format!("null with size {size}"),
                    ));
                    core::ptr::null_mut()
                }
            }
        }

        pub(crate) unsafe fn $destroy(sim: &Arc<Instance>, array: *const $c) -> aclnnStatus {
            destroy::<$object>(sim, stringify!($destroy), array.cast());
            OK
        }

        pub(crate) unsafe fn $size(sim: &Arc<Instance>, array: *const $c, size: *mut u64) -> aclnnStatus {
            if array.is_null() || size.is_null() {
                return NULLPTR;
            }
            let Some(array) = object::<$object>(sim, stringify!($size), array.cast()) else { return INVALID };
            // SAFETY: not null; the C contract makes it writable.
            unsafe { size.write(array.0.len() as u64) };
            OK
        }
    )*};
}

arrays! {
    aclCreateIntArray, aclDestroyIntArray, aclGetIntArraySize: aclIntArray as IntArrayObject of i64;
    aclCreateFloatArray, aclDestroyFloatArray, aclGetFloatArraySize: aclFloatArray as FloatArrayObject of f32;
    aclCreateBoolArray, aclDestroyBoolArray, aclGetBoolArraySize: aclBoolArray as BoolArrayObject of bool;
}

pub(crate) unsafe fn aclGetTensorListSize(
    sim: &Arc<Instance>,
    tensorList: *const aclTensorList,
    size: *mut u64,
) -> aclnnStatus {
    if tensorList.is_null() || size.is_null() {
        return NULLPTR;
    }
    let Some(list) = object::<TensorListObject>(sim, "aclGetTensorListSize", tensorList.cast()) else { return INVALID };
    // SAFETY: not null; the C contract makes it writable.
    unsafe { size.write(list.handles.len() as u64) };
    OK
}

pub(crate) unsafe fn aclGetScalarListSize(
    sim: &Arc<Instance>,
    scalarList: *const aclScalarList,
    size: *mut u64,
) -> aclnnStatus {
    if scalarList.is_null() || size.is_null() {
        return NULLPTR;
    }
    let Some(list) = object::<ScalarListObject>(sim, "aclGetScalarListSize", scalarList.cast()) else { return INVALID };
    // SAFETY: not null; the C contract makes it writable.
    unsafe { size.write(list.handles.len() as u64) };
    OK
}

/// Hands dimensions to C in memory that the caller frees with `delete[]`, which on Linux is `free`.
///
/// # Safety
/// `out` and `count` must be writable.
pub(super) unsafe fn give_dims(dims: &[i64], out: *mut *mut i64, count: *mut u64) -> aclnnStatus {
    // SAFETY: malloc has no precondition; at least one byte is asked for, so that null means failure only.
    let memory = unsafe { libc::malloc(size_of_val(dims).max(1)) }.cast::<i64>();
    if memory.is_null() {
        return INNER_NULLPTR;
    }
    // SAFETY: the allocation is large enough, aligned for i64 and fresh; `out` and `count` are writable by contract.
    unsafe {
        core::ptr::copy_nonoverlapping(dims.as_ptr(), memory, dims.len());
        out.write(memory);
        count.write(dims.len() as u64);
    }
    OK
}

macro_rules! dim_getters {
    ($($name:ident: |$desc:ident| $dims:expr;)*) => {$(
        pub(crate) unsafe fn $name(
            sim: &Arc<Instance>,
            tensor: *const aclTensor,
            out: *mut *mut i64,
            count: *mut u64,
        ) -> aclnnStatus {
            if tensor.is_null() || out.is_null() || count.is_null() {
                return NULLPTR;
            }
            let Some(tensor) = object::<TensorObject>(sim, stringify!($name), tensor.cast()) else { return INVALID };
            let $desc: TensorDesc = tensor.desc();
            // SAFETY: both are not null, and writable by the C contract.
            unsafe { give_dims(&$dims, out, count) }
        }
    )*};
}

dim_getters! {
    aclGetViewShape: |desc| desc.shape;
    aclGetViewStrides: |desc| desc.strides;
    aclGetStorageShape: |desc| desc.storage;
}

macro_rules! getters {
    ($($name:ident: $t:ty = |$desc:ident| $value:expr;)*) => {$(
        pub(crate) unsafe fn $name(sim: &Arc<Instance>, tensor: *const aclTensor, out: *mut $t) -> aclnnStatus {
            if tensor.is_null() || out.is_null() {
                return NULLPTR;
            }
            let Some(tensor) = object::<TensorObject>(sim, stringify!($name), tensor.cast()) else { return INVALID };
            let $desc: TensorDesc = tensor.desc();
            // SAFETY: not null, and writable by the C contract.
            unsafe { out.write($value) };
            OK
        }
    )*};
}

getters! {
    aclGetViewOffset: i64 = |desc| desc.offset;
    aclGetFormat: aclFormat = |desc| desc.format;
    aclGetDataType: aclDataType = |desc| desc.dtype;
    aclGetRawTensorAddr: *mut c_void = |desc| desc.data as *mut c_void;
}

pub(crate) unsafe fn aclSetRawTensorAddr(
    sim: &Arc<Instance>,
    tensor: *mut aclTensor,
    addr: *mut c_void,
) -> aclnnStatus {
    if tensor.is_null() {
        return NULLPTR;
    }
    let Some(tensor) = object::<TensorObject>(sim, "aclSetRawTensorAddr", tensor.cast()) else { return INVALID };
    tensor.set_address(addr as u64);
    OK
}

pub(crate) unsafe fn aclSetAclOpExecutorRepeatable(sim: &Arc<Instance>, executor: *mut aclOpExecutor) -> aclnnStatus {
    if executor.is_null() {
        return INNER_NULLPTR;
    }
    let Some(executor) = object::<Executor>(sim, "aclSetAclOpExecutorRepeatable", executor.cast()) else {
        return INNER_NULLPTR;
    };
    executor.make_repeatable();
    OK
}

pub(crate) unsafe fn aclDestroyAclOpExecutor(sim: &Arc<Instance>, executor: *mut aclOpExecutor) -> aclnnStatus {
    if executor.is_null() {
        return INNER_NULLPTR;
    }
    match destroy::<Executor>(sim, "aclDestroyAclOpExecutor", executor.cast()) {
        Some(_) => OK,
        None => INNER_NULLPTR,
    }
}

/// Writes an address into a tensor of a repeatable executor. Hand-written operators ignore the index; generated ones
/// check it (opbase 9.1.0).
fn set_address(
    sim: &Instance,
    call: &'static str,
    executor: *mut aclOpExecutor,
    index: usize,
    tensor: *mut aclTensor,
    addr: *mut c_void,
) -> aclnnStatus {
    if tensor.is_null() || executor.is_null() {
        return INNER_NULLPTR;
    }
    let Some(tensor) = object::<TensorObject>(sim, call, tensor.cast()) else { return INNER_NULLPTR };
    tensor.set_address(addr as u64);
    let Some(executor) = object::<Executor>(sim, call, executor.cast()) else { return INNER_NULLPTR };
    if super::op::is_generated(executor.operator) && index >= executor.tensor_count() {
        return INVALID;
    }
    OK
}

macro_rules! address_setters {
    ($($name:ident)*) => {$(
        pub(crate) unsafe fn $name(
            sim: &Arc<Instance>,
            executor: *mut aclOpExecutor,
            index: usize,
            tensor: *mut aclTensor,
            addr: *mut c_void,
        ) -> aclnnStatus {
            set_address(sim, stringify!($name), executor, index, tensor, addr)
        }
    )*};
}

address_setters! { aclSetInputTensorAddr aclSetOutputTensorAddr aclSetTensorAddr }

macro_rules! dynamic_address_setters {
    ($($name:ident)*) => {$(
        pub(crate) unsafe fn $name(
            sim: &Arc<Instance>,
            executor: *mut aclOpExecutor,
            irIndex: usize,
            relativeIndex: usize,
            tensors: *mut aclTensorList,
            addr: *mut c_void,
        ) -> aclnnStatus {
            if tensors.is_null() {
                return INNER_NULLPTR;
            }
            let Some(list) = object::<TensorListObject>(sim, stringify!($name), tensors.cast()) else {
                return INNER_NULLPTR;
            };
            let Some(&tensor) = list.handles.get(relativeIndex) else {
                sim.say(format!("EZ1001: {}: relativeIndex {relativeIndex} of {} tensors", stringify!($name), list.handles.len()));
                return INVALID;
            };
            set_address(sim, stringify!($name), executor, irIndex, tensor as *mut aclTensor, addr)
        }
    )*};
}

dynamic_address_setters! { aclSetDynamicInputTensorAddr aclSetDynamicOutputTensorAddr aclSetDynamicTensorAddr }

/// Counts as initialisation for operators, beside `aclInit`; calling both is not an error.
pub(crate) unsafe fn aclnnInit(sim: &Arc<Instance>, _configPath: *const c_char) -> aclnnStatus {
    sim.set_aclnn_initialised(true);
    OK
}

pub(crate) unsafe fn aclnnFinalize(sim: &Arc<Instance>) -> aclnnStatus {
    sim.set_aclnn_initialised(false);
    OK
}
