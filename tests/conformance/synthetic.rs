//! Layers of any shape with random weights.

use std::collections::BTreeMap;
use std::ops::Range;

use ascend_moe::layer::WeightSource;
use ascend_moe::spec::{FloatType, MoeSpec, Part};
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
    pub(crate) parts: BTreeMap<Part, Vec<f32>>,
}

impl Synthetic {
    pub(crate) fn new(spec: MoeSpec, seed: u64) -> Self {
        let parts = Part::ALL.into_iter().map(|part| {
            let scale = match (part, spec.shape(part).unwrap_or_default().last()) {
                (Part::LogitBias | Part::ChoiceBias | Part::W13Bias | Part::W2Bias, _) | (_, None) => 0.3,
                (_, Some(&inner)) => 3.0 / (inner as f32).sqrt(),
            };
            (part, random(seed.wrapping_mul(16) + part as u64, spec.elements(part), scale))
        });
        Self { spec, parts: parts.collect() }
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

    fn fill(&self, part: Part, experts: Range<usize>, dtype: FloatType, target: &mut [u8]) -> ascend_moe::Result<()> {
        let values = &self.parts[&part];
        if part.is_integer() {
            // Each value is between -scale and scale: its place in that range says which expert.
            let routed = self.spec.experts().routed();
            let k = self.spec.router().top_k;
            for (index, bytes) in target.chunks_exact_mut(4).enumerate() {
                let first = values[index / k * k].to_bits() as usize % routed;
                bytes.copy_from_slice(&(((first + index % k) % routed) as i32).to_le_bytes());
            }
            return Ok(());
        }
        let each = values.len() / self.spec.experts().num;
        fill(if part.per_expert() { &values[experts.start * each..experts.end * each] } else { values }, dtype, target)
    }
}
