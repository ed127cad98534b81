//! Sorting tokens by expert where nothing is known of the number of experts.
//!
//! Source: ops-transformer 9.1.0, moe/moe_token_permute.

use rayon::prelude::*;

use crate::error::{self, KernelError};

/// Expert ids and slot numbers stay below this, being sorted as f32.
pub const MAX_ID: i64 = 16_777_215;

/// The slots sorted by expert; those of one expert keep their order. A slot is one choice of one token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permutation {
    sorted: Vec<u32>,
}

impl Permutation {
    /// Sorts.
    ///
    /// - `experts` host i64 `[slots]`, each in `0..MAX_ID`.
    ///
    /// # Errors
    /// [`KernelError::Range`] for an expert or a number of slots beyond [`MAX_ID`], or a negative expert.
    pub fn new(experts: &[i64]) -> Result<Self, KernelError> {
        error::range("slots", experts.len(), 0, MAX_ID as usize - 1)?;
        if let Some(&expert) = experts.iter().find(|expert| !(0..MAX_ID).contains(*expert)) {
            let found = usize::try_from(expert).unwrap_or(usize::MAX);
            error::range("expert id", found, 0, MAX_ID as usize - 1)?;
        }
        let mut sorted: Vec<u32> = (0..experts.len() as u32).collect();
        sorted.par_sort_by_key(|&slot| experts[slot as usize]);
        Ok(Self { sorted })
    }

    /// The slot of each sorted row.
    pub fn sorted(&self) -> &[u32] {
        &self.sorted
    }

    /// The sorted row of each slot.
    ///
    /// - `out` host i32 `[slots]`.
    ///
    /// # Errors
    /// [`KernelError::Length`].
    pub fn rows(&self, out: &mut [i32]) -> Result<(), KernelError> {
        error::length("sorted indices", self.sorted.len(), out.len())?;
        for (row, &slot) in self.sorted.iter().enumerate() {
            out[slot as usize] = row as i32;
        }
        Ok(())
    }

    /// Copies the tokens' rows to the first sorted rows, in parallel.
    ///
    /// - `src` host bytes `[slots / top_k, row_bytes]`, `dst` host bytes `[rows, row_bytes]`, no
    ///   more rows than slots.
    ///
    /// # Errors
    /// [`KernelError::Length`], [`KernelError::NotMultiple`] or [`KernelError::Range`] when sizes do not fit.
    pub fn copy(&self, src: &[u8], row_bytes: usize, top_k: usize, dst: &mut [u8]) -> Result<(), KernelError> {
        let tokens = error::divide("slots over top_k", self.sorted.len(), top_k)?;
        error::length("tokens", error::product("tokens", &[tokens, row_bytes])?, src.len())?;
        if dst.is_empty() {
            return Ok(());
        }
        let rows = error::divide("permuted rows", dst.len(), row_bytes)?;
        error::range("permuted rows", rows, 0, self.sorted.len())?;
        let copy = |(row, &slot): (&mut [u8], &u32)| {
            row.copy_from_slice(&src[slot as usize / top_k * row_bytes..][..row_bytes]);
        };
        dst.par_chunks_mut(row_bytes).zip(&self.sorted[..rows]).with_min_len((32 << 10) / row_bytes + 1).for_each(copy);
        Ok(())
    }
}
