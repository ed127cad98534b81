//! Weights of whole numbers that are multiplied in floating point ("weight-only" quantisation, A16W8 and A16W4): each value is made
//! on its way into the GEMM.
//!
//! `value = (w + offset) * scale`, sum and product in f32, rounded once to the type of the activations; the GEMM is that of
//! [`crate::gemm`] with these values.
//!
//! Source: ops-transformer 9.1.0, gmm/grouped_matmul; ops-nn 9.1.0, matmul/weight_quant_batch_matmul_v2 (the plain path; the one
//! that splits x into two int8 for decoding agrees to about 1e-2 of the greatest output).

use std::ops::Range;

use crate::element::Float;
use crate::error::{self, KernelError};
use crate::int_gemm::IntWeight;
use crate::pack::{Source, put_floats};

/// A weight `[K, N]` of whole numbers with scales of type `T`.
#[derive(Debug, Clone, Copy)]
pub struct Antiquant<'a, T> {
    weight: IntWeight<'a>,
    scale: &'a [T],
    offset: Option<&'a [T]>,
    group: usize,
}

impl<'a, T: Float> Antiquant<'a, T> {
    /// - `weight` host int8 or int4 `[K, N]`.
    /// - `scale` host `T [G, N]`, contiguous: one for each of G groups of `group` neighbours along K, the last group of what is
    ///   left; a `group` of K or more is one scale for each column.
    /// - `offset` host `T [G, N]`, contiguous, likewise; none is 0.
    ///
    /// # Errors
    /// [`KernelError::Range`] for groups of 0, [`KernelError::Length`] where there is not one scale, or offset, for each group
    /// of each column.
    pub fn new(
        weight: IntWeight<'a>,
        scale: &'a [T],
        offset: Option<&'a [T]>,
        group: usize,
    ) -> Result<Self, KernelError> {
        error::range("group size along K", group, 1, usize::MAX)?;
        let groups = weight.k().div_ceil(group).max(1);
        let due = error::product("scales", &[groups, weight.n()])?;
        error::length("antiquant scale", due, scale.len())?;
        if let Some(offset) = offset {
            error::length("antiquant offset", due, offset.len())?;
        }
        Ok(Self { weight, scale, offset, group })
    }

    /// Whether its numbers are read faster along K.
    pub(crate) fn is_along_k(&self) -> bool {
        self.weight.is_along_k()
    }

    /// What a number of column `n` in group `group` stands for.
    fn value(&self, group: usize, n: usize) -> impl Fn(i8) -> T + use<T> {
        let at = group * self.weight.n() + n;
        let scale = self.scale[at].to_f32();
        let offset = self.offset.map_or(0.0, |offset| offset[at].to_f32());
        move |w| T::from_f32((f32::from(w) + offset) * scale)
    }

    /// As [`Source::read_column`].
    pub(crate) fn read_column(&self, n: usize, ks: Range<usize>, to: &mut [u32]) {
        const PIECE: usize = 64;
        let mut start = ks.start;
        while start < ks.end {
            let group = start / self.group;
            let end = ks.end.min(start + PIECE).min((group + 1).saturating_mul(self.group));
            let (mut numbers, mut values) = ([0; PIECE], [T::from_f32(0.0); PIECE]);
            self.weight.column(n, start..end, &mut numbers);
            let value = self.value(group, n);
            let values = &mut values[..end - start];
            values.iter_mut().zip(numbers).for_each(|(to, w)| *to = value(w));
            put_floats(values, to, start - ks.start);
            start = end;
        }
    }

    /// As [`Source::read_row`].
    pub(crate) fn read_row(&self, k: usize, ns: Range<usize>, to: &mut [u32]) {
        const PIECE: usize = 16;
        for start in ns.clone().step_by(PIECE) {
            let piece = start..ns.end.min(start + PIECE);
            let (mut numbers, mut values) = ([0; PIECE], [T::from_f32(0.0); PIECE]);
            self.weight.row(k, piece.clone(), &mut numbers);
            let values = &mut values[..piece.len()];
            for ((to, w), n) in values.iter_mut().zip(numbers).zip(piece) {
                *to = self.value(k / self.group, n)(w);
            }
            put_floats(values, to, start - ns.start);
        }
    }

    /// Element (k, n), `None` outside the matrix.
    pub fn get(&self, k: usize, n: usize) -> Option<T> {
        let mut number = [0];
        (k < self.k() && n < self.n()).then(|| {
            self.weight.row(k, n..n + 1, &mut number);
            self.value(k / self.group, n)(number[0])
        })
    }
}

impl<T> Antiquant<'_, T> {
    /// K, the reduction size.
    pub fn k(&self) -> usize {
        self.weight.k()
    }

    /// N, the number of output columns.
    pub fn n(&self) -> usize {
        self.weight.n()
    }
}
