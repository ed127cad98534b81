//! Bytes that a layer needs, told before anything of it is allocated.

use super::forward::{self, Outputs};
use super::weights::{WeightShapes, staging_bytes};
use super::{LayerOptions, RouterPlan};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::memory::Padding;
use crate::scratch::Footprint;
use crate::spec::MoeSpec;
use crate::tensor::TensorView;

/// Bytes that a layer needs. Device sizes count what the allocator rounds them to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryPlan {
    /// Device: the weights.
    pub weights: u64,
    /// Device: the input and the outputs of one pass of the greatest number of tokens.
    pub in_out: u64,
    /// Device: temporary tensors and the largest operator workspace; one for all layers on a stream.
    pub scratch: Footprint,
    /// Host, pinned, while the weights are loaded.
    pub staging: u64,
}

impl MemoryPlan {
    /// Device bytes of one layer with one stream: what its peak will be.
    pub fn device_bytes(&self) -> u64 {
        self.weights + self.in_out + self.scratch.allocation()
    }
}

pub(super) fn plan(device: &Device, spec: &MoeSpec, options: LayerOptions, tokens: usize) -> Result<MemoryPlan> {
    let router = RouterPlan::new(spec.router(), options.dtype, device.cann().release())?;
    let dtype = DType::from(options.dtype);
    let outputs = Outputs::planned(spec, dtype, router.gate.into(), tokens)?;
    let in_out = std::iter::once(tokens * spec.experts().hidden * dtype.bytes()).chain(outputs.bytes());
    Ok(MemoryPlan {
        weights: WeightShapes::new(spec, options, |_| true)?.bytes().map(allocation).sum(),
        in_out: in_out.map(|bytes| allocation(bytes as u64)).sum(),
        scratch: footprint(device, spec, options, &router, tokens)?,
        staging: staging_bytes(spec, options) as u64,
    })
}

/// Scratch of a pass of `tokens`: the pass itself, on tensors without memory.
pub(super) fn footprint(
    device: &Device,
    spec: &MoeSpec,
    options: LayerOptions,
    router: &RouterPlan,
    tokens: usize,
) -> Result<Footprint> {
    let sequence = device.plan();
    if tokens > 0 {
        let dtype = DType::from(options.dtype);
        let weights = WeightShapes::new(spec, options, |_| true)?.planned()?;
        let x = TensorView::planned(dtype, &[tokens, spec.experts().hidden])?;
        let mut outputs = Outputs::planned(spec, dtype, router.gate.into(), tokens)?;
        forward::run(&sequence, spec, router, &weights, x, &mut outputs, &mut None)?;
    }
    Ok(sequence.footprint())
}

/// Device bytes that a tensor of so many bytes takes.
fn allocation(bytes: u64) -> u64 {
    let held = usize::try_from(bytes).ok().filter(|&bytes| bytes > 0).and_then(|bytes| Padding::Kernel.held(bytes));
    held.map_or(0, |held| held as u64)
}
