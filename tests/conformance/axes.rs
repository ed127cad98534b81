//! Every axis of a router and of experts, in every simulated release, against the formulas in f64.

use ascend_moe::layer::{LayerInput, LayerOptions, MoeLayer, RouterMethod, WeightSource as _};
use ascend_moe::spec::{
    Activation, ActivationFn, Choice, ClampAt, ExpertSpec, FloatType, GroupFill, GroupScore, GroupSpec, InputNorm,
    MoeSpec, Normalise, Precision, RouterSpec, Score, SharedSpec, Weigh,
};
use ascend_moe::{Release, Tensor};
use libtest_mimic::Trial;

use crate::checkpoints::activations;
use crate::files::assert_near;
use crate::fillings::Rig;
use crate::reference::Layer;
use crate::synthetic::{Synthetic, random};
use crate::trial;

const RELEASES: [Release; 3] = [Release::new(8, 5, 0), Release::new(9, 0, 0), Release::new(9, 1, 0)];
const EXPERTS: usize = 24;
const HIDDEN: usize = 48;
const INNER: usize = 40;
const TOKENS: usize = 37;
const VOCAB: usize = 53;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = RELEASES
        .into_iter()
        .flat_map(|release| {
            [
                trial(format!("in_process::axes::{release}::routers"), move || every_router(release)),
                trial(format!("in_process::axes::{release}::experts"), move || every_expert(release)),
            ]
        })
        .collect();
    trials.push(trial("in_process::axes::plans_are_the_best_ways", plans_are_the_best_ways));
    trials.push(trial("in_process::axes::narrow_steps", narrow_steps));
    trials.push(trial("in_process::axes::plans_are_remembered", plans_are_remembered));
    trials
}

/// A copy of a spec with some fields set: specs may gain fields, so that code outside their crate cannot write them whole.
macro_rules! with {
    ($base:expr; $($field:ident $(: $value:expr)?),*) => {{
        let mut spec = $base;
        $(with!(@set spec, $field $(, $value)?);)*
        spec
    }};
    (@set $spec:ident, $field:ident) => { $spec.$field = $field };
    (@set $spec:ident, $field:ident, $value:expr) => { $spec.$field = $value };
}

fn router(score: Score) -> RouterSpec {
    RouterSpec::new(score, 4)
}

fn groups(score: GroupScore, fill: GroupFill) -> Choice {
    let mut groups = GroupSpec::new(6, 3, score);
    groups.fill = fill;
    Choice::Groups(groups)
}

/// Every score with every choice, with and without biases, and every way to make weights.
fn routers() -> Vec<RouterSpec> {
    let scores = [Score::Softmax, Score::Sigmoid, Score::SqrtSoftplus, Score::Logits];
    let choices = [
        Choice::TopK,
        groups(GroupScore::Max, GroupFill::NegInf),
        groups(GroupScore::Max, GroupFill::Zero),
        groups(GroupScore::Top2Sum, GroupFill::NegInf),
        groups(GroupScore::Top2Sum, GroupFill::Zero),
        Choice::EachGroup { n_group: 2 },
        Choice::EachGroup { n_group: 4 },
        Choice::Table { vocab: VOCAB },
    ];
    let norms = [
        Normalise::None,
        Normalise::Sum { eps: 0.0 },
        Normalise::Sum { eps: 1e-3 },
        Normalise::SumFloor { min: 0.0 },
        Normalise::SumFloor { min: 1e6 },
    ];
    let mut routers = Vec::new();
    for score in scores {
        for choice in choices {
            for [logit_bias, choice_bias] in [[false, false], [true, false], [false, true]] {
                let table = matches!(choice, Choice::Table { .. });
                if !(choice_bias && table) {
                    routers.push(with!(router(score); choice, logit_bias, choice_bias));
                }
            }
        }
        for weigh in [Weigh::Score, Weigh::Softmax, Weigh::Sigmoid] {
            for norm in norms {
                routers.push(with!(router(score); weigh, norm));
                routers.push(with!(router(score); weigh, norm, scale: 2.5, choice_bias: true));
            }
        }
        routers.push(with!(router(score); expert_scale: true, norm: Normalise::Sum { eps: 0.0 }));
        routers.push(with!(router(score); logit_scale: 0.18, logit_bias: true, choice_bias: true));
        for scale in [1.0, 0.3] {
            routers.push(with!(router(score); input_norm: Some(InputNorm { eps: 0.1, scale }), expert_scale: true));
        }
        routers.push(with!(router(score); weigh: Weigh::SparseMixer { jitter: 0.2 }));
        for (always, choice_bias) in [(1, false), (3, true)] {
            let always =
                with!(router(score); always, choice_bias, weight_scale: choice_bias, norm: Normalise::Sum { eps: 0.0 });
            routers.push(always);
            routers.push(with!(always; weigh: Weigh::Softmax, expert_scale: true, logit_bias: true, top_k: EXPERTS - always.always));
        }
        routers.push(with!(router(score); weight_scale: true));
        for top_k in [1, EXPERTS] {
            routers.push(with!(router(score); top_k));
        }
    }
    routers
}

/// What tokens are given, and the layer's own word for it.
struct Input {
    x: Vec<f32>,
    ids: Vec<i64>,
}

impl Input {
    fn new(seed: u64) -> Self {
        let ids = (0..TOKENS as u64).map(|token| ((token * 31 + seed) % VOCAB as u64) as i64).collect();
        Self { x: random(seed, TOKENS * HIDDEN, 1.0), ids }
    }

    fn rows(&self) -> impl Iterator<Item = (Vec<f64>, i64)> {
        let values = self.x.chunks(HIDDEN).map(|row| row.iter().map(|&value| f64::from(value)).collect());
        values.zip(self.ids.iter().copied())
    }
}

/// Choice and weights of every router are those of the formulas, whatever the way that the release's operators allow.
fn every_router(release: Release) {
    let rig = Rig::simulated(|config| config.release = release);
    let input = Input::new(7);
    for (seed, spec) in routers().into_iter().enumerate() {
        let moe = MoeSpec::new(spec, ExpertSpec::new(EXPERTS, HIDDEN, 8), None).unwrap();
        let source = Synthetic::new(moe, seed as u64);
        let reference = Layer::router_of(&source);
        let router = ascend_moe::layer::Router::load(&rig.stream, &source, LayerOptions::new(FloatType::F32)).unwrap();
        let x = Tensor::from_slice(&rig.device, &input.x, &[TOKENS, HIDDEN]).unwrap();
        let token_ids = Tensor::from_slice(&rig.device, &input.ids, &[TOKENS]).unwrap();
        // A router that sees something else than the experts takes no notice of what these see.
        let other = Tensor::zeros(&rig.device, x.dtype(), &[TOKENS, HIDDEN]).unwrap();
        let given = match spec.input_norm {
            None => LayerInput::from(x.view()),
            Some(_) => LayerInput::from(other.view()).with_router_input(x.view()),
        };
        let given = given.with_token_ids(token_ids.view());
        let (ids, weights) = router.route(&rig.stream, given).unwrap();
        let ids: Vec<i32> = ids.to_vec(&rig.stream).unwrap();
        let weights = weights.to_f32(&rig.stream).unwrap();
        let k = spec.choices();
        for (token, (x, id)) in input.rows().enumerate() {
            let due = reference.route(&x, Some(id));
            let found = &ids[token * k..][..k];
            let chosen: Vec<i32> = due.iter().map(|(expert, _)| *expert as i32).collect();
            assert_eq!(found, chosen, "{spec:?}, token {token}, {:?}", router.plan().method);
            for (&found, (_, due)) in weights[token * k..][..k].iter().zip(&due) {
                let near = (f64::from(found) - due).abs() <= 2e-6 + 2e-5 * due.abs();
                assert!(near, "{spec:?}, token {token}: {found}, due {due}, {:?}", router.plan().method);
            }
        }
    }
    rig.close();
}

/// Every activation, and everything that stands before, behind and beside the experts.
fn experts() -> Vec<(ExpertSpec, Option<SharedSpec>)> {
    let plain = ExpertSpec::new(EXPERTS, HIDDEN, INNER);
    let gpt_oss = Activation::new(ActivationFn::GptOss { alpha: 1.702 });
    let relu2 = Activation::new(ActivationFn::Relu2);
    let softcapped = Activation::new(ActivationFn::Softcapped { gate: 0.7, up: 1.5 });
    let gelu = Activation::new(ActivationFn::GeluTanh);
    let activations = [
        Activation::SWIGLU,
        Activation::SWIGLU.clamped(0.4, ClampAt::Before),
        Activation::SWIGLU.clamped(0.2, ClampAt::After),
        Activation::SWIGLU.ungated(),
        gpt_oss,
        gpt_oss.clamped(0.5, ClampAt::Before),
        relu2,
        relu2.ungated(),
        relu2.clamped(0.4, ClampAt::Before),
        relu2.clamped(0.1, ClampAt::After),
        softcapped,
        softcapped.clamped(0.4, ClampAt::Before),
        softcapped.clamped(0.2, ClampAt::After),
        gelu,
        gelu.ungated(),
        gelu.clamped(0.4, ClampAt::Before),
    ];
    let mut all = Vec::new();
    for activation in activations {
        let mut shared = SharedSpec::new(24);
        shared.activation = activation;
        all.push((with!(plain; activation), None));
        all.push((with!(plain; activation, bias: true), Some(shared)));
        shared.mean = true;
        all.push((with!(plain; activation, output_norm: Some(1e-5)), Some(shared)));
        (shared.gate, shared.mean) = (true, false);
        all.push((with!(plain; activation, weight_on_input: true), Some(shared)));
    }
    all.push((with!(plain; bias: true, weight_on_input: true), None));
    all.push((with!(plain; latent: Some(20)), Some(SharedSpec::new(32))));
    all.push((with!(plain; latent: Some(20), bias: true, activation: relu2.ungated()), None));
    all.push((with!(plain; latent: Some(20), latent_norm: Some(1e-5), row_norm: Some(1e-8)), None));
    all.push((with!(plain; row_norm: Some(1e-6), bias: true), Some(SharedSpec::new(24))));
    for (zero, copy, constant) in [(3, 0, 0), (0, 3, 0), (2, 4, 0), (0, 0, 3), (2, 2, 5)] {
        all.push((with!(plain; zero, copy, constant), None));
        all.push((with!(plain; zero, copy, constant, bias: true), Some(SharedSpec::new(24))));
    }
    all
}

fn every_expert(release: Release) {
    let rig = Rig::simulated(|config| config.release = release);
    let input = Input::new(11);
    let routers = [
        with!(router(Score::Sigmoid); choice_bias: true, norm: Normalise::Sum { eps: 1e-20 }, scale: 2.5),
        with!(router(Score::Softmax); output_scale: 1.5),
        with!(router(Score::Sigmoid); choice_bias: true, norm: Normalise::Sum { eps: 0.0 }, always: 2),
    ];
    for (seed, (experts, shared)) in experts().into_iter().enumerate() {
        for router in routers {
            if router.always > 0 && experts.routed() > experts.num {
                continue;
            }
            let spec = MoeSpec::new(router, experts, shared).unwrap();
            let source = Synthetic::new(spec, seed as u64);
            let due = Layer::of(&source).forward(&input.x, Some(&input.ids));
            for (dtype, tolerance) in [(FloatType::F32, 2e-5), (FloatType::F16, 1e-2)] {
                let layer = MoeLayer::load(&rig.stream, &source, LayerOptions::new(dtype), &mut |_, _| {}).unwrap();
                let result = layer.forward(&rig.stream, activations(&layer, &input.x).view()).unwrap();
                let output = result.output.to_f32(&rig.stream).unwrap();
                if dtype == FloatType::F32 {
                    assert_near(&output, due.iter().copied(), tolerance, &format!("{spec:?}"));
                } else {
                    // Rounded activations can choose other experts; most tokens choose the same.
                    let wrong = output.chunks(HIDDEN).zip(due.chunks(HIDDEN)).filter(|(found, due)| {
                        let largest = due.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
                        let error = found.iter().zip(*due).map(|(&found, due)| (f64::from(found) - due).abs());
                        error.fold(0.0, f64::max) > tolerance * largest || found.iter().any(|value| value.is_nan())
                    });
                    let wrong = wrong.count();
                    assert!(wrong * 5 <= TOKENS, "{dtype}: {wrong} of {TOKENS} tokens, {spec:?}");
                }
                let counts: Vec<i64> = result.expert_counts.to_vec(&rig.stream).unwrap();
                let ids: Vec<i32> = result.expert_ids.to_vec(&rig.stream).unwrap();
                let mut histogram = vec![0i64; EXPERTS];
                ids.iter().filter(|&&id| (id as usize) < EXPERTS).for_each(|&id| histogram[id as usize] += 1);
                assert_eq!(counts, histogram, "{spec:?}");
            }
        }
    }
    rig.close();
}

/// The way that is taken is the best one that is exact, and each better one is named with its reason.
fn plans_are_the_best_ways() {
    use RouterMethod::{Composed, Fused, FusedChoice, FusedSigmoid, FusedSoftmax};
    let sigmoid = with!(router(Score::Sigmoid); choice_bias: true, norm: Normalise::Sum { eps: 1e-20 });
    let softmax = with!(router(Score::Softmax); norm: Normalise::Sum { eps: 0.0 });
    let input_norm = Some(InputNorm { eps: 1e-6, scale: 0.125 });
    let of = |spec: RouterSpec, dtype, release| {
        let rig = Rig::simulated(|config| config.release = release);
        let moe = MoeSpec::new(spec, ExpertSpec::new(EXPERTS, HIDDEN, 8), None).unwrap();
        let plan = ascend_moe::layer::RouterPlan::new(&rig.device, &moe, LayerOptions::new(dtype)).unwrap();
        rig.close();
        let better: Vec<RouterMethod> = plan.rejected.iter().map(|(method, _)| *method).collect();
        let all = [Fused, FusedSoftmax, FusedSigmoid, FusedChoice, Composed];
        let place = all.iter().position(|method| *method == plan.method).unwrap();
        assert_eq!(better, all[..place], "{spec:?}");
        assert!(plan.rejected.iter().all(|(_, reason)| reason.len() > 20), "{:?}", plan.rejected);
        assert!(plan.calls.len() >= 2, "{:?}", plan.calls);
        plan.method
    };
    let [old, _, new] = RELEASES;
    for (spec, dtype, in_old, in_new) in [
        (sigmoid, FloatType::Bf16, Fused, Fused),
        (softmax, FloatType::F32, FusedSoftmax, Fused),
        (with!(softmax; norm: Normalise::None), FloatType::F32, Fused, Fused),
        (with!(sigmoid; norm: Normalise::None), FloatType::F32, FusedSigmoid, FusedSigmoid),
        (with!(sigmoid; norm: Normalise::None, scale: 2.5), FloatType::F32, FusedChoice, FusedChoice),
        (with!(router(Score::Logits); weigh: Weigh::Softmax), FloatType::Bf16, FusedSoftmax, FusedSoftmax),
        (with!(router(Score::Logits); weigh: Weigh::Softmax, scale: 2.0), FloatType::F32, Composed, Composed),
        (with!(softmax; norm: Normalise::SumFloor { min: 1e-9 }), FloatType::F32, FusedChoice, FusedChoice),
        (with!(softmax; weigh: Weigh::Softmax), FloatType::F32, FusedChoice, FusedChoice),
        (with!(sigmoid; choice: groups(GroupScore::Top2Sum, GroupFill::NegInf)), FloatType::F32, Fused, Fused),
        (with!(sigmoid; choice: groups(GroupScore::Top2Sum, GroupFill::Zero)), FloatType::F32, Composed, Composed),
        (with!(sigmoid; scores: Precision::Model), FloatType::F32, Fused, Fused),
        (with!(sigmoid; scores: Precision::Model), FloatType::Bf16, Composed, Composed),
        (with!(sigmoid; weight_math: Precision::Model), FloatType::Bf16, FusedChoice, FusedChoice),
        (router(Score::SqrtSoftplus), FloatType::F32, Composed, Composed),
        (with!(softmax; input_norm), FloatType::F32, FusedSoftmax, Fused),
        (router(Score::Logits), FloatType::F32, Composed, Composed),
        (with!(sigmoid; always: 2), FloatType::F32, Composed, Composed),
        (with!(sigmoid; weight_scale: true), FloatType::F32, FusedChoice, FusedChoice),
        (with!(softmax; choice: Choice::EachGroup { n_group: 4 }), FloatType::F32, Composed, Composed),
        (with!(softmax; choice: Choice::Table { vocab: VOCAB }), FloatType::F32, Composed, Composed),
    ] {
        assert_eq!((of(spec, dtype, old), of(spec, dtype, new)), (in_old, in_new), "{spec:?} {dtype}");
    }
}

/// A device asks CANN about a router once.
fn plans_are_remembered() {
    let rig = Rig::simulated(|_| {});
    let moe =
        |top_k| MoeSpec::new(with!(router(Score::Softmax); top_k), ExpertSpec::new(EXPERTS, HIDDEN, 8), None).unwrap();
    let plan = |spec: &MoeSpec, dtype| {
        let calls = || rig.cann.table().calls(ascend_sys::FunctionId::aclnnMoeGatingTopKGetWorkspaceSize);
        let before = calls();
        let plan = ascend_moe::layer::RouterPlan::new(&rig.device, spec, LayerOptions::new(dtype)).unwrap();
        (plan, calls() - before)
    };
    let (first, asked) = plan(&moe(4), FloatType::F32);
    assert_eq!(asked, 1);
    assert_eq!(plan(&moe(4), FloatType::F32), (first, 0));
    assert_eq!(plan(&moe(5), FloatType::F32).1, 1);
    assert_eq!(plan(&moe(4), FloatType::Bf16).1, 1);
    rig.close();
}

/// Steps in the model's type are rounded to it, those in float32 are not.
fn narrow_steps() {
    let rig = Rig::simulated(|_| {});
    let norm = Normalise::Sum { eps: 0.0 };
    let base = with!(router(Score::Softmax); norm);
    let is_bf16 = |value: &f32| value.to_bits() & 0xFFFF == 0;
    for (spec, rounded) in [
        (base, false),
        (with!(base; weights: Precision::Model), true),
        (with!(base; weight_math: Precision::Model, weights: Precision::Model), true),
        (with!(base; scores: Precision::Model, weight_math: Precision::Model, weights: Precision::Model), true),
        (with!(base; logits: Precision::Model), false),
        (with!(base; logits: Precision::Model, weights: Precision::Model), true),
    ] {
        let moe = MoeSpec::new(spec, ExpertSpec::new(EXPERTS, HIDDEN, 8), None).unwrap();
        let source = Synthetic::new(moe, 3);
        assert_eq!(source.spec(), &moe);
        let router = ascend_moe::layer::Router::load(&rig.stream, &source, LayerOptions::new(FloatType::Bf16)).unwrap();
        let x = random(5, TOKENS * HIDDEN, 1.0);
        let x = Tensor::from_f32(&rig.device, FloatType::Bf16, &x, &[TOKENS, HIDDEN]).unwrap();
        let (_, weights) = router.route(&rig.stream, x.view()).unwrap();
        let weights = weights.to_f32(&rig.stream).unwrap();
        assert_eq!(weights.iter().all(is_bf16), rounded, "{spec:?}");
        let sum: f32 = weights.iter().sum();
        assert!((sum / TOKENS as f32 - 1.0).abs() < 2e-2, "{spec:?}: {sum}");
    }
    rig.close();
}
