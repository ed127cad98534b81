//! Rows of the operators that move elements by index, join tensors or reorder dimensions.

use super::check::{axis, carried, dim_in_range, members, require, same_dtype, same_shape};
use crate::constants::aclDataType;
use crate::info::OperatorId;
use crate::ops::desc::{Dims, TensorDesc};
use crate::ops::rule::{Call, Codes, OpRow, Param, Rule};

const ANY_SET: usize = 2;

/// Indices.
const INDEX: &[aclDataType] = &[aclDataType::INT32, aclDataType::INT64];

/// What Gather moves on Atlas A3.
const GATHERED: &[aclDataType] = &[
    aclDataType::DOUBLE,
    aclDataType::FLOAT16,
    aclDataType::BF16,
    aclDataType::FLOAT,
    aclDataType::INT32,
    aclDataType::UINT32,
    aclDataType::INT64,
    aclDataType::UINT64,
    aclDataType::INT16,
    aclDataType::UINT16,
    aclDataType::INT8,
    aclDataType::UINT8,
    aclDataType::BOOL,
];

/// What Scatter moves on Atlas A3.
const SCATTERED: &[aclDataType] = &[
    aclDataType::UINT8,
    aclDataType::INT8,
    aclDataType::INT16,
    aclDataType::INT32,
    aclDataType::INT64,
    aclDataType::BOOL,
    aclDataType::FLOAT16,
    aclDataType::FLOAT,
    aclDataType::DOUBLE,
    aclDataType::COMPLEX64,
    aclDataType::COMPLEX128,
    aclDataType::BF16,
];

const DIM: Rule = Rule::new("dim", "-rank <= dim < rank of self", dim_in_range::<0, 1>);
const CARRIED: Rule =
    Rule::not_carried("carried-dtypes", "tensors are FLOAT, FLOAT16, BF16, INT32, INT64 or BOOL", carried::<ANY_SET>);
const DTYPES_DOUBTFUL: &str = "The dtypes that CANN takes beyond those carried were not read: it may refuse some with 161002 \
                               that answer 561003 here.";

/// `aclnnGather`: `out[.., i, ..] = self[.., index[.., i, ..], ..]` along a dimension.
///
/// * `self`: device, `[..]`, any strides. * `index`: device, int32 or int64, rank of self, no larger than self in other
///   dimensions, values in `-size..size`. * `out`: device, dtype of self, shape of index.
pub(super) static GATHER: OpRow = OpRow {
    operator: OperatorId::Gather,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("self_", GATHERED),
        Param::value("dim"),
        Param::input("index", INDEX),
        Param::output("out", GATHERED),
    ],
    rules: &[
        Rule::dtype("out-dtype", "out has the dtype of self", |call| same_dtype(call, ("out", 3), ("self", 0))),
        Rule::new("index-rank", "index has as many dimensions as self", |call| same_rank(call, ("index", 2))),
        Rule::new("out-shape", "out has the shape of index", same_shape::<2, 3>),
        DIM,
        Rule::new("index-shape", "index is no larger than self but in dimension dim", |call| {
            no_larger::<2, 0>(call, axis(call, 0, call.int(1)))
        }),
        Rule::new("empty", "self has elements in dimension dim where index is not empty", |call| {
            let (Some(x), Some(index)) = (call.tensor(0), call.tensor(2)) else { return Ok(()) };
            require(index.is_empty() || !x.is_empty(), || format!("self of shape {}", x.shape))
        }),
        CARRIED,
    ],
    source: "ops-nn, index/gather_elements_v2 (docs)",
    doubtful: "",
};

/// `aclnnScatter`: `out = self`, then `out[.., index[.., i, ..], ..] = src[.., i, ..]` along a dimension, or added,
/// multiplied.
pub(super) static SCATTER: OpRow = OpRow {
    operator: OperatorId::Scatter,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("self_", SCATTERED),
        Param::value("dim"),
        Param::input("index", &[]),
        Param::input("src", SCATTERED),
        Param::value("reduce"),
        Param::output("out", SCATTERED),
    ],
    rules: &[
        Rule::dtype("dtypes", "src and out have the dtype of self", |call| {
            same_dtype(call, ("src", 3), ("self", 0))?;
            same_dtype(call, ("out", 5), ("self", 0))
        }),
        Rule::dtype("index-dtype", "index is INT32 or INT64", |call| match call.tensor(2) {
            Some(index) => require(index.is_empty() || INDEX.contains(&index.dtype), || format!("{:?}", index.dtype)),
            None => Ok(()),
        }),
        Rule::new("ranks", "index and src have as many dimensions as self", |call| {
            same_rank(call, ("index", 2))?;
            same_rank(call, ("src", 3))
        }),
        Rule::new("out-shape", "out has the shape of self", same_shape::<0, 5>),
        Rule::new("src-shape", "index is no larger than src", no_larger_at::<2, 3>),
        Rule::new("index-shape", "index is no larger than self but in dimension dim", |call| {
            no_larger::<2, 0>(call, axis(call, 0, call.int(1)))
        }),
        DIM,
        Rule::not_carried("reduce", "reduce is 0 (replace), 1 (add) or 2 (multiply)", |call| {
            let reduce = call.int(4);
            require((0..=2).contains(&reduce), || format!("reduce {reduce}"))
        }),
        CARRIED,
    ],
    source: "ops-nn, index/scatter_elements_v2 (op_api)",
    doubtful: "Which of several values for one place stays was not seen: the last here.",
};

/// `aclnnIndexSelect`: whole slices of self along a dimension.
pub(super) static INDEX_SELECT: OpRow = OpRow {
    operator: OperatorId::IndexSelect,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("self_", &[]),
        Param::value("dim"),
        Param::input("index", INDEX).rank(0, 1),
        Param::output("out", &[]),
    ],
    rules: &[
        Rule::dtype("out-dtype", "out has the dtype of self", |call| same_dtype(call, ("out", 3), ("self", 0))),
        DIM,
        Rule::new("out-shape", "out has the shape of self with the length of index in dimension dim", |call| {
            let (Some(x), Some(index), Some(axis)) = (call.tensor(0), call.tensor(2), axis(call, 0, call.int(1)))
            else {
                return Ok(());
            };
            let mut due = x.shape;
            if let Some(size) = due.as_mut_slice().get_mut(axis) {
                *size = index.shape.first().copied().unwrap_or(1);
            }
            out_is(call, 3, due)
        }),
        CARRIED,
    ],
    source: "ops-nn, index/gather_v2 (docs)",
    doubtful: DTYPES_DOUBTFUL,
};

/// `aclnnGatherV2`: whole slices of self along a dimension, by an index of any shape.
pub(super) static GATHER_V2: OpRow = OpRow {
    operator: OperatorId::GatherV2,
    codes: Codes::HAND_WRITTEN,
    params: &[Param::input("self_", &[]), Param::value("dim"), Param::input("index", INDEX), Param::output("out", &[])],
    rules: &[
        Rule::dtype("out-dtype", "out has the dtype of self", |call| same_dtype(call, ("out", 3), ("self", 0))),
        DIM,
        Rule::new("out-shape", "out has the shape of self with that of index in place of dimension dim", |call| {
            let (Some(x), Some(index), Some(axis)) = (call.tensor(0), call.tensor(2), axis(call, 0, call.int(1)))
            else {
                return Ok(());
            };
            let (before, after) = x.shape.split_at(axis.min(x.rank()));
            let after = after.get(1..).unwrap_or_default();
            let due = before.iter().chain(&*index.shape).chain(after).copied();
            out_is(call, 3, Dims::collect(due).ok_or("more than 8 dimensions")?)
        }),
        CARRIED,
    ],
    source: "ops-nn, index/gather_v2 (docs)",
    doubtful: DTYPES_DOUBTFUL,
};

/// `aclnnEmbedding`: rows of a matrix by an index of any shape.
pub(super) static EMBEDDING: OpRow = OpRow {
    operator: OperatorId::Embedding,
    codes: Codes::HAND_WRITTEN,
    params: &[Param::input("weight", &[]).rank(2, 2), Param::input("indices", INDEX), Param::output("out", &[])],
    rules: &[
        Rule::dtype("out-dtype", "out has the dtype of weight", |call| same_dtype(call, ("out", 2), ("weight", 0))),
        Rule::new("out-shape", "out has the shape of indices and the columns of weight", |call| {
            let (Some(weight), Some(indices)) = (call.tensor(0), call.tensor(1)) else { return Ok(()) };
            let due = indices.shape.iter().copied().chain([weight.dim(1)]);
            out_is(call, 2, Dims::collect(due).ok_or("more than 8 dimensions")?)
        }),
        CARRIED,
    ],
    source: "ops-nn, index/embedding (docs)",
    doubtful: DTYPES_DOUBTFUL,
};

/// `aclnnCat`: tensors one behind the other along a dimension.
pub(super) static CAT: OpRow = OpRow {
    operator: OperatorId::Cat,
    codes: Codes::HAND_WRITTEN,
    params: &[Param::input("tensors", &[]), Param::value("dim"), Param::output("out", &[])],
    rules: &[
        Rule::new("dim", "-rank <= dim < rank of the tensors", |call| {
            let dim = call.int(1);
            require(members(call.tensors(0)).all(|x| joined_axis(x, dim).is_some()), || format!("dim {dim}"))
        }),
        Rule::new("shapes", "the tensors have one shape but in dimension dim", |call| joined(call).map(drop)),
        Rule::new("out-shape", "out has that shape with the sum of the tensors' sizes in dimension dim", |call| {
            match joined(call) {
                Ok(Some(due)) => out_is(call, 2, due),
                _ => Ok(()),
            }
        }),
        Rule::not_carried("one-dtype", "the tensors and out have one dtype", |call| {
            let Some(out) = call.tensor(2) else { return Ok(()) };
            members(call.tensors(0))
                .try_for_each(|x| require(x.dtype == out.dtype, || format!("{:?} and {:?}", x.dtype, out.dtype)))
        }),
        CARRIED,
    ],
    source: "ops-math, conversion/concat_d (docs)",
    doubtful: DTYPES_DOUBTFUL,
};

/// `aclnnPermute`: dimensions in another order.
pub(super) static PERMUTE: OpRow = OpRow {
    operator: OperatorId::Permute,
    codes: Codes::HAND_WRITTEN,
    params: &[Param::input("self_", &[]), Param::required("dims"), Param::output("out", &[])],
    rules: &[
        Rule::new("dims", "dims names each dimension of self once", |call| match call.tensor(0) {
            Some(x) => require(permuted(call, x).is_some(), || format!("dims {:?}", call.ints(1).unwrap_or_default())),
            None => Ok(()),
        }),
        Rule::new("out-shape", "out has the dimensions of self in the order of dims", |call| {
            match call.tensor(0).and_then(|x| permuted(call, x)) {
                Some(due) => out_is(call, 2, due),
                None => Ok(()),
            }
        }),
        Rule::dtype("out-dtype", "out has the dtype of self", |call| same_dtype(call, ("out", 2), ("self", 0))),
        CARRIED,
    ],
    source: "ops-math, conversion/transpose (docs)",
    doubtful: DTYPES_DOUBTFUL,
};

fn out_is(call: &Call<'_>, out: usize, due: Dims) -> Result<(), String> {
    match call.tensor(out) {
        Some(out) => require(out.shape == due, || format!("out of shape {} where {due} is due", out.shape)),
        None => Ok(()),
    }
}

fn same_rank(call: &Call<'_>, (name, index): (&str, usize)) -> Result<(), String> {
    match (call.tensor(0), call.tensor(index)) {
        (Some(x), Some(other)) => {
            require(x.rank() == other.rank(), || format!("{name} of shape {} for {}", other.shape, x.shape))
        }
        _ => Ok(()),
    }
}

/// Tensor `A` is no larger than `B`, but in dimension `but`.
fn no_larger<const A: usize, const B: usize>(call: &Call<'_>, but: Option<usize>) -> Result<(), String> {
    let (Some(a), Some(b)) = (call.tensor(A), call.tensor(B)) else { return Ok(()) };
    let fits = a.shape.iter().zip(&*b.shape).enumerate().all(|(index, (a, b))| Some(index) == but || a <= b);
    require(fits, || format!("shapes {} and {}", a.shape, b.shape))
}

fn no_larger_at<const A: usize, const B: usize>(call: &Call<'_>) -> Result<(), String> {
    no_larger::<A, B>(call, None)
}

fn joined_axis(x: &TensorDesc, dim: i64) -> Option<usize> {
    let rank = i64::try_from(x.rank()).ok()?;
    usize::try_from(if dim < 0 { dim + rank } else { dim }).ok().filter(|&axis| (axis as i64) < rank)
}

/// The shape of the joined tensors.
fn joined(call: &Call<'_>) -> Result<Option<Dims>, String> {
    let mut all: Option<Dims> = None;
    for x in members(call.tensors(0)) {
        let Some(axis) = joined_axis(x, call.int(1)) else { return Ok(None) };
        let Some(shape) = &mut all else {
            all = Some(x.shape);
            continue;
        };
        let fits =
            shape.len() == x.rank() && (0..x.rank()).all(|index| index == axis || shape[index] == x.shape[index]);
        require(fits, || format!("shapes {shape} and {}", x.shape))?;
        if let (Some(size), Some(more)) = (shape.as_mut_slice().get_mut(axis), x.shape.get(axis)) {
            *size = size.saturating_add(*more);
        }
    }
    Ok(all)
}

fn permuted(call: &Call<'_>, x: &TensorDesc) -> Option<Dims> {
    let dims = call.ints(1).filter(|dims| dims.len() == x.rank())?;
    let mut shape = x.shape;
    let mut seen = 0u64;
    for (&dim, size) in dims.iter().zip(shape.as_mut_slice()) {
        let axis = joined_axis(x, dim).filter(|axis| seen >> axis & 1 == 0)?;
        seen |= 1 << axis;
        *size = x.shape.get(axis).copied()?;
    }
    Some(shape)
}
