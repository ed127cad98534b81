//! Mm, Matmul and the grouped matmuls.

use std::borrow::Cow;

use ascend_sys::aclDataType;
use ascend_sys::ops::TensorDesc;
use moe_kernels::element::Float;
use moe_kernels::gemm::{Bias, Weight, gemm};
use moe_kernels::group_list::{Group, GroupListKind, decode};
use moe_kernels::grouped_gemm::{Expert, grouped_gemm};
use moe_kernels::view::{Mat, MatMut};

use super::OpError;
use super::elementwise::Operand;
use super::view::{Device, check_outputs, sizes, weights, with_float};
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

/// Every group of rows of x times its expert's weight. Rows of no group stay as they are.
pub(super) fn grouped_matmul(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    check_outputs(args, &["out"])?;
    let first = args.tensors("x").iter().flatten().next().ok_or(OpError::Null("x"))?;
    with_float!(first.dtype, T => grouped::<T>(args, device))
}

fn grouped<T: Float>(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let xs: Vec<&TensorDesc> = args.tensors("x").iter().flatten().collect();
    let ws: Vec<&TensorDesc> = args.tensors("weight").iter().flatten().collect();
    let outs: Vec<&TensorDesc> = args.tensors("out").iter().flatten().collect();
    let mut experts: Vec<Expert<'_, T>> = Vec::new();
    for weight in &ws {
        experts.extend(weights::<T>(device, "weight", weight)?.into_iter().map(|weight| Expert { weight, bias: None }));
    }
    let biases = biases::<T>(args, device)?;
    let bias_rows = biases.iter().flat_map(BiasTensor::rows);
    experts.iter_mut().zip(bias_rows).for_each(|(expert, bias)| expert.bias = Some(bias));

    // What x is when its rows are counted through all its tensors, and the group of rows of each expert.
    let rows_of = |tensors: &[&TensorDesc]| -> Vec<usize> { tensors.iter().map(|t| rows(t)).collect() };
    let x_rows = rows_of(&xs);
    let groups = if args.int("groupType") == -1 || xs.len() > 1 {
        let mut end = 0;
        x_rows
            .iter()
            .enumerate()
            .map(|(expert, rows)| {
                end += rows;
                Group { expert, rows: end - rows..end }
            })
            .collect()
    } else {
        read_groups(args, device, experts.len(), x_rows.iter().sum())?
    };

    let out_starts = starts(&rows_of(&outs));
    let x_starts = starts(&x_rows);
    if let ([x], [out]) = (xs.as_slice(), outs.as_slice())
        && (x.rank(), out.rank()) == (2, 2)
    {
        return Ok(grouped_gemm(device.mat::<T>("x", x)?, &experts, &groups, device.mat_mut::<T>("out", out)?)?);
    }
    for Group { expert, rows } in groups {
        if rows.is_empty() {
            continue;
        }
        let (x, x_row) = locate(&xs, &x_starts, rows.start)?;
        // With several outputs each belongs to one expert; with one, rows are where they are in x.
        let (out, out_row) = if outs.len() > 1 {
            (*outs.get(expert).ok_or(OpError::Null("out"))?, 0)
        } else {
            locate(&outs, &out_starts, rows.start)?
        };
        let Some(Expert { weight, bias }) = experts.get(expert) else { return Err(OpError::Null("weight")) };
        let (source, mut target) = (device.packed::<T>("x", x)?, device.output::<T>("out", out)?);
        let (k, n) = (columns(x), columns(out));
        let source = source.get(x_row * k..(x_row + rows.len()) * k).unwrap_or_default();
        let block = target.slice().get_mut(out_row * n..(out_row + rows.len()) * n).unwrap_or_default();
        gemm(Mat::row_major(source, rows.len(), k)?, *weight, *bias, MatMut::row_major(block, rows.len(), n)?)?;
        target.finish(device, "out", out)?;
    }
    Ok(())
}

/// Rows of a tensor whose leading dimensions count as one.
fn rows(tensor: &TensorDesc) -> usize {
    let (shape, _) = sizes(tensor);
    shape[..shape.len().saturating_sub(1)].iter().product()
}

/// Size of the last dimension.
fn columns(tensor: &TensorDesc) -> usize {
    usize::try_from(tensor.dim(-1)).unwrap_or(0)
}

/// First row of each tensor when rows are counted through all of them.
fn starts(rows: &[usize]) -> Vec<usize> {
    rows.iter()
        .scan(0, |next, rows| {
            let start = *next;
            *next += rows;
            Some(start)
        })
        .collect()
}

/// The tensor that holds a row, and the row's number there.
fn locate<'t>(tensors: &[&'t TensorDesc], starts: &[usize], row: usize) -> Result<(&'t TensorDesc, usize), OpError> {
    let index = starts.iter().zip(tensors).rposition(|(&start, tensor)| start <= row && rows(tensor) > 0);
    index
        .and_then(|index| Some((*tensors.get(index)?, row - starts.get(index)?)))
        .ok_or(OpError::Null("the tensor of a group's rows"))
}

/// The biases of one tensor, in fp32 or in the dtype of x, and how long each is.
enum BiasTensor<'a, T: Float> {
    F32(Cow<'a, [f32]>, usize),
    Same(Cow<'a, [T]>, usize),
}

impl<T: Float> BiasTensor<'_, T> {
    fn rows(&self) -> Vec<Bias<'_, T>> {
        match self {
            Self::F32(values, n) => values.chunks(*n).map(Bias::F32).collect(),
            Self::Same(values, n) => values.chunks(*n).map(Bias::Same).collect(),
        }
    }
}

fn biases<'a, T: Float>(args: &Args, device: &Device<'a>) -> Result<Vec<BiasTensor<'a, T>>, OpError> {
    let tensors = args.tensors("biasOptional").iter().flatten().filter(|bias| !bias.is_empty());
    tensors
        .map(|bias| {
            Ok(if bias.dtype == aclDataType::FLOAT {
                BiasTensor::F32(device.packed("bias", bias)?, columns(bias))
            } else {
                BiasTensor::Same(device.packed("bias", bias)?, columns(bias))
            })
        })
        .collect()
}

fn read_groups(args: &Args, device: &Device<'_>, experts: usize, rows: usize) -> Result<Vec<Group>, OpError> {
    let list = args.tensor("groupListOptional").ok_or(OpError::Null("groupList"))?;
    let values = &*device.packed::<i64>("groupList", list)?;
    let kind = match args.int("groupListType") {
        0 => GroupListKind::Cumsum,
        1 => GroupListKind::Count,
        _ => GroupListKind::KeyValue,
    };
    match decode(kind, values, experts, rows) {
        Ok(groups) => Ok(groups),
        Err(error) if device.strict() => Err(OpError::GroupList(error)),
        Err(error) => {
            // The device does not check: it computes what it can reach. What lies outside x is left out here.
            device.report_group_list("aclnnGroupedMatmul", error.to_string());
            Ok(lenient_groups(kind, values, experts, rows))
        }
    }
}

fn lenient_groups(kind: GroupListKind, values: &[i64], experts: usize, rows: usize) -> Vec<Group> {
    let clamp = |value: i64| usize::try_from(value.max(0)).unwrap_or(rows).min(rows);
    let mut end = 0;
    let mut groups = Vec::new();
    let entries: Vec<(usize, usize)> = match kind {
        GroupListKind::KeyValue => {
            let pairs = values.as_chunks::<2>().0.iter();
            pairs.map(|&[expert, count]| (usize::try_from(expert).unwrap_or(usize::MAX), clamp(count))).collect()
        }
        GroupListKind::Count => values.iter().map(|&count| clamp(count)).enumerate().collect(),
        GroupListKind::Cumsum => {
            let ends: Vec<usize> = values.iter().map(|&value| clamp(value)).collect();
            let before = std::iter::once(0).chain(ends.iter().copied());
            ends.iter().zip(before).map(|(&end, start)| end.saturating_sub(start)).enumerate().collect()
        }
    };
    for (expert, count) in entries.into_iter().filter(|&(expert, count)| expert < experts && count > 0) {
        let start = end;
        end = (start + count).min(rows);
        groups.push(Group { expert, rows: start..end });
    }
    groups
}
