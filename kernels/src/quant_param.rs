//! Scales as the cube unit's output stage takes them: a number of 64 bits with an f32 in its low half, and above it an offset of 9
//! bits.
//!
//! Source: ops-nn 9.1.0, quant/trans_quant_param_v2 (docs, op_kernel); ops-transformer 9.1.0, gmm/grouped_matmul (a scale is the bits
//! of an f32, the high half 0).

use rayon::prelude::*;

use crate::error::{self, KernelError};

/// Bits of an f32 that the output stage keeps: sign, exponent and 10 bits of the fraction.
const KEPT: u32 = 0xffff_e000;
/// Set in every number that [`encode`] makes.
const MARK: u64 = 1 << 46;
/// First bit of the offset.
const OFFSET_BIT: u32 = 37;
/// Bits of the offset.
const OFFSET_BITS: u32 = 9;

/// A scale cut to what the output stage keeps, and an offset rounded to a whole number (ties to even) in -256..=255.
pub fn encode(scale: f32, offset: Option<f32>) -> u64 {
    let offset = offset.map_or(0, |offset| offset.round_ties_even().clamp(-256.0, 255.0) as i64);
    u64::from(scale.to_bits() & KEPT) | MARK | (offset as u64 & 0x1ff) << OFFSET_BIT
}

/// Encodes scales with their offsets, in parallel.
///
/// - `scale` and `offset` host `f32 [n]` or `[1]`, `out` host `u64 [n]`.
///
/// # Errors
/// [`KernelError::Length`] when the lengths do not fit, [`KernelError::NotFinite`] for a scale or offset that is NaN or infinite.
pub fn encode_all(scale: &[f32], offset: Option<&[f32]>, out: &mut [u64]) -> Result<(), KernelError> {
    for (what, values) in [("scale", Some(scale)), ("offset", offset)] {
        let Some(values) = values else { continue };
        one_or_each(what, out.len(), values.len())?;
        if let Some(position) = values.par_iter().position_first(|value| !value.is_finite()) {
            return Err(KernelError::NotFinite { what, position });
        }
    }
    out.par_iter_mut().enumerate().for_each(|(at, out)| {
        *out = encode(of_each(scale, at), offset.map(|offset| of_each(offset, at)));
    });
    Ok(())
}

/// The scale: the f32 in the low half, all its bits.
pub fn scale(param: u64) -> f32 {
    f32::from_bits(param as u32)
}

/// The offset: a whole number in -256..=255, 0 where none was encoded.
pub fn offset(param: u64) -> f32 {
    let top = 64 - OFFSET_BIT - OFFSET_BITS;
    ((param << top) as i64 >> (64 - OFFSET_BITS)) as f32
}

/// `Err(Length)` unless there is one value for all, or one for each of `count`.
pub(crate) fn one_or_each(what: &'static str, count: usize, actual: usize) -> Result<(), KernelError> {
    if actual == 1 { Ok(()) } else { error::length(what, count, actual) }
}

/// The value of place `at` among values for each, or the one for all.
pub(crate) fn of_each<T: Copy>(values: &[T], at: usize) -> T {
    if values.len() == 1 { values[0] } else { values[at] }
}
