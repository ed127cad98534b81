//! The safe layer on the strict simulator in process: what it does, what it refuses, and what it survives.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets the unexpected ends, and says so"
)]

mod calls;
mod choosing;
mod device;
mod finalize_v3;
mod graph;
mod grouped;
mod matmul_weight;
mod memory;
mod operators;
mod permute;
mod rig;
mod rules;
mod sequence;
mod softmax_gating;
