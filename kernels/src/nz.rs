//! FRACTAL_NZ, the weight layout of the cube unit ("big N, small z"): where an element lies, packing and unpacking. Works on
//! elements of 1, 2 or 4 bytes; int4 pairs are packed as bytes, which gives the int4 layout.
//!
//! Source: CANN 9.1.0, ops-math conversion operators (format code 29).

use bytemuck::Pod;
use rayon::prelude::*;

use crate::error::{self, KernelError};
use crate::view::{MAX_RANK, NdView};

/// Rows of one fractal.
pub const FRACTAL_ROWS: usize = 16;

/// Bytes of one row of a fractal.
pub const FRACTAL_ROW_BYTES: usize = 32;

/// Where the elements of one `[rows, cols]` matrix lie in FRACTAL_NZ storage.
///
/// The storage is `[ceil(cols / c0), ceil(rows / 16), 16, c0]`: blocks of `c0` columns one after the other, each holding all rows,
/// with zeros where the blocks reach past the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NzLayout {
    rows: usize,
    cols: usize,
    c0: usize,
}

impl NzLayout {
    /// The layout for elements of `element_bytes` (1: int8, 2: fp16 and bf16, 4: fp32 and int32).
    ///
    /// # Errors
    /// [`KernelError::Range`] for another element size, [`KernelError::TooLarge`] when the storage cannot be addressed.
    pub fn new(rows: usize, cols: usize, element_bytes: usize) -> Result<Self, KernelError> {
        error::range("bytes per element of FRACTAL_NZ", element_bytes, 1, 4)?;
        let c0 = error::divide("bytes of a fractal row", FRACTAL_ROW_BYTES, element_bytes)?;
        let layout = Self { rows, cols, c0 };
        error::product("FRACTAL_NZ storage", &layout.storage_shape())?;
        Ok(layout)
    }

    /// The layout for int4, two to a byte.
    ///
    /// # Errors
    /// [`KernelError::TooLarge`] when the storage cannot be addressed.
    pub fn int4(rows: usize, cols: usize) -> Result<Self, KernelError> {
        let layout = Self { rows, cols, c0: 2 * FRACTAL_ROW_BYTES };
        error::product("FRACTAL_NZ storage", &layout.storage_shape())?;
        Ok(layout)
    }

    /// Rows of the matrix: K of a weight `[K, N]`.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the matrix: N of a weight `[K, N]`.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Columns of a fractal: 32 bytes worth.
    pub fn c0(&self) -> usize {
        self.c0
    }

    /// `[ceil(cols / c0), ceil(rows / 16), 16, c0]`.
    pub fn storage_shape(&self) -> [usize; 4] {
        [self.cols.div_ceil(self.c0), self.rows.div_ceil(FRACTAL_ROWS), FRACTAL_ROWS, self.c0]
    }

    /// Elements of the storage, padding included.
    pub fn storage_len(&self) -> usize {
        self.storage_shape().iter().product()
    }

    /// Where element (r, c) lies in the storage, in elements; `None` outside the matrix.
    pub fn offset(&self, r: usize, c: usize) -> Option<usize> {
        (r < self.rows && c < self.cols).then(|| self.offset_at(r, c))
    }

    /// [`offset`](Self::offset) of an element known to exist. Row-wise neighbours within a block of `c0` columns are adjacent.
    #[inline]
    pub(crate) fn offset_at(&self, r: usize, c: usize) -> usize {
        (c / self.c0) * self.block_len() + r * self.c0 + c % self.c0
    }

    /// Elements of one block of `c0` columns.
    pub(crate) fn block_len(&self) -> usize {
        self.rows.next_multiple_of(FRACTAL_ROWS) * self.c0
    }
}

/// One matrix in FRACTAL_NZ storage.
#[derive(Debug, Clone, Copy)]
pub struct NzMat<'a, T> {
    layout: NzLayout,
    storage: &'a [T],
}

impl<'a, T: Pod> NzMat<'a, T> {
    /// A `[rows, cols]` matrix in `storage`, host `T [storage_len]`.
    ///
    /// # Errors
    /// [`KernelError::Length`] when the storage has another size, and as [`NzLayout::new`].
    pub fn new(storage: &'a [T], rows: usize, cols: usize) -> Result<Self, KernelError> {
        let layout = NzLayout::new(rows, cols, size_of::<T>())?;
        error::length("FRACTAL_NZ storage", layout.storage_len(), storage.len())?;
        Ok(Self { layout, storage })
    }

    /// Its layout.
    pub fn layout(&self) -> NzLayout {
        self.layout
    }

    /// Element (r, c), `None` outside the matrix.
    pub fn get(&self, r: usize, c: usize) -> Option<T> {
        self.layout.offset(r, c).map(|offset| self.storage[offset])
    }

    /// Its storage.
    pub(crate) fn storage(&self) -> &'a [T] {
        self.storage
    }
}

/// The layout of the matrices in the last two axes of `shape` and how many there are.
fn batch_layout(shape: &[usize], element_bytes: usize) -> Result<(NzLayout, usize), KernelError> {
    error::range("rank of a batch of matrices", shape.len(), 2, MAX_RANK)?;
    let (batch, matrix) = shape.split_at(shape.len() - 2);
    let layout = NzLayout::new(matrix[0], matrix[1], element_bytes)?;
    Ok((layout, error::product("batch of matrices", batch)?))
}

/// Packs a batch of matrices, in parallel.
///
/// - `src` host `T [..., rows, cols]`, any strides.
/// - `dst` host `T [batch, storage]`, contiguous; the padding becomes zero.
///
/// # Errors
/// [`KernelError::Range`] for a rank below 2, [`KernelError::Length`] when `dst` has another size, and as [`NzLayout::new`].
pub fn pack<T: Pod + Send + Sync>(src: &NdView<'_, T>, dst: &mut [T]) -> Result<(), KernelError> {
    let (layout, batch) = batch_layout(src.shape(), size_of::<T>())?;
    let len = error::product("FRACTAL_NZ storage", &[batch, layout.storage_len()])?;
    error::length("dst", len, dst.len())?;
    if len == 0 {
        return Ok(());
    }
    let axes = src.shape().len() - 2;
    let (row_stride, col_stride) = (src.strides()[axes], src.strides()[axes + 1]);
    let blocks = layout.cols.div_ceil(layout.c0);
    dst.par_chunks_mut(layout.block_len()).enumerate().for_each(|(task, block)| {
        let mut matrix = task / blocks;
        let mut start = 0;
        for axis in (0..axes).rev() {
            start += matrix % src.shape()[axis] * src.strides()[axis];
            matrix /= src.shape()[axis];
        }
        let first = task % blocks * layout.c0;
        let cols = layout.c0.min(layout.cols - first);
        for (r, row) in block.chunks_mut(layout.c0).enumerate() {
            let used = if r < layout.rows { cols } else { 0 };
            let (values, padding) = row.split_at_mut(used);
            for (c, value) in values.iter_mut().enumerate() {
                *value = src.data()[start + r * row_stride + (first + c) * col_stride];
            }
            padding.fill(T::zeroed());
        }
    });
    Ok(())
}

/// Unpacks a batch of matrices, in parallel.
///
/// - `src` host `T [batch, storage]`, contiguous, as [`pack`] writes it.
/// - `dst` host `T [..., rows, cols]` of this `shape`, contiguous.
///
/// # Errors
/// As [`pack`].
pub fn unpack<T: Pod + Send + Sync>(src: &[T], shape: &[usize], dst: &mut [T]) -> Result<(), KernelError> {
    let (layout, batch) = batch_layout(shape, size_of::<T>())?;
    error::length("src", error::product("FRACTAL_NZ storage", &[batch, layout.storage_len()])?, src.len())?;
    error::length("dst", error::product("shape", shape)?, dst.len())?;
    if dst.is_empty() {
        return Ok(());
    }
    dst.par_chunks_mut(layout.cols).enumerate().for_each(|(task, row)| {
        let storage = &src[task / layout.rows * layout.storage_len()..][..layout.storage_len()];
        for (block, values) in row.chunks_mut(layout.c0).enumerate() {
            let start = layout.offset_at(task % layout.rows, block * layout.c0);
            values.copy_from_slice(&storage[start..][..values.len()]);
        }
    });
    Ok(())
}
