//! A mixture-of-experts layer in `f64`, from the formulas alone: slow, plain, and for comparison only. No step is rounded, so
//! the types of the axes of a router are of no account here.

#![allow(dead_code, reason = "each test program uses parts of it")]

use std::collections::BTreeMap;

use ascend_moe::layer::WeightSource;
use ascend_moe::spec::{
    Activation, ActivationFn, Choice, ClampAt, FloatType, GroupFill, GroupScore, MoeSpec, Normalise, Part, Score, Weigh,
};

/// A layer's weights, as f64.
pub(crate) struct Layer {
    spec: MoeSpec,
    parts: BTreeMap<Part, Vec<f64>>,
    /// Experts by token id, `[vocab, k]`.
    table: Vec<i32>,
}

impl Layer {
    /// The weights of a source, each read as f32.
    pub(crate) fn of(source: &dyn WeightSource) -> Self {
        Self::with(source, |_| true)
    }

    /// Those of its router alone.
    pub(crate) fn router_of(source: &dyn WeightSource) -> Self {
        Self::with(source, Part::of_router)
    }

    fn with(source: &dyn WeightSource, wanted: fn(Part) -> bool) -> Self {
        let spec = *source.spec();
        let bytes = |part: Part| {
            let mut bytes = vec![0u8; spec.elements(part) * 4];
            source.fill(part, 0..spec.experts().num, FloatType::F32, &mut bytes).unwrap();
            bytes
        };
        let parts = Part::ALL.into_iter().filter(|&part| wanted(part) && spec.shape(part).is_some());
        let (tables, floats): (Vec<Part>, Vec<Part>) = parts.partition(|part| part.is_integer());
        let table = tables.into_iter().flat_map(bytes).collect::<Vec<u8>>();
        let values = |part: Part| {
            let bytes = bytes(part);
            bytes.as_chunks().0.iter().map(|value| f64::from(f32::from_le_bytes(*value))).collect()
        };
        Self {
            spec,
            parts: floats.into_iter().map(|part| (part, values(part))).collect(),
            table: table.as_chunks().0.iter().map(|id| i32::from_le_bytes(*id)).collect(),
        }
    }

    fn part(&self, part: Part) -> &[f64] {
        self.parts.get(&part).map(Vec::as_slice).unwrap_or_default()
    }

    /// What the logits are made of, `[H]`.
    fn normed(&self, x: &[f64]) -> Vec<f64> {
        let Some(norm) = self.spec.router().input_norm else { return x.to_vec() };
        let mean = x.iter().map(|value| value * value).sum::<f64>() / x.len() as f64;
        let factor = norm.scale / (mean + norm.eps).sqrt();
        x.iter().zip(self.part(Part::RouterNorm)).map(|(value, weight)| value * weight * factor).collect()
    }

    /// What weights are made of, `[R]`.
    pub(crate) fn scores(&self, x: &[f64]) -> Vec<f64> {
        let scale = self.spec.router().logit_scale;
        let mut logits = plus(product(self.part(Part::Router), &self.normed(x)), self.part(Part::LogitBias));
        logits.iter_mut().for_each(|logit| *logit *= scale);
        match self.spec.router().score {
            Score::Softmax => softmax(&logits),
            Score::Sigmoid => logits.into_iter().map(sigmoid).collect(),
            Score::SqrtSoftplus => logits.into_iter().map(|l| l.exp().ln_1p().sqrt()).collect(),
            Score::Logits => logits,
            other => panic!("{other:?} has no formula here"),
        }
    }

    /// What experts are chosen by, `[R]` without those that every token gets.
    pub(crate) fn choice(&self, scores: &[f64]) -> Vec<f64> {
        let candidates = scores.len() - self.spec.router().always;
        plus(scores[..candidates].to_vec(), self.part(Part::ChoiceBias))
    }

    /// The score of each group.
    pub(crate) fn group_scores(choice: &[f64], n_group: usize, score: GroupScore) -> Vec<f64> {
        let of = |group: &[f64]| {
            let best = best(group, 2);
            match score {
                GroupScore::Max => group[best[0]],
                _ => best.iter().map(|&expert| group[expert]).sum(),
            }
        };
        choice.chunks(choice.len() / n_group).map(of).collect()
    }

    /// The same with the experts of all but some groups filled.
    pub(crate) fn filled(choice: &[f64], n_group: usize, fill: GroupFill, kept: impl Fn(usize) -> bool) -> Vec<f64> {
        let fill = if fill == GroupFill::Zero { 0.0 } else { f64::NEG_INFINITY };
        let size = choice.len() / n_group;
        choice.iter().enumerate().map(|(expert, &c)| if kept(expert / size) { c } else { fill }).collect()
    }

    /// Chosen experts, the best first, or as a table has them; behind them those that every token gets.
    pub(crate) fn chosen(&self, choice: &[f64], token_id: Option<i64>) -> Vec<usize> {
        let router = self.spec.router();
        let k = router.top_k;
        match router.choice {
            Choice::TopK => {
                let last = choice.len()..choice.len() + router.always;
                best(choice, k).into_iter().chain(last).collect()
            }
            Choice::Groups(groups) => {
                let scores = Self::group_scores(choice, groups.n_group, groups.score);
                let kept = best(&scores, groups.topk_group);
                best(&Self::filled(choice, groups.n_group, groups.fill, |group| kept.contains(&group)), k)
            }
            Choice::EachGroup { n_group } => {
                let size = choice.len() / n_group;
                let of = |(g, group): (usize, &[f64])| best(group, k / n_group).into_iter().map(move |e| g * size + e);
                choice.chunks(size).enumerate().flat_map(of).collect()
            }
            Choice::Table { .. } => {
                let row = usize::try_from(token_id.unwrap()).unwrap();
                self.table[row * k..][..k].iter().map(|&expert| usize::try_from(expert).unwrap()).collect()
            }
            other => panic!("{other:?} has no formula here"),
        }
    }

    /// The weights of chosen experts.
    pub(crate) fn weights(&self, scores: &[f64], chosen: &[usize]) -> Vec<f64> {
        let factors = self.part(Part::ExpertScale);
        let router = self.spec.router();
        let picked: Vec<f64> = chosen.iter().map(|&expert| scores[expert]).collect();
        let made = match router.weigh {
            Weigh::Score => picked,
            Weigh::Softmax => softmax(&picked),
            Weigh::Sigmoid => picked.into_iter().map(sigmoid).collect(),
            Weigh::SparseMixer { jitter } => sparse_mixer(scores, chosen, jitter),
            other => panic!("{other:?} has no formula here"),
        };
        let sum: f64 = made.iter().sum();
        let divisor = match router.norm {
            Normalise::None => 1.0,
            Normalise::Sum { eps } => sum + eps,
            Normalise::SumFloor { min } => sum.max(min),
            other => panic!("{other:?} has no formula here"),
        };
        let factor = |expert: &usize| if router.expert_scale { factors[*expert] } else { 1.0 };
        let scale = router.scale * if router.weight_scale { self.part(Part::WeightScale)[0] } else { 1.0 };
        made.into_iter().zip(chosen).map(|(weight, e)| weight / divisor * scale * factor(e)).collect()
    }

    /// Chosen experts of a token `x` `[H]` and their weights.
    pub(crate) fn route(&self, x: &[f64], token_id: Option<i64>) -> Vec<(usize, f64)> {
        let scores = self.scores(x);
        let chosen = self.chosen(&self.choice(&scores), token_id);
        let weights = self.weights(&scores, &chosen);
        chosen.into_iter().zip(weights).collect()
    }

    /// What one token `x` `[H]` gets from the experts chosen for it, each with its weight, and from the shared expert.
    pub(crate) fn token(&self, x: &[f64], chosen: &[(usize, f64)]) -> Vec<f64> {
        let experts = self.spec.experts();
        let (width, inner) = (experts.width(), experts.intermediate);
        let first = experts.activation.width(inner);
        let mut entered = if experts.latent.is_some() { product(self.part(Part::LatentIn), x) } else { x.to_vec() };
        if let Some(eps) = experts.latent_norm {
            rms_norm(&mut entered, self.part(Part::LatentNorm), eps);
        }
        let mut out = vec![0.0; width];
        for &(expert, weight) in chosen {
            let part = |part: Part, each: usize| match self.part(part) {
                [] => &[],
                all => &all[expert * each..][..each],
            };
            let by = |factor: f64, values: &[f64]| values.iter().map(|v| v * factor).collect::<Vec<_>>();
            let (before, after) = if experts.weight_on_input { (weight, 1.0) } else { (1.0, weight) };
            let constant = expert.checked_sub(experts.routed() - experts.constant);
            let y = if let Some(constant) = constant {
                let row = |part| &self.part(part)[constant * experts.hidden..][..experts.hidden];
                let [a1, a2, v] = [Part::ConstantAlpha1, Part::ConstantAlpha2, Part::ConstantV].map(row);
                (0..experts.hidden).map(|h| a1[h] * entered[h] + a2[h] * v[h]).collect()
            } else if expert >= experts.num + experts.zero {
                entered.clone()
            } else if expert >= experts.num {
                vec![0.0; width]
            } else {
                let x = by(before, &entered);
                let both = plus(product(part(Part::W13, first * width), &x), part(Part::W13Bias, first));
                let active = activate(&experts.activation, &both);
                let mut y = plus(product(part(Part::W2, width * inner), &active), part(Part::W2Bias, width));
                if let Some(eps) = experts.row_norm {
                    y.iter_mut().zip(self.part(Part::RowNorm)).for_each(|(y, weight)| *y *= weight);
                    rms_norm(&mut y, &vec![1.0; width], eps);
                }
                y
            };
            let after = if expert >= experts.num { weight } else { after };
            out.iter_mut().zip(y).for_each(|(out, y)| *out += after * y);
        }
        if experts.latent.is_some() {
            out = product(self.part(Part::LatentOut), &out);
        }
        out.iter_mut().for_each(|out| *out *= self.spec.router().output_scale);
        if let Some(shared) = self.spec.shared() {
            let active = activate(&shared.activation, &product(self.part(Part::SharedW13), x));
            let gate = if shared.gate { sigmoid(product(self.part(Part::SharedGate), x)[0]) } else { 1.0 };
            let y = product(self.part(Part::SharedW2), &active);
            let mean = if shared.mean { 0.5 } else { 1.0 };
            out.iter_mut().zip(y).for_each(|(out, y)| *out = (*out + gate * y) * mean);
        }
        if let Some(eps) = experts.output_norm {
            rms_norm(&mut out, self.part(Part::OutputNorm), eps);
        }
        out
    }

    /// What tokens `[T, H]` get.
    pub(crate) fn forward(&self, x: &[f32], token_ids: Option<&[i64]>) -> Vec<f64> {
        self.forward_seeing(x, x, token_ids)
    }

    /// The same where the router sees other values than the experts, `[T, H]` too.
    pub(crate) fn forward_seeing(&self, x: &[f32], seen: &[f32], token_ids: Option<&[i64]>) -> Vec<f64> {
        let hidden = self.spec.experts().hidden;
        let wide = |values: &[f32]| values.iter().map(|&value| value.into()).collect::<Vec<f64>>();
        let of = |(token, (x, seen)): (usize, (&[f32], &[f32]))| {
            self.token(&wide(x), &self.route(&wide(seen), token_ids.map(|ids| ids[token])))
        };
        x.chunks(hidden).zip(seen.chunks(hidden)).enumerate().flat_map(of).collect()
    }
}

/// `x / rms(x) * gamma`.
fn rms_norm(x: &mut [f64], gamma: &[f64], eps: f64) {
    let mean = x.iter().map(|value| value * value).sum::<f64>() / x.len() as f64;
    x.iter_mut().zip(gamma).for_each(|(x, gamma)| *x *= gamma / (mean + eps).sqrt());
}

/// The weights of the sparse mixer, choice by choice.
fn sparse_mixer(scores: &[f64], chosen: &[usize], jitter: f64) -> Vec<f64> {
    let weight = |(place, &expert): (usize, &usize)| {
        let best = scores[expert];
        let is_left = |other: usize| !chosen[..place].contains(&other);
        let is_close = |score: f64| (best - score) / score.abs().max(best) <= 2.0 * jitter;
        let close = scores.iter().enumerate().filter(|&(other, &score)| is_left(other) && is_close(score));
        1.0 / close.map(|(_, score)| (score - best).exp()).sum::<f64>()
    };
    chosen.iter().enumerate().map(weight).collect()
}

/// Between the projections of an expert: `[2I]`, gate first, or `[I]`.
fn activate(activation: &Activation, both: &[f64]) -> Vec<f64> {
    let (gate, up) = both.split_at(if activation.gated { both.len() / 2 } else { 0 });
    let limit = |at: ClampAt| match activation.clamp {
        Some(clamp) if clamp.at == at => clamp.limit,
        _ => f64::INFINITY,
    };
    let (before, after) = (limit(ClampAt::Before), limit(ClampAt::After));
    let function = |value: f64| match activation.function {
        ActivationFn::Silu => value * sigmoid(value),
        ActivationFn::GptOss { alpha } => value * sigmoid(alpha * value),
        ActivationFn::Relu2 => value.max(0.0).powi(2),
        ActivationFn::Softcapped { gate, .. } => gate * (value / gate).tanh() * sigmoid(value),
        ActivationFn::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (value + 0.044715 * value.powi(3));
            0.5 * value * (1.0 + inner.tanh())
        }
        other => panic!("{other:?} has no formula here"),
    };
    if !activation.gated {
        return up.iter().map(|&up| function(up)).collect();
    }
    let shift = if let ActivationFn::GptOss { .. } = activation.function { 1.0 } else { 0.0 };
    let cap = |up: f64| match activation.function {
        ActivationFn::Softcapped { up: cap, .. } => cap * (up / cap).tanh(),
        _ => up,
    };
    let pairs = gate.iter().zip(up).map(|(&gate, &up)| (gate.min(before), cap(up.clamp(-before, before))));
    pairs.map(|(gate, up)| function(gate).min(after) * (up.clamp(-after, after) + shift)).collect()
}

/// Rows of the length of `x`, each times `x`.
pub(crate) fn product(rows: &[f64], x: &[f64]) -> Vec<f64> {
    rows.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
}

/// A bias added, where there is one.
fn plus(mut values: Vec<f64>, bias: &[f64]) -> Vec<f64> {
    values.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
    values
}

/// Indices of the `k` largest, the lower index first where they are equal.
pub(crate) fn best(values: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order.truncate(k);
    order
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
