//! The 8-bit floats: E4M3 of weights (the kind with NaN and without infinities, `float8_e4m3fn`) and E8M0 of scales.
//!
//! Source: OCP 8-bit Floating Point Specification 1.0; OCP Microscaling Formats 1.0, section 5.4.1.

use crate::vectors::{Vectors, vectorised};

/// The greatest finite value of E4M3.
pub const E4M3_MAX: f32 = 448.0;

/// Half way from the greatest value to what the next one would be; it still rounds down, to even.
const E4M3_ROUNDS_DOWN: f32 = 464.0;

/// Value of every E4M3 code: 4 bits of exponent with bias 7, 3 of mantissa; 0x7f and 0xff are NaN, there is no infinity.
pub static E4M3: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = e4m3(code as u8);
        code += 1;
    }
    table
};

const fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = ((code >> 3) & 15, code & 7);
    let magnitude = match (exponent, mantissa) {
        (15, 7) => f32::NAN,
        // Multiples of 2^-9.
        (0, _) => mantissa as f32 / 512.0,
        _ => f32::from_bits(((exponent as u32 + 120) << 23) | ((mantissa as u32) << 20)),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// What a value beyond the greatest one becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// The greatest one, infinities too.
    Saturate,
    /// NaN; what lies no farther than half a step beyond still rounds down.
    Nan,
}

/// The nearest E4M3 code, ties to even; NaN keeps its sign.
pub fn e4m3_from_f32(value: f32, overflow: Overflow) -> u8 {
    const NAN: u8 = 0x7f;
    let sign = ((value.to_bits() >> 24) & 0x80) as u8;
    let magnitude = match overflow {
        // A NaN stays one in this comparison.
        Overflow::Saturate if value.abs() > E4M3_MAX => E4M3_MAX,
        _ => value.abs(),
    };
    if magnitude.is_nan() || magnitude > E4M3_ROUNDS_DOWN {
        return sign | NAN;
    }
    if magnitude < 1.0 / 64.0 {
        // Below the normal numbers; 8 of these steps are the smallest of them, and its code.
        return sign | (magnitude * 512.0).round_ties_even() as u8;
    }
    let bits = magnitude.to_bits();
    let rounded = bits + 0x7_ffff + ((bits >> 20) & 1);
    sign | ((rounded >> 20) - (120 << 3)) as u8
}

/// `out[i]` is the value of `codes[i]` times `scale`, over the shorter of the two; whether all codes are numbers.
pub fn expand_e4m3(codes: &[u8], scale: f32, out: &mut [f32]) -> bool {
    let mut any_nan = false;
    expand(Vectors::widest(), codes, scale, out, &mut any_nan);
    if any_nan {
        let nan = out.iter_mut().zip(codes).filter(|(_, code)| is_nan_e4m3(**code));
        nan.for_each(|(out, code)| *out = E4M3[usize::from(*code)]);
    }
    !any_nan
}

vectorised! {
    fn expand(codes: &[u8], scale: f32, out: &mut [f32], any_nan: &mut bool) = expand_plain;
}

/// By arithmetic, since vectors have no table of 256 entries. What is not a number is reported, and has a value like the others.
#[inline(always)]
fn expand_plain(codes: &[u8], scale: f32, out: &mut [f32], any_nan: &mut bool) {
    /// Least of the normal numbers.
    const NORMAL: f32 = 1.0 / 64.0;
    for (out, code) in out.iter_mut().zip(codes) {
        let magnitude = f32::from_bits((u32::from(code & 0x7f) << 20) + (120 << 23));
        // Below the normal numbers no bit is implied, and the exponent is as theirs.
        let implied = magnitude + magnitude - NORMAL;
        let magnitude = if implied < magnitude { implied } else { magnitude };
        *out = f32::from_bits(magnitude.to_bits() | u32::from(code & 0x80) << 24) * scale;
        *any_nan |= is_nan_e4m3(*code);
    }
}

/// Whether a code is not a number.
pub const fn is_nan_e4m3(code: u8) -> bool {
    code & 0x7f == 0x7f
}

/// The E8M0 code that is not a number.
pub const E8M0_NAN: u8 = 255;

/// Value of an E8M0 code: `2^(code - 127)`; 255 is NaN.
pub const fn e8m0(code: u8) -> f32 {
    match code {
        E8M0_NAN => f32::NAN,
        // The one below the normal numbers of f32.
        0 => f32::from_bits(1 << 22),
        _ => f32::from_bits((code as u32) << 23),
    }
}
