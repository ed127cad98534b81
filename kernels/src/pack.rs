//! Operands of a GEMM in the form that micro-kernels read: panels of a weight, from wherever it lies, and rows of x.

use std::ops::Range;

use half::bf16;

use crate::element::{Float, FloatType};
use crate::int_gemm::IntWeight;
use crate::nz::{FRACTAL_ROW_BYTES, NzLayout};
use crate::simd::{
    Ahead, Kernel, LINE_BYTES, Line, PANEL, PIECE, Rows, STEPS, Turn, Weave, Words, fetch, in_lines, per_line,
};
use crate::view::Mat;

/// Where element `i` of an axis lies: `i / block * far + i % block * near`, `block` being `1 << shift`. Offsets grow with `i`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Axis {
    /// Not the block itself: divisions would take longer than what is done to small panels.
    shift: u32,
    far: usize,
    near: usize,
}

impl Axis {
    /// One stride for the whole axis.
    pub(crate) const fn strided(stride: usize) -> Self {
        Self { shift: usize::BITS - 1, far: 0, near: stride }
    }

    /// Elements of a block.
    const fn block(self) -> usize {
        1 << self.shift
    }

    /// The block of element `i`.
    const fn number(self, i: usize) -> usize {
        i >> self.shift
    }

    /// Element `i` within its block.
    const fn within(self, i: usize) -> usize {
        i & (self.block() - 1)
    }

    /// Where element `i` lies.
    pub(crate) fn at(self, i: usize) -> usize {
        self.number(i) * self.far + self.within(i) * self.near
    }

    /// Whether a range that is not empty lies within one block.
    fn is_within(self, range: &Range<usize>) -> bool {
        self.number(range.start) == self.number(range.end - 1)
    }

    /// `each(offset, first, n)` for every run of neighbours in `range`: `n` elements from `offset` on, the first of them
    /// number `first` of the range.
    pub(crate) fn runs(self, range: Range<usize>, mut each: impl FnMut(usize, usize, usize)) {
        let mut i = range.start;
        while i < range.end {
            let run = if self.near == 1 { (self.block() - self.within(i)).min(range.end - i) } else { 1 };
            each(self.at(i), i - range.start, run);
            i += run;
        }
    }
}

/// Where the elements of a weight `[K, N]` lie in a slice: at the sum of what the axes say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) k: Axis,
    pub(crate) n: Axis,
}

impl Place {
    /// One stride for each axis.
    pub(crate) const fn strided([k, n]: [usize; 2]) -> Self {
        Self { k: Axis::strided(k), n: Axis::strided(n) }
    }

    /// FRACTAL_NZ with rows K and columns N.
    pub(crate) fn nz(layout: NzLayout) -> Self {
        // c0 divides the 32 bytes of a fractal's row, or is 64.
        let (c0, shift) = (layout.c0(), layout.c0().trailing_zeros());
        Self { k: Axis::strided(c0), n: Axis { shift, far: layout.block_len(), near: 1 } }
    }

    /// The transpose in FRACTAL_NZ, with rows N and columns K.
    pub(crate) fn nz_transposed(layout: NzLayout) -> Self {
        let Self { k, n } = Self::nz(layout);
        Self { k: n, n: k }
    }

    /// Where element (k, n) lies.
    pub(crate) fn at(&self, k: usize, n: usize) -> usize {
        self.k.at(k) + self.n.at(n)
    }

    /// What is near to what.
    pub(crate) fn lies(&self) -> Lies {
        if self.n.block() == self.k.near {
            Lies::BlocksOfN
        } else if self.k.block() == self.n.near {
            Lies::BlocksOfK
        } else if self.k.near == 1 && self.n.near != 1 {
            Lies::AlongK
        } else {
            Lies::AlongN
        }
    }
}

/// Which elements of a weight `[K, N]` are near to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lies {
    /// Those of a row.
    AlongN,
    /// Those of a column.
    AlongK,
    /// Those of all rows of some columns, row after row.
    BlocksOfN,
    /// Those of all columns of some rows, column after column.
    BlocksOfK,
}

impl Lies {
    /// Whether columns are read faster than rows.
    pub(crate) const fn is_along_k(self) -> bool {
        matches!(self, Self::AlongK | Self::BlocksOfK)
    }

    /// How many panels are best made at a time, many rows of them rather than many panels of few rows, where tiles take `wide`;
    /// `None` where the latter is faster.
    pub(crate) const fn narrow(self, wide: usize, words: Words) -> Option<usize> {
        match self {
            Self::AlongN => None,
            // Those of a block.
            Self::BlocksOfN if words.bits() < 16 => Some(FRACTAL_ROW_BYTES / words.panel_bytes()),
            _ => Some(wide),
        }
    }
}

/// A panel, or several next to each other, that can be read where they lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direct {
    /// Column i of the panel at `from + i * stride` bytes, in pieces of `piece` elements, `next` bytes from one to the next.
    Columns { from: *const u8, stride: usize, piece: usize, next: usize },
    /// Row i of the panel at `from + i * stride` bytes.
    Rows { from: *const u8, stride: usize },
    /// It cannot.
    No,
}

impl Direct {
    /// The panels `ks` by `ns` of elements of `bits` bits at `place` in `data`, if it holds them and they are whole; `ns` is not
    /// empty.
    #[inline]
    pub(crate) fn of(data: &[u8], bits: usize, place: &Place, ks: &Range<usize>, ns: &Range<usize>) -> Self {
        if ks.is_empty() || !ns.len().is_multiple_of(PANEL) || !place.n.is_within(ns) {
            return Self::No;
        }
        // Half a byte is no address.
        let bytes = |elements: usize| (elements * bits).is_multiple_of(8).then_some(elements * bits / 8);
        let (first, last) = (place.at(ks.start, ns.start), place.at(ks.end - 1, ns.end - 1));
        let Some(first) = bytes(first).filter(|_| (last + 1) * bits <= 8 * data.len()) else { return Self::No };
        let from = data[first..].as_ptr();
        let whole = place.k.is_within(ks);
        if place.k.near == 1 && (whole || place.k.within(ks.start) == 0) {
            let piece = if whole { ks.len() } else { place.k.block() };
            if let (Some(stride), Some(next)) = (bytes(place.n.near), bytes(place.k.far)) {
                return Self::Columns { from, stride, piece, next };
            }
        }
        let stride = bytes(place.k.near).filter(|_| place.n.near == 1 && whole);
        stride.map_or(Self::No, |stride| Self::Rows { from, stride })
    }

    /// Whether another panel lies as this one: of columns, `columns` columns further.
    pub(crate) fn is_like(&self, other: &Self, columns: usize) -> bool {
        match (*self, *other) {
            (Self::Columns { from, stride, piece, next }, Self::Columns { .. }) => {
                *other == Self::Columns { from: from.wrapping_add(columns * stride), stride, piece, next }
            }
            (Self::Rows { .. }, Self::Rows { .. }) => true,
            _ => false,
        }
    }

    /// Whether this panel's rows begin `bytes` after those of another, or neither can be read where it lies.
    fn follows(&self, other: &Self, bytes: usize) -> bool {
        match (self, other) {
            (Self::Rows { from, stride }, Self::Rows { from: before, stride: its }) => {
                stride == its && from.addr() == before.addr().wrapping_add(bytes)
            }
            (Self::No, Self::No) => true,
            _ => false,
        }
    }
}

/// A weight `[K, N]` as panels are made of it.
pub(crate) trait Source: Sync {
    /// What its panels hold.
    fn words(&self) -> Words;

    /// The panel `ks` by `ns`, if its memory holds the elements of the words as they are; `ns` is not empty.
    fn direct(&self, ks: &Range<usize>, ns: &Range<usize>) -> Direct;

    /// What is near to what.
    fn lies(&self) -> Lies;

    /// Where its elements are bf16 made of whole numbers, these.
    fn numbers(&self) -> Option<Numbers<'_>> {
        None
    }

    /// Column `n`, rows `ks`, as elements of the words, from the first byte of `to` on.
    fn read_column(&self, n: usize, ks: Range<usize>, to: &mut [u32]);

    /// Rows `ks`, columns `ns`, likewise, each `stride` words after the one before.
    fn read_rows(&self, ks: Range<usize>, ns: Range<usize>, to: &mut [u32], stride: usize);
}

/// Whole numbers `[K, N]` and what makes bf16 of them: `(w + offset) * scale`, rounded once.
pub(crate) struct Numbers<'a> {
    pub(crate) weight: &'a IntWeight<'a>,
    /// `[G, N]`, a row for each `group` of K.
    pub(crate) scale: &'a [bf16],
    pub(crate) offset: Option<&'a [bf16]>,
    pub(crate) group: usize,
}

/// What words a type's panels hold.
pub(crate) const fn float_words(of: FloatType) -> Words {
    match of {
        FloatType::Bf16 => Words::Bf16,
        FloatType::F32 | FloatType::F16 => Words::F32,
    }
}

/// Elements number `first` and on of `to`, as elements of words.
pub(crate) fn put_floats<T: Float>(values: &[T], to: &mut [u32], first: usize) {
    match T::TYPE {
        FloatType::F32 | FloatType::F16 => T::widen(values, &mut bytemuck::cast_slice_mut(to)[first..]),
        FloatType::Bf16 => {
            let to: &mut [u8] = bytemuck::cast_slice_mut(to);
            to[first * T::BYTES..][..size_of_val(values)].copy_from_slice(bytemuck::cast_slice(values));
        }
    }
}

/// Panels that are made at a time, at most.
pub(crate) const MAX_PANELS: usize = 16;
/// Words of rows that are made over all panels before the next ones: whole lines of the cache are used.
const ROW_WORDS: usize = PANEL * STEPS / 4;

/// What making panels of columns `cols` and rows `ks` reads, as far as it is read where it lies.
pub(crate) fn ahead(source: &impl Source, ks: &Range<usize>, cols: &Range<usize>) -> Ahead {
    let bytes = |elements: usize| elements * source.words().bits() / 8;
    let panel = |number: usize| {
        let start = cols.start + number * PANEL;
        source.direct(ks, &(start..start + PANEL))
    };
    let panels = cols.len().div_ceil(PANEL);
    match panel(0) {
        Direct::Columns { from, stride, piece, .. } if piece >= ks.len() => {
            Ahead::new(from, stride, cols.len(), bytes(ks.len()))
        }
        Direct::Columns { from, stride, piece, next } => {
            Ahead::new(from, next, ks.len().div_ceil(piece), cols.len() * stride)
        }
        Direct::Rows { from, stride } if stride < LINE_BYTES => {
            // As many panels as a row has, which is one of a block, and then the next block.
            let per_block = (stride / bytes(PANEL)).max(1);
            let distance = match panel(per_block) {
                Direct::Rows { from: next, .. } => next.addr().wrapping_sub(from.addr()),
                _ => 0,
            };
            Ahead::new(from, distance, panels.div_ceil(per_block), ks.len() * stride)
        }
        Direct::Rows { from, stride } => Ahead::new(from, stride, ks.len(), panels * bytes(PANEL)),
        Direct::No => Ahead::NONE,
    }
}

/// Makes panels of columns `cols` and rows `ks`, neither empty: panel p at line `p * stride` of `to`. What panels hold beyond the
/// columns is of no meaning.
///
/// `tile` is room for what cannot be read where it lies.
pub(crate) fn pack_panels(
    source: &impl Source,
    kernel: &Kernel,
    ks: Range<usize>,
    cols: Range<usize>,
    tile: &mut Vec<u32>,
    (to, stride): (&mut [Line], usize),
) {
    tile.resize(PANEL * STEPS, 0);
    if !source.lies().is_along_k() {
        return pack_rows(source, kernel, ks, cols, tile, (to, stride));
    }
    for (start, to) in cols.clone().step_by(PANEL).zip(to.chunks_mut(stride)) {
        pack_columns(source, kernel, ks.clone(), start..cols.end.min(start + PANEL), tile, to);
    }
}

/// Makes one panel of columns.
fn pack_columns(
    source: &impl Source,
    kernel: &Kernel,
    ks: Range<usize>,
    ns: Range<usize>,
    tile: &mut [u32],
    to: &mut [Line],
) {
    let step = kernel.words.step();
    let (whole, steps) = (ks.len() / step, ks.len().div_ceil(step));
    if let Direct::Columns { from, stride, piece, next } = source.direct(&ks, &ns) {
        let (piece, next) = in_lines(piece.div_ceil(step), next);
        let turn = Turn { piece, next, ..turn(kernel, from, stride, &mut to[..whole]) };
        // SAFETY: `direct` found every element of the panel in the weight's memory; `to` holds a line for each word.
        unsafe { (kernel.transpose)(&turn) }
        if whole < steps {
            let mut words = [0; PANEL];
            for (word, n) in words.iter_mut().zip(ns) {
                source.read_column(n, ks.start + whole * step..ks.end, std::slice::from_mut(word));
            }
            to[whole] = Line(words.map(|word| word ^ kernel.flip));
        }
        return;
    }
    for (n, column) in ns.zip(tile.chunks_exact_mut(steps)) {
        column[steps - 1] = 0;
        source.read_column(n, ks.clone(), column);
    }
    let to = &mut to[..steps];
    // SAFETY: the tile has room for 16 columns of `steps` words, `to` for as many lines.
    unsafe { (kernel.transpose)(&turn(kernel, tile[..PANEL * steps].as_ptr().cast(), 4 * steps, to)) }
}

/// One panel of as many words of each column as there are lines.
fn turn(kernel: &Kernel, from: *const u8, stride: usize, to: &mut [Line]) -> Turn {
    let (words, flip, to) = (to.len(), kernel.flip, to.as_mut_ptr());
    Turn { from, stride, panels: 1, words, piece: PIECE, next: LINE_BYTES, flip, ahead: 0, to, to_stride: 0 }
}

/// Makes panels of rows.
fn pack_rows(
    source: &impl Source,
    kernel: &Kernel,
    ks: Range<usize>,
    cols: Range<usize>,
    tile: &mut [u32],
    (to, lines): (&mut [Line], usize),
) {
    let (step, bits) = (kernel.words.step(), kernel.words.bits());
    let (whole, steps) = (ks.len() / step, ks.len().div_ceil(step));
    let panels = cols.len().div_ceil(PANEL);
    // Of a row of a panel, and of a row of the tile, which holds all panels.
    let (bytes, tile_bytes) = (PANEL * bits / 8, panels * PANEL * bits / 8);
    let mut runs = [(Direct::No, 0); MAX_PANELS];
    let mut count = 0;
    for panel in 0..panels {
        let start = cols.start + panel * PANEL;
        let direct = source.direct(&ks, &(start..cols.end.min(start + PANEL)));
        match runs[..count].last_mut() {
            Some((before, run)) if direct.follows(before, *run * bytes) => *run += 1,
            _ => {
                runs[count] = (direct, 1);
                count += 1;
            }
        }
    }
    let at_once = (ROW_WORDS / (panels * PANEL)).max(1);
    for first in (0..steps).step_by(at_once) {
        let last = steps.min(first + at_once);
        let (mut is_filled, mut panel) = (false, 0);
        for &(direct, panels) in &runs[..count] {
            let (from, stride) = match direct {
                Direct::Rows { from, stride } if last <= whole => (from.wrapping_add(first * step * stride), stride),
                _ => {
                    if !is_filled {
                        let (of_words, stride) = (ks.start + first * step..ks.start + last * step, tile_bytes / 4);
                        let read = of_words.start..of_words.end.min(ks.end);
                        tile[read.len() * stride..of_words.len() * stride].fill(0);
                        source.read_rows(read, cols.clone(), tile, stride);
                        is_filled = true;
                    }
                    (tile.as_ptr().cast::<u8>().wrapping_add(panel * bytes), tile_bytes)
                }
            };
            let weave = Weave {
                words: kernel.words,
                from,
                stride,
                panels,
                steps: last - first,
                flip: kernel.flip,
                to: to[panel * lines + first..][..(panels - 1) * lines + last - first].as_mut_ptr(),
                to_stride: lines,
            };
            // SAFETY: `direct` found every element of the panels in the weight's memory; the tile has room for the rows of
            // as many words as it holds. `to` holds a line for each step of each panel.
            unsafe { (kernel.interleave)(&weave) }
            panel += panels;
        }
    }
}

/// Fetches `bytes` bytes of each of `rows` rows.
pub(crate) fn fetch_rows(from: *const u8, stride: usize, rows: usize, bytes: usize) {
    for row in (0..rows).step_by(per_line(stride)) {
        // The end of a line's bytes: where they are not aligned, the rest is in the line before.
        let end = |at: usize| from.wrapping_add(row * stride + bytes.min(at + LINE_BYTES) - 1);
        (0..bytes).step_by(LINE_BYTES).for_each(|at| fetch(end(at)));
    }
}

/// Activations `[M, K]` as rows are made of them.
pub(crate) trait Activations: Sync {
    /// Makes row `row`, columns `ks`, what the kernel wants, with zeros up to whole words; the number that the kernel's
    /// accumulators of the row become too great by.
    fn pack_row(&self, kernel: &Kernel, row: usize, ks: Range<usize>, to: &mut [u32]) -> i32;
}

impl<T: Float> Activations for Mat<'_, T> {
    fn pack_row(&self, kernel: &Kernel, row: usize, ks: Range<usize>, to: &mut [u32]) -> i32 {
        // Up to whole words.
        let words = if kernel.x == Rows::F32 { ks.len() } else { to.len().saturating_sub(1) };
        to[words..].fill(0);
        match (kernel.x, self.row_slice(row, ks.clone())) {
            (Rows::F32, Some(values)) => T::widen(values, bytemuck::cast_slice_mut(to)),
            (Rows::F32, None) => {
                let to: &mut [f32] = bytemuck::cast_slice_mut(to);
                to.iter_mut().zip(ks).for_each(|(to, k)| *to = self.at(row, k).to_f32());
            }
            (_, Some(values)) => put_floats(values, to, 0),
            (_, None) => ks.enumerate().for_each(|(i, k)| put_floats(&[self.at(row, k)], to, i)),
        }
        0
    }
}

impl Activations for Mat<'_, i8> {
    fn pack_row(&self, kernel: &Kernel, row: usize, ks: Range<usize>, to: &mut [u32]) -> i32 {
        let words = ks.len().div_ceil(4).next_multiple_of(kernel.words.step() / 4);
        // Where two words are made of one, the words lie in the second half until then.
        let half = to.len() - words;
        let bytes: &mut [i8] = bytemuck::cast_slice_mut(&mut to[half..]);
        bytes[ks.len()..].fill(0);
        match self.row_slice(row, ks.clone()) {
            Some(values) => bytes[..values.len()].copy_from_slice(values),
            None => bytes.iter_mut().zip(ks.clone()).for_each(|(to, k)| *to = self.at(row, k)),
        }
        let sum = match kernel.excess {
            0 => 0,
            excess => bytes.iter().map(|x| i32::from(*x)).sum::<i32>().wrapping_mul(excess),
        };
        match kernel.x {
            Rows::Int16 => {
                for i in 0..words {
                    let [a, b, c, d] = to[half + i].to_le_bytes().map(|x| i16::from(x.cast_signed()).cast_unsigned());
                    let pair = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
                    to[2 * i] = pair(a, c);
                    to[2 * i + 1] = pair(b, d);
                }
            }
            Rows::EvenOdd => {
                for [low, high] in to.as_chunks_mut().0 {
                    let ([a, b, c, d], [e, f, g, h]) = (low.to_le_bytes(), high.to_le_bytes());
                    (*low, *high) = (u32::from_le_bytes([a, c, e, g]), u32::from_le_bytes([b, d, f, h]));
                }
            }
            Rows::Words | Rows::F32 => {}
        }
        sum
    }
}
