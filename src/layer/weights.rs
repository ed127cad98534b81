//! A layer's weights on the device: which tensors there are, of what type and shape, and views of them.

use ascend_sys::ops::Dims;
use moe_kernels::formats::requantise::QuantError;
use moe_kernels::nz::{FRACTAL_ROW_BYTES, FRACTAL_ROWS};

use super::LayerOptions;
use super::format::{ExpertFormat, ExpertPlan};
use super::source::Codes;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::spec::{MoeSpec, Part};
use crate::tensor::{Tensor, TensorView};

/// Parts of a layer's weights, each a `T` where the layer has it.
pub(super) struct Parts<T>([Option<T>; Part::ALL.len()]);

impl<T> Parts<T> {
    /// The parts that the layer has, made one by one.
    fn new(mut make: impl FnMut(Part) -> Result<Option<T>>) -> Result<Self> {
        let mut parts = Self(Part::ALL.map(|_| None));
        for (slot, part) in parts.0.iter_mut().zip(Part::ALL) {
            *slot = make(part)?;
        }
        Ok(parts)
    }

    fn held(&self, part: Part) -> Option<&T> {
        self.0.get(part as usize)?.as_ref()
    }
}

/// A part as the device holds it: its tensor, and of a quantised projection what belongs to its codes.
#[derive(Clone, Copy)]
pub(super) struct Held<T> {
    /// As [`Part`] says; of a quantised projection its codes `[.., K, N]`, or their storage in FRACTAL_NZ.
    pub(super) weight: T,
    /// Scales of the codes: `[.., N]`, or per group along K `[.., G, N]`.
    pub(super) scale: Option<T>,
    /// W4A8: what the product of the low halves lacks, `8 * sum_k code * scale`, `[.., N]`; W8A16: the offsets, which are 0.
    pub(super) extra: Option<T>,
    /// `[.., K, N]` where the tensor is the storage of that in FRACTAL_NZ.
    pub(super) packed: Option<Dims>,
    /// What the codes of a quantised projection are.
    pub(super) codes: Option<Codes>,
}

impl<T> Held<T> {
    pub(super) fn map<'a, U>(&'a self, mut make: impl FnMut(&'a T) -> Result<U>) -> Result<Held<U>> {
        let weight = make(&self.weight)?;
        let scale = self.scale.as_ref().map(&mut make).transpose()?;
        let extra = self.extra.as_ref().map(&mut make).transpose()?;
        Ok(Held { weight, scale, extra, packed: self.packed, codes: self.codes })
    }

    pub(super) fn map_mut<'a, U>(&'a mut self, mut make: impl FnMut(&'a mut T) -> Result<U>) -> Result<Held<U>> {
        let weight = make(&mut self.weight)?;
        let scale = self.scale.as_mut().map(&mut make).transpose()?;
        let extra = self.extra.as_mut().map(&mut make).transpose()?;
        Ok(Held { weight, scale, extra, packed: self.packed, codes: self.codes })
    }

    fn tensors(&self) -> impl Iterator<Item = &T> {
        [Some(&self.weight), self.scale.as_ref(), self.extra.as_ref()].into_iter().flatten()
    }
}

/// A layer's weights as a pass sees them, on the device or planned, and how its experts multiply with them.
pub(super) struct WeightViews<'a> {
    parts: Parts<Held<TensorView<'a>>>,
    plan: &'a ExpertPlan,
}

impl<'a> WeightViews<'a> {
    fn new<T>(
        parts: &'a Parts<Held<T>>,
        plan: &'a ExpertPlan,
        view: impl Fn(&'a T) -> Result<TensorView<'a>>,
    ) -> Result<Self> {
        let held = |held: &'a Held<T>| {
            let mut views = held.map(&view)?;
            if let Some(shape) = &held.packed {
                views.weight = views.weight.fractal_nz(&sizes(shape))?;
            }
            Ok(views)
        };
        Ok(Self { parts: Parts::new(|part| parts.held(part).map(held).transpose())?, plan })
    }

    /// How the experts run.
    pub(super) fn plan(&self) -> &'a ExpertPlan {
        self.plan
    }

    /// A part that the layer may not have.
    pub(super) fn get(&self, part: Part) -> Option<TensorView<'a>> {
        self.parts.held(part).map(|held| held.weight)
    }

    /// A part without which there is no layer.
    ///
    /// # Errors
    /// [`Error::Shape`] where it is missing: the weights are those of a router alone.
    pub(super) fn require(&self, part: Part) -> Result<TensorView<'a>> {
        self.projection(part).map(|held| held.weight)
    }

    /// The same with what belongs to its codes.
    ///
    /// # Errors
    /// As [`require`](Self::require).
    pub(super) fn projection(&self, part: Part) -> Result<Held<TensorView<'a>>> {
        self.parts.held(part).copied().ok_or_else(|| Error::shape("weights", "no such part", part.name()))
    }
}

/// Type and shape of each tensor that a layer, or its router alone, holds on the device.
pub(super) struct WeightShapes {
    parts: Parts<Held<(DType, Dims)>>,
    plan: ExpertPlan,
}

impl WeightShapes {
    pub(super) fn new(
        spec: &MoeSpec,
        options: LayerOptions,
        plan: &ExpertPlan,
        wanted: fn(Part) -> bool,
    ) -> Result<Self> {
        let parts = Parts::new(|part| {
            let Some(shape) = spec.shape(part).filter(|_| wanted(part)) else { return Ok(None) };
            let format = plan.format.of(part);
            if let Some(codes) = format.codes() {
                return quantised(part, &shape, format, codes, options, plan).map(Some);
            }
            let dtype = match part {
                _ if part.is_integer() => DType::I32,
                // Beside products of int8 they are added behind the scales, in the type of the output.
                Part::W13Bias | Part::W2Bias if plan.format == ExpertFormat::W8A8 => options.dtype.into(),
                _ => DType::from(spec.part_type(part, options.dtype)),
            };
            let weight = (dtype, crate::dense::dims(&shape)?);
            Ok(Some(Held { weight, scale: None, extra: None, packed: None, codes: None }))
        })?;
        Ok(Self { parts, plan: plan.clone() })
    }

    /// How the experts run.
    pub(super) fn plan(&self) -> &ExpertPlan {
        &self.plan
    }

    pub(super) fn get(&self, part: Part) -> Option<Held<(DType, Dims)>> {
        self.parts.held(part).copied()
    }

    /// Bytes of each tensor.
    pub(super) fn bytes(&self) -> impl Iterator<Item = u64> {
        self.parts.0.iter().flatten().flat_map(Held::tensors).map(|tensor| bytes_of(tensor) as u64)
    }

    /// Views without memory.
    pub(super) fn planned(&self) -> Result<WeightViews<'_>> {
        WeightViews::new(&self.parts, &self.plan, |(dtype, shape)| TensorView::planned(*dtype, &sizes(shape)))
    }

    /// Bytes of the pinned buffer that weights pass through: the largest tensor, or an expert's share of one that comes expert by
    /// expert.
    pub(super) fn staging_bytes(&self) -> usize {
        let parts = self.parts.0.iter().zip(Part::ALL).filter_map(|(held, part)| Some((held.as_ref()?, part)));
        let share = |(held, part): (&Held<(DType, Dims)>, Part)| {
            let experts = if part.per_expert() { held.weight.1.first().map_or(1, |&dim| dim.max(1)) } else { 1 };
            held.tensors().map(|tensor| bytes_of(tensor).div_ceil(experts as usize)).fold(0, usize::max)
        };
        parts.map(share).fold(0, usize::max)
    }
}

fn bytes_of((dtype, shape): &(DType, Dims)) -> usize {
    dtype.bytes(shape.elements().and_then(|count| usize::try_from(count).ok()).unwrap_or(0))
}

pub(super) fn sizes(shape: &Dims) -> Vec<usize> {
    shape.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect()
}

/// The tensors of a projection of `shape` `[.., N, K]`.
fn quantised(
    part: Part,
    shape: &[usize],
    format: ExpertFormat,
    codes: Codes,
    options: LayerOptions,
    plan: &ExpertPlan,
) -> Result<Held<(DType, Dims)>> {
    let ([lead @ .., n, k], dtype) = (shape, codes.dtype()) else {
        return Err(Error::shape("projection", format_args!("{shape:?}"), "[.., N, K]"));
    };
    let with = |tail: &[usize]| crate::dense::dims(&[lead, tail].concat());
    let (logical, per_output) = (with(&[*k, *n])?, with(&[*n])?);
    let layer = DType::from(options.dtype);
    let scale = match format {
        ExpertFormat::W4A8 { .. } => DType::U64,
        // What the grouped product gives is of another type than f16 where its scale is bf16, and of f16 where it is f32.
        ExpertFormat::W8A8 if part == Part::W2 || (part == Part::W13 && plan.fused.is_none()) => match layer {
            DType::Bf16 => DType::Bf16,
            _ => DType::F32,
        },
        ExpertFormat::W8A8 => DType::F32,
        _ => layer,
    };
    let scales = match codes.group() {
        Some(group) => with(&[k.div_ceil(group), *n])?,
        None => per_output,
    };
    let extra = match format {
        ExpertFormat::W4A8 { .. } => Some((DType::F32, per_output)),
        ExpertFormat::W8A16 => Some((layer, per_output)),
        _ => None,
    };
    let blocks = k % FRACTAL_ROWS == 0 && n % (FRACTAL_ROW_BYTES * 8 / dtype.bits()) == 0;
    let packed = Some(logical).filter(|_| blocks && format.quantises_activations());
    let storage = match &packed {
        Some(shape) => shape.fractal_nz(dtype.acl()).ok_or_else(|| {
            Error::shape("FRACTAL_NZ weight", format_args!("{shape}"), "at most 6 dimensions with the blocks")
        })?,
        None => logical,
    };
    Ok(Held { weight: (dtype, storage), scale: Some((scale, scales)), extra, packed, codes: Some(codes) })
}

/// A layer's weights on the device.
pub(super) struct Weights {
    parts: Parts<Held<Tensor>>,
    plan: ExpertPlan,
    error: QuantError,
}

impl Weights {
    pub(super) fn parts(make: impl FnMut(Part) -> Result<Option<Held<Tensor>>>) -> Result<Parts<Held<Tensor>>> {
        Parts::new(make)
    }

    pub(super) fn new(parts: Parts<Held<Tensor>>, plan: ExpertPlan, error: QuantError) -> Self {
        Self { parts, plan, error }
    }

    /// How far the codes were from the values when they were loaded.
    pub(super) fn error(&self) -> QuantError {
        self.error
    }

    /// How the experts run.
    pub(super) fn plan(&self) -> &ExpertPlan {
        &self.plan
    }

    pub(super) fn views(&self) -> Result<WeightViews<'_>> {
        WeightViews::new(&self.parts, &self.plan, |tensor| Ok(tensor.view()))
    }

    pub(super) fn get_mut(&mut self, part: Part) -> Option<&mut Held<Tensor>> {
        self.parts.0.get_mut(part as usize)?.as_mut()
    }
}
