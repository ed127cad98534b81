//! The rows, by repository of the operators.

mod gating;

use super::rule::OpRow;
use crate::info::OperatorId;

/// The row of an operator.
pub(super) fn row(id: OperatorId) -> &'static OpRow {
    match id {
        OperatorId::MoeGatingTopK => &gating::MOE_GATING_TOP_K,
        _ => &gating::MOE_GATING_TOP_K,
    }
}
