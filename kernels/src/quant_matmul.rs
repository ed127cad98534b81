//! GEMM of int8 activations with an int8 or int4 weight, and what becomes of the exact accumulators: scaled floats, int8, or
//! themselves.
//!
//! A sum is converted to f32 once, multiplied with the column's scale, then with the row's, then the bias is added, each step rounded
//! to f32; the result is rounded once.
//!
//! Source: ops-nn 9.1.0, matmul/quant_batch_matmul_v3 and v4.

use crate::element::Float;
use crate::error::{self, KernelError};
use crate::int_gemm::{IntProblem, Span, int_gemms};
use crate::quant_param::{of_each, one_or_each};

/// A bias `[N]` for all products of a batch, or `[B, N]` with one for each.
#[derive(Clone, Copy, Debug)]
pub enum Bias<'a> {
    /// i32, added to the accumulators; a sum beyond int32 wraps.
    Sum(&'a [i32]),
    /// f32, added last.
    Scaled(&'a [f32]),
}

/// What dequantises accumulators.
#[derive(Clone, Copy, Debug)]
pub struct Dequant<'a> {
    /// `[N]`, or `[1]` for all columns.
    pub scale: &'a [f32],
    /// `[M]`: a scale for each row of x.
    pub per_token: Option<&'a [f32]>,
    /// The bias.
    pub bias: Option<Bias<'a>>,
}

/// `out = (x @ w + bias) * scale * per_token`, or with a scaled bias `x @ w * scale * per_token + bias`, for every product of a
/// batch.
///
/// # Errors
/// [`KernelError::Length`] for scales or a bias of another length, and as [`int_gemms`].
pub fn dequantised<O: Float>(problems: Vec<IntProblem<'_, '_, O>>, dequant: &Dequant<'_>) -> Result<(), KernelError> {
    let (batch, n) = sizes(&problems);
    one_or_each("scale", n, dequant.scale.len())?;
    if let Some(scales) = dequant.per_token {
        problems.iter().try_for_each(|problem| error::length("per-token scale", problem.x.rows(), scales.len()))?;
    }
    let (sum, scaled) = match dequant.bias {
        None => (None, None),
        Some(Bias::Sum(bias)) => (Some(bias), None),
        Some(Bias::Scaled(bias)) => (None, Some(bias)),
    };
    let lengths = [sum.map(<[i32]>::len), scaled.map(<[f32]>::len)];
    lengths.into_iter().flatten().try_for_each(|length| check_bias(batch, n, length))?;
    int_gemms(problems, |span: &Span, acc, out: &mut [O]| {
        let per_token = dequant.per_token.map(|scales| scales[span.row]);
        let (sum, scaled) = (sum.map(|bias| part(bias, n, span)), scaled.map(|bias| part(bias, n, span)));
        for (at, (out, acc)) in out.iter_mut().zip(acc).enumerate() {
            let acc = sum.map_or(*acc, |bias| acc.wrapping_add(bias[at]));
            let mut value = acc as f32 * of_each(dequant.scale, span.cols.start + at);
            if let Some(scale) = per_token {
                value *= scale;
            }
            if let Some(bias) = scaled {
                value += bias[at];
            }
            *out = O::from_f32(value);
        }
    })
}

/// `out = (x @ w + bias) * scale + offset`, rounded to the nearest int8 (ties to even), saturated.
///
/// - `scale` and `offset`: `[N]`, or `[1]` for all columns. - `bias`: `[N]` or `[B, N]`, added to the accumulators.
///
/// # Errors
/// As [`dequantised`].
pub fn requantised(
    problems: Vec<IntProblem<'_, '_, i8>>,
    scale: &[f32],
    offset: &[f32],
    bias: Option<&[i32]>,
) -> Result<(), KernelError> {
    let (batch, n) = sizes(&problems);
    one_or_each("scale", n, scale.len())?;
    one_or_each("offset", n, offset.len())?;
    bias.map_or(Ok(()), |bias| check_bias(batch, n, bias.len()))?;
    int_gemms(problems, |span: &Span, acc, out: &mut [i8]| {
        let bias = bias.map(|bias| part(bias, n, span));
        for (at, (out, acc)) in out.iter_mut().zip(acc).enumerate() {
            let acc = bias.map_or(*acc, |bias| acc.wrapping_add(bias[at]));
            let col = span.cols.start + at;
            *out = nearest_i8(acc as f32 * of_each(scale, col) + of_each(offset, col));
        }
    })
}

/// `out = x @ w + bias`: the accumulators themselves.
///
/// # Errors
/// As [`dequantised`].
pub fn accumulated(problems: Vec<IntProblem<'_, '_, i32>>, bias: Option<&[i32]>) -> Result<(), KernelError> {
    let (batch, n) = sizes(&problems);
    bias.map_or(Ok(()), |bias| check_bias(batch, n, bias.len()))?;
    int_gemms(problems, |span: &Span, acc, out: &mut [i32]| match bias.map(|bias| part(bias, n, span)) {
        Some(bias) => out.iter_mut().zip(acc).zip(bias).for_each(|((out, acc), bias)| *out = acc.wrapping_add(*bias)),
        None => out.copy_from_slice(acc),
    })
}

/// The nearest int8, ties to even, saturated; 0 for NaN.
pub(crate) fn nearest_i8(value: f32) -> i8 {
    value.round_ties_even() as i8
}

/// Products of a batch, and their columns.
fn sizes<O>(problems: &[IntProblem<'_, '_, O>]) -> (usize, usize) {
    (problems.len(), problems.first().map_or(0, |problem| problem.weight.n()))
}

fn check_bias(batch: usize, n: usize, length: usize) -> Result<(), KernelError> {
    if length == n { Ok(()) } else { error::length("bias", error::product("bias", &[batch, n])?, length) }
}

/// The values of a bias that belong to a run of columns.
fn part<'b, T>(bias: &'b [T], n: usize, span: &Span) -> &'b [T] {
    let start = if bias.len() == n { 0 } else { span.problem * n };
    &bias[start + span.cols.start..start + span.cols.end]
}
