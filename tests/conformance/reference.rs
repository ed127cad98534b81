//! A mixture-of-experts layer in `f64`, from the formulas alone: slow, plain, and for comparison only.

use ascend_moe::layer::WeightSource;
use ascend_moe::spec::{FloatType, Part};

/// Weights of the experts.
pub(crate) struct Experts {
    pub(crate) hidden: usize,
    pub(crate) inner: usize,
    /// `[E, 2I, H]`, gate rows first.
    pub(crate) w13: Vec<f64>,
    /// `[E, H, I]`.
    pub(crate) w2: Vec<f64>,
    /// `[2S, H]` and `[H, S]`.
    pub(crate) shared: Option<(Vec<f64>, Vec<f64>)>,
}

impl Experts {
    /// The weights of a source, as f32.
    pub(crate) fn of(source: &dyn WeightSource) -> Self {
        let spec = *source.spec();
        let part = |part| read(source, part);
        Self {
            hidden: spec.experts().hidden,
            inner: spec.experts().intermediate,
            w13: part(Part::W13),
            w2: part(Part::W2),
            shared: spec.shared().map(|_| (part(Part::SharedW13), part(Part::SharedW2))),
        }
    }

    /// What one token `x` `[H]` gets from the experts chosen for it, each with its weight, and from the shared expert.
    pub(crate) fn token(&self, x: &[f64], chosen: &[(usize, f64)]) -> Vec<f64> {
        let (w13, w2) = (2 * self.inner * self.hidden, self.inner * self.hidden);
        let mut out = match &self.shared {
            Some((w13, w2)) => mlp(w13, w2, x),
            None => vec![0.0; self.hidden],
        };
        for &(expert, weight) in chosen {
            let y = mlp(&self.w13[expert * w13..][..w13], &self.w2[expert * w2..][..w2], x);
            out.iter_mut().zip(y).for_each(|(out, y)| *out += weight * y);
        }
        out
    }
}

/// A part of a source's weights.
pub(crate) fn read(source: &dyn WeightSource, part: Part) -> Vec<f64> {
    let spec = source.spec();
    let mut values = vec![0f32; spec.elements(part)];
    source.fill(part, 0..spec.experts().num, FloatType::F32, bytemuck::cast_slice_mut(&mut values)).unwrap();
    values.into_iter().map(f64::from).collect()
}

fn mlp(w13: &[f64], w2: &[f64], x: &[f64]) -> Vec<f64> {
    let both = product(w13, x);
    let (gate, up) = both.split_at(both.len() / 2);
    let active: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g * sigmoid(*g) * u).collect();
    product(w2, &active)
}

/// Rows of the length of `x`, each times `x`.
pub(crate) fn product(rows: &[f64], x: &[f64]) -> Vec<f64> {
    rows.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
}

pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

pub(crate) fn softmax(x: &[f64]) -> Vec<f64> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = x.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}
