//! The instances that serve the chosen experts, and which choices stay.

use ascend_sys::aclDataType;
use moe_kernels::expert_balance::{Balance, balance, prune};

use super::OpError;
use super::permute::size;
use super::view::{Device, check_outputs, with_float};
use crate::executor::Args;

/// The instance of each choice, and whether it stays where thresholds are given.
pub(super) fn update_expert(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let ids = args.tensor("expertIds").ok_or(OpError::Null("expertIds"))?;
    let table = args.tensor("eplbTable").ok_or(OpError::Null("eplbTable"))?;
    let out = args.tensor("balancedExpertIds").ok_or(OpError::Null("balancedExpertIds"))?;
    let keep = args.tensor("balancedActiveMask").ok_or(OpError::Null("balancedActiveMask"))?;
    check_outputs(args, &["balancedExpertIds", "balancedActiveMask"])?;
    let by = match args.int("balanceMode") {
        0 => Balance::ByRank { rank: size(args.int("localRankId")), ranks: size(args.int("worldSize")) },
        _ => Balance::ByToken,
    };
    let chosen = device.wide("expertIds", ids)?;
    let rows = device.packed::<i32>("eplbTable", table)?;
    let mut instances = vec![0; chosen.len()];
    balance(&chosen, size(ids.dim(1)), &rows, size(table.dim(1)), by, &mut instances)?;
    if out.dtype == aclDataType::INT64 {
        device.write_values("balancedExpertIds", out, instances.into_iter().map(i64::from))?;
    } else {
        device.write_values("balancedExpertIds", out, instances)?;
    }
    let pruning = (args.tensor("expertScalesOptional"), args.tensor("pruningThresholdOptional"));
    let (Some(scales), Some(threshold)) = pruning else { return Ok(()) };
    let thresholds = device.packed::<f32>("pruningThreshold", threshold)?;
    let active = args.tensor("activeMaskOptional").map(|mask| device.packed::<u8>("activeMask", mask)).transpose()?;
    let mut target = device.output::<u8>("balancedActiveMask", keep)?;
    with_float!(scales.dtype, S => {
        let scales = device.packed::<S>("expertScales", scales)?;
        Ok(prune::<S>(&scales, &thresholds, active.as_deref(), target.slice())?)
    })?;
    target.finish(device, "balancedActiveMask", keep)
}
