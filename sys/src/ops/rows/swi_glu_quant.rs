//! Rows of the operators that activate by a gated unit and quantise.

use super::check::{Checked, F32, FLOATS, I32, dim, joined, one_of, require};
use super::dynamic_quant::without_last_dim;
use crate::constants::aclDataType;
use crate::info::OperatorId;
use crate::ops::desc::TensorDesc;
use crate::ops::rule::{Call, Codes, OpRow, Param, Rule};

const INT8: &[aclDataType] = &[aclDataType::INT8];
const INT8_OR_4: &[aclDataType] = &[aclDataType::INT8, aclDataType::INT4];

/// The most columns of x, and the most groups.
const MAX_WIDTH: i64 = 8192;
const MAX_GROUPS: i64 = 1024;

/// Positions of the parameters that both versions have.
const X: usize = 0;
const SMOOTH: usize = 1;
const OFFSETS: usize = 2;
const GROUPS: usize = 3;
const QUANT_MODE: usize = 5;

/// Positions of the parameters of `aclnnSwiGluQuantV2`.
mod second {
    pub(super) const LIST_TYPE: usize = 6;
    pub(super) const DST_TYPE: usize = 7;
    pub(super) const Y: usize = 8;
    pub(super) const SCALE: usize = 9;
}

/// What both versions take first.
const fn inputs() -> [Param; 6] {
    [
        Param::input("x", FLOATS).rank(2, 8),
        Param::input("smoothScalesOptional", F32).rank(1, 2).optional(),
        Param::input("offsetsOptional", F32).rank(1, 2).optional(),
        Param::input("groupIndexOptional", I32).rank(1, 1).optional(),
        Param::value("activateLeft"),
        Param::value("quantModeOptional"),
    ]
}

/// The rules of both versions, whose outputs are at `Y` and `SCALE`.
const fn rules<const Y: usize, const SCALE: usize>() -> [Rule; 8] {
    [
        Rule::new("empty", "x has elements", |call| match call.tensor(X) {
            Some(x) => require(!x.is_empty(), || format!("x of shape {}", x.shape)),
            None => Ok(()),
        }),
        Rule::new("width", "the last dimension of x is even and at most 8192", |call| {
            let width = dim(call, X, -1);
            require(width % 2 == 0 && width <= MAX_WIDTH, || format!("{width} columns"))
        }),
        Rule::new("quant-mode", "quantMode is \"dynamic\" or \"static\"", |call| {
            let mode = call.text(QUANT_MODE);
            require(matches!(mode, Some("static" | "dynamic")), || format!("quantMode {mode:?}"))
        }),
        Rule::new("groups", "1 to 1024 groups", |call| match call.tensor(GROUPS) {
            Some(groups) => require((1..=MAX_GROUPS).contains(&groups.dim(0)), || format!("{} groups", groups.dim(0))),
            None => Ok(()),
        }),
        Rule::new("smooth-shape", "smoothScales is [G, N], static also [G], dynamic without groups also [N]", |call| {
            let Some(smooth) = call.tensor(SMOOTH) else { return Ok(()) };
            let (groups, half) = (call.tensor(GROUPS).map_or(1, |groups| groups.dim(0)), dim(call, X, -1) / 2);
            let legal = *smooth.shape == [groups, half]
                || match is_static(call) {
                    true => *smooth.shape == [groups],
                    false => call.tensor(GROUPS).is_none() && *smooth.shape == [half],
                };
            require(legal, || format!("smoothScales of shape {} for {groups} groups of {half}", smooth.shape))
        }),
        Rule::new("static-operands", "quantMode \"static\" has smoothScales and offsets of one shape", |call| {
            let (smooth, offsets) = (call.tensor(SMOOTH), call.tensor(OFFSETS));
            let shape = |tensor: Option<&TensorDesc>| tensor.map_or("none".to_owned(), |t| t.shape.to_string());
            let legal = smooth.zip(offsets).is_some_and(|(smooth, offsets)| smooth.shape == offsets.shape);
            require(!is_static(call) || legal, || {
                format!("smoothScales {} and offsets {}", shape(smooth), shape(offsets))
            })
        }),
        Rule::new("y-shape", "y has the shape of x with half its last dimension", half_of_x::<Y>),
        Rule::new("scale-shape", "scale has the shape of x without its last dimension", without_last_dim::<SCALE>),
    ]
}

/// Tensor `Y` has the shape of x with half its last dimension.
pub(super) fn half_of_x<const Y: usize>(call: &Call<'_>) -> Checked {
    let (Some(x), Some(y)) = (call.tensor(X), call.tensor(Y)) else { return Ok(()) };
    let mut due = x.shape;
    due.as_mut_slice().iter_mut().last().into_iter().for_each(|width| *width /= 2);
    require(y.shape == due, || format!("y of shape {} where {due} is due", y.shape))
}

fn is_static(call: &Call<'_>) -> bool {
    call.text(QUANT_MODE) == Some("static")
}

/// `aclnnSwiGluQuant`: the second version with ends of groups, and int8.
///
/// Parameters as for [`SWI_GLU_QUANT_V2`].
pub(super) static SWI_GLU_QUANT: OpRow = OpRow {
    operator: OperatorId::SwiGluQuant,
    codes: Codes::GENERATED,
    params: &joined::<_, 6, 2, 8>(
        inputs(),
        [Param::output("yOut", INT8).rank(2, 8), Param::output("scaleOut", F32).rank(1, 7)],
    ),
    rules: &rules::<6, 7>(),
    source: "ops-nn 9.1.0, quant/swi_glu_quant (docs, op_host tiling, op_kernel)",
    doubtful: DOUBTFUL,
};

/// `aclnnSwiGluQuantV2`: activates x by SwiGLU and quantises the activation.
///
/// * `x`: device, fp32, fp16 or bf16, `[.., 2N]`, 2 to 8 dimensions, 2N <= 8192, any strides.
/// * `smoothScalesOptional`: device, fp32, `[G, N]`, what the activation is multiplied by; static `[G]` or `[G, N]`.
/// * `offsetsOptional`: device, fp32, shape of smoothScales: static, added to the products.
/// * `groupIndexOptional`: device, int32, `[G]`: ends or counts of the groups of rows. Rows behind them have no factors.
/// * `quantModeOptional`: "dynamic" or "static". `groupListType`: 0 (ends) or 1 (counts). `dstType`: 2 or 29.
/// * `yOut`: device, int8 or int4, `[.., N]`.
/// * `scaleOut`: device, fp32, `[..]`: **what the activation was multiplied by**, 127 over its greatest magnitude; static
///   not written.
pub(super) static SWI_GLU_QUANT_V2: OpRow = OpRow {
    operator: OperatorId::SwiGluQuantV2,
    codes: Codes::GENERATED,
    params: &joined::<_, 6, 4, 10>(
        inputs(),
        [
            Param::value("groupListType"),
            Param::value("dstType"),
            Param::output("yOut", INT8_OR_4).rank(2, 8),
            Param::output("scaleOut", F32).rank(1, 7),
        ],
    ),
    rules: &joined::<_, 3, 8, 11>(
        [
            Rule::new("group-list-type", "groupListType is 0 (ends) or 1 (counts)", |call| {
                one_of(call, "groupListType", second::LIST_TYPE, &[0, 1])
            }),
            Rule::new("dst-type", "dstType is 2 with y of int8, 29 with y of int4", |call| {
                let (dst, y) = (call.int(second::DST_TYPE), call.tensor(second::Y).map(|y| i64::from(y.dtype.0)));
                require(y.is_none_or(|y| y == dst), || format!("dstType {dst}"))
            }),
            Rule::new(
                "int4",
                "with y of int4 2N is a multiple of 4, y contiguous and from an even element on",
                |call| match call.tensor(second::Y).filter(|y| y.dtype == aclDataType::INT4) {
                    Some(y) => require(
                        dim(call, X, -1) % 4 == 0 && y.dim(-1) % 2 == 0 && y.is_contiguous() && y.offset % 2 == 0,
                        || format!("y {y} of x with {} columns", dim(call, X, -1)),
                    ),
                    None => Ok(()),
                },
            ),
        ],
        rules::<{ second::Y }, { second::SCALE }>(),
    ),
    source: "ops-nn 9.1.0, quant/swi_glu_quant (docs, op_host tiling, op_kernel)",
    doubtful: DOUBTFUL,
};

const DOUBTFUL: &str = "Tiling looks at less: it takes \"dynamic_msd\" and treats it as static, and of smoothScales and \
                        offsets it compares the first dimension only; the kernel reads smoothScales also where they are \
                        null, which is no factors here, as in the document. What a null quantMode means was not seen: it \
                        is refused. What scale holds where the mode is static was not seen: it is not written here. What \
                        rows of zeros become, 127 / 0 * 0 in the source, was not verified: zeros here, with an infinite \
                        scale.";
