//! One mixture-of-experts layer as a point on independent axes, and the bytes its weights take.
//!
//! Notation: `l = x . Wg^T` are the router's logits of a token, `E` experts of which `k` are chosen, `H` the width of
//! the hidden state, `I` the width inside an expert. Formulas are those of the modelling code of transformers 5.23.

use super::{FloatType, SpecError};

/// Most experts in a layer.
pub const MAX_EXPERTS: usize = 1 << 16;
/// Greatest hidden or intermediate width.
pub const MAX_WIDTH: usize = 1 << 20;
/// Most weights in one layer: 4 TiB of `float32`. Keeps every byte count of a model far from overflow.
pub const MAX_LAYER_ELEMENTS: usize = 1 << 40;

/// How logits become scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Score {
    /// Softmax over all experts, in `float32`.
    Softmax,
    /// The logistic function of each logit, in `float32`.
    Sigmoid,
}

/// How a group of experts is scored, from the scores its experts are chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GroupScore {
    /// The sum of the two best.
    Top2Sum,
    /// The best.
    Max,
}

/// What the scores of experts in dropped groups become before the top-k.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GroupFill {
    /// Minus infinity: such an expert is never chosen.
    NegInf,
    /// Zero: such an expert is still chosen before one whose score plus bias is negative.
    Zero,
}

/// What is done to the scores of the chosen experts to make them weights.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Normalise {
    /// Nothing.
    None,
    /// Divided by their sum plus `eps`.
    Sum {
        /// Added to the sum.
        eps: f64,
    },
}

/// In what a step is computed, relative to the type the model runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Precision {
    /// Always `float32`.
    F32,
    /// The type the model runs in.
    Model,
}

impl Precision {
    /// The type meant, for a model that runs in `model`.
    pub const fn resolve(self, model: FloatType) -> FloatType {
        match self {
            Self::F32 => FloatType::F32,
            Self::Model => model,
        }
    }
}

/// Selection limited to the best groups of experts. Group `g` holds the experts `g*E/n_group..(g+1)*E/n_group`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupSpec {
    /// Groups.
    pub n_group: usize,
    /// Groups kept for a token.
    pub topk_group: usize,
    /// How a group is scored.
    pub score: GroupScore,
    /// What the others' scores become.
    pub fill: GroupFill,
}

impl GroupSpec {
    /// Keeps the `topk_group` best of `n_group` groups; experts of the others are never chosen.
    pub const fn new(n_group: usize, topk_group: usize, score: GroupScore) -> Self {
        Self { n_group, topk_group, score, fill: GroupFill::NegInf }
    }
}

/// The router: logits, scores, choice, weights, in this order.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct RouterSpec {
    /// Score function.
    pub score: Score,
    /// Whether a bias `[E]` is added to the scores for the choice. It never enters a weight.
    pub choice_bias: bool,
    /// Limit to the best groups, if any.
    pub groups: Option<GroupSpec>,
    /// Experts per token, `k`.
    pub top_k: usize,
    /// Normalisation of the weights.
    pub norm: Normalise,
    /// Multiplies the weights, after the normalisation.
    pub scale: f64,
    /// Type of both operands of the logits' product.
    pub logits: Precision,
    /// Type the weights are rounded to before they multiply an expert's output.
    pub weights: Precision,
}

impl RouterSpec {
    /// A plain top-k router in `float32`: no bias, no groups, no normalisation, scale 1. Set fields to differ.
    pub const fn new(score: Score, top_k: usize) -> Self {
        Self {
            score,
            choice_bias: false,
            groups: None,
            top_k,
            norm: Normalise::None,
            scale: 1.0,
            logits: Precision::F32,
            weights: Precision::F32,
        }
    }
}

/// What an expert computes between its projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// `silu(gate) * up`.
    SwiGlu,
}

/// The routed experts: `down(act(gate(x), up(x)))`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpertSpec {
    /// Experts, `E`.
    pub num: usize,
    /// Width of the hidden state, `H`.
    pub hidden: usize,
    /// Width inside an expert, `I`.
    pub intermediate: usize,
    /// Activation.
    pub activation: Activation,
}

impl ExpertSpec {
    /// SwiGLU experts.
    pub const fn new(num: usize, hidden: usize, intermediate: usize) -> Self {
        Self { num, hidden, intermediate, activation: Activation::SwiGlu }
    }
}

/// An expert that every token passes, added unweighted. Its activation is that of the routed experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SharedSpec {
    /// Width inside it. Several shared experts are one of their summed width.
    pub intermediate: usize,
}

impl SharedSpec {
    /// A shared expert of this width inside.
    pub const fn new(intermediate: usize) -> Self {
        Self { intermediate }
    }
}

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
        if let Some(shared) = shared {
            in_range("shared.intermediate", shared.intermediate, MAX_WIDTH)?;
        }
        router.validate(experts.num)?;
        let spec = Self { router, experts, shared };
        let elements = spec.elements();
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

    /// Bytes of the layer's weights when it runs in `dtype`.
    pub const fn weight_bytes(&self, dtype: FloatType) -> WeightBytes {
        let ExpertSpec { num, hidden, intermediate, .. } = self.experts;
        let shared = match self.shared {
            Some(shared) => shared.intermediate,
            None => 0,
        };
        WeightBytes {
            router: num * hidden * self.router.logits.resolve(dtype).bytes(),
            choice_bias: if self.router.choice_bias { num * FloatType::F32.bytes() } else { 0 },
            experts: num,
            expert_w13: 2 * intermediate * hidden * dtype.bytes(),
            expert_w2: hidden * intermediate * dtype.bytes(),
            shared_w13: 2 * shared * hidden * dtype.bytes(),
            shared_w2: hidden * shared * dtype.bytes(),
        }
    }

    /// Weights of the layer; no product of sizes in range overflows 128 bits.
    fn elements(&self) -> u128 {
        let [num, hidden, inner] =
            [self.experts.num, self.experts.hidden, self.experts.intermediate].map(|n| n as u128);
        let shared = self.shared.map_or(0, |s| s.intermediate) as u128;
        num * (hidden + 1 + 3 * inner * hidden) + 3 * shared * hidden
    }
}

impl RouterSpec {
    fn validate(&self, experts: usize) -> Result<(), SpecError> {
        let top_k = self.top_k;
        if top_k == 0 || top_k > experts {
            return Err(SpecError::TopK { top_k, experts });
        }
        if let Some(GroupSpec { n_group, topk_group, score, .. }) = self.groups {
            in_range("n_group", n_group, experts)?;
            if !experts.is_multiple_of(n_group) {
                return Err(SpecError::UnevenGroups { experts, n_group });
            }
            if topk_group == 0 || topk_group > n_group {
                return Err(SpecError::TopkGroup { topk_group, n_group });
            }
            let per_group = experts / n_group;
            if score == GroupScore::Top2Sum && per_group < 2 {
                return Err(SpecError::SmallGroups { per_group });
            }
            if top_k > topk_group * per_group {
                return Err(SpecError::TopKInGroups { top_k, topk_group, per_group });
            }
        }
        if !(self.scale.is_finite() && self.scale > 0.0) {
            return Err(SpecError::NotPositive { field: "scale", value: self.scale });
        }
        match self.norm {
            Normalise::Sum { eps } if !(eps.is_finite() && eps >= 0.0) => Err(SpecError::Epsilon { value: eps }),
            _ => Ok(()),
        }
    }
}

fn in_range(field: &'static str, value: usize, max: usize) -> Result<(), SpecError> {
    if (1..=max).contains(&value) {
        Ok(())
    } else {
        Err(SpecError::OutOfRange { field, value: value.to_string(), min: 1, max })
    }
}

/// Bytes of a layer's weights, part by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WeightBytes {
    /// Router weight `[E, H]`, in the type of the logits.
    pub router: usize,
    /// Choice bias `[E]` in `float32`; 0 if there is none.
    pub choice_bias: usize,
    /// Routed experts, `E`.
    pub experts: usize,
    /// One expert's gate and up projection `[2I, H]`.
    pub expert_w13: usize,
    /// One expert's down projection `[H, I]`.
    pub expert_w2: usize,
    /// The shared expert's gate and up projection `[2S, H]`; 0 if there is none.
    pub shared_w13: usize,
    /// The shared expert's down projection `[H, S]`; 0 if there is none.
    pub shared_w2: usize,
}

impl WeightBytes {
    /// All experts' gate and up projections `[E, 2I, H]`.
    pub const fn w13(&self) -> usize {
        self.experts * self.expert_w13
    }

    /// All experts' down projections `[E, H, I]`.
    pub const fn w2(&self) -> usize {
        self.experts * self.expert_w2
    }

    /// The whole layer.
    pub const fn total(&self) -> usize {
        self.router + self.choice_bias + self.w13() + self.w2() + self.shared_w13 + self.shared_w2
    }
}
