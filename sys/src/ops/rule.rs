//! The shape of an operator's row and how a call is held against it.

use core::ffi::CStr;
use core::fmt;

use super::desc::{ScalarValue, TensorDesc};
use crate::constants::{aclDataType, aclFormat, aclnnStatus};
use crate::info::{OperatorId, Release};

/// One argument of phase 1, in the order of the C prototype. Null pointers are `None`.
#[derive(Clone, Copy, Debug)]
pub enum Arg<'a> {
    /// `aclTensor*`
    Tensor(Option<&'a TensorDesc>),
    /// `aclTensorList*`
    Tensors(Option<&'a [Option<TensorDesc>]>),
    /// `aclScalar*`
    Scalar(Option<ScalarValue>),
    /// `aclIntArray*`
    Ints(Option<&'a [i64]>),
    /// `int64_t`, `int8_t`, `int`
    Int(i64),
    /// `double`
    Float(f64),
    /// `bool`
    Bool(bool),
    /// `aclDataType`
    DType(aclDataType),
    /// `char*`
    Text(Option<&'a CStr>),
}

impl Arg<'_> {
    /// Whether the argument counts as not given: null, and for a list also what grouped_matmul takes for null, which is
    /// an empty list, a list that starts with null, or a list of one tensor of shape `[0]` (ops-transformer,
    /// gmm/grouped_matmul/op_api).
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Tensor(tensor) => tensor.is_none(),
            Self::Scalar(scalar) => scalar.is_none(),
            Self::Ints(ints) => ints.is_none(),
            Self::Text(text) => text.is_none(),
            Self::Tensors(None | Some([] | [None, ..])) => true,
            Self::Tensors(Some([Some(tensor)])) => *tensor.shape == [0],
            _ => false,
        }
    }

    /// Whether the argument is of a parameter type of the list of functions, such as `i64` or `* const aclTensor`.
    fn fits(&self, parameter_type: &str) -> bool {
        let object = parameter_type.rsplit(' ').next().filter(|_| parameter_type.starts_with('*'));
        match self {
            Self::Tensor(_) => object == Some("aclTensor"),
            Self::Tensors(_) => object == Some("aclTensorList"),
            Self::Scalar(_) => object == Some("aclScalar"),
            Self::Ints(_) => object == Some("aclIntArray"),
            Self::Int(_) => matches!(parameter_type, "i64" | "i32" | "c_int" | "u32" | "i8"),
            Self::Float(_) => matches!(parameter_type, "f64" | "f32"),
            Self::Bool(_) => parameter_type == "bool",
            Self::DType(_) => parameter_type == "aclDataType",
            Self::Text(_) => object == Some("c_char"),
        }
    }
}

/// A call to be judged: the operator, its arguments, the release it is meant for.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The operator.
    pub operator: OperatorId,
    /// Arguments of phase 1 in C order, without the workspace size and the executor.
    pub args: &'a [Arg<'a>],
    /// Release whose rules count.
    pub release: Release,
}

impl<'a> Call<'a> {
    /// Tensor argument `index`; `None` where it is null or no tensor.
    pub fn tensor(&self, index: usize) -> Option<&'a TensorDesc> {
        match self.args.get(index) {
            Some(Arg::Tensor(tensor)) => *tensor,
            _ => None,
        }
    }

    /// List argument `index`; empty where it is null. Null members are `None`.
    pub fn tensors(&self, index: usize) -> &'a [Option<TensorDesc>] {
        match self.args.get(index) {
            Some(Arg::Tensors(Some(list))) => list,
            _ => &[],
        }
    }

    /// Whether argument `index` counts as not given, see [`Arg::is_absent`].
    pub fn is_absent(&self, index: usize) -> bool {
        self.args.get(index).is_none_or(Arg::is_absent)
    }

    /// Integer argument `index`; 0 where it is something else.
    pub fn int(&self, index: usize) -> i64 {
        match self.args.get(index) {
            Some(Arg::Int(value)) => *value,
            _ => 0,
        }
    }

    /// Float argument `index`; 0 where it is something else.
    pub fn float(&self, index: usize) -> f64 {
        match self.args.get(index) {
            Some(Arg::Float(value)) => *value,
            _ => 0.0,
        }
    }

    /// Boolean argument `index`; false where it is something else.
    pub fn bool(&self, index: usize) -> bool {
        matches!(self.args.get(index), Some(Arg::Bool(true)))
    }

    /// Integer array argument `index`; `None` where it is null or something else.
    pub fn ints(&self, index: usize) -> Option<&'a [i64]> {
        match self.args.get(index) {
            Some(Arg::Ints(ints)) => *ints,
            _ => None,
        }
    }

    /// Text argument `index`; `None` where it is null, something else, or no UTF-8.
    pub fn text(&self, index: usize) -> Option<&'a str> {
        match self.args.get(index) {
            Some(Arg::Text(text)) => text.and_then(|text| text.to_str().ok()),
            _ => None,
        }
    }

    /// Scalar argument `index`; `None` where it is null or something else.
    pub fn scalar(&self, index: usize) -> Option<ScalarValue> {
        match self.args.get(index) {
            Some(Arg::Scalar(scalar)) => *scalar,
            _ => None,
        }
    }

    /// Data type argument `index`.
    pub fn dtype(&self, index: usize) -> aclDataType {
        match self.args.get(index) {
            Some(Arg::DType(dtype)) => *dtype,
            _ => aclDataType::UNDEFINED,
        }
    }
}

/// Which of the two calls reports a violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// `aclnnXGetWorkspaceSize`
    One,
    /// `aclnnX`
    Two,
}

/// How an operator reports what it refuses: code and phase by the kind of rule.
#[derive(Clone, Copy, Debug)]
pub struct Codes {
    /// A required pointer is null.
    pub null: aclnnStatus,
    /// A dtype or format is refused.
    pub dtype: aclnnStatus,
    /// A shape, a value or a combination is refused.
    pub other: aclnnStatus,
    /// The phase that reports dtype, format, shape and value violations; null pointers are always phase 1.
    pub phase: Phase,
}

impl Codes {
    /// A hand-written op_api that checks everything itself: 161001 and 161002.
    pub const HAND_WRITTEN: Self = Self {
        null: aclnnStatus::ERR_PARAM_NULLPTR,
        dtype: aclnnStatus::ERR_PARAM_INVALID,
        other: aclnnStatus::ERR_PARAM_INVALID,
        phase: Phase::One,
    };
    /// An API generated from the operator definition: 161001 for null, 161002 for dtypes, 561002 from tiling for the
    /// rest (ops-transformer 9.1.0, aclnn return codes; opbase 9.1.0).
    pub const GENERATED: Self = Self {
        null: aclnnStatus::ERR_PARAM_NULLPTR,
        dtype: aclnnStatus::ERR_PARAM_INVALID,
        other: aclnnStatus::ERR_INNER_TILING_ERROR,
        phase: Phase::One,
    };
}

/// The formats that lay elements out as shape and strides say. The operators' documents say ND; frameworks declare the
/// others for tensors of 3, 4 and 5 dimensions, and CANN treats all of them as ND here. Private formats such as
/// FRACTAL_NZ are made of blocks.
pub const PLAIN_FORMATS: &[aclFormat] = &[
    aclFormat::ND,
    aclFormat::NCHW,
    aclFormat::NHWC,
    aclFormat::HWCN,
    aclFormat::NDHWC,
    aclFormat::NCDHW,
    aclFormat::NC,
    aclFormat::NCL,
];

/// What a null pointer means for a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Null {
    /// Refused; so are an empty list and a list with a null member.
    Required,
    /// Allowed.
    Optional,
    /// Anything else than null (or what counts as null, see [`Arg::is_absent`]) is refused: reserved on this hardware.
    Reserved,
}

/// What memory layouts a tensor parameter accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Any strides; the operator copies what it cannot read directly.
    Any,
    /// Contiguous only.
    Contiguous,
}

/// Limits on one parameter. Parameters that are no tensors carry only `null`.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Name in the list of functions.
    pub name: &'static str,
    /// What null means.
    pub null: Null,
    /// Legal dtypes; empty means not checked here.
    pub dtypes: &'static [aclDataType],
    /// Legal formats; empty means not checked here.
    pub formats: &'static [aclFormat],
    /// Legal ranks, both ends included.
    pub rank: (usize, usize),
    /// Legal layouts.
    pub layout: Layout,
    /// Whether the operator writes it.
    pub output: bool,
}

impl Param {
    /// A value that is no tensor: nothing to check by itself.
    pub const fn value(name: &'static str) -> Self {
        Self {
            name,
            null: Null::Optional,
            dtypes: &[],
            formats: &[],
            rank: (0, super::desc::MAX_RANK),
            layout: Layout::Any,
            output: false,
        }
    }

    /// A required host scalar or integer array.
    pub const fn required(name: &'static str) -> Self {
        Self { null: Null::Required, ..Self::value(name) }
    }

    /// A required input tensor (or list of them) in a plain format and of one of `dtypes`, any of them where empty.
    pub const fn input(name: &'static str, dtypes: &'static [aclDataType]) -> Self {
        Self { null: Null::Required, dtypes, formats: PLAIN_FORMATS, ..Self::value(name) }
    }

    /// A required output tensor (or list of them) in a plain format and of one of `dtypes`, any of them where empty.
    pub const fn output(name: &'static str, dtypes: &'static [aclDataType]) -> Self {
        Self { output: true, ..Self::input(name, dtypes) }
    }

    /// The same, but null is allowed.
    pub const fn optional(mut self) -> Self {
        self.null = Null::Optional;
        self
    }

    /// The same, but it must be null (or count as null).
    pub const fn reserved(mut self) -> Self {
        self.null = Null::Reserved;
        self
    }

    /// The same with legal ranks.
    pub const fn rank(mut self, low: usize, high: usize) -> Self {
        self.rank = (low, high);
        self
    }

    /// The same with other legal formats.
    pub const fn formats(mut self, formats: &'static [aclFormat]) -> Self {
        self.formats = formats;
        self
    }

    /// The same with a legal layout.
    pub const fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }
}

/// Who refuses a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// CANN does, with the code of the violation.
    Cann,
    /// CANN takes the call as far as is known, but this version of the row does not carry it: neither the simulator nor the safe layer
    /// does it. The code is [`aclnnStatus::ERR_INNER_FIND_KERNEL_ERROR`], what CANN says where it has no kernel.
    NotCarried,
}

/// A rule over the whole call. `legal` is the sentence a user reads; `check` gives what was found instead.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Short name, unique in the row.
    pub id: &'static str,
    /// What is legal.
    pub legal: &'static str,
    /// Code that overrides the row's, where this rule is reported in its own way.
    pub code: Option<aclnnStatus>,
    /// Whether the rule is about dtypes or formats (and takes that code).
    pub dtype: bool,
    /// Who refuses what breaks the rule.
    pub refusal: Refusal,
    /// Finds what breaks the rule: what was found, and the nearest legal value where there is one. Must answer, not
    /// panic, whatever the call is: earlier rules may be broken as well.
    pub check: fn(&Call<'_>) -> Result<(), String>,
}

impl Rule {
    /// A rule about shapes or values.
    pub const fn new(id: &'static str, legal: &'static str, check: fn(&Call<'_>) -> Result<(), String>) -> Self {
        Self { id, legal, code: None, dtype: false, refusal: Refusal::Cann, check }
    }

    /// A rule about dtypes or formats.
    pub const fn dtype(id: &'static str, legal: &'static str, check: fn(&Call<'_>) -> Result<(), String>) -> Self {
        Self { dtype: true, ..Self::new(id, legal, check) }
    }

    /// A limit of this version of the row, not of CANN: `legal` says what the row carries.
    pub const fn not_carried(
        id: &'static str,
        legal: &'static str,
        check: fn(&Call<'_>) -> Result<(), String>,
    ) -> Self {
        Self {
            code: Some(aclnnStatus::ERR_INNER_FIND_KERNEL_ERROR),
            refusal: Refusal::NotCarried,
            ..Self::new(id, legal, check)
        }
    }

    /// The same rule, reported with a code of its own.
    pub const fn with_code(mut self, code: aclnnStatus) -> Self {
        self.code = Some(code);
        self
    }
}

/// An operator's row: what CANN accepts, and how it answers what it does not.
#[derive(Debug)]
pub struct OpRow {
    /// Which operator.
    pub operator: OperatorId,
    /// How violations are reported.
    pub codes: Codes,
    /// One entry per parameter of phase 1, in C order.
    pub params: &'static [Param],
    /// Rules over the whole call, in the order they are checked, after the parameters.
    pub rules: &'static [Rule],
    /// Where the facts come from.
    pub source: &'static str,
    /// What is not certain about the facts above.
    pub doubtful: &'static str,
}

/// A call that breaks a rule of its operator's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The operator.
    pub operator: OperatorId,
    /// The rule: the id of a [`Rule`]; `null`, `reserved`, `dtype`, `format`, `rank`, `layout`, `shape` of a parameter;
    /// or `arguments`, where the call is not made of the operator's parameters.
    pub rule: &'static str,
    /// The parameter, where the rule is about one.
    pub parameter: Option<&'static str>,
    /// What was found.
    pub found: String,
    /// What is legal.
    pub legal: String,
    /// The code CANN answers with.
    pub code: aclnnStatus,
    /// The phase that answers so.
    pub phase: Phase,
    /// Who refuses the call.
    pub refusal: Refusal,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "aclnn{}: ", self.operator.name())?;
        if let Some(parameter) = self.parameter {
            write!(f, "{}: ", crate::info::c_param(parameter))?;
        }
        match self.refusal {
            Refusal::Cann => write!(f, "{} breaks rule `{}`: {}", self.found, self.rule, self.legal),
            Refusal::NotCarried => {
                write!(f, "{} is not carried here (`{}`): {}", self.found, self.rule, self.legal)
            }
        }
    }
}

impl core::error::Error for Violation {}

impl OpRow {
    /// Holds a call against the row; the first violation in CANN's order of checks (null, then each parameter, then
    /// the rules). Costs no allocation where the call is legal.
    pub fn validate(&self, call: &Call<'_>) -> Result<(), Violation> {
        self.check_arguments(call)?;
        for (param, arg) in self.params.iter().zip(call.args) {
            self.check_null(param, arg)?;
        }
        for (param, arg) in self.params.iter().zip(call.args) {
            if param.null != Null::Required && arg.is_absent() {
                continue;
            }
            match arg {
                Arg::Tensor(Some(tensor)) => self.check_tensor(param, tensor)?,
                Arg::Tensors(Some(list)) => list.iter().flatten().try_for_each(|t| self.check_tensor(param, t))?,
                _ => {}
            }
        }
        for rule in self.rules {
            (rule.check)(call).map_err(|found| Violation {
                operator: self.operator,
                rule: rule.id,
                parameter: None,
                found,
                legal: rule.legal.to_owned(),
                code: rule.code.unwrap_or(if rule.dtype { self.codes.dtype } else { self.codes.other }),
                phase: if rule.refusal == Refusal::Cann { self.codes.phase } else { Phase::One },
                refusal: rule.refusal,
            })?;
        }
        Ok(())
    }

    /// The call must be made of this operator's parameters, or the checks below would look at nothing.
    fn check_arguments(&self, call: &Call<'_>) -> Result<(), Violation> {
        let params = self.operator.info().params;
        let fits = call.operator == self.operator
            && call.args.len() == params.len()
            && call.args.iter().zip(params).all(|(arg, (_, parameter_type))| arg.fits(parameter_type));
        if fits {
            return Ok(());
        }
        Err(Violation {
            operator: self.operator,
            rule: "arguments",
            parameter: None,
            found: format!("{} arguments for aclnn{}", call.args.len(), call.operator.name()),
            legal: format!("the {} parameters of phase 1, each of its type", params.len()),
            code: aclnnStatus::ERR_PARAM_INVALID,
            phase: Phase::One,
            refusal: Refusal::Cann,
        })
    }

    fn check_null(&self, param: &Param, arg: &Arg<'_>) -> Result<(), Violation> {
        match param.null {
            Null::Required => {
                let found = match arg {
                    Arg::Tensor(None) | Arg::Tensors(None) | Arg::Scalar(None) | Arg::Ints(None) => "a null pointer",
                    Arg::Tensors(Some([])) => "an empty list",
                    Arg::Tensors(Some(list)) if list.iter().any(Option::is_none) => "a list with a null member",
                    _ => return Ok(()),
                };
                let legal = "this parameter is required".to_owned();
                let violation = self.violation(param, "null", found.to_owned(), legal, self.codes.null);
                Err(Violation { phase: Phase::One, ..violation })
            }
            Null::Reserved if !arg.is_absent() => {
                let legal = "must be null on this hardware".to_owned();
                Err(self.violation(param, "reserved", "a value".to_owned(), legal, self.codes.other))
            }
            _ => Ok(()),
        }
    }

    fn check_tensor(&self, param: &Param, tensor: &TensorDesc) -> Result<(), Violation> {
        if !param.dtypes.is_empty() && !param.dtypes.contains(&tensor.dtype) {
            let (found, legal) = (format!("{:?}", tensor.dtype), format!("one of {:?}", param.dtypes));
            return Err(self.violation(param, "dtype", found, legal, self.codes.dtype));
        }
        if !param.formats.is_empty() && !param.formats.contains(&tensor.format) {
            let (found, legal) = (format!("{:?}", tensor.format), format!("one of {:?}", param.formats));
            return Err(self.violation(param, "format", found, legal, self.codes.dtype));
        }
        let (low, high) = param.rank;
        if !(low..=high).contains(&tensor.rank()) {
            let legal = if low == high { format!("{low} dimensions") } else { format!("{low} to {high} dimensions") };
            return Err(self.violation(param, "rank", format!("shape {}", tensor.shape), legal, self.codes.other));
        }
        if tensor.elements().is_none() || tensor.strides.len() != tensor.rank() {
            let legal = "no negative dimension, fewer than 2^64 elements, one stride per dimension".to_owned();
            let found = format!("shape {} with strides {}", tensor.shape, tensor.strides);
            return Err(self.violation(param, "shape", found, legal, self.codes.other));
        }
        if param.layout == Layout::Contiguous && !tensor.is_contiguous() {
            let found = format!("shape {} with strides {}", tensor.shape, tensor.strides);
            return Err(self.violation(param, "layout", found, "a contiguous tensor".to_owned(), self.codes.other));
        }
        Ok(())
    }

    fn violation(
        &self,
        param: &Param,
        rule: &'static str,
        found: String,
        legal: String,
        code: aclnnStatus,
    ) -> Violation {
        let (parameter, phase) = (Some(param.name), self.codes.phase);
        Violation { operator: self.operator, rule, parameter, found, legal, code, phase, refusal: Refusal::Cann }
    }
}
