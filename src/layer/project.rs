//! Products of activations with the projections of experts, in the format that these are held in.

use ascend_sys::OperatorId;

use super::route::size;
use super::weights::WeightViews;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::{
    self, CubeMath, GroupListKind, GroupedActivation, GroupedMatmul, GroupedSwigluQuant, Groups, InnerPrecision, Quant,
    QuantMatmul, WeightQuantMatmul,
};
use crate::scratch::Sequence;
use crate::spec::Part;
use crate::tensor::{TensorView, TensorViewMut};

/// Rows of activations, as numbers or as int8 with a scale for each row.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// `[rows, K]`, in the layer's type or int8.
    pub(super) values: TensorView<'a>,
    /// f32 `[rows]`, of int8.
    pub(super) scales: Option<TensorView<'a>>,
}

impl<'a> Rows<'a> {
    /// Rows in the layer's type.
    pub(super) fn float(values: TensorView<'a>) -> Self {
        Self { values, scales: None }
    }

    /// Rows as the projections take them: as they are, or quantised where activations are.
    pub(super) fn new(sequence: &'a Sequence<'_>, weights: &WeightViews<'_>, values: TensorView<'a>) -> Result<Self> {
        if !weights.plan().format.quantises_activations() {
            return Ok(Self::float(values));
        }
        let (mut codes, mut scales) = int8(sequence, size(values.dim(0)), size(values.dim(1)))?;
        op::dynamic_quant(sequence, &values, None, &mut codes, &mut scales, None)?;
        Ok(Self::quantised(codes, scales))
    }

    /// What was written into tensors of [`int8`].
    pub(super) fn quantised(codes: TensorViewMut<'a>, scales: TensorViewMut<'a>) -> Self {
        Self { values: codes.into_view(), scales: Some(scales.into_view()) }
    }
}

/// Tensors for int8 rows `[rows, width]` and their scales `[rows]`.
pub(super) fn int8<'s>(
    sequence: &'s Sequence<'_>,
    rows: usize,
    width: usize,
) -> Result<(TensorViewMut<'s>, TensorViewMut<'s>)> {
    Ok((sequence.tensor(DType::I8, &[rows, width])?, sequence.tensor(DType::F32, &[rows])?))
}

/// `out = rows @ projection + bias`, of each expert the rows that are its own.
///
/// * `projection`, `bias`: parts of the routed experts; the bias where the layer has it.
/// * `counts`: i64 `[E]`, rows of each expert.
pub(super) fn grouped(
    sequence: &Sequence<'_>,
    weights: &WeightViews<'_>,
    [projection, bias]: [Part; 2],
    rows: &Rows<'_>,
    counts: &TensorView<'_>,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    let held = weights.projection(projection)?;
    let bias = weights.get(bias);
    let groups = Groups::Rows { list: counts, kind: GroupListKind::Count };
    let (x, out) = (&[rows.values], std::slice::from_mut(out));
    let Some(scale) = held.scale else {
        let inputs = GroupedMatmul { x, weight: &[held.weight.transpose()?], bias: bias.as_slice(), groups };
        return op::grouped_matmul(sequence, &inputs, out).map(drop);
    };
    let scale_of_groups;
    let (quant, bias) = match (&rows.scales, held.weight.dtype()) {
        (Some(per_token), DType::I4) => {
            let groups = if scale.desc().rank() > 2 { size(scale.dim(1)) } else { 1 };
            scale_of_groups = scale.reshape(&[size(scale.dim(0)), groups, size(scale.dim(-1))])?;
            (Quant::Int8By4 { scale: &scale_of_groups, per_token, offset: None }, held.extra)
        }
        (Some(per_token), _) => {
            let activation = GroupedActivation::None;
            (Quant::Int8 { scale: &[scale], per_token: Some(per_token), activation }, bias)
        }
        (None, _) => (Quant::Weights { scale: &[scale], offset: held.extra.as_slice() }, bias),
    };
    let inputs = GroupedMatmul { x, weight: &[held.weight], bias: bias.as_slice(), groups };
    op::grouped_matmul_quant(sequence, &inputs, quant, out).map(drop)
}

/// Gate and up, SwiGLU and the quantisation of what it gives, in one operator; which that was.
///
/// * `rows`: int8 `[rows, L]` with their scales. * `counts`: i64 `[E]`, rows of each expert.
pub(super) fn fused<'s>(
    sequence: &'s Sequence<'_>,
    weights: &WeightViews<'_>,
    rows: &Rows<'_>,
    counts: &TensorView<'_>,
) -> Result<(Rows<'s>, OperatorId)> {
    let held = weights.projection(Part::W13)?;
    let (Some(scale), Some(x_scale)) = (held.scale, &rows.scales) else {
        return Err(Error::shape("fused projection", "operands in floating point", "int8 rows and quantised weights"));
    };
    let (mut codes, mut scales) = int8(sequence, size(rows.values.dim(0)), size(held.weight.dim(-1)) / 2)?;
    let inputs = GroupedSwigluQuant {
        x: &rows.values,
        x_scale,
        weight: &[held.weight],
        weight_scale: &[scale],
        assist: held.extra.as_slice(),
        smooth: None,
        group_list: counts,
        kind: GroupListKind::Count,
    };
    let operator = op::grouped_matmul_swiglu_quant(sequence, &inputs, &mut codes, &mut scales)?;
    Ok((Rows::quantised(codes, scales), operator))
}

/// `out = x @ projection` of a shared expert.
pub(super) fn dense(
    sequence: &Sequence<'_>,
    weights: &WeightViews<'_>,
    projection: Part,
    x: TensorView<'_>,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    let held = weights.projection(projection)?;
    let Some(scale) = &held.scale else {
        return op::mm(sequence, &x, &held.weight.transpose()?, CubeMath::KeepDType, out);
    };
    match Rows::new(sequence, weights, x)? {
        Rows { values, scales: Some(per_token) } => {
            let inputs = QuantMatmul {
                x1: &values,
                x2: &held.weight,
                transpose_x1: false,
                transpose_x2: false,
                scale,
                per_token_scale: Some(&per_token),
                offset: None,
                bias: None,
            };
            op::quant_matmul(sequence, &inputs, out).map(drop)
        }
        Rows { values, scales: None } => {
            let weight = &held.weight;
            let group_size = match size(scale.dim(0)) {
                groups if scale.desc().rank() > 1 && groups > 1 => size(weight.dim(0)).div_ceil(groups),
                _ => 0,
            };
            let (offset, precision) = (held.extra.as_ref(), InnerPrecision::default());
            let inputs =
                WeightQuantMatmul { x: &values, weight, scale, offset, group_size, bias: None, quant: None, precision };
            op::weight_quant_matmul(sequence, &inputs, out).map(drop)
        }
    }
}
