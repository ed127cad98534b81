//! Calls built by parameter name, on which the other files of this test vary one thing at a time.

use ascend_sys::ops::{Arg, Call, Phase, ScalarValue, TensorDesc, Violation};
use ascend_sys::{OperatorId, Release, aclDataType, aclFormat, aclnnStatus};
use core::ffi::CStr;

pub(crate) const F32: aclDataType = aclDataType::FLOAT;
pub(crate) const F16: aclDataType = aclDataType::FLOAT16;
pub(crate) const BF16: aclDataType = aclDataType::BF16;
pub(crate) const I8: aclDataType = aclDataType::INT8;
pub(crate) const I32: aclDataType = aclDataType::INT32;
pub(crate) const I64: aclDataType = aclDataType::INT64;
pub(crate) const I4: aclDataType = aclDataType::INT4;
pub(crate) const U64: aclDataType = aclDataType::UINT64;
pub(crate) const BOOL: aclDataType = aclDataType::BOOL;
pub(crate) const COMPLEX: aclDataType = aclDataType::COMPLEX64;

pub(crate) const V8_5: Release = Release::new(8, 5, 0);
pub(crate) const V9_0: Release = Release::new(9, 0, 0);
pub(crate) const V9_1: Release = Release::new(9, 1, 0);

/// An argument that owns what an [`Arg`] borrows.
#[allow(clippy::large_enum_variant, reason = "a call has few arguments, and a box in each would hide what is tested")]
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Tensor(Option<TensorDesc>),
    Tensors(Option<Vec<Option<TensorDesc>>>),
    Scalar(Option<ScalarValue>),
    Ints(Option<Vec<i64>>),
    Int(i64),
    Float(f64),
    Bool(bool),
    DType(aclDataType),
    Text(Option<&'static CStr>),
}

impl Value {
    /// Null or zero of a type of the list of functions.
    pub(crate) fn zero(parameter_type: &str) -> Self {
        match parameter_type.rsplit(' ').next().unwrap() {
            "aclTensor" => Self::Tensor(None),
            "aclTensorList" => Self::Tensors(None),
            "aclScalar" => Self::Scalar(None),
            "aclIntArray" => Self::Ints(None),
            "c_char" => Self::Text(None),
            "f64" | "f32" => Self::Float(0.0),
            "bool" => Self::Bool(false),
            "aclDataType" => Self::DType(aclDataType::UNDEFINED),
            _ => Self::Int(0),
        }
    }

    fn arg(&self) -> Arg<'_> {
        match self {
            Self::Tensor(tensor) => Arg::Tensor(tensor.as_ref()),
            Self::Tensors(list) => Arg::Tensors(list.as_deref()),
            Self::Scalar(scalar) => Arg::Scalar(*scalar),
            Self::Ints(ints) => Arg::Ints(ints.as_deref()),
            Self::Int(value) => Arg::Int(*value),
            Self::Float(value) => Arg::Float(*value),
            Self::Bool(value) => Arg::Bool(*value),
            Self::DType(dtype) => Arg::DType(*dtype),
            Self::Text(text) => Arg::Text(*text),
        }
    }
}

macro_rules! from {
    ($($type:ty: $value:ident => $made:expr;)*) => {
        $(impl From<$type> for Value {
            fn from($value: $type) -> Self {
                $made
            }
        })*
    };
}
from! {
    i32: value => Self::Int(value.into());
    f64: value => Self::Float(value);
    bool: value => Self::Bool(value);
    aclDataType: dtype => Self::DType(dtype);
    TensorDesc: tensor => Self::Tensor(Some(tensor));
    Vec<TensorDesc>: list => Self::Tensors(Some(list.into_iter().map(Some).collect()));
    ScalarValue: scalar => Self::Scalar(Some(scalar));
    Vec<i64>: ints => Self::Ints(Some(ints));
    &'static CStr: text => Self::Text(Some(text));
}

/// A call that owns its arguments.
#[derive(Clone, Debug)]
pub(crate) struct Built {
    pub(crate) operator: OperatorId,
    pub(crate) values: Vec<Value>,
    pub(crate) release: Release,
}

impl Built {
    /// A call of CANN 9.1.0 with null and zero everywhere.
    pub(crate) fn new(operator: OperatorId) -> Self {
        let values = operator.info().params.iter().map(|(_, parameter_type)| Value::zero(parameter_type)).collect();
        Self { operator, values, release: V9_1 }
    }

    pub(crate) fn index(&self, name: &str) -> usize {
        self.operator.info().params.iter().position(|(parameter, _)| *parameter == name).unwrap()
    }

    /// With another argument.
    pub(crate) fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        let (index, value) = (self.index(name), value.into());
        assert_eq!(std::mem::discriminant(&self.values[index]), std::mem::discriminant(&value), "{name}");
        self.values[index] = value;
        self
    }

    /// With null for a pointer.
    pub(crate) fn null(mut self, name: &str) -> Self {
        let index = self.index(name);
        self.values[index] = Value::zero(self.operator.info().params[index].1);
        self
    }

    /// For another release.
    pub(crate) fn on(mut self, release: Release) -> Self {
        self.release = release;
        self
    }

    /// Does something with the call.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&Call<'_>) -> T) -> T {
        let args: Vec<_> = self.values.iter().map(Value::arg).collect();
        act(&Call { operator: self.operator, args: &args, release: self.release })
    }

    pub(crate) fn validate(&self) -> Result<(), Violation> {
        self.with(|call| self.operator.row().validate(call))
    }
}

/// A contiguous tensor in ND.
pub(crate) fn tensor(dtype: aclDataType, shape: &[i64]) -> TensorDesc {
    TensorDesc::contiguous(dtype, shape, 0).unwrap()
}

/// A tensor of this shape over contiguous memory whose last two dimensions are the other way round.
pub(crate) fn transposed(dtype: aclDataType, shape: &[i64]) -> TensorDesc {
    let swap = |dims: &mut [i64]| {
        let last = dims.len() - 1;
        dims.swap(last - 1, last);
    };
    let mut stored = shape.to_vec();
    swap(&mut stored);
    let mut desc = tensor(dtype, &stored);
    swap(desc.shape.as_mut_slice());
    swap(desc.strides.as_mut_slice());
    desc
}

/// A tensor whose elements lie two apart.
pub(crate) fn spread(mut desc: TensorDesc) -> TensorDesc {
    desc.strides.as_mut_slice().iter_mut().for_each(|stride| *stride *= 2);
    desc
}

/// The tensor in FRACTAL_NZ, its storage that of blocks.
pub(crate) fn packed(mut desc: TensorDesc) -> TensorDesc {
    desc.format = aclFormat::FRACTAL_NZ;
    desc.storage = desc.shape.fractal_nz(desc.dtype).unwrap();
    desc
}

pub(crate) fn scalar(dtype: aclDataType, value: f64) -> ScalarValue {
    ScalarValue { dtype, value }
}

/// A call that breaks a rule, and the answer.
pub(crate) struct Case {
    pub(crate) call: Built,
    pub(crate) rule: &'static str,
    pub(crate) code: aclnnStatus,
    pub(crate) phase: Phase,
    /// Rules of the row that the call breaks as well, after this one.
    pub(crate) also: &'static [&'static str],
}

impl Case {
    pub(crate) fn new(call: Built, rule: &'static str, code: i32) -> Self {
        Self { call, rule, code: aclnnStatus(code), phase: Phase::One, also: &[] }
    }

    /// Reported by the second call.
    pub(crate) fn late(mut self) -> Self {
        self.phase = Phase::Two;
        self
    }

    pub(crate) fn also(mut self, rules: &'static [&'static str]) -> Self {
        self.also = rules;
        self
    }
}
