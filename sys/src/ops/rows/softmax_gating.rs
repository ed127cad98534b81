//! Rows of the routers that choose by softmax alone.

use super::check::{Checked, F32, FLOATS, I32, dim, require, same_dtype, shape_is};
use crate::constants::aclDataType;
use crate::info::OperatorId;
use crate::ops::desc::Dims;
use crate::ops::rule::{Call, Codes, Layout, OpRow, Param, Rule};

const BOOL: &[aclDataType] = &[aclDataType::BOOL];
/// The most experts per token.
const MAX_TOP_K: i64 = 1024;

/// Positions that both operators have in common.
const X: usize = 0;
const FINISHED: usize = 1;
const K: usize = 2;

const X_PARAM: Param = Param::input("x", FLOATS).rank(2, 3);
const FINISHED_PARAM: Param = Param::input("finishedOptional", BOOL).rank(1, 2).optional();
const Y_PARAM: Param = Param::output("yOut", FLOATS).rank(2, 3).layout(Layout::Contiguous);
const EXPERT_IDX_PARAM: Param = Param::output("expertIdxOut", I32).rank(2, 3).layout(Layout::Contiguous);

const EXPERTS_RULE: Rule = Rule::new("experts", "x has at least one expert and no dimension beyond 32 bits", |call| {
    let Some(x) = call.tensor(X) else { return Ok(()) };
    let legal = x.dim(-1) >= 1 && x.shape.iter().all(|&size| size <= i64::from(i32::MAX));
    require(legal, || format!("x of shape {}", x.shape))
});
const FINISHED_RULE: Rule = Rule::new("finished-shape", "finished has the shape of x without the experts", |call| {
    let Some(x) = call.tensor(X) else { return Ok(()) };
    shape_is(call, "finished", FINISHED, x.shape.split_last().map_or(&[], |(_, tokens)| tokens))
});
const K_RULE: Rule = Rule::new("k", "1 <= k <= experts, at most 1024", |call| {
    let (k, most) = (call.int(K), dim(call, X, -1).min(MAX_TOP_K));
    require((1..=most).contains(&k), || format!("k {k}; the nearest legal value is {}", k.clamp(1, most.max(1))))
});

/// The tensor must have the shape of x with k in place of the experts.
fn chosen(call: &Call<'_>, name: &str, index: usize) -> Checked {
    let Some(x) = call.tensor(X) else { return Ok(()) };
    let tokens = x.shape.iter().copied().take(x.rank().saturating_sub(1));
    match Dims::collect(tokens.chain([call.int(K)])) {
        Some(shape) => shape_is(call, name, index, &shape),
        None => Ok(()),
    }
}

/// `aclnnMoeGatingTopKSoftmax`: softmax over the experts, then the k best; no renormalisation.
///
/// With T tokens, in one dimension or two, and E experts:
/// * `x`: device, fp32, fp16 or bf16, `[T, E]`, any strides: router logits.
/// * `finishedOptional`: device, bool, `[T]`, any strides: tokens whose experts become E, which is none; may be null.
/// * `k`: 1 to E, at most 1024.
/// * `yOut`: device, dtype of x, `[T, k]`, contiguous: softmax of the chosen experts.
/// * `expertIdxOut`: device, int32, `[T, k]`, contiguous: chosen experts, best first.
/// * `rowIdxOut`: device, int32, `[T, k]`, contiguous: `j * T + t`, which `aclnnMoeInitRouting` wants.
pub(super) static MOE_GATING_TOP_K_SOFTMAX: OpRow = OpRow {
    operator: OperatorId::MoeGatingTopKSoftmax,
    codes: Codes::GENERATED,
    params: &[
        X_PARAM,
        FINISHED_PARAM,
        Param::value("k"),
        Y_PARAM,
        EXPERT_IDX_PARAM,
        Param::output("rowIdxOut", I32).rank(2, 3).layout(Layout::Contiguous),
    ],
    rules: &[
        EXPERTS_RULE,
        FINISHED_RULE,
        K_RULE,
        Rule::new("y-dtype", "y has the dtype of x", |call| same_dtype(call, ("y", 3), ("x", X))),
        Rule::new("output-shapes", "y, expertIdx and rowIdx have the shape of x with k for the experts", |call| {
            [("y", 3), ("expertIdx", 4), ("rowIdx", 5)].into_iter().try_for_each(|(name, i)| chosen(call, name, i))
        }),
    ],
    source: "ops-transformer 9.1.0, moe/moe_gating_top_k_softmax (docs, op_host tiling)",
    doubtful: "The document allows k 0, tiling refuses it. With many experts and a large k tiling can run out of \
               buffer (561002); the limit depends on both and is not held here. The kernel for long rows takes the softmax \
               of fp16 in half precision, the simulator in fp32: close weights can then tie or swap. A call \
               without tokens was not seen in the sources. That outputs must be contiguous is from the document.",
};

const RENORM: usize = 3;
const SOFTMAX_FLAG: usize = 4;
const SOFTMAX: usize = 7;

/// Whether all of the softmax is asked for and there is one: not where it is taken over the chosen experts.
fn wants_softmax(call: &Call<'_>) -> bool {
    call.int(RENORM) == 0 && call.bool(SOFTMAX_FLAG)
}

/// `aclnnMoeGatingTopKSoftmaxV2`: softmax over the experts, then the k best (renorm 0); or the k best logits, then
/// softmax over these (renorm 1).
///
/// As [`MOE_GATING_TOP_K_SOFTMAX`], without `rowIdxOut`, and:
/// * `softmaxResultOutOptional`: device, fp32, shape of x, contiguous: all of the softmax; written and required only
///   with renorm 0 and outputSoftmaxResultFlag.
pub(super) static MOE_GATING_TOP_K_SOFTMAX_V2: OpRow = OpRow {
    operator: OperatorId::MoeGatingTopKSoftmaxV2,
    codes: Codes::GENERATED,
    params: &[
        X_PARAM,
        FINISHED_PARAM,
        Param::value("k"),
        Param::value("renorm"),
        Param::value("outputSoftmaxResultFlag"),
        Y_PARAM,
        EXPERT_IDX_PARAM,
        Param::output("softmaxResultOutOptional", F32).optional().layout(Layout::Contiguous),
    ],
    rules: &[
        EXPERTS_RULE,
        FINISHED_RULE,
        K_RULE,
        Rule::new("y-dtype", "y has the dtype of x", |call| same_dtype(call, ("y", 5), ("x", X))),
        Rule::new("output-shapes", "y and expertIdx have the shape of x with k for the experts", |call| {
            [("y", 5), ("expertIdx", 6)].into_iter().try_for_each(|(name, i)| chosen(call, name, i))
        }),
        Rule::new("renorm", "0 or 1", |call| super::check::one_of(call, "renorm", RENORM, &[0, 1])),
        Rule::new("softmax-missing", "softmaxResult is given with renorm 0 and outputSoftmaxResultFlag", |call| {
            require(!wants_softmax(call) || call.tensor(SOFTMAX).is_some(), || "null".to_owned())
        }),
        Rule::new("softmax-shape", "softmaxResult has the shape of x where it is written", |call| {
            match call.tensor(X) {
                Some(x) if wants_softmax(call) => shape_is(call, "softmaxResult", SOFTMAX, &x.shape),
                _ => Ok(()),
            }
        }),
    ],
    source: "ops-transformer 9.1.0, moe/moe_gating_top_k_softmax_v2 (docs, op_host tiling)",
    doubtful: "Whether A3 has the kernel: document and operator definition name it, but 8.5.0, 9.0.0 and 9.1.0 list \
               builds for A2 and 950 only, so a device may answer 561003 or 561112. The simulator runs it. Whether \
               softmaxResult may be null, and what dtype check it gets, where nobody wants it was not seen.",
};
