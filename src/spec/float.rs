//! The float types a model is stored and run in.

use std::fmt;

/// A float type of weights and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FloatType {
    /// IEEE 754 binary32, `float32`.
    F32,
    /// IEEE 754 binary16, `float16`.
    F16,
    /// The upper half of binary32, `bfloat16`.
    Bf16,
}

impl FloatType {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The name a `config.json` uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }

    /// The type of this name as a `config.json` writes it, with or without `torch.` in front.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.strip_prefix("torch.").unwrap_or(name);
        [Self::F32, Self::F16, Self::Bf16].into_iter().find(|t| t.name() == name)
    }
}

impl fmt::Display for FloatType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
