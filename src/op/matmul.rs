//! Dense matrix products.

use ascend_sys::OperatorId;
use ascend_sys::ops::Arg;

use super::launch::{input, launch, output};
use crate::error::Result;
use crate::scratch::Sequence;
use crate::tensor::{TensorView, TensorViewMut};

/// How the cube unit computes (`cubeMathType`; ops-nn 9.1.0, matmul/mat_mul_v3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i8)]
pub enum CubeMath {
    /// In the dtype of the operands: exact fp32 products where they are f32.
    #[default]
    KeepDType = 0,
    /// f32 operands in HF32, others as they are.
    AllowHf32 = 1,
    /// In fp16; not for bf16.
    Fp16 = 2,
    /// f32 operands in HF32.
    Hf32 = 3,
    /// f32 operands with K above 2048 accumulated in groups, which is more exact.
    GroupedF32 = 4,
}

/// `out = left @ right` of two matrices, accumulated in f32 and rounded once (`aclnnMm`). With K = 0 the output is 0.
///
/// * `left`: f32, f16 or bf16, `[M, K]`, any strides.
/// * `right`: dtype of left, `[K, N]`, any strides; row-major.
/// * `out`: f32, f16 or bf16, `[M, N]`, any strides.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn mm(
    sequence: &Sequence<'_>,
    left: &TensorView<'_>,
    right: &TensorView<'_>,
    math: CubeMath,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    product(sequence, &[OperatorId::Mm], left, right, math, out)
}

/// `out = left @ right` with leading dimensions that broadcast (`aclnnMatmul`). A vector on the left is a row, on the right a
/// column, and its dimension of 1 is left out of the output.
///
/// * `left`: f32, f16 or bf16, `[.., M, K]` or `[K]`, any strides.
/// * `right`: dtype of left, `[.., K, N]` or `[K]`, any strides; row-major.
/// * `out`: f32, f16 or bf16, `[.., M, N]`, any strides.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn matmul(
    sequence: &Sequence<'_>,
    left: &TensorView<'_>,
    right: &TensorView<'_>,
    math: CubeMath,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    product(sequence, &[OperatorId::Matmul], left, right, math, out)
}

fn product(
    sequence: &Sequence<'_>,
    operator: &'static [OperatorId],
    left: &TensorView<'_>,
    right: &TensorView<'_>,
    math: CubeMath,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let args = [input(left), input(right), output(out), Arg::Int(i64::from(math as i8))];
    launch(sequence, operator, &args, [left.0, right.0].into_iter(), [out.0].into_iter())?;
    Ok(())
}
