//! The forward pass: the steps of a layer as operator calls in one sequence. The same code makes the memory plan.

use super::probe::Probe;
use super::weights::WeightViews;
use super::{MoeLayer, Router, RouterPlan, memory};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::{
    self, CubeMath, DropPadMode, FinalizeRouting, GroupListKind, GroupedMatmul, Groups, InitRouting, InitRoutingOutputs,
};
use crate::scratch::{Footprint, Sequence};
use crate::spec::{MoeSpec, Part};
use crate::stream::Stream;
use crate::sync::lock;
use crate::tensor::{Tensor, TensorView, TensorViewMut};

/// What a layer gives for `T` tokens.
#[derive(Debug)]
pub struct LayerOutput {
    /// Device, the layer's dtype, `[T, H]`.
    pub output: Tensor,
    /// Device, i32 `[T, k]`: the chosen experts, the best first.
    pub expert_ids: Tensor,
    /// Device, the type the router works in, `[T, k]`: their weights in the same order.
    pub expert_weights: Tensor,
    /// Device, i64 `[E]`: rows that each expert got.
    pub expert_counts: Tensor,
}

/// What a layer gives for `T` tokens that were routed elsewhere.
#[derive(Debug)]
pub struct RoutedOutput {
    /// Device, the layer's dtype, `[T, H]`.
    pub output: Tensor,
    /// Device, i64 `[E]`: rows that each expert got.
    pub expert_counts: Tensor,
}

/// Where a pass writes; views of tensors, or planned ones.
pub(super) struct Outputs<'a> {
    output: TensorViewMut<'a>,
    ids: TensorViewMut<'a>,
    weights: TensorViewMut<'a>,
    counts: TensorViewMut<'a>,
}

impl Outputs<'static> {
    /// Without memory.
    pub(super) fn planned(spec: &MoeSpec, dtype: DType, gate: DType, tokens: usize) -> Result<Self> {
        let (experts, top_k) = (spec.experts(), spec.router().top_k);
        Ok(Self {
            output: TensorViewMut::planned(dtype, &[tokens, experts.hidden])?,
            ids: TensorViewMut::planned(DType::I32, &[tokens, top_k])?,
            weights: TensorViewMut::planned(gate, &[tokens, top_k])?,
            counts: TensorViewMut::planned(DType::I64, &[experts.num])?,
        })
    }
}

impl Outputs<'_> {
    /// Bytes of each.
    pub(super) fn bytes(&self) -> impl Iterator<Item = usize> {
        [&self.output, &self.ids, &self.weights, &self.counts].map(|view| bytes_of(view)).into_iter()
    }
}

fn bytes_of(view: &TensorViewMut<'_>) -> usize {
    view.desc().elements().and_then(|elements| usize::try_from(elements).ok()).unwrap_or(0) * view.dtype().bytes()
}

impl MoeLayer {
    /// Routes `x` and runs the experts. Returns when everything is queued; results are there for what follows on the
    /// stream, and for the host once it reads them.
    ///
    /// * `x`: device, the layer's dtype, `[T, H]`, contiguous; T may be 0.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::DType`], [`Error::WrongDevice`]; [`Error::Rule`]; [`Error::OutOfMemory`];
    /// [`Error::MissingOperator`]; [`Error::Vendor`] and the states of the device.
    pub fn forward(&self, stream: &Stream, x: TensorView<'_>) -> Result<LayerOutput> {
        // SAFETY: the pass below writes every element, or fails and nobody gets the tensors.
        let mut output = self
            .allocate(self.router.tokens(&x)?, |dtype, shape| unsafe { Tensor::uninit(self.device(), dtype, shape) })?;
        self.forward_into(stream, x, &mut output)?;
        Ok(output)
    }

    /// The same into tensors of an earlier pass of as many tokens: in steady state nothing is allocated.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn forward_into(&self, stream: &Stream, x: TensorView<'_>, output: &mut LayerOutput) -> Result<()> {
        self.pass(stream, x, output, &mut None)
    }

    /// [`forward`](Self::forward) with a mark after each step.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn forward_probed(&self, stream: &Stream, x: TensorView<'_>, probe: &mut Probe) -> Result<LayerOutput> {
        let mut output = self.new_output(self.router.tokens(&x)?)?;
        probe.start(stream)?;
        self.pass(stream, x, &mut output, &mut Some(probe))?;
        Ok(output)
    }

    /// Runs the experts for tokens that the caller routed.
    ///
    /// * `x`: device, the layer's dtype, `[T, H]`, contiguous.
    /// * `ids`: device, i32 `[T, k]`, each in `0..E`. They are read by the device, which does not check them; the
    ///   simulator reports one that is out of range.
    /// * `weights`: device, `[T, k]`; the layer's dtype, or fp32.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn forward_routed(
        &self,
        stream: &Stream,
        x: TensorView<'_>,
        ids: TensorView<'_>,
        weights: TensorView<'_>,
    ) -> Result<RoutedOutput> {
        let tokens = self.router.tokens(&x)?;
        let legal = format_args!("[{tokens}, k] with k of at least 1").to_string();
        if ids.desc().rank() != 2 || ids.dim(0) != tokens as i64 || ids.dim(1) < 1 {
            return Err(Error::Shape { what: "expert ids", found: format!("{:?}", ids.shape()), legal });
        }
        if weights.shape() != ids.shape() {
            return Err(Error::shape(
                "expert weights",
                format_args!("{:?}", weights.shape()),
                format_args!("{:?}", ids.shape()),
            ));
        }
        let mut output = Tensor::zeros(self.device(), self.dtype().into(), &[tokens, self.spec().experts().hidden])?;
        let mut counts = Tensor::zeros(self.device(), DType::I64, &[self.spec().experts().num])?;
        if tokens > 0 {
            let sequence = stream.sequence()?;
            let (output, counts) = (&mut output.view_mut(), &mut counts.view_mut());
            let views = self.router.weights.views();
            experts(&sequence, self.spec(), &views, x, ids, weights, output, counts, &mut None)?;
        }
        Ok(RoutedOutput { output, expert_counts: counts })
    }

    /// Tensors of zeros for the results of passes of `tokens`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Vendor`] and the states of the device.
    pub fn new_output(&self, tokens: usize) -> Result<LayerOutput> {
        self.allocate(tokens, |dtype, shape| Tensor::zeros(self.device(), dtype, shape))
    }

    fn allocate(&self, tokens: usize, new: impl Fn(DType, &[usize]) -> Result<Tensor>) -> Result<LayerOutput> {
        let (experts, top_k) = (self.spec().experts(), self.spec().router().top_k);
        Ok(LayerOutput {
            output: new(self.dtype().into(), &[tokens, experts.hidden])?,
            expert_ids: new(DType::I32, &[tokens, top_k])?,
            expert_weights: new(self.router.plan.gate.into(), &[tokens, top_k])?,
            expert_counts: new(DType::I64, &[experts.num])?,
        })
    }

    fn pass(
        &self,
        stream: &Stream,
        x: TensorView<'_>,
        output: &mut LayerOutput,
        probe: &mut Option<&mut Probe>,
    ) -> Result<()> {
        let tokens = self.router.tokens(&x)?;
        if output.output.shape().first() != Some(&(tokens as i64)) {
            let found = format_args!("{:?}", output.output.shape()).to_string();
            return Err(Error::shape("output", found, format_args!("[{tokens}, {}]", self.spec().experts().hidden)));
        }
        if tokens == 0 {
            // No operator takes an empty tensor; there is nothing to compute.
            return output.expert_counts.view_mut().zero(&stream.sequence()?);
        }
        let sequence = stream.sequence_with(self.footprint(tokens)?)?;
        let mut outputs = Outputs {
            output: output.output.view_mut(),
            ids: output.expert_ids.view_mut(),
            weights: output.expert_weights.view_mut(),
            counts: output.expert_counts.view_mut(),
        };
        let Router { spec, plan, weights, .. } = &self.router;
        run(&sequence, spec, plan, &weights.views(), x, &mut outputs, probe)
    }

    /// Scratch of a pass of `tokens`, planned once for each number of tokens.
    fn footprint(&self, tokens: usize) -> Result<Footprint> {
        if let Some(&known) = lock(&self.footprints).get(&tokens) {
            return Ok(known);
        }
        let Router { spec, options, plan, device, .. } = &self.router;
        let footprint = memory::footprint(device, spec, *options, plan, tokens)?;
        lock(&self.footprints).insert(tokens, footprint);
        Ok(footprint)
    }
}

impl Router {
    /// Chooses experts for `x`.
    ///
    /// * `x`: device, the dtype the router was loaded for, `[T, H]`, contiguous; T may be 0.
    ///
    /// Gives expert ids, i32 `[T, k]`, and their weights `[T, k]` in the type the router works in, the best expert first.
    ///
    /// # Errors
    /// Those of [`MoeLayer::forward`].
    pub fn route(&self, stream: &Stream, x: TensorView<'_>) -> Result<(Tensor, Tensor)> {
        let tokens = self.tokens(&x)?;
        let top_k = self.spec.router().top_k;
        let mut ids = Tensor::zeros(&self.device, DType::I32, &[tokens, top_k])?;
        let mut weights = Tensor::zeros(&self.device, self.plan.gate.into(), &[tokens, top_k])?;
        if tokens > 0 {
            let (ids, weights) = (&mut ids.view_mut(), &mut weights.view_mut());
            route(&stream.sequence()?, &self.plan, &self.weights.views(), x, ids, weights)?;
        }
        Ok((ids, weights))
    }

    /// Tokens of an input, which must fit.
    fn tokens(&self, x: &TensorView<'_>) -> Result<usize> {
        let dtype = DType::from(self.options.dtype);
        if x.dtype() != dtype {
            return Err(Error::dtype("x", x.dtype(), dtype));
        }
        let hidden = self.spec.experts().hidden;
        match *x.shape() {
            [tokens, width] if width == hidden as i64 => Ok(usize::try_from(tokens).unwrap_or(0)),
            _ => Err(Error::shape("x", format_args!("{:?}", x.shape()), format_args!("[tokens, {hidden}]"))),
        }
    }
}

/// Marks the end of a step where a pass is probed.
fn mark(sequence: &Sequence<'_>, probe: &mut Option<&mut Probe>, name: &'static str) -> Result<()> {
    match (probe, sequence.stream()) {
        (Some(probe), Some(stream)) => probe.mark(stream, name),
        _ => Ok(()),
    }
}

/// A whole pass of at least one token.
#[allow(clippy::too_many_arguments, reason = "the operands of the pass")]
pub(super) fn run(
    sequence: &Sequence<'_>,
    spec: &MoeSpec,
    plan: &RouterPlan,
    weights: &WeightViews<'_>,
    x: TensorView<'_>,
    outputs: &mut Outputs<'_>,
    probe: &mut Option<&mut Probe>,
) -> Result<()> {
    let Outputs { output, ids, weights: chosen, counts } = outputs;
    route(sequence, plan, weights, x, ids, chosen)?;
    mark(sequence, probe, "route")?;
    experts(sequence, spec, weights, x, ids.as_view(), chosen.as_view(), output, counts, probe)
}

/// Logits, choice and weights.
fn route(
    sequence: &Sequence<'_>,
    plan: &RouterPlan,
    weights: &WeightViews<'_>,
    x: TensorView<'_>,
    ids: &mut TensorViewMut<'_>,
    chosen: &mut TensorViewMut<'_>,
) -> Result<()> {
    let router = weights.require(Part::Router)?;
    let (tokens, hidden, experts) = (size(x.dim(0)), size(x.dim(1)), size(router.dim(0)));
    let logits_type = DType::from(plan.logits);
    let mut logits = sequence.tensor(logits_type, &[tokens, experts])?;
    let mut wide_x;
    let x = if x.dtype() == logits_type {
        x
    } else {
        wide_x = sequence.tensor(logits_type, &[tokens, hidden])?;
        op::cast(sequence, &x, &mut wide_x)?;
        wide_x.as_view()
    };
    op::mm(sequence, &x, &router.transpose()?, CubeMath::KeepDType, &mut logits)?;

    let gate_type = DType::from(plan.gate);
    let mut wide_logits;
    let logits = if gate_type == logits_type {
        logits.as_view()
    } else {
        wide_logits = sequence.tensor(gate_type, &[tokens, experts])?;
        op::cast(sequence, &logits.as_view(), &mut wide_logits)?;
        wide_logits.as_view()
    };
    op::moe_gating_top_k(sequence, &logits, weights.get(Part::ChoiceBias).as_ref(), &plan.gating, chosen, ids, None)?;

    if let Some(rounded) = plan.round_weights {
        let mut narrow = sequence.tensor(rounded.into(), &[tokens, size(chosen.dim(1))])?;
        op::cast(sequence, &chosen.as_view(), &mut narrow)?;
        op::cast(sequence, &narrow.as_view(), chosen)?;
    }
    Ok(())
}

/// Expand, the experts' GEMMs, the shared expert, combine.
#[allow(clippy::too_many_arguments, reason = "the operands of the step")]
fn experts(
    sequence: &Sequence<'_>,
    spec: &MoeSpec,
    weights: &WeightViews<'_>,
    x: TensorView<'_>,
    ids: TensorView<'_>,
    chosen: TensorView<'_>,
    output: &mut TensorViewMut<'_>,
    counts: &mut TensorViewMut<'_>,
    probe: &mut Option<&mut Probe>,
) -> Result<()> {
    let (tokens, hidden, top_k) = (size(x.dim(0)), size(x.dim(1)), size(ids.dim(1)));
    let (rows, inner) = (tokens * top_k, spec.experts().intermediate);
    let dtype = x.dtype();

    // The shared expert first: it only needs x, and combine adds it.
    let shared = match (weights.get(Part::SharedW13), weights.get(Part::SharedW2)) {
        (Some(w13), Some(w2)) => {
            let width = size(w2.dim(1));
            let mut both = sequence.tensor(dtype, &[tokens, 2 * width])?;
            op::mm(sequence, &x, &w13.transpose()?, CubeMath::KeepDType, &mut both)?;
            let mut active = sequence.tensor(dtype, &[tokens, width])?;
            op::swiglu(sequence, &both.as_view(), -1, &mut active)?;
            let mut sum = sequence.tensor(dtype, &[tokens, hidden])?;
            op::mm(sequence, &active.as_view(), &w2.transpose()?, CubeMath::KeepDType, &mut sum)?;
            mark(sequence, probe, "shared expert")?;
            Some(sum)
        }
        _ => None,
    };

    let mut expanded = sequence.tensor(dtype, &[rows, hidden])?;
    let mut row_idx = sequence.tensor(DType::I32, &[rows])?;
    let routing = InitRouting::dropless(spec.experts().num);
    {
        let (mut expanded, mut row_idx, mut counts) = (expanded.reborrow(), row_idx.reborrow(), counts.reborrow());
        let outputs =
            InitRoutingOutputs { expanded_x: &mut expanded, row_idx: &mut row_idx, counts: &mut counts, scale: None };
        op::moe_init_routing_v3(sequence, &x, &ids, None, &routing, outputs)?;
    }
    mark(sequence, probe, "expand")?;

    let list = counts.as_view();
    let groups = Groups::Rows { list: &list, kind: GroupListKind::Count };
    let product = |input: TensorView<'_>, weight: TensorView<'_>, out: &mut TensorViewMut<'_>| {
        let inputs = GroupedMatmul { x: &[input], weight: &[weight.transpose()?], bias: &[], groups };
        op::grouped_matmul(sequence, &inputs, std::slice::from_mut(out))
    };
    let mut both = sequence.tensor(dtype, &[rows, 2 * inner])?;
    product(expanded.as_view(), weights.require(Part::W13)?, &mut both)?;
    mark(sequence, probe, "gate and up")?;

    let mut active = sequence.tensor(dtype, &[rows, inner])?;
    op::swiglu(sequence, &both.as_view(), -1, &mut active)?;
    mark(sequence, probe, "activation")?;

    // What the experts give takes the place of what they were given.
    product(active.as_view(), weights.require(Part::W2)?, &mut expanded)?;
    mark(sequence, probe, "down")?;

    if dtype == DType::F16 {
        let (expanded, row_idx) = (expanded.as_view(), row_idx.as_view());
        match &shared {
            None => op::moe_token_unpermute(sequence, &expanded, &row_idx, Some(&chosen), output)?,
            Some(shared) => {
                let mut routed = sequence.tensor(dtype, &[tokens, hidden])?;
                op::moe_token_unpermute(sequence, &expanded, &row_idx, Some(&chosen), &mut routed)?;
                op::add(sequence, &routed.as_view(), &shared.as_view(), 1.0, output)?;
            }
        }
    } else {
        let combine = FinalizeRouting {
            expanded_x: expanded.as_view(),
            row_idx: row_idx.as_view(),
            x1: shared.as_ref().map(TensorViewMut::as_view),
            x2: None,
            bias: None,
            scales: Some(chosen),
            expert_idx: None,
            mode: DropPadMode::DroplessByRow,
        };
        op::moe_finalize_routing_v2(sequence, &combine, output)?;
    }
    mark(sequence, probe, "combine")
}

/// A dimension, which no tensor has negative.
fn size(dim: i64) -> usize {
    usize::try_from(dim).unwrap_or(0)
}
