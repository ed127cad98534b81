//! Tensors on a device and views of them.
//!
//! A view borrows its tensor, so it cannot outlive it, and a mutable view is the only one of its tensor while it is
//! there: in safe code an operator's output never shares memory with another argument.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use ascend_sys::aclFormat;
use ascend_sys::ops::TensorDesc;

use crate::dense::{Dense, dims};
use crate::device::Device;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::memory::{Memory, Padding};
use crate::scratch::Sequence;
use crate::stream::{Stream, StreamInner};

/// A tensor that owns its device memory: row-major ([`aclFormat::ND`]), or in the blocked weight layout of the cube unit
/// ([`aclFormat::FRACTAL_NZ`]).
pub struct Tensor {
    memory: Memory,
    desc: TensorDesc,
    dtype: DType,
}

impl Tensor {
    /// A row-major tensor of zero bytes.
    ///
    /// # Errors
    /// [`Error::Shape`] for more than 8 dimensions or more bytes than an address can reach, [`Error::OutOfMemory`],
    /// [`Error::Vendor`] and the states of the device.
    pub fn zeros(device: &Device, dtype: DType, shape: &[usize]) -> Result<Self> {
        let tensor = Self::alloc(device, dtype, &Dense::new(shape)?)?;
        tensor.memory.zero_now()?;
        Ok(tensor)
    }

    /// A FRACTAL_NZ tensor of zero bytes, to be filled by [`npu_format_cast`](crate::op::npu_format_cast). `shape` is the
    /// logical one, `[.., rows, cols]`; the storage is
    /// `[.., ceil(cols / c0), ceil(rows / 16), 16, c0]` with `c0 = 32 / size of an element`.
    ///
    /// Source: CANN 9.1.0, ops-math conversion operators.
    ///
    /// # Errors
    /// [`Error::Shape`] also for fewer than 2 or more than 6 dimensions, [`Error::DType`] for elements of 8 bytes, and
    /// those of [`zeros`](Self::zeros).
    pub fn zeros_nz(device: &Device, dtype: DType, shape: &[usize]) -> Result<Self> {
        let tensor = Self::alloc(device, dtype, &Dense::nz(dtype, shape)?)?;
        tensor.memory.zero_now()?;
        Ok(tensor)
    }

    /// A row-major tensor of the values, in row-major order.
    ///
    /// # Errors
    /// [`Error::Shape`] where the shape does not take that many values, and those of [`zeros`](Self::zeros).
    pub fn from_slice<T: Element>(device: &Device, values: &[T], shape: &[usize]) -> Result<Self> {
        let dense = Dense::new(shape)?;
        if dense.elements != values.len() {
            return Err(Error::shape("values", values.len(), format_args!("{} for shape {shape:?}", dense.elements)));
        }
        let tensor = Self::alloc(device, T::DTYPE, &dense)?;
        tensor.memory.fill_now(bytemuck::cast_slice(values))?;
        Ok(tensor)
    }

    /// A row-major tensor of the bytes of its elements, in row-major order; those of [`DType::I4`] two to a byte.
    ///
    /// # Errors
    /// [`Error::Shape`] where the shape does not take that many bytes, and those of [`zeros`](Self::zeros).
    pub fn from_bytes(device: &Device, dtype: DType, bytes: &[u8], shape: &[usize]) -> Result<Self> {
        Self::of_bytes(device, dtype, bytes, &Dense::new(shape)?)
    }

    /// A FRACTAL_NZ tensor of the bytes of its storage, blocks and all, as [`moe_kernels::nz`] packs them on the host. `shape` is the logical one, see
    /// [`zeros_nz`](Self::zeros_nz).
    ///
    /// # Errors
    /// [`Error::Shape`] where the storage does not take that many bytes, and those of [`zeros_nz`](Self::zeros_nz).
    pub fn from_nz_bytes(device: &Device, dtype: DType, bytes: &[u8], shape: &[usize]) -> Result<Self> {
        Self::of_bytes(device, dtype, bytes, &Dense::nz(dtype, shape)?)
    }

    fn of_bytes(device: &Device, dtype: DType, bytes: &[u8], dense: &Dense) -> Result<Self> {
        check_length(bytes.len(), dense.bytes(dtype)?)?;
        let tensor = Self::alloc(device, dtype, dense)?;
        tensor.memory.fill_now(bytes)?;
        Ok(tensor)
    }

    /// A row-major tensor with the contents that were there.
    ///
    /// # Safety
    /// The caller has every element written before it is read by anything whose result matters.
    ///
    /// # Errors
    /// Those of [`zeros`](Self::zeros).
    pub unsafe fn uninit(device: &Device, dtype: DType, shape: &[usize]) -> Result<Self> {
        Self::alloc(device, dtype, &Dense::new(shape)?)
    }

    fn alloc(device: &Device, dtype: DType, dense: &Dense) -> Result<Self> {
        let memory = Memory::alloc(device, dense.bytes(dtype)?, Padding::Kernel)?;
        let desc = dense.desc(dtype, memory.address());
        Ok(Self { memory, desc, dtype })
    }

    /// Its device.
    pub fn device(&self) -> &Device {
        self.memory.device()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Logical shape.
    pub fn shape(&self) -> &[i64] {
        &self.desc.shape
    }

    /// The whole tensor, to read.
    pub fn view(&self) -> TensorView<'_> {
        TensorView(Region { desc: self.desc, dtype: self.dtype, place: Place::Owned(&self.memory) })
    }

    /// The whole tensor, to write.
    pub fn view_mut(&mut self) -> TensorViewMut<'_> {
        let region = Region { desc: self.desc, dtype: self.dtype, place: Place::Owned(&self.memory) };
        TensorViewMut(region, PhantomData)
    }

    /// The values in row-major order, as [`TensorView::to_vec`] reads them.
    ///
    /// # Errors
    /// Those of [`TensorView::to_vec`].
    pub fn to_vec<T: Element>(&self, stream: &Stream) -> Result<Vec<T>> {
        self.view().to_vec(stream)
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({})", self.desc)
    }
}

/// Where the memory of a view is.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// In a tensor.
    Owned(&'a Memory),
    /// In the scratch of a stream, which only its current sequence uses.
    Scratch(&'a StreamInner),
    /// Nowhere: the view only tells its shape.
    Planned,
}

/// What views are made of.
#[derive(Clone, Copy)]
pub(crate) struct Region<'a> {
    pub(crate) desc: TensorDesc,
    pub(crate) dtype: DType,
    pub(crate) place: Place<'a>,
}

impl Region<'_> {
    fn transposed(mut self) -> Result<Self> {
        let rank = self.desc.rank();
        if rank < 2 {
            return Err(Error::shape("transpose", format_args!("shape {}", self.desc.shape), "at least 2 dimensions"));
        }
        self.desc.shape.as_mut_slice().swap(rank - 2, rank - 1);
        self.desc.strides.as_mut_slice().swap(rank - 2, rank - 1);
        Ok(self)
    }

    fn narrowed(mut self, axis: usize, range: Range<usize>) -> Result<Self> {
        self.require_nd("range")?;
        let (Some(&count), Some(&stride)) = (self.desc.shape.get(axis), self.desc.strides.get(axis)) else {
            let legal = format!("below {}", self.desc.rank());
            return Err(Error::shape("range", format_args!("axis {axis}"), legal));
        };
        let legal = range.start <= range.end && i64::try_from(range.end).is_ok_and(|end| end <= count);
        if !legal {
            return Err(Error::shape("range", format_args!("{range:?}"), format_args!("within 0..{count}")));
        }
        // Both are at most `count`, an i64.
        self.desc.offset += range.start as i64 * stride;
        if let Some(size) = self.desc.shape.as_mut_slice().get_mut(axis) {
            *size = (range.end - range.start) as i64;
        }
        Ok(self)
    }

    fn reshaped(mut self, shape: &[usize]) -> Result<Self> {
        self.require_nd("reshape")?;
        let dense = Dense::new(shape)?;
        if !self.desc.is_contiguous() || self.desc.elements() != Some(dense.elements as u64) {
            let legal = format_args!("a contiguous tensor of as many elements as {shape:?}");
            return Err(Error::shape("reshape", self.desc, legal));
        }
        // A view of the whole storage has the storage's shape, as CANN's contiguous tensors do.
        if self.desc.offset == 0 && self.desc.storage.elements() == self.desc.elements() {
            self.desc.storage = dense.shape;
        }
        self.desc.shape = dense.shape;
        self.desc.strides = dense.shape.contiguous_strides();
        Ok(self)
    }

    fn broadcast(mut self, shape: &[usize]) -> Result<Self> {
        self.require_nd("broadcast")?;
        let (target, from) = (dims(shape)?, self.desc.shape);
        let lead = target.len().checked_sub(from.len());
        let fits = |lead: usize| from.iter().zip(&target[lead..]).all(|(&old, &new)| old == new || old == 1);
        let Some(lead) = lead.filter(|&lead| fits(lead)) else {
            let legal = format_args!("a shape that {from} broadcasts to");
            return Err(Error::shape("broadcast", format_args!("{shape:?}"), legal));
        };
        let kept = from.iter().zip(&*self.desc.strides).zip(&target[lead..]);
        let mut strides = target;
        strides.as_mut_slice()[..lead].fill(0);
        for (stride, ((&old, &step), &new)) in strides.as_mut_slice()[lead..].iter_mut().zip(kept) {
            *stride = if old == new { step } else { 0 };
        }
        (self.desc.shape, self.desc.strides) = (target, strides);
        Ok(self)
    }

    fn fractal_nz(mut self, shape: &[usize]) -> Result<Self> {
        self.require_nd("FRACTAL_NZ")?;
        let dense = Dense::nz(self.dtype, shape)?;
        if !self.desc.is_contiguous() || self.desc.shape != dense.storage || self.desc.offset != 0 {
            return Err(Error::shape("FRACTAL_NZ", self.desc, format_args!("contiguous {}", dense.storage)));
        }
        self.desc = TensorDesc { data: self.desc.data, ..dense.desc(self.dtype, 0) };
        Ok(self)
    }

    fn require_nd(&self, what: &'static str) -> Result<()> {
        if self.desc.format == aclFormat::ND {
            return Ok(());
        }
        Err(Error::shape(what, format_args!("format {:?}", self.desc.format), "a row-major tensor (ND)"))
    }

    /// Memory, stream for scratch, offset and length in bytes of a contiguous row-major view.
    fn bytes(&self) -> Result<(usize, usize)> {
        self.require_nd("copy")?;
        if !self.desc.is_contiguous() {
            return Err(Error::shape("copy", self.desc, "a contiguous view"));
        }
        let elements = self.desc.elements().and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        let offset = usize::try_from(self.desc.offset).unwrap_or(0);
        if self.dtype.bits() < 8 && offset % 2 != 0 {
            return Err(Error::shape("copy", self.desc, "a view that begins with a byte"));
        }
        Ok((self.dtype.bytes(offset), self.dtype.bytes(elements)))
    }
}

/// A view of a tensor, to read. Cheap to copy.
#[derive(Clone, Copy)]
pub struct TensorView<'a>(pub(crate) Region<'a>);

/// The only view of a tensor, to write.
pub struct TensorViewMut<'a>(pub(crate) Region<'a>, PhantomData<&'a mut ()>);

macro_rules! shared_methods {
    ($t:ident) => {
        impl $t<'_> {
            /// Element type.
            pub fn dtype(&self) -> DType {
                self.0.dtype
            }

            /// Logical shape.
            pub fn shape(&self) -> &[i64] {
                &self.0.desc.shape
            }

            /// Dtype, format, shape, strides, storage and address, as operators see them.
            pub fn desc(&self) -> &TensorDesc {
                &self.0.desc
            }

            /// Whether the view has no element.
            pub fn is_empty(&self) -> bool {
                self.0.desc.is_empty()
            }

            /// Size of a dimension, counted from the end where negative; 0 where there is none.
            pub fn dim(&self, index: isize) -> i64 {
                self.0.desc.dim(index)
            }
        }

        impl fmt::Debug for $t<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($t), "({})"), self.0.desc)
            }
        }
    };
}

shared_methods!(TensorView);
shared_methods!(TensorViewMut);

impl<'a> TensorView<'a> {
    /// A row-major tensor that has no memory: an argument of calls on a plan, which only tell sizes.
    ///
    /// # Errors
    /// [`Error::Shape`] for more than 8 dimensions or more bytes than an address can reach.
    pub fn planned(dtype: DType, shape: &[usize]) -> Result<TensorView<'static>> {
        let dense = Dense::new(shape)?;
        dense.bytes(dtype)?;
        Ok(TensorView(Region { desc: dense.desc(dtype, 0), dtype, place: Place::Planned }))
    }

    /// The same for a FRACTAL_NZ tensor of this logical shape.
    ///
    /// # Errors
    /// Those of [`Tensor::zeros_nz`] about the shape and the dtype.
    pub fn planned_nz(dtype: DType, shape: &[usize]) -> Result<TensorView<'static>> {
        let dense = Dense::nz(dtype, shape)?;
        dense.bytes(dtype)?;
        Ok(TensorView(Region { desc: dense.desc(dtype, 0), dtype, place: Place::Planned }))
    }

    /// The last two dimensions swapped; no data moves.
    ///
    /// # Errors
    /// [`Error::Shape`] for fewer than 2 dimensions.
    pub fn transpose(self) -> Result<Self> {
        self.0.transposed().map(Self)
    }

    /// A range of the first dimension.
    ///
    /// # Errors
    /// [`Error::Shape`] for a range outside the tensor and for FRACTAL_NZ.
    pub fn rows(self, rows: Range<usize>) -> Result<Self> {
        self.0.narrowed(0, rows).map(Self)
    }

    /// A range of any dimension; no data moves.
    ///
    /// # Errors
    /// [`Error::Shape`] for a range outside the tensor, a dimension it does not have, and FRACTAL_NZ.
    pub fn narrow(self, axis: usize, range: Range<usize>) -> Result<Self> {
        self.0.narrowed(axis, range).map(Self)
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    /// [`Error::Shape`] where the view is not contiguous, is FRACTAL_NZ, or has another number of elements.
    pub fn reshape(self, shape: &[usize]) -> Result<Self> {
        self.0.reshaped(shape).map(Self)
    }

    /// The same elements in a larger shape: dimensions of 1 are repeated, new ones put in front; no data moves.
    ///
    /// # Errors
    /// [`Error::Shape`] where another dimension changes, there are fewer, and for FRACTAL_NZ.
    pub fn broadcast(self, shape: &[usize]) -> Result<Self> {
        self.0.broadcast(shape).map(Self)
    }

    /// The same bytes as the storage of a FRACTAL_NZ tensor of a logical shape.
    ///
    /// # Errors
    /// [`Error::Shape`] where the view is not contiguous row-major in the shape of that storage, see
    /// [`Tensor::zeros_nz`], and those of [`Tensor::zeros_nz`] about shape and dtype.
    pub fn fractal_nz(self, shape: &[usize]) -> Result<Self> {
        self.0.fractal_nz(shape).map(Self)
    }

    /// The values in row-major order. Waits for the last write and for the stream.
    ///
    /// # Errors
    /// [`Error::DType`] where `T` is another type, [`Error::Shape`] where the view is not contiguous row-major,
    /// [`Error::WrongDevice`], [`Error::Vendor`] (faults of queued work surface here) and the states of the device.
    pub fn to_vec<T: Element>(&self, stream: &Stream) -> Result<Vec<T>> {
        let (_, bytes) = self.0.bytes()?;
        let mut values = vec![T::zeroed(); bytes / size_of::<T>()];
        self.copy_to_host(stream, &mut values)?;
        Ok(values)
    }

    /// The same into a slice.
    ///
    /// # Errors
    /// Those of [`to_vec`](Self::to_vec), and [`Error::Shape`] where the lengths differ.
    pub fn copy_to_host<T: Element>(&self, stream: &Stream, target: &mut [T]) -> Result<()> {
        check_element::<T>(self.dtype())?;
        let (offset, bytes) = self.0.bytes()?;
        check_length(bytes, size_of_val(target))?;
        let target = bytemuck::cast_slice_mut(target);
        match self.0.place {
            Place::Owned(memory) => memory.read_bytes(stream, offset, target),
            Place::Scratch(owner) => owner.read_scratch(stream, self.0.desc.data as usize + offset, target),
            Place::Planned => Err(Error::Planned),
        }
    }
}

impl<'a> TensorViewMut<'a> {
    /// A row-major output that has no memory, as [`TensorView::planned`].
    ///
    /// # Errors
    /// Those of [`TensorView::planned`].
    pub fn planned(dtype: DType, shape: &[usize]) -> Result<TensorViewMut<'static>> {
        Ok(TensorViewMut(TensorView::planned(dtype, shape)?.0, PhantomData))
    }

    pub(crate) fn scratch(desc: TensorDesc, dtype: DType, place: Place<'a>) -> Self {
        Self(Region { desc, dtype, place }, PhantomData)
    }

    /// The same elements, to read.
    pub fn as_view(&self) -> TensorView<'_> {
        TensorView(self.0)
    }

    /// The same elements, to read from now on.
    pub fn into_view(self) -> TensorView<'a> {
        TensorView(self.0)
    }

    /// The same elements for as long as they are needed, without giving this view up.
    pub fn reborrow(&mut self) -> TensorViewMut<'_> {
        TensorViewMut(self.0, PhantomData)
    }

    /// The last two dimensions swapped; no data moves.
    ///
    /// # Errors
    /// [`Error::Shape`] for fewer than 2 dimensions.
    pub fn transpose(self) -> Result<Self> {
        self.0.transposed().map(|region| Self(region, PhantomData))
    }

    /// A range of the first dimension.
    ///
    /// # Errors
    /// [`Error::Shape`] for a range outside the tensor and for FRACTAL_NZ.
    pub fn rows(self, rows: Range<usize>) -> Result<Self> {
        self.0.narrowed(0, rows).map(|region| Self(region, PhantomData))
    }

    /// A range of any dimension; no data moves.
    ///
    /// # Errors
    /// [`Error::Shape`] for a range outside the tensor, a dimension it does not have, and FRACTAL_NZ.
    pub fn narrow(self, axis: usize, range: Range<usize>) -> Result<Self> {
        self.0.narrowed(axis, range).map(|region| Self(region, PhantomData))
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    /// [`Error::Shape`] where the view is not contiguous, is FRACTAL_NZ, or has another number of elements.
    pub fn reshape(self, shape: &[usize]) -> Result<Self> {
        self.0.reshaped(shape).map(|region| Self(region, PhantomData))
    }

    /// Copies values in row-major order from the host; done when the call returns. Waits for earlier users of the tensor
    /// and for the stream.
    ///
    /// # Errors
    /// Those of [`TensorView::copy_to_host`].
    pub fn copy_from_host<T: Element>(&mut self, stream: &Stream, source: &[T]) -> Result<()> {
        check_element::<T>(self.dtype())?;
        self.copy_from_host_bytes(stream, bytemuck::cast_slice(source))
    }

    /// Copies the bytes of the elements from the host, those of [`DType::I4`] two to a byte; as
    /// [`copy_from_host`](Self::copy_from_host).
    ///
    /// # Errors
    /// Those of [`TensorView::copy_to_host`].
    pub fn copy_from_host_bytes(&mut self, stream: &Stream, source: &[u8]) -> Result<()> {
        let (offset, bytes) = self.0.bytes()?;
        check_length(source.len(), bytes)?;
        match self.0.place {
            Place::Owned(memory) => memory.write_bytes(stream, offset, source),
            Place::Scratch(owner) => owner.write_scratch(stream, self.0.desc.data as usize + offset, source),
            Place::Planned => Err(Error::Planned),
        }
    }

    /// Writes zero bytes, in the order of the sequence's stream. Nothing on a plan.
    ///
    /// # Errors
    /// [`Error::Shape`] where the view is not contiguous row-major, [`Error::WrongDevice`], [`Error::WrongStream`],
    /// [`Error::Vendor`] and the states of the device.
    pub fn zero(&mut self, sequence: &Sequence<'_>) -> Result<()> {
        let (offset, bytes) = self.0.bytes()?;
        let Some(stream) = sequence.stream() else { return Ok(()) };
        match self.0.place {
            Place::Owned(memory) => memory.zero_on(stream, offset, bytes),
            Place::Scratch(owner) => owner.zero_scratch(stream, self.0.desc.data as usize + offset, bytes),
            Place::Planned => Err(Error::Planned),
        }
    }
}

fn check_element<T: Element>(dtype: DType) -> Result<()> {
    if T::holds(dtype) { Ok(()) } else { Err(Error::dtype("copy", T::DTYPE, dtype)) }
}

fn check_length(source: usize, target: usize) -> Result<()> {
    if source == target {
        return Ok(());
    }
    Err(Error::shape("copy", format_args!("{source} bytes into {target}"), "equal lengths"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(shape: &[usize]) -> TensorView<'static> {
        TensorView::planned(DType::Bf16, shape).unwrap()
    }

    #[test]
    fn views_stay_within_their_tensor() {
        let view = planned(&[4, 6]);
        let rows = view.rows(1..3).unwrap();
        assert_eq!(rows.shape(), [2, 6]);
        assert_eq!(rows.desc().offset, 6);
        assert_eq!(*rows.desc().storage, [4, 6]);
        assert!(rows.desc().is_contiguous());
        assert_eq!(rows.reshape(&[12]).unwrap().desc().offset, 6);
        for bad in [0..5, 5..5, Range { start: 3, end: 2 }] {
            assert!(matches!(view.rows(bad), Err(Error::Shape { .. })));
        }
        assert_eq!(view.rows(4..4).unwrap().shape(), [0, 6]);
        let transposed = view.transpose().unwrap();
        assert_eq!(transposed.shape(), [6, 4]);
        assert!(transposed.desc().is_transposed());
        assert!(matches!(transposed.reshape(&[24]), Err(Error::Shape { .. })));
        assert!(matches!(view.reshape(&[25]), Err(Error::Shape { .. })));
        assert_eq!(*view.reshape(&[2, 12]).unwrap().desc().storage, [2, 12]);
        assert!(matches!(planned(&[3]).transpose(), Err(Error::Shape { .. })));
        assert!(matches!(TensorView::planned(DType::F32, &[]).unwrap().rows(0..0), Err(Error::Shape { .. })));
    }

    #[test]
    fn broadcast_repeats_without_memory() {
        let view = planned(&[4, 1, 6]).rows(1..3).unwrap();
        let wide = view.broadcast(&[3, 2, 5, 6]).unwrap();
        assert_eq!(
            (wide.shape(), &*wide.desc().strides, wide.desc().offset),
            (&[3, 2, 5, 6][..], &[0, 6, 0, 1][..], 6)
        );
        assert_eq!(view.broadcast(&[2, 1, 6]).unwrap().desc(), view.desc());
        assert!(view.broadcast(&[2, 0, 6]).unwrap().is_empty());
        assert_eq!(planned(&[]).broadcast(&[3]).unwrap().shape(), [3]);
        for bad in [&[2, 1, 5][..], &[1, 6], &[4, 1, 6], &[]] {
            assert!(matches!(view.broadcast(bad), Err(Error::Shape { .. })), "{bad:?}");
        }
        let nz = TensorView::planned_nz(DType::Bf16, &[1, 16, 16]).unwrap();
        assert!(matches!(nz.broadcast(&[2, 16, 16]), Err(Error::Shape { .. })));
    }

    #[test]
    fn fractal_nz_has_its_storage() {
        let view = TensorView::planned_nz(DType::Bf16, &[2, 20, 33]).unwrap();
        assert_eq!(*view.desc().storage, [2, 3, 2, 16, 16]);
        assert_eq!(*view.desc().strides, [660, 33, 1]);
        assert!(matches!(view.rows(0..1), Err(Error::Shape { .. })));
        assert!(matches!(view.reshape(&[1320]), Err(Error::Shape { .. })));
        assert!(matches!(TensorView::planned_nz(DType::I64, &[4, 4]), Err(Error::DType { .. })));
        assert!(matches!(TensorView::planned_nz(DType::I8, &[4]), Err(Error::Shape { .. })));
    }

    #[test]
    fn sizes_do_not_overflow() {
        assert!(matches!(TensorView::planned(DType::F32, &[usize::MAX, 2]), Err(Error::Shape { .. })));
        assert!(matches!(TensorView::planned(DType::F32, &[1 << 62]), Err(Error::Shape { .. })));
        assert!(matches!(TensorView::planned(DType::F32, &[1; 9]), Err(Error::Shape { .. })));
        assert!(TensorView::planned(DType::F32, &[1 << 40, 0]).is_ok());
    }

    #[test]
    fn a_planned_tensor_cannot_be_copied() {
        // Copying needs a stream; what is refused before is the layout.
        assert!(matches!(planned(&[2, 3]).transpose().unwrap().0.bytes(), Err(Error::Shape { .. })));
        assert_eq!(planned(&[4, 6]).rows(2..4).unwrap().0.bytes().unwrap(), (24, 24));
    }
}
