//! Tensors as their shape alone says: how elements lie, how many there are, and their bytes.

use ascend_sys::aclFormat;
use ascend_sys::ops::{Dims, MAX_RANK, TensorDesc};

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::pinned::byte_count;

/// A tensor from its shape alone: how its elements lie, and how many there are.
pub(crate) struct Dense {
    pub(crate) shape: Dims,
    pub(crate) storage: Dims,
    format: aclFormat,
    /// Elements of the storage.
    pub(crate) elements: usize,
}

impl Dense {
    pub(crate) fn new(shape: &[usize]) -> Result<Self> {
        let shape = dims(shape)?;
        Ok(Self { shape, storage: shape, format: aclFormat::ND, elements: elements(&shape)? })
    }

    pub(crate) fn nz(dtype: DType, shape: &[usize]) -> Result<Self> {
        if dtype.bits() > 32 {
            return Err(Error::dtype("FRACTAL_NZ tensor", dtype, "elements of at most 4 bytes"));
        }
        let shape = dims(shape)?;
        let storage = shape.fractal_nz(dtype.acl());
        let storage = storage.ok_or_else(|| Error::shape("FRACTAL_NZ tensor", shape, "2 to 6 dimensions"))?;
        Ok(Self { shape, storage, format: aclFormat::FRACTAL_NZ, elements: elements(&storage)? })
    }

    pub(crate) fn bytes(&self, dtype: DType) -> Result<usize> {
        byte_count::<u8>(dtype.bytes(self.elements))
    }

    pub(crate) fn desc(&self, dtype: DType, data: u64) -> TensorDesc {
        TensorDesc {
            dtype: dtype.acl(),
            format: self.format,
            shape: self.shape,
            strides: self.shape.contiguous_strides(),
            offset: 0,
            storage: self.storage,
            data,
        }
    }
}

pub(crate) fn dims(shape: &[usize]) -> Result<Dims> {
    let wrong = |legal: &str| Error::shape("shape", format_args!("{shape:?}"), legal);
    let mut values = [0; MAX_RANK];
    let values = values.get_mut(..shape.len()).ok_or_else(|| wrong("at most 8 dimensions"))?;
    for (value, &dim) in values.iter_mut().zip(shape) {
        *value = i64::try_from(dim).map_err(|_| wrong("dimensions below 2^63"))?;
    }
    Dims::new(values).ok_or_else(|| wrong("at most 8 dimensions"))
}

fn elements(shape: &Dims) -> Result<usize> {
    let elements = shape.elements().and_then(|count| usize::try_from(count).ok());
    elements.ok_or_else(|| Error::shape("shape", shape, "fewer elements than an address can reach"))
}
