//! How a router is mapped to operators: what the fused gating operator computes exactly, and in which types.

use ascend_sys::{OperatorId, Release};

use crate::error::{Error, Result};
use crate::op::{self, GatingTopK, Normalisation};
use crate::spec::{FloatType, GroupFill, GroupScore, Normalise, Precision, RouterSpec, Score};

/// A router as operators run it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouterPlan {
    /// Type of the activations; they are cast to the type of the logits' product where that is another one.
    pub input: FloatType,
    /// Type of the logits' product and of the router weight.
    pub logits: FloatType,
    /// Type that the gating operator works on and gives its weights in; logits are cast to it where it is another one.
    pub gate: FloatType,
    /// Type the weights are rounded to after the operator, where the family rounds them and the operator does not.
    pub round_weights: Option<FloatType>,
    /// Parameters of the gating operator.
    pub gating: GatingTopK,
}

impl RouterPlan {
    /// Maps a router to `aclnnMoeGatingTopK` of a release.
    ///
    /// The operator's facts: ops-transformer 8.5.0 to 9.1.0, moe/moe_gating_top_k.
    ///
    /// # Errors
    /// [`Error::UnsupportedRouter`] says which part of the router the operator does not compute exactly.
    pub fn new(router: &RouterSpec, model: FloatType, release: Release) -> Result<Self> {
        let unsupported = |found: &'static str, legal: &'static str| Error::UnsupportedRouter { found, legal, release };
        let (normalisation, renormalise) = match (router.score, router.norm) {
            (Score::Sigmoid, Normalise::Sum { .. }) => (Normalisation::Sigmoid, false),
            (Score::Sigmoid, _) => {
                return Err(unsupported(
                    "sigmoid scores that are not normalised",
                    "sigmoid scores divided by their sum: the operator always does so",
                ));
            }
            (Score::Softmax, Normalise::None) => (Normalisation::Softmax, false),
            (Score::Softmax, Normalise::Sum { .. }) if release >= Release::new(9, 0, 0) => {
                (Normalisation::Softmax, true)
            }
            (Score::SqrtSoftplus | Score::Logits, _) => {
                return Err(unsupported("scores of another kind", "softmax or sigmoid scores"));
            }
            (Score::Softmax, _) => {
                return Err(unsupported(
                    "softmax scores that are divided by their sum",
                    "softmax scores as they are: the operator of this release refuses renorm 1",
                ));
            }
        };
        let eps = match router.norm {
            Normalise::Sum { eps } => eps,
            _ => 0.0,
        };
        // Scores are never negative: filled with zero, an expert of a dropped group is chosen before none of a kept
        // one, unless a negative bias makes room for it.
        if router.groups().is_some_and(|groups| groups.fill == GroupFill::Zero) && router.choice_bias {
            return Err(unsupported(
                "dropped groups filled with 0 beside a bias",
                "dropped groups that are never chosen: the operator removes them",
            ));
        }
        let (groups, kept_groups, group_score) = match router.groups() {
            Some(groups) => (
                groups.n_group,
                groups.topk_group,
                match groups.score {
                    GroupScore::Top2Sum => op::GroupScore::TopTwo,
                    GroupScore::Max => op::GroupScore::Max,
                },
            ),
            None => (1, 1, op::GroupScore::Max),
        };
        let logits = router.logits.resolve(model);
        let rounded = router.weights == Precision::Model && model != FloatType::F32;
        // The operator wants the bias in the type of the logits, and rounding a bias could change a choice. So it works
        // in fp32, but for families that have neither a bias nor fp32 weights: there it rounds the weights itself.
        let gate = if rounded && !router.choice_bias { logits } else { FloatType::F32 };
        let gating = GatingTopK {
            k: router.top_k,
            groups,
            kept_groups,
            group_score,
            renormalise,
            normalisation,
            scale: router.scale,
            eps,
        };
        Ok(Self { input: model, logits, gate, round_weights: (rounded && gate != model).then_some(model), gating })
    }

    /// The operators the router runs, in order, for people.
    pub fn operators(&self) -> Vec<OperatorId> {
        let mut operators = vec![OperatorId::Mm, OperatorId::MoeGatingTopK];
        if self.gate != self.logits {
            operators.insert(1, OperatorId::Cast);
        }
        if self.input != self.logits {
            operators.insert(0, OperatorId::Cast);
        }
        if self.round_weights.is_some() {
            // To the narrow type and back.
            operators.extend([OperatorId::Cast, OperatorId::Cast]);
        }
        operators
    }
}
