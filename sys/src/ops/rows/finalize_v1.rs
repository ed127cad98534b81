//! Row of the first finalize-routing operator, which is the second one by column and with nothing left out.

use super::check::{Checked, FLOATS, I32, same_dtype};
use super::combine::MOE_FINALIZE_ROUTING_V2 as V2;
use crate::info::OperatorId;
use crate::ops::rule::{Arg, Call, Codes, OpRow, Param, Rule};

const EXPANDED_X: usize = 0;
const SCALES: usize = 4;

/// Every slot kept, numbered by column.
const DROPLESS_BY_COLUMN: i64 = 0;

/// Rule `I` of the second operator, on the parameters that both have.
const fn shared<const I: usize>() -> Rule {
    Rule { check: check_as_v2::<I>, ..V2.rules[I] }
}

fn check_as_v2<const I: usize>(call: &Call<'_>) -> Checked {
    let arg = |index: usize| call.args.get(index).copied().unwrap_or(Arg::Tensor(None));
    let [x, x1, x2, bias, scales, rows, ids, out] = [0, 1, 2, 3, 4, 5, 6, 7].map(arg);
    let args = [x, rows, x1, x2, bias, scales, ids, Arg::Int(DROPLESS_BY_COLUMN), out];
    (V2.rules[I].check)(&Call { operator: OperatorId::MoeFinalizeRoutingV2, args: &args, release: call.release })
}

/// `aclnnMoeFinalizeRouting`:
/// `out[t] = x1[t] + x2[t] + sum_j scales[t, j] * (expandedX[row(t, j)] + bias[expert(t, j)])`, as [`V2`] with
/// dropPadMode 0.
///
/// With T tokens of width H, K choices each and E experts:
/// * `expandedX`: device, fp32, fp16 or bf16, `[T * K, H]`.
/// * `x1`: device, dtype of expandedX, `[T, H]`.
/// * `x2Optional`: the same; may be null.
/// * `bias`: device, dtype of expandedX, `[E, H]`, E >= K.
/// * `scales`: device, dtype of expandedX, `[T, K]`.
/// * `expandedRowIdx`: device, int32, `[T * K]`, choice j of token t at `j * T + t`: what `aclnnMoeInitRouting` gives.
/// * `expandedExpertIdx`: device, int32, `[T, K]`: the expert of each choice.
/// * `out`: device, dtype of expandedX, `[T, H]`.
pub(super) static MOE_FINALIZE_ROUTING: OpRow = OpRow {
    operator: OperatorId::MoeFinalizeRouting,
    codes: Codes::GENERATED,
    params: &[
        Param::input("expandedX", FLOATS).rank(2, 2),
        Param::input("x1", FLOATS).rank(2, 2),
        Param::input("x2Optional", FLOATS).rank(2, 2).optional(),
        Param::input("bias", FLOATS).rank(2, 2),
        Param::input("scales", FLOATS).rank(2, 2),
        Param::input("expandedRowIdx", I32).rank(1, 1),
        Param::input("expandedExpertIdx", I32).rank(2, 2),
        Param::output("out", FLOATS).rank(2, 2),
    ],
    rules: &[
        shared::<1>(),
        Rule::dtype("scales-dtype", "scales has the dtype of expandedX", |call| {
            same_dtype(call, ("scales", SCALES), ("expandedX", EXPANDED_X))
        }),
        shared::<4>(),
        shared::<5>(),
        shared::<7>(),
        shared::<9>(),
        shared::<10>(),
        shared::<11>(),
        shared::<12>(),
    ],
    source: "ops-transformer 9.1.0, moe/moe_finalize_routing (docs), moe/moe_finalize_routing_v2 (op_host tiling)",
    doubtful: "Tiling was not read: the rules are those of the second operator where the document has them too. The \
               document also wants T * K rows of expandedX; here expandedRowIdx must only stay below them. Whether \
               strides are taken is not said; whether dtypes that differ get 161002 or 561002 was not seen. That it \
               rounds as the second operator does is assumed.",
};
