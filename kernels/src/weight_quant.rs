//! GEMM of floats with an int8 or int4 weight, whose scales may be the same for all columns, and the way back to int8.
//!
//! Source: ops-nn 9.1.0, matmul/weight_quant_batch_matmul_v2.

use rayon::prelude::*;

use crate::antiquant;
use crate::element::Float;
use crate::error::{self, KernelError};
use crate::gemm::{Bias, Weight, gemm};
use crate::int_gemm::IntWeight;
use crate::quant_matmul::nearest_i8;
use crate::quant_param::{of_each, one_or_each};
use crate::view::{Mat, MatMut};

/// What takes a weight `[K, N]` of whole numbers back to floats.
#[derive(Clone, Copy, Debug)]
pub struct Antiquant<'a, T> {
    /// `[G, N]`, or `[G, 1]` for all columns: a scale for each group of rows of the weight.
    pub scale: Mat<'a, T>,
    /// Of the shape of scale: added before.
    pub offset: Option<Mat<'a, T>>,
    /// Rows of a group, the last one what is left; 0 for one group of all.
    pub group: usize,
}

impl<T: Float> Antiquant<'_, T> {
    fn check(&self, k: usize, n: usize) -> Result<(), KernelError> {
        let groups = if self.group == 0 { 1 } else { k.div_ceil(self.group) };
        error::dim("scale, axis of groups", groups, self.scale.rows())?;
        one_or_each("scale", n, self.scale.cols())?;
        let Some(offset) = self.offset else { return Ok(()) };
        error::dim("offset, axis of groups", self.scale.rows(), offset.rows())?;
        error::dim("offset, axis N", self.scale.cols(), offset.cols())
    }
}

/// One value for each of `n` columns of each row.
fn of_columns<T: Float>(values: Mat<'_, T>, n: usize) -> Vec<T> {
    let column = |col: usize| if values.cols() == 1 { 0 } else { col };
    (0..values.rows()).flat_map(|row| (0..n).map(move |col| values.at(row, column(col)))).collect()
}

/// `out = x @ w + bias` with `w = (weight + offset) * scale`, rounded to `T`, as [`antiquant`] has it; accumulated in f32 and
/// rounded once.
///
/// - `x` host `T [M, K]`, any strides. - `bias` host `[N]`. - `out` host `O [M, N]`.
///
/// # Errors
/// [`KernelError::Dim`] and [`KernelError::Length`] for scales or offsets of another shape, and as [`gemm`].
pub fn multiply<T: Float, O: Float>(
    x: Mat<'_, T>,
    weight: &IntWeight<'_>,
    antiquant: &Antiquant<'_, T>,
    bias: Option<Bias<'_, T>>,
    out: MatMut<'_, O>,
) -> Result<(), KernelError> {
    let n = weight.n();
    antiquant.check(weight.k(), n)?;
    let (scale, offset) = (of_columns(antiquant.scale, n), antiquant.offset.map(|offset| of_columns(offset, n)));
    let group = if antiquant.group == 0 { usize::MAX } else { antiquant.group };
    let weight = antiquant::Antiquant::new(*weight, &scale, offset.as_deref(), group)?;
    gemm(x, Weight::Antiquant(&weight), bias, out)
}

/// `out = (x @ dequantised weight + bias) * scale + offset`, in f32, rounded to the nearest int8 (ties to even), saturated.
///
/// - `scale` and `offset` host `f32 [N]`, or `[1]` for all columns. - `out` host `i8 [M, N]`.
///
/// # Errors
/// As [`multiply`], and [`KernelError::Length`] for scales, offsets or an output of another size.
pub fn multiply_to_int8<T: Float>(
    x: Mat<'_, T>,
    weight: &IntWeight<'_>,
    antiquant: &Antiquant<'_, T>,
    bias: Option<Bias<'_, T>>,
    [scale, offset]: [&[f32]; 2],
    out: &mut [i8],
) -> Result<(), KernelError> {
    let (m, n) = (x.rows(), weight.n());
    one_or_each("quantisation scale", n, scale.len())?;
    one_or_each("quantisation offset", n, offset.len())?;
    error::length("out", error::product("out", &[m, n])?, out.len())?;
    let mut values = vec![0f32; out.len()];
    multiply(x, weight, antiquant, bias, MatMut::row_major(&mut values, m, n)?)?;
    out.par_chunks_mut(n.max(1)).zip(values.par_chunks(n.max(1))).for_each(|(out, values)| {
        for (col, (out, value)) in out.iter_mut().zip(values).enumerate() {
            *out = nearest_i8(value * of_each(scale, col) + of_each(offset, col));
        }
    });
    Ok(())
}
