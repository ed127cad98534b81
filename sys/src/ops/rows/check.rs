//! What the rows share: dtype lists and the small checks that rules are made of.

use crate::constants::aclDataType;
use crate::ops::desc::{Dims, TensorDesc};
use crate::ops::rule::Call;

pub(super) const FLOATS: &[aclDataType] = &[aclDataType::FLOAT, aclDataType::FLOAT16, aclDataType::BF16];
pub(super) const F32: &[aclDataType] = &[aclDataType::FLOAT];
pub(super) const I32: &[aclDataType] = &[aclDataType::INT32];
pub(super) const I64: &[aclDataType] = &[aclDataType::INT64];

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
