//! Operator rows: what CANN accepts for each operator, as data. The simulator answers from a row as CANN would; the
//! safe layer holds a call against the same row before it is made.

mod desc;
mod rows;
mod rule;

pub use desc::{Dims, MAX_RANK, ScalarValue, TensorDesc};
pub use rows::{format_cast_storage, implied_group_type, swiglu_weight};
pub use rule::{Arg, Call, Codes, Layout, Null, OpRow, PLAIN_FORMATS, Param, Phase, Refusal, Rule, Violation};

use crate::info::OperatorId;

impl OperatorId {
    /// The operator's row.
    pub fn row(self) -> &'static OpRow {
        rows::row(self)
    }
}
