//! Row of the second version of the router, which can also take experts from a table of tokens.

use super::check::{Checked, F32, FLOATS, I32, dim, one_of, require, shape_is};
use super::gating::MOE_GATING_TOP_K as V1;
use crate::constants::{aclDataType, aclnnStatus};
use crate::info::{OperatorId, Release};
use crate::ops::rule::{Arg, Call, Codes, OpRow, Param, Phase, Rule};

const INDEX: &[aclDataType] = &[aclDataType::INT32, aclDataType::INT64];
/// The most experts per token that a table gives.
const MAX_TABLE_K: i64 = 64;
/// `normType` of the root of softplus.
const SQRT_SOFTPLUS: i64 = 2;
/// The first release with this operator, whose rules are the only ones it has.
const FIRST: Release = Release::new(9, 2, 0);

const X: usize = 0;
const INPUT_IDS: usize = 2;
const TID2EID: usize = 3;
const K: usize = 4;
const K_GROUP: usize = 5;
const GROUP_COUNT: usize = 6;
const NORM_TYPE: usize = 9;

/// The op_api checks null pointers and dtypes; tiling does the rest, and its code is lost on the way.
const CODES: Codes = Codes {
    null: aclnnStatus::ERR_PARAM_NULLPTR,
    dtype: aclnnStatus::ERR_PARAM_INVALID,
    other: aclnnStatus::ERR_INNER_NULLPTR,
    phase: Phase::One,
};

/// Rule `I` of the first version, on the parameters that both have.
const fn shared<const I: usize>() -> Rule {
    Rule { check: check_as_v1::<I>, ..V1.rules[I] }
}

fn check_as_v1<const I: usize>(call: &Call<'_>) -> Checked {
    let arg = |index: usize| call.args.get(index).copied().unwrap_or(Arg::Tensor(None));
    let args = [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15].map(arg);
    (V1.rules[I].check)(&Call { operator: OperatorId::MoeGatingTopK, args: &args, release: FIRST })
}

/// `aclnnMoeGatingTopKV2`: as [`V1`], with a table of experts by token as another way to choose.
///
/// The parameters of [`V1`] mean what they mean there. With T tokens:
/// * `inputIdsOptional`: device, int32 or int64, `[T]`: the token id of each token; may be null.
/// * `tid2eidOptional`: device, int32 or int64, `[token ids, k]`: the experts of each token id; may be null. Where both
///   are given the experts are `tid2eid[inputIds[t], :]` in that order, and neither bias nor groups have a say.
/// * `normType`: 0 (softmax), 1 (sigmoid), 2 (root of softplus, without groups; weights are always divided by their
///   sum).
pub(super) static MOE_GATING_TOP_K_V2: OpRow = OpRow {
    operator: OperatorId::MoeGatingTopKV2,
    codes: CODES,
    params: &[
        Param::input("x", FLOATS).rank(2, 2),
        Param::input("biasOptional", FLOATS).rank(1, 1).optional(),
        Param::input("inputIdsOptional", INDEX).rank(1, 1).optional(),
        Param::input("tid2eidOptional", INDEX).rank(2, 2).optional(),
        Param::value("k"),
        Param::value("kGroup"),
        Param::value("groupCount"),
        Param::value("groupSelectMode"),
        Param::value("renorm"),
        Param::value("normType"),
        Param::value("outFlag"),
        Param::value("routedScalingFactor"),
        Param::value("eps"),
        Param::output("yOut", FLOATS).rank(2, 2),
        Param::output("expertIdxOut", I32).rank(2, 2),
        Param::output("outOut", F32).rank(2, 2),
    ],
    rules: &[
        Rule { dtype: true, ..shared::<0>() },
        Rule { dtype: true, ..shared::<1>() },
        shared::<2>(),
        shared::<3>(),
        Rule::new("table-k", "k is at most 64 where the experts are from a table", |call| {
            let k = call.int(K);
            require(!hash(call) || k <= MAX_TABLE_K, || format!("k {k}; the nearest legal value is {MAX_TABLE_K}"))
        }),
        Rule::new("table-shape", "tid2eid has k columns", |call| {
            let (columns, k) = (dim(call, TID2EID, 1), call.int(K));
            require(!hash(call) || columns == k, || format!("{columns} columns for k {k}"))
        }),
        Rule::new("input-ids-shape", "inputIds has one id per token", |call| {
            if hash(call) { shape_is(call, "inputIds", INPUT_IDS, &[dim(call, X, 0)]) } else { Ok(()) }
        }),
        shared::<12>(),
        shared::<4>(),
        shared::<5>(),
        shared::<6>(),
        Rule::new("norm-type", "0 (softmax), 1 (sigmoid) or 2 (root of softplus)", |call| {
            one_of(call, "normType", NORM_TYPE, &[0, 1, SQRT_SOFTPLUS])
        }),
        Rule::new("softplus-groups", "groupCount is 1 with normType 2", |call| {
            let groups = call.int(GROUP_COUNT);
            require(call.int(NORM_TYPE) != SQRT_SOFTPLUS || groups == 1, || format!("groupCount {groups}"))
        }),
        shared::<7>(),
        shared::<10>(),
        Rule::new("table-groups", "no group limit where the experts are from a table", |call| {
            let (kept, groups) = (call.int(K_GROUP), call.int(GROUP_COUNT));
            let limited = kept != groups && groups != dim(call, X, 1);
            require(!hash(call) || !limited, || format!("kGroup {kept} of groupCount {groups}"))
        }),
        shared::<8>(),
        shared::<9>(),
    ],
    source: "ops-transformer, master of August 2026, moe/moe_gating_top_k (docs of V2, op_api, op_host tiling, \
             op_kernel without groups)",
    doubtful: "No release has it yet: it is in 9.2.0-beta.2, written 9.2.0 in the list of functions. That Atlas A3 \
               takes normType 2 is what document, tiling and kernel of the newest source say; a somewhat older master \
               refused it there. An empty tensor escapes the check of dtypes of the op_api; tiling may refuse it. \
               Nothing checks token ids or experts of the table on the device.",
};

/// Whether the experts are from a table: both tensors are there.
fn hash(call: &Call<'_>) -> bool {
    call.tensor(INPUT_IDS).is_some() && call.tensor(TID2EID).is_some()
}
