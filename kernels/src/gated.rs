//! What gated activations make of gates and up projections, over slices: one element function each, in loops that compilers turn
//! into the vector instructions that each entry enables. The bits are the same whatever these are.

use crate::exp::exp;
use crate::isa::Isa;

/// What is made of a gate and an up projection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Gate {
    /// `gate / (1 + exp(-gate)) * up`.
    Divide,
    /// `1 / (1 + exp(-gate)) * gate * up`.
    Multiply,
    /// With limits, as [`crate::activation::clipped_swiglu`].
    Clipped {
        /// Factor within the logistic function.
        alpha: f32,
        /// Upper limit of the gate, limit of the up projection on both sides.
        limit: f32,
        /// Added to the up projection.
        bias: f32,
    },
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
        _ => gated_plain(kind, gate, up, out),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn gated_avx2(kind: Gate, gate: &[f32], up: &[f32], out: &mut [f32]) {
    gated_plain(kind, gate, up, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx2")]
fn gated_avx512(kind: Gate, gate: &[f32], up: &[f32], out: &mut [f32]) {
    gated_plain(kind, gate, up, out);
}

#[inline(always)]
fn gated_plain(kind: Gate, gate: &[f32], up: &[f32], out: &mut [f32]) {
    let values = out.iter_mut().zip(gate).zip(up);
    match kind {
        Gate::Divide => values.for_each(|((out, gate), up)| *out = gate / (1.0 + exp(-gate)) * up),
        Gate::Multiply => values.for_each(|((out, gate), up)| *out = 1.0 / (1.0 + exp(-gate)) * gate * up),
        Gate::Clipped { alpha, limit, bias } => values.for_each(|((out, gate), up)| {
            let gate = if *gate > limit { limit } else { *gate };
            let up = if *up > limit { limit } else { *up };
            let up = if up < -limit { -limit } else { up };
            *out = gate / (1.0 + exp(-alpha * gate)) * (up + bias);
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_depends_on_neither_its_place_nor_the_instructions() {
        let values: Vec<f32> = (0..100).map(|i| (i as f32 - 50.0) * 0.37).collect();
        for kind in [Gate::Divide, Gate::Multiply, Gate::Clipped { alpha: 1.702, limit: 7.0, bias: 1.0 }] {
            let mut due = [0.0; 99];
            gated(Isa::Portable, kind, &values, &values[1..], &mut due);
            for isa in Isa::available() {
                let mut all = [0.0; 99];
                gated(isa, kind, &values, &values[1..], &mut all);
                assert_eq!(all.map(f32::to_bits), due.map(f32::to_bits), "{}", isa.name());
                for (i, all) in all.iter().enumerate() {
                    let mut one = [0.0];
                    gated(isa, kind, &values[i..], &values[i + 1..], &mut one);
                    assert_eq!(one[0].to_bits(), all.to_bits(), "{}, element {i}", isa.name());
                }
            }
        }
    }
}
