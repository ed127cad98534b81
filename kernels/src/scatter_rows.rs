//! Rows that are added up by the row they name, on top of rows that are already there.
//!
//! Source: ops-transformer 9.1.0, gmm/grouped_matmul_finalize_routing.

use rayon::prelude::*;

use crate::error::{self, KernelError};
use crate::group_list::Group;

/// Rows that an output starts with.
#[derive(Debug, Clone, Copy)]
pub struct SharedRows<'a> {
    /// f32 `[rows, N]`.
    pub values: &'a [f32],
    /// Their factor.
    pub weight: f32,
    /// The row of the output that the first of them is for.
    pub first: usize,
}

/// `out = 0`, `out[first + r] = weight * shared[r]`, then `out[row_index[i]] += values[i]` for every row i of a group, in parallel
/// over the rows of `out`; each takes its rows in ascending order. (On a device they come in no order.)
///
/// - `values` host f32 `[M, N]`; rows of no group are not looked at.
/// - `row_index` host i64 `[M]`. `out` host f32 `[batch, N]`.
///
/// # Errors
/// [`KernelError::Length`] for slices of another length, [`KernelError::RowIndex`] where a row of a group names one that `out` does
/// not have, [`KernelError::Range`] for shared rows beyond `out`; then nothing is written.
pub fn scatter_rows(
    values: &[f32],
    n: usize,
    groups: &[Group],
    row_index: &[i64],
    shared: Option<SharedRows<'_>>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    error::length("values", error::product("values", &[row_index.len(), n])?, values.len())?;
    let batch = error::divide("out", out.len(), n)?;
    if n == 0 {
        return Ok(());
    }
    if let Some(SharedRows { values, first, .. }) = shared {
        let rows = error::divide("shared rows", values.len(), n)?;
        error::range("end of the shared rows", first.saturating_add(rows), first, batch)?;
    }
    let mut sources = vec![Vec::new(); batch];
    for slot in groups.iter().flat_map(|group| group.rows.clone()) {
        let row = *row_index.get(slot).ok_or(KernelError::GroupRows {
            entry: 0,
            end: slot as i128,
            rows: row_index.len(),
        })?;
        let target = usize::try_from(row).ok().and_then(|row| sources.get_mut(row));
        let wrong = || {
            let row = row.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
            KernelError::RowIndex { slot, row, rows: batch, minus_one: false }
        };
        target.ok_or_else(wrong)?.push(slot);
    }
    out.par_chunks_mut(n).zip(sources).enumerate().for_each(|(row, (out, sources))| {
        let start = shared.and_then(|shared| {
            let at = row.checked_sub(shared.first)? * n;
            Some((shared.values.get(at..at + n)?, shared.weight))
        });
        match start {
            Some((values, weight)) => out.iter_mut().zip(values).for_each(|(out, value)| *out = weight * value),
            None => out.fill(0.0),
        }
        for slot in sources {
            out.iter_mut().zip(&values[slot * n..]).for_each(|(out, value)| *out += value);
        }
    });
    Ok(())
}
