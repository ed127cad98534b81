//! Bytes that a layer needs, told before anything of it is allocated, and passes in chunks that keep to a limit.

use super::experts::{Operands, experts, shared};
use super::forward::{self, Outputs, Pass, bytes_of};
use super::weights::WeightShapes;
use super::{ExpertPlan, LayerInput, LayerOptions, LayerOutput, MoeLayer, Router, RouterPlan};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::memory::Padding;
use crate::scratch::Footprint;
use crate::spec::{Choice, MoeSpec};
use crate::stream::Stream;
use crate::tensor::{TensorView, TensorViewMut};

/// Bytes that a layer needs. Device sizes count what the allocator rounds them to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryPlan {
    /// Device: the weights.
    pub weights: u64,
    /// Device: the input, that of the router where it has its own, 64-bit token ids where experts are chosen by them,
    /// the number of real tokens where it is given, the outputs of one pass of the greatest number of tokens, and what
    /// the shared expert gives on a stream of its own.
    pub in_out: u64,
    /// Device: temporary tensors and the largest operator workspace; one for all layers on a stream.
    pub scratch: Footprint,
    /// Device: the same on the side stream of an overlapped pass; nothing without one.
    pub side_scratch: Footprint,
    /// Host, pinned, while the weights are loaded.
    pub staging: u64,
}

impl MemoryPlan {
    /// Device bytes of one layer with its stream, and its side stream where it has one: what its peak will be.
    pub fn device_bytes(&self) -> u64 {
        let scratch = self.scratch.allocation().saturating_add(self.side_scratch.allocation());
        self.weights.saturating_add(self.in_out).saturating_add(scratch)
    }
}

/// How a pass is cut into chunks of tokens so that its scratch keeps to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChunkPlan {
    /// Tokens of the whole pass.
    pub tokens: usize,
    /// Tokens of a chunk; the last may have fewer.
    pub chunk: usize,
    /// What the layer needs altogether, with the scratch of one chunk; [`MemoryPlan::in_out`] is that of the whole pass.
    pub memory: MemoryPlan,
}

impl ChunkPlan {
    /// Chunks.
    pub fn chunks(&self) -> usize {
        self.tokens.div_ceil(self.chunk.max(1))
    }
}

pub(super) fn plan(device: &Device, spec: &MoeSpec, options: LayerOptions, pass: Pass) -> Result<MemoryPlan> {
    let pass = Pass { overlapped: pass.overlapped && spec.shared().is_some(), ..pass };
    let router = RouterPlan::new(device, spec, options)?;
    let experts = ExpertPlan::new(device, spec, options)?;
    let scratch = footprints(device, spec, options, &router, &experts, pass)?;
    sum(spec, options, &router, &experts, pass, scratch)
}

/// The tensors that a pass works on, without memory.
struct Planned {
    input: LayerInput<'static>,
    /// What the router gives, or was given in its place, among them.
    outputs: Outputs<'static>,
    /// What the shared expert gives on a stream of its own.
    shared: Option<TensorViewMut<'static>>,
}

impl Planned {
    fn new(spec: &MoeSpec, options: LayerOptions, router: &RouterPlan, pass: Pass) -> Result<Self> {
        let Pass { tokens, router_input, padded, overlapped, routed, .. } = pass;
        let (dtype, hidden) = (DType::from(options.dtype), spec.experts().hidden);
        let mut input = LayerInput::from(TensorView::planned(dtype, &[tokens, hidden])?);
        let seen = || TensorView::planned(dtype, &[tokens, hidden]);
        input.router_input = router_input.then(seen).transpose()?;
        if let (Choice::Table { .. }, None) = (spec.router().choice, routed) {
            input.token_ids = Some(TensorView::planned(DType::I64, &[tokens])?);
        }
        input.valid_tokens = padded.then(|| TensorView::planned(DType::I32, &[1])).transpose()?;
        let (top_k, gate) =
            routed.map_or((spec.router().choices(), router.gate_dtype()), |(top_k, dtype)| (top_k, dtype.into()));
        Ok(Self {
            input,
            outputs: Outputs::planned(spec, dtype, gate, tokens, top_k)?,
            shared: overlapped.then(|| TensorViewMut::planned(dtype, &[tokens, hidden])).transpose()?,
        })
    }

    /// Device bytes.
    fn bytes(&self) -> u64 {
        let Self { input, outputs, shared } = self;
        let shared = shared.as_ref().map(TensorViewMut::as_view);
        let inputs = [Some(input.x), input.router_input, input.token_ids, input.valid_tokens, shared];
        let inputs = inputs.into_iter().flatten().map(|view| bytes_of(&view));
        inputs.chain(outputs.bytes()).map(|bytes| allocation(bytes as u64)).fold(0, u64::saturating_add)
    }
}

/// Everything but the scratch, which is given.
fn sum(
    spec: &MoeSpec,
    options: LayerOptions,
    router: &RouterPlan,
    experts: &ExpertPlan,
    pass: Pass,
    [scratch, side_scratch]: [Footprint; 2],
) -> Result<MemoryPlan> {
    let shapes = WeightShapes::new(spec, options, experts, |_| true)?;
    Ok(MemoryPlan {
        weights: shapes.bytes().map(allocation).fold(0, u64::saturating_add),
        in_out: Planned::new(spec, options, router, pass)?.bytes(),
        scratch,
        side_scratch,
        staging: shapes.staging_bytes() as u64,
    })
}

/// Scratch of a pass and of its side stream: the pass itself, on tensors without memory.
pub(super) fn footprints(
    device: &Device,
    spec: &MoeSpec,
    options: LayerOptions,
    router: &RouterPlan,
    plan: &ExpertPlan,
    pass: Pass,
) -> Result<[Footprint; 2]> {
    let (sequence, side) = (device.plan(), device.plan());
    if pass.tokens > 0 {
        let shapes = WeightShapes::new(spec, options, plan, |_| true)?;
        let weights = shapes.planned()?;
        let Planned { input, mut outputs, shared: mut beside } = Planned::new(spec, options, router, pass)?;
        if let Some(beside) = &mut beside {
            shared(&side, spec, &weights, input.x, beside)?;
        }
        let before = beside.as_ref().map(TensorViewMut::as_view);
        if pass.routed.is_some() {
            let Outputs { output, ids, weights: chosen, counts } = &mut outputs;
            let (ids, chosen) = (ids.as_view(), chosen.as_view());
            let operands = Operands { x: input.x, ids, chosen, shared: None, padded: false };
            experts(&sequence, spec, &weights, &operands, output, counts, &mut None)?;
        } else if pass.chunk {
            forward::run_chunk(&sequence, spec, router, &weights, &input, outputs)?;
        } else {
            forward::run(&sequence, spec, router, &weights, &input, before, &mut outputs, &mut None)?;
        }
    }
    Ok([sequence.footprint(), side.footprint()])
}

/// Device bytes that a tensor of so many bytes takes.
fn allocation(bytes: u64) -> u64 {
    let held = usize::try_from(bytes).ok().filter(|&bytes| bytes > 0).and_then(|bytes| Padding::Kernel.held(bytes));
    held.map_or(0, |held| held as u64)
}

/// The greatest chunk of at most `tokens` whose scratch takes at most `limit` device bytes.
fn greatest_chunk(
    tokens: usize,
    limit: u64,
    footprint: impl Fn(Pass) -> Result<Footprint>,
) -> Result<(usize, Footprint)> {
    let fits = |pass: Pass| match footprint(pass) {
        Ok(footprint) => Ok(Some(footprint).filter(|footprint| footprint.allocation() <= limit)),
        // So many tokens are beyond what an operator takes, or an address reaches.
        Err(Error::Rule(_) | Error::Shape { .. }) if pass.tokens > 1 => Ok(None),
        Err(error) => Err(error),
    };
    let all = tokens.max(1);
    if let Some(footprint) = fits(all.into())? {
        return Ok((all, footprint));
    }
    let one = if all > 1 { Pass::from(1).chunk() } else { Pass::from(1) };
    let Some(mut best) = fits(one)?.map(|footprint| (1, footprint)) else {
        let least = footprint(one)?.allocation();
        return Err(Error::shape("scratch limit", format_args!("{limit} bytes"), format_args!("at least {least}")));
    };
    // `low` fits, `high` does not; scratch grows with the tokens.
    let (mut low, mut high) = (1, all);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match fits(Pass::from(middle).chunk())? {
            Some(footprint) => (low, best) = (middle, (middle, footprint)),
            None => high = middle,
        }
    }
    Ok(best)
}

impl MoeLayer {
    /// How a pass is cut so that temporary tensors and workspaces take at most `scratch_limit` device bytes, and what
    /// the layer then needs: known before it is loaded. Of the pass, its number of tokens counts and whether the router
    /// has an input of its own: what comes in chunks is neither padded nor overlapped nor routed elsewhere.
    ///
    /// # Errors
    /// [`Error::Shape`] where not even one token keeps to the limit, and those of [`memory_plan`](Self::memory_plan).
    pub fn chunk_plan(
        device: &Device,
        spec: &MoeSpec,
        options: LayerOptions,
        pass: impl Into<Pass>,
        scratch_limit: u64,
    ) -> Result<ChunkPlan> {
        let Pass { tokens, router_input, .. } = pass.into();
        let whole = Pass { router_input, ..tokens.into() };
        let router = RouterPlan::new(device, spec, options)?;
        let experts = ExpertPlan::new(device, spec, options)?;
        let (chunk, scratch) = greatest_chunk(tokens, scratch_limit, |pass| {
            let [scratch, _] = footprints(device, spec, options, &router, &experts, pass)?;
            Ok(scratch)
        })?;
        let memory = sum(spec, options, &router, &experts, whole, [scratch, Footprint::default()])?;
        Ok(ChunkPlan { tokens, chunk, memory })
    }

    /// [`forward`](Self::forward) in chunks of at most `chunk` tokens, one after the other on the stream: the same result bit
    /// for bit, with the scratch of one chunk. In steady state nothing is allocated, and nothing waits.
    ///
    /// # Errors
    /// [`Error::Shape`] for a chunk of no tokens and for [`LayerInput::valid_tokens`], and those of
    /// [`forward`](Self::forward).
    pub fn forward_chunked<'a>(
        &self,
        stream: &Stream,
        input: impl Into<LayerInput<'a>>,
        chunk: usize,
        output: &mut LayerOutput,
    ) -> Result<()> {
        let input = input.into();
        let tokens = self.check(&input, output)?;
        if chunk == 0 {
            return Err(Error::shape("chunk", "0 tokens", "at least 1"));
        }
        if input.valid_tokens.is_some() {
            return Err(Error::shape("valid tokens", "given", "none in a pass of chunks: cut the input instead"));
        }
        if tokens <= chunk {
            return self.forward_into(stream, input, output);
        }
        output.expert_counts.view_mut().zero(&stream.sequence()?)?;
        for first in (0..tokens).step_by(chunk) {
            let rows = first..tokens.min(first + chunk);
            let [scratch, _] = self.footprints(Pass::from(rows.len()).chunk())?;
            let sequence = stream.sequence_with(scratch)?;
            let whole = Outputs::of(output);
            let part = Outputs {
                output: whole.output.rows(rows.clone())?,
                ids: whole.ids.rows(rows.clone())?,
                weights: whole.weights.rows(rows.clone())?,
                counts: whole.counts,
            };
            let Router { spec, plan, weights, .. } = &self.router;
            forward::run_chunk(&sequence, spec, plan, &weights.views()?, &input.rows(rows)?, part)?;
        }
        Ok(())
    }
}
