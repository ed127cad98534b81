//! Calls of the grouped product with SwiGLU and quantisation, in each of its signatures.

use ascend_sys::ops::TensorDesc;
use ascend_sys::{OperatorId, aclDataType, aclFormat};

use crate::build::{BF16, Built, Case, F16, F32, I4, I8, I32, I64, U64, packed, spread, tensor, transposed};
use crate::limits::Limit;

const INVALID: i32 = 161002;
const NULL: i32 = 161001;
const NOT_CARRIED: i32 = 561003;

const M: i64 = 10;
const E: i64 = 4;
const K: i64 = 64;
const N: i64 = 128;

/// One of the four signatures.
#[derive(Clone, Copy)]
struct Signature {
    operator: OperatorId,
    second: bool,
    nz: bool,
}

impl Signature {
    fn of(operator: OperatorId) -> Self {
        use OperatorId as Id;
        let second = matches!(operator, Id::GroupedMatmulSwigluQuantV2 | Id::GroupedMatmulSwigluQuantWeightNzV2);
        let nz = matches!(operator, Id::GroupedMatmulSwigluQuantWeightNZ | Id::GroupedMatmulSwigluQuantWeightNzV2);
        Self { operator, second, nz }
    }

    /// A tensor, or a list of it.
    fn one(self, call: Built, name: &str, tensor: TensorDesc) -> Built {
        if self.second { call.set(name, vec![tensor]) } else { call.set(name, tensor) }
    }

    fn weight(self, call: Built, weight: TensorDesc) -> Built {
        self.one(call, "weight", weight)
    }

    fn scale(self, call: Built, scale: TensorDesc) -> Built {
        self.one(call, "weightScale", scale)
    }

    fn assist(self, call: Built, assist: TensorDesc) -> Built {
        self.one(call, if self.second { "weightAssistMatrix" } else { "bias" }, assist)
    }

    /// M rows, K = 64, N = 128, 4 experts of int8.
    fn int8(self) -> Built {
        let call = Built::new(self.operator)
            .set("x", tensor(I8, &[M, K]))
            .set("xScale", tensor(F32, &[M]))
            .set("groupList", tensor(I64, &[E]))
            .set("output", tensor(I8, &[M, N / 2]))
            .set("outputScale", tensor(F32, &[M]));
        self.scale(self.weight(call, packed(tensor(I8, &[E, K, N]))), tensor(F32, &[E, N]))
    }

    /// A weight of int4 as the signature takes it.
    fn blocks(self, weight: TensorDesc) -> TensorDesc {
        if self.nz { packed(weight) } else { weight }
    }

    /// The same with weights of int4.
    fn msd(self) -> Built {
        let call = self.weight(self.int8(), self.blocks(tensor(I4, &[E, K, N])));
        self.assist(self.scale(call, tensor(U64, &[E, N])), tensor(F32, &[E, N]))
    }

    /// With a scale for each of some parts of K.
    fn parts(self, call: Built, parts: i64) -> Built {
        let call = self.scale(call, tensor(U64, &[E, parts, N]));
        if self.second { call.set("dequantMode", 1) } else { call }
    }

    /// int4 by int4, in the second version.
    fn int4(self) -> Built {
        let call = self.msd().null("weightAssistMatrix");
        call.set("x", tensor(I4, &[M, K])).set("smoothScale", tensor(F32, &[E, N / 2]))
    }

    /// Three weights, in the second version.
    fn list(self, call: Built, weight: TensorDesc, scale: TensorDesc) -> Built {
        call.set("weight", vec![weight; 3]).set("weightScale", vec![scale; 3]).set("groupList", tensor(I64, &[3]))
    }
}

/// The blocks of a weight as its shape.
fn blocked(weight: TensorDesc) -> TensorDesc {
    TensorDesc { shape: weight.storage, strides: weight.storage.contiguous_strides(), ..weight }
}

pub(crate) fn legal(operator: OperatorId) -> Vec<Built> {
    let s = Signature::of(operator);
    let int32 = |shape: &[i64]| s.blocks(tensor(I32, shape));
    let mut calls = vec![
        s.int8(),
        s.scale(s.int8(), tensor(BF16, &[E, N])),
        s.scale(s.int8(), tensor(F16, &[E, N])),
        s.weight(s.int8(), blocked(packed(tensor(I8, &[E, K, N])))),
        s.int8().set("groupList", tensor(I64, &[2])),
        s.msd(),
        s.parts(s.msd(), 4),
        s.scale(s.msd(), tensor(I64, &[E, N])),
        s.weight(s.msd(), packed(tensor(I4, &[E, K, N]))),
        s.weight(s.msd(), blocked(packed(tensor(I4, &[E, K, N])))),
        s.weight(s.msd(), int32(&[E, K, N / 8])),
        s.weight(s.msd(), blocked(packed(tensor(I32, &[E, K, N / 8])))),
    ];
    if s.second {
        let int8 = packed(tensor(I8, &[K, N]));
        calls.extend([
            s.int8().set("groupListType", 1).set("dequantDtype", 28).set("tuningConfigOptional", vec![5]),
            s.list(s.int8(), int8, tensor(F32, &[N])),
            s.list(s.int8(), blocked(int8), tensor(F32, &[N])),
            s.list(s.msd(), s.blocks(tensor(I4, &[K, N])), tensor(U64, &[4, N]))
                .set("weightAssistMatrix", vec![tensor(F32, &[N]); 3])
                .set("dequantMode", 1),
            s.int4(),
            s.int4().null("smoothScale"),
            s.int4().set("smoothScale", tensor(F32, &[E])),
            s.parts(s.int4(), 2),
            s.int4().set("x", tensor(I32, &[M, K / 8])),
            s.weight(s.int4(), packed(transposed(I4, &[E, K, N]))),
        ]);
    } else {
        calls.push(
            s.int8()
                .set("x", tensor(I8, &[0, K]))
                .set("xScale", tensor(F32, &[0]))
                .set("output", tensor(I8, &[0, N / 2]))
                .set("outputScale", tensor(F32, &[0])),
        );
    }
    calls
}

fn case(call: Built, rule: &'static str) -> Case {
    Case::new(call, rule, INVALID)
}

fn carried(call: Built, rule: &'static str) -> Case {
    Case::new(call, rule, NOT_CARRIED)
}

pub(crate) fn violations(operator: OperatorId) -> Vec<Case> {
    let s = Signature::of(operator);
    let assist = if s.second { "weightAssistMatrix" } else { "bias" };
    let sized = |k: i64, n: i64| {
        let call = s.weight(s.int8().set("x", tensor(I8, &[M, k])), packed(tensor(I8, &[E, k, n])));
        s.scale(call, tensor(F32, &[E, n])).set("output", tensor(I8, &[M, n / 2]))
    };
    let deep = s.weight(s.msd().set("x", tensor(I8, &[M, 20032])), s.blocks(tensor(I4, &[E, 20032, N])));
    let mut short = packed(tensor(I8, &[E, K, N]));
    short.storage.as_mut_slice()[0] -= 1;
    let mut cases = vec![
        Case::new(s.msd().null(assist), "assist", NULL),
        case(s.scale(s.int8(), tensor(U64, &[E, N])), "scale-dtype"),
        case(s.scale(s.msd(), tensor(F32, &[E, N])), "scale-dtype"),
        case(s.int8().set("x", tensor(I8, &[M, K + 16])), "k-match"),
        case(sized(K, 10272), "n"),
        case(sized(65536, N), "k"),
        case(deep, "k"),
        case(s.scale(s.int8(), tensor(F32, &[E, N - 1])), "scale-shape"),
        case(s.scale(s.int8(), tensor(F32, &[E + 1, N])), "scale-shape"),
        case(s.scale(s.int8(), tensor(F32, &[E, 2, N])), "scale-shape"),
        case(s.parts(s.msd(), 3), "scale-shape"),
        case(s.assist(s.msd(), tensor(F32, &[E, N - 1])), "assist-shape"),
        case(s.assist(s.msd(), tensor(F16, &[E, N])), "assist-shape"),
        case(s.int8().set("xScale", tensor(F32, &[M + 1])), "rows"),
        case(s.int8().set("output", tensor(I8, &[M, N])), "rows"),
        case(s.int8().set("outputScale", tensor(F32, &[M + 1])), "rows"),
        case(s.int8().set("groupList", tensor(I64, &[E + 1])), "group-list-length"),
        case(sized(24, N), "nz-aligned"),
        case(sized(K, 48), "nz-aligned"),
        case(s.weight(s.int8(), short), "nz-aligned"),
        case(s.weight(s.int8(), packed(transposed(I8, &[E, K, N]))), "transposed"),
        carried(s.weight(s.msd(), spread(s.blocks(tensor(I4, &[E, K, N])))), "strides"),
    ];
    if s.nz {
        cases.push(case(s.weight(s.int8(), tensor(I8, &[E, K, N])), "nz-storage"));
    } else {
        cases.push(case(s.weight(s.int8(), tensor(I8, &[E, K, N])), "weight-format"));
        cases.push(case(s.weight(s.msd(), transposed(I4, &[E, K, N])), "transposed"));
    }
    if s.second {
        let int8 = || s.list(s.int8(), packed(tensor(I8, &[K, N])), tensor(F32, &[N]));
        cases.extend([
            case(s.int8().set("x", tensor(I4, &[M, K])), "dtypes"),
            case(int8().set("weightScale", vec![tensor(F32, &[N]); 2]), "lists"),
            case(int8().set("weight", vec![packed(tensor(I8, &[1, K, N])); 3]), "lists").also(if s.nz {
                &["nz-storage"]
            } else {
                &[]
            }),
            case(int8().set("weightScale", vec![tensor(F32, &[1, N]); 3]), "scale-shape"),
            Case::new(s.assist(s.int4(), tensor(F32, &[E, N])), "assist", NULL),
            case(s.int8().set("dequantMode", 2), "dequant-mode").also(&["scale-shape"]),
            case(s.msd().set("dequantMode", 1), "scale-shape"),
            case(s.int8().set("groupListType", 2), "list-type"),
            case(s.int4().set("smoothScale", tensor(F32, &[E, N])), "smooth"),
            case(s.int8().set("smoothScale", tensor(F32, &[E])), "smooth"),
            case(
                s.int8()
                    .set("x", tensor(I8, &[0, K]))
                    .set("xScale", tensor(F32, &[0]))
                    .set("output", tensor(I8, &[0, N / 2]))
                    .set("outputScale", tensor(F32, &[0])),
                "not-empty",
            ),
            carried(s.int8().set("dequantDtype", 1), "modes"),
            carried(s.int8().set("quantMode", 1), "modes"),
            carried(s.int8().set("bias", tensor(F32, &[E, N])), "modes"),
            carried(s.assist(s.int8(), tensor(F32, &[E, N])), "modes"),
            carried(s.int4().set("x", spread(tensor(I4, &[M, K]))), "strides"),
        ]);
    } else {
        let flat = s.weight(s.int8(), blocked(packed(tensor(I8, &[K, N]))));
        cases.extend([
            carried(s.int8().set("offset", tensor(F32, &[E, N])), "offset"),
            carried(s.int8().set("outputOffset", tensor(F32, &[M])), "offset"),
            carried(s.assist(s.int8(), tensor(F32, &[E, N])), "offset"),
            carried(s.int8().set("xScale", tensor(BF16, &[M])), "x-scale"),
            case(flat, "lists").also(if s.nz { &["scale-shape", "nz-storage"] } else { &["scale-shape"] }),
        ]);
    }
    cases
}

const PLAIN: &[i32] = &[0, 1, 2, 16, 27, 30, 35, 47];
const PLAIN_OR_NZ: &[i32] = &[0, 1, 2, 16, 27, 29, 30, 35, 47];
const SCALES: &[i32] = &[0, 1, 9, 10, 27];

pub(crate) fn limits(operator: OperatorId) -> Vec<Limit> {
    let s = Signature::of(operator);
    let any = |name| (name, &[][..], &[][..], 0..=8, false);
    let output = [("output", &[2][..], PLAIN, 2..=2, false), ("outputScale", &[0][..], &[][..], 1..=1, false)];
    let mut limits = if s.second {
        vec![
            ("x", &[2, 3, 29][..], PLAIN, 2..=2, false),
            ("weight", &[2, 3, 29], PLAIN_OR_NZ, 2..=5, false),
            ("weightScale", SCALES, &[], 1..=3, false),
            any("weightAssistMatrix"),
            any("bias"),
            ("xScale", &[0], &[], 1..=1, false),
            ("smoothScale", &[0], &[], 1..=2, false),
            ("groupList", &[9], &[], 1..=1, false),
        ]
    } else {
        vec![
            ("x", &[2][..], PLAIN, 2..=2, false),
            ("weight", &[2, 3, 29], PLAIN_OR_NZ, 3..=5, false),
            any("bias"),
            any("offset"),
            ("weightScale", SCALES, &[], 2..=3, false),
            ("xScale", &[0, 1, 27], &[], 1..=1, false),
            ("groupList", &[9], &[], 1..=1, false),
        ]
    };
    limits.extend(output);
    if !s.second {
        limits.push(any("outputOffset"));
    }
    limits
}

#[test]
fn a_format_alone_does_not_make_blocks() {
    let weight = TensorDesc { format: aclFormat::FRACTAL_NZ, ..tensor(I8, &[E, K, N]) };
    let call = Signature::of(OperatorId::GroupedMatmulSwigluQuantWeightNzV2);
    assert_eq!(call.weight(call.int8(), weight).validate().unwrap_err().rule, "nz-storage");
    let unpacked = tensor(aclDataType::INT32, &[2, 3]).unpacked();
    assert_eq!((unpacked.dtype, &*unpacked.shape, &*unpacked.strides), (I4, &[2, 24][..], &[24, 1][..]));
    let unpacked = transposed(I32, &[3, 2]).unpacked();
    assert_eq!((&*unpacked.shape, &*unpacked.strides), (&[24, 2][..], &[1, 24][..]));
    let matrices = blocked(packed(tensor(I4, &[E, K, N]))).matrices(true);
    assert_eq!((&*matrices.shape, matrices.is_contiguous()), (&[E, K, N][..], true));
}
