//! How far an output is from a reference.

use ascend_moe::spec::FloatType;
use serde::Serialize;

/// Largest difference that is right, as a share of the reference's largest value: weights and activations are rounded
/// to the type, sums are taken in `float32`.
pub(crate) fn tolerance(dtype: FloatType) -> f64 {
    match dtype {
        FloatType::F32 => 3e-5,
        FloatType::F16 => 4e-3,
        _ => 2e-2,
    }
}

/// A comparison and its verdict.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Comparison {
    /// Largest absolute difference.
    pub(crate) max_abs_error: f64,
    /// The same as a share of the reference's largest value.
    pub(crate) max_rel_error: f64,
    /// Largest value of the reference.
    pub(crate) max_reference: f64,
    /// Largest share that is right.
    pub(crate) tolerance: f64,
    /// Whether the output is within it.
    pub(crate) ok: bool,
}

impl Comparison {
    /// Holds `output` against `reference`, of the same length. A NaN on either side is not right.
    pub(crate) fn new(output: &[f32], reference: &[f32], dtype: FloatType) -> Self {
        let difference = |(&a, &b): (&f32, &f32)| {
            let d = (f64::from(a) - f64::from(b)).abs();
            if d.is_nan() { f64::INFINITY } else { d }
        };
        let max_abs_error = output.iter().zip(reference).map(difference).fold(0.0, f64::max);
        let max_reference = reference.iter().map(|&v| f64::from(v).abs()).fold(0.0, f64::max);
        let max_rel_error = if max_abs_error == 0.0 { 0.0 } else { max_abs_error / max_reference };
        let tolerance = tolerance(dtype);
        let ok = output.len() == reference.len() && max_rel_error <= tolerance;
        Self { max_abs_error, max_rel_error, max_reference, tolerance, ok }
    }
}
