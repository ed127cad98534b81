//! What the signatures of the grouped matrix product ask for, in parts that a row takes as it needs them.
//!
//! A rule looks a parameter up by what it means ([`Places`]), as it has another place in every signature.

use super::super::check::{Checked, one_of, require};
use super::quant::{Kind, gives_sums, kind};
use super::{K_GROUPS, Places, ROW_GROUPS, UNGROUPED, implied_group_type};
use crate::constants::{aclDataType as T, aclFormat};
use crate::info::OperatorId;
use crate::ops::desc::TensorDesc;
use crate::ops::rule::{Call, PLAIN_FORMATS, Rule};

/// The most tensors in the list of x or of weights, and the most entries of a group list on the host.
const MAX_LIST: usize = 128;
/// The most entries of a group list on the device.
const MAX_GROUPS: i64 = 1024;
/// The largest size of the dimension of x or of a weight that is innermost in memory.
const MAX_INNER: i64 = 65535;
/// Rows of a FRACTAL_NZ block, and its columns for a 16-bit dtype.
const NZ_BLOCK: i64 = 16;

/// Value of `groupListType`.
const KEY_VALUE: i64 = 2;

const X: usize = 0;
const WEIGHT: usize = 1;
const BIAS: usize = 2;
const OFFSET: usize = 4;

/// Of signatures with a group type.
pub(super) const TYPED: &[Rule] =
    &[Rule::new("group-type", "-1 (no groups), 0 (groups of rows) or, but for WeightNz, 2 (groups along K)", |call| {
        let legal = if forces_nz(call) { &[UNGROUPED, ROW_GROUPS][..] } else { &[UNGROUPED, ROW_GROUPS, K_GROUPS] };
        one_of(call, "groupType", Places::in_call(call).group_type, legal)
    })];

/// Of signatures with the group list on the device.
pub(super) const DEVICE: &[Rule] =
    &[Rule::new("group-list-rank", "the group list is [E], for groupListType 2 [E, 2]", |call| {
        let Some(list) = device_list(call) else { return Ok(()) };
        let kind = list_type(call);
        let legal = match kind {
            KEY_VALUE => list.rank() == 2 && list.dim(1) == 2,
            _ => list.rank() == 1,
        };
        require(legal, || format!("a group list of shape {} with groupListType {kind}", list.shape))
    })];

/// Of signatures with a type of the group list and an activation.
pub(super) const LISTED: &[Rule] = &[
    Rule::new("group-list-type", "0 (cumsum), 1 (count) or 2 (key-value)", |call| {
        one_of(call, "groupListType", Places::in_call(call).group_list_type, &[0, 1, KEY_VALUE])
    }),
    Rule::new("act-type", "0 (no activation); for int8 operands also 1 (relu), 2 and 4 (gelu), 5 (silu)", |call| {
        let legal = match kind(call) {
            Some(Kind::Int8 | Kind::Msd | Kind::Int4) => &[0, 1, 2, 4, 5][..],
            _ => &[0],
        };
        one_of(call, "actType", Places::in_call(call).act_type, legal)
    }),
];

/// Of every signature.
pub(super) const COMMON: &[Rule] = &[
    Rule::new("split-item", "0 or 1 where there are several outputs or no groups, else 2 or 3", |call| {
        let several = grouping(call) == UNGROUPED || out(call).len() > 1;
        one_of(call, "splitItem", Places::in_call(call).split_item, if several { &[0, 1] } else { &[2, 3] })
    }),
    Rule::new("empty-k", "K is 0 only where there is no row or no column, or with K groups", |call| {
        let no_rows = x(call).iter().all(|x| x.shape.split_last().is_some_and(|(_, rows)| rows.contains(&0)));
        let no_columns = weight(call).iter().all(|weight| weight.dim(-1) == 0);
        let empty = grouping(call) != K_GROUPS && x(call).iter().any(|x| x.dim(-1) == 0);
        require(no_rows || no_columns || !empty, || "an x with K = 0".to_owned())
    }),
    Rule::dtype("dtypes", "x and weight of one float dtype, or a quantised combination", |call| {
        let (Some(x), Some(weight)) = (x(call).first(), weight(call).first()) else { return Ok(()) };
        require(kind(call).is_some(), || format!("x of {:?} and weight of {:?}", x.dtype, weight.dtype))
    }),
    Rule::dtype("list-dtypes", "the tensors of x, and those of weight, have one dtype", |call| {
        [("x", x(call)), ("weight", weight(call))].into_iter().try_for_each(|(name, list)| {
            let Some(due) = list.first() else { return Ok(()) };
            list.iter().try_for_each(|tensor| {
                require(tensor.dtype == due.dtype, || format!("{:?} and {:?} in {name}", due.dtype, tensor.dtype))
            })
        })
    }),
    Rule::dtype(
        "out-dtype",
        "all outputs have the dtype of a float x; for int8 operands fp16, bf16, int32 or, where the weights are not \
         FRACTAL_NZ, int8; for int4 weights of an integer x fp16 or bf16, with an offset fp16",
        |call| {
            let (Some(x), Some(due)) = (x(call).first(), out(call).first()) else { return Ok(()) };
            let legal = match kind(call) {
                None | Some(Kind::Float | Kind::Antiquant) => due.dtype == x.dtype,
                Some(Kind::Int8) => match due.dtype {
                    T::INT8 => packed(call).next().is_none(),
                    dtype => matches!(dtype, T::FLOAT16 | T::BF16 | T::INT32),
                },
                Some(Kind::Msd) if !call.is_absent(OFFSET) => due.dtype == T::FLOAT16,
                Some(Kind::Msd | Kind::Int4) => matches!(due.dtype, T::FLOAT16 | T::BF16),
            };
            let other = out(call).iter().find(|out| out.dtype != due.dtype).unwrap_or(due);
            require(legal && other.dtype == due.dtype, || {
                format!("an output of {:?} and x is {:?}", other.dtype, x.dtype)
            })
        },
    ),
    Rule::dtype(
        "bias-dtype",
        "bias is fp32 for bf16 and fp32, fp16 for fp16; for int8 operands all int32 or all bf16 (int32 for an int32 \
         output), for int4 weights of an integer x fp32",
        |call| {
            let (Some(x), Some(given)) = (x(call).first(), bias(call).first()) else { return Ok(()) };
            let legal = match kind(call) {
                None | Some(Kind::Float | Kind::Antiquant) if x.dtype == T::FLOAT16 => given.dtype == T::FLOAT16,
                Some(Kind::Int8) => given.dtype == T::INT32 || (given.dtype == T::BF16 && !gives_sums(call)),
                _ => given.dtype == T::FLOAT,
            };
            let other = bias(call).iter().find(|bias| bias.dtype != given.dtype).unwrap_or(given);
            require(legal && other.dtype == given.dtype, || format!("bias of {:?} for x of {:?}", other.dtype, x.dtype))
        },
    ),
    super::quant::PARAMS,
    Rule::new("x-transposed", "x is transposed with K groups, and only then", |call| {
        let along_k = grouping(call) == K_GROUPS;
        x(call).iter().try_for_each(|x| {
            // What has one element or none lies both ways.
            let either = along_k && x.elements().is_some_and(|elements| elements <= 1);
            require(x.is_transposed() == along_k || either, || {
                format!("x of shape {} with strides {}", x.shape, x.strides)
            })
        })
    }),
    Rule::new(
        "weight-transposed",
        "all weights are transposed or none is; none with K groups, nor without groups in the first version",
        |call| {
            let kind = grouping(call);
            let never = kind == K_GROUPS || (kind == UNGROUPED && call.operator == OperatorId::GroupedMatmul);
            let mut transposed = weight(call).iter().map(|weight| weight.is_transposed());
            let due = if never { Some(false) } else { transposed.next() };
            require(transposed.all(|this| Some(this) == due), || "a transposed weight among others".to_owned())
        },
    ),
    Rule::new(
        "lists",
        "without groups as many x as weights as outputs; groups of rows: one output and one x, or as many x as \
         weights, and with a group list on the host one x and as many outputs as weights; K groups: one x, and one \
         weight and one output, or as many of each",
        |call| {
            let (x, weight, out) = (x(call).len(), weight(call).len(), out(call).len());
            let legal = match grouping(call) {
                UNGROUPED => x == weight && x == out,
                K_GROUPS => x == 1 && weight == out,
                _ => (out == 1 && (x == 1 || x == weight)) || (on_host(call) && x == 1 && out == weight),
            };
            require(legal, || format!("{x} x, {weight} weights and {out} outputs"))
        },
    ),
    Rule::new("list-length", "at most 128 tensors in the list of x and in that of weights", |call| {
        let length = x(call).len().max(weight(call).len());
        require(length <= MAX_LIST, || format!("a list of {length}; the nearest legal length is {MAX_LIST}"))
    }),
    Rule::new(
        "ranks",
        "groups of rows: x and out are matrices and weight [E, K, N] or a list of matrices; K groups: x and weight are \
         matrices and out [E, M, N] or a list of matrices; without groups every weight is a matrix and out has the \
         rank of its x",
        ranks,
    ),
    Rule::new(
        "k-match",
        "the last dimension of x is the last but one of its weight, or of all of a list with K groups",
        k_match,
    ),
    Rule::new("m-match", "out has the rows of x; without groups all its dimensions but the last", m_match),
    Rule::new("n-match", "the last dimension of out is that of its weight", |call| {
        pair(out(call), weight(call)).try_for_each(|(out, weight)| {
            require(out.dim(-1) == weight.dim(-1), || {
                format!("out of shape {} for weight of shape {}", out.shape, weight.shape)
            })
        })
    }),
    Rule::new(
        "inner-axis",
        "K (with K groups M instead), and N of weights that are not transposed, are below 65536",
        |call| {
            let (name, axis) = if grouping(call) == K_GROUPS { ("M", 0) } else { ("K", -1) };
            x(call).iter().try_for_each(|x| inner_axis(name, x.dim(axis)))?;
            let rows = weight(call).iter().filter(|weight| !weight.is_transposed());
            rows.into_iter().try_for_each(|weight| inner_axis("N", weight.dim(-1)))
        },
    ),
    Rule::new(
        "group-list",
        "a group list is given where one x, or with K groups one weight, is divided; the second version takes none \
         without groups",
        |call| {
            let given = list_length(call).is_some();
            let legal = match grouping(call) {
                UNGROUPED => !given || call.operator != OperatorId::GroupedMatmulV2,
                K_GROUPS => given || weight(call).len() > 1,
                _ => given || x(call).len() > 1,
            };
            require(legal, || if given { "a group list without groups" } else { "null" }.to_owned())
        },
    ),
    Rule::new("group-list-size", "the group list has 1 to 1024 entries, on the host at most 128", |call| {
        let most = if on_host(call) { MAX_LIST as i64 } else { MAX_GROUPS };
        match list_length(call) {
            Some(length) => require((1..=most).contains(&length), || format!("a group list of {length} entries")),
            None => Ok(()),
        }
    }),
    Rule::new(
        "group-list-length",
        "the group list has an entry for every group (without groups, for every x)",
        |call| {
            let (Some(length), groups) = (list_length(call), groups(call)) else { return Ok(()) };
            let legal = groups == length || (groups == 1 && grouping(call) != UNGROUPED);
            require(legal, || format!("a group list of {length} entries for {groups} groups"))
        },
    ),
    Rule::new("bias-shape", "bias is [E, N] for one weight [E, K, N], else one [N] per weight", bias_shape),
    Rule::dtype("nz-dtype", "FRACTAL_NZ weights are fp16 or bf16, or integers for an integer x", |call| {
        let floats = kind(call) == Some(Kind::Antiquant);
        packed(call).try_for_each(|weight| {
            require(!floats && weight.dtype != T::FLOAT, || format!("FRACTAL_NZ weight of {:?}", weight.dtype))
        })
    }),
    Rule::new(
        "nz-aligned",
        "FRACTAL_NZ weights lie in whole blocks of 16 rows and of 16 columns, 32 for int8, 64 for int4",
        |call| {
            packed(call).try_for_each(|weight| {
                let columns = match weight.dtype {
                    T::INT8 => 2 * NZ_BLOCK,
                    T::INT4 => 4 * NZ_BLOCK,
                    _ => NZ_BLOCK,
                };
                let [row, column] = if weight.is_transposed() { [-1, -2] } else { [-2, -1] };
                let aligned = weight.dim(row) % NZ_BLOCK == 0 && weight.dim(column) % columns == 0;
                require(aligned, || format!("FRACTAL_NZ weight of {:?}, shape {}", weight.dtype, weight.shape))
            })
        },
    ),
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

/// Of signatures that believe the format of a weight.
pub(super) const DECLARED: &[Rule] = &[Rule::dtype("weight-format", "all weights have one format", |call| {
    let Some(due) = weight(call).first() else { return Ok(()) };
    let plain = |weight: &TensorDesc| PLAIN_FORMATS.contains(&weight.format);
    let agree = weight(call).iter().all(|weight| plain(&weight) == plain(&due));
    require(agree, || "FRACTAL_NZ weights and others in one list".to_owned())
})];

/// Of signatures that divide one tensor into groups with one weight each.
pub(super) const SINGLE: &[Rule] =
    &[Rule::not_carried("single-group", "the group list of a single group has one entry", |call| {
        let (Some(length), groups) = (list_length(call), groups(call)) else { return Ok(()) };
        require(groups != 1 || length == 1, || format!("a group list of {length} entries for one group"))
    })];

/// Of signatures with K groups.
pub(super) const K_GROUPED: &[Rule] = &[
    Rule::new("k-groups-bias", "no bias with K groups", |call| {
        require(grouping(call) != K_GROUPS || call.is_absent(BIAS), || "a bias".to_owned())
    }),
    Rule::not_carried("k-groups-nz", "no FRACTAL_NZ weight with K groups", |call| {
        let none = grouping(call) != K_GROUPS || packed(call).next().is_none();
        require(none, || "a FRACTAL_NZ weight".to_owned())
    }),
    Rule::not_carried("k-groups-list", "no group list where the K groups are a list of weights", |call| {
        let list = grouping(call) == K_GROUPS && weight(call).len() > 1;
        require(!list || list_length(call).is_none(), || "a group list".to_owned())
    }),
];

/// Of signatures with K groups and key-value lists.
pub(super) const K_PAIRS: &[Rule] =
    &[Rule::not_carried("k-groups-pairs", "K groups with a groupListType of 0 or 1", |call| {
        let pairs = grouping(call) == K_GROUPS && list_type(call) == KEY_VALUE;
        require(!pairs, || format!("groupListType {KEY_VALUE}"))
    })];

/// Of signatures with the group list on the host.
pub(super) const HOST: &[Rule] = &[
    Rule::new("group-list-order", "the ends of the groups are not negative and do not decrease", |call| {
        let list = host_list(call).unwrap_or_default();
        let ordered = list.first().is_none_or(|&end| end >= 0) && list.is_sorted();
        require(ordered, || format!("{list:?}"))
    }),
    Rule::new(
        "group-list-ends",
        "the last group ends where x does; where x or the output is a list, each group has its rows, and x is a matrix",
        group_list_ends,
    ),
];

/// Of the first signature alone.
pub(super) const FIRST: &[Rule] = &[Rule::dtype("no-fp32", "x and weight are fp16 or bf16", |call| {
    let float = |tensor: TensorDesc| tensor.dtype == T::FLOAT;
    require(!x(call).iter().chain(weight(call).iter()).any(float), || "FLOAT".to_owned())
})];

/// Of signatures with a tuning hint.
pub(super) const TUNED: &[Rule] =
    &[Rule::new("tuning-config", "the rows to expect per group are 0 to the rows of x", |call| {
        let Some(&[rows, ..]) = call.ints(Places::in_call(call).tuning) else { return Ok(()) };
        let most = x(call).iter().map(|x| x.dim(0)).max().unwrap_or(0);
        require((0..=most).contains(&rows), || {
            format!("{rows}; the nearest legal value is {}", rows.clamp(0, most.max(0)))
        })
    })];

/// The tensors of a list, with int32 as the eight int4 that each stands for, where the signature takes them so.
#[derive(Clone, Copy)]
pub(super) struct List<'a> {
    tensors: &'a [Option<TensorDesc>],
    unpacks: bool,
}

impl<'a> List<'a> {
    pub(super) fn len(&self) -> usize {
        self.tensors.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    fn get(&self, index: usize) -> Option<TensorDesc> {
        let tensor = self.tensors.get(index)?.as_ref()?;
        Some(if self.unpacks { tensor.unpacked() } else { *tensor })
    }

    pub(super) fn first(&self) -> Option<TensorDesc> {
        self.get(0)
    }

    /// The members that are there.
    pub(super) fn iter(self) -> impl Iterator<Item = TensorDesc> + 'a {
        (0..self.len()).filter_map(move |index| self.get(index))
    }
}

pub(super) fn x<'a>(call: &Call<'a>) -> List<'a> {
    List { tensors: call.tensors(X), unpacks: unpacks(call) }
}

pub(super) fn weight<'a>(call: &Call<'a>) -> List<'a> {
    List { tensors: call.tensors(WEIGHT), unpacks: unpacks(call) }
}

/// The biases; none where the list counts as not given.
pub(super) fn bias<'a>(call: &Call<'a>) -> List<'a> {
    optional(call, BIAS)
}

/// An optional list; empty where it counts as not given.
pub(super) fn optional<'a>(call: &Call<'a>, index: usize) -> List<'a> {
    List { tensors: if call.is_absent(index) { &[] } else { call.tensors(index) }, unpacks: false }
}

pub(super) fn out<'a>(call: &Call<'a>) -> List<'a> {
    List { tensors: call.tensors(Places::in_call(call).out), unpacks: false }
}

/// Whether int32 operands stand for int4.
fn unpacks(call: &Call<'_>) -> bool {
    use OperatorId as Id;
    matches!(call.operator, Id::GroupedMatmulV4 | Id::GroupedMatmulV5 | Id::GroupedMatmulWeightNz)
}

fn device_list<'a>(call: &Call<'a>) -> Option<&'a TensorDesc> {
    call.tensor(Places::in_call(call).group_list)
}

/// The group list on the host; an empty one counts as null.
fn host_list<'a>(call: &Call<'a>) -> Option<&'a [i64]> {
    call.ints(Places::in_call(call).group_list).filter(|list| !list.is_empty())
}

/// Entries of the group list; `None` where there is none.
pub(super) fn list_length(call: &Call<'_>) -> Option<i64> {
    let on_host = host_list(call).map(|list| i64::try_from(list.len()).unwrap_or(i64::MAX));
    on_host.or_else(|| Some(device_list(call)?.dim(0)))
}

pub(super) fn list_type(call: &Call<'_>) -> i64 {
    call.int(Places::in_call(call).group_list_type)
}

/// Whether the signature has the group list on the host.
fn on_host(call: &Call<'_>) -> bool {
    matches!(call.operator, OperatorId::GroupedMatmul | OperatorId::GroupedMatmulV2)
}

/// Whether the operator takes every weight for FRACTAL_NZ.
fn forces_nz(call: &Call<'_>) -> bool {
    call.operator == OperatorId::GroupedMatmulWeightNz
}

/// What is divided into groups, as a value of `groupType`.
pub(super) fn grouping(call: &Call<'_>) -> i64 {
    match call.operator {
        OperatorId::GroupedMatmul => implied_group_type(x(call).len(), weight(call).len(), out(call).len()),
        _ => call.int(Places::in_call(call).group_type),
    }
}

/// The FRACTAL_NZ weights.
pub(super) fn packed<'a>(call: &Call<'a>) -> impl Iterator<Item = TensorDesc> + 'a {
    let all = forces_nz(call);
    weight(call).iter().filter(move |weight| all || weight.format == aclFormat::FRACTAL_NZ)
}

/// Each member of `many` with the one of `few` at its place, or with the only one of `few`.
pub(super) fn pair<'a>(few: List<'a>, many: List<'a>) -> impl Iterator<Item = (TensorDesc, TensorDesc)> + 'a {
    let place = move |index| if few.len() == 1 { 0 } else { index };
    (0..many.len()).filter_map(move |index| Some((few.get(place(index))?, many.get(index)?)))
}

fn inner_axis(name: &str, size: i64) -> Checked {
    require(size <= MAX_INNER, || format!("{name} = {size}; the nearest legal value is {MAX_INNER}"))
}

fn ranks(call: &Call<'_>) -> Checked {
    let rank = |name: &str, tensor: &TensorDesc, due: usize| {
        require(tensor.rank() == due, || format!("{name} of shape {} where {due} dimensions are due", tensor.shape))
    };
    let kind = grouping(call);
    let one = weight(call).len() == 1;
    let due = if one && kind != K_GROUPS && kind != UNGROUPED { 3 } else { 2 };
    weight(call).iter().try_for_each(|weight| rank("weight", &weight, due))?;
    if kind == UNGROUPED {
        return pair(x(call), out(call)).try_for_each(|(x, out)| rank("out", &out, x.rank()));
    }
    x(call).iter().try_for_each(|x| rank("x", &x, 2))?;
    let due = if one && kind == K_GROUPS { 3 } else { 2 };
    out(call).iter().try_for_each(|out| rank("out", &out, due))
}

/// Dimension `axis` of all tensors of a list together.
fn total(list: List<'_>, axis: isize) -> i64 {
    list.iter().fold(0i64, |sum, tensor| sum.saturating_add(tensor.dim(axis)))
}

fn k_match(call: &Call<'_>) -> Checked {
    if grouping(call) == K_GROUPS && weight(call).len() > 1 {
        let (due, found) = (x(call).first().map_or(0, |x| x.dim(-1)), total(weight(call), -2));
        return require(found <= due, || format!("weights of K = {found} together for x of K = {due}"));
    }
    pair(x(call), weight(call)).try_for_each(|(x, weight)| {
        require(x.dim(-1) == weight.dim(-2), || format!("x of shape {} with weight of shape {}", x.shape, weight.shape))
    })
}

fn m_match(call: &Call<'_>) -> Checked {
    let rows = |tensor: &TensorDesc| tensor.rank().saturating_sub(1);
    match grouping(call) {
        UNGROUPED => pair(x(call), out(call)).try_for_each(|(x, out)| {
            require(x.shape.get(..rows(&x)) == out.shape.get(..rows(&out)), || {
                format!("out of shape {} for x of shape {}", out.shape, x.shape)
            })
        }),
        K_GROUPS => pair(x(call), out(call)).try_for_each(|(x, out)| {
            require(x.dim(0) == out.dim(-2), || format!("out of shape {} for x of shape {}", out.shape, x.shape))
        }),
        _ => {
            let (due, found) = (total(x(call), 0), total(out(call), 0));
            require(found == due, || format!("{found} rows of out for {due} rows of x"))
        }
    }
}

/// Groups of a call: as many as x or weights, or the first dimension of the only weight, with K groups of the output.
fn groups(call: &Call<'_>) -> i64 {
    let stack = if grouping(call) == K_GROUPS { out(call) } else { weight(call) };
    match x(call).len().max(weight(call).len()) {
        1 if grouping(call) != UNGROUPED => stack.first().map_or(0, |stack| stack.dim(0)),
        lists => i64::try_from(lists).unwrap_or(i64::MAX),
    }
}

fn group_list_ends(call: &Call<'_>) -> Checked {
    let Some(list) = host_list(call) else { return Ok(()) };
    let kind = grouping(call);
    let several = kind != K_GROUPS && (kind == UNGROUPED || x(call).len() > 1 || out(call).len() > 1);
    if !several {
        let due = x(call).first().map_or(0, |x| if kind == K_GROUPS { x.dim(-1) } else { x.dim(0) });
        let last = list.last().copied().unwrap_or(0);
        return require(last == due, || format!("a last group that ends at {last} where {due} is due"));
    }
    let divided = if kind != UNGROUPED && x(call).len() == 1 { out(call) } else { x(call) };
    let mut start = 0i64;
    divided.iter().zip(list).try_for_each(|(tensor, &end)| {
        let (rows, legal) = (end.saturating_sub(start), tensor.rank() == 2);
        start = end;
        require(legal && tensor.dim(0) == rows, || format!("a group of {rows} rows for shape {}", tensor.shape))
    })
}

fn bias_shape(call: &Call<'_>) -> Checked {
    let (bias, weight) = (bias(call), weight(call));
    if bias.is_empty() || grouping(call) == K_GROUPS {
        return Ok(());
    }
    let (given, due) = (bias.len(), weight.len());
    require(given == due, || format!("{given} biases for {due} weights"))?;
    require(bias.iter().count() == given, || "a list with a null member".to_owned())?;
    let entries = list_length(call).unwrap_or(0);
    pair(bias, weight).try_for_each(|(bias, weight)| {
        let legal = match weight.rank() {
            3 => *bias.shape == [entries, weight.dim(-1)],
            _ => *bias.shape == [weight.dim(-1)],
        };
        require(legal, || format!("bias of shape {} for weight of shape {}", bias.shape, weight.shape))
    })
}
