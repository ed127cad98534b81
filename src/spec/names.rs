//! How the tensors of a mixture-of-experts layer are called in published checkpoints.
//!
//! Names differ by family, and within one between DeepSeek's native, Hugging Face's and fused storage; each name says one thing
//! only. So a part is looked for under every name it goes by, and the first that is there is taken: lists, not cases.

/// What the names of a model's tensors do not say about how they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorNames {
    /// Whether fused weights are `[in, out]`, where their shape fits both.
    pub(super) transposed: bool,
    /// Whether gate and up stand in turn in fused weights.
    pub(super) interleaved: bool,
}

impl TensorNames {
    /// Whether fused weights are `[in, out]`, where their shape fits both.
    pub const fn transposed(&self) -> bool {
        self.transposed
    }

    /// Whether gate and up stand in turn in fused weights.
    pub const fn interleaved(&self) -> bool {
        self.interleaved
    }
}

/// What stands before the number of a layer.
pub(crate) const LAYERS: &[&str] = &[
    "model.layers",
    "model.language_model.layers",
    "model.llm.layers",
    "language_model.model.layers",
    "model.text_model.layers",
    "thinker.model.layers",
    "layers",
    "backbone.layers",
    "model.backbone.layers",
    "transformer.blocks",
    "model.llm.layers",
];

/// The block of a mixture inside a layer, with its dot; in some it is the layer itself.
pub(crate) const BLOCKS: &[&str] = &["mlp.", "ffn.", "block_sparse_moe.", "feed_forward.", "moe.", "mixer.", ""];

/// What belongs to the mixture where its block is the layer itself.
pub(crate) const MEMBERS: &[&str] = &["experts.", "gate.", "router.", "shared_experts."];

/// The router weight inside a block.
pub(crate) const ROUTER: &[&str] = &[
    "gate.weight",
    "router.weight",
    "router.layer.weight",
    "gate.wg.weight",
    "router.classifier.weight",
    "router.gate.weight",
    "router.proj.weight",
];

/// The weight of the norm of the router's input.
pub(crate) const ROUTER_NORM: &[&str] = &["router.scale"];

/// The bias on the logits.
pub(crate) const LOGIT_BIAS: &[&str] = &["router.bias", "gate.bias"];

/// The bias on the scores for the choice; `^` stands for the layer instead of its block.
pub(crate) const CHOICE_BIAS: &[&str] = &[
    "gate.e_score_correction_bias",
    "e_score_correction_bias",
    "gate.bias",
    "moe_statics.e_score_correction_bias",
    "gate.moe_statics.e_score_correction_bias",
    "router.e_score_correction_bias",
    "experts.e_score_correction_bias",
    "router.expert_bias",
    "gate.expert_bias",
    "expert_bias",
    "router_bias",
    "^moe.router.expert_bias",
];

/// The table of experts by token id.
pub(crate) const TABLE: &[&str] = &["gate.tid2eid"];

/// The projections to and from the experts' own width.
pub(crate) const LATENT: [&[&str]; 2] =
    [&["fc1_latent_proj.weight", "pre_expert_proj.weight"], &["fc2_latent_proj.weight", "post_expert_proj.weight"]];

/// The weights of the norms behind the first of these, and of each expert's output; both are stored less 1.
pub(crate) const EXPERT_NORMS: [&[&str]; 2] = [&["pre_expert_norm.weight"], &["experts.post_expert_norm.weight"]];

/// Gate, up and down of one expert, behind `experts.N.` or the name of a shared expert.
pub(crate) const PROJECTIONS: &[[&str; 3]] = &[
    ["gate_proj", "up_proj", "down_proj"],
    ["w1", "w3", "w2"],
    ["fc1", "fc3", "fc2"],
    ["linear_gate", "up_proj", "down_proj"],
];

/// Gate and up of all experts in one tensor, and down.
pub(crate) const FUSED: &[[&str; 2]] = &[
    ["experts.gate_up_proj", "experts.down_proj"],
    ["experts.w13_weight", "experts.w2_weight"],
    ["input_linear.weight", "output_linear.weight"],
    ["experts.fc1.weight", "experts.fc2.weight"],
    ["experts.gate_up_proj.weight", "experts.down_proj.weight"],
];

/// Gate, up and down of all experts, a tensor each.
pub(crate) const STACKED: &[[&str; 3]] = &[
    ["gate_proj.weight", "up_proj.weight", "down_proj.weight"],
    ["experts.gate_proj", "experts.up_proj", "experts.down_proj"],
];

/// The same of those that every token gets, where these are apart from the others.
pub(crate) const ALWAYS_FUSED: &[[&str; 2]] =
    &[["shared_experts.shared_w13_weight", "shared_experts.shared_w2_weight"]];
pub(crate) const ALWAYS_STACKED: &[[&str; 3]] =
    &[["shared_experts.gate_proj", "shared_experts.up_proj", "shared_experts.down_proj"]];

/// Gate, up and down of all experts, each two-dimensional with the experts one behind the other; down is `[in, out]`.
pub(crate) const FLAT: &[[&str; 3]] = &[["experts.mlp.w1", "experts.mlp.v1", "experts.mlp.w2"]];

/// Factors on the weights of the chosen experts.
pub(crate) const EXPERT_SCALE: &[&str] = &["router_scale", "router.per_expert_scale"];

/// The factor on all of them.
pub(crate) const WEIGHT_SCALE: &[&str] = &["gate.global_scale"];

/// The weight of the norm of the layer's output.
pub(crate) const OUTPUT_NORM: &[&str] = &["post_mlp_layernorm.weight", "^post_mlp_layernorm.weight"];

/// Biases of fused gate and up, and of down.
pub(crate) const FUSED_BIASES: &[[&str; 2]] = &[["experts.gate_up_proj_bias", "experts.down_proj_bias"]];

/// The shared expert, inside the block or beside it (`^`).
pub(crate) const SHARED: &[&str] = &[
    "shared_experts",
    "shared_expert",
    "shared_mlp",
    "share_expert",
    "^shared_mlp",
    "^share_expert",
    "^shared_experts",
];

/// Its gate and up in one tensor, and down.
pub(crate) const SHARED_FUSED: &[[&str; 2]] =
    &[["gate_up_proj.weight", "down_proj.weight"], ["input_linear.weight", "output_linear.weight"]];

/// What its output is weighted by.
pub(crate) const SHARED_GATE: &[&str] = &["shared_expert_gate.weight", "shared_experts_gate.weight"];
