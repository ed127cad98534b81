//! The grouped products, in all their signatures: lists and single tensors, groups of rows, groups along K, no groups.

use std::borrow::Cow;

use ascend_sys::ops::{TensorDesc, implied_group_type};
use ascend_sys::{OperatorId, aclDataType, aclFormat};
use bytemuck::Pod;
use moe_kernels::KernelError;
use moe_kernels::antiquant_gemm::{AntiquantExpert, of_values};
use moe_kernels::element::Float;
use moe_kernels::gemm::{Bias, Product, Weight, gemms};
use moe_kernels::group_list::{Group, GroupListKind, decode};
use moe_kernels::grouped_gemm::{Expert, grouped_gemm, k_grouped_gemm, k_grouped_gemm_add};
use moe_kernels::view::{Mat, MatMut};

use super::OpError;
use super::grouped_antiquant::Integers;
use super::grouped_quant::quantised;
use super::view::{Device, Output, check_outputs, sizes, weights, with_float};
use crate::executor::Args;

/// Values of `groupType`.
const UNGROUPED: i64 = -1;
const ROW_GROUPS: i64 = 0;
const K_GROUPS: i64 = 2;

/// Every group of rows of x, or of columns, times its weight. Rows of no group stay as they are.
pub(super) fn grouped_matmul(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    check_outputs(args, &["out", "y"])?;
    let first = args.tensors("x").iter().flatten().next().ok_or(OpError::Null("x"))?;
    match first.dtype {
        aclDataType::INT8 | aclDataType::INT4 | aclDataType::INT32 => quantised(args, device),
        dtype => with_float!(dtype, T => grouped::<T>(args, device)),
    }
}

/// The tensors of a call, and what is divided into groups.
pub(super) struct Lists<'a> {
    pub(super) x: Vec<&'a TensorDesc>,
    pub(super) weight: Vec<&'a TensorDesc>,
    pub(super) out: Vec<&'a TensorDesc>,
    pub(super) group_type: i64,
}

impl<'a> Lists<'a> {
    pub(super) fn of(args: &'a Args) -> Self {
        let list = |name| args.tensors(name).iter().flatten();
        let (x, weight): (Vec<_>, Vec<_>) = (list("x").collect(), list("weight").collect());
        // The older signatures call the output y.
        let out: Vec<_> = ["out", "y"].into_iter().flat_map(list).collect();
        let implied = || implied_group_type(x.len(), weight.len(), out.len());
        let group_type = args.find_int("groupType").unwrap_or_else(implied);
        Self { x, weight, out, group_type }
    }

    /// The weight as the operator takes it: `WeightNz` takes every one for FRACTAL_NZ.
    pub(super) fn weight_of(args: &Args, weight: &TensorDesc) -> TensorDesc {
        let forced = args.operator() == OperatorId::GroupedMatmulWeightNz;
        TensorDesc { format: if forced { aclFormat::FRACTAL_NZ } else { weight.format }, ..*weight }
    }
}

fn grouped<T: Float>(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let Lists { x: xs, weight: ws, out: outs, group_type } = Lists::of(args);

    let inputs = xs.iter().map(|x| Input::<T>::load(device, "x", x)).collect::<Result<Vec<_>, _>>()?;
    let x = inputs.iter().map(Input::mat).collect::<Result<Vec<_>, _>>()?;
    let biases = load_biases::<T>(args, device)?;
    let integers = Integers::load(args, device, &ws)?;
    let weighted = integers.as_ref().map(|integers| integers.experts(bias_rows(&biases))).unwrap_or_default();
    let mut outputs = outs.iter().map(|out| device.output::<T>("out", out)).collect::<Result<Vec<_>, _>>()?;
    if let (Some(integers), ROW_GROUPS, [x], [out]) = (&integers, group_type, &x[..], &mut outputs[..]) {
        let groups = read_groups(args, device, weighted.len(), x.rows())?;
        integers.multiply(*x, &weighted, &groups, matrix(out.slice(), x.rows(), size_of_row(&outs))?)?;
        return outputs.into_iter().zip(outs).try_for_each(|(output, out)| output.finish(device, "out", out));
    }
    let values = weighted.iter().map(AntiquantExpert::values).collect::<Result<Vec<_>, _>>()?;
    let experts = match integers {
        Some(_) => of_values(&weighted, &values),
        None => load_experts(args, device, &ws, &biases)?,
    };
    match (group_type, &x[..], &mut outputs[..]) {
        (K_GROUPS, [x], [out]) => {
            let [weight] = ws[..] else { return Err(OpError::Null("weight")) };
            let size = outs.first().map_or(0, |out| size(out.dim(0)));
            let groups = read_groups(args, device, size, x.cols())?;
            let blocks = blocks(out.slice(), size, x.rows(), size_of_row(&outs))?;
            k_grouped_gemm(*x, device.mat::<T>("weight", weight)?, &groups, blocks)?;
        }
        (K_GROUPS, [x], outputs) => {
            // Each weight takes as much of K as it has rows.
            let parts = consecutive(experts.iter().map(|expert| expert.weight.k()));
            let x = parts.iter().map(|part| x.transposed().row_range(part.rows.clone()).transposed());
            gemms(products(x, &experts, matrices(outputs, &outs)?))?;
        }
        (UNGROUPED, x, outputs) => gemms(products(x.iter().copied(), &experts, matrices(outputs, &outs)?))?,
        (_, [x], [out]) => {
            let groups = read_groups(args, device, experts.len(), x.rows())?;
            grouped_gemm(*x, &experts, &groups, matrix(out.slice(), x.rows(), size_of_row(&outs))?)?;
        }
        (_, [x], outputs) => {
            // Each group has an output of its own.
            let mut matrices: Vec<Option<_>> = matrices(outputs, &outs)?.into_iter().map(Some).collect();
            let mut found = Vec::new();
            for Group { expert, rows } in read_groups(args, device, experts.len(), x.rows())? {
                let (Some(expert), Some(out)) = (experts.get(expert), matrices.get_mut(expert).and_then(Option::take))
                else {
                    return Err(OpError::Null("out"));
                };
                found.push(Product { x: x.row_range(rows), weight: expert.weight, bias: expert.bias, out });
            }
            gemms(found)?;
        }
        (_, x, [out]) => {
            // Each x has a group of its own; the list, where there is one, only says so again.
            let groups = consecutive(x.iter().map(Mat::rows));
            let rows = groups.last().map_or(0, |group| group.rows.end);
            check_list(args, device, &groups, rows)?;
            let parts = rows_of_each(x, matrix(out.slice(), rows, size_of_row(&outs))?);
            gemms(products(x.iter().copied(), &experts, parts))?;
        }
        _ => return Err(OpError::Null("out")),
    }
    outputs.into_iter().zip(outs).try_for_each(|(output, out)| output.finish(device, "out", out))
}

/// `yRef` plus the product of every group along K.
pub(super) fn grouped_matmul_add(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    check_outputs(args, &["yRef"])?;
    let x = args.tensor("x").ok_or(OpError::Null("x"))?;
    let weight = args.tensor("weight").ok_or(OpError::Null("weight"))?;
    let list = args.tensor("groupList").ok_or(OpError::Null("groupList"))?;
    let y = args.tensor("yRef").ok_or(OpError::Null("yRef"))?;
    if x.is_empty() || weight.is_empty() {
        return Ok(());
    }
    with_float!(x.dtype, T => {
        let (x, weight) = (device.mat::<T>("x", x)?.transposed(), device.mat::<T>("weight", weight)?);
        let (count, values) = (size(list.dim(0)), device.packed::<i64>("groupList", list)?);
        let groups = groups_of(device, "aclnnGroupedMatmulAdd", GroupListKind::Cumsum, &values, count, x.cols())?;
        let blocks = blocks(device.write::<f32>("yRef", y)?, count, x.rows(), weight.cols())?;
        Ok(k_grouped_gemm_add(x, weight, &groups, blocks)?)
    })
}

pub(super) fn size(dim: i64) -> usize {
    usize::try_from(dim).unwrap_or(0)
}

/// N of the first output.
pub(super) fn size_of_row(outs: &[&TensorDesc]) -> usize {
    outs.first().map_or(0, |out| size(out.dim(-1)))
}

/// Pairs the lists up, member by member.
fn products<'a, 'o, T: Float>(
    x: impl Iterator<Item = Mat<'a, T>>,
    experts: &[Expert<'a, T>],
    out: Vec<MatMut<'o, T>>,
) -> Vec<Product<'a, 'o, T, T>> {
    let pairs = x.zip(experts).zip(out);
    pairs.map(|((x, &Expert { weight, bias }), out)| Product { x, weight, bias, out }).collect()
}

/// One group after the other, of these sizes, the first one's expert being 0.
pub(super) fn consecutive(sizes: impl Iterator<Item = usize>) -> Vec<Group> {
    let mut end = 0;
    let group = |(expert, size)| {
        let start = end;
        end += size;
        Group { expert, rows: start..end }
    };
    sizes.enumerate().map(group).collect()
}

/// A tensor `[.., C]` as a matrix whose leading dimensions count as one.
pub(super) struct Input<'a, T: Pod> {
    values: Cow<'a, [T]>,
    shape: [usize; 2],
    strides: [usize; 2],
}

impl<'a, T: Pod + Send + Sync> Input<'a, T> {
    pub(super) fn load(device: &Device<'a>, name: &'static str, tensor: &TensorDesc) -> Result<Self, OpError> {
        let (shape, strides) = sizes(tensor);
        if let ([rows, cols], [row, col]) = (&shape[..], &strides[..]) {
            let values = Cow::Borrowed(device.read(name, tensor)?);
            return Ok(Self { values, shape: [*rows, *cols], strides: [*row, *col] });
        }
        let (cols, rows) = shape.split_last().map_or((0, 0), |(cols, rows)| (*cols, rows.iter().product()));
        Ok(Self { values: device.packed(name, tensor)?, shape: [rows, cols], strides: [cols, 1] })
    }

    /// Rows of `cols` one after the other.
    pub(super) fn row_major(values: Cow<'a, [T]>, cols: usize) -> Self {
        let rows = values.len().checked_div(cols).unwrap_or(0);
        Self { values, shape: [rows, cols], strides: [cols, 1] }
    }

    pub(super) fn mat(&self) -> Result<Mat<'_, T>, OpError> {
        Ok(Mat::new(&self.values, self.shape[0], self.shape[1], self.strides[0], self.strides[1])?)
    }
}

pub(super) fn matrix<T: Copy>(values: &mut [T], rows: usize, cols: usize) -> Result<MatMut<'_, T>, OpError> {
    Ok(MatMut::row_major(values, rows, cols)?)
}

/// Every output as a matrix whose leading dimensions count as one.
pub(super) fn matrices<'o, T: Pod + Send + Sync>(
    outputs: &'o mut [Output<'_, T>],
    outs: &[&TensorDesc],
) -> Result<Vec<MatMut<'o, T>>, OpError> {
    let matrix = |(output, out): (&'o mut Output<'_, T>, &&TensorDesc)| {
        let (shape, _) = sizes(out);
        let (cols, rows) = shape.split_last().map_or((0, 0), |(cols, rows)| (*cols, rows.iter().product()));
        matrix(output.slice(), rows, cols)
    };
    outputs.iter_mut().zip(outs).map(matrix).collect()
}

/// As many rows of a matrix for each x as it has.
pub(super) fn rows_of_each<'o, X: Copy, O: Copy>(x: &[Mat<'_, X>], out: MatMut<'o, O>) -> Vec<MatMut<'o, O>> {
    let mut rest = Some(out);
    let rows = x.iter().map(Mat::rows);
    rows.filter_map(|rows| {
        let (part, after) = rest.take()?.split_rows(rows);
        rest = Some(after);
        Some(part)
    })
    .collect()
}

/// A stack of `count` matrices.
fn blocks<T: Float>(
    mut values: &mut [T],
    count: usize,
    rows: usize,
    cols: usize,
) -> Result<Vec<MatMut<'_, T>>, OpError> {
    let mut blocks = Vec::with_capacity(count);
    for _ in 0..count {
        let at = (rows * cols).min(values.len());
        let (block, rest) = values.split_at_mut(at);
        blocks.push(matrix(block, rows, cols)?);
        values = rest;
    }
    Ok(blocks)
}

/// A bias tensor `[rows, N]` or `[N]`, in row-major order.
struct BiasRows<'a, T: Pod> {
    rows: usize,
    cols: usize,
    values: BiasValues<'a, T>,
}

enum BiasValues<'a, T: Pod> {
    Wide(Cow<'a, [f32]>),
    Same(Cow<'a, [T]>),
}

impl<T: Float> BiasRows<'_, T> {
    fn row(&self, row: usize) -> Option<Bias<'_, T>> {
        let range = row * self.cols..(row + 1) * self.cols;
        match &self.values {
            BiasValues::Wide(values) => values.get(range).map(Bias::F32),
            BiasValues::Same(values) => values.get(range).map(Bias::Same),
        }
    }
}

fn load_biases<'a, T: Float>(args: &Args, device: &Device<'a>) -> Result<Vec<BiasRows<'a, T>>, OpError> {
    let list = if args.is_given("biasOptional") { args.tensors("biasOptional") } else { &[] };
    let load = |bias: &TensorDesc| {
        let values = match bias.dtype {
            aclDataType::FLOAT => BiasValues::Wide(device.packed("bias", bias)?),
            _ => BiasValues::Same(device.packed("bias", bias)?),
        };
        let rows = if bias.rank() > 1 { size(bias.dim(0)) } else { 1 };
        Ok(BiasRows { rows, cols: size(bias.dim(-1)), values })
    };
    list.iter().flatten().map(load).collect()
}

/// The biases one by one.
fn bias_rows<'a, T: Float>(biases: &'a [BiasRows<'_, T>]) -> impl Iterator<Item = Option<Bias<'a, T>>> {
    biases.iter().flat_map(|bias| (0..bias.rows).map(|row| bias.row(row)))
}

/// The weights one by one, each with its bias.
fn load_experts<'a, T: Float>(
    args: &Args,
    device: &Device<'a>,
    list: &[&TensorDesc],
    biases: &'a [BiasRows<'_, T>],
) -> Result<Vec<Expert<'a, T>>, OpError> {
    let mut experts: Vec<Expert<'_, T>> = Vec::new();
    for weight in list {
        let found = weights::<T>(device, "weight", &Lists::weight_of(args, weight))?;
        experts.extend(found.into_iter().map(|weight: Weight<'_, T>| Expert { weight, bias: None }));
    }
    experts.iter_mut().zip(bias_rows(biases)).for_each(|(expert, bias)| expert.bias = bias);
    Ok(experts)
}

struct GroupList<'a> {
    kind: GroupListKind,
    values: Cow<'a, [i64]>,
}

/// The group list, on the host or on the device; `None` where there is none.
fn group_list<'a>(args: &'a Args, device: &Device<'a>) -> Result<Option<GroupList<'a>>, OpError> {
    if let Some(list) = args.ints("groupListOptional").filter(|list| !list.is_empty()) {
        return Ok(Some(GroupList { kind: GroupListKind::Cumsum, values: Cow::Borrowed(list) }));
    }
    let Some(list) = args.tensor("groupListOptional") else { return Ok(None) };
    let kind = match args.int("groupListType") {
        0 => GroupListKind::Cumsum,
        1 => GroupListKind::Count,
        _ => GroupListKind::KeyValue,
    };
    Ok(Some(GroupList { kind, values: device.packed("groupList", list)? }))
}

pub(super) fn read_groups(
    args: &Args,
    device: &Device<'_>,
    experts: usize,
    extent: usize,
) -> Result<Vec<Group>, OpError> {
    let GroupList { kind, values } = group_list(args, device)?.ok_or(OpError::Null("groupList"))?;
    groups_of(device, args.operator().info().phase2.name(), kind, &values, experts, extent)
}

/// The groups that a list divides `extent` into.
pub(super) fn groups_of(
    device: &Device<'_>,
    call: &'static str,
    kind: GroupListKind,
    values: &[i64],
    experts: usize,
    extent: usize,
) -> Result<Vec<Group>, OpError> {
    match decode(kind, values, experts, extent) {
        Ok(groups) => Ok(groups),
        Err(error) if device.strict() => Err(OpError::GroupList(error)),
        Err(error) => {
            // The device does not check: it computes what it can reach. What lies outside x is left out here.
            device.report_group_list(call, error.to_string());
            Ok(lenient_groups(kind, values, experts, extent))
        }
    }
}

/// Holds a list that is given beside a list of x against the rows of each x.
pub(super) fn check_list(args: &Args, device: &Device<'_>, due: &[Group], rows: usize) -> Result<(), OpError> {
    let Some(GroupList { kind, values }) = group_list(args, device)? else { return Ok(()) };
    let result = decode(kind, &values, due.len(), rows).and_then(|groups| {
        due.iter().try_for_each(|Group { expert, rows }| {
            let found = groups.iter().find(|group| group.expert == *expert).map_or(0, |group| group.rows.len());
            let what = "group list, rows of x";
            let error = KernelError::Dim { what, expected: rows.len(), actual: found };
            if found == rows.len() { Ok(()) } else { Err(error) }
        })
    });
    match result {
        Err(error) if device.strict() => Err(OpError::GroupList(error)),
        Err(error) => {
            device.report_group_list(args.operator().info().phase2.name(), error.to_string());
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

fn lenient_groups(kind: GroupListKind, values: &[i64], experts: usize, extent: usize) -> Vec<Group> {
    let clamp = |value: i64| usize::try_from(value.max(0)).unwrap_or(extent).min(extent);
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
        end = (start + count).min(extent);
        groups.push(Group { expert, rows: start..end });
    }
    groups
}
