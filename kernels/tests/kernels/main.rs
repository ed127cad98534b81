//! The kernels against the scalar reference, formulas and worked examples. One program, so that what is generic is compiled once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper that fails is a failed test")]

mod common;

mod antiquant;
mod antiquant_gemm;
mod dequant_swiglu;
mod elementwise;
mod examples;
mod expert_parallel;
mod formats;
mod fused_topk;
mod gemm;
mod int_gemm;
mod k_groups;
mod laws;
mod permute;
mod quant_gemm;
mod quant_matmul;
mod quantise;
mod refusals;
mod routing_map;
mod scatter_rows;
mod softmax_gating;
mod weight_quant;
