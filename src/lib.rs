//! ascend-moe.
