//! The second grouped product of quantised experts, whose rows are weighted and added to those of their tokens.

use ascend_sys::ops::Arg;
use ascend_sys::{OperatorId, aclFormat};

use super::grouped::{GroupListKind, check_group_list, list_type};
use super::launch::{MAX_ARGS, input, launch, optional, output, pick};
use crate::error::{Error, Result};
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// Inputs of [`grouped_matmul_finalize_routing`], for M rows of E experts.
#[derive(Clone, Copy)]
pub struct GroupedFinalizeRouting<'a> {
    /// i8, `[M, K]`.
    pub x: &'a TensorView<'a>,
    /// `[E, K, N]`: i8 in FRACTAL_NZ with K a multiple of 16 and N of 32 from 256 on; or `i4` with K a multiple of 64 above 128
    /// and N of 8 above 64, row-major in `i32` that stand for eight, or in FRACTAL_NZ with N a multiple of 64.
    pub weight: &'a TensorView<'a>,
    /// f32 or bf16, `[E, N]`; of `i4` weights i64 with f32 in the low half, `[E, 1, N]`.
    pub scale: &'a TensorView<'a>,
    /// f32, `[E, N]`, of `i4` weights: 8 times the sum of weight * scale over K; else none.
    pub bias: Option<&'a TensorView<'a>>,
    /// f32, `[E, 1, N]`, of `i4` weights: theirs times the scale.
    pub offset: Option<&'a TensorView<'a>>,
    /// f32, `[M]`; none for 1, with i8 weights.
    pub per_token: Option<&'a TensorView<'a>>,
    /// i64, `[E]`.
    pub group_list: &'a TensorView<'a>,
    /// Ends or sizes.
    pub kind: GroupListKind,
    /// f32, `[M]`: the factor of each row.
    pub logit: &'a TensorView<'a>,
    /// i64, for i8 weights also i32, `[M]`: the row of the output that each row is added to.
    pub row_index: &'a TensorView<'a>,
    /// What the output starts with, instead of 0.
    pub shared: Option<SharedInput<'a>>,
}

/// Rows that the output starts with.
#[derive(Clone, Copy)]
pub struct SharedInput<'a> {
    /// bf16, `[rows, N]`.
    pub rows: &'a TensorView<'a>,
    /// Their factor.
    pub weight: f32,
    /// The row of the output that the first of them is for.
    pub offset: usize,
}

/// `out = 0`, `out[offset + r] = weight * shared[r]`, `out[row_index[i]] += logit[i] * (x @ weight)[i]` for every row i of a group,
/// dequantised as [`Quant`](super::Quant) says for i8 x. A device adds the rows in no order, so that results may differ in their
/// last bits. Gives the operator that ran: the newest that the libraries have of `aclnnGroupedMatmulFinalizeRoutingWeightNzV2` and
/// `...WeightNz`, where the weight is FRACTAL_NZ, else of `...V3`, `...V2` and the first version; those without an offset only
/// where there is none.
///
/// * `out`: f32, `[batch, N]`, batch at most M.
///
/// # Errors
/// [`Error::MissingOperator`] where none is there, [`Error::GroupList`] where the device checks group lists and this one
/// does not fit, [`Error::Rule`] and those common to all operators, see [`cast`](super::cast).
pub fn grouped_matmul_finalize_routing(
    sequence: &Sequence<'_>,
    inputs: &GroupedFinalizeRouting<'_>,
    out: &mut TensorViewMut<'_>,
) -> Result<OperatorId> {
    use OperatorId as Id;
    const PACKED: &[Id] = &[Id::GroupedMatmulFinalizeRoutingWeightNzV2, Id::GroupedMatmulFinalizeRoutingWeightNz];
    const PACKED_WITH_OFFSET: &[Id] = &[Id::GroupedMatmulFinalizeRoutingWeightNzV2];
    const PLAIN: &[Id] =
        &[Id::GroupedMatmulFinalizeRoutingV3, Id::GroupedMatmulFinalizeRoutingV2, Id::GroupedMatmulFinalizeRouting];
    const PLAIN_WITH_OFFSET: &[Id] = &[Id::GroupedMatmulFinalizeRoutingV3, Id::GroupedMatmulFinalizeRoutingV2];
    let &GroupedFinalizeRouting {
        x,
        weight,
        scale,
        bias,
        offset,
        per_token,
        group_list,
        kind,
        logit,
        row_index,
        shared,
    } = inputs;
    let packed = weight.desc().format == aclFormat::FRACTAL_NZ;
    let operators = match (packed, offset.is_some()) {
        (true, false) => PACKED,
        (true, true) => PACKED_WITH_OFFSET,
        (false, false) => PLAIN,
        (false, true) => PLAIN_WITH_OFFSET,
    };
    let operator = pick(sequence, operators)?;
    if out.is_empty() {
        return Ok(operator);
    }
    if let Some(stream) = sequence.stream()
        && sequence.device().checks_group_lists()
    {
        check_group_list(group_list, kind, [weight.dim(0), x.dim(0)], stream)?;
    }
    let first = shared.map_or(0, |shared| shared.offset);
    let first = i64::try_from(first).map_err(|_| Error::shape("row of the shared input", first, "an i64"))?;
    let mut args = [Arg::Int(0); MAX_ARGS];
    let params = operator.info().params;
    for (arg, (name, _)) in args.iter_mut().zip(params) {
        *arg = match name.trim_end_matches("Optional") {
            "x" | "x1" => input(x),
            "w" | "x2" => input(weight),
            "scale" => input(scale),
            "bias" => optional(bias),
            "offset" => optional(offset),
            "pertokenScale" => optional(per_token),
            "groupList" => input(group_list),
            "sharedInput" => optional(shared.as_ref().map(|shared| shared.rows)),
            "logit" => input(logit),
            "rowIndex" => input(row_index),
            "sharedInputWeight" => Arg::Float(shared.map_or(0.0, |shared| shared.weight.into())),
            "sharedInputOffset" => Arg::Int(first),
            "transposeX" | "transposeW" | "transposeX1" | "transposeX2" => Arg::Bool(false),
            "groupListType" => Arg::Int(list_type(kind)),
            "dtype" => Arg::Int(0),
            "tuningConfig" => Arg::Ints(None),
            "y" | "out" => output(out),
            // The antiquant parameters.
            _ => Arg::Tensor(None),
        };
    }
    let optional_reads = [bias, offset, per_token, shared.map(|shared| shared.rows)].into_iter().flatten();
    let reads = [x, weight, scale, group_list, logit, row_index].into_iter().chain(optional_reads);
    let args = args.get(..params.len()).unwrap_or_default();
    launch(sequence, operators, args, reads.map(|view| view.0), [out.0].into_iter())
}
