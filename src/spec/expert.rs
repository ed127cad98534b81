//! The axes of experts: what one computes between its projections, and what stands beside the routed ones.

use super::SpecError;

/// The function between an expert's projections.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum ActivationFn {
    /// Gated `silu(gate) * up`; without a gate `silu(up)`.
    Silu,
    /// `(up + 1) * gate * sigmoid(alpha * gate)`; always gated.
    GptOss {
        /// Factor within the logistic function.
        alpha: f64,
    },
    /// Gated `relu(gate)^2 * up`; without a gate `relu(up)^2`.
    Relu2,
    /// `cap(gate, g) * sigmoid(gate) * cap(up, u)` in fp32, with `cap(x, c) = c * tanh(x / c)`; always gated.
    Softcapped {
        /// The cap `g` on the gate.
        gate: f64,
        /// The cap `u` on up.
        up: f64,
    },
    /// Gated `gelu(gate) * up`; without a gate `gelu(up)`: the Gaussian error linear unit by its `tanh` approximation,
    /// `gelu(g) = g / 2 * (1 + tanh(sqrt(2 / pi) * (g + 0.044715 g^3)))`.
    GeluTanh,
}

/// Where a clamp stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClampAt {
    /// Ahead of the activation: the gate is capped from above, up on both sides.
    Before,
    /// Behind it: the activated gate is capped from above, up on both sides.
    After,
}

/// A limit on what enters or leaves the activation. The gate has no lower limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clamp {
    /// The limit, above 0.
    pub limit: f64,
    /// Where it stands.
    pub at: ClampAt,
}

/// What an expert computes between its projections.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Activation {
    /// The function.
    pub function: ActivationFn,
    /// Whether there is a gate projection.
    pub gated: bool,
    /// A clamp, if any; only with a gate.
    pub clamp: Option<Clamp>,
}

impl Activation {
    /// SwiGLU: `silu(gate) * up`.
    pub const SWIGLU: Self = Self { function: ActivationFn::Silu, gated: true, clamp: None };

    /// A function with a gate and without a clamp. Set fields to differ.
    pub const fn new(function: ActivationFn) -> Self {
        Self { function, gated: true, clamp: None }
    }

    /// The same with a clamp.
    pub const fn clamped(mut self, limit: f64, at: ClampAt) -> Self {
        self.clamp = Some(Clamp { limit, at });
        self
    }

    /// The same without a gate projection.
    pub const fn ungated(mut self) -> Self {
        self.gated = false;
        self
    }

    /// Width of the first projection's output for a width inside: twice where there is a gate.
    pub const fn width(&self, intermediate: usize) -> usize {
        if self.gated { 2 * intermediate } else { intermediate }
    }

    pub(super) fn validate(&self) -> Result<(), SpecError> {
        if let ActivationFn::GptOss { alpha } = self.function {
            if !(alpha.is_finite() && alpha > 0.0) {
                return Err(SpecError::NotPositive { field: "alpha", value: alpha });
            }
            if !self.gated {
                return Err(SpecError::NoGate { what: "the gpt-oss activation" });
            }
        }
        if let ActivationFn::Softcapped { gate, up } = self.function {
            for (field, value) in [("gate cap", gate), ("up cap", up)] {
                if !(value.is_finite() && value > 0.0) {
                    return Err(SpecError::NotPositive { field, value });
                }
            }
            if !self.gated {
                return Err(SpecError::NoGate { what: "the soft-capped activation" });
            }
        }
        match self.clamp {
            Some(_) if !self.gated => Err(SpecError::NoGate { what: "a clamp" }),
            Some(Clamp { limit, .. }) if !(limit.is_finite() && limit > 0.0) => {
                Err(SpecError::NotPositive { field: "limit", value: limit })
            }
            _ => Ok(()),
        }
    }
}

/// The routed experts: `down(act(gate(x), up(x)))`, and those without weights that a router may know beside them.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ExpertSpec {
    /// Experts with weights, `E`.
    pub num: usize,
    /// Width of the hidden state, `H`.
    pub hidden: usize,
    /// Width inside an expert, `I`.
    pub intermediate: usize,
    /// Activation.
    pub activation: Activation,
    /// Whether both projections have biases.
    pub bias: bool,
    /// Whether the routing weight multiplies the expert's input, not its output.
    pub weight_on_input: bool,
    /// Experts `E..E+zero`, which add nothing.
    pub zero: usize,
    /// Experts behind these, which give back their input.
    pub copy: usize,
    /// Experts behind these, which give `alpha1 * x + alpha2 * v` with vectors `[H]` of their own in place of a network (the
    /// constant experts of `aclnnMoeFinalizeRoutingV3` and of `aclnnMoeDistributeCombineV3`, ops-transformer 9.1.0).
    pub constant: usize,
    /// The eps of an RMS norm, with a weight `[H]`, of the layer's whole output; `None` for no norm.
    pub output_norm: Option<f64>,
    /// Width `L` at which the experts work, between a projection before them and one behind them; `None` for `H`.
    pub latent: Option<usize>,
    /// The eps of an RMS norm, with a weight `[L]`, of what the projection before them gives; `None` for no norm.
    pub latent_norm: Option<f64>,
    /// The eps of an RMS norm without a weight of each expert's output times a weight `[L]`, ahead of the routing weight;
    /// `None` for neither.
    pub row_norm: Option<f64>,
}

impl ExpertSpec {
    /// SwiGLU experts. Set fields to differ.
    pub const fn new(num: usize, hidden: usize, intermediate: usize) -> Self {
        Self {
            num,
            hidden,
            intermediate,
            activation: Activation::SWIGLU,
            bias: false,
            weight_on_input: false,
            zero: 0,
            copy: 0,
            constant: 0,
            output_norm: None,
            latent: None,
            latent_norm: None,
            row_norm: None,
        }
    }

    /// The first of the copy experts: those below have weights, or add nothing.
    pub(crate) const fn first_copy(&self) -> usize {
        self.num.saturating_add(self.zero)
    }

    /// The first of the constant experts.
    pub(crate) const fn first_constant(&self) -> usize {
        self.first_copy().saturating_add(self.copy)
    }

    /// Experts the router chooses among, `R`: those with weights and those without.
    pub const fn routed(&self) -> usize {
        self.first_constant().saturating_add(self.constant)
    }

    /// Width of the experts' inputs and outputs: `L`, or `H`.
    pub const fn width(&self) -> usize {
        match self.latent {
            Some(latent) => latent,
            None => self.hidden,
        }
    }
}

/// An expert that every token passes, added unweighted.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SharedSpec {
    /// Width inside it, `S`. Several shared experts are one of their summed width.
    pub intermediate: usize,
    /// Activation.
    pub activation: Activation,
    /// Whether its output is multiplied by `sigmoid(x . w)` with a weight `w` of its own.
    pub gate: bool,
    /// Whether the layer gives the mean of the routed experts' sum and this output, in place of their sum.
    pub mean: bool,
}

impl SharedSpec {
    /// A SwiGLU shared expert of this width inside. Set fields to differ.
    pub const fn new(intermediate: usize) -> Self {
        Self { intermediate, activation: Activation::SWIGLU, gate: false, mean: false }
    }
}
