//! A mixture-of-experts layer on a device: its weights, the plan of its router, and the forward pass.
//!
//! The steps and their operators, for fp32, bf16 and fp16:
//!
//! | step | operators |
//! |---|---|
//! | norm of the router's input, where it has one | `RmsNorm`, `Muls` |
//! | router logits | `Cast` where types differ, `Mm`, or `Addmm` where logits have a bias |
//! | choice and weights | `MoeGatingTopK`, or a composition: see [`RouterPlan`] |
//! | expand | `MoeInitRoutingV3`, unquantised, dropless |
//! | gate and up | `GroupedMatmulV5` (or an older one) |
//! | activation | `SwiGlu`, `ClippedSwiglu`, or a composition |
//! | down | `GroupedMatmulV5` (or an older one) |
//! | shared expert | `Mm`, the activation, `Mm` |
//! | combine | `MoeFinalizeRoutingV2`, which adds the shared expert; else `MoeTokenUnpermute` and `Add` |
//!
//! fp16 is combined by `MoeTokenUnpermute` because the fp16 kernels of `MoeFinalizeRoutingV2` round after every step
//! (ops-transformer 9.1.0, moe/moe_finalize_routing_v2), where `MoeTokenUnpermute` sums in fp32. So are layers in which a
//! choice may have no row, which `MoeFinalizeRoutingV2` does not take.
//!
//! Experts whose projections are quantised run on other operators, see [`ExpertFormat`].
//!
//! Not run on hardware yet: what is known of the operators comes from CANN's public sources.

mod activation;
mod experts;
mod format;
mod forward;
mod memory;
mod probe;
mod project;
mod route;
mod router;
mod source;
mod upload;
mod weights;

pub use format::{ExpertFormat, ExpertPlan};
pub use forward::{LayerInput, LayerOutput, Pass, RoutedOutput};
pub use memory::{ChunkPlan, MemoryPlan};
pub use moe_kernels::formats::requantise::QuantError;
pub use probe::{Probe, Step};
pub(crate) use router::PlanCache;
pub use router::{RouterMethod, RouterPlan};
pub use source::{Codes, WeightSource};

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::scratch::Footprint;
use crate::spec::{FloatType, MoeSpec, Part};
use crate::stream::Stream;
use upload::Upload;
use weights::Weights;

/// How a layer is held and run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerOptions {
    /// Type of the activations, and of the weights that are not quantised.
    pub dtype: FloatType,
    /// How the projections of the experts are held.
    pub experts: ExpertFormat,
}

impl LayerOptions {
    /// A layer that runs in `dtype`, its experts as well.
    pub const fn new(dtype: FloatType) -> Self {
        Self { dtype, experts: ExpertFormat::Float }
    }

    /// The same with experts in another format.
    pub const fn with_experts(self, experts: ExpertFormat) -> Self {
        Self { experts, ..self }
    }
}

/// A router whose weights are on a device: scores, choice and weights of the chosen experts.
pub struct Router {
    spec: MoeSpec,
    options: LayerOptions,
    plan: RouterPlan,
    /// Those of a router alone, or of the whole layer.
    weights: Weights,
    device: Device,
}

impl Router {
    /// Copies a router's weights to the device.
    ///
    /// # Errors
    /// Those of [`MoeLayer::load`].
    pub fn load(stream: &Stream, source: &dyn WeightSource, options: LayerOptions) -> Result<Self> {
        let plan = RouterPlan::new(stream.device(), source.spec(), options)?;
        let weights =
            Upload::new(stream, source, options, &ExpertPlan::FLOAT, Part::of_router, &mut |_, _| {})?.all()?;
        Ok(Self { spec: *source.spec(), options, plan, weights, device: stream.device().clone() })
    }

    /// How it is mapped to operators.
    pub fn plan(&self) -> &RouterPlan {
        &self.plan
    }
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router").field("spec", self.spec.router()).field("plan", &self.plan).finish_non_exhaustive()
    }
}

/// A mixture-of-experts layer whose weights are on a device.
///
/// It may be used from several threads, each with a stream of its own; on one stream calls of several threads follow
/// one another. Layers on one stream share its scratch.
pub struct MoeLayer {
    router: Router,
    /// Of each kind of pass so far: scratch of its stream, and of the side stream.
    footprints: Mutex<HashMap<Pass, [Footprint; 2]>>,
}

impl MoeLayer {
    /// Bytes that a layer will need, told before it is loaded. Asks CANN for the workspace of each operator, so the
    /// libraries must be able to run the layer.
    ///
    /// `pass` has the greatest number of tokens: that number alone for a plain pass, or a [`Pass`] for one that is padded,
    /// overlapped or routed elsewhere.
    ///
    /// # Errors
    /// [`Error::Rule`] where a size breaks a rule of an operator,
    /// [`Error::MissingOperator`] and [`Error::Vendor`].
    pub fn memory_plan(
        device: &Device,
        spec: &MoeSpec,
        options: LayerOptions,
        pass: impl Into<Pass>,
    ) -> Result<MemoryPlan> {
        memory::plan(device, spec, options, pass.into())
    }

    /// Copies a layer's weights to the device, expert by expert through a bounded pinned buffer.
    ///
    /// `progress` is told the bytes done and the bytes in all.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Shape`] for a table of token ids that names an expert which is not there, those of the
    /// source, and those of [`memory_plan`](Self::memory_plan).
    pub fn load(
        stream: &Stream,
        source: &dyn WeightSource,
        options: LayerOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        let device = stream.device().clone();
        let spec = *source.spec();
        let plan = RouterPlan::new(&device, &spec, options)?;
        let experts = ExpertPlan::new(&device, &spec, options)?;
        let weights = Upload::new(stream, source, options, &experts, |_| true, progress)?.all()?;
        let router = Router { spec, options, plan, weights, device };
        Ok(Self { router, footprints: Mutex::default() })
    }

    /// Replaces a part of the weights, or of one that comes expert by expert those of a range, once what is queued has used
    /// them. What is queued later sees the new ones, and so do launches of graphs captured before.
    ///
    /// # Errors
    /// [`Error::Shape`] where the source is of another layer, the layer has no such part, the range is none of its experts or
    /// a table of token ids names one that is not there; [`Error::Capturing`] while the stream is captured; and those of the
    /// source.
    pub fn replace_weights(
        &mut self,
        stream: &Stream,
        source: &dyn WeightSource,
        part: Part,
        experts: Range<usize>,
    ) -> Result<()> {
        let Router { spec, options, weights, .. } = &mut self.router;
        if source.spec() != spec {
            return Err(Error::shape("weight source", "weights of another layer", "those of a layer of this spec"));
        }
        let num = spec.experts().num;
        if part.per_expert() && (experts.start > experts.end || experts.end > num) {
            return Err(Error::shape("experts", format_args!("{experts:?}"), format_args!("within 0..{num}")));
        }
        let plan = weights.plan().clone();
        let Some(held) = weights.get_mut(part) else {
            return Err(Error::shape("part of the weights", part.name(), "one that the layer has"));
        };
        Upload::new(stream, source, *options, &plan, |_| true, &mut |_, _| {})?.part(part, experts, held)
    }

    /// What the layer computes.
    pub fn spec(&self) -> &MoeSpec {
        &self.router.spec
    }

    /// Type it runs in.
    pub fn dtype(&self) -> FloatType {
        self.router.options.dtype
    }

    /// How its experts are held, and which operators multiply with them.
    pub fn experts(&self) -> &ExpertPlan {
        self.router.weights.plan()
    }

    /// How far the codes of its experts are from the values they were made of, as they were loaded; exact in floating point.
    pub fn quantisation_error(&self) -> QuantError {
        self.router.weights.error()
    }

    /// Its router.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Its device.
    pub fn device(&self) -> &Device {
        &self.router.device
    }
}

impl std::fmt::Debug for MoeLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MoeLayer").field("spec", self.spec()).field("dtype", &self.dtype()).finish_non_exhaustive()
    }
}
