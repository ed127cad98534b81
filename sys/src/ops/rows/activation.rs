//! Rows of activations.

use super::check::{FLOATS, I64, axis, dim_in_range, require, same_dtype};
use crate::info::OperatorId;
use crate::ops::desc::Dims;
use crate::ops::rule::{Call, Codes, Layout, OpRow, Param, Rule};

const X: usize = 0;
const DIM: usize = 1;
const OUT: usize = 2;

/// `aclnnSwiGlu`: with A and B the halves of x along `dim`, `out = A / (1 + exp(-A)) * B`.
///
/// * `x`: device, fp32, fp16 or bf16, `[.., 2 * n, ..]`, contiguous.
/// * `out`: device, dtype of x, `[.., n, ..]`, contiguous.
pub(super) static SWI_GLU: OpRow = OpRow {
    operator: OperatorId::SwiGlu,
    codes: Codes::GENERATED,
    params: &[
        Param::input("x", FLOATS).rank(1, 8).layout(Layout::Contiguous),
        Param::value("dim"),
        Param::output("out", FLOATS).rank(1, 8).layout(Layout::Contiguous),
    ],
    rules: &[
        Rule::dtype("out-dtype", "out has the dtype of x", |call| same_dtype(call, ("out", OUT), ("x", X))),
        Rule::new("dim", "-rank <= dim < rank of x", |call| {
            require(axis(call, X, call.int(DIM)).is_some(), || {
                let rank = call.tensor(X).map_or(0, |x| x.rank());
                format!("dim {} of a tensor of {rank} dimensions", call.int(DIM))
            })
        }),
        Rule::new("empty", "x has elements on Atlas A2 and A3", |call| match call.tensor(X) {
            Some(x) => require(!x.is_empty(), || format!("x of shape {}", x.shape)),
            None => Ok(()),
        }),
        Rule::new("even", "dimension dim of x is even", |call| {
            let Some((size, _)) = halved(call, DIM) else { return Ok(()) };
            require(size % 2 == 0, || format!("{size} in dimension dim of x"))
        }),
        Rule::new("out-shape", "out has the shape of x with dimension dim halved", |call| {
            let (Some((_, shape)), Some(out)) = (halved(call, DIM), call.tensor(OUT)) else { return Ok(()) };
            require(out.shape == shape, || format!("out of shape {} where {shape} is due", out.shape))
        }),
    ],
    source: "ops-nn 9.1.0, activation/swi_glu (docs, op_host definition and tiling)",
    doubtful: "The document refuses non-contiguous tensors; the operator's definition has x copied to a contiguous one \
               first. The document gives 161002 for dim; the check is in tiling. Tiling asks only that the product of \
               the dimensions from dim on is even, and does not look at the shape of out.",
};

/// Positions of the parameters of `aclnnClippedSwiglu`.
mod clipped {
    pub(super) const GROUP_INDEX: usize = 1;
    pub(super) const DIM: usize = 2;
    pub(super) const LIMIT: usize = 4;
    pub(super) const OUT: usize = 7;
}

/// The most groups of `aclnnClippedSwiglu`.
const MAX_GROUPS: i64 = 1024;

/// `aclnnClippedSwiglu`: with A and B the halves of x along `dim`, or its even and odd places, `A = min(A, limit)`,
/// `B = clamp(B, -limit, limit)`, `out = A * sigmoid(alpha * A) * (B + bias)`.
///
/// * `x`: device, fp32, fp16 or bf16, `[.., 2 * n, ..]`, contiguous.
/// * `groupIndexOptional`: device, int64, `[G]`, G <= 1024: only as many rows as their sum are computed.
/// * `out`: device, dtype of x, `[.., n, ..]`, contiguous.
pub(super) static CLIPPED_SWIGLU: OpRow = OpRow {
    operator: OperatorId::ClippedSwiglu,
    codes: Codes::GENERATED,
    params: &[
        Param::input("x", FLOATS).rank(1, 8).layout(Layout::Contiguous),
        Param::input("groupIndexOptional", I64).rank(1, 1).optional(),
        Param::value("dim"),
        Param::value("alpha"),
        Param::value("limit"),
        Param::value("bias"),
        Param::value("interleaved"),
        Param::output("out", FLOATS).rank(1, 8).layout(Layout::Contiguous),
    ],
    rules: &[
        Rule::dtype("out-dtype", "out has the dtype of x", |call| same_dtype(call, ("out", clipped::OUT), ("x", X))),
        Rule::new("dim", "-rank <= dim < rank of x", dim_in_range::<X, { clipped::DIM }>),
        Rule::new("empty", "x has elements", |call| match call.tensor(X) {
            Some(x) => require(!x.is_empty(), || format!("x of shape {}", x.shape)),
            None => Ok(()),
        }),
        Rule::new("even", "dimension dim of x is even", |call| {
            let Some(size) = halved(call, clipped::DIM).map(|(size, _)| size) else { return Ok(()) };
            require(size % 2 == 0, || format!("{size} in dimension dim of x"))
        }),
        Rule::new("out-shape", "out has the shape of x with dimension dim halved", |call| {
            let (Some((_, due)), Some(out)) = (halved(call, clipped::DIM), call.tensor(clipped::OUT)) else {
                return Ok(());
            };
            require(out.shape == due, || format!("out of shape {} where {due} is due", out.shape))
        }),
        Rule::new("limit", "limit is above 0", |call| {
            let limit = call.float(clipped::LIMIT);
            require(limit > 0.0, || format!("limit {limit}"))
        }),
        Rule::new("groups", "at most 1024 groups", |call| match call.tensor(clipped::GROUP_INDEX) {
            Some(groups) => require(groups.dim(0) <= MAX_GROUPS, || format!("{} groups", groups.dim(0))),
            None => Ok(()),
        }),
    ],
    source: "ops-nn, activation/clipped_swiglu (docs, op_host)",
    doubtful: "Whether non-contiguous tensors are copied first was not seen: they are refused here.",
};

/// Size of dimension `dim` of x, and the shape of x with it halved.
fn halved(call: &Call<'_>, dim: usize) -> Option<(i64, Dims)> {
    let axis = axis(call, X, call.int(dim))?;
    let mut shape = call.tensor(X)?.shape;
    let size = shape.as_mut_slice().get_mut(axis)?;
    let whole = *size;
    *size /= 2;
    Some((whole, shape))
}
