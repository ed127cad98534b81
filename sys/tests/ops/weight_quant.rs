//! Calls of the products of floats with quantised weights, in their three signatures.

use ascend_sys::ops::TensorDesc;
use ascend_sys::{OperatorId, aclDataType};

use crate::build::{BF16, Built, Case, F16, F32, I8, I32, packed, spread, tensor, transposed};
use crate::limits::{CONTIGUOUS, Limit, PLAIN, PLAIN_OR_NZ, STRIDED};

const I4: aclDataType = aclDataType::INT4;
const U64: aclDataType = aclDataType::UINT64;
const NZ: OperatorId = OperatorId::WeightQuantBatchMatmulNz;

/// bf16 `[3, 70] @ [70, 8]` with scales and offsets for each column, and a bias.
fn call(operator: OperatorId) -> Built {
    let weight = tensor(I8, &[70, 8]);
    Built::new(operator)
        .set("x", tensor(BF16, &[3, 70]))
        .set("weight", if operator == NZ { packed(weight) } else { weight })
        .set("antiquantScale", tensor(BF16, &[8]))
        .set("antiquantOffsetOptional", tensor(BF16, &[8]))
        .set("biasOptional", tensor(F32, &[8]))
        .set("y", tensor(BF16, &[3, 8]))
}

/// The same to int8.
fn quantised(operator: OperatorId) -> Built {
    call(operator)
        .set("quantScaleOptional", tensor(U64, &[8]))
        .set("quantOffsetOptional", tensor(F32, &[8]))
        .set("y", tensor(I8, &[3, 8]))
}

/// The same with a weight of int4 in FRACTAL_NZ, transposed.
fn packed_int4(operator: OperatorId) -> Built {
    call(operator).set("weight", packed_view(I4, &[70, 8]))
}

/// In groups of 64 rows, of 128 by 64.
fn grouped_int4(operator: OperatorId) -> Built {
    call(operator)
        .set("x", tensor(BF16, &[3, 128]))
        .set("weight", packed(tensor(I4, &[128, 64])))
        .set("antiquantScale", tensor(BF16, &[2, 64]))
        .set("antiquantOffsetOptional", tensor(BF16, &[2, 64]))
        .null("biasOptional")
        .set("antiquantGroupSize", 64)
        .set("y", tensor(BF16, &[3, 64]))
}

/// A transposed view of what is packed the other way round.
fn packed_view(dtype: aclDataType, shape: &[i64]) -> TensorDesc {
    let view = transposed(dtype, shape);
    let stored = packed(tensor(dtype, &view.stored_shape()));
    TensorDesc { format: stored.format, storage: stored.storage, ..view }
}

pub(crate) fn legal(operator: OperatorId) -> Vec<Built> {
    let call = || call(operator);
    let mut calls = vec![
        call(),
        call().null("antiquantOffsetOptional").null("biasOptional"),
        call().set("antiquantScale", tensor(BF16, &[1, 8])).set("antiquantOffsetOptional", tensor(BF16, &[1, 8])),
        call().set("antiquantScale", tensor(BF16, &[1, 1])).null("antiquantOffsetOptional"),
        call()
            .set("x", transposed(F16, &[3, 70]))
            .set("antiquantScale", tensor(F16, &[1]))
            .set("antiquantOffsetOptional", tensor(F16, &[1]))
            .set("biasOptional", tensor(F16, &[1, 8]))
            .set("y", tensor(F16, &[3, 8])),
        packed_int4(operator),
        grouped_int4(operator),
    ];
    if operator != NZ {
        let groups = || call().set("antiquantGroupSize", 32).null("antiquantOffsetOptional");
        calls.extend([
            quantised(operator),
            quantised(operator).set("quantScaleOptional", tensor(U64, &[1])).null("quantOffsetOptional"),
            groups().set("antiquantScale", tensor(BF16, &[3, 8])),
            groups().set("weight", transposed(I8, &[70, 8])).set("antiquantScale", transposed(BF16, &[3, 8])),
            call().set("weight", tensor(I4, &[70, 8])),
            call().set("weight", tensor(I32, &[70, 1])),
            call().set("weight", transposed(I4, &[70, 8])),
            call().set("x", tensor(BF16, &[3, 72])).set("weight", transposed(I32, &[9, 8])),
            call().set("weight", packed(tensor(I8, &[70, 8]))),
        ]);
    }
    calls
}

pub(crate) fn violations(operator: OperatorId) -> Vec<Case> {
    let nz = operator == NZ;
    let case = |call, rule| Case::new(call, rule, 161002);
    let call = || call(operator);
    // A weight as this operator takes it.
    let as_taken = |weight: TensorDesc| if nz { packed(weight) } else { weight };
    let mut short = packed(tensor(I8, &[70, 8]));
    short.storage.as_mut_slice()[1] = 4;
    let mut spread_weight = as_taken(tensor(I8, &[70, 8]));
    spread_weight.strides.as_mut_slice().iter_mut().for_each(|stride| *stride *= 2);
    let mut cases = vec![
        Case::new(call().set("antiquantScale", tensor(U64, &[8])), "encoded-scale", 561003).also(&["scale-dtype"]),
        Case::new(call().set("antiquantOffsetOptional", tensor(I32, &[8])), "encoded-scale", 561003)
            .also(&["scale-dtype"]),
        case(call().set("antiquantScale", tensor(F16, &[8])), "scale-dtype"),
        case(call().set("antiquantOffsetOptional", tensor(F16, &[8])), "scale-dtype"),
        case(call().set("y", tensor(F16, &[3, 8])), "out-dtype"),
        case(call().set("y", tensor(I8, &[3, 8])), "out-dtype"),
        case(quantised(operator).set("y", tensor(BF16, &[3, 8])), "out-dtype").also(if nz { &["nz-out"] } else { &[] }),
        case(call().set("biasOptional", tensor(F16, &[8])), "bias-dtype"),
        case(call().set("quantOffsetOptional", tensor(F32, &[8])), "quant-offset"),
        case(call().set("x", spread(tensor(BF16, &[3, 70]))), "x-layout"),
        case(call().set("weight", spread_weight), "weight-layout"),
        case(call().set("antiquantScale", spread(tensor(BF16, &[8]))), "scale-layout"),
        case(call().set("x", tensor(BF16, &[3, 69])), "inner-dim"),
        case(call().set("x", tensor(BF16, &[0, 70])).set("y", tensor(BF16, &[0, 8])), "sizes"),
        case(call().set("x", tensor(BF16, &[3, 65536])).set("weight", as_taken(tensor(I8, &[65536, 8]))), "sizes"),
        case(call().set("x", transposed(BF16, &[65536, 70])).set("y", tensor(BF16, &[65536, 8])), "sizes"),
        case(call().set("x", tensor(BF16, &[3, 69])).set("weight", packed_view(I4, &[69, 8])), "int4-even"),
        case(grouped_int4(operator).set("antiquantGroupSize", 48), "group-size").also(&["scale-shape", "nz-int4"]),
        case(grouped_int4(operator).set("antiquantGroupSize", -64), "group-size").also(&["scale-shape", "nz-int4"]),
        case(grouped_int4(operator).set("antiquantGroupSize", 128), "group-size").also(&["scale-shape"]),
        case(call().set("antiquantScale", tensor(BF16, &[8, 1])), "scale-shape").also(&["offset-shape"]),
        case(grouped_int4(operator).set("antiquantScale", tensor(BF16, &[64])), "scale-shape").also(&["offset-shape"]),
        case(call().set("antiquantOffsetOptional", tensor(BF16, &[1])), "offset-shape"),
        case(call().set("biasOptional", tensor(F32, &[1])), "bias-shape"),
        case(call().set("y", tensor(BF16, &[8, 3])), "out-shape"),
        case(
            packed_int4(operator).set("antiquantScale", tensor(BF16, &[1])).null("antiquantOffsetOptional"),
            "nz-int4",
        ),
        case(call().set("weight", packed(tensor(I4, &[70, 8]))), "nz-int4"),
        case(
            call()
                .set("weight", packed(tensor(I8, &[70, 8])))
                .set("antiquantGroupSize", 32)
                .set("antiquantScale", tensor(BF16, &[3, 8]))
                .set("antiquantOffsetOptional", tensor(BF16, &[3, 8])),
            "nz-int8",
        ),
        case(call().set("weight", short), "nz-storage"),
        case(quantised(operator).set("quantOffsetOptional", tensor(F32, &[1])), "quant-offset").also(if nz {
            &["nz-out"]
        } else {
            &[]
        }),
        case(
            quantised(operator).set("quantScaleOptional", tensor(U64, &[1, 1])).null("quantOffsetOptional"),
            "quant-scale-shape",
        )
        .also(if nz { &["nz-out"] } else { &[] }),
        case(quantised(operator).set("weight", packed(tensor(I8, &[70, 8]))), "nz-out"),
    ];
    if operator == OperatorId::WeightQuantBatchMatmulV3 {
        cases.push(case(call().set("innerPrecise", 2), "inner-precise"));
    }
    cases
}

pub(crate) fn limits(operator: OperatorId) -> Vec<Limit> {
    const HALVES: &[i32] = &[1, 27];
    let formats = if operator == NZ { &[29][..] } else { PLAIN_OR_NZ };
    vec![
        ("x", HALVES, PLAIN, 2..=2, STRIDED),
        ("weight", &[2, 3, 29], formats, 2..=2, STRIDED),
        ("antiquantScale", &[1, 9, 10, 27], PLAIN, 1..=2, STRIDED),
        ("antiquantOffsetOptional", &[1, 3, 27], PLAIN, 1..=2, STRIDED),
        ("quantScaleOptional", &[10], PLAIN, 1..=2, CONTIGUOUS),
        ("quantOffsetOptional", &[0], PLAIN, 1..=2, CONTIGUOUS),
        ("biasOptional", &[0, 1], PLAIN, 1..=2, CONTIGUOUS),
        ("y", &[1, 2, 27], PLAIN, 2..=2, CONTIGUOUS),
    ]
}
