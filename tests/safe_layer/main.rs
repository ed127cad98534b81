//! The safe layer on the strict simulator in process: what it does, what it refuses, and what it survives.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets the unexpected ends, and says so"
)]

mod ascend_quant;
mod calls;
mod choosing;
mod clipped_swiglu;
mod dequant_swiglu;
mod device;
mod engine;
mod expand;
mod expand_quant;
mod expert_parallel;
mod finalize_v1;
mod finalize_v3;
mod fused_topk;
mod gating_v2;
mod graph;
mod graph_update;
mod grouped;
mod grouped_fused;
mod grouped_quant;
#[allow(dead_code, reason = "shared with the conformance suite")]
#[path = "../conformance/kinds.rs"]
mod kinds;
mod matmul_weight;
mod memory;
mod operators;
mod permute;
mod quant_matmul;
mod quant_weight;
mod quantise;
mod quantised;
mod rig;
mod routing_map;
mod rules;
mod sequence;
mod softmax_gating;
mod swiglu_quant;
#[path = "../conformance/synthetic.rs"]
mod synthetic;
mod weight_quant;
mod worked;
