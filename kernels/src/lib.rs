//! Host kernels of a mixture-of-experts layer: routing, grouped expert GEMM, activation, weight packing, permute and combine.
//!
//! Plain functions over slices and checked views; they know no device. Each follows what CANN's operator of that name computes,
//! with the source of the fact beside it, and says where it does not know. All run in parallel on the current rayon pool and give
//! the same bits for any number of threads; [`mod@reference`] holds the same operators as scalar loops, equal bit for bit (of a NaN
//! only that it is one is defined).

pub mod activation;
pub mod antiquant_gemm;
pub mod combine;
pub mod element;
pub mod elementwise;
mod error;
pub mod expert_balance;
pub mod expert_table;
pub mod fused_topk;
pub mod gating;
pub mod gemm;
pub mod group_list;
pub mod grouped_gemm;
pub mod index;
pub mod init_routing;
pub mod int_gemm;
pub mod lanes;
pub mod nz;
pub mod permute;
pub mod pointwise;
pub mod quant_gemm;
pub mod reference;
pub mod routing_map;
pub mod scatter_rows;
pub mod softmax_gating;
pub mod swiglu_quant;
pub mod view;

pub use error::KernelError;
