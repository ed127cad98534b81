//! Expanding tokens to experts: which row goes where, counts per expert, and the copies.
//!
//! A [`Routing`] is the sorted order; the attributes of aclnnMoeInitRoutingV3 are methods of it: rowIdxType 0 and 1 are
//! [`Routing::gather_index`] and [`Routing::scatter_index`], expertTokensNumType is [`Routing::write_counts`], dropPadMode 0 is
//! [`Routing::expand`], 1 is [`Routing::expand_drop_pad`]. A slot is one choice of one token, number `token * top_k + j`.
//!
//! Source: ops-transformer 9.1.0, moe/moe_init_routing_v3.

use std::ops::Range;

use rayon::prelude::*;

use crate::error::{self, KernelError};
use crate::group_list::GroupListKind;
use crate::rows::{self, TASK_BYTES};

/// The slots of the active experts, sorted by expert; slots of one expert keep their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    experts: Range<usize>,
    slot_count: usize,
    sorted: Vec<u32>,
    counts: Vec<usize>,
}

impl Routing {
    /// Sorts the slots whose expert is in `experts` (activeExpertRange); any other id, negative or too large, is not available.
    ///
    /// - `expert_ids` host i32 `[tokens, top_k]`.
    ///
    /// # Errors
    /// [`KernelError::TooLarge`] for more than 2^31 - 1 slots or experts, which 32-bit row numbers cannot name;
    /// [`KernelError::Range`] for a range that ends before it starts.
    pub fn new(expert_ids: &[i32], experts: Range<usize>) -> Result<Self, KernelError> {
        const MOST: usize = i32::MAX as usize;
        if expert_ids.len() > MOST || experts.end > MOST {
            return Err(KernelError::TooLarge { what: "expert ids" });
        }
        error::range("first active expert", experts.start, 0, experts.end)?;
        let local = |id: i32| usize::try_from(id).ok().filter(|id| experts.contains(id)).map(|id| id - experts.start);
        let mut counts = vec![0usize; experts.len()];
        for expert in expert_ids.iter().filter_map(|id| local(*id)) {
            counts[expert] += 1;
        }
        let mut next = Vec::with_capacity(counts.len());
        let mut total = 0;
        for count in &counts {
            next.push(total);
            total += count;
        }
        let mut sorted = vec![0u32; total];
        for (slot, id) in expert_ids.iter().enumerate() {
            if let Some(expert) = local(*id) {
                sorted[next[expert]] = slot as u32;
                next[expert] += 1;
            }
        }
        Ok(Self { experts, slot_count: expert_ids.len(), sorted, counts })
    }

    /// The active experts.
    pub fn experts(&self) -> Range<usize> {
        self.experts.clone()
    }

    /// All slots, available or not: tokens x top_k.
    pub fn slot_count(&self) -> usize {
        self.slot_count
    }

    /// The available slots in sorted order: row i of the expanded matrix comes from slot `sorted()[i]`.
    pub fn sorted(&self) -> &[u32] {
        &self.sorted
    }

    /// Slots of each active expert.
    pub fn counts(&self) -> &[usize] {
        &self.counts
    }

    /// Sorts the slots of all experts, where each slot must have one: aclnnMoeInitRoutingV2 where it counts or pads.
    ///
    /// - `expert_ids` host i32 `[tokens, top_k]`.
    ///
    /// # Errors
    /// Those of [`new`](Self::new); [`KernelError::ExpertId`] for an id that is no expert. CANN checks none.
    pub fn complete(expert_ids: &[i32], experts: usize) -> Result<Self, KernelError> {
        let exists = |id: &i32| usize::try_from(*id).is_ok_and(|id| id < experts);
        match expert_ids.iter().position(|id| !exists(id)) {
            Some(slot) => Err(KernelError::ExpertId { slot, expert: expert_ids[slot], experts }),
            None => Self::new(expert_ids, 0..experts),
        }
    }

    /// Writes the counts of the active experts as a group list.
    ///
    /// - `out` host i64 or i32 `[active experts]`; for [`GroupListKind::KeyValue`] `[all experts, 2]`: the non-empty
    ///   experts, ascending, as pairs of global id and count, then zeros up to row `active experts + 1`; **rows after that
    ///   are not written** (CANN's multi-core path leaves them too, its small path zeroes them).
    ///
    /// # Errors
    /// [`KernelError::Length`], and for pairs [`KernelError::NotMultiple`], when `out` has another size.
    pub fn write_counts<C: From<i32> + Copy>(&self, kind: GroupListKind, out: &mut [C]) -> Result<(), KernelError> {
        match kind {
            GroupListKind::Count | GroupListKind::Cumsum => {
                error::length("counts", self.counts.len(), out.len())?;
                let mut sum = 0;
                for (out, &count) in out.iter_mut().zip(&self.counts) {
                    sum += count;
                    *out = C::from(if kind == GroupListKind::Count { count } else { sum } as i32);
                }
            }
            GroupListKind::KeyValue => {
                let rows = error::divide("counts", out.len(), 2)?;
                error::range("rows of counts", rows, self.counts.len(), usize::MAX)?;
                let pairs = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
                let zeros = std::iter::repeat([C::from(0); 2]);
                let pairs =
                    pairs.map(|(expert, &count)| [self.experts.start + expert, count].map(|n| C::from(n as i32)));
                let written = rows.min(self.counts.len() + 1);
                for (out, pair) in out.as_chunks_mut::<2>().0.iter_mut().zip(pairs.chain(zeros)).take(written) {
                    *out = pair;
                }
            }
        }
        Ok(())
    }

    /// For every slot the row it went to, -1 for slots that are not available (rowIdxType 0).
    ///
    /// - `out` host i32 `[slots]`.
    ///
    /// # Errors
    /// [`KernelError::Length`].
    pub fn gather_index(&self, out: &mut [i32]) -> Result<(), KernelError> {
        error::length("row index", self.slot_count, out.len())?;
        out.fill(-1);
        for (row, &slot) in self.sorted.iter().enumerate() {
            out[slot as usize] = row as i32;
        }
        Ok(())
    }

    /// For every row the slot it came from (rowIdxType 1); entries past the available slots are not written.
    ///
    /// - `out` host i32 `[slots]`.
    ///
    /// # Errors
    /// [`KernelError::Length`].
    pub fn scatter_index(&self, out: &mut [i32]) -> Result<(), KernelError> {
        error::length("row index", self.slot_count, out.len())?;
        for (out, &slot) in out.iter_mut().zip(&self.sorted) {
            *out = slot as i32;
        }
        Ok(())
    }

    /// Copies each available slot's token row to its place, in parallel (dropPadMode 0). The pass-through scale of quantMode -1 is
    /// the same copy of rows of 4 bytes.
    ///
    /// - `src` host bytes `[tokens, row_bytes]` with `tokens * top_k` slots.
    /// - `active_rows` (activeNum): only so many rows are written; `None` for all.
    /// - `dst` host bytes `[rows, row_bytes]`, at least as many rows as are written; **the others are not touched**.
    ///
    /// Returns the number of rows written.
    ///
    /// # Errors
    /// [`KernelError::Length`], [`KernelError::NotMultiple`] or [`KernelError::Range`] when sizes do not fit.
    pub fn expand(
        &self,
        src: &[u8],
        row_bytes: usize,
        top_k: usize,
        active_rows: Option<usize>,
        dst: &mut [u8],
    ) -> Result<usize, KernelError> {
        self.check_tokens(src, row_bytes, top_k)?;
        let written = active_rows.map_or(self.sorted.len(), |rows| rows.min(self.sorted.len()));
        let rows = error::divide("expanded rows", dst.len(), row_bytes)?;
        if row_bytes > 0 {
            error::range("expanded rows", rows, written, usize::MAX)?;
            rows::gather(src, row_bytes, &self.sorted[..written], |slot| slot / top_k, &mut dst[..written * row_bytes]);
        }
        Ok(written)
    }

    /// For every slot the row `expert * capacity + r` it went to, where r numbers the slots of an expert; -1 for slots beyond the
    /// capacity and for those not available (dropPadMode 1).
    ///
    /// - `out` host i32 `[slots]`.
    ///
    /// # Errors
    /// [`KernelError::Length`], or [`KernelError::TooLarge`] when rows do not fit 32 bits.
    pub fn drop_pad_index(&self, capacity: usize, out: &mut [i32]) -> Result<(), KernelError> {
        error::length("row index", self.slot_count, out.len())?;
        let rows = error::product("experts x capacity", &[self.counts.len(), capacity])?;
        if rows > i32::MAX as usize {
            return Err(KernelError::TooLarge { what: "experts x capacity" });
        }
        out.fill(-1);
        for (expert, slots) in self.by_expert().enumerate() {
            for (r, &slot) in slots.iter().take(capacity).enumerate() {
                out[slot as usize] = (expert * capacity + r) as i32;
            }
        }
        Ok(())
    }

    /// Copies the first `capacity` slots of each expert to its rows and zeroes the rows that stay empty, in parallel
    /// (dropPadMode 1). The counts of [`write_counts`](Self::write_counts) are those before the capacity.
    ///
    /// - `src` host bytes `[tokens, row_bytes]`, `dst` host bytes `[active experts, capacity, row_bytes]`.
    ///
    /// # Errors
    /// [`KernelError::Length`] or [`KernelError::NotMultiple`] when sizes do not fit.
    pub fn expand_drop_pad(
        &self,
        src: &[u8],
        row_bytes: usize,
        top_k: usize,
        capacity: usize,
        dst: &mut [u8],
    ) -> Result<(), KernelError> {
        self.check_tokens(src, row_bytes, top_k)?;
        error::length("dst", error::product("dst", &[self.counts.len(), capacity, row_bytes])?, dst.len())?;
        if dst.is_empty() {
            return Ok(());
        }
        let by_expert: Vec<&[u32]> = self.by_expert().collect();
        dst.par_chunks_mut(row_bytes).enumerate().with_min_len(TASK_BYTES.div_ceil(row_bytes)).for_each(
            |(row, dst)| match by_expert[row / capacity].get(row % capacity) {
                Some(&slot) => dst.copy_from_slice(token_row(src, row_bytes, slot as usize / top_k)),
                None => dst.fill(0),
            },
        );
        Ok(())
    }

    /// The sorted slots of each active expert.
    fn by_expert(&self) -> impl Iterator<Item = &[u32]> {
        let mut rest = self.sorted.as_slice();
        self.counts.iter().map(move |&count| {
            let (slots, after) = rest.split_at(count);
            rest = after;
            slots
        })
    }

    fn check_tokens(&self, src: &[u8], row_bytes: usize, top_k: usize) -> Result<(), KernelError> {
        let tokens = error::divide("slots over top_k", self.slot_count, top_k)?;
        error::length("src", error::product("src", &[tokens, row_bytes])?, src.len())
    }
}

fn token_row(src: &[u8], row_bytes: usize, token: usize) -> &[u8] {
    &src[token * row_bytes..][..row_bytes]
}
