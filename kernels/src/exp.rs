//! The exponential function in f32, and what activations make of it, over slices: written without branches, so that compilers
//! turn it into the vector instructions that each entry enables.

use crate::activation::Clipped;
use crate::isa::Isa;

/// What is made of a gate and an up projection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Gate {
    /// `gate / (1 + exp(-gate)) * up`.
    Divide,
    /// `1 / (1 + exp(-gate)) * gate * up`.
    Multiply,
    /// With limits, as [`crate::activation::clipped_swiglu`].
    Clipped(Clipped),
}

/// `out[i]` of `gate[i]` and `up[i]`, over the shortest of the three; each element for itself, wherever it stands.
pub(crate) fn gated(isa: Isa, kind: Gate, gate: &[f32], up: &[f32], out: &mut [f32]) {
    match isa {
        // SAFETY: an `Isa` that is used is one that the CPU has.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { gated_avx2(kind, gate, up, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Dot => unsafe { gated_avx512(kind, gate, up, out) },
        // Multiplies and adds in one, as every aarch64 does.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDot | Isa::NeonBf16 => gated_by::<true>(kind, gate, up, out),
        _ => gated_by::<false>(kind, gate, up, out),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn gated_avx2(kind: Gate, gate: &[f32], up: &[f32], out: &mut [f32]) {
    gated_by::<true>(kind, gate, up, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx2,fma")]
fn gated_avx512(kind: Gate, gate: &[f32], up: &[f32], out: &mut [f32]) {
    gated_by::<true>(kind, gate, up, out);
}

#[inline(always)]
fn gated_by<const FUSED: bool>(kind: Gate, gate: &[f32], up: &[f32], out: &mut [f32]) {
    let values = out.iter_mut().zip(gate).zip(up);
    match kind {
        Gate::Divide => values.for_each(|((out, gate), up)| *out = gate / (1.0 + exp::<FUSED>(-gate)) * up),
        Gate::Multiply => values.for_each(|((out, gate), up)| *out = 1.0 / (1.0 + exp::<FUSED>(-gate)) * gate * up),
        Gate::Clipped(Clipped { alpha, limit, bias, .. }) => values.for_each(|((out, gate), up)| {
            let gate = if *gate > limit { limit } else { *gate };
            let up = if *up > limit { limit } else { *up };
            let up = if up < -limit { -limit } else { up };
            *out = gate / (1.0 + exp::<FUSED>(-alpha * gate)) * (up + bias);
        }),
    }
}

/// `e^x`, at most 1.1 units in the last place off (of a denormal result 1.1 denormals); infinity from about 88.7228, 0 below about
/// -103.97; NaN stays.
///
/// `e^x = 2^n * e^r` with n the whole number next to `x / ln 2`; `e^r` is its Taylor polynomial of degree 7, and `|r| <= ln(2) / 2`.
#[inline(always)]
fn exp<const FUSED: bool>(x: f32) -> f32 {
    let mul_add = |a: f32, b: f32, c: f32| if FUSED { a.mul_add(b, c) } else { a * b + c };
    /// 1.5 * 2^23: added to a number below 2^22, it leaves the nearest whole number in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2, of which the first part has so few bits that its product with n is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    let shifted = mul_add(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = mul_add(n, -LN2_LOW, mul_add(n, -LN2_HIGH, x));
    let mut power = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        power = mul_add(power, r, coefficient);
    }
    let power = mul_add(power, r * r, r) + 1.0;
    // In two steps, since 2^n itself may be out of range.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
    let half = n >> 1;
    let power_of_2 = |n: i32| f32::from_bits((n.wrapping_add(127) << 23).cast_unsigned());
    power * power_of_2(half) * power_of_2(n.wrapping_sub(half))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Units in the last place of an f32 near `value`.
    fn ulp(value: f64) -> f64 {
        let exponent = value.abs().log2().floor().clamp(-126.0, 127.0);
        2f64.powf(exponent - 23.0)
    }

    fn check(exp: impl Fn(f32) -> f32) {
        // A step of 251 units in the last place visits all binades between -104 and 89.
        let span = |from: f32, to: f32| (from.to_bits()..to.to_bits()).step_by(251).map(f32::from_bits);
        for x in span(0.0, 88.722).chain(span(-0.0, -103.97)) {
            let due = f64::from(x).exp();
            let off = (f64::from(exp(x)) - due).abs() / ulp(due);
            assert!(off <= 1.1, "exp({x:e}) is {off} ulp off");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!([exp(88.723), exp(f32::MAX), exp(f32::INFINITY)], [f32::INFINITY; 3]);
        assert_eq!([exp(-104.0), exp(f32::MIN), exp(f32::NEG_INFINITY)], [0.0; 3]);
        assert!(exp(f32::NAN).is_nan() && exp(-f32::NAN).is_nan());
    }

    #[test]
    fn exp_is_next_to_e_to_the_x() {
        check(exp::<true>);
        check(exp::<false>);
    }

    #[test]
    fn an_element_does_not_depend_on_its_place() {
        let values: Vec<f32> = (0..100).map(|i| (i as f32 - 50.0) * 0.37).collect();
        let clipped = Clipped { alpha: 1.702, limit: 7.0, bias: 1.0, interleaved: false };
        for isa in Isa::available() {
            for kind in [Gate::Divide, Gate::Multiply, Gate::Clipped(clipped)] {
                let mut all = [0.0; 100];
                gated(isa, kind, &values, &values[1..], &mut all);
                for (i, all) in all.iter().enumerate().take(99) {
                    let mut one = [0.0];
                    gated(isa, kind, &values[i..], &values[i + 1..], &mut one);
                    assert_eq!(one[0].to_bits(), all.to_bits(), "{}, element {i}", isa.name());
                }
            }
        }
    }
}
