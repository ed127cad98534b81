//! A layer's weights on the device, and where they come from.

use std::ops::Range;

use ascend_sys::ops::Dims;
use half::{bf16, f16};

use super::LayerOptions;
use crate::checkpoint::HostLayer;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::pinned::PinnedBuffer;
use crate::spec::{FloatType, MoeSpec, Part};
use crate::stream::Stream;
use crate::tensor::{Tensor, TensorView, TensorViewMut};

/// Where a layer's weights come from.
pub trait WeightSource {
    /// What the layer computes.
    fn spec(&self) -> &MoeSpec;

    /// Fills host memory with a part of the weights: row-major, little-endian, in `dtype` (32-bit integers for parts that
    /// are [integers](Part::is_integer)), in the layout that [`Part`] says.
    ///
    /// * `experts`: the experts wanted of a part that comes [expert by expert](Part::per_expert); of no account for others.
    /// * `target`: [`MoeSpec::fill_bytes`] long, for each expert of the range.
    ///
    /// A part the layer does not have is never asked for.
    ///
    /// # Errors
    /// What the source cannot give.
    fn fill(&self, part: Part, experts: Range<usize>, dtype: FloatType, target: &mut [u8]) -> Result<()>;
}

impl WeightSource for HostLayer<'_> {
    fn spec(&self) -> &MoeSpec {
        self.spec()
    }

    fn fill(&self, part: Part, experts: Range<usize>, dtype: FloatType, target: &mut [u8]) -> Result<()> {
        Ok(self.fill(part, experts, dtype, target)?)
    }
}

/// Parts of a layer's weights, each a `T` where the layer has it.
#[derive(Clone, Copy)]
pub(super) struct Parts<T>([Option<T>; Part::ALL.len()]);

/// A layer's weights as a pass sees them: on the device, or planned.
pub(super) type WeightViews<'a> = Parts<TensorView<'a>>;

impl<T> Parts<T> {
    /// The parts that the layer has, made one by one.
    fn new(mut make: impl FnMut(Part) -> Result<Option<T>>) -> Result<Self> {
        let mut parts = Self(Part::ALL.map(|_| None));
        for (slot, part) in parts.0.iter_mut().zip(Part::ALL) {
            *slot = make(part)?;
        }
        Ok(parts)
    }

    fn as_ref(&self) -> Parts<&T> {
        Parts(self.0.each_ref().map(Option::as_ref))
    }

    pub(super) fn get_mut(&mut self, part: Part) -> Option<&mut T> {
        self.0.get_mut(part as usize)?.as_mut()
    }
}

impl<T: Copy> Parts<T> {
    /// A part that the layer may not have.
    pub(super) fn get(&self, part: Part) -> Option<T> {
        self.0.get(part as usize).copied().flatten()
    }

    /// A part without which there is no layer.
    ///
    /// # Errors
    /// [`Error::Shape`] where it is missing: the weights are those of a router alone.
    pub(super) fn require(&self, part: Part) -> Result<T> {
        self.get(part).ok_or_else(|| Error::shape("weights", "no such part", part.name()))
    }
}

/// Type and shape of each part that a layer, or its router alone, holds on the device.
pub(super) struct WeightShapes(Parts<(DType, Dims)>);

impl WeightShapes {
    pub(super) fn new(spec: &MoeSpec, options: LayerOptions, wanted: fn(Part) -> bool) -> Result<Self> {
        Parts::new(|part| {
            let Some(shape) = spec.shape(part).filter(|_| wanted(part)) else { return Ok(None) };
            let dtype = if part.is_integer() { DType::I32 } else { DType::from(spec.part_type(part, options.dtype)) };
            Ok(Some((dtype, crate::tensor::dims(&shape)?)))
        })
        .map(Self)
    }

    /// Bytes of each tensor.
    pub(super) fn bytes(&self) -> impl Iterator<Item = u64> {
        let elements = |shape: &Dims| shape.elements().and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        self.0.0.iter().flatten().map(move |(dtype, shape)| dtype.bytes(elements(shape)) as u64)
    }

    /// Views without memory.
    pub(super) fn planned(&self) -> Result<WeightViews<'static>> {
        Parts::new(|part| {
            let planned = |(dtype, shape): (DType, Dims)| TensorView::planned(dtype, &sizes(&shape));
            self.0.get(part).map(planned).transpose()
        })
    }
}

fn sizes(shape: &Dims) -> Vec<usize> {
    shape.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect()
}

/// A layer's weights on the device.
pub(super) struct Weights(Parts<Tensor>);

impl Weights {
    pub(super) fn views(&self) -> WeightViews<'_> {
        Parts(self.0.as_ref().0.map(|tensor| tensor.map(Tensor::view)))
    }

    pub(super) fn get_mut(&mut self, part: Part) -> Option<&mut Tensor> {
        self.0.get_mut(part)
    }
}

/// Bytes of the pinned buffer that weights pass through: the largest part that is copied at once.
pub(super) fn staging_bytes(spec: &MoeSpec, options: LayerOptions) -> usize {
    let bytes = |part| spec.fill_bytes(part, spec.part_type(part, options.dtype));
    Part::ALL.into_iter().map(bytes).fold(0, usize::max)
}

/// Copies weights to the device through one pinned buffer, and tells how far it is.
pub(super) struct Upload<'a> {
    stream: &'a Stream,
    source: &'a dyn WeightSource,
    options: LayerOptions,
    staging: PinnedBuffer<u8>,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<'a> Upload<'a> {
    pub(super) fn new(
        stream: &'a Stream,
        source: &'a dyn WeightSource,
        options: LayerOptions,
        progress: &'a mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        let staging = PinnedBuffer::alloc_zeroed(stream.device(), staging_bytes(source.spec(), options))?;
        Ok(Self { stream, source, options, staging, done: 0, total: 0, progress })
    }

    /// Every part that is wanted.
    pub(super) fn all(&mut self, wanted: fn(Part) -> bool) -> Result<Weights> {
        let spec = *self.source.spec();
        let shapes = WeightShapes::new(&spec, self.options, wanted)?;
        self.total = shapes.bytes().sum();
        (self.progress)(0, self.total);
        let parts = Parts::new(|part| {
            let Some((dtype, shape)) = shapes.0.get(part) else { return Ok(None) };
            // SAFETY: every element is written below before anybody gets the tensor.
            let mut tensor = unsafe { Tensor::uninit(self.stream.device(), dtype, &sizes(&shape)) }?;
            let experts = if part.per_expert() { 0..spec.experts().num } else { 0..1 };
            self.part(part, experts, &mut tensor)?;
            Ok(Some(tensor))
        })?;
        Ok(Weights(parts))
    }

    /// A part, or of one that comes expert by expert those of a range.
    pub(super) fn part(&mut self, part: Part, experts: Range<usize>, tensor: &mut Tensor) -> Result<()> {
        let dtype = self.source.spec().part_type(part, self.options.dtype);
        if !part.per_expert() {
            return self.fill(part, 0..0, dtype, tensor.view_mut());
        }
        for expert in experts {
            self.fill(part, expert..expert + 1, dtype, tensor.view_mut().rows(expert..expert + 1)?)?;
        }
        Ok(())
    }

    fn fill(
        &mut self,
        part: Part,
        experts: Range<usize>,
        dtype: FloatType,
        mut target: TensorViewMut<'_>,
    ) -> Result<()> {
        let bytes = self.source.spec().fill_bytes(part, dtype);
        // The buffer is as long as the largest part, see `staging_bytes`.
        let staged = self.staging.get_mut(..bytes).unwrap_or_default();
        self.source.fill(part, experts, dtype, staged)?;
        if part == Part::ExpertTable {
            check_table(bytemuck::cast_slice(staged), self.source.spec())?;
        }
        // Pinned memory is aligned for every element type.
        match target.dtype() {
            DType::F32 => target.copy_from_host::<f32>(self.stream, bytemuck::cast_slice(staged))?,
            DType::Bf16 => target.copy_from_host::<bf16>(self.stream, bytemuck::cast_slice(staged))?,
            DType::F16 => target.copy_from_host::<f16>(self.stream, bytemuck::cast_slice(staged))?,
            DType::I32 => target.copy_from_host::<i32>(self.stream, bytemuck::cast_slice(staged))?,
            other => return Err(Error::dtype("weight", other, "f32, bf16, f16 or i32")),
        }
        self.done += bytes as u64;
        (self.progress)(self.done, self.total);
        Ok(())
    }
}

/// Refuses a table of experts by token id that names one that is not there: the device would read beyond its tensors.
fn check_table(table: &[i32], spec: &MoeSpec) -> Result<()> {
    let experts = spec.experts().routed();
    let wrong = table.iter().position(|&id| !usize::try_from(id).is_ok_and(|id| id < experts));
    let Some((index, id)) = wrong.and_then(|index| Some((index, table.get(index)?))) else { return Ok(()) };
    let found = format_args!("expert {id} for token id {}", index / spec.router().top_k.max(1)).to_string();
    Err(Error::shape("table of experts by token id", found, format_args!("experts 0 to {}", experts.saturating_sub(1))))
}
