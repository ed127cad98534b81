//! Device memory as typed host slices and views, for the time of one operator.

use ascend_sys::ops::TensorDesc;
use ascend_sys::{Release, aclDataType, aclFormat};
use std::borrow::Cow;

use bytemuck::Pod;
use moe_kernels::element::Float;
use moe_kernels::elementwise::map;
use moe_kernels::int_gemm::{Int4Weight, IntWeight};
use moe_kernels::nz::{NzLayout, NzMat};
use moe_kernels::view::{Mat, NdView, NdViewMut};

use super::OpError;
use crate::executor::Args;
use crate::instance::Instance;

/// Runs a block with `$T` standing for the Rust type of a floating-point dtype.
macro_rules! with_float {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            ascend_sys::aclDataType::FLOAT => {
                type $T = f32;
                $body
            }
            ascend_sys::aclDataType::FLOAT16 => {
                type $T = half::f16;
                $body
            }
            ascend_sys::aclDataType::BF16 => {
                type $T = half::bf16;
                $body
            }
            other => Err(OpError::DType(other)),
        }
    };
}
pub(super) use with_float;

/// Access to device memory while an operator runs.
pub(super) struct Device<'a> {
    sim: &'a Instance,
    /// Device of the stream.
    id: u32,
}

impl<'a> Device<'a> {
    pub(super) fn new(sim: &'a Instance, id: u32) -> Self {
        Self { sim, id }
    }

    pub(super) fn release(&self) -> Release {
        self.sim.release()
    }

    pub(super) fn strict(&self) -> bool {
        self.sim.strict()
    }

    pub(super) fn report_group_list(&self, call: &'static str, what: String) {
        self.sim.report(crate::report::Finding::new(crate::report::FindingKind::GroupList, call, what));
    }

    /// The storage of an input from its first viewed element on.
    pub(super) fn read<T: Pod>(&self, name: &'static str, tensor: &TensorDesc) -> Result<&'a [T], OpError> {
        let (first, len) = bounds(name, tensor)?;
        if len == 0 {
            return Ok(&[]);
        }
        let slice = self.slice::<T>(name, tensor, first, len)?;
        // SAFETY: the simulator outlives the operator, and `check_outputs` refuses a call that writes what it reads. A
        // program that lets two streams race reads what a device would: something.
        unsafe { slice.as_slice() }.map_err(|source| OpError::Memory { parameter: name, source })
    }

    /// The storage of an output from its first viewed element on.
    pub(super) fn write<T: Pod>(&self, name: &'static str, tensor: &TensorDesc) -> Result<&'a mut [T], OpError> {
        let (first, len) = bounds(name, tensor)?;
        if len == 0 {
            return Ok(&mut []);
        }
        let slice = self.slice::<T>(name, tensor, first, len)?;
        // SAFETY: as in `read`; no input of this call shares the memory, or it was copied first.
        unsafe { slice.as_mut_slice() }.map_err(|source| OpError::Memory { parameter: name, source })
    }

    fn slice<T: Pod>(
        &self,
        name: &'static str,
        tensor: &TensorDesc,
        first: u64,
        len: u64,
    ) -> Result<crate::memory::DeviceSlice, OpError> {
        let address = tensor.data + first * size_of::<T>() as u64;
        let slice = self.sim.memory().device_slice(address, len as usize * size_of::<T>());
        let slice = slice.map_err(|source| OpError::Memory { parameter: name, source })?;
        if slice.device() != self.id {
            return Err(OpError::ForeignDevice { parameter: name, found: slice.device(), expected: self.id });
        }
        Ok(slice)
    }

    /// An input as an N-dimensional view.
    pub(super) fn nd<T: Pod>(&self, name: &'static str, tensor: &TensorDesc) -> Result<NdView<'a, T>, OpError> {
        let (shape, strides) = sizes(tensor);
        Ok(NdView::new(self.read(name, tensor)?, &shape, &strides)?)
    }

    /// An output as an N-dimensional view.
    pub(super) fn nd_mut<T: Pod>(&self, name: &'static str, tensor: &TensorDesc) -> Result<NdViewMut<'a, T>, OpError> {
        let (shape, strides) = sizes(tensor);
        Ok(NdViewMut::new(self.write(name, tensor)?, &shape, &strides)?)
    }

    /// A 2-D input.
    pub(super) fn mat<T: Pod>(&self, name: &'static str, tensor: &TensorDesc) -> Result<Mat<'a, T>, OpError> {
        let (shape, strides) = sizes(tensor);
        matrix(self.read(name, tensor)?, &shape, &strides)
    }
}

/// A weight tensor `[K, N]` or `[E, K, N]`, ND or FRACTAL_NZ, as one kernel weight per expert.
pub(super) fn weights<'a, T: Pod>(
    device: &Device<'a>,
    name: &'static str,
    tensor: &TensorDesc,
) -> Result<Vec<moe_kernels::gemm::Weight<'a, T>>, OpError> {
    use moe_kernels::gemm::Weight;
    let (shape, strides) = sizes(tensor);
    let [rows, cols] = last_two(&shape);
    let experts = shape[..shape.len().saturating_sub(2)].iter().product::<usize>();
    if tensor.format == aclFormat::FRACTAL_NZ {
        // The storage holds the blocks of all experts one after the other; a transposed NZ weight is stored as [N, K].
        let transposed = tensor.is_transposed();
        let (stored_rows, stored_cols) = if transposed { (cols, rows) } else { (rows, cols) };
        // The storage may be longer than the blocks need.
        let storage = device.read_storage::<T>(name, tensor)?;
        let each = NzLayout::new(stored_rows, stored_cols, size_of::<T>())?.storage_len();
        return storage
            .chunks(each.max(1))
            .take(experts)
            .map(|block| {
                let block = NzMat::new(block, stored_rows, stored_cols)?;
                Ok(if transposed { Weight::NzTransposed(block) } else { Weight::Nz(block) })
            })
            .collect();
    }
    let data = device.read::<T>(name, tensor)?;
    let step = if strides.len() > 2 { strides[strides.len() - 3] } else { 0 };
    (0..experts)
        .map(|expert| {
            let block = data.get(expert * step..).unwrap_or(&[]);
            Ok(Weight::Strided(matrix(block, &shape, &strides)?))
        })
        .collect()
}

/// A weight tensor of int8 or int4 (int32 stands for eight), `[K, N]` or `[E, K, N]`, ND or FRACTAL_NZ, as one kernel weight
/// per expert.
pub(super) fn int_weights<'a>(
    device: &Device<'a>,
    name: &'static str,
    tensor: &TensorDesc,
) -> Result<Vec<IntWeight<'a>>, OpError> {
    let tensor = tensor.unpacked();
    if tensor.dtype != aclDataType::INT4 {
        return Ok(weights::<i8>(device, name, &tensor)?.into_iter().map(IntWeight::Int8).collect());
    }
    let (shape, strides) = sizes(&tensor);
    let [k, n] = last_two(&shape);
    let experts = shape[..shape.len().saturating_sub(2)].iter().product::<usize>();
    if tensor.format == aclFormat::FRACTAL_NZ {
        let transposed = tensor.is_transposed();
        let layout = if transposed { NzLayout::int4(n, k)? } else { NzLayout::int4(k, n)? };
        // The blocks themselves: of int32 that were int8, the storage shape counts something else.
        let each = layout.storage_len() / 2;
        let bytes = device.bytes(name, &tensor, 0, each * experts)?;
        let weight =
            |block| if transposed { Int4Weight::nz_transposed(block, k, n) } else { Int4Weight::nz(block, k, n) };
        return bytes.chunks(each.max(1)).map(|block| Ok(IntWeight::Int4(weight(block)?))).collect();
    }
    let bytes = device.int4(name, &tensor)?;
    let step = if strides.len() > 2 { strides[strides.len() - 3] } else { 0 };
    (0..experts)
        .map(|expert| {
            let block = bytes.get(half(expert * step)?..).unwrap_or(&[]);
            Ok(IntWeight::Int4(Int4Weight::strided(block, [k, n], last_two(&strides))?))
        })
        .collect()
}

/// Bytes of so many int4, which are whole bytes.
fn half(count: usize) -> Result<usize, OpError> {
    let error = moe_kernels::KernelError::NotMultiple { what: "first int4 of a view", value: count, of: 2 };
    if count.is_multiple_of(2) { Ok(count / 2) } else { Err(error.into()) }
}

impl<'a> Device<'a> {
    /// The storage of a tensor of int4 from its first viewed element on, two to a byte.
    fn int4(&self, name: &'static str, tensor: &TensorDesc) -> Result<&'a [u8], OpError> {
        let (first, len) = bounds(name, tensor)?;
        self.bytes(name, tensor, half(first as usize)?, (len as usize).div_ceil(2))
    }

    /// Bytes of an input.
    fn bytes(&self, name: &'static str, tensor: &TensorDesc, first: usize, len: usize) -> Result<&'a [u8], OpError> {
        if len == 0 {
            return Ok(&[]);
        }
        let slice = self.slice::<u8>(name, tensor, first as u64, len as u64)?;
        // SAFETY: as in `read`.
        unsafe { slice.as_slice() }.map_err(|source| OpError::Memory { parameter: name, source })
    }

    /// The numbers of an input of int8, or of a contiguous one of int4 (int32 stands for eight), in row-major order.
    pub(super) fn small_ints(&self, name: &'static str, tensor: &TensorDesc) -> Result<Cow<'a, [i8]>, OpError> {
        let tensor = tensor.unpacked();
        if tensor.dtype != aclDataType::INT4 {
            return self.packed(name, &tensor);
        }
        let (shape, _) = sizes(&tensor);
        let nibbles = self.int4(name, &tensor)?.iter().flat_map(|&byte| [(byte << 4) as i8 >> 4, byte as i8 >> 4]);
        Ok(nibbles.take(shape.iter().product()).collect())
    }

    /// The elements of an input of floats in f32, in row-major order; of uint64 and int64 the f32 in their low halves.
    pub(super) fn factors(&self, name: &'static str, tensor: &TensorDesc) -> Result<Vec<f32>, OpError> {
        if matches!(tensor.dtype, aclDataType::UINT64 | aclDataType::INT64) {
            return Ok(self.packed::<u64>(name, tensor)?.iter().map(|&bits| f32::from_bits(bits as u32)).collect());
        }
        with_float!(tensor.dtype, T => Ok(self.packed::<T>(name, tensor)?.iter().map(|value| Float::to_f32(*value)).collect()))
    }

    /// The elements of an input in row-major order: where they lie, or a copy of a strided view.
    pub(super) fn packed<T: Pod + Send + Sync>(
        &self,
        name: &'static str,
        tensor: &TensorDesc,
    ) -> Result<Cow<'a, [T]>, OpError> {
        if tensor.is_contiguous() {
            return Ok(Cow::Borrowed(self.read(name, tensor)?));
        }
        let (shape, _) = sizes(tensor);
        let mut copy = vec![T::zeroed(); shape.iter().product()];
        map(&self.nd(name, tensor)?, &mut NdViewMut::contiguous(&mut copy, &shape)?, |value| value)?;
        Ok(Cow::Owned(copy))
    }

    /// An input of int32 or int64 as numbers of 64 bits, in row-major order.
    pub(super) fn wide(&self, name: &'static str, tensor: &TensorDesc) -> Result<Cow<'a, [i64]>, OpError> {
        match tensor.dtype {
            aclDataType::INT64 => self.packed::<i64>(name, tensor),
            _ => Ok(self.packed::<i32>(name, tensor)?.iter().copied().map(i64::from).collect()),
        }
    }

    /// An output in row-major order: where it lies, or a copy of a strided view, which [`Output::finish`] brings back.
    pub(super) fn output<T: Pod + Send + Sync>(
        &self,
        name: &'static str,
        tensor: &TensorDesc,
    ) -> Result<Output<'a, T>, OpError> {
        Ok(if tensor.is_contiguous() {
            Output::InPlace(self.write(name, tensor)?)
        } else {
            // What the operator leaves out keeps its contents.
            Output::Copied(self.packed::<T>(name, tensor)?.into_owned())
        })
    }

    /// Writes values to an output in row-major order; elements beyond them keep their contents.
    pub(super) fn write_values<T: Pod + Send + Sync>(
        &self,
        name: &'static str,
        tensor: &TensorDesc,
        values: impl IntoIterator<Item = T>,
    ) -> Result<(), OpError> {
        let mut out = self.output::<T>(name, tensor)?;
        out.slice().iter_mut().zip(values).for_each(|(out, value)| *out = value);
        out.finish(self, name, tensor)
    }

    /// The whole storage of an input, whatever its view says: for private formats.
    pub(super) fn read_storage<T: Pod>(&self, name: &'static str, tensor: &TensorDesc) -> Result<&'a [T], OpError> {
        let len = tensor.storage.elements().unwrap_or(0);
        if len == 0 {
            return Ok(&[]);
        }
        let slice = self.slice::<T>(name, tensor, 0, len)?;
        // SAFETY: as in `read`.
        unsafe { slice.as_slice() }.map_err(|source| OpError::Memory { parameter: name, source })
    }

    /// The whole storage of an output.
    pub(super) fn write_storage<T: Pod>(
        &self,
        name: &'static str,
        tensor: &TensorDesc,
    ) -> Result<&'a mut [T], OpError> {
        let len = tensor.storage.elements().unwrap_or(0);
        if len == 0 {
            return Ok(&mut []);
        }
        let slice = self.slice::<T>(name, tensor, 0, len)?;
        // SAFETY: as in `write`.
        unsafe { slice.as_mut_slice() }.map_err(|source| OpError::Memory { parameter: name, source })
    }
}

/// An output in row-major order.
pub(super) enum Output<'a, T> {
    /// Where it lies.
    InPlace(&'a mut [T]),
    /// A copy of a strided view.
    Copied(Vec<T>),
}

impl<T: Pod + Send + Sync> Output<'_, T> {
    pub(super) fn slice(&mut self) -> &mut [T] {
        match self {
            Self::InPlace(slice) => slice,
            Self::Copied(copy) => copy,
        }
    }

    /// Brings a copy back to the strided view it was made of.
    pub(super) fn finish(self, device: &Device<'_>, name: &'static str, tensor: &TensorDesc) -> Result<(), OpError> {
        if let Self::Copied(copy) = self {
            let (shape, _) = sizes(tensor);
            map(&NdView::contiguous(&copy, &shape)?, &mut device.nd_mut(name, tensor)?, |value| value)?;
        }
        Ok(())
    }
}

fn matrix<'a, T: Pod>(data: &'a [T], shape: &[usize], strides: &[usize]) -> Result<Mat<'a, T>, OpError> {
    let [rows, cols] = last_two(shape);
    let [row_stride, col_stride] = last_two(strides);
    Ok(Mat::new(data, rows, cols, row_stride, col_stride)?)
}

fn last_two(values: &[usize]) -> [usize; 2] {
    match values {
        [.., a, b] => [*a, *b],
        [b] => [1, *b],
        [] => [1, 1],
    }
}

/// Shape and strides as unsigned numbers; `bounds` has refused negative ones.
pub(super) fn sizes(tensor: &TensorDesc) -> (Vec<usize>, Vec<usize>) {
    let unsigned = |values: &[i64]| values.iter().map(|&v| usize::try_from(v).unwrap_or(0)).collect();
    (unsigned(&tensor.shape), unsigned(&tensor.strides))
}

/// First viewed element and number of elements from it to the last viewed one.
fn bounds(name: &'static str, tensor: &TensorDesc) -> Result<(u64, u64), OpError> {
    if tensor.is_empty() {
        return Ok((0, 0));
    }
    let storage = tensor.storage.elements().unwrap_or(0);
    let steps = tensor.shape.iter().zip(tensor.strides.iter());
    let last =
        steps.fold(i128::from(tensor.offset), |last, (&dim, &stride)| last + i128::from(dim - 1) * i128::from(stride));
    let negative = tensor.offset < 0 || tensor.strides.iter().any(|&stride| stride < 0);
    match u64::try_from(last) {
        Ok(last) if !negative && last < storage => {
            let first = tensor.offset.unsigned_abs();
            Ok((first, last - first + 1))
        }
        _ => Err(OpError::View { parameter: name, last, storage }),
    }
}

/// Byte range that a tensor's storage occupies.
fn range(tensor: &TensorDesc) -> Option<std::ops::Range<u64>> {
    let bytes = tensor.storage_bytes().filter(|&bytes| bytes > 0)?;
    (!tensor.is_empty()).then(|| tensor.data..tensor.data.saturating_add(bytes))
}

/// Whether two tensors share memory.
pub(super) fn overlap(a: &TensorDesc, b: &TensorDesc) -> bool {
    matches!((range(a), range(b)), (Some(a), Some(b)) if a.start < b.end && b.start < a.end)
}

/// Refuses a call in which an output shares memory with an input or another output.
pub(super) fn check_outputs(args: &Args, outputs: &[&'static str]) -> Result<(), OpError> {
    for (output, written) in args.all_tensors().filter(|(name, _)| outputs.contains(name)) {
        for (input, read) in args.all_tensors() {
            if !std::ptr::eq(written, read) && overlap(written, read) {
                return Err(OpError::Overlap { output, input });
            }
        }
    }
    Ok(())
}
