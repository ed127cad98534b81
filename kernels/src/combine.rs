//! Bringing the experts' rows back to the tokens: weighted sums over each token's slots.
//!
//! Sources: ops-transformer 9.1.0, moe/moe_finalize_routing_v2, moe/moe_token_unpermute,
//! moe/moe_token_unpermute_with_ep and moe/moe_token_unpermute_with_routing_map.

use std::ops::Range;

use rayon::prelude::*;

use crate::element::Float;
use crate::error::{self, KernelError};
use crate::permute::Permutation;

/// How the slots of a row index are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotOrder {
    /// Slot j of token t is `j * tokens + t`, as aclnnMoeInitRouting writes it (dropPadMode 0 and 1).
    ColumnMajor,
    /// Slot j of token t is `t * top_k + j`, as aclnnMoeInitRoutingV2 and V3 write it (dropPadMode 2 and 3).
    RowMajor,
}

/// Where a combine rounds to the type of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// Once, at the end; everything before is f32. CANN does so for bf16 (and for fp32, where it makes no difference).
    Once,
    /// After every sum and product. CANN does so for fp16, whose kernels compute in half precision.
    EachStep,
}

/// A bias per expert, added to each of its rows.
#[derive(Debug, Clone, Copy)]
pub struct ExpertBias<'a, T> {
    /// Host `T [experts, hidden]`.
    pub bias: &'a [T],
    /// Host i32 `[tokens, top_k]`, row-major.
    pub expert_ids: &'a [i32],
}

/// The operands of [`finalize`].
#[derive(Debug, Clone, Copy)]
pub struct Finalize<'a, T, S> {
    /// Host `T [rows, hidden]` (drop-pad: `[experts, capacity, hidden]`, the same memory).
    pub expanded: &'a [T],
    /// Size of a row.
    pub hidden: usize,
    /// Host i32 `[tokens * top_k]`: the row of each slot, numbered by `order`.
    pub row_index: &'a [i32],
    /// Slots per token, at least 1.
    pub top_k: usize,
    /// How `row_index` is numbered.
    pub order: SlotOrder,
    /// Whether a row of -1 means nothing is added, not even the bias (dropPadMode 1 and 3); otherwise -1 is an error.
    pub drop_pad: bool,
    /// Host `T [tokens, hidden]`, added first (the shared expert or the residual).
    pub x1: Option<&'a [T]>,
    /// Host `T [tokens, hidden]`, added to `x1`. CANN takes it only together with `x1`.
    pub x2: Option<&'a [T]>,
    /// Bias of each slot's expert.
    pub bias: Option<ExpertBias<'a, T>>,
    /// Host `S [tokens, top_k]`, row-major, its type apart from `T`; `None` for 1 (CANN then wants top_k 1).
    pub scales: Option<&'a [S]>,
    /// Where to round.
    pub rounding: Rounding,
}

impl<T: Float, S: Float> Finalize<'_, T, S> {
    /// Checks the operands against `out` and returns the number of tokens.
    pub(crate) fn check(&self, out: usize) -> Result<usize, KernelError> {
        error::range("hidden", self.hidden, 1, usize::MAX)?;
        error::range("top_k", self.top_k, 1, usize::MAX)?;
        let tokens = error::divide("out over hidden", out, self.hidden)?;
        let slots = error::product("tokens x top_k", &[tokens, self.top_k])?;
        error::length("row index", slots, self.row_index.len())?;
        error::length("x1", out, self.x1.map_or(out, <[T]>::len))?;
        error::length("x2", out, self.x2.map_or(out, <[T]>::len))?;
        error::length("scales", slots, self.scales.map_or(slots, <[S]>::len))?;
        if let Some(ExpertBias { bias, expert_ids }) = self.bias {
            let experts = error::divide("bias over hidden", bias.len(), self.hidden)?;
            error::length("expert ids", slots, expert_ids.len())?;
            for (slot, &expert) in expert_ids.iter().enumerate() {
                if !usize::try_from(expert).is_ok_and(|expert| expert < experts) {
                    return Err(KernelError::ExpertId { slot, expert, experts });
                }
            }
        }
        let rows = error::divide("expanded over hidden", self.expanded.len(), self.hidden)?;
        for (slot, &row) in self.row_index.iter().enumerate() {
            let exists = usize::try_from(row).is_ok_and(|row| row < rows);
            if !(exists || self.drop_pad && row == -1) {
                return Err(KernelError::RowIndex { slot, row, rows, minus_one: self.drop_pad });
            }
        }
        Ok(tokens)
    }

    /// The row of slot `j` of `token`, which was checked; `None` for -1.
    pub(crate) fn row(&self, tokens: usize, token: usize, j: usize) -> Option<usize> {
        let slot = match self.order {
            SlotOrder::ColumnMajor => j * tokens + token,
            SlotOrder::RowMajor => token * self.top_k + j,
        };
        usize::try_from(self.row_index[slot]).ok()
    }
}

/// `out[t] = x1[t] + x2[t] + sum over j of scales[t, j] * (expanded[row(t, j)] + bias[expert(t, j)])`, in parallel over tokens.
///
/// `x1 + x2` come first, then j ascends; each term is the row plus its bias, times its scale, then added. The type of every
/// intermediate is f32, rounded as [`Rounding`] says.
///
/// Not settled: that a row of -1 adds no bias is what the bf16 kernel that holds whole rows does; a kernel that cuts long rows (fp16,
/// fp32) and the operator's golden script add `scale * bias` there. Avoid a bias with drop-pad.
///
/// - `out` host `T [tokens, hidden]`.
///
/// # Errors
/// [`KernelError::Length`], [`KernelError::NotMultiple`] or [`KernelError::Range`] when sizes do not fit,
/// [`KernelError::RowIndex`] and [`KernelError::ExpertId`] for an index that names nothing. CANN checks no index.
pub fn finalize<T: Float, S: Float>(operands: &Finalize<'_, T, S>, out: &mut [T]) -> Result<(), KernelError> {
    let tokens = operands.check(out.len())?;
    let Finalize { hidden, top_k, rounding, .. } = *operands;
    in_pieces(out, hidden, |t, cols, [sum, term], out| {
        let mut started = false;
        for x in [operands.x1, operands.x2].into_iter().flatten() {
            T::widen(&x[t * hidden + cols.start..][..cols.len()], term);
            accumulate::<T>(sum, term, &mut started, rounding);
        }
        for j in 0..top_k {
            let Some(row) = operands.row(tokens, t, j) else { continue };
            T::widen(&operands.expanded[row * hidden + cols.start..][..cols.len()], term);
            if let Some(ExpertBias { bias, expert_ids }) = operands.bias {
                let bias = &bias[expert_ids[t * top_k + j] as usize * hidden + cols.start..][..cols.len()];
                term.iter_mut().zip(bias).for_each(|(term, bias)| *term += bias.to_f32());
                round::<T>(term, rounding);
            }
            if let Some(scales) = operands.scales {
                let scale = scales[t * top_k + j].to_f32();
                term.iter_mut().for_each(|term| *term *= scale);
                round::<T>(term, rounding);
            }
            accumulate::<T>(sum, term, &mut started, rounding);
        }
        finish(sum, started, out);
    });
    Ok(())
}

/// Which of the sorted rows the rows of an [`Unpermute`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// The first ones; an index past them is skipped, a negative one must not be (aclnnMoeTokenUnpermute).
    First,
    /// Those from `start` to before `end`; any other index is skipped (aclnnMoeTokenUnpermuteWithEp).
    Range {
        /// First sorted row that is held.
        start: usize,
        /// End of those that are.
        end: usize,
    },
    /// All; a negative index means none (aclnnMoeTokenUnpermuteWithRoutingMap).
    All,
}

/// What [`unpermute`] does with its slots.
#[derive(Debug, Clone, Copy)]
pub struct Unpermute<'a, T, P> {
    /// Host `T [rows, hidden]`.
    pub permuted: &'a [T],
    /// Size of a row.
    pub hidden: usize,
    /// Host i32 `[tokens, top_k]`, row-major: the row of each slot.
    pub sorted_indices: &'a [i32],
    /// Host `P [tokens, top_k]`, its type apart from `T`; `None` for weight 1.
    pub probs: Option<&'a [P]>,
    /// Slots per token: 1 without `probs` for [`Held::First`].
    pub top_k: usize,
    /// Which sorted rows `permuted` has.
    pub held: Held,
}

impl<T: Float, P: Float> Unpermute<'_, T, P> {
    /// Checks the operands against `out`; returns the rows of `permuted`.
    pub(crate) fn check(&self, out: usize) -> Result<usize, KernelError> {
        error::range("hidden", self.hidden, 1, usize::MAX)?;
        let most = if self.probs.is_none() && self.held == Held::First { 1 } else { usize::MAX };
        error::range("top_k", self.top_k, 1, most)?;
        let tokens = error::divide("out over hidden", out, self.hidden)?;
        let slots = error::product("tokens x top_k", &[tokens, self.top_k])?;
        error::length("sorted indices", slots, self.sorted_indices.len())?;
        error::length("probs", slots, self.probs.map_or(slots, <[P]>::len))?;
        let rows = error::divide("permuted over hidden", self.permuted.len(), self.hidden)?;
        (0..slots).try_for_each(|slot| self.row(slot, rows).map(|_| ()))?;
        Ok(rows)
    }

    /// The row of a slot; `None` where it is skipped.
    fn row(&self, slot: usize, rows: usize) -> Result<Option<usize>, KernelError> {
        if self.prob(slot) == 0.0 {
            return Ok(None);
        }
        let index = self.sorted_indices[slot];
        let missing = |row, minus_one| Err(KernelError::RowIndex { slot, row, rows, minus_one });
        match (usize::try_from(index), self.held) {
            (Err(_), Held::First) => missing(index, false),
            (Err(_), _) => Ok(None),
            (Ok(row), Held::First) => Ok(Some(row).filter(|&row| row < rows)),
            (Ok(row), Held::Range { start, end }) if !(start..end).contains(&row) => Ok(None),
            (Ok(row), Held::Range { start, .. }) if row - start < rows => Ok(Some(row - start)),
            (Ok(row), Held::Range { start, .. }) => missing((row - start) as i32, false),
            (Ok(row), Held::All) if row < rows => Ok(Some(row)),
            (Ok(_), Held::All) => missing(index, true),
        }
    }

    /// The weight of a slot.
    pub(crate) fn prob(&self, slot: usize) -> f32 {
        self.probs.map_or(1.0, |probs| probs[slot].to_f32())
    }
}

/// `out[t] = sum over j of probs[t, j] * permuted[sorted_indices[t, j]]`, in parallel over tokens.
///
/// f32 throughout, j ascends, the product is rounded before it is added; one rounding at the end. A slot is skipped, its row not
/// read, when its prob is 0 or [`Held`] says so.
///
/// - `out` host `T [tokens, hidden]`.
///
/// # Errors
/// [`KernelError::Length`], [`KernelError::NotMultiple`] or [`KernelError::Range`] when sizes do not fit;
/// [`KernelError::RowIndex`] for an index that is neither skipped nor a row: CANN would read outside the buffer.
pub fn unpermute<T: Float, P: Float>(operands: &Unpermute<'_, T, P>, out: &mut [T]) -> Result<(), KernelError> {
    let rows = operands.check(out.len())?;
    let Unpermute { hidden, top_k, .. } = *operands;
    in_pieces(out, hidden, |t, cols, [sum, term], out| {
        let mut started = false;
        for slot in t * top_k..(t + 1) * top_k {
            let Ok(Some(row)) = operands.row(slot, rows) else { continue };
            let prob = operands.prob(slot);
            T::widen(&operands.permuted[row * hidden + cols.start..][..cols.len()], term);
            term.iter_mut().for_each(|term| *term *= prob);
            accumulate::<T>(sum, term, &mut started, Rounding::Once);
        }
        finish(sum, started, out);
    });
    Ok(())
}

/// What [`add_to_tokens`] adds up.
#[derive(Debug, Clone, Copy)]
pub struct TokenRows<'a, T, P> {
    /// Host `T [rows, hidden]`.
    pub rows: &'a [T],
    /// Size of a row.
    pub hidden: usize,
    /// Host i32 `[rows]`: the token of each row.
    pub tokens: &'a [i32],
    /// Host `P [rows]`, its type apart from `T`; `None` for weight 1.
    pub probs: Option<&'a [P]>,
    /// Whether the product of row and weight is rounded to `T` before it is added.
    pub round_products: bool,
}

/// `out[t] = sum over the rows of token t of probs[row] * rows[row]`, in parallel over tokens; 0 for a token without
/// rows.
///
/// f32 throughout but for the products, rows in ascending order, one rounding at the end.
///
/// - `order`: the rows sorted by token; `out` host `T [tokens, hidden]`.
///
/// # Errors
/// [`KernelError::Length`], [`KernelError::NotMultiple`] or [`KernelError::Range`] when sizes do not fit;
/// [`KernelError::RowIndex`] for a token that does not exist.
pub fn add_to_tokens<T: Float, P: Float>(
    operands: &TokenRows<'_, T, P>,
    order: &Permutation,
    out: &mut [T],
) -> Result<(), KernelError> {
    let TokenRows { rows, hidden, tokens, probs, round_products } = *operands;
    error::range("hidden", hidden, 1, usize::MAX)?;
    let count = error::divide("out over hidden", out.len(), hidden)?;
    error::length("rows", error::product("rows", &[tokens.len(), hidden])?, rows.len())?;
    error::length("probs", tokens.len(), probs.map_or(tokens.len(), <[P]>::len))?;
    let order = order.sorted();
    error::length("order", tokens.len(), order.len())?;
    for (slot, &row) in tokens.iter().enumerate() {
        if !usize::try_from(row).is_ok_and(|token| token < count) {
            return Err(KernelError::RowIndex { slot, row, rows: count, minus_one: false });
        }
    }
    let rounding = if round_products { Rounding::EachStep } else { Rounding::Once };
    in_pieces(out, hidden, |t, cols, [sum, term], out| {
        let first = order.partition_point(|row| (tokens[*row as usize] as usize) < t);
        let mut started = false;
        for row in order[first..].iter().map(|row| *row as usize).take_while(|row| tokens[*row] as usize == t) {
            T::widen(&rows[row * hidden + cols.start..][..cols.len()], term);
            if let Some(probs) = probs {
                let prob = probs[row].to_f32();
                term.iter_mut().for_each(|term| *term *= prob);
                round::<T>(term, rounding);
            }
            accumulate::<T>(sum, term, &mut started, Rounding::Once);
        }
        finish(sum, started, out);
    });
    Ok(())
}

/// Fills the outputs of tokens in pieces of columns, in parallel over tokens: `fill(token, columns, [sum, term], out)`, with two
/// buffers of as many values as there are columns.
fn in_pieces<T: Float>(
    out: &mut [T],
    hidden: usize,
    fill: impl Fn(usize, Range<usize>, [&mut [f32]; 2], &mut [T]) + Sync,
) {
    /// Columns of a piece: its buffers stay in the first cache.
    const PIECE: usize = 512;
    out.par_chunks_mut(hidden).enumerate().for_each(|(token, out)| {
        let mut buffers = [[0f32; PIECE]; 2];
        for (index, out) in out.chunks_mut(PIECE).enumerate() {
            let cols = index * PIECE..index * PIECE + out.len();
            fill(token, cols, buffers.each_mut().map(|buffer| &mut buffer[..out.len()]), out);
        }
    });
}

/// Adds a term to the sum; the first one becomes the sum.
fn accumulate<T: Float>(sum: &mut [f32], term: &[f32], started: &mut bool, rounding: Rounding) {
    if std::mem::replace(started, true) {
        sum.iter_mut().zip(term).for_each(|(sum, term)| *sum += *term);
        round::<T>(sum, rounding);
    } else {
        sum.copy_from_slice(term);
    }
}

fn round<T: Float>(values: &mut [f32], rounding: Rounding) {
    if rounding == Rounding::EachStep {
        values.iter_mut().for_each(|value| *value = T::from_f32(*value).to_f32());
    }
}

/// Rounds the sum, which is 0 when nothing was added.
fn finish<T: Float>(sum: &[f32], started: bool, out: &mut [T]) {
    if started {
        T::narrow(sum, out);
    } else {
        out.fill(T::from_f32(0.0));
    }
}
