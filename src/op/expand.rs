//! Expanding tokens to experts with the older operators.

use ascend_sys::OperatorId;
use ascend_sys::ops::Arg;

use super::launch::{input, launch, optional, optional_output, output};
use crate::error::{Error, Result};
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// Copies each token's row once per chosen expert, sorted by expert (`aclnnMoeInitRouting`). Slots go by number, by
/// column: choice j of token t is `j * T + t`. The sort is stable.
///
/// * `x`: f32, f16 or bf16, `[T, H]`.
/// * `row_idx`: i32, `[T, K]`: `j * T + t`, as [`moe_gating_top_k_softmax`](super::moe_gating_top_k_softmax) gives it.
///   CANN does not check the numbers.
/// * `expert_idx`: i32, `[T, K]`, values from 0 to below 2^24.
/// * `expanded_x`: out, dtype of x, `[R, H]`, contiguous: the first R sorted rows, R being K times at most T.
/// * `expanded_row_idx`: out, i32, `[T * K]`, contiguous: at each slot's number its sorted row.
/// * `expanded_expert_idx`: out, i32, `[T * K]`, contiguous: the experts, sorted.
///
/// Without tokens nothing is called.
///
/// # Errors
/// [`Error::Rule`] and those common to all operators, see [`cast`](super::cast).
pub fn moe_init_routing(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    row_idx: &TensorView<'_>,
    expert_idx: &TensorView<'_>,
    expanded_x: &mut TensorViewMut<'_>,
    expanded_row_idx: &mut TensorViewMut<'_>,
    expanded_expert_idx: &mut TensorViewMut<'_>,
) -> Result<()> {
    if expert_idx.is_empty() && expanded_row_idx.is_empty() && expanded_expert_idx.is_empty() {
        return Ok(());
    }
    let active_tokens = expanded_x.dim(0).checked_div(expert_idx.dim(1)).unwrap_or(0);
    let args = [
        input(x),
        input(row_idx),
        input(expert_idx),
        Arg::Int(active_tokens),
        output(expanded_x),
        output(expanded_row_idx),
        output(expanded_expert_idx),
    ];
    let reads = [x.0, row_idx.0, expert_idx.0].into_iter();
    let writes = [expanded_x.0, expanded_row_idx.0, expanded_expert_idx.0].into_iter();
    launch(sequence, &[OperatorId::MoeInitRouting], &args, reads, writes)?;
    Ok(())
}

/// Parameters of [`moe_init_routing_v2`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitRoutingV2 {
    /// Experts altogether.
    pub experts: usize,
    /// Rows per expert where each gets as many, slots beyond dropped; `None` to keep every slot.
    pub capacity: Option<usize>,
}

/// What [`moe_init_routing_v2`] counts. i32, `[experts]`; grouped products want i64.
pub enum RoutedCounts<'o, 'a> {
    /// Nothing.
    Nothing,
    /// Ends of the experts' rows; not with a capacity.
    Cumsum(&'o mut TensorViewMut<'a>),
    /// Slots of each expert, with a capacity those before it.
    Count(&'o mut TensorViewMut<'a>),
}

/// Copies each token's row once per chosen expert, sorted by expert, and counts (`aclnnMoeInitRoutingV2`). A slot is a
/// token and one of its choices, `t * K + j`; the sort is stable.
///
/// * `x`: f32, f16 or bf16, `[T, H]`.
/// * `expert_idx`: i32, `[T, K]`, values from 0 to below 2^24; below the number of experts where there is a capacity or
///   anything is counted. CANN does not check them.
/// * `expanded_x`: out, dtype of x, `[R, H]`: the first R sorted rows, at most all; with a capacity
///   `[experts, capacity, H]`, rows that stay empty being 0.
/// * `row_idx`: out, i32, `[T * K]`: each slot's row, -1 for dropped ones.
///
/// Without tokens nothing is called but to write 0 into the counts.
///
/// # Errors
/// [`Error::Shape`] for ends of rows with a capacity, which CANN does not write; [`Error::Rule`] and those common to
/// all operators, see [`cast`](super::cast).
pub fn moe_init_routing_v2(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    expert_idx: &TensorView<'_>,
    params: InitRoutingV2,
    expanded_x: &mut TensorViewMut<'_>,
    row_idx: &mut TensorViewMut<'_>,
    counts: RoutedCounts<'_, '_>,
) -> Result<()> {
    let (counts, flag) = counts.flagged(params)?;
    if expert_idx.is_empty() && expanded_x.is_empty() && row_idx.is_empty() {
        return counts.map_or(Ok(()), |counts| counts.zero(sequence));
    }
    let counts = counts.as_deref();
    let [rows, capacity, experts, mode, flag, before] = params.values(expanded_x.dim(0), flag, counts.is_some());
    let [counted, before_capacity] = params.counted(counts);
    let args = [
        input(x),
        input(expert_idx),
        rows,
        capacity,
        experts,
        mode,
        flag,
        before,
        output(expanded_x),
        output(row_idx),
        counted,
        before_capacity,
    ];
    let writes = [expanded_x.0, row_idx.0].into_iter().chain(counts.map(|counts| counts.0));
    launch(sequence, &[OperatorId::MoeInitRoutingV2], &args, [x.0, expert_idx.0].into_iter(), writes)?;
    Ok(())
}

impl InitRoutingV2 {
    /// activeNum, expertCapacity, expertNum, dropPadMode, expertTokensCountOrCumsumFlag and
    /// expertTokensBeforeCapacityFlag.
    fn values(self, rows: i64, flag: i64, counted: bool) -> [Arg<'static>; 6] {
        let int = |value: usize| Arg::Int(i64::try_from(value).unwrap_or(i64::MAX));
        let padded = self.capacity.is_some();
        [
            Arg::Int(rows),
            int(self.capacity.unwrap_or(0)),
            int(self.experts),
            Arg::Int(i64::from(padded)),
            Arg::Int(if padded { 0 } else { flag }),
            Arg::Bool(padded && counted),
        ]
    }

    /// expertTokensCountOrCumsum and expertTokensBeforeCapacity.
    fn counted<'c>(self, counts: Option<&'c TensorViewMut<'_>>) -> [Arg<'c>; 2] {
        [self.capacity.is_none(), self.capacity.is_some()]
            .map(|wanted| counts.filter(|_| wanted).map_or(Arg::Tensor(None), output))
    }
}

impl<'o, 'a> RoutedCounts<'o, 'a> {
    /// The output and expertTokensCountOrCumsumFlag.
    fn flagged(self, params: InitRoutingV2) -> Result<(Option<&'o mut TensorViewMut<'a>>, i64)> {
        match self {
            RoutedCounts::Nothing => Ok((None, 0)),
            RoutedCounts::Cumsum(_) if params.capacity.is_some() => {
                Err(Error::shape("counts", "ends of rows", "slots of each expert where there is a capacity"))
            }
            RoutedCounts::Cumsum(counts) => Ok((Some(counts), 1)),
            RoutedCounts::Count(counts) => Ok((Some(counts), 2)),
        }
    }
}

/// How [`moe_init_routing_quant_v2`] quantises rows (`quantMode`). Ties go to even.
pub enum QuantisedRows<'r, 'o, 'a> {
    /// `round(x * scale + offset)` as i8.
    Static {
        /// f32, `[1]`.
        scale: &'r TensorView<'a>,
        /// f32, `[1]`.
        offset: &'r TensorView<'a>,
    },
    /// Each row v, times its expert's factors, `round(v / d)`, d being its greatest magnitude over 127 (i8), by way of fp16,
    /// or 7 (i4).
    Dynamic {
        /// f32, `[experts, H]`, or `[1, H]` for all.
        smooth: Option<&'r TensorView<'a>>,
        /// Out, f32, one value per row of `expanded_x`: d.
        scale: &'o mut TensorViewMut<'a>,
    },
}

/// What [`moe_init_routing_quant_v2`] writes besides scales, as [`moe_init_routing_v2`] says.
pub struct QuantisedOutputs<'o, 'a> {
    /// i8, without a capacity and each row by its own scale also i4, H even.
    pub expanded_x: &'o mut TensorViewMut<'a>,
    /// i32, `[T * K]`: each slot's row.
    pub row_idx: &'o mut TensorViewMut<'a>,
    /// Counts.
    pub counts: RoutedCounts<'o, 'a>,
}

/// [`moe_init_routing_v2`] with the rows quantised (`aclnnMoeInitRoutingQuantV2`).
///
/// * `x`: f32, f16 or bf16, `[T, H]`. * `expert_idx`: i32, `[T, K]`; below the number of experts also where each expert has
///   factors of its own.
///
/// # Errors
/// As there.
pub fn moe_init_routing_quant_v2(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    expert_idx: &TensorView<'_>,
    rows: QuantisedRows<'_, '_, '_>,
    params: InitRoutingV2,
    outputs: QuantisedOutputs<'_, '_>,
) -> Result<()> {
    let QuantisedOutputs { expanded_x, row_idx, counts } = outputs;
    let (counts, flag) = counts.flagged(params)?;
    if expert_idx.is_empty() && expanded_x.is_empty() && row_idx.is_empty() {
        return counts.map_or(Ok(()), |counts| counts.zero(sequence));
    }
    let (mode, scale, offset, row_scale) = match rows {
        QuantisedRows::Static { scale, offset } => (0, Some(scale), Some(offset), None),
        QuantisedRows::Dynamic { smooth, scale } => (1, smooth, None, Some(&*scale)),
    };
    let counts = counts.as_deref();
    let [rows, capacity, experts, pad_mode, flag, before] = params.values(expanded_x.dim(0), flag, counts.is_some());
    let [counted, before_capacity] = params.counted(counts);
    let args = [
        input(x),
        input(expert_idx),
        optional(scale),
        optional(offset),
        rows,
        capacity,
        experts,
        pad_mode,
        flag,
        before,
        Arg::Int(mode),
        output(expanded_x),
        output(row_idx),
        counted,
        before_capacity,
        optional_output(row_scale),
    ];
    let reads = [Some(x), Some(expert_idx), scale, offset].into_iter().flatten().map(|tensor| tensor.0);
    let writes = [expanded_x.0, row_idx.0].into_iter();
    let writes = writes.chain(counts.map(|counts| counts.0)).chain(row_scale.map(|scale| scale.0));
    launch(sequence, &[OperatorId::MoeInitRoutingQuantV2], &args, reads, writes)?;
    Ok(())
}
