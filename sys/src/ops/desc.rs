//! What a tensor argument is, as far as an operator's rules care: dtype, format, shape, strides, storage shape.
//! Plain values without allocation, built by the simulator from an `aclTensor` and by the safe layer from its tensors.

use core::fmt;
use core::ops::Deref;

use crate::constants::{aclDataType, aclFormat};

/// The most dimensions a tensor of an aclnn call may have here: ND views have at most 8; FRACTAL_NZ adds two to a
/// storage shape of at most 6.
pub const MAX_RANK: usize = 8;

/// Rows of a FRACTAL_NZ block.
const NZ_ROWS: i64 = 16;
/// Bits of a row of a FRACTAL_NZ block: 32 bytes.
const NZ_ROW_BITS: usize = 256;
/// int4 in an int32.
const INT4_PER_INT32: i64 = 8;

/// A short list of dimensions or strides, by value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Dims {
    len: u8,
    values: [i64; MAX_RANK],
}

impl Dims {
    /// No dimensions: the shape of a scalar.
    pub const EMPTY: Self = Self { len: 0, values: [0; MAX_RANK] };

    /// Copies a slice; `None` where it has more than [`MAX_RANK`] entries.
    pub fn new(values: &[i64]) -> Option<Self> {
        let mut dims = Self { len: u8::try_from(values.len()).ok()?, values: [0; MAX_RANK] };
        dims.values.get_mut(..values.len())?.copy_from_slice(values);
        Some(dims)
    }

    /// Collects dimensions; `None` where there are more than [`MAX_RANK`].
    pub fn collect(values: impl IntoIterator<Item = i64>) -> Option<Self> {
        let mut dims = Self::EMPTY;
        for value in values {
            *dims.values.get_mut(usize::from(dims.len))? = value;
            dims.len += 1;
        }
        Some(dims)
    }

    /// The storage shape of this shape `[.., R, C]` in FRACTAL_NZ: `[.., ceil(C / C0), ceil(R / 16), 16, C0]`, where C0
    /// elements of `dtype` fill 32 bytes. `None` for a rank outside 2 to 6, a negative dimension or a dtype without a
    /// size (ops-math, conversion/npu_format_cast).
    pub fn fractal_nz(&self, dtype: aclDataType) -> Option<Self> {
        let c0 = i64::try_from(NZ_ROW_BITS.checked_div(dtype.bits()?)?).ok().filter(|&c0| c0 > 0)?;
        let [batch @ .., rows, cols] = self.deref() else { return None };
        if self.iter().any(|&dim| dim < 0) {
            return None;
        }
        let blocks = |dim: i64, size: i64| dim / size + i64::from(dim % size != 0);
        let tail = [blocks(*cols, c0), blocks(*rows, NZ_ROWS), NZ_ROWS, c0];
        Self::collect(batch.iter().copied().chain(tail))
    }

    /// Product of the dimensions, 1 for none; `None` on overflow or a negative dimension.
    pub fn elements(&self) -> Option<u64> {
        self.iter().try_fold(1u64, |product, &dim| product.checked_mul(u64::try_from(dim).ok()?))
    }

    /// Strides in elements of a contiguous row-major tensor of this shape.
    pub fn contiguous_strides(&self) -> Self {
        let mut strides = *self;
        let mut step = 1i64;
        for index in (0..self.len()).rev() {
            strides.values[index] = step;
            step = step.saturating_mul(self.values[index].max(1));
        }
        strides
    }

    /// The entries, to change in place.
    pub fn as_mut_slice(&mut self) -> &mut [i64] {
        &mut self.values[..usize::from(self.len)]
    }
}

impl Deref for Dims {
    type Target = [i64];

    fn deref(&self) -> &[i64] {
        &self.values[..usize::from(self.len)]
    }
}

impl fmt::Debug for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl fmt::Display for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A tensor argument. Shape, strides and offset in elements; `storage` is the shape of the buffer behind the view
/// (4-D or 5-D blocks for FRACTAL_NZ); `data` is the device address, 0 where it is set later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorDesc {
    /// Element type.
    pub dtype: aclDataType,
    /// Storage format.
    pub format: aclFormat,
    /// Logical shape.
    pub shape: Dims,
    /// Strides of the view.
    pub strides: Dims,
    /// First element of the view in the storage.
    pub offset: i64,
    /// Shape of the storage.
    pub storage: Dims,
    /// Device address of the storage.
    pub data: u64,
}

impl TensorDesc {
    /// A contiguous ND tensor; `None` where `shape` has more than [`MAX_RANK`] dimensions.
    pub fn contiguous(dtype: aclDataType, shape: &[i64], data: u64) -> Option<Self> {
        let shape = Dims::new(shape)?;
        Some(Self {
            dtype,
            format: aclFormat::ND,
            shape,
            strides: shape.contiguous_strides(),
            offset: 0,
            storage: shape,
            data,
        })
    }

    /// Number of dimensions of the view.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Dimension `index`, counted from the end where negative; 0 where there is none.
    pub fn dim(&self, index: isize) -> i64 {
        let index = if index < 0 { self.rank().checked_add_signed(index) } else { usize::try_from(index).ok() };
        index.and_then(|index| self.shape.get(index)).copied().unwrap_or(0)
    }

    /// Elements of the view; `None` on overflow or a negative dimension.
    pub fn elements(&self) -> Option<u64> {
        self.shape.elements()
    }

    /// Whether the view has no element.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Whether the view walks memory in row-major order without gaps. Strides of dimensions of size 1 do not count.
    pub fn is_contiguous(&self) -> bool {
        let packed = self.shape.contiguous_strides();
        self.is_empty()
            || (self.strides.len() == self.rank()
                && self
                    .shape
                    .iter()
                    .zip(&*self.strides)
                    .zip(&*packed)
                    .all(|((&d, stride), step)| d == 1 || stride == step))
    }

    /// Whether the last two dimensions are a transposed view of contiguous memory, as CANN's matmuls detect it: the
    /// last but one has stride 1, the last a stride of that dimension's size, leading dimensions packed. Strides alone
    /// decide, also where one of the two dimensions is 1 (`[K, 1]` with strides `[1, K]` is transposed, and lies in
    /// memory as it would if it were not); a matrix of one element never is (ops-transformer,
    /// gmm/grouped_matmul/op_api; ops-nn, matmul/common).
    pub fn is_transposed(&self) -> bool {
        let ([batch @ .., rows, cols], [steps @ .., row_step, col_step]) = (&*self.shape, &*self.strides) else {
            return false;
        };
        if self.is_empty() || batch.len() != steps.len() || (*rows == 1 && *cols == 1) {
            return false;
        }
        let mut packed = rows.saturating_mul(*cols);
        *row_step == 1
            && col_step == rows
            && batch.iter().zip(steps).rev().all(|(&dim, &step)| {
                let fits = dim == 1 || step == packed;
                packed = packed.saturating_mul(dim);
                fits
            })
    }

    /// The tensor of int4 that one of int32 stands for, eight to an element along the dimension that is innermost in memory:
    /// the last, of a transposed matrix the last but one. Other tensors as they are (ops-transformer, gmm).
    pub fn unpacked(&self) -> Self {
        if self.dtype != aclDataType::INT32 {
            return *self;
        }
        let mut tensor = Self { dtype: aclDataType::INT4, ..*self };
        let back = if self.is_transposed() { 2 } else { 1 };
        let Some(inner) = self.rank().checked_sub(back) else { return tensor };
        let widen = |dim: &mut i64| *dim = dim.saturating_mul(INT4_PER_INT32);
        tensor.shape.as_mut_slice().iter_mut().skip(inner).take(1).for_each(widen);
        let outer = tensor.strides.as_mut_slice().iter_mut().enumerate().filter(|(index, _)| *index != inner);
        outer.for_each(|(_, stride)| widen(stride));
        tensor.storage.as_mut_slice().iter_mut().last().into_iter().for_each(widen);
        tensor
    }

    /// The matrices of a weight, whatever its view: int32 as [`unpacked`](Self::unpacked), and a view that consists of
    /// FRACTAL_NZ blocks, `[.., C / C0, R / 16, 16, C0]`, as `[.., R, C]`, where `blocked` says that it may.
    pub fn matrices(&self, blocked: bool) -> Self {
        let tensor = self.unpacked();
        let [batch @ .., columns, rows, block_rows, c0] = &*tensor.shape else { return tensor };
        if !blocked || tensor.is_transposed() {
            return tensor;
        }
        let matrix = [rows.saturating_mul(*block_rows), columns.saturating_mul(*c0)];
        match Dims::collect(batch.iter().copied().chain(matrix)) {
            Some(shape) => Self { shape, strides: shape.contiguous_strides(), ..tensor },
            None => tensor,
        }
    }

    /// The shape as it lies in memory: with the last two dimensions swapped where the view is transposed.
    pub fn stored_shape(&self) -> Dims {
        let mut stored = self.shape;
        if let ([.., rows, cols], true) = (stored.as_mut_slice(), self.is_transposed()) {
            core::mem::swap(rows, cols);
        }
        stored
    }

    /// Bytes of the storage; `None` on overflow, a negative dimension or an unknown dtype.
    pub fn storage_bytes(&self) -> Option<u64> {
        let bits = self.storage.elements()?.checked_mul(self.dtype.bits()? as u64)?;
        Some(bits.div_ceil(8))
    }
}

impl fmt::Display for TensorDesc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{:?}", self.dtype, self.shape)?;
        if self.format != aclFormat::ND {
            write!(f, " {:?}", self.format)?;
        }
        if !self.is_contiguous() {
            write!(f, " strides {:?}", self.strides)?;
        }
        Ok(())
    }
}

/// A host scalar argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScalarValue {
    /// Its dtype.
    pub dtype: aclDataType,
    /// Its value; integers beyond 2^53 are rounded here and only here.
    pub value: f64,
}
