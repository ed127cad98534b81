//! The metadata of a golden file, and the layer it describes. A key or value that is not understood is an error.

use anyhow::{Context, Result, bail};
use ascend_moe::spec::{
    ExpertSpec, FloatType, GroupFill, GroupScore, GroupSpec, MoeSpec, Normalise, Precision, RouterSpec, Score,
    SharedSpec,
};
use serde::Deserialize;

/// The JSON object under `golden` in the header of a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "fields that only describe a file are named so that others are refused")]
pub(crate) struct Meta {
    pub(crate) name: String,
    pub(crate) family: String,
    pub(crate) formula: String,
    pub(crate) kind: String,
    pub(crate) dtype: String,
    pub(crate) seed: u64,
    #[serde(default)]
    pub(crate) config: serde_json::Value,
    pub(crate) routing: Option<Routing>,
    pub(crate) expert: Option<Expert>,
    pub(crate) shared: Option<Shared>,
    #[serde(default)]
    pub(crate) tie_tol: f64,
    #[serde(default)]
    pub(crate) rows_with_a_tie_at_the_cut: u64,
    #[serde(default)]
    pub(crate) tolerance: serde_json::Value,
    #[serde(default)]
    pub(crate) checked: Vec<String>,
    #[serde(default)]
    pub(crate) torch: String,
    #[serde(default)]
    pub(crate) transformers: String,
    #[serde(default)]
    pub(crate) source: String,
    #[serde(default)]
    pub(crate) note: String,
    #[serde(default)]
    pub(crate) checks: serde_json::Value,
    #[serde(default)]
    pub(crate) optional: Vec<String>,
    #[serde(default)]
    pub(crate) exclude_rows: Vec<usize>,
    pub(crate) group: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Routing {
    score: String,
    router_dtype: String,
    weight_dtype: String,
    top_k: usize,
    norm: Option<String>,
    #[serde(default)]
    norm_eps: f64,
    norm_min: Option<f64>,
    #[serde(default = "one")]
    scale: f64,
    #[serde(default = "one")]
    output_scale: f64,
    n_group: Option<usize>,
    topk_group: Option<usize>,
    group_score: Option<String>,
    group_fill: Option<String>,
    #[serde(default)]
    choice_bias: bool,
    #[serde(default)]
    hash: bool,
    #[serde(default)]
    router_logit_bias: bool,
    #[serde(default)]
    score_dtype_model: bool,
    #[serde(default)]
    weight_math_model: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expert {
    act: String,
    #[serde(default = "yes")]
    gated: bool,
    layout: Option<String>,
    #[serde(default)]
    transposed: bool,
    limit: Option<f64>,
    clamp: Option<String>,
    alpha: Option<f64>,
    #[serde(default)]
    bias: bool,
    #[serde(default)]
    weight_on_input: bool,
    #[serde(default)]
    zero_experts: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shared {
    act: String,
    alpha: Option<f64>,
    limit: Option<f64>,
    clamp: Option<String>,
    #[serde(default = "yes")]
    gated: bool,
    #[serde(default)]
    sigmoid_gate: bool,
}

fn one() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

/// Sizes that the tensors of a file give.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) hidden: usize,
    pub(crate) experts: usize,
    /// Width inside an expert; `None` where the file asks for routing only.
    pub(crate) intermediate: Option<usize>,
    /// Width inside the shared expert.
    pub(crate) shared: Option<usize>,
}

/// Refuses what this version of the layer cannot express.
fn only(what: &str, condition: bool) -> Result<()> {
    if condition { bail!("{what} is not supported by this layer") } else { Ok(()) }
}

impl Meta {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).context("the metadata is not understood")
    }

    /// Type the model ran in.
    pub(crate) fn dtype(&self) -> Result<FloatType> {
        match self.dtype.as_str() {
            "f32" => Ok(FloatType::F32),
            "bf16" => Ok(FloatType::Bf16),
            other => bail!("dtype {other:?} is not one of f32, bf16"),
        }
    }

    /// Whether only indices and weights are asked for.
    pub(crate) fn is_routing_only(&self) -> bool {
        self.kind == "routing"
    }

    /// The layer.
    pub(crate) fn spec(&self, sizes: Sizes) -> Result<MoeSpec> {
        let kinds = ["routing", "random", "hot", "hot_logit", "skew", "ties", "ties_dup", "ties_zero"];
        if !kinds.contains(&self.kind.as_str()) {
            bail!("kind {:?} is not one of {kinds:?}", self.kind);
        }
        let routing = self.routing.as_ref().context("no routing in the metadata")?;
        let experts = match (&self.expert, sizes.intermediate) {
            (Some(expert), Some(intermediate)) => {
                expert.check()?;
                ExpertSpec::new(sizes.experts, sizes.hidden, intermediate)
            }
            // A file of kind `routing` has no experts; the router is the same whatever their width.
            _ if self.is_routing_only() => ExpertSpec::new(sizes.experts, sizes.hidden, 1),
            _ => bail!("the file has no experts"),
        };
        let shared = match (&self.shared, sizes.shared) {
            (None, None) => None,
            (Some(shared), Some(intermediate)) => {
                shared.check()?;
                Some(SharedSpec::new(intermediate))
            }
            (Some(_), None) if self.is_routing_only() => None,
            _ => bail!("metadata and tensors disagree on whether there is a shared expert"),
        };
        Ok(MoeSpec::new(routing.router()?, experts, shared)?)
    }
}

impl Routing {
    fn router(&self) -> Result<RouterSpec> {
        only("a hash table of experts", self.hash)?;
        only("a bias on the router's logits", self.router_logit_bias)?;
        only("a score in the model's dtype", self.score_dtype_model)?;
        only("weight arithmetic in the model's dtype", self.weight_math_model)?;
        only("a lower bound on the sum of the weights", self.norm_min.is_some())?;
        only("a scale on the routed output", self.output_scale != 1.0)?;
        let score = match self.score.as_str() {
            "softmax" => Score::Softmax,
            "sigmoid" => Score::Sigmoid,
            other => bail!("score {other:?} is not supported by this layer"),
        };
        let mut router = RouterSpec::new(score, self.top_k);
        router.choice_bias = self.choice_bias;
        router.norm = match self.norm.as_deref() {
            None => Normalise::None,
            Some("sum") => Normalise::Sum { eps: self.norm_eps },
            Some(other) => bail!("norm {other:?} is not supported by this layer"),
        };
        router.scale = self.scale;
        router.logits = precision("router_dtype", &self.router_dtype)?;
        router.weights = precision("weight_dtype", &self.weight_dtype)?;
        router.groups = match (self.n_group, self.topk_group, self.group_score.as_deref()) {
            (None, None, None) => None,
            (Some(n_group), Some(topk_group), Some(score)) => {
                let score = match score {
                    "max" => GroupScore::Max,
                    "top2sum" => GroupScore::Top2Sum,
                    other => bail!("group_score {other:?} is not one of max, top2sum"),
                };
                let mut groups = GroupSpec::new(n_group, topk_group, score);
                groups.fill = match self.group_fill.as_deref() {
                    Some("-inf") => GroupFill::NegInf,
                    Some("0") => GroupFill::Zero,
                    other => bail!("group_fill {other:?} is not one of -inf, 0"),
                };
                Some(groups)
            }
            // A group count without a group score names groups that nothing selects by.
            (_, _, None) => None,
            other => bail!("n_group, topk_group and group_score {other:?}: all or none"),
        };
        Ok(router)
    }
}

fn precision(key: &str, value: &str) -> Result<Precision> {
    match value {
        "f32" => Ok(Precision::F32),
        "model" => Ok(Precision::Model),
        other => bail!("{key} {other:?} is not one of f32, model"),
    }
}

impl Expert {
    fn check(&self) -> Result<()> {
        only(&format!("activation {:?}", self.act), self.act != "silu")?;
        only("an expert without a gate", !self.gated)?;
        only("interleaved gate and up projections", self.layout.as_deref().is_some_and(|layout| layout != "halves"))?;
        only("transposed storage", self.transposed)?;
        only("a clamp", self.limit.is_some() || self.clamp.is_some())?;
        only("alpha", self.alpha.is_some())?;
        only("biases", self.bias)?;
        only("weights on the experts' input", self.weight_on_input)?;
        only("zero experts", self.zero_experts != 0)
    }
}

impl Shared {
    fn check(&self) -> Result<()> {
        only(&format!("activation {:?} of the shared expert", self.act), self.act != "silu")?;
        only("a clamp of the shared expert", self.limit.is_some() || self.clamp.is_some())?;
        only("alpha of the shared expert", self.alpha.is_some())?;
        only("a shared expert without a gate projection", !self.gated)?;
        only("a sigmoid gate of the shared expert", self.sigmoid_gate)
    }
}
