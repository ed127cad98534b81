//! The shape of an operator's row and how a call is held against it.

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

/// What a null pointer means for a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Null {
    /// Refused.
    Required,
    /// Allowed.
    Optional,
    /// Anything else than null (or an empty list) is refused: reserved on this hardware.
    Reserved,
}

/// What memory layouts a tensor parameter accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Any strides; the operator copies what it cannot read directly.
    Any,
    /// Contiguous, or the last two dimensions a transposed view of contiguous memory.
    Transposable,
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

    /// A required ND input tensor of one of `dtypes`.
    pub const fn input(name: &'static str, dtypes: &'static [aclDataType]) -> Self {
        Self { null: Null::Required, dtypes, formats: &[aclFormat::ND], ..Self::value(name) }
    }

    /// A required ND output tensor of one of `dtypes`.
    pub const fn output(name: &'static str, dtypes: &'static [aclDataType]) -> Self {
        Self { output: true, ..Self::input(name, dtypes) }
    }

    /// The same, but null is allowed.
    pub const fn optional(mut self) -> Self {
        self.null = Null::Optional;
        self
    }

    /// The same, but it must be null (or an empty list).
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
    /// Finds what breaks the rule: what was found, and the nearest legal value where there is one.
    pub check: fn(&Call<'_>) -> Result<(), String>,
}

impl Rule {
    /// A rule about shapes or values.
    pub const fn new(id: &'static str, legal: &'static str, check: fn(&Call<'_>) -> Result<(), String>) -> Self {
        Self { id, legal, code: None, dtype: false, check }
    }

    /// A rule about dtypes or formats.
    pub const fn dtype(id: &'static str, legal: &'static str, check: fn(&Call<'_>) -> Result<(), String>) -> Self {
        Self { id, legal, code: None, dtype: true, check }
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
    /// The rule: the id of a [`Rule`], or `null`, `reserved`, `dtype`, `format`, `rank`, `layout`, `shape` of a parameter.
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
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "aclnn{}: ", self.operator.name())?;
        if let Some(parameter) = self.parameter {
            write!(f, "{}: ", crate::info::c_param(parameter))?;
        }
        write!(f, "{} breaks rule `{}`: {}", self.found, self.rule, self.legal)
    }
}

impl core::error::Error for Violation {}

impl OpRow {
    /// Holds a call against the row; the first violation in CANN's order of checks (null, then each parameter, then
    /// the rules). Costs no allocation where the call is legal.
    pub fn validate(&self, call: &Call<'_>) -> Result<(), Violation> {
        for (param, arg) in self.params.iter().zip(call.args) {
            self.check_null(param, arg)?;
        }
        for (param, arg) in self.params.iter().zip(call.args) {
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
                phase: self.codes.phase,
            })?;
        }
        Ok(())
    }

    fn check_null(&self, param: &Param, arg: &Arg<'_>) -> Result<(), Violation> {
        let null = match arg {
            Arg::Tensor(None) | Arg::Tensors(None) | Arg::Scalar(None) | Arg::Ints(None) => true,
            Arg::Tensor(_) | Arg::Tensors(_) | Arg::Scalar(_) | Arg::Ints(_) => false,
            _ => return Ok(()),
        };
        match param.null {
            Null::Required if null => Err(self.violation(
                param,
                "null",
                "a null pointer".to_owned(),
                "this parameter is required".to_owned(),
                self.codes.null,
                Phase::One,
            )),
            Null::Reserved if !null && !is_absent(arg) => Err(self.violation(
                param,
                "reserved",
                "a value".to_owned(),
                "must be null on this hardware".to_owned(),
                self.codes.other,
                self.codes.phase,
            )),
            _ => Ok(()),
        }
    }

    fn check_tensor(&self, param: &Param, tensor: &TensorDesc) -> Result<(), Violation> {
        if param.null == Null::Reserved {
            return Ok(());
        }
        if !param.dtypes.is_empty() && !param.dtypes.contains(&tensor.dtype) {
            return Err(self.violation(
                param,
                "dtype",
                format!("{:?}", tensor.dtype),
                format!("one of {:?}", param.dtypes),
                self.codes.dtype,
                self.codes.phase,
            ));
        }
        if !param.formats.is_empty() && !param.formats.contains(&tensor.format) {
            return Err(self.violation(
                param,
                "format",
                format!("{:?}", tensor.format),
                format!("one of {:?}", param.formats),
                self.codes.dtype,
                self.codes.phase,
            ));
        }
        let (low, high) = param.rank;
        if !(low..=high).contains(&tensor.rank()) {
            let legal = if low == high { format!("{low} dimensions") } else { format!("{low} to {high} dimensions") };
            return Err(self.violation(
                param,
                "rank",
                format!("shape {}", tensor.shape),
                legal,
                self.codes.other,
                self.codes.phase,
            ));
        }
        if tensor.elements().is_none() {
            return Err(self.violation(
                param,
                "shape",
                format!("shape {}", tensor.shape),
                "no negative dimension, and fewer than 2^64 elements".to_owned(),
                self.codes.other,
                self.codes.phase,
            ));
        }
        let legal = match param.layout {
            Layout::Any => return Ok(()),
            Layout::Transposable if tensor.is_contiguous() || tensor.is_transposed() => return Ok(()),
            Layout::Contiguous if tensor.is_contiguous() => return Ok(()),
            Layout::Transposable => "a contiguous tensor or one with its last two dimensions transposed",
            Layout::Contiguous => "a contiguous tensor",
        };
        let found = format!("shape {} with strides {}", tensor.shape, tensor.strides);
        Err(self.violation(param, "layout", found, legal.to_owned(), self.codes.other, self.codes.phase))
    }

    fn violation(
        &self,
        param: &Param,
        rule: &'static str,
        found: String,
        legal: String,
        code: aclnnStatus,
        phase: Phase,
    ) -> Violation {
        Violation { operator: self.operator, rule, parameter: Some(param.name), found, legal, code, phase }
    }
}

/// Whether a list counts as absent: empty, or of one empty tensor (grouped_matmul treats these as null).
fn is_absent(arg: &Arg<'_>) -> bool {
    match arg {
        Arg::Tensors(Some(list)) => list.iter().flatten().all(TensorDesc::is_empty),
        _ => false,
    }
}
