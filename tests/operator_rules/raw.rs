//! One operator call through the C table: its objects, both phases, what was answered and what was said.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;

use ascend_moe::{Device, Stream};
use ascend_sys::ops::{Phase, ScalarValue, TensorDesc};
use ascend_sys::{
    OperatorId, Table, aclDataType, aclIntArray, aclOpExecutor, aclScalar, aclTensor, aclTensorList, aclnnStatus,
    aclrtStream, vendor_functions,
};

use crate::build::{Built, Value};

/// What came back.
pub(crate) struct Answer {
    /// Phase and code where the call was refused.
    pub(crate) refused: Option<(Phase, aclnnStatus)>,
    /// What `aclGetRecentErrMsg` said behind the phase that refused; empty where none did.
    pub(crate) message: String,
}

/// Makes a call; `None` where C has no such argument: a scalar of a dtype that is no number. A legal call is only
/// prepared, as its tensors have no memory.
pub(crate) fn make(device: &Device, stream: &Stream, call: &Built) -> Option<Answer> {
    let table = device.cann().table();
    // The stream's context is current on this thread after it was asked something.
    assert!(stream.is_idle().unwrap());
    let objects = Objects::new(table, call)?;
    recent_message(table);
    let (mut size, mut executor) = (0, ptr::null_mut());
    // SAFETY: the objects are alive and of the types of the prototype; size and executor are writable.
    let code = unsafe { phase1(table, call.operator, &objects.args, &mut size, &mut executor) };
    if !code.is_ok() {
        assert!(executor.is_null(), "an executor of a call that was refused");
        return Some(Answer { refused: Some((Phase::One, code)), message: recent_message(table) });
    }
    assert!(!executor.is_null());
    if call.validate().is_ok() {
        // SAFETY: the executor is that of phase 1 and was not used.
        let code = unsafe { table.aclDestroyAclOpExecutor(executor) }.unwrap();
        assert!(code.is_ok(), "{code:?}");
        return Some(Answer { refused: None, message: String::new() });
    }
    assert_eq!(size, 0, "workspace of a call that will be refused");
    recent_message(table);
    // SAFETY: the executor is that of phase 1, which asked for no workspace.
    let code = unsafe { phase2(table, call.operator, ptr::null_mut(), size, executor, stream.raw()) };
    let refused = (!code.is_ok()).then_some((Phase::Two, code));
    Some(Answer { refused, message: recent_message(table) })
}

/// What was said since the last call, and no more.
fn recent_message(table: &Table) -> String {
    // SAFETY: no precondition; the text is null or NUL-terminated, and copied before the next call.
    unsafe {
        let text = table.aclGetRecentErrMsg().unwrap();
        if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    }
}

/// An argument as C takes it.
#[derive(Clone, Copy, Debug)]
enum RawArg {
    Tensor(*mut aclTensor),
    Tensors(*mut aclTensorList),
    Scalar(*mut aclScalar),
    Ints(*mut aclIntArray),
    Int(i64),
    Float(f64),
    Bool(bool),
    DType(aclDataType),
    Text(*const c_char),
}

/// The arguments of a call, with the objects made for it.
struct Objects<'t> {
    table: &'t Table,
    args: Vec<RawArg>,
}

impl<'t> Objects<'t> {
    fn new(table: &'t Table, call: &Built) -> Option<Self> {
        let mut objects = Self { table, args: Vec::new() };
        for value in &call.values {
            objects.args.push(match value {
                Value::Tensor(desc) => RawArg::Tensor(tensor(table, desc.as_ref())),
                Value::Tensors(None) => RawArg::Tensors(ptr::null_mut()),
                Value::Tensors(Some(list)) => RawArg::Tensors(tensors(table, list)),
                Value::Scalar(None) => RawArg::Scalar(ptr::null_mut()),
                Value::Scalar(Some(value)) => RawArg::Scalar(scalar(table, *value)?),
                Value::Ints(None) => RawArg::Ints(ptr::null_mut()),
                Value::Ints(Some(values)) => {
                    // SAFETY: the array has that many values, which the call copies.
                    let ints = unsafe { table.aclCreateIntArray(values.as_ptr(), values.len() as u64) }.unwrap();
                    assert!(!ints.is_null());
                    RawArg::Ints(ints)
                }
                Value::Int(value) => RawArg::Int(*value),
                Value::Float(value) => RawArg::Float(*value),
                Value::Bool(value) => RawArg::Bool(*value),
                Value::DType(value) => RawArg::DType(*value),
                Value::Text(text) => RawArg::Text(text.map_or(ptr::null(), CStr::as_ptr)),
            });
        }
        Some(objects)
    }
}

impl Drop for Objects<'_> {
    fn drop(&mut self) {
        for arg in &self.args {
            // SAFETY: each object was made by this value and is destroyed once, behind the last phase; null is allowed.
            let code = unsafe {
                match *arg {
                    RawArg::Tensor(tensor) => self.table.aclDestroyTensor(tensor),
                    RawArg::Tensors(list) => self.table.aclDestroyTensorList(list),
                    RawArg::Scalar(scalar) => self.table.aclDestroyScalar(scalar),
                    RawArg::Ints(ints) => self.table.aclDestroyIntArray(ints),
                    _ => continue,
                }
            };
            assert!(code.unwrap().is_ok(), "{arg:?}");
        }
    }
}

fn tensor(table: &Table, desc: Option<&TensorDesc>) -> *mut aclTensor {
    let Some(desc) = desc else { return ptr::null_mut() };
    // SAFETY: the arrays have the lengths given with them and are copied by the call.
    let tensor = unsafe {
        table.aclCreateTensor(
            desc.shape.as_ptr(),
            desc.shape.len() as u64,
            desc.dtype,
            desc.strides.as_ptr(),
            desc.offset,
            desc.format,
            desc.storage.as_ptr(),
            desc.storage.len() as u64,
            desc.data as *mut c_void,
        )
    }
    .unwrap();
    assert!(!tensor.is_null(), "{desc:?}");
    tensor
}

fn tensors(table: &Table, list: &[Option<TensorDesc>]) -> *mut aclTensorList {
    let members: Vec<*const aclTensor> = list.iter().map(|desc| tensor(table, desc.as_ref()).cast_const()).collect();
    // SAFETY: the array has that many members; the list owns them from here on.
    let list = unsafe { table.aclCreateTensorList(members.as_ptr(), members.len() as u64) }.unwrap();
    assert!(!list.is_null());
    list
}

/// A scalar in its own dtype; `None` where it is no number.
fn scalar(table: &Table, scalar: ScalarValue) -> Option<*mut aclScalar> {
    let mut bytes = [0u8; 8];
    let mut put = |value: &[u8]| bytes[..value.len()].copy_from_slice(value);
    match scalar.dtype {
        // A complex number has its real part in front.
        aclDataType::FLOAT | aclDataType::COMPLEX64 => put(&(scalar.value as f32).to_ne_bytes()),
        aclDataType::DOUBLE => put(&scalar.value.to_ne_bytes()),
        aclDataType::INT32 => put(&(scalar.value as i32).to_ne_bytes()),
        aclDataType::INT64 => put(&(scalar.value as i64).to_ne_bytes()),
        aclDataType::BOOL => put(&[u8::from(scalar.value != 0.0)]),
        aclDataType::STRING => return None,
        other => panic!("a scalar of {other:?}"),
    }
    // SAFETY: the value has the size of its dtype and is copied by the call.
    let made = unsafe { table.aclCreateScalar(bytes.as_mut_ptr().cast(), scalar.dtype) }.unwrap();
    assert!(!made.is_null(), "{scalar:?}");
    Some(made)
}

/// A C argument taken from the one that stands for it.
trait FromRaw {
    fn from_raw(arg: RawArg) -> Self;
}

macro_rules! from_raw {
    ($($t:ty: $variant:ident($value:ident) => $result:expr;)*) => {$(
        impl FromRaw for $t {
            fn from_raw(arg: RawArg) -> Self {
                let RawArg::$variant($value) = arg else { panic!("{arg:?} for {}", stringify!($t)) };
                $result
            }
        }
    )*};
}

from_raw! {
    *const aclTensor: Tensor(value) => value.cast_const();
    *mut aclTensor: Tensor(value) => value;
    *const aclTensorList: Tensors(value) => value.cast_const();
    *mut aclTensorList: Tensors(value) => value;
    *const aclScalar: Scalar(value) => value.cast_const();
    *const aclIntArray: Ints(value) => value.cast_const();
    *mut aclIntArray: Ints(value) => value;
    i64: Int(value) => value;
    i32: Int(value) => i32::try_from(value).unwrap();
    i8: Int(value) => i8::try_from(value).unwrap();
    u32: Int(value) => u32::try_from(value).unwrap();
    f64: Float(value) => value;
    f32: Float(value) => value as f32;
    bool: Bool(value) => value;
    aclDataType: DType(value) => value;
    *const c_char: Text(value) => value;
    *mut c_char: Text(value) => value.cast_mut();
}

macro_rules! define_phases {
    (
        functions { $($function:tt)* }
        operators { $($lib:ident $since:literal $op:ident: $ws:ident, $run:ident($($p:ident: $t:ty),*);)* }
    ) => {
        /// # Safety
        /// `args` are alive and of the types of the prototype; `size` and `executor` are writable.
        #[allow(non_snake_case, reason = "parameters keep their C names")]
        unsafe fn phase1(
            table: &Table,
            operator: OperatorId,
            args: &[RawArg],
            size: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus {
            let mut args = args.iter();
            match operator {
                $(OperatorId::$op => {
                    $(let $p = <$t>::from_raw(*args.next().unwrap());)*
                    // SAFETY: the caller's.
                    unsafe { table.$ws($($p,)* size, executor) }.unwrap()
                })*
            }
        }

        /// # Safety
        /// The executor is one of phase 1 of this operator, not used before; the workspace has the size that phase 1
        /// told.
        unsafe fn phase2(
            table: &Table,
            operator: OperatorId,
            workspace: *mut c_void,
            size: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus {
            match operator {
                $(OperatorId::$op => {
                    // SAFETY: the caller's.
                    unsafe { table.$run(workspace, size, executor, stream) }.unwrap()
                })*
            }
        }
    };
}

vendor_functions!(define_phases!);
