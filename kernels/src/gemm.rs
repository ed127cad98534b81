//! GEMM of activations with one expert's weight: `out = x @ w (+ bias)`, and the tile that all GEMMs here are made of.
//!
//! Every output is one f32 accumulator that starts at 0 and takes `x[m, k] * w[k, n]` for ascending k, product first, then sum, no
//! fused multiply-add; then the bias is added in f32 and the result is rounded once to the output type. Work is divided over rows
//! and columns, never over k, and the division depends on the shapes alone: results are the same bits for any number of threads
//! (of a NaN only that it is one is defined).
//!
//! CANN accumulates in fp32 too and rounds once (ops-transformer 9.1.0, gmm/grouped_matmul; ops-nn 9.1.0, matmul), but in the order
//! of its cube unit, which puts the bias first: against hardware, compare with a tolerance.

use std::ops::Range;

use bytemuck::Pod;
use rayon::prelude::*;

use crate::element::{Float, widened};
use crate::error::{self, KernelError};
use crate::nz::NzMat;
use crate::view::{Mat, MatMut};

/// Rows of the register tile.
const MR: usize = 4;
/// Columns of the register tile.
const NR: usize = 8;
/// Rows of a task.
const MC: usize = 64;
/// Columns of a task, at most.
const NC: usize = 256;
/// Depth of the part of x and w that is held as f32 at a time.
const KC: usize = 256;
/// Tasks are made smaller until there are as many as this, so that small problems use all threads as well.
const MIN_TASKS: usize = 32;

/// A weight `[K, N]`.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a, T> {
    /// Any strides; a transposed weight is a view with its strides exchanged.
    Strided(Mat<'a, T>),
    /// Packed as FRACTAL_NZ with rows K and columns N.
    Nz(NzMat<'a, T>),
    /// Its transpose `[N, K]` packed as FRACTAL_NZ with rows N and columns K.
    NzTransposed(NzMat<'a, T>),
}

impl<T: Pod> Weight<'_, T> {
    /// K, the reduction size.
    pub fn k(&self) -> usize {
        match self {
            Self::Strided(mat) => mat.rows(),
            Self::Nz(mat) => mat.layout().rows(),
            Self::NzTransposed(mat) => mat.layout().cols(),
        }
    }

    /// N, the number of output columns.
    pub fn n(&self) -> usize {
        match self {
            Self::Strided(mat) => mat.cols(),
            Self::Nz(mat) => mat.layout().cols(),
            Self::NzTransposed(mat) => mat.layout().rows(),
        }
    }

    /// Row `k`, columns `cols`, which must exist.
    pub(crate) fn read_row(&self, k: usize, cols: Range<usize>, dst: &mut [T]) {
        match self {
            Self::Strided(mat) => match mat.row_slice(k, cols.clone()) {
                Some(row) => dst.copy_from_slice(row),
                None => dst.iter_mut().zip(cols).for_each(|(d, n)| *d = mat.at(k, n)),
            },
            Self::Nz(mat) => dst.iter_mut().zip(cols).for_each(|(d, n)| *d = mat.run(k, n, 1)[0]),
            Self::NzTransposed(mat) => dst.iter_mut().zip(cols).for_each(|(d, n)| *d = mat.run(n, k, 1)[0]),
        }
    }
}

impl<T: Float> Weight<'_, T> {
    /// Row `k`, columns `cols`, as f32.
    fn widen_row(&self, k: usize, cols: Range<usize>, dst: &mut [f32]) {
        match self {
            Self::Strided(mat) => match mat.row_slice(k, cols.clone()) {
                Some(row) => T::widen(row, dst),
                None => dst.iter_mut().zip(cols).for_each(|(d, n)| *d = mat.at(k, n).to_f32()),
            },
            Self::NzTransposed(mat) => {
                // One column of each row: a run of one element.
                dst.iter_mut().zip(cols).for_each(|(d, n)| *d = mat.run(n, k, 1)[0].to_f32());
            }
            Self::Nz(mat) => {
                let c0 = mat.layout().c0();
                let mut n = cols.start;
                while n < cols.end {
                    let run = (c0 - n % c0).min(cols.end - n);
                    T::widen(mat.run(k, n, run), &mut dst[n - cols.start..]);
                    n += run;
                }
            }
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

    pub(crate) fn widened(&self) -> Vec<f32> {
        match self {
            Self::F32(bias) => bias.to_vec(),
            Self::Same(bias) => widened(bias),
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

/// Runs GEMMs, dividing all of them into tasks at once: one large problem and many small ones both use every thread.
pub(crate) fn run<T: Float, O: Float>(mut problems: Vec<Problem<'_, '_, T, O>>) {
    // Without columns there is nothing to do, however many rows.
    problems.retain(|problem| problem.weight.n() > 0);
    let tasks_at =
        |nc: usize| problems.iter().map(|p| p.rows.len().div_ceil(MC) * p.weight.n().div_ceil(nc)).sum::<usize>();
    let mut nc = NC;
    while nc > 2 * NR && tasks_at(nc) < MIN_TASKS {
        nc /= 2;
    }
    let mut tiles = Vec::with_capacity(tasks_at(nc));
    let biases: Vec<Option<Vec<f32>>> = problems.iter().map(|p| p.bias.as_ref().map(Bias::widened)).collect();
    for (problem, bias) in problems.into_iter().zip(&biases) {
        let Problem { x, rows, weight, mut out, adds, .. } = problem;
        let mut row = rows.start;
        while out.rows() > 0 {
            let (mut band, rest) = out.split_rows(MC);
            let rows = row..row + band.rows();
            let mut col = 0;
            while band.cols() > 0 {
                let (out, rest) = band.split_cols(nc);
                let cols = col..col + out.cols();
                let bias = bias.as_ref().map(|bias| &bias[cols.clone()]);
                col = cols.end;
                tiles.push(Tile { x, rows: rows.clone(), weight, cols, bias, out, adds });
                band = rest;
            }
            row = rows.end;
            out = rest;
        }
    }
    tiles.into_par_iter().for_each_init(Scratch::default, |scratch, tile| tile.compute(scratch));
}

/// One task: at most [`MC`] rows by [`NC`] columns of one output, over all of K.
struct Tile<'a, 'b, 'o, T, O> {
    x: Mat<'a, T>,
    rows: Range<usize>,
    weight: Weight<'a, T>,
    cols: Range<usize>,
    bias: Option<&'b [f32]>,
    out: MatMut<'o, O>,
    adds: bool,
}

/// What a task needs besides its operands; kept from one task to the next.
#[derive(Default)]
struct Scratch {
    /// Accumulators, `[column strip][row block]`.
    acc: Vec<[[f32; NR]; MR]>,
    /// Part of x, `[row block][k][MR]`.
    x: Vec<[f32; MR]>,
    /// Part of w, `[column strip][k][NR]`.
    w: Vec<[f32; NR]>,
    /// A row or column on its way.
    line: Vec<f32>,
}

impl<T: Float, O: Float> Tile<'_, '_, '_, T, O> {
    fn compute(mut self, scratch: &mut Scratch) {
        let (m, n) = (self.rows.len(), self.cols.len());
        let (blocks, strips) = (m.div_ceil(MR), n.div_ceil(NR));
        let Scratch { acc, x, w, line } = scratch;
        acc.clear();
        acc.resize(blocks * strips, [[0.0; NR]; MR]);
        let depth = self.x.cols();
        for start in (0..depth).step_by(KC) {
            let ks = start..depth.min(start + KC);
            let kc = ks.len();
            self.load_x(ks.clone(), blocks, x, line);
            self.load_w(ks, strips, w, line);
            for (accs, w) in acc.chunks_exact_mut(blocks).zip(w.chunks_exact(kc)) {
                for (block, (acc, x)) in accs.iter_mut().zip(x.chunks_exact(kc)).enumerate() {
                    multiply(m - block * MR, acc, x, w);
                }
            }
        }
        self.store(acc, blocks, line);
    }

    /// Rows of x as f32, in blocks of [`MR`]; rows past the end keep what was there, they are not used.
    fn load_x(&self, ks: Range<usize>, blocks: usize, x: &mut Vec<[f32; MR]>, line: &mut Vec<f32>) {
        let kc = ks.len();
        x.resize(blocks * kc, [0.0; MR]);
        line.resize(kc, 0.0);
        for (i, row) in self.rows.clone().enumerate() {
            match self.x.row_slice(row, ks.clone()) {
                Some(values) => T::widen(values, line),
                None => line.iter_mut().zip(ks.clone()).for_each(|(d, k)| *d = self.x.at(row, k).to_f32()),
            }
            for (d, v) in x[i / MR * kc..][..kc].iter_mut().zip(line.iter()) {
                d[i % MR] = *v;
            }
        }
    }

    /// Columns of w as f32, in strips of [`NR`]; columns past the end keep what was there, they are not stored.
    fn load_w(&self, ks: Range<usize>, strips: usize, w: &mut Vec<[f32; NR]>, line: &mut Vec<f32>) {
        let kc = ks.len();
        w.resize(strips * kc, [0.0; NR]);
        if let Weight::Strided(mat) = &self.weight {
            let columns = self.cols.clone().map(|n| mat.col_slice(n, ks.clone()));
            if mat.row_slice(ks.start, self.cols.clone()).is_none() && columns.clone().all(|c| c.is_some()) {
                line.resize(kc, 0.0);
                for (j, column) in columns.flatten().enumerate() {
                    T::widen(column, line);
                    for (d, v) in w[j / NR * kc..][..kc].iter_mut().zip(line.iter()) {
                        d[j % NR] = *v;
                    }
                }
                return;
            }
        }
        line.resize(strips * NR, 0.0);
        for (i, k) in ks.enumerate() {
            self.weight.widen_row(k, self.cols.clone(), line);
            for (strip, values) in line.as_chunks::<NR>().0.iter().enumerate() {
                w[strip * kc + i] = *values;
            }
        }
    }

    /// Adds the bias and what was there, rounds, writes.
    fn store(&mut self, acc: &[[[f32; NR]; MR]], blocks: usize, line: &mut Vec<f32>) {
        line.resize(acc.len() / blocks.max(1) * NR, 0.0);
        for i in 0..self.rows.len() {
            for (strip, values) in line.as_chunks_mut::<NR>().0.iter_mut().enumerate() {
                *values = acc[strip * blocks + i / MR][i % MR];
            }
            if let Some(bias) = self.bias {
                for (v, b) in line.iter_mut().zip(bias) {
                    *v += *b;
                }
            }
            if self.adds {
                for (c, v) in line.iter_mut().enumerate().take(self.cols.len()) {
                    *v += self.out.get(i, c).map_or(0.0, O::to_f32);
                }
            }
            match self.out.row_slice_mut(i) {
                Some(row) => O::narrow(line, row),
                None => self.out.write_row(i, line.iter().map(|v| O::from_f32(*v))),
            }
        }
    }
}

/// `acc[r][c] += x[k][r] * w[k][c]` for ascending k, over the first `rows` rows (all when there are more).
fn multiply(rows: usize, acc: &mut [[f32; NR]; MR], x: &[[f32; MR]], w: &[[f32; NR]]) {
    match rows {
        1 => multiply_rows::<1>(acc, x, w),
        2 => multiply_rows::<2>(acc, x, w),
        3 => multiply_rows::<3>(acc, x, w),
        _ => multiply_rows::<MR>(acc, x, w),
    }
}

/// [`multiply`] with the sums in registers.
fn multiply_rows<const R: usize>(acc: &mut [[f32; NR]; MR], x: &[[f32; MR]], w: &[[f32; NR]]) {
    let mut sums = [[0f32; NR]; R];
    sums.copy_from_slice(&acc[..R]);
    for (x, w) in x.iter().zip(w) {
        for (sums, x) in sums.iter_mut().zip(x) {
            for (sum, w) in sums.iter_mut().zip(w) {
                *sum += *x * *w;
            }
        }
    }
    acc[..R].copy_from_slice(&sums);
}
