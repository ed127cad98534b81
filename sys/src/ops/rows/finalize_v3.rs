//! Row of the third finalize-routing operator, which is the second one with experts that compute nothing.

use super::check::{Checked, FLOATS, I32, require};
use super::combine::MOE_FINALIZE_ROUTING_V2 as V2;
use crate::constants::aclnnStatus;
use crate::info::OperatorId;
use crate::ops::rule::{Arg, Call, Codes, OpRow, Param, Phase, Rule};

const DROP_PAD_MODE: usize = 11;
const RANGES: [(&str, usize); 3] = [("zeroExpertRange", 12), ("copyExpertRange", 13), ("constantExpertRange", 14)];
const OUT: usize = 15;

/// The op_api checks null pointers only; tiling does the rest, and its code is lost on the way.
const CODES: Codes = Codes {
    null: aclnnStatus::ERR_PARAM_NULLPTR,
    dtype: aclnnStatus::ERR_INNER_NULLPTR,
    other: aclnnStatus::ERR_INNER_NULLPTR,
    phase: Phase::One,
};

/// Rule `I` of the second operator, on the parameters that both have.
const fn shared<const I: usize>() -> Rule {
    Rule { check: check_as_v2::<I>, ..V2.rules[I] }
}

fn check_as_v2<const I: usize>(call: &Call<'_>) -> Checked {
    let arg = |index: usize| call.args.get(index).copied().unwrap_or(Arg::Tensor(None));
    let [x, rows, x1, x2, bias, scales, ids] = [0, 1, 2, 3, 4, 5, 6].map(arg);
    let args = [x, rows, x1, x2, bias, scales, ids, arg(DROP_PAD_MODE), arg(OUT)];
    (V2.rules[I].check)(&Call { operator: OperatorId::MoeFinalizeRoutingV2, args: &args, release: call.release })
}

/// `aclnnMoeFinalizeRoutingV3`: as [`V2`], with room for experts that compute nothing.
///
/// The parameters of [`V2`] mean what they mean there; without effect where the ranges are empty are:
/// * `xOptional`: device, dtype of expandedX, `[T, H]`: the tokens.
/// * `a1Optional`, `a2Optional`, `vOptional`: device, dtype of expandedX, `[constant experts, H]`.
/// * `zeroExpertRange`, `copyExpertRange`, `constantExpertRange`: host, int64, first expert and the one
///   behind the last.
pub(super) static MOE_FINALIZE_ROUTING_V3: OpRow = OpRow {
    operator: OperatorId::MoeFinalizeRoutingV3,
    codes: CODES,
    params: &[
        Param::input("expandedX", FLOATS).rank(2, 3),
        Param::input("expandedRowIdx", I32).rank(1, 1),
        Param::input("x1Optional", FLOATS).rank(2, 2).optional(),
        Param::input("x2Optional", FLOATS).rank(2, 2).optional(),
        Param::input("biasOptional", FLOATS).rank(2, 2).optional(),
        Param::input("scalesOptional", FLOATS).rank(2, 2).optional(),
        Param::input("expertIdxOptional", I32).rank(2, 2).optional(),
        Param::input("xOptional", FLOATS).rank(2, 2).optional(),
        Param::input("a1Optional", FLOATS).rank(2, 2).optional(),
        Param::input("a2Optional", FLOATS).rank(2, 2).optional(),
        Param::input("vOptional", FLOATS).rank(2, 2).optional(),
        Param::value("dropPadMode"),
        Param::required("zeroExpertRange"),
        Param::required("copyExpertRange"),
        Param::required("constantExpertRange"),
        Param::output("out", FLOATS).rank(2, 2),
    ],
    rules: &[
        shared::<0>(),
        shared::<1>(),
        shared::<2>(),
        shared::<3>(),
        shared::<4>(),
        shared::<5>(),
        shared::<6>(),
        shared::<7>(),
        shared::<8>(),
        shared::<9>(),
        shared::<10>(),
        shared::<11>(),
        shared::<12>(),
        Rule::not_carried("special-experts", "empty ranges of zero, copy and constant experts", |call| {
            let filled =
                |&&(_, index): &&(&str, usize)| matches!(call.ints(index), Some([start, end, ..]) if start < end);
            match RANGES.iter().find(filled) {
                Some((name, index)) => require(false, || format!("{name} {:?}", call.ints(*index))),
                None => Ok(()),
            }
        }),
    ],
    source: "ops-transformer 9.1.0, moe/moe_finalize_routing_v2 (docs and op_api of V3, op_host tiling and op_kernel \
             for A2 and A3)",
    doubtful: "The document lists A3 and says that zero experts add nothing, copy experts scale * (x + bias) and \
               constant experts scale * (a1 * x + a2 * v + bias). But the entry of the kernel for A2 and A3 hands neither x, a1, a2, \
               v nor the ranges to any of its variants, so there such slots would read expandedRowIdx like all others. \
               What a device does was not tried: no range is carried here. The document does not say what \
               expandedRowIdx holds for such slots. The op_api does not check the ranges for null; that is taken from \
               the document.",
};
