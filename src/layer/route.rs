//! The router as operator calls: a norm of its input, logits, scores, choice, weights. The same code runs and plans.
//!
//! Everything stays on the device. What each step rounds is [`RouterSpec`]'s; a step that says nothing is in fp32.

use super::router::{RouterMethod, RouterPlan, fused_top_k};
use super::weights::{WeightShapes, WeightViews};
use super::{ExpertPlan, LayerInput, LayerOptions};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::{self, AddmmFactors, CubeMath, ScatterReduce, SoftmaxOver};
use crate::scratch::{PlannedCall, Sequence};
use crate::spec::{
    Choice, GroupFill, GroupScore, GroupSpec, InputNorm, MoeSpec, Normalise, Part, RouterSpec, Score, Weigh,
};
use crate::tensor::{TensorView, TensorViewMut};

/// Softplus is the identity above this, where the difference is below fp32's resolution (PyTorch's default).
const SOFTPLUS_THRESHOLD: f64 = 20.0;

/// Tokens of the plan that tells a router's operators; any number gives the same.
const PLANNED_TOKENS: usize = 2;

/// The operators that a plan would run.
pub(super) fn planned_calls(
    device: &Device,
    spec: &MoeSpec,
    options: LayerOptions,
    plan: &RouterPlan,
) -> Result<Vec<PlannedCall>> {
    let sequence = device.plan();
    let shapes = WeightShapes::new(spec, options, &ExpertPlan::FLOAT, Part::of_router)?;
    let weights = shapes.planned()?;
    let choices = spec.router().choices();
    let x = TensorView::planned(options.dtype.into(), &[PLANNED_TOKENS, spec.experts().hidden])?;
    let mut ids = TensorViewMut::planned(DType::I32, &[PLANNED_TOKENS, choices])?;
    let mut chosen = TensorViewMut::planned(plan.gate_dtype(), &[PLANNED_TOKENS, choices])?;
    let mut input = LayerInput::from(x);
    if let Choice::Table { .. } = spec.router().choice {
        input.token_ids = Some(TensorView::planned(DType::I32, &[PLANNED_TOKENS])?);
    }
    route(&sequence, spec.router(), plan, &weights, &input, &mut ids, &mut chosen)?;
    Ok(sequence.planned_calls())
}

/// Logits, choice and weights of at least one token.
///
/// * `ids`: out, i32 `[T, k]`; `chosen`: out, [`RouterPlan::gate`] `[T, k]`, in the same order; `k` are all
///   [choices](RouterSpec::choices).
pub(super) fn route(
    sequence: &Sequence<'_>,
    router: &RouterSpec,
    plan: &RouterPlan,
    weights: &WeightViews<'_>,
    input: &LayerInput<'_>,
    ids: &mut TensorViewMut<'_>,
    chosen: &mut TensorViewMut<'_>,
) -> Result<()> {
    let route = Route { sequence, router, plan, tokens: size(input.x.dim(0)), experts: experts(weights)? };
    let normed;
    let x = input.router_input.unwrap_or(input.x);
    let x = match router.input_norm {
        None => x,
        Some(norm) => {
            normed = route.norm(weights, x, norm)?;
            normed.as_view()
        }
    };
    let logits = route.logits(weights, x)?;
    match plan.method {
        RouterMethod::Fused => {
            sequence.purpose("choice and weights");
            let logits = route.cast(logits.as_view(), plan.gate_dtype())?;
            let bias = weights.get(Part::ChoiceBias);
            let logits = logits.view();
            op::moe_gating_top_k(sequence, &logits, bias.as_ref(), &plan.gating, chosen, ids, None)?;
        }
        RouterMethod::FusedSoftmax => {
            sequence.purpose("choice and weights");
            let logits = route.cast(logits.as_view(), plan.gate_dtype())?;
            let (logits, over) = (logits.view(), SoftmaxOver::Chosen);
            op::moe_gating_top_k_softmax_v2(sequence, &logits, None, over, chosen, ids, None)?;
        }
        RouterMethod::FusedSigmoid => {
            sequence.purpose("choice and weights");
            let logits = route.cast(logits.as_view(), plan.gate_dtype())?;
            let mut none;
            let bias = match weights.get(Part::ChoiceBias) {
                Some(bias) => bias,
                None => {
                    none = sequence.tensor(plan.gate_dtype(), &[route.experts])?;
                    op::zero_fill(sequence, &mut none)?;
                    none.as_view()
                }
            };
            op::moe_fused_topk(sequence, &logits.view(), &bias, None, &fused_top_k(router), chosen, ids)?;
        }
        RouterMethod::FusedChoice => {
            sequence.purpose("choice and scores");
            let logits = route.cast(logits.as_view(), DType::F32)?;
            let bias = weights.get(Part::ChoiceBias);
            let mut unused = sequence.tensor(DType::F32, &[route.tokens, router.top_k])?;
            let mut scores = sequence.tensor(DType::F32, &[route.tokens, route.experts])?;
            let (gating, logits) = (plan.gating.choice_only(), logits.view());
            let wanted = Some(&mut scores);
            op::moe_gating_top_k(sequence, &logits, bias.as_ref(), &gating, &mut unused, ids, wanted)?;
            route.weigh(weights, scores.as_view(), ids.as_view(), chosen)?;
        }
        RouterMethod::Composed => {
            let scores = route.scores(logits)?;
            let wide = route.cast(scores.as_view(), DType::F32)?;
            route.choose(weights, input, wide.view(), ids)?;
            route.weigh(weights, scores.as_view(), ids.as_view(), chosen)?;
        }
    }
    if let Some(rounded) = plan.round_weights {
        sequence.purpose("rounding of the weights");
        let mut narrow = sequence.tensor(rounded.into(), &[route.tokens, router.choices()])?;
        op::cast(sequence, &chosen.as_view(), &mut narrow)?;
        op::cast(sequence, &narrow.as_view(), chosen)?;
    }
    Ok(())
}

/// Experts the router knows.
fn experts(weights: &WeightViews<'_>) -> Result<usize> {
    Ok(size(weights.require(Part::Router)?.dim(0)))
}

/// A tensor that was there, or one that was made from it.
enum Maybe<'s> {
    Same(TensorView<'s>),
    Made(TensorViewMut<'s>),
}

impl Maybe<'_> {
    fn view(&self) -> TensorView<'_> {
        match self {
            Self::Same(view) => *view,
            Self::Made(tensor) => tensor.as_view(),
        }
    }
}

/// What the steps of one pass share.
struct Route<'a, 's> {
    sequence: &'a Sequence<'s>,
    router: &'a RouterSpec,
    plan: &'a RouterPlan,
    tokens: usize,
    experts: usize,
}

impl<'a> Route<'a, '_> {
    fn tensor(&self, dtype: DType, shape: &[usize]) -> Result<TensorViewMut<'a>> {
        self.sequence.tensor(dtype, shape)
    }

    /// The same values in a type.
    fn cast<'t>(&self, x: TensorView<'t>, dtype: DType) -> Result<Maybe<'t>>
    where
        'a: 't,
    {
        if x.dtype() == dtype {
            return Ok(Maybe::Same(x));
        }
        let (rows, cols) = (size(x.dim(0)), size(x.dim(1)));
        let mut wide = self.tensor(dtype, &[rows, cols])?;
        op::cast(self.sequence, &x, &mut wide)?;
        Ok(Maybe::Made(wide))
    }

    /// The norm of the router's input, `[T, H]` in its type.
    fn norm(&self, weights: &WeightViews<'_>, x: TensorView<'_>, norm: InputNorm) -> Result<TensorViewMut<'a>> {
        self.sequence.purpose("norm of the input");
        let (gamma, shape) = (weights.require(Part::RouterNorm)?, [self.tokens, size(x.dim(1))]);
        let (mut normed, mut factors) = (self.tensor(x.dtype(), &shape)?, self.tensor(DType::F32, &[self.tokens, 1])?);
        op::rms_norm(self.sequence, &x, &gamma, norm.eps, &mut normed, &mut factors)?;
        if norm.scale == 1.0 {
            return Ok(normed);
        }
        let mut scaled = self.tensor(x.dtype(), &shape)?;
        op::muls(self.sequence, &normed.as_view(), norm.scale, &mut scaled)?;
        Ok(scaled)
    }

    /// `x . W^T`, plus a bias where there is one, `[T, R]` in the type of the logits.
    fn logits(&self, weights: &WeightViews<'_>, x: TensorView<'_>) -> Result<TensorViewMut<'a>> {
        self.sequence.purpose("logits");
        let dtype = DType::from(self.plan.logits);
        let x = self.cast(x, dtype)?;
        let weight = weights.require(Part::Router)?.transpose()?;
        let mut logits = self.tensor(dtype, &[self.tokens, self.experts])?;
        match weights.get(Part::LogitBias) {
            None => op::mm(self.sequence, &x.view(), &weight, CubeMath::KeepDType, &mut logits)?,
            Some(bias) => {
                let factors = AddmmFactors::default();
                op::addmm(self.sequence, &bias, &x.view(), &weight, factors, CubeMath::KeepDType, &mut logits)?;
            }
        }
        if self.router.logit_scale == 1.0 {
            return Ok(logits);
        }
        let mut scaled = self.tensor(dtype, &[self.tokens, self.experts])?;
        op::muls(self.sequence, &logits.as_view(), self.router.logit_scale, &mut scaled)?;
        Ok(scaled)
    }

    /// Scores `[T, R]`, each step rounded to the type of the scores.
    fn scores(&self, logits: TensorViewMut<'a>) -> Result<TensorViewMut<'a>> {
        self.sequence.purpose("scores");
        let dtype = DType::from(self.router.scores.resolve(self.plan.input));
        let shape = [self.tokens, self.experts];
        let logits = if logits.dtype() == dtype {
            logits
        } else {
            let mut wide = self.tensor(dtype, &shape)?;
            op::cast(self.sequence, &logits.as_view(), &mut wide)?;
            wide
        };
        if self.router.score == Score::Logits {
            return Ok(logits);
        }
        let mut scores = self.tensor(dtype, &shape)?;
        let logits = logits.as_view();
        match self.router.score {
            Score::Softmax => op::softmax(self.sequence, &logits, -1, &mut scores)?,
            Score::SqrtSoftplus => {
                let mut soft = self.tensor(dtype, &shape)?;
                op::softplus(self.sequence, &logits, 1.0, SOFTPLUS_THRESHOLD, &mut soft)?;
                op::sqrt(self.sequence, &soft.as_view(), &mut scores)?;
            }
            _ => op::sigmoid(self.sequence, &logits, &mut scores)?,
        }
        Ok(scores)
    }

    /// Chosen experts, and behind them those that every token gets, `[T, k + always]`, from fp32 scores `[T, R]`.
    fn choose(
        &self,
        weights: &WeightViews<'_>,
        input: &LayerInput<'_>,
        scores: TensorView<'_>,
        ids: &mut TensorViewMut<'_>,
    ) -> Result<()> {
        let (sequence, tokens, top_k) = (self.sequence, self.tokens, self.router.top_k);
        let candidates = self.experts.saturating_sub(self.router.always);
        sequence.purpose("choice");
        if let Choice::Table { .. } = self.router.choice {
            let (table, tokens) = (weights.require(Part::ExpertTable)?, input.require_token_ids()?);
            return op::embedding(sequence, &table, &tokens, ids);
        }
        let scores = scores.narrow(1, 0..candidates)?;
        let mut biased;
        let scores = match weights.get(Part::ChoiceBias) {
            None => scores,
            Some(bias) => {
                biased = self.tensor(DType::F32, &[tokens, candidates])?;
                op::add(sequence, &scores, &bias, 1.0, &mut biased)?;
                biased.as_view()
            }
        };
        let mut best = self.tensor(DType::I64, &[tokens, top_k])?;
        match self.router.choice {
            Choice::Groups(groups) if groups.topk_group < groups.n_group => {
                let kept = self.keep_groups(scores, groups)?;
                self.top_k(kept.as_view(), top_k, 1, best.reborrow())?;
            }
            Choice::EachGroup { n_group } => {
                let (per_group, each) = (self.experts / n_group, top_k / n_group);
                let mut local = self.tensor(DType::I64, &[tokens, n_group, each])?;
                let scores = scores.reshape(&[tokens, n_group, per_group])?;
                self.top_k(scores, each, 2, local.reborrow())?;
                // The first expert of each group.
                let mut first = self.tensor(DType::I64, &[n_group])?;
                op::arange(sequence, 0.0, self.experts as f64, per_group as f64, &mut first)?;
                let first = first.as_view().reshape(&[n_group, 1])?;
                let mut best = best.reborrow().reshape(&[tokens, n_group, each])?;
                op::add(sequence, &local.as_view(), &first, 1.0, &mut best)?;
            }
            _ => self.top_k(scores, top_k, 1, best.reborrow())?,
        }
        op::cast(sequence, &best.as_view(), &mut ids.reborrow().narrow(1, 0..top_k)?)?;
        if candidates == self.experts {
            return Ok(());
        }
        let mut last = self.tensor(DType::I32, &[self.router.always])?;
        op::arange(sequence, candidates as f64, self.experts as f64, 1.0, &mut last)?;
        op::copy(sequence, &last.as_view(), &mut ids.reborrow().narrow(1, top_k..self.router.choices())?)
    }

    /// Indices of the `k` greatest along a dimension.
    fn top_k(&self, x: TensorView<'_>, k: usize, dim: i64, mut indices: TensorViewMut<'_>) -> Result<()> {
        let mut shape = [0; 3];
        let sizes = shape.get_mut(..x.desc().rank()).unwrap_or_default();
        sizes.iter_mut().zip(indices.shape()).for_each(|(size, &dim)| *size = usize::try_from(dim).unwrap_or(0));
        let mut values = self.tensor(x.dtype(), sizes)?;
        op::top_k(self.sequence, &x, k, dim, true, &mut values, &mut indices)
    }

    /// The scores with those of dropped groups filled.
    fn keep_groups(&self, scores: TensorView<'_>, groups: GroupSpec) -> Result<TensorViewMut<'a>> {
        let (sequence, tokens, n_group) = (self.sequence, self.tokens, groups.n_group);
        let per_group = self.experts / n_group;
        let by_group = scores.reshape(&[tokens, n_group, per_group])?;
        let mut group_scores = self.tensor(DType::F32, &[tokens, n_group])?;
        match groups.score {
            GroupScore::Max => op::amax(sequence, &by_group, &[-1], false, &mut group_scores)?,
            GroupScore::Top2Sum => {
                let mut best = self.tensor(DType::F32, &[tokens, n_group, 2])?;
                let mut unused = self.tensor(DType::I64, &[tokens, n_group, 2])?;
                op::top_k(sequence, &by_group, 2, 2, true, &mut best, &mut unused)?;
                op::reduce_sum(sequence, &best.as_view(), &[-1], false, &mut group_scores)?;
            }
        }
        let mut kept = self.tensor(DType::I64, &[tokens, groups.topk_group])?;
        self.top_k(group_scores.as_view(), groups.topk_group, 1, kept.reborrow())?;

        // 1 for each group that is kept, then a mask of those that are not.
        let mut none = self.tensor(DType::F32, &[tokens, n_group])?;
        op::zero_fill(sequence, &mut none)?;
        let mut ones = self.tensor(DType::F32, &[tokens, groups.topk_group])?;
        let zeros = none.as_view().narrow(1, 0..groups.topk_group)?;
        op::adds(sequence, &zeros, 1.0, &mut ones)?;
        let mut marks = self.tensor(DType::F32, &[tokens, n_group])?;
        let (index, ones) = (kept.as_view(), ones.as_view());
        op::scatter(sequence, &none.as_view(), 1, &index, &ones, ScatterReduce::Replace, &mut marks)?;
        let mut dropped = self.tensor(DType::Bool, &[tokens, n_group])?;
        op::eq_scalar(sequence, &marks.as_view(), 0.0, &mut dropped)?;

        let mut filled = self.tensor(DType::F32, &[tokens, self.experts])?;
        op::copy(sequence, &scores, &mut filled)?;
        {
            let mut by_group = filled.reborrow().reshape(&[tokens, n_group, per_group])?;
            let dropped = dropped.as_view().reshape(&[tokens, n_group, 1])?;
            let fill = match groups.fill {
                GroupFill::NegInf => f64::NEG_INFINITY,
                GroupFill::Zero => 0.0,
            };
            op::masked_fill(sequence, &mut by_group, &dropped, fill)?;
        }
        Ok(filled)
    }

    /// Scores of the chosen experts, in the type that weights are computed in.
    fn gather(&self, scores: TensorView<'_>, ids: TensorView<'_>) -> Result<TensorViewMut<'a>> {
        let shape = [self.tokens, self.router.choices()];
        let mut picked = self.tensor(scores.dtype(), &shape)?;
        op::gather(self.sequence, &scores, 1, &ids, &mut picked)?;
        let dtype = DType::from(self.router.weight_math.resolve(self.plan.input));
        if picked.dtype() == dtype {
            return Ok(picked);
        }
        let mut cast = self.tensor(dtype, &shape)?;
        op::cast(self.sequence, &picked.as_view(), &mut cast)?;
        Ok(cast)
    }

    /// Weights of the sparse mixer: for each choice in turn the softmax over the experts that are left and close to it.
    ///
    /// * `best`: the scores of the chosen experts, descending.
    fn sparse_mixer(
        &self,
        scores: TensorView<'_>,
        ids: TensorView<'_>,
        best: TensorView<'_>,
        jitter: f64,
    ) -> Result<TensorViewMut<'a>> {
        let (sequence, tokens, top_k, dtype) = (self.sequence, self.tokens, self.router.top_k, best.dtype());
        let (shape, column) = ([tokens, self.experts], [tokens, 1]);
        let scores = self.cast(scores, dtype)?;
        let scores = scores.view();
        let mut size = self.tensor(dtype, &shape)?;
        op::abs(sequence, &scores, &mut size)?;
        let (mut zero, mut least) = (self.tensor(dtype, &column)?, self.tensor(dtype, &column)?);
        op::zero_fill(sequence, &mut zero)?;
        op::adds(sequence, &zero.as_view(), f64::NEG_INFINITY, &mut least)?;

        let mut left = self.tensor(dtype, &shape)?;
        op::copy(sequence, &scores, &mut left)?;
        let mut made = self.tensor(dtype, &[tokens, top_k])?;
        for choice in 0..top_k {
            let (id, best) = (ids.narrow(1, choice..choice + 1)?, best.narrow(1, choice..choice + 1)?);
            let [mut factor, mut below, mut distance] =
                [self.tensor(dtype, &shape)?, self.tensor(dtype, &shape)?, self.tensor(dtype, &shape)?];
            op::maximum(sequence, &size.as_view(), &best, &mut factor)?;
            op::sub(sequence, &scores, &best, 1.0, &mut below)?;
            op::div(sequence, &below.as_view(), &factor.as_view(), &mut distance)?;
            let mut far = self.tensor(DType::Bool, &shape)?;
            op::lt_scalar(sequence, &distance.as_view(), -2.0 * jitter, &mut far)?;
            let (mut close, mut shares) = (self.tensor(dtype, &shape)?, self.tensor(dtype, &shape)?);
            op::copy(sequence, &left.as_view(), &mut close)?;
            op::masked_fill(sequence, &mut close, &far.as_view(), f64::NEG_INFINITY)?;
            op::softmax(sequence, &close.as_view(), -1, &mut shares)?;
            op::gather(sequence, &shares.as_view(), 1, &id, &mut made.reborrow().narrow(1, choice..choice + 1)?)?;
            let mut rest = self.tensor(dtype, &shape)?;
            op::scatter(sequence, &left.as_view(), 1, &id, &least.as_view(), ScatterReduce::Replace, &mut rest)?;
            left = rest;
        }
        Ok(made)
    }

    /// Weights of the chosen experts, from the scores `[T, R]`.
    fn weigh(
        &self,
        weights: &WeightViews<'_>,
        scores: TensorView<'_>,
        ids: TensorView<'_>,
        chosen: &mut TensorViewMut<'_>,
    ) -> Result<()> {
        self.sequence.purpose("weights");
        let (factors, factor) = (weights.get(Part::ExpertScale), weights.get(Part::WeightScale));
        let picked = self.gather(scores, ids)?;
        let (sequence, dtype, shape) = (self.sequence, picked.dtype(), [self.tokens, self.router.choices()]);
        let step = |x: TensorViewMut<'a>, run: &dyn Fn(&TensorView<'_>, &mut TensorViewMut<'_>) -> Result<()>| {
            let mut out = self.tensor(dtype, &shape)?;
            run(&x.as_view(), &mut out)?;
            Ok::<_, Error>(out)
        };
        let mut weights = match self.router.weigh {
            Weigh::Score => picked,
            Weigh::Softmax => step(picked, &|x, out| op::softmax(sequence, x, -1, out))?,
            Weigh::Sigmoid => step(picked, &|x, out| op::sigmoid(sequence, x, out))?,
            Weigh::SparseMixer { jitter } => self.sparse_mixer(scores, ids, picked.as_view(), jitter)?,
        };
        if self.router.norm != Normalise::None {
            let mut sum = self.tensor(dtype, &[self.tokens, 1])?;
            op::reduce_sum(sequence, &weights.as_view(), &[-1], true, &mut sum)?;
            let mut divisor = self.tensor(dtype, &[self.tokens, 1])?;
            let divisor = match self.router.norm {
                Normalise::Sum { eps } if eps > 0.0 => {
                    op::adds(sequence, &sum.as_view(), eps, &mut divisor)?;
                    divisor
                }
                Normalise::SumFloor { min } => {
                    op::clamp_min(sequence, &sum.as_view(), min, &mut divisor)?;
                    divisor
                }
                _ => sum,
            };
            weights = step(weights, &|x, out| op::div(sequence, x, &divisor.as_view(), out))?;
        }
        if self.router.scale != 1.0 {
            weights = step(weights, &|x, out| op::muls(sequence, x, self.router.scale, out))?;
        }
        if let Some(factor) = factor {
            weights = step(weights, &|x, out| op::mul(sequence, x, &factor, out))?;
        }
        if let Some(factors) = factors {
            let factors = factors.reshape(&[self.experts, 1])?;
            let mut own = self.tensor(dtype, &[self.tokens, self.router.choices(), 1])?;
            op::embedding(sequence, &factors, &ids, &mut own)?;
            let own = own.reshape(&shape)?;
            weights = step(weights, &|x, out| op::mul(sequence, x, &own.as_view(), out))?;
        }
        if dtype == chosen.dtype() {
            op::copy(sequence, &weights.as_view(), chosen)
        } else {
            op::cast(sequence, &weights.as_view(), chosen)
        }
    }
}

/// A dimension, which no tensor has negative.
pub(super) fn size(dim: i64) -> usize {
    usize::try_from(dim).unwrap_or(0)
}
