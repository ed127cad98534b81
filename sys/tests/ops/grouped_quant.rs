//! Calls of the quantised grouped products, in the signatures that carry them.

use ascend_sys::ops::TensorDesc;
use ascend_sys::{OperatorId, aclDataType};

use crate::build::{BF16, Built, Case, F16, F32, I4, I8, I32, I64, U64, packed, spread, tensor, transposed};

const INVALID: i32 = 161002;
const TILING: i32 = 561103;
const NOT_CARRIED: i32 = 561003;

const M: i64 = 10;
const E: i64 = 4;
const N: i64 = 64;

/// M rows in E groups times weights `[K, N]`, one tensor in every list.
#[derive(Clone, Copy)]
struct Quantised(OperatorId);

impl Quantised {
    fn is_nz(self) -> bool {
        self.0 == OperatorId::GroupedMatmulWeightNz
    }

    fn operands(self, x: aclDataType, weight: aclDataType, out: aclDataType, k: i64) -> Built {
        Built::new(self.0)
            .set("x", vec![tensor(x, &[M, k])])
            .set("weight", vec![tensor(weight, &[E, k, N])])
            .set("groupListOptional", tensor(I64, &[E]))
            .set("groupListType", 1)
            .set("splitItem", 3)
            .set("out", vec![tensor(out, &[M, N])])
    }

    /// int8 by int8.
    fn int8(self) -> Built {
        self.operands(I8, I8, BF16, 32)
            .set("biasOptional", vec![tensor(I32, &[E, N])])
            .set("scaleOptional", vec![tensor(BF16, &[E, N])])
            .set("perTokenScaleOptional", vec![tensor(F32, &[M])])
    }

    /// The same with fp32 scales.
    fn int8_f16(self) -> Built {
        self.int8().set("scaleOptional", vec![tensor(F32, &[E, N])]).set("out", vec![tensor(F16, &[M, N])])
    }

    /// The same with an int8 output.
    fn int8_to_int8(self) -> Built {
        let call = self.int8().null("perTokenScaleOptional");
        call.set("scaleOptional", vec![tensor(U64, &[E, N])]).set("out", vec![tensor(I8, &[M, N])])
    }

    /// The accumulators.
    fn sums(self) -> Built {
        let call = self.int8().set("out", vec![tensor(I32, &[M, N])]);
        call.null("scaleOptional").null("perTokenScaleOptional")
    }

    /// Three weights.
    fn list(self, call: Built, weight: TensorDesc, scale: TensorDesc) -> Built {
        call.set("weight", vec![weight; 3])
            .set("scaleOptional", vec![scale; 3])
            .set("groupListOptional", tensor(I64, &[3]))
            .null("biasOptional")
    }

    /// Two products side by side.
    fn ungrouped(self) -> Built {
        self.int8()
            .null("perTokenScaleOptional")
            .null("groupListOptional")
            .set("groupType", -1)
            .set("splitItem", 0)
            .set("x", vec![tensor(I8, &[3, 32]), tensor(I8, &[2, 5, 16])])
            .set("weight", vec![tensor(I8, &[32, 64]), tensor(I8, &[16, 32])])
            .set("scaleOptional", vec![tensor(BF16, &[64]), tensor(BF16, &[32])])
            .set("biasOptional", vec![tensor(I32, &[64]), tensor(I32, &[32])])
            .set("out", vec![tensor(BF16, &[3, 64]), tensor(BF16, &[2, 5, 32])])
    }

    /// int8 by int4.
    fn msd(self, k: i64, parts: i64) -> Built {
        self.operands(I8, I4, BF16, k)
            .set("biasOptional", vec![tensor(F32, &[E, N])])
            .set("scaleOptional", vec![tensor(U64, &[E, parts, N])])
            .set("perTokenScaleOptional", vec![tensor(F32, &[M])])
    }

    /// The same with an offset.
    fn msd_offset(self) -> Built {
        self.msd(32, 1)
            .set("offsetOptional", vec![tensor(F32, &[E, 1, N])])
            .set("perTokenScaleOptional", vec![tensor(F32, &[M, 1])])
            .set("out", vec![tensor(F16, &[M, N])])
    }

    /// int4 by int4.
    fn int4(self) -> Built {
        self.operands(I4, I4, BF16, 32)
            .set("scaleOptional", vec![tensor(U64, &[E, N])])
            .set("perTokenScaleOptional", vec![tensor(F32, &[M])])
    }

    /// bf16 by int8 or int4.
    fn antiquant(self, weight: aclDataType) -> Built {
        self.operands(BF16, weight, BF16, 32)
            .set("biasOptional", vec![tensor(F32, &[E, N])])
            .set("antiquantScaleOptional", vec![tensor(BF16, &[E, N])])
            .set("antiquantOffsetOptional", vec![tensor(BF16, &[E, N])])
    }
}

pub(crate) fn legal(operator: OperatorId) -> Vec<Built> {
    let q = Quantised(operator);
    let weight = |call: Built, weight: TensorDesc| call.set("weight", vec![weight]);
    let one = |call: Built, name: &str, tensor: TensorDesc| call.set(name, vec![tensor]);
    let mut calls = vec![
        q.int8(),
        q.int8().null("biasOptional").null("perTokenScaleOptional"),
        one(q.int8(), "biasOptional", tensor(BF16, &[E, N])),
        q.int8_f16(),
        q.sums(),
        one(q.sums(), "scaleOptional", tensor(F16, &[7])),
        weight(q.int8(), transposed(I8, &[E, 32, N])),
        weight(q.int8(), packed(tensor(I8, &[E, 32, N]))),
        weight(q.int8(), packed(transposed(I8, &[E, 32, N]))),
        q.list(q.int8(), tensor(I8, &[32, N]), tensor(BF16, &[N])),
        q.ungrouped(),
        q.msd(32, 1),
        q.msd(512, 2),
        one(q.msd(32, 1), "scaleOptional", tensor(I64, &[E, 1, N])),
        one(q.msd(32, 1), "perTokenScaleOptional", tensor(F32, &[M, 1])),
        weight(q.msd(32, 1), tensor(I32, &[E, 32, N / 8])),
        weight(q.msd(32, 1), packed(tensor(I4, &[E, 32, N]))),
        weight(q.msd(32, 1), packed(tensor(I32, &[E, 32, N / 8]))),
        q.msd_offset(),
        q.int4(),
        one(q.int4(), "out", tensor(F16, &[M, N])).null("perTokenScaleOptional").set("groupListType", 0),
        one(q.int4(), "scaleOptional", tensor(U64, &[E, 4, N])),
        weight(one(q.int4(), "x", tensor(I32, &[M, 4])), tensor(I32, &[E, 32, N / 8])),
        weight(one(q.int4(), "x", tensor(I4, &[M, 64])), packed(transposed(I4, &[E, 64, N]))),
    ];
    calls.extend([1, 2, 4, 5].map(|act| q.int8().set("actType", act)));
    if !q.is_nz() {
        let no_offset = |call: Built| call.null("antiquantOffsetOptional");
        let parts = || no_offset(one(q.antiquant(I4), "antiquantScaleOptional", tensor(BF16, &[E, 4, N])));
        let each = |call: Built, dtype, scale: &[i64]| {
            let call = q.list(call, tensor(dtype, &[32, N]), tensor(BF16, scale)).null("scaleOptional");
            call.set("antiquantScaleOptional", vec![tensor(BF16, scale); 3])
                .set("antiquantOffsetOptional", vec![tensor(BF16, scale); 3])
        };
        calls.extend([
            q.int8_to_int8(),
            one(q.int8_to_int8(), "scaleOptional", tensor(I64, &[E, N])),
            q.antiquant(I8),
            q.antiquant(I4),
            no_offset(q.antiquant(I4)),
            parts(),
            weight(parts(), transposed(I4, &[E, 32, N])),
            one(parts(), "antiquantOffsetOptional", tensor(BF16, &[E, 4, N])),
            weight(no_offset(q.antiquant(I4)), tensor(I32, &[E, 32, N / 8])),
            each(q.antiquant(I8), I8, &[N]),
            each(q.antiquant(I4), I4, &[4, N]),
        ]);
    }
    if operator != OperatorId::GroupedMatmulV4 {
        calls.push(q.msd(32, 1).set("tuningConfigOptional", vec![10, 0]));
        calls.push(q.int8().set("tuningConfigOptional", vec![10, 1]));
    }
    calls
}

fn case(call: Built, rule: &'static str) -> Case {
    Case::new(call, rule, INVALID)
}

fn tiling(call: Built, rule: &'static str) -> Case {
    Case::new(call, rule, TILING)
}

fn carried(call: Built, rule: &'static str) -> Case {
    Case::new(call, rule, NOT_CARRIED)
}

pub(crate) fn violations(operator: OperatorId) -> Vec<Case> {
    let q = Quantised(operator);
    let mut cases = [of_int8(q), of_int4(q), of_forms(q)].into_iter().flatten().collect::<Vec<_>>();
    cases.extend(of_row_major(q));
    if operator != OperatorId::GroupedMatmulV4 {
        cases.push(carried(q.msd(32, 1).set("tuningConfigOptional", vec![10, 1]), "msd-tuning"));
    }
    cases
}

fn of_int8(q: Quantised) -> Vec<Case> {
    let one = |call: Built, name: &str, tensor: TensorDesc| call.set(name, vec![tensor]);
    let mut cases = vec![
        case(q.int8().null("scaleOptional"), "quant-params"),
        case(one(q.int8(), "offsetOptional", tensor(F32, &[E, N])), "quant-params"),
        case(one(q.int8(), "antiquantScaleOptional", tensor(F32, &[E, N])), "quant-params"),
        case(one(q.int8(), "scaleOptional", tensor(F32, &[E, N])), "scale-dtype"),
        case(one(q.int8_f16(), "scaleOptional", tensor(BF16, &[E, N])), "scale-dtype"),
        case(one(q.int8(), "perTokenScaleOptional", tensor(F16, &[M])), "scale-dtype"),
        case(one(q.int8(), "out", tensor(F32, &[M, N])), "out-dtype").also(&["scale-dtype"]),
        case(one(q.int8(), "biasOptional", tensor(F32, &[E, N])), "bias-dtype"),
        case(one(q.sums(), "biasOptional", tensor(BF16, &[E, N])), "bias-dtype"),
        case(one(q.int8(), "scaleOptional", tensor(BF16, &[N])), "scale-shape"),
        case(one(q.int8(), "scaleOptional", tensor(BF16, &[E, N + 1])), "scale-shape"),
        case(one(q.int8(), "scaleOptional", tensor(BF16, &[E, 1, N])), "scale-shape"),
        case(q.list(q.int8(), tensor(I8, &[32, N]), tensor(BF16, &[1, N])), "scale-shape"),
        case(one(q.int8(), "perTokenScaleOptional", tensor(F32, &[M + 1])), "per-token-shape"),
        case(one(q.int8(), "perTokenScaleOptional", tensor(F32, &[M, 1])), "per-token-shape"),
        case(one(q.ungrouped(), "perTokenScaleOptional", tensor(F32, &[3])), "per-token-shape"),
        case(q.int8().set("actType", 3), "act-type"),
        carried(q.sums().set("actType", 1), "act-quantised"),
        case(one(one(q.int8(), "x", tensor(I8, &[M, 24])), "weight", packed(tensor(I8, &[E, 24, N]))), "nz-aligned"),
    ];
    if q.is_nz() {
        cases.push(case(q.int8_to_int8(), "out-dtype"));
    } else {
        cases.push(case(one(q.int8_to_int8(), "perTokenScaleOptional", tensor(F32, &[M])), "scale-dtype"));
        cases.push(carried(q.int8_to_int8().set("actType", 5), "act-quantised"));
        let weight = packed(tensor(I8, &[E, 32, N]));
        cases.push(case(one(q.int8_to_int8(), "weight", weight), "out-dtype"));
    }
    cases
}

fn of_int4(q: Quantised) -> Vec<Case> {
    let one = |call: Built, name: &str, tensor: TensorDesc| call.set(name, vec![tensor]);
    let list = |call: Built| call.set("groupListType", 0);
    vec![
        tiling(q.msd(32, 1).null("biasOptional"), "msd-params"),
        tiling(q.msd(32, 1).null("scaleOptional"), "msd-params"),
        tiling(q.msd(32, 1).null("perTokenScaleOptional"), "msd-params"),
        tiling(one(q.msd(32, 1), "antiquantScaleOptional", tensor(F32, &[E, N])), "msd-params"),
        case(one(q.msd(32, 1), "out", tensor(I32, &[M, N])), "out-dtype"),
        case(one(q.msd_offset(), "out", tensor(BF16, &[M, N])), "out-dtype"),
        case(one(q.msd(32, 1), "biasOptional", tensor(I32, &[E, N])), "bias-dtype"),
        case(one(q.msd(32, 1), "scaleOptional", tensor(F32, &[E, 1, N])), "scale-dtype"),
        case(one(q.msd_offset(), "offsetOptional", tensor(F16, &[E, 1, N])), "scale-dtype"),
        case(one(q.msd(32, 1), "perTokenScaleOptional", tensor(F32, &[M - 1])), "per-token-shape"),
        case(one(q.msd_offset(), "perTokenScaleOptional", tensor(F32, &[M])), "per-token-shape"),
        tiling(one(q.msd(32, 1), "scaleOptional", tensor(U64, &[E, N])), "msd-shape"),
        tiling(q.msd(512, 4), "msd-shape"),
        tiling(q.msd(18432 + 256, 73), "msd-shape"),
        tiling(one(q.msd_offset(), "offsetOptional", tensor(F32, &[E, N])), "msd-shape"),
        tiling(one(q.msd(64, 1), "weight", transposed(I4, &[E, 64, N])), "int4-transposed"),
        carried(list(q.msd(32, 1)), "msd-list"),
        carried(q.msd(32, 1).set("actType", 1), "act-quantised"),
        carried(q.int4().set("actType", 1), "act-quantised"),
        carried(one(q.int4(), "x", spread(tensor(I4, &[M, 32]))), "int4-layout"),
        case(q.int4().null("scaleOptional"), "quant-params"),
        case(one(q.int4(), "biasOptional", tensor(F32, &[E, N])), "quant-params"),
        case(one(q.int4(), "scaleOptional", tensor(F32, &[E, N])), "scale-dtype"),
        case(one(q.int4(), "scaleOptional", tensor(U64, &[E, 5, N])), "scale-shape"),
        case(one(q.int4(), "scaleOptional", tensor(U64, &[E, 32, N])), "scale-shape"),
        case(one(q.int4(), "out", tensor(I8, &[M, N])), "out-dtype"),
        case(one(one(q.int4(), "x", tensor(I4, &[M, 24])), "weight", packed(tensor(I4, &[E, 24, N]))), "nz-aligned"),
    ]
}

fn of_forms(q: Quantised) -> Vec<Case> {
    let alone = q
        .int4()
        .set("groupType", -1)
        .set("splitItem", 0)
        .null("groupListOptional")
        .set("weight", vec![tensor(I4, &[32, N])])
        .set("scaleOptional", vec![tensor(U64, &[N])]);
    let msd = |call: Built| q.list(call, tensor(I4, &[32, N]), tensor(U64, &[1, N]));
    let mut cases = vec![case(msd(q.int4()), "quantised-groups"), case(alone, "quantised-groups")];
    if !q.is_nz() {
        let along_k = q
            .int8()
            .null("biasOptional")
            .null("perTokenScaleOptional")
            .set("groupType", 2)
            .set("x", vec![transposed(I8, &[M, 32])])
            .set("weight", vec![tensor(I8, &[32, N])])
            .set("scaleOptional", vec![tensor(BF16, &[N])])
            .set("out", vec![tensor(BF16, &[E, M, N])]);
        cases.push(case(along_k, "quantised-groups"));
    }
    cases
}

fn of_row_major(q: Quantised) -> Vec<Case> {
    let one = |call: Built, name: &str, tensor: TensorDesc| call.set(name, vec![tensor]);
    if q.is_nz() {
        return vec![case(q.antiquant(I8), "nz-dtype")];
    }
    let parts = |groups: i64| {
        let scale = tensor(BF16, &[E, groups, N]);
        one(q.antiquant(I4), "antiquantScaleOptional", scale).null("antiquantOffsetOptional")
    };
    let narrow = |call: Built, n: i64| {
        let call = one(one(call, "weight", tensor(I4, &[E, 32, n])), "out", tensor(BF16, &[M, n]));
        one(one(call, "scaleOptional", tensor(U64, &[E, 1, n])), "biasOptional", tensor(F32, &[E, n]))
    };
    let each = |call: Built| q.list(call, tensor(I4, &[32, N]), tensor(BF16, &[N])).null("scaleOptional");
    vec![
        case(narrow(q.msd(32, 1), 60), "int4-n"),
        case(narrow(q.msd(32, 1), 63), "int4-even").also(&["int4-n"]),
        case(q.antiquant(I8).null("antiquantScaleOptional"), "quant-params"),
        case(q.antiquant(I8).null("antiquantOffsetOptional"), "quant-params"),
        case(q.antiquant(I4).null("antiquantScaleOptional"), "quant-params"),
        case(
            each(q.antiquant(I4))
                .null("antiquantOffsetOptional")
                .set("antiquantScaleOptional", vec![tensor(BF16, &[N]); 3]),
            "quant-params",
        ),
        case(one(q.antiquant(I8), "scaleOptional", tensor(F32, &[E, N])), "quant-params"),
        case(one(q.antiquant(I8), "antiquantScaleOptional", tensor(F16, &[E, N])), "scale-dtype"),
        case(one(q.antiquant(I8), "antiquantOffsetOptional", tensor(F32, &[E, N])), "scale-dtype"),
        case(one(q.antiquant(I8), "antiquantScaleOptional", tensor(BF16, &[E, 4, N])), "scale-shape"),
        case(one(q.antiquant(I4), "antiquantOffsetOptional", tensor(BF16, &[E, 4, N])), "scale-shape"),
        case(parts(5), "scale-shape"),
        case(one(parts(32), "weight", transposed(I4, &[E, 32, N])), "scale-shape"),
        case(q.antiquant(I8).set("actType", 1), "act-type"),
        case(one(q.antiquant(I8), "out", tensor(F16, &[M, N])), "out-dtype"),
        case(one(q.antiquant(I8), "biasOptional", tensor(BF16, &[E, N])), "bias-dtype"),
        case(one(q.antiquant(I8), "weight", packed(tensor(I8, &[E, 32, N]))), "nz-dtype"),
    ]
}
