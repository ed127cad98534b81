//! Calls of the quantised dense products, in both signatures.

use ascend_sys::ops::TensorDesc;
use ascend_sys::{OperatorId, aclDataType};

use crate::build::{BF16, Built, Case, F16, F32, I8, I32, I64, packed, spread, tensor, transposed};
use crate::limits::Limit;

const I4: aclDataType = aclDataType::INT4;
const U64: aclDataType = aclDataType::UINT64;
const NOT_CARRIED: i32 = 561003;

/// The names of the fifth signature, in this operator's own.
fn own(operator: OperatorId, name: &str) -> &str {
    match (operator, name) {
        (OperatorId::QuantMatmulV4, "x1Scale") => "pertokenScaleOptional",
        (OperatorId::QuantMatmulV4, "x2Scale") => "scale",
        (OperatorId::QuantMatmulV4, "x2Offset") => "offset",
        (_, name) => name,
    }
}

/// A call to be varied by the names of the fifth signature.
struct Varied(Built);

impl Varied {
    fn set(self, name: &str, value: impl Into<crate::build::Value>) -> Self {
        let name = own(self.0.operator, name);
        Self(self.0.set(name, value))
    }

    fn null(self, name: &str) -> Self {
        let name = own(self.0.operator, name);
        Self(self.0.null(name))
    }

    fn x2(self, x2: TensorDesc) -> Self {
        let packs = self.0.operator == OperatorId::QuantMatmulWeightNz;
        self.set("x2", if packs { packed(x2) } else { x2 })
    }
}

/// int8 `[3, 8] @ [8, 4]` to bf16 with a scale for each row and a bias of floats.
fn scaled(operator: OperatorId) -> Varied {
    Varied(Built::new(operator))
        .set("x1", tensor(I8, &[3, 8]))
        .x2(tensor(I8, &[8, 4]))
        .set("x1Scale", tensor(F32, &[3]))
        .set("x2Scale", tensor(F32, &[4]))
        .set("bias", tensor(F32, &[4]))
        .set("out", tensor(BF16, &[3, 4]))
}

/// The same to int8 with an offset.
fn requantised(operator: OperatorId) -> Varied {
    scaled(operator)
        .null("x1Scale")
        .set("x2Scale", tensor(U64, &[4]))
        .set("x2Offset", tensor(F32, &[1]))
        .set("bias", tensor(I32, &[4]))
        .set("out", tensor(I8, &[3, 4]))
}

/// The same of int4.
fn int4(operator: OperatorId) -> Varied {
    scaled(operator).set("x1", tensor(I4, &[3, 8])).x2(tensor(I4, &[8, 4]))
}

/// Stacks of matrices with a bias for each.
fn stacked(operator: OperatorId) -> Varied {
    scaled(operator)
        .set("x1", tensor(I8, &[5, 3, 8]))
        .x2(tensor(I8, &[1, 8, 4]))
        .set("bias", tensor(I32, &[5, 1, 4]))
        .set("out", tensor(BF16, &[5, 3, 4]))
}

pub(crate) fn legal(operator: OperatorId) -> Vec<Built> {
    let call = || scaled(operator);
    let mut calls = vec![
        call(),
        call().null("bias"),
        call().set("bias", tensor(BF16, &[4])),
        call().set("bias", tensor(I32, &[4])).set("x2Scale", tensor(BF16, &[1])),
        call().null("x1Scale").set("out", spread(tensor(BF16, &[3, 1, 4]))),
        call().set("out", tensor(F16, &[3, 4])).set("bias", tensor(F16, &[4])),
        call().set("x1", transposed(I8, &[3, 8])),
        call().set("x1", tensor(I8, &[8, 3])).set("transposeX1", true),
        call().x2(tensor(I8, &[4, 8])).set("transposeX2", true),
        call().x2(transposed(I8, &[8, 4])),
        requantised(operator),
        requantised(operator).null("x2Offset").set("x2Scale", tensor(I64, &[1])),
        requantised(operator).null("x2Offset").set("out", tensor(F16, &[3, 4])),
        call().null("x1Scale").null("bias").set("out", tensor(I32, &[3, 4])),
        stacked(operator),
        call()
            .set("x1", tensor(I8, &[1, 70000]))
            .x2(tensor(I8, &[70000, 4]))
            .set("x1Scale", tensor(F32, &[1]))
            .set("out", tensor(BF16, &[1, 4])),
    ];
    if operator == OperatorId::QuantMatmulWeightNz {
        // Memory for the blocks, with a format that does not say so.
        let mut plain = packed(tensor(I8, &[8, 4]));
        plain.format = ascend_sys::aclFormat::ND;
        calls.push(call().set("x2", plain));
    } else {
        calls.extend([
            call().set("x2", packed(tensor(I8, &[8, 4]))),
            int4(operator),
            int4(operator).set("x1", tensor(I32, &[3, 1])).set("x2", tensor(I32, &[4, 1])).set("transposeX2", true),
            int4(operator).set("x1", tensor(I4, &[5, 3, 8])).set("out", tensor(BF16, &[5, 3, 4])),
            int4(operator).set("out", tensor(F16, &[3, 4])),
            int4(operator)
                .null("x1Scale")
                .null("bias")
                .set("x2Scale", tensor(U64, &[4]))
                .set("out", tensor(F16, &[3, 4])),
        ]);
    }
    if operator != OperatorId::QuantMatmulV4 {
        calls.push(call().set("yScale", tensor(F32, &[0])).set("yOffset", tensor(F32, &[0])));
    }
    calls.into_iter().map(|call| call.0).collect()
}

pub(crate) fn violations(operator: OperatorId) -> Vec<Case> {
    let call = || scaled(operator);
    let case = |call: Varied, rule| Case::new(call.0, rule, 161002);
    let not_carried = |call: Varied, rule| Case::new(call.0, rule, NOT_CARRIED);
    let packs = operator == OperatorId::QuantMatmulWeightNz;
    let mut halved = tensor(I4, &[3, 8]);
    halved.offset = 1;
    let mut short = packed(tensor(I8, &[8, 4]));
    short.storage.as_mut_slice()[0] = 0;
    let mut cases = vec![
        not_carried(call().set("x2Scale", tensor(F32, &[1, 4])), "groups"),
        not_carried(call().set("x1Scale", tensor(F32, &[3, 1])), "groups"),
        case(call().set("x1", tensor(I8, &[3, 7])), "inner-dim"),
        case(
            call().set("x1", tensor(I8, &[0, 8])).set("x1Scale", tensor(F32, &[0])).set("out", tensor(BF16, &[0, 4])),
            "empty",
        ),
        case(call().set("x1", spread(tensor(I8, &[3, 8]))), "operand-layout"),
        case(call().set("x2Scale", tensor(U64, &[4])), "out-dtype"),
        case(call().set("x2Scale", tensor(BF16, &[4])).set("out", tensor(F16, &[3, 4])), "out-dtype"),
        case(call().null("x1Scale").set("out", tensor(F16, &[3, 4])).set("bias", tensor(I32, &[4])), "out-dtype"),
        case(requantised(operator).set("x1Scale", tensor(F32, &[3])), "out-dtype"),
        case(requantised(operator).set("x2Scale", tensor(F32, &[4])), "out-dtype"),
        case(call().null("bias").set("out", tensor(I32, &[3, 4])), "out-dtype"),
        case(call().set("bias", tensor(F16, &[4])), "bias-dtype"),
        case(call().set("bias", tensor(BF16, &[4])).set("out", tensor(F16, &[3, 4])), "bias-dtype"),
        case(requantised(operator).set("bias", tensor(F32, &[4])), "bias-dtype"),
        case(requantised(operator).set("out", tensor(F16, &[3, 4])), "offset"),
        case(requantised(operator).set("x2Offset", tensor(F16, &[4])), "offset"),
        case(call().null("x1Scale").set("x1", tensor(I8, &[3, 65536])).x2(tensor(I8, &[65536, 4])), "last-dim"),
        case(call().set("x2", short), "nz-storage"),
        case(call().set("x2Scale", tensor(F32, &[3])), "scale-shape"),
        case(requantised(operator).set("x2Offset", tensor(F32, &[2])), "offset-shape"),
        case(call().set("x1Scale", tensor(F32, &[1])), "per-token-shape"),
        case(stacked(operator).x2(tensor(I8, &[2, 8, 4])), "batch").also(&["bias-shape"]),
        case(call().set("bias", tensor(F32, &[1])), "bias-shape"),
        case(call().set("bias", tensor(F32, &[1, 4])), "bias-shape"),
        case(call().set("bias", tensor(F32, &[1, 1, 4])), "bias-shape"),
        case(stacked(operator).set("bias", tensor(I32, &[1, 1, 4])), "bias-shape"),
        case(call().set("out", tensor(BF16, &[4, 3])), "out-shape"),
        case(call().set("out", tensor(BF16, &[1, 3, 4])), "out-shape"),
    ];
    // Where x2 is FRACTAL_NZ whatever it says, int4 is not carried at all.
    let also: &[&str] = if packs { &["nz-int4"] } else { &[] };
    cases.extend([
        not_carried(call().x2(tensor(I4, &[8, 4])), "int8-by-int4"),
        not_carried(int4(operator).set("x2", packed(tensor(I4, &[8, 4]))), "nz-int4"),
        not_carried(int4(operator).set("x1", halved), "int4-layout").also(also),
        case(call().set("x1", tensor(I4, &[3, 8])), "operands"),
        case(int4(operator).set("out", tensor(I8, &[3, 4])).null("bias"), "out-dtype").also(also),
        case(int4(operator).null("x1Scale"), "out-dtype").also(also),
        case(int4(operator).set("x1", tensor(I4, &[8, 3])).set("transposeX1", true), "int4-form").also(also),
        case(int4(operator).set("x1", tensor(I4, &[3, 7])).x2(tensor(I4, &[7, 4])), "int4-even").also(also),
        case(
            int4(operator)
                .x2(tensor(I4, &[8, 3]))
                .set("x2Scale", tensor(F32, &[1]))
                .null("bias")
                .set("out", tensor(BF16, &[3, 3])),
            "int4-even",
        )
        .also(also),
    ]);
    if operator != OperatorId::QuantMatmulV4 {
        cases.extend([
            case(call().set("yScale", tensor(F32, &[4])), "reserved-inputs"),
            case(call().set("x1Offset", tensor(F32, &[4])), "reserved-inputs"),
            case(call().set("yOffset", tensor(F32, &[4])), "reserved-inputs"),
            case(call().set("groupSize", 128), "group-size"),
        ]);
    }
    cases
}

pub(crate) fn limits(operator: OperatorId) -> Vec<Limit> {
    use crate::limits::{ANY, PLAIN, PLAIN_OR_NZ, STRIDED};
    const INTEGERS: &[i32] = &[2, 3, 29];
    const SCALES: &[i32] = &[0, 9, 10, 27];
    const OFFSETS: &[i32] = &[0, 1];
    let plain = |name, dtypes, ranks| (name, dtypes, PLAIN, ranks, STRIDED);
    let (x1, x2) = (plain("x1", INTEGERS, 2..=6), ("x2", INTEGERS, PLAIN_OR_NZ, 2..=6, STRIDED));
    let (bias, out) = (plain("bias", &[0, 1, 3, 27], 1..=3), plain("out", &[1, 2, 3, 27], 2..=6));
    if operator == OperatorId::QuantMatmulV4 {
        return vec![
            x1,
            x2,
            plain("scale", SCALES, 1..=2),
            plain("offset", OFFSETS, 1..=2),
            plain("pertokenScaleOptional", &[0], 1..=2),
            bias,
            out,
        ];
    }
    vec![
        x1,
        x2,
        plain("x1Scale", &[0], 1..=2),
        plain("x2Scale", SCALES, 1..=2),
        plain("yScale", ANY, 0..=8),
        plain("x1Offset", ANY, 0..=8),
        plain("x2Offset", OFFSETS, 1..=2),
        plain("yOffset", ANY, 0..=8),
        bias,
        out,
    ]
}
