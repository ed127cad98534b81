//! Host kernels of a mixture-of-experts layer: routing, grouped expert GEMM, activation, weight packing, permute and combine.
//!
//! Plain functions over slices and checked views; they know no device. Each follows what CANN's operator of that name computes,
//! with the source of the fact beside it, and says where it does not know. All run in parallel on the current rayon pool and give
//! the same bits for any number of threads on one kind of CPU; [`mod@reference`] holds the same operators as scalar loops, equal bit
//! for bit (of a NaN only that it is one is defined) but for the float GEMMs and the activations, which state their distance from
//! it. [`isa::Isa`] names the instructions that are used.

pub mod activation;
pub mod antiquant;
pub mod antiquant_gemm;
pub mod combine;
pub mod dequant_swiglu;
mod driver;
pub mod element;
pub mod elementwise;
mod error;
mod exp;
pub mod expert_balance;
pub mod expert_table;
pub mod formats;
pub mod fused_topk;
mod gated;
pub mod gating;
pub mod gemm;
pub mod group_list;
pub mod grouped_gemm;
pub mod index;
pub mod init_routing;
pub mod int4;
pub mod int_gemm;
pub mod isa;
pub mod lanes;
pub mod nz;
mod pack;
pub mod permute;
pub mod pointwise;
pub mod quant_gemm;
pub mod quant_matmul;
pub mod quant_param;
pub mod quantise;
pub mod reference;
pub mod routing_map;
mod rows;
pub mod scatter_rows;
mod select;
mod simd;
pub mod softmax_gating;
mod stream;
pub mod swiglu_quant;
mod trial;
mod vectors;
pub mod view;
pub mod weight_quant;

pub use error::KernelError;
