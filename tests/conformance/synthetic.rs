//! Layers of any shape with random weights.

use std::ops::Range;

use ascend_moe::layer::WeightSource;
use ascend_moe::spec::{FloatType, MoeSpec};
use half::{bf16, f16};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Uniform values between `-scale` and `scale`.
pub(crate) fn random(seed: u64, count: usize, scale: f32) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-scale..scale)).collect()
}

/// Random weights, large enough that experts differ and small enough that nothing overflows in f16.
pub(crate) struct Synthetic {
    spec: MoeSpec,
    router: Vec<f32>,
    choice_bias: Vec<f32>,
    w13: Vec<f32>,
    w2: Vec<f32>,
    shared_w13: Vec<f32>,
    shared_w2: Vec<f32>,
}

impl Synthetic {
    pub(crate) fn new(spec: MoeSpec, seed: u64) -> Self {
        let bytes = spec.weight_bytes(FloatType::F32);
        let (hidden, inner) = (spec.experts().hidden as f32, spec.experts().intermediate as f32);
        let part = |part: u64, bytes: usize, scale: f32| random(seed.wrapping_mul(8) + part, bytes / 4, scale);
        Self {
            spec,
            router: part(0, bytes.router, 3.0 / hidden.sqrt()),
            choice_bias: part(1, bytes.choice_bias, 0.3),
            w13: part(2, bytes.w13(), 3.0 / hidden.sqrt()),
            w2: part(3, bytes.w2(), 3.0 / inner.sqrt()),
            shared_w13: part(4, bytes.shared_w13, 3.0 / hidden.sqrt()),
            shared_w2: part(5, bytes.shared_w2, 3.0 / inner.sqrt()),
        }
    }

    /// The values of a range of experts.
    fn of<'a>(&self, values: &'a [f32], experts: Range<usize>) -> &'a [f32] {
        let each = values.len() / self.spec.experts().num;
        &values[experts.start * each..experts.end * each]
    }
}

fn fill(values: &[f32], dtype: FloatType, target: &mut [u8]) -> ascend_moe::Result<()> {
    assert_eq!(target.len(), values.len() * dtype.bytes());
    for (bytes, &value) in target.chunks_exact_mut(dtype.bytes()).zip(values) {
        match dtype {
            FloatType::F32 => bytes.copy_from_slice(&value.to_le_bytes()),
            FloatType::F16 => bytes.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
            _ => bytes.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
        }
    }
    Ok(())
}

impl WeightSource for Synthetic {
    fn spec(&self) -> &MoeSpec {
        &self.spec
    }

    fn fill_router(&self, dtype: FloatType, target: &mut [u8]) -> ascend_moe::Result<()> {
        fill(&self.router, dtype, target)
    }

    fn fill_choice_bias(&self, target: &mut [u8]) -> ascend_moe::Result<()> {
        fill(&self.choice_bias, FloatType::F32, target)
    }

    fn fill_w13(&self, experts: Range<usize>, dtype: FloatType, target: &mut [u8]) -> ascend_moe::Result<()> {
        fill(self.of(&self.w13, experts), dtype, target)
    }

    fn fill_w2(&self, experts: Range<usize>, dtype: FloatType, target: &mut [u8]) -> ascend_moe::Result<()> {
        fill(self.of(&self.w2, experts), dtype, target)
    }

    fn fill_shared_w13(&self, dtype: FloatType, target: &mut [u8]) -> ascend_moe::Result<()> {
        fill(&self.shared_w13, dtype, target)
    }

    fn fill_shared_w2(&self, dtype: FloatType, target: &mut [u8]) -> ascend_moe::Result<()> {
        fill(&self.shared_w2, dtype, target)
    }
}
