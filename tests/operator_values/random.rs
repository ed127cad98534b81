//! Random choices: shapes, values and layouts, from a seed.

use ascend_moe::DType;

use crate::number::{Float, Int, Number};

/// A small deterministic generator (the constants of Knuth's MMIX).
pub(crate) struct Random(u64);

/// What values to make.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Values {
    /// Everything that the dtype has, small numbers and ties often.
    Wild,
    /// Multiples of 1/8 from -8 to 8, whole ones for integers: sums of some hundred are exact in f32.
    Grid,
    /// Of a few magnitudes around 1, without ties.
    Smooth,
    /// As smooth, now and then NaN or infinite.
    SmoothOrNot,
    /// Whole numbers in a range.
    Index(i64, i64),
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bd1_e995);
        random.below(2);
        random
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % end.max(1)
    }

    /// True once in `one_in` times.
    pub(crate) fn once(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A shape of small dimensions, now and then one of 0 and one that is longer than a vector; rarely a matrix so
    /// large that kernels cut it up.
    pub(crate) fn shape(&mut self, ranks: std::ops::RangeInclusive<usize>) -> Vec<usize> {
        let rank = ranks.start() + self.below(ranks.end() - ranks.start() + 1);
        let mut shape: Vec<usize> = (0..rank).map(|_| 1 + self.below(4)).collect();
        if rank > 0 && self.once(3) {
            let axis = self.below(rank);
            shape[axis] = self.pick(&[7, 16, 17, 33]);
        }
        if rank == 2 && self.once(40) {
            shape = vec![130, 140];
        }
        if rank > 0 && self.once(10) {
            let axis = self.below(rank);
            shape[axis] = 0;
        }
        shape
    }

    /// A shape that broadcasts to this one.
    pub(crate) fn narrower(&mut self, shape: &[usize]) -> Vec<usize> {
        let lead = if self.once(3) { self.below(shape.len() + 1) } else { 0 };
        shape[lead..].iter().map(|&size| if self.once(3) { 1 } else { size }).collect()
    }

    /// A dimension, counted from either end.
    pub(crate) fn dim(&mut self, rank: usize) -> (usize, i64) {
        let axis = self.below(rank);
        let from_the_end = self.once(2);
        (axis, axis as i64 - if from_the_end { rank.max(1) as i64 } else { 0 })
    }

    fn smooth(&mut self) -> f32 {
        let unit = self.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0;
        unit * self.pick(&[0.25, 1.0, 4.0])
    }

    pub(crate) fn number(&mut self, dtype: DType, values: Values) -> Number {
        let number = match values {
            Values::Index(low, high) => Int(low + self.below((high - low) as usize) as i64),
            _ if dtype == DType::Bool => Int(self.below(2) as i64),
            Values::Wild if !dtype.is_float() => {
                let ends =
                    [i64::MIN, i64::MAX, i32::MIN.into(), i32::MAX.into(), 1 << 24, (1 << 24) + 1, (1 << 53) + 1];
                Int(if self.once(6) { self.pick(&ends) } else { self.below(9) as i64 - 4 })
            }
            _ if !dtype.is_float() => Int(self.below(17) as i64 - 8),
            Values::Wild => {
                let odd =
                    [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-41, 65504.0, -65520.0, 3e38, -1e30];
                Float(match self.below(4) {
                    0 => self.pick(&odd),
                    1 => self.below(9) as f32 - 4.0,
                    2 => self.smooth() * 30.0,
                    _ => self.smooth(),
                })
            }
            Values::Grid => Float((self.below(129) as f32 - 64.0) / 8.0),
            Values::SmoothOrNot if self.once(40) => Float(self.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY])),
            Values::Smooth | Values::SmoothOrNot => Float(self.smooth()),
        };
        number.to(dtype)
    }
}
