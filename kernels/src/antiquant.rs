//! Weights of whole numbers that are multiplied in floating point ("weight-only" quantisation, A16W8 and A16W4): each value is made
//! on its way into the GEMM.
//!
//! `value = (w + offset) * scale`, sum and product in f32, rounded once to the type of the activations; the GEMM is that of
//! [`crate::gemm`] with these values.
//!
//! Source: ops-transformer 9.1.0, gmm/grouped_matmul; ops-nn 9.1.0, matmul/weight_quant_batch_matmul_v2 (the plain path; the one
//! that splits x into two int8 for decoding agrees to about 1e-2 of the greatest output).

use std::ops::Range;

use half::{bf16, f16};

use crate::element::{Float, FloatType};
use crate::error::{self, KernelError};
use crate::int_gemm::IntWeight;
use crate::pack::{Lies, Numbers, Source};
use crate::vectors::{Vectors, vectorised};

/// Numbers that are made at a time.
const PIECE: usize = 128;
/// Rows ahead of what is read that are fetched.
const ROWS_AHEAD: usize = 16;

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

    /// As [`Source::numbers`].
    pub(crate) fn numbers(&self) -> Option<Numbers<'_>> {
        (T::TYPE == FloatType::Bf16).then(|| Numbers {
            weight: &self.weight,
            scale: bytemuck::cast_slice(self.scale),
            offset: self.offset.map(bytemuck::cast_slice),
            group: self.group,
        })
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
        let mut numbers = [0; PIECE];
        let mut start = ks.start;
        while start < ks.end {
            let group = start / self.group;
            let end = ks.end.min(start + PIECE).min((group + 1).saturating_mul(self.group));
            let numbers = &mut numbers[..end - start];
            self.weight.column(n, start..end, numbers);
            let at = group * self.weight.n() + n;
            let scale = self.scale[at].to_f32();
            let offset = self.offset.map_or(0.0, |offset| offset[at].to_f32());
            put::<T>(to, start - ks.start, numbers.len(), |to| match to {
                Room::Bf16(to) => of_column_to_bf16(vectors, numbers, scale, offset, to),
                Room::F32(to) => of_column(vectors, numbers, scale, offset, to),
            });
            start = end;
        }
    }

    /// As [`Source::read_rows`].
    pub(crate) fn read_rows(&self, ks: Range<usize>, ns: Range<usize>, to: &mut [u32], stride: usize) {
        let vectors = Vectors::widest();
        let (mut numbers, mut scale, mut offset) = ([0; PIECE], [0.0; PIECE], [0.0; PIECE]);
        for start in ns.clone().step_by(PIECE) {
            let piece = start..ns.end.min(start + PIECE);
            let numbers = &mut numbers[..piece.len()];
            let mut last = None;
            for (k, to) in ks.clone().zip(to.chunks_mut(stride)) {
                let group = k / self.group;
                if last != Some(group) {
                    let at = group * self.weight.n() + piece.start..group * self.weight.n() + piece.end;
                    T::widen(&self.scale[at.clone()], &mut scale);
                    if let Some(offsets) = self.offset {
                        T::widen(&offsets[at], &mut offset);
                    }
                    last = Some(group);
                }
                self.weight.fetch(k + ROWS_AHEAD, piece.start);
                self.weight.row(k, piece.clone(), numbers);
                put::<T>(to, start - ns.start, numbers.len(), |to| match to {
                    Room::Bf16(to) => of_row_to_bf16(vectors, numbers, &scale, &offset, to),
                    Room::F32(to) => of_row(vectors, numbers, &scale, &offset, to),
                });
            }
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

/// Elements of words to be made.
enum Room<'a> {
    Bf16(&'a mut [bf16]),
    F32(&'a mut [f32]),
}

/// Lets elements `first` and on of `to` be made, rounded to `T`.
fn put<T: Float>(to: &mut [u32], first: usize, count: usize, make: impl FnOnce(Room<'_>)) {
    match T::TYPE {
        FloatType::Bf16 => make(Room::Bf16(&mut bytemuck::cast_slice_mut(to)[first..][..count])),
        FloatType::F32 | FloatType::F16 => {
            let to = &mut bytemuck::cast_slice_mut(to)[first..][..count];
            make(Room::F32(to));
            if T::TYPE == FloatType::F16 {
                let mut rounded = [f16::ZERO; PIECE];
                f16::narrow(to, &mut rounded);
                f16::widen(&rounded, to);
            }
        }
    }
}

vectorised! {
    /// `out[i] = (numbers[i] + offset[i]) * scale[i]`.
    fn of_row(numbers: &[i8], scale: &[f32], offset: &[f32], out: &mut [f32]) = of_row_plain;
}

#[inline(always)]
fn of_row_plain(numbers: &[i8], scale: &[f32], offset: &[f32], out: &mut [f32]) {
    for (((out, w), scale), offset) in out.iter_mut().zip(numbers).zip(scale).zip(offset) {
        *out = (f32::from(*w) + offset) * scale;
    }
}

vectorised! {
    /// The same in bf16.
    fn of_row_to_bf16(numbers: &[i8], scale: &[f32], offset: &[f32], out: &mut [bf16]) = of_row_to_bf16_plain;
}

#[inline(always)]
fn of_row_to_bf16_plain(numbers: &[i8], scale: &[f32], offset: &[f32], out: &mut [bf16]) {
    for (((out, w), scale), offset) in out.iter_mut().zip(numbers).zip(scale).zip(offset) {
        *out = Float::from_f32((f32::from(*w) + offset) * scale);
    }
}

vectorised! {
    /// `out[i] = (numbers[i] + offset) * scale`.
    fn of_column(numbers: &[i8], scale: f32, offset: f32, out: &mut [f32]) = of_column_plain;
}

#[inline(always)]
fn of_column_plain(numbers: &[i8], scale: f32, offset: f32, out: &mut [f32]) {
    out.iter_mut().zip(numbers).for_each(|(out, w)| *out = (f32::from(*w) + offset) * scale);
}

vectorised! {
    /// The same in bf16.
    fn of_column_to_bf16(numbers: &[i8], scale: f32, offset: f32, out: &mut [bf16]) = of_column_to_bf16_plain;
}

#[inline(always)]
fn of_column_to_bf16_plain(numbers: &[i8], scale: f32, offset: f32, out: &mut [bf16]) {
    out.iter_mut().zip(numbers).for_each(|(out, w)| *out = Float::from_f32((f32::from(*w) + offset) * scale));
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
