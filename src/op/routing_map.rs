//! Sorting tokens by expert and back where a map of flags says which token goes to which expert.

use ascend_sys::OperatorId;
use ascend_sys::ops::Arg;

use super::launch::{input, launch, optional, optional_output, or_temporary, output};
use super::permute::PermuteOutputs;
use crate::dtype::DType;
use crate::error::Result;
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// Which rows there are (`dropAndPad`, `paddedMode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutingMapRows {
    /// One for each expert of a token; slot `t * K + j` is token t and the j-th of its K experts, which ascend.
    Chosen,
    /// The same number for each expert: of its tokens the first, or all and then others, both ascending.
    Capacity,
}

/// The rows of each expert's tokens, by expert, those of one expert by token (`aclnnMoeTokenPermuteWithRoutingMap`).
/// [`moe_token_unpermute_with_routing_map`] goes the other way.
///
/// * `tokens`: f32, f16 or bf16, `[T, H]`.
/// * `map`: i8 or bool, `[T, E]`, 0 or 1; for [`RoutingMapRows::Chosen`] each token has as many experts, at most 512.
/// * `probs`: dtype of tokens, or f32 for bf16, `[T, E]`.
/// * `outputs`: of as many rows as `sorted_indices` has, a multiple of T or, with a capacity, of E. `sorted_indices` is
///   the row of each slot; with a capacity the token of each row.
///
/// Without rows nothing is called.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn moe_token_permute_with_routing_map(
    sequence: &Sequence<'_>,
    tokens: &TensorView<'_>,
    map: &TensorView<'_>,
    probs: Option<&TensorView<'_>>,
    rows: RoutingMapRows,
    outputs: PermuteOutputs<'_, '_>,
) -> Result<()> {
    let PermuteOutputs { tokens: permuted, sorted_indices, probs: permuted_probs } = outputs;
    if sorted_indices.is_empty() && permuted.is_empty() {
        return Ok(());
    }
    let permuted_probs = permuted_probs.map(|probs| &*probs);
    let args = [
        input(tokens),
        input(map),
        optional(probs),
        Arg::Int(sorted_indices.dim(0)),
        Arg::Bool(rows == RoutingMapRows::Capacity),
        output(permuted),
        optional_output(permuted_probs),
        output(sorted_indices),
    ];
    let reads = [tokens.0, map.0].into_iter().chain(probs.map(|probs| probs.0));
    let writes = [permuted.0, sorted_indices.0].into_iter().chain(permuted_probs.map(|probs| probs.0));
    launch(sequence, &[OperatorId::MoeTokenPermuteWithRoutingMap], &args, reads, writes)?;
    Ok(())
}

/// Inputs of [`moe_token_unpermute_with_routing_map`], for T tokens of width H and E experts.
#[derive(Clone, Copy)]
pub struct UnpermuteWithRoutingMap<'a> {
    /// f32, f16 or bf16, `[rows, H]`.
    pub permuted: TensorView<'a>,
    /// i32, `[rows]`: the row of each slot, negative for none; with a capacity the token of each row.
    pub sorted_indices: TensorView<'a>,
    /// i8 or bool, `[T, E]`; only read with probs and without a capacity, and required then.
    pub map: Option<TensorView<'a>>,
    /// Dtype of permuted, or f32 for bf16, `[T, E]`; `None` for weight 1.
    pub probs: Option<TensorView<'a>>,
    /// Which rows there are.
    pub rows: RoutingMapRows,
}

/// Outputs of [`moe_token_unpermute_with_routing_map`].
pub struct UnpermuteOutputs<'o, 'a> {
    /// Dtype of permuted, `[T, H]`.
    pub tokens: &'o mut TensorViewMut<'a>,
    /// i32, `[rows]`: with a capacity the rows sorted by token; else not written. CANN wants it also where nobody does:
    /// a temporary one is used then.
    pub row_order: Option<&'o mut TensorViewMut<'a>>,
    /// i32, `[rows]`: with a capacity the tokens of these rows; as the one before.
    pub token_ids: Option<&'o mut TensorViewMut<'a>>,
    /// Dtype of probs, `[rows]`: each row's weight; only written with probs.
    pub probs: Option<&'o mut TensorViewMut<'a>>,
}

/// The weighted sum of each token's rows (`aclnnMoeTokenUnpermuteWithRoutingMap`). A row's weight is the entry of probs
/// for its token and expert.
///
/// With a capacity, products are rounded to the dtype of the rows unless the weights are f32 and the rows are not.
///
/// Without rows nothing is called but to write 0 into the tokens, which must be contiguous then.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn moe_token_unpermute_with_routing_map(
    sequence: &Sequence<'_>,
    inputs: &UnpermuteWithRoutingMap<'_>,
    outputs: UnpermuteOutputs<'_, '_>,
) -> Result<()> {
    let UnpermuteWithRoutingMap { permuted, sorted_indices, map, probs, rows } = inputs;
    let UnpermuteOutputs { tokens: out, row_order, token_ids, probs: permuted_probs } = outputs;
    if sorted_indices.is_empty() || out.is_empty() {
        return out.zero(sequence);
    }
    let is_padded = *rows == RoutingMapRows::Capacity;
    let (mut order_place, mut ids_place, mut probs_place) = (None, None, None);
    let shape = [sorted_indices.dim(0)];
    let row_order = or_temporary(sequence, row_order.as_deref(), &mut order_place, DType::I32, shape)?;
    let token_ids = or_temporary(sequence, token_ids.as_deref(), &mut ids_place, DType::I32, shape)?;
    let permuted_probs = match probs {
        Some(probs) => Some(or_temporary(sequence, permuted_probs.as_deref(), &mut probs_place, probs.dtype(), shape)?),
        None => permuted_probs.as_deref(),
    };
    let restored = [out.dim(0), out.dim(1)];
    let args = [
        input(permuted),
        input(sorted_indices),
        optional(map.as_ref()),
        optional(probs.as_ref()),
        Arg::Bool(is_padded),
        Arg::Ints(Some(&restored)),
        output(out),
        output(row_order),
        output(token_ids),
        optional_output(permuted_probs),
    ];
    let options = [map, probs].into_iter().flatten().map(|tensor| tensor.0);
    let reads = [permuted.0, sorted_indices.0].into_iter().chain(options);
    let writes = [out.0, row_order.0, token_ids.0].into_iter().chain(permuted_probs.map(|probs| probs.0));
    launch(sequence, &[OperatorId::MoeTokenUnpermuteWithRoutingMap], &args, reads, writes)?;
    Ok(())
}
