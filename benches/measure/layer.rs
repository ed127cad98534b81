//! Weights for a layer of a bench.

use std::ops::Range;

use ascend_moe::Result;
use ascend_moe::layer::WeightSource;
use ascend_moe::spec::{FloatType, MoeSpec, Part};
use half::bf16;

/// Weights made from their position: small, of both signs, cheap to make.
pub(crate) struct Made(pub(crate) MoeSpec);

impl Made {
    /// Fills `target` with values of `dtype`.
    pub(crate) fn fill(seed: usize, dtype: FloatType, target: &mut [u8]) {
        for (index, bytes) in target.chunks_exact_mut(dtype.bytes()).enumerate() {
            let mixed = (index + seed).wrapping_mul(0x9E37_79B9) >> 7;
            let value = ((mixed & 0xFF) as f32 - 127.5) / 8192.0;
            match dtype {
                FloatType::F32 => bytes.copy_from_slice(&value.to_le_bytes()),
                _ => bytes.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
            }
        }
    }
}

impl WeightSource for Made {
    fn spec(&self) -> &MoeSpec {
        &self.0
    }

    fn fill(&self, part: Part, experts: Range<usize>, dtype: FloatType, target: &mut [u8]) -> Result<()> {
        Self::fill(1000 * part as usize + experts.start, dtype, target);
        Ok(())
    }
}
