//! The one way in which an operator is called: its row first, then descriptors, the two phases, and nothing left behind.
//!
//! An operator is its entry in the function list and a slice of arguments in the order of the C prototype. From these
//! alone the call is checked, the descriptors are made and both phases are called; a function of this module's
//! neighbours only names the arguments.
//!
//! Lifetimes (opbase 9.1.0): descriptors must live until phase 2 has returned and may be destroyed then; phase 2 consumes
//! the executor whatever it returns; a list owns its tensors.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;

use ascend_sys::ops::{Arg, Call, ScalarValue, TensorDesc};
use ascend_sys::probe::recent_error;
use ascend_sys::{
    FunctionId, MissingFunction, OperatorId, Table, aclDataType, aclIntArray, aclOpExecutor, aclScalar, aclTensor,
    aclTensorList, aclnnStatus, aclrtStream, vendor_functions,
};

use crate::device::{Bound, Device};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::scratch::Sequence;
use crate::stream::{Stream, same_device};
use crate::tensor::{Place, Region, TensorView, TensorViewMut};

/// The most arguments that phase 1 of an operator of the list has.
pub(super) const MAX_ARGS: usize = 24;

/// The most tensors in a list (ops-transformer 9.1.0, grouped_matmul on Atlas A3).
pub(super) const MAX_LIST: usize = 128;

/// A tensor to read, as an argument.
pub(super) fn input<'a>(tensor: &'a TensorView<'_>) -> Arg<'a> {
    Arg::Tensor(Some(&tensor.0.desc))
}

/// A tensor to read that may be absent, as an argument.
pub(super) fn optional<'a>(tensor: Option<&'a TensorView<'_>>) -> Arg<'a> {
    Arg::Tensor(tensor.map(|tensor| &tensor.0.desc))
}

/// A tensor to write, as an argument.
pub(super) fn output<'a>(tensor: &'a TensorViewMut<'_>) -> Arg<'a> {
    Arg::Tensor(Some(&tensor.0.desc))
}

/// A tensor to write that may be absent, as an argument.
pub(super) fn optional_output<'a>(tensor: Option<&'a TensorViewMut<'_>>) -> Arg<'a> {
    Arg::Tensor(tensor.map(|tensor| &tensor.0.desc))
}

/// An output that CANN wants also where nobody does: a temporary one, kept in `place`, stands in for it then.
pub(super) fn or_temporary<'t, 's: 't, const RANK: usize>(
    sequence: &'s Sequence<'_>,
    given: Option<&'t TensorViewMut<'_>>,
    place: &'t mut Option<TensorViewMut<'s>>,
    dtype: DType,
    shape: [i64; RANK],
) -> Result<&'t TensorViewMut<'t>> {
    if let Some(given) = given {
        return Ok(given);
    }
    let sizes = shape.map(|dim| usize::try_from(dim).unwrap_or(0));
    Ok(place.insert(sequence.tensor(dtype, &sizes)?))
}

/// Takes the first of `candidates` that the loaded libraries have.
///
/// # Errors
/// [`Error::MissingOperator`] where they have none.
pub(super) fn pick(sequence: &Sequence<'_>, candidates: &'static [OperatorId]) -> Result<OperatorId> {
    let cann = sequence.device().cann();
    let found = candidates.iter().copied().find(|&id| cann.table().has_operator(id));
    found.ok_or(Error::MissingOperator { tried: candidates, release: cann.release() })
}

/// Whether a call would be refused before it is made, and by which rule; nothing of CANN is called.
///
/// Every function of [`op`](crate::op) asks this of its call. An engine can ask it of a call of its own, to choose a
/// path before it allocates. What only the device sees (addresses, values in device memory) is not looked at.
///
/// * `args`: those of phase 1 in the order of the C prototype, without the workspace size and the executor. Tensors may
///   be descriptions without memory.
///
/// # Errors
/// [`Error::Rule`] with the first rule of the operator's row that the call breaks; [`Error::MissingOperator`] where the
/// loaded libraries lack the operator.
pub fn check(device: &Device, operator: OperatorId, args: &[Arg<'_>]) -> Result<()> {
    let cann = device.cann();
    if !cann.table().has_operator(operator) {
        let tried = std::slice::from_ref(&operator.info().id);
        return Err(Error::MissingOperator { tried, release: cann.release() });
    }
    operator.row().validate(&Call { operator, args, release: cann.release() })?;
    Ok(())
}

/// Queues one operator call on the stream of the sequence; on a plan, only asks for its workspace.
///
/// `args` are those of phase 1 in the order of the C prototype, without the workspace size and the executor; `reads` and
/// `writes` are the regions that the tensors among them are.
///
/// # Errors
/// [`Error::Rule`] where the call breaks a rule of the operator's row, before any vendor call; [`Error::WrongDevice`],
/// [`Error::WrongStream`], [`Error::Planned`]; [`Error::MissingOperator`]; [`Error::OutOfMemory`] for the workspace;
/// [`Error::Vendor`] and the states of the device.
pub(super) fn launch<'r>(
    sequence: &Sequence<'_>,
    operator: &'static [OperatorId],
    args: &[Arg<'_>],
    reads: impl Iterator<Item = Region<'r>> + Clone,
    writes: impl Iterator<Item = Region<'r>> + Clone,
) -> Result<OperatorId> {
    let operator = pick(sequence, operator)?;
    let device = sequence.device();
    for region in reads.clone().chain(writes.clone()) {
        check_place(sequence, &region)?;
    }
    check(device, operator, args)?;

    let bound = device.0.enter()?;
    if let Some(stream) = sequence.stream() {
        order(&bound, stream, reads, writes)?;
    }
    let descriptors = Descriptors::new(&bound, args)?;
    let prepared = Prepared::new(&bound, operator, &descriptors)?;
    // An error here, and the end of a plan, destroy the executor.
    let workspace = sequence.workspace(prepared.size)?;
    if let Some(stream) = sequence.stream() {
        prepared.run(workspace, stream.raw())?;
    }
    sequence.note(operator, || operands(args));
    Ok(operator)
}

/// Dtypes and shapes of a call's tensors.
fn operands(args: &[Arg<'_>]) -> String {
    let tensors = args.iter().flat_map(|arg| match arg {
        Arg::Tensor(Some(tensor)) => std::slice::from_ref(*tensor).iter().map(Some).collect::<Vec<_>>(),
        Arg::Tensors(Some(list)) => list.iter().map(Option::as_ref).collect(),
        _ => Vec::new(),
    });
    tensors.flatten().map(|tensor| format!("{:?}{}", tensor.dtype, tensor.shape)).collect::<Vec<_>>().join(" ")
}

/// Memory must be of the sequence's device; scratch of its stream.
fn check_place(sequence: &Sequence<'_>, region: &Region<'_>) -> Result<()> {
    match (region.place, sequence.stream()) {
        (Place::Owned(memory), _) => same_device(sequence.device(), memory.device()),
        (Place::Scratch(owner), Some(stream)) if ptr::eq(owner, &*stream.0) => Ok(()),
        (Place::Scratch(owner), _) => {
            same_device(sequence.device(), &owner.device)?;
            Err(Error::WrongStream)
        }
        (Place::Planned, Some(_)) if !region.desc.is_empty() => Err(Error::Planned),
        (Place::Planned, _) => Ok(()),
    }
}

/// Puts the call after earlier users of its memory on other streams.
fn order<'r>(
    bound: &Bound<'_>,
    stream: &Stream,
    reads: impl Iterator<Item = Region<'r>>,
    writes: impl Iterator<Item = Region<'r>>,
) -> Result<()> {
    for region in reads {
        if let Place::Owned(memory) = region.place {
            memory.read_on(bound, &stream.0.line)?;
        }
    }
    for region in writes {
        if let Place::Owned(memory) = region.place {
            memory.write_on(bound, &stream.0.line)?;
        }
    }
    Ok(())
}

/// An argument as C takes it.
#[derive(Clone, Copy)]
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

/// The arguments of one call, with the objects made for it.
struct Descriptors<'b> {
    bound: &'b Bound<'b>,
    args: [RawArg; MAX_ARGS],
    len: usize,
}

impl<'b> Descriptors<'b> {
    fn new(bound: &'b Bound<'b>, args: &[Arg<'_>]) -> Result<Self> {
        let mut descriptors = Self { bound, args: [RawArg::Int(0); MAX_ARGS], len: 0 };
        for (arg, slot) in args.iter().zip(0..MAX_ARGS) {
            descriptors.args[slot] = raw(bound, arg)?;
            descriptors.len = slot + 1;
        }
        Ok(descriptors)
    }
}

impl Drop for Descriptors<'_> {
    fn drop(&mut self) {
        let table = self.bound.table();
        for arg in &self.args[..self.len] {
            // SAFETY: each object was made by this value and is destroyed once, before phase 1 or after phase 2.
            let (call, result) = unsafe {
                match *arg {
                    RawArg::Tensor(tensor) if !tensor.is_null() => {
                        (FunctionId::aclDestroyTensor, table.aclDestroyTensor(tensor))
                    }
                    RawArg::Tensors(list) if !list.is_null() => {
                        (FunctionId::aclDestroyTensorList, table.aclDestroyTensorList(list))
                    }
                    RawArg::Scalar(scalar) if !scalar.is_null() => {
                        (FunctionId::aclDestroyScalar, table.aclDestroyScalar(scalar))
                    }
                    RawArg::Ints(ints) if !ints.is_null() => {
                        (FunctionId::aclDestroyIntArray, table.aclDestroyIntArray(ints))
                    }
                    _ => continue,
                }
            };
            if let Err(error) = self.bound.check_status(call, result) {
                self.bound.device().keep(error);
            }
        }
    }
}

fn raw(bound: &Bound<'_>, arg: &Arg<'_>) -> Result<RawArg> {
    let table = bound.table();
    Ok(match *arg {
        Arg::Tensor(None) => RawArg::Tensor(ptr::null_mut()),
        Arg::Tensor(Some(desc)) => RawArg::Tensor(tensor(bound, desc)?),
        Arg::Tensors(None) => RawArg::Tensors(ptr::null_mut()),
        Arg::Tensors(Some(list)) => RawArg::Tensors(tensor_list(bound, list)?),
        Arg::Scalar(None) => RawArg::Scalar(ptr::null_mut()),
        Arg::Scalar(Some(value)) => {
            let mut bytes = scalar_bytes(value)?;
            // SAFETY: the value has the size of its dtype and is copied by the call.
            let scalar = unsafe { table.aclCreateScalar(bytes.as_mut_ptr().cast(), value.dtype) }?;
            RawArg::Scalar(made(bound, FunctionId::aclCreateScalar, scalar)?)
        }
        Arg::Ints(None) => RawArg::Ints(ptr::null_mut()),
        Arg::Ints(Some(values)) => {
            // SAFETY: the array has that many values, which the call copies.
            let ints = unsafe { table.aclCreateIntArray(values.as_ptr(), values.len() as u64) }?;
            RawArg::Ints(made(bound, FunctionId::aclCreateIntArray, ints)?)
        }
        Arg::Int(value) => RawArg::Int(value),
        Arg::Float(value) => RawArg::Float(value),
        Arg::Bool(value) => RawArg::Bool(value),
        Arg::DType(value) => RawArg::DType(value),
        Arg::Text(text) => RawArg::Text(text.map_or(ptr::null(), CStr::as_ptr)),
    })
}

/// An `aclIntArray` of its own, for calls that are no operators.
pub(super) struct IntArray<'b> {
    bound: &'b Bound<'b>,
    handle: *mut aclIntArray,
}

impl<'b> IntArray<'b> {
    pub(super) fn new(bound: &'b Bound<'b>, values: &[i64]) -> Result<Self> {
        match raw(bound, &Arg::Ints(Some(values)))? {
            RawArg::Ints(handle) => Ok(Self { bound, handle }),
            _ => Ok(Self { bound, handle: ptr::null_mut() }),
        }
    }

    pub(super) fn handle(&self) -> *const aclIntArray {
        self.handle
    }
}

impl Drop for IntArray<'_> {
    fn drop(&mut self) {
        // SAFETY: made by this value and destroyed once; no call holds it.
        let result = unsafe { self.bound.table().aclDestroyIntArray(self.handle) };
        if let Err(error) = self.bound.check_status(FunctionId::aclDestroyIntArray, result) {
            self.bound.device().keep(error);
        }
    }
}

fn tensor(bound: &Bound<'_>, desc: &TensorDesc) -> Result<*mut aclTensor> {
    // SAFETY: the arrays have the lengths given with them and are copied by the call; the device address is memory that
    // lives until the stream has used it, or null on a plan.
    let tensor = unsafe {
        bound.table().aclCreateTensor(
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
    }?;
    made(bound, FunctionId::aclCreateTensor, tensor)
}

fn tensor_list(bound: &Bound<'_>, list: &[Option<TensorDesc>]) -> Result<*mut aclTensorList> {
    let mut members: [*const aclTensor; MAX_LIST] = [ptr::null(); MAX_LIST];
    let Some(members) = members.get_mut(..list.len()) else {
        return Err(Error::shape("tensor list", list.len(), format_args!("at most {MAX_LIST} tensors")));
    };
    let mut outcome = Ok(());
    for (member, desc) in members.iter_mut().zip(list) {
        match desc.as_ref().map(|desc| tensor(bound, desc)).transpose() {
            Ok(made) => *member = made.map_or(ptr::null(), <*mut aclTensor>::cast_const),
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    let list = outcome.and_then(|()| {
        // SAFETY: the array has that many members; the list owns them from here on.
        let list = unsafe { bound.table().aclCreateTensorList(members.as_ptr(), members.len() as u64) }?;
        made(bound, FunctionId::aclCreateTensorList, list)
    });
    if list.is_err() {
        for &member in members.iter() {
            // SAFETY: the member belongs to no list; null is allowed.
            let result = unsafe { bound.table().aclDestroyTensor(member) };
            if let Err(error) = bound.check_status(FunctionId::aclDestroyTensor, result) {
                bound.device().keep(error);
            }
        }
    }
    list
}

/// The bytes of a host scalar in its own type.
fn scalar_bytes(scalar: ScalarValue) -> Result<[u8; 8]> {
    let mut bytes = [0; 8];
    match scalar.dtype {
        aclDataType::FLOAT => bytes[..4].copy_from_slice(&(scalar.value as f32).to_ne_bytes()),
        aclDataType::INT64 => bytes.copy_from_slice(&(scalar.value as i64).to_ne_bytes()),
        other => return Err(Error::dtype("scalar", format_args!("{other:?}"), "f32 or i64")),
    }
    Ok(bytes)
}

/// An object that a creating function made, which tells failure by null.
fn made<T>(bound: &Bound<'_>, call: FunctionId, object: *mut T) -> Result<*mut T> {
    if object.is_null() {
        return Err(Error::NoObject { call: call.name(), message: recent_error(bound.table()) });
    }
    Ok(object)
}

/// A call between its phases.
struct Prepared<'b> {
    bound: &'b Bound<'b>,
    operator: OperatorId,
    executor: *mut aclOpExecutor,
    size: u64,
}

impl<'b> Prepared<'b> {
    /// Phase 1.
    fn new(bound: &'b Bound<'b>, operator: OperatorId, descriptors: &Descriptors<'_>) -> Result<Self> {
        let (mut size, mut executor) = (0, ptr::null_mut());
        let args = &descriptors.args[..descriptors.len];
        // SAFETY: the arguments are alive and of the prototype's types; size and executor are writable.
        let result = unsafe { phase1(bound.table(), operator, args, &mut size, &mut executor) };
        bound.check_status(operator.info().phase1, result)?;
        Ok(Self { bound, operator, executor, size })
    }

    /// Phase 2, which consumes the executor whether it succeeds or not.
    fn run(self, workspace: *mut c_void, stream: aclrtStream) -> Result<()> {
        let this = core::mem::ManuallyDrop::new(self);
        let phase = this.operator.info().phase2;
        // SAFETY: the executor is that of phase 1 and used once; the workspace has the size asked for and is not used for
        // anything else before the stream is past this call; the stream is of the bound context.
        let result = unsafe { phase2(this.bound.table(), this.operator, workspace, this.size, this.executor, stream) };
        this.bound.check_status(phase, result)
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        // SAFETY: phase 2 was not called with this executor.
        let result = unsafe { self.bound.table().aclDestroyAclOpExecutor(self.executor) };
        if let Err(error) = self.bound.check_status(FunctionId::aclDestroyAclOpExecutor, result) {
            self.bound.device().keep(error);
        }
    }
}

/// A C argument taken from the one that stands for it.
trait FromRaw {
    fn from_raw(arg: Option<&RawArg>) -> Self;
}

macro_rules! from_raw {
    ($($t:ty: $variant:ident($value:ident) => $result:expr, else $other:expr;)*) => {$(
        impl FromRaw for $t {
            fn from_raw(arg: Option<&RawArg>) -> Self {
                match arg {
                    Some(&RawArg::$variant($value)) => $result,
                    _ => $other,
                }
            }
        }
    )*};
}

// The row has checked that each argument is of the prototype's kind; the other arms are never taken.
from_raw! {
    *const aclTensor: Tensor(value) => value.cast_const(), else ptr::null();
    *mut aclTensor: Tensor(value) => value, else ptr::null_mut();
    *const aclTensorList: Tensors(value) => value.cast_const(), else ptr::null();
    *mut aclTensorList: Tensors(value) => value, else ptr::null_mut();
    *const aclScalar: Scalar(value) => value.cast_const(), else ptr::null();
    *const aclIntArray: Ints(value) => value.cast_const(), else ptr::null();
    *mut aclIntArray: Ints(value) => value, else ptr::null_mut();
    i64: Int(value) => value, else 0;
    i32: Int(value) => value as i32, else 0;
    i8: Int(value) => value as i8, else 0;
    u32: Int(value) => value as u32, else 0;
    f64: Float(value) => value, else 0.0;
    f32: Float(value) => value as f32, else 0.0;
    bool: Bool(value) => value, else false;
    aclDataType: DType(value) => value, else aclDataType::UNDEFINED;
    *const c_char: Text(value) => value, else ptr::null();
    *mut c_char: Text(value) => value.cast_mut(), else ptr::null_mut();
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
        ) -> Result<aclnnStatus, MissingFunction> {
            let mut args = args.iter();
            match operator {
                $(OperatorId::$op => {
                    $(let $p = <$t>::from_raw(args.next());)*
                    // SAFETY: the caller's.
                    unsafe { table.$ws($($p,)* size, executor) }
                })*
            }
        }

        /// # Safety
        /// The executor is one of phase 1 of this operator, not used before; the workspace has the size that phase 1 told.
        unsafe fn phase2(
            table: &Table,
            operator: OperatorId,
            workspace: *mut c_void,
            size: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> Result<aclnnStatus, MissingFunction> {
            match operator {
                $(OperatorId::$op => {
                    // SAFETY: the caller's.
                    unsafe { table.$run(workspace, size, executor, stream) }
                })*
            }
        }
    };
}

vendor_functions!(define_phases!);
