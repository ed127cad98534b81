//! int8 and int4 of values that share a scale, symmetric, and what that costs.
//!
//! The scale is the largest magnitude over the largest code, so that nothing saturates, and no less than the smallest normal number
//! of f32, so that values near 0 and rows of zeros are no special case. Codes are quotients by it, rounded to the nearest even.

use super::nibbles::{E2M1_DOUBLED, MXFP4_BLOCK};
use crate::vectors::{Vectors, vectorised};

/// The largest int8 code of a symmetric scale.
pub const INT8_LIMIT: i8 = 127;

/// The largest int4 code of a symmetric scale.
pub const INT4_LIMIT: i8 = 7;

/// How far codes are from the values they stand for.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct QuantError {
    squares_of_errors: f64,
    squares: f64,
    largest_error: f64,
    largest: f64,
}

impl QuantError {
    /// Root mean square of the differences over that of the values; 0 where codes are exact.
    pub fn rms(&self) -> f64 {
        ratio(self.squares_of_errors, self.squares).sqrt()
    }

    /// Largest difference over the largest value; 0 where codes are exact.
    pub fn max(&self) -> f64 {
        ratio(self.largest_error, self.largest)
    }

    /// Whether codes are exact.
    pub fn is_exact(&self) -> bool {
        self.largest_error == 0.0
    }

    /// Of these values and `others` together.
    pub fn and(self, others: Self) -> Self {
        Self {
            squares_of_errors: self.squares_of_errors + others.squares_of_errors,
            squares: self.squares + others.squares,
            largest_error: self.largest_error.max(others.largest_error),
            largest: self.largest.max(others.largest),
        }
    }

    /// Of values and what they became, over the shorter of the two.
    pub fn between(values: &[f32], became: &[f32]) -> Self {
        let mut error = Self::default();
        between(Vectors::widest(), values, became, &mut error);
        error
    }
}

vectorised! {
    fn between(values: &[f32], became: &[f32], error: &mut QuantError) = between_plain;
}

#[inline(always)]
fn between_plain(values: &[f32], became: &[f32], error: &mut QuantError) {
    const LANES: usize = 8;
    let mut sums = [[0.0_f64; LANES]; 4];
    let mut add = |values: &[f32; LANES], became: &[f32; LANES]| {
        for lane in 0..LANES {
            let (value, error) = (f64::from(values[lane]), f64::from(values[lane]) - f64::from(became[lane]));
            sums[0][lane] += error * error;
            sums[1][lane] += value * value;
            // A NaN counts for nothing, as with `max`.
            for (most, next) in [(2, error.abs()), (3, value.abs())] {
                sums[most][lane] = if next > sums[most][lane] { next } else { sums[most][lane] };
            }
        }
    };
    let both = values.len().min(became.len());
    let ((values, last), (became, last_became)) = (values[..both].as_chunks(), became[..both].as_chunks());
    values.iter().zip(became).for_each(|(values, became)| add(values, became));
    let filled = |rest: &[f32]| std::array::from_fn(|lane| rest.get(lane).copied().unwrap_or_default());
    add(&filled(last), &filled(last_became));
    let [squares_of_errors, squares] = [0, 1].map(|sum| sums[sum].iter().sum());
    let [largest_error, largest] = [2, 3].map(|most| sums[most].iter().fold(0.0, |most: f64, lane| most.max(*lane)));
    *error = QuantError { squares_of_errors, squares, largest_error, largest };
}

fn ratio(part: f64, whole: f64) -> f64 {
    if part == 0.0 { 0.0 } else { part / whole }
}

/// The largest magnitude, or `None` where a value is infinite or NaN.
pub fn largest_magnitude(values: &[f32]) -> Option<f32> {
    let mut bits = 0;
    largest(Vectors::widest(), values, &mut bits);
    Some(f32::from_bits(bits)).filter(|most| most.is_finite())
}

vectorised! {
    fn largest(values: &[f32], bits: &mut u32) = largest_plain;
}

/// Magnitudes compare as their bits do; those of infinities and NaN are above all others.
#[inline(always)]
fn largest_plain(values: &[f32], bits: &mut u32) {
    *bits = values.iter().fold(0, |most: u32, value| most.max(value.to_bits() & (u32::MAX >> 1)));
}

/// The scale of values of which this is the largest magnitude.
pub fn symmetric_scale(largest: f32, limit: i8) -> f32 {
    (largest / f32::from(limit)).max(f32::MIN_POSITIVE)
}

/// Codes of `values` from `-limit` to `limit`, which share a scale: the scale, and the error. `None` where a value is infinite or
/// NaN.
///
/// - `values` host f32, `codes` host int8, of the same length.
pub fn symmetric(values: &[f32], limit: i8, codes: &mut [i8]) -> Option<(f32, QuantError)> {
    let largest = largest_magnitude(values)?;
    let scale = symmetric_scale(largest, limit);
    let mut error = QuantError { largest: f64::from(largest), ..QuantError::default() };
    quantise(Vectors::widest(), values, scale, codes, &mut error);
    Some((scale, error))
}

vectorised! {
    fn quantise(values: &[f32], scale: f32, codes: &mut [i8], error: &mut QuantError) = quantise_plain;
}

/// Sums of squares in progress, in steps of a code.
#[derive(Clone, Copy)]
struct Sums<const LANES: usize> {
    errors: [f32; LANES],
    values: [f32; LANES],
    largest_error: [f32; LANES],
}

impl<const LANES: usize> Sums<LANES> {
    const ZERO: Self = Self { errors: [0.0; LANES], values: [0.0; LANES], largest_error: [0.0; LANES] };

    #[inline(always)]
    fn add(&mut self, values: &[f32; LANES], scale: f32, codes: &mut [i8; LANES]) {
        /// 1.5 * 2^23: a small number added to it is rounded to a whole one, which is then in the low bits.
        const WHOLE: f32 = 12_582_912.0;
        for lane in 0..LANES {
            let quotient = values[lane] / scale;
            let moved = quotient + WHOLE;
            let error = quotient - (moved - WHOLE);
            codes[lane] = moved.to_bits() as u8 as i8;
            self.errors[lane] += error * error;
            self.values[lane] += quotient * quotient;
            self.largest_error[lane] = self.largest_error[lane].max(error.abs());
        }
    }

    #[inline(always)]
    fn whole(&self, scale: f32) -> QuantError {
        let scale = f64::from(scale);
        let sum = |lanes: &[f32; LANES]| lanes.iter().fold(0.0, |sum, lane| sum + f64::from(*lane));
        let most = |lanes: &[f32; LANES]| f64::from(lanes.iter().fold(0.0, |most: f32, lane| most.max(*lane)));
        QuantError {
            squares_of_errors: sum(&self.errors) * scale * scale,
            squares: sum(&self.values) * scale * scale,
            largest_error: most(&self.largest_error) * scale,
            largest: 0.0,
        }
    }
}

/// Codes of values at a scale that [`symmetric_scale`] gave for them; adds to their error, but for the largest value.
#[inline(always)]
fn quantise_plain(values: &[f32], scale: f32, codes: &mut [i8], error: &mut QuantError) {
    const LANES: usize = 16;
    /// Values that are summed up in f32.
    const BLOCK: usize = 4096;
    for (values, codes) in values.chunks(BLOCK).zip(codes.chunks_mut(BLOCK)) {
        let mut sums = Sums::<LANES>::ZERO;
        let (whole, rest) = values.as_chunks();
        let (whole_codes, rest_codes) = codes.as_chunks_mut();
        whole.iter().zip(whole_codes).for_each(|(values, codes)| sums.add(values, scale, codes));
        if !rest.is_empty() {
            let (mut last, mut last_codes) = ([0.0; LANES], [0; LANES]);
            last[..rest.len()].copy_from_slice(rest);
            sums.add(&last, scale, &mut last_codes);
            rest_codes.iter_mut().zip(last_codes).for_each(|(code, last)| *code = last);
        }
        *error = error.and(sums.whole(scale));
    }
}

/// int8 codes of a row of MXFP4 that stand for exactly its values, and their scale, a power of two; `None` where there are none, or
/// a value is too large for f32. There are whenever the exponents of its blocks span no more than 3.
///
/// - `packed` host E2M1 codes `[K / 2]`, two to a byte; `exponents` host E8M0 `[K / 32]`, none of them NaN; `codes` host int8 `[K]`.
pub fn mxfp4_to_int8(packed: &[u8], exponents: &[u8], codes: &mut [i8]) -> Option<f32> {
    // In halves of a block's scale a value is a small whole number, and a row needs one unit that divides all of them.
    let halves = |byte: &u8| [E2M1_DOUBLED[usize::from(byte & 15)], E2M1_DOUBLED[usize::from(byte >> 4)]];
    let blocks = || packed.chunks(MXFP4_BLOCK / 2).zip(exponents);
    let bits = |block: &[u8]| block.iter().flat_map(halves).fold(0, |bits, half| bits | half.unsigned_abs());
    let unit = blocks()
        .map(|(block, exponent)| (bits(block), exponent))
        .filter(|(bits, _)| *bits != 0)
        .map(|(bits, exponent)| u32::from(*exponent) + bits.trailing_zeros())
        .min()
        .unwrap_or(u32::from(super::float8::E8M0_NAN) / 2);
    for ((block, exponent), codes) in blocks().zip(codes.chunks_mut(MXFP4_BLOCK)) {
        let shift = i64::from(*exponent) - i64::from(unit);
        for (half, code) in block.iter().flat_map(halves).zip(codes) {
            *code = match shift {
                ..0 => half >> shift.unsigned_abs().min(7),
                0..7 => i8::try_from(i32::from(half) << shift).ok()?,
                _ if half == 0 => 0,
                _ => return None,
            };
        }
    }
    power_of_two(i64::from(unit) - 128)
}

/// `2^exponent`, `None` where f32 has no such number.
fn power_of_two(exponent: i64) -> Option<f32> {
    match exponent {
        -149..-126 => Some(f32::from_bits(1 << (exponent + 149))),
        -126..=127 => Some(f32::from_bits(((exponent + 127) as u32) << 23)),
        _ => None,
    }
}
