//! Rows of activations.

use super::check::{FLOATS, require, same_dtype};
use crate::info::OperatorId;
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
            require(axis(call).is_some(), || {
                let rank = call.tensor(X).map_or(0, |x| x.rank());
                format!("dim {} of a tensor of {rank} dimensions", call.int(DIM))
            })
        }),
        Rule::new("empty", "x has elements on Atlas A2 and A3", |call| match call.tensor(X) {
            Some(x) => require(!x.is_empty(), || format!("x of shape {}", x.shape)),
            None => Ok(()),
        }),
        Rule::new("even", "dimension dim of x is even", |call| {
            let (Some(x), Some(axis)) = (call.tensor(X), axis(call)) else { return Ok(()) };
            let size = x.shape.get(axis).copied().unwrap_or(0);
            require(size % 2 == 0, || format!("{size} in dimension {axis} of x"))
        }),
        Rule::new("out-shape", "out has the shape of x with dimension dim halved", |call| {
            let (Some(x), Some(out), Some(axis)) = (call.tensor(X), call.tensor(OUT), axis(call)) else {
                return Ok(());
            };
            let mut shape = x.shape;
            if let Some(size) = shape.as_mut_slice().get_mut(axis) {
                *size /= 2;
            }
            require(out.shape == shape, || format!("out of shape {} where {shape} is due", out.shape))
        }),
    ],
    source: "ops-nn 9.1.0, activation/swi_glu (docs, op_host definition and tiling)",
    doubtful: "The document refuses non-contiguous tensors; the operator's definition has x copied to a contiguous one \
               first. The document gives 161002 for dim; the check is in tiling. Tiling asks only that the product of \
               the dimensions from dim on is even, and does not look at the shape of out.",
};

/// Dimension `dim` counted from the front; `None` where x has no such dimension.
fn axis(call: &Call<'_>) -> Option<usize> {
    let rank = call.tensor(X)?.rank();
    let from_end = isize::try_from(call.int(DIM)).ok()?;
    let axis = if from_end < 0 { rank.checked_add_signed(from_end)? } else { from_end.unsigned_abs() };
    (axis < rank).then_some(axis)
}
