//! The operators between the two products of a quantised expert.

use ascend_sys::aclDataType;
use ascend_sys::ops::TensorDesc;
use half::bf16;
use moe_kernels::activation::Clipped;
use moe_kernels::dequant_swiglu::{
    Bias, Dequant, GatedRows, Glu, Requantise, RowGroups, ScaleBy, dequant_swiglu_quant as between,
};
use moe_kernels::element::Float;
use moe_kernels::group_list::{Group, GroupListKind, decode};
use moe_kernels::quantise::{Conversion, Integer, RowQuantiser, Scaling};

use super::OpError;
use super::permute::size;
use super::quantise::{rows_of, write_quantised};
use super::view::{Device, check_outputs, with_float};
use crate::executor::Args;

/// Accumulators or floats in, int8 out.
pub(super) fn dequant_swiglu_quant(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let x = args.tensor("x").ok_or(OpError::Null("x"))?;
    check_outputs(args, &["yOut", "scaleOut"])?;
    if x.dtype != aclDataType::INT32 {
        return with_float!(x.dtype, T => {
            requantise::<T>(args, device, x, GatedRows::Floats(&device.packed::<T>("x", x)?))
        });
    }
    let floats = |name| args.tensor(name).map(|tensor| device.packed::<f32>(name, tensor)).transpose();
    let weight_scale = floats("weightScaleOptional")?.ok_or(OpError::Null("weightScale"))?;
    let activation_scale = floats("activationScaleOptional")?;
    let (sums, wide);
    let bias = match args.tensor("biasOptional") {
        None => None,
        Some(bias) if bias.dtype == aclDataType::INT32 => {
            sums = device.packed::<i32>("bias", bias)?;
            Some(Bias::Accumulators(&sums))
        }
        Some(bias) => {
            wide = widened(device, "bias", bias)?;
            Some(Bias::Floats(&wide))
        }
    };
    let activation_scale = activation_scale.as_deref();
    let dequant = Dequant { weight_scale: &weight_scale, activation_scale, bias };
    requantise::<bf16>(args, device, x, GatedRows::Accumulators(&device.packed::<i32>("x", x)?, dequant))
}

/// An input of floats in f32.
pub(super) fn widened(device: &Device<'_>, name: &'static str, tensor: &TensorDesc) -> Result<Vec<f32>, OpError> {
    with_float!(tensor.dtype, T => {
        let values = device.packed::<T>(name, tensor)?;
        let mut wide = vec![0f32; values.len()];
        T::widen(&values, &mut wide);
        Ok(wide)
    })
}

fn requantise<T: Float>(
    args: &Args,
    device: &Device<'_>,
    x: &TensorDesc,
    rows: GatedRows<'_, T>,
) -> Result<(), OpError> {
    let y = args.tensor("yOut").ok_or(OpError::Null("y"))?;
    let scale = args.tensor("scaleOut").ok_or(OpError::Null("scale"))?;
    let dynamic = args.text("quantModeOptional") == Some("dynamic");
    let list = args.tensor("groupIndexOptional");
    let groups = match list {
        Some(list) => groups_of(device, list, rows_of(x))?,
        None => vec![Group { expert: 0, rows: 0..rows_of(x) }],
    };
    let floats = |name| args.tensor(name).map(|tensor| device.packed::<f32>(name, tensor)).transpose();
    let (given, offset) = (floats("quantScaleOptional")?, floats("quantOffsetOptional")?);
    let requantise = if dynamic {
        // The kernel without groups finds its scales in another way.
        let scaling = if list.is_some() { Scaling::DivideByProduct } else { Scaling::MultiplyByReciprocal };
        let quantiser = RowQuantiser { integer: Integer::Int8, scaling, conversion: Conversion::Nearest };
        Requantise::Dynamic { quantiser, smooth: given.as_deref() }
    } else {
        let scale = given.as_deref().ok_or(OpError::Null("quantScale"))?;
        let offset = offset.as_deref().ok_or(OpError::Null("quantOffset"))?;
        Requantise::Static { integer: Integer::Int8, by: ScaleBy::Divide, scale, offset }
    };
    let glu = match args.int("swigluMode") {
        0 => Glu::Halves { gate_first: args.bool("activateLeft") },
        _ => Glu::Clipped(Clipped {
            alpha: args.float("gluAlpha") as f32,
            limit: args.float("clampLimit") as f32,
            bias: args.float("gluBias") as f32,
            interleaved: true,
        }),
    };
    let row_groups = RowGroups { count: list.map_or(1, |list| size(list.dim(0))), rows: &groups, rest: false };
    let mut scales = dynamic.then(|| device.output::<f32>("scale", scale)).transpose()?;
    write_quantised(device, "y", y, |_, out| {
        let scales = scales.as_mut().map_or(&mut [][..], |scales| scales.slice());
        Ok(between(rows, size(x.dim(-1)) / 2, row_groups, glu, requantise, out, scales)?)
    })?;
    scales.map_or(Ok(()), |scales| scales.finish(device, "scale", scale))
}

/// Groups by a list of counts, of which negative ones are 0, or by one of pairs, which ends where a count is not above 0.
fn groups_of(device: &Device<'_>, list: &TensorDesc, rows: usize) -> Result<Vec<Group>, OpError> {
    let (values, count) = (device.packed::<i64>("groupIndex", list)?, size(list.dim(0)));
    let mut values = values.into_owned();
    let kind = if list.rank() == 2 {
        let end = values.as_chunks::<2>().0.iter().position(|[_, count]| *count <= 0).unwrap_or(count);
        values[2 * end..].fill(0);
        GroupListKind::KeyValue
    } else {
        values.iter_mut().for_each(|count| *count = (*count).max(0));
        GroupListKind::Count
    };
    decode(kind, &values, count, rows).map_err(OpError::GroupList)
}

/// Floats in, int8 or int4 out. The scale that goes out is what the rows were multiplied by.
pub(super) fn swiglu_quant(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let x = args.tensor("x").ok_or(OpError::Null("x"))?;
    check_outputs(args, &["yOut", "scaleOut"])?;
    with_float!(x.dtype, T => activated_rows::<T>(args, device, x))
}

fn activated_rows<T: Float>(args: &Args, device: &Device<'_>, x: &TensorDesc) -> Result<(), OpError> {
    let y = args.tensor("yOut").ok_or(OpError::Null("y"))?;
    let scale = args.tensor("scaleOut").ok_or(OpError::Null("scale"))?;
    let dynamic = args.text("quantModeOptional") == Some("dynamic");
    let floats = |name| args.tensor(name).map(|tensor| device.packed::<f32>(name, tensor)).transpose();
    let (smooth, offset) = (floats("smoothScalesOptional")?, floats("offsetsOptional")?);
    let list = args.tensor("groupIndexOptional");
    let groups = match list.filter(|_| smooth.is_some()) {
        Some(list) => {
            let values = device.wide("groupIndex", list)?;
            let kind = if args.int("groupListType") == 1 { GroupListKind::Count } else { GroupListKind::Cumsum };
            decode(kind, &values, values.len(), rows_of(x)).map_err(OpError::GroupList)?
        }
        None => vec![Group { expert: 0, rows: 0..rows_of(x) }],
    };
    let integer = if y.dtype == aclDataType::INT4 { Integer::Int4 } else { Integer::Int8 };
    let requantise = if dynamic {
        let quantiser = RowQuantiser { integer, scaling: Scaling::MultiplyByScale, conversion: Conversion::Nearest };
        Requantise::Dynamic { quantiser, smooth: smooth.as_deref() }
    } else {
        let scale = smooth.as_deref().ok_or(OpError::Null("smoothScales"))?;
        let offset = offset.as_deref().ok_or(OpError::Null("offsets"))?;
        Requantise::Static { integer, by: ScaleBy::Multiply, scale, offset }
    };
    let count = list.filter(|_| smooth.is_some()).map_or(1, |list| size(list.dim(0)));
    let row_groups = RowGroups { count, rows: &groups, rest: true };
    let glu = Glu::Halves { gate_first: args.bool("activateLeft") };
    let source = device.packed::<T>("x", x)?;
    let mut scales = dynamic.then(|| device.output::<f32>("scale", scale)).transpose()?;
    write_quantised(device, "y", y, |_, out| {
        let scales = scales.as_mut().map_or(&mut [][..], |scales| scales.slice());
        Ok(between(GatedRows::Floats(&source), size(x.dim(-1)) / 2, row_groups, glu, requantise, out, scales)?)
    })?;
    scales.map_or(Ok(()), |scales| scales.finish(device, "scale", scale))
}
