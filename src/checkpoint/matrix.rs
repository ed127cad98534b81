//! A weight of two axes as a view of what is stored, so that transposed, stacked and alternating storage are one thing; its values
//! in any type, and its codes as int8 and int4.

use std::cell::Cell;
use std::ops::Range;

use moe_kernels::formats::nibbles::pack_int4;
use moe_kernels::formats::requantise::{INT4_LIMIT, INT8_LIMIT, QuantError, mxfp4_to_int8, symmetric};
use rayon::prelude::*;

use super::convert::{convert, narrow, widen};
use super::stored::{Codes, Layout, StoredMatrix};
use super::{CheckpointError, Stored};
use crate::spec::FloatType;

/// Elements of a parallel piece.
const PIECE: usize = 1 << 16;
/// Fewest rows of a piece that reads columns: as many as fill a cache line of bytes.
const TURNED_ROWS: usize = 64;

/// A matrix `[rows, cols]`: row `i` is line `first + i * step` of what is stored, from place `along`. Lines are rows, or columns
/// where it is turned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) stored: StoredMatrix<'a>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) first: usize,
    pub(crate) step: usize,
    pub(crate) along: usize,
    pub(crate) turned: bool,
}

thread_local! {
    /// Room that a thread keeps from one piece to the next: to clear it each time would take as long as to fill it.
    static VALUES: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static CODES: Cell<Vec<i8>> = const { Cell::new(Vec::new()) };
}

impl<'a> Matrix<'a> {
    /// All of it, turned or as it is.
    pub(crate) const fn whole(stored: StoredMatrix<'a>, turned: bool) -> Self {
        let (rows, cols) = if turned { (stored.cols, stored.rows) } else { (stored.rows, stored.cols) };
        Self { stored, rows, cols, first: 0, step: 1, along: 0, turned }
    }

    /// `count` of its rows.
    pub(crate) const fn take_rows(self, first: usize, step: usize, count: usize) -> Self {
        Self { rows: count, first: self.first + first * self.step, step: self.step * step, ..self }
    }

    /// How it is stored.
    pub(crate) fn stored_as(&self) -> Stored {
        let [rows, cols] = self.block();
        let group = (rows == 1 && cols < self.cols).then_some(cols);
        self.stored.codes.stored(self.stored.block(), group)
    }

    /// Rows and columns of what shares a scale.
    pub(crate) fn block(&self) -> [usize; 2] {
        let [rows, cols] = self.stored.block();
        if self.turned { [cols, rows] } else { [rows, cols] }
    }

    /// Writes its values in `dtype`; `dst` holds as many.
    pub(crate) fn copy_to(&self, dst: &mut [u8], dtype: FloatType) -> Result<(), CheckpointError> {
        if let Codes::Float(from) = self.stored.codes
            && !self.turned
            && self.stored.layout == Layout::Rows
            && (self.step, self.along, self.cols) == (1, 0, self.stored.cols)
        {
            let size = self.cols * from.bytes();
            let all = self.stored.bytes.get(self.first * size..(self.first + self.rows) * size);
            convert(all.unwrap_or_default(), from, dst, dtype);
            return Ok(());
        }
        let tile = self.tile_rows(PIECE);
        let each = (tile * self.cols * dtype.bytes()).max(1);
        first_error(dst.par_chunks_mut(each).enumerate().map(|(index, dst)| {
            let mut values = vec![0.0; dst.len() / dtype.bytes()];
            self.read(self.tile(index, tile), &mut values)?;
            narrow(&values, dtype, dst);
            Ok(())
        }))
    }

    /// Writes its values in `dtype`; what rounding costs.
    pub(crate) fn copy_measured(&self, dst: &mut [u8], dtype: FloatType) -> Result<QuantError, CheckpointError> {
        if self.stored.codes == Codes::Float(dtype) {
            return self.copy_to(dst, dtype).map(|()| QuantError::default());
        }
        let tile = self.tile_rows(PIECE);
        let each = (tile * self.cols * dtype.bytes()).max(1);
        let errors = dst.par_chunks_mut(each).enumerate().map(|(index, dst)| {
            let mut values = vec![0.0; dst.len() / dtype.bytes()];
            self.read(self.tile(index, tile), &mut values)?;
            narrow(&values, dtype, dst);
            let mut rounded = vec![0.0; values.len()];
            widen(dst, dtype, &mut rounded);
            Ok(QuantError::between(&values, &rounded))
        });
        all_errors(errors.collect())
    }

    /// Writes int8 codes `[rows, cols]` and the scale of each row.
    pub(crate) fn fill_int8(&self, codes: &mut [i8], scales: &mut [f32]) -> Result<QuantError, CheckpointError> {
        let tile = self.tile_rows(PIECE);
        let pieces = codes.par_chunks_mut((tile * self.cols).max(1)).zip(scales.par_chunks_mut(tile)).enumerate();
        let errors = pieces.map(|(index, (codes, scales))| self.tile_to_int8(self.tile(index, tile), codes, scales));
        all_errors(errors.collect())
    }

    /// Writes int4 codes `[rows, cols]`, two to a byte along the columns, the even one in the low half, and the scales of each row's
    /// groups of `group`. The number of columns is even, and a multiple of `group`.
    pub(crate) fn fill_int4(
        &self,
        group: usize,
        packed: &mut [u8],
        scales: &mut [f32],
    ) -> Result<QuantError, CheckpointError> {
        let tile = self.tile_rows(PIECE);
        let (bytes, groups) = (tile * (self.cols / 2), tile * (self.cols / group.max(1)));
        let pieces = packed.par_chunks_mut(bytes.max(1)).zip(scales.par_chunks_mut(groups.max(1))).enumerate();
        let errors = pieces.map(|(index, (packed, scales))| {
            let rows = self.tile(index, tile);
            self.tile_to_int4(rows, group, packed, scales)
        });
        all_errors(errors.collect())
    }

    /// Rows of a piece of about so many elements.
    pub(crate) fn tile_rows(&self, elements: usize) -> usize {
        let rows = elements / self.cols.max(1);
        rows.max(if self.turned { TURNED_ROWS } else { 1 })
    }

    fn tile(&self, index: usize, tile: usize) -> Range<usize> {
        index * tile..self.rows.min((index + 1) * tile)
    }

    /// The values of some rows.
    pub(crate) fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), CheckpointError> {
        self.gather(rows, out, |row, cols, out| self.stored.read(row, cols, out))
    }

    /// What `read` gives of each stored row, as rows of the matrix.
    fn gather<T: Copy + Default>(
        &self,
        rows: Range<usize>,
        out: &mut [T],
        read: impl Fn(usize, Range<usize>, &mut [T]) -> Result<(), CheckpointError>,
    ) -> Result<(), CheckpointError> {
        if self.cols == 0 || rows.is_empty() {
            return Ok(());
        }
        let line = |row: usize| self.first + row * self.step;
        if !self.turned {
            let mut lines = out.chunks_mut(self.cols).zip(rows);
            return lines.try_for_each(|(out, row)| read(line(row), self.along..self.along + self.cols, out));
        }
        let span = line(rows.start)..line(rows.end - 1) + 1;
        let mut column = vec![T::default(); span.len()];
        for col in 0..self.cols {
            read(self.along + col, span.clone(), &mut column)?;
            for (out, value) in out.chunks_mut(self.cols).zip(column.iter().step_by(self.step)) {
                if let Some(out) = out.get_mut(col) {
                    *out = *value;
                }
            }
        }
        Ok(())
    }

    fn tile_to_int8(
        &self,
        rows: Range<usize>,
        codes: &mut [i8],
        scales: &mut [f32],
    ) -> Result<QuantError, CheckpointError> {
        if self.passes(rows.clone(), self.cols, scales)? {
            self.codes(rows, codes)?;
            return Ok(QuantError::default());
        }
        if self.stored.codes == Codes::E2m1 && !self.turned && self.along == 0 && self.cols == self.stored.cols {
            let mut error = QuantError::default();
            for ((row, codes), scale) in rows.zip(codes.chunks_mut(self.cols)).zip(scales) {
                error = error.and(self.mxfp4_row_to_int8(row, codes, scale)?);
            }
            return Ok(error);
        }
        self.quantise(rows, self.cols, INT8_LIMIT, codes, scales)
    }

    /// A row of MXFP4, exact where that is possible.
    fn mxfp4_row_to_int8(&self, row: usize, codes: &mut [i8], scale: &mut f32) -> Result<QuantError, CheckpointError> {
        let line = self.first + row * self.step;
        // Whether a scale is no number is found where it is read.
        let row_of = self.stored.mxfp4_row(line).filter(|(_, exponents)| !exponents.contains(&255));
        match row_of.and_then(|(packed, exponents)| mxfp4_to_int8(packed, exponents, codes)) {
            Some(exact) => {
                *scale = exact;
                Ok(QuantError::default())
            }
            None => self.quantise(row..row + 1, self.cols, INT8_LIMIT, codes, std::slice::from_mut(scale)),
        }
    }

    fn tile_to_int4(
        &self,
        rows: Range<usize>,
        group: usize,
        packed: &mut [u8],
        scales: &mut [f32],
    ) -> Result<QuantError, CheckpointError> {
        let count = rows.len() * self.cols;
        let mut room = CODES.take();
        room.resize(room.len().max(count), 0);
        let codes = room.get_mut(..count).unwrap_or_default();
        let error = if self.stored.codes.is_int4() && self.passes(rows.clone(), group, scales)? {
            self.codes(rows, codes)?;
            QuantError::default()
        } else {
            self.quantise(rows, group, INT4_LIMIT, codes, scales)?
        };
        pack_int4(codes, packed);
        CODES.set(room);
        Ok(error)
    }

    fn codes(&self, rows: Range<usize>, codes: &mut [i8]) -> Result<(), CheckpointError> {
        self.gather(rows, codes, |row, cols, out| self.stored.read_codes(row, cols, out))
    }

    /// Whether the stored codes of some rows are what is asked for in groups of `group` columns; then `scales` has the scales of
    /// the groups.
    fn passes(&self, rows: Range<usize>, group: usize, scales: &mut [f32]) -> Result<bool, CheckpointError> {
        let along_scale = self.block()[1];
        let within = |size: usize| size > 0 && along_scale.is_multiple_of(size) && self.along.is_multiple_of(size);
        let whole = along_scale >= self.along + self.cols;
        if !self.stored.codes.is_integer() || !(whole || within(group)) {
            return Ok(false);
        }
        let groups = self.cols / group.max(1);
        for (row, scales) in rows.zip(scales.chunks_mut(groups.max(1))) {
            for (index, scale) in scales.iter_mut().enumerate() {
                let (line, place) = (self.first + row * self.step, self.along + index * group);
                let (row, col) = if self.turned { (place, line) } else { (line, place) };
                if self.stored.zero(row, col) != 0.0 {
                    return Ok(false);
                }
                *scale = self.stored.scale(row, col)?;
            }
        }
        Ok(true)
    }

    /// Codes of the values of some rows, in groups of `group` columns.
    fn quantise(
        &self,
        rows: Range<usize>,
        group: usize,
        limit: i8,
        codes: &mut [i8],
        scales: &mut [f32],
    ) -> Result<QuantError, CheckpointError> {
        // A row at a time stays in the nearest cache; columns of what is stored are only worth their reading together.
        let together = if self.turned { rows.len() } else { 1 };
        let count = together * self.cols;
        let mut room = VALUES.take();
        room.resize(room.len().max(count), 0.0);
        let (mut scales, mut codes) = (scales.iter_mut(), codes.chunks_mut(group.max(1)));
        let mut error = QuantError::default();
        for first in rows.clone().step_by(together.max(1)) {
            let values = room.get_mut(..count).unwrap_or_default();
            self.read(first..first + together, values)?;
            let groups = values.chunks(group.max(1)).zip(codes.by_ref()).zip(scales.by_ref());
            for (index, ((values, codes), scale)) in groups.enumerate() {
                let Some((found, of_group)) = symmetric(values, limit, codes) else {
                    let (file, tensor) = (self.stored.file.to_path_buf(), self.stored.name.to_owned());
                    let row = first + index * group / self.cols.max(1);
                    return Err(CheckpointError::NotFinite { file, tensor, row: self.first + row * self.step });
                };
                *scale = found;
                error = error.and(of_group);
            }
        }
        VALUES.set(room);
        Ok(error)
    }
}

/// The first error of pieces in their order, whatever ran first.
pub(crate) fn first_error(
    pieces: impl IndexedParallelIterator<Item = Result<(), CheckpointError>>,
) -> Result<(), CheckpointError> {
    pieces.find_map_first(Result::err).map_or(Ok(()), Err)
}

/// The error of all pieces together, in their order.
pub(crate) fn all_errors(pieces: Vec<Result<QuantError, CheckpointError>>) -> Result<QuantError, CheckpointError> {
    pieces.into_iter().try_fold(QuantError::default(), |all, piece| Ok(all.and(piece?)))
}
