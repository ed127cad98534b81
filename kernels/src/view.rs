//! Checked strided views over slices: matrices ([`Mat`], [`MatMut`]) for the GEMMs and N-dimensional views ([`NdView`],
//! [`NdViewMut`]) for packing and elementwise operators. Strides are in elements and not negative; a read view may repeat
//! elements (stride 0), a written one may not. All bounds are checked when a view is made.

use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

use crate::error::{self, KernelError};

/// The greatest rank of an N-dimensional view, which is CANN's for elementwise operators.
pub const MAX_RANK: usize = 8;

/// Elements from the first to the last one of a view, 0 when it is empty; `None` on overflow.
fn span(shape: &[usize], strides: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().zip(strides).try_fold(1usize, |all, (&size, &stride)| all.checked_add((size - 1).checked_mul(stride)?))
}

fn check_bounds(what: &'static str, len: usize, shape: &[usize], strides: &[usize]) -> Result<(), KernelError> {
    error::product(what, shape)?;
    let needed = span(shape, strides).ok_or(KernelError::TooLarge { what })?;
    if needed > len { Err(KernelError::OutOfBounds { what, needed, len }) } else { Ok(()) }
}

/// Distinct indices must reach distinct elements: in ascending order of stride, each stride exceeds the reach of those below.
fn check_distinct(what: &'static str, shape: &[usize], strides: &[usize]) -> Result<(), KernelError> {
    if shape.contains(&0) {
        return Ok(());
    }
    let mut axes: Vec<(usize, usize)> =
        strides.iter().zip(shape).filter(|(_, size)| **size > 1).map(|(stride, size)| (*stride, *size)).collect();
    axes.sort_unstable();
    let mut reach = 1;
    for (stride, size) in axes {
        if stride < reach {
            return Err(KernelError::Overlap { what, shape: shape.to_vec(), strides: strides.to_vec() });
        }
        reach += (size - 1) * stride;
    }
    Ok(())
}

/// A matrix to read, `T [rows, cols]`, over a host slice, with any strides (so a transposed weight is a `Mat` too).
#[derive(Debug)]
pub struct Mat<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<T> Clone for Mat<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Mat<'_, T> {}

impl<'a, T: Copy> Mat<'a, T> {
    /// A view whose element (r, c) is `data[r * row_stride + c * col_stride]`.
    ///
    /// # Errors
    /// [`KernelError::OutOfBounds`] when it reaches past `data`, [`KernelError::TooLarge`] on overflow.
    pub fn new(
        data: &'a [T],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Result<Self, KernelError> {
        check_bounds("matrix", data.len(), &[rows, cols], &[row_stride, col_stride])?;
        Ok(Self { data, rows, cols, row_stride, col_stride })
    }

    /// A contiguous matrix, row after row.
    ///
    /// # Errors
    /// As [`Mat::new`].
    pub fn row_major(data: &'a [T], rows: usize, cols: usize) -> Result<Self, KernelError> {
        Self::new(data, rows, cols, cols, 1)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The same elements with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// Only the rows `rows`; those that do not exist are left out.
    pub fn row_range(self, rows: Range<usize>) -> Self {
        let end = rows.end.min(self.rows);
        let start = rows.start.min(end);
        Self { data: self.data.get(start * self.row_stride..).unwrap_or(&[]), rows: end - start, ..self }
    }

    /// The slice that the view is over, and the strides of rows and columns in it.
    pub(crate) fn parts(&self) -> (&'a [T], [usize; 2]) {
        (self.data, [self.row_stride, self.col_stride])
    }

    /// Element (r, c), `None` outside the matrix.
    pub fn get(&self, r: usize, c: usize) -> Option<T> {
        (r < self.rows && c < self.cols).then(|| self.at(r, c))
    }

    /// Element (r, c) of a matrix known to have it.
    #[inline]
    pub(crate) fn at(&self, r: usize, c: usize) -> T {
        self.data[r * self.row_stride + c * self.col_stride]
    }

    /// Row `r`, columns `cols`, as a slice where columns are contiguous.
    #[inline]
    pub(crate) fn row_slice(&self, r: usize, cols: Range<usize>) -> Option<&'a [T]> {
        if self.col_stride != 1 {
            return None;
        }
        let start = r * self.row_stride;
        self.data.get(start + cols.start..start + cols.end)
    }
}

/// A matrix to write, `T [rows, cols]`, over a host slice; no two elements share memory.
///
/// It can be split into disjoint parts, which may be written by different threads.
#[derive(Debug)]
pub struct MatMut<'a, T> {
    ptr: NonNull<T>,
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: a `MatMut` is an exclusive borrow of its elements, as `&mut [T]` is; disjoint parts never share one.
unsafe impl<T: Send> Send for MatMut<'_, T> {}

impl<'a, T: Copy> MatMut<'a, T> {
    /// A view whose element (r, c) is `data[r * row_stride + c * col_stride]`.
    ///
    /// # Errors
    /// [`KernelError::OutOfBounds`], [`KernelError::TooLarge`], or [`KernelError::Overlap`] when elements share memory.
    pub fn new(
        data: &'a mut [T],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Result<Self, KernelError> {
        check_bounds("output matrix", data.len(), &[rows, cols], &[row_stride, col_stride])?;
        check_distinct("output matrix", &[rows, cols], &[row_stride, col_stride])?;
        Ok(Self { ptr: NonNull::from(data).cast(), rows, cols, row_stride, col_stride, owner: PhantomData })
    }

    /// A contiguous matrix, row after row.
    ///
    /// # Errors
    /// As [`MatMut::new`].
    pub fn row_major(data: &'a mut [T], rows: usize, cols: usize) -> Result<Self, KernelError> {
        Self::new(data, rows, cols, cols, 1)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The rows before `row` and those from it on; `row` beyond the end counts as the end.
    pub fn split_rows(self, row: usize) -> (Self, Self) {
        let row = row.min(self.rows);
        // An empty part keeps the old pointer: offsets of a view that reaches nothing need not be in bounds.
        let tail = if row < self.rows && self.cols > 0 {
            // SAFETY: element (row, 0) is in bounds, which `new` checked.
            unsafe { self.ptr.add(row * self.row_stride) }
        } else {
            self.ptr
        };
        (Self { rows: row, ..self }, Self { ptr: tail, rows: self.rows - row, ..self })
    }

    /// The columns before `col` and those from it on; `col` beyond the end counts as the end.
    pub fn split_cols(self, col: usize) -> (Self, Self) {
        let (left, right) = self.transposed().split_rows(col);
        (left.transposed(), right.transposed())
    }

    /// The same elements with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// Element (r, c), `None` outside the matrix.
    pub(crate) fn get(&self, r: usize, c: usize) -> Option<T> {
        // SAFETY: the element is in bounds (`new` checked), and this view borrows it exclusively.
        (r < self.rows && c < self.cols)
            .then(|| unsafe { self.ptr.add(r * self.row_stride + c * self.col_stride).read() })
    }

    /// Writes `values` to row `r`, from its first column on; a row that does not exist and values past the last column are
    /// ignored.
    pub fn write_row(&mut self, r: usize, values: impl IntoIterator<Item = T>) {
        if r >= self.rows {
            return;
        }
        for (c, value) in values.into_iter().take(self.cols).enumerate() {
            // SAFETY: r < rows and c < cols, so the element is in bounds (`new` checked), and this view borrows it exclusively.
            unsafe { self.ptr.add(r * self.row_stride + c * self.col_stride).write(value) }
        }
    }

    /// Row `r` as a slice, where columns are contiguous and the row exists.
    pub fn row_slice_mut(&mut self, r: usize) -> Option<&mut [T]> {
        if r >= self.rows || (self.col_stride != 1 && self.cols > 1) {
            return None;
        }
        if self.cols == 0 {
            return Some(&mut []);
        }
        // SAFETY: elements (r, 0) to (r, cols - 1) are in bounds (`new` checked), contiguous (the stride is 1, or there is one
        // column) and borrowed exclusively by this view, whose own borrow the slice takes over.
        Some(unsafe { std::slice::from_raw_parts_mut(self.ptr.add(r * self.row_stride).as_ptr(), self.cols) })
    }
}

/// Shape and strides of a view of rank up to [`MAX_RANK`].
#[derive(Debug, Clone, Copy)]
struct Layout {
    rank: usize,
    shape: [usize; MAX_RANK],
    strides: [usize; MAX_RANK],
}

impl Layout {
    fn new(what: &'static str, len: usize, shape: &[usize], strides: &[usize]) -> Result<Self, KernelError> {
        error::range("rank", shape.len(), 0, MAX_RANK)?;
        error::length("strides", shape.len(), strides.len())?;
        check_bounds(what, len, shape, strides)?;
        let mut layout = Self { rank: shape.len(), shape: [1; MAX_RANK], strides: [0; MAX_RANK] };
        layout.shape[..shape.len()].copy_from_slice(shape);
        layout.strides[..shape.len()].copy_from_slice(strides);
        Ok(layout)
    }
}

/// Strides of a contiguous array of this shape.
fn contiguous_strides(shape: &[usize]) -> Result<Vec<usize>, KernelError> {
    error::product("shape", shape)?;
    let mut strides = vec![0; shape.len()];
    let mut step = 1usize;
    for (stride, &size) in strides.iter_mut().zip(shape).rev() {
        *stride = step;
        step = step.saturating_mul(size);
    }
    Ok(strides)
}

/// An N-dimensional array to read over a host slice, rank 0 to [`MAX_RANK`]; any axis may have size 0 and any stride may be 0.
#[derive(Debug)]
pub struct NdView<'a, T> {
    data: &'a [T],
    layout: Layout,
}

impl<T> Clone for NdView<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for NdView<'_, T> {}

impl<'a, T: Copy> NdView<'a, T> {
    /// A view whose element i is `data[sum of i[axis] * strides[axis]]`.
    ///
    /// # Errors
    /// [`KernelError::Range`] for a rank above [`MAX_RANK`], [`KernelError::Length`] when there is not one stride per axis,
    /// [`KernelError::OutOfBounds`], [`KernelError::TooLarge`].
    pub fn new(data: &'a [T], shape: &[usize], strides: &[usize]) -> Result<Self, KernelError> {
        Ok(Self { data, layout: Layout::new("view", data.len(), shape, strides)? })
    }

    /// A contiguous array, last axis fastest.
    ///
    /// # Errors
    /// As [`NdView::new`].
    pub fn contiguous(data: &'a [T], shape: &[usize]) -> Result<Self, KernelError> {
        Self::new(data, shape, &contiguous_strides(shape)?)
    }

    /// Sizes of the axes.
    pub fn shape(&self) -> &[usize] {
        &self.layout.shape[..self.layout.rank]
    }

    /// Strides of the axes in elements.
    pub fn strides(&self) -> &[usize] {
        &self.layout.strides[..self.layout.rank]
    }

    /// The slice that the view is over; its first element is element (0, ..., 0).
    pub(crate) fn data(&self) -> &'a [T] {
        self.data
    }

    /// This array repeated to `shape`, without copying: axes are aligned at the last, sizes must be equal or 1 here.
    ///
    /// # Errors
    /// [`KernelError::Broadcast`] when it cannot be repeated so, [`KernelError::Range`] for a rank above [`MAX_RANK`],
    /// [`KernelError::TooLarge`] for a shape with more elements than can be counted.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Self, KernelError> {
        let refuse = || KernelError::Broadcast { left: self.shape().to_vec(), right: shape.to_vec() };
        let lead = shape.len().checked_sub(self.layout.rank).ok_or_else(refuse)?;
        let mut strides = vec![0; shape.len()];
        for (axis, (&size, &stride)) in self.shape().iter().zip(self.strides()).enumerate() {
            if size == shape[lead + axis] {
                strides[lead + axis] = stride;
            } else if size != 1 {
                return Err(refuse());
            }
        }
        Self::new(self.data, shape, &strides)
    }
}

/// An N-dimensional array to write over a host slice; no two elements share memory.
#[derive(Debug)]
pub struct NdViewMut<'a, T> {
    data: &'a mut [T],
    layout: Layout,
}

impl<'a, T: Copy> NdViewMut<'a, T> {
    /// A view whose element i is `data[sum of i[axis] * strides[axis]]`.
    ///
    /// # Errors
    /// As [`NdView::new`], and [`KernelError::Overlap`] when elements share memory.
    pub fn new(data: &'a mut [T], shape: &[usize], strides: &[usize]) -> Result<Self, KernelError> {
        let layout = Layout::new("output view", data.len(), shape, strides)?;
        check_distinct("output view", shape, strides)?;
        Ok(Self { data, layout })
    }

    /// A contiguous array, last axis fastest.
    ///
    /// # Errors
    /// As [`NdView::new`].
    pub fn contiguous(data: &'a mut [T], shape: &[usize]) -> Result<Self, KernelError> {
        Self::new(data, shape, &contiguous_strides(shape)?)
    }

    /// Sizes of the axes.
    pub fn shape(&self) -> &[usize] {
        &self.layout.shape[..self.layout.rank]
    }

    /// Strides of the axes in elements.
    pub fn strides(&self) -> &[usize] {
        &self.layout.strides[..self.layout.rank]
    }

    /// The slice that the view is over.
    pub(crate) fn data_mut(&mut self) -> &mut [T] {
        self.data
    }
}

/// The shape that two shapes broadcast to: aligned at the last axis, where sizes differ one of them is 1.
///
/// # Errors
/// [`KernelError::Broadcast`] when they do not.
pub fn broadcast_shape(left: &[usize], right: &[usize]) -> Result<Vec<usize>, KernelError> {
    let rank = left.len().max(right.len());
    let size = |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis]);
    (0..rank)
        .map(|axis| match (size(left, axis), size(right, axis)) {
            (l, r) if l == r => Ok(l),
            (1, r) => Ok(r),
            (l, 1) => Ok(l),
            _ => Err(KernelError::Broadcast { left: left.to_vec(), right: right.to_vec() }),
        })
        .collect()
}
