//! How a router is mapped to operators of the loaded release: the ways there are, which one is taken, and why.
//!
//! A way is taken when it computes exactly what the router says, and when a plan of it passes: its operators are there,
//! and neither a rule of their rows nor CANN itself refuses their arguments. A symbol that is there can still lack its
//! kernel, which only a call tells.

use ascend_sys::ops::Refusal;

use super::route;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::{self, FusedTopK, GatingTopK, Normalisation};
use crate::scratch::PlannedCall;
use crate::spec::{Choice, FloatType, GroupFill, GroupScore, MoeSpec, Normalise, Precision, RouterSpec, Score, Weigh};
use crate::sync::lock;

use super::LayerOptions;

/// A way to run a router, the first that can be taken is the best.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum RouterMethod {
    /// One operator, `aclnnMoeGatingTopK`, gives experts and weights.
    Fused,
    /// So does `aclnnMoeGatingTopKSoftmaxV2`, where weights are the softmax of the chosen logits.
    FusedSoftmax,
    /// So does `aclnnMoeFusedTopk`, where weights are sigmoid scores, or their shares of the sum.
    FusedSigmoid,
    /// `aclnnMoeGatingTopK` gives experts and scores; weights are gathered from the scores.
    FusedChoice,
    /// Scores, choice and weights by operators that each do one step.
    Composed,
}

impl RouterMethod {
    const ALL: [Self; 5] = [Self::Fused, Self::FusedSoftmax, Self::FusedSigmoid, Self::FusedChoice, Self::Composed];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fused => "fused",
            Self::FusedSoftmax => "fused softmax",
            Self::FusedSigmoid => "fused sigmoid",
            Self::FusedChoice => "fused choice, gathered weights",
            Self::Composed => "composed",
        }
    }
}

/// A router as operators run it.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterPlan {
    /// The way taken.
    pub method: RouterMethod,
    /// The better ways that were not taken, each with the reason.
    pub rejected: Vec<(RouterMethod, String)>,
    /// The operators, in order, with what each is for.
    pub calls: Vec<PlannedCall>,
    /// Type of the activations; they are cast to the type of the logits' product where that is another one.
    pub input: FloatType,
    /// Type of the logits' product and of the router weight.
    pub logits: FloatType,
    /// Type that weights are given in; with a fused operator also the type that it works on.
    pub gate: FloatType,
    /// Type the weights are rounded to at the end, where the family rounds them and [`gate`](Self::gate) is wider.
    pub round_weights: Option<FloatType>,
    /// Parameters of `aclnnMoeGatingTopK`, of no account where it is not used.
    pub gating: GatingTopK,
}

/// What a plan depends on besides the libraries: the router, how many experts it knows, its width, the layer's type.
type PlanKey = (RouterSpec, [usize; 2], FloatType);

/// The plans that a device made: they hold as long as its libraries do.
#[derive(Default)]
pub(crate) struct PlanCache(Vec<(PlanKey, RouterPlan)>);

impl RouterPlan {
    /// Maps the router of a layer to operators that the device's libraries have. A device does so once for each router, and
    /// remembers the plan.
    ///
    /// The fused operators' facts: ops-transformer 8.5.0 to 9.1.0, moe/moe_gating_top_k, moe/moe_gating_top_k_softmax_v2
    /// and moe/moe_fused_topk.
    ///
    /// # Errors
    /// What the composition of single operators is refused with, where no better way can be taken:
    /// [`Error::MissingOperator`], [`Error::Rule`] or [`Error::Vendor`].
    pub fn new(device: &Device, spec: &MoeSpec, options: LayerOptions) -> Result<Self> {
        let key: PlanKey = (*spec.router(), [spec.experts().routed(), spec.experts().hidden], options.dtype);
        if let Some((_, known)) = lock(&device.0.router_plans).0.iter().find(|(known, _)| *known == key) {
            return Ok(known.clone());
        }
        let plan = Self::make(device, spec, options)?;
        lock(&device.0.router_plans).0.push((key, plan.clone()));
        Ok(plan)
    }

    fn make(device: &Device, spec: &MoeSpec, options: LayerOptions) -> Result<Self> {
        let (router, model) = (spec.router(), options.dtype);
        let mut rejected = Vec::new();
        for method in RouterMethod::ALL {
            let mut plan = Self::of(router, model, method);
            match inexact(router, model, method) {
                Some(reason) => rejected.push((method, reason.to_owned())),
                None => match route::planned_calls(device, spec, options, &plan) {
                    Ok(calls) => {
                        (plan.calls, plan.rejected) = (calls, rejected);
                        return Ok(plan);
                    }
                    Err(error) if method != RouterMethod::Composed && is_refusal(&error) => {
                        rejected.push((method, error.to_string()));
                    }
                    Err(error) => return Err(error),
                },
            }
        }
        // The last way is exact for every router and returns.
        Err(Error::shape("router", format_args!("{router:?}"), "a router that operators compute"))
    }

    fn of(router: &RouterSpec, model: FloatType, method: RouterMethod) -> Self {
        let logits = router.logits.resolve(model);
        let rounded = router.weights == Precision::Model && model != FloatType::F32;
        // The fused operator wants the bias in the type of the logits, and rounding a bias could change a choice. So it
        // works in fp32, but for families that have neither a bias nor fp32 weights: there it rounds the weights itself.
        // The softmax operator rounds once, and works on fp16 in half precision.
        let gate = match method {
            RouterMethod::Fused if rounded && !router.choice_bias => logits,
            RouterMethod::FusedSoftmax if rounded && logits == FloatType::Bf16 => logits,
            _ => FloatType::F32,
        };
        Self {
            method,
            rejected: Vec::new(),
            calls: Vec::new(),
            input: model,
            logits,
            gate,
            round_weights: (rounded && gate != model).then_some(model),
            gating: gating(router),
        }
    }
}

/// Parameters of the gating operator that do what the router says, as far as it can.
fn gating(router: &RouterSpec) -> GatingTopK {
    let (groups, kept_groups, group_score) = match router.choice {
        Choice::Groups(groups) => {
            let score = match groups.score {
                GroupScore::Top2Sum => op::GroupScore::TopTwo,
                GroupScore::Max => op::GroupScore::Max,
            };
            (groups.n_group, groups.topk_group, score)
        }
        _ => (1, 1, op::GroupScore::Max),
    };
    let (normalisation, normalised) = match router.score {
        Score::Sigmoid => (Normalisation::Sigmoid, false),
        _ => (Normalisation::Softmax, router.norm != Normalise::None),
    };
    let eps = match router.norm {
        Normalise::Sum { eps } => eps,
        _ => 0.0,
    };
    GatingTopK {
        k: router.top_k,
        groups,
        kept_groups,
        group_score,
        renormalise: normalised,
        normalisation,
        scale: router.scale,
        eps,
    }
}

/// Parameters of the fused sigmoid router that do what the router says, as far as it can.
pub(super) fn fused_top_k(router: &RouterSpec) -> FusedTopK {
    let (groups, kept_groups, summed) = match router.groups() {
        Some(groups) => (groups.n_group, groups.topk_group, if groups.score == GroupScore::Max { 1 } else { 2 }),
        None => (1, 1, 1),
    };
    let scale = (router.norm != Normalise::None).then_some(router.scale as f32);
    FusedTopK { k: router.top_k, groups, kept_groups, summed, scale }
}

impl GatingTopK {
    /// The same choice without anything done to the weights: what every release takes, and what is least that sigmoid
    /// scores need, whose weights the operator always divides by their sum.
    pub(super) fn choice_only(self) -> Self {
        Self { renormalise: false, scale: 1.0, ..self }
    }
}

/// Why a way would not compute exactly what the router says.
fn inexact(router: &RouterSpec, model: FloatType, method: RouterMethod) -> Option<&'static str> {
    if router.always > 0 && method != RouterMethod::Composed {
        return Some("the operator gives a token no experts besides the best");
    }
    if router.weight_scale && !matches!(method, RouterMethod::FusedChoice | RouterMethod::Composed) {
        return Some("the operator has no learned factor on the weights");
    }
    match method {
        RouterMethod::Fused | RouterMethod::FusedChoice => gating_inexact(router, model, method),
        RouterMethod::FusedSoftmax => softmax_inexact(router, model),
        RouterMethod::FusedSigmoid => sigmoid_inexact(router, model),
        RouterMethod::Composed => None,
    }
}

/// Why the softmax of the chosen logits is not what the router says.
fn softmax_inexact(router: &RouterSpec, model: FloatType) -> Option<&'static str> {
    let narrow = |precision: Precision| precision.resolve(model) != FloatType::F32;
    match (router.score, router.weigh, router.norm) {
        // Softmax scores over their sum are the softmax of the chosen logits.
        (Score::Softmax, Weigh::Score, Normalise::Sum { eps: 0.0 })
            if !narrow(router.scores) && !narrow(router.weight_math) => {}
        // Logits that are in a type already are not rounded to it again, and the softmax is rounded once, at the end.
        (Score::Logits, Weigh::Softmax, Normalise::None)
            if (narrow(router.logits) || !narrow(router.scores) && !narrow(router.weight_math))
                && (narrow(router.weights) || !narrow(router.weight_math)) => {}
        (Score::Softmax | Score::Logits, ..) => {
            return Some("weights are not the softmax of the chosen logits in fp32");
        }
        _ => return Some("the operator knows softmax scores alone"),
    }
    if router.choice != Choice::TopK || router.choice_bias {
        return Some("the operator chooses the best of all experts, without a bias");
    }
    (router.scale != 1.0 || router.expert_scale).then_some("the operator has no factor on the weights")
}

/// Why sigmoid scores, or their shares of the sum, are not what the router says.
fn sigmoid_inexact(router: &RouterSpec, model: FloatType) -> Option<&'static str> {
    let narrow = |precision: Precision| precision.resolve(model) != FloatType::F32;
    if router.score != Score::Sigmoid || router.weigh != Weigh::Score {
        return Some("the operator knows sigmoid scores alone");
    }
    if narrow(router.scores) || narrow(router.weight_math) {
        return Some("the operator computes in fp32, the router in the model's type");
    }
    match router.choice {
        Choice::TopK => {}
        // It fills dropped groups with 0, below every score that has no bias.
        Choice::Groups(groups) if groups.fill == GroupFill::Zero || !router.choice_bias => {}
        Choice::Groups(_) => {
            return Some("the operator fills dropped groups with 0 beside a bias, the router removes them");
        }
        Choice::EachGroup { .. } | Choice::Table { .. } => {
            return Some("the operator chooses the best of all experts, or of the best groups");
        }
    }
    match router.norm {
        _ if router.expert_scale => Some("the operator has no factors of experts on the weights"),
        Normalise::None if router.scale == 1.0 => None,
        Normalise::None => Some("the operator scales weights only where it divides them by their sum"),
        Normalise::Sum { eps: 0.0 } => None,
        _ => Some("the operator adds no epsilon to the sum and has no least divisor"),
    }
}

/// Why `aclnnMoeGatingTopK` does not compute what the router says.
fn gating_inexact(router: &RouterSpec, model: FloatType, method: RouterMethod) -> Option<&'static str> {
    let narrow = |precision: Precision| precision.resolve(model) != FloatType::F32;
    match router.score {
        Score::Softmax | Score::Sigmoid => {}
        Score::SqrtSoftplus => return Some("the operator has no square root of softplus on Atlas A3"),
        Score::Logits => return Some("the operator cannot choose by the logits themselves"),
    }
    if narrow(router.scores) {
        return Some("the operator computes scores in fp32, the router in the model's type");
    }
    match router.choice {
        Choice::TopK => {}
        // Scores are never negative: filled with zero, an expert of a dropped group is chosen before none of a kept one,
        // unless a negative bias makes room for it.
        Choice::Groups(groups) if groups.fill == GroupFill::Zero && router.choice_bias => {
            return Some("the operator removes dropped groups, the router fills them with 0 beside a bias");
        }
        Choice::Groups(_) => {}
        Choice::EachGroup { .. } => return Some("the operator does not choose inside each group"),
        Choice::Table { .. } => return Some("the operator does not choose by a table of token ids"),
    }
    if method == RouterMethod::FusedChoice {
        return match router.weigh {
            Weigh::SparseMixer { .. } => Some("weights are made from all logits, not from those of the chosen experts"),
            _ => None,
        };
    }
    match (router.weigh, router.score, router.norm) {
        (Weigh::Softmax | Weigh::Sigmoid | Weigh::SparseMixer { .. }, ..) => {
            return Some("the operator weighs by scores, the router by a function of the chosen ones");
        }
        (_, Score::Sigmoid, Normalise::None) => {
            return Some("the operator always divides sigmoid scores by their sum, the router does not");
        }
        (_, _, Normalise::SumFloor { .. }) => {
            return Some("the operator has no least divisor of the weights");
        }
        _ => {}
    }
    if router.expert_scale {
        return Some("the operator has no factors of experts on the weights");
    }
    if narrow(router.weight_math) {
        return Some("the operator normalises in fp32, the router in the model's type");
    }
    None
}

/// Whether an error says that a way cannot be taken, rather than that the device is in trouble.
fn is_refusal(error: &Error) -> bool {
    match error {
        Error::MissingOperator { .. } | Error::MissingFunction(_) => true,
        Error::Rule(violation) => matches!(violation.refusal, Refusal::Cann | Refusal::NotCarried),
        // 561xxx: an operator's own refusal, such as a kernel that is not there.
        Error::Vendor(vendor) => (561_000..562_000).contains(&vendor.code),
        _ => false,
    }
}

/// The type of a tensor of weights.
impl RouterPlan {
    pub(super) fn gate_dtype(&self) -> DType {
        self.gate.into()
    }
}
