//! The older operators that sort tokens by expert.

use ascend_sys::ops::TensorDesc;
use bytemuck::Pod;
use moe_kernels::group_list::GroupListKind;
use moe_kernels::init_routing::{Placement, Routing};
use moe_kernels::permute::Permutation;
use moe_kernels::quantise::{Conversion, Integer, RowQuantiser, Scaling};

use super::OpError;
use super::quantise::Expanded;
use super::view::{Device, check_outputs};
use crate::executor::Args;

fn size(value: i64) -> usize {
    usize::try_from(value).unwrap_or(0)
}

/// A row of x in bytes.
fn row_bytes<T>(x: &TensorDesc) -> usize {
    size(x.dim(1)) * size_of::<T>()
}

/// Runs a block with `$T` standing for a type of the size of a dtype: rows are moved, not computed.
macro_rules! with_size {
    ($x:expr, $T:ident => $body:expr) => {
        match $x.dtype.bytes() {
            Some(2) => {
                type $T = u16;
                $body
            }
            Some(4) => {
                type $T = u32;
                $body
            }
            _ => Err(OpError::DType($x.dtype)),
        }
    };
}

/// Slots by number: where each went, which expert each row is for, and the first rows.
pub(super) fn first(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let x = args.tensor("x").ok_or(OpError::Null("x"))?;
    check_outputs(args, &["expandedXOut", "expandedRowIdxOut", "expandedExpertIdxOut"])?;
    with_size!(x, T => by_number::<T>(args, device, x))
}

fn by_number<T: Pod + Send + Sync>(args: &Args, device: &Device<'_>, x: &TensorDesc) -> Result<(), OpError> {
    let numbers = args.tensor("rowIdx").ok_or(OpError::Null("rowIdx"))?;
    let ids = args.tensor("expertIdx").ok_or(OpError::Null("expertIdx"))?;
    let expanded = args.tensor("expandedXOut").ok_or(OpError::Null("expandedX"))?;
    let row_idx = args.tensor("expandedRowIdxOut").ok_or(OpError::Null("expandedRowIdx"))?;
    let expert_idx = args.tensor("expandedExpertIdxOut").ok_or(OpError::Null("expandedExpertIdx"))?;
    let (numbers, ids) = (device.packed::<i32>("rowIdx", numbers)?, device.packed::<i32>("expertIdx", ids)?);
    let permutation = Permutation::new(&ids)?;
    let mut rows = device.output::<i32>("expandedRowIdx", row_idx)?;
    permutation.numbered_rows(&numbers, rows.slice())?;
    rows.finish(device, "expandedRowIdx", row_idx)?;
    let mut experts = device.output::<i32>("expandedExpertIdx", expert_idx)?;
    permutation.reorder(&ids, experts.slice())?;
    experts.finish(device, "expandedExpertIdx", expert_idx)?;
    let mut target = device.output::<T>("expandedX", expanded)?;
    if !target.slice().is_empty() {
        let source = device.packed::<T>("x", x)?;
        let (source, bytes) = (bytemuck::cast_slice(&source), bytemuck::cast_slice_mut(target.slice()));
        permutation.copy_numbered(source, row_bytes::<T>(x), size(x.dim(0)), &numbers, bytes)?;
    }
    target.finish(device, "expandedX", expanded)
}

/// Slots by row: where each went, the rows, and counts.
pub(super) fn second(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let x = args.tensor("x").ok_or(OpError::Null("x"))?;
    let counts = ["expertTokensCountOrCumsumOutOptional", "expertTokensBeforeCapacityOutOptional"];
    check_outputs(args, &["expandedXOut", "expandedRowIdxOut", counts[0], counts[1]])?;
    with_size!(x, T => by_row::<T>(args, device, x))
}

fn by_row<T: Pod + Send + Sync>(args: &Args, device: &Device<'_>, x: &TensorDesc) -> Result<(), OpError> {
    let ids = args.tensor("expertIdx").ok_or(OpError::Null("expertIdx"))?;
    let expanded = args.tensor("expandedXOut").ok_or(OpError::Null("expandedX"))?;
    let row_idx = args.tensor("expandedRowIdxOut").ok_or(OpError::Null("expandedRowIdx"))?;
    let (top_k, experts) = (size(ids.dim(1)).max(1), size(args.int("expertNumOptional")));
    let ids = device.packed::<i32>("expertIdx", ids)?;
    let source = device.packed::<T>("x", x)?;
    let source = bytemuck::cast_slice(&source);
    let mut target = device.output::<T>("expandedX", expanded)?;
    let mut index = device.output::<i32>("expandedRowIdx", row_idx)?;
    let routing = || Routing::complete(&ids, experts);
    if args.int("dropPadModeOptional") == 1 {
        let (routing, capacity) = (routing()?, size(args.int("expertCapacityOptional")));
        routing.drop_pad_index(capacity, index.slice())?;
        let bytes = bytemuck::cast_slice_mut(target.slice());
        routing.expand_drop_pad(source, row_bytes::<T>(x), top_k, capacity, bytes)?;
        if args.bool("expertTokensBeforeCapacityFlagOptional") {
            count(args, device, &routing, GroupListKind::Count, "expertTokensBeforeCapacityOutOptional")?;
        }
    } else {
        // Where nothing is counted, nothing need be known of the number of experts.
        let permutation = Permutation::new(&ids)?;
        permutation.rows(index.slice())?;
        permutation.copy(source, row_bytes::<T>(x), top_k, 0, bytemuck::cast_slice_mut(target.slice()))?;
        let kind = match args.int("expertTokensCountOrCumsumFlagOptional") {
            1 => Some(GroupListKind::Cumsum),
            2 => Some(GroupListKind::Count),
            _ => None,
        };
        if let Some(kind) = kind {
            count(args, device, &routing()?, kind, "expertTokensCountOrCumsumOutOptional")?;
        }
    }
    target.finish(device, "expandedX", expanded)?;
    index.finish(device, "expandedRowIdx", row_idx)
}

/// The same with the rows quantised.
pub(super) fn quantised(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let x = args.tensor("x").ok_or(OpError::Null("x"))?;
    let ids = args.tensor("expertIdx").ok_or(OpError::Null("expertIdx"))?;
    let expanded = args.tensor("expandedXOut").ok_or(OpError::Null("expandedX"))?;
    let row_idx = args.tensor("expandedRowIdxOut").ok_or(OpError::Null("expandedRowIdx"))?;
    let counts = ["expertTokensCountOrCumsumOutOptional", "expertTokensBeforeCapacityOutOptional"];
    let scale_out = "dynamicQuantScaleOutOptional";
    check_outputs(args, &["expandedXOut", "expandedRowIdxOut", counts[0], counts[1], scale_out])?;
    let rows = Expanded { x, expanded, top_k: size(ids.dim(1)).max(1) };
    let ids = device.packed::<i32>("expertIdx", ids)?;
    let (experts, active) = (size(args.int("expertNum")), size(args.int("activeNum")));
    let padded = args.int("dropPadMode") == 1;
    let counted = match args.int("expertTokensCountOrCumsumFlag") {
        _ if padded => args.bool("expertTokensBeforeCapacityFlag").then_some((GroupListKind::Count, counts[1])),
        1 => Some((GroupListKind::Cumsum, counts[0])),
        2 => Some((GroupListKind::Count, counts[0])),
        _ => None,
    };
    let by_expert = args.tensor("scaleOptional").is_some_and(|scale| scale.rank() == 2 && scale.dim(0) != 1);
    // Where nothing goes by expert, nothing need be known of the number of experts.
    let routing = match padded || counted.is_some() || by_expert {
        true => Routing::complete(&ids, experts)?,
        false => Routing::complete(&ids, ids.iter().max().map_or(0, |id| size(i64::from(*id) + 1)))?,
    };
    let placement = match padded {
        true => Placement::DropPad { capacity: size(args.int("expertCapacity")) },
        false => Placement::Dropless { active_rows: (active > 0).then_some(active) },
    };
    let mut index = device.output::<i32>("expandedRowIdx", row_idx)?;
    match placement {
        Placement::DropPad { capacity } => routing.drop_pad_index(capacity, index.slice())?,
        Placement::Dropless { .. } => routing.gather_index(index.slice())?,
    }
    index.finish(device, "expandedRowIdx", row_idx)?;
    if let Some((kind, name)) = counted {
        count(args, device, &routing, kind, name)?;
    }
    if expanded.is_empty() {
        return Ok(());
    }
    if args.int("quantMode") == 0 {
        return rows.by_static(args, device, &routing, placement);
    }
    let scale = args.tensor(scale_out).ok_or(OpError::Null(scale_out))?;
    rows.by_dynamic(args, device, &routing, placement, old_quantiser, ("dynamicQuantScale", scale))
}

/// How the older operator quantises: int8 by way of fp16.
fn old_quantiser(integer: Integer) -> RowQuantiser {
    let (scaling, conversion) = match integer {
        Integer::Int8 => (Scaling::Divide, Conversion::NearestCutHalf),
        Integer::Int4 => (Scaling::MultiplyOfReciprocal, Conversion::Nearest),
    };
    RowQuantiser { integer, scaling, conversion }
}

fn count(
    args: &Args,
    device: &Device<'_>,
    routing: &Routing,
    kind: GroupListKind,
    name: &'static str,
) -> Result<(), OpError> {
    let counts = args.tensor(name).ok_or(OpError::Null(name))?;
    let mut counted = device.output::<i32>(name, counts)?;
    routing.write_counts(kind, counted.slice())?;
    counted.finish(device, name, counts)
}
