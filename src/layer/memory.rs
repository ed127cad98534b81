//! Bytes that a layer needs, told before anything of it is allocated, and passes in chunks that keep to a limit.

use super::forward::{self, Outputs, Shape};
use super::weights::{WeightShapes, staging_bytes};
use super::{LayerInput, LayerOptions, LayerOutput, MoeLayer, RouterPlan};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::memory::Padding;
use crate::op;
use crate::scratch::Footprint;
use crate::spec::{Choice, MoeSpec};
use crate::stream::Stream;
use crate::tensor::{Tensor, TensorView};

/// Bytes that a layer needs. Device sizes count what the allocator rounds them to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryPlan {
    /// Device: the weights.
    pub weights: u64,
    /// Device: the input, 64-bit token ids where experts are chosen by them, and the outputs of one pass of the greatest number
    /// of tokens.
    pub in_out: u64,
    /// Device: temporary tensors and the largest operator workspace; one for all layers on a stream.
    pub scratch: Footprint,
    /// Host, pinned, while the weights are loaded.
    pub staging: u64,
}

impl MemoryPlan {
    /// Device bytes of one layer with one stream: what its peak will be.
    pub fn device_bytes(&self) -> u64 {
        self.weights.saturating_add(self.in_out).saturating_add(self.scratch.allocation())
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

pub(super) fn plan(device: &Device, spec: &MoeSpec, options: LayerOptions, tokens: usize) -> Result<MemoryPlan> {
    let router = RouterPlan::new(device, spec, options)?;
    let scratch = footprint(device, spec, options, &router, Shape { tokens, padded: false, overlapped: false })?;
    sum(spec, options, &router, tokens, scratch)
}

/// Everything but the scratch, which is given.
fn sum(
    spec: &MoeSpec,
    options: LayerOptions,
    router: &RouterPlan,
    tokens: usize,
    scratch: Footprint,
) -> Result<MemoryPlan> {
    let dtype = DType::from(options.dtype);
    let outputs = Outputs::planned(spec, dtype, router.gate_dtype(), tokens)?;
    let x = tokens.saturating_mul(spec.experts().hidden).saturating_mul(dtype.bytes());
    let token_ids = match spec.router().choice {
        Choice::Table { .. } => tokens.saturating_mul(DType::I64.bytes()),
        _ => 0,
    };
    let in_out = [x, token_ids].into_iter().chain(outputs.bytes());
    Ok(MemoryPlan {
        weights: WeightShapes::new(spec, options, |_| true)?.bytes().map(allocation).fold(0, u64::saturating_add),
        in_out: in_out.map(|bytes| allocation(bytes as u64)).fold(0, u64::saturating_add),
        scratch,
        staging: staging_bytes(spec, options) as u64,
    })
}

/// Scratch of a pass: the pass itself, on tensors without memory.
pub(super) fn footprint(
    device: &Device,
    spec: &MoeSpec,
    options: LayerOptions,
    router: &RouterPlan,
    shape: Shape,
) -> Result<Footprint> {
    let sequence = device.plan();
    let Shape { tokens, padded, overlapped } = shape;
    if tokens > 0 {
        let dtype = DType::from(options.dtype);
        let weights = WeightShapes::new(spec, options, |_| true)?.planned()?;
        let x = TensorView::planned(dtype, &[tokens, spec.experts().hidden])?;
        let mut input = LayerInput::from(x);
        if let Choice::Table { .. } = spec.router().choice {
            input.token_ids = Some(TensorView::planned(DType::I64, &[tokens])?);
        }
        input.valid_tokens = padded.then(|| TensorView::planned(DType::I32, &[1])).transpose()?;
        let mut outputs = Outputs::planned(spec, dtype, router.gate_dtype(), tokens)?;
        let shared = overlapped.then_some(x);
        forward::run(&sequence, spec, router, &weights, &input, shared, &mut outputs, &mut None)?;
    }
    Ok(sequence.footprint())
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
    footprint: impl Fn(usize) -> Result<Footprint>,
) -> Result<(usize, Footprint)> {
    let fits = |tokens: usize| match footprint(tokens) {
        Ok(footprint) => Ok(Some(footprint).filter(|footprint| footprint.allocation() <= limit)),
        // So many tokens are beyond what an operator takes, or an address reaches.
        Err(Error::Rule(_) | Error::Shape { .. }) if tokens > 1 => Ok(None),
        Err(error) => Err(error),
    };
    let all = tokens.max(1);
    if let Some(footprint) = fits(all)? {
        return Ok((all, footprint));
    }
    let Some(mut best) = fits(1)?.map(|footprint| (1, footprint)) else {
        let least = footprint(1)?.allocation();
        return Err(Error::shape("scratch limit", format_args!("{limit} bytes"), format_args!("at least {least}")));
    };
    // `low` fits, `high` does not; scratch grows with the tokens.
    let (mut low, mut high) = (1, all);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match fits(middle)? {
            Some(footprint) => (low, best) = (middle, (middle, footprint)),
            None => high = middle,
        }
    }
    Ok(best)
}

impl MoeLayer {
    /// How a pass of `tokens` is cut so that temporary tensors and workspaces take at most `scratch_limit` device bytes, and
    /// what the layer then needs: known before it is loaded.
    ///
    /// # Errors
    /// [`Error::Shape`] where not even one token keeps to the limit, and those of [`memory_plan`](Self::memory_plan).
    pub fn chunk_plan(
        device: &Device,
        spec: &MoeSpec,
        options: LayerOptions,
        tokens: usize,
        scratch_limit: u64,
    ) -> Result<ChunkPlan> {
        let router = RouterPlan::new(device, spec, options)?;
        let (chunk, scratch) = greatest_chunk(tokens, scratch_limit, |tokens| {
            footprint(device, spec, options, &router, Shape { tokens, padded: false, overlapped: false })
        })?;
        let mut memory = sum(spec, options, &router, tokens, scratch)?;
        if chunk < tokens {
            // The counts of one chunk, to be added to those before.
            memory.in_out = memory.in_out.saturating_add(allocation(8 * spec.experts().num as u64));
        }
        Ok(ChunkPlan { tokens, chunk, memory })
    }

    /// [`forward`](Self::forward) in chunks of at most `chunk` tokens, one after the other on the stream: the same result bit
    /// for bit, with the scratch of one chunk.
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
        let mut counts = Tensor::zeros(self.device(), DType::I64, &[self.spec().experts().num])?;
        output.expert_counts.view_mut().zero(&stream.sequence()?)?;
        for first in (0..tokens).step_by(chunk) {
            let rows = first..tokens.min(first + chunk);
            let shape = Shape { tokens: rows.len(), padded: false, overlapped: false };
            let sequence = stream.sequence_with(self.footprint(shape)?)?;
            let whole = Outputs::of(output);
            let mut part = Outputs {
                output: whole.output.rows(rows.clone())?,
                ids: whole.ids.rows(rows.clone())?,
                weights: whole.weights.rows(rows.clone())?,
                counts: counts.view_mut(),
            };
            let router = &self.router;
            let views = router.weights.views();
            forward::run(
                &sequence,
                &router.spec,
                &router.plan,
                &views,
                &input.rows(rows)?,
                None,
                &mut part,
                &mut None,
            )?;
            add_counts(&sequence, counts.view(), &mut output.expert_counts)?;
        }
        Ok(())
    }
}

/// Adds the counts of a chunk to those before it.
fn add_counts(sequence: &crate::Sequence<'_>, part: TensorView<'_>, total: &mut Tensor) -> Result<()> {
    sequence.purpose("counts");
    let mut sum = sequence.tensor(DType::I64, &[part.dim(0).try_into().unwrap_or(0)])?;
    op::add(sequence, &total.view(), &part, 1.0, &mut sum)?;
    op::copy(sequence, &sum.as_view(), &mut total.view_mut())
}
