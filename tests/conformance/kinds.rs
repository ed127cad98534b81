//! Layers of every kind: each router that is mapped in a way of its own, and each thing that experts can have beside it.

use ascend_moe::layer::{ExpertFormat, LayerInput, LayerOptions, MoeLayer, Pass};
use ascend_moe::spec::{
    Activation, ActivationFn, Choice, ClampAt, ExpertSpec, FloatType, GroupFill, GroupScore, GroupSpec, InputNorm,
    MoeSpec, Normalise, Precision, RouterSpec, Score, SharedSpec, Weigh,
};
use ascend_moe::{Device, Release, Stream, Tensor};

use crate::synthetic::{Synthetic, random};

/// Rows of the tables of experts by token id.
const VOCAB: usize = 50;

/// A layer of some kind.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) spec: MoeSpec,
    pub(crate) dtype: FloatType,
    pub(crate) experts: ExpertFormat,
}

/// Kinds whose experts are quantised: name, the kind it is made of, format and type.
const QUANTISED: [(&str, &str, ExpertFormat, FloatType); 7] = [
    ("w8a8_with_shared", "grouped_sigmoid_with_shared", ExpertFormat::W8A8, FloatType::Bf16),
    ("w8a8_with_biases", "softmax_of_chosen_logits_with_biases", ExpertFormat::W8A8, FloatType::Bf16),
    ("w8a8_weight_on_input", "weight_on_input", ExpertFormat::W8A8, FloatType::F16),
    ("w4a8_clamped", "sqrt_softplus_clamped", ExpertFormat::W4A8 { group: None }, FloatType::F16),
    ("w4a8_zero_and_copy_experts", "zero_and_copy_experts", ExpertFormat::W4A8 { group: None }, FloatType::Bf16),
    ("w8a16_shared_gate", "shared_gate", ExpertFormat::W8A16, FloatType::Bf16),
    ("w4a16_latent", "latent", ExpertFormat::W4A16 { group: None }, FloatType::F16),
];

const DTYPES: [FloatType; 3] = [FloatType::Bf16, FloatType::F32, FloatType::F16];

fn with<T>(mut value: T, change: impl FnOnce(&mut T)) -> T {
    change(&mut value);
    value
}

/// Every kind, the types of the layers in turn.
pub(crate) fn kinds() -> Vec<Kind> {
    let plain = RouterSpec::new(Score::Softmax, 3);
    let sigmoid = with(RouterSpec::new(Score::Sigmoid, 4), |router| {
        (router.choice_bias, router.norm, router.scale) = (true, Normalise::Sum { eps: 1e-20 }, 2.5);
    });
    let groups = |fill| {
        let groups = with(GroupSpec::new(4, 2, GroupScore::Top2Sum), |groups| groups.fill = fill);
        with(sigmoid, |router| router.choice = Choice::Groups(groups))
    };
    let experts = ExpertSpec::new(12, 48, 24);
    let clamped = with(experts, |experts| experts.activation = Activation::SWIGLU.clamped(0.5, ClampAt::Before));
    let relu2 = Activation::new(ActivationFn::Relu2).ungated();
    let shared = SharedSpec::new(40);
    let root = with(sigmoid, |router| router.score = Score::SqrtSoftplus);
    let specs = [
        ("softmax", with(plain, |router| router.norm = Normalise::Sum { eps: 0.0 }), experts, None),
        ("grouped_sigmoid_with_shared", groups(GroupFill::NegInf), experts, Some(shared)),
        ("groups_filled_with_zero", groups(GroupFill::Zero), experts, Some(shared)),
        ("sqrt_softplus_clamped", root, clamped, Some(shared)),
        (
            "hash",
            with(root, |router| (router.choice, router.choice_bias) = (Choice::Table { vocab: VOCAB }, false)),
            clamped,
            Some(shared),
        ),
        ("each_group", with(sigmoid, |router| router.choice = Choice::EachGroup { n_group: 4 }), experts, None),
        (
            "softmax_of_chosen_logits_with_biases",
            with(RouterSpec::new(Score::Logits, 3), |router| {
                (router.weigh, router.logit_bias, router.logits) = (Weigh::Softmax, true, Precision::Model);
            }),
            with(experts, |experts| {
                let gpt_oss = Activation::new(ActivationFn::GptOss { alpha: 1.702 });
                (experts.bias, experts.activation) = (true, gpt_oss.clamped(0.7, ClampAt::Before));
            }),
            None,
        ),
        (
            "weight_on_input",
            with(RouterSpec::new(Score::Logits, 1), |router| {
                (router.weigh, router.weights) = (Weigh::Sigmoid, Precision::Model);
            }),
            with(experts, |experts| experts.weight_on_input = true),
            Some(shared),
        ),
        (
            "zero_and_copy_experts",
            with(plain, |router| (router.choice_bias, router.scale, router.top_k) = (true, 6.0, 5)),
            with(experts, |experts| (experts.zero, experts.copy) = (3, 2)),
            None,
        ),
        (
            "latent",
            groups(GroupFill::NegInf),
            with(experts, |experts| (experts.latent, experts.activation) = (Some(16), relu2)),
            Some(with(shared, |shared| shared.activation = relu2)),
        ),
        ("shared_gate", plain, experts, Some(with(shared, |shared| shared.gate = true))),
        (
            "floor_and_output_scale",
            with(plain, |router| {
                (router.norm, router.output_scale) = (Normalise::SumFloor { min: 0.3 }, 1.5);
                router.weight_math = Precision::Model;
            }),
            experts,
            Some(shared),
        ),
        (
            "constant_experts_factors_mean_and_norm",
            with(plain, |router| (router.expert_scale, router.top_k) = (true, 5)),
            with(experts, |experts| (experts.copy, experts.constant, experts.output_norm) = (2, 4, Some(1e-5))),
            Some(with(shared, |shared| shared.mean = true)),
        ),
        (
            "sparse_mixer",
            with(RouterSpec::new(Score::Logits, 2), |router| router.weigh = Weigh::SparseMixer { jitter: 0.2 }),
            experts,
            None,
        ),
        (
            "norms_and_soft_caps",
            with(sigmoid, |router| router.logit_scale = 0.4),
            with(experts, |experts| {
                (experts.latent, experts.latent_norm, experts.row_norm) = (Some(16), Some(1e-5), Some(1e-8));
                experts.activation = Activation::new(ActivationFn::Softcapped { gate: 0.5, up: 0.8 });
            }),
            None,
        ),
        (
            "experts_that_every_token_gets",
            with(sigmoid, |router| (router.always, router.weight_scale) = (2, true)),
            experts,
            Some(shared),
        ),
        ("sigmoid_scores_as_they_are", RouterSpec::new(Score::Sigmoid, 4), experts, None),
        (
            "router_input_and_its_norm",
            with(plain, |router| {
                (router.norm, router.expert_scale) = (Normalise::Sum { eps: 0.0 }, true);
                (router.logits, router.input_norm) = (Precision::Model, Some(InputNorm { eps: 1e-6, scale: 0.5 }));
            }),
            with(experts, |experts| experts.activation = Activation::new(ActivationFn::GeluTanh)),
            Some(shared),
        ),
    ];
    let kind = |((name, router, experts, shared), dtype)| Kind {
        name,
        spec: MoeSpec::new(router, experts, shared).unwrap_or_else(|error| panic!("{name}: {error}")),
        dtype,
        experts: ExpertFormat::Float,
    };
    let mut kinds: Vec<Kind> = specs.into_iter().zip(DTYPES.into_iter().cycle()).map(kind).collect();
    for (name, of, experts, dtype) in QUANTISED {
        let of = *kinds.iter().find(|kind| kind.name == of).unwrap();
        kinds.push(Kind { name, dtype, experts, ..of });
    }
    kinds
}

impl Kind {
    pub(crate) fn by_id(&self) -> bool {
        matches!(self.spec.router().choice, Choice::Table { .. })
    }

    /// Whether passes give the router an input of its own: where it has a norm of its own.
    fn has_router_input(&self) -> bool {
        self.spec.router().input_norm.is_some()
    }

    /// Whether a release has operators for it: the older ones add no bias to products of int8.
    pub(crate) fn runs_in(&self, release: Release) -> bool {
        let biased = self.experts == ExpertFormat::W8A8 && self.spec.experts().bias;
        !biased || release >= Release::new(9, 1, 0)
    }

    /// A pass with what this kind is given.
    pub(crate) fn pass(&self, pass: impl Into<Pass>) -> Pass {
        if self.has_router_input() { pass.into().with_router_input() } else { pass.into() }
    }

    pub(crate) fn options(&self) -> LayerOptions {
        LayerOptions::new(self.dtype).with_experts(self.experts)
    }

    pub(crate) fn weights(&self, seed: u64) -> Synthetic {
        Synthetic::new(self.spec, seed)
    }

    pub(crate) fn layer(&self, stream: &Stream) -> MoeLayer {
        MoeLayer::load(stream, &self.weights(1), self.options(), &mut |_, _| {})
            .unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// What a pass is given: other values for each seed.
    pub(crate) fn given(&self, device: &Device, tokens: usize, seed: u64) -> Given {
        let hidden = self.spec.experts().hidden;
        let x = random(seed.wrapping_mul(77), tokens * hidden, 1.5);
        let seen = random(seed.wrapping_mul(77) + 5, tokens * hidden, 1.5);
        let seen = || Tensor::from_f32(device, self.dtype, &seen, &[tokens, hidden]).unwrap();
        let ids: Vec<i64> = (0..tokens).map(|token| ((token * 7 + seed as usize * 3) % VOCAB) as i64).collect();
        let valid = Self::valid(tokens, seed);
        Given {
            x: Tensor::from_f32(device, self.dtype, &x, &[tokens, hidden]).unwrap(),
            router_input: self.has_router_input().then(seen),
            ids: self.by_id().then(|| Tensor::from_slice(device, &ids, &[tokens]).unwrap()),
            valid: Some(Tensor::from_slice(device, &[valid], &[1]).unwrap()),
        }
    }

    /// Real tokens of so many, from none to all.
    fn valid(tokens: usize, seed: u64) -> i32 {
        (seed as usize * 5 % (tokens + 1)) as i32
    }
}

/// The tensors of a pass's input.
pub(crate) struct Given {
    pub(crate) x: Tensor,
    pub(crate) router_input: Option<Tensor>,
    pub(crate) ids: Option<Tensor>,
    pub(crate) valid: Option<Tensor>,
}

impl Given {
    /// All tokens real.
    pub(crate) fn unpadded(mut self) -> Self {
        self.valid = None;
        self
    }

    pub(crate) fn input(&self) -> LayerInput<'_> {
        let mut input = LayerInput::from(self.x.view());
        if let Some(seen) = &self.router_input {
            input = input.with_router_input(seen.view());
        }
        if let Some(ids) = &self.ids {
            input = input.with_token_ids(ids.view());
        }
        match &self.valid {
            Some(valid) => input.with_valid_tokens(valid.view()),
            None => input,
        }
    }

    /// Takes the values of another, keeping its tensors.
    pub(crate) fn set(&mut self, stream: &Stream, other: &Self) {
        let bytes = |from: &Tensor, to: &mut Tensor| match from.dtype() {
            ascend_moe::DType::F32 => to.view_mut().copy_from_host(stream, &from.to_vec::<f32>(stream).unwrap()),
            ascend_moe::DType::Bf16 => {
                to.view_mut().copy_from_host(stream, &from.to_vec::<half::bf16>(stream).unwrap())
            }
            ascend_moe::DType::F16 => to.view_mut().copy_from_host(stream, &from.to_vec::<half::f16>(stream).unwrap()),
            ascend_moe::DType::I32 => to.view_mut().copy_from_host(stream, &from.to_vec::<i32>(stream).unwrap()),
            _ => to.view_mut().copy_from_host(stream, &from.to_vec::<i64>(stream).unwrap()),
        };
        bytes(&other.x, &mut self.x).unwrap();
        let pairs = [
            (&other.router_input, &mut self.router_input),
            (&other.ids, &mut self.ids),
            (&other.valid, &mut self.valid),
        ];
        for (from, to) in pairs {
            if let (Some(from), Some(to)) = (from, to) {
                bytes(from, to).unwrap();
            }
        }
    }
}
