//! Which token goes to which expert as a map of flags: the experts' rows in order, all of them or a fixed number for
//! each.
//!
//! Sources: ops-transformer 9.1.0, moe/moe_token_permute_with_routing_map and moe/moe_token_unpermute_with_routing_map.

use crate::element::Float;
use crate::error::{self, KernelError};
use crate::permute::{MAX_ID, Permutation};

/// The marks of `[tokens, experts]`. A place is an entry of the map, number `token * experts + expert`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutingMap<'a> {
    flags: &'a [u8],
    tokens: usize,
    experts: usize,
}

impl<'a> RoutingMap<'a> {
    /// Takes a map.
    ///
    /// - `flags` host u8 `[tokens, experts]`, each 0 or 1.
    ///
    /// # Errors
    /// [`KernelError::Length`], [`KernelError::TooLarge`] for more places than 32 bits number, [`KernelError::Range`]
    /// for another value than 0 and 1.
    pub fn new(flags: &'a [u8], tokens: usize, experts: usize) -> Result<Self, KernelError> {
        error::length("routing map", error::product("routing map", &[tokens, experts])?, flags.len())?;
        if flags.len() > u32::MAX as usize {
            return Err(KernelError::TooLarge { what: "routing map" });
        }
        flags.iter().try_for_each(|&flag| error::range("entry of the routing map", flag.into(), 0, 1))?;
        Ok(Self { flags, tokens, experts })
    }

    /// The marked places, by expert, those of one expert by token.
    pub fn marked(&self) -> Vec<u32> {
        let places = (0..self.experts).flat_map(|expert| (0..self.tokens).map(move |t| t * self.experts + expert));
        places.filter(|&place| self.flags[place] == 1).map(|place| place as u32).collect()
    }

    /// The order of the marked places. A slot is token `slot / top_k` and one of its experts, which ascend.
    ///
    /// # Errors
    /// [`KernelError::Chosen`] for a token that has another number of experts than `top_k`, [`KernelError::Range`] for
    /// [`MAX_ID`] slots and more.
    pub fn permutation(&self, top_k: usize) -> Result<Permutation, KernelError> {
        let slots = error::product("tokens x top_k", &[self.tokens, top_k])?;
        error::range("slots", slots, 0, MAX_ID as usize - 1)?;
        for (token, row) in self.flags.chunks(self.experts.max(1)).enumerate() {
            let chosen = row.iter().filter(|flag| **flag == 1).count();
            if chosen != top_k {
                return Err(KernelError::Chosen { token, chosen, top_k });
            }
        }
        if self.experts == 0 && slots > 0 {
            return Err(KernelError::Chosen { token: 0, chosen: 0, top_k });
        }
        let mut next: Vec<u32> = (0..self.tokens).map(|token| (token * top_k) as u32).collect();
        let slot = |place: u32| {
            let next = &mut next[place as usize / self.experts];
            *next += 1;
            *next - 1
        };
        Ok(Permutation { sorted: self.marked().into_iter().map(slot).collect() })
    }

    /// For each expert its first `capacity` tokens: the marked ones, ascending, then the others, ascending.
    ///
    /// # Errors
    /// [`KernelError::Range`] for a capacity above the number of tokens.
    pub fn first_tokens(&self, capacity: usize) -> Result<Vec<u32>, KernelError> {
        error::range("capacity", capacity, 0, self.tokens)?;
        let mut chosen = Vec::with_capacity(self.experts * capacity);
        for expert in 0..self.experts {
            let with = |mark: u8| {
                (0..self.tokens).filter(move |t| self.flags[t * self.experts + expert] == mark).map(|t| t as u32)
            };
            chosen.extend(with(1).chain(with(0)).take(capacity));
        }
        Ok(chosen)
    }
}

/// The places of tokens that lie by expert, as many for each.
///
/// - `tokens_of_rows` host u32 `[experts, capacity]`, each below `tokens`.
///
/// # Errors
/// [`KernelError::NotMultiple`], [`KernelError::TooLarge`]; [`KernelError::RowIndex`] for a token that does not exist.
pub fn places(tokens_of_rows: &[u32], tokens: usize, experts: usize) -> Result<Vec<u32>, KernelError> {
    let capacity = error::divide("rows over experts", tokens_of_rows.len(), experts)?;
    if error::product("places", &[tokens, experts])? > u32::MAX as usize {
        return Err(KernelError::TooLarge { what: "places" });
    }
    let place = |(slot, &token): (usize, &u32)| {
        if token as usize >= tokens {
            return Err(KernelError::RowIndex { slot, row: token as i32, rows: tokens, minus_one: false });
        }
        Ok((token as usize * experts + slot / capacity) as u32)
    };
    tokens_of_rows.iter().enumerate().map(place).collect()
}

/// The weight of each slot's row, 0 where the slot has none.
///
/// - `weights` host `P [rows]`; `rows_of_slots` host i32 `[slots]`, negative for none.
///
/// # Errors
/// [`KernelError::RowIndex`] for a row that has no weight.
pub fn weights_of_slots<P: Float>(weights: &[P], rows_of_slots: &[i32]) -> Result<Vec<P>, KernelError> {
    let weight = |(slot, &row): (usize, &i32)| match usize::try_from(row) {
        Err(_) => Ok(P::from_f32(0.0)),
        Ok(index) => {
            let missing = KernelError::RowIndex { slot, row, rows: weights.len(), minus_one: true };
            weights.get(index).copied().ok_or(missing)
        }
    };
    rows_of_slots.iter().enumerate().map(weight).collect()
}
