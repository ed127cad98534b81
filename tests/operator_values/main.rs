//! Operators of the safe layer on the strict simulator, held against plain formulas over random shapes, layouts, dtypes
//! and values: dimensions of 0 and 1, transposed, sliced and repeated views, ties, numbers at the ends of their range,
//! NaN and infinity.
//!
//! Every case has a seed of its own, named where it fails. What is computed in f32 must come out as the rounding of
//! some value within a stated distance of the exact one; what is only moved, compared or rounded once must come out
//! exactly.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets the unexpected ends, and says so"
)]

mod bench;
mod dequant_swiglu;
mod gate;
mod index;
mod lanes;
mod maps;
mod number;
mod pairs;
mod products;
mod quantise;
mod quantised;
mod random;
mod routing;
