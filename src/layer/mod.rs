//! A mixture-of-experts layer on a device: its weights, the plan of its router, and the forward pass.
//!
//! The steps and their operators, for fp32, bf16 and fp16:
//!
//! | step | operators |
//! |---|---|
//! | router logits | `Cast` where types differ, `Mm` |
//! | choice and weights | `MoeGatingTopK` |
//! | expand | `MoeInitRoutingV3`, unquantised, dropless |
//! | gate and up | `GroupedMatmulV5` (or V4) |
//! | activation | `SwiGlu` |
//! | down | `GroupedMatmulV5` (or V4) |
//! | shared expert | `Mm`, `SwiGlu`, `Mm` |
//! | combine | `MoeFinalizeRoutingV2`, which adds the shared expert; fp16: `MoeTokenUnpermute` and `Add` |
//!
//! fp16 is combined by `MoeTokenUnpermute` because the fp16 kernels of `MoeFinalizeRoutingV2` round after every step
//! (ops-transformer 9.1.0, moe/moe_finalize_routing_v2), where `MoeTokenUnpermute` sums in fp32.
//!
//! Not run on hardware yet: what is known of the operators comes from CANN's public sources.

mod forward;
mod memory;
mod probe;
mod router;
mod weights;

pub use forward::{LayerOutput, RoutedOutput};
pub use memory::MemoryPlan;
pub use probe::{Probe, Step};
pub use router::RouterPlan;
pub use weights::WeightSource;

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::device::Device;
use crate::error::Result;
use crate::scratch::Footprint;
use crate::spec::{FloatType, MoeSpec, Part};
use crate::stream::Stream;
use weights::{Upload, Weights};

/// How a layer is held and run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerOptions {
    /// Type of the activations and of the experts' weights.
    pub dtype: FloatType,
}

impl LayerOptions {
    /// A layer that runs in `dtype`.
    pub const fn new(dtype: FloatType) -> Self {
        Self { dtype }
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
        let plan = Self::plan_for(stream.device(), source.spec(), options)?;
        let weights = Upload::new(stream, source, options, &mut |_, _| {})?.all(Part::of_router)?;
        Ok(Self { spec: *source.spec(), options, plan, weights, device: stream.device().clone() })
    }

    fn plan_for(device: &Device, spec: &MoeSpec, options: LayerOptions) -> Result<RouterPlan> {
        RouterPlan::new(spec.router(), options.dtype, device.cann().release())
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
    /// By number of tokens.
    footprints: Mutex<BTreeMap<usize, Footprint>>,
}

impl MoeLayer {
    /// Bytes that a layer will need, told before it is loaded. Asks CANN for the workspace of each operator, so the
    /// libraries must be able to run the layer.
    ///
    /// `tokens` is the greatest number of tokens of a forward pass.
    ///
    /// # Errors
    /// [`Error::UnsupportedRouter`](crate::Error::UnsupportedRouter) where no operator of the loaded release computes
    /// the router, [`Error::Rule`](crate::Error::Rule) where a size breaks a rule of an operator,
    /// [`Error::MissingOperator`](crate::Error::MissingOperator) and [`Error::Vendor`](crate::Error::Vendor).
    pub fn memory_plan(device: &Device, spec: &MoeSpec, options: LayerOptions, tokens: usize) -> Result<MemoryPlan> {
        memory::plan(device, spec, options, tokens)
    }

    /// Copies a layer's weights to the device, expert by expert through a bounded pinned buffer.
    ///
    /// `progress` is told the bytes done and the bytes in all.
    ///
    /// # Errors
    /// [`Error::UnsupportedRouter`](crate::Error::UnsupportedRouter),
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory), and those of the source.
    pub fn load(
        stream: &Stream,
        source: &dyn WeightSource,
        options: LayerOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        let device = stream.device().clone();
        let spec = *source.spec();
        let plan = Router::plan_for(&device, &spec, options)?;
        let weights = Upload::new(stream, source, options, progress)?.all(|_| true)?;
        let router = Router { spec, options, plan, weights, device };
        Ok(Self { router, footprints: Mutex::default() })
    }

    /// What the layer computes.
    pub fn spec(&self) -> &MoeSpec {
        &self.router.spec
    }

    /// Type it runs in.
    pub fn dtype(&self) -> FloatType {
        self.router.options.dtype
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
