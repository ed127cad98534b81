//! A mixture-of-experts layer in `f64`, written from the formulas alone: slow, plain, and for comparison only.

use ascend_moe::checkpoint::{CheckpointError, HostLayer};
use ascend_moe::spec::{FloatType, GroupScore, Normalise, RouterSpec, Score};

use crate::support::floats;

/// `x` and the result are `[T, H]`.
pub(crate) fn forward(layer: &HostLayer<'_>, x: &[f32]) -> Vec<f64> {
    let spec = layer.spec();
    let (num, hidden, inner) = (spec.experts().num, spec.experts().hidden, spec.experts().intermediate);
    let bytes = spec.weight_bytes(FloatType::F32);
    let router = read(bytes.router, |dst| layer.fill_router(FloatType::F32, dst));
    let bias = read(bytes.choice_bias, |dst| layer.fill_choice_bias(dst));
    let w13 = read(bytes.w13(), |dst| layer.fill_w13(0..num, FloatType::F32, dst));
    let w2 = read(bytes.w2(), |dst| layer.fill_w2(0..num, FloatType::F32, dst));
    let shared_w13 = read(bytes.shared_w13, |dst| layer.fill_shared_w13(FloatType::F32, dst));
    let shared_w2 = read(bytes.shared_w2, |dst| layer.fill_shared_w2(FloatType::F32, dst));
    x.chunks(hidden)
        .flat_map(|x| {
            let x: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
            let mut out = vec![0.0; hidden];
            for (expert, weight) in route(spec.router(), &matvec(&router, &x), &bias) {
                let w13 = &w13[expert * 2 * inner * hidden..][..2 * inner * hidden];
                let y = mlp(w13, &w2[expert * inner * hidden..][..inner * hidden], &x);
                out.iter_mut().zip(y).for_each(|(out, y)| *out += weight * y);
            }
            if !shared_w2.is_empty() {
                out.iter_mut().zip(mlp(&shared_w13, &shared_w2, &x)).for_each(|(out, y)| *out += y);
            }
            out
        })
        .collect()
}

/// Chosen experts and their weights.
fn route(router: &RouterSpec, logits: &[f64], bias: &[f64]) -> Vec<(usize, f64)> {
    let scores: Vec<f64> = match router.score {
        Score::Sigmoid => logits.iter().map(|l| 1.0 / (1.0 + (-l).exp())).collect(),
        Score::Softmax => {
            let sum: f64 = logits.iter().map(|l| l.exp()).sum();
            logits.iter().map(|l| l.exp() / sum).collect()
        }
        other => panic!("{other:?} has no formula here"),
    };
    let mut choice = scores.clone();
    choice.iter_mut().zip(bias).for_each(|(c, b)| *c += b);
    if let Some(groups) = router.groups {
        let size = choice.len() / groups.n_group;
        let group_scores: Vec<f64> = choice
            .chunks(size)
            .map(|group| {
                let best = best(group, 2);
                match groups.score {
                    GroupScore::Top2Sum => best.iter().map(|i| group[*i]).sum(),
                    other => panic!("{other:?} has no formula here"),
                }
            })
            .collect();
        let kept = best(&group_scores, groups.topk_group);
        choice
            .iter_mut()
            .enumerate()
            .filter(|(e, _)| !kept.contains(&(e / size)))
            .for_each(|(_, c)| *c = f64::NEG_INFINITY);
    }
    let chosen = best(&choice, router.top_k);
    let divisor = match router.norm {
        Normalise::Sum { eps } => chosen.iter().map(|e| scores[*e]).sum::<f64>() + eps,
        _ => 1.0,
    };
    chosen.into_iter().map(|e| (e, scores[e] / divisor * router.scale)).collect()
}

/// Indices of the `k` largest, the lower index first where they are equal.
fn best(values: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order.truncate(k);
    order
}

fn mlp(w13: &[f64], w2: &[f64], x: &[f64]) -> Vec<f64> {
    let gate_up = matvec(w13, x);
    let (gate, up) = gate_up.split_at(gate_up.len() / 2);
    let act: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
    matvec(w2, &act)
}

fn matvec(rows: &[f64], x: &[f64]) -> Vec<f64> {
    rows.chunks(x.len()).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
}

fn read(bytes: usize, fill: impl Fn(&mut [u8]) -> Result<(), CheckpointError>) -> Vec<f64> {
    let mut dst = vec![0; bytes];
    fill(&mut dst).unwrap();
    floats(&dst).into_iter().map(f64::from).collect()
}
