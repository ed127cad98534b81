//! How far an output is from a reference.

use ascend_moe::layer::ExpertFormat;
use ascend_moe::spec::FloatType;
use serde::Serialize;

/// What is held against a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measure {
    /// The largest difference, as a share of the reference's largest value.
    Largest,
    /// The root mean square of all differences, as a share of that of the reference.
    RootMeanSquare,
}

/// What is right of an output in a type, with experts in a format: weights and activations are rounded to the type and sums
/// taken in `float32`, which bounds each difference; codes of few bits err at random, which bounds their mean square.
pub(crate) fn tolerance(dtype: FloatType, experts: ExpertFormat) -> (Measure, f64) {
    match (experts, dtype) {
        (ExpertFormat::Float, FloatType::F32) => (Measure::Largest, 3e-5),
        (ExpertFormat::Float, FloatType::F16) => (Measure::Largest, 4e-3),
        (ExpertFormat::Float, _) => (Measure::Largest, 2e-2),
        (ExpertFormat::W8A8 | ExpertFormat::W8A16, _) => (Measure::RootMeanSquare, 3e-2),
        // 16 codes for the range of a weight: a share of 0.1 to 0.2 in each of the two products.
        (_, _) => (Measure::RootMeanSquare, 3e-1),
    }
}

/// A comparison and its verdict.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Comparison {
    /// Largest absolute difference.
    pub(crate) max_abs_error: f64,
    /// The same as a share of the reference's largest value.
    pub(crate) max_rel_error: f64,
    /// Root mean square of the differences as a share of that of the reference.
    pub(crate) rms_rel_error: f64,
    /// Largest value of the reference.
    pub(crate) max_reference: f64,
    /// Which of the two shares is judged.
    pub(crate) measure: Measure,
    /// Largest share that is right.
    pub(crate) tolerance: f64,
    /// Whether the output is within it.
    pub(crate) ok: bool,
}

impl Comparison {
    /// Holds `output` against `reference`, of the same length. A NaN on either side is not right.
    pub(crate) fn new(output: &[f32], reference: &[f32], dtype: FloatType, experts: ExpertFormat) -> Self {
        let difference = |(&a, &b): (&f32, &f32)| {
            let d = (f64::from(a) - f64::from(b)).abs();
            if d.is_nan() { f64::INFINITY } else { d }
        };
        let differences = || output.iter().zip(reference).map(difference);
        let share = |error: f64, of: f64| if error == 0.0 { 0.0 } else { error / of };
        let max_abs_error = differences().fold(0.0, f64::max);
        let max_reference = reference.iter().map(|&v| f64::from(v).abs()).fold(0.0, f64::max);
        let squares = reference.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
        let max_rel_error = share(max_abs_error, max_reference);
        let rms_rel_error = share(differences().map(|d| d * d).sum::<f64>().sqrt(), squares.sqrt());
        let (measure, tolerance) = tolerance(dtype, experts);
        let judged = match measure {
            Measure::Largest => max_rel_error,
            Measure::RootMeanSquare => rms_rel_error,
        };
        let ok = output.len() == reference.len() && judged <= tolerance;
        Self { max_abs_error, max_rel_error, rms_rel_error, max_reference, measure, tolerance, ok }
    }
}
