//! The metadata of a golden file, and the layer it describes. A key or value that is not understood is an error.

use anyhow::{Context, Result, bail};
use ascend_moe::spec::{
    Activation, ActivationFn, Choice, ClampAt, ExpertSpec, FloatType, GroupFill, GroupScore, GroupSpec, MoeSpec,
    Normalise, Precision, RouterSpec, Score, SharedSpec, Weigh,
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
    /// Empty where the file is about a number format.
    #[serde(default)]
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
    pub(crate) checks: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    pub(crate) optional: Vec<String>,
    #[serde(default)]
    pub(crate) exclude_rows: Vec<usize>,
    pub(crate) group: Option<usize>,
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
    /// Rows of the router: experts with weights and without.
    pub(crate) routed: usize,
    /// Width inside an expert; `None` where the file asks for routing only.
    pub(crate) intermediate: Option<usize>,
    /// Width inside the shared expert.
    pub(crate) shared: Option<usize>,
    /// Rows of the table of experts by token id.
    pub(crate) vocab: Option<usize>,
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

    /// Whether it is about a number format instead of a layer.
    pub(crate) fn is_quantisation(&self) -> bool {
        self.kind == "quant"
    }

    /// Whether only indices and weights are asked for.
    pub(crate) fn is_routing_only(&self) -> bool {
        self.kind == "routing"
    }

    /// The layer.
    pub(crate) fn spec(&self, sizes: Sizes) -> Result<MoeSpec> {
        let kinds =
            ["routing", "random", "hot", "hot_logit", "skew", "ties", "ties_dup", "ties_zero", "moe_fp8", "moe_mxfp4"];
        if !kinds.contains(&self.kind.as_str()) {
            bail!("kind {:?} is not one of {kinds:?}", self.kind);
        }
        let routing = self.routing.as_ref().context("no routing in the metadata")?;
        let experts = match (&self.expert, sizes.intermediate) {
            (Some(expert), Some(intermediate)) => expert.spec(&sizes, intermediate)?,
            // A file of kind `routing` has no experts; the router is the same whatever their width.
            _ if self.is_routing_only() => ExpertSpec::new(sizes.routed, sizes.hidden, 1),
            _ => bail!("the file has no experts"),
        };
        let shared = match (&self.shared, sizes.shared) {
            (None, None) => None,
            (Some(shared), Some(intermediate)) => Some(shared.spec(intermediate)?),
            (Some(_), None) if self.is_routing_only() => None,
            _ => bail!("metadata and tensors disagree on whether there is a shared expert"),
        };
        Ok(MoeSpec::new(routing.router(sizes.vocab)?, experts, shared)?)
    }

    /// How the experts' tensors are stored.
    pub(crate) fn storage(&self) -> Result<Storage> {
        match &self.expert {
            Some(expert) => Ok(Storage { transposed: expert.transposed, interleaved: expert.interleaved()? }),
            None => Ok(Storage::default()),
        }
    }
}

/// How the experts' tensors are stored.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Storage {
    /// As `[in, out]`.
    pub(crate) transposed: bool,
    /// Gate and up rows (columns, where transposed) in turn.
    pub(crate) interleaved: bool,
}

impl Routing {
    fn router(&self, vocab: Option<usize>) -> Result<RouterSpec> {
        let score = match self.score.as_str() {
            "softmax" => Score::Softmax,
            "sigmoid" => Score::Sigmoid,
            "sqrtsoftplus" => Score::SqrtSoftplus,
            "logits" => Score::Logits,
            other => bail!("score {other:?} is not one of softmax, sigmoid, sqrtsoftplus, logits"),
        };
        let mut router = RouterSpec::new(score, self.top_k);
        router.logits = precision("router_dtype", &self.router_dtype)?;
        router.logit_bias = self.router_logit_bias;
        router.scores = if self.score_dtype_model { Precision::Model } else { Precision::F32 };
        router.choice_bias = self.choice_bias;
        router.choice = self.choice(vocab)?;
        (router.weigh, router.norm) = match (self.norm.as_deref(), self.norm_min) {
            (None, None) => (Weigh::Score, Normalise::None),
            (Some("sum"), None) => (Weigh::Score, Normalise::Sum { eps: self.norm_eps }),
            (Some("sum"), Some(min)) if self.norm_eps == 0.0 => (Weigh::Score, Normalise::SumFloor { min }),
            (Some("softmax_topk"), None) => (Weigh::Softmax, Normalise::None),
            (Some("sigmoid_topk"), None) => (Weigh::Sigmoid, Normalise::None),
            other => bail!(
                "norm and norm_min {other:?} with norm_eps {}: legal are null, sum, softmax_topk, sigmoid_topk, and \
                 norm_min with sum in place of norm_eps",
                self.norm_eps
            ),
        };
        router.weight_math = if self.weight_math_model { Precision::Model } else { Precision::F32 };
        router.scale = self.scale;
        router.weights = precision("weight_dtype", &self.weight_dtype)?;
        router.output_scale = self.output_scale;
        Ok(router)
    }

    fn choice(&self, vocab: Option<usize>) -> Result<Choice> {
        if self.hash {
            return Ok(Choice::Table { vocab: vocab.context("hash routing without a tensor tid2eid")? });
        }
        Ok(match (self.n_group, self.topk_group, self.group_score.as_deref()) {
            (None, None, None) => Choice::TopK,
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
                Choice::Groups(groups)
            }
            // A group count without a group score names groups that nothing selects by.
            (_, _, None) => Choice::TopK,
            other => bail!("n_group, topk_group and group_score {other:?}: all or none"),
        })
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
    fn spec(&self, sizes: &Sizes, intermediate: usize) -> Result<ExpertSpec> {
        let num = sizes.routed.checked_sub(self.zero_experts).context("more zero experts than rows of gate_weight")?;
        let mut experts = ExpertSpec::new(num, sizes.hidden, intermediate);
        experts.activation = activation(&self.act, self.gated, self.alpha, self.limit, self.clamp.as_deref())?;
        experts.bias = self.bias;
        experts.weight_on_input = self.weight_on_input;
        // Their outputs are their inputs times the weight: what CANN calls copy experts.
        experts.copy = self.zero_experts;
        Ok(experts)
    }

    fn interleaved(&self) -> Result<bool> {
        match self.layout.as_deref() {
            None | Some("halves") => Ok(false),
            Some("interleaved") => Ok(true),
            Some(other) => bail!("layout {other:?} is not one of halves, interleaved"),
        }
    }
}

impl Shared {
    fn spec(&self, intermediate: usize) -> Result<SharedSpec> {
        let mut shared = SharedSpec::new(intermediate);
        shared.activation = activation(&self.act, self.gated, self.alpha, self.limit, self.clamp.as_deref())?;
        shared.gate = self.sigmoid_gate;
        Ok(shared)
    }
}

fn activation(
    act: &str,
    gated: bool,
    alpha: Option<f64>,
    limit: Option<f64>,
    clamp: Option<&str>,
) -> Result<Activation> {
    let function = match (act, alpha) {
        ("silu", None) => ActivationFn::Silu,
        ("relu2", None) => ActivationFn::Relu2,
        ("gptoss", Some(alpha)) => ActivationFn::GptOss { alpha },
        other => bail!("act and alpha {other:?}: legal are silu and relu2 without alpha, gptoss with it"),
    };
    let activation = if gated { Activation::new(function) } else { Activation::new(function).ungated() };
    Ok(match (limit, clamp) {
        (None, None) => activation,
        (Some(limit), Some("before")) => activation.clamped(limit, ClampAt::Before),
        (Some(limit), Some("after")) => activation.clamped(limit, ClampAt::After),
        // Where a file does not say, the limit stands ahead of the activation.
        (Some(limit), None) => activation.clamped(limit, ClampAt::Before),
        other => bail!("limit and clamp {other:?}: legal is a limit, with before or after"),
    })
}
