//! Tensors of floating-point types from and to host values in `f32`.

use half::{bf16, f16};

use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::spec::FloatType;
use crate::stream::Stream;
use crate::tensor::Tensor;

impl Tensor {
    /// A row-major tensor of type `dtype` on `device`, of the values rounded to the nearest even.
    ///
    /// # Errors
    /// Those of [`from_slice`](Self::from_slice).
    pub fn from_f32(device: &Device, dtype: FloatType, values: &[f32], shape: &[usize]) -> Result<Self> {
        match dtype {
            FloatType::F32 => Self::from_slice(device, values, shape),
            FloatType::F16 => {
                let values: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
                Self::from_slice(device, &values, shape)
            }
            FloatType::Bf16 => {
                let values: Vec<bf16> = values.iter().map(|&value| bf16::from_f32(value)).collect();
                Self::from_slice(device, &values, shape)
            }
        }
    }

    /// The values of an f32, f16 or bf16 tensor in row-major order, exactly. Waits for the last write and for the stream.
    ///
    /// # Errors
    /// [`Error::DType`](crate::Error::DType) for other types, and those of [`to_vec`](Self::to_vec).
    pub fn to_f32(&self, stream: &Stream) -> Result<Vec<f32>> {
        Ok(match self.dtype() {
            DType::F16 => self.to_vec::<f16>(stream)?.iter().map(|value| value.to_f32()).collect(),
            DType::Bf16 => self.to_vec::<bf16>(stream)?.iter().map(|value| value.to_f32()).collect(),
            _ => self.to_vec::<f32>(stream)?,
        })
    }
}
