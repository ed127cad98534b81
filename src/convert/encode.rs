//! The bytes of a step of the plan, in pieces that fit a buffer.

use std::borrow::Cow;
use std::collections::VecDeque;

use bytemuck::cast_slice;
use moe_kernels::formats::requantise::QuantError;
use rayon::prelude::*;
use safetensors::Dtype;

use super::plan::{Job, Step, Target};
use super::{ConvertError, Options};
use crate::checkpoint::{Checkpoint, Matrix};
use crate::spec::FloatType;

/// Rows of a fractal of FRACTAL_NZ, and bytes of one of them.
const FRACTAL: [usize; 2] = [16, 32];

/// Name, type and last axes of the codes of matrices `[rows, cols]`.
pub(super) fn codes(name: &str, target: Target, nz: bool, [rows, cols]: [usize; 2]) -> (String, Dtype, Vec<usize>) {
    let dtype = match target {
        Target::Bf16 => Dtype::BF16,
        Target::Int8 => Dtype::I8,
        Target::Int4 { .. } if nz => Dtype::U8,
        Target::Int4 { .. } => Dtype::I32,
    };
    if nz {
        let columns = columns_of_fractal(target);
        let last = FRACTAL[1] * 8 / dtype.bitsize();
        let shape = vec![rows.div_ceil(columns), cols.div_ceil(FRACTAL[0]), FRACTAL[0], last];
        return (format!("{name}_nz"), dtype, shape);
    }
    match target {
        Target::Bf16 | Target::Int8 => (name.to_owned(), dtype, vec![rows, cols]),
        Target::Int4 { .. } => (format!("{name}_packed"), dtype, vec![rows, cols.div_ceil(8)]),
    }
}

/// Outputs of a weight that one row of a fractal holds.
const fn columns_of_fractal(target: Target) -> usize {
    match target {
        Target::Bf16 => FRACTAL[1] / 2,
        Target::Int8 => FRACTAL[1],
        Target::Int4 { .. } => FRACTAL[1] * 2,
    }
}

/// Pieces that are worked out, wait or are written at a time.
const ON_THEIR_WAY: usize = 4;

/// Buffers that are used again.
pub(super) type Pool = std::sync::Mutex<Vec<Vec<u8>>>;

/// One of so many bytes, whatever they are.
fn buffer(pool: &Pool, bytes: usize) -> Vec<u8> {
    let mut buffer = pool.lock().ok().and_then(|mut pool| pool.pop()).unwrap_or_default();
    buffer.resize(bytes, 0);
    buffer
}

/// One of so many zeros.
fn zeros(pool: &Pool, bytes: usize) -> Vec<u8> {
    let mut buffer = buffer(pool, bytes);
    buffer.fill(0);
    buffer
}

/// Gives `emit` all bytes of a step, in order; `false` from it ends the work. The error of what became codes.
pub(super) fn step<'a>(
    checkpoint: &Checkpoint,
    step: &Step<'a>,
    options: Options,
    pool: &Pool,
    emit: &mut dyn FnMut(Cow<'a, [u8]>) -> bool,
) -> Result<QuantError, ConvertError> {
    let size = options.buffer.max(1);
    let mut error = QuantError::default();
    match &step.job {
        Job::Copy(tensor) => {
            let mut waiting = VecDeque::new();
            for piece in tensor.bytes.chunks(size) {
                waiting.push_back(piece);
                if !emit(Cow::Borrowed(piece)) {
                    break;
                }
                // Those before are written by now.
                if waiting.len() > ON_THEIR_WAY {
                    waiting.pop_front().into_iter().for_each(|piece| checkpoint.release(tensor.name, piece));
                }
            }
            // Pieces that still wait to be written are read again.
            waiting.into_iter().for_each(|piece| checkpoint.release(tensor.name, piece));
        }
        Job::Encode { matrices, target, .. } => {
            let nz = step.tensors.first().is_some_and(|codes| codes.name.ends_with("_nz"));
            let mut scales = Vec::new();
            for matrix in matrices {
                // Values of a piece are no more than a buffer of two bytes each has.
                let unit = if nz { columns_of_fractal(*target) } else { 1 };
                let rows = (size / 2 / matrix.cols.max(1)).max(1).next_multiple_of(unit);
                let mut first = 0;
                while first < matrix.rows {
                    let piece = matrix.take_rows(first, 1, rows.min(matrix.rows - first));
                    let (bytes, of_piece) = encoded(&piece, *target, nz, pool, &mut scales)?;
                    error = error.and(of_piece);
                    if !emit(Cow::Owned(bytes)) {
                        return Ok(error);
                    }
                    first += piece.rows;
                }
                checkpoint.release(matrix.stored.name, matrix.stored.bytes);
            }
            if *target != Target::Bf16 && !emit(Cow::Owned(cast_slice(&scales).to_vec())) {
                return Ok(error);
            }
            if let Some(shape) = step.tensors.get(1..).and_then(|rest| rest.iter().find(|t| t.name.ends_with("_shape")))
            {
                let lead = shape.shape.first().map_or(0, |axes| axes - 2);
                let outer = step.tensors.first().map(|codes| codes.shape.get(..lead).unwrap_or_default());
                let last = matrices.first().map_or([0, 0], |matrix| [matrix.rows, matrix.cols]);
                let axes = outer.into_iter().flatten().chain(&last);
                emit(Cow::Owned(axes.flat_map(|axis| (*axis as i64).to_le_bytes()).collect()));
            }
        }
    }
    Ok(error)
}

/// The codes of some rows; `scales` gets theirs.
fn encoded(
    matrix: &Matrix<'_>,
    target: Target,
    nz: bool,
    pool: &Pool,
    scales: &mut Vec<f32>,
) -> Result<(Vec<u8>, QuantError), ConvertError> {
    let (rows, cols) = (matrix.rows, matrix.cols);
    let first = scales.len();
    scales.resize(first + rows * target.scales(cols), 0.0);
    let scales = scales.get_mut(first..).unwrap_or_default();
    match target {
        Target::Bf16 => {
            let mut bytes = buffer(pool, rows * cols * 2);
            let error = matrix.fill_bf16(&mut bytes)?;
            Ok((if nz { fractals(bytes, pool, rows, cols, 2) } else { bytes }, error))
        }
        Target::Int8 => {
            let mut bytes = buffer(pool, rows * cols);
            let error = matrix.fill_int8(bytemuck::cast_slice_mut(&mut bytes), scales)?;
            Ok((if nz { fractals(bytes, pool, rows, cols, 1) } else { bytes }, error))
        }
        Target::Int4 { group } => {
            let mut packed = buffer(pool, rows * (cols / 2));
            let error = matrix.fill_int4(group.unwrap_or(cols), &mut packed, scales)?;
            let bytes = if nz { nibble_fractals(&packed, pool, rows, cols) } else { words(&packed, pool, rows, cols) };
            give_back(pool, packed);
            Ok((bytes, error))
        }
    }
}

pub(super) fn give_back(pool: &Pool, buffer: Vec<u8>) {
    if let Ok(mut pool) = pool.lock()
        && pool.len() < ON_THEIR_WAY
    {
        pool.push(buffer);
    }
}

/// Pairs of int4 as words of eight, each more by 8; rows end with whole words.
fn words(packed: &[u8], pool: &Pool, rows: usize, cols: usize) -> Vec<u8> {
    let (from, to) = ((cols / 2).max(1), (cols.div_ceil(8) * 4).max(1));
    let mut bytes = match cols.is_multiple_of(8) {
        true => buffer(pool, rows * to),
        false => zeros(pool, rows * to),
    };
    bytes.par_chunks_mut(to).zip(packed.par_chunks(from)).with_min_len(16).for_each(|(words, packed)| {
        // Two's complement plus 8 is its highest bit the other way round.
        words.iter_mut().zip(packed).for_each(|(word, pair)| *word = pair ^ 0x88);
    });
    bytes
}

/// Rows `[rows, cols]` of elements of `size` bytes as FRACTAL_NZ of their transpose: for so many outputs at a time as 32 bytes hold,
/// all inputs up to whole fractals of 16.
fn fractals(plain: Vec<u8>, pool: &Pool, rows: usize, cols: usize, size: usize) -> Vec<u8> {
    let (columns, inputs) = (FRACTAL[1] / size, cols.next_multiple_of(FRACTAL[0]));
    let block = inputs * FRACTAL[1];
    let mut bytes = zeros(pool, rows.div_ceil(columns) * block);
    bytes.par_chunks_mut(block.max(1)).zip(plain.par_chunks((columns * cols * size).max(1))).for_each(|(out, rows)| {
        for (output, row) in rows.chunks_exact((cols * size).max(1)).enumerate() {
            for (line, value) in out.chunks_exact_mut(FRACTAL[1]).zip(row.chunks_exact(size)) {
                line.get_mut(output * size..(output + 1) * size).unwrap_or_default().copy_from_slice(value);
            }
        }
    });
    give_back(pool, plain);
    bytes
}

/// The same of int4, pairs of which along the columns become pairs along the rows.
fn nibble_fractals(packed: &[u8], pool: &Pool, rows: usize, cols: usize) -> Vec<u8> {
    let (columns, inputs) = (FRACTAL[1] * 2, cols.next_multiple_of(FRACTAL[0]));
    let block = inputs * FRACTAL[1];
    let mut bytes = zeros(pool, rows.div_ceil(columns) * block);
    bytes.par_chunks_mut(block.max(1)).zip(packed.par_chunks((columns * cols / 2).max(1))).for_each(|(out, rows)| {
        for (output, row) in rows.chunks_exact((cols / 2).max(1)).enumerate() {
            for (pair, lines) in row.iter().zip(out.chunks_exact_mut(FRACTAL[1] * 2)) {
                let (even, odd) = lines.split_at_mut(FRACTAL[1]);
                for (line, code) in [(even, pair & 15), (odd, pair >> 4)] {
                    line.get_mut(output / 2).into_iter().for_each(|byte| *byte |= code << (output % 2 * 4));
                }
            }
        }
    });
    bytes
}

impl Matrix<'_> {
    /// Writes its values in BF16; what that costs.
    fn fill_bf16(&self, dst: &mut [u8]) -> Result<QuantError, ConvertError> {
        Ok(self.copy_measured(dst, FloatType::Bf16)?)
    }
}
