//! ascend-moe.

pub mod checkpoint;
pub mod spec;
