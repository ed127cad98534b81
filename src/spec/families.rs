//! The rows of the table of families, and the families that are known and not on the axes.

use super::family::{Act, Bias, Family, Norm, Shared, Weighing};
use super::layers::Layers;
use super::{GroupFill, GroupScore, Precision, RouterSpec, Score, Weigh};

const MODEL: Precision = Precision::Model;

/// DeepSeek-V3: sigmoid scores in `float32`, a choice bias, groups by their two best, an ungated shared expert.
const DEEPSEEK_V3: Family = Family {
    names: &["deepseek_v3", "deepseek_v32", "kimi_k2"],
    router: RouterSpec::new(Score::Sigmoid, 0),
    router_norm: None,
    bias: Bias::Always,
    groups: Some((GroupScore::Top2Sum, GroupFill::NegInf)),
    norm: Norm::Flag(1e-20),
    weighing: Weighing::Fixed,
    one_per_group: None,
    scale: Some("routed_scaling_factor"),
    scale_on_output: false,
    num: &["n_routed_experts", "num_local_experts", "num_experts"],
    top_k: &["num_experts_per_tok", "num_experts_per_token", "experts_per_token"],
    inner: &["moe_intermediate_size"],
    dense_inner: None,
    act: Act::Silu,
    expert_bias: false,
    on_input: false,
    copies: None,
    latent: None,
    expert_norms: None,
    logit_scale: None,
    shared: Shared::Count { fields: &["n_shared_experts", "num_shared_experts"], width: None },
    shared_gate: false,
    shared_mean: None,
    output_norm: None,
    shared_clamped: true,
    layers: Layers::FirstDense("first_k_dense_replace"),
    transposed: false,
    interleaved: false,
    hashed: false,
};

/// Qwen: softmax scores of logits in the model's type, weights rounded to it.
const QWEN: Family = Family {
    names: &["qwen3_moe"],
    router: RouterSpec { logits: MODEL, weights: MODEL, ..RouterSpec::new(Score::Softmax, 0) },
    bias: Bias::Never,
    groups: None,
    norm: Norm::Flag(0.0),
    scale: None,
    num: &["num_experts", "num_local_experts"],
    shared: Shared::None,
    layers: Layers::SparseStep,
    ..DEEPSEEK_V3
};

/// Mixtral: softmax scores of logits in the model's type, weights always normalised and kept in `float32`.
const MIXTRAL: Family = Family {
    names: &["mixtral", "minimax"],
    router: RouterSpec { logits: MODEL, ..RouterSpec::new(Score::Softmax, 0) },
    norm: Norm::Always(0.0),
    num: &["num_local_experts", "num_experts"],
    inner: &["intermediate_size"],
    layers: Layers::All,
    ..QWEN
};

/// MiniMax-M2: sigmoid scores, a choice bias, weights always normalised.
const MINIMAX_M2: Family = Family {
    names: &["minimax_m2"],
    router: RouterSpec { logits: MODEL, ..RouterSpec::new(Score::Sigmoid, 0) },
    bias: Bias::Always,
    ..MIXTRAL
};

/// gpt-oss: the best logits, their softmax; its own activation, biases, gate and up in turn.
const GPT_OSS: Family = Family {
    names: &["gpt_oss"],
    router: RouterSpec {
        logits: MODEL,
        logit_bias: true,
        scores: MODEL,
        weigh: Weigh::Softmax,
        weight_math: MODEL,
        weights: MODEL,
        ..RouterSpec::new(Score::Logits, 0)
    },
    norm: Norm::Never,
    act: Act::GptOss("swiglu_alpha", "swiglu_limit"),
    expert_bias: true,
    transposed: true,
    interleaved: true,
    ..MIXTRAL
};

/// Granite: the best logits, their softmax in `float32`, rounded.
const GRANITE: Family = Family {
    names: &["granitemoe"],
    router: RouterSpec { logits: MODEL, weigh: Weigh::Softmax, weights: MODEL, ..RouterSpec::new(Score::Logits, 0) },
    norm: Norm::Never,
    ..MIXTRAL
};

/// All families on the axes.
pub(super) static FAMILIES: &[Family] = &[
    DEEPSEEK_V3,
    Family {
        names: &[
            "glm4_moe",
            "glm4v_moe_text",
            "dots1",
            "solar_open",
            "glm4_moe_lite",
            "kimi_linear",
            "exaone_moe",
            "dots3_note_text",
            "bailing_hybrid",
            "glm_moe_dsa",
            "mimo_v2_flash",
            "beam",
        ],
        shared: Shared::Count {
            fields: &["n_shared_experts", "num_shared_experts"],
            width: Some("shared_experts_intermediate_size"),
        },
        ..DEEPSEEK_V3
    },
    Family { names: &["axk1"], output_norm: Some("rms_norm_eps"), ..DEEPSEEK_V3 },
    Family { names: &["axk2"], groups: Some((GroupScore::Top2Sum, GroupFill::Zero)), ..DEEPSEEK_V3 },
    Family { names: &["hy_v4"], act: Act::Clamped("swiglu_limit"), shared_clamped: false, ..DEEPSEEK_V3 },
    Family { names: &["glm5_next_text"], act: Act::Clamped("swiglu_limit"), ..DEEPSEEK_V3 },
    Family {
        names: &["nemotron_h"],
        act: Act::Relu2,
        latent: Some("moe_latent_size"),
        shared: Shared::Count { fields: &["n_shared_experts"], width: Some("moe_shared_expert_intermediate_size") },
        layers: Layers::Blocks,
        ..DEEPSEEK_V3
    },
    Family {
        names: &["deepseek_v2", "deepseek_ocr2_text", "unlimited_ocr_text"],
        router: RouterSpec::new(Score::Softmax, 0),
        bias: Bias::Never,
        groups: Some((GroupScore::Max, GroupFill::Zero)),
        norm: Norm::Never,
        ..DEEPSEEK_V3
    },
    Family {
        names: &["mistral4"],
        router: RouterSpec {
            logits: MODEL,
            scores: MODEL,
            weight_math: MODEL,
            weights: MODEL,
            ..RouterSpec::new(Score::Softmax, 0)
        },
        bias: Bias::Never,
        groups: Some((GroupScore::Top2Sum, GroupFill::Zero)),
        ..DEEPSEEK_V3
    },
    Family {
        names: &["mistral_large4_text"],
        router: RouterSpec::new(Score::Softmax, 0),
        bias: Bias::Never,
        groups: Some((GroupScore::Top2Sum, GroupFill::Zero)),
        norm: Norm::Always(1e-20),
        ..DEEPSEEK_V3
    },
    Family {
        names: &["deepseek_v4"],
        router: RouterSpec { logits: MODEL, scores: MODEL, ..RouterSpec::new(Score::SqrtSoftplus, 0) },
        groups: None,
        norm: Norm::Always(1e-20),
        act: Act::Clamped("swiglu_limit"),
        layers: Layers::All,
        hashed: true,
        ..DEEPSEEK_V3
    },
    Family {
        names: &["longcat_flash"],
        router: RouterSpec::new(Score::Softmax, 0),
        groups: None,
        norm: Norm::Never,
        scale: Some("routed_scaling_factor"),
        top_k: &["moe_topk", "num_experts_per_tok"],
        inner: &["expert_ffn_hidden_size", "moe_intermediate_size"],
        copies: Some("zero_expert_num"),
        shared: Shared::None,
        layers: Layers::All,
        ..DEEPSEEK_V3
    },
    Family {
        names: &["hy_v3"],
        groups: None,
        norm: Norm::Always(1e-20),
        scale: Some("router_scaling_factor"),
        layers: Layers::From(1),
        ..DEEPSEEK_V3
    },
    Family {
        names: &["afmoe"],
        router: RouterSpec { logits: MODEL, ..RouterSpec::new(Score::Sigmoid, 0) },
        groups: None,
        norm: Norm::Always(1e-20),
        scale: Some("route_scale"),
        layers: Layers::FirstDense("num_dense_layers"),
        ..DEEPSEEK_V3
    },
    Family {
        names: &["ernie4_5_moe"],
        router: RouterSpec { weights: MODEL, ..RouterSpec::new(Score::Softmax, 0) },
        groups: None,
        norm: Norm::Floor("moe_norm_min"),
        scale: None,
        num: &["moe_num_experts", "num_experts"],
        top_k: &["moe_k", "num_experts_per_tok"],
        shared: Shared::Count { fields: &["moe_num_shared_experts"], width: None },
        layers: Layers::Interval,
        ..DEEPSEEK_V3
    },
    Family {
        names: &["lfm2_moe"],
        router: RouterSpec {
            logits: MODEL,
            scores: MODEL,
            weight_math: MODEL,
            weights: MODEL,
            ..RouterSpec::new(Score::Sigmoid, 0)
        },
        bias: Bias::Flag("use_expert_bias"),
        groups: None,
        norm: Norm::Flag(1e-6),
        shared: Shared::None,
        layers: Layers::FirstDense("num_dense_layers"),
        ..DEEPSEEK_V3
    },
    QWEN,
    Family { names: &["olmoe", "flex_olmo"], inner: &["intermediate_size"], layers: Layers::All, ..QWEN },
    Family { names: &["mellum"], ..QWEN },
    Family {
        names: &["qwen2_moe", "qwen3_next", "qwen4_exp_text"],
        norm: Norm::Flag(0.0),
        shared: Shared::Width(&["shared_expert_intermediate_size"]),
        shared_gate: true,
        ..QWEN
    },
    Family {
        names: &["qwen3_5_moe_text"],
        norm: Norm::Always(0.0),
        shared: Shared::Width(&["shared_expert_intermediate_size"]),
        shared_gate: true,
        layers: Layers::All,
        ..QWEN
    },
    Family { names: &["qwen3_vl_moe_text"], norm: Norm::Always(0.0), ..QWEN },
    Family { names: &["qwen3_omni_moe_thinker_text", "qwen3_omni_moe_text"], norm: Norm::Flag(0.0), ..QWEN },
    Family {
        names: &["flint"],
        router: RouterSpec::new(Score::Sigmoid, 0),
        norm: Norm::Flag(0.0),
        shared: Shared::Width(&["shared_expert_intermediate_size"]),
        ..QWEN
    },
    Family {
        names: &["kolibri1"],
        router: RouterSpec { weigh: Weigh::Sigmoid, ..RouterSpec::new(Score::Logits, 0) },
        bias: Bias::Always,
        norm: Norm::Flag(0.0),
        shared: Shared::Width(&["shared_expert_intermediate_size"]),
        ..QWEN
    },
    Family {
        names: &["hunyuan_v1_moe"],
        router: RouterSpec::new(Score::Softmax, 0),
        norm: Norm::Always(0.0),
        top_k: &["moe_topk", "num_experts_per_tok"],
        inner: &["moe_intermediate_size", "intermediate_size"],
        shared: Shared::Always,
        layers: Layers::All,
        ..QWEN
    },
    MIXTRAL,
    MINIMAX_M2,
    Family {
        names: &["minimax_m3_vl_text"],
        scale: Some("routed_scaling_factor"),
        scale_on_output: true,
        act: Act::GptOss("swiglu_alpha", "swiglu_limit"),
        shared: Shared::Width(&["shared_intermediate_size"]),
        layers: Layers::All,
        ..MINIMAX_M2
    },
    Family {
        names: &["step3p5"],
        num: &["n_routed_experts", "num_local_experts", "moe_num_experts"],
        top_k: &["num_experts_per_tok", "moe_top_k"],
        inner: &["moe_intermediate_size"],
        scale: Some("moe_router_scaling_factor"),
        scale_on_output: true,
        act: Act::PerLayer("swiglu_limits", "swiglu_limits_shared"),
        shared: Shared::Width(&["share_expert_dim", "share_expert_dims"]),
        layers: Layers::Listed,
        ..MINIMAX_M2
    },
    Family {
        names: &["laguna"],
        router: RouterSpec { logits: MODEL, weights: MODEL, ..RouterSpec::new(Score::Sigmoid, 0) },
        num: &["num_experts"],
        inner: &["moe_intermediate_size"],
        scale: Some("moe_routed_scaling_factor"),
        scale_on_output: true,
        shared: Shared::Width(&["shared_expert_intermediate_size"]),
        layers: Layers::From(1),
        ..MINIMAX_M2
    },
    GPT_OSS,
    GRANITE,
    Family {
        names: &["granitemoeshared", "granitemoehybrid", "granitemoe_swa"],
        shared: Shared::Width(&["shared_intermediate_size"]),
        ..GRANITE
    },
    Family {
        names: &["aria_text"],
        router: RouterSpec {
            logits: MODEL,
            scores: MODEL,
            weigh: Weigh::Softmax,
            weight_math: MODEL,
            weights: MODEL,
            ..RouterSpec::new(Score::Logits, 0)
        },
        num: &["moe_num_experts"],
        top_k: &["moe_topk"],
        shared: Shared::Count { fields: &["moe_num_shared_experts"], width: None },
        transposed: true,
        ..GRANITE
    },
    Family {
        names: &["llama4_text"],
        router: RouterSpec {
            logits: MODEL,
            weigh: Weigh::Sigmoid,
            weights: MODEL,
            ..RouterSpec::new(Score::Logits, 0)
        },
        on_input: true,
        shared: Shared::Always,
        layers: Layers::Interleaved,
        transposed: true,
        ..GRANITE
    },
    Family {
        names: &["cohere2_moe"],
        weighing: Weighing::Function("expert_selection_fn"),
        norm: Norm::Flag(0.0),
        num: &["num_experts"],
        shared: Shared::Count { fields: &["num_shared_experts"], width: None },
        shared_mean: Some("shared_expert_combination_strategy"),
        layers: Layers::FirstDense("first_k_dense_replace"),
        ..GRANITE
    },
    Family {
        names: &["phimoe"],
        router: RouterSpec {
            logits: MODEL,
            scores: MODEL,
            weight_math: MODEL,
            weights: MODEL,
            ..RouterSpec::new(Score::Logits, 0)
        },
        weighing: Weighing::Jitter("router_jitter_noise"),
        ..GRANITE
    },
    Family {
        names: &["dbrx"],
        router: RouterSpec {
            logits: MODEL,
            scores: MODEL,
            weight_math: MODEL,
            weights: MODEL,
            ..RouterSpec::new(Score::Softmax, 0)
        },
        norm: Norm::Lp("moe_normalize_expert_weights"),
        num: &["moe_num_experts"],
        top_k: &["moe_top_k"],
        inner: &["ffn_hidden_size"],
        ..MIXTRAL
    },
    Family {
        names: &["PanguProMoE"],
        router: RouterSpec {
            logits: MODEL,
            scores: MODEL,
            expert_scale: true,
            weight_math: MODEL,
            weights: MODEL,
            ..RouterSpec::new(Score::Softmax, 0)
        },
        norm: Norm::Never,
        one_per_group: Some(&["num_experts_per_tok", "num_groups"]),
        num: &["num_experts"],
        shared: Shared::Width(&["shared_expert_intermediate_size"]),
        ..QWEN
    },
    Family {
        names: &["muse_spark_text"],
        groups: None,
        norm: Norm::Always(1e-15),
        latent: Some("moe_hidden_size"),
        expert_norms: Some(["rms_norm_eps", "post_norm_eps"]),
        logit_scale: Some("output_multiplier"),
        shared: Shared::None,
        layers: Layers::All,
        ..DEEPSEEK_V3
    },
    Family {
        names: &["inkling2_text"],
        groups: None,
        norm: Norm::Always(1e-20),
        scale: Some("route_scale"),
        act: Act::Softcapped("mlp_gate_softcap", "mlp_up_softcap"),
        shared: Shared::None,
        layers: Layers::All,
        interleaved: true,
        ..DEEPSEEK_V3
    },
    Family {
        names: &["inkling_text"],
        router: RouterSpec { weight_scale: true, weights: MODEL, ..RouterSpec::new(Score::Sigmoid, 0) },
        groups: None,
        norm: Norm::Always(0.0),
        scale: Some("route_scale"),
        dense_inner: Some("dense_intermediate_size"),
        shared: Shared::Weighted(&["n_shared_experts"]),
        layers: Layers::FirstDense("dense_mlp_idx"),
        ..DEEPSEEK_V3
    },
    Family {
        names: &["jamba"],
        router: RouterSpec { logits: MODEL, ..RouterSpec::new(Score::Softmax, 0) },
        norm: Norm::Never,
        num: &["num_experts", "num_local_experts"],
        layers: Layers::Period(("expert_layer_period", 2), ("expert_layer_offset", 1)),
        ..MIXTRAL
    },
    Family {
        names: &["gemma4_text"],
        router: RouterSpec { logits: MODEL, expert_scale: true, ..RouterSpec::new(Score::Softmax, 0) },
        router_norm: Some("rms_norm_eps"),
        num: &["num_experts"],
        top_k: &["top_k_experts"],
        inner: &["moe_intermediate_size"],
        act: Act::GeluTanh("hidden_activation"),
        layers: Layers::Enabled,
        ..MIXTRAL
    },
];

/// Families that are known, and what about them is not on the axes.
pub(super) const OFF_AXES: &[(&str, &str)] = &[
    ("pangu_ultra_moe", "a router that was not read"),
    ("sarvam_moe", "a router that was not read"),
    ("zaya", "a router of several layers with state"),
];

/// Model types that keep the fields of the mixture in an object of their own, and its field: its fields count as those
/// of the file.
pub(super) const NESTED: &[(&str, &str)] = &[("dbrx", "ffn_config")];

/// A model type that holds a text model as `text_config`.
pub(super) struct Wrapper {
    pub(super) name: &'static str,
    /// The text model's type where the class takes no notice of the one that is written there.
    pub(super) text_type: Option<&'static str>,
    /// Whether fused weights are `[in, out]` here though those of the text model alone are not.
    pub(super) transposed: bool,
    /// Whether gate and up stand in turn in fused weights here though not in those of the text model alone.
    pub(super) interleaved: bool,
}

const fn wrapper(name: &'static str) -> Wrapper {
    Wrapper { name, text_type: None, transposed: false, interleaved: false }
}

/// Model types that wrap a text model as `text_config`.
pub(super) const WRAPPERS: &[Wrapper] = &[
    wrapper("kimi_k25"),
    wrapper("aria"),
    wrapper("deepseek_ocr2"),
    wrapper("dots3_note"),
    wrapper("gemma4"),
    wrapper("glm4v_moe"),
    wrapper("glm5_next"),
    wrapper("inkling2"),
    Wrapper { interleaved: true, ..wrapper("inkling_mm_model") },
    wrapper("llama4"),
    wrapper("muse_spark"),
    Wrapper { text_type: Some("minimax_m3_vl_text"), ..wrapper("minimax_m3_vl") },
    wrapper("mistral_large4"),
    wrapper("qwen3_5_moe"),
    wrapper("qwen3_omni_moe_thinker"),
    Wrapper { transposed: true, ..wrapper("qwen3_vl_moe") },
    wrapper("qwen4_exp"),
    wrapper("step3p7"),
    wrapper("unlimited_ocr"),
];

/// What a `scoring_func` must say for a score.
pub(super) const fn score_name(score: Score) -> &'static str {
    match score {
        Score::Softmax | Score::Logits => "softmax",
        Score::Sigmoid => "sigmoid",
        Score::SqrtSoftplus => "sqrtsoftplus",
    }
}
