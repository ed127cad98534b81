//! GEMM of int8 activations with an int8 or int4 weight: exact int32 accumulators, handed over row by row to what makes outputs
//! of them.
//!
//! The accumulator is a whole number, so it is the same whatever the order and the number of threads; what happens to it is the
//! caller's `epilogue`. Beyond K = 131071 a sum of int8 products may leave int32; CANN limits K to 65535.
//!
//! Source: ops-transformer 9.1.0, gmm/grouped_matmul (int8 products are accumulated in int32).

use std::ops::Range;

use crate::driver::{Part, Scratch, in_parts};
use crate::error::{self, KernelError};
use crate::formats::nibbles::{int4_pair, unpack_int4};
use crate::gemm::{Stored, Weight};
use crate::isa::Isa;
use crate::nz::NzLayout;
use crate::pack::{Direct, Lies, Place, Source};
use crate::simd::{self, Kernel, Words};
use crate::view::{Mat, MatMut};

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

    /// Column `n`, rows `ks`.
    pub(crate) fn column(&self, n: usize, ks: Range<usize>, to: &mut [i8]) {
        match self {
            Self::Int8(weight) => {
                let Stored::Plain(data, place) = weight.stored() else { return };
                let data = &data[place.n.at(n)..];
                place.k.runs(ks, |at, first, run| to[first..][..run].copy_from_slice(&data[at..][..run]));
            }
            Self::Int4(Int4Weight { bytes, place, .. }) => {
                let start = place.n.at(n);
                place.k.runs(ks, |at, first, run| unpack(bytes, start + at, &mut to[first..][..run]));
            }
        }
    }

    /// Row `k`, columns `ns`.
    pub(crate) fn row(&self, k: usize, ns: Range<usize>, to: &mut [i8]) {
        match self {
            Self::Int8(weight) => {
                let Stored::Plain(data, place) = weight.stored() else { return };
                let data = &data[place.k.at(k)..];
                place.n.runs(ns, |at, first, run| to[first..][..run].copy_from_slice(&data[at..][..run]));
            }
            Self::Int4(Int4Weight { bytes, place, .. }) => {
                let start = place.k.at(k);
                place.n.runs(ns, |at, first, run| unpack(bytes, start + at, &mut to[first..][..run]));
            }
        }
    }
}

impl IntWeight<'_> {
    /// Fetches the number at (k, n), if there is one, and those around it.
    pub(crate) fn fetch(&self, k: usize, n: usize) {
        let address = match self {
            Self::Int8(weight) => match weight.stored() {
                Stored::Plain(data, place) => data.as_ptr().cast::<u8>().wrapping_add(place.at(k, n)),
                Stored::Antiquant(_) => return,
            },
            Self::Int4(Int4Weight { bytes, place, .. }) => bytes.as_ptr().wrapping_add(place.at(k, n) / 2),
        };
        simd::fetch(address);
    }
}

/// Numbers `start` and on of int4, as int8.
fn unpack(bytes: &[u8], start: usize, to: &mut [i8]) {
    let bytes = &bytes[start / 2..];
    let odd = (start % 2).min(to.len());
    let (first, to) = to.split_at_mut(odd);
    first.iter_mut().zip(bytes).for_each(|(to, byte)| *to = int4_pair(*byte)[1]);
    let bytes = &bytes[odd..];
    let pairs = to.len() / 2;
    let (even, last) = to.split_at_mut(2 * pairs);
    unpack_int4(bytes, even);
    last.iter_mut().zip(&bytes[pairs..]).for_each(|(to, byte)| *to = int4_pair(*byte)[0]);
}

/// Copies `count` int4, number `start` and on of `bytes`, to number `first` and on of `to`. What follows them in their last byte is
/// of no meaning.
fn copy_int4(bytes: &[u8], start: usize, to: &mut [u8], first: usize, count: usize) {
    let bytes = &bytes[start / 2..];
    if (start | first).is_multiple_of(2) {
        let count = count.div_ceil(2);
        return to[first / 2..][..count].copy_from_slice(&bytes[..count]);
    }
    for i in 0..count {
        let number = bytes[(start % 2 + i) / 2] >> (4 * ((start + i) % 2)) & 15;
        let shift = 4 * ((first + i) % 2);
        let to = &mut to[(first + i) / 2];
        *to = *to & 0xf0 >> shift | number << shift;
    }
}

impl Source for IntWeight<'_> {
    fn words(&self) -> Words {
        match self {
            Self::Int8(_) => Words::Int8,
            Self::Int4(_) => Words::Int4,
        }
    }

    fn direct(&self, ks: &Range<usize>, ns: &Range<usize>) -> Direct {
        match self {
            Self::Int8(weight) => match weight.stored() {
                Stored::Plain(data, place) => Direct::of(bytemuck::cast_slice(data), 8, &place, ks, ns),
                Stored::Antiquant(_) => Direct::No,
            },
            Self::Int4(Int4Weight { bytes, place, .. }) => Direct::of(bytes, 4, place, ks, ns),
        }
    }

    fn lies(&self) -> Lies {
        match self {
            Self::Int8(weight) => match weight.stored() {
                Stored::Plain(_, place) => place.lies(),
                Stored::Antiquant(_) => Lies::AlongN,
            },
            Self::Int4(weight) => weight.place.lies(),
        }
    }

    fn read_column(&self, n: usize, ks: Range<usize>, to: &mut [u32]) {
        match self {
            Self::Int8(_) => self.column(n, ks, bytemuck::cast_slice_mut(to)),
            Self::Int4(Int4Weight { bytes, place, .. }) => {
                let start = place.n.at(n);
                place
                    .k
                    .runs(ks, |at, first, run| copy_int4(bytes, start + at, bytemuck::cast_slice_mut(to), first, run));
            }
        }
    }

    fn read_rows(&self, ks: Range<usize>, ns: Range<usize>, to: &mut [u32], stride: usize) {
        for (k, to) in ks.zip(to.chunks_mut(stride)) {
            let to = bytemuck::cast_slice_mut(to);
            match self {
                Self::Int8(_) => self.row(k, ns.clone(), bytemuck::cast_slice_mut(to)),
                Self::Int4(Int4Weight { bytes, place, .. }) => {
                    let start = place.k.at(k);
                    place.n.runs(ns.clone(), |at, first, run| copy_int4(bytes, start + at, to, first, run));
                }
            }
        }
    }
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
    /// In elements.
    place: Place,
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
        Ok(Self { bytes, k, n, place: Place::strided([k_stride, n_stride]) })
    }

    /// `[K, N]` packed as FRACTAL_NZ.
    ///
    /// # Errors
    /// [`KernelError::Length`] where the storage has another size.
    pub fn nz(bytes: &'a [u8], k: usize, n: usize) -> Result<Self, KernelError> {
        let layout = NzLayout::int4(k, n)?;
        error::length("FRACTAL_NZ storage", layout.storage_len() / 2, bytes.len())?;
        Ok(Self { bytes, k, n, place: Place::nz(layout) })
    }

    /// The transpose `[N, K]` packed as FRACTAL_NZ.
    ///
    /// # Errors
    /// [`KernelError::Length`] where the storage has another size.
    pub fn nz_transposed(bytes: &'a [u8], k: usize, n: usize) -> Result<Self, KernelError> {
        let layout = NzLayout::int4(n, k)?;
        error::length("FRACTAL_NZ storage", layout.storage_len() / 2, bytes.len())?;
        Ok(Self { bytes, k, n, place: Place::nz_transposed(layout) })
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
    run(problems, |kernel, operands, mut part, scratch| {
        operands.multiply(kernel, &part, 0..operands.x.cols(), scratch);
        for row in 0..part.rows.len() {
            let (acc, _) = scratch.ints(row, part.cols.len());
            let span = operands.span(&part, row);
            write(&mut part.out, row, |out| epilogue(&span, acc, out));
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
    run(problems, |kernel, operands, mut part, scratch| {
        let (depth, cols) = (operands.x.cols(), part.cols.len());
        let mut states = std::mem::take(&mut scratch.line);
        states.clear();
        states.resize(part.rows.len() * cols, 0.0);
        for (index, start) in (0..depth).step_by(group).enumerate() {
            operands.multiply(kernel, &part, start..depth.min(start.saturating_add(group)), scratch);
            for (row, state) in states.chunks_exact_mut(cols).enumerate() {
                step(&operands.span(&part, row), index, scratch.ints(row, cols).0, state);
            }
        }
        for (row, state) in states.chunks_exact(cols).enumerate() {
            let span = operands.span(&part, row);
            write(&mut part.out, row, |out| finish(&span, state, out));
        }
        scratch.line = states;
    })
}

/// The operands of one product.
struct Operands<'a> {
    x: Mat<'a, i8>,
    /// The first row of x.
    start: usize,
    weight: IntWeight<'a>,
}

fn run<O: Copy + Send + Sync>(
    problems: Vec<IntProblem<'_, '_, O>>,
    work: impl Fn(&Kernel, &Operands<'_>, Part<'_, O>, &mut Scratch) + Sync,
) -> Result<(), KernelError> {
    for IntProblem { x, rows, weight, out } in &problems {
        error::dim("w, axis K", x.cols(), weight.k())?;
        error::range("end of the rows of x", rows.end, rows.start, x.rows())?;
        error::dim("out, axis M", rows.len(), out.rows())?;
        error::dim("out, axis N", weight.n(), out.cols())?;
    }
    let isa = Isa::current();
    let mut operands = Vec::with_capacity(problems.len());
    let mut outs = Vec::with_capacity(problems.len());
    for IntProblem { x, rows, weight, out } in problems {
        outs.push((x.cols(), out));
        operands.push(Operands { x, start: rows.start, weight });
    }
    in_parts(outs, |part, scratch| {
        let operands = &operands[part.product];
        work(simd::kernel(isa, operands.weight.words()), operands, part, scratch);
    });
    Ok(())
}

impl Operands<'_> {
    /// The accumulators of a part.
    fn multiply<O>(&self, kernel: &Kernel, part: &Part<'_, O>, ks: Range<usize>, scratch: &mut Scratch) {
        let rows = self.start + part.rows.start..self.start + part.rows.end;
        scratch.multiply(kernel, &self.x, &self.weight, rows, part.cols.clone(), ks);
    }

    /// Where row `row` of a part belongs.
    fn span<O>(&self, part: &Part<'_, O>, row: usize) -> Span {
        Span { problem: part.product, row: self.start + part.rows.start + row, cols: part.cols.clone() }
    }
}

/// Lets `fill` write a row of the output.
fn write<O: Copy>(out: &mut MatMut<'_, O>, row: usize, fill: impl FnOnce(&mut [O])) {
    if let Some(out) = out.row_slice_mut(row) {
        return fill(out);
    }
    let mut line: Vec<O> = (0..out.cols()).filter_map(|col| out.get(row, col)).collect();
    fill(&mut line);
    out.write_row(row, line);
}
