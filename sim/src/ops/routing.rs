//! The operators that route tokens to experts and bring them back.

use ascend_sys::ops::TensorDesc;
use ascend_sys::{Release, aclDataType};
use bytemuck::Pod;
use moe_kernels::combine::{ExpertBias, Finalize, Held, Rounding, SlotOrder, Unpermute, finalize, unpermute};
use moe_kernels::element::Float;
use moe_kernels::gating::{
    Division, Dropped, Gating, GroupScore, Groups, Score, gating_chosen, gating_top_k as choose, look_up,
};
use moe_kernels::group_list::GroupListKind;
use moe_kernels::init_routing::{Placement, Routing};

use super::OpError;
use super::permute::{range_of_rows, size};
use super::quantise::{Expanded, expanded_quantiser};
use super::view::{Device, Output, check_outputs, with_float};
use crate::executor::Args;

/// Scores, choice and weights of the router; from its second version on the choice can be a table's.
pub(super) fn gating_top_k(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let x = args.tensor("x").ok_or(OpError::Null("x"))?;
    check_outputs(args, &["yOut", "expertIdxOut", "outOut"])?;
    with_float!(x.dtype, T => gate::<T>(args, device, x))
}

fn gate<T: Float>(args: &Args, device: &Device<'_>, x: &TensorDesc) -> Result<(), OpError> {
    let y = args.tensor("yOut").ok_or(OpError::Null("yOut"))?;
    let indices = args.tensor("expertIdxOut").ok_or(OpError::Null("expertIdxOut"))?;
    let out = args.tensor("outOut").filter(|_| args.bool("outFlag"));
    let experts = size(x.dim(1));
    let (count, keep) = (size(args.int("groupCount")), size(args.int("kGroup")));
    let grouped = count > 1 && count < experts && keep < count;
    // The kernel without groups divides by the sum from 9.0.0 on; the general one multiplies by its reciprocal.
    let division =
        if grouped || device.release() < Release::new(9, 0, 0) { Division::ByReciprocal } else { Division::ByQuotient };
    let (kind, always) = match args.int("normType") {
        1 => (Score::Sigmoid, true),
        2 => (Score::SqrtSoftplus, true),
        _ => (Score::Softmax(division), false),
    };
    let score = if args.int("groupSelectMode") == 1 { GroupScore::TopSum(2) } else { GroupScore::Max };
    let gating = Gating {
        top_k: size(args.int("k")),
        score: kind,
        groups: grouped.then_some(Groups { count, keep, score, dropped: Dropped::Removed }),
        renormalise: (always || args.int("renorm") == 1).then_some(Division::ByQuotient),
        eps: args.float("eps") as f32,
        scale: args.float("routedScalingFactor") as f32,
    };
    let bias = args.tensor("biasOptional").map(|bias| device.packed::<T>("bias", bias)).transpose()?;
    let logits = device.packed::<T>("x", x)?;
    let mut weights = device.output::<T>("y", y)?;
    let mut chosen = device.output::<i32>("expertIdx", indices)?;
    let mut scores = out.map(|out| device.output::<f32>("out", out)).transpose()?;
    let all = scores.as_mut().map(Output::slice);
    match (args.tensor("inputIdsOptional"), args.tensor("tid2eidOptional")) {
        (Some(ids), Some(table)) => {
            let (ids, table) = (device.wide("inputIds", ids)?, device.wide("tid2eid", table)?);
            let mut given = vec![0; chosen.slice().len()];
            look_up(&ids, &table, gating.top_k, &mut given)?;
            gating_chosen(&gating, &logits, experts, &given, weights.slice(), chosen.slice(), all)?;
        }
        _ => choose(&gating, &logits, experts, bias.as_deref(), weights.slice(), chosen.slice(), all)?,
    }
    weights.finish(device, "y", y)?;
    chosen.finish(device, "expertIdx", indices)?;
    match (scores, out) {
        (Some(scores), Some(out)) => scores.finish(device, "out", out),
        _ => Ok(()),
    }
}

/// Values of `quantMode`.
const STATIC: i64 = 0;
const DYNAMIC: i64 = 1;

/// Sorts the slots by expert and copies or quantises each token's row to its places.
pub(super) fn init_routing(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let x = args.tensor("x").ok_or(OpError::Null("x"))?;
    let ids = args.tensor("expertIdx").ok_or(OpError::Null("expertIdx"))?;
    let expanded = args.tensor("expandedXOut").ok_or(OpError::Null("expandedX"))?;
    let row_idx = args.tensor("expandedRowIdxOut").ok_or(OpError::Null("expandedRowIdx"))?;
    let counts = args.tensor("expertTokensCountOrCumsumOut").ok_or(OpError::Null("expertTokensCountOrCumsum"))?;
    let scale_out = args.tensor("expandedScaleOut").ok_or(OpError::Null("expandedScale"))?;
    check_outputs(args, &["expandedXOut", "expandedRowIdxOut", "expertTokensCountOrCumsumOut", "expandedScaleOut"])?;
    let experts = match args.ints("activeExpertRangeOptional") {
        Some(&[start, end]) => size(start)..size(end),
        _ => 0..size(args.int("expertNum")),
    };
    let rows = Expanded { x, expanded, top_k: size(ids.dim(1)).max(1) };
    let routing = Routing::new(&device.packed::<i32>("expertIdx", ids)?, experts)?;
    let mut index = device.output::<i32>("expandedRowIdx", row_idx)?;
    let active = args.int("activeNum");
    let placement = match args.int("dropPadMode") {
        1 => Placement::DropPad { capacity: size(args.int("expertCapacity")) },
        _ => Placement::Dropless { active_rows: (active > 0).then(|| size(active)) },
    };
    match placement {
        Placement::DropPad { capacity } => routing.drop_pad_index(capacity, index.slice())?,
        Placement::Dropless { .. } if args.int("rowIdxType") == 1 => routing.scatter_index(index.slice())?,
        Placement::Dropless { .. } => routing.gather_index(index.slice())?,
    }
    match args.int("quantMode") {
        STATIC => rows.by_static(args, device, &routing, placement)?,
        DYNAMIC => {
            let quantiser = expanded_quantiser(x, placement);
            rows.by_dynamic(args, device, &routing, placement, quantiser, ("expandedScale", scale_out))?;
        }
        _ => {
            // Rows are moved, not computed: only the size of their elements matters.
            match x.dtype.bytes() {
                Some(1) => copy::<u8>(device, &routing, placement, &rows)?,
                Some(2) => copy::<u16>(device, &routing, placement, &rows)?,
                Some(4) => copy::<u32>(device, &routing, placement, &rows)?,
                _ => return Err(OpError::DType(x.dtype)),
            }
            let scale = args.tensor("scaleOptional").filter(|_| matches!(placement, Placement::Dropless { .. }));
            if let Some(scale) = scale {
                let scales = device.packed::<f32>("scale", scale)?;
                let mut carried = device.output::<f32>("expandedScale", scale_out)?;
                let out = bytemuck::cast_slice_mut(carried.slice());
                routing.place(placement, bytemuck::cast_slice(&scales), size_of::<f32>(), rows.top_k, out)?;
                carried.finish(device, "expandedScale", scale_out)?;
            }
        }
    }
    index.finish(device, "expandedRowIdx", row_idx)?;
    if args.bool("expertTokensNumFlag") {
        let kind = match args.int("expertTokensNumType") {
            0 => GroupListKind::Cumsum,
            1 => GroupListKind::Count,
            _ => GroupListKind::KeyValue,
        };
        let mut counted = device.output::<i64>("expertTokensCountOrCumsum", counts)?;
        routing.write_counts(kind, counted.slice())?;
        counted.finish(device, "expertTokensCountOrCumsum", counts)?;
    }
    Ok(())
}

fn copy<T: Pod + Send + Sync>(
    device: &Device<'_>,
    routing: &Routing,
    placement: Placement,
    rows: &Expanded<'_>,
) -> Result<(), OpError> {
    let row_bytes = size(rows.x.dim(1)) * size_of::<T>();
    let source = device.packed::<T>("x", rows.x)?;
    let mut target = device.output::<T>("expandedX", rows.expanded)?;
    let out = bytemuck::cast_slice_mut(target.slice());
    routing.place(placement, bytemuck::cast_slice(&source), row_bytes, rows.top_k, out)?;
    target.finish(device, "expandedX", rows.expanded)
}

/// What the versions of finalize-routing call their parameters.
struct FinalizeNames {
    x1: &'static str,
    bias: &'static str,
    scales: &'static str,
    expert_idx: &'static str,
}

/// The weighted sum of each token's rows, with what is added beside them.
pub(super) fn finalize_routing(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let names = FinalizeNames {
        x1: "x1Optional",
        bias: "biasOptional",
        scales: "scalesOptional",
        expert_idx: "expertIdxOptional",
    };
    add_up(args, device, &names, args.int("dropPadMode"))
}

/// The same where every slot is kept and slots go by column.
pub(super) fn finalize_routing_first(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let names = FinalizeNames { x1: "x1", bias: "bias", scales: "scales", expert_idx: "expandedExpertIdx" };
    add_up(args, device, &names, 0)
}

fn add_up(args: &Args, device: &Device<'_>, names: &FinalizeNames, mode: i64) -> Result<(), OpError> {
    let expanded = args.tensor("expandedX").ok_or(OpError::Null("expandedX"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    check_outputs(args, &["out"])?;
    if out.is_empty() {
        return Ok(());
    }
    let scales = args.tensor(names.scales).map_or(expanded.dtype, |scales| scales.dtype);
    with_float!(expanded.dtype, T => {
        with_float!(scales, S => combine::<T, S>(args, device, names, mode, expanded, out))
    })
}

fn combine<T: Float, S: Float>(
    args: &Args,
    device: &Device<'_>,
    names: &FinalizeNames,
    mode: i64,
    expanded: &TensorDesc,
    out: &TensorDesc,
) -> Result<(), OpError> {
    let row_idx = args.tensor("expandedRowIdx").ok_or(OpError::Null("expandedRowIdx"))?;
    let optional = |name: &'static str| args.tensor(name).map(|tensor| device.packed::<T>(name, tensor)).transpose();
    let hidden = size(out.dim(-1));
    let tokens = size(out.dim(0));
    let row_index = device.packed::<i32>("expandedRowIdx", row_idx)?;
    let ids = args.tensor(names.expert_idx).map(|ids| device.packed::<i32>("expertIdx", ids)).transpose()?;
    let scales = args.tensor(names.scales).map(|scales| device.packed::<S>("scales", scales)).transpose()?;
    let (bias, x1, x2) = (optional(names.bias)?, optional(names.x1)?, optional("x2Optional")?);
    let bias = bias.as_deref().zip(ids.as_deref()).map(|(bias, expert_ids)| ExpertBias { bias, expert_ids });
    let operands = Finalize {
        expanded: &device.packed::<T>("expandedX", expanded)?,
        hidden,
        row_index: &row_index,
        top_k: row_index.len().checked_div(tokens).unwrap_or(0),
        order: if mode >= 2 { SlotOrder::RowMajor } else { SlotOrder::ColumnMajor },
        drop_pad: mode % 2 == 1,
        x1: x1.as_deref(),
        x2: x2.as_deref(),
        bias,
        scales: scales.as_deref(),
        rounding: if expanded.dtype == aclDataType::FLOAT16 { Rounding::EachStep } else { Rounding::Once },
    };
    let mut target = device.output::<T>("out", out)?;
    finalize(&operands, target.slice())?;
    target.finish(device, "out", out)
}

/// The weighted sum of each token's rows, or of those of a range of the sorted ones.
pub(super) fn token_unpermute(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let permuted = args.tensor("permutedTokens").ok_or(OpError::Null("permutedTokens"))?;
    let indices = args.tensor("sortedIndices").ok_or(OpError::Null("sortedIndices"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    let probs = args.tensor("probsOptional");
    check_outputs(args, &["out"])?;
    if out.is_empty() {
        return Ok(());
    }
    with_float!(permuted.dtype, T => with_float!(probs.map_or(permuted.dtype, |probs| probs.dtype), P => {
        let probabilities = probs.map(|probs| device.packed::<P>("probs", probs)).transpose()?;
        let operands = Unpermute {
            permuted: &device.packed::<T>("permutedTokens", permuted)?,
            hidden: size(out.dim(-1)),
            sorted_indices: &device.packed::<i32>("sortedIndices", indices)?,
            probs: probabilities.as_deref(),
            // Without probs only the operator with a range has an attribute for it.
            top_k: probs.map_or_else(|| size(args.int("numTopk")).max(1), |probs| size(probs.dim(1))),
            held: range_of_rows(args).map_or(Held::First, |(start, end)| Held::Range { start, end }),
        };
        let mut target = device.output::<T>("out", out)?;
        unpermute(&operands, target.slice())?;
        target.finish(device, "out", out)
    }))
}
