//! Products of 16-bit floats with integer weights: each weight becomes a number of x's type first, `(w + offset) * scale` rounded.
//!
//! Source: ops-transformer 9.1.0, gmm/grouped_matmul (op_kernel: antiquant, and antiquant_a16w8_msd for [`takes_two_steps`]).

use rayon::prelude::*;

use crate::element::Float;
use crate::error::{self, KernelError};
use crate::gemm::{Bias, Weight};
use crate::group_list::Group;
use crate::grouped_gemm::{Expert, grouped_gemm, split_groups};
use crate::int_gemm::{IntProblem, IntWeight, int_gemms};
use crate::quant_gemm::Rounding;
use crate::view::{Mat, MatMut};

/// Elements of a weight that one task makes numbers of, at least.
const TASK: usize = 16 * 1024;
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

    /// The weight as numbers of x's type, in parallel.
    ///
    /// - `out` host `T [K, N]`, row-major.
    ///
    /// # Errors
    /// [`KernelError::Length`] or [`KernelError::NotMultiple`] where scales, offsets or `out` do not fit.
    pub fn expand(&self, out: &mut [T]) -> Result<(), KernelError> {
        let (k, n, part) = (self.weight.k(), self.weight.n(), self.part()?);
        error::length("out", error::product("weight", &[k, n])?, out.len())?;
        if out.is_empty() {
            return Ok(());
        }
        out.par_chunks_mut(n).enumerate().with_min_len(TASK.div_ceil(n)).for_each_init(
            || vec![0i8; n],
            |line, (row, out)| {
                self.weight.read_row(row, 0..n, line);
                let start = row / part * n;
                let scales = &self.scale[start..start + n];
                let offsets = self.offset.map(|offset| &offset[start..start + n]);
                for (at, (out, w)) in out.iter_mut().zip(line.iter()).enumerate() {
                    let offset = offsets.map_or(0.0, |offset| offset[at].to_f32());
                    *out = T::from_f32((f32::from(*w) + offset) * scales[at].to_f32());
                }
            },
        );
        Ok(())
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
/// [`Rounding::Faithful`] with int8 weights, where [`takes_two_steps`] says so: per row `am = max |x|`, `t = x * (127 / am)`,
/// `a1 = round(t)`, `a2 = round(254 * (t - a1))`, halves away from zero, and
/// `((a1 @ w + a2 @ w / 254) * (am / 127) + offset * sum of x) * scale + bias`. Else the weights of experts that have rows are
/// [expanded](AntiquantExpert::expand).
///
/// - `x` host `T [M, K]`, any strides. `groups` as those of [`grouped_gemm`]. `out` host `T [M, N]`; rows of no group are not
///   written.
///
/// # Errors
/// Those of [`grouped_gemm`] and [`AntiquantExpert::expand`].
pub fn antiquant_gemm<T: Float>(
    x: Mat<'_, T>,
    experts: &[AntiquantExpert<'_, T>],
    groups: &[Group],
    rounding: Rounding,
    out: MatMut<'_, T>,
) -> Result<(), KernelError> {
    error::dim("out, axis M", x.rows(), out.rows())?;
    for expert in experts {
        error::dim("expert weight, axis K", x.cols(), expert.weight.k())?;
        error::dim("expert weight, axis N", out.cols(), expert.weight.n())?;
        expert.part()?;
        if let Some(bias) = &expert.bias {
            error::length("expert bias", out.cols(), bias.len())?;
        }
    }
    let int8 = experts.iter().all(|expert| matches!(expert.weight, IntWeight::Int8(_)));
    if rounding == Rounding::Faithful && int8 && takes_two_steps(x.rows(), experts.len(), x.cols(), out.cols()) {
        return two_steps(x, experts, groups, out);
    }
    let size = error::product("weight", &[x.cols(), out.cols()])?;
    let mut expanded = vec![Vec::new(); experts.len()];
    for Group { expert, .. } in groups.iter().filter(|group| !group.rows.is_empty()) {
        if let (Some(values), Some(expert)) = (expanded.get_mut(*expert), experts.get(*expert))
            && values.is_empty()
        {
            values.resize(size, T::from_f32(0.0));
            expert.expand(values)?;
        }
    }
    // What has no rows is a weight without elements, repeated.
    let nothing = [T::from_f32(0.0)];
    let mut made = Vec::with_capacity(experts.len());
    for (values, expert) in expanded.iter().zip(experts) {
        let mat = match values.is_empty() {
            true => Mat::new(&nothing, x.cols(), out.cols(), 0, 0)?,
            false => Mat::row_major(values, x.cols(), out.cols())?,
        };
        made.push(Expert { weight: Weight::Strided(mat), bias: expert.bias });
    }
    grouped_gemm(x, &made, groups, out)
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
