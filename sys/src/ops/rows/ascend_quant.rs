//! Rows of the operators that quantise by scales that are given.

use super::check::{FLOATS, axis, require, same_dtype, same_shape};
use super::dynamic_quant::{QUANTISED, int4, y_shape};
use crate::constants::aclDataType;
use crate::info::OperatorId;
use crate::ops::rule::{Call, Codes, OpRow, Param, Rule};

const X: usize = 0;
const SCALE: usize = 1;
const OFFSET: usize = 2;
const ROUND_MODE: usize = 4;
const DST_TYPE: usize = 5;

/// Position of the axis of `aclnnAscendQuantV3`.
const AXIS: usize = 6;

const SCALE_DTYPE: Rule =
    Rule::dtype("scale-dtype", "scale has the dtype of x where x is fp16 or bf16", |call| match call.tensor(X) {
        Some(x) if x.dtype != aclDataType::FLOAT => same_dtype(call, ("scale", SCALE), ("x", X)),
        _ => Ok(()),
    });

const OFFSET_DTYPE: Rule = Rule::dtype("offset-dtype", "offset has the dtype of scale", |call| {
    same_dtype(call, ("offset", OFFSET), ("scale", SCALE))
});

const ROUND: Rule = Rule::new("round-mode", "roundMode is \"round\", \"floor\", \"ceil\" or \"trunc\"", |call| {
    let mode = call.text(ROUND_MODE);
    require(matches!(mode, Some("round" | "floor" | "ceil" | "trunc")), || format!("roundMode {mode:?}"))
});

const fn dst_type<const Y: usize>() -> Rule {
    Rule::new("dst-type", "dstType is that of y: 2 (int8), 3 (int32) or 29 (int4)", |call| {
        let (dst, y) = (call.int(DST_TYPE), call.tensor(Y).map(|y| i64::from(y.dtype.0)));
        require(y.is_none_or(|y| y == dst), || format!("dstType {dst}"))
    })
}

const fn int4_rule<const Y: usize>() -> Rule {
    Rule::new("int4", "y of int4 has an even last dimension, is contiguous and starts at an even element", int4::<Y>)
}

const fn y_rule<const Y: usize>() -> Rule {
    Rule::new("y-shape", "y has the shape of x; as int32 an eighth of its last dimension", y_shape::<Y>)
}

/// `aclnnAscendQuant`: `y = round(x * scale + offset)`, with sqrtMode `x * scale * scale`.
///
/// * `x`: device, fp32, fp16 or bf16, `[.., H]`, 1 to 8 dimensions, any strides.
/// * `scale`: device, dtype of x, for fp32 any of the three, `[H]` or `[1]`, dimensions of 1 before it.
/// * `offset`: device, dtype of scale, as many; may be null.
/// * `roundMode`: "round" (to nearest, ties to even), "floor", "ceil" or "trunc".
/// * `dstType`: 2, 3 or 29, that of y.
/// * `y`: device, int8 or int4 of the shape of x, or int32 `[.., H / 8]` that carry eight int4 each.
pub(super) static ASCEND_QUANT: OpRow = OpRow {
    operator: OperatorId::AscendQuant,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("x", FLOATS).rank(1, 8),
        Param::input("scale", FLOATS).rank(1, 8),
        Param::input("offset", FLOATS).rank(1, 8).optional(),
        Param::value("sqrtMode"),
        Param::value("roundMode"),
        Param::value("dstType"),
        Param::output("y", QUANTISED).rank(1, 8),
    ],
    rules: &[
        OFFSET_DTYPE,
        SCALE_DTYPE,
        dst_type::<6>(),
        y_rule::<6>(),
        int4_rule::<6>(),
        Rule::new("offset-shape", "offset is [H] or [1] as scale is, dimensions of 1 before it", |call| {
            let (Some(scale), Some(offset)) = (call.tensor(SCALE), call.tensor(OFFSET)) else { return Ok(()) };
            let rank = call.tensor(X).map_or(8, |x| x.rank());
            require(lies_last(&offset.shape) && scale.dim(-1) == offset.dim(-1) && offset.rank() <= rank, || {
                format!("offset of shape {} and scale of shape {}", offset.shape, scale.shape)
            })
        }),
        Rule::new("scale-shape", "scale is [H] or [1], dimensions of 1 before it", |call| {
            let (Some(x), Some(scale)) = (call.tensor(X), call.tensor(SCALE)) else { return Ok(()) };
            let fits = scale.dim(-1) == x.dim(-1) || scale.dim(-1) == 1;
            require(fits && lies_last(&scale.shape) && scale.rank() <= x.rank(), || {
                format!("scale of shape {} for x of shape {}", scale.shape, x.shape)
            })
        }),
        ROUND,
    ],
    source: "ops-nn 9.1.0, quant/ascend_quant_v2 (docs, op_host/op_api, op_kernel)",
    doubtful: "Tiling was not read. The code of strided y of int4 was not seen. x without dimensions is refused here.",
};

/// All dimensions but the last are 1.
fn lies_last(shape: &[i64]) -> bool {
    shape.split_last().is_some_and(|(_, lead)| lead.iter().all(|&dim| dim == 1))
}

/// `aclnnAscendQuantV3`: the same with scales along one of the last two dimensions.
///
/// Parameters as for [`ASCEND_QUANT`], and:
/// * `scale`: one dimension, of that of x at axis or 1; or as many as x has, all 1 but that at axis.
/// * `offset`: shape of scale.
/// * `axis`: one of the last two dimensions of x, counted from the end where negative.
pub(super) static ASCEND_QUANT_V3: OpRow = OpRow {
    operator: OperatorId::AscendQuantV3,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("x", FLOATS).rank(1, 8),
        Param::input("scale", FLOATS).rank(1, 8),
        Param::input("offset", FLOATS).rank(1, 8).optional(),
        Param::value("sqrtMode"),
        Param::value("roundMode"),
        Param::value("dstType"),
        Param::value("axis"),
        Param::output("y", QUANTISED).rank(1, 8),
    ],
    rules: &[
        OFFSET_DTYPE,
        SCALE_DTYPE,
        dst_type::<7>(),
        Rule::new("axis", "axis is one of the last two dimensions of x", |call| {
            let last_two = axis(call, X, call.int(AXIS)).zip(call.tensor(X)).is_some_and(|(at, x)| at + 2 >= x.rank());
            require(last_two || call.tensor(X).is_none(), || format!("axis {}", call.int(AXIS)))
        }),
        y_rule::<7>(),
        int4_rule::<7>(),
        Rule::new("offset-shape", "offset has the shape of scale", same_shape::<SCALE, OFFSET>),
        Rule::new(
            "scale-shape",
            "scale is [n] or [1], n being dimension axis of x, or so at axis and 1 elsewhere",
            |call| {
                let (Some(x), Some(scale), Some(at)) = (call.tensor(X), call.tensor(SCALE), given_axis(call)) else {
                    return Ok(());
                };
                let own = if scale.rank() == 1 { 0 } else { at };
                let count = scale.shape.get(own).copied().unwrap_or(0);
                let legal = (scale.rank() == 1 || scale.rank() == x.rank())
                    && (count == 1 || x.shape.get(at) == Some(&count))
                    && scale.elements() == u64::try_from(count).ok();
                require(legal, || format!("scale of shape {} for dimension {at} of {}", scale.shape, x.shape))
            },
        ),
        ROUND,
    ],
    source: "ops-nn 9.1.0, quant/ascend_quant_v2 (docs, op_host/op_api, op_kernel)",
    doubtful: "Tiling was not read. The code of strided y of int4 was not seen. The check for x without dimensions comes \
               before that for null in the source.",
};

fn given_axis(call: &Call<'_>) -> Option<usize> {
    axis(call, X, call.int(AXIS))
}
