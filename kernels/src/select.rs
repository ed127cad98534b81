//! The best few of many values, in order, without sorting the others.
//!
//! NaN comes first, then descending values, then ascending places. Values are compared as ranks: whole numbers that are greater the
//! better the value is. A value must not be -0, which is as great as 0 and would rank below it.

use crate::vectors::vectorised;

/// Ranks that are compared at once.
const LANES: usize = 16;

/// One block of ranks.
type Block = [u32; LANES];

/// The rank of a value, which is not 0: that is the rank of nothing.
#[inline(always)]
pub(crate) fn rank(value: f32) -> u32 {
    let bits = value.to_bits();
    let negative = (bits as i32 >> 31) as u32;
    let ordered = bits ^ (negative | 1 << 31);
    if value.is_nan() { u32::MAX } else { ordered }
}

/// The value of a rank.
#[inline(always)]
pub(crate) fn value(rank: u32) -> f32 {
    let negative = !(rank as i32 >> 31) as u32;
    f32::from_bits(rank ^ (negative | 1 << 31))
}

/// The sum of the `n` best values, from the best on, of at least so many.
#[inline(always)]
pub(crate) fn sum_of_best(ranks: &[u32], n: usize) -> f32 {
    let (mut sum, mut left, mut limit) = (0.0, n, u32::MAX);
    while left > 0 && limit > 0 {
        let below = |rank: u32| if rank <= limit { rank } else { 0 };
        let best = maximum(ranks, below);
        let equal = count(ranks, best).min(left);
        sum = (0..equal).fold(sum, |sum, _| sum + value(best));
        left -= equal;
        limit = best.saturating_sub(1);
    }
    sum
}

#[inline(always)]
fn maximum(ranks: &[u32], of: impl Fn(u32) -> u32) -> u32 {
    let (blocks, rest) = ranks.as_chunks::<LANES>();
    let mut most = [0; LANES];
    for block in blocks {
        for (most, rank) in most.iter_mut().zip(block) {
            *most = of(*rank).max(*most);
        }
    }
    let rest = rest.iter().fold(0, |most, rank| of(*rank).max(most));
    most.into_iter().fold(rest, u32::max)
}

#[inline(always)]
fn count(ranks: &[u32], wanted: u32) -> usize {
    let (blocks, rest) = ranks.as_chunks::<LANES>();
    let mut counts = [0u32; LANES];
    for block in blocks {
        for (count, rank) in counts.iter_mut().zip(block) {
            *count += u32::from(*rank == wanted);
        }
    }
    let rest = rest.iter().filter(|rank| **rank == wanted).count();
    counts.into_iter().sum::<u32>() as usize + rest
}

/// The first place of a rank that is there.
#[inline(always)]
fn place(blocks: &[Block], wanted: u32) -> usize {
    let mut first = [u32::MAX; LANES];
    for (index, block) in blocks.iter().enumerate() {
        for (lane, (first, rank)) in first.iter_mut().zip(block).enumerate() {
            let place = (index * LANES + lane) as u32;
            *first = (*first).min(if *rank == wanted { place } else { u32::MAX });
        }
    }
    first.into_iter().fold(u32::MAX, u32::min) as usize
}

/// Ranks of which the best are taken, kept from one use to the next.
#[derive(Debug, Default)]
pub(crate) struct Ranks {
    /// In blocks, the last one filled up with 0.
    blocks: Vec<Block>,
    /// The greatest rank of each block, in blocks too.
    maxima: Vec<Block>,
}

impl Ranks {
    /// Room for `len` ranks, all of which are to be written.
    #[inline(always)]
    pub(crate) fn reset(&mut self, len: usize) -> &mut [u32] {
        self.blocks.resize(len.div_ceil(LANES), [0; LANES]);
        if let Some(last) = self.blocks.last_mut() {
            *last = [0; LANES];
        }
        &mut self.blocks.as_flattened_mut()[..len]
    }

    /// Puts the places of the best ranks into `chosen`, the best first. There must be as many.
    #[inline(always)]
    pub(crate) fn take_best(&mut self, chosen: &mut [u32]) {
        let Self { blocks, maxima } = self;
        maxima.clear();
        maxima.resize(blocks.len().div_ceil(LANES), [0; LANES]);
        for (most, block) in maxima.as_flattened_mut().iter_mut().zip(&*blocks) {
            *most = block.iter().copied().fold(0, u32::max);
        }
        for chosen in chosen {
            let best = maximum(maxima.as_flattened(), |rank| rank);
            let index = place(maxima, best);
            let Some(block) = blocks.get_mut(index) else { return };
            let lane = place(std::slice::from_ref(block), best);
            *chosen = (index * LANES + lane) as u32;
            // Whole blocks are written: a narrow store would hold up the wide loads that come next.
            for (at, rank) in block.iter_mut().enumerate() {
                *rank = if at == lane { 0 } else { *rank };
            }
            let most = block.iter().copied().fold(0, u32::max);
            for (at, max) in maxima[index / LANES].iter_mut().enumerate() {
                *max = if at == index % LANES { most } else { *max };
            }
        }
    }

    #[inline(always)]
    fn best_of(&mut self, values: &[f32], chosen: &mut [u32]) {
        for (out, value) in self.reset(values.len()).iter_mut().zip(values) {
            // 0 is added because -0 is as great as 0.
            *out = rank(*value + 0.0);
        }
        self.take_best(chosen);
    }
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
        assert!(values.map(rank).is_sorted_by(|a, b| a < b) && rank(values[0]) > 0);
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
            let ranks: Vec<u32> = values.iter().map(|v| rank(*v + 0.0)).collect();
            let sum = sum_of_best(&ranks, n);
            prop_assert!(sum == expected || sum.is_nan() && expected.is_nan());
        }
    }
}
