//! The best few of many values, in order, without sorting the others.
//!
//! NaN comes first, then descending values, then ascending places. Values are compared as ranks: whole numbers that are greater the
//! better the value is. A value must not be -0, which is as great as 0 and would rank below it.

use crate::vectors::vectorised;

/// Ranks that are compared at once.
const LANES: usize = 16;

/// One block of ranks.
type Block = [i32; LANES];

/// The rank of nothing, below that of every value.
pub(crate) const NOTHING: i32 = i32::MIN;

/// The rank of a value.
#[inline(always)]
pub(crate) fn rank(value: f32) -> i32 {
    let bits = value.to_bits() as i32;
    let ordered = bits ^ ((bits >> 31) as u32 >> 1) as i32;
    if value.is_nan() { i32::MAX } else { ordered }
}

/// The value of a rank.
#[inline(always)]
pub(crate) fn value(rank: i32) -> f32 {
    f32::from_bits((rank ^ ((rank >> 31) as u32 >> 1) as i32) as u32)
}

/// The sum of the `n` best values, from the best on, of at least so many.
#[inline(always)]
pub(crate) fn sum_of_best(ranks: &[i32], n: usize) -> f32 {
    let [first, second] = best_two(ranks);
    match n {
        1 => 0.0 + value(first),
        2 => 0.0 + value(first) + value(second),
        _ => sum_of_many(ranks, n),
    }
}

/// The two greatest ranks.
#[inline(always)]
fn best_two(ranks: &[i32]) -> [i32; 2] {
    let (mut first, mut second) = ([NOTHING; LANES], [NOTHING; LANES]);
    let mut add = |block: &Block| {
        for ((first, second), rank) in first.iter_mut().zip(&mut second).zip(block) {
            *second = (*first).min(*rank).max(*second);
            *first = (*first).max(*rank);
        }
    };
    let (blocks, rest) = ranks.as_chunks::<LANES>();
    blocks.iter().for_each(&mut add);
    if !rest.is_empty() {
        let mut last = [NOTHING; LANES];
        last[..rest.len()].copy_from_slice(rest);
        add(&last);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            let (one, other) = (first[lane], first[lane + width]);
            first[lane] = one.max(other);
            second[lane] = one.min(other).max(second[lane]).max(second[lane + width]);
        }
        width /= 2;
    }
    [first[0], second[0]]
}

/// The sum from the best value down, equal ones at once.
#[inline(always)]
fn sum_of_many(ranks: &[i32], n: usize) -> f32 {
    let (mut sum, mut left, mut limit) = (0.0, n, i32::MAX);
    while left > 0 && limit > NOTHING {
        let best = ranks.iter().fold(NOTHING, |best, &rank| if rank <= limit { rank.max(best) } else { best });
        let equal = ranks.iter().filter(|rank| **rank == best).count().min(left);
        sum = (0..equal).fold(sum, |sum, _| sum + value(best));
        left -= equal;
        limit = best.saturating_sub(1);
    }
    sum
}

/// Ranks of which the best are taken, kept from one use to the next.
#[derive(Debug, Default)]
pub(crate) struct Ranks {
    /// In blocks, the last one filled up with nothing.
    blocks: Vec<Block>,
    /// Ranks that may be among the best, with their places.
    keys: Vec<u64>,
}

impl Ranks {
    /// Room for `len` ranks, all of which are to be written.
    #[inline(always)]
    pub(crate) fn reset(&mut self, len: usize) -> &mut [i32] {
        self.blocks.resize(len.div_ceil(LANES), [NOTHING; LANES]);
        if let Some(last) = self.blocks.last_mut() {
            *last = [NOTHING; LANES];
        }
        &mut self.blocks.as_flattened_mut()[..len]
    }

    /// Puts the places of the best ranks into `chosen`, the best first. There must be as many that are not nothing.
    #[inline(always)]
    pub(crate) fn best(&mut self, chosen: &mut [u32]) {
        /// Keys of which each is compared with each other one.
        const FEW: usize = 32;
        let Self { blocks, keys } = self;
        let least = lower_bound(blocks, chosen.len());
        keys.clear();
        for (part, blocks) in blocks.chunks(4).enumerate() {
            let lanes = |(index, block): (usize, &Block)| u64::from(lanes_from(block, least)) << (index * LANES);
            let mut lanes = blocks.iter().enumerate().map(lanes).fold(0, |all, lanes| all | lanes);
            while lanes != 0 {
                let lane = lanes.trailing_zeros() as usize;
                keys.push(key(blocks.as_flattened()[lane], part * 4 * LANES + lane));
                lanes &= lanes - 1;
            }
        }
        if keys.len() <= FEW {
            for &key in &*keys {
                let place = keys.iter().fold(0, |before, other| before + usize::from(*other < key));
                if let Some(chosen) = chosen.get_mut(place) {
                    *chosen = key as u32;
                }
            }
            return;
        }
        if chosen.len() < keys.len() {
            keys.select_nth_unstable(chosen.len());
            keys.truncate(chosen.len());
        }
        keys.sort_unstable();
        chosen.iter_mut().zip(keys).for_each(|(chosen, key)| *chosen = *key as u32);
    }

    #[inline(always)]
    fn best_of(&mut self, values: &[f32], chosen: &mut [u32]) {
        for (out, value) in self.reset(values.len()).iter_mut().zip(values) {
            // 0 is added because -0 is as great as 0.
            *out = rank(*value + 0.0);
        }
        self.best(chosen);
    }
}

/// Orders descending ranks, then ascending places.
#[inline(always)]
fn key(rank: i32, place: usize) -> u64 {
    let descending = !(rank as u32 ^ 1 << 31);
    u64::from(descending) << 32 | place as u64
}

/// A rank that at least `n` ranks reach, the greatest that is easily known: of the best of each lane, the `n`th.
#[inline(always)]
fn lower_bound(blocks: &[Block], n: usize) -> i32 {
    let mut best = [NOTHING; LANES];
    for block in blocks {
        best.iter_mut().zip(block).for_each(|(best, rank)| *best = (*best).max(*rank));
    }
    let mut reached = [0i32; LANES];
    for other in best {
        reached.iter_mut().zip(&best).for_each(|(reached, rank)| *reached += i32::from(other >= *rank));
    }
    let by_n = best.iter().zip(&reached).map(|(rank, reached)| if *reached >= n as i32 { *rank } else { NOTHING });
    by_n.fold(NOTHING, i32::max).max(NOTHING + 1)
}

/// A bit for each lane whose rank is `least` or more.
#[inline(always)]
fn lanes_from(block: &Block, least: i32) -> u16 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{
            _mm_cmpgt_epi32, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_packs_epi32, _mm_set1_epi32,
        };
        let (quarters, _) = block.as_chunks::<4>();
        // SAFETY: SSE2, which every x86-64 has; 16 bytes are read of each quarter, which has them.
        let below = unsafe {
            let below =
                |quarter: &[i32; 4]| _mm_cmpgt_epi32(_mm_set1_epi32(least), _mm_loadu_si128(quarter.as_ptr().cast()));
            let low = _mm_packs_epi32(below(&quarters[0]), below(&quarters[1]));
            let high = _mm_packs_epi32(below(&quarters[2]), below(&quarters[3]));
            _mm_movemask_epi8(_mm_packs_epi16(low, high))
        };
        !below as u16
    }
    #[cfg(not(target_arch = "x86_64"))]
    block.iter().enumerate().fold(0, |lanes, (lane, rank)| lanes | u16::from(*rank >= least) << lane)
}

vectorised! {
    /// Puts the places of the best values into `chosen`, the best first. There must be as many.
    pub(crate) fn best(ranks: &mut Ranks, values: &[f32], chosen: &mut [u32]) = Ranks::best_of;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::Vectors;
    use proptest::prelude::*;

    #[test]
    fn ranks_order_as_values_do() {
        let values = [f32::NEG_INFINITY, -f32::MAX, -1.0, -1e-45, 0.0, 1e-45, 1.0, f32::MAX, f32::INFINITY, f32::NAN];
        assert!(values.map(rank).is_sorted_by(|a, b| a < b) && rank(values[0]) > NOTHING);
        assert_eq!(rank(-f32::NAN), rank(f32::NAN));
        assert!(
            values.iter().all(|v| v.is_nan() && value(rank(*v)).is_nan() || value(rank(*v)).to_bits() == v.to_bits())
        );
    }

    proptest! {
        #[test]
        fn the_best_are_those_of_a_sort(
            values in prop::collection::vec(prop::sample::select(vec![-1f32, -0.0, 0.0, 0.5, 7.0, f32::NAN]), 1..600),
            n in 1..20usize,
        ) {
            let n = n.min(values.len());
            let mut sorted: Vec<u32> = (0..values.len() as u32).collect();
            let key = |place: &u32| std::cmp::Reverse(rank(values[*place as usize] + 0.0));
            sorted.sort_by_key(key);
            let expected: f32 = sorted[..n].iter().fold(0.0, |sum, place| sum + values[*place as usize]);
            for vectors in Vectors::available() {
                let mut chosen = vec![0; n];
                best(vectors, &mut Ranks::default(), &values, &mut chosen);
                prop_assert_eq!(&chosen, &sorted[..n]);
            }
            let ranks: Vec<i32> = values.iter().map(|v| rank(*v + 0.0)).collect();
            let sum = sum_of_best(&ranks, n);
            prop_assert!(sum == expected || sum.is_nan() && expected.is_nan());
        }
    }
}
