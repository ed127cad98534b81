//! Row of the grouped matrix product that adds to its output.

use super::check::{F32, I64, require, same_dtype};
use crate::constants::{aclDataType, aclFormat, aclnnStatus};
use crate::info::OperatorId;
use crate::ops::rule::{Codes, Layout, OpRow, Param, Phase, Rule};

const ND: &[aclFormat] = &[aclFormat::ND];
const OPERANDS: &[aclDataType] = &[aclDataType::FLOAT16, aclDataType::BF16];

const X: usize = 0;
const WEIGHT: usize = 1;
const GROUP_LIST: usize = 2;
const Y: usize = 3;
const TRANSPOSE_X: usize = 4;
const TRANSPOSE_WEIGHT: usize = 5;
const GROUP_TYPE: usize = 6;

/// The op_api asks for nulls like for the rest, and answers both with one code.
const CODES: Codes = Codes {
    null: aclnnStatus::ERR_PARAM_INVALID,
    dtype: aclnnStatus::ERR_PARAM_INVALID,
    other: aclnnStatus::ERR_PARAM_INVALID,
    phase: Phase::One,
};

/// `aclnnGroupedMatmulAdd`: for each group along K, `yRef[e] += x[group e]^T @ weight[group e]`, in place.
///
/// * `x`: device, fp16 or bf16, `[K, M]`, any strides, ND. `weight`: device, dtype of x, `[K, N]`, any strides, ND.
/// * `groupList`: device, int64, the ends of the groups, `[E]`.
/// * `yRef`: device, in and out, fp32, `[E, M, N]` or `[E * M, N]`, contiguous. The product of a group is added in fp32;
///   what belongs to an empty group keeps its values.
/// * `transposeX`: true; `transposeWeight`: false; `groupType`: 2.
///
/// With an empty x or weight nothing is done.
pub(super) static GROUPED_MATMUL_ADD: OpRow = OpRow {
    operator: OperatorId::GroupedMatmulAdd,
    codes: CODES,
    params: &[
        Param::input("x", OPERANDS).rank(2, 2).formats(ND),
        Param::input("weight", OPERANDS).rank(2, 2).formats(ND),
        Param::input("groupList", I64).rank(1, 1).formats(ND),
        Param::output("yRef", F32).rank(2, 3).formats(&[aclFormat::ND, aclFormat::NCL]).layout(Layout::Contiguous),
        Param::value("transposeX"),
        Param::value("transposeWeight"),
        Param::value("groupType"),
    ],
    rules: &[
        Rule::new("k-match", "x and weight have one first dimension", |call| {
            let (Some(x), Some(weight)) = (call.tensor(X), call.tensor(WEIGHT)) else { return Ok(()) };
            require(x.dim(0) == weight.dim(0), || {
                format!("x of shape {} and weight of shape {}", x.shape, weight.shape)
            })
        }),
        Rule::new("y-size", "yRef has E * M * N elements", |call| {
            let tensors = [X, WEIGHT, GROUP_LIST, Y].map(|index| call.tensor(index));
            let [Some(x), Some(weight), Some(list), Some(y)] = tensors else { return Ok(()) };
            let sizes = [list.dim(0), x.dim(1), weight.dim(1)];
            let due = sizes.iter().try_fold(1u64, |all, &size| all.checked_mul(u64::try_from(size).ok()?));
            require(due.is_some() && due == y.elements(), || format!("yRef of shape {} for {sizes:?}", y.shape))
        }),
        Rule::dtype("dtypes", "x and weight have one dtype", |call| same_dtype(call, ("x", X), ("weight", WEIGHT))),
        Rule::new("form", "transposeX true, transposeWeight false, groupType 2", |call| {
            let (x, weight, kind) = (call.bool(TRANSPOSE_X), call.bool(TRANSPOSE_WEIGHT), call.int(GROUP_TYPE));
            require(x && !weight && kind == 2, || format!("transposeX {x}, transposeWeight {weight}, groupType {kind}"))
        })
        .with_code(aclnnStatus::ERR_INNER_NULLPTR),
    ],
    source: "ops-transformer 9.1.0 and later, gmm/grouped_matmul_add (docs, op_api)",
    doubtful: "The documents name 161001 for null pointers, a list of cumulative sums and a contiguous yRef; the op_api \
               answers nulls with 161002 and copies the result into a strided yRef, which is refused here. It compares \
               only the size of yRef: what tiling makes of another rank than 2 or 3, of other transpositions or group \
               types, and the code it answers with, was not seen.",
};
