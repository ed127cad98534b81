//! Rows of the grouped matrix product: six signatures, whose parameters and rules are put together from shared parts.

mod quant;
mod rules;

use super::check::{I64, WEIGHT_FORMATS};
use crate::constants::aclDataType;
use crate::info::OperatorId;
use crate::ops::rule::{Call, Codes, OpRow, Param, Rule};

/// What the operands may be of, quantised combinations included.
const OPERANDS: &[aclDataType] = &[
    aclDataType::FLOAT,
    aclDataType::FLOAT16,
    aclDataType::BF16,
    aclDataType::INT8,
    aclDataType::INT4,
    aclDataType::INT32,
];
const BIASES: &[aclDataType] = &[aclDataType::FLOAT, aclDataType::FLOAT16, aclDataType::BF16, aclDataType::INT32];
const OUTPUTS: &[aclDataType] =
    &[aclDataType::FLOAT, aclDataType::FLOAT16, aclDataType::BF16, aclDataType::INT8, aclDataType::INT32];

const fn scales(name: &'static str) -> Param {
    Param::input(name, &[]).formats(&[]).optional()
}

/// What every signature starts with.
const OPERAND_PARAMS: [Param; 7] = [
    Param::input("x", OPERANDS).rank(2, 6),
    Param::input("weight", OPERANDS).rank(2, 3).formats(WEIGHT_FORMATS),
    Param::input("biasOptional", BIASES).formats(&[]).optional(),
    scales("scaleOptional"),
    scales("offsetOptional"),
    scales("antiquantScaleOptional"),
    scales("antiquantOffsetOptional"),
];
const HOST_LIST: Param = Param::value("groupListOptional");
const DEVICE_LIST: Param = Param::input("groupListOptional", I64).formats(&[]).optional();
const SPLIT_ITEM: Param = Param::value("splitItem");
const GROUP_TYPE: Param = Param::value("groupType");
const TUNING: Param = Param::value("tuningConfigOptional");
const Y: Param = Param::output("y", OUTPUTS).rank(2, 6);

/// What the fourth and later signatures have between the operands and the tuning hint.
const MIDDLE_PARAMS: [Param; 9] = [
    scales("perTokenScaleOptional"),
    DEVICE_LIST,
    Param::value("activationInputOptional").reserved(),
    Param::value("activationQuantScaleOptional").reserved(),
    Param::value("activationQuantOffsetOptional").reserved(),
    SPLIT_ITEM,
    GROUP_TYPE,
    Param::value("groupListType"),
    Param::value("actType"),
];

/// What they end with.
const OUTPUT_PARAMS: [Param; 3] = [
    Param::output("out", OUTPUTS).rank(2, 6),
    Param::output("activationFeatureOutOptional", &[]).reserved(),
    Param::output("dynQuantScaleOutOptional", &[]).reserved(),
];

const V1: &[Param] = joined!(&OPERAND_PARAMS, &[HOST_LIST, SPLIT_ITEM, Y]);
const V2: &[Param] = joined!(&OPERAND_PARAMS, &[HOST_LIST, SPLIT_ITEM, GROUP_TYPE, Y]);
const V3: &[Param] = joined!(&OPERAND_PARAMS, &[DEVICE_LIST, SPLIT_ITEM, GROUP_TYPE, Y]);
const V4: &[Param] = joined!(&OPERAND_PARAMS, &MIDDLE_PARAMS, &OUTPUT_PARAMS);
const V5: &[Param] = joined!(&OPERAND_PARAMS, &MIDDLE_PARAMS, &[TUNING], &OUTPUT_PARAMS);
const WEIGHT_NZ: &[Param] =
    joined!(&OPERAND_PARAMS, &MIDDLE_PARAMS, &[TUNING, Param::value("quantGroupSize")], &OUTPUT_PARAMS);

/// Where a signature has a parameter that is not at one place in all of them; [`ABSENT`] where it lacks it, which a
/// [`Call`] answers with null or 0.
struct Places {
    per_token_scale: usize,
    group_list: usize,
    split_item: usize,
    group_type: usize,
    group_list_type: usize,
    act_type: usize,
    tuning: usize,
    out: usize,
}

const ABSENT: usize = usize::MAX;

impl Places {
    const fn of(params: &[Param]) -> Self {
        let out = place(params, "out");
        Self {
            per_token_scale: place(params, "perTokenScaleOptional"),
            group_list: place(params, "groupListOptional"),
            split_item: place(params, "splitItem"),
            group_type: place(params, "groupType"),
            group_list_type: place(params, "groupListType"),
            act_type: place(params, "actType"),
            tuning: place(params, "tuningConfigOptional"),
            out: if out == ABSENT { place(params, "y") } else { out },
        }
    }

    /// Those of the operator that is called.
    fn in_call(call: &Call<'_>) -> &'static Self {
        const IN_V1: Places = Places::of(V1);
        const IN_V2: Places = Places::of(V2);
        const IN_V3: Places = Places::of(V3);
        const IN_V4: Places = Places::of(V4);
        const IN_V5: Places = Places::of(V5);
        const IN_WEIGHT_NZ: Places = Places::of(WEIGHT_NZ);
        match call.operator {
            OperatorId::GroupedMatmul => &IN_V1,
            OperatorId::GroupedMatmulV2 => &IN_V2,
            OperatorId::GroupedMatmulV3 => &IN_V3,
            OperatorId::GroupedMatmulV4 => &IN_V4,
            OperatorId::GroupedMatmulWeightNz => &IN_WEIGHT_NZ,
            _ => &IN_V5,
        }
    }
}

const fn place(params: &[Param], name: &str) -> usize {
    let mut index = 0;
    while index < params.len() {
        if same(params[index].name.as_bytes(), name.as_bytes()) {
            return index;
        }
        index += 1;
    }
    ABSENT
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut index = 0;
    while index < a.len() && index < b.len() && a[index] == b[index] {
        index += 1;
    }
    index == a.len() && index == b.len()
}

/// Values of `groupType`.
const UNGROUPED: i64 = -1;
const ROW_GROUPS: i64 = 0;
const K_GROUPS: i64 = 2;

/// The group type of a call of the first signature, which has no parameter for it, by the lengths of its lists: -1 where x
/// and the output are both one per product, else 0 (ops-transformer, gmm/grouped_matmul/op_api).
pub fn implied_group_type(x: usize, weight: usize, out: usize) -> i64 {
    let pairwise = (x > 1 && out > 1) || (x == 1 && weight == 1 && out == 1);
    if pairwise { UNGROUPED } else { ROW_GROUPS }
}

const fn row(operator: OperatorId, params: &'static [Param], rules: &'static [Rule], doubtful: &'static str) -> OpRow {
    OpRow { operator, codes: Codes::HAND_WRITTEN, params, rules, source: SOURCE, doubtful }
}

/// `aclnnGroupedMatmul`: [`GROUPED_MATMUL_V2`] without a group type, which the lengths of the lists say.
///
/// One x, one weight and one y, or several of each, are multiplied pairwise: then the list may still be given, and says
/// the rows of each x. fp32 is refused, and a transposed weight of a pairwise product.
pub(super) static GROUPED_MATMUL: OpRow = row(
    OperatorId::GroupedMatmul,
    V1,
    joined!(quant::FLOAT_ONLY, rules::COMMON, rules::DECLARED, rules::HOST, rules::FIRST),
    DOUBTFUL_OLD,
);

/// `aclnnGroupedMatmulV2`: [`GROUPED_MATMUL_V3`] with the group list on the host.
///
/// * `groupListOptional`: host, int64, the ends of the groups, at most 128; what they end at must be what they divide;
///   may be null or empty where there are no groups (must be, then) or x is a list.
///
/// One form more: one x, several weights and as many y, the rows of x split over them.
pub(super) static GROUPED_MATMUL_V2: OpRow = row(
    OperatorId::GroupedMatmulV2,
    V2,
    joined!(
        rules::TYPED,
        quant::FLOAT_ONLY,
        rules::COMMON,
        rules::DECLARED,
        rules::SINGLE,
        rules::K_GROUPED,
        rules::HOST
    ),
    DOUBTFUL_OLD,
);

/// `aclnnGroupedMatmulV3`: [`GROUPED_MATMUL_V4`] where the group list holds the ends of the groups, and the output is
/// called `y`.
pub(super) static GROUPED_MATMUL_V3: OpRow = row(
    OperatorId::GroupedMatmulV3,
    V3,
    joined!(
        rules::TYPED,
        rules::DEVICE,
        quant::FLOAT_ONLY,
        rules::COMMON,
        rules::DECLARED,
        rules::SINGLE,
        rules::K_GROUPED
    ),
    DOUBTFUL_OLD,
);

/// `aclnnGroupedMatmulV4`: for each group `out = x @ weight + bias`.
///
/// What is multiplied with what, by `groupType` and the lengths of the lists:
///
/// | groupType | x | weight | out | splitItem |
/// |---|---|---|---|---|
/// | 0, groups of rows | one `[M, K]` | one `[E, K, N]` | one `[M, N]` | 2, 3 |
/// | 0 | one `[M, K]` | E of `[K, N]` | one `[M, N]` | 2, 3 |
/// | 0 | E of `[rows, K]` | E of `[K, N]` | one `[M, N]` | 2, 3 |
/// | 2, groups along K | one `[M, K]` | one `[K, N]` | one `[E, M, N]` | 2, 3 |
/// | 2 | one `[M, K]` | E of `[part of K, N]` | E of `[M, N]` | 0, 1 |
/// | -1, no groups | E of `[.., K]` | E of `[K, N]` | E of `[.., N]` | 0, 1 |
///
/// * `x`: device, fp32, fp16, bf16, int8 or int4; with K groups a view of `[K, M]` with its dimensions swapped, else not
///   transposed; without groups of 2 to 6 dimensions.
/// * `weight`: device, dtype of x or quantised, see below; ND, or without K groups FRACTAL_NZ in whole blocks; contiguous or,
///   without K groups, a view with its last two dimensions swapped.
/// * `biasOptional`: device, fp32 for bf16 and fp32, fp16 for fp16, `[E, N]` for one `[E, K, N]`, else one `[N]` per
///   weight; null with K groups; may be null.
/// * `scaleOptional` to `perTokenScaleOptional`: device, for quantised products only, see below.
/// * `groupListOptional`: device, int64, by `groupListType` 0 the ends of the groups `[E]`, 1 their sizes `[E]`, 2
///   pairs of group and size `[E, 2]`, non-empty ones first (not with K groups). Its values are seen by the device alone.
///   Where x is a list it may be null; without groups and with a list of K groups it should be.
/// * `activationInputOptional`, `activationQuantScaleOptional`, `activationQuantOffsetOptional`: null.
/// * `out`: device, dtype of a float x. Rows that no group covers are not written; an empty K group gives zeros.
/// * `activationFeatureOutOptional`, `dynQuantScaleOutOptional`: null.
///
/// Quantised products, without K groups. int32 stands for eight int4 in x and weight. Shapes are those for one weight
/// `[E, K, N]`; with a list each weight has its own, without E.
///
/// | x | weight | bias | scale | other scales | out |
/// |---|---|---|---|---|---|
/// | int8 | int8 | int32 or bf16, or null | `[E, N]`: bf16, fp32, or uint64 | per token fp32 `[M]` or null | bf16, fp16, or int8 (not per token) |
/// | int8 | int8 | int32 or null | not looked at | not looked at | int32: the accumulators |
/// | int8 | int4, one, not transposed | fp32: 8 times the sum of w * scale | uint64 `[E, G, N]`, G = 1 or K / 256 | per token fp32 `[M]` | bf16 or fp16 |
/// | int8 | the same with `offsetOptional` fp32 `[E, 1, N]` | the same | uint64 `[E, 1, N]` | per token fp32 `[M, 1]` | fp16 |
/// | int4 | int4, one, transposed only where FRACTAL_NZ | null | uint64 `[E, N]` or `[E, G, N]` | per token fp32 `[M]` or null | bf16 or fp16 |
/// | bf16, fp16 | int8 ND | as without quantisation | null | antiquant scale and offset of x's dtype `[E, N]` | dtype of x |
/// | bf16, fp16 | int4 ND | as without quantisation | null | the same or `[E, G, N]`; offset may be null for one weight | dtype of x |
///
/// `(float(acc + int32 bias) * scale) * per token + bf16 bias`, then `actType`, then one rounding; int8 with int4 in two halves
/// of x whose scaled products are fp16. uint64 scales hold fp32 in their low half; int64 is the same.
pub(super) static GROUPED_MATMUL_V4: OpRow = row(OperatorId::GroupedMatmulV4, V4, V4_RULES, DOUBTFUL);

/// `aclnnGroupedMatmulV5`: [`GROUPED_MATMUL_V4`] with a tuning hint.
///
/// * `tuningConfigOptional`: host, int64, first the rows to expect per group, 0 to M; may be null or empty.
pub(super) static GROUPED_MATMUL_V5: OpRow =
    row(OperatorId::GroupedMatmulV5, V5, joined!(V4_RULES, rules::TUNED, quant::TUNED), DOUBTFUL);

/// `aclnnGroupedMatmulWeightNz`: [`GROUPED_MATMUL_V5`] for weights that are FRACTAL_NZ, whatever their format says.
///
/// * `quantGroupSize`: not looked at: the shape of the scale says it.
///
/// K groups, fp32, int8 outputs and integer weights of a float x are refused.
pub(super) static GROUPED_MATMUL_WEIGHT_NZ: OpRow = row(
    OperatorId::GroupedMatmulWeightNz,
    WEIGHT_NZ,
    joined!(
        rules::TYPED,
        rules::DEVICE,
        rules::LISTED,
        rules::COMMON,
        quant::QUANTISED,
        rules::SINGLE,
        rules::TUNED,
        quant::TUNED
    ),
    DOUBTFUL,
);

/// The rules of the fourth signature and, with one more, of the fifth.
const V4_RULES: &[Rule] = joined!(
    rules::TYPED,
    rules::DEVICE,
    rules::LISTED,
    rules::COMMON,
    quant::QUANTISED,
    quant::ROW_MAJOR,
    rules::DECLARED,
    rules::SINGLE,
    rules::K_GROUPED,
    rules::K_PAIRS,
);

const SOURCE: &str = "ops-transformer 9.1.0 and later, gmm/grouped_matmul (docs, op_api, op_kernel)";
const DOUBTFUL: &str = "Quantised: what of a uint64 scale beyond its top 19 bits is used, its offset bits, the rounding to \
                        int8, the fp16 partial sums of int4 x, the order in which an offset is added, and the formulas of \
                        the activations are not verified. For int8 x with int4 weights CANN only logs what breaks the \
                        rules of shapes, dtypes and nulls: the code of what fails behind is a guess, as is that of transposed \
                        weights. Whether fp16 weights of a weight-only product are rounded once or after each step was not \
                        seen. The rules are those of 9.1.0 and later for every release: lists with K groups are in later \
                        documents only. The documents ask for a null group list without groups and for lists with K \
                        groups; the op_api does not. What it does not check of lists with K groups (all shapes) is \
                        taken from the documents. With weight [1, K, N] CANN does not compare the length of the group \
                        list. It was not seen whether the op_api checks the storage of a FRACTAL_NZ weight and that \
                        all weights have one format, nor what it does with one and K groups; sources of 9.0.0 only log \
                        where K or N of one is no multiple of 16. Limits on lists are those of the op_api; tiling may \
                        have more.";
const DOUBTFUL_OLD: &str = "As GroupedMatmulV4. CANN takes quantised operands here too: these rows do not carry them. The documents of this version name ND weights only; the op_api it shares \
                            with the later ones takes FRACTAL_NZ.";
