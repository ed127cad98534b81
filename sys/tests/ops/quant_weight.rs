//! Calls of what prepares quantised weights and scales.

use ascend_sys::ops::TensorDesc;
use ascend_sys::{OperatorId, aclDataType, aclFormat};

use crate::build::{Built, Case, F32, I32, I64, packed, spread, tensor};
use crate::limits::{CONTIGUOUS, Limit, PLAIN, STRIDED};

const I4: aclDataType = aclDataType::INT4;
const U64: aclDataType = aclDataType::UINT64;

fn param(scale: &[i64], offset: Option<&[i64]>, out: &[i64]) -> Built {
    let call = Built::new(OperatorId::TransQuantParamV2).set("scale", tensor(F32, scale)).set("out", tensor(U64, out));
    match offset {
        Some(offset) => call.set("offset", tensor(F32, offset)),
        None => call,
    }
}

pub(crate) fn legal_param() -> Vec<Built> {
    vec![
        param(&[4], Some(&[4]), &[4]),
        param(&[4], None, &[4]),
        param(&[3, 4], None, &[3, 4]),
        param(&[4], Some(&[1]), &[4]),
        param(&[1], Some(&[4]), &[4]),
        param(&[1], Some(&[1]), &[1]),
        param(&[1, 4], Some(&[1, 4]), &[1, 4]),
        param(&[1, 4], Some(&[4]), &[1, 4]),
        param(&[1, 4], None, &[1, 4]).set("out", spread(tensor(I64, &[1, 4]))),
    ]
}

pub(crate) fn violations_param() -> Vec<Case> {
    let case = |call, rule| Case::new(call, rule, 561002);
    vec![
        case(param(&[0], None, &[0]), "empty"),
        case(param(&[4], Some(&[3]), &[4]), "offset-shape"),
        case(param(&[3, 4], Some(&[1]), &[3, 4]), "offset-shape"),
        case(param(&[1, 1], Some(&[4]), &[1, 1]), "offset-shape"),
        case(param(&[4], Some(&[1, 4]), &[4]), "offset-shape"),
        case(param(&[4], None, &[3]), "out-shape"),
        case(param(&[1], Some(&[4]), &[1]), "out-shape"),
        case(param(&[1, 4], None, &[4]), "out-shape"),
    ]
}

pub(crate) fn limits_param() -> Vec<Limit> {
    vec![
        ("scale", &[0], PLAIN, 1..=2, CONTIGUOUS),
        ("offset", &[0], PLAIN, 1..=2, CONTIGUOUS),
        ("out", &[9, 10], PLAIN, 1..=2, STRIDED),
    ]
}

fn convert(weight: &[i64], into: TensorDesc) -> Built {
    let call = Built::new(OperatorId::ConvertWeightToINT4Pack).set("weight", tensor(I32, weight));
    call.set("weightInt4Pack", into)
}

pub(crate) fn legal_convert() -> Vec<Built> {
    vec![
        convert(&[3, 8], tensor(I4, &[3, 8])),
        convert(&[3, 6], tensor(I4, &[3, 6])),
        convert(&[3, 16], tensor(I32, &[3, 2])),
        convert(&[2, 3, 8], tensor(I4, &[2, 3, 8])),
        convert(&[17, 66], packed(tensor(I4, &[17, 66]))),
        convert(&[17, 72], packed(tensor(I32, &[17, 9]))),
        convert(&[1, 17, 66], packed(tensor(I4, &[1, 17, 66]))),
        convert(&[2, 16, 64], packed(tensor(I4, &[2, 16, 64]))),
    ]
}

pub(crate) fn violations_convert() -> Vec<Case> {
    let case = |call, rule| Case::new(call, rule, 161002);
    let mut short = packed(tensor(I4, &[17, 66]));
    short.storage.as_mut_slice()[1] = 1;
    let mut unshaped = tensor(I4, &[16, 64]);
    unshaped.format = aclFormat::FRACTAL_NZ;
    vec![
        case(convert(&[3, 7], tensor(I4, &[3, 7])), "last-dim"),
        case(convert(&[3, 12], tensor(I32, &[3, 1])), "last-dim"),
        case(convert(&[3, 8], tensor(I4, &[8, 3])), "packed-shape"),
        case(convert(&[3, 8], tensor(I32, &[3, 8])), "packed-shape"),
        case(convert(&[2, 3, 8], tensor(I4, &[3, 8])), "packed-shape"),
        case(convert(&[17, 66], short), "nz-storage"),
        case(convert(&[16, 64], unshaped), "nz-storage"),
        Case::new(convert(&[0, 8], tensor(I4, &[0, 8])), "empty", 361001),
        Case::new(convert(&[2, 17, 64], packed(tensor(I4, &[2, 17, 64]))), "nz-groups", 561003),
        Case::new(convert(&[2, 16, 32], packed(tensor(I32, &[2, 16, 4]))), "nz-groups", 561003),
    ]
}

pub(crate) fn limits_convert() -> Vec<Limit> {
    vec![("weight", &[3], &[2], 2..=3, CONTIGUOUS), ("weightInt4Pack", &[3, 29], &[2, 29], 2..=3, CONTIGUOUS)]
}
