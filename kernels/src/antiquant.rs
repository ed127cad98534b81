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
use crate::pack::{Lies, Source, put_floats};
use crate::vectors::{Vectors, vectorised};

/// Numbers that are made at a time.
const PIECE: usize = 64;

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

    /// As [`Source::lies`].
    pub(crate) fn lies(&self) -> Lies {
        match self.weight.lies() {
            Lies::AlongK | Lies::BlocksOfK => Lies::AlongK,
            Lies::AlongN | Lies::BlocksOfN => Lies::AlongN,
        }
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
        let vectors = Vectors::widest();
        let mut start = ks.start;
        while start < ks.end {
            let group = start / self.group;
            let end = ks.end.min(start + PIECE).min((group + 1).saturating_mul(self.group));
            let mut numbers = [0; PIECE];
            self.weight.column(n, start..end, &mut numbers[..end - start]);
            let at = group * self.weight.n() + n;
            let scale = self.scale[at].to_f32();
            let offset = self.offset.map_or(0.0, |offset| offset[at].to_f32());
            let values = (&numbers[..end - start], &[scale; PIECE], &[offset; PIECE]);
            put_values::<T>(vectors, values, to, start - ks.start);
            start = end;
        }
    }

    /// As [`Source::read_row`].
    pub(crate) fn read_row(&self, k: usize, ns: Range<usize>, to: &mut [u32]) {
        let vectors = Vectors::widest();
        let of_group = k / self.group * self.weight.n();
        for start in ns.clone().step_by(PIECE) {
            let piece = start..ns.end.min(start + PIECE);
            let (mut numbers, mut scale, mut offset) = ([0; PIECE], [0.0; PIECE], [0.0; PIECE]);
            self.weight.row(k, piece.clone(), &mut numbers[..piece.len()]);
            T::widen(&self.scale[of_group + piece.start..of_group + piece.end], &mut scale);
            if let Some(offsets) = self.offset {
                T::widen(&offsets[of_group + piece.start..of_group + piece.end], &mut offset);
            }
            put_values::<T>(vectors, (&numbers[..piece.len()], &scale, &offset), to, start - ns.start);
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

/// Puts what numbers, scales and offsets stand for into `to`, from element `first` on.
fn put_values<T: Float>(
    vectors: Vectors,
    (numbers, scale, offset): (&[i8], &[f32; PIECE], &[f32; PIECE]),
    to: &mut [u32],
    first: usize,
) {
    let (mut wide, mut values) = ([0f32; PIECE], [T::zeroed(); PIECE]);
    let (wide, values) = (&mut wide[..numbers.len()], &mut values[..numbers.len()]);
    dequantise(vectors, numbers, scale, offset, wide);
    T::narrow(wide, values);
    put_floats(values, to, first);
}

vectorised! {
    /// `out[i] = (numbers[i] + offset[i]) * scale[i]`.
    fn dequantise(numbers: &[i8], scale: &[f32], offset: &[f32], out: &mut [f32]) = dequantise_plain;
}

#[inline(always)]
fn dequantise_plain(numbers: &[i8], scale: &[f32], offset: &[f32], out: &mut [f32]) {
    for (((out, w), scale), offset) in out.iter_mut().zip(numbers).zip(scale).zip(offset) {
        *out = (f32::from(*w) + offset) * scale;
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
