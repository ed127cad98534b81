//! Rows of the elementwise operators of ops-math.

use super::check::{carried, operands_broadcast, out_is_broadcast, require, result_dtype, same_shape};
use crate::constants::aclDataType;
use crate::info::OperatorId;
use crate::ops::rule::{Call, Codes, OpRow, Param, Rule};

/// Operands of Add, Mul and Muls on Atlas A3.
pub(super) const NUMBERS: &[aclDataType] = &[
    aclDataType::FLOAT,
    aclDataType::FLOAT16,
    aclDataType::BF16,
    aclDataType::DOUBLE,
    aclDataType::INT8,
    aclDataType::UINT8,
    aclDataType::INT16,
    aclDataType::INT32,
    aclDataType::INT64,
    aclDataType::BOOL,
    aclDataType::COMPLEX64,
    aclDataType::COMPLEX128,
];

/// What Cast converts from and to on Atlas A3.
const CASTABLE: &[aclDataType] = &[
    aclDataType::FLOAT,
    aclDataType::FLOAT16,
    aclDataType::BF16,
    aclDataType::DOUBLE,
    aclDataType::INT8,
    aclDataType::UINT8,
    aclDataType::INT16,
    aclDataType::UINT16,
    aclDataType::INT32,
    aclDataType::UINT32,
    aclDataType::INT64,
    aclDataType::UINT64,
    aclDataType::BOOL,
    aclDataType::COMPLEX64,
    aclDataType::COMPLEX128,
];

/// The last rule of every row here.
const CARRIED_DTYPES: Rule =
    Rule::not_carried("carried-dtypes", "every tensor is FLOAT, FLOAT16, BF16, INT32 or INT64", carried::<1>);

/// Positions of the parameters of `aclnnCast`.
mod cast {
    pub(super) const SELF: usize = 0;
    pub(super) const DTYPE: usize = 1;
    pub(super) const OUT: usize = 2;
}

/// `aclnnCast`: `out = self` in another dtype.
///
/// * `self`: device, any number, `[..]`, any strides, may be empty.
/// * `out`: device, `dtype`, shape of self, any strides.
pub(super) static CAST: OpRow = OpRow {
    operator: OperatorId::Cast,
    codes: Codes::HAND_WRITTEN,
    params: &[Param::input("self_", CASTABLE), Param::value("dtype"), Param::output("out", &[])],
    rules: &[
        Rule::dtype("dtype-argument", "dtype is a real or complex number or BOOL", |call| {
            let dtype = call.dtype(cast::DTYPE);
            require(CASTABLE.contains(&dtype), || format!("dtype {dtype:?}"))
        }),
        Rule::new("out-shape", "out has the shape of self", same_shape::<{ cast::SELF }, { cast::OUT }>),
        Rule::dtype("out-dtype", "out is of the dtype that the call names", |call| match call.tensor(cast::OUT) {
            Some(out) => {
                let dtype = call.dtype(cast::DTYPE);
                require(out.dtype == dtype, || format!("out is {:?} and dtype is {dtype:?}", out.dtype))
            }
            None => Ok(()),
        }),
        CARRIED_DTYPES,
    ],
    source: "ops-math, math/cast (docs, op_api)",
    doubtful: "The op_api does not compare out with dtype before it copies; what the copy answers was not seen.",
};

/// Positions of the parameters of `aclnnAdd`, which are those of `aclnnSub`.
mod add {
    pub(super) const SELF: usize = 0;
    pub(super) const OTHER: usize = 1;
    pub(super) const ALPHA: usize = 2;
    pub(super) const OUT: usize = 3;
}

/// The factor of `other` in a sum or difference.
pub(super) const ALPHA_DTYPE: Rule =
    Rule::dtype("alpha-dtype", "alpha converts to the common dtype of self and other", |call| {
        let (Some(alpha), Some(common)) = (call.scalar(add::ALPHA), common_category(call, add::SELF, add::OTHER))
        else {
            return Ok(());
        };
        let legal = match (category(alpha.dtype), common) {
            (Some(alpha), Category::Bool) => alpha <= Category::Integer,
            (alpha, common) => alpha.is_some_and(|alpha| converts(alpha, common)),
        };
        require(legal, || format!("alpha is {:?} and the operands are {common:?}", alpha.dtype))
    });

/// `aclnnAdd`: `out = self + alpha * other`.
///
/// * `self`, `other`: device, a number, shapes that broadcast, any strides, may be empty.
/// * `alpha`: host scalar.
/// * `out`: device, a dtype that the common dtype of the operands converts to, broadcast shape, any strides.
pub(super) static ADD: OpRow = OpRow {
    operator: OperatorId::Add,
    codes: Codes::HAND_WRITTEN,
    params: &[
        Param::input("self_", NUMBERS),
        Param::input("other", NUMBERS),
        Param::required("alpha"),
        Param::output("out", &[]),
    ],
    rules: &[
        ALPHA_DTYPE,
        Rule::dtype(
            "out-dtype",
            "the common dtype of self and other converts to the dtype of out",
            result_dtype::<{ add::SELF }, { add::OTHER }, { add::OUT }>,
        ),
        Rule::new("broadcast", "self and other broadcast", operands_broadcast::<{ add::SELF }, { add::OTHER }>),
        Rule::new(
            "out-shape",
            "out has the shape that self and other broadcast to",
            out_is_broadcast::<{ add::SELF }, { add::OTHER }, { add::OUT }>,
        ),
        CARRIED_DTYPES,
    ],
    source: "ops-math, math/add (docs, op_api), dtype tables of docs/context; opbase, shape_utils",
    doubtful: "Documents differ in whether a complex number converts to a real one: refused here.",
};

/// Positions of the parameters of `aclnnMul`.
mod mul {
    pub(super) const SELF: usize = 0;
    pub(super) const OTHER: usize = 1;
    pub(super) const OUT: usize = 2;
}

/// `aclnnMul`: `out = self * other`.
///
/// * `self`, `other`: device, a number, shapes that broadcast, any strides, may be empty.
/// * `out`: device, a number that the common dtype of the operands converts to, broadcast shape, any strides.
pub(super) static MUL: OpRow = OpRow {
    operator: OperatorId::Mul,
    codes: Codes::HAND_WRITTEN,
    params: &[Param::input("self_", NUMBERS), Param::input("other", NUMBERS), Param::output("out", NUMBERS)],
    rules: &[
        Rule::dtype(
            "out-dtype",
            "the common dtype of self and other converts to the dtype of out",
            result_dtype::<{ mul::SELF }, { mul::OTHER }, { mul::OUT }>,
        ),
        Rule::new("broadcast", "self and other broadcast", operands_broadcast::<{ mul::SELF }, { mul::OTHER }>),
        Rule::new(
            "out-shape",
            "out has the shape that self and other broadcast to",
            out_is_broadcast::<{ mul::SELF }, { mul::OTHER }, { mul::OUT }>,
        ),
        CARRIED_DTYPES,
    ],
    source: "ops-math, math/mul (op_api), dtype tables of docs/context; opbase, shape_utils",
    doubtful: "Documents differ in whether a complex number converts to a real one: refused here.",
};

/// Positions of the parameters of `aclnnMuls`.
mod muls {
    pub(super) const SELF: usize = 0;
    pub(super) const OTHER: usize = 1;
    pub(super) const OUT: usize = 2;
}

/// `aclnnMuls`: `out = self * other` with a scalar.
///
/// * `self`: device, a number, `[..]`, any strides, may be empty.
/// * `other`: host scalar; a floating-point tensor keeps its dtype whatever the scalar's is (bf16 is computed in fp32).
/// * `out`: device, a number, shape of self, any strides.
pub(super) static MULS: OpRow = OpRow {
    operator: OperatorId::Muls,
    codes: Codes::HAND_WRITTEN,
    params: &[Param::input("self_", NUMBERS), Param::required("other"), Param::output("out", NUMBERS)],
    rules: &[
        Rule::new("out-shape", "out has the shape of self", same_shape::<{ muls::SELF }, { muls::OUT }>),
        CARRIED_DTYPES,
        Rule::not_carried("carried-scalar", "the scalar is a real number or BOOL", |call| {
            match call.scalar(muls::OTHER) {
                Some(other) => require(category(other.dtype).is_some_and(|c| c != Category::Complex), || {
                    format!("a scalar of {:?}", other.dtype)
                }),
                None => Ok(()),
            }
        }),
    ],
    source: "ops-math, math/mul (op_api), dtype tables of docs/context",
    doubtful: "On A3 neither the scalar's dtype nor the conversion of the result to out is checked; what a scalar of \
               no number does was not seen.",
};

/// The kind of number that two operands are computed in: the higher one (ops-nn, docs/context).
pub(super) fn common_category(call: &Call<'_>, a: usize, b: usize) -> Option<Category> {
    Some(category(call.tensor(a)?.dtype)?.max(category(call.tensor(b)?.dtype)?))
}

/// Kinds of numbers, in the order of promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Category {
    Bool,
    Integer,
    Float,
    Complex,
}

pub(super) fn category(dtype: aclDataType) -> Option<Category> {
    use aclDataType as T;
    Some(match dtype {
        T::BOOL => Category::Bool,
        T::INT8 | T::UINT8 | T::INT16 | T::UINT16 | T::INT32 | T::UINT32 | T::INT64 | T::UINT64 => Category::Integer,
        T::FLOAT | T::FLOAT16 | T::BF16 | T::DOUBLE => Category::Float,
        T::COMPLEX32 | T::COMPLEX64 | T::COMPLEX128 => Category::Complex,
        _ => return None,
    })
}

/// Whether numbers of a kind convert to an output of another: BOOL takes only BOOL, reals take no complex numbers,
/// everything else converts (ops-math, docs/context).
pub(super) fn converts(from: Category, to: Category) -> bool {
    match (from, to) {
        (from, Category::Bool) => from == Category::Bool,
        (Category::Complex, to) => to == Category::Complex,
        _ => true,
    }
}
