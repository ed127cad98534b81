//! What goes on between the two products of a quantised expert.

use core::ffi::CStr;

use ascend_sys::OperatorId;
use ascend_sys::ops::Arg;

use super::launch::{input, launch, optional, output, pick};
use crate::error::Result;
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// Rows of 2H that come out of the first product. With M rows in G groups:
#[derive(Clone, Copy)]
pub enum GatedRows<'r, 'a> {
    /// Sums of products of whole numbers, which stand for `(x + bias) * weight_scale * activation_scale + bias`.
    Accumulators {
        /// i32, `[M, 2H]`.
        x: &'r TensorView<'a>,
        /// f32, `[G, 2H]`, of one group or without groups also `[2H]`.
        weight_scale: &'r TensorView<'a>,
        /// f32, `[M]`.
        activation_scale: Option<&'r TensorView<'a>>,
        /// i32, added first, or f32, f16 or bf16, added last; shape of `weight_scale`.
        bias: Option<&'r TensorView<'a>>,
    },
    /// bf16, without groups also f16, `[M, 2H]`.
    Floats(&'r TensorView<'a>),
}

/// The gated activation of [`dequant_swiglu_quant`] (`swigluMode`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GatedUnit {
    /// `g * sigmoid(g) * u`, the gate and the other being the halves of the row.
    Halves {
        /// Whether the gate is the first half.
        gate_first: bool,
    },
    /// `g * sigmoid(alpha * g) * (u + bias)` of the even and the odd columns, g being at most the limit and u within it on
    /// both sides; wants groups.
    Interleaved {
        /// Factor within the logistic function.
        alpha: f64,
        /// Finite and above 0.
        limit: f64,
        /// Added to the odd columns.
        bias: f64,
    },
}

/// How an activation is quantised (`quantMode`). Ties go to even.
#[derive(Clone, Copy)]
pub enum Requantise<'r, 'a> {
    /// Each row v, times the factors of its group, `round(v / d)`, d being its greatest magnitude over 127.
    Dynamic {
        /// f32, `[G, H]`, of one group or without groups also `[H]`.
        smooth: Option<&'r TensorView<'a>>,
    },
    /// `round(v / scale + offset)`; wants groups.
    Static {
        /// f32, `[G]` or `[G, H]`.
        scale: &'r TensorView<'a>,
        /// f32, shape of `scale`.
        offset: &'r TensorView<'a>,
    },
}

/// Inputs of [`dequant_swiglu_quant`].
#[derive(Clone, Copy)]
pub struct DequantSwigluQuant<'r, 'a> {
    /// The rows.
    pub rows: GatedRows<'r, 'a>,
    /// i64, `[G]`: rows of each group; or `[G, 2]`: pairs of group and rows, for accumulators without bias in halves. With
    /// groups 2H is a multiple of 64 and at most 7232. The document of CANN wants them on Atlas A3; its source takes rows
    /// that all have the same scales without.
    pub groups: Option<&'r TensorView<'a>>,
    /// The activation.
    pub unit: GatedUnit,
    /// The quantisation.
    pub requantise: Requantise<'r, 'a>,
}

/// Dequantises rows, activates them and quantises the activation to int8 (`aclnnDequantSwigluQuantV2`; where that is
/// missing `aclnnDequantSwigluQuant`, which has halves only). All in f32, all tensors contiguous.
///
/// * `y`: out, i8, `[M, H]`. Rows behind the groups are not written.
/// * `scale`: out, f32, `[M]`: the d of each row; static not written.
///
/// Where y is empty nothing is called. Gives the operator that ran or would have.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn dequant_swiglu_quant(
    sequence: &Sequence<'_>,
    params: &DequantSwigluQuant<'_, '_>,
    y: &mut TensorViewMut<'_>,
    scale: &mut TensorViewMut<'_>,
) -> Result<OperatorId> {
    let (x, [weight_scale, activation_scale, bias]) = match params.rows {
        GatedRows::Floats(x) => (x, [None; 3]),
        GatedRows::Accumulators { x, weight_scale, activation_scale, bias } => {
            (x, [Some(weight_scale), activation_scale, bias])
        }
    };
    let (mode, quant_scale, quant_offset): (&CStr, _, _) = match params.requantise {
        Requantise::Dynamic { smooth } => (c"dynamic", smooth, None),
        Requantise::Static { scale, offset } => (c"static", Some(scale), Some(offset)),
    };
    let (candidates, swiglu_mode, gate_first, [limit, alpha, unit_bias]): (&[OperatorId], _, _, _) = match params.unit {
        // What halves do not use must be legal all the same.
        GatedUnit::Halves { gate_first } => {
            (&[OperatorId::DequantSwigluQuantV2, OperatorId::DequantSwigluQuant], 0, gate_first, [7.0, 1.702, 1.0])
        }
        GatedUnit::Interleaved { alpha, limit, bias } => {
            (&[OperatorId::DequantSwigluQuantV2], 1, true, [limit, alpha, bias])
        }
    };
    let operator = pick(sequence, candidates)?;
    if y.is_empty() {
        return Ok(operator);
    }
    let reads = [Some(x), weight_scale, activation_scale, bias, quant_scale, quant_offset, params.groups];
    let reads = reads.into_iter().flatten().map(|tensor| tensor.0);
    let writes = [y.0, scale.0].into_iter();
    let mut args = [
        input(x),
        optional(weight_scale),
        optional(activation_scale),
        optional(bias),
        optional(quant_scale),
        optional(quant_offset),
        optional(params.groups),
        Arg::Bool(gate_first),
        Arg::Text(Some(mode)),
        Arg::Int(INT8),
        Arg::Text(Some(c"rint")),
        Arg::Int(-1),
        Arg::Int(swiglu_mode),
        Arg::Float(limit),
        Arg::Float(alpha),
        Arg::Float(unit_bias),
        output(y),
        output(scale),
    ];
    if operator == OperatorId::DequantSwigluQuantV2 {
        return launch(sequence, &[OperatorId::DequantSwigluQuantV2], &args, reads, writes);
    }
    // The first version lacks what stands between its mode and its outputs.
    args.copy_within(16.., 9);
    launch(sequence, &[OperatorId::DequantSwigluQuant], &args[..11], reads, writes)
}

/// `dstType` of int8.
const INT8: i64 = 2;
