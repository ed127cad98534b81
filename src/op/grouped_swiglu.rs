//! The first grouped product of quantised experts, with SwiGLU and quantisation behind it.

use ascend_sys::ops::{Arg, TensorDesc};
use ascend_sys::{OperatorId, aclFormat};

use super::grouped::{GroupListKind, check_group_list, given, list, list_type};
use super::launch::{MAX_ARGS, MAX_LIST, input, launch, optional, output, pick};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// Inputs of [`grouped_matmul_swiglu_quant`], for E experts. A list is a slice of views: one for one weight `[E, K, N]`, else one
/// for each weight `[K, N]`, with shapes that lack E. `i32` x and weights stand for eight `i4` each.
#[derive(Clone, Copy)]
pub struct GroupedSwigluQuant<'a> {
    /// i8 or, with `i4` weights, `i4`, `[M, K]`.
    pub x: &'a TensorView<'a>,
    /// f32, `[M]`.
    pub x_scale: &'a TensorView<'a>,
    /// i8 in FRACTAL_NZ, or `i4` in any layout; the first N / 2 columns are the gate. N is even and at most 10240.
    pub weight: &'a [TensorView<'a>],
    /// f32, f16 or bf16 `[E, N]`; of `i4` weights `u64` with f32 in the low half, or i64, also `[E, G, N]`, G dividing K.
    pub weight_scale: &'a [TensorView<'a>],
    /// f32 `[E, N]`, of `i4` weights of i8 x: 8 times the sum of weight * scale over K; else empty.
    pub assist: &'a [TensorView<'a>],
    /// f32, `[E]` or `[E, N / 2]`, factors of the activated numbers, of `i4` x.
    pub smooth: Option<&'a TensorView<'a>>,
    /// i64, at most one entry per expert.
    pub group_list: &'a TensorView<'a>,
    /// Ends or sizes.
    pub kind: GroupListKind,
}

/// For each group of rows of x: the dequantised product with its weight, `silu(gate) * up`, and that quantised row by row:
/// `scale = max |s| / 127`, `q = s * (1 / scale)` rounded to fp16 and then to i8. Rows of no group are not written. Gives the
/// operator that ran: the newest that the libraries have of `aclnnGroupedMatmulSwigluQuantWeightNzV2` (where all weights are
/// FRACTAL_NZ), `...V2` and, for one weight, i8 x and a list of ends, `...WeightNZ` and the first version.
///
/// * `q`: i8, `[M, N / 2]`. * `scale`: f32, `[M]`.
///
/// # Errors
/// [`Error::MissingOperator`] where none is there, [`Error::GroupList`] where the device checks group lists and this one
/// does not fit, [`Error::Shape`] for more than 128 tensors in a list, [`Error::Rule`] and those common to all operators,
/// see [`cast`](super::cast).
pub fn grouped_matmul_swiglu_quant(
    sequence: &Sequence<'_>,
    inputs: &GroupedSwigluQuant<'_>,
    q: &mut TensorViewMut<'_>,
    scale: &mut TensorViewMut<'_>,
) -> Result<OperatorId> {
    use OperatorId as Id;
    const PACKED: &[Id] = &[Id::GroupedMatmulSwigluQuantWeightNzV2, Id::GroupedMatmulSwigluQuantV2];
    const PLAIN: &[Id] = &[Id::GroupedMatmulSwigluQuantV2];
    const PACKED_BY_ENDS: &[Id] = &[
        Id::GroupedMatmulSwigluQuantWeightNzV2,
        Id::GroupedMatmulSwigluQuantV2,
        Id::GroupedMatmulSwigluQuantWeightNZ,
        Id::GroupedMatmulSwigluQuant,
    ];
    const PLAIN_BY_ENDS: &[Id] = &[Id::GroupedMatmulSwigluQuantV2, Id::GroupedMatmulSwigluQuant];
    let &GroupedSwigluQuant { x, x_scale, weight, weight_scale, assist, smooth, group_list, kind } = inputs;
    let packed = weight.iter().all(|weight| weight.desc().format == aclFormat::FRACTAL_NZ);
    let by_ends = weight.len() == 1 && kind == GroupListKind::Cumsum && x.dtype() == DType::I8;
    let operators = match (packed, by_ends) {
        (true, true) => PACKED_BY_ENDS,
        (true, false) => PACKED,
        (false, true) => PLAIN_BY_ENDS,
        (false, false) => PLAIN,
    };
    let operator = pick(sequence, operators)?;
    if q.is_empty() {
        return Ok(operator);
    }
    if let Some(stream) = sequence.stream()
        && sequence.device().checks_group_lists()
    {
        check_group_list(group_list, kind, [group_list.dim(0), x.dim(0)], stream)?;
    }
    list!(weights = weight);
    list!(scales = weight_scale);
    list!(assists = assist);
    // A scale per part of K has a dimension more.
    let rank = if weight.len() == 1 { 2 } else { 1 };
    let dequant_mode = i64::from(weight_scale.iter().any(|scale| scale.desc().rank() > rank));
    let lists = matches!(operator, Id::GroupedMatmulSwigluQuantV2 | Id::GroupedMatmulSwigluQuantWeightNzV2);
    let mut args = [Arg::Int(0); MAX_ARGS];
    let params = operator.info().params;
    for (arg, (name, _)) in args.iter_mut().zip(params) {
        *arg = match *name {
            "x" => input(x),
            "weight" if lists => given(weights),
            "weightScale" if lists => given(scales),
            "weightAssistMatrix" => given(assists),
            "weight" => optional(weight.first()),
            "weightScale" => optional(weight_scale.first()),
            "bias" if !lists => optional(assist.first()),
            "xScale" => input(x_scale),
            "smoothScale" => optional(smooth),
            "groupList" => input(group_list),
            "dequantMode" => Arg::Int(dequant_mode),
            "groupListType" => Arg::Int(list_type(kind)),
            "dequantDtype" | "quantMode" => Arg::Int(0),
            "tuningConfigOptional" => Arg::Ints(None),
            "output" => output(q),
            "outputScale" => output(scale),
            // Offsets, and the bias of the second signature.
            _ => Arg::Tensor(None),
        };
    }
    let reads = [weight, weight_scale, assist].into_iter().flatten().chain([x, x_scale, group_list]).chain(smooth);
    let args = args.get(..params.len()).unwrap_or_default();
    launch(sequence, operators, args, reads.map(|view| view.0), [q.0, scale.0].into_iter())
}
