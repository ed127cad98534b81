//! Expanding tokens to experts: which row goes where, counts per expert, and the copies.
//!
//! A [`Routing`] is the sorted order; the attributes of aclnnMoeInitRoutingV3 are methods of it: rowIdxType 0 and 1 are
//! [`Routing::gather_index`] and [`Routing::scatter_index`], expertTokensNumType is [`Routing::write_counts`], dropPadMode 0 is
//! [`Routing::expand`], 1 is [`Routing::expand_drop_pad`]; quantMode 0 is [`Routing::expand_static`], 1 is
//! [`Routing::expand_dynamic`]. A slot is one choice of one token, number `token * top_k + j`.
//!
//! Source: ops-transformer 9.1.0, moe/moe_init_routing_v3.

use std::ops::Range;

use rayon::prelude::*;

use crate::element::Float;
use crate::error::{self, KernelError};
use crate::group_list::GroupListKind;
use crate::quantise::{Conversion, Given, Integer, RowQuantiser, Smooth, dynamic_quantise, smoothed, static_quantise};
use crate::rows::{self, TASK_BYTES};

/// Which rows the expanded matrix has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// The available slots in sorted order (dropPadMode 0); only so many where `active_rows` (activeNum) says so.
    Dropless {
        /// Rows that are written at most.
        active_rows: Option<usize>,
    },
    /// The first `capacity` slots of each expert, and zeros where there are fewer (dropPadMode 1).
    DropPad {
        /// Rows of each expert.
        capacity: usize,
    },
}

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

    /// Copies each token's row to its places, as [`expand`](Self::expand) or [`expand_drop_pad`](Self::expand_drop_pad) does.
    ///
    /// # Errors
    /// Theirs.
    pub fn place(
        &self,
        placement: Placement,
        src: &[u8],
        row_bytes: usize,
        top_k: usize,
        dst: &mut [u8],
    ) -> Result<(), KernelError> {
        match placement {
            Placement::Dropless { active_rows } => self.expand(src, row_bytes, top_k, active_rows, dst).map(|_| ()),
            Placement::DropPad { capacity } => self.expand_drop_pad(src, row_bytes, top_k, capacity, dst),
        }
    }

    /// Quantises each token's row by one scale and one offset and copies it to its places (quantMode 0).
    ///
    /// - `x` host `T [tokens, width]`; `dst` host int8 rows of `placement`, as bytes.
    ///
    /// # Errors
    /// [`KernelError::Length`], [`KernelError::NotMultiple`] or [`KernelError::Range`] when sizes do not fit.
    pub fn expand_static<T: Float>(
        &self,
        placement: Placement,
        x: &[T],
        top_k: usize,
        (scale, offset): (f32, f32),
        dst: &mut [u8],
    ) -> Result<(), KernelError> {
        let tokens = error::divide("slots over top_k", self.slot_count, top_k)?;
        let width = error::divide("x", x.len(), tokens)?;
        let mut rows = vec![0; x.len()];
        static_quantise(Integer::Int8, Conversion::Nearest, x, width, Given::one(&scale, &offset), &mut rows)?;
        self.place(placement, &rows, width, top_k, dst)
    }

    /// Quantises each available slot's token row, times the factors of its expert, with a scale of its own (quantMode 1).
    ///
    /// - `x` host `T [tokens, width]`; `smooth` host f32 `[active experts, width]` or `[width]`.
    /// - `dst` host rows of `placement`, bytes of int8 or int4; `scales` host f32, one for each row of `dst`. Rows that are not
    ///   written are not touched, with a capacity they and their scales are 0.
    ///
    /// # Errors
    /// [`KernelError::Length`], [`KernelError::NotMultiple`] or [`KernelError::Range`] when sizes do not fit.
    #[allow(clippy::too_many_arguments, reason = "one more than the others have: the scales that come of it")]
    pub fn expand_dynamic<T: Float>(
        &self,
        quantiser: RowQuantiser,
        placement: Placement,
        (x, width): (&[T], usize),
        top_k: usize,
        smooth: Option<&[f32]>,
        dst: &mut [u8],
        scales: &mut [f32],
    ) -> Result<(), KernelError> {
        let tokens = error::divide("slots over top_k", self.slot_count, top_k)?;
        let row_bytes = quantiser.integer.row_bytes(width)?;
        let Some(factors) = smooth.filter(|factors| factors.len() != width) else {
            // A token's row is the same wherever it goes.
            let mut rows = vec![0; error::product("x", &[tokens, row_bytes])?];
            let mut row_scales = vec![0f32; tokens];
            let smooth = smooth.map(|factors| Smooth { factors, groups: None });
            dynamic_quantise(quantiser, x, width, smooth, &mut rows, &mut row_scales)?;
            self.place(placement, &rows, row_bytes, top_k, dst)?;
            let (scale, out) = (bytemuck::cast_slice(&row_scales), bytemuck::cast_slice_mut(scales));
            return self.place(placement, scale, size_of::<f32>(), top_k, out);
        };
        error::length("x", error::product("x", &[tokens, width])?, x.len())?;
        error::length("smooth factors", error::product("smooth factors", &[self.counts.len(), width])?, factors.len())?;
        let (least, most) = self.rows_of(placement)?;
        let rows = error::divide("expanded rows", dst.len(), row_bytes)?;
        error::range("expanded rows", rows, least, most)?;
        error::length("scales", rows, scales.len())?;
        if row_bytes == 0 {
            return Ok(());
        }
        let starts: Vec<usize> = self.starts().collect();
        let out = dst.par_chunks_mut(row_bytes).zip(scales).enumerate();
        out.take(rows.min(least)).with_min_len(TASK_BYTES.div_ceil(row_bytes)).for_each(|(row, (out, scale))| {
            let Some((slot, expert)) = self.slot_of(placement, &starts, row) else {
                out.fill(0);
                *scale = 0.0;
                return;
            };
            let (x, factors) = (&x[slot / top_k * width..][..width], &factors[expert * width..][..width]);
            *scale = quantiser.quantise(width, &smoothed(x, Some(factors)), out);
        });
        Ok(())
    }

    /// Rows that are written, and the most that there may be.
    fn rows_of(&self, placement: Placement) -> Result<(usize, usize), KernelError> {
        match placement {
            Placement::Dropless { active_rows } => {
                Ok((active_rows.map_or(self.sorted.len(), |rows| rows.min(self.sorted.len())), usize::MAX))
            }
            Placement::DropPad { capacity } => {
                let rows = error::product("experts x capacity", &[self.counts.len(), capacity])?;
                Ok((rows, rows))
            }
        }
    }

    /// Where each active expert's slots start.
    fn starts(&self) -> impl Iterator<Item = usize> {
        self.counts.iter().scan(0, |next, count| {
            let start = *next;
            *next += count;
            Some(start)
        })
    }

    /// Slot and expert, counted from the first active one, of a row that is written.
    fn slot_of(&self, placement: Placement, starts: &[usize], row: usize) -> Option<(usize, usize)> {
        let (expert, place) = match placement {
            Placement::Dropless { .. } => (starts.partition_point(|start| *start <= row).checked_sub(1)?, row),
            Placement::DropPad { capacity } => {
                let (expert, place) = (row / capacity, row % capacity);
                (expert, (place < self.counts[expert]).then(|| starts[expert] + place)?)
            }
        };
        Some((*self.sorted.get(place)? as usize, expert))
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
