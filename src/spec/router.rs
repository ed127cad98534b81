//! The axes of a router: a norm of its input, logits, scores, choice, weights, in this order.
//!
//! Notation: `l = x . Wg^T` are the router's logits of a token, `R` experts it knows (routed ones and those without
//! weights), of which `k` are chosen. Formulas are those of the modelling code of transformers 5.23.

use super::moe::in_range;
use super::{FloatType, SpecError};

/// How logits become scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Score {
    /// Softmax over all experts.
    Softmax,
    /// The logistic function of each logit.
    Sigmoid,
    /// `sqrt(softplus(l))` of each logit.
    SqrtSoftplus,
    /// The logits themselves.
    Logits,
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

/// Selection limited to the best groups of experts. Group `g` holds the experts `g*R/n_group..(g+1)*R/n_group`.
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

/// Among which experts the `k` best are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Choice {
    /// Among all.
    TopK,
    /// Among those of the best groups.
    Groups(GroupSpec),
    /// In each of `n_group` groups the `k / n_group` best, group by group.
    EachGroup {
        /// Groups.
        n_group: usize,
    },
    /// Row `token id` of a table `[vocab, k]`; the scores only decide the weights.
    Table {
        /// Rows of the table.
        vocab: usize,
    },
}

/// From what a chosen expert's weight is made. Never from the choice bias.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Weigh {
    /// Its score.
    Score,
    /// The softmax over the chosen experts' scores.
    Softmax,
    /// The logistic function of its score.
    Sigmoid,
    /// Its share of the softmax over the experts not chosen before it whose score `s` is close to its own `b`, that is
    /// `(b - s) / max(|s|, b) <= 2 * jitter`: the weights do not sum to 1 (the sparse mixer, arXiv 2409.12136).
    SparseMixer {
        /// How close.
        jitter: f64,
    },
}

/// What is done to these to make them weights.
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
    /// Divided by their sum, or by `min` where the sum is less.
    SumFloor {
        /// The least divisor.
        min: f64,
    },
}

/// An RMS norm of what the router sees: `x / sqrt(mean(x^2) + eps) * w * scale` with a weight `w` `[H]`, rounded to the
/// type the model runs in before the scale and behind it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InputNorm {
    /// Added to the mean of the squares.
    pub eps: f64,
    /// Multiplies the result.
    pub scale: f64,
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

/// The router: logits, scores, choice, weights, in this order.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct RouterSpec {
    /// A norm of its input, before all else; `None` for none.
    pub input_norm: Option<InputNorm>,
    /// Type of both operands of the logits' product.
    pub logits: Precision,
    /// Whether a bias `[R]` is added to the logits.
    pub logit_bias: bool,
    /// Multiplies the logits, their bias included.
    pub logit_scale: f64,
    /// Score function.
    pub score: Score,
    /// Type the score function is computed in, each step rounded to it.
    pub scores: Precision,
    /// Whether a bias `[R - always]` is added to the scores for the choice. It never enters a weight.
    pub choice_bias: bool,
    /// Among which experts the best are taken.
    pub choice: Choice,
    /// Experts per token, `k`.
    pub top_k: usize,
    /// Experts that every token gets besides: the last so many of those with weights. They have logits and scores and no part
    /// in the choice, nor in its bias; they are weighed with the chosen ones, behind which they stand.
    pub always: usize,
    /// From what weights are made.
    pub weigh: Weigh,
    /// Normalisation of the weights.
    pub norm: Normalise,
    /// Multiplies the weights, after the normalisation.
    pub scale: f64,
    /// Whether weights are multiplied by a learned factor of their expert `[R]`, after the scale.
    pub expert_scale: bool,
    /// Whether weights are multiplied by a learned factor of the layer `[1]`, after the scale.
    pub weight_scale: bool,
    /// Type that sum, division and scale of the weights are each rounded to.
    pub weight_math: Precision,
    /// Type the weights are rounded to before they multiply an expert's input or output.
    pub weights: Precision,
    /// Multiplies the sum of the routed experts' outputs, before the shared expert is added.
    pub output_scale: f64,
}

impl RouterSpec {
    /// A plain top-k router in `float32`: no bias, no groups, no normalisation, scale 1. Set fields to differ.
    pub const fn new(score: Score, top_k: usize) -> Self {
        Self {
            input_norm: None,
            logits: Precision::F32,
            logit_bias: false,
            logit_scale: 1.0,
            score,
            scores: Precision::F32,
            choice_bias: false,
            choice: Choice::TopK,
            top_k,
            always: 0,
            weigh: Weigh::Score,
            norm: Normalise::None,
            scale: 1.0,
            expert_scale: false,
            weight_scale: false,
            weight_math: Precision::F32,
            weights: Precision::F32,
            output_scale: 1.0,
        }
    }

    /// Experts of a token with those that every token gets: the width of its ids and weights.
    pub const fn choices(&self) -> usize {
        self.top_k.saturating_add(self.always)
    }

    /// The limit to the best groups, where there is one.
    pub const fn groups(&self) -> Option<GroupSpec> {
        match self.choice {
            Choice::Groups(groups) => Some(groups),
            _ => None,
        }
    }

    pub(super) fn validate(&self, experts: usize) -> Result<(), SpecError> {
        if self.always > 0 {
            let max = experts.saturating_sub(1);
            if self.always > max {
                let value = self.always.to_string();
                return Err(SpecError::OutOfRange { field: "always", value, min: 0, max });
            }
            if self.choice != Choice::TopK {
                return Err(SpecError::AlwaysBeside { what: "a choice by groups or a table" });
            }
            if let Weigh::SparseMixer { .. } = self.weigh {
                return Err(SpecError::AlwaysBeside { what: "weights of the sparse mixer" });
            }
        }
        let (top_k, experts) = (self.top_k, experts.saturating_sub(self.always));
        if top_k == 0 || top_k > experts {
            return Err(SpecError::TopK { top_k, experts });
        }
        match self.choice {
            Choice::TopK => {}
            Choice::Groups(GroupSpec { n_group, topk_group, score, .. }) => {
                let per_group = group_size(n_group, experts)?;
                if topk_group == 0 || topk_group > n_group {
                    return Err(SpecError::TopkGroup { topk_group, n_group });
                }
                if score == GroupScore::Top2Sum && per_group < 2 {
                    return Err(SpecError::SmallGroups { per_group });
                }
                if top_k > topk_group * per_group {
                    return Err(SpecError::TopKInGroups { top_k, topk_group, per_group });
                }
            }
            Choice::EachGroup { n_group } => {
                let per_group = group_size(n_group, experts)?;
                if !top_k.is_multiple_of(n_group) || top_k / n_group > per_group {
                    return Err(SpecError::TopKPerGroup { top_k, n_group, per_group });
                }
            }
            Choice::Table { vocab } => {
                in_range("vocab_size", vocab, i32::MAX as usize)?;
                if self.choice_bias {
                    return Err(SpecError::BiasedTable);
                }
            }
        }
        let InputNorm { eps, scale } = self.input_norm.unwrap_or(InputNorm { eps: 0.0, scale: 1.0 });
        if !(eps.is_finite() && eps >= 0.0) {
            return Err(SpecError::Epsilon { value: eps });
        }
        let factors = [
            ("input_norm.scale", scale),
            ("logit_scale", self.logit_scale),
            ("scale", self.scale),
            ("output_scale", self.output_scale),
        ];
        for (field, value) in factors {
            if !(value.is_finite() && value > 0.0) {
                return Err(SpecError::NotPositive { field, value });
            }
        }
        if let Weigh::SparseMixer { jitter } = self.weigh {
            if !(jitter.is_finite() && jitter > 0.0) {
                return Err(SpecError::NotPositive { field: "jitter", value: jitter });
            }
            if self.choice != Choice::TopK || self.choice_bias {
                return Err(SpecError::MixedChoice);
            }
        }
        match self.norm {
            Normalise::Sum { eps } if !(eps.is_finite() && eps >= 0.0) => Err(SpecError::Epsilon { value: eps }),
            Normalise::SumFloor { min } if !(min.is_finite() && min >= 0.0) => Err(SpecError::Floor { value: min }),
            _ => Ok(()),
        }
    }
}

/// Experts in a group, where groups are possible and equal.
fn group_size(n_group: usize, experts: usize) -> Result<usize, SpecError> {
    in_range("n_group", n_group, experts)?;
    if experts.is_multiple_of(n_group) {
        Ok(experts / n_group)
    } else {
        Err(SpecError::UnevenGroups { experts, n_group })
    }
}
