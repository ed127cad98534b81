//! The model families: which `model_type` belongs to which, and how each reads its `config.json`.
//!
//! Sources: the configuration and modelling classes of transformers 5.23 for `deepseek_v3`, `deepseek_v32`,
//! `glm4_moe`, `dots1`, `qwen3_moe` and `mixtral`; `kimi_k2` and `kimi_k25` are published with DeepSeek's own
//! modelling code, which also defines `moe_layer_freq`.

use std::collections::HashSet;

use super::config::{Fields, Only};
use super::{
    Choice, ExpertSpec, GroupScore, GroupSpec, MAX_EXPERTS, MAX_LAYERS, MAX_WIDTH, MoeSpec, Normalise, Precision,
    RouterSpec, Score, SharedSpec, SpecError, TensorNames,
};

/// Models whose mixture-of-experts layers compute the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// Sigmoid scores in `float32`, a choice bias, groups by their two best, an ungated shared expert.
    DeepseekV3,
    /// Softmax scores of logits in the model's type, weights rounded to it.
    Qwen3Moe,
    /// Softmax scores of logits in the model's type, weights always normalised and kept in `float32`.
    Mixtral,
}

/// What a `model_type` stands for.
pub(super) struct ModelType {
    pub(super) name: &'static str,
    pub(super) family: Family,
    /// Whether an absent `n_group` means one group. In DeepSeek's own classes it means 8, so there it must be written.
    one_group_if_absent: bool,
}

/// All model types whose configuration is the top level of the file or its `text_config`.
pub(super) const MODEL_TYPES: [ModelType; 7] = [
    ModelType { name: "deepseek_v3", family: Family::DeepseekV3, one_group_if_absent: false },
    ModelType { name: "deepseek_v32", family: Family::DeepseekV3, one_group_if_absent: false },
    ModelType { name: "kimi_k2", family: Family::DeepseekV3, one_group_if_absent: false },
    ModelType { name: "glm4_moe", family: Family::DeepseekV3, one_group_if_absent: true },
    ModelType { name: "dots1", family: Family::DeepseekV3, one_group_if_absent: true },
    ModelType { name: "qwen3_moe", family: Family::Qwen3Moe, one_group_if_absent: true },
    ModelType { name: "mixtral", family: Family::Mixtral, one_group_if_absent: true },
];

/// Model types that wrap one of [`MODEL_TYPES`] as `text_config`, and what their tensors' names start with.
pub(super) const WRAPPERS: [(&str, &str); 1] = [("kimi_k25", "language_model.model.layers")];

/// What the names of tensors start with where no wrapper says otherwise.
pub(super) const LAYERS: &str = "model.layers";

/// Fields of other families that would change the result, with the one value each may have here.
const FOREIGN: [(&str, Only); 9] = [
    ("hidden_act", Only::Text("silu")),
    ("mlp_bias", Only::Flag(false)),
    ("mlp_layer_types", Only::Absent),
    ("moe_latent_size", Only::Number(0.0)),
    ("num_hash_layers", Only::Number(0.0)),
    ("num_shared_experts", Only::Number(0.0)),
    ("shared_expert_intermediate_size", Only::Number(0.0)),
    ("swiglu_limit", Only::Absent),
    ("zero_expert_num", Only::Number(0.0)),
];

const DEEPSEEK_ONLY: [(&str, Only); 4] = [
    ("scoring_func", Only::Text("sigmoid")),
    ("topk_method", Only::Text("noaux_tc")),
    ("decoder_sparse_step", Only::Number(1.0)),
    ("mlp_only_layers", Only::EmptyList),
];

/// For families whose router is a plain softmax over all experts, without a shared expert.
const SOFTMAX_ONLY: [(&str, Only); 8] = [
    ("scoring_func", Only::Text("softmax")),
    ("topk_method", Only::Text("greedy")),
    ("routed_scaling_factor", Only::Number(1.0)),
    ("n_shared_experts", Only::Number(0.0)),
    ("n_group", Only::Number(1.0)),
    ("topk_group", Only::Number(1.0)),
    ("first_k_dense_replace", Only::Number(0.0)),
    ("moe_layer_freq", Only::Number(1.0)),
];

const MIXTRAL_ONLY: [(&str, Only); 3] = [
    ("norm_topk_prob", Only::Flag(true)),
    ("decoder_sparse_step", Only::Number(1.0)),
    ("mlp_only_layers", Only::EmptyList),
];

/// What a family reads from its fields.
pub(super) struct Layout {
    pub(super) moe: MoeSpec,
    pub(super) moe_layers: Vec<usize>,
    /// The fields that say which layers are mixtures.
    pub(super) rule: &'static str,
}

impl ModelType {
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        MODEL_TYPES.iter().find(|known| known.name == name)
    }

    pub(super) fn names(&self, layers: &'static str) -> TensorNames {
        match self.family {
            Family::DeepseekV3 | Family::Qwen3Moe => {
                TensorNames { layers, block: "mlp", projections: ["gate_proj", "up_proj", "down_proj"] }
            }
            // In Mixtral w2 is the projection down, w3 the one up.
            Family::Mixtral => TensorNames { layers, block: "block_sparse_moe", projections: ["w1", "w3", "w2"] },
        }
    }

    pub(super) fn read(&self, fields: Fields<'_>, num_layers: usize) -> Result<Layout, SpecError> {
        fields.only(&FOREIGN)?;
        match self.family {
            Family::DeepseekV3 => self.deepseek_v3(fields, num_layers),
            Family::Qwen3Moe => qwen3_moe(fields, num_layers),
            Family::Mixtral => mixtral(fields, num_layers),
        }
    }

    fn deepseek_v3(&self, fields: Fields<'_>, num_layers: usize) -> Result<Layout, SpecError> {
        fields.only(&DEEPSEEK_ONLY)?;
        let experts = experts(fields, ["n_routed_experts", "num_local_experts"], "moe_intermediate_size")?;
        let router = RouterSpec {
            choice_bias: true,
            choice: self.groups(fields)?,
            norm: norm(fields, 1e-20)?,
            scale: fields.positive("routed_scaling_factor")?,
            ..RouterSpec::new(Score::Sigmoid, top_k(fields)?)
        };
        let first = fields.size("first_k_dense_replace", 0..=MAX_LAYERS)?;
        let freq = fields.size_or("moe_layer_freq", 1, 1..=MAX_LAYERS)?;
        Ok(Layout {
            moe: MoeSpec::new(router, experts, shared(fields, experts.intermediate)?)?,
            moe_layers: (first..num_layers).filter(|layer| layer.is_multiple_of(freq)).collect(),
            rule: "`first_k_dense_replace` and `moe_layer_freq`",
        })
    }

    /// `n_group` of `null` or 1: no groups.
    fn groups(&self, fields: Fields<'_>) -> Result<Choice, SpecError> {
        if !self.one_group_if_absent && !fields.is_written("n_group") {
            return Err(SpecError::Missing {
                field: "n_group",
                legal: "a divisor of the experts, 1 or null".to_owned(),
            });
        }
        let n_group = fields.size_or("n_group", 1, 1..=MAX_EXPERTS)?;
        if n_group > 1 {
            let topk_group = fields.size("topk_group", 0..=MAX_EXPERTS)?;
            return Ok(Choice::Groups(GroupSpec::new(n_group, topk_group, GroupScore::Top2Sum)));
        }
        match fields.size_or("topk_group", 1, 0..=MAX_EXPERTS)? {
            1 => Ok(Choice::TopK),
            topk_group => Err(SpecError::TopkGroup { topk_group, n_group }),
        }
    }
}

fn qwen3_moe(fields: Fields<'_>, num_layers: usize) -> Result<Layout, SpecError> {
    fields.only(&SOFTMAX_ONLY)?;
    let experts = experts(fields, ["num_experts", "num_local_experts"], "moe_intermediate_size")?;
    let router = RouterSpec {
        norm: norm(fields, 0.0)?,
        logits: Precision::Model,
        weights: Precision::Model,
        ..RouterSpec::new(Score::Softmax, top_k(fields)?)
    };
    let step = fields.size_or("decoder_sparse_step", 1, 1..=MAX_LAYERS)?;
    let dense: HashSet<usize> = fields.indices("mlp_only_layers", 0..=MAX_LAYERS)?.into_iter().collect();
    Ok(Layout {
        moe: MoeSpec::new(router, experts, None)?,
        moe_layers: (0..num_layers)
            .filter(|layer| (layer + 1).is_multiple_of(step) && !dense.contains(layer))
            .collect(),
        rule: "`decoder_sparse_step` and `mlp_only_layers`",
    })
}

fn mixtral(fields: Fields<'_>, num_layers: usize) -> Result<Layout, SpecError> {
    fields.only(&SOFTMAX_ONLY)?;
    fields.only(&MIXTRAL_ONLY)?;
    let experts = experts(fields, ["num_local_experts", "num_experts"], "intermediate_size")?;
    let router = RouterSpec {
        norm: Normalise::Sum { eps: 0.0 },
        logits: Precision::Model,
        ..RouterSpec::new(Score::Softmax, top_k(fields)?)
    };
    Ok(Layout {
        moe: MoeSpec::new(router, experts, None)?,
        moe_layers: (0..num_layers).collect(),
        rule: "`num_hidden_layers`",
    })
}

fn experts(fields: Fields<'_>, num: [&'static str; 2], intermediate: &'static str) -> Result<ExpertSpec, SpecError> {
    Ok(ExpertSpec::new(
        fields.size_of_either(num, 1..=MAX_EXPERTS)?,
        fields.size("hidden_size", 1..=MAX_WIDTH)?,
        fields.size(intermediate, 1..=MAX_WIDTH)?,
    ))
}

/// Whether 0 or too many is left to the rule between top-k and experts.
fn top_k(fields: Fields<'_>) -> Result<usize, SpecError> {
    fields.size("num_experts_per_tok", 0..=MAX_EXPERTS)
}

fn norm(fields: Fields<'_>, eps: f64) -> Result<Normalise, SpecError> {
    Ok(if fields.flag("norm_topk_prob")? { Normalise::Sum { eps } } else { Normalise::None })
}

/// `n_shared_experts` of `null` or 0: none. Absent it would mean 1 in most classes, so it must be written.
fn shared(fields: Fields<'_>, intermediate: usize) -> Result<Option<SharedSpec>, SpecError> {
    const FIELD: &str = "n_shared_experts";
    if !fields.is_written(FIELD) {
        return Err(SpecError::Missing { field: FIELD, legal: "an integer, or null for none".to_owned() });
    }
    let num = fields.size_or(FIELD, 0, 0..=MAX_WIDTH / intermediate)?;
    Ok((num > 0).then(|| SharedSpec::new(num * intermediate)))
}
