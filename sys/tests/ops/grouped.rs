//! Calls of the grouped matrix product.

use ascend_sys::ops::TensorDesc;
use ascend_sys::{OperatorId, aclDataType};

use crate::build::{BF16, Built, Case, F16, F32, I8, I32, I64, packed, spread, tensor, transposed};

const INVALID: i32 = 161002;
const NOT_CARRIED: i32 = 561003;

/// 10 rows in 4 groups, K = 32, N = 64, one tensor in every list.
fn single(operator: OperatorId) -> Built {
    Built::new(operator)
        .set("x", vec![tensor(BF16, &[10, 32])])
        .set("weight", vec![tensor(BF16, &[4, 32, 64])])
        .set("biasOptional", vec![tensor(F32, &[4, 64])])
        .set("groupListOptional", tensor(I64, &[4]))
        .set("splitItem", 3)
        .set("groupListType", 1)
        .set("out", vec![tensor(BF16, &[10, 64])])
}

/// The same without bias, with a list of `experts` weights like `weight`.
fn multi(operator: OperatorId, experts: i64, weight: TensorDesc) -> Built {
    single(operator)
        .set("weight", (0..experts).map(|_| weight).collect::<Vec<_>>())
        .null("biasOptional")
        .set("groupListOptional", tensor(I64, &[experts]))
}

/// Two products side by side.
fn ungrouped(operator: OperatorId) -> Built {
    Built::new(operator)
        .set("x", vec![tensor(F16, &[3, 32]), tensor(F16, &[2, 5, 16])])
        .set("weight", vec![tensor(F16, &[32, 64]), tensor(F16, &[16, 8])])
        .set("biasOptional", vec![tensor(F16, &[64]), tensor(F16, &[8])])
        .set("groupType", -1)
        .set("out", vec![tensor(F16, &[3, 64]), tensor(F16, &[2, 5, 8])])
}

/// With other weights, and as many entries in the group list as said.
fn weight(call: Built, weight: TensorDesc, groups: i64) -> Built {
    call.null("biasOptional").set("weight", vec![weight]).set("groupListOptional", tensor(I64, &[groups]))
}

fn all_of(call: Built, dtype: aclDataType) -> Built {
    call.null("biasOptional")
        .set("x", vec![tensor(dtype, &[10, 32])])
        .set("weight", vec![tensor(dtype, &[4, 32, 64])])
        .set("out", vec![tensor(dtype, &[10, 64])])
}

pub(crate) fn legal(operator: OperatorId) -> Vec<Built> {
    let single = || single(operator);
    let multi_x = || {
        multi(operator, 2, tensor(BF16, &[32, 64]))
            .set("x", vec![tensor(BF16, &[4, 32]), tensor(BF16, &[6, 32])])
            .set("biasOptional", vec![tensor(F32, &[64]), tensor(F32, &[64])])
    };
    let mut calls = vec![
        single(),
        single().null("biasOptional").set("splitItem", 2).set("groupListType", 0),
        single().set("groupListType", 2).set("groupListOptional", tensor(I64, &[4, 2])),
        single().set("biasOptional", Vec::<TensorDesc>::new()).set("scaleOptional", vec![tensor(F32, &[0])]),
        single().set("weight", vec![transposed(BF16, &[4, 32, 64])]),
        single().set("weight", vec![spread(tensor(BF16, &[4, 32, 64]))]),
        single().set("weight", vec![packed(tensor(BF16, &[4, 32, 64]))]),
        single().set("weight", vec![packed(transposed(BF16, &[4, 32, 64]))]),
        all_of(single(), F32).set("biasOptional", vec![tensor(F32, &[4, 64])]),
        all_of(single(), F16).set("biasOptional", vec![tensor(F16, &[4, 64])]),
        multi(operator, 128, tensor(BF16, &[32, 64])),
        multi(operator, 3, packed(tensor(BF16, &[32, 64]))),
        multi(operator, 3, transposed(BF16, &[32, 64])),
        multi_x(),
        weight(single(), tensor(BF16, &[1, 32, 64]), 1),
        weight(single(), tensor(BF16, &[1024, 32, 64]), 1024),
        weight(single(), transposed(BF16, &[4, 32, 65536]), 4).set("out", vec![tensor(BF16, &[10, 65536])]),
        weight(single(), tensor(BF16, &[4, 65535, 64]), 4).set("x", vec![tensor(BF16, &[10, 65535])]),
        single().set("x", vec![tensor(BF16, &[0, 32])]).set("out", vec![tensor(BF16, &[0, 64])]),
        weight(single().set("x", vec![tensor(BF16, &[0, 0])]), tensor(BF16, &[4, 0, 64]), 4)
            .set("out", vec![tensor(BF16, &[0, 64])]),
        weight(single().set("x", vec![tensor(BF16, &[10, 0])]), tensor(BF16, &[4, 0, 0]), 4)
            .set("out", vec![tensor(BF16, &[10, 0])]),
        ungrouped(operator),
        ungrouped(operator).set("splitItem", 1).set("groupListOptional", tensor(I64, &[2])).null("biasOptional"),
    ];
    if operator == OperatorId::GroupedMatmulV5 {
        calls.extend([
            single().set("tuningConfigOptional", Vec::<i64>::new()),
            single().set("tuningConfigOptional", vec![0]),
            single().set("tuningConfigOptional", vec![10, 1, -1]),
            multi_x().set("tuningConfigOptional", vec![6]),
        ]);
    }
    calls
}

pub(crate) fn violations(operator: OperatorId) -> Vec<Case> {
    let single = || single(operator);
    let multi = |experts, weight| multi(operator, experts, weight);
    let ungrouped = || ungrouped(operator);
    let case = |call, rule| Case::new(call, rule, INVALID);
    let carried = |call, rule| Case::new(call, rule, NOT_CARRIED);
    let x = |tensor: TensorDesc| single().set("x", vec![tensor]);
    // A product with K = 0 beside another.
    let empty_beside = |x: &[i64], weight: &[i64], out: &[i64]| {
        ungrouped()
            .null("biasOptional")
            .set("x", vec![tensor(F16, &[3, 0]), tensor(F16, x)])
            .set("weight", vec![tensor(F16, &[0, 64]), tensor(F16, weight)])
            .set("out", vec![tensor(F16, &[3, 64]), tensor(F16, out)])
    };
    let mut cases = vec![
        case(single().set("groupType", 1), "group-type"),
        case(single().set("groupType", -2), "group-type"),
        carried(single().set("groupType", 2), "k-groups"),
        case(single().set("splitItem", 1), "split-item"),
        case(single().set("splitItem", 4), "split-item"),
        case(ungrouped().set("splitItem", 2), "split-item"),
        case(single().set("groupListOptional", tensor(I64, &[4, 2])), "group-list-rank"),
        case(single().set("groupListType", 2), "group-list-rank"),
        case(single().set("groupListType", 2).set("groupListOptional", tensor(I64, &[4, 3])), "group-list-rank"),
        case(single().set("groupListType", 3), "group-list-type"),
        case(single().set("groupListType", -1), "group-list-type"),
        case(weight(x(tensor(BF16, &[10, 0])), tensor(BF16, &[4, 0, 64]), 4), "empty-k"),
        case(empty_beside(&[0, 16], &[16, 8], &[0, 8]), "empty-k"),
        case(empty_beside(&[2, 16], &[16, 0], &[2, 0]), "empty-k"),
        case(weight(single(), tensor(F16, &[4, 32, 64]), 4), "dtypes").also(&["quantised"]),
        case(weight(x(tensor(I8, &[10, 32])), tensor(BF16, &[4, 32, 64]), 4), "dtypes")
            .also(&["quantised", "out-dtype"]),
        carried(weight(single(), tensor(I8, &[4, 32, 64]), 4), "quantised"),
        carried(all_of(single(), I8), "quantised"),
        carried(
            weight(single(), tensor(aclDataType::INT4, &[4, 32, 64]), 4)
                .set("x", vec![tensor(aclDataType::INT4, &[10, 32])]),
            "quantised",
        )
        .also(&["out-dtype"]),
        case(
            multi(2, tensor(BF16, &[32, 64])).set("weight", vec![tensor(BF16, &[32, 64]), tensor(F16, &[32, 64])]),
            "list-dtypes",
        ),
        case(
            multi(2, tensor(BF16, &[32, 64])).set("x", vec![tensor(BF16, &[4, 32]), tensor(F16, &[6, 32])]),
            "list-dtypes",
        ),
        case(single().set("out", vec![tensor(F32, &[10, 64])]), "out-dtype"),
        case(single().set("biasOptional", vec![tensor(BF16, &[4, 64])]), "bias-dtype"),
        case(all_of(single(), F16).set("biasOptional", vec![tensor(F32, &[4, 64])]), "bias-dtype"),
        case(all_of(single(), F32).set("biasOptional", vec![tensor(I32, &[4, 64])]), "bias-dtype"),
        case(single().set("actType", 1), "act-type"),
        case(x(transposed(BF16, &[10, 32])), "x-transposed"),
        case(
            multi(2, tensor(BF16, &[32, 64])).set("weight", vec![tensor(BF16, &[32, 64]), transposed(BF16, &[32, 64])]),
            "weight-transposed",
        ),
        case(single().set("out", vec![tensor(BF16, &[5, 64]), tensor(BF16, &[5, 64])]), "lists"),
        case(multi(3, tensor(BF16, &[32, 64])).set("x", vec![tensor(BF16, &[4, 32]), tensor(BF16, &[6, 32])]), "lists"),
        case(ungrouped().set("out", vec![tensor(F16, &[3, 64])]), "lists").also(&["n-match"]),
        case(multi(129, tensor(BF16, &[32, 64])), "list-length"),
        case(x(tensor(BF16, &[10, 1, 32])), "ranks"),
        case(single().set("out", vec![tensor(BF16, &[10, 1, 64])]), "ranks"),
        case(weight(single(), tensor(BF16, &[32, 64]), 32), "ranks"),
        case(multi(2, tensor(BF16, &[1, 32, 64])), "ranks"),
        case(
            ungrouped().null("biasOptional").set("weight", vec![tensor(F16, &[32, 64]), tensor(F16, &[1, 16, 8])]),
            "ranks",
        ),
        case(ungrouped().set("out", vec![tensor(F16, &[3, 64]), tensor(F16, &[10, 8])]), "ranks").also(&["m-match"]),
        case(weight(single(), tensor(BF16, &[4, 48, 64]), 4), "k-match"),
        case(single().set("out", vec![tensor(BF16, &[9, 64])]), "m-match"),
        case(ungrouped().set("out", vec![tensor(F16, &[3, 64]), tensor(F16, &[2, 4, 8])]), "m-match"),
        case(single().set("out", vec![tensor(BF16, &[10, 65])]), "n-match"),
        case(weight(x(tensor(BF16, &[10, 65536])), tensor(BF16, &[4, 65536, 64]), 4), "inner-axis"),
        case(
            weight(single(), tensor(BF16, &[4, 32, 65536]), 4).set("out", vec![tensor(BF16, &[10, 65536])]),
            "inner-axis",
        ),
        case(single().null("biasOptional").null("groupListOptional"), "group-list"),
        case(weight(single(), tensor(BF16, &[0, 32, 64]), 0), "group-list-size"),
        case(weight(single(), tensor(BF16, &[1025, 32, 64]), 1025), "group-list-size"),
        case(single().null("biasOptional").set("groupListOptional", tensor(I64, &[5])), "group-list-length"),
        case(ungrouped().set("groupListOptional", tensor(I64, &[1])), "group-list-length"),
        carried(weight(single(), tensor(BF16, &[1, 32, 64]), 3), "single-group"),
        case(single().set("biasOptional", vec![tensor(F32, &[4, 63])]), "bias-shape"),
        case(single().set("biasOptional", vec![tensor(F32, &[64])]), "bias-shape"),
        case(multi(2, tensor(BF16, &[32, 64])).set("biasOptional", vec![tensor(F32, &[64])]), "bias-shape"),
        case(
            multi(2, tensor(BF16, &[32, 64])).set("biasOptional", vec![tensor(F32, &[64]), tensor(F32, &[1, 64])]),
            "bias-shape",
        ),
        case(
            multi(2, tensor(BF16, &[32, 64]))
                .set("weight", vec![packed(tensor(BF16, &[32, 64])), tensor(BF16, &[32, 64])]),
            "weight-format",
        ),
        case(all_of(single(), F32).set("weight", vec![packed(tensor(F32, &[4, 32, 64]))]), "nz-dtype"),
        case(
            weight(single(), packed(tensor(BF16, &[4, 32, 72])), 4).set("out", vec![tensor(BF16, &[10, 72])]),
            "nz-aligned",
        ),
        case(weight(x(tensor(BF16, &[10, 40])), packed(tensor(BF16, &[4, 40, 64])), 4), "nz-aligned"),
        case(single().set("weight", vec![spread(packed(tensor(BF16, &[4, 32, 64])))]), "nz-layout"),
        case(single().set("weight", vec![short_storage()]), "nz-storage"),
    ];
    let quant = ["scale", "offset", "antiquantScale", "antiquantOffset", "perTokenScale"];
    cases.extend(
        quant
            .iter()
            .map(|name| case(single().set(&format!("{name}Optional"), vec![tensor(F32, &[4, 64])]), "quant-params")),
    );
    if operator == OperatorId::GroupedMatmulV5 {
        cases.extend([-1, 11].map(|rows| case(single().set("tuningConfigOptional", vec![rows]), "tuning-config")));
    }
    cases
}

/// A FRACTAL_NZ weight whose storage has room for three of its four groups.
fn short_storage() -> TensorDesc {
    let mut weight = packed(tensor(BF16, &[4, 32, 64]));
    weight.storage.as_mut_slice()[0] = 3;
    weight
}

#[test]
fn a_bias_list_with_a_null_member_is_refused() {
    use crate::build::Value;
    let mut call = multi(OperatorId::GroupedMatmulV4, 2, tensor(BF16, &[32, 64]));
    let index = call.index("biasOptional");
    call.values[index] = Value::Tensors(Some(vec![Some(tensor(F32, &[64])), None]));
    assert_eq!(call.validate().unwrap_err().rule, "bias-shape");
    call.values[index] = Value::Tensors(Some(vec![None, None]));
    assert_eq!(call.validate(), Ok(()), "a list that starts with null counts as null");
}

#[test]
fn both_signatures_share_their_rules() {
    let (v4, v5) = (OperatorId::GroupedMatmulV4.row(), OperatorId::GroupedMatmulV5.row());
    let ids = |rules: &[ascend_sys::ops::Rule]| rules.iter().map(|rule| rule.id).collect::<Vec<_>>();
    assert_eq!([ids(v4.rules), vec!["tuning-config"]].concat(), ids(v5.rules));
}
