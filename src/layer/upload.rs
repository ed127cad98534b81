//! Copying weights to the device.

use std::ops::Range;

use half::{bf16, f16};
use moe_kernels::formats::nibbles::int4_byte;
use moe_kernels::formats::requantise::QuantError;
use moe_kernels::gemm::Weight;
use moe_kernels::int_gemm::IntWeight;
use moe_kernels::nz::FRACTAL_ROW_BYTES;
use moe_kernels::quant_gemm::msd_bias;
use moe_kernels::view::Mat;
use rayon::prelude::*;

use super::LayerOptions;
use super::format::ExpertPlan;
use super::source::{Codes, WeightSource};
use super::weights::{Held, WeightShapes, Weights, sizes};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::pinned::PinnedBuffer;
use crate::spec::{FloatType, MoeSpec, Part};
use crate::stream::Stream;
use crate::tensor::{Tensor, TensorViewMut};

/// Copies weights to the device through one pinned buffer, and tells how far it is.
pub(super) struct Upload<'a> {
    stream: &'a Stream,
    source: &'a dyn WeightSource,
    shapes: WeightShapes,
    staging: PinnedBuffer<u8>,
    /// Codes and scales of one expert's projection, as the source gives them.
    codes: Vec<i8>,
    scales: Vec<f32>,
    error: QuantError,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<'a> Upload<'a> {
    pub(super) fn new(
        stream: &'a Stream,
        source: &'a dyn WeightSource,
        options: LayerOptions,
        plan: &ExpertPlan,
        wanted: fn(Part) -> bool,
        progress: &'a mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        let shapes = WeightShapes::new(source.spec(), options, plan, wanted)?;
        let staging = PinnedBuffer::alloc_zeroed(stream.device(), shapes.staging_bytes())?;
        let (codes, scales, total) = (Vec::new(), Vec::new(), shapes.bytes().sum());
        Ok(Self {
            stream,
            source,
            shapes,
            staging,
            codes,
            scales,
            error: QuantError::default(),
            done: 0,
            total,
            progress,
        })
    }

    /// Every part that is wanted.
    pub(super) fn all(mut self) -> Result<Weights> {
        (self.progress)(0, self.total);
        let experts = self.source.spec().experts().num;
        let plan = self.shapes.plan().clone();
        let parts = Weights::parts(|part| {
            let Some(shapes) = self.shapes.get(part) else { return Ok(None) };
            let device = self.stream.device();
            // SAFETY: every element is written below before anybody gets the tensors.
            let mut held = shapes.map(|(dtype, shape)| unsafe { Tensor::uninit(device, *dtype, &sizes(shape)) })?;
            self.part(part, 0..experts, &mut held)?;
            Ok(Some(held))
        })?;
        Ok(Weights::new(parts, plan, self.error))
    }

    /// A part, or of one that comes expert by expert those of a range.
    pub(super) fn part(&mut self, part: Part, experts: Range<usize>, held: &mut Held<Tensor>) -> Result<()> {
        if !part.per_expert() {
            return self.share(part, None, held);
        }
        for expert in experts {
            self.share(part, Some(expert), held)?;
        }
        Ok(())
    }

    /// A part, or one expert's share of it.
    fn share(&mut self, part: Part, expert: Option<usize>, held: &mut Held<Tensor>) -> Result<()> {
        let range = expert.map_or(0..0, |expert| expert..expert + 1);
        let mut tensors = held.map_mut(|tensor| match &expert {
            Some(_) => tensor.view_mut().rows(range.clone()),
            None => Ok(tensor.view_mut()),
        })?;
        let Some(codes) = tensors.codes else {
            let dtype = float_type(tensors.weight.dtype());
            let staged = staged(&mut self.staging, self.source.spec().fill_bytes(part, dtype));
            self.source.fill(part, range, dtype, staged)?;
            if part == Part::ExpertTable {
                check_table(bytemuck::cast_slice(staged), self.source.spec())?;
            }
            let bytes = staged.len();
            return self.copy(bytes, &mut tensors.weight);
        };
        let shape = self.source.spec().shape(part).unwrap_or_default();
        let &[.., n, k] = shape.as_slice() else {
            return Err(Error::shape("projection", format_args!("{shape:?}"), "[.., N, K]"));
        };
        let groups = codes.groups(k);
        self.codes.resize(n * k, 0);
        self.scales.resize(n * groups, 0.0);
        let error = self.source.fill_codes(part, range, codes, &mut self.codes, &mut self.scales)?;
        self.error = self.error.and(error);
        if let Some(scale) = self.scales.iter().find(|scale| !scale.is_finite()) {
            return Err(Error::shape("scale of a quantised weight", scale, "finite numbers"));
        }

        let bytes = bytes_of(&tensors.weight);
        pack(&self.codes, [n, k], codes, tensors.packed.is_some(), staged(&mut self.staging, bytes))?;
        self.copy(bytes, &mut tensors.weight)?;
        // [G, N]
        let by_group = (0..groups).flat_map(|group| (0..n).map(move |n| n * groups + group));
        let scales: Vec<f32> = by_group.filter_map(|index| self.scales.get(index).copied()).collect();
        if let Some(scale) = &mut tensors.scale {
            let values = scales.iter().copied();
            let bytes = encode(values, scale.dtype(), staged(&mut self.staging, bytes_of(scale)))?;
            self.copy(bytes, scale)?;
        }
        if let Some(extra) = &mut tensors.extra {
            let mut values = vec![0.0; n];
            if let Codes::Int4 { .. } = codes {
                let weight = Mat::row_major(&self.codes, n, k).map(|codes| Weight::Strided(codes.transposed()));
                weight
                    .and_then(|weight| msd_bias(&IntWeight::Int8(weight), &scales, &mut values))
                    .map_err(|error| Error::shape("quantised weight", error, "codes [N, K] and scales [G, N]"))?;
            }
            let bytes = encode(values.into_iter(), extra.dtype(), staged(&mut self.staging, bytes_of(extra)))?;
            self.copy(bytes, extra)?;
        }
        Ok(())
    }

    /// Copies what was staged.
    fn copy(&mut self, bytes: usize, target: &mut TensorViewMut<'_>) -> Result<()> {
        target.copy_from_host_bytes(self.stream, staged(&mut self.staging, bytes))?;
        self.done += bytes as u64;
        (self.progress)(self.done, self.total);
        Ok(())
    }
}

/// What a part of this type is filled in; of integers nobody asks.
fn float_type(dtype: DType) -> FloatType {
    match dtype {
        DType::Bf16 => FloatType::Bf16,
        DType::F16 => FloatType::F16,
        _ => FloatType::F32,
    }
}

/// The first bytes of the buffer, which is as long as the largest copy, see [`WeightShapes::staging_bytes`].
fn staged(staging: &mut PinnedBuffer<u8>, bytes: usize) -> &mut [u8] {
    staging.get_mut(..bytes).unwrap_or_default()
}

fn bytes_of(view: &TensorViewMut<'_>) -> usize {
    view.dtype().bytes(view.desc().elements().and_then(|count| usize::try_from(count).ok()).unwrap_or(0))
}

/// Codes `[N, K]` as the bytes of `[K, N]`: row-major, or in FRACTAL_NZ of full blocks.
fn pack(codes: &[i8], [n, k]: [usize; 2], kind: Codes, blocks: bool, target: &mut [u8]) -> Result<()> {
    let per_byte = 8 / kind.dtype().bits();
    if n % per_byte != 0 {
        return Err(Error::shape("outputs of an int4 weight", n, format_args!("{}, or another even number", n + 1)));
    }
    // Row-major is one block of all columns.
    let columns = if blocks { FRACTAL_ROW_BYTES * per_byte } else { n };
    target.par_chunks_mut((columns / per_byte).max(1)).with_min_len(64).enumerate().for_each(|(run, target)| {
        let (block, row) = (run / k, run % k);
        let code = |column: usize| codes[(block * columns + column) * k + row];
        for (at, byte) in target.iter_mut().enumerate() {
            *byte = match kind {
                Codes::Int8 => code(at).cast_unsigned(),
                Codes::Int4 { .. } => int4_byte(code(2 * at), code(2 * at + 1)),
            };
        }
    });
    Ok(())
}

/// Numbers as elements of a scale tensor; how many bytes they take.
fn encode(values: impl Iterator<Item = f32>, dtype: DType, target: &mut [u8]) -> Result<usize> {
    let size = dtype.bytes(1);
    let mut bytes = 0;
    for (target, value) in target.chunks_exact_mut(size).zip(values) {
        match dtype {
            DType::F32 => target.copy_from_slice(&value.to_le_bytes()),
            DType::Bf16 => target.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
            DType::F16 => target.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
            // The bits of the f32 in the low half (ops-transformer 9.1.0, gmm/grouped_matmul).
            DType::U64 => target.copy_from_slice(&u64::from(value.to_bits()).to_le_bytes()),
            other => return Err(Error::dtype("scale", other, "f32, bf16, f16 or u64")),
        }
        bytes += size;
    }
    Ok(bytes)
}

/// Refuses a table of experts by token id that names one that is not there: the device would read beyond its tensors.
fn check_table(table: &[i32], spec: &MoeSpec) -> Result<()> {
    let experts = spec.experts().routed();
    let wrong = table.iter().position(|&id| !usize::try_from(id).is_ok_and(|id| id < experts));
    let Some((index, id)) = wrong.and_then(|index| Some((index, table.get(index)?))) else { return Ok(()) };
    let found = format_args!("expert {id} for token id {}", index / spec.router().top_k.max(1)).to_string();
    Err(Error::shape("table of experts by token id", found, format_args!("experts 0 to {}", experts.saturating_sub(1))))
}
