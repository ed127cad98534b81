//! What the quantised grouped products ask for.

use super::super::check::{Checked, require};
use super::rules::{List, grouping, list_length, list_type, optional, out, packed, pair, weight, x};
use super::{K_GROUPS, Places, ROW_GROUPS};
use crate::constants::{aclDataType as T, aclnnStatus};
use crate::ops::desc::TensorDesc;
use crate::ops::rule::{Call, Rule};

/// What is multiplied with what.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One float dtype.
    Float,
    /// int8 by int8.
    Int8,
    /// int8 by int4.
    Msd,
    /// int4 by int4.
    Int4,
    /// 16-bit floats by int8 or int4.
    Antiquant,
}

/// Of the first x and the first weight; `None` for what CANN does not multiply.
pub(super) fn kind(call: &Call<'_>) -> Option<Kind> {
    Some(match (x(call).first()?.dtype, weight(call).first()?.dtype) {
        (T::INT8, T::INT8) => Kind::Int8,
        (T::INT8, T::INT4) => Kind::Msd,
        (T::INT4, T::INT4) => Kind::Int4,
        (T::FLOAT16 | T::BF16, T::INT8 | T::INT4) => Kind::Antiquant,
        (x @ (T::FLOAT | T::FLOAT16 | T::BF16), weight) if x == weight => Kind::Float,
        _ => return None,
    })
}

/// Whether the accumulators themselves are asked for: then no scale is looked at.
pub(super) fn gives_sums(call: &Call<'_>) -> bool {
    kind(call) == Some(Kind::Int8) && out(call).first().is_some_and(|out| out.dtype == T::INT32)
}

const BIAS: usize = 2;
const SCALE: usize = 3;
const OFFSET: usize = 4;
const ANTIQUANT_SCALE: usize = 5;
const ANTIQUANT_OFFSET: usize = 6;

/// The part of K that a row of scales is for, of int8 by int4.
const MSD_GROUP: i64 = 256;
/// The largest K of int8 by int4 with more than one such part.
const MSD_MAX_K: i64 = 18432;
/// What N of int4 weights of an integer x is a multiple of.
const INT4_N: i64 = 8;

/// Of signatures whose quantised products are not carried.
pub(super) const FLOAT_ONLY: &[Rule] =
    &[Rule::not_carried("quantised", "x and weight of one dtype, fp32, fp16 or bf16", |call| {
        let (Some(x), Some(weight)) = (x(call).first(), weight(call).first()) else { return Ok(()) };
        require(kind(call).is_none_or(|kind| kind == Kind::Float), || {
            format!("x of {:?} and weight of {:?}", x.dtype, weight.dtype)
        })
    })];

/// Of every signature.
pub(super) const PARAMS: Rule = Rule::new(
    "quant-params",
    "scales and offsets are null without quantisation; int8 operands have a scale and may have one per token, int4 \
     operands the same without a bias, integer weights of a float x an antiquant scale and offset, which one int4 weight \
     may lack",
    quant_params,
);

/// Of signatures that carry quantised products.
pub(super) const QUANTISED: &[Rule] = &[
    Rule::new("msd-params", "int8 x with int4 weights has a bias, a scale and one per token, and no antiquant scale", |call| {
        let per_token = Places::in_call(call).per_token_scale;
        let missing = [BIAS, SCALE, per_token].into_iter().any(|index| call.is_absent(index));
        let foreign = [ANTIQUANT_SCALE, ANTIQUANT_OFFSET].into_iter().any(|index| !call.is_absent(index));
        require(kind(call) != Some(Kind::Msd) || !(missing || foreign), || {
            if missing { "a null bias or scale" } else { "an antiquant scale or offset" }.to_owned()
        })
    })
    .with_code(aclnnStatus::ERR_INNER_NULLPTR),
    Rule::dtype(
        "scale-dtype",
        "int8 operands: bf16 scales for a bf16 output, fp32 for fp16, uint64 or int64 for int8 without one per token; int4 \
         weights of an integer x: uint64 or int64; offsets and scales per token fp32; antiquant scales and offsets of x's dtype",
        scale_dtypes,
    ),
    Rule::new(
        "scale-shape",
        "scales are [E, N] for one weight [E, K, N], else one [N] per weight; for int4 weights also [E, G, N] or [G, N] with \
         G dividing K, evenly sized where x is int4 or the weight transposed; offsets are as their scales",
        scale_shapes,
    ),
    Rule::new("per-token-shape", "one scale per token [M], where there is one x and one output", |call| {
        let scales = optional(call, Places::in_call(call).per_token_scale);
        let (Some(scale), Some(x)) = (scales.first(), x(call).first()) else { return Ok(()) };
        let legal = match kind(call) {
            _ if gives_sums(call) => true,
            Some(Kind::Int8 | Kind::Int4) => *scale.shape == [x.dim(0)],
            Some(Kind::Msd) if !call.is_absent(OFFSET) => *scale.shape == [x.dim(0), 1],
            Some(Kind::Msd) => *scale.shape == [x.dim(0)] || *scale.shape == [x.dim(0), 1],
            _ => true,
        };
        let single = scales.len() == 1 && self::x(call).len() == 1 && out(call).len() == 1;
        require(legal && (single || gives_sums(call)), || {
            format!("{} scales, the first of shape {}, for x of shape {}", scales.len(), scale.shape, x.shape)
        })
    }),
    Rule::new(
        "msd-shape",
        "int8 x with int4 weights: scale is [E, G, N] with G = 1 or, for K of at most 18432, K / 256; with an offset scale and \
         offset are [E, 1, N]",
        msd_shapes,
    )
    .with_code(aclnnStatus::ERR_INNER_NULLPTR),
    Rule::new("quantised-groups", "quantised products have no K groups; int4 weights of an integer x have one x, one weight and \
        one output in groups of rows", |call| {
        let groups = grouping(call);
        let single = x(call).len() == 1 && weight(call).len() == 1 && out(call).len() == 1;
        let legal = match kind(call) {
            None | Some(Kind::Float) => true,
            Some(Kind::Int8 | Kind::Antiquant) => groups != K_GROUPS,
            Some(Kind::Msd | Kind::Int4) => groups == ROW_GROUPS && single,
        };
        require(legal, || format!("groupType {groups} with {} x and {} weights", x(call).len(), weight(call).len()))
    }),
    Rule::new(
        "int4-transposed",
        "int4 weights of an integer x are not transposed, but for FRACTAL_NZ ones of an int4 x",
        |call| {
            let (true, Some(weight)) = (multiplies_int4(call), weight(call).first()) else { return Ok(()) };
            let may = kind(call) == Some(Kind::Int4) && packed(call).next().is_some();
            require(may || !weight.is_transposed(), || format!("weight with strides {}", weight.strides))
        },
    )
    .with_code(aclnnStatus::ERR_INNER_NULLPTR),
    Rule::not_carried("int4-layout", "x of int4 is contiguous, int4 weights too or with their last two dimensions swapped", |call| {
        let dense = |tensor: &TensorDesc| tensor.is_contiguous();
        let int4 = |list: List<'_>, legal: fn(&TensorDesc) -> bool| {
            list.iter().filter(|tensor| tensor.dtype == T::INT4).try_for_each(|tensor| {
                require(legal(&tensor), || format!("int4 of shape {} with strides {}", tensor.shape, tensor.strides))
            })
        };
        int4(x(call), dense)?;
        int4(weight(call), |weight| weight.is_contiguous() || weight.is_transposed())
    }),
    Rule::not_carried(
        "msd-list",
        "groupListType 1 with int8 x and int4 weights: CANN takes every list for one of sizes",
        |call| {
            let counts = list_length(call).is_none() || list_type(call) == 1;
            require(kind(call) != Some(Kind::Msd) || counts, || format!("groupListType {}", list_type(call)))
        },
    ),
    Rule::not_carried("act-quantised", "actType 0 for int4 weights, and for int8 or int32 outputs of int8 operands", |call| {
        let act = call.int(Places::in_call(call).act_type);
        let floats = out(call).first().is_none_or(|out| matches!(out.dtype, T::FLOAT16 | T::BF16));
        let plain = multiplies_int4(call) || (kind(call) == Some(Kind::Int8) && !floats);
        require(!plain || act == 0, || format!("actType {act}"))
    }),
];

/// Of those that take other weights than FRACTAL_NZ ones.
pub(super) const ROW_MAJOR: &[Rule] = &[
    Rule::new("int4-even", "the dimension of int4 weights that is innermost in memory is even", |call| {
        weight(call).iter().filter(|weight| weight.dtype == T::INT4).try_for_each(|weight| {
            let inner = if weight.is_transposed() { -2 } else { -1 };
            require(weight.dim(inner) % 2 == 0, || format!("int4 weight of shape {}", weight.shape))
        })
    }),
    Rule::new("int4-n", "N of int4 weights of an integer x is a multiple of 8", |call| {
        let (true, Some(weight)) = (multiplies_int4(call), weight(call).first()) else { return Ok(()) };
        require(weight.dim(-1) % INT4_N == 0, || format!("N = {}", weight.dim(-1)))
    }),
];

/// Of signatures with a tuning hint.
pub(super) const TUNED: &[Rule] = &[Rule::not_carried(
    "msd-tuning",
    "int4 weights of int8 x are packed as [E, K, N]: the second tuning value is 0",
    |call| {
        let layout = call.ints(Places::in_call(call).tuning).and_then(|hint| hint.get(1)).copied().unwrap_or(0);
        require(kind(call) != Some(Kind::Msd) || layout != 1, || format!("a second tuning value of {layout}"))
    },
)];

/// Whether int4 weights are multiplied with integers.
fn multiplies_int4(call: &Call<'_>) -> bool {
    matches!(kind(call), Some(Kind::Msd | Kind::Int4))
}

fn quant_params(call: &Call<'_>) -> Checked {
    let per_token = Places::in_call(call).per_token_scale;
    let single_int4 = weight(call).len() == 1 && weight(call).first().is_some_and(|weight| weight.dtype == T::INT4);
    let (due, none): (&[usize], &[usize]) = match kind(call) {
        None | Some(Kind::Float) => (&[], &[SCALE, OFFSET, ANTIQUANT_SCALE, ANTIQUANT_OFFSET, per_token]),
        Some(Kind::Int8) if gives_sums(call) => (&[], &[]),
        Some(Kind::Int8) => (&[SCALE], &[OFFSET, ANTIQUANT_SCALE, ANTIQUANT_OFFSET]),
        Some(Kind::Msd) => (&[], &[]),
        Some(Kind::Int4) => (&[SCALE], &[BIAS, OFFSET, ANTIQUANT_SCALE, ANTIQUANT_OFFSET]),
        Some(Kind::Antiquant) if single_int4 => (&[ANTIQUANT_SCALE], &[SCALE, OFFSET, per_token]),
        Some(Kind::Antiquant) => (&[ANTIQUANT_SCALE, ANTIQUANT_OFFSET], &[SCALE, OFFSET, per_token]),
    };
    require(!none.iter().any(|&index| !call.is_absent(index)), || "a scale, an offset or a bias".to_owned())?;
    require(!due.iter().any(|&index| call.is_absent(index)), || "a null scale or offset".to_owned())
}

fn scale_dtypes(call: &Call<'_>) -> Checked {
    let all = |index: usize, legal: &[T]| {
        optional(call, index).iter().try_for_each(|scale| {
            require(legal.contains(&scale.dtype), || format!("a scale or offset of {:?}", scale.dtype))
        })
    };
    let per_token = Places::in_call(call).per_token_scale;
    let Some(x) = x(call).first() else { return Ok(()) };
    match kind(call) {
        None | Some(Kind::Float) => return Ok(()),
        Some(Kind::Int8) if gives_sums(call) => return Ok(()),
        Some(Kind::Int8) => {
            let legal: &[T] = match out(call).first().map(|out| out.dtype) {
                Some(T::BF16) => &[T::BF16],
                Some(T::FLOAT16) => &[T::FLOAT],
                Some(T::INT8) if call.is_absent(per_token) => &[T::UINT64, T::INT64],
                _ => &[],
            };
            all(SCALE, legal)?;
        }
        Some(Kind::Msd | Kind::Int4) => all(SCALE, &[T::UINT64, T::INT64])?,
        Some(Kind::Antiquant) => {
            all(ANTIQUANT_SCALE, &[x.dtype])?;
            all(ANTIQUANT_OFFSET, &[x.dtype])?;
        }
    }
    all(OFFSET, &[T::FLOAT])?;
    all(per_token, &[T::FLOAT])
}

fn scale_shapes(call: &Call<'_>) -> Checked {
    let (scale, offset, parts) = match kind(call) {
        Some(Kind::Int8) if !gives_sums(call) => (SCALE, OFFSET, false),
        Some(Kind::Int4) => (SCALE, OFFSET, true),
        Some(Kind::Antiquant) => {
            let int4 = weight(call).first().is_some_and(|weight| weight.dtype == T::INT4);
            (ANTIQUANT_SCALE, ANTIQUANT_OFFSET, int4)
        }
        _ => return Ok(()),
    };
    let (scales, offsets, weights) = (optional(call, scale), optional(call, offset), weight(call));
    let due = weights.len();
    for (list, given) in [(scales, scales.len()), (offsets, offsets.len())] {
        require(given == 0 || (given == due && list.iter().count() == due), || {
            format!("{given} scales or offsets for {due} weights")
        })?;
    }
    let entries = list_length(call);
    let even = |weight: &TensorDesc| kind(call) == Some(Kind::Int4) || weight.is_transposed();
    pair(scales, weights).try_for_each(|(scale, weight)| {
        let (lead, own) = scale.shape.split_at(usize::from(weight.rank() == 3).min(scale.rank()));
        let (n, k) = (weight.dim(-1), weight.dim(-2));
        let stacked =
            weight.rank() != 3 || (lead == [weight.dim(0)] && entries.is_none_or(|entries| lead == [entries]));
        let legal = match *own {
            [columns] => columns == n,
            [groups, columns] if parts => {
                columns == n && groups > 0 && k % groups == 0 && (!even(&weight) || (k / groups) % 2 == 0)
            }
            _ => false,
        };
        require(stacked && legal, || format!("scale of shape {} for weight of shape {}", scale.shape, weight.shape))
    })?;
    pair(offsets, scales).try_for_each(|(offset, scale)| {
        require(offset.shape == scale.shape, || {
            format!("offset of shape {} for scale of shape {}", offset.shape, scale.shape)
        })
    })
}

fn msd_shapes(call: &Call<'_>) -> Checked {
    let (Some(Kind::Msd), Some(weight)) = (kind(call), weight(call).first()) else { return Ok(()) };
    let (experts, k, n) = (weight.dim(0), weight.dim(-2), weight.dim(-1));
    let offset = optional(call, OFFSET);
    optional(call, SCALE).iter().try_for_each(|scale| {
        let groups = scale.dim(1);
        let parts = groups == 1 || (groups.saturating_mul(MSD_GROUP) == k && k <= MSD_MAX_K && offset.is_empty());
        require(*scale.shape == [experts, groups, n] && parts, || {
            format!("scale of shape {} for weight of shape {}", scale.shape, weight.shape)
        })
    })?;
    offset.iter().try_for_each(|offset| {
        require(*offset.shape == [experts, 1, n], || format!("offset of shape {}", offset.shape))
    })
}
