//! Element types of tensors, and which Rust type holds each on the host.

use std::fmt;

use ascend_sys::aclDataType;
use bytemuck::Pod;
use half::{bf16, f16};

use crate::spec::FloatType;

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// The upper half of binary32.
    Bf16,
    /// IEEE 754 binary16.
    F16,
    /// 32-bit signed integer.
    I32,
    /// 64-bit signed integer.
    I64,
    /// 8-bit signed integer.
    I8,
    /// 64-bit unsigned integer.
    U64,
    /// 8-bit unsigned integer.
    U8,
    /// 4-bit signed integer, two's complement; two to a byte, the even one in the low half.
    I4,
    /// One byte, 0 or 1.
    Bool,
}

impl DType {
    /// Every element type.
    pub const ALL: [Self; 10] =
        [Self::F32, Self::Bf16, Self::F16, Self::I32, Self::I64, Self::I8, Self::U64, Self::U8, Self::I4, Self::Bool];

    /// Bits of one element.
    pub const fn bits(self) -> usize {
        match self {
            Self::I64 | Self::U64 => 64,
            Self::F32 | Self::I32 => 32,
            Self::Bf16 | Self::F16 => 16,
            Self::I8 | Self::U8 | Self::Bool => 8,
            Self::I4 => 4,
        }
    }

    /// Bytes of so many elements in a row.
    pub const fn bytes(self, elements: usize) -> usize {
        match self {
            Self::I4 => elements.div_ceil(2),
            _ => elements.saturating_mul(self.bits() / 8),
        }
    }

    /// CANN's value for it.
    pub const fn acl(self) -> aclDataType {
        match self {
            Self::F32 => aclDataType::FLOAT,
            Self::Bf16 => aclDataType::BF16,
            Self::F16 => aclDataType::FLOAT16,
            Self::I32 => aclDataType::INT32,
            Self::I64 => aclDataType::INT64,
            Self::I8 => aclDataType::INT8,
            Self::U64 => aclDataType::UINT64,
            Self::U8 => aclDataType::UINT8,
            Self::I4 => aclDataType::INT4,
            Self::Bool => aclDataType::BOOL,
        }
    }

    /// The element type with this value in CANN; `None` for types that tensors of this crate do not have.
    pub fn from_acl(value: aclDataType) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.acl() == value)
    }

    /// Whether it is a floating-point type.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::Bf16 | Self::F16)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::I8 => "i8",
            Self::U64 => "u64",
            Self::U8 => "u8",
            Self::I4 => "i4",
            Self::Bool => "bool",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<FloatType> for DType {
    fn from(float: FloatType) -> Self {
        match float {
            FloatType::F32 => Self::F32,
            FloatType::F16 => Self::F16,
            FloatType::Bf16 => Self::Bf16,
        }
    }
}

/// A Rust type that holds elements of a tensor on the host.
pub trait Element: Pod + Send + Sync {
    /// The element type it holds. `u8` also holds the bytes of `Bool` and `I4`.
    const DTYPE: DType;

    /// Whether elements of `dtype` may be read and written as this type.
    fn holds(dtype: DType) -> bool {
        dtype == Self::DTYPE || (matches!(dtype, DType::Bool | DType::I4) && Self::DTYPE == DType::U8)
    }
}

macro_rules! elements {
    ($($t:ty => $dtype:ident;)*) => {$(
        impl Element for $t {
            const DTYPE: DType = DType::$dtype;
        }
    )*};
}

elements! {
    f32 => F32;
    bf16 => Bf16;
    f16 => F16;
    i32 => I32;
    i64 => I64;
    i8 => I8;
    u64 => U64;
    u8 => U8;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_cann() {
        for dtype in DType::ALL {
            assert_eq!(dtype.acl().bits(), Some(dtype.bits()), "{dtype}");
            assert_eq!(DType::from_acl(dtype.acl()), Some(dtype));
        }
        assert_eq!(DType::from_acl(aclDataType::DOUBLE), None);
        assert_eq!([DType::I4.bytes(3), DType::I4.bytes(4), DType::U64.bytes(3)], [2, 2, 24]);
    }
}
