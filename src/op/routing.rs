//! Routing: which experts a token goes to, and its rows in the order of the experts.

use ascend_sys::OperatorId;
use ascend_sys::ops::Arg;

use super::launch::{input, launch, optional, output};
use crate::dtype::DType;
use crate::error::Result;
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// How a router turns logits into scores (`normType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Normalisation {
    /// Softmax over the experts.
    Softmax = 0,
    /// Sigmoid; weights are always divided by their sum then.
    Sigmoid = 1,
    /// The root of softplus, infinite for logits above 88; weights are always divided by their sum then. Only
    /// [`moe_gating_top_k_v2`] has it on Atlas A3, without groups.
    SqrtSoftplus = 2,
}

/// What ranks groups of experts (`groupSelectMode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum GroupScore {
    /// The best score of the group.
    Max = 0,
    /// The sum of its two best scores.
    TopTwo = 1,
}

/// Parameters of [`moe_gating_top_k`] and [`moe_gating_top_k_v2`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatingTopK {
    /// Experts per token, at least 1.
    pub k: usize,
    /// Groups that the experts form, in order; 1 for none.
    pub groups: usize,
    /// Groups whose experts may be chosen.
    pub kept_groups: usize,
    /// What ranks groups.
    pub group_score: GroupScore,
    /// Whether softmax weights are divided by their sum (from CANN 9.0.0 on).
    pub renormalise: bool,
    /// How logits become scores.
    pub normalisation: Normalisation,
    /// Factor on the weights.
    pub scale: f64,
    /// Added to the sum that weights are divided by.
    pub eps: f64,
}

/// Scores, choice and weights of a router in one operator (`aclnnMoeGatingTopK`). Computed in f32; ties go to the lower
/// expert; NaN ranks first.
///
/// * `logits`: f32, f16 or bf16, `[T, E]`.
/// * `bias`: dtype of logits, `[E]`, added to the scores for the choice only.
/// * `weights`: out, dtype of logits, `[T, k]`.
/// * `experts`: out, i32, `[T, k]`, best first.
/// * `scores`: out, f32, `[T, E]`, without the bias. CANN wants it also where nobody does: a temporary one is used then.
///
/// Without tokens nothing is called.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn moe_gating_top_k(
    sequence: &Sequence<'_>,
    logits: &TensorView<'_>,
    bias: Option<&TensorView<'_>>,
    params: &GatingTopK,
    weights: &mut TensorViewMut<'_>,
    experts: &mut TensorViewMut<'_>,
    scores: Option<&mut TensorViewMut<'_>>,
) -> Result<()> {
    gate(sequence, &[OperatorId::MoeGatingTopK], logits, (bias, None), params, weights, experts, scores)
}

/// Where [`moe_gating_top_k_v2`] takes the experts of a token from.
#[derive(Clone, Copy)]
pub enum ExpertChoice<'c, 'a> {
    /// From the best scores.
    Best {
        /// Dtype of logits, `[E]`, added to the scores for the choice only.
        bias: Option<&'c TensorView<'a>>,
    },
    /// From a table, in its order. There are no groups then, and k is at most 64.
    Table {
        /// i32 or i64, `[T]`: rows of the table.
        token_ids: &'c TensorView<'a>,
        /// i32 or i64, `[token ids, k]`: experts below E.
        experts: &'c TensorView<'a>,
    },
}

/// Scores, choice and weights of a router in one operator, the choice that of the scores or of a table of tokens
/// (`aclnnMoeGatingTopKV2`). It came after CANN 9.1.0: no release has it yet.
///
/// * `logits`, `weights`, `experts`, `scores`: as for [`moe_gating_top_k`].
///
/// Without tokens nothing is called.
///
/// # Errors
/// [`Error::MissingOperator`](crate::Error::MissingOperator) up to CANN 9.1.0; [`Error::Rule`](crate::Error::Rule) and
/// those common to all operators, see [`cast`](super::cast).
pub fn moe_gating_top_k_v2(
    sequence: &Sequence<'_>,
    logits: &TensorView<'_>,
    choice: ExpertChoice<'_, '_>,
    params: &GatingTopK,
    weights: &mut TensorViewMut<'_>,
    experts: &mut TensorViewMut<'_>,
    scores: Option<&mut TensorViewMut<'_>>,
) -> Result<()> {
    let choice = match choice {
        ExpertChoice::Best { bias } => (bias, None),
        ExpertChoice::Table { token_ids, experts } => (None, Some([token_ids, experts])),
    };
    gate(sequence, &[OperatorId::MoeGatingTopKV2], logits, choice, params, weights, experts, scores)
}

/// Calls one of the versions of the router; the first one has no table.
#[allow(clippy::too_many_arguments, reason = "what both versions take, and which one it is")]
fn gate(
    sequence: &Sequence<'_>,
    operator: &'static [OperatorId],
    logits: &TensorView<'_>,
    (bias, table): (Option<&TensorView<'_>>, Option<[&TensorView<'_>; 2]>),
    params: &GatingTopK,
    weights: &mut TensorViewMut<'_>,
    experts: &mut TensorViewMut<'_>,
    scores: Option<&mut TensorViewMut<'_>>,
) -> Result<()> {
    if logits.is_empty() && weights.is_empty() && experts.is_empty() {
        return Ok(());
    }
    let wants_scores = scores.is_some();
    let temporary;
    let scores = match scores {
        Some(scores) => &*scores,
        None => {
            temporary = sequence.tensor(DType::F32, &sizes(logits))?;
            &temporary
        }
    };
    let [token_ids, table_rows] = table.map_or([None; 2], |table| table.map(Some));
    let mut args = [
        input(logits),
        optional(bias),
        optional(token_ids),
        optional(table_rows),
        Arg::Int(int(params.k)),
        Arg::Int(int(params.kept_groups)),
        Arg::Int(int(params.groups)),
        Arg::Int(params.group_score as i64),
        Arg::Int(i64::from(params.renormalise)),
        Arg::Int(params.normalisation as i64),
        Arg::Bool(wants_scores),
        Arg::Float(params.scale),
        Arg::Float(params.eps),
        output(weights),
        output(experts),
        output(scores),
    ];
    let args = if operator == [OperatorId::MoeGatingTopK] {
        args.copy_within(4.., 2);
        &args[..args.len() - 2]
    } else {
        &args[..]
    };
    let reads = [Some(logits), bias, token_ids, table_rows].into_iter().flatten().map(|tensor| tensor.0);
    launch(sequence, operator, args, reads, [weights.0, experts.0, scores.0].into_iter())?;
    Ok(())
}

/// What [`moe_init_routing_v3`] counts (`expertTokensNumType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum TokenCounts {
    /// Ends of the experts' rows (from CANN 9.0.0 on).
    Cumsum = 0,
    /// Rows of each expert.
    Count = 1,
    /// Pairs of expert and rows, the experts without rows left out at the end.
    KeyValue = 2,
}

/// Which way the row index of [`moe_init_routing_v3`] points (`rowIdxType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum RowIndex {
    /// From slot to row; -1 for slots of experts outside the range.
    Gather = 0,
    /// From row to slot; entries behind the last row are not written.
    Scatter = 1,
}

/// Parameters of [`moe_init_routing_v3`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitRouting {
    /// Experts altogether.
    pub experts: usize,
    /// First and last + 1 of the experts whose rows are wanted.
    pub range: (usize, usize),
    /// Rows per expert where each gets as many, slots beyond dropped (from CANN 9.0.0 on); `None` to keep every slot.
    pub capacity: Option<usize>,
    /// What is counted.
    pub counts: TokenCounts,
    /// Which way the row index points.
    pub row_index: RowIndex,
}

impl InitRouting {
    /// Every slot kept, counts per expert, row index from slot to row.
    pub fn dropless(experts: usize) -> Self {
        Self { experts, range: (0, experts), capacity: None, counts: TokenCounts::Count, row_index: RowIndex::Gather }
    }
}

/// What becomes of the rows on their way to the experts (`quantMode`). Ties go to even.
#[derive(Clone, Copy)]
pub enum ExpandedRows<'r, 'a> {
    /// Copied as they are, each with its token's value: f32, `[T]`.
    Copied(Option<&'r TensorView<'a>>),
    /// `round(x * scale + offset)` as i8 (from CANN 9.0.0 on).
    Static {
        /// f32, `[1]`.
        scale: &'r TensorView<'a>,
        /// f32, `[1]`.
        offset: &'r TensorView<'a>,
    },
    /// Each row v, times its expert's factors, `round(v / d)` as i8, d being its greatest magnitude over 127.
    Dynamic {
        /// f32, `[C, H]` for C experts in the range, or `[1, H]` for all.
        smooth: Option<&'r TensorView<'a>>,
    },
}

/// Outputs of [`moe_init_routing_v3`]. With T tokens of K choices and C experts in the range:
pub struct InitRoutingOutputs<'o, 'a> {
    /// Dtype of x, i8 where it is quantised, `[T * K, H]`, with a capacity `[experts, capacity, H]`. Rows behind the last
    /// one are not written; with a capacity they are 0.
    pub expanded_x: &'o mut TensorViewMut<'a>,
    /// i32, `[T * K]`.
    pub row_idx: &'o mut TensorViewMut<'a>,
    /// i64, `[C]`, for key-value `[experts, 2]`.
    pub counts: &'o mut TensorViewMut<'a>,
    /// f32, one value per row of expanded_x: that of its token, or the d it was quantised by. CANN wants it also where
    /// nobody does: a temporary one is used then.
    pub scale: Option<&'o mut TensorViewMut<'a>>,
}

/// Copies or quantises each token's row once per chosen expert, sorted by expert, and counts (`aclnnMoeInitRoutingV3`). A
/// slot is a token and one of its choices, `t * K + j`; the sort is stable.
///
/// * `x`: f32, f16, bf16 or, to be copied, i8, `[T, H]`.
/// * `expert_idx`: i32, `[T, K]`, values below 2^24.
/// * `rows`: what becomes of the rows.
///
/// Without tokens nothing is called but to write 0 into the counts.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn moe_init_routing_v3(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    expert_idx: &TensorView<'_>,
    rows: ExpandedRows<'_, '_>,
    params: &InitRouting,
    outputs: InitRoutingOutputs<'_, '_>,
) -> Result<()> {
    let InitRoutingOutputs { expanded_x, row_idx, counts, scale: expanded_scale } = outputs;
    if expert_idx.is_empty() && expanded_x.is_empty() && row_idx.is_empty() {
        return counts.zero(sequence);
    }
    let slots = expert_idx.dim(0).saturating_mul(expert_idx.dim(1));
    let temporary;
    let expanded_scale = match expanded_scale {
        Some(expanded_scale) => &*expanded_scale,
        None => {
            let rows = match params.capacity {
                Some(capacity) => params.experts.saturating_mul(capacity),
                None => usize::try_from(slots).unwrap_or(usize::MAX),
            };
            temporary = sequence.tensor(DType::F32, &[rows])?;
            &temporary
        }
    };
    let range = [int(params.range.0), int(params.range.1)];
    let (mode, scale, offset) = match rows {
        ExpandedRows::Copied(scale) => (-1, scale, None),
        ExpandedRows::Static { scale, offset } => (0, Some(scale), Some(offset)),
        ExpandedRows::Dynamic { smooth } => (1, smooth, None),
    };
    let args = [
        input(x),
        input(expert_idx),
        optional(scale),
        optional(offset),
        // The document allows no other number of rows.
        Arg::Int(slots),
        Arg::Int(params.capacity.map_or(0, int)),
        Arg::Int(int(params.experts)),
        Arg::Int(i64::from(params.capacity.is_some())),
        Arg::Int(params.counts as i64),
        Arg::Bool(true),
        Arg::Int(mode),
        Arg::Ints(Some(&range)),
        Arg::Int(params.row_index as i64),
        output(expanded_x),
        output(row_idx),
        output(counts),
        output(expanded_scale),
    ];
    let reads = [Some(x), Some(expert_idx), scale, offset].into_iter().flatten().map(|tensor| tensor.0);
    let writes = [expanded_x.0, row_idx.0, counts.0, expanded_scale.0].into_iter();
    launch(sequence, &[OperatorId::MoeInitRoutingV3], &args, reads, writes)?;
    Ok(())
}

pub(super) fn int(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The shape of a matrix, as sizes.
fn sizes(matrix: &TensorView<'_>) -> [usize; 2] {
    [0, 1].map(|index| usize::try_from(matrix.dim(index)).unwrap_or(0))
}
