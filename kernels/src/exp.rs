//! The exponential function in f32, from additions and multiplications alone: the same bits in a scalar loop and in vectors of any
//! width.

use std::f32::consts::LOG2_E;

/// ln 2 in two parts. The first has 9 significant bits: a whole number below 2^15 times it is exact.
const LN_2: [f32; 2] = [355.0 / 512.0, -2.121_944_4e-4];
/// 1.5 * 2^23. A small number plus this is rounded to a whole number, which the low bits hold.
const ROUNDER: f32 = 12_582_912.0;
/// `(e^r - 1 - r) / r^2` for |r| up to ln(2) / 2, the highest power first (Chebyshev, absolute error 2e-9).
const SERIES: [f32; 6] = [1.989_198e-4, 1.393_454_2e-3, 8.333_31e-3, 4.166_645_6e-2, 1.666_666_7e-1, 0.5];

/// e^x within 1 ulp; infinite where it is beyond f32, rounded once more among denormals, NaN for NaN.
///
/// Without a branch and without fused operations, so that a loop over it becomes vector code of the same bits.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Beyond these e^x is infinite and 0. NaN stays.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let rounded = x * LOG2_E + ROUNDER;
    let whole = rounded - ROUNDER;
    let r = x - whole * LN_2[0] - whole * LN_2[1];
    let [first, rest @ ..] = SERIES;
    let series = rest.into_iter().fold(first, |sum, coefficient| sum * r + coefficient);
    let mantissa = series * (r * r) + r + 1.0;
    // In two steps, since 2^whole itself may be beyond f32.
    let power = (rounded.to_bits() as i32).wrapping_sub(ROUNDER.to_bits() as i32);
    let half = power >> 1;
    mantissa * power_of_two(half) * power_of_two(power.wrapping_sub(half))
}

/// 2^n for n in -126..=127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n.wrapping_add(127)) << 23) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_within_one_ulp() {
        // Every 1009th number of either sign.
        for bits in (0..f32::INFINITY.to_bits()).step_by(1009) {
            for x in [f32::from_bits(bits), -f32::from_bits(bits)] {
                let (actual, exact) = (exp(x), f64::from(x).exp());
                let expected = exact as f32;
                if !expected.is_finite() || expected == 0.0 {
                    assert_eq!(actual, expected, "{x:e}");
                    continue;
                }
                let ulp = f64::from(expected.next_up()) - f64::from(expected);
                let error = (f64::from(actual) - exact).abs() / ulp;
                assert!(error <= 1.0, "{x:e}: {actual:e}, {error} ulp");
            }
        }
    }

    #[test]
    fn takes_what_is_not_finite() {
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan() && exp(-f32::NAN).is_nan());
        assert_eq!([exp(0.0), exp(-0.0)], [1.0, 1.0]);
    }
}
