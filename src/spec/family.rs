//! The model families: which `model_type` belongs to which, and how each reads its `config.json`.
//!
//! A family is a row: where its fields are and what its router and experts compute. Sources: configuration and modelling
//! classes of transformers 5.23 and 5.24; `kimi_k2` and `kimi_k25` are published with DeepSeek's own modelling code, which also
//! defines `moe_layer_freq`.

use super::config::{Fields, Only, shown};
use super::layers::Layers;
use super::{
    Activation, ActivationFn, Choice, ClampAt, ExpertSpec, GroupFill, GroupScore, GroupSpec, InputNorm, MAX_EXPERTS,
    MAX_WIDTH, MoeSpec, Normalise, Precision, RouterSpec, SharedSpec, SpecError, Weigh,
};

/// The fields that say whether weights are normalised.
const NORM_FLAGS: &[&str] = &["norm_topk_prob", "moe_renormalize"];

/// How the weights are normalised.
#[derive(Clone, Copy)]
pub(super) enum Norm {
    /// Never; a field that says otherwise is ignored, as the class does.
    Never,
    /// Always, with an epsilon; a field that says otherwise is refused.
    Always(f64),
    /// As one of [`NORM_FLAGS`] says, with an epsilon.
    Flag(f64),
    /// Always, the divisor no less than a field says.
    Floor(&'static str),
    /// By the p-norm whose p a field says, not at all where that is null; only 1, the sum, is read.
    Lp(&'static str),
}

/// What a field besides these says of the weights.
#[derive(Clone, Copy)]
pub(super) enum Weighing {
    /// Nothing.
    Fixed,
    /// The function of the chosen logits: softmax, or sigmoid, which is normalised as [`NORM_FLAGS`] say.
    Function(&'static str),
    /// How close experts are in the sparse mixer, which always chooses two.
    Jitter(&'static str),
}

/// Whether there is a bias on the scores for the choice.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Bias {
    Never,
    Always,
    /// As a field says.
    Flag(&'static str),
}

/// What is between an expert's projections, and where its numbers are.
#[derive(Clone, Copy)]
pub(super) enum Act {
    Silu,
    /// SwiGLU with the limit of a field ahead of it; without one where that is null.
    Clamped(&'static str),
    /// The gpt-oss activation, its alpha and limit in two fields.
    GptOss(&'static str, &'static str),
    /// SwiGLU with a limit behind it, one for each layer, in a list; routed and shared.
    PerLayer(&'static str, &'static str),
    /// Squared ReLU without a gate.
    Relu2,
    /// SwiGLU with soft caps on gate and up, in two fields.
    Softcapped(&'static str, &'static str),
    /// GELU by its `tanh` approximation, which a field must name.
    GeluTanh(&'static str),
}

/// The shared expert.
#[derive(Clone, Copy)]
pub(super) enum Shared {
    None,
    /// So many as a field says, each as wide as another field says, or as a routed one.
    Count {
        fields: &'static [&'static str],
        width: Option<&'static str>,
    },
    /// One, as wide as a field says; none where that is 0 or null.
    Width(&'static [&'static str]),
    /// One, as wide as a routed one.
    Always,
    /// So many as a field says, as wide as routed ones and weighted together with them.
    Weighted(&'static [&'static str]),
}

/// A model family: one row.
pub(super) struct Family {
    /// Its model types; the first names the family.
    pub(super) names: &'static [&'static str],
    /// Its router, but for the parts below.
    pub(super) router: RouterSpec,
    /// Field of the eps of a norm of the router's input, whose result is multiplied by `H^-0.5`.
    pub(super) router_norm: Option<&'static str>,
    pub(super) bias: Bias,
    /// How groups of experts are compared, where fields say how many there are.
    pub(super) groups: Option<(GroupScore, GroupFill)>,
    pub(super) norm: Norm,
    pub(super) weighing: Weighing,
    /// Whether the best expert of each group is taken: fields that say how many groups there are, one of them how many experts
    /// are chosen.
    pub(super) one_per_group: Option<&'static [&'static str]>,
    /// Field of the factor on the weights.
    pub(super) scale: Option<&'static str>,
    /// Whether that factor is on the routed experts' sum instead.
    pub(super) scale_on_output: bool,
    /// Names of the number of experts, of those of a token, of the width inside one.
    pub(super) num: &'static [&'static str],
    pub(super) top_k: &'static [&'static str],
    pub(super) inner: &'static [&'static str],
    /// Field of the dense layers' width; where it is written, `intermediate_size` is an expert's.
    pub(super) dense_inner: Option<&'static str>,
    pub(super) act: Act,
    /// Whether the experts' projections have biases.
    pub(super) expert_bias: bool,
    pub(super) on_input: bool,
    /// Field of the number of experts that give back their input.
    pub(super) copies: Option<&'static str>,
    /// Field of the experts' own width.
    pub(super) latent: Option<&'static str>,
    /// Fields of the eps of the norms of the experts' input, which is that of the layer's norms, and of their outputs; the
    /// weights of both are stored less 1.
    pub(super) expert_norms: Option<[&'static str; 2]>,
    /// Field of the factor on the logits.
    pub(super) logit_scale: Option<&'static str>,
    pub(super) shared: Shared,
    /// Whether the shared expert is weighted by a logistic function of the token.
    pub(super) shared_gate: bool,
    /// Field that says whether the layer gives the mean of routed and shared experts, or their sum.
    pub(super) shared_mean: Option<&'static str>,
    /// Field of the eps of a norm of the layer's output.
    pub(super) output_norm: Option<&'static str>,
    /// Whether the shared expert is clamped as the routed ones are.
    pub(super) shared_clamped: bool,
    pub(super) layers: Layers,
    /// Whether fused weights are stored as `[in, out]`, where their shape does not tell.
    pub(super) transposed: bool,
    /// Whether gate and up stand in turn in fused weights.
    pub(super) interleaved: bool,
    /// Whether layers named `hash_moe` choose experts by token id.
    pub(super) hashed: bool,
}

/// Fields that would change the result, with the one value each may have in a family that does not read it.
const WATCHED: &[(&str, Only)] = &[
    ("hidden_act", Only::Text("silu")),
    ("ffn_act_fn", Only::Named("silu")),
    ("mlp_bias", Only::Flag(false)),
    ("mlp_layer_types", Only::Absent),
    ("moe_latent_size", Only::Number(0.0)),
    ("num_hash_layers", Only::Number(0.0)),
    ("num_shared_experts", Only::Number(0.0)),
    ("n_shared_experts", Only::Number(0.0)),
    ("moe_num_shared_experts", Only::Number(0.0)),
    ("shared_expert_intermediate_size", Only::Number(0.0)),
    ("shared_intermediate_size", Only::Number(0.0)),
    ("swiglu_limit", Only::Absent),
    ("swiglu_limits", Only::Absent),
    ("swiglu_limits_shared", Only::Absent),
    ("zero_expert_num", Only::Number(0.0)),
    ("zero_expert_type", Only::Text("identity")),
    ("routed_scaling_factor", Only::Number(1.0)),
    ("moe_router_scaling_factor", Only::Number(1.0)),
    ("n_group", Only::Number(1.0)),
    ("topk_group", Only::Number(1.0)),
    ("num_expert_group", Only::Number(1.0)),
    ("first_k_dense_replace", Only::Number(0.0)),
    ("moe_layer_freq", Only::Number(1.0)),
    ("decoder_sparse_step", Only::Number(1.0)),
    ("mlp_only_layers", Only::EmptyList),
    ("moe_router_logit_softcapping", Only::Number(0.0)),
    ("router_logit_softcapping", Only::Number(0.0)),
    ("moe_apply_router_weight_on_input", Only::Flag(false)),
    ("moe_multiply_router_weight_on_input", Only::Flag(false)),
    ("num_router_groups", Only::Number(1.0)),
    ("use_grouped_topk", Only::Flag(false)),
    ("use_routing_bias", Only::Flag(true)),
    ("use_moe", Only::Flag(true)),
    ("use_moe_router_bias", Only::Flag(true)),
    ("moe_router_enable_expert_bias", Only::Flag(true)),
    ("moe_use_aux_free", Only::Flag(true)),
    ("moe_gate", Only::Text("topk")),
    ("moe_every_n_layer", Only::Number(1.0)),
    ("norm_expert_weight", Only::Flag(true)),
    ("shared_expert_sink", Only::Flag(true)),
    ("shared_moe_mode", Only::Text("sigmoid")),
    ("router_dtype", Only::OneOf(&["fp32", "float32"])),
    // What experts are stored in, which their tensors tell.
    ("expert_dtype", Only::OneOf(&["fp4", "fp8", "bf16"])),
    ("moe_quantize", Only::OneOf(&["w8a8_dynamic", "w4a8_dynamic"])),
    ("norm_topk_prob", Only::Flag(true)),
    ("moe_renormalize", Only::Flag(true)),
    ("route_norm", Only::Flag(true)),
];

/// Parts of names of fields that are about mixtures of experts.
const ABOUT: &[&str] = &["moe", "expert", "router", "routed", "routing", "topk", "swiglu"];

/// Parts of names of fields that a forward pass does not depend on, though they are: what training adds, what serving
/// distributes, the indexer of sparse attention, layers that predict further tokens, the eps of a norm that no class has.
const NO_ACCOUNT: &[&str] = &[
    "loss",
    "aux",
    "jitter",
    "balanc",
    "capacity",
    "update_speed",
    "output_router_logits",
    "moe_group",
    "world_size",
    "parallel",
    "overlap",
    "enable_moe_fp32_combine",
    "index_topk",
    "mtp",
    "initializer",
    "init_std",
    "num_shared_expert",
    "use_mixed_mlp_moe",
    "rms_norm_eps_moe_gate",
];

/// What the fields of one model give: its specs by layer.
pub(super) struct Layout {
    /// Ascending, at least one where the model has one.
    pub(super) moe: Vec<(usize, MoeSpec)>,
    /// The fields that say which layers are mixtures.
    pub(super) rule: &'static str,
}

impl Family {
    /// Its name: that of its first model type.
    pub(super) fn name(&self) -> &'static str {
        self.names.first().copied().unwrap_or_default()
    }

    pub(super) fn read(&self, fields: &Fields<'_>, num_layers: usize) -> Result<Layout, SpecError> {
        let score = super::families::score_name(self.router.score);
        for field in ["scoring_func", "score_function", "moe_router_activation_func", "moe_router_activation"] {
            fields.only(&[(field, Only::Text(score))])?;
            fields.seen(field);
        }
        let kinds = self.layers.read(fields, num_layers, self.hashed)?;
        if kinds.is_empty() {
            // A dense model of a family that also has mixtures need not say how large these are.
            return Ok(Layout { moe: Vec::new(), rule: self.layers.rule() });
        }
        let experts = self.experts(fields)?;
        let router = self.router(fields, experts.hidden)?;
        let shared = self.shared(fields, &experts)?;
        let limits = match self.act {
            Act::PerLayer(routed, shared) => [fields.limits(routed)?, fields.limits(shared)?],
            _ => [Vec::new(), Vec::new()],
        };
        let vocab = if kinds.iter().any(|(_, hashed)| *hashed) {
            if !self.hashed {
                let legal = "layers without a table of token ids in this family".to_owned();
                return Err(SpecError::Unsupported { field: "mlp_layer_types", value: "hash_moe".to_owned(), legal });
            }
            fields.size("vocab_size", 1..=i32::MAX as usize)?
        } else {
            0
        };
        if let Norm::Never = self.norm {
            NORM_FLAGS.iter().for_each(|flag| fields.seen(flag));
        }
        fields.only_unread(WATCHED)?;
        WATCHED.iter().for_each(|(field, _)| fields.seen(field));
        fields.nothing_else(ABOUT, NO_ACCOUNT)?;
        let moe = kinds.into_iter().map(|(layer, hashed)| {
            let (mut router, mut experts, mut shared) = (router, experts, shared);
            if hashed {
                (router.choice, router.choice_bias) = (Choice::Table { vocab }, false);
            }
            let limit = |of: &[f64]| of.get(layer).copied().filter(|limit| *limit > 0.0);
            let [routed_limits, shared_limits] = &limits;
            if let Some(limit) = limit(routed_limits) {
                experts.activation = experts.activation.clamped(limit, ClampAt::After);
            }
            if let (Some(shared), Some(limit)) = (&mut shared, limit(shared_limits)) {
                shared.activation = shared.activation.clamped(limit, ClampAt::After);
            }
            Ok((layer, MoeSpec::new(router, experts, shared)?))
        });
        Ok(Layout { moe: moe.collect::<Result<_, SpecError>>()?, rule: self.layers.rule() })
    }

    fn experts(&self, fields: &Fields<'_>) -> Result<ExpertSpec, SpecError> {
        let inner = match self.dense_inner.and_then(|field| fields.get(field)) {
            None => self.inner,
            Some(_) => {
                self.inner.iter().for_each(|field| fields.seen(field));
                &["intermediate_size"]
            }
        };
        let mut experts = ExpertSpec::new(
            fields.size_of(self.num, 1..=MAX_EXPERTS)? + self.always(fields)?,
            fields.size_of(&["hidden_size", "d_model"], 1..=MAX_WIDTH)?,
            fields.size_of(inner, 1..=MAX_WIDTH)?,
        );
        experts.activation = self.activation(fields)?;
        experts.bias = self.expert_bias;
        experts.weight_on_input = self.on_input;
        // 0, null: none.
        let number = |field: Option<&'static str>, max| match field {
            None => Ok(0),
            Some(field) => {
                fields.known(&[field], "an integer, or null for none")?;
                fields.size_or(field, 0, 0..=max)
            }
        };
        experts.copy = number(self.copies, MAX_EXPERTS)?;
        experts.output_norm = self.output_norm.map(|field| fields.not_negative(field)).transpose()?;
        experts.latent = Some(number(self.latent, MAX_WIDTH)?).filter(|width| *width > 0);
        if let Some([latent, rows]) = self.expert_norms {
            experts.latent_norm = Some(fields.not_negative(latent)?);
            experts.row_norm = Some(fields.not_negative(rows)?);
        }
        Ok(experts)
    }

    /// Experts that every token gets, weighted together with the others.
    fn always(&self, fields: &Fields<'_>) -> Result<usize, SpecError> {
        match self.shared {
            Shared::Weighted(names) => fields.size_of(names, 1..=MAX_EXPERTS),
            _ => Ok(0),
        }
    }

    fn activation(&self, fields: &Fields<'_>) -> Result<Activation, SpecError> {
        Ok(match self.act {
            Act::Silu | Act::PerLayer(..) => Activation::SWIGLU,
            Act::Clamped(field) => {
                fields.known(&[field], "a number above 0, or null for no limit")?;
                match fields.get(field) {
                    None => Activation::SWIGLU,
                    Some(_) => Activation::SWIGLU.clamped(fields.positive(field)?, ClampAt::Before),
                }
            }
            Act::GptOss(alpha, limit) => {
                fields.only(&[("hidden_act", Only::OneOf(&["silu", "swigluoai"]))])?;
                let alpha = fields.positive(alpha)?;
                Activation::new(ActivationFn::GptOss { alpha }).clamped(fields.positive(limit)?, ClampAt::Before)
            }
            Act::Softcapped(gate, up) => {
                Activation::new(ActivationFn::Softcapped { gate: fields.positive(gate)?, up: fields.positive(up)? })
            }
            Act::Relu2 => {
                fields.only(&[("mlp_hidden_act", Only::Text("relu2"))])?;
                Activation::new(ActivationFn::Relu2).ungated()
            }
            Act::GeluTanh(field) => {
                fields.only(&[(field, Only::Text("gelu_pytorch_tanh"))])?;
                Activation::new(ActivationFn::GeluTanh)
            }
        })
    }

    fn router(&self, fields: &Fields<'_>, hidden: usize) -> Result<RouterSpec, SpecError> {
        let mut router = self.router;
        if let Some(field) = self.router_norm {
            router.input_norm = Some(InputNorm { eps: fields.not_negative(field)?, scale: (hidden as f64).powf(-0.5) });
        }
        // Whether 0 or too many is left to the rule between top-k and experts.
        router.top_k = fields.size_of(self.top_k, 0..=MAX_EXPERTS)?;
        router.always = self.always(fields)?;
        router.choice_bias = match self.bias {
            Bias::Never => false,
            Bias::Always => true,
            Bias::Flag(field) => fields.flag(field)?,
        };
        router.norm = match self.norm {
            Norm::Never => Normalise::None,
            Norm::Always(eps) => Normalise::Sum { eps },
            Norm::Flag(_) if !fields.flag_of(NORM_FLAGS)? => Normalise::None,
            Norm::Flag(eps) => Normalise::Sum { eps },
            Norm::Floor(field) => Normalise::SumFloor { min: fields.not_negative(field)? },
            Norm::Lp(field) => match fields.get(field) {
                None => Normalise::None,
                Some(_) => {
                    fields.only(&[(field, Only::Number(1.0))])?;
                    Normalise::Sum { eps: 0.0 }
                }
            },
        };
        match self.weighing {
            Weighing::Fixed => {}
            Weighing::Function(field) => {
                fields.only(&[(field, Only::OneOf(&["softmax", "sigmoid"]))])?;
                if fields.text(field, || "\"softmax\" or \"sigmoid\"".to_owned())? == "sigmoid" {
                    (router.weigh, router.weight_math) = (Weigh::Sigmoid, Precision::Model);
                } else {
                    router.norm = Normalise::None;
                }
            }
            Weighing::Jitter(field) => {
                router.weigh = Weigh::SparseMixer { jitter: fields.positive(field)? };
                let two = self.top_k.iter().map(|field| (*field, Only::Number(2.0)));
                fields.only(&two.collect::<Vec<_>>())?;
            }
        }
        if let Some(field) = self.scale {
            let scale = fields.positive(field)?;
            if self.scale_on_output {
                router.output_scale = scale;
            } else {
                router.scale = scale;
            }
        }
        if let Some(field) = self.logit_scale {
            router.logit_scale = fields.positive(field)?;
        }
        router.choice = self.choice(fields)?;
        Ok(router)
    }

    /// `n_group` of `null` or 1: no groups.
    fn choice(&self, fields: &Fields<'_>) -> Result<Choice, SpecError> {
        if let Some(groups) = self.one_per_group {
            let n_group = fields.size_of(groups, 0..=MAX_EXPERTS)?;
            return Ok(Choice::EachGroup { n_group });
        }
        let Some((score, fill)) = self.groups else { return Ok(Choice::TopK) };
        // DeepSeek-V2's own method is greedy where none is named.
        let method = fields.get("topk_method");
        let grouped = match (score, method.map(|value| value.as_str())) {
            (GroupScore::Top2Sum, None | Some(Some("noaux_tc")))
            | (GroupScore::Max, Some(Some("group_limited_greedy"))) => true,
            (GroupScore::Max, None | Some(Some("greedy"))) => false,
            (_, Some(_)) => {
                let legal = match score {
                    GroupScore::Top2Sum => "\"noaux_tc\"",
                    GroupScore::Max => "\"greedy\" or \"group_limited_greedy\"",
                };
                return Err(SpecError::Unsupported {
                    field: "topk_method",
                    value: method.map(shown).unwrap_or_default(),
                    legal: legal.to_owned(),
                });
            }
        };
        if !grouped {
            fields.seen("n_group");
            fields.seen("topk_group");
            return Ok(Choice::TopK);
        }
        const GROUPS: &[&str] = &["n_group", "num_expert_group"];
        fields.known(GROUPS, "a divisor of the experts, 1 or null")?;
        let n_group = fields.size_of_or(GROUPS, 1, 1..=MAX_EXPERTS)?;
        if n_group > 1 {
            let topk_group = fields.size("topk_group", 0..=MAX_EXPERTS)?;
            let mut groups = GroupSpec::new(n_group, topk_group, score);
            groups.fill = fill;
            return Ok(Choice::Groups(groups));
        }
        match fields.size_or("topk_group", 1, 0..=MAX_EXPERTS)? {
            1 => Ok(Choice::TopK),
            topk_group => Err(SpecError::TopkGroup { topk_group, n_group }),
        }
    }

    fn shared(&self, fields: &Fields<'_>, experts: &ExpertSpec) -> Result<Option<SharedSpec>, SpecError> {
        let inner = experts.intermediate;
        let width = match self.shared {
            Shared::None | Shared::Weighted(_) => 0,
            Shared::Always => inner,
            Shared::Width(names) => {
                // Where a count is written beside the width, it is of one.
                fields.only(&[("n_shared_experts", Only::Number(1.0))])?;
                fields.known(names, "a width, or null for none")?;
                fields.size_of_or(names, 0, 0..=MAX_WIDTH)?
            }
            Shared::Count { fields: names, width } => {
                fields.known(names, "an integer, or null for none")?;
                let each = width.map_or(Ok(inner), |field| fields.size_or(field, inner, 1..=MAX_WIDTH))?;
                each * fields.size_of_or(names, 0, 0..=MAX_WIDTH / each)?
            }
        };
        let mean = match self.shared_mean.filter(|_| width > 0) {
            None => false,
            Some(field) => {
                fields.only(&[(field, Only::OneOf(&["average", "sum"]))])?;
                fields.text(field, || "\"average\" or \"sum\"".to_owned())? == "average"
            }
        };
        Ok((width > 0).then(|| {
            let mut shared = SharedSpec::new(width);
            shared.mean = mean;
            shared.activation = experts.activation;
            if !self.shared_clamped {
                shared.activation.clamp = None;
            }
            shared.gate = self.shared_gate;
            shared
        }))
    }
}
