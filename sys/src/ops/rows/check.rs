//! What the rows share: dtype lists and the small checks that rules are made of.

use super::elementwise::{category, common_category, converts};
use crate::constants::{aclDataType, aclFormat};
use crate::ops::desc::{Dims, TensorDesc};
use crate::ops::rule::Call;

pub(super) const FLOATS: &[aclDataType] = &[aclDataType::FLOAT, aclDataType::FLOAT16, aclDataType::BF16];
pub(super) const F32: &[aclDataType] = &[aclDataType::FLOAT];
pub(super) const I32: &[aclDataType] = &[aclDataType::INT32];
pub(super) const I64: &[aclDataType] = &[aclDataType::INT64];

/// What a weight may lie in: the plain formats and the blocks of the cube unit.
pub(super) const WEIGHT_FORMATS: &[aclFormat] = &[
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

/// Sets of tensor dtypes that rows here carry: floats; floats and integers; these and BOOL.
pub(super) const CARRIED: [&[aclDataType]; 3] = [
    FLOATS,
    &[aclDataType::FLOAT, aclDataType::FLOAT16, aclDataType::BF16, aclDataType::INT32, aclDataType::INT64],
    &[
        aclDataType::FLOAT,
        aclDataType::FLOAT16,
        aclDataType::BF16,
        aclDataType::INT32,
        aclDataType::INT64,
        aclDataType::BOOL,
    ],
];

/// One list behind the other: what versions of an operator have in common, and what they have not.
pub(super) const fn joined<T: Copy, const A: usize, const B: usize, const N: usize>(a: [T; A], b: [T; B]) -> [T; N] {
    let mut all = [a[0]; N];
    let mut at = 1;
    while at < N {
        all[at] = if at < A { a[at] } else { b[at - A] };
        at += 1;
    }
    all
}

/// What a rule's check answers.
pub(super) type Checked = Result<(), String>;

/// `Ok` where `legal`, else what was found.
pub(super) fn require(legal: bool, found: impl FnOnce() -> String) -> Checked {
    if legal { Ok(()) } else { Err(found()) }
}

/// The integer at `index` must be one of `legal`.
pub(super) fn one_of(call: &Call<'_>, name: &str, index: usize, legal: &[i64]) -> Checked {
    let value = call.int(index);
    require(legal.contains(&value), || format!("{name} {value}"))
}

/// Two tensors, where both are there, must have one dtype.
pub(super) fn same_dtype(call: &Call<'_>, (a_name, a): (&str, usize), (b_name, b): (&str, usize)) -> Checked {
    match (call.tensor(a), call.tensor(b)) {
        (Some(a), Some(b)) => {
            require(a.dtype == b.dtype, || format!("{a_name} is {:?} and {b_name} is {:?}", a.dtype, b.dtype))
        }
        _ => Ok(()),
    }
}

/// The tensor at `index`, where it is there, must have this shape.
pub(super) fn shape_is(call: &Call<'_>, name: &str, index: usize, shape: &[i64]) -> Checked {
    match call.tensor(index) {
        Some(tensor) => {
            require(*tensor.shape == *shape, || format!("{name} of shape {} where {shape:?} is due", tensor.shape))
        }
        None => Ok(()),
    }
}

/// Dimension `dim` of the tensor at `index`; 0 where there is none.
pub(super) fn dim(call: &Call<'_>, index: usize, dim: isize) -> i64 {
    call.tensor(index).map_or(0, |tensor| tensor.dim(dim))
}

/// The shape two shapes broadcast to: aligned at the last dimension, a dimension of 1 takes the other's size; `None`
/// where they do not fit (opbase, shape_utils).
pub(super) fn broadcast(a: &[i64], b: &[i64]) -> Option<Dims> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let (lead, rest) = long.split_at(long.len() - short.len());
    let fits = rest.iter().zip(short).all(|(&x, &y)| x == y || x == 1 || y == 1);
    let merged = rest.iter().zip(short).map(|(&x, &y)| if x == 1 { y } else { x });
    fits.then(|| Dims::collect(lead.iter().copied().chain(merged))).flatten()
}

/// The members of a list that are there.
pub(super) fn members(list: &[Option<TensorDesc>]) -> impl Iterator<Item = &TensorDesc> {
    list.iter().flatten()
}

/// Every tensor of the call is of a set of [`CARRIED`].
pub(super) fn carried<const SET: usize>(call: &Call<'_>) -> Checked {
    let set = CARRIED.get(SET).copied().unwrap_or_default();
    let lists = (0..call.args.len()).flat_map(|index| call.tensors(index).iter().flatten());
    let mut tensors = (0..call.args.len()).filter_map(|index| call.tensor(index)).chain(lists);
    tensors.try_for_each(|tensor| require(set.contains(&tensor.dtype), || format!("a tensor of {:?}", tensor.dtype)))
}

/// Tensors `A` and `B`, where both are there, have one shape.
pub(super) fn same_shape<const A: usize, const B: usize>(call: &Call<'_>) -> Checked {
    match (call.tensor(A), call.tensor(B)) {
        (Some(a), Some(b)) => require(a.shape == b.shape, || format!("shapes {} and {}", a.shape, b.shape)),
        _ => Ok(()),
    }
}

/// Tensors `A` and `B` broadcast.
pub(super) fn operands_broadcast<const A: usize, const B: usize>(call: &Call<'_>) -> Checked {
    match (call.tensor(A), call.tensor(B)) {
        (Some(a), Some(b)) => {
            require(broadcast(&a.shape, &b.shape).is_some(), || format!("shapes {} and {}", a.shape, b.shape))
        }
        _ => Ok(()),
    }
}

/// Tensor `OUT` has the shape that `A` and `B` broadcast to.
pub(super) fn out_is_broadcast<const A: usize, const B: usize, const OUT: usize>(call: &Call<'_>) -> Checked {
    let (Some(a), Some(b), Some(out)) = (call.tensor(A), call.tensor(B), call.tensor(OUT)) else { return Ok(()) };
    match broadcast(&a.shape, &b.shape) {
        Some(shape) => require(out.shape == shape, || format!("out of shape {} where {shape} is due", out.shape)),
        None => Ok(()),
    }
}

/// The common dtype of tensors `A` and `B` converts to that of `OUT`.
pub(super) fn result_dtype<const A: usize, const B: usize, const OUT: usize>(call: &Call<'_>) -> Checked {
    let (Some(common), Some(out)) = (common_category(call, A, B), call.tensor(OUT)) else { return Ok(()) };
    let legal = category(out.dtype).is_some_and(|out| converts(common, out));
    require(legal, || format!("operands of {common:?} and out of {:?}", out.dtype))
}

/// A dimension named by the integer at `dim`, counted from the end where negative; `None` where tensor `tensor` does not
/// have it. A tensor without dimensions counts as one of one.
pub(super) fn axis(call: &Call<'_>, tensor: usize, dim: i64) -> Option<usize> {
    let rank = i64::try_from(call.tensor(tensor)?.rank()).ok()?.max(1);
    usize::try_from(if dim < 0 { dim + rank } else { dim }).ok().filter(|&axis| (axis as i64) < rank)
}

/// The integer at `DIM` names a dimension of tensor `TENSOR`.
pub(super) fn dim_in_range<const TENSOR: usize, const DIM: usize>(call: &Call<'_>) -> Checked {
    let (dim, rank) = (call.int(DIM), call.tensor(TENSOR).map_or(0, TensorDesc::rank));
    require(call.tensor(TENSOR).is_none() || axis(call, TENSOR, dim).is_some(), || format!("dim {dim} of {rank}"))
}
