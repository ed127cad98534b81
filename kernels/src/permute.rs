//! Sorting rows by expert: tokens by the ids of their experts, and rows that arrived from several ranks.
//!
//! Sources: ops-transformer 9.1.0, moe/moe_token_permute, moe/moe_token_permute_with_ep, moe/moe_re_routing and
//! moe/moe_init_routing (the first version).

use crate::error::{self, KernelError};
use crate::rows;

/// Expert ids and slot numbers stay below this: CANN sorts them as f32.
pub const MAX_ID: i64 = 16_777_215;

/// The slots sorted by expert; those of one expert keep their order. A slot is one choice of one token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permutation {
    pub(crate) sorted: Vec<u32>,
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
        Ok(Self { sorted: sort_slots(experts.len(), |slot| experts[slot].into() as usize) })
    }

    /// Brings rows that lie by rank, and by expert within a rank, into the order of the experts, and of the ranks
    /// within an expert. A slot is a row where it lies.
    ///
    /// - `counts` host i64 `[ranks, experts]`: rows of each expert from each rank, `rows` in all.
    ///
    /// # Errors
    /// [`KernelError::GroupNegative`], [`KernelError::GroupRows`] where they count more rows than there are,
    /// [`KernelError::Length`] where fewer; [`KernelError::NotMultiple`], [`KernelError::TooLarge`].
    pub fn regroup(counts: &[i64], experts: usize, rows: usize) -> Result<Self, KernelError> {
        let ranks = error::divide("counts over experts", counts.len(), experts)?;
        if rows > i32::MAX as usize {
            return Err(KernelError::TooLarge { what: "rows" });
        }
        let mut starts = Vec::with_capacity(counts.len());
        let mut total = 0;
        for (entry, &value) in counts.iter().enumerate() {
            let count = usize::try_from(value).map_err(|_| KernelError::GroupNegative { entry, value })?;
            starts.push(total as u32);
            if count > rows - total {
                return Err(KernelError::GroupRows { entry, end: total as i128 + i128::from(value), rows });
            }
            total += count;
        }
        error::length("rows that the counts add up to", rows, total)?;
        let blocks = (0..experts).flat_map(|expert| (0..ranks).map(move |rank| rank * experts + expert));
        let sorted = blocks.flat_map(|block| (0..counts[block] as u32).map(move |row| (block, row)));
        Ok(Self { sorted: sorted.map(|(block, row)| starts[block] + row).collect() })
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

    /// Copies the tokens' rows to the sorted rows from `first` on, in parallel.
    ///
    /// - `src` host bytes `[slots / top_k, row_bytes]`, `dst` host bytes `[rows, row_bytes]`, no
    ///   more rows than slots from `first` on.
    ///
    /// # Errors
    /// [`KernelError::Length`], [`KernelError::NotMultiple`] or [`KernelError::Range`] when sizes do not fit.
    pub fn copy(
        &self,
        src: &[u8],
        row_bytes: usize,
        top_k: usize,
        first: usize,
        dst: &mut [u8],
    ) -> Result<(), KernelError> {
        let tokens = error::divide("slots over top_k", self.sorted.len(), top_k)?;
        self.gather(src, row_bytes, tokens, first, |slot| slot / top_k, dst)
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
        self.gather(src, row_bytes, tokens, 0, |slot| numbers[slot] as usize % tokens, dst)
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
        first: usize,
        token: impl Fn(usize) -> usize + Sync,
        dst: &mut [u8],
    ) -> Result<(), KernelError> {
        error::length("tokens", error::product("tokens", &[tokens, row_bytes])?, src.len())?;
        if dst.is_empty() {
            return Ok(());
        }
        let rows = error::divide("permuted rows", dst.len(), row_bytes)?;
        error::range("first permuted row", first, 0, self.sorted.len())?;
        error::range("permuted rows", rows, 0, self.sorted.len() - first)?;
        rows::gather(src, row_bytes, &self.sorted[first..first + rows], token, dst);
        Ok(())
    }
}

/// The slots in ascending order of their experts, those of one expert in their own: one pass of counting for each 12 bits that the
/// experts' numbers have.
fn sort_slots(slots: usize, expert: impl Fn(usize) -> usize) -> Vec<u32> {
    const DIGITS: usize = 1 << 12;
    let most = (0..slots).map(&expert).max().unwrap_or(0);
    let mut sorted: Vec<u32> = (0..slots as u32).collect();
    let mut next = vec![0u32; DIGITS.min(most + 1)];
    let mut unit = 1;
    while unit <= most {
        let digit = |slot: u32| expert(slot as usize) / unit % DIGITS;
        next.fill(0);
        sorted.iter().for_each(|&slot| next[digit(slot)] += 1);
        let mut total = 0;
        next.iter_mut().for_each(|next| total += std::mem::replace(next, total));
        let mut target = vec![0; slots];
        for &slot in &sorted {
            let next = &mut next[digit(slot)];
            target[*next as usize] = slot;
            *next += 1;
        }
        sorted = target;
        unit *= DIGITS;
    }
    sorted
}

/// Copies row `slots[i] / top_k` to row i, in parallel.
///
/// - `src` host bytes `[rows, row_bytes]`, `dst` host bytes `[slots, row_bytes]`.
///
/// # Errors
/// [`KernelError::Length`] or [`KernelError::NotMultiple`] when sizes do not fit, [`KernelError::Range`] for a row that
/// does not exist or a `top_k` of 0.
pub fn copy_rows(src: &[u8], row_bytes: usize, slots: &[u32], top_k: usize, dst: &mut [u8]) -> Result<(), KernelError> {
    error::range("top_k", top_k, 1, usize::MAX)?;
    error::length("rows", error::product("rows", &[slots.len(), row_bytes])?, dst.len())?;
    if dst.is_empty() {
        return Ok(());
    }
    let rows = error::divide("source rows", src.len(), row_bytes)?;
    if let Some(last) = slots.iter().max() {
        let row = *last as usize / top_k;
        if row >= rows {
            return Err(KernelError::Range { what: "row", value: row, min: 0, max: rows.saturating_sub(1) });
        }
    }
    rows::gather(src, row_bytes, slots, |slot| slot / top_k, dst);
    Ok(())
}
