//! Grouped GEMM: each expert's weight applied to the rows that belong to it, or K divided into groups with an output each.
//!
//! Source: ops-transformer 9.1.0, gmm/grouped_matmul (groupType 0, split over M; 2, split over K) and gmm/grouped_matmul_add.
//! The arithmetic is that of [`crate::gemm`]: within a group k ascends, and no group's sum meets another's.

use std::ops::Range;

use crate::element::Float;
use crate::error::{self, KernelError};
use crate::gemm::{self, Bias, Problem, Weight};
use crate::group_list::Group;
use crate::view::{Mat, MatMut};

/// What one expert applies to its rows.
#[derive(Debug, Clone, Copy)]
pub struct Expert<'a, T> {
    /// Weight `[K, N]`.
    pub weight: Weight<'a, T>,
    /// Bias `[N]`.
    pub bias: Option<Bias<'a, T>>,
}

/// `out[rows of g] = x[rows of g] @ weight[g.expert] (+ bias[g.expert])` for every group, in parallel across groups and within
/// each.
///
/// - `x` host `T [M, K]`, any strides.
/// - `experts` each `[K, N]`, with the same K and N; strided and FRACTAL_NZ may be mixed.
/// - `groups` in ascending order of rows, without overlap; an expert may have several groups or none.
/// - `out` host `O [M, N]`, any strides; **rows of no group are not written**.
///
/// # Errors
/// [`KernelError::Dim`] or [`KernelError::Length`] when shapes disagree (of every expert, used or not),
/// [`KernelError::GroupExpert`], [`KernelError::GroupRows`] or [`KernelError::GroupOverlap`] for groups that do not fit.
pub fn grouped_gemm<T: Float, O: Float>(
    x: Mat<'_, T>,
    experts: &[Expert<'_, T>],
    groups: &[Group],
    out: MatMut<'_, O>,
) -> Result<(), KernelError> {
    error::dim("out, axis M", x.rows(), out.rows())?;
    for expert in experts {
        error::dim("expert weight, axis K", x.cols(), expert.weight.k())?;
        error::dim("expert weight, axis N", out.cols(), expert.weight.n())?;
        if let Some(bias) = &expert.bias {
            error::length("expert bias", out.cols(), bias.len())?;
        }
    }
    let parts = split_groups(groups, experts.len(), out)?;
    let problem = |(Group { expert, rows }, out): (&Group, _)| {
        let Expert { weight, bias } = experts[*expert];
        Problem { x, rows: rows.clone(), weight, bias, out, adds: false }
    };
    let problems = groups.iter().zip(parts).map(problem).collect();
    gemm::run(problems);
    Ok(())
}

/// The rows of `out` that belong to each group.
pub(crate) fn split_groups<'o, O: Copy>(
    groups: &[Group],
    experts: usize,
    out: MatMut<'o, O>,
) -> Result<Vec<MatMut<'o, O>>, KernelError> {
    check_groups(groups, experts, out.rows())?;
    let mut parts = Vec::with_capacity(groups.len());
    let (mut rest, mut row) = (out, 0);
    for Group { rows, .. } in groups {
        let (_, from) = rest.split_rows(rows.start - row);
        let (part, after) = from.split_rows(rows.len());
        parts.push(part);
        rest = after;
        row = rows.end;
    }
    Ok(parts)
}

/// Groups name experts that there are, ascend, do not overlap and end within `rows`.
pub(crate) fn check_groups(groups: &[Group], experts: usize, rows: usize) -> Result<(), KernelError> {
    let mut previous_end = 0;
    for (group, Group { expert, rows: range }) in groups.iter().enumerate() {
        if *expert >= experts {
            return Err(KernelError::GroupExpert { row: group, expert: *expert as i64, experts });
        }
        if range.start < previous_end || range.end < range.start {
            return Err(KernelError::GroupOverlap {
                group,
                start: range.start.min(range.end),
                previous_end: previous_end.max(range.start),
            });
        }
        if range.end > rows {
            return Err(KernelError::GroupRows { entry: group, end: range.end as i128, rows });
        }
        previous_end = range.end;
    }
    Ok(())
}

/// `out[g.expert] = x[.., g.rows] @ w[g.rows, ..]` for every group along K; **an output of no group, or of an empty one, is
/// 0**.
///
/// - `x` host `T [M, K]`, any strides. `w` host `T [K, N]`, any strides.
/// - `groups` ranges of K in ascending order, without overlap, at most one for each output.
/// - `out` host `O`, each `[M, N]`, any strides.
///
/// # Errors
/// [`KernelError::Dim`] when shapes disagree; [`KernelError::GroupExpert`], [`KernelError::GroupRows`],
/// [`KernelError::GroupOverlap`] or [`KernelError::GroupRepeated`] for groups that do not fit.
pub fn k_grouped_gemm<T: Float, O: Float>(
    x: Mat<'_, T>,
    w: Mat<'_, T>,
    groups: &[Group],
    out: Vec<MatMut<'_, O>>,
) -> Result<(), KernelError> {
    along_k(x, w, groups, out, false)
}

/// `out[g.expert] += x[.., g.rows] @ w[g.rows, ..]` for every group along K, the sum of the product first; an output of no
/// group, or of an empty one, keeps its bits. Arguments and errors are those of [`k_grouped_gemm`].
///
/// # Errors
/// As there.
pub fn k_grouped_gemm_add<T: Float, O: Float>(
    x: Mat<'_, T>,
    w: Mat<'_, T>,
    groups: &[Group],
    out: Vec<MatMut<'_, O>>,
) -> Result<(), KernelError> {
    along_k(x, w, groups, out, true)
}

fn along_k<T: Float, O: Float>(
    x: Mat<'_, T>,
    w: Mat<'_, T>,
    groups: &[Group],
    out: Vec<MatMut<'_, O>>,
    adds: bool,
) -> Result<(), KernelError> {
    error::dim("w, axis K", x.cols(), w.rows())?;
    for out in &out {
        error::dim("out, axis M", x.rows(), out.rows())?;
        error::dim("out, axis N", w.cols(), out.cols())?;
    }
    check_groups(groups, out.len(), x.cols())?;
    let mut ranges = vec![None; out.len()];
    for (row, Group { expert, rows }) in groups.iter().enumerate() {
        if ranges[*expert].replace(rows.clone()).is_some() {
            return Err(KernelError::GroupRepeated { row, expert: *expert });
        }
    }
    let parts = ranges.into_iter().map(Option::unwrap_or_default).zip(out);
    let problem = |(range, out): (Range<usize>, _)| {
        let weight = Weight::Strided(w.row_range(range.clone()));
        let x = x.transposed().row_range(range).transposed();
        Problem { x, rows: 0..x.rows(), weight, bias: None, out, adds }
    };
    gemm::run(parts.filter(|(range, _)| !adds || !range.is_empty()).map(problem).collect());
    Ok(())
}
