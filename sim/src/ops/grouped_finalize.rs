//! The grouped product that is added up by token, in all its signatures.

use ascend_sys::ops::TensorDesc;
use ascend_sys::{OperatorId, aclDataType, aclFormat};
use moe_kernels::group_list::GroupListKind;
use moe_kernels::quant_gemm::{
    Activation, Dequant, QuantBias, QuantExpert, Rounding, ScaleOrder, Scheme, products_of_groups, quant_gemm,
};
use moe_kernels::scatter_rows::{SharedRows, scatter_rows};

use super::OpError;
use super::grouped_matmul::{Input, groups_of, matrix, size};
use super::grouped_quant::factors_of_each;
use super::view::{Device, check_outputs, int_weights};
use crate::executor::Args;

/// The rows of every group times its weight, dequantised, weighted, and added to the rows that they name.
pub(super) fn finalize_routing(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    check_outputs(args, &["y", "out"])?;
    // The signatures call their parameters by several names.
    let find = |names: &[&str]| names.iter().find_map(|name| args.tensor(name));
    let (x, weight) = (find(&["x", "x1"]).ok_or(OpError::Null("x"))?, find(&["w", "x2"]).ok_or(OpError::Null("x2"))?);
    let (scale, bias) = (find(&["scale", "scaleOptional"]), find(&["bias", "biasOptional"]));
    let list = find(&["groupList", "groupListOptional"]).ok_or(OpError::Null("groupList"))?;
    let logit = find(&["logit", "logitOptional"]).ok_or(OpError::Null("logit"))?;
    let index = find(&["rowIndex", "rowIndexOptional"]).ok_or(OpError::Null("rowIndex"))?;
    let out = find(&["y", "out"]).ok_or(OpError::Null("out"))?;

    let packed = args.operator() == OperatorId::GroupedMatmulFinalizeRoutingWeightNzV2;
    let format = if packed { aclFormat::FRACTAL_NZ } else { weight.format };
    let int4 = weight.unpacked().dtype == aclDataType::INT4;
    let weights = int_weights(device, "x2", &TensorDesc { format, ..*weight })?;
    let factors = |name, tensor: Option<&TensorDesc>| {
        factors_of_each(device, name, &[tensor.copied()], std::iter::once(weights.len()))
    };
    let (scales, biases) = (factors("scale", scale)?, factors("bias", bias)?);
    let offsets = factors("offset", find(&["offsetOptional"]))?;
    let expert = |(index, weight): (usize, &_)| QuantExpert {
        weight: *weight,
        scale: scales.get(index).map_or(&[], Vec::as_slice),
        offset: offsets.get(index).map(Vec::as_slice),
        bias: biases.get(index).map_or(QuantBias::None, |bias| QuantBias::Float(bias)),
    };
    let experts: Vec<_> = weights.iter().enumerate().map(expert).collect();

    let input = Input::<i8>::load(device, "x", x)?;
    let x = input.mat()?;
    let mut row_scale = device.factors("logit", logit)?;
    if let Some(per_token) = find(&["pertokenScaleOptional"]) {
        let per_token = device.factors("pertokenScale", per_token)?;
        row_scale.iter_mut().zip(per_token).for_each(|(logit, scale)| *logit *= scale);
    }
    let kind = if args.int("groupListType") == 1 { GroupListKind::Count } else { GroupListKind::Cumsum };
    let values = device.packed::<i64>("groupList", list)?;
    let call = args.operator().info().phase2.name();
    let groups = groups_of(device, call, kind, &values, experts.len(), x.rows())?;

    let n = size(out.dim(-1));
    let mut sums = vec![0f32; x.rows() * n];
    let products = products_of_groups(x, &experts, &groups, matrix(&mut sums, x.rows(), n)?)?;
    let dequant = Dequant {
        scheme: if int4 { Scheme::Msd } else { Scheme::Int8 },
        rounding: Rounding::Faithful,
        row_scale: Some(&row_scale),
        order: ScaleOrder::Column,
        activation: Activation::None,
    };
    quant_gemm(products, &dequant)?;
    let shared = match find(&["sharedInput", "sharedInputOptional"]) {
        Some(shared) => device.factors("sharedInput", shared)?,
        None => Vec::new(),
    };
    let weight = args.float("sharedInputWeight") as f32;
    let first = size(args.int("sharedInputOffset"));
    let shared = (!shared.is_empty()).then_some(SharedRows { values: &shared, weight, first });
    let mut target = device.output::<f32>("out", out)?;
    scatter_rows(&sums, n, &groups, &device.wide("rowIndex", index)?, shared, target.slice())?;
    target.finish(device, "out", out)
}
