//! Calls of the router with replicas.

use ascend_sys::OperatorId;

use crate::base;
use crate::build::{BF16, Built, Case, F32, I32, I64, spread, tensor};
use crate::limits::Limit;

const FLOATS: &[i32] = &[0, 1, 27];
const ANY: &[i32] = &[];
const PLAIN: &[i32] = &[0, 1, 2, 16, 27, 30, 35, 47];

pub(crate) fn limits_fused() -> Vec<Limit> {
    vec![
        ("x", FLOATS, PLAIN, 2..=2, false),
        ("addNum", FLOATS, PLAIN, 1..=1, false),
        ("mappingNum", ANY, PLAIN, 0..=8, false),
        ("mappingTable", ANY, PLAIN, 0..=8, false),
        ("y", &[0], PLAIN, 2..=2, false),
        ("indices", &[3], PLAIN, 2..=2, false),
    ]
}

/// A call without groups to speak of.
fn call(tokens: i64, experts: i64, k: i32) -> Built {
    Built::new(OperatorId::MoeFusedTopk)
        .set("x", tensor(BF16, &[tokens, experts]))
        .set("addNum", tensor(BF16, &[experts]))
        .set("mappingNum", tensor(I32, &[experts]))
        .set("mappingTable", tensor(I32, &[experts, 4]))
        .set("groupNum", 1)
        .set("groupTopk", 1)
        .set("topN", 1)
        .set("topK", k)
        .set("isNorm", true)
        .set("scale", 2.5)
        .set("enableExpertMapping", true)
        .set("y", tensor(F32, &[tokens, k.into()]))
        .set("indices", tensor(I32, &[tokens, k.into()]))
}

fn groups(count: i32, kept: i32, summed: i32) -> Built {
    call(6, 64, 8).set("groupNum", count).set("groupTopk", kept).set("topN", summed)
}

pub(crate) fn legal_fused() -> Vec<Built> {
    let unmapped = call(6, 64, 8).set("enableExpertMapping", false);
    vec![
        call(6, 64, 8),
        groups(8, 4, 2),
        groups(64, 64, 1),
        groups(1, 1, 64).set("x", spread(tensor(BF16, &[6, 64]))),
        unmapped.clone().null("mappingNum").null("mappingTable").set("isNorm", false),
        unmapped.set("mappingNum", tensor(I64, &[1, 1])).set("mappingTable", tensor(F32, &[7])),
        call(1, 1024, 1024).set("mappingTable", tensor(I32, &[1024, 128])),
        call(1, 512, 8).set("groupNum", 256).set("groupTopk", 1),
        call(0, 2000, 8).set("groupNum", 300).set("activateType", 1).set("addNum", tensor(BF16, &[1])),
    ]
}

pub(crate) fn violations_fused() -> Vec<Case> {
    let call = || base(OperatorId::MoeFusedTopk);
    let case = |call, rule| Case::new(call, rule, 161002);
    let chosen = |call: Built, k: i32| {
        let shape = [6, i64::from(k)];
        call.set("topK", k).set("y", tensor(F32, &shape)).set("indices", tensor(I32, &shape))
    };
    vec![
        Case::new(call().null("mappingNum"), "mapping-missing", 161001),
        Case::new(call().null("mappingTable"), "mapping-missing", 161001),
        case(call().set("addNum", tensor(F32, &[64])), "add-num-dtype"),
        case(call().set("mappingNum", tensor(I64, &[64])), "mapping-dtype"),
        case(call().set("mappingTable", tensor(F32, &[64, 4])), "mapping-dtype"),
        case(groups(0, 1, 1), "group-num").also(&["group-topk"]),
        case(groups(7, 1, 1), "group-num"),
        case(self::call(6, 514, 8).set("groupNum", 257), "group-num"),
        case(groups(8, 9, 1), "group-topk"),
        case(groups(8, 0, 1), "group-topk"),
        case(groups(8, 4, 9), "top-n"),
        case(groups(8, 4, 0), "top-n"),
        case(chosen(call(), 65), "top-k"),
        case(chosen(call(), 0), "top-k"),
        case(self::call(6, 1025, 8), "experts"),
        case(call().set("addNum", tensor(BF16, &[63])), "add-num-shape"),
        case(call().set("y", tensor(F32, &[6, 9])), "output-shapes"),
        case(call().set("indices", tensor(I32, &[5, 8])), "output-shapes"),
        case(call().set("mappingNum", tensor(I32, &[64, 1])), "mapping-shapes"),
        case(call().set("mappingTable", tensor(I32, &[63, 4])), "mapping-shapes"),
        case(call().set("mappingTable", tensor(I32, &[64])), "mapping-shapes"),
        case(call().set("mappingTable", tensor(I32, &[64, 129])), "mapping-shapes"),
        case(call().set("mappingTable", tensor(I32, &[64, 0])), "mapping-shapes"),
        Case::new(call().set("activateType", 1), "activate-type", 561103),
    ]
}
