//! Grouped products of quantised activations and weights.

use ascend_sys::OperatorId;

use super::grouped::{GroupedMatmul, multiply};
use crate::error::Result;
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// How a grouped product of integers becomes one of numbers; `i32` x and weights stand for eight `i4` each. A list is a slice
/// of views: one for one weight `[E, K, N]`, else one for each weight `[K, N]`, with shapes that lack E. The `u64` of scales
/// have f32 in their low half; i64 are the same.
#[derive(Clone, Copy)]
pub enum Quant<'a> {
    /// i8 x and weight, i8 to f32: `(float(x @ weight + bias) * scale) * per_token`, or a bf16 bias behind that, then the
    /// activation and one rounding.
    Int8 {
        /// `[E, N]`: bf16 for a bf16 output, f32 for f16, `u64` for i8.
        scale: &'a [TensorView<'a>],
        /// f32, `[M]`: of one x and one output; not for i8.
        per_token: Option<&'a TensorView<'a>>,
        /// Not for an i8 output.
        activation: GroupedActivation,
    },
    /// i8 x and weight to i32: `x @ weight + bias`.
    Sums,
    /// i8 x, `i4` weights of one tensor `[E, K, N]`, bias f32 `[E, N]`: 8 times the sum of weight * scale over K. The list of
    /// groups is one of sizes. `((16 * high + low) + bias) * per_token` of the products of both halves of x, which are f16.
    Int8By4 {
        /// `u64`, `[E, G, N]`: G = 1, or K / 256 for K of at most 18432.
        scale: &'a TensorView<'a>,
        /// f32, `[M]`; with an offset `[M, 1]`.
        per_token: &'a TensorView<'a>,
        /// f32, `[E, 1, N]`: that of the weights times their scale; for an f16 output and G = 1.
        offset: Option<&'a TensorView<'a>>,
    },
    /// `i4` x and weights of one tensor `[E, K, N]`, no bias: `(float(x @ weight) * scale) * per_token`, f16 in between.
    Int4 {
        /// `u64`, `[E, N]`, or `[E, G, N]` with K / G even.
        scale: &'a TensorView<'a>,
        /// f32, `[M]`.
        per_token: Option<&'a TensorView<'a>>,
    },
    /// bf16 or f16 x, row-major i8 or `i4` weights: `x @ ((weight + offset) * scale) + bias`.
    Weights {
        /// Dtype of x, `[E, N]`; for `i4` also `[E, G, N]`, G dividing K.
        scale: &'a [TensorView<'a>],
        /// As the scale; empty for none, with `i4` weights of one tensor.
        offset: &'a [TensorView<'a>],
    },
}

/// What a grouped product does to its numbers before it rounds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupedActivation {
    /// Nothing.
    #[default]
    None,
    /// `max(x, 0)`.
    Relu,
    /// GELU in its tanh form.
    GeluTanh,
    /// `x * sigmoid(1.702 * x)`.
    FastGelu,
    /// `x * sigmoid(x)`.
    Silu,
}

/// What a call has beside its operands.
#[derive(Clone, Copy, Default)]
pub(super) struct QuantArgs<'a> {
    pub(super) scale: &'a [TensorView<'a>],
    pub(super) offset: &'a [TensorView<'a>],
    pub(super) antiquant_scale: &'a [TensorView<'a>],
    pub(super) antiquant_offset: &'a [TensorView<'a>],
    pub(super) per_token: &'a [TensorView<'a>],
    pub(super) act_type: i64,
    /// Whether there are integers at all.
    pub(super) integers: bool,
}

fn one<'a>(tensor: Option<&'a TensorView<'a>>) -> &'a [TensorView<'a>] {
    tensor.map_or(&[], std::slice::from_ref)
}

impl<'a> Quant<'a> {
    fn args(self) -> QuantArgs<'a> {
        let none = QuantArgs { integers: true, ..QuantArgs::default() };
        match self {
            Self::Int8 { scale, per_token, activation } => {
                let act_type = match activation {
                    GroupedActivation::None => 0,
                    GroupedActivation::Relu => 1,
                    GroupedActivation::GeluTanh => 2,
                    GroupedActivation::FastGelu => 4,
                    GroupedActivation::Silu => 5,
                };
                QuantArgs { scale, per_token: one(per_token), act_type, ..none }
            }
            Self::Sums => none,
            Self::Int8By4 { scale, per_token, offset } => {
                QuantArgs { scale: one(Some(scale)), per_token: one(Some(per_token)), offset: one(offset), ..none }
            }
            Self::Int4 { scale, per_token } => QuantArgs { scale: one(Some(scale)), per_token: one(per_token), ..none },
            Self::Weights { scale, offset } => QuantArgs { antiquant_scale: scale, antiquant_offset: offset, ..none },
        }
    }
}

/// As [`grouped_matmul`](super::grouped_matmul), of quantised operands: [`Quant`] says which, and what is done to the integers.
/// Rows that belong to no group are not written. Gives the operator that ran: `aclnnGroupedMatmulWeightNz` where all weights
/// are FRACTAL_NZ, else `aclnnGroupedMatmulV5`; where the libraries lack it the newest of the others, down to `V4`.
///
/// * `inputs.x`: i8, `i4`, `i32` for eight `i4`, bf16 or f16. * `inputs.weight`: i8, `i4` or `i32`, row-major or FRACTAL_NZ,
///   as it is or as a transposed view; `i4` transposed only where [`Quant`] says so. * `inputs.bias`: i32 or bf16 `[E, N]`
///   for i8 operands, else as [`Quant`] says. * `inputs.groups`: none along K.
/// * `out`: bf16, f16, i8 or i32, as the scales are.
///
/// # Errors
/// As [`grouped_matmul`](super::grouped_matmul).
pub fn grouped_matmul_quant(
    sequence: &Sequence<'_>,
    inputs: &GroupedMatmul<'_>,
    quant: Quant<'_>,
    out: &mut [TensorViewMut<'_>],
) -> Result<OperatorId> {
    multiply(sequence, inputs, &quant.args(), out)
}
