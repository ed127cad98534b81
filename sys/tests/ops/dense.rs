//! Calls of the dense products, the elementwise operators and the activation.

use ascend_sys::{OperatorId, aclDataType, aclFormat};

use crate::base;
use crate::build::{
    BF16, BOOL, Built, COMPLEX, Case, F16, F32, I8, I32, I64, packed, scalar, spread, tensor, transposed,
};

const NOT_CARRIED: i32 = 561003;

fn product(operator: OperatorId, left: &[i64], right: &[i64], out: &[i64]) -> Built {
    Built::new(operator)
        .set("self_", tensor(BF16, left))
        .set("mat2", tensor(BF16, right))
        .set("out", tensor(BF16, out))
        .set("cubeMathType", 0)
}

pub(crate) fn legal_mm() -> Vec<Built> {
    let mm = |left: &[i64], right: &[i64], out: &[i64]| product(OperatorId::Mm, left, right, out);
    let base = mm(&[3, 4], &[4, 5], &[3, 5]);
    vec![
        base.clone(),
        base.clone().set("out", tensor(F32, &[3, 5])),
        base.clone().set("mat2", transposed(BF16, &[4, 5])).set("self_", spread(tensor(BF16, &[3, 4]))),
        base.clone().set("cubeMathType", 1),
        base.clone().set("cubeMathType", 2),
        base.clone().set("cubeMathType", 3),
        base.set("cubeMathType", 4),
        mm(&[0, 4], &[4, 5], &[0, 5]),
        mm(&[3, 0], &[0, 5], &[3, 5]),
        mm(&[3, 4], &[4, 0], &[3, 0]),
    ]
}

pub(crate) fn violations_mm() -> Vec<Case> {
    let call = || base(OperatorId::Mm);
    vec![
        Case::new(call().set("mat2", tensor(BF16, &[5, 5])), "inner-dim", 161002),
        Case::new(call().set("out", tensor(BF16, &[3, 6])), "out-shape", 161002),
        Case::new(call().set("out", tensor(BF16, &[5, 3])), "out-shape", 161002),
        Case::new(call().set("cubeMathType", 5), "cube-math-type", 161002),
        Case::new(call().set("cubeMathType", -1), "cube-math-type", 161002),
        Case::new(call().set("mat2", tensor(F16, &[4, 5])), "mixed-dtypes", NOT_CARRIED),
        Case::new(call().set("mat2", packed(tensor(BF16, &[4, 5]))), "nz-mat2", NOT_CARRIED),
    ]
}

pub(crate) fn legal_matmul() -> Vec<Built> {
    let matmul = |left: &[i64], right: &[i64], out: &[i64]| product(OperatorId::Matmul, left, right, out);
    vec![
        matmul(&[2, 3, 4], &[4, 5], &[2, 3, 5]),
        matmul(&[2, 1, 3, 4], &[7, 4, 6], &[2, 7, 3, 6]),
        matmul(&[4], &[4, 5], &[5]),
        matmul(&[4], &[2, 4, 5], &[2, 5]),
        matmul(&[3, 4], &[4], &[3]),
        matmul(&[4], &[4], &[]),
        matmul(&[4], &[4], &[1]),
        matmul(&[2, 3, 0], &[0, 5], &[2, 3, 5]),
    ]
}

pub(crate) fn violations_matmul() -> Vec<Case> {
    let call = || base(OperatorId::Matmul);
    vec![
        Case::new(call().set("mat2", tensor(BF16, &[5, 5])), "inner-dim", 161002),
        Case::new(call().set("mat2", tensor(BF16, &[5])).set("out", tensor(BF16, &[2, 3])), "inner-dim", 161002),
        Case::new(call().set("mat2", tensor(BF16, &[3, 4, 5])), "batch", 161002),
        Case::new(call().set("out", tensor(BF16, &[2, 3, 6])), "out-elements", 561103).also(&["out-shape"]),
        Case::new(call().set("cubeMathType", 5), "cube-math-type", 161002),
        Case::new(call().set("out", tensor(BF16, &[6, 5])), "out-shape", NOT_CARRIED),
        Case::new(product(OperatorId::Matmul, &[1, 4], &[4, 1], &[1]), "out-shape", NOT_CARRIED),
        Case::new(call().set("mat2", tensor(F32, &[4, 5])), "mixed-dtypes", NOT_CARRIED),
        Case::new(call().set("mat2", packed(tensor(BF16, &[4, 5]))), "nz-mat2", NOT_CARRIED),
    ]
}

fn cast(from: aclDataType, to: aclDataType) -> Built {
    Built::new(OperatorId::Cast).set("self_", tensor(from, &[2, 3])).set("dtype", to).set("out", tensor(to, &[2, 3]))
}

pub(crate) fn legal_cast() -> Vec<Built> {
    vec![
        cast(F32, BF16),
        cast(I64, I32),
        cast(I32, F32).set("self_", spread(tensor(I32, &[2, 3]))),
        cast(F16, F16).set("self_", tensor(F16, &[])).set("out", tensor(F16, &[])),
        cast(F16, F32).set("self_", tensor(F16, &[0, 4])).set("out", tensor(F32, &[0, 4])),
    ]
}

pub(crate) fn violations_cast() -> Vec<Case> {
    let int4 = aclDataType::INT4;
    vec![
        Case::new(cast(F32, int4), "dtype-argument", 161002).also(&["carried-dtypes"]),
        Case::new(cast(F32, aclDataType::UNDEFINED).set("out", tensor(F32, &[2, 3])), "dtype-argument", 161002)
            .also(&["out-dtype"]),
        Case::new(cast(F32, BF16).set("out", tensor(BF16, &[3, 2])), "out-shape", 161002),
        Case::new(cast(F32, BF16).set("out", tensor(BF16, &[2, 3, 1])), "out-shape", 161002),
        Case::new(cast(F32, BF16).set("dtype", F32), "out-dtype", 161002),
        Case::new(cast(I8, F32), "carried-dtypes", NOT_CARRIED),
        Case::new(cast(F32, BOOL), "carried-dtypes", NOT_CARRIED),
    ]
}

fn add(self_: aclDataType, other: aclDataType, out: aclDataType) -> Built {
    Built::new(OperatorId::Add)
        .set("self_", tensor(self_, &[2, 3]))
        .set("other", tensor(other, &[3]))
        .set("alpha", scalar(F32, 1.0))
        .set("out", tensor(out, &[2, 3]))
}

pub(crate) fn legal_add() -> Vec<Built> {
    vec![
        add(F32, F32, F32),
        add(BF16, F32, BF16),
        add(I32, I64, F16),
        add(F32, F32, I32).set("alpha", scalar(BOOL, 1.0)),
        add(F32, F32, F32)
            .set("self_", tensor(F32, &[4, 1, 3]))
            .set("other", tensor(F32, &[2, 1]))
            .set("out", tensor(F32, &[4, 2, 3])),
        add(F32, F32, F32)
            .set("self_", tensor(F32, &[0, 3]))
            .set("other", tensor(F32, &[1, 3]))
            .set("out", tensor(F32, &[0, 3])),
        add(F32, F32, F32).set("other", tensor(F32, &[])),
    ]
}

pub(crate) fn violations_add() -> Vec<Case> {
    let call = || add(F32, F32, F32);
    let bools = || add(BOOL, BOOL, BOOL);
    vec![
        Case::new(call().set("alpha", scalar(COMPLEX, 1.0)), "alpha-dtype", 161002),
        Case::new(call().set("alpha", scalar(aclDataType::STRING, 1.0)), "alpha-dtype", 161002),
        Case::new(bools().set("alpha", scalar(F32, 1.0)), "alpha-dtype", 161002).also(&["carried-dtypes"]),
        Case::new(add(F32, F32, BOOL), "out-dtype", 161002).also(&["carried-dtypes"]),
        Case::new(add(F32, COMPLEX, F32), "out-dtype", 161002).also(&["carried-dtypes"]),
        Case::new(call().set("other", tensor(F32, &[4])), "broadcast", 161002),
        Case::new(call().set("other", tensor(F32, &[0])), "broadcast", 161002),
        Case::new(call().set("out", tensor(F32, &[2, 4])), "out-shape", 161002),
        Case::new(call().set("out", tensor(F32, &[3])), "out-shape", 161002),
        Case::new(add(I8, F32, F32), "carried-dtypes", NOT_CARRIED),
        Case::new(bools().set("alpha", scalar(I64, 1.0)), "carried-dtypes", NOT_CARRIED),
        Case::new(add(F32, F32, COMPLEX), "carried-dtypes", NOT_CARRIED),
    ]
}

fn mul(self_: aclDataType, other: aclDataType, out: aclDataType) -> Built {
    Built::new(OperatorId::Mul)
        .set("self_", tensor(self_, &[2, 3]))
        .set("other", tensor(other, &[2, 1]))
        .set("out", tensor(out, &[2, 3]))
}

pub(crate) fn legal_mul() -> Vec<Built> {
    vec![
        mul(F32, F32, F32),
        mul(BF16, F32, BF16),
        mul(F16, BF16, F32),
        mul(F32, F32, F32).set("self_", spread(tensor(F32, &[2, 3]))),
    ]
}

pub(crate) fn violations_mul() -> Vec<Case> {
    let call = || mul(F32, F32, F32);
    vec![
        Case::new(mul(F32, I32, BOOL), "out-dtype", 161002).also(&["carried-dtypes"]),
        Case::new(mul(COMPLEX, F32, F32), "out-dtype", 161002).also(&["carried-dtypes"]),
        Case::new(call().set("other", tensor(F32, &[3, 1])), "broadcast", 161002),
        Case::new(call().set("out", tensor(F32, &[2, 1])), "out-shape", 161002),
        Case::new(mul(F32, aclDataType::UINT8, F32), "carried-dtypes", NOT_CARRIED),
        Case::new(mul(F32, F32, aclDataType::DOUBLE), "carried-dtypes", NOT_CARRIED),
    ]
}

fn muls(dtype: aclDataType, other: aclDataType, out: aclDataType) -> Built {
    Built::new(OperatorId::Muls)
        .set("self_", tensor(dtype, &[2, 3]))
        .set("other", scalar(other, 2.5))
        .set("out", tensor(out, &[2, 3]))
}

pub(crate) fn legal_muls() -> Vec<Built> {
    vec![
        muls(BF16, F32, BF16),
        muls(F32, aclDataType::DOUBLE, F16),
        muls(I32, I64, I32),
        muls(F32, F32, F32).set("self_", tensor(F32, &[0])).set("out", tensor(F32, &[0])),
    ]
}

pub(crate) fn violations_muls() -> Vec<Case> {
    vec![
        Case::new(muls(F32, F32, F32).set("out", tensor(F32, &[3, 2])), "out-shape", 161002),
        Case::new(muls(I8, F32, F32), "carried-dtypes", NOT_CARRIED),
        Case::new(muls(F32, F32, aclDataType::DOUBLE), "carried-dtypes", NOT_CARRIED),
        Case::new(muls(F32, COMPLEX, F32), "carried-scalar", NOT_CARRIED),
    ]
}

fn swi_glu(shape: &[i64], dim: i32, out: &[i64]) -> Built {
    Built::new(OperatorId::SwiGlu).set("x", tensor(BF16, shape)).set("dim", dim).set("out", tensor(BF16, out))
}

pub(crate) fn legal_swi_glu() -> Vec<Built> {
    let mut nchw = swi_glu(&[1, 2, 3, 8], -1, &[1, 2, 3, 4]);
    for name in ["x", "out"] {
        let index = nchw.index(name);
        let crate::build::Value::Tensor(Some(desc)) = &mut nchw.values[index] else { panic!("{name} is a tensor") };
        desc.format = aclFormat::NCHW;
    }
    vec![
        swi_glu(&[6, 128], -1, &[6, 64]),
        swi_glu(&[6, 128], 1, &[6, 64]),
        swi_glu(&[6, 128], -2, &[3, 128]),
        swi_glu(&[2], 0, &[1]),
        nchw,
    ]
}

pub(crate) fn violations_swi_glu() -> Vec<Case> {
    let call = || base(OperatorId::SwiGlu);
    vec![
        Case::new(call().set("out", tensor(F16, &[6, 64])), "out-dtype", 161002),
        Case::new(call().set("dim", 2), "dim", 561002),
        Case::new(call().set("dim", -3), "dim", 561002),
        Case::new(swi_glu(&[0, 128], -1, &[0, 64]), "empty", 561002),
        Case::new(swi_glu(&[6, 0], -1, &[6, 0]), "empty", 561002),
        Case::new(swi_glu(&[6, 127], -1, &[6, 63]), "even", 561002),
        Case::new(call().set("out", tensor(BF16, &[6, 128])), "out-shape", 561002),
        Case::new(call().set("out", tensor(BF16, &[384])), "out-shape", 561002),
    ]
}
