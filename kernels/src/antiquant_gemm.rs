//! Products of 16-bit floats with integer weights: each weight becomes a number of x's type first, `(w + offset) * scale` rounded,
//! unless whole numbers are multiplied and their sums scaled.
//!
//! Source: ops-transformer 9.1.0, gmm/grouped_matmul (op_kernel: antiquant, and antiquant_a16w8_msd for [`takes_two_steps`]).

use rayon::prelude::*;

use crate::antiquant::Antiquant;
use crate::driver::in_parts;
use crate::element::Float;
use crate::error::{self, KernelError};
use crate::gemm::{Bias, Weight};
use crate::group_list::Group;
use crate::grouped_gemm::{Expert, grouped_gemm, split_groups};
use crate::int_gemm::{IntProblem, IntWeight, int_gemms};
use crate::isa::Isa;
use crate::pack::Source;
use crate::quant_gemm::Rounding;
use crate::simd;
use crate::vectors::{Vectors, vectorised};
use crate::view::{Mat, MatMut};

/// What the second of two steps counts finer than the first: twice 127.
const FINER: f32 = 254.0;

/// What one expert applies to its rows.
#[derive(Debug, Clone, Copy)]
pub struct AntiquantExpert<'a, T> {
    /// `[K, N]`.
    pub weight: IntWeight<'a>,
    /// `T [G, N]`, row-major: a row for each of G equal parts of K.
    pub scale: &'a [T],
    /// As the scale.
    pub offset: Option<&'a [T]>,
    /// `[N]`.
    pub bias: Option<Bias<'a, T>>,
}

impl<T: Float> AntiquantExpert<'_, T> {
    /// Rows of the weight that a row of scales is for.
    fn part(&self) -> Result<usize, KernelError> {
        let (k, n) = (self.weight.k(), self.weight.n());
        let parts = error::divide("scales", self.scale.len(), n)?;
        if let Some(offset) = self.offset {
            error::length("offset", self.scale.len(), offset.len())?;
        }
        error::divide("K, in equal parts", k, parts)
    }

    /// The weight as one that a GEMM takes.
    ///
    /// # Errors
    /// [`KernelError::Length`] or [`KernelError::NotMultiple`] where scales or offsets do not fit.
    pub fn values(&self) -> Result<Antiquant<'_, T>, KernelError> {
        Antiquant::new(self.weight, self.scale, self.offset, self.part()?.max(1))
    }
}

/// Whether CANN quantises x in two steps instead of expanding the weights: few rows, int8 weights of one tensor, and K and N that
/// suit it.
pub fn takes_two_steps(rows: usize, experts: usize, k: usize, n: usize) -> bool {
    k.is_multiple_of(128) && n.is_multiple_of(128) && k <= 12288 && n >= 1024 && rows <= 64 * experts
}

/// `out[rows of g] = x[rows of g] @ ((w + offset) * scale)[g.expert] (+ bias[g.expert])` for every group, in parallel, accumulated
/// in f32.
///
/// - [`Rounding::Faithful`]: each weight is rounded to `T` on its way into the product, as in [`expanded`]; but of int8 weights,
///   where [`takes_two_steps`] says so, x is taken apart instead: per row `am = max |x|`, `t = x * (127 / am)`, `a1 = round(t)`,
///   `a2 = round(254 * (t - a1))`, halves away from zero, and
///   `((a1 @ w + a2 @ w / 254) * (am / 127) + offset * sum of x) * scale + bias`.
/// - [`Rounding::Fast`]: no weight is rounded. x is multiplied with the whole numbers and each part of K is scaled:
///   `sum over parts of (x @ w + offset * sum of x) * scale`, `+ bias`, rounded once.
///
/// - `x` host `T [M, K]`, any strides. `groups` as those of [`grouped_gemm`]. `out` host `T [M, N]`; rows of no group are not
///   written.
///
/// # Errors
/// Those of [`grouped_gemm`] and [`AntiquantExpert::values`].
pub fn antiquant_gemm<T: Float>(
    x: Mat<'_, T>,
    experts: &[AntiquantExpert<'_, T>],
    groups: &[Group],
    rounding: Rounding,
    out: MatMut<'_, T>,
) -> Result<(), KernelError> {
    check(&x, experts, &out)?;
    let int8 = experts.iter().all(|expert| matches!(expert.weight, IntWeight::Int8(_)));
    match rounding {
        Rounding::Fast => in_whole_numbers(x, experts, groups, out),
        Rounding::Faithful if int8 && takes_two_steps(x.rows(), experts.len(), x.cols(), out.cols()) => {
            two_steps(x, experts, groups, out)
        }
        Rounding::Faithful => expanded(x, experts, groups, out),
    }
}

/// [`antiquant_gemm`] with each weight rounded to `T` first, whatever the sizes, as CANN does where the weights are several
/// tensors.
///
/// # Errors
/// As there.
pub fn expanded<T: Float>(
    x: Mat<'_, T>,
    experts: &[AntiquantExpert<'_, T>],
    groups: &[Group],
    out: MatMut<'_, T>,
) -> Result<(), KernelError> {
    check(&x, experts, &out)?;
    let values = experts.iter().map(AntiquantExpert::values).collect::<Result<Vec<_>, _>>()?;
    grouped_gemm(x, &of_values(experts, &values), groups, out)
}

fn check<T: Float>(x: &Mat<'_, T>, experts: &[AntiquantExpert<'_, T>], out: &MatMut<'_, T>) -> Result<(), KernelError> {
    error::dim("out, axis M", x.rows(), out.rows())?;
    for expert in experts {
        error::dim("expert weight, axis K", x.cols(), expert.weight.k())?;
        error::dim("expert weight, axis N", out.cols(), expert.weight.n())?;
        expert.part()?;
        if let Some(bias) = &expert.bias {
            error::length("expert bias", out.cols(), bias.len())?;
        }
    }
    Ok(())
}

/// Without a rounding of weights.
fn in_whole_numbers<T: Float>(
    x: Mat<'_, T>,
    experts: &[AntiquantExpert<'_, T>],
    groups: &[Group],
    out: MatMut<'_, T>,
) -> Result<(), KernelError> {
    let (isa, vectors) = (Isa::current(), Vectors::widest());
    let (depth, n) = (x.cols(), out.cols());
    let parts = split_groups(groups, experts.len(), out)?;
    in_parts(parts.into_iter().map(|out| (depth, out)).collect(), |mut part, scratch| {
        let Group { expert, rows } = &groups[part.product];
        let AntiquantExpert { weight, scale, offset, bias } = &experts[*expert];
        let rows = rows.start + part.rows.start..rows.start + part.rows.end;
        let of_part = depth.checked_div(scale.len() / n).unwrap_or(0).max(1);
        let kernel = simd::mixed_kernel(isa, weight.words());
        let cols = part.cols.len();
        let mut sums = std::mem::take(&mut scratch.line);
        sums.clear();
        // Scales and offsets come after the sums.
        sums.resize((rows.len() + 2) * cols, 0.0);
        let (of_rows, factors) = sums.split_at_mut(rows.len() * cols);
        let (scales, offsets) = factors.split_at_mut(cols);
        for (index, start) in (0..depth).step_by(of_part).enumerate() {
            let ks = start..depth.min(start + of_part);
            let of_cols = index * n + part.cols.start..index * n + part.cols.end;
            scratch.multiply(kernel, &x, weight, rows.clone(), part.cols.clone(), ks.clone());
            T::widen(&scale[of_cols.clone()], scales);
            if let Some(offset) = offset {
                T::widen(&offset[of_cols], offsets);
            }
            for ((row, sums), at) in rows.clone().zip(of_rows.chunks_exact_mut(cols)).zip(0..) {
                let of_row = if offset.is_some() { ks.clone().map(|k| x.at(row, k).to_f32()).sum() } else { 0.0 };
                add_scaled(vectors, scratch.floats(at, cols).0, of_row, offsets, scales, sums);
            }
        }
        let bias = bias.as_ref().map(|bias| bias.range(part.cols.clone()).widened());
        for (row, sums) in of_rows.chunks_exact_mut(cols).enumerate() {
            if let Some(bias) = &bias {
                sums.iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias);
            }
            match part.out.row_slice_mut(row) {
                Some(out) => T::narrow(sums, out),
                None => part.out.write_row(row, sums.iter().map(|sum| T::from_f32(*sum))),
            }
        }
        scratch.line = sums;
    });
    Ok(())
}

vectorised! {
    /// `sums += (products + of_row * offsets) * scales`.
    fn add_scaled(
        products: &[f32], of_row: f32, offsets: &[f32], scales: &[f32], sums: &mut [f32],
    ) = add_scaled_plain;
}

#[inline(always)]
fn add_scaled_plain(products: &[f32], of_row: f32, offsets: &[f32], scales: &[f32], sums: &mut [f32]) {
    for (((sum, product), offset), scale) in sums.iter_mut().zip(products).zip(offsets).zip(scales) {
        *sum += (product + of_row * offset) * scale;
    }
}

/// Experts with these weights, [`AntiquantExpert::values`] of each.
pub fn of_values<'e, T: Float>(
    experts: &[AntiquantExpert<'e, T>],
    values: &'e [Antiquant<'e, T>],
) -> Vec<Expert<'e, T>> {
    let pairs = experts.iter().zip(values);
    pairs.map(|(expert, values)| Expert { weight: Weight::Antiquant(values), bias: expert.bias }).collect()
}

/// A row of x as whole numbers of two sizes.
struct Steps {
    /// `max |x| / 127`.
    size: f32,
    sum: f32,
}

fn two_steps<T: Float>(
    x: Mat<'_, T>,
    experts: &[AntiquantExpert<'_, T>],
    groups: &[Group],
    out: MatMut<'_, T>,
) -> Result<(), KernelError> {
    let (rows, k, n) = (x.rows(), x.cols(), out.cols());
    let parts = split_groups(groups, experts.len(), out)?;
    let mut steps = [vec![0i8; rows * k], vec![0i8; rows * k]];
    let [first, second] = &mut steps;
    let quantise = |(row, (first, second)): (usize, (&mut [i8], &mut [i8]))| {
        let values = || (0..k).map(|at| x.at(row, at).to_f32());
        let most = values().fold(0f32, |most, value| most.max(value.abs()));
        let factor = if most == 0.0 { 0.0 } else { 127.0 / most };
        for ((first, second), value) in first.iter_mut().zip(second).zip(values()) {
            let t = value * factor;
            let whole = t.round();
            // Casts saturate.
            (*first, *second) = (whole as i8, (FINER * (t - whole)).round() as i8);
        }
        Steps { size: most / 127.0, sum: values().sum() }
    };
    let of_rows: Vec<Steps> = first.par_chunks_mut(k).zip(second.par_chunks_mut(k)).enumerate().map(quantise).collect();
    let mut sums = [vec![0i32; rows * n], vec![0i32; rows * n]];
    let mut problems = Vec::with_capacity(2 * groups.len());
    for (steps, sums) in steps.iter().zip(&mut sums) {
        let (x, out) = (Mat::row_major(steps, rows, k)?, MatMut::row_major(sums, rows, n)?);
        for (Group { expert, rows }, out) in groups.iter().zip(split_groups(groups, experts.len(), out)?) {
            problems.push(IntProblem { x, rows: rows.clone(), weight: experts[*expert].weight, out });
        }
    }
    int_gemms(problems, |_, acc, out| out.copy_from_slice(acc))?;
    let [first, second] = &sums;
    groups.par_iter().zip(parts).for_each(|(Group { expert, rows }, mut out)| {
        let AntiquantExpert { scale, offset, bias, .. } = experts[*expert];
        let bias = bias.map(|bias| bias.widened());
        for (at, row) in rows.clone().enumerate() {
            let Steps { size, sum } = of_rows[row];
            let value = |n_of: usize| {
                let index = row * n + n_of;
                let wide = (first[index] as f32 + second[index] as f32 * (1.0 / FINER)) * size;
                let wide = offset.map_or(wide, |offset| wide + offset[n_of].to_f32() * sum);
                let scaled = wide * scale[n_of].to_f32();
                T::from_f32(bias.as_ref().map_or(scaled, |bias| scaled + bias[n_of]))
            };
            out.write_row(at, (0..n).map(value));
        }
    });
    Ok(())
}
