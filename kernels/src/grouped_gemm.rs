//! Grouped GEMM: each expert's weight applied to the rows that belong to it.
//!
//! Source: ops-transformer 9.1.0, gmm/grouped_matmul (groupType 0, split over M). The arithmetic is that of [`crate::gemm`].

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
    let mut previous_end = 0;
    for (group, Group { expert, rows }) in groups.iter().enumerate() {
        if *expert >= experts.len() {
            return Err(KernelError::GroupExpert { row: group, expert: *expert as i64, experts: experts.len() });
        }
        if rows.start < previous_end || rows.end < rows.start {
            return Err(KernelError::GroupOverlap {
                group,
                start: rows.start.min(rows.end),
                previous_end: previous_end.max(rows.start),
            });
        }
        if rows.end > x.rows() {
            return Err(KernelError::GroupRows { entry: group, end: rows.end as i128, rows: x.rows() });
        }
        previous_end = rows.end;
    }
    let mut rest = out;
    let mut row = 0;
    let mut problems = Vec::with_capacity(groups.len());
    for Group { expert, rows } in groups {
        let (_, from) = rest.split_rows(rows.start - row);
        let (out, after) = from.split_rows(rows.len());
        let Expert { weight, bias } = experts[*expert];
        problems.push(Problem { x, rows: rows.clone(), weight, bias, out });
        rest = after;
        row = rows.end;
    }
    gemm::run(problems);
    Ok(())
}
