//! Sorting tokens by expert where nothing is known of the number of experts.
//!
//! Sources: ops-transformer 9.1.0, moe/moe_token_permute and moe/moe_init_routing (the first version).

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
    /// - `experts` host i64 or i32 `[slots]`, each in `0..MAX_ID`.
    ///
    /// # Errors
    /// [`KernelError::Range`] for an expert or a number of slots beyond [`MAX_ID`], or a negative expert.
    pub fn new<I: Copy + Into<i64> + Sync>(experts: &[I]) -> Result<Self, KernelError> {
        error::range("slots", experts.len(), 0, MAX_ID as usize - 1)?;
        if let Some(expert) = experts.iter().map(|&id| id.into()).find(|expert| !(0..MAX_ID).contains(expert)) {
            let found = usize::try_from(expert).unwrap_or(usize::MAX);
            error::range("expert id", found, 0, MAX_ID as usize - 1)?;
        }
        let mut sorted: Vec<u32> = (0..experts.len() as u32).collect();
        sorted.par_sort_by_key(|&slot| experts[slot as usize].into());
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

    /// The sorted row of each slot where slots go by numbers of their own: what slot `s` would have is at `numbers[s]`
    /// (aclnnMoeInitRouting, whose rowIdx numbers by column: choice j of token t is `j * tokens + t`).
    ///
    /// - `numbers` host i32 `[slots]`; `out` host i32 `[slots]`; entries that no number names are not written.
    ///
    /// # Errors
    /// [`KernelError::Length`]; [`KernelError::RowIndex`] for a number that is none of a slot. CANN checks none.
    pub fn numbered_rows(&self, numbers: &[i32], out: &mut [i32]) -> Result<(), KernelError> {
        error::length("sorted indices", self.sorted.len(), out.len())?;
        self.check_numbers(numbers)?;
        for (row, &slot) in self.sorted.iter().enumerate() {
            out[numbers[slot as usize] as usize] = row as i32;
        }
        Ok(())
    }

    /// A value of each slot, in sorted order.
    ///
    /// - `values` host `V [slots]`, `out` host `V [slots]`.
    ///
    /// # Errors
    /// [`KernelError::Length`].
    pub fn reorder<V: Copy>(&self, values: &[V], out: &mut [V]) -> Result<(), KernelError> {
        error::length("values", self.sorted.len(), values.len())?;
        error::length("sorted values", self.sorted.len(), out.len())?;
        out.iter_mut().zip(&self.sorted).for_each(|(out, &slot)| *out = values[slot as usize]);
        Ok(())
    }

    /// Copies the tokens' rows to the first sorted rows, in parallel.
    ///
    /// - `src` host bytes `[slots / top_k, row_bytes]`, `dst` host bytes `[rows, row_bytes]`, at most as many rows as
    ///   slots.
    ///
    /// # Errors
    /// [`KernelError::Length`], [`KernelError::NotMultiple`] or [`KernelError::Range`] when sizes do not fit.
    pub fn copy(&self, src: &[u8], row_bytes: usize, top_k: usize, dst: &mut [u8]) -> Result<(), KernelError> {
        let tokens = error::divide("slots over top_k", self.sorted.len(), top_k)?;
        self.gather(src, row_bytes, tokens, |slot| slot / top_k, dst)
    }

    /// The same where slots go by numbers of their own: the token of slot `s` is `numbers[s] % tokens`.
    ///
    /// - `numbers` as in [`numbered_rows`](Self::numbered_rows), `src` host bytes `[tokens, row_bytes]`.
    ///
    /// # Errors
    /// Those of [`copy`](Self::copy) and of [`numbered_rows`](Self::numbered_rows).
    pub fn copy_numbered(
        &self,
        src: &[u8],
        row_bytes: usize,
        tokens: usize,
        numbers: &[i32],
        dst: &mut [u8],
    ) -> Result<(), KernelError> {
        error::divide("slots over tokens", self.sorted.len(), tokens)?;
        self.check_numbers(numbers)?;
        self.gather(src, row_bytes, tokens, |slot| numbers[slot] as usize % tokens, dst)
    }

    fn check_numbers(&self, numbers: &[i32]) -> Result<(), KernelError> {
        let rows = self.sorted.len();
        error::length("numbers of slots", rows, numbers.len())?;
        match numbers.iter().position(|&number| usize::try_from(number).map_or(true, |number| number >= rows)) {
            Some(slot) => Err(KernelError::RowIndex { slot, row: numbers[slot], rows, minus_one: false }),
            None => Ok(()),
        }
    }

    fn gather(
        &self,
        src: &[u8],
        row_bytes: usize,
        tokens: usize,
        token: impl Fn(usize) -> usize + Sync,
        dst: &mut [u8],
    ) -> Result<(), KernelError> {
        error::length("tokens", error::product("tokens", &[tokens, row_bytes])?, src.len())?;
        if dst.is_empty() {
            return Ok(());
        }
        let rows = error::divide("permuted rows", dst.len(), row_bytes)?;
        error::range("permuted rows", rows, 0, self.sorted.len())?;
        let copy = |(row, &slot): (&mut [u8], &u32)| {
            row.copy_from_slice(&src[token(slot as usize) * row_bytes..][..row_bytes]);
        };
        dst.par_chunks_mut(row_bytes).zip(&self.sorted[..rows]).with_min_len((32 << 10) / row_bytes + 1).for_each(copy);
        Ok(())
    }
}
