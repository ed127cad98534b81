//! The weights of one mixture-of-experts layer, copied out in the layout a device takes: as floats, or as codes and scales.

use std::collections::BTreeMap;
use std::ops::Range;

use moe_kernels::formats::requantise::QuantError;
use rayon::prelude::*;

use super::convert::{add_one, to_i64};
use super::finder::Finder;
use super::matrix::{Matrix, all_errors, first_error};
use super::{Checkpoint, CheckpointError, Stored, TensorRef};
use crate::spec::{FloatType, MoeSpec, Part};

/// An expert: its projections, and their biases as matrices of one column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mlp<'a> {
    /// `[I, L]`.
    pub(super) gate: Option<Matrix<'a>>,
    /// `[I, L]`.
    pub(super) up: Matrix<'a>,
    /// `[L, I]`.
    pub(super) down: Matrix<'a>,
    pub(super) gate_bias: Option<Matrix<'a>>,
    pub(super) up_bias: Option<Matrix<'a>>,
    pub(super) down_bias: Option<Matrix<'a>>,
}

/// All weights of one layer, still in the mapped files. Each is there, has its shape, and is F32, F16 or BF16, or quantised in a
/// way that [`Stored`] names, all routed experts alike.
///
/// [`fill`](Self::fill) writes values into buffers of the caller's, in the type asked for: host memory, row-major, little-endian, no
/// alignment needed, rounded to the nearest even. Experts are written range by range, so that a caller with a small staging
/// buffer never holds more than that and the destination; [`MoeSpec::fill_bytes`] has the sizes.
#[derive(Debug, Clone)]
pub struct HostLayer<'a> {
    pub(super) index: usize,
    pub(super) spec: &'a MoeSpec,
    /// Parts that are one matrix or vector.
    pub(super) parts: BTreeMap<Part, Matrix<'a>>,
    /// Experts by token id, and the tensor's name.
    pub(super) table: Option<(String, TensorRef<'a>)>,
    pub(super) experts: Vec<Mlp<'a>>,
    pub(super) shared: Option<Mlp<'a>>,
    pub(super) int8_activations: bool,
}

impl Checkpoint {
    /// The weights of layer `layer`. Reads no weight: finds every tensor and checks name, shape and type.
    ///
    /// # Errors
    /// [`CheckpointError`] names the tensor and the rule; [`CheckpointError::NotAMoeLayer`] if the layer is dense,
    /// [`CheckpointError::Quantised`] if its weights are in a way that the configuration does not say,
    /// [`CheckpointError::MixedFormats`] if its experts are not stored alike, [`CheckpointError::UnexpectedTensor`] if the layer
    /// holds one that this model does not use, such as a bias, so that leaving it out would change the result.
    pub fn layer_weights(&self, layer: usize) -> Result<HostLayer<'_>, CheckpointError> {
        let Some(spec) = self.model().moe(layer) else {
            return Err(CheckpointError::NotAMoeLayer { layer, moe_layers: self.moe_layers().to_vec() });
        };
        let mut layer = Finder::new(self, layer, spec).layer(layer)?;
        let said = |matrix: &Matrix<'_>| {
            self.quantisation().int8_activations(matrix.stored.name, matrix.stored_as(), matrix.cols)
        };
        layer.int8_activations = layer.experts.first().is_some_and(|mlp| said(&mlp.up) && said(&mlp.down));
        Ok(layer)
    }
}

impl HostLayer<'_> {
    /// The layer's number in the model.
    pub const fn index(&self) -> usize {
        self.index
    }

    /// What the layer computes.
    pub const fn spec(&self) -> &MoeSpec {
        self.spec
    }

    /// Fills `dst` with a part of the weights in `dtype`, in the layout that [`Part`] says; `experts` is the range wanted of a
    /// part that comes [expert by expert](Part::per_expert), and of no account for others. Integers are always `i32`.
    ///
    /// # Errors
    /// [`CheckpointError::ExpertRange`], or [`CheckpointError::Destination`] if `dst` has another size than
    /// [`MoeSpec::fill_bytes`] says; a part the layer does not have takes an empty one. [`CheckpointError::ExpertId`] if a
    /// table names an expert that is not there. Of quantised weights [`CheckpointError::BadScale`] and
    /// [`CheckpointError::NotANumber`].
    pub fn fill(
        &self,
        part: Part,
        experts: Range<usize>,
        dtype: FloatType,
        dst: &mut [u8],
    ) -> Result<(), CheckpointError> {
        let each = self.spec.fill_bytes(part, dtype);
        if part.per_expert() {
            let experts = self.range(part.name(), experts, each, dst)?;
            return first_error(
                dst.par_chunks_mut(each.max(1)).zip(experts).map(|(dst, mlp)| mlp.fill(part, dtype, dst)),
            );
        }
        check_size(part.name(), dst, each)?;
        match (part, &self.table, self.shared) {
            (Part::ExpertTable, Some((name, table)), _) => self.fill_table(name, *table, dst)?,
            (Part::SharedW13 | Part::SharedW2, _, Some(shared)) => shared.fill(part, dtype, dst)?,
            _ => {
                if let Some(matrix) = self.parts.get(&part) {
                    matrix.copy_to(dst, dtype)?;
                }
                // Stored less 1, see [`names::EXPERT_NORMS`].
                if let Part::LatentNorm | Part::RowNorm = part {
                    add_one(dst, dtype);
                }
            }
        }
        Ok(())
    }

    /// How a part is stored: the way of the first expert, which is that of all; `None` where the layer does not have it or it holds
    /// integers.
    pub fn stored(&self, part: Part) -> Option<Stored> {
        let of = |mlp: &Mlp<'_>| mlp.matrices(part).into_iter().flatten().next().map(|matrix| matrix.stored_as());
        match part {
            _ if part.per_expert() => self.experts.first().and_then(of),
            Part::SharedW13 | Part::SharedW2 => self.shared.as_ref().and_then(of),
            _ => self.parts.get(&part).map(Matrix::stored_as),
        }
    }

    /// The matrices of all experts' projections, and whether the expert is a routed one.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = (bool, Matrix<'_>)> {
        let all = self.experts.iter().map(|mlp| (true, mlp)).chain(self.shared.iter().map(|mlp| (false, mlp)));
        all.flat_map(|(routed, mlp)| {
            let each = [mlp.gate, Some(mlp.up), Some(mlp.down)];
            each.into_iter().flatten().map(move |matrix| (routed, matrix))
        })
    }

    /// Whether the routed experts were quantised for activations that are int8 with a scale per token.
    pub const fn int8_activations(&self) -> bool {
        self.int8_activations
    }

    /// Fills int8 codes and scales of a part: of [`Part::W13`] and [`Part::W2`] those of a range of experts, and of
    /// [`Part::SharedW13`] and [`Part::SharedW2`], for which `experts` is of no account. A value is its code times the scale of its
    /// row, to the error that is given back.
    ///
    /// Whole numbers that are stored with one symmetric scale for a row are passed through bit for bit. Rows of MXFP4 become int8
    /// without loss where their exponents are near enough, always where they span no more than 3. Everything else is the nearest
    /// int8 of the value at a scale of the row's largest magnitude over 127.
    ///
    /// - `codes` host int8 `[E, N, K]`, `scales` host f32 `[E, N]`, row-major; `E` is 1 for the shared expert. `N` and `K` are the
    ///   last axes of the part.
    ///
    /// # Errors
    /// [`CheckpointError::NoCodes`] for other parts, [`CheckpointError::ExpertRange`], [`CheckpointError::Destination`];
    /// [`CheckpointError::BadScale`], [`CheckpointError::NotANumber`] and [`CheckpointError::NotFinite`] for values that have no
    /// code.
    pub fn fill_int8(
        &self,
        part: Part,
        experts: Range<usize>,
        codes: &mut [i8],
        scales: &mut [f32],
    ) -> Result<QuantError, CheckpointError> {
        let Projection { mlps, rows, cols } = self.projection(part, experts)?;
        check_size(part.name(), bytemuck::cast_slice(codes), mlps.len() * rows * cols)?;
        check_size("scales", bytemuck::cast_slice(scales), mlps.len() * rows * size_of::<f32>())?;
        let each = codes.par_chunks_mut((rows * cols).max(1)).zip(scales.par_chunks_mut(rows.max(1))).zip(mlps);
        let errors = each.map(|((mut codes, mut scales), mlp)| {
            let mut error = QuantError::default();
            for matrix in mlp.matrices(part).into_iter().flatten() {
                let (its_codes, rest_codes) = codes.split_at_mut(matrix.rows * cols);
                let (its_scales, rest_scales) = scales.split_at_mut(matrix.rows);
                error = error.and(matrix.fill_int8(its_codes, its_scales)?);
                (codes, scales) = (rest_codes, rest_scales);
            }
            Ok(error)
        });
        all_errors(errors.collect())
    }

    /// The same as int4, with scales for each row or, where `group` is given, for each `group` of its columns.
    ///
    /// int4 that is stored with the same groups, or with larger ones that they divide, is passed through. Everything else is the
    /// nearest int4 at a scale of the group's largest magnitude over 7.
    ///
    /// - `codes` host bytes `[E, N, K / 2]`, two codes to a byte along K, the even one in the low half, two's complement; `scales`
    ///   host f32 `[E, N]`, or `[E, N, K / group]`.
    ///
    /// # Errors
    /// As [`fill_int8`](Self::fill_int8), and [`CheckpointError::Groups`] where K is odd or no multiple of `group`.
    pub fn fill_int4(
        &self,
        part: Part,
        experts: Range<usize>,
        group: Option<usize>,
        codes: &mut [u8],
        scales: &mut [f32],
    ) -> Result<QuantError, CheckpointError> {
        let Projection { mlps, rows, cols } = self.projection(part, experts)?;
        let group = group.unwrap_or(cols);
        if group == 0 || !cols.is_multiple_of(group) || !cols.is_multiple_of(2) {
            return Err(CheckpointError::Groups { part: part.name(), inputs: cols, group });
        }
        let (bytes, groups) = (rows * cols / 2, rows * (cols / group));
        check_size(part.name(), codes, mlps.len() * bytes)?;
        check_size("scales", bytemuck::cast_slice(scales), mlps.len() * groups * size_of::<f32>())?;
        let each = codes.par_chunks_mut(bytes.max(1)).zip(scales.par_chunks_mut(groups.max(1))).zip(mlps);
        let errors = each.map(|((mut codes, mut scales), mlp)| {
            let mut error = QuantError::default();
            for matrix in mlp.matrices(part).into_iter().flatten() {
                let (its_codes, rest_codes) = codes.split_at_mut(matrix.rows * cols / 2);
                let (its_scales, rest_scales) = scales.split_at_mut(matrix.rows * (cols / group));
                error = error.and(matrix.fill_int4(group, its_codes, its_scales)?);
                (codes, scales) = (rest_codes, rest_scales);
            }
            Ok(error)
        });
        all_errors(errors.collect())
    }

    /// The experts of a part that has codes.
    fn projection(&self, part: Part, experts: Range<usize>) -> Result<Projection<'_>, CheckpointError> {
        let no_codes = || CheckpointError::NoCodes { part: part.name() };
        let mlps = match part {
            Part::W13 | Part::W2 => self.experts_in(experts)?,
            Part::SharedW13 | Part::SharedW2 => self.shared.as_slice(),
            _ => return Err(no_codes()),
        };
        match self.spec.shape(part).as_deref() {
            Some(&[.., rows, cols]) => Ok(Projection { mlps, rows, cols }),
            _ => Ok(Projection { mlps, rows: 0, cols: 0 }),
        }
    }

    fn fill_table(&self, name: &str, table: TensorRef<'_>, dst: &mut [u8]) -> Result<(), CheckpointError> {
        let (experts, top_k) = (self.spec.experts().routed(), self.spec.router().top_k.max(1));
        let ids = to_i64(table).unwrap_or_default();
        for (index, (dst, id)) in dst.as_chunks_mut::<4>().0.iter_mut().zip(ids).enumerate() {
            let known = usize::try_from(id).is_ok_and(|id| id < experts);
            let narrow = i32::try_from(id).ok().filter(|_| known).ok_or_else(|| CheckpointError::ExpertId {
                tensor: name.to_owned(),
                row: index / top_k,
                id,
                experts,
            })?;
            *dst = narrow.to_le_bytes();
        }
        Ok(())
    }

    /// The experts of a range, if it is one and `dst` holds `each` bytes for each of them.
    fn range(
        &self,
        what: &'static str,
        range: Range<usize>,
        each: usize,
        dst: &[u8],
    ) -> Result<&[Mlp<'_>], CheckpointError> {
        let experts = self.experts_in(range)?;
        check_size(what, dst, experts.len() * each)?;
        Ok(experts)
    }

    fn experts_in(&self, Range { start, end }: Range<usize>) -> Result<&[Mlp<'_>], CheckpointError> {
        self.experts.get(start..end).ok_or(CheckpointError::ExpertRange { start, end, experts: self.experts.len() })
    }
}

/// Matrices `[rows, cols]` of some experts.
struct Projection<'a> {
    mlps: &'a [Mlp<'a>],
    rows: usize,
    cols: usize,
}

impl<'a> Mlp<'a> {
    /// The matrices of a part, whose rows follow one another.
    pub(super) fn matrices(&self, part: Part) -> [Option<Matrix<'a>>; 2] {
        match part {
            Part::W13 | Part::SharedW13 => [self.gate, Some(self.up)],
            Part::W13Bias => [self.gate_bias, self.up_bias],
            Part::W2 | Part::SharedW2 => [None, Some(self.down)],
            _ => [None, self.down_bias],
        }
    }

    fn fill(&self, part: Part, dtype: FloatType, mut dst: &mut [u8]) -> Result<(), CheckpointError> {
        for matrix in self.matrices(part).into_iter().flatten() {
            let (its, rest) = dst.split_at_mut(matrix.rows * matrix.cols * dtype.bytes());
            matrix.copy_to(its, dtype)?;
            dst = rest;
        }
        Ok(())
    }
}

fn check_size(what: &'static str, dst: &[u8], needed: usize) -> Result<(), CheckpointError> {
    if dst.len() == needed { Ok(()) } else { Err(CheckpointError::Destination { what, bytes: dst.len(), needed }) }
}
