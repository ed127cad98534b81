//! One matrix of numbers as it is stored: codes, and where they are quantised the scales they are multiplied by.
//!
//! Every format is the same thing: codes of some kind, row-major, and a grid of scales, each for a block of them. Blocks of
//! 128 x 128 are DeepSeek's FP8, of 1 x 32 MXFP4, of one row int8 per channel, of a piece of a row int4 per group.

use std::ops::Range;
use std::path::Path;

use moe_kernels::formats::float8::{E8M0_NAN, e8m0, expand_e4m3, is_nan_e4m3};
use moe_kernels::formats::nibbles::{MXFP4_BLOCK, expand_e2m1, int4_pair};
use moe_kernels::nz::{FRACTAL_ROW_BYTES, FRACTAL_ROWS};

use super::convert::widen;
use super::{CheckpointError, Stored};
use crate::spec::FloatType;

/// What the codes are, and how they lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codes {
    /// Numbers that mean themselves.
    Float(FloatType),
    /// A byte each.
    E4m3,
    /// Two to a byte along the columns, the even one in the low half.
    E2m1,
    /// A byte each, two's complement.
    Int8,
    /// int4, a byte each. Source: compressed-tensors, `int-quantized` of 4 bits; msModelSlim, `W4A4_DYNAMIC`.
    Int4Bytes,
    /// Two to a byte along the columns, the even one in the low half, each more by 8; rows start at whole 32-bit words, which hold
    /// eight. Source: compressed-tensors, `pack_to_int32`.
    Int4Words,
    /// Two to a byte along the rows, the even one in the low half, two's complement. Source: msModelSlim, `w4a8_pack_int4`.
    Int4RowPairs,
}

impl Codes {
    /// Bytes of a matrix `[rows, cols]`.
    pub(crate) const fn bytes(self, layout: Layout, rows: usize, cols: usize) -> usize {
        if matches!(layout, Layout::Nz) {
            return rows.div_ceil(self.rows_of_fractal()) * cols.next_multiple_of(FRACTAL_ROWS) * FRACTAL_ROW_BYTES;
        }
        match self {
            Self::Float(dtype) => rows * cols * dtype.bytes(),
            Self::E4m3 | Self::Int8 | Self::Int4Bytes => rows * cols,
            Self::E2m1 => rows * (cols / 2),
            Self::Int4Words => rows * cols.div_ceil(8) * 4,
            Self::Int4RowPairs => rows / 2 * cols,
        }
    }

    /// Rows of a matrix that a row of a fractal of FRACTAL_NZ holds.
    pub(crate) const fn rows_of_fractal(self) -> usize {
        match self {
            Self::Float(dtype) => FRACTAL_ROW_BYTES / dtype.bytes(),
            Self::E4m3 | Self::Int8 | Self::Int4Bytes => FRACTAL_ROW_BYTES,
            Self::E2m1 | Self::Int4Words | Self::Int4RowPairs => FRACTAL_ROW_BYTES * 2,
        }
    }

    /// Whether codes are whole numbers of 8 bits or fewer.
    pub(crate) const fn is_integer(self) -> bool {
        matches!(self, Self::Int8) || self.is_int4()
    }

    /// Whether codes are whole numbers of 4 bits.
    pub(crate) const fn is_int4(self) -> bool {
        matches!(self, Self::Int4Bytes | Self::Int4Words | Self::Int4RowPairs)
    }

    /// What a weight of them is, with scales for blocks or for groups of inputs.
    pub(crate) const fn stored(self, block: [usize; 2], group: Option<usize>) -> Stored {
        match self {
            Self::Float(dtype) => Stored::Float(dtype),
            Self::E4m3 => Stored::Fp8Block { block },
            Self::E2m1 => Stored::Mxfp4,
            Self::Int8 => Stored::Int8 { group },
            Self::Int4Bytes | Self::Int4Words | Self::Int4RowPairs => Stored::Int4 { group },
        }
    }
}

/// Where the codes of a matrix lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Row after row.
    Rows,
    /// FRACTAL_NZ of the transpose: for as many rows at a time as 32 bytes hold, all columns, up to a multiple of 16.
    Nz,
}

/// What scales are stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScaleType {
    Float(FloatType),
    E8m0,
}

impl ScaleType {
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::Float(dtype) => dtype.bytes(),
            Self::E8m0 => 1,
        }
    }
}

/// A grid of scales, each for the codes of a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scales<'a> {
    pub(crate) name: &'a str,
    pub(crate) bytes: &'a [u8],
    pub(crate) kind: ScaleType,
    /// Columns of the grid.
    pub(crate) cols: usize,
    /// Rows and columns of a block.
    pub(crate) block: [usize; 2],
}

/// What is taken from each code ahead of its scale, on the same grid.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Zeros<'a> {
    Float(FloatType, &'a [u8]),
    Int8(&'a [u8]),
    /// Eight to a 32-bit word along the rows of the grid, each more by 8.
    Int4Words(&'a [u8]),
}

/// Codes that are expanded at a time.
const PIECE: usize = 256;

/// A matrix `[rows, cols]` in a mapped file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoredMatrix<'a> {
    /// The tensor, for errors.
    pub(crate) name: &'a str,
    pub(crate) file: &'a Path,
    pub(crate) bytes: &'a [u8],
    pub(crate) codes: Codes,
    pub(crate) layout: Layout,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) scales: Option<Scales<'a>>,
    pub(crate) zeros: Option<Zeros<'a>>,
}

impl StoredMatrix<'_> {
    /// Rows and columns of what shares a scale; all of them where there are no scales.
    pub(crate) fn block(&self) -> [usize; 2] {
        self.scales.map_or([self.rows, self.cols], |scales| scales.block)
    }

    /// The scale of an element; 1 where there are none.
    pub(crate) fn scale(&self, row: usize, col: usize) -> Result<f32, CheckpointError> {
        let [rows, cols] = self.block().map(|size| size.max(1));
        self.scale_of(row / rows, col / cols)
    }

    /// The scale of a block; 1 where there are none.
    fn scale_of(&self, block_row: usize, block_col: usize) -> Result<f32, CheckpointError> {
        let Some(scales) = &self.scales else { return Ok(1.0) };
        let at = block_row * scales.cols + block_col;
        let value = match scales.kind {
            ScaleType::Float(dtype) => float_at(scales.bytes, dtype, at),
            ScaleType::E8m0 => e8m0(scales.bytes.get(at).copied().unwrap_or(E8M0_NAN)),
        };
        if value.is_finite() {
            return Ok(value);
        }
        let (file, tensor) = (self.file.to_path_buf(), scales.name.to_owned());
        Err(CheckpointError::BadScale { file, tensor, row: block_row, col: block_col, value })
    }

    /// What is taken from the code of an element.
    pub(crate) fn zero(&self, row: usize, col: usize) -> f32 {
        let (Some(scales), Some(zeros)) = (&self.scales, &self.zeros) else { return 0.0 };
        let [block_row, block_col] = [row / scales.block[0].max(1), col / scales.block[1].max(1)];
        let at = block_row * scales.cols + block_col;
        match zeros {
            Zeros::Float(dtype, bytes) => float_at(bytes, *dtype, at),
            Zeros::Int8(bytes) => bytes.get(at).map_or(0.0, |byte| f32::from(*byte as i8)),
            Zeros::Int4Words(bytes) => {
                let byte = ((block_row / 8) * scales.cols + block_col) * 4 + block_row % 8 / 2;
                let half = bytes.get(byte).map_or(8, |byte| byte >> (block_row % 2 * 4) & 15);
                f32::from(half) - 8.0
            }
        }
    }

    /// The values of columns `cols` of a row: the nearest f32 to code times scale.
    pub(crate) fn read(&self, row: usize, cols: Range<usize>, out: &mut [f32]) -> Result<(), CheckpointError> {
        if let (Codes::Float(dtype), Layout::Nz) = (self.codes, self.layout) {
            for (out, col) in out.iter_mut().zip(cols) {
                *out = float_at(self.in_fractal(row, col, dtype.bytes()), dtype, 0);
            }
            return Ok(());
        }
        if let Codes::Float(dtype) = self.codes {
            widen(self.slice(row, &cols, dtype.bytes()), dtype, out);
            return Ok(());
        }
        let [block_rows, step] = self.block().map(|size| size.max(1));
        let block_row = row / block_rows;
        let mut rest = out;
        // Through blocks that share a scale, the first and the last of which need not be whole.
        for block_col in cols.start / step..cols.end.div_ceil(step) {
            let start = cols.start.max(block_col * step);
            let end = cols.end.min((block_col + 1).saturating_mul(step));
            let (out, others) = rest.split_at_mut(rest.len().min(end - start));
            rest = others;
            let scale = self.scale_of(block_row, block_col)?;
            for (start, out) in (start..end).step_by(PIECE).zip(out.chunks_mut(PIECE)) {
                self.expand(row, start, scale, out)?;
            }
        }
        Ok(())
    }

    /// The values of codes of a row from column `start` on that share a scale, no more than [`PIECE`].
    fn expand(&self, row: usize, start: usize, scale: f32, out: &mut [f32]) -> Result<(), CheckpointError> {
        let cols = start..start + out.len();
        match self.codes {
            Codes::E4m3 => {
                let bytes = self.slice(row, &cols, 1);
                if !expand_e4m3(bytes, scale, out) {
                    return Err(self.not_a_number(row, start, bytes, is_nan_e4m3));
                }
            }
            Codes::E2m1 => {
                // A range may begin or end inside a byte.
                let lead = start % 2;
                let bytes = self.bytes.get(row * (self.cols / 2) + start / 2..).unwrap_or_default();
                let mut pairs = [0.0; PIECE + 2];
                let pairs = pairs.get_mut(..(lead + out.len()).next_multiple_of(2)).unwrap_or_default();
                expand_e2m1(bytes, scale, pairs);
                out.copy_from_slice(pairs.get(lead..lead + out.len()).unwrap_or_default());
            }
            _ => {
                let mut codes = [0; PIECE];
                let codes = codes.get_mut(..out.len()).unwrap_or_default();
                self.read_codes(row, cols, codes)?;
                let zero = self.zero(row, start);
                out.iter_mut().zip(codes).for_each(|(out, code)| *out = (f32::from(*code) - zero) * scale);
            }
        }
        Ok(())
    }

    /// The codes of columns `cols` of a row of whole numbers; nothing of other kinds.
    pub(crate) fn read_codes(&self, row: usize, cols: Range<usize>, out: &mut [i8]) -> Result<(), CheckpointError> {
        match self.codes {
            Codes::Int8 if self.layout == Layout::Nz => {
                for (out, col) in out.iter_mut().zip(cols) {
                    *out = self.in_fractal(row, col, 1).first().map_or(0, |byte| *byte as i8);
                }
            }
            Codes::Int4RowPairs if self.layout == Layout::Nz => {
                for (out, col) in out.iter_mut().zip(cols) {
                    *out = self.in_fractal(row, col, 1).first().map_or(0, |byte| int4_pair(*byte)[row % 2]);
                }
            }
            Codes::Int8 | Codes::Int4Bytes => {
                let bytes = self.slice(row, &cols, 1);
                let is_too_large = |byte: u8| !(-8..8).contains(&(byte as i8));
                if self.codes == Codes::Int4Bytes && bytes.iter().any(|byte| is_too_large(*byte)) {
                    return Err(self.not_a_number(row, cols.start, bytes, is_too_large));
                }
                out.iter_mut().zip(bytes).for_each(|(out, byte)| *out = *byte as i8);
            }
            Codes::Int4Words => {
                let line = self.bytes.get(row * self.cols.div_ceil(8) * 4..).unwrap_or_default();
                for (out, col) in out.iter_mut().zip(cols) {
                    let half = line.get(col / 2).map_or(8, |byte| byte >> (col % 2 * 4) & 15);
                    *out = half as i8 - 8;
                }
            }
            Codes::Int4RowPairs => {
                let bytes = self.slice(row / 2, &cols, 1);
                out.iter_mut().zip(bytes).for_each(|(out, byte)| *out = int4_pair(*byte)[row % 2]);
            }
            Codes::Float(_) | Codes::E4m3 | Codes::E2m1 => {}
        }
        Ok(())
    }

    /// The error of the first code that is none, among those of a row from column `col`.
    fn not_a_number(&self, row: usize, col: usize, codes: &[u8], is_none: impl Fn(u8) -> bool) -> CheckpointError {
        let (at, code) = codes.iter().copied().enumerate().find(|(_, code)| is_none(*code)).unwrap_or_default();
        let (file, tensor) = (self.file.to_path_buf(), self.name.to_owned());
        CheckpointError::NotANumber { file, tensor, row, col: col + at, code }
    }

    /// The packed codes and the exponents of a whole row of MXFP4, where that is what it is.
    pub(crate) fn mxfp4_row(&self, row: usize) -> Option<(&[u8], &[u8])> {
        let scales = self.scales.filter(|scales| {
            self.codes == Codes::E2m1 && scales.kind == ScaleType::E8m0 && scales.block == [1, MXFP4_BLOCK]
        })?;
        let packed = self.bytes.get(row * (self.cols / 2)..(row + 1) * (self.cols / 2))?;
        Some((packed, scales.bytes.get(row * scales.cols..(row + 1) * scales.cols)?))
    }

    /// The `size` bytes of an element of FRACTAL_NZ, or of the pair that it is in.
    fn in_fractal(&self, row: usize, col: usize, size: usize) -> &[u8] {
        let lines = self.codes.rows_of_fractal();
        let line = (row / lines * self.cols.next_multiple_of(FRACTAL_ROWS) + col) * FRACTAL_ROW_BYTES;
        let at = line + row % lines * FRACTAL_ROW_BYTES / lines;
        self.bytes.get(at..at + size).unwrap_or_default()
    }

    /// The bytes of columns `cols` of a row whose codes have `size` bytes each.
    fn slice(&self, row: usize, cols: &Range<usize>, size: usize) -> &[u8] {
        let first = row * self.cols;
        self.bytes.get((first + cols.start) * size..(first + cols.end) * size).unwrap_or_default()
    }
}

fn float_at(bytes: &[u8], dtype: FloatType, at: usize) -> f32 {
    let size = dtype.bytes();
    match (dtype, bytes.get(at * size..(at + 1) * size)) {
        (FloatType::F32, Some(&[a, b, c, d])) => f32::from_le_bytes([a, b, c, d]),
        (FloatType::F16, Some(&[a, b])) => half::f16::from_le_bytes([a, b]).to_f32(),
        (FloatType::Bf16, Some(&[a, b])) => half::bf16::from_le_bytes([a, b]).to_f32(),
        _ => f32::NAN,
    }
}
