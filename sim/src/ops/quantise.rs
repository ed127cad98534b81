//! The operators that quantise rows.

use ascend_sys::aclDataType;
use ascend_sys::ops::TensorDesc;
use moe_kernels::KernelError;
use moe_kernels::element::Float;
use moe_kernels::group_list::{Group, GroupListKind, decode};
use moe_kernels::init_routing::{Placement, Routing};
use moe_kernels::quantise::{
    Along, Conversion, Given, Integer, RowQuantiser, Scaling, Smooth, dynamic_quantise, dynamic_quantise_asymmetric,
    static_quantise,
};

use super::OpError;
use super::dequant_swiglu::widened;
use super::lanes::axis;
use super::permute::size;
use super::view::{Device, check_outputs, with_float};
use crate::executor::Args;

/// Bytes of the unified buffer of a vector core.
const BUFFER: usize = 192 * 1024;

/// Hands the bytes of an output of int8, or of int4 as such or in int32, to `write`.
pub(super) fn write_quantised(
    device: &Device<'_>,
    name: &'static str,
    tensor: &TensorDesc,
    write: impl FnOnce(Integer, &mut [u8]) -> Result<(), OpError>,
) -> Result<(), OpError> {
    match tensor.dtype {
        aclDataType::INT8 => {
            let mut out = device.output::<i8>(name, tensor)?;
            write(Integer::Int8, bytemuck::cast_slice_mut(out.slice()))?;
            out.finish(device, name, tensor)
        }
        aclDataType::INT32 => {
            let mut out = device.output::<i32>(name, tensor)?;
            write(Integer::Int4, bytemuck::cast_slice_mut(out.slice()))?;
            out.finish(device, name, tensor)
        }
        aclDataType::INT4 => write(Integer::Int4, device.write_int4(name, tensor)?),
        other => Err(OpError::DType(other)),
    }
}

/// Rows of a tensor, all its dimensions but the last.
pub(super) fn rows_of(tensor: &TensorDesc) -> usize {
    tensor.shape.split_last().map_or(1, |(_, lead)| lead.iter().map(|&dim| size(dim)).product())
}

/// Each row to its greatest magnitude, or from its least to its greatest value where there is an offset.
pub(super) fn dynamic_quant(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let x = args.tensor("x").ok_or(OpError::Null("x"))?;
    let y = args.tensor("yOut").ok_or(OpError::Null("y"))?;
    let scale = args.tensor("scaleOut").ok_or(OpError::Null("scale"))?;
    check_outputs(args, &["yOut", "scaleOut", "offsetOut"])?;
    if x.is_empty() || y.is_empty() || scale.is_empty() {
        return Ok(());
    }
    with_float!(x.dtype, T => quantise_rows::<T>(args, device, x, y, scale))
}

fn quantise_rows<T: Float>(
    args: &Args,
    device: &Device<'_>,
    x: &TensorDesc,
    y: &TensorDesc,
    scale: &TensorDesc,
) -> Result<(), OpError> {
    let (width, rows) = (size(x.dim(-1)), rows_of(x));
    let factors =
        args.tensor("smoothScalesOptional").map(|smooth| device.packed::<T>("smoothScales", smooth)).transpose()?;
    let list = args.tensor("groupIndexOptional");
    let groups = list.filter(|_| factors.is_some()).map(|list| all_rows(device, list, rows)).transpose()?;
    let smooth = factors.as_deref().map(|factors| Smooth { factors, groups: groups.as_deref() });
    let source = device.packed::<T>("x", x)?;
    let mut scales = device.output::<f32>("scale", scale)?;
    match args.tensor("offsetOut") {
        Some(offset) => {
            let mut offsets = device.output::<f32>("offset", offset)?;
            write_quantised(device, "y", y, |integer, out| {
                let scales = scales.slice();
                Ok(dynamic_quantise_asymmetric(integer, &source, width, smooth, out, scales, offsets.slice())?)
            })?;
            offsets.finish(device, "offset", offset)?;
        }
        None => write_quantised(device, "y", y, |integer, out| {
            let scaling = dynamic_scaling(width, list.is_some(), smooth.is_some());
            let quantiser = RowQuantiser { integer, scaling, conversion: Conversion::Nearest };
            Ok(dynamic_quantise(quantiser, &source, width, smooth, out, scales.slice())?)
        })?,
    }
    scales.finish(device, "scale", scale)
}

/// How the kernel that a call takes finds its scales: those for several rows at a time do it in another way.
fn dynamic_scaling(width: usize, grouped: bool, smooth: bool) -> Scaling {
    let most = if smooth { 12_800 } else { 16_320 };
    let several = !grouped && (128..=most).contains(&width) && width.is_multiple_of(8);
    if several { Scaling::MultiplyOfProduct } else { Scaling::MultiplyOfReciprocal }
}

/// Groups whose ends a list holds; each row must be in one.
fn all_rows(device: &Device<'_>, list: &TensorDesc, rows: usize) -> Result<Vec<Group>, OpError> {
    let ends = device.wide("groupIndex", list)?;
    let groups = decode(GroupListKind::Cumsum, &ends, ends.len(), rows).map_err(OpError::GroupList)?;
    match groups.last().map_or(0, |group| group.rows.end) {
        actual if actual != rows => {
            Err(OpError::GroupList(KernelError::Length { what: "rows of all groups", expected: rows, actual }))
        }
        _ => Ok(groups),
    }
}

/// By scales and offsets that are given, for one of the last two dimensions.
pub(super) fn by_given(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let x = args.tensor("x").ok_or(OpError::Null("x"))?;
    let y = args.tensor("y").ok_or(OpError::Null("y"))?;
    let scale = args.tensor("scale").ok_or(OpError::Null("scale"))?;
    check_outputs(args, &["y"])?;
    if x.is_empty() {
        return Ok(());
    }
    let conversion = match args.text("roundMode") {
        Some("floor") => Conversion::Floor,
        Some("ceil") => Conversion::Ceil,
        Some("trunc") => Conversion::Truncate,
        _ => Conversion::Nearest,
    };
    let scale = widened(device, "scale", scale)?;
    let offset = args.tensor("offset").map(|offset| widened(device, "offset", offset)).transpose()?;
    // The first version has no axis.
    let along = match args.find_int("axis") {
        Some(at) if axis(at, x) + 1 < x.rank() => Along::Rows,
        _ => Along::Columns,
    };
    let given = Given { scale: &scale, offset: offset.as_deref(), squared: args.bool("sqrtMode"), along };
    with_float!(x.dtype, T => {
        let source = device.packed::<T>("x", x)?;
        write_quantised(device, "y", y, |integer, out| {
            Ok(static_quantise(integer, conversion, &source, size(x.dim(-1)), given, out)?)
        })
    })
}

/// Rows on their way to experts.
pub(super) struct Expanded<'a> {
    pub(super) x: &'a TensorDesc,
    pub(super) expanded: &'a TensorDesc,
    pub(super) top_k: usize,
}

impl Expanded<'_> {
    /// Rows by one scale and one offset.
    pub(super) fn by_static(
        &self,
        args: &Args,
        device: &Device<'_>,
        routing: &Routing,
        placement: Placement,
    ) -> Result<(), OpError> {
        let given = |name| -> Result<f32, OpError> {
            let tensor = args.tensor(name).ok_or(OpError::Null(name))?;
            device.packed::<f32>(name, tensor)?.first().copied().ok_or(OpError::Null(name))
        };
        let by = (given("scaleOptional")?, given("offsetOptional")?);
        with_float!(self.x.dtype, T => {
            let source = device.packed::<T>("x", self.x)?;
            write_quantised(device, "expandedX", self.expanded, |_, out| {
                Ok(routing.expand_static(placement, &source, self.top_k, by, out)?)
            })
        })
    }

    /// Rows each by a scale of its own, which goes to `scale`.
    pub(super) fn by_dynamic(
        &self,
        args: &Args,
        device: &Device<'_>,
        routing: &Routing,
        placement: Placement,
        quantiser: impl FnOnce(Integer) -> RowQuantiser,
        (name, scale): (&'static str, &TensorDesc),
    ) -> Result<(), OpError> {
        let smooth = args.tensor("scaleOptional").map(|smooth| device.packed::<f32>("scale", smooth)).transpose()?;
        let width = size(self.x.dim(1));
        let mut scales = device.output::<f32>(name, scale)?;
        with_float!(self.x.dtype, T => {
            let source = device.packed::<T>("x", self.x)?;
            write_quantised(device, "expandedX", self.expanded, |integer, out| {
                let (x, smooth) = ((&source[..], width), smooth.as_deref());
                let quantiser = quantiser(integer);
                Ok(routing.expand_dynamic(quantiser, placement, x, self.top_k, smooth, out, scales.slice())?)
            })
        })?;
        scales.finish(device, name, scale)
    }
}

/// How `aclnnMoeInitRoutingV3` quantises rows of x. Those that do not fit the buffer go through it in parts, and by way of
/// fp16.
pub(super) fn expanded_quantiser(x: &TensorDesc, placement: Placement) -> impl FnOnce(Integer) -> RowQuantiser {
    // Buffers of 21 bytes for each element, of two blocks of 32 bytes, and of 4 indices.
    let aligned = size(x.dim(1)).next_multiple_of(32 / x.dtype.bytes().unwrap_or(1).max(1));
    let in_parts = matches!(placement, Placement::Dropless { .. }) && 21 * aligned + 64 + 16 > BUFFER;
    let conversion = if in_parts { Conversion::NearestCutHalf } else { Conversion::Nearest };
    move |integer| RowQuantiser { integer, scaling: Scaling::Divide, conversion }
}
