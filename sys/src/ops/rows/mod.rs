//! The rows, by what the operators do.

/// Joins lists, the first of which is not empty.
macro_rules! joined {
    ($($part:expr),+ $(,)?) => {
        &$crate::ops::rows::concat::<_, { 0 $(+ $part.len())+ }>(&[$($part),+])
    };
}

const fn concat<T: Copy, const N: usize>(parts: &[&[T]]) -> [T; N] {
    let mut all = [parts[0][0]; N];
    let (mut end, mut part) = (0, 0);
    while part < parts.len() {
        let mut index = 0;
        while index < parts[part].len() {
            all[end] = parts[part][index];
            end += 1;
            index += 1;
        }
        part += 1;
    }
    all
}

mod activation;
mod ascend_quant;
mod check;
mod combine;
mod dequant_swiglu;
mod dynamic_quant;
mod elementwise;
mod expand;
mod expert_table;
mod finalize_v1;
mod finalize_v3;
mod format;
mod fused_topk;
mod gating;
mod gating_v2;
mod grouped_finalize;
mod grouped_matmul;
mod grouped_matmul_add;
mod index;
mod lanes;
mod matmul;
mod permute;
mod pointwise;
mod quant_matmul;
mod quant_weight;
mod re_routing;
mod routing;
mod routing_map;
mod softmax_gating;
mod swi_glu_quant;
mod swiglu_quant;
mod update_expert;
mod weight_quant;

pub use format::format_cast_storage;
pub use grouped_matmul::implied_group_type;
pub use swiglu_quant::swiglu_weight;

use super::rule::OpRow;
use crate::info::OperatorId;

/// The row of an operator.
pub(super) fn row(id: OperatorId) -> &'static OpRow {
    match id {
        OperatorId::Mm => &matmul::MM,
        OperatorId::Matmul => &matmul::MATMUL,
        OperatorId::Cast => &elementwise::CAST,
        OperatorId::Add => &elementwise::ADD,
        OperatorId::Mul => &elementwise::MUL,
        OperatorId::Muls => &elementwise::MULS,
        OperatorId::MoeGatingTopK => &gating::MOE_GATING_TOP_K,
        OperatorId::MoeInitRoutingV3 => &routing::MOE_INIT_ROUTING_V3,
        OperatorId::GroupedMatmulV4 => &grouped_matmul::GROUPED_MATMUL_V4,
        OperatorId::GroupedMatmulV5 => &grouped_matmul::GROUPED_MATMUL_V5,
        OperatorId::SwiGlu => &activation::SWI_GLU,
        OperatorId::MoeFinalizeRoutingV2 => &combine::MOE_FINALIZE_ROUTING_V2,
        OperatorId::MoeTokenUnpermute => &combine::MOE_TOKEN_UNPERMUTE,
        OperatorId::NpuFormatCast => &format::NPU_FORMAT_CAST,
        OperatorId::Abs => &pointwise::ABS,
        OperatorId::Neg => &pointwise::NEG,
        OperatorId::Exp => &pointwise::EXP,
        OperatorId::Sqrt => &pointwise::SQRT,
        OperatorId::Sigmoid => &pointwise::SIGMOID,
        OperatorId::Silu => &pointwise::SILU,
        OperatorId::Relu => &pointwise::RELU,
        OperatorId::Gelu => &pointwise::GELU,
        OperatorId::Softplus => &pointwise::SOFTPLUS,
        OperatorId::Adds => &pointwise::ADDS,
        OperatorId::Sub => &pointwise::SUB,
        OperatorId::Div => &pointwise::DIV,
        OperatorId::Maximum => &pointwise::MAXIMUM,
        OperatorId::Minimum => &pointwise::MINIMUM,
        OperatorId::Clamp => &pointwise::CLAMP,
        OperatorId::ClampMin => &pointwise::CLAMP_MIN,
        OperatorId::EqScalar => &pointwise::EQ_SCALAR,
        OperatorId::LtScalar => &pointwise::LT_SCALAR,
        OperatorId::GeScalar => &pointwise::GE_SCALAR,
        OperatorId::SWhere => &pointwise::S_WHERE,
        OperatorId::InplaceMaskedFillScalar => &pointwise::INPLACE_MASKED_FILL_SCALAR,
        OperatorId::InplaceZero => &pointwise::INPLACE_ZERO,
        OperatorId::InplaceCopy => &pointwise::INPLACE_COPY,
        OperatorId::Arange => &pointwise::ARANGE,
        OperatorId::Softmax => &lanes::SOFTMAX,
        OperatorId::Topk => &lanes::TOPK,
        OperatorId::Sort => &lanes::SORT,
        OperatorId::Argsort => &lanes::ARGSORT,
        OperatorId::Cumsum => &lanes::CUMSUM,
        OperatorId::ReduceSum => &lanes::REDUCE_SUM,
        OperatorId::Amax => &lanes::AMAX,
        OperatorId::RmsNorm => &lanes::RMS_NORM,
        OperatorId::AddRmsNorm => &lanes::ADD_RMS_NORM,
        OperatorId::Gather => &index::GATHER,
        OperatorId::Scatter => &index::SCATTER,
        OperatorId::IndexSelect => &index::INDEX_SELECT,
        OperatorId::GatherV2 => &index::GATHER_V2,
        OperatorId::Embedding => &index::EMBEDDING,
        OperatorId::Cat => &index::CAT,
        OperatorId::Permute => &index::PERMUTE,
        OperatorId::BatchMatMul => &matmul::BATCH_MAT_MUL,
        OperatorId::Addmm => &matmul::ADDMM,
        OperatorId::TransMatmulWeight => &matmul::TRANS_MATMUL_WEIGHT,
        OperatorId::ClippedSwiglu => &activation::CLIPPED_SWIGLU,
        OperatorId::DynamicQuant => &dynamic_quant::DYNAMIC_QUANT,
        OperatorId::DynamicQuantV2 => &dynamic_quant::DYNAMIC_QUANT_V2,
        OperatorId::DynamicQuantV4 => &dynamic_quant::DYNAMIC_QUANT_V4,
        OperatorId::DequantSwigluQuant => &dequant_swiglu::DEQUANT_SWIGLU_QUANT,
        OperatorId::DequantSwigluQuantV2 => &dequant_swiglu::DEQUANT_SWIGLU_QUANT_V2,
        OperatorId::SwiGluQuant => &swi_glu_quant::SWI_GLU_QUANT,
        OperatorId::SwiGluQuantV2 => &swi_glu_quant::SWI_GLU_QUANT_V2,
        OperatorId::AscendQuant => &ascend_quant::ASCEND_QUANT,
        OperatorId::AscendQuantV3 => &ascend_quant::ASCEND_QUANT_V3,
        OperatorId::MoeGatingTopKSoftmax => &softmax_gating::MOE_GATING_TOP_K_SOFTMAX,
        OperatorId::MoeGatingTopKSoftmaxV2 => &softmax_gating::MOE_GATING_TOP_K_SOFTMAX_V2,
        OperatorId::MoeTokenPermute => &permute::MOE_TOKEN_PERMUTE,
        OperatorId::MoeComputeExpertTokens => &expert_table::MOE_COMPUTE_EXPERT_TOKENS,
        OperatorId::MoeFinalizeRoutingV3 => &finalize_v3::MOE_FINALIZE_ROUTING_V3,
        OperatorId::MoeInitRouting => &expand::MOE_INIT_ROUTING,
        OperatorId::MoeInitRoutingV2 => &expand::MOE_INIT_ROUTING_V2,
        OperatorId::MoeInitRoutingQuantV2 => &expand::MOE_INIT_ROUTING_QUANT_V2,
        OperatorId::MoeFinalizeRouting => &finalize_v1::MOE_FINALIZE_ROUTING,
        OperatorId::MoeFusedTopk => &fused_topk::MOE_FUSED_TOPK,
        OperatorId::MoeGatingTopKV2 => &gating_v2::MOE_GATING_TOP_K_V2,
        OperatorId::MoeTokenPermuteWithEp => &permute::MOE_TOKEN_PERMUTE_WITH_EP,
        OperatorId::MoeTokenUnpermuteWithEp => &combine::MOE_TOKEN_UNPERMUTE_WITH_EP,
        OperatorId::MoeTokenPermuteWithRoutingMap => &routing_map::MOE_TOKEN_PERMUTE_WITH_ROUTING_MAP,
        OperatorId::MoeTokenUnpermuteWithRoutingMap => &routing_map::MOE_TOKEN_UNPERMUTE_WITH_ROUTING_MAP,
        OperatorId::MoeReRouting => &re_routing::MOE_RE_ROUTING,
        OperatorId::MoeUpdateExpert => &update_expert::MOE_UPDATE_EXPERT,
        OperatorId::GroupedMatmul => &grouped_matmul::GROUPED_MATMUL,
        OperatorId::GroupedMatmulV2 => &grouped_matmul::GROUPED_MATMUL_V2,
        OperatorId::GroupedMatmulV3 => &grouped_matmul::GROUPED_MATMUL_V3,
        OperatorId::GroupedMatmulWeightNz => &grouped_matmul::GROUPED_MATMUL_WEIGHT_NZ,
        OperatorId::GroupedMatmulAdd => &grouped_matmul_add::GROUPED_MATMUL_ADD,
        OperatorId::QuantMatmulV5 => &quant_matmul::QUANT_MATMUL_V5,
        OperatorId::QuantMatmulWeightNz => &quant_matmul::QUANT_MATMUL_WEIGHT_NZ,
        OperatorId::QuantMatmulV4 => &quant_matmul::QUANT_MATMUL_V4,
        OperatorId::TransQuantParamV2 => &quant_weight::TRANS_QUANT_PARAM_V2,
        OperatorId::ConvertWeightToINT4Pack => &quant_weight::CONVERT_WEIGHT_TO_INT4_PACK,
        OperatorId::WeightQuantBatchMatmulV2 => &weight_quant::WEIGHT_QUANT_BATCH_MATMUL_V2,
        OperatorId::WeightQuantBatchMatmulV3 => &weight_quant::WEIGHT_QUANT_BATCH_MATMUL_V3,
        OperatorId::WeightQuantBatchMatmulNz => &weight_quant::WEIGHT_QUANT_BATCH_MATMUL_NZ,
        OperatorId::GroupedMatmulSwigluQuant => &swiglu_quant::GROUPED_MATMUL_SWIGLU_QUANT,
        OperatorId::GroupedMatmulSwigluQuantWeightNZ => &swiglu_quant::GROUPED_MATMUL_SWIGLU_QUANT_WEIGHT_NZ,
        OperatorId::GroupedMatmulSwigluQuantV2 => &swiglu_quant::GROUPED_MATMUL_SWIGLU_QUANT_V2,
        OperatorId::GroupedMatmulSwigluQuantWeightNzV2 => &swiglu_quant::GROUPED_MATMUL_SWIGLU_QUANT_WEIGHT_NZ_V2,
        OperatorId::GroupedMatmulFinalizeRouting => &grouped_finalize::GROUPED_MATMUL_FINALIZE_ROUTING,
        OperatorId::GroupedMatmulFinalizeRoutingV2 => &grouped_finalize::GROUPED_MATMUL_FINALIZE_ROUTING_V2,
        OperatorId::GroupedMatmulFinalizeRoutingV3 => &grouped_finalize::GROUPED_MATMUL_FINALIZE_ROUTING_V3,
        OperatorId::GroupedMatmulFinalizeRoutingWeightNz => {
            &grouped_finalize::GROUPED_MATMUL_FINALIZE_ROUTING_WEIGHT_NZ
        }
        OperatorId::GroupedMatmulFinalizeRoutingWeightNzV2 => {
            &grouped_finalize::GROUPED_MATMUL_FINALIZE_ROUTING_WEIGHT_NZ_V2
        }
    }
}
