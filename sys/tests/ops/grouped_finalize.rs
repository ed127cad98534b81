//! Calls of the grouped product that is added up by token, in each of its signatures.

use ascend_sys::ops::TensorDesc;
use ascend_sys::{OperatorId, aclDataType};

use crate::build::{BF16, Built, Case, F16, F32, I4, I8, I32, I64, packed, spread, tensor, transposed};
use crate::limits::Limit;

const INVALID: i32 = 161002;
const NULL: i32 = 161001;
const NOT_CARRIED: i32 = 561003;

const M: i64 = 10;
const E: i64 = 4;
const K: i64 = 192;
const N: i64 = 256;
const BATCH: i64 = 6;

/// One of the five signatures.
#[derive(Clone, Copy)]
struct Signature {
    operator: OperatorId,
    nz: bool,
    with_offset: bool,
    tuned: bool,
}

impl Signature {
    fn of(operator: OperatorId) -> Self {
        use OperatorId as Id;
        let nz =
            matches!(operator, Id::GroupedMatmulFinalizeRoutingWeightNz | Id::GroupedMatmulFinalizeRoutingWeightNzV2);
        let tuned = matches!(operator, Id::GroupedMatmulFinalizeRoutingV3 | Id::GroupedMatmulFinalizeRoutingWeightNzV2);
        Self { operator, nz, tuned, with_offset: tuned || operator == Id::GroupedMatmulFinalizeRoutingV2 }
    }

    /// A parameter by its longest name.
    fn name(self, name: &str) -> &'static str {
        let params = self.operator.info().params;
        let short = name.trim_end_matches("Optional");
        let found = params.iter().find(|(found, _)| found.trim_end_matches("Optional") == short);
        let by_place = match name {
            "x1" => 0,
            "x2" => 1,
            "transposeX1" => params.iter().position(|(name, _)| name.starts_with("transposeX")).unwrap(),
            _ => params.len() - 1,
        };
        found.map_or(params[by_place].0, |(name, _)| name)
    }

    fn set(self, call: Built, name: &str, value: impl Into<crate::build::Value>) -> Built {
        call.set(self.name(name), value)
    }

    fn null(self, call: Built, name: &str) -> Built {
        call.null(self.name(name))
    }

    /// int4 weights: M rows for 6 tokens, K = 192, N = 256, 4 experts.
    fn int4(self) -> Built {
        let call = Built::new(self.operator);
        let weight = if self.nz { packed(tensor(I4, &[E, K, N])) } else { tensor(I32, &[E, K, N / 8]) };
        let call = self.set(self.set(call, "x1", tensor(I8, &[M, K])), "x2", weight);
        let call = self.set(self.set(call, "scale", tensor(I64, &[E, 1, N])), "bias", tensor(F32, &[E, N]));
        let call = self.set(self.set(call, "pertokenScale", tensor(F32, &[M])), "groupList", tensor(I64, &[E]));
        let call = self.set(self.set(call, "sharedInput", tensor(BF16, &[2, N])), "logit", tensor(F32, &[M]));
        let call = self.set(self.set(call, "rowIndex", tensor(I64, &[M])), "sharedInputOffset", 4);
        self.set(call, "out", tensor(F32, &[BATCH, N]))
    }

    /// int8 weights.
    fn int8(self) -> Built {
        let call = self.set(self.null(self.int4(), "bias"), "x2", packed(tensor(I8, &[E, K, N])));
        self.set(call, "scale", tensor(F32, &[E, N]))
    }
}

pub(crate) fn legal(operator: OperatorId) -> Vec<Built> {
    let s = Signature::of(operator);
    let mut calls = vec![
        s.int4(),
        s.set(s.null(s.int4(), "sharedInput"), "sharedInputOffset", 0),
        s.set(s.int4(), "groupListType", 1),
        s.set(s.int4(), "out", tensor(F32, &[M, N])),
        s.set(s.int4(), "sharedInputWeight", 0.5),
    ];
    if s.with_offset {
        calls.push(s.set(s.int4(), "offset", tensor(F32, &[E, 1, N])));
    }
    if s.tuned {
        calls.push(s.set(s.int4(), "tuningConfigOptional", vec![M]));
        calls.push(s.set(s.int4(), "tuningConfigOptional", Vec::<i64>::new()));
    }
    if s.nz {
        calls.extend([
            s.int8(),
            s.set(s.int8(), "scale", tensor(BF16, &[E, N])),
            s.null(s.int8(), "pertokenScale"),
            s.set(s.int8(), "rowIndex", tensor(I32, &[M])),
        ]);
    }
    if s.nz && s.tuned {
        let mut bytes = packed(tensor(I32, &[E, K, N / 8]));
        calls.push(s.set(s.int4(), "x2", bytes));
        // Packed as int8, two to a byte, and seen as int32.
        bytes.storage = tensor(I8, &[E, N / 64, K / 16, 16, 32]).storage;
        calls.push(s.set(s.int4(), "x2", TensorDesc { format: ascend_sys::aclFormat::ND, ..bytes }));
    }
    calls
}

fn case(call: Built, rule: &'static str) -> Case {
    Case::new(call, rule, INVALID)
}

pub(crate) fn violations(operator: OperatorId) -> Vec<Case> {
    let s = Signature::of(operator);
    let weight = |k: i64, n: i64| if s.nz { packed(tensor(I4, &[E, k, n])) } else { tensor(I32, &[E, k, n / 8]) };
    let sized = |k: i64, n: i64| {
        let call = s.set(s.set(s.int4(), "x1", tensor(I8, &[M, k])), "x2", weight(k, n));
        let call = s.set(s.set(call, "scale", tensor(I64, &[E, 1, n])), "bias", tensor(F32, &[E, n]));
        s.set(s.set(call, "sharedInput", tensor(BF16, &[2, n])), "out", tensor(F32, &[BATCH, n]))
    };
    let empty = s.set(s.set(s.int4(), "x1", tensor(I8, &[0, K])), "pertokenScale", tensor(F32, &[0]));
    let empty = s.set(s.set(empty, "logit", tensor(F32, &[0])), "rowIndex", tensor(I64, &[0]));
    let empty = s.set(s.set(s.null(empty, "sharedInput"), "out", tensor(F32, &[0, N])), "sharedInputOffset", 0);
    let flipped = s.set(s.int4(), "x1", transposed(I8, &[M, K]));
    let mut cases = vec![
        case(s.set(s.int4(), "dtype", 1), "form"),
        case(s.set(s.int4(), "groupListType", 2), "form"),
        case(s.set(s.int4(), "transposeX1", true), "form"),
        case(s.set(s.int4(), "scale", tensor(F32, &[E, 1, N])), "scale-dtype"),
        case(s.set(s.int4(), "bias", tensor(BF16, &[E, N])), "bias-dtype"),
        case(s.set(s.int4(), "x1", tensor(I8, &[M, K + 64])), "k-match"),
        case(sized(128, N), "sizes"),
        case(sized(K + 16, N), "sizes"),
        case(sized(K, 64), "sizes"),
        case(s.set(s.int4(), "scale", tensor(I64, &[E, N])), "scale-shape"),
        case(s.set(s.int4(), "bias", tensor(F32, &[E, N + 1])), "scale-shape"),
        case(s.set(s.int4(), "pertokenScale", tensor(F32, &[M + 1])), "rows"),
        case(s.set(s.int4(), "logit", tensor(F32, &[M + 1])), "rows"),
        case(s.set(s.int4(), "rowIndex", tensor(I64, &[M - 1])), "rows"),
        case(s.set(s.int4(), "out", tensor(F32, &[M + 1, N])), "rows"),
        case(s.set(s.int4(), "out", tensor(F32, &[BATCH, N + 1])), "rows"),
        case(s.set(s.int4(), "groupList", tensor(I64, &[E - 1])), "group-list-length"),
        case(s.set(s.int4(), "sharedInputOffset", 5), "shared"),
        case(s.set(s.int4(), "sharedInputOffset", -1), "shared"),
        case(s.set(s.int4(), "sharedInput", tensor(BF16, &[2, N - 1])), "shared"),
        case(empty, "not-empty"),
        case(s.set(s.int4(), "rowIndex", tensor(I32, &[M])), "row-index-dtype"),
        Case::new(flipped, "strides", NOT_CARRIED),
    ];
    if s.with_offset {
        cases.extend([
            Case::new(s.set(s.int4(), "antiquantScale", tensor(F32, &[E, N])), "antiquant", NULL),
            Case::new(s.set(s.int4(), "antiquantOffset", tensor(F16, &[E, N])), "antiquant", NULL),
            case(s.set(s.int4(), "offset", tensor(F32, &[E, N])), "offset"),
        ]);
    }
    if s.tuned {
        let tuned = |rows| case(s.set(s.int4(), "tuningConfigOptional", vec![rows]), "tuning-config");
        cases.extend([tuned(-1), tuned(M + 1)]);
    }
    if s.nz {
        let mut short = packed(tensor(I8, &[E, K, N]));
        short.storage.as_mut_slice()[0] -= 1;
        cases.extend([
            Case::new(s.null(s.int4(), "pertokenScale"), "per-token", NULL),
            case(s.set(s.int8(), "x2", short), "nz-storage"),
            Case::new(s.null(s.int4(), "bias"), "bias", NOT_CARRIED),
            Case::new(s.set(s.int8(), "bias", tensor(BF16, &[E, N])), "bias", NOT_CARRIED),
        ]);
        if s.tuned {
            cases.push(case(s.set(s.int8(), "x2", tensor(I8, &[E, K, N])), "weight-format"));
        }
    } else {
        cases.push(Case::new(s.set(s.int4(), "x2", spread(tensor(I32, &[E, K, N / 8]))), "strides", NOT_CARRIED));
    }
    cases
}

const PLAIN: &[i32] = &[0, 1, 2, 16, 27, 30, 35, 47];

pub(crate) fn limits(operator: OperatorId) -> Vec<Limit> {
    let s = Signature::of(operator);
    let weights: (&[i32], &[i32]) = match (s.nz, s.tuned) {
        (false, _) => (&[3], &[2]),
        (true, false) => (&[2, 29], &[29]),
        (true, true) => (&[2, 3, 29], &[2, 29]),
    };
    let limit = |name, dtypes: &'static [i32], ranks| (s.name(name), dtypes, PLAIN, ranks, false);
    let mut limits = vec![
        (s.name("x1"), &[2][..], if s.nz { &[2][..] } else { PLAIN }, 2..=2, false),
        (s.name("x2"), weights.0, weights.1, 3..=3, false),
        limit("scale", &[0, 9, 27], 2..=3),
        limit("bias", &[0, 27], 2..=2),
    ];
    if s.with_offset {
        let any = |name| (s.name(name), &[][..], &[][..], 0..=8, false);
        limits.extend([limit("offset", &[0], 0..=8), any("antiquantScale"), any("antiquantOffset")]);
    }
    limits.extend([
        limit("pertokenScale", &[0], 1..=1),
        limit("groupList", &[9], 1..=1),
        limit("sharedInput", &[27], 2..=2),
        limit("logit", &[0], 1..=1),
        limit("rowIndex", &[3, 9], 1..=1),
        limit("out", &[0], 2..=2),
    ]);
    limits
}

/// Parameters that may be null.
pub(crate) fn may_be_null(operator: OperatorId, name: &str) -> bool {
    let always = ["sharedInput", "offset", "antiquantScale", "antiquantOffset", "tuningConfig"];
    let packed: &[&str] = if Signature::of(operator).nz { &["bias", "pertokenScale"] } else { &[] };
    always.iter().chain(packed).any(|may| name.trim_end_matches("Optional") == *may)
}

#[test]
fn int4_in_int32_is_eight_times_as_wide() {
    let call = Signature::of(OperatorId::GroupedMatmulFinalizeRouting);
    let narrow = call.set(call.int4(), "x2", tensor(aclDataType::INT32, &[E, K, N]));
    assert_eq!(narrow.validate().unwrap_err().rule, "scale-shape");
}
