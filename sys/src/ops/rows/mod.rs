//! The rows, by what the operators do.

mod activation;
mod check;
mod combine;
mod elementwise;
mod expert_table;
mod finalize_v3;
mod format;
mod gating;
mod grouped_matmul;
mod matmul;
mod permute;
mod routing;
mod softmax_gating;

pub use format::format_cast_storage;

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
        OperatorId::MoeGatingTopKSoftmax => &softmax_gating::MOE_GATING_TOP_K_SOFTMAX,
        OperatorId::MoeGatingTopKSoftmaxV2 => &softmax_gating::MOE_GATING_TOP_K_SOFTMAX_V2,
        OperatorId::MoeTokenPermute => &permute::MOE_TOKEN_PERMUTE,
        OperatorId::MoeComputeExpertTokens => &expert_table::MOE_COMPUTE_EXPERT_TOKENS,
        OperatorId::MoeFinalizeRoutingV3 => &finalize_v3::MOE_FINALIZE_ROUTING_V3,
    }
}
