//! GEMM of int8 activations with an int8 or int4 weight: exact int32 accumulators, handed over row by row to what makes outputs
//! of them.
//!
//! The accumulator is a whole number, so it is the same whatever the order and the number of threads; what happens to it is the
//! caller's `epilogue`. Beyond K = 131071 a sum of int8 products may leave int32; CANN limits K to 65535.
//!
//! Source: ops-transformer 9.1.0, gmm/grouped_matmul (int8 products are accumulated in int32).

use std::ops::Range;

use rayon::prelude::*;

use crate::error::{self, KernelError};
use crate::gemm::Weight;
use crate::nz::NzLayout;
use crate::view::{Mat, MatMut};

/// Rows of a task.
const MC: usize = 64;
/// Columns of a task.
const NC: usize = 128;

/// A weight `[K, N]` of whole numbers.
#[derive(Debug, Clone, Copy)]
pub enum IntWeight<'a> {
    /// int8.
    Int8(Weight<'a, i8>),
    /// int4.
    Int4(Int4Weight<'a>),
}

impl IntWeight<'_> {
    /// K, the reduction size.
    pub fn k(&self) -> usize {
        match self {
            Self::Int8(weight) => weight.k(),
            Self::Int4(weight) => weight.k,
        }
    }

    /// N, the number of output columns.
    pub fn n(&self) -> usize {
        match self {
            Self::Int8(weight) => weight.n(),
            Self::Int4(weight) => weight.n,
        }
    }

    /// Row `k`, columns `cols`, which must exist.
    pub(crate) fn read_row(&self, k: usize, cols: Range<usize>, dst: &mut [i8]) {
        match self {
            Self::Int8(weight) => weight.read_row(k, cols, dst),
            Self::Int4(weight) => dst.iter_mut().zip(cols).for_each(|(dst, n)| *dst = weight.at(k, n)),
        }
    }
}

/// Where the numbers of an int4 weight lie, in elements.
#[derive(Debug, Clone, Copy)]
enum Int4Layout {
    Strided { k: usize, n: usize },
    Nz(NzLayout),
    NzTransposed(NzLayout),
}

/// A weight `[K, N]` of int4: two's complement, two to a byte, the even element in the low half. int32 that carry eight of them
/// are the same bytes.
///
/// Source: ops-nn 9.1.0, matmul/convert_weight_to_int4_pack.
#[derive(Debug, Clone, Copy)]
pub struct Int4Weight<'a> {
    bytes: &'a [u8],
    k: usize,
    n: usize,
    layout: Int4Layout,
}

impl<'a> Int4Weight<'a> {
    /// Element (k, n) at `k * k_stride + n * n_stride`, counted in elements from the start of `bytes`.
    ///
    /// # Errors
    /// [`KernelError::Length`] where an element lies outside `bytes`.
    pub fn strided(bytes: &'a [u8], [k, n]: [usize; 2], [k_stride, n_stride]: [usize; 2]) -> Result<Self, KernelError> {
        if k > 0 && n > 0 {
            let last = (k - 1).saturating_mul(k_stride).saturating_add((n - 1).saturating_mul(n_stride));
            let needed = last / 2 + 1;
            if bytes.len() < needed {
                error::length("int4 weight", needed, bytes.len())?;
            }
        }
        Ok(Self { bytes, k, n, layout: Int4Layout::Strided { k: k_stride, n: n_stride } })
    }

    /// `[K, N]` packed as FRACTAL_NZ.
    ///
    /// # Errors
    /// [`KernelError::Length`] where the storage has another size.
    pub fn nz(bytes: &'a [u8], k: usize, n: usize) -> Result<Self, KernelError> {
        let layout = NzLayout::int4(k, n)?;
        error::length("FRACTAL_NZ storage", layout.storage_len() / 2, bytes.len())?;
        Ok(Self { bytes, k, n, layout: Int4Layout::Nz(layout) })
    }

    /// The transpose `[N, K]` packed as FRACTAL_NZ.
    ///
    /// # Errors
    /// [`KernelError::Length`] where the storage has another size.
    pub fn nz_transposed(bytes: &'a [u8], k: usize, n: usize) -> Result<Self, KernelError> {
        let layout = NzLayout::int4(n, k)?;
        error::length("FRACTAL_NZ storage", layout.storage_len() / 2, bytes.len())?;
        Ok(Self { bytes, k, n, layout: Int4Layout::NzTransposed(layout) })
    }

    /// Element (k, n), which must exist.
    pub(crate) fn at(&self, k: usize, n: usize) -> i8 {
        let index = match self.layout {
            Int4Layout::Strided { k: k_stride, n: n_stride } => k * k_stride + n * n_stride,
            Int4Layout::Nz(layout) => layout.offset_at(k, n),
            Int4Layout::NzTransposed(layout) => layout.offset_at(n, k),
        };
        let byte = self.bytes[index / 2];
        if index % 2 == 0 { (byte << 4) as i8 >> 4 } else { byte as i8 >> 4 }
    }
}

/// One GEMM of a batch that runs together.
#[derive(Debug)]
pub struct IntProblem<'a, 'o, O> {
    /// int8 `[M, K]`, any strides.
    pub x: Mat<'a, i8>,
    /// The rows of x that belong to it.
    pub rows: Range<usize>,
    /// `[K, N]`.
    pub weight: IntWeight<'a>,
    /// `[rows, N]`.
    pub out: MatMut<'o, O>,
}

/// Where a run of accumulators belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Which GEMM of the batch.
    pub problem: usize,
    /// Row of its x.
    pub row: usize,
    /// Columns of the output.
    pub cols: Range<usize>,
}

/// `epilogue(span, accumulators, out)` for every run of columns of every row of every product, in parallel; each column is in
/// one run.
///
/// # Errors
/// [`KernelError::Dim`] where the shapes of a product disagree, [`KernelError::Range`] where it has rows that its x does not
/// have; then nothing is written.
pub fn int_gemms<O: Copy + Send + Sync>(
    problems: Vec<IntProblem<'_, '_, O>>,
    epilogue: impl Fn(&Span, &[i32], &mut [O]) + Sync,
) -> Result<(), KernelError> {
    run(problems, |tile: &mut Tile<'_, '_, O>, scratch: &mut Scratch| {
        let depth = tile.x.cols();
        for row in 0..tile.rows.len() {
            tile.accumulate(row, 0..depth, scratch);
            let span = tile.span(row);
            tile.write(row, |out| epilogue(&span, &scratch.acc, out));
        }
    })
}

/// As [`int_gemms`], with K cut into groups of `group`, the last of what is left: `step(span, k_group, accumulators, state)` for
/// each in ascending order, then `finish(span, state, out)`. The state starts at 0.
///
/// # Errors
/// As [`int_gemms`], and [`KernelError::Range`] for groups of 0.
pub fn int_gemms_in_k_groups<O: Copy + Send + Sync>(
    problems: Vec<IntProblem<'_, '_, O>>,
    group: usize,
    step: impl Fn(&Span, usize, &[i32], &mut [f32]) + Sync,
    finish: impl Fn(&Span, &[f32], &mut [O]) + Sync,
) -> Result<(), KernelError> {
    error::range("group size along K", group, 1, usize::MAX)?;
    run(problems, |tile: &mut Tile<'_, '_, O>, scratch: &mut Scratch| {
        let depth = tile.x.cols();
        for row in 0..tile.rows.len() {
            let span = tile.span(row);
            let mut state = std::mem::take(&mut scratch.state);
            state.clear();
            state.resize(span.cols.len(), 0.0);
            for (index, start) in (0..depth).step_by(group).enumerate() {
                tile.accumulate(row, start..depth.min(start.saturating_add(group)), scratch);
                step(&span, index, &scratch.acc, &mut state);
            }
            tile.write(row, |out| finish(&span, &state, out));
            scratch.state = state;
        }
    })
}

/// One task: some rows and columns of one product.
struct Tile<'a, 'o, O> {
    problem: usize,
    x: Mat<'a, i8>,
    rows: Range<usize>,
    weight: IntWeight<'a>,
    cols: Range<usize>,
    out: MatMut<'o, O>,
}

/// What a task needs besides its operands.
#[derive(Default)]
struct Scratch {
    acc: Vec<i32>,
    state: Vec<f32>,
    line: Vec<i8>,
}

fn run<'a, 'o, O: Copy + Send + Sync>(
    problems: Vec<IntProblem<'a, 'o, O>>,
    work: impl Fn(&mut Tile<'a, 'o, O>, &mut Scratch) + Sync,
) -> Result<(), KernelError> {
    for IntProblem { x, rows, weight, out } in &problems {
        error::dim("w, axis K", x.cols(), weight.k())?;
        error::range("end of the rows of x", rows.end, rows.start, x.rows())?;
        error::dim("out, axis M", rows.len(), out.rows())?;
        error::dim("out, axis N", weight.n(), out.cols())?;
    }
    let mut tiles = Vec::new();
    for (problem, IntProblem { x, rows, weight, mut out }) in problems.into_iter().enumerate() {
        let mut row = rows.start;
        while out.rows() > 0 && out.cols() > 0 {
            let (mut band, rest) = out.split_rows(MC);
            let rows = row..row + band.rows();
            let mut col = 0;
            while band.cols() > 0 {
                let (out, rest) = band.split_cols(NC);
                let cols = col..col + out.cols();
                col = cols.end;
                tiles.push(Tile { problem, x, rows: rows.clone(), weight, cols, out });
                band = rest;
            }
            row = rows.end;
            out = rest;
        }
    }
    tiles.into_par_iter().for_each_init(Scratch::default, |scratch, mut tile| work(&mut tile, scratch));
    Ok(())
}

impl<O: Copy> Tile<'_, '_, O> {
    fn span(&self, row: usize) -> Span {
        Span { problem: self.problem, row: self.rows.start + row, cols: self.cols.clone() }
    }

    /// `acc[n] = x[row, ks] @ w[ks, n]`.
    fn accumulate(&self, row: usize, ks: Range<usize>, scratch: &mut Scratch) {
        let Scratch { acc, line, .. } = scratch;
        acc.clear();
        acc.resize(self.cols.len(), 0);
        line.resize(self.cols.len(), 0);
        for k in ks {
            let x = i32::from(self.x.at(self.rows.start + row, k));
            self.weight.read_row(k, self.cols.clone(), line);
            for (acc, w) in acc.iter_mut().zip(line.iter()) {
                *acc += x * i32::from(*w);
            }
        }
    }

    /// Lets `fill` write a row of the output.
    fn write(&mut self, row: usize, fill: impl FnOnce(&mut [O])) {
        if let Some(out) = self.out.row_slice_mut(row) {
            return fill(out);
        }
        let mut line: Vec<O> = (0..self.out.cols()).filter_map(|col| self.out.get(row, col)).collect();
        fill(&mut line);
        self.out.write_row(row, line);
    }
}
