//! Matrix products of groups of rows, each with a weight of its own.

use ascend_sys::OperatorId;
use ascend_sys::ops::{Arg, TensorDesc};
use moe_kernels::group_list::decode;

use super::launch::{MAX_LIST, launch, optional, pick};
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
/// What is multiplied with what.
#[derive(Clone, Copy)]
pub enum Groups<'a> {
    /// Row ranges of x, as a list on the device says. Its values are read when the operator runs: CANN does not check them,
    /// see [`Device::set_check_group_lists`](crate::Device::set_check_group_lists).
    Rows {
        /// i64, `[E]`, for key-value `[E, 2]`. The rows together are at most those of x.
        list: &'a TensorView<'a>,
        /// How the list is written.
        kind: GroupListKind,
    },
    /// The tensors of x one by one, each with the weight and the output at its place.
    Tensors,
}

/// Inputs of [`grouped_matmul`], for E groups of M rows together. A list is a slice of views.
#[derive(Clone, Copy)]
pub struct GroupedMatmul<'a> {
    /// f32, f16 or bf16: one `[M, K]`, or one `[rows, K]` per group.
    pub x: &'a [TensorView<'a>],
    /// Dtype of x: one `[E, K, N]`, or one `[K, N]` per group. Row-major or, for 16 bits, FRACTAL_NZ; either as it is or as a
    /// transposed view of `[E, N, K]`.
    pub weight: &'a [TensorView<'a>],
    /// f32 for bf16 and f32, f16 for f16: one `[E, N]`, or one `[N]` per weight; empty for none.
    pub bias: &'a [TensorView<'a>],
    /// Which rows belong to which weight.
    pub groups: Groups<'a>,
}

/// For each group `out = x @ weight + bias` (`aclnnGroupedMatmulV5`, or `V4` where the libraries lack it), accumulated in f32
/// and rounded once. Rows that belong to no group are not written. Gives the operator that ran.
///
/// * `out`: dtype of x: one `[M, N]`, with [`Groups::Tensors`] one `[rows, N]` per x.
///
/// # Errors
/// [`Error::MissingOperator`] where neither is there, [`Error::GroupList`] where the device checks group lists and this one
/// does not fit, [`Error::Shape`] for more than 128 tensors in a list, [`Error::Rule`] and those common to all operators,
/// see [`cast`](super::cast).
pub fn grouped_matmul(
    sequence: &Sequence<'_>,
    inputs: &GroupedMatmul<'_>,
    out: &mut [TensorViewMut<'_>],
) -> Result<OperatorId> {
    let operator = match pick(sequence, &[OperatorId::GroupedMatmulV5, OperatorId::GroupedMatmulV4])? {
        OperatorId::GroupedMatmulV5 => &[OperatorId::GroupedMatmulV5],
        _ => &[OperatorId::GroupedMatmulV4],
    };
    if out.iter().all(TensorViewMut::is_empty) {
        return Ok(operator[0]);
    }
    let (list, group_type, list_type, split_item) = match inputs.groups {
        Groups::Rows { list, kind } => (Some(list), BY_ROWS, list_type(kind), ONE_OUTPUT),
        Groups::Tensors => (None, NO_GROUPS, 0, MANY_OUTPUTS),
    };
    list!(x = inputs.x);
    list!(weight = inputs.weight);
    list!(bias = inputs.bias);
    list!(target = out);

    let null = Arg::Tensors(None);
    let bias = if bias.is_empty() { null } else { Arg::Tensors(Some(bias)) };
    // x, weight, bias; scale, offset, antiquant scale and offset, per-token scale; group list; three of the activation;
    // split item, group type, list type, activation; tuning (V5 only); out and two more outputs.
    let [x, weight, target] = [x, weight, target].map(|list| Arg::Tensors(Some(list)));
    let numbers = [split_item, group_type, list_type, NO_ACTIVATION].map(Arg::Int);
    let [split_item, group_type, list_type, activation] = numbers;
    let v5 = [
        x,
        weight,
        bias,
        null,
        null,
        null,
        null,
        null,
        optional(list),
        null,
        null,
        null,
        split_item,
        group_type,
        list_type,
        activation,
        Arg::Ints(None),
        target,
        null,
        null,
    ];
    let v4 = [
        x,
        weight,
        bias,
        null,
        null,
        null,
        null,
        null,
        optional(list),
        null,
        null,
        null,
        split_item,
        group_type,
        list_type,
        activation,
        target,
        null,
        null,
    ];
    let args: &[Arg<'_>] = if operator[0] == OperatorId::GroupedMatmulV5 { &v5 } else { &v4 };

    if let (Groups::Rows { list, kind }, Some(stream)) = (inputs.groups, sequence.stream())
        && sequence.device().checks_group_lists()
    {
        check_group_list(list, kind, inputs, stream)?;
    }
    let reads = [inputs.x, inputs.weight, inputs.bias].into_iter().flatten().chain(list).map(|view| view.0);
    launch(sequence, operator, args, reads, out.iter().map(|view| view.0))
}

/// Values of `groupType`.
const NO_GROUPS: i64 = -1;
const BY_ROWS: i64 = 0;
/// Values of `splitItem`.
const MANY_OUTPUTS: i64 = 0;
const ONE_OUTPUT: i64 = 2;
/// Value of `actType`.
const NO_ACTIVATION: i64 = 0;

fn list_type(kind: GroupListKind) -> i64 {
    match kind {
        GroupListKind::Cumsum => 0,
        GroupListKind::Count => 1,
        GroupListKind::KeyValue => 2,
    }
}

/// Reads the list back, in the order of the stream, and holds it against the rows that it divides.
fn check_group_list(
    list: &TensorView<'_>,
    kind: GroupListKind,
    inputs: &GroupedMatmul<'_>,
    stream: &Stream,
) -> Result<()> {
    let values = list.to_vec::<i64>(stream)?;
    let experts = match inputs.weight {
        [weight] => weight.dim(0),
        weights => weights.len() as i64,
    };
    let rows = inputs.x.iter().fold(0i64, |sum, x| sum.saturating_add(x.dim(0)));
    let [experts, rows] = [experts, rows].map(|size| usize::try_from(size).unwrap_or(0));
    decode(kind, &values, experts, rows).map(drop).map_err(Error::GroupList)
}
