//! One mixture-of-experts layer as a point on independent axes: a router, routed experts, a shared expert.

use super::{Choice, ExpertSpec, RouterSpec, SharedSpec, SpecError};

/// Most experts in a layer.
pub const MAX_EXPERTS: usize = 1 << 16;
/// Greatest hidden or intermediate width.
pub const MAX_WIDTH: usize = 1 << 20;
/// Most weights in one layer: 4 TiB of `float32`. Keeps every byte count of a model far from overflow.
pub const MAX_LAYER_ELEMENTS: usize = 1 << 40;

/// One mixture-of-experts layer. Validated: sizes are in range, the router's choice is possible.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MoeSpec {
    router: RouterSpec,
    experts: ExpertSpec,
    shared: Option<SharedSpec>,
}

impl MoeSpec {
    /// A layer of these parts.
    ///
    /// # Errors
    /// [`SpecError`] names the first rule that is broken and what would be legal.
    pub fn new(router: RouterSpec, experts: ExpertSpec, shared: Option<SharedSpec>) -> Result<Self, SpecError> {
        in_range("experts.num", experts.num, MAX_EXPERTS)?;
        in_range("experts.hidden", experts.hidden, MAX_WIDTH)?;
        in_range("experts.intermediate", experts.intermediate, MAX_WIDTH)?;
        in_range("the experts with and without weights", experts.routed(), MAX_EXPERTS)?;
        experts.activation.validate()?;
        if let Some(latent) = experts.latent {
            in_range("experts.latent", latent, MAX_WIDTH)?;
            if experts.copy > 0 || experts.constant > 0 {
                return Err(SpecError::LatentCopies);
            }
        }
        for eps in [experts.output_norm, experts.latent_norm, experts.row_norm].into_iter().flatten() {
            if !(eps.is_finite() && eps >= 0.0) {
                return Err(SpecError::Epsilon { value: eps });
            }
        }
        if experts.latent_norm.is_some() && experts.latent.is_none() {
            return Err(SpecError::NoLatent);
        }
        if let Some(shared) = shared {
            in_range("shared.intermediate", shared.intermediate, MAX_WIDTH)?;
            shared.activation.validate()?;
        }
        if router.always > 0 && experts.routed() > experts.num {
            return Err(SpecError::AlwaysBeside { what: "experts without weights" });
        }
        router.validate(experts.routed())?;
        let spec = Self { router, experts, shared };
        let elements = spec.all_elements();
        if elements > MAX_LAYER_ELEMENTS as u128 {
            return Err(SpecError::LayerTooLarge { elements, max: MAX_LAYER_ELEMENTS });
        }
        Ok(spec)
    }

    /// The router.
    pub const fn router(&self) -> &RouterSpec {
        &self.router
    }

    /// The routed experts.
    pub const fn experts(&self) -> &ExpertSpec {
        &self.experts
    }

    /// The shared expert, if any.
    pub const fn shared(&self) -> Option<&SharedSpec> {
        self.shared.as_ref()
    }

    /// Weights of the layer; no product of sizes in range overflows 128 bits.
    fn all_elements(&self) -> u128 {
        let big = |n: usize| n as u128;
        let (router, experts) = (&self.router, &self.experts);
        let (hidden, width, inner) = (big(experts.hidden), big(experts.width()), big(experts.intermediate));
        let w13 = if experts.activation.gated { 2 * inner } else { inner };
        let table = match router.choice {
            Choice::Table { vocab } => big(vocab) * big(router.top_k),
            _ => 0,
        };
        let shared = self.shared.map_or(0, |s| {
            let inner = big(s.intermediate);
            hidden * (1 + inner + if s.activation.gated { 2 * inner } else { inner })
        });
        (big(experts.routed()) + 3 * big(experts.constant)) * (hidden + 2)
            + big(experts.num) * (w13 * (width + 1) + width * (inner + 1))
            + 2 * hidden * experts.latent.map_or(0, big)
            + table
            + shared
    }
}

pub(super) fn in_range(field: &'static str, value: usize, max: usize) -> Result<(), SpecError> {
    if (1..=max).contains(&value) {
        Ok(())
    } else {
        Err(SpecError::OutOfRange { field, value: value.to_string(), min: 1, max })
    }
}
