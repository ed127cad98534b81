//! Host kernels of a mixture-of-experts layer: routing, grouped expert GEMM, activation, weight packing, permute and combine.
//!
//! Plain functions over slices and checked views; they know no device. Each follows what CANN's operator of that name computes,
//! with the source of the fact beside it, and says where it does not know. All run in parallel on the current rayon pool and give
//! the same bits for any number of threads on one kind of CPU; [`mod@reference`] holds the same operators as scalar loops, equal bit
//! for bit (of a NaN only that it is one is defined) but for the float GEMMs and the activations, which state their distance from
//! it. [`isa::Isa`] names the instructions that are used.

pub mod activation;
pub mod antiquant;
pub mod combine;
mod driver;
pub mod element;
pub mod elementwise;
mod error;
mod exp;
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
pub mod isa;
pub mod lanes;
pub mod nz;
mod pack;
pub mod permute;
pub mod pointwise;
pub mod reference;
pub mod routing_map;
mod simd;
pub mod softmax_gating;
pub mod view;

pub use error::KernelError;
