//! Operators that quantise.

use core::ffi::CStr;

use ascend_sys::OperatorId;
use ascend_sys::ops::Arg;

use super::launch::{input, launch, optional, optional_output, output, pick};
use crate::dtype::DType;
use crate::error::Result;
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// Factors on the columns of rows before they are quantised.
#[derive(Clone, Copy)]
pub enum SmoothScales<'s, 'a> {
    /// The same for all rows.
    OfAll(&'s TensorView<'a>),
    /// Those of the group that a row is in.
    OfGroups {
        /// `[G, H]`, G at most 1024.
        scales: &'s TensorView<'a>,
        /// i32, `[G]`: ends of the groups of rows, the last one the number of rows.
        ends: &'s TensorView<'a>,
    },
}

/// Quantises each row of x (`aclnnDynamicQuantV2`, where that is missing `aclnnDynamicQuant`, which has neither groups nor
/// offsets): `y = round(v * 127 / m)` and `scale = m / 127`, v being the row of x times `smooth` and m its greatest
/// magnitude; with `offset` instead `scale = (max - min) / 255`, `offset = 127 - max / scale` and
/// `y = round(v / scale + offset)`. int4 has 7 and 15 for 127 and 255. Ties go to even. `aclnnDynamicQuantV4` is not for
/// this hardware.
///
/// * `x`: f16 or bf16, `[.., H]`, two dimensions or more, any strides.
/// * `smooth`: dtype of x, `[H]` or as [`SmoothScales`] says.
/// * `y`: out, i8 or i4, shape of x, or i32 `[.., H / 8]` of eight int4 each; i4 contiguous, H even.
/// * `scale`: out, f32, `[..]`. * `offset`: out, f32, `[..]`.
///
/// Where y or scale is empty nothing is called. Gives the operator that ran or would have.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn dynamic_quant(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    smooth: Option<SmoothScales<'_, '_>>,
    y: &mut TensorViewMut<'_>,
    scale: &mut TensorViewMut<'_>,
    offset: Option<&mut TensorViewMut<'_>>,
) -> Result<OperatorId> {
    let (smooth, groups) = match smooth {
        None => (None, None),
        Some(SmoothScales::OfAll(scales)) => (Some(scales), None),
        Some(SmoothScales::OfGroups { scales, ends }) => (Some(scales), Some(ends)),
    };
    let offset = offset.as_deref();
    let candidates: &[OperatorId] = match (groups, offset) {
        (None, None) => &[OperatorId::DynamicQuantV2, OperatorId::DynamicQuant],
        _ => &[OperatorId::DynamicQuantV2],
    };
    let operator = pick(sequence, candidates)?;
    if y.is_empty() || scale.is_empty() {
        return Ok(operator);
    }
    let dst_type = Arg::Int(y.desc().dtype.0.into());
    let reads = [Some(x), smooth, groups].into_iter().flatten().map(|tensor| tensor.0);
    let writes = [Some(&*y), Some(&*scale), offset].into_iter().flatten().map(|tensor| tensor.0);
    if operator == OperatorId::DynamicQuant {
        let args = [input(x), optional(smooth), output(y), output(scale)];
        return launch(sequence, &[OperatorId::DynamicQuant], &args, reads, writes);
    }
    let args =
        [input(x), optional(smooth), optional(groups), dst_type, output(y), output(scale), optional_output(offset)];
    launch(sequence, &[OperatorId::DynamicQuantV2], &args, reads, writes)
}

/// How [`swiglu_quant`] quantises an activation (`quantMode`). Ties go to even.
#[derive(Clone, Copy)]
pub enum ActivationScales<'r, 'a> {
    /// Each row v, times the factors of its group, `round(v * s)`, s being 127 over its greatest magnitude, for i4 7.
    Dynamic {
        /// f32, `[G, N]`, without groups also `[N]`.
        smooth: Option<&'r TensorView<'a>>,
    },
    /// `round(v * scale + offset)`.
    Static {
        /// f32, `[G]` or `[G, N]`, G being 1 without groups.
        scale: &'r TensorView<'a>,
        /// f32, shape of `scale`.
        offset: &'r TensorView<'a>,
    },
}

/// Groups of rows, i32, `[G]`, G at most 1024. Rows behind them have no factors.
#[derive(Clone, Copy)]
pub enum ActivationGroups<'r, 'a> {
    /// Ends of the groups.
    Ends(&'r TensorView<'a>),
    /// Rows of each.
    Counts(&'r TensorView<'a>),
}

/// Parameters of [`swiglu_quant`].
#[derive(Clone, Copy)]
pub struct SwigluQuant<'r, 'a> {
    /// f32, f16 or bf16, `[.., 2N]`, two dimensions or more, 2N at most 8192, any strides.
    pub x: &'r TensorView<'a>,
    /// Whether the gate is the first half of a row.
    pub gate_first: bool,
    /// How the activation is quantised.
    pub scales: ActivationScales<'r, 'a>,
    /// Which factors go with which rows; without effect where there are none.
    pub groups: Option<ActivationGroups<'r, 'a>>,
}

/// Activates rows by SwiGLU, `g * sigmoid(g) * u`, and quantises them (`aclnnSwiGluQuantV2`, where that is missing
/// `aclnnSwiGluQuant`, which has neither counts nor i4).
///
/// * `y`: out, i8 or i4, `[.., N]`; i4 contiguous, N even.
/// * `scale`: out, f32, `[..]`: **what rows were multiplied by, not what they are to be multiplied by**, the reciprocal of
///   what [`dynamic_quant`] gives. Not written where scales are given.
///
/// Where y is empty nothing is called. Gives the operator that ran or would have.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn swiglu_quant(
    sequence: &Sequence<'_>,
    params: &SwigluQuant<'_, '_>,
    y: &mut TensorViewMut<'_>,
    scale: &mut TensorViewMut<'_>,
) -> Result<OperatorId> {
    let (mode, smooth, offset): (&CStr, _, _) = match params.scales {
        ActivationScales::Dynamic { smooth } => (c"dynamic", smooth, None),
        ActivationScales::Static { scale, offset } => (c"static", Some(scale), Some(offset)),
    };
    let (groups, list_type) = match params.groups {
        None => (None, 0),
        Some(ActivationGroups::Ends(ends)) => (Some(ends), 0),
        Some(ActivationGroups::Counts(counts)) => (Some(counts), 1),
    };
    let first_fits = list_type == 0 && y.dtype() == DType::I8;
    let candidates: &[OperatorId] = match first_fits {
        true => &[OperatorId::SwiGluQuantV2, OperatorId::SwiGluQuant],
        false => &[OperatorId::SwiGluQuantV2],
    };
    let operator = pick(sequence, candidates)?;
    if y.is_empty() {
        return Ok(operator);
    }
    let reads = [Some(params.x), smooth, offset, groups].into_iter().flatten().map(|tensor| tensor.0);
    let writes = [y.0, scale.0].into_iter();
    let mut args = [
        input(params.x),
        optional(smooth),
        optional(offset),
        optional(groups),
        Arg::Bool(params.gate_first),
        Arg::Text(Some(mode)),
        Arg::Int(list_type),
        Arg::Int(y.desc().dtype.0.into()),
        output(y),
        output(scale),
    ];
    if operator == OperatorId::SwiGluQuantV2 {
        return launch(sequence, &[OperatorId::SwiGluQuantV2], &args, reads, writes);
    }
    // The first version lacks what stands between its mode and its outputs.
    args.copy_within(8.., 6);
    launch(sequence, &[OperatorId::SwiGluQuant], &args[..8], reads, writes)
}

/// How [`ascend_quant`] makes numbers whole (`roundMode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundMode {
    /// To nearest, ties to even.
    Nearest,
    /// To the next one below.
    Floor,
    /// To the next one above.
    Ceil,
    /// Toward zero.
    Truncate,
}

/// Which dimension of x the scales of [`ascend_quant`] are for (`axis`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaledDim {
    /// The last one.
    Last,
    /// The one before it.
    BeforeLast,
}

/// Parameters of [`ascend_quant`].
#[derive(Clone, Copy)]
pub struct AscendQuant<'r, 'a> {
    /// f32, f16 or bf16, `[.., M, H]`, one dimension or more, any strides.
    pub x: &'r TensorView<'a>,
    /// Dtype of x, for f32 any of the three: `[1]` or `[n]`, n being the size of the dimension that `dim` names.
    pub scale: &'r TensorView<'a>,
    /// Dtype and shape of `scale`.
    pub offset: Option<&'r TensorView<'a>>,
    /// Multiplies by the scale twice.
    pub squared: bool,
    /// How numbers become whole.
    pub rounding: RoundMode,
    /// What the scales are for.
    pub dim: ScaledDim,
}

/// Quantises x by scales that are given (`aclnnAscendQuantV3`, where that is missing and scales are for the last dimension
/// `aclnnAscendQuant`): `y = round(x * scale + offset)`.
///
/// * `y`: out, i8 or i4, shape of x, or i32 `[.., H / 8]` of eight int4 each; i4 contiguous, H even.
///
/// Where y is empty nothing is called. Gives the operator that ran or would have.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn ascend_quant(
    sequence: &Sequence<'_>,
    params: &AscendQuant<'_, '_>,
    y: &mut TensorViewMut<'_>,
) -> Result<OperatorId> {
    let (candidates, axis): (&[OperatorId], _) = match params.dim {
        ScaledDim::Last => (&[OperatorId::AscendQuantV3, OperatorId::AscendQuant], -1),
        ScaledDim::BeforeLast => (&[OperatorId::AscendQuantV3], -2),
    };
    let operator = pick(sequence, candidates)?;
    if y.is_empty() {
        return Ok(operator);
    }
    let rounding = match params.rounding {
        RoundMode::Nearest => c"round",
        RoundMode::Floor => c"floor",
        RoundMode::Ceil => c"ceil",
        RoundMode::Truncate => c"trunc",
    };
    let reads = [Some(params.x), Some(params.scale), params.offset].into_iter().flatten().map(|tensor| tensor.0);
    let writes = [y.0].into_iter();
    let mut args = [
        input(params.x),
        input(params.scale),
        optional(params.offset),
        Arg::Bool(params.squared),
        Arg::Text(Some(rounding)),
        Arg::Int(y.desc().dtype.0.into()),
        Arg::Int(axis),
        output(y),
    ];
    if operator == OperatorId::AscendQuantV3 {
        return launch(sequence, &[OperatorId::AscendQuantV3], &args, reads, writes);
    }
    args.copy_within(7.., 6);
    launch(sequence, &[OperatorId::AscendQuant], &args[..7], reads, writes)
}
