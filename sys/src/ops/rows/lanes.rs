//! Rows of the operators that work along dimensions: softmax, selection, sorting, sums and maxima, normalisation.

use super::check::{F32, FLOATS, I64, axis, carried, dim_in_range, require, same_dtype, same_shape};
use crate::constants::aclDataType;
use crate::info::OperatorId;
use crate::ops::desc::Dims;
use crate::ops::rule::{Call, Codes, OpRow, Param, Rule};

const FLOAT_SET: usize = 0;
const NUMBER_SET: usize = 1;

/// What Topk orders on Atlas A3.
const ORDERED: &[aclDataType] = &[
    aclDataType::FLOAT,
    aclDataType::INT32,
    aclDataType::INT64,
    aclDataType::FLOAT16,
    aclDataType::INT16,
    aclDataType::INT8,
    aclDataType::UINT8,
    aclDataType::DOUBLE,
    aclDataType::BF16,
];

/// What ReduceSum adds on Atlas A3.
const ADDED: &[aclDataType] = &[
    aclDataType::FLOAT16,
    aclDataType::FLOAT,
    aclDataType::INT8,
    aclDataType::INT16,
    aclDataType::INT32,
    aclDataType::INT64,
    aclDataType::UINT8,
    aclDataType::BOOL,
    aclDataType::DOUBLE,
    aclDataType::COMPLEX64,
    aclDataType::COMPLEX128,
    aclDataType::BF16,
];

const DIM: Rule = Rule::new("dim", "-rank <= dim < rank of self", dim_in_range::<0, 1>);
const CARRIED_NUMBERS: Rule =
    Rule::not_carried("carried-dtypes", "tensors are FLOAT, FLOAT16, BF16, INT32 or INT64", carried::<NUMBER_SET>);
const CARRIED_FLOATS: Rule =
    Rule::not_carried("carried-dtypes", "tensors are FLOAT, FLOAT16 or BF16", carried::<FLOAT_SET>);

/// `aclnnSoftmax` along one dimension.
///
/// * `self`: device, fp32, fp16 or bf16, `[..]`, any strides. * `out`: device, a float, shape of self.
pub(super) static SOFTMAX: OpRow = OpRow {
    operator: OperatorId::Softmax,
    codes: Codes::HAND_WRITTEN,
    params: &[Param::input("self_", &[]), Param::value("dim"), Param::output("out", &[])],
    rules: &[Rule::new("out-shape", "out has the shape of self", same_shape::<0, 2>), DIM, CARRIED_FLOATS],
    source: "ops-nn, activation/softmax_v2 (docs)",
    doubtful: "DOUBLE is taken by CANN and not carried.",
};

/// `aclnnTopk`: the `k` greatest or least along a dimension, in order, with their indices.
///
/// * `self`: device, a number, `[..]`, any strides. * `valuesOut`: dtype of self. * `indicesOut`: int64.
pub(super) static TOPK: OpRow = OpRow {
    operator: OperatorId::Topk,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("self_", ORDERED),
        Param::value("k"),
        Param::value("dim"),
        Param::value("largest"),
        Param::value("sorted"),
        Param::output("valuesOut", ORDERED),
        Param::output("indicesOut", I64),
    ],
    rules: &[
        Rule::new("dim", "-rank <= dim < rank of self", dim_in_range::<0, 2>),
        Rule::new("k", "0 <= k <= size of dimension dim", |call| {
            let Some(size) = axis(call, 0, call.int(2)).map(|axis| size_of_axis(call, axis)) else { return Ok(()) };
            let k = call.int(1);
            require((0..=size).contains(&k), || {
                format!("k {k}; the nearest legal value is {}", k.min(size.max(0)).max(0))
            })
        }),
        Rule::dtype("values-dtype", "valuesOut has the dtype of self", |call| {
            same_dtype(call, ("valuesOut", 5), ("self", 0))
        }),
        Rule::new("out-shapes", "valuesOut and indicesOut have the shape of self with k in dimension dim", |call| {
            let (Some(x), Some(axis)) = (call.tensor(0), axis(call, 0, call.int(2))) else { return Ok(()) };
            let mut due = x.shape;
            if let Some(size) = due.as_mut_slice().get_mut(axis) {
                *size = call.int(1);
            }
            [("valuesOut", 5), ("indicesOut", 6)].into_iter().try_for_each(|(name, index)| match call.tensor(index) {
                Some(out) => require(out.shape == due, || format!("{name} of shape {} where {due} is due", out.shape)),
                None => Ok(()),
            })
        }),
        Rule::not_carried("sorted", "sorted is true", |call| require(call.bool(4), || "sorted false".to_owned())),
        CARRIED_NUMBERS,
    ],
    source: "ops-nn, index/gather_elements (op_api)",
    doubtful: "The op_api does not compare the shapes of the outputs; what follows then was not seen.",
};

/// `aclnnSort`: values in order, with their indices.
pub(super) static SORT: OpRow = OpRow {
    operator: OperatorId::Sort,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("self_", &[]),
        Param::value("stable"),
        Param::value("dim"),
        Param::value("descending"),
        Param::output("valuesOut", &[]),
        Param::output("indicesOut", I64),
    ],
    rules: &[
        Rule::new("dim", "-rank <= dim < rank of self", dim_in_range::<0, 2>),
        Rule::dtype("values-dtype", "valuesOut has the dtype of self", |call| {
            same_dtype(call, ("valuesOut", 4), ("self", 0))
        }),
        Rule::new("out-shapes", "valuesOut and indicesOut have the shape of self", |call| {
            same_shape::<0, 4>(call)?;
            same_shape::<0, 5>(call)
        }),
        CARRIED_NUMBERS,
    ],
    source: "ops-math, math/sort (docs)",
    doubtful: "Where NaN comes in ascending order was not seen: last here, as in torch.",
};

/// `aclnnArgsort`: indices of the values in order.
pub(super) static ARGSORT: OpRow = OpRow {
    operator: OperatorId::Argsort,
    codes: Codes::HAND_WRITTEN,
    params: &[Param::input("self_", &[]), Param::value("dim"), Param::value("descending"), Param::output("out", I64)],
    rules: &[DIM, Rule::new("out-shape", "out has the shape of self", same_shape::<0, 3>), CARRIED_NUMBERS],
    source: "ops-math, math/sort (docs)",
    doubtful: "That equal values keep their order was not seen.",
};

/// `aclnnCumsum`: sums of all values up to each, along a dimension.
pub(super) static CUMSUM: OpRow = OpRow {
    operator: OperatorId::Cumsum,
    codes: Codes::HAND_WRITTEN,
    params: &[Param::input("self_", &[]), Param::value("dim"), Param::value("dtype"), Param::output("out", &[])],
    rules: &[
        DIM,
        Rule::new("out-shape", "out has the shape of self", same_shape::<0, 3>),
        Rule::dtype("out-dtype", "out is of the dtype that the call names", |call| named_dtype(call, 2, 3)),
        CARRIED_NUMBERS,
    ],
    source: "ops-math, math/cumsum (docs)",
    doubtful: "The order in which the device adds was not seen: ascending here.",
};

/// `aclnnReduceSum`: sums over dimensions; all of them where `dims` is empty.
pub(super) static REDUCE_SUM: OpRow = OpRow {
    operator: OperatorId::ReduceSum,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("self_", ADDED),
        Param::required("dims"),
        Param::value("keepDims"),
        Param::value("dtype"),
        Param::output("out", ADDED),
    ],
    rules: &[
        Rule::dtype("out-dtype", "out is of the dtype that the call names", |call| named_dtype(call, 3, 4)),
        Rule::new("dims", "each of dims is a dimension of self, and none twice", |call| distinct_dims(call, 1)),
        Rule::new("out-shape", "out has the shape of self without dims, or with 1 in their place", |call| {
            reduced_shape(call, 1, 2, 4)
        }),
        CARRIED_NUMBERS,
    ],
    source: "ops-math, math/reduce_sum (op_api)",
    doubtful: "The order in which the device adds was not seen: ascending here.",
};

/// `aclnnAmax`: maxima over dimensions; all of them where `dim` is empty. NaN where there is one.
pub(super) static AMAX: OpRow = OpRow {
    operator: OperatorId::Amax,
    codes: Codes::HAND_WRITTEN,
    params: &[Param::input("self_", &[]), Param::required("dim"), Param::value("keepDim"), Param::output("out", &[])],
    rules: &[
        Rule::new("dims", "each of dim is a dimension of self, and none twice", |call| distinct_dims(call, 1)),
        Rule::new("out-shape", "out has the shape of self without dim, or with 1 in its place", |call| {
            reduced_shape(call, 1, 2, 3)
        }),
        Rule::new("some", "the dimensions reduced are not empty", |call| match call.tensor(0) {
            Some(x) => require(!x.is_empty() || call.tensor(3).is_none_or(|out| out.is_empty()), || {
                format!("self of shape {}", x.shape)
            }),
            None => Ok(()),
        }),
        Rule::dtype("out-dtype", "out has the dtype of self", |call| same_dtype(call, ("out", 3), ("self", 0))),
        CARRIED_NUMBERS,
    ],
    source: "ops-math, math/reduce_max (docs)",
    doubtful: "Whether out may be of another dtype, and NaN, were not seen.",
};

/// `aclnnRmsNorm`: `y = x / sqrt(mean(x^2) + eps) * gamma` over the dimensions of gamma, and the factor.
///
/// * `x`: device, fp32, fp16 or bf16, `[.., N]`. * `gamma`: device, `[N]`, dtype of x (or fp32).
/// * `yOut`: shape and dtype of x. * `rstdOut`: fp32, shape of x with 1 in the dimensions of gamma.
pub(super) static RMS_NORM: OpRow = OpRow {
    operator: OperatorId::RmsNorm,
    codes: Codes::GENERATED,
    params: &[
        Param::input("x", FLOATS).rank(1, 8),
        Param::input("gamma", FLOATS).rank(1, 8),
        Param::value("epsilon"),
        Param::output("yOut", FLOATS).rank(1, 8),
        Param::output("rstdOut", F32).rank(1, 8),
    ],
    rules: &[
        Rule::new("gamma-shape", "gamma has the last dimensions of x", gamma_shape::<0, 1>),
        Rule::new("y-shape", "yOut has the shape of x", same_shape::<0, 3>),
        Rule::dtype("y-dtype", "yOut has the dtype of x", |call| same_dtype(call, ("yOut", 3), ("x", 0))),
        Rule::new("rstd-shape", "rstdOut has the shape of x with 1 in the dimensions of gamma", |call| {
            rstd_shape::<0, 1, 4>(call)
        }),
    ],
    source: "CANN 8.1 headers; ops-nn, norm/rms_norm (docs)",
    doubtful: "That the API is generated, and which pairs of dtypes x and gamma may have, was not read.",
};

/// `aclnnAddRmsNorm`: the same of `x1 + x2`, which is given back too, rounded to its dtype.
pub(super) static ADD_RMS_NORM: OpRow = OpRow {
    operator: OperatorId::AddRmsNorm,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("x1", FLOATS).rank(1, 8),
        Param::input("x2", FLOATS).rank(1, 8),
        Param::input("gamma", FLOATS).rank(1, 8),
        Param::value("epsilon"),
        Param::output("yOut", FLOATS).rank(1, 8),
        Param::output("rstdOut", F32).rank(1, 8),
        Param::output("xOut", FLOATS).rank(1, 8),
    ],
    rules: &[
        Rule::new("x-shapes", "x2, yOut and xOut have the shape of x1", |call| {
            same_shape::<0, 1>(call)?;
            same_shape::<0, 4>(call)?;
            same_shape::<0, 6>(call)
        }),
        Rule::dtype("x-dtypes", "x2, gamma, yOut and xOut have the dtype of x1", |call| {
            [("x2", 1), ("gamma", 2), ("yOut", 4), ("xOut", 6)]
                .into_iter()
                .try_for_each(|tensor| same_dtype(call, tensor, ("x1", 0)))
        }),
        Rule::new("gamma-shape", "gamma has the last dimensions of x1", gamma_shape::<0, 2>),
        Rule::new("rstd-shape", "rstdOut has the shape of x1 with 1 in the dimensions of gamma", |call| {
            rstd_shape::<0, 2, 5>(call)
        }),
    ],
    source: "ops-nn, norm/add_rms_norm (docs)",
    doubtful: "That sums of half precision are rounded before the norm was seen in a kernel for A2.",
};

fn size_of_axis(call: &Call<'_>, axis: usize) -> i64 {
    // A tensor without dimensions counts as one of one element.
    call.tensor(0).and_then(|x| x.shape.get(axis).copied()).unwrap_or(1)
}

fn named_dtype(call: &Call<'_>, dtype: usize, out: usize) -> Result<(), String> {
    let named = call.dtype(dtype);
    match call.tensor(out) {
        Some(out) => require(out.dtype == named, || format!("out is {:?} and dtype is {named:?}", out.dtype)),
        None => Ok(()),
    }
}

fn distinct_dims(call: &Call<'_>, dims: usize) -> Result<(), String> {
    let mut seen = 0u64;
    call.ints(dims).unwrap_or_default().iter().try_for_each(|&dim| {
        let axis = axis(call, 0, dim).ok_or_else(|| format!("dimension {dim}"))?;
        let twice = seen >> axis & 1 == 1;
        seen |= 1 << axis;
        require(!twice, || format!("dimension {dim} twice"))
    })
}

fn reduced_shape(call: &Call<'_>, dims: usize, keep: usize, out: usize) -> Result<(), String> {
    let (Some(x), Some(out)) = (call.tensor(0), call.tensor(out)) else { return Ok(()) };
    let dims = call.ints(dims).unwrap_or_default();
    let reduced = |index: usize| dims.is_empty() || dims.iter().any(|&dim| axis(call, 0, dim) == Some(index));
    let kept = x.shape.iter().enumerate().filter_map(|(index, &size)| match (reduced(index), call.bool(keep)) {
        (false, _) => Some(size),
        (true, true) => Some(1),
        (true, false) => None,
    });
    let due = Dims::collect(kept).unwrap_or(Dims::EMPTY);
    // One element is one element: CANN takes [1] for a scalar.
    let scalar = due.is_empty() && *out.shape == [1];
    require(out.shape == due || scalar, || format!("out of shape {} where {due} is due", out.shape))
}

fn gamma_shape<const X: usize, const GAMMA: usize>(call: &Call<'_>) -> Result<(), String> {
    let (Some(x), Some(gamma)) = (call.tensor(X), call.tensor(GAMMA)) else { return Ok(()) };
    require(x.shape.ends_with(&gamma.shape), || format!("gamma of shape {} for {}", gamma.shape, x.shape))
}

fn rstd_shape<const X: usize, const GAMMA: usize, const RSTD: usize>(call: &Call<'_>) -> Result<(), String> {
    let (Some(x), Some(gamma), Some(rstd)) = (call.tensor(X), call.tensor(GAMMA), call.tensor(RSTD)) else {
        return Ok(());
    };
    let kept = x.rank().saturating_sub(gamma.rank());
    let due = x.shape.iter().enumerate().map(|(index, &size)| if index < kept { size } else { 1 });
    let due = Dims::collect(due).unwrap_or(Dims::EMPTY);
    require(rstd.shape == due, || format!("rstdOut of shape {} where {due} is due", rstd.shape))
}
