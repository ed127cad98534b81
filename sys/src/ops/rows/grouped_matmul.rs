//! Rows of the grouped matrix product: one set of rules for two signatures.

use super::check::{Checked, I64, members, one_of, require};
use crate::constants::{aclDataType, aclFormat};
use crate::info::OperatorId;
use crate::ops::desc::TensorDesc;
use crate::ops::rule::{Call, Codes, OpRow, PLAIN_FORMATS, Param, Rule};

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

const WEIGHT_FORMATS: &[aclFormat] = &[
    aclFormat::ND,
    aclFormat::NCHW,
    aclFormat::NHWC,
    aclFormat::HWCN,
    aclFormat::NDHWC,
    aclFormat::NCDHW,
    aclFormat::NC,
    aclFormat::NCL,
    aclFormat::FRACTAL_NZ,
];

/// The most tensors in the list of x or of weights.
const MAX_LIST: usize = 128;
/// The most entries of the group list.
const MAX_GROUPS: i64 = 1024;
/// The largest size of the dimension of x or of a weight that is innermost in memory.
const MAX_INNER: i64 = 65535;
/// Sides of a FRACTAL_NZ block of a 16-bit dtype.
const NZ_BLOCK: i64 = 16;

/// Values of `groupType`.
const UNGROUPED: i64 = -1;
const K_GROUPS: i64 = 2;
/// Value of `groupListType`.
const KEY_VALUE: i64 = 2;

const X: usize = 0;
const WEIGHT: usize = 1;
const BIAS: usize = 2;
/// Scales and offsets of quantised products.
const QUANT_PARAMS: core::ops::RangeInclusive<usize> = 3..=7;
const GROUP_LIST: usize = 8;
const SPLIT_ITEM: usize = 12;
const GROUP_TYPE: usize = 13;
const GROUP_LIST_TYPE: usize = 14;
const ACT_TYPE: usize = 15;
const TUNING_CONFIG: usize = 16;

/// The parameters before `tuningConfigOptional`.
const INPUTS: [Param; 16] = [
    Param::input("x", OPERANDS).rank(2, 6),
    Param::input("weight", OPERANDS).rank(2, 3).formats(WEIGHT_FORMATS),
    Param::input("biasOptional", BIASES).formats(&[]).optional(),
    Param::input("scaleOptional", &[]).formats(&[]).optional(),
    Param::input("offsetOptional", &[]).formats(&[]).optional(),
    Param::input("antiquantScaleOptional", &[]).formats(&[]).optional(),
    Param::input("antiquantOffsetOptional", &[]).formats(&[]).optional(),
    Param::input("perTokenScaleOptional", &[]).formats(&[]).optional(),
    Param::input("groupListOptional", I64).formats(&[]).optional(),
    Param::value("activationInputOptional").reserved(),
    Param::value("activationQuantScaleOptional").reserved(),
    Param::value("activationQuantOffsetOptional").reserved(),
    Param::value("splitItem"),
    Param::value("groupType"),
    Param::value("groupListType"),
    Param::value("actType"),
];

/// The parameters after it.
const OUTPUT_PARAMS: [Param; 3] = [
    Param::output("out", OUTPUTS).rank(2, 6),
    Param::output("activationFeatureOutOptional", &[]).reserved(),
    Param::output("dynQuantScaleOutOptional", &[]).reserved(),
];

/// `aclnnGroupedMatmulV4`: for each group `out = x @ weight + bias`, the rows of x split into groups by a group list.
///
/// With E groups of M rows together. Lists of one tensor, or as said:
/// * `x`: device, fp32, fp16 or bf16, `[M, K]`, or one `[rows, K]` per group; not transposed.
/// * `weight`: device, dtype of x, `[E, K, N]`, or one `[K, N]` per group; ND, or for 16 bits FRACTAL_NZ with K and N
///   multiples of 16; contiguous or a view with its last two dimensions swapped.
/// * `biasOptional`: device, fp32 for bf16 and fp32, fp16 for fp16, `[E, N]`, or one `[N]` per group; may be null.
/// * `scaleOptional` to `perTokenScaleOptional`: device, for quantised products only.
/// * `groupListOptional`: device, int64, by `groupListType` 0 the ends of the groups `[E]`, 1 their sizes `[E]`, 2
///   pairs of group and size `[E, 2]`, non-empty ones first. Its values are seen by the device alone.
/// * `activationInputOptional`, `activationQuantScaleOptional`, `activationQuantOffsetOptional`: null.
/// * `out`: device, dtype of x, `[M, N]`. Rows that no group covers are not written.
/// * `activationFeatureOutOptional`, `dynQuantScaleOutOptional`: null.
///
/// With groupType -1 there are no groups: x, weight and out are lists of one length and are multiplied pairwise,
/// x `[.., K]` of 2 to 6 dimensions, weight `[K, N]`, out `[.., N]`.
pub(super) static GROUPED_MATMUL_V4: OpRow = OpRow {
    operator: OperatorId::GroupedMatmulV4,
    codes: Codes::HAND_WRITTEN,
    params: &concat::<Param, 19>(&[&INPUTS, &OUTPUT_PARAMS], Param::value("")),
    rules: RULES,
    source: SOURCE,
    doubtful: DOUBTFUL,
};

/// `aclnnGroupedMatmulV5`: [`GROUPED_MATMUL_V4`] with a tuning hint.
///
/// * `tuningConfigOptional`: host, int64, first the rows to expect per group, 0 to M; may be null or empty.
pub(super) static GROUPED_MATMUL_V5: OpRow = OpRow {
    operator: OperatorId::GroupedMatmulV5,
    codes: Codes::HAND_WRITTEN,
    params: &concat::<Param, 20>(&[&INPUTS, &[Param::value("tuningConfigOptional")], &OUTPUT_PARAMS], Param::value("")),
    rules: &concat::<Rule, { RULES.len() + 1 }>(&[RULES, &[TUNING_CONFIG_RULE]], TUNING_CONFIG_RULE),
    source: SOURCE,
    doubtful: DOUBTFUL,
};

const SOURCE: &str = "ops-transformer 9.1.0, gmm/grouped_matmul (docs, op_api)";
const DOUBTFUL: &str = "CANN takes K groups (groupType 2) and quantised operands: this row does not carry them yet. \
                        The rules are those of 9.1.0 for every release. With weight [1, K, N] CANN does not compare \
                        the length of the group list. It was not seen whether the op_api checks the storage of a \
                        FRACTAL_NZ weight and that all weights have one format; sources of 9.0.0 only log where K or N \
                        of one is no multiple of 16. Limits on lists are those of the op_api; tiling may have more.";

const RULES: &[Rule] = &[
    Rule::new("group-type", "-1 (no groups), 0 (groups of rows) or 2 (groups along K)", |call| {
        one_of(call, "groupType", GROUP_TYPE, &[UNGROUPED, 0, K_GROUPS])
    }),
    Rule::not_carried("k-groups", "groupType is -1 or 0", |call| {
        require(call.int(GROUP_TYPE) != K_GROUPS, || "groupType 2".to_owned())
    }),
    Rule::new(
        "split-item",
        "splitItem is 0 or 1 (several outputs) without groups, 2 or 3 (one output) with groups",
        |call| one_of(call, "splitItem", SPLIT_ITEM, if ungrouped(call) { &[0, 1] } else { &[2, 3] }),
    ),
    Rule::new("group-list-rank", "the group list is [E], for groupListType 2 [E, 2]", |call| {
        let Some(list) = call.tensor(GROUP_LIST) else { return Ok(()) };
        let legal = match call.int(GROUP_LIST_TYPE) {
            KEY_VALUE => list.rank() == 2 && list.dim(1) == 2,
            _ => list.rank() == 1,
        };
        let kind = call.int(GROUP_LIST_TYPE);
        require(legal, || format!("a group list of shape {} with groupListType {kind}", list.shape))
    }),
    Rule::new("group-list-type", "0 (cumsum), 1 (count) or 2 (key-value)", |call| {
        one_of(call, "groupListType", GROUP_LIST_TYPE, &[0, 1, KEY_VALUE])
    }),
    Rule::new("empty-k", "K is 0 only where there is no row or no column", |call| {
        let no_rows = members(x(call)).all(|x| x.shape.split_last().is_some_and(|(_, rows)| rows.contains(&0)));
        let no_columns = members(weight(call)).all(|weight| weight.dim(-1) == 0);
        let legal = no_rows || no_columns || !members(x(call)).any(|x| x.dim(-1) == 0);
        require(legal, || "an x with K = 0".to_owned())
    }),
    Rule::dtype("dtypes", "x and weight of one float dtype, or a quantised combination", |call| {
        let (Some(x), Some(weight)) = (first(x(call)), first(weight(call))) else { return Ok(()) };
        let legal = is_float(x, weight) || is_quantised(x.dtype, weight.dtype);
        require(legal, || format!("x of {:?} and weight of {:?}", x.dtype, weight.dtype))
    }),
    Rule::not_carried("quantised", "x and weight of one dtype, fp32, fp16 or bf16", |call| {
        let (Some(x), Some(weight)) = (first(x(call)), first(weight(call))) else { return Ok(()) };
        require(is_float(x, weight), || format!("x of {:?} and weight of {:?}", x.dtype, weight.dtype))
    }),
    Rule::dtype("list-dtypes", "the tensors of x, and those of weight, have one dtype", |call| {
        [("x", x(call)), ("weight", weight(call))].into_iter().try_for_each(|(name, list)| {
            let Some(due) = first(list) else { return Ok(()) };
            members(list).try_for_each(|tensor| {
                require(tensor.dtype == due.dtype, || format!("{:?} and {:?} in {name}", due.dtype, tensor.dtype))
            })
        })
    }),
    Rule::dtype("out-dtype", "out has the dtype of x", |call| {
        let Some(x) = first(x(call)) else { return Ok(()) };
        members(out(call)).try_for_each(|out| {
            require(out.dtype == x.dtype, || format!("out is {:?} and x is {:?}", out.dtype, x.dtype))
        })
    }),
    Rule::dtype("bias-dtype", "bias is fp32 for bf16 and fp32, fp16 for fp16", |call| {
        let Some(x) = first(x(call)) else { return Ok(()) };
        let due = if x.dtype == aclDataType::FLOAT16 { aclDataType::FLOAT16 } else { aclDataType::FLOAT };
        members(bias(call)).try_for_each(|bias| {
            require(bias.dtype == due, || format!("bias of {:?} for x of {:?}", bias.dtype, x.dtype))
        })
    }),
    Rule::new("act-type", "0 (no activation) without quantisation", |call| one_of(call, "actType", ACT_TYPE, &[0])),
    Rule::new("quant-params", "scales and offsets are null without quantisation", |call| {
        require(QUANT_PARAMS.into_iter().all(|index| call.is_absent(index)), || "a scale or an offset".to_owned())
    }),
    Rule::new("x-transposed", "x is not transposed", |call| {
        members(x(call)).try_for_each(|x| {
            require(!x.is_transposed(), || format!("x of shape {} with strides {}", x.shape, x.strides))
        })
    }),
    Rule::new("weight-transposed", "all weights are transposed or none is", |call| {
        let mut transposed = members(weight(call)).map(TensorDesc::is_transposed);
        let due = transposed.next();
        require(transposed.all(|this| Some(this) == due), || "transposed weights and others in one list".to_owned())
    }),
    Rule::new(
        "lists",
        "without groups as many x as weights as outputs; with groups one output and one x, or as many x as weights",
        |call| {
            let (x, weight, out) = (x(call).len(), weight(call).len(), out(call).len());
            let legal = if ungrouped(call) { x == weight && x == out } else { out == 1 && (x == 1 || x == weight) };
            require(legal, || format!("{x} x, {weight} weights and {out} outputs"))
        },
    ),
    Rule::new("list-length", "at most 128 tensors in the list of x and in that of weights", |call| {
        let length = x(call).len().max(weight(call).len());
        require(length <= MAX_LIST, || format!("a list of {length}; the nearest legal length is {MAX_LIST}"))
    }),
    Rule::new(
        "ranks",
        "with groups x and out are matrices and weight [E, K, N] or a list of matrices; without groups every weight is \
         a matrix and out has the rank of its x",
        ranks,
    ),
    Rule::new("k-match", "the last dimension of x is the last but one of its weight", |call| {
        pair(x(call), weight(call)).try_for_each(|(x, weight)| {
            require(x.dim(-1) == weight.dim(-2), || {
                format!("x of shape {} with weight of shape {}", x.shape, weight.shape)
            })
        })
    }),
    Rule::new("m-match", "out has the rows of x; without groups all its dimensions but the last", m_match),
    Rule::new("n-match", "the last dimension of out is that of its weight", n_match),
    Rule::new("inner-axis", "K, and N of weights that are not transposed, are below 65536", |call| {
        members(x(call)).try_for_each(|x| inner_axis("K", x.dim(-1)))?;
        let rows = members(weight(call)).filter(|weight| !weight.is_transposed());
        rows.into_iter().try_for_each(|weight| inner_axis("N", weight.dim(-1)))
    }),
    Rule::new("group-list", "a group list is given where there are groups", |call| {
        require(ungrouped(call) || call.tensor(GROUP_LIST).is_some(), || "null".to_owned())
    }),
    Rule::new("group-list-size", "the group list has 1 to 1024 entries", |call| match call.tensor(GROUP_LIST) {
        Some(list) => {
            require((1..=MAX_GROUPS).contains(&list.dim(0)), || format!("a group list of shape {}", list.shape))
        }
        None => Ok(()),
    }),
    Rule::new(
        "group-list-length",
        "the group list has an entry for every group (without groups, for every x)",
        |call| {
            let (Some(list), groups) = (call.tensor(GROUP_LIST), groups(call)) else { return Ok(()) };
            let legal = groups == list.dim(0) || (groups == 1 && !ungrouped(call));
            require(legal, || format!("a group list of shape {} for {groups} groups", list.shape))
        },
    ),
    Rule::not_carried("single-group", "the group list of a single group has one entry", |call| {
        let (Some(list), groups) = (call.tensor(GROUP_LIST), groups(call)) else { return Ok(()) };
        require(groups != 1 || list.dim(0) == 1, || format!("a group list of shape {} for one group", list.shape))
    }),
    Rule::new("bias-shape", "bias is [E, N] for one weight [E, K, N], else one [N] per weight", bias_shape),
    Rule::dtype("weight-format", "all weights have one format", |call| {
        let Some(due) = first(weight(call)) else { return Ok(()) };
        let plain = |weight: &TensorDesc| PLAIN_FORMATS.contains(&weight.format);
        let agree = members(weight(call)).all(|weight| plain(weight) == plain(due));
        require(agree, || "FRACTAL_NZ weights and others in one list".to_owned())
    }),
    Rule::dtype("nz-dtype", "FRACTAL_NZ weights are fp16 or bf16", |call| {
        packed(call).try_for_each(|weight| {
            require(weight.dtype != aclDataType::FLOAT, || "FRACTAL_NZ weight of FLOAT".to_owned())
        })
    }),
    Rule::new("nz-aligned", "K and N of FRACTAL_NZ weights are multiples of 16", |call| {
        packed(call).try_for_each(|weight| {
            let aligned = weight.dim(-2) % NZ_BLOCK == 0 && weight.dim(-1) % NZ_BLOCK == 0;
            require(aligned, || format!("FRACTAL_NZ weight of shape {}", weight.shape))
        })
    }),
    Rule::new("nz-layout", "FRACTAL_NZ weights are contiguous or have their last two dimensions swapped", |call| {
        packed(call).try_for_each(|weight| {
            let legal = weight.is_contiguous() || weight.is_transposed();
            require(legal, || format!("FRACTAL_NZ weight of shape {} with strides {}", weight.shape, weight.strides))
        })
    }),
    Rule::new("nz-storage", "the storage of a FRACTAL_NZ weight holds all its elements", |call| {
        packed(call).try_for_each(|weight| {
            let legal = weight.storage.elements() >= weight.elements();
            require(legal, || format!("a storage of shape {} for weight of shape {}", weight.storage, weight.shape))
        })
    }),
];

const TUNING_CONFIG_RULE: Rule =
    Rule::new("tuning-config", "the rows to expect per group are 0 to the rows of x", |call| {
        let Some(&[rows, ..]) = call.ints(TUNING_CONFIG) else { return Ok(()) };
        let most = members(x(call)).map(|x| x.dim(0)).max().unwrap_or(0);
        require((0..=most).contains(&rows), || {
            format!("{rows}; the nearest legal value is {}", rows.clamp(0, most.max(0)))
        })
    });

/// Joins lists that have `N` entries together.
const fn concat<T: Copy, const N: usize>(parts: &[&[T]], fill: T) -> [T; N] {
    let mut all = [fill; N];
    let (mut end, mut part) = (0, 0);
    while part < parts.len() {
        let mut index = 0;
        while index < parts[part].len() {
            all[end] = parts[part][index];
            end += 1;
            index += 1;
        }
        part += 1;
    }
    assert!(end == N, "the parts have N entries together");
    all
}

fn x<'a>(call: &Call<'a>) -> &'a [Option<TensorDesc>] {
    call.tensors(X)
}

fn weight<'a>(call: &Call<'a>) -> &'a [Option<TensorDesc>] {
    call.tensors(WEIGHT)
}

/// The biases; none where the list counts as not given.
fn bias<'a>(call: &Call<'a>) -> &'a [Option<TensorDesc>] {
    if call.is_absent(BIAS) { &[] } else { call.tensors(BIAS) }
}

fn out<'a>(call: &Call<'a>) -> &'a [Option<TensorDesc>] {
    call.tensors(if call.operator == OperatorId::GroupedMatmulV5 { TUNING_CONFIG + 1 } else { TUNING_CONFIG })
}

fn first(list: &[Option<TensorDesc>]) -> Option<&TensorDesc> {
    list.first()?.as_ref()
}

fn ungrouped(call: &Call<'_>) -> bool {
    call.int(GROUP_TYPE) == UNGROUPED
}

/// The FRACTAL_NZ weights.
fn packed<'a>(call: &Call<'a>) -> impl Iterator<Item = &'a TensorDesc> {
    members(weight(call)).filter(|weight| weight.format == aclFormat::FRACTAL_NZ)
}

/// Each member of `many` with the one of `few` at its place, or with the only one of `few`.
fn pair<'a>(
    few: &'a [Option<TensorDesc>],
    many: &'a [Option<TensorDesc>],
) -> impl Iterator<Item = (&'a TensorDesc, &'a TensorDesc)> {
    let place = move |index| if few.len() == 1 { 0 } else { index };
    many.iter()
        .enumerate()
        .filter_map(move |(index, member)| Some((few.get(place(index))?.as_ref()?, member.as_ref()?)))
}

fn is_float(x: &TensorDesc, weight: &TensorDesc) -> bool {
    matches!(x.dtype, aclDataType::FLOAT | aclDataType::FLOAT16 | aclDataType::BF16) && weight.dtype == x.dtype
}

/// Quantised combinations of A3; int32 holds eight int4.
fn is_quantised(x: aclDataType, weight: aclDataType) -> bool {
    use aclDataType as T;
    match x {
        T::INT8 | T::FLOAT16 | T::BF16 => matches!(weight, T::INT8 | T::INT4 | T::INT32),
        T::INT4 | T::INT32 => matches!(weight, T::INT4 | T::INT32),
        _ => false,
    }
}

fn inner_axis(name: &str, size: i64) -> Checked {
    require(size <= MAX_INNER, || format!("{name} = {size}; the nearest legal value is {MAX_INNER}"))
}

fn ranks(call: &Call<'_>) -> Checked {
    let rank = |name: &str, tensor: &TensorDesc, due: usize| {
        require(tensor.rank() == due, || format!("{name} of shape {} where {due} dimensions are due", tensor.shape))
    };
    if ungrouped(call) {
        members(weight(call)).try_for_each(|weight| rank("weight", weight, 2))?;
        return pair(x(call), out(call)).try_for_each(|(x, out)| rank("out", out, x.rank()));
    }
    let due = if weight(call).len() == 1 { 3 } else { 2 };
    members(weight(call)).try_for_each(|weight| rank("weight", weight, due))?;
    members(x(call)).try_for_each(|x| rank("x", x, 2))?;
    members(out(call)).try_for_each(|out| rank("out", out, 2))
}

fn m_match(call: &Call<'_>) -> Checked {
    if ungrouped(call) {
        return pair(x(call), out(call)).try_for_each(|(x, out)| {
            let rows = |tensor: &TensorDesc| tensor.shape.len().saturating_sub(1);
            require(x.shape.get(..rows(x)) == out.shape.get(..rows(out)), || {
                format!("out of shape {} for x of shape {}", out.shape, x.shape)
            })
        });
    }
    let rows = |list| members(list).fold(0i64, |sum, tensor| sum.saturating_add(tensor.dim(0)));
    let (due, found) = (rows(x(call)), rows(out(call)));
    require(found == due, || format!("{found} rows of out for {due} rows of x"))
}

fn n_match(call: &Call<'_>) -> Checked {
    pair(out(call), weight(call)).try_for_each(|(out, weight)| {
        require(out.dim(-1) == weight.dim(-1), || {
            format!("out of shape {} for weight of shape {}", out.shape, weight.shape)
        })
    })
}

/// Groups of a call: as many as x or weights, or the first dimension of the only weight.
fn groups(call: &Call<'_>) -> i64 {
    match x(call).len().max(weight(call).len()) {
        1 if !ungrouped(call) => first(weight(call)).map_or(0, |weight| weight.dim(0)),
        lists => i64::try_from(lists).unwrap_or(i64::MAX),
    }
}

fn bias_shape(call: &Call<'_>) -> Checked {
    let (bias, weight) = (bias(call), weight(call));
    if bias.is_empty() {
        return Ok(());
    }
    let (given, due) = (bias.len(), weight.len());
    require(given == due, || format!("{given} biases for {due} weights"))?;
    require(bias.iter().all(Option::is_some), || "a list with a null member".to_owned())?;
    let entries = call.tensor(GROUP_LIST).map_or(0, |list| list.dim(0));
    pair(bias, weight).try_for_each(|(bias, weight)| {
        let legal = match weight.rank() {
            3 => *bias.shape == [entries, weight.dim(-1)],
            _ => *bias.shape == [weight.dim(-1)],
        };
        require(legal, || format!("bias of shape {} for weight of shape {}", bias.shape, weight.shape))
    })
}
