//! Where a layer's weights come from.

use std::ops::Range;

use moe_kernels::formats::nibbles::unpack_int4;
use moe_kernels::formats::requantise::{INT4_LIMIT, INT8_LIMIT, QuantError, symmetric};
use rayon::prelude::*;

use crate::checkpoint::HostLayer;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::spec::{FloatType, MoeSpec, Part};

/// What the weights of a quantised projection are as codes: two's complement, symmetric, weight = code * scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codes {
    /// -128 to 127, a scale per output.
    Int8,
    /// -8 to 7, a scale per output, or per output and group of inputs.
    Int4 {
        /// Inputs that share a scale, the last group what is left; `None` for all.
        group: Option<usize>,
    },
}

impl Codes {
    /// Type of the codes on the device.
    pub const fn dtype(self) -> DType {
        match self {
            Self::Int8 => DType::I8,
            Self::Int4 { .. } => DType::I4,
        }
    }

    /// Inputs that share a scale; `None` for all.
    pub const fn group(self) -> Option<usize> {
        match self {
            Self::Int8 => None,
            Self::Int4 { group } => group,
        }
    }

    /// The largest code of a symmetric scale.
    pub(super) const fn limit(self) -> i8 {
        match self {
            Self::Int8 => INT8_LIMIT,
            Self::Int4 { .. } => INT4_LIMIT,
        }
    }

    /// Scales of an output of `k` inputs.
    pub const fn groups(self, k: usize) -> usize {
        match self.group() {
            Some(group) if group > 0 => k.div_ceil(group),
            _ => 1,
        }
    }
}

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

    /// Fills host memory with the codes and scales of a projection, where a layer holds it quantised. A source that has codes
    /// gives them as they are; the others quantise what [`fill`](Self::fill) gives, which is what this does where it is not
    /// written: per output or group the scale is the largest size over 127 or 7, and codes are rounded to the nearest, ties to
    /// even.
    ///
    /// * `part`: one of the projections; `experts` as for [`fill`](Self::fill).
    /// * `target`: for each expert `[N, K]`, one code to a byte, in the layout that [`Part`] says.
    /// * `scales`: for each expert `[N, G]`, see [`Codes::groups`].
    ///
    /// Gives how far the codes are from the values.
    ///
    /// # Errors
    /// What the source cannot give; [`Error::Shape`] where there is no such part or the slices have other sizes.
    fn fill_codes(
        &self,
        part: Part,
        experts: Range<usize>,
        codes: Codes,
        target: &mut [i8],
        scales: &mut [f32],
    ) -> Result<QuantError> {
        let shape = self.spec().shape(part);
        let Some([.., k]) = shape.as_deref().filter(|shape| !shape.contains(&0)) else {
            return Err(Error::shape("part of the weights", part.name(), "one that the layer has"));
        };
        let mut values = vec![0f32; target.len()];
        self.fill(part, experts, FloatType::F32, bytemuck::cast_slice_mut(&mut values))?;
        quantise(&values, *k, codes, target, scales)
    }
}

impl WeightSource for HostLayer<'_> {
    fn spec(&self) -> &MoeSpec {
        self.spec()
    }

    fn fill(&self, part: Part, experts: Range<usize>, dtype: FloatType, target: &mut [u8]) -> Result<()> {
        Ok(self.fill(part, experts, dtype, target)?)
    }

    fn fill_codes(
        &self,
        part: Part,
        experts: Range<usize>,
        codes: Codes,
        target: &mut [i8],
        scales: &mut [f32],
    ) -> Result<QuantError> {
        let Codes::Int4 { group } = codes else { return Ok(self.fill_int8(part, experts, target, scales)?) };
        let mut packed = vec![0; target.len().div_ceil(2)];
        let error = self.fill_int4(part, experts, group, &mut packed, scales)?;
        unpack_int4(&packed, target);
        Ok(error)
    }
}

/// Codes `[.., K]` and scales `[.., G]` of values `[.., K]`.
fn quantise(values: &[f32], k: usize, codes: Codes, target: &mut [i8], scales: &mut [f32]) -> Result<QuantError> {
    let (groups, limit) = (codes.groups(k), codes.limit());
    if scales.len() * k != values.len() * groups {
        let due = values.len() / k * groups;
        return Err(Error::shape("scales of a quantised weight", scales.len(), format_args!("{due}")));
    }
    let group = codes.group().unwrap_or(k);
    let rows = values.par_chunks(k).zip(target.par_chunks_mut(k)).zip(scales.par_chunks_mut(groups));
    let row = |((values, codes), scales): ((&[f32], &mut [i8]), &mut [f32])| {
        let groups = values.chunks(group).zip(codes.chunks_mut(group)).zip(scales);
        groups.into_iter().try_fold(QuantError::default(), |error, ((values, codes), scale)| {
            let Some((found, its_error)) = symmetric(values, limit, codes) else {
                return Err(Error::shape("weight to be quantised", "infinity or NaN", "finite numbers"));
            };
            *scale = found;
            Ok(error.and(its_error))
        })
    };
    // Collected first, so that errors are added up in the same order whatever the number of threads.
    let errors: Vec<Result<QuantError>> = rows.map(row).collect();
    errors.into_iter().try_fold(QuantError::default(), |error, row| Ok(error.and(row?)))
}
