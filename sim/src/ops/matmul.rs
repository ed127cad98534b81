//! Dense products: Mm, Matmul, BatchMatMul, Addmm.

use ascend_sys::ops::TensorDesc;
use moe_kernels::element::Float;
use moe_kernels::gemm::{Weight, gemm};
use moe_kernels::view::{Mat, MatMut};

use super::OpError;
use super::elementwise::Operand;
use super::view::{Device, check_outputs, sizes, with_float};
use crate::executor::Args;

/// `out = self @ mat2`, batched over broadcast leading dimensions. fp32 is computed in fp32 whatever cubeMathType says:
/// HF32 is coarser on hardware, so results there are less exact than here.
pub(super) fn matmul(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let left = args.tensor("self").ok_or(OpError::Null("self"))?;
    let right = args.tensor("mat2").ok_or(OpError::Null("mat2"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    check_outputs(args, &["out"])?;
    if out.is_empty() {
        return Ok(());
    }
    with_float!(left.dtype, X => with_float!(out.dtype, O => multiply::<X, O>(device, left, right, out)))
}

fn multiply<X: Float, O: Float>(
    device: &Device<'_>,
    left: &TensorDesc,
    right: &TensorDesc,
    out: &TensorDesc,
) -> Result<(), OpError> {
    // A vector is a matrix of one row on the left and of one column on the right.
    let left = Batch::<X>::new(device, "self", left, Vector::Row)?;
    let right = Batch::<X>::new(device, "mat2", right, Vector::Column)?;
    let (shape, strides) = sizes(out);
    let rows = left.matrix[0];
    let cols = right.matrix[1];
    let batch_rank = left.batch.len().max(right.batch.len());
    let batch: Vec<usize> = shape.iter().copied().take(batch_rank).collect();
    let data = device.write::<O>("out", out)?;
    let steps = &strides[batch_rank.min(strides.len())..];
    let (row_stride, col_stride) = match steps {
        [row, col, ..] => (*row, *col),
        [one] if rows == 1 => (0, *one),
        [one] => (*one, 0),
        [] => (0, 0),
    };
    for index in 0..batch.iter().product::<usize>() {
        let mut at = vec![0; batch_rank];
        let mut rest = index;
        for axis in (0..batch_rank).rev() {
            at[axis] = rest % batch[axis];
            rest /= batch[axis];
        }
        let start: usize = at.iter().zip(&strides).map(|(i, stride)| i * stride).sum();
        let block = data.get_mut(start..).unwrap_or(&mut []);
        let target = MatMut::new(
            block,
            rows,
            cols,
            row_stride.max(usize::from(rows > 1)),
            col_stride.max(usize::from(cols > 1)),
        )?;
        gemm(left.at(&at)?, Weight::Strided(right.at(&at)?), None, target)?;
    }
    Ok(())
}

/// `out = beta * self + alpha * (mat1 @ mat2)`, in fp32 and rounded once.
pub(super) fn addmm(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let addend = args.tensor("self").ok_or(OpError::Null("self"))?;
    let left = args.tensor("mat1").ok_or(OpError::Null("mat1"))?;
    let right = args.tensor("mat2").ok_or(OpError::Null("mat2"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    let scalar = |name| args.scalar(name).map(|scalar| scalar.value as f32).ok_or(OpError::Null(name));
    let (beta, alpha) = (scalar("beta")?, scalar("alpha")?);
    let (shape, _) = sizes(out);
    if out.is_empty() {
        return Ok(());
    }
    with_float!(left.dtype, T => {
        let mut product = vec![0f32; shape.iter().product()];
        let target = MatMut::row_major(&mut product, shape[0], shape[1])?;
        let weight = Weight::Strided(device.mat::<T>("mat2", right)?);
        gemm(device.mat::<T>("mat1", left)?, weight, None, target)?;
        let addend = Operand::<T>::load(device, "self", addend, out)?;
        let product = moe_kernels::view::NdView::contiguous(&product, &shape)?;
        let out = &mut device.nd_mut::<T>("out", out)?;
        Ok(moe_kernels::pointwise::add_product(&addend.view()?, beta, &product, alpha, out)?)
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Vector {
    Row,
    Column,
}

/// A stack of matrices over device memory.
struct Batch<'a, T> {
    data: &'a [T],
    batch: Vec<usize>,
    batch_strides: Vec<usize>,
    matrix: [usize; 2],
    strides: [usize; 2],
}

impl<'a, T: Float> Batch<'a, T> {
    fn new(device: &Device<'a>, name: &'static str, tensor: &TensorDesc, vector: Vector) -> Result<Self, OpError> {
        let (shape, strides) = sizes(tensor);
        let data = device.read::<T>(name, tensor)?;
        let split = shape.len().saturating_sub(2);
        let (matrix, matrix_strides) = match (shape.as_slice(), strides.as_slice(), vector) {
            ([n], [step], Vector::Row) => ([1, *n], [0, *step]),
            ([n], [step], Vector::Column) => ([*n, 1], [*step, 0]),
            ([.., r, c], [.., rs, cs], _) => ([*r, *c], [*rs, *cs]),
            _ => ([1, 1], [0, 0]),
        };
        Ok(Self {
            data,
            batch: shape[..split].to_vec(),
            batch_strides: strides[..split].to_vec(),
            matrix,
            strides: matrix_strides,
        })
    }

    /// The matrix at a batch index of the output, with broadcasting.
    fn at(&self, index: &[usize]) -> Result<Mat<'a, T>, OpError> {
        let lead = index.len().saturating_sub(self.batch.len());
        let start: usize = index[lead..]
            .iter()
            .zip(self.batch.iter().zip(&self.batch_strides))
            .map(|(&i, (&size, &stride))| if size == 1 { 0 } else { i * stride })
            .sum();
        let block = self.data.get(start..).unwrap_or(&[]);
        Ok(Mat::new(block, self.matrix[0], self.matrix[1], self.strides[0], self.strides[1])?)
    }
}
