//! Forward passes: of a layer, of a router, of experts whose tokens were routed elsewhere. The same code plans and runs.

use super::experts::{Operands, drop_padding, experts, shared};
use super::probe::Probe;
use super::route::{route, size};
use super::weights::WeightViews;
use super::{MoeLayer, Router, RouterPlan, memory};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op;
use crate::scratch::{Footprint, Sequence};
use crate::spec::{Choice, FloatType, MoeSpec};
use crate::stream::Stream;
use crate::sync::lock;
use crate::tensor::{Tensor, TensorView, TensorViewMut};

/// What a layer works on: `T` tokens of width `H`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LayerInput<'a> {
    /// Device, the layer's dtype, `[T, H]`, contiguous; T may be 0.
    pub x: TensorView<'a>,
    /// Device, the layer's dtype, `[T, H]`, contiguous: what the router sees in place of x, as in layers whose experts
    /// get a norm of it. `None` for x.
    pub router_input: Option<TensorView<'a>>,
    /// Device, i32 or i64 `[T]`, each in `0..vocab`: where experts are chosen by token id, and only there. They are read by
    /// the device, which does not check them; the simulator reports one that is out of range.
    pub token_ids: Option<TensorView<'a>>,
    /// Device, i32 `[1]`: how many of the tokens are real. Those behind are padding: they reach no expert and no count, their
    /// ids are `R`, their weights 0, and what they give is without meaning. `None` for all.
    pub valid_tokens: Option<TensorView<'a>>,
}

impl<'a> From<TensorView<'a>> for LayerInput<'a> {
    fn from(x: TensorView<'a>) -> Self {
        Self { x, router_input: None, token_ids: None, valid_tokens: None }
    }
}

impl<'a> LayerInput<'a> {
    /// The same with an input of the router's own.
    pub fn with_router_input(mut self, router_input: TensorView<'a>) -> Self {
        self.router_input = Some(router_input);
        self
    }

    /// The same with token ids.
    pub fn with_token_ids(mut self, token_ids: TensorView<'a>) -> Self {
        self.token_ids = Some(token_ids);
        self
    }

    /// The same with a number of real tokens.
    pub fn with_valid_tokens(mut self, valid_tokens: TensorView<'a>) -> Self {
        self.valid_tokens = Some(valid_tokens);
        self
    }

    pub(super) fn require_token_ids(&self) -> Result<TensorView<'a>> {
        self.token_ids
            .ok_or_else(|| Error::shape("token ids", "none", "one per token: this router chooses experts by token id"))
    }

    /// Some of its tokens; real ones all.
    pub(super) fn rows(&self, rows: std::ops::Range<usize>) -> Result<Self> {
        let token_ids = self.token_ids.map(|ids| ids.rows(rows.clone())).transpose()?;
        let router_input = self.router_input.map(|x| x.rows(rows.clone())).transpose()?;
        Ok(Self { x: self.x.rows(rows)?, router_input, token_ids, valid_tokens: None })
    }

    /// Tokens, where everything fits a layer.
    pub(super) fn check(&self, spec: &MoeSpec, dtype: DType) -> Result<usize> {
        let (x, hidden) = (&self.x, spec.experts().hidden);
        if x.dtype() != dtype {
            return Err(Error::dtype("x", x.dtype(), dtype));
        }
        let tokens = match *x.shape() {
            [tokens, width] if width == hidden as i64 => size(tokens),
            _ => return Err(Error::shape("x", format_args!("{:?}", x.shape()), format_args!("[tokens, {hidden}]"))),
        };
        if let Some(seen) = &self.router_input {
            if seen.dtype() != dtype {
                return Err(Error::dtype("router input", seen.dtype(), dtype));
            }
            if seen.shape() != x.shape() {
                let found = format!("{:?}", seen.shape());
                return Err(Error::shape("router input", found, format_args!("[{tokens}, {hidden}]")));
            }
        }
        match (spec.router().choice, &self.token_ids) {
            (Choice::Table { .. }, None) => self.require_token_ids().map(drop)?,
            (Choice::Table { .. }, Some(ids)) => {
                if !matches!(ids.dtype(), DType::I32 | DType::I64) {
                    return Err(Error::dtype("token ids", ids.dtype(), "i32 or i64"));
                }
                if *ids.shape() != [tokens as i64] {
                    return Err(Error::shape(
                        "token ids",
                        format_args!("{:?}", ids.shape()),
                        format_args!("[{tokens}]"),
                    ));
                }
            }
            // Token ids that nobody asks for do no harm: an engine gives them to all layers.
            (_, _) => {}
        }
        Ok(tokens)
    }
}

/// What a layer gives for `T` tokens.
#[derive(Debug)]
pub struct LayerOutput {
    /// Device, the layer's dtype, `[T, H]`.
    pub output: Tensor,
    /// Device, i32 `[T, k]`, with `k` of [`RouterSpec::choices`](crate::spec::RouterSpec::choices): the chosen experts, the best
    /// first, then those that every token gets.
    pub expert_ids: Tensor,
    /// Device, the type the router works in, `[T, k]`: their weights in the same order.
    pub expert_weights: Tensor,
    /// Device, i64 `[E]`: rows that each expert got. Read it when it suits: the pass never waits for it.
    pub expert_counts: Tensor,
    /// What the shared expert gives on a stream of its own, `[T, H]`; made by the first pass that does so.
    pub(super) shared: Option<Tensor>,
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
    pub(super) output: TensorViewMut<'a>,
    pub(super) ids: TensorViewMut<'a>,
    pub(super) weights: TensorViewMut<'a>,
    pub(super) counts: TensorViewMut<'a>,
}

impl Outputs<'static> {
    /// Without memory.
    pub(super) fn planned(spec: &MoeSpec, dtype: DType, gate: DType, tokens: usize, top_k: usize) -> Result<Self> {
        let experts = spec.experts();
        Ok(Self {
            output: TensorViewMut::planned(dtype, &[tokens, experts.hidden])?,
            ids: TensorViewMut::planned(DType::I32, &[tokens, top_k])?,
            weights: TensorViewMut::planned(gate, &[tokens, top_k])?,
            counts: TensorViewMut::planned(DType::I64, &[experts.num])?,
        })
    }
}

impl<'a> Outputs<'a> {
    /// Bytes of each.
    pub(super) fn bytes(&self) -> impl Iterator<Item = usize> {
        [&self.output, &self.ids, &self.weights, &self.counts].map(|view| bytes_of(&view.as_view())).into_iter()
    }

    pub(super) fn of(output: &'a mut LayerOutput) -> Self {
        Self {
            output: output.output.view_mut(),
            ids: output.expert_ids.view_mut(),
            weights: output.expert_weights.view_mut(),
            counts: output.expert_counts.view_mut(),
        }
    }
}

/// Bytes of a view.
pub(super) fn bytes_of(view: &TensorView<'_>) -> usize {
    view.dtype().bytes(view.desc().elements().and_then(|elements| usize::try_from(elements).ok()).unwrap_or(0))
}

/// A pass as its plan sees it: what changes its calls and the memory they need.
///
/// A number of tokens stands for a plain pass of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Pass {
    /// Tokens.
    pub tokens: usize,
    /// Whether [`LayerInput::router_input`] is given: it takes memory of the caller's, and no scratch.
    pub router_input: bool,
    /// Whether [`LayerInput::valid_tokens`] is given.
    pub padded: bool,
    /// Whether the shared expert, where there is one, runs on a second stream ([`MoeLayer::forward_overlapped`]).
    pub overlapped: bool,
    /// Experts of a token and the type of their weights, where tokens are routed elsewhere ([`MoeLayer::forward_routed`]).
    pub routed: Option<(usize, FloatType)>,
    /// Whether it is one of several chunks, whose counts are added up.
    pub(super) chunk: bool,
}

impl From<usize> for Pass {
    fn from(tokens: usize) -> Self {
        Self { tokens, router_input: false, padded: false, overlapped: false, routed: None, chunk: false }
    }
}

impl Pass {
    /// The same with an input of the router's own.
    pub const fn with_router_input(self) -> Self {
        Self { router_input: true, ..self }
    }

    /// The same with a number of real tokens on the device.
    pub const fn padded(self) -> Self {
        Self { padded: true, ..self }
    }

    /// The same with the shared expert on a second stream.
    pub const fn overlapped(self) -> Self {
        Self { overlapped: true, ..self }
    }

    /// A pass of tokens that were routed elsewhere to `top_k` experts each, with weights of type `weights`.
    pub const fn routed(tokens: usize, top_k: usize, weights: FloatType) -> Self {
        let routed = Some((top_k, weights));
        Self { tokens, router_input: false, padded: false, overlapped: false, routed, chunk: false }
    }

    /// The same as one of several chunks.
    pub(super) const fn chunk(self) -> Self {
        Self { chunk: true, ..self }
    }
}

impl MoeLayer {
    /// Routes `x` and runs the experts. Returns when everything is queued; results are there for what follows on the
    /// stream, and for the host once it reads them.
    ///
    /// Takes a [`TensorView`] of the activations, or a [`LayerInput`] with more.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::DType`], [`Error::WrongDevice`]; [`Error::Rule`]; [`Error::OutOfMemory`];
    /// [`Error::MissingOperator`]; [`Error::Vendor`] and the states of the device.
    pub fn forward<'a>(&self, stream: &Stream, input: impl Into<LayerInput<'a>>) -> Result<LayerOutput> {
        let input = input.into();
        let tokens = input.check(self.spec(), self.dtype().into())?;
        // SAFETY: the pass below writes every element, or fails and nobody gets the tensors.
        let mut output =
            self.allocate(tokens, |dtype, shape| unsafe { Tensor::uninit(self.device(), dtype, shape) })?;
        self.forward_into(stream, input, &mut output)?;
        Ok(output)
    }

    /// The same into tensors of an earlier pass of as many tokens: in steady state nothing is allocated, and nothing waits,
    /// so that the pass can be captured into a graph.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn forward_into<'a>(
        &self,
        stream: &Stream,
        input: impl Into<LayerInput<'a>>,
        output: &mut LayerOutput,
    ) -> Result<()> {
        self.pass(stream, None, &input.into(), output, &mut None)
    }

    /// The same with the shared expert on a second stream, beside routing and the routed experts: the same result bit for
    /// bit. Without a shared expert it is [`forward_into`](Self::forward_into).
    ///
    /// To be captured, both streams have to be: [`Stream::capture_with`].
    ///
    /// # Errors
    /// [`Error::CapturedApart`] where one of the streams is captured without the other, and those of
    /// [`forward`](Self::forward).
    pub fn forward_overlapped<'a>(
        &self,
        stream: &Stream,
        side: &Stream,
        input: impl Into<LayerInput<'a>>,
        output: &mut LayerOutput,
    ) -> Result<()> {
        let side = Some(side).filter(|_| self.spec().shared().is_some());
        self.pass(stream, side, &input.into(), output, &mut None)
    }

    /// [`forward`](Self::forward) with a mark after each step.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn forward_probed<'a>(
        &self,
        stream: &Stream,
        input: impl Into<LayerInput<'a>>,
        probe: &mut Probe,
    ) -> Result<LayerOutput> {
        let input = input.into();
        let mut output = self.new_output(input.check(self.spec(), self.dtype().into())?)?;
        probe.start(stream)?;
        self.pass(stream, None, &input, &mut output, &mut Some(probe))?;
        Ok(output)
    }

    /// Runs the experts for tokens that the caller routed.
    ///
    /// * `x`: device, the layer's dtype, `[T, H]`, contiguous.
    /// * `ids`: device, i32 `[T, k]`, each in `0..R`, those that every token gets among them. They are read by the
    ///   device, which does not check them; the simulator reports one that is out of range.
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
        let tokens = rows_of(&x, self.spec(), self.dtype().into())?;
        // SAFETY: the pass below writes every element, or fails and nobody gets the tensors.
        let new = |dtype, shape: &[usize]| unsafe { Tensor::uninit(self.device(), dtype, shape) };
        let mut output = RoutedOutput {
            output: new(self.dtype().into(), &[tokens, self.spec().experts().hidden])?,
            expert_counts: new(DType::I64, &[self.spec().experts().num])?,
        };
        self.forward_routed_into(stream, x, ids, weights, &mut output)?;
        Ok(output)
    }

    /// The same into tensors of an earlier pass of as many tokens: in steady state nothing is allocated, and nothing waits,
    /// so that the pass can be captured into a graph.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn forward_routed_into(
        &self,
        stream: &Stream,
        x: TensorView<'_>,
        ids: TensorView<'_>,
        weights: TensorView<'_>,
        output: &mut RoutedOutput,
    ) -> Result<()> {
        let tokens = rows_of(&x, self.spec(), self.dtype().into())?;
        if ids.desc().rank() != 2 || ids.dim(0) != tokens as i64 || ids.dim(1) < 1 {
            let legal = format_args!("[{tokens}, k] with k of at least 1");
            return Err(Error::shape("expert ids", format_args!("{:?}", ids.shape()), legal));
        }
        if weights.shape() != ids.shape() {
            return Err(Error::shape(
                "expert weights",
                format_args!("{:?}", weights.shape()),
                format_args!("{:?}", ids.shape()),
            ));
        }
        self.fits_output(tokens, &output.output)?;
        let types = [FloatType::F32, self.dtype()];
        let Some(dtype) = types.into_iter().find(|&dtype| weights.dtype() == dtype.into()) else {
            let legal = format_args!("{} or {}", DType::F32, DType::from(self.dtype()));
            return Err(Error::dtype("expert weights", weights.dtype(), legal));
        };
        if tokens == 0 {
            return output.expert_counts.view_mut().zero(&stream.sequence()?);
        }
        let [scratch, _] = self.footprints(Pass::routed(tokens, size(ids.dim(1)), dtype))?;
        let sequence = stream.sequence_with(scratch)?;
        let operands = Operands { x, ids, chosen: weights, shared: None, padded: false };
        let RoutedOutput { output, expert_counts } = output;
        let (output, counts) = (&mut output.view_mut(), &mut expert_counts.view_mut());
        experts(&sequence, self.spec(), &self.router.weights.views()?, &operands, output, counts, &mut None)
    }

    /// Tensors of zeros for the results of passes of `tokens`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Vendor`] and the states of the device.
    pub fn new_output(&self, tokens: usize) -> Result<LayerOutput> {
        self.allocate(tokens, |dtype, shape| Tensor::zeros(self.device(), dtype, shape))
    }

    fn allocate(&self, tokens: usize, new: impl Fn(DType, &[usize]) -> Result<Tensor>) -> Result<LayerOutput> {
        let (experts, choices) = (self.spec().experts(), self.spec().router().choices());
        Ok(LayerOutput {
            output: new(self.dtype().into(), &[tokens, experts.hidden])?,
            expert_ids: new(DType::I32, &[tokens, choices])?,
            expert_weights: new(self.router.plan.gate_dtype(), &[tokens, choices])?,
            expert_counts: new(DType::I64, &[experts.num])?,
            shared: None,
        })
    }

    fn pass(
        &self,
        stream: &Stream,
        side: Option<&Stream>,
        input: &LayerInput<'_>,
        output: &mut LayerOutput,
        probe: &mut Option<&mut Probe>,
    ) -> Result<()> {
        let tokens = self.check(input, output)?;
        if tokens == 0 {
            // No operator takes an empty tensor; there is nothing to compute.
            return output.expert_counts.view_mut().zero(&stream.sequence()?);
        }
        let pass = Pass { padded: input.valid_tokens.is_some(), overlapped: side.is_some(), ..tokens.into() };
        let [scratch, beside] = self.footprints(pass)?;
        let mut before = output.shared.take();
        if let Some(side) = side {
            if !stream.goes_with(side) {
                return Err(Error::CapturedApart { call: "an overlapped pass" });
            }
            if before.is_none() {
                before = Some(self.shared_output(tokens)?);
            }
            if let Some(shared) = &mut before {
                self.run_shared(side, beside, input.x, shared)?;
            }
        }
        let sequence = stream.sequence_with(scratch)?;
        let Router { spec, plan, weights, .. } = &self.router;
        let shared = side.and(before.as_ref()).map(Tensor::view);
        let result = run(&sequence, spec, plan, &weights.views()?, input, shared, &mut Outputs::of(output), probe);
        output.shared = before;
        result
    }

    /// Tokens, where an input and an output fit the layer and each other.
    pub(super) fn check(&self, input: &LayerInput<'_>, output: &LayerOutput) -> Result<usize> {
        let tokens = input.check(self.spec(), self.dtype().into())?;
        self.fits_output(tokens, &output.output)?;
        Ok(tokens)
    }

    fn fits_output(&self, tokens: usize, output: &Tensor) -> Result<()> {
        let hidden = self.spec().experts().hidden;
        if *output.shape() == [tokens as i64, hidden as i64] {
            return Ok(());
        }
        Err(Error::shape("output", format_args!("{:?}", output.shape()), format_args!("[{tokens}, {hidden}]")))
    }

    fn shared_output(&self, tokens: usize) -> Result<Tensor> {
        // SAFETY: `run_shared` writes every element, or the pass fails.
        unsafe { Tensor::uninit(self.device(), self.dtype().into(), &[tokens, self.spec().experts().hidden]) }
    }

    fn run_shared(&self, side: &Stream, scratch: Footprint, x: TensorView<'_>, out: &mut Tensor) -> Result<()> {
        let sequence = side.sequence_with(scratch)?;
        shared(&sequence, self.spec(), &self.router.weights.views()?, x, &mut out.view_mut())
    }

    /// Scratch of a pass and of its side stream, planned once for each kind of pass.
    pub(super) fn footprints(&self, pass: Pass) -> Result<[Footprint; 2]> {
        if let Some(&known) = lock(&self.footprints).get(&pass) {
            return Ok(known);
        }
        let Router { spec, options, plan, device, .. } = &self.router;
        let footprints = memory::footprints(device, spec, *options, plan, self.experts(), pass)?;
        lock(&self.footprints).insert(pass, footprints);
        Ok(footprints)
    }
}

impl Router {
    /// Chooses experts for `x`.
    ///
    /// Takes a [`TensorView`] of the activations, or a [`LayerInput`] with more.
    ///
    /// Gives expert ids, i32 `[T, k]`, and their weights `[T, k]` in the type the router works in, the best expert first, those
    /// that every token gets last.
    ///
    /// # Errors
    /// Those of [`MoeLayer::forward`].
    pub fn route<'a>(&self, stream: &Stream, input: impl Into<LayerInput<'a>>) -> Result<(Tensor, Tensor)> {
        let input = input.into();
        let tokens = input.check(&self.spec, self.options.dtype.into())?;
        let choices = self.spec.router().choices();
        // SAFETY: the router writes every element, or fails and nobody gets the tensors.
        let new = |dtype| unsafe { Tensor::uninit(&self.device, dtype, &[tokens, choices]) };
        let (mut ids, mut chosen) = (new(DType::I32)?, new(self.plan.gate_dtype())?);
        if tokens > 0 {
            let (ids, chosen) = (&mut ids.view_mut(), &mut chosen.view_mut());
            let sequence = stream.sequence()?;
            choose(&sequence, &self.spec, &self.plan, &self.weights.views()?, &input, ids, chosen)?;
        }
        Ok((ids, chosen))
    }
}

fn rows_of(x: &TensorView<'_>, spec: &MoeSpec, dtype: DType) -> Result<usize> {
    let hidden = spec.experts().hidden;
    if x.dtype() != dtype {
        return Err(Error::dtype("x", x.dtype(), dtype));
    }
    match *x.shape() {
        [tokens, width] if width == hidden as i64 => Ok(size(tokens)),
        _ => Err(Error::shape("x", format_args!("{:?}", x.shape()), format_args!("[tokens, {hidden}]"))),
    }
}

/// Marks the end of a step where a pass is probed.
pub(super) fn mark(sequence: &Sequence<'_>, probe: &mut Option<&mut Probe>, name: &'static str) -> Result<()> {
    match (probe, sequence.stream()) {
        (Some(probe), Some(stream)) => probe.mark(stream, name),
        _ => Ok(()),
    }
}

/// Routing, and padding taken out of it.
fn choose(
    sequence: &Sequence<'_>,
    spec: &MoeSpec,
    plan: &RouterPlan,
    weights: &WeightViews<'_>,
    input: &LayerInput<'_>,
    ids: &mut TensorViewMut<'_>,
    chosen: &mut TensorViewMut<'_>,
) -> Result<()> {
    route(sequence, spec.router(), plan, weights, input, ids, chosen)?;
    match input.valid_tokens {
        Some(valid) => drop_padding(sequence, valid, spec.experts().routed(), ids, chosen),
        None => Ok(()),
    }
}

/// One of several chunks of a pass: its counts are added to those of the chunks before, which `outputs` has.
pub(super) fn run_chunk(
    sequence: &Sequence<'_>,
    spec: &MoeSpec,
    plan: &RouterPlan,
    weights: &WeightViews<'_>,
    input: &LayerInput<'_>,
    outputs: Outputs<'_>,
) -> Result<()> {
    let experts = [spec.experts().num];
    let (mut counts, mut sum) = (sequence.tensor(DType::I64, &experts)?, sequence.tensor(DType::I64, &experts)?);
    let Outputs { output, ids, weights: chosen, counts: mut total } = outputs;
    let mut part = Outputs { output, ids, weights: chosen, counts: counts.reborrow() };
    run(sequence, spec, plan, weights, input, None, &mut part, &mut None)?;
    sequence.purpose("counts");
    op::add(sequence, &total.as_view(), &counts.as_view(), 1.0, &mut sum)?;
    op::copy(sequence, &sum.as_view(), &mut total)
}

/// A whole pass of at least one token.
///
/// * `before`: what the shared expert gave, where it was run before.
#[allow(clippy::too_many_arguments, reason = "the operands of the pass")]
pub(super) fn run(
    sequence: &Sequence<'_>,
    spec: &MoeSpec,
    plan: &RouterPlan,
    weights: &WeightViews<'_>,
    input: &LayerInput<'_>,
    before: Option<TensorView<'_>>,
    outputs: &mut Outputs<'_>,
    probe: &mut Option<&mut Probe>,
) -> Result<()> {
    let Outputs { output, ids, weights: chosen, counts } = outputs;
    choose(sequence, spec, plan, weights, input, ids, chosen)?;
    mark(sequence, probe, "route")?;
    let operands = Operands {
        x: input.x,
        ids: ids.as_view(),
        chosen: chosen.as_view(),
        shared: before,
        padded: input.valid_tokens.is_some(),
    };
    experts(sequence, spec, weights, &operands, output, counts, probe)
}
