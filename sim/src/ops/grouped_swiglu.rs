//! The grouped product with SwiGLU and quantisation behind it, in all its signatures.

use ascend_sys::ops::{TensorDesc, swiglu_weight};
use ascend_sys::{OperatorId, aclDataType};
use moe_kernels::group_list::GroupListKind;
use moe_kernels::quant_gemm::{QuantBias, QuantExpert, Rounding, Scheme};
use moe_kernels::swiglu_quant::{Smooth, SwigluQuant, grouped_swiglu_quant};

use super::OpError;
use super::grouped_matmul::{groups_of, size};
use super::grouped_quant::{factors_of_each, small_input};
use super::view::{Device, check_outputs, int_weights};
use crate::executor::Args;

/// Every group of rows of x times its weight, activated and quantised. Rows of no group stay as they are.
pub(super) fn swiglu_quant(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    use OperatorId as Id;
    check_outputs(args, &["output", "outputScale"])?;
    let tensor = |name| args.tensor(name).ok_or(OpError::Null(name));
    let (x, list, output, output_scale) =
        (tensor("x")?, tensor("groupList")?, tensor("output")?, tensor("outputScale")?);
    let operator = args.operator();
    let second = matches!(operator, Id::GroupedMatmulSwigluQuantV2 | Id::GroupedMatmulSwigluQuantWeightNzV2);
    let forced = matches!(operator, Id::GroupedMatmulSwigluQuantWeightNZ | Id::GroupedMatmulSwigluQuantWeightNzV2);
    // The first signature has tensors where the second has lists.
    let all = |name| -> Vec<Option<TensorDesc>> {
        args.tensor(name).copied().into_iter().chain(args.tensors(name).iter().flatten().copied()).map(Some).collect()
    };

    let weights: Vec<_> =
        all("weight").iter().flatten().map(|weight| swiglu_weight(weight, forced)).collect::<Vec<_>>();
    let int4 = weights.first().is_some_and(|weight| weight.dtype == aclDataType::INT4);
    let scheme = match (x.unpacked().dtype, int4) {
        (aclDataType::INT8, false) => Scheme::Int8,
        (aclDataType::INT8, true) => Scheme::Msd,
        _ => Scheme::Int4,
    };
    let weights = weights.iter().map(|weight| int_weights(device, "weight", weight)).collect::<Result<Vec<_>, _>>()?;
    let counts = || weights.iter().map(Vec::len);
    let scales = factors_of_each(device, "weightScale", &all("weightScale"), counts())?;
    let assist = match scheme {
        Scheme::Msd => all(if second { "weightAssistMatrix" } else { "bias" }),
        _ => Vec::new(),
    };
    let biases = factors_of_each(device, "weightAssistMatrix", &assist, counts())?;
    let expert = |(index, weight): (usize, &_)| QuantExpert {
        weight: *weight,
        scale: scales.get(index).map_or(&[], Vec::as_slice),
        offset: None,
        bias: biases.get(index).map_or(QuantBias::None, |bias| QuantBias::Float(bias)),
    };
    let experts: Vec<QuantExpert<'_>> = weights.iter().flatten().enumerate().map(expert).collect();

    let input = small_input(device, x)?;
    let x = input.mat()?;
    let kind = if second && args.int("groupListType") == 1 { GroupListKind::Count } else { GroupListKind::Cumsum };
    let smooth = match args.tensor("smoothScale") {
        Some(factors) => Some((device.factors("smoothScale", factors)?, factors.rank())),
        None => None,
    };
    let smooth = match &smooth {
        None => Smooth::None,
        Some((factors, 1)) => Smooth::Expert(factors),
        Some((factors, _)) => Smooth::Column(factors),
    };
    let values = device.packed::<i64>("groupList", list)?;
    // Experts behind the list have no rows.
    let entries = size(list.dim(0));
    let groups = groups_of(device, operator.info().phase2.name(), kind, &values, entries, x.rows())?;
    let x_scale = device.factors("xScale", tensor("xScale")?)?;
    let inputs = SwigluQuant {
        x,
        x_scale: &x_scale,
        experts: &experts,
        groups: &groups,
        scheme,
        rounding: Rounding::Faithful,
        smooth,
    };
    let mut q = device.output::<i8>("output", output)?;
    let mut scale = device.output::<f32>("outputScale", output_scale)?;
    grouped_swiglu_quant(&inputs, q.slice(), scale.slice())?;
    q.finish(device, "output", output)?;
    scale.finish(device, "outputScale", output_scale)
}
