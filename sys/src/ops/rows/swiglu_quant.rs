//! Rows of the grouped product with SwiGLU and quantisation behind it: two signatures, each also for FRACTAL_NZ weights.

use super::check::{Checked, F32, FLOATS, I64, WEIGHT_FORMATS, one_of, require};
use crate::constants::{aclDataType as T, aclFormat, aclnnStatus};
use crate::info::OperatorId;
use crate::ops::desc::TensorDesc;
use crate::ops::rule::{Call, Codes, OpRow, Param, Rule};

const WEIGHTS: &[T] = &[T::INT8, T::INT4, T::INT32];
const X: &[T] = &[T::INT8, T::INT4, T::INT32];
const SCALES: &[T] = &[T::FLOAT, T::FLOAT16, T::BF16, T::UINT64, T::INT64];
const INT8: &[T] = &[T::INT8];
/// The largest N.
const MAX_N: i64 = 10240;
/// What K is below, of int8 and of int4 weights.
const END_K: [i64; 2] = [65536, 20000];
/// Rows of a FRACTAL_NZ block.
const NZ_ROWS: i64 = 16;

/// Where a signature has its parameters; `usize::MAX` where it lacks one, which a [`Call`] answers with null or 0.
struct Places {
    scale: usize,
    assist: usize,
    x_scale: usize,
    smooth: usize,
    group_list: usize,
    dequant_mode: usize,
    list_type: usize,
    out: usize,
}

const FIRST: Places = Places {
    scale: 4,
    assist: 2,
    x_scale: 5,
    smooth: usize::MAX,
    group_list: 6,
    dequant_mode: usize::MAX,
    list_type: usize::MAX,
    out: 7,
};
const SECOND: Places =
    Places { scale: 2, assist: 3, x_scale: 5, smooth: 6, group_list: 7, dequant_mode: 8, list_type: 11, out: 13 };

fn is_second(call: &Call<'_>) -> bool {
    matches!(call.operator, OperatorId::GroupedMatmulSwigluQuantV2 | OperatorId::GroupedMatmulSwigluQuantWeightNzV2)
}

fn places(call: &Call<'_>) -> &'static Places {
    if is_second(call) { &SECOND } else { &FIRST }
}

/// Whether the operator takes every weight for FRACTAL_NZ.
fn forces_nz(call: &Call<'_>) -> bool {
    use OperatorId as Id;
    matches!(call.operator, Id::GroupedMatmulSwigluQuantWeightNZ | Id::GroupedMatmulSwigluQuantWeightNzV2)
}

/// The tensor at `index`, or those of the list that is there.
fn all<'a>(call: &Call<'a>, index: usize) -> impl Iterator<Item = &'a TensorDesc> + use<'a> {
    call.tensor(index).into_iter().chain(call.tensors(index).iter().flatten())
}

fn x(call: &Call<'_>) -> Option<TensorDesc> {
    call.tensor(0).map(TensorDesc::unpacked)
}

/// The weights as matrices, FRACTAL_NZ where they are taken for it.
fn weights<'a>(call: &Call<'a>) -> impl Iterator<Item = TensorDesc> + use<'a> {
    let forced = forces_nz(call);
    all(call, 1).map(move |weight| swiglu_weight(weight, forced))
}

/// A weight as the operator takes it: `[E, K, N]`, or `[K, N]` in a list, of int8 or int4.
pub fn swiglu_weight(weight: &TensorDesc, forces_nz: bool) -> TensorDesc {
    let format = if forces_nz { aclFormat::FRACTAL_NZ } else { weight.format };
    let blocked = format == aclFormat::FRACTAL_NZ && weight.rank() > 3;
    TensorDesc { format, ..weight.matrices(blocked) }
}

fn weight(call: &Call<'_>) -> Option<TensorDesc> {
    weights(call).next()
}

fn is_int4(call: &Call<'_>) -> bool {
    weight(call).is_some_and(|weight| weight.dtype == T::INT4)
}

/// Whether x is of int4 too.
fn multiplies_int4(call: &Call<'_>) -> bool {
    x(call).is_some_and(|x| x.dtype == T::INT4)
}

/// Number of experts: of weights, or the first dimension of the only one.
fn experts(call: &Call<'_>) -> i64 {
    match weights(call).count() {
        1 => weight(call).map_or(0, |weight| weight.dim(0)),
        many => i64::try_from(many).unwrap_or(i64::MAX),
    }
}

/// What a factor of every expert is shaped like, behind E where there is one weight.
fn per_expert(call: &Call<'_>, name: &str, index: usize, legal: impl Fn(&[i64]) -> bool) -> Checked {
    let single = weights(call).count() == 1;
    all(call, index).try_for_each(|factor| {
        let own = match &*factor.shape {
            [lead, own @ ..] if single => (*lead == experts(call)).then_some(own),
            own => (!single).then_some(own),
        };
        require(own.is_some_and(&legal), || format!("{name} of shape {}", factor.shape))
    })
}

/// Rules of both signatures.
const COMMON: &[Rule] = &[
    Rule::new(
        "assist",
        "int4 weights of int8 x have an assist matrix, 8 times the sum of weight * scale; no others have",
        |call| {
            let (given, due) = (!call.is_absent(places(call).assist), is_int4(call) && !multiplies_int4(call));
            // What is given beside int8 weights is only logged.
            require(given == due || !is_int4(call), || if given { "an assist matrix" } else { "none" }.to_owned())
        },
    )
    .with_code(aclnnStatus::ERR_PARAM_NULLPTR),
    Rule::dtype(
        "scale-dtype",
        "scales of int8 weights are fp32, fp16 or bf16, of int4 weights uint64 or int64",
        |call| {
            let legal = if is_int4(call) { &[T::UINT64, T::INT64][..] } else { FLOATS };
            all(call, places(call).scale)
                .try_for_each(|scale| require(legal.contains(&scale.dtype), || format!("a scale of {:?}", scale.dtype)))
        },
    ),
    Rule::new("lists", "one weight [E, K, N], or several [K, N]; as many scales and assist matrices", |call| {
        let count = weights(call).count();
        let rank = if count == 1 { 3 } else { 2 };
        let Places { scale, assist, .. } = *places(call);
        let others =
            [scale, assist].into_iter().all(|index| call.is_absent(index) || all(call, index).count() == count);
        let legal = weights(call).all(|weight| weight.rank() == rank);
        require(legal && others, || format!("{count} weights, not all of {rank} dimensions or with a scale each"))
    }),
    Rule::new("k-match", "the last dimension of x is the last but one of every weight", |call| {
        let Some(x) = x(call) else { return Ok(()) };
        weights(call).try_for_each(|weight| {
            require(x.dim(-1) == weight.dim(-2), || format!("x of shape {}, weight of shape {}", x.shape, weight.shape))
        })
    }),
    Rule::new("n", "N is even, at most 10240 and that of every weight", |call| {
        let n = weight(call).map_or(0, |weight| weight.dim(-1));
        let same = weights(call).all(|weight| weight.dim(-1) == n);
        require(same && n % 2 == 0 && n <= MAX_N, || {
            format!("N = {n}; the nearest legal value is {}", n.min(MAX_N) / 2 * 2)
        })
    }),
    Rule::new("k", "K is below 65536, for int4 weights below 20000", |call| {
        let (k, end) = (x(call).map_or(0, |x| x.dim(-1)), END_K[usize::from(is_int4(call))]);
        require(k < end, || format!("K = {k}; the nearest legal value is {}", end - 1))
    }),
    Rule::new(
        "scale-shape",
        "scales are [E, N] for one weight, [N] for several; for int4 weights also [E, G, N] or [G, N], G dividing K, in the \
         second version with dequantMode 1",
        |call| {
            let (n, k) = weight(call).map_or((0, 0), |weight| (weight.dim(-1), weight.dim(-2)));
            let parts = is_int4(call) && (!is_second(call) || call.int(SECOND.dequant_mode) == 1);
            let whole = !is_second(call) || call.int(SECOND.dequant_mode) == 0;
            per_expert(call, "scale", places(call).scale, |own| match *own {
                [columns] => whole && columns == n,
                [groups, columns] => parts && columns == n && groups > 0 && k % groups == 0,
                _ => false,
            })
        },
    ),
    Rule::new("assist-shape", "assist matrices are fp32 [E, N] for one weight, [N] for several", |call| {
        if !is_int4(call) {
            return Ok(());
        }
        let n = weight(call).map_or(0, |weight| weight.dim(-1));
        all(call, places(call).assist).try_for_each(|assist| {
            require(assist.dtype == T::FLOAT, || format!("an assist matrix of {:?}", assist.dtype))
        })?;
        per_expert(call, "an assist matrix", places(call).assist, |own| own == [n])
    }),
    Rule::new("rows", "xScale and outputScale are [M], output is [M, N / 2]", |call| {
        let (Some(x), Some(weight)) = (x(call), weight(call)) else { return Ok(()) };
        let (m, half) = (x.dim(0), weight.dim(-1) / 2);
        let Places { x_scale, out, .. } = *places(call);
        [(x_scale, &[m][..]), (out, &[m, half]), (out + 1, &[m])].into_iter().try_for_each(|(index, due)| {
            let Some(tensor) = call.tensor(index) else { return Ok(()) };
            require(*tensor.shape == *due, || format!("shape {} where {due:?} is due", tensor.shape))
        })
    }),
    Rule::new("group-list-length", "the group list has at most as many entries as there are experts", |call| {
        let entries = call.tensor(places(call).group_list).map_or(0, |list| list.dim(0));
        require(entries <= experts(call), || format!("{entries} entries for {} experts", experts(call)))
    }),
    Rule::new(
        "nz-aligned",
        "FRACTAL_NZ weights lie in whole blocks of 16 rows and of 32 columns, 64 for int4",
        |call| {
            let packed = weights(call).filter(|weight| weight.format == aclFormat::FRACTAL_NZ);
            packed.into_iter().try_for_each(|weight| {
                let columns = if weight.dtype == T::INT4 { 64 } else { 32 };
                let [row, column] = if weight.is_transposed() { [-1, -2] } else { [-2, -1] };
                let aligned = weight.dim(row) % NZ_ROWS == 0 && weight.dim(column) % columns == 0;
                let held = weight.storage.elements() >= weight.elements();
                require(aligned && held, || format!("weight of shape {}, storage {}", weight.shape, weight.storage))
            })
        },
    ),
    Rule::new("transposed", "weights are not transposed, but for FRACTAL_NZ ones of an int4 x", |call| {
        weights(call).try_for_each(|weight| {
            let may = multiplies_int4(call) && weight.format == aclFormat::FRACTAL_NZ;
            require(may || !weight.is_transposed(), || format!("weight with strides {}", weight.strides))
        })
    }),
    Rule::not_carried(
        "strides",
        "x of int4 and all weights are contiguous, or transposed where that is legal",
        |call| {
            let int4 = x(call).filter(|x| x.dtype == T::INT4);
            weights(call).chain(int4).try_for_each(|tensor| {
                require(tensor.is_contiguous() || tensor.is_transposed(), || {
                    format!("shape {} with strides {}", tensor.shape, tensor.strides)
                })
            })
        },
    ),
];

/// Of the first signature.
const OF_FIRST: &[Rule] = &[
    Rule::not_carried("offset", "offset and outputOffset are null, and bias is with int8 weights", |call| {
        let bias = !is_int4(call) && !call.is_absent(FIRST.assist);
        require(!bias && call.is_absent(3) && call.is_absent(9), || "a tensor that is not used".to_owned())
    }),
    Rule::not_carried("x-scale", "xScale is fp32", |call| {
        let scale = call.tensor(FIRST.x_scale).map_or(T::FLOAT, |scale| scale.dtype);
        require(scale == T::FLOAT, || format!("xScale of {scale:?}"))
    }),
];

/// Of the second, before the others.
const DTYPES: &[Rule] = &[
    Rule::dtype(
        "dtypes",
        "int8 x with int8 or int4 weights, int4 x with int4 weights; all weights of one dtype",
        |call| {
            let (Some(x), Some(weight)) = (x(call), weight(call)) else { return Ok(()) };
            let legal = matches!((x.dtype, weight.dtype), (T::INT8, T::INT8 | T::INT4) | (T::INT4, T::INT4));
            let same = weights(call).all(|other| other.dtype == weight.dtype);
            require(legal && same, || format!("x of {:?} with weights of {:?}", x.dtype, weight.dtype))
        },
    ),
    Rule::new("dequant-mode", "0 (a scale per column) or 1 (per group of K)", |call| {
        one_of(call, "dequantMode", SECOND.dequant_mode, &[0, 1])
    }),
];

/// Of the second.
const OF_SECOND: &[Rule] = &[
    Rule::new("list-type", "0 (cumsum) or 1 (count)", |call| one_of(call, "groupListType", SECOND.list_type, &[0, 1])),
    Rule::new("smooth", "smoothScale is [E] or [E, N / 2], for int4 x", |call| {
        let Some(smooth) = call.tensor(SECOND.smooth) else { return Ok(()) };
        let half = weight(call).map_or(0, |weight| weight.dim(-1) / 2);
        let shape = *smooth.shape == [experts(call)] || *smooth.shape == [experts(call), half];
        require(multiplies_int4(call) && shape, || format!("smoothScale of shape {}", smooth.shape))
    }),
    Rule::new("not-empty", "x and weights have elements", |call| {
        let empty = x(call).is_some_and(|x| x.is_empty()) || weights(call).any(|weight| weight.is_empty());
        require(!empty, || "an empty x or weight".to_owned())
    }),
    Rule::not_carried(
        "modes",
        "dequantDtype 0 or 28, quantMode 0, no bias, and no assist matrix with int8 weights",
        |call| {
            one_of(call, "dequantDtype", 9, &[0, 28])?;
            one_of(call, "quantMode", 10, &[0])?;
            let assist = !is_int4(call) && !call.is_absent(SECOND.assist);
            require(call.is_absent(4) && !assist, || "a bias or an assist matrix".to_owned())
        },
    ),
];

/// Of those that believe the format of a weight.
const DECLARED: &[Rule] = &[Rule::dtype("weight-format", "int8 weights are FRACTAL_NZ", |call| {
    require(is_int4(call) || weights(call).all(|weight| weight.format == aclFormat::FRACTAL_NZ), || {
        "int8 weights in a plain format".to_owned()
    })
})];

/// Of those for FRACTAL_NZ weights, whatever the weight says.
const PACKED: &[Rule] = &[Rule::new(
    "nz-storage",
    "the storage of a weight has the dimensions of its blocks: two more than the \
    matrices",
    |call| {
        let due = if weights(call).count() == 1 { 5 } else { 4 };
        weights(call).try_for_each(|weight| {
            require(weight.storage.len() == due, || format!("a storage of shape {}", weight.storage))
        })
    },
)];

const FIRST_PARAMS: &[Param] = &[
    Param::input("x", INT8).rank(2, 2),
    Param::input("weight", WEIGHTS).rank(3, 5).formats(WEIGHT_FORMATS),
    Param::input("bias", &[]).formats(&[]).optional(),
    Param::input("offset", &[]).formats(&[]).optional(),
    Param::input("weightScale", SCALES).rank(2, 3).formats(&[]),
    Param::input("xScale", FLOATS).rank(1, 1).formats(&[]),
    Param::input("groupList", I64).rank(1, 1).formats(&[]),
    Param::output("output", INT8).rank(2, 2),
    Param::output("outputScale", F32).rank(1, 1).formats(&[]),
    Param::output("outputOffset", &[]).formats(&[]).optional(),
];

const SECOND_PARAMS: &[Param] = &[
    Param::input("x", X).rank(2, 2),
    Param::input("weight", WEIGHTS).rank(2, 5).formats(WEIGHT_FORMATS),
    Param::input("weightScale", SCALES).rank(1, 3).formats(&[]),
    Param::input("weightAssistMatrix", &[]).formats(&[]).optional(),
    Param::input("bias", &[]).formats(&[]).optional(),
    Param::input("xScale", F32).rank(1, 1).formats(&[]),
    Param::input("smoothScale", F32).rank(1, 2).formats(&[]).optional(),
    Param::input("groupList", I64).rank(1, 1).formats(&[]),
    Param::value("dequantMode"),
    Param::value("dequantDtype"),
    Param::value("quantMode"),
    Param::value("groupListType"),
    Param::value("tuningConfigOptional"),
    Param::output("output", INT8).rank(2, 2),
    Param::output("outputScale", F32).rank(1, 1).formats(&[]),
];

/// `aclnnGroupedMatmulSwigluQuant`: for each group of rows `s = silu(gate) * up` of the dequantised product, whose first half of
/// columns is the gate, `outputScale = max |s| / 127` per row and `output` the rounded `s * (1 / outputScale)`.
///
/// * `x`: device, int8, `[M, K]`. `weight`: device, int8 FRACTAL_NZ or int4 (int32 stands for eight) of any format, `[E, K, N]`,
///   or seen as its blocks `[E, N / C0, K / 16, 16, C0]`; N even and at most 10240.
/// * `bias`: device, fp32, `[E, N]`, for int4 weights: 8 times the sum of weight * scale over K; else null.
/// * `weightScale`: device, fp32, fp16 or bf16 `[E, N]`; for int4 weights uint64 with fp32 in its low half, or int64, also
///   `[E, G, N]`, G dividing K. `xScale`: device, fp32, `[M]`.
/// * `groupList`: device, int64, the ends of the groups, at most E. `offset`, `outputOffset`: null.
/// * `output`: device, int8, `[M, N / 2]`; `outputScale`: device, fp32, `[M]`. Rows of no group are not written.
///
/// int8: `(float(acc) * xScale) * weightScale`; int4: as grouped_matmul, in two halves of x with fp16 products. Numbers are rounded
/// to fp16 first and then to int8.
pub(super) static GROUPED_MATMUL_SWIGLU_QUANT: OpRow =
    row(OperatorId::GroupedMatmulSwigluQuant, FIRST_PARAMS, joined!(COMMON, OF_FIRST, DECLARED));

/// `aclnnGroupedMatmulSwigluQuantWeightNZ`: [`GROUPED_MATMUL_SWIGLU_QUANT`] for weights that are FRACTAL_NZ, whatever their
/// format says.
pub(super) static GROUPED_MATMUL_SWIGLU_QUANT_WEIGHT_NZ: OpRow =
    row(OperatorId::GroupedMatmulSwigluQuantWeightNZ, FIRST_PARAMS, joined!(COMMON, OF_FIRST, PACKED));

/// `aclnnGroupedMatmulSwigluQuantV2`: [`GROUPED_MATMUL_SWIGLU_QUANT`] with lists of weights, sizes of groups, and int4 x.
///
/// * `x`: also int4, or int32 for eight. `weight`, `weightScale`, `weightAssistMatrix` (the bias of the first version): one
///   tensor each, or E without their first dimension.
/// * `smoothScale`: device, fp32, `[E]` or `[E, N / 2]`, factors of the activated numbers, for int4 x; may be null.
/// * `dequantMode`: 0, or 1 for scales per group of K; `groupListType`: 0 ends, 1 sizes; `dequantDtype`: 0 or 28, `quantMode`: 0.
/// * `tuningConfigOptional`: host, int64; may be null.
pub(super) static GROUPED_MATMUL_SWIGLU_QUANT_V2: OpRow =
    row(OperatorId::GroupedMatmulSwigluQuantV2, SECOND_PARAMS, joined!(DTYPES, COMMON, OF_SECOND, DECLARED));

/// `aclnnGroupedMatmulSwigluQuantWeightNzV2`: [`GROUPED_MATMUL_SWIGLU_QUANT_V2`] for weights that are FRACTAL_NZ, whatever their
/// format says.
pub(super) static GROUPED_MATMUL_SWIGLU_QUANT_WEIGHT_NZ_V2: OpRow =
    row(OperatorId::GroupedMatmulSwigluQuantWeightNzV2, SECOND_PARAMS, joined!(DTYPES, COMMON, OF_SECOND, PACKED));

const fn row(operator: OperatorId, params: &'static [Param], rules: &'static [Rule]) -> OpRow {
    OpRow { operator, codes: Codes::HAND_WRITTEN, params, rules, source: SOURCE, doubtful: DOUBTFUL }
}

const SOURCE: &str = "ops-transformer 9.1.0 and later, gmm/grouped_matmul_swiglu_quant and gmm/grouped_matmul_swiglu_quant_v2 \
                      (docs, op_api, op_kernel)";
const DOUBTFUL: &str = "What a row of zeros gives (0 and a scale of 0 here; by the source 0 * inf), what of a uint64 scale beyond \
                        its top 19 bits is used and the fp16 products of int4 x are not verified. The op_api logs and takes \
                        a bias with int8 weights, offsets and xScale of 16 bits; what it makes of them was not seen, nor \
                        whether it checks groupListType, dequantMode, bias and transposed weights of the first version. \
                        Packages of others export these names with one more parameter.";
