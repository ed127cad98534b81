//! Rows of the dense matrix products of ops-nn.

use super::check::{Checked, FLOATS, WEIGHT_FORMATS, broadcast, dim, one_of, require, shape_is};
use crate::constants::{aclDataType, aclFormat, aclnnStatus};
use crate::info::OperatorId;
use crate::ops::desc::Dims;
use crate::ops::rule::{Call, Codes, OpRow, Param, Rule};

/// The highest rank of an operand of `aclnnMatmul`.
const MAX_MATMUL_RANK: usize = 6;

const SELF: usize = 0;
const MAT2: usize = 1;
const OUT: usize = 2;
const CUBE_MATH_TYPE: usize = 3;

/// Rules that both operators end with.
const CUBE_MATH: Rule = Rule::new(
    "cube-math-type",
    "0 (keep the dtype), 1 (HF32 for fp32), 2 (fp16), 3 (HF32) or 4 (grouped fp32 accumulation)",
    |call| one_of(call, "cubeMathType", CUBE_MATH_TYPE, &[0, 1, 2, 3, 4]),
);
const MIXED_DTYPES: Rule = Rule::not_carried("mixed-dtypes", "self and mat2 have one dtype", |call| {
    super::check::same_dtype(call, ("self", SELF), ("mat2", MAT2))
});
const NZ_MAT2: Rule = Rule::not_carried("nz-mat2", "mat2 is no FRACTAL_NZ tensor", |call| {
    let nz = call.tensor(MAT2).is_some_and(|mat2| mat2.format == aclFormat::FRACTAL_NZ);
    require(!nz, || "mat2 in FRACTAL_NZ".to_owned())
});

/// `aclnnMm`: `out = self @ mat2` of two matrices.
///
/// * `self`: device, fp32, fp16 or bf16, `[M, K]`, any strides.
/// * `mat2`: device, fp32, fp16 or bf16, `[K, N]`, any strides.
/// * `out`: device, fp32, fp16 or bf16 (the result is rounded to it), `[M, N]`, any strides.
///
/// M, K and N may be 0; with K = 0 and M, N > 0 the output is filled with 0.
pub(super) static MM: OpRow = OpRow {
    operator: OperatorId::Mm,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("self_", FLOATS).rank(2, 2),
        Param::input("mat2", FLOATS).rank(2, 2).formats(WEIGHT_FORMATS),
        Param::output("out", FLOATS).rank(2, 2),
        Param::value("cubeMathType"),
    ],
    rules: &[
        Rule::new("inner-dim", "self has as many columns as mat2 has rows", inner_dim),
        Rule::new("out-shape", "out is [rows of self, columns of mat2]", |call| {
            shape_is(call, "out", OUT, &[dim(call, SELF, 0), dim(call, MAT2, 1)])
        }),
        CUBE_MATH,
        MIXED_DTYPES,
        NZ_MAT2,
    ],
    source: "ops-nn 9.1.0, matmul/mat_mul_v3 (docs, op_api) and matmul/common (op_api)",
    doubtful: "CANN 9.1.0 does not check cubeMathType on A3 and reads past a table where it is none of the values \
               above; older sources answer 161002. Whether 8.5.0 takes 4 was not seen. Older sources want the dtype of \
               self for out, or fp32 for an fp16 self. The documents exclude bf16 with fp16 or fp32; the sources \
               compute it in fp32. The documents give ND for mat2; the sources read FRACTAL_NZ.",
};

/// `aclnnMatmul`: `out = self @ mat2` with broadcast leading dimensions; a vector on the left is a row, on the right a
/// column, and its dimension of 1 is left out of the output.
///
/// * `self`: device, fp32, fp16 or bf16, `[.., M, K]` or `[K]`, any strides.
/// * `mat2`: device, fp32, fp16 or bf16, `[.., K, N]` or `[K]`, any strides.
/// * `out`: device, fp32, fp16 or bf16, `[.., M, N]` without the dimensions of vectors, any strides; `[]` or `[1]` for
///   two vectors.
pub(super) static MATMUL: OpRow = OpRow {
    operator: OperatorId::Matmul,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("self_", FLOATS).rank(1, MAX_MATMUL_RANK),
        Param::input("mat2", FLOATS).rank(1, MAX_MATMUL_RANK).formats(WEIGHT_FORMATS),
        Param::output("out", FLOATS),
        Param::value("cubeMathType"),
    ],
    rules: &[
        Rule::new("inner-dim", "the last dimension of self is the last but one of mat2, or its only one", |call| {
            inner_dim(call)
        }),
        Rule::new("batch", "the dimensions before the last two broadcast", |call| {
            let Some((a, b)) = batches(call) else { return Ok(()) };
            require(broadcast(a, b).is_some(), || format!("leading dimensions {a:?} and {b:?}"))
        }),
        Rule::new("out-elements", "out has as many elements as the product", |call| {
            let (Some(out), Some(product)) = (call.tensor(OUT), product_shape(call)) else { return Ok(()) };
            let legal = out.elements() == product.elements();
            require(legal, || format!("out of shape {} for a product of shape {product}", out.shape))
        })
        .with_code(aclnnStatus::ERR_INNER_NULLPTR),
        CUBE_MATH,
        Rule::not_carried("out-shape", "out has the shape of the product", |call| {
            let (Some(out), Some(product)) = (call.tensor(OUT), product_shape(call)) else { return Ok(()) };
            let scalar = product.is_empty() && *out.shape == [1];
            require(out.shape == product || scalar, || {
                format!("out of shape {} for a product of shape {product}", out.shape)
            })
        }),
        MIXED_DTYPES,
        NZ_MAT2,
    ],
    source: "ops-nn 9.1.0, matmul/mat_mul_v3 (docs, op_api) and matmul/common (op_api)",
    doubtful: "As for aclnnMm. The documents allow 6 dimensions; sources after 9.1.0 allow 8 on A2 and A3. The op_api \
               does not check out: it reshapes the product to it, so that the code of a wrong one is that of a failed \
               inner call.",
};

/// `aclnnBatchMatMul`: `out[b] = self[b] @ mat2[b]`.
///
/// * `self`: device, fp32, fp16 or bf16, `[B, M, K]`; `mat2`: `[B, K, N]`; `out`: `[B, M, N]`; any strides.
pub(super) static BATCH_MAT_MUL: OpRow = OpRow {
    operator: OperatorId::BatchMatMul,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("self_", FLOATS).rank(3, 3),
        Param::input("mat2", FLOATS).rank(3, 3).formats(WEIGHT_FORMATS),
        Param::output("out", FLOATS).rank(3, 3),
        Param::value("cubeMathType"),
    ],
    rules: &[
        Rule::new("inner-dim", "self has as many columns as mat2 has rows", inner_dim),
        Rule::new("batch", "self and mat2 have as many matrices, or one of them has one", |call| {
            let Some((a, b)) = batches(call) else { return Ok(()) };
            require(broadcast(a, b).is_some(), || format!("{a:?} and {b:?} matrices"))
        }),
        Rule::new("out-shape", "out has the shape of the product", |call| {
            let (Some(out), Some(product)) = (call.tensor(OUT), product_shape(call)) else { return Ok(()) };
            require(out.shape == product, || format!("out of shape {} for {product}", out.shape))
        }),
        CUBE_MATH,
        MIXED_DTYPES,
        NZ_MAT2,
    ],
    source: "ops-nn, matmul/batch_mat_mul_v3 (docs)",
    doubtful: "As for aclnnMm. Whether one matrix is broadcast over many was not read: it is here.",
};

/// Positions of the parameters of `aclnnAddmm`.
mod addmm {
    pub(super) const SELF: usize = 0;
    pub(super) const MAT1: usize = 1;
    pub(super) const MAT2: usize = 2;
    pub(super) const OUT: usize = 5;
}

/// `aclnnAddmm`: `out = beta * self + alpha * (mat1 @ mat2)`.
///
/// * `self`: device, fp32, fp16 or bf16, broadcasts to `[M, N]`; `mat1`: `[M, K]`; `mat2`: `[K, N]`; any strides.
/// * `beta`, `alpha`: host scalars. * `out`: device, a float, `[M, N]`.
pub(super) static ADDMM: OpRow = OpRow {
    operator: OperatorId::Addmm,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("self_", FLOATS).rank(0, 2),
        Param::input("mat1", FLOATS).rank(2, 2),
        Param::input("mat2", FLOATS).rank(2, 2),
        Param::required("beta"),
        Param::required("alpha"),
        Param::output("out", FLOATS).rank(2, 2),
        Param::value("cubeMathType"),
    ],
    rules: &[
        Rule::new("inner-dim", "mat1 has as many columns as mat2 has rows", |call| {
            let (k, rows) = (dim(call, addmm::MAT1, 1), dim(call, addmm::MAT2, 0));
            require(k == rows, || format!("{k} columns and {rows} rows"))
        }),
        Rule::new("out-shape", "out is [rows of mat1, columns of mat2]", |call| {
            shape_is(call, "out", addmm::OUT, &[dim(call, addmm::MAT1, 0), dim(call, addmm::MAT2, 1)])
        }),
        Rule::new("self-shape", "self broadcasts to the shape of the product", |call| {
            let Some(x) = call.tensor(addmm::SELF) else { return Ok(()) };
            let product = [dim(call, addmm::MAT1, 0), dim(call, addmm::MAT2, 1)];
            let fits = broadcast(&x.shape, &product).is_some_and(|shape| *shape == product);
            require(fits, || format!("self of shape {} for {product:?}", x.shape))
        }),
        Rule::new(
            "cube-math-type",
            "0 (keep the dtype), 1 (HF32 for fp32), 2 (fp16), 3 (HF32) or 4 (grouped fp32 accumulation)",
            |call| one_of(call, "cubeMathType", 6, &[0, 1, 2, 3, 4]),
        ),
        Rule::not_carried("mixed-dtypes", "self, mat1, mat2 and out have one dtype", |call| {
            [("self", addmm::SELF), ("mat2", addmm::MAT2), ("out", addmm::OUT)]
                .into_iter()
                .try_for_each(|tensor| super::check::same_dtype(call, tensor, ("mat1", addmm::MAT1)))
        }),
    ],
    source: "ops-nn, matmul/mat_mul_v3 (docs)",
    doubtful: "Where alpha and beta are not 1 the device rounds between its steps in ways not seen; here the sum is in fp32 \
               and rounded once.",
};

/// `aclnnTransMatmulWeight`: a weight into the layout the cube unit likes best, in place.
///
/// * `mmWeightRef`: device, in and out, fp16, bf16 or int8, `[K, N]` or `[B, K, N]`, its buffer as long as
///   `aclnnCalculateMatmulWeightSizeV2` says.
pub(super) static TRANS_MATMUL_WEIGHT: OpRow = OpRow {
    operator: OperatorId::TransMatmulWeight,
    codes: Codes::HAND_WRITTEN,
    params: &[Param::output("mmWeightRef", &[aclDataType::FLOAT16, aclDataType::BF16, aclDataType::INT8]).rank(2, 6)],
    rules: &[Rule::new("contiguous", "mmWeightRef is contiguous", |call| match call.tensor(0) {
        Some(weight) => require(weight.is_contiguous(), || format!("strides {}", weight.strides)),
        None => Ok(()),
    })],
    source: "ops-math, conversion/trans_data (docs)",
    doubtful: "Which layout CANN picks on Atlas A3 is its own choice: here the weight stays as it is, which is one of them.",
};

fn inner_dim(call: &Call<'_>) -> Checked {
    let (Some(left), Some(right)) = (call.tensor(SELF), call.tensor(MAT2)) else { return Ok(()) };
    let rows = if right.rank() == 1 { right.dim(0) } else { right.dim(-2) };
    require(left.dim(-1) == rows, || format!("self of shape {} with mat2 of shape {}", left.shape, right.shape))
}

/// The dimensions before the last two of both operands; none for a vector.
fn batches<'a>(call: &Call<'a>) -> Option<(&'a [i64], &'a [i64])> {
    let batch = |index| call.tensor(index).map(|t| t.shape.get(..t.rank().saturating_sub(2)).unwrap_or_default());
    Some((batch(SELF)?, batch(MAT2)?))
}

/// The shape of the product; `None` where the operands do not fit.
fn product_shape(call: &Call<'_>) -> Option<Dims> {
    let (left, right) = (call.tensor(SELF)?, call.tensor(MAT2)?);
    let (a, b) = batches(call)?;
    let rows = (left.rank() >= 2).then(|| left.dim(-2));
    let cols = (right.rank() >= 2).then(|| right.dim(-1));
    Dims::collect(broadcast(a, b)?.iter().copied().chain(rows).chain(cols))
}
