//! The grouped products of integers: activations of int8 and int4, weights of int8 and int4.

use std::borrow::Cow;

use ascend_sys::aclDataType;
use ascend_sys::ops::TensorDesc;
use bytemuck::Pod;
use half::{bf16, f16};
use moe_kernels::KernelError;
use moe_kernels::int_gemm::IntWeight;
use moe_kernels::quant_gemm::{
    Activation, Dequant, QuantBias, QuantExpert, QuantProduct, Rounding, ScaleOrder, Scheme, accumulators,
    products_of_groups, quant_gemm, requant_gemm,
};
use moe_kernels::view::{Mat, MatMut};

use super::OpError;
use super::grouped_matmul::{
    Input, Lists, check_list, consecutive, matrices, matrix, read_groups, rows_of_each, size, size_of_row,
};
use super::view::{Device, int_weights};
use crate::executor::Args;

/// Value of `groupType` for no groups.
const UNGROUPED: i64 = -1;

/// Every group of rows of an integer x times its weight. Rows of no group stay as they are.
pub(super) fn quantised(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let lists = Lists::of(args);
    let out = lists.out.first().ok_or(OpError::Null("out"))?.dtype;
    let x = lists.x.first().ok_or(OpError::Null("x"))?.unpacked().dtype;
    let weight = lists.weight.first().ok_or(OpError::Null("weight"))?.unpacked().dtype;
    let scheme = match (x, weight) {
        (aclDataType::INT8, aclDataType::INT8) => Scheme::Int8,
        (aclDataType::INT8, _) => Scheme::Msd,
        _ => Scheme::Int4,
    };
    let per_token = match args.tensors("perTokenScaleOptional") {
        [Some(scale)] if args.is_given("perTokenScaleOptional") && out != aclDataType::INT32 => {
            Some(device.factors("perTokenScale", scale)?)
        }
        _ => None,
    };
    let activation = match args.int("actType") {
        1 => Activation::Relu,
        2 => Activation::GeluTanh,
        4 => Activation::FastGelu,
        5 => Activation::Silu,
        _ => Activation::None,
    };
    let (row_scale, order) = (per_token.as_deref(), ScaleOrder::Column);
    let dequant = Dequant { scheme, rounding: Rounding::Faithful, row_scale, order, activation };
    let scales = if out == aclDataType::INT32 { None } else { Some("scaleOptional") };
    match out {
        aclDataType::INT32 => run::<i32>(args, device, &lists, scales, accumulators),
        aclDataType::INT8 => run::<i8>(args, device, &lists, scales, requant_gemm),
        aclDataType::FLOAT16 => run::<f16>(args, device, &lists, scales, |products| quant_gemm(products, &dequant)),
        aclDataType::BF16 => run::<bf16>(args, device, &lists, scales, |products| quant_gemm(products, &dequant)),
        other => Err(OpError::DType(other)),
    }
}

/// Pairs the operands up, as lists or by groups, and lets `compute` multiply them.
fn run<O: Pod + Send + Sync>(
    args: &Args,
    device: &Device<'_>,
    lists: &Lists<'_>,
    scales: Option<&'static str>,
    compute: impl FnOnce(Vec<QuantProduct<'_, '_, O>>) -> Result<(), KernelError>,
) -> Result<(), OpError> {
    let Lists { x: xs, out: outs, group_type, .. } = lists;
    let inputs = xs.iter().map(|x| small_input(device, x)).collect::<Result<Vec<_>, _>>()?;
    let x = inputs.iter().map(Input::mat).collect::<Result<Vec<_>, _>>()?;
    let weights = load_weights(args, device, &lists.weight)?;
    let extras = Extras::load(args, device, &weights, scales)?;
    let experts = extras.experts(&weights);
    let mut outputs = outs.iter().map(|out| device.output::<O>("out", out)).collect::<Result<Vec<_>, _>>()?;
    match (*group_type, &x[..], &mut outputs[..]) {
        (UNGROUPED, x, outputs) => compute(products(x, &experts, matrices(outputs, outs)?))?,
        (_, [x], [out]) => {
            let groups = read_groups(args, device, experts.len(), x.rows())?;
            compute(products_of_groups(*x, &experts, &groups, matrix(out.slice(), x.rows(), size_of_row(outs))?)?)?;
        }
        (_, x, [out]) => {
            let groups = consecutive(x.iter().map(Mat::rows));
            let rows = groups.last().map_or(0, |group| group.rows.end);
            check_list(args, device, &groups, rows)?;
            compute(products(x, &experts, rows_of_each(x, matrix(out.slice(), rows, size_of_row(outs))?)))?;
        }
        _ => return Err(OpError::Null("out")),
    }
    outputs.into_iter().zip(outs).try_for_each(|(output, out)| output.finish(device, "out", out))
}

/// An x of int8, or of int4 as int8.
pub(super) fn small_input<'a>(device: &Device<'a>, x: &TensorDesc) -> Result<Input<'a, i8>, OpError> {
    match x.dtype {
        aclDataType::INT8 => Input::load(device, "x", x),
        _ => Ok(Input::row_major(device.small_ints("x", x)?, size(x.unpacked().dim(-1)))),
    }
}

fn products<'a, 'o, O>(
    x: &[Mat<'a, i8>],
    experts: &[QuantExpert<'a>],
    out: Vec<MatMut<'o, O>>,
) -> Vec<QuantProduct<'a, 'o, O>> {
    let pairs = x.iter().zip(experts).zip(out);
    pairs.map(|((x, expert), out)| QuantProduct { x: *x, rows: 0..x.rows(), expert: *expert, out }).collect()
}

/// The weights one by one; a list has one in each tensor, a tensor of three dimensions several.
pub(super) fn load_weights<'a>(
    args: &Args,
    device: &Device<'a>,
    list: &[&TensorDesc],
) -> Result<Vec<Vec<IntWeight<'a>>>, OpError> {
    list.iter().map(|weight| int_weights(device, "weight", &Lists::weight_of(args, weight))).collect()
}

/// What belongs to the weights one by one.
struct Extras<'a> {
    scales: Vec<Vec<f32>>,
    offsets: Vec<Vec<f32>>,
    biases: Biases<'a>,
}

enum Biases<'a> {
    None,
    Whole(Vec<Cow<'a, [i32]>>),
    Float(Vec<Vec<f32>>),
}

impl<'a> Extras<'a> {
    fn load(
        args: &Args,
        device: &Device<'a>,
        weights: &[Vec<IntWeight<'_>>],
        scales: Option<&'static str>,
    ) -> Result<Self, OpError> {
        let given = |name| if args.is_given(name) { args.tensors(name) } else { &[] };
        let counts = || weights.iter().map(Vec::len);
        let bias = given("biasOptional");
        let biases = match bias.iter().flatten().next().map(|bias| bias.dtype) {
            None => Biases::None,
            Some(aclDataType::INT32) => {
                let mut all = Vec::new();
                for (bias, count) in bias.iter().flatten().zip(counts()) {
                    let values = device.packed::<i32>("bias", bias)?;
                    all.extend(each(&values, count).map(|values| Cow::Owned(values.to_vec())));
                }
                Biases::Whole(all)
            }
            Some(_) => Biases::Float(factors_of_each(device, "bias", bias, counts())?),
        };
        let scales = match scales {
            Some(name) => factors_of_each(device, "scale", given(name), counts())?,
            None => Vec::new(),
        };
        let offsets = match scales.is_empty() {
            true => Vec::new(),
            false => factors_of_each(device, "offset", given("offsetOptional"), counts())?,
        };
        Ok(Self { scales, offsets, biases })
    }

    fn experts<'e>(&'e self, weights: &[Vec<IntWeight<'e>>]) -> Vec<QuantExpert<'e>> {
        let expert = |(index, weight): (usize, &IntWeight<'e>)| QuantExpert {
            weight: *weight,
            scale: self.scales.get(index).map_or(&[], Vec::as_slice),
            offset: self.offsets.get(index).map(Vec::as_slice),
            bias: match &self.biases {
                Biases::None => QuantBias::None,
                Biases::Whole(all) => all.get(index).map_or(QuantBias::None, |bias| QuantBias::Whole(bias)),
                Biases::Float(all) => all.get(index).map_or(QuantBias::None, |bias| QuantBias::Float(bias)),
            },
        };
        weights.iter().flatten().enumerate().map(expert).collect()
    }
}

/// As many equal parts as there are experts.
pub(super) fn each<T>(values: &[T], experts: usize) -> impl Iterator<Item = &[T]> {
    let size = values.len().checked_div(experts).unwrap_or(0);
    (0..experts).map(move |expert| &values[expert * size..(expert + 1) * size])
}

/// The factors of every expert, from a tensor for each weight tensor.
pub(super) fn factors_of_each(
    device: &Device<'_>,
    name: &'static str,
    list: &[Option<TensorDesc>],
    counts: impl Iterator<Item = usize>,
) -> Result<Vec<Vec<f32>>, OpError> {
    let mut all = Vec::new();
    for (tensor, count) in list.iter().flatten().zip(counts) {
        all.extend(each(&device.factors(name, tensor)?, count).map(<[f32]>::to_vec));
    }
    Ok(all)
}
