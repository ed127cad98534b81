//! Numbers of every dtype on the host: rounding, conversion, and what a result may be.

use ascend_moe::DType;
use half::{bf16, f16};

/// A number of a tensor, exactly; booleans are 0 and 1.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    Float(f32),
    Int(i64),
}

pub(crate) use Number::{Float, Int};

impl Number {
    /// The value, exactly but for integers beyond 2^53.
    pub(crate) fn wide(self) -> f64 {
        match self {
            Float(value) => value.into(),
            Int(value) => value as f64,
        }
    }

    /// The value rounded to f32.
    pub(crate) fn single(self) -> f32 {
        match self {
            Float(value) => value,
            Int(value) => value as f32,
        }
    }

    pub(crate) fn int(self) -> i64 {
        match self {
            Int(value) => value,
            Float(value) => panic!("{value} where a whole number is due"),
        }
    }

    pub(crate) fn is_nan(self) -> bool {
        matches!(self, Float(value) if value.is_nan())
    }

    /// As operators convert: floats to nearest even, integers through f32; to integers toward zero, at most to the ends
    /// of their range, NaN to 0; to booleans whether it is not 0.
    pub(crate) fn to(self, dtype: DType) -> Self {
        match (dtype, self) {
            (DType::Bool, Float(value)) => Int((value != 0.0).into()),
            (DType::Bool, Int(value)) => Int((value != 0).into()),
            (DType::I64, Float(value)) => Int(value as i64),
            (DType::I32, Float(value)) => Int((value as i32).into()),
            (DType::I64, Int(value)) => Int(value),
            (DType::I8, Int(value)) => Int(value.clamp(i8::MIN.into(), i8::MAX.into())),
            (DType::I32, Int(value)) => Int(value.clamp(i32::MIN.into(), i32::MAX.into())),
            (DType::F32, value) => Float(value.single()),
            (DType::Bf16, value) => Float(bf16::from_f32(value.single()).to_f32()),
            (DType::F16, value) => Float(f16::from_f32(value.single()).to_f32()),
            (other, _) => panic!("{other} has no numbers here"),
        }
    }

    /// Equal values, or both NaN.
    pub(crate) fn same(self, other: Self) -> bool {
        match (self, other) {
            (Float(a), Float(b)) => a == b || (a.is_nan() && b.is_nan()),
            (Int(a), Int(b)) => a == b,
            _ => false,
        }
    }
}

/// Distance of 1 in f32 to the next number.
pub(crate) const EPS: f64 = f32::EPSILON as f64;

/// What a result may be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Due {
    /// This number.
    Exactly(Number),
    /// The rounding of a value between two.
    Between(f64, f64),
}

impl Due {
    /// A value known up to an error; what is infinite or no number has none.
    pub(crate) fn near(value: f64, error: f64) -> Self {
        if value.is_finite() { Self::Between(value - error, value + error) } else { Self::Between(value, value) }
    }

    /// The same value in another dtype.
    pub(crate) fn to(self, dtype: DType) -> Self {
        match self {
            Self::Exactly(number) => Self::Exactly(number.to(dtype)),
            Self::Between(low, high) if dtype.is_float() => {
                let round = |value: f64| Float(value as f32).to(dtype).wide();
                Self::Between(round(low), round(high))
            }
            Self::Between(..) => panic!("a float to {dtype}"),
        }
    }

    pub(crate) fn allows(self, found: Number) -> bool {
        match self {
            Self::Exactly(due) => due.same(found),
            Self::Between(low, _) if low.is_nan() => found.is_nan(),
            Self::Between(low, high) => (low..=high).contains(&found.wide()),
        }
    }
}

/// The dtype that two operands are computed in.
pub(crate) fn common(a: DType, b: DType) -> DType {
    match (a, b) {
        _ if a == b => a,
        (DType::F32, _) | (_, DType::F32) => DType::F32,
        _ if a.is_float() && b.is_float() => DType::F32,
        _ if a.is_float() => a,
        _ if b.is_float() => b,
        _ => DType::I64,
    }
}

pub(crate) const FLOATS: &[DType] = &[DType::F32, DType::F16, DType::Bf16];
pub(crate) const NUMBERS: &[DType] = &[DType::F32, DType::F16, DType::Bf16, DType::I32, DType::I64];
pub(crate) const ALL: &[DType] = &[DType::F32, DType::F16, DType::Bf16, DType::I32, DType::I64, DType::Bool];
