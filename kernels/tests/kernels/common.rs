//! What the tests share: bit comparison, short constructors, thread pools, random operands.

use half::{bf16, f16};
use moe_kernels::element::{Float, FloatType};
use moe_kernels::isa::Isa;
use proptest::prelude::*;

/// A value no kernel computes, to see what was not written.
pub(crate) const POISON: f32 = -77.0;

/// f32 values in another type.
pub(crate) fn to<T: Float>(values: &[f32]) -> Vec<T> {
    values.iter().map(|v| T::from_f32(*v)).collect()
}

pub(crate) fn bf(values: &[f32]) -> Vec<bf16> {
    to(values)
}

/// The values in f32.
pub(crate) fn up<T: Float>(values: &[T]) -> Vec<f32> {
    values.iter().map(|v| v.to_f32()).collect()
}

/// Bit for bit, -0 and 0 apart; any NaN equals any NaN.
#[track_caller]
pub(crate) fn same<T: Float>(actual: &[T], expected: &[T]) {
    assert_eq!(actual.len(), expected.len());
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        let (a, e) = (a.to_f32(), e.to_f32());
        assert!(a.to_bits() == e.to_bits() || a.is_nan() && e.is_nan(), "element {i}: {a:e}, expected {e:e}");
    }
}

/// Within 1e-6 relative: for worked examples that went through exp or a division.
#[track_caller]
pub(crate) fn near<T: Float>(actual: &[T], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len());
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        let a = a.to_f32();
        assert!((a - e).abs() <= e.abs() * 1e-6, "element {i}: {a}, expected {e}");
    }
}

/// Runs `f` on pools of 1, 2 and 5 threads.
pub(crate) fn on_pools(mut f: impl FnMut() + Send) {
    for threads in [1, 2, 5] {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(&mut f);
    }
}

/// How far sums of `k` products on two instruction sets may be apart before they are rounded, where the magnitudes of the products,
/// and of what is added to them, sum up to `magnitude`. See [`moe_kernels::gemm`].
pub(crate) fn sum_bound(k: usize, magnitude: f32) -> f32 {
    (k + 3) as f32 * f32::EPSILON * magnitude
}

/// Runs on every instruction set of this CPU, on pools of several sizes: `portable` gives the expected bits, the others what is
/// within the bound of it before the rounding to the output's type, and the same bits on all pools.
#[track_caller]
pub(crate) fn on_every_isa<O: Float>(expected: &[O], bounds: &[f32], run: impl Fn() -> Vec<O> + Sync) {
    assert_eq!(expected.len(), bounds.len());
    // Half a unit in the last place, relative and for denormals.
    let (half_ulp, least) = match O::TYPE {
        FloatType::F32 => (2f32.powi(-24), 0.0),
        FloatType::Bf16 => (2f32.powi(-8), 0.0),
        FloatType::F16 => (2f32.powi(-11), 2f32.powi(-25)),
    };
    for isa in Isa::available() {
        let mut first: Option<Vec<O>> = None;
        on_pools(|| {
            let out = isa.with(&run).unwrap();
            if isa == Isa::Portable {
                same(&out, expected);
            }
            same(&out, first.get_or_insert_with(|| out.clone()));
        });
        let out = first.unwrap();
        assert_eq!(out.len(), expected.len());
        for (i, ((a, e), bound)) in out.iter().zip(expected).zip(bounds).enumerate() {
            let (a, e) = (a.to_f32(), e.to_f32());
            let bound = if *bound == 0.0 { 0.0 } else { bound + 2.0 * half_ulp * (e.abs() + bound) + 2.0 * least };
            let equal = a == e || a.is_nan() && e.is_nan();
            assert!(equal || (a - e).abs() <= bound, "{}, element {i}: {a:e}, expected {e:e} +- {bound:e}", isa.name());
        }
    }
}

/// The magnitudes of values, in their type.
pub(crate) fn magnitudes<T: Float>(values: &[T]) -> Vec<T> {
    values.iter().map(|v| T::from_f32(v.to_f32().abs())).collect()
}

/// Values of many magnitudes, now and then not finite.
pub(crate) fn wild() -> impl Strategy<Value = f32> {
    prop_oneof![
        20 => -4f32..4.0,
        4 => any::<f32>(),
        2 => prop::sample::select(vec![0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40, 65504.0]),
    ]
}

/// `n` values from a seed: for operands too large to be shrunk element by element.
pub(crate) fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| next()).collect()
}

/// Runs a generic test for every element type.
macro_rules! for_each_float {
    ($function:ident ( $($argument:expr),* $(,)? )) => {
        $function::<f32>($($argument),*);
        $function::<half::bf16>($($argument),*);
        $function::<half::f16>($($argument),*);
    };
}
pub(crate) use for_each_float;

pub(crate) fn h(values: &[f32]) -> Vec<f16> {
    to(values)
}

/// Numbers from a seed (the constants of Knuth's MMIX).
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn byte(&mut self) -> i8 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 56) as i8
    }

    /// In -2 to 2.
    pub(crate) fn float(&mut self) -> f32 {
        f32::from(self.byte()) / 64.0 + f32::from(self.byte()) / 8192.0
    }

    pub(crate) fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }
}

/// Codes and the scale of a row that went through an exponential, which is not that of the standard library to the last place: the
/// scale may be off by a few units there, and a code by one where its value, `values` over the scale, is next to the middle.
pub(crate) fn same_codes(found: (&[i8], f32), due: (&[i8], f32), values: &[f32]) {
    assert_eq!((found.0.len(), due.0.len()), (values.len(), values.len()));
    let off = (found.1 - due.1).abs();
    assert!(off <= 4.0 * f32::EPSILON * due.1.abs(), "scale {} where {} is due", found.1, due.1);
    for ((&found, &code), &value) in found.0.iter().zip(due.0).zip(values) {
        let middle = f32::from(i16::from(found) + i16::from(code)) / 2.0;
        // The fp16 that some go through is 1/16 apart near the ends.
        let beside = (found.abs_diff(code) <= 1) && (value / due.1 - middle).abs() <= 0.04;
        assert!(found == code || beside, "code {found} where {code} is due, of {value} at scale {}", due.1);
    }
}
