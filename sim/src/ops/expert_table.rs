//! Counting by expert.

use moe_kernels::expert_table::expert_ends;

use super::OpError;
use super::view::{Device, check_outputs};
use crate::executor::Args;

/// Where each expert's rows end.
pub(super) fn compute_expert_tokens(args: &Args, device: &Device<'_>) -> Result<(), OpError> {
    let sorted = args.tensor("sortedExperts").ok_or(OpError::Null("sortedExperts"))?;
    let out = args.tensor("out").ok_or(OpError::Null("out"))?;
    check_outputs(args, &["out"])?;
    let mut ends = device.output::<i32>("out", out)?;
    expert_ends(&device.packed::<i32>("sortedExperts", sorted)?, ends.slice())?;
    ends.finish(device, "out", out)
}
