//! Operators along one axis of a contiguous array: softmax, selection in order, sums, maxima, root-mean-square norm.
//!
//! An array `[outer, size, inner]` has `outer * inner` lanes of `size` elements, `inner` apart. Lanes are independent and run in
//! parallel; within one, sums go up the axis in f32 (integers in i64, wrapping). The order in which the device adds is not public.

use std::cmp::Ordering;

use rayon::prelude::*;

use crate::element::Float;
use crate::elementwise::{Number, Wide};
use crate::error::{self, KernelError};

/// How an array is made of lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lanes {
    /// Product of the axes before.
    pub outer: usize,
    /// Size of the axis.
    pub size: usize,
    /// Product of the axes behind.
    pub inner: usize,
}

impl Lanes {
    /// The lanes of an array along an axis. An array of no axes has one lane of one element.
    ///
    /// # Errors
    /// [`KernelError::Range`] when there is no such axis, [`KernelError::TooLarge`].
    pub fn new(shape: &[usize], axis: usize) -> Result<Self, KernelError> {
        let shape = if shape.is_empty() { &[1] } else { shape };
        error::range("axis", axis, 0, shape.len() - 1)?;
        Ok(Self {
            outer: error::product("axes before", &shape[..axis])?,
            size: shape[axis],
            inner: error::product("axes behind", &shape[axis + 1..])?,
        })
    }

    fn elements(self) -> usize {
        self.outer * self.size * self.inner
    }

    /// Elements of lane `lane` of an array whose axis has `size` elements.
    fn at(self, lane: usize, size: usize) -> impl Iterator<Item = usize> {
        let first = lane / self.inner * size * self.inner + lane % self.inner;
        (0..size).map(move |i| first + i * self.inner)
    }

    /// Runs `f` on the index of each lane, in parallel.
    fn each(self, f: impl Fn(usize) + Sync + Send) {
        const TASK: usize = 1024;
        (0..self.outer * self.inner).into_par_iter().with_min_len(TASK.div_ceil(self.size.max(1))).for_each(f);
    }
}

/// Elements of an output, written from several lanes.
struct Output<T>(*mut T, usize);

// SAFETY: lanes write disjoint elements, so sharing it moves values of `T` between threads.
unsafe impl<T: Send> Sync for Output<T> {}

impl<T> Output<T> {
    fn new(values: &mut [T]) -> Self {
        Self(values.as_mut_ptr(), values.len())
    }

    /// Writes an element; one outside is ignored.
    ///
    /// # Safety
    /// No other thread writes or reads this element meanwhile.
    unsafe fn set(&self, index: usize, value: T) {
        if index < self.1 {
            // SAFETY: within the slice, which is borrowed while this value lives; the rest is the caller's promise.
            unsafe { self.0.add(index).write(value) }
        }
    }
}

/// Softmax along an axis: `e^(x - max) / sum`, in f32, rounded once.
///
/// - `x`, `out` host `T [outer, size, inner]`.
///
/// # Errors
/// [`KernelError::Length`].
pub fn softmax<T: Float>(x: &[T], lanes: Lanes, out: &mut [T]) -> Result<(), KernelError> {
    error::length("x", lanes.elements(), x.len())?;
    error::length("out", x.len(), out.len())?;
    let out = Output::new(out);
    lanes.each(|lane| {
        let at = |i: usize| x[i].to_f32();
        let max = lanes.at(lane, lanes.size).map(at).fold(f32::NEG_INFINITY, f32::max);
        let sum = lanes.at(lane, lanes.size).map(at).fold(0f32, |sum, x| sum + (x - max).exp());
        for i in lanes.at(lane, lanes.size) {
            // SAFETY: each element belongs to one lane, and this lane runs once.
            unsafe { out.set(i, T::from_f32((at(i) - max).exp() / sum)) }
        }
    });
    Ok(())
}

/// Order of two values: NaN above all, so that it is first in descending order and last in ascending order.
fn order<T: Number>(a: T, b: T) -> Ordering {
    match (a.widen(), b.widen()) {
        (Wide::Int(a), Wide::Int(b)) => a.cmp(&b),
        (a, b) => {
            let (a, b) = (f32::from_wide(a), f32::from_wide(b));
            a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
        }
    }
}

/// The `k` first of each lane in descending or ascending order, with their indices. Equal values keep their order.
///
/// - `x` host `T [outer, size, inner]`; `values` host `T`, `indices` host i64, both `[outer, k, inner]`.
///
/// # Errors
/// [`KernelError::Range`] for more than there are, [`KernelError::Length`].
pub fn first_in_order<T: Number>(
    x: &[T],
    lanes: Lanes,
    k: usize,
    descending: bool,
    values: &mut [T],
    indices: &mut [i64],
) -> Result<(), KernelError> {
    error::length("x", lanes.elements(), x.len())?;
    error::range("k", k, 0, lanes.size)?;
    let chosen = error::product("outer x k x inner", &[lanes.outer, k, lanes.inner])?;
    error::length("values", chosen, values.len())?;
    error::length("indices", chosen, indices.len())?;
    let (values, indices) = (Output::new(values), Output::new(indices));
    lanes.each(|lane| {
        let mut all: Vec<(T, usize)> = lanes.at(lane, lanes.size).enumerate().map(|(i, at)| (x[at], i)).collect();
        let compare = |(a, i): &(T, usize), (b, j): &(T, usize)| {
            let values = if descending { order(*b, *a) } else { order(*a, *b) };
            values.then(i.cmp(j))
        };
        if k < all.len() && k > 0 {
            all.select_nth_unstable_by(k - 1, compare);
        }
        all.truncate(k);
        all.sort_unstable_by(compare);
        for (at, (value, index)) in lanes.at(lane, k).zip(all) {
            // SAFETY: each element belongs to one lane, and this lane runs once.
            unsafe {
                values.set(at, value);
                indices.set(at, index as i64);
            }
        }
    });
    Ok(())
}

/// Sum in progress.
#[derive(Clone, Copy)]
enum Sum {
    Float(f32),
    Int(i64),
}

impl Sum {
    fn zero<T: Number>() -> Self {
        match T::zeroed().widen() {
            Wide::Float(_) => Self::Float(0.0),
            Wide::Int(_) => Self::Int(0),
        }
    }

    fn add(self, value: Wide) -> Self {
        match (self, value) {
            (Self::Int(sum), Wide::Int(value)) => Self::Int(sum.wrapping_add(value)),
            (Self::Int(sum), Wide::Float(value)) => Self::Float(sum as f32 + value),
            (Self::Float(sum), value) => Self::Float(sum + f32::from_wide(value)),
        }
    }

    fn wide(self) -> Wide {
        match self {
            Self::Float(sum) => Wide::Float(sum),
            Self::Int(sum) => Wide::Int(sum),
        }
    }
}

/// Sums of all values up to each along an axis, each rounded to `T`.
///
/// - `x`, `out` host `T [outer, size, inner]`.
///
/// # Errors
/// [`KernelError::Length`].
pub fn cumsum<T: Number>(x: &[T], lanes: Lanes, out: &mut [T]) -> Result<(), KernelError> {
    error::length("x", lanes.elements(), x.len())?;
    error::length("out", x.len(), out.len())?;
    let out = Output::new(out);
    lanes.each(|lane| {
        let mut sum = Sum::zero::<T>();
        for i in lanes.at(lane, lanes.size) {
            sum = sum.add(x[i].widen());
            // SAFETY: each element belongs to one lane, and this lane runs once.
            unsafe { out.set(i, T::from_wide(sum.wide())) }
        }
    });
    Ok(())
}

/// What a lane is reduced to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// The sum, 0 of nothing.
    Sum,
    /// The greatest; NaN where there is one.
    Max,
}

/// One value of each lane.
///
/// - `x` host `T [outer, size, inner]`, `out` host `T [outer, inner]`.
///
/// # Errors
/// [`KernelError::Length`]; [`KernelError::Range`] for the greatest of nothing.
pub fn reduce<T: Number>(reduction: Reduction, x: &[T], lanes: Lanes, out: &mut [T]) -> Result<(), KernelError> {
    error::length("x", lanes.elements(), x.len())?;
    error::length("out", lanes.outer * lanes.inner, out.len())?;
    if reduction == Reduction::Max && !out.is_empty() {
        error::range("elements to take the greatest of", lanes.size, 1, usize::MAX)?;
    }
    let out = Output::new(out);
    lanes.each(|lane| {
        let mut values = lanes.at(lane, lanes.size).map(|i| x[i]);
        let value = match reduction {
            Reduction::Sum => T::from_wide(values.fold(Sum::zero::<T>(), |sum, value| sum.add(value.widen())).wide()),
            Reduction::Max => {
                let first = values.next().unwrap_or(T::zeroed());
                values.fold(first, |best, value| if order(value, best).is_gt() { value } else { best })
            }
        };
        // SAFETY: each element belongs to one lane, and this lane runs once.
        unsafe { out.set(lane, value) }
    });
    Ok(())
}

/// `y = x / sqrt(mean(x^2) + eps) * gamma` of each row, and the factor. In f32; the normalised value is rounded to `T` before it is
/// multiplied.
///
/// - `x`, `y` host `T [rows, n]`; `gamma` host `G [n]`; `rstd` host f32 `[rows]`.
///
/// # Errors
/// [`KernelError::Length`], [`KernelError::NotMultiple`].
pub fn rms_norm<T: Float, G: Float>(
    x: &[T],
    gamma: &[G],
    eps: f64,
    y: &mut [T],
    rstd: &mut [f32],
) -> Result<(), KernelError> {
    let n = gamma.len().max(1);
    let rows = error::divide("x over gamma", x.len(), n)?;
    error::length("y", x.len(), y.len())?;
    error::length("rstd", rows, rstd.len())?;
    y.par_chunks_mut(n).zip(x.par_chunks(n)).zip(rstd).for_each(|((y, x), rstd)| {
        let squares = x.iter().fold(0f32, |sum, x| sum + x.to_f32() * x.to_f32());
        *rstd = 1.0 / (squares / n as f32 + eps as f32).sqrt();
        for ((y, x), gamma) in y.iter_mut().zip(x).zip(gamma) {
            let normalised = T::from_f32(x.to_f32() * *rstd);
            *y = T::from_f32(normalised.to_f32() * gamma.to_f32());
        }
    });
    Ok(())
}
