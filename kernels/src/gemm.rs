//! GEMM of activations with one expert's weight: `out = x @ w (+ bias)`.
//!
//! Every output is one f32 accumulator that starts at 0 and takes the products along K; then the bias is added in f32 and the
//! result is rounded once to the output type. How the products are added depends on the [`Isa`] alone, not on the other rows and
//! columns, the number of threads, or how operands lie in memory (of a NaN only that it is one is defined):
//!
//! - `portable`: for ascending k, product first, then sum, as [`mod@crate::reference`] does: its bits.
//! - all others: for ascending k, with one fused multiply-add each; but
//! - bf16 with a dot product (`avx512-bf16-vnni`, `neon-dotprod-bf16`, `neon-dotprod-bf16-i8mm`): two products at a time, in the way
//!   of the instruction, which takes denormal operands and results for 0.
//!
//! Any two of these, the reference among them, differ before the rounding by at most `(K + 3) * f32::EPSILON * sum_k |x * w|`: each
//! errs by some K roundings of a sum that is no greater. What a dot product flushes comes on top: less than `2^-126 * (|x| + |w| + 2)`
//! for each k, which is nothing beside operands of ordinary size.
//!
//! CANN accumulates in fp32 too and rounds once (ops-transformer 9.1.0, gmm/grouped_matmul; ops-nn 9.1.0, matmul), but in the order
//! of its cube unit, which puts the bias first: against hardware, compare with a tolerance.

use std::ops::Range;

use bytemuck::Pod;

use crate::antiquant::Antiquant;
use crate::driver::{Scratch, in_parts};
use crate::element::{Float, widened};
use crate::error::{self, KernelError};
use crate::isa::Isa;
use crate::nz::NzMat;
use crate::pack::{Direct, Lies, Numbers, Place, Source, float_words, put_floats};
use crate::simd::{self, Words};
use crate::view::{Mat, MatMut};

/// A weight `[K, N]`.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a, T> {
    /// Any strides; a transposed weight is a view with its strides exchanged.
    Strided(Mat<'a, T>),
    /// Packed as FRACTAL_NZ with rows K and columns N.
    Nz(NzMat<'a, T>),
    /// Its transpose `[N, K]` packed as FRACTAL_NZ with rows N and columns K.
    NzTransposed(NzMat<'a, T>),
    /// Whole numbers with scales, of which each value is made when it is used.
    Antiquant(&'a Antiquant<'a, T>),
}

impl<'a, T: Pod> Weight<'a, T> {
    /// K, the reduction size.
    pub fn k(&self) -> usize {
        match self {
            Self::Strided(mat) => mat.rows(),
            Self::Nz(mat) => mat.layout().rows(),
            Self::NzTransposed(mat) => mat.layout().cols(),
            Self::Antiquant(weight) => weight.k(),
        }
    }

    /// N, the number of output columns.
    pub fn n(&self) -> usize {
        match self {
            Self::Strided(mat) => mat.cols(),
            Self::Nz(mat) => mat.layout().cols(),
            Self::NzTransposed(mat) => mat.layout().rows(),
            Self::Antiquant(weight) => weight.n(),
        }
    }

    /// Its memory, and where in it elements lie.
    pub(crate) fn stored(&self) -> Stored<'a, T> {
        match self {
            Self::Strided(mat) => {
                let (data, strides) = mat.parts();
                Stored::Plain(data, Place::strided(strides))
            }
            Self::Nz(mat) => Stored::Plain(mat.storage(), Place::nz(mat.layout())),
            Self::NzTransposed(mat) => Stored::Plain(mat.storage(), Place::nz_transposed(mat.layout())),
            Self::Antiquant(weight) => Stored::Antiquant(weight),
        }
    }
}

/// How the elements of a weight are held.
pub(crate) enum Stored<'a, T> {
    /// As they are.
    Plain(&'a [T], Place),
    /// As whole numbers.
    Antiquant(&'a Antiquant<'a, T>),
}

impl<T: Float> Source for Weight<'_, T> {
    fn words(&self) -> Words {
        float_words(T::TYPE)
    }

    fn direct(&self, ks: &Range<usize>, ns: &Range<usize>) -> Direct {
        match self.stored() {
            Stored::Plain(data, place) if 8 * T::BYTES == self.words().bits() => {
                Direct::of(bytemuck::cast_slice(data), 8 * T::BYTES, &place, ks, ns)
            }
            _ => Direct::No,
        }
    }

    fn lies(&self) -> Lies {
        match self.stored() {
            Stored::Plain(_, place) => place.lies(),
            Stored::Antiquant(weight) => weight.lies(),
        }
    }

    fn numbers(&self) -> Option<Numbers<'_>> {
        match self {
            Self::Antiquant(weight) => weight.numbers(),
            _ => None,
        }
    }

    fn read_column(&self, n: usize, ks: Range<usize>, to: &mut [u32]) {
        match self.stored() {
            Stored::Plain(data, place) => {
                let data = &data[place.n.at(n)..];
                place.k.runs(ks, |offset, first, run| put_floats(&data[offset..][..run], to, first));
            }
            Stored::Antiquant(weight) => weight.read_column(n, ks, to),
        }
    }

    fn read_rows(&self, ks: Range<usize>, ns: Range<usize>, to: &mut [u32], stride: usize) {
        match self.stored() {
            Stored::Plain(data, place) => {
                for (k, to) in ks.zip(to.chunks_mut(stride)) {
                    let data = &data[place.k.at(k)..];
                    place.n.runs(ns.clone(), |offset, first, run| put_floats(&data[offset..][..run], to, first));
                }
            }
            Stored::Antiquant(weight) => weight.read_rows(ks, ns, to, stride),
        }
    }
}

/// A bias `[N]`, added in f32 after the accumulation.
#[derive(Debug, Clone, Copy)]
pub enum Bias<'a, T> {
    /// f32, as CANN wants it for bf16 and fp32 weights.
    F32(&'a [f32]),
    /// Of the weight's type, as CANN wants it for fp16 weights.
    Same(&'a [T]),
}

impl<T: Float> Bias<'_, T> {
    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F32(bias) => bias.len(),
            Self::Same(bias) => bias.len(),
        }
    }

    /// As f32.
    pub(crate) fn widened(&self) -> Vec<f32> {
        match self {
            Self::F32(bias) => bias.to_vec(),
            Self::Same(bias) => widened(bias),
        }
    }

    /// Those of some columns.
    pub(crate) fn range(&self, cols: Range<usize>) -> Self {
        match self {
            Self::F32(bias) => Self::F32(&bias[cols]),
            Self::Same(bias) => Self::Same(&bias[cols]),
        }
    }
}

/// `out = x @ w (+ bias)`, in parallel.
///
/// - `x` host `T [M, K]`, any strides.
/// - `w` host `T [K, N]`, strided or FRACTAL_NZ.
/// - `bias` host f32 or `T [N]`.
/// - `out` host `O [M, N]`, any strides; K = 0 gives the bias, or 0.
///
/// # Errors
/// [`KernelError::Dim`] or [`KernelError::Length`] when the shapes disagree.
pub fn gemm<T: Float, O: Float>(
    x: Mat<'_, T>,
    w: Weight<'_, T>,
    bias: Option<Bias<'_, T>>,
    out: MatMut<'_, O>,
) -> Result<(), KernelError> {
    gemms(vec![Product { x, weight: w, bias, out }])
}

/// What one GEMM of a batch multiplies, and where to; as the arguments of [`gemm`].
#[derive(Debug)]
pub struct Product<'a, 'o, T, O> {
    /// `T [M, K]`, any strides.
    pub x: Mat<'a, T>,
    /// `T [K, N]`, strided or FRACTAL_NZ.
    pub weight: Weight<'a, T>,
    /// `[N]`.
    pub bias: Option<Bias<'a, T>>,
    /// `O [M, N]`, any strides.
    pub out: MatMut<'o, O>,
}

/// [`gemm`] of every product, each of its own shape, in parallel across them and within each.
///
/// # Errors
/// Those of [`gemm`], where any product's shapes disagree; then nothing is written.
pub fn gemms<T: Float, O: Float>(products: Vec<Product<'_, '_, T, O>>) -> Result<(), KernelError> {
    for Product { x, weight, bias, out } in &products {
        error::dim("w, axis K", x.cols(), weight.k())?;
        error::dim("out, axis M", x.rows(), out.rows())?;
        error::dim("out, axis N", weight.n(), out.cols())?;
        if let Some(bias) = bias {
            error::length("bias", weight.n(), bias.len())?;
        }
    }
    let problem = |Product { x, weight, bias, out }| {
        let rows = 0..Mat::rows(&x);
        Problem { x, rows, weight, bias, out, adds: false }
    };
    run(products.into_iter().map(problem).collect());
    Ok(())
}

/// One GEMM of a batch that runs together; the shapes are known to agree.
pub(crate) struct Problem<'a, 'o, T, O> {
    pub(crate) x: Mat<'a, T>,
    /// The rows of x that belong to it.
    pub(crate) rows: Range<usize>,
    pub(crate) weight: Weight<'a, T>,
    pub(crate) bias: Option<Bias<'a, T>>,
    /// `[rows.len(), N]`.
    pub(crate) out: MatMut<'o, O>,
    /// Whether the product is added to what the output holds, in f32 and rounded once.
    pub(crate) adds: bool,
}

/// Runs GEMMs, dividing all of them into parts at once: one large problem and many small ones both use every thread.
pub(crate) fn run<T: Float, O: Float>(problems: Vec<Problem<'_, '_, T, O>>) {
    let kernel = simd::kernel(Isa::current(), float_words(T::TYPE));
    let mut operands = Vec::with_capacity(problems.len());
    let mut outs = Vec::with_capacity(problems.len());
    for Problem { x, rows, weight, bias, out, adds } in problems {
        outs.push((x.cols(), out));
        operands.push((x, rows.start, weight, bias, adds));
    }
    in_parts(outs, |mut part, scratch| {
        let (x, start, weight, bias, adds) = &operands[part.product];
        let (rows, cols) = (start + part.rows.start..start + part.rows.end, part.cols.clone());
        scratch.multiply(kernel, x, weight, rows, cols.clone(), 0..x.cols());
        let bias = bias.as_ref().map(|bias| bias.range(cols));
        store(scratch, bias, *adds, &mut part.out);
    });
}

/// Adds the bias and what was there, rounds, writes.
fn store<T: Float, O: Float>(scratch: &mut Scratch, bias: Option<Bias<'_, T>>, adds: bool, out: &mut MatMut<'_, O>) {
    let cols = out.cols();
    for row in 0..out.rows() {
        let (acc, line) = scratch.floats(row, cols);
        match bias {
            Some(Bias::F32(bias)) => add(acc, bias),
            Some(Bias::Same(bias)) => {
                line.resize(cols, 0.0);
                T::widen(bias, line);
                add(acc, line);
            }
            None => {}
        }
        if adds {
            for (col, acc) in acc.iter_mut().enumerate() {
                *acc += out.get(row, col).map_or(0.0, O::to_f32);
            }
        }
        match out.row_slice_mut(row) {
            Some(out) => O::narrow(acc, out),
            None => out.write_row(row, acc.iter().map(|acc| O::from_f32(*acc))),
        }
    }
}

fn add(acc: &mut [f32], bias: &[f32]) {
    acc.iter_mut().zip(bias).for_each(|(acc, bias)| *acc += *bias);
}
