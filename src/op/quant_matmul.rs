//! Dense products of quantised operands.

use ascend_sys::ops::Arg;
use ascend_sys::{OperatorId, aclFormat};

use super::launch::{MAX_ARGS, input, launch, optional, output, pick};
use crate::error::Result;
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// Inputs of [`quant_matmul`].
#[derive(Clone, Copy)]
pub struct QuantMatmul<'a> {
    /// i8, `[.., M, K]`, at most 6 dimensions; or i4, or i32 `[.., M, K / 8]` that carry eight i4 each, with K even.
    pub x1: &'a TensorView<'a>,
    /// i8, `[.., K, N]`, row-major or FRACTAL_NZ; or i4 `[K, N]` or i32 `[K, N / 8]` like x1, row-major, with N even.
    pub x2: &'a TensorView<'a>,
    /// Whether x1 is given as `[.., K, M]`: i8 only. A transposed view needs no flag.
    pub transpose_x1: bool,
    /// Whether x2 is given as `[.., N, K]`, which then is what is packed.
    pub transpose_x2: bool,
    /// A scale for each column, `[N]`, or one for all, `[1]`: f32 or bf16, or u64 or i64 as
    /// [`trans_quant_param`](super::trans_quant_param) makes them.
    pub scale: &'a TensorView<'a>,
    /// A scale for each row: f32, `[M]`.
    pub per_token_scale: Option<&'a TensorView<'a>>,
    /// Added to an i8 output: f32, `[N]` or `[1]`. Give it to [`trans_quant_param`](super::trans_quant_param) too: by its
    /// source the device takes it from the scale.
    pub offset: Option<&'a TensorView<'a>>,
    /// i32, added to the sums; or f32, bf16 or f16, added to the scaled values: `[N]`, for i8 of three dimensions also
    /// `[B, 1, N]`.
    pub bias: Option<&'a TensorView<'a>>,
}

/// `out = (x1 @ x2 + bias) * scale * per_token_scale + offset`, the sums exact, the rest in f32 and rounded once; a bias of
/// floats is added last. Gives the operator that ran: `aclnnQuantMatmulWeightNz` where x2 is FRACTAL_NZ, else
/// `aclnnQuantMatmulV5`, and `aclnnQuantMatmulV4`, which computes the same, where the libraries lack them.
///
/// * `out`: `[.., M, N]` with the leading dimensions broadcast, any strides, of a dtype that goes with the scales:
///   * bf16 with a scale of f32 or bf16, which i4 operands want with one for each row; a bias of i32, f32 or bf16;
///   * f16 with a scale of f32 and one for each row, and a bias of i32, f32 or f16; or with a u64 or i64 scale alone, and a
///     bias of i32;
///   * i8 of i8 with a u64 or i64 scale alone, and a bias of i32;
///   * i32 of i8: the sums with their bias. A scale of f32 or bf16 is asked for and not used.
///
/// K and the last dimensions of x1 and x2 are at most 65535 but for i8 with a scale of floats and one for each row. A sum beyond
/// 32 bits wraps.
///
/// # Errors
/// [`Error::MissingOperator`](crate::Error::MissingOperator) where none is there, [`Error::Rule`](crate::Error::Rule) and those
/// common to all operators, see [`cast`](super::cast).
pub fn quant_matmul(
    sequence: &Sequence<'_>,
    inputs: &QuantMatmul<'_>,
    out: &mut TensorViewMut<'_>,
) -> Result<OperatorId> {
    use OperatorId as Id;
    const PACKED: &[Id] = &[Id::QuantMatmulWeightNz, Id::QuantMatmulV5, Id::QuantMatmulV4];
    let packed = inputs.x2.desc().format == aclFormat::FRACTAL_NZ;
    let operators = if packed { PACKED } else { &PACKED[1..] };
    let operator = pick(sequence, operators)?;
    if out.is_empty() {
        return Ok(operator);
    }
    let mut args = [Arg::Int(0); MAX_ARGS];
    let params = operator.info().params;
    for (arg, (name, _)) in args.iter_mut().zip(params) {
        *arg = match *name {
            "x1" => input(inputs.x1),
            "x2" => input(inputs.x2),
            "x2Scale" | "scale" => input(inputs.scale),
            "x1Scale" | "pertokenScaleOptional" => optional(inputs.per_token_scale),
            "x2Offset" | "offset" => optional(inputs.offset),
            "bias" => optional(inputs.bias),
            "transposeX1" => Arg::Bool(inputs.transpose_x1),
            "transposeX2" => Arg::Bool(inputs.transpose_x2),
            "groupSize" => Arg::Int(0),
            "out" => output(out),
            // What Atlas A3 has no use for.
            _ => Arg::Tensor(None),
        };
    }
    let options = [inputs.per_token_scale, inputs.offset, inputs.bias].into_iter().flatten();
    let reads = [inputs.x1, inputs.x2, inputs.scale].into_iter().chain(options).map(|view| view.0);
    launch(sequence, operators, args.get(..params.len()).unwrap_or_default(), reads, [out.0].into_iter())
}
