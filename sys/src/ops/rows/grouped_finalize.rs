//! Rows of the grouped product whose rows are weighted and added to those of their tokens: five signatures.

use super::check::{Checked, F32, I64, require};
use crate::constants::{aclDataType as T, aclFormat, aclnnStatus};
use crate::info::OperatorId;
use crate::ops::desc::TensorDesc;
use crate::ops::rule::{Call, Codes, OpRow, Param, Rule};

const ND: &[aclFormat] = &[aclFormat::ND];
const NZ: &[aclFormat] = &[aclFormat::FRACTAL_NZ];
const ND_OR_NZ: &[aclFormat] = &[aclFormat::ND, aclFormat::FRACTAL_NZ];
const BF16: &[T] = &[T::BF16];
const INT8: &[T] = &[T::INT8];
const INDEX: &[T] = &[T::INT64, T::INT32];
const SCALES: &[T] = &[T::FLOAT, T::BF16, T::INT64];
const BIASES: &[T] = &[T::FLOAT, T::BF16];

// Places of the parameters that all signatures start with; of those with an offset the others lie three further.
const X: usize = 0;
const WEIGHT: usize = 1;
const SCALE: usize = 2;
const BIAS: usize = 3;
const OFFSET: usize = 4;
const ANTIQUANT_SCALE: usize = 5;
const ANTIQUANT_OFFSET: usize = 6;
const PER_TOKEN: usize = 4;
const GROUP_LIST: usize = 5;
const SHARED: usize = 6;
const LOGIT: usize = 7;
const ROW_INDEX: usize = 8;
const DTYPE: usize = 9;
const SHARED_OFFSET: usize = 11;
const TRANSPOSE_X: usize = 12;
const TRANSPOSE_WEIGHT: usize = 13;
const LIST_TYPE: usize = 14;
const LAST: usize = 15;

fn has_offset(call: &Call<'_>) -> bool {
    use OperatorId as Id;
    !matches!(call.operator, Id::GroupedMatmulFinalizeRouting | Id::GroupedMatmulFinalizeRoutingWeightNz)
}

fn is_tuned(call: &Call<'_>) -> bool {
    use OperatorId as Id;
    matches!(call.operator, Id::GroupedMatmulFinalizeRoutingV3 | Id::GroupedMatmulFinalizeRoutingWeightNzV2)
}

/// Whether the operator takes FRACTAL_NZ weights.
fn is_packed(call: &Call<'_>) -> bool {
    use OperatorId as Id;
    matches!(call.operator, Id::GroupedMatmulFinalizeRoutingWeightNz | Id::GroupedMatmulFinalizeRoutingWeightNzV2)
}

/// Where a parameter behind the bias is.
fn at(call: &Call<'_>, index: usize) -> usize {
    index + if has_offset(call) { 3 } else { 0 }
}

fn out<'a>(call: &Call<'a>) -> Option<&'a TensorDesc> {
    call.tensor(at(call, LAST) + usize::from(is_tuned(call)))
}

fn weight(call: &Call<'_>) -> Option<TensorDesc> {
    call.tensor(WEIGHT).map(TensorDesc::unpacked)
}

fn is_int4(call: &Call<'_>) -> bool {
    weight(call).is_some_and(|weight| weight.dtype == T::INT4)
}

/// M, E, K and N, by x and weight.
fn sizes(call: &Call<'_>) -> [i64; 4] {
    let rows = call.tensor(X).map_or(0, |x| x.dim(0));
    weight(call).map_or([rows, 0, 0, 0], |weight| [rows, weight.dim(0), weight.dim(1), weight.dim(2)])
}

/// A tensor, where it is there, has this shape.
fn shaped(call: &Call<'_>, name: &str, index: usize, due: &[i64]) -> Checked {
    let Some(tensor) = call.tensor(index) else { return Ok(()) };
    require(*tensor.shape == *due, || format!("{name} of shape {} where {due:?} is due", tensor.shape))
}

const COMMON: &[Rule] = &[
    Rule::new(
        "form",
        "dtype 0 (fp32), transposeX and transposeW false, groupListType 0 (cumsum) or 1 (count)",
        |call| {
            let (dtype, kind) = (call.int(at(call, DTYPE)), call.int(at(call, LIST_TYPE)));
            let transposed = call.bool(at(call, TRANSPOSE_X)) || call.bool(at(call, TRANSPOSE_WEIGHT));
            require(dtype == 0 && !transposed && matches!(kind, 0 | 1), || {
                format!("dtype {dtype}, groupListType {kind}, transposed {transposed}")
            })
        },
    ),
    Rule::dtype("scale-dtype", "scale is fp32 or bf16 for int8 weights, int64 for int4", |call| {
        let Some(scale) = call.tensor(SCALE) else { return Ok(()) };
        require((scale.dtype == T::INT64) == is_int4(call), || format!("scale of {:?}", scale.dtype))
    }),
    Rule::dtype("bias-dtype", "bias is bf16 for int8 weights, fp32 for int4", |call| {
        let Some(bias) = call.tensor(BIAS) else { return Ok(()) };
        require((bias.dtype == T::FLOAT) == is_int4(call), || format!("bias of {:?}", bias.dtype))
    }),
    Rule::new("k-match", "the last dimension of x is the last but one of the weight", |call| {
        let (k, [_, _, due, _]) = (call.tensor(X).map_or(0, |x| x.dim(1)), sizes(call));
        require(k == due, || format!("K = {k} of x, {due} of the weight"))
    }),
    Rule::new(
        "sizes",
        "int8 weights: K a multiple of 16, N of 32 and at least 256; int4 weights: K a multiple of 64 above 128, N of 8, \
         in FRACTAL_NZ of 64, and above 64",
        |call| {
            let [_, _, k, n] = sizes(call);
            let columns = if is_packed(call) { 64 } else { 8 };
            let legal = match is_int4(call) {
                false => k % 16 == 0 && n % 32 == 0 && n >= 256,
                true => k % 64 == 0 && k > 128 && n % columns == 0 && n > 64,
            };
            require(legal, || format!("K = {k}, N = {n}"))
        },
    ),
    Rule::new("scale-shape", "scale is [E, N] for int8 weights, [E, 1, N] for int4; bias is [E, N]", |call| {
        let [_, experts, _, n] = sizes(call);
        let due: &[i64] = if is_int4(call) { &[experts, 1, n] } else { &[experts, n] };
        shaped(call, "scale", SCALE, due)?;
        if is_int4(call) { shaped(call, "bias", BIAS, &[experts, n]) } else { Ok(()) }
    }),
    Rule::new("rows", "pertokenScale, logit and rowIndex are [M], out is [batch, N] with batch at most M", |call| {
        let [rows, _, _, n] = sizes(call);
        shaped(call, "pertokenScale", at(call, PER_TOKEN), &[rows])?;
        shaped(call, "logit", at(call, LOGIT), &[rows])?;
        shaped(call, "rowIndex", at(call, ROW_INDEX), &[rows])?;
        let Some(out) = out(call) else { return Ok(()) };
        require(out.dim(0) <= rows && out.dim(1) == n, || {
            format!("out of shape {} for {rows} rows, N = {n}", out.shape)
        })
    }),
    Rule::new("group-list-length", "the group list has an entry for every expert", |call| {
        shaped(call, "groupList", at(call, GROUP_LIST), &[sizes(call)[1]])
    }),
    Rule::new(
        "shared",
        "sharedInput is [rows, N], and its rows from sharedInputOffset on lie within those of out",
        |call| {
            let (first, batch) = (call.int(at(call, SHARED_OFFSET)), out(call).map_or(0, |out| out.dim(0)));
            let shared = call.tensor(at(call, SHARED));
            let (rows, n) = shared.map_or((0, sizes(call)[3]), |shared| (shared.dim(0), shared.dim(1)));
            let fits = first >= 0 && first.saturating_add(rows) <= batch;
            require(fits && n == sizes(call)[3], || format!("{rows} rows of {n} from row {first} on, of {batch}"))
        },
    ),
    Rule::new("not-empty", "no input is empty", |call| {
        let tensors = (0..call.args.len()).filter_map(|index| call.tensor(index));
        let inputs = tensors.filter(|tensor| out(call).is_none_or(|out| !core::ptr::eq(out, *tensor)));
        let empty = inputs.into_iter().any(TensorDesc::is_empty);
        require(!empty, || "an empty tensor".to_owned())
    }),
    Rule::dtype("row-index-dtype", "rowIndex is int64, or int32 for int8 weights", |call| {
        let dtype = call.tensor(at(call, ROW_INDEX)).map_or(T::INT64, |index| index.dtype);
        require(dtype == T::INT64 || !is_int4(call), || format!("rowIndex of {dtype:?}"))
    }),
    Rule::not_carried("strides", "x is no transposed view, int4 weights are contiguous", |call| {
        let x = call.tensor(X).is_some_and(TensorDesc::is_transposed);
        let weight = weight(call).is_some_and(|weight| !weight.is_contiguous());
        require(!x && !weight, || "another layout".to_owned())
    }),
];

/// Of signatures with an offset.
const WITH_OFFSET: &[Rule] = &[
    Rule::new("antiquant", "antiquantScale and antiquantOffset are null", |call| {
        let given = [ANTIQUANT_SCALE, ANTIQUANT_OFFSET].into_iter().any(|index| !call.is_absent(index));
        require(!given, || "a tensor".to_owned())
    })
    .with_code(aclnnStatus::ERR_PARAM_NULLPTR),
    Rule::new("offset", "offset is fp32 [E, 1, N]", |call| {
        let [_, experts, _, n] = sizes(call);
        if is_int4(call) { shaped(call, "offset", OFFSET, &[experts, 1, n]) } else { Ok(()) }
    }),
];

/// Of signatures with a tuning hint.
const TUNED: &[Rule] = &[Rule::new("tuning-config", "the rows to expect per group are 0 to the rows of x", |call| {
    let Some(&[rows, ..]) = call.ints(at(call, LAST)) else { return Ok(()) };
    let most = sizes(call)[0];
    require((0..=most).contains(&rows), || format!("{rows}; the nearest legal value is {}", rows.clamp(0, most.max(0))))
})];

/// Of signatures for FRACTAL_NZ weights.
const PACKED: &[Rule] = &[
    Rule::new("per-token", "int4 weights have a scale per token", |call| {
        require(!is_int4(call) || !call.is_absent(at(call, PER_TOKEN)), || "null".to_owned())
    })
    .with_code(aclnnStatus::ERR_PARAM_NULLPTR),
    Rule::new("nz-storage", "the storage of the weight is that of its blocks", |call| {
        let Some(weight) = weight(call) else { return Ok(()) };
        let due = weight.shape.fractal_nz(weight.dtype).and_then(|blocks| blocks.elements());
        // int4 that were packed as int8 keep the last dimension of its blocks.
        let rows = weight.storage.split_last().map(|(_, rows)| rows).unwrap_or_default();
        let found = match is_int4(call) {
            true => rows.iter().try_fold(64u64, |all, &dim| all.checked_mul(u64::try_from(dim).ok()?)),
            false => weight.storage.elements(),
        };
        require(due.is_some() && due == found, || format!("a storage of shape {} for {}", weight.storage, weight.shape))
    }),
    Rule::not_carried(
        "bias",
        "a bias with int4 weights alone, and always; an offset with int4 weights alone",
        |call| {
            let offset = has_offset(call) && !call.is_absent(OFFSET);
            require(call.is_absent(BIAS) != is_int4(call) && (is_int4(call) || !offset), || {
                "another bias or offset".to_owned()
            })
        },
    ),
];

/// Of the one that takes int32 for FRACTAL_NZ.
const FORMATTED: &[Rule] =
    &[Rule::dtype("weight-format", "weights are FRACTAL_NZ, but for int32, which is taken for it", |call| {
        let Some(weight) = call.tensor(WEIGHT) else { return Ok(()) };
        let legal = weight.format == aclFormat::FRACTAL_NZ || weight.dtype == T::INT32;
        require(legal, || format!("a weight in {:?}", weight.format))
    })];

macro_rules! middle {
    ($list:literal, $shared:literal, $logit:literal, $index:literal, $tx:literal, $tw:literal) => {
        [
            Param::input($list, I64).rank(1, 1),
            Param::input($shared, BF16).rank(2, 2).optional(),
            Param::input($logit, F32).rank(1, 1),
            Param::input($index, INDEX).rank(1, 1),
            Param::value("dtype"),
            Param::value("sharedInputWeight"),
            Param::value("sharedInputOffset"),
            Param::value($tx),
            Param::value($tw),
            Param::value("groupListType"),
        ]
    };
}

const OFFSETS: [Param; 3] = [
    Param::input("offsetOptional", F32).optional(),
    Param::input("antiquantScaleOptional", &[]).formats(&[]).optional(),
    Param::input("antiquantOffsetOptional", &[]).formats(&[]).optional(),
];
const PER_TOKEN_SCALE: Param = Param::input("pertokenScaleOptional", F32).rank(1, 1);
const TUNING: Param = Param::value("tuningConfigOptional");
const OUT: Param = Param::output("out", F32).rank(2, 2);

/// What the signatures for row-major weights have in front.
const fn plain(x: &'static str, weight: &'static str) -> [Param; 4] {
    [
        Param::input(x, INT8).rank(2, 2),
        Param::input(weight, &[T::INT32]).rank(3, 3).formats(ND),
        Param::input("scaleOptional", SCALES).rank(2, 3),
        Param::input("biasOptional", BIASES).rank(2, 2),
    ]
}

/// What those for FRACTAL_NZ weights have.
const fn packed(weights: &'static [T], formats: &'static [aclFormat]) -> [Param; 4] {
    [
        Param::input("x1", INT8).rank(2, 2).formats(ND),
        Param::input("x2", weights).rank(3, 3).formats(formats),
        Param::input("scale", SCALES).rank(2, 3),
        Param::input("bias", BIASES).rank(2, 2).optional(),
    ]
}

const PLAIN_MIDDLE: [Param; 10] = middle!(
    "groupListOptional",
    "sharedInputOptional",
    "logitOptional",
    "rowIndexOptional",
    "transposeX1",
    "transposeX2"
);
const FIRST_MIDDLE: [Param; 10] = middle!(
    "groupListOptional",
    "sharedInputOptional",
    "logitOptional",
    "rowIndexOptional",
    "transposeX",
    "transposeW"
);
const PACKED_MIDDLE: [Param; 10] =
    middle!("groupList", "sharedInput", "logit", "rowIndex", "transposeX1", "transposeX2");

/// `aclnnGroupedMatmulFinalizeRouting`: `out` is 0, plus `sharedInputWeight * sharedInput` from row `sharedInputOffset` on, plus for
/// each row i of a group `logit[i] * (x @ weight)[i]`, dequantised, in row `rowIndex[i]`.
///
/// * `x`: device, int8, `[M, K]`. `w`: device, int32 that stand for eight int4, ND, `[E, K, N]`; K a multiple of 64 above 128, N of
///   8 above 64.
/// * `scaleOptional`: device, int64 with fp32 in its low half, `[E, 1, N]`. `biasOptional`: device, fp32, `[E, N]`: 8 times the sum
///   of weight * scale over K. `pertokenScaleOptional`, `logitOptional`: device, fp32, `[M]`.
/// * `groupListOptional`: device, int64, `[E]`, ends or, with `groupListType` 1, sizes. `rowIndexOptional`: device, int64, `[M]`.
/// * `sharedInputOptional`: device, bf16, `[rows, N]`; may be null. `dtype`: 0; `transposeX`, `transposeW`: false.
/// * `y`: device, fp32, `[batch, N]`, batch at most M.
///
/// `((16 * high + low) + bias) * (pertokenScale * logit)`, see grouped_matmul; the sums over rows come in no order on a device.
pub(super) static GROUPED_MATMUL_FINALIZE_ROUTING: OpRow = row(
    OperatorId::GroupedMatmulFinalizeRouting,
    joined!(&plain("x", "w"), &[PER_TOKEN_SCALE], &FIRST_MIDDLE, &[Param::output("y", F32).rank(2, 2)]),
    COMMON,
);

/// `aclnnGroupedMatmulFinalizeRoutingV2`: [`GROUPED_MATMUL_FINALIZE_ROUTING`] with an offset.
///
/// * `offsetOptional`: device, fp32, `[E, 1, N]`, that of the weights times their scale; may be null. The antiquant parameters: null.
pub(super) static GROUPED_MATMUL_FINALIZE_ROUTING_V2: OpRow = row(
    OperatorId::GroupedMatmulFinalizeRoutingV2,
    joined!(&plain("x1", "x2"), &OFFSETS, &[PER_TOKEN_SCALE], &PLAIN_MIDDLE, &[OUT]),
    joined!(COMMON, WITH_OFFSET),
);

/// `aclnnGroupedMatmulFinalizeRoutingV3`: [`GROUPED_MATMUL_FINALIZE_ROUTING_V2`] with a tuning hint, which may be null.
pub(super) static GROUPED_MATMUL_FINALIZE_ROUTING_V3: OpRow = row(
    OperatorId::GroupedMatmulFinalizeRoutingV3,
    joined!(&plain("x1", "x2"), &OFFSETS, &[PER_TOKEN_SCALE], &PLAIN_MIDDLE, &[TUNING, OUT]),
    joined!(COMMON, WITH_OFFSET, TUNED),
);

/// `aclnnGroupedMatmulFinalizeRoutingWeightNz`: [`GROUPED_MATMUL_FINALIZE_ROUTING`] for FRACTAL_NZ weights of int8 or int4.
///
/// * `x2`: device, FRACTAL_NZ, int8 with K a multiple of 16 and N of 32 from 256 on, or int4 with N a multiple of 64.
/// * `scale`: of int8 weights fp32 or bf16, `[E, N]`; `bias`: null then. `pertokenScaleOptional`: may be null then.
/// * `rowIndex`: int64, for int8 weights also int32.
///
/// int8: `(float(acc) * scale) * (pertokenScale * logit)`.
pub(super) static GROUPED_MATMUL_FINALIZE_ROUTING_WEIGHT_NZ: OpRow = row(
    OperatorId::GroupedMatmulFinalizeRoutingWeightNz,
    joined!(&packed(&[T::INT8, T::INT4], NZ), &[PER_TOKEN_SCALE.optional()], &PACKED_MIDDLE, &[OUT]),
    joined!(COMMON, PACKED),
);

/// `aclnnGroupedMatmulFinalizeRoutingWeightNzV2`: [`GROUPED_MATMUL_FINALIZE_ROUTING_WEIGHT_NZ`] with an offset and a tuning hint,
/// and int32 weights, which are FRACTAL_NZ whatever their format says.
pub(super) static GROUPED_MATMUL_FINALIZE_ROUTING_WEIGHT_NZ_V2: OpRow = row(
    OperatorId::GroupedMatmulFinalizeRoutingWeightNzV2,
    joined!(
        &packed(&[T::INT8, T::INT4, T::INT32], ND_OR_NZ),
        &OFFSETS,
        &[PER_TOKEN_SCALE.optional()],
        &PACKED_MIDDLE,
        &[TUNING, OUT],
    ),
    joined!(COMMON, WITH_OFFSET, TUNED, FORMATTED, PACKED),
);

const fn row(operator: OperatorId, params: &'static [Param], rules: &'static [Rule]) -> OpRow {
    OpRow { operator, codes: Codes::HAND_WRITTEN, params, rules, source: SOURCE, doubtful: DOUBTFUL }
}

const SOURCE: &str = "ops-transformer 9.1.0 and later, gmm/grouped_matmul_finalize_routing (docs, op_api, op_kernel)";
const DOUBTFUL: &str = "The documents name K = 2048 and N = 7168, at most 131072 rows and 256 experts; the sources do not ask \
                        for them. Sums over rows are made by atomic additions: their order is that of the rows here. What a \
                        bias or an int64 scale of int8 weights does, what FRACTAL_NZ weights do in the signatures for \
                        row-major ones, the order in which an offset is added, and what of a scale beyond its top 19 bits is \
                        used were not seen.";
