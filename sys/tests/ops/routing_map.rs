//! Calls of the operators that route by a map of flags.

use ascend_sys::OperatorId;

use crate::base;
use crate::build::{BF16, BOOL, Built, Case, F16, F32, I8, I32, spread, tensor};
use crate::limits::Limit;

const FLOATS: &[i32] = &[0, 1, 27];
const FLAGS: &[i32] = &[2, 12];
const PLAIN: &[i32] = &[0, 1, 2, 16, 27, 30, 35, 47];

pub(crate) fn limits_permute() -> Vec<Limit> {
    vec![
        ("tokens", FLOATS, PLAIN, 2..=2, false),
        ("routingMap", FLAGS, PLAIN, 2..=2, false),
        ("probsOptional", FLOATS, PLAIN, 2..=2, false),
        ("permuteTokensOut", FLOATS, PLAIN, 2..=2, false),
        ("permuteProbsOutOptional", FLOATS, PLAIN, 1..=1, false),
        ("sortedIndicesOut", &[3], PLAIN, 1..=1, false),
    ]
}

pub(crate) fn limits_unpermute() -> Vec<Limit> {
    vec![
        ("permutedTokens", FLOATS, PLAIN, 2..=2, false),
        ("sortedIndices", &[3], PLAIN, 1..=1, false),
        ("routingMapOptional", FLAGS, PLAIN, 2..=2, false),
        ("probsOptional", FLOATS, PLAIN, 2..=2, false),
        ("unpermutedTokens", FLOATS, PLAIN, 2..=2, false),
        ("outIndex", &[3], PLAIN, 1..=1, false),
        ("permuteTokenId", &[3], PLAIN, 1..=1, false),
        ("permuteProbs", FLOATS, PLAIN, 1..=1, false),
    ]
}

/// A call for so many tokens and experts that gives so many rows.
fn permute([tokens, experts, rows]: [i64; 3]) -> Built {
    Built::new(OperatorId::MoeTokenPermuteWithRoutingMap)
        .set("tokens", tensor(BF16, &[tokens, 32]))
        .set("routingMap", tensor(BOOL, &[tokens, experts]))
        .set("probsOptional", tensor(F32, &[tokens, experts]))
        .set("numOutTokens", i32::try_from(rows).unwrap())
        .set("permuteTokensOut", tensor(BF16, &[rows, 32]))
        .set("permuteProbsOutOptional", tensor(F32, &[rows]))
        .set("sortedIndicesOut", tensor(I32, &[rows]))
}

pub(crate) fn legal_permute() -> Vec<Built> {
    let base = permute([6, 8, 18]);
    vec![
        base.clone(),
        base.clone().null("probsOptional").null("permuteProbsOutOptional"),
        base.clone()
            .set("tokens", spread(tensor(F16, &[6, 32])))
            .set("routingMap", spread(tensor(I8, &[6, 8])))
            .set("probsOptional", tensor(F16, &[6, 8]))
            .set("permuteTokensOut", spread(tensor(F16, &[18, 32])))
            .set("permuteProbsOutOptional", tensor(F16, &[18])),
        // 20 rows are cut to whole numbers of them per token.
        base.clone().set("numOutTokens", 20),
        permute([6, 8, 0]),
        permute([6, 8, 48]).set("dropAndPad", true),
        permute([6, 8, 16]).set("dropAndPad", true).set("numOutTokens", 23),
        permute([2, 512, 1024]),
        permute([600, 2, 1200]).set("dropAndPad", true),
        permute([0, 8, 0]),
    ]
}

pub(crate) fn violations_permute() -> Vec<Case> {
    let call = || base(OperatorId::MoeTokenPermuteWithRoutingMap);
    let case = |call, rule| Case::new(call, rule, 161002);
    let many = 16_777_215;
    vec![
        case(
            call().set("probsOptional", tensor(F16, &[6, 8])).set("permuteProbsOutOptional", tensor(F16, &[18])),
            "probs-dtype",
        ),
        case(
            call().set("tokens", tensor(F16, &[6, 32])).set("permuteTokensOut", tensor(F16, &[18, 32])),
            "probs-dtype",
        ),
        case(call().set("permuteTokensOut", tensor(F32, &[18, 32])), "out-dtypes"),
        case(call().set("permuteProbsOutOptional", tensor(BF16, &[18])), "out-dtypes"),
        case(call().set("tokens", tensor(BF16, &[9, 32])).set("permuteTokensOut", tensor(BF16, &[18, 32])), "tokens"),
        case(call().set("probsOptional", tensor(F32, &[8, 6])), "probs-shape"),
        case(call().null("probsOptional"), "permuted-probs"),
        case(call().null("permuteProbsOutOptional"), "permuted-probs"),
        case(call().set("numOutTokens", 49), "num-out-tokens").also(&[
            "permuted-shape",
            "permuted-probs-shape",
            "sorted-shape",
        ]),
        case(permute([6, 8, 0]).set("numOutTokens", -1), "num-out-tokens"),
        Case::new(permute([1, 513, 513]), "top-k", 561103),
        Case::new(permute([1, many, 1]), "slots", 561103),
        Case::new(permute([many, 1, 0]), "slots", 561103),
        Case::new(permute([many / 2 + 1, 2, many + 1]), "slots", 561103),
        case(call().set("permuteTokensOut", tensor(BF16, &[17, 32])), "permuted-shape"),
        case(call().set("permuteTokensOut", tensor(BF16, &[18, 31])), "permuted-shape"),
        case(call().set("permuteProbsOutOptional", tensor(F32, &[6])), "permuted-probs-shape"),
        case(call().set("sortedIndicesOut", tensor(I32, &[6])), "sorted-shape"),
    ]
}

/// A call for so many tokens and experts from so many rows.
fn unpermute([tokens, experts, rows]: [i64; 3]) -> Built {
    Built::new(OperatorId::MoeTokenUnpermuteWithRoutingMap)
        .set("permutedTokens", tensor(BF16, &[rows, 32]))
        .set("sortedIndices", tensor(I32, &[rows]))
        .set("routingMapOptional", tensor(BOOL, &[tokens, experts]))
        .set("probsOptional", tensor(F32, &[tokens, experts]))
        .set("restoreShapeOptional", vec![tokens, 32])
        .set("unpermutedTokens", tensor(BF16, &[tokens, 32]))
        .set("outIndex", tensor(I32, &[rows]))
        .set("permuteTokenId", tensor(I32, &[rows]))
        .set("permuteProbs", tensor(F32, &[rows]))
}

pub(crate) fn legal_unpermute() -> Vec<Built> {
    let base = unpermute([6, 8, 18]);
    let unweighted = || base.clone().null("probsOptional").null("routingMapOptional").null("permuteProbs");
    vec![
        base.clone(),
        base.clone().null("restoreShapeOptional").null("permuteProbs"),
        base.clone()
            .set("permutedTokens", spread(tensor(F16, &[18, 32])))
            .set("routingMapOptional", tensor(I8, &[6, 8]))
            .set("probsOptional", tensor(F16, &[6, 8]))
            .set("unpermutedTokens", spread(tensor(F16, &[6, 32])))
            .set("permuteProbs", spread(tensor(F16, &[18]))),
        unweighted(),
        unweighted().set("paddedMode", true),
        unpermute([6, 8, 16]).set("paddedMode", true).null("routingMapOptional"),
        unpermute([1, 600, 512]),
        unpermute([6, 8, 0]),
        unpermute([0, 8, 0]),
    ]
}

pub(crate) fn violations_unpermute() -> Vec<Case> {
    let call = || base(OperatorId::MoeTokenUnpermuteWithRoutingMap);
    let padded = || unpermute([6, 8, 16]).set("paddedMode", true);
    let case = |call, rule| Case::new(call, rule, 561103);
    let before = |call, rule| Case::new(call, rule, 161002);
    vec![
        Case::new(
            call().null("probsOptional").null("restoreShapeOptional").set("unpermutedTokens", tensor(BF16, &[0, 32])),
            "token-count",
            161001,
        )
        .also(&["top-k"]),
        before(
            call().set("probsOptional", tensor(F16, &[6, 8])).set("permuteProbs", tensor(F16, &[18])),
            "probs-dtype",
        ),
        before(call().set("unpermutedTokens", tensor(F32, &[6, 32])), "out-dtypes"),
        before(call().set("permuteProbs", tensor(BF16, &[18])), "out-dtypes"),
        case(call().set("routingMapOptional", tensor(BOOL, &[8, 6])), "probs-shape"),
        case(call().null("routingMapOptional"), "map-with-probs"),
        case(call().set("restoreShapeOptional", vec![32, 6]), "restore-shape"),
        case(call().set("restoreShapeOptional", vec![6]), "restore-shape"),
        case(call().set("permutedTokens", tensor(BF16, &[17, 32])), "rows"),
        case(unpermute([6, 8, 17]), "top-k"),
        case(unpermute([1, 600, 513]), "top-k"),
        case(unpermute([6, 8, 17]).set("paddedMode", true), "capacity"),
        case(call().set("unpermutedTokens", tensor(BF16, &[5, 32])), "out-shape"),
        case(call().set("unpermutedTokens", tensor(BF16, &[6, 31])), "out-shape"),
        case(padded().null("permuteProbs"), "permuted-probs"),
        case(call().set("outIndex", tensor(I32, &[17])), "row-shapes"),
        case(call().set("permuteTokenId", tensor(I32, &[17])), "row-shapes"),
        case(call().set("permuteProbs", tensor(F32, &[6])), "row-shapes"),
    ]
}
