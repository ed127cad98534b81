//! Operators as safe functions over views.
//!
//! Each takes a [`Sequence`](crate::Sequence): on one of a stream the call is queued and returns (but for
//! [`convert_weight_to_int4_pack`], which is for loading and waits); on a plan it is only checked and its workspace counted.
//! Before any vendor call the arguments are held against the operator's row, so that what a caller could have foreseen is an
//! [`Error::Rule`](crate::Error::Rule) that names the rule and what is legal.
//!
//! None allocates host memory of its own on the calling thread. Arguments are documented as name, dtype and `[axes]`; all
//! tensors are on the device. Where an output is empty nothing is called, as CANN's operators refuse empty tensors or
//! misbehave on them.
//!
//! None of these was run on hardware yet.

mod combine;
mod dequant_swiglu;
mod elementwise;
mod expand;
mod finalize_v1;
mod finalize_v3;
mod format;
mod fused_topk;
mod grouped;
mod grouped_finalize;
mod grouped_quant;
mod grouped_swiglu;
mod index;
mod lanes;
mod launch;
mod matmul;
mod permute;
mod pointwise;
mod quant_matmul;
mod quant_weight;
mod quantise;
mod routing;
mod routing_map;
mod softmax_gating;
mod update_expert;
mod weight_quant;

pub use combine::{
    DropPadMode, FinalizeRouting, moe_finalize_routing_v2, moe_token_unpermute, moe_token_unpermute_with_ep,
};
pub use dequant_swiglu::{DequantSwigluQuant, GatedRows, GatedUnit, Requantise, dequant_swiglu_quant};
pub use elementwise::{ClippedSwiglu, add, cast, clipped_swiglu, mul, muls, swiglu};
pub use expand::{
    InitRoutingV2, QuantisedOutputs, QuantisedRows, RoutedCounts, moe_init_routing, moe_init_routing_quant_v2,
    moe_init_routing_v2,
};
pub use finalize_v1::{FinalizeRoutingV1, moe_finalize_routing};
pub use finalize_v3::moe_finalize_routing_v3;
pub use format::npu_format_cast;
pub use fused_topk::{ExpertReplicas, FusedTopK, moe_fused_topk};
pub use grouped::{GroupListKind, GroupedMatmul, Groups, grouped_matmul, grouped_matmul_add};
pub use grouped_finalize::{GroupedFinalizeRouting, SharedInput, grouped_matmul_finalize_routing};
pub use grouped_quant::{GroupedActivation, Quant, grouped_matmul_quant};
pub use grouped_swiglu::{GroupedSwigluQuant, grouped_matmul_swiglu_quant};
pub use index::{ScatterReduce, cat, embedding, gather, gather_v2, index_select, permute, scatter};
pub use lanes::{AddRmsNormOutputs, add_rms_norm, amax, argsort, cumsum, reduce_sum, rms_norm, softmax, sort, top_k};
pub use launch::check;
pub use matmul::{AddmmFactors, CubeMath, addmm, batch_matmul, matmul, matmul_weight_size, mm, trans_matmul_weight};
pub use permute::{
    PermuteOutputs, ReRoutingOutputs, moe_compute_expert_tokens, moe_re_routing, moe_token_permute,
    moe_token_permute_with_ep,
};
pub use pointwise::{
    abs, adds, arange, clamp, clamp_min, copy, div, eq_scalar, exp, ge_scalar, gelu, lt_scalar, masked_fill, maximum,
    minimum, neg, relu, select, sigmoid, silu, softplus, sqrt, sub, zero_fill,
};
pub use quant_matmul::{QuantMatmul, quant_matmul};
pub use quant_weight::{convert_weight_to_int4_pack, trans_quant_param};
pub use quantise::{
    ActivationGroups, ActivationScales, AscendQuant, RoundMode, ScaledDim, SmoothScales, SwigluQuant, ascend_quant,
    dynamic_quant, swiglu_quant,
};
pub use routing::{
    ExpandedRows, ExpertChoice, GatingTopK, GroupScore, InitRouting, InitRoutingOutputs, Normalisation, RowIndex,
    TokenCounts, moe_gating_top_k, moe_gating_top_k_v2, moe_init_routing_v3,
};
pub use routing_map::{
    RoutingMapRows, UnpermuteOutputs, UnpermuteWithRoutingMap, moe_token_permute_with_routing_map,
    moe_token_unpermute_with_routing_map,
};
pub use softmax_gating::{SoftmaxOver, moe_gating_top_k_softmax, moe_gating_top_k_softmax_v2};
pub use update_expert::{Balance, Pruning, moe_update_expert};
pub use weight_quant::{InnerPrecision, OutputQuant, WeightQuantMatmul, weight_quant_matmul};
