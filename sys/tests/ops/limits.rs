//! The limits of every tensor parameter, written down once more by hand: a row that says more or less fails.

use std::ops::RangeInclusive;

use ascend_sys::ops::{Null, Phase, TensorDesc, Violation};
use ascend_sys::{OPERATORS, OperatorId, aclDataType, aclFormat, aclnnStatus};

use crate::base;
use crate::build::{Built, F32, Value, spread, tensor};

/// Codes of null, of dtype and format, of the rest; and the phase of the last two.
fn codes(operator: OperatorId) -> (i32, i32, i32, Phase) {
    match operator {
        OperatorId::Mm
        | OperatorId::Matmul
        | OperatorId::Cast
        | OperatorId::Add
        | OperatorId::Mul
        | OperatorId::Muls
        | OperatorId::GroupedMatmul
        | OperatorId::GroupedMatmulV2
        | OperatorId::GroupedMatmulV3
        | OperatorId::GroupedMatmulV4
        | OperatorId::GroupedMatmulV5
        | OperatorId::GroupedMatmulWeightNz
        | OperatorId::GroupedMatmulSwigluQuant
        | OperatorId::GroupedMatmulSwigluQuantWeightNZ
        | OperatorId::GroupedMatmulSwigluQuantV2
        | OperatorId::GroupedMatmulSwigluQuantWeightNzV2
        | OperatorId::GroupedMatmulFinalizeRouting
        | OperatorId::GroupedMatmulFinalizeRoutingV2
        | OperatorId::GroupedMatmulFinalizeRoutingV3
        | OperatorId::GroupedMatmulFinalizeRoutingWeightNz
        | OperatorId::GroupedMatmulFinalizeRoutingWeightNzV2 => (161001, 161002, 161002, Phase::One),
        OperatorId::QuantMatmulV5
        | OperatorId::QuantMatmulWeightNz
        | OperatorId::QuantMatmulV4
        | OperatorId::ConvertWeightToINT4Pack
        | OperatorId::WeightQuantBatchMatmulV2
        | OperatorId::WeightQuantBatchMatmulV3
        | OperatorId::WeightQuantBatchMatmulNz => (161001, 161002, 161002, Phase::One),
        OperatorId::TransQuantParamV2 => (161001, 161002, 561002, Phase::One),
        OperatorId::GroupedMatmulAdd => (161002, 161002, 161002, Phase::One),
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
        | OperatorId::Softmax
        | OperatorId::Topk
        | OperatorId::Sort
        | OperatorId::Argsort
        | OperatorId::Cumsum
        | OperatorId::ReduceSum
        | OperatorId::Amax
        | OperatorId::AddRmsNorm
        | OperatorId::Gather
        | OperatorId::Scatter
        | OperatorId::IndexSelect
        | OperatorId::GatherV2
        | OperatorId::Embedding
        | OperatorId::Cat
        | OperatorId::Permute
        | OperatorId::BatchMatMul
        | OperatorId::Addmm
        | OperatorId::DynamicQuant
        | OperatorId::DynamicQuantV2
        | OperatorId::DynamicQuantV4
        | OperatorId::AscendQuant
        | OperatorId::AscendQuantV3
        | OperatorId::TransMatmulWeight => (161001, 161002, 161002, Phase::One),
        OperatorId::Arange => (561103, 161002, 161002, Phase::One),
        OperatorId::MoeGatingTopK
        | OperatorId::SwiGlu
        | OperatorId::RmsNorm
        | OperatorId::ClippedSwiglu
        | OperatorId::DequantSwigluQuant
        | OperatorId::DequantSwigluQuantV2
        | OperatorId::SwiGluQuant
        | OperatorId::SwiGluQuantV2
        | OperatorId::MoeInitRoutingQuantV2
        | OperatorId::MoeTokenUnpermute => (161001, 161002, 561002, Phase::One),
        OperatorId::MoeInitRoutingV3 => (161001, 561103, 561103, Phase::Two),
        OperatorId::MoeFinalizeRoutingV2 => (561103, 561103, 561103, Phase::One),
        OperatorId::NpuFormatCast => (561103, 161002, 161002, Phase::One),
        OperatorId::MoeFinalizeRoutingV3 => (161001, 561103, 561103, Phase::One),
        OperatorId::MoeComputeExpertTokens => (161001, 161002, 561002, Phase::One),
        OperatorId::MoeTokenPermute => (161001, 161002, 561002, Phase::One),
        OperatorId::MoeGatingTopKSoftmaxV2 => (161001, 161002, 561002, Phase::One),
        OperatorId::MoeGatingTopKSoftmax => (161001, 161002, 561002, Phase::One),
        OperatorId::MoeInitRouting => (161001, 161002, 561002, Phase::One),
        OperatorId::MoeInitRoutingV2 => (161001, 561103, 561103, Phase::One),
        OperatorId::MoeFinalizeRouting => (161001, 161002, 561002, Phase::One),
        OperatorId::MoeFusedTopk => (161001, 161002, 161002, Phase::One),
        OperatorId::MoeGatingTopKV2 => (161001, 161002, 561103, Phase::One),
        OperatorId::MoeTokenPermuteWithEp => (161001, 161002, 561002, Phase::One),
        OperatorId::MoeTokenUnpermuteWithEp => (161001, 161002, 561002, Phase::One),
        OperatorId::MoeTokenPermuteWithRoutingMap => (161001, 161002, 161002, Phase::One),
        OperatorId::MoeTokenUnpermuteWithRoutingMap => (161001, 161002, 161002, Phase::One),
        OperatorId::MoeReRouting => (161001, 161002, 561002, Phase::One),
        OperatorId::MoeUpdateExpert => (161001, 161002, 561002, Phase::One),
    }
}

const FLOATS: &[i32] = &[0, 1, 27];
const NUMBERS: &[i32] = &[0, 1, 2, 3, 4, 6, 9, 11, 12, 16, 17, 27];
const CASTABLE: &[i32] = &[0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 16, 17, 27];
const PACKABLE: &[i32] = &[0, 1, 2, 3, 4, 8, 27];
const ROUTED: &[i32] = &[0, 1, 2, 27];
const FLOAT: &[i32] = &[0];
const INT32: &[i32] = &[3];
const INT64: &[i32] = &[9];
const COMPARED: &[i32] = &[0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 27];
const FILLED: &[i32] = &[0, 1, 2, 3, 9, 12, 27];
const ORDERED: &[i32] = &[0, 1, 2, 3, 4, 6, 9, 11, 27];
const INDEX: &[i32] = &[3, 9];
/// Not limited.
pub(crate) const ANY: &[i32] = &[];

pub(crate) const PLAIN: &[i32] = &[0, 1, 2, 16, 27, 30, 35, 47];
pub(crate) const PLAIN_OR_NZ: &[i32] = &[0, 1, 2, 16, 27, 29, 30, 35, 47];
const CAST_FORMATS: &[i32] = &[0, 1, 2, 3, 4, 16, 27, 29, 30, 32, 33, 47];

pub(crate) const STRIDED: bool = false;
pub(crate) const CONTIGUOUS: bool = true;

/// Name, dtypes, formats, ranks, whether it must be contiguous.
pub(crate) type Limit = (&'static str, &'static [i32], &'static [i32], RangeInclusive<usize>, bool);

pub(crate) fn limits(operator: OperatorId) -> Vec<Limit> {
    let plain = |name, dtypes, ranks| (name, dtypes, PLAIN, ranks, STRIDED);
    match operator {
        OperatorId::Mm => vec![
            plain("self_", FLOATS, 2..=2),
            ("mat2", FLOATS, PLAIN_OR_NZ, 2..=2, STRIDED),
            plain("out", FLOATS, 2..=2),
        ],
        OperatorId::Matmul => vec![
            plain("self_", FLOATS, 1..=6),
            ("mat2", FLOATS, PLAIN_OR_NZ, 1..=6, STRIDED),
            plain("out", FLOATS, 0..=8),
        ],
        OperatorId::Cast => vec![plain("self_", CASTABLE, 0..=8), plain("out", ANY, 0..=8)],
        OperatorId::Add => {
            vec![plain("self_", NUMBERS, 0..=8), plain("other", NUMBERS, 0..=8), plain("out", ANY, 0..=8)]
        }
        OperatorId::Mul => {
            vec![plain("self_", NUMBERS, 0..=8), plain("other", NUMBERS, 0..=8), plain("out", NUMBERS, 0..=8)]
        }
        OperatorId::Muls => vec![plain("self_", NUMBERS, 0..=8), plain("out", NUMBERS, 0..=8)],
        OperatorId::SwiGlu => {
            vec![("x", FLOATS, PLAIN, 1..=8, CONTIGUOUS), ("out", FLOATS, PLAIN, 1..=8, CONTIGUOUS)]
        }
        OperatorId::MoeGatingTopK => vec![
            plain("x", FLOATS, 2..=2),
            plain("biasOptional", FLOATS, 1..=1),
            plain("yOut", FLOATS, 2..=2),
            plain("expertIdxOut", INT32, 2..=2),
            plain("outOut", FLOAT, 2..=2),
        ],
        OperatorId::MoeInitRoutingV3 => vec![
            plain("x", ROUTED, 2..=2),
            plain("expertIdx", INT32, 2..=2),
            plain("scaleOptional", FLOAT, 0..=8),
            plain("offsetOptional", FLOAT, 0..=8),
            plain("expandedXOut", ROUTED, 2..=3),
            plain("expandedRowIdxOut", INT32, 1..=1),
            plain("expertTokensCountOrCumsumOut", INT64, 0..=8),
            plain("expandedScaleOut", FLOAT, 0..=8),
        ],
        OperatorId::MoeFinalizeRoutingV2 => vec![
            plain("expandedX", FLOATS, 2..=3),
            plain("expandedRowIdx", INT32, 1..=1),
            plain("x1Optional", FLOATS, 2..=2),
            plain("x2Optional", FLOATS, 2..=2),
            plain("biasOptional", FLOATS, 2..=2),
            plain("scalesOptional", FLOATS, 2..=2),
            plain("expertIdxOptional", INT32, 2..=2),
            plain("out", FLOATS, 2..=2),
        ],
        OperatorId::MoeTokenUnpermute => vec![
            plain("permutedTokens", FLOATS, 2..=2),
            plain("sortedIndices", INT32, 1..=1),
            plain("probsOptional", FLOATS, 2..=2),
            ("out", FLOATS, PLAIN, 2..=2, CONTIGUOUS),
        ],
        OperatorId::NpuFormatCast => vec![
            ("srcTensor", PACKABLE, CAST_FORMATS, 0..=8, CONTIGUOUS),
            ("dstTensor", PACKABLE, CAST_FORMATS, 0..=8, CONTIGUOUS),
        ],
        OperatorId::Abs
        | OperatorId::Neg
        | OperatorId::Exp
        | OperatorId::Sqrt
        | OperatorId::Sigmoid
        | OperatorId::Silu
        | OperatorId::Relu
        | OperatorId::Gelu
        | OperatorId::Clamp
        | OperatorId::ClampMin
        | OperatorId::Softmax
        | OperatorId::Cumsum
        | OperatorId::Amax
        | OperatorId::Permute => vec![plain("self_", ANY, 0..=8), plain("out", ANY, 0..=8)],
        OperatorId::Softplus => vec![plain("self_", FLOATS, 0..=8), plain("out", ANY, 0..=8)],
        OperatorId::Adds => vec![plain("self_", NUMBERS, 0..=8), plain("out", ANY, 0..=8)],
        OperatorId::Sub | OperatorId::Div => {
            vec![plain("self_", NUMBERS, 0..=8), plain("other", NUMBERS, 0..=8), plain("out", ANY, 0..=8)]
        }
        OperatorId::Maximum | OperatorId::Minimum => {
            vec![plain("self_", ANY, 0..=8), plain("other", ANY, 0..=8), plain("out", ANY, 0..=8)]
        }
        OperatorId::EqScalar | OperatorId::LtScalar | OperatorId::GeScalar => {
            vec![plain("self_", COMPARED, 0..=8), plain("out", ANY, 0..=8)]
        }
        OperatorId::SWhere => vec![
            plain("condition", ANY, 0..=8),
            plain("self_", ANY, 0..=8),
            plain("other", ANY, 0..=8),
            plain("out", ANY, 0..=8),
        ],
        OperatorId::InplaceMaskedFillScalar => {
            vec![plain("selfRef", FILLED, 0..=8), plain("mask", &[12], 0..=8)]
        }
        OperatorId::InplaceZero => vec![plain("selfRef", ANY, 0..=8)],
        OperatorId::InplaceCopy => vec![plain("selfRef", ANY, 0..=8), plain("src", ANY, 0..=8)],
        OperatorId::Arange => vec![plain("out", &[0, 1, 3, 9, 11, 27], 0..=8)],
        OperatorId::Topk => {
            vec![plain("self_", ORDERED, 0..=8), plain("valuesOut", ORDERED, 0..=8), plain("indicesOut", INT64, 0..=8)]
        }
        OperatorId::Sort => {
            vec![plain("self_", ANY, 0..=8), plain("valuesOut", ANY, 0..=8), plain("indicesOut", INT64, 0..=8)]
        }
        OperatorId::Argsort => vec![plain("self_", ANY, 0..=8), plain("out", INT64, 0..=8)],
        OperatorId::ReduceSum => vec![plain("self_", NUMBERS, 0..=8), plain("out", NUMBERS, 0..=8)],
        OperatorId::RmsNorm => vec![
            plain("x", FLOATS, 1..=8),
            plain("gamma", FLOATS, 1..=8),
            plain("yOut", FLOATS, 1..=8),
            plain("rstdOut", FLOAT, 1..=8),
        ],
        OperatorId::AddRmsNorm => vec![
            plain("x1", FLOATS, 1..=8),
            plain("x2", FLOATS, 1..=8),
            plain("gamma", FLOATS, 1..=8),
            plain("yOut", FLOATS, 1..=8),
            plain("rstdOut", FLOAT, 1..=8),
            plain("xOut", FLOATS, 1..=8),
        ],
        OperatorId::Gather => {
            vec![plain("self_", COMPARED, 0..=8), plain("index", INDEX, 0..=8), plain("out", COMPARED, 0..=8)]
        }
        OperatorId::Scatter => vec![
            plain("self_", NUMBERS, 0..=8),
            plain("index", ANY, 0..=8),
            plain("src", NUMBERS, 0..=8),
            plain("out", NUMBERS, 0..=8),
        ],
        OperatorId::IndexSelect => {
            vec![plain("self_", ANY, 0..=8), plain("index", INDEX, 0..=1), plain("out", ANY, 0..=8)]
        }
        OperatorId::GatherV2 => {
            vec![plain("self_", ANY, 0..=8), plain("index", INDEX, 0..=8), plain("out", ANY, 0..=8)]
        }
        OperatorId::Embedding => {
            vec![plain("weight", ANY, 2..=2), plain("indices", INDEX, 0..=8), plain("out", ANY, 0..=8)]
        }
        OperatorId::Cat => vec![plain("tensors", ANY, 0..=8), plain("out", ANY, 0..=8)],
        OperatorId::BatchMatMul => vec![
            plain("self_", FLOATS, 3..=3),
            ("mat2", FLOATS, PLAIN_OR_NZ, 3..=3, STRIDED),
            plain("out", FLOATS, 3..=3),
        ],
        OperatorId::Addmm => vec![
            plain("self_", FLOATS, 0..=2),
            plain("mat1", FLOATS, 2..=2),
            plain("mat2", FLOATS, 2..=2),
            plain("out", FLOATS, 2..=2),
        ],
        OperatorId::TransMatmulWeight => vec![plain("mmWeightRef", &[1, 2, 27], 2..=6)],
        OperatorId::ClippedSwiglu => vec![
            ("x", FLOATS, PLAIN, 1..=8, CONTIGUOUS),
            plain("groupIndexOptional", INT64, 1..=1),
            ("out", FLOATS, PLAIN, 1..=8, CONTIGUOUS),
        ],
        OperatorId::GroupedMatmul
        | OperatorId::GroupedMatmulV2
        | OperatorId::GroupedMatmulV3
        | OperatorId::GroupedMatmulV4
        | OperatorId::GroupedMatmulV5
        | OperatorId::GroupedMatmulWeightNz => crate::grouped::limits(operator),
        OperatorId::GroupedMatmulAdd => crate::grouped_add::limits(),
        OperatorId::QuantMatmulV5 | OperatorId::QuantMatmulWeightNz | OperatorId::QuantMatmulV4 => {
            crate::quant_matmul::limits(operator)
        }
        OperatorId::SwiGluQuant | OperatorId::SwiGluQuantV2 => crate::swi_glu_quant::limits(operator),
        OperatorId::AscendQuant | OperatorId::AscendQuantV3 => crate::ascend_quant::limits(),
        OperatorId::DequantSwigluQuant | OperatorId::DequantSwigluQuantV2 => crate::dequant_swiglu::limits(),
        OperatorId::DynamicQuant | OperatorId::DynamicQuantV2 | OperatorId::DynamicQuantV4 => {
            crate::dynamic_quant::limits(operator)
        }
        OperatorId::TransQuantParamV2 => crate::quant_weight::limits_param(),
        OperatorId::ConvertWeightToINT4Pack => crate::quant_weight::limits_convert(),
        OperatorId::WeightQuantBatchMatmulV2
        | OperatorId::WeightQuantBatchMatmulV3
        | OperatorId::WeightQuantBatchMatmulNz => crate::weight_quant::limits(operator),
        OperatorId::GroupedMatmulSwigluQuant
        | OperatorId::GroupedMatmulSwigluQuantWeightNZ
        | OperatorId::GroupedMatmulSwigluQuantV2
        | OperatorId::GroupedMatmulSwigluQuantWeightNzV2 => crate::swiglu_quant::limits(operator),
        OperatorId::GroupedMatmulFinalizeRouting
        | OperatorId::GroupedMatmulFinalizeRoutingV2
        | OperatorId::GroupedMatmulFinalizeRoutingV3
        | OperatorId::GroupedMatmulFinalizeRoutingWeightNz
        | OperatorId::GroupedMatmulFinalizeRoutingWeightNzV2 => crate::grouped_finalize::limits(operator),
        OperatorId::MoeGatingTopKSoftmax => crate::softmax_gating::limits_first(),
        OperatorId::MoeGatingTopKSoftmaxV2 => crate::softmax_gating::limits_second(),
        OperatorId::MoeTokenPermute => crate::permute::limits_permute(),
        OperatorId::MoeComputeExpertTokens => crate::permute::limits_expert_tokens(),
        OperatorId::MoeFinalizeRoutingV3 => crate::finalize_v3::limits_v3(),
        OperatorId::MoeInitRouting => crate::expand::limits_first(),
        OperatorId::MoeInitRoutingV2 => crate::expand::limits_second(),
        OperatorId::MoeInitRoutingQuantV2 => crate::expand::limits_quantised(),
        OperatorId::MoeFinalizeRouting => crate::finalize_v1::limits_v1(),
        OperatorId::MoeFusedTopk => crate::fused_topk::limits_fused(),
        OperatorId::MoeGatingTopKV2 => crate::gating_v2::limits_v2(),
        OperatorId::MoeTokenPermuteWithEp => crate::expert_parallel::limits_permute(),
        OperatorId::MoeTokenUnpermuteWithEp => crate::expert_parallel::limits_unpermute(),
        OperatorId::MoeTokenPermuteWithRoutingMap => crate::routing_map::limits_permute(),
        OperatorId::MoeTokenUnpermuteWithRoutingMap => crate::routing_map::limits_unpermute(),
        OperatorId::MoeReRouting => crate::expert_parallel::limits_re_routing(),
        OperatorId::MoeUpdateExpert => crate::expert_parallel::limits_update(),
    }
}

/// Parameters that must be null.
pub(crate) const RESERVED: &[&str] = &[
    "activationInputOptional",
    "activationQuantScaleOptional",
    "activationQuantOffsetOptional",
    "activationFeatureOutOptional",
    "dynQuantScaleOutOptional",
];

/// The tensor, or the first one of the list, that a parameter of the first legal call has; one that breaks no limit of
/// dtype or format where it has none.
pub(crate) fn tensor_of(call: &Built, limit: &Limit) -> TensorDesc {
    let given = match &call.values[call.index(limit.0)] {
        Value::Tensor(given) => *given,
        Value::Tensors(list) => list.iter().flatten().next().copied().flatten(),
        other => panic!("{} is {other:?}", limit.0),
    };
    given.unwrap_or_else(|| tensor(aclDataType(limit.1.first().copied().unwrap_or(0)), &[4]))
}

/// The call with this tensor, or a list of it.
pub(crate) fn put(call: &Built, name: &str, tensor: TensorDesc) -> Built {
    let is_list = matches!(call.values[call.index(name)], Value::Tensors(_));
    let call = call.clone();
    if is_list { call.set(name, vec![tensor]) } else { call.set(name, tensor) }
}

/// What the row says to the call with this tensor.
fn with(call: &Built, name: &str, tensor: TensorDesc) -> Option<Violation> {
    put(call, name, tensor).validate().err()
}

/// Whether the row refuses the parameter by this limit; that it does so only where it must, in the right way.
fn check(operator: OperatorId, name: &str, limit: &str, legal: bool, answer: Option<Violation>) {
    let (null, dtype, other, phase) = codes(operator);
    let by_limit = answer.filter(|violation| violation.rule == limit && violation.parameter == Some(name));
    assert_eq!(by_limit.is_none(), legal, "{operator:?} {name} {limit}: {by_limit:?}");
    let Some(violation) = by_limit else { return };
    let due = match limit {
        "null" => (null, Phase::One),
        "dtype" | "format" => (dtype, phase),
        _ => (other, phase),
    };
    assert_eq!((violation.code, violation.phase), (aclnnStatus(due.0), due.1), "{violation}");
}

#[test]
fn every_tensor_has_its_limits_written_down() {
    for operator in OPERATORS {
        let tensors: Vec<_> =
            operator.params.iter().filter(|(_, t)| t.contains("aclTensor")).map(|(name, _)| *name).collect();
        let expected: Vec<_> = limits(operator.id).iter().map(|limit| limit.0).collect();
        let checked: Vec<_> = tensors.into_iter().filter(|name| !RESERVED.contains(name)).collect();
        assert_eq!(checked, expected, "{}", operator.name);
    }
}

#[test]
fn dtypes_and_formats() {
    for operator in OPERATORS {
        let call = base(operator.id);
        for limit in limits(operator.id) {
            let given = tensor_of(&call, &limit);
            let (name, dtypes, formats, ..) = limit;
            for code in -1..60 {
                let answer = with(&call, name, TensorDesc { dtype: aclDataType(code), ..given });
                check(operator.id, name, "dtype", dtypes.is_empty() || dtypes.contains(&code), answer);
                let answer = with(&call, name, TensorDesc { format: aclFormat(code), ..given });
                check(operator.id, name, "format", formats.is_empty() || formats.contains(&code), answer);
            }
        }
    }
}

#[test]
fn ranks() {
    for operator in OPERATORS {
        let call = base(operator.id);
        for limit in limits(operator.id) {
            let given = tensor_of(&call, &limit);
            for rank in 0..=8 {
                let shaped = TensorDesc { format: given.format, ..tensor(given.dtype, &[2; 8][..rank]) };
                check(operator.id, limit.0, "rank", limit.3.contains(&rank), with(&call, limit.0, shaped));
            }
        }
    }
}

#[test]
fn shapes_and_layouts() {
    for operator in OPERATORS {
        let call = base(operator.id);
        for limit in limits(operator.id) {
            let given = tensor_of(&call, &limit);
            let (name, contiguous) = (limit.0, limit.4);
            check(operator.id, name, "layout", !contiguous, with(&call, name, spread(given)));
            check(operator.id, name, "layout", true, with(&call, name, given));
            check(operator.id, name, "shape", true, with(&call, name, given));
            let mut negative = given;
            negative.shape.as_mut_slice()[0] = -1;
            check(operator.id, name, "shape", false, with(&call, name, negative));
            let mut huge = given;
            huge.shape.as_mut_slice().fill(i64::MAX);
            check(operator.id, name, "shape", huge.rank() < 2, with(&call, name, huge));
            let unstrided = TensorDesc { strides: ascend_sys::ops::Dims::EMPTY, ..given };
            check(operator.id, name, "shape", false, with(&call, name, unstrided));
        }
    }
}

#[test]
fn null_pointers() {
    for operator in OPERATORS {
        let call = base(operator.id);
        for (name, parameter_type) in operator.params.iter().filter(|(_, t)| t.starts_with('*')) {
            let optional = crate::may_be_null(operator.id, name);
            check(operator.id, name, "null", optional, call.clone().null(name).validate().err());
            if parameter_type.contains("aclTensorList") {
                for list in [vec![], vec![None], vec![Some(tensor(F32, &[4])), None]] {
                    let mut call = call.clone();
                    let index = call.index(name);
                    call.values[index] = Value::Tensors(Some(list));
                    check(operator.id, name, "null", optional, call.validate().err());
                }
            }
        }
    }
}

#[test]
fn reserved_parameters() {
    for operator in OPERATORS {
        let call = base(operator.id);
        for param in operator.id.row().params {
            let reserved = RESERVED.contains(&param.name);
            assert_eq!(param.null == Null::Reserved, reserved, "{} {}", operator.name, param.name);
            if reserved {
                check(operator.id, param.name, "reserved", false, with(&call, param.name, tensor(F32, &[4])));
                check(operator.id, param.name, "reserved", true, with(&call, param.name, tensor(F32, &[0])));
            }
        }
    }
}
