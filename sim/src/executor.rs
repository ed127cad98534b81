//! The objects of aclnn base behind their handles, and the executor: one prepared operator call.
//!
//! An executor holds references to its tensors, not copies of their addresses: `aclSet*TensorAddr` writes the address
//! into the tensor, and phase 2 reads it there (opbase 9.1.0, acl_op_api.cpp). What phase 2 launches is a snapshot, so
//! the caller may destroy every argument as soon as phase 2 has returned.

use core::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ascend_sys::ops::{Arg, Call, Dims, ScalarValue, TensorDesc, Violation};
use ascend_sys::{OperatorId, Release, aclDataType};

/// An `aclTensor`.
pub(crate) struct TensorObject {
    desc: Mutex<TensorDesc>,
    destroyed: AtomicBool,
}

impl TensorObject {
    pub(crate) fn new(desc: TensorDesc) -> Self {
        Self { desc: Mutex::new(desc), destroyed: AtomicBool::new(false) }
    }

    pub(crate) fn desc(&self) -> TensorDesc {
        *self.lock()
    }

    pub(crate) fn set_desc(&self, desc: TensorDesc) {
        *self.lock() = desc;
    }

    pub(crate) fn set_address(&self, data: u64) {
        self.lock().data = data;
    }

    /// Marks the tensor destroyed, so that an executor still waiting for its phase 2 can tell.
    pub(crate) fn destroy(&self) {
        self.destroyed.store(true, Ordering::Release);
    }

    pub(crate) fn is_destroyed(&self) -> bool {
        self.destroyed.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, TensorDesc> {
        self.desc.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An `aclTensorList`: it owns its tensors, whose handles it remembers to destroy them.
pub(crate) struct TensorListObject {
    pub(crate) handles: Vec<usize>,
    pub(crate) tensors: Vec<Option<Arc<TensorObject>>>,
}

/// An `aclScalar`.
pub(crate) struct ScalarObject(pub(crate) ScalarValue);

/// An `aclScalarList`: it owns its scalars.
pub(crate) struct ScalarListObject {
    pub(crate) handles: Vec<usize>,
}

/// An `aclIntArray`.
pub(crate) struct IntArrayObject(pub(crate) Arc<[i64]>);

/// An `aclFloatArray`.
pub(crate) struct FloatArrayObject(pub(crate) Arc<[f32]>);

/// An `aclBoolArray`.
pub(crate) struct BoolArrayObject(pub(crate) Arc<[bool]>);

/// An argument as phase 1 binds it.
pub(crate) enum BoundArg {
    Tensor(Option<Arc<TensorObject>>),
    Tensors(Option<Vec<Option<Arc<TensorObject>>>>),
    Scalar(Option<ScalarValue>),
    Ints(Option<Arc<[i64]>>),
    Int(i64),
    Float(f64),
    Bool(bool),
    DType(aclDataType),
    Text(Option<Arc<CStr>>),
}

impl BoundArg {
    fn snapshot(&self) -> Value {
        match self {
            Self::Tensor(tensor) => Value::Tensor(tensor.as_ref().map(|t| Box::new(t.desc()))),
            Self::Tensors(list) => Value::Tensors(
                list.as_ref().map(|list| list.iter().map(|tensor| tensor.as_ref().map(|t| t.desc())).collect()),
            ),
            Self::Scalar(scalar) => Value::Scalar(*scalar),
            Self::Ints(ints) => Value::Ints(ints.clone()),
            Self::Int(value) => Value::Int(*value),
            Self::Float(value) => Value::Float(*value),
            Self::Bool(value) => Value::Bool(*value),
            Self::DType(value) => Value::DType(*value),
            Self::Text(text) => Value::Text(text.clone()),
        }
    }

    fn tensors(&self) -> impl Iterator<Item = &Arc<TensorObject>> {
        let (one, many) = match self {
            Self::Tensor(tensor) => (tensor.as_ref(), [].as_slice()),
            Self::Tensors(Some(list)) => (None, list.as_slice()),
            _ => (None, [].as_slice()),
        };
        one.into_iter().chain(many.iter().flatten())
    }
}

/// An argument at the moment of the launch.
#[derive(Clone, Debug)]
enum Value {
    Tensor(Option<Box<TensorDesc>>),
    Tensors(Option<Vec<Option<TensorDesc>>>),
    Scalar(Option<ScalarValue>),
    Ints(Option<Arc<[i64]>>),
    Int(i64),
    Float(f64),
    Bool(bool),
    DType(aclDataType),
    Text(Option<Arc<CStr>>),
}

impl Value {
    fn as_arg(&self) -> Arg<'_> {
        match self {
            Self::Tensor(tensor) => Arg::Tensor(tensor.as_deref()),
            Self::Tensors(list) => Arg::Tensors(list.as_deref()),
            Self::Scalar(scalar) => Arg::Scalar(*scalar),
            Self::Ints(ints) => Arg::Ints(ints.as_deref()),
            Self::Int(value) => Arg::Int(*value),
            Self::Float(value) => Arg::Float(*value),
            Self::Bool(value) => Arg::Bool(*value),
            Self::DType(value) => Arg::DType(*value),
            Self::Text(text) => Arg::Text(text.as_deref()),
        }
    }
}

/// The arguments of one call by the names of the C prototype.
#[derive(Clone, Debug)]
pub(crate) struct Args {
    operator: OperatorId,
    values: Vec<Value>,
}

impl Args {
    /// The operator that is called.
    pub(crate) fn operator(&self) -> OperatorId {
        self.operator
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.operator.info().params.iter().position(|&(param, _)| ascend_sys::c_param(param) == name)
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.values.get(self.position(name)?)
    }

    /// The tensor called `name`; `None` where it is null.
    pub(crate) fn tensor(&self, name: &str) -> Option<&TensorDesc> {
        match self.value(name) {
            Some(Value::Tensor(tensor)) => tensor.as_deref(),
            _ => None,
        }
    }

    /// The list called `name`, empty where it is null; null members are `None`.
    pub(crate) fn tensors(&self, name: &str) -> &[Option<TensorDesc>] {
        match self.value(name) {
            Some(Value::Tensors(Some(list))) => list,
            _ => &[],
        }
    }

    /// The integer called `name`; 0 where there is none.
    pub(crate) fn int(&self, name: &str) -> i64 {
        self.find_int(name).unwrap_or(0)
    }

    /// The integer called `name`; `None` where the operator has no such parameter.
    pub(crate) fn find_int(&self, name: &str) -> Option<i64> {
        match self.value(name) {
            Some(Value::Int(value)) => Some(*value),
            _ => None,
        }
    }

    /// Whether the argument called `name` is there and does not count as null.
    pub(crate) fn is_given(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| !value.as_arg().is_absent())
    }

    /// The double called `name`.
    pub(crate) fn float(&self, name: &str) -> f64 {
        match self.value(name) {
            Some(Value::Float(value)) => *value,
            _ => 0.0,
        }
    }

    /// The bool called `name`.
    pub(crate) fn bool(&self, name: &str) -> bool {
        matches!(self.value(name), Some(Value::Bool(true)))
    }

    /// The integer array called `name`.
    pub(crate) fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.value(name) {
            Some(Value::Ints(ints)) => ints.as_deref(),
            _ => None,
        }
    }

    /// The text called `name`; `None` where it is null or no UTF-8.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.value(name) {
            Some(Value::Text(text)) => text.as_deref().and_then(|text| text.to_str().ok()),
            _ => None,
        }
    }

    /// The scalar called `name`.
    pub(crate) fn scalar(&self, name: &str) -> Option<ScalarValue> {
        match self.value(name) {
            Some(Value::Scalar(scalar)) => *scalar,
            _ => None,
        }
    }

    /// Holds the arguments against the operator's row.
    pub(crate) fn validate(&self, release: Release) -> Result<(), Violation> {
        let args: Vec<Arg<'_>> = self.values.iter().map(Value::as_arg).collect();
        self.operator.row().validate(&Call { operator: self.operator, args: &args, release })
    }

    /// Every tensor with the name of its parameter, list members included.
    pub(crate) fn all_tensors(&self) -> impl Iterator<Item = (&'static str, &TensorDesc)> {
        let params = self.operator.info().params;
        params.iter().zip(&self.values).flat_map(|(&(name, _), value)| {
            let (one, many) = match value {
                Value::Tensor(tensor) => (tensor.as_deref(), [].as_slice()),
                Value::Tensors(Some(list)) => (None, list.as_slice()),
                _ => (None, [].as_slice()),
            };
            one.into_iter().chain(many.iter().flatten()).map(move |tensor| (name, tensor))
        })
    }

    /// The call in words, for the trace: `x FLOAT[4, 8], weight FLOAT[2, 8, 8]`.
    pub(crate) fn describe(&self) -> String {
        let words: Vec<String> = self.all_tensors().map(|(name, tensor)| format!("{name} {tensor}")).collect();
        words.join(", ")
    }
}

/// What an executor may still be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExecutorState {
    /// Phase 1 made it.
    Ready,
    /// Made repeatable: phase 2 leaves it alive.
    Repeatable,
}

/// An `aclOpExecutor`.
pub(crate) struct Executor {
    pub(crate) operator: OperatorId,
    args: Vec<BoundArg>,
    /// Bytes of workspace that phase 1 asked for.
    pub(crate) workspace: u64,
    state: Mutex<ExecutorState>,
    /// What phase 1 saw and phase 2 has to report (MoeInitRoutingV3).
    pub(crate) deferred: Option<Violation>,
}

impl Executor {
    pub(crate) fn new(operator: OperatorId, args: Vec<BoundArg>) -> Self {
        Self { operator, args, workspace: 0, state: Mutex::new(ExecutorState::Ready), deferred: None }
    }

    /// The arguments with the addresses of this moment.
    pub(crate) fn snapshot(&self) -> Args {
        Args { operator: self.operator, values: self.args.iter().map(BoundArg::snapshot).collect() }
    }

    pub(crate) fn state(&self) -> ExecutorState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn make_repeatable(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = ExecutorState::Repeatable;
    }

    /// Whether a tensor of the call was destroyed since phase 1.
    pub(crate) fn lost_a_tensor(&self) -> bool {
        self.args.iter().flat_map(BoundArg::tensors).any(|tensor| tensor.is_destroyed())
    }

    /// Number of tensors bound, list members included.
    pub(crate) fn tensor_count(&self) -> usize {
        self.args.iter().flat_map(BoundArg::tensors).count()
    }
}

/// Reads the arguments of `aclCreateTensor`. `None` where CANN refuses them or they go beyond what a view may be.
///
/// # Safety
/// `view`, `strides` (where not null) and `storage` must each point to as many values as their lengths say.
#[allow(clippy::too_many_arguments, reason = "the parameters of aclCreateTensor")]
pub(crate) unsafe fn read_desc(
    view: *const i64,
    view_len: u64,
    dtype: aclDataType,
    strides: *const i64,
    offset: i64,
    format: ascend_sys::aclFormat,
    storage: *const i64,
    storage_len: u64,
    data: u64,
) -> Option<TensorDesc> {
    // SAFETY: the caller vouches for pointer and length.
    let shape = unsafe { read_dims(view, view_len) }?;
    // SAFETY: as above.
    let storage = unsafe { read_dims(storage, storage_len) }?;
    let strides = if strides.is_null() {
        shape.contiguous_strides()
    } else {
        // SAFETY: as above; strides have the length of the view.
        unsafe { read_dims(strides, view_len) }?
    };
    Some(TensorDesc { dtype, format, shape, strides, offset, storage, data })
}

/// # Safety
/// `values` must point to `len` values unless it is null.
unsafe fn read_dims(values: *const i64, len: u64) -> Option<Dims> {
    if values.is_null() {
        return (len == 0).then_some(Dims::EMPTY);
    }
    let len = usize::try_from(len).ok().filter(|&len| len <= ascend_sys::ops::MAX_RANK)?;
    // SAFETY: the caller vouches for pointer and length.
    Dims::new(unsafe { core::slice::from_raw_parts(values, len) })
}
