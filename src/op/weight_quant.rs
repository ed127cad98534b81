//! Dense products of floats with quantised weights.

use ascend_sys::ops::Arg;
use ascend_sys::{OperatorId, aclFormat};

use super::launch::{MAX_ARGS, input, launch, optional, output, pick};
use super::routing::int;
use crate::error::Result;
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// What [`weight_quant_matmul`] may give up for speed (`innerPrecise`); an operator without the choice is precise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InnerPrecision {
    /// Nothing.
    #[default]
    Precise,
    /// Digits.
    Fast,
}

/// How [`weight_quant_matmul`] quantises its output: `y * scale + offset`.
#[derive(Clone, Copy)]
pub struct OutputQuant<'a> {
    /// u64 as [`trans_quant_param`](super::trans_quant_param) makes them, `[1]`, `[N]` or `[1, N]`, contiguous.
    pub scale: &'a TensorView<'a>,
    /// f32, shape of scale, contiguous. Where it is not given the one encoded in the scale counts.
    pub offset: Option<&'a TensorView<'a>>,
}

/// Inputs of [`weight_quant_matmul`].
#[derive(Clone, Copy)]
pub struct WeightQuantMatmul<'a> {
    /// f16 or bf16, `[M, K]`, contiguous or a transposed view; K at most 65535.
    pub x: &'a TensorView<'a>,
    /// i8, `[K, N]`; i4; or i32 that carry eight i4 each along the dimension that lies together in memory. Contiguous or a
    /// transposed view, row-major or FRACTAL_NZ; N at most 65535, and even for i4, K where it is transposed. In FRACTAL_NZ i8 has
    /// no groups; i4 is transposed with scales for each column, or not transposed in groups of 64 or 128 that divide K, with N a
    /// multiple of 64.
    pub weight: &'a TensorView<'a>,
    /// Dtype of x: `[1]`, `[1, 1]`, `[N]` or `[1, N]`; with groups `[ceil(K / group), N]`.
    pub scale: &'a TensorView<'a>,
    /// Dtype of x, shape of scale: added to the weight before.
    pub offset: Option<&'a TensorView<'a>>,
    /// Rows of the weight that share scales: a multiple of 32, less than K; 0 for all.
    pub group_size: usize,
    /// f16 for f16, f32 for bf16, `[N]` or `[1, N]`, contiguous.
    pub bias: Option<&'a TensorView<'a>>,
    /// For an i8 output; not with FRACTAL_NZ.
    pub quant: Option<OutputQuant<'a>>,
    /// What may be given up.
    pub precision: InnerPrecision,
}

/// `y = x @ ((weight + offset) * scale) + bias`, the weight taken to the dtype of x, the sum in f32 and rounded once. Gives the
/// operator that ran: `aclnnWeightQuantBatchMatmulV3`, where the libraries lack it `V2`; where they lack both and the weight is
/// FRACTAL_NZ `aclnnWeightQuantBatchMatmulNz`, which CANN documents for Ascend 950 only.
///
/// * `y`: dtype of x, or i8 where it is quantised, `[M, N]`, contiguous.
///
/// # Errors
/// [`Error::MissingOperator`](crate::Error::MissingOperator) where none is there, [`Error::Rule`](crate::Error::Rule) and those
/// common to all operators, see [`cast`](super::cast).
pub fn weight_quant_matmul(
    sequence: &Sequence<'_>,
    inputs: &WeightQuantMatmul<'_>,
    y: &mut TensorViewMut<'_>,
) -> Result<OperatorId> {
    use OperatorId as Id;
    const PACKED: &[Id] = &[Id::WeightQuantBatchMatmulV3, Id::WeightQuantBatchMatmulV2, Id::WeightQuantBatchMatmulNz];
    let packed = inputs.weight.desc().format == aclFormat::FRACTAL_NZ;
    let operators = if packed { PACKED } else { &PACKED[..2] };
    let operator = pick(sequence, operators)?;
    if y.is_empty() {
        return Ok(operator);
    }
    let quant = inputs.quant;
    let (quant_scale, quant_offset) = (quant.map(|quant| quant.scale), quant.and_then(|quant| quant.offset));
    let mut args = [Arg::Int(0); MAX_ARGS];
    let params = operator.info().params;
    for (arg, (name, _)) in args.iter_mut().zip(params) {
        *arg = match *name {
            "x" => input(inputs.x),
            "weight" => input(inputs.weight),
            "antiquantScale" => input(inputs.scale),
            "antiquantOffsetOptional" => optional(inputs.offset),
            "quantScaleOptional" => optional(quant_scale),
            "quantOffsetOptional" => optional(quant_offset),
            "biasOptional" => optional(inputs.bias),
            "antiquantGroupSize" => Arg::Int(int(inputs.group_size)),
            "innerPrecise" => Arg::Int(i64::from(inputs.precision == InnerPrecision::Fast)),
            _ => output(y),
        };
    }
    let options = [inputs.offset, quant_scale, quant_offset, inputs.bias].into_iter().flatten();
    let reads = [inputs.x, inputs.weight, inputs.scale].into_iter().chain(options).map(|view| view.0);
    launch(sequence, operators, args.get(..params.len()).unwrap_or_default(), reads, [y.0].into_iter())
}
