//! Operators as safe functions over views.
//!
//! Each takes a [`Sequence`](crate::Sequence): on one of a stream the call is queued and returns; on a plan it is only
//! checked and its workspace counted. Before any vendor call the arguments are held against the operator's row, so that
//! what a caller could have foreseen is an [`Error::Rule`](crate::Error::Rule) that names the rule and what is legal.
//!
//! None allocates host memory of its own on the calling thread. Arguments are documented as name, dtype and `[axes]`; all
//! tensors are on the device. Where an output is empty nothing is called, as CANN's operators refuse empty tensors or
//! misbehave on them.
//!
//! None of these was run on hardware yet.

mod combine;
mod elementwise;
mod finalize_v3;
mod format;
mod grouped;
mod index;
mod lanes;
mod launch;
mod matmul;
mod permute;
mod pointwise;
mod routing;
mod softmax_gating;

pub use combine::{DropPadMode, FinalizeRouting, moe_finalize_routing_v2, moe_token_unpermute};
pub use elementwise::{ClippedSwiglu, add, cast, clipped_swiglu, mul, muls, swiglu};
pub use finalize_v3::moe_finalize_routing_v3;
pub use format::npu_format_cast;
pub use grouped::{GroupListKind, GroupedMatmul, Groups, grouped_matmul, grouped_matmul_add};
pub use index::{ScatterReduce, cat, embedding, gather, gather_v2, index_select, permute, scatter};
pub use lanes::{AddRmsNormOutputs, add_rms_norm, amax, argsort, cumsum, reduce_sum, rms_norm, softmax, sort, top_k};
pub use matmul::{AddmmFactors, CubeMath, addmm, batch_matmul, matmul, matmul_weight_size, mm, trans_matmul_weight};
pub use permute::{moe_compute_expert_tokens, moe_token_permute};
pub use pointwise::{
    abs, adds, arange, clamp, clamp_min, copy, div, eq_scalar, exp, ge_scalar, gelu, lt_scalar, masked_fill, maximum,
    minimum, neg, relu, select, sigmoid, silu, softplus, sqrt, sub, zero_fill,
};
pub use routing::{
    GatingTopK, GroupScore, InitRouting, InitRoutingOutputs, Normalisation, RowIndex, TokenCounts, moe_gating_top_k,
    moe_init_routing_v3,
};
pub use softmax_gating::{SoftmaxOver, moe_gating_top_k_softmax, moe_gating_top_k_softmax_v2};
