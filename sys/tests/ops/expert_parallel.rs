//! Calls of the operators that hold a part of the sorted rows, regroup rows of several ranks and choose instances.

use ascend_sys::OperatorId;

use crate::base;
use crate::build::{BF16, BOOL, Built, Case, F16, F32, I8, I32, I64, spread, tensor};
use crate::limits::Limit;

const FLOATS: &[i32] = &[0, 1, 27];
const INTEGERS: &[i32] = &[3, 9];
const ROWS: &[i32] = &[1, 2, 27];
const PLAIN: &[i32] = &[0, 1, 2, 16, 27, 30, 35, 47];

pub(crate) fn limits_permute() -> Vec<Limit> {
    vec![
        ("tokens", FLOATS, PLAIN, 2..=2, false),
        ("indices", INTEGERS, PLAIN, 1..=2, false),
        ("probsOptional", FLOATS, PLAIN, 1..=2, false),
        ("permuteTokensOut", FLOATS, PLAIN, 2..=2, true),
        ("sortedIndicesOut", &[3], PLAIN, 1..=1, true),
        ("permuteProbsOut", FLOATS, PLAIN, 1..=1, true),
    ]
}

pub(crate) fn limits_unpermute() -> Vec<Limit> {
    vec![
        ("permutedTokens", FLOATS, PLAIN, 2..=2, false),
        ("sortedIndices", &[3], PLAIN, 1..=1, false),
        ("probsOptional", FLOATS, PLAIN, 2..=2, false),
        ("out", FLOATS, PLAIN, 2..=2, false),
    ]
}

pub(crate) fn limits_re_routing() -> Vec<Limit> {
    vec![
        ("tokens", ROWS, PLAIN, 2..=2, false),
        ("expertTokenNumPerRank", INTEGERS, PLAIN, 2..=2, false),
        ("perTokenScalesOptional", &[0], PLAIN, 1..=1, false),
        ("permuteTokensOut", ROWS, PLAIN, 2..=2, false),
        ("permutePerTokenScalesOut", &[0], PLAIN, 1..=1, false),
        ("permuteTokenIdxOut", &[3], PLAIN, 1..=1, false),
        ("expertTokenNumOut", INTEGERS, PLAIN, 1..=1, false),
    ]
}

pub(crate) fn limits_update() -> Vec<Limit> {
    vec![
        ("expertIds", INTEGERS, PLAIN, 2..=2, false),
        ("eplbTable", &[3], PLAIN, 2..=2, false),
        ("expertScalesOptional", FLOATS, PLAIN, 2..=2, false),
        ("pruningThresholdOptional", &[0], PLAIN, 1..=2, false),
        ("activeMaskOptional", &[12], PLAIN, 1..=1, false),
        ("balancedExpertIds", INTEGERS, PLAIN, 2..=2, true),
        ("balancedActiveMask", &[12], PLAIN, 2..=2, false),
    ]
}

pub(crate) fn legal_permute() -> Vec<Built> {
    let base = Built::new(OperatorId::MoeTokenPermuteWithEp)
        .set("tokens", tensor(BF16, &[6, 32]))
        .set("indices", tensor(I32, &[6, 2]))
        .set("probsOptional", tensor(BF16, &[6, 2]))
        .set("rangeOptional", vec![3, 8])
        .set("permuteTokensOut", tensor(BF16, &[5, 32]))
        .set("sortedIndicesOut", tensor(I32, &[12]))
        .set("permuteProbsOut", tensor(BF16, &[5]));
    let all = || base.clone().set("permuteTokensOut", tensor(BF16, &[12, 32]));
    vec![
        base.clone(),
        base.clone().set("numOutTokens", 8),
        base.clone().set("numOutTokens", 99),
        base.clone().set("tokens", spread(tensor(BF16, &[6, 32]))).set("indices", tensor(I64, &[6, 2])),
        base.clone().null("probsOptional").set("permuteProbsOut", tensor(BF16, &[0])),
        base.clone()
            .set("indices", tensor(I32, &[6]))
            .set("probsOptional", tensor(BF16, &[6]))
            .set("rangeOptional", vec![0, 6])
            .set("permuteTokensOut", tensor(BF16, &[6, 32]))
            .set("sortedIndicesOut", tensor(I32, &[6]))
            .set("permuteProbsOut", tensor(BF16, &[6])),
        all().null("rangeOptional"),
        all().set("rangeOptional", Vec::<i64>::new()),
        all().set("rangeOptional", vec![0, 0]),
        base.clone().null("rangeOptional").set("numOutTokens", -7),
    ]
}

pub(crate) fn violations_permute() -> Vec<Case> {
    let call = || base(OperatorId::MoeTokenPermuteWithEp);
    let case = |call, rule| Case::new(call, rule, 561002);
    let carried = |call, rule| Case::new(call, rule, 561003);
    let many = 16_777_215;
    vec![
        Case::new(call().set("permuteTokensOut", tensor(F32, &[5, 32])), "one-dtype", 161002),
        Case::new(call().set("probsOptional", tensor(F32, &[6, 2])), "one-dtype", 161002),
        Case::new(call().set("permuteProbsOut", tensor(F16, &[5])), "one-dtype", 161002),
        case(call().set("paddedMode", true), "padded-mode"),
        case(call().set("tokens", tensor(BF16, &[5, 32])), "tokens"),
        case(
            call()
                .set("tokens", tensor(BF16, &[many, 32]))
                .set("indices", tensor(I32, &[many]))
                .set("probsOptional", tensor(BF16, &[many]))
                .set("sortedIndicesOut", tensor(I32, &[many])),
            "slots",
        ),
        case(call().set("probsOptional", tensor(BF16, &[12])), "probs-shape"),
        case(call().set("rangeOptional", vec![3]), "range-length").also(&["permuted-shape"]),
        carried(call().set("rangeOptional", vec![-1, 4]), "range"),
        carried(call().set("rangeOptional", vec![8, 13]), "range"),
        carried(
            call()
                .set("rangeOptional", vec![4, 4])
                .set("permuteTokensOut", tensor(BF16, &[0, 32]))
                .set("permuteProbsOut", tensor(BF16, &[0])),
            "range",
        ),
        carried(call().set("numOutTokens", 7), "range-is-cut"),
        carried(call().set("numOutTokens", -1), "range-is-cut"),
        case(call().set("permuteTokensOut", tensor(BF16, &[4, 32])), "permuted-shape"),
        case(call().set("permuteTokensOut", tensor(BF16, &[5, 31])), "permuted-shape"),
        case(call().set("sortedIndicesOut", tensor(I32, &[5])), "sorted-shape"),
        case(call().set("permuteProbsOut", tensor(BF16, &[12])), "permuted-probs-shape"),
    ]
}

pub(crate) fn legal_unpermute() -> Vec<Built> {
    let base = Built::new(OperatorId::MoeTokenUnpermuteWithEp)
        .set("permutedTokens", tensor(BF16, &[5, 32]))
        .set("sortedIndices", tensor(I32, &[12]))
        .set("probsOptional", tensor(F32, &[6, 2]))
        .set("numTopk", 2)
        .set("rangeOptional", vec![3, 8])
        .set("out", tensor(BF16, &[6, 32]));
    vec![
        base.clone(),
        base.clone().set("out", spread(tensor(BF16, &[6, 32]))).set("restoreShapeOptional", vec![1]),
        base.clone().null("probsOptional"),
        base.clone().null("rangeOptional"),
        base.clone()
            .null("probsOptional")
            .set("rangeOptional", vec![0, 0])
            .set("numTopk", 1)
            .set("out", tensor(BF16, &[12, 32])),
        base.clone()
            .set("sortedIndices", tensor(I32, &[512]))
            .set("probsOptional", tensor(F16, &[1, 512]))
            .set("numTopk", 512)
            .set("out", tensor(BF16, &[1, 32])),
    ]
}

pub(crate) fn violations_unpermute() -> Vec<Case> {
    let call = || base(OperatorId::MoeTokenUnpermuteWithEp);
    let case = |call, rule| Case::new(call, rule, 561002);
    let carried = |call, rule| Case::new(call, rule, 561003);
    vec![
        Case::new(call().set("out", tensor(F16, &[6, 32])), "out-dtype", 161002),
        case(call().set("paddedMode", true), "padded-mode"),
        case(call().set("numTopk", 1), "top-k").also(&["out-shape"]),
        case(call().set("numTopk", 0).null("probsOptional"), "top-k").also(&["out-shape"]),
        case(
            call()
                .set("sortedIndices", tensor(I32, &[513]))
                .null("probsOptional")
                .set("numTopk", 513)
                .set("out", tensor(BF16, &[1, 32])),
            "top-k",
        ),
        case(call().set("probsOptional", tensor(F32, &[5, 2])), "indices-length"),
        case(call().set("sortedIndices", tensor(I32, &[13])).null("probsOptional"), "indices-length"),
        case(call().set("rangeOptional", vec![1, 2, 3]), "range-length"),
        carried(call().set("rangeOptional", vec![-1, 4]), "range"),
        carried(call().set("rangeOptional", vec![4, 4]), "range"),
        carried(call().set("rangeOptional", vec![8, 13]), "range"),
        carried(call().null("rangeOptional").null("probsOptional"), "choices-without-probs"),
        case(call().set("out", tensor(BF16, &[5, 32])), "out-shape"),
        case(call().set("out", tensor(BF16, &[6, 31])), "out-shape"),
    ]
}

pub(crate) fn legal_re_routing() -> Vec<Built> {
    let base = Built::new(OperatorId::MoeReRouting)
        .set("tokens", tensor(I8, &[20, 32]))
        .set("expertTokenNumPerRank", tensor(I64, &[4, 3]))
        .set("perTokenScalesOptional", tensor(F32, &[20]))
        .set("expertTokenNumType", 1)
        .set("permuteTokensOut", tensor(I8, &[20, 32]))
        .set("permutePerTokenScalesOut", tensor(F32, &[20]))
        .set("permuteTokenIdxOut", tensor(I32, &[20]))
        .set("expertTokenNumOut", tensor(I64, &[3]));
    let wide = |hidden| {
        let rows = tensor(BF16, &[20, hidden]);
        base.clone().set("tokens", rows).set("permuteTokensOut", rows).null("perTokenScalesOptional")
    };
    vec![
        base.clone(),
        base.clone()
            .set("expertTokenNumPerRank", spread(tensor(I32, &[4, 3])))
            .set("expertTokenNumOut", tensor(I32, &[3])),
        wide(1),
        wide(16384).set("permutePerTokenScalesOut", tensor(F32, &[1])),
        base.set("tokens", tensor(F16, &[0, 32]))
            .set("perTokenScalesOptional", tensor(F32, &[0]))
            .set("permuteTokensOut", tensor(F16, &[0, 32]))
            .set("permutePerTokenScalesOut", tensor(F32, &[0]))
            .set("permuteTokenIdxOut", tensor(I32, &[0])),
    ]
}

pub(crate) fn violations_re_routing() -> Vec<Case> {
    let call = || base(OperatorId::MoeReRouting);
    let case = |call, rule| Case::new(call, rule, 561002);
    let wide = |hidden| {
        let rows = tensor(I8, &[20, hidden]);
        call().set("tokens", rows).set("permuteTokensOut", rows)
    };
    vec![
        Case::new(call().set("permuteTokensOut", tensor(BF16, &[20, 32])), "out-dtypes", 161002),
        Case::new(call().set("expertTokenNumOut", tensor(I32, &[3])), "out-dtypes", 161002),
        case(call().set("expertTokenNumType", 0), "count-type"),
        case(call().set("expertTokenNumType", 2), "count-type"),
        case(call().set("idxType", 1), "index-type"),
        case(wide(0), "hidden"),
        case(wide(16385), "hidden"),
        case(call().set("expertTokenNumPerRank", tensor(I64, &[0, 3])), "blocks"),
        case(
            call().set("expertTokenNumPerRank", tensor(I64, &[4, 0])).set("expertTokenNumOut", tensor(I64, &[0])),
            "blocks",
        ),
        case(call().set("perTokenScalesOptional", tensor(F32, &[19])), "scales-shape").also(&["permuted-scales-shape"]),
        case(call().set("permuteTokensOut", tensor(I8, &[20, 31])), "permuted-shape"),
        case(call().set("permutePerTokenScalesOut", tensor(F32, &[19])), "permuted-scales-shape"),
        case(call().set("permuteTokenIdxOut", tensor(I32, &[19])), "index-shape"),
        case(call().set("expertTokenNumOut", tensor(I64, &[4])), "counts-shape"),
    ]
}

/// A call for so many tokens, choices, experts and columns of the table.
fn update([tokens, k, experts, columns]: [i64; 4]) -> Built {
    Built::new(OperatorId::MoeUpdateExpert)
        .set("expertIds", tensor(I64, &[tokens, k]))
        .set("eplbTable", tensor(I32, &[experts, columns]))
        .set("expertScalesOptional", tensor(BF16, &[tokens, k]))
        .set("pruningThresholdOptional", tensor(F32, &[k]))
        .set("activeMaskOptional", tensor(BOOL, &[tokens]))
        .set("localRankId", 7)
        .set("worldSize", 8)
        .set("balancedExpertIds", tensor(I64, &[tokens, k]))
        .set("balancedActiveMask", tensor(BOOL, &[tokens, k]))
}

pub(crate) fn legal_update() -> Vec<Built> {
    let base = || update([6, 4, 32, 5]);
    let unpruned = base().null("expertScalesOptional").null("pruningThresholdOptional").null("activeMaskOptional");
    vec![
        base(),
        base().set("pruningThresholdOptional", tensor(F32, &[1, 4])).null("activeMaskOptional"),
        unpruned.clone(),
        unpruned.set("expertIds", spread(tensor(I32, &[6, 4]))).set("balancedExpertIds", tensor(I32, &[6, 4])),
        update([512, 16, 1024, 9]),
        update([1, 1, 1, 2]).set("localRankId", 0).set("worldSize", 2),
        update([1, 1, 1, 769]).set("localRankId", 767).set("worldSize", 768),
        update([6, 4, 4, 769]).set("balanceMode", 1).set("worldSize", 0).set("localRankId", -1),
    ]
}

pub(crate) fn violations_update() -> Vec<Case> {
    let call = || base(OperatorId::MoeUpdateExpert);
    let case = |call, rule| Case::new(call, rule, 561002);
    vec![
        Case::new(call().set("balancedExpertIds", tensor(I32, &[6, 4])), "ids-dtype", 161002),
        case(call().set("balanceMode", 2), "balance-mode"),
        case(call().set("balanceMode", -1), "balance-mode"),
        case(call().set("worldSize", 1).set("localRankId", 0), "world-size").also(&["table-width"]),
        case(call().set("worldSize", 769), "world-size"),
        case(call().set("localRankId", 8), "local-rank"),
        case(call().set("localRankId", -1), "local-rank"),
        case(update([0, 4, 32, 5]), "tokens"),
        case(update([513, 4, 32, 5]), "tokens"),
        case(update([6, 0, 32, 5]), "top-k"),
        case(update([6, 17, 32, 5]), "top-k"),
        case(update([6, 4, 3, 5]), "experts"),
        case(update([6, 4, 1025, 5]), "experts"),
        case(update([6, 4, 32, 1]), "table-width"),
        case(update([6, 4, 32, 10]), "table-width"),
        case(update([6, 4, 32, 770]).set("balanceMode", 1), "table-width"),
        case(call().set("expertScalesOptional", tensor(BF16, &[6, 3])), "scales-shape"),
        case(call().set("pruningThresholdOptional", tensor(F32, &[3])), "threshold-shape"),
        case(call().set("pruningThresholdOptional", tensor(F32, &[4, 1])), "threshold-shape"),
        case(call().set("activeMaskOptional", tensor(BOOL, &[5])), "mask-shape"),
        case(call().null("expertScalesOptional"), "pruning"),
        case(call().null("pruningThresholdOptional").null("activeMaskOptional"), "pruning"),
        case(call().null("expertScalesOptional").null("pruningThresholdOptional"), "pruning"),
        case(call().set("balancedExpertIds", tensor(I64, &[6, 3])), "ids-shape"),
        case(call().set("balancedActiveMask", tensor(BOOL, &[4, 6])), "keep-shape"),
    ]
}
