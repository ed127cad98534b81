//! Calls of the grouped matrix product, in each of its signatures.

use ascend_sys::ops::TensorDesc;
use ascend_sys::{OperatorId, aclDataType};

use crate::build::{BF16, Built, Case, F16, F32, I8, I32, I64, Value, packed, spread, tensor, transposed};
use crate::grouped_quant;
use crate::limits::Limit;

const INVALID: i32 = 161002;
const NOT_CARRIED: i32 = 561003;

/// What tells the signatures apart.
#[derive(Clone, Copy)]
struct Signature {
    operator: OperatorId,
    /// It has a group type.
    typed: bool,
    /// It has the group list on the host.
    host: bool,
    /// It has a type of the group list.
    listed: bool,
    /// It takes every weight for FRACTAL_NZ.
    nz: bool,
    tuned: bool,
}

impl Signature {
    fn of(operator: OperatorId) -> Self {
        use OperatorId as Id;
        let typed = operator != Id::GroupedMatmul;
        let host = matches!(operator, Id::GroupedMatmul | Id::GroupedMatmulV2);
        let listed = !host && operator != Id::GroupedMatmulV3;
        let nz = operator == Id::GroupedMatmulWeightNz;
        Self { operator, typed, host, listed, nz, tuned: nz || operator == Id::GroupedMatmulV5 }
    }

    fn has_k_groups(self) -> bool {
        self.typed && !self.nz
    }

    fn takes_fp32(self) -> bool {
        self.typed && !self.nz
    }

    fn out(self, call: Built, out: Vec<TensorDesc>) -> Built {
        call.set(if self.listed { "out" } else { "y" }, out)
    }

    /// With a group list of as many entries; on the host they divide `size` evenly.
    fn list(self, call: Built, groups: i64, size: i64) -> Built {
        let ends = (1..=groups).map(|group| size * group / groups).collect();
        self.ends(call, ends)
    }

    /// With these ends on the host, or as many entries on the device.
    fn ends(self, call: Built, ends: Vec<i64>) -> Built {
        let length = ends.len() as i64;
        if self.host {
            call.set("groupListOptional", ends)
        } else {
            call.set("groupListOptional", tensor(I64, &[length]))
        }
    }

    /// With as many weights `[K, N]`: one tensor where the signature takes one, without bias.
    fn weights(self, call: Built, groups: i64, kn: [i64; 2], of: impl Fn(&[i64]) -> TensorDesc) -> Built {
        let weights = if self.typed { vec![of(&[groups, kn[0], kn[1]])] } else { vec![of(&kn); groups as usize] };
        self.list(call.null("biasOptional").set("weight", weights), groups, 10)
    }

    /// 10 rows in 4 groups, K = 32, N = 64, one tensor in every list; the first signature takes several weights.
    fn base(self) -> Built {
        let call = Built::new(self.operator).set("x", vec![tensor(BF16, &[10, 32])]).set("splitItem", 3);
        let call = self.weights(call, 4, [32, 64], |shape| tensor(BF16, shape));
        let call = self.bias(call, F32, 64);
        let call = if self.listed { call.set("groupListType", 1) } else { call };
        self.out(call, vec![tensor(BF16, &[10, 64])])
    }

    fn bias(self, call: Built, dtype: aclDataType, n: i64) -> Built {
        call.set("biasOptional", if self.typed { vec![tensor(dtype, &[4, n])] } else { vec![tensor(dtype, &[n]); 4] })
    }

    /// The same without bias, in another dtype.
    fn all_of(self, dtype: aclDataType) -> Built {
        let call = self.base().set("x", vec![tensor(dtype, &[10, 32])]);
        let call = self.weights(call, 4, [32, 64], |shape| tensor(dtype, shape));
        self.out(call, vec![tensor(dtype, &[10, 64])])
    }

    /// The same without bias, with a list of `experts` weights like `weight`.
    fn multi(self, experts: i64, weight: TensorDesc) -> Built {
        let call = self.base().set("weight", vec![weight; experts as usize]).null("biasOptional");
        self.list(call, experts, 10)
    }

    /// Two x for two weights.
    fn multi_x(self) -> Built {
        let call = self
            .multi(2, tensor(BF16, &[32, 64]))
            .set("x", vec![tensor(BF16, &[4, 32]), tensor(BF16, &[6, 32])])
            .set("biasOptional", vec![tensor(F32, &[64]), tensor(F32, &[64])]);
        self.ends(call, vec![4, 10])
    }

    /// One x for two weights with an output each.
    fn multi_out(self) -> Built {
        let call = self.multi(2, tensor(BF16, &[32, 64])).set("splitItem", 0);
        let call = self.out(call, vec![tensor(BF16, &[7, 64]), tensor(BF16, &[3, 64])]);
        self.ends(call, vec![7, 10])
    }

    /// Two products side by side.
    fn ungrouped(self) -> Built {
        let call = Built::new(self.operator)
            .set("x", vec![tensor(F16, &[3, 32]), tensor(F16, &[2, 5, 16])])
            .set("weight", vec![tensor(F16, &[32, 64]), tensor(F16, &[16, 16])])
            .set("biasOptional", vec![tensor(F16, &[64]), tensor(F16, &[16])]);
        let call = if self.typed { call.set("groupType", -1) } else { call };
        self.out(call, vec![tensor(F16, &[3, 64]), tensor(F16, &[2, 5, 16])])
    }

    /// The same of matrices alone, with a group list.
    fn ungrouped_listed(self) -> Built {
        let call = self.ungrouped().set("x", vec![tensor(F16, &[3, 32]), tensor(F16, &[10, 16])]);
        self.ends(self.out(call, vec![tensor(F16, &[3, 64]), tensor(F16, &[10, 16])]), vec![3, 13])
    }

    /// M = 10, K = 32 in 4 groups, N = 64.
    fn along_k(self) -> Built {
        let call = Built::new(self.operator)
            .set("x", vec![transposed(BF16, &[10, 32])])
            .set("weight", vec![tensor(BF16, &[32, 64])])
            .set("splitItem", 2)
            .set("groupType", 2);
        self.list(self.out(call, vec![tensor(BF16, &[4, 10, 64])]), 4, 32)
    }

    /// K in two parts, which have a weight and an output each.
    fn along_k_lists(self) -> Built {
        let call = self
            .along_k()
            .set("weight", vec![tensor(BF16, &[8, 64]), tensor(BF16, &[20, 48])])
            .set("splitItem", 1)
            .null("groupListOptional");
        self.out(call, vec![tensor(BF16, &[10, 64]), tensor(BF16, &[10, 48])])
    }
}

pub(crate) fn legal(operator: OperatorId) -> Vec<Built> {
    let s = Signature::of(operator);
    let most_k = if s.nz { 65520 } else { 65535 };
    let plain = |shape: &[i64]| tensor(BF16, shape);
    let mut calls = vec![
        s.base(),
        s.base().null("biasOptional").set("splitItem", 2),
        s.base().set("biasOptional", Vec::<TensorDesc>::new()).set("scaleOptional", vec![tensor(F32, &[0])]),
        s.weights(s.base(), 4, [32, 64], |shape| transposed(BF16, shape)),
        s.weights(s.base(), 4, [32, 64], |shape| packed(tensor(BF16, shape))),
        s.weights(s.base(), 4, [32, 64], |shape| packed(transposed(BF16, shape))),
        s.bias(s.all_of(F16), F16, 64),
        s.multi(128, tensor(BF16, &[32, 64])),
        s.multi(3, packed(tensor(BF16, &[32, 64]))),
        s.multi(3, transposed(BF16, &[32, 64])),
        s.multi_x(),
        s.multi_x().null("groupListOptional"),
        s.out(s.weights(s.base(), 4, [32, 65536], |shape| transposed(BF16, shape)), vec![tensor(BF16, &[10, 65536])]),
        s.weights(s.base().set("x", vec![tensor(BF16, &[10, most_k])]), 4, [most_k, 64], plain),
        s.out(s.list(s.base().set("x", vec![tensor(BF16, &[0, 32])]), 4, 0), vec![tensor(BF16, &[0, 64])]),
        s.out(
            s.weights(s.base().set("x", vec![tensor(BF16, &[10, 0])]), 4, [0, 0], plain),
            vec![tensor(BF16, &[10, 0])],
        ),
        s.ungrouped(),
        s.ungrouped().set("splitItem", 1).null("biasOptional"),
    ];
    if !s.nz {
        calls.push(s.weights(s.base(), 4, [32, 64], |shape| spread(tensor(BF16, shape))));
    }
    if s.takes_fp32() {
        calls.push(s.bias(s.all_of(F32), F32, 64));
    }
    if operator != OperatorId::GroupedMatmulV2 {
        calls.push(s.ungrouped_listed());
    }
    if s.host {
        calls.extend([s.multi_out(), s.base().null("biasOptional").set("groupListOptional", vec![0, 10, 10, 10])]);
    }
    if s.typed {
        let most = if s.host { 128 } else { 1024 };
        calls.push(s.weights(s.base(), 1, [32, 64], plain));
        calls.push(s.weights(s.base(), most, [32, 64], plain));
    }
    if s.has_k_groups() {
        let x = |call: Built, shape: &[i64]| call.set("x", vec![transposed(BF16, shape)]);
        calls.extend([
            s.along_k(),
            s.along_k().set("splitItem", 3),
            s.along_k_lists(),
            s.list(x(s.along_k(), &[10, 70000]).set("weight", vec![tensor(BF16, &[70000, 64])]), 4, 70000),
            s.list(x(s.along_k(), &[10, 0]).set("weight", vec![tensor(BF16, &[0, 64])]), 4, 0),
            s.out(x(s.along_k(), &[0, 32]), vec![tensor(BF16, &[4, 0, 64])]),
            s.out(
                s.list(x(s.along_k(), &[1, 1]).set("weight", vec![tensor(BF16, &[1, 64])]), 4, 1),
                vec![tensor(BF16, &[4, 1, 64])],
            ),
        ]);
    }
    if s.listed {
        calls.push(s.base().set("groupListType", 0));
        calls.push(s.base().set("groupListType", 2).set("groupListOptional", tensor(I64, &[4, 2])));
        if s.has_k_groups() {
            calls.push(s.along_k().set("groupListType", 1));
        }
    }
    if s.tuned {
        calls.extend([
            s.base().set("tuningConfigOptional", Vec::<i64>::new()),
            s.base().set("tuningConfigOptional", vec![0]),
            s.base().set("tuningConfigOptional", vec![10, 1, -1]),
            s.multi_x().set("tuningConfigOptional", vec![6]),
        ]);
    }
    if s.nz {
        calls.push(s.base().set("quantGroupSize", 256));
    }
    if s.listed {
        calls.extend(grouped_quant::legal(operator));
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
    let own = [of_values(s), of_dtypes(s), of_shapes(s), of_lists(s), of_weights(s), of_k_groups(s)];
    let quantised = if s.listed { grouped_quant::violations(operator) } else { Vec::new() };
    own.into_iter().flatten().chain(quantised).collect()
}

fn of_values(s: Signature) -> Vec<Case> {
    let mut cases = vec![
        case(s.base().set("splitItem", 1), "split-item"),
        case(s.base().set("splitItem", 4), "split-item"),
        case(s.ungrouped().set("splitItem", 2), "split-item"),
    ];
    if s.typed {
        cases.push(case(s.base().set("groupType", 1), "group-type"));
        cases.push(case(s.base().set("groupType", -2), "group-type"));
    }
    if s.nz {
        let also = &["x-transposed", "ranks", "group-list-length"];
        cases.push(case(s.base().set("groupType", 2), "group-type").also(also));
    }
    if !s.host {
        cases.push(case(s.base().set("groupListOptional", tensor(I64, &[4, 2])), "group-list-rank"));
    }
    if s.listed {
        let pairs = |shape: &[i64]| s.base().set("groupListType", 2).set("groupListOptional", tensor(I64, shape));
        cases.extend([
            case(pairs(&[4]), "group-list-rank"),
            case(pairs(&[4, 3]), "group-list-rank"),
            case(s.base().set("groupListType", 3), "group-list-type"),
            case(s.base().set("groupListType", -1), "group-list-type"),
            case(s.base().set("actType", 1), "act-type"),
        ]);
    }
    if s.tuned {
        cases.extend([-1, 11].map(|rows| case(s.base().set("tuningConfigOptional", vec![rows]), "tuning-config")));
    }
    let scales = ["scale", "offset", "antiquantScale", "antiquantOffset", "perTokenScale"];
    cases.extend(
        scales[..if s.listed { 5 } else { 4 }]
            .iter()
            .map(|name| case(s.base().set(&format!("{name}Optional"), vec![tensor(F32, &[4, 64])]), "quant-params")),
    );
    cases
}

fn of_dtypes(s: Signature) -> Vec<Case> {
    const INT4: aclDataType = aclDataType::INT4;
    let weights = |dtype| s.weights(s.base(), 4, [32, 64], |shape| tensor(dtype, shape));
    let x = |call: Built, dtype| call.set("x", vec![tensor(dtype, &[10, 32])]);
    let two = || s.multi(2, tensor(BF16, &[32, 64]));
    let mut cases = vec![
        case(weights(F16), "dtypes"),
        case(x(weights(BF16), I8), "dtypes").also(&["out-dtype"]),
        case(two().set("weight", vec![tensor(BF16, &[32, 64]), tensor(F16, &[32, 64])]), "list-dtypes"),
        case(s.multi_x().set("x", vec![tensor(BF16, &[4, 32]), tensor(F16, &[6, 32])]), "list-dtypes"),
        case(s.out(s.base(), vec![tensor(F32, &[10, 64])]), "out-dtype"),
        case(s.bias(s.base(), BF16, 64), "bias-dtype"),
        case(s.bias(s.all_of(F16), F32, 64), "bias-dtype"),
        case(s.bias(s.all_of(F16), I32, 64), "bias-dtype"),
    ];
    if !s.typed {
        cases.push(case(s.all_of(F32), "no-fp32"));
    }
    if !s.listed {
        cases.extend([
            carried(weights(I8), "quantised").also(&["quant-params"]),
            carried(s.all_of(I8), "quantised").also(&["quant-params"]),
            carried(x(weights(INT4), INT4), "quantised").also(&["quant-params"]),
            case(weights(I32), "dtypes"),
        ]);
    }
    cases
}

fn of_shapes(s: Signature) -> Vec<Case> {
    let x = |shape: &[i64]| s.base().set("x", vec![tensor(BF16, shape)]);
    let out = |shape: &[i64]| s.out(s.base(), vec![tensor(BF16, shape)]);
    let weights = |call, kn| s.weights(call, 4, kn, |shape| tensor(BF16, shape));
    // A product with K = 0 beside another.
    let empty_beside = |x: &[i64], weight: &[i64], out: &[i64]| {
        let call = s
            .ungrouped()
            .null("biasOptional")
            .set("x", vec![tensor(F16, &[3, 0]), tensor(F16, x)])
            .set("weight", vec![tensor(F16, &[0, 64]), tensor(F16, weight)]);
        s.out(call, vec![tensor(F16, &[3, 64]), tensor(F16, out)])
    };
    let beside = |shape: &[i64]| s.out(s.ungrouped(), vec![tensor(F16, &[3, 64]), tensor(F16, shape)]);
    let mut cases = vec![
        case(weights(x(&[10, 0]), [0, 64]), "empty-k"),
        case(empty_beside(&[0, 16], &[16, 16], &[0, 16]), "empty-k"),
        case(empty_beside(&[2, 16], &[16, 0], &[2, 0]), "empty-k"),
        case(s.base().set("x", vec![transposed(BF16, &[10, 32])]), "x-transposed"),
        case(x(&[10, 1, 32]), "ranks"),
        case(out(&[10, 1, 64]), "ranks"),
        case(s.multi(2, tensor(BF16, &[1, 32, 64])), "ranks"),
        case(
            s.ungrouped().null("biasOptional").set("weight", vec![tensor(F16, &[32, 64]), tensor(F16, &[1, 16, 16])]),
            "ranks",
        ),
        case(beside(&[10, 16]), "ranks").also(&["m-match"]),
        case(weights(s.base(), [48, 64]), "k-match"),
        case(out(&[9, 64]), "m-match"),
        case(beside(&[2, 4, 16]), "m-match"),
        case(out(&[10, 65]), "n-match"),
        case(weights(x(&[10, 65536]), [65536, 64]), "inner-axis"),
        case(s.out(weights(s.base(), [32, 65536]), vec![tensor(BF16, &[10, 65536])]), "inner-axis"),
        case(s.bias(s.base(), F32, 63), "bias-shape"),
        case(
            s.multi(2, tensor(BF16, &[32, 64])).set("biasOptional", vec![tensor(F32, &[64]), tensor(F32, &[1, 64])]),
            "bias-shape",
        ),
        case(s.multi(2, tensor(BF16, &[32, 64])).set("biasOptional", vec![tensor(F32, &[64])]), "bias-shape"),
    ];
    if s.typed {
        let flat = s.base().null("biasOptional").set("weight", vec![tensor(BF16, &[32, 64])]);
        cases.push(case(s.list(flat, 32, 10), "ranks"));
        cases.push(case(s.base().set("biasOptional", vec![tensor(F32, &[64])]), "bias-shape"));
    }
    cases
}

fn of_lists(s: Signature) -> Vec<Case> {
    let two = || s.multi(2, tensor(BF16, &[32, 64]));
    let plain = |shape: &[i64]| tensor(BF16, shape);
    let third = vec![tensor(F16, &[32, 64]), tensor(F16, &[16, 16]), tensor(F16, &[16, 16])];
    let unfit: &[&str] = if s.host { &["group-list-ends"] } else { &[] };
    let long: &[&str] = if s.host { &["group-list-size"] } else { &[] };
    let halves = s.out(s.base().set("splitItem", 0), vec![tensor(BF16, &[5, 64]), tensor(BF16, &[5, 64])]);
    let three = s.multi(3, tensor(BF16, &[32, 64])).set("x", vec![tensor(BF16, &[4, 32]), tensor(BF16, &[6, 32])]);
    let mut cases = vec![
        case(halves, "lists").also(unfit),
        case(three, "lists").also(unfit),
        case(s.ungrouped().null("biasOptional").set("weight", third), "lists"),
        case(s.multi(129, tensor(BF16, &[32, 64])), "list-length").also(long),
        case(s.base().null("biasOptional").null("groupListOptional"), "group-list"),
        case(s.list(s.base().null("biasOptional"), 5, 10), "group-list-length"),
    ];
    if s.typed {
        let list = s.list(s.weights(s.base(), 1, [32, 64], plain), 3, 10);
        cases.push(carried(list, "single-group"));
    }
    if s.operator == OperatorId::GroupedMatmulV2 {
        cases.push(case(s.ungrouped_listed(), "group-list"));
    } else {
        cases.push(case(s.ends(s.ungrouped_listed(), vec![3]), "group-list-length"));
    }
    if s.host {
        let ends = |call: Built, ends: &[i64]| call.null("biasOptional").set("groupListOptional", ends.to_vec());
        cases.extend([
            case(s.list(s.multi(3, plain(&[32, 64])), 129, 10), "group-list-size").also(&["group-list-length"]),
            case(ends(s.base(), &[-1, 5, 5, 10]), "group-list-order"),
            case(ends(s.base(), &[6, 5, 5, 10]), "group-list-order"),
            case(ends(s.base(), &[0, 5, 5, 9]), "group-list-ends"),
            case(ends(s.multi_x(), &[5, 10]), "group-list-ends"),
            case(ends(s.multi_out(), &[5, 10]), "group-list-ends"),
        ]);
    } else {
        cases.extend([
            case(s.multi_out(), "lists"),
            case(s.weights(s.base(), 0, [32, 64], plain), "group-list-size"),
            case(s.weights(s.base(), 1025, [32, 64], plain), "group-list-size"),
            case(s.list(two(), 3, 10), "group-list-length"),
        ]);
    }
    if !s.typed {
        cases.push(case(s.ends(s.ungrouped(), vec![3, 13]), "group-list-ends"));
        cases.push(case(s.ends(s.ungrouped_listed(), vec![4, 14]), "group-list-ends"));
    }
    cases
}

fn of_weights(s: Signature) -> Vec<Case> {
    let mixed = |a, b| s.multi(2, tensor(BF16, &[32, 64])).set("weight", vec![a, b]);
    let blocks = |call, kn| s.weights(call, 4, kn, |shape| packed(tensor(BF16, shape)));
    let single = |of: fn(&[i64]) -> TensorDesc| s.weights(s.base(), 4, [32, 64], of);
    let floats = s.weights(s.all_of(F32), 4, [32, 64], |shape| packed(tensor(F32, shape)));
    let old: &[&str] = if s.typed { &[] } else { &["no-fp32"] };
    let x = s.base().set("x", vec![tensor(BF16, &[10, 40])]);
    let mut cases = vec![
        case(mixed(tensor(BF16, &[32, 64]), transposed(BF16, &[32, 64])), "weight-transposed"),
        case(floats, "nz-dtype").also(old),
        case(s.out(blocks(s.base(), [32, 72]), vec![tensor(BF16, &[10, 72])]), "nz-aligned"),
        case(blocks(x, [40, 64]), "nz-aligned"),
        case(single(|shape| spread(packed(tensor(BF16, shape)))), "nz-layout"),
        case(single(short_storage), "nz-storage"),
    ];
    if s.nz {
        // Whatever the weight says of itself.
        cases.push(case(s.all_of(F32), "nz-dtype"));
        cases.push(case(single(|shape| spread(tensor(BF16, shape))), "nz-layout"));
        let narrow = s.weights(s.base(), 4, [32, 72], |shape| tensor(BF16, shape));
        cases.push(case(s.out(narrow, vec![tensor(BF16, &[10, 72])]), "nz-aligned"));
    } else {
        cases.push(case(mixed(packed(tensor(BF16, &[32, 64])), tensor(BF16, &[32, 64])), "weight-format"));
    }
    if !s.typed {
        let pair = vec![transposed(F16, &[32, 64]), transposed(F16, &[16, 16])];
        cases.push(case(s.ungrouped().set("weight", pair), "weight-transposed"));
    }
    cases
}

/// A FRACTAL_NZ weight whose storage lacks a part.
fn short_storage(shape: &[i64]) -> TensorDesc {
    let mut weight = packed(tensor(BF16, shape));
    weight.storage.as_mut_slice()[0] -= 1;
    weight
}

fn of_k_groups(s: Signature) -> Vec<Case> {
    if !s.has_k_groups() {
        return Vec::new();
    }
    let x = |tensor: TensorDesc| s.along_k().set("x", vec![tensor]);
    let out = |shape: &[i64]| s.out(s.along_k(), vec![tensor(BF16, shape)]);
    let listed = |parts: [i64; 2]| {
        let weights = vec![tensor(BF16, &[parts[0], 64]), tensor(BF16, &[parts[1], 48])];
        s.along_k_lists().set("weight", weights)
    };
    let mut cases = vec![
        case(s.along_k().set("splitItem", 0), "split-item"),
        case(s.along_k_lists().set("splitItem", 2), "split-item"),
        case(x(tensor(BF16, &[10, 32])), "x-transposed"),
        case(s.along_k().set("weight", vec![transposed(BF16, &[32, 64])]), "weight-transposed"),
        case(s.along_k().set("x", vec![transposed(BF16, &[10, 32]); 2]), "lists").also(&["group-list-length"]),
        case(out(&[10, 64]), "ranks").also(&["group-list-length"]),
        case(s.along_k().set("weight", vec![tensor(BF16, &[31, 64])]), "k-match"),
        case(listed([8, 25]), "k-match"),
        case(out(&[4, 9, 64]), "m-match"),
        case(out(&[4, 10, 65]), "n-match"),
        case(s.out(x(transposed(BF16, &[65536, 32])), vec![tensor(BF16, &[4, 65536, 64])]), "inner-axis"),
        case(s.along_k().null("groupListOptional"), "group-list"),
        case(out(&[5, 10, 64]), "group-list-length"),
        case(s.along_k().set("biasOptional", vec![tensor(F32, &[4, 64])]), "k-groups-bias"),
        carried(s.along_k().set("weight", vec![packed(tensor(BF16, &[32, 64]))]), "k-groups-nz"),
        carried(s.list(s.along_k_lists(), 2, 32), "k-groups-list"),
        carried(out(&[1, 10, 64]), "single-group"),
    ];
    if s.host {
        cases.push(case(s.list(s.along_k(), 4, 31), "group-list-ends"));
    }
    if s.listed {
        let pairs = s.along_k().set("groupListType", 2).set("groupListOptional", tensor(I64, &[4, 2]));
        cases.push(carried(pairs, "k-groups-pairs"));
    }
    cases
}

const OPERANDS: &[i32] = &[0, 1, 2, 3, 27, 29];
const PLAIN: &[i32] = &[0, 1, 2, 16, 27, 30, 35, 47];
const PLAIN_OR_NZ: &[i32] = &[0, 1, 2, 16, 27, 29, 30, 35, 47];

pub(crate) fn limits(operator: OperatorId) -> Vec<Limit> {
    let s = Signature::of(operator);
    let any = |name| (name, &[][..], &[][..], 0..=8, false);
    let mut limits = vec![
        ("x", OPERANDS, PLAIN, 2..=6, false),
        ("weight", OPERANDS, PLAIN_OR_NZ, 2..=3, false),
        ("biasOptional", &[0, 1, 3, 27], &[], 0..=8, false),
        any("scaleOptional"),
        any("offsetOptional"),
        any("antiquantScaleOptional"),
        any("antiquantOffsetOptional"),
    ];
    if s.listed {
        limits.push(any("perTokenScaleOptional"));
    }
    if !s.host {
        limits.push(("groupListOptional", &[9], &[], 0..=8, false));
    }
    limits.push((if s.listed { "out" } else { "y" }, &[0, 1, 2, 3, 27], PLAIN, 2..=6, false));
    limits
}

#[test]
fn a_bias_list_with_a_null_member_is_refused() {
    let mut call = Signature::of(OperatorId::GroupedMatmulV4).multi(2, tensor(BF16, &[32, 64]));
    let index = call.index("biasOptional");
    call.values[index] = Value::Tensors(Some(vec![Some(tensor(F32, &[64])), None]));
    assert_eq!(call.validate().unwrap_err().rule, "bias-shape");
    call.values[index] = Value::Tensors(Some(vec![None, None]));
    assert_eq!(call.validate(), Ok(()), "a list that starts with null counts as null");
}

#[test]
fn an_empty_list_on_the_host_counts_as_null() {
    let s = Signature::of(OperatorId::GroupedMatmulV2);
    let empty = |call: Built| call.null("biasOptional").set("groupListOptional", Vec::<i64>::new()).validate();
    assert_eq!(empty(s.ungrouped()), Ok(()));
    assert_eq!(empty(s.base()).unwrap_err().rule, "group-list");
}

#[test]
fn the_signatures_share_their_rules() {
    use OperatorId as Id;
    let ids = |id: OperatorId| id.row().rules.iter().map(|rule| rule.id).collect::<Vec<_>>();
    assert_eq!([ids(Id::GroupedMatmulV4), vec!["tuning-config", "msd-tuning"]].concat(), ids(Id::GroupedMatmulV5));
    for id in [Id::GroupedMatmul, Id::GroupedMatmulV2, Id::GroupedMatmulV3, Id::GroupedMatmulWeightNz] {
        let missing: Vec<_> = ids(id).into_iter().filter(|rule| !ids(Id::GroupedMatmulV5).contains(rule)).collect();
        let own: &[&str] = match id {
            Id::GroupedMatmul => &["quantised", "group-list-order", "group-list-ends", "no-fp32"],
            Id::GroupedMatmulV2 => &["quantised", "group-list-order", "group-list-ends"],
            Id::GroupedMatmulV3 => &["quantised"],
            _ => &[],
        };
        assert_eq!(missing, own, "{id:?}");
    }
}

#[test]
fn the_lengths_of_the_lists_imply_a_group_type() {
    use ascend_sys::ops::implied_group_type;
    let types = [(1, 1, 1, -1), (3, 3, 3, -1), (2, 3, 2, -1), (1, 3, 1, 0), (1, 3, 3, 0), (3, 3, 1, 0), (1, 1, 2, 0)];
    for (x, weight, out, due) in types {
        assert_eq!(implied_group_type(x, weight, out), due, "{x} x, {weight} weights, {out} outputs");
    }
}
