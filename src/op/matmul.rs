//! Dense matrix products.

use ascend_sys::ops::{Arg, ScalarValue};
use ascend_sys::{FunctionId, OperatorId};

use super::launch::{IntArray, input, launch, output};
use crate::dtype::DType;
use crate::error::{Error, Result};
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

/// `out[b] = left[b] @ right[b]` (`aclnnBatchMatMul`).
///
/// * `left`: f32, f16 or bf16, `[B, M, K]`, any strides. * `right`: dtype of left, `[B, K, N]`. * `out`: a float,
///   `[B, M, N]`.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn batch_matmul(
    sequence: &Sequence<'_>,
    left: &TensorView<'_>,
    right: &TensorView<'_>,
    math: CubeMath,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    product(sequence, &[OperatorId::BatchMatMul], left, right, math, out)
}

/// Factors of [`addmm`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AddmmFactors {
    /// Of the addend.
    pub beta: f64,
    /// Of the product.
    pub alpha: f64,
}

impl Default for AddmmFactors {
    fn default() -> Self {
        Self { beta: 1.0, alpha: 1.0 }
    }
}

/// `out = beta * addend + alpha * (left @ right)` (`aclnnAddmm`), in f32 and rounded once.
///
/// * `addend`: dtype of left, broadcast to `[M, N]`. * `left`: f32, f16 or bf16, `[M, K]`, any strides.
/// * `right`: dtype of left, `[K, N]`, any strides. * `out`: dtype of left, `[M, N]`.
///
/// # Errors
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn addmm(
    sequence: &Sequence<'_>,
    addend: &TensorView<'_>,
    left: &TensorView<'_>,
    right: &TensorView<'_>,
    factors: AddmmFactors,
    math: CubeMath,
    out: &mut TensorViewMut<'_>,
) -> Result<()> {
    if out.is_empty() {
        return Ok(());
    }
    let factor = |value| Arg::Scalar(Some(ScalarValue { dtype: DType::F32.acl(), value }));
    let (beta, alpha) = (factor(factors.beta), factor(factors.alpha));
    let math = Arg::Int(i64::from(math as i8));
    let args = [input(addend), input(left), input(right), beta, alpha, output(out), math];
    let reads = [addend.0, left.0, right.0].into_iter();
    launch(sequence, &[OperatorId::Addmm], &args, reads, [out.0].into_iter())?;
    Ok(())
}

/// A weight into the layout that the cube unit likes best, in place (`aclnnTransMatmulWeight`). CANN chooses the layout; the
/// simulator leaves the weight as it is.
///
/// * `weight`: f16, bf16 or i8, `[K, N]` or with leading dimensions, contiguous, its memory as long as
///   [`matmul_weight_size`] says.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where the memory behind the weight is shorter,
/// [`Error::Rule`](crate::Error::Rule) and those common to all operators, see [`cast`](super::cast).
pub fn trans_matmul_weight(sequence: &Sequence<'_>, weight: &mut TensorViewMut<'_>) -> Result<()> {
    if weight.is_empty() {
        return Ok(());
    }
    let needed = matmul_weight_size(sequence, weight.shape(), weight.dtype())?;
    let storage = weight.desc().storage.elements().unwrap_or(0);
    if storage < needed {
        let found = format_args!("memory of {storage} elements").to_string();
        return Err(Error::shape("weight", found, format_args!("at least {needed} elements of memory")));
    }
    let operator = &[OperatorId::TransMatmulWeight];
    launch(sequence, operator, &[output(weight)], [weight.0].into_iter(), [weight.0].into_iter())?;
    Ok(())
}

/// Elements of memory that a weight of a shape needs for [`trans_matmul_weight`]
/// (`aclnnCalculateMatmulWeightSizeV2`, for 16 bits the first version where the libraries lack it).
///
/// * `shape`: `[K, N]` or with leading dimensions. * `dtype`: f16, bf16 or i8.
///
/// # Errors
/// [`Error::Vendor`](crate::Error::Vendor) for what CANN refuses, [`Error::MissingFunction`](crate::Error::MissingFunction).
pub fn matmul_weight_size(sequence: &Sequence<'_>, shape: &[i64], dtype: DType) -> Result<u64> {
    let bound = sequence.device().0.enter()?;
    let shape = IntArray::new(&bound, shape)?;
    let mut elements = 0;
    let mut call = FunctionId::aclnnCalculateMatmulWeightSizeV2;
    // SAFETY: the array is alive and the size is writable.
    let mut status =
        unsafe { bound.table().aclnnCalculateMatmulWeightSizeV2(shape.handle(), dtype.acl(), &mut elements) };
    if status.is_err() && matches!(dtype, DType::F16 | DType::Bf16) {
        call = FunctionId::aclnnCalculateMatmulWeightSize;
        // SAFETY: as above.
        status = unsafe { bound.table().aclnnCalculateMatmulWeightSize(shape.handle(), &mut elements) };
    }
    bound.check_status(call, status)?;
    Ok(elements)
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
