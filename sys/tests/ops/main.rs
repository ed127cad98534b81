//! The operators' rows: legal calls pass, and every limit and rule of every row refuses, with its name, code and phase,
//! a call that breaks it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper that fails is a failed test")]

mod allocations;
pub(crate) mod ascend_quant;
pub(crate) mod build;
pub(crate) mod dense;
pub(crate) mod dequant_swiglu;
mod descriptions;
pub(crate) mod dynamic_quant;
pub(crate) mod expand;
pub(crate) mod expert_parallel;
pub(crate) mod finalize_v1;
pub(crate) mod finalize_v3;
pub(crate) mod fused_topk;
pub(crate) mod gating_v2;
pub(crate) mod grouped;
pub(crate) mod grouped_add;
pub(crate) mod grouped_finalize;
pub(crate) mod grouped_quant;
pub(crate) mod lanes;
pub(crate) mod limits;
pub(crate) mod permute;
pub(crate) mod pointwise;
pub(crate) mod quant_matmul;
pub(crate) mod quant_weight;
mod releases;
mod robustness;
pub(crate) mod routing;
pub(crate) mod routing_map;
pub(crate) mod softmax_gating;
pub(crate) mod storage;
pub(crate) mod swi_glu_quant;
pub(crate) mod swiglu_quant;
pub(crate) mod weight_quant;

use std::collections::BTreeSet;

use ascend_sys::ops::{Null, Refusal};
use ascend_sys::{OPERATORS, OperatorId, aclnnStatus};
use build::{Built, Case};

/// Pointers that may be null: those whose names say so, the two bounds of `aclnnClamp`, the mapping of
/// `aclnnMoeFusedTopk`, weights that nobody asked for, and what quantised products may leave out.
/// `aclnnMoeFusedTopk`, weights that nobody asked for, and offsets and texts of operators that quantise.
pub(crate) fn may_be_null(operator: OperatorId, name: &str) -> bool {
    const QUANT: &[&str] = &["x1Scale", "yScale", "x1Offset", "x2Offset", "yOffset", "offset", "bias"];
    if operator.name().starts_with("GroupedMatmulFinalizeRouting") {
        return grouped_finalize::may_be_null(operator, name);
    }
    name.contains("Optional")
        || (QUANT.contains(&name) && operator.name().starts_with("QuantMatmul"))
        || (operator == OperatorId::TransQuantParamV2 && name == "offset")
        || (operator == OperatorId::Clamp && name.starts_with("clipValue"))
        || (operator == OperatorId::MoeFusedTopk && name.starts_with("mapping"))
        || (operator == OperatorId::MoeTokenUnpermuteWithRoutingMap && name == "permuteProbs")
        || matches!(name, "offsetOut" | "quantMode")
        || (operator.name().starts_with("GroupedMatmulSwigluQuant") && SWIGLU_QUANT_OPTIONAL.contains(&name))
        || matches!(name, "offsetOut" | "quantMode" | "offset" | "roundMode")
}

const SWIGLU_QUANT_OPTIONAL: &[&str] = &["bias", "offset", "weightAssistMatrix", "smoothScale", "outputOffset"];

/// Tensors that are written, beside those whose names say so.
const OUTPUTS: &[&str] = &[
    "out",
    "dstTensor",
    "selfRef",
    "mmWeightRef",
    "y",
    "yRef",
    "unpermutedTokens",
    "outIndex",
    "permuteTokenId",
    "permuteProbs",
    "balancedExpertIds",
    "balancedActiveMask",
    "weightInt4Pack",
    "output",
    "outputScale",
    "outputOffset",
];

/// Tensors that are written: these, and the experts of `aclnnMoeFusedTopk`.
fn is_written(operator: OperatorId, name: &str) -> bool {
    OUTPUTS.contains(&name) || name.contains("Out") || (operator == OperatorId::MoeFusedTopk && name == "indices")
}

/// Legal calls of an operator; the first has all its optional tensors.
pub(crate) fn legal(operator: OperatorId) -> Vec<Built> {
    match operator {
        OperatorId::Mm => dense::legal_mm(),
        OperatorId::Matmul => dense::legal_matmul(),
        OperatorId::Cast => dense::legal_cast(),
        OperatorId::Add => dense::legal_add(),
        OperatorId::Mul => dense::legal_mul(),
        OperatorId::Muls => dense::legal_muls(),
        OperatorId::SwiGlu => dense::legal_swi_glu(),
        OperatorId::NpuFormatCast => storage::legal(),
        OperatorId::MoeGatingTopK => routing::legal_gating(),
        OperatorId::MoeInitRoutingV3 => routing::legal_init(),
        OperatorId::MoeFinalizeRoutingV2 => routing::legal_finalize(),
        OperatorId::MoeTokenUnpermute => routing::legal_unpermute(),
        OperatorId::GroupedMatmul
        | OperatorId::GroupedMatmulV2
        | OperatorId::GroupedMatmulV3
        | OperatorId::GroupedMatmulV4
        | OperatorId::GroupedMatmulV5
        | OperatorId::GroupedMatmulWeightNz => grouped::legal(operator),
        OperatorId::GroupedMatmulAdd => grouped_add::legal(),
        OperatorId::QuantMatmulV5 | OperatorId::QuantMatmulWeightNz | OperatorId::QuantMatmulV4 => {
            quant_matmul::legal(operator)
        }
        OperatorId::TransQuantParamV2 => quant_weight::legal_param(),
        OperatorId::ConvertWeightToINT4Pack => quant_weight::legal_convert(),
        OperatorId::WeightQuantBatchMatmulV2
        | OperatorId::WeightQuantBatchMatmulV3
        | OperatorId::WeightQuantBatchMatmulNz => weight_quant::legal(operator),
        OperatorId::GroupedMatmulSwigluQuant
        | OperatorId::GroupedMatmulSwigluQuantWeightNZ
        | OperatorId::GroupedMatmulSwigluQuantV2
        | OperatorId::GroupedMatmulSwigluQuantWeightNzV2 => swiglu_quant::legal(operator),
        OperatorId::GroupedMatmulFinalizeRouting
        | OperatorId::GroupedMatmulFinalizeRoutingV2
        | OperatorId::GroupedMatmulFinalizeRoutingV3
        | OperatorId::GroupedMatmulFinalizeRoutingWeightNz
        | OperatorId::GroupedMatmulFinalizeRoutingWeightNzV2 => grouped_finalize::legal(operator),
        OperatorId::Abs
        | OperatorId::Neg
        | OperatorId::Exp
        | OperatorId::Sqrt
        | OperatorId::Sigmoid
        | OperatorId::Silu
        | OperatorId::Relu
        | OperatorId::Gelu
        | OperatorId::Softplus
        | OperatorId::Adds
        | OperatorId::Sub
        | OperatorId::Div
        | OperatorId::Maximum
        | OperatorId::Minimum
        | OperatorId::Clamp
        | OperatorId::ClampMin
        | OperatorId::EqScalar
        | OperatorId::LtScalar
        | OperatorId::GeScalar
        | OperatorId::SWhere
        | OperatorId::InplaceMaskedFillScalar
        | OperatorId::InplaceZero
        | OperatorId::InplaceCopy
        | OperatorId::Arange => pointwise::legal(operator),
        OperatorId::Softmax
        | OperatorId::Topk
        | OperatorId::Sort
        | OperatorId::Argsort
        | OperatorId::Cumsum
        | OperatorId::ReduceSum
        | OperatorId::Amax
        | OperatorId::RmsNorm
        | OperatorId::AddRmsNorm
        | OperatorId::Gather
        | OperatorId::Scatter
        | OperatorId::IndexSelect
        | OperatorId::GatherV2
        | OperatorId::Embedding
        | OperatorId::Cat
        | OperatorId::Permute => lanes::legal(operator),
        OperatorId::BatchMatMul => lanes::legal_batch_mat_mul(),
        OperatorId::Addmm => lanes::legal_addmm(),
        OperatorId::ClippedSwiglu => lanes::legal_clipped(),
        OperatorId::SwiGluQuant | OperatorId::SwiGluQuantV2 => swi_glu_quant::legal(operator),
        OperatorId::AscendQuant | OperatorId::AscendQuantV3 => ascend_quant::legal(operator),
        OperatorId::DequantSwigluQuant | OperatorId::DequantSwigluQuantV2 => dequant_swiglu::legal(operator),
        OperatorId::DynamicQuant | OperatorId::DynamicQuantV2 | OperatorId::DynamicQuantV4 => {
            dynamic_quant::legal(operator)
        }
        OperatorId::TransMatmulWeight => lanes::legal_trans(),
        OperatorId::MoeFinalizeRoutingV3 => finalize_v3::legal_v3(),
        OperatorId::MoeComputeExpertTokens => permute::legal_expert_tokens(),
        OperatorId::MoeTokenPermute => permute::legal_permute(),
        OperatorId::MoeGatingTopKSoftmaxV2 => softmax_gating::legal_second(),
        OperatorId::MoeGatingTopKSoftmax => softmax_gating::legal_first(),
        OperatorId::MoeInitRouting => expand::legal_first(),
        OperatorId::MoeInitRoutingV2 => expand::legal_second(),
        OperatorId::MoeInitRoutingQuantV2 => expand::legal_quantised(),
        OperatorId::MoeFinalizeRouting => finalize_v1::legal_v1(),
        OperatorId::MoeFusedTopk => fused_topk::legal_fused(),
        OperatorId::MoeGatingTopKV2 => gating_v2::legal_v2(),
        OperatorId::MoeTokenPermuteWithEp => expert_parallel::legal_permute(),
        OperatorId::MoeTokenUnpermuteWithEp => expert_parallel::legal_unpermute(),
        OperatorId::MoeTokenPermuteWithRoutingMap => routing_map::legal_permute(),
        OperatorId::MoeTokenUnpermuteWithRoutingMap => routing_map::legal_unpermute(),
        OperatorId::MoeReRouting => expert_parallel::legal_re_routing(),
        OperatorId::MoeUpdateExpert => expert_parallel::legal_update(),
    }
}

/// Calls of an operator that break its rules.
pub(crate) fn violations(operator: OperatorId) -> Vec<Case> {
    match operator {
        OperatorId::Mm => dense::violations_mm(),
        OperatorId::Matmul => dense::violations_matmul(),
        OperatorId::Cast => dense::violations_cast(),
        OperatorId::Add => dense::violations_add(),
        OperatorId::Mul => dense::violations_mul(),
        OperatorId::Muls => dense::violations_muls(),
        OperatorId::SwiGlu => dense::violations_swi_glu(),
        OperatorId::NpuFormatCast => storage::violations(),
        OperatorId::MoeGatingTopK => routing::violations_gating(),
        OperatorId::MoeInitRoutingV3 => routing::violations_init(),
        OperatorId::MoeFinalizeRoutingV2 => routing::violations_finalize(),
        OperatorId::MoeTokenUnpermute => routing::violations_unpermute(),
        OperatorId::GroupedMatmul
        | OperatorId::GroupedMatmulV2
        | OperatorId::GroupedMatmulV3
        | OperatorId::GroupedMatmulV4
        | OperatorId::GroupedMatmulV5
        | OperatorId::GroupedMatmulWeightNz => grouped::violations(operator),
        OperatorId::GroupedMatmulAdd => grouped_add::violations(),
        OperatorId::QuantMatmulV5 | OperatorId::QuantMatmulWeightNz | OperatorId::QuantMatmulV4 => {
            quant_matmul::violations(operator)
        }
        OperatorId::TransQuantParamV2 => quant_weight::violations_param(),
        OperatorId::ConvertWeightToINT4Pack => quant_weight::violations_convert(),
        OperatorId::WeightQuantBatchMatmulV2
        | OperatorId::WeightQuantBatchMatmulV3
        | OperatorId::WeightQuantBatchMatmulNz => weight_quant::violations(operator),
        OperatorId::GroupedMatmulSwigluQuant
        | OperatorId::GroupedMatmulSwigluQuantWeightNZ
        | OperatorId::GroupedMatmulSwigluQuantV2
        | OperatorId::GroupedMatmulSwigluQuantWeightNzV2 => swiglu_quant::violations(operator),
        OperatorId::GroupedMatmulFinalizeRouting
        | OperatorId::GroupedMatmulFinalizeRoutingV2
        | OperatorId::GroupedMatmulFinalizeRoutingV3
        | OperatorId::GroupedMatmulFinalizeRoutingWeightNz
        | OperatorId::GroupedMatmulFinalizeRoutingWeightNzV2 => grouped_finalize::violations(operator),
        OperatorId::Abs
        | OperatorId::Neg
        | OperatorId::Exp
        | OperatorId::Sqrt
        | OperatorId::Sigmoid
        | OperatorId::Silu
        | OperatorId::Relu
        | OperatorId::Gelu
        | OperatorId::Softplus
        | OperatorId::Adds
        | OperatorId::Sub
        | OperatorId::Div
        | OperatorId::Maximum
        | OperatorId::Minimum
        | OperatorId::Clamp
        | OperatorId::ClampMin
        | OperatorId::EqScalar
        | OperatorId::LtScalar
        | OperatorId::GeScalar
        | OperatorId::SWhere
        | OperatorId::InplaceMaskedFillScalar
        | OperatorId::InplaceZero
        | OperatorId::InplaceCopy
        | OperatorId::Arange => pointwise::violations(operator),
        OperatorId::Softmax
        | OperatorId::Topk
        | OperatorId::Sort
        | OperatorId::Argsort
        | OperatorId::Cumsum
        | OperatorId::ReduceSum
        | OperatorId::Amax
        | OperatorId::RmsNorm
        | OperatorId::AddRmsNorm
        | OperatorId::Gather
        | OperatorId::Scatter
        | OperatorId::IndexSelect
        | OperatorId::GatherV2
        | OperatorId::Embedding
        | OperatorId::Cat
        | OperatorId::Permute => lanes::violations(operator),
        OperatorId::BatchMatMul => lanes::violations_batch_mat_mul(),
        OperatorId::Addmm => lanes::violations_addmm(),
        OperatorId::ClippedSwiglu => lanes::violations_clipped(),
        OperatorId::SwiGluQuant | OperatorId::SwiGluQuantV2 => swi_glu_quant::violations(operator),
        OperatorId::AscendQuant | OperatorId::AscendQuantV3 => ascend_quant::violations(operator),
        OperatorId::DequantSwigluQuant | OperatorId::DequantSwigluQuantV2 => dequant_swiglu::violations(operator),
        OperatorId::DynamicQuant | OperatorId::DynamicQuantV2 | OperatorId::DynamicQuantV4 => {
            dynamic_quant::violations(operator)
        }
        OperatorId::TransMatmulWeight => lanes::violations_trans(),
        OperatorId::MoeFinalizeRoutingV3 => finalize_v3::violations_v3(),
        OperatorId::MoeComputeExpertTokens => permute::violations_expert_tokens(),
        OperatorId::MoeTokenPermute => permute::violations_permute(),
        OperatorId::MoeGatingTopKSoftmaxV2 => softmax_gating::violations_second(),
        OperatorId::MoeGatingTopKSoftmax => softmax_gating::violations_first(),
        OperatorId::MoeInitRouting => expand::violations_first(),
        OperatorId::MoeInitRoutingV2 => expand::violations_second(),
        OperatorId::MoeInitRoutingQuantV2 => expand::violations_quantised(),
        OperatorId::MoeFinalizeRouting => finalize_v1::violations_v1(),
        OperatorId::MoeFusedTopk => fused_topk::violations_fused(),
        OperatorId::MoeGatingTopKV2 => gating_v2::violations_v2(),
        OperatorId::MoeTokenPermuteWithEp => expert_parallel::violations_permute(),
        OperatorId::MoeTokenUnpermuteWithEp => expert_parallel::violations_unpermute(),
        OperatorId::MoeTokenPermuteWithRoutingMap => routing_map::violations_permute(),
        OperatorId::MoeTokenUnpermuteWithRoutingMap => routing_map::violations_unpermute(),
        OperatorId::MoeReRouting => expert_parallel::violations_re_routing(),
        OperatorId::MoeUpdateExpert => expert_parallel::violations_update(),
    }
}

/// The first legal call, to be varied; the first refused one of an operator that Atlas A3 does not have.
pub(crate) fn base(operator: OperatorId) -> Built {
    legal(operator).into_iter().next().unwrap_or_else(|| violations(operator).swap_remove(0).call)
}

#[test]
fn every_operator_has_its_row() {
    for operator in OPERATORS {
        let row = operator.id.row();
        assert_eq!(row.operator, operator.id);
        assert!(!row.source.is_empty(), "{}: no source", operator.name);
        let names: Vec<_> = row.params.iter().map(|param| param.name).collect();
        let listed: Vec<_> = operator.params.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, listed, "{}", operator.name);
        let ids: BTreeSet<_> = row.rules.iter().map(|rule| rule.id).collect();
        assert_eq!(ids.len(), row.rules.len(), "{}: a rule id twice", operator.name);
        let reserved = ["arguments", "null", "reserved", "dtype", "format", "rank", "layout", "shape"];
        assert!(
            reserved.iter().all(|id| !ids.contains(id)),
            "{}: a rule with the id of a parameter's limit",
            operator.name
        );
    }
}

#[test]
fn parameters_are_declared_by_their_type() {
    for operator in OPERATORS {
        for (param, (name, parameter_type)) in operator.id.row().params.iter().zip(operator.params) {
            let what = format!("{} {name}", operator.name);
            let is_tensor = parameter_type.contains("aclTensor");
            let is_output = is_tensor && is_written(operator.id, name);
            let is_required = parameter_type.starts_with('*') && !may_be_null(operator.id, name);
            let is_checked = is_tensor && param.null != Null::Reserved;
            assert_eq!(param.output, is_output, "{what}");
            assert_eq!(param.null == Null::Required, is_required, "{what}");
            assert!(is_checked || (param.dtypes.is_empty() && param.formats.is_empty()) || param.output, "{what}");
        }
    }
}

#[test]
fn legal_calls_pass() {
    for operator in OPERATORS {
        for call in legal(operator.id) {
            assert_eq!(call.validate(), Ok(()), "{call:?}");
        }
    }
}

#[test]
fn violations_name_rule_code_and_phase() {
    for operator in OPERATORS {
        let row = operator.id.row();
        for case in violations(operator.id) {
            let what = format!("aclnn{}, rule {}: {:?}", operator.name, case.rule, case.call);
            let Err(violation) = case.call.validate() else { panic!("passes: {what}") };
            let answer = (violation.rule, violation.code, violation.phase);
            assert_eq!(answer, (case.rule, case.code, case.phase), "{violation}\n{what}");
            let not_carried = case.code == aclnnStatus::ERR_INNER_FIND_KERNEL_ERROR;
            assert_eq!(violation.refusal == Refusal::NotCarried, not_carried, "{what}");
            assert_eq!(violation.operator, operator.id);
            assert!(!violation.found.is_empty() && !violation.legal.is_empty(), "{what}");

            let broken: Vec<_> =
                case.call.with(|call| row.rules.iter().filter(|r| (r.check)(call).is_err()).map(|r| r.id).collect());
            let expected: Vec<_> = std::iter::once(case.rule).chain(case.also.iter().copied()).collect();
            assert_eq!(broken, expected, "{what}");
        }
    }
}

#[test]
fn every_rule_is_hit() {
    for operator in OPERATORS {
        let hit: BTreeSet<_> = violations(operator.id).iter().map(|case| case.rule).collect();
        let rules: BTreeSet<_> = operator.id.row().rules.iter().map(|rule| rule.id).collect();
        assert_eq!(hit, rules, "aclnn{}: rules hit by violations() and rules of the row", operator.name);
    }
}

#[test]
fn a_violation_reads_as_a_sentence() {
    let call = base(OperatorId::MoeGatingTopK).set("k", 129);
    assert_eq!(
        call.validate().unwrap_err().to_string(),
        "aclnnMoeGatingTopK: k 129; the nearest legal value is 128 breaks rule `k`: \
         1 <= k <= kGroup * experts / groupCount"
    );
    let call = base(OperatorId::Mm).null("self_");
    assert_eq!(
        call.validate().unwrap_err().to_string(),
        "aclnnMm: self: a null pointer breaks rule `null`: this parameter is required"
    );
    let call = base(OperatorId::Mm).set("self_", build::tensor(build::BF16, &[3]));
    assert_eq!(call.validate().unwrap_err().to_string(), "aclnnMm: self: shape [3] breaks rule `rank`: 2 dimensions");
    let call = base(OperatorId::Matmul).set("self_", build::tensor(build::BF16, &[]));
    assert_eq!(
        call.validate().unwrap_err().to_string(),
        "aclnnMatmul: self: shape [] breaks rule `rank`: 1 to 6 dimensions"
    );
    let call = base(OperatorId::Scatter).set("reduce", 3);
    assert_eq!(
        call.validate().unwrap_err().to_string(),
        "aclnnScatter: reduce 3 is not carried here (`reduce`): reduce is 0 (replace), 1 (add) or 2 (multiply)"
    );
}
