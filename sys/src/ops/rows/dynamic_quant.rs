//! Rows of the operators that quantise rows, each with a scale of its own.

use super::check::{Checked, F32, I32, dim, require, same_dtype, shape_is};
use crate::constants::{aclDataType, aclnnStatus};
use crate::info::OperatorId;
use crate::ops::desc::{Dims, TensorDesc};
use crate::ops::rule::{Call, Codes, OpRow, Param, Rule};

/// 16-bit floats.
pub(super) const HALVES: &[aclDataType] = &[aclDataType::FLOAT16, aclDataType::BF16];

/// int8, and int4 as such or eight to an int32.
pub(super) const QUANTISED: &[aclDataType] = &[aclDataType::INT4, aclDataType::INT8, aclDataType::INT32];

/// int32, and int64, which the API lets pass and tiling refuses.
const GROUP_INDEX: &[aclDataType] = &[aclDataType::INT32, aclDataType::INT64];

/// The most groups.
const MAX_GROUPS: i64 = 1024;

/// Numbers of int4 in an int32.
const INT4_IN_INT32: i64 = 8;

const X: usize = 0;
const SMOOTH: usize = 1;

/// A parameter that an operator does not have.
const NONE: usize = usize::MAX;

/// Positions of the parameters of `aclnnDynamicQuantV2`.
mod second {
    pub(super) const GROUPS: usize = 2;
    pub(super) const Y: usize = 4;
    pub(super) const SCALE: usize = 5;
    pub(super) const OFFSET: usize = 6;
}

const SMOOTH_DTYPE: Rule = Rule::dtype("smooth-dtype", "smoothScales has the dtype of x", |call| {
    same_dtype(call, ("smoothScales", SMOOTH), ("x", X))
});

/// `aclnnDynamicQuant`: quantises each row of x, times smoothScales, to its greatest magnitude.
///
/// * `x`: device, fp16 or bf16, `[.., H]`, 2 to 8 dimensions, any strides.
/// * `smoothScalesOptional`: device, dtype of x, `[H]`.
/// * `yOut`: device, int8 or int4 of the shape of x, or int32 `[.., H / 8]` that carry eight int4 each.
/// * `scaleOut`: device, fp32, `[..]`: what y is to be multiplied by.
pub(super) static DYNAMIC_QUANT: OpRow = OpRow {
    operator: OperatorId::DynamicQuant,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("x", HALVES).rank(2, 8),
        Param::input("smoothScalesOptional", HALVES).rank(1, 1).optional(),
        Param::output("yOut", QUANTISED).rank(2, 8),
        Param::output("scaleOut", F32).rank(1, 7),
    ],
    rules: &[
        SMOOTH_DTYPE,
        Rule::new("smooth-shape", "smoothScales is [H]", smooth_shape::<NONE>),
        Rule::new("y-shape", Y_SHAPE, y_shape::<2>),
        Rule::new("int4", INT4, int4::<2>),
        Rule::new("scale-shape", SCALE_SHAPE, without_last_dim::<3>),
    ],
    source: "ops-nn 9.1.0, quant/dynamic_quant (docs, op_host/op_api, tiling)",
    doubtful: DOUBTFUL,
};

/// `aclnnDynamicQuantV2`: the same, with factors of its own for each group of rows, and with an offset where offsetOut
/// is given: then from the least to the greatest value of the row.
///
/// * `x`, `yOut`, `scaleOut`: as for `aclnnDynamicQuant`.
/// * `smoothScalesOptional`: device, dtype of x, `[H]`, with groupIndex `[G, H]`, G <= 1024.
/// * `groupIndexOptional`: device, int32, `[G]`: the ends of the groups of rows, the last one that of x.
/// * `dstType`: 2 (int8), 29 (int4) or 3 (int32); the dtype of y is what counts.
/// * `offsetOut`: device, fp32, shape of scaleOut; may be null.
pub(super) static DYNAMIC_QUANT_V2: OpRow = OpRow {
    operator: OperatorId::DynamicQuantV2,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("x", HALVES).rank(2, 8),
        Param::input("smoothScalesOptional", HALVES).rank(1, 2).optional(),
        Param::input("groupIndexOptional", GROUP_INDEX).rank(1, 1).optional(),
        Param::value("dstType"),
        Param::output("yOut", QUANTISED).rank(2, 8),
        Param::output("scaleOut", F32).rank(1, 7),
        Param::output("offsetOut", F32).rank(1, 7).optional(),
    ],
    rules: &[
        SMOOTH_DTYPE,
        Rule::new("smooth-shape", "without groupIndex smoothScales is [H]", smooth_shape::<{ second::GROUPS }>),
        Rule::new("y-shape", Y_SHAPE, y_shape::<{ second::Y }>),
        Rule::new("int4", INT4, int4::<{ second::Y }>),
        Rule::new("scale-shape", SCALE_SHAPE, without_last_dim::<{ second::SCALE }>),
        Rule::new("offset-shape", "offset has the shape of scale", without_last_dim::<{ second::OFFSET }>),
        Rule::dtype("group-dtype", "groupIndex is int32", |call| match smoothed_groups(call) {
            Some((_, groups)) => require(I32.contains(&groups.dtype), || format!("groupIndex of {:?}", groups.dtype)),
            None => Ok(()),
        })
        .with_code(aclnnStatus::ERR_INNER_NULLPTR),
        Rule::new("groups", "with groupIndex smoothScales is [G, H], G at most 1024", |call| {
            match smoothed_groups(call) {
                Some((smooth, groups)) => {
                    let count = groups.dim(0);
                    require(count <= MAX_GROUPS && *smooth.shape == [count, dim(call, X, -1)], || {
                        format!("smoothScales of shape {} and {count} groups", smooth.shape)
                    })
                }
                None => Ok(()),
            }
        })
        .with_code(aclnnStatus::ERR_INNER_NULLPTR),
    ],
    source: "ops-nn 9.1.0, quant/dynamic_quant_v2 (docs), quant/dynamic_quant (op_host/op_api, tiling, op_kernel)",
    doubtful: DOUBTFUL,
};

/// `aclnnDynamicQuantV4`: for Ascend 950 alone. On Atlas A3 the symbol is there from 9.1.0 on and refuses every call.
pub(super) static DYNAMIC_QUANT_V4: OpRow = OpRow {
    operator: OperatorId::DynamicQuantV4,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("x", HALVES).rank(2, 8),
        Param::input("smoothScalesOptional", HALVES).rank(1, 2).optional(),
        Param::input("groupIndexOptional", GROUP_INDEX).rank(1, 1).optional(),
        Param::value("dstType"),
        Param::value("isSymmetrical"),
        Param::value("quantMode"),
        Param::value("dstTypeMax"),
        Param::output("yOut", QUANTISED).rank(2, 8),
        Param::output("scaleOut", F32).rank(1, 7),
        Param::output("offsetOut", F32).rank(1, 7).optional(),
    ],
    rules: &[Rule::new("chip", "aclnnDynamicQuantV2 on Atlas A3", |_| Err("a call on Atlas A3".to_owned()))
        .with_code(aclnnStatus::ERR_INNER)],
    source: "ops-nn 9.1.0, quant/dynamic_quant (docs/aclnnDynamicQuantV4, op_host/op_api)",
    doubtful: "CANN refuses before it looks at the parameters; limits of theirs, those of aclnnDynamicQuantV2, come first \
               here. That the check is in 9.1.0 was read in a later source.",
};

const Y_SHAPE: &str = "y has the shape of x; as int32 an eighth of its last dimension";
const INT4: &str = "y of int4 has an even last dimension, is contiguous and starts at an even element";
const SCALE_SHAPE: &str = "scale has the shape of x without its last dimension";
const DOUBTFUL: &str = "The document wants dstType to be that of y; the API does not look at it. It forbids strided y of \
                        int4, whose code was not seen. groupIndex without smoothScales does nothing in the source. \
                        What rows of zeros become, 127 / 0 * 0 in the source, and rows with infinities, was not \
                        verified: zeros here, with scale 0 for rows of zeros. The scale is m * (1 / 127) in the kernel \
                        for rows of 128 to 12800 elements (16320 without smoothScales) that are a multiple of 8, and \
                        1 / (127 / m) in the others: as read, not seen on a device.";

/// Tensor `Y` of int8 or int4 has the shape of x; as int32 it has an eighth of its last dimension.
pub(super) fn y_shape<const Y: usize>(call: &Call<'_>) -> Checked {
    let (Some(x), Some(y)) = (call.tensor(X), call.tensor(Y)) else { return Ok(()) };
    let each = if y.dtype == aclDataType::INT32 { INT4_IN_INT32 } else { 1 };
    let fits = match (&*x.shape, &*y.shape) {
        ([lead @ .., width], [y_lead @ .., y_width]) => lead == y_lead && y_width.checked_mul(each) == Some(*width),
        (x, y) => x == y,
    };
    require(fits, || format!("y {y} where x is of shape {}", x.shape))
}

/// Tensor `Y`, where it is of int4, fills whole bytes.
pub(super) fn int4<const Y: usize>(call: &Call<'_>) -> Checked {
    match call.tensor(Y).filter(|y| y.dtype == aclDataType::INT4) {
        Some(y) => require(y.dim(-1) % 2 == 0 && y.is_contiguous() && y.offset % 2 == 0, || {
            format!("y of shape {} with strides {} from element {}", y.shape, y.strides, y.offset)
        }),
        None => Ok(()),
    }
}

/// Tensor `OUT`, where it is there, has the shape of x without its last dimension.
pub(super) fn without_last_dim<const OUT: usize>(call: &Call<'_>) -> Checked {
    let Some(x) = call.tensor(X) else { return Ok(()) };
    let lead = x.shape.len().saturating_sub(1);
    let Some(due) = Dims::new(&x.shape[..lead]) else { return Ok(()) };
    shape_is(call, "an output", OUT, &due)
}

/// smoothScales, where there are no groups.
fn smooth_shape<const GROUPS: usize>(call: &Call<'_>) -> Checked {
    match call.tensor(GROUPS) {
        Some(_) => Ok(()),
        None => shape_is(call, "smoothScales", SMOOTH, &[dim(call, X, -1)]),
    }
}

/// smoothScales and groupIndex, where both are there and x has elements: tiling sees no other call.
fn smoothed_groups<'a>(call: &Call<'a>) -> Option<(&'a TensorDesc, &'a TensorDesc)> {
    let some = call.tensor(X).is_some_and(|x| !x.is_empty());
    call.tensor(SMOOTH).zip(call.tensor(second::GROUPS)).filter(|_| some)
}
