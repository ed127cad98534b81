//! The tensors that a layer's weights are made of, with their shapes and types.

use super::{FloatType, MoeSpec};

/// A tensor of a layer's weights, in the one layout that layers take, whatever a checkpoint's is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Part {
    /// Router weight `[R, H]`.
    Router,
    /// Bias on the logits `[R]`.
    LogitBias,
    /// Bias on the scores for the choice `[R]`, without those that every token gets.
    ChoiceBias,
    /// Experts by token id `[vocab, k]`, 32-bit integers.
    ExpertTable,
    /// Projection to the experts' width `[L, H]`.
    LatentIn,
    /// Projection back `[H, L]`.
    LatentOut,
    /// Gate and up projections `[E, 2I, L]`, gate rows first; without a gate `[E, I, L]`. `L` is `H` without latent projections.
    W13,
    /// Their biases `[E, 2I]` or `[E, I]`.
    W13Bias,
    /// Down projections `[E, L, I]`.
    W2,
    /// Their biases `[E, L]`.
    W2Bias,
    /// The shared expert's gate and up projections `[2S, H]`, gate rows first; without a gate `[S, H]`.
    SharedW13,
    /// The shared expert's down projection `[H, S]`.
    SharedW2,
    /// What the shared expert's output is weighted by `[1, H]`.
    SharedGate,
    /// What constant experts multiply their input by `[C, H]`.
    ConstantAlpha1,
    /// What they multiply their constant by `[C, H]`.
    ConstantAlpha2,
    /// Their constants `[C, H]`.
    ConstantV,
    /// Factors on the weights of chosen experts `[R]`.
    ExpertScale,
    /// Weight of the norm of the layer's output `[H]`.
    OutputNorm,
    /// Weight of the norm behind the projection to the experts' width `[L]`.
    LatentNorm,
    /// Weight that multiplies each expert's output ahead of its norm `[L]`.
    RowNorm,
    /// Weight of the norm of the router's input `[H]`.
    RouterNorm,
    /// Factor on all weights of chosen experts `[1]`.
    WeightScale,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 22] = [
        Self::Router,
        Self::LogitBias,
        Self::ChoiceBias,
        Self::ExpertTable,
        Self::LatentIn,
        Self::LatentOut,
        Self::W13,
        Self::W13Bias,
        Self::W2,
        Self::W2Bias,
        Self::SharedW13,
        Self::SharedW2,
        Self::SharedGate,
        Self::ConstantAlpha1,
        Self::ConstantAlpha2,
        Self::ConstantV,
        Self::ExpertScale,
        Self::OutputNorm,
        Self::LatentNorm,
        Self::RowNorm,
        Self::RouterNorm,
        Self::WeightScale,
    ];

    /// Its name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Router => "the router weight",
            Self::LogitBias => "the bias on the router's logits",
            Self::ChoiceBias => "the choice bias",
            Self::ExpertTable => "the table of experts by token id",
            Self::LatentIn => "the projection to the experts' width",
            Self::LatentOut => "the projection from the experts' width",
            Self::W13 => "the experts' gate and up projections",
            Self::W13Bias => "the biases of the experts' gate and up projections",
            Self::W2 => "the experts' down projections",
            Self::W2Bias => "the biases of the experts' down projections",
            Self::SharedW13 => "the shared expert's gate and up projection",
            Self::SharedW2 => "the shared expert's down projection",
            Self::SharedGate => "the shared expert's gate",
            Self::ConstantAlpha1 => "the constant experts' factors on their input",
            Self::ConstantAlpha2 => "the constant experts' factors on their constants",
            Self::ConstantV => "the constant experts' constants",
            Self::ExpertScale => "the experts' factors on their weights",
            Self::OutputNorm => "the weight of the output's norm",
            Self::LatentNorm => "the weight of the norm of the experts' input",
            Self::RowNorm => "the weight of the norm of the experts' outputs",
            Self::RouterNorm => "the weight of the norm of the router's input",
            Self::WeightScale => "the factor on the experts' weights",
        }
    }

    /// Whether its first axis is the experts, so that it comes expert by expert.
    pub const fn per_expert(self) -> bool {
        matches!(self, Self::W13 | Self::W13Bias | Self::W2 | Self::W2Bias)
    }

    /// Whether it holds 32-bit integers instead of floats.
    pub const fn is_integer(self) -> bool {
        matches!(self, Self::ExpertTable)
    }

    /// Whether a router without experts needs it.
    pub const fn of_router(self) -> bool {
        matches!(
            self,
            Self::Router
                | Self::LogitBias
                | Self::ChoiceBias
                | Self::ExpertTable
                | Self::ExpertScale
                | Self::RouterNorm
                | Self::WeightScale
        )
    }
}

impl MoeSpec {
    /// The shape of a part; `None` where the layer does not have it.
    pub fn shape(&self, part: Part) -> Option<Vec<usize>> {
        let (router, experts, shared) = (self.router(), self.experts(), self.shared());
        let (num, hidden, width) = (experts.num, experts.hidden, experts.width());
        let w13 = experts.activation.width(experts.intermediate);
        let when = |has: bool, shape: &[usize]| has.then(|| shape.to_vec());
        match part {
            Part::Router => Some(vec![experts.routed(), hidden]),
            Part::LogitBias => when(router.logit_bias, &[experts.routed()]),
            Part::ChoiceBias => when(router.choice_bias, &[experts.routed().saturating_sub(router.always)]),
            Part::ExpertScale => when(router.expert_scale, &[experts.routed()]),
            Part::WeightScale => when(router.weight_scale, &[1]),
            Part::OutputNorm => when(experts.output_norm.is_some(), &[hidden]),
            Part::LatentNorm => when(experts.latent_norm.is_some(), &[width]),
            Part::RowNorm => when(experts.row_norm.is_some(), &[width]),
            Part::RouterNorm => when(router.input_norm.is_some(), &[hidden]),
            Part::ExpertTable => match router.choice {
                super::Choice::Table { vocab } => Some(vec![vocab, router.top_k]),
                _ => None,
            },
            Part::LatentIn => experts.latent.map(|latent| vec![latent, hidden]),
            Part::LatentOut => experts.latent.map(|latent| vec![hidden, latent]),
            Part::W13 => Some(vec![num, w13, width]),
            Part::W13Bias => when(experts.bias, &[num, w13]),
            Part::W2 => Some(vec![num, width, experts.intermediate]),
            Part::W2Bias => when(experts.bias, &[num, width]),
            Part::SharedW13 => shared.map(|s| vec![s.activation.width(s.intermediate), hidden]),
            Part::SharedW2 => shared.map(|s| vec![hidden, s.intermediate]),
            Part::SharedGate => shared.filter(|s| s.gate).map(|_| vec![1, hidden]),
            Part::ConstantAlpha1 | Part::ConstantAlpha2 | Part::ConstantV => {
                when(experts.constant > 0, &[experts.constant, hidden])
            }
        }
    }

    /// The float type a part is held in, when the layer runs in `model`: the router's in the type of the logits, factors on
    /// weights in the type that weights are computed in, the choice bias and what constant experts have in `float32`, the experts' biases in what CANN's grouped matmuls take (`float32` beside `bfloat16`), all
    /// others in `model`.
    pub fn part_type(&self, part: Part, model: FloatType) -> FloatType {
        match part {
            Part::Router | Part::LogitBias => self.router().logits.resolve(model),
            Part::ExpertScale | Part::WeightScale => self.router().weight_math.resolve(model),
            Part::ChoiceBias | Part::ConstantAlpha1 | Part::ConstantAlpha2 | Part::ConstantV => FloatType::F32,
            Part::W13Bias | Part::W2Bias if model == FloatType::Bf16 => FloatType::F32,
            _ => model,
        }
    }

    /// Elements of a part; 0 where the layer does not have it.
    pub fn elements(&self, part: Part) -> usize {
        self.shape(part).map_or(0, |shape| shape.iter().product())
    }

    /// Bytes of a part in a type; of one expert's share where it comes expert by expert.
    pub fn fill_bytes(&self, part: Part, dtype: FloatType) -> usize {
        let each = if part.per_expert() { self.experts().num } else { 1 };
        let size = if part.is_integer() { size_of::<i32>() } else { dtype.bytes() };
        self.elements(part) / each * size
    }

    /// Bytes of a part when the layer runs in `model`.
    pub fn part_bytes(&self, part: Part, model: FloatType) -> usize {
        let each = if part.per_expert() { self.experts().num } else { 1 };
        self.fill_bytes(part, self.part_type(part, model)) * each
    }

    /// Bytes of all of the layer's weights when it runs in `model`.
    pub fn weight_bytes(&self, model: FloatType) -> usize {
        Part::ALL.into_iter().map(|part| self.part_bytes(part, model)).sum()
    }
}
