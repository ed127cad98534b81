//! Number formats that weights are stored in, and the way from one to another.
//!
//! Expansion to f32 is exact wherever the product of code and scale is a number of f32, which it always is for scales that are
//! powers of two within its range; elsewhere it is that product, rounded once to the nearest even.
//! [`requantise`] makes int8 and int4 of a row of values and measures what that costs.

pub mod float8;
pub mod nibbles;
pub mod requantise;
