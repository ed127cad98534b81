//! The experts as operator calls: expand, the grouped GEMMs, the shared expert, combine. The same code runs and plans.
//!
//! Rows that no expert with weights serves - those of experts without weights, and of padding - get no row in the
//! experts' GEMMs: their ids lie behind the range that is expanded, and their weights are 0 when rows are combined.

use super::activation::activate;
use super::forward::mark;
use super::probe::Probe;
use super::project::{self, Rows};
use super::route::size;
use super::weights::WeightViews;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::{
    self, CubeMath, DropPadMode, ExpandedRows, FinalizeRouting, InitRouting, InitRoutingOutputs, ScatterReduce,
};
use crate::scratch::Sequence;
use crate::spec::{MoeSpec, Part};
use crate::tensor::{TensorView, TensorViewMut};

/// What the experts work on.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    /// `[T, H]`.
    pub(super) x: TensorView<'a>,
    /// i32 `[T, k]`.
    pub(super) ids: TensorView<'a>,
    /// `[T, k]`.
    pub(super) chosen: TensorView<'a>,
    /// What the shared expert gave, `[T, H]`, where it was run before.
    pub(super) shared: Option<TensorView<'a>>,
    /// Whether ids may name none of the experts: be the number of those that the router knows.
    pub(super) padded: bool,
}

/// The shared expert `[T, H]`.
pub(super) fn shared(
    sequence: &Sequence<'_>,
    spec: &MoeSpec,
    weights: &WeightViews<'_>,
    x: TensorView<'_>,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    let Some(shared) = spec.shared() else { return Ok(()) };
    sequence.purpose("shared expert");
    let (tokens, inner, dtype) = (size(x.dim(0)), shared.intermediate, x.dtype());
    let mut first = sequence.tensor(dtype, &[tokens, shared.activation.width(inner)])?;
    project::dense(sequence, weights, Part::SharedW13, x, &mut first)?;
    let mut active = sequence.tensor(dtype, &[tokens, inner])?;
    activate(sequence, &shared.activation, first.as_view(), None, &mut active)?;
    if !shared.gate {
        return project::dense(sequence, weights, Part::SharedW2, active.as_view(), out);
    }
    let mut ungated = sequence.tensor(dtype, &[tokens, size(out.dim(1))])?;
    project::dense(sequence, weights, Part::SharedW2, active.as_view(), &mut ungated)?;
    let mut logit = sequence.tensor(dtype, &[tokens, 1])?;
    project::dense(sequence, weights, Part::SharedGate, x, &mut logit)?;
    let mut gate = sequence.tensor(dtype, &[tokens, 1])?;
    op::sigmoid(sequence, &logit.as_view(), &mut gate)?;
    op::mul(sequence, &ungated.as_view(), &gate.as_view(), out)
}

/// Expand, the experts, the shared expert where it was not run before, combine.
pub(super) fn experts(
    sequence: &Sequence<'_>,
    spec: &MoeSpec,
    weights: &WeightViews<'_>,
    operands: &Operands<'_>,
    output: &mut TensorViewMut<'_>,
    counts: &mut TensorViewMut<'_>,
    probe: &mut Option<&mut Probe>,
) -> Result<()> {
    let Operands { x, ids, chosen, .. } = *operands;
    let (tokens, top_k, width) = (size(x.dim(0)), size(ids.dim(1)), spec.experts().width());
    let dtype = x.dtype();

    let mut own_shared;
    let shared_out = match (operands.shared, spec.shared()) {
        (None, Some(_)) => {
            own_shared = sequence.tensor(dtype, &[tokens, spec.experts().hidden])?;
            shared(sequence, spec, weights, x, &mut own_shared)?;
            mark(sequence, probe, "shared expert")?;
            Some(own_shared.as_view())
        }
        (given, _) => given,
    };

    let mut latent;
    let inner_x = match weights.get(Part::LatentIn) {
        None => x,
        Some(weight) => {
            sequence.purpose("latent projection");
            latent = sequence.tensor(dtype, &[tokens, width])?;
            op::mm(sequence, &x, &weight.transpose()?, CubeMath::KeepDType, &mut latent)?;
            if let Some(eps) = spec.experts().latent_norm {
                latent = normed(sequence, latent.as_view(), weights.require(Part::LatentNorm)?, eps)?;
            }
            latent.as_view()
        }
    };

    let count = tokens * top_k;
    let mut expanded;
    let mut scales = None;
    if weights.plan().format.quantises_activations() {
        let (codes, of_rows) = project::int8(sequence, count, width)?;
        (expanded, scales) = (codes, Some(of_rows));
    } else {
        expanded = sequence.tensor(dtype, &[count, width])?;
    }
    let mut row_idx = sequence.tensor(DType::I32, &[tokens * top_k])?;
    {
        let weighted;
        let (rows, ids) = if spec.experts().weight_on_input {
            weighted = weighted_input(sequence, inner_x, chosen)?;
            (weighted.as_view(), ids.reshape(&[tokens * top_k, 1])?)
        } else {
            (inner_x, ids)
        };
        sequence.purpose("expand");
        let known = spec.experts().routed() + usize::from(operands.padded);
        let routing = InitRouting { range: (0, spec.experts().num), ..InitRouting::dropless(known) };
        let (mut expanded, mut row_idx, mut counts) = (expanded.reborrow(), row_idx.reborrow(), counts.reborrow());
        let mut scales = scales.as_mut().map(TensorViewMut::reborrow);
        let becomes = match scales {
            Some(_) => ExpandedRows::Dynamic { smooth: None },
            None => ExpandedRows::Copied(None),
        };
        let outputs = InitRoutingOutputs {
            expanded_x: &mut expanded,
            row_idx: &mut row_idx,
            counts: &mut counts,
            scale: scales.as_mut(),
        };
        op::moe_init_routing_v3(sequence, &rows, &ids, becomes, &routing, outputs)?;
    }
    mark(sequence, probe, "expand")?;

    let expanded = match scales {
        // What the experts give takes the place of what they are given, where that is of the same type.
        None => (expanded, None),
        Some(scales) => (sequence.tensor(dtype, &[count, width])?, Some(Rows::quantised(expanded, scales))),
    };
    let given = mlp(sequence, spec, weights, expanded, counts.as_view(), probe)?;
    let rows = Given { rows: given.as_view(), row_idx: row_idx.as_view() };
    combine(sequence, spec, weights, operands, &rows, shared_out, output)?;
    mark(sequence, probe, "combine")
}

/// Each choice's copy of its token, times its weight: `[T * k, L]`. The weight is rounded to the layer's type first.
fn weighted_input<'s>(
    sequence: &'s Sequence<'_>,
    x: TensorView<'_>,
    chosen: TensorView<'_>,
) -> Result<TensorViewMut<'s>> {
    sequence.purpose("weights on the input");
    let (tokens, top_k, width) = (size(x.dim(0)), size(chosen.dim(1)), size(x.dim(1)));
    let mut narrow;
    let chosen = if chosen.dtype() == x.dtype() {
        chosen
    } else {
        narrow = sequence.tensor(x.dtype(), &[tokens, top_k])?;
        op::cast(sequence, &chosen, &mut narrow)?;
        narrow.as_view()
    };
    let (x, chosen) = (x.reshape(&[tokens, 1, width])?, chosen.reshape(&[tokens, top_k, 1])?);
    let mut weighted = sequence.tensor(x.dtype(), &[tokens, top_k, width])?;
    op::mul(sequence, &x, &chosen, &mut weighted)?;
    weighted.reshape(&[tokens * top_k, width])
}

/// `x / rms(x) * gamma` over the last dimension of a matrix.
fn normed<'s>(
    sequence: &'s Sequence<'_>,
    x: TensorView<'_>,
    gamma: TensorView<'_>,
    eps: f64,
) -> Result<TensorViewMut<'s>> {
    let (rows, width) = (size(x.dim(0)), size(x.dim(1)));
    let (mut y, mut factors) = (sequence.tensor(x.dtype(), &[rows, width])?, sequence.tensor(DType::F32, &[rows, 1])?);
    op::rms_norm(sequence, &x, &gamma, eps, &mut y, &mut factors)?;
    Ok(y)
}

/// The experts' projections and activation: what the experts give, in `out`.
///
/// * `rows`: what they are given; `None` where it is in `out`.
fn mlp<'a>(
    sequence: &'a Sequence<'_>,
    spec: &MoeSpec,
    weights: &WeightViews<'_>,
    (mut out, rows): (TensorViewMut<'a>, Option<Rows<'a>>),
    counts: TensorView<'_>,
    probe: &mut Option<&mut Probe>,
) -> Result<TensorViewMut<'a>> {
    let (experts, dtype) = (spec.experts(), out.dtype());
    let (count, inner) = (size(out.dim(0)), experts.intermediate);
    sequence.purpose("gate and up");
    let active = match rows {
        Some(rows) if weights.plan().fused.is_some() => {
            let (active, _) = project::fused(sequence, weights, &rows, &counts)?;
            mark(sequence, probe, "gate, up and activation")?;
            active
        }
        rows => {
            let mut first = sequence.tensor(dtype, &[count, experts.activation.width(inner)])?;
            let given = rows.unwrap_or(Rows::float(out.as_view()));
            project::grouped(sequence, weights, [Part::W13, Part::W13Bias], &given, &counts, &mut first)?;
            mark(sequence, probe, "gate and up")?;

            sequence.purpose("activation");
            let mut active = sequence.tensor(dtype, &[count, inner])?;
            activate(sequence, &experts.activation, first.as_view(), Some(&counts), &mut active)?;
            let active = Rows::new(sequence, weights, active.into_view())?;
            mark(sequence, probe, "activation")?;
            active
        }
    };

    sequence.purpose("down");
    project::grouped(sequence, weights, [Part::W2, Part::W2Bias], &active, &counts, &mut out)?;
    if let Some(eps) = experts.row_norm {
        sequence.purpose("norm of the experts' outputs");
        let width = experts.width();
        let (mut scaled, mut factors) =
            (sequence.tensor(dtype, &[count, width])?, sequence.tensor(DType::F32, &[count, 1])?);
        op::mul(sequence, &out.as_view(), &weights.require(Part::RowNorm)?, &mut scaled)?;
        let ones = all_ones(sequence, dtype, &[width])?;
        op::rms_norm(sequence, &scaled.as_view(), &ones.as_view(), eps, &mut out, &mut factors)?;
    }
    mark(sequence, probe, "down")?;
    Ok(out)
}

/// What the experts gave, and where each choice's row is.
struct Given<'a> {
    /// `[T * k, L]`.
    rows: TensorView<'a>,
    /// i32 `[T * k]`, -1 for a choice without a row.
    row_idx: TensorView<'a>,
}

/// The last steps write into the output, those before them into scratch.
struct Steps<'a, 's> {
    sequence: &'a Sequence<'s>,
    output: Option<TensorViewMut<'a>>,
    left: usize,
}

impl<'a> Steps<'a, '_> {
    /// Where the next step writes: the output for the last of them.
    fn target(&mut self, dtype: DType, shape: &[usize]) -> Result<TensorViewMut<'a>> {
        self.left = self.left.saturating_sub(1);
        match self.output.take_if(|_| self.left == 0) {
            Some(output) => Ok(output),
            None => self.sequence.tensor(dtype, shape),
        }
    }

    /// The sum with something more of its shape.
    fn plus(&mut self, sum: TensorViewMut<'a>, more: TensorView<'_>) -> Result<TensorViewMut<'a>> {
        let mut added = self.target(sum.dtype(), &[size(sum.dim(0)), size(sum.dim(1))])?;
        op::add(self.sequence, &sum.as_view(), &more, 1.0, &mut added)?;
        Ok(added)
    }

    /// The sum times a number.
    fn times(&mut self, sum: TensorViewMut<'a>, factor: f64) -> Result<TensorViewMut<'a>> {
        let mut scaled = self.target(sum.dtype(), &[size(sum.dim(0)), size(sum.dim(1))])?;
        op::muls(self.sequence, &sum.as_view(), factor, &mut scaled)?;
        Ok(scaled)
    }
}

/// The weighted sum of each token's rows, with all that is added to it.
fn combine(
    sequence: &Sequence<'_>,
    spec: &MoeSpec,
    weights: &WeightViews<'_>,
    operands: &Operands<'_>,
    rows: &Given<'_>,
    shared: Option<TensorView<'_>>,
    output: &mut TensorViewMut<'_>,
) -> Result<()> {
    sequence.purpose("combine");
    let (experts, scale) = (spec.experts(), spec.router().output_scale);
    let Operands { x, ids, chosen, padded, .. } = *operands;
    let (tokens, top_k) = (size(ids.dim(0)), size(ids.dim(1)));
    let (dtype, width) = (x.dtype(), experts.width());
    let without_rows = padded || experts.routed() > experts.num;
    let latent = weights.get(Part::LatentOut);

    let ones;
    let probs = if experts.weight_on_input {
        ones = all_ones(sequence, chosen.dtype(), &[tokens, top_k])?;
        ones.as_view()
    } else {
        chosen
    };
    let mean = shared.is_some() && spec.shared().is_some_and(|shared| shared.mean);
    // The fp16 kernels of FinalizeRoutingV2 round after every step; it takes no slot without a row.
    let plain = !without_rows && latent.is_none() && scale == 1.0 && !mean && experts.output_norm.is_none();
    if plain && dtype != DType::F16 {
        let combine = FinalizeRouting {
            expanded_x: rows.rows,
            row_idx: rows.row_idx,
            x1: shared,
            x2: None,
            bias: None,
            scales: Some(probs),
            expert_idx: None,
            mode: DropPadMode::DroplessByRow,
        };
        return op::moe_finalize_routing_v2(sequence, &combine, output);
    }

    let norm = experts.output_norm;
    let before = [true, latent.is_some(), experts.copy > 0, experts.constant > 0, scale != 1.0];
    let steps = before.into_iter().chain([shared.is_some(), mean, norm.is_some()]);
    let left = steps.filter(|step| *step).count();
    let mut steps = Steps { sequence, output: Some(output.reborrow()), left };
    let mut sum = steps.target(dtype, &[tokens, width])?;
    if without_rows {
        // Choices without a row: weight 0, so that theirs is skipped whatever it holds, and no negative index.
        let masked = masked_from(sequence, probs, ids, experts.num)?;
        let mut row_idx = sequence.tensor(DType::I32, &[tokens * top_k])?;
        op::abs(sequence, &rows.row_idx, &mut row_idx)?;
        let (probs, row_idx) = (masked.as_view(), row_idx.as_view());
        op::moe_token_unpermute(sequence, &rows.rows, &row_idx, Some(&probs), &mut sum)?;
    } else {
        op::moe_token_unpermute(sequence, &rows.rows, &rows.row_idx, Some(&probs), &mut sum)?;
    }
    if let Some(weight) = latent {
        let mut wide = steps.target(dtype, &[tokens, experts.hidden])?;
        op::mm(sequence, &sum.as_view(), &weight.transpose()?, CubeMath::KeepDType, &mut wide)?;
        sum = wide;
    }
    let shape = [tokens, experts.hidden];
    if experts.copy > 0 {
        sum = steps.plus(sum, copied(sequence, spec, operands)?.as_view())?;
    }
    if experts.constant > 0 {
        sum = steps.plus(sum, constants(sequence, spec, weights, operands)?.as_view())?;
    }
    if scale != 1.0 {
        sum = steps.times(sum, scale)?;
    }
    if let Some(shared) = shared {
        sum = steps.plus(sum, shared)?;
    }
    if mean {
        sum = steps.times(sum, 0.5)?;
    }
    if let Some(eps) = norm {
        let gamma = weights.require(Part::OutputNorm)?;
        let (mut normed, mut factors) = (steps.target(dtype, &shape)?, sequence.tensor(DType::F32, &[tokens, 1])?);
        op::rms_norm(sequence, &sum.as_view(), &gamma, eps, &mut normed, &mut factors)?;
    }
    Ok(())
}

/// What copy experts give: each token times the sum of the weights that chose one, `[T, H]`.
fn copied<'s>(sequence: &'s Sequence<'_>, spec: &MoeSpec, operands: &Operands<'_>) -> Result<TensorViewMut<'s>> {
    let Operands { x, ids, chosen, .. } = *operands;
    let (experts, tokens, dtype) = (spec.experts(), size(ids.dim(0)), chosen.dtype());
    let shape = [tokens, size(ids.dim(1))];
    let mut weights = sequence.tensor(dtype, &shape)?;
    op::copy(sequence, &chosen, &mut weights)?;
    let mut others = sequence.tensor(DType::Bool, &shape)?;
    op::lt_scalar(sequence, &ids, experts.first_copy() as f64, &mut others)?;
    op::masked_fill(sequence, &mut weights, &others.as_view(), 0.0)?;
    if experts.constant > 0 {
        op::ge_scalar(sequence, &ids, experts.first_constant() as f64, &mut others)?;
        op::masked_fill(sequence, &mut weights, &others.as_view(), 0.0)?;
    }
    let mut sum = sequence.tensor(dtype, &[tokens, 1])?;
    op::reduce_sum(sequence, &weights.as_view(), &[-1], true, &mut sum)?;
    let mut copies = sequence.tensor(x.dtype(), &[tokens, experts.hidden])?;
    op::mul(sequence, &x, &sum.as_view(), &mut copies)?;
    Ok(copies)
}

/// What constant experts give, fp32 `[T, H]`: each token times the weighted sum of their `alpha1`, plus the weighted sum of
/// their `alpha2 * v`. In fp32: the sum with the other experts is rounded once.
fn constants<'s>(
    sequence: &'s Sequence<'_>,
    spec: &MoeSpec,
    weights: &WeightViews<'_>,
    operands: &Operands<'_>,
) -> Result<TensorViewMut<'s>> {
    let Operands { x, ids, chosen, .. } = *operands;
    let (experts, tokens, top_k) = (spec.experts(), size(ids.dim(0)), size(ids.dim(1)));
    let (count, hidden) = (experts.constant, experts.hidden);
    // The weight of each constant expert, `[T, C]`; one more column takes all other choices.
    let mut columns = sequence.tensor(DType::I32, &[tokens, top_k])?;
    op::adds(sequence, &ids, -(experts.first_constant() as f64), &mut columns)?;
    let mut others = sequence.tensor(DType::Bool, &[tokens, top_k])?;
    op::lt_scalar(sequence, &columns.as_view(), 0.0, &mut others)?;
    op::masked_fill(sequence, &mut columns, &others.as_view(), count as f64)?;
    let mut wide = sequence.tensor(DType::F32, &[tokens, top_k])?;
    op::cast(sequence, &chosen, &mut wide)?;
    let mut none = sequence.tensor(DType::F32, &[tokens, count + 1])?;
    op::zero_fill(sequence, &mut none)?;
    let mut shares = sequence.tensor(DType::F32, &[tokens, count + 1])?;
    let (columns, wide) = (columns.as_view(), wide.as_view());
    op::scatter(sequence, &none.as_view(), 1, &columns, &wide, ScatterReduce::Add, &mut shares)?;
    let shares = shares.as_view().narrow(1, 0..count)?;

    let [alpha1, alpha2, v] = [Part::ConstantAlpha1, Part::ConstantAlpha2, Part::ConstantV].map(|p| weights.require(p));
    let mut offsets = sequence.tensor(DType::F32, &[count, hidden])?;
    op::mul(sequence, &alpha2?, &v?, &mut offsets)?;
    let shape = [tokens, hidden];
    let (mut factors, mut added) = (sequence.tensor(DType::F32, &shape)?, sequence.tensor(DType::F32, &shape)?);
    op::mm(sequence, &shares, &alpha1?, CubeMath::KeepDType, &mut factors)?;
    op::mm(sequence, &shares, &offsets.as_view(), CubeMath::KeepDType, &mut added)?;
    let (mut scaled, mut given) = (sequence.tensor(DType::F32, &shape)?, sequence.tensor(DType::F32, &shape)?);
    op::mul(sequence, &x, &factors.as_view(), &mut scaled)?;
    op::add(sequence, &scaled.as_view(), &added.as_view(), 1.0, &mut given)?;
    Ok(given)
}

/// The weights, 0 where the id is `first` or above.
fn masked_from<'s>(
    sequence: &'s Sequence<'_>,
    weights: TensorView<'_>,
    ids: TensorView<'_>,
    first: usize,
) -> Result<TensorViewMut<'s>> {
    let shape = [size(ids.dim(0)), size(ids.dim(1))];
    let mut masked = sequence.tensor(weights.dtype(), &shape)?;
    op::copy(sequence, &weights, &mut masked)?;
    let mut above = sequence.tensor(DType::Bool, &shape)?;
    op::ge_scalar(sequence, &ids, first as f64, &mut above)?;
    op::masked_fill(sequence, &mut masked, &above.as_view(), 0.0)?;
    Ok(masked)
}

/// A tensor of ones.
pub(super) fn all_ones<'s>(sequence: &'s Sequence<'_>, dtype: DType, shape: &[usize]) -> Result<TensorViewMut<'s>> {
    let (mut zeros, mut ones) = (sequence.tensor(dtype, shape)?, sequence.tensor(dtype, shape)?);
    op::zero_fill(sequence, &mut zeros)?;
    op::adds(sequence, &zeros.as_view(), 1.0, &mut ones)?;
    Ok(ones)
}

/// Gives the rows from `valid` on no expert: their ids become `none`, their weights 0.
///
/// * `valid`: i32 `[1]`.
pub(super) fn drop_padding(
    sequence: &Sequence<'_>,
    valid: TensorView<'_>,
    none: usize,
    ids: &mut TensorViewMut<'_>,
    chosen: &mut TensorViewMut<'_>,
) -> Result<()> {
    if valid.dtype() != DType::I32 || *valid.shape() != [1] {
        return Err(Error::shape("valid tokens", valid.desc(), "i32 of shape [1]"));
    }
    sequence.purpose("padding");
    let tokens = size(ids.dim(0));
    let (mut rows, mut behind) = (sequence.tensor(DType::I32, &[tokens])?, sequence.tensor(DType::I32, &[tokens])?);
    op::arange(sequence, 0.0, tokens as f64, 1.0, &mut rows)?;
    op::sub(sequence, &rows.as_view(), &valid, 1.0, &mut behind)?;
    let mut mask = sequence.tensor(DType::Bool, &[tokens])?;
    op::ge_scalar(sequence, &behind.as_view(), 0.0, &mut mask)?;
    let mask = mask.as_view().reshape(&[tokens, 1])?;
    op::masked_fill(sequence, ids, &mask, none as f64)?;
    op::masked_fill(sequence, chosen, &mask, 0.0)
}
