//! Calls of the operators that choose experts, sort tokens by them, and bring the rows back.

use ascend_sys::OperatorId;
use ascend_sys::ops::TensorDesc;

use crate::base;
use crate::build::{BF16, Built, Case, F16, F32, I8, I32, I64, V8_5, V9_0, spread, tensor};

/// A gating call without expert groups.
fn ungrouped_gating(tokens: i64, experts: i64, k: i32) -> Built {
    Built::new(OperatorId::MoeGatingTopK)
        .set("x", tensor(BF16, &[tokens, experts]))
        .set("biasOptional", tensor(BF16, &[experts]))
        .set("k", k)
        .set("kGroup", 1)
        .set("groupCount", 1)
        .set("normType", 1)
        .set("routedScalingFactor", 2.5)
        .set("eps", 1e-20)
        .set("yOut", tensor(BF16, &[tokens, k.into()]))
        .set("expertIdxOut", tensor(I32, &[tokens, k.into()]))
        .set("outOut", tensor(F32, &[tokens, experts]))
}

fn grouped_gating(groups: i32, kept: i32) -> Built {
    ungrouped_gating(4, 256, 8).set("groupCount", groups).set("kGroup", kept).set("groupSelectMode", 1)
}

fn with_k(call: Built, k: i32) -> Built {
    call.set("k", k).set("yOut", tensor(BF16, &[4, k.into()])).set("expertIdxOut", tensor(I32, &[4, k.into()]))
}

pub(crate) fn legal_gating() -> Vec<Built> {
    vec![
        grouped_gating(8, 4),
        ungrouped_gating(1, 1, 1),
        ungrouped_gating(4, 2048, 8).null("biasOptional"),
        grouped_gating(256, 64).set("groupSelectMode", 0),
        grouped_gating(8, 4).set("outOut", spread(tensor(F32, &[1, 1]))),
        grouped_gating(8, 4).set("outFlag", true).set("normType", 0).set("renorm", 1),
        with_k(grouped_gating(8, 4), 128),
        ungrouped_gating(4, 2048, 8).set("groupCount", 64).set("kGroup", 32),
    ]
}

pub(crate) fn violations_gating() -> Vec<Case> {
    let call = || base(OperatorId::MoeGatingTopK);
    let case = |call, rule| Case::new(call, rule, 561002);
    vec![
        case(call().set("biasOptional", tensor(F32, &[256])), "bias-dtype"),
        case(call().set("yOut", tensor(F32, &[4, 8])), "y-dtype"),
        case(ungrouped_gating(4, 2049, 8), "experts"),
        case(ungrouped_gating(0, 256, 8), "experts"),
        case(call().set("biasOptional", tensor(BF16, &[255])), "bias-shape"),
        case(grouped_gating(7, 4), "group-count"),
        case(grouped_gating(0, 4), "group-count").also(&["k-group"]),
        case(grouped_gating(8, 9), "k-group"),
        case(grouped_gating(8, 0), "k-group").also(&["k"]),
        case(with_k(call(), 129), "k"),
        case(with_k(call(), 0), "k"),
        case(call().set("groupSelectMode", 2), "group-select-mode"),
        case(call().set("groupSelectMode", -1), "group-select-mode"),
        case(grouped_gating(256, 256), "top2-group"),
        case(grouped_gating(128, 64), "group-size"),
        case(ungrouped_gating(4, 1320, 8).set("groupCount", 40).set("kGroup", 20), "group-size"),
        case(call().set("renorm", 2), "renorm"),
        case(call().set("renorm", -1), "renorm"),
        case(call().set("renorm", 1).on(V8_5), "renorm"),
        case(call().set("normType", 2), "norm-type"),
        case(call().set("yOut", tensor(BF16, &[4, 9])), "output-shapes"),
        case(call().set("expertIdxOut", tensor(I32, &[3, 8])), "output-shapes"),
        case(call().set("outFlag", true).set("outOut", tensor(F32, &[4, 255])), "output-shapes"),
    ]
}

/// 6 tokens with 2 choices each of 8 experts, every slot kept.
fn dropless() -> Built {
    Built::new(OperatorId::MoeInitRoutingV3)
        .set("x", tensor(BF16, &[6, 32]))
        .set("expertIdx", tensor(I32, &[6, 2]))
        .set("scaleOptional", tensor(F32, &[6]))
        .set("activeNum", 12)
        .set("expertNum", 8)
        .set("expertTokensNumType", 1)
        .set("expertTokensNumFlag", true)
        .set("quantMode", -1)
        .set("activeExpertRangeOptional", vec![0, 8])
        .set("expandedXOut", tensor(BF16, &[12, 32]))
        .set("expandedRowIdxOut", tensor(I32, &[12]))
        .set("expertTokensCountOrCumsumOut", tensor(I64, &[8]))
        .set("expandedScaleOut", tensor(F32, &[12]))
}

/// The same with `capacity` slots per expert.
fn drop_pad(capacity: i32) -> Built {
    let rows = i64::from(capacity);
    dropless()
        .set("dropPadMode", 1)
        .set("expertCapacity", capacity)
        .set("expandedXOut", tensor(BF16, &[8, rows, 32]))
        .set("expandedScaleOut", tensor(F32, &[8 * rows]))
}

/// The experts `start..end` of `experts`.
fn range(start: i64, end: i64, experts: i32) -> Built {
    dropless()
        .set("expertNum", experts)
        .set("activeExpertRangeOptional", vec![start, end])
        .set("expertTokensCountOrCumsumOut", tensor(I64, &[(end - start).max(0)]))
}

fn rows(call: Built, rows: i64) -> Built {
    call.set("expandedXOut", tensor(BF16, &[rows, 32])).set("expandedScaleOut", tensor(F32, &[rows]))
}

fn key_value(call: Built, experts: i64) -> Built {
    call.set("expertTokensNumType", 2).set("expertTokensCountOrCumsumOut", tensor(I64, &[experts, 2]))
}

/// The rows as int8, by one scale and one offset.
fn by_static(call: Built) -> Built {
    let TensorDesc { shape, .. } = call.with(|call| *call.tensor(13).unwrap());
    call.set("quantMode", 0)
        .set("scaleOptional", tensor(F32, &[1]))
        .set("offsetOptional", tensor(F32, &[1]))
        .set("expandedXOut", tensor(I8, &shape))
}

/// The rows as int8, each by a scale of its own, with factors for each expert.
fn by_dynamic(call: Built) -> Built {
    let TensorDesc { shape, .. } = call.with(|call| *call.tensor(13).unwrap());
    call.set("quantMode", 1).set("scaleOptional", tensor(F32, &[8, 32])).set("expandedXOut", tensor(I8, &shape))
}

pub(crate) fn legal_init() -> Vec<Built> {
    let no_token = dropless()
        .set("x", tensor(BF16, &[0, 32]))
        .set("expertIdx", tensor(I32, &[0, 2]))
        .set("scaleOptional", tensor(F32, &[0]))
        .set("activeNum", 0)
        .set("expandedRowIdxOut", tensor(I32, &[0]));
    let int8 = dropless().set("x", tensor(I8, &[6, 32])).set("expandedXOut", tensor(I8, &[12, 32]));
    let unused = dropless()
        .null("scaleOptional")
        .set("expandedScaleOut", tensor(F32, &[1, 2]))
        .set("expertTokensNumFlag", false)
        .set("expertTokensCountOrCumsumOut", tensor(I64, &[1]));
    vec![
        dropless(),
        dropless().set("x", spread(tensor(BF16, &[6, 32]))).set("rowIdxType", 1),
        dropless().null("activeExpertRangeOptional"),
        dropless().set("activeExpertRangeOptional", Vec::<i64>::new()),
        dropless().set("activeNum", -1),
        dropless().set("activeNum", 13),
        dropless().set("expertTokensNumType", 0),
        rows(dropless().set("activeNum", 5), 5),
        rows(no_token, 0),
        range(2, 6, 8),
        range(0, 1, 1),
        range(0, 10240, 10240),
        key_value(range(0, 5120, 5120), 5120),
        key_value(range(2, 6, 8), 8),
        int8,
        unused,
        by_dynamic(dropless()),
        by_dynamic(dropless()).set("scaleOptional", tensor(F32, &[1, 32])),
        by_dynamic(dropless()).null("scaleOptional"),
        by_dynamic(range(2, 6, 8)).set("scaleOptional", tensor(F32, &[4, 32])),
        by_dynamic(drop_pad(3)),
        by_static(dropless()).set("expandedScaleOut", tensor(F32, &[1, 2])),
        by_static(drop_pad(3)),
        drop_pad(3),
        drop_pad(6).set("activeNum", -9),
        key_value(drop_pad(1), 8).set("expertTokensNumFlag", false),
    ]
}

pub(crate) fn violations_init() -> Vec<Case> {
    let case = |call, rule| Case::new(call, rule, 561103).late();
    let int8 = || dropless().set("x", tensor(I8, &[6, 32])).set("expandedXOut", tensor(I8, &[12, 32]));
    vec![
        case(dropless().set("dropPadMode", 2), "drop-pad-mode"),
        case(drop_pad(3).set("dropPadMode", -1).set("expandedXOut", tensor(BF16, &[12, 32])), "drop-pad-mode")
            .also(&["expanded-scale-shape"]),
        case(drop_pad(3).on(V8_5), "drop-pad-mode"),
        case(dropless().set("activeNum", -2), "active-num"),
        case(rows(dropless().set("activeNum", 5).on(V8_5), 5), "active-num"),
        case(range(0, 8, 0), "expert-num").also(&["expert-range"]),
        case(dropless().set("activeExpertRangeOptional", vec![8]), "range-length"),
        case(dropless().set("activeExpertRangeOptional", vec![0, 4, 8]), "range-length"),
        case(dropless().null("activeExpertRangeOptional").on(V8_5), "range-length"),
        case(range(3, 3, 8), "expert-range"),
        case(range(-1, 4, 8), "expert-range"),
        case(range(4, 9, 8), "expert-range"),
        case(range(10, 10241, 10241), "expert-limit"),
        case(key_value(range(10, 5121, 5121), 5121), "expert-limit"),
        case(drop_pad(7), "capacity"),
        case(drop_pad(0), "capacity"),
        case(dropless().set("rowIdxType", 2), "row-idx-type"),
        case(dropless().set("rowIdxType", -1), "row-idx-type"),
        case(drop_pad(3).set("rowIdxType", 1), "drop-pad-row-idx"),
        case(
            drop_pad(3)
                .set("activeExpertRangeOptional", vec![0, 7])
                .set("expertTokensCountOrCumsumOut", tensor(I64, &[7])),
            "drop-pad-range",
        ),
        case(dropless().set("expertTokensNumType", 3), "count-type"),
        case(dropless().set("expertTokensNumType", -1), "count-type"),
        case(dropless().set("expertTokensNumType", 0).on(V8_5), "count-type"),
        case(drop_pad(3).set("expertTokensNumType", 0), "drop-pad-count"),
        case(key_value(drop_pad(3), 8), "drop-pad-count"),
        case(dropless().set("expertTokensNumFlag", false).on(V8_5), "count-flag"),
        case(dropless().set("quantMode", 2), "quant-mode"),
        case(dropless().set("quantMode", -2), "quant-mode"),
        case(by_static(dropless()).on(V8_5), "quant-mode"),
        case(by_dynamic(int8()), "int8-x"),
        case(by_static(int8()), "int8-x"),
        case(by_static(dropless()).null("scaleOptional"), "static-operands"),
        case(by_static(dropless()).null("offsetOptional"), "static-operands"),
        case(by_static(dropless()).set("scaleOptional", tensor(F32, &[6])), "scale-shape"),
        case(by_static(dropless()).set("offsetOptional", tensor(F32, &[1, 1])), "offset-shape"),
        case(by_dynamic(dropless()).set("scaleOptional", tensor(F32, &[6])), "scale-shape"),
        case(by_dynamic(dropless()).set("scaleOptional", tensor(F32, &[8, 31])), "scale-shape"),
        case(by_dynamic(range(2, 6, 8)), "scale-shape"),
        case(by_dynamic(dropless()).set("expandedXOut", tensor(BF16, &[12, 32])), "expanded-x-dtype"),
        case(by_static(dropless()).set("expandedXOut", tensor(BF16, &[12, 32])), "expanded-x-dtype"),
        case(
            by_dynamic(dropless()).null("scaleOptional").set("expandedScaleOut", tensor(F32, &[11])),
            "expanded-scale-shape",
        ),
        case(by_dynamic(drop_pad(3)).set("expandedScaleOut", tensor(F32, &[12])), "expanded-scale-shape"),
        case(dropless().set("x", tensor(BF16, &[5, 32])), "rows"),
        case(dropless().set("scaleOptional", tensor(F32, &[5])), "scale-shape"),
        case(dropless().set("scaleOptional", tensor(F32, &[6, 1])), "scale-shape"),
        case(dropless().set("expandedXOut", tensor(F16, &[12, 32])), "expanded-x-dtype"),
        case(dropless().set("expandedXOut", tensor(BF16, &[11, 32])), "expanded-x-shape"),
        case(dropless().set("expandedXOut", tensor(BF16, &[12, 31])), "expanded-x-shape"),
        case(drop_pad(3).set("expandedXOut", tensor(BF16, &[8, 4, 32])), "expanded-x-shape"),
        case(dropless().set("expandedRowIdxOut", tensor(I32, &[11])), "row-idx-shape"),
        case(dropless().set("expertTokensCountOrCumsumOut", tensor(I64, &[7])), "counts-shape"),
        case(dropless().set("expertTokensNumType", 2), "counts-shape"),
        case(dropless().set("expandedScaleOut", tensor(F32, &[11])), "expanded-scale-shape"),
        case(drop_pad(3).set("expandedScaleOut", tensor(F32, &[12])), "expanded-scale-shape"),
        case(dropless().on(V9_0).set("rowIdxType", 7), "row-idx-type"),
    ]
}

pub(crate) fn legal_finalize() -> Vec<Built> {
    let base = Built::new(OperatorId::MoeFinalizeRoutingV2)
        .set("expandedX", tensor(BF16, &[12, 32]))
        .set("expandedRowIdx", tensor(I32, &[12]))
        .set("x1Optional", tensor(BF16, &[6, 32]))
        .set("x2Optional", tensor(BF16, &[6, 32]))
        .set("biasOptional", tensor(BF16, &[8, 32]))
        .set("scalesOptional", tensor(BF16, &[6, 2]))
        .set("expertIdxOptional", tensor(I32, &[6, 2]))
        .set("out", tensor(BF16, &[6, 32]));
    let plain = base
        .clone()
        .null("x1Optional")
        .null("x2Optional")
        .null("biasOptional")
        .null("expertIdxOptional")
        .set("dropPadMode", 2);
    let no_token = plain
        .clone()
        .set("expandedX", tensor(BF16, &[0, 32]))
        .set("expandedRowIdx", tensor(I32, &[0]))
        .set("scalesOptional", tensor(BF16, &[0, 2]))
        .set("out", tensor(BF16, &[0, 32]));
    let one_choice = base
        .clone()
        .set("expandedRowIdx", tensor(I32, &[6]))
        .null("scalesOptional")
        .set("expertIdxOptional", tensor(I32, &[6, 1]));
    let padded = |mode| base.clone().set("dropPadMode", mode).set("expandedX", tensor(BF16, &[8, 3, 32]));
    vec![
        base.clone(),
        base.clone().set("scalesOptional", spread(tensor(F32, &[6, 2]))).null("x2Optional"),
        base.clone().set("expandedX", tensor(BF16, &[7, 32])),
        base.clone().set("biasOptional", tensor(BF16, &[2, 32])),
        one_choice.clone().set("scalesOptional", tensor(BF16, &[6, 1])),
        padded(1),
        padded(3),
        plain,
        no_token,
        one_choice,
    ]
}

pub(crate) fn violations_finalize() -> Vec<Case> {
    let call = || base(OperatorId::MoeFinalizeRoutingV2);
    let case = |call, rule| Case::new(call, rule, 561103);
    let summand = |name: &str, shape: &[i64]| case(call().set(name, tensor(F16, shape)), "summand-dtypes");
    vec![
        case(call().set("dropPadMode", 4), "drop-pad-mode"),
        case(call().set("dropPadMode", -1), "drop-pad-mode"),
        summand("x1Optional", &[6, 32]),
        summand("x2Optional", &[6, 32]),
        summand("biasOptional", &[8, 32]),
        summand("out", &[6, 32]),
        case(call().set("scalesOptional", tensor(F16, &[6, 2])), "scales-dtype"),
        case(call().set("expandedX", tensor(BF16, &[8, 3, 32])), "expanded-rank"),
        case(call().set("dropPadMode", 3).null("biasOptional"), "expanded-rank"),
        case(call().set("scalesOptional", tensor(BF16, &[5, 2])), "scales-shape"),
        case(call().set("x1Optional", tensor(BF16, &[5, 32])), "x1-shape"),
        case(call().null("x1Optional"), "x2-without-x1"),
        case(call().set("x2Optional", tensor(BF16, &[6, 31])), "x2-shape"),
        case(call().null("expertIdxOptional"), "bias-without-experts"),
        case(call().set("biasOptional", tensor(BF16, &[8, 31])), "bias-shape"),
        case(call().set("dropPadMode", 1).set("expandedX", tensor(BF16, &[7, 3, 32])), "bias-shape"),
        case(call().set("expertIdxOptional", tensor(I32, &[6, 3])), "expert-idx-shape"),
        case(call().set("biasOptional", tensor(BF16, &[1, 32])), "experts"),
        case(call().set("out", tensor(BF16, &[12, 32])), "out-shape"),
        case(call().set("out", tensor(BF16, &[6, 31])), "out-shape"),
    ]
}

pub(crate) fn legal_unpermute() -> Vec<Built> {
    let base = Built::new(OperatorId::MoeTokenUnpermute)
        .set("permutedTokens", tensor(BF16, &[12, 32]))
        .set("sortedIndices", tensor(I32, &[12]))
        .set("probsOptional", tensor(BF16, &[6, 2]))
        .set("out", tensor(BF16, &[6, 32]));
    vec![
        base.clone(),
        base.clone().set("probsOptional", tensor(F32, &[6, 2])).set("restoreShapeOptional", vec![1]),
        base.clone().null("probsOptional").set("out", tensor(BF16, &[12, 32])),
        many_choices(512),
    ]
}

/// One token with `k` choices.
fn many_choices(k: i64) -> Built {
    Built::new(OperatorId::MoeTokenUnpermute)
        .set("permutedTokens", tensor(BF16, &[k, 32]))
        .set("sortedIndices", tensor(I32, &[k]))
        .set("probsOptional", tensor(BF16, &[1, k]))
        .set("out", tensor(BF16, &[1, 32]))
}

pub(crate) fn violations_unpermute() -> Vec<Case> {
    let call = || base(OperatorId::MoeTokenUnpermute);
    let case = |call, rule| Case::new(call, rule, 561002);
    vec![
        Case::new(call().set("out", tensor(F32, &[6, 32])), "out-dtype", 161002),
        case(call().set("paddedMode", true), "padded-mode"),
        case(call().set("probsOptional", tensor(BF16, &[6, 3])), "indices-length"),
        case(many_choices(513), "top-k"),
        case(call().set("out", tensor(BF16, &[12, 32])), "out-shape"),
        case(call().null("probsOptional"), "out-shape"),
    ]
}
