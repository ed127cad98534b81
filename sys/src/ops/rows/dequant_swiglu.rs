//! Rows of the operators between the two products of a quantised expert.

use super::check::{Checked, F32, I64, dim, joined, require};
use super::dynamic_quant::without_last_dim;
use super::swi_glu_quant::half_of_x;
use crate::constants::aclDataType;
use crate::info::OperatorId;
use crate::ops::desc::{Dims, TensorDesc};
use crate::ops::rule::{Call, Codes, Layout, OpRow, Param, Rule};

const ROWS: &[aclDataType] = &[aclDataType::FLOAT16, aclDataType::BF16, aclDataType::INT32];
const BIAS: &[aclDataType] = &[aclDataType::FLOAT, aclDataType::FLOAT16, aclDataType::BF16, aclDataType::INT32];
const I8: &[aclDataType] = &[aclDataType::INT8];

/// What the width of x is a multiple of, and the most it is, with groups.
const GROUPED_WIDTHS: (i64, i64) = (64, 7232);

/// Positions of the parameters that both versions have.
const X: usize = 0;
const WEIGHT_SCALE: usize = 1;
const ACTIVATION_SCALE: usize = 2;
const BIASES: usize = 3;
const QUANT_SCALE: usize = 4;
const QUANT_OFFSET: usize = 5;
const GROUP_INDEX: usize = 6;
const ACTIVATE_LEFT: usize = 7;
const QUANT_MODE: usize = 8;

/// Positions of the parameters of `aclnnDequantSwigluQuantV2` behind them.
mod second {
    pub(super) const DST_TYPE: usize = 9;
    pub(super) const ROUND_MODE: usize = 10;
    pub(super) const ACTIVATE_DIM: usize = 11;
    pub(super) const SWIGLU_MODE: usize = 12;
    pub(super) const CLAMP_LIMIT: usize = 13;
    pub(super) const Y: usize = 16;
    pub(super) const SCALE: usize = 17;
}

/// `swigluMode` of the even and the odd columns, with limits.
const INTERLEAVED: i64 = 1;

/// What both versions take first.
const fn inputs() -> [Param; 9] {
    [
        Param::input("x", ROWS).rank(2, 8).layout(Layout::Contiguous),
        Param::input("weightScaleOptional", F32).rank(1, 2).layout(Layout::Contiguous).optional(),
        Param::input("activationScaleOptional", F32).rank(1, 8).layout(Layout::Contiguous).optional(),
        Param::input("biasOptional", BIAS).rank(1, 2).layout(Layout::Contiguous).optional(),
        Param::input("quantScaleOptional", F32).rank(1, 2).layout(Layout::Contiguous).optional(),
        Param::input("quantOffsetOptional", F32).rank(1, 2).layout(Layout::Contiguous).optional(),
        Param::input("groupIndexOptional", I64).rank(1, 2).layout(Layout::Contiguous).optional(),
        Param::value("activateLeft"),
        Param::value("quantModeOptional"),
    ]
}

const fn y_out() -> Param {
    Param::output("yOut", I8).rank(2, 8).layout(Layout::Contiguous)
}

const fn scale_out() -> Param {
    Param::output("scaleOut", F32).rank(1, 7).layout(Layout::Contiguous)
}

/// The rules of both versions, whose swigluMode is at `MODE` and whose outputs are at `Y` and `SCALE`.
const fn rules<const MODE: usize, const Y: usize, const SCALE: usize>() -> [Rule; 15] {
    [
        Rule::new("empty", "x has elements", |call| match call.tensor(X) {
            Some(x) => require(!x.is_empty(), || format!("x of shape {}", x.shape)),
            None => Ok(()),
        }),
        Rule::new("even", "the last dimension of x is even", |call| {
            require(dim(call, X, -1) % 2 == 0, || format!("{} columns", dim(call, X, -1)))
        }),
        Rule::new("quant-mode", "quantMode is \"dynamic\", \"static\" or null, which is \"static\"", |call| {
            let mode = call.text(QUANT_MODE).unwrap_or("static");
            require(matches!(mode, "static" | "dynamic"), || format!("quantMode {mode:?}"))
        }),
        Rule::new("group-x", "with groupIndex x is [M, 2H] of int32 or bf16", |call| match grouped(call) {
            Some((x, _)) => {
                require(x.rank() == 2 && x.dtype != aclDataType::FLOAT16, || format!("x {x} with groupIndex"))
            }
            None => Ok(()),
        }),
        Rule::new("group-width", "with groupIndex 2H is a multiple of 64 and at most 7232", |call| {
            let ((multiple, most), width) = (GROUPED_WIDTHS, dim(call, X, -1));
            require(grouped(call).is_none() || (width % multiple == 0 && width <= most), || format!("{width} columns"))
        }),
        Rule::new(
            "group-index",
            "groupIndex is [G], G at least 1, or [G, 2] with int32 x, no bias and swigluMode 0",
            |call| match grouped(call) {
                Some((x, groups)) => {
                    let pairs = groups.rank() == 2
                        && groups.dim(1) == 2
                        && x.dtype == aclDataType::INT32
                        && call.tensor(BIASES).is_none()
                        && call.int(MODE) == 0;
                    require(groups.dim(0) >= 1 && (groups.rank() == 1 || pairs), || {
                        format!("groupIndex of shape {}", groups.shape)
                    })
                }
                None => Ok(()),
            },
        ),
        Rule::new("dequant-operands", "int32 x has weightScale, other x neither scale nor bias", |call| {
            let Some(x) = call.tensor(X) else { return Ok(()) };
            let given = |index| call.tensor(index).is_some();
            let legal = match x.dtype {
                aclDataType::INT32 => given(WEIGHT_SCALE),
                _ => ![WEIGHT_SCALE, ACTIVATION_SCALE, BIASES].into_iter().any(given),
            };
            require(legal, || format!("x of {:?}", x.dtype))
        }),
        Rule::new("weight-scale-shape", "weightScale is [G, 2H]; of one group, or without groups, also [2H]", |call| {
            of_groups(call, "weightScale", WEIGHT_SCALE, dim(call, X, -1))
        }),
        Rule::new("bias-shape", "bias is [G, 2H]; of one group, or without groups, also [2H]", |call| {
            of_groups(call, "bias", BIASES, dim(call, X, -1))
        }),
        Rule::new("activation-scale-shape", "activationScale has one value for each row of x", |call| {
            match (call.tensor(X), call.tensor(ACTIVATION_SCALE)) {
                (Some(x), Some(scale)) => require(scale.elements() == lead(x).and_then(|lead| lead.elements()), || {
                    format!("activationScale of shape {} for x of shape {}", scale.shape, x.shape)
                }),
                _ => Ok(()),
            }
        }),
        Rule::not_carried("static-groups", "quantMode \"static\" with groupIndex", |call| {
            require(is_dynamic(call) || grouped(call).is_some(), || "no groupIndex".to_owned())
        }),
        Rule::new(
            "quant-offset",
            "quantMode \"dynamic\" has no quantOffset, \"static\" has quantScale and quantOffset of one shape",
            |call| {
                let (scale, offset) = (call.tensor(QUANT_SCALE), call.tensor(QUANT_OFFSET));
                let legal = match (is_dynamic(call), scale, offset) {
                    (true, _, offset) => offset.is_none(),
                    (false, Some(scale), Some(offset)) => scale.shape == offset.shape,
                    (false, ..) => false,
                };
                let shape = |tensor: Option<&TensorDesc>| tensor.map_or("none".to_owned(), |t| t.shape.to_string());
                require(legal, || format!("quantScale {} and quantOffset {}", shape(scale), shape(offset)))
            },
        ),
        Rule::new(
            "quant-scale-shape",
            "quantScale is [G, H]; dynamic of one group [H], without groups [H] or [1]; static [G]",
            |call| {
                let Some(scale) = call.tensor(QUANT_SCALE) else { return Ok(()) };
                match (grouped(call), is_dynamic(call)) {
                    (Some((_, groups)), false) if *scale.shape == [groups.dim(0)] => Ok(()),
                    (Some(_), false) if scale.rank() == 1 => Err(format!("quantScale of shape {}", scale.shape)),
                    (None, _) if *scale.shape == [1] => Ok(()),
                    _ => of_groups(call, "quantScale", QUANT_SCALE, dim(call, X, -1) / 2),
                }
            },
        ),
        Rule::new("y-shape", "y has the shape of x with half its last dimension", half_of_x::<Y>),
        Rule::new(
            "scale-shape",
            "with quantMode \"dynamic\" scale has the shape of x without its last dimension",
            |call| {
                if is_dynamic(call) { without_last_dim::<SCALE>(call) } else { Ok(()) }
            },
        ),
    ]
}

/// `aclnnDequantSwigluQuant`: the second version without the choices that it adds.
///
/// Parameters as for [`DEQUANT_SWIGLU_QUANT_V2`].
pub(super) static DEQUANT_SWIGLU_QUANT: OpRow = OpRow {
    operator: OperatorId::DequantSwigluQuant,
    codes: Codes::GENERATED,
    params: &joined::<_, 9, 2, 11>(inputs(), [y_out(), scale_out()]),
    rules: &rules::<{ usize::MAX }, 9, 10>(),
    source: "ops-nn 9.1.0, quant/dequant_swiglu_quant (docs, op_host tiling, op_kernel)",
    doubtful: "The document says Atlas A2, not A3; both have the kernel, and frameworks fall back to this version. Which \
               outputs' shapes are checked was not seen; groupIndex of int32, which the document lists, is not taken by \
               tiling. As for the second version else.",
};

/// `aclnnDequantSwigluQuantV2`: dequantises x, `(x + bias) * weightScale * activationScale + bias` where it is int32,
/// activates it by a gated unit, and quantises.
///
/// * `x`: device, int32, bf16 or, without groups, fp16, `[M, 2H]`, without groups 2 to 8 dimensions.
/// * `weightScaleOptional`: device, fp32, `[G, 2H]`: with int32 x.
/// * `activationScaleOptional`: device, fp32, `[M]`: with int32 x; may be null.
/// * `biasOptional`: device, int32, added to x, or fp32, fp16 or bf16, added behind the scales, `[G, 2H]`; may be null.
/// * `quantScaleOptional`: device, fp32: `[G, H]`, what the activation is multiplied by before the scale of its row is
///   found; static `[G]` or `[G, H]`, what it is divided by.
/// * `quantOffsetOptional`: device, fp32, shape of quantScale: static, added behind the division.
/// * `groupIndexOptional`: device, int64, `[G]` counts, or `[G, 2]` pairs of group and count.
/// * `quantModeOptional`: "dynamic", "static" or null. `roundModeOptional`: "rint" or null.
/// * `swigluMode`: 0, the halves; 1, even and odd columns with clampLimit, gluAlpha and gluBias.
/// * `yOut`: device, int8, `[M, H]`. Rows behind the groups are not written.
/// * `scaleOut`: device, fp32, `[M]`: what y is to be multiplied by; static not written.
pub(super) static DEQUANT_SWIGLU_QUANT_V2: OpRow = OpRow {
    operator: OperatorId::DequantSwigluQuantV2,
    codes: Codes::GENERATED,
    params: &joined::<_, 9, 9, 18>(
        inputs(),
        [
            Param::value("dstType"),
            Param::value("roundModeOptional"),
            Param::value("activateDim"),
            Param::value("swigluMode"),
            Param::value("clampLimit"),
            Param::value("gluAlpha"),
            Param::value("gluBias"),
            y_out(),
            scale_out(),
        ],
    ),
    rules: &joined::<_, 7, 15, 22>(
        [
            Rule::new("dst-type", "dstType is 2 (int8) on Atlas A3", |call| {
                require(call.int(second::DST_TYPE) == 2, || format!("dstType {}", call.int(second::DST_TYPE)))
            }),
            Rule::new("round-mode", "roundMode is \"rint\" or null on Atlas A3", |call| {
                let mode = call.text(second::ROUND_MODE).unwrap_or("rint");
                require(mode == "rint", || format!("roundMode {mode:?}"))
            }),
            Rule::new("activate-dim", "activateDim is -1 on Atlas A3", |call| {
                require(call.int(second::ACTIVATE_DIM) == -1, || format!("{}", call.int(second::ACTIVATE_DIM)))
            }),
            Rule::new("swiglu-mode", "swigluMode is 0 or 1", |call| {
                let mode = call.int(second::SWIGLU_MODE);
                require(matches!(mode, 0 | INTERLEAVED), || format!("swigluMode {mode}"))
            }),
            Rule::new("clamp-limit", "clampLimit is finite and above 0", |call| {
                let limit = call.float(second::CLAMP_LIMIT);
                require(limit.is_finite() && limit > 0.0, || format!("clampLimit {limit}"))
            }),
            Rule::new("interleaved-left", "with swigluMode 1 activateLeft is true", |call| {
                let interleaved = call.int(second::SWIGLU_MODE) == INTERLEAVED;
                require(!interleaved || call.bool(ACTIVATE_LEFT), || "activateLeft false with swigluMode 1".to_owned())
            }),
            Rule::not_carried("interleaved-groups", "swigluMode 1 with groupIndex", |call| {
                let interleaved = call.int(second::SWIGLU_MODE) == INTERLEAVED;
                require(!interleaved || grouped(call).is_some(), || "swigluMode 1 without groupIndex".to_owned())
            }),
        ],
        rules::<{ second::SWIGLU_MODE }, { second::Y }, { second::SCALE }>(),
    ),
    source: "ops-nn 9.1.0, quant/dequant_swiglu_quant (docs, op_host tiling, op_kernel)",
    doubtful: "The document wants groupIndex on Atlas A3; tiling takes a call without, where it ignores swigluMode. dstType, \
               roundMode, activateDim, clampLimit and the shapes of the outputs are the document's rules: tiling for A3 \
               does not look at them. The widest x with groups depends in tiling on what else there is: 7232 is the \
               document's limit and the least of them. What rows of zeros become, 0 / 0 in the source, was not verified: \
               zeros here, with scale 0. A width that is a multiple of 64 but not of 128 had wrong scales in some \
               releases, which is not done here.",
};

fn is_dynamic(call: &Call<'_>) -> bool {
    call.text(QUANT_MODE) == Some("dynamic")
}

/// x and groupIndex, where both are there.
fn grouped<'a>(call: &Call<'a>) -> Option<(&'a TensorDesc, &'a TensorDesc)> {
    call.tensor(X).zip(call.tensor(GROUP_INDEX))
}

/// All dimensions but the last.
fn lead(x: &TensorDesc) -> Option<Dims> {
    Dims::new(x.shape.split_last()?.1)
}

/// A tensor, where it is there, of `[G, width]`; of one group or without groups also `[width]`.
fn of_groups(call: &Call<'_>, name: &str, index: usize, width: i64) -> Checked {
    let Some(tensor) = call.tensor(index) else { return Ok(()) };
    let groups = call.tensor(GROUP_INDEX).map_or(1, |groups| groups.dim(0));
    let fits = *tensor.shape == [groups, width] || (groups <= 1 && *tensor.shape == [width]);
    require(fits, || format!("{name} of shape {} for {groups} groups of {width}", tensor.shape))
}
