//! Matrix products of groups of rows, or of parts of K, each with a weight of its own.

use ascend_sys::ops::{Arg, TensorDesc};
use ascend_sys::{OperatorId, aclFormat};
use moe_kernels::group_list::decode;

use super::grouped_quant::QuantArgs;
use super::launch::{MAX_ARGS, MAX_LIST, input, launch, optional, output, pick};
use crate::error::{Error, Result};
use crate::scratch::Sequence;
use crate::stream::Stream;
use crate::tensor::{TensorView, TensorViewMut};

pub use moe_kernels::group_list::GroupListKind;

/// Binds the descriptors of some views as a slice on the stack: of one mostly, of up to 128 where there are more.
macro_rules! list {
    ($name:ident = $views:expr) => {
        let one;
        let mut many;
        let $name: &[Option<TensorDesc>] = match &$views[..] {
            [view] => {
                one = [Some(view.0.desc)];
                &one
            }
            views => {
                many = [None; MAX_LIST];
                let found = views.len();
                let list =
                    many.get_mut(..found).ok_or_else(|| Error::shape("tensor list", found, "at most 128 tensors"))?;
                for (slot, view) in list.iter_mut().zip(views) {
                    *slot = Some(view.0.desc);
                }
                list
            }
        };
    };
}

pub(super) use list;

/// What is multiplied with what, and how x is divided. K and N may differ from weight to weight where every x and every
/// output is a tensor of its own.
#[derive(Clone, Copy)]
pub enum Groups<'a> {
    /// Row ranges of one x `[M, K]`, as a list on the device says; one output `[M, N]`. Its values are read when the operator
    /// runs: CANN does not check them, see [`Device::set_check_group_lists`](crate::Device::set_check_group_lists).
    Rows {
        /// i64, `[E]`, for key-value `[E, 2]`. The rows together are at most those of x.
        list: &'a TensorView<'a>,
        /// How the list is written.
        kind: GroupListKind,
    },
    /// Row ranges of one x `[M, K]` that end where the list on the host says, at most 128 of them, the last one at M. One
    /// output `[M, N]`, or one `[rows, N]` per weight.
    RowsUpTo(&'a [i64]),
    /// The x one by one, `[rows, K]`, each with the weight at its place; their rows one after the other in one output
    /// `[M, N]`.
    RowsOfEach,
    /// The x one by one, `[.., K]` of 2 to 6 dimensions, each with the weight and the output `[.., N]` at its place.
    Tensors,
    /// Ranges of K, as a list on the device says (not in pairs): x `[M, K]`, a transposed view of `[K, M]`, weight `[K, N]`,
    /// out `[E, M, N]`. What an empty range gives is 0.
    K {
        /// i64, `[E]`. The ranges together are at most K.
        list: &'a TensorView<'a>,
        /// How the list is written.
        kind: GroupListKind,
    },
    /// Ranges of K, one after the other, as long as each weight `[part of K, N]` is: x `[M, K]`, a transposed view of
    /// `[K, M]`, and an output `[M, N]` per weight. In later documents of CANN only.
    KOfEach,
}

/// How a form is called: `groupType`, `splitItem`, and the operators that compute it exactly, the newest first.
type Form = (i64, i64, &'static [OperatorId]);

impl<'a> Groups<'a> {
    fn form(&self, packed: bool, integers: bool, outputs: usize) -> Form {
        use GroupListKind::Cumsum;
        use OperatorId as Id;
        const PACKED: &[Id] = &[Id::GroupedMatmulWeightNz, Id::GroupedMatmulV5, Id::GroupedMatmulV4];
        const LISTED: &[Id] = &[Id::GroupedMatmulV5, Id::GroupedMatmulV4];
        const BY_ENDS: &[Id] = &[Id::GroupedMatmulV5, Id::GroupedMatmulV4, Id::GroupedMatmulV3];
        const UNLISTED: &[Id] = &[Id::GroupedMatmulV5, Id::GroupedMatmulV4, Id::GroupedMatmulV3, Id::GroupedMatmulV2];
        const ON_HOST: &[Id] = &[Id::GroupedMatmulV2, Id::GroupedMatmul];
        let listed = |kind| if kind == Cumsum { BY_ENDS } else { LISTED };
        let unless_packed = |operators| match (packed, integers) {
            (true, _) => PACKED,
            (false, true) => LISTED,
            (false, false) => operators,
        };
        match self {
            Self::Rows { kind, .. } => (BY_ROWS, ONE_OUTPUT, unless_packed(listed(*kind))),
            Self::RowsUpTo(_) => (BY_ROWS, if outputs > 1 { MANY_OUTPUTS } else { ONE_OUTPUT }, ON_HOST),
            Self::RowsOfEach => (BY_ROWS, ONE_OUTPUT, unless_packed(UNLISTED)),
            Self::Tensors => (NO_GROUPS, MANY_OUTPUTS, unless_packed(UNLISTED)),
            Self::K { kind, .. } => (BY_K, ONE_OUTPUT, listed(*kind)),
            Self::KOfEach => (BY_K, MANY_OUTPUTS, LISTED),
        }
    }

    /// The list on the device.
    fn list(&self) -> Option<(&'a TensorView<'a>, GroupListKind)> {
        match *self {
            Self::Rows { list, kind } | Self::K { list, kind } => Some((list, kind)),
            _ => None,
        }
    }
}

/// Inputs of [`grouped_matmul`], for E groups. A list is a slice of views.
#[derive(Clone, Copy)]
pub struct GroupedMatmul<'a> {
    /// f32, f16 or bf16: one, or one per group; see [`Groups`].
    pub x: &'a [TensorView<'a>],
    /// Dtype of x: one `[E, K, N]`, or one `[K, N]` per group. Row-major or, for 16 bits, FRACTAL_NZ; either as it is or as a
    /// transposed view of `[E, N, K]`. Ranges of K take them row-major and not transposed.
    pub weight: &'a [TensorView<'a>],
    /// f32 for bf16 and f32, f16 for f16: one `[E, N]`, or one `[N]` per weight; empty for none, as ranges of K ask for.
    pub bias: &'a [TensorView<'a>],
    /// Which rows, or which part of K, belong to which weight.
    pub groups: Groups<'a>,
}

/// For each group `out = x @ weight + bias`, accumulated in f32 and rounded once. Rows that belong to no group are not
/// written. Gives the operator that ran: `aclnnGroupedMatmulWeightNz` where all weights are FRACTAL_NZ, else
/// `aclnnGroupedMatmulV5`; where the libraries lack it the newest that computes the same, down to `V3` for a list of ends and
/// `V2` without a list. [`Groups::RowsUpTo`] runs on `V2` or the first version, which alone take such a list.
///
/// * `out`: dtype of x, one or one per group; see [`Groups`].
///
/// # Errors
/// [`Error::MissingOperator`] where none is there, [`Error::GroupList`] where the device checks group lists and this one
/// does not fit, [`Error::Shape`] for more than 128 tensors in a list, [`Error::Rule`] and those common to all operators,
/// see [`cast`](super::cast).
pub fn grouped_matmul(
    sequence: &Sequence<'_>,
    inputs: &GroupedMatmul<'_>,
    out: &mut [TensorViewMut<'_>],
) -> Result<OperatorId> {
    multiply(sequence, inputs, &QuantArgs::default(), out)
}

/// The call of [`grouped_matmul`], with what belongs to quantised operands.
pub(super) fn multiply(
    sequence: &Sequence<'_>,
    inputs: &GroupedMatmul<'_>,
    quant: &QuantArgs<'_>,
    out: &mut [TensorViewMut<'_>],
) -> Result<OperatorId> {
    let packed = inputs.weight.iter().all(|weight| weight.desc().format == aclFormat::FRACTAL_NZ);
    let (group_type, split_item, operators) = inputs.groups.form(packed, quant.integers, out.len());
    let operator = pick(sequence, operators)?;
    if out.iter().all(TensorViewMut::is_empty) {
        return Ok(operator);
    }
    list!(x = inputs.x);
    list!(weight = inputs.weight);
    list!(bias = inputs.bias);
    list!(scale = quant.scale);
    list!(offset = quant.offset);
    list!(antiquant_scale = quant.antiquant_scale);
    list!(antiquant_offset = quant.antiquant_offset);
    list!(per_token = quant.per_token);
    list!(target = out);

    let list = inputs.groups.list();
    let group_size = group_size(inputs.weight, quant.scale);
    let mut args = [Arg::Int(0); MAX_ARGS];
    let params = operator.info().params;
    for (arg, (name, _)) in args.iter_mut().zip(params) {
        *arg = match (*name, inputs.groups) {
            ("x", _) => Arg::Tensors(Some(x)),
            ("weight", _) => Arg::Tensors(Some(weight)),
            ("biasOptional", _) => given(bias),
            ("scaleOptional", _) => given(scale),
            ("offsetOptional", _) => given(offset),
            ("antiquantScaleOptional", _) => given(antiquant_scale),
            ("antiquantOffsetOptional", _) => given(antiquant_offset),
            ("perTokenScaleOptional", _) => given(per_token),
            ("groupListOptional", Groups::RowsUpTo(ends)) => Arg::Ints(Some(ends)),
            ("groupListOptional", _) if operator == OperatorId::GroupedMatmulV2 => Arg::Ints(None),
            ("groupListOptional", _) => optional(list.map(|(list, _)| list)),
            ("splitItem", _) => Arg::Int(split_item),
            ("groupType", _) => Arg::Int(group_type),
            ("groupListType", _) => Arg::Int(list.map_or(0, |(_, kind)| list_type(kind))),
            ("actType", _) => Arg::Int(quant.act_type),
            ("quantGroupSize", _) => Arg::Int(group_size),
            ("tuningConfigOptional", _) => Arg::Ints(None),
            ("out" | "y", _) => Arg::Tensors(Some(target)),
            // What belongs to the gradient of an activation.
            _ => Arg::Tensors(None),
        };
    }
    if let (Some((list, kind)), Some(stream)) = (list, sequence.stream())
        && sequence.device().checks_group_lists()
    {
        let (groups, extent) = match (group_type, inputs.weight) {
            (BY_K, _) => (first(out.iter().map(|out| out.dim(0))), first(inputs.x.iter().map(|x| x.dim(-1)))),
            (_, [weight]) => (weight.dim(0), rows(inputs.x)),
            (_, weights) => (weights.len() as i64, rows(inputs.x)),
        };
        check_group_list(list, kind, [groups, extent], stream)?;
    }
    let QuantArgs { scale, offset, antiquant_scale, antiquant_offset, per_token, .. } = *quant;
    let factors = [scale, offset, antiquant_scale, antiquant_offset, per_token];
    let operands = [inputs.x, inputs.weight, inputs.bias].into_iter().chain(factors);
    let reads = operands.flatten().chain(list.map(|(list, _)| list));
    let args = args.get(..params.len()).unwrap_or_default();
    launch(sequence, operators, args, reads.map(|view| view.0), out.iter().map(|view| view.0))
}

/// Adds to `y[e]` the product over each range of K: `y[e] += x[range e]^T @ weight[range e]` (`aclnnGroupedMatmulAdd`),
/// accumulated in f32. What belongs to an empty range keeps its values. Gives the gradient of an expert's weight.
///
/// * `x`: f16 or bf16, `[K, M]`, any strides. * `weight`: dtype of x, `[K, N]`, any strides.
/// * `ends`: i64, `[E]`: the end of each range; checked as those of [`Groups::K`].
/// * `y`: in and out, f32, `[E, M, N]`, contiguous.
///
/// Where x, weight or y is empty nothing is called.
///
/// # Errors
/// [`Error::GroupList`] where the device checks group lists and this one does not fit, [`Error::Rule`] and those common to
/// all operators, see [`cast`](super::cast).
pub fn grouped_matmul_add(
    sequence: &Sequence<'_>,
    x: &TensorView<'_>,
    weight: &TensorView<'_>,
    ends: &TensorView<'_>,
    y: &mut TensorViewMut<'_>,
) -> Result<()> {
    if x.is_empty() || weight.is_empty() || y.is_empty() {
        return Ok(());
    }
    if let Some(stream) = sequence.stream()
        && sequence.device().checks_group_lists()
    {
        check_group_list(ends, GroupListKind::Cumsum, [ends.dim(0), x.dim(0)], stream)?;
    }
    let (transpose_x, transpose_weight) = (Arg::Bool(true), Arg::Bool(false));
    let args = [input(x), input(weight), input(ends), output(y), transpose_x, transpose_weight, Arg::Int(BY_K)];
    let reads = [x.0, weight.0, ends.0].into_iter();
    launch(sequence, &[OperatorId::GroupedMatmulAdd], &args, reads, [y.0].into_iter())?;
    Ok(())
}

/// Values of `groupType`.
const NO_GROUPS: i64 = -1;
const BY_ROWS: i64 = 0;
const BY_K: i64 = 2;
/// Values of `splitItem`.
const MANY_OUTPUTS: i64 = 0;
const ONE_OUTPUT: i64 = 2;

pub(super) fn list_type(kind: GroupListKind) -> i64 {
    match kind {
        GroupListKind::Cumsum => 0,
        GroupListKind::Count => 1,
        GroupListKind::KeyValue => 2,
    }
}

/// A list that may be absent.
pub(super) fn given<'a>(list: &'a [Option<TensorDesc>]) -> Arg<'a> {
    Arg::Tensors((!list.is_empty()).then_some(list))
}

/// Rows of a weight that a scale `[E, G, N]` has one row for; 0 for one scale per column.
fn group_size(weight: &[TensorView<'_>], scale: &[TensorView<'_>]) -> i64 {
    match (weight, scale) {
        ([weight], [scale]) if scale.desc().rank() == 3 && scale.dim(1) > 1 => weight.dim(-2) / scale.dim(1),
        _ => 0,
    }
}

fn first(mut sizes: impl Iterator<Item = i64>) -> i64 {
    sizes.next().unwrap_or(0)
}

/// Rows of all x together.
fn rows(x: &[TensorView<'_>]) -> i64 {
    x.iter().fold(0i64, |sum, x| sum.saturating_add(x.dim(0)))
}

/// Reads the list back, in the order of the stream, and holds it against the number of groups and what they divide.
pub(super) fn check_group_list(
    list: &TensorView<'_>,
    kind: GroupListKind,
    sizes: [i64; 2],
    stream: &Stream,
) -> Result<()> {
    let values = list.to_vec::<i64>(stream)?;
    let [groups, extent] = sizes.map(|size| usize::try_from(size).unwrap_or(0));
    decode(kind, &values, groups, extent).map(drop).map_err(Error::GroupList)
}
