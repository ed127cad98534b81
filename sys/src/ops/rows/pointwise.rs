//! Rows of the operators that work element by element: maps, comparisons, selections, fills and copies.
//!
//! They are few kinds with data. A map has the shape of `self`; a pair broadcasts; a comparison gives BOOL. On Atlas A3
//! their op_api is hand-written: 161001 for null, 161002 for the rest, and any strides.

use super::check::{
    CARRIED, Checked, FLOATS, carried, operands_broadcast, out_is_broadcast, require, result_dtype, same_shape,
};
use super::elementwise::{ALPHA_DTYPE, Category, NUMBERS, category, converts};
use crate::constants::{aclDataType, aclnnStatus};
use crate::info::OperatorId;
use crate::ops::rule::{Call, Codes, OpRow, Param, Rule};

/// What is said of lists of dtypes that were not read for each operator.
const DTYPES_DOUBTFUL: &str = "The dtypes that CANN takes beyond those carried were not read: it may refuse some with 161002 \
                               that answer 561003 here.";

const BOOLS: &[aclDataType] = &[aclDataType::BOOL];

const OUT_SHAPE: Rule = Rule::new("out-shape", "out has the shape of self", same_shape::<0, 1>);

/// `out = f(self)`, floats only.
const FLOAT_MAP: [Rule; 2] =
    [OUT_SHAPE, Rule::not_carried("carried-dtypes", "self and out are FLOAT, FLOAT16 or BF16", carried::<FLOAT_SET>)];

/// `out = f(self)`, floats and 32-bit and 64-bit integers, of one dtype.
const NUMBER_MAP: [Rule; 3] = [
    OUT_SHAPE,
    Rule::dtype("out-dtype", "out has the dtype of self", |call| match (call.tensor(0), call.tensor(1)) {
        (Some(x), Some(out)) => require(x.dtype == out.dtype, || format!("self {:?} and out {:?}", x.dtype, out.dtype)),
        _ => Ok(()),
    }),
    Rule::not_carried("carried-dtypes", "self and out are FLOAT, FLOAT16, BF16, INT32 or INT64", carried::<NUMBER_SET>),
];

/// Index of a set of dtypes in [`CARRIED`].
const FLOAT_SET: usize = 0;
const NUMBER_SET: usize = 1;
const ANY_SET: usize = 2;

macro_rules! maps {
    ($($name:ident $id:ident $params:expr, $rules:expr, $source:literal, $doubtful:expr;)*) => {$(
        pub(super) static $name: OpRow = OpRow {
            operator: OperatorId::$id,
            codes: Codes::HAND_WRITTEN,
            params: $params,
            rules: $rules,
            source: $source,
            doubtful: $doubtful,
        };
    )*};
}

/// Self and out.
const MAP: &[Param] = &[Param::input("self_", &[]), Param::output("out", &[])];

maps! {
    ABS Abs MAP, &NUMBER_MAP, "ops-math, math/abs (docs)", "8-bit and 16-bit integers, DOUBLE, BOOL and complex numbers are not carried.";
    NEG Neg MAP, &NUMBER_MAP, "ops-math, math/neg (docs)", DTYPES_DOUBTFUL;
    EXP Exp MAP, &FLOAT_MAP, "ops-math, math/exp (docs)", DTYPES_DOUBTFUL;
    SQRT Sqrt MAP, &FLOAT_MAP, "ops-math, math/sqrt (docs)", DTYPES_DOUBTFUL;
    SIGMOID Sigmoid MAP, &FLOAT_MAP, "ops-nn, activation/sigmoid (docs)", DTYPES_DOUBTFUL;
    SILU Silu MAP, &FLOAT_MAP, "ops-nn, activation/swish (docs)", DTYPES_DOUBTFUL;
    RELU Relu MAP, &NUMBER_MAP, "ops-nn, activation/relu (docs)", DTYPES_DOUBTFUL;
    GELU Gelu MAP, &FLOAT_MAP, "ops-nn, activation/gelu (docs)", "The documents give the tanh approximation, which is computed here; the kernel \
        itself was not seen.";
}

/// `aclnnSoftplus`: `out = ln(1 + exp(beta * self)) / beta`, or self where `beta * self > threshold`.
///
/// * `self`: device, fp32, fp16 or bf16, `[..]`, any strides, may be empty.
/// * `beta`, `threshold`: host scalars that convert to the dtype of self; used as fp32.
/// * `out`: device, a dtype that self converts to, shape of self.
pub(super) static SOFTPLUS: OpRow = OpRow {
    operator: OperatorId::Softplus,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("self_", FLOATS),
        Param::required("beta"),
        Param::required("threshold"),
        Param::output("out", &[]),
    ],
    rules: &[
        Rule::dtype("scalar-dtypes", "beta and threshold are real numbers or BOOL", |call| {
            [("beta", 1), ("threshold", 2)].into_iter().try_for_each(|(name, index)| real_scalar(call, name, index))
        }),
        Rule::new("out-shape", "out has the shape of self", same_shape::<0, 3>),
        Rule::not_carried("carried-dtypes", "self and out are FLOAT, FLOAT16 or BF16", carried::<FLOAT_SET>),
    ],
    source: "ops-nn, activation/softplus_v2 (op_api)",
    doubtful: "Whether the kernel computes ln(1 + exp(x)) literally below the threshold was not seen.",
};

/// `aclnnAdds`: `out = self + alpha * other` with host scalars. Floats keep their dtype whatever that of the scalar is;
/// integers beside a floating-point scalar are computed in fp32.
pub(super) static ADDS: OpRow = OpRow {
    operator: OperatorId::Adds,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("self_", NUMBERS),
        Param::required("other"),
        Param::required("alpha"),
        Param::output("out", &[]),
    ],
    rules: &[
        Rule::new("out-shape", "out has the shape of self", same_shape::<0, 3>),
        Rule::not_carried("carried-scalars", "other and alpha are real numbers or BOOL", |call| {
            [("other", 1), ("alpha", 2)].into_iter().try_for_each(|(name, index)| real_scalar(call, name, index))
        }),
        Rule::not_carried(
            "carried-dtypes",
            "self and out are FLOAT, FLOAT16, BF16, INT32 or INT64",
            carried::<NUMBER_SET>,
        ),
    ],
    source: "ops-math, math/add (docs, op_api)",
    doubtful: "A complex scalar makes the result complex, which CANN refuses with 161002 beside an out that is not. \
               Integers beside a DOUBLE are computed in DOUBLE there and in fp32 here.",
};

/// Rules of a pair of operands with broadcasting; out is parameter `OUT`.
const fn pair<const OUT: usize>() -> [Rule; 4] {
    [
        Rule::dtype(
            "out-dtype",
            "the common dtype of self and other converts to the dtype of out",
            result_dtype::<0, 1, OUT>,
        ),
        Rule::new("broadcast", "self and other broadcast", operands_broadcast::<0, 1>),
        Rule::new("out-shape", "out has the shape that self and other broadcast to", out_is_broadcast::<0, 1, OUT>),
        Rule::not_carried(
            "carried-dtypes",
            "every tensor is FLOAT, FLOAT16, BF16, INT32 or INT64",
            carried::<NUMBER_SET>,
        ),
    ]
}

/// `aclnnSub`: `out = self - alpha * other`. Floats of half precision are computed in fp32 where alpha is not 1.
pub(super) static SUB: OpRow = OpRow {
    operator: OperatorId::Sub,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("self_", NUMBERS),
        Param::input("other", NUMBERS),
        Param::required("alpha"),
        Param::output("out", &[]),
    ],
    rules: &{
        let [out_dtype, broadcast, out_shape, carried] = pair::<3>();
        [ALPHA_DTYPE, out_dtype, broadcast, out_shape, carried]
    },
    source: "ops-math, math/sub (docs, op_api)",
    doubtful: "",
};

/// `aclnnDiv`: `out = self / other`; integers are divided as fp32.
pub(super) static DIV: OpRow = OpRow {
    operator: OperatorId::Div,
    codes: Codes::HAND_WRITTEN,
    params: &[Param::input("self_", NUMBERS), Param::input("other", NUMBERS), Param::output("out", &[])],
    rules: &pair::<2>(),
    source: "ops-math, math/div (docs)",
    doubtful: "Division by zero of integers was not seen: it is that of fp32 here.",
};

const PAIR: &[Param] = &[Param::input("self_", &[]), Param::input("other", &[]), Param::output("out", &[])];

/// `aclnnMaximum`: the greater of two; NaN where either is.
pub(super) static MAXIMUM: OpRow = OpRow {
    operator: OperatorId::Maximum,
    codes: Codes::HAND_WRITTEN,
    params: PAIR,
    rules: &pair::<2>(),
    source: "ops-math, math/maximum (docs)",
    doubtful: DTYPES_DOUBTFUL,
};

/// `aclnnMinimum`: the lesser of two; NaN where either is.
pub(super) static MINIMUM: OpRow = OpRow {
    operator: OperatorId::Minimum,
    codes: Codes::HAND_WRITTEN,
    params: PAIR,
    rules: &pair::<2>(),
    source: "ops-math, math/minimum (docs)",
    doubtful: DTYPES_DOUBTFUL,
};

/// `aclnnClamp`: `out = min(max(self, clipValueMin), clipValueMax)`; one of the bounds may be null.
pub(super) static CLAMP: OpRow = OpRow {
    operator: OperatorId::Clamp,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("self_", &[]),
        Param::value("clipValueMin"),
        Param::value("clipValueMax"),
        Param::output("out", &[]),
    ],
    rules: &[
        Rule::new("a-bound", "at least one of clipValueMin and clipValueMax is given", |call| {
            require(call.scalar(1).is_some() || call.scalar(2).is_some(), || "both null".to_owned())
        })
        .with_code(aclnnStatus::ERR_PARAM_NULLPTR),
        Rule::new("out-shape", "out has the shape of self", same_shape::<0, 3>),
        Rule::not_carried(
            "carried-dtypes",
            "self and out are FLOAT, FLOAT16, BF16, INT32 or INT64",
            carried::<NUMBER_SET>,
        ),
    ],
    source: "ops-math, conversion/clip_by_value_v2 (docs)",
    doubtful: DTYPES_DOUBTFUL,
};

/// `aclnnClampMin`: `out = max(self, clipValueMin)`.
pub(super) static CLAMP_MIN: OpRow = OpRow {
    operator: OperatorId::ClampMin,
    codes: Codes::HAND_WRITTEN,
    params: &[Param::input("self_", &[]), Param::required("clipValueMin"), Param::output("out", &[])],
    rules: &[
        Rule::new("out-shape", "out has the shape of self", same_shape::<0, 2>),
        Rule::not_carried(
            "carried-dtypes",
            "self and out are FLOAT, FLOAT16, BF16, INT32 or INT64",
            carried::<NUMBER_SET>,
        ),
    ],
    source: "ops-math, conversion/clip_by_value_v2 (docs)",
    doubtful: DTYPES_DOUBTFUL,
};

/// What comparisons take on Atlas A3.
const COMPARED: &[aclDataType] = &[
    aclDataType::FLOAT,
    aclDataType::FLOAT16,
    aclDataType::BF16,
    aclDataType::DOUBLE,
    aclDataType::INT8,
    aclDataType::UINT8,
    aclDataType::INT16,
    aclDataType::UINT16,
    aclDataType::INT32,
    aclDataType::UINT32,
    aclDataType::INT64,
    aclDataType::UINT64,
    aclDataType::BOOL,
];

const COMPARISON: &[Param] = &[Param::input("self_", COMPARED), Param::required("other"), Param::output("out", &[])];

const COMPARISON_RULES: [Rule; 3] = [
    Rule::dtype("scalar-dtype", "other is a real number or BOOL", |call| real_scalar(call, "other", 1)),
    Rule::new("out-shape", "out has the shape of self", same_shape::<0, 2>),
    Rule::not_carried("carried-dtypes", "self is FLOAT, FLOAT16, BF16, INT32 or INT64 and out is BOOL", |call| {
        let (Some(x), Some(out)) = (call.tensor(0), call.tensor(2)) else { return Ok(()) };
        let carried = CARRIED[NUMBER_SET].contains(&x.dtype) && out.dtype == aclDataType::BOOL;
        require(carried, || format!("self {:?} and out {:?}", x.dtype, out.dtype))
    }),
];

maps! {
    EQ_SCALAR EqScalar COMPARISON, &COMPARISON_RULES, "ops-math, math/equal (docs)", "Read from the document of GeScalar, which is of the same kind.";
    LT_SCALAR LtScalar COMPARISON, &COMPARISON_RULES, "ops-math, math/less (docs)", "Read from the document of GeScalar, which is of the same kind.";
    GE_SCALAR GeScalar COMPARISON, &COMPARISON_RULES, "ops-math, math/greater_equal (docs, op_api)", "";
}

/// `aclnnSWhere`: `out = self` where condition, else `other`.
///
/// * `condition`: device, BOOL; `self`, `other`: device, numbers; shapes that broadcast, any strides.
/// * `out`: device, broadcast shape.
pub(super) static S_WHERE: OpRow = OpRow {
    operator: OperatorId::SWhere,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("condition", &[]),
        Param::input("self_", &[]),
        Param::input("other", &[]),
        Param::output("out", &[]),
    ],
    rules: &[
        Rule::new("broadcast", "condition, self and other broadcast", |call| selected_shape(call).map(drop)),
        Rule::new("out-shape", "out has the shape that condition, self and other broadcast to", |call| {
            let (Ok(Some(due)), Some(out)) = (selected_shape(call), call.tensor(3)) else { return Ok(()) };
            require(out.shape == due, || format!("out of shape {} where {due} is due", out.shape))
        }),
        Rule::not_carried(
            "carried-dtypes",
            "condition is BOOL; self, other and out are FLOAT, FLOAT16, BF16, INT32 or INT64, all of one dtype",
            |call| {
                let (Some(condition), Some(out)) = (call.tensor(0), call.tensor(3)) else { return Ok(()) };
                let same = [1, 2].iter().filter_map(|&index| call.tensor(index)).all(|x| x.dtype == out.dtype);
                let carried = condition.dtype == aclDataType::BOOL && CARRIED[NUMBER_SET].contains(&out.dtype) && same;
                require(carried, || format!("condition {:?}, out {:?}", condition.dtype, out.dtype))
            },
        ),
    ],
    source: "ops-math, math/select (docs)",
    doubtful: DTYPES_DOUBTFUL,
};

/// `aclnnInplaceMaskedFillScalar`: `selfRef = value` where mask.
///
/// * `selfRef`: device, in and out, any strides.
/// * `mask`: device, BOOL, broadcasts to the shape of selfRef.
/// * `value`: host scalar, converted to the dtype of selfRef.
pub(super) static INPLACE_MASKED_FILL_SCALAR: OpRow = OpRow {
    operator: OperatorId::InplaceMaskedFillScalar,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::output(
            "selfRef",
            &[
                aclDataType::FLOAT,
                aclDataType::INT32,
                aclDataType::INT64,
                aclDataType::FLOAT16,
                aclDataType::INT8,
                aclDataType::BOOL,
                aclDataType::BF16,
            ],
        ),
        Param::input("mask", BOOLS),
        Param::required("value"),
    ],
    rules: &[
        Rule::new("mask-shape", "mask broadcasts to the shape of selfRef", |call| {
            let (Some(x), Some(mask)) = (call.tensor(0), call.tensor(1)) else { return Ok(()) };
            let fits = super::check::broadcast(&x.shape, &mask.shape).is_some_and(|shape| shape == x.shape);
            require(fits, || format!("mask of shape {} for {}", mask.shape, x.shape))
        }),
        Rule::not_carried("carried-scalar", "value is a real number or BOOL", |call| real_scalar(call, "value", 2)),
        Rule::not_carried("carried-dtypes", "selfRef is no INT8", |call| match call.tensor(0) {
            Some(x) => require(x.dtype != aclDataType::INT8, || "selfRef INT8".to_owned()),
            None => Ok(()),
        }),
    ],
    source: "ops-math, conversion/masked_fill (op_api)",
    doubtful: "",
};

/// `aclnnInplaceZero`: zero bytes.
pub(super) static INPLACE_ZERO: OpRow = OpRow {
    operator: OperatorId::InplaceZero,
    codes: Codes::HAND_WRITTEN,
    params: &[Param::output("selfRef", &[])],
    rules: &[Rule::not_carried(
        "carried-dtypes",
        "selfRef is FLOAT, FLOAT16, BF16, INT32, INT64 or BOOL",
        carried::<ANY_SET>,
    )],
    source: "ops-math, math/zero_op (docs)",
    doubtful: DTYPES_DOUBTFUL,
};

/// `aclnnInplaceCopy`: `selfRef = src`, broadcast and converted.
///
/// * `selfRef`: device, out, any strides. * `src`: device, broadcasts to the shape of selfRef.
pub(super) static INPLACE_COPY: OpRow = OpRow {
    operator: OperatorId::InplaceCopy,
    codes: Codes::HAND_WRITTEN,
    params: &[Param::output("selfRef", &[]), Param::input("src", &[])],
    rules: &[
        Rule::new("src-shape", "src broadcasts to the shape of selfRef", |call| {
            let (Some(x), Some(src)) = (call.tensor(0), call.tensor(1)) else { return Ok(()) };
            let fits = super::check::broadcast(&x.shape, &src.shape).is_some_and(|shape| shape == x.shape);
            require(fits, || format!("src of shape {} for {}", src.shape, x.shape))
        }),
        Rule::not_carried(
            "carried-dtypes",
            "both tensors are FLOAT, FLOAT16, BF16, INT32, INT64 or BOOL",
            carried::<ANY_SET>,
        ),
    ],
    source: "ops-math, conversion/view_copy (docs)",
    doubtful: DTYPES_DOUBTFUL,
};

/// Null pointers of `aclnnArange` come back as an inner error (op_api).
const ARANGE_CODES: Codes = Codes { null: aclnnStatus::ERR_INNER_NULLPTR, ..Codes::HAND_WRITTEN };

/// `aclnnArange`: `out[i] = start + i * step`.
///
/// * `start`, `end`, `step`: host scalars; step is not 0 and leads from start to end.
/// * `out`: device, fp32, fp16, bf16, DOUBLE, int32 or int64, `[n]`.
pub(super) static ARANGE: OpRow = OpRow {
    operator: OperatorId::Arange,
    codes: ARANGE_CODES,
    params: &[
        Param::required("start"),
        Param::required("end"),
        Param::required("step"),
        Param::output(
            "out",
            &[
                aclDataType::FLOAT16,
                aclDataType::FLOAT,
                aclDataType::DOUBLE,
                aclDataType::INT64,
                aclDataType::INT32,
                aclDataType::BF16,
            ],
        ),
    ],
    rules: &[
        Rule::dtype("scalar-dtypes", "start, end and step are real numbers or BOOL", |call| {
            [("start", 0), ("end", 1), ("step", 2)].into_iter().try_for_each(|(n, i)| real_scalar(call, n, i))
        }),
        Rule::new("step", "step is not 0 and leads from start to end", |call| {
            let Some([start, end, step]) = arange(call) else { return Ok(()) };
            let legal = (step > 0.0 && start <= end) || (step < 0.0 && start >= end);
            require(legal, || format!("start {start}, end {end}, step {step}"))
        }),
        Rule::new("length", "out is [ceil((end - start) / step)]", |call| {
            let (Some([start, end, step]), Some(out)) = (arange(call), call.tensor(3)) else { return Ok(()) };
            let due = ((end - start) / step).ceil();
            let legal = out.rank() == 1 && (step == 0.0 || due < 0.0 || out.dim(0) as f64 == due);
            require(legal, || format!("out of shape {} where [{due}] is due", out.shape))
        }),
        Rule::not_carried("carried-dtypes", "out is no DOUBLE", |call| match call.tensor(3) {
            Some(out) => require(out.dtype != aclDataType::DOUBLE, || "out DOUBLE".to_owned()),
            None => Ok(()),
        }),
    ],
    source: "ops-math, math/range (op_api)",
    doubtful: "The length of out is not compared in op_api; what the kernel's check answers was not seen.",
};

fn arange(call: &Call<'_>) -> Option<[f64; 3]> {
    Some([call.scalar(0)?.value, call.scalar(1)?.value, call.scalar(2)?.value])
}

/// The shape that condition, self and other broadcast to.
fn selected_shape(call: &Call<'_>) -> Result<Option<crate::ops::desc::Dims>, String> {
    let (Some(c), Some(a), Some(b)) = (call.tensor(0), call.tensor(1), call.tensor(2)) else { return Ok(None) };
    let shape = super::check::broadcast(&a.shape, &b.shape).and_then(|ab| super::check::broadcast(&c.shape, &ab));
    shape.map(Some).ok_or_else(|| format!("shapes {}, {} and {}", c.shape, a.shape, b.shape))
}

fn real_scalar(call: &Call<'_>, name: &str, index: usize) -> Checked {
    match call.scalar(index) {
        Some(scalar) => {
            let real = category(scalar.dtype).is_some_and(|c| converts(c, Category::Float));
            require(real, || format!("{name} of {:?}", scalar.dtype))
        }
        None => Ok(()),
    }
}
